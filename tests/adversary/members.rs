//! Rows 5–11: who may be in the log and who may write what there.

use std::time::Duration;

use kegfs::api::ErrorCode;
use kegfs::crypto::verified;
use kegfs::format::{
    BlobRef, BoxGrant, EntryKind, Envelope, KegId, Membership, MembershipChange, OpKind, Role, SignedEntry, Thinning,
    encode,
};
use kegfs::keg::ROOT_INO;
use kegfs::keyring::{KeyRing, Position, Verdict};
use kegfs::remote::RemoteError;
use kegfs::replica::Happening;
use kegfs::server::Limits;
use kegfs::sync::{Event, FetchError, History, SyncError};
use kegfs::sys::random;

use crate::cast::{Guest, Team, contains};
use crate::cheat::{Shadow, name, wait};
use crate::keys::{revoke, second_device};
use crate::liar::{Asked, Lie, Reply};
use crate::lies::{Append, Blobs, Instead, Log, Refuse, Rollback};
use crate::sync_support::*;

#[test]
fn row_05_ghost_member() {
    // Signed by the ghost in Alice's name, by the ghost's device as if it were Alice's, and by the ghost itself.
    for forgery in 0..3 {
        let team = Team::new();
        let eve = Guest::join(&team.kegd, "eve");
        let mut shadow = Shadow::of(&team.kegd, &team.alice, &team.alice.folder);
        let hers = eve.person.identity();
        let log = shadow.learn(eve.person.id);
        let change = MembershipChange::Add {
            account: eve.person.id,
            account_head: log.head(),
            role: Role::Viewer,
            expires_ms: None,
            grant: Some(BoxGrant { epoch: 0, leaf: [0; 32] }),
        };
        let honest = shadow.membership(change, None);
        shadow.identity = hers;
        let (account, device) = (shadow.identity.account, shadow.identity.device_id());
        let forged = shadow.forged(&honest, |envelope| {
            if forgery >= 1 {
                envelope.device = device;
            }
            if forgery == 2 {
                (envelope.author, envelope.account_head) = (account, log.head());
                (envelope.counter, envelope.previous) = (1, kegfs::format::EntryHash::ZERO);
            }
        });
        team.bob.liar.tell(Append(forged.clone()));
        let why = team.bob.must_freeze();
        let words = ["false signature", "does not have", "never a member"][forgery];
        assert!(why.contains(words), "{why}");
        assert!(contains(&team.bob.proof(), &forged.envelope), "what the server offered is in the proof");
        assert_eq!(team.bob.session().members(&team.bob.folder).len(), 2);
    }
}

#[test]
fn row_06_replay_and_readding() {
    let team = Team::new();
    let eve = team.third("eve", Role::Viewer);
    let added = Shadow::of(&team.kegd, &team.alice, &team.alice.folder).entries.pop().unwrap();
    team.alice.session().remove_member(&team.alice.folder, eve.id).unwrap();
    team.settle();
    team.bob.liar.tell(Append(added.clone()));
    let why = team.bob.must_freeze();
    assert!(why.contains("repeated"), "{why}");
    assert!(contains(&team.bob.proof(), &added.envelope));
    assert!(!team.bob.session().members(&team.bob.folder).iter().any(|member| member.account == eve.id));
    // The administrator who had signed it is no exception.
    team.alice.liar.tell(Append(added));
    team.alice.must_freeze();
}

