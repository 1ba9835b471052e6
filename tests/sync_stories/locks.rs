//! Locks between two members, with the network's faults in between and leases of two seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kegfs::format::{KegId, LOCK_END, LockSet, LockSpace, LockSpan, Role};
use kegfs::remote::{Call, Fault, RemoteError};
use kegfs::server::Limits;
use kegfs::sync::{Agreed, Event, Folder, LockNews};
use parking_lot::{Condvar, Mutex};

use super::sync_support::*;

const LEASE: Duration = Duration::from_secs(2);
const FILE: KegId = KegId([7; 16]);

fn pair() -> Pair {
    pair_with(LEASE)
}

fn pair_with(lease: Duration) -> Pair {
    Pair::on(Kegd::start_with(Limits { lock_lease: lease, ..Limits::default() }))
}

fn range(start: u64, end: u64) -> LockSpan {
    LockSpan { space: LockSpace::Posix, start, end, exclusive: true }
}

const ALL: LockSpan = LockSpan { space: LockSpace::Posix, start: 0, end: LOCK_END, exclusive: true };

#[derive(Default)]
struct State {
    held: LockSet,
    want: Option<(LockSpan, bool)>,
    refused: bool,
    settled: u32,
}

/// A program that locks one file.
#[derive(Clone)]
struct Program(Arc<(Folder0, Mutex<State>, Condvar)>);
type Folder0 = Arc<Folder>;

impl LockNews for Program {
    fn changed(&self, keg: &KegId, taken: &[LockSpan]) {
        assert_eq!(*keg, FILE);
        let (_, state, news) = &*self.0;
        let mut state = state.lock();
        if let Some((span, wait)) = state.want {
            if self.claim(&mut state, span) {
                state.want = None;
            } else if !wait && taken.contains(&span) {
                (state.want, state.refused) = (None, true);
            }
            self.tell(&state);
        }
        news.notify_all();
    }

    fn settle(&self, done: Box<dyn FnOnce() + Send>) {
        self.0.1.lock().settled += 1;
        done();
    }
}

impl Program {
    fn of(folder: &Arc<Folder>) -> Self {
        let program = Self(Arc::new((folder.clone(), Mutex::default(), Condvar::new())));
        folder.on_locks(program.clone());
        program
    }

    fn claim(&self, state: &mut State, span: LockSpan) -> bool {
        let newcomer = state.held.is_empty();
        let mut held = state.held.clone();
        held.put(span);
        let agreed = self.0.0.claim_lock(&FILE, &held, newcomer) == Agreed::Yes;
        if agreed {
            state.held = held;
        }
        agreed
    }

    fn tell(&self, state: &State) {
        self.0.0.want_locks(&FILE, &state.held, &state.want.into_iter().collect::<Vec<_>>());
    }

    /// Whether the lock was had within the time.
    fn ask(&self, span: LockSpan, wait: bool, within: Duration) -> bool {
        let (_, state, news) = &*self.0;
        let mut state = state.lock();
        state.refused = false;
        if self.claim(&mut state, span) {
            self.tell(&state);
            return true;
        }
        state.want = Some((span, wait));
        self.tell(&state);
        let until = Instant::now() + within;
        while state.want.is_some() && !news.wait_until(&mut state, until).timed_out() {}
        let had = state.want.is_none() && !state.refused;
        if state.want.take().is_some() {
            self.tell(&state);
        }
        had
    }

    fn lock(&self, span: LockSpan) -> bool {
        self.ask(span, true, PATIENCE)
    }

    fn try_lock(&self, span: LockSpan) -> bool {
        self.ask(span, false, PATIENCE)
    }

    fn unlock(&self) {
        let mut state = self.0.1.lock();
        state.held = LockSet::default();
        self.tell(&state);
    }

    fn settled(&self) -> u32 {
        self.0.1.lock().settled
    }
}

fn lost() -> RemoteError {
    RemoteError::Unreachable("planted".to_owned())
}

