//! From written bytes to the journal: when files are flushed, in which order their changes arrive, and what happens
//! when the disk is full.
//!
//! A flush takes a place in the journal's order at once and fills it when the bytes are sealed, so that a rename after
//! a save never overtakes the data. Changes of one file are filled in the order in which they were made.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::sys::clock;

use super::core::Core;
use super::files::PIECES_MAX;
use super::inode::{FileState, Frozen, Inode, Pin, Place};
use super::mounted::Mounted;
use super::sealer::Job;
use super::{SyncDone, VfsError};

/// How often the keeper looks for idle files and tries again what failed.
const KEEPER_TICK: Duration = Duration::from_millis(250);
/// Requests answered by one sync of the disk.
const SYNC_GROUP_MAX: usize = 256;

/// A caller waiting for durability.
pub(super) struct SyncRequest {
    folder: Option<Arc<Mounted>>,
    scope: Scope,
    done: SyncDone,
    deadline: Instant,
}

/// What is to be brought into the journal before.
enum Scope {
    /// Nothing: what was done to names is there already.
    Names,
    /// What was written to the file.
    File(Pin),
    /// What was written to any file of the folder.
    All,
}

impl SyncRequest {
    /// Of a file.
    pub(super) fn of_file(file: Pin, done: SyncDone, deadline: Instant) -> Self {
        Self { folder: Some(file.folder.clone()), scope: Scope::File(file), done, deadline }
    }

    /// Of a folder's names.
    pub(super) fn of_names(folder: Arc<Mounted>, done: SyncDone, deadline: Instant) -> Self {
        Self { folder: Some(folder), scope: Scope::Names, done, deadline }
    }

    /// Of everything that was written in a folder. What could not be written is left to be told to the programs that
    /// wrote it.
    pub(super) fn of_all(folder: Arc<Mounted>, done: SyncDone, deadline: Instant) -> Self {
        Self { folder: Some(folder), scope: Scope::All, done, deadline }
    }

    /// Answers without having done anything.
    pub(super) fn refuse(self, error: VfsError) {
        (self.done)(Err(error));
    }

    /// One that only wakes the thread.
    pub(super) fn wake() -> Self {
        Self { folder: None, scope: Scope::Names, done: Box::new(drop), deadline: clock::monotonic() }
    }
}

/// Why a file is flushed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// Its writer is done for now.
    Settle,
    /// It is long, and its writer goes on: what follows belongs to the same change.
    Piece,
}

impl Core {
    /// Takes a place in the journal for what was written, and has it sealed.
    pub(super) fn start_flush(&self, inode: &Arc<Inode>, state: &mut FileState, why: Flush) -> Result<(), VfsError> {
        if self.is_unlinked(inode, state) {
            return Ok(());
        }
        if state.current.is_none() {
            if why == Flush::Settle {
                state.held_base = None;
            }
            // What has got its name back.
            self.settle_locked(inode, state);
            return Ok(());
        }
        let slot = inode.folder.source.reserve(&inode.keg)?;
        let Some(mut layer) = state.current.take() else { return Ok(()) };
        state.held_base = (why == Flush::Piece).then_some(layer.base);
        let blocks = layer.freeze_all(&self.budget);
        // What was written to a file without a name may be more than fits one operation.
        let rest = layer.split(PIECES_MAX);
        state.frozen.push_back(Frozen { place: Place::Held(slot), layer });
        for layer in rest {
            // Without a place it gets one when its blocks are sealed.
            let place = inode.folder.source.reserve(&inode.keg).map_or(Place::Lost, Place::Held);
            state.frozen.push_back(Frozen { place, layer });
        }
        for block in blocks {
            self.seal(Job { block, inode: inode.clone() });
        }
        self.settle_locked(inode, state);
        Ok(())
    }

    /// Seals what an unlinked file holds in memory, without telling the journal: it only makes room.
    fn relieve_unlinked(&self, inode: &Arc<Inode>, state: &mut FileState) {
        if let Some(layer) = &mut state.current {
            for block in layer.freeze_all(&self.budget) {
                self.seal(Job { block, inode: inode.clone() });
            }
        }
    }

    /// Makes room: has everything sealed that is not on its way already.
    pub(super) fn relieve(&self) {
        for inode in self.table.all() {
            let mut state = inode.state.lock();
            if self.is_unlinked(&inode, &mut state) {
                self.relieve_unlinked(&inode, &mut state);
            } else if let Err(error) = self.start_flush(&inode, &mut state, Flush::Piece) {
                state.error = Some(error);
            }
        }
        self.nudge();
    }

    /// A block of the file was sealed: fills the places in the journal whose blocks are all sealed.
    pub(super) fn settle(&self, inode: &Arc<Inode>) {
        let mut state = inode.state.lock();
        self.settle_locked(inode, &mut state);
        let clean = state.is_clean();
        drop(state);
        if clean {
            self.table.tidy(inode);
        }
    }

