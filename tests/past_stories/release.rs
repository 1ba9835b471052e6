//! What the server need not keep any more: it is released, removed, and nothing else is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kegfs::format::{BlobId, DbId, EntryKind, KegId, NodeKind, OpKind, Role};
use kegfs::keg::ROOT_INO;
use kegfs::remote::{Call, Fault, Remote as _, RemoteError};
use kegfs::server::Limits;
use kegfs::sync::{FetchError, Folder, History, SyncError};
use kegfs::sys::{clock, random};

use super::common::tree::digest;
use super::common::{Member, Server, wait_for};
use super::retention::NONE;
use super::sync_support::hoard::{lengths, log, wait};
use super::sync_support::lived::*;
use super::sync_support::*;

/// What is released goes as soon as the server looks.
fn at_once() -> Limits {
    Limits { release_grace: Duration::ZERO, ..Limits::default() }
}

fn stored(kegd: &Kegd) -> BTreeSet<BlobId> {
    lengths(kegd.data()).into_keys().collect()
}

/// What the files of the root directory consist of.
fn in_use(folder: &Folder) -> BTreeSet<BlobId> {
    names(folder).iter().flat_map(|name| blobs_of(folder, name)).collect()
}

fn blobs_of(folder: &Folder, name: &str) -> BTreeSet<BlobId> {
    let node = folder.replica.view().lookup(ROOT_INO, name.as_bytes()).unwrap().unwrap();
    let extents = folder.replica.view().extents(node.ino, 0, u64::MAX >> 1).unwrap();
    extents.into_iter().map(|extent| extent.blob).collect()
}

/// A new file with the content of another one, which costs nothing: as `copy_file_range(2)` does it.
fn clone(folder: &Folder, from: &str, to: &str) {
    let view = folder.replica.view();
    let node = view.lookup(ROOT_INO, from.as_bytes()).unwrap().unwrap();
    let extents = view.extents(node.ino, 0, u64::MAX >> 1).unwrap();
    drop(view);
    let keg = KegId(random::array());
    let (at_ns, name) = (clock::unix_nanos(), to.as_bytes().to_vec());
    let (kind, mode, uid, gid, rdev, target) = (NodeKind::File, 0o644, 1000, 1000, 0, vec![]);
    let create = OpKind::Create { keg, parent: KegId::ROOT, name, kind, mode, uid, gid, rdev, target };
    folder.replica.submit(create, at_ns).unwrap();
    let content = OpKind::Content { keg, truncate: Some(0), holes: vec![], extents, size: node.size, mtime_ns: at_ns };
    folder.replica.submit(content, at_ns).unwrap();
}

/// Everything but the present is let go of.
fn let_go(pair: &Pair) {
    pair.alice.session().set_retention(&pair.ours, NONE).unwrap();
    pair.alice.session().thin_out(&pair.ours).unwrap();
}

/// Waits until the server has removed whatever it would remove now: what is released after that is gone.
fn wait_removed(pair: &Pair) {
    let keg = KegId(random::array());
    let extents = seal(&pair.ours, &random::array::<64>());
    let marker = extents[0].blob;
    // Of a file that is nowhere: the entry counts and leaves nothing.
    let content = OpKind::Content { keg, truncate: Some(0), holes: vec![], extents, size: 64, mtime_ns: 0 };
    pair.ours.replica.submit(content, 0).unwrap();
    sync(&pair.ours);
    let (known, server) = (pair.alice.session(), &pair.kegd);
    eventually("the marker was released", || {
        known.thin_out(&pair.ours).unwrap();
        pair.ours.replica.released(&[marker]).unwrap() == [marker]
    });
    eventually("the marker is removed", || !stored(server).contains(&marker));
}

/// What somebody sees who has nothing stored.
fn afresh(pair: &mut Pair) -> BTreeMap<String, Vec<u8>> {
    pair.bob.forget();
    pair.bob.unlock();
    pair.theirs = pair.bob.folder("acme");
    pair.theirs.catch_up_blocking(PATIENCE).unwrap();
    tree(&pair.theirs)
}

