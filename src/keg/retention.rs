//! Which moments of the past a rule lets go.
//!
//! # Construction
//! A moment is a position of the log with a time. Up to an age all are kept; after it the *newest* of each period (hour,
//! day, week), as the snapshot tools do whose words the rule uses: what is shown of a day is how it ended. A moment goes only
//! where a later one of its period stays, so what a moment may do depends on later moments only. So every replica comes to
//! the same about the moments that it has, wherever its history begins.
//!
//! Whoever thins out says which moments stay ([`choose`]), and everybody lets go of no more than the rule allows
//! ([`going`]). There is no clock in it but that of the entry.
//!
//! Times are what authors say. A wrong one shortens or lengthens the life of its author's own moments only; and none is
//! later than the next thinning says, so that a clock that is ahead keeps a moment for long, not for ever.

use std::collections::BTreeSet;

use crate::format::RetentionRule;

/// A position of the log that can still be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated {
    /// The position.
    pub seq: u64,
    /// Its time as everybody takes it, milliseconds since 1970 UTC.
    pub time_ms: i64,
}

/// A period of time, counted from 1970 UTC (weeks from the Thursday that it began with).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Period {
    length_s: i64,
    number: i64,
}

/// What a rule says of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    /// It stays.
    All,
    /// It goes if a later moment of this period stays.
    One(Period),
    /// It goes.
    None,
}

const HOUR_S: i64 = 3600;
const DAY_S: i64 = 24 * HOUR_S;
const LENGTHS_S: [i64; 3] = [HOUR_S, DAY_S, 7 * DAY_S];

fn period(length_s: i64, time_ms: i64) -> Period {
    Period { length_s, number: time_ms.div_euclid(length_s * 1000) }
}

fn tier(rule: &RetentionRule, time_ms: i64, now_ms: i64) -> Tier {
    let age_s = now_ms.saturating_sub(time_ms).max(0).unsigned_abs() / 1000;
    let within = |end_s: u64| end_s == RetentionRule::FOREVER || age_s < end_s;
    if within(rule.keep_all_s) {
        return Tier::All;
    }
    let ends = [rule.hourly_s, rule.daily_s, rule.weekly_s];
    let step = ends.into_iter().zip(LENGTHS_S).find(|(end_s, _)| within(*end_s));
    step.map_or(Tier::None, |(_, length_s)| Tier::One(period(length_s, time_ms)))
}

/// Periods of which a moment stays.
#[derive(Default)]
struct Seen(BTreeSet<Period>);

impl Seen {
    fn note(&mut self, time_ms: i64) {
        self.0.extend(LENGTHS_S.map(|length_s| period(length_s, time_ms)));
    }

    /// The rule lets the moment go.
    fn lets_go(&self, rule: &RetentionRule, time_ms: i64, now_ms: i64) -> bool {
        match tier(rule, time_ms, now_ms) {
            Tier::All => false,
            Tier::One(period) => self.0.contains(&period),
            Tier::None => true,
        }
    }
}

/// Of `moments` (descending) those that go, where whoever thins out at `now_ms` keeps those in `keep` and in `lasting`
/// (ascending both); and how many more were to go against the rule, which stay.
pub fn going(
    rule: &RetentionRule,
    now_ms: i64,
    moments: impl IntoIterator<Item = Dated>,
    keep: &[u64],
    lasting: &[u64],
) -> (Vec<u64>, u64) {
    let (mut seen, mut gone, mut refused) = (Seen::default(), Vec::new(), 0);
    for Dated { seq, time_ms } in moments {
        if keep.binary_search(&seq).is_ok() || lasting.binary_search(&seq).is_ok() {
            seen.note(time_ms);
        } else if seen.lets_go(rule, time_ms, now_ms) {
            gone.push(seq);
        } else {
            refused += 1;
            seen.note(time_ms);
        }
    }
    (gone, refused)
}

