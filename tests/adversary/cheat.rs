//! A member's client with changed code, or a device in the wrong hands: it has the keys and signs what an honest client
//! never would. The server is its accomplice.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use kegfs::crypto::{aead, kdf, labels};
use kegfs::format::{
    AccountId, Batch, ChainHash, DbId, Envelope, Head, KeyBox, Membership, MembershipChange, NewEpoch, Op, OpKind,
    SignedAccountEntry, SignedEntry, encode,
};
use kegfs::keyring::{
    AccountLog, AccountLogs, Author, ChainHistory, Draft, FolderState, Identity, KeyRing, Position, Verdict,
};
use kegfs::remote::{HttpOptions, Remote};
use kegfs::sync::{Folder, connect};
use kegfs::sys::clock;
use tokio::runtime::Runtime;

use crate::sync_support::{Kegd, Person};

/// Runs one call of a [`Remote`] to its end.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap()).block_on(work)
}

pub fn now_ms() -> i64 {
    clock::unix_nanos() / 1_000_000
}

/// The server, as a device of `identity` reaches it without anybody between.
pub fn direct(url: &str, identity: &Identity) -> Arc<dyn Remote> {
    connect(&HttpOptions { url: url.to_owned(), ..HttpOptions::default() }, identity).unwrap()
}

/// Account logs by account.
#[derive(Default, Clone)]
pub struct World(pub HashMap<AccountId, Arc<AccountLog>>);

impl AccountLogs for World {
    fn log(&self, account: &AccountId) -> Option<Arc<AccountLog>> {
        self.0.get(account).cloned()
    }
}

/// Chain hashes by position.
#[derive(Default, Clone)]
pub struct Chains(pub Vec<ChainHash>);

impl ChainHistory for Chains {
    fn chain_at(&self, seq: u64) -> Option<ChainHash> {
        self.0.get(usize::try_from(seq.checked_sub(1)?).ok()?).copied()
    }
}

/// The whole log of an account.
pub fn account_log(remote: &Arc<dyn Remote>, account: AccountId) -> Vec<SignedAccountEntry> {
    let mut entries = Vec::new();
    loop {
        let page = wait(remote.account_log(account, entries.len() as u64)).unwrap();
        entries.extend(page.entries);
        if entries.len() as u64 >= page.head.seq {
            return entries;
        }
    }
}

/// What a member knows of a folder, and the keys to sign with.
pub struct Shadow {
    pub identity: Identity,
    pub author: Author,
    pub db: DbId,
    pub state: FolderState,
    pub chains: Chains,
    pub entries: Vec<SignedEntry>,
    pub ring: KeyRing,
    pub world: World,
    pub remote: Arc<dyn Remote>,
}

impl Shadow {
    /// Of a member, as things stand on the server.
    pub fn of(kegd: &Kegd, person: &Person, folder: &Folder) -> Self {
        let ring = KeyRing::from_bytes(&folder.replica.load_keyring().unwrap().unwrap()).unwrap();
        Self::with(&kegd.url(), person.identity(), folder.id(), ring)
    }

    /// Of whoever has this identity and these keys.
    pub fn with(url: &str, identity: Identity, db: DbId, ring: KeyRing) -> Self {
        let remote = direct(url, &identity);
        let author = Author::new(&identity);
        let mut shadow = Self {
            identity,
            author,
            db,
            state: FolderState::new(db),
            chains: Chains::default(),
            entries: Vec::new(),
            ring,
            world: World::default(),
            remote,
        };
        loop {
            let page = wait(shadow.remote.entries(db, shadow.state.head().seq, 8 << 20)).unwrap();
            page.entries.into_iter().for_each(|entry| drop(shadow.push(entry)));
            if shadow.state.head().seq >= page.head_seq {
                return shadow;
            }
        }
    }

    /// Of whoever has this identity: the folder's keys are in the boxes that the server has for it.
    pub fn from_boxes(url: &str, identity: Identity, db: DbId) -> Self {
        let mut shadow = Self::with(url, identity, db, KeyRing::default());
        let head = shadow.state.head().seq;
        let sealed = (1..=head).rev().find_map(|seq| wait(shadow.remote.member_box(db, seq)).ok()).expect("a box");
        let start = shadow.state.epochs().last().unwrap().start.clone();
        let key = shadow.identity.user_keys[&sealed.key_box.generation].kem_secret();
        shadow.ring.open_box(&start, &sealed.key_box, &key, shadow.state.epochs()).unwrap();
        shadow
    }

