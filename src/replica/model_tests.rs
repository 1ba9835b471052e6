//! The mounted view and the confirmed state equal the reference model, whatever happens between.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::test_support::*;
use super::*;
use crate::format::*;
use crate::keg::{self, Applied, Context, MemStore, Node, PENDING_SEQ, Store};

/// `(what, kegs, names, numbers)`: an operation that need not make sense.
pub(super) type Any = (u8, [u8; 3], [u8; 2], [u16; 2]);

#[derive(Clone, Debug)]
enum Step {
    /// The user does something, based on the head or on something older.
    Submit(Any, bool),
    /// Somebody else's entry is sequenced.
    Foreign(Vec<(Any, u8)>),
    /// Up to so many pending operations are signed, and sequenced if the flag is set (else they may be later).
    Send(usize, bool),
    /// An own entry is sequenced, but does not count.
    Ignored,
    /// What was sequenced is applied, so many entries at a time.
    Receive(usize),
    /// The process ends, cleanly or (after a flush) not.
    Reopen(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<Any>(), prop::bool::weighted(0.2)).prop_map(|(any, old)| Step::Submit(any, old)),
        3 => prop::collection::vec((any::<Any>(), 0u8..4), 1..5).prop_map(Step::Foreign),
        2 => (1usize..6, any::<bool>()).prop_map(|(ops, now)| Step::Send(ops, now)),
        1 => Just(Step::Ignored),
        3 => (1usize..4).prop_map(Step::Receive),
        1 => any::<bool>().prop_map(Step::Reopen),
    ]
}

/// What the entry at `seq` does, each operation made on a state so many entries older. What no author would sign is left
/// out.
pub(super) fn operations(seq: u64, anys: &[(Any, u8)], fresh: &mut u32) -> Vec<Op> {
    let made = anys.iter().map(|(any, age)| {
        let known = *fresh;
        let kind = operation(any, fresh, known);
        Op { base: (seq - 1).saturating_sub(u64::from(*age)), at_ns: AT + seq as i64, kind }
    });
    made.filter(|op| op.check().is_ok()).collect()
}

/// The operation, on kegs 0 (root) to 8; `fresh` numbers what is created.
pub(super) fn operation(&(what, kegs, names, numbers): &Any, fresh: &mut u32, known: u32) -> OpKind {
    let pick =
        |number: u8| if number.is_multiple_of(9) { KegId::ROOT } else { keg(u32::from(number) % known.max(1) + 1) };
    let [first, second, third] = kegs.map(pick);
    let [name, new_name] = names.map(|name| vec![b'a' + name % 4]);
    let [a, b] = numbers;
    match what % 14 {
        12 => OpKind::Restore { keg: first, parent: second, name },
        0..=2 => {
            *fresh += 1;
            let kind = [NodeKind::File, NodeKind::Directory, NodeKind::File][usize::from(what % 14)];
            create(keg(*fresh), second, &name, kind)
        }
        3 => OpKind::Link { keg: first, parent: second, name },
        4 => OpKind::Unlink { keg: first, parent: second, name },
        5 | 6 => {
            let target = (a % 2 == 0).then(|| pick((a / 2) as u8));
            let exchange = a % 5 == 0;
            OpKind::Rename { keg: first, parent: second, name, new_parent: third, new_name, target, exchange }
        }
        7 => mtime(first, i64::from(a)),
        13 => {
            let (mode, uid) = (Some(a % 0o10000), (b % 2 == 0).then(|| u32::from(b % 8)));
            OpKind::SetAttr { keg: first, mode, uid, gid: None, atime_ns: Some(i64::from(b % 3)), mtime_ns: None }
        }
        8 => OpKind::SetXattr { keg: first, name, value: vec![a as u8] },
        9 => OpKind::RemoveXattr { keg: first, name },
        _ => {
            let part = extent(u64::from(a % 500), u32::from(b % 300) + 1, kegs[1]);
            let truncate = (what % 2 == 0).then(|| u64::from(b % 400));
            let holes = if a % 3 == 0 { vec![Range { offset: u64::from(b % 200), len: 50 }] } else { vec![] };
            let size = part.end() + u64::from(a % 2) * 100;
            let size = if b % 7 == 0 { size / 2 } else { size };
            OpKind::Content { keg: first, truncate, holes, extents: vec![part], size, mtime_ns: i64::from(b) }
        }
    }
}

/// Everything that happened, as the model has it.
#[derive(Default)]
struct Model {
    confirmed: MemStore,
    log: Vec<Confirmed>,
    applied: usize,
    /// Number and operation.
    pending: Vec<(u64, Op)>,
    counter: u64,
    foreign_counter: u64,
    /// Signed and not in the log: counter and numbers.
    signed: Vec<(u64, Vec<u64>)>,
    fresh: u32,
    time: i64,
    inos: HashMap<KegId, u64>,
    /// Creations that found no directory.
    void: BTreeSet<KegId>,
}

impl Model {
    fn view(&self) -> MemStore {
        let mut view = self.confirmed.clone();
        let context =
            Context { seq: PENDING_SEQ, device: ALICE, label: label(&ALICE), horizon: 0, suite: limits::SUITE };
        for (_, op) in &self.pending {
            keg::apply(&mut view, &context, op).unwrap();
        }
        view
    }

