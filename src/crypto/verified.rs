//! Names of blobs, and ranges of a blob verified against its name.
//!
//! # Construction
//! A blob's id is the plain BLAKE3 hash of its bytes (unkeyed, no context: any tool can check it).
//! BLAKE3 is a Merkle tree, so a range can be shown to belong to the id: the outboard holds the
//! tree's nodes above groups of 64 KiB, and an encoded range holds those nodes that connect
//! the groups of the range with the root (`bao-tree`, block size log 6).
//!
//! # Layout
//! - outboard: the nodes in pre-order, 64 bytes each (left ‖ right); empty up to 64 KiB;
//! - encoded range: nodes (64 bytes) and groups (up to 65,536 bytes) in pre-order, only what is
//!   needed; no length in front.
//!
//! # The caller's duty
//! Blob id and length both come from a signed entry: where the range leaves out a blob's last group,
//! the tree shows its bytes but not the length.

use std::io;
use std::ops::Range;

use bao_tree::io::BaoContentItem;
use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges_validated};
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};

pub use bao_tree::io::sync::ReadAt;

use super::CryptoError;

/// Bytes of a group, the unit of verification.
pub const GROUP: u64 = 65536;
const BLOCK_SIZE: BlockSize = BlockSize::from_chunk_log(6);
const NODE: u64 = 64;
/// 1 TiB, far above any blob: keeps the arithmetic of the tree exact for lengths from the network.
const MAX_BLOB: u64 = 1 << 40;

/// The id of the blob `bytes`.
pub fn blob_id(bytes: &[u8]) -> [u8; 32] {
    blake3::hash(bytes).into()
}

/// Computes a blob's id from its bytes as they come.
#[derive(Default)]
pub struct BlobHasher(blake3::Hasher);

impl BlobHasher {
    /// Before the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The id of all bytes taken so far.
    pub fn finish(&self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The outboard of the blob `data`: about 0.1 % of it.
pub fn outboard(data: &[u8]) -> Vec<u8> {
    id_and_outboard(data).1
}

/// Id and outboard of the blob `data` in one pass.
pub fn id_and_outboard(data: &[u8]) -> ([u8; 32], Vec<u8>) {
    let made = PreOrderMemOutboard::create(data, BLOCK_SIZE);
    (made.root.into(), made.data)
}

/// `range` widened to whole groups within a blob of `blob_len` bytes: what an encoded range really
/// carries. Encoding a range and its aligned form gives the same bytes.
pub fn align(range: Range<u64>, blob_len: u64) -> Range<u64> {
    let start = range.start / GROUP * GROUP;
    let end = range.end.checked_next_multiple_of(GROUP).map_or(blob_len, |end| end.min(blob_len));
    start..end
}

/// The exact length of the encoded `range`, to bound a response before it is read.
///
/// # Errors
/// [`CryptoError::Malformed`] when the range is empty, reaches beyond the blob, or the blob is longer than 1 TiB.
pub fn encoded_len(range: Range<u64>, blob_len: u64) -> Result<u64, CryptoError> {
    check_range(&range, blob_len)?;
    let aligned = align(range, blob_len);
    let groups = aligned.start / GROUP..aligned.end.div_ceil(GROUP);
    let nodes = connecting_nodes(0..blob_len.div_ceil(GROUP), &groups);
    Ok(nodes * NODE + (aligned.end - aligned.start))
}

/// Number of tree nodes above the groups of `part` on the ways to the groups of `wanted`.
fn connecting_nodes(part: Range<u64>, wanted: &Range<u64>) -> u64 {
    let count = part.end - part.start;
    if count < 2 || wanted.start >= part.end || wanted.end <= part.start {
        return 0;
    }
    // A part wanted whole needs no walk: this keeps the work logarithmic for absurd lengths.
    if wanted.start <= part.start && part.end <= wanted.end {
        return count - 1;
    }
    let middle = part.start + (1 << (count - 1).ilog2());
    1 + connecting_nodes(part.start..middle, wanted) + connecting_nodes(middle..part.end, wanted)
}

/// Encodes `range` of the blob named `id`, of which `data` reads the bytes and `outboard` holds the
/// tree. The server's side; it checks what it sends, so a blob that rotted on disk is found here.
///
/// # Errors
/// `InvalidInput` when the range is empty, reaches beyond the blob, or the blob is longer than 1 TiB; `InvalidData` when data or
/// outboard do not belong to `id`; else those of reading.
pub fn encode_range(
    id: &[u8; 32],
    data: impl ReadAt,
    blob_len: u64,
    outboard: &[u8],
    range: Range<u64>,
) -> io::Result<Vec<u8>> {
    let length =
        encoded_len(range.clone(), blob_len).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let tree = BaoTree::new(blob_len, BLOCK_SIZE);
    if outboard.len() as u64 != tree.outboard_size() {
        return Err(not_of_this_blob());
    }
    let tree = PreOrderMemOutboard { root: (*id).into(), tree, data: outboard };
    let mut encoded = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    encode_ranges_validated(data, tree, &chunks_of(range, blob_len), &mut encoded).map_err(|error| match error {
        bao_tree::io::EncodeError::Io(error) => error,
        _ => not_of_this_blob(),
    })?;
    Ok(encoded)
}

fn not_of_this_blob() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "data or outboard do not belong to this blob")
}

/// Decodes an encoded `range` of the blob named `id` and returns exactly the bytes of `range`.
/// The client's side: no byte is returned that the id does not vouch for.
///
/// # Errors
/// [`CryptoError::Malformed`] when the range is empty, reaches beyond the blob, or the blob is longer than 1 TiB;
/// [`CryptoError::AuthenticationFailed`] when `encoded` is anything but that range of that blob.
pub fn decode_range(id: &[u8; 32], blob_len: u64, range: Range<u64>, encoded: &[u8]) -> Result<Vec<u8>, CryptoError> {
    // Also bounds everything below by what was received.
    if encoded_len(range.clone(), blob_len)? != encoded.len() as u64 {
        return Err(CryptoError::AuthenticationFailed);
    }
    let chunks = chunks_of(range.clone(), blob_len);
    let tree = BaoTree::new(blob_len, BLOCK_SIZE);
    let mut rest = encoded;
    let mut out = Vec::with_capacity((range.end - range.start) as usize);
    for item in DecodeResponseIter::new((*id).into(), tree, &mut rest, &chunks) {
        let item = item.map_err(|_| CryptoError::AuthenticationFailed)?;
        if let BaoContentItem::Leaf(leaf) = item {
            let from = range.start.saturating_sub(leaf.offset).min(leaf.data.len() as u64) as usize;
            let to = range.end.saturating_sub(leaf.offset).min(leaf.data.len() as u64) as usize;
            out.extend_from_slice(leaf.data.get(from..to).unwrap_or_default());
        }
    }
    if !rest.is_empty() || out.len() as u64 != range.end - range.start {
        return Err(CryptoError::AuthenticationFailed);
    }
    Ok(out)
}

fn check_range(range: &Range<u64>, blob_len: u64) -> Result<(), CryptoError> {
    if range.start < range.end && range.end <= blob_len && blob_len <= MAX_BLOB {
        Ok(())
    } else {
        Err(CryptoError::Malformed("range of a blob"))
    }
}

fn chunks_of(range: Range<u64>, blob_len: u64) -> ChunkRanges {
    let aligned = align(range, blob_len);
    ChunkRanges::from(ChunkNum::full_chunks(aligned.start)..ChunkNum::chunks(aligned.end))
}

#[cfg(test)]
#[path = "verified_tests.rs"]
mod tests;
