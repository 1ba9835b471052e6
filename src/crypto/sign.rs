//! Signatures: Ed25519, verified strictly, over domain-tagged messages.
//!
//! # Construction
//! Ed25519 (RFC 8032) over `tag length (1 byte) ‖ tag ‖ message`. The tag says what the signature
//! is for, so that a login answer can never be an entry of a log (THREATS row 36).
//!
//! Verification is strict: besides what RFC 8032, section 5.1.7 demands without the cofactor, keys
//! and `R` of small order are refused, and so are keys in non-canonical encodings. One signature
//! thus verifies for one key and one message only, and all members agree on which entries
//! are valid.
//!
//! # The caller's duty
//! Verify over the received bytes first, decode afterwards. `domain` is a constant of
//! [`labels`](super::labels).

use std::fmt;

use ed25519_dalek::Signer;
use zeroize::Zeroizing;

use super::CryptoError;
use crate::sys::random;

/// A secret signing key. Wiped when dropped, never printed.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A fresh key.
    pub fn random() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        random::fill(&mut seed[..]);
        Self::from_seed(&seed)
    }

    /// The key of a 32-byte seed (the "private key" of RFC 8032).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, to be kept in the keystore.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` for the purpose `domain`. Deterministic.
    pub fn sign(&self, domain: &'static str, message: &[u8]) -> Signature {
        Signature(self.0.sign(&tagged(domain, message)).to_bytes())
    }
}

/// The public half of a [`SigningKey`], as 32 bytes that may come from anyone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerifyingKey(pub [u8; 32]);

impl VerifyingKey {
    /// Verifies that the holder of the key signed `message` for the purpose `domain`.
    ///
    /// # Errors
    /// [`CryptoError::BadPublicKey`] as [`validate`](Self::validate);
    /// [`CryptoError::AuthenticationFailed`] for anything else.
    pub fn verify(&self, domain: &'static str, message: &[u8], signature: &Signature) -> Result<(), CryptoError> {
        self.parse()?
            .verify_strict(&tagged(domain, message), &ed25519_dalek::Signature::from_bytes(&signature.0))
            .map_err(|_| CryptoError::AuthenticationFailed)
    }

    /// Checks that this is a key that somebody honest could have: a canonical encoding of a point
    /// that is not of small order. Worth doing once, where a key enters a log.
    ///
    /// # Errors
    /// [`CryptoError::BadPublicKey`].
    pub fn validate(&self) -> Result<(), CryptoError> {
        self.parse().map(|_| ())
    }

    fn parse(&self) -> Result<ed25519_dalek::VerifyingKey, CryptoError> {
        if !is_canonical(&self.0) {
            return Err(CryptoError::BadPublicKey);
        }
        ed25519_dalek::VerifyingKey::from_bytes(&self.0)
            .ok()
            .filter(|key| !key.is_weak())
            .ok_or(CryptoError::BadPublicKey)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", hex::encode(self.0))
    }
}

/// A signature, as 64 bytes that may come from anyone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(self.0))
    }
}

/// Whether the y coordinate in `encoded` is below p = 2^255 - 19 (RFC 8032, section 5.1.3, step 1).
fn is_canonical(encoded: &[u8; 32]) -> bool {
    let low = encoded[0];
    let high = encoded[31] & 0x7f;
    !(high == 0x7f && low >= 0xed && encoded[1..31].iter().all(|b| *b == 0xff))
}

