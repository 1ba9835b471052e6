//! Epoch secrets: making, boxing, opening, and following the back-links (DESIGN §3).
//!
//! Epoch `e` has two independent secrets, `s_e` for content and `h_e` for history. The log commits to both. A member's
//! box holds `s_e ‖ h_e` (full history) or `s_e` alone. The back-link of `e` seals `s_{e-1} ‖ h_{e-1}` under a key
//! derived from `h_e`, so who has `h_e` has every epoch before.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::boxes::{self, KemPublic, KemSecret};
use crate::crypto::{CryptoError, Key, aead, kdf, labels, merkle};
use crate::format::{AccountId, BoxGrant, FormatError, KeyBox, NewEpoch, encode};

use super::recipients::Recipient;
use super::wiped;

/// The secrets of one epoch, as far as they are known.
pub struct EpochSecrets {
    /// Its number.
    pub epoch: u32,
    /// `s_e`.
    pub content: Key,
    /// `h_e`, for members with history.
    pub history: Option<Key>,
}

/// Why secrets are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// The box or link does not open.
    #[error("the folder's key could not be opened: {0}")]
    Crypto(#[from] CryptoError),
    /// It opens to other secrets than the log commits to: whoever made it cheats.
    #[error("the folder's key is not the one that the log commits to")]
    Commitment,
    /// The box is not part of the log.
    #[error("the box is not one that the log commits to")]
    NotInLog,
    /// This member has no history secret for the epoch, and only who has may do this.
    #[error("this needs the folder's history key, which this member does not have")]
    NoHistory,
    /// No secret for the epoch is known.
    #[error("no key for epoch {0} of the folder")]
    NoEpoch(u32),
    /// Stored bytes are not a key ring.
    #[error("the stored key ring is damaged")]
    Damaged,
}

impl From<FormatError> for KeyRingError {
    fn from(_: FormatError) -> Self {
        Self::Damaged
    }
}

impl EpochSecrets {
    fn random(epoch: u32) -> Self {
        Self { epoch, content: Key::random(), history: Some(Key::random()) }
    }

    /// These are the secrets that `start` commits to.
    pub fn is_of(&self, start: &NewEpoch) -> bool {
        let content = kdf::commit(labels::COMMIT_CONTENT, &[self.content.as_bytes()]) == start.content_commitment;
        let history = self
            .history
            .as_ref()
            .is_none_or(|key| kdf::commit(labels::COMMIT_HISTORY, &[key.as_bytes()]) == start.history_commitment);
        self.epoch == start.epoch && content && history
    }

    fn commitments(&self) -> Option<([u8; 32], [u8; 32])> {
        let history = self.history.as_ref()?;
        let content = kdf::commit(labels::COMMIT_CONTENT, &[self.content.as_bytes()]);
        Some((content, kdf::commit(labels::COMMIT_HISTORY, &[history.as_bytes()])))
    }

    /// `s_e ‖ h_e`, or `s_e` without history.
    fn payload(&self) -> Zeroizing<Vec<u8>> {
        let history = self.history.as_ref().map(|key| key.as_bytes().as_slice()).unwrap_or_default();
        Zeroizing::new([self.content.as_bytes().as_slice(), history].concat())
    }

    pub(super) fn from_payload(start: &NewEpoch, payload: &[u8]) -> Result<Self, KeyRingError> {
        let (content, history) = payload.split_at_checked(32).ok_or(CryptoError::Malformed("key box"))?;
        let content = Key::from_slice(content).ok_or(CryptoError::Malformed("key box"))?;
        let history = match history {
            [] => None,
            bytes => Some(Key::from_slice(bytes).ok_or(CryptoError::Malformed("key box"))?),
        };
        let secrets = Self { epoch: start.epoch, content, history };
        if secrets.is_of(start) { Ok(secrets) } else { Err(KeyRingError::Commitment) }
    }
}

/// What a box is bound to. Not the folder's id, which epoch 0 does not know yet: the commitments are as unique.
fn box_info(start: &NewEpoch, account: &AccountId, generation: u32) -> Vec<u8> {
    [
        b"epoch box".as_slice(),
        &start.epoch.to_be_bytes(),
        &start.content_commitment,
        &start.history_commitment,
        account.as_bytes(),
        &generation.to_be_bytes(),
    ]
    .concat()
}