    fn settle_locked(&self, inode: &Inode, state: &mut FileState) {
        let source = &inode.folder.source;
        let mut moved = false;
        while let Some(at) = state.frozen.iter().position(|frozen| frozen.place != Place::Nowhere) {
            let unlinked = state.unlinked;
            let frozen = &mut state.frozen[at];
            let op = if unlinked { None } else { frozen.layer.op(inode.keg) };
            if op.is_none() && !unlinked {
                break;
            }
            if op.is_some() {
                // Before the journal has it: what it names must never be taken for an orphan.
                frozen.layer.name_blobs();
            }
            let filled = match frozen.place {
                Place::Held(slot) => {
                    frozen.place = Place::Lost;
                    source.fill(slot, op)
                }
                // The order against operations made meanwhile is lost with the place; the content is not.
                _ if op.is_some() => source.reserve(&inode.keg).and_then(|slot| source.fill(slot, op)),
                _ => Ok(()),
            };
            if let Err(error) = filled {
                // Tried again by the keeper; the content stays in its sealed blobs.
                state.error = Some(error);
                break;
            }
            moved = true;
            if unlinked {
                frozen.place = Place::Nowhere;
            } else {
                inode.map.lock().forget();
                inode.folder.fills.fetch_add(1, Ordering::AcqRel);
                state.frozen.remove(at);
            }
        }
        if moved || state.error.is_some() {
            inode.settled.notify_all();
        }
    }

    /// A block could not be stored: tells whoever asks next about the file, and tries again later.
    pub(super) fn fail(&self, job: Job, error: VfsError) {
        *self.disk.lock() = Some(error.clone());
        {
            let mut state = job.inode.state.lock();
            state.error = Some(error);
            job.inode.settled.notify_all();
        }
        self.failed.lock().push(job);
        self.wake_keeper();
    }

    /// There is something to look after.
    pub(super) fn wake_keeper(&self) {
        let mut busy = self.keeper_busy.lock();
        if !*busy {
            *busy = true;
            self.keeper.notify_one();
        }
    }

    /// The keeper's thread: flushes idle files, tries again what failed.
    pub(super) fn keep(self: &Arc<Self>) {
        while !self.is_stopped() {
            {
                let mut busy = self.keeper_busy.lock();
                if *busy {
                    self.keeper.wait_for(&mut busy, KEEPER_TICK);
                } else {
                    // A wake-up that is missed while stopping costs a minute of a sleeping thread and nothing else.
                    self.keeper.wait_for(&mut busy, self.options.orphan_age);
                }
                *busy = false;
            }
            if self.is_stopped() {
                break;
            }
            let failed = std::mem::take(&mut *self.failed.lock());
            let mut busy = !failed.is_empty();
            for job in failed {
                self.seal(job);
            }
            for inode in self.table.all() {
                busy |= self.look_after(&inode);
            }
            self.mounted().iter().for_each(|folder| folder.discard_orphans(self.options.orphan_age));
            if busy {
                *self.keeper_busy.lock() = true;
            }
        }
    }

    /// Returns whether to come back.
    fn look_after(&self, inode: &Arc<Inode>) -> bool {
        let mut state = inode.state.lock();
        if state.is_clean() && state.held_base.is_none() {
            return false;
        }
        let now = clock::monotonic();
        let idle = state.last_write.is_none_or(|last| now - last >= self.options.idle_flush);
        if idle && let Err(error) = self.start_flush(inode, &mut state, Flush::Settle) {
            state.error = Some(error);
        }
        self.settle_locked(inode, &mut state);
        drop(state);
        self.table.tidy(inode);
        true
    }

    /// The sync thread: answers all callers that wait at the same time with one sync of the disk.
    pub(super) fn sync_loop(self: &Arc<Self>, queue: &Receiver<SyncRequest>) {
        while let Ok(first) = queue.recv() {
            let mut group = vec![first];
            group.extend(queue.try_iter().take(SYNC_GROUP_MAX));
            self.hurry.fetch_add(1, Ordering::AcqRel);
            self.sync_group(group);
            self.hurry.fetch_sub(1, Ordering::AcqRel);
            if self.is_stopped() {
                break;
            }
        }
    }