#[test]
fn a_file_that_nobody_else_uses_is_locked_without_asking() {
    let pair = pair();
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    assert!(alice.lock(ALL));
    let asked = pair.alice.network.calls(Call::Locks);
    for start in 0..1000 {
        alice.unlock();
        assert!(alice.lock(range(start, start + 10)));
    }
    // Renewals at most.
    assert!(pair.alice.network.calls(Call::Locks) <= asked + 5, "{}", pair.alice.network.calls(Call::Locks) - asked);
    assert!(!bob.try_lock(range(1009, 1009)));
    assert!(bob.lock(range(1010, 1020)), "what is not locked of it can be had");
    assert!(alice.settled() > 0, "what was written is brought to the server first");
    alice.unlock();
    assert!(bob.lock(range(990, 1009)));
}

#[test]
fn lost_answers_and_lost_calls_neither_lose_a_lock_nor_give_it_twice() {
    let pair = pair();
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    for round in 0..6 {
        let (one, other) = if round % 2 == 0 { (&alice, &bob) } else { (&bob, &alice) };
        for network in [&pair.alice.network, &pair.bob.network] {
            network.script(Call::Locks, round % 3, 1, Fault::LoseAnswer);
            network.script(Call::Locks, 2 + round % 2, 1, Fault::Fail(lost()));
        }
        assert!(one.lock(ALL), "round {round}");
        assert!(!other.try_lock(range(5, 5)), "round {round}: two have it");
        one.unlock();
        assert!(other.lock(range(5, 5)), "round {round}");
        other.unlock();
        for network in [&pair.alice.network, &pair.bob.network] {
            network.behave();
        }
    }
}

#[test]
fn what_is_given_up_while_calls_are_lost_is_said_again_and_nobody_waits_for_the_lease() {
    let pair = pair();
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    assert!(alice.lock(ALL));
    assert!(!bob.try_lock(range(5, 5)), "it is hers, and not lent any more");
    pair.alice.network.script(Call::Locks, 0, 1, Fault::Fail(lost()));
    alice.unlock();
    assert!(bob.ask(range(5, 5), true, LEASE / 2), "he waits for the lease of a lock that was given up");
}

#[test]
fn a_server_that_did_not_answer_once_is_asked_before_anybody_locks_alone() {
    let pair = pair();
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    assert!(alice.lock(ALL));
    assert!(!bob.try_lock(ALL));
    // Letting go is lost, and so is the next attempt.
    pair.alice.network.script(Call::Locks, 0, 2, Fault::Fail(lost()));
    alice.unlock();
    std::thread::sleep(LEASE + LEASE / 4);
    assert!(bob.lock(ALL));
    assert!(!alice.try_lock(ALL), "both have it");
}

#[test]
fn who_locked_alone_asks_again_when_the_server_is_back() {
    let pair = pair();
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    pair.alice.network.set_offline(true);
    assert!(alice.lock(ALL), "nobody can be asked");
    alice.unlock();
    pair.alice.network.set_offline(false);
    eventually("the connection", || pair.alice.session().online());
    assert!(bob.lock(ALL));
    assert!(!alice.try_lock(ALL), "both have it");
}

#[test]
fn a_refused_call_of_before_a_new_key_does_not_disturb_the_session_of_after() {
    // Nobody looks again by himself within 20 s.
    let pair = pair_with(Duration::from_secs(60));
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    assert!(alice.lock(ALL));
    assert!(!bob.try_lock(ALL));
    // Bob's wish is on its way while the key changes, and is refused while he begins anew.
    let step = Duration::from_millis(700);
    pair.bob.network.script(Call::Locks, 0, 1, Fault::Delay(step));
    pair.bob.network.script(Call::Locks, 1, 1, Fault::Delay(2 * step));
    let waiting = {
        let bob = bob.clone();
        std::thread::spawn(move || bob.ask(ALL, true, Duration::from_secs(10)))
    };
    std::thread::sleep(step / 4);
    pair.alice.session().rotate(&pair.ours).unwrap();
    std::thread::sleep(3 * step);
    alice.unlock();
    assert!(waiting.join().unwrap(), "nobody asked for him any more");
}

