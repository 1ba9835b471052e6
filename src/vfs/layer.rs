//! A layer: what was written to one file since its last flush, on top of what it held before.

use std::collections::BTreeMap;
use std::ops::Range as Span;
use std::sync::Arc;

use crate::format::limits::CHUNK_MAX_BYTES;
use crate::format::{Extent, KegId, Op, OpKind, Range};

use super::block::Block;
use super::buffer::{Budget, Buffer};

const CHUNK: u64 = CHUNK_MAX_BYTES as u64;

/// Changes of one file's content. Bytes that no piece covers are the older content's below `cut`, zeros above it.
pub(super) struct Layer {
    pieces: Pieces,
    /// Shortest length on the way.
    cut: Option<u64>,
    /// Length now.
    pub size: u64,
    /// Modification time.
    pub mtime_ns: i64,
    /// When the user acted last: becomes the change time.
    pub changed_ns: i64,
    /// Confirmed head when the first of these changes was made.
    pub base: u64,
}

/// Pieces by first byte; they do not overlap. Counts what they hold, since each stat(2) of a file being written asks for it.
#[derive(Default)]
struct Pieces {
    map: BTreeMap<u64, Piece>,
    /// Bytes in those that are not holes.
    data: u64,
}

impl Pieces {
    fn insert(&mut self, start: u64, piece: Piece) {
        self.data += piece.data();
        if let Some(before) = self.map.insert(start, piece) {
            self.data -= before.data();
        }
    }

    fn remove(&mut self, start: u64) -> Option<Piece> {
        let piece = self.map.remove(&start)?;
        self.data -= piece.data();
        Some(piece)
    }

    /// Changes a piece in its place.
    fn change<T>(&mut self, start: u64, change: impl FnOnce(&mut Piece) -> T) -> Option<T> {
        let piece = self.map.get_mut(&start)?;
        let before = piece.data();
        let changed = change(piece);
        self.data = self.data - before + piece.data();
        Some(changed)
    }

    /// Takes those from `start` on.
    fn split_off(&mut self, start: u64) -> Self {
        let map = self.map.split_off(&start);
        let data = map.values().map(Piece::data).sum();
        self.data -= data;
        Self { map, data }
    }
}

/// To look at. What changes one goes through the methods above.
impl std::ops::Deref for Pieces {
    type Target = BTreeMap<u64, Piece>;
    fn deref(&self) -> &BTreeMap<u64, Piece> {
        &self.map
    }
}

struct Piece {
    len: u64,
    what: What,
}

enum What {
    /// Zeros, as a hole.
    Hole,
    /// Still growing; never crosses a multiple of 4 MiB of the file.
    Open(Buffer),
    /// Frozen: `skip` bytes into the block.
    Frozen(Arc<Block>, u32),
}

impl Piece {
    /// Bytes of it that are no hole.
    fn data(&self) -> u64 {
        if matches!(self.what, What::Hole) { 0 } else { self.len }
    }

    /// The part of `[start, start + len)` that lies in `keep`; `start` is the piece's own.
    fn part(&self, start: u64, keep: Span<u64>, budget: &Arc<Budget>) -> Self {
        let skip = keep.start - start;
        let len = keep.end - keep.start;
        let what = match &self.what {
            What::Hole => What::Hole,
            What::Frozen(block, before) => What::Frozen(block.clone(), before + skip as u32),
            What::Open(buffer) => {
                let mut part = Buffer::new(budget);
                part.put(0, &buffer.bytes()[skip as usize..(skip + len) as usize]);
                What::Open(part)
            }
        };
        Self { len, what }
    }
}

/// What one layer knows of a range that is read.
pub(super) enum Seen {
    /// The bytes are in the output.
    Plain,
    /// The bytes are zeros.
    Zero,
    /// The bytes are in a chunk.
    Extent(Extent),
    /// The layer beneath knows.
    Below,
}

