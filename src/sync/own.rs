//! The user's own account: its devices, its recovery phrase, and what becomes of this device when it is revoked.
//!
//! A change of the account is an entry of its log, signed by this device on the newest state, again if another device
//! was faster. Revoking does all that must follow at once: an `AccountSync` in every folder, and a new epoch where the
//! user administers; elsewhere the log tells the admins' clients. What this device does not get done, the stewards of
//! the user's other devices and of the admins do ([`super::steward`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::event::Event;
use super::folder::Shared;
use super::member::Change;
use super::session::{CALL_DEADLINE, Inner};
use super::status::now_ms;
use super::{Folder, Session, SyncError};
use crate::api::ErrorCode;
use crate::crypto::boxes::KemSecret;
use crate::format::{DeviceId, DeviceKeys, SignedAccountEntry};
use crate::keyring::{AccountError, AccountLog, AccountLogs, DeviceSecrets, UserKeySeed};

/// How often a change of the account is signed anew because another device was faster.
const ATTEMPTS: usize = 8;
/// What a recovery phrase is called among the devices.
pub const RECOVERY_NAME: &str = "recovery phrase";

/// A device of the user's account, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnDevice {
    /// Which.
    pub id: DeviceId,
    /// Its name.
    pub name: String,
    /// This one.
    pub me: bool,
    /// Not an installation, but words on paper.
    pub recovery: bool,
    /// It speaks for the account no more.
    pub revoked: bool,
}

/// What a revocation came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Folders that have a new key already, by name.
    pub rotated: Vec<String>,
    /// Folders whose log knows of it; an admin's client gives them a new key.
    pub told: Vec<String>,
    /// Folders that could not be told yet; the user's devices go on trying.
    pub waiting: Vec<String>,
}

impl Shared {
    /// The user's key of `generation`: from the keystore, or from the account's log, where this device has a box.
    pub fn user_key(&self, generation: u32) -> Result<KemSecret, SyncError> {
        if let Some(seed) = self.identity.user_keys.get(&generation) {
            return Ok(seed.kem_secret());
        }
        let own = self.accounts.log(&self.identity.account);
        let seeds = own.and_then(|own| own.open_seeds(&self.identity.device).ok()).unwrap_or_default();
        seeds.get(&generation).map(UserKeySeed::kem_secret).ok_or_else(|| {
            SyncError::Damaged(format!("this device does not have generation {generation} of your user key"))
        })
    }

    /// Tells, once, when the account's log says that this device was revoked.
    pub fn check_device(&self) -> Result<(), SyncError> {
        let me = self.identity.account;
        let Some(own) = self.accounts.log(&me) else { return Ok(()) };
        match revocation(&own, &self.device) {
            Some(error) => {
                if !self.revoked.swap(true, Ordering::AcqRel) {
                    self.hub.tell(&Event::DeviceRevoked { name: own.label(&self.device) });
                }
                Err(error)
            }
            None => Ok(()),
        }
    }
}

/// The error that a device is in whose account's log revokes it.
pub(super) fn revocation(own: &AccountLog, device: &DeviceId) -> Option<SyncError> {
    let device = own.device(device)?;
    device.revoked_seq.map(|_| SyncError::DeviceRevoked { name: device.keys.name.clone() })
}

impl Inner {
    /// The server does not let this device in. Why is believed only when the account's log proves it.
    pub async fn why_refused(&self) -> Result<(), SyncError> {
        let me = self.shared.identity.account;
        let known = self.shared.accounts.log(&me).map_or(0, |log| log.head().seq);
        let page = self.shared.remote.revocation(known).await?;
        self.shared.accounts.extend(me, known, page.entries).await?;
        self.shared.check_device()
    }

    /// The newest state of the own account.
    pub async fn refresh_own(&self) -> Result<Arc<AccountLog>, SyncError> {
        let me = self.shared.identity.account;
        let before = self.shared.accounts.log(&me).map(|own| own.head());
        let own = self.shared.accounts.refresh(me).await?;
        self.shared.check_device()?;
        if before != Some(own.head()) {
            // Perhaps a folder is to be told.
            self.all().iter().for_each(|folder| folder.duties.notify_one());
        }
        Ok(own)
    }

