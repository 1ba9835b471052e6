//! Invites: links for people who are not members, or have no account at all.

use std::sync::Arc;
use std::time::Duration;

use kegfs::api::Admit;
use kegfs::format::Role;
use kegfs::keyring::InviteSecret;
use kegfs::remote::{HttpOptions, Remote};
use kegfs::sync::{Event, Folder, Invitation, NewAccount, SyncError, connect};

use crate::sync_support::*;

const HOUR_MS: i64 = 3_600_000;

fn editor() -> Invitation {
    Invitation { role: Role::Editor, ends_ms: now_ms() + HOUR_MS, expires_ms: None }
}

/// Alice makes an invite; its secret.
fn invite(pair: &Pair, gives: Invitation) -> InviteSecret {
    let secret = InviteSecret::random();
    pair.alice.session().invite(&pair.ours, secret.key(), secret.admission_hash(), gives).unwrap();
    secret
}

/// Somebody without an account makes one with the admission of an invite.
fn newcomer(kegd: &Kegd, name: &str, secret: &InviteSecret) -> Person {
    Person::join_with(kegd, name, &secret.admission())
}

fn joined(person: &Person, folder: &Folder, secret: &InviteSecret) -> Arc<Folder> {
    person.session().redeem(folder.id(), secret).unwrap();
    person.session().wait_joined(folder.id(), secret, PATIENCE).unwrap().expect("the folder appears")
}

fn members(pair: &Pair) -> Vec<(String, Role)> {
    pair.alice.session().members(&pair.ours).into_iter().map(|member| (member.name, member.role)).collect()
}