/// `s_e ‖ h_e`.
const PAYLOAD_BYTES: usize = 64;
/// A back-link has room for 28.
const BRIDGED_MAX: usize = 16;

fn back_link_key(history: &Key) -> Key {
    kdf::derive(labels::KEY_BACK_LINK, &[history.as_bytes()])
}

/// The leaf hash of a box in its epoch's Merkle tree.
pub fn box_leaf(sealed: &KeyBox) -> [u8; 32] {
    kdf::hash(labels::BOX_LEAF, &[&encode(sealed)])
}

/// [`new_epoch_for`] members who all have full history, such as a folder's creator; each with generation and user key.
///
/// # Errors
/// As there.
pub fn new_epoch(
    previous: Option<&EpochSecrets>,
    members: &[(AccountId, u32, KemPublic)],
) -> Result<(NewEpoch, Vec<KeyBox>, EpochSecrets), KeyRingError> {
    let recipients = members.iter().map(|(account, generation, key)| Recipient {
        account: *account,
        generation: *generation,
        key: key.clone(),
        history: true,
    });
    new_epoch_for(previous, &recipients.collect::<Vec<_>>())
}

/// Starts the epoch after `previous` (or epoch 0). Costs one box per recipient; see
/// [`FolderState::recipients`](super::FolderState::recipients) for who they are. Boxes come in the order of the
/// recipients, which must be ascending by account id.
///
/// # Errors
/// [`KeyRingError::NoHistory`] if `previous` lacks its history secret.
pub fn new_epoch_for(
    previous: Option<&EpochSecrets>,
    recipients: &[Recipient],
) -> Result<(NewEpoch, Vec<KeyBox>, EpochSecrets), KeyRingError> {
    new_epoch_mending(previous, &[], recipients)
}

/// The same with a back-link that also leads to `bridged`, below false links on the way ([`KeyRing::to_mend`]).
///
/// # Errors
/// As [`new_epoch_for`]; also if one of `bridged` lacks its history secret.
pub fn new_epoch_mending(
    previous: Option<&EpochSecrets>,
    bridged: &[&EpochSecrets],
    recipients: &[Recipient],
) -> Result<(NewEpoch, Vec<KeyBox>, EpochSecrets), KeyRingError> {
    debug_assert!(recipients.is_sorted_by_key(|recipient| recipient.account));
    let epoch = previous.map_or(0, |previous| previous.epoch + 1);
    let secrets = EpochSecrets::random(epoch);
    let history = secrets.history.as_ref().ok_or(KeyRingError::NoHistory)?;
    let (content_commitment, history_commitment) = secrets.commitments().ok_or(KeyRingError::NoHistory)?;
    let back_link = match previous {
        Some(previous) => {
            if previous.history.is_none() || bridged.iter().any(|secrets| secrets.history.is_none()) {
                return Err(KeyRingError::NoHistory);
            }
            let mut plain = Zeroizing::new(Vec::with_capacity(PAYLOAD_BYTES + (4 + PAYLOAD_BYTES) * bridged.len()));
            plain.extend_from_slice(&previous.payload());
            for secrets in bridged {
                plain.extend_from_slice(&secrets.epoch.to_be_bytes());
                plain.extend_from_slice(&secrets.payload());
            }
            Some(aead::seal(&back_link_key(history), &epoch.to_be_bytes(), &plain))
        }
        None => None,
    };
    let mut start = NewEpoch {
        epoch,
        content_commitment,
        history_commitment,
        boxes_root: [0; 32],
        boxes: recipients.len() as u32,
        back_link,
    };
    let (all, content_only) = (secrets.payload(), Zeroizing::new(*secrets.content.as_bytes()));
    let seal = |Recipient { account, generation, key, history }: &Recipient| {
        let payload = if *history { all.as_slice() } else { content_only.as_slice() };
        let sealed = boxes::seal(key, &box_info(&start, account, *generation), payload);
        KeyBox { account: *account, generation: *generation, sealed }
    };
    let boxes: Vec<_> = recipients.iter().map(seal).collect();
    start.boxes_root = merkle::root(&boxes.iter().map(box_leaf).collect::<Vec<_>>());
    Ok((start, boxes, secrets))
}

