//! Account logs: whose devices speak, and what nobody can slip into the log of another.

use super::*;

/// The entry that would follow in `who`'s log, changed before it is signed.
fn forged(world: &World, who: &Identity, edit: impl FnOnce(&mut AccountEntry)) -> Result<(), AccountError> {
    let change = add_change(who, 77);
    let honest = world.account_entry(who, change);
    let mut entry = AccountEntry::decode(&honest.entry).unwrap();
    edit(&mut entry);
    AccountLog::clone(&world.logs[&who.account]).extend(&sign_account(&who.device, &entry))
}

fn add_change(who: &Identity, seed: u8) -> AccountChange {
    let new = device(seed);
    AccountChange::AddDevice { device: new.public("phone"), seed_box: seed_box(&new, 0, &who.user_keys[&0]) }
}

#[test]
fn a_device_is_added_finds_its_seed_and_is_revoked() {
    let mut world = World::default();
    let mut alice = world.person("alice", 1);
    let phone = world.add_device(&alice, 2);
    let log = &world.logs[&alice.account];
    assert_eq!(log.label(&phone.device_id()), "alice's phone");
    assert!(log.device_valid_at(&phone.device_id(), 2) && !log.device_valid_at(&phone.device_id(), 1));
    assert_eq!(phone.user_keys[&0].as_bytes(), alice.user_keys[&0].as_bytes());
    world.revoke(&mut alice, &phone, 3);
    let log = &world.logs[&alice.account];
    assert!(log.device_valid_at(&phone.device_id(), 2) && !log.device_valid_at(&phone.device_id(), 3));
    assert_eq!(log.user_key().unwrap().0, 1);
    assert!(log.open_seed(&phone.device).is_err(), "no box for the revoked device");
    assert_eq!(alice.user_keys[&1].as_bytes(), user_key(3).as_bytes());
    let again = AccountLog::verify(&world.entries[&alice.account]).unwrap();
    assert_eq!(again, **log);
    assert_eq!(log.devices().count(), 2);
    // The revoked device signs nothing any more, and does not come back.
    assert_eq!(world.extend(&phone, add_change(&alice, 5)), Err(AccountError::NotSigned));
    assert_eq!(world.extend(&alice, add_change(&alice, 2)), Err(AccountError::NotAllowed));
    let twice = world.revocation(&alice, phone.device_id(), 4);
    assert_eq!(world.extend(&alice, twice), Err(AccountError::NotAllowed));
}

#[test]
fn row_02_an_account_log_overwritten_or_rolled_back() {
    let mut world = World::default();
    let alice = world.person("alice", 1);
    let first = world.head(&alice);
    world.add_device(&alice, 2);
    let log = &world.logs[&alice.account];
    assert!(log.has_head(first) && log.has_head(log.head()));
    assert!(!log.has_head(Head::EMPTY) && !log.has_head(Head { seq: 3, ..log.head() }));
    assert!(!log.has_head(Head { seq: 1, ..log.head() }));
    // Another account's log, however well made, has another id.
    let eve = world.person("alice", 3);
    assert_ne!(AccountLog::verify(&world.entries[&eve.account]).unwrap().id(), alice.account);
    assert_eq!(AccountLog::verify(&[]), Err(AccountError::Empty));
}

#[test]
fn entries_of_an_account_dropped_reordered_repeated_or_mixed() {
    let mut world = World::default();
    let (alice, eve) = (world.person("alice", 1), world.person("eve", 9));
    world.add_device(&alice, 2);
    world.add_device(&alice, 3);
    world.add_device(&eve, 4);
    let entries = &world.entries[&alice.account];
    let others = &world.entries[&eve.account];
    let pick = |list: &[&SignedAccountEntry]| {
        AccountLog::verify(&list.iter().map(|entry| (*entry).clone()).collect::<Vec<_>>())
    };
    assert!(pick(&[&entries[0], &entries[1], &entries[2]]).is_ok());
    for list in [
        &[&entries[0], &entries[2]][..],
        &[&entries[0], &entries[2], &entries[1]],
        &[&entries[0], &entries[1], &entries[1]],
        &[&entries[0], &others[1]],
        &[&entries[0], &entries[0]],
    ] {
        assert_eq!(pick(list), Err(AccountError::Broken));
    }
    assert_eq!(pick(&[&entries[1]]), Err(AccountError::NotAllowed));
}

