//! What a malicious server can put into a folder's log: each attack ends in the one [`Misbehaviour`] that names it.

use super::*;

#[test]
fn the_honest_path_counts() {
    let Team { world, alice, bob, mut folder } = team();
    for who in [&bob, &alice, &bob] {
        let entry = folder.batch(&world, who);
        assert_eq!(folder.push(&world, entry), Verdict::Batch);
    }
    assert_eq!(folder.state.head().seq, 5);
    assert_eq!(folder.state.author(&bob.device_id()).counter, 2);
}

#[test]
fn row_05_ghost_member_that_nobody_signed_for() {
    let Team { mut world, alice, folder, .. } = team();
    let eve = world.person("eve", 3);
    // Signed by Eve in Alice's name, and by Eve's device as if it were Alice's.
    let change = MembershipChange::Add {
        account: eve.account,
        account_head: world.head(&eve),
        role: Role::Viewer,
        expires_ms: None,
        grant: Some(BoxGrant { epoch: 0, leaf: [0; 32] }),
    };
    let honest = folder.membership(&world, &alice, change, None);
    let forged =
        SignedEntry { signature: sign(&eve, &Envelope::decode(&honest.envelope).unwrap()).signature, ..honest };
    assert_eq!(folder.check(&world, &forged), Err(Misbehaviour::Signature));
    let mut envelope = Envelope::decode(&forged.envelope).unwrap();
    envelope.device = eve.device_id();
    assert_eq!(folder.check(&world, &sign(&eve, &envelope)), Err(Misbehaviour::UnknownDevice(alice.account)));
    // Signed by Eve in her own name: a stranger, whom no honest server lets in.
    let adds_herself =
        folder.membership(&world, &eve, Membership::decode(&envelope.body, envelope.suite).unwrap().change, None);
    let writes = folder.batch(&world, &eve);
    for entry in [adds_herself, writes] {
        assert_eq!(folder.check(&world, &entry), Err(Misbehaviour::Stranger(eve.account)));
    }
}

#[test]
fn row_36_a_signature_for_another_purpose_is_no_entry() {
    let Team { world, bob, folder, .. } = team();
    let mut entry = folder.batch(&world, &bob);
    entry.signature = Author::new(&bob).sign_login(&entry.envelope);
    assert_eq!(folder.check(&world, &entry), Err(Misbehaviour::Signature));
    entry.signature = bob.device.signing_key().sign(labels::SIGN_ACCOUNT_ENTRY, &entry.envelope).0;
    assert_eq!(folder.check(&world, &entry), Err(Misbehaviour::Signature));
}

#[test]
fn row_06_replay_and_re_adding_after_removal() {
    let Team { world, alice, bob, mut folder } = team();
    let added = folder.entries[1].clone();
    assert_eq!(folder.check(&world, &added), Err(Misbehaviour::Counter { expected: 3, got: 2 }));
    assert!(matches!(folder.remove(&world, &alice, &bob), Verdict::Membership(_)));
    assert_eq!(folder.check(&world, &added), Err(Misbehaviour::Counter { expected: 4, got: 2 }));
}

#[test]
fn counters_show_entries_dropped_repeated_or_reordered() {
    let Team { world, bob, mut folder, .. } = team();
    let author = Author::new(&bob);
    let mut position = folder.position(&world, &bob);
    let mut entries = vec![];
    for _ in 0..3 {
        let entry = author.batch(&position, folder.secrets(), draft("x"));
        position.last = AuthorState { counter: position.last.counter + 1, previous: entry_hash(&entry) };
        entries.push(entry);
    }
    // Dropped, reordered:
    assert_eq!(folder.check(&world, &entries[1]), Err(Misbehaviour::Counter { expected: 1, got: 2 }));
    assert_eq!(folder.check(&world, &entries[2]), Err(Misbehaviour::Counter { expected: 1, got: 3 }));
    assert_eq!(folder.push(&world, entries[0].clone()), Verdict::Batch);
    // Repeated:
    assert_eq!(folder.check(&world, &entries[0]), Err(Misbehaviour::Counter { expected: 2, got: 1 }));
    // The right counter over another past of the device:
    let mut envelope = Envelope::decode(&entries[1].envelope).unwrap();
    envelope.previous = EntryHash([7; 32]);
    let result = folder.check(&world, &sign(&bob, &envelope));
    assert_eq!(result, Err(Misbehaviour::Counter { expected: 2, got: 2 }));
    assert_eq!(folder.push(&world, entries[1].clone()), Verdict::Batch);
}

