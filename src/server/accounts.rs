//! Account logs: registration, what is appended to them, and the verified logs that folders are checked against.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::auth::{invite_hash, now_ms};
use super::commit::{CommitError, Committer};
use super::error::Refused;
use super::store::{Job, LogStore, Session, StoreError, Write};
use crate::api::limits::ACCOUNT_ENTRIES_MAX;
use crate::api::{AccountEntries, Appended, Detail, ErrorCode, Register, Registered};
use crate::format::{AccountChange, AccountEntry, AccountId, DeviceId, Head, SignedAccountEntry, decode, encode};
use crate::keyring::{AccountLog, AccountLogs, device_id};

/// Verified logs in memory. One has a few kilobytes.
const CACHED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// The accounts of one server.
pub struct Accounts {
    store: Arc<dyn LogStore>,
    committer: Committer,
    verified: Mutex<LruCache<AccountId, Arc<AccountLog>>>,
    /// Held while a log grows. Accounts change rarely, so one lock is enough for all.
    growing: Mutex<()>,
}

impl Accounts {
    /// The accounts in `store`.
    pub fn new(store: Arc<dyn LogStore>, committer: Committer) -> Self {
        Self { store, committer, verified: Mutex::new(LruCache::new(CACHED)), growing: Mutex::default() }
    }

