//! How this installation becomes a device of an account that exists: by a code that a person carries to another device,
//! or by the recovery phrase.
//!
//! # By a code
//! The new device makes its keys and a code of six words ([`crate::crypto::words`]), and leaves its public keys in a
//! mailbox of the server, sealed under a key that follows from the code. A person types the words on a device of the
//! account, which opens the letter, adds the keys to the account's log and answers, sealed under a key that follows from
//! the code and the letter: which account it is, the head of its log, and the heads of all its folders. Who does not
//! know the code can neither put other keys in the letter's place nor answer: the server is such a one.
//!
//! The new device accepts no state of account or folders that is older than that answer (THREATS row 31).
//!
//! # By the recovery phrase
//! Its keys are a device of the account; it signs the addition of the new one. Nobody tells the new device how long the
//! logs are: an old state that the server shows then is found as soon as another device or member writes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use minicbor::{Decode, Encode};

use super::own::{check_name_free, unsigned};
use super::register::connect;
use super::runtime::Runtimes;
use super::session::{CALL_DEADLINE, Inner};
use super::status::now_ms;
use super::{OwnDevice, Session, SyncError};
use crate::api::{ErrorCode, Letter, Side};
use crate::crypto::words::{Code, Phrase};
use crate::crypto::{Key, aead, kdf, labels};
use crate::format::{AccountId, DbId, DeviceKeys, Head, MailboxId, SignedAccountEntry, decode, encode};
use crate::keyring::{AccountLog, DeviceSecrets, Identity, device_id};
use crate::remote::{HttpOptions, HttpRemote, Remote};
use crate::replica::{AccountStore, FolderRecord};

/// Between two looks into the mailbox.
const LOOK: Duration = Duration::from_millis(700);
/// Layout of both letters.
const VERSION: u8 = 1;
/// The setting of `account.db` that holds the marks of the device that let this one in.
const MARKS: &str = "provision.marks";

/// What follows from a code.
struct CodeKeys {
    mailbox: MailboxId,
    root: Key,
}

impl CodeKeys {
    fn of(code: &Code) -> Result<Self, SyncError> {
        let root = code.root().map_err(|error| SyncError::System(error.to_string()))?;
        let mailbox = MailboxId(kdf::commit(labels::CODE_MAILBOX, &[root.as_bytes()]));
        Ok(Self { mailbox, root })
    }

    fn request_key(&self) -> Key {
        kdf::derive(labels::KEY_CODE_REQUEST, &[self.root.as_bytes()])
    }

    /// Of the answer to exactly this request.
    fn answer_key(&self, request: &Letter) -> Key {
        let request = kdf::hash(labels::HASH_CODE_REQUEST, &[&request.sealed]);
        kdf::derive(labels::KEY_CODE_ANSWER, &[self.root.as_bytes(), &request])
    }
}

/// What the new device asks.
#[derive(Encode, Decode)]
#[cbor(array)]
struct Request {
    #[n(0)]
    version: u8,
    #[n(1)]
    device: DeviceKeys,
}

/// What it is answered: nothing secret, but nothing that the server could have made.
#[derive(Encode, Decode)]
#[cbor(array)]
struct Provision {
    #[n(0)]
    version: u8,
    #[n(1)]
    account: AccountId,
    /// Of the account's log, the new device included.
    #[n(2)]
    head: Head,
    #[n(3)]
    marks: Vec<Mark>,
}

/// How far another device knew a folder.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Mark {
    #[n(0)]
    pub db: DbId,
    #[n(1)]
    pub head: Head,
    #[n(2)]
    pub name: String,
}

/// The marks that came with the provisioning of this device.
pub(super) fn stored_marks(store: &AccountStore) -> Result<Vec<Mark>, SyncError> {
    let Some(bytes) = store.setting(MARKS)? else { return Ok(Vec::new()) };
    decode(&bytes).map_err(|_| SyncError::Damaged("the marks of the device that let this one in".to_owned()))
}

/// A new device that waits for one that knows the account.
pub struct Joining {
    runtimes: Runtimes,
    options: HttpOptions,
    remote: Arc<dyn Remote>,
    device: DeviceSecrets,
    code: Code,
    keys: Arc<CodeKeys>,
    request: Letter,
}

impl Joining {
    /// Makes the keys of a device called `name` and leaves them in a mailbox of the server.
    ///
    /// # Errors
    /// [`SyncError::BadLabel`], [`SyncError::Remote`].
    pub fn begin(options: &HttpOptions, name: &str) -> Result<Self, SyncError> {
        let remote: Arc<dyn Remote> = HttpRemote::new(options, None)?;
        Self::begin_at(options, remote, name)
    }

