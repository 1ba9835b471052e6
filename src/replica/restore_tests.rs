//! Leading a folder back: whatever happened, the tree by path is what it was, and the way back can be gone back.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::model_tests::{Any, operation};
use super::test_support::*;
use super::*;
use crate::format::*;
use crate::keg::{Node, ROOT_INO};

/// What somebody who looks sees at one path.
type Seen = (NodeKind, u16, Vec<Extent>, u64, Vec<Xattr>, Vec<u8>, Vec<Vec<u8>>, Times);
/// Of access and modification.
type Times = (i64, i64);
type Tree = BTreeMap<Vec<Vec<u8>>, Seen>;

/// Reads of a moment or of today.
trait Look {
    fn names(&self, dir: u64) -> Vec<DirEntry>;
    fn seen(&self, node: &Node) -> Seen;
}

impl Look for Past<'_> {
    fn names(&self, dir: u64) -> Vec<DirEntry> {
        self.readdir(dir, 0, usize::MAX).unwrap()
    }
    fn seen(&self, node: &Node) -> Seen {
        let extents = self.extents(node.ino, 0, u64::MAX).unwrap();
        facts(node, extents, self.xattrs(node.ino).unwrap())
    }
}

impl Look for Replica {
    fn names(&self, dir: u64) -> Vec<DirEntry> {
        self.view().readdir(dir, 0, usize::MAX).unwrap()
    }
    fn seen(&self, node: &Node) -> Seen {
        let view = self.view();
        let extents = view.extents(node.ino, 0, u64::MAX).unwrap();
        facts(node, extents, view.xattrs(node.ino).unwrap())
    }
}

fn facts(node: &Node, extents: Vec<Extent>, xattrs: Vec<Xattr>) -> Seen {
    (node.kind, node.mode, extents, node.size, xattrs, node.target.clone(), Vec::new(), times(node))
}

fn times(node: &Node) -> Times {
    (node.atime_ns, node.mtime_ns)
}

fn tree(look: &dyn Look) -> Tree {
    fn walk(look: &dyn Look, dir: u64, path: &[Vec<u8>], tree: &mut Tree, inos: &mut BTreeMap<Vec<Vec<u8>>, u64>) {
        for entry in look.names(dir) {
            let path = [path, &[entry.name]].concat();
            tree.insert(path.clone(), look.seen(&entry.node));
            inos.insert(path.clone(), entry.ino);
            if entry.node.is_directory() {
                walk(look, entry.ino, &path, tree, inos);
            }
        }
    }
    let (mut found, mut inos) = (Tree::new(), BTreeMap::new());
    walk(look, ROOT_INO, &[], &mut found, &mut inos);
    // Which names are of one file: by the first of them.
    let mut first: BTreeMap<u64, &Vec<Vec<u8>>> = BTreeMap::new();
    for (path, ino) in &inos {
        let first = *first.entry(*ino).or_insert(path);
        if let Some(seen) = found.get_mut(path) {
            seen.6.clone_from(first);
        }
    }
    found
}

fn fresh_ids(first: u32) -> impl Fn() -> KegId {
    let next = Cell::new(first);
    move || {
        next.set(next.get() + 1);
        keg(next.get())
    }
}

fn path(text: &str) -> Vec<Vec<u8>> {
    text.split('/').filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()).collect()
}

fn planned(replica: &Replica, basis: &Basis<'_>, seq: u64, at: &str, later: Later, first: u32) -> Option<RestorePlan> {
    let past = replica.at(seq).unwrap();
    let way = Way { later, horizon: 0, at_ns: AT, fresh: &fresh_ids(first) };
    replica.plan_restore(basis, &past, &path(at), &way).unwrap()
}

fn restore(replica: &Replica, seq: u64, at: &str, later: Later, first: u32) -> RestorePlan {
    let basis = replica.basis();
    let plan = planned(replica, &basis, seq, at, later, first).unwrap();
    assert_eq!(submit(replica, &basis, plan.ops.clone()).unwrap(), Grouped::default());
    plan
}

fn submit(replica: &Replica, basis: &Basis<'_>, ops: Vec<OpKind>) -> Result<Grouped, ReplicaError> {
    replica.submit_all(basis, ops, AT + 1000, &|| Some(HashSet::new()))
}

