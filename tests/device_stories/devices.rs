//! Devices: added by a code, from paper, renamed, revoked.

use std::sync::Arc;
use std::time::Duration;

use kegfs::api::{Letter, Side};
use kegfs::crypto::Key;
use kegfs::crypto::words::{Code, Phrase};
use kegfs::format::{MailboxId, Role};
use kegfs::keyring::DeviceSecrets;
use kegfs::remote::{Call, FailingRemote, Fault, HttpOptions, HttpRemote, Remote};
use kegfs::sync::{Event, Joining, RECOVERY_NAME, SyncError, recover_account};

use crate::events;
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
    let wrong = Code::random();
    assert!(matches!(alice.session().device_waiting(&wrong), Err(SyncError::NoDeviceWaits)));
    let code = Code::parse(&joining.code().to_text()).unwrap();
    // Somebody else who has an account and the code answers first: the device joins nobody else's account unseen, the
    // second answer is refused.
    let eve = Person::join(&kegd, "eve");
    eve.session().add_device(eve.session().device_waiting(&code).unwrap()).unwrap();
    let refused = alice.session().add_device(alice.session().device_waiting(&code).unwrap());
    assert!(matches!(refused, Err(SyncError::Remote(_))), "{refused:?}");
    assert_eq!(joining.wait(PATIENCE).unwrap().name, "eve");
    // A name that is taken is refused before anything changes.
    let second = Joining::begin(&options(&kegd), "laptop").unwrap();
    let code = Code::parse(&second.code().to_text()).unwrap();
    let taken = alice.session().add_device(alice.session().device_waiting(&code).unwrap());
    assert!(matches!(taken, Err(SyncError::DeviceNameTaken(name)) if name == "laptop"));
    assert!(matches!(Joining::begin(&options(&kegd), "a/b"), Err(SyncError::BadLabel(_))));
    assert!(matches!(second.wait(Duration::from_millis(300)), Err(SyncError::TimedOut(_))));
}

/// Not even the server, which sees the mailbox, puts other keys or another account in.
#[test]
fn row_31_a_server_that_writes_both_letters_itself_is_refused() {
    let kegd = Kegd::start();
    let alice = Person::join(&kegd, "alice");
    let anonymous: Arc<dyn Remote> = HttpRemote::new(&options(&kegd), None).unwrap();
    let lying = FailingRemote::new(anonymous);
    let joining = Joining::begin_at(&options(&kegd), lying.clone(), "phone").unwrap();
    let code = Code::parse(&joining.code().to_text()).unwrap();
    // The request, altered on its way to the old device.
    alice.network.script(Call::Letter, 0, 1, Fault::Corrupt);
    assert!(matches!(alice.session().device_waiting(&code), Err(SyncError::Misbehaviour(_))));
    let candidate = alice.session().device_waiting(&code).unwrap();
    alice.session().add_device(candidate).unwrap();
    // The answer, altered on its way to the new one.
    lying.script(Call::Letter, 0, 1, Fault::Corrupt);
    assert!(matches!(joining.wait(PATIENCE), Err(SyncError::Misbehaviour(_))));
}

#[test]
fn row_31_a_new_device_takes_no_older_folder_than_the_one_that_let_it_in() {
    let pair = Pair::new();
    write(&pair.ours, "a", b"1");
    pair.settle();
    // The server's state before, kept by a server that goes back later.
    let before = pair.ours.replica.mark().seq;
    write(&pair.ours, "b", b"2");
    pair.settle();
    let joined = pair.alice.add_device(&pair.kegd, "phone");
    let mut phone = Person::from_joined(&pair.kegd, &joined);
    let folder = phone.folder("acme");
    folder.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(folder.replica.mark(), pair.ours.replica.mark());
    // The same device with a server that shows its folder as it was before.
    phone.lock();
    let fresh = Person::from_joined_held_back(&pair.kegd, &joined, before);
    let folder = fresh.session().folder(&pair.ours.id().to_string()).unwrap();
    eventually("the folder is frozen", || folder.frozen().is_some_and(|why| why.contains("your other device")));
    assert!(!folder.writable());
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
