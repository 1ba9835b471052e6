//! A secret wrapped under a passphrase.
//!
//! # Construction
//! Argon2id (RFC 9106, version 0x13) of the passphrase, 32 bytes out; wrap key =
//! KDF([`PASSWORD_WRAP`](super::labels::PASSWORD_WRAP), hash); then [`aead::seal`](super::aead)
//! with aad = header ‖ the caller's aad.
//!
//! # Layout
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 7 | magic `KegFSpw` |
//! | 7 | 1 | version, 1 |
//! | 8 | 4 | memory in KiB, u32 big-endian |
//! | 12 | 4 | passes, u32 big-endian |
//! | 16 | 4 | lanes, u32 big-endian |
//! | 20 | 32 | salt |
//! | 52 | 24 + n + 16 | sealed secret |
//!
//! The parameters come from a file that an attacker may have written, so they are bounded both
//! ways and refused before anything is hashed (THREATS row 34): too little would make an offline
//! search cheap, too much would exhaust the machine.

use argon2::{Algorithm, Argon2, Version};
use zeroize::Zeroizing;

use super::{CryptoError, Key, aead, kdf, labels};
use crate::sys::random;

const MAGIC: &[u8; 7] = b"KegFSpw";
const VERSION: u8 = 1;
const SALT: usize = 32;
const HEADER: usize = 52;
/// Bytes by which the wrapped secret is longer than the secret.
pub const OVERHEAD: usize = HEADER + aead::OVERHEAD;

/// The cost of one guess of the passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Params {
    /// Second recommended option of RFC 9106, section 4, with one lane, because this implementation
    /// computes lanes one after the other: 64 MiB, 3 passes. About 0.3 s a guess in `benches/crypto.rs`, and the
    /// memory fits beside a mount's bound of 400 MB; the first option's 2 GiB would not.
    pub const DEFAULT: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 1 };

    /// The weakest that is accepted: 19 MiB (the least memory that OWASP's password storage guide
    /// recommends for one lane), one pass. For tests, which would otherwise wait.
    pub const MINIMUM: Self = Self { memory_kib: MIN_MEMORY_KIB, passes: 1, lanes: 1 };

    /// Checks the bounds: 19 MiB ≤ memory ≤ 1 GiB, 1 ≤ passes ≤ 16, 1 ≤ lanes ≤ 8.
    ///
    /// # Errors
    /// [`CryptoError::ParamsOutOfBounds`].
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, CryptoError> {
        let within = (MIN_MEMORY_KIB..=MAX_MEMORY_KIB).contains(&memory_kib)
            && (1..=MAX_PASSES).contains(&passes)
            && (1..=MAX_LANES).contains(&lanes);
        if !within {
            return Err(CryptoError::ParamsOutOfBounds { memory_kib, passes, lanes });
        }
        Ok(Self { memory_kib, passes, lanes })
    }

    /// Memory of one guess, KiB.
    pub fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn passes(&self) -> u32 {
        self.passes
    }

    /// Lanes (the memory is divided among them).
    pub fn lanes(&self) -> u32 {
        self.lanes
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::DEFAULT
    }
}

const MIN_MEMORY_KIB: u32 = 19 << 10;
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 8;

/// Wraps `secret` under `passphrase` at the cost `params`, bound to `aad`.
///
/// # Errors
/// [`CryptoError::OutOfMemory`].
pub fn wrap(passphrase: &[u8], secret: &[u8], params: Params, aad: &[u8]) -> Result<Vec<u8>, CryptoError> {
    wrap_with(passphrase, secret, params, aad, &random::array(), &random::array())
}

fn wrap_with(
    passphrase: &[u8],
    secret: &[u8],
    params: Params,
    aad: &[u8],
    salt: &[u8; SALT],
    nonce: &[u8; aead::NONCE],
) -> Result<Vec<u8>, CryptoError> {
    let mut wrapped = Vec::with_capacity(OVERHEAD + secret.len());
    wrapped.extend_from_slice(MAGIC);
    wrapped.push(VERSION);
    for cost in [params.memory_kib, params.passes, params.lanes] {
        wrapped.extend_from_slice(&cost.to_be_bytes());
    }
    wrapped.extend_from_slice(salt);
    let key = wrap_key(passphrase, salt, params)?;
    let bound = [&wrapped[..], aad].concat();
    wrapped.extend(aead::seal_with_nonce(&key, nonce, &bound, secret));
    Ok(wrapped)
}