#[test]
fn row_07_role_abuse() {
    let team = Team::new();
    let carol = team.third("carol", Role::Viewer);
    team.settle();
    // A viewer signs a batch. An honest server refuses it; a colluding one puts it into the log.
    let viewer = Shadow::of(&team.kegd, &carol, &carol.folder);
    let batch = viewer.batch(vec![name("defaced")]);
    let refused = viewer.post(&batch, &[]).unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Role));
    let seq = team.head() + 1;
    team.bob.liar.tell(Append(batch.clone()));
    team.bob.must_ignore(seq, "role does not allow");
    assert_eq!(team.bob.folder.name(), "acme");
    // An editor makes the viewer an editor, removes her, adds a friend, starts an epoch.
    let eve = Guest::join(&team.kegd, "eve");
    let mut editor = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let friend = editor.learn(eve.person.id);
    let remove = MembershipChange::Remove { account: carol.id };
    let rotated = editor.next_epoch(&MembershipChange::Rotate).0;
    let removed = editor.next_epoch(&remove).0;
    let changes = [
        (MembershipChange::SetRole { account: carol.id, role: Role::Editor, expires_ms: None }, None),
        (MembershipChange::SetRole { account: team.bob.id, role: Role::Owner, expires_ms: None }, None),
        (remove, Some(removed)),
        (MembershipChange::Rotate, Some(rotated)),
        (
            MembershipChange::Add {
                account: friend.id(),
                account_head: friend.head(),
                role: Role::Viewer,
                expires_ms: None,
                grant: Some(BoxGrant { epoch: 0, leaf: [0; 32] }),
            },
            None,
        ),
    ];
    for (change, epoch) in changes {
        let entry = editor.membership(change, epoch);
        assert!(editor.post(&entry, &[]).is_err(), "an honest server refuses it");
        assert!(matches!(editor.push(entry.clone()), Verdict::Ignored(_)));
        team.alice.liar.tell(Append(entry));
        team.alice.must_ignore(editor.state.head().seq, "role does not allow");
    }
    let members = team.alice.session().members(&team.alice.folder);
    let roles: Vec<_> = members.iter().map(|member| (member.name.as_str(), member.role)).collect();
    assert_eq!(roles, [("alice", Role::Owner), ("bob", Role::Editor), ("carol", Role::Viewer)]);
    assert_eq!(team.alice.folder.status().epoch, 0);
}

#[test]
fn row_07_an_editor_throws_content_away() {
    let team = Team::new();
    write(&team.alice.folder, "plan.txt", b"meet at noon");
    team.settle();
    let file = team.alice.folder.replica.view().lookup(ROOT_INO, b"plan.txt").unwrap().unwrap();
    let blob = team.alice.folder.replica.view().extents(file.ino, 0, 1).unwrap().remove(0).blob;
    let releases = vec![BlobRef { id: blob, size_bytes: 1 }];
    let mut editor = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let batch = editor.batch(vec![name("defaced")]);
    let batch = editor.forged(&batch, |envelope| envelope.releases = releases.clone());
    let body = Thinning { from: 1, upto: editor.state.head().seq, keep: vec![] };
    let thins = |editor: &Shadow| editor.author.thinning(&editor.position(), &body, releases.clone());
    for (entry, why) in [(Some(batch), "release content"), (None, "role does not allow")] {
        let entry = entry.unwrap_or_else(|| thins(&editor));
        assert!(editor.post(&entry, &[]).is_err(), "an honest server refuses it");
        assert!(matches!(editor.push(entry.clone()), Verdict::Ignored(_)));
        team.alice.liar.tell(Append(entry));
        team.alice.must_ignore(editor.state.head().seq, why);
    }
    assert_eq!(team.alice.folder.name(), "acme");
    for seq in 1..=team.head() {
        assert!(team.alice.folder.replica.at(seq).is_ok(), "version {seq} is there");
    }
}