    /// Knows the newest log of `account`.
    pub fn learn(&mut self, account: AccountId) -> Arc<AccountLog> {
        let log = Arc::new(AccountLog::verify(&account_log(&self.remote, account)).unwrap());
        self.world.0.insert(account, Arc::clone(&log));
        log
    }

    /// Takes an entry in.
    pub fn push(&mut self, entry: SignedEntry) -> Verdict {
        let envelope = Envelope::decode(&entry.envelope).unwrap();
        let mut named = vec![envelope.author];
        if let Ok(Membership { change: MembershipChange::Add { account, .. }, .. }) =
            Membership::decode(&envelope.body, envelope.suite)
        {
            named.push(account);
        }
        named.into_iter().for_each(|account| drop(self.learn(account)));
        let advanced = self.state.advance(&entry, &self.world, &self.chains).unwrap();
        self.chains.0.push(advanced.chain);
        self.entries.push(entry);
        advanced.verdict
    }

    /// Where the device's next entry goes.
    pub fn position(&self) -> Position {
        let own = self.world.0.get(&self.identity.account).map_or(Head::EMPTY, |log| log.head());
        self.state.position(&self.identity.device_id(), own, now_ms())
    }

    /// A batch as an honest client would make it.
    pub fn batch(&self, ops: Vec<OpKind>) -> SignedEntry {
        self.batch_at(&self.position(), ops)
    }

    /// A batch at any position.
    pub fn batch_at(&self, position: &Position, ops: Vec<OpKind>) -> SignedEntry {
        let op = |kind| Op { base: position.observed.seq, at_ns: clock::unix_nanos(), kind };
        let batch = Batch { ops: ops.into_iter().map(op).collect() };
        let draft = Draft { batch, adds: vec![], releases: vec![] };
        self.author.batch(position, self.ring.epoch(position.epoch).unwrap(), draft)
    }

    /// A batch whose plaintext is any bytes.
    pub fn batch_of_bytes(&self, plain: &[u8]) -> SignedEntry {
        let position = self.position();
        let mut envelope = Envelope::decode(&self.batch(vec![name("x")]).envelope).unwrap();
        let secrets = self.ring.epoch(position.epoch).unwrap();
        let key = kdf::derive(labels::KEY_ENTRY_BODY, &[secrets.content.as_bytes(), self.db.as_bytes()]);
        let aad = [
            self.db.as_bytes().as_slice(),
            envelope.device.as_bytes(),
            &envelope.counter.to_be_bytes(),
            &envelope.epoch.to_be_bytes(),
        ]
        .concat();
        envelope.body = aead::seal(&key, &aad, &kegfs::crypto::padme::pad(plain.to_vec()));
        self.sign(&envelope)
    }

    /// An entry with its envelope changed before it is signed.
    pub fn forged(&self, honest: &SignedEntry, change: impl FnOnce(&mut Envelope)) -> SignedEntry {
        let mut envelope = Envelope::decode(&honest.envelope).unwrap();
        change(&mut envelope);
        self.sign(&envelope)
    }

    pub fn sign(&self, envelope: &Envelope) -> SignedEntry {
        let envelope = encode(envelope);
        let signature = self.identity.device.signing_key().sign(labels::SIGN_ENTRY, &envelope).0;
        SignedEntry { envelope, signature }
    }

    /// A membership entry on the head.
    pub fn membership(&self, change: MembershipChange, new_epoch: Option<NewEpoch>) -> SignedEntry {
        self.author.membership(&self.position(), &Membership { change, new_epoch })
    }

    /// The epoch that would come with `change`, honestly made.
    pub fn next_epoch(&self, change: &MembershipChange) -> (NewEpoch, Vec<KeyBox>, kegfs::keyring::EpochSecrets) {
        let recipients = self.state.recipients(change, &self.world).unwrap();
        kegfs::keyring::new_epoch_for(self.ring.epoch(self.state.epoch()).ok(), &recipients).unwrap()
    }

    /// Has the server append it.
    pub fn post(&self, entry: &SignedEntry, boxes: &[KeyBox]) -> Result<u64, kegfs::remote::RemoteError> {
        wait(self.remote.append(self.db, entry, boxes))
    }
}

/// An operation that shows in the folder's name.
pub fn name(name: &str) -> OpKind {
    OpKind::FolderName { name: name.to_owned() }
}
