//! Rows 1–4: keys that are not whose they are said to be, and secrets that are not what the log commits to.

use kegfs::crypto::{boxes, labels, merkle};
use kegfs::format::{
    AccountChange, AccountEntry, DeviceId, KeyBox, MembershipChange, NewEpoch, Role, SignedAccountEntry, UserKeyBox,
    encode, limits,
};
use kegfs::keyring::{DeviceSecrets, EpochSecrets, Identity, KeyRing, UserKeySeed, box_leaf};
use kegfs::sync::{Event, SyncError};

use crate::cast::{Guest, Team};
use crate::cheat::{Shadow, account_log, direct, now_ms, wait};
use crate::liar::account_head;
use crate::lies::{Account, Boxes};
use crate::sync_support::*;

/// An account entry of anybody's making.
fn account_entry(
    by: &DeviceSecrets,
    log: &[SignedAccountEntry],
    device: DeviceId,
    change: AccountChange,
) -> SignedAccountEntry {
    let head = account_head(log);
    let first = kegfs::keyring::AccountLog::verify(&log[..1]).unwrap();
    let entry = encode(&AccountEntry {
        suite: limits::SUITE,
        account: first.id(),
        seq: head.seq + 1,
        previous: head.chain,
        device,
        created_ms: now_ms(),
        change,
    });
    let signature = by.signing_key().sign(labels::SIGN_ACCOUNT_ENTRY, &entry).0;
    SignedAccountEntry { entry, signature }
}

/// A new device of Eve's in somebody's account, with a box of a seed that she has chosen.
fn eves_device(eve: &Identity) -> AccountChange {
    let device = eve.device.public("laptop");
    let kem = eve.device.kem_secret().public();
    let sealed = boxes::seal(&kem, b"a seed of hers", &[7; 32]);
    AccountChange::AddDevice { device, seed_box: UserKeyBox { device: eve.device_id(), sealed } }
}

/// No key of `who` opens any of these boxes.
fn opens_none(who: &Identity, shadow: &Shadow, sent: &[KeyBox]) -> bool {
    let epoch = &shadow.state.epochs().last().unwrap().start;
    let keys = [who.device.kem_secret(), who.user_keys[&0].kem_secret()];
    let opens = |sealed: &KeyBox| {
        keys.iter().any(|key| {
            [sealed.account, who.account].iter().any(|account| {
                let sealed = KeyBox { account: *account, ..sealed.clone() };
                KeyRing::default().open_box(epoch, &sealed, key, shadow.state.epochs()).is_ok()
            })
        })
    };
    !sent.iter().any(opens)
}

#[test]
fn row_01_false_public_keys() {
    let team = Team::new();
    let (carol, eve) = (Guest::join(&team.kegd, "carol"), Guest::join(&team.kegd, "eve"));
    let hers = eve.person.identity();
    let (id, db) = (carol.person.id, team.alice.folder.id());
    let remote = direct(&team.kegd.url(), &hers);
    let (eves, carols) = (account_log(&remote, eve.person.id), account_log(&remote, id));
    let by_her = account_entry(&hers.device, &carols, hers.device_id(), eves_device(&hers));
    let in_carols_name = account_entry(&hers.device, &carols, carol.person.identity().device_id(), eves_device(&hers));
    // The first entry with Eve's user key in the place of Carol's.
    let mut first = AccountEntry::decode(&carols[0].entry).unwrap();
    let AccountChange::Create { user_key, .. } = &mut first.change else { panic!("a creation") };
    user_key.kem = hers.user_keys[&0].kem_secret().public().as_bytes().to_vec();
    let swapped = SignedAccountEntry { entry: encode(&first), signature: carols[0].signature };
    let before = team.head();
    for served in [eves, vec![carols[0].clone(), by_her], vec![carols[0].clone(), in_carols_name], vec![swapped]] {
        team.alice.liar.tell(Account(id, move |_| served.clone()));
        let refused = team.alice.session().add_member(&team.alice.folder, id, Role::Editor);
        assert!(matches!(refused, Err(SyncError::Misbehaviour(_))), "{refused:?}");
        team.alice.liar.repent();
    }
    let told = team
        .alice
        .events()
        .into_iter()
        .filter(|event| matches!(event, Event::FalseAccount { account, .. } if *account == id));
    assert_eq!(told.count(), 4);
    assert_eq!(team.head(), before, "nobody was added");
    // What is uploaded when the server is honest again, and what was uploaded before, opens with no key of Eve's.
    team.alice.session().add_member(&team.alice.folder, id, Role::Editor).unwrap();
    let sent: Vec<KeyBox> = team.alice.liar.appended(db).into_iter().flat_map(|append| append.boxes).collect();
    assert!(sent.iter().any(|sealed| sealed.account == id), "Carol has her box");
    let shadow = Shadow::of(&team.kegd, &team.alice, &team.alice.folder);
    assert!(opens_none(&hers, &shadow, &sent));
    assert!(!opens_none(&carol.person.identity(), &shadow, &sent), "the test can open boxes");
}

