//! `.keg`: found by name, listed nowhere, nobody's to change, and other states of a folder in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use kegfs::format::{KegId, OpKind};
use kegfs::vfs::*;

use crate::desk::*;

/// A log that grows; another text; the folder's twin under a time.
struct Made {
    lines: Arc<AtomicUsize>,
    earlier: Arc<MemoryFolder>,
}

struct Grows(Arc<AtomicUsize>);
struct Fixed(&'static str);
struct Times(Arc<MemoryFolder>);

impl KegFile for Grows {
    fn content(&self) -> Result<Bytes, VfsError> {
        Ok("line\n".repeat(self.0.load(Ordering::Relaxed)).into())
    }
    fn grows(&self) -> bool {
        true
    }
    fn modified_ns(&self) -> i64 {
        7
    }
}

impl KegFile for Fixed {
    fn content(&self) -> Result<Bytes, VfsError> {
        Ok(Bytes::from_static(self.0.as_bytes()))
    }
    fn modified_ns(&self) -> i64 {
        7
    }
}

impl KegDir for Times {
    fn lookup(&self, name: &[u8]) -> Result<Option<KegNode>, VfsError> {
        Ok(match name {
            b"2026-11-23" => Some(KegNode::Tree(self.0.clone())),
            b"yesterday" => Some(KegNode::Symlink(b"2026-11-23".to_vec())),
            _ => None,
        })
    }
    fn list(&self) -> Result<Vec<(Vec<u8>, NodeKind)>, VfsError> {
        Ok(vec![(b"2026-11-23".to_vec(), NodeKind::Directory), (b"yesterday".to_vec(), NodeKind::Symlink)])
    }
    fn modified_ns(&self) -> i64 {
        7
    }
}

impl KegDir for Made {
    fn lookup(&self, name: &[u8]) -> Result<Option<KegNode>, VfsError> {
        Ok(match name {
            b"status" => Some(KegNode::File(Arc::new(Fixed("all is well\n")))),
            b"activity" => Some(KegNode::File(Arc::new(Grows(self.lines.clone())))),
            b"at" => Some(KegNode::Directory(Arc::new(Times(self.earlier.clone())))),
            _ => None,
        })
    }
    fn list(&self) -> Result<Vec<(Vec<u8>, NodeKind)>, VfsError> {
        let names = [("status", NodeKind::File), ("activity", NodeKind::File), ("at", NodeKind::Directory)];
        Ok(names.iter().map(|(name, kind)| (name.as_bytes().to_vec(), *kind)).collect())
    }
    fn modified_ns(&self) -> i64 {
        7
    }
}

fn made() -> (Desk, Arc<MemoryFolder>) {
    let (desk, earlier, _) = made_with_lines();
    (desk, earlier)
}

fn made_with_lines() -> (Desk, Arc<MemoryFolder>, Arc<AtomicUsize>) {
    let desk = desk();
    let earlier = MemoryFolder::new("earlier");
    // Written through a mount of its own, as it was then.
    let then = Desk { vfs: Vfs::single(earlier.clone(), VfsOptions::default()).unwrap(), folder: earlier.clone() };
    then.save("report.txt", b"as it was");
    then.vfs.mkdir(ROOT, b"dir", 0o755, &CALLER).unwrap();
    then.settle();
    let lines = Arc::new(AtomicUsize::new(1));
    desk.folder.set_keg_dir(Arc::new(Made { lines: lines.clone(), earlier: earlier.clone() }));
    (desk, earlier, lines)
}

fn at(desk: &Desk, path: &[&str]) -> Result<Entry, VfsError> {
    let mut entry = desk.vfs.lookup(ROOT, b".keg")?;
    for name in path {
        entry = desk.vfs.lookup(entry.attr.ino, name.as_bytes())?;
    }
    Ok(entry)
}

fn open(desk: &Desk, path: &[&str]) -> u64 {
    desk.vfs.open(at(desk, path).unwrap().attr.ino, READ).unwrap().fh
}

#[test]
fn it_is_found_by_name_listed_nowhere_and_belongs_to_the_mounting_user() {
    let (desk, _) = made();
    desk.save("file", b"x");
    assert_eq!(desk.list(ROOT), ["file"]);
    let keg = at(&desk, &[]).unwrap().attr;
    assert_eq!((keg.kind, keg.mode, keg.uid, keg.gid), (NodeKind::Directory, 0o555, 1000, 1000));
    assert_eq!(desk.list(keg.ino), ["activity", "at", "status"]);
    let status = at(&desk, &["status"]).unwrap();
    assert_eq!((status.attr.mode, status.attr.uid, status.attr.size), (0o444, 1000, 12));
    assert!(status.ttl.is_zero(), "the kernel asks every time");
    assert_eq!(at(&desk, &["status"]).unwrap().attr.ino, status.attr.ino, "the number stays");
    let fh = open(&desk, &["status"]);
    assert_eq!(desk.read_all(fh), b"all is well\n");
    assert_eq!(desk.vfs.seek_data(fh, 3), Ok(3));
    assert_eq!(desk.vfs.seek_hole(fh, 3), Ok(12));
    assert_eq!(desk.vfs.seek_data(fh, 12), Err(VfsError::PastEnd));
    desk.fsync(fh);
    desk.close(fh);
    assert!(matches!(desk.try_read(fh, 0, 1), Err(VfsError::BadHandle)));
    assert!(matches!(at(&desk, &["nothing"]), Err(VfsError::NotFound)));
    assert!(matches!(at(&desk, &["status", "x"]), Err(VfsError::NotDirectory)));
    assert!(matches!(desk.vfs.opendir(status.attr.ino), Err(VfsError::NotDirectory)));
    assert!(matches!(desk.vfs.getxattr(status.attr.ino, b"user.keg.state"), Err(VfsError::NoAttribute)));
    assert!(desk.vfs.listxattr(keg.ino).unwrap().is_empty());
}

#[test]
fn numbers_of_keg_never_are_those_of_a_stored_node() {
    let (desk, earlier) = made();
    let mut numbers = vec![desk.save("a", b"x"), ROOT];
    for path in [&[][..], &["status"], &["activity"], &["at"], &["at", "2026-11-23"], &["at", "yesterday"]] {
        numbers.push(at(&desk, path).unwrap().attr.ino);
    }
    numbers.push(at(&desk, &["at", "2026-11-23", "report.txt"]).unwrap().attr.ino);
    assert!(earlier.head() > 0);
    let count = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "{numbers:?}");
}

