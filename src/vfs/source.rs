//! The folder beneath the vfs: its tree, its journal, its ciphertext, its connection.
//!
//! A port: the vfs asks for what it needs and knows neither SQL nor network. `sync::Folder` is the real one;
//! [`MemoryFolder`](super::MemoryFolder) is the twin in memory, with faults to order.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::format::{BlobId, DbId, DeviceId, Extent, KegId, LockSet, LockSpan, NodeKind, Op, OpKind, Role};
use crate::keg::Node;

use super::VfsError;

/// One name of a directory and the node it names.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The name.
    pub name: Vec<u8>,
    /// Position in the listing; at least 2.
    pub cookie: u64,
    /// What it names.
    pub node: Node,
}

/// One name of a directory, and no more of what it names than a listing needs.
#[derive(Clone, Debug)]
pub struct ListedName {
    /// The name.
    pub name: Vec<u8>,
    /// As that of [`Listed`].
    pub cookie: u64,
    /// The folder's own inode number.
    pub ino: u64,
    /// What it is.
    pub kind: NodeKind,
}

/// Extents of a part of a file.
#[derive(Clone, Debug)]
pub struct Extents {
    /// Ascending and disjoint; gaps are holes.
    pub list: Vec<Extent>,
    /// Up to here they are all: behind the beginning of what was asked for, and at most its end.
    pub upto: u64,
}

/// A place in the journal's order, held for a change of content whose bytes are still being sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u64);

/// A change that the local user did not make. Inode numbers are the folder's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceChange {
    /// Attributes.
    Attr(u64),
    /// Content, and with it attributes.
    Content(u64),
    /// A name.
    Entry {
        /// The directory.
        parent: u64,
        /// The name.
        name: Vec<u8>,
    },
    /// What the user may do in the folder, and with it everything's mode bits.
    Standing,
}

/// Room for data beneath a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Whose it is: folders with the same value share it.
    pub pool: [u8; 32],
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
}

/// Called with changes that others made.
pub type OnChange = Box<dyn Fn(&[SourceChange]) + Send + Sync>;

/// How far the newest change of a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Waits in the journal.
    Journaled,
    /// The server has sequenced it.
    OnServer,
}

/// Whether programs of this mount may hold what they want to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// They may, from now on.
    Yes,
    /// The other members are to be asked.
    Unknown,
    /// Another member has waited longer: first let go of what is held.
    NotYet,
}

/// What a folder tells of locks. Called with no lock held.
pub trait LeaseNews: Send + Sync {
    /// What the folder may hold of the file is another; of these wishes others have what is in the way.
    fn changed(&self, keg: &KegId, taken: &[LockSpan]);
    /// Another member waits for what was locked: brings what was written, to whichever file, into the journal, and calls
    /// `done`, on any thread, even where that failed.
    fn settle(&self, done: Box<dyn FnOnce() + Send>);
}

/// Is told what of another member is in the way of a lock.
pub type ProbeDone = Box<dyn FnOnce(Option<LockSpan>) + Send>;