fn bad_invite(result: Result<bool, SyncError>) -> String {
    match result {
        Err(SyncError::BadInvite(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn somebody_with_nothing_but_a_link_becomes_a_member_and_the_link_is_used_up() {
    let pair = Pair::new();
    write(&pair.ours, "plan", b"for the newcomer too");
    pair.settle();
    let secret = invite(&pair, editor());
    assert_eq!(pair.alice.session().invites(&pair.ours).unwrap().len(), 1);
    let heard = events(&pair.alice);
    let carol = newcomer(&pair.kegd, "carol", &secret);
    let hers = joined(&carol, &pair.ours, &secret);
    assert_eq!(
        (hers.role(), read(&hers, "plan").as_deref()),
        (Some(Role::Editor), Some(b"for the newcomer too".as_slice()))
    );
    write(&hers, "thanks", b"from carol");
    eventually("the others read it", || read(&pair.theirs, "thanks").is_some());
    assert!(heard().iter().any(|event| matches!(event, Event::InviteUsed { account, .. } if *account == carol.id)));
    assert!(pair.alice.session().invites(&pair.ours).unwrap().is_empty());
    // One use: neither the membership nor the account comes twice.
    let dave = Person::join(&pair.kegd, "dave");
    assert!(bad_invite(dave.session().redeem(pair.ours.id(), &secret)).contains("used or cancelled"));
    let another = NewAccount::create("mallory", "laptop").unwrap();
    let options = HttpOptions { url: pair.kegd.url(), ..HttpOptions::default() };
    assert!(another.register(&connect(&options, &another.identity).unwrap(), &secret.admission()).is_err());
    assert_eq!(members(&pair).len(), 3);
    assert!(carol.session().redeem(pair.ours.id(), &secret).unwrap(), "who is a member is told so");
}

#[test]
fn a_guest_comes_by_a_link_without_history_and_for_a_while() {
    let pair = Pair::new();
    write(&pair.ours, "file", b"an older version, not for guests");
    pair.settle();
    write(&pair.ours, "file", b"as it is now");
    pair.settle();
    let expires_ms = Some(now_ms() + HOUR_MS);
    let secret = invite(&pair, Invitation { role: Role::GuestViewer, expires_ms, ..editor() });
    let guest = newcomer(&pair.kegd, "greta", &secret);
    let hers = joined(&guest, &pair.ours, &secret);
    write(&pair.ours, "new", b"for guests too");
    eventually("the guest reads what is new", || read(&hers, "new").is_some());
    assert_eq!(
        (hers.role(), hers.status().expires_ms, names(&hers)),
        (Some(Role::GuestViewer), expires_ms, vec!["file".to_owned(), "new".to_owned()])
    );
}

#[test]
fn who_has_an_account_uses_it_and_waits_until_an_admin_is_there() {
    let mut pair = Pair::new();
    let secret = invite(&pair, Invitation { role: Role::Viewer, ..editor() });
    pair.alice.lock();
    let carol = Person::join(&pair.kegd, "carol");
    assert!(!carol.session().redeem(pair.ours.id(), &secret).unwrap());
    // Bob is an editor: his client lets nobody in.
    assert!(carol.session().wait_joined(pair.ours.id(), &secret, Duration::from_millis(700)).unwrap().is_none());
    drop(std::mem::replace(&mut pair.ours, pair.theirs.clone()));
    pair.alice.unlock();
    eventually("alice's client lets her in", || carol.session().folder("acme").is_ok());
    assert_eq!(carol.folder("acme").role(), Some(Role::Viewer));
}

#[test]
fn an_invite_that_is_over_cancelled_or_of_nobody_changes_nothing() {
    let pair = Pair::new();
    let carol = Person::join(&pair.kegd, "carol");
    let (redeem, db) = (|secret: &InviteSecret| carol.session().redeem(pair.ours.id(), secret), pair.ours.id());
    let cancelled = invite(&pair, editor());
    let id = cancelled.key().to_string();
    assert!(matches!(pair.alice.session().cancel_invite(&pair.ours, "ffff0000ff"), Err(SyncError::BadInvite(_))));
    pair.alice.session().cancel_invite(&pair.ours, &id[..8]).unwrap();
    assert!(bad_invite(redeem(&cancelled)).contains("used or cancelled"));
    let nobody = NewAccount::create("nobody", "laptop").unwrap();
    let options = HttpOptions { url: pair.kegd.url(), ..HttpOptions::default() };
    let remote = connect(&options, &nobody.identity).unwrap();
    assert!(nobody.register(&remote, &cancelled.admission()).is_err(), "the admission ends with the invite");
    let short = invite(&pair, Invitation { ends_ms: now_ms() + 400, ..editor() });
    std::thread::sleep(Duration::from_millis(450));
    assert!(bad_invite(redeem(&short)).contains("expired"));
    let late = NewAccount::create("late", "laptop").unwrap();
    assert!(late.register(&connect(&options, &late.identity).unwrap(), &short.admission()).is_err());
    assert!(bad_invite(redeem(&InviteSecret::random())).contains("used or cancelled"));
    let elsewhere = carol.session().redeem(kegfs::format::DbId([7; 32]), &cancelled);
    assert!(bad_invite(elsewhere).contains("gone"));
    // Who may not invite, invites nobody; nor into the past, nor above the own role.
    let secret = InviteSecret::random();
    let by =
        |person: &Person, folder, gives| person.session().invite(folder, secret.key(), secret.admission_hash(), gives);
    assert!(matches!(by(&pair.bob, &pair.theirs, editor()), Err(SyncError::NotAllowed { role: Role::Editor, .. })));
    let past = Invitation { ends_ms: now_ms() - 1, ..editor() };
    assert!(matches!(by(&pair.alice, &pair.ours, past), Err(SyncError::PastExpiry)));
    pair.alice.session().set_role(&pair.ours, pair.bob.id, Role::Admin, None).unwrap();
    eventually("bob is an admin", || pair.theirs.role() == Some(Role::Admin));
    let above = Invitation { role: Role::Admin, ..editor() };
    assert!(matches!(by(&pair.bob, &pair.theirs, above), Err(SyncError::NotAllowed { role: Role::Admin, .. })));
    assert_eq!(members(&pair).len(), 2);
    assert!(pair.ours.id() == db && carol.session().folders().is_empty());
}

/// Who is removed, or lost a device, may still have the links.
#[test]
fn the_links_of_somebody_who_is_removed_or_demoted_or_lost_a_device_open_nothing() {
    let pair = Pair::new();
    let bobs = |role| {
        pair.alice.session().set_role(&pair.ours, pair.bob.id, Role::Admin, None).unwrap();
        eventually("bob is an admin", || pair.theirs.role() == Some(Role::Admin));
        let secret = InviteSecret::random();
        let gives = Invitation { role, ..editor() };
        pair.bob.session().invite(&pair.theirs, secret.key(), secret.admission_hash(), gives).unwrap();
        pair.ours.catch_up_blocking(PATIENCE).unwrap();
        secret
    };
    let carol = Person::join(&pair.kegd, "carol");
    let demoted = bobs(Role::Editor);
    pair.alice.session().set_role(&pair.ours, pair.bob.id, Role::Editor, None).unwrap();
    bad_invite(carol.session().redeem(pair.ours.id(), &demoted));
    let lost = bobs(Role::Viewer);
    let phone = pair.bob.add_device(&pair.kegd, "phone");
    assert!(carol.session().redeem(pair.ours.id(), &lost).is_ok(), "a new device changes nothing");
    drop(phone);
    let other = bobs(Role::Viewer);
    pair.bob.session().revoke_device("phone").unwrap();
    bad_invite(Person::join(&pair.kegd, "dave").session().redeem(pair.ours.id(), &other));
    let removed = bobs(Role::Viewer);
    pair.alice.session().remove_member(&pair.ours, pair.bob.id).unwrap();
    bad_invite(Person::join(&pair.kegd, "erin").session().redeem(pair.ours.id(), &removed));
}

#[test]
fn admissions_are_bounded_and_for_who_administers() {
    let pair = Pair::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let admit = |by: &Person, n: u8, ends_ms| {
        let admit = Admit { hash: [n; 32], ends_ms, db: pair.ours.id(), key: InviteSecret::random().key() };
        runtime.block_on(by.network.admit(admit))
    };
    assert!(admit(&pair.bob, 0, now_ms() + HOUR_MS).is_err(), "an editor");
    assert!((0..99).all(|n| admit(&pair.alice, n, now_ms() + HOUR_MS).is_ok()));
    assert!(admit(&pair.alice, 99, i64::MAX).unwrap() <= now_ms() + 91 * 24 * HOUR_MS, "not for ever");
    assert!(admit(&pair.alice, 100, now_ms() + HOUR_MS).is_err(), "too many");
    assert!(admit(&pair.alice, 98, now_ms() + HOUR_MS).is_ok(), "the same again");
}
