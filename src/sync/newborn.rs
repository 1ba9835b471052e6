//! New files whose first content is still being written, and where an entry must not end because of them.
//!
//! Others shall not see a new file empty that its writer is about to fill: an editor that saves by creating the file
//! anew would show them nothing where the document was. So the creation of a file and its first content travel in one
//! entry. While the content is being written the creation is held back, and with it what was done later, since the
//! order of the log is the order of what was done; not for longer than [`HOLD`]. An editor may move the old version away
//! right before: that waits too, so that there is always one of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Folder;
use crate::format::{KegId, NodeKind, OpKind};
use crate::replica::Pending;
use crate::sys::clock;

/// How long the creation of a file waits for its writer at most. Programs write a document within milliseconds; who
/// writes for longer (a copy, a download) is seen at work.
const HOLD: Duration = Duration::from_millis(500);

/// The files that are held back.
#[derive(Default)]
pub(super) struct Newborns(Mutex<HashMap<KegId, Instant>>);

impl Newborns {
    /// The file may be written to soon. To be called before its creation is queued.
    pub fn hold(&self, keg: KegId, now: Instant) {
        self.0.lock().insert(keg, now + HOLD);
    }

    /// It was closed without content, or its content is in the journal. Tells whether it was held.
    pub fn let_go(&self, keg: &KegId) -> bool {
        self.0.lock().remove(keg).is_some()
    }

    /// None is held.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Until when the file is held, if it is.
    pub fn held_until(&self, keg: &KegId, now: Instant) -> Option<Instant> {
        let mut held = self.0.lock();
        let until = *held.get(keg)?;
        if until > now {
            return Some(until);
        }
        held.remove(keg);
        None
    }
}

impl Folder {
    /// A file is about to be created, and may be written to soon: until it is let go, or for half a second, others do not
    /// see it without content.
    pub fn hold(&self, keg: KegId) {
        self.newborns.hold(keg, clock::monotonic());
    }

    /// The new file has no content, and none is coming.
    pub fn let_go(&self, keg: &KegId) {
        if self.newborns.let_go(keg) {
            self.upload.notify_one();
        }
    }

    /// Where the first content of a new file is among the journaled operations, nothing is waited for any more.
    pub(super) fn let_filled_go(&self, journaled: &[Pending]) {
        if self.newborns.is_empty() {
            return;
        }
        for pending in journaled {
            if let OpKind::Content { keg, .. } = &pending.op.kind {
                self.newborns.let_go(keg);
            }
        }
    }
}

/// The operations that are to go into an entry, each with what it adds to a list beside them.
pub(super) struct Ready<T> {
    ops: Vec<(T, usize)>,
    /// Creations whose content is not among `ops` (yet), with the places from which on they wait for it.
    empty: HashMap<KegId, usize>,
    /// Names (directory, name) that were given up, with their places.
    left: HashMap<(KegId, Vec<u8>), usize>,
    /// The list beside them is as long as this.
    beside: usize,
}