#[test]
fn row_02_own_key_material_overwritten() {
    let team = Team::new();
    let eve = Guest::join(&team.kegd, "eve");
    let hers = eve.person.identity();
    let remote = direct(&team.kegd.url(), &hers);
    let (eves, alices) = (account_log(&remote, eve.person.id), account_log(&remote, team.alice.id));
    let me = team.alice.id;
    // The own log continued by a device that is not the user's.
    let forged = account_entry(&hers.device, &alices, hers.device_id(), eves_device(&hers));
    let longer = move |mut log: Vec<SignedAccountEntry>| {
        log.push(forged.clone());
        log
    };
    team.alice.liar.tell(Account(me, longer));
    let refused = team.alice.session().rotate(&team.alice.folder);
    assert!(matches!(refused, Err(SyncError::Misbehaviour(_))), "{refused:?}");
    assert!(team.alice.heard(|event| matches!(event, Event::FalseAccount { account, .. } if *account == me)));
    assert_eq!(team.alice.folder.status().epoch, 0, "nothing was sealed for what the server showed");
    // The own log with the user's new device taken out again.
    let mut team = Team::new();
    let (me, identity) = (team.alice.id, team.alice.identity());
    let alices = account_log(&direct(&team.kegd.url(), &identity), me);
    let phone = DeviceSecrets::random();
    let log = kegfs::keyring::AccountLog::verify(&alices).unwrap();
    let added = log.add_device(now_ms(), &identity.device, phone.public("phone"), &identity.user_keys[&0]).unwrap();
    wait(direct(&team.kegd.url(), &identity).append_account(me, &added)).unwrap();
    team.alice.session().rotate(&team.alice.folder).unwrap();
    team.alice.liar.tell(Account(me, |mut log: Vec<SignedAccountEntry>| {
        log.truncate(1);
        log
    }));
    let epoch = team.alice.folder.status().epoch;
    let refused = team.alice.session().rotate(&team.alice.folder);
    assert!(matches!(refused, Err(SyncError::Misbehaviour(_))), "{refused:?}");
    assert_eq!(team.alice.folder.status().epoch, epoch, "nothing was sealed for what the server showed");
    team.alice.liar.repent();
    // A new profile, which knows nothing but the account's id and keys.
    team.alice.person.forget();
    team.alice.liar.tell(Account(me, move |_| eves.clone()));
    let refused = team.alice.person.try_unlock();
    assert!(matches!(refused, Err(SyncError::Misbehaviour(_))), "{refused:?}");
    team.alice.liar.repent();
    team.alice.person.unlock();
    assert_eq!(team.alice.session().account_name(), "alice", "with the true log it opens");
}

/// A box with any payload, as a cheating administrator or server makes it.
fn box_with(start: &NewEpoch, to: &Identity, payload: &[u8]) -> KeyBox {
    let info = [
        b"epoch box".as_slice(),
        &start.epoch.to_be_bytes(),
        &start.content_commitment,
        &start.history_commitment,
        to.account.as_bytes(),
        &0_u32.to_be_bytes(),
    ]
    .concat();
    let key = to.user_keys[&0].kem_secret().public();
    KeyBox { account: to.account, generation: 0, sealed: boxes::seal(&key, &info, payload) }
}

fn payload(secrets: &EpochSecrets) -> Vec<u8> {
    [&secrets.content.as_bytes()[..], secrets.history.as_ref().unwrap().as_bytes()].concat()
}

#[test]
fn row_03_epoch_secret_substituted() {
    let team = Team::new();
    let bob = team.bob.identity();
    // The server boxes a secret of its own to Bob, for the epoch that Alice begins. The log does not commit to it.
    let (alice, folder) = (team.alice.session(), &team.alice.folder);
    let shadow = Shadow::of(&team.kegd, &team.alice, folder);
    let (other, _, secrets) = shadow.next_epoch(&MembershipChange::Rotate);
    team.bob.liar.tell(Boxes(move |mut answer: kegfs::api::MemberBox| {
        answer.key_box = box_with(&other, &bob, &payload(&secrets));
        answer
    }));
    alice.rotate(folder).unwrap();
    write(folder, "secret.txt", b"under the new key");
    folder.wait_uploaded_blocking(PATIENCE).unwrap();
    let why = team.bob.must_freeze();
    assert!(why.contains("key box"), "{why}");
    let ring = KeyRing::from_bytes(&team.bob.folder.replica.load_keyring().unwrap().unwrap()).unwrap();
    assert!(ring.epoch(1).is_err(), "the false secret was not kept");
    assert_eq!(names(&team.bob.folder), ["plan.txt"]);
}