#[test]
fn nobody_creates_moves_replaces_or_removes_it() {
    let (desk, _) = made();
    let vfs = &desk.vfs;
    let ino = desk.save("file", b"x");
    vfs.mkdir(ROOT, b"sub", 0o755, &CALLER).unwrap();
    let read_only = Err(VfsError::ReadOnly(ReadOnlyReason::View));
    let keg = at(&desk, &[]).unwrap().attr.ino;
    let status = at(&desk, &["status"]).unwrap().attr.ino;
    assert_eq!(vfs.mkdir(ROOT, b".keg", 0o755, &CALLER).unwrap_err(), VfsError::Exists);
    assert_eq!(vfs.create(ROOT, b".keg", 0o644, WRITE, &CALLER).unwrap_err(), VfsError::Exists);
    assert_eq!(vfs.symlink(ROOT, b".keg", b"x", &CALLER).unwrap_err(), VfsError::Exists);
    assert_eq!(vfs.link(ino, ROOT, b".keg").unwrap_err(), VfsError::Exists);
    for mode in [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange] {
        assert_eq!(vfs.rename(ROOT, b".keg", ROOT, b"mine", mode), read_only);
        assert_eq!(vfs.rename(ROOT, b"sub", ROOT, b".keg", mode), read_only);
        assert_eq!(vfs.rename(ROOT, b"file", keg, b"status", mode), read_only);
        assert_eq!(vfs.rename(keg, b"status", ROOT, b"mine", mode), read_only);
    }
    assert_eq!(vfs.rmdir(ROOT, b".keg"), read_only);
    assert_eq!(vfs.unlink(ROOT, b".keg"), read_only);
    assert_eq!(vfs.unlink(keg, b"status"), read_only);
    assert_eq!(vfs.mkdir(keg, b"new", 0o755, &CALLER).unwrap_err(), VfsError::ReadOnly(ReadOnlyReason::View));
    assert_eq!(vfs.open(status, WRITE).unwrap_err(), VfsError::ReadOnly(ReadOnlyReason::View));
    assert_eq!(vfs.access(status, 2, &CALLER), read_only);
    assert_eq!(vfs.access(status, 4, &CALLER), Ok(()));
    assert_eq!(vfs.link(status, ROOT, b"mine").unwrap_err(), VfsError::CrossFolder);
    assert_eq!(vfs.setxattr(status, b"user.x", b"y", XattrMode::Set, &CALLER), read_only);
    let set = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    assert_eq!(vfs.setattr(status, &set, &CALLER).unwrap_err(), VfsError::ReadOnly(ReadOnlyReason::View));
    // In any other directory the name is like others.
    let sub = vfs.lookup(ROOT, b"sub").unwrap().attr.ino;
    vfs.mkdir(sub, b".keg", 0o755, &CALLER).unwrap();
    assert_eq!(desk.list(sub), [".keg"]);
    assert_eq!(desk.list(ROOT), ["file", "sub"]);
}

