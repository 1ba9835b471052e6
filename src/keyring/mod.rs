//! Verification of the two kinds of log, and the keys that follow from them.
//!
//! [`AccountLog`] says which devices speak for a person. [`FolderState`] says who is in a folder, in which role, under
//! which epoch, and which entries count. Both are pure: no I/O, no clock; other logs and times are given to them. The
//! client and the server use the same code, the server to protect itself from malicious users, the client to depend on
//! nobody (DESIGN §2, §3).

mod account;
mod author;
mod contacts;
mod folder;
mod hashes;
mod identity;
mod invite;
mod recipients;
mod roles;
mod secrets;
mod since;
mod standing;
mod verdict;
mod wiped;

pub use account::{AccountError, AccountLog, Device};
pub use author::{Author, Draft, Position, open_batch, open_checkpoint, seal_checkpoint};
pub use contacts::{open_contacts, seal_contacts};
pub use folder::{AccountLogs, AuthorState, ChainHistory, FolderState};
pub use hashes::{account_entry_hash, chain, db_id, device_id, entry_hash};
pub use identity::{DeviceSecrets, Identity, UserKeySeed};
pub use invite::{InviteSecret, is_proven};
pub use recipients::{Recipient, RecipientsError};
pub use secrets::{EpochSecrets, KeyRing, KeyRingError, box_leaf, grant, new_epoch, new_epoch_for, new_epoch_mending};
pub use since::grant_since;
pub use standing::{Epoch, Member, OpenInvite};
pub use verdict::{Advanced, Misbehaviour, Reason, Verdict};

#[cfg(test)]
mod tests;