#[test]
fn row_28_fork_shows_at_the_first_crossing_entry() {
    let Team { world, alice, bob, folder } = team();
    // The server shows Alice's batch to Alice only, and Bob's to Bob only.
    let mut seen_by_alice = folder;
    let state = seen_by_alice.state.clone();
    let mut seen_by_bob = Folder {
        state,
        chains: seen_by_alice.chains.clone(),
        entries: seen_by_alice.entries.clone(),
        secrets: vec![],
        boxes: vec![],
        now: NOON,
    };
    let (from_alice, from_bob) = (seen_by_alice.batch(&world, &alice), seen_by_alice.batch(&world, &bob));
    seen_by_alice.push(&world, from_alice);
    seen_by_bob.push(&world, from_bob);
    let crossing = seen_by_alice.batch(&world, &alice);
    let crossed = Envelope::decode(&crossing.envelope).unwrap();
    // Even with Alice's counters made to fit, what she attests is not what Bob was shown.
    let fitted = sign(
        &alice,
        &Envelope { counter: 3, previous: seen_by_bob.state.author(&alice.device_id()).previous, ..crossed },
    );
    assert_eq!(seen_by_bob.check(&world, &fitted), Err(Misbehaviour::Fork { seq: 3 }));
    // Later too, when the position is in the past.
    let more = sign(&bob, &Envelope { counter: 2, ..Envelope::decode(&seen_by_bob.entries[2].envelope).unwrap() });
    let more = Envelope {
        previous: seen_by_bob.state.author(&bob.device_id()).previous,
        ..Envelope::decode(&more.envelope).unwrap()
    };
    seen_by_bob.push(&world, sign(&bob, &more));
    assert_eq!(seen_by_bob.check(&world, &fitted), Err(Misbehaviour::Fork { seq: 3 }));
}

#[test]
fn row_26_an_entry_that_attests_more_than_was_shown() {
    let Team { world, alice, bob, mut folder } = team();
    let older = folder.state.clone();
    let older_chains = folder.chains.clone();
    let hidden = folder.batch(&world, &alice);
    folder.push(&world, hidden);
    let later = folder.batch(&world, &bob);
    // The server hides Alice's batch and shows Bob's, who has seen it.
    assert_eq!(older.check(&later, &world, &older_chains), Err(Misbehaviour::Fork { seq: 3 }));
}

#[test]
fn an_observed_position_without_its_chain_hash_is_a_fork() {
    let Team { world, bob, folder, .. } = team();
    for observed in [
        Head { seq: 0, chain: ChainHash([1; 32]) },
        Head { seq: 1, chain: folder.chains.0[1] },
        Head { seq: 2, chain: folder.chains.0[0] },
        Head { seq: 3, chain: folder.chains.0[1] },
        Head { seq: u64::MAX, chain: ChainHash::ZERO },
    ] {
        let entry = folder.forged(&world, &bob, |envelope| envelope.observed = observed);
        assert_eq!(folder.check(&world, &entry), Err(Misbehaviour::Fork { seq: observed.seq }));
    }
    for observed in folder.chains.0.iter().zip(1..).map(|(chain, seq)| Head { seq, chain: *chain }) {
        let entry = folder.forged(&world, &bob, |envelope| envelope.observed = observed);
        assert_eq!(folder.check(&world, &entry), Ok(Verdict::Batch), "batches may observe any entry of the epoch");
    }
    let blind = folder.forged(&world, &bob, |envelope| envelope.observed = Head::EMPTY);
    assert_eq!(folder.check(&world, &blind), Ok(Verdict::Ignored(Reason::StaleEpoch)), "and not none");
}

#[test]
fn row_11_an_entry_spliced_from_another_folder() {
    let Team { world, alice, bob, folder } = team();
    let mut other = Folder::create(&world, &alice);
    other.add(&world, &alice, &bob, Role::Editor);
    assert_eq!(folder.check(&world, &other.batch(&world, &bob)), Err(Misbehaviour::OtherFolder));
    assert_eq!(folder.check(&world, &other.entries[0]), Err(Misbehaviour::OtherFolder));
    let empty = FolderState::new(folder.state.db());
    assert_eq!(empty.check(&other.entries[0], &world, &Chains::default()), Err(Misbehaviour::BadStart));
    assert!(empty.check(&folder.entries[0], &world, &Chains::default()).is_ok());
}

