//! Opening, writing, flushing, closing files.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::format::NodeKind;
use crate::format::limits::{CHUNK_MAX_BYTES, FILE_MAX_BYTES};
use crate::keg::Node;
use crate::sys::clock;

use super::core::Core;
use super::flush::{Flush, SyncRequest};
use super::handles::FileHandle;
use super::inode::{FileState, Inode};
use super::keg_dir::{is_keg_handle, is_reserved};
use super::layer::Layer;
use super::mounted::Mounted;
use super::sealer::Job;
use super::{Allocate, Caller, Entry, Ino, OpenMode, Opened, SyncDone, Vfs, VfsError};

/// A stream is flushed whenever it has this many pieces: 64 MiB. Long enough that a change is mostly seen whole by
/// others, short enough that uploading keeps pace with writing.
const PIECES_STREAM: usize = 16;
/// Random writes are flushed at this many pieces: their extents, about 110 bytes each, must fit one operation with room
/// to spare (an entry has at most 1 MiB).
pub(super) const PIECES_MAX: usize = 4096;

/// How often a writer that waits for room looks whether there is any hope.
const ROOM_TICK: Duration = Duration::from_millis(100);

impl Vfs {
    /// Opens a file.
    ///
    /// # Errors
    /// [`VfsError::ReadOnly`] for writing where the role does not write: permissions bite at open.
    pub fn open(&self, ino: Ino, mode: OpenMode) -> Result<Opened, VfsError> {
        if self.core.is_list(ino) {
            return Err(VfsError::IsDirectory);
        }
        let (folder, local) = if mode.write { self.core.locate_writable(ino)? } else { self.core.locate(ino)? };
        if Mounted::is_keg(local) {
            return self.core.keg_open(&folder, local, mode);
        }
        let (pin, node) = self.core.enter(&folder, local)?;
        match node.kind {
            NodeKind::File => {}
            NodeKind::Directory => return Err(VfsError::IsDirectory),
            _ => return Err(VfsError::InvalidArgument),
        }
        let keep_cache = self.core.note_version(ino, &node);
        Ok(Opened { fh: self.core.add_file(FileHandle::new(pin, mode)), keep_cache, direct: false })
    }

    /// Creates and opens a file.
    ///
    /// # Errors
    /// [`VfsError::Outdated`] where there is a file of the name, which is to be opened then: the kernel has not heard of it yet.
    pub fn create(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u16,
        open: OpenMode,
        caller: &Caller,
    ) -> Result<(Entry, Opened), VfsError> {
        let (folder, local) = self.core.locate_writable(parent)?;
        let new = super::names::New { kind: NodeKind::File, mode, rdev: 0, target: &[] };
        let foreign = folder.foreign.load(Ordering::Acquire);
        let made = self.core.make(&folder, local, name, new, caller, |node, bare| {
            self.core.known.add(folder.ino(node.ino));
            let pin = self.core.table.pin(&folder, node.ino, node.keg);
            pin.bare.store(bare, Ordering::Release);
            (node, pin)
        });
        let (node, pin) = made.map_err(|error| match error {
            VfsError::Exists if !open.exclusive && !is_reserved(&folder, local, name) => VfsError::Outdated,
            other => other,
        })?;
        self.core.note_version(folder.ino(node.ino), &node);
        let attr = folder.attr(&node, true, &self.core.options);
        if !open.write {
            folder.source.let_go(&node.keg);
        }
        let fh = self.core.add_file(FileHandle::new(pin, open));
        let entry = Entry { attr, ttl: self.core.ttl_since(&folder, foreign) };
        Ok((entry, Opened { fh, keep_cache: false, direct: false }))
    }

    /// Writes all of `data` at `offset`. Waits while too much is written and not sealed yet.
    ///
    /// # Errors
    /// Also those of earlier work in the background, told once ([`VfsError::NoSpace`]): nothing of `data` is taken then.
    pub fn write(&self, fh: u64, offset: u64, data: &[u8]) -> Result<u32, VfsError> {
        self.write_at(fh, Some(offset), data)
    }

