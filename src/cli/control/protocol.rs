//! What a command line and the background process say to each other: one JSON value in a line.
//!
//! Must not carry secrets: no passphrase, no key, no content of files (but see [`super::joining`]).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::doctor::{DoctorRequest, DoctorResponse};
use super::joining::{DeviceRequest, DeviceResponse, InviteRequest, InviteResponse};
use super::past::{PastRequest, PastResponse};
use super::trust::{AccessInfo, ComparisonInfo, ContactInfo, EvidenceInfo};
use crate::cli::failure::Failure;

/// Asked of the background process, or of this process when none runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Mounts, folders, pending work.
    Status,
    /// Mount `folder`, or all folders.
    Mount {
        /// Name or id.
        folder: Option<String>,
        /// The mountpoint, absolute.
        dir: PathBuf,
        /// How.
        settings: MountSettings,
    },
    /// Unmount.
    Unmount {
        /// The mountpoint, absolute.
        dir: PathBuf,
        /// Even while it is in use.
        force: bool,
        /// How long to wait for the server, in milliseconds; 0: not at all.
        wait_ms: u64,
    },
    /// Unmount everything and end.
    Lock {
        /// Even while mounts are in use.
        force: bool,
    },
    /// Exchange changes with the server.
    Sync {
        /// Name or id; all when missing.
        folder: Option<String>,
        /// How long to wait until everything is on the server, in milliseconds; 0: not at all.
        wait_ms: u64,
    },
    /// Remove cached ciphertext.
    CacheClear,
    /// Create a folder.
    FolderCreate {
        /// Its name.
        name: String,
    },
    /// List folders.
    FolderList,
    /// Add a member.
    MemberAdd {
        /// Name or id of the folder.
        folder: String,
        /// The account's id, hexadecimal.
        account: String,
        /// The role's name.
        role: String,
        /// Guests: end of membership, milliseconds since 1970 UTC.
        expires_ms: Option<i64>,
        /// How much of the folder's past the member gets; guests get none.
        history: HistoryWanted,
    },
    /// Remove a member.
    MemberRemove {
        /// Name or id of the folder.
        folder: String,
        /// The member's name or id.
        member: String,
    },
    /// Give a member another role.
    MemberRole {
        /// Name or id of the folder.
        folder: String,
        /// The member's name or id.
        member: String,
        /// The role's name.
        role: String,
        /// Guests: end of membership, milliseconds since 1970 UTC.
        expires_ms: Option<i64>,
    },
    /// Leave a folder.
    FolderLeave {
        /// Name or id of the folder.
        folder: String,
    },
    /// Make another member an owner.
    FolderTransfer {
        /// Name or id of the folder.
        folder: String,
        /// The member's name or id.
        member: String,
        /// And become an admin.
        step_down: bool,
    },
    /// About the account's devices.
    Device(DeviceRequest),
    /// About invites.
    Invite(InviteRequest),
    /// Start a new epoch.
    Rotate {
        /// Name or id of the folder.
        folder: String,
    },
    /// Changes that are kept because they could no longer be uploaded.
    KeptList,
    /// Write the files of such changes.
    Recover {
        /// Which.
        name: String,
        /// Below this directory, absolute.
        dir: PathBuf,
    },
    /// List members.
    MemberList {
        /// Name or id of the folder.
        folder: String,
    },
    /// List whom the user knows, or show the words to compare with one of them, or decide about them.
    Verify {
        /// Name or id; all are listed when missing.
        contact: Option<String>,
        /// The words are the same on the other side (or are not); they are only shown when missing.
        same: Option<bool>,
    },
    /// The words for a folder's newest position, or for the one that another member has seen.
    VerifyFolder {
        /// Name or id of the folder.
        folder: String,
        /// What another member sees: position and words.
        #[serde(default)]
        seen: Option<String>,
    },
    /// What is kept of the server's misbehaviour.
    Evidence {
        /// Name or id of the folder.
        folder: String,
        /// Write it there too, absolute.
        to: Option<PathBuf>,
    },
    /// Have a frozen folder go on.
    Thaw {
        /// Name or id of the folder.
        folder: String,
        /// With the log that the server shows, from its beginning.
        anew: bool,
    },
    /// Who can read a file, and who could have.
    Access {
        /// Name or id of the folder.
        folder: String,
        /// The file, from the folder's root.
        path: String,
    },
    /// What happened in a folder.
    Activity {
        /// Name or id of the folder.
        folder: String,
        /// Lines with numbers above this one.
        after: u64,
        /// And the warnings are seen.
        seen: bool,
    },
    /// The past, or conflicts.
    Past(PastRequest),
    /// What `kegfs doctor` wants to know.
    Doctor(DoctorRequest),
}