/// Each entry is of a time of its own.
fn apply(replica: &Replica, seq: u64, ops: Vec<OpKind>) {
    let ops = ops.into_iter().map(|kind| Op { at_ns: AT + seq as i64, ..op(seq - 1, kind) }).collect();
    replica.apply(&[confirmed(seq, BOB, seq, Some(ops))], None).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// Any history, any moment of it: restored with the removal of what came later, the folder is what it was then; by
    /// path, with content, attributes, extended attributes. Then back to today, the same way.
    #[test]
    fn the_whole_folder_is_led_back_and_forth(
        entries in prop::collection::vec(prop::collection::vec(any::<Any>(), 1..5), 1..14),
        to in any::<prop::sample::Index>(),
        confirm in any::<bool>(),
    ) {
        let dir = tempdir();
        let replica = open(dir.path());
        let mut fresh = 0;
        for (seq, anys) in (1..).zip(&entries) {
            let mut kinds = Vec::new();
            for any in anys {
                let known = fresh;
                let kind = operation(any, &mut fresh, known);
                if (Op { base: 0, at_ns: AT, kind: kind.clone() }).check().is_ok() {
                    kinds.push(kind);
                }
            }
            apply(&replica, seq, kinds);
        }
        let head = entries.len() as u64;
        let today = tree(&*replica);
        let then = to.index(entries.len() + 1) as u64;
        let expected = tree(&replica.at(then).unwrap());
        let plan = restore(&replica, then, "", Later::Remove, 1_000_000);
        prop_assert_eq!(&tree(&*replica), &expected, "{:?}", plan.ops);
        let root_then = replica.at(then).unwrap().node(ROOT_INO).unwrap().unwrap();
        prop_assert_eq!(replica.view().node(ROOT_INO).unwrap().unwrap().mtime_ns, root_then.mtime_ns);
        if confirm && !plan.ops.is_empty() {
            confirm_all(&replica, head + 1, 1);
            prop_assert_eq!(&tree(&*replica), &expected);
        }
        let again = planned(&replica, &replica.basis(), then, "", Later::Remove, 2_000_000).unwrap();
        prop_assert!(again.steps.iter().all(|step| step.step == Step::Attributes), "nothing is left to do: {:?}", again.ops);
        restore(&replica, head, "", Later::Remove, 3_000_000);
        prop_assert_eq!(&tree(&*replica), &today);
    }
}

/// Places at which the users of a folder have files.
const PLACES: [(u32, &str); 6] = [(0, "a"), (0, "b"), (0, "c"), (900, "a"), (900, "b"), (900, "c")];

