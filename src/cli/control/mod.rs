//! The control socket: how a command line talks to the background process that holds the keys.
//!
//! Must not trust by path alone: the socket lies in a directory of mode 0700, is of mode 0600, and
//! each side checks the other's user id.

mod client;
mod doctor;
mod joining;
mod listed;
mod past;
mod protocol;
mod server;
mod trust;

pub use client::Client;
pub use doctor::{DoctorRequest, DoctorResponse, FolderNames, NameFinding, NameProblem, ServerState, Trouble};
pub use joining::{
    DeviceInfo, DeviceRequest, DeviceResponse, InviteInfo, InviteRequest, InviteResponse, Private, RevokedInfo,
    WaitingInfo,
};
pub use listed::Listed;
pub use past::{
    Bytes, ConflictLine, HistoryLine, PastRequest, PastResponse, Place, RestoreStep, Restored, RetentionChange,
    RetentionInfo, TrashLine,
};
pub use protocol::{
    ActivityInfo, FolderInfo, FolderStatus, HistoryWanted, KeptInfo, LockLine, MemberInfo, MountInfo, MountSettings,
    Pending, RecoveredFile, Reply, Request, Response, Status,
};
pub use server::{Handler, Server};
pub use trust::{AccessInfo, ComparisonInfo, ContactInfo, EvidenceInfo, ReaderInfo, VersionInfo};

/// No request and no answer is longer: a folder's name and a path fit many times, and lists end ([`Listed`]).
const MOST_LINE_BYTES: u64 = 1 << 20;
