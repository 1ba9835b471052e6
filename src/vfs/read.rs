//! Reading: what is written and not sealed yet, then opened segments, then ciphertext on disk, then the server.
//!
//! Whatever needs no network is answered on the calling thread: opening a segment takes less time than handing the
//! request to another thread and back.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::crypto::CryptoError;
use crate::crypto::chunk::{ChunkKey, Opener, SEGMENT};
use crate::format::Extent;

use super::core::Core;
use super::handles::FileHandle;
use super::inode::{FileState, Inode};
use super::keg_dir::is_keg_handle;
use super::layer::Seen;
use super::prefetch::Reader;
use super::segments::{GROUP_SEGMENTS, Loader, Segment, SegmentKey, Turn};
use super::{ReadDone, Vfs, VfsError};

/// Most bytes of one answer. The kernel asks for 1 MiB at most unless its limits are raised.
const ANSWER_MAX: u64 = 16 << 20;
/// Buffers kept for answers; more readers at once than this allocate.
const REPLIES_MAX: usize = 8;

/// Why a read did not answer.
pub(super) enum Unread {
    /// The network is needed, and was not allowed.
    Miss,
    /// It failed.
    Failed(VfsError),
}

impl From<VfsError> for Unread {
    fn from(error: VfsError) -> Self {
        Self::Failed(error)
    }
}

/// How far a read may go.
#[derive(Clone, Copy)]
pub(super) struct Reach<'a> {
    /// It may wait for the network.
    pub network: bool,
    pub deadline: Instant,
    /// The reader, for whom single segments of remote blobs are fetched while it jumps about.
    pub reader: Option<&'a Reader>,
}

/// Bytes of an answer.
enum Answer<'a> {
    Empty,
    /// So many bytes from a place in the segment on.
    Segment(Segment, usize, usize),
    Buffer(Reply<'a>, usize),
}

/// A buffer on loan.
struct Reply<'a> {
    core: &'a Core,
    bytes: Vec<u8>,
}

impl Drop for Reply<'_> {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut replies = self.core.replies.lock();
        if replies.len() < REPLIES_MAX && !self.core.is_stopped() {
            replies.push(bytes);
        } else {
            drop(replies);
            zeroize::Zeroize::zeroize(&mut bytes);
        }
    }
}

impl Vfs {
    /// Reads up to `size` bytes at `offset`: fewer only at the end of the file. `done` is called exactly once: on this
    /// thread where no network is needed, else on a worker.
    pub fn read(&self, fh: u64, offset: u64, size: u32, done: ReadDone) {
        if is_keg_handle(fh) {
            return self.keg_read(fh, offset, size, done);
        }
        let core = &self.core;
        let checked = core.file(fh).and_then(|handle| {
            handle.pin.folder.readable()?;
            if handle.mode.read { Ok(handle) } else { Err(VfsError::BadHandle) }
        });
        let handle = match checked {
            Ok(handle) => handle,
            Err(error) => return done(Err(error)),
        };
        core.read_ahead(&handle, offset, u64::from(size));
        let reach = Reach { network: false, deadline: core.deadline(), reader: Some(&handle.reader) };
        let few = (size as usize) < SEGMENT && handle.reader.is_jumping();
        let offer = if few { core.offer(&handle.pin, offset) } else { None };
        match core.answer(&handle.pin, offset, u64::from(size), reach) {
            Ok(answer) => done(Ok(answer.bytes())),
            Err(Unread::Failed(error)) => return done(Err(error)),
            Err(Unread::Miss) => return core.read_on_worker(handle, offset, size, done),
        }
        // The kernel has its answer: its pages are free for the rest.
        if let Some(offer) = offer {
            core.store(&handle.pin, offer);
            core.look_around(&handle, offset);
        }
    }

    /// First offset at or behind `offset` that holds data; [`VfsError::PastEnd`] if there is none.
    pub fn seek_data(&self, fh: u64, offset: u64) -> Result<u64, VfsError> {
        if is_keg_handle(fh) {
            return self.keg_seek(fh, offset, true);
        }
        let handle = self.core.file(fh)?;
        handle.pin.folder.readable()?;
        self.core.seek(&handle.pin, offset, true)?.ok_or(VfsError::PastEnd)
    }

