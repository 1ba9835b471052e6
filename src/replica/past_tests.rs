//! The folder as it was: against the reference model at every moment, and at a cost that does not grow.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::model_tests::{Any, operations};
use super::past::fork;
use super::test_support::*;
use super::*;
use crate::crypto::Key;
use crate::keg::{self, Context, MemStore, Node, Store};

/// Every entry with the model's state after it.
fn write_history(replica: &Replica, entries: &[Vec<(Any, u8)>]) -> Vec<MemStore> {
    let (mut model, mut states, mut fresh) = (MemStore::default(), Vec::new(), 0);
    states.push(model.clone());
    for (seq, anys) in (1..).zip(entries) {
        let ops = operations(seq, anys, &mut fresh);
        let device = if seq % 3 == 0 { ALICE } else { BOB };
        let counter = if seq % 3 == 0 { seq / 3 } else { seq - seq / 3 };
        let entry = confirmed(seq, device, counter, Some(ops));
        let context = Context { seq, device, label: label(&device), horizon: 0, suite: crate::format::limits::SUITE };
        for op in &entry.batch.as_ref().unwrap().ops {
            keg::apply(&mut model, &context, op).unwrap();
        }
        replica.apply(&[entry], None).unwrap();
        states.push(model.clone());
    }
    states
}

fn check_moment(past: &Past<'_>, model: &MemStore) {
    let same = |node: &Node| Node { ino: 0, ..node.clone() };
    for node in model.nodes() {
        let there = past.node_of(&node.keg).unwrap().unwrap_or_else(|| panic!("{node:?} is missing"));
        assert_eq!(same(&there), same(node));
        assert_eq!(past.node(there.ino).unwrap(), Some(there.clone()));
        assert_eq!(past.extents(there.ino, 0, u64::MAX).unwrap(), model.extents(&node.keg));
        for (from, len, parts) in [(0, 1, 1), (100, 57, 2), (399, 400, 5)] {
            let all = model.extents(&node.keg).into_iter();
            let meet: Vec<_> = all.filter(|extent| extent.end() > from && extent.offset < from + len).collect();
            assert_eq!(past.extents(there.ino, from, len).unwrap(), meet);
            assert_eq!(in_parts(from..from + len, |span| past.some_extents(there.ino, span, parts).unwrap()), meet);
        }
        assert_eq!(past.xattrs(there.ino).unwrap(), model.xattrs(&node.keg));
        let names: BTreeSet<_> =
            past.names(there.ino).unwrap().into_iter().map(|name| (name.parent, name.name)).collect();
        let expected = model.dentries_of(&node.keg).unwrap().into_iter();
        assert_eq!(names, expected.map(|dentry| (dentry.parent, dentry.name)).collect());
        if node.is_directory() {
            let expected: BTreeSet<_> = model
                .dentries()
                .filter(|dentry| dentry.parent == node.keg)
                .map(|dentry| (dentry.name.clone(), dentry.keg))
                .collect();
            let listed = past.readdir(there.ino, 0, usize::MAX).unwrap();
            assert!(listed.windows(2).all(|pair| pair[0].cookie < pair[1].cookie));
            let found: BTreeSet<_> = listed.iter().map(|entry| (entry.name.clone(), entry.node.keg)).collect();
            assert_eq!(found, expected);
            let mut after = 0;
            for entry in &listed {
                let page = past.readdir(there.ino, after, 1).unwrap();
                assert_eq!(page.as_slice(), std::slice::from_ref(entry));
                after = entry.cookie;
            }
            for name in [b"a", b"b", b"c", b"d"] {
                let child = past.lookup(there.ino, name).unwrap().map(|node| node.keg);
                assert_eq!(child, model.dentry(&node.keg, name).unwrap().map(|dentry| dentry.keg));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 500, ..ProptestConfig::default() })]

    #[test]
    fn every_moment_is_the_models(
        entries in prop::collection::vec(prop::collection::vec((any::<Any>(), 0u8..4), 1..4), 1..25)
    ) {
        let dir = tempdir();
        let replica = open(dir.path());
        let states = write_history(&replica, &entries);
        for (seq, model) in states.iter().enumerate() {
            check_moment(&replica.at(seq as u64).unwrap(), model);
        }
        drop(replica);
        let replica = open(dir.path());
        for (seq, model) in states.iter().enumerate() {
            check_moment(&replica.at(seq as u64).unwrap(), model);
        }
    }

    /// The fork of a row is on the way that a moment within it asks, and decides it there.
    #[test]
    fn a_row_is_met_at_its_fork(from in 1u64..5000, len in 1u64..5000, at in 0u64..12_000, later in 0u64..100) {
        let to = from + len;
        let registered = fork(from, to);
        prop_assert!((from..to).contains(&registered));
        let head = to.max(at) + later;
        let asked: Vec<u64> = super::past::forks(at.max(1), head).collect();
        if (from..to).contains(&at) {
            prop_assert!(asked.contains(&registered), "{asked:?} {registered}");
        }
        for fork in asked.into_iter().filter(|fork| *fork == registered) {
            let met = if fork <= at { to > at } else { from <= at };
            prop_assert_eq!(met, (from..to).contains(&at));
        }
    }
}

#[test]
fn a_moment_beyond_the_log_is_refused() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.apply(&[confirmed(1, BOB, 1, Some(vec![op(0, file(keg(1), "a"))]))], None).unwrap();
    let refused = replica.at(2).map(|past| past.seq()).unwrap_err();
    assert!(matches!(refused, ReplicaError::NoSuchMoment { seq: 2, from: 0, to: 1 }), "{refused}");
}

