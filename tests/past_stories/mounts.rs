//! On real mounts: history, restoring, the trash.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::common::tree::digest;
use super::common::{Member, Team, wait_for};

const SOON: Duration = Duration::from_secs(20);

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// Lets the clock of the log move on: two changes in one millisecond have one time.
fn tick() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn a_file_that_is_saved_again_and_again_has_a_history_and_each_version_comes_back() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let plan = alice.join("plan.odt");
    fs::write(&plan, "first").unwrap();
    team.alice.sync();
    // As an office program saves: a new file in the place of the old one.
    fs::write(alice.join(".plan.tmp"), "second version").unwrap();
    fs::rename(alice.join(".plan.tmp"), &plan).unwrap();
    team.alice.sync();
    fs::rename(&plan, alice.join("final plan.odt")).unwrap();
    team.alice.sync();
    wait_for("bob sees it", SOON, || bob.join("final plan.odt").exists());
    fs::write(bob.join("final plan.odt"), "third").unwrap();
    team.bob.sync();
    wait_for("alice sees it", SOON, || fs::read(alice.join("final plan.odt")).is_ok_and(|read| read == b"third"));

    let lines = json(&team.alice.ok(&["history", alice.join("final plan.odt").to_str().unwrap(), "--json"]));
    let what = |line: &serde_json::Value| line["what"].to_string();
    let lines = lines["lines"].as_array().unwrap();
    assert!(what(&lines[0]).contains("content, 5 B") && lines[0]["author"] == "bob's laptop", "{lines:?}");
    assert_eq!(lines[0]["path"], "final plan.odt");
    assert!(what(&lines[1]).contains("renamed from plan.odt"), "{lines:?}");
    // By the name that it had, which is nobody's today: the version before it was saved anew, too.
    let old = json(&team.alice.ok(&["history", "acme/plan.odt", "--json"]));
    let old = old["lines"].as_array().unwrap();
    let first = old.last().unwrap();
    assert!(what(first).contains("created") && first["path"] == "plan.odt", "{old:?}");
    assert!(old.iter().any(|line| what(line).contains("replaced by a new file")), "{old:?}");

    let second = lines[1]["version"].as_str().unwrap();
    let dry = json(&team.alice.ok(&["restore", "acme/final plan.odt", "--at", second, "--dry-run", "--json"]));
    assert_eq!(dry["steps"][0]["step"], "content");
    assert_eq!(fs::read(alice.join("final plan.odt")).unwrap(), b"third", "a dry run does nothing");
    let file = alice.join("final plan.odt");
    let inode = fs::metadata(&file).unwrap().ino();
    let done = json(&team.alice.ok(&["restore", file.to_str().unwrap(), "--at", second, "--json"]));
    // At once, although the kernel had the other content in its cache.
    assert_eq!(fs::read(&file).unwrap(), b"second version");
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
    team.alice.sync();
    wait_for("bob has it too", SOON, || {
        fs::read(bob.join("final plan.odt")).is_ok_and(|read| read == b"second version")
    });
    let undo = done["undo"].as_str().unwrap();
    team.bob.ok(&["restore", "acme/final plan.odt", "--at", undo]);
    assert_eq!(fs::read(bob.join("final plan.odt")).unwrap(), b"third");
}