/// What one layer has of a range that another file is to share.
pub(super) enum Shared {
    /// A stored chunk, from so many bytes on.
    Block(Arc<Block>, u32),
    /// Bytes in memory only.
    Plain,
    /// Zeros.
    Zero,
    /// The layer beneath knows.
    Below,
}

impl Layer {
    /// No changes yet to a file of `size` bytes.
    pub(super) fn new(size: u64, now_ns: i64, base: u64) -> Self {
        Self { pieces: Pieces::default(), cut: None, size, mtime_ns: now_ns, changed_ns: now_ns, base }
    }

    /// Number of pieces: what the extents of the operation will be.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Keeps the first `most` pieces; what lies behind them becomes further layers of as many, to be applied one after
    /// the other. Each has the final length.
    pub(super) fn split(&mut self, most: usize) -> Vec<Self> {
        let mut rest = Vec::new();
        while let Some(first) = self.pieces.keys().nth(most).copied() {
            let mut pieces = self.pieces.split_off(first);
            std::mem::swap(&mut pieces, &mut self.pieces);
            let (size, mtime_ns, changed_ns, base) = (self.size, self.mtime_ns, self.changed_ns, self.base);
            // Only the first cuts: the others come after it.
            rest.push(Self { pieces, cut: self.cut.take(), size, mtime_ns, changed_ns, base });
        }
        // Taken from the front, so that the layer itself is the last now.
        if let Some(first) = rest.first_mut() {
            std::mem::swap(first, self);
            rest.rotate_left(1);
        }
        rest
    }

    /// Bytes in all pieces that are not holes.
    pub(super) fn data(&self) -> u64 {
        self.pieces.data
    }

    /// Writes `data` at `offset`, extending the file where it ends beyond the length.
    pub(super) fn write(&mut self, mut offset: u64, mut data: &[u8], budget: &Arc<Budget>) {
        self.size = self.size.max(offset + data.len() as u64);
        while !data.is_empty() {
            let room = (CHUNK - offset % CHUNK).min(data.len() as u64) as usize;
            self.write_within_chunk(offset, &data[..room], budget);
            offset += room as u64;
            data = &data[room..];
        }
    }

    fn write_within_chunk(&mut self, offset: u64, data: &[u8], budget: &Arc<Budget>) {
        let end = offset + data.len() as u64;
        if let Some((&start, piece)) = self.pieces.range(..=offset).next_back()
            && matches!(piece.what, What::Open(_))
            && offset <= start + piece.len
            && start / CHUNK == offset / CHUNK
        {
            let old_end = start + piece.len;
            if old_end < end {
                self.clear(old_end..end, budget);
            }
            self.pieces.change(start, |piece| {
                if let Piece { len, what: What::Open(buffer) } = piece {
                    buffer.put((offset - start) as usize, data);
                    *len = buffer.len() as u64;
                }
            });
            return;
        }
        self.clear(offset..end, budget);
        let mut buffer = Buffer::new(budget);
        buffer.put(0, data);
        self.pieces.insert(offset, Piece { len: data.len() as u64, what: What::Open(buffer) });
    }

    /// Sets the length: cuts, or extends by zeros.
    pub(super) fn resize(&mut self, size: u64, budget: &Arc<Budget>) {
        if size < self.size {
            self.clear(size..u64::MAX, budget);
            self.cut = Some(self.cut.map_or(size, |cut| cut.min(size)));
        }
        self.size = size;
    }

    /// Makes the part of a range that lies in the file zeros, as a hole.
    pub(super) fn punch(&mut self, span: Span<u64>, budget: &Arc<Budget>) {
        let span = span.start..span.end.min(self.size);
        if span.start >= span.end {
            return;
        }
        self.clear(span.clone(), budget);
        let below = span.end.min(self.cut.unwrap_or(u64::MAX));
        if span.start < below {
            self.pieces.insert(span.start, Piece { len: below - span.start, what: What::Hole });
        }
    }

