//! The rules of [`super::apply`], one story each, and what must hold for every interleaving.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use crate::format::limits::SUITE;
use crate::format::{BlobId, DeviceId, Extent, KegId, NodeKind, Op, OpKind};

use super::{Applied, Context, MemStore, PENDING_SEQ, Redirect, Store, apply};

const AT: i64 = 1_795_446_240_000_000_000; // 2026-11-23 15:04 UTC
const ALICE: DeviceId = DeviceId([0xa; 32]);
const BOB: DeviceId = DeviceId([0xb; 32]);

fn keg(number: u8) -> KegId {
    KegId([number; 16])
}

fn context(seq: u64, device: DeviceId) -> Context {
    let label = if device == ALICE { "alice's laptop" } else { "bob's desk" };
    Context { seq, device, label: label.to_owned(), horizon: 0, suite: SUITE }
}

fn op(base: u64, kind: OpKind) -> Op {
    Op { base, at_ns: AT, kind }
}

fn create(id: u8, parent: KegId, name: &str, kind: NodeKind) -> OpKind {
    let (mode, target) = (0o644, Vec::new());
    OpKind::Create { keg: keg(id), parent, name: name.into(), kind, mode, uid: 0, gid: 0, rdev: 0, target }
}

fn file(id: u8, name: &str) -> OpKind {
    create(id, KegId::ROOT, name, NodeKind::File)
}

fn directory(id: u8, name: &str) -> OpKind {
    create(id, KegId::ROOT, name, NodeKind::Directory)
}

fn extent(offset: u64, len: u32, blob: u32) -> Extent {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&blob.to_be_bytes());
    Extent { offset, len, blob: BlobId(id), blob_offset: 0, chunk_len: len, chunk_skip: 0, key: [0; 32] }
}

fn overwrite(id: KegId, blob: u32) -> OpKind {
    OpKind::Content {
        keg: id,
        truncate: Some(0),
        holes: vec![],
        extents: vec![extent(0, 10, blob)],
        size: 10,
        mtime_ns: AT,
    }
}

fn set_xattr(keg: KegId, value: u32) -> OpKind {
    OpKind::SetXattr { keg, name: "tag".into(), value: value.to_be_bytes().into() }
}

fn set_mode(keg: KegId, mode: u16) -> OpKind {
    OpKind::SetAttr { keg, mode: Some(mode), uid: None, gid: None, atime_ns: None, mtime_ns: None }
}

fn unlink(id: u8, parent: KegId, name: &str) -> OpKind {
    OpKind::Unlink { keg: keg(id), parent, name: name.into() }
}

fn rename(id: u8, name: &str, new_parent: KegId, new_name: &str, target: Option<u8>) -> OpKind {
    let (name, new_name) = (name.into(), new_name.into());
    OpKind::Rename {
        keg: keg(id),
        parent: KegId::ROOT,
        name,
        new_parent,
        new_name,
        target: target.map(keg),
        exchange: false,
    }
}

/// A log played into one store: `(device, base, operation)`, sequenced from 1.
fn play(log: &[(DeviceId, u64, OpKind)]) -> (MemStore, Vec<Applied>) {
    let mut store = MemStore::default();
    let entries = log.iter().zip(1..);
    let applied = entries.map(|((device, base, kind), seq)| {
        apply(&mut store, &context(seq, *device), &op(*base, kind.clone())).unwrap()
    });
    let applied = applied.collect();
    (store, applied)
}

fn names(store: &MemStore, parent: KegId) -> Vec<String> {
    let inside = store.dentries().filter(|dentry| dentry.parent == parent);
    inside.map(|dentry| String::from_utf8_lossy(&dentry.name).into_owned()).collect()
}

fn blob_at(store: &MemStore, name: &str) -> Vec<BlobId> {
    let dentry = store.dentry(&KegId::ROOT, name.as_bytes()).unwrap().unwrap();
    store.extents(&dentry.keg).iter().map(|extent| extent.blob).collect()
}

#[test]
fn two_who_overwrite_the_same_file_both_keep_their_version() {
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "plan.txt")),
        (ALICE, 1, overwrite(keg(1), 100)),
        (BOB, 2, overwrite(keg(1), 200)),
        (ALICE, 2, overwrite(keg(1), 300)),
        (ALICE, 2, overwrite(keg(1), 301)), // more of the same before Alice has seen the conflict
    ]);
    assert!(matches!(applied[3], Applied::Sibling(_)));
    assert_eq!(names(&store, KegId::ROOT), ["plan (conflict, alice's laptop, 2026-11-23 15.04).txt", "plan.txt"]);
    assert_eq!(blob_at(&store, "plan.txt"), [extent(0, 10, 200).blob]);
    assert_eq!(blob_at(&store, "plan (conflict, alice's laptop, 2026-11-23 15.04).txt"), [extent(0, 10, 301).blob]);
}