/// What a user does with the file at one place, or at two: always something that can be done.
fn deed(replica: &Replica, (what, from, to, byte): (u8, u8, u8, u8), id: u32) -> Vec<OpKind> {
    let directory = |id: u32| if id == 0 { KegId::ROOT } else { keg(id) };
    let place = |number: u8| {
        let (parent, name) = PLACES[usize::from(number) % PLACES.len()];
        let ino = replica.view().ino_of(&directory(parent)).unwrap().unwrap();
        let there = replica.view().lookup(ino, name.as_bytes()).unwrap().map(|node| node.keg);
        (directory(parent), name.as_bytes().to_vec(), there)
    };
    let ((parent, name, there), (new_parent, new_name, target)) = (place(from), place(to));
    let new = vec![extent(0, u32::from(byte) + 1, byte)];
    let (parent_then, name_then) = (parent, name.clone());
    let gone = move |keg| OpKind::Unlink { keg, parent: parent_then, name: name_then.clone() };
    match (what % 6, there) {
        (0, Some(keg)) => vec![content(keg, new, i64::from(byte))],
        (1, Some(keg)) if target != Some(keg) => {
            let unlinked = target.map(|keg| OpKind::Unlink { keg, parent: new_parent, name: new_name.clone() });
            unlinked.into_iter().chain([OpKind::Link { keg, parent: new_parent, name: new_name.clone() }]).collect()
        }
        (2, Some(keg)) if target != Some(keg) => {
            vec![OpKind::Rename { keg, parent, name, new_parent, new_name, target, exchange: false }]
        }
        (3, Some(keg)) => vec![gone(keg)],
        _ => {
            let made = create(keg(id), parent, &name, NodeKind::File);
            there.map(gone).into_iter().chain([made, content(keg(id), new, i64::from(byte))]).collect()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// Files that are saved over, linked, moved and removed: the folder is led back with the names of one file being of one
    /// file, and back; one path is led back alone, and nothing else gets other content, but what is that very file.
    #[test]
    fn names_of_files_are_led_back_without_touching_other_files(
        deeds in prop::collection::vec(any::<(u8, u8, u8, u8)>(), 2..24),
        to in any::<prop::sample::Index>(),
        which in any::<prop::sample::Index>(),
    ) {
        let dir = tempdir();
        let replica = open(dir.path());
        apply(&replica, 1, vec![create(keg(900), KegId::ROOT, b"d", NodeKind::Directory)]);
        for (seq, some) in (2..).zip(&deeds) {
            apply(&replica, seq, deed(&replica, *some, seq as u32));
        }
        let head = deeds.len() as u64 + 1;
        let then = 1 + to.index(deeds.len()) as u64;
        let (today, was) = (tree(&*replica), tree(&replica.at(then).unwrap()));
        let files: Vec<_> = was.iter().filter(|(_, seen)| seen.0 == NodeKind::File).collect();
        if let Some((path, seen)) = (!files.is_empty()).then(|| files[which.index(files.len())]) {
            let text = String::from_utf8(path.join(&b'/')).unwrap();
            restore(&replica, then, &text, Later::Keep, 1_000_000);
            let after = tree(&*replica);
            prop_assert_eq!((&after[path].2, after[path].3), (&seen.2, seen.3));
            for (other, before) in &today {
                let same = |seen: &Seen| seen.2 == before.2 || (seen.6 == after[path].6 && seen.2 == after[path].2);
                // Gone from where it is moved back.
                prop_assert!(after.get(other).is_none_or(same), "{text} {other:?}");
            }
            if after != today {
                confirm_all(&replica, head + 1, 1);
            }
        }
        restore(&replica, then, "", Later::Remove, 2_000_000);
        prop_assert_eq!(&tree(&*replica), &was);
        restore(&replica, head, "", Later::Remove, 3_000_000);
        prop_assert_eq!(&tree(&*replica), &today);
    }
}

/// A program that encrypts everything under new names: undone in one go, and what it made stays unless asked.
#[test]
fn a_mass_change_is_undone_and_what_came_later_stays() {
    let dir = tempdir();
    let replica = open(dir.path());
    let mut first = vec![create(keg(900), KegId::ROOT, b"docs", NodeKind::Directory)];
    for number in 1..=20 {
        first.push(create(keg(number), keg(900), format!("f{number}").as_bytes(), NodeKind::File));
        first.push(content(keg(number), vec![extent(0, 100, number as u8)], 1));
    }
    apply(&replica, 1, first);
    let before = tree(&*replica);
    let mut mass = Vec::new();
    for number in 1..=20 {
        let name = format!("f{number}");
        mass.push(content(keg(number), vec![extent(0, 90, 200)], 2));
        if number % 2 == 0 {
            let new_name = format!("{name}.locked").into_bytes();
            let (parent, name) = (keg(900), name.into_bytes());
            mass.push(OpKind::Rename {
                keg: keg(number),
                parent,
                name,
                new_parent: parent,
                new_name,
                target: None,
                exchange: false,
            });
        } else {
            mass.push(OpKind::Unlink { keg: keg(number), parent: keg(900), name: name.into_bytes() });
        }
    }
    mass.push(create(keg(500), keg(900), b"README.locked", NodeKind::File));
    apply(&replica, 2, mass);
    let plan = restore(&replica, 1, "docs", Later::Keep, 1_000_000);
    let of = |step| plan.steps.iter().filter(|planned| planned.step == step).count();
    assert_eq!((of(Step::BroughtBack), of(Step::MovedBack), of(Step::Removed)), (10, 10, 0));
    assert_eq!(plan.kept_later, 1);
    let mut after = tree(&*replica);
    assert!(after.remove(&path("docs/README.locked")).is_some());
    assert_eq!(after, before);
    // Kegs are what they were: nothing was copied or made anew.
    assert!(!plan.ops.iter().any(|op| matches!(op, OpKind::Create { .. })));
    confirm_all(&replica, 3, 1);
    restore(&replica, 2, "docs", Later::Remove, 2_000_000);
    let undone: Vec<_> = tree(&*replica).into_keys().collect();
    assert!(undone.contains(&path("docs/f2.locked")) && !undone.contains(&path("docs/f2")));
}

#[test]
fn one_file_comes_back_with_the_directories_above_it_and_nothing_else() {
    let dir = tempdir();
    let replica = open(dir.path());
    apply(
        &replica,
        1,
        vec![
            create(keg(1), KegId::ROOT, b"a", NodeKind::Directory),
            create(keg(2), keg(1), b"b", NodeKind::Directory),
            create(keg(3), keg(2), b"wanted", NodeKind::File),
            content(keg(3), vec![extent(0, 10, 1)], 5),
            create(keg(4), keg(2), b"other", NodeKind::File),
        ],
    );
    let gone = |id, parent, name: &[u8]| OpKind::Unlink { keg: keg(id), parent, name: name.to_vec() };
    apply(
        &replica,
        2,
        vec![gone(3, keg(2), b"wanted"), gone(4, keg(2), b"other"), gone(2, keg(1), b"b"), gone(1, KegId::ROOT, b"a")],
    );
    restore(&replica, 1, "a/b/wanted", Later::Remove, 100);
    let found: Vec<_> = tree(&*replica).into_keys().collect();
    assert_eq!(found, [path("a"), path("a/b"), path("a/b/wanted")]);
    assert_eq!(replica.view().node_of(&keg(3)).unwrap().unwrap().size, 10);
}

#[test]
fn a_renamed_file_is_led_back_under_the_name_that_it_has() {
    let dir = tempdir();
    let replica = open(dir.path());
    apply(&replica, 1, vec![file(keg(1), "old"), content(keg(1), vec![extent(0, 10, 1)], 5)]);
    let rename = OpKind::Rename {
        keg: keg(1),
        parent: KegId::ROOT,
        name: b"old".to_vec(),
        new_parent: KegId::ROOT,
        new_name: b"new".to_vec(),
        target: None,
        exchange: false,
    };
    apply(&replica, 2, vec![rename, content(keg(1), vec![extent(0, 20, 2)], 6)]);
    restore(&replica, 1, "new", Later::Keep, 100);
    assert_eq!(names(&replica), ["new"]);
    let ino = replica.view().lookup(1, b"new").unwrap().unwrap().ino;
    assert_eq!(replica.view().extents(ino, 0, 99).unwrap(), [extent(0, 10, 1)]);
    assert!(planned(&replica, &replica.basis(), 1, "never", Later::Keep, 9).is_none());
    assert!(planned(&replica, &replica.basis(), 1, "never", Later::Remove, 9).is_none());
}

fn gone(id: u32, parent: KegId, name: &[u8]) -> OpKind {
    OpKind::Unlink { keg: keg(id), parent, name: name.to_vec() }
}

fn link(id: u32, parent: KegId, name: &[u8]) -> OpKind {
    OpKind::Link { keg: keg(id), parent, name: name.to_vec() }
}

fn moved(id: u32, (parent, name): (KegId, &[u8]), (new_parent, new_name): (KegId, &[u8])) -> OpKind {
    let (name, new_name) = (name.to_vec(), new_name.to_vec());
    OpKind::Rename { keg: keg(id), parent, name, new_parent, new_name, target: None, exchange: false }
}

fn sizes(replica: &Replica) -> Vec<(String, u64)> {
    let name = |path: &[Vec<u8>]| String::from_utf8(path.join(&b'/')).unwrap();
    tree(replica).iter().map(|(path, seen)| (name(path), seen.3)).collect()
}

fn sized(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
}

/// `ln -f a b`, undone: what `b` was comes back beside `a`, not into it.
#[test]
fn a_link_made_since_does_not_lead_one_file_into_another() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let dir = tempdir();
        let replica = open(dir.path());
        let files = [(1, first, 3), (2, second, 30)];
        for (seq, (id, name, len)) in (1..).zip(files) {
            apply(&replica, seq, vec![file(keg(id), name), content(keg(id), vec![extent(0, len, id as u8)], 5)]);
        }
        let then = tree(&*replica);
        let second_name = second.as_bytes();
        apply(&replica, 3, vec![gone(2, KegId::ROOT, second_name), link(1, KegId::ROOT, second_name)]);
        let plan = planned(&replica, &replica.basis(), 2, "", Later::Keep, 100).unwrap();
        assert!(!plan.ops.iter().any(|op| matches!(op, OpKind::Content { .. })), "{:?}", plan.ops);
        restore(&replica, 2, second, Later::Keep, 100);
        assert_eq!(tree(&*replica), then);
        confirm_all(&replica, 4, 1);
        assert_eq!(tree(&*replica), then);
        apply(&replica, 5, vec![gone(2, KegId::ROOT, second_name), link(1, KegId::ROOT, second_name)]);
        let both = tree(&*replica);
        apply(&replica, 6, vec![content(keg(1), vec![extent(0, 7, 9)], 6)]);
        restore(&replica, 5, second, Later::Keep, 200);
        assert_eq!(tree(&*replica), both, "two names of one file are led back as one");
    }
}