    /// Places `len` bytes from `skip` of a block at `offset`, extending the file where they end beyond its length.
    pub(super) fn place(&mut self, offset: u64, len: u64, block: Arc<Block>, skip: u32, budget: &Arc<Budget>) {
        self.clear(offset..offset + len, budget);
        self.pieces.insert(offset, Piece { len, what: What::Frozen(block, skip) });
        self.size = self.size.max(offset + len);
    }

    /// Forgets all pieces in `span`, cutting those at its edges.
    fn clear(&mut self, span: Span<u64>, budget: &Arc<Budget>) {
        let before = self.pieces.range(..span.start).next_back().map(|(&start, piece)| (start, start + piece.len));
        if let Some((start, end)) = before
            && end > span.start
        {
            let tail = (end > span.end).then(|| self.pieces[&start].part(start, span.end..end, budget));
            self.pieces.change(start, |piece| {
                piece.len = span.start - start;
                if let What::Open(buffer) = &mut piece.what {
                    buffer.truncate(piece.len as usize);
                }
            });
            if let Some(tail) = tail {
                self.pieces.insert(span.end, tail);
            }
        }
        while let Some((&start, piece)) = self.pieces.range(span.clone()).next() {
            let end = start + piece.len;
            if end > span.end {
                let tail = piece.part(start, span.end..end, budget);
                self.pieces.insert(span.end, tail);
            }
            self.pieces.remove(start);
        }
    }

    /// What this layer knows about the beginning of `span`, and how many bytes of it that answer is for. Plain bytes are
    /// copied to the beginning of `out`, which is as long as `span`.
    pub(super) fn see(&self, span: Span<u64>, out: &mut [u8]) -> (Seen, u64) {
        let inside =
            self.pieces.range(..=span.start).next_back().filter(|(start, piece)| **start + piece.len > span.start);
        let Some((&start, piece)) = inside else {
            let (zero, len) = self.gap(&span);
            return (if zero { Seen::Zero } else { Seen::Below }, len);
        };
        let skip = span.start - start;
        let len = (piece.len - skip).min(span.end - span.start);
        let seen = match &piece.what {
            What::Hole => Seen::Zero,
            What::Open(buffer) => {
                out[..len as usize].copy_from_slice(&buffer.bytes()[skip as usize..(skip + len) as usize]);
                Seen::Plain
            }
            What::Frozen(block, before) => {
                let from = *before as usize + skip as usize;
                let copied = block.with_plain(|bytes| {
                    out[..len as usize].copy_from_slice(&bytes[from..from + len as usize]);
                });
                match (copied, block.extent(span.start, from as u32, len as u32)) {
                    (None, Some(extent)) => Seen::Extent(extent),
                    _ => Seen::Plain,
                }
            }
        };
        (seen, len)
    }

    /// As [`Layer::see`] without copying: what this layer holds at the beginning of `span`, to be shared with another
    /// file.
    pub(super) fn share(&self, span: Span<u64>) -> (Shared, u64) {
        let inside =
            self.pieces.range(..=span.start).next_back().filter(|(start, piece)| **start + piece.len > span.start);
        let Some((&start, piece)) = inside else {
            let (zero, len) = self.gap(&span);
            return (if zero { Shared::Zero } else { Shared::Below }, len);
        };
        let skip = span.start - start;
        let len = (piece.len - skip).min(span.end - span.start);
        let shared = match &piece.what {
            What::Hole => Shared::Zero,
            What::Frozen(block, before) if block.is_sealed() => Shared::Block(block.clone(), before + skip as u32),
            What::Frozen(..) | What::Open(_) => Shared::Plain,
        };
        (shared, len)
    }

