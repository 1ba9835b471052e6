//! Locks of one file as the programs of this mount hold them: who has what, who waits, who is in whose way.
//!
//! The semantics are those of fcntl(2) and flock(2) on Linux. Pure bookkeeping: it asks nobody and calls nobody.

use std::collections::VecDeque;

use crate::format::{LockSet, LockSpace, LockSpan};

/// Who holds a lock, as the kernel tells: a process's table of files, or an open file description.
pub type OwnerId = u64;

/// What one owner has of a file.
struct Owner {
    id: OwnerId,
    /// The process that locked last, for F_GETLK.
    pid: u32,
    /// Another has locked before.
    passed_on: bool,
    /// Handles through which was locked: the last one's release releases.
    handles: Vec<u64>,
    set: LockSet,
}

/// A wish that waits. `D` is what is done when it is decided.
pub struct Waiting<D> {
    /// Number of the request, for interruption.
    pub id: u64,
    /// Whose.
    pub owner: OwnerId,
    /// The process.
    pub pid: u32,
    /// The handle.
    pub fh: u64,
    /// What is wanted.
    pub span: LockSpan,
    /// Until it can be had; otherwise only until it is known whether it can.
    pub wait: bool,
    /// Other members were asked.
    pub asked: bool,
    /// What is done when it is decided.
    pub done: D,
}

/// All locks of a file.
pub struct FileLocks<D> {
    owners: Vec<Owner>,
    /// In the order of coming.
    pub queue: VecDeque<Waiting<D>>,
}

impl<D> Default for FileLocks<D> {
    fn default() -> Self {
        Self { owners: Vec::new(), queue: VecDeque::new() }
    }
}

impl<D> FileLocks<D> {
    /// Nobody holds or waits for anything.
    pub fn is_idle(&self) -> bool {
        self.owners.is_empty() && self.queue.is_empty()
    }

    /// The lock of another owner that keeps `owner` from having `span`: whose, of which process, which.
    pub fn conflict(&self, owner: OwnerId, span: &LockSpan) -> Option<(OwnerId, u32, LockSpan)> {
        let others = self.owners.iter().filter(|other| other.id != owner);
        others.filter_map(|other| Some((other.id, other.pid, other.set.conflict(span)?))).min_by_key(|one| one.2)
    }

    /// All other owners that keep `owner` from having `span`.
    pub fn blockers(&self, owner: OwnerId, span: &LockSpan) -> impl Iterator<Item = OwnerId> {
        let others = self.owners.iter().filter(move |other| other.id != owner);
        others.filter(|other| other.set.conflict(span).is_some()).map(|other| other.id)
    }

    /// Who has locked or wants to with fcntl(2): owner, process, and whether it must be an open file description, since
    /// more than one process has used it, or it has locked with flock(2) too.
    pub fn fcntl_owners(&self) -> impl Iterator<Item = (OwnerId, u32, bool)> {
        let in_space = |one: &Owner, space| one.set.spans().iter().any(|span| span.space == space);
        let holders = self.owners.iter().filter(move |one| in_space(one, LockSpace::Posix));
        let holders = holders.map(move |one| (one.id, one.pid, one.passed_on || in_space(one, LockSpace::Flock)));
        let waiting = self.queue.iter().filter(|waiting| waiting.span.space == LockSpace::Posix);
        holders.chain(waiting.map(|waiting| (waiting.owner, waiting.pid, false)))
    }

    /// What the owner holds.
    pub fn of(&self, owner: OwnerId) -> Option<&LockSet> {
        self.owners.iter().find(|one| one.id == owner).map(|one| &one.set)
    }

    /// What all owners hold together.
    pub fn held(&self) -> LockSet {
        self.held_with(None)
    }

    /// What all hold together once `owner` has `span`.
    pub fn held_after(&self, owner: OwnerId, span: LockSpan) -> LockSet {
        self.held_with(Some((owner, span)))
    }

    fn held_with(&self, change: Option<(OwnerId, LockSpan)>) -> LockSet {
        let mut all = LockSet::default();
        let mut changed = LockSet::default();
        for owner in &self.owners {
            match change {
                Some((id, _)) if id == owner.id => changed = owner.set.clone(),
                // Alone, the common case, it is what it is.
                _ if all.is_empty() => all = owner.set.clone(),
                _ => all.join_all(&owner.set),
            }
        }
        if let Some((_, span)) = change {
            changed.put(span);
            all.join_all(&changed);
        }
        all
    }

    /// The owner has `span` from now on, in the place of what it had there. The caller has seen that nobody is in the way.
    pub fn grant(&mut self, owner: OwnerId, pid: u32, fh: u64, span: LockSpan) {
        let index = self.owners.iter().position(|one| one.id == owner).unwrap_or_else(|| {
            self.owners.push(Owner { id: owner, pid, passed_on: false, handles: Vec::new(), set: LockSet::default() });
            self.owners.len() - 1
        });
        let one = &mut self.owners[index];
        one.passed_on |= one.pid != pid;
        one.pid = pid;
        if !one.handles.contains(&fh) {
            one.handles.push(fh);
        }
        one.set.put(span);
    }