#[test]
fn a_lock_ends_with_the_connection_and_its_holder_learns_it_when_it_is_back() {
    let pair = pair();
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    let (tell, told) = std::sync::mpsc::channel();
    let tell = Mutex::new(tell);
    pair.alice.session().on_event(move |event| {
        if matches!(event, Event::LockBroken { .. }) {
            let _ = tell.lock().send(event.clone());
        }
    });
    assert!(alice.lock(ALL));
    assert!(!bob.try_lock(ALL));
    let cut = Instant::now();
    pair.alice.network.set_offline(true);
    assert!(bob.lock(ALL));
    assert!(cut.elapsed() < 2 * LEASE, "{:?}", cut.elapsed());
    // Offline it goes on believing, and gets what else it wants.
    assert!(pair.ours.known_locks().locks.iter().all(|lock| !lock.broken));
    pair.alice.network.set_offline(false);
    let event = told.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(event, Event::LockBroken { db, .. } if db == pair.ours.id()), "{event:?}");
    assert!(pair.ours.known_locks().locks.iter().any(|lock| lock.broken));
    // It lets go, and is one of two again.
    alice.unlock();
    assert!(!alice.try_lock(ALL));
    bob.unlock();
    assert!(alice.lock(ALL));
}

#[test]
fn a_connection_that_is_back_within_the_lease_has_lost_nothing() {
    let pair = pair();
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    assert!(alice.lock(ALL));
    assert!(!bob.try_lock(ALL));
    pair.alice.network.set_offline(true);
    std::thread::sleep(LEASE / 4);
    pair.alice.network.set_offline(false);
    assert!(!bob.ask(ALL, true, LEASE * 2), "it is renewed");
    assert!(pair.ours.known_locks().locks.iter().all(|lock| !lock.broken));
}

#[test]
fn a_server_that_never_answers_is_as_good_as_none() {
    let pair = pair();
    let alice = Program::of(&pair.ours);
    pair.alice.network.script(Call::Locks, 0, u32::MAX, Fault::Hang);
    let start = Instant::now();
    assert!(alice.lock(ALL), "among the programs of this machine");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert!(pair.ours.known_locks().local_only);
    pair.alice.network.behave();
    eventually("the lock is everybody's again", || !pair.ours.known_locks().local_only);
    assert!(!Program::of(&pair.theirs).try_lock(ALL));
}

#[test]
fn a_viewer_keeps_writers_out_as_a_reader_and_other_readers_not_at_all() {
    let pair = pair();
    pair.alice.session().set_role(&pair.ours, pair.bob.id, Role::Viewer, None).unwrap();
    eventually("bob only reads", || pair.theirs.role() == Some(Role::Viewer));
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    assert!(bob.lock(ALL));
    assert!(!alice.try_lock(range(0, 9)));
    assert!(alice.lock(LockSpan { exclusive: false, ..range(0, 9) }));
    bob.unlock();
    alice.unlock();
    assert!(alice.lock(ALL));
    assert!(!bob.try_lock(ALL));
}

#[test]
fn a_writer_among_readers_who_come_and_go_has_its_turn() {
    let pair = pair();
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    let shared = |start, end| LockSpan { exclusive: false, ..range(start, end) };
    assert!(alice.lock(shared(0, 9)));
    let writer = std::thread::spawn(move || (bob.lock(range(0, 9)), bob));
    // Two readers at one machine who overlap, so that something is always held there.
    let start = Instant::now();
    let mut refused = false;
    while !writer.is_finished() && start.elapsed() < PATIENCE {
        // The next reader comes before this one goes, as a newcomer.
        let held: LockSet = [shared(0, 9)].into_iter().collect();
        refused |= pair.ours.claim_lock(&FILE, &held, true) == Agreed::NotYet;
        if refused {
            alice.unlock();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let (had, _bob) = writer.join().unwrap();
    assert!(had && refused);
}

#[test]
fn a_rotation_while_locks_are_held_changes_nothing_about_them() {
    let pair = pair();
    let (alice, bob) = (Program::of(&pair.ours), Program::of(&pair.theirs));
    assert!(bob.lock(range(0, 9)));
    assert!(alice.lock(range(20, 29)));
    for _ in 0..2 {
        pair.alice.session().rotate(&pair.ours).unwrap();
        assert!(!alice.try_lock(range(5, 5)));
        assert!(!bob.try_lock(range(25, 25)));
    }
    let shown = pair.ours.locks_blocking(PATIENCE);
    assert_eq!(shown.locks.len(), 2, "{shown:?}");
    assert!(
        shown.locks.iter().any(|lock| lock.holder == "bob's laptop" && lock.held.covers(&range(0, 9))),
        "{shown:?}"
    );
    bob.unlock();
    assert!(alice.lock(range(0, 9)));
}
