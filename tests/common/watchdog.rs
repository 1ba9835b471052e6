//! Nothing may hang: a watchdog knows what every thread of a test is doing, and when one thing takes too long it prints
//! what all are doing, with what the kernel says about them, ends the clients, and the test has failed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What one thread does since when; its number for the kernel.
struct Doing {
    what: String,
    since: Instant,
    thread: i32,
}

#[derive(Default)]
struct Shared {
    doing: Mutex<BTreeMap<u64, Doing>>,
    next: AtomicU64,
    done: AtomicU64,
    over: AtomicBool,
    stuck: Mutex<Option<String>>,
}

/// See the head of this file.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches until it is dropped. Where something takes longer than `limit`, the processes `clients` are killed, so
    /// that the system calls stuck in their mounts return.
    pub fn start(limit: Duration, clients: Vec<u32>) -> Self {
        let shared = Arc::<Shared>::default();
        let watched = shared.clone();
        let thread = std::thread::spawn(move || {
            while !watched.over.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(50));
                let stuck = watched.doing.lock().unwrap().values().any(|doing| doing.since.elapsed() > limit);
                if stuck {
                    let report = watched.report(&clients);
                    eprintln!("{report}");
                    *watched.stuck.lock().unwrap() = Some(report);
                    for pid in &clients {
                        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
                    }
                    return;
                }
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Does something that is watched.
    pub fn doing<T>(&self, what: impl Into<String>, body: impl FnOnce() -> T) -> T {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let doing = Doing { what: what.into(), since: Instant::now(), thread: nix::unistd::gettid().as_raw() };
        self.shared.doing.lock().unwrap().insert(number, doing);
        let result = body();
        self.shared.doing.lock().unwrap().remove(&number);
        self.shared.done.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// How much was done.
    pub fn count(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Fails the test if something was stuck.
    pub fn check(&self) {
        if let Some(report) = &*self.shared.stuck.lock().unwrap() {
            panic!("{report}");
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn report(&self, clients: &[u32]) -> String {
        let mut report = String::from("stuck:\n");
        for doing in self.doing.lock().unwrap().values() {
            let seconds = doing.since.elapsed().as_secs_f32();
            let _ = writeln!(report, "  {seconds:6.1} s  {}  (in {})", doing.what, kernel("self", doing.thread));
        }
        for pid in clients {
            let _ = writeln!(report, "client {pid}:");
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let Ok(thread) = task.file_name().to_string_lossy().parse() else { continue };
                let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                let _ = writeln!(report, "  {:16} in {}", name.trim(), kernel(&pid.to_string(), thread));
            }
        }
        report
    }
}

/// Where the thread is in the kernel: its stack for root, otherwise the function that it waits in.
fn kernel(process: &str, thread: i32) -> String {
    let read = |what: &str| fs::read_to_string(format!("/proc/{process}/task/{thread}/{what}")).unwrap_or_default();
    let stack = read("stack");
    let frames: Vec<_> = stack.lines().filter_map(|line| line.split_whitespace().last()).take(8).collect();
    if frames.is_empty() { read("wchan") } else { frames.join(" < ") }
}

/// A storm's length: a few seconds in the suite, `KEGFS_STORM_SECONDS` where it is set.
pub fn storm_time() -> Duration {
    let seconds = std::env::var("KEGFS_STORM_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(3))
}
