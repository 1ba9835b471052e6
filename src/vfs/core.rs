//! What all operations and all background threads share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use lru::LruCache;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::keg::{Node, Stamp};
use crate::sys::{clock, threads};

use super::buffer::Budget;
use super::flush::SyncRequest;
use super::handles::{DirHandle, FileHandle};
use super::inode::{FileState, Inode, Pin, Table};
use super::keg_dir::KegHandle;
use super::known::Known;
use super::locks::Locks;
use super::mounted::Mounted;
use super::pool::Pool;
use super::sealer::{Job, Worker};
use super::segments::Segments;
use super::{FolderSource, Ino, Notifier, SourceChange, VfsError, VfsOptions};

/// Threads that seal. Two keep two cores busy; the work in them is cipher, hash and one file written.
const SEALERS: usize = 2;
/// Threads that wait for the network on behalf of reads; each holds one request.
const FETCHERS: usize = 8;
/// Threads that open segments ahead of a sequential reader.
const OPENERS: usize = 2;
/// Open files whose content version is remembered after closing, to tell the kernel that its cache is still right.
const VERSIONS_MAX: usize = 65_536;

/// The state of a mount.
pub(super) struct Core {
    pub options: VfsOptions,
    /// When the mount began, nanoseconds since 1970 UTC.
    pub started_ns: i64,
    pub budget: Arc<Budget>,
    pub table: Arc<Table>,
    pub segments: Segments,
    pub files: RwLock<HashMap<u64, Arc<FileHandle>>>,
    pub directories: RwLock<HashMap<u64, Arc<DirHandle>>>,
    /// Open files in `.keg`.
    pub keg_files: RwLock<HashMap<u64, Arc<KegHandle>>>,
    /// By the index in their inode numbers; other states of them among them. One that was taken away leaves its place
    /// empty, so that no inode number gets another meaning. Only another state that the kernel has forgotten leaves none:
    /// nobody has a number of it any more.
    pub folders: RwLock<BTreeMap<u64, Option<Arc<Mounted>>>>,
    /// The mount lists folders, rather than being one.
    pub lists_folders: bool,
    pub notifier: OnceLock<Arc<dyn Notifier>>,
    /// Inodes that the kernel has and may have cached something of.
    pub known: Known,
    pub versions: Mutex<LruCache<Ino, Stamp>>,
    /// Buffers in which answers of several segments are put together.
    pub replies: Mutex<Vec<Vec<u8>>>,
    pub fetchers: Pool,
    pub openers: Pool,
    /// Callers who wait for sealing: packs are closed without waiting for company.
    pub hurry: AtomicUsize,
    pub failed: Mutex<Vec<Job>>,
    /// Why the last blob could not be stored; `None` once one could.
    pub disk: Mutex<Option<VfsError>>,
    /// What programs have locked.
    pub locks: Locks,
    pub syncs: Sender<SyncRequest>,
    jobs: Sender<Job>,
    nudges: Vec<Sender<()>>,
    /// Plaintext bytes waiting to be sealed.
    queued: AtomicUsize,
    pub keeper: Condvar,
    pub keeper_busy: Mutex<bool>,
    closing: AtomicBool,
    stopped: AtomicBool,
}

