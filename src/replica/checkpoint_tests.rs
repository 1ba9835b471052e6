//! A replica that begins with a checkpoint shows what one shows that has read the whole log, whatever comes later and
//! whatever that was made against; and no checkpoint passes that says something else.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::model_tests::{Any, operation};
use super::test_support::*;
use super::*;
use crate::format::*;
use crate::keg::{self, Context, MemStore, Node, Store};

const CAROL: DeviceId = DeviceId([0xc; 32]);

/// `(device, operations with the age of their base, begins an epoch)`.
type Entry = (u8, Vec<(Any, u8)>, bool);

/// What somebody does on a small tree, so that people meet: on one of the first kegs, or to a name that there is.
fn act(any: &Any, store: &MemStore, fresh: &mut u32) -> OpKind {
    let (what, [first, second, third], [name, new_name], [number, _]) = *any;
    let known = *fresh;
    let names: Vec<_> = store.dentries().cloned().collect();
    let chosen = names.get(usize::from(first) % names.len().max(1));
    let id = |pick: u8| keg(u32::from(pick) % known.max(1) + 1);
    let dirs: Vec<_> = store.nodes().filter(|node| node.is_directory()).map(|node| node.keg).collect();
    let [parent, new_parent] = [second, third].map(|pick| dirs[usize::from(pick) % dirs.len()]);
    let [name, new_name] = [name, new_name].map(|name| vec![b'a' + name % 3]);
    match (what % 12, chosen) {
        (0 | 1, _) if known < 8 => {
            *fresh += 1;
            let kind = [NodeKind::File, NodeKind::Directory][usize::from(what % 12)];
            create(keg(*fresh), parent, &name, kind)
        }
        (2..=4, _) => {
            let part = extent(u64::from(number % 50), 20, second);
            let size = 40 + u64::from(number % 60);
            let truncate = (number % 4 == 0).then_some(0);
            OpKind::Content { keg: id(first), truncate, holes: vec![], extents: vec![part], size, mtime_ns: 5 }
        }
        (5 | 6, Some(there)) => OpKind::Unlink { keg: there.keg, parent: there.parent, name: there.name.clone() },
        (7, Some(there)) => OpKind::Rename {
            keg: there.keg,
            parent: there.parent,
            name: there.name.clone(),
            new_parent,
            new_name: new_name.clone(),
            target: store.dentry(&new_parent, &new_name).unwrap().map(|target| target.keg),
            exchange: false,
        },
        (8, Some(there)) => OpKind::Link { keg: there.keg, parent: new_parent, name: new_name },
        // Brings back what was removed, or would like to.
        (9, _) => revive(id(first), parent, name, [NodeKind::File, NodeKind::Directory][usize::from(third % 2)]),
        _ => operation(any, fresh, known),
    }
}

fn revive(keg: KegId, parent: KegId, name: Vec<u8>, kind: NodeKind) -> OpKind {
    OpKind::Revive { keg, parent, name, kind, mode: 0o600, uid: 3, gid: 4, rdev: 0, target: vec![], btime_ns: 5 }
}

/// A log of entries by three devices, in which the epoch changes now and then; and the positions where it does.
fn log(entries: &[Entry]) -> (Vec<Confirmed>, Vec<u64>) {
    let (mut fresh, mut counters, mut log, mut starts) = (0, [0; 3], Vec::new(), vec![0]);
    let mut store = MemStore::default();
    for ((device, anys, begins), seq) in entries.iter().zip(1u64..) {
        let index = usize::from(device % 3);
        let device = [ALICE, BOB, CAROL][index];
        counters[index] += 1;
        let horizon = *starts.last().unwrap();
        let context = Context { seq, device, label: label(&device), horizon, suite: limits::SUITE };
        let mut ops = Vec::new();
        for (any, age) in anys.iter().filter(|_| !begins) {
            let kind = act(any, &store, &mut fresh);
            let op = Op { base: (seq - 1).saturating_sub(u64::from(*age)), at_ns: AT + seq as i64, kind };
            if op.check().is_ok() {
                keg::apply(&mut store, &context, &op).unwrap();
                ops.push(op);
            }
        }
        if seq == 2 {
            ops.push(op(1, OpKind::FolderName { name: "acme".to_owned() }));
        }
        if *begins {
            starts.push(seq);
        }
        let batch = (!begins).then_some(ops);
        log.push(Confirmed { horizon, ..confirmed(seq, device, counters[index], batch) });
    }
    (log, starts)
}