/// Both names were of one file, were saved over by programs that put a new file in the place, and are of one file again.
#[test]
fn names_of_one_file_are_of_one_file_again() {
    let dir = tempdir();
    let replica = open(dir.path());
    apply(&replica, 1, vec![file(keg(1), "a"), content(keg(1), vec![extent(0, 10, 1)], 5), link(1, KegId::ROOT, b"b")]);
    let then = tree(&*replica);
    let save = |id: u32, name: &str| {
        vec![gone(1, KegId::ROOT, name.as_bytes()), file(keg(id), name), content(keg(id), vec![extent(0, 20, 2)], 6)]
    };
    apply(&replica, 2, [save(2, "a"), save(3, "b")].concat());
    let today = tree(&*replica);
    assert_ne!(today, then);
    restore(&replica, 1, "", Later::Keep, 100);
    assert_eq!(tree(&*replica), then);
    confirm_all(&replica, 3, 1);
    assert_eq!(tree(&*replica), then);
    restore(&replica, 2, "", Later::Keep, 200);
    assert_eq!(tree(&*replica), today, "and back");
}

#[test]
fn directories_above_a_restored_file_stay_as_they_are_and_where_they_are() {
    let dir = tempdir();
    let replica = open(dir.path());
    let made = vec![
        create(keg(1), KegId::ROOT, b"d", NodeKind::Directory),
        create(keg(2), keg(1), b"f", NodeKind::File),
        content(keg(2), vec![extent(0, 10, 1)], 5),
    ];
    apply(&replica, 1, made);
    let chmod =
        OpKind::SetAttr { keg: keg(1), mode: Some(0o700), uid: None, gid: None, atime_ns: None, mtime_ns: None };
    let tag = OpKind::SetXattr { keg: keg(1), name: b"user.tag".to_vec(), value: b"new".to_vec() };
    apply(&replica, 2, vec![chmod, tag, content(keg(2), vec![extent(0, 20, 2)], 6)]);
    restore(&replica, 1, "d/f", Later::Remove, 100);
    let above = replica.view().node_of(&keg(1)).unwrap().unwrap();
    assert_eq!(above.mode, 0o700);
    assert_eq!(replica.view().xattrs(above.ino).unwrap().len(), 1);
    assert_eq!(replica.view().node_of(&keg(2)).unwrap().unwrap().size, 10);
    confirm_all(&replica, 3, 1);
    // Moved since, and worked in: what is in it stays there, but for what was asked for.
    let work = create(keg(3), keg(1), b"work", NodeKind::File);
    apply(&replica, 4, vec![moved(1, (KegId::ROOT, b"d"), (KegId::ROOT, b"e")), work]);
    restore(&replica, 1, "d/f", Later::Keep, 200);
    assert_eq!(sizes(&replica), sized(&[("d", 0), ("d/f", 10), ("e", 0), ("e/work", 0)]));
}

