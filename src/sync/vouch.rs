//! How a device of the account lets a new one in that shows a code ([`super::join`] is the new one's side).
//!
//! Nothing of an exchange is stored here: this device's nonce follows from its local key and the request, so a command that
//! begins it and another that completes it find the same words. Nothing of the account changes before the users of both
//! devices have said that they are the same.

use std::sync::Arc;
use std::time::Duration;

use super::letters::{Answer, Exchange, Mark, Offer, Provision, Request, Reveal, VERSION, Verdict, commitment};
use super::own::{check_name_free, unsigned};
use super::session::{CALL_DEADLINE, Inner};
use super::status::now_ms;
use super::{OwnDevice, Session, SyncError};
use crate::api::{ErrorCode, Side};
use crate::crypto::compare::DEVICE_WORDS;
use crate::crypto::words::Code;
use crate::crypto::{kdf, labels};
use crate::format::DeviceKeys;
use crate::keyring::{AccountLog, DeviceSecrets, device_id};

/// Whose letters this device opens.
const NEW: &str = "the new device";
/// The new device looks into the mailbox twice a second.
const REVEAL: Duration = Duration::from_secs(20);

/// A device that waits to be let in.
pub struct Candidate {
    device: DeviceKeys,
    exchange: Exchange,
}

impl Candidate {
    /// What it calls itself; true when the words are the same.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// What it must show too.
    pub fn words(&self) -> [&'static str; DEVICE_WORDS] {
        self.exchange.words()
    }
}

impl Session {
    /// The device that waits under `code`, which then knows that this one is there.
    ///
    /// # Errors
    /// [`SyncError::NoDeviceWaits`]; [`SyncError::CodeUsed`]; [`SyncError::DeviceNameTaken`], [`SyncError::BadLabel`];
    /// [`SyncError::Misbehaviour`]; [`SyncError::Remote`].
    pub fn device_waiting(&self, code: &Code) -> Result<Candidate, SyncError> {
        let (inner, exchange) = (Arc::clone(&self.inner), Exchange::of(code)?);
        self.timed(CALL_DEADLINE + REVEAL, "asking for the new device", async move { inner.meet(exchange).await })
    }

    /// The user has seen the same words on the new device. Makes it one of the account as soon as that was said there too,
    /// and tells it what it must not accept less than; `None` where nothing was said there within `within`. Can be
    /// repeated, also with the candidate of another call.
    ///
    /// # Errors
    /// [`SyncError::JoinRefused`] where it was refused there; [`SyncError::DeviceNameTaken`], [`SyncError::BadLabel`],
    /// [`SyncError::Remote`].
    pub fn add_device(&self, candidate: Candidate, within: Duration) -> Result<Option<OwnDevice>, SyncError> {
        let (inner, id) = (Arc::clone(&self.inner), device_id(&candidate.device));
        let own = self.timed(CALL_DEADLINE + within, "adding the device", async move {
            inner.vouch_for(candidate, within).await
        })?;
        let Some(own) = own else { return Ok(None) };
        self.list(&own).into_iter().find(|device| device.id == id).map(Some).ok_or(SyncError::Closed)
    }

    /// The user has seen other words on the new device, or does not want it. It is told.
    ///
    /// # Errors
    /// [`SyncError::Remote`]; nothing of the account is changed in any case.
    pub fn refuse_device(&self, candidate: Candidate) -> Result<(), SyncError> {
        let inner = Arc::clone(&self.inner);
        self.timed(CALL_DEADLINE, "telling the new device", async move {
            let Candidate { mut exchange, .. } = candidate;
            let key = inner.shared.identity.device.signing_key();
            let letter = exchange.seal_signed(Side::Answer, &Answer { provision: None }, &key);
            Ok(inner.shared.remote.put_letter(exchange.mailbox, Side::Answer, &letter).await?)
        })
    }
}

