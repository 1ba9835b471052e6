//! Token buckets: how many requests a caller may make.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use crate::sys::clock;

/// Callers remembered. A forgotten one starts with a full bucket, so whoever has more than this many addresses or
/// accounts gets a burst for each, which is what the burst allows anyway.
const CALLERS_MAX: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// One bucket for each caller.
pub struct Buckets<K> {
    per_sec: f64,
    burst: f64,
    buckets: Mutex<LruCache<K, Bucket>>,
}

impl<K: Hash + Eq> Buckets<K> {
    /// Buckets that hold `burst` and fill at `per_sec`.
    pub fn new(per_sec: u32, burst: u32) -> Self {
        let buckets = Mutex::new(LruCache::new(CALLERS_MAX));
        Self { per_sec: f64::from(per_sec.max(1)), burst: f64::from(burst.max(1)), buckets }
    }

    /// Takes one token from the caller's bucket.
    ///
    /// # Errors
    /// How long until there is one again.
    pub fn take(&self, caller: K) -> Result<(), Duration> {
        self.take_at(caller, clock::monotonic())
    }

    fn take_at(&self, caller: K, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        let bucket = buckets.get_or_insert_mut(caller, || Bucket { tokens: self.burst, filled: now });
        let fresh = now.saturating_duration_since(bucket.filled).as_secs_f64() * self.per_sec;
        bucket.tokens = (bucket.tokens + fresh).min(self.burst);
        bucket.filled = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - bucket.tokens) / self.per_sec))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_and_callers_do_not_share() {
        let buckets = Buckets::new(10, 5);
        let start = clock::monotonic();
        let after = |ms| start + Duration::from_millis(ms);
        let passes = |ms| (0..8).filter(|_| buckets.take_at("a", after(ms)).is_ok()).count();
        assert_eq!(passes(0), 5);
        let wait = buckets.take_at("a", after(0)).unwrap_err();
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
        assert!(buckets.take_at("b", after(0)).is_ok());
        assert_eq!(passes(350), 3);
        assert_eq!(passes(3_600_000), 5);
        // A clock read by another thread may be a little behind.
        assert_eq!(passes(3_599_000), 0);
    }
}
