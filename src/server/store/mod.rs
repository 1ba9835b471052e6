//! The log store: what the server keeps besides blobs, and the writes that change it.
//!
//! A store keeps and finds; it checks nothing but that logs grow by one. What may be appended is decided in
//! `folders` and `accounts`. Everything that changes is a [`Write`], and one [`Job`] is durable as a whole or not at
//! all, so that each implementation needs one transaction and no more. All calls block.

#[cfg(test)]
mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

use std::collections::HashMap;

use crate::format::{AccountId, BlobId, BlobRef, ChainHash, DbId, DeviceId, EntryHash, Head, InviteKey, KeyBox, Role};
use crate::keyring::AuthorState;

/// Why a store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A job does not fit what is stored: another job was first. Nothing of the job was done.
    #[error("outdated: {0}")]
    Outdated(&'static str),
    /// No room.
    #[error("the log store's disk is full")]
    Full,
    /// Stored data does not make sense.
    #[error("the log store is damaged: {0}; restore the data directory from a backup")]
    Damaged(String),
    /// The data directory belongs to a newer version.
    #[error("the log store has layout {found}, this version knows {known}; update kegd")]
    Newer {
        /// What is there.
        found: i64,
        /// What this version writes.
        known: i64,
    },
    /// The database failed.
    #[error("log store: {0}")]
    Database(#[from] rusqlite::Error),
}

/// A device as the server knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose.
    pub account: AccountId,
    /// Which device.
    pub device: DeviceId,
    /// End, milliseconds since 1970 UTC.
    pub expires_ms: i64,
}

/// A member's row of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// As what.
    pub role: Role,
    /// Guests: end, milliseconds since 1970 UTC.
    pub expires_ms: Option<i64>,
}

impl MemberRow {
    /// Whether the membership holds at `now_ms`.
    pub fn holds(&self, now_ms: i64) -> bool {
        self.expires_ms.is_none_or(|end| now_ms < end)
    }
}

/// One box beside an entry, with its place among the entry's boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxRow {
    /// The box.
    pub key_box: KeyBox,
    /// Its index.
    pub index: u32,
}

