//! Membership as the mounted directory shows it: roles in the mode bits, removal, purging, guests, on real mounts with
//! warm kernel caches.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;
#[path = "sync_support/hoard.rs"]
mod hoard;
#[path = "mount_members/joining.rs"]
mod joining;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use common::{Member, Team, wait_for};
use kegfs::crypto::{kdf, labels, password};
use kegfs::format::DbId;
use kegfs::keyring::{Identity, KeyRing};
use kegfs::remote::HttpOptions;
use kegfs::replica::{OpenParams, Replica};

const SOON: Duration = Duration::from_secs(30);
const EACCES: i32 = 13;
const ENOENT: i32 = 2;
/// What everything of a folder answers that the user is no member of any more (docs/SEMANTICS.md).
const ESTALE: i32 = 116;

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn write_bits(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o222
}

fn report(what: &str, mut times: Vec<Duration>, bound: Duration) {
    times.sort();
    let p95 = times[(times.len() * 95).div_ceil(100) - 1];
    println!("{what}: median {:?}, p95 {p95:?}, max {:?}", times[times.len() / 2], times[times.len() - 1]);
    assert!(p95 < bound, "{what}: p95 {p95:?} of {times:?}");
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// A third member, as an editor.
fn carol(team: &Team) -> Member {
    let carol = Member::create(team.dir.path(), "carol", &team.server.url(), &team.server.invite());
    team.alice.ok(&["member", "add", "acme", &carol.account]);
    carol
}

#[test]
fn a_removed_members_folder_is_gone_within_half_a_second_and_the_others_use_the_new_key() {
    let mut team = Team::new();
    let mut carol = carol(&team);
    let alice = team.alice.mount("acme");
    let hers = carol.mount("acme");
    let all = team.bob.mount_all();
    let file = all.join("acme/f");
    fs::write(alice.join("f"), b"warm").unwrap();
    let (mut gone, mut in_use) = (Vec::new(), Vec::new());
    for round in 0..20 {
        wait_for("bob sees the file", SOON, || fs::read(&file).is_ok_and(|text| text == b"warm"));
        let mut open = File::open(&file).unwrap();
        open.read_to_end(&mut Vec::new()).unwrap();
        for _ in 0..3 {
            assert_eq!(fs::metadata(&file).unwrap().len(), 4);
        }
        team.alice.ok(&["member", "remove", "acme", "bob"]);
        let start = Instant::now();
        wait_for("bob's folder to be gone", SOON, || fs::read(&file).is_err() && open.read_at(&mut [0; 4], 0).is_err());
        gone.push(start.elapsed());
        assert!(matches!(errno(fs::read(&file)), ENOENT | ESTALE));
        assert_eq!(errno(open.read_at(&mut [0; 4], 0)), ESTALE);
        let name = format!("after-{round}");
        fs::write(hers.join(&name), b"new").unwrap();
        wait_for("carol's file", SOON, || fs::read(alice.join(&name)).is_ok_and(|text| text == b"new"));
        in_use.push(start.elapsed());
        wait_for("an empty list", SOON, || fs::read_dir(&all).unwrap().count() == 0);
        drop(open);
        team.alice.ok(&["member", "add", "acme", &team.bob.account]);
    }
    report("removal to error in a warm mount", gone, Duration::from_millis(500));
    report("removal to the others' next change", in_use, Duration::from_secs(1));
}

#[test]
fn a_role_shows_in_every_warm_mode_bit_at_once_for_root_too() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    for n in 0..100 {
        fs::create_dir(alice.join(format!("d{n}"))).unwrap();
        fs::write(alice.join(format!("d{n}/f")), b"x").unwrap();
    }
    let paths: Vec<_> = (0..100).flat_map(|n| [bob.join(format!("d{n}")), bob.join(format!("d{n}/f"))]).collect();
    wait_for("all files", SOON, || paths.iter().all(|path| path.exists()));
    let mut open = None;
    let (mut down, mut up) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        wait_for("write bits", SOON, || paths.iter().all(|path| write_bits(path) != 0));
        open.get_or_insert_with(|| OpenOptions::new().write(true).open(bob.join("d0/f")).unwrap());
        team.alice.ok(&["member", "role", "acme", "bob", "--role", "viewer"]);
        let start = Instant::now();
        wait_for("no write bits", SOON, || paths.iter().all(|path| write_bits(path) == 0));
        down.push(start.elapsed());
        assert_eq!(errno(OpenOptions::new().write(true).open(bob.join("d7/f"))), EACCES);
        assert_eq!(errno(fs::write(bob.join("new"), b"no")), EACCES);
        assert_eq!(errno(fs::remove_file(bob.join("d3/f"))), EACCES);
        assert_eq!(errno(open.as_ref().unwrap().write_at(b"no", 0)), EACCES);
        assert_eq!(fs::read(bob.join("d3/f")).unwrap(), b"x");
        team.alice.ok(&["member", "role", "acme", &team.bob.account, "--role", "editor"]);
        let start = Instant::now();
        wait_for("write bits again", SOON, || paths.iter().all(|path| write_bits(path) != 0));
        up.push(start.elapsed());
        assert_eq!(open.as_ref().unwrap().write_at(b"y", 0).unwrap(), 1);
        open.as_ref().unwrap().write_at(b"x", 0).unwrap();
    }
    report("editor to viewer, 200 warm inodes", down, Duration::from_millis(500));
    report("viewer to editor, 200 warm inodes", up, Duration::from_millis(500));
}

