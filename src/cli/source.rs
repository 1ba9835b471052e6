//! A synced folder as the vfs wants it: its replica, its ciphertext and its connection behind one port.
//!
//! Must not decide anything but what an error of the rooms below is called in the vfs.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use parking_lot::Mutex;

use super::keg_dir;
use crate::blobs::LocalError;
use crate::format::{BlobId, DbId, DeviceId, KegId, NodeKind, Op, OpKind, Role};
use crate::keg::Node;
use crate::replica::{self, ReplicaError};
use crate::sync::{self, FetchError, Folder, LockNews, SyncError};
use crate::sys::{clock, files};
use crate::vfs::{
    Agreed, Extents, FolderSource, KegDir, LeaseNews, Listed, ListedName, LockSet, LockSpan, ProbeDone, Progress, Room,
    Slot, SourceChange, VfsError,
};

/// Inode number of a folder's root.
const ROOT: u64 = 1;
/// A read of less than this of a blob that is not here fetches the range alone; more is worth the whole blob, which
/// then stays. Random 4 KiB reads ask for single segments of 64 KiB.
const WHOLE_FROM: u64 = 256 << 10;

/// `folder` for a mount; with `fsync_server` its syncs wait for the server too.
pub fn of(folder: &Arc<Folder>, fsync_server: bool) -> Arc<dyn FolderSource> {
    Arc::new(Source { folder: folder.clone(), slots: Mutex::default(), keg_dir: keg_dir::of(folder), fsync_server })
}

struct Source {
    folder: Arc<Folder>,
    /// Places in the queue that the vfs holds, by number.
    slots: Mutex<HashMap<u64, replica::Slot>>,
    keg_dir: Arc<dyn KegDir>,
    fsync_server: bool,
}

impl FolderSource for Source {
    fn node(&self, ino: u64) -> Result<Option<Node>, VfsError> {
        self.folder.replica.view().node(ino).map_err(|error| told(&error))
    }

    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Node>, VfsError> {
        self.folder.replica.view().lookup(parent, name).map_err(|error| told(&error))
    }

    fn list(&self, directory: u64, after: u64, limit: usize) -> Result<Vec<Listed>, VfsError> {
        let listed = self.folder.replica.view().readdir(directory, after, limit).map_err(|error| told(&error))?;
        Ok(listed.into_iter().map(|one| Listed { name: one.name, cookie: one.cookie, node: one.node }).collect())
    }

    fn list_names(&self, directory: u64, after: u64, limit: usize) -> Result<Vec<ListedName>, VfsError> {
        let listed = self.folder.replica.view().names_in(directory, after, limit).map_err(|error| told(&error))?;
        let name =
            |one: replica::NameEntry| ListedName { name: one.name, cookie: one.cookie, ino: one.ino, kind: one.kind };
        Ok(listed.into_iter().map(name).collect())
    }

    fn newest_cookie(&self, _directory: u64) -> Result<u64, VfsError> {
        Ok(self.folder.replica.newest_cookie())
    }

    fn parent(&self, directory: u64) -> Result<u64, VfsError> {
        if directory == ROOT {
            return Ok(ROOT);
        }
        let names = self.folder.replica.view().names(directory).map_err(|error| told(&error))?;
        names.first().map(|name| name.parent_ino).ok_or(VfsError::NotFound)
    }

    fn extents(&self, ino: u64, span: Range<u64>, limit: usize) -> Result<Extents, VfsError> {
        self.folder.replica.view().some_extents(ino, span, limit).map(extents).map_err(|error| told(&error))
    }

    fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>, VfsError> {
        self.folder.replica.view().xattr(ino, name).map_err(|error| told(&error))
    }

    fn xattrs(&self, ino: u64) -> Result<Vec<Vec<u8>>, VfsError> {
        let xattrs = self.folder.replica.view().xattrs(ino).map_err(|error| told(&error))?;
        Ok(xattrs.into_iter().map(|(name, _)| name).collect())
    }

    fn usage(&self) -> Result<(u64, u64), VfsError> {
        Ok(self.folder.replica.view().usage())
    }

    fn room(&self) -> Option<Room> {
        let disk = || files::disk_space(self.folder.dir()).ok();
        match self.folder.room() {
            Some(told) => {
                // What waits in the spool is going to be there as well.
                let taken = told.used_bytes.saturating_add(self.folder.waiting_bytes());
                let free = told.limit_bytes.saturating_sub(taken);
                // Without the server everything has to wait here.
                let here = if self.folder.online() { None } else { disk().map(|disk| disk.free_bytes) };
                Some(Room {
                    pool: *told.payer.as_bytes(),
                    total_bytes: told.limit_bytes,
                    free_bytes: here.map_or(free, |here| here.min(free)),
                })
            }
            None => {
                let disk = disk()?;
                let used = self.folder.replica.view().usage().0;
                let total_bytes = disk.free_bytes.saturating_add(used);
                // One disk for all folders.
                Some(Room { pool: [0; 32], total_bytes, free_bytes: disk.free_bytes })
            }
        }
    }

