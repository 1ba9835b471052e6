//! The mounts of one profile: made, listed, ended, and watched for their end at somebody else's hand.
//!
//! Must not lose what was written: a mount is first flushed, then unmounted, then wiped; where
//! flushing fails the mount stays, with what it holds.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use parking_lot::{Condvar, Mutex};

use super::super::control::{MountInfo, MountSettings, Response};
use super::super::failure::{Code, Failure};
use super::super::unlocked::{FolderChange, Unlocked};
use super::absolute;
use crate::format::KegId;
use crate::fuse::{self, MountOptions, Mounted};
use crate::sys::threads;
use crate::vfs::{Ino, ROOT, Vfs, VfsError, VfsOptions};

/// How long flushing a mount may take before its unmounting is given up. Sealing what is in memory
/// (64 MiB at most) takes a second; the rest is for slow disks.
const FLUSH: Duration = Duration::from_secs(30);
/// How long the session may need to notice that the kernel has let go.
const SESSION_END: Duration = Duration::from_secs(5);
/// The same where files may be open for as long as their users like.
const FORCED_END: Duration = Duration::from_millis(500);

/// All mounts of a profile.
pub struct Mounts {
    unlocked: Arc<Unlocked>,
    table: Arc<Table>,
}

/// What is mounted. The lock is held for looking things up only, never while something is mounted,
/// flushed or unmounted.
#[derive(Default)]
struct Table {
    entries: Mutex<Vec<Arc<Entry>>>,
    changed: Condvar,
}

struct Entry {
    dir: PathBuf,
    /// The folder's id; none when all are mounted.
    folder: Option<String>,
    name: Option<String>,
    read_only: bool,
    vfs: Arc<Vfs>,
    mounted: Mounted,
    /// Roots of the folders of a mount of all, by the folder's id.
    roots: Mutex<Vec<(String, Ino)>>,
    /// One ending at a time: the watcher's or a command's.
    ending: Mutex<bool>,
}

impl Mounts {
    /// None yet.
    pub fn new(unlocked: Arc<Unlocked>) -> Self {
        let table = Arc::new(Table::default());
        let (weak, known) = (Arc::downgrade(&table), Arc::downgrade(&unlocked));
        unlocked.on_folder_change(Box::new(move |change| {
            if let (Some(table), Some(unlocked)) = (weak.upgrade(), known.upgrade()) {
                table.folder_changed(&unlocked, change);
            }
        }));
        let weak = Arc::downgrade(&table);
        unlocked.on_leaving(Box::new(move |id| {
            if let Some(table) = weak.upgrade() {
                table.folder_left(id);
            }
        }));
        Self { unlocked, table }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.entries.lock().is_empty()
    }

    /// All, for `kegfs status`.
    pub fn list(&self) -> Vec<MountInfo> {
        let entries = self.table.entries.lock();
        let info = |entry: &Arc<Entry>| MountInfo {
            dir: entry.dir.clone(),
            folder: entry.name.clone(),
            read_only: entry.read_only,
        };
        entries.iter().map(info).collect()
    }

    /// Mounts `folder`, or all folders, on `dir`.
    ///
    /// # Errors
    /// When the folder is mounted already, the mountpoint is unusable, or the folder cannot be opened.
    pub fn mount(&self, folder: Option<&str>, dir: &Path, settings: &MountSettings) -> Result<Response, Failure> {
        let dir = absolute(dir)?;
        // Before anything is opened: the most likely mistakes are about the directory.
        let checked = fuse::prepare(dir)?;
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let options = VfsOptions { uid, gid, owners_stored: settings.owners_stored, ..VfsOptions::default() };
        let (vfs, id, name, roots) = match folder {
            Some(which) => {
                let (info, source) = self.unlocked.source(which, settings.fsync_server)?;
                self.refuse_twice(Some(&info.id))?;
                (Vfs::single(source, options).map_err(unusable)?, Some(info.id), Some(info.name), Vec::new())
            }
            None => {
                self.refuse_twice(None)?;
                let vfs = Vfs::all(options).map_err(unusable)?;
                let mut roots = Vec::new();
                for (info, source) in self.unlocked.sources(settings.fsync_server)? {
                    roots.push((info.id, vfs.add_folder(source).map_err(unusable)?));
                }
                (vfs, None, None, roots)
            }
        };
        let how = MountOptions {
            source: name.clone().unwrap_or_else(|| "kegfs".to_owned()),
            read_only: settings.read_only,
            allow_other: settings.allow_other,
            ..MountOptions::default()
        };
        let mounted = match fuse::mount(&vfs, &checked.dir, &how) {
            Ok(mounted) => mounted,
            Err(error) => {
                // Nothing was written to it.
                let _ = vfs.shutdown(FLUSH);
                return Err(error.into());
            }
        };
        let dir = mounted.dir().to_owned();
        let recovered = checked.recovered || mounted.recovered();
        let entry = Arc::new(Entry {
            dir: dir.clone(),
            folder: id,
            name,
            read_only: settings.read_only,
            vfs,
            mounted,
            roots: Mutex::new(roots),
            ending: Mutex::new(false),
        });
        self.table.entries.lock().push(entry.clone());
        let table = self.table.clone();
        threads::spawn("kegfs-watch", move || table.watch(&entry))
            .map_err(|error| Failure::new(Code::Failure, format!("no thread for the mount: {error}")))?;
        tracing::info!("mounted");
        Ok(Response::Mounted { dir, recovered })
    }

