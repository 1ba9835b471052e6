//! The keystore file: this device's keys, wrapped under the passphrase.
//!
//! Must not keep the passphrase, and leaves no plaintext behind: what is opened lies in locked memory
//! or is wiped when dropped.
//!
//! Layout: magic `KegFSks\x01` (8 bytes), checksum of the rest (32 bytes), the wrapped identity
//! ([`crate::crypto::password`]). The checksum is of ciphertext and proves nothing to nobody; it only
//! tells a damaged file from a wrong passphrase, which the wrapping alone cannot.

use std::fs;
use std::io;
use std::path::Path;

use super::failure::{Code, Failure};
use super::passphrase::Passphrase;
use crate::crypto::{CryptoError, kdf, password};
use crate::keyring::Identity;
use crate::sys::files;

const MAGIC: &[u8; 8] = b"KegFSks\x01";
const CHECKSUM: usize = 32;
const CHECKSUM_CONTEXT: &str = "KegFS v1 keystore checksum";
/// Binds the wrapped bytes to their purpose.
const AAD: &[u8] = b"keystore";
/// No keystore is longer: a hundred thousand key generations.
const MOST_BYTES: u64 = 8 << 20;

/// Wraps `identity` and writes it to `path`, durable and all or nothing.
///
/// # Errors
/// When the memory for hashing or the room on the disk is missing.
pub fn write(path: &Path, identity: &Identity, passphrase: &Passphrase, cost: password::Params) -> Result<(), Failure> {
    let wrapped = password::wrap(passphrase, &identity.to_bytes(), cost, AAD).map_err(|error| refused(path, error))?;
    let mut bytes = Vec::with_capacity(MAGIC.len() + CHECKSUM + wrapped.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&kdf::hash(CHECKSUM_CONTEXT, &[&wrapped]));
    bytes.extend_from_slice(&wrapped);
    files::write_atomic(path, &bytes, 0o600).map_err(|error| Failure::io("writing the keystore", path, &error))
}

/// The wrapped bytes at `path`, checked for damage; nothing is hashed yet, so that a damaged file is
/// told before a passphrase is asked for.
///
/// # Errors
/// [`Code::Corrupt`] with the next step.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Code::Corrupt,
            format!(
                "the keystore {} is missing; restore it from a backup: without it the keys of this device are gone",
                path.display()
            ),
        ),
        _ => Failure::io("reading the keystore", path, &error),
    };
    if fs::metadata(path).map_err(failed)?.len() > MOST_BYTES {
        return Err(corrupt(path, "it is far too long"));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| corrupt(path, "it does not begin like one"))?;
    let (checksum, wrapped) = rest.split_at_checked(CHECKSUM).ok_or_else(|| corrupt(path, "it is cut off"))?;
    if *checksum != kdf::hash(CHECKSUM_CONTEXT, &[wrapped]) {
        return Err(corrupt(path, "its checksum is wrong"));
    }
    Ok(wrapped.to_vec())
}

/// Opens what [`read`] returned.
///
/// # Errors
/// [`Code::WrongPassphrase`], among others.
pub fn open(path: &Path, wrapped: &[u8], passphrase: &Passphrase) -> Result<Identity, Failure> {
    let opened = password::unwrap(passphrase, wrapped, AAD).map_err(|error| refused(path, error))?;
    Identity::from_bytes(&opened).map_err(|error| corrupt(path, &error.to_string()))
}

fn refused(path: &Path, error: CryptoError) -> Failure {
    match error {
        CryptoError::WrongPassphrase => Failure::new(
            Code::WrongPassphrase,
            format!("wrong passphrase for {}; nothing was changed, try again", path.display()),
        ),
        CryptoError::OutOfMemory { .. } => {
            Failure::new(Code::Failure, format!("{error}; close other programs and try again"))
        }
        CryptoError::Malformed(_)
        | CryptoError::ParamsOutOfBounds { .. }
        | CryptoError::AuthenticationFailed
        | CryptoError::BadPublicKey => corrupt(path, &error.to_string()),
    }
}

fn corrupt(path: &Path, what: &str) -> Failure {
    Failure::new(
        Code::Corrupt,
        format!(
            "the keystore {} is damaged ({what}); restore it from a backup; the folders on the server and what other members see are not affected",
            path.display()
        ),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::crypto::Key;
    use crate::format::AccountId;
    use crate::keyring::{DeviceSecrets, UserKeySeed};
    use zeroize::Zeroizing;

    fn identity() -> Identity {
        Identity {
            account: AccountId([7; 32]),
            device: DeviceSecrets::random(),
            user_keys: [(0, UserKeySeed::random())].into(),
            local: Key::random(),
        }
    }

    fn passphrase(text: &str) -> Passphrase {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    fn written() -> (tempfile::TempDir, std::path::PathBuf, Identity) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keystore");
        let identity = identity();
        write(&path, &identity, &passphrase("right"), password::Params::MINIMUM).unwrap();
        (dir, path, identity)
    }

    #[test]
    fn what_was_written_opens_with_the_same_passphrase_only() {
        let (_dir, path, identity) = written();
        let wrapped = read(&path).unwrap();
        let opened = open(&path, &wrapped, &passphrase("right")).unwrap();
        assert_eq!(opened.to_bytes(), identity.to_bytes());
        let wrong = open(&path, &wrapped, &passphrase("wrong")).err().unwrap();
        assert_eq!(wrong.code, Code::WrongPassphrase);
    }

    #[test]
    fn damage_anywhere_is_told_from_a_wrong_passphrase() {
        let (_dir, path, _) = written();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            assert_eq!(read(&path).unwrap_err().code, Code::Corrupt, "byte {at}");
        }
        for len in [0, 7, 8, 39, 40, good.len() - 1] {
            fs::write(&path, &good[..len]).unwrap();
            assert_eq!(read(&path).unwrap_err().code, Code::Corrupt, "length {len}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().code, Code::Corrupt);
    }

    #[test]
    fn parameters_that_would_exhaust_the_machine_are_refused_unhashed() {
        let (_dir, path, _) = written();
        let mut wrapped = read(&path).unwrap();
        wrapped[8..12].copy_from_slice(&(64u32 << 20).to_be_bytes());
        assert_eq!(open(&path, &wrapped, &passphrase("right")).err().unwrap().code, Code::Corrupt);
    }

    #[test]
    fn no_secret_stands_in_the_file() {
        let (_dir, path, identity) = written();
        let bytes = fs::read(&path).unwrap();
        let seed = identity.user_keys[&0].as_bytes();
        assert!(!bytes.windows(16).any(|window| seed.windows(16).any(|part| part == window)));
    }
}
