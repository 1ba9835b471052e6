//! Recovery phrases, names of devices, and invites: what they open, and what nobody can do with them.

use super::*;
use crate::crypto::words::Phrase;

const DAY: i64 = 24 * 3_600_000;

fn phrase(seed: u8) -> DeviceSecrets {
    DeviceSecrets::from_phrase(&Phrase::from_key(Key::from_bytes([seed; 32])))
}

/// `who`'s account has a recovery phrase; the device that it is.
fn with_recovery(world: &mut World, who: &Identity, seed: u8) -> Identity {
    let device = phrase(seed);
    let seed_box = seed_box(&device, 0, &who.user_keys[&0]);
    world.extend(who, AccountChange::AddRecovery { device: device.public("recovery phrase"), seed_box }).unwrap();
    let user_keys = world.logs[&who.account].open_seeds(&device).unwrap();
    Identity { account: who.account, device, user_keys, local: Key::from_bytes([seed; 32]) }
}

#[test]
fn keys_of_phrases_and_invites_are_frozen() {
    let hash = |bytes: &[u8]| hex::encode(crate::crypto::verified::blob_id(bytes));
    let device = phrase(7).public("");
    let secret = InviteSecret::from_key(Key::from_bytes([7; 32]));
    let redemption = Redemption {
        db: DbId([1; 32]),
        key: secret.key(),
        account: AccountId([2; 32]),
        account_head: Head { seq: 3, chain: ChainHash([4; 32]) },
    };
    let frozen = [
        hex::encode(device.sign),
        hash(&device.kem),
        secret.key().to_string(),
        secret.admission(),
        hex::encode(secret.admission_hash()),
        hash(&secret.prove(&redemption)),
    ];
    assert_eq!(frozen.join("\n"), include_str!("../vectors/joining.txt").trim());
}

#[test]
fn a_recovery_phrase_adds_a_device_and_does_nothing_else() {
    let Team { mut world, alice, mut folder, .. } = team();
    let paper = with_recovery(&mut world, &alice, 7);
    assert_eq!(paper.user_keys[&0].as_bytes(), alice.user_keys[&0].as_bytes());
    for change in [
        AccountChange::RenameDevice { device: alice.device_id(), name: "mine".to_owned() },
        world.revocation(&paper, alice.device_id(), 9),
    ] {
        assert_eq!(world.extend(&paper, change), Err(AccountError::NotAllowed));
    }
    let second = phrase(8);
    let add_paper = AccountChange::AddRecovery {
        device: second.public("recovery phrase"),
        seed_box: seed_box(&second, 0, &paper.user_keys[&0]),
    };
    assert_eq!(world.extend(&paper, add_paper), Err(AccountError::NotAllowed));
    // It writes into no folder, and makes none.
    let log = &world.logs[&alice.account];
    assert!(log.device_valid_at(&paper.device_id(), 2) && !log.may_write_at(&paper.device_id(), 2));
    let verdict = folder.push(&world, folder.batch(&world, &paper));
    assert_eq!(verdict, Verdict::Ignored(Reason::RecoveryPhrase));
    assert!(std::panic::catch_unwind(|| Folder::create(&world, &paper)).is_err());
    // The device that it adds is like any other.
    let phone = world.add_device(&paper, 5);
    assert_eq!(phone.user_keys[&0].as_bytes(), alice.user_keys[&0].as_bytes());
    assert_eq!(folder.push(&world, folder.batch(&world, &phone)), Verdict::Batch);
}

