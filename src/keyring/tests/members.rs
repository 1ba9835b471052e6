//! What members and devices can sign without being allowed to: validly signed, kept in the chain, and of no effect.

use super::*;

fn ignored(reason: Reason) -> Result<Verdict, Misbehaviour> {
    Ok(Verdict::Ignored(reason))
}

#[test]
fn row_07_role_abuse_by_a_viewer_and_an_editor() {
    let Team { mut world, alice, bob, mut folder } = team();
    let vera = world.person("vera", 3);
    folder.add(&world, &alice, &vera, Role::Viewer);
    assert_eq!(folder.check(&world, &folder.batch(&world, &vera)), ignored(Reason::Role));
    let promote = MembershipChange::SetRole { account: bob.account, role: Role::Owner, expires_ms: None };
    let entry = folder.membership(&world, &bob, promote, None);
    assert_eq!(folder.check(&world, &entry), ignored(Reason::Role));
}

#[test]
fn row_08_write_by_a_removed_member_backdated() {
    let Team { world, alice, bob, mut folder } = team();
    let before = folder.forged(&world, &bob, |envelope| envelope.created_ms = 0);
    folder.remove(&world, &alice, &bob);
    assert_eq!(folder.push(&world, before), Verdict::Ignored(Reason::NotMember));
    let now = folder.batch(&world, &bob);
    assert_eq!(folder.push(&world, now), Verdict::Ignored(Reason::NotMember));
    assert_eq!(folder.state.author(&bob.device_id()).counter, 2, "the chain goes on all the same");
}

#[test]
fn row_08_write_by_a_revoked_device_backdated() {
    let Team { mut world, mut bob, mut folder, .. } = team();
    let phone = world.add_device(&bob, 9);
    let first = folder.batch(&world, &phone);
    assert_eq!(folder.push(&world, first), Verdict::Batch);
    let unaware = world.clone();
    world.revoke(&mut bob, &phone, 10);
    // Nothing in this log knows yet: the phone can still name the account's older state.
    let late = folder.batch(&unaware, &phone);
    assert_eq!(folder.check(&world, &late), Ok(Verdict::Batch));
    // It cannot name the newer one, nor the older one once the log knows.
    assert_eq!(folder.check(&world, &folder.batch(&world, &phone)), ignored(Reason::DeviceRevoked));
    let aware = folder.batch(&world, &bob);
    assert_eq!(folder.push(&world, aware), Verdict::Batch);
    assert_eq!(folder.check(&world, &late), ignored(Reason::DeviceRevoked));
    let late = folder.batch(&unaware, &phone);
    assert_eq!(folder.check(&world, &late), ignored(Reason::DeviceRevoked));
    // A device that is still valid, but relies on the old state, does not count either: heads never go back.
    let outdated = folder.batch(&unaware, &bob);
    assert_eq!(folder.check(&world, &outdated), ignored(Reason::AccountOutdated));
}

#[test]
fn an_ignored_entry_that_knows_of_a_revocation_still_stops_the_device() {
    let Team { mut world, alice, mut folder, .. } = team();
    let mut vera = world.person("vera", 3);
    folder.add(&world, &alice, &vera, Role::Viewer);
    let phone = world.add_device(&vera, 9);
    let unaware = world.clone();
    world.revoke(&mut vera, &phone, 10);
    let of_no_effect = folder.batch(&world, &vera);
    assert_eq!(folder.push(&world, of_no_effect), Verdict::Ignored(Reason::Role));
    assert_eq!(folder.check(&world, &folder.batch(&unaware, &phone)), ignored(Reason::DeviceRevoked));
}

#[test]
fn re_adding_with_an_older_account_head_would_box_to_a_revoked_device() {
    let Team { mut world, alice, mut bob, mut folder } = team();
    let phone = world.add_device(&bob, 9);
    let unaware = world.clone();
    world.revoke(&mut bob, &phone, 10);
    let sync = MembershipChange::AccountSync { account: bob.account, head: world.head(&bob) };
    let sync = folder.membership(&world, &bob, sync, None);
    folder.push(&world, sync);
    folder.remove(&world, &alice, &bob);
    let again = |world: &World| {
        let grant = Some(BoxGrant { epoch: 1, leaf: [0; 32] });
        let account_head = world.head(&bob);
        MembershipChange::Add { account: bob.account, account_head, role: Role::Editor, expires_ms: None, grant }
    };
    let stale = folder.membership(&world, &alice, again(&unaware), None);
    assert_eq!(folder.check(&world, &stale), ignored(Reason::AccountOutdated));
    let fresh = folder.membership(&world, &alice, again(&world), None);
    assert!(matches!(folder.check(&world, &fresh), Ok(Verdict::Membership(_))));
}

