//! Wall-clock and monotonic time.
//!
//! Must not know what the times are for. Wall-clock time can jump both ways and is only ever
//! shown or recorded; whatever waits or measures uses [`monotonic`].

use std::ops::Add;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

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
/// It stands still while the machine is suspended: see [`boottime`].
pub fn monotonic() -> Instant {
    Instant::now()
}

/// A point of [`boottime`]'s clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(Duration);

impl Boottime {
    /// The beginning of the clock, which is before every point of it.
    pub const START: Self = Self(Duration::ZERO);

    /// How long it is from `earlier` to this; zero where that comes later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Boottime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// The clock that goes on while the machine is suspended (`CLOCK_BOOTTIME`): for what others count on the end of, who
/// were not suspended.
pub fn boottime() -> Boottime {
    // Linux has it since 2.6.39. Without it the time would stand at a point from which nothing ends too late.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Boottime(Duration::MAX), |time| Boottime(time.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_counts_nanoseconds_since_1970() {
        // 2020-01-01 and 2200-01-01 in nanoseconds: catches seconds, millis and micros.
        assert!((1_577_836_800_000_000_000..7_258_118_400_000_000_000).contains(&unix_nanos()));
    }

    #[test]
    fn boot_time_runs_beside_the_monotonic_clock_and_is_ahead_of_it_by_what_was_slept() {
        let of = |id| Duration::from(clock_gettime(id).unwrap());
        let (before, point, after) = (of(ClockId::CLOCK_MONOTONIC), boottime(), of(ClockId::CLOCK_BOOTTIME));
        assert!((before..=after).contains(&point.saturating_duration_since(Boottime::START)));
        assert_eq!((point + Duration::from_secs(3)).saturating_duration_since(point), Duration::from_secs(3));
    }

    #[test]
    fn monotonic_time_never_goes_back() {
        let first = monotonic();
        assert!(monotonic() >= first);
    }
}
