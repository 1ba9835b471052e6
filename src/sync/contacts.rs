//! Whom the user knows, and to whom nothing is given until the user has decided.
//!
//! An account's id is the hash of the first entry of its log, so it certifies itself: nobody can replace the keys behind
//! an id. What can be wrong is whose id it is, and whether everybody is shown the same continuation. Hence three rules:
//!
//! - *Met once, known for good.* Every account is pinned when it is met, with the name that it gives itself. Its log is
//!   then only ever continued; one that goes back or is another is the server's misbehaviour.
//! - *A name is somebody's.* Who comes under the name of somebody known, with another account, is in doubt. (Two people
//!   may well have one name: the user says so, once.)
//! - *Two histories of one account*, both signed by its devices, put it in doubt: one of its devices is not in its
//!   owner's hands only.
//!
//! While an account is in doubt or rejected, this device seals no key to it: it adds it nowhere, and starts no epoch in a
//! folder that it is a member of. To remove it is possible. A new device of a verified account is no doubt: a device that
//! was verified has signed it. It is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::accounts::Accounts;
use super::session::CALL_DEADLINE;
use super::status::now_ms;
use super::{Folder, Session, SyncError};
use crate::crypto::compare::Code;
use crate::format::{AccountId, ChainHash, Contact, Head, SignedAccountEntry, Trust};
use crate::keyring::{AccountLog, AccountLogs};

/// A contact, and the words to compare with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// What is known of it.
    pub contact: Contact,
    /// What both see.
    pub words: Vec<&'static str>,
    /// It was verified, and its keys have changed since, by its own devices.
    pub new_keys: bool,
}

/// What becomes of comparing a folder with what another member has seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Both have seen the same up to there.
    Same,
    /// There is another entry here.
    Other,
    /// The server has not given that much to this device.
    HeldBack {
        /// The newest entry here.
        here: u64,
    },
}

/// The words for a folder's newest verified position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderWords {
    /// The position.
    pub seq: u64,
    /// What all members see who are at this position.
    pub words: Vec<&'static str>,
}

impl Accounts {
    /// Pins an account that was not known before.
    pub(super) fn meet(&self, log: &AccountLog) -> Result<(), SyncError> {
        let (account, name, now) = (log.id(), log.name().to_owned(), now_ms());
        if self.store.contact(&account)?.is_some() {
            return Ok(());
        }
        let namesakes = self.store.namesakes(&name)?;
        let namesake = namesakes.iter().find(|contact| contact.trust != Trust::Rejected);
        let mut contact = Contact {
            account,
            name,
            pinned_ms: now,
            trust: Trust::Pinned,
            since_ms: now,
            why: String::new(),
            keys: None,
        };
        if let Some(known) = namesake.filter(|_| account != self.me) {
            contact.trust = Trust::Doubted;
            contact.why = if known.account == self.me {
                "it has your own name".to_owned()
            } else {
                format!("you know {} as the account {}", known.name, known.account)
            };
        }
        self.put_contact(&contact)
    }

    /// Something is wrong with an account.
    pub(super) fn doubt(&self, account: &AccountId, why: &str) -> Result<(), SyncError> {
        let Some(contact) = self.contact(account)? else { return Ok(()) };
        if contact.trust == Trust::Rejected || (contact.trust == Trust::Doubted && contact.why == why) {
            return Ok(());
        }
        self.put_contact(&Contact { trust: Trust::Doubted, since_ms: now_ms(), why: why.to_owned(), ..contact })
    }

    pub(super) fn contact(&self, account: &AccountId) -> Result<Option<Contact>, SyncError> {
        Ok(self.store.contact(account)?)
    }

    fn put_contact(&self, contact: &Contact) -> Result<(), SyncError> {
        self.store.put_contact(contact, true)?;
        self.note_trust(contact);
        if contact.trust != Trust::Pinned {
            self.decided.notify_one();
        }
        Ok(())
    }

    /// Keeps at hand whom nothing may be given to.
    pub(super) fn note_trust(&self, contact: &Contact) {
        let mut doubted = self.doubted.write();
        match contact.trust {
            Trust::Pinned | Trust::Verified => drop(doubted.remove(&contact.account)),
            Trust::Doubted => drop(doubted.insert(contact.account, contact.why.clone())),
            Trust::Rejected => drop(doubted.insert(contact.account, "you have rejected it".to_owned())),
        }
    }

