//! Members come and go while everybody works: roles, removal, rotation, guests, and what becomes of unsent work.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "member_stories/history.rs"]
mod history;
mod sync_support;

use std::time::{Duration, Instant};

use kegfs::format::{AccountId, Role};
use kegfs::sync::{Event, Folder, History, SyncError};
use sync_support::*;

fn epoch(folder: &Folder) -> u32 {
    folder.status().epoch
}

fn role_of(pair: &Pair, who: AccountId) -> Option<Role> {
    let members = pair.alice.session().members(&pair.ours);
    members.into_iter().find(|member| member.account == who).map(|member| member.role)
}

fn third(pair: &Pair, name: &str, role: Role) -> (Person, std::sync::Arc<Folder>) {
    let person = Person::join(&pair.kegd, name);
    pair.alice.session().add_member(&pair.ours, person.id, role).unwrap();
    let folder = person.folder("acme");
    (person, folder)
}

#[test]
fn a_removed_member_loses_everything_and_the_others_go_on_under_a_new_epoch() {
    let pair = Pair::new();
    let (_carol, hers) = third(&pair, "carol", Role::Editor);
    write(&pair.ours, "before", b"old");
    pair.settle();
    let dir = pair.theirs.dir().to_owned();
    let heard = events(&pair.bob);
    pair.alice.session().remove_member(&pair.ours, pair.bob.id).unwrap();
    assert_eq!((epoch(&pair.ours), role_of(&pair, pair.bob.id)), (1, None));
    eventually("carol is in the new epoch", || epoch(&hers) == 1);
    write(&hers, "after", b"new");
    eventually("the others work on", || read(&pair.ours, "after").as_deref() == Some(b"new".as_slice()));
    eventually("bob's client has noticed", || {
        heard().iter().any(|event| matches!(event, Event::Departed { kept: None, .. }))
    });
    assert_eq!(pair.theirs.role(), None);
    assert!(!dir.exists(), "replica, spool and cache are gone");
    assert!(matches!(pair.bob.session().folder("acme"), Err(SyncError::NoSuchFolder(_))));
    assert!(pair.theirs.replica.submit(kegfs::format::OpKind::FolderName { name: "x".into() }, 0).is_err());
    let kept = pair.bob.session().kept_work().unwrap();
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn what_a_removed_member_had_not_sent_is_kept_and_opens_with_the_account() {
    let mut pair = Pair::new();
    write(&pair.theirs, "sent", b"on the server");
    pair.settle();
    pair.bob.network.set_offline(true);
    eventually("bob is offline", || !pair.theirs.online());
    let large: Vec<u8> = (0..9_000_000u32).map(|index| (index / 3) as u8).collect();
    write(&pair.theirs, "draft.txt", b"three days of work");
    write(&pair.theirs, "large.bin", &large);
    pair.theirs.replica.flush(true).unwrap();
    pair.alice.session().remove_member(&pair.ours, pair.bob.id).unwrap();
    let dir = pair.theirs.dir().to_owned();
    let heard = events(&pair.bob);
    pair.bob.network.set_offline(false);
    eventually("bob is told where his work is", || {
        heard().iter().any(|event| matches!(event, Event::Departed { kept: Some(_), .. }))
    });
    assert!(!dir.exists());
    // Also after a restart: nothing but the account is needed.
    drop(std::mem::replace(&mut pair.theirs, pair.ours.clone()));
    pair.bob.unlock();
    let kept = pair.bob.session().kept_work().unwrap();
    assert_eq!((kept.len(), kept[0].folder.as_str(), kept[0].files), (1, "acme", 2));
    for file in kept[0].dir.read_dir().unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(18).any(|part| part == b"three days of work"), "only ciphertext is kept");
        assert!(!bytes.windows(9).any(|part| part == b"draft.txt"));
    }
    let to = tempfile::tempdir().unwrap();
    let recovered = pair.bob.session().recover(&kept[0].name, to.path()).unwrap();
    assert!(recovered.files.iter().all(|(_, missing)| *missing == 0), "{recovered:?}");
    assert_eq!(std::fs::read(to.path().join("draft.txt")).unwrap(), b"three days of work");
    assert_eq!(std::fs::read(to.path().join("large.bin")).unwrap(), large);
    // Nothing is replaced.
    assert!(pair.bob.session().recover(&kept[0].name, to.path()).is_err());
    assert!(matches!(pair.bob.session().recover("../kept", to.path()), Err(SyncError::NoKeptWork(_))));
}