/// What the back-link of the epoch that `start` began leads to: the secrets of the epoch before, then those that it bridges
/// to; each of them what the log commits to.
fn open_link(start: &NewEpoch, history: &Key, epochs: &[super::Epoch]) -> Result<Vec<EpochSecrets>, KeyRingError> {
    let before =
        start.epoch.checked_sub(1).and_then(|number| start_of(number, epochs)).ok_or(KeyRingError::NotInLog)?;
    let link = start.back_link.as_ref().ok_or(KeyRingError::NotInLog)?;
    let plain = aead::open(&back_link_key(history), &start.epoch.to_be_bytes(), link)?;
    let malformed = || KeyRingError::Crypto(CryptoError::Malformed("back-link"));
    // One that leads to the content secret only may stand alone.
    let (first, mut rest) = plain.split_at(plain.len().min(PAYLOAD_BYTES));
    let mut secrets = vec![EpochSecrets::from_payload(before, first)?];
    while let Some((number, after)) = rest.split_first_chunk::<4>() {
        let (payload, after) = after.split_at_checked(PAYLOAD_BYTES).ok_or_else(malformed)?;
        let bridged = start_of(u32::from_be_bytes(*number), epochs).filter(|it| it.epoch < start.epoch);
        secrets.push(EpochSecrets::from_payload(bridged.ok_or(KeyRingError::Commitment)?, payload)?);
        rest = after;
    }
    if rest.is_empty() { Ok(secrets) } else { Err(malformed()) }
}

fn start_of(number: u32, epochs: &[super::Epoch]) -> Option<&NewEpoch> {
    epochs.iter().map(|epoch| &epoch.start).find(|start| start.epoch == number)
}

/// Boxes the current epoch, with full history, to a newcomer.
///
/// # Errors
/// [`KeyRingError::NoHistory`] if `current` lacks its history secret.
pub fn grant(
    current: &EpochSecrets,
    start: &NewEpoch,
    account: AccountId,
    generation: u32,
    key: &KemPublic,
) -> Result<(BoxGrant, KeyBox), KeyRingError> {
    if current.history.is_none() {
        return Err(KeyRingError::NoHistory);
    }
    let sealed = boxes::seal(key, &box_info(start, &account, generation), &current.payload());
    let sealed = KeyBox { account, generation, sealed };
    Ok((BoxGrant { epoch: current.epoch, leaf: box_leaf(&sealed) }, sealed))
}

/// The epochs of one folder that this member can open.
#[derive(Default)]
pub struct KeyRing {
    epochs: BTreeMap<u32, EpochSecrets>,
    false_link: Option<u32>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct StoredSecret {
    #[n(0)]
    epoch: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    content: [u8; 32],
    #[cbor(n(2), with = "minicbor::bytes")]
    history: Option<[u8; 32]>,
}

impl Drop for StoredSecret {
    fn drop(&mut self) {
        self.content.zeroize();
        self.history.zeroize();
    }
}

impl KeyRing {
    /// The secrets of an epoch.
    pub fn epoch(&self, epoch: u32) -> Result<&EpochSecrets, KeyRingError> {
        self.epochs.get(&epoch).ok_or(KeyRingError::NoEpoch(epoch))
    }

    /// Takes in secrets that this client made itself. What is known already is not forgotten: a box without history
    /// does not take the history away.
    pub fn insert(&mut self, secrets: EpochSecrets) {
        match self.epochs.get(&secrets.epoch) {
            Some(known) if known.history.is_some() && secrets.history.is_none() => {}
            _ => drop(self.epochs.insert(secrets.epoch, secrets)),
        }
    }

