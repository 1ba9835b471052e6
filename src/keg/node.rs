//! What a store holds: nodes, names, and the stamps that conflict detection reads.

use crate::format::{DeviceId, KegId, NodeKind};

use super::ROOT_INO;

/// Who changed something last, and at which position of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Position; [`super::PENDING_SEQ`] for what is not sequenced yet.
    pub seq: u64,
    /// The author's device.
    pub device: DeviceId,
}

/// Where a node was before its last name was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Who removed it, when.
    pub stamp: Stamp,
    /// The directory of the last name.
    pub parent: KegId,
    /// The last name.
    pub name: Vec<u8>,
}

/// One keg of the tree. It stays in the store after its last name is gone, since it may come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id, the same for all members.
    pub keg: KegId,
    /// Its inode number, local to the store and stable.
    pub ino: u64,
    /// What it is.
    pub kind: NodeKind,
    /// The twelve mode bits.
    pub mode: u16,
    /// Stored numeric owner.
    pub uid: u32,
    /// Stored numeric group.
    pub gid: u32,
    /// Device number, for devices.
    pub rdev: u32,
    /// Names of a file; 2 and one for each subdirectory of a directory. 0: removed.
    pub nlink: u32,
    /// Length of a file in bytes; of a symlink, that of its target; 0 for others.
    pub size: u64,
    /// Bytes of a file that are data rather than holes: the lengths of its extents.
    pub allocated: u64,
    /// Access time, nanoseconds since 1970 UTC, as last set explicitly.
    pub atime_ns: i64,
    /// Modification time.
    pub mtime_ns: i64,
    /// Change time.
    pub ctime_ns: i64,
    /// Creation time.
    pub btime_ns: i64,
    /// A symlink's target.
    pub target: Vec<u8>,
    /// Last change of the content.
    pub content: Stamp,
    /// Set while `nlink` is 0.
    pub removed: Option<Removed>,
}

impl Node {
    /// The root directory of a new folder.
    pub fn root() -> Self {
        Self {
            keg: KegId::ROOT,
            ino: ROOT_INO,
            kind: NodeKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            nlink: 2,
            size: 0,
            allocated: 0,
            atime_ns: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            btime_ns: 0,
            target: Vec::new(),
            content: Stamp { seq: 0, device: DeviceId::ZERO },
            removed: None,
        }
    }

    /// Is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == NodeKind::Directory
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dentry {
    /// The directory.
    pub parent: KegId,
    /// The name.
    pub name: Vec<u8>,
    /// What it names.
    pub keg: KegId,
    /// Position in listings: above all that were there when the name came, and of no other name, ever. A listing that is
    /// interrupted goes on behind the cookie it has reached. A name whose node is replaced keeps it, unless the node has
    /// several names.
    pub cookie: u64,
    /// The name that was asked for, where a conflict gave another: operations of the same device still use it, until it
    /// has seen what became of the name.
    pub wanted: Option<Vec<u8>>,
    /// Who put the name there, at which position: an operation by someone who had not seen that is not about this name.
    pub placed: Stamp,
}

/// From now on, operations of one device on a keg go to its conflict sibling, as long as they were made before the
/// device had seen the first of the changes that it lost against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The sibling.
    pub to: KegId,
    /// Position of that change: operations with `base` at or above it are for the keg itself again. Below those of the
    /// sibling's own redirects.
    pub seq: u64,
}

/// One step in the history of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentVersion {
    /// Who, when.
    pub stamp: Stamp,
    /// Length after the change.
    pub size: u64,
}
