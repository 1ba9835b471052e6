//! The table of leases, at chosen times.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::table::{Caller, Table, Told, Who};
use crate::api::{ErrorCode, LockAsk, LockCall, LockGrant, LockHolder, LockResult, LockWant, LockedFile, WantResult};
use crate::format::{AccountId, DbId, DeviceId, LockSet, LockSpace, LockSpan, LockToken};
use crate::sys::clock;

const LEASE: Duration = Duration::from_secs(10);
const DB: DbId = DbId([9; 32]);
const A: Who = (AccountId([1; 32]), DeviceId([1; 32]));
const B: Who = (AccountId([2; 32]), DeviceId([2; 32]));
const C: Who = (AccountId([3; 32]), DeviceId([3; 32]));
const FILE: LockToken = LockToken([7; 16]);

/// A table with a clock in the hand.
struct World {
    table: Table,
    now: Instant,
    epoch: u32,
    told: Told,
    writes: bool,
}

fn exclusive(start: u64, end: u64) -> LockSpan {
    LockSpan { space: LockSpace::Posix, start, end, exclusive: true }
}

fn shared(start: u64, end: u64) -> LockSpan {
    LockSpan { exclusive: false, ..exclusive(start, end) }
}

fn of(spans: &[LockSpan]) -> LockSet {
    spans.iter().copied().collect()
}

impl World {
    fn new() -> Self {
        Self { table: Table::new(LEASE), now: clock::monotonic(), epoch: 0, told: Told::new(), writes: true }
    }

    fn call(&mut self, who: Who, session: u64, ask: LockAsk) -> Result<LockResult, ErrorCode> {
        let caller = Caller { who, db: DB, epoch: self.epoch, writes: self.writes };
        let call = LockCall { session, epoch: self.epoch, ask };
        let (result, told) = self.table.call(&caller, &call, self.now).map_err(|refused| refused.0.code)?;
        self.told = told;
        Ok(result)
    }

    /// The session's number is the first byte of the account.
    fn begin(&mut self, who: Who, held: &[LockSpan]) -> Vec<LockToken> {
        let files = vec![LockedFile { token: FILE, note: vec![who.0.0[0]], held: of(held) }];
        match self.call(who, who.0.0[0].into(), LockAsk::Begin(files)).unwrap() {
            LockResult::Begun(refused) => refused,
            other => panic!("{other:?}"),
        }
    }

    fn set(&mut self, who: Who, held: &[LockSpan], wants: &[LockSpan]) -> LockGrant {
        match self.try_set(who, of(held), wants, true).unwrap() {
            LockResult::Set(grant) => grant,
            other => panic!("{other:?}"),
        }
    }

    fn try_set(&mut self, who: Who, held: LockSet, wants: &[LockSpan], wait: bool) -> Result<LockResult, ErrorCode> {
        let file = LockedFile { token: FILE, note: vec![who.0.0[0]], held };
        let wants = wants.iter().map(|span| LockWant { span: *span, wait }).collect();
        self.call(who, who.0.0[0].into(), LockAsk::Set(file, wants))
    }

    fn pass(&mut self, time: Duration) -> Told {
        self.now += time;
        self.table.expire(self.now)
    }

    fn list(&mut self) -> Vec<LockHolder> {
        match self.call(C, 0, LockAsk::List).unwrap() {
            LockResult::List(holders) => holders,
            other => panic!("{other:?}"),
        }
    }

    fn was_told(&self, who: Who) -> bool {
        self.told.iter().any(|(told, event)| *told == who && event.token == FILE && event.db == DB)
    }
}

fn results(grant: &LockGrant) -> &[WantResult] {
    &grant.wants
}

const fn taken(who: Who) -> WantResult {
    WantResult::Taken(who.0, who.1)
}

