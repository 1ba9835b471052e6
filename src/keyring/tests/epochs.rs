//! Secrets of epochs: boxes, commitments, back-links, bodies, and what cannot be moved or exchanged.

use super::*;
use crate::crypto::{CryptoError, aead, kdf, merkle, padme};

fn open(folder: &Folder, ring: &mut KeyRing, who: &Identity, sealed: &KeyBox) -> Result<(), KeyRingError> {
    let key = who.user_keys[&sealed.generation].kem_secret();
    ring.open_box(folder.start(), sealed, &key, folder.state.epochs())
}

/// What a box is bound to, written out: it is a frozen layout.
fn info(start: &NewEpoch, account: &AccountId, generation: u32) -> Vec<u8> {
    let mut info = b"epoch box".to_vec();
    info.extend(start.epoch.to_be_bytes());
    info.extend(start.content_commitment);
    info.extend(start.history_commitment);
    info.extend(account.as_bytes());
    info.extend(generation.to_be_bytes());
    info
}

/// A box with any payload, as a cheating administrator makes it.
fn box_with(start: &NewEpoch, to: &Identity, payload: &[u8]) -> KeyBox {
    let key = to.user_keys[&0].kem_secret().public();
    KeyBox { account: to.account, generation: 0, sealed: boxes::seal(&key, &info(start, &to.account, 0), payload) }
}

fn payload(secrets: &EpochSecrets) -> Vec<u8> {
    [&secrets.content.as_bytes()[..], secrets.history.as_ref().unwrap().as_bytes()].concat()
}

const OPENS_NOT: KeyRingError = KeyRingError::Crypto(CryptoError::AuthenticationFailed);

#[test]
fn a_box_and_the_back_links_open_every_epoch() {
    let Team { mut world, alice, bob, mut folder } = team();
    let first = folder.batch(&world, &bob);
    folder.push(&world, first.clone());
    folder.rotate(&world, &alice);
    folder.rotate(&world, &alice);
    let carol = world.person("carol", 3);
    folder.add(&world, &alice, &carol, Role::Viewer);
    let mut ring = KeyRing::default();
    open(&folder, &mut ring, &carol, folder.box_of(&carol)).unwrap();
    for secrets in &folder.secrets {
        assert!(ring.epoch(secrets.epoch).unwrap().content == secrets.content);
        assert!(ring.epoch(secrets.epoch).unwrap().history == secrets.history);
    }
    assert_eq!(ring.epoch(3).err(), Some(KeyRingError::NoEpoch(3)));
    let envelope = Envelope::decode(&first.envelope).unwrap();
    assert_eq!(open_batch(&folder.state.db(), &envelope, &ring).unwrap(), draft("hello").batch);
    let stored = KeyRing::from_bytes(&ring.to_bytes()).unwrap();
    assert_eq!(*stored.to_bytes(), *ring.to_bytes());
    assert!(stored.epoch(0).unwrap().content == ring.epoch(0).unwrap().content);
    assert_eq!(KeyRing::from_bytes(&ring.to_bytes()[1..]).err(), Some(KeyRingError::Damaged));
}

#[test]
fn a_box_without_history_leads_nowhere_and_takes_nothing_away() {
    let Team { world, alice, bob, mut folder } = team();
    folder.rotate(&world, &alice);
    let bare = box_with(folder.start(), &bob, folder.secrets().content.as_bytes());
    let mut ring = KeyRing::default();
    open(&folder, &mut ring, &bob, &bare).unwrap();
    assert!(ring.epoch(1).unwrap().history.is_none());
    assert_eq!(ring.epoch(0).err(), Some(KeyRingError::NoEpoch(0)));
    // Who has no history can neither rotate nor let others in.
    let known = ring.epoch(1).unwrap();
    let (generation, kem) = world.logs[&bob.account].user_key().unwrap();
    assert_eq!(new_epoch(Some(known), &[]).err(), Some(KeyRingError::NoHistory));
    let granted = grant(known, folder.start(), bob.account, generation, &kem);
    assert_eq!(granted.err(), Some(KeyRingError::NoHistory));
    let stored = KeyRing::from_bytes(&ring.to_bytes()).unwrap();
    assert!(stored.epoch(1).unwrap().history.is_none());
    // The full box adds what is missing; the bare one does not remove it.
    open(&folder, &mut ring, &bob, folder.box_of(&bob)).unwrap();
    open(&folder, &mut ring, &bob, &bare).unwrap();
    assert!(ring.epoch(1).unwrap().history.is_some() && ring.epoch(0).is_ok());
}

