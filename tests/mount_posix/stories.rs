//! What programs do that no comparison step by step covers.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, FallocateFlags, FcntlArg, OFlag, RenameFlags, fallocate, fcntl, renameat2};
use nix::unistd::Whence;

use super::common::{Member, Server, Team, tree, wait_for};
use super::{Alone, side};

const SOON: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn rw(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Bytes of everything below.
fn disk_usage(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_usage(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[test]
fn two_processes_that_append_to_one_file_lose_and_tear_no_line() {
    let alone = Alone::set_up();
    let log = alone.mnt.join("log");
    let script = "for n in $(seq 400); do echo \"$0 $n of a line that is long enough to be torn\" >> \"$1\"; done";
    let append = |who: &str| Command::new("sh").args(["-c", script, who, log.to_str().unwrap()]).spawn().unwrap();
    let mut both = [append("one"), append("two")];
    assert!(both.iter_mut().all(|child| child.wait().unwrap().success()));
    let text = fs::read_to_string(&log).unwrap();
    for who in ["one", "two"] {
        let numbers: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(who)).collect();
        let expected: Vec<_> = (1..=400).map(|n| format!(" {n} of a line that is long enough to be torn")).collect();
        assert_eq!(numbers, expected);
    }
    assert_eq!(text.lines().count(), 800);
}

#[test]
fn appending_is_a_matter_of_the_write_and_not_of_how_the_file_was_opened() {
    let alone = Alone::set_up();
    let path = alone.mnt.join("f");
    let file = OpenOptions::new().read(true).append(true).create(true).open(&path).unwrap();
    (&file).write_all(b"0123456789").unwrap();
    // No longer appending.
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    file.write_all_at(b"AB", 2).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"01AB456789");
    let late = rw(&path);
    fcntl(&late, FcntlArg::F_SETFL(OFlag::O_APPEND)).unwrap();
    late.write_at(b"end", 0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"01AB456789end");
}

#[test]
fn a_clone_is_made_at_once_shares_what_it_has_and_goes_its_own_way() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    tree::write_random(&alice.join("original"), 96 * MIB, 5);
    team.alice.sync();
    let digest = tree::digest_file(&alice.join("original"));
    let stored = disk_usage(&team.server.data);
    let start = Instant::now();
    let cp = Command::new("cp").args(["--reflink=auto"]).arg(alice.join("original")).arg(alice.join("clone")).status();
    let took = start.elapsed();
    assert!(cp.unwrap().success());
    println!("cp of 96 MiB: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(tree::digest_file(&alice.join("clone")), digest);
    // Not aligned to anything, into the middle of another file.
    let (source, target) = (rw(&alice.join("original")), rw(&alice.join("part")));
    target.write_all_at(&side::pattern(1, 0, 3_000_000), 0).unwrap();
    let (mut from, mut to) = (4_194_001, 1_000_003);
    let copied = nix::fcntl::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), 9_000_001).unwrap();
    assert_eq!(copied, 9_000_001);
    let mut expected = side::pattern(1, 0, 1_000_003);
    let mut middle = vec![0; 9_000_001];
    source.read_exact_at(&mut middle, 4_194_001).unwrap();
    expected.extend(middle);
    assert!(fs::read(alice.join("part")).unwrap() == expected);
    drop((source, target));
    team.alice.sync();
    let grown = disk_usage(&team.server.data) - stored;
    assert!(grown < 6 * MIB, "{grown} bytes for clones of 105 MB and 1 MB of new data");
    wait_for("the clones at Bob's", SOON, || {
        fs::metadata(bob.join("clone")).is_ok_and(|meta| meta.len() == 96 * MIB)
            && fs::metadata(bob.join("part")).is_ok_and(|meta| meta.len() == expected.len() as u64)
    });
    assert_eq!(tree::digest_file(&bob.join("clone")), digest);
    assert!(fs::read(bob.join("part")).unwrap() == expected);
    // What becomes of the original is nothing to the clone.
    rw(&alice.join("original")).write_all_at(b"changed", 5_000_000).unwrap();
    assert_eq!(tree::digest_file(&alice.join("clone")), digest);
    fs::remove_file(alice.join("original")).unwrap();
    team.alice.sync();
    wait_for("the removal", SOON, || !bob.join("original").exists());
    assert_eq!(tree::digest_file(&bob.join("clone")), digest);
}