    fn head(&self) -> u64 {
        self.folder.replica.mark().seq
    }

    fn submit(&self, kind: OpKind, at_ns: i64) -> Result<(), VfsError> {
        if let OpKind::Create { keg, kind: NodeKind::File, .. } = &kind {
            self.folder.hold(*keg);
        }
        self.folder.replica.submit(kind, at_ns).map(drop).map_err(|error| told(&error))
    }

    fn fresh_number(&self) -> Result<u64, VfsError> {
        Ok(self.folder.replica.fresh_number())
    }

    fn submit_numbered(&self, kind: OpKind, at_ns: i64, number: u64) -> Result<(), VfsError> {
        if let OpKind::Create { keg, kind: NodeKind::File, .. } = &kind {
            self.folder.hold(*keg);
        }
        self.folder.replica.submit_numbered(kind, at_ns, number).map(drop).map_err(|error| told(&error))
    }

    fn let_go(&self, keg: &KegId) {
        self.folder.let_go(keg);
    }

    fn opened(&self, ino: u64) {
        self.folder.replica.opened(ino);
    }

    fn closed(&self, ino: u64) {
        self.folder.replica.closed(ino);
    }

    fn reserve(&self, keg: &KegId) -> Result<Slot, VfsError> {
        let slot = self.folder.replica.reserve(*keg).map_err(|error| told(&error))?;
        let number = slot.number();
        self.slots.lock().insert(number, slot);
        Ok(Slot(number))
    }

    fn fill(&self, slot: Slot, op: Option<Op>) -> Result<(), VfsError> {
        let held = self.slots.lock().remove(&slot.0).ok_or(VfsError::InvalidArgument)?;
        self.folder.replica.fill(held, op).map_err(|error| told(&error))
    }

    fn flush(&self, durable: bool, deadline: Instant) -> Result<(), VfsError> {
        self.folder.replica.flush_until(durable, deadline).map_err(|error| told(&error))?;
        if durable && self.fsync_server {
            let left = deadline.saturating_duration_since(clock::monotonic());
            return self.folder.wait_uploaded_blocking(left).map_err(|error| match error {
                // What was written is in the journal; only the promise of the option is not kept.
                SyncError::TimedOut(_) if !self.folder.online() => VfsError::Offline,
                SyncError::TimedOut(_) => VfsError::TimedOut,
                SyncError::NotAMember | SyncError::Closed => VfsError::Gone,
                other => VfsError::storage(other),
            });
        }
        Ok(())
    }

    fn spool(&self, blob: &BlobId, bytes: &[u8]) -> Result<(), VfsError> {
        self.folder.local.spool(blob, bytes).map_err(|error| stored(&error))
    }

    fn sync_spool(&self, blobs: &[BlobId]) -> Result<(), VfsError> {
        self.folder.local.sync_spool(blobs).map_err(|error| stored(&error))
    }

    fn discard(&self, blob: &BlobId) -> Result<(), VfsError> {
        self.folder.local.discard(blob).map_err(|error| stored(&error))
    }

    fn read_local(&self, blob: &BlobId, offset: u64, out: &mut [u8]) -> Result<bool, VfsError> {
        match self.folder.local.read_at(blob, offset, out) {
            Ok(()) => Ok(true),
            // A damaged file in the cache is as good as none: the server has the blob.
            Err(LocalError::Missing(_) | LocalError::Short { .. }) => Ok(false),
            Err(error) => Err(stored(&error)),
        }
    }

    fn drop_damaged(&self, blob: &BlobId) -> Result<bool, VfsError> {
        let dropped = self.folder.local.drop_damaged(blob).map_err(|error| stored(&error))?;
        if dropped {
            tracing::warn!(%blob, "a blob in the cache was damaged on this disk: it is fetched again");
        }
        Ok(dropped)
    }

    fn has_local(&self, blob: &BlobId) -> bool {
        self.folder.local.contains(blob)
    }

