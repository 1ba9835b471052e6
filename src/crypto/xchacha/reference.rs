//! XChaCha20-Poly1305 by the `chacha20poly1305` crate: slower, and the measure of
//! [`fast`](super::fast).
//!
//! Used by tests and the bench, on any machine on which the fast path is in doubt.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use zeroize::Zeroize;

use super::{NoncePrefix, NonceSuffix, TAG};
use crate::crypto::CryptoError;

/// A key and the first 16 bytes of the nonce; the crate wipes its copy of the key.
pub struct Cipher {
    cipher: XChaCha20Poly1305,
    prefix: NoncePrefix,
}

impl Cipher {
    /// As [`fast::Cipher::new`](super::fast::Cipher::new).
    pub fn new(key: &[u8; 32], prefix: &NoncePrefix) -> Self {
        Self { cipher: XChaCha20Poly1305::new(key.into()), prefix: *prefix }
    }

    /// As [`fast::Cipher::seal`](super::fast::Cipher::seal).
    ///
    /// # Errors
    /// [`CryptoError::Malformed`] when the lengths do not fit.
    pub fn seal(&self, suffix: &NonceSuffix, aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CryptoError> {
        if out.len() != plaintext.len() + TAG {
            return Err(CryptoError::Malformed("buffer"));
        }
        let (ciphertext, tag) = out.split_at_mut(plaintext.len());
        ciphertext.copy_from_slice(plaintext);
        let made = self
            .cipher
            .encrypt_inout_detached(&self.nonce(suffix), aad, ciphertext.into())
            .map_err(|_| CryptoError::Malformed("buffer"))?;
        tag.copy_from_slice(&made);
        Ok(())
    }

    /// As [`fast::Cipher::open`](super::fast::Cipher::open).
    ///
    /// # Errors
    /// [`CryptoError::AuthenticationFailed`]; `out` is then all zeros.
    pub fn open(&self, suffix: &NonceSuffix, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), CryptoError> {
        let opened = sealed
            .split_last_chunk::<TAG>()
            .filter(|(ciphertext, _)| ciphertext.len() == out.len())
            .is_some_and(|(ciphertext, tag)| {
                out.copy_from_slice(ciphertext);
                self.cipher
                    .decrypt_inout_detached(&self.nonce(suffix), aad, (&mut *out).into(), &Tag::from(*tag))
                    .is_ok()
            });
        if opened {
            return Ok(());
        }
        out.zeroize();
        Err(CryptoError::AuthenticationFailed)
    }

    fn nonce(&self, suffix: &NonceSuffix) -> XNonce {
        let mut nonce = [0; 24];
        nonce[..16].copy_from_slice(&self.prefix);
        nonce[16..].copy_from_slice(suffix);
        nonce.into()
    }
}
