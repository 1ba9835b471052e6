//! Opened segments: plaintext of what was read lately, bounded in bytes, wiped when it leaves.

use std::sync::Arc;
use std::time::Instant;

use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use zeroize::Zeroize;

use crate::crypto::chunk::SEGMENT;
use crate::format::BlobId;

use super::VfsError;

/// Buffers kept for what is opened next: of whole groups, enough for two prefetched chunks, and of single segments.
const RECYCLED_GROUPS: usize = 8;
const RECYCLED_SEGMENTS: usize = 32;

/// One segment of one chunk. Blobs never change, so what is cached under this is right for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SegmentKey {
    pub blob: BlobId,
    pub blob_offset: u32,
    pub index: u32,
}

/// Segments of one chunk that are opened together, and leave the cache together: 1 MiB of plaintext.
pub(super) const GROUP_SEGMENTS: u32 = 16;
const GROUP: usize = GROUP_SEGMENTS as usize * SEGMENT;

impl SegmentKey {
    fn group(mut self) -> Self {
        self.index -= self.index % GROUP_SEGMENTS;
        self
    }

    fn place(&self) -> usize {
        (self.index % GROUP_SEGMENTS) as usize
    }
}

#[derive(Default)]
struct Recycled {
    groups: Vec<Vec<u8>>,
    segments: Vec<Vec<u8>>,
    closed: bool,
}

impl Recycled {
    /// Where buffers of that length wait, and how many may.
    fn of(&mut self, len: usize) -> Option<(&mut Vec<Vec<u8>>, usize)> {
        match len {
            GROUP => Some((&mut self.groups, RECYCLED_GROUPS)),
            SEGMENT => Some((&mut self.segments, RECYCLED_SEGMENTS)),
            _ => None,
        }
    }
}

/// Plaintext of consecutive segments that were opened at once.
struct Slab {
    bytes: Vec<u8>,
    recycled: Arc<Mutex<Recycled>>,
}

impl Drop for Slab {
    fn drop(&mut self) {
        let mut recycled = self.recycled.lock();
        if !recycled.closed
            && let Some((buffers, max)) = recycled.of(self.bytes.len())
            && buffers.len() < max
        {
            return buffers.push(std::mem::take(&mut self.bytes));
        }
        drop(recycled);
        self.bytes.zeroize();
    }
}

/// Plaintext of a segment.
#[derive(Clone)]
pub(super) struct Segment {
    slab: Arc<Slab>,
    start: usize,
    end: usize,
}

impl std::ops::Deref for Segment {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.slab.bytes[self.start..self.end]
    }
}

impl Segment {
    /// `len` bytes from byte `from` of this segment on, also out of those after it, if they were opened at once with it.
    pub(super) fn run(&self, from: usize, len: usize) -> Option<&[u8]> {
        self.slab.bytes.get(self.start + from..)?.get(..len)
    }
}

/// The cache.
pub(super) struct Segments {
    max_bytes: usize,
    cached: Mutex<Cached>,
    recycled: Arc<Mutex<Recycled>>,
    loading: Mutex<Vec<(SegmentKey, Loader)>>,
    loaded: Condvar,
}

struct Cached {
    lru: LruCache<SegmentKey, Group>,
    bytes: usize,
    closed: bool,
}

/// What is there of a group.
#[derive(Default)]
struct Group([Option<Segment>; GROUP_SEGMENTS as usize]);

impl Group {
    fn cost(&self) -> usize {
        GROUP_COST + self.0.iter().flatten().map(|segment| segment.len()).sum::<usize>()
    }
}

/// Bytes that keeping a group takes beside its plaintext.
const GROUP_COST: usize = 1024;

/// Who is loading a group.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loader {
    /// Someone who reads the local disk.
    Disk,
    /// Someone who waits for the network.
    Network,
}

/// Right to load a group; others wait until it is dropped.
pub(super) struct Loading<'a> {
    segments: &'a Segments,
    group: SegmentKey,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut loading = self.segments.loading.lock();
        if let Some(at) = loading.iter().position(|(group, _)| *group == self.group) {
            loading.swap_remove(at);
        }
        drop(loading);
        self.segments.loaded.notify_all();
    }
}

/// Answer to [`Segments::load`].
pub(super) enum Turn<'a> {
    /// The caller loads.
    Mine(Loading<'a>),
    /// Somebody else has loaded meanwhile: look again.
    Done,
    /// Somebody else is loading over the network, and the caller must not wait for that.
    Busy,
}

