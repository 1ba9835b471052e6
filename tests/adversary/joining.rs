//! Rows 12, 13 and 31: how people and devices come in, by way of a server that would like to come along.

use std::sync::Arc;
use std::time::Duration;

use kegfs::api::{Letter, Redeem, Redemptions, Side};
use kegfs::crypto::words::Code;
use kegfs::crypto::{aead, kdf, labels};
use kegfs::format::{MailboxId, Redemption, Role, SignedEntry, encode};
use kegfs::keyring::{DeviceSecrets, InviteSecret};
use kegfs::remote::{HttpOptions, HttpRemote, Remote};
use kegfs::sync::{Event, Folder, Invitation, Joining, SyncError};
use minicbor::bytes::ByteArray;

use crate::cast::{Guest, Team};
use crate::cheat::{Shadow, account_log, direct, name, wait};
use crate::common::recorder::{self, Recorder};
use crate::liar::{Asked, Liar, Reply, account_head};
use crate::lies::{Instead, Letters, Log, Rollback};
use crate::sync_support::*;

/// Alice makes an invite; its secret.
fn invite(alice: &Person, folder: &Arc<Folder>) -> InviteSecret {
    let secret = InviteSecret::random();
    let gives = Invitation { role: Role::Editor, ends_ms: now_ms() + 3_600_000, expires_ms: None };
    alice.session().invite(folder, secret.key(), secret.admission_hash(), gives).unwrap();
    secret
}

fn joined(person: &Person, folder: &Folder, secret: &InviteSecret) -> Arc<Folder> {
    person.session().redeem(folder.id(), secret).unwrap();
    person.session().wait_joined(folder.id(), secret, PATIENCE).unwrap().expect("the folder appears")
}

#[test]
fn row_12_invite_leaks() {
    let (kegd, wire) = (Kegd::start(), tempfile::tempdir().unwrap());
    let recorder = Recorder::start(wire.path(), kegd.address.port());
    let alice = Person::join_at(&recorder.url, &kegd.invite, "alice");
    let ours = alice.session().create_folder("acme").unwrap();
    let secret = invite(&alice, &ours);
    let carol = Person::join_at(&recorder.url, &secret.admission(), "carol");
    joined(&carol, &ours, &secret);
    let needles = [
        ("secret".to_owned(), secret.as_bytes().to_vec()),
        ("hexadecimal".to_owned(), hex::encode(secret.as_bytes()).into_bytes()),
        ("half of it".to_owned(), hex::encode(&secret.as_bytes()[..16]).into_bytes()),
    ];
    assert_eq!(recorder::search(&recorder.dir, &needles), Vec::<String>::new(), "the wire");
    assert_eq!(recorder::search(kegd.data(), &needles), Vec::<String>::new(), "database, blobs and logs");
    // Both searches can find something: what the server is given instead, and the invite's public key.
    let given = [("admission".to_owned(), secret.admission().into_bytes())];
    assert!(!recorder::search(&recorder.dir, &given).is_empty());
    let public = [("key".to_owned(), secret.key().0.to_vec())];
    assert!(!recorder::search(kegd.data(), &public).is_empty());
}

#[test]
fn row_13_server_accepts_an_invite_itself() {
    let team = Team::new();
    let secret = invite(&team.alice.person, &team.alice.folder);
    let eve = Guest::join(&team.kegd, "eve");
    let db = team.alice.folder.id();
    let members = || team.alice.session().members(&team.alice.folder).len();
    // Without the link's secret an honest server takes no redemption ...
    let account_head = account_head(&account_log(&direct(&team.kegd.url(), &eve.person.identity()), eve.person.id));
    let redemption = Redemption { db, key: secret.key(), account: eve.person.id, account_head };
    let forged = Redeem { redemption, proof: InviteSecret::random().prove(&redemption) };
    assert!(wait(eve.person.network.redeem(forged)).is_err());
    // ... and one that makes it up has nothing that a client believes.
    team.alice.liar.tell(Instead(move |asked: &Asked| {
        let made_up = Redemptions { waiting: vec![forged] };
        matches!(asked, Asked::Redemptions { .. }).then(|| Reply::Says(encode(&made_up)))
    }));
    let carol = Guest::join(&team.kegd, "carol");
    carol.person.session().redeem(db, &secret).unwrap();
    eventually("alice is told", || team.alice.heard(|event| matches!(event, Event::FalseRedemption { .. })));
    assert_eq!(members(), 2);
    team.alice.liar.repent();
    // Asking again, as a client that waits does, has the admins' clients look again.
    carol.person.session().redeem(db, &secret).unwrap();
    eventually("the true proof is good", || members() == 3);
    assert!(team.alice.session().members(&team.alice.folder).iter().all(|member| member.account != eve.person.id));
}

