//! The client's side of the interface between clients and `kegd`: one method per route.
//!
//! [`Remote`] is the seam. [`HttpRemote`] speaks to a server, and [`FailingRemote`]
//! puts scripted faults in front of another. This room moves bytes and says precisely how moving
//! them failed; it judges nothing: whether an entry, a box or a blob is genuine is decided above, from its bytes alone.
//! It knows no folder state, no file tree, no content key and no local storage.

mod error;
mod failing;
mod http;
mod login;

mod sse;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub use error::RemoteError;
pub use failing::{Call, FailingRemote, Fault};
pub use http::{HttpOptions, HttpRemote};
pub use login::Credentials;

use crate::api::{
    AccountEntries, Admit, DbHead, Entries, HeadEvent, Letter, LockAnswer, LockCall, LockEvent, MemberBox, Redeem,
    Room, Side,
};
use crate::format::{AccountId, BlobId, DbId, KeyBox, MailboxId, SignedAccountEntry, SignedEntry};

/// What a call gives, sooner or later. Dropping it gives up the call; what it asked for may have happened nevertheless.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, RemoteError>>;

/// Events of the caller's folders. Ends with an error when the connection is lost or silent for too long.
pub type Events = BoxStream<'static, Result<ServerEvent, RemoteError>>;

/// What the server pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// The stream is live: from here on no head is missed.
    Ready,
    /// A folder has grown, or is new to the caller.
    Head(HeadEvent),
    /// Something changed about a lock that the device has or wants.
    Lock(LockEvent),
    /// Nothing happened; the connection is alive.
    KeepAlive,
}

/// A range of a blob as the server sent it.
#[derive(Clone, Debug)]
pub struct RangeAnswer {
    /// The slice with the tree nodes that verify it.
    pub encoded: Bytes,
    /// Length of the whole blob in bytes, as the server claims. A false one makes verification fail.
    pub blob_len: u64,
}

/// A server, as one account's device sees it. Every call has a deadline of its own and can be made any number of times:
/// the interface is idempotent.
pub trait Remote: Send + Sync + 'static {
    /// Makes an account known to the server, with an admission code. Needs no login.
    fn register<'a>(&'a self, invite: &'a str, first: &'a SignedAccountEntry) -> Answer<'a, AccountId>;

    /// A part of an account's log, from the entry after `after`; possibly not all there is.
    fn account_log(&self, account: AccountId, after: u64) -> Answer<'_, AccountEntries>;

    /// Appends to the caller's own account log; gives the sequence number.
    fn append_account<'a>(&'a self, account: AccountId, entry: &'a SignedAccountEntry) -> Answer<'a, u64>;

    /// The folders of which the caller is a member.
    fn dbs(&self) -> Answer<'_, Vec<DbHead>>;

    /// Starts a folder; gives its id as the server sees it.
    fn create_db<'a>(&'a self, entry: &'a SignedEntry, boxes: &'a [KeyBox]) -> Answer<'a, DbId>;

    /// Appends to a folder's log; gives the sequence number.
    fn append<'a>(&'a self, db: DbId, entry: &'a SignedEntry, boxes: &'a [KeyBox]) -> Answer<'a, u64>;

    /// A part of a folder's log, from the entry after `after`, of about `max_bytes`.
    fn entries(&self, db: DbId, after: u64, max_bytes: u64) -> Answer<'_, Entries>;

    /// The caller's box that came with entry `seq`.
    fn member_box(&self, db: DbId, seq: u64) -> Answer<'_, MemberBox>;

    /// Which of these blobs the server does not have.
    fn missing_blobs<'a>(&'a self, db: DbId, ids: &'a [BlobId]) -> Answer<'a, Vec<BlobId>>;

    /// Stores a blob.
    fn put_blob(&self, db: DbId, id: BlobId, bytes: Bytes) -> Answer<'_, ()>;

    /// A whole blob, unverified.
    fn blob(&self, db: DbId, id: BlobId) -> Answer<'_, Bytes>;

    /// A range of a blob with what it takes to verify it.
    fn blob_range(&self, db: DbId, id: BlobId, offset: u64, len: u64) -> Answer<'_, RangeAnswer>;

    /// How much room the account that pays for a folder has.
    fn room(&self, db: DbId) -> Answer<'_, Room>;

    /// The server's clock, milliseconds since 1970 UTC, to the second: proof that something answers at its address that
    /// says to be in order, and of nothing else. Needs no login.
    fn clock(&self) -> Answer<'_, i64>;

    /// A call about locks in a folder. Unlike the others it gives up soon: locks are leases of a few seconds.
    fn locks<'a>(&'a self, db: DbId, call: &'a LockCall) -> Answer<'a, LockAnswer>;

    /// Leaves a letter in a mailbox; the side of a request needs no login.
    fn put_letter<'a>(&'a self, mailbox: MailboxId, side: Side, letter: &'a Letter) -> Answer<'a, ()>;

    /// The letter in a mailbox; `None` where none lies (yet, or any more). Needs no login.
    fn letter(&self, mailbox: MailboxId, side: Side) -> Answer<'_, Option<Letter>>;

    /// Admits one more account to the server; gives until when, milliseconds since 1970 UTC.
    fn admit(&self, admit: Admit) -> Answer<'_, i64>;

    /// Asks the admins of a folder to add the caller, who proves to hold an invite; gives whether it has happened.
    fn redeem(&self, redeem: Redeem) -> Answer<'_, bool>;

    /// Who asks to be added to a folder by an invite, unverified.
    fn redemptions(&self, db: DbId) -> Answer<'_, Vec<Redeem>>;

    /// The caller's account log after `after`, up to the entry that revoked the caller's device. Works only for a device
    /// whose login is refused because of it.
    fn revocation(&self, after: u64) -> Answer<'_, AccountEntries>;

    /// Subscribes to the heads of the caller's folders.
    fn events(&self) -> Answer<'_, Events>;
}
