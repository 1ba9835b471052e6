//! Rows 26, 28–30: the server's account of the past: rolled back, forked, held back, and writes that it lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kegfs::api::{Appended, ErrorCode, HeadEvent};
use kegfs::format::{DbId, SignedAccountEntry, SignedEntry, decode, encode};
use kegfs::sync::{Event, SyncError};

use crate::cast::{Team, contains};
use crate::keys::second_device;
use crate::liar::{Asked, Lie, Reply};
use crate::lies::{Account, Branch, Instead, Log, Rollback, Swallow};
use crate::sync_support::*;

#[test]
fn row_26_rollback_of_a_folder() {
    for back in [1, 2, u64::MAX] {
        let mut team = Team::new();
        team.bob.liar.tell(Rollback { to: team.head().saturating_sub(back) });
        let why = team.bob.must_freeze();
        assert!(why.contains("gone back"), "{why}");
        // It stays frozen for the client's next life, with an honest server too.
        team.bob.liar.repent();
        team.bob.restart();
        assert_eq!(team.bob.folder.frozen(), Some(why));
        assert!(!team.bob.folder.writable());
        assert_eq!(names(&team.bob.folder), ["plan.txt"]);
    }
}

#[test]
fn row_26_rollback_of_an_account() {
    let team = Team::new();
    let _phone = second_device(&team.kegd, &team.bob);
    // Alice's client learns of Bob's new device.
    team.alice.session().rotate(&team.alice.folder).unwrap();
    team.settle();
    let bob = team.bob.id;
    team.alice.liar.tell(Account(bob, |mut log: Vec<SignedAccountEntry>| {
        log.truncate(1);
        log
    }));
    let refused = team.alice.session().rotate(&team.alice.folder);
    assert!(matches!(refused, Err(SyncError::Misbehaviour(_))), "{refused:?}");
    assert!(team.alice.heard(|event| matches!(event, Event::FalseAccount { account, .. } if *account == bob)));
    let why = team.alice.must_freeze();
    assert!(why.contains("account") && why.contains("position"), "{why}");
    assert_eq!(team.alice.folder.status().epoch, 1, "nothing was sealed for what the server showed");
}

#[test]
fn row_28_fork() {
    let team = Team::new();
    let at = team.head();
    // Bob's view is another log from here on.
    let (branch, own) = Branch::after(at);
    team.bob.liar.tell(branch);
    for round in 0..3 {
        write(&team.bob.folder, &format!("b{round}.txt"), b"by bob");
        team.bob.folder.wait_uploaded_blocking(PATIENCE).unwrap();
        write(&team.alice.folder, &format!("a{round}.txt"), b"by alice");
        team.alice.folder.wait_uploaded_blocking(PATIENCE).unwrap();
    }
    assert_eq!(names(&team.bob.folder), ["b0.txt", "b1.txt", "b2.txt", "plan.txt"]);
    assert_eq!(names(&team.alice.folder), ["a0.txt", "a1.txt", "a2.txt", "plan.txt"]);
    assert_eq!(team.alice.folder.frozen().or(team.bob.folder.frozen()), None, "nobody can know yet");
    // The logs are joined: Alice is shown what Bob has signed, Bob what Alice has.
    let crossing = own.lock().clone();
    let shown = crossing.clone();
    let mark = team.alice.folder.replica.mark();
    team.alice.liar.tell(Log(move |mut log: Vec<_>| {
        log.truncate(usize::try_from(mark.seq).unwrap());
        log.extend(shown.iter().cloned());
        log
    }));
    eventually("Alice's folder freezes", || {
        let _ = team.alice.look();
        team.alice.folder.frozen().is_some_and(|why| why.contains("different histories"))
    });
    // The first of Bob's entries saw only what both know; the second attests the other log, and is the proof.
    assert_eq!(team.alice.folder.replica.mark().seq, mark.seq + 1);
    assert!(contains(&team.alice.proof(), &crossing[1].envelope));
    // An entry of Alice's that attests hers, for Bob.
    let theirs = team.bob.folder.replica.mark();
    let hers = crate::cheat::Shadow::of(&team.kegd, &team.alice, &team.alice.folder).entries;
    let last = hers.last().unwrap().clone();
    team.bob.liar.tell(Log(move |mut log: Vec<_>| {
        log.push(last.clone());
        log
    }));
    let why = team.bob.must_freeze();
    assert_eq!(team.bob.folder.replica.mark(), theirs);
    assert!(why.contains("different histories") || why.contains("counter"), "{why}");
}

#[test]
fn row_30_acknowledged_write_dropped() {
    let team = Team::new();
    let head = team.head();
    // Acknowledged as the next entry, and forgotten.
    team.bob.liar.tell(Swallow { head: AtomicU64::new(head), times: AtomicU64::new(1) });
    write(&team.bob.folder, "lost.txt", b"the server says that it has this");
    // The next look at the log shows that it is not in it.
    eventually("the folder freezes", || {
        let _ = team.bob.look();
        team.bob.folder.frozen().is_some_and(|why| why.contains("gone back"))
    });
    assert_eq!(team.bob.folder.replica.mark().seq, head + 1);
    // Nothing is lost: the write is here, without the server.
    team.bob.liar.tell(Instead(|asked: &Asked| matches!(asked, Asked::Blob { .. }).then_some(Reply::Silence)));
    assert_eq!(read(&team.bob.folder, "lost.txt").unwrap(), b"the server says that it has this");
    assert!(!names(&team.alice.folder).contains(&"lost.txt".to_owned()));
}

