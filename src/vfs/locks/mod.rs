//! Locks of programs on files: fcntl(2) and flock(2), among the programs of this mount and, through the folder, among
//! its members.
//!
//! A lock is given when no other program here is in the way and the folder agrees. The folder agrees at once where it
//! has the file on loan or no server to ask; otherwise the wish waits in a queue, on no thread, until the folder says
//! that something has changed. The table has one lock of its own, a leaf: under it the folder is asked, which answers
//! from memory, and nobody is called back.

mod table;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::format::{KegId, LockSet, LockSpace, LockSpan};

use super::core::Core;
use super::flush::SyncRequest;
use super::keg_dir::is_keg_handle;
use super::mounted::Mounted;
use super::source::Agreed;
use super::{Ino, LeaseNews, Vfs, VfsError};

use table::{FileLocks, OwnerId, Waiting};

/// Requests that were interrupted before they arrived: two messages of the kernel may overtake each other.
const EARLY_MAX: usize = 256;
/// Spans that all programs together may have locked of one file.
const SPANS_MAX: usize = crate::format::limits::LOCK_SPANS_MAX;
/// Wishes that may wait in one mount.
const WAITING_MAX: usize = 16_384;

/// Is called once, on any thread, when it is decided whether the lock is had.
pub type LockDone = Box<dyn FnOnce(Result<(), VfsError>) + Send>;

/// What a program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// Number of the request, for [`Vfs::interrupt`].
    pub id: u64,
    /// Handle of the file.
    pub fh: u64,
    /// Who asks: what the kernel calls the owner.
    pub owner: u64,
    /// The process.
    pub pid: u32,
    /// The range, and how.
    pub span: LockSpan,
    /// Wait until it can be had.
    pub wait: bool,
}

/// A lock that is in the way: the process, 0 for another member's, and the range.
pub type InTheWay = (u32, LockSpan);

struct File {
    folder: Arc<Mounted>,
    keg: KegId,
    locks: FileLocks<LockDone>,
}

#[derive(Default)]
struct State {
    files: HashMap<Ino, File>,
    /// The files in whose queues requests wait.
    waiting: HashMap<u64, Ino>,
    early: VecDeque<u64>,
}

/// All locks of a mount.
#[derive(Default)]
pub(super) struct Locks(Mutex<State>);

/// What is to be told once the table is unlocked: the answer, and whether what others did must be with the kernel first.
type Decided = Vec<(LockDone, Result<(), VfsError>, bool)>;