#[test]
fn row_07_an_admin_has_the_server_remove_what_is_in_use() {
    let limits = Limits { release_grace: Duration::ZERO, ..Limits::default() };
    let mut pair = Pair::on(Kegd::start_with(limits));
    let mut blobs = Vec::new();
    for version in ["meet at noon", "meet at ten"] {
        write(&pair.ours, "plan.txt", version.as_bytes());
        pair.settle();
        let file = pair.ours.replica.view().lookup(ROOT_INO, b"plan.txt").unwrap().unwrap();
        blobs.push(pair.ours.replica.view().extents(file.ino, 0, 1).unwrap().remove(0).blob);
    }
    pair.alice.session().set_role(&pair.ours, pair.bob.id, Role::Admin, None).unwrap();
    pair.settle();
    let admin = Shadow::of(&pair.kegd, &pair.bob, &pair.theirs);
    pair.bob.lock();
    let nothing = Thinning { from: 0, upto: 0, keep: vec![] };
    let releases = blobs.iter().map(|id| BlobRef { id: *id, size_bytes: 1 }).collect();
    // The server cannot know.
    let seq = admin.post(&admin.author.thinning(&admin.position(), &nothing, releases), &[]).unwrap();
    eventually("alice's client has added them again", || {
        pair.ours.replica.mark().seq > seq && pair.ours.replica.released(&blobs).unwrap().is_empty()
    });
    let told = pair.ours.replica.view().warnings(0, 9).unwrap();
    assert!(told.iter().any(|(_, line)| line.what == Happening::ReleasedInUse { blobs: 2 }), "{told:?}");
    // Whoever has nothing stored reads today's version and the one before.
    pair.alice.forget();
    pair.alice.unlock();
    let again = pair.alice.folder("acme");
    again.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(read(&again, "plan.txt").unwrap(), b"meet at ten");
    for blob in &blobs {
        again.fetch_blocking(blob, PATIENCE).unwrap();
    }
}

#[test]
fn row_07_an_editor_refers_to_content_that_no_entry_adds() {
    let limits = Limits { release_grace: Duration::ZERO, upload_keep: Duration::from_secs(3), ..Limits::default() };
    let mut pair = Pair::on(Kegd::start_with(limits));
    let editor = Shadow::of(&pair.kegd, &pair.bob, &pair.theirs);
    let extents = seal(&pair.theirs, b"everybody's, for a day");
    let blob = extents[0].blob;
    let bytes = pair.theirs.local.read(&blob).unwrap();
    wait(editor.remote.put_blob(pair.ours.id(), blob, bytes.into())).unwrap();
    let keg = KegId(random::array());
    let create = create(keg, b"plan.txt");
    let content = OpKind::Content { keg, truncate: Some(0), holes: vec![], extents, size: 22, mtime_ns: 0 };
    pair.bob.lock();
    editor.post(&editor.batch(vec![create, content]), &[]).unwrap();
    pair.ours.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(read(&pair.ours, "plan.txt").unwrap(), b"everybody's, for a day");
    eventually("alice's client has added it", || pair.ours.replica.released(&[blob]).unwrap().is_empty());
    // Longer than the server keeps what was not added.
    std::thread::sleep(Duration::from_secs(4));
    pair.alice.forget();
    pair.alice.unlock();
    let again = pair.alice.folder("acme");
    again.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(read(&again, "plan.txt").unwrap(), b"everybody's, for a day");
}

/// With a server that waits, and with one that has removed it at once.
#[test]
fn row_07_an_admin_has_the_state_removed_that_a_member_begins_with() {
    for grace in [Duration::from_secs(3600), Duration::ZERO] {
        let limits = Limits { release_grace: grace, ..Limits::default() };
        let mut pair = Pair::on(Kegd::start_with(limits));
        write(&pair.ours, "plan.txt", &b"meet at noon. ".repeat(9000));
        pair.settle();
        pair.alice.session().set_role(&pair.ours, pair.bob.id, Role::Admin, None).unwrap();
        let mut carol = Person::join(&pair.kegd, "carol");
        pair.alice.session().add_member_with(&pair.ours, carol.id, Role::Editor, History::None).unwrap();
        carol.folder("acme").catch_up_blocking(PATIENCE).unwrap();
        pair.settle();
        let admin = Shadow::of(&pair.kegd, &pair.bob, &pair.theirs);
        let envelopes = admin.entries.iter().map(|entry| Envelope::decode(&entry.envelope).unwrap());
        let states = envelopes.filter(|envelope| envelope.kind == EntryKind::Checkpoint);
        let releases: Vec<BlobRef> = states.flat_map(|envelope| envelope.adds).collect();
        assert!(!releases.is_empty());
        pair.bob.lock();
        carol.forget();
        let nothing = Thinning { from: 0, upto: 0, keep: vec![] };
        let seq = admin.post(&admin.author.thinning(&admin.position(), &nothing, releases.clone()), &[]).unwrap();
        eventually("alice has heard of it", || pair.ours.replica.mark().seq > seq);
        let told = pair.ours.replica.view().warnings(0, 9).unwrap();
        let in_use = Happening::ReleasedInUse { blobs: releases.len() as u64 };
        assert!(told.iter().any(|(_, line)| line.what == in_use), "{told:?}");
        // A new device of hers begins with it, or with one that was made again.
        carol.unlock();
        let hers = carol.folder("acme");
        eventually("she has begun", || hers.catch_up_blocking(PATIENCE).is_ok());
        assert_eq!(read(&hers, "plan.txt").unwrap(), b"meet at noon. ".repeat(9000));
    }
}

