//! Two people and one folder: what one does arrives at the other, whatever happens in between.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "sync_stories/locks.rs"]
mod locks;
mod sync_support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kegfs::format::Role;
use kegfs::remote::{Call, Fault, HttpOptions, RemoteError};
use kegfs::sync::{Event, FetchError, SyncError, connect};
use sync_support::*;

fn lost() -> RemoteError {
    RemoteError::Unreachable("planted".to_owned())
}

#[test]
fn what_one_member_writes_the_other_reads() {
    let pair = Pair::new();
    write(&pair.ours, "plan.txt", b"meet at noon");
    write(&pair.ours, "large.bin", &vec![7; 9 << 20]);
    eventually("bob sees both files", || names(&pair.theirs) == ["large.bin", "plan.txt"]);
    eventually("with their content", || read(&pair.theirs, "plan.txt").as_deref() == Some(b"meet at noon".as_slice()));
    eventually("the large one too", || read(&pair.theirs, "large.bin").unwrap() == vec![7; 9 << 20]);
    write(&pair.theirs, "plan.txt", b"meet at one");
    eventually("alice sees bob's change", || {
        read(&pair.ours, "plan.txt").as_deref() == Some(b"meet at one".as_slice())
    });
    let members = pair.alice.session().members(&pair.ours);
    let members: Vec<_> = members.iter().map(|member| (member.name.as_str(), member.role, member.me)).collect();
    assert_eq!(members, [("alice", Role::Owner, true), ("bob", Role::Editor, false)]);
    let label = pair.theirs.label(&pair.alice.session().device());
    assert_eq!(label.as_deref(), Some("alice's laptop"));
}

#[test]
fn what_the_server_announces_it_gives_while_others_append() {
    let pair = Pair::new();
    let (db, url) = (pair.theirs.id(), pair.kegd.url());
    let remote = connect(&HttpOptions { url, ..HttpOptions::default() }, &pair.bob.keys()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let over = AtomicBool::new(false);
    let page_after = |head: u64| runtime.block_on(remote.entries(db, head, 1 << 20)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0..150 {
                write(&pair.ours, &format!("f{index}"), b"x");
                pair.ours.wait_uploaded_blocking(PATIENCE).unwrap();
            }
            over.store(true, Ordering::Release);
        });
        let (mut head, mut asked) = (0, 0_u64);
        while !over.load(Ordering::Acquire) {
            let page = page_after(head);
            let end = head + page.entries.len() as u64;
            assert!(end > head || page.head_seq == head, "{} is announced after {head} and not given", page.head_seq);
            assert!(page.head_seq >= end, "given up to {end}, announced only {}", page.head_seq);
            (head, asked) = (end, asked + 1);
        }
        println!("{asked} pages, {head} entries");
    });
}

#[test]
fn a_newcomer_sees_everything_from_before() {
    let kegd = Kegd::start();
    let alice = Person::join(&kegd, "alice");
    let folder = alice.session().create_folder("old").unwrap();
    for index in 0..30 {
        write(&folder, &format!("f{index:02}"), format!("content {index}").as_bytes());
        if index % 10 == 0 {
            folder.wait_uploaded_blocking(PATIENCE).unwrap();
        }
    }
    folder.wait_uploaded_blocking(PATIENCE).unwrap();
    let carol = Person::join(&kegd, "carol");
    alice.session().add_member(&folder, carol.id, Role::Viewer).unwrap();
    let theirs = carol.folder("old");
    eventually("carol has all files", || names(&theirs).len() == 30);
    assert_eq!(tree(&theirs), tree(&folder));
    assert!(!theirs.writable());
    assert_eq!(theirs.role(), Some(Role::Viewer));
}

#[test]
fn both_write_at_the_same_time_and_nothing_is_lost() {
    let pair = Pair::new();
    std::thread::scope(|scope| {
        for (folder, who) in [(&pair.ours, "a"), (&pair.theirs, "b")] {
            scope.spawn(move || {
                for index in 0..300 {
                    write(folder, &format!("{who}{index}"), format!("{who} {index}").as_bytes());
                }
            });
        }
    });
    pair.settle();
    assert_eq!(names(&pair.ours).len(), 600);
    assert_eq!(tree(&pair.ours), tree(&pair.theirs));
}

#[test]
fn both_overwrite_the_same_file_and_both_contents_survive() {
    let pair = Pair::new();
    write(&pair.ours, "report.txt", b"first");
    pair.settle();
    let base = pair.ours.replica.head().seq;
    write_based(&pair.ours, "report.txt", b"by alice", base);
    write_based(&pair.theirs, "report.txt", b"by bob", base);
    pair.settle();
    let tree = tree(&pair.ours);
    assert_eq!(tree, sync_support::tree(&pair.theirs));
    let mut contents: Vec<_> = tree.values().cloned().collect();
    contents.sort();
    assert_eq!(contents, [b"by alice".to_vec(), b"by bob".to_vec()]);
    assert!(tree.keys().any(|name| name.starts_with("report (conflict, ") && name.ends_with(".txt")), "{tree:?}");
}

