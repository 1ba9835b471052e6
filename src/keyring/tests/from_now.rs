//! Members without history, what makes a new epoch due, and to whom it is boxed.

use super::*;

fn ring_of(folder: &Folder, who: &Identity) -> Result<KeyRing, KeyRingError> {
    let (mut ring, sealed) = (KeyRing::default(), folder.box_of(who));
    let key = who.user_keys[&sealed.generation].kem_secret();
    ring.open_box(folder.start(), sealed, &key, folder.state.epochs())?;
    Ok(ring)
}

fn add_from_now(folder: &mut Folder, world: &World, by: &Identity, who: &Identity) {
    let (account, account_head) = (who.account, world.head(who));
    let change = MembershipChange::Add { account, account_head, role: Role::Editor, expires_ms: None, grant: None };
    assert!(matches!(folder.change_with_epoch(world, by, change), Verdict::Membership(_)));
}

#[test]
fn a_member_from_now_on_reads_nothing_before_whatever_comes_after() {
    let Team { mut world, alice, bob, mut folder } = team();
    let carol = world.person("carol", 3);
    add_from_now(&mut folder, &world, &alice, &carol);
    assert!(!folder.state.members()[&carol.account].history && folder.state.members()[&bob.account].history);
    let in_epoch_1 = ring_of(&folder, &carol).unwrap();
    assert!(in_epoch_1.epoch(1).is_ok() && in_epoch_1.epoch(0).is_err());
    for _ in 0..2 {
        folder.rotate(&world, &alice);
        let ring = ring_of(&folder, &carol).unwrap();
        let current = folder.state.epoch();
        assert!(ring.epoch(current).unwrap().history.is_none());
        assert!((0..current).all(|epoch| ring.epoch(epoch).is_err()), "no box leads back");
        let bobs = ring_of(&folder, &bob).unwrap();
        assert!((0..=current).all(|epoch| bobs.epoch(epoch).unwrap().history.is_some()));
        let entry = Envelope::decode(&folder.batch(&world, &carol).envelope).unwrap();
        assert!(open_batch(&folder.state.db(), &entry, &ring).is_ok());
    }
    // Who cannot lead others back does not come to administer; as an editor, nothing is missing.
    let promote = |role| MembershipChange::SetRole { account: carol.account, role, expires_ms: None };
    let check = |role| folder.check(&world, &folder.membership(&world, &alice, promote(role), None)).unwrap();
    assert_eq!(check(Role::Admin), Verdict::Ignored(Reason::BadChange));
    assert_eq!(check(Role::Owner), Verdict::Ignored(Reason::BadChange));
    assert!(matches!(check(Role::Viewer), Verdict::Membership(_)));
}

#[test]
fn leaving_makes_a_rotation_due_until_somebody_rotates() {
    let Team { world, alice, bob, mut folder } = team();
    assert!(!folder.state.rotation_due());
    let leave = folder.membership(&world, &bob, MembershipChange::Remove { account: bob.account }, None);
    folder.push(&world, leave);
    assert!(folder.state.rotation_due());
    let restored = FolderState::from_bytes(&folder.state.to_bytes(), folder.state.head(), Default::default()).unwrap();
    assert!(restored.rotation_due());
    folder.rotate(&world, &alice);
    assert!(!folder.state.rotation_due());
    assert!(!folder.boxes.iter().any(|sealed| sealed.account == bob.account));
}

#[test]
fn row_09_a_revocation_makes_a_rotation_due_however_it_is_told() {
    for by_sync in [false, true] {
        let Team { mut world, alice, mut bob, mut folder } = team();
        let phone = world.add_device(&bob, 9);
        let told = |world: &World, folder: &Folder, bob: &Identity| {
            if by_sync {
                let sync = MembershipChange::AccountSync { account: bob.account, head: world.head(bob) };
                folder.membership(world, bob, sync, None)
            } else {
                folder.batch(world, bob)
            }
        };
        let entry = told(&world, &folder, &bob);
        folder.push(&world, entry);
        assert!(!folder.state.rotation_due(), "a new device is no reason");
        let unaware = world.clone();
        world.revoke(&mut bob, &phone, 10);
        let entry = told(&world, &folder, &bob);
        assert!(folder.state.check(&entry, &world, &folder.chains).unwrap().standing_changed);
        folder.push(&world, entry);
        assert!(folder.state.rotation_due());
        // The new epoch is boxed to the key that the revoked device does not know, or not at all.
        let missing = RecipientsError::AccountMissing { account: bob.account, head: world.head(&bob) };
        assert_eq!(folder.state.recipients(&MembershipChange::Rotate, &unaware), Err(missing));
        folder.rotate(&world, &alice);
        assert!(!folder.state.rotation_due());
        assert_eq!(folder.box_of(&bob).generation, 1);
        assert!(ring_of(&folder, &bob).is_ok());
        let stolen = phone.user_keys[&0].kem_secret();
        let opened = KeyRing::default().open_box(folder.start(), folder.box_of(&bob), &stolen, folder.state.epochs());
        assert!(opened.is_err());
    }
}

