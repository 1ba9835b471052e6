//! rsync with all that it can carry, into the mount and out of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::{run, sized, soon, step};
use crate::common::tree::{digest, registry_sources, write_random};
use crate::common::{Team, wait_for};

/// `-aHAX`: everything, with hard links, access control lists and extended attributes. Fails on any error at all.
fn rsync(from: &Path, to: &Path, more: &[&str]) -> String {
    let (mut from, to) = (from.as_os_str().to_owned(), to.as_os_str());
    from.push("/");
    run(Command::new("rsync").args(["-aHAX", "--numeric-ids"]).args(more).arg(&from).arg(to))
}

fn nothing_to_do(from: &Path, to: &Path) {
    let differences = rsync(from, to, &["--dry-run", "--itemize-changes", "--delete", "--checksum"]);
    assert_eq!(differences, "", "rsync {} {}", from.display(), to.display());
}

fn make(origin: &Path) {
    fs::create_dir(origin).unwrap();
    for source in registry_sources(sized(200, 10_000)) {
        run(Command::new("cp").arg("-a").arg(&source).arg(origin));
    }
    let odd = origin.join("odd");
    fs::create_dir_all(odd.join("empty")).unwrap();
    fs::write(odd.join("one"), b"three names").unwrap();
    fs::hard_link(odd.join("one"), odd.join("two")).unwrap();
    fs::hard_link(odd.join("one"), odd.join("empty/three")).unwrap();
    symlink("one", odd.join("link")).unwrap();
    symlink("/nowhere", odd.join("dangling")).unwrap();
    fs::write(odd.join("marked"), b"with attributes").unwrap();
    xattr::set(odd.join("marked"), "user.colour", b"green").unwrap();
    xattr::set(odd.join("empty"), "user.on.a.directory", b"\x00\xff").unwrap();
    for mode in [0o400, 0o600, 0o755, 0o2755, 0o4711] {
        let path = odd.join(format!("mode-{mode:o}"));
        fs::write(&path, b"m").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::File::create(odd.join("sparse")).unwrap().set_len(5 << 20).unwrap();
    write_random(&odd.join("random"), 3 << 20, 5);
    filetime::set_file_mtime(odd.join("one"), filetime::FileTime::from_unix_time(981_173_106, 789_000_001)).unwrap();
}

#[test]
fn rsync_carries_everything_in_and_out() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (origin, back) = (team.dir.path().join("origin"), team.dir.path().join("back"));
    make(&origin);
    let inside = alice.join("copy");
    step("rsync -aHAX into the mount", || rsync(&origin, &inside, &[]));
    step("finding nothing to do", || nothing_to_do(&origin, &inside));
    step("again, which changes nothing", || assert_eq!(rsync(&origin, &inside, &["--itemize-changes"]), ""));

    // What has changed goes over again; in place, so that the file's own blocks are compared.
    fs::write(origin.join("odd/one"), b"changed through one name").unwrap();
    fs::remove_file(origin.join("odd/dangling")).unwrap();
    write_random(&origin.join("odd/random"), 2 << 20, 6);
    step("the changes", || rsync(&origin, &inside, &["--delete", "--inplace", "--no-whole-file"]));
    nothing_to_do(&origin, &inside);
    let inode = |name: &str| fs::metadata(inside.join("odd").join(name)).unwrap().ino();
    assert_eq!((inode("one"), inode("one")), (inode("two"), inode("empty/three")), "hard links stay hard links");

    team.alice.ok(&["sync", "--wait", "--timeout", "600"]);
    let theirs = bob.join("copy");
    wait_for("the same tree at Bob's", soon(), || theirs.exists() && digest(&theirs) == digest(&inside));
    step("rsync -aHAX out of the other member's mount", || rsync(&theirs, &back, &[]));
    nothing_to_do(&theirs, &back);
    nothing_to_do(&origin, &back);
    assert_eq!(xattr::get(back.join("odd/marked"), "user.colour").unwrap().as_deref(), Some(&b"green"[..]));
    assert_eq!(fs::metadata(back.join("odd/one")).unwrap().nlink(), 3);
    assert_eq!(
        fs::metadata(back.join("odd/one")).unwrap().mtime_nsec(),
        fs::metadata(origin.join("odd/one")).unwrap().mtime_nsec()
    );
}
