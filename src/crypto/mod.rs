//! The cryptography of KegFS over zeroising key types: AEAD, chunks, KDF, signatures, boxes,
//! the passphrase wrap, Merkle trees, padding and verified ranges.
//!
//! This room composes published constructions and invents none. It must not know what is being
//! protected: no logs, no roles, no files, no network, no database. It never logs, and its errors
//! carry no secret and no detail about why an authentication failed (THREATS row 35).
//!
//! Rules that hold in every file:
//! - No secret is used directly as a cipher key: always a labelled KDF of it ([`kdf`], [`labels`]).
//! - Every hash, commitment and signature names its purpose (domain separation).
//! - What is decrypted was authenticated first; a failed `open` leaves no plaintext behind.
//! - Both implementations of XChaCha20-Poly1305 ([`xchacha`]) give the same bytes.

pub mod aead;
pub mod boxes;
pub mod chunk;
pub mod compare;
mod error;
pub mod kdf;
mod key;
pub mod labels;
pub mod merkle;
pub mod padme;
pub mod password;
pub mod sign;
pub mod verified;
pub mod words;
pub mod xchacha;

pub use error::CryptoError;
pub use key::Key;