#[test]
fn a_lost_acknowledgement_makes_no_second_entry() {
    let pair = Pair::new();
    pair.settle();
    let before = pair.ours.replica.mark().seq;
    pair.alice.network.script(Call::Append, 0, 3, Fault::LoseAnswer);
    write(&pair.ours, "once", b"only once");
    pair.settle();
    assert_eq!(names(&pair.theirs), ["once"]);
    // The operations came in at most two entries, each of them once.
    let entries = pair.ours.replica.mark().seq - before;
    assert!((1..=2).contains(&entries), "{entries} entries");
    assert_eq!(pair.ours.replica.pending_counts().pending, 0);
}

#[test]
fn a_killed_server_comes_back_and_everything_arrives() {
    let mut pair = Pair::new();
    for index in 0..40 {
        write(&pair.ours, &format!("f{index}"), &vec![index as u8; 300_000]);
        if index == 10 {
            pair.kegd.kill();
        }
    }
    assert!(pair.ours.wait_uploaded_blocking(Duration::from_millis(300)).is_err(), "there was nobody to upload to");
    pair.kegd.restart();
    pair.settle();
    assert_eq!(names(&pair.theirs).len(), 40);
    assert_eq!(tree(&pair.ours), tree(&pair.theirs));
    eventually("both are online again", || pair.ours.online() && pair.theirs.online());
}

#[test]
fn work_done_offline_arrives_after_a_restart() {
    let mut pair = Pair::new();
    pair.alice.network.set_offline(true);
    eventually("alice knows that she is offline", || !pair.ours.online());
    assert!(pair.ours.stale_since_ms().is_some());
    write(&pair.ours, "offline", b"written on the train");
    pair.ours.replica.flush(true).unwrap();
    let id = pair.ours.id();
    drop(std::mem::replace(&mut pair.ours, pair.theirs.clone()));
    // Locked and unlocked; the new session has a network.
    pair.alice.unlock();
    pair.ours = pair.alice.session().folder(&id.to_string()).unwrap();
    assert_eq!(read(&pair.ours, "offline").unwrap(), b"written on the train");
    eventually("bob gets it", || names(&pair.theirs) == ["offline"]);
    eventually("alice is online", || pair.ours.online() && pair.ours.stale_since_ms().is_none());
    pair.settle();
    assert_eq!(tree(&pair.ours), tree(&pair.theirs));
}

#[test]
fn an_altered_blob_is_refused_and_never_cached() {
    let pair = Pair::new();
    write(&pair.ours, "file", &vec![1; 200_000]);
    pair.settle();
    let node = pair.theirs.replica.view().lookup(1, b"file").unwrap().unwrap();
    let blob = pair.theirs.replica.view().extents(node.ino, 0, node.size).unwrap()[0].blob;
    pair.bob.network.script(Call::Blob, 0, 1, Fault::Corrupt);
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    pair.bob.session().on_event(move |event| drop(tell.lock().unwrap().send(event.clone())));
    assert_eq!(pair.theirs.fetch_blocking(&blob, PATIENCE), Err(FetchError::Corrupt(blob)));
    assert!(!pair.theirs.local.contains(&blob));
    assert!(told.iter().take(1).any(|event| matches!(event, Event::CorruptBlob { .. })));
    // The honest one is taken and kept.
    assert!(pair.theirs.fetch_blocking(&blob, PATIENCE).is_ok());
    eventually("it is cached", || pair.theirs.local.contains(&blob));
}

#[test]
fn a_range_of_a_blob_is_verified() {
    let pair = Pair::new();
    let content: Vec<u8> = (0..3_000_000u32).map(|index| (index / 7) as u8).collect();
    write(&pair.ours, "file", &content);
    pair.settle();
    let node = pair.theirs.replica.view().lookup(1, b"file").unwrap().unwrap();
    let blob = pair.theirs.replica.view().extents(node.ino, 0, node.size).unwrap()[0].blob;
    let until = || Instant::now() + PATIENCE;
    let whole = pair.ours.local.read(&blob).unwrap();
    let part = pair.theirs.fetch_range_until(&blob, 1_000_000..1_010_000, until()).unwrap();
    assert_eq!(part, whole[1_000_000..1_010_000]);
    assert!(!pair.theirs.local.contains(&blob));
    pair.bob.network.script(Call::BlobRange, 0, 1, Fault::Corrupt);
    let altered = pair.theirs.fetch_range_until(&blob, 1_000_000..1_010_000, until());
    assert_eq!(altered, Err(FetchError::Corrupt(blob)));
}