#[test]
fn a_file_is_lent_to_the_only_user_asked_back_for_another_and_then_held_in_parts() {
    let mut world = World::new();
    world.begin(A, &[]);
    world.begin(B, &[]);
    let grant = world.set(A, &[], &[exclusive(0, 9)]);
    assert_eq!((grant.lent, results(&grant)), (true, &[WantResult::Granted][..]));
    // Nobody knows which parts the other uses: it is asked, each time.
    for _ in 0..2 {
        let grant = world.set(B, &[], &[exclusive(20, 29)]);
        assert_eq!((grant.lent, results(&grant)), (false, &[WantResult::Later][..]));
        assert!(world.was_told(A));
    }
    let grant = world.set(A, &[exclusive(0, 9), exclusive(40, 49)], &[]);
    assert!(!grant.lent && !grant.contended);
    assert!(world.was_told(B), "it may come");
    let grant = world.set(B, &[], &[exclusive(20, 29), exclusive(9, 9)]);
    assert_eq!((grant.lent, results(&grant)), (false, &[WantResult::Granted, taken(A)][..]));
    let grant = world.set(A, &[exclusive(0, 9)], &[]);
    assert!(grant.contended);
    world.set(A, &[], &[]);
    assert!(world.was_told(B));
    let grant = world.set(B, &[exclusive(20, 29)], &[exclusive(9, 9)]);
    assert_eq!((grant.lent, results(&grant)), (true, &[WantResult::Granted][..]), "alone again");
}

#[test]
fn who_waits_is_served_in_order_and_a_waiting_writer_is_not_starved() {
    let mut world = World::new();
    [A, B, C].into_iter().for_each(|who| drop(world.begin(who, &[])));
    world.set(A, &[], &[shared(0, 9)]);
    world.set(B, &[], &[exclusive(0, 9)]);
    world.set(A, &[shared(0, 9)], &[]);
    // A reader could join the reader, but the writer was first.
    let grant = world.set(C, &[], &[shared(0, 9)]);
    assert_eq!(results(&grant), [taken(B)]);
    // Who holds something may be the one that is waited for.
    let grant = world.set(A, &[shared(0, 9)], &[shared(5, 15)]);
    assert_eq!(results(&grant), [WantResult::Granted]);
    world.set(A, &[], &[]);
    assert!(world.was_told(B) && !world.was_told(C));
    let grant = world.set(A, &[], &[shared(0, 9)]);
    assert_eq!(results(&grant), [taken(B)], "to the end of the queue");
    assert_eq!(results(&world.set(B, &[], &[exclusive(0, 9)])), [WantResult::Granted]);
    world.set(B, &[], &[]);
    assert!(world.was_told(C) && world.was_told(A));
}

#[test]
fn who_does_not_come_for_its_turn_loses_it_and_who_only_tries_is_not_queued() {
    let mut world = World::new();
    [A, B, C].into_iter().for_each(|who| drop(world.begin(who, &[])));
    world.set(A, &[], &[exclusive(0, 9)]);
    world.try_set(C, LockSet::default(), &[exclusive(0, 9)], false).unwrap();
    world.set(A, &[exclusive(0, 9)], &[]);
    let refused = world.try_set(C, LockSet::default(), &[exclusive(0, 9)], false).unwrap();
    assert_eq!(refused, LockResult::Set(LockGrant { lent: false, contended: false, wants: vec![taken(A)] }));
    world.set(B, &[], &[exclusive(0, 9)]);
    world.set(A, &[], &[]);
    assert!(world.was_told(B) && !world.was_told(C));
    assert_eq!(results(&world.set(C, &[], &[exclusive(0, 9)])), [taken(B)]);
    let told = world.pass(Duration::from_secs(3));
    assert!(told.iter().any(|(who, _)| *who == C), "B's turn is over");
    assert_eq!(results(&world.set(C, &[], &[exclusive(0, 9)])), [WantResult::Granted]);
}

