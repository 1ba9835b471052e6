//! Scripted faults in front of a remote: the network's and a bad server's misbehaviour as a library for tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Answer, Events, RangeAnswer, Remote, RemoteError, ServerEvent};
use crate::api::{AccountEntries, Admit, DbHead, Entries, Letter, LockAnswer, LockCall, MemberBox, Redeem, Room, Side};
use crate::format::{AccountId, BlobId, DbId, KeyBox, MailboxId, SignedAccountEntry, SignedEntry};

/// A method of [`Remote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // named after the methods
pub enum Call {
    Register,
    AccountLog,
    AppendAccount,
    Dbs,
    CreateDb,
    Append,
    Entries,
    MemberBox,
    MissingBlobs,
    PutBlob,
    Blob,
    BlobRange,
    Room,
    Clock,
    Locks,
    PutLetter,
    Letter,
    Admit,
    Redeem,
    Redemptions,
    Revocation,
    Events,
}

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It fails before the server hears of it.
    Fail(RemoteError),
    /// The server acts on it; its answer is lost.
    LoseAnswer,
    /// It is late.
    Delay(Duration),
    /// It never answers.
    Hang,
    /// One byte of the blob, range, entry, letter or proof in the answer is another.
    Corrupt,
}

struct Rule {
    call: Call,
    /// Calls to let pass first.
    skip: u32,
    /// Calls to hit then.
    times: u32,
    fault: Fault,
}

/// A remote with faults. Without a script it is the one behind it.
pub struct FailingRemote {
    behind: Arc<dyn Remote>,
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<HashMap<Call, u64>>,
    /// Accounts of which another log is shown than the server has.
    shown: Mutex<HashMap<AccountId, AccountEntries>>,
    offline: AtomicBool,
    cuts: watch::Sender<u64>,
}

impl FailingRemote {
    /// Faults in front of `behind`.
    pub fn new(behind: Arc<dyn Remote>) -> Arc<Self> {
        Arc::new(Self {
            behind,
            rules: Mutex::default(),
            calls: Mutex::default(),
            shown: Mutex::default(),
            offline: AtomicBool::new(false),
            cuts: watch::channel(0).0,
        })
    }

    /// After `skip` more calls of this kind, the next `times` of them suffer `fault`.
    pub fn script(&self, call: Call, skip: u32, times: u32, fault: Fault) {
        self.rules.lock().push(Rule { call, skip, times, fault });
    }

    /// Shows this log of an account, from its first entry, instead of the server's.
    pub fn show_account(&self, account: AccountId, log: AccountEntries) {
        self.shown.lock().insert(account, log);
    }

    /// Forgets the script and what it was to show.
    pub fn behave(&self) {
        self.rules.lock().clear();
        self.shown.lock().clear();
    }

    /// Pulls the network's plug, breaking open event streams, or puts it back in.
    pub fn set_offline(&self, offline: bool) {
        self.offline.store(offline, Ordering::SeqCst);
        if offline {
            self.cuts.send_modify(|cuts| *cuts += 1);
        }
    }

    /// How often `call` was made.
    pub fn calls(&self, call: Call) -> u64 {
        self.calls.lock().get(&call).copied().unwrap_or(0)
    }

    fn fault(&self, call: Call) -> Option<Fault> {
        *self.calls.lock().entry(call).or_default() += 1;
        if self.offline.load(Ordering::SeqCst) {
            return Some(Fault::Fail(RemoteError::Unreachable("the plug is pulled".to_owned())));
        }
        let mut rules = self.rules.lock();
        let mut hit = None;
        for rule in rules.iter_mut().filter(|rule| rule.call == call) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if hit.is_none() && rule.times > 0 {
                rule.times -= 1;
                hit = Some(rule.fault.clone());
            }
        }
        rules.retain(|rule| rule.times > 0);
        hit
    }

    fn meet<'a, T: Send + 'a>(&'a self, call: Call, answer: Answer<'a, T>, corrupt: fn(T) -> T) -> Answer<'a, T> {
        Box::pin(async move {
            match self.fault(call) {
                None => answer.await,
                Some(Fault::Fail(error)) => Err(error),
                Some(Fault::LoseAnswer) => {
                    answer.await?;
                    Err(RemoteError::Unreachable("the answer was lost".to_owned()))
                }
                Some(Fault::Delay(by)) => {
                    tokio::time::sleep(by).await;
                    answer.await
                }
                Some(Fault::Hang) => std::future::pending().await,
                Some(Fault::Corrupt) => answer.await.map(corrupt),
            }
        })
    }
}

fn keep<T>(answer: T) -> T {
    answer
}

fn flip(bytes: Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}