#[test]
fn a_device_has_the_name_that_the_log_gave_it_at_each_place() {
    let Team { mut world, alice, .. } = team();
    let phone = world.add_device(&alice, 5);
    let rename = |name: &str| AccountChange::RenameDevice { device: phone.device_id(), name: name.to_owned() };
    world.extend(&alice, rename("tablet")).unwrap();
    world.extend(&phone, rename("e-reader")).unwrap();
    let log = &world.logs[&alice.account];
    let names: Vec<String> = (2..=4).map(|seq| log.label_at(&phone.device_id(), seq)).collect();
    assert_eq!(names, ["alice's phone", "alice's tablet", "alice's e-reader"]);
    assert_eq!(log.label(&phone.device_id()), "alice's e-reader");
    let again = AccountLog::verify(&world.entries[&alice.account]).unwrap();
    assert_eq!(again, **log);
    for bad in ["", "a/b", "x\n"] {
        assert!(matches!(world.extend(&alice, rename(bad)), Err(AccountError::Format(_))), "{bad:?}");
    }
    let stranger = AccountChange::RenameDevice { device: DeviceId([9; 32]), name: "x".to_owned() };
    assert_eq!(world.extend(&alice, stranger), Err(AccountError::NotAllowed));
}

/// An invite, its secret, and who might come by it.
struct Door {
    secret: InviteSecret,
    role: Role,
    expires_ms: Option<i64>,
}

impl Door {
    fn change(&self, ends_ms: i64) -> MembershipChange {
        MembershipChange::Invite { key: self.secret.key(), role: self.role, ends_ms, expires_ms: self.expires_ms }
    }

    /// Opens `folder` by `who`.
    fn open(role: Role, expires_ms: Option<i64>, folder: &mut Folder, world: &World, who: &Identity) -> Self {
        let door = Self { secret: InviteSecret::random(), role, expires_ms };
        let verdict = folder.push(world, folder.membership(world, who, door.change(NOON + DAY), None));
        assert!(matches!(verdict, Verdict::Membership(_)), "{verdict:?}");
        door
    }

    fn redemption(&self, folder: &Folder, world: &World, who: &Identity) -> Redemption {
        let (db, key) = (folder.state.db(), self.secret.key());
        Redemption { db, key, account: who.account, account_head: world.head(who) }
    }

    /// What an admin's client makes of a proof.
    fn redeem(&self, folder: &Folder, proof: [u8; 64], of: &Redemption) -> MembershipChange {
        let Redemption { key, account, account_head, .. } = *of;
        let granted = Some(BoxGrant { epoch: folder.state.epoch(), leaf: [0; 32] });
        let grant = granted.filter(|_| self.expires_ms.is_none());
        MembershipChange::Redeem { key, account, account_head, proof, grant }
    }

    /// The verdict when `by` lets `who` in with the true proof.
    fn enter(&self, folder: &mut Folder, world: &World, by: &Identity, who: &Identity) -> Verdict {
        let redemption = self.redemption(folder, world, who);
        let change = self.redeem(folder, self.secret.prove(&redemption), &redemption);
        match self.expires_ms {
            None => folder.push(world, folder.membership(world, by, change, None)),
            Some(_) => folder.change_with_epoch(world, by, change),
        }
    }
}

#[test]
fn an_invite_lets_one_in_in_its_role_and_is_used_up() {
    let Team { mut world, alice, mut folder, .. } = team();
    let (carol, dave) = (world.person("carol", 30), world.person("dave", 31));
    let door = Door::open(Role::Editor, None, &mut folder, &world, &alice);
    assert_eq!(folder.state.invites()[&door.secret.key()].role, Role::Editor);
    assert!(matches!(door.enter(&mut folder, &world, &alice, &carol), Verdict::Membership(_)));
    assert_eq!(folder.state.members()[&carol.account].role, Role::Editor);
    assert!(folder.state.members()[&carol.account].history && folder.state.invites().is_empty());
    assert_eq!(door.enter(&mut folder, &world, &alice, &dave), Verdict::Ignored(Reason::Invite));
    let guests = Door::open(Role::GuestViewer, Some(NOON + DAY), &mut folder, &world, &alice);
    assert!(matches!(guests.enter(&mut folder, &world, &alice, &dave), Verdict::Membership(_)));
    let member = &folder.state.members()[&dave.account];
    assert_eq!((member.role, member.expires_ms, member.history), (Role::GuestViewer, Some(NOON + DAY), false));
    let stored = FolderState::from_bytes(&folder.state.to_bytes(), folder.state.head(), Default::default()).unwrap();
    assert_eq!(stored.members(), folder.state.members());
}

