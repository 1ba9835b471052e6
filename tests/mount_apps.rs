//! Real programs living on a mount. The suite runs short versions; `scripts/apps` runs the full sizes
//! (`KEGFS_APPS=full`).

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

#[path = "mount_apps/cargo.rs"]
mod cargo;
#[path = "mount_apps/git.rs"]
mod git;
#[path = "mount_apps/rsync.rs"]
mod rsync;
#[path = "mount_apps/saves.rs"]
mod saves;
#[path = "mount_apps/sqlite.rs"]
mod sqlite;

use std::process::Command;
use std::time::{Duration, Instant};

/// `short` in the suite, `full` in `scripts/apps`.
fn sized<T>(short: T, full: T) -> T {
    if std::env::var("KEGFS_APPS").is_ok_and(|size| size == "full") { full } else { short }
}

/// Until the other member has what was sent.
fn soon() -> Duration {
    sized(Duration::from_secs(30), Duration::from_secs(300))
}

/// Runs a program that must succeed; returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; see scripts/setup"));
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text.into_owned()
}

/// Says how long a step took.
fn step<T>(what: &str, body: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = body();
    println!("{what}: {:.2} s", start.elapsed().as_secs_f64());
    result
}
