//! What every store promises, on all of them, and what only the disk can show.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Barrier};

use super::*;
use crate::format::{BlobId, DbId};
use crate::sys::bulk::AlignedBuffer;

const DB: DbId = DbId([1; 32]);
const OTHER: DbId = DbId([2; 32]);

fn id_of(bytes: &[u8]) -> BlobId {
    BlobId(*blake3::hash(bytes).as_bytes())
}

fn put(store: &dyn BlobStore, db: &DbId, id: &BlobId, bytes: &[u8]) -> Result<Stored, BlobError> {
    let mut upload = store.upload(db, id, 4 << 20)?;
    for part in bytes.chunks(100_000) {
        upload.write(part)?;
    }
    upload.finish()
}

fn get(store: &dyn BlobStore, db: &DbId, id: &BlobId) -> Option<Vec<u8>> {
    let data = store.open(db, id).unwrap()?;
    let mut bytes = vec![0; data.size_bytes() as usize];
    data.read_exact_at(0, &mut bytes).unwrap();
    Some(bytes)
}

/// All blobs of a folder with their lengths.
fn all(store: &dyn BlobStore, db: &DbId) -> Vec<(BlobId, u64)> {
    let parts = (0..=u8::MAX).flat_map(|first| store.list(db, first).unwrap().blobs);
    parts.map(|blob| (blob.id, blob.size_bytes)).collect()
}

fn on_every_store(check: impl Fn(Arc<dyn BlobStore>)) {
    let dir = tempfile::tempdir().unwrap();
    check(Arc::new(DiskBlobs::open(dir.path()).unwrap()));
    check(Arc::new(MemoryBlobs::default()));
    check(Arc::new(FailingBlobs::new(Arc::new(MemoryBlobs::default()))));
}

#[test]
fn a_blob_comes_back_whole_and_by_parts_in_its_folder_only() {
    on_every_store(|store| {
        let bytes: Vec<u8> = (0..70_000u32).map(|n| n as u8).collect();
        let id = id_of(&bytes);
        assert!(get(&*store, &DB, &id).is_none());
        assert_eq!(put(&*store, &DB, &id, &bytes).unwrap(), Stored { size_bytes: 70_000, new: true });
        assert_eq!(put(&*store, &DB, &id, &bytes).unwrap(), Stored { size_bytes: 70_000, new: false });
        assert_eq!(get(&*store, &DB, &id).unwrap(), bytes);
        let data = store.open(&DB, &id).unwrap().unwrap();
        let mut part = [0; 10];
        data.read_exact_at(69_990, &mut part).unwrap();
        assert_eq!(part, bytes[69_990..]);
        assert!(data.read_exact_at(69_991, &mut part).is_err());
        assert!(get(&*store, &OTHER, &id).is_none());
        assert_eq!(store.size(&DB, &id).unwrap(), Some(70_000));
        assert_eq!(all(&*store, &DB), [(id, 70_000)]);
        assert!(all(&*store, &OTHER).is_empty());
        assert_eq!(store.dbs().unwrap(), [DB]);
    });
}

#[test]
fn a_long_blob_is_the_same_whoever_asks_first_and_again() {
    on_every_store(|store| {
        let bytes: Vec<u8> = (0..(2_u32 << 20) + 1500).map(|n| (n / 7) as u8).collect();
        let id = id_of(&bytes);
        put(&*store, &DB, &id, &bytes).unwrap();
        for time in 0..3 {
            let data = store.open(&DB, &id).unwrap().unwrap();
            let mut part = AlignedBuffer::default();
            for (offset, len) in [(0, 1 << 20), (1 << 20, (1 << 20) + 1500), (2 << 20, 1500)] {
                data.read_part_at(offset as u64, &mut part, len).unwrap();
                assert!(part.bytes()[..len] == bytes[offset..offset + len], "time {time}, {len} from {offset}");
            }
            assert!(data.read_part_at(2 << 20, &mut part, 1501).is_err());
            assert_eq!(get(&*store, &DB, &id).unwrap(), bytes);
        }
    });
}

