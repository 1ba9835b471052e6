//! Thinning out the past: what is kept is what it was, today is today, and every replica comes to the same.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::model_tests::{Any, operations};
use super::test_support::*;
use super::*;
use crate::format::*;
use crate::keg::{self, Context, MemStore, Node, Store};

const CAROL: DeviceId = DeviceId([0xc; 32]);
const DAY_MS: i64 = 86_400_000;

/// Lets everything go that is not kept by name.
pub(super) const NONE: RetentionRule = RetentionRule { keep_all_s: 0, hourly_s: 0, daily_s: 0, weekly_s: 0 };

pub(super) fn thin(from: u64, upto: u64, keep: Vec<u64>, rule: RetentionRule) -> Thin {
    Thin {
        body: Thinning { from, upto, keep },
        rule,
        now_ms: AT / 1_000_000 + DAY_MS,
        lasting: vec![],
        lasting_epochs: vec![],
    }
}

pub(super) fn thinning(seq: u64, thin: Thin) -> Confirmed {
    Confirmed { thin: Some(thin), ..confirmed(seq, CAROL, seq, None) }
}

/// What has a name is what the model says.
fn check_visible(past: &Past<'_>, model: &MemStore) {
    for node in model.nodes().filter(|node| node.nlink > 0) {
        let there = past.node_of(&node.keg).unwrap().unwrap_or_else(|| panic!("{node:?} is missing"));
        assert_eq!(Node { ino: 0, ..there.clone() }, Node { ino: 0, ..node.clone() });
        assert_eq!(past.extents(there.ino, 0, u64::MAX).unwrap(), model.extents(&node.keg));
        assert_eq!(past.xattrs(there.ino).unwrap(), model.xattrs(&node.keg));
        for dentry in model.dentries_of(&node.keg).unwrap() {
            let parent = past.node_of(&dentry.parent).unwrap().unwrap().ino;
            assert_eq!(past.lookup(parent, &dentry.name).unwrap().map(|node| node.keg), Some(node.keg));
        }
        if node.is_directory() {
            let expected = model.dentries().filter(|dentry| dentry.parent == node.keg);
            let expected: BTreeSet<_> = expected.map(|dentry| (dentry.name.clone(), dentry.keg)).collect();
            let listed = past.readdir(there.ino, 0, usize::MAX).unwrap();
            let listed: BTreeSet<_> = listed.into_iter().map(|entry| (entry.name, entry.node.keg)).collect();
            assert_eq!(listed, expected);
        }
    }
}

/// All rows of the past, without local numbers.
fn past_rows(replica: &Replica) -> Vec<BTreeSet<(i64, i64, Vec<u8>)>> {
    let queries = [
        "SELECT from_seq, to_seq, keg || mode FROM node_past",
        "SELECT from_seq, to_seq, name FROM dentry_past",
        "SELECT from_seq, to_seq, blob || offset || len FROM extent_past",
        "SELECT from_seq, to_seq, name || value FROM xattr_past",
        "SELECT seq, 0, blob || offset || len FROM extent",
        "SELECT seq, 0, name || value FROM xattr",
    ];
    let read = |sql: &str| {
        replica.shared().pool.with(|db| {
            db.run(|conn| {
                let mut statement = conn.prepare(sql)?;
                let rows = statement
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get_ref(2)?.as_bytes()?.to_vec())))?;
                rows.collect()
            })
        })
    };
    queries.into_iter().map(|sql| read(sql).unwrap()).collect()
}

