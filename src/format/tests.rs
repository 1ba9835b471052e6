//! Frozen layouts, and what no bytes may do to the decoder. Vectors are named by the defect that they would catch.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::limits::*;
use super::*;

fn head(seq: u64) -> Head {
    Head { seq, chain: ChainHash([0xcc; 32]) }
}

fn envelope() -> Envelope {
    Envelope {
        suite: SUITE,
        db: DbId([0xdb; 32]),
        kind: EntryKind::Batch,
        author: AccountId([0xaa; 32]),
        device: DeviceId([0xde; 32]),
        account_head: head(1),
        counter: 24,
        previous: EntryHash([0xee; 32]),
        observed: head(300),
        epoch: 2,
        created_ms: 1_795_446_240_000,
        adds: vec![BlobRef { id: BlobId([0xbb; 32]), size_bytes: 65_536 }],
        releases: vec![],
        body: vec![1, 2, 3],
    }
}

fn extent() -> Extent {
    Extent {
        offset: 65_536,
        len: 100,
        blob: BlobId([0xbb; 32]),
        blob_offset: 16,
        chunk_len: 200,
        chunk_skip: 50,
        key: [0x99; 32],
    }
}

fn every_op() -> Vec<Op> {
    let (keg, parent, name) = (KegId([1; 16]), KegId::ROOT, b"caf\xc3\xa9".to_vec());
    let kinds = vec![
        OpKind::Create {
            keg,
            parent,
            name: name.clone(),
            kind: NodeKind::Symlink,
            mode: 0o777,
            uid: 1000,
            gid: 100,
            rdev: 0,
            target: b"../x".to_vec(),
        },
        OpKind::Link { keg, parent, name: b"\xff\xfe".to_vec() },
        OpKind::Unlink { keg, parent, name: name.clone() },
        OpKind::Rename {
            keg,
            parent,
            name,
            new_parent: KegId([2; 16]),
            new_name: b"b".to_vec(),
            target: Some(KegId([3; 16])),
            exchange: true,
        },
        OpKind::SetAttr { keg, mode: Some(0o4755), uid: None, gid: Some(0), atime_ns: None, mtime_ns: Some(-1) },
        OpKind::SetXattr { keg, name: b"user.a".to_vec(), value: vec![0; 3] },
        OpKind::RemoveXattr { keg, name: b"user.a".to_vec() },
        OpKind::Content {
            keg,
            truncate: Some(0),
            holes: vec![Range { offset: 0, len: 65_536 }],
            extents: vec![extent()],
            size: 65_636,
            mtime_ns: 7,
        },
        OpKind::FolderName { name: "acme".to_owned() },
    ];
    kinds.into_iter().map(|kind| Op { base: 41, at_ns: 1_795_446_240_000_000_000, kind }).collect()
}

fn device() -> DeviceKeys {
    DeviceKeys { sign: [5; 32], kem: vec![6; KEM_PUBLIC_BYTES], name: "laptop".to_owned() }
}

fn account_create() -> AccountEntry {
    let boxes = vec![UserKeyBox { device: DeviceId([0xde; 32]), sealed: vec![8; 4] }];
    let user_key = UserKeyPublic { generation: 0, kem: vec![7; KEM_PUBLIC_BYTES], boxes, previous: None };
    AccountEntry {
        suite: SUITE,
        account: AccountId::ZERO,
        seq: 1,
        previous: ChainHash::ZERO,
        device: DeviceId([0xde; 32]),
        created_ms: 1,
        change: AccountChange::Create { name: "alice".to_owned(), device: device(), user_key },
    }
}

fn membership() -> Membership {
    let change = MembershipChange::Add {
        account: AccountId([0xaa; 32]),
        account_head: head(3),
        role: Role::GuestEditor,
        expires_ms: Some(1_795_446_240_000),
        grant: None,
    };
    let new_epoch = NewEpoch {
        epoch: 1,
        content_commitment: [1; 32],
        history_commitment: [2; 32],
        boxes_root: [3; 32],
        boxes: 10_000,
        back_link: Some(vec![4; 3]),
    };
    Membership { change, new_epoch: Some(new_epoch) }
}