#[test]
fn row_13_nothing_but_the_secret_of_the_invite_and_an_admin_together_open_the_door() {
    let Team { mut world, alice, bob, mut folder } = team();
    let (carol, eve) = (world.person("carol", 30), world.person("eve", 31));
    let door = Door::open(Role::Editor, None, &mut folder, &world, &alice);
    let good = door.redemption(&folder, &world, &carol);
    let proof = door.secret.prove(&good);
    let check = |by: &Identity, change, epoch| {
        let entry = folder.membership(&world, by, change, epoch);
        folder.check(&world, &entry).unwrap()
    };
    assert!(matches!(check(&alice, door.redeem(&folder, proof, &good), None), Verdict::Membership(_)));
    // Another key's proof, none, one for somebody else, for another folder, for another state of the account.
    let for_eve = Redemption { account: eve.account, account_head: world.head(&eve), ..good };
    let elsewhere = Redemption { db: DbId([9; 32]), ..good };
    for proof in
        [InviteSecret::random().prove(&good), [0; 64], door.secret.prove(&for_eve), door.secret.prove(&elsewhere)]
    {
        assert_eq!(check(&alice, door.redeem(&folder, proof, &good), None), Verdict::Ignored(Reason::Invite));
    }
    assert_eq!(check(&alice, door.redeem(&folder, proof, &for_eve), None), Verdict::Ignored(Reason::Invite));
    // An editor lets nobody in, nor does a stranger.
    assert_eq!(check(&bob, door.redeem(&folder, proof, &good), None), Verdict::Ignored(Reason::Role));
    let entry = folder.membership(&world, &carol, door.redeem(&folder, proof, &good), None);
    assert_eq!(folder.check(&world, &entry), Err(Misbehaviour::Stranger(carol.account)));
    // With a new epoch where a grant belongs, or without either.
    let both = Some(hollow_epoch(1, 3));
    assert_eq!(check(&alice, door.redeem(&folder, proof, &good), both), Verdict::Ignored(Reason::BadChange));
    let mut bare = door.redeem(&folder, proof, &good);
    if let MembershipChange::Redeem { grant, .. } = &mut bare {
        *grant = None;
    }
    assert_eq!(check(&alice, bare, None), Verdict::Ignored(Reason::BadChange));
}

#[test]
fn an_invite_ends_in_time_and_by_cancelling() {
    let Team { mut world, alice, bob, mut folder } = team();
    let carol = world.person("carol", 30);
    let door = Door::open(Role::Viewer, None, &mut folder, &world, &alice);
    let key = door.secret.key();
    let cancel = MembershipChange::CancelInvite { key };
    let by_bob = folder.membership(&world, &bob, cancel.clone(), None);
    assert_eq!(folder.check(&world, &by_bob).unwrap(), Verdict::Ignored(Reason::Role));
    folder.now = NOON + DAY + 1;
    assert_eq!(door.enter(&mut folder, &world, &alice, &carol), Verdict::Ignored(Reason::Invite));
    folder.now = NOON;
    let twice = folder.membership(&world, &alice, door.change(NOON + DAY), None);
    assert_eq!(folder.check(&world, &twice).unwrap(), Verdict::Ignored(Reason::BadChange), "the key is known");
    assert!(matches!(
        folder.push(&world, folder.membership(&world, &alice, cancel.clone(), None)),
        Verdict::Membership(_)
    ));
    assert_eq!(door.enter(&mut folder, &world, &alice, &carol), Verdict::Ignored(Reason::Invite));
    let again = folder.membership(&world, &alice, cancel, None);
    assert_eq!(folder.check(&world, &again).unwrap(), Verdict::Ignored(Reason::Invite));
    // Not into the past, not for a key that nobody can have, not for who joins with an end but is no guest.
    let bad = [
        MembershipChange::Invite { key, role: Role::Viewer, ends_ms: NOON - 1, expires_ms: None },
        MembershipChange::Invite { key: InviteKey::ZERO, role: Role::Viewer, ends_ms: NOON + 1, expires_ms: None },
        MembershipChange::Invite { key, role: Role::Viewer, ends_ms: NOON + 1, expires_ms: Some(NOON + DAY) },
        MembershipChange::Invite { key, role: Role::GuestViewer, ends_ms: NOON + 1, expires_ms: None },
    ];
    for change in bad {
        let entry = folder.membership(&world, &alice, change, None);
        assert_eq!(folder.check(&world, &entry).unwrap(), Verdict::Ignored(Reason::BadChange));
    }
}

