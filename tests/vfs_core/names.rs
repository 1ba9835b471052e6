//! The tree: names, kinds, links, listings, times.

use std::time::Duration;

use super::desk::*;
use kegfs::format::OpKind;
use kegfs::vfs::*;

#[test]
fn kinds_modes_and_targets_survive() {
    let desk = desk();
    let vfs = &desk.vfs;
    let dir = vfs.mkdir(ROOT, b"d", 0o777, &CALLER).unwrap().attr;
    assert_eq!((dir.kind, dir.mode, dir.nlink), (NodeKind::Directory, 0o755, 2));
    let link = vfs.symlink(dir.ino, b"l", b"../somewhere", &CALLER).unwrap().attr;
    assert_eq!((link.mode, link.size), (0o777, 12));
    assert_eq!(vfs.readlink(link.ino).unwrap(), b"../somewhere");
    let pipe = vfs.mknod(dir.ino, b"p", NodeKind::Fifo, 0o600, 0, &CALLER).unwrap().attr;
    assert_eq!(pipe.kind, NodeKind::Fifo);
    let device = vfs.mknod(dir.ino, b"c", NodeKind::CharDevice, 0o600, 0x103, &CALLER).unwrap().attr;
    assert_eq!(device.rdev, 0x103);
    assert_eq!((pipe.uid, pipe.gid), (1000, 1000), "shown as the mounting user's");
    let odd = [b"\xff\xfe ".as_slice(), &[b'x'; 255]];
    for name in odd {
        vfs.mkdir(dir.ino, name, 0o700, &CALLER).unwrap();
        assert!(vfs.lookup(dir.ino, name).is_ok());
    }
    assert_eq!(vfs.mkdir(dir.ino, &[b'x'; 256], 0o700, &CALLER).unwrap_err(), VfsError::NameTooLong);
    assert_eq!(vfs.getattr(dir.ino).unwrap().0.nlink, 4);
}

#[test]
fn errors_are_those_that_posix_names() {
    let desk = desk();
    let vfs = &desk.vfs;
    let dir = vfs.mkdir(ROOT, b"d", 0o755, &CALLER).unwrap().attr.ino;
    let sub = vfs.mkdir(dir, b"s", 0o755, &CALLER).unwrap().attr.ino;
    let file = desk.save("f", b"");
    assert_eq!(vfs.rmdir(ROOT, b"d"), Err(VfsError::NotEmpty));
    assert_eq!(vfs.rmdir(ROOT, b"f"), Err(VfsError::NotDirectory));
    assert_eq!(vfs.unlink(ROOT, b"d"), Err(VfsError::IsDirectory));
    assert_eq!(vfs.unlink(ROOT, b"none"), Err(VfsError::NotFound));
    assert_eq!(vfs.mkdir(ROOT, b"f", 0o755, &CALLER).unwrap_err(), VfsError::Exists);
    assert_eq!(vfs.mkdir(file, b"x", 0o755, &CALLER).unwrap_err(), VfsError::NotDirectory);
    assert_eq!(vfs.link(dir, ROOT, b"hard").unwrap_err(), VfsError::NoPermission);
    assert_eq!(vfs.rename(ROOT, b"d", sub, b"x", RenameMode::Replace), Err(VfsError::InvalidArgument));
    assert_eq!(vfs.rename(ROOT, b"f", ROOT, b"d", RenameMode::Replace), Err(VfsError::IsDirectory));
    assert_eq!(vfs.rename(ROOT, b"d", ROOT, b"f", RenameMode::Replace), Err(VfsError::NotDirectory));
    assert_eq!(vfs.rename(ROOT, b"f", ROOT, b"d", RenameMode::NoReplace), Err(VfsError::Exists));
    assert_eq!(vfs.rename(ROOT, b"f", ROOT, b"none", RenameMode::Exchange), Err(VfsError::NotFound));
    assert_eq!(vfs.open(dir, READ).unwrap_err(), VfsError::IsDirectory);
    assert_eq!(vfs.readlink(file).unwrap_err(), VfsError::InvalidArgument);
    assert_eq!(vfs.getattr(999), Err(VfsError::NotFound));
}

