//! First light: two people share one encrypted folder, mounted. Stories on real mounts against a real `kegd`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::tree::{digest, digest_file, registry_sources, write_random};
use common::{Team, wait_for};

const SOON: Duration = Duration::from_secs(30);

fn names(dir: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    names.sort();
    names
}

/// `name`, or where a conflict put the other version of it.
fn versions(dir: &Path, name: &str) -> Vec<(String, Vec<u8>)> {
    let (stem, _) = name.split_once('.').unwrap();
    let all = names(dir).into_iter().map(|name| String::from_utf8(name).unwrap());
    all.filter(|other| other.starts_with(stem))
        .map(|other| (other.clone(), fs::read(dir.join(other)).unwrap()))
        .collect()
}

#[test]
fn a_real_tree_and_a_gibibyte_arrive_as_they_were() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let origin = team.dir.path().join("origin");
    fs::create_dir(&origin).unwrap();
    for source in registry_sources(5_000) {
        assert!(Command::new("cp").arg("-a").arg(&source).arg(&origin).status().unwrap().success());
    }
    let odd = origin.join("odd");
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("empty"), b"").unwrap();
    fs::write(odd.join("run.sh"), b"#!/bin/sh\necho hello\n").unwrap();
    fs::set_permissions(odd.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(odd.join("private"), b"p").unwrap();
    fs::set_permissions(odd.join("private"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("run.sh", odd.join("link")).unwrap();
    symlink("/nowhere/at all", odd.join("dangling")).unwrap();
    fs::write(odd.join("x".repeat(255)), b"long name").unwrap();
    fs::write(odd.join(OsStr::from_bytes(b"not \xff\xfe utf-8 \n")), b"bytes").unwrap();
    write_random(&origin.join("gibibyte"), 1 << 30, 1);

    assert!(Command::new("cp").arg("-a").arg(origin.join(".")).arg(&alice).status().unwrap().success());
    fs::File::open(alice.join("gibibyte")).unwrap().sync_all().unwrap();
    let expected = digest(&origin);
    assert!(expected.len() > 5_000, "{} paths", expected.len());
    let copied = digest(&alice);
    for (path, facts) in &expected {
        assert_eq!(copied.get(path), Some(facts), "{}", String::from_utf8_lossy(path));
    }
    team.alice.sync();
    wait_for("Bob to see the last file", SOON, || {
        fs::metadata(bob.join("gibibyte")).is_ok_and(|meta| meta.len() == 1 << 30)
    });
    // The newest entry may hold something other than that file.
    let mut seen = digest(&bob);
    for _ in 0..20 {
        if seen == expected {
            break;
        }
        std::thread::sleep(Duration::from_millis(250));
        seen = digest(&bob);
    }
    for (path, facts) in &expected {
        assert_eq!(seen.get(path), Some(facts), "{}", String::from_utf8_lossy(path));
    }
    assert_eq!(seen.len(), expected.len());
    assert_eq!(String::from_utf8_lossy(&Command::new(bob.join("odd/link")).output().unwrap().stdout), "hello\n");
    let mtime = |root: &Path| {
        fs::symlink_metadata(root.join("odd/run.sh")).map(|meta| (meta.mtime(), meta.mtime_nsec())).unwrap()
    };
    assert_eq!(mtime(&bob), mtime(&origin));
}

#[test]
fn a_change_is_readable_on_the_other_side_within_a_second() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::write(alice.join("note.txt"), b"0").unwrap();
    wait_for("the first version", SOON, || fs::read(bob.join("note.txt")).is_ok_and(|text| text == b"0"));
    let mut times: Vec<_> = (1..=200u32)
        .map(|version| {
            let (from, to) = if version % 2 == 0 { (&bob, &alice) } else { (&alice, &bob) };
            // Warm caches on the reading side: what it had is in its kernel.
            assert_eq!(fs::read(to.join("note.txt")).unwrap(), (version - 1).to_string().into_bytes());
            let text = version.to_string().into_bytes();
            fs::write(from.join("note.txt"), &text).unwrap();
            let start = Instant::now();
            wait_for("the change to arrive", SOON, || fs::read(to.join("note.txt")).unwrap() == text);
            start.elapsed()
        })
        .collect();
    times.sort();
    let (median, p95) = (times[100], times[189]);
    println!("propagation: median {median:?}, p95 {p95:?}, max {:?}", times[199]);
    assert!(p95 < Duration::from_secs(1), "p95 {p95:?}");
    assert_eq!(names(&alice), [b"note.txt".to_vec()], "taking turns makes no conflicts");
}

#[test]
fn two_members_fill_one_directory_at_the_same_time() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::create_dir(alice.join("shared")).unwrap();
    wait_for("the directory", SOON, || bob.join("shared").is_dir());
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        for (dir, who) in [(&alice, "alice"), (&bob, "bob")] {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                (0..1_000).for_each(|n| {
                    fs::write(dir.join("shared").join(format!("{who}-{n}")), format!("{who} {n}")).unwrap()
                });
            });
        }
    });
    for dir in [&alice, &bob] {
        wait_for("2,000 files", SOON * 2, || names(&dir.join("shared")).len() == 2_000);
        for who in ["alice", "bob"] {
            (0..1_000).for_each(|n| {
                let path = dir.join("shared").join(format!("{who}-{n}"));
                wait_for("its content", SOON, || fs::read(&path).unwrap() == format!("{who} {n}").into_bytes());
            });
        }
    }
    team.alice.sync();
    team.bob.sync();
    assert!(digest(&alice) == digest(&bob));
}

