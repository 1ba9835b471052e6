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
}

/// The replica shows what the model makes of the log.
fn agrees(replica: &Replica, log: &[Confirmed]) {
    let (expected, view) = (reference(log), replica.view());
    for node in expected.nodes() {
        let there = view.node_of(&node.keg).unwrap().unwrap();
        assert_eq!(&keg::Node { ino: node.ino, ..there.clone() }, node);
        assert_eq!(view.xattrs(there.ino).unwrap(), expected.xattrs(&node.keg));
        assert_eq!(view.extents(there.ino, 0, 100).unwrap(), expected.extents(&node.keg));
    }
}
