//! Several operations that belong together, made on what was read a while before.
//!
//! Who plans a restoration reads thousands of rows, for seconds in a large folder, while others and programs on this machine
//! go on. A [`Basis`] remembers where the reading began, so that nothing which came since is overwritten unseen: what others
//! wrote makes a conflict, since the operations are based on that position; content that this machine wrote would make none,
//! so the group is refused then ([`ReplicaError::Overtaken`]), and planned again. That holds for what a program has written
//! and the mounted view still keeps in memory too: it would come into the queue after the group, with a length from before it.
//!
//! Must not know what is planned.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ReplicaError;
use super::layer::Fresh;
use super::replica::{Replica, Shared};
use super::state::{State, Tools};
use super::types::Change;
use crate::format::{KegId, Op, OpKind};
use crate::keg::Applied;

/// The moment from which on somebody reads what a group of operations is to be made on. Take it before reading.
pub struct Basis<'a> {
    shared: &'a Shared,
    number: u64,
    seq: u64,
}

impl Basis<'_> {
    /// The newest applied position at that moment.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

impl Drop for Basis<'_> {
    fn drop(&mut self) {
        self.shared.state.write().written_since.remove(&self.number);
    }
}

/// Says of which files content is kept in memory that the queue does not have yet; `None`: it cannot tell now. Asked while
/// the state is locked, so it must not wait for anybody who may be reading this replica.
pub type Unflushed<'a> = dyn Fn() -> Option<HashSet<KegId>> + 'a;

/// What a group came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grouped {
    /// Versions and names that stand beside what others have made meanwhile, under a conflict name.
    pub beside: u64,
    /// Operations that did nothing, since others have changed meanwhile what they are about.
    pub void: u64,
}

impl Replica {
    /// What is read from now on can be the basis of [`Self::submit_all`].
    pub fn basis(&self) -> Basis<'_> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let shared = self.shared();
        let mut state = shared.state.write();
        state.written_since.insert(number, HashSet::new());
        Basis { shared, number, seq: state.head.seq }
    }

    /// Does several things at `at_ns`, one after the other, with nothing else in between: they go into the queue together,
    /// and into as few entries as their size allows. Callbacks are told of the changes, since no kernel has asked for them.
    ///
    /// # Errors
    /// As [`Replica::submit`]. [`ReplicaError::Overtaken`] and those of the format's limits before anything is done; else
    /// what was done before it stays.
    pub fn submit_all(
        &self,
        basis: &Basis<'_>,
        kinds: Vec<OpKind>,
        at_ns: i64,
        unflushed: &Unflushed<'_>,
    ) -> Result<Grouped, ReplicaError> {
        let shared = self.shared();
        shared.journal_works()?;
        let mut changes = Vec::new();
        let mut grouped = Grouped::default();
        let mut result = Ok(());
        {
            let mut state = shared.state.write();
            if state.closed {
                return Err(ReplicaError::Closed);
            }
            if overtaken(&state, basis, &kinds, unflushed) {
                return Err(ReplicaError::Overtaken);
            }
            let ops: Vec<Op> = kinds.into_iter().map(|kind| Op { base: basis.seq, at_ns, kind }).collect();
            ops.iter().try_for_each(Op::check_own)?;
            let tools = shared.tools();
            for op in ops {
                let (kind, applied) = match state.submit(&tools, op.clone(), &Fresh) {
                    Ok((_, applied)) => (op.kind, applied),
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                };
                grouped.beside += u64::from(matches!(applied, Applied::Renamed(_) | Applied::Sibling(_)));
                grouped.void += u64::from(applied == Applied::Nothing);
                // It is queued, and what follows belongs to it.
                result = result.and(told(&state, &tools, &kind, &applied, &mut changes));
            }
        }
        shared.signal.wake();
        shared.notify_change(&changes);
        result.map(|()| grouped)
    }
}

/// Content that one of the operations takes away was written here since, or is about to be.
fn overtaken(state: &State, basis: &Basis<'_>, kinds: &[OpKind], unflushed: &Unflushed<'_>) -> bool {
    let Some(written) = state.written_since.get(&basis.number) else { return true };
    let mut taken = kinds.iter().filter_map(|kind| match kind {
        OpKind::Content { keg, .. } | OpKind::Unlink { keg, .. } => Some(keg),
        OpKind::Rename { target, .. } => target.as_ref(),
        _ => None,
    });
    if taken.clone().next().is_none() {
        return false;
    }
    let Some(unflushed) = unflushed() else { return true };
    taken.any(|keg| written.contains(keg) || state.queue.is_reserved(keg) || unflushed.contains(keg))
}

/// Adds what callbacks are to be told of an operation.
fn told(
    state: &State,
    tools: &Tools<'_>,
    kind: &OpKind,
    applied: &Applied,
    changes: &mut Vec<Change>,
) -> Result<(), ReplicaError> {
    let number = |keg: &KegId| match state.overlay.nodes.get(keg) {
        Some(row) => Ok::<_, ReplicaError>(Some(row.node.ino)),
        None => Ok(tools.base.node(keg)?.map(|row| row.node.ino)),
    };
    match kind {
        OpKind::Content { keg, .. } => changes.extend(number(keg)?.map(Change::Content)),
        OpKind::SetAttr { keg, .. }
        | OpKind::SetXattr { keg, .. }
        | OpKind::RemoveXattr { keg, .. }
        | OpKind::Unlink { keg, .. }
        | OpKind::Link { keg, .. } => changes.extend(number(keg)?.map(Change::Attr)),
        _ => {}
    }
    let mut names = names_of(kind);
    if let Applied::Sibling(keg) = applied {
        names.extend(state.overlay.names(keg));
    }
    for (parent, mut name) in names {
        let Some(parent_ino) = number(&parent)? else { continue };
        changes.push(Change::Attr(parent_ino));
        changes.push(Change::Entry { parent_ino, name: name.clone(), child: None });
        if let Applied::Renamed(other) = applied {
            name.clone_from(other);
            changes.push(Change::Entry { parent_ino, name, child: None });
        }
    }
    Ok(())
}

/// Names that an operation gives or takes.
fn names_of(kind: &OpKind) -> Vec<(KegId, Vec<u8>)> {
    match kind {
        OpKind::Create { parent, name, .. }
        | OpKind::Link { parent, name, .. }
        | OpKind::Unlink { parent, name, .. }
        | OpKind::Restore { parent, name, .. } => vec![(*parent, name.clone())],
        OpKind::Rename { parent, name, new_parent, new_name, .. } => {
            vec![(*parent, name.clone()), (*new_parent, new_name.clone())]
        }
        _ => Vec::new(),
    }
}