#[test]
fn what_nothing_shows_any_more_leaves_the_server_and_the_rest_stays() {
    let mut pair = Pair::on(Kegd::start_with(at_once()));
    for version in 0..5 {
        for name in ["plan", "note", "gone"] {
            write(&pair.ours, name, format!("version {version} of {name}").repeat(100).as_bytes());
        }
        sync(&pair.ours);
    }
    remove(&pair.ours, "gone");
    clone(&pair.ours, "plan", "copy");
    pair.settle();
    assert_eq!(stored(&pair.kegd).len(), 15);
    wait_removed(&pair);
    assert_eq!(stored(&pair.kegd).len(), 15, "every version can still be gone back to");
    let today = tree(&pair.ours);
    let_go(&pair);
    eventually("only today's content is left", || stored(&pair.kegd) == in_use(&pair.ours));
    let bytes: u64 = lengths(pair.kegd.data()).into_values().sum();
    eventually("its room is given back", || pair.ours.room().is_some_and(|room| room.used_bytes == bytes));
    assert_eq!(pair.alice.session().thin_out(&pair.ours).unwrap().blobs, 0, "nothing is left to release");
    pair.settle();
    for folder in [&pair.ours, &pair.theirs] {
        folder.local.clear_cache().unwrap();
        assert_eq!(tree(folder), today);
        assert!(folder.replica.view().warnings(0, 9).unwrap().is_empty());
    }
    assert_eq!(afresh(&mut pair), today);
}

#[test]
fn what_the_rule_lets_go_is_released_with_it_by_itself() {
    let pair = Pair::on(Kegd::start_with(at_once()));
    for version in 0..5 {
        write(&pair.ours, "plan", format!("version {version}").as_bytes());
        sync(&pair.ours);
    }
    pair.alice.session().set_retention(&pair.ours, NONE).unwrap();
    eventually("only today's content is left", || stored(&pair.kegd) == in_use(&pair.ours));
}

#[test]
fn what_was_sent_in_vain_is_released_although_everything_is_kept() {
    let pair = Pair::on(Kegd::start_with(at_once()));
    write(&pair.ours, "plan", b"there");
    let nowhere = OpKind::Content {
        keg: KegId(random::array()),
        truncate: Some(0),
        holes: vec![],
        extents: seal(&pair.theirs, b"to a file that is nowhere"),
        size: 25,
        mtime_ns: 0,
    };
    pair.theirs.replica.submit(nowhere, 0).unwrap();
    pair.settle();
    assert_eq!(stored(&pair.kegd).len(), 2);
    let done = pair.alice.session().thin_out(&pair.ours).unwrap();
    assert_eq!((done.moments, done.blobs), (0, 1));
    eventually("it is gone", || stored(&pair.kegd) == in_use(&pair.ours));
}

/// Bob has cloned a file offline; meanwhile the file, its past and its content are gone.
fn bob_clones_offline_what_is_released_meanwhile(pair: &Pair, bob_has_it: bool) -> BTreeSet<BlobId> {
    write(&pair.ours, "old", &b"what bob clones. ".repeat(5000));
    pair.settle();
    if bob_has_it {
        read(&pair.theirs, "old").unwrap();
    }
    let blobs = blobs_of(&pair.ours, "old");
    pair.bob.network.set_offline(true);
    clone(&pair.theirs, "old", "copy");
    write(&pair.theirs, "more", b"and goes on");
    remove(&pair.ours, "old");
    sync(&pair.ours);
    let_go(pair);
    let all: Vec<BlobId> = blobs.iter().copied().collect();
    assert_eq!(pair.ours.replica.released(&all).unwrap(), all);
    blobs
}

