//! Paths of the interface: the patterns that the server matches and the functions that fill them.

use super::Side;
use crate::format::{AccountId, BlobId, DbId, MailboxId};

/// `POST` [`Register`](super::Register) → [`Registered`](super::Registered). Without a token.
pub const REGISTER: &str = "/v1/register";
/// `POST` [`ChallengeRequest`](super::ChallengeRequest) → [`Challenge`](super::Challenge). Without a token.
pub const LOGIN_CHALLENGE: &str = "/v1/login/challenge";
/// `POST` [`LoginRequest`](super::LoginRequest) → [`Token`](super::Token). Without a token.
pub const LOGIN: &str = "/v1/login";
/// `GET ?after=N` → [`AccountEntries`](super::AccountEntries); `POST`
/// [`AppendAccountEntry`](super::AppendAccountEntry) → [`Appended`](super::Appended).
pub const ACCOUNT_LOG: &str = "/v1/accounts/{account}/log";
/// `GET` → [`DbList`](super::DbList); `POST` [`CreateDb`](super::CreateDb) → [`CreatedDb`](super::CreatedDb).
pub const DBS: &str = "/v1/dbs";
/// `GET ?after=N&max_bytes=M` → [`Entries`](super::Entries); `POST` [`AppendEntry`](super::AppendEntry) →
/// [`Appended`](super::Appended).
pub const ENTRIES: &str = "/v1/dbs/{db}/entries";
/// `GET` → [`MemberBox`](super::MemberBox): the caller's box that came with entry `seq`.
pub const BOX: &str = "/v1/dbs/{db}/boxes/{seq}";
/// `POST` [`BlobIds`](super::BlobIds) → [`BlobIds`](super::BlobIds): those that the server does not have.
pub const BLOBS_MISSING: &str = "/v1/dbs/{db}/blobs/missing";
/// `PUT` the blob's bytes → 201 when new, 200 when it was there; `GET` → the bytes; `GET ?offset=O&len=L` → a slice
/// verifiable against the id (`bao-tree`, 64 KiB groups), with the blob's length in `Content-Range: bytes a-b/length`.
pub const BLOB: &str = "/v1/dbs/{db}/blobs/{blob}";
/// `GET` → [`Room`](super::Room), for members.
pub const ROOM: &str = "/v1/dbs/{db}/room";
/// `POST` [`LockCall`](super::LockCall) → [`LockAnswer`](super::LockAnswer).
pub const LOCKS: &str = "/v1/dbs/{db}/locks";
/// `GET` → server-sent events of the caller ([`HeadEvent`](super::HeadEvent), [`LockEvent`](super::LockEvent)).
pub const EVENTS: &str = "/v1/events";
/// `PUT` and `GET` [`Letter`](super::Letter). Without a token, but for putting an offer or answer.
pub const MAILBOX: &str = "/v1/mailboxes/{mailbox}/{side}";
/// `POST` [`Admit`](super::Admit) → [`Admitted`](super::Admitted).
pub const ADMISSIONS: &str = "/v1/admissions";
/// `POST` [`Redeem`](super::Redeem) → [`Redeeming`](super::Redeeming), by who is no member yet; `GET` →
/// [`Redemptions`](super::Redemptions), by who administers the folder.
pub const REDEMPTIONS: &str = "/v1/dbs/{db}/redemptions";
/// `POST` [`RevocationRequest`](super::RevocationRequest) → [`AccountEntries`](super::AccountEntries). Without a token.
pub const REVOCATION: &str = "/v1/login/revocation";
/// `GET` → 200 when the server and its stores work. Without a token. The answer's `Date` is the server's clock.
pub const HEALTHZ: &str = "/healthz";

/// Name of the query parameter of [`ACCOUNT_LOG`] and [`ENTRIES`]: the sequence number before the first wanted entry.
pub const AFTER: &str = "after";
/// Name of the query parameter of [`ENTRIES`]: bytes of entries wanted at most.
pub const MAX_BYTES: &str = "max_bytes";
/// Name of the query parameter of [`BLOB`]: first byte wanted.
pub const OFFSET: &str = "offset";
/// Name of the query parameter of [`BLOB`]: number of bytes wanted.
pub const LEN: &str = "len";

