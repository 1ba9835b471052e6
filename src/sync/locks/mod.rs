//! Locks across members: what this device holds for its programs, as the server has agreed.
//!
//! A file that nobody else uses is *lent*: everything about it is then decided here, without a round trip, until another
//! member wants something of it. Otherwise the device holds exactly what its programs hold. What it stops holding was
//! first uploaded, if it was held exclusively; who is given it has first applied that. Both is what makes a lock worth
//! something to the programs on both sides.
//!
//! Without a server there is nobody to ask. For one lease after the last answer what is held stays held and what is not
//! has to wait; from then on programs lock among themselves. When the server is back, what they hold is claimed there,
//! and where somebody else has it by then the lock is broken: programs have no way of being told, so it is shown in the
//! status and in the log of events, and the conflict rules keep both versions.
//!
//! | file | |
//! |---|---|
//! | `state` | what is held, wanted and agreed, and what is to be done about it; no clock, no network |
//! | `task` | does it |
//! | `names` | what the server calls a file, and how members find out which it is |
//! | `report` | who holds what, for people |

mod names;
mod report;
mod state;
mod task;
#[cfg(test)]
mod tests;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::api::LockEvent;
use crate::format::{KegId, LockSet, LockSpan};
use crate::sys::clock;

use super::Folder;
use super::session::Inner;

pub use report::{LockInfo, LockReport};
pub use state::Agreed;

use state::State;

/// Who locks: the mount of a folder. Called with no lock held.
pub trait LockNews: Send + Sync {
    /// What may be held of the file is another; of these wishes others have what is in the way.
    fn changed(&self, keg: &KegId, taken: &[LockSpan]);
    /// Brings what was written in the folder, to whichever file, into the journal, then calls `done`, on any thread, even
    /// where that failed: a lock on one file is often for others.
    fn settle(&self, done: Box<dyn FnOnce() + Send>);
}

/// The locks of one folder. The lock on `state` is a leaf.
pub(super) struct Locks {
    state: Mutex<State>,
    news: RwLock<Option<Box<dyn LockNews>>>,
    work: Notify,
    others: Mutex<report::Others>,
}

impl Locks {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State::new(clock::boottime())),
            news: RwLock::default(),
            work: Notify::new(),
            others: Mutex::default(),
        }
    }

    /// Something happened that may be reason to ask the server.
    pub fn wake(&self) {
        self.work.notify_one();
    }

    /// The server can be reached again.
    pub fn reconnected(&self) {
        self.state.lock().reconnected(clock::boottime());
        self.wake();
    }

    fn tell(&self, keg: &KegId, taken: &[LockSpan]) {
        if let Some(news) = &*self.news.read() {
            news.changed(keg, taken);
        }
    }
}

impl Folder {
    /// Who locks from now on.
    pub fn on_locks(&self, news: impl LockNews + 'static) {
        *self.locks.news.write() = Some(Box::new(news));
    }

    /// Programs are to hold `held` of the file; a `newcomer` has held nothing of it so far. Answers from memory.
    pub fn claim_lock(&self, keg: &KegId, held: &LockSet, newcomer: bool) -> Agreed {
        self.locks.state.lock().claim(keg, held, newcomer, clock::boottime())
    }

    /// Programs hold `held` of the file, no more, and want these spans, each with whether they wait for it. Returns at
    /// once; [`LockNews::changed`] tells.
    pub fn want_locks(&self, keg: &KegId, held: &LockSet, wants: &[(LockSpan, bool)]) {
        if self.locks.state.lock().want(keg, held, wants, clock::boottime()) {
            self.locks.wake();
        }
    }
}

impl Inner {
    /// The server says that something changed about a lock.
    pub fn lock_changed(&self, event: LockEvent) {
        if let Some(folder) = self.folders.read().get(&event.db) {
            folder.locks.state.lock().told(&event.token);
            folder.locks.wake();
        }
    }
}
