//! How much of the past a new member gets: all of it, none, or from some moment on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kegfs::format::{Checkpoint, EntryKind, NodeKind, Role};
use kegfs::keg::ROOT_INO;
use kegfs::remote::{Call, Fault, RemoteError};
use kegfs::sync::{Folder, History, SyncError};

use super::epoch;
use super::sync_support::hoard::*;
use super::sync_support::lived::*;
use super::sync_support::*;

fn attributes(folder: &Folder, name: &str) -> (u16, i64, u32, Vec<kegfs::replica::Xattr>) {
    let view = folder.replica.view();
    let node = view.lookup(ROOT_INO, name.as_bytes()).unwrap().unwrap();
    (node.mode, node.mtime_ns, node.nlink, view.xattrs(node.ino).unwrap())
}

#[test]
fn a_newcomer_without_history_sees_the_tree_byte_for_byte_and_opens_nothing_older() {
    let pair = lived_in();
    let carol = Person::join(&pair.kegd, "carol");
    let hers = add(&pair, &carol, History::None);
    assert_eq!(tree(&hers), tree(&pair.ours));
    for name in names(&hers) {
        assert_eq!(attributes(&hers, &name), attributes(&pair.ours, &name), "{name}");
    }
    // Everything that the server has, and carol's own keys.
    let (db, log, blobs) = (hers.id(), log(&*pair.alice.network, hers.id()), store(pair.kegd.data()));
    let (hers_ring, ours_ring) = (ring(&hers), ring(&pair.ours));
    assert!((0..epoch(&hers)).all(|epoch| hers_ring.epoch(epoch).is_err()));
    assert!(hers_ring.epoch(epoch(&hers)).unwrap().history.is_none());
    let (_, everything) = opened(&log, db, &ours_ring, &blobs);
    let (_, text) = opened(&log, db, &hers_ring, &blobs);
    let in_names = |text: &str, what: &str| text.contains(&format!("{:?}", what.as_bytes()));
    assert!(in_names(&everything, "secret-OLD-name") && in_names(&everything, "OLD-tag"), "the test can find them");
    assert!(!in_names(&text, "secret-OLD-name") && !in_names(&text, "OLD-tag"));
    assert!(in_names(&text, "plan") && in_names(&text, "current"));
    let (old_found, closed) = opens_nothing_with(&log, db, (&ours_ring, &hers_ring), &blobs, "OLD");
    assert!(old_found >= 4 && closed > 20, "{old_found} old contents, {closed} attempts failed");
    // Nor is there anything of the past in what she shows.
    let view = hers.replica.view();
    let ino = view.lookup(ROOT_INO, b"plan").unwrap().unwrap().ino;
    assert_eq!(view.versions(ino).unwrap().len(), 1);
}

/// The server keeps what no entry has added for a day: a hand-over that takes longer must not lose what it has sent.
#[test]
fn what_is_sent_of_a_state_is_in_the_log_before_the_rest_is_sent() {
    let pair = Pair::new();
    // Of every chunk a byte is overwritten, so that the rest is sealed anew for her.
    let chunks = 17;
    write(&pair.ours, "large", &vec![7; chunks << 22]);
    sync(&pair.ours);
    for chunk in 0..chunks {
        patch(&pair.ours, "large", (chunk as u64) << 22, b"!");
    }
    pair.settle();
    let carol = Person::join(&pair.kegd, "carol");
    let parts = || {
        let log = log(&*pair.alice.network, pair.ours.id());
        let states = log.iter().filter(|(_, envelope)| envelope.kind == EntryKind::Checkpoint);
        states
            .map(|(_, envelope)| (Checkpoint::decode(&envelope.body).unwrap().state.is_some(), envelope.adds.len()))
            .collect::<Vec<_>>()
    };
    pair.alice.network.script(Call::PutBlob, 16, 1, Fault::Delay(Duration::from_secs(15)));
    std::thread::scope(|scope| {
        let adding =
            scope.spawn(|| pair.alice.session().add_member_with(&pair.ours, carol.id, Role::Viewer, History::None));
        eventually("the first part is in the log", || !parts().is_empty());
        assert!(!adding.is_finished());
        assert_eq!(parts(), [(false, 16)]);
        adding.join().unwrap().unwrap();
    });
    let all = parts();
    assert!(all.len() == 2 && all[1].0 && all[1].1 < 16, "{all:?}");
    let hers = carol.folder("acme");
    hers.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(tree(&hers), tree(&pair.ours));
}