    /// First offset at or behind `offset` in a hole; the end of the file counts as one.
    pub fn seek_hole(&self, fh: u64, offset: u64) -> Result<u64, VfsError> {
        if is_keg_handle(fh) {
            return self.keg_seek(fh, offset, false);
        }
        let handle = self.core.file(fh)?;
        handle.pin.folder.readable()?;
        self.core.seek(&handle.pin, offset, false)?.ok_or(VfsError::PastEnd)
    }
}

impl Answer<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::Segment(segment, from, len) => segment.run(*from, *len).unwrap_or_default(),
            Self::Buffer(reply, len) => &reply.bytes[..*len],
        }
    }
}

/// A part of an answer that is not in memory.
enum Part {
    Extent(Extent),
    Source(Range<u64>),
}

impl Core {
    fn read_on_worker(self: &Arc<Self>, handle: Arc<FileHandle>, offset: u64, size: u32, done: ReadDone) {
        let core = self.clone();
        let deadline = self.deadline();
        let task = Box::new(move || {
            let reach = Reach { network: true, deadline, reader: Some(&handle.reader) };
            let answer = core.answer(&handle.pin, offset, u64::from(size), reach);
            // The membership may have ended while the network was waited for.
            if let Err(gone) = handle.pin.folder.readable() {
                return done(Err(gone));
            }
            match answer {
                Ok(answer) => done(Ok(answer.bytes())),
                Err(Unread::Failed(error)) => done(Err(error)),
                Err(Unread::Miss) => done(Err(VfsError::Offline)),
            }
        });
        if let Err(task) = self.fetchers.run(task) {
            // Everybody waits for the network: so does this thread, until the deadline.
            task();
        }
    }

    fn answer(&self, inode: &Inode, offset: u64, len: u64, reach: Reach<'_>) -> Result<Answer<'_>, Unread> {
        let len = len.min(ANSWER_MAX);
        let mut parts = Vec::new();
        let (span, reply) = {
            let state = inode.state.lock();
            match state.top().map(|layer| layer.size) {
                Some(size) => {
                    let span = offset.min(size)..offset.saturating_add(len).min(size);
                    let mut reply = self.reply((span.end - span.start) as usize);
                    look_in_layers(&state, &span, &mut reply.bytes, &mut parts);
                    (span, Some(reply))
                }
                None => {
                    drop(state);
                    let size = inode.size()?;
                    (offset.min(size)..offset.saturating_add(len).min(size), None)
                }
            }
        };
        if span.is_empty() {
            return Ok(Answer::Empty);
        }
        let total = (span.end - span.start) as usize;
        let mut reply = match reply {
            Some(reply) => reply,
            None => {
                let extents = inode.extents(span.clone())?;
                if let [extent] = &extents[..]
                    && let Some(answer) = self.one_run(inode, extent, &span, reach)?
                {
                    return Ok(answer);
                }
                let mut reply = self.reply(total);
                self.copy_extents(inode, &extents, &span, &mut reply.bytes[..total], reach)?;
                return Ok(Answer::Buffer(reply, total));
            }
        };
        for part in parts {
            match part {
                Part::Extent(extent) => {
                    let at = (extent.offset - span.start) as usize;
                    self.copy_extent(inode, &extent, &mut reply.bytes[at..at + extent.len as usize], reach)?;
                }
                Part::Source(gap) => {
                    let at = (gap.start - span.start) as usize;
                    let out = &mut reply.bytes[at..at + (gap.end - gap.start) as usize];
                    self.copy_extents(inode, &inode.extents(gap.clone())?, &gap, out, reach)?;
                }
            }
        }
        Ok(Answer::Buffer(reply, total))
    }

    /// The answer without copying, where `span` lies in segments that were opened at once.
    fn one_run(
        &self,
        inode: &Inode,
        extent: &Extent,
        span: &Range<u64>,
        reach: Reach<'_>,
    ) -> Result<Option<Answer<'_>>, Unread> {
        if span.start < extent.offset || extent.end() < span.end {
            return Ok(None);
        }
        let start = extent.chunk_skip as usize + (span.start - extent.offset) as usize;
        let len = (span.end - span.start) as usize;
        let (index, last) = (start / SEGMENT, (start + len - 1) / SEGMENT);
        if index as u32 / GROUP_SEGMENTS != last as u32 / GROUP_SEGMENTS {
            return Ok(None);
        }
        let segment = self.segment(inode, extent, index as u32, last as u32, reach)?;
        let from = start - index * SEGMENT;
        Ok(segment.run(from, len).is_some().then_some(Answer::Segment(segment, from, len)))
    }