#[test]
fn a_sibling_keeps_the_ranges_that_its_author_had_seen() {
    let write = |offset, blob| OpKind::Content {
        keg: keg(1),
        truncate: None,
        holes: vec![],
        extents: vec![extent(offset, 10, blob)],
        size: 30,
        mtime_ns: AT,
    };
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "log")),
        (ALICE, 1, write(0, 1)),
        (ALICE, 1, write(10, 2)), // made before the entry above came back: still no conflict with oneself
        (BOB, 3, overwrite(keg(1), 9)),
        (ALICE, 2, write(20, 3)),
    ]);
    let Applied::Sibling(sibling) = applied[4] else { panic!("{:?}", applied[4]) };
    let blobs: Vec<_> = store.extents(&sibling).iter().map(|extent| extent.blob).collect();
    assert_eq!(blobs, [1, 2, 3].map(|blob| extent(0, 10, blob).blob));
    assert_eq!(store.node(&sibling).unwrap().unwrap().size, 30);
}

#[test]
fn a_sibling_of_a_file_with_several_names_is_beside_the_one_that_all_replicas_agree_on() {
    for (suite, beside) in [(1, "b"), (SUITE, "a")] {
        let mut store = MemStore::default();
        let link = |name: &str| OpKind::Link { keg: keg(1), parent: KegId::ROOT, name: name.into() };
        // Two names by one entry; the third, which would be the least, by a later one.
        for (seq, device, base, kind) in [
            (1, ALICE, 0, file(1, "b")),
            (1, ALICE, 0, link("a")),
            (2, BOB, 1, link("A")),
            (3, BOB, 2, overwrite(keg(1), 200)),
            (4, ALICE, 1, overwrite(keg(1), 300)),
        ] {
            apply(&mut store, &Context { suite, ..context(seq, device) }, &op(base, kind)).unwrap();
        }
        let sibling = format!("{beside} (conflict, alice's laptop, 2026-11-23 15.04)");
        assert!(names(&store, KegId::ROOT).contains(&sibling), "suite {suite}: {:?}", names(&store, KegId::ROOT));
    }
}

/// Blob, mode and the attribute `tag` of what has the name.
fn version(store: &MemStore, name: &str) -> (BlobId, u16, Vec<u8>) {
    let keg = store.dentry(&KegId::ROOT, name.as_bytes()).unwrap().unwrap().keg;
    let tag = store.xattrs(&keg).into_iter().find(|(name, _)| name == b"tag").map(|(_, value)| value);
    (blob_at(store, name)[0], store.node(&keg).unwrap().unwrap().mode, tag.unwrap_or_default())
}

fn tagged(blob: u32, mode: u16) -> (BlobId, u16, Vec<u8>) {
    (extent(0, 10, blob).blob, mode, blob.to_be_bytes().into())
}

#[test]
fn attributes_stay_with_the_version_that_they_were_set_to() {
    let (store, _) = play(&[
        (ALICE, 0, file(1, "f")),
        (BOB, 1, overwrite(keg(1), 200)),
        (BOB, 1, set_xattr(keg(1), 200)),
        (BOB, 1, set_mode(keg(1), 0o640)),
        (ALICE, 1, overwrite(keg(1), 300)),
        (ALICE, 1, set_xattr(keg(1), 300)),
        (ALICE, 1, set_mode(keg(1), 0o600)),
    ]);
    assert_eq!(version(&store, "f"), tagged(200, 0o640));
    assert_eq!(version(&store, "f (conflict, alice's laptop, 2026-11-23 15.04)"), tagged(300, 0o600));
}

#[test]
fn a_sibling_has_the_attributes_that_its_author_knew_and_set_and_none_of_the_other_version() {
    let (store, _) = play(&[
        (ALICE, 0, file(1, "f")),
        (ALICE, 0, set_xattr(keg(1), 1)),
        (ALICE, 0, OpKind::SetXattr { keg: keg(1), name: "mine".into(), value: "before".into() }),
        (BOB, 3, overwrite(keg(1), 200)),
        (BOB, 3, OpKind::RemoveXattr { keg: keg(1), name: "tag".into() }),
        (BOB, 3, OpKind::SetXattr { keg: keg(1), name: "list".into(), value: "bob's".into() }),
        (BOB, 3, set_mode(keg(1), 0o640)),
        // Set before the content is sent, while the file is open.
        (ALICE, 3, OpKind::SetXattr { keg: keg(1), name: "mine".into(), value: "set".into() }),
        (BOB, 3, OpKind::SetXattr { keg: keg(1), name: "mine".into(), value: "bob's".into() }),
        (ALICE, 3, overwrite(keg(1), 300)),
        (ALICE, 3, OpKind::RemoveXattr { keg: keg(1), name: "list".into() }),
    ]);
    let of = |name: &str| store.xattrs(&store.dentry(&KegId::ROOT, name.as_bytes()).unwrap().unwrap().keg);
    let pair = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    assert_eq!(of("f"), [pair("list", b"bob's"), pair("mine", b"bob's")]);
    let name = "f (conflict, alice's laptop, 2026-11-23 15.04)";
    assert_eq!(of(name), [pair("mine", b"set"), pair("tag", &1u32.to_be_bytes())]);
    assert_eq!((version(&store, "f").1, version(&store, name).1), (0o640, 0o644));
}