/// What a restoration brought is taken away again by the way back that it names.
#[test]
fn what_a_restoration_brought_back_goes_again_with_the_removal_of_what_came_later() {
    let dir = tempdir();
    let replica = open(dir.path());
    let made = vec![
        create(keg(1), KegId::ROOT, b"p", NodeKind::Directory),
        create(keg(2), keg(1), b"f", NodeKind::File),
        content(keg(2), vec![extent(0, 10, 1)], 5),
    ];
    apply(&replica, 1, made);
    // Removed with its directory.
    apply(&replica, 2, vec![gone(2, keg(1), b"f"), gone(1, KegId::ROOT, b"p")]);
    restore(&replica, 1, "p/f", Later::Keep, 100);
    assert_eq!(sizes(&replica), sized(&[("p", 0), ("p/f", 10)]));
    confirm_all(&replica, 3, 1);
    assert!(planned(&replica, &replica.basis(), 2, "p/f", Later::Keep, 150).is_none(), "it stays unless asked");
    restore(&replica, 2, "p/f", Later::Remove, 200);
    assert_eq!(sizes(&replica), sized(&[]));
    confirm_all(&replica, 4, 2);
    // Moved with its directory, where there is other work now.
    restore(&replica, 3, "", Later::Remove, 300);
    confirm_all(&replica, 5, 3);
    let work = create(keg(4), keg(1), b"work", NodeKind::File);
    apply_by(&replica, 6, vec![moved(1, (KegId::ROOT, b"p"), (KegId::ROOT, b"q")), work]);
    restore(&replica, 5, "p/f", Later::Keep, 400);
    assert_eq!(sizes(&replica), sized(&[("p", 0), ("p/f", 10), ("q", 0), ("q/work", 0)]));
    confirm_all(&replica, 7, 4);
    restore(&replica, 6, "p/f", Later::Remove, 500);
    assert_eq!(sizes(&replica), sized(&[("q", 0), ("q/f", 10), ("q/work", 0)]));
}

