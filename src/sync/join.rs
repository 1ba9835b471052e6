//! How this installation becomes a device of an account that exists: by a code that a person carries to another device,
//! or by the recovery phrase.
//!
//! # By a code
//! The new device makes its keys and a code of six words ([`crate::crypto::words`]), and exchanges letters with a device of
//! the account ([`super::letters`]; its side is [`super::vouch`]). Both then show three words, and the new device goes on
//! when its user has seen the same on the other: until then it knows the account's id and nothing else, and what it was
//! told is nowhere but in memory.
//!
//! The new device accepts no state of account or folders that is older than the other's answer (THREATS row 31).
//!
//! # By the recovery phrase
//! Its keys are a device of the account; it signs the addition of the new one. Nobody tells the new device how long the
//! logs are: an old state that the server shows then is found as soon as another device or member writes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::SyncError;
use super::letters::{Answer, Exchange, Mark, Offer, Provision, Request, Reveal, VERSION, Verdict, commitment};
use super::own::{check_name_free, unsigned};
use super::register::connect;
use super::runtime::Runtimes;
use super::status::now_ms;
use crate::api::{ErrorCode, Letter, Side};
use crate::crypto::compare::DEVICE_WORDS;
use crate::crypto::words::{Code, Phrase};
use crate::crypto::{Key, kdf, labels};
use crate::format::{AccountId, Head, SignedAccountEntry, decode, encode};
use crate::keyring::{AccountLog, DeviceSecrets, Identity, device_id};
use crate::remote::{HttpOptions, HttpRemote, Remote};
use crate::replica::{AccountStore, FolderRecord};
use crate::sys::random;

/// How long putting a letter may take.
const SEND: Duration = Duration::from_secs(30);
/// The setting of `account.db` that holds the marks of the device that let this one in.
const MARKS: &str = "provision.marks";
/// Whose letters the new device opens.
const OTHER: &str = "your other device";

/// The marks that came with the provisioning of this device.
pub(super) fn stored_marks(store: &AccountStore) -> Result<Vec<Mark>, SyncError> {
    let Some(bytes) = store.setting(MARKS)? else { return Ok(Vec::new()) };
    decode(&bytes).map_err(|_| SyncError::Damaged("the marks of the device that let this one in".to_owned()))
}

/// What a new device has on its way in.
struct Newcomer {
    runtimes: Runtimes,
    options: HttpOptions,
    remote: Arc<dyn Remote>,
    device: DeviceSecrets,
    exchange: Exchange,
}

impl Newcomer {
    fn send(&self, side: Side, letter: Letter) -> Result<(), SyncError> {
        let (remote, mailbox) = (Arc::clone(&self.remote), self.exchange.mailbox);
        self.runtimes.run(async move {
            let sending = remote.put_letter(mailbox, side, &letter);
            Ok(tokio::time::timeout(SEND, sending).await.map_err(|_| SyncError::TimedOut("leaving a letter"))??)
        })
    }

    fn wait_for(&self, side: Side, within: Duration) -> Result<Option<Letter>, SyncError> {
        let (remote, exchange) = (Arc::clone(&self.remote), self.exchange.clone());
        self.runtimes.run(async move { exchange.wait_for(&*remote, side, within).await })
    }
}

/// A new device that waits for one that knows the account.
pub struct Joining {
    newcomer: Newcomer,
    code: Code,
    nonce: [u8; 32],
}

impl Joining {
    /// Makes the keys of a device called `name` and leaves them in a mailbox of the server.
    ///
    /// # Errors
    /// [`SyncError::BadLabel`], [`SyncError::Remote`].
    pub fn begin(options: &HttpOptions, name: &str) -> Result<Self, SyncError> {
        Self::begin_with(options, name, Code::random())
    }