#[test]
fn what_a_member_stores_under_the_name_does_not_take_its_place_and_is_not_lost() {
    let (desk, _) = made();
    let create = |keg, name: &[u8]| OpKind::Create {
        keg: KegId([keg; 16]),
        parent: KegId::ROOT,
        name: name.to_vec(),
        kind: NodeKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: vec![],
    };
    desk.folder.other_does(0, create(9, b".keg"), &[]);
    desk.folder.other_does(1, create(8, b"sub"), &[]);
    let rename = OpKind::Rename {
        keg: KegId([8; 16]),
        parent: KegId::ROOT,
        name: b"sub".to_vec(),
        new_parent: KegId::ROOT,
        new_name: b".keg".to_vec(),
        target: None,
        exchange: false,
    };
    desk.folder.other_does(2, rename, &[]);
    let names = desk.list(ROOT);
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|name| name.starts_with(".keg (conflict, bob's phone, ")), "{names:?}");
    assert_eq!(desk.list(at(&desk, &[]).unwrap().attr.ino), ["activity", "at", "status"]);
}

#[test]
fn a_file_that_grows_is_seen_to_grow_by_who_has_it_open() {
    let (desk, _, lines) = made_with_lines();
    let ino = at(&desk, &["activity"]).unwrap().attr.ino;
    let opened = desk.vfs.open(ino, READ).unwrap();
    assert!(opened.direct, "the kernel must not believe the length of the opening");
    assert_eq!(
        desk.read_all(opened.fh),
        b"line
"
    );
    lines.store(3, Ordering::Relaxed);
    let (attr, ttl) = desk.vfs.getattr(ino).unwrap();
    assert_eq!((attr.size, ttl.is_zero()), (15, true));
    assert_eq!(
        desk.read(opened.fh, 5, 100),
        b"line
line
"
    );
    assert_eq!(at(&desk, &["activity"]).unwrap().attr.ino, ino, "the number stays for who looks by name");
}

#[test]
fn another_state_of_the_folder_reads_like_a_folder_and_is_written_by_nobody() {
    let (desk, earlier) = made();
    desk.save("report.txt", b"as it is");
    let root = at(&desk, &["at", "2026-11-23"]).unwrap().attr;
    assert_eq!((root.kind, root.mode), (NodeKind::Directory, 0o555));
    assert_eq!(desk.list(root.ino), ["dir", "report.txt"]);
    let report = at(&desk, &["at", "2026-11-23", "report.txt"]).unwrap().attr;
    assert_eq!((report.mode & 0o222, report.size), (0, 9));
    let fh = desk.vfs.open(report.ino, READ).unwrap().fh;
    assert_eq!(desk.read_all(fh), b"as it was");
    assert_eq!(desk.content("report.txt"), b"as it is");
    let target = desk.vfs.readlink(at(&desk, &["at", "yesterday"]).unwrap().attr.ino).unwrap();
    assert_eq!(target, b"2026-11-23");
    let read_only = VfsError::ReadOnly(ReadOnlyReason::View);
    assert_eq!(desk.vfs.open(report.ino, WRITE).unwrap_err(), read_only);
    assert_eq!(desk.vfs.create(root.ino, b"new", 0o644, WRITE, &CALLER).unwrap_err(), read_only);
    assert_eq!(desk.vfs.mkdir(root.ino, b".keg", 0o755, &CALLER).unwrap_err(), read_only);
    assert_eq!(desk.vfs.unlink(root.ino, b"report.txt").unwrap_err(), read_only);
    assert_eq!(desk.vfs.link(report.ino, ROOT, b"mine").unwrap_err(), VfsError::CrossFolder);
    // Under one name, the same state is the same directory and another state another one.
    assert_eq!(at(&desk, &["at", "2026-11-23"]).unwrap().attr.ino, root.ino);
    earlier.other_does(earlier.head(), OpKind::FolderName { name: "x".into() }, &[]);
    assert_ne!(at(&desk, &["at", "2026-11-23"]).unwrap().attr.ino, root.ino);
    // The way up, as `..` shows it.
    let listing = desk.vfs.opendir(root.ino).unwrap();
    let mut up = None;
    let mut each = |entry: DirEntry<'_>| {
        up = up.or((entry.name == b"..").then_some(entry.ino));
        false
    };
    desk.vfs.readdir(listing, 0, &mut each, false).unwrap();
    assert_eq!(up, Some(at(&desk, &["at"]).unwrap().attr.ino));
}

