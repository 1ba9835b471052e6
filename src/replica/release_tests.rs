//! Releasing blobs: what is shown is never released, everybody knows the same, and in the end nothing else is kept.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::model_tests::{Any, operations};
use super::test_support::*;
use super::thin_tests::{NONE, thin, thinning};
use super::*;
use crate::format::*;

fn blob(number: u8) -> BlobRef {
    BlobRef { id: extent(0, 1, number).blob, size_bytes: 100 + u64::from(number) }
}

fn releasable(replica: &Replica) -> BTreeSet<BlobId> {
    replica.releasable(usize::MAX, &HashSet::new()).unwrap().into_iter().map(|blob| blob.id).collect()
}

/// An entry of the operations that adds what they refer to, as far as `replica` does not know the server to keep it.
fn adding(replica: &Replica, seq: u64, device: DeviceId, ops: Vec<Op>) -> Confirmed {
    let named: BTreeSet<BlobId> = ops.iter().flat_map(|op| op.kind.blobs()).collect();
    let kept = kept(replica);
    let mut entry = confirmed(seq, device, seq, Some(ops));
    let added = named.into_iter().filter(|id| !kept.contains(id));
    entry.envelope.adds = added.map(|id| BlobRef { id, size_bytes: 7 }).collect();
    entry
}

fn releasing(seq: u64, blobs: impl IntoIterator<Item = BlobId>) -> Confirmed {
    let mut entry = thinning(seq, thin(0, 0, vec![], NONE));
    entry.envelope.releases = blobs.into_iter().map(|id| BlobRef { id, size_bytes: 7 }).collect();
    entry
}

fn ids(replica: &Replica, sql: &str) -> BTreeSet<BlobId> {
    let read = |db: &super::db::Db| {
        db.run(|conn| {
            let mut statement = conn.prepare(sql)?;
            let rows = statement.query_map([], |row| Ok(BlobId(row.get(0)?)))?;
            rows.collect()
        })
    };
    replica.shared().pool.with(read).unwrap()
}

/// What the server keeps, as this replica knows.
fn kept(replica: &Replica) -> BTreeSet<BlobId> {
    ids(replica, "SELECT id FROM blob WHERE released IS NULL")
}

/// What today's files and the moments that are left consist of.
fn shown(replica: &Replica) -> BTreeSet<BlobId> {
    let mut blobs = BTreeSet::new();
    for seq in 1..=replica.mark().seq {
        let Ok(past) = replica.at(seq) else { continue };
        for ino in 1..=replica.shared().numbers.load(std::sync::atomic::Ordering::Relaxed) {
            if past.node(ino).unwrap().is_some_and(|node| node.nlink > 0) {
                blobs.extend(past.extents(ino, 0, u64::MAX >> 1).unwrap().into_iter().map(|extent| extent.blob));
            }
        }
    }
    blobs
}