    /// Ends the mount on `dir`.
    ///
    /// # Errors
    /// When there is none, it is in use, or what was written cannot be brought to safety; then the
    /// mount goes on.
    pub fn unmount(&self, dir: &Path, force: bool) -> Result<(), Failure> {
        let resolved = fuse::resolve(absolute(dir)?).unwrap_or_else(|_| dir.to_owned());
        let found = self.table.entries.lock().iter().find(|entry| entry.dir == resolved).cloned();
        match found {
            Some(entry) => self.table.end(&entry, force),
            // Left behind by a process that died, or mounted by another profile of this user.
            None => fuse::unmount(&resolved, force).map_err(Failure::from),
        }
    }

    /// Ends all mounts; those that can be ended are, whatever happens to the others.
    ///
    /// # Errors
    /// The first failure.
    pub fn unmount_all(&self, force: bool) -> Result<Vec<PathBuf>, Failure> {
        let entries = self.table.entries.lock().clone();
        let mut failed = None;
        let mut ended = Vec::new();
        for entry in entries {
            match self.table.end(&entry, force) {
                Ok(()) => ended.push(entry.dir.clone()),
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        failed.map_or(Ok(ended), Err)
    }

    /// Shows or hides a folder in the mounts of all folders.
    pub fn show(&self, change: &FolderChange) {
        self.table.folder_changed(&self.unlocked, change);
    }

    /// The folder's id and the path from its root, for a path below one of the mounts.
    pub fn locate(&self, path: &Path) -> Option<(String, PathBuf)> {
        let entries = self.table.entries.lock().clone();
        // As the kernel knows the mountpoint; the file itself may be gone.
        let resolved = path.ancestors().find_map(|above| {
            let rest = path.strip_prefix(above).ok()?;
            fuse::resolve(above).ok().map(|above| above.join(rest))
        });
        for entry in entries {
            let below = [Some(path), resolved.as_deref()].into_iter().flatten();
            let Some(rest) = below.filter_map(|path| path.strip_prefix(&entry.dir).ok()).next() else { continue };
            if let Some(folder) = &entry.folder {
                return Some((folder.clone(), rest.to_owned()));
            }
            let mut parts = rest.components();
            let first = parts.next()?;
            let root = entry.vfs.lookup(ROOT, first.as_os_str().as_bytes()).ok()?.attr.ino;
            let folder =
                entry.roots.lock().iter().find(|(_, known)| *known == root).map(|(folder, _)| folder.clone())?;
            return Some((folder, parts.as_path().to_owned()));
        }
        None
    }

    /// Brings what is in memory into the journal, of all mounts.
    ///
    /// # Errors
    /// When that fails within the time for it.
    pub fn flush_all(&self) -> Result<(), Failure> {
        let entries = self.table.entries.lock().clone();
        entries.iter().try_for_each(|entry| flush(&entry.vfs, &entry.dir))
    }

    /// Files with content in memory that their folders do not have yet, of all mounts. `None`: that cannot be told now. Waits for
    /// nobody who uses a mount.
    pub fn unflushed(&self) -> Option<HashSet<KegId>> {
        let entries = self.table.entries.try_lock()?.clone();
        entries.iter().try_fold(HashSet::new(), |mut all, entry| {
            all.extend(entry.vfs.unflushed()?);
            Some(all)
        })
    }

    fn refuse_twice(&self, folder: Option<&String>) -> Result<(), Failure> {
        let entries = self.table.entries.lock();
        // Two views of one folder would each believe to know all changes that are not from others.
        let clash = entries.iter().find(|entry| match (&entry.folder, folder) {
            (Some(there), Some(asked)) => there == asked,
            (None, _) | (_, None) => true,
        });
        match clash {
            None => Ok(()),
            Some(entry) => {
                let what = entry.name.as_deref().unwrap_or("every folder");
                Err(Failure::new(
                    Code::Mountpoint,
                    format!(
                        "{what} is already mounted on {0}; use it there, or: kegfs unmount {0}",
                        entry.dir.display()
                    ),
                ))
            }
        }
    }
}

impl Table {
    /// Waits for the session's end. When nobody here ended it (plain `umount`), what it still holds is
    /// brought to safety until that succeeds.
    fn watch(&self, entry: &Arc<Entry>) {
        entry.mounted.end().wait();
        while let Err(failure) = self.finish(entry, false) {
            tracing::error!(code = ?failure.code, "an unmounted folder could not be flushed yet");
            std::thread::sleep(Duration::from_secs(5));
        }
    }

    fn end(&self, entry: &Arc<Entry>, force: bool) -> Result<(), Failure> {
        if !entry.mounted.is_ended() {
            match flush(&entry.vfs, &entry.dir) {
                Err(failure) if !force => return Err(failure),
                _ => {}
            }
            entry.mounted.unmount(force)?;
            // After a forced one the session may live as long as files are open; wiping comes anyway.
            entry.mounted.wait(if force { FORCED_END } else { SESSION_END });
        }
        self.finish(entry, force)
    }

    /// Flushes and wipes the vfs and forgets the entry, once.
    fn finish(&self, entry: &Arc<Entry>, force: bool) -> Result<(), Failure> {
        let mut ended = entry.ending.lock();
        if *ended {
            return Ok(());
        }
        match entry.vfs.shutdown(FLUSH) {
            Ok(()) | Err(VfsError::Gone) => {}
            Err(error) if force => tracing::error!(%error, "a forced unmount could not flush"),
            Err(error) => return Err(unflushed(&entry.dir, &error)),
        }
        *ended = true;
        self.entries.lock().retain(|other| !Arc::ptr_eq(other, entry));
        self.changed.notify_all();
        tracing::info!("unmounted");
        Ok(())
    }

    /// The user is no member of the folder any more: takes it out of all mounts, with what they hold of it. A mount of
    /// this one folder stays, empty of everything, until it is unmounted.
    fn folder_left(&self, id: &str) {
        let entries = self.entries.lock().clone();
        for entry in entries {
            let root = match &entry.folder {
                Some(folder) if folder == id => Some(ROOT),
                Some(_) => None,
                None => {
                    let mut roots = entry.roots.lock();
                    roots.iter().position(|(known, _)| known == id).map(|at| roots.remove(at).1)
                }
            };
            if let Some(root) = root
                && let Err(error) = entry.vfs.remove_folder(root, FLUSH)
            {
                tracing::error!(%error, "what was written last to a folder that was left could not be kept");
            }
        }
    }

    /// A folder came: shown in the mounts of all folders.
    fn folder_changed(&self, unlocked: &Unlocked, change: &FolderChange) {
        let all: Vec<_> = self.entries.lock().iter().filter(|entry| entry.folder.is_none()).cloned().collect();
        for entry in all {
            let mut roots = entry.roots.lock();
            match change {
                FolderChange::Joined(id) if roots.iter().all(|(known, _)| known != id) => {
                    let added = unlocked
                        .source(id, false)
                        .and_then(|(info, source)| Ok((info.id, entry.vfs.add_folder(source).map_err(unusable)?)));
                    match added {
                        Ok(root) => roots.push(root),
                        Err(failure) => tracing::warn!(code = ?failure.code, "a new folder cannot be shown"),
                    }
                }
                FolderChange::Joined(_) => {}
            }
        }
    }
}

/// Everything that was written to `vfs` is in the journal, durable, when this returns.
fn flush(vfs: &Vfs, dir: &Path) -> Result<(), Failure> {
    let failed = |error: VfsError| unflushed(dir, &error);
    let handle = match vfs.opendir(ROOT) {
        // The user is no member any more: there is nothing left to flush.
        Err(VfsError::Gone) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let (done, result) = bounded(1);
    vfs.fsyncdir(
        handle,
        Box::new(move |synced| {
            // Nobody listens after the time is up.
            let _ = done.send(synced);
        }),
    );
    let synced = result.recv_timeout(FLUSH).unwrap_or(Err(VfsError::TimedOut));
    vfs.releasedir(handle);
    match synced {
        Err(VfsError::Gone) => Ok(()),
        other => other.map_err(failed),
    }
}

fn unflushed(dir: &Path, error: &VfsError) -> Failure {
    let code = match error {
        VfsError::NoSpace => Code::DiskFull,
        VfsError::Corrupt(_) => Code::Corrupt,
        _ => Code::Failure,
    };
    let next = match code {
        Code::DiskFull => "free some space on the disk of the profile and unmount again",
        _ => "try again; the log is daemon.log in the profile directory",
    };
    Failure::new(
        code,
        format!(
            "what was written to {} could not be saved yet ({error}); nothing is lost while the background process runs: {next}",
            dir.display()
        ),
    )
}

fn unusable(error: VfsError) -> Failure {
    let code = match error {
        VfsError::NoSpace => Code::DiskFull,
        VfsError::Corrupt(_) => Code::Corrupt,
        _ => Code::Failure,
    };
    Failure::new(code, format!("the folder cannot be shown: {error}"))
}
