//! What the replica promises, one by one.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::test_support::*;
use super::*;
use crate::crypto::Key;
use crate::format::*;
use crate::keg::Applied;

fn size(replica: &Replica, id: KegId) -> u64 {
    replica.view().node_of(&id).unwrap().unwrap().size
}

// --- the queue ---

#[test]
fn content_that_is_sealed_late_leaves_later_times_and_removals_alone() {
    let dir = tempdir();
    let replica = open(dir.path());
    for (number, name) in [(1, "a"), (2, "b")] {
        replica.submit(file(keg(number), name), AT).unwrap();
    }
    let slots = [1, 2].map(|number| replica.reserve(keg(number)).unwrap());
    replica.submit(mtime(keg(1), 42), AT + 1).unwrap();
    replica.submit(unlink(keg(2), "b"), AT + 1).unwrap();
    for (slot, number) in slots.into_iter().zip(1..) {
        replica.fill(slot, Some(op(0, content(keg(number), vec![extent(0, 10, 1)], AT)))).unwrap();
    }
    let check = |replica: &Replica| {
        let view = replica.view();
        let node = view.node_of(&keg(1)).unwrap().unwrap();
        assert_eq!((node.size, node.mtime_ns), (10, 42));
        let node = view.node_of(&keg(2)).unwrap().unwrap();
        assert!(node.removed.is_some() && node.nlink == 0);
        drop(view);
        assert_eq!(names(replica), ["a"]);
    };
    check(&replica);
    replica.close().unwrap();
    drop(replica);
    // The same after everything was applied in its order.
    let replica = open(dir.path());
    check(&replica);
    confirm_all(&replica, 1, 1);
    check(&replica);
}

#[test]
fn attributes_set_while_a_content_that_loses_is_sealed_show_at_its_version() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.apply(&[confirmed(1, BOB, 1, Some(vec![op(0, file(keg(1), "f"))]))], None).unwrap();
    let slot = replica.reserve(keg(1)).unwrap();
    let theirs = vec![op(1, content(keg(1), vec![extent(0, 5, 2)], AT))];
    replica.apply(&[confirmed(2, BOB, 2, Some(theirs))], None).unwrap();
    let set = OpKind::SetXattr { keg: keg(1), name: b"tag".to_vec(), value: b"mine".to_vec() };
    replica.submit_based(op(1, set)).unwrap();
    replica.fill(slot, Some(op(1, content(keg(1), vec![extent(0, 10, 1)], AT)))).unwrap();
    let check = || {
        let view = replica.view();
        let xattrs = |name: &[u8]| view.xattrs(view.lookup(1, name).unwrap().unwrap().ino).unwrap();
        let [mine, theirs] = ["f (conflict, laptop 0a, 2026-11-23 15.04)", "f"].map(|name| xattrs(name.as_bytes()));
        assert_eq!((mine.len(), theirs.len()), (1, 0));
    };
    check();
    confirm_all(&replica, 3, 1);
    check();
}

#[test]
fn contents_of_one_file_are_applied_in_the_order_of_their_places() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.submit(file(keg(1), "a"), AT).unwrap();
    let first = replica.reserve(keg(1)).unwrap();
    let second = replica.reserve(keg(1)).unwrap();
    let third = replica.reserve(keg(1)).unwrap();
    replica.fill(second, Some(op(0, content(keg(1), vec![extent(0, 20, 2)], AT)))).unwrap();
    assert_eq!(size(&replica, keg(1)), 0, "waits for the first");
    replica.fill(first, Some(op(0, content(keg(1), vec![extent(0, 10, 1)], AT)))).unwrap();
    assert_eq!(size(&replica, keg(1)), 20);
    replica.fill(third, None).unwrap();
    replica.flush(true).unwrap();
    assert_eq!(replica.pending(10, usize::MAX).len(), 3);
    assert!(matches!(replica.fill(Slot(99), None), Err(ReplicaError::NoSuchSlot(99))));
}