#[test]
fn guests_end_with_their_time_also_backdated() {
    let Team { mut world, alice, bob, mut folder } = team();
    let gus = world.person("gus", 3);
    let end = NOON + 1000;
    folder.add_until(&world, &alice, &gus, Role::GuestEditor, Some(end));
    folder.now = end;
    let in_time = folder.batch(&world, &gus);
    assert_eq!(folder.check(&world, &in_time), Ok(Verdict::Batch));
    folder.now = end + 1;
    let late = folder.batch(&world, &gus);
    assert_eq!(folder.check(&world, &late), ignored(Reason::Expired));
    // Backdating holds until an administrator's membership entry shows what time it is.
    let backdated = folder.forged(&world, &gus, |envelope| envelope.created_ms = NOON);
    assert_eq!(folder.check(&world, &backdated), Ok(Verdict::Batch));
    // An entry of Bob's, who does not administer, is no such clock.
    world.add_device(&bob, 9);
    let sync = MembershipChange::AccountSync { account: bob.account, head: world.head(&bob) };
    let sync = folder.membership(&world, &bob, sync, None);
    assert!(matches!(folder.push(&world, sync), Verdict::Membership(_)));
    assert_eq!(folder.check(&world, &folder.forged(&world, &gus, |e| e.created_ms = NOON)), Ok(Verdict::Batch));
    folder.rotate(&world, &alice);
    let backdated = folder.forged(&world, &gus, |envelope| envelope.created_ms = NOON);
    assert_eq!(folder.check(&world, &backdated), ignored(Reason::Expired));
    // Alice extends the stay.
    let longer = MembershipChange::SetRole { account: gus.account, role: Role::GuestEditor, expires_ms: Some(end + 9) };
    let longer = folder.membership(&world, &alice, longer, None);
    folder.push(&world, longer);
    assert_eq!(folder.check(&world, &folder.batch(&world, &gus)), Ok(Verdict::Batch));
}

#[test]
fn a_viewer_cannot_end_all_guests_by_a_clock_in_the_far_future() {
    let Team { mut world, alice, bob, mut folder } = team();
    let gus = world.person("gus", 3);
    folder.add_until(&world, &alice, &gus, Role::GuestEditor, Some(NOON + 1000));
    world.add_device(&bob, 9);
    folder.now = i64::MAX;
    let sync = MembershipChange::AccountSync { account: bob.account, head: world.head(&bob) };
    let sync = folder.membership(&world, &bob, sync, None);
    assert!(matches!(folder.push(&world, sync), Verdict::Membership(_)));
    folder.now = NOON;
    assert_eq!(folder.check(&world, &folder.batch(&world, &gus)), Ok(Verdict::Batch));
}

#[test]
fn row_10_stale_epoch_and_an_epoch_that_is_not_yet() {
    let Team { world, alice, bob, mut folder } = team();
    let stale = folder.batch(&world, &bob);
    folder.rotate(&world, &alice);
    assert_eq!(folder.check(&world, &stale), ignored(Reason::StaleEpoch));
    let early = folder.forged(&world, &bob, |envelope| envelope.epoch = 2);
    assert_eq!(folder.check(&world, &early), ignored(Reason::StaleEpoch));
    assert_eq!(folder.check(&world, &folder.batch(&world, &bob)), Ok(Verdict::Batch));
}

#[test]
fn a_membership_entry_for_another_state_than_the_one_before_it() {
    let Team { world, alice, bob, mut folder } = team();
    let remove = MembershipChange::Remove { account: bob.account };
    let made_early = folder.membership(&world, &alice, remove, Some(hollow_epoch(1, 1)));
    let between = folder.batch(&world, &bob);
    folder.push(&world, between);
    assert_eq!(folder.check(&world, &made_early), ignored(Reason::NotOnHead));
}

#[test]
fn a_membership_body_that_does_not_decode() {
    let Team { world, alice, folder, .. } = team();
    let longer = [encode(&Membership { change: MembershipChange::Rotate, new_epoch: None }), vec![0]].concat();
    for body in [vec![], vec![0xff], longer] {
        let entry = folder.forged(&world, &alice, |envelope| {
            envelope.kind = EntryKind::Membership;
            envelope.body = body;
        });
        assert_eq!(folder.check(&world, &entry), ignored(Reason::BadBody));
    }
}

#[test]
fn the_last_owner_stays() {
    let Team { world, alice, bob, mut folder } = team();
    let demote = |role| MembershipChange::SetRole { account: alice.account, role, expires_ms: None };
    let leave = MembershipChange::Remove { account: alice.account };
    for change in [demote(Role::Admin), demote(Role::Viewer), leave.clone()] {
        let entry = folder.membership(&world, &alice, change, None);
        assert_eq!(folder.check(&world, &entry), ignored(Reason::BadChange));
    }
    assert!(folder.state.is_last_owner(&alice.account) && !folder.state.is_last_owner(&bob.account));
    let promote = MembershipChange::SetRole { account: bob.account, role: Role::Owner, expires_ms: None };
    let promote = folder.membership(&world, &alice, promote, None);
    folder.push(&world, promote);
    assert!(!folder.state.is_last_owner(&alice.account));
    let leave = folder.membership(&world, &alice, leave, None);
    assert!(matches!(folder.push(&world, leave), Verdict::Membership(_)));
    assert!(folder.state.is_last_owner(&bob.account));
}