    /// The same through `remote`, which needs no credentials.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn begin_at(options: &HttpOptions, remote: Arc<dyn Remote>, name: &str) -> Result<Self, SyncError> {
        crate::format::check_label(name).map_err(|_| SyncError::BadLabel(name.to_owned()))?;
        let (runtimes, code) = (Runtimes::new()?, Code::random());
        let (device, keys) = (DeviceSecrets::random(), CodeKeys::of(&code)?);
        let plain = encode(&Request { version: VERSION, device: device.public(name) });
        let request = Letter { sealed: aead::seal(&keys.request_key(), keys.mailbox.as_bytes(), &plain) };
        let (to, letter, mailbox) = (Arc::clone(&remote), request.clone(), keys.mailbox);
        runtimes.run(async move { Ok(to.put_letter(mailbox, Side::Request, &letter).await?) })?;
        Ok(Self { runtimes, options: options.clone(), remote, device, code, keys: Arc::new(keys), request })
    }

    /// What the person types on the other device.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Waits for the other device's answer, and becomes a device of its account. Touches no disk.
    ///
    /// # Errors
    /// [`SyncError::TimedOut`]; [`SyncError::Misbehaviour`] for an answer that is not the other device's, or a log that is
    /// not what it says.
    pub fn wait(self, within: Duration) -> Result<Joined, SyncError> {
        let (remote, keys, request) = (Arc::clone(&self.remote), Arc::clone(&self.keys), self.request.clone());
        let provision = self.runtimes.run(async move {
            let waiting = answer(&*remote, &keys, &request);
            let timed = tokio::time::timeout(within, waiting).await;
            timed.map_err(|_| SyncError::TimedOut("waiting for the code to be typed on another device"))?
        })?;
        let Provision { account, head, marks, .. } = provision;
        complete(&self.runtimes, &self.options, account, self.device, Some(head), marks)
    }
}

async fn answer(remote: &dyn Remote, keys: &CodeKeys, request: &Letter) -> Result<Provision, SyncError> {
    loop {
        match remote.letter(keys.mailbox, Side::Answer).await {
            Ok(Some(letter)) => {
                let lying = |_| SyncError::Misbehaviour("it answered in the place of your other device".to_owned());
                let plain = aead::open(&keys.answer_key(request), keys.mailbox.as_bytes(), &letter.sealed);
                let plain = plain.map_err(lying)?;
                let provision: Provision = decode(&plain).map_err(|_| {
                    SyncError::Damaged("the answer of your other device; update KegFS there".to_owned())
                })?;
                if provision.version != VERSION {
                    return Err(SyncError::Damaged("the answer is of another version; update KegFS".to_owned()));
                }
                return Ok(provision);
            }
            Ok(None) => {}
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK).await;
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
    head: Option<Head>,
    marks: Vec<Mark>,
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
    Ok(Joined { identity, name: log.name().to_owned(), device, entries, marks })
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
    complete(&runtimes, options, account, new, Some(head), Vec::new())
}

/// A device that waits to be let in.
pub struct Candidate {
    device: DeviceKeys,
    keys: CodeKeys,
    request: Letter,
}

impl Candidate {
    /// What it calls itself.
    pub fn name(&self) -> &str {
        &self.device.name
    }
}

impl Session {
    /// The device that waits under `code`.
    ///
    /// # Errors
    /// [`SyncError::NoDeviceWaits`], [`SyncError::Remote`].
    pub fn device_waiting(&self, code: &Code) -> Result<Candidate, SyncError> {
        let keys = CodeKeys::of(code)?;
        let (remote, mailbox) = (Arc::clone(&self.inner.shared.remote), keys.mailbox);
        let letter = self.timed(CALL_DEADLINE, "asking for the new device", async move {
            Ok(remote.letter(mailbox, Side::Request).await?)
        })?;
        let request = letter.ok_or(SyncError::NoDeviceWaits)?;
        let lying = |_| SyncError::Misbehaviour("it put something else in the new device's place".to_owned());
        let plain = aead::open(&keys.request_key(), keys.mailbox.as_bytes(), &request.sealed).map_err(lying)?;
        let asked: Request =
            decode(&plain).map_err(|_| SyncError::Damaged("the new device's request; update KegFS here".to_owned()))?;
        if asked.version != VERSION {
            return Err(SyncError::Damaged("the new device is of another version; update KegFS".to_owned()));
        }
        Ok(Candidate { device: asked.device, keys, request })
    }

    /// Makes the waiting device one of the account, and tells it what it must not accept less than. Can be repeated.
    ///
    /// # Errors
    /// [`SyncError::DeviceNameTaken`], [`SyncError::BadLabel`], [`SyncError::Remote`].
    pub fn add_device(&self, candidate: Candidate) -> Result<OwnDevice, SyncError> {
        let inner = Arc::clone(&self.inner);
        let id = device_id(&candidate.device);
        let own = self.timed(CALL_DEADLINE, "adding the device", async move { inner.add_device(candidate).await })?;
        self.list(&own).into_iter().find(|device| device.id == id).ok_or(SyncError::Closed)
    }
}

impl Inner {
    async fn add_device(&self, candidate: Candidate) -> Result<Arc<AccountLog>, SyncError> {
        let Candidate { device, keys, request } = candidate;
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
        let provision = Provision {
            version: VERSION,
            account: own.id(),
            head: own.head(),
            marks: marks.filter(|mark| mark.head.seq > 0).collect(),
        };
        let sealed = aead::seal(&keys.answer_key(&request), keys.mailbox.as_bytes(), &encode(&provision));
        self.shared.remote.put_letter(keys.mailbox, Side::Answer, &Letter { sealed }).await?;
        Ok(own)
    }
}