#[derive(Clone, Debug)]
enum Event {
    Entry(Vec<(Any, u8)>),
    Thin(prop::sample::Index, prop::sample::Index, Vec<bool>),
    /// The first replica's client releases what it can, or some of it.
    Release(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => prop::collection::vec((any::<Any>(), 0u8..4), 1..4).prop_map(Event::Entry),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::collection::vec(prop::bool::weighted(0.3), 20))
            .prop_map(|(from, upto, keep)| Event::Thin(from, upto, keep)),
        1 => any::<bool>().prop_map(Event::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_shown_is_never_released_and_in_the_end_nothing_else_is_kept(
        events in prop::collection::vec(event(), 3..24),
        reopen in any::<prop::sample::Index>(),
    ) {
        let dirs = [tempdir(), tempdir()];
        let mut replicas = [open(dirs[0].path()), open(dirs[1].path())];
        // Somebody has not sent for a long time: rows stay there that are gone elsewhere.
        replicas[1].submit_based(op(0, mtime(KegId::ROOT, 5))).unwrap();
        let (mut fresh, mut thinned) = (0, 0);
        for (seq, event) in (1..).zip(&events) {
            let entry = match event {
                Event::Entry(anys) => {
                    let ops = operations(seq, anys, &mut fresh);
                    Confirmed { horizon: thinned, ..adding(&replicas[seq as usize % 2], seq, BOB, ops) }
                }
                Event::Thin(from, upto, keep) => {
                    let [from, upto] = [from, upto].map(|index| index.index(seq as usize) as u64);
                    let (from, upto) = (from.min(upto), from.max(upto));
                    let keep: Vec<u64> = (from..upto).filter(|moment| keep[*moment as usize % 20]).collect();
                    if from < upto {
                        thinned = thinned.max(upto);
                    }
                    thinning(seq, thin(from, upto, keep, NONE))
                }
                Event::Release(all) => {
                    let found = releasable(&replicas[0]);
                    prop_assert!(found.is_disjoint(&shown(&replicas[0])), "{:?}", found);
                    let some = if *all { found.len() } else { 1 };
                    releasing(seq, found.into_iter().take(some))
                }
            };
            for replica in &replicas {
                replica.apply(std::slice::from_ref(&entry), None).unwrap();
                prop_assert!(shown(replica).is_subset(&kept(replica)), "what is shown is kept");
            }
            if reopen.index(events.len()) == seq as usize {
                for (replica, dir) in replicas.iter_mut().zip(&dirs) {
                    replica.close().unwrap();
                    *replica = open(dir.path());
                }
            }
        }
        // The late one sends; then all is thinned out but the newest, and what is left over is released.
        let last = events.len() as u64;
        confirm_all(&replicas[1], last + 1, 1);
        replicas[0].apply(&[confirmed(last + 1, ALICE, 1, Some(vec![op(0, mtime(KegId::ROOT, 5))]))], None).unwrap();
        let end = [thinning(last + 2, thin(1, last + 1, vec![], NONE)), confirmed(last + 3, BOB, last + 3, Some(vec![]))];
        for replica in &replicas {
            replica.apply(&end, None).unwrap();
        }
        let found = releasable(&replicas[0]);
        prop_assert_eq!(&found, &releasable(&replicas[1]));
        for replica in &replicas {
            replica.apply(&[releasing(last + 4, found.clone())], None).unwrap();
            prop_assert_eq!(kept(replica), shown(replica));
            prop_assert!(releasable(replica).is_empty());
            prop_assert!(ids(replica, "SELECT id FROM loose").is_empty());
            let told = replica.view().warnings(0, 9).unwrap();
            let in_use = told.iter().any(|(_, line)| matches!(line.what, Happening::ReleasedInUse { .. }));
            prop_assert!(!in_use, "{:?}", told);
        }
        prop_assert_eq!(kept(&replicas[0]), kept(&replicas[1]));
    }
}

/// A file whose content was replaced: blob 1 by blob 2.
fn replaced(replica: &Replica) {
    let ops = [
        vec![op(0, file(keg(1), "f")), op(0, content(keg(1), vec![extent(0, 9, 1)], 1))],
        vec![op(1, content(keg(1), vec![extent(0, 9, 2)], 2))],
    ];
    for (seq, ops) in (1..).zip(ops) {
        let entry = adding(replica, seq, BOB, ops);
        replica.apply(&[entry], None).unwrap();
    }
}

#[test]
fn a_blob_is_released_when_its_last_moment_is_gone_and_not_while_own_work_refers_to_it() {
    let dir = tempdir();
    let replica = open(dir.path());
    replaced(&replica);
    assert!(releasable(&replica).is_empty(), "version 1 is left");
    replica.apply(&[thinning(3, thin(1, 2, vec![], NONE))], None).unwrap();
    assert_eq!(replica.releasable(9, &HashSet::new()).unwrap(), [BlobRef { id: blob(1).id, size_bytes: 7 }]);
    assert!(replica.releasable(0, &HashSet::new()).unwrap().is_empty());
    // A clone of what was there, made here and not sent.
    replica.submit_based(op(3, file(keg(2), "copy"))).unwrap();
    replica.submit_based(op(3, content(keg(2), vec![extent(0, 9, 1)], 3))).unwrap();
    assert!(releasable(&replica).is_empty());
}

#[test]
fn who_refers_to_a_blob_again_is_told_that_it_was_released_until_somebody_has_added_it() {
    let dir = tempdir();
    let replica = open(dir.path());
    replaced(&replica);
    replica.apply(&[thinning(3, thin(1, 2, vec![], NONE)), releasing(4, [blob(1).id])], None).unwrap();
    assert_eq!(replica.released(&[blob(1).id, blob(2).id, blob(3).id]).unwrap(), [blob(1).id]);
    let again = adding(&replica, 5, BOB, vec![op(4, content(keg(1), vec![extent(0, 9, 1)], 3))]);
    assert_eq!(again.envelope.adds.len(), 1);
    replica.apply(&[again], None).unwrap();
    assert!(replica.released(&[blob(1).id]).unwrap().is_empty());
    // One that is not known here at all.
    replica.apply(&[releasing(6, [blob(9).id])], None).unwrap();
    assert_eq!(replica.released(&[blob(9).id]).unwrap(), [blob(9).id]);
}

#[test]
fn what_an_entry_leaves_nothing_of_is_released_but_not_what_could_not_be_read() {
    let dir = tempdir();
    let replica = open(dir.path());
    // Written twice before it was sent: the first content is nowhere.
    let twice = vec![
        op(0, file(keg(1), "f")),
        op(0, content(keg(1), vec![extent(0, 9, 1)], 1)),
        op(0, content(keg(1), vec![extent(0, 9, 2)], 2)),
    ];
    let mut entry = adding(&replica, 1, BOB, twice);
    assert_eq!(entry.envelope.adds.len(), 2);
    entry.envelope.adds.push(blob(3));
    let mut ignored = confirmed(2, BOB, 2, None);
    ignored.added = Added::Ignored;
    ignored.envelope.adds = vec![blob(4)];
    replica.apply(&[entry, ignored], None).unwrap();
    assert_eq!(releasable(&replica), BTreeSet::from([blob(1).id, blob(3).id]), "and not what does not count");
    let mut sealed = confirmed(3, BOB, 3, None);
    sealed.added = Added::Unread;
    sealed.envelope.adds = vec![blob(5)];
    replica.apply(&[sealed], None).unwrap();
    assert!(releasable(&replica).is_empty(), "it may refer to any of them");
}

#[test]
fn the_state_of_an_epochs_beginning_is_kept_while_somebody_may_begin_with_it() {
    let dir = tempdir();
    let replica = open(dir.path());
    let mut entry = confirmed(1, BOB, 1, None);
    entry.envelope.kind = EntryKind::Checkpoint;
    entry.envelope.body = encode(&Checkpoint { epoch: 3, state: None });
    entry.envelope.adds = vec![blob(1)];
    replica.apply(&[entry], None).unwrap();
    assert!(replica.releasable(9, &HashSet::from([1, 2])).unwrap().is_empty());
    assert_eq!(replica.releasable(9, &HashSet::from([3])).unwrap(), [blob(1)]);
    // Somebody says that it is of the state of an epoch that nobody begins with.
    let mut entry = confirmed(2, BOB, 2, None);
    entry.envelope.kind = EntryKind::Checkpoint;
    entry.envelope.body = encode(&Checkpoint { epoch: 1, state: None });
    entry.envelope.adds = vec![blob(1)];
    replica.apply(&[entry], None).unwrap();
    assert!(replica.releasable(9, &HashSet::from([1])).unwrap().is_empty());
    assert_eq!(replica.releasable(9, &HashSet::from([1, 3])).unwrap(), [blob(1)]);
}

#[test]
fn who_has_not_the_whole_past_releases_nothing() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.set_origin(Some((1, 5))).unwrap();
    let mut entry = confirmed(1, BOB, 1, None);
    entry.envelope.adds = vec![blob(1)];
    replica.apply(&[entry], None).unwrap();
    assert!(releasable(&replica).is_empty());
}