#[test]
fn a_version_that_lost_twice_is_one_file_however_often_its_author_saves_it() {
    let sibling = super::conflict::sibling_id(&keg(1), &ALICE, AT, 1);
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "f")),
        (BOB, 1, overwrite(keg(1), 200)),
        (ALICE, 1, overwrite(keg(1), 300)),
        (BOB, 3, overwrite(sibling, 201)),
        (ALICE, 1, overwrite(keg(1), 301)),
        (ALICE, 1, set_xattr(keg(1), 302)),
        (ALICE, 1, overwrite(keg(1), 302)),
    ]);
    let Applied::Sibling(second) = applied[4] else { panic!("{:?}", applied[4]) };
    assert_eq!(applied[6], Applied::Done);
    let blob = |keg: KegId| store.extents(&keg).iter().map(|extent| extent.blob).collect::<Vec<_>>();
    let [bobs, siblings, mine] = [keg(1), sibling, second].map(blob);
    assert_eq!([bobs, siblings, mine], [200, 201, 302].map(|blob| vec![extent(0, 10, blob).blob]));
    let tags = [keg(1), sibling, second].map(|keg| store.xattrs(&keg).len());
    assert_eq!((tags, names(&store, KegId::ROOT).len()), ([0, 0, 1], 3));
}

#[test]
fn versions_that_lost_in_a_circle_are_not_followed_for_ever() {
    let mut store = MemStore::default();
    for id in [1, 2] {
        apply(&mut store, &context(1, BOB), &op(0, file(id, &id.to_string()))).unwrap();
        let circle = Redirect { to: keg(3 - id), seq: u64::from(id) + 1 };
        store.set_redirect(&ALICE, &keg(id), circle).unwrap();
    }
    for kind in [overwrite(keg(1), 5), set_mode(keg(1), 0o600), set_xattr(keg(1), 7)] {
        assert_eq!(apply(&mut store, &context(4, ALICE), &op(1, kind)), Ok(Applied::Done));
    }
    assert_eq!(
        (version(&store, "1"), blob_at(&store, "2")),
        ((extent(0, 10, 5).blob, 0o600, 7u32.to_be_bytes().into()), vec![])
    );
}

#[test]
fn logs_of_suite_1_are_applied_as_ever() {
    let log = [
        (ALICE, 0, file(1, "f")),
        (BOB, 1, overwrite(keg(1), 200)),
        (BOB, 1, set_xattr(keg(1), 200)),
        (ALICE, 1, overwrite(keg(1), 300)),
        (ALICE, 1, set_xattr(keg(1), 300)),
    ];
    let mut store = MemStore::default();
    for ((device, base, kind), seq) in log.into_iter().zip(1..) {
        let context = Context { suite: 1, ..context(seq, device) };
        apply(&mut store, &context, &op(base, kind)).unwrap();
    }
    let name = "f (conflict, alice's laptop, 2026-11-23 15.04)";
    let tag = |blob: u32, tag: u32| (extent(0, 10, blob).blob, 0o644, tag.to_be_bytes().to_vec());
    assert_eq!((version(&store, "f"), version(&store, name)), (tag(200, 300), tag(300, 200)));
}

#[test]
fn who_has_seen_the_other_version_overwrites_that_one_even_before_the_own_conflict_is_sequenced() {
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "a")),
        (BOB, 1, overwrite(keg(1), 1)),
        (ALICE, 1, overwrite(keg(1), 2)),
        (ALICE, 2, overwrite(keg(1), 3)),
    ]);
    assert_eq!(applied[3], Applied::Done);
    assert_eq!(blob_at(&store, "a"), [extent(0, 10, 3).blob]);
}

#[test]
fn who_has_seen_the_conflict_writes_to_the_file_again() {
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "a")),
        (BOB, 1, overwrite(keg(1), 1)),
        (ALICE, 1, overwrite(keg(1), 2)),
        (ALICE, 3, overwrite(keg(1), 3)),
    ]);
    assert_eq!(applied[3], Applied::Done);
    assert_eq!(blob_at(&store, "a"), [extent(0, 10, 3).blob]);
}

#[test]
fn the_later_of_two_creators_of_a_name_gets_a_conflict_name_and_still_reaches_it() {
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "x.tar.gz")),
        (BOB, 0, file(2, "x.tar.gz")),
        (BOB, 0, overwrite(keg(2), 5)),
        (BOB, 0, rename(2, "x.tar.gz", KegId::ROOT, "y.tar.gz", None)),
    ]);
    assert_eq!(applied[1], Applied::Renamed(b"x (conflict, bob's desk, 2026-11-23 15.04).tar.gz".to_vec()));
    assert_eq!(names(&store, KegId::ROOT), ["x.tar.gz", "y.tar.gz"]);
    assert_eq!(blob_at(&store, "y.tar.gz"), [extent(0, 10, 5).blob]);
}

#[test]
fn a_third_conflict_of_one_minute_is_numbered() {
    let (store, _) = play(&[(ALICE, 0, file(1, "x")), (BOB, 0, file(2, "x")), (BOB, 0, file(3, "x"))]);
    let expected = ["x", "x (conflict, bob's desk, 2026-11-23 15.04 2)", "x (conflict, bob's desk, 2026-11-23 15.04)"];
    assert_eq!(names(&store, KegId::ROOT), expected);
}