#[test]
fn exchange_swaps_and_replace_replaces() {
    let desk = desk();
    desk.save("a", b"A");
    desk.save("b", b"B");
    desk.vfs.rename(ROOT, b"a", ROOT, b"b", RenameMode::Exchange).unwrap();
    assert_eq!((desk.content("a"), desk.content("b")), (b"B".to_vec(), b"A".to_vec()));
    let fh = desk.open("b", READ);
    desk.vfs.rename(ROOT, b"a", ROOT, b"b", RenameMode::Replace).unwrap();
    assert_eq!(desk.list(ROOT), ["b"]);
    assert_eq!(desk.content("b"), b"B");
    assert_eq!(desk.read_all(fh), b"A", "the replaced file is readable while it is open");
}

#[test]
fn a_rename_never_overtakes_the_data() {
    let desk = desk();
    desk.save("doc", b"old");
    desk.settle();
    let (_, fh) = desk.create("doc.tmp");
    desk.write(fh, 0, b"new");
    desk.vfs.rename(ROOT, b"doc.tmp", ROOT, b"doc", RenameMode::Replace).unwrap();
    // The journal's order is that of the places taken; the twin confirms at filling, so only the place can be seen.
    desk.close(fh);
    assert_eq!(desk.content("doc"), b"new");
    desk.settle();
    let contents = desk.folder.journal().iter().filter(|op| matches!(op, OpKind::Content { .. })).count();
    assert_eq!(contents, 2, "one change each, and none for the second close");
}

/// One that was cut to nothing is not flushed when a descriptor is closed, and the release may come after what follows.
#[test]
fn an_exchange_never_overtakes_what_was_done_to_either_file() {
    for cut in ["a", "b"] {
        let desk = desk();
        let files = [desk.save("a", b"A"), desk.save("b", b"B")];
        desk.settle();
        let fh = desk.open(cut, WRITE);
        let size = SetAttr { size: Some(0), ..SetAttr::default() };
        desk.vfs.setattr(files[usize::from(cut == "b")], &size, &CALLER).unwrap();
        desk.vfs.flush(fh).unwrap();
        let before = desk.folder.journal().len();
        desk.vfs.rename(ROOT, b"a", ROOT, b"b", RenameMode::Exchange).unwrap();
        desk.vfs.release(fh);
        desk.settle();
        let steps = &desk.folder.journal()[before..];
        assert!(
            matches!(steps, [OpKind::Content { size: 0, .. }, OpKind::Rename { exchange: true, .. }]),
            "{cut}: {steps:?}"
        );
    }
}

#[test]
fn an_unlinked_file_lives_while_it_is_open_and_is_never_journaled() {
    let orphan_age = Duration::from_millis(50);
    let desk = desk_with(VfsOptions { dirty_max_bytes: 8 << 20, orphan_age, ..VfsOptions::default() });
    let (ino, fh) = desk.create("temporary");
    desk.write(fh, 0, b"before");
    desk.vfs.unlink(ROOT, b"temporary").unwrap();
    let data = pattern(1, 30 << 20);
    desk.write(fh, 6, &data);
    desk.fsync(fh);
    assert_eq!(desk.size(ino), 6 + data.len() as u64);
    let all = desk.read_all(fh);
    assert!(all[..6] == b"before"[..] && all[6..] == data);
    assert!(desk.folder.stored().0 > 0, "it was too much for the memory");
    desk.close(fh);
    desk.settle();
    desk.drained();
    assert!(desk.folder.journal().iter().all(|op| !matches!(op, OpKind::Content { .. })));
    desk.eventually("the spool lets go of it", || desk.folder.stored().0 == 0);
}

#[test]
fn what_was_overwritten_before_its_turn_leaves_the_spool_and_what_is_shared_stays() {
    let orphan_age = Duration::from_millis(50);
    let desk = desk_with(VfsOptions { orphan_age, dirty_max_bytes: 8 << 20, ..VfsOptions::default() });
    let ((_, one), (_, other)) = (desk.create("one"), desk.create("other"));
    desk.vfs.unlink(ROOT, b"one").unwrap();
    let data = pattern(2, 20 << 20);
    desk.write(one, 0, &data);
    desk.fsync(one);
    // The clone is of blobs that are in no journal, and goes to the journal itself.
    desk.copy(one, 4 << 20, other, 0, 8 << 20);
    desk.fsync(other);
    let before = desk.folder.stored().0;
    desk.close(one);
    desk.eventually("the rest leaves the spool", || desk.folder.stored().0 < before);
    std::thread::sleep(4 * orphan_age);
    assert!(desk.read(other, 0, 8 << 20) == data[4 << 20..12 << 20]);
    desk.close(other);
    desk.settle();
    let fh = desk.open("other", READ);
    assert!(desk.read(fh, 0, 8 << 20) == data[4 << 20..12 << 20]);
    desk.close(fh);
}