impl Remote for FailingRemote {
    fn register<'a>(&'a self, invite: &'a str, first: &'a SignedAccountEntry) -> Answer<'a, AccountId> {
        self.meet(Call::Register, self.behind.register(invite, first), keep)
    }

    fn account_log(&self, account: AccountId, after: u64) -> Answer<'_, AccountEntries> {
        let shown = self.shown.lock().get(&account).cloned();
        if let Some(mut log) = shown {
            let known = usize::try_from(after).unwrap_or(usize::MAX).min(log.entries.len());
            log.entries.drain(..known);
            return self.meet(Call::AccountLog, Box::pin(std::future::ready(Ok(log))), keep);
        }
        self.meet(Call::AccountLog, self.behind.account_log(account, after), |mut log| {
            if let Some(first) = log.entries.first_mut() {
                first.entry = flip(std::mem::take(&mut first.entry).into()).to_vec();
            }
            log
        })
    }

    fn append_account<'a>(&'a self, account: AccountId, entry: &'a SignedAccountEntry) -> Answer<'a, u64> {
        self.meet(Call::AppendAccount, self.behind.append_account(account, entry), keep)
    }

    fn dbs(&self) -> Answer<'_, Vec<DbHead>> {
        self.meet(Call::Dbs, self.behind.dbs(), keep)
    }

    fn create_db<'a>(&'a self, entry: &'a SignedEntry, boxes: &'a [KeyBox]) -> Answer<'a, DbId> {
        self.meet(Call::CreateDb, self.behind.create_db(entry, boxes), keep)
    }

    fn append<'a>(&'a self, db: DbId, entry: &'a SignedEntry, boxes: &'a [KeyBox]) -> Answer<'a, u64> {
        self.meet(Call::Append, self.behind.append(db, entry, boxes), keep)
    }

    fn entries(&self, db: DbId, after: u64, max_bytes: u64) -> Answer<'_, Entries> {
        self.meet(Call::Entries, self.behind.entries(db, after, max_bytes), |mut page| {
            if let Some(first) = page.entries.first_mut() {
                first.envelope = flip(std::mem::take(&mut first.envelope).into()).to_vec();
            }
            page
        })
    }

    fn member_box(&self, db: DbId, seq: u64) -> Answer<'_, MemberBox> {
        self.meet(Call::MemberBox, self.behind.member_box(db, seq), |mut answer| {
            answer.key_box.sealed = flip(answer.key_box.sealed.into()).to_vec();
            answer
        })
    }

    fn missing_blobs<'a>(&'a self, db: DbId, ids: &'a [BlobId]) -> Answer<'a, Vec<BlobId>> {
        self.meet(Call::MissingBlobs, self.behind.missing_blobs(db, ids), keep)
    }

    fn put_blob(&self, db: DbId, id: BlobId, bytes: Bytes) -> Answer<'_, ()> {
        self.meet(Call::PutBlob, self.behind.put_blob(db, id, bytes), keep)
    }

    fn blob(&self, db: DbId, id: BlobId) -> Answer<'_, Bytes> {
        self.meet(Call::Blob, self.behind.blob(db, id), flip)
    }

    fn blob_range(&self, db: DbId, id: BlobId, offset: u64, len: u64) -> Answer<'_, RangeAnswer> {
        self.meet(Call::BlobRange, self.behind.blob_range(db, id, offset, len), |mut answer| {
            answer.encoded = flip(answer.encoded);
            answer
        })
    }

    fn locks<'a>(&'a self, db: DbId, call: &'a LockCall) -> Answer<'a, LockAnswer> {
        self.meet(Call::Locks, self.behind.locks(db, call), keep)
    }

    fn room(&self, db: DbId) -> Answer<'_, Room> {
        self.meet(Call::Room, self.behind.room(db), keep)
    }

    fn clock(&self) -> Answer<'_, i64> {
        self.meet(Call::Clock, self.behind.clock(), keep)
    }

    fn put_letter<'a>(&'a self, mailbox: MailboxId, side: Side, letter: &'a Letter) -> Answer<'a, ()> {
        self.meet(Call::PutLetter, self.behind.put_letter(mailbox, side, letter), keep)
    }

    fn letter(&self, mailbox: MailboxId, side: Side) -> Answer<'_, Option<Letter>> {
        self.meet(Call::Letter, self.behind.letter(mailbox, side), |letter| {
            letter.map(|letter| Letter { sealed: flip(letter.sealed.into()).to_vec() })
        })
    }

    fn admit(&self, admit: Admit) -> Answer<'_, i64> {
        self.meet(Call::Admit, self.behind.admit(admit), keep)
    }

    fn redeem(&self, redeem: Redeem) -> Answer<'_, bool> {
        self.meet(Call::Redeem, self.behind.redeem(redeem), keep)
    }

    fn redemptions(&self, db: DbId) -> Answer<'_, Vec<Redeem>> {
        self.meet(Call::Redemptions, self.behind.redemptions(db), |mut waiting| {
            if let Some(first) = waiting.first_mut() {
                first.proof[0] ^= 1;
            }
            waiting
        })
    }

    fn revocation(&self, after: u64) -> Answer<'_, AccountEntries> {
        self.meet(Call::Revocation, self.behind.revocation(after), keep)
    }

    fn events(&self) -> Answer<'_, Events> {
        let mut cuts = self.cuts.subscribe();
        let answer = self.meet(Call::Events, self.behind.events(), keep);
        Box::pin(async move {
            let events = answer.await?;
            let cut = async move {
                if cuts.changed().await.is_err() {
                    // The remote is gone, and nobody can pull the plug any more.
                    std::future::pending::<()>().await;
                }
            };
            let broken: Result<ServerEvent, _> = Err(RemoteError::Unreachable("the plug is pulled".to_owned()));
            let broken = futures_util::stream::once(std::future::ready(broken));
            Ok(events.take_until(cut).chain(broken).boxed())
        })
    }
}