fn bobs_work_arrives_whole(mut pair: Pair, blobs: &BTreeSet<BlobId>) {
    pair.bob.network.set_offline(false);
    eventually("bob's work is there", || pair.theirs.online() && pair.theirs.status().pending_ops == 0);
    pair.settle();
    wait_removed(&pair);
    assert!(stored(&pair.kegd).is_superset(blobs));
    pair.settle();
    for folder in [&pair.ours, &pair.theirs] {
        folder.local.clear_cache().unwrap();
        assert_eq!(read(folder, "copy").unwrap(), b"what bob clones. ".repeat(5000));
        assert!(folder.replica.view().warnings(0, 9).unwrap().is_empty());
    }
    assert_eq!(afresh(&mut pair)["copy"], b"what bob clones. ".repeat(5000));
}

#[test]
fn unsent_work_that_refers_to_what_was_removed_meanwhile_brings_it_again() {
    let pair = Pair::on(Kegd::start_with(at_once()));
    let blobs = bob_clones_offline_what_is_released_meanwhile(&pair, true);
    eventually("it is removed", || stored(&pair.kegd).is_disjoint(&blobs));
    bobs_work_arrives_whole(pair, &blobs);
}

#[test]
fn unsent_work_that_refers_to_what_was_released_keeps_it_on_the_server() {
    // Long enough for him to come back, in whatever time this machine needs.
    let limits = Limits { release_grace: Duration::from_secs(2), ..Limits::default() };
    let pair = Pair::on(Kegd::start_with(limits));
    let blobs = bob_clones_offline_what_is_released_meanwhile(&pair, true);
    bobs_work_arrives_whole(pair, &blobs);
}

#[test]
fn where_nobody_has_it_any_more_it_is_said_and_the_rest_arrives() {
    let pair = Pair::on(Kegd::start_with(at_once()));
    let blobs = bob_clones_offline_what_is_released_meanwhile(&pair, false);
    pair.ours.local.clear_cache().unwrap();
    eventually("it is removed", || stored(&pair.kegd).is_disjoint(&blobs));
    pair.bob.network.set_offline(false);
    eventually("bob's work is there", || pair.theirs.online() && pair.theirs.status().pending_ops == 0);
    pair.settle();
    assert_eq!(read(&pair.ours, "more").unwrap(), b"and goes on");
    let told = pair.theirs.replica.view().warnings(0, 9).unwrap();
    let lost = kegfs::replica::Happening::ContentLost { blobs: 1 };
    assert!(told.iter().any(|(_, line)| line.what == lost), "{told:?}");
    let blob = blobs.first().unwrap();
    assert_eq!(pair.ours.fetch_blocking(blob, PATIENCE), Err(FetchError::Missing(*blob)), "reading it fails");
}

#[test]
fn a_folder_goes_on_following_while_what_own_work_needs_is_fetched() {
    let limits = Limits { release_grace: Duration::from_secs(3600), ..Limits::default() };
    let pair = Pair::on(Kegd::start_with(limits));
    bob_clones_offline_what_is_released_meanwhile(&pair, false);
    let before = pair.bob.network.calls(Call::Blob);
    pair.bob.network.script(Call::Blob, 0, u32::MAX, Fault::Delay(Duration::from_secs(10)));
    pair.bob.network.set_offline(false);
    eventually("bob's client fetches", || pair.bob.network.calls(Call::Blob) > before);
    write(&pair.ours, "news", b"of today");
    sync(&pair.ours);
    let start = clock::monotonic();
    eventually("bob hears of it", || names(&pair.theirs).contains(&"news".to_owned()));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(pair.theirs.status().pending_ops > 0);
    pair.bob.network.behave();
    eventually("bob's work is there", || pair.theirs.status().pending_ops == 0);
    pair.settle();
    pair.theirs.local.clear_cache().unwrap();
    assert_eq!(read(&pair.theirs, "copy").unwrap(), b"what bob clones. ".repeat(5000));
}

