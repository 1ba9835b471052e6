//! Which times an operation moves: the same as on a local file system.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::Alone;

type Act = fn(&Path);

fn rw(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn exchange(a: &Path, b: &Path) {
    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).unwrap();
}

/// Each is done in a directory with: file `f` of 10 bytes with the second name `g`, file `h`, directories `d` and `e`.
const ACTS: &[(&str, Act)] = &[
    ("write", |dir| rw(&dir.join("f")).write_all(b"xy").unwrap()),
    ("write nothing", |dir| assert_eq!(rw(&dir.join("f")).write_at(b"", 3).unwrap(), 0)),
    ("write behind the end", |dir| rw(&dir.join("f")).write_all_at(b"xy", 100).unwrap()),
    ("read", |dir| assert_eq!(rw(&dir.join("f")).read(&mut [0; 5]).unwrap(), 5)),
    ("open for writing and close", |dir| drop(rw(&dir.join("f")))),
    ("open and cut", |dir| drop(File::create(dir.join("f")).unwrap())),
    ("ftruncate shorter", |dir| rw(&dir.join("f")).set_len(5).unwrap()),
    ("ftruncate longer", |dir| rw(&dir.join("f")).set_len(50).unwrap()),
    ("ftruncate to the same", |dir| rw(&dir.join("f")).set_len(10).unwrap()),
    ("truncate shorter", |dir| nix::unistd::truncate(&dir.join("f"), 5).unwrap()),
    ("truncate to the same", |dir| nix::unistd::truncate(&dir.join("f"), 10).unwrap()),
    ("punch", |dir| {
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(rw(&dir.join("f")), how, 2, 3).unwrap();
    }),
    ("zero", |dir| fallocate(rw(&dir.join("f")), FallocateFlags::FALLOC_FL_ZERO_RANGE, 2, 3).unwrap()),
    ("allocate within", |dir| fallocate(rw(&dir.join("f")), FallocateFlags::empty(), 2, 3).unwrap()),
    ("allocate and extend", |dir| fallocate(rw(&dir.join("f")), FallocateFlags::empty(), 5, 30).unwrap()),
    ("allocate and keep", |dir| fallocate(rw(&dir.join("f")), FallocateFlags::FALLOC_FL_KEEP_SIZE, 5, 30).unwrap()),
    ("copy_file_range", |dir| {
        let (mut from, mut to) = (0, 20);
        let file = rw(&dir.join("f"));
        nix::fcntl::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 5).unwrap();
    }),
    ("chmod", |dir| fs::set_permissions(dir.join("f"), PermissionsExt::from_mode(0o600)).unwrap()),
    ("chmod to the same", |dir| {
        let now = fs::metadata(dir.join("f")).unwrap().permissions();
        fs::set_permissions(dir.join("f"), now).unwrap();
    }),
    ("chown to nobody in particular", |dir| std::os::unix::fs::chown(dir.join("f"), None, None).unwrap()),
    ("set an attribute", |dir| xattr::set(dir.join("f"), "user.a", b"1").unwrap()),
    ("remove an attribute", |dir| {
        xattr::set(dir.join("f"), "user.a", b"1").unwrap();
        xattr::remove(dir.join("f"), "user.a").unwrap();
    }),
    ("link", |dir| fs::hard_link(dir.join("f"), dir.join("d/new")).unwrap()),
    ("unlink one of two names", |dir| fs::remove_file(dir.join("g")).unwrap()),
    ("unlink another file", |dir| fs::remove_file(dir.join("h")).unwrap()),
    ("rename within the directory", |dir| fs::rename(dir.join("h"), dir.join("new")).unwrap()),
    ("rename into another directory", |dir| fs::rename(dir.join("h"), dir.join("d/new")).unwrap()),
    ("rename over", |dir| fs::rename(dir.join("h"), dir.join("g")).unwrap()),
    ("rename over itself", |dir| fs::rename(dir.join("f"), dir.join("g")).unwrap()),
    ("rename a directory", |dir| fs::rename(dir.join("d"), dir.join("new")).unwrap()),
    ("rename a directory into another", |dir| fs::rename(dir.join("d"), dir.join("e/d")).unwrap()),
    ("rename a directory over another", |dir| fs::rename(dir.join("d"), dir.join("e")).unwrap()),
    ("exchange", |dir| exchange(&dir.join("f"), &dir.join("h"))),
    ("exchange file and directory", |dir| exchange(&dir.join("f"), &dir.join("d"))),
    ("create", |dir| drop(File::create_new(dir.join("d/new")).unwrap())),
    ("mkdir", |dir| fs::create_dir(dir.join("d/new")).unwrap()),
    ("mkdir and rmdir", |dir| {
        fs::create_dir(dir.join("d/new")).unwrap();
        fs::remove_dir(dir.join("d/new")).unwrap();
    }),
    ("symlink", |dir| symlink("x", dir.join("d/new")).unwrap()),
    ("list", |dir| assert_eq!(fs::read_dir(dir.join("d")).unwrap().count(), 0)),
    ("look up what is not there", |dir| assert!(fs::metadata(dir.join("d/none")).is_err())),
];