impl Core {
    /// Starts the threads.
    pub(super) fn start(options: VfsOptions, lists_folders: bool) -> Result<Arc<Self>, VfsError> {
        let (jobs, jobs_in) = unbounded();
        let (syncs, syncs_in) = unbounded();
        let (nudges, nudges_in): (Vec<_>, Vec<_>) = (0..SEALERS).map(|_| bounded(1)).unzip();
        let core = Arc::new(Self {
            options,
            started_ns: clock::unix_nanos(),
            budget: Budget::new(options.dirty_max_bytes),
            table: Arc::default(),
            segments: Segments::new(options.cache_max_bytes),
            files: RwLock::default(),
            directories: RwLock::default(),
            keg_files: RwLock::default(),
            folders: RwLock::default(),
            lists_folders,
            notifier: OnceLock::new(),
            known: Known::default(),
            versions: Mutex::new(LruCache::new(std::num::NonZeroUsize::MIN.saturating_add(VERSIONS_MAX - 1))),
            replies: Mutex::default(),
            fetchers: Pool::start("kegfs-fetch", FETCHERS)?,
            openers: Pool::start("kegfs-open", OPENERS)?,
            hurry: AtomicUsize::new(0),
            failed: Mutex::default(),
            disk: Mutex::default(),
            locks: Locks::default(),
            syncs,
            jobs,
            nudges,
            queued: AtomicUsize::new(0),
            keeper: Condvar::new(),
            keeper_busy: Mutex::new(false),
            closing: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        for nudges in nudges_in {
            let worker = Worker::new(core.clone(), jobs_in.clone(), nudges);
            threads::spawn("kegfs-seal", || worker.run()).map_err(VfsError::storage)?;
        }
        core.spawn("kegfs-keeper", Self::keep)?;
        core.spawn_with("kegfs-fsync", syncs_in, Self::sync_loop)?;
        Ok(core)
    }

    fn spawn(self: &Arc<Self>, name: &str, body: fn(&Arc<Self>)) -> Result<(), VfsError> {
        let core = self.clone();
        threads::spawn(name, move || body(&core)).map(drop).map_err(VfsError::storage)
    }

    fn spawn_with(
        self: &Arc<Self>,
        name: &str,
        queue: Receiver<SyncRequest>,
        body: fn(&Arc<Self>, &Receiver<SyncRequest>),
    ) -> Result<(), VfsError> {
        let core = self.clone();
        threads::spawn(name, move || body(&core, &queue)).map(drop).map_err(VfsError::storage)
    }

    /// Ends all threads; nothing works any more.
    pub(super) fn stop(&self) {
        self.closing.store(true, Ordering::Release);
        self.stopped.store(true, Ordering::Release);
        self.nudge();
        *self.keeper_busy.lock() = true;
        self.keeper.notify_all();
        self.fetchers.stop();
        self.openers.stop();
        // Wakes the sync thread, which then sees that the mount has stopped.
        let _ = self.syncs.send(SyncRequest::wake());
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Nothing new may be written while the last is flushed.
    pub(super) fn set_closing(&self, closing: bool) {
        self.closing.store(closing, Ordering::Release);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The latest moment at which an operation that begins now must end.
    pub(super) fn deadline(&self) -> Instant {
        clock::monotonic() + self.options.deadline
    }

    /// Hands a block to the sealing threads.
    pub(super) fn seal(&self, job: Job) {
        self.queued.fetch_add(job.block.len() as usize, Ordering::Relaxed);
        if self.jobs.send(job).is_err() {
            // Only when every sealing thread has ended, which is after the mount has stopped.
            tracing::error!("a block was written after the end of the mount");
        }
    }

    /// A sealing thread has taken a block of `len` bytes.
    pub(super) fn note_taken(&self, len: usize) {
        self.queued.fetch_sub(len, Ordering::Relaxed);
    }

    /// Plaintext bytes waiting to be sealed.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Wakes the sealing threads.
    pub(super) fn nudge(&self) {
        for nudge in &self.nudges {
            // A full queue holds a nudge that was not taken yet: enough.
            let _ = nudge.try_send(());
        }
    }

    /// The folder of an inode and its number there. The list of folders itself is [`VfsError::IsDirectory`]-like for
    /// callers that ask [`Core::is_list`] first.
    pub(super) fn locate(&self, ino: Ino) -> Result<(Arc<Mounted>, u64), VfsError> {
        let (index, local) = Mounted::split(ino);
        let folders = self.folders.read();
        let folder = folders.get(&index).ok_or(VfsError::NotFound)?.clone().ok_or(VfsError::Gone)?;
        drop(folders);
        folder.readable()?;
        Ok((folder, local))
    }

    /// As [`Core::locate`], for a change.
    pub(super) fn locate_writable(&self, ino: Ino) -> Result<(Arc<Mounted>, u64), VfsError> {
        if self.is_list(ino) {
            return Err(VfsError::ReadOnly(super::ReadOnlyReason::View));
        }
        let (folder, local) = self.locate(ino)?;
        if self.is_closing() {
            return Err(VfsError::Gone);
        }
        if Mounted::is_keg(local) {
            return Err(VfsError::ReadOnly(super::ReadOnlyReason::View));
        }
        folder.writable()?;
        Ok((folder, local))
    }

    /// The inode is the list of folders.
    pub(super) fn is_list(&self, ino: Ino) -> bool {
        self.lists_folders && ino == super::ROOT
    }

    /// Folders of the mount, without other states of them.
    pub(super) fn mounted(&self) -> Vec<Arc<Mounted>> {
        self.folders.read().values().flatten().filter(|folder| !folder.is_tree()).cloned().collect()
    }

    /// An existing node of the folder, in use from now on.
    pub(super) fn pin(&self, folder: &Arc<Mounted>, local: u64) -> Result<(Pin, Node), VfsError> {
        let node = folder.node(local)?.ok_or(VfsError::NotFound)?;
        Ok((self.table.pin(folder, local, node.keg), node))
    }

    /// As [`Core::pin`], of a file whose content is going to be read or written. Where the local user has removed its last
    /// name, a moment ago or while a descriptor keeps it, what is written is for who has it open, and nobody else gets it.
    pub(super) fn enter(&self, folder: &Arc<Mounted>, local: u64) -> Result<(Pin, Node), VfsError> {
        let removals = folder.removals.load(Ordering::Acquire);
        let (pin, node) = self.pin(folder, local)?;
        {
            let mut state = pin.state.lock();
            let removed = self.known.is_removed(pin.ino);
            if node.nlink == 0 || state.unlinked || removed || folder.removals.load(Ordering::Acquire) != removals {
                if pin.has_name() {
                    self.revive(&pin, &mut state);
                } else if self.known.is_removed(pin.ino) {
                    state.unlinked = true;
                }
            }
        }
        Ok((pin, node))
    }

    /// The local user has removed the file's last name, and it has none since.
    pub(super) fn is_unlinked(&self, inode: &Inode, state: &mut FileState) -> bool {
        if state.unlinked && inode.has_name() {
            self.revive(inode, state);
        }
        state.unlinked
    }

    /// The file has a name again: what becomes of it from now on has nothing to do with its having been removed here.
    fn revive(&self, inode: &Inode, state: &mut FileState) {
        state.revive();
        self.known.set_removed(inode.ino, false);
    }

    /// Listens to changes that others make in the folder.
    pub(super) fn follow(self: &Arc<Self>, folder: &Arc<Mounted>) {
        let core: Weak<Self> = Arc::downgrade(self);
        let mounted: Weak<Mounted> = Arc::downgrade(folder);
        folder.source.on_change(Box::new(move |changes| {
            if let (Some(core), Some(folder)) = (core.upgrade(), mounted.upgrade()) {
                core.changed(&folder, changes);
            }
        }));
    }

    /// The new state is visible already; what is remembered of the old one goes first, then the kernel is told.
    fn changed(&self, folder: &Mounted, changes: &[SourceChange]) {
        folder.foreign.fetch_add(1, Ordering::AcqRel);
        for change in changes {
            if let SourceChange::Content(local) | SourceChange::Attr(local) = change
                && let Some(inode) = self.table.get(folder.ino(*local))
            {
                inode.bare.store(false, Ordering::Release);
                inode.map.lock().forget();
                inode.gate.changed();
            }
        }
        let Some(notifier) = self.notifier.get() else { return };
        for change in changes {
            match change {
                SourceChange::Attr(local) => notifier.attr(folder.ino(*local)),
                SourceChange::Content(local) => notifier.inode(folder.ino(*local), 0, 0),
                SourceChange::Entry { parent, name } => notifier.entry(folder.ino(*parent), name),
                SourceChange::Standing => self.tell_standing(folder, &**notifier),
            }
        }
    }

    /// Every inode of the folder has other mode bits now; where the user is a member no more, it has nothing.
    pub(super) fn tell_standing(&self, folder: &Mounted, notifier: &dyn Notifier) {
        let gone = folder.readable().is_err();
        for ino in self.known.of_folder(folder.root()) {
            if gone { notifier.inode(ino, 0, 0) } else { notifier.attr(ino) }
        }
    }

    /// Adds a folder. Index 0 is the folder that is the whole mount, or the list of folders; in a list the index comes
    /// from the folder's id, so that inode numbers stay the same whatever other folders there are.
    pub(super) fn add(self: &Arc<Self>, source: Arc<dyn FolderSource>) -> Arc<Mounted> {
        let mut folders = self.folders.write();
        let mut index = 0;
        if self.lists_folders {
            index = Mounted::free_index(Mounted::index_of(&source.id()), |index| folders.contains_key(&index));
        }
        let folder = Mounted::new(source, index);
        folders.insert(index, Some(folder.clone()));
        drop(folders);
        self.follow(&folder);
        self.follow_leases(&folder);
        folder
    }
}