/// Everything that is shown: by path, attributes, extended attributes, content and id.
pub(super) type Shown = BTreeMap<Vec<u8>, (Node, Vec<Xattr>, Vec<Extent>)>;

pub(super) fn shown(replica: &Replica) -> (Shown, Option<String>, (u64, u64)) {
    fn walk(view: &View<'_>, ino: u64, path: &[u8], into: &mut Shown) {
        let node = view.node(ino).unwrap().unwrap();
        let xattrs = view.xattrs(ino).unwrap();
        let extents = view.extents(ino, 0, u64::MAX >> 1).unwrap();
        into.insert(path.to_vec(), (Node { ino: 0, ..node }, xattrs, extents));
        for entry in view.readdir(ino, 0, usize::MAX).unwrap() {
            assert_eq!(view.lookup(ino, &entry.name).unwrap().map(|node| node.ino), Some(entry.ino));
            walk(view, entry.ino, &[path, b"/", &entry.name].concat(), into);
        }
    }
    let (view, mut all) = (replica.view(), Shown::new());
    walk(&view, 1, b"", &mut all);
    (all, view.folder_name(), view.usage())
}

fn records(replica: &Replica, seq: u64) -> Vec<Record> {
    let mut records = Vec::new();
    let keep = |record| {
        records.push(record);
        Ok::<_, ReplicaError>(())
    };
    replica.export(seq, keep).unwrap();
    records
}

fn compared(replica: &Replica, seq: u64, records: &[Record]) -> Compared {
    let mut comparison = Comparison::new(replica, seq);
    records.iter().for_each(|record| comparison.record(record).unwrap());
    comparison.finish().unwrap()
}

/// A replica that knows the log to `seq` without having opened anything, and then takes in `records`.
fn newcomer(
    dir: &std::path::Path,
    log: &[Confirmed],
    seq: u64,
    records: Vec<Record>,
) -> Result<Arc<Replica>, ReplicaError> {
    let replica = open(dir);
    let passed: Vec<_> = log[..seq as usize].iter().map(|entry| Confirmed { batch: None, ..entry.clone() }).collect();
    replica.apply(&passed, None).unwrap();
    replica.set_origin(Some((1, seq))).unwrap();
    let mut import = replica.import(seq)?;
    records.into_iter().try_for_each(|record| import.record(record))?;
    import.finish()?;
    Ok(replica)
}

fn entry() -> impl Strategy<Value = Entry> {
    (any::<u8>(), prop::collection::vec((any::<Any>(), 0u8..12), 1..5), prop::bool::weighted(0.15))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 3000, ..ProptestConfig::default() })]

    /// The law that makes checkpoints possible. Later operations may be made against anything from before.
    #[test]
    fn beginning_with_a_checkpoint_shows_what_the_whole_log_shows(entries in prop::collection::vec(entry(), 4..40)) {
        let (log, starts) = log(&entries);
        let (full_dir, new_dir) = (tempdir(), tempdir());
        let full = open(full_dir.path());
        full.apply(&log, None).unwrap();
        // Any beginning of an epoch will do, exported when all of the log is known.
        let at = starts[entries.len() % starts.len()];
        if at > 0 {
            let records = records(&full, at);
            prop_assert_eq!(compared(&full, at, &records), Compared::Same(vec![]));
            let new = newcomer(new_dir.path(), &log, at, records.clone()).unwrap();
            for entry in &log[at as usize..] {
                new.apply(std::slice::from_ref(entry), None).unwrap();
            }
            prop_assert_eq!(shown(&new), shown(&full));
            // What the newcomer hands on of the same and of later moments is the same.
            prop_assert_eq!(compared(&new, at, &records), Compared::Same(vec![]));
            let head = log.len() as u64;
            prop_assert_eq!(compared(&new, head, &self::records(&full, head)), Compared::Same(vec![]));
            // Nothing of the time before is to be seen.
            for node in shown(&new).0.into_values().map(|(node, ..)| node) {
                let view = new.view();
                let ino = view.ino_of(&node.keg).unwrap().unwrap();
                prop_assert!(view.versions(ino).unwrap().iter().filter(|version| version.stamp.seq <= at).count() <= 1);
                prop_assert_eq!(view.content_at(ino, at - 1).unwrap(), None);
            }
            new.close().unwrap();
            let again = open(new_dir.path());
            prop_assert_eq!(shown(&again), shown(&full));
            prop_assert_eq!(again.origin().unwrap(), Some(Origin { epoch: 1, seq: at, complete: true }));
        }
    }
}