/// Others cannot add it: the key of a part is that of the whole.
#[test]
fn of_a_piece_of_which_a_copy_has_a_part_only_the_own_store_and_the_server_count() {
    let pair = Pair::on(Kegd::start_with(at_once()));
    write(&pair.ours, "old", &b"what bob clones. ".repeat(5000));
    pair.settle();
    let blobs = blobs_of(&pair.ours, "old");
    pair.bob.network.set_offline(true);
    clone(&pair.theirs, "old", "copy");
    let node = pair.theirs.replica.view().lookup(ROOT_INO, b"copy").unwrap().unwrap();
    let cut =
        OpKind::Content { keg: node.keg, truncate: Some(17), holes: vec![], extents: vec![], size: 17, mtime_ns: 0 };
    pair.theirs.replica.submit(cut, clock::unix_nanos()).unwrap();
    let extents = pair.theirs.replica.view().extents(node.ino, 0, 99).unwrap();
    let part = OpKind::Content { keg: node.keg, truncate: Some(0), holes: vec![], extents, size: 17, mtime_ns: 0 };
    pair.theirs.replica.submit(part, clock::unix_nanos()).unwrap();
    remove(&pair.ours, "old");
    sync(&pair.ours);
    let_go(&pair);
    eventually("it is removed", || stored(&pair.kegd).is_disjoint(&blobs));
    pair.bob.network.set_offline(false);
    eventually("bob's work is there", || pair.theirs.online() && pair.theirs.status().pending_ops == 0);
    pair.settle();
    let told = pair.theirs.replica.view().warnings(0, 9).unwrap();
    assert!(
        told.iter().any(|(_, line)| matches!(line.what, kegfs::replica::Happening::ContentLost { .. })),
        "{told:?}"
    );
    let copy = pair.ours.replica.view().lookup(ROOT_INO, b"copy").unwrap().unwrap();
    let there = pair.ours.replica.view().extents(copy.ino, 0, 99).unwrap();
    assert!(copy.size == 17 && there.iter().all(|extent| extent.key == [0; 32]), "{}", there.len());
}

/// A member's client can name a key that opens nothing; that is not what others' work waits for.
#[test]
fn work_that_repeats_a_part_of_what_opens_for_nobody_arrives_and_it_is_said() {
    let pair = Pair::new();
    let keg = KegId(random::array());
    let bytes = b"what alice's client seals falsely. ".repeat(100);
    let mut extents = seal(&pair.ours, &bytes);
    extents[0].key = random::array();
    let (size, mtime_ns) = (bytes.len() as u64, clock::unix_nanos());
    let content = OpKind::Content { keg, truncate: Some(0), holes: vec![], extents, size, mtime_ns };
    for kind in [create(keg, b"false"), content] {
        pair.ours.replica.submit(kind, clock::unix_nanos()).unwrap();
    }
    pair.settle();
    let copy = KegId(random::array());
    let there = pair.theirs.replica.view().lookup(ROOT_INO, b"false").unwrap().unwrap();
    let extents = pair.theirs.replica.view().extents(there.ino, 0, 99).unwrap();
    let extents: Vec<_> = extents.iter().filter_map(|extent| extent.clip(0, 99)).collect();
    let content = OpKind::Content { keg: copy, truncate: Some(0), holes: vec![], extents, size: 99, mtime_ns };
    for kind in [create(copy, b"copy"), content] {
        pair.theirs.replica.submit(kind, clock::unix_nanos()).unwrap();
    }
    write(&pair.theirs, "more", b"and goes on");
    eventually("bob's work is there", || pair.theirs.status().pending_ops == 0);
    pair.settle();
    assert_eq!(read(&pair.ours, "more").unwrap(), b"and goes on");
    let told = pair.theirs.replica.view().warnings(0, 9).unwrap();
    let lost = kegfs::replica::Happening::ContentLost { blobs: 1 };
    assert!(told.iter().any(|(_, line)| line.what == lost), "{told:?}");
    let copy = pair.ours.replica.view().lookup(ROOT_INO, b"copy").unwrap().unwrap();
    let there = pair.ours.replica.view().extents(copy.ino, 0, 99).unwrap();
    assert!(copy.size == 99 && there.len() == 1 && there[0].key == [0; 32], "it opens nothing: {}", there.len());
}