#[test]
fn a_mass_change_is_undone_in_one_go_for_everybody() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    for dir in ["docs", "docs/deep"] {
        fs::create_dir(alice.join(dir)).unwrap();
    }
    for number in 0..30 {
        let dir = if number % 3 == 0 { "docs/deep" } else { "docs" };
        let file = alice.join(dir).join(format!("paper {number}.txt"));
        fs::write(&file, format!("content of {number}").repeat(number + 1)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    }
    symlink("paper 1.txt", alice.join("docs/link")).unwrap();
    xattr::set(alice.join("docs/paper 1.txt"), "user.tag", b"important").unwrap();
    team.alice.sync();
    let before = digest(&alice);
    let there = |root: &Path, path: &Vec<u8>| root.join(OsStr::from_bytes(path)).symlink_metadata().is_ok();
    wait_for("bob has everything", SOON, || before.keys().all(|path| there(&bob, path)));
    assert_eq!(digest(&bob), before);
    tick();
    let at = jiff::Timestamp::now().to_string();
    tick();
    // Somebody's program gone wild, on bob's machine.
    for dir in ["docs", "docs/deep"] {
        for entry in fs::read_dir(bob.join(dir)).unwrap().collect::<Vec<_>>() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            if path.is_symlink() {
                fs::remove_file(&path).unwrap();
                continue;
            }
            fs::write(&path, "xxxxxxxx").unwrap();
            fs::rename(&path, path.with_extension("locked")).unwrap();
        }
    }
    fs::remove_dir_all(bob.join("docs/deep")).unwrap();
    fs::write(bob.join("docs/PAY.txt"), "pay").unwrap();
    team.bob.sync();
    wait_for("alice sees the harm", SOON, || alice.join("docs/PAY.txt").exists());
    let shown = team.alice.ok(&["restore", "acme/docs", "--at", &at, "--dry-run"]);
    assert!(shown.contains("would lead back") && shown.contains("moved back: docs/paper 1.txt"), "{shown}");
    assert!(alice.join("docs/paper 1.locked").exists());
    let done = team.alice.ok(&["restore", "acme/docs", "--at", &at]);
    assert!(done.contains("brought back: docs/deep") && done.contains("1 names that came later stay"), "{done}");
    fs::remove_file(alice.join("docs/PAY.txt")).unwrap();
    // The kernel's view is the new one at once.
    assert_eq!(digest(&alice), before);
    assert_eq!(xattr::get(alice.join("docs/paper 1.txt"), "user.tag").unwrap().as_deref(), Some(&b"important"[..]));
    team.alice.sync();
    wait_for("bob has everything again", SOON, || {
        before.keys().all(|path| there(&bob, path)) && !bob.join("docs/PAY.txt").exists()
    });
    assert_eq!(digest(&bob), before);
}

