//! The log store's twin in memory: the same promises but durability, for tests of what stands on it.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use super::{BoxRow, Job, LogStore, MemberRow, Session, StoreError, Waste, Write};
use crate::format::{AccountId, BlobId, ChainHash, DbId, DeviceId, EntryHash, Head, InviteKey, KeyBox};
use crate::keyring::AuthorState;

struct Device {
    sign: [u8; 32],
    revoked: bool,
}

#[derive(Default)]
struct Account {
    head: Option<Head>,
    entries: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Db {
    entries: Vec<(EntryHash, ChainHash, Vec<u8>)>,
    payer: Option<AccountId>,
    standing: Option<Vec<u8>>,
    authors: HashMap<DeviceId, AuthorState>,
    boxes: BTreeMap<u64, Vec<(KeyBox, [u8; 32])>>,
    members: BTreeMap<AccountId, MemberRow>,
    former: BTreeMap<AccountId, u64>,
    redemptions: BTreeMap<InviteKey, Vec<u8>>,
    blobs: BTreeMap<BlobId, u64>,
    waste: BTreeMap<BlobId, i64>,
    lock_holders: BTreeMap<(AccountId, DeviceId), i64>,
}

impl Db {
    fn head(&self) -> Option<Head> {
        self.entries.last().map(|(_, chain, _)| Head { seq: self.entries.len() as u64, chain: *chain })
    }
}

#[derive(Default)]
struct Held {
    accounts: BTreeMap<AccountId, Account>,
    devices: BTreeMap<(AccountId, DeviceId), Device>,
    invites: BTreeMap<[u8; 32], u32>,
    admissions: BTreeMap<[u8; 32], (AccountId, i64, DbId, InviteKey)>,
    sessions: BTreeMap<[u8; 32], Session>,
    dbs: BTreeMap<DbId, Db>,
}

impl Held {
    /// Whether what `write` expects is so.
    fn expected(&self, write: &Write) -> Result<(), StoreError> {
        let (holds, what) = match write {
            Write::AccountEntry { account, head, .. } => {
                let last = self.accounts.get(account).and_then(|account| account.head).map_or(0, |head| head.seq);
                (last + 1 == head.seq, "account log")
            }
            Write::SpendInvite { hash, now_ms } => {
                let lasts = self.admissions.get(hash).is_none_or(|(_, ends_ms, ..)| ends_ms >= now_ms);
                (lasts && self.invites.get(hash).is_some_and(|uses| *uses > 0), "invite")
            }
            Write::AddAdmission { hash, account, most, now_ms, .. } => {
                let open = self.admissions.iter().filter(|(hash, (by, ends_ms, ..))| {
                    by == account && ends_ms >= now_ms && self.invites.get(*hash).is_some_and(|uses| *uses > 0)
                });
                (self.invites.contains_key(hash) || open.count() < *most as usize, "admissions")
            }
            Write::AddRedemption { db, key, bytes } => {
                let waiting = self.dbs.get(db).and_then(|db| db.redemptions.get(key));
                (waiting.is_none_or(|waiting| waiting == bytes), "redemption")
            }
            Write::AddSession { session, .. } => {
                let device = self.devices.get(&(session.account, session.device));
                (device.is_some_and(|device| !device.revoked), "device")
            }
            Write::Entry { db, head, .. } => {
                let last = self.dbs.get(db).and_then(Db::head).map_or(0, |head| head.seq);
                (last + 1 == head.seq, "folder log")
            }
            Write::ExpectEntry { db, hash } => {
                let stored = |db: &Db| db.entries.iter().any(|(stored, ..)| stored == hash);
                (self.dbs.get(db).is_some_and(stored), "entry")
            }
            Write::Discard { db, blob, due_ms } => {
                (self.dbs.get(db).and_then(|db| db.waste.get(blob)) == Some(due_ms), "waste")
            }
            _ => (true, ""),
        };
        if holds { Ok(()) } else { Err(StoreError::Outdated(what)) }
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::AccountEntry { account, head, bytes } => {
                let account = self.accounts.entry(account).or_default();
                account.head = Some(head);
                account.entries.push(bytes);
            }
            Write::AddDevice { account, device, sign } => {
                self.devices.entry((account, device)).or_insert(Device { sign, revoked: false });
            }
            Write::RevokeDevice { account, device } => {
                if let Some(known) = self.devices.get_mut(&(account, device)) {
                    known.revoked = true;
                }
                self.sessions.retain(|_, session| (session.account, session.device) != (account, device));
            }
            Write::AddInvite { hash, uses } => {
                self.invites.insert(hash, uses);
            }
            Write::AddAdmission { hash, account, db, key, ends_ms, .. } => {
                if self.invites.contains_key(&hash) {
                    return;
                }
                self.invites.insert(hash, 1);
                self.admissions.insert(hash, (account, ends_ms, db, key));
            }
            Write::AddRedemption { db, key, bytes } => {
                self.dbs.entry(db).or_default().redemptions.insert(key, bytes);
            }
            Write::CloseInvite { db, key } => {
                self.dbs.entry(db).or_default().redemptions.remove(&key);
                let (closed, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.admissions)
                    .into_iter()
                    .partition(|(_, (_, _, in_db, by))| (*in_db, *by) == (db, key));
                self.admissions = kept.into_iter().collect();
                for (hash, _) in closed {
                    self.invites.remove(&hash);
                }
            }
            Write::SpendInvite { hash, .. } => {
                if let Some(uses) = self.invites.get_mut(&hash) {
                    *uses -= 1;
                }
            }
            Write::AddSession { hash, session } => {
                self.sessions.insert(hash, session);
            }
            Write::ForgetSessions { before_ms } => self.sessions.retain(|_, session| session.expires_ms >= before_ms),
            Write::Entry { db, head, hash, bytes } => {
                self.dbs.entry(db).or_default().entries.push((hash, head.chain, bytes));
            }
            Write::ExpectEntry { .. } => {}
            Write::Boxes { db, seq, boxes } => {
                self.dbs.entry(db).or_default().boxes.insert(seq, boxes);
            }
            Write::Member { db, account, row: Some(row) } => {
                self.dbs.entry(db).or_default().members.insert(account, row);
            }
            Write::Member { db, account, row: None } => {
                self.dbs.entry(db).or_default().members.remove(&account);
            }
            Write::Former { db, account, seq } => {
                self.dbs.entry(db).or_default().former.insert(account, seq);
            }
            Write::Payer { db, account } => self.dbs.entry(db).or_default().payer = Some(account),
            Write::Author { db, device, last } => {
                self.dbs.entry(db).or_default().authors.insert(device, last);
            }
            Write::Standing { db, bytes } => self.dbs.entry(db).or_default().standing = Some(bytes),
            Write::Upload { db, blob, due_ms } => {
                let db = self.dbs.entry(db).or_default();
                match db.blobs.get_mut(&blob.id) {
                    Some(size) if *size == 0 => *size = blob.size_bytes,
                    Some(_) => {}
                    None => {
                        db.blobs.insert(blob.id, blob.size_bytes);
                        db.waste.insert(blob.id, due_ms);
                    }
                }
            }
            Write::Blob { db, blob } => {
                let db = self.dbs.entry(db).or_default();
                db.blobs.insert(blob.id, blob.size_bytes);
                db.waste.remove(&blob.id);
            }
            Write::Release { db, blob, due_ms, .. } => {
                let db = self.dbs.entry(db).or_default();
                if db.blobs.contains_key(&blob) {
                    db.waste.insert(blob, due_ms);
                }
            }
            Write::Postpone { db, blob, due_ms, until_ms } => {
                let waste = self.dbs.get_mut(&db).and_then(|db| db.waste.get_mut(&blob));
                if let Some(due) = waste.filter(|due| **due == due_ms) {
                    *due = until_ms;
                }
            }
            Write::Discard { db, blob, .. } => {
                let db = self.dbs.entry(db).or_default();
                db.waste.remove(&blob);
                db.blobs.remove(&blob);
            }
            Write::LockHolder { db, account, device, until_ms, now_ms } => {
                let holders = &mut self.dbs.entry(db).or_default().lock_holders;
                holders.retain(|_, until| *until > now_ms);
                holders.insert((account, device), until_ms);
            }
        }
    }
}

