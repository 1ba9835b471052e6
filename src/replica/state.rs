//! What the state lock guards: the pending queue, the overlay that results from it, and the confirmed head.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::base::Base;
use super::layer::{Adopt, Layer};
use super::overlay::Overlay;
use super::{ReplicaError, Standing};
use crate::format::{Head, KegId, Op, OpKind};
use crate::keg::{self, Applied, Context, PENDING_SEQ};

/// A place in the queue.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Content of this file is still being sealed.
    Reserved(KegId),
    /// To be sent.
    Filled(Arc<Op>),
    /// Nothing came of it.
    Void,
}

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) place: Place,
    /// It is in the overlay. Places of one file enter it in order, so a filled one may wait for an earlier one.
    pub(super) applied: bool,
    /// It did nothing when it was applied last. It may do something once others have changed what it is about.
    pub(super) void: bool,
    /// Inode number of the node that it created; 0: none.
    pub(super) ino: u64,
    /// Encoded length, known once it is in the journal.
    pub(super) bytes: u32,
}

/// Places that are reserved for one file, and what must be done again once they are filled.
#[derive(Debug, Default)]
struct Reserved {
    slots: VecDeque<u64>,
    /// `SetAttr` operations submitted meanwhile: a content that is applied late must not undo their times.
    later: Vec<u64>,
}

/// Operations that the server has not sequenced, in the order in which the user made them.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) ops: VecDeque<Queued>,
    /// Number of the first in `ops`.
    pub(super) first: u64,
    /// Everything up to this number is filled.
    pub(super) ready: u64,
    /// Everything up to this number is in the journal.
    pub(super) journaled: u64,
    /// Everything up to this number is in a staged entry.
    pub(super) staged: u64,
    reserved: HashMap<KegId, Reserved>,
}

impl Queue {
    /// An empty queue whose first operation gets number `next`.
    pub(super) fn new(next: u64) -> Self {
        let before = next - 1;
        Self {
            ops: VecDeque::new(),
            first: next,
            ready: before,
            journaled: before,
            staged: before,
            reserved: HashMap::new(),
        }
    }

    /// Number of the last operation queued.
    pub(super) fn last(&self) -> u64 {
        self.first + self.ops.len() as u64 - 1
    }

    pub(super) fn get(&self, number: u64) -> Option<&Queued> {
        self.ops.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Queued> {
        self.ops.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn push(&mut self, place: Place, ino: u64) -> u64 {
        let applied = matches!(place, Place::Filled(_));
        self.ops.push_back(Queued { place, applied, void: false, ino, bytes: 0 });
        self.advance();
        self.last()
    }

    fn advance(&mut self) {
        while self.get(self.ready + 1).is_some_and(|queued| !matches!(queued.place, Place::Reserved(_))) {
            self.ready += 1;
        }
    }

    /// Content of this file is still being sealed.
    pub(super) fn is_reserved(&self, keg: &KegId) -> bool {
        self.reserved.contains_key(keg)
    }

    /// Forgets everything up to `number`.
    pub(super) fn confirm(&mut self, number: u64) {
        while self.first <= number && self.ops.pop_front().is_some() {
            self.first += 1;
        }
        let before = self.first - 1;
        self.ready = self.ready.max(before);
        self.journaled = self.journaled.max(before);
        self.staged = self.staged.max(before);
    }

    /// Everything up to `number` is in the journal; places at the front that came to nothing are done with.
    pub(super) fn set_journaled(&mut self, number: u64) {
        self.journaled = self.journaled.max(number);
        while self.first <= self.journaled && matches!(self.ops.front(), Some(Queued { place: Place::Void, .. })) {
            self.ops.pop_front();
            self.first += 1;
        }
        self.staged = self.staged.max(self.first - 1);
    }
}

/// See the head of this file. One lock for all of it: a reader must never see an operation in the overlay and in the
/// confirmed state, or in neither. It is held for microseconds; no commit happens under it (see [`super::pool`]).
/// Order of locks: writing connection, state, caches and readers; the journal's lock is never held together with it.
pub(super) struct State {
    pub(super) head: Head,
    pub(super) standing: Arc<Standing>,
    pub(super) folder_name: Option<String>,
    /// Confirmed (bytes, files).
    pub(super) usage: (i64, i64),
    pub(super) overlay: Overlay,
    pub(super) queue: Queue,
    /// Files whose content own work has changed since each [`super::group::Basis`] was taken.
    pub(super) written_since: HashMap<u64, HashSet<KegId>>,
    pub(super) closed: bool,
}

/// What applying needs beside the state itself.
pub(super) struct Tools<'a> {
    pub(super) base: Base<'a>,
    pub(super) numbers: &'a AtomicU64,
    pub(super) context: &'a Context,
}

impl State {
    /// Applies an operation of the user to the overlay. `fresh`: the keg that it creates is new.
    fn apply(
        &mut self,
        tools: &Tools<'_>,
        op: &Op,
        number: u64,
        adopt: &dyn Adopt,
        fresh: Option<KegId>,
    ) -> Result<Applied, ReplicaError> {
        let mut layer = Layer {
            overlay: &mut self.overlay,
            base: &tools.base,
            tag: number,
            numbers: tools.numbers,
            adopt,
            absent: std::cell::Cell::new(fresh),
        };
        keg::apply(&mut layer, tools.context, op)
    }