#[test]
fn a_release_of_what_is_shown_is_told_of_and_remembered_until_it_is_added_again() {
    let dir = tempdir();
    let replica = open(dir.path());
    replaced(&replica);
    replica.apply(&[releasing(3, [blob(1).id, blob(2).id, blob(3).id])], None).unwrap();
    let told = replica.view().warnings(0, 9).unwrap();
    assert!(told.iter().any(|(_, line)| line.what == Happening::ReleasedInUse { blobs: 2 }), "{told:?}");
    assert_eq!(ids(&replica, "SELECT id FROM missed"), BTreeSet::from([blob(1).id, blob(2).id]));
    let mut entry = confirmed(4, BOB, 4, Some(vec![]));
    entry.envelope.adds = vec![blob(2)];
    replica.apply(&[entry], None).unwrap();
    assert_eq!(ids(&replica, "SELECT id FROM missed"), BTreeSet::from([blob(1).id]));
}

#[test]
fn what_nobody_has_added_is_as_released_so_that_everybody_who_shows_it_adds_it() {
    let dir = tempdir();
    let replica = open(dir.path());
    let unadded = vec![op(0, file(keg(1), "f")), op(0, content(keg(1), vec![extent(0, 9, 1)], 1))];
    replica.apply(&[confirmed(1, BOB, 1, Some(unadded))], None).unwrap();
    assert_eq!(replica.released(&[blob(1).id]).unwrap(), [blob(1).id], "who clones it adds it");
    let missed: Vec<_> = replica.missed(9).unwrap().into_iter().map(|blob| blob.id).collect();
    assert_eq!(missed, [blob(1).id]);
    let mut entry = confirmed(2, BOB, 2, Some(vec![]));
    entry.envelope.adds = vec![blob(1)];
    replica.apply(&[entry], None).unwrap();
    assert!(replica.released(&[blob(1).id]).unwrap().is_empty() && !replica.has_missed());
    assert_eq!(replica.kept_bytes().unwrap(), Some(blob(1).size_bytes));
}