#[test]
fn a_role_decides_at_once_and_what_a_viewer_had_written_waits() {
    let pair = Pair::new();
    let (alice, bob) = (pair.alice.session(), pair.bob.id);
    pair.bob.network.set_offline(true);
    eventually("bob is offline", || !pair.theirs.online());
    write(&pair.theirs, "late", b"written as an editor");
    alice.set_role(&pair.ours, bob, Role::Viewer, None).unwrap();
    pair.bob.network.set_offline(false);
    eventually("bob is a viewer", || pair.theirs.role() == Some(Role::Viewer));
    assert!(!pair.theirs.writable());
    eventually("bob is told that it waits", || {
        pair.theirs.status().last_error.is_some_and(|error| error.contains("wait"))
    });
    assert!(pair.theirs.status().pending_ops > 0);
    pair.ours.catch_up_blocking(PATIENCE).unwrap();
    assert!(names(&pair.ours).is_empty());
    alice.set_role(&pair.ours, bob, Role::Editor, None).unwrap();
    eventually("it arrives", || read(&pair.ours, "late").as_deref() == Some(b"written as an editor".as_slice()));
    assert_eq!(epoch(&pair.ours), 0, "nobody was shut out");
}

#[test]
fn what_was_sealed_under_an_old_epoch_is_sealed_anew() {
    let pair = Pair::new();
    pair.settle();
    pair.bob.network.set_offline(true);
    eventually("bob is offline", || !pair.theirs.online());
    for index in 0..20 {
        write(&pair.theirs, &format!("f{index}"), b"from the train");
    }
    pair.theirs.replica.flush(true).unwrap();
    for round in 1..=3 {
        pair.alice.session().rotate(&pair.ours).unwrap();
        assert_eq!(epoch(&pair.ours), round);
    }
    pair.bob.network.set_offline(false);
    eventually("everything arrives", || names(&pair.ours).len() == 20);
    pair.settle();
    assert_eq!((epoch(&pair.theirs), tree(&pair.ours)), (3, tree(&pair.theirs)));
    assert!(matches!(pair.bob.session().rotate(&pair.theirs), Err(SyncError::NotAllowed { role: Role::Editor, .. })));
}

#[test]
fn after_somebody_left_one_of_the_admins_starts_a_new_epoch_and_only_one() {
    let pair = Pair::new();
    let (_carol, hers) = third(&pair, "carol", Role::Admin);
    let (_dan, his) = third(&pair, "dan", Role::Admin);
    write(&pair.theirs, "legacy", b"for those who stay");
    pair.bob.session().leave(&pair.theirs).unwrap();
    eventually("bob is gone", || pair.theirs.role().is_none());
    for folder in [&pair.ours, &hers, &his] {
        eventually("there is a new epoch", || epoch(folder) == 1 && !folder.status().rotation_due);
    }
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(epoch(&pair.ours), 1);
    assert_eq!(read(&pair.ours, "legacy").unwrap(), b"for those who stay", "it was sent before the leaving");
}

#[test]
fn while_no_admin_is_there_the_others_are_told_that_a_new_epoch_is_due() {
    let mut pair = Pair::new();
    let (_carol, hers) = third(&pair, "carol", Role::Editor);
    pair.ours.catch_up_blocking(PATIENCE).unwrap();
    pair.alice.lock();
    pair.bob.session().leave(&pair.theirs).unwrap();
    eventually("carol is told", || hers.status().rotation_due);
    pair.alice.unlock();
    eventually("alice's client completes it", || epoch(&hers) == 1 && !hers.status().rotation_due);
}

