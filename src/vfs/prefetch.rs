//! Sequential readers are served ahead: ciphertext is fetched in a window that grows, segments are opened on several
//! threads before they are asked for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::crypto::chunk::SEGMENT;
use crate::format::limits::CHUNK_MAX_BYTES;
use crate::format::{BlobId, Extent};

use super::around::Around;
use super::core::Core;
use super::handles::FileHandle;
use super::inode::Inode;
use super::read::{Reach, opener};
use super::segments::{GROUP_SEGMENTS, Loader, SegmentKey, Turn};

const CHUNK: u64 = CHUNK_MAX_BYTES as u64;
pub(super) const GROUP: u64 = GROUP_SEGMENTS as u64 * SEGMENT as u64;
/// The kernel reads ahead with several requests at once, which arrive in any order: this far from the expected offset
/// is still sequential.
const DISORDER: u64 = 1 << 20;
/// A reader that came this far in order is a sequential one. Two of the kernel's default readahead requests.
const STREAK_MIN: u64 = 256 << 10;
/// Segments are opened this far ahead: one chunk. Two opening threads are then always busy; more only fills the cache.
const OPEN_AHEAD: u64 = CHUNK;
/// Chunks that are fetched ahead at most: 32 MiB covers 250 ms at 1 Gbit/s.
const FETCH_AHEAD_MAX: u64 = 8;
/// From a remote blob with at least this much in the chunk, a reader that jumps about fetches single segments.
const RANGE_MIN: u32 = 512 << 10;

/// How one handle is being read.
#[derive(Default)]
pub(super) struct Reader {
    pub closed: AtomicBool,
    /// Counts jumps: work ahead that was ordered before one is not done any more.
    jumps: AtomicU64,
    pattern: Mutex<Pattern>,
    pub around: Mutex<Around>,
}

#[derive(Default)]
struct Pattern {
    /// Where a sequential reader reads next.
    next: u64,
    /// Bytes read in order so far.
    streak: u64,
    opened_to: u64,
    fetched_to: u64,
    /// The reader has jumped, and has not read much in order since.
    jumping: bool,
    /// The blob of the last fetched range: whoever comes back to it gets it whole.
    ranged: Option<BlobId>,
}

/// What to do ahead of a reader.
struct Ahead {
    jump: u64,
    open: Range<u64>,
    fetch: Range<u64>,
}

impl Reader {
    /// Takes note of a read; tells what to do ahead of the next.
    fn note(&self, offset: u64, len: u64) -> Option<Ahead> {
        let mut pattern = self.pattern.lock();
        let end = offset.saturating_add(len);
        let tolerance = if pattern.streak > 0 { DISORDER } else { 0 };
        if offset > pattern.next.saturating_add(tolerance) || end < pattern.next.saturating_sub(tolerance) {
            let ranged = pattern.ranged;
            *pattern = Pattern { next: end, jumping: true, ranged, ..Pattern::default() };
            self.jumps.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        pattern.next = pattern.next.max(end);
        pattern.streak = pattern.streak.saturating_add(len);
        if pattern.streak < STREAK_MIN {
            return None;
        }
        pattern.jumping = false;
        let next = pattern.next;
        let mut ahead = Ahead { jump: self.jumps.load(Ordering::Relaxed), open: 0..0, fetch: 0..0 };
        let window = OPEN_AHEAD.min(pattern.streak.next_multiple_of(GROUP));
        if pattern.opened_to < next + window {
            ahead.open = pattern.opened_to.max(next)..(next + window).next_multiple_of(GROUP);
            pattern.opened_to = ahead.open.end;
        }
        let window = (pattern.streak / (CHUNK / 4)).clamp(2, FETCH_AHEAD_MAX) * CHUNK;
        if pattern.fetched_to < next + window {
            ahead.fetch = pattern.fetched_to.max(next)..(next + window).next_multiple_of(CHUNK);
            pattern.fetched_to = ahead.fetch.end;
        }
        Some(ahead)
    }

    /// Whether to fetch a range rather than the whole blob: while the reader jumps about, and the first time only.
    pub(super) fn wants_range(&self, extent: &Extent) -> bool {
        let mut pattern = self.pattern.lock();
        if !pattern.jumping || extent.chunk_len < RANGE_MIN || pattern.ranged == Some(extent.blob) {
            return false;
        }
        pattern.ranged = Some(extent.blob);
        true
    }

    /// The reader has jumped, and has not read much in order since.
    pub(super) fn is_jumping(&self) -> bool {
        self.pattern.lock().jumping
    }

    fn still_wants(&self, jump: u64) -> bool {
        !self.closed.load(Ordering::Acquire) && self.jumps.load(Ordering::Relaxed) == jump
    }
}

impl Core {
    /// Takes note of a read, and orders what will probably be read next.
    pub(super) fn read_ahead(self: &Arc<Self>, handle: &Arc<FileHandle>, offset: u64, len: u64) {
        let Some(ahead) = handle.reader.note(offset, len) else { return };
        let inode = &handle.pin;
        if !ahead.fetch.is_empty()
            && let Ok(extents) = inode.extents(ahead.fetch.clone())
        {
            for extent in extents.into_iter().filter(|extent| ahead.fetch.contains(&extent.offset)) {
                if !inode.folder.source.has_local(&extent.blob) {
                    let (core, handle) = (self.clone(), handle.clone());
                    let task = move || {
                        if handle.reader.still_wants(ahead.jump) {
                            core.fetch_chunk(&handle.pin, &extent);
                        }
                    };
                    // Not in the queue, not fetched ahead: the reader fetches it himself.
                    let _ = self.fetchers.run(Box::new(task));
                }
            }
        }
        if ahead.open.is_empty() {
            return;
        }
        let Ok(extents) = inode.extents(ahead.open.clone()) else { return };
        for extent in extents.iter().filter_map(|extent| extent.clip(ahead.open.start, ahead.open.end)) {
            for indexes in groups(&extent) {
                let (core, handle, extent) = (self.clone(), handle.clone(), extent.clone());
                let task = move || {
                    if handle.reader.still_wants(ahead.jump) {
                        core.open_group(&handle.pin, &extent, indexes);
                    }
                };
                let _ = self.openers.run(Box::new(task));
            }
        }
    }

