//! Locks of programs: among themselves, and where other members are in the way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use kegfs::format::OpKind;
use kegfs::vfs::*;

use super::desk::*;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A request that was made: its number, and its answer.
struct Asked(u64, Receiver<Result<(), VfsError>>);

impl Asked {
    fn answer(&self) -> Result<(), VfsError> {
        self.1.recv_timeout(Duration::from_secs(10)).expect("an answer")
    }

    fn waits(&self) -> bool {
        self.1.try_recv() == Err(TryRecvError::Empty)
    }
}

fn range(start: u64, end: u64, exclusive: bool) -> LockSpan {
    LockSpan { space: LockSpace::Posix, start, end, exclusive }
}

const ALL: LockSpan = LockSpan { space: LockSpace::Flock, start: 0, end: LOCK_END, exclusive: true };

impl Desk {
    fn ask(&self, fh: u64, owner: u64, span: LockSpan, wait: bool) -> Asked {
        self.ask_as(owner as u32, fh, owner, span, wait)
    }

    fn ask_as(&self, pid: u32, fh: u64, owner: u64, span: LockSpan, wait: bool) -> Asked {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = channel();
        let request = LockRequest { id, fh, owner, pid, span, wait };
        // Whoever still waits at the end of a test is told when the desk is cleared.
        self.vfs.lock(
            &request,
            Box::new(move |result| {
                let _ = done.send(result);
            }),
        );
        Asked(id, answer)
    }

    fn try_lock(&self, fh: u64, owner: u64, span: LockSpan) -> Result<(), VfsError> {
        self.ask(fh, owner, span, false).answer()
    }

    fn test(&self, fh: u64, owner: u64, span: LockSpan) -> Option<InTheWay> {
        let (done, answer) = channel();
        self.vfs.test_lock(fh, owner, span, Box::new(move |found| done.send(found).unwrap()));
        answer.recv_timeout(Duration::from_secs(10)).expect("an answer").unwrap()
    }
}

#[test]
fn programs_wait_for_each_other_in_order_and_are_woken_when_they_can_be() {
    let desk = desk();
    let (_, fh) = desk.create("f");
    desk.try_lock(fh, 1, range(0, 9, true)).unwrap();
    assert_eq!(desk.try_lock(fh, 2, range(5, 5, false)), Err(VfsError::Locked));
    assert_eq!(desk.test(fh, 2, range(0, 99, false)), Some((1, range(0, 9, true))));
    assert_eq!(desk.test(fh, 1, range(0, 99, true)), None);
    let (first, second, beside) = (
        desk.ask(fh, 2, range(0, 4, true), true),
        desk.ask(fh, 3, range(3, 6, true), true),
        desk.ask(fh, 4, range(10, 19, true), true),
    );
    assert_eq!(beside.answer(), Ok(()));
    assert!(first.waits() && second.waits());
    desk.vfs.unlock(fh, 1, LockSpace::Posix, 0, 4).unwrap();
    assert_eq!(first.answer(), Ok(()));
    assert!(second.waits(), "5 and 6 are still the first one's");
    desk.vfs.unlock(fh, 1, LockSpace::Posix, 0, LOCK_END).unwrap();
    assert!(second.waits(), "3 and 4 are the second one's");
    desk.vfs.unlock(fh, 2, LockSpace::Posix, 0, LOCK_END).unwrap();
    assert_eq!(second.answer(), Ok(()));
}

#[test]
fn a_closed_descriptor_releases_what_its_process_and_its_description_have() {
    let desk = desk();
    let (_, fh) = desk.create("f");
    let other = desk.open("f", WRITE);
    // Owner 1 is a process, owner 100 the open file description behind `fh`.
    desk.try_lock(fh, 1, range(0, 9, true)).unwrap();
    desk.try_lock(fh, 100, range(20, 29, true)).unwrap();
    desk.try_lock(fh, 100, ALL).unwrap();
    desk.vfs.unlock_closed(other, 1);
    desk.try_lock(other, 2, range(0, 9, true)).unwrap();
    assert_eq!(desk.try_lock(other, 2, range(20, 20, true)), Err(VfsError::Locked));
    assert_eq!(desk.try_lock(other, 200, ALL), Err(VfsError::Locked));
    desk.vfs.release(fh);
    desk.try_lock(other, 2, range(20, 20, true)).unwrap();
    desk.try_lock(other, 200, ALL).unwrap();
    assert_eq!(desk.try_lock(fh, 2, ALL), Err(VfsError::BadHandle));
}

