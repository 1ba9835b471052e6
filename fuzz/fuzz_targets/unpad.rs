//! Padding, wrapped keystores and sealed chunks from hostile bytes: an error or the one right value, never a panic.
#![no_main]

use kegfs::crypto::{padme, password};
use kegfs::keyring::{Identity, KeyRing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(content) = padme::unpad(bytes) {
        assert_eq!(padme::pad(content.to_vec()), bytes);
    }
    let _ = password::params_of(bytes);
    let _ = Identity::from_bytes(bytes);
    let _ = KeyRing::from_bytes(bytes);
});
