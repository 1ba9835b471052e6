//! Access control lists: set, inherited and enforced as on a local file system, in mounts with `owners=stored`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{Mode, umask};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::common::{Team, wait_for};
use super::{Alone, STORED, many};

const SOON: Duration = Duration::from_secs(20);
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// What the script prints in `dir`, both streams.
fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-c", &format!("exec 2>&1\n{script}")]).current_dir(dir).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), output.status)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Everything that people do with lists: granted, masked, inherited, taken back; and who gets in.
const STORY: &str = r#"
as() { who=$1; groups=$2; shift 2; setpriv --reuid "$who" --regid "$who" --groups "$groups" sh -c "$*"; echo "= $?"; }
all() { find "$1" ! -type l | sort | xargs getfacl -n; }
umask 022
echo secret > f; chmod 600 f
setfacl -m u:65534:r f; getfacl -n f; stat -c %a f
as 65534 65534 'cat f'; as 65534 65534 'echo x >> f'; as 1 1 'cat f'
setfacl -m g:60:rw f; getfacl -n f
as 1 60 'cat f && echo more >> f'; as 1 61 'cat f'
chmod g-w f; getfacl -n f; as 1 60 'echo x >> f'
chmod g+w f; as 1 60 'echo again >> f'
setfacl -x u:65534 f; as 65534 65534 'cat f'
setfacl -b f; getfacl -n f; getfattr -m - f; as 1 60 'cat f'
mkdir d; setfacl -d -m u:1:rwX,g:60:r,o::- d; getfacl -n d
umask 077; mkdir d/e; touch d/f; mkfifo d/p; ln -s f d/l; cp -a f d/copy; getfacl -n d/e d/f d/p d/copy; stat -c %a d/e d/f d/p
(umask 0; touch d/open; mkdir d/wide; getfacl -n d/open d/wide)
setfacl -k d; touch d/after; getfacl -n d d/after
mkdir shared; chown 65534:60 shared; chmod 2770 shared
as 65534 60 'setfacl -m u:1:rwx shared'; stat -c %a shared
as 65534 61 'setfacl -m u:1:rx shared'; stat -c %a shared
as 1 60 'setfacl -m u:1:rwx shared'; setfacl -m u:1:rwx shared; as 1 1 'touch shared/of-one'; getfacl -n shared
setfacl -d -m u:1:r f; setfacl -m u:1:r d/l; getfacl -n f
mkdir minimal; setfacl -d -m u::rwx,g::rx,o::- minimal; touch minimal/f; mkdir minimal/d; getfacl -n minimal/f minimal/d
cp -a d again; all again; stat -c "%A %n" again/*
setfacl --set-file=- f < /dev/null; echo 'u::rw-,u:5:r--,g::---,m::rwx,o::---' | tr , '\n' | setfacl --set-file=- f; getfacl -n f
mv f d/; getfacl -n d/f; setfacl -R -b d; all d
"#;

#[test]
fn access_control_lists_are_what_they_are_on_a_local_file_system() {
    let mut alone = Alone::set_up();
    if !is_root() {
        return; // Nobody else has such mounts: `owners_are_shown_as_the_mounting_user_or_as_they_are_stored`.
    }
    let mnt = alone.mount_stored();
    for dir in [&mnt, &alone.local] {
        fs::create_dir(dir.join("story")).unwrap();
    }
    fs::set_permissions(mnt.join("story"), fs::metadata(alone.local.join("story")).unwrap().permissions()).unwrap();
    let local = sh(&alone.local.join("story"), STORY);
    assert!(local.contains("user:65534:r--") && local.contains("#effective:r--"), "no lists on this disk:\n{local}");
    let mounted = sh(&mnt.join("story"), STORY);
    for (mounted, local) in mounted.lines().zip(local.lines()) {
        assert_eq!(mounted, local);
    }
    assert_eq!(mounted, local);
    let all = "find story ! -type l | sort | xargs getfacl -n";
    let before = sh(&mnt, all);
    alone.mount_stored();
    assert_eq!(sh(&mnt, all), before, "after a remount");
}

#[test]
fn rsync_and_tar_carry_access_control_lists_in_and_out() {
    let mut alone = Alone::set_up();
    if !is_root() {
        return;
    }
    let mnt = alone.mount_stored();
    let made = "mkdir -p tree/d; echo x > tree/d/f; setfacl -m u:7:rwx,g:8:r tree/d/f; chown 5:6 tree/d; \
                setfacl -d -m u:7:rwx,g:8:r tree/d; setfacl -m g:4:rx tree; chmod 640 tree/d/f";
    let local = &alone.local;
    assert!(sh(local, made).ends_with("exit status: 0"));
    let lists = |dir: &Path, name: &str| sh(dir, &format!("cd {name} && find . | sort | xargs getfacl -n"));
    let expected = lists(local, "tree");
    assert!(expected.contains("user:7:rwx"), "{expected}");
    let (out, there) = (local.display(), mnt.display());
    for (script, dir, name) in [
        (format!("rsync -aHAX {out}/tree/ {there}/by-rsync"), mnt.as_path(), "by-rsync"),
        (format!("rsync -aHAX {there}/by-rsync/ {out}/back"), local.as_path(), "back"),
        (
            format!("mkdir {there}/by-tar && tar -C {out}/tree --acls -c . | tar -C {there}/by-tar --acls -xp"),
            &mnt,
            "by-tar",
        ),
        (format!("rsync -aHAXi {out}/tree/ {there}/by-tar"), &mnt, "by-tar"),
    ] {
        assert_eq!(sh(local, &script), "exit status: 0", "{script}");
        assert_eq!(lists(dir, name), expected, "{script}");
    }
}

/// Lists are extended attributes to everybody else; the mode says what both say.
#[test]
fn lists_and_modes_agree_whoever_of_the_members_changes_them() {
    let mut team = Team::new();
    if !is_root() {
        return;
    }
    let alice = team.alice.mount_with("acme", &STORED);
    let bob = team.bob.mount("acme");
    sh(&alice, "echo x > f; setfacl -m u:7:rwx,g::r f; mkdir d; setfacl -d -m u:7:rw d");
    let mode = |dir: &Path| fs::metadata(dir.join("f")).map(|meta| meta.mode() & 0o777).unwrap_or_default();
    wait_for("the mask in Bob's mode", SOON, || mode(&bob) == 0o674);
    // Without the option there are no lists.
    assert_eq!(xattr::get(bob.join("f"), ACCESS).unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    assert_eq!(xattr::list(bob.join("f")).unwrap().count(), 0);
    fs::write(bob.join("d/plain"), b"of Bob").unwrap();
    fs::set_permissions(bob.join("f"), PermissionsExt::from_mode(0o640)).unwrap();
    let told = || sh(&alice, "getfacl -n -c f");
    wait_for("Bob's mode in Alice's list", SOON, || told().contains("mask::r--"));
    assert!(told().contains("user:7:rwx\t#effective:r--") && told().contains("other::---"), "{}", told());
    wait_for("Bob's file", SOON, || alice.join("d/plain").exists());
    assert!(!sh(&alice, "getfacl -n d/plain").contains("user:7"));

    // With it, Bob's mount shows them, and in them that a viewer writes nowhere.
    team.bob.unmount(&bob);
    let bob = team.bob.mount_with("acme", &STORED);
    fs::set_permissions(alice.join("f"), PermissionsExt::from_mode(0o660)).unwrap();
    let seen = || sh(&bob, "getfacl -n -c f");
    wait_for("the list at Bob's", SOON, || seen() == told());
    assert!(seen().contains("user:7:rwx\t#effective:rw-"), "{}", seen());
    let as_seven = |script: &str| sh(&bob, &format!("setpriv --reuid 7 --regid 7 --clear-groups sh -c '{script}'"));
    assert_eq!(as_seven("test -w f"), "exit status: 0");
    team.alice.ok(&["member", "role", "acme", "bob", "--role", "viewer"]);
    wait_for("a viewer's list", SOON, || seen().contains("mask::r--"));
    assert_eq!(as_seven("test -w f"), "exit status: 1");
    assert!(sh(&bob, "setfacl -m u:7:r f").ends_with("exit status: 1"));
    // The past has them too.
    team.alice.sync();
    let before = sh(&alice, "sleep 1.1; date -u +%FT%TZ").lines().next().unwrap().to_owned();
    sh(&alice, "setfacl -b f; chmod 600 f");
    team.alice.sync();
    let past = sh(&alice, &format!("getfacl -n -c .keg/at/{before}/f"));
    assert!(past.contains("user:7:rwx\t#effective:r--") && past.contains("mask::r--"), "{past}");
}

/// Both save one file and say who may read it, before either knows of the other.
#[test]
fn lists_modes_and_attributes_stay_with_the_version_that_they_were_set_to() {
    let mut team = Team::new();
    if !is_root() {
        return;
    }
    let [alice, bob] = [&mut team.alice, &mut team.bob].map(|member| member.mount_with("acme", &STORED));
    sh(&alice, "echo base > f; chmod 644 f; setfattr -n user.tag -v base f");
    wait_for("the file", SOON, || sh(&bob, "getfattr -n user.tag --only-values f").contains("base"));
    team.server.pause();
    let save = |dir: &Path, who: &str, uid: u32| {
        sh(dir, &format!("echo {who} > f; sync f; setfattr -n user.tag -v {who} f; setfacl -m u:{uid}:rw,g::-,o::- f"))
    };
    assert!(save(&bob, "bob", 7).ends_with("exit status: 0"));
    assert!(save(&alice, "alice", 8).ends_with("exit status: 0"));
    team.server.resume();
    let versions = |dir: &Path| {
        let show =
            "for f in *; do cat \"$f\"; getfattr -n user.tag --only-values \"$f\"; echo; getfacl -n -c \"$f\"; done";
        let mut all: Vec<String> = sh(dir, show).split("\n\n").map(|one| one.trim().to_owned()).collect();
        all.retain(|one| !one.starts_with("exit status"));
        all.sort();
        all
    };
    let version =
        |who: &str, uid: u32| format!("{who}\n{who}\nuser::rw-\nuser:{uid}:rw-\ngroup::---\nmask::rw-\nother::---");
    let expected = [version("alice", 8), version("bob", 7)];
    for dir in [&alice, &bob] {
        wait_for("both versions", SOON, || versions(dir).len() == 2 && versions(dir) == expected);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set { path: usize, default: bool, list: Vec<(u16, u16, u32)> },
    Remove { path: usize, default: bool },
    Chmod { path: usize, mode: u32 },
    Chown { path: usize, gid: u32 },
    Mkdir { path: usize, mode: u32, mask: u32 },
    File { path: usize, mode: u32, mask: u32 },
    Nameless { path: usize, mode: u32, mask: u32 },
    Write { path: usize },
}

const PATHS: [&str; 6] = ["a", "b", "a/b", "a/c", "a/c/d", "b/e"];

fn step() -> impl Strategy<Value = Step> {
    let path = 0..PATHS.len();
    let perm = 0..8_u16;
    // Mostly valid: the kernel refuses the rest before anybody sees it.
    let list = (
        proptest::collection::btree_map((prop_oneof![Just(2_u16), Just(8)], 1..4_u32), perm.clone(), 0..4),
        [perm.clone(), perm.clone(), perm.clone(), perm],
        prop_oneof![6 => Just(None), 1 => Just(Some(())) ],
    )
        .prop_map(|(named, [owner, group, mask, others], always)| {
            let id = u32::MAX;
            let mut list = vec![(1, owner, id), (4, group, id), (0x20, others, id)];
            if !named.is_empty() || always.is_some() {
                list.push((0x10, mask, id));
            }
            list.extend(named.into_iter().map(|((tag, id), perm)| (tag, perm, id)));
            list.sort_by_key(|(tag, _, id)| (*tag, *id));
            list
        });
    let mode = || prop_oneof![0..0o1000_u32, 0..0o10000_u32];
    let mask = prop_oneof![Just(0o022_u32), Just(0o077), Just(0), 0..0o1000_u32];
    prop_oneof![
        5 => (path.clone(), any::<bool>(), list).prop_map(|(path, default, list)| Step::Set { path, default, list }),
        1 => (path.clone(), any::<bool>()).prop_map(|(path, default)| Step::Remove { path, default }),
        3 => (path.clone(), mode()).prop_map(|(path, mode)| Step::Chmod { path, mode }),
        1 => (path.clone(), 0..4_u32).prop_map(|(path, gid)| Step::Chown { path, gid }),
        4 => (path.clone(), mode(), mask.clone()).prop_map(|(path, mode, mask)| Step::Mkdir { path, mode, mask }),
        3 => (path.clone(), mode(), mask.clone()).prop_map(|(path, mode, mask)| Step::File { path, mode, mask }),
        2 => (path.clone(), mode(), mask).prop_map(|(path, mode, mask)| Step::Nameless { path, mode, mask }),
        1 => path.prop_map(|path| Step::Write { path }),
    ]
}

fn encoded(list: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, perm, id) in list {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&perm.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn masked<T>(mask: u32, body: impl FnOnce() -> T) -> T {
    let before = umask(Mode::from_bits_truncate(mask));
    let result = body();
    umask(before);
    result
}

fn name(default: bool) -> &'static str {
    if default { DEFAULT } else { ACCESS }
}

fn act(root: &Path, step: &Step) -> io::Result<()> {
    let at = |path: usize| root.join(PATHS[path]);
    match step {
        Step::Set { path, default, list } => xattr::set(at(*path), name(*default), &encoded(list)),
        Step::Remove { path, default } => xattr::remove(at(*path), name(*default)),
        Step::Chmod { path, mode } => fs::set_permissions(at(*path), PermissionsExt::from_mode(*mode)),
        Step::Chown { path, gid } => std::os::unix::fs::chown(at(*path), None, Some(*gid)),
        Step::Mkdir { path, mode, mask } => masked(*mask, || fs::DirBuilder::new().mode(*mode).create(at(*path))),
        Step::File { path, mode, mask } => {
            masked(*mask, || OpenOptions::new().write(true).create_new(true).mode(*mode).open(at(*path)).map(drop))
        }
        Step::Nameless { path, mode, mask } => {
            let to = at(*path);
            let flags = libc::O_TMPFILE;
            let file = masked(*mask, || {
                OpenOptions::new().write(true).custom_flags(flags).mode(*mode).open(to.parent().unwrap())
            })?;
            nix::unistd::linkat(file.as_fd(), "", AT_FDCWD, &to, AtFlags::AT_EMPTY_PATH).map_err(io::Error::from)
        }
        Step::Write { path } => fs::write(at(*path), b"x"),
    }
}

/// What is told of a path: mode, group, both lists, the names of attributes.
type Told = Option<(u32, u32, Option<Vec<u8>>, Option<Vec<u8>>, Vec<String>)>;

fn told(root: &Path) -> Vec<Told> {
    let of = |path: &str| {
        let path = root.join(path);
        let meta = fs::symlink_metadata(&path).ok()?;
        let mut names: Vec<_> = xattr::list(&path).unwrap().map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        let list = |name| xattr::get(&path, name).unwrap();
        Some((meta.mode(), meta.gid(), list(ACCESS), list(DEFAULT), names))
    };
    PATHS.iter().map(|path| of(path)).collect()
}

#[test]
fn random_lists_modes_and_creations_do_not_differ_from_local_ones() {
    let mut alone = Alone::set_up();
    if !is_root() {
        return;
    }
    let mnt = alone.mount_stored();
    let count = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: many("KEGFS_DIFF_CASES", 60), ..ProptestConfig::with_source_file(file!()) };
    let run = TestRunner::new(config).run(&proptest::collection::vec(step(), 1..40), |steps| {
        count.set(count.get() + 1);
        let sides = [mnt.join(format!("case {}", count.get())), alone.local.join(format!("case {}", count.get()))];
        for side in &sides {
            fs::DirBuilder::new().mode(0o755).create(side).unwrap();
            // A disk may hand on a group.
            std::os::unix::fs::chown(side, Some(0), Some(0)).unwrap();
            fs::set_permissions(side, PermissionsExt::from_mode(0o755)).unwrap();
        }
        for (number, step) in steps.iter().enumerate() {
            let answers = sides.each_ref().map(|side| act(side, step).map_err(|error| error.raw_os_error()));
            if answers[0] != answers[1] {
                let why = format!("step {number}, {step:?}: mount {:?}, local {:?}", answers[0], answers[1]);
                return Err(TestCaseError::fail(why));
            }
            let [mounted, local] = sides.each_ref().map(|side| told(side));
            if mounted != local {
                return Err(TestCaseError::fail(format!("after step {number}, {step:?}: {mounted:?}, not {local:?}")));
            }
        }
        Ok(())
    });
    run.unwrap();
}