/// Long runs of one byte as `<byte x count>`, so that a vector can be read.
pub(super) fn brief(bytes: &[u8]) -> String {
    let runs = bytes.chunk_by(|a, b| a == b);
    runs.map(|run| if run.len() > 8 { format!("<{:02x} x {}>", run[0], run.len()) } else { hex::encode(run) }).collect()
}

#[test]
fn envelope_field_order_and_integer_widths_are_frozen() {
    let lines = [1, 2].map(|suite| brief(&encode(&Envelope { suite, ..envelope() })));
    assert_eq!(lines.join("\n"), include_str!("vectors/envelope.txt").trim());
    let signed = SignedEntry { envelope: vec![1, 2], signature: [0x55; 64] };
    assert_eq!(brief(&encode(&signed)), "824201025840<55 x 64>");
}

#[test]
fn operation_tags_and_optional_fields_are_frozen() {
    let lines: Vec<_> = every_op().iter().map(|op| brief(&encode(op))).collect();
    assert_eq!(lines.join("\n"), include_str!("vectors/ops.txt").trim());
}

/// Operations about the past, which suite 2 brought.
fn past_ops() -> Vec<Op> {
    let op = |kind| Op { base: 5, at_ns: 7, kind };
    vec![op(OpKind::Restore { keg: KegId([7; 16]), parent: KegId::ROOT, name: b"a".to_vec() })]
}

#[test]
fn operations_about_the_past_are_frozen() {
    let lines: Vec<_> = past_ops().iter().map(|op| brief(&encode(op))).collect();
    assert_eq!(lines.join("\n"), include_str!("vectors/ops-past.txt").trim());
    assert!(past_ops().iter().all(|op| op.check().is_ok()));
}

#[test]
fn restoring_the_root_or_under_no_name_is_refused() {
    let bad = [
        OpKind::Restore { keg: KegId::ROOT, parent: KegId::ROOT, name: b"a".to_vec() },
        OpKind::Restore { keg: KegId([7; 16]), parent: KegId::ROOT, name: b"a/b".to_vec() },
    ];
    for kind in bad {
        let op = Op { base: 0, at_ns: 0, kind };
        assert!(op.check().is_err(), "{op:?}");
    }
}

#[test]
fn account_and_membership_layouts_are_frozen() {
    let create = |suite| brief(&encode(&AccountEntry { suite, ..account_create() }));
    let lines = [create(1), brief(&encode(&membership())), create(2)];
    assert_eq!(lines.join("\n"), include_str!("vectors/account-membership.txt").trim());
}

#[test]
fn roles_are_ordered_by_power() {
    use Role::*;
    let roles = [GuestViewer, GuestEditor, Viewer, Editor, Admin, Owner];
    assert!(roles.is_sorted());
    assert_eq!(roles.map(Role::writes), [false, true, false, true, true, true]);
    assert_eq!(roles.map(Role::administers), [false, false, false, false, true, true]);
}

#[test]
fn an_overlong_integer_is_not_canonical() {
    // Role 0 as one byte, and as the two-byte form of the same value.
    assert_eq!(decode::<Role>(&[0x00]), Ok(Role::GuestViewer));
    assert_eq!(decode::<Role>(&[0x18, 0x00]), Err(FormatError::NotCanonical));
}

#[test]
fn an_indefinite_length_or_a_trailing_byte_is_not_canonical() {
    let canonical = encode(&Range { offset: 1, len: 2 });
    assert_eq!(canonical, [0x82, 0x01, 0x02]);
    assert_eq!(decode::<Range>(&[0x9f, 0x01, 0x02, 0xff]), Err(FormatError::NotCanonical));
    assert_eq!(decode::<Range>(&[0x82, 0x01, 0x02, 0x00]), Err(FormatError::NotCanonical));
    assert_eq!(decode::<Range>(&[0x83, 0x01, 0x02, 0x03]), Err(FormatError::NotCanonical));
}

