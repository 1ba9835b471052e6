//! Making entries: signing, and sealing and opening the bodies of batches.

use crate::crypto::sign::SigningKey;
use crate::crypto::{CryptoError, Key, aead, kdf, labels, padme};
use crate::format::{
    AccountId, Batch, BlobRef, Checkpoint, CheckpointState, DbId, DeviceId, EntryKind, Envelope, FormatError, Head,
    Membership, SignedEntry, Thinning, encode, limits,
};

use super::folder::AuthorState;
use super::identity::Identity;
use super::secrets::{EpochSecrets, KeyRing, KeyRingError};

/// A device that signs entries.
pub struct Author {
    account: AccountId,
    device: DeviceId,
    key: SigningKey,
}

/// Where in a folder's log an entry is made.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// The folder; [`DbId::ZERO`] for its first entry.
    pub db: DbId,
    /// The author's verified head of the folder's log.
    pub observed: Head,
    /// The head of the author's own account log.
    pub account_head: Head,
    /// The device's last entry in this log.
    pub last: AuthorState,
    /// The current epoch.
    pub epoch: u32,
    /// Now, milliseconds since 1970 UTC.
    pub now_ms: i64,
}

/// A batch before it is sealed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The operations.
    pub batch: Batch,
    /// Blobs referred to for the first time.
    pub adds: Vec<BlobRef>,
    /// Blobs that nothing refers to any more.
    pub releases: Vec<BlobRef>,
}

impl Author {
    /// The author that an identity is.
    pub fn new(identity: &Identity) -> Self {
        Self { account: identity.account, device: identity.device_id(), key: identity.device.signing_key() }
    }

    /// The account.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// The device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Signs a membership entry. `position.observed` must be the log's newest entry when it arrives.
    pub fn membership(&self, position: &Position, body: &Membership) -> SignedEntry {
        self.sign(self.envelope(position, EntryKind::Membership, vec![], vec![], encode(body)))
    }

    /// Seals and signs a batch under `secrets`, which are those of `position.epoch`.
    pub fn batch(&self, position: &Position, secrets: &EpochSecrets, draft: Draft) -> SignedEntry {
        let mut envelope = self.envelope(position, EntryKind::Batch, draft.adds, draft.releases, Vec::new());
        let padded = zeroize::Zeroizing::new(padme::pad(encode(&draft.batch)));
        envelope.body = aead::seal(&body_key(&secrets.content, &position.db), &body_aad(&envelope), &padded);
        self.sign(envelope)
    }

    /// Signs a checkpoint, or what brings blobs for one.
    pub fn checkpoint(&self, position: &Position, adds: Vec<BlobRef>, body: &Checkpoint) -> SignedEntry {
        self.sign(self.envelope(position, EntryKind::Checkpoint, adds, vec![], encode(body)))
    }

    /// Signs a thinning of the past, or a release of blobs. `position.observed` must be the log's newest entry when it
    /// arrives.
    pub fn thinning(&self, position: &Position, body: &Thinning, releases: Vec<BlobRef>) -> SignedEntry {
        self.sign(self.envelope(position, EntryKind::Thin, vec![], releases, encode(body)))
    }

    fn envelope(
        &self,
        position: &Position,
        kind: EntryKind,
        adds: Vec<BlobRef>,
        releases: Vec<BlobRef>,
        body: Vec<u8>,
    ) -> Envelope {
        Envelope {
            suite: limits::SUITE,
            db: position.db,
            kind,
            author: self.account,
            device: self.device,
            account_head: position.account_head,
            counter: position.last.counter + 1,
            previous: position.last.previous,
            observed: position.observed,
            epoch: position.epoch,
            created_ms: position.now_ms,
            adds,
            releases,
            body,
        }
    }

    fn sign(&self, envelope: Envelope) -> SignedEntry {
        let envelope = encode(&envelope);
        let signature = self.key.sign(labels::SIGN_ENTRY, &envelope).0;
        SignedEntry { envelope, signature }
    }

    /// Answers a login challenge: signs it together with the server's name, so that no other server can use the answer.
    pub fn sign_login(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(labels::SIGN_LOGIN, message).0
    }
}

/// Opens the body of a batch that verification has let pass.
///
/// # Errors
/// No key for its epoch, not sealed by who had it, or not a batch within the limits.
pub fn open_batch(db: &DbId, envelope: &Envelope, ring: &KeyRing) -> Result<Batch, KeyRingError> {
    let secrets = ring.epoch(envelope.epoch)?;
    let padded = aead::open(&body_key(&secrets.content, db), &body_aad(envelope), &envelope.body)?;
    let bytes = padme::unpad(&padded)?;
    Batch::decode(bytes, envelope.suite).map_err(|_: FormatError| KeyRingError::Crypto(CryptoError::Malformed("batch")))
}

/// Seals a checkpoint's state under the epoch whose beginning it is of.
pub fn seal_checkpoint(db: &DbId, secrets: &EpochSecrets, state: &CheckpointState) -> Vec<u8> {
    // Holds chunk keys.
    let padded = zeroize::Zeroizing::new(padme::pad(encode(state)));
    aead::seal(&checkpoint_key(&secrets.content, db), &checkpoint_aad(db, secrets.epoch), &padded)
}

/// Opens what [`seal_checkpoint`] has sealed.
///
/// # Errors
/// No key for the epoch, not sealed by who had it, or not the state of a checkpoint.
pub fn open_checkpoint(db: &DbId, epoch: u32, sealed: &[u8], ring: &KeyRing) -> Result<CheckpointState, KeyRingError> {
    let secrets = ring.epoch(epoch)?;
    let padded = aead::open(&checkpoint_key(&secrets.content, db), &checkpoint_aad(db, epoch), sealed)?;
    let bytes = padme::unpad(&padded)?;
    CheckpointState::decode(bytes).map_err(|_: FormatError| KeyRingError::Crypto(CryptoError::Malformed("checkpoint")))
}

fn checkpoint_key(content: &Key, db: &DbId) -> Key {
    kdf::derive(labels::KEY_CHECKPOINT, &[content.as_bytes(), db.as_bytes()])
}

fn checkpoint_aad(db: &DbId, epoch: u32) -> Vec<u8> {
    [db.as_bytes().as_slice(), &epoch.to_be_bytes()].concat()
}

fn body_key(content: &Key, db: &DbId) -> Key {
    kdf::derive(labels::KEY_ENTRY_BODY, &[content.as_bytes(), db.as_bytes()])
}

/// Binds a body to its folder, author and place; the signature binds everything else.
fn body_aad(envelope: &Envelope) -> Vec<u8> {
    [
        envelope.db.as_bytes().as_slice(),
        envelope.device.as_bytes(),
        &envelope.counter.to_be_bytes(),
        &envelope.epoch.to_be_bytes(),
    ]
    .concat()
}