impl Segments {
    /// At most `max_bytes` of plaintext, with what it costs to keep it.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            cached: Mutex::new(Cached { lru: LruCache::unbounded(), bytes: 0, closed: false }),
            recycled: Arc::default(),
            loading: Mutex::default(),
            loaded: Condvar::new(),
        }
    }

    /// The segment, if it is cached.
    pub(super) fn get(&self, key: &SegmentKey) -> Option<Segment> {
        self.cached.lock().lru.get(&key.group())?.0[key.place()].clone()
    }

    /// Is cached; not counted as a use.
    pub(super) fn contains(&self, key: &SegmentKey) -> bool {
        self.cached.lock().lru.peek(&key.group()).is_some_and(|group| group.0[key.place()].is_some())
    }

    /// A buffer of `len` bytes to open segments into.
    pub(super) fn buffer(&self, len: usize) -> Vec<u8> {
        let recycled = self.recycled.lock().of(len).and_then(|(buffers, _)| buffers.pop());
        recycled.unwrap_or_else(|| vec![0; len])
    }

    /// Keeps opened `bytes`: `first` and, if there are more, the segments after it in its group. Returns the first.
    pub(super) fn insert(&self, first: SegmentKey, bytes: Vec<u8>) -> Segment {
        let len = bytes.len();
        let slab = Arc::new(Slab { bytes, recycled: self.recycled.clone() });
        let segment = |start: usize| Segment { slab: slab.clone(), start, end: (start + SEGMENT).min(len) };
        // Collected to be dropped, and wiped, outside of the lock.
        let mut replaced = Vec::new();
        let mut evicted = Vec::new();
        let mut cached = self.cached.lock();
        if cached.closed {
            return segment(0);
        }
        let known = cached.lru.peek(&first.group()).map_or(0, Group::cost);
        let group = cached.lru.get_or_insert_mut(first.group(), Group::default);
        for (place, start) in group.0[first.place()..].iter_mut().zip((0..len).step_by(SEGMENT)) {
            replaced.extend(place.replace(segment(start)));
        }
        let cost = group.cost();
        cached.bytes = cached.bytes - known + cost;
        while cached.bytes > self.max_bytes {
            let Some((_, group)) = cached.lru.pop_lru() else { break };
            cached.bytes -= group.cost();
            evicted.push(group);
        }
        drop(cached);
        segment(0)
    }

    /// Asks for the right to load the group that `key` is in; waits while another one has it.
    pub(super) fn load(
        &self,
        key: &SegmentKey,
        who: Loader,
        wait_for_network: bool,
        deadline: Instant,
    ) -> Result<Turn<'_>, VfsError> {
        let group = key.group();
        let mut loading = self.loading.lock();
        let Some(&(_, other)) = loading.iter().find(|(other, _)| *other == group) else {
            loading.push((group, who));
            return Ok(Turn::Mine(Loading { segments: self, group }));
        };
        if other == Loader::Network && !wait_for_network {
            return Ok(Turn::Busy);
        }
        while loading.iter().any(|(other, _)| *other == group) {
            if self.loaded.wait_until(&mut loading, deadline).timed_out() {
                return Err(VfsError::TimedOut);
            }
        }
        Ok(Turn::Done)
    }

    /// The group is being loaded by somebody.
    pub(super) fn is_loading(&self, key: &SegmentKey) -> bool {
        let group = key.group();
        self.loading.lock().iter().any(|(other, _)| *other == group)
    }

    /// Bytes kept.
    pub(super) fn bytes(&self) -> usize {
        self.cached.lock().bytes
    }

    /// Wipes everything.
    pub(super) fn clear(&self) {
        let dropped = {
            let mut cached = self.cached.lock();
            cached.bytes = 0;
            std::mem::replace(&mut cached.lru, LruCache::unbounded())
        };
        // Outside of the lock; their buffers go to the recycled ones.
        drop(dropped);
        let mut recycled = self.recycled.lock();
        let Recycled { groups, segments, .. } = &mut *recycled;
        groups.iter_mut().chain(segments.iter_mut()).for_each(|buffer| buffer.as_mut_slice().zeroize());
    }

    /// Wipes everything and keeps nothing from now on.
    pub(super) fn close(&self) {
        {
            let mut recycled = self.recycled.lock();
            recycled.closed = true;
            let Recycled { groups, segments, .. } = &mut *recycled;
            groups.iter_mut().chain(segments.iter_mut()).for_each(Zeroize::zeroize);
            groups.clear();
            segments.clear();
        }
        let mut cached = self.cached.lock();
        cached.closed = true;
        cached.bytes = 0;
        cached.lru.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::clock;
    use std::time::Duration;

    fn key(n: u8, index: u32) -> SegmentKey {
        SegmentKey { blob: BlobId([n; 32]), blob_offset: 0, index }
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_leave() {
        let segments = Segments::new(10 * (GROUP + GROUP_COST));
        for i in 0..100 {
            segments.insert(key(1, i * GROUP_SEGMENTS), segments.buffer(GROUP));
            assert!(segments.bytes() <= 10 * (GROUP + GROUP_COST));
        }
        assert!(segments.get(&key(1, 90 * GROUP_SEGMENTS - 1)).is_none());
        assert!(segments.get(&key(1, 90 * GROUP_SEGMENTS)).is_some());
    }

    #[test]
    fn the_same_key_twice_is_counted_once() {
        let segments = Segments::new(1 << 20);
        for _ in 0..5 {
            segments.insert(key(1, 0), vec![7; 100]);
        }
        assert_eq!(segments.bytes(), 100 + GROUP_COST);
    }

    #[test]
    fn what_is_opened_at_once_is_read_at_once() {
        let segments = Segments::new(8 << 20);
        let bytes: Vec<u8> = (0..3 * SEGMENT - 10).map(|n| (n / 1000) as u8).collect();
        segments.insert(key(1, 17), bytes.clone());
        let second = segments.get(&key(1, 18)).unwrap();
        assert!(second[..] == bytes[SEGMENT..2 * SEGMENT]);
        assert!(second.run(5, SEGMENT + 5).unwrap() == &bytes[SEGMENT + 5..2 * SEGMENT + 10]);
        assert!(second.run(5, 2 * SEGMENT).is_none());
        assert_eq!(segments.get(&key(1, 19)).unwrap().len(), SEGMENT - 10);
        for absent in [16, 20] {
            assert!(!segments.contains(&key(1, absent)));
        }
        // Opened again alone, it takes the place of the old.
        segments.insert(key(1, 18), vec![9; SEGMENT]);
        assert_eq!(segments.get(&key(1, 18)).unwrap()[0], 9);
        assert_eq!(segments.bytes(), 3 * SEGMENT - 10 + GROUP_COST);
    }

    #[test]
    fn what_ends_a_group_does_not_run_into_the_next() {
        let segments = Segments::new(8 << 20);
        segments.insert(key(1, 15), vec![1; SEGMENT]);
        segments.insert(key(1, 16), vec![2; SEGMENT]);
        assert_eq!(segments.get(&key(1, 15)).unwrap()[0], 1);
        assert_eq!(segments.get(&key(1, 16)).unwrap()[0], 2);
    }

    #[test]
    fn one_loads_and_the_others_wait() {
        let segments = Segments::new(1 << 20);
        let soon = || clock::monotonic() + Duration::from_secs(10);
        let Turn::Mine(mine) = segments.load(&key(1, 3), Loader::Disk, false, soon()).unwrap() else { panic!() };
        assert!(matches!(segments.load(&key(1, 16), Loader::Disk, false, soon()).unwrap(), Turn::Mine(_)));
        std::thread::scope(|scope| {
            let waiter =
                scope.spawn(|| matches!(segments.load(&key(1, 0), Loader::Disk, false, soon()), Ok(Turn::Done)));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waiter.is_finished());
            drop(mine);
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn who_must_not_wait_for_the_network_is_told() {
        let segments = Segments::new(1 << 20);
        let deadline = clock::monotonic() + Duration::from_millis(5);
        let _mine = segments.load(&key(1, 0), Loader::Network, true, deadline).unwrap();
        assert!(matches!(segments.load(&key(1, 1), Loader::Disk, false, deadline).unwrap(), Turn::Busy));
        assert!(matches!(segments.load(&key(1, 1), Loader::Network, true, deadline), Err(VfsError::TimedOut)));
    }

    #[test]
    fn a_closed_cache_keeps_nothing() {
        let segments = Segments::new(1 << 20);
        segments.insert(key(1, 0), vec![7; 100]);
        segments.close();
        assert!(segments.get(&key(1, 0)).is_none());
        segments.insert(key(1, 0), vec![7; 100]);
        assert!(segments.get(&key(1, 0)).is_none());
    }
}
