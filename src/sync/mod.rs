//! Sharing: drains the journal to the server, follows the log, fetches content, notices misbehaviour.
//!
//! [`Session`] is one unlocked account; [`Folder`] is one of its shared folders. Async code ends here: both are called
//! by plain threads. What the server says is believed only as far as it is signed, chained and hashed; where it
//! contradicts what it has shown before, the folder turns read-only and both signed versions are kept.
//!
//! This room knows how keys, logs, journal and network fit together. It must not know inodes, handles, the kernel, or
//! how a chunk is sealed; it moves blobs by their ids.

mod access;
mod accounts;
mod activity;
mod append;
mod audit;
mod backoff;
mod carry;
mod checkpoint;
mod contacts;
mod depart;
mod error;
mod event;
mod evidence;
mod export;
mod fetch;
mod folder;
mod follow;
mod invites;
mod join;
mod keep;
mod keys;
mod letters;
mod locks;
mod member;
mod members;
mod newborn;
mod newcomer;
mod own;
mod pins;
mod present;
mod reach;
mod register;
mod retention;
mod room;
mod runtime;
mod session;
mod status;
mod steward;
mod stream;
mod upload;
mod verify;
mod vouch;

pub use access::{Access, End, Reader, Version};
pub use contacts::{Comparison, FolderWords, Seen};
pub use error::{FetchError, SyncError, clock_behind};
pub use event::Event;
pub use evidence::{Evidence, Kept};
pub use export::{KeptWork, Recovered};
pub use fetch::FETCH_DEADLINE;
pub use folder::Folder;
pub use invites::{Invitation, Invite};
pub use join::{Joined, Joining, Meeting, recover_account};
pub use locks::{Agreed, LockInfo, LockNews, LockReport};
pub use members::{History, Member};
pub use own::{OwnDevice, RECOVERY_NAME, Revoked};
pub use register::{NewAccount, connect};
pub use retention::{Retention, ThinnedOut};
pub use session::{DEFAULT_CACHE_BYTES, Session, SessionPaths};
pub use status::Status;
pub use vouch::Candidate;
