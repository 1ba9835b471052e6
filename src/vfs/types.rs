//! What callers of [`Vfs`](super::Vfs) give and get.

use std::time::Duration;

use crate::format::NodeKind;

/// Inode number, unique in one mount: folder index `<< 40` | the folder's own number. The root of the mount is 1.
pub type Ino = u64;

/// Who asks, as the kernel tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
    /// File mode creation mask of the process; bits set here are not set in what it creates.
    pub umask: u32,
}

/// Attributes of an inode. Times in nanoseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: NodeKind,
    /// The twelve mode bits, masked by the user's role.
    pub mode: u16,
    /// Names (of a directory: 2 and one for each subdirectory).
    pub nlink: u32,
    /// Owner shown.
    pub uid: u32,
    /// Group shown.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Length in bytes.
    pub size: u64,
    /// 512-byte blocks that are data rather than holes. Too many for a moment, but never more than the length, while data
    /// is written over data.
    pub blocks: u64,
    /// Access time, as last set explicitly.
    pub atime_ns: i64,
    /// Modification time.
    pub mtime_ns: i64,
    /// Change time.
    pub ctime_ns: i64,
    /// Creation time.
    pub btime_ns: i64,
}

/// A name's inode, and how long the kernel may believe both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Attributes of the inode.
    pub attr: Attr,
    /// Validity of name and attributes.
    pub ttl: Duration,
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Handle.
    pub fh: u64,
    /// What the kernel has cached of the content is still right.
    pub keep_cache: bool,
    /// The kernel is to cache nothing, not even the length.
    pub direct: bool,
}

/// How to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// It must not be there yet (`O_EXCL` with `O_CREAT`).
    pub exclusive: bool,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The present.
    Now,
    /// Nanoseconds since 1970 UTC.
    At(i64),
}

/// Attributes to set; absent ones stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Mode bits.
    pub mode: Option<u16>,
    /// Owner. Ignored where it is the shown one already, refused otherwise.
    pub uid: Option<u32>,
    /// Group, likewise.
    pub gid: Option<u32>,
    /// Length: cuts, or extends by a hole.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// The handle through which `size` is set: it must be open for writing.
    pub fh: Option<u64>,
}

/// How to rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// What has the new name is removed.
    Replace,
    /// The new name must be free.
    NoReplace,
    /// The two names change places.
    Exchange,
    /// The old name becomes a whiteout, by which union file systems mark a removed name.
    Whiteout {
        /// Whose the whiteout is.
        caller: Caller,
        /// What has the new name is removed; else it must be free.
        replace: bool,
    },
}

/// One name of a directory listing.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Inode.
    pub ino: Ino,
    /// Offset at which the listing goes on behind this name. Never 0; stays valid while names are removed.
    pub cookie: u64,
    /// The name; `.` and `..` are listed first.
    pub name: &'a [u8],
    /// What it is.
    pub kind: NodeKind,
    /// Attributes, when asked for; absent for `.` and `..`, which the kernel does not count as lookups, and for names that
    /// it is to look up when it needs them.
    pub entry: Option<&'a Entry>,
}

/// Numbers for `df`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes of one block.
    pub block_bytes: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks free.
    pub blocks_free: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes free.
    pub files_free: u64,
    /// Bytes of the longest name.
    pub name_max: u32,
}

/// What [`Vfs::fallocate`](super::Vfs::fallocate) does with the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Extends the file to the end of the range. Nothing is reserved: space is found when data is written.
    Extend,
    /// Nothing to see: space is not reserved.
    KeepSize,
    /// The range becomes a hole; the length stays.
    PunchHole,
    /// The range reads as zeros; the file is extended to its end unless `keep_size`.
    ZeroRange {
        /// Do not extend.
        keep_size: bool,
    },
}

/// Setting an extended attribute: what must be the case before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// It must not exist yet, else [`VfsError::Exists`](super::VfsError::Exists).
    Create,
    /// It must exist, else [`VfsError::NoAttribute`](super::VfsError::NoAttribute).
    Replace,
    /// Both, which cannot be: it tells whether the attribute exists.
    CreateAndReplace,
}

/// Who the shown owner of all files is, and how much memory and time may be used.
#[derive(Clone, Copy, Debug)]
pub struct VfsOptions {
    /// Owner shown: the mounting user.
    pub uid: u32,
    /// Group shown.
    pub gid: u32,
    /// Show and store the numeric owners, as any POSIX file system does, instead of the mounting user.
    pub owners_stored: bool,
    /// Written bytes that are not sealed yet, over all files. Writers wait beyond it.
    pub dirty_max_bytes: usize,
    /// Opened segments kept, in bytes of plaintext.
    pub cache_max_bytes: usize,
    /// No operation takes longer.
    pub deadline: Duration,
    /// A file that is still open is flushed when nothing was written to it for this long.
    pub idle_flush: Duration,
    /// How long a blob stays in the spool that nothing refers to any more: longer than `deadline`, for who is reading what
    /// was overwritten meanwhile.
    pub orphan_age: Duration,
}

impl Default for VfsOptions {
    fn default() -> Self {
        Self {
            uid: 0,
            gid: 0,
            owners_stored: false,
            // 16 chunks: two sealing threads stay busy while writers fill the next ones. More was not faster.
            dirty_max_bytes: 64 << 20,
            // Three full prefetch windows.
            cache_max_bytes: 96 << 20,
            deadline: Duration::from_secs(30),
            idle_flush: Duration::from_secs(1),
            orphan_age: Duration::from_secs(60),
        }
    }
}

/// Receives the bytes of a read, on the calling thread or on another.
pub type ReadDone = Box<dyn FnOnce(Result<&[u8], super::VfsError>) + Send>;
/// Receives the end of a sync, on another thread.
pub type SyncDone = Box<dyn FnOnce(Result<(), super::VfsError>) + Send>;

/// Tells the kernel that what it caches changed at somebody else's hand. Called by a thread that holds no lock of the
/// vfs, after the new state is visible; must not block on the kernel (see FUSE notes: a queue drained by one thread).
pub trait Notifier: Send + Sync {
    /// Cached content of `[offset, offset + len)` and the attributes are void; `len` 0: to the end.
    fn inode(&self, ino: Ino, offset: i64, len: i64);
    /// Cached attributes are void, the content is not.
    fn attr(&self, ino: Ino);
    /// The name means something else now, or nothing, or something for the first time.
    fn entry(&self, parent: Ino, name: &[u8]);
    /// Calls `then` when everything told before has reached the kernel, on another thread; it must not block.
    fn after(&self, then: Box<dyn FnOnce() + Send>) {
        then();
    }
    /// The kernel may want this in its cache. A hint: it may be dropped, now or later.
    fn store(&self, store: super::Store);
}
