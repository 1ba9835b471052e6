//! What a device gives its programs, with the time in hand.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::names::Names;
use super::state::{Agreed, Link, State};
use crate::api::{LockGrant, WantResult};
use crate::crypto::Key;
use crate::format::{DbId, KegId, LOCK_END, LockSet, LockSpace, LockSpan};
use crate::sys::clock::Boottime;

const FILE: KegId = KegId([7; 16]);
const SESSION: u64 = 1;
const LEASE: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> Boottime {
    Boottime::START + Duration::from_secs(1_000 + seconds)
}

fn names() -> Names {
    Names::new(DbId([1; 32]), 0, &Key::from_bytes([2; 32]))
}

fn whole() -> LockSpan {
    LockSpan { space: LockSpace::Flock, start: 0, end: LOCK_END, exclusive: true }
}

fn exclusive() -> LockSet {
    [whole()].into_iter().collect()
}

/// A device that began at 0 and was told by the answer to a call made then: `lent`, or only what it asked for.
fn device(lent: bool) -> State {
    let (mut state, nothing) = (State::new(at(0)), LockSet::default());
    state.lease = LEASE;
    assert_eq!(state.claim(&FILE, &exclusive(), true, at(0)), Agreed::Unknown);
    state.want(&FILE, &nothing, &[(whole(), true)], at(0));
    assert!(state.plan(at(0)).begin);
    state.begin(&names());
    assert!(state.begun(SESSION, 0, &[], at(0)).is_empty());
    assert_eq!(state.plan(at(0)).files, [FILE]);
    let (_, wants) = state.call(&FILE, &names(), SESSION, at(0)).unwrap();
    state.answered_at(at(0));
    let grant = LockGrant { lent, contended: false, wants: vec![WantResult::Granted] };
    assert!(state.granted(&FILE, SESSION, &wants, &grant).is_empty());
    state.done(&FILE);
    state
}

/// A program takes the lock and lets it go.
fn locks(state: &mut State, now: Boottime) {
    assert_eq!(state.claim(&FILE, &exclusive(), true, now), Agreed::Yes);
    state.want(&FILE, &LockSet::default(), &[], now);
}

#[test]
fn what_is_lent_is_given_to_programs_until_the_lease_is_over_and_no_longer() {
    let mut state = device(true);
    locks(&mut state, at(0));
    locks(&mut state, at(9));
    // Nothing was done in between: the process was stopped, or the machine suspended.
    assert_eq!(state.claim(&FILE, &exclusive(), true, at(10)), Agreed::Unknown);
    assert!(!state.decides(&FILE, &whole(), at(10)));
    assert!(state.want(&FILE, &LockSet::default(), &[(whole(), true)], at(10)), "the server is asked");
    let plan = state.plan(at(10));
    assert!(plan.renew && plan.files == [FILE]);
    // It knows nothing of this session any more.
    state.session_ended(SESSION, false, at(10));
    state.done(&FILE);
    assert!(state.plan(at(10)).begin);
    // It is told that something may have been written here; another member has it by now.
    assert_eq!(state.begin(&names()).len(), 1);
    assert_eq!(state.claim(&FILE, &exclusive(), true, at(10)), Agreed::Unknown);
    let refused = [names().token(&FILE)];
    assert!(state.begun(SESSION + 1, 0, &refused, at(10)).is_empty(), "nothing was held that could be broken");
    assert_eq!(state.link, Link::Here(SESSION + 1));
    assert_eq!(state.claim(&FILE, &exclusive(), true, at(10)), Agreed::Unknown);
}

#[test]
fn what_was_agreed_is_given_to_programs_until_the_lease_is_over_and_no_longer() {
    let mut state = device(false);
    assert_eq!(state.claim(&FILE, &exclusive(), true, at(10)), Agreed::Unknown);
    assert_eq!(state.claim(&FILE, &exclusive(), true, at(9)), Agreed::Yes);
    // What is held is held: programs have no way of being told.
    assert_eq!(state.claim(&FILE, &exclusive(), false, at(60)), Agreed::Yes);
}

#[test]
fn an_answer_lengthens_the_lease_from_when_it_was_asked_for() {
    let mut state = device(true);
    locks(&mut state, at(5));
    state.answered_at(at(5));
    locks(&mut state, at(14));
    assert_eq!(state.claim(&FILE, &exclusive(), true, at(15)), Agreed::Unknown);
}

#[test]
fn without_a_server_programs_lock_among_themselves_after_the_lease() {
    let mut state = device(true);
    state.session_ended(SESSION, true, at(8));
    locks(&mut state, at(9));
    state.no_session(true, at(9), at(20));
    assert!(state.plan(at(9)).alone.is_empty());
    assert_eq!(state.claim(&FILE, &exclusive(), true, at(10)), Agreed::Unknown);
    assert_eq!(state.plan(at(10)).alone, [FILE]);
    locks(&mut state, at(10));
}
