//! A revoked laptop in the hands of somebody who has a copy of everything on it, and a server that helps.

use std::collections::HashMap;
use std::sync::Arc;

use kegfs::crypto::boxes::KemSecret;
use kegfs::format::{
    AccountId, Batch, ChainHash, Envelope, Head, Membership, MembershipChange, Op, OpKind, Role, SignedEntry,
};
use kegfs::keyring::{
    AccountLog, AccountLogs, Author, AuthorState, ChainHistory, Draft, FolderState, Identity, KeyRing, Verdict,
    open_batch,
};
use kegfs::remote::Remote;
use kegfs::sync::Folder;
use tokio::runtime::{Builder, Runtime};

use crate::sync_support::*;

/// Everybody's account logs and the folder's log, as the server has them.
struct Server {
    accounts: HashMap<AccountId, Arc<AccountLog>>,
    chains: Vec<ChainHash>,
    entries: Vec<SignedEntry>,
}

impl AccountLogs for Server {
    fn log(&self, account: &AccountId) -> Option<Arc<AccountLog>> {
        self.accounts.get(account).cloned()
    }
}

impl ChainHistory for Server {
    fn chain_at(&self, seq: u64) -> Option<ChainHash> {
        self.chains.get(usize::try_from(seq.checked_sub(1)?).ok()?).copied()
    }
}

impl Server {
    fn of(runtime: &Runtime, through: &Person, folder: &Folder, people: &[&Person]) -> Self {
        let log = |person: &&Person| {
            let page = runtime.block_on(through.network.account_log(person.id, 0)).unwrap();
            (person.id, Arc::new(AccountLog::verify(&page.entries).unwrap()))
        };
        let entries = runtime.block_on(through.network.entries(folder.id(), 0, u64::MAX)).unwrap().entries;
        let chains = (1..=entries.len() as u64).map(|seq| folder.replica.chain_at(seq).unwrap().unwrap()).collect();
        Self { accounts: people.iter().map(log).collect(), chains, entries }
    }
}

fn state_of(folder: &Folder) -> FolderState {
    let authors = folder.replica.authors().unwrap().into_iter();
    let authors = authors.map(|(device, counter, previous)| (device, AuthorState { counter, previous })).collect();
    FolderState::from_bytes(&folder.replica.standing().state, folder.replica.mark(), authors).unwrap()
}

fn ring_of(folder: &Folder) -> KeyRing {
    KeyRing::from_bytes(&folder.replica.load_keyring().unwrap().unwrap()).unwrap()
}

#[test]
fn a_revoked_laptop_with_a_copy_of_everything_and_a_colluding_server_writes_and_reads_nothing_after() {
    let pair = Pair::new();
    let mut laptop = Person::from_joined(&pair.kegd, &pair.alice.add_device(&pair.kegd, "stolen laptop"));
    let its = laptop.folder("acme");
    write(&its, "draft", b"written on the laptop");
    its.wait_uploaded_blocking(PATIENCE).unwrap();
    pair.settle();
    its.catch_up_blocking(PATIENCE).unwrap();
    // The copy: keys, key ring, verified state.
    let (thief, ring, state) = (laptop.keys(), ring_of(&its), state_of(&its));
    laptop.lock();

    pair.alice.session().revoke_device("stolen laptop").unwrap();
    write(&pair.theirs, "secret plans", b"not for the thief");
    pair.theirs.wait_uploaded_blocking(PATIENCE).unwrap();
    pair.ours.catch_up_blocking(PATIENCE).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let server = Server::of(&runtime, &pair.alice, &pair.ours, &[&pair.alice, &pair.bob]);

    reads_nothing(&runtime, &pair, &server, &thief, &ring, state.head().seq);
    writes_nothing(&pair, &server, &thief, &ring, &state);
    // And the honest server does not let it in at all.
    laptop.unlock();
    let refused = laptop.session().refresh(PATIENCE);
    assert!(matches!(refused, Err(kegfs::sync::SyncError::DeviceRevoked { .. })), "{refused:?}");
    laptop.lock();
    assert!(laptop.try_unlock().is_err(), "nor does its own client open any more, once it knows");
}