    fn note(&mut self, number: u64, applied: &Applied) {
        if let Some(queued) = self.queue.get_mut(number) {
            queued.void = *applied == Applied::Nothing;
        }
    }

    /// Remembers, for who has taken a basis, that the content of `keg` is another.
    fn written(&mut self, keg: KegId) {
        for written in self.written_since.values_mut() {
            written.insert(keg);
        }
    }

    /// Some pending operation depends on more than the rows that it has touched: it found nothing to do, or it moves
    /// something, which depends on all directories above.
    pub(super) fn depends_on_others(&self) -> bool {
        self.queue.ops.iter().any(|queued| {
            queued.void || matches!(&queued.place, Place::Filled(op) if matches!(op.kind, OpKind::Rename { .. }))
        })
    }

    /// Queues and applies an operation.
    pub(super) fn submit(
        &mut self,
        tools: &Tools<'_>,
        op: Op,
        adopt: &dyn Adopt,
    ) -> Result<(u64, Applied), ReplicaError> {
        let number = self.queue.last() + 1;
        let (created, changed) = match &op.kind {
            OpKind::Create { keg, .. } => (Some(*keg), None),
            OpKind::SetAttr { keg, .. } => (None, Some(*keg)),
            _ => (None, None),
        };
        if let OpKind::Content { keg, .. } = &op.kind {
            self.written(*keg);
        }
        let applied = match self.apply(tools, &op, number, adopt, created) {
            Ok(applied) => applied,
            Err(error) => {
                // Half an operation may be in the overlay.
                self.rebuild(tools)?;
                return Err(error);
            }
        };
        let ino = created.and_then(|keg| self.overlay.nodes.get(&keg)).map_or(0, |row| row.node.ino);
        self.queue.push(Place::Filled(Arc::new(op)), ino);
        self.note(number, &applied);
        if let Some(reserved) = changed.and_then(|keg| self.queue.reserved.get_mut(&keg)) {
            reserved.later.push(number);
        }
        Ok((number, applied))
    }

    /// Keeps a place for content of `keg`.
    pub(super) fn reserve(&mut self, keg: KegId) -> u64 {
        let number = self.queue.push(Place::Reserved(keg), 0);
        self.queue.reserved.entry(keg).or_default().slots.push_back(number);
        number
    }