    /// Opens segments of one group, if their ciphertext is here; returns which. Failures are the reader's to find.
    pub(super) fn open_group(&self, inode: &Inode, extent: &Extent, indexes: Range<u32>) -> Option<Range<u32>> {
        let key = |index| SegmentKey { blob: extent.blob, blob_offset: extent.blob_offset, index };
        let deadline = self.deadline();
        let first = indexes.clone().find(|index| !self.segments.contains(&key(*index)))?;
        if self.segments.is_loading(&key(first)) {
            return None;
        }
        let Ok(Turn::Mine(_loading)) = self.segments.load(&key(first), Loader::Disk, false, deadline) else {
            return None;
        };
        let reach = Reach { network: false, deadline, reader: None };
        self.load(inode, extent, first..indexes.end, reach).ok().map(|_| first..indexes.end)
    }

    /// Fetches the chunk's blob and opens the whole chunk.
    fn fetch_chunk(&self, inode: &Inode, extent: &Extent) {
        let Ok(opener) = opener(extent) else { return };
        let deadline = self.deadline();
        let segments = opener.segments() as u32;
        let mut loading = Vec::new();
        for group in (0..segments).step_by(GROUP_SEGMENTS as usize) {
            let key = SegmentKey { blob: extent.blob, blob_offset: extent.blob_offset, index: group };
            if self.segments.is_loading(&key) {
                continue;
            }
            if let Ok(Turn::Mine(mine)) = self.segments.load(&key, Loader::Network, false, deadline) {
                loading.push((group, mine));
            }
        }
        let Ok(bytes) = inode.folder.source.fetch(&extent.blob, None, deadline) else { return };
        for (group, _mine) in loading {
            let indexes = group..(group + GROUP_SEGMENTS).min(segments);
            let start = extent.blob_offset as usize + opener.sealed_range(indexes.start as usize).start;
            if let Some(sealed) = bytes.get(start..) {
                let _ = self.open(&opener, extent, indexes, sealed);
            }
        }
    }
}

/// The extent's segments, those of each group apart.
pub(super) fn groups(extent: &Extent) -> impl Iterator<Item = Range<u32>> + use<> {
    let first = extent.chunk_skip / SEGMENT as u32;
    let end = (extent.chunk_skip + extent.len).div_ceil(SEGMENT as u32);
    (first / GROUP_SEGMENTS..end.div_ceil(GROUP_SEGMENTS))
        .map(move |group| (group * GROUP_SEGMENTS).max(first)..((group + 1) * GROUP_SEGMENTS).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_is_served_ahead_and_a_jumping_one_is_not() {
        let reader = Reader::default();
        let mut opened = 0;
        for i in 0..100u64 {
            if let Some(ahead) = reader.note(i << 17, 1 << 17) {
                assert!(ahead.open.is_empty() || ahead.open.start >= opened, "opened twice");
                opened = opened.max(ahead.open.end);
                assert!(opened >= (i + 1) << 17);
                assert!(opened <= ((i + 1) << 17) + OPEN_AHEAD + GROUP);
            }
        }
        assert!(opened > 100 << 17);
        for i in 0..20u64 {
            assert!(reader.note(((i * 7919) % 1000) << 20, 4096).is_none());
        }
    }

    #[test]
    fn requests_out_of_order_are_still_sequential() {
        let reader = Reader::default();
        reader.note(0, 512 << 10);
        for i in (4..80u64).step_by(2) {
            assert!(reader.note((i + 1) << 17, 1 << 17).is_some());
            assert!(reader.note(i << 17, 1 << 17).is_some());
        }
    }

    #[test]
    fn the_fetch_window_grows_to_eight_chunks() {
        let reader = Reader::default();
        let mut widest = 0;
        for i in 0..512u64 {
            if let Some(ahead) = reader.note(i << 17, 1 << 17) {
                let pattern = reader.pattern.lock();
                widest = widest.max(pattern.fetched_to - pattern.next);
                assert!(pattern.fetched_to - pattern.next <= (FETCH_AHEAD_MAX + 1) * CHUNK);
                // No more chunks than MiB read, or two.
                let read = (i + 1) << 17;
                assert!(ahead.fetch.end <= (read + (read >> 20).max(2) * CHUNK).next_multiple_of(CHUNK));
            }
        }
        assert!(widest >= 7 * CHUNK);
    }

    #[test]
    fn a_jump_cancels_what_was_ordered() {
        let reader = Reader::default();
        reader.note(0, 1 << 20);
        let ahead = reader.note(1 << 20, 1 << 20);
        assert!(ahead.as_ref().is_some_and(|ahead| reader.still_wants(ahead.jump)));
        reader.note(500 << 20, 4096);
        assert!(ahead.is_some_and(|ahead| !reader.still_wants(ahead.jump)));
    }
}
