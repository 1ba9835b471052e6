//! Row 14, malleability: every byte of every entry of a small log changed, and never the same outcome.

use super::*;

/// What a byte is changed by: each bit once over eight neighbours, and all bits at once.
fn changes(at: usize) -> [u8; 2] {
    [1 << (at % 8), 0xff]
}

#[test]
fn every_byte_of_every_entry_of_a_folder_counts() {
    let Team { world, alice, bob, mut folder } = team();
    let batch = folder.batch(&world, &bob);
    folder.push(&world, batch);
    folder.remove(&world, &alice, &bob);
    let mut state = FolderState::new(folder.state.db());
    let mut tried = 0;
    for entry in &folder.entries {
        let bytes = encode(entry);
        for at in 0..bytes.len() {
            for change in changes(at) {
                let mut bad = bytes.clone();
                bad[at] ^= change;
                let Ok(bad) = decode::<SignedEntry>(&bad) else { continue };
                assert!(
                    state.check(&bad, &world, &folder.chains).is_err(),
                    "byte {at} of entry {}",
                    state.head().seq + 1
                );
                tried += 1;
            }
        }
        state.advance(entry, &world, &folder.chains).unwrap();
    }
    assert!(tried > 2000, "only {tried} changes reached verification");
    assert_eq!(state, folder.state);
}

#[test]
fn every_byte_of_every_entry_of_an_account_counts() {
    let mut world = World::default();
    let mut alice = world.person("alice", 1);
    let phone = world.add_device(&alice, 2);
    world.revoke(&mut alice, &phone, 3);
    let entries = &world.entries[&alice.account];
    for (i, entry) in entries.iter().enumerate() {
        let before = AccountLog::verify(&entries[..i]);
        let bytes = encode(entry);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= changes(at)[0];
            let Ok(bad) = decode::<SignedAccountEntry>(&bad) else { continue };
            let accepted = match &before {
                Ok(log) => log.clone().extend(&bad),
                Err(_) => AccountLog::verify(&[bad]).map(drop),
            };
            assert!(accepted.is_err(), "byte {at} of entry {}", i + 1);
        }
    }
}

#[test]
fn every_byte_of_a_box_and_of_a_back_link_counts() {
    let Team { world, alice, bob, mut folder } = team();
    folder.rotate(&world, &alice);
    let key = bob.user_keys[&0].kem_secret();
    let (start, sealed) = (folder.start().clone(), folder.box_of(&bob).clone());
    let leaf = box_leaf(&sealed);
    let bytes = encode(&sealed);
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= changes(at)[0];
        let Ok(bad) = decode::<KeyBox>(&bad) else { continue };
        assert_ne!(box_leaf(&bad), leaf, "byte {at}");
        assert!(KeyRing::default().open_box(&start, &bad, &key, folder.state.epochs()).is_err(), "byte {at}");
    }
    let link = start.back_link.clone().unwrap();
    assert_eq!(link.len(), 104);
    for at in 0..link.len() {
        let mut epochs = folder.state.epochs().to_vec();
        epochs[1].start.back_link.as_mut().unwrap()[at] ^= changes(at)[0];
        let start = epochs[1].start.clone();
        let mut ring = KeyRing::default();
        ring.open_box(&start, &sealed, &key, &epochs).unwrap();
        assert_eq!(ring.false_back_link(), Some(1), "byte {at}");
        assert!(ring.epoch(0).is_err() && ring.epoch(1).is_ok(), "byte {at}");
    }
}
