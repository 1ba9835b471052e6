//! Where a folder stands: connection, freshness, what is still to be uploaded.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::format::{AccountId, DbId, Role};
use crate::replica::Behind;
use crate::sys::clock;

/// A folder's state for `kegfs status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The folder.
    pub db: DbId,
    /// Its name.
    pub name: String,
    /// The user's role; `None`: no longer a member.
    pub role: Option<Role>,
    /// Subscribed to the server's push, and everything it announced is applied.
    pub online: bool,
    /// Since when `online` is what it is, milliseconds since 1970 UTC.
    pub since_ms: i64,
    /// Until when the folder is known to be complete, milliseconds since 1970 UTC; `None` while online. Never claimed
    /// later than the last time the server said so.
    pub stale_since_ms: Option<i64>,
    /// Sequence number of the newest entry applied.
    pub head_seq: u64,
    /// Current epoch.
    pub epoch: u32,
    /// Local changes that the server has not sequenced.
    pub pending_ops: u64,
    /// Blobs that wait for upload or for the entry that refers to them.
    pub pending_blobs: u64,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Bytes of ciphertext kept for reading.
    pub cache_bytes: u64,
    /// What went wrong last, for people; `None` after success.
    pub last_error: Option<String>,
    /// Somebody has the key who should not any more; an admin's client is to start a new epoch.
    pub rotation_due: bool,
    /// Guests: end of the user's own membership, milliseconds since 1970 UTC.
    pub expires_ms: Option<i64>,
    /// Why the folder is read-only although the role writes: the server was caught.
    pub frozen: Option<String>,
    /// Members to whom this device seals nothing until the user has decided: account, name, why.
    pub undecided: Vec<(AccountId, String, String)>,
    /// Who could thin out the past, were this machine's clock not behind that of an entry.
    pub clock_behind: Option<Behind>,
    /// When the server said last that there is nothing more, milliseconds since 1970 UTC. That is all that anybody can
    /// know: a server that holds back what others wrote is found out only when something of it shows.
    pub complete_ms: i64,
}

/// The connection of one folder, as the tasks see it.
pub(super) struct Link {
    /// Both the stream lives and the last catch-up after it came up has succeeded.
    online: AtomicBool,
    times: Mutex<Times>,
}

struct Times {
    since_ms: i64,
    complete_ms: i64,
    last_error: Option<String>,
}

impl Link {
    /// Offline, complete as of `complete_ms`.
    pub fn new(complete_ms: i64) -> Self {
        let times = Times { since_ms: now_ms(), complete_ms, last_error: None };
        Self { online: AtomicBool::new(false), times: Mutex::new(times) }
    }

    pub fn online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// The replica has everything up to the server's head as of now; `live`: and will be told of more.
    pub fn complete(&self, live: bool) {
        let now = now_ms();
        let mut times = self.times.lock();
        times.complete_ms = now;
        times.last_error = None;
        if self.online.swap(live, Ordering::AcqRel) != live {
            times.since_ms = now;
        }
    }

    /// The server was heard: while online, every change was told until now.
    pub fn heard(&self) {
        if self.online() {
            self.times.lock().complete_ms = now_ms();
        }
    }

    /// Something is known to be missing, or nothing is known any more.
    pub fn lost(&self, error: Option<String>) {
        let now = now_ms();
        let mut times = self.times.lock();
        if error.is_some() {
            times.last_error = error;
        }
        if self.online.swap(false, Ordering::AcqRel) {
            // Complete until the server was heard last, not until its silence was noticed.
            times.since_ms = now;
        }
    }

    pub fn complete_ms(&self) -> i64 {
        self.times.lock().complete_ms
    }

    pub fn note_error(&self, error: Option<String>) {
        self.times.lock().last_error = error;
    }

    /// `(since, stale since, last error)`.
    pub fn report(&self) -> (i64, Option<i64>, Option<String>) {
        let times = self.times.lock();
        (times.since_ms, (!self.online()).then_some(times.complete_ms), times.last_error.clone())
    }
}

/// Wall-clock time in milliseconds since 1970 UTC.
pub(super) fn now_ms() -> i64 {
    clock::unix_nanos() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_stale_from_the_moment_it_was_last_known_to_be_complete() {
        let link = Link::new(5);
        assert_eq!((link.online(), link.report().1), (false, Some(5)));
        link.complete(true);
        assert_eq!((link.online(), link.report().1), (true, None));
        let heard = link.complete_ms();
        std::thread::sleep(std::time::Duration::from_millis(3));
        link.lost(Some("gone".to_owned()));
        let (since, stale, error) = link.report();
        assert!(stale == Some(heard) && since > heard, "complete until the server was heard, not until it was missed");
        assert_eq!(error.as_deref(), Some("gone"));
        let before = link.report().1;
        link.lost(None);
        assert_eq!(link.report().1, before, "a second loss does not make it fresher");
    }
}
