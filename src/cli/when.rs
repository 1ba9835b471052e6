//! A moment of a folder's past, as people say it.
//!
//! The same words on the command line (`--at`) and as names below `.keg/at/`.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::expiry::period_ms;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// After this entry of the log.
    Version(u64),
    /// Milliseconds since 1970 UTC.
    Time(i64),
    /// A time that is yet to come.
    ToCome,
}

/// `seq-1234`; `30s-ago`, `10m-ago`, `2h-ago`, `3d-ago`, `1w-ago`; `now`, `today`, `yesterday`; `2026-11-23`, the end of that
/// day; `2026-11-23T15:00`, with seconds or not; all in the time of this place; or an RFC 3339 time. Nothing later than
/// `now_ms`, but for the end of today. `None` for what is none of these.
pub fn parse(text: &str, now_ms: i64, zone: &TimeZone) -> Option<When> {
    if let Some(number) = text.strip_prefix("seq-") {
        let plain = number.bytes().all(|byte| byte.is_ascii_digit());
        return number.parse().ok().filter(|_| plain).map(When::Version);
    }
    let time = match text {
        "now" => Some(now_ms),
        "today" => end_of(today(now_ms, zone)?, zone),
        "yesterday" => end_of(today(now_ms, zone)?.checked_sub(1.day()).ok()?, zone),
        _ => ago(text, now_ms)
            .or_else(|| day(text, zone))
            .or_else(|| clock(text, zone))
            .or_else(|| text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)),
    };
    let today = end_of(today(now_ms, zone)?, zone);
    time.map(|time| if time <= now_ms || Some(time) == today { When::Time(time) } else { When::ToCome })
}

/// What is accepted, for messages.
pub const ACCEPTED: &str =
    "10m-ago, 2h-ago, 3d-ago, yesterday, 2026-11-23, 2026-11-23T15:00, 2026-11-23T15:00:00Z or a version like seq-1234";

/// How a version is written.
pub fn version(seq: u64) -> String {
    format!("seq-{seq}")
}

fn ago(text: &str, now_ms: i64) -> Option<i64> {
    now_ms.checked_sub(period_ms(text.strip_suffix("-ago")?)?)
}

fn today(now_ms: i64, zone: &TimeZone) -> Option<Date> {
    Some(Timestamp::from_millisecond(now_ms).ok()?.to_zoned(zone.clone()).date())
}

fn day(text: &str, zone: &TimeZone) -> Option<i64> {
    // A longer text that begins with a date has a time.
    let date = text.parse::<Date>().ok().filter(|_| text.len() == 10)?;
    end_of(date, zone)
}

fn end_of(date: Date, zone: &TimeZone) -> Option<i64> {
    let next = date.checked_add(1.day()).ok()?.to_zoned(zone.clone()).ok()?;
    Some(next.timestamp().as_millisecond() - 1)
}

fn clock(text: &str, zone: &TimeZone) -> Option<i64> {
    // With a zone of its own it is an RFC 3339 time.
    let own_zone = text.ends_with(['Z', 'z']) || text.get(11..).is_some_and(|time| time.contains(['+', '-', '[']));
    let time = text.parse::<DateTime>().ok().filter(|_| text.len() > 10 && !own_zone)?;
    Some(time.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_446_240_000; // 2026-11-23 15:04 UTC

    fn at(text: &str) -> Option<When> {
        // One hour east of Greenwich.
        parse(text, NOW, &TimeZone::fixed(jiff::tz::offset(1)))
    }

    fn utc(text: &str) -> When {
        When::Time(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn versions_periods_days_and_times_are_understood() {
        assert_eq!(at("seq-1234"), Some(When::Version(1234)));
        assert_eq!(at("10m-ago"), Some(utc("2026-11-23T14:54:00Z")));
        assert_eq!(at("2h-ago"), Some(utc("2026-11-23T13:04:00Z")));
        assert_eq!(at("1w-ago"), Some(utc("2026-11-16T15:04:00Z")));
        assert_eq!(at("now"), Some(When::Time(NOW)));
        assert_eq!(at("today"), Some(utc("2026-11-23T22:59:59.999Z")));
        assert_eq!(at("yesterday"), Some(utc("2026-11-22T22:59:59.999Z")));
        assert_eq!(at("2026-11-20"), Some(utc("2026-11-20T22:59:59.999Z")));
        assert_eq!(at("2026-11-23T15:00"), Some(utc("2026-11-23T14:00:00Z")));
        assert_eq!(at("2026-11-23T15:00:30"), Some(utc("2026-11-23T14:00:30Z")));
        assert_eq!(at("2026-11-23 15:00"), Some(utc("2026-11-23T14:00:00Z")));
        assert_eq!(at("2026-11-23T15:00:00Z"), Some(utc("2026-11-23T15:00:00Z")));
        assert_eq!(at("2026-11-23T09:00:00-05:00"), Some(utc("2026-11-23T14:00:00Z")));
    }

    #[test]
    fn what_is_yet_to_come_is_no_time_but_today_is_one() {
        for text in
            ["2026-11-24", "2099-01-01", "2026-11-23T16:05", "2026-11-23T15:05:00Z", "2030-01-01T00:00:00+01:00"]
        {
            assert_eq!(at(text), Some(When::ToCome), "{text}");
        }
        assert_eq!(at("2026-11-23"), at("today"));
        assert_eq!(at("2026-11-23T16:04"), Some(When::Time(NOW)));
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for text in [
            "",
            "seq-",
            "seq--1",
            "seq-+5",
            "seq-99999999999999999999",
            "ago",
            "-ago",
            "5-ago",
            "x-ago",
            "-3d-ago",
            "10m",
            "2026-13-01",
            "2026-11-23T",
            "2026-11-23T25:00",
            "tomorrow",
            "é-ago",
            "Documents",
            "..",
            ".git",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }
}
