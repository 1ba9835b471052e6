//! The type of every 32-byte secret.

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::sys::random;

/// A 32-byte secret. Wiped when dropped, compared in constant time, never printed, and copied only
/// by name ([`Key::duplicate`]).
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// A fresh secret from the operating system.
    pub fn random() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        random::fill(&mut key[..]);
        Self(key)
    }

    /// Takes `bytes` as the secret. The caller wipes the copies that it still holds.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        key
    }

    /// Takes exactly 32 bytes as the secret; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self(key))
    }

    /// The secret. Not to be used as a cipher key itself: see [`kdf`](super::kdf).
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A second copy, with its own lifetime.
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl PartialEq for Key {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Key {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_equal_by_their_bytes_only() {
        let key = Key::random();
        assert!(key == key.duplicate());
        assert!(key == Key::from_bytes(*key.as_bytes()));
        for bit in 0..256 {
            let mut bytes = *key.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(key != Key::from_bytes(bytes));
        }
    }

    #[test]
    fn a_slice_of_another_length_is_no_key() {
        assert!(Key::from_slice(&[1; 31]).is_none());
        assert!(Key::from_slice(&[1; 33]).is_none());
        assert!(Key::from_slice(&[1; 32]).is_some_and(|k| k.as_bytes() == &[1; 32]));
    }
}