/// Logs in memory.
#[derive(Default)]
pub struct MemoryStore(Mutex<Held>);

/// Position of the entry with this sequence number.
fn index(seq: u64) -> Option<usize> {
    usize::try_from(seq.checked_sub(1)?).ok()
}

impl MemoryStore {
    fn of<T>(&self, db: &DbId, read: impl FnOnce(&Db) -> Option<T>) -> Option<T> {
        self.0.lock().dbs.get(db).and_then(read)
    }
}

impl LogStore for MemoryStore {
    fn commit(&self, jobs: &[Job]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let mut held = self.0.lock();
        let mut results = Vec::with_capacity(jobs.len());
        for job in jobs {
            // No job has a write that expects what another write of the same job does.
            let expected = job.iter().try_for_each(|write| held.expected(write));
            if expected.is_ok() {
                job.iter().for_each(|write| held.apply(write.clone()));
            }
            results.push(expected);
        }
        Ok(results)
    }

    fn account_head(&self, account: &AccountId) -> Result<Option<Head>, StoreError> {
        Ok(self.0.lock().accounts.get(account).and_then(|account| account.head))
    }

    fn account_entries(&self, account: &AccountId, after: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let held = self.0.lock();
        let entries = held.accounts.get(account).map_or(&[][..], |account| &account.entries);
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        Ok(entries.iter().skip(skip).take(limit).cloned().collect())
    }

