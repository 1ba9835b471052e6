//! Who may thin out the past and release blobs, and when; and who may still refer to it.

use super::*;

fn thin(folder: &Folder, world: &World, who: &Identity, body: &Thinning, releases: Vec<BlobRef>) -> SignedEntry {
    Author::new(who).thinning(&folder.position(world, who), body, releases)
}

fn some_blob() -> Vec<BlobRef> {
    vec![BlobRef { id: BlobId([7; 32]), size_bytes: 65_536 }]
}

/// The team, an admin, and some entries.
fn scene() -> (Team, Identity) {
    let Team { mut world, alice, bob, mut folder } = team();
    let carol = world.person("carol", 3);
    folder.add(&world, &alice, &carol, Role::Admin);
    for _ in 0..5 {
        let entry = folder.batch(&world, &bob);
        folder.push(&world, entry);
    }
    (Team { world, alice, bob, folder }, carol)
}

#[test]
fn only_who_administers_thins_out_and_releases() {
    let (Team { mut world, alice, bob, mut folder }, carol) = scene();
    let (vera, gwen) = (world.person("vera", 4), world.person("gwen", 5));
    folder.add(&world, &alice, &vera, Role::Viewer);
    folder.add_until(&world, &alice, &gwen, Role::GuestEditor, Some(NOON + 1_000_000));
    let body = Thinning { from: 1, upto: 5, keep: vec![4] };
    let nothing = Thinning { from: 0, upto: 0, keep: vec![] };
    for who in [&bob, &vera, &gwen] {
        for (body, releases) in [(&body, vec![]), (&nothing, some_blob())] {
            let entry = thin(&folder, &world, who, body, releases);
            assert_eq!(folder.check(&world, &entry), Ok(Verdict::Ignored(Reason::Role)));
        }
    }
    for who in [&alice, &carol] {
        for (body, releases) in [(&body, vec![]), (&nothing, some_blob())] {
            let entry = thin(&folder, &world, who, body, releases);
            assert_eq!(folder.check(&world, &entry), Ok(Verdict::Thin(Box::new(body.clone()))));
        }
    }
}

#[test]
fn a_batch_releases_nothing_whoever_signs_it() {
    let (Team { world, alice, bob, folder }, _) = scene();
    for who in [&alice, &bob] {
        let entry = folder.forged(&world, who, |envelope| envelope.releases = some_blob());
        assert_eq!(folder.check(&world, &entry), Ok(Verdict::Ignored(Reason::Releases)));
    }
}

#[test]
fn a_thinning_stands_on_the_newest_entry_and_leaves_the_present() {
    let (Team { world, alice, folder, .. }, _) = scene();
    let body = Thinning { from: 1, upto: 5, keep: vec![] };
    let honest = thin(&folder, &world, &alice, &body, vec![]);
    let envelope = Envelope::decode(&honest.envelope).unwrap();
    let head = folder.state.head().seq;
    let before = Head { seq: head - 1, chain: folder.chains.0[head as usize - 2] };
    let late = Envelope { observed: before, ..envelope.clone() };
    assert_eq!(folder.check(&world, &sign(&alice, &late)), Ok(Verdict::Ignored(Reason::NotOnHead)));
    let adds = Envelope { adds: some_blob(), ..envelope.clone() };
    assert_eq!(folder.check(&world, &sign(&alice, &adds)), Ok(Verdict::Ignored(Reason::BadChange)));
    let garbage = Envelope { body: vec![1, 2, 3], ..envelope };
    assert_eq!(folder.check(&world, &sign(&alice, &garbage)), Ok(Verdict::Ignored(Reason::BadBody)));
    let upto = |upto| thin(&folder, &world, &alice, &Thinning { from: 1, upto, keep: vec![] }, vec![]);
    assert!(matches!(folder.check(&world, &upto(head)), Ok(Verdict::Thin(_))));
    assert_eq!(folder.check(&world, &upto(head + 1)), Ok(Verdict::Ignored(Reason::BadChange)));
}

#[test]
fn who_has_not_seen_the_thinning_refers_to_nothing() {
    let (Team { world, alice, bob, mut folder }, carol) = scene();
    let before = folder.state.head();
    let entry = thin(&folder, &world, &carol, &Thinning { from: 1, upto: 6, keep: vec![] }, vec![]);
    assert!(matches!(folder.push(&world, entry), Verdict::Thin(_)));
    assert_eq!((folder.state.thinned(), folder.state.last_thinning()), (6, folder.state.head().seq));
    let blind = folder.forged(&world, &bob, |envelope| envelope.observed = before);
    assert_eq!(folder.check(&world, &blind), Ok(Verdict::Ignored(Reason::Thinned)));
    let seen = folder.state.head();
    let between = folder.batch(&world, &alice);
    folder.push(&world, between);
    let seeing = folder.forged(&world, &bob, |envelope| envelope.observed = seen);
    assert_eq!(folder.check(&world, &seeing), Ok(Verdict::Batch));
    // An entry that only releases moves the barrier, and takes no moment away.
    let entry = thin(&folder, &world, &alice, &Thinning { from: 0, upto: 0, keep: vec![] }, some_blob());
    folder.push(&world, entry);
    assert_eq!(folder.state.thinned(), 6);
    let blind = folder.forged(&world, &bob, |envelope| envelope.observed = seen);
    assert_eq!(folder.check(&world, &blind), Ok(Verdict::Ignored(Reason::Thinned)));
    // What the log amounts to survives being stored.
    let state = &folder.state;
    let authors = state.authors().map(|(device, last)| (*device, *last)).collect();
    assert_eq!(&FolderState::from_bytes(&state.to_bytes(), state.head(), authors).unwrap(), state);
}

#[test]
fn only_owners_say_for_how_long_the_past_is_kept() {
    let (Team { world, alice, bob, mut folder }, carol) = scene();
    assert_eq!((folder.state.retention(), folder.state.has_rule()), (RetentionRule::default(), false));
    let rule = RetentionRule::EVERYTHING;
    for who in [&bob, &carol] {
        let entry = folder.membership(&world, who, MembershipChange::Retention { rule }, None);
        assert_eq!(folder.check(&world, &entry), Ok(Verdict::Ignored(Reason::Role)));
    }
    let entry = folder.membership(&world, &alice, MembershipChange::Retention { rule }, None);
    assert!(matches!(folder.push(&world, entry), Verdict::Membership(_)));
    assert_eq!((folder.state.retention(), folder.state.has_rule()), (rule, true));
}

#[test]
fn where_an_epoch_began_lasts_while_somebody_begins_with_it() {
    let (Team { mut world, alice, mut folder, .. }, _) = scene();
    let first = folder.state.epochs()[0].seq;
    assert_eq!(folder.state.lasting(), [first]);
    let gwen = world.person("gwen", 5);
    folder.add_until(&world, &alice, &gwen, Role::GuestViewer, Some(NOON + 1_000_000));
    let hers = folder.state.head().seq;
    assert_eq!(folder.state.lasting(), [hers]);
    folder.rotate(&world, &alice);
    let third = folder.state.head().seq;
    assert_eq!(folder.state.lasting(), [hers, third]);
    folder.remove(&world, &alice, &gwen);
    assert_eq!(folder.state.lasting(), [folder.state.head().seq]);
}
