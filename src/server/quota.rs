//! How much room each account's folders take.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::error::Refused;
use super::store::LogStore;
use crate::api::{Detail, ErrorCode, Room};
use crate::format::AccountId;
use crate::sys::clock;

/// How long a number in memory is used before it is counted again: folders change hands, and summing up the blobs of
/// an account takes a second for a few million of them.
const COUNTED_FOR: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Used {
    stored_bytes: u64,
    reserved_bytes: u64,
    counted: Option<Instant>,
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
        let mut all = self.counted(payer)?;
        let used = all.entry(payer).or_default();
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

    /// How much the account may take, and takes with what is held for it. Blocks.
    ///
    /// # Errors
    /// Those of the store.
    pub fn room(&self, payer: AccountId) -> Result<Room, Refused> {
        let mut all = self.counted(payer)?;
        let used = all.entry(payer).or_default();
        let used_bytes = used.stored_bytes + used.reserved_bytes;
        Ok(Room { payer, limit_bytes: self.limit_bytes, used_bytes })
    }

    /// The numbers in memory, the account's among them and not too old.
    fn counted(&self, payer: AccountId) -> Result<MutexGuard<'_, HashMap<AccountId, Used>>, Refused> {
        let now = clock::monotonic();
        let fresh = |at: Instant| now.saturating_duration_since(at) < COUNTED_FOR;
        let known = self.used.lock().get(&payer).and_then(|used| used.counted).is_some_and(fresh);
        // Not under the lock: it takes a while.
        let stored = if known { None } else { Some(self.store.usage(&payer)?) };
        let mut all = self.used.lock();
        if let Some(stored_bytes) = stored {
            let used = all.entry(payer).or_default();
            (used.stored_bytes, used.counted) = (stored_bytes, Some(now));
        }
        Ok(all)
    }

    /// So much was removed of what the account's folders take.
    pub fn give_back(&self, payer: &AccountId, bytes: u64) {
        if let Some(used) = self.used.lock().get_mut(payer) {
            used.stored_bytes = used.stored_bytes.saturating_sub(bytes);
        }
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