#[test]
fn times_never_go_back_and_never_lie_in_the_future() {
    let dir = tempdir();
    let replica = open(dir.path());
    let at = |seq: u64, created_ms: i64| {
        let mut entry = confirmed(seq, BOB, seq, Some(vec![op(0, file(keg(seq as u32), &format!("f{seq}")))]));
        entry.envelope.created_ms = created_ms;
        entry
    };
    let now = crate::sys::clock::unix_nanos() / 1_000_000;
    let far = now + 40 * 365 * 86_400_000;
    replica.apply(&[at(1, 1_000), at(2, 5_000), at(3, 3_000), at(4, far), at(5, now - 1_000)], None).unwrap();
    assert_eq!(replica.seq_at(999).unwrap(), None);
    assert_eq!(replica.seq_at(1_000).unwrap(), Some(1));
    assert_eq!(replica.seq_at(4_999).unwrap(), Some(1));
    // The third was made with a clock that went back: it belongs to the time of the second.
    assert_eq!(replica.seq_at(5_000).unwrap(), Some(3));
    // The fourth comes from a clock far ahead; it counts as made when it was first seen here.
    assert_eq!(replica.seq_at(crate::sys::clock::unix_nanos() / 1_000_000).unwrap(), Some(5));
}

/// A name that came and went again and again, among many others that did: what a look at one moment reads
/// does not depend on it.
#[test]
fn a_long_history_costs_nothing_to_look_behind() {
    let steps = |churn: u64| {
        let dir = tempdir();
        let replica = open(dir.path());
        let mut batch = vec![confirmed(
            1,
            BOB,
            1,
            Some(vec![op(0, file(keg(1), "stays")), op(0, content(keg(1), vec![extent(0, 9, 1)], 1))]),
        )];
        for seq in 2..2 + churn {
            let number = seq as u32;
            let ops = vec![
                op(seq - 1, unlink(keg(number - 1), &format!("t{}", number - 1))),
                op(seq - 1, file(keg(number), &format!("t{number}"))),
                op(seq - 1, content(keg(1), vec![extent(0, 9, number as u8)], 1)),
            ];
            batch.push(confirmed(seq, BOB, seq, Some(ops)));
        }
        replica.apply(&batch, None).unwrap();
        let past = replica.at(1 + churn / 2).unwrap();
        let read = replica.shared().pool.steps(|| {
            assert_eq!(past.readdir(1, 0, 10).unwrap().len(), 2);
            let ino = past.lookup(1, b"stays").unwrap().unwrap().ino;
            assert_eq!(past.extents(ino, 0, 9).unwrap().len(), 1);
        });
        (replica, read).1
    };
    let (short, long) = (steps(50), steps(1_600));
    // 32 times the history: five bits more, and nothing else.
    assert!(long < short * 2, "{short} steps of the database with a short history, {long} with a long one");
}

/// A database of the first layout is brought to the present one in place, and its past can be looked at.
#[test]
fn the_first_layout_is_brought_up_in_place() {
    let dir = tempdir();
    let entries = |first: u64| {
        (first..first + 20).map(|seq| {
            let number = seq as u32;
            let ops = vec![
                op(seq - 1, unlink(keg(number - 1), &format!("t{}", number - 1))),
                op(seq - 1, file(keg(number), &format!("t{number}"))),
            ];
            let mut entry = confirmed(seq, BOB, seq, Some(ops));
            entry.envelope.created_ms = if seq == 5 { 1_000 } else { 1_000 * seq as i64 };
            entry
        })
    };
    {
        let replica = open(dir.path());
        replica.apply(&entries(1).collect::<Vec<_>>(), None).unwrap();
    }
    to_first_layout(&dir.path().join("state.db"), &key());
    let replica = open(dir.path());
    replica.apply(&entries(21).collect::<Vec<_>>(), None).unwrap();
    for seq in 1..=40 {
        let names: Vec<_> = replica.at(seq).unwrap().readdir(1, 0, 9).unwrap();
        let names: Vec<_> = names.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect();
        assert_eq!(names, [format!("t{seq}")]);
    }
    assert_eq!(replica.seq_at(4_500).unwrap(), Some(5), "an entry whose clock went back belongs to the time before it");
    assert_eq!(replica.seq_at(30_000).unwrap(), Some(30));
}

/// Takes back what the steps after the first did.
fn to_first_layout(file: &std::path::Path, key: &Key) {
    let db = super::db::open(file, key, 1024, false).unwrap();
    db.run(|conn| {
        conn.execute_batch(
            "DROP INDEX dentry_past_from; DROP INDEX dentry_past_to; DROP INDEX dentry_past_child; DROP INDEX dentry_since;
             DROP INDEX dentry_conflict; DROP INDEX node_removed; DROP INDEX log_clock; DROP TABLE name_log;
             DROP TABLE redirect_log; DROP TABLE checkpoint; DROP TABLE activity; DROP TABLE burst;
             DROP TABLE kept; DROP TABLE thinning; DROP TABLE owed; DROP INDEX node_past_end; DROP INDEX dentry_past_end;
             DROP INDEX extent_past_end; DROP INDEX xattr_past_end;
             DROP TABLE blob; DROP TABLE handed_over; DROP TABLE loose; DROP TABLE missed; DROP TABLE content_past; DROP TABLE held; DROP INDEX extent_blob; DROP INDEX extent_past_blob;
             ALTER TABLE node DROP COLUMN allocated; ALTER TABLE node_past DROP COLUMN allocated;
             ALTER TABLE dentry_past DROP COLUMN fork; ALTER TABLE log DROP COLUMN clock_ms; PRAGMA user_version=1;",
        )
    })
    .unwrap();
}