impl Inner {
    /// Up to the point where both can show the words.
    async fn meet(&self, mut exchange: Exchange) -> Result<Candidate, SyncError> {
        let (remote, mailbox) = (&*self.shared.remote, exchange.mailbox);
        let letter = remote.letter(mailbox, Side::Request).await?.ok_or(SyncError::NoDeviceWaits)?;
        let asked: Request = exchange.open(Side::Request, &letter, NEW)?;
        if asked.version != VERSION {
            return Err(SyncError::Damaged("the new device is of another version; update KegFS".to_owned()));
        }
        let own = self.refresh_own().await?;
        if !own.may_write_at(&device_id(&asked.device), own.head().seq) {
            // Before anybody compares anything: it could not be added.
            check_name_free(&own, &asked.device.name)?;
        }
        let identity = &self.shared.identity;
        let local = identity.local.as_bytes();
        let nonce = *kdf::derive(labels::KEY_JOINING_NONCE, &[local, &letter.sealed]).as_bytes();
        let device = own.device(&self.shared.device).map(|device| device.keys.clone()).ok_or(SyncError::Closed)?;
        let ours = Offer { version: VERSION, account: own.id(), name: own.name().to_owned(), device, nonce };
        let mut there = remote.letter(mailbox, Side::Offer).await?;
        if there.is_none() {
            let letter = exchange.clone().seal(Side::Offer, &ours);
            match remote.put_letter(mailbox, Side::Offer, &letter).await {
                Ok(()) => there = Some(letter),
                // Somebody was faster, or an earlier attempt of this one was.
                Err(error) if error.code() == Some(ErrorCode::AccountConflict) => {
                    there = remote.letter(mailbox, Side::Offer).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let offered: Offer = exchange.open(Side::Offer, &there.ok_or(SyncError::NoDeviceWaits)?, "this device")?;
        if (offered.nonce, offered.account, offered.device.sign) != (nonce, own.id(), ours.device.sign) {
            return Err(SyncError::CodeUsed);
        }
        let letter = exchange.wait_for(remote, Side::Reveal, REVEAL).await?;
        let letter = letter.ok_or(SyncError::TimedOut("waiting for the new device, which has to go on waiting too"))?;
        let Reveal { nonce } = exchange.open(Side::Reveal, &letter, NEW)?;
        if commitment(&nonce, &asked.device) != asked.commitment {
            let what = "who answers in the new device's place is not who had asked";
            return Err(SyncError::Misbehaviour(what.to_owned()));
        }
        Ok(Candidate { device: asked.device, exchange })
    }

    async fn vouch_for(&self, candidate: Candidate, within: Duration) -> Result<Option<Arc<AccountLog>>, SyncError> {
        let Candidate { device, mut exchange } = candidate;
        let remote = &*self.shared.remote;
        let Some(letter) = exchange.wait_for(remote, Side::Verdict, within).await? else { return Ok(None) };
        let verdict: Verdict = exchange.open_signed(Side::Verdict, &letter, &device, NEW)?;
        if !verdict.same {
            return Err(SyncError::JoinRefused);
        }
        let id = device_id(&device);
        let add = |own: &AccountLog, by: &DeviceSecrets| {
            if own.may_write_at(&id, own.head().seq) {
                return Ok(None);
            }
            check_name_free(own, &device.name)?;
            let bad = |error| SyncError::Damaged(format!("the own user key: {error}"));
            let seed = own.open_seed(by).map_err(bad)?;
            own.add_device(now_ms(), by, device.clone(), &seed).map(Some).map_err(unsigned)
        };
        let own = self.change_account(add).await?;
        let member = self.all().into_iter().filter(|folder| folder.role().is_some());
        let marks = member.map(|folder| Mark { db: folder.id(), head: folder.replica.mark(), name: folder.name() });
        let marks = marks.filter(|mark| mark.head.seq > 0).collect();
        let answer = Answer { provision: Some(Provision { head: own.head(), marks }) };
        let letter = exchange.seal_signed(Side::Answer, &answer, &self.shared.identity.device.signing_key());
        match remote.put_letter(exchange.mailbox, Side::Answer, &letter).await {
            // An earlier attempt got through without hearing so. Only this account can have written it: the offer is ours.
            Err(error) if error.code() == Some(ErrorCode::AccountConflict) => {}
            other => other?,
        }
        Ok(Some(own))
    }
}