    fn seq(&self) -> u64 {
        self.log.len() as u64 + 1
    }

    fn step(&mut self, replica: &mut Arc<Replica>, dir: &std::path::Path, step: &Step) {
        self.time += 1;
        match step {
            Step::Submit(any, old) => {
                let known = self.fresh;
                let kind = operation(any, &mut self.fresh, known);
                let base = (self.applied as u64).saturating_sub(if *old { 2 } else { 0 });
                let op = Op { base, at_ns: AT + self.time, kind };
                if op.check().is_ok() {
                    let submitted = replica.submit_based(op.clone()).unwrap();
                    if let (OpKind::Create { keg, .. }, Applied::Nothing) = (&op.kind, submitted.applied) {
                        self.void.insert(*keg);
                    }
                    self.pending.push((submitted.number, op));
                }
            }
            Step::Foreign(anys) => {
                let mut ops = Vec::new();
                for (any, age) in anys {
                    let known = self.fresh;
                    let kind = operation(any, &mut self.fresh, known);
                    let base = (self.log.len() as u64).saturating_sub(u64::from(*age));
                    let op = Op { base, at_ns: AT + self.time, kind };
                    if op.check().is_ok() {
                        ops.push(op);
                    }
                }
                if !ops.is_empty() {
                    self.foreign_counter += 1;
                    self.log.push(confirmed(self.seq(), BOB, self.foreign_counter, Some(ops)));
                }
            }
            Step::Send(ops, now) => {
                replica.flush(false).unwrap();
                let pending = replica.pending(*ops, usize::MAX);
                if let Some(last) = pending.last() {
                    self.counter += 1;
                    replica.stage(staged(self.counter, last.number)).unwrap();
                    self.signed.push((self.counter, pending.iter().map(|pending| pending.number).collect()));
                }
                if *now {
                    self.sequence_signed();
                }
            }
            Step::Ignored => {
                replica.flush(false).unwrap();
                self.sequence_signed();
                if let Some(last) = replica.pending(2, usize::MAX).last() {
                    self.counter += 1;
                    replica.stage(staged(self.counter, last.number)).unwrap();
                    self.log.push(confirmed(self.seq(), ALICE, self.counter, None));
                    // Nothing may be signed on top before the verdict is known.
                    self.receive(replica, usize::MAX);
                }
            }
            Step::Receive(chunk) => self.receive(replica, *chunk),
            Step::Reopen(clean) => {
                if *clean {
                    replica.close().unwrap();
                } else {
                    replica.flush(false).unwrap();
                }
                *replica = {
                    let closed = std::mem::replace(replica, open(tempdir().path()));
                    drop(closed);
                    open(dir)
                };
                // Siblings that only pending work has made get new numbers: the journal knows those of creations.
                // Not of those in directories that were not there yet, which no mount would have sent.
                self.inos.retain(|keg, _| keg.0[4..] == [0xee; 12] && !self.void.contains(keg));
                let signed: Vec<u64> = replica.staged().iter().map(|entry| entry.counter).collect();
                let unseen = self.log[self.applied..].iter().filter(|entry| entry.envelope.device == ALICE);
                let unseen: Vec<u64> = unseen.map(|entry| entry.envelope.counter).collect();
                let expected = [unseen, self.signed.iter().map(|(counter, _)| *counter).collect()].concat();
                assert_eq!(signed, expected, "signed entries are remembered");
            }
        }
    }

    fn sequence_signed(&mut self) {
        for (counter, numbers) in std::mem::take(&mut self.signed) {
            let ops = self.pending.iter().filter(|(number, _)| numbers.contains(number)).map(|(_, op)| op.clone());
            let ops = ops.collect();
            self.log.push(confirmed(self.seq(), ALICE, counter, Some(ops)));
        }
    }

    fn receive(&mut self, replica: &Replica, chunk: usize) {
        let new = self.log[self.applied..].to_vec();
        for entries in new.chunks(chunk.min(new.len().max(1))) {
            replica.apply(entries, None).unwrap();
            for entry in entries {
                self.applied += 1;
                let Some(batch) = &entry.batch else { continue };
                let device = entry.envelope.device;
                let (label, suite) = (entry.label.clone(), entry.envelope.suite);
                let context = Context { seq: entry.head.seq, device, label, horizon: entry.horizon, suite };
                for op in &batch.ops {
                    keg::apply(&mut self.confirmed, &context, op).unwrap();
                }
                if device == ALICE {
                    self.pending.drain(..batch.ops.len());
                }
            }
        }
        let left: Vec<u64> = self.pending.iter().map(|(number, _)| *number).collect();
        let counts = replica.pending_counts();
        assert_eq!(counts.pending, left.len() as u64);
    }

