//! Why an operation of the mounted view failed: situations, not numbers. The errno of each is `fuse`'s business.

use std::sync::Arc;

use crate::format::{NameError, Role};

/// Why writing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadOnlyReason {
    /// The user's role in the folder does not write.
    Role(Role),
    /// The folder is frozen: its server was caught misbehaving (DESIGN §2).
    Frozen,
    /// The list of folders, or another part of the view that nobody writes to.
    View,
}

/// Why an operation failed. Cheap to clone: an error of background work is reported to several callers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VfsError {
    /// No such name, or no such inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// Something else than a directory was needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has names in it.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The handle was not opened for this, or the attribute is not the user's to set.
    #[error("not permitted")]
    NoPermission,
    /// The folder cannot be written to.
    #[error("the folder is read-only here: {0:?}")]
    ReadOnly(ReadOnlyReason),
    /// Name, target or attribute name beyond its bound.
    #[error("the name is too long")]
    NameTooLong,
    /// An argument that makes no sense for the object.
    #[error("invalid argument")]
    InvalidArgument,
    /// No such handle: closed already, or never opened.
    #[error("no such handle")]
    BadHandle,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// No data (or hole) at or behind the offset.
    #[error("nothing behind the offset")]
    PastEnd,
    /// The local disk is full. What was written so far is kept in memory and tried again.
    #[error("no space left in the local store")]
    NoSpace,
    /// The bytes are not in the local store and the server cannot be reached.
    #[error("the content is not in the local store and the server cannot be reached")]
    Offline,
    /// The deadline passed.
    #[error("timed out")]
    TimedOut,
    /// The folder is locked, unmounted, or the user is a member no more.
    #[error("the folder is locked or gone")]
    Gone,
    /// What the kernel believes of a name is not so any more, and it is to ask again.
    #[error("the name has changed meanwhile; try again")]
    Outdated,
    /// Stored bytes are not what they must be: altered or damaged.
    #[error("stored content is damaged: {0}")]
    Corrupt(Arc<str>),
    /// A file or a value beyond its bound.
    #[error("too large")]
    TooLarge,
    /// Rename or link between two folders: they have different keys.
    #[error("source and destination are in different folders")]
    CrossFolder,
    /// Somebody has a conflicting lock.
    #[error("somebody has a conflicting lock")]
    Locked,
    /// Waiting for the lock would be waiting for oneself.
    #[error("waiting for this lock would never end")]
    Deadlock,
    /// A signal came while the lock was waited for.
    #[error("interrupted while waiting for a lock")]
    Interrupted,
    /// More locks than there may be.
    #[error("too many locks")]
    NoLocks,
    /// Not offered here.
    #[error("not supported")]
    Unsupported,
    /// The local database or store failed.
    #[error("the local store failed: {0}")]
    Storage(Arc<str>),
}

impl VfsError {
    /// A [`VfsError::Storage`] with the message of `error`.
    pub fn storage(error: impl std::fmt::Display) -> Self {
        Self::Storage(error.to_string().into())
    }

    /// A [`VfsError::Corrupt`] with the message of `error`.
    pub fn corrupt(error: impl std::fmt::Display) -> Self {
        Self::Corrupt(error.to_string().into())
    }
}

impl From<NameError> for VfsError {
    fn from(error: NameError) -> Self {
        match error {
            NameError::TooLong => Self::NameTooLong,
            NameError::Reserved | NameError::Forbidden => Self::InvalidArgument,
        }
    }
}