#[test]
fn row_01_false_keys_need_a_signature_of_a_device() {
    let mut world = World::default();
    let (alice, eve) = (world.person("alice", 1), world.person("eve", 9));
    let mut honest = world.account_entry(&alice, add_change(&alice, 5));
    let log = AccountLog::clone(&world.logs[&alice.account]);
    honest.signature = sign_account(&eve.device, &AccountEntry::decode(&honest.entry).unwrap()).signature;
    assert_eq!(log.clone().extend(&honest), Err(AccountError::NotSigned));
    let stranger = forged(&world, &alice, |entry| entry.device = eve.device_id());
    assert_eq!(stranger, Err(AccountError::NotSigned));
    let mut first = world.entries[&alice.account][0].clone();
    first.signature[0] ^= 1;
    assert_eq!(AccountLog::verify(&[first]), Err(AccountError::NotSigned));
}

#[test]
fn what_makes_no_sense_at_its_place() {
    let mut world = World::default();
    let alice = world.person("alice", 1);
    let phone = world.add_device(&alice, 2);
    assert_eq!(forged(&world, &alice, |_| {}), Ok(()));
    assert_eq!(forged(&world, &alice, |entry| entry.seq += 1), Err(AccountError::Broken));
    assert_eq!(forged(&world, &alice, |entry| entry.previous = ChainHash::ZERO), Err(AccountError::Broken));
    assert_eq!(forged(&world, &alice, |entry| entry.account = AccountId::ZERO), Err(AccountError::Broken));
    let suite = forged(&world, &alice, |entry| entry.suite = 0);
    assert_eq!(suite, Err(AccountError::Format(FormatError::UnknownSuite(0))));
    let back = forged(&world, &alice, |entry| entry.suite = limits::SUITE_OLDEST);
    assert_eq!(back, Err(AccountError::NotAllowed), "an account does not go back to an older suite");
    let create = AccountEntry::decode(&world.entries[&alice.account][0].entry).unwrap().change;
    assert_eq!(forged(&world, &alice, |entry| entry.change = create), Err(AccountError::NotAllowed));
    let edited = |edit: fn(&mut DeviceKeys, &mut UserKeyBox)| {
        forged(&world, &alice, |entry| {
            let AccountChange::AddDevice { device, seed_box } = &mut entry.change else { unreachable!() };
            edit(device, seed_box);
        })
    };
    assert_eq!(edited(|_, seed_box| seed_box.device = DeviceId::ZERO), Err(AccountError::NotAllowed));
    assert_eq!(edited(|_, seed_box| seed_box.sealed.push(0)), Err(AccountError::NotAllowed));
    assert_eq!(edited(|_, seed_box| seed_box.sealed.clear()), Err(AccountError::NotAllowed));
    assert_eq!(edited(|device, _| device.sign = [0; 32]), Err(AccountError::BadKey));
    assert_eq!(edited(|device, _| device.kem = vec![0xff; 1216]), Err(AccountError::BadKey));
    assert!(matches!(edited(|device, _| device.kem.truncate(9)), Err(AccountError::Format(_))));
    assert!(matches!(edited(|device, _| device.name.push('\n')), Err(AccountError::Format(_))));

    let revoke = |device: DeviceId, edit: fn(&mut UserKeyPublic)| {
        let AccountChange::RevokeDevice { mut user_key, .. } = world.revocation(&alice, device, 6) else {
            unreachable!()
        };
        edit(&mut user_key);
        forged(&world, &alice, |entry| entry.change = AccountChange::RevokeDevice { device, user_key })
    };
    let victim = phone.device_id();
    assert_eq!(revoke(victim, |_| {}), Ok(()));
    assert_eq!(revoke(DeviceId::ZERO, |_| {}), Err(AccountError::NotAllowed));
    assert_eq!(revoke(victim, |key| key.generation = 0), Err(AccountError::NotAllowed));
    assert_eq!(revoke(victim, |key| key.generation = 2), Err(AccountError::NotAllowed));
    assert_eq!(revoke(victim, |key| key.boxes.push(key.boxes[0].clone())), Err(AccountError::NotAllowed));
    assert_eq!(revoke(victim, |key| key.boxes[0].device = DeviceId::ZERO), Err(AccountError::NotAllowed));
    assert_eq!(revoke(victim, |key| key.boxes[0].sealed.push(0)), Err(AccountError::NotAllowed));
    assert_eq!(revoke(victim, |key| key.previous = None), Err(AccountError::NotAllowed));
    assert_eq!(revoke(victim, |key| key.previous = Some(vec![0; 71])), Err(AccountError::NotAllowed));
    assert!(matches!(revoke(victim, |key| key.previous = Some(vec![0; 2049])), Err(AccountError::Format(_))));
    assert!(matches!(revoke(victim, |key| key.boxes[0].sealed = vec![0; 2049]), Err(AccountError::Format(_))));
    assert_eq!(revoke(victim, |key| key.kem = vec![0xff; 1216]), Err(AccountError::BadKey));
    assert!(matches!(revoke(victim, |key| key.boxes.clear()), Err(AccountError::Format(_))));
}

