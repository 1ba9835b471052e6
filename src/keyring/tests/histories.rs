//! Random histories of membership: invariants that hold whatever people do, in whatever order, allowed or not.

use proptest::prelude::*;

use super::*;

const PEOPLE: usize = 5;

/// One step: who acts, on whom, and what.
#[derive(Clone, Debug)]
struct Step {
    actor: usize,
    target: usize,
    what: u8,
    role: Role,
    later_ms: i64,
    stale: bool,
}

fn step() -> impl Strategy<Value = Step> {
    use Role::*;
    let role = prop::sample::select(vec![GuestViewer, GuestEditor, Viewer, Editor, Admin, Owner]);
    let parts = (0..PEOPLE, 0..PEOPLE, 0u8..7, role, 0..500i64, prop::bool::weighted(0.1));
    parts.prop_map(|(actor, target, what, role, later_ms, stale)| Step { actor, target, what, role, later_ms, stale })
}

/// The entry of a step, with hollow epochs: verification does not open them.
fn entry(folder: &Folder, world: &World, people: &[Identity], step: &Step) -> SignedEntry {
    let (actor, target) = (&people[step.actor], &people[step.target]);
    let count = folder.state.members().len();
    let next = |boxes| Some(hollow_epoch(folder.state.epoch() + 1, boxes));
    let expires_ms = (step.role < Role::Viewer).then_some(folder.now + 300);
    let account = target.account;
    let (change, new_epoch) = match step.what {
        0 | 1 => {
            let full = step.what == 0 && expires_ms.is_none();
            let grant = full.then_some(BoxGrant { epoch: folder.state.epoch(), leaf: [0; 32] });
            let account_head = world.head(target);
            let change = MembershipChange::Add { account, account_head, role: step.role, expires_ms, grant };
            (change, if full { None } else { next(count + 1) })
        }
        2 if step.actor == step.target => (MembershipChange::Remove { account }, None),
        2 => (MembershipChange::Remove { account }, next(count - 1)),
        3 => (MembershipChange::SetRole { account, role: step.role, expires_ms }, None),
        4 => (MembershipChange::Rotate, next(count)),
        5 => (MembershipChange::AccountSync { account, head: world.head(target) }, None),
        _ => {
            return folder
                .forged(world, actor, |envelope| envelope.epoch -= u32::from(step.stale && envelope.epoch > 0));
        }
    };
    let mut position = folder.position(world, actor);
    if step.stale {
        position.observed = Head::EMPTY;
    }
    Author::new(actor).membership(&position, &Membership { change, new_epoch })
}

/// A state's standing, without its head.
fn standing(state: &FolderState) -> (Vec<(AccountId, Member)>, Vec<Epoch>) {
    (state.members().iter().map(|(account, member)| (*account, member.clone())).collect(), state.epochs().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_people_do_the_invariants_hold(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::default();
        let people: Vec<_> = (0..PEOPLE).map(|i| world.person("someone", i as u8 + 1)).collect();
        let mut folder = Folder::create(&world, &people[0]);
        for step in &steps {
            folder.now += step.later_ms;
            let made = entry(&folder, &world, &people, step);
            let before = folder.state.clone();
            let checked = folder.state.check(&made, &world, &folder.chains);
            prop_assert_eq!(&folder.state, &before, "check changes nothing");
            let Ok(advanced) = checked else {
                let account = people[step.actor].account;
                prop_assert_eq!(checked, Err(Misbehaviour::Stranger(account)));
                prop_assert!(!before.members().contains_key(&account) && before.account_head(&account).is_none());
                continue;
            };
            let verdict = folder.push(&world, made);
            prop_assert_eq!(&verdict, &advanced.verdict);
            let after = &folder.state;
            prop_assert_eq!(after.head().seq, before.head().seq + 1);
            prop_assert_eq!(after.author(&people[step.actor].device_id()).counter,
                before.author(&people[step.actor].device_id()).counter + 1);
            prop_assert!(after.members().values().any(|member| member.role == Role::Owner), "an owner is left");
            prop_assert_eq!(after.epoch() as usize + 1, after.epochs().len());
            if after.epoch() > before.epoch() {
                prop_assert!(!after.rotation_due());
            } else {
                prop_assert!(after.rotation_due() >= before.rotation_due(), "only a new epoch ends the need for one");
            }
            if !matches!(verdict, Verdict::Membership(_)) {
                prop_assert_eq!(standing(after), standing(&before), "{:?} changes nothing", verdict);
            }
            if !advanced.standing_changed {
                // What is stored of the state before still serves, with head and authors moved on.
                let authors = after.authors().map(|(device, state)| (*device, *state)).collect();
                prop_assert_eq!(&FolderState::from_bytes(&before.to_bytes(), after.head(), authors).unwrap(), after);
            }
            for member in after.members().values() {
                prop_assert_eq!(member.expires_ms.is_some(), member.role < Role::Viewer, "guests and only they expire");
                prop_assert!(member.history || !member.role.administers(), "who administers has history");
            }
        }
        // Everyone who replays the log comes to the same state, to the byte.
        let mut replayed = FolderState::new(folder.state.db());
        for entry in &folder.entries {
            replayed.advance(entry, &world, &folder.chains).unwrap();
        }
        prop_assert_eq!(replayed.to_bytes(), folder.state.to_bytes());
        prop_assert_eq!(&replayed, &folder.state);
        let authors = replayed.authors().map(|(device, state)| (*device, *state)).collect();
        let restored = FolderState::from_bytes(&replayed.to_bytes(), replayed.head(), authors).unwrap();
        prop_assert_eq!(restored, replayed);
    }
}

#[test]
fn stored_states_that_do_not_fit_are_refused() {
    let Team { folder, .. } = team();
    let (bytes, head) = (folder.state.to_bytes(), folder.state.head());
    let restore = |bytes: &[u8], head| FolderState::from_bytes(bytes, head, Default::default()).is_ok();
    assert!(restore(&bytes, head) && restore(&bytes, Head { seq: 9, ..head }));
    assert!(!restore(&bytes, Head { seq: 1, ..head }), "an older head");
    assert!(!restore(&bytes, Head { chain: ChainHash::ZERO, ..head }), "another log of the same length");
    assert!(!restore(&bytes[..bytes.len() - 1], head));
    let mut newer = bytes;
    newer[1] = 3;
    assert!(!restore(&newer, head));
}
