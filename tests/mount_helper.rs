//! `mount.kegfs` with real mounts: what mount(8) and fstab give to it reaches a mounted folder, or a code and a reason.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Member, Team, detach, require_fuse};

/// A mountpoint that is detached whatever happens to the test.
struct Mountpoint(PathBuf);

impl Mountpoint {
    fn new(team: &Team, name: &str) -> Mountpoint {
        require_fuse();
        let directory = team.dir.path().join(name);
        fs::create_dir(&directory).unwrap();
        Mountpoint(directory)
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            detach(&self.0);
        }
    }
}

/// The line of /proc/self/mountinfo says type fuse.kegfs.
fn is_mounted(directory: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == directory.to_str() && line.contains(" - fuse.kegfs "))
}

/// Runs the helper as mount(8) does: SPEC and DIR first, then the options.
fn helper(member: &Member, spec: &str, directory: &Path, options: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_kegfs")).with_file_name("mount-kegfs");
    assert!(program.exists(), "{} is missing: run with --workspace", program.display());
    let passphrase = member.profile.with_extension("passphrase");
    let options = format!(
        "rw,_netdev,nofail,x-systemd.automount,profile={},passphrase-file={}{options}",
        member.profile.display(),
        passphrase.display()
    );
    Command::new(program).arg(spec).arg(directory).arg("-o").arg(options).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn exits(output: &Output, code: i32) -> String {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    message
}

#[test]
fn zero_means_that_the_mount_answers() {
    let mut team = Team::new();
    let at = Mountpoint::new(&team, "by-helper");
    exits(&helper(&team.alice, "acme", &at.0, ""), 0);
    assert!(is_mounted(&at.0));
    fs::write(at.0.join("note"), "through fstab").unwrap();
    assert_eq!(fs::read_to_string(at.0.join("note")).unwrap(), "through fstab");
    team.alice.unmount(&at.0);
    assert!(!is_mounted(&at.0));
    assert_eq!(fs::read_dir(&at.0).unwrap().count(), 0);
}

#[test]
fn all_shows_one_directory_for_each_folder() {
    let mut team = Team::new();
    let at = Mountpoint::new(&team, "all-folders");
    exits(&helper(&team.alice, "all", &at.0, ""), 0);
    fs::write(at.0.join("acme/note"), "x").unwrap();
    team.alice.unmount(&at.0);
}

#[test]
fn read_only_is_honoured() {
    let mut team = Team::new();
    let at = Mountpoint::new(&team, "read-only");
    exits(&helper(&team.alice, "acme", &at.0, ",ro"), 0);
    let error = fs::write(at.0.join("note"), "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    team.alice.unmount(&at.0);
}

#[test]
fn a_failed_mount_has_code_32_and_a_reason_and_leaves_nothing_behind() {
    let team = Team::new();
    let at = Mountpoint::new(&team, "nothing");
    let message = exits(&helper(&team.alice, "no-such-folder", &at.0, ""), 32);
    assert!(message.contains("no-such-folder"), "{message}");
    assert!(!is_mounted(&at.0));

    fs::write(at.0.join("in the way"), "").unwrap();
    let message = exits(&helper(&team.alice, "acme", &at.0, ""), 32);
    assert!(message.contains("empty"), "{message}");
    assert!(!is_mounted(&at.0));
    assert!(at.0.join("in the way").exists());
}

#[test]
fn a_secret_in_the_options_is_refused_before_anything_happens() {
    let team = Team::new();
    let at = Mountpoint::new(&team, "refused");
    let message = exits(&helper(&team.alice, "acme", &at.0, ",passphrase=hunter2"), 1);
    assert!(message.contains("passphrase-file") && !message.contains("hunter2"), "{message}");
    assert!(!is_mounted(&at.0));
}
