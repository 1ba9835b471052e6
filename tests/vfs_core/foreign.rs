//! What others do meanwhile.

use std::sync::{Arc, Mutex};

use super::desk::*;
use kegfs::format::{KegId, OpKind};
use kegfs::vfs::*;

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Notifier for Heard {
    fn inode(&self, ino: Ino, offset: i64, len: i64) {
        self.0.lock().unwrap().push(format!("inode {ino} {offset} {len}"));
    }
    fn attr(&self, ino: Ino) {
        self.0.lock().unwrap().push(format!("attr {ino}"));
    }
    fn entry(&self, parent: Ino, name: &[u8]) {
        self.0.lock().unwrap().push(format!("entry {parent} {}", String::from_utf8_lossy(name)));
    }
    fn store(&self, _: Store) {}
}

fn keg(desk: &Desk, ino: Ino) -> KegId {
    FolderSource::node(&*desk.folder, ino).unwrap().unwrap().keg
}

fn cut(keg: KegId) -> OpKind {
    OpKind::Content { keg, truncate: Some(0), holes: vec![], extents: vec![], size: 0, mtime_ns: 5 }
}

#[test]
fn changes_by_others_are_seen_by_open_handles_and_told_to_the_kernel() {
    let desk = desk();
    let heard = Arc::new(Heard::default());
    desk.vfs.set_notifier(heard.clone());
    let ino = desk.save("f", b"long text");
    desk.settle();
    let fh = desk.open("f", READ);
    assert_eq!(desk.read_all(fh), b"long text");
    let head = FolderSource::head(&*desk.folder);
    desk.folder.other_does(head, cut(keg(&desk, ino)), &[SourceChange::Content(ino)]);
    assert_eq!(desk.read_all(fh), b"");
    assert_eq!(desk.size(ino), 0);
    let entry = SourceChange::Entry { parent: ROOT, name: b"new".to_vec() };
    let kind = OpKind::Create {
        keg: KegId([9; 16]),
        parent: KegId::ROOT,
        name: b"new".to_vec(),
        kind: NodeKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: vec![],
    };
    desk.folder.other_does(head + 1, kind, &[entry, SourceChange::Attr(ROOT)]);
    assert_eq!(desk.vfs.lookup(ROOT, b"new").unwrap().attr.kind, NodeKind::Directory);
    assert_eq!(*heard.0.lock().unwrap(), [format!("inode {ino} 0 0"), "entry 1 new".into(), "attr 1".into()]);
}

#[test]
fn a_write_begun_before_a_foreign_change_becomes_a_sibling_whole() {
    let desk = desk();
    let ino = desk.save("plan.txt", b"the old plan");
    desk.settle();
    let (base, keg) = (FolderSource::head(&*desk.folder), keg(&desk, ino));
    let fh = desk.open("plan.txt", WRITE);
    desk.write(fh, 4, b"new");
    desk.folder.other_does(base, cut(keg), &[SourceChange::Content(ino)]);
    desk.write(fh, 12, b", in detail");
    desk.close(fh);
    desk.settle();
    assert_eq!(desk.content("plan.txt"), b"");
    let names = desk.list(ROOT);
    assert_eq!(names.len(), 2);
    let sibling = names.iter().find(|name| name.contains("(conflict, alice's laptop")).unwrap();
    assert_eq!(desk.content(sibling), b"the new plan, in detail");
}

#[test]
fn a_stream_cut_in_pieces_goes_to_the_sibling_as_a_whole() {
    let desk = desk();
    let ino = desk.save("film", b"x");
    desk.settle();
    let (base, keg) = (FolderSource::head(&*desk.folder), keg(&desk, ino));
    let fh = desk.open("film", WRITE);
    let data = pattern(1, 140 << 20);
    desk.write(fh, 0, &data[..70 << 20]);
    desk.folder.other_does(base, cut(keg), &[SourceChange::Content(ino)]);
    desk.write(fh, 70 << 20, &data[70 << 20..]);
    desk.close(fh);
    desk.settle();
    let names = desk.list(ROOT);
    let sibling = names.iter().find(|name| name.contains("(conflict, ")).expect("a sibling");
    assert_eq!(names.len(), 2);
    assert!(desk.content(sibling) == data);
}

#[test]
fn origin_and_progress_of_a_file_are_told() {
    let desk = desk();
    let (ino, fh) = desk.create("f");
    let tell = |name: &str| String::from_utf8(desk.vfs.getxattr(ino, name.as_bytes()).unwrap()).unwrap();
    desk.write(fh, 0, b"text");
    assert_eq!(tell("user.keg.state"), "buffered");
    desk.close(fh);
    desk.settle();
    assert_eq!(tell("user.keg.state"), "on-server");
    assert_eq!(tell("user.keg.author"), "alice's laptop");
    let head = FolderSource::head(&*desk.folder);
    desk.folder.other_does(head, cut(keg(&desk, ino)), &[SourceChange::Content(ino)]);
    assert_eq!(tell("user.keg.author"), "bob's phone");
    assert_eq!(tell("user.keg.version"), (head + 1).to_string());
    assert_eq!(desk.vfs.setxattr(ino, b"user.keg.author", b"me", XattrMode::Set, &CALLER), Err(VfsError::NoPermission));
}