#[test]
fn what_is_not_renewed_is_free_after_a_lease_and_what_is_not_given_back_too() {
    let mut world = World::new();
    world.begin(A, &[]);
    world.begin(B, &[]);
    world.set(A, &[], &[exclusive(0, 9)]);
    for _ in 0..5 {
        world.pass(LEASE / 2);
        assert_eq!(world.call(A, 1, LockAsk::Renew), Ok(LockResult::Done));
        world.call(B, 2, LockAsk::Renew).unwrap();
    }
    world.set(B, &[], &[exclusive(0, 9)]);
    // It renews, but it does not answer.
    world.pass(LEASE / 2);
    world.call(A, 1, LockAsk::Renew).unwrap();
    world.call(B, 2, LockAsk::Renew).unwrap();
    assert!(world.pass(LEASE / 2).iter().any(|(who, _)| *who == B));
    assert_eq!(results(&world.set(B, &[], &[exclusive(0, 9)])), [WantResult::Granted]);
    // What it believes to hold it can neither keep nor extend; it begins anew and is told.
    assert_eq!(world.try_set(A, of(&[exclusive(0, 9)]), &[], true), Ok(LockResult::Stale));
    assert_eq!(world.begin(A, &[exclusive(0, 9)]), [FILE]);
    // Silence ends everything.
    world.pass(LEASE);
    assert!(world.list().is_empty());
    assert_eq!(world.call(B, 2, LockAsk::Renew), Ok(LockResult::Stale));
    world.pass(LEASE);
    assert!(world.table.is_idle());
}

#[test]
fn a_call_of_an_earlier_session_changes_nothing() {
    let mut world = World::new();
    world.begin(A, &[]);
    world.set(A, &[], &[exclusive(0, 9)]);
    let again = vec![LockedFile { token: FILE, note: vec![], held: LockSet::default() }];
    world.call(A, 77, LockAsk::Begin(again)).unwrap();
    assert!(world.list().is_empty(), "what was held before the session began is gone");
    assert_eq!(world.try_set(A, LockSet::default(), &[exclusive(0, 9)], true), Ok(LockResult::Stale));
    assert!(world.list().is_empty());
}

#[test]
fn after_a_restart_and_in_a_new_epoch_locks_are_carried_over_before_others_are_granted() {
    let mut world = World::new();
    world.table.await_holders(DB, 0, [A, B], world.now + LEASE);
    world.begin(C, &[]);
    assert_eq!(results(&world.set(C, &[], &[shared(0, 9)])), [WantResult::Later]);
    assert!(world.begin(A, &[exclusive(0, 9)]).is_empty());
    assert_eq!(results(&world.set(C, &[], &[shared(20, 29)])), [WantResult::Later], "B may come");
    world.begin(B, &[]);
    assert!(world.was_told(C));
    assert_eq!(results(&world.set(C, &[], &[shared(0, 9), shared(20, 29)])), [taken(A), WantResult::Granted]);

    world.epoch = 1;
    let told = world.table.begin_epoch(&DB, 1, world.now);
    assert_eq!(told.len(), 2, "those who hold or want something: {told:?}");
    let caller = Caller { who: A, db: DB, epoch: 1, writes: true };
    let old = LockCall { session: 1, epoch: 0, ask: LockAsk::Renew };
    let refused = world.table.call(&caller, &old, world.now).unwrap_err();
    assert_eq!(refused.0.code, ErrorCode::StaleEpoch);
    world.begin(B, &[]);
    assert_eq!(results(&world.set(B, &[], &[exclusive(0, 9)])), [WantResult::Later]);
    world.begin(C, &[shared(20, 29)]);
    assert!(world.begin(A, &[exclusive(0, 9)]).is_empty());
    assert_eq!(results(&world.set(B, &[], &[exclusive(0, 9)])), [taken(A)]);
    // Who does not come is not waited for longer than a lease.
    world.epoch = 2;
    world.table.begin_epoch(&DB, 2, world.now);
    world.begin(B, &[]);
    assert_eq!(results(&world.set(B, &[], &[exclusive(0, 9)])), [WantResult::Later]);
    world.pass(LEASE - Duration::from_millis(1));
    world.call(B, 2, LockAsk::Renew).unwrap();
    assert!(world.pass(Duration::from_millis(1)).iter().any(|(who, _)| *who == B));
    assert_eq!(results(&world.set(B, &[], &[exclusive(0, 9)])), [WantResult::Granted]);
}