#[test]
fn who_may_invite_in_which_role_follows_the_table() {
    let mut world = World::default();
    let owner = world.person("owner", 1);
    let mut folder = Folder::create(&world, &owner);
    let roles = [Role::Viewer, Role::Editor, Role::Admin, Role::Owner];
    let people: Vec<Identity> = roles
        .iter()
        .zip(10..)
        .map(|(role, seed)| {
            let who = world.person("member", seed);
            folder.add(&world, &owner, &who, *role);
            who
        })
        .collect();
    let may = |who: &Identity, role| {
        let door = Door { secret: InviteSecret::random(), role, expires_ms: None };
        let entry = folder.membership(&world, who, door.change(NOON + DAY), None);
        matches!(folder.check(&world, &entry).unwrap(), Verdict::Membership(_))
    };
    let table: Vec<Vec<bool>> = people.iter().map(|who| roles.map(|role| may(who, role)).to_vec()).collect();
    let (none, below, all) = (vec![false; 4], vec![true, true, false, false], vec![true; 4]);
    assert_eq!(table, [none.clone(), none, below, all]);
}

#[test]
fn the_invites_of_who_is_removed_demoted_or_lost_a_device_are_closed() {
    let Team { mut world, alice, mut bob, mut folder } = team();
    let role = |role| MembershipChange::SetRole { account: bob.account, role, expires_ms: None };
    let admin = role(Role::Admin);
    let (demoted, promoted) = (role(Role::Editor), admin.clone());
    let set = |folder: &mut Folder, world: &World, change: &MembershipChange| {
        let verdict = folder.push(world, folder.membership(world, &alice, change.clone(), None));
        assert!(matches!(verdict, Verdict::Membership(_)));
    };
    set(&mut folder, &world, &admin);
    let alices = Door::open(Role::Viewer, None, &mut folder, &world, &alice).secret.key();
    let only_alices = |folder: &Folder| folder.state.invites().keys().copied().eq([alices]);
    Door::open(Role::Viewer, None, &mut folder, &world, &bob);
    set(&mut folder, &world, &demoted);
    assert!(only_alices(&folder));
    set(&mut folder, &world, &promoted);
    Door::open(Role::Viewer, None, &mut folder, &world, &bob);
    let phone = world.add_device(&bob, 40);
    assert_eq!(folder.push(&world, folder.batch(&world, &phone)), Verdict::Batch);
    assert_eq!(folder.state.invites().len(), 2, "a new device closes nothing");
    world.revoke(&mut bob, &phone, 41);
    assert_eq!(folder.push(&world, folder.batch(&world, &bob)), Verdict::Batch);
    assert!(only_alices(&folder) && folder.state.rotation_due());
    Door::open(Role::Viewer, None, &mut folder, &world, &bob);
    assert!(matches!(folder.remove(&world, &alice, &bob), Verdict::Membership(_)));
    assert!(only_alices(&folder));
}
