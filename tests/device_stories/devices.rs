//! Devices: added by a code, from paper, renamed, revoked.

use std::time::Duration;

use kegfs::api::{Letter, Side};
use kegfs::crypto::Key;
use kegfs::crypto::words::{Code, Phrase};
use kegfs::format::{MailboxId, Role};
use kegfs::keyring::DeviceSecrets;
use kegfs::remote::{Call, Fault, HttpOptions, HttpRemote, Remote};
use kegfs::sync::{Event, Joining, RECOVERY_NAME, SyncError, recover_account};

use crate::sync_support::hoard::wait;
use crate::sync_support::*;

fn options(kegd: &Kegd) -> HttpOptions {
    HttpOptions { url: kegd.url(), ..HttpOptions::default() }
}

fn device_names(person: &Person) -> Vec<String> {
    let devices = person.session().devices().unwrap().into_iter();
    devices.filter(|device| !device.revoked).map(|device| device.name).collect()
}

#[test]
fn a_device_added_by_a_code_has_the_same_folders_and_history_and_writes() {
    let pair = Pair::new();
    write(&pair.ours, "first", b"before the rotation");
    pair.settle();
    pair.alice.session().rotate(&pair.ours).unwrap();
    write(&pair.ours, "second", b"after it");
    write(&pair.theirs, "third", b"by bob");
    pair.settle();
    let phone = Person::from_joined(&pair.kegd, &pair.alice.add_device(&pair.kegd, "phone"));
    assert_eq!(phone.id, pair.alice.id);
    let folder = phone.folder("acme");
    folder.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(tree(&folder), tree(&pair.ours));
    assert_eq!((folder.replica.mark(), folder.role()), (pair.ours.replica.mark(), Some(Role::Owner)));
    // Both devices write at once, each knowing another state of the account at first.
    write(&folder, "from the phone", b"phone");
    write(&pair.ours, "from the laptop", b"laptop");
    folder.wait_uploaded_blocking(PATIENCE).unwrap();
    pair.ours.wait_uploaded_blocking(PATIENCE).unwrap();
    eventually("bob has both", || names(&pair.theirs).iter().filter(|name| name.starts_with("from")).count() == 2);
    assert_eq!(device_names(&phone), ["laptop", "phone"]);
    assert_eq!(device_names(&pair.alice), ["laptop", "phone"]);
    assert_eq!(pair.theirs.label(&folder.device()).as_deref(), Some("alice's phone"));
}

#[test]
fn a_code_is_for_one_device_and_a_wrong_one_finds_nobody() {
    let kegd = Kegd::start();
    let alice = Person::join(&kegd, "alice");
    let joining = Joining::begin(&options(&kegd), "phone").unwrap();
    assert!(matches!(alice.session().device_waiting(&Code::random()), Err(SyncError::NoDeviceWaits)));
    let code = Code::parse(&joining.code().to_text()).unwrap();
    // Somebody else who has an account and the code answers first: the new device shows whose it would become, and
    // alice's shows no words at all.
    let eve = Person::join(&kegd, "eve");
    let (_, meeting) = eve.meet(joining);
    let meeting = meeting.unwrap();
    assert_eq!((meeting.account_name(), meeting.device_name()), ("eve", "laptop"));
    assert!(matches!(alice.session().device_waiting(&code), Err(SyncError::CodeUsed)));
    meeting.refuse().unwrap();
    // A name that is taken is refused before anybody compares anything.
    let second = Joining::begin(&options(&kegd), "laptop").unwrap();
    let code = Code::parse(&second.code().to_text()).unwrap();
    let taken = alice.session().device_waiting(&code);
    assert!(matches!(taken, Err(SyncError::DeviceNameTaken(name)) if name == "laptop"));
    assert!(matches!(Joining::begin(&options(&kegd), "a/b"), Err(SyncError::BadLabel(_))));
    assert!(matches!(second.meet(Duration::from_millis(300)), Err(SyncError::TimedOut(_))));
}

