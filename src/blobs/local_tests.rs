//! The spool and the cache on a real file system.
#![allow(clippy::unwrap_used)]

use std::fs;

use super::{LocalError, LocalFault, LocalStore};
use crate::format::BlobId;

fn blob(text: &[u8]) -> (BlobId, &[u8]) {
    (BlobId(*blake3::hash(text).as_bytes()), text)
}

#[test]
fn spooled_blobs_survive_reopening_and_move_to_the_cache_when_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let (id, bytes) = blob(b"sealed bytes");
    {
        let store = LocalStore::open(dir.path(), 1000).unwrap();
        store.spool(&id, bytes).unwrap();
        store.spool(&id, bytes).unwrap();
        store.sync_spool(&[id]).unwrap();
    }
    let store = LocalStore::open(dir.path(), 1000).unwrap();
    assert_eq!(store.spooled(), [(id, 12)]);
    let mut part = [0; 5];
    store.read_at(&id, 7, &mut part).unwrap();
    assert_eq!(&part, b"bytes");
    assert!(store.verify(&id).unwrap());
    store.uploaded(&id).unwrap();
    store.uploaded(&id).unwrap();
    assert!(store.spooled().is_empty() && store.contains(&id));
    assert_eq!(store.read(&id).unwrap(), bytes);
    store.sync_spool(&[id]).unwrap();
    let usage = store.usage();
    assert_eq!((usage.spool_bytes, usage.cache_bytes, usage.cache_blobs), (0, 12, 1));
}

#[test]
fn reading_past_the_end_or_what_is_not_there_is_typed() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path(), 1000).unwrap();
    let (id, bytes) = blob(b"short");
    assert!(matches!(store.read_at(&id, 0, &mut [0; 1]), Err(LocalError::Missing(missing)) if missing == id));
    store.spool(&id, bytes).unwrap();
    assert!(matches!(store.read_at(&id, 3, &mut [0; 3]), Err(LocalError::Short { .. })));
}

#[test]
fn the_cache_loses_what_was_read_longest_ago_and_never_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path(), 30).unwrap();
    let texts: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 10]).collect();
    let blobs: Vec<_> = texts.iter().map(|text| blob(text)).collect();
    store.spool(&blobs[4].0, blobs[4].1).unwrap();
    for (id, bytes) in &blobs[..3] {
        store.cache(id, bytes).unwrap();
    }
    store.read(&blobs[0].0).unwrap();
    store.cache(&blobs[3].0, blobs[3].1).unwrap();
    let there: Vec<bool> = blobs.iter().map(|(id, _)| store.contains(id)).collect();
    assert_eq!(there, [true, false, true, true, true]);
    assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 3);
    store.clear_cache().unwrap();
    assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 0);
    assert_eq!(store.read(&blobs[4].0).unwrap(), blobs[4].1);
    // What can never fit is not kept.
    let (id, bytes) = blob(&[9; 31]);
    store.cache(&id, bytes).unwrap();
    assert!(!store.contains(&id));
}

#[test]
fn half_written_files_are_removed_at_opening_and_strangers_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(LocalStore::open(dir.path(), 10).unwrap());
    fs::write(dir.path().join("spool/.temp-7"), b"half").unwrap();
    fs::write(dir.path().join("spool/README"), b"mine").unwrap();
    let store = LocalStore::open(dir.path(), 10).unwrap();
    assert!(store.spooled().is_empty());
    assert!(!dir.path().join("spool/.temp-7").exists() && dir.path().join("spool/README").exists());
}

#[test]
fn a_full_disk_empties_the_cache_first_and_is_typed_then() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path(), 1000).unwrap();
    let (cached, bytes) = blob(b"can be fetched again");
    store.cache(&cached, bytes).unwrap();
    store.inject(Some(LocalFault::DiskFull));
    let (id, bytes) = blob(b"new");
    assert!(matches!(store.spool(&id, bytes), Err(LocalError::DiskFull { .. })));
    assert!(!store.contains(&cached) && !store.contains(&id));
    // A cache without room is no failure.
    store.cache(&id, bytes).unwrap();
    assert!(!store.contains(&id));
    store.inject(None);
    store.spool(&id, bytes).unwrap();
    assert_eq!(store.read(&id).unwrap(), bytes);
    store.inject(Some(LocalFault::Unsyncable));
    assert!(matches!(store.sync_all(), Err(LocalError::Io { .. })));
    store.inject(None);
    store.sync_all().unwrap();
    store.inject(Some(LocalFault::Unreadable));
    assert!(matches!(store.read(&id), Err(LocalError::Io { .. })));
}

#[test]
fn a_blob_that_lost_bytes_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path(), 1000).unwrap();
    let (id, bytes) = blob(b"whole");
    store.spool(&id, bytes).unwrap();
    fs::write(dir.path().join("spool").join(id.to_string()), b"whale").unwrap();
    assert!(!store.verify(&id).unwrap());
    store.discard(&id).unwrap();
    assert!(!store.contains(&id));
    assert_eq!(store.usage().spool_bytes, 0);
}

#[test]
fn only_a_damaged_blob_that_can_be_fetched_again_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path(), 1000).unwrap();
    let (id, bytes) = blob(b"whole");
    store.spool(&id, bytes).unwrap();
    let damage = |part: &str| fs::write(dir.path().join(part).join(id.to_string()), b"whale").unwrap();
    damage("spool");
    assert!(!store.drop_damaged(&id).unwrap(), "there is no other");
    store.discard(&id).unwrap();
    store.cache(&id, bytes).unwrap();
    assert!(!store.drop_damaged(&id).unwrap());
    damage("cache");
    assert!(store.drop_damaged(&id).unwrap());
    assert_eq!((store.contains(&id), store.usage().cache_bytes), (false, 0));
}