    /// The owner has nothing of the range any more; tells whether it had.
    pub fn unlock(&mut self, owner: OwnerId, space: LockSpace, start: u64, end: u64) -> bool {
        let Some(index) = self.owners.iter().position(|one| one.id == owner) else { return false };
        let one = &mut self.owners[index];
        let probe = LockSpan { space, start, end, exclusive: true };
        if one.set.conflict(&probe).is_none() {
            return false;
        }
        one.set.remove(space, start, end);
        if one.set.is_empty() {
            self.owners.swap_remove(index);
        }
        true
    }

    /// A handle was released; tells whether that released a lock.
    ///
    /// What a process locked it has lost already when one of its descriptors was closed. What is left belongs to the open
    /// file description, which ends now.
    pub fn release_handle(&mut self, fh: u64) -> bool {
        let before = self.owners.len();
        self.owners.retain_mut(|one| {
            one.handles.retain(|handle| *handle != fh);
            !one.handles.is_empty()
        });
        self.owners.len() < before
    }

    /// The owner waits for nothing that is not decided, and who waits for the request is told.
    pub fn take_waiting(&mut self, id: u64) -> Option<Waiting<D>> {
        let index = self.queue.iter().position(|waiting| waiting.id == id)?;
        self.queue.remove(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: u64 = 16;
    const OWNERS: u64 = 3;

    /// For each owner, each space and each byte: nothing, shared, exclusive.
    type Model = [[[u8; BYTES as usize]; 2]; OWNERS as usize];

    #[derive(Debug, Clone)]
    enum Step {
        Lock(u64, LockSpan),
        Unlock(u64, LockSpan),
        /// Through handle = owner number: closes everything of the owner.
        Release(u64),
    }

    fn span() -> impl Strategy<Value = LockSpan> {
        (any::<bool>(), 0..BYTES, 0..BYTES, any::<bool>()).prop_map(|(flock, a, b, exclusive)| match flock {
            true => LockSpan { end: BYTES - 1, ..LockSpan::whole(LockSpace::Flock, exclusive) },
            false => LockSpan { space: LockSpace::Posix, start: a.min(b), end: a.max(b), exclusive },
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..OWNERS, span()).prop_map(|(owner, span)| Step::Lock(owner, span)),
            2 => (0..OWNERS, span()).prop_map(|(owner, span)| Step::Unlock(owner, span)),
            1 => (0..OWNERS).prop_map(Step::Release),
        ]
    }

    proptest! {
        #[test]
        fn locks_are_those_of_a_table_of_bytes(steps in prop::collection::vec(step(), 1..40)) {
            let mut locks = FileLocks::<()>::default();
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Lock(owner, span) => {
                        let range = span.start as usize..=span.end as usize;
                        let space = span.space as usize;
                        let strongest = |other: u64| model[other as usize][space][range.clone()].iter().copied().max();
                        let taken = (0..OWNERS).filter(|other| *other != owner).any(|other| match strongest(other) {
                            Some(2) => true,
                            Some(1) => span.exclusive,
                            _ => false,
                        });
                        let conflict = locks.conflict(owner, &span);
                        prop_assert_eq!(conflict.is_some(), taken);
                        prop_assert_eq!(locks.blockers(owner, &span).count() > 0, taken);
                        if !taken {
                            let after = locks.held_after(owner, span);
                            locks.grant(owner, 100 + owner as u32, owner, span);
                            model[owner as usize][space][range].fill(1 + u8::from(span.exclusive));
                            prop_assert_eq!(locks.held(), after);
                        }
                    }
                    Step::Unlock(owner, span) => {
                        let bytes = &mut model[owner as usize][span.space as usize];
                        let bytes = &mut bytes[span.start as usize..=span.end as usize];
                        let had = bytes.iter().any(|byte| *byte > 0);
                        prop_assert_eq!(locks.unlock(owner, span.space, span.start, span.end), had);
                        bytes.fill(0);
                    }
                    Step::Release(owner) => {
                        let had = model[owner as usize].iter().flatten().any(|byte| *byte > 0);
                        prop_assert_eq!(locks.release_handle(owner), had);
                        model[owner as usize] = Default::default();
                    }
                }
                let mut together = [[0; BYTES as usize]; 2];
                for (space, bytes) in together.iter_mut().enumerate() {
                    for (at, byte) in bytes.iter_mut().enumerate() {
                        *byte = (0..OWNERS as usize).map(|owner| model[owner][space][at]).max().unwrap_or(0);
                    }
                }
                let mut shown = [[0; BYTES as usize]; 2];
                for span in locks.held().spans() {
                    shown[span.space as usize][span.start as usize..=span.end as usize].fill(1 + u8::from(span.exclusive));
                }
                prop_assert_eq!(shown, together);
                prop_assert_eq!(locks.is_idle(), together == [[0; BYTES as usize]; 2]);
            }
        }
    }

    #[test]
    fn a_lock_taken_through_two_handles_lives_until_both_are_released() {
        let mut locks = FileLocks::<()>::default();
        let of = |start| LockSpan { space: LockSpace::Posix, start, end: start, exclusive: true };
        locks.grant(1, 7, 10, of(0));
        locks.grant(1, 7, 11, of(5));
        assert!(!locks.release_handle(10));
        assert_eq!(locks.conflict(2, &of(5)), Some((1, 7, of(5))));
        assert!(locks.release_handle(11));
        assert!(locks.is_idle());
    }
}
