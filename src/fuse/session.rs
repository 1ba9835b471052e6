//! One mount from the system call to the end of its session.
//!
//! Must not know what the mounted view contains. As root the mount call is made here rather than by
//! fuser, which would leave out the subtype; for others fuser talks to `fusermount3`. Either way the
//! unmounting is done here: fuser's own would unmount by path even after somebody else has unmounted
//! and mounted something different there.

use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::MsFlags;

use super::adapter::Adapter;
use super::error::{MountError, UnmountError};
use super::mountinfo;
use super::mountpoint::{self, Prepared};
use super::notifier::Notifications;
use crate::vfs::Vfs;

/// Kernel readahead of a mount in KiB, where this process may set it. 4 MiB is one chunk: a
/// sequential reader then always has the next chunk under way (FUSE.md: 128 KiB otherwise).
const READ_AHEAD_KIB: u32 = 4096;

/// How a mount is made.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// What `/proc/mounts` shows as the source; made harmless before use.
    pub source: String,
    /// Mount read-only.
    pub read_only: bool,
    /// Let other users in, as the mode bits allow.
    pub allow_other: bool,
    /// Threads that answer the kernel.
    pub threads: usize,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self { source: "kegfs".to_owned(), read_only: false, allow_other: false, threads: DEFAULT_THREADS }
    }
}

/// Threads that answer the kernel. On 2 cores one sequential reader of local ciphertext got 0.87 GB/s with 1 and 2
/// threads, 1.0 with 4 and 1.05 with 8; what the vfs had opened already came fastest with 1 (3.7 against 2.9 with 4),
/// and writing with fsync did not depend on it. Many readers at once, the common case, need several.
pub const DEFAULT_THREADS: usize = 4;

/// A mount that is there. Dropping it detaches the mount if it still exists, so that no dead
/// mountpoint is left behind.
pub struct Mounted {
    dir: PathBuf,
    recovered: bool,
    /// Nothing is ever sent: the session has ended when the sending side is gone.
    ended: Receiver<()>,
    /// Never dropped: dropping it would unmount by path (see the head of this file). What leaks is
    /// the path and, where `fusermount3` mounted, one closed connection's descriptor.
    _session: ManuallyDrop<BackgroundSession>,
}

/// Mounts `vfs` on `dir`; returns once the kernel's handshake is done and requests are answered.
///
/// # Errors
/// See [`MountError`].
pub fn mount(vfs: &Arc<Vfs>, dir: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
    let Prepared { dir, recovered } = mountpoint::prepare(dir)?;
    let (alive, ended) = bounded(0);
    let adapter = Adapter::new(vfs.clone(), alive);
    let session = match direct(&dir, options)? {
        Direct::Mounted(device) => {
            Session::from_fd(adapter, device, acl(options), config(options)).inspect_err(|_| {
                // The mount exists and nobody will ever answer it.
                let _ = mountpoint::unmount(&dir, true);
            })
        }
        Direct::NotPrivileged => {
            mountpoint::check_helper()?;
            // Says better than the library what is missing.
            drop(mountpoint::open_device(&dir)?);
            Session::new(adapter, &dir, &config(options))
        }
    };
    let session = session.map_err(|error| refused(&dir, &error))?;
    let notifier = session.notifier();
    let background = session.spawn().map_err(|error| refused(&dir, &error))?;
    let mounted = Mounted { dir, recovered, ended, _session: ManuallyDrop::new(background) };
    let notifications = Notifications::start(notifier).map_err(|error| refused(&mounted.dir, &error))?;
    vfs.set_notifier(notifications);
    lift_read_ahead(&mounted.dir);
    Ok(mounted)
}

impl Mounted {
    /// The mountpoint, absolute and resolved.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a mount whose process had died was removed to make this one.
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// Whether the session is over, whoever ended it (`kegfs unmount`, `umount`, `fusermount3 -u`).
    pub fn is_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Waits until the session is over, at most `timeout`; tells whether it is.
    pub fn wait(&self, timeout: Duration) -> bool {
        !matches!(self.ended.recv_timeout(timeout), Err(RecvTimeoutError::Timeout))
    }

    /// A waiter for the session's end that outlives borrows of this value.
    pub fn end(&self) -> End {
        End(self.ended.clone())
    }

