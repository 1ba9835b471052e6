//! Checks a directory before it is mounted on, recovers it from a mount whose process died, and
//! detaches mounts.
//!
//! Must not know what will be mounted. The order of the checks matters: `/proc` is asked before the
//! directory is touched, because touching a mount that does not answer could block.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::error::{MountError, UnmountError};
use super::{holders, mountinfo};

/// The kernel's FUSE device.
const DEVICE: &str = "/dev/fuse";
/// The helper that mounts for users without privileges (package fuse3).
const HELPER: &str = "fusermount3";

/// What [`prepare`] found.
#[derive(Debug)]
pub struct Prepared {
    /// The mountpoint, absolute and resolved: the name under which the kernel will show it.
    pub dir: PathBuf,
    /// A mount whose process had died was removed from it first.
    pub recovered: bool,
}

/// Checks that `dir` can be mounted on; a dead KegFS mount there is detached first.
///
/// # Errors
/// One variant of [`MountError`] for each reason, each with the next step.
pub fn prepare(dir: &Path) -> Result<Prepared, MountError> {
    let asked = dir;
    let dir = mountinfo::resolve(asked).map_err(|error| inaccessible(asked, error))?;
    let mut recovered = false;
    if let Some(line) = mounted_at(&dir)? {
        let dead = fs::metadata(&dir).is_err_and(|error| is_dead(&error));
        match (line.is_kegfs(), dead) {
            (true, false) => return Err(MountError::AlreadyMounted { dir, source_name: line.source }),
            (false, _) => return Err(MountError::ForeignMount { dir, fs_type: line.fs_type }),
            (true, true) => {
                detach(&dir).map_err(|reason| MountError::Dead { dir: dir.clone(), reason })?;
                recovered = true;
            }
        }
        // A second mount may have been hidden below the dead one.
        if let Some(below) = mounted_at(&dir)? {
            return Err(MountError::ForeignMount { dir, fs_type: below.fs_type });
        }
    }
    check_empty(&dir)?;
    Ok(Prepared { dir, recovered })
}

/// Opens the kernel's FUSE device.
///
/// # Errors
/// [`MountError::NoDevice`] or [`MountError::NoPermission`] with the next step.
pub fn open_device(dir: &Path) -> Result<File, MountError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.raw_os_error() {
        // ENODEV: the device file is there but the kernel has no FUSE.
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MountError::NoDevice,
        Some(libc::EACCES | libc::EPERM) => MountError::NoPermission {
            dir: dir.to_owned(),
            reason: format!("{DEVICE} is not readable and writable for this user; allow it: sudo chmod 666 {DEVICE}"),
        },
        _ => MountError::Inaccessible { dir: PathBuf::from(DEVICE), error },
    })
}

/// Checks that the helper for unprivileged mounts is installed.
///
/// # Errors
/// [`MountError::NoHelper`].
pub fn check_helper() -> Result<(), MountError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/bin"), PathBuf::from("/usr/bin")])
        .any(|dir| dir.join(HELPER).is_file());
    if found { Ok(()) } else { Err(MountError::NoHelper) }
}

/// Takes the KegFS mount on `dir` away, or, when `force`, detaches it even while it is in use.
///
/// # Errors
/// [`UnmountError::Busy`] names who uses it, as far as this user may see.
pub fn unmount(dir: &Path, force: bool) -> Result<(), UnmountError> {
    let line = mountinfo::at(dir).map_err(|error| failed(dir, error.to_string()))?;
    if !line.is_some_and(|line| line.is_kegfs()) {
        return Err(UnmountError::NotMounted { dir: dir.to_owned() });
    }
    if force {
        return detach(dir).map_err(|reason| failed(dir, reason));
    }
    match umount2(dir, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(UnmountError::Busy { dir: dir.to_owned(), holders: holders::of(dir) }),
        Err(Errno::EPERM) => match helper_unmount(dir, false) {
            Ok(()) => Ok(()),
            Err(reason) if reason.contains("busy") => {
                Err(UnmountError::Busy { dir: dir.to_owned(), holders: holders::of(dir) })
            }
            Err(reason) => Err(failed(dir, reason)),
        },
        Err(errno) => Err(failed(dir, errno.desc().to_owned())),
    }
}

/// Whether an error of touching a mountpoint says that its process is gone.
pub fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// Detaches whatever is mounted on `dir` from the tree; it ends when its last user closes it.
fn detach(dir: &Path) -> Result<(), String> {
    match umount2(dir, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => helper_unmount(dir, true),
        Err(errno) => Err(errno.desc().to_owned()),
    }
}

fn helper_unmount(dir: &Path, lazy: bool) -> Result<(), String> {
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    match command.arg("--").arg(dir).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(MountError::NoHelper.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn mounted_at(dir: &Path) -> Result<Option<mountinfo::MountLine>, MountError> {
    mountinfo::at(dir).map_err(|error| inaccessible(dir, error))
}

fn check_empty(dir: &Path) -> Result<(), MountError> {
    let metadata = fs::metadata(dir).map_err(|error| inaccessible(dir, error))?;
    if !metadata.is_dir() {
        return Err(MountError::NotDirectory { dir: dir.to_owned() });
    }
    let mut entries = fs::read_dir(dir).map_err(|error| inaccessible(dir, error))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(MountError::NotEmpty { dir: dir.to_owned() }),
    }
}

fn inaccessible(dir: &Path, error: io::Error) -> MountError {
    let dir = dir.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => MountError::Missing { dir },
        io::ErrorKind::NotADirectory => MountError::NotDirectory { dir },
        io::ErrorKind::PermissionDenied => MountError::NoPermission {
            dir,
            reason: "it or a directory above it is not accessible for this user; choose one of your own".to_owned(),
        },
        _ => MountError::Inaccessible { dir, error },
    }
}

fn failed(dir: &Path, reason: String) -> UnmountError {
    UnmountError::Failed { dir: dir.to_owned(), reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_is_accepted_under_its_real_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir(real.join("keg")).unwrap();
        std::os::unix::fs::symlink(real.join("keg"), real.join("link")).unwrap();
        let prepared = prepare(&real.join("link")).unwrap();
        assert_eq!(prepared.dir, real.join("keg"));
        assert!(!prepared.recovered);
    }

    #[test]
    fn each_unusable_directory_has_its_own_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(matches!(prepare(&dir.path().join("none")), Err(MountError::Missing { .. })));
        assert!(matches!(prepare(&dir.path().join("none/below")), Err(MountError::Missing { .. })));
        assert!(matches!(prepare(&dir.path().join("file")), Err(MountError::NotDirectory { .. })));
        assert!(matches!(prepare(&dir.path().join("file/x")), Err(MountError::NotDirectory { .. })));
        assert!(matches!(prepare(dir.path()), Err(MountError::NotEmpty { .. })));
        assert!(matches!(prepare(Path::new("/proc")), Err(MountError::ForeignMount { .. })));
    }

    #[test]
    fn unmounting_what_is_not_ours_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(unmount(dir.path(), false), Err(UnmountError::NotMounted { .. })));
        assert!(matches!(unmount(Path::new("/proc"), true), Err(UnmountError::NotMounted { .. })));
    }
}
