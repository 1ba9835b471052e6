//! Times as people say them: when a guest's membership ends, from when on a member gets the history.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::failure::{Code, Failure};
use crate::sys::clock;

/// `30m`, `12h`, `7d`, `2w` from now; `2026-12-24`, to the end of that day here; or an RFC 3339 time. Milliseconds since
/// 1970 UTC.
///
/// # Errors
/// [`Code::Usage`] for what is none of these, or is past.
pub fn parse(text: &str) -> Result<i64, Failure> {
    parse_at(text, clock::unix_nanos() / 1_000_000)
}

fn parse_at(text: &str, now_ms: i64) -> Result<i64, Failure> {
    let end_ms = period_ms(text)
        .and_then(|period| now_ms.checked_add(period))
        .or_else(|| day_end_ms(text))
        .or_else(|| text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond));
    match end_ms {
        Some(end) if end > now_ms => Ok(end),
        Some(_) => Err(Failure::new(Code::Usage, format!("--expires {text} is past; give a time in the future"))),
        None => Err(Failure::new(
            Code::Usage,
            format!("--expires {text} is no time; give for example 12h, 7d, 2w, 2026-12-24 or 2026-12-24T18:00:00Z"),
        )),
    }
}

/// `7d`, `12h` ago; `2026-11-20`, the beginning of that day here; or an RFC 3339 time. Milliseconds since 1970 UTC.
///
/// # Errors
/// [`Code::Usage`] for what is none of these, or in the future.
pub fn parse_past(text: &str) -> Result<i64, Failure> {
    parse_past_at(text, clock::unix_nanos() / 1_000_000)
}

fn parse_past_at(text: &str, now_ms: i64) -> Result<i64, Failure> {
    let time_ms = period_ms(text)
        .and_then(|period| now_ms.checked_sub(period))
        .or_else(|| day_start_ms(text))
        .or_else(|| text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond));
    match time_ms {
        Some(time) if time <= now_ms => Ok(time),
        Some(_) => Err(Failure::new(
            Code::Usage,
            format!("since={text} is in the future; give a date that has been, or --history none"),
        )),
        None => Err(Failure::new(
            Code::Usage,
            format!(
                "since={text} is no time; give for example since=2026-11-20, since=30d or since=2026-11-20T18:00:00Z"
            ),
        )),
    }
}

fn day_start_ms(text: &str) -> Option<i64> {
    let day = text.parse::<Date>().ok().filter(|_| text.len() == 10)?;
    Some(day.to_zoned(TimeZone::system()).ok()?.timestamp().as_millisecond())
}

/// `90s`, `30m`, `12h`, `7d`, `2w` in milliseconds.
pub(super) fn period_ms(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    number.parse::<u32>().ok().and_then(|number| i64::from(number).checked_mul(seconds * 1_000))
}

fn day_end_ms(text: &str) -> Option<i64> {
    let next = text.parse::<Date>().ok().filter(|_| text.len() == 10)?.checked_add(1.day()).ok()?;
    Some(next.to_zoned(TimeZone::system()).ok()?.timestamp().as_millisecond() - 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn periods_days_and_times_are_understood() {
        let now = 1_000_000_000_000;
        assert_eq!(parse_at("90s", now).unwrap(), now + 90_000);
        assert_eq!(parse_at("7d", now).unwrap(), now + 7 * 86_400_000);
        assert_eq!(parse_at("2w", now).unwrap(), now + 14 * 86_400_000);
        assert_eq!(parse_at("2030-01-01T00:00:00Z", now).unwrap(), 1_893_456_000_000);
        let (day, next) = (parse_at("2030-01-01", now).unwrap(), parse_at("2030-01-02", now).unwrap());
        assert_eq!(next - day, 86_400_000);
    }

    #[test]
    fn a_past_moment_is_a_time_ago_the_beginning_of_a_day_or_a_time() {
        let now = 1_893_456_000_000; // 2030-01-01T00:00:00Z
        assert_eq!(parse_past_at("7d", now).unwrap(), now - 7 * 86_400_000);
        assert_eq!(parse_past_at("2029-12-31T23:00:00Z", now).unwrap(), now - 3_600_000);
        let (day, next) = (parse_past_at("2029-01-01", now).unwrap(), parse_past_at("2029-01-02", now).unwrap());
        assert_eq!(next - day, 86_400_000);
        for text in ["2030-01-03", "2030-01-01T00:00:01Z", "", "yesterday", "2029-13-01"] {
            assert_eq!(parse_past_at(text, now).unwrap_err().code, Code::Usage, "{text}");
        }
    }

    #[test]
    fn what_is_past_or_no_time_is_refused() {
        let now = 1_893_456_000_000;
        for text in ["0d", "2001-09-09", "2030-01-01T00:00:00Z", "", "d", "-3d", "tomorrow", "7 d", "2026-13-01", "9é"]
        {
            assert_eq!(parse_at(text, now).unwrap_err().code, Code::Usage, "{text}");
        }
    }
}
