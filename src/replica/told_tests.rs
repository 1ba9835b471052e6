//! Entries that thin out the past by a wrong clock: too much is kept, and nothing is lost.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::test_support::*;
use super::thin_tests::{NONE, thin, thinning};
use super::*;
use crate::format::*;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const NOW: i64 = AT / 1_000_000;
/// Everything for thirty days, and nothing longer.
const MONTH: RetentionRule =
    RetentionRule { keep_all_s: 30 * 86_400, hourly_s: 30 * 86_400, daily_s: 30 * 86_400, weekly_s: 30 * 86_400 };

/// An entry of somebody who administers, or only writes.
fn dated(seq: u64, device: DeviceId, administers: bool, created_ms: i64) -> Confirmed {
    let change = if seq == 1 { file(keg(1), "f") } else { content(keg(1), vec![extent(0, 9, seq as u8)], 1) };
    let mut entry = confirmed(seq, device, seq, Some(vec![op(seq - 1, change)]));
    (entry.envelope.created_ms, entry.administers) = (created_ms, administers);
    entry
}

/// An entry that thins out everything that `rule` lets go, by an admin whose clock says `now_ms`.
fn thinned_at(seq: u64, (from, upto): (u64, u64), rule: RetentionRule, now_ms: i64) -> Confirmed {
    let mut entry = thinning(seq, Thin { now_ms, ..thin(from, upto, vec![], rule) });
    (entry.envelope.created_ms, entry.administers) = (now_ms, true);
    entry
}

fn left(replica: &Replica) -> Vec<u64> {
    (1..=replica.mark().seq).filter(|seq| replica.at(*seq).is_ok()).collect()
}

fn behind(replica: &Replica) -> Vec<(u64, bool)> {
    let told = replica.view().warnings(0, 99).unwrap().into_iter();
    let found = told.filter_map(|(_, line)| match line.what {
        Happening::ThinnedBehind { behind_s, void } => Some((behind_s / 3600, void)),
        _ => None,
    });
    found.collect()
}

#[test]
fn an_admins_clock_that_was_behind_takes_nothing_away_then_or_later() {
    let dir = tempdir();
    let replica = open(dir.path());
    let entries: Vec<_> = (1..=11).map(|seq| dated(seq, BOB, true, NOW + seq as i64)).collect();
    replica.apply(&entries, None).unwrap();
    // An admin whose machine says 1970 releases, and thins out; then its clock is set right, and it does it again.
    let wrong = [thinned_at(12, (0, 0), NONE, 5), thinned_at(13, (1, 12), MONTH, 6), thinned_at(14, (1, 13), NONE, 7)];
    replica.apply(&wrong, None).unwrap();
    assert_eq!(behind(&replica).len(), 2, "who does is told of, and who only releases says nothing of the past");
    assert!(behind(&replica).iter().all(|(hours, void)| *void && *hours > 400_000));
    assert_eq!(replica.past_size().unwrap(), PastSize { thinned: 0, kept: 0 });
    replica.apply(&[thinned_at(15, (1, 14), MONTH, NOW + HOUR_MS)], None).unwrap();
    assert_eq!(left(&replica), (1..=15).filter(|seq| !(12..14).contains(seq)).collect::<Vec<_>>());
}

#[test]
fn the_clock_of_who_only_writes_stops_nobody_and_no_moment_is_later_than_the_next_thinning() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.apply(&[dated(1, ALICE, true, NOW), dated(2, BOB, false, NOW + 900 * DAY_MS)], None).unwrap();
    replica.apply(&[dated(3, ALICE, true, NOW + HOUR_MS)], None).unwrap();
    let now_ms = NOW + 31 * DAY_MS;
    assert_eq!(replica.clock_behind(now_ms).unwrap(), None);
    replica.apply(&[thinned_at(4, (1, 3), MONTH, now_ms)], None).unwrap();
    assert_eq!(left(&replica), [2, 3, 4], "what is from the future stays for now");
    // A month after the thinning that came next it is a month old.
    replica.apply(&[thinned_at(5, (1, 3), MONTH, now_ms + 29 * DAY_MS)], None).unwrap();
    assert_eq!(left(&replica), [2, 3, 4, 5]);
    replica.apply(&[thinned_at(6, (1, 3), MONTH, now_ms + 30 * DAY_MS)], None).unwrap();
    assert_eq!(left(&replica), [3, 4, 5, 6]);
}

#[test]
fn a_clock_ahead_of_who_administers_stops_thinning_until_then_and_the_machines_behind_know() {
    let dir = tempdir();
    let replica = open(dir.path());
    let entries = [dated(1, ALICE, true, NOW), dated(2, BOB, true, NOW + 40 * DAY_MS), dated(3, ALICE, true, NOW)];
    replica.apply(&entries, None).unwrap();
    let found = replica.clock_behind(NOW).unwrap().unwrap();
    assert_eq!(found, Behind { behind_ms: 40 * DAY_MS as u64, seq: 2, label: label(&BOB) });
    assert_eq!(replica.thinnable(&NONE, NOW, &[]).unwrap(), None);
    replica.apply(&[thinned_at(4, (1, 3), NONE, NOW + 39 * DAY_MS)], None).unwrap();
    assert_eq!(left(&replica), [1, 2, 3, 4]);
    // Clocks are never quite the same.
    let then_ms = NOW + 40 * DAY_MS - HOUR_MS;
    assert_eq!(replica.clock_behind(then_ms).unwrap(), None);
    let body = replica.thinnable(&MONTH, then_ms, &[]).unwrap().unwrap().body;
    let mut entry = thinned_at(5, (0, 0), MONTH, then_ms);
    entry.thin.as_mut().unwrap().body = body;
    replica.apply(&[entry], None).unwrap();
    assert_eq!(left(&replica), [2, 4, 5]);
}

