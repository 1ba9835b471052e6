//! Who has locked what, in the words of the command line.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::control::{FolderStatus, LockLine};
use super::output::harmless;
use crate::sync::{Folder, LockInfo, LockReport};

/// How long `kegfs status` waits for the server to tell who has locked what.
const ASK: Duration = Duration::from_secs(1);

/// What is known here.
pub fn known(folder: &Arc<Folder>) -> (Vec<LockLine>, bool) {
    lines(folder.known_locks())
}

/// Asks the server where it can be reached.
pub fn ask(folder: &Arc<Folder>, status: &mut FolderStatus) {
    if status.online {
        (status.locks, status.locks_local_only) = lines(folder.locks_blocking(ASK));
    }
}

fn lines(report: LockReport) -> (Vec<LockLine>, bool) {
    (report.locks.into_iter().map(line).collect(), report.local_only)
}

fn line(lock: LockInfo) -> LockLine {
    let (held, waiting) = (lock.held_words(), lock.waiting_words());
    let (path, holder, mine, broken) = (lock.path, lock.holder, lock.account.is_none(), lock.broken);
    LockLine { path, holder, mine, held, waiting, broken }
}

/// A line for each lock, for people.
pub fn text(folder: &FolderStatus) -> String {
    let mut text = String::new();
    for lock in &folder.locks {
        let path = harmless(&format!("{}/{}", folder.folder.name, lock.path));
        let word = if lock.broken { "BROKEN  " } else { "lock    " };
        let _ = writeln!(text, "{word} {path}: {}", state(lock));
    }
    if folder.locks_local_only {
        text.push_str(
            "         the server cannot be asked: the other members do not see these locks, nor you theirs\n",
        );
    }
    text
}

/// `alice's laptop has flock exclusive, waits for bytes 0-9 shared`
fn state(lock: &LockLine) -> String {
    let mut parts = Vec::new();
    if !lock.held.is_empty() {
        parts.push(format!("has {}", lock.held.join(" and ")));
    }
    if !lock.waiting.is_empty() {
        parts.push(format!("waits for {}", lock.waiting.join(" and ")));
    }
    if lock.broken {
        parts.push("and another member has it too, because the server was out of reach for too long".to_owned());
    }
    format!("{} {}", harmless(&lock.holder), parts.join(", "))
}
