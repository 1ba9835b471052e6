//! The built helper in front of a `kegfs` of our own that writes down how it was called: what mount(8) would see.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use tempfile::TempDir;

/// The helper and a scripted `kegfs` beside it, as `scripts/install` puts them.
struct Installed {
    directory: TempDir,
}

impl Installed {
    /// `script` is what `kegfs` does after it has written its arguments, user and environment to files.
    fn new(script: &str) -> Installed {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        fs::set_permissions(at, fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_mount-kegfs"), at.join("mount-kegfs")).unwrap();
        let record = format!("printf '%s\\n' \"$@\" >{0}/args; id -u >{0}/uid; env >{0}/env", at.display());
        fs::write(at.join("kegfs"), format!("#!/bin/sh\n{record}\n{script}\n")).unwrap();
        fs::set_permissions(at.join("kegfs"), fs::Permissions::from_mode(0o755)).unwrap();
        Installed { directory }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let program = self.directory.path().join("mount-kegfs");
        Command::new(program).args(arguments).env("KEGFS_TEST_CANARY", "from root's environment").output().unwrap()
    }

    fn recorded(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.directory.path().join(file)).ok()
    }
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory that is a mountpoint on every system: the helper believes a success only at one.
const MOUNTPOINT: &str = "/proc";

#[test]
fn success_is_zero_and_silent() {
    let installed = Installed::new("echo mounted; exit 0");
    let output = installed.run(&["acme", MOUNTPOINT, "-o", "rw,_netdev,ro,profile=/p,passphrase-file=/f"]);
    assert_eq!(output.status.code(), Some(0), "{}", message(&output));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let arguments = installed.recorded("args").unwrap();
    assert_eq!(
        arguments.lines().collect::<Vec<_>>(),
        ["--profile", "/p", "mount", "--passphrase-file", "/f", "-o", "ro", "--", "acme", MOUNTPOINT]
    );
}

#[test]
fn all_folders_have_no_name() {
    let installed = Installed::new("exit 0");
    assert_eq!(installed.run(&["all", MOUNTPOINT]).status.code(), Some(0));
    assert_eq!(installed.recorded("args").unwrap(), format!("mount\n--\n{MOUNTPOINT}\n"));
}

#[test]
fn success_without_a_mount_is_a_failure() {
    let installed = Installed::new("exit 0");
    let directory = tempfile::tempdir().unwrap();
    let output = installed.run(&["acme", directory.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(32));
    assert!(message(&output).contains("nothing is mounted"), "{}", message(&output));
}

#[test]
fn failures_keep_the_message_and_get_the_code_of_mount() {
    for (script, code) in [
        ("echo 'no such folder' >&2; exit 1", 32),
        ("echo 'no such folder' >&2; exit 6", 32),
        ("echo 'no such folder' >&2; exit 2", 1),
        ("echo 'no such folder' >&2; exit 101", 4),
        ("echo 'no such folder' >&2; kill -INT $$", 8),
        ("echo 'no such folder' >&2; kill -KILL $$", 4),
    ] {
        let output = Installed::new(script).run(&["acme", MOUNTPOINT]);
        assert_eq!(output.status.code(), Some(code), "{script}");
        assert!(message(&output).contains("no such folder"), "{script}");
    }
}

#[test]
fn a_mistake_runs_nothing() {
    let installed = Installed::new("exit 0");
    for arguments in [
        &["acme"][..],
        &["acme", MOUNTPOINT, "-x"],
        &["acme", MOUNTPOINT, "-t", "ext4"],
        &["acme", MOUNTPOINT, "-o", "passphrase=hunter2"],
        &["acme", MOUNTPOINT, "-o", "profile=relative"],
    ] {
        let output = installed.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(message(&output).starts_with("mount.kegfs: "), "{arguments:?}");
        assert!(!message(&output).contains("hunter2"));
    }
    assert_eq!(installed.recorded("args"), None);
}

#[test]
fn fake_checks_and_mounts_nothing() {
    let installed = Installed::new("exit 0");
    let output = installed.run(&["-fv", "acme", "/srv/acme"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("mount -- acme /srv/acme"));
    assert_eq!(installed.recorded("args"), None);
    assert_eq!(installed.run(&["-f", "acme", "/d", "-o", "user=no such user"]).status.code(), Some(2));
}

#[test]
fn a_missing_kegfs_is_a_system_error() {
    let installed = Installed::new("exit 0");
    fs::remove_file(installed.directory.path().join("kegfs")).unwrap();
    let program = installed.directory.path().join("mount-kegfs");
    let output =
        Command::new(program).args(["acme", MOUNTPOINT]).env("PATH", "/nonexistent:relative").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(message(&output).contains("kegfs was not found"), "{}", message(&output));
}

/// As root the mount becomes the named user's, without anything of root's environment; anybody else is refused.
#[test]
fn the_mount_belongs_to_the_user_named() {
    let installed = Installed::new("exit 0");
    let root = fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0).unwrap();
    let output = installed.run(&["acme", MOUNTPOINT, "-o", if root { "user=nobody" } else { "user=root" }]);
    if root {
        assert_eq!(output.status.code(), Some(0), "{}", message(&output));
        assert_eq!(installed.recorded("uid").unwrap().trim(), "65534");
        let environment = installed.recorded("env").unwrap();
        assert!(environment.contains("USER=nobody") && !environment.contains("KEGFS_TEST_CANARY"), "{environment}");
    } else {
        assert_eq!(output.status.code(), Some(1));
        assert!(message(&output).contains("only root"), "{}", message(&output));
        assert_eq!(installed.recorded("args"), None);
    }
}
