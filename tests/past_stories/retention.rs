//! Letting go of the past: the rule, thinning out, and members who have not heard of it yet.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use kegfs::format::{Extent, RetentionRule, Role};
use kegfs::keg::{Node, ROOT_INO};
use kegfs::remote::{Call, Fault};
use kegfs::replica::{Happening, Past, ReplicaError};
use kegfs::sync::{Folder, History, SyncError};

use super::common::{Member, Team};
use super::sync_support::lived::*;
use super::sync_support::*;

/// Nothing is kept for any time but the last of each hour.
const HOURLY: RetentionRule = RetentionRule {
    keep_all_s: 0,
    hourly_s: RetentionRule::FOREVER,
    daily_s: RetentionRule::FOREVER,
    weekly_s: RetentionRule::FOREVER,
};
/// Nothing at all.
pub const NONE: RetentionRule = RetentionRule { keep_all_s: 0, hourly_s: 0, daily_s: 0, weekly_s: 0 };

/// A member's view of one moment: names in the root with their nodes' lengths and extents.
type Shown = BTreeMap<Vec<u8>, (u64, Vec<Extent>)>;

fn moment(past: &Past<'_>) -> Shown {
    let read = |node: &Node| (node.size, past.extents(node.ino, 0, u64::MAX).unwrap());
    let entries = past.readdir(ROOT_INO, 0, usize::MAX).unwrap();
    entries.into_iter().map(|entry| (entry.name.clone(), read(&entry.node))).collect()
}