#[test]
fn the_journal_never_passes_a_place_that_is_not_filled() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.submit(file(keg(1), "a"), AT).unwrap();
    let slot = replica.reserve(keg(1)).unwrap();
    replica.submit(OpKind::Unlink { keg: keg(1), parent: KegId::ROOT, name: b"a".to_vec() }, AT).unwrap();
    let waiter = {
        let replica = Arc::clone(&replica);
        std::thread::spawn(move || replica.flush(true).unwrap())
    };
    std::thread::sleep(Duration::from_millis(100));
    assert!(!waiter.is_finished());
    assert_eq!(replica.pending(10, usize::MAX).len(), 1);
    assert_eq!(replica.pending_counts(), PendingCounts { pending: 3, unjournaled: 2, staged: 0 });
    replica.fill(slot, None).unwrap();
    waiter.join().unwrap();
    assert_eq!(replica.pending(10, usize::MAX).len(), 2);
}

#[test]
fn pending_work_is_given_out_within_the_bounds() {
    let dir = tempdir();
    let replica = open(dir.path());
    for number in 1..=10 {
        replica.submit(file(keg(number), &format!("f{number}")), AT).unwrap();
    }
    replica.flush(false).unwrap();
    assert_eq!(replica.pending(3, usize::MAX).len(), 3);
    let one = encode(&*replica.pending(1, 0)[0].op).len();
    assert_eq!(replica.pending(10, one * 2).len(), 2);
    replica.stage(staged(1, replica.pending(4, usize::MAX)[3].number)).unwrap();
    assert_eq!(replica.pending(10, usize::MAX).len(), 6);
    assert_eq!(replica.pending_counts().staged, 4);
    replica.unstage(1).unwrap();
    assert_eq!(replica.pending(10, usize::MAX).len(), 10);
    assert!(replica.staged().is_empty());
}