/// Whoever says no, or nothing: neither the account nor the new device has changed.
#[test]
fn a_device_comes_in_only_when_both_sides_say_that_the_words_are_the_same() {
    let kegd = Kegd::start();
    let alice = Person::join(&kegd, "alice");
    let begin = || alice.meet(Joining::begin(&options(&kegd), "phone").unwrap());
    let head = |person: &Person| wait(person.network.account_log(person.id, 0)).unwrap().head;
    let before = head(&alice);
    // The new device says no.
    let (candidate, meeting) = begin();
    meeting.unwrap().refuse().unwrap();
    assert!(matches!(alice.session().add_device(candidate, PATIENCE), Err(SyncError::JoinRefused)));
    // The old one does.
    let (candidate, meeting) = begin();
    alice.session().refuse_device(candidate).unwrap();
    assert!(matches!(meeting.unwrap().accept(PATIENCE), Err(SyncError::JoinRefused)));
    // The new one says nothing, and then the old one.
    let (candidate, meeting) = begin();
    let late = alice.session().add_device(candidate, Duration::from_millis(300)).unwrap();
    assert_eq!((late, head(&alice)), (None, before));
    assert!(matches!(meeting.unwrap().accept(Duration::from_millis(300)), Err(SyncError::TimedOut(_))));
    assert_eq!((head(&alice), device_names(&alice)), (before, vec!["laptop".to_owned()]));
}

#[test]
fn what_was_begun_can_be_completed_by_another_command_and_shows_the_same_words() {
    let kegd = Kegd::start();
    let mut alice = Person::join(&kegd, "alice");
    let joining = Joining::begin(&options(&kegd), "phone").unwrap();
    let code = Code::parse(&joining.code().to_text()).unwrap();
    let (candidate, meeting) = alice.meet(joining);
    let (words, meeting) = (candidate.words(), meeting.unwrap());
    alice.unlock();
    let again = alice.session().device_waiting(&code).unwrap();
    assert_eq!((again.words(), again.name()), (words, "phone"));
    let accepting = std::thread::spawn(move || meeting.accept(PATIENCE).unwrap());
    assert!(alice.session().add_device(again, PATIENCE).unwrap().is_some());
    assert_eq!(accepting.join().unwrap().name, "alice");
    // Once more changes nothing: the answer is there.
    let again = alice.session().device_waiting(&code).unwrap();
    assert!(alice.session().add_device(again, PATIENCE).unwrap().is_some());
    assert_eq!(device_names(&alice), ["laptop", "phone"]);
}

#[test]
fn the_recovery_phrase_brings_the_account_back_and_writes_nothing_itself() {
    let pair = Pair::new();
    write(&pair.ours, "file", b"content");
    pair.settle();
    let phrase = Phrase::random();
    let keys = DeviceSecrets::from_phrase(&phrase).public(RECOVERY_NAME);
    pair.alice.session().add_recovery(keys.clone()).unwrap();
    pair.alice.session().add_recovery(keys).unwrap();
    let other = DeviceSecrets::from_phrase(&Phrase::random()).public(RECOVERY_NAME);
    assert!(matches!(pair.alice.session().add_recovery(other), Err(SyncError::HasRecovery)));
    let listed = pair.alice.session().devices().unwrap();
    assert!(listed.iter().any(|device| device.recovery && device.name == RECOVERY_NAME && !device.me));

    let typed = Phrase::parse(&phrase.words().join(" ")).unwrap();
    let recover = |phrase: &Phrase, name: &str| recover_account(&options(&pair.kegd), pair.alice.id, phrase, name);
    assert!(matches!(recover(&Phrase::from_key(Key::from_bytes([7; 32])), "new"), Err(SyncError::WrongPhrase)));
    assert!(matches!(recover(&typed, "laptop"), Err(SyncError::DeviceNameTaken(_))));
    let back = Person::from_joined(&pair.kegd, &recover(&typed, "new laptop").unwrap());
    let folder = back.folder("acme");
    folder.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(tree(&folder), tree(&pair.ours));
    // The device from paper revokes the lost one and the phrase; both are shut out.
    back.session().revoke_device("laptop").unwrap();
    back.session().revoke_device(RECOVERY_NAME).unwrap();
    assert_eq!(device_names(&back), ["new laptop"]);
    assert!(matches!(recover(&typed, "third"), Err(SyncError::WrongPhrase)));
    write(&folder, "again", b"under the new key");
    eventually("bob reads it", || read(&pair.theirs, "again").as_deref() == Some(b"under the new key".as_slice()));
    assert_eq!(folder.status().epoch, 2, "one new key for each revocation");
}