impl<T> Ready<T> {
    pub fn new() -> Self {
        Self { ops: Vec::new(), empty: HashMap::new(), left: HashMap::new(), beside: 0 }
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Adds the creation of a file under a name of a directory.
    pub fn push_creation(&mut self, op: T, keg: KegId, name: &(KegId, Vec<u8>)) {
        let place = self.left.get(name).copied().unwrap_or(self.ops.len());
        self.empty.insert(keg, place);
        self.push(op, 0);
    }

    /// Adds what takes a file's name away.
    pub fn push_leaving(&mut self, op: T, name: (KegId, Vec<u8>)) {
        self.left.insert(name, self.ops.len());
        self.push(op, 0);
    }

    /// Adds the content of a file.
    pub fn push_content(&mut self, op: T, keg: &KegId, adds: usize) {
        self.empty.remove(keg);
        self.push(op, adds);
    }

    /// Adds something else.
    pub fn push(&mut self, op: T, adds: usize) {
        self.ops.push((op, self.beside));
        self.beside += adds;
    }

    /// Some file's creation is here, and its content may follow.
    pub fn has_empty(&self) -> bool {
        !self.empty.is_empty()
    }

    /// The content of this file comes later: its creation waits for it. The very first operation does not, where the
    /// entry is full: the two do not fit into one.
    pub fn wait_for(&mut self, keg: &KegId, full: bool) {
        if let Some(&place) = self.empty.get(keg)
            && (place > 0 || !full)
        {
            self.cut(place);
        }
    }

    /// The creation of a file under this name is held back: so is what took the name away from another.
    pub fn hold_back(&mut self, name: &(KegId, Vec<u8>)) {
        if let Some(&place) = self.left.get(name) {
            self.cut(place);
        }
    }

    fn cut(&mut self, place: usize) {
        if let Some((_, beside)) = self.ops.get(place) {
            self.beside = *beside;
        }
        self.ops.truncate(place);
        self.empty.retain(|_, at| *at < place);
        self.left.retain(|_, at| *at < place);
    }

    /// The operations, and how much of the list beside them is theirs.
    pub fn done(self) -> (Vec<T>, usize) {
        (self.ops.into_iter().map(|(op, _)| op).collect(), self.beside)
    }
}

impl Ready<Pending> {
    /// Adds an operation, which adds so much to the list beside them.
    pub fn take(&mut self, pending: Pending, adds: usize) {
        let op = Arc::clone(&pending.op);
        match &op.kind {
            OpKind::Create { keg, parent, name, kind: NodeKind::File, .. } => {
                self.push_creation(pending, *keg, &(*parent, name.clone()));
            }
            OpKind::Content { keg, .. } => self.push_content(pending, keg, adds),
            OpKind::Rename { parent, name, .. } | OpKind::Unlink { parent, name, .. } => {
                self.push_leaving(pending, (*parent, name.clone()));
            }
            _ => self.push(pending, adds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keg(n: u8) -> KegId {
        KegId([n; 16])
    }

    #[test]
    fn a_file_is_held_until_it_is_let_go_or_the_time_is_over() {
        let (held, now) = (Newborns::default(), crate::sys::clock::monotonic());
        assert!(held.held_until(&keg(1), now).is_none());
        held.hold(keg(1), now);
        held.hold(keg(2), now);
        assert_eq!(held.held_until(&keg(1), now), Some(now + HOLD));
        assert!(held.let_go(&keg(1)) && !held.let_go(&keg(1)));
        assert!(held.held_until(&keg(1), now).is_none());
        assert!(held.held_until(&keg(2), now + HOLD).is_none(), "not for ever");
        assert!(!held.let_go(&keg(2)));
    }

    #[test]
    fn an_entry_ends_before_a_creation_whose_content_comes_later() {
        let name = |name: &[u8]| (keg(9), name.to_vec());
        let mut ready = Ready::new();
        ready.push("mkdir", 0);
        ready.push_creation("create 1", keg(1), &name(b"1"));
        ready.push_content("content 1", &keg(1), 2);
        ready.push_creation("create 2", keg(2), &name(b"2"));
        ready.push_content("content 0", &keg(0), 1);
        ready.push_creation("create 3", keg(3), &name(b"3"));
        assert!(ready.has_empty());
        ready.wait_for(&keg(1), false);
        ready.wait_for(&keg(0), false);
        assert_eq!(ready.len(), 6, "what is here already, or was made before, waits for nothing");
        ready.wait_for(&keg(2), false);
        assert_eq!(ready.len(), 3);
        ready.wait_for(&keg(3), false);
        assert!(!ready.has_empty());
        assert_eq!(ready.done(), (vec!["mkdir", "create 1", "content 1"], 2));
    }

    #[test]
    fn the_old_version_is_not_moved_away_before_the_new_one_is_there() {
        let name = |name: &[u8]| (keg(9), name.to_vec());
        let saved = || {
            let mut ready = Ready::new();
            ready.push("lock", 0);
            ready.push_leaving("rename x x~", name(b"x"));
            ready
        };
        let mut ready = saved();
        ready.push_creation("create x", keg(1), &name(b"x"));
        ready.wait_for(&keg(1), false);
        assert_eq!(ready.done(), (vec!["lock"], 0));
        let mut ready = saved();
        ready.hold_back(&name(b"y"));
        assert_eq!(ready.len(), 2);
        ready.hold_back(&name(b"x"));
        assert_eq!(ready.done(), (vec!["lock"], 0));
    }

    #[test]
    fn two_that_do_not_fit_into_one_entry_are_sent_in_two() {
        let mut ready = Ready::new();
        ready.push_creation("create", keg(1), &(keg(9), vec![]));
        ready.wait_for(&keg(1), true);
        assert_eq!(ready.len(), 1);
        ready.wait_for(&keg(1), false);
        assert_eq!(ready.done(), (vec![], 0));
    }
}