    /// Why nothing may be given to the account, if that is so.
    pub(super) fn doubt_of(&self, account: &AccountId) -> Option<String> {
        self.doubted.read().get(account).cloned()
    }

    /// A key may be sealed to the account.
    pub(super) fn check_trusted(&self, account: &AccountId) -> Result<(), SyncError> {
        let Some(why) = self.doubt_of(account) else { return Ok(()) };
        let name = self.log(account).map_or_else(String::new, |log| log.name().to_owned());
        Err(SyncError::Undecided { name, account: *account, why })
    }
}

impl Session {
    /// Everybody who was ever met, but for the user, by name.
    ///
    /// # Errors
    /// Those of the local database.
    pub fn contacts(&self) -> Result<Vec<Contact>, SyncError> {
        let mut contacts = self.inner.shared.accounts.store.contacts()?;
        contacts.retain(|contact| contact.account != self.account());
        Ok(contacts)
    }

    /// Hears what the user's other devices know of contacts and tells them what they do not know, now.
    ///
    /// # Errors
    /// [`SyncError::Remote`]; those of the local database.
    pub fn exchange_contacts(&self) -> Result<(), SyncError> {
        let inner = Arc::clone(&self.inner);
        self.timed(CALL_DEADLINE, "telling your other devices", async move { inner.exchange_contacts().await })
    }

    /// The entries of an account's log, as they were verified.
    ///
    /// # Errors
    /// Those of the local database.
    pub fn account_entries(&self, account: &AccountId) -> Result<Vec<SignedAccountEntry>, SyncError> {
        Ok(self.inner.shared.accounts.store.account_log(account)?)
    }

    /// The contact with this id or, where only one has it, this name. An id that was never met is met now.
    ///
    /// # Errors
    /// [`SyncError::NoSuchContact`], [`SyncError::AmbiguousMember`], [`SyncError::NoSuchAccount`], [`SyncError::Remote`].
    pub fn contact(&self, name_or_id: &str) -> Result<Contact, SyncError> {
        let contacts = self.contacts()?;
        if let Ok(account) = name_or_id.parse::<AccountId>() {
            if account == self.account() {
                return Err(SyncError::Yourself { next: "name somebody else" });
            }
            return match contacts.into_iter().find(|contact| contact.account == account) {
                Some(contact) => Ok(contact),
                None => {
                    let accounts = Arc::clone(&self.inner.shared.accounts);
                    self.timed(
                        CALL_DEADLINE,
                        "asking for the account",
                        async move { accounts.refresh(account).await },
                    )?;
                    let met = self.inner.shared.accounts.contact(&account)?;
                    met.ok_or(SyncError::NoSuchAccount(account))
                }
            };
        }
        let mut found: Vec<_> = contacts.into_iter().filter(|contact| contact.name == name_or_id).collect();
        // Whom the user has rejected does not stand in the way of whom the user means.
        if found.len() > 1 {
            found.retain(|contact| matches!(contact.trust, Trust::Pinned | Trust::Verified));
        }
        match (found.pop(), found.len()) {
            (None, _) => Err(SyncError::NoSuchContact(name_or_id.to_owned())),
            (Some(contact), 0) => Ok(contact),
            (Some(_), others) => Err(SyncError::AmbiguousMember { name: name_or_id.to_owned(), count: others + 1 }),
        }
    }

    /// The words to compare with a contact, made of what the server shows of both accounts now. They are remembered as
    /// shown: [`Self::decide`] is about them.
    ///
    /// # Errors
    /// As [`Self::contact`]; and where the server cannot be reached.
    pub fn compare(&self, name_or_id: &str) -> Result<Comparison, SyncError> {
        let contact = self.contact(name_or_id)?;
        let (accounts, me) = (Arc::clone(&self.inner.shared.accounts), self.account());
        let them = contact.account;
        let (own, theirs) = self.timed(CALL_DEADLINE, "asking for the accounts", async move {
            Ok((accounts.refresh(me).await?, accounts.refresh(them).await?))
        })?;
        let code = code_of(&own, &theirs);
        self.inner.shared.accounts.store.put_shown(&contact.account, code.as_bytes())?;
        let new_keys = contact.trust == Trust::Verified && contact.keys != Some(theirs.keys_hash());
        // What asking has brought to light counts.
        let contact = self.inner.shared.accounts.contact(&contact.account)?.unwrap_or(contact);
        Ok(Comparison { contact, words: code.words().to_vec(), new_keys })
    }

