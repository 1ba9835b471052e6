//! The situations in which working with a shared folder fails.

use std::path::PathBuf;
use std::sync::Arc;

use crate::api::ErrorCode;
use crate::blobs::LocalError;
use crate::format::{AccountId, BlobId, Role};
use crate::keyring::KeyRingError;
use crate::remote::RemoteError;
use crate::replica::{Behind, ReplicaError};

/// Why something that concerns the session or a folder did not work. Cheap to clone: a failure of background work is
/// told to everyone who waits for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SyncError {
    /// The server cannot be reached, refused, or answered nonsense.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The deadline passed before the work was done.
    #[error("not done in time: {0}")]
    TimedOut(&'static str),
    /// The local database failed.
    #[error("{0}")]
    Replica(Arc<ReplicaError>),
    /// The local store of ciphertext failed.
    #[error("{0}")]
    Store(Arc<LocalError>),
    /// A file of the profile could not be read or written.
    #[error("{}: {detail}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        detail: String,
    },
    /// Keys or logs do not allow it.
    #[error("{0}")]
    Keyring(#[from] KeyRingError),
    /// No folder of that name or id.
    #[error("there is no folder '{0}'; `kegfs folder list` shows those there are")]
    NoSuchFolder(String),
    /// Several folders have that name.
    #[error("{count} folders are called '{name}'; use the id that `kegfs folder list` shows")]
    AmbiguousFolder {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// One of the user's folders has that name already.
    #[error("there is a folder '{0}' already; choose another name")]
    NameTaken(String),
    /// Not a name for a folder.
    #[error("'{0}' cannot be a folder's name: 1 to 64 bytes, without '/' and control characters")]
    BadName(String),
    /// Not a display name.
    #[error(
        "'{0}' cannot be used: names of accounts and devices have 1 to 64 bytes, without '/' and control characters"
    )]
    BadLabel(String),
    /// The server knows no such account.
    #[error("the server knows no account {0}; ask for what `kegfs account show` prints there")]
    NoSuchAccount(AccountId),
    /// The account is a member already.
    #[error("{name} is a member already, as {role:?}")]
    AlreadyMember {
        /// Display name.
        name: String,
        /// Present role.
        role: Role,
    },
    /// Nobody of that name or id is in the folder.
    #[error("{name} is not a member of this folder; `kegfs member list` shows who is")]
    NotTheirMember {
        /// As asked for, or as known.
        name: String,
    },
    /// Nobody of that name was ever met.
    #[error(
        "you know nobody called '{0}'; `kegfs verify` lists whom you know; somebody new is named by the id that `kegfs account show` prints there"
    )]
    NoSuchContact(String),
    /// Nothing is given to the account until the user decides.
    #[error(
        "{name} ({account}) is in doubt: {why}; compare the words with them: kegfs verify {account}; or, where they are in the folder, remove them"
    )]
    Undecided {
        /// Display name.
        name: String,
        /// Which.
        account: AccountId,
        /// Why.
        why: String,
    },
    /// There is nothing to decide about yet.
    #[error("the words for {0} were not shown, or their keys have changed since; compare them first: kegfs verify {0}")]
    CompareFirst(String),
    /// No such file in the folder.
    #[error("there is no '{0}' in the folder")]
    NoSuchFile(String),
    /// The folder is not frozen.
    #[error("the folder is not frozen; there is nothing to decide")]
    NotFrozen,
    /// Only a newer version can read it.
    #[error("this needs format suite {0}, which this version does not have; update KegFS; nothing is lost meanwhile")]
    UpdateNeeded(u16),
    /// Several members have that name.
    #[error("{count} members are called '{name}'; use the account's id that `kegfs member list` shows")]
    AmbiguousMember {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// The change would leave the folder without an owner.
    #[error(
        "this is the folder's only owner; name another first: kegfs folder transfer FOLDER MEMBER (with --step-down to hand it over)"
    )]
    LastOwner,
    /// A member without full history cannot administer.
    #[error("{name} was added without the folder's history and cannot become an admin or owner; remove and add again")]
    NoHistory {
        /// Display name.
        name: String,
    },
    /// A guest's membership cannot end in the past.
    #[error("the membership would have ended already; give a time in the future")]
    PastExpiry,
    /// The account is the user's own.
    #[error("that is yourself; {next}")]
    Yourself {
        /// The next step.
        next: &'static str,
    },
    /// This device was revoked.
    #[error(
        "this device, {name}, was revoked by another device of the account; what it holds stays locked. To use it again: a new profile and kegfs account join"
    )]
    DeviceRevoked {
        /// Its name.
        name: String,
    },
    /// The account has no such device, or it is revoked.
    #[error("the account has no device '{0}'; `kegfs device list` shows those there are")]
    NoSuchDevice(String),
    /// Several devices have that name.
    #[error("{count} devices are called '{name}'; use the id that `kegfs device list` shows")]
    AmbiguousDevice {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// Another valid device has that name.
    #[error("there is a device '{0}' already; choose another name, or revoke or rename that one first")]
    DeviceNameTaken(String),
    /// A device cannot revoke itself.
    #[error("this is the device that you are using; revoke it from another one, so that its keys shut it out")]
    ThisDevice,
    /// No new device waits under the code.
    #[error(
        "no new device waits under this code; compare the words, and whether both devices use the same server. A code is good for 15 minutes"
    )]
    NoDeviceWaits,
    /// Another device has answered under the code.
    #[error(
        "another account or device has answered under this code already, so somebody else knows it; end `kegfs account join` on the new device and begin again with a new code"
    )]
    CodeUsed,
    /// A device was not let in, or did not want to come in.
    #[error(
        "it was said on the other device that the words differ, or that it is not to be; nothing was changed. If the words did differ, somebody stands between the devices: begin again, and tell whoever runs the server"
    )]
    JoinRefused,
    /// There is a recovery phrase already.
    #[error(
        "the account has a recovery phrase already; if it is lost, revoke it first: kegfs device revoke 'recovery phrase'"
    )]
    HasRecovery,
    /// The phrase is not that of the account.
    #[error(
        "the server lets nobody in with this recovery phrase for this account; compare the words and the account's id. A phrase that was revoked opens nothing"
    )]
    WrongPhrase,
    /// An invite cannot be used.
    #[error("{0}")]
    BadInvite(String),
    /// There is no kept work of that name.
    #[error("there is no kept work '{0}'; `kegfs recover` lists what there is")]
    NoKeptWork(String),
    /// The user was added without the history, and nobody who has it has handed over the present state yet.
    #[error(
        "waiting for the folder's present state: the client of an admin or owner hands it over as soon as one is online"
    )]
    AwaitingState,
    /// A checkpoint cannot be made or compared, because content of that time is gone.
    #[error("the folder's state of that time cannot be handed over: {0}; grant the history from a later date on")]
    PastGone(FetchError),
    /// What a checkpoint would have to be compared with is gone.
    #[error("content of that time is gone")]
    Incomparable,
    /// A date in the future.
    #[error("history cannot begin in the future; give a date that has been, or use --history none")]
    HistoryInFuture,
    /// What this machine would date now would be too far behind.
    #[error("{}", clock_behind(.0))]
    ClockBehind(Behind),
    /// A date before the folder.
    #[error("the folder did not exist then; give a later date, or use --history full")]
    HistoryBeforeFolder,
    /// Admins and owners hold all of the history, guests none of it.
    #[error("{role:?} of a folder cannot be added with that part of its history")]
    HistoryOfRole {
        /// The role.
        role: Role,
    },
    /// The member was added; the state that makes the folder show is not handed over yet.
    #[error(
        "{name} is a member now, but the folder's present state could not be handed over yet ({error}); it is tried again as long as you are online"
    )]
    AddedOnly {
        /// Display name.
        name: String,
        /// Why.
        error: Box<SyncError>,
    },
    /// The user's role does not allow it.
    #[error("as {role:?} of this folder you cannot {action}; ask an owner")]
    NotAllowed {
        /// The user's role.
        role: Role,
        /// What was asked for.
        action: &'static str,
    },
    /// The user is not a member any more.
    #[error("you are no longer a member of this folder; ask an owner to add you again")]
    NotAMember,
    /// The folder is read-only because its server was caught.
    #[error("the folder is frozen: {0}")]
    Frozen(String),
    /// The server was caught right now.
    #[error("the server misbehaves: {0}")]
    Misbehaviour(String),
    /// A blob that the log refers to is neither here nor at the server.
    #[error("blob {0} is neither in the local store nor at the server")]
    LostBlob(BlobId),
    /// The change makes no sense in the folder's present state.
    #[error("{0}")]
    Refused(String),
    /// Stored or received data that should not be able to exist.
    #[error("damaged data: {0}")]
    Damaged(String),
    /// The session is shut down.
    #[error("the session is closed")]
    Closed,
    /// The system has no more threads or memory for the session.
    #[error("the system refused: {0}")]
    System(String),
}

