//! Stories of logs: several people and folders in memory, an honest path, and everything that a server, a member or a
//! device could try instead. A test is named after the attack that it plays (THREATS).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod accounts;
mod attacks;
mod epochs;
mod flips;
mod from_now;
mod histories;
mod joining;
mod members;
mod roles;
mod since;
mod thinning;
mod vectors;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::crypto::boxes;
use crate::crypto::{Key, aead, kdf, labels};
use crate::format::*;

/// When all stories begin, milliseconds since 1970 UTC.
pub const NOON: i64 = 1_795_446_000_000;

/// Everybody's account logs.
#[derive(Default, Clone)]
pub struct World {
    pub logs: BTreeMap<AccountId, Arc<AccountLog>>,
    pub entries: BTreeMap<AccountId, Vec<SignedAccountEntry>>,
}

impl AccountLogs for World {
    fn log(&self, account: &AccountId) -> Option<Arc<AccountLog>> {
        self.logs.get(account).cloned()
    }
}

impl World {
    /// A new account whose keys follow from `seed`.
    pub fn person(&mut self, name: &str, seed: u8) -> Identity {
        let device = device(seed);
        let user_key = user_key(seed);
        let (log, entry) = AccountLog::create(NOON, name, &device, "laptop", &user_key).unwrap();
        let account = log.id();
        self.entries.insert(account, vec![entry]);
        self.logs.insert(account, Arc::new(log));
        Identity { account, device, user_keys: BTreeMap::from([(0, user_key)]), local: Key::from_bytes([seed; 32]) }
    }

    pub fn head(&self, who: &Identity) -> Head {
        self.logs[&who.account].head()
    }

    /// The next entry of `who`'s account log, signed by `who`'s device.
    pub fn account_entry(&self, who: &Identity, change: AccountChange) -> SignedAccountEntry {
        let head = self.head(who);
        sign_account(
            &who.device,
            &AccountEntry {
                suite: limits::SUITE,
                account: who.account,
                seq: head.seq + 1,
                previous: head.chain,
                device: who.device_id(),
                created_ms: NOON,
                change,
            },
        )
    }

    pub fn extend(&mut self, who: &Identity, change: AccountChange) -> Result<(), AccountError> {
        let entry = self.account_entry(who, change);
        let mut log = AccountLog::clone(&self.logs[&who.account]);
        log.extend(&entry)?;
        self.logs.insert(who.account, Arc::new(log));
        self.entries.get_mut(&who.account).unwrap().push(entry);
        Ok(())
    }

    /// One more device of `who`'s account.
    pub fn add_device(&mut self, who: &Identity, seed: u8) -> Identity {
        let new = device(seed);
        let (generation, _) = self.logs[&who.account].user_key().unwrap();
        let user_seed = &who.user_keys[&generation];
        let seed_box = seed_box(&new, generation, user_seed);
        self.extend(who, AccountChange::AddDevice { device: new.public("phone"), seed_box }).unwrap();
        let opened = self.logs[&who.account].open_seed(&new).unwrap();
        let user_keys = BTreeMap::from([(generation, opened)]);
        Identity { account: who.account, device: new, user_keys, local: Key::from_bytes([seed; 32]) }
    }

    /// `who` revokes a device of the own account; the new user key follows from `seed`.
    pub fn revoke(&mut self, who: &mut Identity, victim: &Identity, seed: u8) {
        let change = self.revocation(who, victim.device_id(), seed);
        self.extend(who, change).unwrap();
        let opened = self.logs[&who.account].open_seed(&who.device).unwrap();
        who.user_keys.insert(self.logs[&who.account].user_key().unwrap().0, opened);
    }

    /// A revocation that leaves only `who`'s device, which knows the current seed.
    pub fn revocation(&self, who: &Identity, victim: DeviceId, seed: u8) -> AccountChange {
        let generation = self.logs[&who.account].user_key().unwrap().0 + 1;
        let next = user_key(seed);
        let boxes = vec![seed_box(&who.device, generation, &next)];
        let kem = next.kem_secret().public().as_bytes().to_vec();
        let previous = Some(seed_link(generation, &next, &who.user_keys[&(generation - 1)]));
        let user_key = UserKeyPublic { generation, kem, boxes, previous };
        AccountChange::RevokeDevice { device: victim, user_key }
    }
}

pub fn device(seed: u8) -> DeviceSecrets {
    DeviceSecrets::from_seeds(Key::from_bytes([seed; 32]), Key::from_bytes([seed ^ 0x80; 32]))
}