#[test]
fn a_mount_of_one_folder_answers_estale_after_the_removal_by_path_and_on_handles() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::write(alice.join("f"), b"shared").unwrap();
    wait_for("the file", SOON, || fs::read(bob.join("f")).is_ok_and(|text| text == b"shared"));
    let reader = File::open(bob.join("f")).unwrap();
    reader.read_at(&mut [0; 6], 0).unwrap();
    let directory = File::open(&bob).unwrap();
    let writer = File::create(bob.join("open")).unwrap();
    writer.write_at(b"not even closed", 0).unwrap();
    team.alice.ok(&["member", "remove", "acme", "bob"]);
    wait_for("the end", SOON, || fs::read(bob.join("f")).is_err());
    for answer in [
        errno(fs::read(bob.join("f"))),
        errno(fs::read_dir(&bob)),
        errno(fs::metadata(bob.join("f"))),
        errno(fs::write(bob.join("f"), b"x")),
        errno(reader.read_at(&mut [0; 6], 0)),
        errno(writer.write_at(b"x", 0)),
        errno(directory.metadata()),
    ] {
        assert_eq!(answer, ESTALE);
    }
    drop((reader, directory, writer));
    team.bob.unmount(&bob);
}

#[test]
fn what_a_removed_member_wrote_last_is_kept_and_a_member_again_starts_anew() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::write(alice.join("f"), b"shared").unwrap();
    wait_for("the file", SOON, || fs::read(bob.join("f")).is_ok_and(|text| text == b"shared"));
    let id = json(&team.bob.ok(&["folder", "list", "--json"]))[0]["id"].as_str().unwrap().to_owned();
    let local = team.bob.profile.join("folders").join(&id);
    assert!(local.is_dir());
    // What bob writes while the server is away cannot arrive: then his client sleeps until it is too late. No file of
    // his mount may be open here meanwhile: whoever starts a program closes its copies of them, and would wait.
    team.server.pause();
    fs::create_dir(bob.join("mine")).unwrap();
    fs::write(bob.join("mine/draft"), b"unsent work").unwrap();
    team.bob.pause();
    team.server.resume();
    team.alice.ok(&["member", "remove", "acme", "bob"]);
    team.bob.resume();
    wait_for("the end", SOON, || fs::read(bob.join("f")).is_err());
    wait_for("the purge", SOON, || !local.exists());
    let status = json(&team.bob.ok(&["status", "--json"]));
    assert_eq!(status["folders"].as_array().unwrap().len(), 0);
    let kept = status["kept"].as_array().unwrap();
    assert_eq!(kept.len(), 1, "{status}");
    let name = kept[0]["name"].as_str().unwrap();
    assert!(team.bob.ok(&["status"]).contains(&format!("kegfs recover {name}")));
    let to = team.dir.path().join("recovered");
    team.bob.ok(&["recover", name, to.to_str().unwrap()]);
    assert_eq!(fs::read(to.join("mine/draft")).unwrap(), b"unsent work");
    team.bob.unmount(&bob);
    team.alice.ok(&["member", "add", "acme", &team.bob.account]);
    let bob = team.bob.mount("acme");
    wait_for("the file", SOON, || fs::read(bob.join("f")).is_ok_and(|text| text == b"shared"));
}

#[test]
fn a_guests_folder_goes_when_the_time_is_over() {
    let mut team = Team::new();
    let _alice = team.alice.mount("acme");
    let mut carol = Member::create(team.dir.path(), "carol", &team.server.url(), &team.server.invite());
    let all = carol.mount_all();
    team.alice.ok(&["member", "add", "acme", &carol.account, "--role", "guest", "--can", "edit", "--expires", "6s"]);
    wait_for("the guest's folder", SOON, || all.join("acme").is_dir());
    let list = team.alice.ok(&["member", "list", "acme"]);
    assert!(list.contains("HISTORY") && list.contains("guest-editor, "), "{list}");
    let granted: Vec<serde_json::Value> = json(&team.alice.ok(&["member", "list", "acme", "--json"]))
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["history"].clone())
        .collect();
    assert_eq!(granted, ["full", "full", "none"]);
    assert!(carol.ok(&["status"]).contains("seconds left"));
    fs::write(all.join("acme/note"), b"hello").unwrap();
    wait_for("its end", SOON, || fs::read_dir(&all).unwrap().count() == 0);
    wait_for("the name to be gone", SOON, || errno(fs::read(all.join("acme/note"))) == ENOENT);
    wait_for("the removal", SOON, || {
        json(&team.alice.ok(&["member", "list", "acme", "--json"])).as_array().unwrap().len() == 2
    });
}