/// Alice has saved a plan three times and made Bob an admin.
fn three_versions_and_two_admins() -> Team {
    let team = Team::new();
    for version in ["one", "two", "three"] {
        write(&team.alice.folder, "plan.txt", version.as_bytes());
        team.settle();
    }
    team.alice.session().set_role(&team.alice.folder, team.bob.id, Role::Admin, None).unwrap();
    team.settle();
    team
}

#[test]
fn row_07_an_admin_takes_more_of_the_past_than_the_rule_allows() {
    let team = three_versions_and_two_admins();
    let admin = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let body = Thinning { from: 1, upto: admin.state.head().seq, keep: vec![] };
    let seq = admin.post(&admin.author.thinning(&admin.position(), &body, vec![]), &[]).unwrap();
    team.alice.folder.catch_up_blocking(PATIENCE).unwrap();
    for version in 1..=seq {
        assert!(team.alice.folder.replica.at(version).is_ok(), "version {version} is there");
    }
    let told = team.alice.folder.replica.view().warnings(0, 9).unwrap();
    assert!(told.iter().any(|(_, line)| matches!(line.what, Happening::OverThinned { .. })), "{told:?}");
    // With a clock that is months ahead the rule allows it: that is seen by everybody who is there.
    let admin = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let mut ahead = admin.position();
    ahead.now_ms += 400 * 86_400_000;
    let body = Thinning { from: 1, upto: admin.state.head().seq, keep: vec![admin.state.head().seq - 1] };
    admin.post(&admin.author.thinning(&ahead, &body, vec![]), &[]).unwrap();
    team.alice.folder.catch_up_blocking(PATIENCE).unwrap();
    let told = team.alice.folder.replica.view().warnings(0, 9).unwrap();
    assert!(told.iter().any(|(_, line)| matches!(line.what, Happening::ThinnedAhead { .. })), "{told:?}");
    assert_eq!(read(&team.alice.folder, "plan.txt").unwrap(), b"three", "the present stays");
}

#[test]
fn row_07_an_admin_dates_a_thinning_behind_so_that_everything_since_looks_old() {
    let team = three_versions_and_two_admins();
    // First one of 1970, so that no time is later than that; then one of now, for which all of it is fifty years old.
    for now_ms in [Some(0), None] {
        let admin = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
        let mut position = admin.position();
        position.now_ms = now_ms.unwrap_or(position.now_ms);
        let body = Thinning { from: 1, upto: admin.state.head().seq, keep: vec![] };
        admin.post(&admin.author.thinning(&position, &body, vec![]), &[]).unwrap();
        team.settle();
    }
    for who in [&team.alice, &team.bob] {
        for version in 1..=team.head() {
            assert!(who.folder.replica.at(version).is_ok(), "version {version} is there");
        }
        let told = who.folder.replica.view().warnings(0, 9).unwrap();
        let behind = |what: &Happening| matches!(what, Happening::ThinnedBehind { void: true, .. });
        assert!(told.iter().any(|(_, line)| behind(&line.what) && line.account == Some(team.bob.id)), "{told:?}");
    }
}

