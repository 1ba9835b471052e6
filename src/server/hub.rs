//! Who listens to what: new heads on their way to event streams.
//!
//! A stream holds at most one number for each folder, the newest head; so a reader who is slow skips heads instead of
//! filling memory. The hub is told of entries by the committing thread, in the order of the log and only when they are
//! durable, and of memberships in the same way, so that no removed member hears of later entries.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::error::Refused;
use super::store::{LogStore, MemberRow, Session};
use crate::api::{Detail, ErrorCode, HeadEvent, LockEvent};
use crate::format::{AccountId, DbId, DeviceId};

/// Lock events that a slow reader may have waiting.
const LOCKS_MAX: usize = 1024;

/// What a stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubEvent {
    /// A folder has grown.
    Head(HeadEvent),
    /// Something about a lock.
    Lock(LockEvent),
}

/// One open stream's mailbox.
struct Stream {
    id: u64,
    device: DeviceId,
    news: Mutex<News>,
    wake: Notify,
}

#[derive(Default)]
struct News {
    heads: BTreeMap<DbId, u64>,
    locks: BTreeSet<LockEvent>,
    closed: bool,
}

impl Stream {
    fn tell(&self, db: DbId, seq: u64) {
        let mut news = self.news.lock();
        let newest = news.heads.entry(db).or_insert(seq);
        *newest = seq.max(*newest);
        drop(news);
        self.wake.notify_one();
    }

    fn tell_lock(&self, event: LockEvent) {
        let mut news = self.news.lock();
        // Whoever misses one asks again soon.
        if news.locks.len() < LOCKS_MAX {
            news.locks.insert(event);
        }
        drop(news);
        self.wake.notify_one();
    }

    fn close(&self) {
        self.news.lock().closed = true;
        self.wake.notify_one();
    }
}

#[derive(Default)]
struct Listening {
    next_id: u64,
    /// Counts memberships told; whoever read the store meanwhile reads again.
    changes: u64,
    closed: bool,
    streams: HashMap<AccountId, Vec<Arc<Stream>>>,
    /// Listening members of each folder that has any.
    dbs: HashMap<DbId, HashMap<AccountId, MemberRow>>,
}

impl Listening {
    fn tell(&self, account: &AccountId, db: DbId, seq: u64) {
        for stream in self.streams.get(account).into_iter().flatten() {
            stream.tell(db, seq);
        }
    }

    fn leave(&mut self, account: &AccountId, id: u64) {
        let Some(streams) = self.streams.get_mut(account) else { return };
        streams.retain(|stream| stream.id != id);
        if streams.is_empty() {
            self.streams.remove(account);
            self.dbs.retain(|_, members| {
                members.remove(account);
                !members.is_empty()
            });
        }
    }
}

/// All event streams of one server.
#[derive(Clone, Default)]
pub struct Hub(Arc<Mutex<Listening>>);

/// The reading end of a stream. Dropped, it leaves the hub.
pub struct Listener {
    hub: Hub,
    account: AccountId,
    stream: Arc<Stream>,
}

impl Hub {
    /// Opens a stream: from now on no head of the caller's folders is missed. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`] when the account has `max` already; those of the store.
    pub fn listen(&self, who: &Session, max: usize, store: &dyn LogStore) -> Result<Listener, Refused> {
        let account = who.account;
        let stream = {
            let mut listening = self.0.lock();
            listening.next_id += 1;
            let id = listening.next_id;
            let closed = listening.closed;
            let streams = listening.streams.entry(account).or_default();
            if streams.len() >= max {
                let message = "too many event streams of this account are open";
                return Err(Refused::new(ErrorCode::Busy, message).with(Detail::RetryAfterMs(10_000)));
            }
            let news = Mutex::new(News { closed, ..News::default() });
            let stream = Arc::new(Stream { id, device: who.device, news, wake: Notify::new() });
            streams.push(stream.clone());
            stream
        };
        let listener = Listener { hub: self.clone(), account, stream };
        loop {
            let before = self.0.lock().changes;
            let memberships = store.dbs_of(&account)?;
            let mut listening = self.0.lock();
            // A removal may have been told between reading and now.
            if listening.changes == before {
                for (db, _, row) in memberships {
                    listening.dbs.entry(db).or_default().insert(account, row);
                }
                return Ok(listener);
            }
        }
    }

    /// An entry is durable, with the memberships that it changed. A removed member is told of that entry and no later
    /// one, so that its client finds out at once.
    pub fn entry(&self, db: DbId, seq: u64, changed: &[(AccountId, Option<MemberRow>)], now_ms: i64) {
        let mut listening = self.0.lock();
        for (account, row) in changed {
            listening.changes += 1;
            if !listening.streams.contains_key(account) {
                continue;
            }
            match row {
                Some(row) => {
                    listening.dbs.entry(db).or_default().insert(*account, *row);
                }
                None => {
                    listening.tell(account, db, seq);
                    if let Some(members) = listening.dbs.get_mut(&db) {
                        members.remove(account);
                    }
                }
            }
        }
        let Some(members) = listening.dbs.get(&db) else { return };
        for (account, _) in members.iter().filter(|(_, row)| row.holds(now_ms)) {
            listening.tell(account, db, seq);
        }
    }

    /// Tells a device that something about a lock changed.
    pub fn lock(&self, account: &AccountId, device: &DeviceId, event: LockEvent) {
        let listening = self.0.lock();
        let theirs = listening.streams.get(account).into_iter().flatten();
        theirs.filter(|stream| stream.device == *device).for_each(|stream| stream.tell_lock(event));
    }