#[test]
fn the_uploader_hears_of_new_work() {
    let dir = tempdir();
    let replica = open(dir.path());
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    replica.on_journal(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    replica.submit(file(keg(1), "a"), AT).unwrap();
    // Without anybody waiting for it.
    for _ in 0..500 {
        if heard.load(Ordering::SeqCst) > 0 {
            return assert_eq!(replica.pending(9, usize::MAX).len(), 1);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not told within 5 s");
}

// --- confirmation ---

#[test]
fn an_own_entry_whose_answer_was_lost_confirms_its_work_once() {
    let dir = tempdir();
    let replica = open(dir.path());
    let ino = replica.submit(file(keg(1), "a"), AT).unwrap().node.unwrap().ino;
    replica.submit(file(keg(2), "b"), AT).unwrap();
    replica.flush(true).unwrap();
    let pending = replica.pending(1, usize::MAX);
    let entry = staged(1, pending[0].number);
    replica.stage(entry.clone()).unwrap();
    drop(replica);
    // The process dies after sending. The entry is remembered byte for byte and its work is not given out again.
    let replica = open(dir.path());
    assert_eq!(replica.staged(), [entry]);
    let rest = replica.pending(9, usize::MAX);
    assert_eq!(rest.len(), 1);
    let log = confirmed(1, ALICE, 1, Some(vec![(*pending[0].op).clone()]));
    replica.apply(std::slice::from_ref(&log), None).unwrap();
    assert!(replica.staged().is_empty());
    assert_eq!(replica.pending(9, usize::MAX)[0].number, rest[0].number);
    assert!(matches!(replica.apply(&[log], None), Err(ReplicaError::OutOfOrder { mark: 1, got: 1 })));
    drop(replica);
    let replica = open(dir.path());
    assert_eq!(replica.pending_counts().pending, 1);
    assert_eq!(names(&replica), ["a", "b"]);
    assert_eq!(replica.view().lookup(1, b"a").unwrap().unwrap().ino, ino);
    assert_eq!(replica.author(&ALICE).unwrap(), Some((1, EntryHash([1; 32]))));
    assert_eq!(replica.mark().seq, 1);
    assert_eq!(replica.chain_at(1).unwrap(), Some(replica.mark().chain));
    assert_eq!(replica.chain_at(2).unwrap(), None);
}

#[test]
fn an_entry_that_is_not_the_staged_one_confirms_nothing() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.submit(file(keg(1), "a"), AT).unwrap();
    replica.flush(false).unwrap();
    replica.stage(staged(1, 1)).unwrap();
    // Same device and counter, other bytes.
    let mut entry = confirmed(1, ALICE, 1, Some(vec![op(0, file(keg(2), "b"))]));
    entry.envelope.created_ms += 1;
    replica.apply(&[entry], None).unwrap();
    assert_eq!(replica.pending(9, usize::MAX).len(), 1, "to be signed anew, with the next counter");
    assert!(replica.staged().is_empty());
    assert_eq!(names(&replica), ["a", "b"]);
}

#[test]
fn inode_numbers_and_listing_positions_survive_confirmation_and_restart() {
    let dir = tempdir();
    let mut replica = open(dir.path());
    replica.submit(create(keg(1), KegId::ROOT, b"d", NodeKind::Directory), AT).unwrap();
    for number in 2..100 {
        replica.submit(create(keg(number), keg(1), format!("f{number}").as_bytes(), NodeKind::File), AT).unwrap();
    }
    let list = |replica: &Replica| {
        let view = replica.view();
        let ino = view.lookup(1, b"d").unwrap().unwrap().ino;
        view.readdir(ino, 0, usize::MAX).unwrap().into_iter().map(|entry| (entry.cookie, entry.ino)).collect::<Vec<_>>()
    };
    let before = list(&replica);
    assert_eq!(before.len(), 98);
    confirm_all(&replica, 1, 1);
    assert_eq!(list(&replica), before);
    replica.submit(create(keg(200), KegId::ROOT, b"pending", NodeKind::File), AT).unwrap();
    let pending = replica.view().lookup(1, b"pending").unwrap().unwrap().ino;
    replica.flush(false).unwrap();
    drop(replica);
    replica = open(dir.path());
    assert_eq!(list(&replica), before);
    assert_eq!(replica.view().lookup(1, b"pending").unwrap().unwrap().ino, pending);
    let new = replica.submit(file(keg(201), "new"), AT).unwrap().node.unwrap().ino;
    assert!(new > pending && before.iter().all(|(cookie, ino)| new > *cookie && new > *ino));
}

#[test]
fn a_listing_goes_on_while_its_entries_are_removed_and_confirmed() {
    let dir = tempdir();
    let replica = open(dir.path());
    for number in 1..=50 {
        replica.submit(file(keg(number), &format!("f{number}")), AT).unwrap();
    }
    confirm_all(&replica, 1, 1);
    let (mut after, mut seen, mut counter) = (0, 0, 1);
    loop {
        let page = replica.view().readdir(1, after, 7).unwrap();
        let Some(last) = page.last() else { break };
        after = last.cookie;
        for entry in &page {
            seen += 1;
            let name = String::from_utf8(entry.name.clone()).unwrap();
            replica.submit(unlink(entry.node.keg, &name), AT).unwrap();
        }
        counter += 1;
        confirm_all(&replica, counter, counter);
    }
    assert_eq!(seen, 50);
    assert!(replica.view().is_empty(1).unwrap());
    assert_eq!(replica.view().usage(), (0, 1));
}

#[test]
fn the_data_in_a_file_is_counted_without_its_holes() {
    let dir = tempdir();
    let replica = open(dir.path());
    let allocated = || replica.view().lookup(1, b"f").unwrap().unwrap().allocated;
    let write =
        |holes, extents, size| OpKind::Content { keg: keg(1), truncate: None, holes, extents, size, mtime_ns: 1 };
    replica.submit(file(keg(1), "f"), AT).unwrap();
    replica.submit(write(vec![], vec![extent(0, 1000, 1), extent(1 << 40, 500, 2)], 1 << 41), AT).unwrap();
    assert_eq!(allocated(), 1500);
    confirm_all(&replica, 1, 1);
    assert_eq!(allocated(), 1500);
    // Over the end of one, into a hole, and a hole through the middle of the other.
    replica
        .submit(write(vec![Range { offset: (1 << 40) + 100, len: 50 }], vec![extent(900, 300, 3)], 1 << 41), AT)
        .unwrap();
    assert_eq!(allocated(), 1200 + 450);
    confirm_all(&replica, 2, 2);
    assert_eq!(allocated(), 1200 + 450);
    replica.submit(write(vec![], vec![], 600), AT).unwrap();
    assert_eq!(allocated(), 600);
    confirm_all(&replica, 3, 3);
    assert_eq!(allocated(), 600);
}

#[test]
fn a_replica_of_the_first_layout_is_brought_up_to_date_in_place() {
    let dir = tempdir();
    let path = dir.path().join("state.db");
    let old = db::open(&path, &key(), 64, false).unwrap();
    db::migrate(&old, &[schema::STATE_1]).unwrap();
    old.run(|conn| {
        conn.execute_batch(
            "INSERT INTO node VALUES (7, x'07', 1, 0, 420, 0, 0, 0, 1, 900, 0, 0, 0, 0, NULL, 1, 1, NULL, NULL, NULL, NULL, 0),
               (8, x'08', 1, 1, 493, 0, 0, 0, 2, 0, 0, 0, 0, 0, NULL, 1, 1, NULL, NULL, NULL, NULL, 0);
             INSERT INTO extent VALUES (7, 0, 100, x'01', 0, 100, 0, x'02', 1), (7, 500, 250, x'01', 0, 250, 0, x'02', 1);",
        )
    })
    .unwrap();
    drop(old);
    let now = db::open(&path, &key(), 64, false).unwrap();
    db::migrate(&now, schema::STATE).unwrap();
    let counted = now.run(|conn| {
        conn.prepare("SELECT allocated FROM node ORDER BY ino")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<Vec<i64>, _>>()
    });
    assert_eq!(counted.unwrap(), [350, 0]);
    db::migrate(&now, schema::STATE).unwrap();
    assert!(matches!(db::migrate(&now, &[schema::STATE_1]), Err(ReplicaError::NewerLayout { .. })));
}

#[test]
fn a_listing_passes_over_many_names_whose_removal_is_pending() {
    let dir = tempdir();
    let replica = open(dir.path());
    for number in 1..=6_000 {
        replica.submit(file(keg(number), &format!("f{number}")), AT).unwrap();
    }
    confirm_all(&replica, 1, 1);
    // All but every hundredth of the last thousand, so that what is hidden spans several reads of any size.
    let stays = |number: u32| number > 5_000 && number.is_multiple_of(100);
    for number in (1..=6_000).filter(|number| !stays(*number)) {
        replica.submit(unlink(keg(number), &format!("f{number}")), AT).unwrap();
    }
    replica.submit(file(keg(7_000), "new"), AT).unwrap();
    let all: Vec<_> = (1..=6_000).filter(|number| stays(*number)).map(keg).chain([keg(7_000)]).collect();
    for limit in [1, 7, 4_096, usize::MAX] {
        let (mut after, mut seen) = (0, vec![]);
        loop {
            let page = replica.view().readdir(1, after, limit).unwrap();
            assert!(page.len() <= limit);
            let names = replica.view().names_in(1, after, limit).unwrap();
            let bare = page.iter().map(|entry| (&entry.name, entry.cookie, entry.ino, entry.node.kind));
            assert!(bare.eq(names.iter().map(|entry| (&entry.name, entry.cookie, entry.ino, entry.kind))));
            let Some(last) = page.last() else { break };
            after = last.cookie;
            seen.extend(page.iter().map(|entry| entry.node.keg));
        }
        assert_eq!(seen, all, "{limit} at once");
    }
}

#[test]
fn changes_of_others_are_told_and_own_ones_are_not() {
    let dir = tempdir();
    let replica = open(dir.path());
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    replica.on_change(move |changes| sink.lock().extend_from_slice(changes));
    let ino = replica.submit(file(keg(1), "a"), AT).unwrap().node.unwrap().ino;
    assert_eq!(confirm_all(&replica, 1, 1), []);
    assert!(told.lock().is_empty());
    let ops = vec![op(1, content(keg(1), vec![extent(0, 5, 1)], AT)), op(1, file(keg(2), "b"))];
    replica.apply(&[confirmed(2, BOB, 1, Some(ops))], None).unwrap();
    let child = replica.view().lookup(1, b"b").unwrap().map(|node| node.ino);
    let changes = told.lock().clone();
    assert!(changes.contains(&Change::Content(ino)), "{changes:?}");
    assert!(changes.contains(&Change::Attr(1)), "{changes:?}");
    assert!(changes.contains(&Change::Entry { parent_ino: 1, name: b"b".to_vec(), child }), "{changes:?}");
    let rename = OpKind::Unlink { keg: keg(2), parent: KegId::ROOT, name: b"b".to_vec() };
    let changes = replica.apply(&[confirmed(3, BOB, 2, Some(vec![op(2, rename)]))], None).unwrap();
    assert!(changes.contains(&Change::Entry { parent_ino: 1, name: b"b".to_vec(), child: None }), "{changes:?}");
}

#[test]
fn a_foreign_write_under_pending_work_moves_it_to_a_sibling_and_says_so() {
    let dir = tempdir();
    let replica = open(dir.path());
    let ino = replica.submit(file(keg(1), "plan.txt"), AT).unwrap().node.unwrap().ino;
    confirm_all(&replica, 1, 1);
    let mine = content(keg(1), vec![extent(0, 7, 1)], AT);
    assert_eq!(replica.submit(mine, AT).unwrap().applied, Applied::Done);
    let theirs = op(1, content(keg(1), vec![extent(0, 9, 2)], AT));
    let changes = replica.apply(&[confirmed(2, BOB, 1, Some(vec![theirs]))], None).unwrap();
    let sibling = "plan (conflict, laptop 0a, 2026-11-23 15.04).txt";
    assert_eq!(names(&replica), [sibling, "plan.txt"]);
    assert_eq!(size(&replica, keg(1)), 9);
    assert!(changes.contains(&Change::Content(ino)), "{changes:?}");
    let told = changes
        .iter()
        .any(|change| matches!(change, Change::Entry { name, child: Some(_), .. } if name == sibling.as_bytes()));
    assert!(told, "{changes:?}");
    let before = replica.view().lookup(1, sibling.as_bytes()).unwrap().unwrap();
    confirm_all(&replica, 3, 2);
    let after = replica.view().lookup(1, sibling.as_bytes()).unwrap().unwrap();
    assert_eq!((after.ino, after.size), (before.ino, 7));
}

#[test]
fn an_own_entry_that_the_log_ignores_gives_its_work_back() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.submit(file(keg(1), "a"), AT).unwrap();
    replica.flush(false).unwrap();
    replica.stage(staged(1, 1)).unwrap();
    assert!(replica.pending(9, usize::MAX).is_empty());
    replica.apply(&[confirmed(1, ALICE, 1, None)], None).unwrap();
    assert_eq!(replica.pending(9, usize::MAX).len(), 1);
    assert_eq!(names(&replica), ["a"]);
    drop(replica);
    let replica = open(dir.path());
    assert_eq!(replica.pending(9, usize::MAX).len(), 1);
    confirm_all(&replica, 2, 2);
    assert_eq!(names(&replica), ["a"]);
}

#[test]
fn the_write_ahead_log_does_not_grow_with_the_number_of_entries() {
    let dir = tempdir();
    let replica = open(dir.path());
    let wal = dir.path().join("state.db-wal");
    let mut longest = 0;
    for seq in 1..=60u32 {
        let ops = (0..400)
            .map(|n| op(0, create(keg(seq * 1000 + n), KegId::ROOT, format!("{seq}-{n}").as_bytes(), NodeKind::File)))
            .collect();
        replica.apply(&[confirmed(u64::from(seq), BOB, u64::from(seq), Some(ops))], None).unwrap();
        // Somebody is always reading.
        assert_eq!(replica.view().readdir(1, 0, 1).unwrap().len(), 1);
        longest = longest.max(fs::metadata(&wal).unwrap().len());
    }
    assert!(longest < 24 * 1024 * 1024, "{longest}");
    assert_eq!(replica.view().usage().1, 60 * 400 + 1);
}

#[test]
fn readers_never_see_half_of_an_entry_nor_an_operation_twice_or_not_at_all() {
    let dir = tempdir();
    let replica = open(dir.path());
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (replica, stop) = (Arc::clone(&replica), Arc::clone(&stop));
            std::thread::spawn(move || {
                let (mut checks, mut own_before) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let entries = replica.view().readdir(1, 0, usize::MAX).unwrap();
                    let foreign = entries.iter().filter(|entry| entry.name[0] == b'x').count();
                    assert_eq!(foreign % 5, 0, "five names come with each entry");
                    let own: Vec<_> = entries.iter().filter(|entry| entry.name[0] == b'o').collect();
                    assert!(own.len() >= own_before, "an own name vanished");
                    own_before = own.len();
                    for entry in own {
                        let found = replica.view().lookup(1, &entry.name).unwrap();
                        assert_eq!(found.map(|node| node.ino), Some(entry.ino));
                    }
                    checks += 1;
                }
                checks
            })
        })
        .collect();
    let (mut seq, mut counter) = (0, 0);
    for round in 0..40u32 {
        for n in 0..5 {
            let number = round * 10 + n;
            replica.submit(file(keg(number), &format!("o{number}")), AT).unwrap();
        }
        let ops = (0..5).map(|n| op(seq, file(keg(round * 10 + 5 + n), &format!("x{round}-{n}")))).collect();
        seq += 1;
        replica.apply(&[confirmed(seq, BOB, u64::from(round) + 1, Some(ops))], None).unwrap();
        if round % 2 == 1 {
            seq += 1;
            counter += 1;
            confirm_all(&replica, seq, counter);
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    assert_eq!(names(&replica).len(), 400);
}

// --- what is kept ---

#[test]
fn standing_key_ring_and_names_are_kept() {
    let dir = tempdir();
    let replica = open(dir.path());
    let member = MemberInfo { account: AccountId([9; 32]), role: Role::Editor, expires_ms: Some(5), joined_seq: 1 };
    let standing = Standing { state: vec![1, 2, 3], epoch: 4, role: Some(Role::Editor), members: vec![member] };
    let name = OpKind::FolderName { name: "Projects".to_owned() };
    let entry = confirmed(1, BOB, 1, Some(vec![op(0, name)]));
    let changes = replica.apply(&[entry], Some(standing.clone())).unwrap();
    assert!(changes.contains(&Change::Standing));
    replica.store_keyring(b"ring").unwrap();
    drop(replica);
    let replica = open(dir.path());
    assert_eq!(*replica.standing(), standing);
    assert_eq!(replica.load_keyring().unwrap().unwrap().as_slice(), b"ring");
    let view = replica.view();
    assert_eq!((view.role(), view.epoch(), view.folder_name()), (Some(Role::Editor), 4, Some("Projects".to_owned())));
    let line = view.log_line(1).unwrap().unwrap();
    assert_eq!((line.device, line.label, line.seq), (BOB, label(&BOB), 1));
    assert_eq!(view.log_line(2).unwrap(), None);
}

#[test]
fn nothing_readable_lies_on_the_disk() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.submit(file(keg(1), "canary-name-one"), AT).unwrap();
    confirm_all(&replica, 1, 1);
    replica.submit(file(keg(2), "canary-name-two"), AT).unwrap();
    replica.flush(true).unwrap();
    let found = |needle: &[u8]| {
        fs::read_dir(dir.path()).unwrap().any(|entry| {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    };
    assert!(!found(b"canary-name") && !found(&keg(1).0) && !found(b"SQLite format"));
    fs::write(dir.path().join("planted"), b"..canary-name..").unwrap();
    assert!(found(b"canary-name"), "the search finds what is there");
}

#[test]
fn account_store_keeps_logs_append_only() {
    let dir = tempdir();
    let account = AccountId([4; 32]);
    let entry = |byte| SignedAccountEntry { entry: vec![byte], signature: [byte; 64] };
    {
        let store = AccountStore::open(dir.path(), &key()).unwrap();
        let folder = FolderRecord { db: DbId([1; 32]), name: "one".to_owned(), dir: "folders/1".to_owned() };
        store.put_folder(&folder).unwrap();
        store.append_account(&account, 1, &entry(1)).unwrap();
        store.append_account(&account, 2, &entry(2)).unwrap();
        store.append_account(&account, 2, &entry(2)).unwrap();
        assert!(matches!(store.append_account(&account, 2, &entry(3)), Err(ReplicaError::OutOfOrder { .. })));
        assert!(matches!(store.append_account(&account, 4, &entry(4)), Err(ReplicaError::OutOfOrder { .. })));
        let bob = contact(account, "Bob", Trust::Pinned);
        store.put_contact(&bob, true).unwrap();
        store.put_contact(&contact(AccountId([8; 32]), "carol", Trust::Pinned), false).unwrap();
        store.put_contact(&Contact { trust: Trust::Verified, keys: Some([4; 32]), ..bob }, true).unwrap();
        store.put_shown(&account, &[5; 32]).unwrap();
        store.put_setting("server", b"https").unwrap();
    }
    let store = AccountStore::open(dir.path(), &key()).unwrap();
    assert_eq!(store.account_log(&account).unwrap(), [entry(1), entry(2)]);
    assert_eq!(store.accounts().unwrap(), [account]);
    let verified = Contact { keys: Some([4; 32]), ..contact(account, "Bob", Trust::Verified) };
    assert_eq!(store.contact(&account).unwrap().as_ref(), Some(&verified));
    assert_eq!(store.contacts().unwrap().len(), 2);
    assert_eq!(store.local_contacts().unwrap(), std::slice::from_ref(&verified));
    assert_eq!(store.namesakes(" bOB").unwrap(), [verified]);
    assert_eq!(store.shown(&account).unwrap(), Some([5; 32]));
    assert_eq!(store.shown(&AccountId([8; 32])).unwrap(), None);
    assert_eq!(store.setting("server").unwrap().as_deref(), Some(&b"https"[..]));
    assert_eq!(store.setting("none").unwrap(), None);
    assert_eq!(store.folders().unwrap().len(), 1);
    store.remove_folder(&DbId([1; 32])).unwrap();
    assert!(store.folders().unwrap().is_empty());
}

// --- what goes wrong ---

fn refusal(dir: &std::path::Path, key: &Key, params: OpenParams) -> ReplicaError {
    match Replica::open(dir, key, params) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[test]
fn a_wrong_key_another_owner_and_a_second_process_are_told_apart() {
    let dir = tempdir();
    let replica = open(dir.path());
    assert!(matches!(refusal(dir.path(), &key(), params()), ReplicaError::InUse { .. }));
    replica.close().unwrap();
    drop(replica);
    let error = refusal(dir.path(), &Key::from_bytes([8; 32]), params());
    assert!(matches!(&error, ReplicaError::WrongKey { .. }), "{error}");
    for other in [OpenParams { db: DbId([2; 32]), ..params() }, OpenParams { device: BOB, ..params() }] {
        assert!(matches!(refusal(dir.path(), &key(), other), ReplicaError::OtherOwner { .. }));
    }
    drop(open(dir.path()));
}

#[test]
fn damaged_files_are_named_with_the_next_step_and_the_rest_is_kept() {
    for (name, step) in [("state.db", "downloaded anew"), ("journal.db", "keep it")] {
        let dir = tempdir();
        let replica = open(dir.path());
        replica.submit(file(keg(1), "a"), AT).unwrap();
        replica.flush(true).unwrap();
        replica.close().unwrap();
        drop(replica);
        let path = dir.path().join(name);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0x55; 64], 1000).unwrap();
        let error = refusal(dir.path(), &key(), params());
        assert!(matches!(&error, ReplicaError::Corrupt { file, .. } if *file == path), "{error}");
        let message = error.to_string();
        assert!(message.contains(name) && message.contains(step), "{message}");
        // The advice works: without the file the replica opens, and the other file's contents are there.
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(dir.path().join(format!("{name}{suffix}")));
        }
        let replica = open(dir.path());
        assert_eq!(replica.pending_counts().pending, u64::from(name == "state.db"));
    }
}

