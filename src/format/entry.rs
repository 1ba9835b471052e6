//! The signed envelope of a keg db's log.

use minicbor::{Decode, Encode};

use super::limits::{ENTRY_MAX_BLOBS, ENTRY_MAX_BYTES};
use super::{AccountId, BlobId, ChainHash, DbId, DeviceId, EntryHash, FormatError, check_suite, decode};

/// A position in a log and the hash of the log up to it. `seq` counts from 1; the empty log is [`Head::EMPTY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Head {
    /// Sequence number of the newest entry, 0 for an empty log.
    #[n(0)]
    pub seq: u64,
    /// Chain hash up to that entry, zero for an empty log.
    #[n(1)]
    pub chain: ChainHash,
}

impl Head {
    /// The head of a log without entries.
    pub const EMPTY: Self = Self { seq: 0, chain: ChainHash::ZERO };
}

/// What an entry's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum EntryKind {
    /// A [`super::Membership`] in the clear: the server reads it to control access.
    #[n(0)]
    Membership,
    /// A sealed [`super::Batch`] of keg operations.
    #[n(1)]
    Batch,
    /// A [`super::Checkpoint`]: the folder as it was when an epoch began, for members who have nothing from before.
    #[n(2)]
    Checkpoint,
    /// A [`super::Thinning`] in the clear: takes moments of the past away, and releases blobs. The only kind that may.
    #[n(3)]
    Thin,
}

impl EntryKind {
    /// The suite that introduced it.
    pub fn since(self) -> u16 {
        match self {
            Self::Membership | Self::Batch => 1,
            Self::Checkpoint | Self::Thin => 2,
        }
    }
}

/// A blob that an entry begins or ceases to refer to; the server counts quota and references by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct BlobRef {
    /// The blob.
    #[n(0)]
    pub id: BlobId,
    /// Its length in bytes (padded ciphertext).
    #[n(1)]
    pub size_bytes: u64,
}

/// What an author signs (DESIGN §2). The signature covers a domain tag and exactly these bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Envelope {
    /// Format suite, from [`super::limits::SUITE_OLDEST`] to [`super::limits::SUITE`].
    #[n(0)]
    pub suite: u16,
    /// The keg db; [`DbId::ZERO`] in the first entry, whose hash becomes the id.
    #[n(1)]
    pub db: DbId,
    /// What the body is.
    #[n(2)]
    pub kind: EntryKind,
    /// Author account.
    #[n(3)]
    pub author: AccountId,
    /// Author device.
    #[n(4)]
    pub device: DeviceId,
    /// Head of the author's account log that the author relies on.
    #[n(5)]
    pub account_head: Head,
    /// The device's own entry counter in this db: 1, 2, 3 … without gaps.
    #[n(6)]
    pub counter: u64,
    /// Hash of the device's entry with `counter - 1` in this db; zero for the first.
    #[n(7)]
    pub previous: EntryHash,
    /// The author's verified head when the entry was made. Membership entries must observe the entry right before them.
    #[n(8)]
    pub observed: Head,
    /// The epoch under whose key the body is sealed, and that must be current at this position.
    #[n(9)]
    pub epoch: u32,
    /// Creation time by the author's clock, milliseconds since 1970 UTC. Informative.
    #[n(10)]
    pub created_ms: i64,
    /// Blobs that the body refers to for the first time, at most [`ENTRY_MAX_BLOBS`].
    #[n(11)]
    pub adds: Vec<BlobRef>,
    /// Blobs that nothing refers to any more, at most [`ENTRY_MAX_BLOBS`]. Only [`EntryKind::Thin`] may have any.
    #[n(12)]
    pub releases: Vec<BlobRef>,
    /// [`EntryKind::Membership`]: encoded [`super::Membership`]. [`EntryKind::Batch`]: sealed, padded [`super::Batch`].
    /// [`EntryKind::Checkpoint`]: encoded [`super::Checkpoint`]. [`EntryKind::Thin`]: encoded [`super::Thinning`].
    #[cbor(n(13), with = "minicbor::bytes")]
    pub body: Vec<u8>,
}

impl Envelope {
    /// Decodes canonical bytes within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() > ENTRY_MAX_BYTES {
            return Err(FormatError::OutOfBounds("entry size"));
        }
        let envelope: Self = decode(bytes)?;
        check_suite(envelope.suite, envelope.kind.since())?;
        if envelope.adds.len() > ENTRY_MAX_BLOBS || envelope.releases.len() > ENTRY_MAX_BLOBS {
            return Err(FormatError::OutOfBounds("blobs of an entry"));
        }
        Ok(envelope)
    }
}

/// An entry as it travels and is stored: the received bytes, so that what was verified is what is kept.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SignedEntry {
    /// Canonical bytes of an [`Envelope`].
    #[cbor(n(0), with = "minicbor::bytes")]
    pub envelope: Vec<u8>,
    /// Ed25519 signature of the author device over domain tag and `envelope`.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}