impl State {
    /// Looks through a file's queue: what can be had is given, what cannot is refused, the rest is asked for.
    fn advance(&mut self, ino: Ino, taken: &[LockSpan], decided: &mut Decided) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let (mut wants, mut index) = (Vec::new(), 0);
        while let Some(waiting) = file.locks.queue.get(index) {
            let (owner, span) = (waiting.owner, waiting.span);
            let local = file.locks.conflict(owner, &span).is_some();
            let refused = !waiting.wait && (local || (waiting.asked && taken.contains(&span)));
            let result = if refused {
                Some(Err(VfsError::Locked))
            } else if local {
                None
            } else {
                let newcomer = file.locks.of(owner).is_none();
                match file.folder.source.claim(&file.keg, &file.locks.held_after(owner, span), newcomer) {
                    Agreed::Yes => Some(Ok(())),
                    Agreed::Unknown => {
                        wants.push((span, waiting.wait));
                        None
                    }
                    Agreed::NotYet if waiting.wait => None,
                    Agreed::NotYet => Some(Err(VfsError::Locked)),
                }
            };
            match (result, file.locks.queue.get_mut(index)) {
                (None, Some(waiting)) => {
                    waiting.asked |= wants.last().is_some_and(|(last, _)| *last == span);
                    index += 1;
                }
                (Some(result), _) => {
                    let Some(waiting) = file.locks.queue.remove(index) else { break };
                    if result.is_ok() {
                        file.locks.grant(owner, waiting.pid, waiting.fh, span);
                    }
                    self.waiting.remove(&waiting.id);
                    decided.push((waiting.done, result, waiting.asked));
                }
                (None, None) => break,
            }
        }
        file.folder.source.want(&file.keg, &file.locks.held(), &wants);
        if file.locks.is_idle() {
            self.files.remove(&ino);
        }
    }

    /// Whether waiting for a range of `ino` would make a process wait for itself.
    ///
    /// As on Linux, open file descriptions are in no circle: they belong to no process that would be stuck. The kernel
    /// does not tell which of the two an owner is; [`descriptions`](Self::descriptions) finds what can be known.
    fn deadlock(&self, ino: Ino, request: &LockRequest) -> bool {
        let Some(file) = self.files.get(&ino) else { return false };
        let mut next: Vec<OwnerId> = file.locks.blockers(request.owner, &request.span).collect();
        if next.is_empty() {
            return false;
        }
        let descriptions = self.descriptions(request);
        if descriptions.contains(&request.owner) {
            return false;
        }
        let mut waiting: HashMap<OwnerId, Vec<(&File, LockSpan)>> = HashMap::new();
        for file in self.files_waited_for() {
            for one in &file.locks.queue {
                waiting.entry(one.owner).or_default().push((file, one.span));
            }
        }
        let mut seen = descriptions;
        while let Some(blocker) = next.pop() {
            if blocker == request.owner {
                return true;
            }
            if seen.insert(blocker) {
                for (file, span) in waiting.get(&blocker).into_iter().flatten() {
                    next.extend(file.locks.blockers(blocker, span));
                }
            }
        }
        false
    }

    /// Owners of fcntl(2) locks that are, or may be, open file descriptions: a process is one owner, so where it appears
    /// as several, at most one of them is the process. One description each in different processes looks like processes.
    fn descriptions(&self, request: &LockRequest) -> HashSet<OwnerId> {
        let mut of_process: HashMap<u32, OwnerId> = HashMap::from([(request.pid, request.owner)]);
        let mut found = HashSet::new();
        for (owner, pid, known) in self.files.values().flat_map(|file| file.locks.fcntl_owners()) {
            // A process that cannot be seen from here has no number.
            let other = (pid != 0).then(|| *of_process.entry(pid).or_insert(owner)).filter(|other| *other != owner);
            found.extend(other);
            if known || other.is_some() {
                found.insert(owner);
            }
        }
        found
    }

    fn files_waited_for(&self) -> impl Iterator<Item = &File> {
        let inos: HashSet<Ino> = self.waiting.values().copied().collect();
        inos.into_iter().filter_map(|ino| self.files.get(&ino))
    }
}

impl Vfs {
    /// Locks a range. `done` is called when that is decided, at once or later, on this thread or another.
    pub fn lock(&self, request: &LockRequest, done: LockDone) {
        let mut decided = Decided::new();
        match self.lock_inner(request, done, &mut decided) {
            Ok(()) => {}
            Err((done, error)) => decided.push((done, Err(error), false)),
        }
        self.core.tell(decided);
    }

