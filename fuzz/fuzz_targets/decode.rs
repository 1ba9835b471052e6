//! No bytes make a decoder panic, and what one accepts is exactly the encoding of what it returns (THREATS row 37).
#![no_main]

use kegfs::format::limits::SUITE;
use kegfs::format::{AccountEntry, Batch, Envelope, Membership, SignedAccountEntry, SignedEntry, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = Envelope::decode(bytes) {
        assert_eq!(encode(&value), bytes);
    }
    if let Ok(value) = Batch::decode(bytes, SUITE) {
        assert_eq!(encode(&value), bytes);
    }
    if let Ok(value) = Membership::decode(bytes, SUITE) {
        assert_eq!(encode(&value), bytes);
    }
    if let Ok(value) = AccountEntry::decode(bytes) {
        assert_eq!(encode(&value), bytes);
    }
    if let Ok(value) = decode::<SignedEntry>(bytes) {
        assert_eq!(encode(&value), bytes);
    }
    if let Ok(value) = decode::<SignedAccountEntry>(bytes) {
        assert_eq!(encode(&value), bytes);
    }
});
