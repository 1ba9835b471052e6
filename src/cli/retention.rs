//! For how long a folder's past is kept, in words.
//!
//! Must not know how it is thinned out.

use super::expiry::period_ms;
use super::failure::{Code, Failure};
use crate::format::RetentionRule;

/// What is being worked on, here or on a machine that is offline for a moment, must find what it began with.
const LEAST_S: u64 = 3600;
const FOREVER: &str = "forever";
const DAY_S: u64 = 86_400;
const UNITS: [(u64, &str); 6] = [(365 * DAY_S, "y"), (7 * DAY_S, "w"), (DAY_S, "d"), (3600, "h"), (60, "m"), (1, "s")];

/// Which steps are to change, as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// `--keep-all`
    pub keep_all: Option<&'a str>,
    /// `--then-hourly`
    pub hourly: Option<&'a str>,
    /// `--then-daily`
    pub daily: Option<&'a str>,
    /// `--then-weekly`
    pub weekly: Option<&'a str>,
}

/// The rule with these steps changed. Steps that are not named stay, or end with the one before where that lasts longer.
///
/// # Errors
/// [`Code::Usage`]: no period, too short, or a step that ends before the one before it.
pub fn changed(rule: &RetentionRule, wanted: &Wanted<'_>) -> Result<RetentionRule, Failure> {
    let steps = [
        ("--keep-all", wanted.keep_all, rule.keep_all_s),
        ("--then-hourly", wanted.hourly, rule.hourly_s),
        ("--then-daily", wanted.daily, rule.daily_s),
        ("--then-weekly", wanted.weekly, rule.weekly_s),
    ];
    let mut ends = [0; 4];
    let mut before = LEAST_S;
    for ((option, typed, now), end) in steps.into_iter().zip(&mut ends) {
        *end = match typed {
            None => now.max(before),
            Some(text) => {
                let end_s = period(text).ok_or_else(|| no_period(option, text))?;
                if end_s < before {
                    return Err(too_short(option, text, before));
                }
                end_s
            }
        };
        before = *end;
    }
    let [keep_all_s, hourly_s, daily_s, weekly_s] = ends;
    Ok(RetentionRule { keep_all_s, hourly_s, daily_s, weekly_s })
}

fn no_period(option: &str, text: &str) -> Failure {
    Failure::new(Code::Usage, format!("{option} {text} is no age; give for example 12h, 30d, 8w, 1y or forever"))
}

fn too_short(option: &str, text: &str, before_s: u64) -> Failure {
    let why = match option {
        "--keep-all" => format!("everything is kept for {} at least", age(before_s)),
        _ => format!("the step before it lasts {}", age(before_s)),
    };
    Failure::new(Code::Usage, format!("{option} {text} is too short: {why}"))
}

/// Seconds.
fn period(text: &str) -> Option<u64> {
    if text == FOREVER {
        return Some(RetentionRule::FOREVER);
    }
    if let Some(years) = text.strip_suffix('y') {
        return years.parse::<u16>().ok().map(|years| u64::from(years) * 365 * DAY_S);
    }
    period_ms(text).map(|ms| ms.unsigned_abs() / 1000)
}

/// `30d`, `1y`, `forever`.
pub fn age(seconds: u64) -> String {
    if seconds == RetentionRule::FOREVER {
        return FOREVER.to_owned();
    }
    let unit = UNITS.iter().find(|(length, _)| seconds >= *length && seconds.is_multiple_of(*length));
    unit.map_or_else(|| format!("{seconds}s"), |(length, unit)| format!("{}{unit}", seconds / length))
}

/// `all for 30d, then one a day for 1y, then one a week forever`.
pub fn words(rule: &RetentionRule) -> String {
    if rule.keep_all_s == RetentionRule::FOREVER {
        return "everything".to_owned();
    }
    let mut words = format!("all for {}", age(rule.keep_all_s));
    let steps = [("one an hour", rule.hourly_s), ("one a day", rule.daily_s), ("one a week", rule.weekly_s)];
    let mut before = rule.keep_all_s;
    for (what, end) in steps {
        if end > before {
            let until = if end == RetentionRule::FOREVER { " " } else { " until " };
            words.push_str(&format!(", then {what}{until}{}", age(end)));
            before = end;
        }
    }
    if before != RetentionRule::FOREVER {
        words.push_str(", then nothing");
    }
    words
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_are_not_named_stay_or_give_way() {
        let default = RetentionRule::default();
        assert_eq!(words(&default), "all for 30d, then one a day until 1y, then one a week forever");
        assert_eq!(changed(&default, &Wanted::default()).unwrap(), default);
        let longer = changed(&default, &Wanted { keep_all: Some("2y"), ..Wanted::default() }).unwrap();
        assert_eq!(words(&longer), "all for 2y, then one a week forever");
        let hourly =
            changed(&default, &Wanted { hourly: Some("8w"), weekly: Some("10y"), ..Wanted::default() }).unwrap();
        assert_eq!(
            words(&hourly),
            "all for 30d, then one an hour until 8w, then one a day until 1y, then one a week until 10y, then nothing"
        );
        let all = changed(&default, &Wanted { keep_all: Some("forever"), ..Wanted::default() }).unwrap();
        assert_eq!((all, words(&all).as_str()), (RetentionRule::EVERYTHING, "everything"));
    }

    #[test]
    fn what_is_no_age_or_too_short_is_refused_by_name() {
        let default = RetentionRule::default();
        let refused = |wanted: Wanted<'_>| {
            let failure = changed(&default, &wanted).unwrap_err();
            assert_eq!(failure.code, Code::Usage);
            failure.to_string()
        };
        let text = refused(Wanted { keep_all: Some("soon"), ..Wanted::default() });
        assert!(text.contains("--keep-all soon is no age"), "{text}");
        for short in ["0d", "59m"] {
            let text = refused(Wanted { keep_all: Some(short), ..Wanted::default() });
            assert!(text.contains("kept for 1h at least"), "{text}");
        }
        let text = refused(Wanted { daily: Some("3w"), ..Wanted::default() });
        assert!(text.contains("--then-daily 3w is too short: the step before it lasts 30d"), "{text}");
        for bad in ["", "y", "-3d", "70000y", "Forever"] {
            refused(Wanted { weekly: Some(bad), ..Wanted::default() });
        }
    }
}
