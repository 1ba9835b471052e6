//! Files without a name: who has them open, who opens them nevertheless, and what becomes of them when they come back.

use std::sync::Barrier;
use std::time::Duration;

use super::desk::*;
use kegfs::format::{KegId, OpKind};
use kegfs::vfs::*;

fn keg(desk: &Desk, ino: Ino) -> KegId {
    FolderSource::node(&*desk.folder, ino).unwrap().unwrap().keg
}

/// A file "f" of the content "first" that is removed: its inode, and handles for reading and for writing.
fn removed_while_open(desk: &Desk) -> (Ino, u64, u64) {
    let ino = desk.save("f", b"first");
    desk.settle();
    let (reader, writer) = (desk.open("f", READ), desk.open("f", WRITE));
    desk.vfs.unlink(ROOT, b"f").unwrap();
    (ino, reader, writer)
}

/// Somebody else brings the file back under its name.
fn bring_back(desk: &Desk, ino: Ino, name: &str) {
    let kind = OpKind::Restore { keg: keg(desk, ino), parent: KegId::ROOT, name: name.as_bytes().to_vec() };
    let head = FolderSource::head(&*desk.folder);
    desk.folder.other_does(head, kind, &[SourceChange::Attr(ino)]);
    assert_eq!(desk.list(ROOT), [name]);
}

fn cut(desk: &Desk, ino: Ino, size: u64) -> Result<(), VfsError> {
    let set = SetAttr { size: Some(size), ..SetAttr::default() };
    desk.vfs.setattr(ino, &set, &CALLER).map(drop)
}

#[test]
fn who_opens_or_cuts_a_file_that_is_removed_already_does_not_bring_it_back() {
    let desk = desk();
    let ino = desk.save("f", b"old");
    desk.settle();
    desk.vfs.unlink(ROOT, b"f").unwrap();
    // Through a descriptor that keeps it, as `/proc/self/fd` does.
    let fh = desk.vfs.open(ino, WRITE).unwrap().fh;
    assert_eq!(desk.read_all(fh), b"old");
    desk.write(fh, 0, b"new");
    desk.fsync(fh);
    assert_eq!(desk.read_all(fh), b"new");
    desk.close(fh);
    cut(&desk, ino, 1).unwrap();
    desk.settle();
    assert_eq!(desk.list(ROOT), Vec::<String>::new());
}

#[test]
fn opening_and_removing_at_the_same_time_brings_nothing_back() {
    let desk = desk();
    let files: Vec<_> = (0..300).map(|n| (n, desk.save(&n.to_string(), b"x"))).collect();
    desk.settle();
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (n, _) in &files {
                together.wait();
                desk.vfs.unlink(ROOT, n.to_string().as_bytes()).unwrap();
            }
        });
        for (_, ino) in &files {
            together.wait();
            let fh = desk.vfs.open(*ino, WRITE).unwrap().fh;
            desk.write(fh, 0, b"y");
            desk.close(fh);
        }
    });
    desk.settle();
    assert_eq!(desk.list(ROOT), Vec::<String>::new());
}

#[test]
fn what_is_written_to_a_removed_file_goes_with_it_when_it_comes_back() {
    let desk = desk();
    let (ino, reader, writer) = removed_while_open(&desk);
    desk.write(writer, 5, b", while it was gone");
    desk.fsync(writer);
    bring_back(&desk, ino, "f");
    desk.write(writer, 24, b", and after");
    desk.fsync(writer);
    let node = FolderSource::node(&*desk.folder, ino).unwrap().unwrap();
    assert_eq!(node.size, 35, "the journal has it");
    desk.close(writer);
    // Somebody who opens it now is like anybody.
    let again = desk.open("f", WRITE);
    desk.write(again, 0, b"FIRST");
    desk.close(again);
    desk.close(reader);
    desk.settle();
    assert_eq!(desk.content("f"), b"FIRST, while it was gone, and after");
}

