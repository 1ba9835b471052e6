//! How much room each account's folders take.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::Refused;
use super::store::LogStore;
use crate::api::{Detail, ErrorCode};
use crate::format::AccountId;
use crate::sys::clock;

/// How long a number in memory is used before it is counted again: folders change hands, and summing up the blobs of
/// an account takes a second for a few million of them.
const COUNTED_FOR: Duration = Duration::from_secs(300);

struct Used {
    stored_bytes: u64,
    reserved_bytes: u64,
    counted: Instant,
}

/// Room taken by all accounts.
pub struct Quota {
    limit_bytes: u64,
    store: Arc<dyn LogStore>,
    used: Mutex<HashMap<AccountId, Used>>,
}

/// Room held for an upload under way; given back when dropped.
pub struct Reservation {
    quota: Arc<Quota>,
    payer: AccountId,
    bytes: u64,
}

impl Quota {
    /// `limit_bytes` for each account.
    pub fn new(limit_bytes: u64, store: Arc<dyn LogStore>) -> Self {
        Self { limit_bytes, store, used: Mutex::default() }
    }

    /// Holds `bytes` of the account's room. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::Quota`].
    pub fn reserve(self: &Arc<Self>, payer: AccountId, bytes: u64) -> Result<Reservation, Refused> {
        let now = clock::monotonic();
        let fresh = |used: &Used| now.saturating_duration_since(used.counted) < COUNTED_FOR;
        let known = self.used.lock().get(&payer).is_some_and(fresh);
        let counted = if known { None } else { Some(self.store.usage(&payer)?) };
        let mut all = self.used.lock();
        let used = all.entry(payer).or_insert(Used { stored_bytes: 0, reserved_bytes: 0, counted: now });
        if let Some(stored_bytes) = counted {
            (used.stored_bytes, used.counted) = (stored_bytes, now);
        }
        if used.stored_bytes + used.reserved_bytes + bytes > self.limit_bytes {
            let message = format!(
                "the folders of their owner take {} of {} bytes: there is no room for this upload",
                used.stored_bytes, self.limit_bytes
            );
            return Err(Refused::new(ErrorCode::Quota, message).with(Detail::Limit(self.limit_bytes)));
        }
        used.reserved_bytes += bytes;
        Ok(Reservation { quota: self.clone(), payer, bytes })
    }
}

impl Reservation {
    /// The upload has arrived and takes this much.
    pub fn stored(self, bytes: u64) {
        if let Some(used) = self.quota.used.lock().get_mut(&self.payer) {
            used.stored_bytes += bytes;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(used) = self.quota.used.lock().get_mut(&self.payer) {
            used.reserved_bytes = used.reserved_bytes.saturating_sub(self.bytes);
        }
    }
}