#[test]
fn row_07_an_admins_clock_ahead_stops_the_thinning_of_those_behind_and_loses_nothing() {
    let team = Team::new();
    write(&team.alice.folder, "plan.txt", b"one");
    team.settle();
    team.alice.session().set_role(&team.alice.folder, team.bob.id, Role::Admin, None).unwrap();
    team.settle();
    assert_eq!(team.alice.folder.status().clock_behind, None);
    let admin = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let mut ahead = admin.position();
    ahead.now_ms += 50 * 86_400_000;
    let seq = admin.post(&admin.batch_at(&ahead, vec![name("acme")]), &[]).unwrap();
    team.settle();
    let refused = team.alice.session().thin_out(&team.alice.folder).unwrap_err();
    let SyncError::ClockBehind(behind) = &refused else { panic!("{refused}") };
    assert!(behind.seq == seq && behind.behind_ms.div_ceil(3_600_000) == 1200, "{behind:?}");
    assert!(refused.to_string().contains("set the clock right"), "{refused}");
    assert_eq!(team.alice.folder.status().clock_behind.map(|behind| behind.seq), Some(seq));
    assert!(team.alice.folder.replica.at(1).is_ok());
}

#[test]
fn row_08_write_by_a_removed_member() {
    let team = Team::new();
    let carol = team.third("carol", Role::Editor);
    team.settle();
    let shadow = Shadow::of(&team.kegd, &carol, &carol.folder);
    let mut early = shadow.position();
    early.now_ms -= 3_600_000;
    let backdated = shadow.batch_at(&early, vec![name("defaced")]);
    let at = team.head();
    team.alice.session().remove_member(&team.alice.folder, carol.id).unwrap();
    team.settle();
    assert!(shadow.post(&backdated, &[]).is_err(), "an honest server refuses it");
    // Before the removal it would be another log than the one that was signed for: for who has never seen the true one …
    let insert = |entry: &SignedEntry| {
        let entry = entry.clone();
        Log(move |mut log: Vec<SignedEntry>| {
            log.insert(usize::try_from(at).unwrap(), entry.clone());
            log
        })
    };
    let dave = Guest::join(&team.kegd, "dave");
    dave.liar.tell(insert(&backdated));
    team.alice.session().add_member(&team.alice.folder, dave.person.id, Role::Viewer).unwrap();
    let caught =
        |event: &Event| matches!(event, Event::Misbehaviour { what, .. } if what.contains("different histories"));
    eventually("Dave's client freezes the folder", || dave.events().iter().any(caught));
    assert!(dave.person.session().folders().is_empty(), "and shows nothing of it");
    // … and for who has.
    team.settle();
    team.bob.liar.tell(insert(&backdated));
    team.bob.must_freeze();
    // After the removal it does nothing.
    team.alice.liar.tell(Append(backdated));
    team.alice.must_ignore(team.head() + 1, "no longer a member");
    assert_eq!(team.alice.folder.name(), "acme");
}

#[test]
fn row_08_write_by_a_revoked_device() {
    let team = Team::new();
    let phone = second_device(&team.kegd, &team.bob);
    let gone = phone.device_id();
    let ring = KeyRing::from_bytes(&team.bob.folder.replica.load_keyring().unwrap().unwrap()).unwrap();
    let mut stolen = Shadow::with(&team.kegd.url(), phone, team.bob.folder.id(), ring);
    stolen.post(&stolen.batch(vec![name("by the phone")]), &[]).unwrap();
    eventually("the phone was good", || team.alice.folder.name() == "by the phone");
    let last = Shadow::of(&team.kegd, &team.bob, &team.bob.folder).entries.pop().unwrap();
    stolen.push(last);
    let mut early = stolen.position();
    early.now_ms -= 3_600_000;
    let backdated = stolen.batch_at(&early, vec![name("defaced")]);
    // Bob revokes it and lets the folder know.
    revoke(&team.kegd, &team.bob, gone);
    let mut bob = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let head = bob.learn(team.bob.id).head();
    let sync = bob.membership(MembershipChange::AccountSync { account: team.bob.id, head }, None);
    bob.post(&sync, &[]).unwrap();
    eventually("the key changes by itself", || team.alice.folder.status().epoch == 1);
    team.alice.look().unwrap();
    assert!(stolen.post(&backdated, &[]).is_err(), "an honest server refuses it");
    team.alice.liar.tell(Append(backdated));
    team.alice.must_ignore(team.head() + 1, "revoked");
    assert_eq!(team.alice.folder.name(), "by the phone");
}

