//! When the disk is full, the network gone, the role lost, the mount ended.

use std::time::Duration;

use super::desk::*;
use kegfs::format::{OpKind, Role};
use kegfs::vfs::*;

fn quick() -> Desk {
    desk_with(VfsOptions {
        deadline: Duration::from_secs(2),
        idle_flush: Duration::from_millis(100),
        ..VfsOptions::default()
    })
}

#[test]
fn a_full_disk_is_reported_and_nothing_is_lost() {
    let desk = quick();
    let data = pattern(1, 9 << 20);
    let (_, fh) = desk.create("f");
    desk.folder.set_faults(|faults| faults.disk_full = true);
    let mut reported = false;
    for (i, part) in data.chunks(1 << 20).enumerate() {
        // A write that fails has taken nothing: the application may try again.
        while let Err(error) = desk.vfs.write(fh, (i as u64) << 20, part) {
            assert_eq!(error, VfsError::NoSpace);
            reported = true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(desk.try_fsync(fh), Err(VfsError::NoSpace));
    assert!(reported || desk.folder.stored().0 == 0);
    assert!(desk.read_all(fh) == data, "the data is still there to read");
    assert!(desk.vfs.shutdown(Duration::from_millis(700)).is_err(), "the mount does not end while data would be lost");
    assert!(desk.read_all(fh) == data);
    desk.folder.set_faults(|faults| faults.disk_full = false);
    while desk.try_fsync(fh).is_err() {}
    desk.close(fh);
    desk.settle();
    desk.drained();
    assert!(desk.content("f") == data);
}

#[test]
fn closed_files_are_stored_as_soon_as_there_is_room_again() {
    let desk = quick();
    desk.folder.set_faults(|faults| faults.disk_full = true);
    for i in 0..20 {
        desk.save(&format!("{i}"), &pattern(i, 5000));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(desk.folder.stored().0, 0);
    desk.folder.set_faults(|faults| faults.disk_full = false);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while desk.vfs.memory_bytes().0 > 0 {
        assert!(std::time::Instant::now() < until, "tried again by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    for i in 0..20 {
        assert!(desk.content(&format!("{i}")) == pattern(i, 5000));
    }
}

#[test]
fn a_writer_that_fills_memory_is_told_rather_than_hung() {
    let desk = desk_with(VfsOptions {
        dirty_max_bytes: 8 << 20,
        deadline: Duration::from_millis(500),
        ..VfsOptions::default()
    });
    desk.folder.set_faults(|faults| faults.disk_full = true);
    let (_, fh) = desk.create("f");
    let mut errors = 0;
    for i in 0..40u64 {
        match desk.vfs.write(fh, i << 20, &vec![1; 1 << 20]) {
            Ok(_) => {}
            Err(VfsError::NoSpace) => errors += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(errors > 20);
    assert!(desk.vfs.memory_bytes().0 <= 16 << 20);
}

#[test]
fn a_broken_journal_keeps_the_data_in_memory() {
    let desk = quick();
    let (_, fh) = desk.create("f");
    desk.write(fh, 0, b"precious");
    desk.folder.set_faults(|faults| faults.journal_broken = true);
    assert!(matches!(desk.vfs.flush(fh), Err(VfsError::Storage(_))));
    assert_eq!(desk.read_all(fh), b"precious");
    desk.folder.set_faults(|faults| faults.journal_broken = false);
    std::thread::sleep(Duration::from_millis(400));
    let _ = desk.vfs.flush(fh);
    desk.vfs.release(fh);
    desk.settle();
    assert_eq!(desk.content("f"), b"precious");
}

#[test]
fn offline_reads_fail_with_their_own_error_and_local_ones_do_not() {
    let desk = quick();
    desk.save("remote", &pattern(1, 100_000));
    desk.settle();
    desk.folder.evict();
    desk.save("local", &pattern(2, 100_000));
    desk.settle();
    desk.folder.set_faults(|faults| faults.offline = true);
    let fresh =
        Desk { vfs: Vfs::single(desk.folder.clone(), VfsOptions::default()).unwrap(), folder: desk.folder.clone() };
    let fh = fresh.open("remote", READ);
    assert_eq!(fresh.try_read(fh, 0, 10), Err(VfsError::Offline));
    assert_eq!(fresh.content("local"), pattern(2, 100_000));
    assert_eq!(fresh.vfs.getattr(ROOT).unwrap().1, Duration::from_secs(1), "short validity while offline");
    fresh.folder.set_faults(|faults| faults.offline = false);
    assert_eq!(fresh.read_all(fh), pattern(1, 100_000));
}

#[test]
fn damaged_ciphertext_is_an_error_and_never_bytes() {
    let desk = quick();
    desk.save("f", &pattern(1, 1000));
    desk.settle();
    desk.folder.damage();
    let fresh =
        Desk { vfs: Vfs::single(desk.folder.clone(), VfsOptions::default()).unwrap(), folder: desk.folder.clone() };
    let fh = fresh.open("f", READ);
    assert!(matches!(fresh.try_read(fh, 0, 10), Err(VfsError::Corrupt(_))));
}

#[test]
fn what_a_disk_damaged_is_fetched_again_where_the_server_has_it() {
    let desk = quick();
    desk.save("f", &pattern(1, 100_000));
    desk.settle();
    desk.folder.evict();
    assert_eq!(desk.content("f"), pattern(1, 100_000), "now it is here as well as there");
    desk.folder.damage();
    let fresh =
        Desk { vfs: Vfs::single(desk.folder.clone(), VfsOptions::default()).unwrap(), folder: desk.folder.clone() };
    assert_eq!(fresh.content("f"), pattern(1, 100_000));
}

#[test]
fn a_viewer_reads_and_does_not_write() {
    let desk = quick();
    let ino = desk.save("f", b"text");
    desk.settle();
    desk.folder.set_faults(|faults| faults.role = Some(Role::Viewer));
    let refused = VfsError::ReadOnly(ReadOnlyReason::Role(Role::Viewer));
    assert_eq!(desk.content("f"), b"text");
    assert_eq!(desk.vfs.getattr(ino).unwrap().0.mode, 0o444);
    assert_eq!(desk.vfs.open(ino, WRITE).unwrap_err(), refused);
    assert_eq!(desk.vfs.create(ROOT, b"g", 0o644, WRITE, &CALLER).unwrap_err(), refused);
    assert_eq!(desk.vfs.unlink(ROOT, b"f").unwrap_err(), refused);
    assert_eq!(desk.vfs.mkdir(ROOT, b"d", 0o755, &CALLER).unwrap_err(), refused);
    assert_eq!(desk.vfs.setxattr(ino, b"user.a", b"b", XattrMode::Set, &CALLER).unwrap_err(), refused);
    assert_eq!(desk.vfs.access(ino, 2, &CALLER).unwrap_err(), refused);
    assert!(desk.vfs.access(ino, 4, &CALLER).is_ok());
}

#[test]
fn a_frozen_folder_is_read_only_and_a_removed_member_sees_nothing() {
    let desk = quick();
    let ino = desk.save("f", b"text");
    let fh = desk.open("f", WRITE);
    desk.folder.set_faults(|faults| faults.frozen = true);
    assert_eq!(desk.vfs.write(fh, 0, b"x").unwrap_err(), VfsError::ReadOnly(ReadOnlyReason::Frozen));
    assert_eq!(desk.read_all(fh), b"text");
    desk.folder.set_faults(|faults| faults.role = None);
    assert_eq!(desk.try_read(fh, 0, 4), Err(VfsError::Gone));
    assert_eq!(desk.vfs.getattr(ino).unwrap_err(), VfsError::Gone);
}

#[test]
fn after_shutdown_everything_is_journaled_wiped_and_gone() {
    let desk = quick();
    let (ino, fh) = desk.create("f");
    desk.write(fh, 0, &pattern(1, 3 << 20));
    desk.vfs.shutdown(Duration::from_secs(10)).unwrap();
    assert!(matches!(desk.folder.journal().last(), Some(OpKind::Content { size: 0x30_0000, .. })));
    assert_eq!(desk.vfs.memory_bytes(), (0, 0));
    assert_eq!(desk.vfs.getattr(ino).unwrap_err(), VfsError::Gone);
    assert_eq!(desk.vfs.write(fh, 0, b"x").unwrap_err(), VfsError::Gone);
    assert_eq!(desk.try_read(fh, 0, 1), Err(VfsError::Gone));
    assert_eq!(desk.try_fsync(fh), Err(VfsError::Gone));
    desk.vfs.shutdown(Duration::from_secs(1)).unwrap();
}
