//! A log without signatures, for tests of this room.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::crypto::Key;
use crate::format::*;

pub(super) const ALICE: DeviceId = DeviceId([0xa; 32]);
pub(super) const BOB: DeviceId = DeviceId([0xb; 32]);
pub(super) const AT: i64 = 1_795_446_240_000_000_000;

/// In memory where possible: these tests are about order, not about the disk.
pub(super) fn tempdir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub(super) fn key() -> Key {
    Key::from_bytes([7; 32])
}

pub(super) fn params() -> OpenParams {
    OpenParams { db: DbId([1; 32]), device: ALICE, label: label(&ALICE) }
}

pub(super) fn label(device: &DeviceId) -> String {
    format!("laptop {:02x}", device.0[0])
}

pub(super) fn open(dir: &Path) -> Arc<Replica> {
    Replica::open(dir, &key(), params()).unwrap()
}

pub(super) fn keg(number: u32) -> KegId {
    let mut id = [0xee; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    KegId(id)
}

pub(super) fn create(id: KegId, parent: KegId, name: &[u8], kind: NodeKind) -> OpKind {
    OpKind::Create { keg: id, parent, name: name.to_vec(), kind, mode: 0o644, uid: 1, gid: 2, rdev: 0, target: vec![] }
}

pub(super) fn file(id: KegId, name: &str) -> OpKind {
    create(id, KegId::ROOT, name.as_bytes(), NodeKind::File)
}

pub(super) fn unlink(id: KegId, name: &str) -> OpKind {
    OpKind::Unlink { keg: id, parent: KegId::ROOT, name: name.as_bytes().to_vec() }
}

pub(super) fn extent(offset: u64, len: u32, blob: u8) -> Extent {
    Extent { offset, len, blob: BlobId([blob; 32]), blob_offset: 0, chunk_len: len, chunk_skip: 0, key: [blob; 32] }
}

pub(super) fn content(id: KegId, extents: Vec<Extent>, mtime_ns: i64) -> OpKind {
    let size = extents.last().map_or(0, Extent::end);
    OpKind::Content { keg: id, truncate: Some(0), holes: vec![], extents, size, mtime_ns }
}

pub(super) fn mtime(id: KegId, mtime_ns: i64) -> OpKind {
    OpKind::SetAttr { keg: id, mode: None, uid: None, gid: None, atime_ns: None, mtime_ns: Some(mtime_ns) }
}

pub(super) fn op(base: u64, kind: OpKind) -> Op {
    Op { base, at_ns: AT, kind }
}

pub(super) fn envelope(device: DeviceId, counter: u64) -> Envelope {
    Envelope {
        suite: limits::SUITE,
        db: DbId([1; 32]),
        kind: EntryKind::Batch,
        author: AccountId([device.0[0]; 32]),
        device,
        account_head: Head::EMPTY,
        counter,
        previous: EntryHash::ZERO,
        observed: Head::EMPTY,
        epoch: 0,
        created_ms: AT / 1_000_000,
        adds: vec![],
        releases: vec![],
        body: vec![],
    }
}

pub(super) fn confirmed(seq: u64, device: DeviceId, counter: u64, ops: Option<Vec<Op>>) -> Confirmed {
    let mut chain = [0; 32];
    chain[..8].copy_from_slice(&seq.to_be_bytes());
    Confirmed {
        head: Head { seq, chain: ChainHash(chain) },
        hash: EntryHash([seq as u8; 32]),
        envelope: envelope(device, counter),
        batch: ops.map(|ops| Batch { ops }),
        horizon: 0,
        added: Added::Known,
        administers: false,
        thin: None,
        label: label(&device),
        signed: None,
        activity: vec![],
    }
}

pub(super) fn staged(counter: u64, last_op: u64) -> StagedEntry {
    let envelope = encode(&envelope(ALICE, counter));
    let bytes = encode(&SignedEntry { envelope, signature: [0; 64] });
    StagedEntry { counter, last_op, bytes, blobs: vec![BlobRef { id: BlobId([3; 32]), size_bytes: 9 }] }
}

/// Sends everything that is pending as one entry with `counter` and confirms it as `seq`.
pub(super) fn confirm_all(replica: &Replica, seq: u64, counter: u64) -> Vec<Change> {
    replica.flush(false).unwrap();
    let pending = replica.pending(usize::MAX, usize::MAX);
    replica.stage(staged(counter, pending.last().unwrap().number)).unwrap();
    let ops = pending.iter().map(|pending| (*pending.op).clone()).collect();
    replica.apply(&[confirmed(seq, ALICE, counter, Some(ops))], None).unwrap()
}

/// Names in the root.
pub(super) fn names(replica: &Replica) -> Vec<String> {
    let entries = replica.view().readdir(1, 0, usize::MAX).unwrap();
    let mut names: Vec<_> = entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect();
    names.sort();
    names
}

/// What a file has in `span`, asked for in parts.
pub(super) fn in_parts(span: std::ops::Range<u64>, ask: impl Fn(std::ops::Range<u64>) -> Extents) -> Vec<Extent> {
    let (mut all, mut at) = (Vec::new(), span.start);
    while at < span.end {
        let Extents { list, upto } = ask(at..span.end);
        assert!(at < upto && upto <= span.end);
        at = list.last().map_or(upto, |last| last.end().max(upto));
        all.extend(list);
    }
    all
}