#[test]
fn row_03_epoch_secret_substituted() {
    let Team { bob, folder, .. } = team();
    let honest = payload(folder.secrets());
    let mut ring = KeyRing::default();
    for byte in 0..honest.len() {
        let mut false_one = honest.clone();
        false_one[byte] ^= 1;
        let sealed = box_with(folder.start(), &bob, &false_one);
        assert_eq!(open(&folder, &mut ring, &bob, &sealed), Err(KeyRingError::Commitment), "byte {byte}");
    }
    let swapped = [&honest[32..], &honest[..32]].concat();
    assert_eq!(
        open(&folder, &mut ring, &bob, &box_with(folder.start(), &bob, &swapped)),
        Err(KeyRingError::Commitment)
    );
    for len in [0, 31, 33, 63, 65] {
        let payload = [&honest[..], &[0]].concat()[..len].to_vec();
        let sealed = box_with(folder.start(), &bob, &payload);
        let refused = open(&folder, &mut ring, &bob, &sealed);
        assert!(matches!(refused, Err(KeyRingError::Crypto(CryptoError::Malformed(_)))), "length {len}");
    }
    assert_eq!(ring.epoch(0).err(), Some(KeyRingError::NoEpoch(0)), "nothing false was kept");
    assert_eq!(open(&folder, &mut ring, &bob, &box_with(folder.start(), &bob, &honest)), Ok(()));
}

#[test]
fn row_04_split_rotation_is_refused_by_the_odd_one() {
    let Team { world, alice, bob, mut folder } = team();
    let (start, _, secrets) = folder.next_epoch(&world, &MembershipChange::Rotate);
    let (_, _, other) = folder.next_epoch(&world, &MembershipChange::Rotate);
    let boxes = [box_with(&start, &alice, &payload(&secrets)), box_with(&start, &bob, &payload(&other))];
    let start = NewEpoch { boxes_root: merkle::root(&boxes.iter().map(box_leaf).collect::<Vec<_>>()), ..start };
    let rotated = folder.membership(&world, &alice, MembershipChange::Rotate, Some(start));
    assert!(matches!(folder.push(&world, rotated), Verdict::Membership(_)));
    assert_eq!(open(&folder, &mut KeyRing::default(), &alice, &boxes[0]), Ok(()));
    assert_eq!(open(&folder, &mut KeyRing::default(), &bob, &boxes[1]), Err(KeyRingError::Commitment));
}

#[test]
fn row_11_a_box_moved_to_another_folder_epoch_member_or_generation() {
    let Team { world, alice, bob, mut folder } = team();
    let mut other = Folder::create(&world, &alice);
    other.add(&world, &alice, &bob, Role::Editor);
    let old = folder.box_of(&bob).clone();
    let mut ring = KeyRing::default();
    assert_eq!(open(&other, &mut ring, &bob, &old), Err(OPENS_NOT));
    let renamed = KeyBox { account: alice.account, ..old.clone() };
    assert_eq!(open(&folder, &mut ring, &bob, &renamed), Err(OPENS_NOT));
    let key = bob.user_keys[&0].kem_secret();
    let aged = KeyBox { generation: 1, ..old.clone() };
    assert_eq!(ring.open_box(folder.start(), &aged, &key, folder.state.epochs()), Err(OPENS_NOT));
    assert_eq!(open(&folder, &mut ring, &alice, &old), Err(OPENS_NOT), "somebody else's key");
    folder.rotate(&world, &alice);
    assert_eq!(open(&folder, &mut ring, &bob, &old), Err(OPENS_NOT));
    assert!(ring.epoch(0).is_err() && ring.epoch(1).is_err());
}