#[test]
fn what_changed_or_filled_meanwhile_is_not_removed() {
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "f")),
        (ALICE, 0, directory(2, "d")),
        (BOB, 2, overwrite(keg(1), 1)),
        (BOB, 2, create(3, keg(2), "inside", NodeKind::File)),
        (ALICE, 2, unlink(1, KegId::ROOT, "f")),
        (ALICE, 2, unlink(2, KegId::ROOT, "d")),
    ]);
    assert_eq!(applied[4..], [Applied::Nothing, Applied::Nothing]);
    assert_eq!(names(&store, KegId::ROOT), ["d", "f"]);
}

#[test]
fn a_write_brings_a_removed_file_back_with_the_directories_above_it() {
    let (store, applied) = play(&[
        (ALICE, 0, directory(1, "d")),
        (ALICE, 0, create(2, keg(1), "e", NodeKind::Directory)),
        (ALICE, 0, create(3, keg(2), "f", NodeKind::File)),
        (BOB, 3, OpKind::Unlink { keg: keg(3), parent: keg(2), name: "f".into() }),
        (BOB, 3, OpKind::Unlink { keg: keg(2), parent: keg(1), name: "e".into() }),
        (BOB, 3, unlink(1, KegId::ROOT, "d")),
        (ALICE, 3, overwrite(keg(3), 7)),
    ]);
    assert_eq!(applied[6], Applied::Restored);
    assert_eq!(
        (names(&store, KegId::ROOT), names(&store, keg(1)), names(&store, keg(2))),
        (vec!["d".into()], vec!["e".into()], vec!["f".into()])
    );
    assert_eq!(store.node(&keg(1)).unwrap().unwrap().nlink, 3);
    assert_eq!(store.node(&KegId::ROOT).unwrap().unwrap().nlink, 3);
}

#[test]
fn a_file_created_in_a_directory_removed_meanwhile_brings_it_back() {
    let (store, _) = play(&[
        (ALICE, 0, directory(1, "d")),
        (BOB, 1, unlink(1, KegId::ROOT, "d")),
        (ALICE, 1, create(2, keg(1), "f", NodeKind::File)),
    ]);
    assert_eq!((names(&store, KegId::ROOT), names(&store, keg(1))), (vec!["d".into()], vec!["f".into()]));
}

#[test]
fn a_removal_that_the_author_saw_fail_does_not_take_what_was_written_afterwards() {
    let (store, applied) =
        play(&[(ALICE, 0, file(1, "f")), (ALICE, 0, unlink(1, KegId::ROOT, "f")), (ALICE, 0, overwrite(keg(1), 7))]);
    assert_eq!(applied[2], Applied::Restored);
    assert_eq!(blob_at(&store, "f"), [extent(0, 10, 7).blob]);
}

#[test]
fn of_two_who_rename_one_file_the_earlier_gives_it_its_name() {
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "f")),
        (ALICE, 0, directory(2, "d")),
        (BOB, 2, rename(1, "f", KegId::ROOT, "h", None)),
        (BOB, 2, rename(2, "d", KegId::ROOT, "e", None)),
        (ALICE, 2, rename(1, "f", KegId::ROOT, "g", None)),
        (ALICE, 2, rename(2, "d", KegId::ROOT, "c", None)),
    ]);
    assert_eq!(applied[4..], [Applied::Nothing, Applied::Nothing]);
    assert_eq!(names(&store, KegId::ROOT), ["e", "h"]);
}

#[test]
fn two_moves_that_together_would_make_a_cycle_make_none() {
    let (store, applied) = play(&[
        (ALICE, 0, directory(1, "a")),
        (ALICE, 0, directory(2, "b")),
        (ALICE, 2, rename(1, "a", keg(2), "a", None)),
        (BOB, 2, rename(2, "b", keg(1), "b", None)),
    ]);
    assert_eq!(applied[3], Applied::Nothing);
    assert_eq!((names(&store, KegId::ROOT), names(&store, keg(2))), (vec!["b".into()], vec!["a".into()]));
}

#[test]
fn saving_by_rename_over_a_file_changed_meanwhile_keeps_both() {
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "doc.odt")),
        (BOB, 1, overwrite(keg(1), 1)),
        (ALICE, 1, file(2, ".doc.tmp")),
        (ALICE, 1, overwrite(keg(2), 2)),
        (ALICE, 1, rename(2, ".doc.tmp", KegId::ROOT, "doc.odt", Some(1))),
    ]);
    assert!(matches!(applied[4], Applied::Renamed(_)));
    assert_eq!(blob_at(&store, "doc.odt"), [extent(0, 10, 1).blob]);
    assert_eq!(blob_at(&store, "doc (conflict, alice's laptop, 2026-11-23 15.04).odt"), [extent(0, 10, 2).blob]);
}