/// A folder with something of everything, and its log.
fn sample() -> (tempfile::TempDir, Arc<Replica>, Vec<Confirmed>) {
    let dir = tempdir();
    let replica = open(dir.path());
    let directory = create(keg(9), KegId::ROOT, b"d", NodeKind::Directory);
    let link = OpKind::Link { keg: keg(1), parent: keg(9), name: b"l".to_vec() };
    let xattr = OpKind::SetXattr { keg: keg(1), name: b"user.x".to_vec(), value: b"v".to_vec() };
    let log = vec![
        confirmed(1, ALICE, 1, Some(vec![op(0, OpKind::FolderName { name: "acme".to_owned() }), op(0, directory)])),
        confirmed(2, ALICE, 2, Some(vec![op(1, file(keg(1), "f")), op(1, content(keg(1), vec![extent(0, 9, 1)], 5))])),
        confirmed(3, ALICE, 3, Some(vec![op(2, link), op(2, xattr), op(2, file(keg(2), "gone"))])),
        confirmed(4, BOB, 1, Some(vec![op(2, content(keg(1), vec![extent(0, 7, 2)], 6))])),
        confirmed(
            5,
            ALICE,
            4,
            Some(vec![op(3, content(keg(1), vec![extent(0, 5, 3)], 7)), op(3, unlink(keg(2), "gone"))]),
        ),
    ];
    replica.apply(&log, None).unwrap();
    (dir, replica, log)
}

#[test]
fn every_change_of_a_checkpoint_is_found() {
    let (_dir, replica, _) = sample();
    let good = records(&replica, 5);
    assert_eq!(compared(&replica, 5, &good), Compared::Same(vec![]));
    let kinds: std::collections::BTreeSet<u8> = good.iter().map(|record| encode(record)[1]).collect();
    assert_eq!(kinds.len(), 9, "the sample has every kind of record");
    let mut tried = 0;
    for (index, record) in good.iter().enumerate() {
        let mut without = good.clone();
        without.remove(index);
        let mut twice = good.clone();
        twice.push(record.clone());
        for bad in [without, twice] {
            if !matches!(record, Record::Devices { .. }) {
                assert!(matches!(compared(&replica, 5, &bad), Compared::Different(_)), "{record:?}");
            }
        }
        // Every byte, where the result is a record at all.
        let bytes = encode(record);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            let Ok(changed) = Record::decode(&flipped) else { continue };
            let mut bad = good.clone();
            bad[index] = changed.clone();
            tried += 1;
            match compared(&replica, 5, &bad) {
                Compared::Different(_) => {}
                // Another place of the bytes: they are compared.
                Compared::Same(pairs) => assert!(
                    matches!(changed, Record::Extents { .. }) && !pairs.is_empty(),
                    "{changed:?} passes for {record:?}"
                ),
            }
        }
    }
    assert!(tried > 400, "{tried}");
}