/// One change. Those marked *expects* refuse the whole job with [`StoreError::Outdated`] when the store is not as
/// they say.
#[derive(Clone, Debug)]
pub enum Write {
    /// An account log's next entry. Expects the log to end right before it.
    AccountEntry {
        /// Whose log.
        account: AccountId,
        /// Its head with this entry.
        head: Head,
        /// The encoded signed entry.
        bytes: Vec<u8>,
    },
    /// A device that may log in.
    AddDevice {
        /// Whose.
        account: AccountId,
        /// Which.
        device: DeviceId,
        /// Its Ed25519 key.
        sign: [u8; 32],
    },
    /// A device that may no more; its sessions end. Only in this account: nobody proves that a device that he adds to
    /// his own account is his, so another account may have one of the same id.
    RevokeDevice {
        /// Whose.
        account: AccountId,
        /// Which.
        device: DeviceId,
    },
    /// An admission code, by its hash, for `uses` registrations.
    AddInvite {
        /// Hash of the code.
        hash: [u8; 32],
        /// How many registrations.
        uses: u32,
    },
    /// An admission by an account: a code for one registration until `ends_ms`. Known ones are kept as they are. Expects
    /// the account to have fewer than `most` others open at `now_ms`.
    AddAdmission {
        /// Hash of the code.
        hash: [u8; 32],
        /// Who admits.
        account: AccountId,
        /// To which folder.
        db: DbId,
        /// By which invite.
        key: InviteKey,
        /// End, milliseconds since 1970 UTC.
        ends_ms: i64,
        /// Bound of open admissions of one account.
        most: u32,
        /// Now, milliseconds since 1970 UTC.
        now_ms: i64,
    },
    /// One registration with a code. Expects a use to be left at `now_ms`.
    SpendInvite {
        /// Hash of the code.
        hash: [u8; 32],
        /// Now, milliseconds since 1970 UTC.
        now_ms: i64,
    },
    /// Somebody waits to become a member by an invite. Expects nobody to wait by the same, but for the same bytes again.
    AddRedemption {
        /// The folder.
        db: DbId,
        /// The invite.
        key: InviteKey,
        /// The encoded [`crate::api::Redeem`].
        bytes: Vec<u8>,
    },
    /// The invite is used or over: nobody waits by it any more, and nobody is admitted to the server by it.
    CloseInvite {
        /// The folder.
        db: DbId,
        /// The invite.
        key: InviteKey,
    },
    /// A session, by the hash of its token. Expects the device not to be revoked.
    AddSession {
        /// Hash of the token.
        hash: [u8; 32],
        /// Whose.
        session: Session,
    },
    /// Forgets sessions that ended before this time.
    ForgetSessions {
        /// Milliseconds since 1970 UTC.
        before_ms: i64,
    },
    /// A folder log's next entry. Expects the log to end right before it.
    Entry {
        /// The folder.
        db: DbId,
        /// Its head with this entry.
        head: Head,
        /// Hash of the entry.
        hash: EntryHash,
        /// The encoded signed entry.
        bytes: Vec<u8>,
    },
    /// Expects this entry to be stored already. Changes nothing.
    ExpectEntry {
        /// The folder.
        db: DbId,
        /// Hash of the entry.
        hash: EntryHash,
    },
    /// The boxes of an entry, in order, each with its leaf hash.
    Boxes {
        /// The folder.
        db: DbId,
        /// The entry.
        seq: u64,
        /// Boxes and leaves.
        boxes: Vec<(KeyBox, [u8; 32])>,
    },
    /// A member's row, or that there is none any more.
    Member {
        /// The folder.
        db: DbId,
        /// Who.
        account: AccountId,
        /// As what.
        row: Option<MemberRow>,
    },
    /// Somebody is no member any more since entry `seq`, and may still read the log up to there.
    Former {
        /// The folder.
        db: DbId,
        /// Who.
        account: AccountId,
        /// The removal.
        seq: u64,
    },
    /// The account whose quota the folder counts against.
    Payer {
        /// The folder.
        db: DbId,
        /// Who.
        account: AccountId,
    },
    /// A device's last entry in a folder.
    Author {
        /// The folder.
        db: DbId,
        /// Which device.
        device: DeviceId,
        /// Counter and hash of its last entry.
        last: AuthorState,
    },
    /// The folder's verified state as `keyring` writes it, without heads and authors.
    Standing {
        /// The folder.
        db: DbId,
        /// The state.
        bytes: Vec<u8>,
    },
    /// A blob that is being uploaded, or was: it takes room, and is waste from `due_ms` on unless an entry refers to it before.
    /// Of one that entries refer to or have released, nothing but the length changes.
    Upload {
        /// The folder.
        db: DbId,
        /// Which, how long; 0 while that is not known.
        blob: BlobRef,
        /// Milliseconds since 1970 UTC.
        due_ms: i64,
    },
    /// An entry refers to the blob: it is kept, also where it was released before.
    Blob {
        /// The folder.
        db: DbId,
        /// Which, how long.
        blob: BlobRef,
    },
    /// Nothing refers to the blob any more, by an entry of somebody who may say so: it is waste from `due_ms` on.
    Release {
        /// The folder.
        db: DbId,
        /// Which.
        blob: BlobId,
        /// By which entry.
        seq: u64,
        /// Milliseconds since 1970 UTC.
        due_ms: i64,
    },
    /// The blob's bytes are gone, and with them the room that it took. Expects it to be waste since `due_ms`.
    Discard {
        /// The folder.
        db: DbId,
        /// Which.
        blob: BlobId,
        /// Milliseconds since 1970 UTC.
        due_ms: i64,
    },
    /// The blob could not be removed: it is waste, but from `until_ms` on. Where it is not waste since `due_ms`, nothing changes.
    Postpone {
        /// The folder.
        db: DbId,
        /// Which.
        blob: BlobId,
        /// Milliseconds since 1970 UTC.
        due_ms: i64,
        /// Likewise.
        until_ms: i64,
    },
    /// A device may hold locks in a folder until then; see [`LogStore::lock_holders`].
    LockHolder {
        /// The folder.
        db: DbId,
        /// Whose.
        account: AccountId,
        /// Which device.
        device: DeviceId,
        /// Milliseconds since 1970 UTC.
        until_ms: i64,
        /// Now, likewise: what ended before is forgotten.
        now_ms: i64,
    },
}

/// A blob that nothing refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waste {
    /// The folder.
    pub db: DbId,
    /// Which.
    pub blob: BlobId,
    /// Since when it may be removed, milliseconds since 1970 UTC.
    pub due_ms: i64,
    /// What its removal gives back.
    pub size_bytes: u64,
}

/// Changes that belong together.
pub type Job = Vec<Write>;