#[test]
fn a_call_that_was_on_its_way_when_an_epoch_began_does_not_bring_the_earlier_one_back() {
    let mut world = World::new();
    world.begin(A, &[]);
    world.set(A, &[], &[exclusive(0, 9)]);
    world.table.begin_epoch(&DB, 1, world.now);
    // Both the server's look at the folder and the call are from before.
    assert_eq!(world.call(B, 2, LockAsk::Begin(vec![])), Err(ErrorCode::StaleEpoch));
    world.table.begin_epoch(&DB, 0, world.now);
    world.epoch = 1;
    assert!(world.begin(A, &[exclusive(0, 9)]).is_empty());
    world.begin(B, &[]);
    assert_eq!(results(&world.set(B, &[], &[exclusive(0, 9)])), [taken(A)]);
}

#[test]
fn a_removed_members_locks_are_free_at_once() {
    let mut world = World::new();
    world.begin(A, &[]);
    world.begin(B, &[]);
    world.set(A, &[], &[exclusive(0, 9)]);
    world.set(B, &[], &[exclusive(0, 9)]);
    let told = world.table.remove_member(&DB, &A.0, world.now);
    assert!(told.iter().any(|(who, _)| *who == B));
    assert_eq!(results(&world.set(B, &[], &[exclusive(0, 9)])), [WantResult::Granted]);
}

#[test]
fn who_only_reads_holds_nothing_exclusively_and_is_lent_nothing() {
    let mut world = World::new();
    world.writes = false;
    world.begin(A, &[]);
    assert_eq!(world.try_set(A, LockSet::default(), &[exclusive(0, 9)], true), Err(ErrorCode::Role));
    assert_eq!(world.try_set(A, of(&[exclusive(0, 9)]), &[], true), Err(ErrorCode::Role));
    let grant = world.set(A, &[], &[shared(0, 9)]);
    assert_eq!((grant.lent, results(&grant)), (false, &[WantResult::Granted][..]));
}

#[test]
fn what_one_device_can_have_is_bounded() {
    let mut world = World::new();
    world.begin(A, &[]);
    let many: Vec<_> = (0..300).map(|n| exclusive(2 * n, 2 * n)).collect();
    assert_eq!(world.try_set(A, LockSet::default(), &many[..33], true), Err(ErrorCode::TooLarge));
    let mut held = LockSet::default();
    let mut refused = false;
    for span in many {
        match world.try_set(A, held.clone(), &[span], true) {
            Ok(_) => held.join(span),
            Err(code) => {
                assert_eq!(code, ErrorCode::TooLarge);
                refused = true;
                break;
            }
        }
    }
    assert!(refused && held.len() == 256, "{}", held.len());
    let file = |n: u32| LockedFile { token: token(n), note: vec![], held: of(&[exclusive(0, 0)]) };
    let files = |count| LockAsk::Begin((0..count).map(file).collect());
    assert_eq!(world.call(A, 1, files(1025)), Err(ErrorCode::TooLarge));
    assert!(world.call(A, 1, files(1024)).is_ok());
    let one_more = LockAsk::Set(LockedFile { held: LockSet::default(), ..file(5000) }, vec![]);
    assert_eq!(world.call(A, 1, one_more), Err(ErrorCode::TooLarge));
    let long = LockAsk::Set(LockedFile { note: vec![0; 65], ..file(0) }, vec![]);
    assert_eq!(world.call(A, 1, long), Err(ErrorCode::TooLarge));
}

fn token(n: u32) -> LockToken {
    let mut token = LockToken::ZERO;
    token.0[..4].copy_from_slice(&n.to_be_bytes());
    token
}