#[test]
fn a_clone_between_two_folders_is_copied() {
    let mut team = Team::new();
    team.alice.ok(&["folder", "create", "other"]);
    let all = team.alice.mount_all();
    wait_for("both folders", SOON, || all.join("acme").exists() && all.join("other").exists());
    tree::write_random(&all.join("acme/f"), 5 * MIB + 3, 9);
    let cp = Command::new("cp").args(["--reflink=auto"]).arg(all.join("acme/f")).arg(all.join("other/f")).status();
    assert!(cp.unwrap().success());
    assert_eq!(tree::digest_file(&all.join("other/f")), tree::digest_file(&all.join("acme/f")));
    assert_eq!(errno(fs::rename(all.join("acme/f"), all.join("other/g"))), libc::EXDEV);
    assert_eq!(errno(fs::hard_link(all.join("acme/f"), all.join("other/g"))), libc::EXDEV);
    assert!(Command::new("mv").arg(all.join("acme/f")).arg(all.join("other/g")).status().unwrap().success());
    assert!(!all.join("acme/f").exists() && all.join("other/g").exists());
}

#[test]
fn holes_are_found_told_and_cost_nothing() {
    let alone = Alone::set_up();
    let path = alone.mnt.join("sparse");
    let file = rw(&path);
    let size = 7_000_000_000_000u64;
    let start = Instant::now();
    file.set_len(size).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(b"middle", size / 2).unwrap();
    file.write_all_at(b"end", size - 3).unwrap();
    file.sync_all().unwrap();
    let seek = |offset: u64, whence| nix::unistd::lseek(&file, offset as i64, whence).map(|at| at as u64);
    // Data may be taken to begin earlier and end later than it does, by less than a chunk; never the other way round.
    let near = |found: u64, exact: u64| found <= exact && found + (4 << 20) > exact;
    assert_eq!(seek(0, Whence::SeekData), Ok(0));
    let hole = seek(0, Whence::SeekHole).unwrap();
    assert!((5..4 << 20).contains(&hole), "{hole}");
    assert!(near(seek(hole, Whence::SeekData).unwrap(), size / 2));
    let hole = seek(size / 2, Whence::SeekHole).unwrap();
    assert!(near(seek(hole, Whence::SeekData).unwrap(), size - 3));
    assert_eq!(seek(size - 3, Whence::SeekHole), Ok(size));
    assert_eq!(seek(size, Whence::SeekData), Err(nix::errno::Errno::ENXIO));
    let cp = Command::new("cp").arg("--reflink=auto").arg(&path).arg(alone.mnt.join("copy")).status();
    assert!(cp.unwrap().success());
    assert_eq!(fs::metadata(alone.mnt.join("copy")).unwrap().len(), size);
    let mut end = [0; 3];
    File::open(alone.mnt.join("copy")).unwrap().read_exact_at(&mut end, size - 3).unwrap();
    assert_eq!(&end, b"end");
    let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, how, 1, size as i64 - 4).unwrap();
    let mut middle = [1; 6];
    file.read_exact_at(&mut middle, size / 2).unwrap();
    assert_eq!(middle, [0; 6]);
    println!("a sparse file of 7,000 GB: {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
#[allow(unsafe_code)]
fn an_attribute_that_is_to_be_new_and_to_be_replaced_is_refused_by_whether_it_is_there() {
    let alone = Alone::set_up();
    let answers = |dir: &std::path::Path| {
        let path = std::ffi::CString::new(dir.join("f").into_os_string().into_encoded_bytes()).unwrap();
        fs::write(dir.join("f"), "x").unwrap();
        let set = |value: &[u8], flags| {
            // Safety: the strings end with NUL, and the value is as long as said.
            let result =
                unsafe { libc::setxattr(path.as_ptr(), c"user.a".as_ptr(), value.as_ptr().cast(), value.len(), flags) };
            nix::errno::Errno::result(result).map(drop)
        };
        let both = libc::XATTR_CREATE | libc::XATTR_REPLACE;
        let missing = set(b"1", both);
        let made = set(b"2", libc::XATTR_CREATE);
        let there = set(b"3", both);
        (missing, made, there, xattr::get(dir.join("f"), "user.a").unwrap())
    };
    let ours = answers(&alone.mnt);
    assert_eq!(ours, (Err(nix::errno::Errno::ENODATA), Ok(()), Err(nix::errno::Errno::EEXIST), Some(b"2".to_vec())));
    assert_eq!(ours, answers(&alone.local));
}

#[test]
#[allow(unsafe_code)]
fn what_a_mapping_holds_back_is_no_data_until_it_is_written_back() {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
    let alone = Alone::set_up();
    let file = rw(&alone.mnt.join("f"));
    file.set_len(64 << 10).unwrap();
    file.sync_all().unwrap();
    let length = std::num::NonZeroUsize::new(64 << 10).unwrap();
    let how = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // Safety: the mapping is the file's whole length, and nobody else changes it.
    unsafe {
        let mapped = mmap(None, length, how, MapFlags::MAP_SHARED, &file, 0).unwrap();
        mapped.cast::<u8>().add(8192).write_volatile(1);
        assert_eq!(nix::unistd::lseek(&file, 0, Whence::SeekData), Err(nix::errno::Errno::ENXIO));
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        file.sync_all().unwrap();
        assert!(nix::unistd::lseek(&file, 0, Whence::SeekData).is_ok_and(|at| at <= 8192));
        assert!(file.metadata().unwrap().blocks() > 0);
        munmap(mapped, length.get()).unwrap();
    }
}

#[test]
fn what_is_not_offered_says_so() {
    let alone = Alone::set_up();
    let path = alone.mnt.join("f");
    fs::write(&path, vec![1; 64 << 10]).unwrap();
    for mode in [FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, FallocateFlags::FALLOC_FL_INSERT_RANGE] {
        assert_eq!(fallocate(rw(&path), mode, 4096, 4096), Err(nix::errno::Errno::EOPNOTSUPP));
    }
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    assert_eq!(errno(xattr::set(&path, "system.posix_acl_access", acl)), libc::EOPNOTSUPP);
    assert_eq!(errno(xattr::set(&path, "nonsense", b"x")), libc::EOPNOTSUPP);
    assert_eq!(errno(xattr::set(&path, "user.keg.author", b"me")), libc::EPERM);
    xattr::set(&path, "user.colour", b"green").unwrap();
    if nix::unistd::geteuid().is_root() {
        xattr::set(&path, "security.mark", b"s").unwrap();
        xattr::set(&path, "trusted.mark", b"t").unwrap();
        assert_eq!(xattr::get(&path, "trusted.mark").unwrap().as_deref(), Some(b"t".as_slice()));
    }
}

#[test]
fn a_whiteout_takes_the_place_of_a_renamed_name() {
    let alone = Alone::set_up();
    let (a, b) = (alone.mnt.join("a"), alone.mnt.join("b"));
    fs::write(&a, b"content").unwrap();
    renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_WHITEOUT).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"content");
    let meta = fs::symlink_metadata(&a).unwrap();
    assert!(meta.file_type().is_char_device() && meta.rdev() == 0, "{meta:?}");
    fs::write(alone.mnt.join("c"), b"c").unwrap();
    let flags = RenameFlags::RENAME_WHITEOUT | RenameFlags::RENAME_NOREPLACE;
    assert_eq!(renameat2(AT_FDCWD, &b, AT_FDCWD, &alone.mnt.join("c"), flags), Err(nix::errno::Errno::EEXIST));
}