/// How to mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSettings {
    /// Read-only.
    pub read_only: bool,
    /// Let other users in.
    pub allow_other: bool,
    /// `fsync` returns only when the server has the data.
    pub fsync_server: bool,
    /// Show and store numeric owners.
    pub owners_stored: bool,
}

/// One line of an answer: any number of `Progress`, then one of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Still at work.
    Progress(Pending),
    /// Done.
    Done(Response),
    /// Not done.
    Failed(Failure),
    /// Not even begun: the process is ending.
    Closing,
}

/// The result of a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Of `Status`.
    Status(Status),
    /// Of `Mount`.
    Mounted {
        /// Where.
        dir: PathBuf,
        /// A dead mount was removed first.
        recovered: bool,
    },
    /// Of `Unmount` and `Lock`.
    Unmounted {
        /// Which mountpoints.
        dirs: Vec<PathBuf>,
        /// What is not yet on the server; safe in the journal.
        pending: Pending,
        /// The server was reachable at the end.
        online: bool,
        /// The process that held the keys and ends now, because nothing is mounted any more.
        ending: Option<u32>,
    },
    /// Of `Sync`.
    Synced {
        /// What is not yet on the server; safe in the journal.
        pending: Pending,
        /// The server was reachable at the end.
        online: bool,
    },
    /// Of `CacheClear`.
    CacheCleared {
        /// Bytes freed.
        bytes: u64,
    },
    /// Of `FolderCreate`.
    FolderCreated(FolderInfo),
    /// Of `FolderList`.
    Folders(Vec<FolderInfo>),
    /// Of `MemberAdd`.
    MemberAdded(MemberInfo),
    /// Of `MemberList`.
    Members(Vec<MemberInfo>),
    /// Of `MemberRole` and `FolderTransfer`: the member as it is now.
    MemberChanged(MemberInfo),
    /// Of `MemberRemove`: who it was.
    MemberRemoved(MemberInfo),
    /// Of `FolderLeave`.
    Left(FolderInfo),
    /// Of `Rotate`.
    Rotated {
        /// The folder's name.
        folder: String,
        /// The new epoch.
        epoch: u32,
    },
    /// Of `Verify` without a contact.
    Contacts(Vec<ContactInfo>),
    /// Of `Verify` without a decision.
    Compared(ComparisonInfo),
    /// Of `Verify` with a decision.
    Decided(ContactInfo),
    /// Of `VerifyFolder`.
    FolderWords {
        /// The folder's name.
        folder: String,
        /// The position.
        seq: u64,
        /// The words.
        words: Vec<String>,
    },
    /// Of `Evidence`.
    Evidence(Vec<EvidenceInfo>),
    /// Of `Thaw`: the folder's name.
    Thawed(String),
    /// Of `Access`.
    Access(AccessInfo),
    /// Of `Activity`.
    Activity(Vec<ActivityInfo>),
    /// Of `Device`.
    Device(DeviceResponse),
    /// Of `Invite`.
    Invite(InviteResponse),
    /// Of `Past`.
    Past(PastResponse),
    /// Of `Doctor`.
    Doctor(DoctorResponse),
    /// Of `KeptList`.
    Kept(Vec<KeptInfo>),
    /// Of `Recover`.
    Recovered {
        /// The files.
        files: Vec<RecoveredFile>,
        /// Changes that are no content: renames, removals, attributes.
        others: u64,
    },
}

/// Changes that are kept because they could no longer be uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptInfo {
    /// What to call them.
    pub name: String,
    /// Where they are, as ciphertext.
    pub dir: PathBuf,
    /// The folder's name.
    pub folder: String,
    /// Since when, Unix time in milliseconds.
    pub kept_ms: i64,
    /// Files with content.
    pub files: u64,
    /// All changes.
    pub changes: u64,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveredFile {
    /// Where.
    pub path: PathBuf,
    /// Bytes that were never on this machine and read as zeros.
    pub missing_bytes: u64,
}

/// Work that is done locally and not yet on the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Changes (operations).
    pub changes: u64,
    /// Ciphertext to upload, in bytes.
    pub bytes: u64,
}

impl Pending {
    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.changes == 0 && self.bytes == 0
    }

    /// The sum.
    pub fn plus(self, other: Self) -> Self {
        Self { changes: self.changes + other.changes, bytes: self.bytes + other.bytes }
    }
}

/// Of `kegfs status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The server's address.
    pub server: String,
    /// Whether it is reachable now.
    pub online: bool,
    /// The background process, if one runs.
    pub pid: Option<u32>,
    /// What is mounted where.
    pub mounts: Vec<MountInfo>,
    /// The folders with their state.
    pub folders: Vec<FolderStatus>,
    /// Changes that are kept because they could no longer be uploaded.
    #[serde(default)]
    pub kept: Vec<KeptInfo>,
    /// Why nothing can be unlocked here any more: another device of the account has revoked this one.
    #[serde(default)]
    pub revoked: Option<String>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountInfo {
    /// The mountpoint.
    pub dir: PathBuf,
    /// The folder's name; none when all folders are mounted there.
    pub folder: Option<String>,
    /// Read-only.
    pub read_only: bool,
}