#[test]
fn a_device_is_renamed_for_everybody_and_conflict_names_stay_as_they_were_given() {
    let pair = Pair::new();
    write(&pair.ours, "notes.txt", b"base");
    pair.settle();
    let base = pair.ours.replica.head().seq;
    write_based(&pair.theirs, "notes.txt", b"bob's", base);
    pair.theirs.wait_uploaded_blocking(PATIENCE).unwrap();
    write_based(&pair.ours, "notes.txt", b"alice's", base);
    pair.settle();
    let conflict = |folder| names(folder).into_iter().find(|name| name.contains("conflict")).unwrap();
    assert!(conflict(&pair.ours).contains("alice's laptop"), "{}", conflict(&pair.ours));
    let renamed = pair.alice.session().rename_device("laptop", "old thinkpad").unwrap();
    assert_eq!((renamed.name.as_str(), renamed.me), ("old thinkpad", true));
    assert!(matches!(pair.alice.session().rename_device("laptop", "x"), Err(SyncError::NoSuchDevice(_))));
    // Who replays the log knowing the new name comes to the same names.
    let phone = Person::from_joined(&pair.kegd, &pair.alice.add_device(&pair.kegd, "phone"));
    let folder = phone.folder("acme");
    folder.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(names(&folder), names(&pair.theirs));
    assert_eq!(folder.label(&pair.ours.device()).as_deref(), Some("alice's old thinkpad"));
    assert!(matches!(pair.alice.session().rename_device("phone", "old thinkpad"), Err(SyncError::DeviceNameTaken(_))));
}

#[test]
fn a_revoked_device_is_told_and_opens_nothing_any_more() {
    let pair = Pair::new();
    let mut phone = Person::from_joined(&pair.kegd, &pair.alice.add_device(&pair.kegd, "phone"));
    let folder = phone.folder("acme");
    folder.catch_up_blocking(PATIENCE).unwrap();
    let heard = events(&phone);
    assert!(matches!(pair.alice.session().revoke_device("laptop"), Err(SyncError::ThisDevice)));
    let (device, report) = pair.alice.session().revoke_device("phone").unwrap();
    assert!(device.revoked);
    assert_eq!((report.rotated.as_slice(), report.waiting.len()), (["acme".to_owned()].as_slice(), 0));
    assert_eq!(pair.ours.status().epoch, 1);
    eventually("the phone is told", || {
        heard().iter().any(|event| matches!(event, Event::DeviceRevoked { name } if name == "alice's phone"))
    });
    drop(folder);
    phone.lock();
    let refused = phone.try_unlock();
    assert!(matches!(refused, Err(SyncError::DeviceRevoked { .. })), "{refused:?}");
    eventually("bob is in the new epoch", || pair.theirs.status().epoch == 1);
    write(&pair.theirs, "after", b"the phone");
    eventually("alice reads it", || read(&pair.ours, "after").is_some());
}

#[test]
fn where_the_user_is_no_admin_an_admins_client_changes_the_key() {
    let pair = Pair::new();
    let phone = Person::from_joined(&pair.kegd, &pair.bob.add_device(&pair.kegd, "phone"));
    let (device, report) = pair.bob.session().revoke_device("phone").unwrap();
    assert_eq!((device.name.as_str(), report.told.as_slice()), ("phone", ["acme".to_owned()].as_slice()));
    eventually("alice's client has changed the key", || pair.theirs.status().epoch == 1);
    drop(phone);
}

#[test]
fn a_folder_that_was_not_told_of_a_revocation_is_told_later_by_any_device_of_the_user() {
    let pair = Pair::new();
    let phone = Person::from_joined(&pair.kegd, &pair.alice.add_device(&pair.kegd, "phone"));
    let tablet = Person::from_joined(&pair.kegd, &pair.alice.add_device(&pair.kegd, "tablet"));
    tablet.folder("acme").catch_up_blocking(PATIENCE).unwrap();
    // The command's own entries do not get through; the account's does.
    pair.alice.network.script(Call::Append, 0, 1000, Fault::Fail(kegfs::remote::RemoteError::Timeout));
    let (_, report) = pair.alice.session().revoke_device("phone").unwrap();
    assert_eq!(report.waiting, ["acme"]);
    tablet.session().devices().unwrap();
    eventually("another device has seen to it", || pair.theirs.status().epoch == 1);
    drop(phone);
}

#[test]
fn a_letter_box_holds_what_it_is_given_and_not_more() {
    let kegd = Kegd::start();
    let alice = Person::join(&kegd, "alice");
    let anonymous = HttpRemote::new(&options(&kegd), None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (id, letter) = (MailboxId([7; 32]), |len| Letter { sealed: vec![1; len] });
    runtime.block_on(async {
        assert_eq!(anonymous.letter(id, Side::Request).await.unwrap(), None);
        assert!(anonymous.put_letter(id, Side::Request, &letter(5000)).await.is_err(), "too long");
        assert!(anonymous.put_letter(id, Side::Answer, &letter(5)).await.is_err(), "answers need a login");
        anonymous.put_letter(id, Side::Request, &letter(5)).await.unwrap();
        assert_eq!(anonymous.letter(id, Side::Request).await.unwrap(), Some(letter(5)));
        assert!(alice.network.put_letter(MailboxId([8; 32]), Side::Answer, &letter(5)).await.is_err(), "to nobody");
    });
}