#[test]
fn a_newcomer_without_history_works_on_with_the_others() {
    let pair = lived_in();
    let carol = Person::join(&pair.kegd, "carol");
    let hers = add(&pair, &carol, History::None);
    write(&hers, "plan", b"carol's plan");
    write(&hers, "hers", b"new");
    patch(&hers, "large", 5, b"carol");
    remove(&hers, "plan too");
    sync(&hers);
    pair.settle();
    assert_eq!(tree(&hers), tree(&pair.ours));
    assert_eq!(tree(&hers), tree(&pair.theirs));
    // Two write at once.
    let base = hers.replica.head().seq;
    write(&pair.theirs, "plan", b"bob's version");
    sync(&pair.theirs);
    write_based(&hers, "plan", b"carol's version", base);
    sync(&hers);
    pair.settle();
    hers.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(tree(&hers), tree(&pair.ours));
    assert_eq!(names(&hers).iter().filter(|name| name.starts_with("plan (conflict, carol")).count(), 1);
    // And the replica survives a restart.
    drop(hers);
    let mut carol = carol;
    carol.unlock();
    let hers = carol.folder("acme");
    hers.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(tree(&hers), tree(&pair.ours));
}

/// What somebody did before the newcomer came, and sends after: it depends on what the newcomer does not have.
#[test]
fn work_from_before_a_newcomer_came_arrives_whole_at_everybody() {
    let pair = lived_in();
    bob_works_offline_while_alice_goes_on(&pair);
    let carol = Person::join(&pair.kegd, "carol");
    let hers = add(&pair, &carol, History::None);
    assert_eq!(tree(&hers), tree(&pair.ours));
    pair.bob.network.set_offline(false);
    eventually("bob's work is there", || pair.theirs.online() && pair.theirs.status().pending_ops == 0);
    pair.settle();
    hers.catch_up_blocking(PATIENCE).unwrap();
    let shown = files(&pair.ours);
    assert_eq!(files(&hers), shown);
    assert_eq!(files(&pair.theirs), shown);
    assert_eq!(shown["/gone"], b"BOB!: written by alice, 40 characters...");
    assert_eq!(shown["/changed"], b"alice was faster, and shorter");
    let conflict = shown.keys().find(|path| path.starts_with("/changed (conflict, bob")).unwrap();
    assert_eq!(shown[conflict], b"BOB!geBOB!ritten by alice, 40 characters...");
    assert_eq!(shown["/dir/inside"], b"");
    assert_eq!(attributes(&hers, "dir").0, 0o750);
}

/// Every file with its content, by path.
fn files(folder: &Folder) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![(ROOT_INO, String::new())];
    while let Some((ino, path)) = left.pop() {
        let entries = folder.replica.view().readdir(ino, 0, usize::MAX).unwrap();
        for entry in entries {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            match entry.node.kind {
                NodeKind::Directory => left.push((entry.ino, path)),
                _ => drop(found.insert(path, read_ino(folder, entry.ino))),
            }
        }
    }
    found
}

#[test]
fn since_a_date_shows_what_was_from_then_on_and_nothing_before() {
    let pair = lived_in();
    let alice = pair.alice.session();
    let carol = Person::join(&pair.kegd, "carol");
    alice.rotate(&pair.ours).unwrap();
    let moment = now_ms();
    write(&pair.ours, "plan", b"the plan after the moment");
    write(&pair.ours, "middle", b"written and removed");
    sync(&pair.ours);
    remove(&pair.ours, "middle");
    sync(&pair.ours);
    alice.rotate(&pair.ours).unwrap();
    write(&pair.ours, "plan", b"the newest plan");
    sync(&pair.ours);
    let refused = alice.add_member_with(&pair.ours, carol.id, Role::Editor, History::Since(now_ms() + 60_000));
    assert!(matches!(refused, Err(SyncError::HistoryInFuture)), "{refused:?}");
    let refused = alice.add_member_with(&pair.ours, carol.id, Role::Editor, History::Since(1_000));
    assert!(matches!(refused, Err(SyncError::HistoryBeforeFolder)), "{refused:?}");
    let refused = alice.add_member_with(&pair.ours, carol.id, Role::Admin, History::Since(moment));
    assert!(matches!(refused, Err(SyncError::HistoryOfRole { role: Role::Admin })), "{refused:?}");
    let epochs = epoch(&pair.ours);
    let hers = add(&pair, &carol, History::Since(moment));
    assert_eq!(epoch(&hers), epochs, "nobody is shut out, so the key stays");
    assert_eq!(tree(&hers), tree(&pair.ours));
    let hers_ring = ring(&hers);
    assert!(hers_ring.epoch(0).is_err(), "the time before is closed");
    assert!((1..=epochs).all(|epoch| hers_ring.epoch(epoch).is_ok_and(|secrets| secrets.history.is_none())));
    let (db, log, blobs) = (hers.id(), log(&*pair.alice.network, hers.id()), store(pair.kegd.data()));
    let (visible, text) = opened(&log, db, &hers_ring, &blobs);
    for extent in &visible {
        assert!(!contains(&open_chunk(&blobs, extent, &extent.key).unwrap(), "OLD"));
    }
    assert!(!text.contains(&format!("{:?}", b"secret-OLD-name")) && text.contains(&format!("{:?}", b"middle")));
    // The versions since the moment, and the one that was there at it.
    let view = hers.replica.view();
    let ino = view.lookup(ROOT_INO, b"plan").unwrap().unwrap().ino;
    let versions = view.versions(ino).unwrap();
    assert_eq!(versions.len(), 3);
    let at = |seq| view.content_at(ino, seq).unwrap().map(|(size, _)| size);
    let sizes: Vec<_> = versions.iter().map(|version| at(version.stamp.seq)).collect();
    assert_eq!(sizes, [None, Some(25), Some(15)]);
    let origin = hers.replica.origin().unwrap().unwrap();
    assert_eq!((origin.epoch, origin.complete, at(origin.seq)), (1, true, Some(17)));
}