    fn lock_inner(
        &self,
        request: &LockRequest,
        done: LockDone,
        decided: &mut Decided,
    ) -> Result<(), (LockDone, VfsError)> {
        let LockRequest { id, fh, owner, pid, span, wait } = *request;
        if is_keg_handle(fh) {
            // Everybody who opens such a file gets one of the own.
            return Err((done, VfsError::NoLocks));
        }
        let handle = match self.core.file(fh) {
            Ok(handle) => handle,
            Err(error) => return Err((done, error)),
        };
        if let Err(error) = handle.pin.folder.readable() {
            return Err((done, error));
        }
        let ino = handle.pin.ino;
        let mut state = self.core.locks.0.lock();
        if let Some(early) = state.early.iter().position(|early| *early == id) {
            state.early.remove(early);
            return Err((done, VfsError::Interrupted));
        }
        if state.waiting.len() >= WAITING_MAX {
            return Err((done, VfsError::NoLocks));
        }
        let file = state.files.entry(ino).or_insert_with(|| File {
            folder: handle.pin.folder.clone(),
            keg: handle.pin.keg,
            locks: FileLocks::default(),
        });
        if span.space == LockSpace::Flock {
            let same = file.locks.of(owner).is_some_and(|set| {
                let mut held = set.spans().iter().filter(|held| held.space == LockSpace::Flock);
                held.any(|held| held.exclusive == span.exclusive)
            });
            // flock(2): a conversion first gives up what is held, so that two who convert do not wait for each other.
            if !same {
                file.locks.unlock(owner, LockSpace::Flock, span.start, span.end);
            }
        }
        let result = if file.locks.held_after(owner, span).len() > SPANS_MAX {
            Err(VfsError::NoLocks)
        } else if !wait && file.locks.conflict(owner, &span).is_some() {
            Err(VfsError::Locked)
        } else if wait && span.space == LockSpace::Posix && state.deadlock(ino, request) {
            Err(VfsError::Deadlock)
        } else {
            Ok(())
        };
        let result = match (result, state.files.get_mut(&ino)) {
            (Ok(()), Some(file)) => {
                file.locks.queue.push_back(Waiting { id, owner, pid, fh, span, wait, asked: false, done });
                state.waiting.insert(id, ino);
                Ok(())
            }
            (Err(error), _) => Err((done, error)),
            (Ok(()), None) => Err((done, VfsError::NoLocks)),
        };
        state.advance(ino, &[], decided);
        result
    }

    /// Gives a range back.
    ///
    /// # Errors
    /// [`VfsError::BadHandle`].
    pub fn unlock(&self, fh: u64, owner: u64, space: LockSpace, start: u64, end: u64) -> Result<(), VfsError> {
        if is_keg_handle(fh) {
            return Ok(());
        }
        let ino = self.core.file(fh)?.pin.ino;
        self.core.change_locks(ino, |locks| locks.unlock(owner, space, start, end));
        Ok(())
    }

    /// Whether somebody is in the way of `span`, and who. `done` is called at once or later.
    pub fn test_lock(
        &self,
        fh: u64,
        owner: u64,
        span: LockSpan,
        done: Box<dyn FnOnce(Result<Option<InTheWay>, VfsError>) + Send>,
    ) {
        if is_keg_handle(fh) {
            return done(Ok(None));
        }
        let handle = match self.core.file(fh) {
            Ok(handle) => handle,
            Err(error) => return done(Err(error)),
        };
        let local = {
            let state = self.core.locks.0.lock();
            state.files.get(&handle.pin.ino).and_then(|file| file.locks.conflict(owner, &span))
        };
        match local {
            Some((_, pid, span)) => done(Ok(Some((pid, span)))),
            None => {
                let done = move |other: Option<LockSpan>| done(Ok(other.map(|span| (0, span))));
                handle.pin.folder.source.probe(&handle.pin.keg, &span, Box::new(done));
            }
        }
    }

    /// A descriptor was closed by the process whose table of files is `owner`: it loses what it has locked with fcntl(2).
    pub fn unlock_closed(&self, fh: u64, owner: u64) {
        let Ok(handle) = self.core.file(fh) else { return };
        let everything = LockSpan::whole(LockSpace::Posix, true);
        let release =
            |locks: &mut FileLocks<LockDone>| locks.unlock(owner, everything.space, everything.start, everything.end);
        self.core.change_locks(handle.pin.ino, release);
    }

    /// The last descriptor of a handle was closed.
    pub(super) fn unlock_released(&self, ino: Ino, fh: u64) {
        self.core.change_locks(ino, |locks| locks.release_handle(fh));
    }

