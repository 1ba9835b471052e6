//! What happened in a folder and whom to trust, as every member's client finds it by itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sync_support;

use kegfs::format::{OpKind, Role};
use kegfs::keg::ROOT_INO;
use kegfs::replica::{Activity, Happening};
use kegfs::sync::Folder;
use kegfs::sys::clock;
use sync_support::*;

fn lines(folder: &Folder) -> Vec<Activity> {
    folder.activity(0, usize::MAX).unwrap().into_iter().map(|(_, line)| line).collect()
}

fn happenings(folder: &Folder) -> Vec<Happening> {
    lines(folder).into_iter().map(|line| line.what).collect()
}

fn unlink(folder: &Folder, name: &str) {
    let node = folder.replica.view().lookup(ROOT_INO, name.as_bytes()).unwrap().unwrap();
    let kind = OpKind::Unlink { keg: node.keg, parent: kegfs::format::KegId::ROOT, name: name.as_bytes().to_vec() };
    folder.replica.submit(kind, clock::unix_nanos()).unwrap();
}

#[test]
fn every_member_has_the_same_log_of_what_happened_and_keeps_it() {
    let mut pair = Pair::new();
    let carol = Person::join(&pair.kegd, "carol");
    let alice = pair.alice.session();
    let end = clock::unix_nanos() / 1_000_000 + 3_600_000;
    alice.add_guest(&pair.ours, carol.id, false, end).unwrap();
    alice.set_role(&pair.ours, pair.bob.id, Role::Admin, None).unwrap();
    alice.remove_member(&pair.ours, carol.id).unwrap();
    alice.rotate(&pair.ours).unwrap();
    pair.settle();
    let seen = lines(&pair.ours);
    assert_eq!(seen, lines(&pair.theirs), "derived from the log alone");
    assert!(seen.iter().all(|line| line.account == Some(pair.alice.id) && line.actor == "alice's laptop"));
    let what: Vec<Happening> = seen.into_iter().map(|line| line.what).collect();
    let (bob, name) = (pair.bob.id, "bob".to_owned());
    let expected = [
        Happening::Created,
        Happening::Added {
            account: bob,
            name: name.clone(),
            role: Role::Editor,
            expires_ms: None,
            history: true,
            since: None,
        },
        Happening::Added {
            account: carol.id,
            name: "carol".to_owned(),
            role: Role::GuestViewer,
            expires_ms: Some(end),
            history: false,
            since: None,
        },
        Happening::Rotated { epoch: 1 },
        Happening::Role { account: bob, name, from: Role::Editor, role: Role::Admin, expires_ms: None },
        Happening::Removed { account: carol.id, name: "carol".to_owned() },
        Happening::Rotated { epoch: 2 },
        Happening::Rotated { epoch: 3 },
    ];
    assert_eq!(what, expected);
    // After a restart it is there without the server.
    drop(std::mem::replace(&mut pair.theirs, pair.ours.clone()));
    pair.bob.lock();
    pair.kegd.kill();
    pair.bob.unlock();
    let again = pair.bob.folder("acme");
    assert_eq!(happenings(&again), expected);
    assert_eq!(again.activity(0, 3).unwrap().len(), 3);
    let (number, _) = again.activity(0, 3).unwrap()[2];
    assert_eq!(again.activity(number, usize::MAX).unwrap().len(), expected.len() - 3);
}

#[test]
fn a_conflict_is_told_with_the_name_of_the_version_that_lost() {
    let pair = Pair::new();
    write(&pair.ours, "plan.odt", b"first");
    pair.settle();
    pair.bob.network.set_offline(true);
    eventually("bob is offline", || !pair.theirs.online());
    let base = pair.theirs.replica.head().seq;
    write_based(&pair.theirs, "plan.odt", b"bob's", base);
    write(&pair.ours, "plan.odt", b"alice's");
    pair.ours.wait_uploaded_blocking(PATIENCE).unwrap();
    pair.bob.network.set_offline(false);
    eventually("bob's version is on the server", || {
        pair.settle();
        names(&pair.ours).len() == 2
    });
    let conflicts: Vec<Activity> =
        lines(&pair.ours).into_iter().filter(|line| matches!(line.what, Happening::Conflict { .. })).collect();
    let [conflict] = &conflicts[..] else { panic!("{conflicts:?}") };
    assert_eq!(conflict.actor, "bob's laptop");
    let Happening::Conflict { name, more: 0 } = &conflict.what else { panic!() };
    assert!(names(&pair.ours).contains(&String::from_utf8(name.clone()).unwrap()));
    assert_eq!(lines(&pair.ours), lines(&pair.theirs));
}

#[test]
fn one_device_that_overwrites_or_removes_much_of_the_folder_is_told_to_everyone_once() {
    let pair = Pair::new();
    for n in 0..80 {
        write(&pair.ours, &format!("f{n}"), b"precious");
    }
    pair.settle();
    assert!(pair.ours.unseen_warnings(9).is_empty(), "creating is no harm");
    // Saving one file again and again is work.
    for n in 0..60 {
        write(&pair.theirs, "f0", format!("draft {n}").as_bytes());
    }
    pair.settle();
    assert!(pair.ours.unseen_warnings(9).is_empty());
    for n in 1..30 {
        write(&pair.theirs, &format!("f{n}"), b"encrypted!");
    }
    for n in 30..60 {
        unlink(&pair.theirs, &format!("f{n}"));
    }
    pair.settle();
    for folder in [&pair.ours, &pair.theirs] {
        let warnings = folder.unseen_warnings(9);
        let [(number, warning)] = &warnings[..] else { panic!("{warnings:?}") };
        assert_eq!((warning.account, warning.actor.as_str()), (Some(pair.bob.id), "bob's laptop"));
        let Happening::MassChange { overwritten, removed, files, .. } = warning.what else { panic!("{warning:?}") };
        assert!(overwritten + removed >= 50 && overwritten <= 30 && removed <= 30, "{overwritten} and {removed}");
        assert_eq!(files, 80);
        // Seen is seen, also after a restart.
        folder.see_warnings(*number).unwrap();
        assert!(folder.unseen_warnings(9).is_empty());
    }
    assert_eq!(lines(&pair.ours), lines(&pair.theirs));
}