#[test]
fn a_conversion_of_flock_gives_up_first_and_one_of_fcntl_does_not() {
    let desk = desk();
    let (_, fh) = desk.create("f");
    let shared = LockSpan { exclusive: false, ..ALL };
    desk.try_lock(fh, 1, shared).unwrap();
    desk.try_lock(fh, 2, shared).unwrap();
    let (one, two) = (desk.ask(fh, 1, ALL, true), desk.ask(fh, 2, ALL, true));
    // The second gave up its shared lock for its wish, and so the first had its turn.
    assert_eq!(one.answer(), Ok(()));
    assert!(two.waits());
    desk.vfs.unlock(fh, 1, LockSpace::Flock, 0, LOCK_END).unwrap();
    assert_eq!(two.answer(), Ok(()));

    // What fcntl locks for is a process, not a description.
    desk.try_lock(fh, 11, range(0, 0, false)).unwrap();
    desk.try_lock(fh, 12, range(0, 0, false)).unwrap();
    let one = desk.ask(fh, 11, range(0, 0, true), true);
    assert_eq!(desk.ask(fh, 12, range(0, 0, true), true).answer(), Err(VfsError::Deadlock));
    assert!(one.waits());
    desk.vfs.unlock(fh, 12, LockSpace::Posix, 0, 0).unwrap();
    assert_eq!(one.answer(), Ok(()));
}

#[test]
fn a_circle_over_several_files_is_refused_and_a_chain_is_not() {
    let desk = desk();
    let files: Vec<u64> = ["a", "b", "c"].map(|name| desk.create(name).1).to_vec();
    for (owner, fh) in (1..).zip(&files) {
        desk.try_lock(*fh, owner, range(0, 0, true)).unwrap();
    }
    let chain = [desk.ask(files[1], 1, range(0, 0, true), true), desk.ask(files[2], 2, range(0, 0, true), true)];
    assert!(chain.iter().all(Asked::waits));
    assert_eq!(desk.ask(files[0], 3, range(0, 0, true), true).answer(), Err(VfsError::Deadlock));
    assert_eq!(desk.ask(files[0], 3, range(0, 0, true), false).answer(), Err(VfsError::Locked));
    desk.vfs.unlock(files[2], 3, LockSpace::Posix, 0, 0).unwrap();
    assert_eq!(chain[1].answer(), Ok(()));
}

#[test]
fn open_file_descriptions_of_a_process_are_in_no_circle() {
    let desk = desk();
    let (a, b) = (desk.create("a").1, desk.create("b").1);
    let [first, second] = [range(0, 0, true), range(1, 1, true)];
    for (fh, owner, span) in [(a, 1, first), (b, 2, second)] {
        assert_eq!(desk.ask_as(50, fh, owner, span, false).answer(), Ok(()));
    }
    // Both locked what the other wants, of the files `a` and `b`; threads of one process, which is one owner at most.
    let there = [desk.ask_as(50, b, 1, second, true), desk.ask_as(50, a, 2, first, true)];
    assert!(there.iter().all(Asked::waits));
    // Processes that come into it are not stuck: a description can be unlocked by whoever has it.
    desk.try_lock(a, 3, range(2, 2, true)).unwrap();
    assert!(desk.ask(b, 3, second, true).waits());
    assert!(desk.ask_as(50, a, 1, range(2, 2, true), true).waits());
    desk.vfs.unlock(a, 1, LockSpace::Posix, 0, 0).unwrap();
    assert_eq!(there[1].answer(), Ok(()));
}

#[test]
fn a_description_that_two_processes_use_or_that_flock_has_locked_is_in_no_circle() {
    let desk = desk();
    let (a, b) = (desk.create("a").1, desk.create("b").1);
    let flock = LockSpan { exclusive: false, ..ALL };
    let marks: [&dyn Fn(); 2] =
        [&|| assert_eq!(desk.ask_as(77, a, 1, range(9, 9, true), false).answer(), Ok(())), &|| {
            assert_eq!(desk.try_lock(a, 1, flock), Ok(()))
        }];
    for mark in marks {
        desk.try_lock(a, 1, range(0, 0, true)).unwrap();
        desk.try_lock(b, 2, range(0, 0, true)).unwrap();
        mark();
        let one = desk.ask(b, 1, range(0, 0, true), true);
        let other = desk.ask(a, 2, range(0, 0, true), true);
        assert!(one.waits() && other.waits());
        desk.vfs.unlock(b, 2, LockSpace::Posix, 0, 9).unwrap();
        assert_eq!(one.answer(), Ok(()));
        for fh in [a, b] {
            desk.vfs.unlock(fh, 1, LockSpace::Posix, 0, 9).unwrap();
        }
        assert_eq!(other.answer(), Ok(()));
        desk.vfs.unlock(a, 2, LockSpace::Posix, 0, 9).unwrap();
        desk.vfs.unlock(a, 1, LockSpace::Flock, 0, LOCK_END).unwrap();
    }
}