/// Opens what [`wrap`] made with the same passphrase and `aad`.
///
/// # Errors
/// [`CryptoError::Malformed`] and [`CryptoError::ParamsOutOfBounds`] before anything is hashed;
/// [`CryptoError::OutOfMemory`]; [`CryptoError::WrongPassphrase`].
pub fn unwrap(passphrase: &[u8], wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let (params, salt) = header(wrapped)?;
    let key = wrap_key(passphrase, &salt, params)?;
    let (head, sealed) = wrapped.split_at(HEADER);
    aead::open(&key, &[head, aad].concat(), sealed).map_err(|_| CryptoError::WrongPassphrase)
}

/// The cost that `wrapped` asks for. Hashes nothing.
///
/// # Errors
/// [`CryptoError::Malformed`], [`CryptoError::ParamsOutOfBounds`].
pub fn params_of(wrapped: &[u8]) -> Result<Params, CryptoError> {
    header(wrapped).map(|(params, _)| params)
}

fn header(wrapped: &[u8]) -> Result<(Params, [u8; SALT]), CryptoError> {
    const MALFORMED: CryptoError = CryptoError::Malformed("passphrase-wrapped secret");
    if wrapped.len() < OVERHEAD {
        return Err(MALFORMED);
    }
    let rest = wrapped.strip_prefix(MAGIC).ok_or(MALFORMED)?;
    let (version, rest) = rest.split_first().ok_or(MALFORMED)?;
    if *version != VERSION {
        return Err(MALFORMED);
    }
    let (memory_kib, rest) = rest.split_first_chunk().ok_or(MALFORMED)?;
    let (passes, rest) = rest.split_first_chunk().ok_or(MALFORMED)?;
    let (lanes, rest) = rest.split_first_chunk().ok_or(MALFORMED)?;
    let (salt, _) = rest.split_first_chunk().ok_or(MALFORMED)?;
    let params = Params::new(u32::from_be_bytes(*memory_kib), u32::from_be_bytes(*passes), u32::from_be_bytes(*lanes))?;
    Ok((params, *salt))
}

fn wrap_key(passphrase: &[u8], salt: &[u8; SALT], params: Params) -> Result<Key, CryptoError> {
    Ok(kdf::derive(labels::PASSWORD_WRAP, &[&argon2id(passphrase, salt, params)?[..]]))
}

/// The root key of a short code that two devices share for some minutes: Argon2id at [`Params::DEFAULT`] with a constant
/// salt, since both must come to the same key from the code alone. What a table over all codes would cost is in the
/// documentation of [`words`](super::words).
///
/// # Errors
/// [`CryptoError::OutOfMemory`].
pub fn code_root(code: &[u8]) -> Result<Key, CryptoError> {
    let salt = kdf::hash(labels::CODE_ROOT, &[b"salt"]);
    Ok(kdf::derive(labels::CODE_ROOT, &[&argon2id(code, &salt, Params::DEFAULT)?[..]]))
}

