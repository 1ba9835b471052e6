//! The situations in which cryptography refuses.

use thiserror::Error;

/// Why an operation of this room refused. Carries nothing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CryptoError {
    /// The bytes are not what the holder of the key made, in whatever way. Deliberately one
    /// variant for every cause: an attacker who can tell them apart has an oracle.
    #[error("authentication failed: the data was altered or belongs elsewhere")]
    AuthenticationFailed,
    /// The bytes cannot be of this kind: too short, a wrong magic, a wrong length. Decided from
    /// public bytes alone, before any key is used.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A public key that nobody honest could have made.
    #[error("unusable public key")]
    BadPublicKey,
    /// Passphrase hashing was asked for with parameters outside the bounds of
    /// [`password`](super::password). Nothing was hashed.
    #[error("passphrase hashing parameters out of bounds: {memory_kib} KiB, {passes} passes, {lanes} lanes")]
    ParamsOutOfBounds {
        /// Memory asked for, KiB.
        memory_kib: u32,
        /// Passes asked for.
        passes: u32,
        /// Lanes asked for.
        lanes: u32,
    },
    /// The memory for passphrase hashing could not be had.
    #[error("not enough memory to hash the passphrase: {memory_kib} KiB needed")]
    OutOfMemory {
        /// Memory needed, KiB.
        memory_kib: u32,
    },
    /// The passphrase does not open the wrapped secret, or the wrapped secret was altered: the two
    /// cannot be told apart.
    #[error("wrong passphrase, or the wrapped secret was altered")]
    WrongPassphrase,
}