#[test]
fn two_members_overwrite_one_file_at_the_same_time_and_both_versions_stay() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::write(alice.join("plan.tar.gz"), b"first").unwrap();
    wait_for("the file", SOON, || fs::read(bob.join("plan.tar.gz")).is_ok_and(|text| text == b"first"));
    // Nobody hears of the other before both have written.
    team.server.pause();
    fs::write(alice.join("plan.tar.gz"), b"Alice's version").unwrap();
    fs::write(bob.join("plan.tar.gz"), b"Bob's version").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    team.server.resume();
    for dir in [&alice, &bob] {
        wait_for("both versions", SOON * 2, || versions(dir, "plan.tar.gz").len() == 2);
        wait_for("both contents", SOON, || {
            let mut contents: Vec<_> = versions(dir, "plan.tar.gz").into_iter().map(|(_, content)| content).collect();
            contents.sort();
            contents == [b"Alice's version".to_vec(), b"Bob's version".to_vec()]
        });
    }
    let seen = versions(&alice, "plan.tar.gz");
    assert_eq!(seen, versions(&bob, "plan.tar.gz"));
    let (conflict, content) = seen.iter().find(|(name, _)| name != "plan.tar.gz").unwrap();
    let loser = if content.starts_with(b"Alice") { "alice" } else { "bob" };
    assert!(conflict.starts_with(&format!("plan (conflict, {loser}'s laptop, 20")), "{conflict}");
    assert!(conflict.ends_with(").tar.gz"), "{conflict}");
}

#[test]
fn a_crash_of_the_server_in_the_middle_of_an_upload_loses_nothing_and_repeats_nothing() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::create_dir(alice.join("many")).unwrap();
    for round in 0..3 {
        write_random(&alice.join(format!("big-{round}")), 40 << 20, round);
        (0..200).for_each(|n| fs::write(alice.join(format!("many/{round}-{n}")), format!("{round} {n}")).unwrap());
        std::thread::sleep(Duration::from_millis(150));
        team.server.kill9();
        std::thread::sleep(Duration::from_millis(300));
        team.server.restart();
    }
    team.alice.sync();
    wait_for("everything at Bob's", SOON * 2, || digest(&bob) == digest(&alice));
    assert_eq!(names(&bob.join("many")).len(), 600);
    assert_eq!(names(&bob), ["big-0", "big-1", "big-2", "many"].map(|name| name.as_bytes().to_vec()));
}