/// Of `moments` (descending; with the time as everybody takes it, and as this machine has seen it) those that are to be
/// kept at `now_ms`: what the rule keeps by either of the times. Ascending.
pub fn choose(rule: &RetentionRule, now_ms: i64, moments: &[(Dated, i64)], lasting: &[u64]) -> Vec<u64> {
    let (mut told, mut local, mut keep) = (Seen::default(), Seen::default(), Vec::new());
    for (Dated { seq, time_ms }, seen_ms) in moments {
        let go = told.lets_go(rule, *time_ms, now_ms) && local.lets_go(rule, *seen_ms, now_ms);
        if !go || lasting.binary_search(seq).is_ok() {
            told.note(*time_ms);
            local.note(*seen_ms);
            keep.push(*seq);
        }
    }
    keep.reverse();
    keep
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR_MS: i64 = HOUR_S * 1000;
    const DAY_MS: i64 = 24 * HOUR_MS;
    const NOW: i64 = 20_000 * DAY_MS + 5 * HOUR_MS;

    fn rule(keep_all_s: u64, hourly_s: u64, daily_s: u64, weekly_s: u64) -> RetentionRule {
        RetentionRule { keep_all_s, hourly_s, daily_s, weekly_s }
    }

    /// One moment every ten minutes for `days` days up to [`NOW`], newest first.
    fn every_ten_minutes(days: i64) -> Vec<Dated> {
        let count = days * 24 * 6;
        (0..count).map(|back| Dated { seq: (count - back) as u64, time_ms: NOW - back * 600_000 }).collect()
    }

    fn both(moments: &[Dated]) -> Vec<(Dated, i64)> {
        moments.iter().map(|moment| (*moment, moment.time_ms)).collect()
    }

    #[test]
    fn what_stays_is_all_then_one_an_hour_then_one_a_day_then_one_a_week() {
        let day = 86_400;
        let rule = rule(day, 3 * day, 10 * day, RetentionRule::FOREVER);
        let moments = every_ten_minutes(40);
        let keep = choose(&rule, NOW, &both(&moments), &[]);
        let aged = |from: i64, to: i64| {
            let time = |seq: &&u64| moments.iter().find(|moment| moment.seq == **seq).unwrap().time_ms;
            keep.iter().filter(|seq| (from..to).contains(&(NOW - time(seq)))).count()
        };
        assert_eq!(aged(0, DAY_MS), 144, "all of a day");
        assert_eq!(aged(DAY_MS, 3 * DAY_MS), 48, "one an hour");
        assert_eq!(aged(3 * DAY_MS, 10 * DAY_MS), 7, "one a day");
        assert_eq!(aged(10 * DAY_MS, 40 * DAY_MS), 4, "one a week");
        let (gone, refused) = going(&rule, NOW, moments.iter().copied(), &keep, &[]);
        assert_eq!((gone.len() + keep.len(), refused), (moments.len(), 0));
    }

    #[test]
    fn what_is_kept_of_a_day_is_how_it_ended_and_stays_it_when_it_is_asked_for_by_the_week() {
        let day = 86_400;
        let rule = rule(day, day, 7 * day, RetentionRule::FOREVER);
        let mut moments = every_ten_minutes(8);
        for later in 0..60 {
            let now_ms = NOW + later * DAY_MS;
            let keep = choose(&rule, now_ms, &both(&moments), &[]);
            moments.retain(|moment| keep.binary_search(&moment.seq).is_ok());
        }
        // Each step chose among what the one before had left.
        let ends: Vec<i64> = moments.iter().map(|moment| moment.time_ms.rem_euclid(7 * DAY_MS)).collect();
        assert_eq!(moments.len(), 2);
        assert!(ends[1] >= 7 * DAY_MS - 600_000, "the last ten minutes of the week");
    }

    #[test]
    fn a_rule_without_end_keeps_everything_and_one_without_steps_nothing() {
        let moments = every_ten_minutes(3);
        assert_eq!(choose(&RetentionRule::EVERYTHING, NOW + 400 * DAY_MS, &both(&moments), &[]).len(), moments.len());
        assert!(choose(&rule(0, 0, 0, 0), NOW, &both(&moments), &[]).is_empty());
        assert_eq!(choose(&rule(0, 0, 0, 0), NOW, &both(&moments), &[7]), [7], "but what must last");
    }

    #[test]
    fn nobody_takes_away_more_than_the_rule_allows() {
        let day = 86_400;
        let rule = rule(day, day, 30 * day, 30 * day);
        let moments = every_ten_minutes(10);
        let (gone, refused) = going(&rule, NOW, moments.iter().copied(), &[], &[]);
        assert_eq!(refused, 144 + 9, "all of the last day, and the last of each day before");
        assert_eq!(gone.len() as u64 + refused, moments.len() as u64);
    }

    #[test]
    fn a_clock_that_is_wrong_concerns_its_own_moments_only() {
        let day = 86_400;
        let rule = rule(day, day, 30 * day, 30 * day);
        let mut moments = every_ten_minutes(10);
        let honest = choose(&rule, NOW, &both(&moments), &[]);
        // Two in the middle of a day, which would go.
        let (ahead, behind) = (700, 704);
        for (index, time_ms) in [(ahead, NOW + 900 * DAY_MS), (behind, 0)] {
            moments[index].time_ms = time_ms;
        }
        let seen: Vec<_> =
            every_ten_minutes(10).iter().zip(&moments).map(|(seen, told)| (*told, seen.time_ms)).collect();
        let keep = choose(&rule, NOW, &seen, &[]);
        let more: Vec<_> = keep.iter().filter(|seq| !honest.contains(seq)).collect();
        assert!(honest.iter().all(|seq| keep.contains(seq)));
        assert_eq!(
            more,
            [&moments[ahead].seq],
            "what is from the future stays for now; what is from 1970 as seen here"
        );
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_always_allowed_and_choosing_again_changes_nothing(
            times in prop::collection::vec(-40_i64..2, 1..60),
            steps in [0_u64..10, 0_u64..10, 0_u64..20, 0_u64..40],
            from in 0_usize..60,
        ) {
            let [a, b, c, d] = steps.map(|days| days * 86_400);
            let rule = rule(a, a + b, a + b + c, a + b + c + d);
            let count = times.len() as u64;
            let moments: Vec<Dated> = times.iter().zip(0..)
                .map(|(days, back)| Dated { seq: count - back, time_ms: NOW + days * DAY_MS / 2 }).collect();
            let keep = choose(&rule, NOW, &both(&moments), &[]);
            let (gone, refused) = going(&rule, NOW, moments.iter().copied(), &keep, &[]);
            prop_assert_eq!(refused, 0);
            prop_assert_eq!(gone.len() + keep.len(), moments.len());
            let left: Vec<Dated> = moments.iter().copied().filter(|moment| !gone.contains(&moment.seq)).collect();
            prop_assert_eq!(choose(&rule, NOW, &both(&left), &[]), keep.clone());
            // Who has only the newer part of it comes to the same about that part.
            let known = &moments[..moments.len().min(from + 1)];
            let (theirs, _) = going(&rule, NOW, known.iter().copied(), &keep, &[]);
            let ours: Vec<u64> = gone.into_iter().filter(|seq| *seq >= known.last().unwrap().seq).collect();
            prop_assert_eq!(theirs, ours);
        }
    }
}