#[test]
fn bad_input_is_refused_with_the_next_step_and_changes_nothing() {
    let team = Team::new();
    let nobody = "ab".repeat(32);
    let me = team.alice.account.as_str();
    let before = team.alice.ok(&["member", "list", "acme", "--json"]);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["member", "add", "acme", "dora"], 2, "account show"),
        (&["member", "add", "acme", "bob"], 5, "already"),
        (&["member", "add", "acme", &nobody], 5, "account show"),
        (&["member", "add", "acme", me], 2, "yourself"),
        (&["member", "add", "acme", &team.bob.account], 5, "already"),
        (&["member", "add", "acme", &nobody, "--role", "king"], 2, "possible values"),
        (&["member", "add", "acme", &nobody, "--role", "guest"], 2, "--expires 7d"),
        (&["member", "add", "acme", &nobody, "--role", "guest", "--expires", "2001-01-01"], 2, "past"),
        (&["member", "add", "acme", &nobody, "--role", "guest", "--expires", "soon"], 2, "no time"),
        (&["member", "add", "acme", &nobody, "--expires", "7d"], 2, "--role guest"),
        (&["member", "add", "acme", &nobody, "--can", "edit"], 2, "for guests"),
        (&["member", "remove", "acme", "dora"], 5, "member list"),
        (&["member", "remove", "acme", me], 2, "folder leave"),
        (&["member", "role", "acme", "dora", "--role", "viewer"], 5, "member list"),
        (&["member", "role", "acme", me, "--role", "viewer"], 5, "folder transfer"),
        (&["folder", "leave", "acme"], 5, "folder transfer"),
        (&["folder", "transfer", "acme", "dora"], 5, "member list"),
        (&["member", "add", "acme", &nobody, "--history", "since=2999-01-01"], 2, "future"),
        (&["accept", "kegfs://nowhere"], 2, "link"),
        (&["access", "acme/nothing"], 1, "nothing"),
        (&["verify", "--folder", "acme", "--seen", "many words"], 2, "twelve words"),
        (&["rotate", "nothing"], 1, "folder list"),
        (&["recover", "nothing", "/tmp"], 2, "kegfs recover"),
    ];
    for (args, code, word) in cases {
        refused(&team.alice.kegfs(args), *code, &[word]);
    }
    for args in [
        ["member", "remove", "acme", "alice"].as_slice(),
        &["member", "role", "acme", "bob", "--role", "owner"],
        &["rotate", "acme"],
    ] {
        refused(&team.bob.kegfs(args), 5, &["Editor"]);
    }
    assert_eq!(team.alice.ok(&["member", "list", "acme", "--json"]), before);
    assert!(team.alice.ok(&["member", "list", "acme"]).contains("alice (you)"));
    assert_eq!(json(&team.alice.ok(&["rotate", "acme", "--json"]))["rotated"]["epoch"], 1);
    team.alice.ok(&["folder", "transfer", "acme", "bob", "--step-down"]);
    team.alice.ok(&["folder", "leave", "acme"]);
    assert_eq!(json(&team.bob.ok(&["member", "list", "acme", "--json"])).as_array().unwrap().len(), 1);
}

/// Every path with kind and content; a viewer's mode bits are masked.
fn contents(root: &Path) -> std::collections::BTreeMap<Vec<u8>, (char, String)> {
    common::tree::digest(root).into_iter().map(|(path, (kind, _, digest))| (path, (kind, digest))).collect()
}

/// A device's keys, out of its profile, as whoever owns the machine and knows the passphrase has them.
fn identity(member: &Member) -> Identity {
    let bytes = fs::read(member.profile.join("keystore")).unwrap();
    let opened = password::unwrap(common::PASSPHRASE.as_bytes(), &bytes[40..], b"keystore").unwrap();
    Identity::from_bytes(&opened).unwrap()
}

