//! Around 64 KiB and 4 MiB, where segments, chunks and blobs begin and end.

use super::desk::*;
use kegfs::vfs::*;

const SEGMENT: usize = 64 << 10;
const CHUNK: usize = 4 << 20;

#[test]
fn files_of_every_length_around_the_boundaries_come_back() {
    let desk = desk();
    let lengths = [0, 1, 4095, 4096, SEGMENT - 1, SEGMENT, SEGMENT + 1, 1 << 20, CHUNK - 1, CHUNK, CHUNK + 1];
    for (seed, len) in lengths.into_iter().chain([2 * CHUNK - 1, 2 * CHUNK + SEGMENT + 1]).enumerate() {
        let name = format!("{len}");
        let data = pattern(seed as u64, len);
        desk.save(&name, &data);
        assert!(desk.content(&name) == data, "{len} before it is sealed");
        desk.settle();
        assert!(desk.content(&name) == data, "{len} from the spool");
        assert_eq!(desk.size(desk.ino(&name)), len as u64);
    }
    desk.folder.evict();
    let other = Vfs::single(desk.folder.clone(), VfsOptions::default()).unwrap();
    let fresh = Desk { folder: desk.folder.clone(), vfs: other };
    for (seed, len) in lengths.into_iter().enumerate() {
        assert!(fresh.content(&format!("{len}")) == pattern(seed as u64, len), "{len} from the server");
    }
}

#[test]
fn overwriting_across_a_boundary_keeps_the_rest() {
    let desk = desk();
    let mut model = pattern(1, 2 * CHUNK + 100);
    desk.save("f", &model);
    desk.settle();
    for (i, at) in [SEGMENT - 10, CHUNK - 10, CHUNK, 2 * CHUNK - 1, 5].into_iter().enumerate() {
        let fh = desk.open("f", WRITE);
        let data = pattern(10 + i as u64, 20);
        desk.write(fh, at as u64, &data);
        model[at..at + 20].copy_from_slice(&data);
        assert!(desk.read(fh, at as u64 - 5, 40) == model[at - 5..at + 35]);
        desk.close(fh);
        desk.settle();
        assert!(desk.content("f") == model, "after writing at {at}");
    }
}

#[test]
fn cutting_and_extending_shows_zeros_and_never_old_bytes() {
    let desk = desk();
    for settle in [false, true] {
        let name = format!("f{settle}");
        let mut model = pattern(2, CHUNK + 5000);
        let ino = desk.save(&name, &model);
        for size in [CHUNK + 1, CHUNK, CHUNK - 1, SEGMENT + 7, 2 * CHUNK, SEGMENT, 100, 0, 300] {
            if settle {
                desk.settle();
            }
            desk.vfs.setattr(ino, &SetAttr { size: Some(size as u64), ..SetAttr::default() }, &CALLER).unwrap();
            model.resize(size, 0);
            assert_eq!(desk.size(ino), size as u64);
            assert!(desk.content(&name) == model, "{size} {settle}");
        }
    }
}

#[test]
fn holes_are_zeros_found_by_seek_and_not_stored() {
    let desk = desk();
    let (_, fh) = desk.create("sparse");
    desk.write(fh, 100 << 20, b"end");
    desk.write(fh, 10 << 20, b"middle");
    let check = |desk: &Desk| {
        assert_eq!(desk.vfs.seek_data(fh, 0).unwrap(), 10 << 20);
        assert_eq!(desk.vfs.seek_hole(fh, 10 << 20).unwrap(), (10 << 20) + 6);
        assert_eq!(desk.vfs.seek_data(fh, 50 << 20).unwrap(), 100 << 20);
        assert_eq!(desk.vfs.seek_hole(fh, 100 << 20).unwrap(), (100 << 20) + 3);
        assert_eq!(desk.vfs.seek_data(fh, (100 << 20) + 3), Err(VfsError::PastEnd));
        assert_eq!(desk.read(fh, (10 << 20) - 3, 12), b"\0\0\0middle\0\0\0");
    };
    check(&desk);
    desk.fsync(fh);
    check(&desk);
    desk.vfs.fallocate(fh, (10 << 20) + 1, 2, Allocate::PunchHole).unwrap();
    assert_eq!(desk.read(fh, 10 << 20, 6), b"m\0\0dle");
    desk.fsync(fh);
    assert_eq!(desk.read(fh, 10 << 20, 6), b"m\0\0dle");
    desk.vfs.fallocate(fh, 0, 200 << 20, Allocate::Extend).unwrap();
    desk.fsync(fh);
    assert_eq!(desk.read(fh, (200 << 20) - 2, 10), b"\0\0");
    assert!(desk.folder.stored().1 < 1 << 20, "holes are not stored");
}

#[test]
fn a_stream_is_flushed_in_pieces_within_the_memory_bound() {
    let desk = desk_with(VfsOptions { dirty_max_bytes: 16 << 20, cache_max_bytes: 8 << 20, ..VfsOptions::default() });
    let (_, fh) = desk.create("stream");
    let data = pattern(3, 1 << 20);
    for i in 0..200u64 {
        desk.write(fh, i << 20, &data);
        // One buffer beyond the bound is what a writer may have in hand.
        assert!(desk.vfs.memory_bytes().0 <= (16 << 20) + 2 * CHUNK);
    }
    let contents = |desk: &Desk| desk.folder.journal().len();
    assert!(contents(&desk) >= 3, "others see the beginning before the end is written");
    desk.fsync(fh);
    desk.close(fh);
    let fh = desk.open("stream", READ);
    for i in 0..200u64 {
        assert!(desk.read(fh, i << 20, 1 << 20) == data, "MiB {i}");
        assert!(desk.vfs.memory_bytes().1 <= 8 << 20);
    }
}
