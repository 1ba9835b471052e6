//! The lies that several rows tell.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use kegfs::api::{Appended, ErrorCode, HeadEvent, Letter, MemberBox, Side};
use kegfs::format::{AccountId, BlobId, DbId, SignedAccountEntry, SignedEntry, encode};
use parking_lot::Mutex;

use crate::liar::{Asked, Lie, Reply};

/// The log of every folder is another.
pub struct Log<F>(pub F);

impl<F: Fn(Vec<SignedEntry>) -> Vec<SignedEntry> + Send + Sync + 'static> Lie for Log<F> {
    fn log(&self, _: DbId, truth: Vec<SignedEntry>) -> Vec<SignedEntry> {
        (self.0)(truth)
    }
}

/// An older state of every folder.
pub struct Rollback {
    pub to: u64,
}

impl Lie for Rollback {
    fn log(&self, _: DbId, mut truth: Vec<SignedEntry>) -> Vec<SignedEntry> {
        truth.truncate(usize::try_from(self.to).unwrap());
        truth
    }
}

/// One more entry at the end.
pub struct Append(pub SignedEntry);

impl Lie for Append {
    fn log(&self, _: DbId, mut truth: Vec<SignedEntry>) -> Vec<SignedEntry> {
        truth.push(self.0.clone());
        truth
    }
}

/// The log of one account is another.
pub struct Account<F>(pub AccountId, pub F);

impl<F: Fn(Vec<SignedAccountEntry>) -> Vec<SignedAccountEntry> + Send + Sync + 'static> Lie for Account<F> {
    fn account(&self, account: AccountId, truth: Vec<SignedAccountEntry>) -> Vec<SignedAccountEntry> {
        if account == self.0 { (self.1)(truth) } else { truth }
    }
}

/// Every key box is another.
pub struct Boxes<F>(pub F);

impl<F: Fn(MemberBox) -> MemberBox + Send + Sync + 'static> Lie for Boxes<F> {
    fn key_box(&self, _: DbId, _: u64, truth: MemberBox) -> MemberBox {
        (self.0)(truth)
    }
}

/// Every letter in a mailbox is another.
pub struct Letters<F>(pub F);

impl<F: Fn(Side, Letter) -> Letter + Send + Sync + 'static> Lie for Letters<F> {
    fn letter(&self, side: Side, truth: Letter) -> Letter {
        (self.0)(side, truth)
    }
}

/// Every blob is another, and every range of one.
pub struct Blobs<F>(pub F);

impl<F: Fn(BlobId, Vec<u8>) -> Vec<u8> + Send + Sync + 'static> Lie for Blobs<F> {
    fn blob(&self, blob: BlobId, truth: Vec<u8>) -> Vec<u8> {
        (self.0)(blob, truth)
    }
    fn range(&self, blob: BlobId, _: u64, _: u64, truth: Vec<u8>) -> Vec<u8> {
        (self.0)(blob, truth)
    }
}

/// What matches is refused.
pub struct Refuse<F>(pub F, pub ErrorCode);

impl<F: Fn(&Asked) -> bool + Send + Sync + 'static> Lie for Refuse<F> {
    fn instead(&self, asked: &Asked) -> Option<Reply> {
        (self.0)(asked).then_some(Reply::Refuses(self.1))
    }
}

/// What matches gets this answer.
pub struct Instead<F>(pub F);

impl<F: Fn(&Asked) -> Option<Reply> + Send + Sync + 'static> Lie for Instead<F> {
    fn instead(&self, asked: &Asked) -> Option<Reply> {
        (self.0)(asked)
    }
}

/// A view of one folder that stands still, and of which nothing new is announced.
pub struct Frozen {
    at: Mutex<HashMap<DbId, usize>>,
}

impl Frozen {
    pub fn new() -> Self {
        Self { at: Mutex::default() }
    }
}

impl Lie for Frozen {
    fn log(&self, db: DbId, mut truth: Vec<SignedEntry>) -> Vec<SignedEntry> {
        let at = *self.at.lock().entry(db).or_insert(truth.len());
        truth.truncate(at);
        truth
    }
    fn head(&self, _: HeadEvent) -> Option<HeadEvent> {
        None
    }
}

/// A branch of the log for the clients here: the true log up to `at`, then what they append themselves. Nothing of it
/// reaches the server.
#[derive(Default)]
pub struct Branch {
    at: u64,
    own: std::sync::Arc<Mutex<Vec<SignedEntry>>>,
}

impl Branch {
    /// The lie, and what is appended to it as it comes.
    pub fn after(at: u64) -> (Self, std::sync::Arc<Mutex<Vec<SignedEntry>>>) {
        let branch = Self { at, ..Self::default() };
        let own = std::sync::Arc::clone(&branch.own);
        (branch, own)
    }
}

impl Lie for Branch {
    fn log(&self, _: DbId, mut truth: Vec<SignedEntry>) -> Vec<SignedEntry> {
        truth.truncate(usize::try_from(self.at).unwrap());
        truth.extend(self.own.lock().iter().cloned());
        truth
    }
    fn head(&self, _: HeadEvent) -> Option<HeadEvent> {
        None
    }
    fn instead(&self, asked: &Asked) -> Option<Reply> {
        let Asked::Append { sent, .. } = asked else { return None };
        let mut own = self.own.lock();
        own.push(sent.entry.clone());
        Some(Reply::Says(encode(&Appended { seq: self.at + own.len() as u64 })))
    }
}

/// Acknowledges the next `times` entries as the one after the head and forgets them.
pub struct Swallow {
    pub head: AtomicU64,
    pub times: AtomicU64,
}

impl Lie for Swallow {
    fn instead(&self, asked: &Asked) -> Option<Reply> {
        let Asked::Append { .. } = asked else { return None };
        let take = |left: u64| left.checked_sub(1);
        self.times.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        let seq = self.head.fetch_add(1, Ordering::AcqRel) + 1;
        Some(Reply::Says(encode(&Appended { seq })))
    }
}