#[test]
fn boxes_are_the_leaves_that_the_entry_commits_to() {
    let Team { world, alice, bob, mut folder } = team();
    let granted = Envelope::decode(&folder.entries[1].envelope).unwrap();
    let MembershipChange::Add { grant: Some(grant), .. } =
        Membership::decode(&granted.body, granted.suite).unwrap().change
    else {
        panic!("Bob was added with a grant");
    };
    assert_eq!(box_leaf(folder.box_of(&bob)), grant.leaf);
    folder.rotate(&world, &alice);
    let leaves: Vec<_> = folder.boxes.iter().map(box_leaf).collect();
    assert!(folder.boxes.is_sorted_by_key(|sealed| sealed.account));
    for (i, leaf) in leaves.iter().enumerate() {
        let proof = merkle::proof(&leaves, i).unwrap();
        assert!(merkle::verify(&folder.start().boxes_root, leaf, i as u64, u64::from(folder.start().boxes), &proof));
    }
}

#[test]
fn a_false_back_link_is_noticed_by_who_needs_nothing_from_it() {
    for opens in [false, true] {
        let Team { world, alice, bob, mut folder } = team();
        let mut ring = KeyRing::default();
        open(&folder, &mut ring, &bob, folder.box_of(&bob)).unwrap();
        let (mut start, _, secrets) = folder.next_epoch(&world, &MembershipChange::Rotate);
        start.back_link = if opens {
            // Opens, to other secrets than those of epoch 0.
            let foreign = Folder::create(&world, &alice);
            let previous = EpochSecrets {
                epoch: 0,
                content: foreign.secrets().content.duplicate(),
                history: foreign.secrets().history.as_ref().map(Key::duplicate),
            };
            let key = kdf::derive(labels::KEY_BACK_LINK, &[secrets.history.as_ref().unwrap().as_bytes()]);
            Some(aead::seal(&key, &1u32.to_be_bytes(), &payload(&previous)))
        } else {
            Some(vec![0; 104])
        };
        let sealed = box_with(&start, &bob, &payload(&secrets));
        let rotated = folder.membership(&world, &alice, MembershipChange::Rotate, Some(start));
        folder.push(&world, rotated);
        assert_eq!(ring.false_back_link(), None);
        assert_eq!(open(&folder, &mut ring, &bob, &sealed), Ok(()));
        assert_eq!(ring.false_back_link(), Some(1));
        assert!(ring.epoch(1).is_ok(), "the epoch itself is good");
        assert!(ring.epoch(0).unwrap().content == folder.secrets[0].content, "and the one before is unharmed");
    }
}

/// Rotates with links that lead nowhere, `times` in a row.
fn cut_off(world: &World, folder: &mut Folder, by: &Identity, times: usize) {
    for _ in 0..times {
        let (start, _, secrets) = folder.next_epoch(world, &MembershipChange::Rotate);
        let start = NewEpoch { back_link: Some(vec![0; 104]), ..start };
        let entry = folder.membership(world, by, MembershipChange::Rotate, Some(start));
        folder.push(world, entry);
        folder.secrets.push(secrets);
    }
}

#[test]
fn a_later_link_leads_past_false_ones() {
    let Team { world, alice, bob, mut folder } = team();
    let mut ring = KeyRing::default();
    open(&folder, &mut ring, &bob, folder.box_of(&bob)).unwrap();
    assert!(ring.to_mend(folder.state.epochs()).is_empty());
    cut_off(&world, &mut folder, &alice, 2);
    for secrets in &folder.secrets {
        ring.insert(EpochSecrets {
            epoch: secrets.epoch,
            content: secrets.content.duplicate(),
            history: secrets.history.as_ref().map(Key::duplicate),
        });
    }
    let bridged = ring.to_mend(folder.state.epochs());
    assert_eq!(bridged.iter().map(|secrets| secrets.epoch).collect::<Vec<_>>(), [1, 0]);
    let recipients = folder.state.recipients(&MembershipChange::Rotate, &world).unwrap();
    let (start, boxes, secrets) = new_epoch_mending(Some(folder.secrets()), &bridged, &recipients).unwrap();
    let entry = folder.membership(&world, &alice, MembershipChange::Rotate, Some(start));
    folder.push(&world, entry);
    folder.secrets.push(secrets);
    let of_bob = boxes.iter().find(|sealed| sealed.account == bob.account).unwrap();
    // Who has nothing but this box has everything, and who had it all finds nothing to mend.
    for mut ring in [KeyRing::default(), ring] {
        open(&folder, &mut ring, &bob, of_bob).unwrap();
        assert_eq!(ring.false_back_link(), None);
        assert!((0..=3).all(|epoch| ring.epoch(epoch).is_ok_and(|secrets| secrets.history.is_some())));
        assert!(ring.to_mend(folder.state.epochs()).is_empty());
    }
}

