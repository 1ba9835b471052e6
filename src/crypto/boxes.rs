//! Boxes: a small secret sealed to one public key, safe against quantum computers too.
//!
//! # Construction
//! HPKE (RFC 9180), base mode, suite: X-Wing KEM (0x647a, draft-connolly-cfrg-xwing-kem;
//! ML-KEM-768 and X25519), HKDF-SHA256 (0x0001), export-only AEAD (0xffff).
//! - HPKE `info` = hash([`BOX_INFO`](super::labels::BOX_INFO), info): 32 bytes whatever the length.
//! - payload key = HPKE `Export`([`BOX_EXPORT`](super::labels::BOX_EXPORT), 32 bytes).
//! - payload = [`aead::seal`] (payload key, aad = info, payload).
//!
//! # Layout
//! `enc (1120) ‖ nonce (24) ‖ ciphertext ‖ tag (16)`
//!
//! # The caller's duty
//! `info` names what the box is for and whom it is from and to (folder, epoch, account, generation):
//! a box opens under the same `info` only, which is what stops it from being moved (THREATS row
//! 11). A box does not say who made it: a signature or a commitment in a signed entry does.

use std::convert::Infallible;
use std::fmt;

use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, XWing};
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use super::{CryptoError, Key, aead, kdf, labels};
use crate::sys::random;

/// Bytes of a public key.
pub const PUBLIC: usize = 1216;
/// Bytes of the encapsulated key at the beginning of a box.
pub const ENC: usize = 1120;
/// Bytes by which a box is longer than its payload.
pub const OVERHEAD: usize = ENC + aead::OVERHEAD;

/// A secret X-Wing key, made from a 32-byte seed. Wiped when dropped, never printed.
pub struct KemSecret {
    seed: Zeroizing<[u8; 32]>,
    secret: <XWing as Kem>::PrivateKey,
}

impl KemSecret {
    /// A fresh key.
    pub fn random() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        random::fill(&mut seed[..]);
        Self::from_seed(&seed)
    }

    /// The key of a seed (the decapsulation key of the X-Wing draft, section 5.2).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        // Only the length is checked, and it is right.
        #[allow(clippy::expect_used)]
        let secret = <XWing as Kem>::PrivateKey::from_bytes(seed).expect("a seed of 32 bytes");
        Self { seed: Zeroizing::new(*seed), secret }
    }

    /// The seed, to be kept in the keystore.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub fn public(&self) -> KemPublic {
        let key = XWing::sk_to_pk(&self.secret);
        let mut bytes = Box::new([0; PUBLIC]);
        key.write_exact(&mut bytes[..]);
        KemPublic { bytes, key }
    }
}

/// A public X-Wing key that passed its checks.
#[derive(Clone)]
pub struct KemPublic {
    bytes: Box<[u8; PUBLIC]>,
    key: <XWing as Kem>::PublicKey,
}

impl KemPublic {
    /// Takes 1,216 bytes that may come from anyone.
    ///
    /// # Errors
    /// [`CryptoError::BadPublicKey`] for another length, or when the ML-KEM part is not reduced
    /// (FIPS 203, section 7.2, modulus check).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        let exact: [u8; PUBLIC] = bytes.try_into().map_err(|_| CryptoError::BadPublicKey)?;
        let key = <XWing as Kem>::PublicKey::from_bytes(bytes).map_err(|_| CryptoError::BadPublicKey)?;
        Ok(Self { bytes: Box::new(exact), key })
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; PUBLIC] {
        &self.bytes
    }
}

impl PartialEq for KemPublic {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for KemPublic {}

impl fmt::Debug for KemPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KemPublic({}…)", hex::encode(&self.bytes[..8]))
    }
}

/// Seals `payload` to the holder of `to`, bound to `info`.
pub fn seal(to: &KemPublic, info: &[u8], payload: &[u8]) -> Vec<u8> {
    seal_with(to, info, payload, &mut SystemRng, &random::array())
}

fn seal_with(
    to: &KemPublic,
    info: &[u8],
    payload: &[u8],
    rng: &mut impl hpke::rand_core::CryptoRng,
    nonce: &[u8; aead::NONCE],
) -> Vec<u8> {
    let info_hash = kdf::hash(labels::BOX_INFO, &[info]);
    // X-Wing encapsulation to a key that passed its checks cannot fail, nor can an export of 32 bytes.
    #[allow(clippy::expect_used)]
    let (enc, payload_key) = {
        let (enc, context) =
            hpke::setup_sender_with_rng::<ExportOnlyAead, HkdfSha256, XWing>(&OpModeS::Base, &to.key, &info_hash, rng)
                .expect("encapsulation to a checked key");
        (enc, export(|out| context.export(labels::BOX_EXPORT.as_bytes(), out)).expect("32 bytes"))
    };
    let body = aead::seal_with_nonce(&payload_key, nonce, info, payload);
    let mut sealed = vec![0; ENC + body.len()];
    enc.write_exact(&mut sealed[..ENC]);
    sealed[ENC..].copy_from_slice(&body);
    sealed
}

/// Opens what [`seal`] made to `secret`'s public half under the same `info`.
///
/// # Errors
/// [`CryptoError::AuthenticationFailed`] for anything else, however it differs.
pub fn open(secret: &KemSecret, info: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (enc, body) = sealed.split_at_checked(ENC).ok_or(CryptoError::AuthenticationFailed)?;
    let info_hash = kdf::hash(labels::BOX_INFO, &[info]);
    let payload_key = <XWing as Kem>::EncappedKey::from_bytes(enc)
        .and_then(|enc| {
            hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, XWing>(&OpModeR::Base, &secret.secret, &enc, &info_hash)
        })
        .and_then(|context| export(|out| context.export(labels::BOX_EXPORT.as_bytes(), out)))
        .map_err(|_| CryptoError::AuthenticationFailed)?;
    aead::open(&payload_key, info, body)
}