#[derive(Clone, Debug)]
enum Event {
    Entry(Vec<(Any, u8)>),
    /// From and up to which part of the log, and whom it keeps.
    Thin(prop::sample::Index, prop::sample::Index, Vec<bool>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop::collection::vec((any::<Any>(), 0u8..4), 1..4).prop_map(Event::Entry),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::collection::vec(prop::bool::weighted(0.3), 20))
            .prop_map(|(from, upto, keep)| Event::Thin(from, upto, keep)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn thinning_leaves_what_is_kept_as_it_was_and_is_the_same_whenever_it_is_done(
        events in prop::collection::vec(event(), 3..24),
        reopen in any::<prop::sample::Index>(),
    ) {
        let dirs = [tempdir(), tempdir()];
        let mut replicas = [open(dirs[0].path()), open(dirs[1].path())];
        // Somebody has not sent for a long time: nothing may be removed there yet.
        replicas[1].submit_based(op(0, mtime(KegId::ROOT, 5))).unwrap();
        let (mut model, mut states, mut fresh) = (MemStore::default(), vec![MemStore::default()], 0);
        let (mut there, mut thinned): (BTreeSet<u64>, u64) = (BTreeSet::from([0]), 0);
        for (seq, event) in (1..).zip(&events) {
            let entry = match event {
                Event::Entry(anys) => {
                    let ops = operations(seq, anys, &mut fresh);
                    let device = if seq % 2 == 0 { CAROL } else { BOB };
                    let context = Context { seq, device, label: label(&device), horizon: thinned, suite: limits::SUITE };
                    for op in &ops {
                        keg::apply(&mut model, &context, op).unwrap();
                    }
                    Confirmed { horizon: thinned, ..confirmed(seq, device, seq, Some(ops)) }
                }
                Event::Thin(from, upto, keep) => {
                    let [from, upto] = [from, upto].map(|index| index.index(seq as usize) as u64);
                    let (from, upto) = (from.min(upto), from.max(upto));
                    let keep: Vec<u64> = (from..upto).filter(|moment| keep[*moment as usize % 20]).collect();
                    there.retain(|moment| *moment == 0 || !(from..upto).contains(moment) || keep.contains(moment));
                    if from < upto {
                        thinned = thinned.max(upto);
                    }
                    thinning(seq, thin(from, upto, keep, NONE))
                }
            };
            for replica in &replicas {
                replica.apply(std::slice::from_ref(&entry), None).unwrap();
            }
            there.insert(seq);
            states.push(model.clone());
            if reopen.index(events.len()) == seq as usize {
                for (replica, dir) in replicas.iter_mut().zip(&dirs) {
                    replica.close().unwrap();
                    *replica = open(dir.path());
                }
            }
        }
        let last = events.len() as u64;
        for replica in &replicas {
            for (seq, model) in (0..).zip(&states) {
                match replica.at(seq) {
                    Ok(past) => {
                        prop_assert!(there.contains(&seq), "{} should be gone", seq);
                        check_visible(&past, model);
                    }
                    Err(ReplicaError::ThinnedOut { .. }) => prop_assert!(!there.contains(&seq), "{} is gone", seq),
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
        }
        // The late one sends, which the other sees too; then both have the same, and nothing that no moment shows.
        confirm_all(&replicas[1], last + 1, 1);
        replicas[0].apply(&[confirmed(last + 1, ALICE, 1, Some(vec![op(0, mtime(KegId::ROOT, 5))]))], None).unwrap();
        for replica in &replicas {
            replica.apply(&[confirmed(last + 2, BOB, last + 2, Some(vec![]))], None).unwrap();
        }
        let [rows, others] = [&replicas[0], &replicas[1]].map(|replica| past_rows(replica));
        prop_assert_eq!(&rows, &others);
        for (from, to, _) in rows.iter().take(4).flatten() {
            let shown = there.iter().chain(&[last + 1, last + 2]).any(|moment| (*from..*to).contains(&(*moment as i64)));
            prop_assert!(shown, "a row of {}..{} stays although no moment shows it", from, to);
        }
    }
}

/// Entries that overwrite one file again and again, a day apart.
fn versions(replica: &Replica, count: u64) {
    for seq in 1..=count {
        let change = if seq == 1 { file(keg(1), "f") } else { content(keg(1), vec![extent(0, 9, seq as u8)], 1) };
        let mut entry = confirmed(seq, BOB, seq, Some(vec![op(seq - 1, change)]));
        entry.envelope.created_ms = DAY_MS * seq as i64;
        replica.apply(&[entry], None).unwrap();
    }
}

#[test]
fn what_the_rule_keeps_stays_and_who_wanted_more_is_told_of() {
    let dir = tempdir();
    let replica = open(dir.path());
    versions(&replica, 40);
    let rule = RetentionRule { keep_all_s: 10 * 86_400, hourly_s: 0, daily_s: 0, weekly_s: 0 };
    let rule = RetentionRule { hourly_s: rule.keep_all_s, daily_s: rule.keep_all_s, weekly_s: rule.keep_all_s, ..rule };
    let greedy = Thin { now_ms: 40 * DAY_MS, ..thin(1, 40, vec![], rule) };
    replica.apply(&[thinning(41, greedy)], None).unwrap();
    for seq in 1..=40 {
        assert_eq!(replica.at(seq).is_ok(), seq > 30, "{seq}");
    }
    let told = replica.view().activity(0, 99).unwrap();
    assert!(told.iter().any(|(_, line)| line.what == Happening::OverThinned { moments: 9 }), "{told:?}");
}

#[test]
fn what_is_proposed_is_what_happens_and_nothing_is_left_to_propose() {
    let dir = tempdir();
    let replica = open(dir.path());
    versions(&replica, 60);
    let week = 7 * 86_400;
    let rule = RetentionRule { keep_all_s: 2 * week, hourly_s: 2 * week, daily_s: 2 * week, weekly_s: 4 * week };
    let now_ms = 60 * DAY_MS;
    assert_eq!(replica.thinnable(&RetentionRule::EVERYTHING, now_ms, &[]).unwrap(), None);
    let found = replica.thinnable(&rule, now_ms, &[3]).unwrap().unwrap();
    let thin = Thin { body: found.body, rule, now_ms, lasting: vec![3], lasting_epochs: vec![] };
    replica.apply(&[thinning(61, thin)], None).unwrap();
    let left: Vec<u64> = (1..60).filter(|seq| replica.at(*seq).is_ok()).collect();
    assert_eq!(left.len() as u64 + found.moments, 59);
    // Two weeks of days; of two weeks before one each, and of the week that ends within the days the last; the lasting one.
    assert_eq!(left.iter().filter(|seq| **seq > 46).count(), 13);
    assert_eq!(left.iter().filter(|seq| **seq <= 46).copied().collect::<Vec<_>>(), [3, 34, 41, 46]);
    assert_eq!(replica.thinnable(&rule, now_ms, &[3]).unwrap(), None);
    assert_eq!(replica.past_size().unwrap(), PastSize { thinned: 47, kept: 4 });
    assert_eq!((replica.moment_before(45).unwrap(), replica.moment_after(42).unwrap()), (41, 46));
    assert_eq!(replica.seq_at(45 * DAY_MS).unwrap(), Some(41), "a time means the last version before it that is left");
    // A day later one goes: the last of the days before it was the last of its week so far.
    let later = replica.thinnable(&rule, now_ms + DAY_MS, &[3]).unwrap().unwrap();
    assert_eq!(later.body, Thinning { from: 46, upto: 48, keep: vec![47] });
}

#[test]
fn what_one_entry_cannot_name_is_left_to_the_next() {
    let dir = tempdir();
    let replica = open(dir.path());
    let half_hour = |seq: u64| 1_800_000 * seq as i64;
    for seq in 1..=100 {
        let mut entry = confirmed(seq, BOB, seq, Some(vec![op(seq - 1, file(keg(seq as u32), &format!("f{seq}")))]));
        entry.envelope.created_ms = half_hour(seq);
        replica.apply(&[entry], None).unwrap();
    }
    let forever = RetentionRule::FOREVER;
    let rule = RetentionRule { keep_all_s: 3600, hourly_s: forever, daily_s: forever, weekly_s: forever };
    // The entries that thin out stay themselves: they are younger than an hour.
    let now_ms = half_hour(104);
    let (most, mut seq) = (20, 100);
    while let Some(found) = replica.thinnable_by(&rule, now_ms, &[], most).unwrap() {
        assert!(found.body.keep.len() <= most, "{found:?}");
        seq += 1;
        let mut entry = thinning(seq, Thin { body: found.body, rule, now_ms, lasting: vec![], lasting_epochs: vec![] });
        entry.envelope.created_ms = now_ms;
        replica.apply(&[entry], None).unwrap();
        assert!(seq < 110, "it comes to an end");
    }
    assert!(seq > 102, "in several entries");
    let left = (1..100).filter(|seq| replica.at(*seq).is_ok()).count();
    assert!((50..=52).contains(&left), "one of each hour is left, not {left}");
    assert!(replica.view().warnings(0, 9).unwrap().is_empty(), "none of it is against the rule");
}

#[test]
fn a_removed_file_that_is_open_stays_readable_until_it_is_closed() {
    let dir = tempdir();
    let replica = open(dir.path());
    versions(&replica, 3);
    let ino = replica.view().lookup(1, b"f").unwrap().unwrap().ino;
    replica.opened(ino);
    replica.opened(ino);
    replica.apply(&[confirmed(4, BOB, 4, Some(vec![op(3, unlink(keg(1), "f"))]))], None).unwrap();
    replica.apply(&[confirmed(5, BOB, 5, Some(vec![op(4, file(keg(2), "g"))]))], None).unwrap();
    replica.apply(&[thinning(6, thin(1, 5, vec![], NONE))], None).unwrap();
    assert_eq!(replica.view().extents(ino, 0, 9).unwrap().len(), 1);
    replica.closed(ino);
    replica.apply(&[confirmed(7, BOB, 7, Some(vec![op(6, file(keg(3), "h"))]))], None).unwrap();
    assert_eq!(replica.view().extents(ino, 0, 9).unwrap().len(), 1);
    replica.closed(ino);
    replica.apply(&[confirmed(8, BOB, 8, Some(vec![op(7, file(keg(4), "i"))]))], None).unwrap();
    assert_eq!(replica.view().extents(ino, 0, 9).unwrap(), []);
    assert!(past_rows(&replica)[2].is_empty());
}

/// Every file removed after one that stays open is looked at once, not with each entry again.
#[test]
fn what_a_removed_file_that_is_open_costs_does_not_grow_with_what_was_removed_after_it() {
    let dir = tempdir();
    let replica = open(dir.path());
    let files = 300;
    let make = |number: u32| {
        let id = keg(number);
        [op(0, file(id, &format!("n{number}"))), op(0, content(id, vec![extent(0, 9, number as u8)], 1))]
    };
    replica.apply(&[confirmed(1, BOB, 1, Some((0..files).flat_map(make).collect()))], None).unwrap();
    let ino = replica.view().lookup(1, b"n0").unwrap().unwrap().ino;
    replica.opened(ino);
    for (seq, range) in [(2, 0..1), (3, 1..files)] {
        let remove = range.map(|number| op(seq - 1, unlink(keg(number), &format!("n{number}")))).collect();
        replica.apply(&[confirmed(seq, BOB, seq, Some(remove))], None).unwrap();
    }
    replica.apply(&[thinning(4, thin(1, 4, vec![], NONE))], None).unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let steps = |seq: u64| {
        count.store(0, Ordering::Relaxed);
        let counting = Arc::clone(&count);
        let tick = move || {
            counting.fetch_add(1, Ordering::Relaxed);
            false
        };
        replica.shared().writer.lock().conn.progress_handler(1, Some(tick)).unwrap();
        replica.apply(&[confirmed(seq, BOB, seq, Some(vec![]))], None).unwrap();
        replica.shared().writer.lock().conn.progress_handler(0, None::<fn() -> bool>).unwrap();
        count.load(Ordering::Relaxed)
    };
    let _first = steps(5);
    let held = steps(6);
    assert_eq!(replica.view().extents(ino, 0, 9).unwrap().len(), 1);
    replica.closed(ino);
    let _removes = steps(7);
    assert_eq!(replica.view().extents(ino, 0, 9).unwrap(), []);
    let none = steps(8);
    assert!(held < none + 100, "{held} steps of the database for an entry while the file is open, {none} after");
}

/// Somebody brings an open file back that was removed: it is not looked at any more.
#[test]
fn a_removed_file_that_was_open_and_came_back_keeps_its_content() {
    let dir = tempdir();
    let replica = open(dir.path());
    versions(&replica, 2);
    let ino = replica.view().lookup(1, b"f").unwrap().unwrap().ino;
    replica.opened(ino);
    replica.apply(&[confirmed(3, BOB, 3, Some(vec![op(2, unlink(keg(1), "f"))]))], None).unwrap();
    replica.apply(&[confirmed(4, BOB, 4, None), thinning(5, thin(1, 4, vec![], NONE))], None).unwrap();
    // Written by who had not seen the removal.
    let late = op(
        2,
        OpKind::Content {
            keg: keg(1),
            truncate: None,
            holes: vec![],
            extents: vec![extent(9, 9, 7)],
            size: 18,
            mtime_ns: 3,
        },
    );
    replica.apply(&[confirmed(6, CAROL, 6, Some(vec![late]))], None).unwrap();
    replica.closed(ino);
    replica.apply(&[confirmed(7, BOB, 7, Some(vec![]))], None).unwrap();
    let there = replica.view().lookup(1, b"f").unwrap().unwrap();
    assert_eq!(replica.view().extents(there.ino, 0, 99).unwrap().len(), 2);
}

/// The last entry of a folder that is then quiet is the one by which own work arrives that was made before a thinning.
#[test]
fn what_waited_for_own_work_is_removed_with_it_and_not_with_the_next_entry() {
    let dir = tempdir();
    let replica = open(dir.path());
    versions(&replica, 3);
    replica.submit_based(op(1, mtime(KegId::ROOT, 5))).unwrap();
    replica.apply(&[thinning(4, thin(1, 3, vec![], NONE))], None).unwrap();
    assert_eq!(past_rows(&replica)[2].len(), 1);
    confirm_all(&replica, 5, 1);
    assert!(past_rows(&replica)[2].is_empty());
}

/// One file of many was overwritten: taking the old version away costs the same whatever else there is.
#[test]
fn thinning_costs_what_changed_and_not_what_there_is() {
    let steps = |files: u32| {
        let dir = tempdir();
        let replica = open(dir.path());
        let make = |number: u32| {
            let id = keg(number + 10);
            [op(0, file(id, &format!("n{number}"))), op(0, content(id, vec![extent(0, 9, number as u8)], 1))]
        };
        replica.apply(&[confirmed(1, BOB, 1, Some((0..files).flat_map(make).collect()))], None).unwrap();
        // A past that stays: everything was written once more before.
        let again = |number: u32| op(1, content(keg(number + 10), vec![extent(0, 9, 99)], 2));
        replica.apply(&[confirmed(2, BOB, 2, Some((0..files).map(again).collect()))], None).unwrap();
        for seq in 3..6 {
            let change = op(seq - 1, content(keg(10), vec![extent(0, 9, seq as u8)], 1));
            replica.apply(&[confirmed(seq, BOB, seq, Some(vec![change]))], None).unwrap();
        }
        let count = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&count);
        let tick = move || {
            counting.fetch_add(1, Ordering::Relaxed);
            false
        };
        replica.shared().writer.lock().conn.progress_handler(1, Some(tick)).unwrap();
        replica.apply(&[thinning(6, thin(1, 5, vec![1, 2], NONE))], None).unwrap();
        replica.shared().writer.lock().conn.progress_handler(0, None::<fn() -> bool>).unwrap();
        let left = replica.shared().pool.with(|db| {
            db.run(|conn| conn.query_row("SELECT count(*) FROM extent_past", [], |row| row.get::<_, u32>(0)))
        });
        assert_eq!(
            left.unwrap(),
            files + 1,
            "what was before the second entry, and of the first file what was after it"
        );
        count.load(Ordering::Relaxed)
    };
    let (few, many) = (steps(20), steps(2000));
    assert!(
        many < few * 3 / 2,
        "{few} steps of the database in a small folder, {many} in one a hundred times as large"
    );
}