#[test]
fn a_state_that_somebody_begins_with_is_in_use_and_what_files_consist_of_is_none() {
    let dir = tempdir();
    let replica = open(dir.path());
    let entry =
        adding(&replica, 1, BOB, vec![op(0, file(keg(1), "f")), op(0, content(keg(1), vec![extent(0, 9, 1)], 1))]);
    let mut state = confirmed(2, BOB, 2, None);
    state.envelope.kind = EntryKind::Checkpoint;
    state.envelope.body = encode(&Checkpoint { epoch: 3, state: None });
    state.envelope.adds = vec![blob(1), blob(2)];
    replica.apply(&[entry, state], None).unwrap();
    assert_eq!(ids(&replica, "SELECT id FROM handed_over WHERE epoch = 3 AND seq = 2"), BTreeSet::from([blob(2).id]));
    let lost = |seq| replica.lost_state(seq).unwrap();
    let mut release = releasing(3, [blob(2).id]);
    release.thin.as_mut().unwrap().lasting_epochs = vec![3];
    replica.apply(&[release], None).unwrap();
    let told = replica.view().warnings(0, 9).unwrap();
    assert!(told.iter().any(|(_, line)| line.what == Happening::ReleasedInUse { blobs: 1 }), "{told:?}");
    assert!(replica.has_missed() && !lost(2), "it may be here");
    replica.give_up(&[blob(2).id]).unwrap();
    assert!(!replica.has_missed() && lost(2));
    assert!(!lost(3), "one that was handed over since has its own");
    replica.note_state(3, 3, &HashSet::from([blob(2).id])).unwrap();
    assert!(lost(3), "unless it refers to the same");
    // With an epoch that nobody begins with.
    let mut state = confirmed(4, BOB, 4, None);
    state.envelope.kind = EntryKind::Checkpoint;
    state.envelope.body = encode(&Checkpoint { epoch: 4, state: None });
    state.envelope.adds = vec![blob(4)];
    replica.apply(&[state, releasing(5, [blob(4).id])], None).unwrap();
    assert!(!replica.has_missed());
}

