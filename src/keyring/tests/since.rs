//! Members who read from an epoch on, and the checkpoints that they begin with.

use super::*;
use crate::format::{BoxGrant, Checkpoint, CheckpointState, KeyBox};

/// A folder in its fourth epoch, and somebody who is no member.
fn scene() -> (Team, Identity) {
    let mut team = team();
    for _ in 0..3 {
        team.folder.rotate(&team.world, &team.alice);
    }
    let carol = team.world.person("carol", 3);
    (team, carol)
}

fn full_ring(folder: &Folder) -> KeyRing {
    let mut ring = KeyRing::default();
    for secrets in &folder.secrets {
        let history = secrets.history.as_ref().map(|key| Key::from_bytes(*key.as_bytes()));
        let content = Key::from_bytes(*secrets.content.as_bytes());
        ring.insert(EpochSecrets { epoch: secrets.epoch, content, history });
    }
    ring
}

fn granted(team: &Team, who: &Identity, first: u32) -> (BoxGrant, KeyBox, Vec<u8>) {
    let (generation, key) = team.world.logs[&who.account].user_key().unwrap();
    grant_since(&full_ring(&team.folder), team.folder.start(), first, who.account, generation, &key).unwrap()
}

fn change(team: &Team, who: &Identity, role: Role, first: u32, grant: BoxGrant, epochs: Vec<u8>) -> MembershipChange {
    MembershipChange::AddSince { account: who.account, account_head: team.world.head(who), role, first, grant, epochs }
}

fn open(team: &Team, who: &Identity, first: u32, sealed: &KeyBox, epochs: &[u8]) -> Result<KeyRing, KeyRingError> {
    let mut ring = KeyRing::default();
    let key = who.user_keys[&sealed.generation].kem_secret();
    ring.open_since(team.folder.start(), first, sealed, epochs, &key, team.folder.state.epochs())?;
    Ok(ring)
}

#[test]
fn a_grant_from_an_epoch_on_opens_that_and_what_follows_and_nothing_before() {
    let (mut team, carol) = scene();
    for first in 0..=3 {
        let (_, sealed, epochs) = granted(&team, &carol, first);
        let ring = open(&team, &carol, first, &sealed, &epochs).unwrap();
        for epoch in 0..=3 {
            assert_eq!(ring.epoch(epoch).is_ok(), epoch >= first);
            assert!(ring.epoch(epoch).is_err() || ring.epoch(epoch).unwrap().history.is_none());
        }
    }
    let (grant, sealed, epochs) = granted(&team, &carol, 2);
    let entry =
        team.folder.membership(&team.world, &team.alice, change(&team, &carol, Role::Editor, 2, grant, epochs), None);
    assert!(matches!(team.folder.push(&team.world, entry), Verdict::Membership(_)));
    let member = &team.folder.state.members()[&carol.account];
    assert_eq!((member.history, member.since), (false, Some(2)));
    let restored = FolderState::from_bytes(&team.folder.state.to_bytes(), team.folder.state.head(), Default::default());
    assert_eq!(restored.unwrap().members()[&carol.account].since, Some(2));
    // Later epochs bring the content secret only.
    team.folder.rotate(&team.world, &team.alice);
    let key = carol.user_keys[&sealed.generation].kem_secret();
    let mut ring = KeyRing::default();
    ring.open_box(team.folder.start(), team.folder.box_of(&carol), &key, team.folder.state.epochs()).unwrap();
    assert!(ring.epoch(4).unwrap().history.is_none() && ring.epoch(3).is_err());
}

#[test]
fn a_grant_opens_for_its_receiver_epoch_and_secrets_only() {
    let (team, carol) = scene();
    let (_, sealed, epochs) = granted(&team, &carol, 1);
    assert!(open(&team, &carol, 1, &sealed, &epochs).is_ok());
    assert!(open(&team, &carol, 0, &sealed, &epochs).is_err(), "another first epoch");
    assert!(open(&team, &carol, 2, &sealed, &epochs).is_err());
    assert!(open(&team, &team.bob, 1, &sealed, &epochs).is_err(), "another receiver");
    let (_, _, others) = granted(&team, &carol, 1);
    assert!(open(&team, &carol, 1, &sealed, &others).is_err(), "another grant's secrets");
    for at in (0..epochs.len()).step_by(7) {
        let mut flipped = epochs.clone();
        flipped[at] ^= 1;
        assert!(open(&team, &carol, 1, &sealed, &flipped).is_err());
    }
    // Secrets that are not the log's: whoever makes the grant cheats.
    let mut false_ring = full_ring(&team.folder);
    let (_, _, fresh) = new_epoch(None, &[]).unwrap();
    false_ring.insert(EpochSecrets { epoch: 2, ..fresh });
    let (generation, key) = team.world.logs[&carol.account].user_key().unwrap();
    let cheat = grant_since(&false_ring, team.folder.start(), 1, carol.account, generation, &key).unwrap();
    assert!(matches!(open(&team, &carol, 1, &cheat.1, &cheat.2), Err(KeyRingError::Commitment)));
}