#[test]
fn row_09_rotation_suppressed() {
    let team = Team::new();
    let phone = second_device(&team.kegd, &team.bob);
    revoke(&team.kegd, &team.bob, phone.device_id());
    let (bob, db) = (team.bob.id, team.alice.folder.id());
    // Every look at Bob's account fails, in one way or another: Alice seals nothing for a state that she cannot see.
    let audits = move |asked: &Asked| matches!(asked, Asked::Account { account, .. } if *account == bob);
    for code in [ErrorCode::Internal, ErrorCode::NotFound, ErrorCode::RateLimited, ErrorCode::Busy] {
        team.alice.liar.tell(Refuse(audits, code));
        let sent = team.alice.liar.appended(db).len();
        let refused = team.alice.session().rotate(&team.alice.folder);
        assert!(matches!(refused, Err(SyncError::Remote(RemoteError::Refused(_)))), "{refused:?}");
        assert_eq!(team.alice.liar.appended(db).len(), sent, "nothing was sent");
        team.alice.liar.repent();
    }
    // The folder tells of the revocation, and the server still does not show it: the client asks again and again, does
    // not take the silence for an answer, and tells.
    let mut shadow = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let head = shadow.learn(bob).head();
    team.alice.liar.tell(Refuse(audits, ErrorCode::Internal));
    shadow.post(&shadow.membership(MembershipChange::AccountSync { account: bob, head }, None), &[]).unwrap();
    eventually("Alice is told", || team.alice.heard(|event| matches!(event, Event::Stalled { .. })));
    let status = team.alice.folder.status();
    assert!(!status.online && status.stale_since_ms.is_some(), "never in sync: {status:?}");
    assert!(status.last_error.is_some());
    let looks = team.alice.liar.asked().iter().filter(|asked| audits(asked)).count();
    assert!(looks >= 5, "{looks} attempts");
    // When it answers at last, the key changes at once.
    team.alice.liar.repent();
    eventually("the key changes by itself", || team.alice.folder.status().epoch == 1);
    eventually("and all is well", || team.alice.folder.online());
}

#[test]
fn row_10_stale_epoch_offered_to_the_writer() {
    let team = Team::new();
    team.alice.session().rotate(&team.alice.folder).unwrap();
    team.settle();
    let db = team.bob.folder.id();
    // The server says that the previous epoch is the current one.
    let claims = |asked: &Asked| {
        let Asked::Append { .. } = asked else { return None };
        let refusal = kegfs::api::ApiError::new(ErrorCode::StaleEpoch, "epoch 0 is current");
        Some(Reply::Raw(409, encode(&refusal.with(kegfs::api::Detail::Epoch(0)))))
    };
    team.bob.liar.tell(Instead(claims));
    write(&team.bob.folder, "new.txt", b"only for those who are members now");
    eventually("Bob has tried more than once", || team.bob.liar.appended(db).len() > 2);
    for sent in team.bob.liar.appended(db) {
        assert_eq!(Envelope::decode(&sent.entry.envelope).unwrap().epoch, 1, "nothing is sealed under the old key");
    }
    // Nor when it also shows the log as it was before.
    let before = team.head();
    team.bob.liar.tell(Rollback { to: before - 1 });
    team.bob.must_freeze();
    for sent in team.bob.liar.appended(db) {
        assert_eq!(Envelope::decode(&sent.entry.envelope).unwrap().epoch, 1);
    }
    assert!(
        team.bob.folder.replica.pending_counts().pending + team.bob.folder.replica.staged().len() as u64 > 0,
        "kept"
    );
}