#[test]
fn a_device_that_revokes_itself_would_know_the_next_seed() {
    let mut world = World::default();
    let alice = world.person("alice", 1);
    let phone = world.add_device(&alice, 2);
    let next = user_key(6);
    let boxes = vec![seed_box(&phone.device, 1, &next)];
    let kem = next.kem_secret().public().as_bytes().to_vec();
    let previous = Some(seed_link(1, &next, &phone.user_keys[&0]));
    let user_key = UserKeyPublic { generation: 1, kem, boxes, previous };
    let change = AccountChange::RevokeDevice { device: alice.device_id(), user_key };
    assert_eq!(world.extend(&alice, change.clone()), Err(AccountError::NotAllowed));
    assert_eq!(world.extend(&phone, change), Ok(()));
}

#[test]
fn a_first_entry_that_is_none() {
    let mut world = World::default();
    let alice = world.person("alice", 1);
    let honest = AccountEntry::decode(&world.entries[&alice.account][0].entry).unwrap();
    let start = |edit: fn(&mut AccountEntry)| {
        let mut entry = honest.clone();
        edit(&mut entry);
        AccountLog::verify(&[sign_account(&alice.device, &entry)]).map(drop)
    };
    assert_eq!(start(|_| {}), Ok(()));
    assert_eq!(start(|entry| entry.seq = 2), Err(AccountError::Broken));
    assert_eq!(start(|entry| entry.previous = ChainHash([1; 32])), Err(AccountError::Broken));
    assert_eq!(start(|entry| entry.account = AccountId([1; 32])), Err(AccountError::Broken));
    assert_eq!(start(|entry| entry.device = DeviceId::ZERO), Err(AccountError::Broken));
    let key = |entry: &mut AccountEntry, edit: fn(&mut UserKeyPublic)| {
        let AccountChange::Create { user_key, .. } = &mut entry.change else { unreachable!() };
        edit(user_key);
    };
    let with_key = |edit: fn(&mut UserKeyPublic)| {
        let mut entry = honest.clone();
        key(&mut entry, edit);
        AccountLog::verify(&[sign_account(&alice.device, &entry)]).map(drop)
    };
    assert_eq!(with_key(|key| key.generation = 1), Err(AccountError::Broken));
    assert_eq!(with_key(|key| key.previous = Some(vec![0; 72])), Err(AccountError::NotAllowed));
    assert_eq!(with_key(|key| key.boxes[0].device = DeviceId::ZERO), Err(AccountError::NotAllowed));
    assert_eq!(with_key(|key| key.boxes[0].sealed.push(0)), Err(AccountError::NotAllowed));
    assert_eq!(with_key(|key| key.kem = vec![0xff; 1216]), Err(AccountError::BadKey));
}

#[test]
fn a_device_added_later_opens_the_seeds_of_all_generations() {
    let mut world = World::default();
    let alice = world.person("alice", 1);
    let mut log = AccountLog::clone(&world.logs[&alice.account]);
    let mut seeds = vec![user_key(1)];
    // Two devices come and go, and a third stays.
    for generation in 1..3_u8 {
        let lost = device(10 + generation);
        log.extend(
            &log.add_device(NOON, &alice.device, lost.public("phone"), &seeds[generation as usize - 1]).unwrap(),
        )
        .unwrap();
        let next = user_key(20 + generation);
        let revoked = log.revoke_device(NOON, &alice.device, lost.id(), seeds.last().unwrap(), &next).unwrap();
        log.extend(&revoked).unwrap();
        seeds.push(next);
        assert!(log.open_seeds(&lost).is_err());
    }
    let tablet = device(15);
    log.extend(&log.add_device(NOON, &alice.device, tablet.public("tablet"), &seeds[2]).unwrap()).unwrap();
    for holder in [&alice.device, &tablet] {
        let opened = log.open_seeds(holder).unwrap();
        let same = |(number, seed): (&u32, &UserKeySeed)| seed.as_bytes() == seeds[*number as usize].as_bytes();
        assert!(opened.len() == 3 && opened.iter().all(same));
    }
    // Who makes entries is told of what would be refused.
    let twice = log.add_device(NOON, &alice.device, tablet.public("again"), &seeds[2]);
    assert_eq!(twice, Err(AccountError::NotAllowed));
    let by_stranger = log.add_device(NOON, &device(16), device(17).public("x"), &seeds[2]);
    assert_eq!(by_stranger, Err(AccountError::NotSigned));
    // A link to another seed than the log's is refused, and takes the current seed away from nobody.
    let cheat = log.revoke_device(NOON, &alice.device, tablet.id(), &user_key(99), &user_key(30)).unwrap();
    log.extend(&cheat).unwrap();
    assert!(log.open_seeds(&alice.device).is_err());
    assert_eq!(log.open_seed(&alice.device).unwrap().as_bytes(), user_key(30).as_bytes());
}

