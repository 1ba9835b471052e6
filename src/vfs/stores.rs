//! Handing the kernel the rest of a segment that was opened for a few of its bytes (`FUSE_NOTIFY_STORE`), so that a
//! reader who jumps about in a file pays for each segment once and not for each of its pages.
//!
//! The kernel puts what it is handed over what it has, even over pages that a local writer has just changed. So nothing
//! is stored while the file is open for writing, and what changes the file waits for a store under way. A change by
//! somebody else waits for nothing: the store finds it when it is done, and the range is invalidated.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::crypto::chunk::SEGMENT;
use crate::format::Extent;

use super::Ino;
use super::core::Core;
use super::inode::{Inode, Pin};
use super::segments::{Segment, SegmentKey};

/// Of longer files single pages are worth more than what whole segments would displace in the page cache.
const FILE_MAX: u64 = 4 << 30;
/// A store waits for reads of the same pages, which may wait for the network. A writer does not wait longer than this:
/// then the store invalidates the range when it is done.
const PATIENCE: Duration = Duration::from_secs(2);

/// When an inode's content may be stored into the kernel's cache.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    /// Handles open for writing, and changes of the length under way.
    writers: usize,
    /// Counts what may have changed the content.
    changes: u64,
    storing: bool,
}

impl Gate {
    /// Nothing is stored from now until [`Gate::leave`]. Waits for a store under way.
    pub(super) fn enter(&self) {
        let mut state = self.state.lock();
        state.writers += 1;
        state.changes += 1;
        self.idle.wait_while_for(&mut state, |state| state.storing, PATIENCE);
    }

    /// One of those who entered is done.
    pub(super) fn leave(&self) {
        self.state.lock().writers -= 1;
    }

    /// Somebody may be writing.
    pub(super) fn is_entered(&self) -> bool {
        self.state.lock().writers > 0
    }

    /// The content was changed by somebody else.
    pub(super) fn changed(&self) {
        self.state.lock().changes += 1;
    }

    /// To be asked for before the content is read; `None`: it must not be stored.
    fn ticket(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.writers == 0).then_some(state.changes)
    }

    /// Runs `store` unless there was a change since the ticket; tells whether there was one meanwhile.
    fn pass(&self, ticket: u64, store: impl FnOnce()) -> bool {
        {
            let mut state = self.state.lock();
            if state.writers > 0 || state.changes != ticket || state.storing {
                return false;
            }
            state.storing = true;
        }
        store();
        let mut state = self.state.lock();
        state.storing = false;
        self.idle.notify_all();
        state.changes != ticket
    }
}

/// Keeps a file from being stored for as long as it may be written to.
pub(super) struct Writing(Arc<Inode>);

impl Writing {
    pub(super) fn begin(inode: &Arc<Inode>) -> Self {
        inode.gate.enter();
        Self(inode.clone())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.gate.leave();
    }
}

/// Opened content on its way to the kernel's cache.
pub struct Store {
    pin: Pin,
    ticket: u64,
    offset: u64,
    segment: Segment,
    /// Of the segment and those that were opened at once with it.
    span: Range<usize>,
}

impl Store {
    /// Calls `store` with inode, offset and bytes, unless the file has changed. Returns the range (inode, offset, length)
    /// that is to be invalidated because it changed meanwhile.
    pub fn deliver(self, store: impl FnOnce(Ino, u64, &[u8])) -> Option<(Ino, i64, i64)> {
        let inode = &self.pin;
        if inode.folder.readable().is_err() {
            return None;
        }
        let bytes = self.segment.run(self.span.start, self.span.len())?;
        let changed = inode.gate.pass(self.ticket, || store(inode.ino, self.offset, bytes));
        let void = changed || inode.folder.readable().is_err();
        // Neither is above what a file may have: 2^63 - 1.
        void.then(|| (inode.ino, self.offset.cast_signed(), self.span.len() as i64))
    }
}

/// What can be stored once a segment is opened.
pub(super) struct Offer {
    ticket: u64,
    key: SegmentKey,
    /// Where in the file the part of the segment lies that belongs to it.
    offset: u64,
    span: Range<usize>,
}

impl Core {
    /// To be asked for before the content is looked at; `None`: nothing of the file is to be stored now.
    pub(super) fn may_store(&self, inode: &Inode) -> Option<u64> {
        let ticket = inode.gate.ticket()?;
        let may = self.notifier.get().is_some() && inode.size().ok()? <= FILE_MAX && inode.state.lock().is_clean();
        may.then_some(ticket)
    }

    /// What could be stored after a read of a few bytes at `offset`; `None` also where their segment is open already.
    pub(super) fn offer(&self, inode: &Inode, offset: u64) -> Option<Offer> {
        let ticket = self.may_store(inode)?;
        let extents = inode.extents(offset..offset.saturating_add(1)).ok()?;
        let [extent] = &extents[..] else { return None };
        let skip = extent.chunk_skip as usize;
        let index = (skip + offset.checked_sub(extent.offset)? as usize) / SEGMENT;
        let key = SegmentKey { blob: extent.blob, blob_offset: extent.blob_offset, index: index as u32 };
        if self.segments.contains(&key) {
            return None;
        }
        let base = index * SEGMENT;
        let from = base.max(skip);
        let to = (base + SEGMENT).min(skip + extent.len as usize);
        Some(Offer { ticket, key, offset: extent.offset + (from - skip) as u64, span: from - base..to - base })
    }

    /// Has the kernel take the part of the extent that lies in its segments from `first` up to `end`, opened at once.
    pub(super) fn store_segments(&self, inode: &Inode, extent: &Extent, first: &SegmentKey, end: u32, ticket: u64) {
        let skip = extent.chunk_skip as usize;
        let base = first.index as usize * SEGMENT;
        let (from, to) = (base.max(skip), (end as usize * SEGMENT).min(skip + extent.len as usize));
        let offset = extent.offset + (from - skip) as u64;
        self.store(inode, Offer { ticket, key: *first, offset, span: from - base..to - base });
    }

    /// Has the kernel take what was opened since the offer was made.
    pub(super) fn store(&self, inode: &Inode, offer: Offer) {
        let (Some(notifier), Some(segment)) = (self.notifier.get(), self.segments.get(&offer.key)) else { return };
        let pin = self.table.pin(&inode.folder, inode.local, inode.keg);
        let Offer { ticket, offset, span, .. } = offer;
        notifier.store(Store { pin, ticket, offset, segment, span });
    }
}