#[test]
fn row_10_stale_epoch_of_a_writer_is_refused_by_readers() {
    // Made before the key changed, and made afterwards with the old key: neither counts.
    for afterwards in [false, true] {
        let team = Team::new();
        let before = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
        team.alice.session().rotate(&team.alice.folder).unwrap();
        team.settle();
        let now = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
        let position = if afterwards { Position { epoch: 0, ..now.position() } } else { before.position() };
        let stale = now.batch_at(&position, vec![name("defaced")]);
        assert_eq!(
            now.post(&stale, &[]).unwrap_err().code(),
            Some(ErrorCode::StaleEpoch),
            "an honest server refuses it"
        );
        team.alice.liar.tell(Append(stale));
        team.alice.must_ignore(team.head() + 1, "epoch");
        assert_eq!(team.alice.folder.name(), "acme");
    }
}

#[test]
fn row_11_splice_between_folders() {
    let team = Team::new();
    let (alice, bob) = (team.alice.session(), team.bob.id);
    let other = alice.create_folder("other").unwrap();
    alice.add_member(&other, bob, Role::Editor).unwrap();
    write(&other, "secret.txt", b"of the other folder");
    other.wait_uploaded_blocking(PATIENCE).unwrap();
    let theirs = team.bob.folder("other");
    eventually("Bob has both", || names(&theirs) == ["secret.txt"]);
    // A blob of one folder in the place of a blob of the other.
    let blob_of = |folder: &kegfs::sync::Folder, file: &str| {
        eventually("the content is there", || read(folder, file).is_some_and(|bytes| !bytes.is_empty()));
        let blob = {
            let view = folder.replica.view();
            let node = view.lookup(kegfs::keg::ROOT_INO, file.as_bytes()).unwrap().unwrap();
            view.extents(node.ino, 0, node.size).unwrap()[0].blob
        };
        // The reader had it before the cache had.
        eventually("it is cached", || folder.local.contains(&blob));
        folder.local.clear_cache().unwrap();
        blob
    };
    let (here, there) = (blob_of(&team.bob.folder, "plan.txt"), blob_of(&theirs, "secret.txt"));
    let foreign = theirs.fetch_blocking(&there, PATIENCE).unwrap().to_vec();
    assert_eq!(verified::blob_id(&foreign), there.0);
    team.bob.liar.tell(Blobs(move |_, _| foreign.clone()));
    let refused = team.bob.folder.fetch_blocking(&here, PATIENCE);
    assert_eq!(refused, Err(FetchError::Corrupt(here)));
    assert!(!team.bob.folder.local.contains(&here), "nothing was cached");
    assert!(team.bob.heard(|event| matches!(event, Event::CorruptBlob { blob, .. } if *blob == here)));
    team.bob.liar.repent();
    // The box of one folder for the other: the log does not contain it.
    let shadow = Shadow::of(&team.kegd, &team.bob, &theirs);
    let added = shadow.entries.iter().position(is_addition).unwrap() as u64 + 1;
    let foreign = wait(shadow.remote.member_box(theirs.id(), added)).unwrap();
    let acme = team.bob.folder.id();
    struct Other(kegfs::format::DbId, kegfs::api::MemberBox);
    impl Lie for Other {
        fn key_box(&self, db: kegfs::format::DbId, _: u64, truth: kegfs::api::MemberBox) -> kegfs::api::MemberBox {
            if db == self.0 { self.1.clone() } else { truth }
        }
    }
    team.bob.liar.tell(Other(acme, foreign));
    alice.rotate(&team.alice.folder).unwrap();
    let why = team.bob.must_freeze();
    assert!(why.contains("key box"), "{why}");
    // An entry of one folder in the log of the other.
    let entry = shadow.entries.last().unwrap().clone();
    team.alice.liar.tell(Append(entry));
    eventually("Alice's folder freezes", || {
        let _ = team.alice.look();
        team.alice.folder.frozen().is_some_and(|why| why.contains("another folder"))
    });
}

fn is_addition(entry: &SignedEntry) -> bool {
    let envelope = Envelope::decode(&entry.envelope).unwrap();
    Membership::decode(&envelope.body, envelope.suite)
        .is_ok_and(|body| matches!(body.change, MembershipChange::Add { .. }))
}
