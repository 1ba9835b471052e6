//! Sealing of one message: XChaCha20-Poly1305 with a random nonce.
//!
//! # Construction
//! Cipher key = KDF([`AEAD_CIPHER`](super::labels::AEAD_CIPHER), key); nonce = 24 random bytes;
//! then [`xchacha`](super::xchacha). Random 192-bit nonces do not collide: 2^80 messages under
//! one key leave a chance of 2^-32.
//!
//! # Layout
//! `nonce (24) ‖ ciphertext (as long as the plaintext) ‖ tag (16)`
//!
//! # The caller's duty
//! `aad` names everything that the message belongs to (folder, epoch, author, kind): it is what
//! stops a message from being moved. The AEAD does not commit to the key (THREATS row 24): where
//! the key could come from an attacker, the key must be fixed elsewhere, by a commitment or in a
//! signed entry.

use zeroize::Zeroizing;

use super::xchacha::{NonceSuffix, TAG, fast};
use super::{CryptoError, Key, kdf, labels};
use crate::sys::random;

/// Bytes of the nonce at the beginning.
pub const NONCE: usize = 24;
/// Bytes by which a sealed message is longer than its plaintext.
pub const OVERHEAD: usize = NONCE + TAG;

/// Seals `plaintext` under `key`, bound to `aad`.
pub fn seal(key: &Key, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    seal_with_nonce(key, &random::array(), aad, plaintext)
}

pub(super) fn seal_with_nonce(key: &Key, nonce: &[u8; NONCE], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0; plaintext.len() + OVERHEAD];
    let (head, body) = sealed.split_at_mut(NONCE);
    head.copy_from_slice(nonce);
    let (cipher, suffix) = bind(key, nonce);
    // The body is exactly the plaintext and a tag long, which is the only thing that is checked
    // below 2^38 bytes (RFC 8439, section 2.8).
    #[allow(clippy::expect_used)]
    cipher.seal(&suffix, aad, plaintext, body).expect("a buffer of the right length");
    sealed
}

/// Opens what [`seal`] made with the same `key` and `aad`. The plaintext is wiped when dropped.
///
/// # Errors
/// [`CryptoError::AuthenticationFailed`] for anything else, however it differs.
pub fn open(key: &Key, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let Some((nonce, body)) = sealed.split_first_chunk::<NONCE>() else {
        return Err(CryptoError::AuthenticationFailed);
    };
    let length = body.len().checked_sub(TAG).ok_or(CryptoError::AuthenticationFailed)?;
    let mut plaintext = Zeroizing::new(vec![0; length]);
    let (cipher, suffix) = bind(key, nonce);
    cipher.open(&suffix, aad, body, &mut plaintext)?;
    Ok(plaintext)
}

fn bind(key: &Key, nonce: &[u8; NONCE]) -> (fast::Cipher, NonceSuffix) {
    let mut prefix = [0; 16];
    let mut suffix = [0; 8];
    prefix.copy_from_slice(&nonce[..16]);
    suffix.copy_from_slice(&nonce[16..]);
    let cipher_key = kdf::derive(labels::AEAD_CIPHER, &[key.as_bytes()]);
    (fast::Cipher::new(cipher_key.as_bytes(), &prefix), suffix)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use chacha20poly1305::aead::{Aead, KeyInit, Payload};
    use proptest::prelude::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes([byte; 32])
    }

    #[test]
    fn layout_is_nonce_ciphertext_tag_under_the_derived_key() {
        let sealed = seal_with_nonce(&key(1), &[2; 24], b"aad", b"plaintext");
        assert_eq!(
            hex::encode(&sealed),
            "02020202020202020202020202020202020202020202020283070499dbb58360195bc322aa8b16c5a65fc30d92a517368b"
        );
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let sealed = seal(&key(1), b"aad", b"a small plaintext");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&key(1), b"aad", &bad).unwrap_err(), CryptoError::AuthenticationFailed);
        }
        for len in 0..sealed.len() {
            assert_eq!(open(&key(1), b"aad", &sealed[..len]).unwrap_err(), CryptoError::AuthenticationFailed);
        }
        let longer = [&sealed[..], &[0]].concat();
        assert_eq!(open(&key(1), b"aad", &longer).unwrap_err(), CryptoError::AuthenticationFailed);
    }

    #[test]
    fn another_key_or_aad_is_refused() {
        let sealed = seal(&key(1), b"aad", b"plaintext");
        assert!(open(&key(2), b"aad", &sealed).is_err());
        assert!(open(&key(1), b"aae", &sealed).is_err());
        assert!(open(&key(1), b"", &sealed).is_err());
    }

    #[test]
    fn sealing_twice_gives_different_bytes() {
        assert_ne!(seal(&key(1), b"", b"same"), seal(&key(1), b"", b"same"));
    }

    proptest! {
        #[test]
        fn the_reference_crate_gives_the_same_bytes(
            secret: [u8; 32], nonce: [u8; 24],
            aad in proptest::collection::vec(any::<u8>(), 0..100),
            plaintext in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let key = Key::from_bytes(secret);
            let sealed = seal_with_nonce(&key, &nonce, &aad, &plaintext);
            let cipher_key = kdf::derive(labels::AEAD_CIPHER, &[&secret]);
            let expected = chacha20poly1305::XChaCha20Poly1305::new(cipher_key.as_bytes().into())
                .encrypt(&nonce.into(), Payload { msg: &plaintext, aad: &aad })
                .unwrap();
            prop_assert_eq!(&sealed[..24], &nonce);
            prop_assert_eq!(&sealed[24..], &expected);
            prop_assert_eq!(&**open(&key, &aad, &sealed).unwrap(), &plaintext);
        }
    }
}