#[test]
fn a_removed_directory_takes_no_new_names() {
    let desk = desk();
    let dir = desk.vfs.mkdir(ROOT, b"d", 0o755, &CALLER).unwrap().attr.ino;
    desk.vfs.rmdir(ROOT, b"d").unwrap();
    assert_eq!(desk.vfs.create(dir, b"f", 0o644, WRITE, &CALLER).unwrap_err(), VfsError::NotFound);
    assert!(desk.list(ROOT).is_empty());
}

#[test]
fn listing_goes_on_while_names_are_removed() {
    let desk = desk();
    let dir = desk.vfs.mkdir(ROOT, b"d", 0o755, &CALLER).unwrap().attr.ino;
    for i in 0..500 {
        desk.vfs.mknod(dir, format!("{i:03}").as_bytes(), NodeKind::File, 0o644, 0, &CALLER).unwrap();
    }
    let fh = desk.vfs.opendir(dir).unwrap();
    let mut seen = Vec::new();
    let mut offset = 0;
    loop {
        let mut batch = Vec::new();
        let from = offset;
        let mut each = |entry: DirEntry<'_>| {
            if batch.len() == 7 {
                return true;
            }
            assert!(entry.cookie > offset);
            offset = entry.cookie;
            batch.push(entry.name.to_vec());
            false
        };
        desk.vfs.readdir(fh, from, &mut each, seen.len() % 2 == 0).unwrap();
        if batch.is_empty() {
            break;
        }
        for name in batch.iter().filter(|name| !name.starts_with(b".")) {
            desk.vfs.unlink(dir, name).unwrap();
        }
        seen.extend(batch);
    }
    assert_eq!(seen.len(), 502, "each name once, with . and ..");
    desk.vfs.rmdir(ROOT, b"d").unwrap();
}

/// What a listing with room for seven names at a time shows; `meanwhile` is done after each of them.
fn list_in_parts(desk: &Desk, dir: Ino, plus: bool, mut meanwhile: impl FnMut(&[String])) -> Vec<String> {
    let fh = desk.vfs.opendir(dir).unwrap();
    let (mut seen, mut offset) = (Vec::new(), 0);
    loop {
        let (mut part, from) = (Vec::new(), offset);
        let mut each = |entry: DirEntry<'_>| {
            if part.len() == 7 {
                return true;
            }
            offset = entry.cookie;
            part.push(String::from_utf8_lossy(entry.name).into_owned());
            false
        };
        desk.vfs.readdir(fh, from, &mut each, plus).unwrap();
        if part.is_empty() {
            desk.vfs.releasedir(fh);
            return seen;
        }
        part.retain(|name| !name.starts_with('.'));
        meanwhile(&part);
        seen.extend(part);
        assert!(seen.len() < 10_000, "the listing does not end");
    }
}

#[test]
fn a_listing_ends_while_every_name_in_it_is_renamed_and_named_back() {
    for plus in [false, true] {
        let desk = desk();
        let dir = desk.vfs.mkdir(ROOT, b"d", 0o755, &CALLER).unwrap().attr.ino;
        let names: Vec<_> = (0..200).map(|i| format!("{i:03}")).collect();
        for name in &names {
            desk.vfs.mknod(dir, name.as_bytes(), NodeKind::File, 0o644, 0, &CALLER).unwrap();
        }
        let mv = |from: &[u8], to: &[u8]| desk.vfs.rename(dir, from, dir, to, RenameMode::Replace).unwrap();
        let seen = list_in_parts(&desk, dir, plus, |part| {
            for name in part {
                mv(name.as_bytes(), b"aside");
                mv(b"aside", name.as_bytes());
            }
        });
        assert_eq!(seen, names, "each name once");
        // From the beginning again, on the same handle, everything is there.
        let fh = desk.vfs.opendir(dir).unwrap();
        desk.vfs.mknod(dir, b"new", NodeKind::File, 0o644, 0, &CALLER).unwrap();
        let mut count = 0;
        let mut each = |_: DirEntry<'_>| {
            count += 1;
            false
        };
        desk.vfs.readdir(fh, 0, &mut each, plus).unwrap();
        assert_eq!(count, 203, "with . and .., and what came after the opening");
    }
}