pub fn user_key(seed: u8) -> UserKeySeed {
    UserKeySeed::from_key(Key::from_bytes([seed ^ 0x55; 32]))
}

pub fn seed_box(to: &DeviceSecrets, generation: u32, seed: &UserKeySeed) -> UserKeyBox {
    // Written out here too: it is a frozen layout.
    let info = [b"user key seed".as_slice(), &generation.to_be_bytes(), to.id().as_bytes()].concat();
    UserKeyBox { device: to.id(), sealed: boxes::seal(&to.kem_secret().public(), &info, seed.as_bytes()) }
}

/// The seed of one generation sealed under the next, `generation`.
pub fn seed_link(generation: u32, next: &UserKeySeed, previous: &UserKeySeed) -> Vec<u8> {
    let key = kdf::derive(labels::KEY_USER_PREVIOUS, &[next.as_bytes()]);
    aead::seal(&key, &generation.to_be_bytes(), previous.as_bytes())
}

pub fn sign_account(device: &DeviceSecrets, entry: &AccountEntry) -> SignedAccountEntry {
    let entry = encode(entry);
    let signature = device.signing_key().sign(labels::SIGN_ACCOUNT_ENTRY, &entry).0;
    SignedAccountEntry { entry, signature }
}

pub fn sign(who: &Identity, envelope: &Envelope) -> SignedEntry {
    let envelope = encode(envelope);
    let signature = who.device.signing_key().sign(labels::SIGN_ENTRY, &envelope).0;
    SignedEntry { envelope, signature }
}

/// Chain hashes by position.
#[derive(Default, Clone)]
pub struct Chains(pub Vec<ChainHash>);

impl ChainHistory for Chains {
    fn chain_at(&self, seq: u64) -> Option<ChainHash> {
        self.0.get(usize::try_from(seq.checked_sub(1)?).ok()?).copied()
    }
}

/// A folder with its whole log, as its honest members see it.
pub struct Folder {
    pub state: FolderState,
    pub chains: Chains,
    pub entries: Vec<SignedEntry>,
    /// Secrets of all epochs, in order.
    pub secrets: Vec<EpochSecrets>,
    /// Boxes of all epochs, in order, then those of grants.
    pub boxes: Vec<KeyBox>,
    pub now: i64,
}

impl Folder {
    pub fn create(world: &World, owner: &Identity) -> Self {
        Self::create_with(world, owner, |entry| entry)
    }

    /// A folder whose first entry is `changed` before it is sent.
    pub fn create_with(world: &World, owner: &Identity, changed: impl FnOnce(SignedEntry) -> SignedEntry) -> Self {
        let (generation, kem) = world.logs[&owner.account].user_key().unwrap();
        let (start, boxes, secrets) = new_epoch(None, &[(owner.account, generation, kem)]).unwrap();
        let position = Position {
            db: DbId::ZERO,
            observed: Head::EMPTY,
            account_head: world.head(owner),
            last: AuthorState::NEW,
            epoch: 0,
            now_ms: NOON,
        };
        let body = Membership { change: MembershipChange::Create, new_epoch: Some(start) };
        let entry = changed(Author::new(owner).membership(&position, &body));
        let mut folder = Self {
            state: FolderState::new(db_id(&entry)),
            chains: Chains::default(),
            entries: vec![],
            secrets: vec![secrets],
            boxes,
            now: NOON,
        };
        assert!(matches!(folder.push(world, entry), Verdict::Membership(_)));
        folder
    }

    pub fn position(&self, world: &World, who: &Identity) -> Position {
        self.state.position(&who.device_id(), world.head(who), self.now)
    }

    pub fn check(&self, world: &World, entry: &SignedEntry) -> Result<Verdict, Misbehaviour> {
        self.state.check(entry, world, &self.chains).map(|advanced| advanced.verdict)
    }

    /// Takes in an entry that the server may send here.
    pub fn push(&mut self, world: &World, entry: SignedEntry) -> Verdict {
        let advanced = self.state.advance(&entry, world, &self.chains).unwrap();
        self.chains.0.push(advanced.chain);
        self.entries.push(entry);
        advanced.verdict
    }

    pub fn secrets(&self) -> &EpochSecrets {
        self.secrets.last().unwrap()
    }

    pub fn start(&self) -> &NewEpoch {
        &self.state.epochs().last().unwrap().start
    }

    pub fn batch(&self, world: &World, who: &Identity) -> SignedEntry {
        Author::new(who).batch(&self.position(world, who), self.secrets(), draft("hello"))
    }