#[test]
fn a_link_that_leads_past_others_to_false_secrets_is_a_false_link() {
    let Team { world, alice, bob, mut folder } = team();
    cut_off(&world, &mut folder, &alice, 1);
    let foreign = Folder::create(&world, &alice);
    let recipients = folder.state.recipients(&MembershipChange::Rotate, &world).unwrap();
    let made = new_epoch_mending(Some(folder.secrets()), &[foreign.secrets()], &recipients).unwrap();
    let entry = folder.membership(&world, &alice, MembershipChange::Rotate, Some(made.0));
    folder.push(&world, entry);
    folder.secrets.push(made.2);
    let of_bob = made.1.iter().find(|sealed| sealed.account == bob.account).unwrap();
    let mut ring = KeyRing::default();
    open(&folder, &mut ring, &bob, of_bob).unwrap();
    assert_eq!(ring.false_back_link(), Some(2));
    assert!(ring.epoch(0).is_err(), "nothing that the log does not commit to is taken in");
}

#[test]
fn back_links_need_the_log_that_they_are_in() {
    let Team { world, alice, bob, mut folder } = team();
    folder.rotate(&world, &alice);
    let (start, sealed) = (folder.start().clone(), folder.box_of(&bob).clone());
    let key = bob.user_keys[&0].kem_secret();
    assert_eq!(KeyRing::default().open_box(&start, &sealed, &key, &[]), Err(KeyRingError::NotInLog));
}

#[test]
fn a_body_opens_in_its_folder_epoch_and_place_only() {
    let Team { world, alice, bob, mut folder } = team();
    let entry = folder.batch(&world, &bob);
    let envelope = Envelope::decode(&entry.envelope).unwrap();
    let mut ring = KeyRing::default();
    folder.rotate(&world, &alice);
    open(&folder, &mut ring, &bob, folder.box_of(&bob)).unwrap();
    let db = folder.state.db();
    let refused = |envelope: &Envelope| open_batch(&db, envelope, &ring).err();
    assert_eq!(refused(&envelope), None);
    assert_eq!(refused(&Envelope { epoch: 1, ..envelope.clone() }), Some(OPENS_NOT));
    assert_eq!(refused(&Envelope { epoch: 2, ..envelope.clone() }), Some(KeyRingError::NoEpoch(2)));
    assert_eq!(refused(&Envelope { device: alice.device_id(), ..envelope.clone() }), Some(OPENS_NOT));
    assert_eq!(refused(&Envelope { counter: 9, ..envelope.clone() }), Some(OPENS_NOT));
    assert_eq!(refused(&Envelope { db: DbId([1; 32]), ..envelope.clone() }), Some(OPENS_NOT));
    assert_eq!(open_batch(&DbId([1; 32]), &envelope, &ring).err(), Some(OPENS_NOT));
    let moved = Envelope { db: DbId([1; 32]), ..envelope.clone() };
    assert_eq!(open_batch(&DbId([1; 32]), &moved, &ring).err(), Some(OPENS_NOT));
    for byte in 0..envelope.body.len() {
        let mut body = envelope.body.clone();
        body[byte] ^= 0x10;
        assert_eq!(refused(&Envelope { body, ..envelope.clone() }), Some(OPENS_NOT));
    }
}

#[test]
fn row_38_bodies_have_padded_sizes() {
    let Team { world, bob, folder, .. } = team();
    let size = |len: usize| {
        let position = folder.position(&world, &bob);
        let entry = Author::new(&bob).batch(&position, folder.secrets(), draft(&"x".repeat(len)));
        Envelope::decode(&entry.envelope).unwrap().body.len()
    };
    for len in 1..=limits::LABEL_MAX_BYTES {
        let plain = encode(&draft(&"x".repeat(len)).batch).len() as u64;
        let padded = padme::padded_len(plain + 1);
        assert_eq!(size(len) as u64, padded + aead::OVERHEAD as u64);
        assert_eq!(padme::padded_len(padded), padded);
    }
}