fn apply_by(replica: &Replica, seq: u64, ops: Vec<OpKind>) {
    let ops = ops.into_iter().map(|kind| op(seq - 1, kind)).collect();
    replica.apply(&[confirmed(seq, BOB, 100 + seq, Some(ops))], None).unwrap();
}

/// The file that a restoration is about, after entry 2: at 1 it was another in both halves.
fn halves(replica: &Replica) -> (Vec<Extent>, Vec<Extent>) {
    let (old, new) = (vec![extent(0, 50, 1), extent(50, 50, 2)], vec![extent(0, 50, 3), extent(50, 50, 4)]);
    apply(replica, 1, vec![file(keg(1), "plan.txt"), content(keg(1), old.clone(), 5)]);
    apply(replica, 2, vec![content(keg(1), new.clone(), 6)]);
    (old, new)
}

fn extents(replica: &Replica, name: &str) -> Vec<Extent> {
    let ino = replica.view().lookup(ROOT_INO, name.as_bytes()).unwrap().unwrap().ino;
    replica.view().extents(ino, 0, u64::MAX).unwrap()
}

fn change(part: Extent) -> OpKind {
    OpKind::Content { keg: keg(1), truncate: None, holes: vec![], extents: vec![part], size: 100, mtime_ns: 7 }
}

fn patch() -> OpKind {
    change(extent(60, 4, 9))
}

/// Somebody writes while the plan is made, or after it was made: that stays, and the old version stands beside it, whole.
#[test]
fn what_others_write_while_a_restoration_is_planned_is_not_overwritten_and_not_mixed_in() {
    for before_reading in [false, true] {
        let dir = tempdir();
        let replica = open(dir.path());
        let (old, _) = halves(&replica);
        let basis = replica.basis();
        let mut plan = planned(&replica, &basis, 1, "", Later::Keep, 100).unwrap();
        // As it was then, so that it is no difference to who has seen it.
        let half = extent(50, 50, 2);
        apply(&replica, 3, vec![change(half.clone())]);
        if before_reading {
            plan = planned(&replica, &basis, 1, "", Later::Keep, 100).unwrap();
        }
        let written = extents(&replica, "plan.txt");
        assert!(written.contains(&half));
        let told = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&told);
        replica.on_change(move |changes| kept.lock().extend_from_slice(changes));
        assert_eq!(submit(&replica, &basis, plan.ops).unwrap(), Grouped { beside: 1, void: 0 });
        let check = |when: &str| {
            assert_eq!(extents(&replica, "plan.txt"), written, "{when}");
            let names = names(&replica);
            let beside = names.iter().find(|name| name.contains("(conflict, ")).unwrap();
            assert_eq!(extents(&replica, beside), old, "{when}");
            assert_eq!(names.len(), 2, "{when}");
            beside.clone().into_bytes()
        };
        let beside = check("pending");
        let name_told = |change: &Change| matches!(change, Change::Entry { name, .. } if *name == beside);
        assert!(told.lock().iter().any(name_told), "the kernel is told of the name");
        confirm_all(&replica, 4, 1);
        check("confirmed");
    }
}

#[test]
fn what_others_have_written_to_meanwhile_is_not_removed_with_what_came_later() {
    let dir = tempdir();
    let replica = open(dir.path());
    apply(&replica, 1, vec![file(keg(2), "first")]);
    apply(&replica, 2, vec![file(keg(1), "later"), content(keg(1), vec![extent(0, 50, 1)], 5), file(keg(3), "unseen")]);
    let basis = replica.basis();
    let plan = planned(&replica, &basis, 1, "", Later::Remove, 100).unwrap();
    apply(&replica, 3, vec![patch()]);
    assert_eq!(submit(&replica, &basis, plan.ops).unwrap(), Grouped { beside: 0, void: 1 });
    assert_eq!(names(&replica), ["first", "later"]);
    confirm_all(&replica, 4, 1);
    assert_eq!(names(&replica), ["first", "later"]);
}

