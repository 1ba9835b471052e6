//! A folder that has been lived in, and somebody who comes later.
#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;

use kegfs::format::{KegId, NodeKind, Op, OpKind, Role};
use kegfs::keg::ROOT_INO;
use kegfs::keyring::KeyRing;
use kegfs::sync::{Folder, History};
use kegfs::sys::{clock, random};

use super::*;

pub fn keg_of(folder: &Folder, name: &str) -> KegId {
    folder.replica.view().lookup(ROOT_INO, name.as_bytes()).unwrap().unwrap().keg
}

/// Overwrites a part of a file.
pub fn patch(folder: &Folder, name: &str, offset: u64, bytes: &[u8]) {
    let keg = keg_of(folder, name);
    let size = folder.replica.view().node_of(&keg).unwrap().unwrap().size;
    patch_based(folder, keg, offset, bytes, size, folder.replica.head().seq);
}

/// The same, on an earlier version, which had `size` bytes.
pub fn patch_based(folder: &Folder, keg: KegId, offset: u64, bytes: &[u8], size: u64, base: u64) {
    let mut extents = seal(folder, bytes);
    extents.iter_mut().for_each(|extent| extent.offset += offset);
    let at_ns = clock::unix_nanos();
    let kind = OpKind::Content { keg, truncate: None, holes: vec![], extents, size, mtime_ns: at_ns };
    folder.replica.submit_based(Op { base, at_ns, kind }).unwrap();
}

pub fn remove(folder: &Folder, name: &str) {
    let kind = OpKind::Unlink { keg: keg_of(folder, name), parent: KegId::ROOT, name: name.as_bytes().to_vec() };
    folder.replica.submit(kind, clock::unix_nanos()).unwrap();
}

pub fn sync(folder: &Arc<Folder>) {
    folder.wait_uploaded_blocking(PATIENCE).unwrap();
}

pub fn ring(folder: &Folder) -> KeyRing {
    KeyRing::from_bytes(&folder.replica.load_keyring().unwrap().unwrap()).unwrap()
}

/// A folder with old versions, a removed file, an overwritten range, and everything that a tree can have.
pub fn lived_in() -> Pair {
    let pair = Pair::new();
    for version in ["OLD-1 of the plan", "OLD-2 of the plan", "the plan as it is"] {
        write(&pair.ours, "plan", version.as_bytes());
        sync(&pair.ours);
    }
    write(&pair.ours, "secret-OLD-name", b"OLD secret that was removed");
    let mut large: Vec<u8> = (0..300_000u32).map(|index| (index / 7) as u8).collect();
    large[100_000..100_012].copy_from_slice(b"OLD-password");
    write(&pair.ours, "large", &large);
    sync(&pair.ours);
    remove(&pair.ours, "secret-OLD-name");
    patch(&pair.ours, "large", 99_990, &[b'.'; 40]);
    let keg = keg_of(&pair.ours, "plan");
    let submit = |kind| drop(pair.ours.replica.submit(kind, clock::unix_nanos()).unwrap());
    submit(OpKind::SetXattr { keg, name: b"user.tag".to_vec(), value: b"OLD-tag".to_vec() });
    submit(OpKind::SetXattr { keg, name: b"user.tag".to_vec(), value: b"current".to_vec() });
    submit(OpKind::Link { keg, parent: KegId::ROOT, name: b"plan too".to_vec() });
    submit(OpKind::SetAttr { keg, mode: Some(0o640), uid: None, gid: None, atime_ns: None, mtime_ns: Some(77) });
    pair.settle();
    pair
}

pub fn add(pair: &Pair, person: &Person, history: History) -> Arc<Folder> {
    pair.alice.session().add_member_with(&pair.ours, person.id, Role::Editor, history).unwrap();
    person.folder("acme")
}

/// Bob, who is left offline, writes to a file that stays, one that Alice removes, one that she overwrites, and into a
/// directory that she removes; he has sent nothing of it.
pub fn bob_works_offline_while_alice_goes_on(pair: &Pair) {
    for name in ["kept", "gone", "changed"] {
        write(&pair.ours, name, format!("{name}: written by alice, 40 characters...").as_bytes());
    }
    let directory = OpKind::Create {
        keg: KegId(random::array()),
        parent: KegId::ROOT,
        name: b"dir".to_vec(),
        kind: NodeKind::Directory,
        mode: 0o750,
        uid: 1,
        gid: 1,
        rdev: 0,
        target: vec![],
    };
    pair.ours.replica.submit(directory, clock::unix_nanos()).unwrap();
    pair.settle();
    pair.bob.network.set_offline(true);
    eventually("bob is offline", || !pair.theirs.online());
    patch(&pair.theirs, "gone", 0, b"BOB!");
    patch(&pair.theirs, "changed", 0, b"BOB!");
    patch(&pair.theirs, "changed", 6, b"BOB!");
    let inside = OpKind::Create {
        keg: KegId(random::array()),
        parent: keg_of(&pair.theirs, "dir"),
        name: b"inside".to_vec(),
        kind: NodeKind::File,
        mode: 0o600,
        uid: 1,
        gid: 1,
        rdev: 0,
        target: vec![],
    };
    pair.theirs.replica.submit(inside, clock::unix_nanos()).unwrap();
    pair.theirs.replica.flush(true).unwrap();
    remove(&pair.ours, "gone");
    remove(&pair.ours, "dir");
    write(&pair.ours, "changed", b"alice was faster, and shorter");
    sync(&pair.ours);
}
