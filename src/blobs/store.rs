//! The server's blob store: what it promises, and the door through which bytes come in.
//!
//! A store knows folders and blobs by id. It does not know who may read or write them, whether an entry refers to
//! them, or what is in them. All calls block; who calls from async code does so on a thread that may.

use std::io;

use crate::format::{BlobId, BlobRef, DbId};
use crate::sys::bulk::AlignedBuffer;

/// Why a store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The bytes have another hash than the id under which they were sent.
    #[error("the bytes are not those of blob {0}")]
    WrongBytes(BlobId),
    /// More bytes than a blob may have.
    #[error("a blob has at most {0} bytes")]
    TooLarge(u64),
    /// No room where the blobs are kept.
    #[error("the blob store is full; free some space where it keeps its data")]
    Full,
    /// The store does not work; the text names the object.
    #[error("blob store: {context}: {source}")]
    Io {
        /// What was being done, with which object.
        context: String,
        /// What the system said.
        source: io::Error,
    },
}

impl BlobError {
    /// `source` while doing `context`; a full disk gets its own situation.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { context: context.into(), source },
        }
    }
}

/// What became of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Length of the blob in bytes.
    pub size_bytes: u64,
    /// False when the store had it already.
    pub new: bool,
}

/// A part of what a store has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Blobs, with their lengths.
    pub blobs: Vec<BlobRef>,
    /// Hash trees whose blobs were not there.
    pub lone_trees: Vec<BlobId>,
}

/// A blob on its way in. Dropped before [`finish`](Self::finish), it leaves nothing.
pub trait BlobUpload: Send {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] as soon as they are too many, [`BlobError::Full`], [`BlobError::Io`].
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError>;

    /// Compares the hash and makes the blob durable and visible, both at once. Any number of uploads of one blob may
    /// finish at the same time; one of them is `new`.
    ///
    /// # Errors
    /// [`BlobError::WrongBytes`] when the hash is another; [`BlobError::Full`], [`BlobError::Io`].
    fn finish(self: Box<Self>) -> Result<Stored, BlobError>;
}

/// A blob that can be read, at any position, by several threads.
pub trait BlobData: Send + Sync {
    /// Length in bytes.
    fn size_bytes(&self) -> u64;

    /// Fills `buf` from `offset`. Both lie within the blob.
    ///
    /// # Errors
    /// Those of reading; `UnexpectedEof` beyond the end.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Fills the first `len` bytes of `part`, which is made long enough, from `offset`: a multiple of 4096. For readers of
    /// the whole.
    ///
    /// # Errors
    /// As [`Self::read_exact_at`].
    fn read_part_at(&self, offset: u64, part: &mut AlignedBuffer, len: usize) -> io::Result<()> {
        part.reserve(len);
        self.read_exact_at(offset, &mut part.bytes_mut()[..len])
    }
}

/// Durable storage of immutable blobs, apart for each folder.
pub trait BlobStore: Send + Sync {
    /// Begins an upload of the blob `id` of at most `max_bytes`.
    ///
    /// # Errors
    /// [`BlobError::Full`], [`BlobError::Io`].
    fn upload(&self, db: &DbId, id: &BlobId, max_bytes: u64) -> Result<Box<dyn BlobUpload>, BlobError>;

    /// Opens a blob; `None` when there is none. An open blob stays readable after [`delete`](Self::delete).
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn open(&self, db: &DbId, id: &BlobId) -> Result<Option<Box<dyn BlobData>>, BlobError>;

    /// Length of a blob; `None` when there is none.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn size(&self, db: &DbId, id: &BlobId) -> Result<Option<u64>, BlobError>;

    /// Removes a blob and its tree. Absent ones are no error. After a power cut they may be back.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn delete(&self, db: &DbId, id: &BlobId) -> Result<(), BlobError>;

    /// Removes the hash tree beside a blob, if there is one.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn delete_tree(&self, db: &DbId, id: &BlobId) -> Result<(), BlobError>;

    /// The folders of which there may be anything.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn dbs(&self) -> Result<Vec<DbId>, BlobError>;

    /// What there is of a folder whose ids begin with this byte, in no order: a part, so that no list is too long.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn list(&self, db: &DbId, first: u8) -> Result<Listing, BlobError>;

    /// The hash tree kept beside a blob by [`keep_tree`](Self::keep_tree). Whoever uses it verifies it.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn tree(&self, db: &DbId, id: &BlobId) -> Result<Option<Vec<u8>>, BlobError>;

    /// Keeps a blob's hash tree beside it, as a cache: need not be durable.
    ///
    /// # Errors
    /// [`BlobError::Full`], [`BlobError::Io`].
    fn keep_tree(&self, db: &DbId, id: &BlobId, tree: &[u8]) -> Result<(), BlobError>;

    /// Whether the store works now.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self) -> Result<(), BlobError>;
}