/// What this machine writes makes no conflict with what it does later, so the plan is made again.
#[test]
fn what_is_written_here_while_a_restoration_is_planned_has_it_planned_again() {
    let dir = tempdir();
    let replica = open(dir.path());
    let (old, _) = halves(&replica);
    replica.submit(file(keg(5), "other"), AT).unwrap();
    let mut write: Vec<Box<dyn Fn()>> = Vec::new();
    write.push(Box::new(|| drop(replica.submit(patch(), AT).unwrap())));
    write.push(Box::new(|| {
        let slot = replica.reserve(keg(1)).unwrap();
        replica.fill(slot, Some(op(2, patch()))).unwrap();
    }));
    // Sent and confirmed meanwhile.
    write.push(Box::new(|| {
        replica.submit(patch(), AT).unwrap();
        confirm_all(&replica, 3, 1);
    }));
    for write in write {
        let basis = replica.basis();
        let plan = planned(&replica, &basis, 1, "plan.txt", Later::Keep, 100).unwrap();
        let seen = replica.pending_counts().pending;
        write();
        let pending = replica.pending_counts().pending.max(seen);
        assert!(matches!(submit(&replica, &basis, plan.ops), Err(ReplicaError::Overtaken)));
        assert!(replica.pending_counts().pending <= pending, "nothing of it was done");
    }
    // What is still being sealed comes before it in the log.
    let (basis, slot) = (replica.basis(), replica.reserve(keg(1)).unwrap());
    let plan = planned(&replica, &basis, 1, "plan.txt", Later::Keep, 100).unwrap();
    assert!(matches!(submit(&replica, &basis, plan.ops), Err(ReplicaError::Overtaken)));
    replica.fill(slot, None).unwrap();
    // Other files do not matter.
    let basis = replica.basis();
    let plan = planned(&replica, &basis, 1, "plan.txt", Later::Keep, 100).unwrap();
    replica.submit(content(keg(5), vec![extent(0, 5, 7)], 8), AT).unwrap();
    assert_eq!(submit(&replica, &basis, plan.ops).unwrap(), Grouped::default());
    assert_eq!(extents(&replica, "plan.txt"), old);
}

/// What a program has written and the mounted view keeps in memory comes into the queue after the group: with a length from
/// before it, and without a conflict.
#[test]
fn what_is_still_in_memory_has_a_restoration_planned_again() {
    let dir = tempdir();
    let replica = open(dir.path());
    let (old, _) = halves(&replica);
    let basis = replica.basis();
    let plan = planned(&replica, &basis, 1, "plan.txt", Later::Keep, 100).unwrap();
    let kept =
        |unflushed: Option<HashSet<KegId>>| replica.submit_all(&basis, plan.ops.clone(), AT, &|| unflushed.clone());
    for unflushed in [Some(HashSet::from([keg(1)])), None] {
        assert!(matches!(kept(unflushed), Err(ReplicaError::Overtaken)));
        assert_eq!(replica.pending_counts().pending, 0, "nothing of it was done");
    }
    // Other files do not matter.
    assert_eq!(kept(Some(HashSet::from([keg(2)]))).unwrap(), Grouped::default());
    assert_eq!(extents(&replica, "plan.txt"), old);
}

fn punch(holes: Vec<Range>, size: u64) -> OpKind {
    OpKind::Content { keg: keg(1), truncate: None, holes, extents: vec![], size, mtime_ns: 5 }
}

/// A sparse image that was filled since at very many places: what makes them holes again is several operations, of which each
/// fits an entry.
#[test]
fn a_restoration_of_very_many_holes_is_operations_that_fit_an_entry() {
    const PLACES: u64 = 3 * 4096 + 1;
    let dir = tempdir();
    let replica = open(dir.path());
    let size = PLACES * 8192;
    apply(&replica, 1, vec![file(keg(1), "image"), punch(vec![], size)]);
    let filled = (0..PLACES).map(|number| extent(number * 8192, 4096, 7)).collect();
    apply(
        &replica,
        2,
        vec![OpKind::Content { keg: keg(1), truncate: None, holes: vec![], extents: filled, size, mtime_ns: 6 }],
    );
    let plan = restore(&replica, 1, "image", Later::Keep, 100);
    let holes = plan.ops.iter().filter_map(|kind| match kind {
        OpKind::Content { holes, .. } => Some(holes.len()),
        _ => None,
    });
    assert_eq!(holes.collect::<Vec<_>>(), [4096, 4096, 4096, 1], "whatever their number, each has some");
    assert_eq!((extents(&replica, "image"), sizes(&replica)), (vec![], sized(&[("image", size)])));
}