#[test]
fn saving_twice_by_rename_after_a_lost_name_replaces_the_own_version() {
    let (store, _) = play(&[
        (BOB, 0, file(9, "doc")),
        (ALICE, 0, file(1, "doc")), // becomes doc (conflict …)
        (ALICE, 0, file(2, "tmp")),
        (ALICE, 0, overwrite(keg(2), 2)),
        (ALICE, 0, rename(2, "tmp", KegId::ROOT, "doc", Some(1))),
        (ALICE, 0, file(3, "tmp")),
        (ALICE, 0, rename(3, "tmp", KegId::ROOT, "doc", Some(2))),
    ]);
    assert_eq!(names(&store, KegId::ROOT), ["doc", "doc (conflict, alice's laptop, 2026-11-23 15.04)"]);
    assert_eq!(store.dentry(&KegId::ROOT, b"doc").unwrap().unwrap().keg, keg(9));
}

/// What is under `x` of those who have seen that it is also under a conflict name is the name itself.
#[test]
fn who_means_a_name_that_is_gone_does_not_mean_a_conflict_name_that_it_had() {
    const CAROL: DeviceId = DeviceId([0xc; 32]);
    let conflict = "x (conflict, bob's desk, 2026-11-23 15.04)".to_owned();
    let replace = rename(3, "tmp", KegId::ROOT, "x", Some(1));
    let mut exchange = replace.clone();
    if let OpKind::Rename { exchange, .. } = &mut exchange {
        *exchange = true;
    }
    let late: &[(OpKind, &[&str])] = &[
        (unlink(1, KegId::ROOT, "x"), &["tmp"]),
        (rename(1, "x", KegId::ROOT, "y", None), &["tmp"]),
        (replace, &["x"]),
        (exchange, &["tmp"]),
    ];
    for (device, suite) in [(ALICE, SUITE), (BOB, SUITE), (CAROL, SUITE), (ALICE, 1)] {
        for (late, left) in late {
            let mut store = MemStore::default();
            for ((device, base, kind), seq) in [
                (ALICE, 0, file(2, "x")),
                (BOB, 0, file(1, "x")), // the conflict
                (BOB, 2, file(3, "tmp")),
                (CAROL, 3, unlink(2, KegId::ROOT, "x")),
                (CAROL, 4, OpKind::Link { keg: keg(1), parent: KegId::ROOT, name: "x".into() }),
                (CAROL, 5, unlink(1, KegId::ROOT, "x")),
                (device, 5, late.clone()),
            ]
            .into_iter()
            .zip(1..)
            {
                apply(&mut store, &Context { suite, ..context(seq, device) }, &op(base, kind)).unwrap();
            }
            let mut expected: Vec<_> = left.iter().map(|name| (*name).to_owned()).collect();
            expected.push(conflict.clone());
            expected.sort();
            let names = names(&store, KegId::ROOT);
            let there = store.dentry(&KegId::ROOT, conflict.as_bytes()).unwrap();
            let stays = names == expected && there.is_some_and(|there| there.keg == keg(1));
            assert_eq!(stays, suite > 1, "{late:?} by {device:?} in suite {suite}: {names:?}");
        }
    }
}

#[test]
fn the_author_of_a_conflict_means_it_by_the_wanted_name_wherever_another_has_put_the_file() {
    let link = |name: &str| OpKind::Link { keg: keg(1), parent: KegId::ROOT, name: name.into() };
    let (store, applied) = play(&[
        (ALICE, 0, file(1, "f")),
        (ALICE, 1, file(2, "x")),
        (BOB, 1, link("x")), // the conflict
        (ALICE, 3, unlink(2, KegId::ROOT, "x")),
        (ALICE, 4, link("x")),
        (BOB, 1, unlink(1, KegId::ROOT, "x")),
    ]);
    assert_eq!(applied[5], Applied::Done);
    assert_eq!(names(&store, KegId::ROOT), ["f", "x"]);
}

#[test]
fn different_attributes_merge_and_of_the_same_the_later_wins() {
    let set = |mode, mtime_ns| OpKind::SetAttr { keg: keg(1), mode, uid: None, gid: None, atime_ns: None, mtime_ns };
    let (store, _) = play(&[
        (ALICE, 0, file(1, "f")),
        (ALICE, 1, set(Some(0o600), None)),
        (BOB, 1, set(None, Some(5))),
        (ALICE, 1, set(Some(0o640), None)),
    ]);
    let node = store.node(&keg(1)).unwrap().unwrap();
    assert_eq!((node.mode, node.mtime_ns), (0o640, 5));
}

#[test]
fn a_name_whose_file_is_replaced_keeps_its_position_unless_the_file_has_several() {
    let link = OpKind::Link { keg: keg(3), parent: KegId::ROOT, name: "c2".into() };
    let log = [
        (ALICE, 0, file(1, "a")),
        (ALICE, 0, file(2, "b")),
        (ALICE, 0, file(3, "c")),
        (BOB, 3, link),
        (ALICE, 4, rename(2, "b", KegId::ROOT, "a", Some(1))),
        (ALICE, 5, file(4, "b")),
        (ALICE, 6, rename(3, "c", KegId::ROOT, "a", Some(2))),
    ];
    let position = |entries: usize, name: &str| {
        let (store, _) = play(&log[..entries]);
        store.dentry(&KegId::ROOT, name.as_bytes()).unwrap().unwrap().cookie
    };
    assert_eq!(position(5, "a"), position(4, "a"));
    assert!(position(6, "b") > position(4, "b"), "a name that was gone meanwhile is a new one");
    // The order of a file's names is that of their placing.
    let names = play(&log).0.dentries_of(&keg(3)).unwrap().into_iter().map(|dentry| dentry.name);
    assert_eq!(names.collect::<Vec<_>>(), [b"c2".to_vec(), b"a".to_vec()]);
}

