//! Locks of members' devices on files: leases that are kept in memory and pushed to who waits.
//!
//! After a restart nobody is granted anything that a device of before may still hold. Which devices that are is the one
//! thing about locks that is stored, at most twice an hour for each device; so a folder in which nobody held a lock
//! waits for nobody.

mod table;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::auth::now_ms;
use super::commit::Committer;
use super::error::Refused;
use super::folders::Folders;
use super::hub::Hub;
use super::store::{LogStore, Session, Write};
use crate::api::{LockAnswer, LockAsk, LockCall};
use crate::format::{AccountId, DbId};
use crate::sys::clock;

use table::{Caller, Table, Told, Who};

/// How long a device counts as one that may hold locks, in the store: so long a restart may wait for one in vain.
const RECORD_MS: i64 = 3_600_000;
/// Devices of which it is remembered that they are in the store; forgotten ones are stored again.
const RECORDED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// All locks of a server.
pub struct Locks {
    lease: Duration,
    started: Instant,
    hub: Hub,
    store: Arc<dyn LogStore>,
    committer: Committer,
    table: Mutex<Table>,
    /// Until when the store has a device.
    recorded: Mutex<LruCache<(DbId, Who), i64>>,
    /// Folders for whose holders of before the start it was seen to. Used for one lease from the start.
    asked: Mutex<HashSet<DbId>>,
    /// Something watches the time.
    watched: AtomicBool,
}

impl Locks {
    /// Nobody holds anything yet.
    pub fn new(lease: Duration, hub: Hub, store: Arc<dyn LogStore>, committer: Committer) -> Self {
        Self {
            lease,
            started: clock::monotonic(),
            hub,
            store,
            committer,
            table: Mutex::new(Table::new(lease)),
            recorded: Mutex::new(LruCache::new(RECORDED)),
            asked: Mutex::default(),
            watched: AtomicBool::new(false),
        }
    }

    /// Does what a call of a member asks. Blocks, on a thread of a runtime.
    ///
    /// # Errors
    /// Those of [`Folders::member`] and of [`Table::call`].
    pub fn call(
        self: &Arc<Self>,
        session: &Session,
        db: DbId,
        folders: &Folders,
        call: &LockCall,
    ) -> Result<LockAnswer, Refused> {
        let row = folders.member(session, &db)?;
        let epoch = folders.epoch(&db)?;
        let who = (session.account, session.device);
        if matches!(call.ask, LockAsk::Begin(_)) {
            self.record(db, who)?;
        }
        let caller = Caller { who, db, epoch, writes: row.role.writes() };
        self.await_holders_of_before(&db, epoch)?;
        let (result, told) = self.table.lock().call(&caller, call, clock::monotonic())?;
        if matches!(call.ask, LockAsk::Begin(_)) {
            // Removed since it was asked whether it is a member: nobody would take away what it has begun.
            folders.member(session, &db).inspect_err(|_| self.folder_changed(&db, &[session.account], epoch))?;
        }
        if matches!(call.ask, LockAsk::End) && self.recorded.lock().pop(&(db, who)).is_some() {
            let now = now_ms();
            let (account, device) = who;
            self.committer.submit_lazily(vec![Write::LockHolder { db, account, device, until_ms: now, now_ms: now }]);
        }
        self.tell(told);
        self.watch();
        // After the grant: what its former holder did was in the log before it let go.
        let head_seq = self.store.head(&db)?.ok_or_else(Refused::not_found)?.seq;
        Ok(LockAnswer { lease_ms: u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX), head_seq, result })
    }

    /// A folder has other members, or another epoch. Must not block.
    pub fn folder_changed(&self, db: &DbId, gone: &[AccountId], epoch: u32) {
        let now = clock::monotonic();
        let told = {
            let mut table = self.table.lock();
            let mut told: Told = gone.iter().flat_map(|account| table.remove_member(db, account, now)).collect();
            told.extend(table.begin_epoch(db, epoch, now));
            told
        };
        self.tell(told);
    }

    fn tell(&self, told: Told) {
        for ((account, device), event) in told {
            self.hub.lock(&account, &device, event);
        }
    }

    /// Has the table wait for the devices that may carry locks over from before this start.
    fn await_holders_of_before(&self, db: &DbId, epoch: u32) -> Result<(), Refused> {
        let until = self.started + self.lease;
        let mut asked = self.asked.lock();
        if clock::monotonic() >= until {
            *asked = HashSet::new();
        } else if !asked.contains(db) {
            // Under the lock: nobody may be granted anything before this has happened.
            let holders = self.store.lock_holders(db, now_ms())?;
            self.table.lock().await_holders(*db, epoch, holders, until);
            asked.insert(*db);
        }
        Ok(())
    }

    /// The store knows that the device may hold locks, before it does.
    fn record(&self, db: DbId, who: Who) -> Result<(), Refused> {
        let now = now_ms();
        if self.recorded.lock().get(&(db, who)).is_some_and(|until| *until > now + RECORD_MS / 2) {
            return Ok(());
        }
        let until_ms = now + RECORD_MS;
        let (account, device) = who;
        let write = Write::LockHolder { db, account, device, until_ms, now_ms: now };
        self.committer.submit(vec![write]).durable_blocking()?;
        self.recorded.lock().put((db, who), until_ms);
        Ok(())
    }

    /// Has what runs out taken away, for as long as somebody holds something.
    fn watch(self: &Arc<Self>) {
        if self.watched.swap(true, Ordering::AcqRel) {
            return;
        }
        let (tick, weak) = (self.lease / 20, Arc::downgrade(self));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(tick).await;
                let Some(locks) = weak.upgrade() else { return };
                let told = {
                    let mut table = locks.table.lock();
                    let told = table.expire(clock::monotonic());
                    if table.is_idle() {
                        locks.watched.store(false, Ordering::Release);
                        return;
                    }
                    told
                };
                locks.tell(told);
            }
        });
    }
}
