//! Verified account logs: fetched when an entry names them, pinned at first sight, never taken back.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt};
use parking_lot::RwLock;

use super::SyncError;
use super::event::{Event, Hub};
use crate::api::ErrorCode;
use crate::format::{
    AccountId, DeviceId, EntryKind, Envelope, FormatError, Head, Membership, MembershipChange, SignedAccountEntry,
    SignedEntry, encode, limits,
};
use crate::keyring::{AccountError, AccountLog, AccountLogs};
use crate::remote::Remote;
use crate::replica::AccountStore;

/// Accounts that are looked after at once.
const LOOKS: usize = 16;

/// The account logs that this session knows.
pub(super) struct Accounts {
    remote: Arc<dyn Remote>,
    pub(super) store: Arc<AccountStore>,
    hub: Arc<Hub>,
    pub(super) me: AccountId,
    known: RwLock<Known>,
    /// Whom nothing may be given to, and why.
    pub(super) doubted: RwLock<HashMap<AccountId, String>>,
    /// Something was decided or doubted: the user's other devices are to hear of it.
    pub(super) decided: tokio::sync::Notify,
    /// One fetch at a time: two of the same account would race for the store.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    logs: HashMap<AccountId, Arc<AccountLog>>,
    owners: HashMap<DeviceId, AccountId>,
}

impl Known {
    fn insert(&mut self, log: &Arc<AccountLog>) {
        for (device, _) in log.devices() {
            self.owners.insert(*device, log.id());
        }
        self.logs.insert(log.id(), Arc::clone(log));
    }
}

impl AccountLogs for Accounts {
    fn log(&self, account: &AccountId) -> Option<Arc<AccountLog>> {
        if let Some(log) = self.known.read().logs.get(account) {
            return Some(Arc::clone(log));
        }
        self.load(account).ok().flatten()
    }
}

impl Accounts {
    /// With all logs that are stored.
    pub fn new(
        remote: Arc<dyn Remote>,
        store: Arc<AccountStore>,
        hub: Arc<Hub>,
        me: AccountId,
    ) -> Result<Self, SyncError> {
        let accounts = Self {
            remote,
            store,
            hub,
            me,
            known: RwLock::default(),
            doubted: RwLock::default(),
            decided: tokio::sync::Notify::new(),
            fetching: tokio::sync::Mutex::default(),
        };
        accounts.store.contacts()?.iter().for_each(|contact| accounts.note_trust(contact));
        for account in accounts.store.accounts()? {
            accounts.load(&account)?;
        }
        Ok(accounts)
    }

    /// How people call a device: `alice's laptop`.
    pub fn label(&self, device: &DeviceId) -> Option<String> {
        let owner = *self.known.read().owners.get(device)?;
        self.log(&owner).map(|log| log.label(device))
    }

    /// The log of `account`, known at least up to `head`; fetched where it is not.
    pub async fn require(&self, account: AccountId, head: Head) -> Result<Arc<AccountLog>, SyncError> {
        match self.log(&account) {
            Some(log) if log.head().seq >= head.seq => Ok(log),
            _ => self.refresh(account).await,
        }
    }

    /// The newest log of `account` that the server has.
    pub async fn refresh(&self, account: AccountId) -> Result<Arc<AccountLog>, SyncError> {
        let log = self.fetch(account).await;
        if let Err(SyncError::Misbehaviour(what)) = &log {
            self.hub.tell(&Event::FalseAccount { account, what: what.clone() });
        }
        log
    }

    async fn fetch(&self, account: AccountId) -> Result<Arc<AccountLog>, SyncError> {
        let _one = self.fetching.lock().await;
        let mut entries = self.store.account_log(&account)?;
        let known = entries.len();
        let mut head;
        loop {
            let after = entries.len() as u64;
            let page = self.remote.account_log(account, after).await.map_err(|error| match error.code() {
                Some(ErrorCode::NotFound) if known == 0 => SyncError::NoSuchAccount(account),
                _ => error.into(),
            })?;
            if page.head.seq < known as u64 {
                return Err(SyncError::Misbehaviour(format!(
                    "the server shows the account {account} at position {} after it had shown position {known}: it has gone back",
                    page.head.seq
                )));
            }
            head = page.head;
            let got = page.entries.len() as u64;
            entries.extend(page.entries);
            if after + got >= page.head.seq || got == 0 {
                break;
            }
        }
        let log = match verify(account, &entries) {
            // What it announces and does not give is missed by who needs it.
            Ok(log) if head.seq > log.head().seq || log.has_head(head) => log,
            contradicted => {
                if known > 0 {
                    self.examine(account, &entries[..known]).await;
                }
                contradicted?;
                let what = format!("the server shows another history of the account {account} than before");
                return Err(SyncError::Misbehaviour(what));
            }
        };
        self.keep(account, log, &entries, known)
    }