/// All moments that are left, with what they show.
fn moments(folder: &Folder) -> BTreeMap<u64, Shown> {
    let mut found = BTreeMap::new();
    for seq in 1..=folder.replica.mark().seq {
        match folder.replica.at(seq) {
            Ok(past) => drop(found.insert(seq, moment(&past))),
            Err(ReplicaError::ThinnedOut { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    found
}

fn overwrite(pair: &Pair, name: &str, versions: u32) {
    for version in 0..versions {
        write(&pair.ours, name, format!("version {version} of {name}").as_bytes());
        pair.ours.wait_uploaded_blocking(PATIENCE).unwrap();
    }
}

#[test]
fn the_past_is_thinned_out_for_everybody_alike_and_the_present_is_not_touched() {
    let pair = Pair::new();
    overwrite(&pair, "plan", 6);
    overwrite(&pair, "note", 3);
    pair.settle();
    let (today, before) = (tree(&pair.ours), moments(&pair.ours));
    let session = pair.alice.session();
    session.set_retention(&pair.ours, HOURLY).unwrap();
    // Unless her client was faster by itself.
    session.thin_out(&pair.ours).unwrap();
    pair.settle();
    let left = moments(&pair.ours);
    // The last of this hour; where the key began; what came after; and the last of the hour before, should one have ended.
    assert!(before.len() - before.keys().filter(|seq| left.contains_key(seq)).count() >= 7, "{:?}", left.keys());
    for (seq, shown) in &left {
        assert!(before.get(seq).is_none_or(|was| was == shown), "version {seq} shows something else than before");
    }
    assert_eq!(moments(&pair.theirs), left);
    assert_eq!(tree(&pair.ours), today);
    assert_eq!(tree(&pair.theirs), today);
    assert!(session.thin_out(&pair.ours).unwrap().moments <= 2, "nothing is left but what the thinning itself brought");
    pair.settle();
    // Who comes later with the whole history has what is left of it.
    let carol = Person::join(&pair.kegd, "carol");
    session.add_member(&pair.ours, carol.id, Role::Viewer).unwrap();
    let hers = carol.folder("acme");
    hers.catch_up_blocking(PATIENCE).unwrap();
    pair.settle();
    assert_eq!(moments(&hers), moments(&pair.ours));
    assert_eq!(tree(&hers), today);
}

#[test]
fn owners_set_the_rule_admins_thin_out_and_editors_do_neither() {
    let pair = Pair::new();
    overwrite(&pair, "plan", 4);
    pair.settle();
    let (alice, bob) = (pair.alice.session(), pair.bob.session());
    let refused =
        |result: Result<(), SyncError>| assert!(matches!(result, Err(SyncError::NotAllowed { .. })), "{result:?}");
    refused(bob.set_retention(&pair.theirs, NONE));
    refused(bob.thin_out(&pair.theirs).map(drop));
    alice.set_role(&pair.ours, pair.bob.id, Role::Admin, None).unwrap();
    pair.settle();
    refused(bob.set_retention(&pair.theirs, NONE));
    assert_eq!(bob.thin_out(&pair.theirs).unwrap().moments, 0, "by the usual rule nothing is old enough");
    alice.set_retention(&pair.ours, HOURLY).unwrap();
    pair.settle();
    assert_eq!(bob.retention(&pair.theirs).unwrap().rule, HOURLY);
    assert!(bob.thin_out(&pair.theirs).unwrap().moments > 0);
    let told = pair.theirs.replica.view().activity(0, 99).unwrap();
    assert!(told.iter().any(|(_, line)| line.what == Happening::Retention { rule: HOURLY }), "{told:?}");
}

#[test]
fn the_past_is_thinned_out_by_itself_once_a_day_at_most() {
    let pair = Pair::new();
    overwrite(&pair, "plan", 5);
    let session = pair.alice.session();
    session.set_retention(&pair.ours, HOURLY).unwrap();
    eventually("the client of an owner has done it", || session.retention(&pair.ours).unwrap().size.thinned > 0);
    let thinned = session.retention(&pair.ours).unwrap().size.thinned;
    overwrite(&pair, "plan", 5);
    pair.settle();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(session.retention(&pair.ours).unwrap().size.thinned, thinned, "not twice on one day");
}

#[test]
fn work_from_before_a_thinning_arrives_whole_at_everybody() {
    let pair = Pair::new();
    bob_works_offline_while_alice_goes_on(&pair);
    pair.alice.session().set_retention(&pair.ours, NONE).unwrap();
    assert!(pair.alice.session().thin_out(&pair.ours).unwrap().moments > 0);
    write(&pair.ours, "later", b"so that the thinning is not the last entry");
    pair.ours.wait_uploaded_blocking(PATIENCE).unwrap();
    pair.bob.network.set_offline(false);
    eventually("bob's work is there", || pair.theirs.online() && pair.theirs.status().pending_ops == 0);
    pair.settle();
    let shown = names(&pair.ours);
    assert_eq!(names(&pair.theirs), shown);
    for folder in [&pair.ours, &pair.theirs] {
        assert_eq!(read(folder, "gone").unwrap(), b"BOB!: written by alice, 40 characters...");
        assert_eq!(read(folder, "changed").unwrap(), b"alice was faster, and shorter");
        let conflict = shown.iter().find(|name| name.starts_with("changed (conflict, bob")).unwrap();
        assert_eq!(read(folder, conflict).unwrap(), b"BOB!geBOB!ritten by alice, 40 characters...");
        let dir = folder.replica.view().lookup(ROOT_INO, b"dir").unwrap().unwrap();
        assert_eq!(dir.mode, 0o750);
        assert!(folder.replica.view().lookup(dir.ino, b"inside").unwrap().is_some());
    }
    assert_eq!(moments(&pair.theirs), moments(&pair.ours));
}

/// Bob goes on writing to the version that he knew, which has lost, and lost again before he has sent all of it.
#[test]
fn work_on_a_version_that_lost_twice_from_before_a_change_of_the_key_arrives_whole_at_everybody() {
    let pair = Pair::new();
    write(&pair.ours, "log", b"known by bob, 30 characters...");
    pair.settle();
    let (keg, known) = (keg_of(&pair.theirs, "log"), pair.theirs.replica.head().seq);
    write(&pair.ours, "log", b"alice's");
    pair.settle();
    patch_based(&pair.theirs, keg, 0, b"FIRST", 30, known);
    pair.settle();
    let lost = names(&pair.ours).into_iter().find(|name| name.starts_with("log (conflict, bob")).unwrap();
    assert_eq!(read(&pair.ours, &lost).unwrap(), b"FIRST by bob, 30 characters...");
    pair.bob.network.set_offline(true);
    eventually("bob is offline", || !pair.theirs.online());
    for (offset, bytes) in [(9, &b"BOB"[..]), (14, b"40")] {
        patch_based(&pair.theirs, keg, offset, bytes, 30, known);
    }
    pair.theirs.replica.flush(true).unwrap();
    write(&pair.ours, &lost, b"alice wrote to bob's version, which now has 50 characters");
    sync(&pair.ours);
    pair.alice.session().rotate(&pair.ours).unwrap();
    pair.bob.network.set_offline(false);
    eventually("bob's work is there", || pair.theirs.online() && pair.theirs.status().pending_ops == 0);
    pair.settle();
    let shown = tree(&pair.ours);
    assert_eq!(tree(&pair.theirs), shown);
    assert_eq!((shown.len(), shown["log"].as_slice()), (3, &b"alice's"[..]));
    assert_eq!(shown[&lost], b"alice wrote to bob's version, which now has 50 characters");
    let (_, second) = shown.iter().find(|(name, _)| *name != "log" && **name != lost).unwrap();
    assert_eq!(String::from_utf8_lossy(second), "FIRST by BOB, 40 characters...");
}

#[test]
fn what_a_new_member_begins_with_lasts_until_nobody_begins_with_it() {
    let pair = Pair::new();
    overwrite(&pair, "plan", 3);
    let carol = Person::join(&pair.kegd, "carol");
    pair.alice.session().add_member_with(&pair.ours, carol.id, Role::Editor, History::None).unwrap();
    let hers = carol.folder("acme");
    hers.catch_up_blocking(PATIENCE).unwrap();
    let began = pair.ours.replica.mark().seq - 1;
    overwrite(&pair, "plan", 3);
    pair.alice.session().set_retention(&pair.ours, NONE).unwrap();
    pair.alice.session().thin_out(&pair.ours).unwrap();
    overwrite(&pair, "plan", 2);
    hers.catch_up_blocking(PATIENCE).unwrap();
    let left = moments(&pair.ours);
    let lasting: Vec<u64> = left.keys().copied().filter(|seq| *seq <= began).collect();
    assert_eq!(lasting.len(), 1, "{lasting:?}");
    // Hers begin with that one, and go on as everybody's.
    let theirs: Vec<u64> = (lasting[0]..=hers.replica.mark().seq).filter(|seq| hers.replica.at(*seq).is_ok()).collect();
    assert_eq!(theirs, left.keys().copied().collect::<Vec<_>>());
    assert_eq!(tree(&hers), tree(&pair.ours));
    pair.alice.session().remove_member(&pair.ours, carol.id).unwrap();
    pair.alice.session().thin_out(&pair.ours).unwrap();
    assert!(!moments(&pair.ours).contains_key(&lasting[0]));
}

/// Between choosing where the newcomer's history begins and saying so in the log.
#[test]
fn nobody_begins_with_what_was_thinned_out_while_they_were_being_added() {
    let pair = Pair::new();
    let (alice, bob) = (pair.alice.session(), pair.bob.session());
    alice.set_role(&pair.ours, pair.bob.id, Role::Admin, None).unwrap();
    alice.rotate(&pair.ours).unwrap();
    let began = pair.ours.replica.mark().seq;
    overwrite(&pair, "plan", 2);
    std::thread::sleep(Duration::from_millis(20));
    let since_ms = kegfs::sys::clock::unix_nanos() / 1_000_000;
    std::thread::sleep(Duration::from_millis(20));
    alice.rotate(&pair.ours).unwrap();
    overwrite(&pair, "plan", 2);
    pair.settle();
    let carol = Person::join(&pair.kegd, "carol");
    std::thread::scope(|scope| {
        // Her account is late: meanwhile the beginning of that epoch is let go of.
        pair.alice.network.script(Call::AccountLog, 0, 1, Fault::Delay(Duration::from_secs(3)));
        let adding = scope.spawn(|| {
            let since = History::Since(since_ms);
            pair.alice.session().add_member_with(&pair.ours, carol.id, Role::Viewer, since)
        });
        std::thread::sleep(Duration::from_millis(500));
        alice.set_retention(&pair.ours, NONE).unwrap();
        eventually("it is thinned out", || {
            bob.thin_out(&pair.theirs).unwrap();
            pair.ours.replica.moment_after(began).unwrap() != began
        });
        let refused = adding.join().unwrap();
        let told = |error: &SyncError| error.to_string().contains("was thinned out meanwhile");
        assert!(refused.as_ref().is_err_and(told), "{refused:?}");
    });
    assert_eq!(pair.alice.session().members(&pair.ours).len(), 2);
}

/// Somebody who uses the commands sees what is left, and it can be gone back to.
#[test]
fn history_and_trash_show_what_is_left_and_it_comes_back() {
    let kegd = Kegd::start();
    let alice = Person::join(&kegd, "alice");
    let dir = tempfile::tempdir().unwrap();
    let bob = Member::create(dir.path(), "bob", &kegd.url(), &kegd.invite);
    let ours = alice.session().create_folder("acme").unwrap();
    alice.session().add_member(&ours, bob.account.parse().unwrap(), Role::Editor).unwrap();
    let sync = || ours.wait_uploaded_blocking(PATIENCE).unwrap();
    for version in ["one", "two", "three"] {
        write(&ours, "plan", version.as_bytes());
        write(&ours, "never", b"removed within the hour");
        sync();
    }
    write(&ours, "later", b"removed later");
    remove(&ours, "never");
    sync();
    alice.session().set_retention(&ours, HOURLY).unwrap();
    alice.session().thin_out(&ours).unwrap();
    write(&ours, "plan", b"four");
    remove(&ours, "later");
    sync();
    ours.catch_up_blocking(PATIENCE).unwrap();
    bob.sync();
    let json = |arguments: &[&str]| -> serde_json::Value { serde_json::from_str(&bob.ok(arguments)).unwrap() };
    let lines = json(&["history", "acme/plan", "--json"]);
    let lines = lines["lines"].as_array().unwrap();
    assert!((2..=3).contains(&lines.len()), "what was thinned out is not listed: {lines:?}");
    for line in lines {
        let version = line["version"].as_str().unwrap();
        bob.ok(&["restore", "acme/plan", "--at", version, "--dry-run"]);
    }
    let trash = json(&["trash", "acme", "--json"]);
    let paths: Vec<_> = trash["lines"].as_array().unwrap().iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["later"], "of the other no version is left");
    bob.ok(&["trash", "acme", "--restore", "later"]);
    let before = lines.last().unwrap()["version"].as_str().unwrap();
    bob.ok(&["restore", "acme/plan", "--at", before]);
    bob.sync();
    ours.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(read(&ours, "later").unwrap(), b"removed later");
    assert_eq!(read(&ours, "plan").unwrap(), b"three");
    let gone = bob.kegfs(&["restore", "acme/plan", "--at", "seq-3"]);
    let told = String::from_utf8(gone.stderr).unwrap();
    assert!(!gone.status.success() && told.contains("was thinned out"), "{told}");
}

#[test]
fn the_rule_is_shown_and_set_by_command_and_bad_ones_are_refused() {
    let team = Team::new();
    let shown = team.alice.ok(&["retention", "acme"]);
    assert!(shown.contains("all for 30d, then one a day until 1y, then one a week forever"), "{shown}");
    assert!(shown.contains("nobody has chosen otherwise"), "{shown}");
    let json = team.alice.ok(&["retention", "acme", "--keep-all", "8w", "--then-weekly", "10y", "--now", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["keep_all"], &json["then_daily"], &json["then_weekly"]),
        (&"8w".into(), &"1y".into(), &"10y".into())
    );
    assert_eq!((&json["chosen"], &json["removed"], &json["kept"]), (&true.into(), &0.into(), &0.into()));
    let everything = team.alice.ok(&["retention", "acme", "--keep-everything"]);
    assert!(everything.contains("everything"), "{everything}");
    for (bad, why) in [
        (&["--keep-all", "soon"][..], "is no age"),
        (&["--keep-all", "10m"], "too short"),
        (&["--keep-all", "30d", "--then-daily", "20d"], "too short"),
        (&["--keep-everything", "--keep-all", "30d"], "cannot be used with"),
    ] {
        let arguments = [&["retention", "acme"][..], bad].concat();
        let failed = team.alice.kegfs(&arguments);
        let told = String::from_utf8(failed.stderr).unwrap();
        assert!(failed.status.code() == Some(2) && told.contains(why), "{bad:?}: {told}");
    }
    let failed = team.bob.kegfs(&["retention", "acme", "--keep-all", "1y"]);
    let told = String::from_utf8(failed.stderr).unwrap();
    assert!(!failed.status.success() && told.contains("change how long the past is kept"), "{told}");
    assert!(team.bob.ok(&["retention", "acme"]).contains("everything"));
}