    /// Opens this member's box of the epoch that `start` began, after the caller has checked that the log commits to
    /// the box ([`box_leaf`] against the grant, or with a Merkle proof). Then follows the back-links, where the box
    /// brings the history secret, through `epochs` (all of the log so far).
    ///
    /// The newest back-link is opened even by who needs nothing from it: otherwise its maker could cut off all who
    /// join later, and none of those who can tell would notice.
    ///
    /// A false link ends the way back there, is told by [`Self::false_back_link`], and does not close the epoch that it
    /// belongs to: its maker could otherwise lock everybody out.
    ///
    /// # Errors
    /// The box is not what the log commits to; `epochs` lacks one that a link leads to.
    pub fn open_box(
        &mut self,
        start: &NewEpoch,
        sealed: &KeyBox,
        key: &KemSecret,
        epochs: &[super::Epoch],
    ) -> Result<(), KeyRingError> {
        let payload = boxes::open(key, &box_info(start, &sealed.account, sealed.generation), &sealed.sealed)?;
        self.insert(EpochSecrets::from_payload(start, &payload)?);
        self.false_link = None;
        self.follow_back_links(start.epoch, epochs)
    }

    /// The epoch whose back-link the last [`Self::open_box`] found to be false and not mended: whoever started it cut off
    /// those who join later. The user is to be told; who administers and has the older secrets mends it ([`Self::to_mend`]).
    pub fn false_back_link(&self) -> Option<u32> {
        self.false_link
    }

    /// Epochs to which the next back-link has to lead besides the current one, because the links to them are false and
    /// nobody's next one has led there yet; of those whose secrets are here. Costs one opening for each epoch of the log.
    pub fn to_mend(&self, epochs: &[super::Epoch]) -> Vec<&EpochSecrets> {
        let (mut reached, mut mend) = (BTreeSet::new(), Vec::new());
        for (below, above) in epochs.iter().zip(epochs.iter().skip(1)).rev() {
            let (epoch, before) = (above.start.epoch, below.start.epoch);
            let Some(history) = self.epochs.get(&epoch).and_then(|secrets| secrets.history.as_ref()) else { continue };
            match open_link(&above.start, history, epochs) {
                Ok(secrets) => reached.extend(secrets.iter().map(|secrets| secrets.epoch)),
                Err(_) if reached.contains(&before) => {}
                Err(_) => mend.extend(self.epochs.get(&before).filter(|secrets| secrets.history.is_some())),
            }
        }
        mend.truncate(BRIDGED_MAX);
        mend
    }

    fn follow_back_links(&mut self, from: u32, epochs: &[super::Epoch]) -> Result<(), KeyRingError> {
        let (mut epoch, mut bridged) = (from, BTreeSet::new());
        while let Some(before) = epoch.checked_sub(1) {
            let known = self.epochs.get(&before).is_some_and(|secrets| secrets.history.is_some());
            let Some(history) = self.epochs.get(&epoch).and_then(|secrets| secrets.history.as_ref()) else { break };
            match open_link(start_of(epoch, epochs).ok_or(KeyRingError::NotInLog)?, history, epochs) {
                Ok(secrets) => {
                    bridged.extend(secrets.iter().skip(1).map(|secrets| secrets.epoch));
                    secrets.into_iter().for_each(|secrets| self.insert(secrets));
                }
                Err(KeyRingError::NotInLog) => return Err(KeyRingError::NotInLog),
                // A later link has led past this one.
                Err(_) if bridged.contains(&before) => {}
                Err(_) => {
                    self.false_link = Some(epoch);
                    break;
                }
            }
            // The rest of the way was gone before.
            if known && !bridged.contains(&before) {
                break;
            }
            epoch = before;
        }
        Ok(())
    }

    /// Canonical bytes, for a store that is itself encrypted.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let stored = self.epochs.values().map(|secrets| StoredSecret {
            epoch: secrets.epoch,
            content: *secrets.content.as_bytes(),
            history: secrets.history.as_ref().map(|key| *key.as_bytes()),
        });
        wiped::encode(&stored.collect::<Vec<_>>())
    }

    /// The inverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyRingError> {
        let stored: Vec<StoredSecret> = wiped::decode(bytes)?;
        let mut ring = Self::default();
        for secret in &stored {
            let history = secret.history.map(Key::from_bytes);
            ring.insert(EpochSecrets { epoch: secret.epoch, content: Key::from_bytes(secret.content), history });
        }
        Ok(ring)
    }
}
