//! Requests, responses, routes and errors of the HTTP interface between clients and `kegd`.
//!
//! Bodies are canonical CBOR ([`crate::format::encode`] and [`crate::format::decode`]) of the types of this room,
//! except blobs, which travel as they are, and the event stream, which is text. This room knows no HTTP library,
//! no storage and no key: server and client must be able to agree through it and through nothing else.

mod account;
mod db;
mod error;
mod events;
mod joining;
pub mod limits;
mod lock;
pub mod routes;

pub use account::{
    AccountEntries, AppendAccountEntry, Challenge, ChallengeRequest, LoginRequest, LoginStatement, Register,
    Registered, Token,
};
pub use db::{AppendEntry, Appended, BlobIds, CreateDb, CreatedDb, DbHead, DbList, Entries, MemberBox, Room};
pub use error::{ApiError, Detail, ErrorCode};
pub use events::{EVENT_HEAD, EVENT_READY, HeadEvent};
pub use joining::{Admit, Admitted, Letter, Redeem, Redeeming, Redemptions, RevocationRequest, Side};
pub use lock::{
    EVENT_LOCK, LockAnswer, LockAsk, LockCall, LockEvent, LockGrant, LockHolder, LockResult, LockWant, LockedFile,
    WantResult,
};

/// Version of the interface; it is the first component of every route but `/healthz`.
pub const VERSION: u16 = 1;

/// Media type of CBOR bodies (RFC 8949 §9.1).
pub const CBOR: &str = "application/cbor";

/// Media type of blobs and of verified ranges of them.
pub const OCTETS: &str = "application/octet-stream";
