//! Opened segments: plaintext of what was read lately, bounded in bytes, wiped when it leaves.

use std::sync::Arc;
use std::time::Instant;

use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use zeroize::Zeroize;

use crate::crypto::chunk::SEGMENT;
use crate::format::BlobId;

use super::VfsError;

/// Full-size buffers kept for the next segment: enough for two prefetched chunks.
const RECYCLED_MAX: usize = 128;

/// One segment of one chunk. Blobs never change, so what is cached under this is right for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SegmentKey {
    pub blob: BlobId,
    pub blob_offset: u32,
    pub index: u32,
}

/// Segments of one chunk that are opened together: 1 MiB of plaintext.
pub(super) const GROUP_SEGMENTS: u32 = 16;

impl SegmentKey {
    fn group(mut self) -> Self {
        self.index -= self.index % GROUP_SEGMENTS;
        self
    }
}

#[derive(Default)]
struct Recycled {
    buffers: Vec<Vec<u8>>,
    closed: bool,
}

/// Plaintext of a segment.
pub(super) struct Segment {
    bytes: Vec<u8>,
    recycled: Arc<Mutex<Recycled>>,
}

impl std::ops::Deref for Segment {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.bytes.len() == SEGMENT {
            let mut recycled = self.recycled.lock();
            if !recycled.closed && recycled.buffers.len() < RECYCLED_MAX {
                return recycled.buffers.push(std::mem::take(&mut self.bytes));
            }
        }
        self.bytes.zeroize();
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
    lru: LruCache<SegmentKey, Arc<Segment>>,
    bytes: usize,
    closed: bool,
}

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
    /// At most `max_bytes` of plaintext, each segment counted with what it costs to keep it.
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
    pub(super) fn get(&self, key: &SegmentKey) -> Option<Arc<Segment>> {
        self.cached.lock().lru.get(key).cloned()
    }

    /// Is cached; not counted as a use.
    pub(super) fn contains(&self, key: &SegmentKey) -> bool {
        self.cached.lock().lru.contains(key)
    }

    /// A buffer of `len` bytes to open a segment into.
    pub(super) fn buffer(&self, len: usize) -> Vec<u8> {
        if len == SEGMENT
            && let Some(buffer) = self.recycled.lock().buffers.pop()
        {
            return buffer;
        }
        vec![0; len]
    }

    /// Makes opened `bytes` a segment and keeps it.
    pub(super) fn insert(&self, key: SegmentKey, bytes: Vec<u8>) -> Arc<Segment> {
        let segment = Arc::new(Segment { bytes, recycled: self.recycled.clone() });
        // Collected to be dropped, and wiped, outside of the lock.
        let mut evicted = Vec::new();
        let mut cached = self.cached.lock();
        if cached.closed {
            return segment;
        }
        cached.bytes += cost(&segment);
        if let Some((_, old)) = cached.lru.push(key, segment.clone()) {
            cached.bytes -= cost(&old);
            evicted.push(old);
        }
        while cached.bytes > self.max_bytes {
            let Some((_, old)) = cached.lru.pop_lru() else { break };
            cached.bytes -= cost(&old);
            evicted.push(old);
        }
        drop(cached);
        segment
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

    /// Wipes everything and keeps nothing from now on.
    pub(super) fn close(&self) {
        {
            let mut recycled = self.recycled.lock();
            recycled.closed = true;
            recycled.buffers.iter_mut().for_each(Zeroize::zeroize);
            recycled.buffers.clear();
        }
        let mut cached = self.cached.lock();
        cached.closed = true;
        cached.bytes = 0;
        cached.lru.clear();
    }
}

/// Plaintext and the entry beside it.
fn cost(segment: &Segment) -> usize {
    segment.len() + 160
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
        let segments = Segments::new(10 * (SEGMENT + 160));
        for i in 0..100 {
            segments.insert(key(1, i), segments.buffer(SEGMENT));
            assert!(segments.bytes() <= 10 * (SEGMENT + 160));
        }
        assert!(segments.get(&key(1, 89)).is_none());
        assert!(segments.get(&key(1, 90)).is_some());
    }

    #[test]
    fn the_same_key_twice_is_counted_once() {
        let segments = Segments::new(1 << 20);
        for _ in 0..5 {
            segments.insert(key(1, 0), vec![7; 100]);
        }
        assert_eq!(segments.bytes(), 260);
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
