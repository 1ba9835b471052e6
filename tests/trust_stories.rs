//! What happened in a folder and whom to trust, as every member's client finds it by itself.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sync_support;

use kegfs::api::AccountEntries;
use kegfs::format::{AccountChange, AccountEntry, OpKind, Role, SignedAccountEntry, Trust};
use kegfs::keg::ROOT_INO;
use kegfs::keyring::{AccountLog, DeviceSecrets, InviteSecret};
use kegfs::remote::{Call, Fault};
use kegfs::replica::{Activity, Happening};
use kegfs::sync::{End, Folder, History, Invitation, SyncError};
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
            reads_from: 0,
            since: false,
            invite: None,
        },
        Happening::Added {
            account: carol.id,
            name: "carol".to_owned(),
            role: Role::GuestViewer,
            expires_ms: Some(end),
            reads_from: 1,
            since: false,
            invite: None,
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

fn trust_of(person: &Person, account: kegfs::format::AccountId) -> Trust {
    person.session().contacts().unwrap().into_iter().find(|contact| contact.account == account).unwrap().trust
}

#[test]
fn both_sides_see_the_same_words_and_what_was_decided_is_kept() {
    let mut pair = Pair::new();
    let carol = Person::join(&pair.kegd, "carol");
    assert_eq!(trust_of(&pair.alice, pair.bob.id), Trust::Pinned, "met when he was added");
    assert!(matches!(pair.alice.session().decide("bob", true), Err(SyncError::CompareFirst(_))));
    let here = pair.alice.session().compare("bob").unwrap();
    let there = pair.bob.session().compare("alice").unwrap();
    assert_eq!((here.words.len(), &here.words), (12, &there.words));
    let other = pair.alice.session().compare(&carol.id.to_string()).unwrap();
    assert_ne!(other.words, here.words);
    assert_eq!(trust_of(&pair.alice, carol.id), Trust::Pinned, "asked for by id, and met by that");
    pair.alice.session().decide("bob", true).unwrap();
    pair.alice.unlock();
    assert_eq!(trust_of(&pair.alice, pair.bob.id), Trust::Verified);
    let again = pair.alice.session().compare("bob").unwrap();
    assert!(!again.new_keys && again.words == here.words);
    for (wrong, error) in
        [("nobody", "you know nobody called 'nobody'"), (&*pair.alice.id.to_string(), "that is yourself")]
    {
        let said = pair.alice.session().compare(wrong).unwrap_err().to_string();
        assert!(said.contains(error), "{said}");
    }
}

#[test]
fn who_comes_under_the_name_of_somebody_known_gets_nothing_until_it_is_decided() {
    let pair = Pair::new();
    let alice = pair.alice.session();
    let mallory = Person::join(&pair.kegd, "Bob ");
    let before = pair.ours.replica.mark();
    let refused = alice.add_member(&pair.ours, mallory.id, Role::Editor);
    let Err(SyncError::Undecided { why, .. }) = &refused else { panic!("{refused:?}") };
    assert!(why.contains(&pair.bob.id.to_string()), "{why}");
    assert!(matches!(alice.add_guest(&pair.ours, mallory.id, false, i64::MAX), Err(SyncError::Undecided { .. })));
    assert_eq!(pair.ours.replica.mark(), before, "nothing has changed");
    assert_eq!(alice.contact("bob").unwrap().account, pair.bob.id, "the name is whose it was");
    // Rejected is final until the user says otherwise.
    alice.decide(&mallory.id.to_string(), false).unwrap();
    assert_eq!(trust_of(&pair.alice, mallory.id), Trust::Rejected);
    assert!(matches!(alice.add_member(&pair.ours, mallory.id, Role::Editor), Err(SyncError::Undecided { .. })));
    // There are two of the name, after all.
    alice.compare(&mallory.id.to_string()).unwrap();
    alice.decide(&mallory.id.to_string(), true).unwrap();
    alice.add_member(&pair.ours, mallory.id, Role::Editor).unwrap();
    assert_eq!(alice.members(&pair.ours).len(), 3);
}

#[test]
fn nobody_starts_an_epoch_for_a_member_in_doubt_but_removing_that_member_is_possible() {
    let pair = Pair::new();
    let (alice, bob) = (pair.alice.session(), pair.bob.session());
    alice.set_role(&pair.ours, pair.bob.id, Role::Admin, None).unwrap();
    // Alice knows a dave; bob adds another, whom he takes for the one.
    let (dave, other) = (Person::join(&pair.kegd, "dave"), Person::join(&pair.kegd, "dave"));
    alice.compare(&dave.id.to_string()).unwrap();
    pair.settle();
    bob.add_member(&pair.theirs, other.id, Role::Viewer).unwrap();
    pair.settle();
    let status = pair.ours.status();
    let [(account, name, _)] = &status.undecided[..] else { panic!("{:?}", status.undecided) };
    assert_eq!((*account, name.as_str()), (other.id, "dave"));
    let warnings = pair.ours.unseen_warnings(9);
    assert!(
        matches!(&warnings[..], [(_, Activity { what: Happening::InDoubt { account, .. }, .. })] if *account == other.id),
        "{warnings:?}"
    );
    assert!(pair.theirs.status().undecided.is_empty(), "bob has no reason to doubt");
    assert!(matches!(alice.rotate(&pair.ours), Err(SyncError::Undecided { .. })));
    let carol = Person::join(&pair.kegd, "carol");
    assert!(matches!(
        alice.add_member_with(&pair.ours, carol.id, Role::Viewer, History::None),
        Err(SyncError::Undecided { account, .. }) if account == other.id
    ));
    // With the history no key is made for the others: only who is added must be known.
    alice.add_member(&pair.ours, carol.id, Role::Viewer).unwrap();
    alice.remove_member(&pair.ours, other.id).unwrap();
    assert!(pair.ours.status().undecided.is_empty());
    alice.rotate(&pair.ours).unwrap();
    // What was said once is not said again.
    assert_eq!(pair.ours.unseen_warnings(9).len(), 1);
}

#[test]
fn a_folders_words_are_those_of_everybody_at_the_same_entry() {
    let pair = Pair::new();
    write(&pair.ours, "f", b"x");
    pair.settle();
    let (here, there) = (pair.ours.words(), pair.theirs.words());
    assert_eq!((here.words.len(), &here), (12, &there));
    write(&pair.theirs, "g", b"y");
    pair.theirs.wait_uploaded_blocking(PATIENCE).unwrap();
    assert!(pair.theirs.words().seq > here.seq && pair.theirs.words().words != here.words);
    pair.settle();
    assert_eq!(pair.ours.words(), pair.theirs.words());
}

/// Has bob's client catch the server with an altered entry.
fn catch(pair: &Pair) {
    let mut attempt = 0;
    eventually("bob's folder is frozen", || {
        attempt += 1;
        if attempt % 50 == 1 {
            write(&pair.ours, &format!("f{attempt}"), b"news");
            pair.bob.network.behave();
            pair.bob.network.script(Call::Entries, 0, 1, Fault::Corrupt);
        }
        pair.theirs.frozen().is_some()
    });
    pair.bob.network.behave();
}

#[test]
fn a_frozen_folder_goes_on_when_its_user_has_decided_so_and_the_evidence_stays() {
    let pair = Pair::new();
    pair.settle();
    assert!(matches!(pair.theirs.thaw(), Err(SyncError::NotFrozen)));
    catch(&pair);
    eventually("it is told", || !pair.theirs.unseen_warnings(9).is_empty());
    let warnings = pair.theirs.unseen_warnings(9);
    assert!(matches!(&warnings[..], [(_, Activity { what: Happening::Misbehaviour { .. }, account: None, .. })]));
    write(&pair.theirs, "waits", b"bob's work");
    pair.theirs.thaw().unwrap();
    pair.settle();
    assert!(pair.theirs.frozen().is_none());
    assert_eq!(read(&pair.ours, "waits").unwrap(), b"bob's work");
    assert_eq!(pair.theirs.evidence().unwrap().len(), 1);
    assert_eq!(happenings(&pair.theirs).iter().filter(|what| **what == Happening::Thawed).count(), 1);
}

#[test]
fn a_frozen_folder_begins_anew_and_what_was_not_sent_is_kept_aside() {
    let mut pair = Pair::new();
    write(&pair.ours, "f", b"shared");
    pair.settle();
    catch(&pair);
    write(&pair.theirs, "mine", b"not sent");
    pair.theirs.replica.flush(true).unwrap();
    let old = std::mem::replace(&mut pair.theirs, pair.ours.clone());
    pair.bob.session().begin_anew(&old).unwrap();
    drop(old);
    pair.theirs = pair.bob.folder("acme");
    pair.settle();
    assert_eq!(read(&pair.theirs, "f").unwrap(), b"shared");
    assert!(pair.theirs.frozen().is_none());
    assert_eq!(pair.theirs.evidence().unwrap().len(), 1, "it outlives the folder's files");
    let kept = pair.bob.session().kept_work().unwrap();
    let to = tempfile::tempdir().unwrap();
    pair.bob.session().recover(&kept[0].name, to.path()).unwrap();
    assert_eq!(std::fs::read(to.path().join("mine")).unwrap(), b"not sent");
}

#[test]
fn who_can_read_a_file_and_who_could_have_is_told_by_version() {
    let pair = Pair::new();
    let (alice, carol) = (pair.alice.session(), Person::join(&pair.kegd, "carol"));
    write(&pair.ours, "plan", b"first");
    pair.settle();
    alice.remove_member(&pair.ours, pair.bob.id).unwrap();
    write(&pair.ours, "plan", b"second");
    pair.ours.wait_uploaded_blocking(PATIENCE).unwrap();
    alice.add_member_with(&pair.ours, carol.id, Role::Viewer, History::None).unwrap();
    write(&pair.ours, "plan", b"third");
    pair.ours.wait_uploaded_blocking(PATIENCE).unwrap();
    let access = pair.ours.access(&[b"plan".to_vec()]).unwrap();
    let seqs: Vec<u64> = access.versions.iter().map(|version| version.seq).collect();
    let epochs: Vec<u32> = access.versions.iter().map(|version| version.epoch).collect();
    assert_eq!(epochs, [0, 1, 2]);
    let now: Vec<_> = access.now.iter().map(|one| (one.name.as_str(), &one.versions[..], one.devices.len())).collect();
    assert_eq!(now, [("alice", &seqs[..], 1), ("carol", &seqs[1..], 1)]);
    let before: Vec<_> = access.before.iter().map(|one| (one.name.as_str(), &one.versions[..], one.end)).collect();
    assert_eq!(before, [("bob", &seqs[..1], End::Removed)]);
    assert!(access.before[0].end_ms.is_some());
    assert!(matches!(pair.ours.access(&[b"nothing".to_vec()]), Err(SyncError::NoSuchFile(_))));
}

#[test]
fn an_account_with_two_signed_histories_gets_nothing_until_it_is_decided() {
    let pair = Pair::new();
    let alice = pair.alice.session();
    let (bob, identity) = (pair.bob.id, pair.bob.keys());
    // Bob's laptop adds a phone; and, elsewhere, a tablet at the same place of the account's log.
    let known = alice.account_entries(&bob).unwrap();
    let log = AccountLog::verify(&known).unwrap();
    let seed = log.open_seed(&identity.device).unwrap();
    let [phone, tablet] = ["phone", "tablet"].map(|name| {
        let device = DeviceSecrets::random().public(name);
        log.add_device(5, &identity.device, device, &seed).unwrap()
    });
    let history = |entry: &SignedAccountEntry| {
        let entries = [known.clone(), vec![entry.clone()]].concat();
        let head = AccountLog::verify(&entries).unwrap().head();
        AccountEntries { entries, head }
    };
    pair.alice.network.show_account(bob, history(&phone));
    let before = alice.compare("bob").unwrap();
    alice.decide("bob", true).unwrap();
    assert_eq!(trust_of(&pair.alice, bob), Trust::Verified);
    // Garbage in its place is the server's fault and not bob's.
    let mut garbage = history(&tablet);
    garbage.entries[1].signature = [0; 64];
    pair.alice.network.show_account(bob, garbage);
    assert!(matches!(alice.compare("bob"), Err(SyncError::Misbehaviour(_))));
    assert_eq!(trust_of(&pair.alice, bob), Trust::Verified);
    // A shorter log is, too.
    pair.alice.network.show_account(bob, AccountEntries { entries: known.clone(), head: log.head() });
    assert!(matches!(alice.compare("bob"), Err(SyncError::Misbehaviour(_))));
    assert_eq!(trust_of(&pair.alice, bob), Trust::Verified);
    // Two histories that both are signed are not.
    pair.alice.network.show_account(bob, history(&tablet));
    assert!(matches!(alice.compare("bob"), Err(SyncError::Misbehaviour(_))));
    assert_eq!(trust_of(&pair.alice, bob), Trust::Doubted);
    pair.alice.network.behave();
    pair.alice.network.show_account(bob, history(&phone));
    assert!(matches!(alice.rotate(&pair.ours), Err(SyncError::Undecided { .. })));
    // The user stays with what was known.
    assert_eq!(alice.compare("bob").unwrap().words, before.words);
    alice.decide("bob", true).unwrap();
    alice.rotate(&pair.ours).unwrap();
}

#[test]
fn altered_content_is_told_once() {
    let pair = Pair::new();
    write(&pair.ours, "file", &[5; 100_000]);
    pair.settle();
    let node = pair.theirs.replica.view().lookup(ROOT_INO, b"file").unwrap().unwrap();
    let blob = pair.theirs.replica.view().extents(node.ino, 0, 1).unwrap()[0].blob;
    pair.bob.network.script(Call::Blob, 0, 2, Fault::Corrupt);
    for _ in 0..2 {
        assert!(pair.theirs.fetch_blocking(&blob, PATIENCE).is_err());
    }
    eventually("it is told", || !pair.theirs.unseen_warnings(9).is_empty());
    assert!(pair.theirs.fetch_blocking(&blob, PATIENCE).is_ok(), "nothing of it was kept");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let warnings = pair.theirs.unseen_warnings(9);
    assert!(matches!(&warnings[..], [(_, line)] if line.what == Happening::Altered { blob }), "{warnings:?}");
}

#[test]
fn a_persons_devices_know_whom_each_of_them_has_decided_about() {
    let pair = Pair::new();
    let (carol, dave) = (Person::join(&pair.kegd, "carol"), Person::join(&pair.kegd, "dave"));
    let laptop = pair.alice.session();
    laptop.compare("bob").unwrap();
    laptop.decide("bob", true).unwrap();
    laptop.compare(&carol.id.to_string()).unwrap();
    laptop.decide(&carol.id.to_string(), false).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(laptop.account_entries(&pair.alice.id).unwrap().len(), 1, "one device tells nobody");
    // A phone comes: what the laptop tells next, it hears, also of people whom it has never met.
    let phone = pair.alice.on_another_device("phone");
    laptop.compare(&dave.id.to_string()).unwrap();
    laptop.decide("dave", true).unwrap();
    laptop.exchange_contacts().unwrap();
    phone.session().exchange_contacts().unwrap();
    for (account, trust) in [(pair.bob.id, Trust::Verified), (carol.id, Trust::Rejected), (dave.id, Trust::Verified)] {
        assert_eq!(trust_of(&phone, account), trust);
    }
    let ours = phone.folder("acme");
    assert!(matches!(phone.session().add_member(&ours, carol.id, Role::Viewer), Err(SyncError::Undecided { .. })));
    // And back: the newest decision counts on both.
    phone.session().compare("carol").unwrap();
    phone.session().decide("carol", true).unwrap();
    phone.session().exchange_contacts().unwrap();
    laptop.exchange_contacts().unwrap();
    assert_eq!(trust_of(&pair.alice, carol.id), Trust::Verified);
    // Nobody else can read it, and nothing of it is in the clear.
    let entries = pair.bob.session().compare("alice").and_then(|_| pair.bob.session().account_entries(&pair.alice.id));
    let told: Vec<SignedAccountEntry> = entries.unwrap().split_off(2);
    assert!(!told.is_empty());
    for entry in told {
        let clear = |text: &[u8]| entry.entry.windows(text.len()).any(|part| part == text);
        assert!(!clear(b"carol") && !clear(carol.id.as_bytes()) && !clear(b"dave"));
    }
    // Nothing new is told twice.
    let before = laptop.account_entries(&pair.alice.id).unwrap().len();
    for session in [laptop, phone.session()] {
        session.exchange_contacts().unwrap();
    }
    laptop.compare("bob").unwrap();
    assert_eq!(laptop.account_entries(&pair.alice.id).unwrap().len(), before);
}

/// A session that began before the user key changed tells under the new one, and what was told under the old one is heard
/// by who came later.
#[test]
fn contacts_are_told_and_heard_across_a_change_of_the_user_key() {
    let pair = Pair::new();
    let (carol, dave) = (Person::join(&pair.kegd, "carol"), Person::join(&pair.kegd, "dave"));
    let laptop = pair.alice.session();
    let phone = pair.alice.on_another_device("phone");
    let tablet = pair.alice.on_another_device("tablet");
    laptop.compare(&carol.id.to_string()).unwrap();
    laptop.decide("carol", false).unwrap();
    laptop.exchange_contacts().unwrap();
    laptop.revoke_device("tablet").unwrap();
    drop(tablet);
    // Both sessions have the key of before in hand.
    for (from, to, who) in [(phone.session(), laptop, &dave), (laptop, phone.session(), &pair.bob)] {
        from.compare(&who.id.to_string()).unwrap();
        from.decide(&who.id.to_string(), true).unwrap();
        from.exchange_contacts().unwrap();
        to.exchange_contacts().unwrap();
    }
    assert_eq!((trust_of(&pair.alice, dave.id), trust_of(&phone, pair.bob.id)), (Trust::Verified, Trust::Verified));
    let generations: Vec<u32> = laptop
        .account_entries(&pair.alice.id)
        .unwrap()
        .iter()
        .filter_map(|entry| match AccountEntry::decode(&entry.entry).unwrap().change {
            AccountChange::Contacts { generation, .. } => Some(generation),
            _ => None,
        })
        .collect();
    assert!(generations.contains(&0) && generations.ends_with(&[1]), "{generations:?}");
    let watch = pair.alice.on_another_device("watch");
    watch.session().exchange_contacts().unwrap();
    for (account, trust) in [(carol.id, Trust::Rejected), (dave.id, Trust::Verified), (pair.bob.id, Trust::Verified)] {
        assert_eq!(trust_of(&watch, account), trust);
    }
}

#[test]
fn invites_are_told_when_made_used_withdrawn_and_over() {
    let pair = Pair::new();
    let alice = pair.alice.session();
    let make = |ends_ms| {
        let secret = InviteSecret::random();
        let gives = Invitation { role: Role::Viewer, ends_ms, expires_ms: None };
        alice.invite(&pair.ours, secret.key(), secret.admission_hash(), gives).unwrap();
        (secret.key().to_string()[..12].to_owned(), secret)
    };
    let (hour, short) = (now_ms() + 3_600_000, now_ms() + 2_000);
    let (used, secret) = make(hour);
    let (withdrawn, _) = make(hour);
    let (over, _) = make(short);
    alice.cancel_invite(&pair.ours, &withdrawn).unwrap();
    let carol = Person::join(&pair.kegd, "carol");
    carol.session().redeem(pair.ours.id(), &secret).unwrap();
    for folder in [&pair.ours, &pair.theirs] {
        eventually("all of it is told", || {
            let what = happenings(folder);
            let count = |wanted: Happening| what.iter().filter(|line| **line == wanted).count();
            let made = Happening::Invited { invite: used.clone(), role: Role::Viewer, ends_ms: hour, expires_ms: None };
            let came = |line: &&Happening| matches!(line, Happening::Added { account, invite: Some(invite), .. } if (*account, invite) == (carol.id, &used));
            let ended = Happening::InviteEnded { invite: over.clone(), ends_ms: short };
            let cancelled = Happening::InviteCancelled { invite: withdrawn.clone() };
            (count(made), what.iter().filter(came).count(), count(cancelled), count(ended)) == (1, 1, 1, 1)
        });
    }
}

#[test]
fn the_list_of_members_tells_how_much_of_the_past_each_reads() {
    let pair = Pair::new();
    let (carol, dave, erin) =
        (Person::join(&pair.kegd, "carol"), Person::join(&pair.kegd, "dave"), Person::join(&pair.kegd, "erin"));
    let alice = pair.alice.session();
    alice.rotate(&pair.ours).unwrap();
    let moment = now_ms();
    alice.rotate(&pair.ours).unwrap();
    alice.add_member_with(&pair.ours, carol.id, Role::Editor, History::None).unwrap();
    alice.add_member_with(&pair.ours, dave.id, Role::Viewer, History::Since(moment)).unwrap();
    alice.add_guest(&pair.ours, erin.id, false, now_ms() + 600_000).unwrap();
    eventually("bob has it all", || pair.theirs.members().len() == 5);
    for folder in [&pair.ours, &pair.theirs] {
        let granted: Vec<(String, History)> =
            folder.members().into_iter().map(|member| (member.name, member.history)).collect();
        let [(_, alices), (_, bobs), (_, carols), (_, daves), (_, erins)] = granted.as_slice() else {
            panic!("{granted:?}")
        };
        assert_eq!([alices, bobs, carols, erins], [&History::Full, &History::Full, &History::None, &History::None]);
        assert!(matches!(daves, History::Since(ms) if *ms <= moment && *ms > moment - 60_000), "{daves:?} {moment}");
    }
}
