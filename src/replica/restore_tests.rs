//! Leading a folder back: whatever happened, the tree by path is what it was, and the way back can be gone back.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::model_tests::{Any, operation};
use super::test_support::*;
use super::*;
use crate::format::*;
use crate::keg::{Node, ROOT_INO};

/// What somebody who looks sees at one path.
type Seen = (NodeKind, u16, Vec<Extent>, u64, Vec<Xattr>, Vec<u8>);
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
        (node.kind, node.mode, extents, node.size, self.xattrs(node.ino).unwrap(), node.target.clone())
    }
}

impl Look for Replica {
    fn names(&self, dir: u64) -> Vec<DirEntry> {
        self.view().readdir(dir, 0, usize::MAX).unwrap()
    }
    fn seen(&self, node: &Node) -> Seen {
        let view = self.view();
        let extents = view.extents(node.ino, 0, u64::MAX).unwrap();
        (node.kind, node.mode, extents, node.size, view.xattrs(node.ino).unwrap(), node.target.clone())
    }
}

fn tree(look: &dyn Look) -> Tree {
    fn walk(look: &dyn Look, dir: u64, path: &[Vec<u8>], tree: &mut Tree) {
        for entry in look.names(dir) {
            let path = [path, &[entry.name]].concat();
            tree.insert(path.clone(), look.seen(&entry.node));
            if entry.node.is_directory() {
                walk(look, entry.ino, &path, tree);
            }
        }
    }
    let mut found = Tree::new();
    walk(look, ROOT_INO, &[], &mut found);
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

fn restore(replica: &Replica, seq: u64, at: &str, later: Later, first: u32) -> RestorePlan {
    let past = replica.at(seq).unwrap();
    let plan = replica.plan_restore(&past, &path(at), later, 0, AT, &fresh_ids(first)).unwrap().unwrap();
    replica.submit_all(plan.ops.clone(), AT).unwrap();
    plan
}

fn apply(replica: &Replica, seq: u64, ops: Vec<OpKind>) {
    let ops = ops.into_iter().map(|kind| op(seq - 1, kind)).collect();
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
        if confirm && !plan.ops.is_empty() {
            confirm_all(&replica, head + 1, 1);
            prop_assert_eq!(&tree(&*replica), &expected);
        }
        let again = replica.plan_restore(&replica.at(then).unwrap(), &[], Later::Remove, 0, AT, &fresh_ids(2_000_000));
        let again = again.unwrap().unwrap();
        prop_assert!(again.steps.iter().all(|step| step.step == Step::Attributes), "nothing is left to do: {:?}", again.ops);
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
    let never = replica.plan_restore(&replica.at(1).unwrap(), &path("never"), Later::Keep, 0, AT, &fresh_ids(9));
    assert!(never.unwrap().is_none());
}