#[test]
fn a_log_that_begins_with_anything_but_its_creation() {
    let Team { mut world, mut alice, folder, .. } = team();
    let first = Envelope::decode(&folder.entries[0].envelope).unwrap();
    let start = |world: &World, envelope: &Envelope| {
        let entry = sign(&alice, envelope);
        FolderState::new(db_id(&entry)).check(&entry, world, &Chains::default()).map(|advanced| advanced.verdict)
    };
    assert!(start(&world, &first).is_ok());
    let body = |epoch: Option<NewEpoch>, change| encode(&Membership { change, new_epoch: epoch });
    let create = MembershipChange::Create;
    let bad = [
        Envelope { db: folder.state.db(), ..first.clone() },
        Envelope { kind: EntryKind::Batch, ..first.clone() },
        Envelope { epoch: 1, ..first.clone() },
        Envelope { body: body(None, create.clone()), ..first.clone() },
        Envelope { body: body(Some(hollow_epoch(1, 1)), create.clone()), ..first.clone() },
        Envelope { body: body(Some(hollow_epoch(0, 2)), create.clone()), ..first.clone() },
        Envelope {
            body: body(Some(NewEpoch { back_link: Some(vec![]), ..hollow_epoch(0, 1) }), create),
            ..first.clone()
        },
        Envelope { body: body(Some(hollow_epoch(0, 1)), MembershipChange::Rotate), ..first.clone() },
    ];
    for envelope in &bad {
        assert_eq!(start(&world, envelope), Err(Misbehaviour::BadStart), "{envelope:?}");
    }
    let gap = Envelope { counter: 2, ..first.clone() };
    assert_eq!(start(&world, &gap), Err(Misbehaviour::Counter { expected: 1, got: 2 }));
    let other = Envelope { observed: Head { seq: 1, chain: ChainHash::ZERO }, ..first.clone() };
    assert_eq!(start(&world, &other), Err(Misbehaviour::Fork { seq: 1 }));
    let body = Envelope { body: vec![0xff], ..first.clone() };
    assert!(matches!(start(&world, &body), Err(Misbehaviour::Malformed(_))));
    // A revoked device makes no folders in its account's name.
    let phone = world.add_device(&alice, 9);
    world.revoke(&mut alice, &phone, 10);
    let stolen = Envelope { device: phone.device_id(), account_head: world.head(&alice), ..first };
    let entry = sign(&phone, &stolen);
    let state = FolderState::new(db_id(&entry));
    assert_eq!(state.check(&entry, &world, &Chains::default()), Err(Misbehaviour::BadStart));
}

#[test]
fn row_33_another_suite_and_row_37_malformed_bytes() {
    let Team { world, bob, folder, .. } = team();
    for suite in [0, limits::SUITE + 1, u16::MAX] {
        let entry = folder.forged(&world, &bob, |envelope| envelope.suite = suite);
        assert_eq!(folder.check(&world, &entry), Err(Misbehaviour::Malformed(FormatError::UnknownSuite(suite))));
    }
    let honest = folder.batch(&world, &bob);
    let longer = [&honest.envelope[..], &[0]].concat();
    for envelope in [vec![], vec![0xff], honest.envelope[..50].to_vec(), longer, vec![0; limits::ENTRY_MAX_BYTES + 1]] {
        let entry = SignedEntry { signature: honest.signature, envelope };
        assert!(matches!(folder.check(&world, &entry), Err(Misbehaviour::Malformed(_))));
    }
}

#[test]
fn row_33_who_has_seen_a_newer_suite_does_not_go_back() {
    let Team { world, alice, bob, mut folder } = team();
    let seen = folder.state.head();
    let (state, bytes) = (folder.state.clone(), folder.state.to_bytes());
    let back = folder.forged(&world, &bob, |envelope| envelope.suite = limits::SUITE_OLDEST);
    assert_eq!(folder.check(&world, &back), Ok(Verdict::Ignored(Reason::OldSuite)));
    // What is stored remembers it.
    let authors = state.authors().map(|(device, author)| (*device, *author)).collect();
    folder.state = FolderState::from_bytes(&bytes, seen, authors).unwrap();
    assert_eq!(folder.check(&world, &back), Ok(Verdict::Ignored(Reason::OldSuite)));
    let forth = folder.batch(&world, &alice);
    assert_eq!(folder.push(&world, forth), Verdict::Batch);
}