#[test]
fn who_may_be_added_from_an_epoch_on_and_by_whom() {
    let (team, carol) = scene();
    let (grant, _, epochs) = granted(&team, &carol, 1);
    let check = |by: &Identity, change: MembershipChange| {
        let entry = team.folder.membership(&team.world, by, change, None);
        team.folder.check(&team.world, &entry).unwrap()
    };
    let with = |role, first, grant: &BoxGrant, epochs: &[u8]| {
        change(&team, &carol, role, first, grant.clone(), epochs.to_vec())
    };
    assert!(matches!(check(&team.alice, with(Role::Viewer, 1, &grant, &epochs)), Verdict::Membership(_)));
    for role in [Role::Admin, Role::Owner, Role::GuestViewer, Role::GuestEditor] {
        assert_eq!(check(&team.alice, with(role, 1, &grant, &epochs)), Verdict::Ignored(Reason::BadChange), "{role:?}");
    }
    let bad = Verdict::Ignored(Reason::BadChange);
    assert_eq!(check(&team.alice, with(Role::Viewer, 2, &grant, &epochs)), bad, "another number of secrets");
    assert_eq!(check(&team.alice, with(Role::Viewer, 4, &grant, &[])), bad, "an epoch to come");
    let stale = BoxGrant { epoch: 2, ..grant.clone() };
    assert_eq!(check(&team.alice, with(Role::Viewer, 1, &stale, &epochs[..72])), bad, "not the current epoch's box");
    let present = change(&team, &team.bob, Role::Viewer, 1, grant.clone(), epochs.clone());
    assert_eq!(check(&team.alice, present), bad, "a member already");
    assert_eq!(check(&team.bob, with(Role::Viewer, 1, &grant, &epochs)), Verdict::Ignored(Reason::Role));
}

#[test]
fn only_who_has_the_history_signs_checkpoints_of_epochs_that_have_begun() {
    let (team, _) = scene();
    let entry = |by: &Identity, epoch: u32| {
        let body = Checkpoint { epoch, state: Some(vec![1]) };
        let entry = Author::new(by).checkpoint(&team.folder.position(&team.world, by), vec![], &body);
        team.folder.check(&team.world, &entry).unwrap()
    };
    for epoch in 0..=3 {
        assert!(matches!(entry(&team.alice, epoch), Verdict::Checkpoint(body) if body.epoch == epoch));
    }
    assert_eq!(entry(&team.alice, 4), Verdict::Ignored(Reason::BadChange));
    assert_eq!(entry(&team.bob, 3), Verdict::Ignored(Reason::Role));
    let mut garbled = Envelope::decode(
        &Author::new(&team.alice)
            .checkpoint(&team.folder.position(&team.world, &team.alice), vec![], &Checkpoint { epoch: 0, state: None })
            .envelope,
    )
    .unwrap();
    garbled.body = vec![0xff];
    assert_eq!(
        team.folder.check(&team.world, &sign(&team.alice, &garbled)).unwrap(),
        Verdict::Ignored(Reason::BadBody)
    );
}

#[test]
fn a_checkpoint_opens_in_its_folder_and_under_its_epoch_only() {
    let (team, _) = scene();
    let (ring, db) = (full_ring(&team.folder), team.folder.state.db());
    let state = CheckpointState { seq: 5, records: 0, pieces: vec![] };
    let sealed = seal_checkpoint(&db, ring.epoch(2).unwrap(), &state);
    assert_eq!(open_checkpoint(&db, 2, &sealed, &ring).unwrap(), state);
    assert!(open_checkpoint(&db, 3, &sealed, &ring).is_err());
    assert!(open_checkpoint(&DbId([1; 32]), 2, &sealed, &ring).is_err());
    assert!(matches!(open_checkpoint(&db, 2, &sealed, &KeyRing::default()), Err(KeyRingError::NoEpoch(2))));
    for at in 0..sealed.len() {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1;
        assert!(open_checkpoint(&db, 2, &flipped, &ring).is_err());
    }
}