    /// The mounted view is the model's.
    fn check(&mut self, replica: &Replica) {
        let model = self.view();
        let view = replica.view();
        let same = |node: Node| Node { ino: 0, ..node };
        let mut inos = HashMap::new();
        let (mut bytes, mut files) = (0, 0);
        for node in model.nodes() {
            let there = view.node_of(&node.keg).unwrap().unwrap_or_else(|| panic!("{node:?} is missing"));
            assert_eq!(same(there.clone()), same(node.clone()));
            assert_eq!(view.node(there.ino).unwrap(), Some(there.clone()));
            if let Some(before) = self.inos.get(&node.keg) {
                assert_eq!(*before, there.ino, "{:?} changed its inode number", node.keg);
            }
            assert!(inos.insert(node.keg, there.ino).is_none());
            assert_eq!(view.extents(there.ino, 0, u64::MAX).unwrap(), model.extents(&node.keg));
            for (from, len, parts) in [(0, 1, 1), (100, 57, 2), (399, 400, 5)] {
                let part = view.extents(there.ino, from, len).unwrap();
                let all = model.extents(&node.keg).into_iter();
                let meet: Vec<_> = all.filter(|extent| extent.end() > from && extent.offset < from + len).collect();
                assert_eq!(part, meet);
                assert_eq!(in_parts(from..from + len, |span| view.some_extents(there.ino, span, parts).unwrap()), meet);
            }
            assert_eq!(view.xattrs(there.ino).unwrap(), model.xattrs(&node.keg));
            for name in [b"a", b"b", b"c", b"d"] {
                let value =
                    model.xattrs(&node.keg).into_iter().find(|(there, _)| there == name).map(|(_, value)| value);
                assert_eq!(view.xattr(there.ino, name).unwrap(), value);
            }
            let names: BTreeSet<_> =
                view.names(there.ino).unwrap().into_iter().map(|name| (name.parent, name.name)).collect();
            let expected = model.dentries_of(&node.keg).unwrap().into_iter();
            assert_eq!(names, expected.map(|dentry| (dentry.parent, dentry.name)).collect());
            if node.is_directory() {
                self.check_directory(&view, &model, &there);
            }
            if node.nlink > 0 {
                files += 1;
                bytes += if node.kind == NodeKind::File { node.size } else { 0 };
            }
        }
        assert_eq!(inos.values().collect::<BTreeSet<_>>().len(), inos.len(), "inode numbers are unique");
        assert_eq!(view.usage(), (bytes, files));
        self.inos = inos;
    }

    fn check_directory(&self, view: &View<'_>, model: &MemStore, directory: &Node) {
        let expected: BTreeSet<_> = model
            .dentries()
            .filter(|dentry| dentry.parent == directory.keg)
            .map(|dentry| (dentry.name.clone(), dentry.keg))
            .collect();
        let listed = view.readdir(directory.ino, 0, usize::MAX).unwrap();
        assert!(listed.windows(2).all(|pair| pair[0].cookie < pair[1].cookie));
        let found: BTreeSet<_> = listed.iter().map(|entry| (entry.name.clone(), entry.node.keg)).collect();
        assert_eq!(found, expected);
        assert_eq!(view.is_empty(directory.ino).unwrap(), expected.is_empty());
        let mut after = 0;
        for entry in &listed {
            let page = view.readdir(directory.ino, after, 1).unwrap();
            assert_eq!(page.as_slice(), std::slice::from_ref(entry));
            after = entry.cookie;
        }
        assert_eq!(view.readdir(directory.ino, after, 1).unwrap(), []);
        for name in [b"a", b"b", b"c", b"d"] {
            let child = view.lookup(directory.ino, name).unwrap().map(|node| node.keg);
            assert_eq!(child, model.dentry(&directory.keg, name).unwrap().map(|dentry| dentry.keg));
        }
    }

    /// The history is the model's.
    fn check_history(&self, replica: &Replica) {
        let view = replica.view();
        for node in self.confirmed.nodes() {
            let ino = view.ino_of(&node.keg).unwrap().unwrap();
            let expected = self.confirmed.versions(&node.keg);
            let versions: Vec<_> = expected.iter().map(|(version, _)| *version).collect();
            assert_eq!(view.versions(ino).unwrap(), versions);
            for (version, extents) in expected {
                assert_eq!(view.content_at(ino, version.stamp.seq).unwrap(), Some((version.size, extents)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// Pending work, other people's entries, lost answers, ignored entries and restarts in any order: the mounted view
    /// is always the log plus the pending operations, and after everything is confirmed the state is the log's.
    #[test]
    fn the_view_is_the_model_whatever_happens(steps in prop::collection::vec(step(), 1..50)) {
        let dir = tempdir();
        let mut replica = open(dir.path());
        let mut model = Model::default();
        for step in &steps {
            model.step(&mut replica, dir.path(), step);
            model.check(&replica);
        }
        model.sequence_signed();
        model.receive(&replica, usize::MAX);
        model.step(&mut replica, dir.path(), &Step::Send(usize::MAX, true));
        model.receive(&replica, usize::MAX);
        model.check(&replica);
        prop_assert_eq!(replica.pending_counts(), PendingCounts::default());
        model.check_history(&replica);
        model.step(&mut replica, dir.path(), &Step::Reopen(true));
        model.check(&replica);
        model.check_history(&replica);
    }
}