/// The keys of a folder, out of the profile's replica, while nobody has that open.
fn ring(member: &Member, identity: &Identity, db: DbId) -> KeyRing {
    let key = kdf::derive(labels::KEY_REPLICA, &[identity.local.as_bytes(), db.as_bytes()]);
    let params = OpenParams { db, device: identity.device_id(), label: String::new() };
    let replica = Replica::open(&member.profile.join("folders").join(db.to_string()), &key, params).unwrap();
    let bytes = replica.load_keyring().unwrap().unwrap();
    replica.close().unwrap();
    KeyRing::from_bytes(&bytes).unwrap()
}

#[test]
fn a_member_without_history_sees_the_tree_as_it_is_and_the_whole_store_opens_nothing_older() {
    let mut team = Team::new();
    let alice = team.alice.mount("acme");
    for version in ["OLD-1: buy low", "OLD-2: buy high", "the plan"] {
        fs::write(alice.join("plan.txt"), version).unwrap();
        team.alice.sync();
    }
    fs::write(alice.join("layoffs.txt"), "OLD: a secret that was removed").unwrap();
    fs::create_dir(alice.join("dir")).unwrap();
    fs::write(alice.join("dir/large"), [b"OLD-password".repeat(1000), vec![7; 5_000_000]].concat()).unwrap();
    std::os::unix::fs::symlink("../plan.txt", alice.join("dir/link")).unwrap();
    team.alice.sync();
    fs::remove_file(alice.join("layoffs.txt")).unwrap();
    let large = OpenOptions::new().write(true).open(alice.join("dir/large")).unwrap();
    large.write_all_at(&[b'.'; 12_000], 0).unwrap();
    drop(large);
    fs::set_permissions(alice.join("plan.txt"), fs::Permissions::from_mode(0o640)).unwrap();
    team.alice.sync();
    let mut carol = Member::create(team.dir.path(), "carol", &team.server.url(), &team.server.invite());
    let all = carol.mount_all();
    let none = ["member", "add", "acme", &carol.account, "--role", "viewer", "--history", "none"];
    assert!(team.alice.ok(&none).contains("added carol as viewer"));
    let hers = all.join("acme");
    wait_for("carol's folder", SOON, || hers.join("plan.txt").exists());
    assert_eq!(contents(&hers), contents(&alice));
    assert_eq!(fs::read(hers.join("plan.txt")).unwrap(), b"the plan");
    assert_eq!(fs::metadata(hers.join("plan.txt")).unwrap().permissions().mode() & 0o777, 0o440);
    // What comes goes on as for everybody.
    fs::write(alice.join("plan.txt"), "the new plan").unwrap();
    wait_for("the next version", SOON, || fs::read(hers.join("plan.txt")).is_ok_and(|text| text == b"the new plan"));
    // Since a date: bad input first.
    let dora = Member::create(team.dir.path(), "dora", &team.server.url(), &team.server.invite());
    for (history, role, code, word) in [
        ("since=2001-01-01", "viewer", 2, "did not exist"),
        ("since=2999-01-01", "viewer", 2, "future"),
        ("since=then", "viewer", 2, "no time"),
        ("some", "viewer", 2, "since=DATE"),
        ("none", "admin", 2, "whole history"),
    ] {
        let args = ["member", "add", "acme", &dora.account, "--role", role, "--history", history];
        refused(&team.alice.kegfs(&args), code, &[word]);
    }
    assert_eq!(json(&team.alice.ok(&["member", "list", "acme", "--json"])).as_array().unwrap().len(), 3);
    team.alice.ok(&["member", "add", "acme", &dora.account, "--role", "viewer", "--history", "since=0s"]);
    let folders = json(&team.alice.ok(&["folder", "list", "--json"]));
    let db: DbId = folders[0]["id"].as_str().unwrap().parse().unwrap();
    // Carol's own keys, and all that the server has.
    carol.unmount(&all);
    team.alice.unmount(&alice);
    wait_for("the processes to end", SOON, || carol.daemon_pid().is_none() && team.alice.daemon_pid().is_none());
    let (of_alice, of_carol) = (identity(&team.alice), identity(&carol));
    let options = HttpOptions { url: team.server.url(), ..HttpOptions::default() };
    let log = hoard::log(&*kegfs::sync::connect(&options, &of_alice).unwrap(), db);
    let blobs = hoard::store(&team.server.data);
    let (everybody, hers) = (ring(&team.alice, &of_alice, db), ring(&carol, &of_carol, db));
    assert!(hers.epoch(0).is_err() && hers.epoch(1).is_ok());
    let (old, closed) = hoard::opens_nothing_with(&log, db, (&everybody, &hers), &blobs, "OLD");
    assert!(old >= 4 && closed > 20, "{old} old contents, {closed} attempts failed");
    let text = hoard::opened(&log, db, &hers, &blobs).1;
    let name = |name: &str| text.contains(&format!("{:?}", name.as_bytes()));
    assert!(name("plan.txt") && !name("layoffs.txt"), "nor the name of what was removed");
}