    /// Takes in what follows entry `after` in the log of `account`, from wherever it came. Some of it may have been taken in
    /// since it was asked for.
    pub async fn extend(
        &self,
        account: AccountId,
        after: u64,
        more: Vec<SignedAccountEntry>,
    ) -> Result<Arc<AccountLog>, SyncError> {
        let _one = self.fetching.lock().await;
        let mut entries = self.store.account_log(&account)?;
        let known = entries.len();
        let had = usize::try_from((known as u64).saturating_sub(after)).unwrap_or(usize::MAX);
        entries.extend(more.into_iter().skip(had));
        let log = verify(account, &entries)?;
        self.keep(account, log, &entries, known)
    }

    /// Keeps the verified log, of which the first `known` entries are stored.
    fn keep(
        &self,
        account: AccountId,
        log: AccountLog,
        entries: &[SignedAccountEntry],
        known: usize,
    ) -> Result<Arc<AccountLog>, SyncError> {
        for (seq, entry) in (1..).zip(entries).skip(known) {
            self.store.append_account(&account, seq, entry)?;
        }
        self.meet(&log)?;
        let log = Arc::new(log);
        self.known.write().insert(&log);
        Ok(log)
    }

    /// The server shows something else than the known beginning of an account's log. Where that is a log of this very
    /// account, its devices have signed two histories: nothing is given to it any more until the user decides.
    async fn examine(&self, account: AccountId, known: &[SignedAccountEntry]) {
        let Ok(page) = self.remote.account_log(account, 0).await else { return };
        let (Ok(ours), Ok(theirs)) = (verify(account, known), verify(account, &page.entries)) else { return };
        if ours.has_head(theirs.head()) || theirs.has_head(ours.head()) {
            return;
        }
        let kept = self.store.put_setting(&format!("second history of {account}"), &encode(&page.entries));
        let why =
            "its devices have signed two different histories of the account; one of them may be in the wrong hands";
        if let Err(error) = kept.map_err(SyncError::from).and_then(|()| self.doubt(&account, why)) {
            tracing::error!(%account, %error, "two histories of an account could not be noted");
        }
    }

    /// Makes sure that the newest states of all these accounts are known.
    pub async fn freshen(self: &Arc<Self>, accounts: &[AccountId]) -> Result<(), SyncError> {
        let looks: Vec<_> = accounts.iter().map(|account| Arc::clone(self).look_after(*account)).collect();
        futures_util::stream::iter(looks).buffer_unordered(LOOKS).try_collect::<()>().await
    }

    async fn look_after(self: Arc<Self>, account: AccountId) -> Result<(), SyncError> {
        let known = self.log(&account).map_or(0, |log| log.head().seq);
        let page = self.remote.account_log(account, known).await?;
        // What is behind, or ahead, is judged where it is fetched whole.
        if page.head.seq == known { Ok(()) } else { self.refresh(account).await.map(drop) }
    }

    /// Fetches every account log that the verification of `entries` will ask for.
    pub async fn prepare(&self, entries: &[SignedEntry]) -> Result<(), SyncError> {
        for (account, head) in entries.iter().flat_map(needs) {
            match self.require(account, head).await {
                Ok(_) => {}
                // Verification decides what it means that there is none.
                Err(SyncError::NoSuchAccount(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn load(&self, account: &AccountId) -> Result<Option<Arc<AccountLog>>, SyncError> {
        let entries = self.store.account_log(account)?;
        if entries.is_empty() {
            return Ok(None);
        }
        let log = Arc::new(verify(*account, &entries)?);
        self.known.write().insert(&log);
        Ok(Some(log))
    }
}

fn verify(account: AccountId, entries: &[SignedAccountEntry]) -> Result<AccountLog, SyncError> {
    let caught = |what: String| SyncError::Misbehaviour(format!("the server shows a false account {account}: {what}"));
    let log = AccountLog::verify(entries).map_err(|error| match error {
        AccountError::Format(FormatError::UnknownSuite(suite)) if suite > limits::SUITE => {
            SyncError::UpdateNeeded(suite)
        }
        other => caught(other.to_string()),
    })?;
    if log.id() == account { Ok(log) } else { Err(caught("it is the log of another account".to_owned())) }
}

/// The account states that an entry names. Undecodable entries name none: verification refuses them.
fn needs(entry: &SignedEntry) -> Vec<(AccountId, Head)> {
    let Ok(envelope) = Envelope::decode(&entry.envelope) else { return Vec::new() };
    let mut needs = vec![(envelope.author, envelope.account_head)];
    if envelope.kind == EntryKind::Membership
        && let Ok(body) = Membership::decode(&envelope.body, envelope.suite)
    {
        match body.change {
            MembershipChange::Add { account, account_head, .. }
            | MembershipChange::AddSince { account, account_head, .. }
            | MembershipChange::Redeem { account, account_head, .. } => needs.push((account, account_head)),
            MembershipChange::AccountSync { account, head } => needs.push((account, head)),
            _ => {}
        }
    }
    needs
}