impl From<ReplicaError> for SyncError {
    fn from(error: ReplicaError) -> Self {
        Self::Replica(Arc::new(error))
    }
}

impl From<LocalError> for SyncError {
    fn from(error: LocalError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl SyncError {
    /// Whether trying again later is right and nothing else has to happen.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Remote(error) => error.is_transient(),
            Self::TimedOut(_) => true,
            _ => false,
        }
    }
}

/// Why this machine does not thin out the past, and what to do.
pub fn clock_behind(behind: &Behind) -> String {
    let Behind { behind_ms, seq, label } = behind;
    let hours = behind_ms.div_ceil(3_600_000);
    format!(
        "this machine's clock is {hours} h behind the date of entry {seq} by {label}, so that it does not thin out the past: set the clock \
         right and try again; if it is right, theirs was ahead, and everything is kept until then"
    )
}

/// Why a blob could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The server cannot be reached.
    #[error("the content is not in the local store and the server cannot be reached")]
    Offline,
    /// The deadline passed.
    #[error("the server did not send the content in time")]
    TimedOut,
    /// What the server sent is not the blob. Nothing of it was kept.
    #[error("the server sent altered content for blob {0}")]
    Corrupt(BlobId),
    /// The server does not have it.
    #[error("the server does not have blob {0}")]
    Missing(BlobId),
    /// The folder is closed, or the user is no longer a member.
    #[error("the folder is locked or gone")]
    Gone,
    /// The server refused or answered nonsense.
    #[error("{0}")]
    Refused(String),
}

impl From<RemoteError> for FetchError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Timeout => Self::TimedOut,
            RemoteError::Unreachable(_) | RemoteError::Untrusted(_) => Self::Offline,
            other if other.code() == Some(ErrorCode::Role) => Self::Gone,
            other => Self::Refused(other.to_string()),
        }
    }
}
