//! Granting a newcomer the epochs from one of them on (DESIGN §3), without what opens those before.
//!
//! The newcomer's box holds the current epoch's content secret and a fresh key. Under that key, in the entry itself, lie
//! the content secrets of the granted epochs before the current one, each checked against the log's commitment. No history
//! secret is among them, so no back-link opens.
//!
//! Layouts: docs/FORMAT.md §5.

use zeroize::Zeroizing;

use crate::crypto::boxes::{self, KemPublic, KemSecret};
use crate::crypto::{CryptoError, Key, aead, kdf, labels};
use crate::format::{AccountId, BoxGrant, KeyBox, NewEpoch};

use super::Epoch;
use super::secrets::{EpochSecrets, KeyRing, KeyRingError, box_leaf};

/// Bytes of the sealed secrets of `count` epochs.
pub(super) fn granted_len(count: u32) -> usize {
    if count == 0 { 0 } else { count as usize * 32 + aead::OVERHEAD }
}

/// What the box is bound to: the current epoch's commitments, the first epoch granted, the receiver.
fn box_info(start: &NewEpoch, first: u32, account: &AccountId, generation: u32) -> Vec<u8> {
    [
        b"granted epochs box".as_slice(),
        &start.epoch.to_be_bytes(),
        &start.content_commitment,
        &start.history_commitment,
        &first.to_be_bytes(),
        account.as_bytes(),
        &generation.to_be_bytes(),
    ]
    .concat()
}

fn granted_key(key: &Key) -> Key {
    kdf::derive(labels::KEY_GRANTED, &[key.as_bytes()])
}

fn granted_aad(start: &NewEpoch, first: u32, account: &AccountId) -> Vec<u8> {
    [start.epoch.to_be_bytes().as_slice(), &first.to_be_bytes(), account.as_bytes()].concat()
}

/// Boxes the content secrets of the epochs from `first` to the one that `start` began to a newcomer. Returns the grant,
/// the box, and the sealed secrets for the entry.
///
/// # Errors
/// [`KeyRingError::NoEpoch`] where `ring` lacks one of them.
pub fn grant_since(
    ring: &KeyRing,
    start: &NewEpoch,
    first: u32,
    account: AccountId,
    generation: u32,
    key: &KemPublic,
) -> Result<(BoxGrant, KeyBox, Vec<u8>), KeyRingError> {
    let fresh = Key::random();
    let mut earlier = Zeroizing::new(Vec::with_capacity(32 * start.epoch.saturating_sub(first) as usize));
    for epoch in first..start.epoch {
        earlier.extend_from_slice(ring.epoch(epoch)?.content.as_bytes());
    }
    let epochs = match earlier.is_empty() {
        true => Vec::new(),
        false => aead::seal(&granted_key(&fresh), &granted_aad(start, first, &account), &earlier),
    };
    let current = ring.epoch(start.epoch)?;
    let payload = Zeroizing::new([current.content.as_bytes().as_slice(), fresh.as_bytes()].concat());
    let sealed = boxes::seal(key, &box_info(start, first, &account, generation), &payload);
    let sealed = KeyBox { account, generation, sealed };
    Ok((BoxGrant { epoch: start.epoch, leaf: box_leaf(&sealed) }, sealed, epochs))
}

impl KeyRing {
    /// Opens what [`grant_since`] made for this member, after the caller has checked that the log commits to the box.
    /// `epochs`: all of the log so far.
    ///
    /// # Errors
    /// The box or the sealed secrets do not open, or to others than the log commits to. Nothing is taken in then.
    pub fn open_since(
        &mut self,
        start: &NewEpoch,
        first: u32,
        sealed: &KeyBox,
        secrets: &[u8],
        key: &KemSecret,
        epochs: &[Epoch],
    ) -> Result<(), KeyRingError> {
        let payload = boxes::open(key, &box_info(start, first, &sealed.account, sealed.generation), &sealed.sealed)?;
        let (content, fresh) = payload.split_at_checked(32).ok_or(CryptoError::Malformed("key box"))?;
        let fresh = Key::from_slice(fresh).ok_or(CryptoError::Malformed("key box"))?;
        let mut opened = vec![EpochSecrets::from_payload(start, content)?];
        if first < start.epoch {
            let earlier = aead::open(&granted_key(&fresh), &granted_aad(start, first, &sealed.account), secrets)?;
            if earlier.len() != 32 * (start.epoch - first) as usize {
                return Err(CryptoError::Malformed("granted epochs").into());
            }
            for (epoch, content) in (first..start.epoch).zip(earlier.chunks_exact(32)) {
                let known = epochs.iter().find(|known| known.start.epoch == epoch).ok_or(KeyRingError::NotInLog)?;
                opened.push(EpochSecrets::from_payload(&known.start, content)?);
            }
        }
        opened.into_iter().for_each(|secrets| self.insert(secrets));
        Ok(())
    }
}