fn prepare(dir: &Path) {
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("f"), b"0123456789").unwrap();
    fs::hard_link(dir.join("f"), dir.join("g")).unwrap();
    fs::write(dir.join("h"), b"h").unwrap();
    fs::create_dir(dir.join("d")).unwrap();
    fs::create_dir(dir.join("e")).unwrap();
}

/// Inode number, modification time, change time.
type Times = (u64, (i64, i64), (i64, i64));

/// Of everything that `prepare` has made, whatever its name is by now.
fn times(dir: &Path) -> Vec<Times> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push((meta.ino(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// For each of the first six nodes (in the order in which they were made): whether its times moved; `None`: it is gone.
fn moved(dir: &Path, act: Act) -> Vec<Option<(bool, bool)>> {
    prepare(dir);
    let before = times(dir);
    let order: Vec<u64> = ["", "f", "h", "d", "e"].map(|name| fs::metadata(dir.join(name)).unwrap().ino()).to_vec();
    // The kernel's clock for time stamps ticks every few milliseconds.
    std::thread::sleep(Duration::from_millis(15));
    act(dir);
    let after = times(dir);
    let of = |all: &[Times], ino| all.iter().find(|one| one.0 == ino).copied();
    let compared = order.into_iter().map(|ino| {
        let (before, after) = (of(&before, ino)?, of(&after, ino)?);
        Some((before.1 != after.1, before.2 != after.2))
    });
    compared.collect()
}

#[test]
fn every_operation_moves_the_times_that_it_moves_on_a_local_file_system() {
    let alone = Alone::set_up();
    let mut wrong = String::new();
    for (index, (name, act)) in ACTS.iter().enumerate() {
        let ours = moved(&alone.mnt.join(index.to_string()), *act);
        let theirs = moved(&alone.local.join(index.to_string()), *act);
        if ours != theirs {
            wrong +=
                &format!("{name}: (mtime, ctime) of directory, f, h, d, e\n  mount {ours:?}\n  local {theirs:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Sets both times of the file, and tells what they are then.
fn set_time(path: &Path, seconds: i64, nanos: i64) -> ((i64, i64), (i64, i64)) {
    let time = TimeSpec::new(seconds, nanos);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::FollowSymlink).unwrap();
    let meta = fs::metadata(path).unwrap();
    ((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec()))
}

#[test]
fn times_are_kept_to_the_nanosecond_before_1970_too() {
    let alone = Alone::set_up();
    let [ours, theirs] = [&alone.mnt, &alone.local].map(|dir| dir.join("f"));
    for path in [&ours, &theirs] {
        fs::write(path, "x").unwrap();
    }
    for (seconds, nanos) in
        [(-1, 123_456_789), (-1, 0), (-1, 999_999_999), (-2_000_000_000, 1), (0, 1), (5_000_000_000, 2)]
    {
        assert_eq!(set_time(&ours, seconds, nanos), ((seconds, nanos), (seconds, nanos)));
        assert_eq!(set_time(&theirs, seconds, nanos), ((seconds, nanos), (seconds, nanos)), "the local file system");
    }
}

#[test]
fn times_that_do_not_fit_are_the_first_or_the_last_that_does() {
    let alone = Alone::set_up();
    let path = alone.mnt.join("f");
    fs::write(&path, "x").unwrap();
    let (first, last) = ((-9_223_372_037, 145_224_192), (9_223_372_036, 854_775_807));
    assert_eq!(set_time(&path, 9_223_372_036, 854_775_807), (last, last));
    assert_eq!(set_time(&path, 9_223_372_036, 854_775_808), (last, last));
    assert_eq!(set_time(&path, 1 << 40, 5), (last, last));
    assert_eq!(set_time(&path, -(1 << 40), 5), (first, first));
}
