//! The mounted view: inodes, handles, reading, writing, roles as permissions (DESIGN §4, §5).
//!
//! Synchronous, and usable from any number of threads. Knows neither fuser nor errno numbers, neither SQL nor network:
//! below it is a [`FolderSource`], above it is whoever serves a kernel or a test.
//!
//! | file | what it does to the data |
//! |---|---|
//! | `names`, `dirs`, `attrs`, `acl`, `mode` | the tree, straight from the source, with unsealed sizes put in |
//! | `files` → `layer` → `buffer` | takes written bytes into memory |
//! | `share` | has one file refer to what another holds |
//! | `flush` → `block` → `sealer` | memory → sealed blobs in the spool → a change in the journal |
//! | `read` → `segments`, `extents`, `prefetch` | journal and blobs → opened segments → the reader |
//! | `locks` | who may lock what, among programs and members |
//! | `keg_dir` | what is made when it is asked for: `.keg`, and other states of a folder in it |
//! | `stores`, `around` | opened segments → the kernel's cache |
//!
//! Locks, in the order in which they may be taken: a folder's `names`; the table of inodes; one inode's `state`; then
//! any of the leaves (extent map, budget, segment cache, queues, locks of files). Nothing waits for the network under a
//! lock, and the notifier is called under none.

mod acl;
mod around;
mod attrs;
mod block;
mod buffer;
mod core;
mod dirs;
mod error;
mod extents;
mod files;
mod flush;
mod handles;
mod inode;
mod keg_dir;
mod known;
mod layer;
mod leave;
mod locks;
mod memory;
mod mode;
mod mounted;
mod nameless;
mod names;
mod pool;
mod prefetch;
mod read;
mod sealer;
mod segments;
mod share;
mod source;
mod stores;
mod types;
#[path = "vfs.rs"]
mod view;

/// Parts of what callers give and get, so that they need not know the formats.
pub use crate::format::{LOCK_END, LockSet, LockSpace, LockSpan, NodeKind};
pub use error::{ReadOnlyReason, VfsError};
pub use keg_dir::{KegDir, KegFile, KegNode};
pub use locks::{InTheWay, LockDone, LockRequest};
pub use memory::{Faults, MemoryFolder};
pub use source::{
    Agreed, Extents, FolderSource, LeaseNews, Listed, ListedName, OnChange, ProbeDone, Progress, Room, Slot,
    SourceChange,
};
pub use stores::Store;
pub use types::{
    Allocate, Attr, Caller, DirEntry, Entry, Ino, Notifier, OpenMode, Opened, ReadDone, RenameMode, SetAttr, SetTime,
    StatFs, SyncDone, VfsOptions, XattrMode,
};
pub use view::Vfs;

/// Inode number of the mount's root.
pub const ROOT: Ino = 1;
