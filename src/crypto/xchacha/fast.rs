//! XChaCha20-Poly1305 as HChaCha20 (`chacha20` crate) and AWS-LC's assembly ChaCha20-Poly1305.
//!
//! Knows one cipher and nothing of what it seals. Must equal
//! [`reference`](mod@super::reference) byte for byte.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::{R20, hchacha};
use zeroize::Zeroize;

use super::{NoncePrefix, NonceSuffix, TAG};
use crate::crypto::CryptoError;

/// A key bound to the first 16 bytes of the nonce. AWS-LC wipes its copy when this is dropped.
pub struct Cipher(LessSafeKey);

impl Cipher {
    /// Binds `key` and the nonce's first 16 bytes: one HChaCha20.
    pub fn new(key: &[u8; 32], prefix: &NoncePrefix) -> Self {
        let mut subkey = hchacha::<R20>(key.into(), prefix.into());
        // The length is the algorithm's, which is the only thing that is checked.
        #[allow(clippy::expect_used)]
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, &subkey).expect("a key of 32 bytes");
        subkey.zeroize();
        Self(LessSafeKey::new(unbound))
    }

    /// Seals `plaintext` into `out`, which is exactly [`TAG`] bytes longer.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`] when the lengths do not fit.
    pub fn seal(&self, suffix: &NonceSuffix, aad: &[u8], plaintext: &[u8], out: &mut [u8]) -> Result<(), CryptoError> {
        if out.len() != plaintext.len() + TAG {
            return Err(CryptoError::Malformed("buffer"));
        }
        let (ciphertext, tag) = out.split_at_mut(plaintext.len());
        self.0
            .seal_out_of_place_scatter(nonce(suffix), Aad::from(aad), plaintext, ciphertext, &[], tag)
            .map_err(|_| CryptoError::Malformed("buffer"))
    }

    /// Opens `sealed` into `out`, which is exactly [`TAG`] bytes shorter.
    ///
    /// # Errors
    /// [`CryptoError::AuthenticationFailed`]; `out` is then all zeros.
    pub fn open(&self, suffix: &NonceSuffix, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), CryptoError> {
        let opened = sealed
            .split_last_chunk::<TAG>()
            .filter(|(ciphertext, _)| ciphertext.len() == out.len())
            .is_some_and(|(ciphertext, tag)| {
                self.0.open_separate_gather(nonce(suffix), Aad::from(aad), ciphertext, tag, out).is_ok()
            });
        if opened {
            return Ok(());
        }
        out.zeroize();
        Err(CryptoError::AuthenticationFailed)
    }

    /// Opens `sealed` in its own place; the plaintext is its beginning.
    ///
    /// # Errors
    /// [`CryptoError::AuthenticationFailed`]; the buffer is then all zeros.
    pub fn open_in_place<'a>(
        &self,
        suffix: &NonceSuffix,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], CryptoError> {
        let length = self.0.open_in_place(nonce(suffix), Aad::from(aad), sealed).map(|plaintext| plaintext.len());
        match length {
            Ok(length) => Ok(&mut sealed[..length]),
            Err(_) => {
                sealed.zeroize();
                Err(CryptoError::AuthenticationFailed)
            }
        }
    }
}

fn nonce(suffix: &NonceSuffix) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(suffix);
    Nonce::assume_unique_for_key(nonce)
}