    /// Ends the streams of a revoked device.
    pub fn revoked(&self, account: &AccountId, device: &DeviceId) {
        for stream in self.0.lock().streams.get(account).into_iter().flatten() {
            if stream.device == *device {
                stream.close();
            }
        }
    }

    /// Ends all streams, also those that are opened from now on: the server is stopping.
    pub fn close(&self) {
        let mut listening = self.0.lock();
        listening.closed = true;
        listening.streams.values().flatten().for_each(|stream| stream.close());
    }
}

impl Listener {
    /// What is next; `None` when the stream is to end.
    pub async fn next(&self) -> Option<HubEvent> {
        loop {
            {
                let mut news = self.stream.news.lock();
                if news.closed {
                    return None;
                }
                // Heads first: what a lock was released for is in them.
                if let Some((db, seq)) = news.heads.pop_first() {
                    return Some(HubEvent::Head(HeadEvent { db, seq }));
                }
                if let Some(event) = news.locks.pop_first() {
                    return Some(HubEvent::Lock(event));
                }
            }
            // A notification between the look above and this one is kept by `Notify`.
            self.stream.wake.notified().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.hub.0.lock().leave(&self.account, self.stream.id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::{MemoryStore, Write};
    use super::*;
    use crate::format::{ChainHash, EntryHash, Head, Role};

    const DB: DbId = DbId([1; 32]);
    const ALICE: AccountId = AccountId([0xa; 32]);
    const BOB: AccountId = AccountId([0xb; 32]);
    const ROW: MemberRow = MemberRow { role: Role::Editor, expires_ms: None };

    fn session(account: AccountId, device: u8) -> Session {
        Session { account, device: DeviceId([device; 32]), expires_ms: i64::MAX }
    }

    fn store() -> MemoryStore {
        let store = MemoryStore::default();
        let head = Head { seq: 1, chain: ChainHash::ZERO };
        let entry = Write::Entry { db: DB, head, hash: EntryHash::ZERO, bytes: vec![] };
        store.commit(&[vec![entry, Write::Member { db: DB, account: ALICE, row: Some(ROW) }]]).unwrap();
        store
    }

    async fn heard(listener: &Listener) -> Option<u64> {
        let soon = std::time::Duration::from_millis(20);
        match tokio::time::timeout(soon, listener.next()).await.ok().flatten()? {
            HubEvent::Head(head) => Some(head.seq),
            HubEvent::Lock(event) => panic!("{event}"),
        }
    }

    #[tokio::test]
    async fn members_hear_the_newest_head_and_others_nothing() {
        let (hub, store) = (Hub::default(), store());
        let alice = hub.listen(&session(ALICE, 1), 9, &store).unwrap();
        let bob = hub.listen(&session(BOB, 2), 9, &store).unwrap();
        (2..=50).for_each(|seq| hub.entry(DB, seq, &[], 0));
        assert_eq!(heard(&alice).await, Some(50));
        assert_eq!(heard(&alice).await, None);
        assert_eq!(heard(&bob).await, None);
    }

    #[tokio::test]
    async fn a_device_hears_of_its_locks_and_other_devices_do_not() {
        let (hub, store) = (Hub::default(), store());
        let one = hub.listen(&session(ALICE, 1), 9, &store).unwrap();
        let two = hub.listen(&session(ALICE, 2), 9, &store).unwrap();
        let event = LockEvent { db: DB, token: crate::format::LockToken([7; 16]) };
        hub.lock(&ALICE, &DeviceId([1; 32]), event);
        hub.lock(&ALICE, &DeviceId([1; 32]), event);
        assert_eq!(one.next().await, Some(HubEvent::Lock(event)));
        assert_eq!(heard(&one).await, None, "told once");
        assert_eq!(heard(&two).await, None);
    }

    #[tokio::test]
    async fn joining_removal_and_expiry_decide_who_hears() {
        let (hub, store) = (Hub::default(), store());
        let bob = hub.listen(&session(BOB, 2), 9, &store).unwrap();
        hub.entry(DB, 2, &[(BOB, Some(MemberRow { expires_ms: Some(100), ..ROW }))], 0);
        assert_eq!(heard(&bob).await, Some(2));
        hub.entry(DB, 3, &[], 100);
        assert_eq!(heard(&bob).await, None, "expired");
        hub.entry(DB, 4, &[(BOB, Some(ROW))], 100);
        assert_eq!(heard(&bob).await, Some(4));
        hub.entry(DB, 5, &[(BOB, None)], 100);
        assert_eq!(heard(&bob).await, Some(5), "its own removal");
        hub.entry(DB, 6, &[], 100);
        assert_eq!(heard(&bob).await, None);
    }

    #[tokio::test]
    async fn streams_are_counted_and_end_with_their_device_and_the_server() {
        let (hub, store) = (Hub::default(), store());
        let one = hub.listen(&session(ALICE, 1), 2, &store).unwrap();
        let two = hub.listen(&session(ALICE, 2), 2, &store).unwrap();
        assert_eq!(hub.listen(&session(ALICE, 3), 2, &store).err().unwrap().0.code, ErrorCode::Busy);
        hub.revoked(&ALICE, &DeviceId([2; 32]));
        assert!(two.next().await.is_none());
        hub.entry(DB, 2, &[], 0);
        assert_eq!(heard(&one).await, Some(2));
        drop(two);
        let three = hub.listen(&session(ALICE, 3), 2, &store).unwrap();
        hub.close();
        assert!(one.next().await.is_none() && three.next().await.is_none());
        drop((one, three));
        assert!(hub.listen(&session(ALICE, 1), 2, &store).unwrap().next().await.is_none());
        assert!(hub.0.lock().dbs.is_empty() && hub.0.lock().streams.is_empty());
    }
}