#[test]
fn what_fsync_confirmed_survives_a_crash_of_the_client_and_arrives() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    // The server is gone, so nothing can have left the machine before the crash.
    wait_for("Bob's mount", SOON, || names(&bob).is_empty());
    team.server.kill9();
    for n in 0..20 {
        let path = alice.join(format!("file-{n}"));
        fs::write(&path, format!("content {n}")).unwrap();
        fs::File::open(&path).unwrap().sync_all().unwrap();
    }
    write_random(&alice.join("big"), 20 << 20, 7); // ends with fsync
    let expected = digest_file(&alice.join("big"));
    team.alice.kill9();
    team.server.restart();
    let alice = team.alice.mount("acme");
    assert_eq!(digest_file(&alice.join("big")), expected, "after the remount the data is there");
    for dir in [&alice, &bob] {
        wait_for("the files", SOON * 2, || names(dir).len() == 21);
        (0..20).for_each(|n| {
            let path = dir.join(format!("file-{n}"));
            wait_for("its content", SOON, || fs::read(&path).unwrap() == format!("content {n}").into_bytes());
        });
        // A name may arrive before the content of a large file.
        wait_for("the large file", SOON, || digest_file(&dir.join("big")) == expected);
    }
}

#[test]
fn everyday_operations_agree_on_both_sides() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::create_dir_all(alice.join("a/b/c")).unwrap();
    fs::write(alice.join("a/f"), b"one").unwrap();
    fs::hard_link(alice.join("a/f"), alice.join("a/b/g")).unwrap();
    fs::rename(alice.join("a/b"), alice.join("moved")).unwrap();
    fs::write(alice.join("gone"), b"x").unwrap();
    fs::remove_file(alice.join("gone")).unwrap();
    fs::create_dir(alice.join("empty")).unwrap();
    fs::remove_dir(alice.join("empty")).unwrap();
    assert_eq!(fs::remove_dir(alice.join("a")).unwrap_err().raw_os_error(), Some(39), "ENOTEMPTY");
    fs::OpenOptions::new().write(true).open(alice.join("a/f")).unwrap().set_len(2).unwrap();
    xattr::set(alice.join("a/f"), "user.colour", b"green").unwrap();
    filetime::set_file_mtime(alice.join("a/f"), filetime::FileTime::from_unix_time(1_000_000_000, 123_456_789))
        .unwrap();
    team.alice.sync();
    wait_for("the same tree", SOON, || digest(&bob) == digest(&alice));
    assert_eq!(fs::read(bob.join("moved/g")).unwrap(), b"on");
    wait_for("the attributes", SOON, || {
        xattr::get(bob.join("a/f"), "user.colour").unwrap().as_deref() == Some(b"green")
    });
    let meta = fs::metadata(bob.join("a/f")).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec(), meta.nlink()), (1_000_000_000, 123_456_789, 2));
    assert!(bob.join("moved/c").is_dir() && !bob.join("gone").exists());
}

#[test]
fn an_unlinked_file_stays_readable_while_it_is_open() {
    use std::io::{Read, Seek, Write};
    let mut team = Team::new();
    let (alice, _) = team.mount();
    let mut file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(alice.join("tmp")).unwrap();
    file.write_all(b"still here").unwrap();
    fs::remove_file(alice.join("tmp")).unwrap();
    assert!(names(&alice).is_empty());
    file.write_all(b", and growing").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here, and growing");
    drop(file);
    team.alice.sync();
    assert!(names(&alice).is_empty());
}

#[test]
fn a_viewer_reads_and_cannot_write() {
    let mut team = Team::new();
    let carol = common::Member::create(team.dir.path(), "carol", &team.server.url(), &team.server.invite());
    let mut carol = carol;
    team.alice.ok(&["member", "add", "acme", &carol.account, "--role", "viewer"]);
    let alice = team.alice.mount("acme");
    fs::write(alice.join("f"), b"read me").unwrap();
    let mount = carol.mount("acme");
    wait_for("the file", SOON, || fs::read(mount.join("f")).is_ok_and(|text| text == b"read me"));
    assert_eq!(fs::metadata(mount.join("f")).unwrap().permissions().mode() & 0o222, 0);
    for error in [
        fs::write(mount.join("f"), b"no").unwrap_err(),
        fs::write(mount.join("new"), b"no").unwrap_err(),
        fs::remove_file(mount.join("f")).unwrap_err(),
    ] {
        assert!(matches!(error.raw_os_error(), Some(13 | 30)), "EACCES or EROFS, not {error}");
    }
    assert_eq!(fs::read(alice.join("f")).unwrap(), b"read me");
}