#[test]
fn with_the_folder_all_of_it_is_gone() {
    let (desk, _) = made();
    let status = at(&desk, &["status"]).unwrap().attr.ino;
    let fh = open(&desk, &["status"]);
    let report = at(&desk, &["at", "2026-11-23", "report.txt"]).unwrap().attr.ino;
    let old = desk.vfs.open(report, READ).unwrap().fh;
    assert_eq!(desk.read_all(old), b"as it was");
    desk.vfs.remove_folder(ROOT, std::time::Duration::from_secs(5)).unwrap();
    assert_eq!(desk.vfs.getattr(status).unwrap_err(), VfsError::Gone);
    assert_eq!(desk.vfs.getattr(report).unwrap_err(), VfsError::Gone);
    assert_eq!(desk.try_read(fh, 0, 1).unwrap_err(), VfsError::Gone);
    assert_eq!(desk.try_read(old, 0, 1).unwrap_err(), VfsError::Gone);
    assert_eq!(desk.vfs.memory_bytes(), (0, 0));
}

/// `now` is another moment at each lookup, `seq-N` always the same.
struct Moments(AtomicUsize);

impl KegDir for Moments {
    fn lookup(&self, name: &[u8]) -> Result<Option<KegNode>, VfsError> {
        let head = match name.strip_prefix(b"seq-") {
            Some(head) => String::from_utf8_lossy(head).parse().unwrap(),
            None => self.0.fetch_add(1, Ordering::Relaxed),
        };
        let then = MemoryFolder::new("then");
        for n in 0..=head {
            let create = OpKind::Create {
                keg: KegId([n as u8 + 1; 16]),
                parent: KegId::ROOT,
                name: format!("file {n}").into(),
                kind: NodeKind::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                rdev: 0,
                target: vec![],
            };
            then.submit(create, 0).unwrap();
        }
        Ok(Some(KegNode::Tree(then)))
    }
    fn list(&self) -> Result<Vec<(Vec<u8>, NodeKind)>, VfsError> {
        Ok(Vec::new())
    }
    fn modified_ns(&self) -> i64 {
        7
    }
}

#[test]
fn other_states_that_nobody_uses_any_more_do_not_pile_up_and_those_in_use_stay() {
    let desk = desk();
    desk.folder.set_keg_dir(Arc::new(Moments(AtomicUsize::new(0))));
    let kept = at(&desk, &["now"]).unwrap().attr.ino;
    let file = desk.vfs.lookup(kept, b"file 0").unwrap().attr.ino;
    let fh = desk.vfs.open(file, READ).unwrap().fh;
    let stays = at(&desk, &["seq-3"]).unwrap().attr.ino;
    let mut seen = vec![];
    for _ in 0..250 {
        let ino = at(&desk, &["now"]).unwrap().attr.ino;
        assert_ne!(ino, kept);
        assert!(desk.vfs.getattr(ino).is_ok());
        // The name leads to another now: the kernel forgets it.
        desk.vfs.forget(ino, 1);
        seen.push(ino);
    }
    seen.sort_unstable();
    seen.dedup();
    let left = seen.iter().filter(|ino| desk.vfs.getattr(**ino).is_ok()).count();
    assert!(left < 100, "{left} of 250 states are still there");
    assert_eq!(at(&desk, &["seq-3"]).unwrap().attr.ino, stays);
    assert_eq!(desk.vfs.lookup(kept, b"file 0").unwrap().attr.ino, file);
    assert_eq!(desk.read_all(fh), b"");
}