    /// A signal came for the program that waits for request `id`.
    pub fn interrupt(&self, id: u64) {
        let mut decided = Decided::new();
        {
            let mut state = self.core.locks.0.lock();
            match state.waiting.remove(&id) {
                Some(ino) => {
                    let waiting = state.files.get_mut(&ino).and_then(|file| file.locks.take_waiting(id));
                    decided.extend(waiting.map(|waiting| (waiting.done, Err(VfsError::Interrupted), false)));
                    state.advance(ino, &[], &mut decided);
                }
                None => {
                    // Not here yet, or no request for a lock.
                    if state.early.len() >= EARLY_MAX {
                        state.early.pop_front();
                    }
                    state.early.push_back(id);
                }
            }
        }
        self.core.tell(decided);
    }
}

impl Core {
    fn change_locks(&self, ino: Ino, change: impl FnOnce(&mut FileLocks<LockDone>) -> bool) {
        let mut decided = Decided::new();
        {
            let mut state = self.locks.0.lock();
            let Some(file) = state.files.get_mut(&ino) else { return };
            if change(&mut file.locks) {
                state.advance(ino, &[], &mut decided);
            }
        }
        self.tell(decided);
    }

    /// Answers those whose wishes are decided. What another member did under a lock reaches the kernel's cache before the
    /// lock reaches the program.
    fn tell(&self, decided: Decided) {
        for (done, result, asked) in decided {
            match self.notifier.get().filter(|_| asked && result.is_ok()) {
                Some(notifier) => notifier.after(Box::new(move || done(result))),
                None => done(result),
            }
        }
    }

    /// The folder is gone, or all are: nobody holds anything, and who waits is told.
    pub(super) fn drop_locks(&self, which: impl Fn(&Arc<Mounted>) -> bool) {
        let mut decided = Decided::new();
        {
            let mut state = self.locks.0.lock();
            let gone: Vec<Ino> =
                state.files.iter().filter(|(_, file)| which(&file.folder)).map(|(ino, _)| *ino).collect();
            for file in gone.iter().filter_map(|ino| state.files.remove(ino)).collect::<Vec<_>>() {
                file.folder.source.want(&file.keg, &LockSet::default(), &[]);
                for waiting in file.locks.queue {
                    state.waiting.remove(&waiting.id);
                    decided.push((waiting.done, Err(VfsError::Gone), false));
                }
            }
        }
        self.tell(decided);
    }

    /// Listens to what the folder hears of locks.
    pub(super) fn follow_leases(self: &Arc<Self>, folder: &Arc<Mounted>) {
        let listener = Listener { core: Arc::downgrade(self), folder: Arc::downgrade(folder) };
        folder.source.on_lease(Box::new(listener));
    }

    fn ino_of(&self, folder: &Arc<Mounted>, keg: &KegId) -> Option<Ino> {
        let state = self.locks.0.lock();
        let found = state.files.iter().find(|(_, file)| file.keg == *keg && Arc::ptr_eq(&file.folder, folder));
        found.map(|(ino, _)| *ino)
    }
}

/// What the folder tells, for one mount.
struct Listener {
    core: Weak<Core>,
    folder: Weak<Mounted>,
}

impl LeaseNews for Listener {
    fn changed(&self, keg: &KegId, taken: &[LockSpan]) {
        let (Some(core), Some(folder)) = (self.core.upgrade(), self.folder.upgrade()) else { return };
        let Some(ino) = core.ino_of(&folder, keg) else { return };
        let mut decided = Decided::new();
        core.locks.0.lock().advance(ino, taken, &mut decided);
        core.tell(decided);
    }

    fn settle(&self, done: Box<dyn FnOnce() + Send>) {
        let (Some(core), Some(folder)) = (self.core.upgrade(), self.folder.upgrade()) else { return done() };
        if core.is_stopped() {
            return done();
        }
        // What could not be written is told to the program by its own fsync or close.
        core.sync(SyncRequest::of_all(folder, Box::new(move |_| done()), core.deadline()));
    }
}
