//! Where bytes come from, and what is fetched ahead.

use std::time::Duration;

use super::desk::*;
use kegfs::vfs::*;

fn remote(len: usize) -> (Desk, Vec<u8>) {
    let desk = desk();
    let data = pattern(5, len);
    desk.save("f", &data);
    desk.settle();
    desk.folder.evict();
    let vfs = Vfs::single(desk.folder.clone(), VfsOptions::default()).unwrap();
    (Desk { vfs, folder: desk.folder }, data)
}

#[test]
fn a_sequential_reader_fetches_every_blob_once_and_ahead() {
    let (desk, data) = remote(60 << 20);
    desk.folder.set_faults(|faults| faults.fetch_delay = Duration::from_millis(20));
    let fh = desk.open("f", READ);
    let mut at = 0;
    while at < data.len() {
        let part = desk.read(fh, at as u64, 128 << 10);
        assert!(part == data[at..at + part.len()], "at {at}");
        at += part.len();
        if at == 20 << 20 {
            std::thread::sleep(Duration::from_millis(300));
            assert!(desk.folder.fetched().len() >= 9, "the window has grown");
        }
    }
    let mut fetched = desk.folder.fetched();
    assert!(fetched.iter().all(|(_, range)| range.is_none()));
    let count = fetched.len();
    fetched.sort_by_key(|(blob, _)| *blob);
    fetched.dedup();
    assert_eq!((count, fetched.len()), (15, 15));
}

#[test]
fn a_reader_that_jumps_fetches_ranges_and_then_the_blob_it_returns_to() {
    let (desk, data) = remote(64 << 20);
    let fh = desk.open("f", READ);
    for (i, chunk) in [9usize, 3, 14, 7].into_iter().enumerate() {
        let at = (chunk << 22) + 70_000 * (i + 1);
        assert!(desk.read(fh, at as u64, 4096) == data[at..at + 4096]);
    }
    let fetched = desk.folder.fetched();
    assert_eq!(fetched.len(), 4);
    assert!(fetched.iter().all(|(_, range)| range.as_ref().is_some_and(|range| range.end - range.start < 70_000)));
    let at = (7 << 22) + 2_000_000;
    assert!(desk.read(fh, at as u64, 4096) == data[at..at + 4096]);
    assert_eq!(desk.folder.fetched().last().unwrap().1, None);
}

#[test]
fn small_files_of_one_pack_come_with_one_fetch() {
    let desk = desk();
    for i in 0..100 {
        desk.save(&format!("{i}"), &pattern(i, 3000));
    }
    desk.settle();
    desk.folder.evict();
    let blobs = desk.folder.stored().0;
    assert!(blobs <= 8, "100 small files went into {blobs} blobs");
    let fresh =
        Desk { vfs: Vfs::single(desk.folder.clone(), VfsOptions::default()).unwrap(), folder: desk.folder.clone() };
    for i in 0..100 {
        assert!(fresh.content(&format!("{i}")) == pattern(i, 3000));
    }
    assert_eq!(fresh.folder.fetched().len(), blobs);
}

#[test]
fn reading_twice_is_answered_from_memory() {
    let (desk, data) = remote(3 << 20);
    assert!(desk.content("f") == data);
    desk.folder.evict();
    desk.folder.set_faults(|faults| faults.offline = true);
    assert!(desk.content("f") == data);
}

#[test]
fn many_readers_of_a_remote_file_share_the_fetch() {
    let (desk, data) = remote(8 << 20);
    desk.folder.set_faults(|faults| faults.fetch_delay = Duration::from_millis(50));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(desk.content("f") == data));
        }
    });
    assert_eq!(desk.folder.fetched().len(), 2);
}

#[test]
fn kept_caches_are_those_whose_content_is_the_same() {
    let desk = desk();
    let ino = desk.save("f", b"one");
    desk.settle();
    let open = || {
        let opened = desk.vfs.open(ino, READ).unwrap();
        desk.vfs.release(opened.fh);
        opened.keep_cache
    };
    open();
    assert!(open(), "nothing happened");
    let fh = desk.open("f", WRITE);
    desk.write(fh, 0, b"two");
    desk.close(fh);
    desk.settle();
    assert!(open(), "own writes went through the kernel's cache");
    let keg = kegfs::vfs::FolderSource::node(&*desk.folder, ino).unwrap().unwrap().keg;
    let kind =
        kegfs::format::OpKind::Content { keg, truncate: Some(0), holes: vec![], extents: vec![], size: 0, mtime_ns: 1 };
    let head = kegfs::vfs::FolderSource::head(&*desk.folder);
    desk.folder.other_does(head, kind, &[SourceChange::Content(ino)]);
    assert!(!open(), "somebody else has written");
    assert!(open());
}

/// A file of so many pieces, each with a hole behind it.
fn in_pieces(desk: &Desk, name: &str, pieces: u64) -> u64 {
    let (_, fh) = desk.create(name);
    for piece in 0..pieces {
        desk.write(fh, piece * 200, &[piece as u8 | 1; 100]);
    }
    desk.fsync(fh);
    desk.folder.extents_asked();
    fh
}

#[test]
fn a_read_after_a_write_is_synced_does_not_ask_for_all_that_a_file_in_many_pieces_consists_of() {
    let (desk, pieces) = (desk(), 6000);
    let fh = in_pieces(&desk, "database", pieces);
    for n in 0..20 {
        desk.write(fh, n * 331 % pieces * 200, b"new");
        desk.fsync(fh);
        let piece = (n * 977 + 5) % pieces;
        assert_eq!(desk.read(fh, piece * 200 + 50, 50), [piece as u8 | 1; 50]);
        let (asked, rows) = desk.folder.extents_asked();
        assert!(asked <= 2 && rows <= 100, "{rows} extents in {asked} answers");
    }
}

#[test]
fn a_clone_of_a_file_in_many_pieces_asks_for_no_more_than_it_takes_at_once() {
    let (desk, pieces) = (desk(), 10_000);
    let from = in_pieces(&desk, "original", pieces);
    let (len, data) = (pieces * 200 - 100, desk.read_all(from));
    let fresh = Vfs::single(desk.folder.clone(), VfsOptions::default()).unwrap();
    let desk = Desk { folder: desk.folder, vfs: fresh };
    let (from, (_, to)) = (desk.open("original", READ), desk.create("clone"));
    desk.folder.extents_asked();
    let first = u64::from(desk.vfs.copy_range(from, 0, to, 0, len).unwrap());
    let (_, rows) = desk.folder.extents_asked();
    assert!(rows <= 1536, "{rows} extents for {} pieces", first / 200);
    desk.copy(from, first, to, first, len - first);
    let (_, rows) = desk.folder.extents_asked();
    assert!(rows as u64 <= pieces, "{rows} extents for the rest");
    assert!(desk.read_all(to) == data);
    desk.fsync(to);
    assert!(desk.read_all(to) == data);
}