fn argon2id(passphrase: &[u8], salt: &[u8; SALT], params: Params) -> Result<Zeroizing<[u8; 32]>, CryptoError> {
    let Params { memory_kib, passes, lanes } = params;
    let mut hash = Zeroizing::new([0; 32]);
    let cost = argon2::Params::new(memory_kib, passes, lanes, Some(hash.len()))
        .map_err(|_| CryptoError::ParamsOutOfBounds { memory_kib, passes, lanes })?;
    // All else that can fail are lengths, which are constant or (the passphrase) below 4 GiB.
    Argon2::new(Algorithm::Argon2id, Version::V0x13, cost)
        .hash_password_into(passphrase, salt, &mut hash[..])
        .map_err(|_| CryptoError::OutOfMemory { memory_kib })?;
    Ok(hash)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::clock::monotonic;

    const PASS: &[u8] = b"correct horse";

    fn wrapped() -> Vec<u8> {
        wrap_with(PASS, b"root secret", Params::MINIMUM, b"profile", &[3; SALT], &[4; 24]).unwrap()
    }

    #[test]
    fn the_hash_is_argon2id_of_rfc_9106() {
        // RFC 9106, section 5.3.
        let params = argon2::ParamsBuilder::new()
            .m_cost(32)
            .t_cost(3)
            .p_cost(4)
            .data(argon2::AssociatedData::new(&[4; 12]).unwrap())
            .build()
            .unwrap();
        let argon = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
        let mut tag = [0; 32];
        argon.hash_password_into(&[1; 32], &[2; 16], &mut tag).unwrap();
        assert_eq!(hex::encode(tag), "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659");
    }

    #[test]
    fn layout_is_magic_version_costs_salt_and_sealed_secret() {
        let bytes = wrapped();
        assert_eq!(bytes.len(), OVERHEAD + 11);
        let head = ["4b656746537077", "01", "00004c00", "00000001", "00000001", &"03".repeat(32)].concat();
        assert_eq!(hex::encode(&bytes[..HEADER]), head);
        assert_eq!(
            hex::encode(&bytes[HEADER..]),
            "0404040404040404040404040404040404040404040404042f398f8948c706ef7548c5098c5bfe9697252255a57fcc2c094b1e"
        );
        assert_eq!(&**unwrap(PASS, &bytes, b"profile").unwrap(), b"root secret");
    }

    #[test]
    fn a_wrong_passphrase_has_its_own_error() {
        assert_eq!(unwrap(b"wrong", &wrapped(), b"profile").unwrap_err(), CryptoError::WrongPassphrase);
        assert_eq!(unwrap(b"", &wrapped(), b"profile").unwrap_err(), CryptoError::WrongPassphrase);
        assert_eq!(unwrap(PASS, &wrapped(), b"other").unwrap_err(), CryptoError::WrongPassphrase);
    }

    #[test]
    fn costs_out_of_bounds_are_refused_before_hashing() {
        let bytes = wrapped();
        // m = 8 KiB, m = 64 GiB, and both ends of each bound.
        for (at, cost) in [
            (8, 8),
            (8, 64 << 20),
            (8, MIN_MEMORY_KIB - 1),
            (8, MAX_MEMORY_KIB + 1),
            (8, u32::MAX),
            (12, 0),
            (12, 17),
            (12, u32::MAX),
            (16, 0),
            (16, 9),
        ] {
            let mut bad = bytes.clone();
            bad[at..at + 4].copy_from_slice(&u32::to_be_bytes(cost));
            let started = monotonic();
            let refused = unwrap(PASS, &bad, b"profile").unwrap_err();
            assert!(matches!(refused, CryptoError::ParamsOutOfBounds { .. }), "{at} {cost} {refused:?}");
            assert!(started.elapsed().as_millis() < 5, "it hashed first");
        }
        assert!(Params::new(MAX_MEMORY_KIB, 16, 8).is_ok());
        assert_eq!(Params::new(19 << 10, 1, 1), Ok(Params::MINIMUM));
        assert_eq!(Params::new(64 << 10, 3, 1), Ok(Params::default()));
    }

    #[test]
    fn what_is_not_a_wrapped_secret_is_malformed() {
        let bytes = wrapped();
        for len in 0..OVERHEAD {
            assert!(matches!(unwrap(PASS, &bytes[..len], b"profile"), Err(CryptoError::Malformed(_))));
        }
        for bit in 0..64 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(params_of(&bad), Err(CryptoError::Malformed(_))), "bit {bit}");
        }
        assert_eq!(params_of(&bytes), Ok(Params::MINIMUM));
    }

    #[test]
    fn every_flipped_bit_of_salt_and_sealed_secret_is_refused() {
        let bytes = wrapped();
        // Costs: a flip within the bounds is another, legal cost, and fails by the hash. One of each.
        let mut bits: Vec<usize> = vec![8 * 8 + 15, 12 * 8 + 31, 16 * 8 + 31];
        // Hashing is what takes time: salt by every byte, and what is sealed (one hash) by every bit.
        bits.extend((20..HEADER).step_by(4).map(|byte| byte * 8 + byte % 8));
        for bit in bits {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (7 - bit % 8);
            let refused = unwrap(PASS, &bad, b"profile").unwrap_err();
            assert!(
                matches!(refused, CryptoError::WrongPassphrase | CryptoError::ParamsOutOfBounds { .. }),
                "bit {bit}: {refused:?}"
            );
        }
        let (params, salt) = header(&bytes).unwrap();
        let key = wrap_key(PASS, &salt, params).unwrap();
        let bound = [&bytes[..HEADER], b"profile"].concat();
        assert!(aead::open(&key, &bound, &bytes[HEADER..]).is_ok());
        for bit in 0..(bytes.len() - HEADER) * 8 {
            let mut bad = bytes[HEADER..].to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(aead::open(&key, &bound, &bad).is_err(), "bit {bit}");
        }
        for bit in 0..HEADER * 8 {
            let mut bad = bound.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(aead::open(&key, &bad, &bytes[HEADER..]).is_err(), "header bit {bit}");
        }
    }

    #[test]
    fn wrapping_twice_gives_other_salt_and_bytes() {
        let one = wrap(PASS, b"s", Params::MINIMUM, b"").unwrap();
        let two = wrap(PASS, b"s", Params::MINIMUM, b"").unwrap();
        assert_ne!(one[20..HEADER], two[20..HEADER]);
        assert_eq!(*unwrap(PASS, &one, b"").unwrap(), *unwrap(PASS, &two, b"").unwrap());
    }
}