/// One folder's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderStatus {
    /// Which.
    pub folder: FolderInfo,
    /// Connected to the server.
    pub online: bool,
    /// When it was last known to be up to date (Unix time in milliseconds), when it is not online.
    pub stale_since_ms: Option<i64>,
    /// Not yet on the server.
    pub pending: Pending,
    /// Why it is read-only, when the server or a member was caught misbehaving.
    pub frozen: Option<String>,
    /// Somebody who has left, or a lost device, still has the folder's key: an admin's client will change it.
    #[serde(default)]
    pub rotation_due: bool,
    /// Guests: end of the own membership, Unix time in milliseconds.
    #[serde(default)]
    pub expires_ms: Option<i64>,
    /// The last error of exchanging changes.
    pub last_error: Option<String>,
    /// Who has locked what.
    #[serde(default)]
    pub locks: Vec<LockLine>,
    /// Programs here lock among themselves: the other members do not see it.
    #[serde(default)]
    pub locks_local_only: bool,
    /// When the server said last that there is nothing more, Unix time in milliseconds.
    #[serde(default)]
    pub complete_ms: i64,
    /// Members to whom nothing is given until the user has decided: name, account, why.
    #[serde(default)]
    pub undecided: Vec<(String, String, String)>,
    /// Why this machine does not thin out the past although its user could.
    #[serde(default)]
    pub clock_behind: Option<String>,
    /// Warnings of the folder's log that were not marked as seen, the newest few.
    #[serde(default)]
    pub warnings: Vec<ActivityInfo>,
}

/// A line of a folder's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityInfo {
    /// Its number: ascending on this device, with gaps.
    pub number: u64,
    /// Position of the folder's log entry that it came with.
    pub seq: u64,
    /// When, by the clock of whoever did it, Unix time in milliseconds.
    pub at_ms: i64,
    /// Who did it, as the account's id; none for what this machine noticed.
    pub account: Option<String>,
    /// How people call the device that did it; empty for this machine.
    pub actor: String,
    /// What it is.
    pub kind: String,
    /// Somebody should look at it.
    pub warning: bool,
    /// What happened.
    pub text: String,
}

/// What one device has locked of a file, or waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockLine {
    /// The file's path in the folder.
    pub path: String,
    /// Whose, such as `alice's laptop`.
    pub holder: String,
    /// This device's.
    pub mine: bool,
    /// What: `flock exclusive`, `bytes 0-99 shared`, and so on.
    pub held: Vec<String>,
    /// What is waited for.
    pub waiting: Vec<String>,
    /// Another member has it as well: the connection was lost for too long.
    pub broken: bool,
}

/// A folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderInfo {
    /// Its id, hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// This account's role.
    pub role: String,
    /// How many members it has.
    pub members: u64,
}

/// How much of a folder's past a new member gets to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryWanted {
    /// All of it.
    Full,
    /// Nothing.
    None,
    /// From this moment on, milliseconds since 1970 UTC.
    SinceMs(i64),
}

/// A member of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The account's id, hexadecimal.
    pub account: String,
    /// The account's name, where known.
    pub name: String,
    /// The role.
    pub role: String,
    /// Guests: end of membership, Unix time in milliseconds.
    #[serde(default)]
    pub expires_ms: Option<i64>,
    /// How much of the folder's past the member reads.
    pub history: HistoryWanted,
    /// This account.
    #[serde(default)]
    pub me: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::failure::Code;

    #[test]
    fn every_kind_of_line_comes_back_as_sent() {
        let requests = [
            Request::Status,
            Request::Mount { folder: None, dir: "/m".into(), settings: MountSettings::default() },
            Request::Unmount { dir: "/m m".into(), force: true, wait_ms: 5 },
            Request::MemberAdd {
                folder: "a".into(),
                account: "b".into(),
                role: "editor".into(),
                expires_ms: None,
                history: HistoryWanted::SinceMs(5),
            },
        ];
        for request in requests {
            let line = serde_json::to_string(&request).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
        let replies = [
            Reply::Progress(Pending { changes: 3, bytes: 9 }),
            Reply::Failed(Failure::new(Code::Busy, "line\nbreak")),
            Reply::Done(Response::CacheCleared { bytes: 7 }),
        ];
        for reply in replies {
            let line = serde_json::to_string(&reply).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
        }
    }
}