    /// Admits a new account. The same first entry again succeeds and spends nothing. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::EntryRefused`], [`ErrorCode::BadInvite`].
    pub fn register(&self, request: &Register) -> Result<Registered, Refused> {
        let log = AccountLog::verify(std::slice::from_ref(&request.first)).map_err(refused)?;
        let _growing = self.growing.lock();
        // The id is the hash of the first entry, so an account with this id began with these very bytes.
        if self.store.account_head(&log.id())?.is_none() {
            let mut job = vec![Write::SpendInvite { hash: invite_hash(&request.invite), now_ms: now_ms() }];
            job.extend(writes(&log, &request.first)?);
            match self.committer.submit(job).durable_blocking() {
                Ok(()) => {}
                Err(CommitError::Store(StoreError::Outdated(_))) => {
                    let message = "the invite code is not valid, over or used up; ask whoever gave it for another";
                    return Err(Refused::new(ErrorCode::BadInvite, message));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Registered { account: log.id() })
    }

    /// A part of an account's log. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`].
    pub fn entries(&self, account: &AccountId, after: u64) -> Result<AccountEntries, Refused> {
        let head = self.store.account_head(account)?.ok_or_else(Refused::not_found)?;
        let stored = self.store.account_entries(account, after, ACCOUNT_ENTRIES_MAX)?;
        let entries = stored.iter().map(|bytes| decode(bytes)).collect::<Result<_, _>>().map_err(damaged)?;
        Ok(AccountEntries { entries, head })
    }

    /// Appends to the caller's own log. The same bytes again give the same answer. Blocks.
    ///
    /// Returns with the answer the device that the entry revoked, if it did.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] for another account than the caller's, [`ErrorCode::AccountConflict`],
    /// [`ErrorCode::EntryRefused`].
    pub fn append(
        &self,
        caller: &Session,
        account: &AccountId,
        signed: &SignedAccountEntry,
    ) -> Result<(Appended, Option<DeviceId>), Refused> {
        if caller.account != *account {
            return Err(Refused::not_found());
        }
        let entry = AccountEntry::decode(&signed.entry)?;
        let _growing = self.growing.lock();
        let known = self.verified(account)?.ok_or_else(Refused::not_found)?;
        if entry.seq >= 1 && entry.seq <= known.head().seq {
            let stored = self.store.account_entries(account, entry.seq - 1, 1)?;
            if stored.first().is_some_and(|bytes| *bytes == encode(signed)) {
                return Ok((Appended { seq: entry.seq }, None));
            }
            let message = "the account log has another entry at this place: fetch it and sign anew";
            return Err(Refused::new(ErrorCode::AccountConflict, message).with(Detail::Head(known.head())));
        }
        let mut log = (*known).clone();
        log.extend(signed).map_err(refused)?;
        self.committer.submit(writes(&log, signed)?).durable_blocking()?;
        let seq = log.head().seq;
        self.verified.lock().put(*account, Arc::new(log));
        let revoked = match entry.change {
            AccountChange::RevokeDevice { device, .. } => Some(device),
            _ => None,
        };
        Ok((Appended { seq }, revoked))
    }

    /// The account's log up to the entry that revoked `device`, from the one after `after`, with the device's signing key:
    /// what a device is shown that may not log in any more. `None` where it was not revoked. Blocks.
    ///
    /// # Errors
    /// Those of the store.
    pub fn until_revoked(
        &self,
        account: &AccountId,
        device: &DeviceId,
        after: u64,
    ) -> Result<Option<([u8; 32], AccountEntries)>, Refused> {
        let Some(log) = self.verified(account)? else { return Ok(None) };
        let Some(device) = log.device(device) else { return Ok(None) };
        let Some(revoked) = device.revoked_seq else { return Ok(None) };
        let Some(head) = log.head_at(revoked) else { return Ok(None) };
        let stored = self.store.account_entries(account, after, ACCOUNT_ENTRIES_MAX)?;
        let wanted = usize::try_from(revoked.saturating_sub(after)).unwrap_or(usize::MAX);
        let entries =
            stored.iter().take(wanted).map(|bytes| decode(bytes)).collect::<Result<_, _>>().map_err(damaged)?;
        Ok(Some((device.keys.sign, AccountEntries { entries, head })))
    }

    /// The whole verified log of an account. Blocks.
    ///
    /// # Errors
    /// Those of the store.
    pub fn verified(&self, account: &AccountId) -> Result<Option<Arc<AccountLog>>, Refused> {
        if let Some(log) = self.verified.lock().get(account) {
            return Ok(Some(log.clone()));
        }
        let stored = self.store.account_entries(account, 0, usize::MAX >> 1)?;
        if stored.is_empty() {
            return Ok(None);
        }
        let entries = stored.iter().map(|bytes| decode(bytes)).collect::<Result<Vec<_>, _>>().map_err(damaged)?;
        let log = Arc::new(AccountLog::verify(&entries).map_err(damaged)?);
        let mut cached = self.verified.lock();
        // Another thread may have put a longer one meanwhile.
        if let Some(other) = cached.get(account)
            && other.head().seq >= log.head().seq
        {
            return Ok(Some(other.clone()));
        }
        cached.put(*account, log.clone());
        Ok(Some(log))
    }

    /// Whether the account's log had this head.
    ///
    /// # Errors
    /// [`ErrorCode::AccountLog`] when it is not known so far, [`ErrorCode::EntryRefused`] when it is another.
    pub fn require(&self, account: &AccountId, head: Head) -> Result<(), Refused> {
        let log = self.verified(account)?;
        if log.as_ref().is_some_and(|log| log.has_head(head)) {
            return Ok(());
        }
        if log.is_some_and(|log| log.head().seq >= head.seq) {
            return Err(Refused::new(ErrorCode::EntryRefused, "the entry names another history of an account"));
        }
        let message = "the entry relies on account entries that the server does not have: post them first";
        Err(Refused::new(ErrorCode::AccountLog, message).with(Detail::Account(*account)))
    }
}

impl AccountLogs for Accounts {
    fn log(&self, account: &AccountId) -> Option<Arc<AccountLog>> {
        // Absent and unreadable are the same to verification: the entry is not accepted. The reason is in the log.
        self.verified(account).ok().flatten()
    }
}

/// The writes that store the newest entry of `log`, which is `signed`.
fn writes(log: &AccountLog, signed: &SignedAccountEntry) -> Result<Job, Refused> {
    let entry = AccountEntry::decode(&signed.entry)?;
    let account = log.id();
    let mut job = vec![Write::AccountEntry { account, head: log.head(), bytes: encode(signed) }];
    match entry.change {
        AccountChange::Create { device, .. }
        | AccountChange::AddDevice { device, .. }
        | AccountChange::AddRecovery { device, .. } => {
            job.push(Write::AddDevice { account, device: device_id(&device), sign: device.sign });
        }
        AccountChange::RevokeDevice { device, .. } => job.push(Write::RevokeDevice { account, device }),
        AccountChange::RenameDevice { .. } | AccountChange::Contacts { .. } => {}
    }
    Ok(job)
}

fn refused(error: crate::keyring::AccountError) -> Refused {
    Refused::new(ErrorCode::EntryRefused, error.to_string())
}

fn damaged(error: impl std::fmt::Display) -> Refused {
    Refused::internal(&StoreError::Damaged(error.to_string()))
}
