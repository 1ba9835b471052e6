//! One folder in a mount: its number, its write permission, the translation of inode numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::format::{BlobId, DbId, KegId};
use crate::keg::{Node, ROOT_INO};
use crate::sys::clock;

use super::keg_dir::Numbers;
use super::nameless::Nameless;
use super::{Attr, FolderSource, Ino, ReadOnlyReason, VfsError, VfsOptions};

/// Bits of an inode number that are the folder's own.
const LOCAL_BITS: u32 = 40;
/// Numbers from here on are of what is in `.keg`. A replica counts up from 1 and has given fewer than a billion when it
/// fills a disk.
pub(super) const KEG_BASE: u64 = 1 << (LOCAL_BITS - 1);
/// Largest index of a folder: inode numbers stay positive for programs that read them as signed.
const INDEX_MAX: u64 = (1 << (63 - LOCAL_BITS)) - 1;
/// Kernel validity while the server's push tells of every change. An hour would do as well; a minute bounds the harm of
/// a lost notification.
const TTL_ONLINE: Duration = Duration::from_secs(60);
/// Without push, somebody else's changes arrive by polling: then the kernel asks again soon.
const TTL_OFFLINE: Duration = Duration::from_secs(1);

/// A folder and its place in the mount.
pub(super) struct Mounted {
    pub source: Arc<dyn FolderSource>,
    /// 0 when it is the whole mount.
    index: u64,
    /// Taken from looking whether a name is free until the operation is queued. Order: this lock, then the inode
    /// table, then one inode's state; nothing is asked of the network under any of them.
    pub names: Mutex<()>,
    gone: AtomicBool,
    /// Counts changes made by others: an answer that was collected while it moved is not to be cached.
    pub foreign: AtomicU64,
    /// Counts content changes that have moved from memory to the source.
    pub fills: AtomicU64,
    /// Counts files of which the local user has removed the last name: who looked at one before may have to look again.
    pub removals: AtomicU64,
    /// Blobs spooled since the last sync.
    pub unsynced: Mutex<Vec<BlobId>>,
    /// Spooled blobs that no operation names and nothing refers to any more, and since when.
    orphans: Mutex<Vec<(Instant, BlobId)>>,
    /// What is in `.keg`, by number.
    pub keg: Numbers,
    /// Files that have no name yet.
    pub nameless: Nameless,
    /// For another state of a folder: that folder, and the number of the directory in its `.keg`.
    within: Option<(Arc<Mounted>, u64)>,
}

impl Mounted {
    pub(super) fn new(source: Arc<dyn FolderSource>, index: u64) -> Arc<Self> {
        Self::placed(source, index, None)
    }

    /// Nothing refers to a spooled blob any more, and no operation ever named it.
    pub(super) fn orphaned(&self, blob: BlobId) {
        self.orphans.lock().push((clock::monotonic(), blob));
    }

    /// Takes orphans out of the spool that have been ones for `age`. One that cannot be removed goes when the folder
    /// is opened the next time.
    pub(super) fn discard_orphans(&self, age: Duration) {
        let now = clock::monotonic();
        let old: Vec<_> = self.orphans.lock().extract_if(.., |(since, _)| now - *since >= age).collect();
        for (_, blob) in old {
            if let Err(error) = self.source.discard(&blob) {
                tracing::warn!(%blob, %error, "a blob that nothing refers to stays in the spool");
            }
        }
    }

    /// Another state of a folder, in a directory of its `.keg`. Never written to, and gone with the folder.
    pub(super) fn tree(source: Arc<dyn FolderSource>, index: u64, folder: &Arc<Mounted>, directory: u64) -> Arc<Self> {
        Self::placed(source, index, Some((Arc::clone(folder), directory)))
    }

    fn placed(source: Arc<dyn FolderSource>, index: u64, within: Option<(Arc<Mounted>, u64)>) -> Arc<Self> {
        Arc::new(Self {
            source,
            index,
            names: Mutex::new(()),
            gone: AtomicBool::new(false),
            foreign: AtomicU64::new(0),
            fills: AtomicU64::new(0),
            removals: AtomicU64::new(0),
            unsynced: Mutex::default(),
            orphans: Mutex::default(),
            keg: Numbers::default(),
            nameless: Nameless::default(),
            within,
        })
    }

