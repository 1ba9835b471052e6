//! Identifiers, limits and the versioned canonical byte layouts of everything that is signed, sealed or sent.
//!
//! This room parses and serialises, nothing else: it knows no key, no hash function, no clock and no network.
//! Every layout is CBOR (RFC 8949) with definite lengths; [`decode`] accepts exactly the bytes that [`encode`]
//! would have produced, so a value has one encoding. The layouts are described in `docs/FORMAT.md`.

mod account;
mod cbor;
mod checkpoint;
mod contact;
mod entry;
mod ids;
pub mod limits;
mod lock;
mod membership;
mod name;
mod op;
mod retention;
mod suite;

pub use account::{
    AccountChange, AccountEntry, DeviceKeys, SignedAccountEntry, UserKeyBox, UserKeyPublic, check_label,
};
pub use cbor::{FormatError, decode, encode};
pub use checkpoint::{Checkpoint, CheckpointState, Record, WrittenStamp};
pub use contact::{Contact, ContactBook, Trust};
pub use entry::{BlobRef, EntryKind, Envelope, Head, SignedEntry};
pub use ids::{AccountId, BlobId, ChainHash, DbId, DeviceId, EntryHash, InviteKey, KegId, LockToken, MailboxId};
pub use lock::{LOCK_END, LockSet, LockSpace, LockSpan};
pub use membership::{BoxGrant, KeyBox, Membership, MembershipChange, NewEpoch, Redemption, Role};
pub use name::{NameError, check_name, check_symlink_target, check_xattr_name};
pub use op::{Batch, Extent, NodeKind, Op, OpKind, Range};
pub use retention::{RetentionRule, Thinning};
use suite::check_suite;

#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod tests;
