//! Inodes in use: those with an open handle or with content that the source does not have yet. All others are
//! answered from the source alone.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::format::KegId;
use crate::keg::Node;

use super::extents::ExtentMap;
use super::layer::Layer;
use super::mounted::Mounted;
use super::stores::Gate;
use super::{Ino, Slot, VfsError};

/// How long [`Table::unflushed`] waits for a lock: most are held for microseconds.
const LOOK: Duration = Duration::from_millis(2);

/// One file in use.
pub(super) struct Inode {
    pub ino: Ino,
    /// The folder's own number.
    pub local: u64,
    pub keg: KegId,
    pub folder: Arc<Mounted>,
    pub state: Mutex<FileState>,
    /// A layer has left [`FileState::frozen`], or an error came.
    pub settled: Condvar,
    /// What is known of the extents in the source.
    pub map: Mutex<ExtentMap>,
    /// Known to have no extended attributes: the kernel asks for one before every first write.
    pub bare: AtomicBool,
    /// When its content may be stored into the kernel's cache.
    pub gate: Gate,
    /// References: handles, and operations under way. Changed under the table's lock only.
    pins: AtomicUsize,
}

/// Content that the source does not have yet. Guarded by [`Inode::state`].
#[derive(Default)]
pub(super) struct FileState {
    /// Being written to.
    pub current: Option<Layer>,
    /// Waiting to be sealed; oldest first. They are filled in this order.
    pub frozen: VecDeque<Frozen>,
    /// Why work in the background failed; told once to whoever asks first.
    pub error: Option<VfsError>,
    /// The local user removed the last name: nothing of it is to be uploaded any more, unless it gets a name again
    /// ([`Core::is_unlinked`](super::core::Core::is_unlinked)).
    pub unlinked: bool,
    /// When the last byte was written.
    pub last_write: Option<Instant>,
    /// The base that layers keep while the file is being written in pieces, so that a foreign change in between makes
    /// one conflict and not a mixture.
    pub held_base: Option<u64>,
}

/// A layer that nobody writes to any more.
pub(super) struct Frozen {
    pub place: Place,
    pub layer: Layer,
}

/// Where a frozen layer stands in the journal's order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Waits for its blocks.
    Held(Slot),
    /// Filling it failed: a new one is to be taken.
    Lost,
    /// None: the file is unlinked, and the layer lives as long as the handles.
    Nowhere,
}

impl Inode {
    /// There is a name for it, as far as is known.
    pub(super) fn has_name(&self) -> bool {
        matches!(self.folder.source.node(self.local), Ok(Some(node)) if node.nlink > 0)
    }
}

impl FileState {
    /// It has a name again: everybody is to get what was written to it.
    pub(super) fn revive(&mut self) {
        self.unlinked = false;
        for frozen in &mut self.frozen {
            if frozen.place == Place::Nowhere {
                frozen.place = Place::Lost;
            }
        }
    }

    /// The newest layer.
    pub(super) fn top(&self) -> Option<&Layer> {
        self.current.as_ref().or_else(|| self.frozen.back().map(|frozen| &frozen.layer))
    }

    /// As [`FileState::top`].
    pub(super) fn top_mut(&mut self) -> Option<&mut Layer> {
        match &mut self.current {
            Some(layer) => Some(layer),
            None => self.frozen.back_mut().map(|frozen| &mut frozen.layer),
        }
    }

    /// Layers, newest first.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.current.iter().chain(self.frozen.iter().rev().map(|frozen| &frozen.layer))
    }

    /// The source has everything.
    pub(super) fn is_clean(&self) -> bool {
        self.current.is_none() && self.frozen.is_empty()
    }

    /// Something waits for its place in the journal to be filled.
    pub(super) fn is_waiting(&self) -> bool {
        self.frozen.iter().any(|frozen| frozen.place != Place::Nowhere)
    }

    /// Fails with the error of background work that nobody was told yet.
    pub(super) fn report(&mut self) -> Result<(), VfsError> {
        self.error.take().map_or(Ok(()), Err)
    }
}

