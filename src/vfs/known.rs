//! The inodes that the kernel has: it keeps their attributes and pages until it is told otherwise, so whoever wants to
//! change those of a whole folder must know which there are.
//!
//! Must not keep anything alive: numbers only.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::Ino;
use super::mounted::Mounted;

/// Parts with a lock each: lookups of different inodes seldom meet.
const SHARDS: usize = 16;

/// What is known of an inode that the kernel has.
#[derive(Default)]
struct Held {
    /// References that the kernel holds (`nlookup`).
    count: u64,
    /// The local user has removed its last name: who has a descriptor of it may still open it.
    removed: bool,
}

/// Inodes that the kernel has.
#[derive(Default)]
pub(super) struct Known {
    shards: [Mutex<HashMap<Ino, Held>>; SHARDS],
}

impl Known {
    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Held>> {
        &self.shards[(ino % SHARDS as u64) as usize]
    }

    /// The kernel is given the inode once more.
    pub(super) fn add(&self, ino: Ino) {
        self.shard(ino).lock().entry(ino).or_default().count += 1;
    }

    /// The local user has removed the last name of the inode, or, not `removed`, it has one again.
    pub(super) fn set_removed(&self, ino: Ino, removed: bool) {
        if let Some(held) = self.shard(ino).lock().get_mut(&ino) {
            held.removed = removed;
        }
    }

    /// The local user has removed the last name of the inode.
    pub(super) fn is_removed(&self, ino: Ino) -> bool {
        self.shard(ino).lock().get(&ino).is_some_and(|held| held.removed)
    }

    /// The kernel gives `n` references back; whether those were the last.
    pub(super) fn forget(&self, ino: Ino, n: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(held) = shard.get_mut(&ino) else { return false };
        held.count = held.count.saturating_sub(n);
        let last = held.count == 0;
        if last {
            shard.remove(&ino);
        }
        last
    }

    /// Indexes of the folders of which the kernel has anything.
    pub(super) fn folders(&self) -> HashSet<u64> {
        let mut folders = HashSet::new();
        for shard in &self.shards {
            folders.extend(shard.lock().keys().map(|ino| Mounted::split(*ino).0));
        }
        folders
    }

    /// Those of the folder with this root; the root too, which the kernel always has where it is that of the mount.
    pub(super) fn of_folder(&self, root: Ino) -> Vec<Ino> {
        let (folder, _) = Mounted::split(root);
        let mut known = vec![root];
        for shard in &self.shards {
            known.extend(shard.lock().keys().filter(|ino| **ino != root && Mounted::split(**ino).0 == folder));
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_known_until_every_reference_is_given_back() {
        let known = Known::default();
        let other = (2 << 40) | 7;
        for ino in [7, 7, 23, other] {
            known.add(ino);
        }
        assert!(!known.forget(7, 1));
        assert!(!known.forget(99, 1));
        let mut here = known.of_folder(1);
        here.sort_unstable();
        assert_eq!(here, [1, 7, 23]);
        assert!(known.forget(7, 1));
        assert!(known.forget(23, 5));
        assert_eq!(known.of_folder(1), [1]);
        assert_eq!(known.of_folder((2 << 40) | 1), [(2 << 40) | 1, other]);
    }

    #[test]
    fn a_removal_is_remembered_for_as_long_as_the_kernel_has_the_inode() {
        let known = Known::default();
        known.add(7);
        known.set_removed(7, true);
        known.set_removed(8, true);
        assert!(known.is_removed(7) && !known.is_removed(8));
        known.set_removed(7, false);
        assert!(!known.is_removed(7));
        known.set_removed(7, true);
        known.forget(7, 1);
        known.add(7);
        assert!(!known.is_removed(7));
    }
}