    /// The same under a code of the caller's making.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn begin_with(options: &HttpOptions, name: &str, code: Code) -> Result<Self, SyncError> {
        crate::format::check_label(name).map_err(|_| SyncError::BadLabel(name.to_owned()))?;
        let (runtimes, remote): (_, Arc<dyn Remote>) = (Runtimes::new()?, HttpRemote::new(options, None)?);
        let (device, nonce, mut exchange) = (DeviceSecrets::random(), random::array(), Exchange::of(&code)?);
        let keys = device.public(name);
        let request = Request { version: VERSION, commitment: commitment(&nonce, &keys), device: keys };
        let letter = exchange.seal(Side::Request, &request);
        let newcomer = Newcomer { runtimes, options: options.clone(), remote, device, exchange };
        newcomer.send(Side::Request, letter)?;
        Ok(Self { newcomer, code, nonce })
    }

    /// What the person types on the other device.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Waits until the code was typed on the other device.
    ///
    /// # Errors
    /// [`SyncError::TimedOut`]; [`SyncError::Misbehaviour`] for an offer by somebody who does not know the code.
    pub fn meet(self, within: Duration) -> Result<Meeting, SyncError> {
        let Self { mut newcomer, nonce, .. } = self;
        let letter = newcomer.wait_for(Side::Offer, within)?;
        let letter = letter.ok_or(SyncError::TimedOut("waiting for the code to be typed on another device"))?;
        let offer: Offer = newcomer.exchange.open(Side::Offer, &letter, OTHER)?;
        if offer.version != VERSION {
            return Err(SyncError::Damaged("your other device's offer is of another version; update KegFS".to_owned()));
        }
        let reveal = newcomer.exchange.seal(Side::Reveal, &Reveal { nonce });
        newcomer.send(Side::Reveal, reveal)?;
        Ok(Meeting { newcomer, offer })
    }
}

/// A new device and one of an account have met, as it seems: people compare the words. Touches no disk.
pub struct Meeting {
    newcomer: Newcomer,
    offer: Offer,
}

impl Meeting {
    /// What the other device must show too.
    pub fn words(&self) -> [&'static str; DEVICE_WORDS] {
        self.newcomer.exchange.words()
    }

    /// How the account calls itself; true when the words are the same.
    pub fn account_name(&self) -> &str {
        &self.offer.name
    }

    /// How the other device calls itself; true when the words are the same.
    pub fn device_name(&self) -> &str {
        &self.offer.device.name
    }

    /// The user has seen the same words on the other device: waits until that is said there too, and becomes a device of
    /// its account.
    ///
    /// # Errors
    /// [`SyncError::JoinRefused`] where it was refused there; [`SyncError::TimedOut`]; [`SyncError::Misbehaviour`] for an
    /// answer that is not the other device's, or a log that is not what it says.
    pub fn accept(self, within: Duration) -> Result<Joined, SyncError> {
        let Self { mut newcomer, offer } = self;
        let key = newcomer.device.signing_key();
        let verdict = newcomer.exchange.seal_signed(Side::Verdict, &Verdict { same: true }, &key);
        newcomer.send(Side::Verdict, verdict)?;
        let letter = newcomer.wait_for(Side::Answer, within)?;
        let letter = letter.ok_or(SyncError::TimedOut("waiting for the other device"))?;
        let answer: Answer = newcomer.exchange.open_signed(Side::Answer, &letter, &offer.device, OTHER)?;
        let Provision { head, marks } = answer.provision.ok_or(SyncError::JoinRefused)?;
        let Newcomer { runtimes, options, device, .. } = newcomer;
        let joined = complete(&runtimes, &options, offer.account, device, (Some(head), marks))?;
        let by = device_id(&offer.device);
        if !joined.log.may_write_at(&by, head.seq) {
            let what = "the device that let this one in is none of the account's";
            return Err(SyncError::Misbehaviour(what.to_owned()));
        }
        Ok(joined)
    }

    /// The user has seen other words, or an account that is not theirs. The other device is told, so that it adds nothing.
    ///
    /// # Errors
    /// [`SyncError::Remote`]; nothing is stored in any case.
    pub fn refuse(self) -> Result<(), SyncError> {
        let Self { mut newcomer, .. } = self;
        let key = newcomer.device.signing_key();
        let verdict = newcomer.exchange.seal_signed(Side::Verdict, &Verdict { same: false }, &key);
        newcomer.send(Side::Verdict, verdict)
    }
}

/// A device of an account that is not on the disk yet. Save [`Self::identity`], then [`Self::keep`] the rest.
pub struct Joined {
    /// Everything secret, for the keystore.
    pub identity: Identity,
    /// The name that the account gave itself.
    pub name: String,
    /// This device's name.
    pub device: String,
    log: AccountLog,
    entries: Vec<SignedAccountEntry>,
    marks: Vec<Mark>,
}

