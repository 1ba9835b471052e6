//! What a member sees of trust and of what happened, on real mounts: `.keg`, the log, verification, evidence.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Member, Team, wait_for};

const SOON: Duration = Duration::from_secs(30);
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const EROFS: i32 = 30;

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// What a program prints, as it comes.
fn listen(mut from: ChildStdout) -> Arc<Mutex<String>> {
    let heard = Arc::new(Mutex::new(String::new()));
    let into = heard.clone();
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut part) {
            into.lock().unwrap().push_str(std::str::from_utf8(&part[..count]).unwrap());
        }
    });
    heard
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[test]
fn dot_keg_is_reachable_by_name_and_shows_status_and_members() {
    let mut team = Team::new();
    let all = team.alice.mount_all();
    let bob = team.bob.mount("acme");
    for root in [all.join("acme"), bob.clone()] {
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "listed nowhere");
        let keg = root.join(".keg");
        let meta = fs::metadata(&keg).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o555, fs::metadata("/proc/self").unwrap().uid()));
        let mut names: Vec<_> = fs::read_dir(&keg).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert!(["activity", "members", "status"].iter().all(|name| names.contains(&(*name).into())), "{names:?}");
        let members = fs::read_to_string(keg.join("members")).unwrap();
        assert!(members.contains("alice") && members.contains("bob") && members.contains("owner"), "{members}");
        wait_for("a status that is up to date", SOON, || {
            let status = fs::read_to_string(keg.join("status")).unwrap();
            status.starts_with("folder   acme (") && status.contains("\nview     up to date with the server, ")
        });
    }
    // What is read is what there is now.
    team.alice.ok(&["member", "role", "acme", "bob", "--role", "viewer"]);
    wait_for("bob's new role in his status", SOON, || {
        fs::read_to_string(bob.join(".keg/status")).unwrap().contains("\nrole     viewer\n")
    });
    assert_eq!(fs::metadata(bob.join(".keg/status")).unwrap().permissions().mode() & 0o777, 0o444);
}

#[test]
fn nobody_creates_replaces_or_removes_dot_keg() {
    let mut team = Team::new();
    let dir = team.alice.mount("acme");
    let keg = dir.join(".keg");
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), b"x").unwrap();
    assert_eq!(errno(fs::create_dir(&keg)), EEXIST);
    assert_eq!(errno(std::os::unix::fs::symlink("x", &keg)), EEXIST);
    assert_eq!(errno(fs::hard_link(dir.join("file"), &keg)), EEXIST);
    assert_eq!(errno(fs::remove_dir(&keg)), EROFS);
    assert_eq!(errno(fs::rename(&keg, dir.join("mine"))), EROFS);
    assert_eq!(errno(fs::rename(dir.join("sub"), &keg)), EROFS);
    // The mode bits stop whom they stop; root is told that nothing can be written there.
    let denied = if is_root() { EROFS } else { EACCES };
    assert_eq!(errno(fs::write(keg.join("status"), b"no")), denied);
    assert_eq!(errno(fs::write(keg.join("new"), b"no")), denied);
    assert_eq!(errno(fs::remove_file(keg.join("status"))), denied);
    // Programs that walk the tree do not meet it.
    let found = Command::new("find").arg(&dir).output().unwrap();
    assert!(!String::from_utf8_lossy(&found.stdout).contains(".keg"));
    let gone = Command::new("rm").arg("-rf").arg(dir.join("sub")).arg(dir.join("file")).status().unwrap();
    assert!(gone.success() && keg.join("status").exists());
    assert!(Path::new(&keg).is_dir());
}

