//! Bounds of requests and responses beyond those of [`crate::format::limits`].

use crate::format::limits::{BOX_MAX_BYTES, ENTRY_MAX_BYTES};

/// Bytes of every request body that is neither an entry nor a blob.
pub const REQUEST_MAX_BYTES: usize = 256 * 1024;

/// Bytes that an append may have beyond its boxes: the entry, its signature and the frame around them.
pub const APPEND_BASE_MAX_BYTES: usize = ENTRY_MAX_BYTES + 64 * 1024;

/// Bytes that one box may take in an append: the box, whose it is, and the frame.
pub const APPEND_BOX_MAX_BYTES: usize = BOX_MAX_BYTES + 64;

/// Bytes of entries that `GET …/entries` returns at most, and when nothing is asked for. An entry that is longer than
/// what was asked for is returned alone, so that a reader always gets on.
pub const ENTRIES_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Ids that `POST …/blobs/missing` takes at once: those that one entry can add.
pub const MISSING_MAX_IDS: usize = crate::format::limits::ENTRY_MAX_BLOBS;

/// Entries of an account log that one response holds at most.
pub const ACCOUNT_ENTRIES_MAX: usize = 64;

/// Files of one folder of which one device may hold or want locks.
pub const LOCK_FILES_MAX: usize = 1024;

/// Spans of all these files together.
pub const LOCK_SPANS_ALL_MAX: usize = 4096;

/// Wishes of one device for one file at once. Others wait at the device.
pub const LOCK_WANTS_MAX: usize = 32;

/// Bytes of the sealed note beside a lock token: 16 of the file's id, and what sealing adds.
pub const LOCK_NOTE_MAX_BYTES: usize = 64;

/// Holders that one answer lists at most.
pub const LOCK_LIST_MAX: usize = 4096;

/// How long a challenge can be answered, milliseconds.
pub const CHALLENGE_MS: i64 = 60_000;

/// How long a token is valid, milliseconds: 12 hours, a working day with its breaks.
pub const TOKEN_MS: i64 = 12 * 3_600_000;

/// Seconds between two keep-alive comments of an event stream. A client that has heard nothing for three of them
/// opens another.
pub const KEEP_ALIVE_SECS: u64 = 10;

/// How long a mailbox keeps a letter, milliseconds: people walk from one machine to the other.
pub const MAILBOX_MS: i64 = 15 * 60_000;

/// Bytes of a new device's letters: its public keys and name.
pub const MAILBOX_REQUEST_MAX_BYTES: usize = 4 * 1024;

/// Bytes of the others: the heads of some 2,500 folders.
pub const MAILBOX_ANSWER_MAX_BYTES: usize = REQUEST_MAX_BYTES;

/// The longest time for which an admission lasts, milliseconds: 90 days.
pub const ADMISSION_MAX_MS: i64 = 90 * 24 * 3_600_000;
