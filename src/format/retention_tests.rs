//! The layouts that thinning out the past brought: frozen, bounded, and only under the suite that has them.
#![allow(clippy::unwrap_used)]

use super::limits::*;
use super::*;

#[test]
fn layouts_of_rules_and_thinnings_are_frozen() {
    let rule = RetentionRule { keep_all_s: 1, hourly_s: 2, daily_s: 86_400, weekly_s: RetentionRule::FOREVER };
    let change = MembershipChange::Retention { rule };
    let thinning = Thinning { from: 5, upto: 300, keep: vec![7, 299] };
    let lines = [hex::encode(encode(&change)), hex::encode(encode(&thinning)), hex::encode(encode(&EntryKind::Thin))];
    assert_eq!(lines.join("\n"), include_str!("vectors/retention.txt").trim());
    assert_eq!((change.since(), EntryKind::Thin.since()), (2, 2));
    let bytes = encode(&Membership { change, new_epoch: None });
    assert_eq!(Membership::decode(&bytes, 1), Err(FormatError::NotInSuite(1)));
    assert!(Membership::decode(&bytes, SUITE).is_ok());
}

#[test]
fn a_rule_whose_steps_go_back_is_refused() {
    let good = RetentionRule::default();
    for bad in [
        RetentionRule { keep_all_s: RetentionRule::FOREVER, ..good },
        RetentionRule { hourly_s: good.keep_all_s - 1, ..good },
        RetentionRule { weekly_s: good.daily_s - 1, ..good },
    ] {
        let body = |rule| encode(&Membership { change: MembershipChange::Retention { rule }, new_epoch: None });
        assert!(Membership::decode(&body(good), SUITE).is_ok());
        assert_eq!(Membership::decode(&body(bad), SUITE), Err(FormatError::OutOfBounds("retention rule")));
    }
}

#[test]
fn a_thinning_that_keeps_what_it_is_not_about_or_out_of_order_is_refused() {
    let decode = |from, upto, keep: Vec<u64>| Thinning::decode(&encode(&Thinning { from, upto, keep }));
    assert!(decode(3, 9, vec![3, 5, 8]).is_ok());
    assert!(decode(3, 3, vec![]).is_ok(), "it only releases");
    for (from, upto, keep) in
        [(4, 3, vec![]), (3, 9, vec![2]), (3, 9, vec![9]), (3, 9, vec![5, 5]), (3, 9, vec![6, 5]), (3, 3, vec![3])]
    {
        assert_eq!(decode(from, upto, keep), Err(FormatError::OutOfBounds("thinning")));
    }
    let many = |count: u64| decode(0, count, (0..count).collect());
    assert!(many(THIN_MAX_KEPT as u64).is_ok() && many(THIN_MAX_KEPT as u64 + 1).is_err());
}