    fn reply(&self, len: usize) -> Reply<'_> {
        let mut bytes = self.replies.lock().pop().unwrap_or_default();
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        Reply { core: self, bytes }
    }

    /// Fills `out` with the bytes of `span` from extents, and zeros between them.
    fn copy_extents(
        &self,
        inode: &Inode,
        extents: &[Extent],
        span: &Range<u64>,
        out: &mut [u8],
        reach: Reach<'_>,
    ) -> Result<(), Unread> {
        let mut at = span.start;
        for extent in extents.iter().filter_map(|extent| extent.clip(span.start, span.end)) {
            out[(at - span.start) as usize..(extent.offset - span.start) as usize].fill(0);
            let place = (extent.offset - span.start) as usize..(extent.end() - span.start) as usize;
            self.copy_extent(inode, &extent, &mut out[place], reach)?;
            at = extent.end();
        }
        out[(at - span.start) as usize..].fill(0);
        Ok(())
    }

    fn copy_extent(&self, inode: &Inode, extent: &Extent, out: &mut [u8], reach: Reach<'_>) -> Result<(), Unread> {
        let (start, end) = (extent.chunk_skip as usize, (extent.chunk_skip + extent.len) as usize);
        let last = (end - 1) / SEGMENT;
        for index in start / SEGMENT..=last {
            let segment = self.segment(inode, extent, index as u32, last as u32, reach)?;
            let base = index * SEGMENT;
            let from = start.max(base);
            let to = end.min(base + SEGMENT);
            out[from - start..to - start].copy_from_slice(&segment[from - base..to - base]);
        }
        Ok(())
    }

    /// Segment `index` of the extent's chunk; those after it up to `last` will be needed next.
    fn segment(
        &self,
        inode: &Inode,
        extent: &Extent,
        index: u32,
        last: u32,
        reach: Reach<'_>,
    ) -> Result<Segment, Unread> {
        let key = SegmentKey { blob: extent.blob, blob_offset: extent.blob_offset, index };
        let who = if reach.network { Loader::Network } else { Loader::Disk };
        loop {
            if let Some(segment) = self.segments.get(&key) {
                return Ok(segment);
            }
            match self.segments.load(&key, who, reach.network, reach.deadline)? {
                Turn::Done => {}
                Turn::Busy => return Err(Unread::Miss),
                Turn::Mine(_loading) => {
                    if let Some(segment) = self.segments.get(&key) {
                        return Ok(segment);
                    }
                    let end_of_group = index - index % GROUP_SEGMENTS + GROUP_SEGMENTS - 1;
                    return self.load(inode, extent, index..last.min(end_of_group) + 1, reach);
                }
            }
        }
    }

    /// Opens consecutive segments and returns the first.
    pub(super) fn load(
        &self,
        inode: &Inode,
        extent: &Extent,
        indexes: Range<u32>,
        reach: Reach<'_>,
    ) -> Result<Segment, Unread> {
        let opener = opener(extent)?;
        let (first, last) = (indexes.start as usize, indexes.end as usize - 1);
        let sealed = opener.sealed_range(first).start..opener.sealed_range(last).end;
        let start = u64::from(extent.blob_offset) + sealed.start as u64;
        let source = &inode.folder.source;
        let mut reply = self.reply(sealed.len());
        let scratch = &mut reply.bytes[..sealed.len()];
        if source.read_local(&extent.blob, start, scratch)? {
            match self.open(&opener, extent, indexes.clone(), scratch) {
                // A disk forgets bits; the server still has the blob.
                Err(_) if source.drop_damaged(&extent.blob)? => {}
                opened => return opened,
            }
        }
        if !reach.network {
            return Err(Unread::Miss);
        }
        let range = start..start + sealed.len() as u64;
        if reach.reader.is_some_and(|reader| reader.wants_range(extent)) {
            let bytes = source.fetch(&extent.blob, Some(range), reach.deadline)?;
            return self.open(&opener, extent, indexes, &bytes);
        }
        let bytes = source.fetch(&extent.blob, None, reach.deadline)?;
        let bytes = bytes.get(range.start as usize..range.end as usize).ok_or_else(|| damaged(extent))?;
        self.open(&opener, extent, indexes, bytes)
    }

    /// Opens consecutive segments of one group from their ciphertext, keeps them, and returns the first.
    pub(super) fn open(
        &self,
        opener: &Opener,
        extent: &Extent,
        indexes: Range<u32>,
        sealed: &[u8],
    ) -> Result<Segment, Unread> {
        let (first, last) = (indexes.start as usize, indexes.end as usize - 1);
        let base = opener.sealed_range(first).start;
        let mut bytes = self.segments.buffer(opener.plain_range(last).end - opener.plain_range(first).start);
        let opened = (first..=last).zip(bytes.chunks_mut(SEGMENT)).try_for_each(|(index, out)| {
            let range = opener.sealed_range(index);
            let part = sealed.get(range.start - base..range.end - base).ok_or(CryptoError::AuthenticationFailed)?;
            opener.open_segment(index, part, out)
        });
        if opened.is_err() {
            zeroize::Zeroize::zeroize(&mut bytes);
            return Err(damaged(extent).into());
        }
        let key = SegmentKey { blob: extent.blob, blob_offset: extent.blob_offset, index: indexes.start };
        Ok(self.segments.insert(key, bytes))
    }

    /// The first offset at or behind `offset` that is data (or hole).
    fn seek(&self, inode: &Inode, offset: u64, data: bool) -> Result<Option<u64>, VfsError> {
        let state = inode.state.lock();
        let size = state.top().map_or_else(|| inode.size(), |layer| Ok(layer.size))?;
        let mut at = offset;
        while at < size {
            let mut end = size;
            let mut is_data = None;
            for layer in state.layers() {
                let (kind, until) = layer.kind_at(at);
                end = end.min(until.max(at + 1));
                is_data = kind;
                if kind.is_some() {
                    break;
                }
            }
            if is_data.is_none() {
                let (stored, until) = inode.run(at..end)?;
                (is_data, end) = (Some(stored), until);
            }
            if is_data.unwrap_or(false) == data {
                return Ok(Some(at));
            }
            at = end;
        }
        Ok((!data && offset < size).then_some(size))
    }
}

