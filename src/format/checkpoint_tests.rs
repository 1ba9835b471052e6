//! The layouts that beginning in the middle brought: frozen, bounded, and only under the suite that has them.
#![allow(clippy::unwrap_used)]

use super::limits::*;
use super::tests::brief;
use super::*;

fn extent(offset: u64, len: u32) -> Extent {
    Extent { offset, len, blob: BlobId([9; 32]), blob_offset: 16, chunk_len: len, chunk_skip: 0, key: [8; 32] }
}

fn keg(byte: u8) -> KegId {
    KegId([byte; 16])
}

fn stamp(seq: u64, device: u32) -> WrittenStamp {
    WrittenStamp { seq, device }
}

fn records() -> Vec<Record> {
    vec![
        Record::Devices { devices: vec![DeviceId([1; 32]), DeviceId([2; 32])] },
        Record::FolderName { name: "acme".to_owned() },
        Record::Node {
            keg: keg(3),
            kind: NodeKind::Symlink,
            mode: 0o777,
            uid: 1,
            gid: 2,
            rdev: 3,
            nlink: 4,
            size: 5,
            atime_ns: -6,
            mtime_ns: 7,
            ctime_ns: 8,
            btime_ns: 9,
            target: b"there".to_vec(),
            content: stamp(10, 1),
        },
        Record::Name {
            parent: KegId::ROOT,
            name: b"n".to_vec(),
            keg: keg(3),
            wanted: Some(b"w".to_vec()),
            placed: stamp(11, 0),
        },
        Record::Xattr { keg: keg(3), name: b"user.x".to_vec(), value: b"v".to_vec() },
        Record::Extents { keg: keg(3), extents: vec![extent(0, 100), extent(4096, 100)] },
        Record::Versions { keg: keg(3), versions: vec![stamp(4, 0), stamp(9, 1)] },
        Record::Redirect { device: DeviceId([2; 32]), keg: keg(3), to: keg(4), seq: 12 },
        Record::Removed { kegs: vec![keg(5)] },
    ]
}

fn revive() -> Op {
    let kind = OpKind::Revive {
        keg: keg(3),
        parent: KegId::ROOT,
        name: b"back".to_vec(),
        kind: NodeKind::File,
        mode: 0o640,
        uid: 1,
        gid: 2,
        rdev: 0,
        target: vec![],
        btime_ns: 13,
    };
    Op { base: 41, at_ns: 14, kind }
}

fn add_since() -> Membership {
    let change = MembershipChange::AddSince {
        account: AccountId([0xaa; 32]),
        account_head: Head { seq: 3, chain: ChainHash([7; 32]) },
        role: Role::Viewer,
        first: 2,
        grant: BoxGrant { epoch: 5, leaf: [6; 32] },
        epochs: vec![0xee; 136],
    };
    Membership { change, new_epoch: None }
}

fn state() -> CheckpointState {
    CheckpointState { seq: 17, records: 9, pieces: vec![extent(0, 100), extent(100, 50)] }
}

#[test]
fn what_a_newcomer_begins_with_is_frozen() {
    let mut lines: Vec<_> = records().iter().map(|record| brief(&encode(record))).collect();
    lines.push(brief(&encode(&revive())));
    lines.push(brief(&encode(&add_since())));
    lines.push(brief(&encode(&Checkpoint { epoch: 5, state: Some(vec![1; 3]) })));
    lines.push(brief(&encode(&Checkpoint { epoch: 5, state: None })));
    lines.push(brief(&encode(&state())));
    assert_eq!(lines.join("\n"), include_str!("vectors/checkpoint.txt").trim());
}

#[test]
fn what_a_newcomer_begins_with_comes_back_as_it_was() {
    for record in records() {
        assert_eq!(Record::decode(&encode(&record)).unwrap(), record);
    }
    assert_eq!(CheckpointState::decode(&encode(&state())).unwrap(), state());
    assert_eq!(Membership::decode(&encode(&add_since()), 2).unwrap(), add_since());
    assert!(matches!(Membership::decode(&encode(&add_since()), 1), Err(FormatError::NotInSuite(1))));
    let batch = Batch { ops: vec![revive()] };
    assert_eq!(Batch::decode(&encode(&batch), 2).unwrap(), batch);
    assert!(matches!(Batch::decode(&encode(&batch), 1), Err(FormatError::NotInSuite(1))));
}

#[test]
fn an_extent_beside_which_a_chunk_holds_more_is_refused_in_a_checkpoint() {
    let part = Extent { chunk_len: 200, ..extent(0, 100) };
    let record = Record::Extents { keg: keg(3), extents: vec![part.clone()] };
    assert!(Record::decode(&encode(&record)).is_err());
    assert!(CheckpointState::decode(&encode(&CheckpointState { pieces: vec![part], ..state() })).is_err());
}

#[test]
fn records_out_of_bounds_are_refused() {
    let node = |change: fn(&mut u16, &mut u64, &mut u32, &mut Vec<u8>)| {
        let mut record = records().remove(2);
        if let Record::Node { mode, size, nlink, target, .. } = &mut record {
            change(mode, size, nlink, target);
        }
        record
    };
    let name = |name: &[u8], wanted: Option<&[u8]>| Record::Name {
        parent: KegId::ROOT,
        name: name.to_vec(),
        keg: keg(3),
        wanted: wanted.map(<[u8]>::to_vec),
        placed: stamp(1, 0),
    };
    let bad = [
        node(|mode, _, _, _| *mode = 0o10000),
        node(|_, size, _, _| *size = u64::MAX),
        node(|_, _, nlink, _| *nlink = 0),
        node(|_, _, _, target| target.clear()),
        name(b"..", None),
        name(b"a/b", None),
        name(b"fine", Some(b"")),
        Record::FolderName { name: "x".repeat(65) },
        Record::FolderName { name: String::new() },
        Record::Xattr { keg: keg(3), name: b"user.x".to_vec(), value: vec![0; XATTR_VALUE_MAX_BYTES + 1] },
        Record::Extents { keg: keg(3), extents: vec![] },
        Record::Extents { keg: keg(3), extents: vec![extent(0, 100), extent(50, 100)] },
        Record::Removed { kegs: vec![keg(1); RECORD_MAX_ITEMS + 1] },
        Record::Versions { keg: keg(1), versions: vec![] },
    ];
    for record in bad {
        assert!(matches!(Record::decode(&encode(&record)), Err(FormatError::OutOfBounds(_))), "{record:?}");
    }
    let gap = CheckpointState { pieces: vec![extent(0, 100), extent(101, 50)], ..state() };
    assert!(CheckpointState::decode(&encode(&gap)).is_err(), "pieces follow each other");
}