    pub fn membership(
        &self,
        world: &World,
        who: &Identity,
        change: MembershipChange,
        new_epoch: Option<NewEpoch>,
    ) -> SignedEntry {
        Author::new(who).membership(&self.position(world, who), &Membership { change, new_epoch })
    }

    /// A batch's envelope changed before it is signed: what a malicious member can make.
    pub fn forged(&self, world: &World, who: &Identity, change: impl FnOnce(&mut Envelope)) -> SignedEntry {
        let mut envelope = Envelope::decode(&self.batch(world, who).envelope).unwrap();
        change(&mut envelope);
        sign(who, &envelope)
    }

    pub fn add(&mut self, world: &World, by: &Identity, who: &Identity, role: Role) -> Verdict {
        self.add_until(world, by, who, role, None)
    }

    /// Adds with full history; guests, who have an expiry, from now on.
    pub fn add_until(
        &mut self,
        world: &World,
        by: &Identity,
        who: &Identity,
        role: Role,
        expires_ms: Option<i64>,
    ) -> Verdict {
        if expires_ms.is_some() {
            let account_head = world.head(who);
            let change = MembershipChange::Add { account: who.account, account_head, role, expires_ms, grant: None };
            return self.change_with_epoch(world, by, change);
        }
        let entry = self.grant_entry(world, by, who, role);
        self.push(world, entry)
    }

    /// The entry by which `by` adds `who` with full history.
    pub fn grant_entry(&mut self, world: &World, by: &Identity, who: &Identity, role: Role) -> SignedEntry {
        let (generation, kem) = world.logs[&who.account].user_key().unwrap();
        let (granted, sealed) = grant(self.secrets(), self.start(), who.account, generation, &kem).unwrap();
        let (account, account_head) = (who.account, world.head(who));
        let change = MembershipChange::Add { account, account_head, role, expires_ms: None, grant: Some(granted) };
        self.boxes.push(sealed);
        self.membership(world, by, change, None)
    }

    /// The epoch that would follow with `change`.
    pub fn next_epoch(&self, world: &World, change: &MembershipChange) -> (NewEpoch, Vec<KeyBox>, EpochSecrets) {
        new_epoch_for(Some(self.secrets()), &self.state.recipients(change, world).unwrap()).unwrap()
    }

    pub fn remove(&mut self, world: &World, by: &Identity, who: &Identity) -> Verdict {
        let change = MembershipChange::Remove { account: who.account };
        self.change_with_epoch(world, by, change)
    }

    pub fn rotate(&mut self, world: &World, by: &Identity) -> Verdict {
        self.change_with_epoch(world, by, MembershipChange::Rotate)
    }

    pub fn change_with_epoch(&mut self, world: &World, by: &Identity, change: MembershipChange) -> Verdict {
        let (start, boxes, secrets) = self.next_epoch(world, &change);
        let verdict = self.push(world, self.membership(world, by, change, Some(start)));
        if matches!(verdict, Verdict::Membership(_)) {
            self.boxes = boxes;
            self.secrets.push(secrets);
        }
        verdict
    }

    pub fn box_of(&self, who: &Identity) -> &KeyBox {
        self.boxes.iter().rfind(|sealed| sealed.account == who.account).unwrap()
    }
}

pub fn draft(name: &str) -> Draft {
    let op = Op { base: 0, at_ns: 0, kind: OpKind::FolderName { name: name.to_owned() } };
    Draft { batch: Batch { ops: vec![op] }, adds: vec![], releases: vec![] }
}

/// An epoch start that verification accepts and nobody can open.
pub fn hollow_epoch(epoch: u32, boxes: usize) -> NewEpoch {
    let back_link = (epoch > 0).then(|| vec![0; 104]);
    NewEpoch {
        epoch,
        content_commitment: [1; 32],
        history_commitment: [2; 32],
        boxes_root: [3; 32],
        boxes: boxes as u32,
        back_link,
    }
}

/// Alice owns a folder, and Bob edits it.
pub struct Team {
    pub world: World,
    pub alice: Identity,
    pub bob: Identity,
    pub folder: Folder,
}

pub fn team() -> Team {
    let mut world = World::default();
    let (alice, bob) = (world.person("alice", 1), world.person("bob", 2));
    let mut folder = Folder::create(&world, &alice);
    assert!(matches!(folder.add(&world, &alice, &bob, Role::Editor), Verdict::Membership(_)));
    Team { world, alice, bob, folder }
}