    fn sync_group(&self, group: Vec<SyncRequest>) {
        let mut started = Vec::with_capacity(group.len());
        for request in group {
            let begun = match (&request.scope, &request.folder) {
                (_, None) => continue,
                (Scope::File(inode), _) => {
                    let mut state = inode.state.lock();
                    state.report().and_then(|()| self.start_flush(inode, &mut state, Flush::Settle))
                }
                (Scope::Names, Some(folder)) => folder.readable(),
                (Scope::All, Some(folder)) => {
                    self.start_flushes(folder);
                    Ok(())
                }
            };
            match begun {
                Ok(()) => started.push(request),
                Err(error) => (request.done)(Err(error)),
            }
        }
        self.nudge();
        let mut answers = Vec::with_capacity(started.len());
        let mut folders: Vec<(Arc<Mounted>, Instant)> = Vec::new();
        for request in started {
            let waited = match &request.scope {
                Scope::File(inode) => wait_settled(inode, request.deadline),
                // Making the folder durable waits for all its files.
                Scope::Names | Scope::All => Ok(()),
            };
            if let (Ok(()), Some(folder)) = (&waited, &request.folder)
                && folders.iter().all(|(other, _)| !Arc::ptr_eq(other, folder))
            {
                folders.push((folder.clone(), request.deadline));
            }
            answers.push((request, waited));
        }
        let synced: Vec<_> =
            folders.into_iter().map(|(folder, deadline)| (self.make_durable(&folder, deadline), folder)).collect();
        for (request, waited) in answers {
            let durable =
                synced.iter().find(|(_, folder)| request.folder.as_ref().is_some_and(|f| Arc::ptr_eq(f, folder)));
            let answer = waited.and_then(|()| durable.map_or(Ok(()), |(result, _)| result.clone()));
            (request.done)(answer);
        }
    }

    /// As [`Core::start_flush`], of everything that was written in a folder; of a file without changes it costs a look.
    fn start_flushes(&self, folder: &Arc<Mounted>) {
        for inode in self.table.all() {
            if !Arc::ptr_eq(&inode.folder, folder) {
                continue;
            }
            let mut state = inode.state.lock();
            if (!state.is_clean() || state.held_base.is_some())
                && let Err(error) = self.start_flush(&inode, &mut state, Flush::Settle)
            {
                state.error = Some(error);
            }
        }
    }

    /// Spool and journal of a folder survive a power cut from here on.
    pub(super) fn make_durable(&self, folder: &Arc<Mounted>, deadline: Instant) -> Result<(), VfsError> {
        // A place that is held by a file whose bytes cannot be stored would hold up the journal beyond the deadline.
        for inode in self.table.all() {
            if Arc::ptr_eq(&inode.folder, folder) {
                wait_filled(&inode, deadline).map_err(|error| self.explain(error))?;
            }
        }
        // Blobs first: the journal must never name a blob that is not there.
        folder.source.flush(false, deadline).map_err(|error| self.explain(error))?;
        let blobs = std::mem::take(&mut *folder.unsynced.lock());
        if let Err(error) = folder.source.sync_spool(&blobs) {
            folder.unsynced.lock().extend(blobs);
            return Err(error);
        }
        folder.source.flush(true, deadline)
    }

    /// Waiting in vain is most often due to a full disk: that is then the better answer.
    fn explain(&self, error: VfsError) -> VfsError {
        if error == VfsError::TimedOut { self.disk_error().unwrap_or(error) } else { error }
    }

    /// Why blobs cannot be stored at present.
    pub(super) fn disk_error(&self) -> Option<VfsError> {
        self.disk.lock().clone()
    }

    /// Flushes all files and the journals of all folders.
    pub(super) fn flush_all(&self, deadline: Instant) -> Result<(), VfsError> {
        self.hurry.fetch_add(1, Ordering::AcqRel);
        let result = self.flush_all_hurrying(deadline);
        self.hurry.fetch_sub(1, Ordering::AcqRel);
        result
    }

    fn flush_all_hurrying(&self, deadline: Instant) -> Result<(), VfsError> {
        let inodes = self.table.all();
        for inode in &inodes {
            let mut state = inode.state.lock();
            state.error = None;
            self.start_flush(inode, &mut state, Flush::Settle)?;
        }
        let failed = std::mem::take(&mut *self.failed.lock());
        failed.into_iter().for_each(|job| self.seal(job));
        self.nudge();
        for inode in &inodes {
            wait_settled(inode, deadline)?;
        }
        self.mounted().iter().try_for_each(|folder| self.make_durable(folder, deadline))
    }
}

/// Returns when nothing of the file waits for its place in the journal to be filled; with what failed, if anything did.
pub(super) fn wait_settled(inode: &Inode, deadline: Instant) -> Result<(), VfsError> {
    loop {
        let mut state = inode.state.lock();
        state.report()?;
        if !state.is_waiting() {
            return Ok(());
        }
        if inode.settled.wait_until(&mut state, deadline).timed_out() {
            return Err(VfsError::TimedOut);
        }
    }
}

/// As [`wait_settled`], leaving failures to those who ask about the file itself.
fn wait_filled(inode: &Inode, deadline: Instant) -> Result<(), VfsError> {
    let mut state = inode.state.lock();
    while state.is_waiting() {
        if inode.settled.wait_until(&mut state, deadline).timed_out() {
            return Err(VfsError::TimedOut);
        }
    }
    Ok(())
}
