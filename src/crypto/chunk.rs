//! Chunks: up to 4 MiB of one file's plaintext, sealed in segments of 64 KiB that can be opened
//! one by one.
//!
//! # Construction
//! STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its
//! Nonce-Reuse Misuse-Resistance", 2015, section 6) with XChaCha20-Poly1305:
//! - cipher key = KDF([`CHUNK_CIPHER`](super::labels::CHUNK_CIPHER), chunk key);
//! - segment `i` is the plaintext bytes `i · 65536 ..` (the last one may be shorter, never empty),
//!   sealed under the nonce `19 zero bytes ‖ i as u32 big-endian ‖ last`, where `last` is 1 for the
//!   last segment of the chunk and 0 for the others; no associated data.
//!
//! Counter and flag make reordering, dropping, repeating, cutting and appending segments fail.
//!
//! # Layout
//! `segment 0 ‖ segment 1 ‖ …`, each `ciphertext ‖ tag (16)`. There is no header.
//!
//! # The caller's duty
//! A chunk key is fresh, random and seals one plaintext ever: nonces start at zero. Key, place and
//! length of the chunk come from a signed extent, and the ciphertext was checked against the blob's
//! id, because the AEAD does not commit to its key (THREATS rows 24 and 25).

use std::ops::Range;

use zeroize::Zeroizing;

use super::xchacha::{NonceSuffix, fast};
use super::{CryptoError, kdf, labels};
use crate::sys::random;

/// Plaintext bytes of every segment but the last. 64 KiB matches the groups of
/// [`verified`](super::verified), so opening one segment never needs more than two groups, and costs
/// 0.02 % in tags; 4 KiB would cost 0.4 % and a third of the speed.
pub const SEGMENT: usize = 65536;
/// Bytes of the tag at the end of each sealed segment.
pub const TAG: usize = super::xchacha::TAG;
/// Most plaintext bytes of a chunk: 64 segments.
pub const MAX_PLAIN: usize = 4 << 20;

/// All nonces of a chunk share their first 16 bytes, so one HChaCha20 serves the whole chunk.
const PREFIX: [u8; 16] = [0; 16];

/// The key of one chunk. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ChunkKey(Zeroizing<[u8; 32]>);

impl ChunkKey {
    /// A fresh key.
    pub fn random() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        random::fill(&mut key[..]);
        Self(key)
    }

    /// The key that an extent names.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key, to be written into an extent.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Bytes of a sealed chunk of `plain_len` plaintext bytes.
pub const fn sealed_len(plain_len: usize) -> usize {
    plain_len + plain_len.div_ceil(SEGMENT) * TAG
}

/// Seals `plaintext` and appends it to `out`: [`sealed_len`] bytes.
///
/// # Errors
/// [`CryptoError::Malformed`] unless 1 ≤ length ≤ [`MAX_PLAIN`]; `out` is then unchanged.
pub fn seal_into(key: &ChunkKey, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), CryptoError> {
    check_len(plaintext.len())?;
    let cipher = bind(key);
    out.reserve(sealed_len(plaintext.len()));
    let last = plaintext.len().div_ceil(SEGMENT) - 1;
    for (i, segment) in plaintext.chunks(SEGMENT).enumerate() {
        // Segment by segment, so that the bytes zeroed here are still in the core's cache when the
        // cipher overwrites them.
        let start = out.len();
        out.resize(start + segment.len() + TAG, 0);
        cipher.seal(&suffix(i, last), &[], segment, &mut out[start..])?;
    }
    Ok(())
}

/// Opens the segments of one chunk, in any order and from any thread.
pub struct Opener {
    cipher: fast::Cipher,
    plain_len: usize,
}

impl Opener {
    /// For the chunk of `plain_len` plaintext bytes under `key`, both from its signed extent.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`] unless 1 ≤ `plain_len` ≤ [`MAX_PLAIN`].
    pub fn new(key: &ChunkKey, plain_len: usize) -> Result<Self, CryptoError> {
        check_len(plain_len)?;
        Ok(Self { cipher: bind(key), plain_len })
    }

