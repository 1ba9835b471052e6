//! What can go wrong with a mountpoint, named by situation, each with the next step.
//!
//! Must not know which folder is mounted or what the command line makes of an error.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::holders::Holder;

/// Why a directory could not be mounted on.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory does not exist.
    #[error("the mountpoint {} does not exist; create it: mkdir -p {}", dir.display(), dir.display())]
    Missing {
        /// The mountpoint asked for.
        dir: PathBuf,
    },
    /// It is something else than a directory.
    #[error("the mountpoint {} is not a directory; name an empty directory", dir.display())]
    NotDirectory {
        /// The mountpoint asked for.
        dir: PathBuf,
    },
    /// It holds files, which the mount would hide.
    #[error("the mountpoint {} is not empty; mounting would hide what is in it, so name an empty directory", dir.display())]
    NotEmpty {
        /// The mountpoint asked for.
        dir: PathBuf,
    },
    /// A KegFS mount is there already.
    #[error("{} is already a KegFS mountpoint (`{source_name}`); unmount it first: kegfs unmount {}", dir.display(), dir.display())]
    AlreadyMounted {
        /// The mountpoint asked for.
        dir: PathBuf,
        /// What `/proc/mounts` shows as its source.
        source_name: String,
    },
    /// Another file system is mounted there.
    #[error("{} is already a mountpoint (of type {fs_type}); name another directory", dir.display())]
    ForeignMount {
        /// The mountpoint asked for.
        dir: PathBuf,
        /// The type of the file system there.
        fs_type: String,
    },
    /// A mount whose process died is there, and could not be removed.
    #[error("{} is a dead mountpoint (its process is gone) and could not be removed: {reason}; remove it: fusermount3 -u -z {}", dir.display(), dir.display())]
    Dead {
        /// The mountpoint asked for.
        dir: PathBuf,
        /// Why the removal failed.
        reason: String,
    },
    /// The kernel's FUSE device is missing.
    #[error(
        "/dev/fuse is missing: the kernel module is not loaded or the container has no access to it; try: sudo modprobe fuse (containers: --device /dev/fuse)"
    )]
    NoDevice,
    /// The unprivileged mount helper is missing.
    #[error("fusermount3 is missing; install the package fuse3: sudo apt-get install fuse3")]
    NoHelper,
    /// The user may not mount here.
    #[error("no permission to mount on {}: {reason}", dir.display())]
    NoPermission {
        /// The mountpoint asked for.
        dir: PathBuf,
        /// What was refused, and the next step.
        reason: String,
    },
    /// The mountpoint cannot be read, for reasons of the file system it lies on.
    #[error("cannot use the mountpoint {}: {error}", dir.display())]
    Inaccessible {
        /// The mountpoint asked for.
        dir: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The mount call failed for another reason.
    #[error("mounting on {} failed: {reason}", dir.display())]
    Failed {
        /// The mountpoint asked for.
        dir: PathBuf,
        /// What the system or the helper said.
        reason: String,
    },
}

/// Why a mount could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Nothing is mounted there.
    #[error("{} is not a KegFS mountpoint; `kegfs status` lists the mounts", dir.display())]
    NotMounted {
        /// The directory asked for.
        dir: PathBuf,
    },
    /// Processes still use it.
    #[error("{} is in use{}; close it there and try again, or detach it at once: kegfs unmount --force {}", dir.display(), Holders(holders), dir.display())]
    Busy {
        /// The mountpoint.
        dir: PathBuf,
        /// Who holds it, as far as this user may see.
        holders: Vec<Holder>,
    },
    /// The system refused.
    #[error("unmounting {} failed: {reason}", dir.display())]
    Failed {
        /// The mountpoint.
        dir: PathBuf,
        /// What the system or the helper said.
        reason: String,
    },
}

/// ` by vim (process 4711, open file), bash (process 12, working directory)`, or nothing.
struct Holders<'a>(&'a [Holder]);

impl fmt::Display for Holders<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, holder) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { " by " } else { ", " })?;
            write!(f, "{holder}")?;
        }
        Ok(())
    }
}