#[test]
fn inode_numbers_and_links_are_the_same_after_a_remount() {
    let mut alone = Alone::set_up();
    fs::create_dir_all(alone.mnt.join("d/e")).unwrap();
    fs::write(alone.mnt.join("d/f"), b"x").unwrap();
    fs::hard_link(alone.mnt.join("d/f"), alone.mnt.join("g")).unwrap();
    symlink("f", alone.mnt.join("d/l")).unwrap();
    let of = |mnt: &Path| {
        ["", "d", "d/e", "d/f", "g", "d/l"].map(|name| {
            let meta = fs::symlink_metadata(mnt.join(name)).unwrap();
            (name, meta.ino(), meta.nlink())
        })
    };
    let before = of(&alone.mnt);
    assert_eq!(before.map(|(_, _, nlink)| nlink), [3, 3, 2, 2, 2, 1]);
    alone.remount();
    assert_eq!(of(&alone.mnt), before);
}

#[test]
fn inode_numbers_of_a_mount_of_all_folders_stay_when_folders_come() {
    let mut alone = Alone::set_up();
    let single = alone.mnt.clone();
    alone.alice.unmount(&single);
    for name in ["m", "n"] {
        alone.alice.ok(&["folder", "create", name]);
    }
    let all = alone.alice.mount_all();
    let of = |all: &Path, names: &[&str]| -> Vec<u64> {
        names.iter().map(|name| fs::metadata(all.join(name)).unwrap().ino()).collect()
    };
    for name in ["acme", "m", "n"] {
        fs::write(all.join(name).join("f"), b"x").unwrap();
    }
    let names = ["acme", "acme/f", "m", "m/f", "n", "n/f"];
    let before = of(&all, &names);
    alone.alice.unmount(&all);
    // Ids of folders are random: one in four of these would come before all the others.
    for name in ["a", "b", "c"] {
        alone.alice.ok(&["folder", "create", name]);
    }
    let again = alone.alice.mount_all();
    assert_eq!(of(&again, &names), before);
}

