//! The session's two async runtimes and the one bridge from synchronous callers into them.
//!
//! One runtime follows the log, answers reads and appends; the other moves blobs to the server, on threads that yield
//! to everything the user waits for. Callers of the bridge may be on any thread, one of a runtime included: they wait
//! on a channel, they do not enter a runtime.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use super::SyncError;
use crate::sys::process;

/// Threads that follow, verify and fetch. Verification and decryption of pages run on blocking threads beside them.
const FOREGROUND_THREADS: usize = 2;
/// Threads that upload. One saturates a fast network; two keep TLS of one connection from stopping the others.
const BACKGROUND_THREADS: usize = 2;
/// How long the threads may take to let go of what they are at. Whoever exits earlier takes SQLCipher's heap away from a
/// thread that is closing a database: its library frees that in an exit handler.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How much less the scheduler favours uploads. Enough that a streaming write keeps its pace on two cores.
const BACKGROUND_NICE: i32 = 5;

pub(super) struct Runtimes {
    foreground: Option<Runtime>,
    background: Option<Runtime>,
}

impl Runtimes {
    pub fn new() -> Result<Self, SyncError> {
        let system = |error: std::io::Error| SyncError::System(error.to_string());
        let foreground = named("kegfs-sync", FOREGROUND_THREADS).build().map_err(system)?;
        let background = named("kegfs-upload", BACKGROUND_THREADS)
            .on_thread_start(|| {
                // Uploading at the same priority as the rest is worse, not wrong.
                let _ = process::set_thread_nice(BACKGROUND_NICE);
            })
            .build()
            .map_err(system)?;
        Ok(Self { foreground: Some(foreground), background: Some(background) })
    }

    /// Where everything but uploads runs.
    #[allow(clippy::expect_used)]
    pub fn foreground(&self) -> Handle {
        // Both are taken by `drop` alone, after which nobody has a reference.
        self.foreground.as_ref().expect("runtimes live until dropped").handle().clone()
    }

    /// Where blobs are uploaded.
    #[allow(clippy::expect_used)]
    pub fn background(&self) -> Handle {
        self.background.as_ref().expect("runtimes live until dropped").handle().clone()
    }

    /// Runs `work` on the foreground runtime and waits for its result on this thread.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, SyncError>> + Send + 'static,
    ) -> Result<T, SyncError> {
        run_on(&self.foreground(), work)
    }
}

/// Runs `work` on `runtime` and waits for its result on this thread.
pub(super) fn run_on<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = Result<T, SyncError>> + Send + 'static,
) -> Result<T, SyncError> {
    let (done, result) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        // Nobody listens any more: the caller's thread is gone.
        let _ = done.send(work.await);
    });
    // The channel closes without a result when the runtime shuts down first.
    result.recv().unwrap_or(Err(SyncError::Closed))
}

impl Drop for Runtimes {
    fn drop(&mut self) {
        for runtime in [self.foreground.take(), self.background.take()].into_iter().flatten() {
            match Handle::try_current() {
                // The last reference may be dropped by a task of the runtime itself, which cannot wait for its own end.
                Ok(_) => runtime.shutdown_background(),
                Err(_) => runtime.shutdown_timeout(LAST_WORDS),
            }
        }
    }
}

fn named(name: &'static str, threads: usize) -> Builder {
    let next = AtomicUsize::new(0);
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(threads)
        .max_blocking_threads(8)
        .thread_keep_alive(Duration::from_secs(30))
        .thread_name_fn(move || format!("{name}-{}", next.fetch_add(1, Ordering::Relaxed)))
        .enable_all();
    builder
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_works_from_a_plain_thread_and_from_within_a_runtime() {
        let runtimes = Runtimes::new().unwrap();
        assert_eq!(runtimes.run(async { Ok(1) }).unwrap(), 1);
        let other = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let answer = other.block_on(async { runtimes.run(async { Ok(2) }) });
        assert_eq!(answer.unwrap(), 2);
    }

    #[test]
    fn no_thread_is_at_work_any_more_when_they_are_dropped() {
        struct Slow(std::sync::Arc<AtomicUsize>);
        impl Drop for Slow {
            fn drop(&mut self) {
                std::thread::sleep(Duration::from_millis(200));
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let dropped = std::sync::Arc::new(AtomicUsize::new(0));
        let runtimes = Runtimes::new().unwrap();
        for runtime in [runtimes.foreground(), runtimes.background()] {
            let (slow, (begun, begins)) = (Slow(dropped.clone()), mpsc::channel());
            runtime.spawn(async move {
                begun.send(()).unwrap();
                std::future::pending::<()>().await;
                drop(slow);
            });
            begins.recv().unwrap();
        }
        drop(runtimes);
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn work_that_panics_is_an_error_of_the_caller_and_not_a_hang() {
        let runtimes = Runtimes::new().unwrap();
        let answer = runtimes.run::<()>(async { panic!("planted") });
        assert!(matches!(answer, Err(SyncError::Closed)));
    }
}