    /// Unmounts. With `force` the mount is detached even while files are open, and its connection
    /// is cut so that those files give errors from now on.
    ///
    /// # Errors
    /// See [`UnmountError`]; after an error the mount works as before.
    pub fn unmount(&self, force: bool) -> Result<(), UnmountError> {
        if self.is_ended() {
            return Ok(());
        }
        let connection = force.then(|| connection_of(&self.dir)).flatten();
        match mountpoint::unmount(&self.dir, force) {
            // Somebody else was faster.
            Err(UnmountError::NotMounted { .. }) if self.wait(Duration::from_secs(1)) => Ok(()),
            other => other,
        }?;
        if let Some(connection) = connection {
            // Best effort: without /sys/fs/fuse the open files end when this process does.
            let _ = fs::write(connection.join("abort"), b"1");
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(true) {
            tracing::warn!(%error, "a mount could not be detached");
        }
    }
}

/// Waits for the end of a session; see [`Mounted::end`].
#[derive(Clone)]
pub struct End(Receiver<()>);

impl End {
    /// Blocks until the session is over.
    pub fn wait(&self) {
        // Nothing is ever sent; this returns when the sending side is gone.
        let _ = self.0.recv();
    }
}

enum Direct {
    Mounted(OwnedFd),
    NotPrivileged,
}

/// mount(2), for whoever may.
fn direct(dir: &Path, options: &MountOptions) -> Result<Direct, MountError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(Direct::NotPrivileged);
    }
    let device = OwnedFd::from(mountpoint::open_device(dir)?);
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        nix::unistd::getuid(),
        nix::unistd::getgid()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    if options.read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    let source = sanitised(&options.source);
    match nix::mount::mount(Some(source.as_str()), dir, Some(mountinfo::FS_TYPE), flags, Some(data.as_str())) {
        Ok(()) => Ok(Direct::Mounted(device)),
        Err(Errno::EPERM) => Err(MountError::NoPermission {
            dir: dir.to_owned(),
            reason: "root may not mount here; a container needs --cap-add SYS_ADMIN --device /dev/fuse".to_owned(),
        }),
        Err(Errno::ENODEV) => Err(MountError::NoDevice),
        Err(errno) => Err(MountError::Failed { dir: dir.to_owned(), reason: errno.desc().to_owned() }),
    }
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(sanitised(&options.source)),
        MountOption::Subtype("kegfs".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        if options.read_only { MountOption::RO } else { MountOption::RW },
    ];
    config.acl = acl(options);
    config.n_threads = Some(options.threads.max(1));
    // Each thread with a queue of its own: replies and requests of different threads do not contend.
    config.clone_fd = true;
    config
}

fn acl(options: &MountOptions) -> SessionACL {
    if options.allow_other { SessionACL::All } else { SessionACL::Owner }
}

/// A source name that cannot carry mount options or break the lines of `/proc/mounts`: commas and
/// control characters become `_`, and its length is bounded.
fn sanitised(source: &str) -> String {
    let safe: String = source
        .chars()
        .take(64)
        .map(|c| if c == ',' || c == '\\' || c == '"' || c.is_control() { '_' } else { c })
        .collect();
    if safe.is_empty() { "kegfs".to_owned() } else { safe }
}

/// What `fusermount3` or the handshake said, as one of our situations.
fn refused(dir: &Path, error: &io::Error) -> MountError {
    let dir = dir.to_owned();
    let reason = error.to_string();
    let reason = reason.trim();
    if reason.contains("user_allow_other") {
        return MountError::NoPermission {
            dir,
            reason: "`allow_other` needs the line user_allow_other in /etc/fuse.conf".to_owned(),
        };
    }
    if error.kind() == io::ErrorKind::PermissionDenied || reason.contains("ermission denied") {
        return MountError::NoPermission { dir, reason: format!("{reason}; choose a directory of your own") };
    }
    if reason.contains("device not found") || error.raw_os_error() == Some(libc::ENODEV) {
        return MountError::NoDevice;
    }
    MountError::Failed { dir, reason: reason.to_owned() }
}

/// Best effort: only root may, and without it the daemon's own prefetch has to carry.
fn lift_read_ahead(dir: &Path) {
    let Ok(Some(line)) = mountinfo::at(dir) else { return };
    let path = Path::new("/sys/class/bdi").join(&line.device).join("read_ahead_kb");
    if let Err(error) = fs::write(path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%error, "the kernel's readahead stays as it is");
    }
}

/// The control directory of a mount's connection (kernel: Documentation/filesystems/fuse.rst).
fn connection_of(dir: &Path) -> Option<PathBuf> {
    let line = mountinfo::at(dir).ok()??;
    let (_, minor) = line.device.split_once(':')?;
    Some(Path::new("/sys/fs/fuse/connections").join(minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_name_cannot_inject_mount_options() {
        assert_eq!(sanitised("acme,allow_other\n"), "acme_allow_other_");
        assert_eq!(sanitised("Bücher & mehr"), "Bücher & mehr");
        assert_eq!(sanitised(""), "kegfs");
        assert_eq!(sanitised(&"x".repeat(500)).len(), 64);
    }

    #[test]
    fn refusals_of_the_helper_become_situations() {
        let dir = Path::new("/m");
        let said = |text: &str| refused(dir, &io::Error::other(text.to_owned()));
        let allow = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        assert!(matches!(said(allow), MountError::NoPermission { .. }));
        assert!(matches!(
            said("fusermount3: user has no write access to mountpoint /m: Permission denied"),
            MountError::NoPermission { .. }
        ));
        assert!(matches!(said("fusermount3: fuse device not found, try 'modprobe fuse' first"), MountError::NoDevice));
        assert!(matches!(said("something else"), MountError::Failed { .. }));
    }
}