#[test]
fn row_30_acknowledged_write_dropped_and_others_put_in_its_place() {
    let team = Team::new();
    let head = team.head();
    team.bob.liar.tell(SwallowUnseen { at: head, taken: AtomicBool::new(false) });
    write(&team.bob.folder, "lost.txt", b"the server says that it has this");
    eventually("it is acknowledged", || team.bob.folder.replica.mark().seq > head);
    // By the time of the next look others have filled its place; the first of their entries that attests the log proves
    // that it is another.
    for round in 0..3 {
        write(&team.alice.folder, &format!("a{round}.txt"), b"by alice");
        team.alice.folder.wait_uploaded_blocking(PATIENCE).unwrap();
    }
    team.bob.liar.repent();
    let why = team.bob.must_freeze();
    assert!(why.contains("different histories") || why.contains("dropped"), "{why}");
    assert_eq!(read(&team.bob.folder, "lost.txt").unwrap(), b"the server says that it has this");
}

/// Acknowledges the next entry, forgets it, and does not answer questions about the log afterwards.
struct SwallowUnseen {
    at: u64,
    taken: AtomicBool,
}

impl Lie for SwallowUnseen {
    fn instead(&self, asked: &Asked) -> Option<Reply> {
        match asked {
            Asked::Append { .. } if !self.taken.swap(true, Ordering::AcqRel) => {
                Some(Reply::Says(encode(&Appended { seq: self.at + 1 })))
            }
            Asked::Entries { .. } if self.taken.load(Ordering::Acquire) => Some(Reply::Refuses(ErrorCode::Busy)),
            _ => None,
        }
    }
}

/// Holds the view back until something is appended, which it then acknowledges as number `seq` of a log that others have
/// filled up to there.
struct Late {
    at: u64,
    seq: u64,
    open: AtomicBool,
}

impl Lie for Late {
    fn log(&self, _: DbId, mut truth: Vec<SignedEntry>) -> Vec<SignedEntry> {
        if !self.open.load(Ordering::Acquire) {
            truth.truncate(usize::try_from(self.at).unwrap());
        }
        truth
    }
    fn head(&self, truth: HeadEvent) -> Option<HeadEvent> {
        self.open.load(Ordering::Acquire).then_some(truth)
    }
    fn instead(&self, asked: &Asked) -> Option<Reply> {
        let Asked::Append { .. } = asked else { return None };
        let first = !self.open.swap(true, Ordering::AcqRel);
        first.then(|| Reply::Says(encode(&Appended { seq: self.seq })))
    }
}

#[test]
fn row_30_acknowledged_write_missing_where_it_should_be() {
    let team = Team::new();
    let head = team.head();
    team.bob.liar.tell(Late { at: head, seq: head + 2, open: AtomicBool::new(false) });
    for round in 0..2 {
        write(&team.alice.folder, &format!("a{round}.txt"), b"by alice");
        team.alice.folder.wait_uploaded_blocking(PATIENCE).unwrap();
    }
    write(&team.bob.folder, "lost.txt", b"the server says that it has this");
    eventually("the folder freezes", || team.bob.folder.frozen().is_some());
    let why = team.bob.folder.frozen().unwrap();
    assert!(why.contains("left it out"), "{why}");
    let entry = team.bob.liar.appended(team.bob.folder.id()).pop().unwrap().entry;
    assert!(contains(&team.bob.proof(), &entry.envelope), "what the server acknowledged is in the proof");
    // The journal still has it.
    let staged: Vec<SignedEntry> =
        team.bob.folder.replica.staged().iter().map(|kept| decode(&kept.bytes).unwrap()).collect();
    assert_eq!(staged, [entry]);
    assert_eq!(read(&team.bob.folder, "lost.txt").unwrap(), b"the server says that it has this");
}

#[test]
fn row_29_an_announced_entry_that_is_never_given() {
    let team = Team::new();
    let (db, before) = (team.bob.folder.id(), team.head());
    let looks = || team.bob.liar.asked().iter().filter(|asked| matches!(asked, Asked::Entries { .. })).count();
    let first = looks();
    team.bob.liar.announce(db, before + 5);
    eventually("Bob is told", || team.bob.heard(|event| matches!(event, Event::Stalled { .. })));
    let status = team.bob.folder.status();
    assert!(!status.online && status.stale_since_ms.is_some(), "never in sync: {status:?}");
    assert!(status.last_error.is_some_and(|error| error.contains("does not give it")));
    assert!(looks() - first < 30, "{} questions: it is asked with pauses", looks() - first);
    // What was announced comes at last.
    for round in 0..5 {
        write(&team.alice.folder, &format!("a{round}.txt"), b"by alice");
        team.alice.folder.wait_uploaded_blocking(PATIENCE).unwrap();
    }
    eventually("all is well", || team.bob.folder.online() && names(&team.bob.folder).len() == 6);
}