#[test]
fn who_creeps_below_what_was_written_since_is_told_of() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.apply(&[dated(1, ALICE, true, NOW - 20 * DAY_MS), dated(2, BOB, false, NOW - DAY_MS)], None).unwrap();
    replica.apply(&[thinned_at(3, (1, 2), MONTH, NOW - 20 * DAY_MS)], None).unwrap();
    assert_eq!(behind(&replica), [(19 * 24, false)]);
    // What was before that one is no later than it, whatever comes.
    replica.apply(&[thinned_at(4, (1, 2), MONTH, NOW - 19 * DAY_MS)], None).unwrap();
    assert_eq!(behind(&replica).len(), 1);
}

#[test]
fn an_entry_that_does_not_count_tells_no_time() {
    let dir = tempdir();
    let replica = open(dir.path());
    let mut ignored = dated(2, BOB, true, NOW + 900 * DAY_MS);
    (ignored.batch, ignored.added) = (None, Added::Ignored);
    replica.apply(&[dated(1, ALICE, true, NOW), ignored], None).unwrap();
    assert_eq!(replica.clock_behind(NOW).unwrap(), None);
}

/// A replica of the layout before knows nothing of told times, and has thinnings of all kinds.
#[test]
fn a_replica_of_the_layout_before_judges_what_comes_as_the_others_do() {
    let dirs = [tempdir(), tempdir()];
    let log = [
        dated(1, ALICE, true, NOW),
        dated(2, BOB, false, NOW + 900 * DAY_MS),
        thinned_at(3, (0, 0), NONE, 5),
        dated(4, ALICE, true, NOW + DAY_MS),
    ];
    let admin = MemberInfo { account: AccountId([0xa; 32]), role: Role::Owner, expires_ms: None, joined_seq: 1 };
    let standing = Standing { members: vec![admin], ..Standing::default() };
    let mut replicas = dirs.each_ref().map(|dir| open(dir.path()));
    for replica in &replicas {
        replica.apply(&log, Some(standing.clone())).unwrap();
    }
    replicas[1].close().unwrap();
    let db = super::db::open(&dirs[1].path().join("state.db"), &key(), 1024, false).unwrap();
    db.run(|conn| {
        conn.execute_batch(
            "DROP TABLE held; DROP TABLE handed_over; ALTER TABLE blob ADD COLUMN checkpoint INTEGER; DELETE FROM meta WHERE key IN ('told_ms', 'told_seq'); INSERT INTO thinning VALUES (3, 5);
             PRAGMA user_version=8;",
        )
    })
    .unwrap();
    drop(db);
    replicas[1] = open(dirs[1].path());
    for replica in &replicas {
        assert_eq!(replica.clock_behind(NOW).unwrap().unwrap().seq, 4);
        replica
            .apply(&[thinned_at(5, (1, 4), NONE, NOW), thinned_at(6, (1, 4), MONTH, NOW + 2 * DAY_MS)], None)
            .unwrap();
        assert_eq!(left(replica), [1, 2, 4, 5, 6], "the entry that is dated 1970 is that old");
        replica.apply(&[thinned_at(7, (1, 4), MONTH, NOW + 31 * DAY_MS)], None).unwrap();
        assert_eq!(left(replica), [2, 4, 5, 6, 7]);
        assert_eq!(behind(replica)[0], (24, true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// What an honest log keeps, it keeps whatever entries of a clock that is behind come in between.
    #[test]
    fn a_clock_behind_never_takes_more_than_is_taken_without_it(
        steps in prop::collection::vec((0_i64..20, any::<bool>(), 0_u8..4), 3..30),
        wrong in prop::collection::vec((any::<prop::sample::Index>(), 0_i64..60, any::<bool>()), 0..6),
    ) {
        let dirs = [tempdir(), tempdir()];
        let replicas = dirs.each_ref().map(|dir| open(dir.path()));
        let (mut now_ms, mut seq) = (NOW, 0);
        let wrong: Vec<_> = wrong.into_iter().map(|(index, days, all)| (index.index(steps.len()), days, all)).collect();
        for (step, (days, administers, kind)) in steps.iter().enumerate() {
            now_ms += days * DAY_MS;
            seq += 1;
            let entry = match kind {
                0 if seq > 2 => thinned_at(seq, (1, seq - 1), MONTH, now_ms),
                _ => dated(seq, BOB, *administers || seq == 1, now_ms),
            };
            replicas.iter().try_for_each(|replica| replica.apply(std::slice::from_ref(&entry), None).map(drop)).unwrap();
            for (_, days, all) in wrong.iter().filter(|(at, ..)| *at == step) {
                seq += 1;
                let rule = if *all { NONE } else { MONTH };
                // More than the two hours that are nothing, before what the owners and admins have dated.
                let told = replicas[0].clock_behind(i64::MIN + 1).unwrap().map_or(NOW, |found| i64::MIN + 1 + found.behind_ms as i64);
                let entry = thinned_at(seq, (1, seq - 1), rule, told - 2 * HOUR_MS - days * DAY_MS);
                // As old as that one, and nothing else.
                let mut nothing = confirmed(seq, BOB, seq, Some(vec![]));
                nothing.envelope.created_ms = entry.envelope.created_ms;
                replicas[0].apply(&[entry], None).unwrap();
                replicas[1].apply(&[nothing], None).unwrap();
            }
        }
        let [with, without] = replicas.each_ref().map(|replica| left(replica));
        prop_assert_eq!(with, without);
    }
}
