//! What replicas come to does not depend on how the log reaches them, nor on what they had looked at by then.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::checkpoint_tests::shown;
use super::test_support::*;
use super::*;
use crate::format::*;
use crate::keg::{self, Context, MemStore};

const CAROL: DeviceId = DeviceId([0xc; 32]);

fn mode(id: KegId, mode: u16) -> OpKind {
    OpKind::SetAttr { keg: id, mode: Some(mode), uid: None, gid: None, atime_ns: None, mtime_ns: None }
}

/// The log `(device, base, operation)`, each an entry of its own, from 1.
fn entries(log: &[(DeviceId, u64, OpKind)]) -> Vec<Confirmed> {
    let mut counters = std::collections::HashMap::new();
    let numbered = log.iter().zip(1u64..).map(|((device, base, kind), seq)| {
        let counter = counters.entry(*device).and_modify(|counter| *counter += 1).or_insert(1);
        confirmed(seq, *device, *counter, Some(vec![op(*base, kind.clone())]))
    });
    numbered.collect()
}

fn reference(log: &[Confirmed]) -> MemStore {
    let mut store = MemStore::default();
    for entry in log {
        let (device, label, suite) = (entry.envelope.device, entry.label.clone(), entry.envelope.suite);
        let context = Context { seq: entry.head.seq, device, label, horizon: entry.horizon, suite };
        for op in &entry.batch.as_ref().unwrap().ops {
            keg::apply(&mut store, &context, op).unwrap();
        }
    }
    store
}

#[test]
fn a_sibling_has_the_same_mode_wherever_the_entries_before_it_arrive_together() {
    let write = |number| content(keg(1), vec![extent(0, 10, number)], AT);
    let log = entries(&[
        (BOB, 0, file(keg(1), "f")),
        (BOB, 1, write(1)),
        (BOB, 2, mode(keg(1), 0o600)),
        (CAROL, 1, write(2)),
        (CAROL, 1, mode(keg(1), 0o604)),
    ]);
    for together in [1, 2, 3, 4] {
        let dir = tempdir();
        let replica = open(dir.path());
        replica.apply(&log[..1], None).unwrap();
        // Whoever looks has the file in memory.
        assert_eq!(names(&replica), ["f"]);
        for entries in log[1..4].chunks(together) {
            replica.apply(entries, None).unwrap();
        }
        let sibling = || {
            let view = replica.view();
            let found = view.lookup(1, b"f (conflict, laptop 0c, 2026-11-23 15.04)").unwrap().unwrap();
            (found.mode, view.lookup(1, b"f").unwrap().unwrap().mode)
        };
        assert_eq!(sibling(), (0o644, 0o600), "{together} at once");
        replica.apply(&log[4..], None).unwrap();
        assert_eq!(sibling(), (0o604, 0o600), "{together} at once");
    }
}