    /// Where a folder of this id is looked for first in a list of folders; from 1.
    pub(super) fn index_of(id: &DbId) -> u64 {
        let [a, b, c, d, ..] = id.0;
        1 + u64::from(u32::from_be_bytes([a, b, c, d])) % INDEX_MAX
    }

    /// The first index from `first` on, and then from 1 on, that is not taken.
    pub(super) fn free_index(first: u64, taken: impl Fn(u64) -> bool) -> u64 {
        let mut index = first.min(INDEX_MAX);
        while taken(index) {
            index = index % INDEX_MAX + 1;
        }
        index
    }

    /// The mount's number of a node.
    pub(super) fn ino(&self, local: u64) -> Ino {
        self.index << LOCAL_BITS | local
    }

    /// Number of the folder's root.
    pub(super) fn root(&self) -> Ino {
        self.ino(ROOT_INO)
    }

    /// Folder index and the folder's own number.
    pub(super) fn split(ino: Ino) -> (u64, u64) {
        (ino >> LOCAL_BITS, ino & ((1 << LOCAL_BITS) - 1))
    }

    /// It is another state of a folder rather than a folder.
    pub(super) fn is_tree(&self) -> bool {
        self.within.is_some()
    }

    /// It is another state of this folder.
    pub(super) fn is_within(&self, folder: &Mounted) -> bool {
        self.within.as_ref().is_some_and(|(within, _)| std::ptr::eq(&**within, folder))
    }

    /// The directory that the root is in, for another state of a folder.
    pub(super) fn above(&self) -> Option<Ino> {
        self.within.as_ref().map(|(within, directory)| within.ino(*directory))
    }

    /// The folder's own number is one of `.keg`.
    pub(super) fn is_keg(local: u64) -> bool {
        local >= KEG_BASE
    }

    /// Nothing is answered from now on.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// The user may see the folder.
    pub(super) fn readable(&self) -> Result<(), VfsError> {
        if let Some((within, _)) = &self.within {
            within.readable()?;
        }
        if self.gone.load(Ordering::Acquire) || self.source.role().is_none() { Err(VfsError::Gone) } else { Ok(()) }
    }

    /// The user may change the folder.
    pub(super) fn writable(&self) -> Result<(), VfsError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(VfsError::Gone);
        }
        if self.is_tree() {
            return Err(VfsError::ReadOnly(ReadOnlyReason::View));
        }
        match self.source.role() {
            None => Err(VfsError::Gone),
            Some(_) if self.source.frozen() => Err(VfsError::ReadOnly(ReadOnlyReason::Frozen)),
            Some(role) if !role.writes() => Err(VfsError::ReadOnly(ReadOnlyReason::Role(role))),
            Some(_) => Ok(()),
        }
    }

    /// How long the kernel may believe an answer.
    pub(super) fn ttl(&self) -> Duration {
        if self.source.online() { TTL_ONLINE } else { TTL_OFFLINE }
    }

    /// What the mount shows of a node.
    pub(super) fn attr(&self, node: &Node, writable: bool, options: &VfsOptions) -> Attr {
        let (uid, gid) = if options.owners_stored { (node.uid, node.gid) } else { (options.uid, options.gid) };
        Attr {
            ino: self.ino(node.ino),
            kind: node.kind,
            mode: if writable { node.mode } else { node.mode & !0o222 },
            nlink: node.nlink,
            uid,
            gid,
            rdev: node.rdev,
            size: node.size,
            blocks: node.allocated.div_ceil(512),
            atime_ns: node.atime_ns,
            mtime_ns: node.mtime_ns,
            ctime_ns: node.ctime_ns,
            btime_ns: node.btime_ns,
        }
    }
}

/// A fresh id for a new keg.
pub(super) fn fresh_keg() -> KegId {
    loop {
        let keg = KegId(crate::sys::random::array());
        if keg != KegId::ROOT {
            return keg;
        }
    }
}
