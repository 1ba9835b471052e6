//! Every decoder of bytes that come from outside, as one function: no bytes make one panic, and what one accepts is
//! exactly the encoding of what it returns (THREATS row 37).
//!
//! Shared by the fuzz target `decode`, which runs it for hours with coverage as its guide, and by a test in
//! `tests/adversary`, which runs it for a second on mutations of real objects.

use std::collections::HashMap;

use kegfs::api::{
    AccountEntries, ApiError, AppendAccountEntry, AppendEntry, Appended, BlobIds, Challenge, ChallengeRequest,
    CreateDb, CreatedDb, DbHead, DbList, Entries, HeadEvent, LoginRequest, LoginStatement, MemberBox, Register,
    Registered, Room, Token,
};
use kegfs::crypto::{padme, password, verified};
use kegfs::format::limits::{SUITE, SUITE_OLDEST};
use kegfs::format::{
    AccountEntry, AccountId, Batch, BlobId, Checkpoint, CheckpointState, DbId, DeviceId, Envelope, Head, KeyBox,
    Membership, Record, SignedAccountEntry, SignedEntry, check_name, check_symlink_target, check_xattr_name, decode,
    encode,
};
use kegfs::keyring::{AccountLog, FolderState, Identity, KeyRing};

/// A value has one encoding.
fn one<T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>>(bytes: &[u8]) {
    if let Ok(value) = decode::<T>(bytes) {
        assert_eq!(encode(&value), bytes, "{}", std::any::type_name::<T>());
    }
}

fn same<T: minicbor::Encode<()>, E>(decoded: Result<T, E>, bytes: &[u8]) {
    if let Ok(value) = decoded {
        assert_eq!(encode(&value), bytes, "{}", std::any::type_name::<T>());
    }
}

/// Gives `bytes` to every decoder.
pub fn decode_everything(bytes: &[u8]) {
    // Logs.
    same(Envelope::decode(bytes), bytes);
    same(AccountEntry::decode(bytes), bytes);
    for suite in SUITE_OLDEST..=SUITE {
        same(Batch::decode(bytes, suite), bytes);
        same(Membership::decode(bytes, suite), bytes);
    }
    same(Checkpoint::decode(bytes), bytes);
    same(CheckpointState::decode(bytes), bytes);
    same(Record::decode(bytes), bytes);
    one::<SignedEntry>(bytes);
    one::<SignedAccountEntry>(bytes);
    one::<KeyBox>(bytes);
    one::<Head>(bytes);
    if let Ok(entry) = decode::<SignedAccountEntry>(bytes) {
        let _ = AccountLog::verify(&[entry]);
    }
    // Bodies of requests and answers.
    one::<Register>(bytes);
    one::<Registered>(bytes);
    one::<ChallengeRequest>(bytes);
    one::<Challenge>(bytes);
    one::<LoginRequest>(bytes);
    one::<LoginStatement>(bytes);
    one::<Token>(bytes);
    one::<AccountEntries>(bytes);
    one::<AppendAccountEntry>(bytes);
    one::<CreateDb>(bytes);
    one::<CreatedDb>(bytes);
    one::<DbHead>(bytes);
    one::<DbList>(bytes);
    one::<AppendEntry>(bytes);
    one::<Appended>(bytes);
    one::<Entries>(bytes);
    one::<MemberBox>(bytes);
    one::<Room>(bytes);
    one::<BlobIds>(bytes);
    one::<ApiError>(bytes);
    // Text: ids in paths and the data of events.
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(event) = text.parse::<HeadEvent>() {
            assert_eq!(event.to_string().parse::<HeadEvent>().ok(), Some(event));
        }
        let _ = (text.parse::<DbId>(), text.parse::<AccountId>(), text.parse::<DeviceId>(), text.parse::<BlobId>());
        if let Ok(id) = BlobId::from_canonical(text) {
            assert_eq!(id.to_string(), text);
        }
    }
    // Names from a batch.
    let _ = (check_name(bytes), check_symlink_target(bytes), check_xattr_name(bytes));
    // What is sealed, wrapped, padded or a slice of a blob.
    if let Ok(content) = padme::unpad(bytes) {
        assert_eq!(padme::pad(content.to_vec()), bytes);
    }
    let _ = password::params_of(bytes);
    let (id, rest) = bytes.split_first_chunk::<32>().map_or(([0; 32], bytes), |(id, rest)| (*id, rest));
    let len = rest.iter().take(3).fold(1_u64, |len, byte| len << 8 | u64::from(*byte));
    for range in [0..1, 0..len, len / 2..len, len..len + 1, u64::MAX - 1..u64::MAX] {
        assert!(verified::decode_range(&id, len, range, rest).is_err(), "a range that no id vouches for");
    }
    // What this machine keeps.
    let _ = Identity::from_bytes(bytes);
    let _ = KeyRing::from_bytes(bytes);
    let _ = FolderState::from_bytes(bytes, Head::EMPTY, HashMap::new());
}