    fn fetch(&self, blob: &BlobId, range: Option<Range<u64>>, deadline: Instant) -> Result<Bytes, VfsError> {
        let fetched = match range {
            Some(range) if range.end.saturating_sub(range.start) < WHOLE_FROM => {
                self.folder.fetch_range_until(blob, range, deadline).map(Bytes::from)
            }
            Some(range) => self.folder.fetch_until(blob, deadline).map(|whole| {
                let len = whole.len() as u64;
                // A view of the fetched bytes, not a copy. Both are at most the length of a blob in memory.
                whole.slice(range.start.min(len) as usize..range.end.min(len) as usize)
            }),
            None => self.folder.fetch_until(blob, deadline),
        };
        fetched.map_err(|error| match error {
            FetchError::Offline => VfsError::Offline,
            FetchError::TimedOut => VfsError::TimedOut,
            FetchError::Gone => VfsError::Gone,
            FetchError::Corrupt(_) | FetchError::Missing(_) => VfsError::corrupt(error),
            other => VfsError::storage(other),
        })
    }

    fn online(&self) -> bool {
        self.folder.online()
    }

    fn role(&self) -> Option<Role> {
        self.folder.role()
    }

    fn frozen(&self) -> bool {
        self.folder.frozen().is_some()
    }

    fn id(&self) -> DbId {
        self.folder.id()
    }

    fn name(&self) -> String {
        self.folder.name()
    }

    fn device(&self) -> DeviceId {
        self.folder.device()
    }

    fn label(&self, device: &DeviceId) -> Option<String> {
        self.folder.label(device)
    }

    fn progress(&self, ino: u64) -> Result<Progress, VfsError> {
        let pending = self.folder.replica.view().is_pending(ino);
        Ok(if pending { Progress::Journaled } else { Progress::OnServer })
    }

    fn keg_dir(&self) -> Option<Arc<dyn KegDir>> {
        Some(Arc::clone(&self.keg_dir))
    }

    fn on_change(&self, callback: Box<dyn Fn(&[SourceChange]) + Send + Sync>) {
        let callback = Arc::new(callback);
        let told = callback.clone();
        // After the role says so, which is after the entry that changes it was applied.
        self.folder.on_standing(move || told(&[SourceChange::Standing]));
        self.folder.replica.on_change(move |changes| {
            let changes: Vec<SourceChange> = changes.iter().filter_map(change).collect();
            if !changes.is_empty() {
                callback(&changes);
            }
        });
    }

    fn claim(&self, keg: &KegId, held: &LockSet, newcomer: bool) -> Agreed {
        match self.folder.claim_lock(keg, held, newcomer) {
            sync::Agreed::Yes => Agreed::Yes,
            sync::Agreed::Unknown => Agreed::Unknown,
            sync::Agreed::NotYet => Agreed::NotYet,
        }
    }

    fn want(&self, keg: &KegId, held: &LockSet, wants: &[(LockSpan, bool)]) {
        self.folder.want_locks(keg, held, wants);
    }

    fn probe(&self, keg: &KegId, span: &LockSpan, done: ProbeDone) {
        self.folder.probe_lock(keg, span, done);
    }

    fn on_lease(&self, news: Box<dyn LeaseNews>) {
        self.folder.on_locks(News(news));
    }
}

/// What a folder tells of locks, for the vfs.
struct News(Box<dyn LeaseNews>);

impl LockNews for News {
    fn changed(&self, keg: &KegId, taken: &[LockSpan]) {
        self.0.changed(keg, taken);
    }

    fn settle(&self, done: Box<dyn FnOnce() + Send>) {
        self.0.settle(done);
    }
}

fn change(from: &replica::Change) -> Option<SourceChange> {
    match from {
        replica::Change::Attr(ino) => Some(SourceChange::Attr(*ino)),
        replica::Change::Content(ino) => Some(SourceChange::Content(*ino)),
        replica::Change::Entry { parent_ino, name, .. } => {
            Some(SourceChange::Entry { parent: *parent_ino, name: name.clone() })
        }
        // What the user may do is told by `on_standing`.
        replica::Change::Standing => None,
    }
}

/// Part of a file, for the vfs.
pub(super) fn extents(found: replica::Extents) -> Extents {
    Extents { list: found.list, upto: found.upto }
}

/// What the vfs calls a failure of the replica.
pub(super) fn told(error: &ReplicaError) -> VfsError {
    match error {
        ReplicaError::DiskFull { .. } => VfsError::NoSpace,
        ReplicaError::Corrupt { .. } | ReplicaError::WrongKey { .. } => VfsError::corrupt(error),
        ReplicaError::Format(_) => VfsError::TooLarge,
        ReplicaError::NoSuchInode(_) | ReplicaError::ThinnedOut { .. } => VfsError::NotFound,
        ReplicaError::Closed => VfsError::Gone,
        ReplicaError::TimedOut => VfsError::TimedOut,
        other => VfsError::storage(other),
    }
}

fn stored(error: &LocalError) -> VfsError {
    match error {
        LocalError::DiskFull { .. } => VfsError::NoSpace,
        other => VfsError::storage(other),
    }
}