/// It and all work after it could never be sent.
#[test]
fn an_operation_that_fits_no_entry_is_refused_when_it_is_made() {
    let dir = tempdir();
    let replica = open(dir.path());
    apply(&replica, 1, vec![file(keg(1), "image"), punch(vec![], 1 << 34)]);
    let holes =
        |places: u64| (0..places).map(|number| Range { offset: (1 << 33) + number * 8192, len: 4096 }).collect();
    let (fits, too_long) = (punch(holes(60_000), 1 << 34), punch(holes(61_000), 1 << 34));
    let bytes = |kind: &OpKind| encode(&op(1, kind.clone())).len();
    assert!(bytes(&fits) <= limits::BATCH_MAX_BYTES && limits::BATCH_MAX_BYTES < bytes(&too_long));
    let basis = replica.basis();
    let both = vec![mtime(keg(1), 9), too_long.clone()];
    for refused in [submit(&replica, &basis, both).map(drop), replica.submit(too_long, AT).map(drop)] {
        assert!(matches!(refused, Err(ReplicaError::Format(FormatError::OutOfBounds("operation")))));
        assert_eq!(replica.pending_counts().pending, 0);
    }
    submit(&replica, &basis, vec![fits]).unwrap();
}

/// Directories have the times that they had, whatever comes after their names: removals, and names that go to other places.
/// What is made anew has them too.
#[test]
fn directories_have_their_times_back_when_all_else_is_done() {
    let dir = tempdir();
    let replica = open(dir.path());
    let directory = |id: u32, name: &str| create(keg(id), KegId::ROOT, name.as_bytes(), NodeKind::Directory);
    apply(&replica, 1, vec![directory(1, "a"), directory(2, "b"), directory(3, "c"), directory(4, "d")]);
    apply(
        &replica,
        2,
        vec![create(keg(5), keg(1), b"f", NodeKind::File), create(keg(6), keg(4), b"g", NodeKind::File)],
    );
    let accessed = |id: u32, atime_ns: i64| OpKind::SetAttr {
        keg: keg(id),
        mode: None,
        uid: None,
        gid: None,
        atime_ns: Some(atime_ns),
        mtime_ns: None,
    };
    apply(&replica, 3, vec![accessed(5, 33), accessed(1, 44)]);
    let then = tree(&*replica);
    let root = replica.view().node(ROOT_INO).unwrap().unwrap().mtime_ns;
    // `a/f` goes to `c`; `b` gets something, and its time is set back, as archivers do.
    let (was_a, was_b) = (then[&path("a")].7.1, then[&path("b")].7.1);
    apply(&replica, 4, vec![moved(5, (keg(1), b"f"), (keg(3), b"f")), mtime(keg(1), was_a), accessed(5, 55)]);
    apply(&replica, 5, vec![create(keg(7), keg(2), b"later", NodeKind::File), mtime(keg(2), was_b), accessed(1, 66)]);
    // `d` is not known any more to all.
    apply(&replica, 6, vec![gone(6, keg(4), b"g"), gone(4, KegId::ROOT, b"d"), file(keg(8), "later")]);
    let basis = replica.basis();
    let past = replica.at(3).unwrap();
    let way = Way { later: Later::Remove, horizon: 6, at_ns: AT + 1000, fresh: &fresh_ids(100) };
    let plan = replica.plan_restore(&basis, &past, &[], &way).unwrap().unwrap();
    let anew = |kind: &OpKind| matches!(kind, OpKind::Create { .. });
    assert_eq!(plan.ops.iter().filter(|kind| anew(kind)).count(), 2, "the directory and its file: {:?}", plan.ops);
    submit(&replica, &basis, plan.ops).unwrap();
    let check = |when: &str| {
        assert_eq!(tree(&*replica), then, "{when}");
        assert_eq!(replica.view().node(ROOT_INO).unwrap().unwrap().mtime_ns, root, "{when}");
    };
    check("pending");
    confirm_all(&replica, 7, 1);
    check("confirmed");
}