#[test]
fn a_listing_shows_every_name_whose_file_is_replaced_or_exchanged_meanwhile() {
    let desk = desk();
    let dir = desk.vfs.mkdir(ROOT, b"d", 0o755, &CALLER).unwrap().attr.ino;
    let names: Vec<_> = (0..100).map(|i| format!("{i:03}")).collect();
    for name in &names {
        desk.vfs.mknod(dir, name.as_bytes(), NodeKind::File, 0o644, 0, &CALLER).unwrap();
    }
    let mut begun = false;
    let seen = list_in_parts(&desk, dir, true, |_| {
        if !std::mem::replace(&mut begun, true) {
            for name in &names {
                // How editors save.
                desk.vfs.mknod(dir, b"tmp", NodeKind::File, 0o644, 0, &CALLER).unwrap();
                desk.vfs.rename(dir, b"tmp", dir, name.as_bytes(), RenameMode::Replace).unwrap();
            }
            desk.vfs.rename(dir, b"000", dir, b"099", RenameMode::Exchange).unwrap();
        }
    });
    assert_eq!(seen, names, "each name once");
}

#[test]
fn times_set_on_a_file_being_written_stay() {
    let desk = desk();
    let set = SetAttr { mtime: Some(SetTime::At(1_000_000_007)), atime: Some(SetTime::At(5)), ..SetAttr::default() };
    for close_first in [false, true] {
        let name = format!("{close_first}");
        let (ino, fh) = desk.create(&name);
        desk.write(fh, 0, b"text");
        if close_first {
            desk.vfs.flush(fh).unwrap();
        }
        desk.vfs.setattr(ino, &set, &CALLER).unwrap();
        desk.close(fh);
        for _ in 0..2 {
            let attr = desk.vfs.getattr(ino).unwrap().0;
            assert_eq!((attr.mtime_ns, attr.atime_ns), (1_000_000_007, 5), "closed first: {close_first}");
            assert!(attr.ctime_ns > 1_700_000_000_000_000_000);
            desk.settle();
        }
    }
}

#[test]
fn setgid_directories_hand_down_their_group() {
    let desk = desk_with(VfsOptions { owners_stored: true, ..VfsOptions::default() });
    let dir = desk.vfs.mkdir(ROOT, b"d", 0o755, &CALLER).unwrap().attr.ino;
    let set = SetAttr { mode: Some(0o2755), gid: Some(77), ..SetAttr::default() };
    desk.vfs.setattr(dir, &set, &CALLER).unwrap();
    let sub = desk.vfs.mkdir(dir, b"s", 0o755, &CALLER).unwrap().attr;
    assert_eq!((sub.gid, sub.mode), (77, 0o2755));
    assert_eq!(desk.vfs.mknod(dir, b"f", NodeKind::File, 0o644, 0, &CALLER).unwrap().attr.gid, 77);
}

#[test]
fn extended_attributes_are_set_listed_replaced_and_removed() {
    let desk = desk();
    let ino = desk.save("f", b"");
    let vfs = &desk.vfs;
    vfs.setxattr(ino, b"user.a", b"1", XattrMode::Create, &CALLER).unwrap();
    assert_eq!(vfs.setxattr(ino, b"user.a", b"2", XattrMode::Create, &CALLER), Err(VfsError::Exists));
    assert_eq!(vfs.setxattr(ino, b"user.b", b"2", XattrMode::Replace, &CALLER), Err(VfsError::NoAttribute));
    vfs.setxattr(ino, b"user.b", b"", XattrMode::Set, &CALLER).unwrap();
    assert_eq!(vfs.listxattr(ino).unwrap(), b"user.a\0user.b\0");
    assert_eq!(vfs.getxattr(ino, b"user.a").unwrap(), b"1");
    vfs.removexattr(ino, b"user.a").unwrap();
    assert_eq!(vfs.getxattr(ino, b"user.a"), Err(VfsError::NoAttribute));
    assert_eq!(vfs.removexattr(ino, b"user.a"), Err(VfsError::NoAttribute));
}