#[test]
fn the_log_is_told_by_a_command_and_by_a_file_that_can_be_followed() {
    let mut team = Team::new();
    let dir = team.alice.mount("acme");
    let file = dir.join(".keg/activity");
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text, team.alice.ok(&["log", "acme"]), "the same lines");
    assert!(text.contains("alice's laptop  created the folder\n"), "{text}");
    assert!(text.contains("alice's laptop  added bob as editor\n"), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().len(), text.len() as u64);
    // tail(1) with the file open, and the command that follows.
    let mut followers = [
        Command::new("tail").args(["-n", "+1", "-s", "0.2", "-f"]).arg(&file).stdout(Stdio::piped()).spawn().unwrap(),
        team.alice.command(&["log", "acme", "-f"]).stdout(Stdio::piped()).spawn().unwrap(),
        team.alice.command(&["log", "acme", "-f", "-n", "1", "--json"]).stdout(Stdio::piped()).spawn().unwrap(),
    ];
    let heard: Vec<_> = followers.iter_mut().map(|child| listen(child.stdout.take().unwrap())).collect();
    wait_for("all lines so far", SOON, || heard.iter().all(|heard| heard.lock().unwrap().contains("added bob")));
    team.alice.ok(&["member", "role", "acme", "bob", "--role", "viewer"]);
    wait_for("the new line", SOON, || {
        heard.iter().all(|heard| heard.lock().unwrap().contains("made bob, until then editor, viewer"))
    });
    for child in &mut followers {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let json = heard[2].lock().unwrap().clone();
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{json}");
    assert_eq!((lines[1]["kind"].as_str(), lines[1]["warning"].as_bool()), (Some("role"), Some(false)));
    assert!(lines[0]["number"].as_u64() < lines[1]["number"].as_u64());
    // After a restart the text is the same.
    let before = fs::read_to_string(&file).unwrap();
    team.alice.unmount(&dir);
    let dir = team.alice.mount("acme");
    assert_eq!(fs::read_to_string(dir.join(".keg/activity")).unwrap(), before);
    let unknown = team.alice.kegfs(&["log", "nowhere"]);
    assert_ne!(unknown.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no folder 'nowhere'"));
}

#[test]
fn ransomware_on_one_machine_stands_out_in_everybodys_status_until_it_was_seen() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    for n in 0..100 {
        fs::write(alice.join(format!("report-{n}.odt")), format!("work of a year {n}")).unwrap();
    }
    wait_for("bob to have all", SOON, || (0..100).all(|n| bob.join(format!("report-{n}.odt")).exists()));
    assert!(!team.alice.ok(&["status"]).contains("WARNING"));
    // As it does: writes the encrypted file beside, removes the original; or overwrites it in place.
    for n in 0..60 {
        let path = bob.join(format!("report-{n}.odt"));
        if n % 2 == 0 {
            fs::write(bob.join(format!("report-{n}.odt.locked")), b"pay me").unwrap();
            fs::remove_file(path).unwrap();
        } else {
            fs::write(path, b"pay me, too").unwrap();
        }
    }
    team.bob.sync();
    wait_for("a warning in alice's status", SOON, || {
        let status = team.alice.ok(&["status"]);
        status.contains("WARNING") && status.contains("bob's laptop  overwrote ")
    });
    let status: serde_json::Value = serde_json::from_str(&team.alice.ok(&["status", "--json"])).unwrap();
    let warning = &status["folders"][0]["warnings"][0];
    assert_eq!(warning["kind"], "mass_change");
    assert_eq!(warning["account"], team.bob.account.as_str());
    assert!(fs::read_to_string(alice.join(".keg/status")).unwrap().contains("\nWARNING  "));
    team.alice.ok(&["log", "acme", "--seen"]);
    assert!(!team.alice.ok(&["status"]).contains("WARNING"));
    assert!(team.bob.ok(&["status"]).contains("WARNING"), "bob has not seen it yet");
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[track_caller]
fn refused(member: &Member, args: &[&str], code: i32, words: &str) {
    let output = member.kegfs(args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(words), "no `{words}` in: {message}");
}

#[test]
fn two_people_compare_words_and_an_impostor_is_turned_away() {
    let team = Team::new();
    let (alice, bob) = (&team.alice, &team.bob);
    refused(alice, &["verify", "bob", "--accept"], 5, "compare them first: kegfs verify bob");
    let here = json(&alice.ok(&["verify", "bob", "--json"]));
    let there = json(&bob.ok(&["verify", "alice", "--json"]));
    let words = |value: &serde_json::Value| value["compared"]["words"].as_array().unwrap().clone();
    assert_eq!((words(&here).len(), words(&here)), (12, words(&there)));
    let text = alice.ok(&["verify", "bob"]);
    assert!(words(&here).iter().all(|word| text.contains(word.as_str().unwrap())), "{text}");
    assert!(text.contains("kegfs verify bob --accept"));
    assert_eq!(alice.ok(&["verify", "bob", "--accept"]), "bob is verified\n");
    assert!(alice.ok(&["verify"]).contains("verified 20"));
    // Somebody else calls himself bob.
    let impostor = Member::create(team.dir.path(), "Bob", &team.server.url(), &team.server.invite());
    let before = alice.ok(&["member", "list", "acme"]);
    refused(alice, &["member", "add", "acme", &impostor.account], 5, "is in doubt: you know bob as the account");
    assert_eq!(alice.ok(&["member", "list", "acme"]), before);
    assert!(alice.ok(&["verify"]).contains("IN DOUBT since"));
    alice.ok(&["verify", &impostor.account, "--reject"]);
    refused(alice, &["member", "add", "acme", &impostor.account], 5, "you have rejected it");
    // The name is still bob's: a new folder takes him by it.
    alice.ok(&["folder", "create", "plans"]);
    alice.ok(&["member", "add", "plans", "bob", "--role", "viewer"]);
    assert!(alice.ok(&["member", "list", "plans"]).contains(&bob.account));
    refused(alice, &["member", "add", "plans", "carol"], 2, "you know nobody called 'carol'");
    refused(alice, &["verify", "carol"], 2, "you know nobody called 'carol'");
    refused(alice, &["verify", &alice.account], 2, "that is yourself");
    // The folder's words, the same for both.
    let folder = |member: &Member| json(&member.ok(&["verify", "--folder", "acme", "--json"]))["folder_words"].clone();
    assert_eq!(folder(alice), folder(bob));
    assert!(folder(alice)["seq"].as_u64().unwrap() >= 2);
    refused(alice, &["folder", "thaw", "acme"], 5, "the folder is not frozen");
    assert!(alice.ok(&["folder", "evidence", "acme"]).contains("never caught"));
    refused(alice, &["folder", "evidence", "nowhere"], 1, "there is no folder 'nowhere'");
}

#[test]
fn access_tells_who_reads_a_file_and_who_may_have_kept_it() {
    let mut team = Team::new();
    let dir = team.alice.mount("acme");
    fs::create_dir(dir.join("plans")).unwrap();
    fs::write(dir.join("plans/plan.txt"), b"first").unwrap();
    team.alice.sync();
    let text = team.alice.ok(&["access", "acme/plans/plan.txt"]);
    assert!(text.starts_with("acme/plans/plan.txt: 1 version\n"), "{text}");
    assert!(text.contains("    bob (editor), on laptop: every version\n"), "{text}");
    assert!(!text.contains("may have kept it:"));
    team.alice.ok(&["member", "remove", "acme", "bob"]);
    fs::write(dir.join("plans/plan.txt"), b"second, without bob").unwrap();
    team.alice.sync();
    let told = json(&team.alice.ok(&["access", "acme/plans/plan.txt", "--json"]));
    let versions = told["versions"].as_array().unwrap();
    assert_eq!(versions.last().unwrap()["size"], 19);
    assert_eq!(told["now"].as_array().unwrap().len(), 1);
    let bob = &told["before"][0];
    assert_eq!((bob["name"].as_str(), bob["end"].as_str()), (Some("bob"), Some("removed")));
    let kept = bob["versions"].as_array().unwrap();
    assert!(!kept.is_empty() && !kept.contains(&versions.last().unwrap()["seq"]), "{told:#}");
    refused(&team.alice, &["access", "acme/nothing"], 1, "there is no 'nothing' in the folder");
    refused(&team.alice, &["access", "acme"], 2, "give FOLDER/PATH");
}

#[test]
fn own_attributes_tell_author_version_and_how_far_it_has_come() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let tell = |path: &Path, name: &str| {
        let text = Command::new("getfattr").args(["--only-values", "-n", name]).arg(path).output().unwrap();
        assert!(text.status.success(), "{}", String::from_utf8_lossy(&text.stderr));
        String::from_utf8(text.stdout).unwrap()
    };
    let file = alice.join("f");
    let open = fs::File::create(&file).unwrap();
    // What nothing is written to for a second goes on its way by itself.
    wait_for("a buffered file", SOON, || {
        open.write_at(b"draft", 0).unwrap();
        tell(&file, "user.keg.state") == "buffered"
    });
    drop(open);
    team.alice.sync();
    wait_for("it to be on the server", SOON, || tell(&file, "user.keg.state") == "on-server");
    wait_for("bob to have it", SOON, || fs::read(bob.join("f")).is_ok_and(|text| text == b"draft"));
    assert_eq!(tell(&bob.join("f"), "user.keg.author"), "alice's laptop");
    let first: u64 = tell(&bob.join("f"), "user.keg.version").parse().unwrap();
    fs::write(bob.join("f"), b"bob's draft").unwrap();
    wait_for("bob's version", SOON, || tell(&file, "user.keg.author") == "bob's laptop");
    assert!(tell(&file, "user.keg.version").parse::<u64>().unwrap() > first);
    // The server is away: what is written stays in the journal.
    team.server.pause();
    fs::write(&file, b"offline").unwrap();
    fs::File::open(&file).unwrap().sync_all().unwrap();
    assert_eq!(
        (tell(&file, "user.keg.state").as_str(), tell(&file, "user.keg.version").as_str()),
        ("journaled", "pending")
    );
    team.server.resume();
    wait_for("it to be on the server", SOON, || tell(&file, "user.keg.state") == "on-server");
    // Nobody sets them, and what copies attributes copies none of them.
    let set = Command::new("setfattr").args(["-n", "user.keg.author", "-v", "me"]).arg(&file).output().unwrap();
    assert!(!set.status.success());
    let listed = Command::new("getfattr").arg("-d").arg(&file).output().unwrap();
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("user.keg"));
}
