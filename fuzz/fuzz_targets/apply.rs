//! Any valid operations by any two devices leave the tree a tree: the model is total.
#![no_main]

use arbitrary::Arbitrary;
use kegfs::format::limits::SUITE;
use kegfs::format::{BlobId, DeviceId, Extent, KegId, NodeKind, Op, OpKind};
use kegfs::keg::{Context, MemStore, Store, apply};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Step {
    device: bool,
    base: u8,
    what: u8,
    kegs: [u8; 3],
    names: [u8; 2],
    size: u16,
    horizon: u8,
}

fn keg(number: u8) -> KegId {
    KegId([number % 8; 16])
}

fn operation(step: &Step, seq: u64) -> Op {
    let [first, second, third] = step.kegs.map(keg);
    let [name, new_name] = step.names.map(|name| vec![b'a' + name % 3]);
    let kind = match step.what % 11 {
        0 | 1 => OpKind::Create {
            keg: KegId([step.kegs[0] % 7 + 1; 16]),
            parent: second,
            name,
            kind: if step.what % 11 == 0 { NodeKind::File } else { NodeKind::Directory },
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: vec![],
        },
        2 => OpKind::Link { keg: first, parent: second, name },
        3 => OpKind::Unlink { keg: first, parent: second, name },
        4 | 5 => OpKind::Rename {
            keg: first,
            parent: second,
            name,
            new_parent: third,
            new_name,
            target: (step.size % 2 == 0).then_some(keg(step.size as u8)),
            exchange: step.what % 11 == 5,
        },
        6 => OpKind::SetXattr { keg: first, name, value: new_name },
        7 => OpKind::RemoveXattr { keg: first, name },
        8 => OpKind::SetAttr { keg: first, mode: Some(step.size % 0o10000), uid: None, gid: None, atime_ns: None, mtime_ns: None },
        _ => {
            let len = u32::from(step.size) + 1;
            let blob = BlobId([step.kegs[1]; 32]);
            let extent = Extent { offset: u64::from(step.base) * 100, len, blob, blob_offset: 0, chunk_len: len, chunk_skip: 0, key: [0; 32] };
            OpKind::Content { keg: first, truncate: Some(u64::from(step.size)), holes: vec![], size: extent.end(), extents: vec![extent], mtime_ns: 0 }
        }
    };
    Op { base: u64::from(step.base).min(seq), at_ns: seq as i64, kind }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut store = MemStore::default();
    let mut horizon = 0;
    for (step, seq) in steps.iter().zip(1..) {
        let device = DeviceId([step.device.into(); 32]);
        let op = operation(step, seq);
        // It never goes back.
        horizon = u64::from(step.horizon).clamp(horizon, seq - 1);
        let context = Context { seq, device, label: "someone's laptop".to_owned(), horizon, suite: SUITE };
        if op.check().is_ok() {
            let Ok(_) = apply(&mut store, &context, &op);
        }
    }
    for node in store.nodes() {
        let Ok(names) = store.dentries_of(&node.keg);
        let Ok(empty) = store.is_empty(&node.keg);
        if node.is_directory() {
            assert!(node.keg == KegId::ROOT || names.len() == usize::from(node.nlink > 0));
            assert!(node.nlink > 0 || empty);
        } else {
            assert_eq!(names.len(), node.nlink as usize);
        }
        let extents = store.extents(&node.keg);
        assert!(extents.windows(2).all(|pair| pair[0].end() <= pair[1].offset));
        assert!(extents.last().is_none_or(|last| last.end() <= node.size));
    }
});