#[test]
fn a_log_of_an_older_suite_moves_on_and_what_was_under_way_still_counts() {
    let mut world = World::default();
    let (alice, bob) = (world.person("alice", 1), world.person("bob", 2));
    let old = |who: &Identity, entry: SignedEntry| {
        sign(who, &Envelope { suite: 1, ..Envelope::decode(&entry.envelope).unwrap() })
    };
    let mut folder = Folder::create_with(&world, &alice, |entry| old(&alice, entry));
    let added = folder.grant_entry(&world, &alice, &bob, Role::Editor);
    assert!(matches!(folder.push(&world, old(&alice, added)), Verdict::Membership(_)));
    let stored = folder.state.to_bytes();
    assert_eq!(stored[1], 1, "the version before suites had positions");
    let under_way = folder.forged(&world, &bob, |envelope| envelope.suite = 1);
    let newer = folder.batch(&world, &alice);
    assert_eq!(folder.push(&world, newer), Verdict::Batch);
    assert_eq!(folder.push(&world, under_way), Verdict::Batch);
    let back = folder.forged(&world, &bob, |envelope| envelope.suite = 1);
    assert_eq!(folder.check(&world, &back), Ok(Verdict::Ignored(Reason::OldSuite)));
}

#[test]
fn an_account_log_that_is_withheld_or_forked() {
    let Team { mut world, alice, bob, folder } = team();
    let entry = folder.batch(&world, &bob);
    let head = world.head(&bob);
    let mut without = world.clone();
    without.logs.remove(&bob.account);
    assert_eq!(folder.check(&without, &entry), Err(Misbehaviour::AccountMissing { account: bob.account, head }));
    // Another account's log under Bob's id.
    without.logs.insert(bob.account, world.logs[&alice.account].clone());
    assert_eq!(folder.check(&without, &entry), Err(Misbehaviour::AccountForked(bob.account)));
    // Heads that were never heads of the log.
    for (seq, missing) in [(0, false), (1, false), (2, true), (u64::MAX, true)] {
        let account_head = Head { seq, chain: ChainHash([9; 32]) };
        let entry = folder.forged(&world, &bob, |envelope| envelope.account_head = account_head);
        let expected = if missing {
            Misbehaviour::AccountMissing { account: bob.account, head: account_head }
        } else {
            Misbehaviour::AccountForked(bob.account)
        };
        assert_eq!(folder.check(&world, &entry), Err(expected), "{seq}");
    }
    // A device that the account had only later than the entry says.
    let old = world.head(&bob);
    let phone = world.add_device(&bob, 9);
    let entry = folder.forged(&world, &phone, |envelope| envelope.account_head = old);
    assert_eq!(folder.check(&world, &entry), Err(Misbehaviour::UnknownDevice(bob.account)));
}

#[test]
fn row_26_rollback_of_an_account_behind_what_the_folder_knows() {
    let Team { mut world, mut bob, mut folder, .. } = team();
    let phone = world.add_device(&bob, 9);
    let older = world.clone();
    let stale = folder.batch(&world, &phone);
    world.revoke(&mut bob, &phone, 10);
    let sync = MembershipChange::AccountSync { account: bob.account, head: world.head(&bob) };
    let sync = folder.membership(&world, &bob, sync, None);
    assert!(matches!(folder.push(&world, sync), Verdict::Membership(_)));
    // With the whole account log the phone's entry does not count; a shorter log is not even judged by.
    assert_eq!(folder.check(&world, &stale), Ok(Verdict::Ignored(Reason::DeviceRevoked)));
    let head = world.head(&bob);
    assert_eq!(folder.check(&older, &stale), Err(Misbehaviour::AccountMissing { account: bob.account, head }));
    // A fork of the account that is as long: its later part is not the one that the folder knows.
    let mut forked = older.clone();
    let change = forked.revocation(&bob, bob.device_id(), 11);
    let AccountChange::RevokeDevice { mut user_key, .. } = change else { unreachable!() };
    user_key.boxes = vec![seed_box(&phone.device, 1, &super::user_key(11))];
    forked.extend(&phone, AccountChange::RevokeDevice { device: bob.device_id(), user_key }).unwrap();
    assert_eq!(folder.check(&forked, &stale), Err(Misbehaviour::AccountForked(bob.account)));
}
