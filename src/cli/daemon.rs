//! The background process: starting it, and being it.
//!
//! It is this program again, started anew rather than forked, so that it inherits no memory of the
//! command that started it. The keys reach it through a pipe; its arguments name the profile only.
//! It ends after the last unmount, whoever made it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::control::Server;
use super::engine::{Engine, Serving};
use super::failure::{Code, Failure};
use super::log;
use super::profile::Profile;
use crate::keyring::Identity;
use crate::sys::secret::LockedBytes;
use crate::sys::{descriptors, process, threads};

/// How long a new process waits for the profile: its predecessor may be on its way out.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// No identity is longer; see the keystore.
const MOST_IDENTITY_BYTES: u64 = 8 << 20;
/// jemalloc's settings: freed memory goes back to the system within a second, so that streaming
/// gigabytes through a mount leaves no more behind than its buffers (the bound is 400 MB); few
/// arenas, because each keeps free pages of its own; large buffers at page boundaries, from where
/// they are written to the disk without a copy (`sys::bulk`).
const ALLOCATOR: &str = "narenas:4,cache_oblivious:false,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true";
/// The name under which jemalloc, as built here, looks for its settings.
const ALLOCATOR_VARIABLE: &str = "_RJEM_MALLOC_CONF";

/// The one line that a new background process says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Started {
    Ready,
    Failed(Failure),
}

/// Starts the background process of `profile` with `identity`; returns when it listens.
///
/// # Errors
/// Its own reason for not starting.
pub fn start(profile: &Profile, identity: &Identity) -> Result<(), Failure> {
    let failed =
        |what: &str, error: &io::Error| Failure::new(Code::Failure, format!("the background process {what}: {error}"));
    let program = std::env::current_exe().map_err(|error| failed("cannot be found", &error))?;
    // What the shell opened for this command (a passphrase's descriptor, a pipe) is not for the other.
    descriptors::close_on_exec_from(3).map_err(|error| failed("cannot be separated", &error))?;
    let mut command = Command::new(program);
    command.arg("--profile").arg(profile.dir()).arg("daemon");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    if std::env::var_os(ALLOCATOR_VARIABLE).is_none() {
        command.env(ALLOCATOR_VARIABLE, ALLOCATOR);
    }
    let mut child = command.spawn().map_err(|error| failed("cannot be started", &error))?;
    hand_over(&mut child, identity).map_err(|error| failed("did not take the keys", &error))?;
    let mut line = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(1 << 16).read_to_end(&mut line).map_err(|error| failed("said nothing", &error))?;
    }
    match serde_json::from_slice(&line) {
        Ok(Started::Ready) => Ok(()),
        Ok(Started::Failed(failure)) => Err(failure),
        Err(_) => Err(Failure::new(
            Code::Failure,
            format!("the background process ended at its start; its log is {}", profile.log().display()),
        )),
    }
}

fn hand_over(child: &mut Child, identity: &Identity) -> io::Result<()> {
    let mut pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    match pipe.write_all(&identity.to_bytes()) {
        // It ended early, and says why on its standard output.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Being the background process: takes the keys from standard input, serves until nobody needs it.
///
/// # Errors
/// None that anybody would see: they go to the starting command.
pub fn run(profile: &Profile) -> Result<(), Failure> {
    let opened = open(profile);
    let (engine, server, _lock) = match opened {
        Ok(parts) => parts,
        Err(failure) => {
            report(&Started::Failed(failure.clone()));
            return Err(failure);
        }
    };
    let serving = Serving::new(engine.clone());
    let revoked = serving.clone();
    engine.on_revoked(Box::new(move || revoked.ask_to_end()));
    let begun = watch_signals(serving.clone())
        .and_then(|()| server.serve(serving.clone()))
        .map_err(|error| Failure::new(Code::Failure, format!("the background process cannot serve: {error}")));
    if let Err(failure) = begun {
        report(&Started::Failed(failure.clone()));
        return Err(failure);
    }
    report(&Started::Ready);
    detach();
    tracing::info!("started");
    serving.wait();
    // New commands find no socket from here on and start a process of their own, which waits for the lock.
    drop(server);
    engine.end();
    tracing::info!("ended");
    Ok(())
}

type Parts = (Arc<Engine>, Server, crate::sys::files::FileLock);

fn open(profile: &Profile) -> Result<Parts, Failure> {
    // A session of its own: the terminal's signals are for the command that started it.
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let failed = |what: &str, error: &io::Error| Failure::io(what, profile.dir(), error);
    process::harden().map_err(|error| failed("protecting the process's memory", &error))?;
    // Better with many descriptors, possible without.
    let _ = process::raise_nofile_limit();
    let identity = take_identity()?;
    let lock = profile.lock(LOCK_PATIENCE)?;
    log::start(&profile.log(), std::env::var_os("KEGFS_LOG").is_some_and(|level| level == "debug"))
        .map_err(|error| Failure::io("opening the log", &profile.log(), &error))?;
    let config = profile.config()?;
    let engine = Engine::open(profile, config, identity)?;
    let server = Server::bind(&profile.socket())
        .map_err(|error| Failure::io("listening on the control socket", &profile.socket(), &error))?;
    Ok((engine, server, lock))
}

fn take_identity() -> Result<Identity, Failure> {
    let unusable = |reason: &dyn std::fmt::Display| {
        Failure::new(
            Code::Usage,
            format!("`kegfs daemon` is started by `kegfs mount`, which hands it the keys ({reason})"),
        )
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 << 16));
    io::stdin().lock().take(MOST_IDENTITY_BYTES).read_to_end(&mut bytes).map_err(|error| unusable(&error))?;
    let locked = LockedBytes::take(&mut bytes).map_err(|error| unusable(&error))?;
    Identity::from_bytes(&locked).map_err(|error| unusable(&error))
}

/// Says the one line and closes standard output, which tells the starting command to read no further.
fn report(started: &Started) {
    let mut out = io::stdout().lock();
    // Without a reader the process is useless and ends by itself when nobody mounts.
    let _ = serde_json::to_writer(&mut out, started).map_err(io::Error::from).and_then(|()| out.flush());
}

/// Lets go of what belongs to the starting command: its directory, its standard streams.
fn detach() {
    let _ = std::env::set_current_dir(Path::new("/"));
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// SIGTERM, SIGINT and SIGHUP flush, unmount and end. A second one while that takes its time does no more.
fn watch_signals(serving: Arc<Serving>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (registered, outcome) = std::sync::mpsc::sync_channel(1);
    threads::spawn("kegfs-signals", move || {
        runtime.block_on(async move {
            use tokio::signal::unix::{SignalKind, signal};
            let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
            let streams = kinds.map(signal);
            let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = streams else {
                let _ = registered.send(Err(io::Error::other("signals cannot be watched")));
                return;
            };
            let _ = registered.send(Ok(()));
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hangup.recv() => {}
                }
                tracing::info!("asked to end by a signal");
                serving.ask_to_end();
            }
        });
    })?;
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("signals cannot be watched")))
}