#[test]
fn what_only_another_member_has_is_sent_by_that_member() {
    let pair = Pair::on(Kegd::start_with(at_once()));
    let blobs = bob_clones_offline_what_is_released_meanwhile(&pair, false);
    eventually("it is removed", || stored(&pair.kegd).is_disjoint(&blobs));
    pair.bob.network.set_offline(false);
    eventually("alice's client has sent it", || stored(&pair.kegd).is_superset(&blobs));
    // Bob's may add it too, at any time until it has heard of that.
    let known = |folder: &Folder| !folder.replica.has_missed() && folder.status().pending_ops == 0;
    eventually("both know", || {
        known(&pair.ours) && known(&pair.theirs) && pair.ours.replica.mark() == pair.theirs.replica.mark()
    });
    wait_removed(&pair);
    assert!(stored(&pair.kegd).is_superset(&blobs));
    assert_eq!(read(&pair.theirs, "copy").unwrap(), b"what bob clones. ".repeat(5000));
}

#[test]
fn work_that_refers_to_more_than_an_entry_adds_again_arrives_whole() {
    let mut pair = Pair::on(Kegd::start_with(at_once()));
    let piece = |number: usize| format!("piece {number:04}").into_bytes();
    let whole: Vec<u8> = (0..260).flat_map(piece).collect();
    // Of 260 blobs, as if it had been written piece by piece.
    write(&pair.ours, "old", b"to be overwritten");
    let keg = keg_of(&pair.ours, "old");
    let sealed = |number: usize| {
        let mut extent = seal(&pair.ours, &piece(number)).remove(0);
        extent.offset = number as u64 * 10;
        extent
    };
    let (extents, size) = ((0..260).map(sealed).collect(), whole.len() as u64);
    let content = OpKind::Content { keg, truncate: Some(0), holes: vec![], extents, size, mtime_ns: 0 };
    pair.ours.replica.submit(content, clock::unix_nanos()).unwrap();
    pair.settle();
    assert_eq!(read(&pair.theirs, "old").unwrap(), whole);
    pair.bob.network.set_offline(true);
    clone(&pair.theirs, "old", "copy");
    clone(&pair.theirs, "old", "another");
    remove(&pair.ours, "old");
    sync(&pair.ours);
    let_go(&pair);
    eventually("it is removed", || stored(&pair.kegd).is_empty());
    pair.bob.network.set_offline(false);
    eventually("bob's work is there", || pair.theirs.online() && pair.theirs.status().pending_ops == 0);
    pair.settle();
    wait_removed(&pair);
    assert_eq!(stored(&pair.kegd).len(), 260);
    let seen = afresh(&mut pair);
    assert!(seen.len() == 2 && seen.values().all(|content| *content == whole));
}