#[test]
fn who_waits_for_the_state_is_told_and_another_admin_completes_what_the_adder_did_not() {
    let mut pair = lived_in();
    let dave = Person::join(&pair.kegd, "dave");
    pair.alice.session().add_member(&pair.ours, dave.id, Role::Admin).unwrap();
    let mut dave = dave;
    drop(dave.folder("acme"));
    dave.lock();
    let mut carol = Person::join(&pair.kegd, "carol");
    // The addition goes through, what follows does not: as if alice's machine had died right then.
    pair.alice.network.script(Call::PutBlob, 0, u32::MAX, Fault::Fail(RemoteError::Protocol("no".to_owned())));
    let added = pair.alice.session().add_member_with(&pair.ours, carol.id, Role::Editor, History::None);
    assert!(matches!(added, Err(SyncError::AddedOnly { .. })), "{added:?}");
    pair.alice.lock();
    let waits = |carol: &Person| {
        let waiting = carol.session().waiting();
        let told = |folder: &Arc<Folder>| folder.status().last_error.unwrap_or_default();
        waiting.iter().any(|folder| told(folder).contains("present state") && names(folder).is_empty())
    };
    eventually("carol's client waits", || waits(&carol));
    assert!(carol.session().folders().is_empty(), "nothing is shown before it is whole");
    // Carol's machine goes down and comes back while she waits; others work on. Nothing of that may be applied before the
    // state that it belongs to, though she has the keys.
    carol.lock();
    write(&pair.theirs, "plan", b"bob works on meanwhile");
    sync(&pair.theirs);
    carol.unlock();
    eventually("carol waits again", || waits(&carol));
    dave.unlock();
    let hers = carol.folder("acme");
    eventually("she has everything", || tree(&hers) == tree(&pair.theirs));
    hers.catch_up_blocking(PATIENCE).unwrap();
    let by_dave = hers.replica.checkpoints().unwrap();
    assert_eq!(by_dave.iter().map(|row| row.account).collect::<Vec<_>>(), [dave.id]);
}

#[test]
fn a_member_who_comes_back_without_history_sees_the_present_and_nothing_from_in_between() {
    let pair = lived_in();
    let old = pair.theirs.dir().to_owned();
    pair.alice.session().remove_member(&pair.ours, pair.bob.id).unwrap();
    eventually("bob is out", || !old.exists());
    write(&pair.ours, "plan", b"OLD plan from in between");
    sync(&pair.ours);
    write(&pair.ours, "plan", b"the plan of today");
    sync(&pair.ours);
    let theirs = add(&pair, &pair.bob, History::None);
    assert_eq!(tree(&theirs), tree(&pair.ours));
    let theirs_ring = ring(&theirs);
    let current = epoch(&pair.ours);
    assert!((0..current).all(|epoch| theirs_ring.epoch(epoch).is_err()) && theirs_ring.epoch(current).is_ok());
    let (log, blobs) = (log(&*pair.alice.network, theirs.id()), store(pair.kegd.data()));
    for extent in opened(&log, theirs.id(), &theirs_ring, &blobs).0 {
        assert!(!contains(&open_chunk(&blobs, &extent, &extent.key).unwrap(), "OLD"));
    }
    // A guest likewise.
    let carol = Person::join(&pair.kegd, "carol");
    pair.alice.session().add_guest(&pair.ours, carol.id, false, now_ms() + 600_000).unwrap();
    assert_eq!(tree(&carol.folder("acme")), tree(&pair.ours));
}