    fn device_key(&self, account: &AccountId, device: &DeviceId) -> Result<Option<[u8; 32]>, StoreError> {
        let held = self.0.lock();
        let device = held.devices.get(&(*account, *device)).filter(|device| !device.revoked);
        Ok(device.map(|device| device.sign))
    }

    fn session(&self, hash: &[u8; 32]) -> Result<Option<Session>, StoreError> {
        Ok(self.0.lock().sessions.get(hash).copied())
    }

    fn has_invites(&self) -> Result<bool, StoreError> {
        Ok(!self.0.lock().invites.is_empty())
    }

    fn head(&self, db: &DbId) -> Result<Option<Head>, StoreError> {
        Ok(self.of(db, Db::head))
    }

    fn chain_at(&self, db: &DbId, seq: u64) -> Result<Option<ChainHash>, StoreError> {
        Ok(self.of(db, |db| db.entries.get(index(seq)?).map(|(_, chain, _)| *chain)))
    }

    fn seq_of(&self, db: &DbId, hash: &EntryHash) -> Result<Option<u64>, StoreError> {
        let position = self.of(db, |db| db.entries.iter().position(|(stored, ..)| stored == hash));
        Ok(position.map(|at| at as u64 + 1))
    }

    fn entries(&self, db: &DbId, after: u64, max_bytes: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let found = self.of(db, |db| {
            let (mut entries, mut room) = (Vec::<Vec<u8>>::new(), max_bytes);
            for (_, _, bytes) in db.entries.iter().skip(usize::try_from(after).unwrap_or(usize::MAX)) {
                if bytes.len() > room && !entries.is_empty() {
                    break;
                }
                room = room.saturating_sub(bytes.len());
                entries.push(bytes.clone());
            }
            Some(entries)
        });
        Ok(found.unwrap_or_default())
    }

    fn member_box(&self, db: &DbId, seq: u64, account: &AccountId) -> Result<Option<BoxRow>, StoreError> {
        Ok(self.of(db, |db| {
            let boxes = db.boxes.get(&seq)?;
            let at = boxes.iter().position(|(key_box, _)| key_box.account == *account)?;
            Some(BoxRow { key_box: boxes[at].0.clone(), index: u32::try_from(at).ok()? })
        }))
    }