/// What suite 2 brought for devices and invites.
#[test]
fn layouts_of_devices_and_invites_are_frozen() {
    let (key, account, account_head) = (InviteKey([0x1e; 32]), AccountId([0xaa; 32]), head(3));
    let seed_box = UserKeyBox { device: DeviceId([0xde; 32]), sealed: vec![8; 4] };
    let accounts = [
        AccountChange::RenameDevice { device: DeviceId([0xde; 32]), name: "tablet".to_owned() },
        AccountChange::AddRecovery { device: device(), seed_box },
    ];
    let grant = Some(BoxGrant { epoch: 4, leaf: [9; 32] });
    let memberships = [
        MembershipChange::Invite { key, role: Role::Viewer, ends_ms: 1_795_446_240_000, expires_ms: None },
        MembershipChange::CancelInvite { key },
        MembershipChange::Redeem { key, account, account_head, proof: [0x99; 64], grant },
    ];
    let redemption = Redemption { db: DbId([0xdb; 32]), key, account, account_head };
    let mut lines: Vec<String> = accounts.iter().map(|change| brief(&encode(change))).collect();
    lines.extend(memberships.iter().map(|change| brief(&encode(change))));
    lines.push(brief(&encode(&redemption)));
    assert_eq!(lines.join("\n"), include_str!("vectors/joining.txt").trim());
    // A reader of suite 1 never meets them.
    for change in accounts {
        assert_eq!(change.since(), 2);
        let bytes = encode(&AccountEntry { suite: 1, change, ..account_create() });
        assert_eq!(AccountEntry::decode(&bytes), Err(FormatError::NotInSuite(1)));
    }
    for change in memberships {
        assert_eq!(change.since(), 2);
        let bytes = encode(&Membership { change, new_epoch: None });
        assert_eq!(Membership::decode(&bytes, 1), Err(FormatError::NotInSuite(1)));
        assert!(Membership::decode(&bytes, 2).is_ok());
    }
}

#[test]
fn a_huge_declared_length_costs_nothing() {
    // A byte string and an array that say 2^62 elements follow.
    for bomb in [&[0x82, 0x5b, 0x40, 0, 0, 0, 0, 0, 0, 0][..], &[0x81, 0x9b, 0x40, 0, 0, 0, 0, 0, 0, 0]] {
        assert!(decode::<SignedEntry>(bomb).is_err());
        assert!(Batch::decode(bomb, SUITE).is_err());
    }
}

#[test]
fn an_unknown_suite_says_update() {
    for suite in [0, SUITE + 1, u16::MAX] {
        let bytes = encode(&Envelope { suite, ..envelope() });
        let error = Envelope::decode(&bytes).unwrap_err();
        assert_eq!(error, FormatError::UnknownSuite(suite));
        assert!(error.to_string().contains("update KegFS"));
    }
}

#[test]
fn what_a_suite_does_not_have_is_refused_under_it() {
    assert_eq!(check_suite(1, 1), Ok(()));
    assert_eq!(check_suite(2, 1), Ok(()));
    assert_eq!(check_suite(1, 2), Err(FormatError::NotInSuite(1)));
    assert_eq!(check_suite(SUITE + 1, 1), Err(FormatError::UnknownSuite(SUITE + 1)));
}

#[test]
fn hostile_names_are_refused() {
    let long = vec![b'x'; NAME_MAX_BYTES + 1];
    for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b", &long] {
        assert!(check_name(bad).is_err(), "{bad:?}");
        for op in every_op() {
            let kind = match op.kind.clone() {
                OpKind::Create { keg, parent, kind, mode, uid, gid, rdev, target, .. } => {
                    OpKind::Create { keg, parent, name: bad.to_vec(), kind, mode, uid, gid, rdev, target }
                }
                OpKind::Link { keg, parent, .. } => OpKind::Link { keg, parent, name: bad.to_vec() },
                OpKind::Unlink { keg, parent, .. } => OpKind::Unlink { keg, parent, name: bad.to_vec() },
                OpKind::Rename { keg, parent, name, new_parent, target, exchange, .. } => {
                    OpKind::Rename { keg, parent, name, new_parent, new_name: bad.to_vec(), target, exchange }
                }
                _ => continue,
            };
            assert!(Batch::decode(&encode(&Batch { ops: vec![Op { kind, ..op }] }), SUITE).is_err());
        }
    }
    assert!(check_name(&long[1..]).is_ok());
    assert!(check_name(b"\xff\n\x7f").is_ok());
}

