//! What the command line says when something is wrong: a message with the next step, the documented exit code, and
//! nothing lost. Real programs, real mounts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{Member, PASSPHRASE, Server, Team, detach, require_fuse, wait_for};

/// Exit codes as `kegfs --help` documents them.
mod code {
    pub const FAILURE: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const WRONG_PASSPHRASE: i32 = 3;
    pub const UNREACHABLE: i32 = 4;
    pub const REFUSED: i32 = 5;
    pub const MOUNTPOINT: i32 = 6;
    pub const CORRUPT: i32 = 7;
    pub const DISK_FULL: i32 = 8;
    pub const BUSY: i32 = 9;
}

/// The command failed with `code`, and its message contains all of `words`.
#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

fn mountpoint(team: &Team, name: &str) -> PathBuf {
    require_fuse();
    let dir = team.dir.path().join(name);
    fs::create_dir(&dir).unwrap();
    dir
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == dir.to_str())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server and one account on it; enough where nothing is shared.
fn alone() -> Team {
    Team::new()
}

#[test]
fn a_wrong_passphrase_is_told_and_nothing_is_mounted() {
    let team = alone();
    let wrong = team.dir.path().join("wrong");
    fs::write(&wrong, "incorrect horse").unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).unwrap();
    refused(
        &team.alice.kegfs_with(&wrong, &["folder", "list"]),
        code::WRONG_PASSPHRASE,
        &["wrong passphrase", "keystore"],
    );
    let dir = mountpoint(&team, "m");
    let output = team.alice.kegfs_with(&wrong, &["mount", "acme", text(&dir)]);
    refused(&output, code::WRONG_PASSPHRASE, &["wrong passphrase"]);
    assert!(!is_mounted(&dir));
    assert_eq!(team.alice.daemon_pid(), None);
    assert!(team.alice.ok(&["folder", "list"]).contains("acme"));
}

#[test]
fn a_passphrase_file_that_others_can_read_is_refused_with_the_command_to_run() {
    let team = alone();
    let open = team.dir.path().join("open");
    fs::write(&open, PASSPHRASE).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&team.alice.kegfs_with(&open, &["folder", "list"]), code::USAGE, &["can be read by others", "chmod 600"]);
}

#[test]
fn the_passphrase_can_come_over_a_descriptor_and_is_asked_for_nowhere_else() {
    let team = alone();
    let run = |args: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kegfs"))
            .arg("--profile")
            .arg(&team.alice.profile)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(format!("{PASSPHRASE}\n").as_bytes());
        child.wait_with_output().unwrap()
    };
    let output = run(&["folder", "list", "--passphrase-fd", "0"]);
    assert!(output.status.success(), "{output:?}");
    refused(&run(&["folder", "list", "--passphrase-fd", "77"]), code::USAGE, &["--passphrase-fd 77"]);
}