#[test]
fn what_is_no_tree_is_not_taken_in_and_leaves_nothing() {
    let (_dir, replica, log) = sample();
    let good = records(&replica, 5);
    let node = |number: u32, nlink: u32| Record::Node {
        keg: keg(number),
        kind: NodeKind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        nlink,
        size: 0,
        atime_ns: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        btime_ns: 0,
        target: vec![],
        content: WrittenStamp { seq: 1, device: 0 },
    };
    let name = |parent: KegId, name: &str, child: KegId, seq: u64| Record::Name {
        parent,
        name: name.as_bytes().to_vec(),
        keg: child,
        wanted: None,
        placed: WrittenStamp { seq, device: 0 },
    };
    let lost = |of: u32, to: u32, seq: u64| Record::Redirect { device: BOB, keg: keg(of), to: keg(to), seq };
    let bad: &[(&str, Vec<Record>)] = &[
        ("a cycle", vec![node(20, 3), node(21, 3), name(keg(20), "x", keg(21), 1), name(keg(21), "y", keg(20), 1)]),
        ("no name", vec![node(20, 2)]),
        ("a wrong count", vec![node(20, 5), name(KegId::ROOT, "x", keg(20), 1)]),
        ("a second name of a directory", vec![name(KegId::ROOT, "x", keg(9), 1)]),
        ("a name of the root", vec![name(keg(9), "x", KegId::ROOT, 1)]),
        ("a name in a file", vec![name(keg(1), "x", keg(1), 1)]),
        ("a name twice", vec![name(KegId::ROOT, "f", keg(1), 1)]),
        ("a name from later", vec![name(KegId::ROOT, "x", keg(1), 6)]),
        ("a name of nothing", vec![name(KegId::ROOT, "x", keg(77), 1)]),
        ("a name of what is gone", vec![name(KegId::ROOT, "x", keg(2), 1)]),
        ("the root gone", vec![Record::Removed { kegs: vec![KegId::ROOT] }]),
        ("the same id twice", vec![Record::Removed { kegs: vec![keg(1)] }]),
        ("content beyond the end", vec![Record::Extents { keg: keg(1), extents: vec![extent(5, 9, 1)] }]),
        ("content over content", vec![Record::Extents { keg: keg(1), extents: vec![extent(1, 1, 1)] }]),
        ("a version that lost against itself", vec![lost(1, 1, 3)]),
        ("versions that lost in a circle", vec![lost(1, 2, 3), lost(2, 1, 4)]),
        ("a version that lost before it was made", vec![lost(1, 2, 4), lost(2, 9, 4)]),
        ("content of a directory", vec![Record::Extents { keg: keg(9), extents: vec![extent(0, 1, 1)] }]),
    ];
    for (what, more) in bad {
        let dir = tempdir();
        let all = [good.clone(), more.clone()].concat();
        let error = newcomer(dir.path(), &log, 5, all).err();
        assert!(matches!(error, Some(ReplicaError::BadCheckpoint(_))), "{what}: {error:?}");
        // The right one can follow.
        let new = open(dir.path());
        assert_eq!((names(&new), new.view().folder_name()), (vec![], None), "{what}");
        let mut import = new.import(5).unwrap();
        good.iter().for_each(|record| import.record(record.clone()).unwrap());
        import.finish().unwrap();
        assert_eq!(shown(&new), shown(&replica));
        assert!(new.import(5).is_err(), "only once");
    }
}

/// A write to what was removed before the epoch began brings it back nowhere: not every replica knows what it was.
#[test]
fn what_was_removed_before_the_epoch_stays_away_whoever_writes_to_it() {
    let log = vec![
        confirmed(1, ALICE, 1, Some(vec![op(0, file(keg(1), "f")), op(0, content(keg(1), vec![extent(0, 9, 1)], 5))])),
        confirmed(2, ALICE, 2, Some(vec![op(1, unlink(keg(1), "f"))])),
        confirmed(3, ALICE, 3, None),
        Confirmed {
            horizon: 3,
            ..confirmed(4, CAROL, 1, Some(vec![op(1, content(keg(1), vec![extent(0, 9, 2)], 6))]))
        },
    ];
    let (full_dir, new_dir) = (tempdir(), tempdir());
    let full = open(full_dir.path());
    full.apply(&log, None).unwrap();
    let new = newcomer(new_dir.path(), &log, 3, records(&full, 3)).unwrap();
    new.apply(&log[3..], None).unwrap();
    assert_eq!((names(&full), names(&new)), (vec![], vec![]));
    assert_eq!(shown(&new), shown(&full));
}

