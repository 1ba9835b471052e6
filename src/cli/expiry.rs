//! When a guest's membership ends, as people say it.

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

fn period_ms(text: &str) -> Option<i64> {
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
    fn what_is_past_or_no_time_is_refused() {
        let now = 1_893_456_000_000;
        for text in ["0d", "2001-09-09", "2030-01-01T00:00:00Z", "", "d", "-3d", "tomorrow", "7 d", "2026-13-01", "9é"]
        {
            assert_eq!(parse_at(text, now).unwrap_err().code, Code::Usage, "{text}");
        }
    }
}