#[test]
fn an_account_synced_after_a_batch_has_told_of_it_counts_too() {
    let Team { mut world, bob, mut folder, .. } = team();
    world.add_device(&bob, 9);
    let batch = folder.batch(&world, &bob);
    folder.push(&world, batch);
    let sync = MembershipChange::AccountSync { account: bob.account, head: world.head(&bob) };
    let sync = folder.membership(&world, &bob, sync, None);
    assert!(matches!(folder.push(&world, sync), Verdict::Membership(_)));
}

#[test]
fn recipients_are_the_members_after_the_change_in_order() {
    let Team { mut world, alice, bob, folder } = team();
    let carol = world.person("carol", 3);
    let accounts = |change| -> Vec<(AccountId, bool)> {
        let recipients = folder.state.recipients(&change, &world).unwrap();
        assert!(recipients.is_sorted_by_key(|recipient| recipient.account));
        recipients.iter().map(|recipient| (recipient.account, recipient.history)).collect()
    };
    let sorted = |mut list: Vec<(AccountId, bool)>| {
        list.sort_unstable();
        list
    };
    let all = sorted(vec![(alice.account, true), (bob.account, true)]);
    assert_eq!(accounts(MembershipChange::Rotate), all);
    assert_eq!(accounts(MembershipChange::Remove { account: bob.account }), [(alice.account, true)]);
    let add = MembershipChange::Add {
        account: carol.account,
        account_head: world.head(&carol),
        role: Role::Viewer,
        expires_ms: None,
        grant: None,
    };
    assert_eq!(accounts(add), sorted([&all[..], &[(carol.account, false)]].concat()));
}

#[test]
fn a_membership_entry_can_neither_add_nor_release_blobs() {
    let Team { mut world, alice, mut folder, .. } = team();
    let vera = world.person("vera", 3);
    folder.add(&world, &alice, &vera, Role::Viewer);
    let sync = MembershipChange::AccountSync { account: vera.account, head: world.head(&vera) };
    let honest = folder.membership(&world, &vera, sync, None);
    assert!(matches!(folder.check(&world, &honest), Ok(Verdict::Membership(_))));
    let blobs = vec![BlobRef { id: BlobId([7; 32]), size_bytes: 65_536 }];
    let envelope = Envelope::decode(&honest.envelope).unwrap();
    for bad in [Envelope { releases: blobs.clone(), ..envelope.clone() }, Envelope { adds: blobs.clone(), ..envelope }]
    {
        assert_eq!(folder.check(&world, &sign(&vera, &bad)), Ok(Verdict::Ignored(Reason::BadChange)));
    }
    let first = Envelope::decode(&folder.entries[0].envelope).unwrap();
    for (bad, fine) in [(Envelope { adds: blobs, ..first.clone() }, false), (first, true)] {
        let entry = sign(&alice, &bad);
        let checked = FolderState::new(db_id(&entry)).check(&entry, &world, &Chains::default());
        assert_eq!(checked.is_ok(), fine);
    }
}

#[test]
fn row_10_a_batch_by_somebody_who_has_not_seen_the_epoch_begin() {
    let Team { world, alice, bob, mut folder } = team();
    let before = folder.state.head();
    folder.rotate(&world, &alice);
    let blind = folder.forged(&world, &bob, |envelope| envelope.observed = before);
    assert_eq!(folder.check(&world, &blind), Ok(Verdict::Ignored(Reason::StaleEpoch)));
    let began = folder.state.head();
    let between = folder.batch(&world, &alice);
    folder.push(&world, between);
    let seen = folder.forged(&world, &bob, |envelope| envelope.observed = began);
    assert_eq!(folder.check(&world, &seen), Ok(Verdict::Batch));
}