/// One file, three writers: who, what, with which value, how old what it was made against.
fn step() -> impl Strategy<Value = (u8, u8, u8, u8)> {
    (0u8..3, 0u8..6, 0u8..4, 0u8..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn entries_one_by_one_or_together_come_to_the_same(
        steps in prop::collection::vec(step(), 4..24),
        together in prop::collection::vec(1usize..6, 24),
    ) {
        let mut log = vec![(BOB, 0, file(keg(1), "f"))];
        for ((who, what, value, age), seq) in steps.into_iter().zip(2u64..) {
            let kind = match what {
                0 | 1 => content(keg(1), vec![extent(0, 10, value)], i64::from(value)),
                2 => mode(keg(1), u16::from(value)),
                3 => OpKind::SetAttr {
                    keg: keg(1),
                    mode: None,
                    uid: Some(u32::from(value)),
                    gid: Some(u32::from(value / 2)),
                    atime_ns: Some(i64::from(value)),
                    mtime_ns: None,
                },
                4 => OpKind::SetXattr { keg: keg(1), name: vec![b'a' + value % 2], value: vec![value] },
                _ => OpKind::RemoveXattr { keg: keg(1), name: vec![b'a' + value % 2] },
            };
            log.push(([BOB, CAROL, DeviceId([0xd; 32])][usize::from(who)], (seq - 1).saturating_sub(age.into()), kind));
        }
        let log = entries(&log);
        let (dir, mut left) = (tempdir(), log.as_slice());
        let replica = open(dir.path());
        for together in together.into_iter().cycle() {
            let (now, later) = left.split_at(together.min(left.len()));
            replica.apply(now, None).unwrap();
            shown(&replica);
            left = later;
            if left.is_empty() {
                break;
            }
        }
        agrees(&replica, &log);
    }

    /// What somebody has pending gets cookies that no other replica knows. Nothing hangs on them.
    #[test]
    fn names_are_the_same_whatever_was_pending_on_the_way(
        steps in prop::collection::vec((0u8..8, 0u8..5, 0u32..2, [0u8..3, 0u8..3], 0u8..6), 4..40),
    ) {
        let dir = tempdir();
        let replica = open(dir.path());
        let mut log = entries(&[(BOB, 0, file(keg(1), "a")), (CAROL, 1, file(keg(2), "b"))]);
        replica.apply(&log, None).unwrap();
        let (mut fresh, mut sent, mut counter) = (2, 0, 5);
        for (who, what, number, names, age) in steps {
            let id = keg(number + 1);
            let [name, new_name] = names.map(|name| vec![b'a' + name]);
            let (parent, new_parent) = (KegId::ROOT, KegId::ROOT);
            let kind = match what {
                0 | 1 => OpKind::Link { keg: id, parent, name },
                2 => {
                    fresh += 1;
                    create(keg(fresh), parent, &name, NodeKind::File)
                }
                3 => OpKind::Rename { keg: id, parent, name, new_parent, new_name, target: None, exchange: false },
                _ => OpKind::Unlink { keg: id, parent, name },
            };
            let head = log.len() as u64;
            let op = op(head.saturating_sub(age.into()), kind);
            match who {
                0..3 => drop(replica.submit_based(op).unwrap()),
                3 => send(&replica, &mut log, &mut sent),
                _ => {
                    counter += 1;
                    let device = [BOB, CAROL][usize::from(who % 2)];
                    log.push(confirmed(head + 1, device, counter, Some(vec![op])));
                    replica.apply(&log[log.len() - 1..], None).unwrap();
                }
            }
        }
        send(&replica, &mut log, &mut sent);
        agrees(&replica, &log);
    }
}

/// What is pending comes into the log.
fn send(replica: &Replica, log: &mut Vec<Confirmed>, sent: &mut u64) {
    replica.flush(false).unwrap();
    let pending = replica.pending(usize::MAX, usize::MAX);
    let Some(last) = pending.last() else { return };
    *sent += 1;
    replica.stage(staged(*sent, last.number)).unwrap();
    let ops = pending.iter().map(|pending| (*pending.op).clone()).collect();
    log.push(confirmed(log.len() as u64 + 1, ALICE, *sent, Some(ops)));
    replica.apply(&log[log.len() - 1..], None).unwrap();
}

/// The replica shows what the model makes of the log.
fn agrees(replica: &Replica, log: &[Confirmed]) {
    let (expected, view) = (reference(log), replica.view());
    for node in expected.nodes() {
        let there = view.node_of(&node.keg).unwrap().unwrap();
        assert_eq!(&keg::Node { ino: node.ino, ..there.clone() }, node);
        assert_eq!(view.xattrs(there.ino).unwrap(), expected.xattrs(&node.keg));
        assert_eq!(view.extents(there.ino, 0, 100).unwrap(), expected.extents(&node.keg));
        let mut names: Vec<_> = view.names(there.ino).unwrap().into_iter().map(|name| name.name).collect();
        names.sort();
        let dentries = expected.dentries().filter(|dentry| dentry.keg == node.keg);
        assert_eq!(names, dentries.map(|dentry| dentry.name.clone()).collect::<Vec<_>>(), "{:?}", node.keg);
    }
}

/// A link that was pending keeps the place in listings that it had on its own machine, which is before that of a link by
/// somebody else that the log has before it.
#[test]
fn a_removal_of_a_name_that_is_gone_takes_no_conflict_name_on_any_replica() {
    let link = || OpKind::Link { keg: keg(1), parent: KegId::ROOT, name: b"x".to_vec() };
    let log = entries(&[
        (BOB, 0, file(keg(1), "f")),
        (CAROL, 1, file(keg(2), "x")),
        (BOB, 1, link()),
        (ALICE, 1, link()),
        (CAROL, 4, unlink(keg(2), "x")),
        (CAROL, 5, link()),
        (CAROL, 6, unlink(keg(1), "x")),
        (BOB, 6, unlink(keg(1), "x")),
    ]);
    let (ours, theirs) = (tempdir(), tempdir());
    let (ours, theirs) = (open(ours.path()), open(theirs.path()));
    theirs.apply(&log, None).unwrap();
    ours.apply(&log[..1], None).unwrap();
    ours.submit_based(op(1, link())).unwrap();
    ours.flush(false).unwrap();
    ours.apply(&log[1..2], None).unwrap();
    ours.apply(&log[2..3], None).unwrap();
    ours.stage(staged(1, ours.pending(9, usize::MAX)[0].number)).unwrap();
    ours.apply(&log[3..], None).unwrap();
    assert_eq!(ours.pending_counts().pending, 0);
    let all = ["f", "x (conflict, laptop 0a, 2026-11-23 15.04)", "x (conflict, laptop 0b, 2026-11-23 15.04)"];
    assert_eq!((names(&ours), names(&theirs)), (all.map(String::from).to_vec(), all.map(String::from).to_vec()));
}