#[test]
fn a_rename_that_was_void_stays_void_when_the_file_comes_back_to_its_old_name() {
    let (store, applied) = play(&[
        (BOB, 0, file(1, "a")),
        (BOB, 1, rename(1, "a", KegId::ROOT, "b", None)),
        (BOB, 2, rename(1, "b", KegId::ROOT, "a", None)),
        (ALICE, 1, rename(1, "a", KegId::ROOT, "c", None)),
    ]);
    assert_eq!(applied[3], Applied::Nothing);
    assert_eq!(names(&store, KegId::ROOT), ["a"]);
}

#[test]
fn exchange_swaps_names_and_link_counts() {
    let exchange = OpKind::Rename {
        keg: keg(1),
        parent: KegId::ROOT,
        name: "d".into(),
        new_parent: keg(2),
        new_name: "f".into(),
        target: Some(keg(3)),
        exchange: true,
    };
    let log = [
        (ALICE, 0, directory(1, "d")),
        (ALICE, 0, directory(2, "e")),
        (ALICE, 0, create(3, keg(2), "f", NodeKind::File)),
        (ALICE, 0, exchange),
    ];
    let (store, applied) = play(&log);
    assert_eq!(applied[3], Applied::Done);
    assert_eq!((names(&store, KegId::ROOT), names(&store, keg(2))), (vec!["d".into(), "e".into()], vec!["f".into()]));
    let nlink = |id| store.node(&id).unwrap().unwrap().nlink;
    assert_eq!((nlink(KegId::ROOT), nlink(keg(2)), nlink(keg(1)), nlink(keg(3))), (3, 3, 2, 1));
}

#[test]
fn an_overwritten_middle_leaves_both_ends_of_the_old_extent() {
    let content =
        |extents, size| OpKind::Content { keg: keg(1), truncate: None, holes: vec![], extents, size, mtime_ns: AT };
    let (store, _) = play(&[
        (ALICE, 0, file(1, "f")),
        (ALICE, 0, content(vec![extent(0, 100, 1)], 100)),
        (ALICE, 0, content(vec![extent(40, 20, 2)], 100)),
        (ALICE, 0, content(vec![], 90)),
    ]);
    let parts: Vec<_> = store.extents(&keg(1)).iter().map(|e| (e.offset, e.len, e.chunk_skip, e.blob.0[3])).collect();
    assert_eq!(parts, [(0, 40, 0, 1), (40, 20, 0, 2), (60, 30, 60, 1)]);
}

/// One member in the simulation: confirmed state, and operations not sequenced yet.
struct Member {
    device: DeviceId,
    confirmed: MemStore,
    seen: u64,
    pending: Vec<Op>,
}

impl Member {
    fn view(&self) -> MemStore {
        let mut view = self.confirmed.clone();
        for op in &self.pending {
            apply(&mut view, &context(PENDING_SEQ, self.device), op).unwrap();
        }
        view
    }

    fn act(&mut self, action: u8, pick: u8, fresh: u32) {
        let view = self.view();
        let entries: Vec<_> = view.dentries().cloned().collect();
        let kind_of = |keg: &KegId| view.node(keg).unwrap().unwrap().kind;
        let directories: Vec<_> = std::iter::once(KegId::ROOT)
            .chain(entries.iter().map(|d| d.keg).filter(|keg| kind_of(keg) == NodeKind::Directory))
            .collect();
        let parent = directories[pick as usize % directories.len()];
        let mut id = [0xee; 16];
        id[..4].copy_from_slice(&fresh.to_be_bytes());
        let name = [b'a' + pick % 3].to_vec();
        let chosen = entries.get(pick as usize % entries.len().max(1));
        let kind = match (action % 8, chosen) {
            (0 | 1, _) | (_, None) => {
                if view.dentry(&parent, &name).unwrap().is_some() {
                    return;
                }
                let kind = if action % 8 == 1 { NodeKind::Directory } else { NodeKind::File };
                OpKind::Create {
                    keg: KegId(id),
                    parent,
                    name,
                    kind,
                    mode: 0o644,
                    uid: 0,
                    gid: 0,
                    rdev: 0,
                    target: vec![],
                }
            }
            (2..=4, Some(dentry)) if kind_of(&dentry.keg) == NodeKind::File => overwrite(dentry.keg, fresh),
            (5, Some(dentry)) if kind_of(&dentry.keg) == NodeKind::File || view.is_empty(&dentry.keg).unwrap() => {
                OpKind::Unlink { keg: dentry.keg, parent: dentry.parent, name: dentry.name.clone() }
            }
            (_, Some(dentry)) => {
                let target = view.dentry(&parent, &name).unwrap().map(|there| there.keg);
                if target
                    .is_some_and(|target| kind_of(&target) != NodeKind::File || kind_of(&dentry.keg) != NodeKind::File)
                {
                    return;
                }
                let (keg, old, exchange) = (dentry.keg, dentry.name.clone(), false);
                OpKind::Rename {
                    keg,
                    parent: dentry.parent,
                    name: old,
                    new_parent: parent,
                    new_name: name,
                    target,
                    exchange,
                }
            }
        };
        let mut kinds = vec![kind];
        if let OpKind::Content { keg, .. } = kinds[0] {
            kinds.extend([set_xattr(keg, fresh), set_mode(keg, (fresh % 512) as u16)]);
        }
        self.pending.extend(kinds.into_iter().map(|kind| Op { at_ns: AT + i64::from(fresh), ..op(self.seen, kind) }));
    }
}

