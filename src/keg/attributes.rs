//! What a conflict sibling has of the file's attributes: those that its author knew.

use std::collections::BTreeMap;

use crate::format::{DeviceId, KegId};

use super::Node;

/// The attributes of a keg that operations set one by one. Its times of modification and change follow from what is done
/// to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The twelve mode bits.
    pub mode: u16,
    /// Stored numeric owner.
    pub uid: u32,
    /// Stored numeric group.
    pub gid: u32,
    /// Access time.
    pub atime_ns: i64,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    /// Those of the node, with these extended attributes.
    pub fn of(node: &Node, xattrs: BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        Self { mode: node.mode, uid: node.uid, gid: node.gid, atime_ns: node.atime_ns, xattrs }
    }

    /// Takes over what differs between `before` and `after`.
    pub fn take_changes(&mut self, before: &Self, after: &Self) {
        fn take<T: PartialEq + Copy>(mine: &mut T, before: T, after: T) {
            if before != after {
                *mine = after;
            }
        }
        take(&mut self.mode, before.mode, after.mode);
        take(&mut self.uid, before.uid, after.uid);
        take(&mut self.gid, before.gid, after.gid);
        take(&mut self.atime_ns, before.atime_ns, after.atime_ns);
        for name in before.xattrs.keys().filter(|name| !after.xattrs.contains_key(*name)) {
            self.xattrs.remove(name);
        }
        for (name, value) in after.xattrs.iter().filter(|(name, value)| before.xattrs.get(*name) != Some(*value)) {
            self.xattrs.insert(name.clone(), value.clone());
        }
    }
}

/// Which attributes of a file an author knew: those just before a position, with what the author's own entries have
/// changed since.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The file.
    pub keg: &'a KegId,
    /// The position, above `horizon`.
    pub before: u64,
    /// The author's device.
    pub device: &'a DeviceId,
    /// See [`super::Context::horizon`].
    pub horizon: u64,
}