/// Durable storage of logs, accounts, sessions and invites.
pub trait LogStore: Send + Sync {
    /// Does the jobs in order; each as a whole or not at all. All that succeeded are durable on return.
    ///
    /// # Errors
    /// The outer one when nothing at all was done; the inner ones for each job.
    fn commit(&self, jobs: &[Job]) -> Result<Vec<Result<(), StoreError>>, StoreError>;

    /// Head of an account's log.
    fn account_head(&self, account: &AccountId) -> Result<Option<Head>, StoreError>;
    /// Encoded entries of an account's log after `after`, at most `limit`.
    fn account_entries(&self, account: &AccountId, after: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError>;
    /// Signing key of an account's device that is not revoked.
    fn device_key(&self, account: &AccountId, device: &DeviceId) -> Result<Option<[u8; 32]>, StoreError>;
    /// Session of a token, by its hash.
    fn session(&self, hash: &[u8; 32]) -> Result<Option<Session>, StoreError>;
    /// Whether there ever was an invite.
    fn has_invites(&self) -> Result<bool, StoreError>;

    /// Head of a folder's log.
    fn head(&self, db: &DbId) -> Result<Option<Head>, StoreError>;
    /// Chain hash of a folder's log at `seq`.
    fn chain_at(&self, db: &DbId, seq: u64) -> Result<Option<ChainHash>, StoreError>;
    /// Position of an entry.
    fn seq_of(&self, db: &DbId, hash: &EntryHash) -> Result<Option<u64>, StoreError>;
    /// Encoded entries after `after`: as many as fit in `max_bytes`, but at least one when there is one.
    fn entries(&self, db: &DbId, after: u64, max_bytes: usize) -> Result<Vec<Vec<u8>>, StoreError>;
    /// An account's box beside an entry.
    fn member_box(&self, db: &DbId, seq: u64, account: &AccountId) -> Result<Option<BoxRow>, StoreError>;
    /// Leaf hashes of the boxes beside an entry, in order.
    fn leaves(&self, db: &DbId, seq: u64) -> Result<Vec<[u8; 32]>, StoreError>;
    /// An account's row in a folder, expired or not.
    fn member(&self, db: &DbId, account: &AccountId) -> Result<Option<MemberRow>, StoreError>;
    /// All members of a folder, expired or not, in ascending order of account.
    fn members(&self, db: &DbId) -> Result<Vec<(AccountId, MemberRow)>, StoreError>;
    /// Up to which entry a former member may read the folder's log. Means nothing for who is a member again.
    fn former(&self, db: &DbId, account: &AccountId) -> Result<Option<u64>, StoreError>;
    /// Folders of an account with their lengths and its row in each, in ascending order of folder.
    fn dbs_of(&self, account: &AccountId) -> Result<Vec<(DbId, u64, MemberRow)>, StoreError>;
    /// Who waits to become a member of a folder by an invite: encoded [`crate::api::Redeem`], in ascending order of key.
    fn redemptions(&self, db: &DbId) -> Result<Vec<Vec<u8>>, StoreError>;
    /// The newest standing of a folder.
    fn standing(&self, db: &DbId) -> Result<Option<Vec<u8>>, StoreError>;
    /// The devices that have written to a folder, with their last entries.
    fn authors(&self, db: &DbId) -> Result<HashMap<DeviceId, AuthorState>, StoreError>;
    /// The account whose quota the folder counts against.
    fn payer(&self, db: &DbId) -> Result<Option<AccountId>, StoreError>;
    /// Bytes of all blobs of all folders that count against an account.
    fn usage(&self, payer: &AccountId) -> Result<u64, StoreError>;

    /// Blobs that may be removed at `now_ms`, those due longest first, at most `limit`.
    fn waste(&self, now_ms: i64, limit: usize) -> Result<Vec<Waste>, StoreError>;
    /// The same of one blob, whenever it is due.
    fn waste_of(&self, db: &DbId, blob: &BlobId) -> Result<Option<Waste>, StoreError>;
    /// Those of the blobs of which nothing is known.
    fn unknown_blobs(&self, db: &DbId, blobs: &[BlobId]) -> Result<Vec<BlobId>, StoreError>;
    /// When the next blob is due.
    fn next_waste_ms(&self) -> Result<Option<i64>, StoreError>;

    /// The devices that may hold locks in a folder at `now_ms`.
    fn lock_holders(&self, db: &DbId, now_ms: i64) -> Result<Vec<(AccountId, DeviceId)>, StoreError>;

    /// Whether the store works now.
    fn check(&self) -> Result<(), StoreError>;
}