    /// Appends to the own account's log what `make` signs on its newest state; nothing where it answers `None`.
    pub async fn change_account(
        &self,
        make: impl Fn(&AccountLog, &DeviceSecrets) -> Result<Option<SignedAccountEntry>, SyncError> + Send,
    ) -> Result<Arc<AccountLog>, SyncError> {
        let me = self.shared.identity.account;
        for _ in 0..ATTEMPTS {
            let own = self.refresh_own().await?;
            let Some(entry) = make(&own, &self.shared.identity.device)? else { return Ok(own) };
            match self.shared.remote.append_account(me, &entry).await {
                Ok(_) => return self.refresh_own().await,
                Err(error) if error.code() == Some(ErrorCode::AccountConflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(SyncError::TimedOut("changing the account, which other devices change too"))
    }

    /// Lets every folder know the newest state of the own account, and changes the keys where the user may.
    async fn after_revocation(self: &Arc<Self>, own: &Arc<AccountLog>) -> Revoked {
        let folders = self.all().into_iter().filter(|folder| folder.role().is_some());
        let work = folders.map(|folder| {
            let own = Arc::clone(own);
            async move { (folder.name(), folder.tell_of_revocation(&own).await) }
        });
        let mut report = Revoked::default();
        for (name, result) in futures_util::future::join_all(work).await {
            match result {
                Ok(true) => report.rotated.push(name),
                Ok(false) => report.told.push(name),
                Err(error) => {
                    tracing::warn!(%error, "a folder does not know of a revocation yet");
                    report.waiting.push(name);
                }
            }
        }
        report
    }
}

impl Folder {
    /// Posts the account's new head; true if the user could also change the folder's key.
    async fn tell_of_revocation(&self, own: &AccountLog) -> Result<bool, SyncError> {
        let after = self.verified.lock().await.state.epoch();
        self.change_membership(Change::Sync { head: own.head() }).await?;
        if !self.role().is_some_and(|role| role.administers()) {
            return Ok(false);
        }
        self.change_membership(Change::Rotate { after }).await.map(|()| true)
    }
}

/// The device with this id or, among the valid ones, this name.
fn find(own: &AccountLog, name_or_id: &str) -> Result<DeviceId, SyncError> {
    let unknown = || SyncError::NoSuchDevice(name_or_id.to_owned());
    if let Ok(id) = name_or_id.parse::<DeviceId>() {
        return own.device(&id).filter(|device| device.revoked_seq.is_none()).map(|_| id).ok_or_else(unknown);
    }
    let valid = own.devices().filter(|(_, device)| device.revoked_seq.is_none() && device.keys.name == name_or_id);
    let mut found: Vec<DeviceId> = valid.map(|(id, _)| *id).collect();
    match (found.pop(), found.len()) {
        (None, _) => Err(unknown()),
        (Some(id), 0) => Ok(id),
        (Some(_), others) => Err(SyncError::AmbiguousDevice { name: name_or_id.to_owned(), count: others + 1 }),
    }
}

/// The name is not that of another valid device: people revoke by it.
pub(super) fn check_name_free(own: &AccountLog, name: &str) -> Result<(), SyncError> {
    let taken = own.devices().any(|(_, device)| device.revoked_seq.is_none() && device.keys.name == name);
    if taken { Err(SyncError::DeviceNameTaken(name.to_owned())) } else { Ok(()) }
}

/// What is wrong with a change of the account that this device was about to sign.
pub(super) fn unsigned(error: AccountError) -> SyncError {
    match error {
        AccountError::Format(error) => SyncError::BadLabel(error.to_string()),
        other => SyncError::Refused(other.to_string()),
    }
}

impl Session {
    /// The account's log says that this device was revoked.
    pub fn is_revoked(&self) -> bool {
        self.inner.shared.revoked.load(Ordering::Acquire)
    }

    /// The devices of the account, in the order in which they were added; as known here when the server cannot be reached.
    ///
    /// # Errors
    /// [`SyncError::DeviceRevoked`], or what the server is caught at.
    pub fn devices(&self) -> Result<Vec<OwnDevice>, SyncError> {
        let inner = Arc::clone(&self.inner);
        let own = self.timed(CALL_DEADLINE, "asking for the account's devices", async move {
            match inner.refresh_own().await {
                Err(error) if error.is_transient() => {
                    let me = inner.shared.identity.account;
                    inner.shared.accounts.log(&me).ok_or(error)
                }
                other => other,
            }
        })?;
        Ok(self.list(&own))
    }

    pub(super) fn list(&self, own: &AccountLog) -> Vec<OwnDevice> {
        let me = self.device();
        let mut devices: Vec<_> = own.devices().collect();
        devices.sort_by_key(|(_, device)| device.added_seq);
        let one = |(id, device): (&DeviceId, &crate::keyring::Device)| OwnDevice {
            id: *id,
            name: device.keys.name.clone(),
            me: *id == me,
            recovery: device.recovery,
            revoked: device.revoked_seq.is_some(),
        };
        devices.into_iter().map(one).collect()
    }

    /// Gives a device of the account another name.
    ///
    /// # Errors
    /// [`SyncError::NoSuchDevice`], [`SyncError::AmbiguousDevice`], [`SyncError::DeviceNameTaken`],
    /// [`SyncError::BadLabel`], [`SyncError::Remote`].
    pub fn rename_device(&self, name_or_id: &str, name: &str) -> Result<OwnDevice, SyncError> {
        let (inner, which, wanted) = (Arc::clone(&self.inner), name_or_id.to_owned(), name.to_owned());
        let (own, id) = self.timed(CALL_DEADLINE, "renaming the device", async move {
            let id = find(&*inner.refresh_own().await?, &which)?;
            let rename = |own: &AccountLog, by: &DeviceSecrets| {
                if own.device(&id).is_some_and(|device| device.keys.name == wanted) {
                    return Ok(None);
                }
                check_name_free(own, &wanted)?;
                own.rename_device(now_ms(), by, id, wanted.clone()).map(Some).map_err(unsigned)
            };
            Ok((inner.change_account(rename).await?, id))
        })?;
        self.list(&own).into_iter().find(|device| device.id == id).ok_or(SyncError::Closed)
    }

    /// Revokes another device: it speaks for the account no more, the user key changes, every folder is told, and those
    /// that the user administers get a new key.
    ///
    /// # Errors
    /// [`SyncError::NoSuchDevice`], [`SyncError::AmbiguousDevice`], [`SyncError::ThisDevice`], [`SyncError::Remote`];
    /// nothing was changed then. What could not be done afterwards is in [`Revoked`].
    pub fn revoke_device(&self, name_or_id: &str) -> Result<(OwnDevice, Revoked), SyncError> {
        let (inner, which, me) = (Arc::clone(&self.inner), name_or_id.to_owned(), self.device());
        let (own, id, report) = self.timed(CALL_DEADLINE * 5, "revoking the device", async move {
            let id = find(&*inner.refresh_own().await?, &which)?;
            if id == me {
                return Err(SyncError::ThisDevice);
            }
            let next = UserKeySeed::random();
            let revoke = |own: &AccountLog, by: &DeviceSecrets| {
                if own.device(&id).is_some_and(|device| device.revoked_seq.is_some()) {
                    return Ok(None);
                }
                let bad = |error| SyncError::Damaged(format!("the own user key: {error}"));
                let current = own.open_seed(by).map_err(bad)?;
                own.revoke_device(now_ms(), by, id, &current, &next).map(Some).map_err(unsigned)
            };
            let own = inner.change_account(revoke).await?;
            let report = inner.after_revocation(&own).await;
            Ok((own, id, report))
        })?;
        let device = self.list(&own).into_iter().find(|device| device.id == id).ok_or(SyncError::Closed)?;
        Ok((device, report))
    }

    /// Makes the device that a recovery phrase is ([`DeviceSecrets::from_phrase`]) one of the account, which can add a
    /// device and do nothing else. There is one at most.
    ///
    /// # Errors
    /// [`SyncError::HasRecovery`], [`SyncError::Remote`].
    pub fn add_recovery(&self, keys: DeviceKeys) -> Result<(), SyncError> {
        let inner = Arc::clone(&self.inner);
        self.timed(CALL_DEADLINE, "adding the recovery phrase", async move {
            let id = crate::keyring::device_id(&keys);
            let add = |own: &AccountLog, by: &DeviceSecrets| {
                if own.device(&id).is_some() {
                    return Ok(None);
                }
                check_no_recovery(own)?;
                let bad = |error| SyncError::Damaged(format!("the own user key: {error}"));
                let seed = own.open_seed(by).map_err(bad)?;
                own.add_recovery(now_ms(), by, keys.clone(), &seed).map(Some).map_err(unsigned)
            };
            inner.change_account(add).await.map(drop)
        })
    }

    /// Whether a recovery phrase can be added: asked before one is shown to anybody.
    ///
    /// # Errors
    /// [`SyncError::HasRecovery`], [`SyncError::Remote`].
    pub fn check_no_recovery(&self) -> Result<(), SyncError> {
        let inner = Arc::clone(&self.inner);
        self.timed(CALL_DEADLINE, "asking for the account's devices", async move {
            check_no_recovery(&*inner.refresh_own().await?)
        })
    }
}

fn check_no_recovery(own: &AccountLog) -> Result<(), SyncError> {
    let has = own.devices().any(|(_, device)| device.recovery && device.revoked_seq.is_none());
    if has { Err(SyncError::HasRecovery) } else { Ok(()) }
}
