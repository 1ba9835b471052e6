//! Files that survive a crash, private directories, locks and read-ahead hints.
//!
//! Must not know what is in the files. A rename is durable only once its directory is synced, and
//! a file's bytes only once the file is: [`write_atomic`] does both, in that order, so that after a
//! power cut the path holds either the old or the new bytes, whole.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, PosixFadviseAdvice, posix_fadvise};

use super::random;

/// Room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that this user can still write.
    pub free_bytes: u64,
}

/// Room on the disk that `path` is on.
///
/// # Errors
/// Those of statvfs(3).
pub fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let told = nix::sys::statvfs::statvfs(path)?;
    let unit = told.fragment_size();
    Ok(DiskSpace {
        total_bytes: told.blocks().saturating_mul(unit),
        free_bytes: told.blocks_available().saturating_mul(unit),
    })
}

/// Replaces the file at `path` by `bytes` with permission bits `mode`, all or nothing.
///
/// The bytes go to a temporary file of the same directory, which is synced, renamed over `path`,
/// and made durable by syncing the directory.
///
/// # Errors
/// Those of the system calls. `path` then still holds what it held, and the temporary file is gone;
/// only when the last sync fails may the new bytes be in place without being durable.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = parent_of(path)?;
    let name = path.file_name().ok_or_else(|| invalid(path, "has no file name"))?;
    let mut temp_name = std::ffi::OsString::from(".");
    // 16 hex digits and two dots are added: keeps names of up to 200 bytes within the limit of 255.
    temp_name.push(name.to_string_lossy().chars().take(50).collect::<String>());
    temp_name.push(format!(".{:016x}", u64::from_ne_bytes(random::array())));
    let temp = dir.join(temp_name);

    let written = write_new(&temp, bytes, mode).and_then(|()| fs::rename(&temp, path));
    if let Err(error) = written {
        // Already failing; a temporary file that cannot be removed changes nothing about that.
        let _ = fs::remove_file(&temp);
        return Err(error);
    }
    sync_dir(&dir)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // Private until it has its final bits, which the umask must not change.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Makes `path` a directory that only its owner can enter (mode 0700), with missing parents.
///
/// A directory that exists already is tightened to 0700.
///
/// # Errors
/// Those of the system calls; `AlreadyExists` when `path` is something else than a directory.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = fs::metadata(path)?.permissions().mode() & 0o7777;
    if found != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Makes the names in the directory `path` durable.
///
/// # Errors
/// When it cannot be opened or synced.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// An exclusive lock on a file, held until dropped or until the process ends, however it ends.
#[derive(Debug)]
pub struct FileLock {
    _held: Flock<File>,
    path: PathBuf,
}

impl FileLock {
    /// The locked file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes the exclusive lock (`flock(2)`) on the file at `path`, creating it if missing, without
/// waiting. The process's id is written into the file, for humans.
///
/// # Errors
/// `WouldBlock`, naming the file and the holder's process id where known, when somebody holds it;
/// otherwise those of the system calls.
pub fn lock_exclusive(path: &Path) -> io::Result<FileLock> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let held = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => held,
        Err((_, Errno::EWOULDBLOCK)) => return Err(held_by_other(path)),
        Err((_, errno)) => return Err(errno.into()),
    };
    held.set_len(0)?;
    (&*held).write_all(format!("{}\n", std::process::id()).as_bytes())?;
    Ok(FileLock { _held: held, path: path.to_owned() })
}

fn held_by_other(path: &Path) -> io::Error {
    let holder = fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    io::Error::new(io::ErrorKind::WouldBlock, format!("{} is held by {holder}", path.display()))
}

/// Tells the kernel that `len` bytes from `offset` of `file` will be read soon (0: to the end).
/// A hint: failure means nothing and is not reported.
pub fn will_need(file: impl AsFd, offset: u64, len: u64) {
    advise(file, offset, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
}

/// Tells the kernel that `len` bytes from `offset` of `file` need not stay in its page cache
/// (0: to the end). A hint: failure means nothing and is not reported.
pub fn dont_need(file: impl AsFd, offset: u64, len: u64) {
    advise(file, offset, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

fn advise(file: impl AsFd, offset: u64, len: u64, advice: PosixFadviseAdvice) {
    if let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) {
        let _ = posix_fadvise(file, offset, len, advice);
    }
}

fn parent_of(path: &Path) -> io::Result<PathBuf> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Ok(PathBuf::from(".")),
        Some(dir) => Ok(dir.to_owned()),
        None => Err(invalid(path, "has no parent directory")),
    }
}

fn invalid(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{} {why}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn atomic_write_replaces_bytes_and_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keystore");
        write_atomic(&path, b"old", 0o644).unwrap();
        write_atomic(&path, b"new bytes", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new bytes");
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_atomic_write_keeps_the_old_file_and_removes_the_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap(); // a file cannot be renamed over a directory
        assert!(write_atomic(&path, b"x", 0o600).is_err());
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_of_255_bytes_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ä".repeat(127) + "x");
        write_atomic(&path, b"x", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn private_directories_are_made_and_tightened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_private_dir(&path).unwrap();
        assert_eq!(mode_of(&path), 0o700);
        assert_eq!(mode_of(&dir.path().join("a")), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        create_private_dir(&path).unwrap();
        assert_eq!(mode_of(&path), 0o700);
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(create_private_dir(&dir.path().join("file")).is_err());
    }

    #[test]
    fn a_held_lock_is_refused_by_name_and_free_after_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = lock_exclusive(&path).unwrap();
        let refused = lock_exclusive(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())));
        drop(first);
        lock_exclusive(&path).unwrap();
    }

    #[test]
    fn hints_accept_any_range() {
        let file = tempfile::tempfile().unwrap();
        will_need(&file, 0, u64::MAX);
        dont_need(&file, u64::MAX, 0);
        dont_need(&file, 0, 0);
    }
}