#[test]
fn the_last_owner_stays_until_there_is_another() {
    let pair = Pair::new();
    let (alice, me) = (pair.alice.session(), pair.alice.id);
    let before = pair.ours.replica.mark();
    assert!(matches!(alice.leave(&pair.ours), Err(SyncError::LastOwner)));
    assert!(matches!(alice.set_role(&pair.ours, me, Role::Editor, None), Err(SyncError::LastOwner)));
    assert_eq!(pair.ours.replica.mark().seq, before.seq, "nothing was changed");
    let by_editor = pair.bob.session().transfer(&pair.theirs, me, false);
    assert!(matches!(by_editor, Err(SyncError::Refused(_) | SyncError::NotAllowed { .. }) | Ok(())), "{by_editor:?}");
    assert_eq!(role_of(&pair, pair.bob.id), Some(Role::Editor));
    alice.transfer(&pair.ours, pair.bob.id, true).unwrap();
    assert_eq!((role_of(&pair, me), role_of(&pair, pair.bob.id)), (Some(Role::Admin), Some(Role::Owner)));
    let above = alice.remove_member(&pair.ours, pair.bob.id);
    assert!(matches!(above, Err(SyncError::LastOwner | SyncError::NotAllowed { .. })), "{above:?}");
    alice.leave(&pair.ours).unwrap();
    eventually("bob's client changes the key", || epoch(&pair.theirs) == 1);
}

#[test]
fn a_member_who_comes_back_without_a_grant_reads_nothing_from_in_between() {
    let pair = Pair::new();
    write(&pair.ours, "first", b"bob was here");
    pair.settle();
    let old = pair.theirs.dir().to_owned();
    pair.alice.session().remove_member(&pair.ours, pair.bob.id).unwrap();
    eventually("bob is out", || !old.exists());
    write(&pair.ours, "between", b"not for bob");
    pair.ours.wait_uploaded_blocking(PATIENCE).unwrap();
    pair.alice.session().rotate(&pair.ours).unwrap();
    write(&pair.ours, "between too", b"not for bob either");
    pair.ours.wait_uploaded_blocking(PATIENCE).unwrap();
    pair.alice.session().add_member_with(&pair.ours, pair.bob.id, Role::Editor, History::None).unwrap();
    write(&pair.ours, "again", b"bob is back");
    let theirs = pair.bob.folder("acme");
    eventually("bob sees what is new", || read(&theirs, "again").as_deref() == Some(b"bob is back".as_slice()));
    assert_eq!(tree(&theirs), tree(&pair.ours), "the present, whoever wrote it when");
    let ring = kegfs::keyring::KeyRing::from_bytes(&theirs.replica.load_keyring().unwrap().unwrap()).unwrap();
    let current = epoch(&pair.ours);
    assert_eq!(current, 3);
    assert!((0..current).all(|epoch| ring.epoch(epoch).is_err()), "no earlier key");
    assert!(ring.epoch(current).unwrap().history.is_none());
    write(&theirs, "answer", b"thank you");
    eventually("bob writes again", || read(&pair.ours, "answer").as_deref() == Some(b"thank you".as_slice()));
    // Everything it took is a new box in each epoch.
    pair.alice.session().rotate(&pair.ours).unwrap();
    write(&pair.ours, "later", b"still here");
    eventually("and stays", || read(&theirs, "later").as_deref() == Some(b"still here".as_slice()));
    // With a grant everything opens.
    pair.alice.session().remove_member(&pair.ours, pair.bob.id).unwrap();
    eventually("bob is out again", || theirs.role().is_none() && pair.bob.session().folder("acme").is_err());
    pair.alice.session().add_member(&pair.ours, pair.bob.id, Role::Editor).unwrap();
    let theirs = pair.bob.folder("acme");
    eventually("bob sees all", || names(&theirs) == names(&pair.ours));
    assert_eq!(tree(&theirs), tree(&pair.ours));
}