    /// The words that were shown are the same on the other side, or are not.
    ///
    /// # Errors
    /// [`SyncError::CompareFirst`] where they were not shown, or the keys have changed since.
    pub fn decide(&self, name_or_id: &str, same: bool) -> Result<Contact, SyncError> {
        let contact = self.contact(name_or_id)?;
        let accounts = &self.inner.shared.accounts;
        let me = self.account();
        let (own, theirs) = match (accounts.log(&me), accounts.log(&contact.account)) {
            (Some(own), Some(theirs)) => (own, theirs),
            _ => return Err(SyncError::CompareFirst(contact.name)),
        };
        if same && accounts.store.shown(&contact.account)? != Some(*code_of(&own, &theirs).as_bytes()) {
            return Err(SyncError::CompareFirst(contact.name));
        }
        let trust = if same { Trust::Verified } else { Trust::Rejected };
        let keys = same.then(|| theirs.keys_hash());
        let decided = Contact { trust, since_ms: now_ms(), why: String::new(), keys, ..contact };
        accounts.put_contact(&decided)?;
        for folder in self.folders() {
            // What waited for the decision may go on; what is shown of it is another.
            folder.duties.notify_one();
            folder.retry_now();
        }
        Ok(decided)
    }
}

impl Session {
    /// The user has decided that a frozen folder begins anew with the log that the server shows: what was not on the
    /// server yet is kept beside the profile, everything else of the folder is fetched again.
    ///
    /// # Errors
    /// [`SyncError::NotFrozen`]; those of the files. Where the server cannot be reached, the folder comes when it can.
    pub fn begin_anew(&self, folder: &Arc<Folder>) -> Result<(), SyncError> {
        if folder.frozen().is_none() {
            return Err(SyncError::NotFrozen);
        }
        self.inner.take_away(folder)?;
        let inner = Arc::clone(&self.inner);
        match self.timed(CALL_DEADLINE, "asking the server for folders", async move { inner.discover().await }) {
            Err(error) if !error.is_transient() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Folder {
    /// The words for the newest verified position.
    pub fn words(&self) -> FolderWords {
        let Head { seq, chain } = self.replica.mark();
        FolderWords { seq, words: Code::of_folder(self.id().as_bytes(), seq, chain.as_bytes()).words().to_vec() }
    }

    /// Compares with the words that another member sees for entry `seq`. From then on this device knows that there is one:
    /// as long as the server does not give it, the folder is not up to date, and the user is told.
    ///
    /// # Errors
    /// Those of the database.
    pub fn compare_with(&self, seq: u64, words: &str) -> Result<Seen, SyncError> {
        let here = self.replica.mark().seq;
        if seq > here {
            self.announced.fetch_max(seq, Ordering::AcqRel);
            self.follow.notify_one();
            return Ok(Seen::HeldBack { here });
        }
        let chain = self.replica.chain_at(seq)?.unwrap_or(ChainHash::ZERO);
        let ours = Code::of_folder(self.id().as_bytes(), seq, chain.as_bytes()).words().join(" ");
        Ok(if ours == words { Seen::Same } else { Seen::Other })
    }

    /// Members to whom this device seals nothing until the user has decided: account, name, why.
    pub fn undecided(&self) -> Vec<(AccountId, String, String)> {
        let standing = self.replica.standing();
        let of = |account: AccountId| {
            let why = self.accounts.doubt_of(&account)?;
            let name = self.accounts.log(&account).map_or_else(String::new, |log| log.name().to_owned());
            Some((account, name, why))
        };
        standing.members.iter().filter_map(|member| of(member.account)).collect()
    }
}

/// What the user and a contact compare.
fn code_of(own: &AccountLog, theirs: &AccountLog) -> Code {
    Code::of_accounts((own.id().as_bytes(), &own.keys_hash()), (theirs.id().as_bytes(), &theirs.keys_hash()))
}