/// A file that changed before an epoch began, and somebody's partial change, made before and sent after, by a client that
/// does not carry what it means.
#[test]
fn a_sibling_takes_nothing_from_before_the_epoch_whoever_makes_it() {
    let part = |at, number, mtime_ns| OpKind::Content {
        keg: keg(1),
        truncate: None,
        holes: vec![],
        extents: vec![extent(at, 10, number)],
        size: 100,
        mtime_ns,
    };
    let after = |entry| Confirmed { horizon: 3, ..entry };
    let log = vec![
        confirmed(
            1,
            ALICE,
            1,
            Some(vec![op(0, file(keg(1), "f")), op(0, content(keg(1), vec![extent(0, 100, 1)], 5))]),
        ),
        confirmed(2, BOB, 1, Some(vec![op(1, content(keg(1), vec![extent(0, 100, 2)], 6))])),
        confirmed(3, ALICE, 2, None),
        after(confirmed(4, CAROL, 1, Some(vec![op(1, part(20, 3, 7))]))),
    ];
    let (full_dir, new_dir) = (tempdir(), tempdir());
    let full = open(full_dir.path());
    full.apply(&log, None).unwrap();
    let new = newcomer(new_dir.path(), &log, 3, records(&full, 3)).unwrap();
    new.apply(&log[3..], None).unwrap();
    for replica in [&full, &new] {
        let view = replica.view();
        let entries = view.readdir(1, 0, usize::MAX).unwrap();
        let sibling = entries.iter().find(|entry| entry.name.windows(8).any(|part| part == b"conflict"));
        let extents = view.extents(sibling.expect("a conflict").ino, 0, 1000).unwrap();
        let blobs: Vec<_> = extents.iter().map(|extent| (extent.offset, extent.blob)).collect();
        let (at_the_horizon, own) = (extent(0, 1, 2).blob, extent(0, 1, 3).blob);
        assert_eq!(blobs, [(0, at_the_horizon), (20, own), (30, at_the_horizon)], "what the file was at the horizon");
    }
    assert_eq!(shown(&new), shown(&full));
}

/// What was found by the law above: a state from before a file was removed and revived, handed over after that.
#[test]
fn a_state_from_before_a_revival_has_the_changes_that_this_has_forgotten() {
    let (full_dir, new_dir) = (tempdir(), tempdir());
    let full = open(full_dir.path());
    let unseen = op(0, content(keg(1), vec![extent(0, 9, 2)], 2));
    let log = vec![
        confirmed(1, ALICE, 1, Some(vec![op(0, file(keg(1), "f")), op(0, content(keg(1), vec![extent(0, 9, 1)], 1))])),
        confirmed(2, ALICE, 2, None),
        Confirmed { horizon: 2, ..confirmed(3, BOB, 1, Some(vec![unseen])) },
        Confirmed { horizon: 2, ..confirmed(4, ALICE, 3, Some(vec![op(3, unlink(keg(1), "f"))])) },
        confirmed(5, ALICE, 4, None),
        Confirmed {
            horizon: 5,
            ..confirmed(6, ALICE, 5, Some(vec![op(5, revive(keg(1), KegId::ROOT, b"f".to_vec(), NodeKind::File))]))
        },
    ];
    full.apply(&log, None).unwrap();
    let records = records(&full, 2);
    assert_eq!(compared(&full, 2, &records), Compared::Same(vec![]));
    let new = newcomer(new_dir.path(), &log, 2, records).unwrap();
    new.apply(&log[2..], None).unwrap();
    assert_eq!(shown(&new), shown(&full));
    assert_eq!(names(&new).len(), 2, "the file, and what bob made of it without having seen alice's");
}