#[test]
fn a_guest_is_gone_at_the_end_and_the_key_changes_by_itself() {
    let pair = Pair::new();
    let carol = Person::join(&pair.kegd, "carol");
    let alice = pair.alice.session();
    let past = alice.add_guest(&pair.ours, carol.id, true, now_ms() - 1);
    assert!(matches!(past, Err(SyncError::PastExpiry)), "{past:?}");
    alice.add_guest(&pair.ours, carol.id, true, now_ms() + 60_000).unwrap();
    let hers = carol.folder("acme");
    write(&hers, "guest book", b"carol was here");
    eventually("a guest may write", || names(&pair.ours) == ["guest book"]);
    // Extended, or here shortened.
    let end = now_ms() + 2_500;
    alice.set_role(&pair.ours, carol.id, Role::GuestViewer, Some(end)).unwrap();
    eventually("the new end is known", || hers.status().expires_ms == Some(end) && !hers.writable());
    let before = epoch(&pair.ours);
    let dir = hers.dir().to_owned();
    eventually("the time is over", || hers.role().is_none());
    assert!(now_ms() >= end);
    eventually("nothing is left", || !dir.exists());
    eventually("alice's client has removed the guest", || role_of(&pair, carol.id).is_none());
    assert_eq!(epoch(&pair.ours), before + 1);
    assert!(now_ms() < end + 5_000);
    // What the server still says of the folder does not bring anything of it back.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!dir.exists());
}

#[test]
fn wrong_requests_change_nothing() {
    let pair = Pair::new();
    pair.settle();
    let carol = Person::join(&pair.kegd, "carol");
    let (alice, bob) = (pair.alice.session(), pair.bob.session());
    let before = pair.ours.replica.mark();
    assert!(matches!(alice.remove_member(&pair.ours, carol.id), Err(SyncError::NotTheirMember { .. })));
    assert!(matches!(alice.set_role(&pair.ours, carol.id, Role::Admin, None), Err(SyncError::NotTheirMember { .. })));
    assert!(matches!(alice.remove_member(&pair.ours, pair.alice.id), Err(SyncError::Yourself { .. })));
    assert!(matches!(alice.add_member(&pair.ours, pair.alice.id, Role::Editor), Err(SyncError::Yourself { .. })));
    assert!(matches!(alice.transfer(&pair.ours, pair.alice.id, false), Err(SyncError::Yourself { .. })));
    assert!(matches!(alice.member(&pair.ours, "nobody"), Err(SyncError::NotTheirMember { .. })));
    assert_eq!(alice.member(&pair.ours, "bob").unwrap().account, pair.bob.id);
    for refused in [
        bob.remove_member(&pair.theirs, pair.alice.id),
        bob.set_role(&pair.theirs, pair.bob.id, Role::Owner, None),
        bob.add_guest(&pair.theirs, carol.id, false, now_ms() + 60_000),
        bob.rotate(&pair.theirs),
    ] {
        assert!(matches!(refused, Err(SyncError::NotAllowed { .. } | SyncError::LastOwner)), "{refused:?}");
    }
    alice.set_role(&pair.ours, pair.bob.id, Role::Admin, None).unwrap();
    eventually("bob is an admin", || pair.theirs.role() == Some(Role::Admin));
    for above in [Role::Admin, Role::Owner] {
        let refused = bob.add_member(&pair.theirs, carol.id, above);
        assert!(matches!(refused, Err(SyncError::NotAllowed { .. })), "{refused:?}");
    }
    pair.ours.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(pair.ours.replica.mark().seq, before.seq + 1, "one change was made");
}

#[test]
fn a_new_epoch_is_in_use_by_all_others_within_a_second() {
    let pair = Pair::new();
    let (_carol, hers) = third(&pair, "carol", Role::Editor);
    let mut times = Vec::new();
    for _ in 0..20 {
        let wanted = epoch(&pair.ours) + 1;
        pair.alice.session().rotate(&pair.ours).unwrap();
        let start = Instant::now();
        eventually("all use it", || epoch(&hers) == wanted && epoch(&pair.theirs) == wanted);
        times.push(start.elapsed());
    }
    times.sort();
    println!("new epoch at the others: median {:?}, p95 {:?}", times[10], times[18]);
    assert!(times[18] < Duration::from_secs(1), "{times:?}");
}
