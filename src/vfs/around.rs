//! A reader who jumps about in a file, quickly and often, gets what lies around each jump opened as well, beside the
//! reads: a database, an index, an image of a disk. Opening a segment for every jump reads the disk in small pieces in
//! the order of the jumps; opening whole groups reads it in large ones, and most jumps then find their page in the
//! kernel's cache.
//!
//! What is opened in vain is bounded: one block for each jump that had to open a segment, each block once for each handle,
//! and only while jumps come that fast. Nothing is fetched for it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::sys::clock;

use super::core::Core;
use super::handles::FileHandle;
use super::prefetch::groups;
use super::segments::SegmentKey;

/// What is opened around a jump: a group of segments, the largest piece that is opened at once.
const BLOCK: u64 = super::prefetch::GROUP;
/// So many jumps within [`WINDOW`] are quick and often. Reading the directory of an archive or the header of a video takes
/// a dozen; a reader who is slower than this does not notice the difference.
const DENSE_JUMPS: u32 = 64;
const WINDOW: Duration = Duration::from_millis(500);

/// What one handle's jumps have asked for.
#[derive(Default)]
pub(super) struct Around {
    since: Option<Instant>,
    jumps: u32,
    /// One bit for each block of the file that was asked for. 512 bytes for the longest file that this is done for.
    asked: Vec<u64>,
}

impl Around {
    /// Takes note of a jump to `offset` that found nothing opened; the block to open around it.
    fn note(&mut self, now: Instant, offset: u64) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) > WINDOW) {
            (self.since, self.jumps) = (Some(now), self.dense_rest());
        }
        self.jumps = self.jumps.saturating_add(1);
        if self.jumps < DENSE_JUMPS {
            return None;
        }
        let block = offset / BLOCK;
        let (word, bit) = (usize::try_from(block / 64).ok()?, 1 << (block % 64));
        if self.asked.len() <= word {
            self.asked.resize(word + 1, 0);
        }
        let asked = self.asked[word] & bit != 0;
        self.asked[word] |= bit;
        (!asked).then_some(block)
    }

    /// Who was dense in the window that has ended begins the next one half way there, so as not to start anew.
    fn dense_rest(&self) -> u32 {
        if self.jumps >= DENSE_JUMPS { DENSE_JUMPS / 2 } else { 0 }
    }
}

impl Core {
    /// After a jump to `offset` for which a segment had to be opened.
    pub(super) fn look_around(self: &Arc<Self>, handle: &Arc<FileHandle>, offset: u64) {
        let Some(block) = handle.reader.around.lock().note(clock::monotonic(), offset) else { return };
        let (core, handle) = (self.clone(), handle.clone());
        // Too much is waiting already: the jumps open their own segments.
        let _ = self.openers.run(Box::new(move || core.open_around(&handle, block * BLOCK..(block + 1) * BLOCK)));
    }

    /// Opens what is here of a range of the file and has the kernel take it.
    fn open_around(&self, handle: &FileHandle, range: Range<u64>) {
        let inode = &handle.pin;
        // Before the content is looked at.
        let Some(ticket) = self.may_store(inode) else { return };
        let Ok(extents) = inode.extents(range.clone()) else { return };
        for extent in extents.iter().filter_map(|extent| extent.clip(range.start, range.end)) {
            for indexes in groups(&extent) {
                if handle.reader.closed.load(Ordering::Acquire) {
                    return;
                }
                let Some(opened) = self.open_group(inode, &extent, indexes) else { continue };
                let key = SegmentKey { blob: extent.blob, blob_offset: extent.blob_offset, index: opened.start };
                self.store_segments(inode, &extent, &key, opened.end, ticket);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn jumps(around: &mut Around, start: Instant, every: Duration, count: u32) -> usize {
        let offset = |n: u32| u64::from(n * 7919 % 1000) * BLOCK + 4096;
        (0..count).filter(|n| around.note(start + every * *n, offset(*n)).is_some()).count()
    }

    #[test]
    fn few_or_slow_jumps_open_nothing_around_them() {
        let now = clock::monotonic();
        assert_eq!(jumps(&mut Around::default(), now, Duration::from_micros(100), DENSE_JUMPS - 1), 0);
        assert_eq!(jumps(&mut Around::default(), now, Duration::from_millis(20), 1000), 0);
    }

    #[test]
    fn quick_jumps_open_each_block_once() {
        let mut around = Around::default();
        let opened = jumps(&mut around, clock::monotonic(), Duration::from_micros(100), 1000);
        assert_eq!(opened, 1000 - DENSE_JUMPS as usize + 1);
        assert_eq!(jumps(&mut around, clock::monotonic(), Duration::from_micros(100), 1000), DENSE_JUMPS as usize - 1);
        assert!(around.asked.len() * 64 <= 1024);
    }

    #[test]
    fn who_stays_quick_is_not_asked_to_prove_it_again_from_the_start() {
        let (mut around, start) = (Around::default(), clock::monotonic());
        let mut opened = 0;
        for n in 0..2000u32 {
            opened += usize::from(around.note(start + Duration::from_millis(2) * n, u64::from(n) * BLOCK).is_some());
        }
        assert!(opened > 1700, "{opened}");
    }
}