    /// Plaintext bytes of the chunk.
    pub fn plain_len(&self) -> usize {
        self.plain_len
    }

    /// Number of segments, at least 1.
    pub fn segments(&self) -> usize {
        self.plain_len.div_ceil(SEGMENT)
    }

    /// Where segment `i` lies in the plaintext; empty beyond the last.
    pub fn plain_range(&self, i: usize) -> Range<usize> {
        let start = i.saturating_mul(SEGMENT).min(self.plain_len);
        start..start.saturating_add(SEGMENT).min(self.plain_len)
    }

    /// Where segment `i` lies in the sealed chunk, tag included; empty beyond the last.
    pub fn sealed_range(&self, i: usize) -> Range<usize> {
        let total = sealed_len(self.plain_len);
        let start = i.saturating_mul(SEGMENT + TAG).min(total);
        start..start.saturating_add(SEGMENT + TAG).min(total)
    }

    /// Opens segment `i` from `sealed` (the bytes of [`sealed_range`](Self::sealed_range)) into
    /// `out` (as long as [`plain_range`](Self::plain_range)).
    ///
    /// # Errors
    /// [`CryptoError::AuthenticationFailed`], also for wrong lengths; `out` is then all zeros.
    pub fn open_segment(&self, i: usize, sealed: &[u8], out: &mut [u8]) -> Result<(), CryptoError> {
        if i >= self.segments() || out.len() != self.plain_range(i).len() {
            out.fill(0);
            return Err(CryptoError::AuthenticationFailed);
        }
        self.cipher.open(&suffix(i, self.segments() - 1), &[], sealed, out)
    }

    /// Opens segment `i` in its own place and returns the plaintext, the beginning of `sealed`.
    ///
    /// # Errors
    /// [`CryptoError::AuthenticationFailed`], also for a wrong length; `sealed` is then all zeros.
    pub fn open_segment_in_place<'a>(&self, i: usize, sealed: &'a mut [u8]) -> Result<&'a mut [u8], CryptoError> {
        if i >= self.segments() || sealed.len() != self.sealed_range(i).len() {
            sealed.fill(0);
            return Err(CryptoError::AuthenticationFailed);
        }
        self.cipher.open_in_place(&suffix(i, self.segments() - 1), &[], sealed)
    }

    /// Opens the whole chunk into `out`, which is exactly [`plain_len`](Self::plain_len) long.
    ///
    /// # Errors
    /// [`CryptoError::AuthenticationFailed`], also for wrong lengths; `out` is then all zeros.
    pub fn open_all(&self, sealed: &[u8], out: &mut [u8]) -> Result<(), CryptoError> {
        let opened = if sealed.len() == sealed_len(self.plain_len) && out.len() == self.plain_len {
            (0..self.segments())
                .try_for_each(|i| self.open_segment(i, &sealed[self.sealed_range(i)], &mut out[self.plain_range(i)]))
        } else {
            Err(CryptoError::AuthenticationFailed)
        };
        if opened.is_err() {
            out.fill(0);
        }
        opened
    }
}

fn bind(key: &ChunkKey) -> fast::Cipher {
    fast::Cipher::new(kdf::derive(labels::CHUNK_CIPHER, &[key.as_bytes()]).as_bytes(), &PREFIX)
}

/// The last 8 bytes of segment `i`'s nonce, for a chunk whose last segment is `last`.
fn suffix(i: usize, last: usize) -> NonceSuffix {
    let mut suffix = [0; 8];
    // At most 64 segments: the counter is far from its end.
    suffix[3..7].copy_from_slice(&(i as u32).to_be_bytes());
    suffix[7] = u8::from(i == last);
    suffix
}

fn check_len(plain_len: usize) -> Result<(), CryptoError> {
    if (1..=MAX_PLAIN).contains(&plain_len) { Ok(()) } else { Err(CryptoError::Malformed("chunk length")) }
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
