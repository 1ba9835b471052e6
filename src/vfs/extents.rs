//! What an open file remembers of its extents, so that a small read does not ask the database.

use std::ops::Range;

use zeroize::Zeroize;

use crate::format::Extent;

use super::VfsError;
use super::inode::Inode;

/// Bytes of a file whose extents are loaded at once: 256 chunks, about 30 KiB of memory, when written in a stream.
const WINDOW: u64 = 1 << 30;

/// The extents of one window of a file, as of the last look.
#[derive(Default)]
pub(super) struct ExtentMap {
    window: Option<Range<u64>>,
    extents: Vec<Extent>,
    size: Option<u64>,
    /// Counts the times that the map was forgotten: what was loaded before does not count.
    epoch: u64,
}

impl ExtentMap {
    /// The source's extents have changed.
    pub(super) fn forget(&mut self) {
        self.epoch += 1;
        self.window = None;
        self.size = None;
        self.wipe();
    }

    fn wipe(&mut self) {
        self.extents.iter_mut().for_each(|extent| extent.key.zeroize());
        self.extents.clear();
    }

    fn covering(&self, span: &Range<u64>) -> Option<Vec<Extent>> {
        self.window.as_ref().filter(|window| window.start <= span.start && span.end <= window.end)?;
        let first = self.extents.partition_point(|extent| extent.end() <= span.start);
        Some(self.extents[first..].iter().take_while(|extent| extent.offset < span.end).cloned().collect())
    }
}

impl Drop for ExtentMap {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Inode {
    /// The file's length in the source.
    pub(super) fn size(&self) -> Result<u64, VfsError> {
        let epoch = {
            let map = self.map.lock();
            if let Some(size) = map.size {
                return Ok(size);
            }
            map.epoch
        };
        let size = self.folder.node(self.local)?.ok_or(VfsError::NotFound)?.size;
        let mut map = self.map.lock();
        if map.epoch == epoch {
            map.size = Some(size);
        }
        Ok(size)
    }

    /// Whether the source has data at the beginning of `span`, and how far that is so. A hole is passed at once, however
    /// long; data in windows.
    pub(super) fn run(&self, span: Range<u64>) -> Result<(bool, u64), VfsError> {
        let window = span.start..span.end.min((span.start / WINDOW + 1).saturating_mul(WINDOW));
        let mut data = None;
        for extent in self.extents(window.clone())? {
            let end = *data.get_or_insert(span.start);
            if extent.offset > end {
                // The first one, which begins later; or the first one after a hole.
                return Ok((end > span.start, if end > span.start { end } else { extent.offset }));
            }
            data = Some(extent.end().min(span.end));
        }
        match data {
            Some(end) => Ok((true, end)),
            None if window.end == span.end => Ok((false, span.end)),
            None => {
                let next = self.folder.source.next_extent(self.local, window.end)?;
                Ok((false, next.map_or(span.end, |extent| extent.offset.clamp(window.end, span.end))))
            }
        }
    }

    /// The source's extents that meet `span`, ascending; gaps are holes.
    pub(super) fn extents(&self, span: Range<u64>) -> Result<Vec<Extent>, VfsError> {
        let epoch = {
            let map = self.map.lock();
            if let Some(extents) = map.covering(&span) {
                return Ok(extents);
            }
            map.epoch
        };
        let start = span.start - span.start % WINDOW;
        let end = span.end.div_ceil(WINDOW).saturating_mul(WINDOW);
        let mut extents = self.folder.source.extents(self.local, start, end - start)?;
        extents.retain(|extent| extent.end() > start && extent.offset < end);
        let mut map = self.map.lock();
        if map.epoch == epoch {
            map.wipe();
            map.extents = extents;
            map.window = Some(start..end);
            return Ok(map.covering(&span).unwrap_or_default());
        }
        // Changed meanwhile: this answer was right when it was asked for.
        extents.retain(|extent| extent.end() > span.start && extent.offset < span.end);
        Ok(extents)
    }
}