#[test]
fn cloning_and_releasing_at_the_same_time_loses_nothing() {
    let mut pair = Pair::on(Kegd::start_with(at_once()));
    pair.alice.session().set_retention(&pair.ours, NONE).unwrap();
    for round in 0..8 {
        write(&pair.ours, &format!("old {round}"), format!("content of {round}. ").repeat(1000).as_bytes());
    }
    pair.settle();
    tree(&pair.theirs);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..8 {
                remove(&pair.ours, &format!("old {round}"));
                sync(&pair.ours);
                match pair.alice.session().thin_out(&pair.ours) {
                    // Bob was faster each time. The next one does it all.
                    Ok(_) | Err(SyncError::TimedOut(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        scope.spawn(|| {
            for round in 0..8 {
                if names(&pair.theirs).contains(&format!("old {round}")) {
                    clone(&pair.theirs, &format!("old {round}"), &format!("new {round}"));
                }
                write(&pair.theirs, "beside", format!("{round}").as_bytes());
                std::thread::sleep(Duration::from_millis(25));
            }
        });
    });
    pair.settle();
    pair.alice.session().thin_out(&pair.ours).unwrap();
    wait_removed(&pair);
    assert_eq!(stored(&pair.kegd), in_use(&pair.ours));
    let seen = afresh(&mut pair);
    assert!(seen.keys().any(|name| name.starts_with("new")), "{:?}", seen.keys());
    for (name, content) in seen {
        if let Some(round) = name.strip_prefix("new ") {
            assert_eq!(content, format!("content of {round}. ").repeat(1000).as_bytes());
        }
    }
}

#[test]
fn the_state_that_a_member_began_with_is_kept_for_new_devices_until_nobody_begins_with_it() {
    let pair = Pair::on(Kegd::start_with(at_once()));
    write(&pair.ours, "plan", &b"one ".repeat(30_000));
    sync(&pair.ours);
    patch(&pair.ours, "plan", 5000, b"TWO");
    sync(&pair.ours);
    let mut carol = Person::join(&pair.kegd, "carol");
    pair.alice.session().add_member_with(&pair.ours, carol.id, Role::Editor, History::None).unwrap();
    carol.folder("acme").catch_up_blocking(PATIENCE).unwrap();
    let states: BTreeSet<BlobId> = log(&*pair.alice.network, pair.ours.id())
        .iter()
        .filter(|(_, envelope)| envelope.kind == EntryKind::Checkpoint)
        .flat_map(|(_, envelope)| envelope.adds.iter().map(|blob| blob.id))
        .collect();
    assert!(!states.is_empty());
    write(&pair.ours, "plan", b"three");
    sync(&pair.ours);
    let_go(&pair);
    pair.settle();
    wait_removed(&pair);
    assert!(stored(&pair.kegd).is_superset(&states));
    carol.forget();
    carol.unlock();
    let hers = carol.folder("acme");
    hers.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(tree(&hers), tree(&pair.ours));
    drop(hers);
    pair.alice.session().remove_member(&pair.ours, carol.id).unwrap();
    let_go(&pair);
    eventually("her state is gone too", || stored(&pair.kegd) == in_use(&pair.ours));
}

#[test]
fn an_upload_that_no_entry_comes_for_is_removed_and_its_room_given_back() {
    let limits = Limits { upload_keep: Duration::from_secs(1), ..at_once() };
    let pair = Pair::on(Kegd::start_with(limits));
    write(&pair.ours, "plan", b"there");
    sync(&pair.ours);
    let bytes = random::array::<4096>();
    let blob = BlobId(kegfs::crypto::verified::blob_id(&bytes));
    wait(pair.bob.network.put_blob(pair.ours.id(), blob, bytes.to_vec().into())).unwrap();
    eventually("it is removed", || stored(&pair.kegd) == in_use(&pair.ours));
    let left: u64 = lengths(pair.kegd.data()).into_values().sum();
    eventually("its room is given back", || pair.ours.room().is_some_and(|room| room.used_bytes == left));
    wait_removed(&pair);
    assert_eq!(stored(&pair.kegd), in_use(&pair.ours), "what an entry came for stays");
}

#[test]
fn an_upload_that_was_removed_before_its_entry_came_is_sent_again() {
    let limits = Limits { upload_keep: Duration::ZERO, ..at_once() };
    let pair = Pair::on(Kegd::start_with(limits));
    let refused = RemoteError::Timeout;
    pair.bob.network.script(Call::Append, 0, u32::MAX, Fault::Fail(refused));
    write(&pair.theirs, "plan", b"uploaded, and then for long nothing");
    eventually("it is uploaded", || pair.bob.network.calls(Call::Append) > 0);
    eventually("it is removed", || stored(&pair.kegd).is_empty());
    pair.bob.network.behave();
    pair.settle();
    wait_removed(&pair);
    pair.ours.local.clear_cache().unwrap();
    assert_eq!(read(&pair.ours, "plan").unwrap(), b"uploaded, and then for long nothing");
}

fn path_of(kegd: &Kegd, db: DbId, blob: &BlobId) -> PathBuf {
    let dir = kegd.data().join("blobs").join(db.to_string()).join(format!("{:02x}", blob.0[0]));
    dir.join(blob.to_string())
}

#[test]
fn a_blob_that_cannot_be_removed_does_not_hold_up_the_others_of_its_folder_and_of_others() {
    let pair = Pair::on(Kegd::start_with(at_once()));
    let second = pair.alice.session().create_folder("second").unwrap();
    for folder in [&pair.ours, &second] {
        for version in 0..3 {
            write(folder, "plan", format!("version {version}").as_bytes());
            sync(folder);
        }
    }
    pair.settle();
    let known = stored(&pair.kegd);
    let past = |folder: &Folder| {
        let mine = |blob: &&BlobId| path_of(&pair.kegd, folder.id(), blob).exists();
        let used = in_use(folder);
        known.iter().filter(mine).filter(|blob| !used.contains(*blob)).copied().collect::<Vec<_>>()
    };
    let (stuck, rest) = (past(&pair.ours), past(&second));
    assert_eq!((stuck.len(), rest.len()), (2, 2));
    // What a failing disk would do: there is something in its place that does not go.
    let bad = path_of(&pair.kegd, pair.ours.id(), &stuck[0]);
    fs::remove_file(&bad).unwrap();
    fs::create_dir_all(bad.join("stuck")).unwrap();
    for folder in [&pair.ours, &second] {
        pair.alice.session().set_retention(folder, NONE).unwrap();
        pair.alice.session().thin_out(folder).unwrap();
    }
    eventually("the others are removed", || {
        stored(&pair.kegd).is_disjoint(&rest.iter().chain(&stuck).copied().collect())
    });
    assert!(bad.exists());
    assert!(!in_use(&pair.ours).is_empty() && stored(&pair.kegd).is_superset(&in_use(&pair.ours)));
}

#[test]
fn what_no_row_knows_is_found_at_the_start_and_removed_and_what_has_one_is_not_touched() {
    let limits = Limits { upload_keep: Duration::from_millis(500), ..at_once() };
    let mut pair = Pair::on(Kegd::start_with(limits));
    for version in 0..3 {
        write(&pair.ours, "plan", format!("version {version}").repeat(30_000).as_bytes());
        sync(&pair.ours);
    }
    pair.settle();
    let known = stored(&pair.kegd);
    assert_eq!(known.len(), 3);
    let db = pair.ours.id();
    let kept = known.first().unwrap();
    pair.kegd.kill();
    // What a crash leaves: bytes before their row was written, trees after their blob was removed, in a folder and of one that
    // is nowhere.
    let orphan = |number: u8| (BlobId([number; 32]), path_of(&pair.kegd, db, &BlobId([number; 32])));
    let (bytes, lone) = (orphan(7), orphan(9));
    let tree = |path: &std::path::Path| path.with_extension("obao");
    for (_, path) in [&bytes, &lone] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(tree(path), b"a tree").unwrap();
    }
    fs::write(&bytes.1, b"bytes that nobody knows of").unwrap();
    let kept_tree = tree(&path_of(&pair.kegd, db, kept));
    fs::write(&kept_tree, b"a tree").unwrap();
    pair.kegd.restart();
    eventually("they are gone", || !bytes.1.exists() && !tree(&bytes.1).exists() && !tree(&lone.1).exists());
    assert_eq!(stored(&pair.kegd), known);
    assert!(kept_tree.exists());
}

#[test]
fn a_server_that_is_killed_again_and_again_removes_what_was_released_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(dir.path(), &["--release-grace", "1s"]);
    let mut alice = Person::join_at(&server.url(), &server.invite(), "alice");
    let ours = alice.session().create_folder("acme").unwrap();
    for number in 0..400 {
        write(&ours, &format!("file {number}"), format!("content of {number}").as_bytes());
    }
    sync(&ours);
    for number in 20..400 {
        remove(&ours, &format!("file {number}"));
    }
    sync(&ours);
    assert_eq!(lengths(&server.data).len(), 400);
    alice.session().set_retention(&ours, NONE).unwrap();
    eventually("all of it is released", || {
        alice.session().thin_out(&ours).unwrap();
        let released = ours.replica.released(&lengths(&server.data).into_keys().collect::<Vec<_>>()).unwrap();
        released.len() + 20 == lengths(&server.data).len()
    });
    let (today, wanted) = (tree(&ours), in_use(&ours));
    for pause_ms in [0, 1000, 40, 210, 230, 250, 300] {
        std::thread::sleep(Duration::from_millis(pause_ms));
        server.kill9();
        assert!(lengths(&server.data).into_keys().collect::<BTreeSet<_>>().is_superset(&wanted));
        server.restart();
    }
    eventually("what was released is gone", || lengths(&server.data).into_keys().collect::<BTreeSet<_>>() == wanted);
    drop(ours);
    alice.forget();
    alice.unlock();
    let again: Arc<Folder> = alice.folder("acme");
    again.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(tree(&again), today);
    write(&again, "file 0", b"one more version");
    sync(&again);
    alice.session().thin_out(&again).unwrap();
    eventually("the server's log tells", || {
        fs::read_to_string(server.data.join("kegd.log")).unwrap().contains("removed what nothing refers to")
    });
}