    fn leaves(&self, db: &DbId, seq: u64) -> Result<Vec<[u8; 32]>, StoreError> {
        let leaves = self.of(db, |db| Some(db.boxes.get(&seq)?.iter().map(|(_, leaf)| *leaf).collect()));
        Ok(leaves.unwrap_or_default())
    }

    fn member(&self, db: &DbId, account: &AccountId) -> Result<Option<MemberRow>, StoreError> {
        Ok(self.of(db, |db| db.members.get(account).copied()))
    }

    fn members(&self, db: &DbId) -> Result<Vec<(AccountId, MemberRow)>, StoreError> {
        let members = self.of(db, |db| Some(db.members.iter().map(|(account, row)| (*account, *row)).collect()));
        Ok(members.unwrap_or_default())
    }

    fn former(&self, db: &DbId, account: &AccountId) -> Result<Option<u64>, StoreError> {
        Ok(self.of(db, |db| db.former.get(account).copied()))
    }

    fn lock_holders(&self, db: &DbId, now_ms: i64) -> Result<Vec<(AccountId, DeviceId)>, StoreError> {
        let held = self.0.lock();
        let holders = held.dbs.get(db).into_iter().flat_map(|db| &db.lock_holders);
        Ok(holders.filter(|(_, until)| **until > now_ms).map(|(who, _)| *who).collect())
    }

    fn dbs_of(&self, account: &AccountId) -> Result<Vec<(DbId, u64, MemberRow)>, StoreError> {
        let held = self.0.lock();
        let of_account = held.dbs.iter().filter_map(|(id, db)| {
            let row = db.members.get(account)?;
            Some((*id, db.entries.len() as u64, *row))
        });
        Ok(of_account.collect())
    }

    fn redemptions(&self, db: &DbId) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self.of(db, |db| Some(db.redemptions.values().cloned().collect())).unwrap_or_default())
    }

    fn standing(&self, db: &DbId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.of(db, |db| db.standing.clone()))
    }

    fn authors(&self, db: &DbId) -> Result<HashMap<DeviceId, AuthorState>, StoreError> {
        Ok(self.of(db, |db| Some(db.authors.clone())).unwrap_or_default())
    }

    fn payer(&self, db: &DbId) -> Result<Option<AccountId>, StoreError> {
        Ok(self.of(db, |db| db.payer))
    }

    fn usage(&self, payer: &AccountId) -> Result<u64, StoreError> {
        let held = self.0.lock();
        let paid = held.dbs.values().filter(|db| db.payer == Some(*payer));
        Ok(paid.flat_map(|db| db.blobs.values()).sum())
    }

    fn waste(&self, now_ms: i64, limit: usize) -> Result<Vec<Waste>, StoreError> {
        let held = self.0.lock();
        let all = held.dbs.iter().flat_map(|(db, of)| {
            of.waste.iter().map(move |(blob, due_ms)| Waste {
                db: *db,
                blob: *blob,
                due_ms: *due_ms,
                size_bytes: of.blobs.get(blob).copied().unwrap_or(0),
            })
        });
        let mut due: Vec<Waste> = all.filter(|waste| waste.due_ms <= now_ms).collect();
        due.sort_by_key(|waste| waste.due_ms);
        due.truncate(limit);
        Ok(due)
    }

    fn waste_of(&self, db: &DbId, blob: &BlobId) -> Result<Option<Waste>, StoreError> {
        let all = self.waste(i64::MAX, usize::MAX)?;
        Ok(all.into_iter().find(|waste| waste.db == *db && waste.blob == *blob))
    }

    fn unknown_blobs(&self, db: &DbId, blobs: &[BlobId]) -> Result<Vec<BlobId>, StoreError> {
        let held = self.0.lock();
        let known = |id: &&BlobId| held.dbs.get(db).is_some_and(|db| db.blobs.contains_key(*id));
        Ok(blobs.iter().filter(|id| !known(id)).copied().collect())
    }

    fn next_waste_ms(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.waste(i64::MAX, 1)?.first().map(|waste| waste.due_ms))
    }

    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
