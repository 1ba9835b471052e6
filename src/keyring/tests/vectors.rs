//! Frozen values. `derived.txt` is computed again and must come out the same; what `sealed.txt` holds was sealed once,
//! with fresh randomness, and must open for ever. Lines are named by the defect that they would catch.

use std::fmt::Write as _;

use super::*;
use crate::crypto::{merkle, verified};

/// Under suite 1, and what is different under suite 2.
const DERIVED: &str = include_str!("../vectors/derived.txt");
const DERIVED_2: &str = include_str!("../vectors/derived-suite-2.txt");
const SEALED: &str = include_str!("../vectors/sealed.txt");

/// Plain BLAKE3, to keep long values short here.
fn hash_of(bytes: &[u8]) -> String {
    hex::encode(verified::blob_id(bytes))
}

/// The value after `name = `.
fn frozen(name: &str) -> Vec<u8> {
    let line = SEALED.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    hex::decode(line.unwrap()).unwrap()
}

fn secrets(epoch: u32) -> EpochSecrets {
    let byte = epoch as u8;
    EpochSecrets {
        epoch,
        content: Key::from_bytes([0xc0 | byte; 32]),
        history: Some(Key::from_bytes([0xa0 | byte; 32])),
    }
}

fn commitments(epoch: u32) -> ([u8; 32], [u8; 32]) {
    let of = secrets(epoch);
    let commit = crate::crypto::kdf::commit;
    let history = commit(labels::COMMIT_HISTORY, &[of.history.unwrap().as_bytes()]);
    (commit(labels::COMMIT_CONTENT, &[of.content.as_bytes()]), history)
}

fn start(epoch: u32) -> NewEpoch {
    let (content_commitment, history_commitment) = commitments(epoch);
    let back_link = (epoch == 1).then(|| frozen("back_link_key_aad_or_payload_order_changed"));
    NewEpoch { content_commitment, history_commitment, back_link, ..hollow_epoch(epoch, 1) }
}

/// An account whose log has no randomness: its seed box is a dummy.
fn account(suite: u16) -> (AccountLog, SignedAccountEntry) {
    let (device, seed) = (device(1), user_key(1));
    let boxes = vec![UserKeyBox { device: device.id(), sealed: vec![0xbb; boxes::OVERHEAD + 32] }];
    let user_key =
        UserKeyPublic { generation: 0, kem: seed.kem_secret().public().as_bytes().to_vec(), boxes, previous: None };
    let entry = AccountEntry {
        suite,
        account: AccountId::ZERO,
        seq: 1,
        previous: ChainHash::ZERO,
        device: device.id(),
        created_ms: NOON,
        change: AccountChange::Create { name: "alice".to_owned(), device: device.public("laptop"), user_key },
    };
    let entry = sign_account(&device, &entry);
    (AccountLog::verify(std::slice::from_ref(&entry)).unwrap(), entry)
}

fn identity(account: AccountId) -> Identity {
    let user_keys = BTreeMap::from([(0, user_key(1)), (1, user_key(2))]);
    Identity { account, device: device(1), user_keys, local: Key::from_bytes([0x1c; 32]) }
}

/// A folder of two entries without randomness: creation and rotation.
fn folder(suite: u16) -> (World, Identity, Folder) {
    let (log, entry) = account(suite);
    let mut world = World::default();
    let alice = identity(log.id());
    world.entries.insert(log.id(), vec![entry]);
    world.logs.insert(log.id(), Arc::new(log));
    let position = Position {
        db: DbId::ZERO,
        observed: Head::EMPTY,
        account_head: world.head(&alice),
        last: AuthorState::NEW,
        epoch: 0,
        now_ms: NOON,
    };
    let create = Membership { change: MembershipChange::Create, new_epoch: Some(start(0)) };
    let under = |entry: SignedEntry| sign(&alice, &Envelope { suite, ..Envelope::decode(&entry.envelope).unwrap() });
    let entry = under(Author::new(&alice).membership(&position, &create));
    let mut folder = Folder {
        state: FolderState::new(db_id(&entry)),
        chains: Chains::default(),
        entries: vec![],
        secrets: vec![secrets(0), secrets(1)],
        boxes: vec![],
        now: NOON,
    };
    folder.push(&world, entry);
    let rotation = folder.membership(&world, &alice, MembershipChange::Rotate, Some(start(1)));
    folder.push(&world, under(rotation));
    (world, alice, folder)
}