#[test]
fn what_was_removed_is_in_the_trash_and_comes_back_by_name() {
    let mut team = Team::new();
    let (alice, _bob) = team.mount();
    fs::create_dir_all(alice.join("photos/summer")).unwrap();
    fs::write(alice.join("photos/summer/sea.jpg"), "sea").unwrap();
    fs::write(alice.join("photos/summer/sun.jpg"), "sun").unwrap();
    fs::write(alice.join("note.txt"), "keep me").unwrap();
    team.alice.sync();
    fs::remove_file(alice.join("note.txt")).unwrap();
    fs::remove_dir_all(alice.join("photos/summer")).unwrap();
    team.alice.sync();
    let trash = json(&team.alice.ok(&["trash", "acme", "--json"]));
    let paths: Vec<_> = trash["lines"].as_array().unwrap().iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"note.txt") && paths.contains(&"photos/summer/sea.jpg"), "{paths:?}");
    team.alice.ok(&["trash", "acme", "--restore", "note.txt"]);
    assert_eq!(fs::read(alice.join("note.txt")).unwrap(), b"keep me");
    // A directory, with what went with it.
    team.alice.ok(&["trash", "acme", "--restore", "photos/summer"]);
    assert_eq!(fs::read(alice.join("photos/summer/sea.jpg")).unwrap(), b"sea");
    assert_eq!(fs::read(alice.join("photos/summer/sun.jpg")).unwrap(), b"sun");
    team.alice.sync();
    assert!(team.alice.ok(&["trash", "acme"]).contains("nothing was removed"));
    // A name that is taken again is not replaced.
    fs::remove_file(alice.join("note.txt")).unwrap();
    team.alice.sync();
    fs::write(alice.join("note.txt"), "another").unwrap();
    team.alice.sync();
    let refused = team.alice.kegfs(&["trash", "acme", "--restore", "note.txt"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--as"));
    team.alice.ok(&["trash", "acme", "--restore", "note.txt", "--as", "old note.txt"]);
    assert_eq!(fs::read(alice.join("old note.txt")).unwrap(), b"keep me");
    assert_eq!(fs::read(alice.join("note.txt")).unwrap(), b"another");
}

/// An answer is bounded. What it cannot list it counts, and what was asked for is done and told.
#[test]
fn what_is_too_much_for_an_answer_is_done_all_the_same_and_counted() {
    let mut team = Team::new();
    let (alice, _bob) = team.mount();
    // Bytes that are no text, of which an answer has room for a fourth: 300 paths take more than one answer.
    let part = OsStr::from_bytes(&[0xff; 250]);
    let deep = alice.join("deep").join(part).join(part).join(part).join(part);
    fs::create_dir_all(&deep).unwrap();
    for number in 0..300 {
        fs::write(deep.join(format!("{number:03}")), "x").unwrap();
    }
    team.alice.sync();
    let before = digest(&alice);
    tick();
    let at = jiff::Timestamp::now().to_string();
    tick();
    for remove in [&["restore", "acme", "--at", &at][..], &["trash", "acme", "--restore", "deep"]] {
        fs::remove_dir_all(alice.join("deep")).unwrap();
        team.alice.sync();
        let trash = json(&team.alice.ok(&["trash", "acme", "--limit", "1000000", "--json"]));
        assert!(trash["more"] == true && trash["lines"].as_array().unwrap().len() > 50, "{trash}");
        let few = json(&team.alice.ok(&["trash", "acme", "--limit", "3", "--json"]));
        assert!(few["more"] == true && few["lines"].as_array().unwrap().len() == 3, "{few}");
        assert!(team.alice.ok(&["trash", "acme", "--limit", "3"]).contains("--limit N shows more"));
        let dry = json(&team.alice.ok(&["restore", "acme", "--at", &at, "--dry-run", "--json"]));
        let listed = dry["steps"].as_array().unwrap().len() as u64;
        assert!(dry["changes"] == 305 && (50..300).contains(&listed), "{} {listed}", dry["changes"]);
        let done = team.alice.ok(remove);
        assert!(done.contains("305 changes led back") && done.contains("more\n"), "{done}");
        assert!(done.contains("to undo this"), "{done}");
        assert_eq!(digest(&alice), before);
        team.alice.sync();
    }
    // An entry that gives hundreds of names tells some.
    fs::create_dir(alice.join("many")).unwrap();
    team.alice.sync();
    team.server.pause();
    for number in 0..100 {
        fs::write(alice.join("many").join(number.to_string()), "").unwrap();
    }
    team.server.resume();
    team.alice.sync();
    let history = json(&team.alice.ok(&["history", "acme/many", "--json"]));
    let told = |line: &serde_json::Value| line["what"].as_array().unwrap().len();
    assert!(history["lines"].as_array().unwrap().iter().all(|line| told(line) <= 21), "{history}");
    assert!(history.to_string().contains(" more\""), "{history}");
}

#[test]
fn wrong_requests_are_refused_with_the_next_step() {
    let mut team = Team::new();
    let (alice, _bob) = team.mount();
    fs::write(alice.join("a"), "a").unwrap();
    team.alice.sync();
    let refused = |args: &[&str], code: i32, words: &str| {
        let output = team.alice.kegfs(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && text.contains(words), "{args:?}: {:?} {text}", output.status);
    };
    refused(&["restore", "acme/a", "--at", "last tuesday"], 2, "10m-ago");
    refused(&["restore", "acme/a", "--at", "2001-01-01"], 1, "younger than that");
    refused(&["restore", "acme/a", "--at", "2099-01-01"], 2, "yet to come");
    refused(&["restore", "acme/a", "--at", "seq-99999"], 1, "cannot be shown");
    refused(&["restore", "acme/never", "--at", "now"], 1, "was not there");
    refused(&["restore", "nowhere/a", "--at", "now"], 2, "kegfs status");
    refused(&["history", "acme/never"], 1, "there never was never");
    refused(&["history", "acme/../a"], 2, "without `..`");
    refused(&["trash", "acme", "--restore", "never"], 1, "kegfs trash acme");
    refused(&["conflicts", "keep", "acme/a"], 2, "kegfs conflicts list acme");
    team.alice.ok(&["member", "role", "acme", "bob", "--role", "viewer"]);
    wait_for("bob is a viewer", SOON, || {
        let output = team.bob.kegfs(&["restore", "acme", "--at", "seq-1", "--remove-later"]);
        String::from_utf8_lossy(&output.stderr).contains("ask an owner or admin")
    });
}

/// What was removed before the folder's key changed is not there any more for who came since; restoring makes it anew, for
/// all.
#[test]
fn what_was_removed_before_a_change_of_the_key_comes_back_for_everybody() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::create_dir(alice.join("docs")).unwrap();
    fs::write(alice.join("docs/plan"), "the plan of before").unwrap();
    fs::write(alice.join("note"), "a note").unwrap();
    team.alice.sync();
    wait_for("bob to see it", SOON, || fs::read(bob.join("docs/plan")).is_ok());
    let before = fs::metadata(alice.join("docs/plan")).unwrap().ino();
    let at = json(&team.alice.ok(&["history", "acme/docs/plan", "--json"]))["lines"][0]["version"]
        .as_str()
        .unwrap()
        .to_owned();
    fs::remove_dir_all(alice.join("docs")).unwrap();
    fs::remove_file(alice.join("note")).unwrap();
    team.alice.sync();
    let mut carol = Member::create(team.dir.path(), "carol", &team.server.url(), &team.server.invite());
    team.alice.ok(&["member", "add", "acme", &carol.account, "--history", "none"]);
    let hers = carol.mount("acme");
    assert!(!hers.join("docs").exists() && !hers.join("note").exists());
    team.alice.ok(&["restore", "acme/docs", "--at", &at]);
    team.alice.ok(&["trash", "acme", "--restore", "note"]);
    for there in [&alice, &bob, &hers] {
        wait_for("it is back", SOON, || {
            fs::read(there.join("docs/plan")).is_ok_and(|text| text == b"the plan of before")
                && fs::read(there.join("note")).is_ok_and(|text| text == b"a note")
        });
    }
    assert_ne!(fs::metadata(alice.join("docs/plan")).unwrap().ino(), before, "another file with the same content");
    // Its history begins with that, for who has none from before.
    let history = json(&carol.ok(&["history", "acme/docs/plan", "--json"]));
    assert_eq!(
        history["lines"].as_array().unwrap().iter().filter(|line| line.to_string().contains("content")).count(),
        1
    );
    // And it is theirs to work with.
    fs::write(hers.join("docs/plan"), "carol's plan").unwrap();
    wait_for("carol's version", SOON, || fs::read(bob.join("docs/plan")).is_ok_and(|text| text == b"carol's plan"));
}