/// What a file in use shows instead of what the source says.
#[derive(Clone, Copy)]
pub(super) struct Shown {
    pub size: u64,
    pub mtime_ns: i64,
    pub changed_ns: i64,
    /// Bytes of data that were written and that the source does not have yet.
    data: u64,
}

impl Shown {
    fn of(state: &FileState) -> Option<Self> {
        let layer = state.top()?;
        let data = state.layers().map(Layer::data).sum();
        Some(Self { size: layer.size, mtime_ns: layer.mtime_ns, changed_ns: layer.changed_ns, data })
    }

    /// Puts what is shown in the place of what the source says.
    pub(super) fn apply(&self, node: &mut Node) {
        node.size = self.size;
        node.allocated = node.allocated.saturating_add(self.data).min(self.size);
        node.mtime_ns = self.mtime_ns;
        node.ctime_ns = node.ctime_ns.max(self.changed_ns);
    }
}

/// The files in use.
#[derive(Default)]
pub(super) struct Table {
    inodes: Mutex<HashMap<Ino, Arc<Inode>>>,
    /// Numbers of handles.
    handles: AtomicU64,
}

/// Keeps an inode in the table.
pub(super) struct Pin {
    inode: Arc<Inode>,
    table: Arc<Table>,
}

impl std::ops::Deref for Pin {
    type Target = Arc<Inode>;
    fn deref(&self) -> &Arc<Inode> {
        &self.inode
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.table.unpin(&self.inode);
    }
}

impl Table {
    /// A number that no handle had before.
    pub(super) fn next_handle(&self) -> u64 {
        self.handles.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The inode, entered if it is not there.
    pub(super) fn pin(self: &Arc<Self>, folder: &Arc<Mounted>, local: u64, keg: KegId) -> Pin {
        let ino = folder.ino(local);
        let mut inodes = self.inodes.lock();
        let inode = inodes.entry(ino).or_insert_with(|| {
            Arc::new(Inode {
                ino,
                local,
                keg,
                folder: folder.clone(),
                state: Mutex::default(),
                settled: Condvar::new(),
                map: Mutex::default(),
                bare: AtomicBool::new(false),
                gate: Gate::default(),
                pins: AtomicUsize::new(0),
            })
        });
        inode.pins.fetch_add(1, Ordering::Relaxed);
        Pin { inode: inode.clone(), table: self.clone() }
    }

    fn unpin(&self, inode: &Arc<Inode>) {
        let mut inodes = self.inodes.lock();
        let last = inode.pins.fetch_sub(1, Ordering::Relaxed) == 1;
        let dropped = if last { Self::tidy_locked(&mut inodes, inode) } else { None };
        drop(inodes);
        drop(dropped);
    }

    /// Takes the inode out of the table if nobody needs it there.
    pub(super) fn tidy(&self, inode: &Arc<Inode>) {
        let mut inodes = self.inodes.lock();
        let dropped = Self::tidy_locked(&mut inodes, inode);
        drop(inodes);
        drop(dropped);
    }

    /// Returns what is to be dropped outside of the lock.
    fn tidy_locked(
        inodes: &mut HashMap<Ino, Arc<Inode>>,
        inode: &Arc<Inode>,
    ) -> Option<(Arc<Inode>, Option<Layer>, Vec<Frozen>)> {
        // A stale one, which another of the same file has followed, must not take that one out: places in the journal
        // that it holds would be waited for by nobody and filled by nobody.
        let stale = inodes.get(&inode.ino).is_none_or(|entered| !Arc::ptr_eq(entered, inode));
        if stale || inode.pins.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let mut state = inode.state.lock();
        if !state.is_clean() && !state.unlinked || state.is_waiting() {
            return None;
        }
        if !state.is_clean() && inode.has_name() {
            // It came back meanwhile, and the keeper sends what was written.
            return None;
        }
        // Nobody can read an unlinked file without a handle.
        let (layer, frozen) = (state.current.take(), state.frozen.drain(..).collect());
        drop(state);
        inodes.remove(&inode.ino).map(|inode| (inode, layer, frozen))
    }

    /// The inode if it is in use.
    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.inodes.lock().get(&ino).cloned()
    }