#[test]
fn extents_that_overlap_or_leave_their_chunk_are_refused() {
    let good = extent();
    let check = |extents: Vec<Extent>| {
        let kind =
            OpKind::Content { keg: KegId([1; 16]), truncate: None, holes: vec![], extents, size: 1, mtime_ns: 0 };
        Op { base: 0, at_ns: 0, kind }.check()
    };
    assert!(check(vec![good.clone()]).is_ok());
    let bad = [
        vec![good.clone(), Extent { offset: good.end() - 1, ..good.clone() }],
        vec![Extent { len: 0, ..good.clone() }],
        vec![Extent { chunk_skip: 101, ..good.clone() }],
        vec![Extent { chunk_skip: u32::MAX, ..good.clone() }],
        vec![Extent { chunk_len: CHUNK_MAX_BYTES as u32 + 1, ..good.clone() }],
        vec![Extent { offset: FILE_MAX_BYTES, ..good.clone() }],
        vec![Extent { blob_offset: BLOB_MAX_BYTES as u32, ..good }],
    ];
    for extents in bad {
        assert!(check(extents.clone()).is_err(), "{extents:?}");
    }
}

#[test]
fn clip_moves_offset_skip_and_length_together() {
    let whole = Extent { offset: 100, len: 50, ..extent() };
    assert_eq!(whole.clip(0, u64::MAX), Some(whole.clone()));
    assert_eq!(whole.clip(120, 130), Some(Extent { offset: 120, len: 10, chunk_skip: 70, ..whole.clone() }));
    assert_eq!(whole.clip(150, 200), None);
    assert_eq!(whole.clip(0, 100), None);
}

#[test]
fn debug_of_an_extent_hides_its_key() {
    assert!(!format!("{:?}", every_op()).contains("153, 153") && !format!("{:?}", extent()).contains("99, 99"));
    assert!(!format!("{:?}", extent()).to_lowercase().contains("9999"));
}

#[test]
fn blob_ids_in_paths_have_one_spelling() {
    let id = BlobId([0xab; 32]);
    assert_eq!(BlobId::from_canonical(&id.to_string()), Ok(id));
    for bad in [id.to_string().to_uppercase(), "../etc".to_owned(), String::new(), format!("{id}0")] {
        assert!(BlobId::from_canonical(&bad).is_err(), "{bad}");
    }
}

#[test]
fn batches_outside_their_bounds_are_refused() {
    assert!(Batch::decode(&encode(&Batch { ops: vec![] }), SUITE).is_err());
    let ops = every_op();
    assert_eq!(Batch::decode(&encode(&Batch { ops: ops.clone() }), SUITE).unwrap().ops, ops);
    let root = Op { kind: OpKind::FolderName { name: "x".repeat(LABEL_MAX_BYTES + 1) }, ..ops[0].clone() };
    assert!(Batch::decode(&encode(&Batch { ops: vec![root] }), SUITE).is_err());
}

/// What any bytes must satisfy: the decoder returns, and what it accepts is exactly the encoding of what it returns.
fn decodes_soundly(bytes: &[u8]) {
    if let Ok(value) = Envelope::decode(bytes) {
        assert_eq!(encode(&value), bytes);
    }
    if let Ok(value) = Batch::decode(bytes, SUITE) {
        assert_eq!(encode(&value), bytes);
    }
    if let Ok(value) = Membership::decode(bytes, SUITE) {
        assert_eq!(encode(&value), bytes);
    }
    if let Ok(value) = AccountEntry::decode(bytes) {
        assert_eq!(encode(&value), bytes);
    }
    if let Ok(value) = decode::<SignedEntry>(bytes) {
        assert_eq!(encode(&value), bytes);
    }
}

fn valid() -> Vec<Vec<u8>> {
    vec![encode(&envelope()), encode(&Batch { ops: every_op() }), encode(&membership()), encode(&account_create())]
}

#[test]
fn no_truncation_of_a_valid_value_is_valid() {
    for bytes in valid() {
        for end in 0..bytes.len() {
            let cut = &bytes[..end];
            let any = Envelope::decode(cut).is_ok()
                || Batch::decode(cut, SUITE).is_ok()
                || Membership::decode(cut, SUITE).is_ok()
                || AccountEntry::decode(cut).is_ok();
            assert!(!any, "accepted {end} of {}", bytes.len());
        }
    }
}

proptest! {
    #[test]
    fn decoders_never_panic_on_noise(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        decodes_soundly(&bytes);
    }

    #[test]
    fn decoders_never_panic_on_mutations(which in 0usize..4, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = valid().swap_remove(which);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        decodes_soundly(&bytes);
    }
}