    /// As [`Vfs::write`], at the end of the file. Whether a write appends is a matter of the write, not of the handle:
    /// `fcntl` changes it, and pages of a mapping are written to their places whatever the handle was opened for.
    pub fn append(&self, fh: u64, data: &[u8]) -> Result<u32, VfsError> {
        self.write_at(fh, None, data)
    }

    fn write_at(&self, fh: u64, offset: Option<u64>, data: &[u8]) -> Result<u32, VfsError> {
        let core = &self.core;
        let handle = core.file(fh)?;
        handle.check_writable(core)?;
        if data.is_empty() {
            return Ok(0);
        }
        core.wait_for_room()?;
        let inode = &handle.pin;
        let mut state = inode.state.lock();
        state.report()?;
        let layer = core.layer(inode, &mut state)?;
        let offset = offset.unwrap_or(layer.size);
        let end =
            offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_MAX_BYTES).ok_or(VfsError::TooLarge)?;
        layer.write(offset, data, &core.budget);
        core.after_change(inode, &mut state)?;
        core.seal_full_runs(inode, &mut state, offset, end);
        let count = u32::try_from(data.len()).map_err(|_| VfsError::TooLarge)?;
        Ok(count)
    }

    /// A descriptor of the handle was closed: starts the flush and reports earlier failures of background work.
    ///
    /// Of a file that was cut to nothing that waits for the last descriptor, which is closed at once where this is the only
    /// one: shells open with `O_TRUNC`, close a copy, and write then.
    pub fn flush(&self, fh: u64) -> Result<(), VfsError> {
        if is_keg_handle(fh) {
            return Ok(());
        }
        let handle = self.core.file(fh)?;
        if !handle.mode.write {
            return Ok(());
        }
        let mut state = handle.pin.state.lock();
        state.report()?;
        if state.current.as_ref().is_some_and(|layer| layer.size == 0) {
            return Ok(());
        }
        self.core.start_flush(&handle.pin, &mut state, Flush::Settle)
    }

    /// Calls `done` on another thread when the file's content and everything done before is durable.
    pub fn fsync(&self, fh: u64, done: SyncDone) {
        if is_keg_handle(fh) {
            return done(Ok(()));
        }
        let handle = match self.core.file(fh) {
            Ok(handle) => handle,
            Err(error) => return done(Err(error)),
        };
        let pin = self.core.table.pin(&handle.pin.folder, handle.pin.local, handle.pin.keg);
        self.core.sync(SyncRequest::of_file(pin, done, self.core.deadline()));
    }

    /// The last descriptor of the handle was closed.
    pub fn release(&self, fh: u64) {
        if is_keg_handle(fh) {
            return self.keg_release(fh);
        }
        let Some(handle) = self.core.remove_file(fh) else { return };
        self.unlock_released(handle.pin.ino, fh);
        if handle.mode.write {
            let mut state = handle.pin.state.lock();
            if let Err(error) = self.core.start_flush(&handle.pin, &mut state, Flush::Settle) {
                state.error = Some(error);
                drop(state);
                self.core.wake_keeper();
            } else if state.is_clean() {
                handle.pin.folder.source.let_go(&handle.pin.keg);
            }
        }
    }

    /// Makes a range a hole, zeros, or part of the file.
    pub fn fallocate(&self, fh: u64, offset: u64, len: u64, how: Allocate) -> Result<(), VfsError> {
        let handle = self.core.file(fh)?;
        handle.check_writable(&self.core)?;
        let end = offset.checked_add(len).filter(|end| *end <= FILE_MAX_BYTES).ok_or(VfsError::TooLarge)?;
        if len == 0 {
            return Err(VfsError::InvalidArgument);
        }
        let inode = &handle.pin;
        let mut state = inode.state.lock();
        state.report()?;
        let size = self.core.layer(inode, &mut state)?.size;
        let Some(layer) = &mut state.current else { return Ok(()) };
        match how {
            Allocate::KeepSize => {}
            Allocate::Extend if end > size => layer.resize(end, &self.core.budget),
            Allocate::Extend => {}
            Allocate::PunchHole | Allocate::ZeroRange { keep_size: true } => {
                layer.punch(offset..end, &self.core.budget)
            }
            Allocate::ZeroRange { keep_size: false } => {
                layer.resize(end.max(size), &self.core.budget);
                layer.punch(offset..end, &self.core.budget);
            }
        }
        self.core.after_change(inode, &mut state)
    }
}

