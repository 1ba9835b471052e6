//! `kill -9` at any moment: what a durable flush returned for is there, in order, and is confirmed exactly once.
//!
//! The test starts itself as a child that works on a replica and says what it was promised; kills it; and opens the
//! replica again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use kegfs::crypto::Key;
use kegfs::format::{
    AccountId, Batch, ChainHash, DbId, DeviceId, EntryHash, EntryKind, Envelope, Head, KegId, NodeKind, OpKind,
    SignedEntry, decode, encode, limits,
};
use kegfs::replica::{Added, Confirmed, OpenParams, Replica, StagedEntry};

const CHILD: &str = "KEGFS_REPLICA_CRASH_CHILD";
const DEVICE: DeviceId = DeviceId([0xa; 32]);

fn open(dir: &Path) -> Arc<Replica> {
    let params = OpenParams { db: DbId([1; 32]), device: DEVICE, label: "laptop".to_owned() };
    Replica::open(dir, &Key::from_bytes([7; 32]), params).unwrap()
}

fn keg(number: u64) -> KegId {
    let mut id = [0xee; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    KegId(id)
}

fn create(number: u64) -> OpKind {
    OpKind::Create {
        keg: keg(number),
        parent: KegId::ROOT,
        name: format!("f{number}").into_bytes(),
        kind: NodeKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: vec![],
    }
}

/// Signs (not really) what is pending, at most `max` operations.
fn stage(replica: &Replica, max: usize) -> Option<StagedEntry> {
    let pending = replica.pending(max, usize::MAX);
    let last_op = pending.last()?.number;
    let counter = replica.staged().last().map(|entry| entry.counter);
    let counter = counter.or(replica.author(&DEVICE).unwrap().map(|(counter, _)| counter)).unwrap_or(0) + 1;
    let ops = pending.iter().map(|pending| (*pending.op).clone()).collect();
    let envelope = Envelope {
        suite: limits::SUITE,
        db: DbId([1; 32]),
        kind: EntryKind::Batch,
        author: AccountId([2; 32]),
        device: DEVICE,
        account_head: Head::EMPTY,
        counter,
        previous: EntryHash::ZERO,
        observed: replica.head(),
        epoch: 0,
        created_ms: 0,
        adds: vec![],
        releases: vec![],
        body: encode(&Batch { ops }),
    };
    let bytes = encode(&SignedEntry { envelope: encode(&envelope), signature: [0; 64] });
    let entry = StagedEntry { counter, last_op, bytes, blobs: vec![] };
    replica.stage(entry.clone()).unwrap();
    Some(entry)
}

/// What the server would send back.
fn sequenced(entry: &StagedEntry, seq: u64) -> Confirmed {
    let signed: SignedEntry = decode(&entry.bytes).unwrap();
    let envelope = Envelope::decode(&signed.envelope).unwrap();
    let batch = Batch::decode(&envelope.body, envelope.suite).unwrap();
    let head = Head { seq, chain: ChainHash([seq as u8; 32]) };
    Confirmed {
        head,
        hash: EntryHash([seq as u8; 32]),
        envelope,
        batch: Some(batch),
        horizon: 0,
        added: Added::Known,
        administers: false,
        thin: None,
        label: "laptop".to_owned(),
        signed: None,
        activity: vec![],
    }
}

/// Not a test of its own: what the child process runs.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let replica = open(Path::new(&dir));
    let mut out = std::io::stdout().lock();
    let mut number = replica.view().usage().1 - 1;
    loop {
        for _ in 0..5 {
            replica.submit(create(number), 0).unwrap();
            number += 1;
        }
        replica.flush(true).unwrap();
        writeln!(out, "durable {number}").unwrap();
        out.flush().unwrap();
        if number.is_multiple_of(3)
            && let Some(entry) = stage(&replica, 7)
        {
            writeln!(out, "staged {}", entry.counter).unwrap();
            let seq = replica.mark().seq + 1;
            replica.apply(&[sequenced(&entry, seq)], None).unwrap();
            writeln!(out, "mark {seq}").unwrap();
            out.flush().unwrap();
        }
    }
}

#[test]
fn nothing_that_was_promised_is_lost_or_doubled_by_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let (mut durable, mut mark, mut counter) = (0, 0, 0);
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_process", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Another number of lines each time, so that it is hit in another place.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut read = |line: String| {
            // The harness prints on the first line too.
            for (word, value) in [("durable ", &mut durable), ("staged ", &mut counter), ("mark ", &mut mark)] {
                if let Some((_, number)) = line.split_once(word) {
                    *value = number.trim().parse::<u64>().unwrap();
                }
            }
        };
        for _ in 0..5 + round * 3 {
            read(lines.next().expect("the child works until it is killed").unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died counts too.
        lines.map_while(Result::ok).for_each(&mut read);

        let replica = open(dir.path());
        let view = replica.view();
        let files = view.usage().1 - 1;
        assert!(files >= durable, "{files} of {durable} files");
        for number in 0..files {
            let name = format!("f{number}");
            let node = view.lookup(1, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{name} of {files} is gone"));
            assert_eq!(node.keg, keg(number));
        }
        assert_eq!(view.readdir(1, 0, usize::MAX).unwrap().len() as u64, files);
        drop(view);
        assert!(replica.mark().seq >= mark, "the mark went back");
        // A staged entry may have reached the server; when it shows up its work is confirmed, once.
        let before = replica.pending_counts().pending;
        let staged = replica.staged();
        assert!(staged.len() <= 1 && staged.iter().all(|entry| entry.counter >= counter));
        for entry in &staged {
            let carried = sequenced(entry, replica.mark().seq + 1);
            let ops = carried.batch.as_ref().unwrap().ops.len() as u64;
            replica.apply(&[carried], None).unwrap();
            assert_eq!(replica.pending_counts().pending, before - ops);
        }
        assert_eq!(replica.view().usage().1 - 1, files);
    }
    let replica = open(dir.path());
    let files = replica.view().usage().1;
    while let Some(entry) = stage(&replica, 100) {
        replica.apply(&[sequenced(&entry, replica.mark().seq + 1)], None).unwrap();
    }
    assert_eq!(replica.pending_counts().pending, 0);
    assert_eq!(replica.view().usage().1, files);
    replica.close().unwrap();
}