#[test]
fn a_clean_disk_is_told_to_df() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--quota", "50000000"]);
    let mut alice = Member::create(dir.path(), "alice", &server.url(), &server.invite());
    let mut bob = Member::create(dir.path(), "bob", &server.url(), &server.invite());
    alice.ok(&["folder", "create", "acme"]);
    alice.ok(&["folder", "create", "other"]);
    alice.ok(&["member", "add", "acme", &bob.account, "--role", "editor"]);
    let mnt = alice.mount("acme");
    // As `df` shows it: all, used, available, in bytes.
    let df = |dir: &Path| {
        let out = Command::new("df").args(["--output=size,used,avail", "-B1"]).arg(dir).output().unwrap();
        assert!(out.status.success());
        let text = String::from_utf8(out.stdout).unwrap();
        let numbers: Vec<u64> = text.lines().nth(1).unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect();
        (numbers[0], numbers[1], numbers[2])
    };
    let near = |value: u64, wanted: u64| value.abs_diff(wanted) < 2 * MIB;
    wait_for("the server to tell its quota", SOON, || near(df(&mnt).0, 50_000_000));
    let (all, used, free) = df(&mnt);
    assert!(near(used, 0) && near(free, all), "{used} used, {free} free");
    assert_eq!(nix::sys::statvfs::statvfs(&mnt).unwrap().name_max(), 255);
    fs::write(mnt.join("f"), vec![1; 8 << 20]).unwrap();
    alice.sync();
    let shown = |dir: &Path, taken: u64| {
        wait_for("df to show what is there", SOON, || {
            let (all, used, free) = df(dir);
            near(used, taken) && near(free, all - taken)
        });
    };
    shown(&mnt, 8 << 20);
    // The quota is the owner's: all members see it, and folders of one owner share it.
    let bobs = bob.mount("acme");
    shown(&bobs, 8 << 20);
    alice.unmount(&mnt);
    let both = alice.mount_all();
    fs::write(both.join("other/g"), vec![2; 8 << 20]).unwrap();
    alice.sync();
    for dir in [both.clone(), both.join("acme"), both.join("other"), bobs] {
        shown(&dir, 16 << 20);
        assert!(near(df(&dir).0, 50_000_000));
    }
}