fn export(fill: impl FnOnce(&mut [u8]) -> Result<(), hpke::HpkeError>) -> Result<Key, hpke::HpkeError> {
    let mut key = Zeroizing::new([0; 32]);
    fill(&mut key[..])?;
    Ok(Key::from_bytes(*key))
}

/// [`random`] in the shape that HPKE takes.
struct SystemRng;

impl TryRng for SystemRng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_ne_bytes(random::array()))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_ne_bytes(random::array()))
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        random::fill(out);
        Ok(())
    }
}

impl TryCryptoRng for SystemRng {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Hands out given bytes: makes encapsulation repeatable.
    struct Given(Vec<u8>);

    impl TryRng for Given {
        type Error = Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("encapsulation draws bytes")
        }
        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("encapsulation draws bytes")
        }
        fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
            let rest = self.0.split_off(out.len());
            out.copy_from_slice(&self.0);
            self.0 = rest;
            Ok(())
        }
    }

    impl TryCryptoRng for Given {}

    /// draft-connolly-cfrg-xwing-kem, appendix C, first vector.
    const SEED: &str = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26";
    const ESEED: &str = "3cb1eea988004b93103cfb0aeefd2a686e01fa4a58e8a3639ca8a1e3f9ae57e2\
        35b8cc873c23dc62b8d260169afa2f75ab916a58d974918835d25e6a435085b2";
    const SHARED: &str = "d2df0522128f09dd8e2c92b1e905c793d8f57a54c3da25861f10bf4ca613e384";

    fn secret() -> KemSecret {
        KemSecret::from_seed(&hex::decode(SEED).unwrap().try_into().unwrap())
    }

    #[test]
    fn the_kem_is_x_wing_of_the_draft() {
        let public = secret().public();
        assert_eq!(hex::encode(&public.as_bytes()[..16]), "e2236b35a8c24b39b10aa1323a96a919");
        let mut given = Given(hex::decode(ESEED).unwrap());
        let (shared, enc) = XWing::encap_with_rng(&public.key, None, &mut given).unwrap();
        assert_eq!(hex::encode(&enc.to_bytes()[..16]), "b83aa828d4d62b9a83ceffe1d3d3bb1e");
        assert_eq!(hex::encode(&shared.0[..]), SHARED);
    }

    #[test]
    fn a_box_with_given_randomness_is_frozen() {
        let mut given = Given(hex::decode(ESEED).unwrap());
        let sealed = seal_with(&secret().public(), b"info", b"payload", &mut given, &[9; 24]);
        assert_eq!(sealed.len(), OVERHEAD + 7);
        assert_eq!(
            hex::encode(&sealed[ENC..]),
            "090909090909090909090909090909090909090909090909b9daa98563cc27107fabac9ede466e13d69886a562dcac"
        );
        assert_eq!(
            blake3::hash(&sealed).to_hex().as_str(),
            "ea0fa99f80cc718784d75b8799723071e212ec5acd755370a2419d65f9a06479"
        );
        assert_eq!(&**open(&secret(), b"info", &sealed).unwrap(), b"payload");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_box_is_refused() {
        let (secret, payload) = (secret(), [7; 64]);
        let sealed = seal(&secret.public(), b"info", &payload);
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&secret, b"info", &bad).unwrap_err(), CryptoError::AuthenticationFailed, "bit {bit}");
        }
        for len in (0..sealed.len()).step_by(7).chain([ENC - 1, ENC, sealed.len() - 1]) {
            assert_eq!(open(&secret, b"info", &sealed[..len]).unwrap_err(), CryptoError::AuthenticationFailed);
        }
        assert!(open(&secret, b"info", &[&sealed[..], &[0]].concat()).is_err());
    }

    #[test]
    fn another_receiver_or_purpose_is_refused() {
        let (alice, eve) = (KemSecret::random(), KemSecret::random());
        let sealed = seal(&alice.public(), b"folder A", b"secret");
        assert_eq!(&**open(&alice, b"folder A", &sealed).unwrap(), b"secret");
        assert!(open(&eve, b"folder A", &sealed).is_err());
        assert!(open(&alice, b"folder B", &sealed).is_err());
        assert!(open(&alice, b"", &sealed).is_err());
    }

    #[test]
    fn info_and_payload_of_any_length_are_sealed() {
        let alice = KemSecret::random();
        let long = vec![3; 100_000]; // beyond what HPKE itself takes as info
        for (info, payload) in [(&[][..], &[][..]), (&long, &long)] {
            let sealed = seal(&alice.public(), info, payload);
            assert_eq!(&**open(&alice, info, &sealed).unwrap(), payload);
        }
    }

    #[test]
    fn public_keys_round_trip_and_impossible_ones_are_refused() {
        let alice = KemSecret::random();
        let public = alice.public();
        assert!(KemPublic::from_bytes(public.as_bytes()).unwrap() == public);
        assert!(KemSecret::from_seed(alice.seed()).public() == public);
        for len in [0, PUBLIC - 1, PUBLIC + 1] {
            assert_eq!(KemPublic::from_bytes(&vec![0; len]).unwrap_err(), CryptoError::BadPublicKey);
        }
        // Coefficients of 0xfff are above q = 3329.
        assert_eq!(KemPublic::from_bytes(&[0xff; PUBLIC]).unwrap_err(), CryptoError::BadPublicKey);
    }
}
