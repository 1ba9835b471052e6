//! Two members on real mounts, both without the server for a while: nothing written is lost, and what the conflict has
//! set aside is listed and ended by command.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::common::{Team, wait_for};

const SOON: Duration = Duration::from_secs(30);

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Both do something while the server is away, and have what the other did afterwards.
fn apart(team: &mut Team, (alice, bob): (&Path, &Path), act: impl FnOnce(&Path, &Path)) {
    team.alice.sync();
    wait_for("bob is where alice is", SOON, || names(alice) == names(bob));
    team.bob.sync();
    team.server.kill9();
    act(alice, bob);
    team.server.restart();
    team.alice.sync();
    team.bob.sync();
    team.alice.sync();
    wait_for("both see the same", SOON, || names(alice) == names(bob));
}

fn conflicts(team: &Team) -> Vec<serde_json::Value> {
    team.alice.sync();
    json(&team.alice.ok(&["conflicts", "list", "acme", "--json"]))["lines"].as_array().unwrap().clone()
}

fn start() -> (Team, PathBuf, PathBuf) {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    (team, alice, bob)
}

#[test]
fn both_overwrite_a_file_and_one_version_is_kept_or_discarded_by_command() {
    let (mut team, alice, bob) = start();
    for name in ["plan.tar.gz", "other"] {
        fs::write(alice.join(name), "before").unwrap();
    }
    apart(&mut team, (&alice, &bob), |alice, bob| {
        for name in ["plan.tar.gz", "other"] {
            fs::write(alice.join(name), "alice's").unwrap();
            fs::write(bob.join(name), "bob's").unwrap();
        }
    });
    let found = conflicts(&team);
    assert_eq!(found.len(), 2, "{found:?}");
    for conflict in &found {
        let (path, original) = (conflict["path"].as_str().unwrap(), conflict["original"].as_str().unwrap());
        assert!(path.contains("(conflict, ") && conflict["kind"] == "content", "{conflict}");
        let (kept, aside) = (fs::read(alice.join(original)).unwrap(), fs::read(alice.join(path)).unwrap());
        let mut both = [String::from_utf8(kept).unwrap(), String::from_utf8(aside).unwrap()];
        let author = conflict["author"].as_str().unwrap().to_owned();
        assert!(author.starts_with(both[1].trim_end_matches("'s")), "{author} {both:?}");
        both.sort();
        assert_eq!(both, ["alice's", "bob's"]);
    }
    let of =
        |name: &str| found.iter().find(|one| one["original"] == name).unwrap()["path"].as_str().unwrap().to_owned();
    assert!(of("plan.tar.gz").starts_with("plan (conflict, ") && of("plan.tar.gz").ends_with(").tar.gz"));
    // Keep: it has the name and place of the other, for both.
    let aside = fs::read(alice.join(of("plan.tar.gz"))).unwrap();
    team.alice.ok(&["conflicts", "keep", alice.join(of("plan.tar.gz")).to_str().unwrap()]);
    assert_eq!(fs::read(alice.join("plan.tar.gz")).unwrap(), aside);
    // Discard, by the folder's name, by the other member.
    let other = fs::read(bob.join("other")).unwrap();
    team.bob.ok(&["conflicts", "discard", &format!("acme/{}", of("other"))]);
    team.bob.sync();
    wait_for("both have ended", SOON, || names(&alice) == ["other", "plan.tar.gz"] && names(&bob) == names(&alice));
    assert_eq!(fs::read(bob.join("plan.tar.gz")).unwrap(), aside);
    assert_eq!(fs::read(alice.join("other")).unwrap(), other);
    assert!(conflicts(&team).is_empty());
    // Both are undone through the trash.
    let trash = json(&team.alice.ok(&["trash", "acme", "--json"]));
    assert!(trash["lines"].as_array().unwrap().iter().any(|line| line["path"] == of("other")), "{trash}");
}