#[test]
fn a_seed_other_than_the_one_that_everybody_boxes_to() {
    let mut world = World::default();
    let alice = world.person("alice", 1);
    let new = device(7);
    let change = AccountChange::AddDevice { device: new.public("phone"), seed_box: seed_box(&new, 0, &user_key(99)) };
    world.extend(&alice, change).unwrap();
    assert!(world.logs[&alice.account].open_seed(&new).is_err());
}

#[test]
fn an_identity_comes_back_from_its_bytes_and_from_no_others() {
    let mut world = World::default();
    let mut alice = world.person("alice", 1);
    alice.user_keys.insert(1, user_key(2));
    let bytes = alice.to_bytes();
    let again = Identity::from_bytes(&bytes).unwrap();
    assert_eq!(*again.to_bytes(), *bytes);
    assert_eq!((again.account, again.device_id()), (alice.account, alice.device_id()));
    assert!(again.local == alice.local);
    assert_eq!(again.user_keys[&1].as_bytes(), alice.user_keys[&1].as_bytes());
    for len in 0..bytes.len() {
        assert!(Identity::from_bytes(&bytes[..len]).is_err(), "cut at {len}");
    }
    assert!(Identity::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    let mut newer = bytes.to_vec();
    newer[1] = 2;
    assert_eq!(Identity::from_bytes(&newer).err(), Some(FormatError::UnknownSuite(2)));
}

#[test]
fn contacts_are_told_under_the_current_key_and_open_for_no_other_account_key_or_generation() {
    let mut world = World::default();
    let mut alice = world.person("alice", 1);
    let phone = world.add_device(&alice, 2);
    let contact = Contact {
        account: AccountId([9; 32]),
        name: "bob".to_owned(),
        pinned_ms: 1,
        trust: Trust::Verified,
        since_ms: 2,
        why: String::new(),
        keys: Some([7; 32]),
    };
    let told = [contact];
    let (me, seed) = (alice.account, &alice.user_keys[&0]);
    let sealed = seal_contacts(&me, 0, seed, &told);
    assert_eq!(open_contacts(&me, 0, &phone.user_keys[&0], &sealed).unwrap(), told);
    assert!(open_contacts(&AccountId([8; 32]), 0, seed, &sealed).is_err());
    assert!(open_contacts(&me, 1, seed, &sealed).is_err());
    assert!(open_contacts(&me, 0, &user_key(5), &sealed).is_err());
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        assert!(open_contacts(&me, 0, seed, &altered).is_err(), "byte {at}");
    }
    // One contact more or less does not show in the length.
    assert_eq!(
        sealed.len(),
        seal_contacts(&me, 0, seed, &[Contact { name: "bo".to_owned(), ..told[0].clone() }]).len()
    );
    assert_eq!(world.extend(&alice, AccountChange::Contacts { generation: 0, sealed: sealed.clone() }), Ok(()));
    assert_eq!(
        world.extend(&alice, AccountChange::Contacts { generation: 1, sealed: sealed.clone() }),
        Err(AccountError::NotAllowed)
    );
    // Who was revoked is told nothing: what was sealed to the old key comes too late.
    world.revoke(&mut alice, &phone, 3);
    assert_eq!(world.extend(&alice, AccountChange::Contacts { generation: 0, sealed }), Err(AccountError::NotAllowed));
    let entry = world.logs[&me].tell_contacts(NOON, &alice.device, 1, vec![1]).unwrap();
    assert_eq!(AccountEntry::decode(&entry.entry).unwrap().change.since(), 2);
    let huge = vec![0; limits::CONTACTS_MAX_BYTES + 1];
    assert!(world.logs[&me].tell_contacts(NOON, &alice.device, 1, huge).is_err());
}
