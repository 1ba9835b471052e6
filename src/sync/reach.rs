//! Reaching into content from this room: reading what chunks hold, and sealing it anew.
//!
//! Two things need it: a checkpoint, and operations that bring back content from before the current epoch. Both give
//! keys to members who may not read what was before, so what a chunk holds beside the wanted bytes must not come along.

use std::time::Duration;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::fetch::deadline;
use super::{FetchError, Folder, SyncError};
use crate::crypto::chunk::{self, ChunkKey, Opener};
use crate::crypto::{padme, verified};
use crate::format::{BlobId, BlobRef, Extent};
use crate::sys::random;

/// How long one blob may take to come.
const PATIENCE: Duration = Duration::from_secs(120);
/// Sealed bytes of the fullest blob, before padding.
const FULL_BYTES: usize = chunk::sealed_len(chunk::MAX_PLAIN);

impl Folder {
    /// The bytes of an extent. Blocks.
    ///
    /// # Errors
    /// [`SyncError::PastGone`] where the blob is not to be had, which is not its author's fault; [`SyncError::Damaged`] where
    /// the extent does not fit its blob, which is.
    pub(super) fn read_extent(&self, extent: &Extent) -> Result<Zeroizing<Vec<u8>>, SyncError> {
        if let Ok(own) = self.local.read(&extent.blob) {
            match open_extent(extent, &own) {
                // This disk's fault and not its author's: as if it were not here.
                Err(_) if verified::blob_id(&own) != *extent.blob.as_bytes() => {}
                result => return result,
            }
        }
        let blob = self.fetch_until(&extent.blob, deadline(PATIENCE)).map_err(SyncError::PastGone)?;
        open_extent(extent, &blob)
    }

    /// The same; `None` where nobody can open it: it is not to be had any more, or its author has sealed nothing that opens.
    /// Blocks.
    ///
    /// # Errors
    /// All others of [`Self::read_extent`]: it may be opened later.
    pub(super) fn read_if_opens(&self, extent: &Extent) -> Result<Option<Zeroizing<Vec<u8>>>, SyncError> {
        match self.read_extent(extent) {
            Err(SyncError::PastGone(FetchError::Missing(_)) | SyncError::Damaged(_)) => Ok(None),
            result => result.map(Some),
        }
    }

    /// A blob of this disk, whole. Blocks.
    pub(super) fn own(&self, id: &BlobId) -> Option<Bytes> {
        let bytes = self.local.read(id).ok().filter(|bytes| verified::blob_id(bytes) == *id.as_bytes());
        bytes.map(Bytes::from)
    }

    /// A blob that was released, from here or from the server; `None` where that has removed it and it is not here either.
    /// Blocks.
    ///
    /// # Errors
    /// Where the server cannot be asked now.
    pub(super) fn own_or_fetched(&self, id: &BlobId) -> Result<Option<Bytes>, SyncError> {
        if let Some(own) = self.own(id) {
            return Ok(Some(own));
        }
        match self.fetch_until(id, deadline(PATIENCE)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FetchError::Missing(_)) => Ok(None),
            Err(FetchError::Offline | FetchError::TimedOut) => {
                Err(SyncError::TimedOut("fetching content that is to be kept"))
            }
            Err(error) => Err(SyncError::PastGone(error)),
        }
    }

    /// The same, in the spool, to be added again.
    ///
    /// # Errors
    /// Those of the spool, too.
    pub(super) fn spool_again(&self, id: &BlobId) -> Result<Option<BlobRef>, SyncError> {
        let Some(bytes) = self.own_or_fetched(id)? else { return Ok(None) };
        self.local.spool(id, &bytes)?;
        self.local.sync_spool(&[*id])?;
        Ok(Some(BlobRef { id: *id, size_bytes: bytes.len() as u64 }))
    }
}

/// What stands for an extent that nobody could read when it was to be sealed anew: it takes its place and opens nothing.
/// Whatever key it had would still open what others may have kept of the chunk.
pub(super) fn unreadable(extent: &Extent) -> Extent {
    Extent { chunk_len: extent.len, chunk_skip: 0, key: [0; 32], ..extent.clone() }
}

/// The extent is one of [`unreadable`].
pub(super) fn is_unreadable(extent: &Extent) -> bool {
    extent.key == [0; 32]
}

/// The bytes of an extent of `blob`.
fn open_extent(extent: &Extent, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, SyncError> {
    let damaged = || SyncError::Damaged(format!("a chunk of blob {} does not open with its key", extent.blob));
    let (from, len) = (extent.blob_offset as usize, extent.chunk_len as usize);
    let sealed = blob.get(from..from + chunk::sealed_len(len)).ok_or_else(damaged)?;
    let mut plain = Zeroizing::new(vec![0; len]);
    let opener = Opener::new(&ChunkKey::from_bytes(extent.key), len).map_err(|_| damaged())?;
    opener.open_all(sealed, &mut plain).map_err(|_| damaged())?;
    if extent.is_whole() {
        return Ok(plain);
    }
    let skip = extent.chunk_skip as usize;
    let part = plain.get(skip..skip + extent.len as usize).ok_or_else(damaged)?;
    Ok(Zeroizing::new(part.to_vec()))
}

/// Collects freshly sealed chunks in blobs.
#[derive(Default)]
pub(super) struct Packer {
    bytes: Vec<u8>,
}

impl Packer {
    /// One more chunk of `len` bytes fits.
    pub fn fits(&self, len: usize) -> bool {
        self.bytes.is_empty() || self.bytes.len() + chunk::sealed_len(len) <= FULL_BYTES
    }

    /// Seals `plain`, 1 to 4 MiB, as the content from `offset` on. The extent lacks its blob until the pack is closed.
    pub fn add(&mut self, offset: u64, plain: &[u8]) -> Result<Extent, SyncError> {
        let key = ChunkKey::random();
        let blob_offset = self.bytes.len() as u32;
        chunk::seal_into(&key, plain, &mut self.bytes).map_err(|error| SyncError::Damaged(error.to_string()))?;
        let len = plain.len() as u32;
        let (blob, key) = (BlobId::ZERO, *key.as_bytes());
        Ok(Extent { offset, len, blob, blob_offset, chunk_len: len, chunk_skip: 0, key })
    }

    /// Pads what was collected; `None` where that is nothing.
    pub fn close(&mut self) -> Option<(BlobRef, Vec<u8>)> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let len = bytes.len();
        if len == 0 {
            return None;
        }
        if len < FULL_BYTES {
            bytes.resize(padme::padded_len(len as u64) as usize, 0);
            random::fill(&mut bytes[len..]);
        }
        let id = BlobId(verified::blob_id(&bytes));
        Some((BlobRef { id, size_bytes: bytes.len() as u64 }, bytes))
    }
}