#[test]
fn a_server_that_does_not_answer_costs_a_deadline_and_not_forever() {
    let pair = Pair::new();
    write(&pair.ours, "file", b"x");
    pair.settle();
    let node = pair.theirs.replica.view().lookup(1, b"file").unwrap().unwrap();
    let blob = pair.theirs.replica.view().extents(node.ino, 0, 1).unwrap()[0].blob;
    pair.bob.network.script(Call::Blob, 0, 1, Fault::Hang);
    let start = Instant::now();
    assert_eq!(pair.theirs.fetch_blocking(&blob, Duration::from_millis(200)), Err(FetchError::TimedOut));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn several_readers_share_one_transfer() {
    let pair = Pair::new();
    write(&pair.ours, "file", &vec![5; 1 << 20]);
    pair.settle();
    let node = pair.theirs.replica.view().lookup(1, b"file").unwrap().unwrap();
    let blob = pair.theirs.replica.view().extents(node.ino, 0, 1).unwrap()[0].blob;
    pair.bob.network.script(Call::Blob, 0, 1, Fault::Delay(Duration::from_millis(200)));
    let before = pair.bob.network.calls(Call::Blob);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| pair.theirs.fetch_blocking(&blob, PATIENCE).unwrap());
        }
    });
    assert_eq!(pair.bob.network.calls(Call::Blob) - before, 1);
}

#[test]
fn an_altered_entry_freezes_the_folder_and_keeps_the_evidence() {
    let mut pair = Pair::new();
    pair.settle();
    let mark = pair.theirs.replica.mark();
    pair.bob.network.script(Call::Entries, 0, 1, Fault::Corrupt);
    // A catch-up without news has nothing to alter.
    let mut attempt = 0;
    eventually("bob's folder is frozen", || {
        attempt += 1;
        if attempt % 50 == 1 {
            write(&pair.ours, &format!("f{attempt}"), b"news");
            pair.bob.network.behave();
            pair.bob.network.script(Call::Entries, 0, 1, Fault::Corrupt);
        }
        pair.theirs.frozen().is_some()
    });
    assert!(!pair.theirs.writable() && !pair.theirs.online());
    assert!(pair.theirs.replica.mark().seq >= mark.seq);
    let kept = pair.theirs.evidence().unwrap();
    let evidence = &kept.last().unwrap().evidence;
    assert!(!evidence.offered.is_empty() && evidence.own.is_some(), "both sides are signed: {evidence:?}");
    assert_eq!(evidence.head, pair.theirs.replica.mark());
    assert!(matches!(pair.theirs.wait_uploaded_blocking(PATIENCE), Ok(()) | Err(SyncError::Frozen(_))));
    // It stays frozen.
    let id = pair.theirs.id();
    drop(std::mem::replace(&mut pair.theirs, pair.ours.clone()));
    pair.bob.unlock();
    assert!(pair.bob.session().folder(&id.to_string()).unwrap().frozen().is_some());
}

#[test]
fn failing_uploads_are_tried_again_until_they_succeed() {
    let pair = Pair::new();
    pair.alice.network.script(Call::PutBlob, 0, 2, Fault::Fail(lost()));
    pair.alice.network.script(Call::PutBlob, 1, 1, Fault::LoseAnswer);
    pair.alice.network.script(Call::Append, 0, 1, Fault::Fail(RemoteError::Timeout));
    for index in 0..6 {
        write(&pair.ours, &format!("f{index}"), &vec![index; 100_000]);
    }
    pair.settle();
    assert_eq!(tree(&pair.theirs).len(), 6);
}

#[test]
fn wrong_requests_are_refused_with_their_reason() {
    let pair = Pair::new();
    let alice = pair.alice.session();
    assert!(matches!(alice.folder("nothing"), Err(SyncError::NoSuchFolder(_))));
    assert!(matches!(alice.create_folder("acme"), Err(SyncError::NameTaken(_))));
    assert!(matches!(alice.create_folder("a/b"), Err(SyncError::BadName(_))));
    let again = alice.add_member(&pair.ours, pair.bob.id, Role::Editor);
    assert!(matches!(again, Err(SyncError::AlreadyMember { .. })), "{again:?}");
    let nobody = kegfs::format::AccountId([9; 32]);
    assert!(matches!(alice.add_member(&pair.ours, nobody, Role::Editor), Err(SyncError::NoSuchAccount(_))));
    let carol = Person::join(&pair.kegd, "carol");
    let by_editor = pair.bob.session().add_member(&pair.theirs, carol.id, Role::Viewer);
    assert!(matches!(by_editor, Err(SyncError::NotAllowed { role: Role::Editor, .. })), "{by_editor:?}");
}

#[test]
fn a_change_arrives_within_a_second_at_p95() {
    let pair = Pair::new();
    let mut times: Vec<Duration> = (0..200)
        .map(|index| {
            let name = format!("f{index}");
            let start = Instant::now();
            write(&pair.ours, &name, name.as_bytes());
            eventually("it arrives", || read(&pair.theirs, &name).as_deref() == Some(name.as_bytes()));
            start.elapsed()
        })
        .collect();
    times.sort();
    let (p50, p95) = (times[100], times[190]);
    println!("propagation: p50 {p50:?}, p95 {p95:?}, worst {:?}", times[199]);
    assert!(p95 < Duration::from_secs(1), "p95 {p95:?}");
}
