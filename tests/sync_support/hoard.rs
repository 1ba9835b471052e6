//! What somebody has who has kept everything: the server's whole store, the whole log, and a key ring to try on them.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use kegfs::crypto::chunk::{ChunkKey, Opener, sealed_len};
use kegfs::format::{
    BlobId, Checkpoint, CheckpointState, DbId, EntryKind, Envelope, Extent, OpKind, Record, SignedEntry,
};
use kegfs::keyring::{KeyRing, open_batch, open_checkpoint};
use kegfs::remote::Remote;
use tokio::runtime::Builder;

pub fn wait<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// The whole log as the server has it.
pub fn log(remote: &dyn Remote, db: DbId) -> Vec<(SignedEntry, Envelope)> {
    let mut all = Vec::new();
    loop {
        let page = wait(remote.entries(db, all.len() as u64, 1 << 20)).unwrap();
        if page.entries.is_empty() {
            return all;
        }
        all.extend(page.entries.into_iter().map(|entry| {
            let envelope = Envelope::decode(&entry.envelope).unwrap();
            (entry, envelope)
        }));
    }
}

/// The blobs in a server's store that may be removing some, with their lengths.
pub fn lengths(dir: &Path) -> BTreeMap<BlobId, u64> {
    let mut blobs = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => blobs.extend(lengths(&entry.path())),
            Ok(meta) => {
                let id = entry.file_name().to_string_lossy().parse::<BlobId>();
                blobs.extend(id.ok().map(|id| (id, meta.len())));
            }
            // Removed meanwhile.
            Err(_) => {}
        }
    }
    blobs
}

/// Every blob in the server's store, by id.
pub fn store(dir: &Path) -> BTreeMap<BlobId, Vec<u8>> {
    let mut blobs = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            blobs.extend(store(&path));
        } else if let Ok(id) = entry.file_name().to_string_lossy().parse::<BlobId>() {
            blobs.insert(id, std::fs::read(path).unwrap());
        }
    }
    blobs
}

pub fn open_chunk(blobs: &BTreeMap<BlobId, Vec<u8>>, extent: &Extent, key: &[u8; 32]) -> Option<Vec<u8>> {
    let len = extent.chunk_len as usize;
    let from = extent.blob_offset as usize;
    let sealed = blobs.get(&extent.blob)?.get(from..from + sealed_len(len))?;
    let mut plain = vec![0; len];
    Opener::new(&ChunkKey::from_bytes(*key), len).ok()?.open_all(sealed, &mut plain).ok()?;
    Some(plain)
}

pub fn records(blobs: &BTreeMap<BlobId, Vec<u8>>, state: &CheckpointState) -> Vec<Record> {
    let mut records = Vec::new();
    for piece in &state.pieces {
        let plain = open_chunk(blobs, piece, &piece.key).unwrap();
        let mut rest = plain.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (record, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            records.push(Record::decode(record).unwrap());
            rest = after;
        }
    }
    records
}

/// Everything that a key ring opens of a log and a store: extents (with their keys), and all plaintext of operations and
/// checkpoints, as their debugging output.
pub fn opened(
    log: &[(SignedEntry, Envelope)],
    db: DbId,
    ring: &KeyRing,
    blobs: &BTreeMap<BlobId, Vec<u8>>,
) -> (Vec<Extent>, String) {
    let (mut extents, mut text) = (Vec::new(), String::new());
    for (_, envelope) in log {
        match envelope.kind {
            EntryKind::Batch => {
                let Ok(batch) = open_batch(&db, envelope, ring) else { continue };
                text += &format!("{batch:?}");
                for op in batch.ops {
                    if let OpKind::Content { extents: more, .. } = op.kind {
                        extents.extend(more);
                    }
                }
            }
            EntryKind::Checkpoint => {
                let body = Checkpoint::decode(&envelope.body).unwrap();
                let Some(sealed) = body.state else { continue };
                let Ok(state) = open_checkpoint(&db, body.epoch, &sealed, ring) else { continue };
                extents.extend(state.pieces.iter().cloned());
                for record in records(blobs, &state) {
                    text += &format!("{record:?}");
                    if let Record::Extents { extents: more, .. } = record {
                        extents.extend(more);
                    }
                }
            }
            EntryKind::Membership | EntryKind::Thin => {}
        }
    }
    (extents, text)
}

pub fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|part| part == what.as_bytes())
}

/// Tries every key that `theirs` leads to at every chunk that ever was, and asserts that nothing opens which holds `marker`.
/// Returns how many chunks hold it, and how many attempts failed.
pub fn opens_nothing_with(
    log: &[(SignedEntry, Envelope)],
    db: DbId,
    (everybody, theirs): (&KeyRing, &KeyRing),
    blobs: &BTreeMap<BlobId, Vec<u8>>,
    marker: &str,
) -> (usize, usize) {
    let all = opened(log, db, everybody, blobs).0;
    let visible = opened(log, db, theirs, blobs).0;
    let keys: HashSet<[u8; 32]> = visible.iter().map(|extent| extent.key).collect();
    let places: HashSet<(BlobId, u32)> = visible.iter().map(|extent| (extent.blob, extent.blob_offset)).collect();
    let (mut closed, mut marked) = (0, 0);
    for extent in all.iter().chain(&visible) {
        let plain = open_chunk(blobs, extent, &extent.key).unwrap();
        marked += usize::from(contains(&plain, marker));
        for key in &keys {
            if let Some(plain) = open_chunk(blobs, extent, key) {
                assert!(places.contains(&(extent.blob, extent.blob_offset)));
                assert!(!contains(&plain, marker), "{extent:?} holds {:?}", String::from_utf8_lossy(&plain[..20]));
            } else {
                closed += 1;
            }
        }
    }
    (marked, closed)
}