    /// Of the beginning of `span`, which no piece covers: whether it is zeros or the layer beneath knows, and how far.
    fn gap(&self, span: &Span<u64>) -> (bool, u64) {
        let next = self.pieces.range(span.start..).next().map_or(span.end, |(&start, _)| start.min(span.end));
        match self.cut {
            Some(cut) if span.start >= cut => (true, next - span.start),
            Some(cut) => (false, next.min(cut) - span.start),
            None => (false, next - span.start),
        }
    }

    /// Freezes the 4 MiB of the file that end at `end` if they are all written and open; returns the block.
    pub(super) fn freeze_run(&mut self, end: u64) -> Option<Arc<Block>> {
        let start = end.checked_sub(CHUNK)?;
        if self.pieces.get(&start)?.len != CHUNK {
            return None;
        }
        self.pieces.change(start, freeze)?
    }

    /// Freezes everything; returns the blocks. Adjacent open pieces within one 4 MiB range become one block.
    pub(super) fn freeze_all(&mut self, budget: &Arc<Budget>) -> Vec<Arc<Block>> {
        self.merge(budget);
        // A piece that is frozen holds what it held.
        self.pieces.map.values_mut().filter_map(freeze).collect()
    }

    fn merge(&mut self, budget: &Arc<Budget>) {
        let mut starts = self.pieces.keys().copied().collect::<Vec<_>>().into_iter();
        let Some(mut first) = starts.next() else { return };
        for start in starts {
            let adjacent = self.pieces.get(&first).is_some_and(|piece| {
                matches!(piece.what, What::Open(_)) && first + piece.len == start && start / CHUNK == first / CHUNK
            });
            if adjacent && matches!(self.pieces[&start].what, What::Open(_)) {
                if let Some(Piece { what: What::Open(buffer), .. }) = self.pieces.remove(start) {
                    self.write_within_chunk(start, buffer.bytes(), budget);
                }
            } else {
                first = start;
            }
        }
    }

    /// The operation, once every block is sealed.
    pub(super) fn op(&self, keg: KegId) -> Option<Op> {
        let mut extents = Vec::with_capacity(self.pieces.len());
        let mut holes = Vec::new();
        for (&offset, piece) in &*self.pieces {
            match &piece.what {
                What::Hole => holes.push(Range { offset, len: piece.len }),
                What::Open(_) => return None,
                What::Frozen(block, skip) => extents.push(block.extent(offset, *skip, piece.len as u32)?),
            }
        }
        let kind =
            OpKind::Content { keg, truncate: self.cut, holes, extents, size: self.size, mtime_ns: self.mtime_ns };
        Some(Op { base: self.base, at_ns: self.changed_ns, kind })
    }

    /// Its operation goes to the journal.
    pub(super) fn name_blobs(&self) {
        for piece in self.pieces.values() {
            if let What::Frozen(block, _) = &piece.what {
                block.name();
            }
        }
    }

    /// The first byte at or behind `offset` of which this layer knows that it is data (`true`) or a hole, with the end
    /// of that knowledge; `None` for the layer beneath.
    pub(super) fn kind_at(&self, offset: u64) -> (Option<bool>, u64) {
        let inside = self.pieces.range(..=offset).next_back().filter(|(start, piece)| **start + piece.len > offset);
        if let Some((start, piece)) = inside {
            return (Some(!matches!(piece.what, What::Hole)), start + piece.len);
        }
        let next = self.pieces.range(offset..).next().map_or(self.size.max(offset), |(start, _)| *start);
        match self.cut {
            Some(cut) if offset >= cut => (Some(false), next),
            Some(cut) => (None, next.min(cut)),
            None => (None, next),
        }
    }
}

fn freeze(piece: &mut Piece) -> Option<Arc<Block>> {
    match std::mem::replace(&mut piece.what, What::Hole) {
        What::Open(buffer) => {
            let block = Block::new(buffer);
            piece.what = What::Frozen(block.clone(), 0);
            Some(block)
        }
        other => {
            piece.what = other;
            None
        }
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
