//! The situations in which the local database refuses, each with the file it is about and what helps.
//!
//! Knows SQLite's result codes and turns them into situations; nothing above this room ever sees a code.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why the replica could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The key is not the one that the files were made with.
    #[error("{} cannot be opened with this key; unlock the profile that it belongs to", .file.display())]
    WrongKey {
        /// The database.
        file: PathBuf,
    },
    /// The file's pages fail their checks.
    #[error("{} is damaged ({detail}); {next}", .file.display())]
    Corrupt {
        /// The database.
        file: PathBuf,
        /// What failed.
        detail: String,
        /// What the user can do.
        next: &'static str,
    },
    /// The file system has no room.
    #[error("no space left on the disk while writing {}; free some space, nothing that was saved is lost", .file.display())]
    DiskFull {
        /// The file being written.
        file: PathBuf,
    },
    /// Another process has the folder's database open.
    #[error("{} is in use by another process; unmount the folder there first", .file.display())]
    InUse {
        /// The file that is locked.
        file: PathBuf,
    },
    /// Made by a later version of KegFS.
    #[error("{} was written by a newer version of KegFS (layout {found}); update KegFS", .file.display())]
    NewerLayout {
        /// The database.
        file: PathBuf,
        /// Its layout number.
        found: i64,
    },
    /// The database belongs to another folder or device than the one asked for.
    #[error("{} belongs to another folder or device", .file.display())]
    OtherOwner {
        /// The database.
        file: PathBuf,
    },
    /// Reading or writing failed for a reason of the system.
    #[error("{}: {source}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The database refused for a reason that none of the others names.
    #[error("{}: {detail}", .file.display())]
    Database {
        /// The file.
        file: PathBuf,
        /// SQLite's words; they hold no values.
        detail: String,
    },
    /// A value outside the format's limits.
    #[error(transparent)]
    Format(#[from] crate::format::FormatError),
    /// Entries must be applied in the order of the log, each once.
    #[error("entry {got} cannot follow entry {mark}")]
    OutOfOrder {
        /// The newest applied.
        mark: u64,
        /// The one offered.
        got: u64,
    },
    /// An inode number that this folder does not know.
    #[error("no such inode: {0}")]
    NoSuchInode(u64),
    /// A slot that is not reserved, or was filled already.
    #[error("slot {0} is not reserved")]
    NoSuchSlot(u64),
    /// What should be the folder's state cannot be. Nothing of it was taken in.
    #[error("the folder's state that a member has handed over is not valid: {0}")]
    BadCheckpoint(&'static str),
    /// The deadline passed before the journal had everything.
    #[error("the journal was not written in time")]
    TimedOut,
    /// That moment of the folder cannot be shown: it is before what this member may see, or yet to come.
    #[error("version {seq} of the folder cannot be shown: there are versions {from} to {to} for you")]
    NoSuchMoment {
        /// The position asked for.
        seq: u64,
        /// The oldest position that can be shown.
        from: u64,
        /// The newest.
        to: u64,
    },
    /// That moment was thinned out.
    #[error(
        "version {seq} of the folder was thinned out; `kegfs history` shows the versions that are left, and a time means the last one before it"
    )]
    ThinnedOut {
        /// The position asked for.
        seq: u64,
    },
    /// Files that a group of operations is about were written to on this machine after the group was made.
    #[error("files that this is about were being written to on this machine; nothing was changed, try again")]
    Overtaken,
    /// The replica is closed.
    #[error("the folder is closed")]
    Closed,
}

/// What helps against a damaged `state.db`: everything in it can be had from the server again.
pub(super) const NEXT_STATE: &str =
    "move it away and mount again: it is downloaded anew, and work in journal.db is kept";
/// What helps against a damaged `journal.db`: only work that has not reached the server is in it.
pub(super) const NEXT_JOURNAL: &str =
    "move it away and mount again: changes that had not reached the server are in that file only, so keep it";
/// What helps against a damaged `account.db`.
pub(super) const NEXT_ACCOUNT: &str = "move it away and unlock again: account logs are downloaded anew";

fn next_step(file: &Path) -> &'static str {
    match file.file_name().and_then(|name| name.to_str()) {
        Some("journal.db") => NEXT_JOURNAL,
        Some("account.db") => NEXT_ACCOUNT,
        _ => NEXT_STATE,
    }
}

impl ReplicaError {
    /// SQLite's refusal as a situation of `file`.
    pub(super) fn of(file: &Path, error: &rusqlite::Error) -> Self {
        let file = file.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                let next = next_step(&file);
                Self::Corrupt { file, detail: error.to_string(), next }
            }
            Some(ErrorCode::DiskFull) => Self::DiskFull { file },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse { file },
            Some(ErrorCode::SystemIoFailure) if out_of_space(&file) => Self::DiskFull { file },
            _ => match error {
                // A value of another type or length than every writer of this room stores.
                rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
                    let next = next_step(&file);
                    Self::Corrupt { file, detail: "a stored value is not of its type".to_owned(), next }
                }
                _ => Self::Database { file, detail: error.to_string() },
            },
        }
    }

    /// The system's refusal as a situation of `file`.
    pub(super) fn io(file: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { file: file.to_owned() },
            io::ErrorKind::WouldBlock => Self::InUse { file: file.to_owned() },
            _ => Self::Io { file: file.to_owned(), source },
        }
    }

    /// A second copy to tell several waiters of one failure.
    pub(super) fn duplicate(&self) -> Self {
        match self {
            Self::DiskFull { file } => Self::DiskFull { file: file.clone() },
            Self::InUse { file } => Self::InUse { file: file.clone() },
            Self::Corrupt { file, detail, next } => Self::Corrupt { file: file.clone(), detail: detail.clone(), next },
            Self::Closed => Self::Closed,
            Self::Io { file, source } => {
                Self::Io { file: file.clone(), source: io::Error::new(source.kind(), source.to_string()) }
            }
            other => Self::Database { file: PathBuf::from("journal.db"), detail: other.to_string() },
        }
    }
}

/// SQLite reports a failed write as an I/O error; a one-byte probe beside the file tells whether room was the reason.
fn out_of_space(file: &Path) -> bool {
    let probe = file.with_extension("probe");
    let result = std::fs::write(&probe, [0]);
    let _ = std::fs::remove_file(&probe);
    matches!(result.map_err(|error| error.kind()), Err(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}