#[test]
fn owners_are_shown_as_the_mounting_user_or_as_they_are_stored() {
    let mut alone = Alone::set_up();
    let root = nix::unistd::geteuid().is_root();
    let path = alone.mnt.join("f");
    fs::write(&path, b"x").unwrap();
    let me = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let owner = |path: &PathBuf| {
        let meta = fs::metadata(path).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!((owner(&path).0, owner(&path).1), me);
    if !root {
        let mnt = alone.mnt.clone();
        alone.alice.unmount(&mnt);
        let refused = alone.alice.kegfs(&["mount", "acme", mnt.to_str().unwrap(), "-o", "owners=stored"]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("needs root"));
        return;
    }
    let mnt = alone.mount_stored();
    chown(&path, Some(1234), Some(5678)).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o6750)).unwrap();
    fs::create_dir(mnt.join("shared")).unwrap();
    chown(mnt.join("shared"), Some(1), Some(60)).unwrap();
    fs::set_permissions(mnt.join("shared"), PermissionsExt::from_mode(0o3777)).unwrap();
    let as_nobody = |script: &str| {
        use std::os::unix::process::CommandExt;
        Command::new("sh").args(["-c", script]).current_dir(mnt.join("shared")).uid(65534).gid(65534).output().unwrap()
    };
    // The kernel judges by what is stored: no access for others; the directory is sticky and hands its group on.
    assert!(!as_nobody("cat ../f").status.success());
    assert!(as_nobody("echo mine > theirs && mkdir below").status.success());
    fs::write(mnt.join("shared/ours"), b"x").unwrap();
    assert!(!as_nobody("rm -f ours").status.success(), "another's file in a sticky directory");
    assert!(as_nobody("rm theirs && echo again > theirs").status.success());
    assert_eq!(owner(&mnt.join("shared/theirs")), (65534, 60, 0o644));
    assert_eq!(owner(&mnt.join("shared/below")), (65534, 60, 0o2755));
    assert_eq!(owner(&path), (1234, 5678, 0o6750));
    let mnt = alone.mount_stored();
    assert_eq!(owner(&path), (1234, 5678, 0o6750), "after a remount");
    alone.alice.unmount(&mnt);
    alone.mnt = alone.alice.mount("acme");
    assert_eq!((owner(&path).0, owner(&path).1), me, "the default shows the mounting user's");
}

/// A descriptor of `path` that allows nothing but to open it again.
fn handle_of(path: &Path) -> (File, PathBuf) {
    let handle = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
    let again = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    (handle, again)
}

#[test]
fn a_file_that_is_opened_again_or_at_the_same_time_as_it_is_removed_stays_removed() {
    let alone = Alone::set_up();
    let path = alone.mnt.join("f");
    fs::write(&path, b"old").unwrap();
    alone.alice.sync();
    let (_handle, again) = handle_of(&path);
    fs::remove_file(&path).unwrap();
    fs::write(&again, b"scratch").unwrap();
    rw(&again).set_len(1).unwrap();
    let cut = CString::new(again.as_os_str().as_bytes()).unwrap();
    nix::unistd::truncate(cut.as_c_str(), 0).unwrap();

    let dir = alone.mnt.join("many");
    fs::create_dir(&dir).unwrap();
    let names: Vec<_> = (0..400).map(|n| dir.join(n.to_string())).collect();
    names.iter().for_each(|name| fs::write(name, b"x").unwrap());
    alone.alice.sync();
    let together = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for name in &names {
                together.wait();
                fs::remove_file(name).unwrap();
            }
        });
        for name in &names {
            together.wait();
            if let Ok(mut file) = OpenOptions::new().write(true).open(name) {
                file.write_all(b"y").unwrap();
            }
        }
    });
    alone.alice.sync();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "names came back");
    assert!(!path.exists());
}

#[test]
fn what_is_written_to_a_removed_file_that_comes_back_reaches_everybody() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::write(alice.join("f"), b"first version").unwrap();
    team.alice.sync();
    let (mut held, mut writer) = (File::open(alice.join("f")).unwrap(), rw(&alice.join("f")));
    fs::remove_file(alice.join("f")).unwrap();
    writer.write_all(b"WRITE").unwrap();
    team.alice.sync();
    team.alice.ok(&["trash", "acme", "--restore", "f"]);
    writer.write_all(b" MORE").unwrap();
    writer.sync_all().unwrap();
    team.alice.sync();
    wait_for("what was written at Bob's", SOON, || fs::read(bob.join("f")).is_ok_and(|text| text == b"WRITE MOREion"));
    fs::write(alice.join("f"), b"whole").unwrap();
    team.alice.sync();
    wait_for("what was written after", SOON, || fs::read(bob.join("f")).is_ok_and(|text| text == b"whole"));
    let mut text = Vec::new();
    held.read_to_end(&mut text).unwrap();
    assert_eq!(text, b"whole");
}

