//! What a folder of 10,000 members costs: a new epoch, and the verification of one entry.
//!
//! `cargo bench --bench keyring`. Measures the keyring room alone: no disk, no network.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use kegfs::crypto::Key;
use kegfs::format::{
    AccountId, Batch, BoxGrant, ChainHash, DbId, Head, Membership, MembershipChange, Op, OpKind, Role, SignedEntry,
};
use kegfs::keyring::{
    AccountLog, AccountLogs, Author, AuthorState, ChainHistory, DeviceSecrets, Draft, EpochSecrets, FolderState,
    Identity, Position, UserKeySeed, db_id, new_epoch,
};

const MEMBERS: usize = 10_000;

struct Logs(HashMap<AccountId, Arc<AccountLog>>);

impl AccountLogs for Logs {
    fn log(&self, account: &AccountId) -> Option<Arc<AccountLog>> {
        self.0.get(account).cloned()
    }
}

impl ChainHistory for Logs {
    fn chain_at(&self, _: u64) -> Option<ChainHash> {
        None
    }
}

fn person(logs: &mut Logs, name: &str) -> Identity {
    let (device, seed) = (DeviceSecrets::random(), UserKeySeed::random());
    let (log, _) = AccountLog::create(0, name, &device, "laptop", &seed).unwrap();
    let account = log.id();
    logs.0.insert(account, Arc::new(log));
    Identity { account, device, user_keys: BTreeMap::from([(0, seed)]), local: Key::random() }
}

fn position(state: &FolderState, logs: &Logs, who: &Identity) -> Position {
    let db = if state.head().seq == 0 { DbId::ZERO } else { state.db() };
    Position {
        db,
        observed: state.head(),
        account_head: logs.0[&who.account].head(),
        last: state.author(&who.device_id()),
        epoch: state.epoch(),
        now_ms: 0,
    }
}

/// A folder of [`MEMBERS`], its owner, and the secrets of its epoch.
fn folder() -> (Logs, Identity, FolderState, EpochSecrets) {
    let mut logs = Logs(HashMap::new());
    let owner = person(&mut logs, "owner");
    let key = |logs: &Logs, account: &AccountId| logs.0[account].user_key().unwrap();
    let (generation, kem) = key(&logs, &owner.account);
    let (start, _, secrets) = new_epoch(None, &[(owner.account, generation, kem)]).unwrap();
    let empty = Position {
        db: DbId::ZERO,
        observed: Head::EMPTY,
        account_head: logs.0[&owner.account].head(),
        last: AuthorState::NEW,
        epoch: 0,
        now_ms: 0,
    };
    let author = Author::new(&owner);
    let first = author.membership(&empty, &Membership { change: MembershipChange::Create, new_epoch: Some(start) });
    let mut state = FolderState::new(db_id(&first));
    state.advance(&first, &logs, &logs).unwrap();
    for _ in 1..MEMBERS {
        let account = person(&mut logs, "member").account;
        let grant = Some(BoxGrant { epoch: 0, leaf: [0; 32] });
        let account_head = logs.0[&account].head();
        let change = MembershipChange::Add { account, account_head, role: Role::Editor, expires_ms: None, grant };
        let entry = author.membership(&position(&state, &logs, &owner), &Membership { change, new_epoch: None });
        state.advance(&entry, &logs, &logs).unwrap();
    }
    (logs, owner, state, secrets)
}

fn ten_thousand_members(c: &mut Criterion) {
    let (logs, owner, state, secrets) = folder();
    let members: Vec<_> = state
        .members()
        .keys()
        .map(|account| {
            let (generation, kem) = logs.0[account].user_key().unwrap();
            (*account, generation, kem)
        })
        .collect();
    let author = Author::new(&owner);
    let position = position(&state, &logs, &owner);
    let op = Op { base: 0, at_ns: 0, kind: OpKind::FolderName { name: "acme".to_owned() } };
    let draft = Draft { batch: Batch { ops: vec![op] }, adds: vec![], releases: vec![] };
    let batch: SignedEntry = author.batch(&position, &secrets, draft);
    let (start, _, _) = new_epoch(Some(&secrets), &members).unwrap();
    let rotation =
        author.membership(&position, &Membership { change: MembershipChange::Rotate, new_epoch: Some(start) });

    let mut group = c.benchmark_group("folder of 10,000 members");
    group.bench_function("check a batch", |b| b.iter(|| state.check(black_box(&batch), &logs, &logs).unwrap()));
    group.bench_function("check a rotation", |b| b.iter(|| state.check(black_box(&rotation), &logs, &logs).unwrap()));
    group.bench_function("state to bytes", |b| b.iter(|| black_box(&state).to_bytes()));
    group.sample_size(10);
    group.bench_function("new epoch", |b| b.iter(|| new_epoch(Some(&secrets), black_box(&members)).unwrap()));
    group.finish();
    println!("state of {MEMBERS} members: {} bytes", state.to_bytes().len());
}

criterion_group!(benches, ten_thousand_members);
criterion_main!(benches);