#[test]
fn row_04_split_rotation() {
    let team = Team::new();
    let carol = team.third("carol", Role::Editor);
    team.settle();
    // Alice's client is changed: Bob's box holds other secrets, and the log commits to that very box.
    let mut shadow = Shadow::of(&team.kegd, &team.alice, &team.alice.folder);
    let (start, honest, secrets) = shadow.next_epoch(&MembershipChange::Rotate);
    let (_, _, other) = shadow.next_epoch(&MembershipChange::Rotate);
    let odd = box_with(&start, &team.bob.identity(), &payload(&other));
    let sealed: Vec<KeyBox> =
        honest.into_iter().map(|sealed| if sealed.account == team.bob.id { odd.clone() } else { sealed }).collect();
    let start = NewEpoch { boxes_root: merkle::root(&sealed.iter().map(box_leaf).collect::<Vec<_>>()), ..start };
    let entry = shadow.membership(MembershipChange::Rotate, Some(start));
    shadow.post(&entry, &sealed).unwrap();
    shadow.push(entry);
    shadow.ring.insert(secrets);
    shadow.post(&shadow.batch(vec![crate::cheat::name("split")]), &[]).unwrap();
    eventually("Carol, whose box is right, goes on", || carol.folder.name() == "split");
    eventually("Bob is told", || {
        team.bob
            .heard(|event| matches!(event, Event::FalseKey { epoch: 1, reason, .. } if reason.contains("commits to")))
    });
    let refused = team.bob.look();
    assert!(matches!(refused, Err(SyncError::Keyring(_))), "{refused:?}");
    let status = team.bob.folder.status();
    assert_eq!((status.name.as_str(), status.epoch, status.online), ("acme", 0, false), "nothing was released");
    assert!(status.last_error.is_some_and(|error| error.contains("key")), "status tells");
    let told = team.bob.events().into_iter().filter(|event| matches!(event, Event::FalseKey { .. }));
    assert_eq!(told.count(), 1, "once");
    // With an honest epoch Bob is back.
    eventually("Alice's honest client has it too", || team.alice.folder.name() == "split");
    team.alice.session().rotate(&team.alice.folder).unwrap();
    eventually("Bob is back", || team.bob.folder.name() == "split");
}

/// An admin cuts off from the past who joins later. Who has the older keys finds it, and leads past it.
#[test]
fn row_04_a_false_back_link_is_told_and_mended() {
    let team = Team::new();
    team.alice.session().set_role(&team.alice.folder, team.bob.id, Role::Admin, None).unwrap();
    team.settle();
    let shadow = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let (start, _, secrets) = shadow.next_epoch(&MembershipChange::Rotate);
    let start = NewEpoch { back_link: Some(vec![7; 104]), ..start };
    let sealed: Vec<KeyBox> = shadow
        .state
        .members()
        .keys()
        .map(|account| if *account == team.bob.id { team.bob.identity() } else { team.alice.identity() })
        .map(|identity| box_with(&start, &identity, &payload(&secrets)))
        .collect();
    let start = NewEpoch { boxes_root: merkle::root(&sealed.iter().map(box_leaf).collect::<Vec<_>>()), ..start };
    shadow.post(&shadow.membership(MembershipChange::Rotate, Some(start)), &sealed).unwrap();
    eventually("Alice is told", || {
        let lines = team.alice.folder.activity(0, usize::MAX).unwrap();
        lines.iter().any(|(_, line)| line.what == kegfs::replica::Happening::FalseLink { epoch: 1 })
    });
    eventually("an admin's client has led past it", || team.alice.folder.status().epoch == 2);
    let carol = Guest::join(&team.kegd, "carol");
    team.alice.session().add_member(&team.alice.folder, carol.person.id, Role::Editor).unwrap();
    let hers = carol.person.folder("acme");
    eventually("Carol has all there is", || hers.replica.mark() == team.alice.folder.replica.mark());
    assert_eq!(tree(&hers), tree(&team.alice.folder), "what was written under the first key too");
    let ring = KeyRing::from_bytes(&hers.replica.load_keyring().unwrap().unwrap()).unwrap();
    assert!((0..=2).all(|epoch| ring.epoch(epoch).is_ok_and(|secrets| secrets.history.is_some())));
    // Mended is mended.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(team.alice.folder.status().epoch, 2);
}

/// A device that the honest client of `who` has never had, in `who`'s account.
pub fn second_device(kegd: &Kegd, who: &Person) -> Identity {
    let mine = who.identity();
    let remote = direct(&kegd.url(), &mine);
    let log = kegfs::keyring::AccountLog::verify(&account_log(&remote, mine.account)).unwrap();
    let phone = DeviceSecrets::random();
    let added = log.add_device(now_ms(), &mine.device, phone.public("phone"), &mine.user_keys[&0]).unwrap();
    wait(remote.append_account(mine.account, &added)).unwrap();
    let seed = UserKeySeed::from_key(kegfs::crypto::Key::from_bytes(*mine.user_keys[&0].as_bytes()));
    Identity {
        account: mine.account,
        device: phone,
        user_keys: [(0, seed)].into(),
        local: kegfs::crypto::Key::random(),
    }
}

/// `who` revokes the device `gone` of the own account, on the server.
pub fn revoke(kegd: &Kegd, who: &Person, gone: DeviceId) {
    let mine = who.identity();
    let remote = direct(&kegd.url(), &mine);
    let log = kegfs::keyring::AccountLog::verify(&account_log(&remote, mine.account)).unwrap();
    let entry = log.revoke_device(now_ms(), &mine.device, gone, &mine.user_keys[&0], &UserKeySeed::random()).unwrap();
    wait(remote.append_account(mine.account, &entry)).unwrap();
}
