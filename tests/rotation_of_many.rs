//! What a new epoch costs in a folder of 10,000 members: the work of the one who starts it, and what travels.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kegfs::crypto::{Key, merkle};
use kegfs::format::{AccountId, ChainHash, DbId, Membership, MembershipChange, Role, SignedEntry, encode};
use kegfs::keyring::{
    AccountLog, AccountLogs, Author, ChainHistory, DeviceSecrets, FolderState, Identity, UserKeySeed, Verdict,
    box_leaf, db_id, grant, new_epoch, new_epoch_for,
};
use nix::time::{ClockId, clock_gettime};

const MEMBERS: usize = 10_000;

#[derive(Default)]
struct World(HashMap<AccountId, Arc<AccountLog>>);

impl AccountLogs for World {
    fn log(&self, account: &AccountId) -> Option<Arc<AccountLog>> {
        self.0.get(account).cloned()
    }
}

impl ChainHistory for World {
    fn chain_at(&self, _: u64) -> Option<ChainHash> {
        None
    }
}

#[test]
fn rotating_for_ten_thousand_members_stays_within_its_bounds() {
    let mut world = World::default();
    let (device, seed) = (DeviceSecrets::random(), UserKeySeed::random());
    let (own, _) = AccountLog::create(0, "alice", &device, "laptop", &seed).unwrap();
    let own = Arc::new(own);
    let me = Identity { account: own.id(), device, user_keys: [(0, seed)].into(), local: Key::random() };
    world.0.insert(own.id(), own.clone());
    let author = Author::new(&me);
    let (generation, key) = own.user_key().unwrap();
    let (start, _, current) = new_epoch(None, &[(own.id(), generation, key)]).unwrap();
    let mut state = FolderState::new(DbId::ZERO);
    let mut position = state.position(&author.device(), own.head(), 0);
    let first = author.membership(&position, &Membership { change: MembershipChange::Create, new_epoch: Some(start) });
    state = FolderState::new(db_id(&first));
    state.advance(&first, &world, &world).unwrap();
    while state.members().len() < MEMBERS {
        let (device, seed) = (DeviceSecrets::random(), UserKeySeed::random());
        let (log, _) = AccountLog::create(0, "member", &device, "laptop", &seed).unwrap();
        let (generation, key) = log.user_key().unwrap();
        let (promise, _) = grant(&current, &state.epochs()[0].start, log.id(), generation, &key).unwrap();
        let change = MembershipChange::Add {
            account: log.id(),
            account_head: log.head(),
            role: Role::Editor,
            expires_ms: None,
            grant: Some(promise),
        };
        world.0.insert(log.id(), Arc::new(log));
        position = state.position(&author.device(), own.head(), 0);
        let entry = author.membership(&position, &Membership { change, new_epoch: None });
        assert!(matches!(state.advance(&entry, &world, &world).unwrap().verdict, Verdict::Membership(_)));
    }

    // Time of this process alone: what else runs on the machine does not count.
    let spent = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap());
    let rotate = || {
        let begin = spent();
        let recipients = state.recipients(&MembershipChange::Rotate, &world).unwrap();
        let (start, boxes, _) = new_epoch_for(Some(&current), &recipients).unwrap();
        let root = start.boxes_root;
        let body = Membership { change: MembershipChange::Rotate, new_epoch: Some(start) };
        let position = state.position(&author.device(), own.head(), 1);
        let entry: SignedEntry = author.membership(&position, &body);
        (spent() - begin, entry, boxes, root)
    };
    // The better of two: memory and cores are shared with other tests.
    let (first, ..) = rotate();
    let (second, entry, boxes, root) = rotate();
    let made = first.min(second);
    let sent = encode(&entry).len() + boxes.iter().map(|sealed| encode(sealed).len()).sum::<usize>();
    let begin = Instant::now();
    assert!(matches!(state.advance(&entry, &world, &world).unwrap().verdict, Verdict::Membership(_)));
    let verified = begin.elapsed();
    assert_eq!((state.epoch(), boxes.len()), (1, MEMBERS));

    let leaves: Vec<_> = boxes.iter().map(box_leaf).collect();
    let at = MEMBERS / 2;
    let proof = merkle::proof(&leaves, at).unwrap();
    assert!(merkle::verify(&root, &leaves[at], at as u64, MEMBERS as u64, &proof));
    let downloaded = encode(&entry).len() + encode(&boxes[at]).len() + 34 * proof.len();
    println!(
        "{MEMBERS} members: made in {made:?}, verified in {verified:?}; {sent} bytes sent, {downloaded} to each member"
    );
    assert!(made < Duration::from_secs(5), "{made:?}");
    assert!(sent < 20_000_000, "{sent}");
    assert!(downloaded < 10_000, "{downloaded}");
}
