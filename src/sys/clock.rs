//! Wall-clock and monotonic time.
//!
//! Must not know what the times are for. Wall-clock time can jump both ways and is only ever
//! shown or recorded; whatever waits or measures uses [`monotonic`].

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall-clock time in nanoseconds since 1970-01-01 00:00:00 UTC; negative before that.
///
/// Covers the years 1677 to 2262 and saturates outside them.
pub fn unix_nanos() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// A point of the monotonic clock (`CLOCK_MONOTONIC`), for deadlines and measuring.
///
/// It stands still while the machine is suspended.
pub fn monotonic() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_counts_nanoseconds_since_1970() {
        // 2020-01-01 and 2200-01-01 in nanoseconds: catches seconds, millis and micros.
        assert!((1_577_836_800_000_000_000..7_258_118_400_000_000_000).contains(&unix_nanos()));
    }

    #[test]
    fn monotonic_time_never_goes_back() {
        let first = monotonic();
        assert!(monotonic() >= first);
    }
}
