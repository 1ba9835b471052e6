//! What a user's devices tell each other of whom the user knows, through the user's own account log.
//!
//! An entry holds some contacts, sealed to the user key and padded: the server sees that there is one, and how long it is,
//! roughly. Everybody who knows the account fetches it with the log, so entries are few and short: decisions are told
//! soon, meetings only now and then, and nothing while the account has one device.
//!
//! What is told is merged ([`Contact::merge`]): in whatever order the devices hear, they end with the same.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::SyncError;
use super::session::Inner;
use super::status::now_ms;
use crate::format::limits::CONTACTS_MAX;
use crate::format::{AccountChange, AccountEntry, Contact};
use crate::keyring::{AccountLog, open_contacts, seal_contacts};

/// How long decisions are gathered before they are told.
const SOON: Duration = Duration::from_secs(1);
/// How often the own log is looked at, and meetings are told.
const NOW_AND_THEN: Duration = Duration::from_secs(600);
/// The own entry of the account log up to which contacts were taken in.
const SEEN: &str = "contacts seen";

impl Inner {
    /// Tells and hears, for as long as the session lives.
    pub async fn run_pins(session: Weak<Self>) {
        loop {
            let Some(inner) = session.upgrade() else { return };
            if let Err(error) = inner.exchange_contacts().await {
                tracing::debug!(%error, "what this device knows of contacts is not exchanged yet");
            }
            let accounts = Arc::clone(&inner.shared.accounts);
            drop(inner);
            if tokio::time::timeout(NOW_AND_THEN, accounts.decided.notified()).await.is_ok() {
                tokio::time::sleep(SOON).await;
            }
        }
    }

    /// Takes in what the other devices have told, and tells what they do not know.
    pub(super) async fn exchange_contacts(&self) -> Result<(), SyncError> {
        let accounts = &self.shared.accounts;
        let me = accounts.me;
        // Somebody else may append at the same moment: then once more, with what they have told.
        for _ in 0..3 {
            let own = accounts.refresh(me).await?;
            self.hear(&own)?;
            let devices = own.devices().filter(|(_, device)| device.revoked_seq.is_none()).count();
            let mut news = accounts.store.local_contacts()?;
            news.retain(|contact| contact.account != me);
            news.truncate(CONTACTS_MAX);
            if devices < 2 || news.is_empty() {
                return Ok(());
            }
            let entry = self.sealed(&own, &news)?;
            match self.shared.remote.append_account(me, &entry).await {
                Ok(_) => {
                    for contact in &news {
                        // Unless it was decided again meanwhile.
                        if accounts.store.contact(&contact.account)?.as_ref() == Some(contact) {
                            accounts.store.put_contact(contact, false)?;
                        }
                    }
                }
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "another device was faster"),
            }
        }
        Ok(())
    }

    fn sealed(&self, own: &AccountLog, news: &[Contact]) -> Result<crate::format::SignedAccountEntry, SyncError> {
        let identity = &self.shared.identity;
        let (generation, _) =
            own.user_key().map_err(|error| SyncError::Damaged(format!("the own user key: {error}")))?;
        // Of the generation that is current now, which may be newer than the session.
        let seed = own
            .open_seed(&identity.device)
            .map_err(|error| SyncError::Damaged(format!("the own user key: {error}")))?;
        let sealed = seal_contacts(&own.id(), generation, &seed, news);
        own.tell_contacts(now_ms(), &identity.device, generation, sealed)
            .map_err(|error| SyncError::Damaged(format!("the own account: {error}")))
    }

    /// Takes in what is new in the own account log.
    fn hear(&self, own: &AccountLog) -> Result<(), SyncError> {
        let accounts = &self.shared.accounts;
        let me = accounts.me;
        let seeds = own
            .open_seeds(&self.shared.identity.device)
            .map_err(|error| SyncError::Damaged(format!("the own user key: {error}")))?;
        let seen = accounts.store.setting(SEEN)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let entries = accounts.store.account_log(&me)?;
        let new = entries.iter().zip(1..).filter(|(_, seq)| *seq > seen);
        for (entry, _) in new {
            let Ok(AccountEntry { change: AccountChange::Contacts { generation, sealed }, .. }) =
                AccountEntry::decode(&entry.entry)
            else {
                continue;
            };
            let Some(seed) = seeds.get(&generation) else { continue };
            // Signed by one of the own devices; what does not open was made by one that is broken.
            match open_contacts(&me, generation, seed, &sealed) {
                Ok(contacts) => contacts.into_iter().try_for_each(|contact| accounts.hear(contact))?,
                Err(error) => tracing::warn!(%error, "contacts that another device told do not open"),
            }
        }
        Ok(accounts.store.put_setting(SEEN, &(entries.len() as u64).to_be_bytes())?)
    }
}

impl super::accounts::Accounts {
    /// Another device of the user knows this.
    fn hear(&self, told: Contact) -> Result<(), SyncError> {
        let known = self.store.contact(&told.account)?;
        let merged = known.clone().map_or_else(|| told.clone(), |known| known.merge(told.clone()));
        if known.as_ref() == Some(&merged) {
            return Ok(());
        }
        // What they know as it is now is not told again.
        self.store.put_contact(&merged, merged != told)?;
        self.note_trust(&merged);
        Ok(())
    }
}