/// What a program has written and the mount still has in memory is written, too: it never takes away what is restored. The
/// command says that the file is in use, or the old content is there and stays.
#[test]
fn a_program_that_goes_on_writing_does_not_cut_off_what_is_restored() {
    let mut team = Team::new();
    let (alice, _bob) = team.mount();
    let log = alice.join("log");
    let old = "a line of before\n".repeat(60_000);
    fs::write(&log, &old).unwrap();
    team.alice.sync();
    let history = json(&team.alice.ok(&["history", "acme/log", "--json"]));
    let version = history["lines"][0]["version"].as_str().unwrap();
    fs::write(&log, "0123456789").unwrap();
    team.alice.sync();
    for _ in 0..3 {
        let stop = AtomicBool::new(false);
        let output = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut log = fs::OpenOptions::new().append(true).open(&log).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    log.write_all(b"more\n").unwrap();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            thread::sleep(Duration::from_millis(50));
            let output = team.alice.kegfs(&["restore", "acme/log", "--at", version]);
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap();
            output
        });
        team.alice.sync();
        if output.status.success() {
            assert!(fs::metadata(&log).unwrap().len() >= old.len() as u64, "it was said to be restored");
            break;
        }
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(9) && told.contains("being written to"), "{:?} {told}", output.status);
    }
    team.alice.ok(&["restore", "acme/log", "--at", version]);
    assert_eq!(fs::read_to_string(&log).unwrap(), old);
    team.alice.sync();
    assert_eq!(fs::read_to_string(&log).unwrap(), old);
}