#[test]
fn a_mount_of_all_folders_lists_them_and_keeps_them_apart() {
    let vfs = Vfs::all(VfsOptions::default()).unwrap();
    let (acme, other) = (MemoryFolder::new("acme"), MemoryFolder::new("acme"));
    let (a, b) = (vfs.add_folder(acme.clone()).unwrap(), vfs.add_folder(other).unwrap());
    assert_ne!(a, b);
    let desk = Desk { folder: acme, vfs };
    assert_eq!(desk.list(ROOT), ["acme", "acme (2)"]);
    assert_eq!(desk.vfs.lookup(ROOT, b"acme (2)").unwrap().attr.ino, b);
    let (entry, opened) = desk.vfs.create(a, b"f", 0o644, WRITE, &CALLER).unwrap();
    desk.write(opened.fh, 0, b"text");
    assert_eq!(desk.vfs.rename(a, b"f", b, b"f", RenameMode::Replace), Err(VfsError::CrossFolder));
    assert_eq!(desk.vfs.link(entry.attr.ino, b, b"f").unwrap_err(), VfsError::CrossFolder);
    assert_eq!(desk.vfs.mkdir(ROOT, b"x", 0o755, &CALLER).unwrap_err(), VfsError::ReadOnly(ReadOnlyReason::View));
    desk.close(opened.fh);
    desk.settle();
    desk.vfs.remove_folder(a, std::time::Duration::from_secs(5)).unwrap();
    assert_eq!(desk.list(ROOT), ["acme"]);
    assert!(desk.vfs.getattr(entry.attr.ino).is_err());
}

#[test]
fn a_file_without_a_name_with_very_many_pieces_gets_one_and_loses_nothing() {
    let desk = desk();
    let (made, opened) = desk.vfs.create_nameless(ROOT, 0o666, WRITE, &CALLER).unwrap();
    assert_eq!((made.attr.nlink, made.attr.mode), (0, 0o644));
    // More than one operation takes: each write is a piece, with a hole behind it.
    let count = 9000_u64;
    for piece in 0..count {
        desk.write(opened.fh, piece * 10, &piece.to_le_bytes()[..2]);
    }
    assert_eq!(desk.folder.journal().len(), 0, "nobody hears of it");
    assert_eq!(desk.vfs.getattr(made.attr.ino).unwrap().0.size, (count - 1) * 10 + 2);
    let linked = desk.vfs.link(made.attr.ino, ROOT, b"named").unwrap();
    assert_eq!((linked.attr.ino, linked.attr.nlink), (made.attr.ino, 1));
    desk.vfs.flush_all(std::time::Duration::from_secs(30)).unwrap();
    desk.vfs.release(opened.fh);
    desk.vfs.forget(made.attr.ino, 2);
    let fh = desk.open("named", READ);
    let read = desk.read(fh, 0, (count * 10) as usize);
    for piece in 0..count {
        let at = (piece * 10) as usize;
        assert_eq!(read[at..at + 2], piece.to_le_bytes()[..2], "piece {piece}");
    }
    let contents = desk.folder.journal().iter().filter(|op| matches!(op, OpKind::Content { .. })).count();
    assert!(contents >= 3, "{contents} operations");
}

#[test]
fn a_file_without_a_name_ends_with_the_kernels_last_reference() {
    let desk = desk();
    let (made, opened) = desk.vfs.create_nameless(ROOT, 0o600, WRITE, &CALLER).unwrap();
    desk.write(opened.fh, 0, &[7; 5000]);
    desk.vfs.release(opened.fh);
    // A descriptor opened with O_PATH would still lead to it.
    assert_eq!(desk.vfs.getattr(made.attr.ino).unwrap().0.size, 5000);
    desk.vfs.forget(made.attr.ino, 1);
    assert_eq!(desk.vfs.getattr(made.attr.ino).unwrap_err(), VfsError::NotFound);
    assert_eq!(desk.vfs.link(made.attr.ino, ROOT, b"late").unwrap_err(), VfsError::NotFound);
    assert_eq!(desk.vfs.memory_bytes().0, 0, "its content is gone");
}