#[test]
fn row_31_stale_bootstrap_of_a_new_device() {
    let team = Team::new();
    let before = team.head();
    write(&team.alice.folder, "later.txt", b"what the old device has seen");
    team.settle();
    let joined = team.alice.add_device(&team.kegd, "phone");
    let liar = Liar::before(team.kegd.address);
    let honest = Person::from_joined_at(&liar.url, &joined);
    let folder = honest.folder("acme");
    folder.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(folder.replica.mark(), team.alice.folder.replica.mark());
    drop((honest, folder));
    // The same device with a server that shows its folder as it was before.
    liar.tell(Rollback { to: before });
    let phone = Person::from_joined_at(&liar.url, &joined);
    let folder = phone.session().folder(&team.alice.folder.id().to_string()).unwrap();
    eventually("the folder is frozen", || folder.frozen().is_some_and(|why| why.contains("your other device")));
    assert!(!folder.writable() && read(&folder, "later.txt").is_none());
    // It is not shown, and the status tells of it by the name that the old device knew, and why.
    assert!(phone.session().folders().is_empty());
    let hidden: Vec<_> = phone.session().hidden().iter().map(|folder| (folder.name(), folder.frozen())).collect();
    assert!(hidden.len() == 1 && hidden[0].0 == "acme" && hidden[0].1.is_some(), "{hidden:?}");
}

/// As long as the one that the old device knew, and every entry of it is signed by a member.
#[test]
fn row_31_another_folder_for_a_new_device() {
    let team = Team::new();
    let before = team.head() as usize;
    let other = Shadow::of(&team.kegd, &team.bob.person, &team.bob.folder).batch(vec![name("acme")]);
    write(&team.alice.folder, "later.txt", b"what the old device has seen");
    team.settle();
    assert_eq!(team.head() as usize, before + 1);
    let joined = team.alice.add_device(&team.kegd, "phone");
    let liar = Liar::before(team.kegd.address);
    liar.tell(Log(move |mut truth: Vec<SignedEntry>| {
        truth.truncate(before);
        truth.push(other.clone());
        truth
    }));
    let phone = Person::from_joined_at(&liar.url, &joined);
    let folder = phone.session().folder(&team.alice.folder.id().to_string()).unwrap();
    eventually("the folder is frozen", || folder.frozen().is_some_and(|why| why.contains("different histories")));
    assert!(!folder.writable());
}

/// Not even the server, which sees the mailbox, puts anything of its own in.
#[test]
fn row_31_letters_changed_on_their_way() {
    let kegd = Kegd::start();
    let between = Liar::before(kegd.address);
    let alice = Person::join_at(&between.url, &kegd.invite, "alice");
    let options = HttpOptions { url: between.url.clone(), ..HttpOptions::default() };
    let devices = || alice.session().devices().unwrap().len();
    const SOON: Duration = Duration::from_secs(8);
    for side in Side::ALL {
        between.tell(Letters(move |of, mut letter: Letter| {
            if of == side {
                let middle = letter.sealed.len() / 2;
                letter.sealed[middle] ^= 1;
            }
            letter
        }));
        let joining = Joining::begin(&options, "phone").unwrap();
        let code = Code::parse(&joining.code().to_text()).unwrap();
        let new = std::thread::spawn(move || joining.meet(SOON)?.accept(SOON).map(drop));
        let session = Arc::clone(alice.session());
        let old = std::thread::spawn(move || {
            let candidate = session.device_waiting(&code)?;
            session.add_device(candidate, SOON).map(drop)
        });
        // Who gets the changed letter is not silent about it; the other waits in vain.
        let reader = if side.is_new_devices() { old } else { new };
        let caught = reader.join().unwrap();
        assert!(matches!(caught, Err(SyncError::Misbehaviour(_))), "{side:?}: {caught:?}");
        // Where the answer was changed the old device had done its part, and the new one stored nothing.
        assert_eq!(devices(), 1 + usize::from(side == Side::Answer), "{side:?}");
        between.repent();
    }
}