#[test]
fn a_truncated_database_is_damaged_and_not_empty() {
    let dir = tempdir();
    drop(open(dir.path()));
    let path = dir.path().join("state.db");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let error = refusal(dir.path(), &key(), params());
    assert!(matches!(error, ReplicaError::Corrupt { .. }), "{error}");
}

#[test]
fn a_later_layout_is_refused() {
    let dir = tempdir();
    drop(open(dir.path()));
    {
        let db = db::open(&dir.path().join("state.db"), &key(), 64, false).unwrap();
        db.run(|conn| conn.execute_batch("PRAGMA user_version=99")).unwrap();
    }
    assert!(matches!(refusal(dir.path(), &key(), params()), ReplicaError::NewerLayout { found: 99, .. }));
}

#[test]
fn what_is_prepared_once_is_not_prepared_again_for_other_values() {
    let dir = tempdir();
    drop(open(dir.path()));
    let db = db::open(&dir.path().join("state.db"), &key(), 64, false).unwrap();
    for sql in
        [base::NAME_LOOKUP, base::NAMES_OF, "DELETE FROM node WHERE ino = ?1", "DELETE FROM dentry WHERE parent = ?1"]
    {
        db.run(|conn| {
            let mut statement = conn.prepare_cached(sql)?;
            for value in 1..20 {
                for parameter in 1..=statement.parameter_count() {
                    statement.raw_bind_parameter(parameter, value)?;
                }
                while statement.raw_query().next()?.is_some() {}
            }
            assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0, "{sql}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_full_disk_stops_new_work_loses_none_and_passes() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.submit(file(keg(1), "a"), AT).unwrap();
    replica.flush(true).unwrap();
    replica.shared().journal.limit_pages(Some(1));
    let name = "n".repeat(200);
    for number in 2..100 {
        let parent = KegId::ROOT;
        let created = create(keg(number), parent, format!("{name}{number}").as_bytes(), NodeKind::File);
        // Refused as soon as the journal's thread has met the full disk.
        let _ = replica.submit(created, AT);
    }
    let error = replica.flush(true).unwrap_err();
    assert!(matches!(error, ReplicaError::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("journal.db"), "{error}");
    let error = replica.submit(file(keg(500), "refused"), AT).unwrap_err();
    assert!(matches!(error, ReplicaError::DiskFull { .. }), "{error}");
    let accepted = names(&replica);
    assert!(!accepted.contains(&"refused".to_owned()));
    replica.shared().journal.limit_pages(None);
    replica.flush(true).unwrap();
    replica.submit(file(keg(501), "works"), AT).unwrap();
    replica.close().unwrap();
    drop(replica);
    let replica = open(dir.path());
    assert_eq!(names(&replica).len(), accepted.len() + 1);
}

#[test]
fn an_entry_that_cannot_be_written_changes_nothing() {
    let dir = tempdir();
    let replica = open(dir.path());
    replica.submit(file(keg(1), "mine"), AT).unwrap();
    let limit = |pages: u32| {
        let writer = replica.shared().writer.lock();
        writer.run(|conn| conn.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()))).unwrap();
    };
    let ops: Vec<_> = (10..2000).map(|n| op(0, file(keg(n), &format!("theirs {n}")))).collect();
    let entry = confirmed(1, BOB, 1, Some(ops));
    limit(1);
    let error = replica.apply(std::slice::from_ref(&entry), None).unwrap_err();
    assert!(matches!(&error, ReplicaError::DiskFull { file } if file.ends_with("state.db")), "{error}");
    assert_eq!(names(&replica), ["mine"]);
    assert_eq!(replica.mark(), Head::EMPTY);
    limit(u32::MAX - 1);
    replica.apply(&[entry], None).unwrap();
    assert_eq!(names(&replica).len(), 1991);
    assert_eq!(replica.view().log_line(1).unwrap().unwrap().device, BOB);
}

#[test]
fn a_closed_replica_refuses_and_can_be_opened_again() {
    let dir = tempdir();
    let replica = open(dir.path());
    let slot = replica.reserve(keg(1)).unwrap();
    replica.close().unwrap();
    assert!(matches!(replica.submit(file(keg(1), "a"), AT), Err(ReplicaError::Closed)));
    assert!(matches!(replica.fill(slot, None), Err(ReplicaError::NoSuchSlot(_))));
    assert!(matches!(replica.apply(&[confirmed(1, BOB, 1, None)], None), Err(ReplicaError::Closed)));
    assert!(matches!(replica.store_keyring(b"late"), Err(ReplicaError::Closed)));
    assert!(matches!(replica.unstage(1), Err(ReplicaError::Closed)));
    // Although this one is still referred to.
    let again = open(dir.path());
    again.submit(file(keg(1), "a"), AT).unwrap();
    replica.close().unwrap();
}

#[test]
fn values_outside_the_format_are_refused() {
    let dir = tempdir();
    let replica = open(dir.path());
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
        let error = replica.submit(create(keg(1), KegId::ROOT, name, NodeKind::File), AT).unwrap_err();
        assert!(matches!(error, ReplicaError::Format(_)), "{error}");
    }
    let slot = replica.reserve(keg(1)).unwrap();
    let bad = op(0, content(keg(1), vec![extent(5, 0, 1)], AT));
    assert!(matches!(replica.fill(slot, Some(bad)), Err(ReplicaError::Format(_))));
    replica.flush(true).unwrap();
    assert_eq!(replica.pending_counts().pending, 0);
}

fn contact(account: AccountId, name: &str, trust: Trust) -> Contact {
    Contact { account, name: name.to_owned(), pinned_ms: 7, trust, since_ms: 9, why: String::new(), keys: None }
}