    /// Files with content that the source does not have and is to get. `None`: that cannot be told now, since the table is in use
    /// for long. Asked by who keeps readers of a source waiting, so it waits for none of the locks that such a reader may
    /// hold; a file whose lock is held counts as being written to.
    pub(super) fn unflushed(&self) -> Option<HashSet<KegId>> {
        let all: Vec<_> = self.inodes.try_lock_for(LOOK)?.values().cloned().collect();
        let kept = all.iter().filter(|inode| match inode.state.try_lock_for(LOOK) {
            Some(state) => !state.is_clean() && !state.unlinked,
            None => true,
        });
        Some(kept.map(|inode| inode.keg).collect())
    }

    /// All inodes in use.
    pub(super) fn all(&self) -> Vec<Arc<Inode>> {
        self.inodes.lock().values().cloned().collect()
    }

    /// Drops all content that is in memory.
    pub(super) fn wipe(&self) {
        self.wipe_those(|_| true);
    }

    /// The same for some inodes.
    pub(super) fn wipe_those(&self, which: impl Fn(&Inode) -> bool) {
        for inode in self.all().into_iter().filter(|inode| which(inode)) {
            let mut state = inode.state.lock();
            let dropped: (_, Vec<_>) = (state.current.take(), state.frozen.drain(..).collect());
            drop(state);
            drop(dropped);
            inode.map.lock().forget();
            inode.settled.notify_all();
        }
    }

    /// What the inode shows instead of what the source says, if anything.
    pub(super) fn shown(&self, ino: Ino) -> Option<Shown> {
        let inode = self.get(ino)?;
        let state = inode.state.lock();
        Shown::of(&state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryFolder;
    use super::*;

    #[test]
    fn a_stale_inode_does_not_take_its_successor_out_of_the_table() {
        let folder = Mounted::new(MemoryFolder::new("acme"), 1);
        let table = Arc::<Table>::default();
        let pin = table.pin(&folder, 2, KegId([7; 16]));
        let stale = Arc::clone(&pin);
        drop(pin);
        assert!(table.get(stale.ino).is_none(), "nobody needs it");
        // Somebody writes; nobody has the file open any more, but its place in the journal is not filled yet.
        let pin = table.pin(&folder, 2, KegId([7; 16]));
        let waiting = Arc::clone(&pin);
        let layer = Layer::new(0, 0, 0);
        waiting.state.lock().frozen.push_back(Frozen { place: Place::Lost, layer });
        drop(pin);
        table.tidy(&stale);
        assert!(table.get(waiting.ino).is_some_and(|entered| Arc::ptr_eq(&entered, &waiting)));
    }

    /// Asked by who keeps readers waiting, of whom any may hold any of these locks.
    #[test]
    fn what_is_in_memory_is_told_without_waiting_for_who_uses_it() {
        let folder = Mounted::new(MemoryFolder::new("acme"), 1);
        let table = Arc::<Table>::default();
        let pins: Vec<_> = (2..6).map(|number| table.pin(&folder, u64::from(number), KegId([number; 16]))).collect();
        pins[0].state.lock().current = Some(Layer::new(0, 0, 0));
        pins[1].state.lock().frozen.push_back(Frozen { place: Place::Lost, layer: Layer::new(0, 0, 0) });
        {
            let mut removed = pins[2].state.lock();
            (removed.current, removed.unlinked) = (Some(Layer::new(0, 0, 0)), true);
        }
        assert_eq!(table.unflushed(), Some(HashSet::from([pins[0].keg, pins[1].keg])));
        let used = pins[3].state.lock();
        assert_eq!(table.unflushed(), Some(HashSet::from([pins[0].keg, pins[1].keg, pins[3].keg])));
        drop(used);
        let used = table.inodes.lock();
        assert_eq!(table.unflushed(), None);
        drop(used);
    }
}
