//! The inodes that the kernel has: it keeps their attributes and pages until it is told otherwise, so whoever wants to
//! change those of a whole folder must know which there are.
//!
//! Must not keep anything alive: numbers only.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::Ino;
use super::mounted::Mounted;

/// Parts with a lock each: lookups of different inodes seldom meet.
const SHARDS: usize = 16;

/// Inodes with the number of references that the kernel holds (`nlookup`).
#[derive(Default)]
pub(super) struct Known {
    shards: [Mutex<HashMap<Ino, u64>>; SHARDS],
}

impl Known {
    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, u64>> {
        &self.shards[(ino % SHARDS as u64) as usize]
    }

    /// The kernel is given the inode once more.
    pub(super) fn add(&self, ino: Ino) {
        *self.shard(ino).lock().entry(ino).or_insert(0) += 1;
    }

    /// The kernel gives `n` references back; whether those were the last.
    pub(super) fn forget(&self, ino: Ino, n: u64) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(count) = shard.get_mut(&ino) else { return false };
        *count = count.saturating_sub(n);
        let last = *count == 0;
        if last {
            shard.remove(&ino);
        }
        last
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
}