/// A replica from before blobs were noted: what it does not know it does not release, and it hears of others' releases.
#[test]
fn a_replica_of_the_layout_before_is_taken_over_and_releases_nothing_from_before() {
    let dir = tempdir();
    let replica = open(dir.path());
    replaced(&replica);
    replica.close().unwrap();
    let db = super::db::open(&dir.path().join("state.db"), &key(), 1024, false).unwrap();
    db.run(|conn| {
        conn.execute_batch(
            "DROP TABLE blob; DROP TABLE handed_over; DROP TABLE loose; DROP TABLE missed; DROP TABLE content_past; DROP TABLE held; DROP INDEX extent_blob; DROP INDEX extent_past_blob;
             PRAGMA user_version=6;",
        )
    })
    .unwrap();
    drop(db);
    let replica = open(dir.path());
    replica.apply(&[thinning(3, thin(1, 2, vec![], NONE))], None).unwrap();
    assert!(releasable(&replica).is_empty());
    let mut twice = confirmed(4, BOB, 4, Some(vec![op(3, content(keg(1), vec![extent(0, 9, 4)], 3))]));
    twice.envelope.adds = vec![blob(4), blob(5)];
    replica.apply(&[twice], None).unwrap();
    assert_eq!(releasable(&replica), BTreeSet::from([blob(5).id]));
    replica.apply(&[releasing(5, [blob(1).id])], None).unwrap();
    assert_eq!(replica.released(&[blob(1).id]).unwrap(), [blob(1).id]);
}

#[test]
fn releasing_costs_what_changed_and_not_what_there_is() {
    let steps = |files: u32| {
        let dir = tempdir();
        let replica = open(dir.path());
        let make = |number: u32| {
            let id = keg(number + 10);
            [op(0, file(id, &format!("n{number}"))), op(0, content(id, vec![extent(0, 9, (number % 200) as u8)], 1))]
        };
        let mut first = confirmed(1, BOB, 1, Some((0..files).flat_map(make).collect()));
        first.envelope.adds = (0..files.min(200)).map(|number| blob(number as u8)).collect();
        replica.apply(&[first], None).unwrap();
        let again = |number: u32| op(1, content(keg(number + 10), vec![extent(0, 9, (number % 200) as u8)], 2));
        replica.apply(&[confirmed(2, BOB, 2, Some((0..files).map(again).collect()))], None).unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let counted = |on: bool| {
            let counting = Arc::clone(&count);
            let tick = move || {
                counting.fetch_add(1, Ordering::Relaxed);
                false
            };
            replica.shared().writer.lock().conn.progress_handler(1, on.then_some(tick)).unwrap();
        };
        counted(true);
        for seq in 3..5 {
            let change = op(seq - 1, content(keg(10), vec![extent(0, 9, 250 + seq as u8)], 1));
            let mut entry = confirmed(seq, BOB, seq, Some(vec![change]));
            entry.envelope.adds = vec![blob(250 + seq as u8), blob(249)];
            replica.apply(&[entry], None).unwrap();
        }
        replica.apply(&[thinning(5, thin(1, 4, vec![1, 2], NONE))], None).unwrap();
        assert!(ids(&replica, "SELECT id FROM loose").len() <= 2, "what is looked at");
        let found = releasable(&replica);
        assert!(found.contains(&blob(253).id), "{found:?}");
        replica.apply(&[releasing(6, found)], None).unwrap();
        counted(false);
        count.load(Ordering::Relaxed)
    };
    let (few, many) = (steps(20), steps(2000));
    assert!(
        many < few * 3 / 2,
        "{few} steps of the database in a small folder, {many} in one a hundred times as large"
    );
}

/// They are asked with every entry: by what is loose or missed, and never by all that there is.
#[test]
fn what_is_loose_or_missed_is_found_without_going_through_all_blobs() {
    let dir = tempdir();
    let replica = open(dir.path());
    let plan = |sql: &str| {
        let sql = format!("EXPLAIN QUERY PLAN {sql}");
        let read = replica.reading(|conn| {
            let mut plan = conn.prepare(&sql)?;
            let steps = plan.query_map([], |row| row.get::<_, String>(3))?.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(steps)
        });
        read.unwrap()
    };
    for (sql, first) in [(release::MISSED, "SCAN m"), (release::RELEASABLE, "SCAN l")] {
        let plan = plan(sql);
        let scans: Vec<_> = plan.iter().filter(|step| step.starts_with("SCAN")).collect();
        assert_eq!(scans, [first], "{plan:?}");
    }
}