#[test]
fn a_profile_without_an_account_says_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let kegfs = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_kegfs"))
            .arg("--profile")
            .arg(dir.path().join("p"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    for args in [&["account", "show"][..], &["folder", "list"], &["status"]] {
        refused(&kegfs(args), code::FAILURE, &["no account", "kegfs account create"]);
    }
    refused(&kegfs(&["frobnicate"]), code::USAGE, &["frobnicate"]);
    assert!(kegfs(&["--help"]).status.success());
    assert!(kegfs(&["lock"]).status.success(), "nothing to lock is locked");
}

#[test]
fn an_unreachable_server_is_told_and_no_half_account_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let (url, invite) = (server.url(), server.invite());
    server.kill9();
    let passphrase = dir.path().join("pass");
    fs::write(&passphrase, PASSPHRASE).unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    let profile = dir.path().join("carol");
    let create = |invite: &str| {
        Command::new(env!("CARGO_BIN_EXE_kegfs"))
            .arg("--profile")
            .arg(&profile)
            .args(["account", "create", "--server", &url, "--name", "carol", "--device", "laptop", "--invite", invite])
            .arg("--passphrase-file")
            .arg(&passphrase)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    refused(&create(&invite), code::UNREACHABLE, &["cannot be reached", &url]);
    assert!(!profile.join("keystore").exists() && !profile.join("config.json").exists());
    server.restart();
    refused(&create("not-an-invite"), code::REFUSED, &["invite"]);
    assert!(!profile.join("keystore").exists());
    let output = create(&invite);
    assert!(output.status.success(), "{output:?}");
    refused(&create(&invite), code::USAGE, &["already", "--profile"]);
}

#[test]
fn without_the_server_files_can_be_written_and_arrive_later() {
    let mut team = alone();
    let dir = team.alice.mount("acme");
    fs::write(dir.join("before"), b"before").unwrap();
    team.alice.sync();
    team.server.kill9();
    refused(&team.alice.kegfs(&["folder", "create", "other"]), code::UNREACHABLE, &["cannot be reached"]);
    let nobody = "ab".repeat(32);
    refused(&team.alice.kegfs(&["member", "add", "acme", &nobody]), code::UNREACHABLE, &["cannot be reached"]);
    fs::write(dir.join("meanwhile"), b"meanwhile").unwrap();
    assert_eq!(fs::read(dir.join("before")).unwrap(), b"before");
    wait_for("the client to notice", Duration::from_secs(60), || team.alice.ok(&["status"]).contains("offline"));
    refused(&team.alice.kegfs(&["sync", "--wait", "--timeout", "8"]), code::UNREACHABLE, &["safe in the journal"]);
    let said = team.alice.unmount(&dir);
    assert!(said.contains("safe in the journal"), "{said}");
    // Mounting needs no server either.
    let dir = team.alice.mount("acme");
    assert_eq!(fs::read(dir.join("meanwhile")).unwrap(), b"meanwhile");
    team.server.restart();
    team.alice.sync();
    let bob = team.bob.mount("acme");
    wait_for("the file to arrive", Duration::from_secs(20), || {
        fs::read(bob.join("meanwhile")).is_ok_and(|bytes| bytes == b"meanwhile")
    });
}

#[test]
fn an_unusable_mountpoint_is_told_and_left_as_it_is() {
    let mut team = alone();
    let dir = mountpoint(&team, "m");
    let mount = |dir: &Path| team.alice.kegfs(&["mount", "acme", text(dir)]);
    fs::write(dir.join("precious"), b"mine").unwrap();
    refused(&mount(&dir), code::MOUNTPOINT, &["not empty"]);
    assert_eq!(fs::read(dir.join("precious")).unwrap(), b"mine");
    refused(&mount(&dir.join("precious")), code::MOUNTPOINT, &["not a directory"]);
    refused(&mount(&dir.join("missing")), code::MOUNTPOINT, &["does not exist", "mkdir -p"]);
    refused(&mount(Path::new("/proc")), code::MOUNTPOINT, &["already a mountpoint"]);
    refused(&team.alice.kegfs(&["unmount", text(&dir)]), code::MOUNTPOINT, &["not a KegFS mountpoint"]);
    assert_eq!(team.alice.daemon_pid(), None);

    let mounted = team.alice.mount("acme");
    refused(&team.alice.kegfs(&["mount", "acme", text(&mounted)]), code::MOUNTPOINT, &["already", "kegfs unmount"]);
    let other = mountpoint(&team, "other");
    refused(
        &team.alice.kegfs(&["mount", "acme", text(&other)]),
        code::MOUNTPOINT,
        &["already mounted on", text(&mounted)],
    );
    refused(&team.bob.kegfs(&["mount", "acme", text(&mounted)]), code::MOUNTPOINT, &["already a KegFS mountpoint"]);
    fs::write(mounted.join("still"), b"works").unwrap();
    assert_eq!(fs::read(mounted.join("still")).unwrap(), b"works");
    refused(&team.alice.kegfs(&["mount", "nonesuch", text(&other)]), code::FAILURE, &["nonesuch", "folder list"]);
    refused(
        &team.alice.kegfs(&["mount", "acme", text(&other), "-o", "fast"]),
        code::USAGE,
        &["`fast`", "fsync=server"],
    );
}

#[test]
fn a_mount_in_use_is_not_unmounted_and_its_user_is_named() {
    let mut team = alone();
    let dir = team.alice.mount("acme");
    fs::write(dir.join("file"), b"x").unwrap();
    let holder = Holder::in_directory(&dir);
    let output = team.alice.kegfs(&["unmount", text(&dir)]);
    refused(&output, code::BUSY, &["in use", "sleep", &holder.0.id().to_string(), "--force"]);
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"x");
    refused(&team.alice.kegfs(&["lock"]), code::BUSY, &["in use"]);
    assert!(is_mounted(&dir));
    team.alice.ok(&["unmount", "--force", text(&dir)]);
    assert!(!is_mounted(&dir));
    drop(holder);
    let again = team.alice.mount("acme");
    assert_eq!(fs::read(again.join("file")).unwrap(), b"x");
}