fn tagged(domain: &'static str, message: &[u8]) -> Vec<u8> {
    debug_assert!(domain.len() < 256, "labels are short, a test of `labels` says so");
    let mut bytes = Vec::with_capacity(1 + domain.len() + message.len());
    bytes.push(domain.len() as u8);
    bytes.extend_from_slice(domain.as_bytes());
    bytes.extend_from_slice(message);
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::labels::{SIGN_ENTRY, SIGN_LOGIN};
    use proptest::prelude::*;

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn the_curve_is_ed25519_of_rfc_8032() {
        // RFC 8032, section 7.1, TEST 2; the primitive, below the domain tag.
        let key = SigningKey::from_seed(&unhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"));
        assert_eq!(
            hex::encode(key.verifying_key().0),
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
        );
        assert_eq!(
            hex::encode(key.0.sign(&[0x72]).to_bytes()),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
    }

    #[test]
    fn the_tag_is_prefixed_by_its_length_in_one_byte() {
        assert_eq!(tagged("ab", b"cd"), b"\x02abcd");
        let key = SigningKey::from_seed(&[5; 32]);
        let signature = key.sign(SIGN_ENTRY, b"message");
        let raw = [&[SIGN_ENTRY.len() as u8], SIGN_ENTRY.as_bytes(), b"message"].concat();
        assert_eq!(signature.0, key.0.sign(&raw).to_bytes());
        assert_eq!(
            hex::encode(signature.0),
            "ae675db7756f9385925e39b66b64ad4a3f4a004babe51e82d30b2923bcf85575e12d6d419dad2d2f93fc4bfa2ea482b62880717876d9e90da7aa90b9e7ee4401"
        );
    }

    #[test]
    fn a_login_answer_is_not_an_entry() {
        let key = SigningKey::random();
        let signature = key.sign(SIGN_LOGIN, b"bytes");
        let public = key.verifying_key();
        public.verify(SIGN_LOGIN, b"bytes", &signature).unwrap();
        assert_eq!(public.verify(SIGN_ENTRY, b"bytes", &signature), Err(CryptoError::AuthenticationFailed));
    }

    #[test]
    fn every_flipped_bit_of_signature_message_and_key_is_refused() {
        let key = SigningKey::from_seed(&[5; 32]);
        let (public, message) = (key.verifying_key(), *b"a message");
        let signature = key.sign(SIGN_ENTRY, &message);
        for bit in 0..512 {
            let mut bad = signature;
            bad.0[bit / 8] ^= 1 << (bit % 8);
            assert!(public.verify(SIGN_ENTRY, &message, &bad).is_err(), "bit {bit}");
        }
        for bit in 0..message.len() * 8 {
            let mut bad = message;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(public.verify(SIGN_ENTRY, &bad, &signature).is_err(), "bit {bit}");
        }
        for bit in 0..256 {
            let mut bad = public;
            bad.0[bit / 8] ^= 1 << (bit % 8);
            assert!(bad.verify(SIGN_ENTRY, &message, &signature).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn malleated_s_plus_group_order_is_refused() {
        let order: [u8; 32] = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let key = SigningKey::from_seed(&[5; 32]);
        let mut signature = key.sign(SIGN_ENTRY, b"m");
        let mut carry = 0;
        for (s, l) in signature.0[32..].iter_mut().zip(order) {
            let sum = u16::from(*s) + u16::from(l) + carry;
            *s = sum as u8;
            carry = sum >> 8;
        }
        assert_eq!(carry, 0);
        assert!(key.verifying_key().verify(SIGN_ENTRY, b"m", &signature).is_err());
    }

    #[test]
    fn small_order_keys_sign_nothing() {
        // The identity verifies S = 0, R = identity over any message where checks are lax.
        let identity = VerifyingKey(unhex(&format!("01{}", "00".repeat(31))));
        let mut forged = Signature([0; 64]);
        forged.0[0] = 1;
        assert_eq!(identity.verify(SIGN_ENTRY, b"any", &forged), Err(CryptoError::BadPublicKey));
        // y = 0 (order 4), y = -1 (order 2) and a point of order 8.
        for weak in [
            "00".repeat(32),
            format!("ec{}7f", "ff".repeat(30)),
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05".to_owned(),
        ] {
            assert_eq!(VerifyingKey(unhex(&weak)).validate(), Err(CryptoError::BadPublicKey), "{weak}");
        }
    }

    #[test]
    fn keys_that_encode_y_above_p_are_refused() {
        for low in 0xed..=0xff_u8 {
            for high in [0x7f, 0xff] {
                let mut encoded = [0xff; 32];
                (encoded[0], encoded[31]) = (low, high);
                assert_eq!(VerifyingKey(encoded).validate(), Err(CryptoError::BadPublicKey));
            }
        }
        assert!(SigningKey::random().verifying_key().validate().is_ok());
    }

    proptest! {
        #[test]
        fn what_was_signed_verifies_and_seeds_round_trip(seed: [u8; 32], message: Vec<u8>) {
            let key = SigningKey::from_seed(&seed);
            let signature = key.sign(SIGN_ENTRY, &message);
            prop_assert_eq!(key.verifying_key().verify(SIGN_ENTRY, &message, &signature), Ok(()));
            prop_assert_eq!(*key.seed(), seed);
        }

        #[test]
        fn any_32_bytes_as_a_key_never_panic(bytes: [u8; 32], signature in proptest::collection::vec(any::<u8>(), 64)) {
            let signature = Signature(signature.try_into().unwrap());
            prop_assert!(VerifyingKey(bytes).verify(SIGN_ENTRY, b"m", &signature).is_err());
        }
    }
}