#[test]
fn an_interruption_ends_the_wait_even_if_it_comes_first() {
    let desk = desk();
    let (_, fh) = desk.create("f");
    desk.try_lock(fh, 1, ALL).unwrap();
    let (waiting, behind) = (desk.ask(fh, 2, ALL, true), desk.ask(fh, 3, ALL, true));
    desk.vfs.interrupt(waiting.0);
    assert_eq!(waiting.answer(), Err(VfsError::Interrupted));
    desk.vfs.interrupt(NEXT.load(Ordering::Relaxed) + 1000);
    let early = NEXT.fetch_add(1, Ordering::Relaxed);
    desk.vfs.interrupt(early);
    let (done, answer) = channel();
    let request = LockRequest { id: early, fh, owner: 4, pid: 4, span: ALL, wait: true };
    desk.vfs.lock(&request, Box::new(move |result| done.send(result).unwrap()));
    assert_eq!(answer.recv().unwrap(), Err(VfsError::Interrupted));
    desk.vfs.unlock(fh, 1, LockSpace::Flock, 0, LOCK_END).unwrap();
    assert_eq!(behind.answer(), Ok(()));
}

#[test]
fn what_another_member_has_is_waited_for_or_refused_once_that_is_known() {
    let desk = desk();
    let (_, fh) = desk.create("f");
    desk.folder.others_hold([range(0, 9, true)].into_iter().collect());
    let (tried, waiting) = (desk.ask(fh, 1, range(5, 15, true), false), desk.ask(fh, 2, range(0, 0, false), true));
    assert!(tried.waits() && waiting.waits());
    // What nobody has needs no answer.
    desk.try_lock(fh, 3, range(20, 29, true)).unwrap();
    desk.folder.answer_locks();
    assert_eq!(tried.answer(), Err(VfsError::Locked));
    assert!(waiting.waits());
    assert_eq!(desk.test(fh, 1, range(5, 15, true)), Some((0, range(0, 9, true))));
    desk.folder.others_hold(LockSet::default());
    desk.folder.answer_locks();
    assert_eq!(waiting.answer(), Ok(()));
}

#[test]
fn what_was_written_under_a_lock_is_in_the_journal_before_another_member_gets_it() {
    let desk = desk();
    let (_, fh) = desk.create("f");
    desk.try_lock(fh, 1, ALL).unwrap();
    desk.write(fh, 0, b"text");
    let journaled = || desk.folder.journal().iter().filter(|op| matches!(op, OpKind::Content { .. })).count();
    assert_eq!(journaled(), 0);
    desk.folder.settle();
    assert_eq!(journaled(), 1);
    // A lock is often for other files than the one that is locked, which stay open, or are cut to nothing.
    let (data, log) = (desk.create("data").1, desk.save("log", b"old"));
    let open = desk.open("log", WRITE);
    desk.settle();
    desk.write(data, 0, b"new");
    let cut = SetAttr { size: Some(0), ..SetAttr::default() };
    desk.vfs.setattr(log, &cut, &CALLER).unwrap();
    let before = journaled();
    desk.folder.settle();
    assert_eq!(journaled(), before + 2);
    desk.folder.settle();
    [fh, data, open].into_iter().for_each(|fh| desk.close(fh));
    desk.settle();
    assert_eq!(journaled(), before + 2, "nothing twice");
}

#[test]
fn what_cannot_be_handed_over_with_a_lock_is_told_to_the_program_that_wrote_it() {
    let desk = desk_with(VfsOptions { deadline: Duration::from_millis(300), ..VfsOptions::default() });
    let (_, fh) = desk.create("f");
    desk.try_lock(fh, 1, ALL).unwrap();
    desk.folder.set_faults(|faults| faults.disk_full = true);
    desk.write(fh, 0, b"text");
    desk.folder.settle();
    desk.folder.set_faults(|faults| faults.disk_full = false);
    assert_eq!(desk.try_fsync(fh), Err(VfsError::NoSpace));
    desk.eventually("it is in the journal", || desk.try_fsync(fh).is_ok());
    assert_eq!(desk.content("f"), b"text");
}

#[test]
fn who_waits_in_a_folder_that_goes_away_is_told() {
    let desk = desk();
    let (_, fh) = desk.create("f");
    desk.try_lock(fh, 1, ALL).unwrap();
    let waiting = desk.ask(fh, 2, ALL, true);
    desk.vfs.shutdown(Duration::from_secs(10)).unwrap();
    assert_eq!(waiting.answer(), Err(VfsError::Gone));
    assert_eq!(desk.try_lock(fh, 3, ALL), Err(VfsError::Gone));
}

#[test]
fn more_ranges_than_there_may_be_are_refused() {
    let desk = desk();
    let (_, fh) = desk.create("f");
    let refused = (0..300).find_map(|n| desk.try_lock(fh, 1, range(2 * n, 2 * n, true)).err());
    assert_eq!(refused, Some(VfsError::NoLocks));
    desk.vfs.unlock(fh, 1, LockSpace::Posix, 0, LOCK_END).unwrap();
    desk.try_lock(fh, 1, range(0, LOCK_END, true)).unwrap();
}