#[test]
fn both_create_a_name_and_both_files_and_both_directories_stay() {
    let (mut team, alice, bob) = start();
    fs::write(alice.join("seen"), "").unwrap();
    apart(&mut team, (&alice, &bob), |alice, bob| {
        for dir in [alice, bob] {
            fs::write(dir.join("new.txt"), dir.to_str().unwrap()).unwrap();
            fs::create_dir(dir.join("box")).unwrap();
            fs::write(dir.join("box/inside"), dir.to_str().unwrap()).unwrap();
        }
    });
    let found = conflicts(&team);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|one| one["kind"] == "name"), "{found:?}");
    let directory = found.iter().find(|one| one["directory"] == true).unwrap()["path"].as_str().unwrap().to_owned();
    let mut inside = [fs::read_to_string(alice.join("box/inside")).unwrap()].to_vec();
    inside.push(fs::read_to_string(alice.join(&directory).join("inside")).unwrap());
    inside.sort();
    let mut expected = [alice.to_str().unwrap(), bob.to_str().unwrap()];
    expected.sort_unstable();
    assert_eq!(inside, expected);
    let refused = team.alice.kegfs(&["conflicts", "keep", &format!("acme/{directory}")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not both files"));
    // Who gives it another name has ended the conflict; names that only look like one never were.
    fs::rename(alice.join(&directory), alice.join("box of the other")).unwrap();
    fs::write(alice.join("fake (conflict, bob's laptop, 2026-11-23 15.04).txt"), "").unwrap();
    assert_eq!(conflicts(&team).len(), 1);
}

#[test]
fn a_removed_file_that_the_other_wrote_to_comes_back_and_a_filled_directory_stays() {
    let (mut team, alice, bob) = start();
    fs::create_dir(alice.join("drawer")).unwrap();
    fs::write(alice.join("report"), "before").unwrap();
    apart(&mut team, (&alice, &bob), |alice, bob| {
        fs::remove_file(alice.join("report")).unwrap();
        fs::remove_dir(alice.join("drawer")).unwrap();
        fs::write(bob.join("report"), "bob went on").unwrap();
        fs::write(bob.join("drawer/letter"), "dear").unwrap();
    });
    for dir in [&alice, &bob] {
        wait_for("the letter is there", SOON, || fs::read(dir.join("drawer/letter")).is_ok_and(|read| read == b"dear"));
        assert_eq!(fs::read(dir.join("report")).unwrap(), b"bob went on");
    }
    assert!(conflicts(&team).is_empty(), "nothing had to be set aside");
}

#[test]
fn saving_by_rename_over_what_changed_meanwhile_keeps_both() {
    let (mut team, alice, bob) = start();
    fs::write(alice.join("sheet.ods"), "before").unwrap();
    apart(&mut team, (&alice, &bob), |alice, bob| {
        fs::write(bob.join("sheet.ods"), "bob's").unwrap();
        fs::write(alice.join(".sheet.tmp"), "alice's").unwrap();
        fs::rename(alice.join(".sheet.tmp"), alice.join("sheet.ods")).unwrap();
    });
    let contents: Vec<_> = names(&alice).iter().map(|name| fs::read_to_string(alice.join(name)).unwrap()).collect();
    assert!(contents.contains(&"alice's".to_owned()) && contents.contains(&"bob's".to_owned()), "{contents:?}");
}

#[test]
fn two_moves_that_would_make_a_cycle_and_two_attributes_need_no_conflict() {
    let (mut team, alice, bob) = start();
    for name in ["a", "b"] {
        fs::create_dir(alice.join(name)).unwrap();
    }
    fs::write(alice.join("tool"), "#!/bin/sh\n").unwrap();
    apart(&mut team, (&alice, &bob), |alice, bob| {
        use std::os::unix::fs::PermissionsExt;
        fs::rename(alice.join("a"), alice.join("b/a")).unwrap();
        fs::rename(bob.join("b"), bob.join("a/b")).unwrap();
        fs::set_permissions(alice.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        xattr::set(bob.join("tool"), "user.tag", b"mine").unwrap();
    });
    for dir in [&alice, &bob] {
        use std::os::unix::fs::PermissionsExt;
        assert!(dir.join("b/a").is_dir() != dir.join("a/b").is_dir(), "one of the moves was made");
        wait_for("both attributes are there", SOON, || {
            fs::metadata(dir.join("tool")).unwrap().permissions().mode() & 0o777 == 0o755
                && xattr::get(dir.join("tool"), "user.tag").unwrap().is_some()
        });
    }
    assert!(conflicts(&team).is_empty());
}