/// A process that works in a directory until it is dropped.
struct Holder(Child);

impl Holder {
    fn in_directory(dir: &Path) -> Self {
        let child = Command::new("sleep").arg("1000").current_dir(dir).spawn().unwrap();
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn after_a_crash_the_next_mount_removes_the_dead_one() {
    let mut team = alone();
    let dir = team.alice.mount("acme");
    fs::write(dir.join("file"), b"kept").unwrap();
    fs::File::open(dir.join("file")).unwrap().sync_all().unwrap();
    let pid = team.alice.daemon_pid().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    wait_for("the process to die", Duration::from_secs(10), || team.alice.daemon_pid().is_none());
    let errno = fs::read_dir(&dir).unwrap_err().raw_os_error();
    assert!(matches!(errno, Some(libc::ENOTCONN | libc::ECONNABORTED)), "{errno:?}");
    let output = team.alice.kegfs(&["mount", "acme", text(&dir)]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("dead mount"), "{said}");
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"kept");
    // And a dead one can be unmounted.
    let pid = team.alice.daemon_pid().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    wait_for("the process to die", Duration::from_secs(10), || team.alice.daemon_pid().is_none());
    team.alice.unmount(&dir);
    assert!(!is_mounted(&dir));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn whoever_unmounts_the_background_process_ends_and_everything_is_kept() {
    let mut team = alone();
    for how in ["umount", "SIGTERM", "lock"] {
        let dir = team.alice.mount("acme");
        fs::write(dir.join(how), how).unwrap();
        let pid = team.alice.daemon_pid().unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{how}");
        match how {
            "umount" => run(Command::new("umount").arg(&dir)),
            "SIGTERM" => run(Command::new("kill").arg(pid.to_string())),
            _ => drop(team.alice.ok(&["lock"])),
        }
        wait_for("the process to end", Duration::from_secs(20), || !common::alive(pid));
        assert!(!is_mounted(&dir), "{how}");
        assert!(team.alice.ok(&["status"]).contains("locked"));
    }
    let dir = team.alice.mount("acme");
    for how in ["umount", "SIGTERM", "lock"] {
        assert_eq!(fs::read_to_string(dir.join(how)).unwrap(), how);
    }
}

#[test]
fn a_corrupt_keystore_is_told_before_the_passphrase_is_asked() {
    let team = alone();
    let path = team.alice.profile.join("keystore");
    let good = fs::read(&path).unwrap();
    for damage in ["flipped", "cut", "empty"] {
        let mut bad = good.clone();
        match damage {
            "flipped" => bad[good.len() / 2] ^= 1,
            "cut" => bad.truncate(good.len() - 1),
            _ => bad.clear(),
        }
        fs::write(&path, &bad).unwrap();
        refused(&team.alice.kegfs(&["folder", "list"]), code::CORRUPT, &["keystore", "damaged", "backup"]);
    }
    fs::write(&path, &good).unwrap();
    assert!(team.alice.ok(&["folder", "list"]).contains("acme"));
}

#[test]
fn a_corrupt_replica_is_told_and_comes_back_from_the_server() {
    let mut team = alone();
    let dir = team.alice.mount("acme");
    fs::write(dir.join("file"), b"precious").unwrap();
    team.alice.unmount(&dir);
    let replicas: Vec<PathBuf> = fs::read_dir(team.alice.profile.join("folders"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("state.db"))
        .collect();
    assert_eq!(replicas.len(), 1);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", replicas[0].display()));
    }
    let mut bytes = fs::read(&replicas[0]).unwrap();
    bytes.iter_mut().skip(16).step_by(7).for_each(|byte| *byte ^= 0x55);
    fs::write(&replicas[0], &bytes).unwrap();
    let output = team.alice.kegfs(&["mount", "acme", text(&dir)]);
    refused(&output, code::CORRUPT, &["state.db", "damaged", "move it away"]);
    assert!(!is_mounted(&dir));
    // Nothing was overwritten, and following the advice helps.
    assert_eq!(fs::read(&replicas[0]).unwrap(), bytes);
    fs::rename(&replicas[0], replicas[0].with_extension("damaged")).unwrap();
    let dir = team.alice.mount("acme");
    wait_for("the folder to come back", Duration::from_secs(20), || {
        fs::read(dir.join("file")).is_ok_and(|bytes| bytes == b"precious")
    });
}

/// A tmpfs of a few MiB, as a disk that is soon full. Needs root, as mounting it does.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(dir: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&dir).unwrap();
        let options = format!("size={size},mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&dir).status();
        assert!(
            mounted.unwrap().success(),
            "this test mounts a tmpfs as a small disk, which only root may: run it as root"
        );
        Self(dir)
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        detach(&self.0);
    }
}

#[test]
fn a_full_disk_is_told_and_what_was_written_before_is_kept() {
    require_fuse();
    let mut team = alone();
    let disk = SmallDisk::new(team.dir.path().join("dave"), "48m");
    let mut dave = Member::create(team.dir.path(), "dave", &team.server.url(), &team.server.invite());
    team.alice.ok(&["member", "add", "acme", &dave.account, "--role", "editor"]);
    let dir = dave.mount("acme");
    fs::write(dir.join("early"), b"written in time").unwrap();
    dave.sync();
    // No upload, so that what is written stays on the small disk.
    team.server.pause();
    let chunk = vec![0x5au8; 1 << 20];
    let fill = || -> std::io::Result<()> {
        let mut file = fs::File::create(dir.join("large"))?;
        for _ in 0..200 {
            file.write_all(&chunk)?;
        }
        file.sync_all()
    };
    let error = fill().expect_err("200 MiB do not fit on 48 MiB");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    // To make room, cached ciphertext may have gone: the server has it.
    team.server.resume();
    assert_eq!(fs::read(dir.join("early")).unwrap(), b"written in time");
    disk.grow("600m");
    let write =
        |name: &str| fs::write(dir.join(name), b"after").and_then(|()| fs::File::open(dir.join(name))?.sync_all());
    wait_for("writing to work again", Duration::from_secs(30), || write("later").is_ok());
    dave.unmount(&dir);
    let alice = team.alice.mount("acme");
    for (name, content) in [("early", &b"written in time"[..]), ("later", b"after")] {
        wait_for(name, Duration::from_secs(60), || fs::read(alice.join(name)).is_ok_and(|bytes| bytes == content));
    }
}

#[test]
fn bits_that_the_disk_lost_in_the_cache_are_fetched_again() {
    let mut team = alone();
    let dir = team.alice.mount("acme");
    let content: Vec<u8> = (0..300_000u32).map(|n| (n / 7) as u8).collect();
    fs::write(dir.join("precious"), &content).unwrap();
    team.alice.sync();
    // Nothing of it stays in memory.
    team.alice.unmount(&dir);
    let mut damaged = 0;
    for folder in fs::read_dir(team.alice.profile.join("folders")).unwrap() {
        let cache = folder.unwrap().path().join("blobs/cache");
        for blob in fs::read_dir(cache).into_iter().flatten().map(|blob| blob.unwrap().path()) {
            let mut bytes = fs::read(&blob).unwrap();
            bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
            fs::write(&blob, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0, "nothing is cached");
    let dir = team.alice.mount("acme");
    assert!(fs::read(dir.join("precious")).unwrap() == content);
}

#[test]
fn no_account_is_made_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let disk = SmallDisk::new(dir.path().join("erin"), "64k");
    fs::write(disk.0.join("ballast"), vec![0u8; 60 << 10]).unwrap();
    let passphrase = dir.path().join("pass");
    fs::write(&passphrase, PASSPHRASE).unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    let create = || {
        Command::new(env!("CARGO_BIN_EXE_kegfs"))
            .arg("--profile")
            .arg(&disk.0)
            .args(["account", "create", "--server", &server.url(), "--name", "erin", "--invite", &server.invite()])
            .arg("--passphrase-file")
            .arg(&passphrase)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    refused(&create(), code::DISK_FULL, &["full", "free some space"]);
    assert!(!disk.0.join("keystore").exists() && !disk.0.join("config.json").exists());
    fs::remove_file(disk.0.join("ballast")).unwrap();
    let output = create();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn everything_that_prints_data_prints_json_when_asked() {
    let mut team = alone();
    let dir = team.alice.mount("acme");
    let json = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&team.alice.ok(&[args, &["--json"]].concat())).unwrap()
    };
    assert_eq!(json(&["account", "show"])["name"], "alice");
    assert_eq!(json(&["folder", "list"])[0]["name"], "acme");
    assert_eq!(json(&["folder", "list"])[0]["role"], "owner");
    let members = json(&["member", "list", "acme"]);
    assert_eq!(members.as_array().unwrap().len(), 2);
    assert!(members.as_array().unwrap().iter().any(|member| member["account"] == *team.bob.account));
    let status = json(&["status"]);
    assert_eq!(status["mounts"][0]["dir"], text(&dir));
    assert_eq!(status["folders"][0]["folder"]["name"], "acme");
    let output = team.alice.kegfs(&["mount", "acme", text(&dir), "--json"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["exit_code"], code::MOUNTPOINT);
    json(&["sync", "--wait"]);
    json(&["cache", "clear"]);
    json(&["unmount", text(&dir)]);
}

#[test]
fn all_folders_are_directories_of_one_mount_and_new_ones_appear() {
    let mut team = alone();
    team.alice.ok(&["folder", "create", "second"]);
    let dir = mountpoint(&team, "all");
    team.alice.ok(&["mount", text(&dir)]);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["acme", "second"]);
    fs::write(dir.join("acme/file"), b"shared").unwrap();
    let bob = team.bob.mount("acme");
    wait_for("the file", Duration::from_secs(20), || fs::read(bob.join("file")).is_ok_and(|bytes| bytes == b"shared"));
    team.alice.ok(&["folder", "create", "third"]);
    wait_for("the new folder", Duration::from_secs(20), || names().contains(&"third".into()));
    fs::write(dir.join("third/x"), b"x").unwrap();
    team.alice.ok(&["unmount", text(&dir)]);
}

#[test]
fn the_log_of_the_background_process_names_no_file_and_no_folder() {
    let mut team = alone();
    let dir = team.alice.mount("acme");
    fs::write(dir.join("telling-name"), b"telling-content").unwrap();
    team.alice.sync();
    team.alice.unmount(&dir);
    let log = fs::read_to_string(team.alice.profile.join("daemon.log")).unwrap();
    assert!(log.contains("mounted"), "{log}");
    for word in ["telling", "acme", PASSPHRASE] {
        assert!(!log.contains(word), "`{word}` in {log}");
    }
}
