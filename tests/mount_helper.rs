//! `mount.kegfs` with real mounts: what mount(8) and fstab give to it reaches a mounted folder, or a code and a reason.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
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

/// Runs a script as an ordinary user on a machine whose /dev/fuse has the mode `device`: as root in a mount namespace of
/// its own, where the device is another one. `$kegfs` is the program with its profile, `$dir` an empty directory.
fn as_user(team: &Team, device: &str, script: &str) -> Output {
    require_fuse();
    let root = nix::unistd::geteuid().is_root();
    let room = team.dir.path().join(format!("user-{device}"));
    let home = room.join("home");
    fs::create_dir_all(home.join("dir")).unwrap();
    // The build may lie where only root can go.
    fs::copy(env!("CARGO_BIN_EXE_kegfs"), room.join("kegfs")).unwrap();
    fs::write(home.join("passphrase"), "an ordinary passphrase").unwrap();
    fs::set_permissions(home.join("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(home.join("script"), format!("set -eu\nkegfs() {{ \"$room/kegfs\" --profile \"$HOME/p\" --passphrase-file \"$HOME/passphrase\" \"$@\"; }}\n{script}")).unwrap();
    let become_user = if root {
        "mknod -m $device $room/fuse c 10 229 && mount --bind $room/fuse /dev/fuse && chown -R 65534:65534 $HOME && \
         exec setpriv --reuid 65534 --regid 65534 --clear-groups sh $HOME/script"
    } else {
        "exec sh $HOME/script"
    };
    let mut command = if root { Command::new("unshare") } else { Command::new("sh") };
    if root {
        command.args(["--mount", "sh"]);
    }
    command.args(["-c", become_user]).env("HOME", &home).env("room", &room).env("device", device);
    command.env("dir", home.join("dir")).env("url", team.server.url()).env("invite", team.server.invite());
    command.env_remove("XDG_DATA_HOME").stdin(Stdio::null()).output().unwrap()
}

const CAROL: &str = "kegfs account create --server $url --name carol --device laptop --invite $invite
kegfs folder create notes\n";

#[test]
fn an_ordinary_user_mounts_without_root() {
    let team = Team::new();
    let script = format!(
        "{CAROL}kegfs mount notes $dir
echo hello >$dir/note
cat $dir/note
stat -c %u $dir/note
kegfs unmount $dir
test -z \"$(ls -A $dir)\""
    );
    let output = as_user(&team, "666", &script);
    exits(&output, 0);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let owner = if nix::unistd::geteuid().is_root() { 65534 } else { nix::unistd::geteuid().as_raw() };
    assert!(printed.contains(&format!("hello\n{owner}\n")), "{printed}");
}

#[test]
fn an_ordinary_user_who_may_not_open_the_device_is_told_what_to_do() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can make a device that the user may not open; where the tests run as the user, the one above counts.
        return;
    }
    let team = Team::new();
    let output = as_user(&team, "600", &format!("{CAROL}kegfs mount notes $dir"));
    let message = exits(&output, 6);
    assert!(message.contains("sudo chmod 666 /dev/fuse"), "{message}");
}
