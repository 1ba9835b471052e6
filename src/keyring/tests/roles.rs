//! Who may do what to whom, exhaustively: every actor's role, every change, every target's role, as one table.

use super::*;

const ROLES: [Role; 6] = [Role::GuestViewer, Role::GuestEditor, Role::Viewer, Role::Editor, Role::Admin, Role::Owner];

/// A folder with an actor and a target of every role (and an owner besides).
struct Cast {
    world: World,
    folder: Folder,
    actors: Vec<Identity>,
    targets: Vec<Identity>,
    stranger: Identity,
}

fn expiry(role: Role) -> Option<i64> {
    (role < Role::Viewer).then_some(NOON + 1000)
}

fn cast() -> Cast {
    let mut world = World::default();
    let owner = world.person("founder", 100);
    let mut folder = Folder::create(&world, &owner);
    let mut of_every_role = |first: u8| -> Vec<Identity> {
        let people = ROLES.iter().zip(first..).map(|(role, seed)| {
            let who = world.person("member", seed);
            let verdict = folder.add_until(&world, &owner, &who, *role, expiry(*role));
            assert!(matches!(verdict, Verdict::Membership(_)));
            who
        });
        people.collect()
    };
    let (actors, targets) = (of_every_role(1), of_every_role(20));
    let stranger = world.person("stranger", 50);
    Cast { world, folder, actors, targets, stranger }
}

impl Cast {
    fn may(&self, actor: &Identity, change: MembershipChange, new_epoch: Option<NewEpoch>) -> char {
        let entry = self.folder.membership(&self.world, actor, change, new_epoch);
        match self.folder.check(&self.world, &entry).unwrap() {
            Verdict::Membership(_) => 'y',
            Verdict::Ignored(Reason::Role) => '-',
            Verdict::Ignored(Reason::BadChange) => 'x',
            other => panic!("{other:?}"),
        }
    }

    /// One row of the table: for each target role, in the order of [`ROLES`].
    fn row(&self, cell: impl Fn(usize) -> char) -> String {
        (0..ROLES.len()).map(cell).collect()
    }
}

#[test]
fn the_table_of_roles_holds_exhaustively() {
    let cast = cast();
    let (present, epoch) = (cast.folder.state.members().len(), cast.folder.state.epoch());
    // Columns: guest viewer, guest editor, viewer, editor, admin, owner.
    let managed = ["------", "------", "------", "------", "yyyy--", "yyyyyy"];
    for (actor, managed) in cast.actors.iter().zip(managed) {
        let add = |to: usize| {
            let change = MembershipChange::Add {
                account: cast.stranger.account,
                account_head: cast.world.head(&cast.stranger),
                role: ROLES[to],
                expires_ms: expiry(ROLES[to]),
                grant: expiry(ROLES[to]).is_none().then_some(BoxGrant { epoch, leaf: [0; 32] }),
            };
            cast.may(actor, change, expiry(ROLES[to]).map(|_| hollow_epoch(epoch + 1, present + 1)))
        };
        assert_eq!(cast.row(add), managed, "add as");
        let remove = |target: usize| {
            let change = MembershipChange::Remove { account: cast.targets[target].account };
            cast.may(actor, change, Some(hollow_epoch(epoch + 1, present - 1)))
        };
        assert_eq!(cast.row(remove), managed, "remove");
        for (from, old) in ROLES.iter().enumerate() {
            let set = |to: usize| {
                let account = cast.targets[from].account;
                cast.may(
                    actor,
                    MembershipChange::SetRole { account, role: ROLES[to], expires_ms: expiry(ROLES[to]) },
                    None,
                )
            };
            // Both the old role and the new one must be among the managed.
            let both = if managed.as_bytes()[from] == b'y' { managed } else { "------" };
            // Guests have no history, so they cannot come to administer.
            let expected = if from < 2 { both.replace("yyyyyy", "yyyyxx") } else { both.to_owned() };
            assert_eq!(cast.row(set), expected, "from {old:?} to");
        }
    }
    let rotate =
        |actor: usize| cast.may(&cast.actors[actor], MembershipChange::Rotate, Some(hollow_epoch(epoch + 1, present)));
    assert_eq!(cast.row(rotate), "----yy", "rotate");
    let leave = |actor: usize| {
        let actor = &cast.actors[actor];
        cast.may(actor, MembershipChange::Remove { account: actor.account }, None)
    };
    assert_eq!(cast.row(leave), "yyyyyy", "leave");
    // Nobody raises himself; an owner may step down, with another owner there.
    for (actor, from) in cast.actors.iter().zip(ROLES) {
        let own = |to: usize| {
            let (account, role) = (actor.account, ROLES[to]);
            cast.may(actor, MembershipChange::SetRole { account, role, expires_ms: expiry(role) }, None)
        };
        assert_eq!(cast.row(own), if from == Role::Owner { "yyyyyy" } else { "------" }, "{from:?} to");
    }
    let write = |actor: usize| {
        let entry = cast.folder.batch(&cast.world, &cast.actors[actor]);
        match cast.folder.check(&cast.world, &entry).unwrap() {
            Verdict::Batch => 'y',
            Verdict::Ignored(Reason::Role) => '-',
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(cast.row(write), "-y-yyy", "write");
}

#[test]
fn everybody_syncs_the_own_account_and_nobody_another() {
    let mut cast = cast();
    for seed in 0..ROLES.len() {
        let actor = &cast.actors[seed];
        cast.world.add_device(actor, 150 + seed as u8);
    }
    cast.world.add_device(&cast.targets[0], 180);
    let cast = cast;
    let sync = |who: &Identity| MembershipChange::AccountSync { account: who.account, head: cast.world.head(who) };
    for actor in &cast.actors {
        assert_eq!(cast.may(actor, sync(actor), None), 'y');
        let other = cast.folder.membership(&cast.world, actor, sync(&cast.targets[0]), None);
        assert_eq!(cast.folder.check(&cast.world, &other), Ok(Verdict::Ignored(Reason::BadChange)));
    }
}