#[test]
fn however_often_a_revoked_device_asks_at_once_it_is_told_that_it_was_revoked() {
    let pair = Pair::new();
    for name in ["phone", "tablet", "old laptop"] {
        let mut device = Person::from_joined(&pair.kegd, &pair.alice.add_device(&pair.kegd, name));
        device.lock();
        pair.alice.session().revoke_device(name).unwrap();
        device.unlock();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let refused = device.session().refresh(PATIENCE);
                    assert!(matches!(refused, Err(kegfs::sync::SyncError::DeviceRevoked { .. })), "{refused:?}");
                });
            }
        });
    }
}

/// Neither entries nor boxes nor the account's log give the copy a key of what came after.
fn reads_nothing(runtime: &Runtime, pair: &Pair, server: &Server, thief: &Identity, ring: &KeyRing, had: u64) {
    let db = pair.ours.id();
    let own = &server.accounts[&pair.alice.id];
    assert!(own.open_seed(&thief.device).is_err() && own.open_seeds(&thief.device).is_err());
    let after: Vec<Envelope> =
        server.entries.iter().skip(had as usize).map(|entry| Envelope::decode(&entry.envelope).unwrap()).collect();
    let new_epoch = after.iter().position(|envelope| {
        Membership::decode(&envelope.body, envelope.suite).is_ok_and(|body| body.change == MembershipChange::Rotate)
    });
    let new_epoch = new_epoch.expect("the revocation changed the key");
    let sealed: Vec<&Envelope> = after.iter().skip(new_epoch + 1).filter(|envelope| envelope.epoch > 0).collect();
    assert!(!sealed.is_empty());
    for envelope in sealed {
        assert!(open_batch(&db, envelope, ring).is_err());
        assert!(open_batch(&db, envelope, &ring_of(&pair.ours)).is_ok(), "who stays opens it");
    }
    // The server hands out everybody's boxes of the new epoch.
    let seq = had + new_epoch as u64 + 1;
    let state = state_of(&pair.ours);
    let start = &state.epochs().last().unwrap().start;
    assert_eq!(start.epoch, 1);
    let keys: Vec<KemSecret> =
        thief.user_keys.values().map(|seed| seed.kem_secret()).chain([thief.device.kem_secret()]).collect();
    for person in [&pair.alice, &pair.bob] {
        let key_box = runtime.block_on(person.network.member_box(db, seq)).unwrap().key_box;
        for key in &keys {
            let mut opened = KeyRing::from_bytes(&ring.to_bytes()).unwrap();
            assert!(opened.open_box(start, &key_box, key, state.epochs()).is_err());
        }
    }
}

/// Every entry that the copy can sign, placed anywhere after the revocation is known, counts for nothing.
fn writes_nothing(pair: &Pair, server: &Server, thief: &Identity, ring: &KeyRing, had: &FolderState) {
    let theirs = state_of(&pair.theirs);
    let own = &server.accounts[&pair.alice.id];
    let author = Author::new(thief);
    let draft = || Draft {
        batch: Batch { ops: vec![Op { base: 0, at_ns: 0, kind: OpKind::FolderName { name: "stolen".into() } }] },
        adds: vec![],
        releases: vec![],
    };
    let mut tried = 0;
    for account_seq in 1..=own.head().seq {
        let account_head = own.head_at(account_seq).unwrap();
        for (observed, epoch) in
            [(had.head(), 0), (theirs.head(), 0), (theirs.head(), 1), (Head { seq: 1, chain: server.chains[0] }, 0)]
        {
            // Its own counter is right: the server knows all entries.
            let mut position = theirs.position(&thief.device.id(), account_head, now_ms());
            (position.observed, position.epoch) = (observed, epoch);
            let batch = author.batch(&position, ring.epoch(0).unwrap(), draft());
            let demote = MembershipChange::SetRole { account: pair.bob.id, role: Role::Viewer, expires_ms: None };
            let membership = author.membership(&position, &Membership { change: demote, new_epoch: None });
            for entry in [batch, membership] {
                tried += 1;
                // Either it proves the server's fault, or it is passed over.
                if let Ok(advanced) = theirs.check(&entry, server, server) {
                    assert!(matches!(advanced.verdict, Verdict::Ignored(_)), "{:?}", advanced.verdict);
                }
            }
        }
    }
    assert_eq!(tried, own.head().seq * 4 * 2);
    // The same things signed by a device that stays do count.
    let mine = Author::new(&pair.alice.keys());
    let position = theirs.position(&mine.device(), own.head(), now_ms());
    let entry = mine.batch(&position, ring_of(&pair.ours).epoch(1).unwrap(), draft());
    assert_eq!(theirs.check(&entry, server, server).unwrap().verdict, Verdict::Batch);
}