type Log = Vec<(DeviceId, Vec<Op>)>;

/// Runs the actions; then everybody sends and receives everything. `(member, action, pick)`; action 8: send, 9: receive.
fn simulate(actions: &[(u8, u8, u8)]) -> (Vec<Member>, Log) {
    let member = |device| Member { device, confirmed: MemStore::default(), seen: 0, pending: vec![] };
    let mut members = [ALICE, BOB, DeviceId([0xc; 32])].map(member).into_iter().collect::<Vec<_>>();
    let mut log: Log = vec![];
    let mut sent = [0usize; 3];
    let mut fresh = 1;
    let closing = [(0, 8, 0), (1, 8, 0), (2, 8, 0), (0, 9, 0), (1, 9, 0), (2, 9, 0)];
    for &(who, action, pick) in actions.iter().chain(&closing) {
        let index = who as usize % 3;
        let member = &mut members[index];
        match action {
            8 => {
                let batch = member.pending[sent[index]..].to_vec();
                sent[index] = member.pending.len();
                if !batch.is_empty() {
                    log.push((member.device, batch));
                }
            }
            9 => {
                for (device, ops) in &log[member.seen as usize..] {
                    member.seen += 1;
                    for op in ops {
                        apply(&mut member.confirmed, &context(member.seen, *device), op).unwrap();
                    }
                    if *device == member.device {
                        member.pending.drain(..ops.len());
                        sent[index] -= ops.len();
                    }
                }
            }
            action => {
                member.act(action, pick, fresh);
                fresh += 1;
            }
        }
    }
    (members, log)
}

/// Blobs that are the content of a file with a path from the root.
fn reachable(store: &MemStore) -> Vec<BlobId> {
    let has_path = |keg: KegId| {
        let mut at = keg;
        for _ in 0..10_000 {
            if at == KegId::ROOT {
                return true;
            }
            match store.dentries_of(&at).unwrap().first() {
                Some(dentry) => at = dentry.parent,
                None => return false,
            }
        }
        false
    };
    store
        .nodes()
        .filter(|node| has_path(node.keg))
        .flat_map(|node| store.extents(&node.keg))
        .map(|extent| extent.blob)
        .collect()
}