#[test]
fn opening_with_o_trunc_takes_setuid_as_on_a_local_file_system() {
    let mut alone = Alone::set_up();
    if !nix::unistd::geteuid().is_root() {
        return; // Only root has other users' files: `owners_are_shown_as_the_mounting_user_or_as_they_are_stored`.
    }
    let mnt = alone.mount_stored();
    let left = |dir: &Path, mode: u32| {
        use std::os::unix::process::CommandExt;
        let path = dir.join("f");
        fs::write(&path, b"x").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        assert!(
            Command::new("sh").args(["-c", ": > \"$0\""]).arg(&path).uid(65534).gid(65534).status().unwrap().success()
        );
        fs::metadata(&path).unwrap().mode() & 0o7777
    };
    for mode in [0o6777, 0o6767, 0o4666, 0o2676, 0o1777] {
        assert_eq!(left(&mnt, mode), left(&alone.local, mode), "{mode:o}");
    }
}

#[test]
fn a_listing_that_is_interrupted_by_removals_goes_on_and_can_go_back() {
    let alone = Alone::set_up();
    let dir = alone.mnt.join("many");
    fs::create_dir(&dir).unwrap();
    for n in 0..3000 {
        File::create(dir.join(format!("file {n}"))).unwrap();
    }
    let mut seen = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
        seen += 1;
    }
    assert_eq!(seen, 3000, "every name is met once while all are being removed");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_listing_ends_while_names_are_renamed_and_shows_all_that_are_replaced() {
    let alone = Alone::set_up();
    // What ext4 shows, with the files of one directory renamed to another name and back as they are met, and the files of
    // the other replaced, all of them, after the first was met.
    let listed = |top: &Path| {
        let (renamed, replaced) = (top.join("renamed"), top.join("replaced"));
        // Long names: more of them than what one system call returns.
        let name = |n: u32| format!("{n:0>200}");
        for dir in [&renamed, &replaced] {
            fs::create_dir(dir).unwrap();
            (0..400).for_each(|n| fs::write(dir.join(name(n)), b"old").unwrap());
        }
        let mut names = [Vec::new(), Vec::new()];
        for entry in fs::read_dir(&renamed).unwrap().take(4000) {
            let path = entry.unwrap().path();
            fs::rename(&path, renamed.join("aside")).unwrap();
            fs::rename(renamed.join("aside"), &path).unwrap();
            names[0].push(path.file_name().unwrap().to_owned());
        }
        for entry in fs::read_dir(&replaced).unwrap() {
            if names[1].is_empty() {
                for n in 0..400 {
                    fs::write(top.join("new"), b"new").unwrap();
                    fs::rename(top.join("new"), replaced.join(name(n))).unwrap();
                }
            }
            names[1].push(entry.unwrap().file_name());
        }
        names.iter_mut().for_each(|names| names.sort());
        names
    };
    let here = listed(&alone.mnt);
    assert_eq!((here[0].len(), here[1].len()), (400, 400));
    assert!(here == listed(&alone.local));
}

#[test]
fn an_open_file_lives_through_renaming_replacing_and_unlinking() {
    let alone = Alone::set_up();
    let (a, b) = (alone.mnt.join("a"), alone.mnt.join("b"));
    fs::write(&a, b"first").unwrap();
    fs::write(&b, b"second").unwrap();
    let (mut first, mut second) = (rw(&a), rw(&b));
    fs::rename(&a, &b).unwrap();
    let text = |file: &mut File| {
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!((text(&mut first).as_str(), text(&mut second).as_str()), ("first", "second"));
    assert_eq!((first.metadata().unwrap().nlink(), second.metadata().unwrap().nlink()), (1, 0));
    second.write_all_at(b"S", 0).unwrap();
    second.set_len(20).unwrap();
    assert_eq!(text(&mut second).trim_end_matches('\0'), "Second");
    let link = CString::new(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&second.as_fd()))).unwrap();
    let back = nix::unistd::linkat(
        AT_FDCWD,
        link.as_c_str(),
        AT_FDCWD,
        alone.mnt.join("back").as_os_str().as_bytes(),
        nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW,
    );
    assert_eq!(back, Err(nix::errno::Errno::ENOENT), "what has no name gets none");
    first.write_all_at(b"F", 0).unwrap();
    drop(first);
    assert_eq!(fs::read(&b).unwrap(), b"First");
}