#[test]
fn bytes_of_another_blob_and_too_many_bytes_leave_nothing() {
    on_every_store(|store| {
        let id = id_of(b"right");
        assert!(matches!(put(&*store, &DB, &id, b"wrong"), Err(BlobError::WrongBytes(named)) if named == id));
        let mut upload = store.upload(&DB, &id, 4).unwrap();
        assert!(matches!(upload.write(b"right"), Err(BlobError::TooLarge(4))));
        drop(upload);
        let mut unfinished = store.upload(&DB, &id, 10).unwrap();
        unfinished.write(b"right").unwrap();
        drop(unfinished);
        assert!(store.size(&DB, &id).unwrap().is_none() && all(&*store, &DB).is_empty());
    });
}

#[test]
fn trees_lie_beside_their_blob_and_go_with_it() {
    on_every_store(|store| {
        let id = id_of(b"blob");
        put(&*store, &DB, &id, b"blob").unwrap();
        assert!(store.tree(&DB, &id).unwrap().is_none());
        store.keep_tree(&DB, &id, b"tree").unwrap();
        assert_eq!(store.tree(&DB, &id).unwrap().unwrap(), b"tree");
        assert_eq!(all(&*store, &DB), [(id, 4)]);
        let open = store.open(&DB, &id).unwrap().unwrap();
        store.delete(&DB, &id).unwrap();
        store.delete(&DB, &id).unwrap();
        assert!(store.size(&DB, &id).unwrap().is_none() && store.tree(&DB, &id).unwrap().is_none());
        let mut bytes = [0; 4];
        open.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"blob");
        // Kept by who had the blob open.
        store.keep_tree(&DB, &id, b"tree").unwrap();
        let lone = Listing { blobs: vec![], lone_trees: vec![id] };
        assert_eq!(store.list(&DB, id.0[0]).unwrap(), lone);
        store.delete_tree(&DB, &id).unwrap();
        store.delete_tree(&DB, &id).unwrap();
        assert_eq!(store.list(&DB, id.0[0]).unwrap(), Listing::default());
    });
}

#[test]
fn of_many_uploads_of_one_blob_at_once_one_is_new_and_none_fails() {
    on_every_store(|store| {
        let bytes = vec![7; 50_000];
        let id = id_of(&bytes);
        let start = Barrier::new(8);
        let new = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        put(&*store, &DB, &id, &bytes).unwrap().new
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).filter(|new| *new).count()
        });
        assert_eq!(new, 1);
        assert_eq!(get(&*store, &DB, &id).unwrap(), bytes);
    });
}

#[test]
fn opening_removes_what_a_dead_process_left_and_keeps_the_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let store = DiskBlobs::open(dir.path()).unwrap();
    let id = id_of(b"kept");
    put(&store, &DB, &id, b"kept").unwrap();
    let mut upload = store.upload(&DB, &id_of(b"half"), 100).unwrap();
    upload.write(b"ha").unwrap();
    std::mem::forget(upload); // what a kill leaves
    let temps = || std::fs::read_dir(dir.path().join("tmp")).unwrap().count();
    assert_eq!(temps(), 1);
    let store = DiskBlobs::open(dir.path()).unwrap();
    assert_eq!(temps(), 0);
    assert_eq!(get(&store, &DB, &id).unwrap(), b"kept");
}

#[test]
fn the_failing_twin_fails_as_told_and_recovers() {
    let store = FailingBlobs::new(Arc::new(MemoryBlobs::default()));
    let id = id_of(b"blob");
    store.set(BlobFault::Full);
    assert!(matches!(put(&store, &DB, &id, b"blob"), Err(BlobError::Full)));
    store.set(BlobFault::FinishFails);
    assert!(matches!(put(&store, &DB, &id, b"blob"), Err(BlobError::Io { .. })));
    store.set(BlobFault::None);
    assert!(put(&store, &DB, &id, b"blob").unwrap().new);
    store.set(BlobFault::ReadFails);
    assert!(store.open(&DB, &id).unwrap().unwrap().read_exact_at(0, &mut [0]).is_err());
    store.set(BlobFault::Down);
    assert!(store.size(&DB, &id).is_err() && store.check().is_err());
}

#[test]
fn a_full_disk_is_its_own_situation() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert!(matches!(BlobError::io("x", full), BlobError::Full));
}