/// The operation makes content of a file go away on purpose: overwrites it, removes it, or renames something over it.
fn discards(op: &Op, file: KegId) -> bool {
    match &op.kind {
        OpKind::Content { keg, .. } | OpKind::Unlink { keg, .. } => *keg == file,
        OpKind::Rename { target, .. } => *target == Some(file),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Replicas that received the same log are equal, whatever they had pending on the way, and what each shows after
    /// everything is confirmed is the confirmed state.
    #[test]
    fn replicas_converge(actions in prop::collection::vec((0u8..3, 0u8..10, 0u8..12), 1..60)) {
        let (members, _) = simulate(&actions);
        prop_assert_eq!(&members[0].confirmed, &members[1].confirmed);
        prop_assert_eq!(&members[1].confirmed, &members[2].confirmed);
        for member in &members {
            prop_assert!(member.pending.is_empty());
            prop_assert_eq!(&member.view(), &member.confirmed);
        }
    }

    /// Every written content stays reachable by a path, unless someone who knew it discarded it.
    #[test]
    fn no_interleaving_loses_written_content(actions in prop::collection::vec((0u8..3, 0u8..10, 0u8..12), 1..60)) {
        let (members, log) = simulate(&actions);
        let store = &members[0].confirmed;
        let reachable = reachable(store);
        let flat: Vec<_> = log.iter().zip(1u64..).flat_map(|((device, ops), seq)| ops.iter().map(move |op| (seq, *device, op))).collect();
        let mut replay = MemStore::default();
        for (at, (seq, device, op)) in flat.iter().enumerate() {
            apply(&mut replay, &context(*seq, *device), op).unwrap();
            let OpKind::Content { keg, extents, .. } = &op.kind else { continue };
            // Where the write went: the file, or the version of its author that has lost, however often.
            let mut homes = vec![*keg];
            while let Some(next) = replay.redirect(device, &homes[homes.len() - 1]).unwrap() {
                homes.push(next.to);
            }
            let known = flat[at + 1..].iter().any(|(_, by, later)| {
                (by == device || later.base >= *seq) && homes.iter().any(|home| discards(later, *home))
            });
            prop_assert!(known || reachable.contains(&extents[0].blob), "lost {:?} of seq {seq}", op);
        }
    }

    /// Every version of a file has the attributes that were set to it.
    #[test]
    fn attributes_stay_with_their_content(actions in prop::collection::vec((0u8..3, 0u8..10, 0u8..12), 1..60)) {
        let (members, _) = simulate(&actions);
        let store = &members[0].confirmed;
        for node in store.nodes() {
            if let Some(extent) = store.extents(&node.keg).first() {
                let blob = extent.blob.0[..4].to_vec();
                let number = u32::from_be_bytes([blob[0], blob[1], blob[2], blob[3]]);
                prop_assert_eq!(u32::from(node.mode), number % 512);
                prop_assert_eq!(store.xattrs(&node.keg), [(b"tag".to_vec(), blob)]);
            }
        }
    }

    /// The tree stays a tree, whatever honest members do.
    #[test]
    fn the_tree_stays_a_tree(actions in prop::collection::vec((0u8..3, 0u8..10, 0u8..12), 1..60)) {
        let (members, _) = simulate(&actions);
        assert_is_a_tree(&members[0].confirmed);
    }

    /// And whatever a hostile member puts into valid batches.
    #[test]
    fn the_tree_stays_a_tree_under_any_operations(steps in prop::collection::vec(any::<Step>(), 1..80)) {
        let mut store = MemStore::default();
        for (step, seq) in steps.iter().zip(1..) {
            let op = operation(step, seq);
            if op.check().is_ok() {
                apply(&mut store, &context(seq, if step.0 { ALICE } else { BOB }), &op).unwrap();
            }
        }
        assert_is_a_tree(&store);
    }
}

/// `(device, base, what, kegs, names, size)` of an operation that need not make sense.
type Step = (bool, u8, u8, [u8; 3], [u8; 2], u16);

fn operation(&(_, base, what, kegs, names, size): &Step, seq: u64) -> Op {
    let [first, second, third] = kegs.map(|number| keg(number % 8));
    let [name, new_name] = names.map(|name| vec![b'a' + name % 3]);
    let kind = match what % 11 {
        0 | 1 => {
            let kind = if what % 11 == 0 { NodeKind::File } else { NodeKind::Directory };
            let (keg, mode, target) = (keg(kegs[0] % 7 + 1), 0o644, vec![]);
            OpKind::Create { keg, parent: second, name, kind, mode, uid: 0, gid: 0, rdev: 0, target }
        }
        2 => OpKind::Link { keg: first, parent: second, name },
        3 => OpKind::Unlink { keg: first, parent: second, name },
        4 | 5 => {
            let target = (size % 2 == 0).then(|| keg((size / 2 % 8) as u8));
            let exchange = what % 11 == 5;
            OpKind::Rename { keg: first, parent: second, name, new_parent: third, new_name, target, exchange }
        }
        6 => OpKind::SetXattr { keg: first, name, value: new_name },
        7 => OpKind::RemoveXattr { keg: first, name },
        8 => set_mode(first, size % 0o10000),
        _ => {
            let part = extent(u64::from(base) * 100, u32::from(size) + 1, u32::from(kegs[1]));
            let (truncate, end) = (Some(u64::from(size)), part.end());
            OpKind::Content { keg: first, truncate, holes: vec![], extents: vec![part], size: end, mtime_ns: 0 }
        }
    };
    Op { base: u64::from(base).min(seq), at_ns: AT + seq as i64, kind }
}

/// Every name's parent is a live directory that leads to the root, links are counted right, extents are in order.
fn assert_is_a_tree(store: &MemStore) {
    for node in store.nodes() {
        let names = store.dentries_of(&node.keg).unwrap();
        if node.is_directory() {
            let below = store.dentries().filter(|d| d.parent == node.keg);
            let subdirectories = below.filter(|d| store.node(&d.keg).unwrap().unwrap().is_directory()).count() as u32;
            assert!(names.len() <= 1, "a directory has one name");
            let linked = node.keg == KegId::ROOT || names.len() == 1;
            assert_eq!(node.nlink, if linked { 2 + subdirectories } else { 0 });
            assert!(linked || store.is_empty(&node.keg).unwrap());
        } else {
            assert_eq!(node.nlink as usize, names.len());
        }
        assert_eq!(node.nlink == 0, node.removed.is_some());
        let mut at = node.keg;
        for _ in store.nodes() {
            match store.dentries_of(&at).unwrap().first() {
                Some(dentry) => at = dentry.parent,
                None => break,
            }
        }
        assert!(at == KegId::ROOT || node.nlink == 0, "{node:?} is cut off");
        let extents = store.extents(&node.keg);
        assert!(extents.windows(2).all(|pair| pair[0].end() <= pair[1].offset));
        assert!(extents.last().is_none_or(|last| last.end() <= node.size));
    }
}
