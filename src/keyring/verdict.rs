//! What verification says about an entry.

use crate::format::{AccountId, ChainHash, Checkpoint, EntryHash, Envelope, FormatError, Head, Membership, Thinning};

/// An entry in its place, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// Its position.
    pub seq: u64,
    /// Its hash.
    pub hash: EntryHash,
    /// Chain hash up to and including it.
    pub chain: ChainHash,
    /// What its author signed.
    pub envelope: Envelope,
    /// Whether it counts.
    pub verdict: Verdict,
    /// More than the head and the author's counter changed: [`super::FolderState::to_bytes`] must be stored again.
    pub standing_changed: bool,
    /// The entry is the first here to tell that a device of its author was revoked.
    pub(super) revokes: bool,
}

impl Advanced {
    /// The log's head after this entry.
    pub fn head(&self) -> Head {
        Head { seq: self.seq, chain: self.chain }
    }
}

/// Whether an entry counts. Every client comes to the same verdict from the log alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The membership changes.
    Membership(Box<Membership>),
    /// The sealed operations are to be opened and applied.
    Batch,
    /// Somebody with full history says what the folder was when an epoch began. Changes nothing for who can tell.
    Checkpoint(Box<Checkpoint>),
    /// Moments of the past go, as far as the folder's rule allows, and blobs are released.
    Thin(Box<Thinning>),
    /// Validly signed, but not allowed at this place: it stays in the chain and does nothing. No one's proven fault.
    Ignored(Reason),
}

/// Why an entry does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The author is a member no more.
    #[error("the author is no longer a member")]
    NotMember,
    /// The author's role does not allow it.
    #[error("the author's role does not allow this")]
    Role,
    /// A guest whose time is over.
    #[error("the author's membership has expired")]
    Expired,
    /// The author's device was revoked, as an earlier entry in this log knows.
    #[error("the author's device was revoked")]
    DeviceRevoked,
    /// The author is a recovery phrase, which adds devices and never writes.
    #[error("the entry is signed with a recovery phrase, which never writes")]
    RecoveryPhrase,
    /// The invite is unknown, used, cancelled or over, or its holder has not signed for this account.
    #[error("the invite is not open, or not proven")]
    Invite,
    /// The author relies on an older state of the own account than an earlier entry did.
    #[error("the author relies on an outdated state of the account")]
    AccountOutdated,
    /// Sealed under another epoch than the current one, or by somebody who had not seen that one begin.
    #[error("the entry belongs to an epoch that is not current")]
    StaleEpoch,
    /// A batch that releases blobs.
    #[error("only an entry that thins out the past may release content")]
    Releases,
    /// Made before its author had seen that the past was thinned out: it may refer to what is gone.
    #[error("the entry was made before the past was thinned out")]
    Thinned,
    /// A membership entry or a thinning that does not observe the entry right before it.
    #[error("the entry does not follow the state that it was made for")]
    NotOnHead,
    /// A membership change that makes no sense at its place: unknown or present member, last owner, missing epoch,
    /// blobs where none belong.
    #[error("the membership change is not valid at its place")]
    BadChange,
    /// Of an older format suite than one that its author has seen in this log.
    #[error("the entry is of an older format suite than the folder has moved to")]
    OldSuite,
    /// A body that does not decode.
    #[error("the entry's body is malformed")]
    BadBody,
}

/// What only a faulty or malicious server can have caused: no honest log contains it. The folder is frozen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    /// Not parseable.
    #[error("the server sent an entry that is malformed: {0}")]
    Malformed(#[from] FormatError),
    /// An entry of another folder.
    #[error("the server sent an entry of another folder")]
    OtherFolder,
    /// The author's account log, up to the head that the entry names, was not given. The caller fetches it and asks
    /// again; a server that cannot give it is at fault.
    #[error("the server has not shown the account log of {account} up to position {}", head.seq)]
    AccountMissing {
        /// Whose.
        account: AccountId,
        /// Up to where.
        head: Head,
    },
    /// The account log is not the one that the author relies on.
    #[error("the server shows another history of account {0} than an entry's author has seen")]
    AccountForked(AccountId),
    /// Signed by somebody who was never a member (THREATS row 5).
    #[error("the server put an entry of account {0} into the folder, which was never a member of it")]
    Stranger(AccountId),
    /// No such device at that state of the account.
    #[error("the server sent an entry of a device that the account {0} does not have")]
    UnknownDevice(AccountId),
    /// Not signed by the device.
    #[error("the server sent an entry with a false signature")]
    Signature,
    /// The author attests another log than this one: two members were shown different logs.
    #[error("the server shows members different histories of this folder (position {seq})")]
    Fork {
        /// Position that the author attests differently.
        seq: u64,
    },
    /// The device's counter does not follow: an entry of it was dropped, repeated or reordered.
    #[error("the server dropped, repeated or reordered entries: counter {got} where {expected} follows")]
    Counter {
        /// What must come.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// The log does not begin as a log must.
    #[error("the folder's log does not begin with its creation")]
    BadStart,
}
