//! How long to wait before trying again.

use std::time::Duration;

use crate::sys::random;

/// First pause. A server that restarts is back within a few of them.
const FIRST: Duration = Duration::from_millis(200);
/// Longest pause. Whoever waits longer is told by the event stream's return instead.
const LONGEST: Duration = Duration::from_secs(15);

/// Exponential pauses with jitter, so that the clients of a server that comes back do not all come at once.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next pause: doubled each time, between half and all of its nominal length.
    pub fn next(&mut self) -> Duration {
        let nominal = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = u64::try_from(nominal.as_millis() / 2).unwrap_or(u64::MAX);
        let jitter = u64::from_le_bytes(random::array()) % (half + 1);
        Duration::from_millis(half + jitter)
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_anew_after_success() {
        let mut backoff = Backoff::default();
        assert!(backoff.next() <= FIRST);
        let late: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        assert!(late.iter().all(|pause| *pause >= FIRST / 2 && *pause <= LONGEST));
        assert!(late.iter().skip(10).all(|pause| *pause >= LONGEST / 2));
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