fn derived(suite: u16) -> String {
    let (world, alice, folder) = folder(suite);
    let log = &world.logs[&alice.account];
    let sealed = KeyBox { account: AccountId([0xaa; 32]), generation: 3, sealed: vec![1, 2, 3] };
    let leaf = box_leaf(&sealed);
    let mut ring = KeyRing::default();
    ring.insert(secrets(0));
    ring.insert(EpochSecrets { history: None, ..secrets(1) });
    let lines = [
        ("device_sign_key_not_from_its_seed", hex::encode(device(1).public("").sign)),
        ("device_kem_key_not_from_its_seed", hash_of(&device(1).public("").kem)),
        ("user_kem_key_not_from_the_generations_seed", hash_of(user_key(1).kem_secret().public().as_bytes())),
        ("device_id_covers_name_or_other_key_order", device(1).id().to_string()),
        ("account_id_is_not_the_hash_of_the_signed_first_entry", log.id().to_string()),
        ("account_chain_starts_elsewhere_than_zero", hex::encode(log.head().chain.0)),
        ("content_commitment_changed", hex::encode(commitments(1).0)),
        ("history_commitment_changed", hex::encode(commitments(1).1)),
        ("db_id_is_not_the_hash_of_the_signed_first_entry", folder.state.db().to_string()),
        ("signed_membership_entry_changed", hash_of(&encode(&folder.entries[1]))),
        ("folder_chain_changed", hex::encode(folder.state.head().chain.0)),
        ("folder_state_bytes_changed", hash_of(&folder.state.to_bytes())),
        ("box_leaf_is_not_the_hash_of_the_whole_box", hex::encode(leaf)),
        ("boxes_root_changed", hex::encode(merkle::root(&[leaf, leaf, leaf]))),
        ("login_signature_changed", hex::encode(Author::new(&alice).sign_login(b"server\0challenge"))),
        ("identity_bytes_changed", hex::encode(&*alice.to_bytes())),
        ("key_ring_bytes_changed", hex::encode(&*ring.to_bytes())),
    ];
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name} = {value}").unwrap();
        text
    })
}

#[test]
fn everything_derived_is_frozen() {
    assert_eq!(derived(1), DERIVED);
    let (first, second) = (derived(1), derived(2));
    let moved = second.lines().filter(|line| !first.lines().any(|other| other == *line));
    assert_eq!(moved.collect::<Vec<_>>(), DERIVED_2.lines().collect::<Vec<_>>());
}

#[test]
fn a_frozen_link_between_user_keys_opens() {
    let (log, _) = account(1);
    let mut honest = World::default();
    let me = identity(log.id());
    honest.entries.insert(log.id(), vec![]);
    honest.logs.insert(log.id(), Arc::new(log));
    let phone = honest.add_device(&me, 3);
    let mut change = honest.revocation(&me, phone.device_id(), 2);
    let AccountChange::RevokeDevice { user_key: next, .. } = &mut change else { unreachable!() };
    next.previous = Some(frozen("user_key_link_key_or_aad_changed"));
    honest.extend(&me, change).unwrap();
    let seeds = honest.logs[&me.account].open_seeds(&me.device).unwrap();
    assert_eq!(seeds[&0].as_bytes(), user_key(1).as_bytes());
    assert_eq!(seeds[&1].as_bytes(), user_key(2).as_bytes());
}

#[test]
fn a_frozen_box_and_its_back_link_open() {
    let (_, alice, folder) = folder(1);
    let sealed: KeyBox = decode(&frozen("box_info_kem_or_payload_order_changed")).unwrap();
    let mut ring = KeyRing::default();
    let key = alice.user_keys[&0].kem_secret();
    ring.open_box(&start(1), &sealed, &key, folder.state.epochs()).unwrap();
    for epoch in [0, 1] {
        assert!(ring.epoch(epoch).unwrap().content == secrets(epoch).content);
        assert!(ring.epoch(epoch).unwrap().history == secrets(epoch).history);
    }
}

#[test]
fn a_frozen_batch_verifies_and_opens() {
    let (world, _, folder) = folder(1);
    let entry: SignedEntry = decode(&frozen("body_key_aad_padding_or_signature_changed")).unwrap();
    let advanced = folder.state.check(&entry, &world, &folder.chains).unwrap();
    assert_eq!(advanced.verdict, Verdict::Batch);
    let mut ring = KeyRing::default();
    ring.insert(secrets(1));
    assert_eq!(open_batch(&folder.state.db(), &advanced.envelope, &ring).unwrap(), draft("frozen").batch);
}

#[test]
fn a_frozen_account_opens_its_seed() {
    let entry: SignedAccountEntry = decode(&frozen("seed_box_info_or_account_entry_changed")).unwrap();
    let log = AccountLog::verify(&[entry]).unwrap();
    assert_eq!(log.open_seed(&device(1)).unwrap().as_bytes(), user_key(1).as_bytes());
    assert_eq!((log.name(), log.user_key().unwrap().0), ("alice", 0));
}
