//! Files without a name (`O_TMPFILE`) on real mounts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, AtFlags};

use super::Alone;
use super::common::{Team, wait_for};
use super::side::pattern;

const SOON: Duration = Duration::from_secs(30);

fn nameless(dir: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).mode(0o640).custom_flags(libc::O_TMPFILE | flags).open(dir)
}

/// What open(2) describes: linkat(2) on the descriptor's name in /proc.
fn name_it(file: &File, path: &Path) -> nix::Result<()> {
    let descriptor = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    nix::unistd::linkat(AT_FDCWD, &descriptor, AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Blobs of all folders that wait for the server, or for nothing.
fn spooled(alone: &Alone) -> Vec<PathBuf> {
    let folders = fs::read_dir(alone.alice.profile.join("folders")).unwrap().flatten();
    folders
        .flat_map(|folder| fs::read_dir(folder.path().join("blobs/spool")).unwrap().flatten())
        .map(|entry| entry.path())
        .collect()
}

#[test]
fn a_file_without_a_name_is_seen_by_nobody_until_it_gets_one_and_then_whole() {
    let mut team = Team::new();
    let (mnt, bobs) = team.mount();
    fs::create_dir(mnt.join("d")).unwrap();
    let file = nameless(&mnt.join("d"), 0).unwrap();
    let bytes = pattern(3, 0, 9 << 20);
    file.write_all_at(&bytes, 0).unwrap();
    file.set_len(bytes.len() as u64 - 5).unwrap();
    file.write_all_at(b"tail!", bytes.len() as u64 - 5).unwrap();
    let mut bytes = bytes;
    let end = bytes.len();
    bytes[end - 5..].copy_from_slice(b"tail!");
    file.sync_all().unwrap();
    let before = file.metadata().unwrap();
    assert_eq!((before.nlink(), before.len(), before.mode() & 0o7777), (0, bytes.len() as u64, 0o640));
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    xattr::set_deref(&descriptor, "user.colour", b"green").unwrap();
    fs::set_permissions(&descriptor, PermissionsExt::from_mode(0o600)).unwrap();
    // Opened once more through its descriptor, as another open file of the same content.
    let again = File::open(&descriptor).unwrap();
    let mut read = vec![0; bytes.len()];
    again.read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes, "the second descriptor reads something else");
    drop(again);
    team.alice.sync();
    wait_for("bob's directory", SOON, || bobs.join("d").exists());
    assert_eq!((names(&mnt.join("d")), names(&bobs.join("d"))), (vec![], vec![]));
    assert!(team.alice.ok(&["trash", "acme"]).contains("nothing was removed"));

    name_it(&file, &mnt.join("d/whole")).unwrap();
    let after = fs::metadata(mnt.join("d/whole")).unwrap();
    assert_eq!((after.nlink(), after.ino(), after.mode() & 0o7777), (1, before.ino(), 0o600));
    assert_eq!(file.metadata().unwrap().nlink(), 1);
    assert_eq!(xattr::get(mnt.join("d/whole"), "user.colour").unwrap().as_deref(), Some(b"green".as_slice()));
    assert!(fs::read(mnt.join("d/whole")).unwrap() == bytes);
    // The descriptor goes on as that of any file.
    file.write_all_at(b"later", 3).unwrap();
    bytes[3..8].copy_from_slice(b"later");
    assert_eq!(name_it(&file, &mnt.join("d/whole")), Err(nix::errno::Errno::EEXIST));
    name_it(&file, &mnt.join("d/twice")).unwrap();
    drop(file);
    team.alice.sync();
    for name in ["d/whole", "d/twice"] {
        wait_for("bob to have it", SOON, || fs::read(bobs.join(name)).is_ok_and(|read| read == bytes));
    }
    assert_eq!(fs::metadata(bobs.join("d/whole")).unwrap().nlink(), 2);
    assert_eq!(xattr::get(bobs.join("d/twice"), "user.colour").unwrap().as_deref(), Some(b"green".as_slice()));

    team.alice.unmount(&mnt);
    let mnt = team.alice.mount("acme");
    assert_eq!(fs::metadata(mnt.join("d/whole")).unwrap().ino(), before.ino());
    assert!(fs::read(mnt.join("d/whole")).unwrap() == bytes);
}

#[test]
#[allow(unsafe_code)]
fn a_file_that_never_gets_a_name_is_gone_when_it_is_closed() {
    let alone = Alone::set_up();
    let sealed = nameless(&alone.mnt, libc::O_EXCL).unwrap();
    sealed.write_all_at(b"secret", 0).unwrap();
    assert_eq!(name_it(&sealed, &alone.mnt.join("x")), Err(nix::errno::Errno::ENOENT));
    drop(sealed);
    let file = nameless(&alone.mnt, 0).unwrap();
    file.write_all_at(&pattern(5, 0, 12 << 20), 0).unwrap();
    // Full chunks are sealed at once: they wait in the spool, and nobody waits for them.
    let mut clone = File::create_new(alone.mnt.join("clone")).unwrap();
    wait_for("chunks to be sealed", SOON, || spooled(&alone).len() >= 3);
    alone.alice.sync();
    assert!(spooled(&alone).len() >= 3);
    // A clone of one of them keeps it.
    let (mut from, len) = (4 << 20, 4 << 20);
    assert_eq!(nix::fcntl::copy_file_range(&file, Some(&mut from), &clone, None, len), Ok(len));
    // A mapping of it outlives the descriptor.
    let long = std::num::NonZeroUsize::new(4096).unwrap();
    let (prot, flags) = (nix::sys::mman::ProtFlags::PROT_READ, nix::sys::mman::MapFlags::MAP_SHARED);
    // SAFETY: a fresh mapping, read within its length only and unmapped once.
    unsafe {
        let at = nix::sys::mman::mmap(None, long, prot, flags, &file, 0).unwrap();
        drop(file);
        assert_eq!(std::slice::from_raw_parts(at.cast::<u8>().as_ptr(), 4096), pattern(5, 0, 4096));
        nix::sys::mman::munmap(at, 4096).unwrap();
    }
    alone.alice.sync();
    let mut read = Vec::new();
    clone.seek(SeekFrom::Start(0)).unwrap();
    clone.read_to_end(&mut read).unwrap();
    assert!(read == pattern(5, 4 << 20, 4 << 20), "the clone is another file");
    assert_eq!(names(&alone.mnt), ["clone"]);
    let status = alone.alice.ok(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["folders"][0]["pending"]["changes"], 0, "{status}");
    assert_eq!(nameless(&alone.mnt.join("none"), 0).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    fs::write(alone.mnt.join("f"), b"x").unwrap();
    assert_eq!(nameless(&alone.mnt.join("f"), 0).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    assert!(nameless(&alone.mnt.join(".keg"), 0).is_err());
}

#[test]
fn a_crash_leaves_nothing_of_a_file_without_a_name() {
    let mut alone = Alone::set_up();
    let file = nameless(&alone.mnt, 0).unwrap();
    // More than is kept in memory, so that some of it is sealed and spooled.
    for part in 0..24_u64 {
        file.write_all_at(&pattern(9, part << 22, 4 << 20), part << 22).unwrap();
    }
    fs::write(alone.mnt.join("kept"), b"kept").unwrap();
    File::open(&alone.mnt).unwrap().sync_all().unwrap();
    alone.alice.kill9();
    drop(file);
    alone.mnt = alone.alice.mount("acme");
    alone.alice.sync();
    assert_eq!(names(&alone.mnt), ["kept"]);
    assert!(alone.alice.ok(&["trash", "acme"]).contains("nothing was removed"));
    let status: serde_json::Value = serde_json::from_str(&alone.alice.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["folders"][0]["pending"], serde_json::json!({"changes": 0, "bytes": 0}), "{status}");
}