/// A server that does not know the code leaves letters of its own making.
#[test]
fn row_31_letters_of_who_does_not_know_the_code() {
    let kegd = Kegd::start();
    let between = Liar::before(kegd.address);
    let alice = Person::join_at(&between.url, &kegd.invite, "alice");
    let options = HttpOptions { url: between.url.clone(), ..HttpOptions::default() };
    let evil = Joining::begin(&options, "evil").unwrap();
    let theirs = between.asked().into_iter().find_map(|asked| match asked {
        Asked::Leave { side: Side::Request, letter } => Some(letter),
        _ => None,
    });
    let theirs = theirs.unwrap();
    between.tell(Letters(move |side, letter| if side == Side::Request { theirs.clone() } else { letter }));
    let joining = Joining::begin(&options, "phone").unwrap();
    let code = Code::parse(&joining.code().to_text()).unwrap();
    assert!(matches!(alice.session().device_waiting(&code), Err(SyncError::Misbehaviour(_))));
    drop(evil);
}

/// Whoever knows the code and would choose the nonce after seeing the other's could choose the words.
#[test]
fn row_31_a_nonce_that_was_chosen_afterwards() {
    let kegd = Kegd::start();
    let alice = Person::join(&kegd, "alice");
    let remote = HttpRemote::new(&HttpOptions { url: kegd.url(), ..HttpOptions::default() }, None).unwrap();
    let code = Code::random();
    let typed = Code::parse(&code.to_text()).unwrap();
    let root = code.root().unwrap();
    let mailbox = MailboxId(kdf::commit(labels::CODE_MAILBOX, &[root.as_bytes()]));
    let mut before: Vec<Vec<u8>> = Vec::new();
    let mut leave = |side: Side, plain: Vec<u8>, theirs: Option<Vec<u8>>| {
        before.extend(theirs);
        let parts: Vec<&[u8]> = before.iter().map(Vec::as_slice).collect();
        let before_it = kdf::hash(labels::HASH_CODE_LETTERS, &parts);
        let key = kdf::derive(labels::KEY_CODE_LETTER, &[root.as_bytes(), side.name().as_bytes(), &before_it]);
        let sealed = aead::seal(&key, mailbox.as_bytes(), &plain);
        before.push(sealed.clone());
        wait(remote.put_letter(mailbox, side, &Letter { sealed })).unwrap();
    };
    let device = DeviceSecrets::random().public("phone");
    let commitment = kdf::commit(labels::COMMIT_JOINING, &[&[7; 32], &encode(&device)]);
    leave(Side::Request, encode(&(2u8, device, ByteArray::from(commitment))), None);
    let looking = std::thread::spawn(move || alice.session().device_waiting(&typed).map(drop));
    let mut offer = None;
    eventually("alice's device offers", || {
        offer = wait(remote.letter(mailbox, Side::Offer)).unwrap();
        offer.is_some()
    });
    leave(Side::Reveal, encode(&(ByteArray::from([8; 32]),)), offer.map(|letter| letter.sealed));
    let seen = looking.join().unwrap();
    assert!(matches!(seen, Err(SyncError::Misbehaviour(_))), "{seen:?}");
}

/// The worst case: somebody has seen the code, and the server is in league with them. Towards the new device they are an
/// account, towards the old one a device.
#[test]
fn row_31_who_knows_the_code_and_is_the_server_too_shows_other_words() {
    let (honest, theirs) = (Kegd::start(), Kegd::start());
    let (alice, eve) = (Person::join(&honest, "alice"), Person::join(&theirs, "alice"));
    let at = |kegd: &Kegd| HttpOptions { url: kegd.url(), ..HttpOptions::default() };
    // Alice's phone reaches the mailbox of one world, her laptop that of the other.
    let phone = Joining::begin(&at(&theirs), "phone").unwrap();
    let seen = || Code::parse(&phone.code().to_text()).unwrap();
    let evil = Joining::begin_with(&at(&honest), "phone", seen()).unwrap();
    let typed = seen();
    let (towards_phone, at_phone) = eve.meet(phone);
    let (on_laptop, at_evil) = alice.meet(evil);
    let (at_phone, at_evil) = (at_phone.unwrap(), at_evil.unwrap());
    assert_eq!((at_phone.account_name(), at_phone.device_name(), on_laptop.name()), ("alice", "laptop", "phone"));
    assert_ne!(at_phone.words(), on_laptop.words(), "what alice compares");
    // They say yes on both sides, and alice on neither.
    let pressing = std::thread::spawn(move || at_evil.accept(PATIENCE).map(drop));
    alice.session().refuse_device(on_laptop).unwrap();
    assert!(matches!(pressing.join().unwrap(), Err(SyncError::JoinRefused)));
    at_phone.refuse().unwrap();
    assert!(matches!(eve.session().add_device(towards_phone, PATIENCE), Err(SyncError::JoinRefused)));
    assert_eq!(alice.session().devices().unwrap().len(), 1);
    assert!(matches!(alice.session().device_waiting(&typed).map(drop), Ok(())), "looking again changes nothing");
}