#[derive(Clone, Debug)]
enum Step {
    Want(usize, LockSpan),
    Release(usize, LockSpan),
    Begin(usize),
    End(usize),
    Pass(u64),
    Epoch,
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let span = || {
        (0..8u64, 0..8u64, any::<bool>())
            .prop_map(|(a, b, writer)| LockSpan { exclusive: writer, ..exclusive(a.min(b), a.max(b)) })
    };
    prop_oneof![
        8 => (0..3usize, span()).prop_map(|(who, span)| Step::Want(who, span)),
        5 => (0..3usize, span()).prop_map(|(who, span)| Step::Release(who, span)),
        1 => (0..3usize).prop_map(Step::Begin),
        1 => (0..3usize).prop_map(Step::End),
        2 => (1..8u64).prop_map(Step::Pass),
        1 => Just(Step::Epoch),
        1 => (0..3usize).prop_map(Step::Remove),
    ]
}

/// What a device believes, as a well-behaved client does.
#[derive(Default)]
struct Client {
    open: bool,
    held: LockSet,
    lent: bool,
    heard: Option<Instant>,
}

proptest! {
    /// However devices call and time passes: no two of those whose lease runs believe to hold what conflicts.
    #[test]
    fn no_two_devices_are_given_what_conflicts(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        let whos = [A, B, C];
        let mut clients: [Client; 3] = Default::default();
        for step in steps {
            match step {
                Step::Want(who, span) if clients[who].open => {
                    let held = clients[who].held.clone();
                    match world.try_set(whos[who], held, &[span], true) {
                        Ok(LockResult::Set(grant)) => {
                            let client = &mut clients[who];
                            client.heard = Some(world.now);
                            client.lent = grant.lent;
                            if grant.wants == [WantResult::Granted] {
                                client.held.join(span);
                            }
                        }
                        _ => clients[who].open = false,
                    }
                }
                Step::Release(who, span) if clients[who].open => {
                    let mut held = clients[who].held.clone();
                    held.remove(span.space, span.start, span.end);
                    match world.try_set(whos[who], held.clone(), &[], true) {
                        Ok(LockResult::Set(grant)) => {
                            clients[who] = Client { open: true, held, lent: grant.lent, heard: Some(world.now) };
                        }
                        _ => clients[who].open = false,
                    }
                }
                Step::Want(who, _) | Step::Release(who, _) | Step::Begin(who) => {
                    let held: Vec<_> = clients[who].held.spans().to_vec();
                    let refused = world.begin(whos[who], &held);
                    let client = &mut clients[who];
                    (client.open, client.lent, client.heard) = (true, false, Some(world.now));
                    if !refused.is_empty() {
                        client.held = LockSet::default();
                    }
                }
                Step::End(who) if clients[who].open => {
                    world.call(whos[who], whos[who].0.0[0].into(), LockAsk::End).unwrap();
                    clients[who] = Client::default();
                }
                Step::End(_) => {}
                Step::Pass(seconds) => drop(world.pass(Duration::from_secs(seconds))),
                Step::Epoch => {
                    world.epoch += 1;
                    world.table.begin_epoch(&DB, world.epoch, world.now);
                    clients.iter_mut().for_each(|client| client.open = false);
                }
                Step::Remove(who) => {
                    world.table.remove_member(&DB, &whos[who].0, world.now);
                    clients[who] = Client::default();
                }
            }
            for client in &mut clients {
                // A lease is over for its holder before it is over for the server. What was lent and not given back in
                // time is taken back while the lease is renewed, so only what was given in parts is as sure as that.
                if client.heard.is_some_and(|at| world.now >= at + LEASE) {
                    *client = Client::default();
                }
            }
            for one in 0..3 {
                for other in 0..one {
                    let (one, other) = (&clients[one].held, &clients[other].held);
                    let clash = one.spans().iter().find(|span| other.conflict(span).is_some());
                    prop_assert!(clash.is_none(), "{clash:?} is held by two");
                }
            }
            let listed = world.list();
            prop_assert!(listed.iter().filter(|holder| holder.lent).count() <= 1);
            prop_assert!(!listed.iter().any(|holder| holder.lent) || listed.iter().filter(|one| !one.file.held.is_empty()).count() == 1);
        }
        world.pass(LEASE);
        world.pass(LEASE);
        prop_assert!(world.table.is_idle(), "nothing stays for ever");
    }
}