#[test]
fn who_leaves_does_not_make_the_next_secrets() {
    let Team { world, alice, bob, mut folder } = team();
    let promote = MembershipChange::SetRole { account: bob.account, role: Role::Admin, expires_ms: None };
    let promote = folder.membership(&world, &alice, promote, None);
    folder.push(&world, promote);
    let leave = MembershipChange::Remove { account: bob.account };
    let rotating = folder.membership(&world, &bob, leave.clone(), Some(hollow_epoch(1, 1)));
    assert_eq!(folder.check(&world, &rotating), ignored(Reason::BadChange));
    let plain = folder.membership(&world, &bob, leave, None);
    assert!(matches!(folder.push(&world, plain), Verdict::Membership(_)));
    assert!(matches!(folder.rotate(&world, &alice), Verdict::Membership(_)));
}

#[test]
fn epochs_that_do_not_fit_their_place() {
    let Team { mut world, alice, bob, folder } = team();
    let carol = world.person("carol", 3);
    let hollow = hollow_epoch(1, 2);
    let rotate = |epoch: Option<NewEpoch>| folder.membership(&world, &alice, MembershipChange::Rotate, epoch);
    assert!(matches!(folder.check(&world, &rotate(Some(hollow.clone()))), Ok(Verdict::Membership(_))));
    let bad = [
        None,
        Some(NewEpoch { epoch: 0, ..hollow.clone() }),
        Some(NewEpoch { epoch: 2, ..hollow.clone() }),
        Some(NewEpoch { boxes: 1, ..hollow.clone() }),
        Some(NewEpoch { boxes: 3, ..hollow.clone() }),
        Some(NewEpoch { back_link: None, ..hollow.clone() }),
    ];
    for epoch in bad {
        assert_eq!(folder.check(&world, &rotate(epoch.clone())), ignored(Reason::BadChange), "{epoch:?}");
    }
    let add = |role, expires_ms, grant, epoch| {
        let account_head = world.head(&carol);
        let change = MembershipChange::Add { account: carol.account, account_head, role, expires_ms, grant };
        folder.check(&world, &folder.membership(&world, &alice, change, epoch))
    };
    let granted = |epoch| Some(BoxGrant { epoch, leaf: [0; 32] });
    assert!(matches!(add(Role::Editor, None, granted(0), None), Ok(Verdict::Membership(_))));
    assert!(matches!(add(Role::Editor, None, None, Some(hollow_epoch(1, 3))), Ok(Verdict::Membership(_))));
    assert!(matches!(add(Role::GuestViewer, Some(NOON), None, Some(hollow_epoch(1, 3))), Ok(Verdict::Membership(_))));
    // Neither key, both keys, a key of another epoch, a guest for ever or with history, a member for a while, an admin
    // without history, too few boxes.
    for verdict in [
        add(Role::Editor, None, None, None),
        add(Role::Editor, None, granted(0), Some(hollow_epoch(1, 3))),
        add(Role::Editor, None, granted(1), None),
        add(Role::GuestViewer, None, None, Some(hollow_epoch(1, 3))),
        add(Role::GuestViewer, Some(NOON), granted(0), None),
        add(Role::Editor, Some(NOON), None, Some(hollow_epoch(1, 3))),
        add(Role::Admin, None, None, Some(hollow_epoch(1, 3))),
        add(Role::Owner, None, None, Some(hollow_epoch(1, 3))),
        add(Role::Editor, None, None, Some(hollow_epoch(1, 2))),
    ] {
        assert_eq!(verdict, ignored(Reason::BadChange));
    }
    // Unknown and present members; a second creation; a sync of somebody else.
    let head = world.head(&bob);
    let set = |account| MembershipChange::SetRole { account, role: Role::Viewer, expires_ms: None };
    let again = MembershipChange::Add {
        account: bob.account,
        account_head: head,
        role: Role::Viewer,
        expires_ms: None,
        grant: granted(0),
    };
    for (change, epoch) in [
        (MembershipChange::Remove { account: carol.account }, Some(hollow_epoch(1, 2))),
        (MembershipChange::Remove { account: bob.account }, None),
        (set(carol.account), None),
        (set(bob.account), Some(hollow_epoch(1, 2))),
        (again, None),
        (MembershipChange::Create, Some(hollow_epoch(1, 2))),
        (MembershipChange::AccountSync { account: bob.account, head }, None),
    ] {
        let entry = folder.membership(&world, &alice, change, epoch);
        assert_eq!(folder.check(&world, &entry), ignored(Reason::BadChange), "{entry:?}");
    }
}