impl Core {
    /// Queues a request for the sync thread.
    pub(super) fn sync(&self, request: SyncRequest) {
        // The queue lives as long as its thread, which answers whatever it can still take.
        if let Err(unsent) = self.syncs.send(request) {
            unsent.into_inner().refuse(VfsError::Gone);
        }
    }

    /// Waits while too much is written and not sealed yet.
    pub(super) fn wait_for_room(&self) -> Result<(), VfsError> {
        if !self.budget.is_full() {
            return Ok(());
        }
        if self.queued() < self.options.dirty_max_bytes / 2 {
            // Most of it belongs to files that nobody flushes.
            self.relieve();
        }
        let deadline = self.deadline();
        loop {
            let now = clock::monotonic();
            if self.budget.wait(deadline.min(now + ROOM_TICK)).is_ok() {
                return Ok(());
            }
            // A full disk gives no room, however long one waits.
            if let Some(error) = self.disk_error() {
                self.wake_keeper();
                return Err(error);
            }
            if now >= deadline {
                return Err(VfsError::TimedOut);
            }
        }
    }

    /// The layer that is written to; a new one if need be.
    pub(super) fn layer<'a>(&self, inode: &Arc<Inode>, state: &'a mut FileState) -> Result<&'a mut Layer, VfsError> {
        if state.current.is_none() {
            let source = &inode.folder.source;
            let base = state.held_base.unwrap_or_else(|| source.head());
            let size = match state.top() {
                Some(layer) => layer.size,
                None => inode.folder.node(inode.local)?.ok_or(VfsError::NotFound)?.size,
            };
            state.current = Some(Layer::new(size, clock::unix_nanos(), base));
            self.wake_keeper();
        }
        state.current.as_mut().ok_or(VfsError::NotFound)
    }

    /// Sets the length of a file.
    pub(super) fn resize(&self, inode: &Arc<Inode>, state: &mut FileState, size: u64) -> Result<(), VfsError> {
        if size > FILE_MAX_BYTES {
            return Err(VfsError::TooLarge);
        }
        state.report()?;
        self.layer(inode, state)?.resize(size, &self.budget);
        self.after_change(inode, state)
    }

    /// Times, and the flush of what has become too much for one operation.
    pub(super) fn after_change(&self, inode: &Arc<Inode>, state: &mut FileState) -> Result<(), VfsError> {
        state.last_write = Some(clock::monotonic());
        let now_ns = clock::unix_nanos();
        let Some(layer) = &mut state.current else { return Ok(()) };
        layer.mtime_ns = now_ns;
        layer.changed_ns = now_ns;
        if layer.pieces() >= PIECES_MAX && !state.unlinked {
            self.start_flush(inode, state, Flush::Piece)
        } else {
            Ok(())
        }
    }

    /// Has every full 4 MiB range that the write has completed sealed at once.
    fn seal_full_runs(&self, inode: &Arc<Inode>, state: &mut FileState, offset: u64, end: u64) {
        let chunk = CHUNK_MAX_BYTES as u64;
        let Some(layer) = &mut state.current else { return };
        let mut blocks = Vec::new();
        for run in offset / chunk + 1..=end / chunk {
            blocks.extend(layer.freeze_run(run * chunk));
        }
        let stream = !blocks.is_empty() && layer.pieces() >= PIECES_STREAM && end.is_multiple_of(chunk);
        for block in blocks {
            self.seal(Job { block, inode: inode.clone() });
        }
        if stream && let Err(error) = self.start_flush(inode, state, Flush::Piece) {
            state.error = Some(error);
        }
    }

    /// Whether what the kernel has cached since the last open is still right; remembers the version.
    ///
    /// Own changes went through the kernel; others' were told to it, but it may not have heard yet.
    fn note_version(&self, ino: Ino, node: &Node) -> bool {
        let Ok((folder, _)) = self.locate(ino) else { return false };
        let before = self.versions.lock().put(ino, node.content);
        let own = folder.source.device();
        before.is_some_and(|before| before == node.content || (before.device == own && node.content.device == own))
    }
}