/// Path of an account's log.
pub fn account_log(account: &AccountId) -> String {
    format!("/v1/accounts/{account}/log")
}

/// Path and query of an account's entries after `after`.
pub fn account_log_after(account: &AccountId, after: u64) -> String {
    format!("/v1/accounts/{account}/log?{AFTER}={after}")
}

/// Path of a folder's entries.
pub fn entries(db: &DbId) -> String {
    format!("/v1/dbs/{db}/entries")
}

/// Path and query of a folder's entries after `after`, at most `max_bytes` of them.
pub fn entries_after(db: &DbId, after: u64, max_bytes: u64) -> String {
    format!("/v1/dbs/{db}/entries?{AFTER}={after}&{MAX_BYTES}={max_bytes}")
}

/// Path of the caller's box beside entry `seq`.
pub fn member_box(db: &DbId, seq: u64) -> String {
    format!("/v1/dbs/{db}/boxes/{seq}")
}

/// Path where a client asks which blobs are missing.
pub fn blobs_missing(db: &DbId) -> String {
    format!("/v1/dbs/{db}/blobs/missing")
}

/// Path of calls about a folder's locks.
pub fn locks(db: &DbId) -> String {
    format!("/v1/dbs/{db}/locks")
}

/// Path of what the server tells about a folder's room.
pub fn room(db: &DbId) -> String {
    format!("/v1/dbs/{db}/room")
}

/// Path of a blob.
pub fn blob(db: &DbId, blob: &BlobId) -> String {
    format!("/v1/dbs/{db}/blobs/{blob}")
}

/// Path and query of a verifiable range of a blob.
pub fn blob_range(db: &DbId, blob: &BlobId, offset: u64, len: u64) -> String {
    format!("/v1/dbs/{db}/blobs/{blob}?{OFFSET}={offset}&{LEN}={len}")
}

/// Path of one side of a mailbox.
pub fn mailbox(mailbox: &MailboxId, side: Side) -> String {
    format!("/v1/mailboxes/{mailbox}/{}", side.name())
}

/// Path of a folder's waiting redemptions.
pub fn redemptions(db: &DbId) -> String {
    format!("/v1/dbs/{db}/redemptions")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a pattern becomes with these values.
    fn filled(pattern: &str, values: &[(&str, String)]) -> String {
        values.iter().fold(pattern.to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value))
    }

    #[test]
    fn the_functions_fill_the_patterns_that_the_server_matches() {
        let (account, db, id) = (AccountId([1; 32]), DbId([2; 32]), BlobId([0xab; 32]));
        let values = [
            ("account", account.to_string()),
            ("db", db.to_string()),
            ("blob", id.to_string()),
            ("seq", "7".to_owned()),
            ("mailbox", MailboxId([3; 32]).to_string()),
            ("side", "answer".to_owned()),
        ];
        assert_eq!(mailbox(&MailboxId([3; 32]), Side::Answer), filled(MAILBOX, &values));
        assert_eq!(redemptions(&db), filled(REDEMPTIONS, &values));
        assert_eq!(account_log(&account), filled(ACCOUNT_LOG, &values));
        assert_eq!(entries(&db), filled(ENTRIES, &values));
        assert_eq!(member_box(&db, 7), filled(BOX, &values));
        assert_eq!(locks(&db), filled(LOCKS, &values));
        assert_eq!(room(&db), filled(ROOM, &values));
        assert_eq!(blobs_missing(&db), filled(BLOBS_MISSING, &values));
        assert_eq!(blob(&db, &id), filled(BLOB, &values));
        assert_eq!(blob_range(&db, &id, 1, 2), format!("{}?offset=1&len=2", filled(BLOB, &values)));
        assert_eq!(entries_after(&db, 1, 2), format!("{}?after=1&max_bytes=2", filled(ENTRIES, &values)));
        assert_eq!(account_log_after(&account, 1), format!("{}?after=1", filled(ACCOUNT_LOG, &values)));
    }
}