impl Joined {
    /// Makes what is known of the account and its folders the least that this profile accepts from then on.
    ///
    /// # Errors
    /// Those of the database below `profile`.
    pub fn keep(&self, profile: &Path) -> Result<(), SyncError> {
        let key = kdf::derive(labels::KEY_REPLICA, &[self.identity.local.as_bytes(), b"account"]);
        let store = AccountStore::open(profile, &key)?;
        let account = self.identity.account;
        for (seq, entry) in (1..).zip(&self.entries) {
            store.append_account(&account, seq, entry)?;
        }
        store.put_setting(MARKS, &encode(&self.marks))?;
        for mark in &self.marks {
            store.put_folder(&FolderRecord { db: mark.db, name: mark.name.clone(), dir: mark.db.to_string() })?;
        }
        Ok(())
    }
}

/// The account's log from the server, checked, and the keys that it gives to `device`.
fn complete(
    runtimes: &Runtimes,
    options: &HttpOptions,
    account: AccountId,
    device: DeviceSecrets,
    (head, marks): (Option<Head>, Vec<Mark>),
) -> Result<Joined, SyncError> {
    let mut identity = Identity { account, device, user_keys: [].into(), local: Key::random() };
    let remote = connect(options, &identity)?;
    let (log, entries) = runtimes.run(async move { fetch(&*remote, account).await })?;
    let id = identity.device_id();
    if head.is_some_and(|head| !log.has_head(head)) {
        let what = "it shows another or older state of your account than your other device has just made";
        return Err(SyncError::Misbehaviour(what.to_owned()));
    }
    if !log.may_write_at(&id, log.head().seq) {
        return Err(SyncError::Misbehaviour("it shows your account without this device".to_owned()));
    }
    let bad = |error| SyncError::Misbehaviour(format!("the account's log gives this device no key: {error}"));
    identity.user_keys = log.open_seeds(&identity.device).map_err(bad)?;
    let device = log.device(&id).map_or_else(String::new, |device| device.keys.name.clone());
    Ok(Joined { identity, name: log.name().to_owned(), device, log, entries, marks })
}

async fn fetch(remote: &dyn Remote, account: AccountId) -> Result<(AccountLog, Vec<SignedAccountEntry>), SyncError> {
    let mut entries = Vec::new();
    loop {
        let after = entries.len() as u64;
        let page = remote.account_log(account, after).await?;
        let got = page.entries.len() as u64;
        entries.extend(page.entries);
        if got == 0 || after + got >= page.head.seq {
            break;
        }
    }
    let caught = |what: String| SyncError::Misbehaviour(format!("account {account}: {what}"));
    let log = AccountLog::verify(&entries).map_err(|error| caught(error.to_string()))?;
    if log.id() == account { Ok((log, entries)) } else { Err(caught("it shows the log of another account".to_owned())) }
}

/// Makes a new device called `name` with the recovery phrase of `account`. Touches no disk.
///
/// # Errors
/// [`SyncError::WrongPhrase`], [`SyncError::DeviceNameTaken`], [`SyncError::BadLabel`], [`SyncError::Remote`].
pub fn recover_account(
    options: &HttpOptions,
    account: AccountId,
    phrase: &Phrase,
    name: &str,
) -> Result<Joined, SyncError> {
    crate::format::check_label(name).map_err(|_| SyncError::BadLabel(name.to_owned()))?;
    let runtimes = Runtimes::new()?;
    let paper =
        Identity { account, device: DeviceSecrets::from_phrase(phrase), user_keys: [].into(), local: Key::random() };
    let (remote, new) = (connect(options, &paper)?, DeviceSecrets::random());
    let keys = new.public(name);
    let head = runtimes.run(async move {
        let (mut log, _) = fetch(&*remote, account).await.map_err(|error| match error {
            // An unknown account, an unknown device and a revoked one look the same from outside.
            SyncError::Remote(error) if error.code() == Some(ErrorCode::LoginFailed) => SyncError::WrongPhrase,
            other => other,
        })?;
        check_name_free(&log, &keys.name)?;
        let seed = log.open_seed(&paper.device).map_err(|_| SyncError::WrongPhrase)?;
        let entry = log.add_device(now_ms(), &paper.device, keys, &seed).map_err(unsigned)?;
        remote.append_account(account, &entry).await?;
        log.extend(&entry).map_err(unsigned)?;
        Ok(log.head())
    })?;
    complete(&runtimes, options, account, new, (Some(head), Vec::new()))
}