#[test]
fn on_a_mount_the_room_comes_back_and_every_file_is_what_it_was() {
    let kegd = Kegd::start_with(at_once());
    let mut alice = Person::join(&kegd, "alice");
    let dir = tempfile::tempdir().unwrap();
    let mut bob = Member::create(dir.path(), "bob", &kegd.url(), &kegd.invite);
    let ours = alice.session().create_folder("acme").unwrap();
    alice.session().add_member(&ours, bob.account.parse().unwrap(), Role::Admin).unwrap();
    alice.session().set_retention(&ours, NONE).unwrap();
    drop(ours);
    alice.lock();
    let mnt = bob.mount("acme");
    let free = || nix::sys::statvfs::statvfs(&mnt).unwrap();
    // Once a day clients do it by themselves: that was it for today, and what follows is done by the command.
    bob.ok(&["retention", "acme", "--now"]);
    fs::create_dir(mnt.join("dir")).unwrap();
    for number in 0..20 {
        fs::write(mnt.join(format!("dir/small {number}")), format!("small file {number}")).unwrap();
    }
    let large: Vec<u8> = random::array::<4096>().repeat(2048);
    fs::write(mnt.join("large"), &large).unwrap();
    fs::write(mnt.join("other"), &large[5..]).unwrap();
    bob.sync();
    fs::rename(mnt.join("other"), mnt.join("large")).unwrap();
    fs::write(mnt.join("dir/small 3"), "another content").unwrap();
    bob.sync();
    let before = digest(&mnt);
    let used = |stat: nix::sys::statvfs::Statvfs| (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
    wait_for("df shows both versions", PATIENCE, || used(free()) > 16 << 20);
    let json: serde_json::Value = serde_json::from_str(&bob.ok(&["retention", "acme", "--now", "--json"])).unwrap();
    assert!(json["released_bytes"].as_u64().unwrap() > 8 << 20, "{json}");
    assert!((8 << 20..9 << 20).contains(&json["stored_bytes"].as_u64().unwrap()), "{json}");
    wait_for("df shows one", PATIENCE, || used(free()) < 9 << 20);
    assert_eq!(digest(&mnt), before);
    bob.unmount(&mnt);
    alice.forget();
    alice.unlock();
    let ours = alice.folder("acme");
    ours.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(read(&ours, "large").unwrap(), large[5..]);
    let again = bob.mount("acme");
    assert_eq!(digest(&again), before);
}