/// One shared folder as the vfs sees it. All methods may be called from any thread; those without a deadline answer
/// from local state. The tree is the mounted view: confirmed state with pending work applied on top.
pub trait FolderSource: Send + Sync + 'static {
    /// The node with this number, removed ones included.
    fn node(&self, ino: u64) -> Result<Option<Node>, VfsError>;
    /// The node under a name of the directory `parent`.
    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Node>, VfsError>;
    /// Names of a directory with cookies above `after`, ascending, at most `limit`.
    fn list(&self, directory: u64, after: u64, limit: usize) -> Result<Vec<Listed>, VfsError>;
    /// The same without attributes: name, cookie, number and kind.
    fn list_names(&self, directory: u64, after: u64, limit: usize) -> Result<Vec<ListedName>, VfsError> {
        let names =
            |one: Listed| ListedName { name: one.name, cookie: one.cookie, ino: one.node.ino, kind: one.node.kind };
        Ok(self.list(directory, after, limit)?.into_iter().map(names).collect())
    }
    /// Names that come into the directory from now on have cookies above this: where a listing that begins now ends, so
    /// that it ends whatever is renamed meanwhile.
    fn newest_cookie(&self, directory: u64) -> Result<u64, VfsError>;
    /// The directory that a directory is in; the root is in itself.
    fn parent(&self, directory: u64) -> Result<u64, VfsError>;
    /// Extents that meet `span`, which is not empty, from its beginning on. About `limit`, which is at least 1, and what it
    /// costs does not depend on how many more there are, nor on how long the holes between them are.
    fn extents(&self, ino: u64, span: Range<u64>, limit: usize) -> Result<Extents, VfsError>;
    /// An extended attribute.
    fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>, VfsError>;
    /// The names of all extended attributes.
    fn xattrs(&self, ino: u64) -> Result<Vec<Vec<u8>>, VfsError>;
    /// Bytes of all files, number of nodes.
    fn usage(&self) -> Result<(u64, u64), VfsError>;

    /// Position of the newest confirmed entry: the base of what is done now.
    fn head(&self) -> u64;
    /// Applies an operation of the local user and queues it, at the present base.
    fn submit(&self, kind: OpKind, at_ns: i64) -> Result<(), VfsError>;
    /// An inode number that no node has, for a file that is created later under it.
    ///
    /// # Errors
    /// [`VfsError::ReadOnly`] where nothing is created.
    fn fresh_number(&self) -> Result<u64, VfsError>;
    /// As [`FolderSource::submit`], for a creation of a node with a [fresh number](FolderSource::fresh_number).
    fn submit_numbered(&self, kind: OpKind, at_ns: i64, number: u64) -> Result<(), VfsError>;
    /// A file that was just created is not going to get content from who created it. Until then, within reason, others do
    /// not see it, so that they never find an empty file where one is being saved.
    fn let_go(&self, _keg: &KegId) {}
    /// A program has opened the file: what it contains is kept for it, whoever removes the file.
    fn opened(&self, _ino: u64) {}
    /// It has closed it. Once for each call of [`Self::opened`].
    fn closed(&self, _ino: u64) {}
    /// Takes the next place in the queue for a change of content of `keg`.
    fn reserve(&self, keg: &KegId) -> Result<Slot, VfsError>;
    /// Fills the place with the change, or gives it up. An error uses the place up, too.
    fn fill(&self, slot: Slot, op: Option<Op>) -> Result<(), VfsError>;
    /// Returns when everything queued before is filled and in the journal; `durable`: and survives a power cut.
    fn flush(&self, durable: bool, deadline: Instant) -> Result<(), VfsError>;

    /// Stores a sealed blob until the server has it.
    ///
    /// # Errors
    /// [`VfsError::NoSpace`] when the disk is full; nothing is stored then.
    fn spool(&self, blob: &BlobId, bytes: &[u8]) -> Result<(), VfsError>;
    /// Makes spooled blobs survive a power cut.
    fn sync_spool(&self, blobs: &[BlobId]) -> Result<(), VfsError>;
    /// A blob that was spooled and to which nothing will ever refer.
    fn discard(&self, blob: &BlobId) -> Result<(), VfsError>;
    /// Fills `out` with the blob's bytes from `offset`, if they are stored here; `false` if not.
    fn read_local(&self, blob: &BlobId, offset: u64, out: &mut [u8]) -> Result<bool, VfsError>;
    /// Something in the blob as stored here did not open: drops it if it is not what its id says and can be fetched
    /// again; tells whether it did.
    fn drop_damaged(&self, blob: &BlobId) -> Result<bool, VfsError>;
    /// The whole blob is stored here.
    fn has_local(&self, blob: &BlobId) -> bool;
    /// Bytes of the blob, verified against its id: of `range`, or of the whole blob, which is then stored here too.
    fn fetch(&self, blob: &BlobId, range: Option<Range<u64>>, deadline: Instant) -> Result<Bytes, VfsError>;

    /// Subscribed to the server's push: what is cached will be told when it changes.
    fn online(&self) -> bool;
    /// The user's role; `None`: a member no more.
    fn role(&self) -> Option<Role>;
    /// The server was caught misbehaving: nothing may be written.
    fn frozen(&self) -> bool;
    /// The folder's id.
    fn id(&self) -> DbId;
    /// The folder's name.
    fn name(&self) -> String;
    /// This device.
    fn device(&self) -> DeviceId;
    /// How people call a device: `alice's laptop`.
    fn label(&self, device: &DeviceId) -> Option<String>;
    /// How far the newest change of a node has come.
    fn progress(&self, ino: u64) -> Result<Progress, VfsError>;
    /// What the folder's `.keg` shows, where it has one.
    fn keg_dir(&self) -> Option<Arc<dyn super::KegDir>> {
        None
    }
    /// How much room there is, where something limits it. Answers at once.
    fn room(&self) -> Option<Room> {
        None
    }
    /// Calls back after every change that others made, with no lock held.
    fn on_change(&self, callback: OnChange);

    /// Programs of this mount are to hold `held` of the file; a `newcomer` has held nothing of it so far. Answers from
    /// memory. A folder without other members agrees.
    fn claim(&self, keg: &KegId, held: &LockSet, newcomer: bool) -> Agreed {
        let _ = (keg, held, newcomer);
        Agreed::Yes
    }
    /// Programs of this mount hold `held` of the file, no more, and want these spans, each with whether they wait for it.
    fn want(&self, keg: &KegId, held: &LockSet, wants: &[(LockSpan, bool)]) {
        let _ = (keg, held, wants);
    }
    /// Asks whether another member is in the way of `span`; answers at once or later.
    fn probe(&self, keg: &KegId, span: &LockSpan, done: ProbeDone) {
        let _ = (keg, span);
        done(None);
    }
    /// Tells of locks from now on.
    fn on_lease(&self, news: Box<dyn LeaseNews>) {
        drop(news);
    }
}
