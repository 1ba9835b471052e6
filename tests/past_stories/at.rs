//! `.keg/at/WHEN/` on real mounts: the folder as it was.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use super::common::tree::digest;
use super::common::{Member, Team, wait_for};

const SOON: Duration = Duration::from_secs(20);

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn moment() -> String {
    std::thread::sleep(Duration::from_millis(20));
    let now = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(20));
    now
}

#[test]
fn the_folder_as_it_was_is_a_read_only_tree_with_everything_in_it() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::create_dir_all(alice.join("docs/deep")).unwrap();
    fs::write(alice.join("docs/plan.txt"), "the first plan").unwrap();
    fs::write(alice.join("docs/deep/big"), vec![7_u8; 9 << 20]).unwrap();
    fs::set_permissions(alice.join("docs/plan.txt"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("plan.txt", alice.join("docs/link")).unwrap();
    xattr::set(alice.join("docs/plan.txt"), "user.tag", b"old").unwrap();
    team.alice.sync();
    let before = digest(&alice);
    let mtime = fs::metadata(alice.join("docs/plan.txt")).unwrap().mtime();
    let then = moment();
    fs::write(alice.join("docs/plan.txt"), "another plan, much longer").unwrap();
    xattr::set(alice.join("docs/plan.txt"), "user.tag", b"new").unwrap();
    fs::rename(alice.join("docs/deep"), alice.join("elsewhere")).unwrap();
    fs::remove_file(alice.join("docs/link")).unwrap();
    fs::write(alice.join("later"), "later").unwrap();
    team.alice.sync();
    wait_for("bob has it", SOON, || bob.join("later").exists());
    for dir in [&alice, &bob] {
        let was = dir.join(".keg/at").join(&then);
        let mut seen = digest(&was);
        // A tree of a moment cannot be written to, and says so.
        for facts in seen.values_mut() {
            facts.1 |= 0o200;
        }
        let expected: Vec<_> = before
            .iter()
            .map(|(path, facts)| {
                (path.clone(), (facts.0, if facts.0 == 'l' { 0o200 } else { facts.1 }, facts.2.clone()))
            })
            .collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
        let plan = was.join("docs/plan.txt");
        let metadata = fs::metadata(&plan).unwrap();
        assert_eq!((metadata.len(), metadata.mtime(), metadata.mode() & 0o777), (14, mtime, 0o550));
        assert_eq!(xattr::get(&plan, "user.tag").unwrap().as_deref(), Some(&b"old"[..]));
        assert_eq!(fs::read_link(was.join("docs/link")).unwrap(), Path::new("plan.txt"));
        assert_eq!(errno(fs::write(&plan, "x")), libc::EROFS);
        assert_eq!(errno(fs::remove_file(&plan)), libc::EROFS);
        assert_eq!(errno(fs::create_dir(was.join("new"))), libc::EROFS);
        assert!(!was.join("later").exists());
        // `..` of its root leads back.
        assert!(fs::canonicalize(was.join("..")).unwrap().ends_with(".keg/at"));
    }
    // The present is what it is.
    assert_eq!(fs::read(alice.join("docs/plan.txt")).unwrap(), b"another plan, much longer");
}

#[test]
fn moments_are_named_in_many_ways_and_none_is_made_up() {
    let mut team = Team::new();
    let (alice, _) = team.mount();
    fs::write(alice.join("note"), "one").unwrap();
    team.alice.sync();
    let lines: serde_json::Value = serde_json::from_str(&team.alice.ok(&["history", "acme/note", "--json"])).unwrap();
    let version = lines["lines"][0]["version"].as_str().unwrap().to_owned();
    fs::write(alice.join("note"), "two").unwrap();
    team.alice.sync();
    let at = alice.join(".keg/at");
    assert_eq!(fs::read(at.join(&version).join("note")).unwrap(), b"one");
    assert_eq!(fs::read(at.join("now/note")).unwrap(), b"two");
    assert_eq!(fs::read(at.join("0s-ago/note")).unwrap(), b"two");
    // What is going on shows under one name as it goes on.
    fs::write(alice.join("note"), "three").unwrap();
    team.alice.sync();
    wait_for("now is now", SOON, || fs::read(at.join("now/note")).is_ok_and(|read| read == b"three"));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "moments are found by name only");
    for none in ["2001-01-01", "1000w-ago", "seq-999999", "tomorrow", "seq-", "2099-01-01", "2099-01-01T00:00:00Z"] {
        assert_eq!(errno(fs::metadata(at.join(none))), libc::ENOENT, "{none}");
    }
    assert_eq!(errno(fs::create_dir(at.join("mine"))), libc::EROFS);
    assert!(!at.join(&version).join(".keg").exists(), "a moment has no .keg of its own");
}

#[test]
fn who_came_without_history_sees_no_moment_from_before() {
    let mut team = Team::new();
    let (alice, _) = team.mount();
    fs::write(alice.join("secret draft"), "not for carol, not ever").unwrap();
    team.alice.sync();
    let before = moment();
    fs::write(alice.join("secret draft"), "for everybody").unwrap();
    team.alice.sync();
    let mut carol = Member::create(team.dir.path(), "carol", &team.server.url(), &team.server.invite());
    team.alice.ok(&["member", "add", "acme", &carol.account, "--role", "editor", "--history", "none"]);
    let mount = carol.mount("acme");
    wait_for("carol sees the present", SOON, || {
        fs::read(mount.join("secret draft")).is_ok_and(|read| read == b"for everybody")
    });
    for none in [before.as_str(), "seq-1", "seq-4"] {
        assert_eq!(errno(fs::metadata(mount.join(".keg/at").join(none))), libc::ENOENT, "{none}");
    }
    let refused = carol.kegfs(&["restore", "acme", "--at", &before, "--dry-run"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("younger than that"), "{refused:?}");
    let lines = carol.ok(&["history", "acme/secret draft"]);
    assert!(!lines.contains("23 B"), "the draft's length is not told: {lines}");
    // From then on there is a past.
    let here = moment();
    fs::write(mount.join("secret draft"), "changed by carol").unwrap();
    carol.sync();
    assert_eq!(fs::read(mount.join(".keg/at").join(&here).join("secret draft")).unwrap(), b"for everybody");
}

#[test]
fn conflicts_are_told_in_keg() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::write(alice.join("sheet"), "before").unwrap();
    team.alice.sync();
    wait_for("bob has it", SOON, || bob.join("sheet").exists());
    assert_eq!(fs::read_to_string(alice.join(".keg/conflicts")).unwrap(), "no conflicts\n");
    team.server.kill9();
    fs::write(alice.join("sheet"), "alice's").unwrap();
    fs::write(bob.join("sheet"), "bob's").unwrap();
    team.server.restart();
    team.alice.sync();
    team.bob.sync();
    for dir in [&alice, &bob] {
        wait_for("the conflict is told", SOON, || {
            let told = fs::read_to_string(dir.join(".keg/conflicts")).unwrap();
            told.contains("sheet (conflict, ") && told.contains("laptop")
        });
    }
}