#[test]
fn what_comes_back_after_its_writer_has_gone_is_kept_without_anybody_asking() {
    let desk = desk();
    let (ino, reader, writer) = removed_while_open(&desk);
    desk.write(writer, 5, b" and last");
    desk.close(writer);
    bring_back(&desk, ino, "f");
    desk.close(reader);
    desk.eventually("the journal has it", || FolderSource::node(&*desk.folder, ino).unwrap().unwrap().size == 14);
    assert_eq!(desk.content("f"), b"first and last");
}

#[test]
fn who_opens_what_another_member_has_removed_brings_it_back_by_writing() {
    let desk = desk();
    let ino = desk.save("f", b"old");
    desk.settle();
    let (head, unlink) = (
        FolderSource::head(&*desk.folder),
        OpKind::Unlink { keg: keg(&desk, ino), parent: KegId::ROOT, name: b"f".to_vec() },
    );
    // The kernel has not heard of it yet.
    desk.folder.other_does(head, unlink, &[]);
    assert_eq!(desk.list(ROOT), Vec::<String>::new());
    let fh = desk.vfs.open(ino, WRITE).unwrap().fh;
    desk.write(fh, 0, b"new");
    desk.close(fh);
    desk.settle();
    assert_eq!(desk.content("f"), b"new");
}

/// Removed here, brought back, removed by somebody else: the last counts.
#[test]
fn who_writes_to_what_came_back_and_was_removed_by_another_member_brings_it_back() {
    for open in [true, false] {
        let desk = desk();
        let (ino, writer) = if open {
            let (ino, reader, writer) = removed_while_open(&desk);
            desk.close(reader);
            bring_back(&desk, ino, "f");
            desk.write(writer, 0, b"FIRST");
            desk.fsync(writer);
            (ino, writer)
        } else {
            // The kernel has it, as for a descriptor that is only a path, and nobody has it open.
            let ino = desk.save("f", b"FIRST");
            desk.settle();
            desk.vfs.unlink(ROOT, b"f").unwrap();
            bring_back(&desk, ino, "f");
            (ino, desk.vfs.open(ino, WRITE).unwrap().fh)
        };
        let unlink = OpKind::Unlink { keg: keg(&desk, ino), parent: KegId::ROOT, name: b"f".to_vec() };
        desk.folder.other_does(FolderSource::head(&*desk.folder), unlink, &[SourceChange::Attr(ino)]);
        assert_eq!(desk.list(ROOT), Vec::<String>::new());
        cut(&desk, ino, 3).unwrap();
        desk.write(writer, 3, b"e");
        desk.fsync(writer);
        desk.close(writer);
        desk.settle();
        assert_eq!(desk.list(ROOT), ["f"], "open all the time: {open}");
        assert_eq!(desk.content("f"), b"FIRe");
    }
}

#[test]
fn what_follows_a_long_stream_is_made_on_what_is_there_by_then() {
    for how in ["synced", "idle", "handed over with a lock"] {
        let idle_flush = Duration::from_millis(if how == "idle" { 20 } else { 60_000 });
        let desk = desk_with(VfsOptions { idle_flush, ..VfsOptions::default() });
        let ino = desk.save("film", b"x");
        let fh = desk.open("film", WRITE);
        // Exactly as much as one change of a stream takes, so that nothing is left to flush.
        desk.write(fh, 0, &pattern(1, 64 << 20));
        match how {
            "synced" => desk.fsync(fh),
            "idle" => {
                // Its writer has been quiet for long.
                desk.settle();
                std::thread::sleep(Duration::from_secs(1));
            }
            _ => desk.folder.settle(),
        }
        let keg = keg(&desk, ino);
        let theirs = OpKind::Content { keg, truncate: Some(7), holes: vec![], extents: vec![], size: 7, mtime_ns: 5 };
        let head = FolderSource::head(&*desk.folder);
        desk.folder.other_does(head, theirs, &[SourceChange::Content(ino)]);
        assert_eq!(desk.read_all(fh).len(), 7, "the writer sees it");
        desk.write(fh, 7, b"credits");
        desk.close(fh);
        desk.settle();
        assert_eq!(desk.list(ROOT), ["film"], "and so there is no conflict ({how})");
        assert_eq!(desk.content("film").len(), 14);
    }
}