    /// Fills a place and applies what can be applied by that.
    pub(super) fn fill(&mut self, tools: &Tools<'_>, number: u64, op: Option<Op>) -> Result<(), ReplicaError> {
        let Some(queued) = self.queue.get_mut(number) else { return Err(ReplicaError::NoSuchSlot(number)) };
        let Place::Reserved(keg) = queued.place else { return Err(ReplicaError::NoSuchSlot(number)) };
        queued.place = op.map_or(Place::Void, |op| Place::Filled(Arc::new(op)));
        self.queue.advance();
        self.written(keg);
        let mut result = Ok(());
        while let Some(reserved) = self.queue.reserved.get(&keg) {
            let Some(&slot) = reserved.slots.front() else {
                self.queue.reserved.remove(&keg);
                break;
            };
            let later: Vec<u64> = reserved.later.iter().copied().filter(|later| *later > slot).collect();
            let op = match self.queue.get(slot).map(|queued| queued.place.clone()) {
                Some(Place::Reserved(_)) => break,
                Some(Place::Filled(op)) => Some(op),
                Some(Place::Void) | None => None,
            };
            if let Some(op) = op {
                result = result.and(self.apply_late(tools, slot, &op, &later));
            }
            if let Some(reserved) = self.queue.reserved.get_mut(&keg) {
                reserved.slots.pop_front();
            }
        }
        if result.is_err() {
            self.rebuild(tools)?;
        }
        result
    }

    /// Applies content behind operations that were made after it, so that the result is as if it had come in its place:
    /// what they removed stays removed, and the attributes they set stay.
    fn apply_late(&mut self, tools: &Tools<'_>, number: u64, op: &Op, later: &[u64]) -> Result<(), ReplicaError> {
        if let Some(queued) = self.queue.get_mut(number) {
            queued.applied = true;
        }
        let OpKind::Content { keg, .. } = &op.kind else {
            return self.apply(tools, op, number, &super::layer::Fresh, None).map(|_| ());
        };
        let before = self.overlay.nodes.get(keg).map(|row| row.node.clone());
        let own = |node: &keg::Node| node.removed.as_ref().is_some_and(|removed| removed.stamp.seq == PENDING_SEQ);
        let removed = before.clone().filter(|node| own(node));
        if let Some(node) = &removed {
            let there = keg::Node { removed: None, nlink: 1, ..node.clone() };
            self.overlay.put_node(there, number, || Ok::<_, ReplicaError>(None))?;
        }
        let applied = self.apply(tools, op, number, &super::layer::Fresh, None)?;
        if matches!(applied, Applied::Sibling(_)) {
            // What was done to the file since is for that version.
            return self.rebuild(tools).map(drop);
        }
        self.note(number, &applied);
        if let Some(after) = self.overlay.nodes.get(keg).map(|row| row.node.clone()) {
            let ctime_ns = before.map_or(after.ctime_ns, |before| before.ctime_ns.max(after.ctime_ns));
            let node = match removed {
                Some(node) => keg::Node { removed: node.removed, nlink: node.nlink, ctime_ns, ..after },
                None => keg::Node { ctime_ns, ..after },
            };
            self.overlay.put_node(node, number, || Ok::<_, ReplicaError>(None))?;
        }
        for later in later {
            if let Some(Place::Filled(op)) = self.queue.get(*later).map(|queued| queued.place.clone()) {
                self.apply(tools, &op, *later, &super::layer::Fresh, None)?;
            }
        }
        Ok(())
    }

    /// Counts all reserved places as empty, so that the journal can go on to the end.
    pub(super) fn release_reserved(&mut self) {
        for queued in &mut self.queue.ops {
            if matches!(queued.place, Place::Reserved(_)) {
                queued.place = Place::Void;
            }
        }
        self.queue.reserved.clear();
        self.queue.advance();
    }

    /// Applies all pending operations again over the confirmed state, giving nodes and names the numbers they had.
    /// Returns the overlay before.
    pub(super) fn rebuild(&mut self, tools: &Tools<'_>) -> Result<Overlay, ReplicaError> {
        let old = std::mem::take(&mut self.overlay);
        let ops: Vec<_> = (self.queue.first..)
            .zip(&self.queue.ops)
            .filter_map(|(number, queued)| match &queued.place {
                Place::Filled(op) if queued.applied => Some((number, Arc::clone(op))),
                _ => None,
            })
            .collect();
        let applied = ops.iter().try_for_each(|(number, op)| {
            let applied = self.apply(tools, op, *number, &old, None)?;
            self.note(*number, &applied);
            Ok(())
        });
        match applied {
            Ok(()) => Ok(old),
            Err(error) => {
                self.overlay = old;
                Err(error)
            }
        }
    }
}