/// For the extent's chunk.
pub(super) fn opener(extent: &Extent) -> Result<Opener, VfsError> {
    Opener::new(&ChunkKey::from_bytes(extent.key), extent.chunk_len as usize).map_err(|_| damaged(extent))
}

fn damaged(extent: &Extent) -> VfsError {
    VfsError::corrupt(format_args!("blob {} at {}", extent.blob, extent.blob_offset))
}

/// Copies what is in memory to `out` and notes the rest in `parts`.
fn look_in_layers(state: &FileState, span: &Range<u64>, out: &mut [u8], parts: &mut Vec<Part>) {
    let layers: Vec<_> = state.layers().collect();
    let mut at = span.start;
    while at < span.end {
        let mut end = span.end;
        let mut found = Seen::Below;
        for layer in &layers {
            let (seen, len) = layer.see(at..end, &mut out[(at - span.start) as usize..]);
            end = at + len;
            found = seen;
            if !matches!(found, Seen::Below) {
                break;
            }
        }
        match found {
            Seen::Plain => {}
            Seen::Zero => out[(at - span.start) as usize..(end - span.start) as usize].fill(0),
            Seen::Extent(extent) => parts.push(Part::Extent(extent)),
            Seen::Below => parts.push(Part::Source(at..end)),
        }
        at = end;
    }
}