/// `open` with `O_TRUNC`, of which the kernel makes two requests.
#[test]
fn cutting_and_writing_by_one_who_has_it_open_is_one_version() {
    let desk = desk();
    let ino = desk.save("f", b"before");
    desk.settle();
    let cut = SetAttr { size: Some(0), ..SetAttr::default() };
    let version = || desk.vfs.getxattr(ino, b"user.keg.version").unwrap();
    let before = version();
    let fh = desk.vfs.open(ino, WRITE).unwrap().fh;
    desk.vfs.setattr(ino, &cut, &CALLER).unwrap();
    assert_eq!(desk.vfs.getattr(ino).unwrap().0.size, 0);
    // As shells do, which go on with a copy of the descriptor.
    desk.vfs.flush(fh).unwrap();
    assert_eq!(version(), before, "nobody else has seen it empty");
    desk.write(fh, 0, b"after");
    desk.close(fh);
    desk.settle();
    assert_eq!(desk.content("f"), b"after");
    // Where nobody writes, it is a change of its own.
    let reader = desk.vfs.open(ino, READ).unwrap().fh;
    let before = version();
    desk.vfs.setattr(ino, &cut, &CALLER).unwrap();
    assert_ne!(version(), before);
    desk.close(reader);
}

/// The kernel takes a name for free that another member has just given away: it asks again.
#[test]
fn creating_what_is_there_is_for_the_kernel_to_look_at_once_more() {
    let desk = desk();
    desk.save("f", b"theirs");
    let create = |exclusive| desk.vfs.create(ROOT, b"f", 0o644, OpenMode { exclusive, ..WRITE }, &CALLER).map(drop);
    assert_eq!(create(false), Err(VfsError::Outdated));
    assert_eq!(create(true), Err(VfsError::Exists));
}

/// A crash in between, or a look, finds nobody with more than the list gives.
#[test]
fn a_new_file_has_its_inherited_list_before_its_group_has_the_masks_rights() {
    let desk = desk_with(VfsOptions { owners_stored: true, ..VfsOptions::default() });
    let list = |entries: &[(u16, u16, u32)]| {
        let bytes = entries.iter().flat_map(|(tag, perm, id)| {
            [&tag.to_le_bytes()[..], &perm.to_le_bytes()[..], &id.to_le_bytes()[..]].concat()
        });
        [2, 0, 0, 0].into_iter().chain(bytes).collect::<Vec<u8>>()
    };
    let nobody = u32::MAX;
    let default = list(&[(1, 7, nobody), (2, 7, 7), (4, 1, nobody), (16, 7, nobody), (32, 0, nobody)]);
    let dir = desk.vfs.mkdir(ROOT, b"d", 0o2755, &CALLER).unwrap().attr.ino;
    desk.vfs.setxattr(dir, b"system.posix_acl_default", &default, XattrMode::Set, &CALLER).unwrap();
    let (before, made) = (desk.folder.journal().len(), desk.vfs.mkdir(dir, b"sub", 0o777, &CALLER).unwrap().attr);
    assert_eq!(made.mode, 0o2770);
    let steps = &desk.folder.journal()[before..];
    let is_narrow = |kind: &OpKind| matches!(kind, OpKind::Create { mode: 0o2710, .. });
    let is_wide = |kind: &OpKind| matches!(kind, OpKind::SetAttr { mode: Some(0o2770), .. });
    assert!(is_narrow(&steps[0]) && is_wide(&steps[3]), "{steps:?}");
    assert!(steps[1..3].iter().all(|kind| matches!(kind, OpKind::SetXattr { .. })), "{steps:?}");
}
