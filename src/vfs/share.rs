//! `copy_file_range` as a clone: the destination refers to the chunks that the source refers to, so that no byte moves,
//! however long the range. Only what is in memory and not sealed yet is copied.
//!
//! Chunks are immutable and extents begin and end anywhere in them, so neither alignment nor later changes of either file
//! matter. Must not look into chunks.

use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::format::Extent;
use crate::format::limits::{CHUNK_MAX_BYTES, FILE_MAX_BYTES};

use super::block::Block;
use super::core::Core;
use super::inode::{FileState, Inode};
use super::keg_dir::is_keg_handle;
use super::layer::{Layer, Shared};
use super::{Extents, Vfs, VfsError};

/// Bytes taken at once: what the 32 bits of the kernel's answer can express, in whole chunks.
const RANGE_MAX: u64 = u32::MAX as u64 - (CHUNK_MAX_BYTES as u64 - 1);
/// Pieces taken at once. With the destination's own (`PIECES_MAX` at most) they still fit one operation.
const PARTS_MAX: usize = 2048;
/// Bytes copied at once because they are not sealed yet. Bounds what a clone adds to the memory of written bytes.
const COPY_MAX: u64 = 8 << 20;
/// Bytes copied in one piece.
const COPY_STEP: u64 = 1 << 20;

/// A part of the source's range, at an offset of the source.
struct Part {
    at: u64,
    len: u64,
    what: What,
}

enum What {
    Hole,
    Stored(Arc<Block>, u32),
    Bytes(Zeroizing<Vec<u8>>),
    /// Whatever the folder has there.
    Source,
}

impl Vfs {
    /// Gives `len` bytes from `to_offset` of the file `to` what `from` has from `from_offset` on; returns how many bytes
    /// that was for. Fewer than asked for at the source's end, and where a part suffices for now.
    ///
    /// # Errors
    /// [`VfsError::CrossFolder`] between two folders, whose keys differ: the kernel then copies the bytes.
    pub fn copy_range(&self, from: u64, from_offset: u64, to: u64, to_offset: u64, len: u64) -> Result<u32, VfsError> {
        let core = &self.core;
        if is_keg_handle(from) {
            // Made for the moment, and in no chunk.
            return Err(VfsError::CrossFolder);
        }
        let (source, target) = (core.file(from)?, core.file(to)?);
        source.pin.folder.readable()?;
        if !source.mode.read {
            return Err(VfsError::BadHandle);
        }
        target.check_writable(core)?;
        if !Arc::ptr_eq(&source.pin.folder, &target.pin.folder) {
            return Err(VfsError::CrossFolder);
        }
        let len = len.min(RANGE_MAX);
        to_offset.checked_add(len).filter(|end| *end <= FILE_MAX_BYTES).ok_or(VfsError::TooLarge)?;
        core.wait_for_room()?;
        let parts = core.parts(&source.pin, from_offset, len)?;
        let Some(end) = parts.last().map(|part| part.at + part.len) else { return Ok(0) };
        let inode = &target.pin;
        let mut state = inode.state.lock();
        state.report()?;
        let layer = core.layer(inode, &mut state)?;
        for part in parts {
            core.put_part(layer, part.at - from_offset + to_offset, part);
        }
        core.after_change(inode, &mut state)?;
        u32::try_from(end - from_offset).map_err(|_| VfsError::TooLarge)
    }
}

impl Core {
    /// What the file holds from `offset` on, ascending and without gaps, up to `len` bytes or the file's end.
    fn parts(&self, inode: &Inode, offset: u64, len: u64) -> Result<Vec<Part>, VfsError> {
        let (size, parts) = {
            let state = inode.state.lock();
            match state.top().map(|layer| layer.size) {
                Some(size) => (size, parts_in_memory(&state, offset.min(size)..offset.saturating_add(len).min(size))),
                None => {
                    drop(state);
                    let size = inode.size()?;
                    let span = offset.min(size)..offset.saturating_add(len).min(size);
                    (size, vec![Part { at: span.start, len: span.end - span.start, what: What::Source }])
                }
            }
        };
        let mut all = Vec::with_capacity(parts.len());
        for part in parts {
            if !matches!(part.what, What::Source) {
                all.push(part);
            } else {
                let (mut at, end) = (part.at, part.at + part.len);
                while at < end && all.len() < PARTS_MAX {
                    // Each may have a hole before it, which is a part as well.
                    let most = (PARTS_MAX - all.len()).div_ceil(2);
                    let Extents { list, upto } = inode.some_extents(at..end, most)?;
                    stored_parts(&list, at..upto, &mut all);
                    at = upto;
                }
            }
            if all.len() >= PARTS_MAX {
                all.truncate(PARTS_MAX);
                break;
            }
        }
        debug_assert!(all.iter().all(|part| part.at + part.len <= size));
        Ok(all)
    }

    fn put_part(&self, layer: &mut Layer, at: u64, part: Part) {
        let end = at + part.len;
        match part.what {
            What::Bytes(bytes) => layer.write(at, &bytes, &self.budget),
            What::Stored(block, skip) => layer.place(at, part.len, block, skip, &self.budget),
            // Asked of the source by now, so that none is left.
            What::Hole | What::Source => {
                layer.resize(layer.size.max(end), &self.budget);
                layer.punch(at..end, &self.budget);
            }
        }
    }
}

/// The range as the layers have it.
fn parts_in_memory(state: &FileState, span: Range<u64>) -> Vec<Part> {
    let layers: Vec<_> = state.layers().collect();
    let mut parts = Vec::new();
    let mut copied = 0;
    let mut at = span.start;
    while at < span.end && parts.len() < PARTS_MAX && copied < COPY_MAX {
        let mut end = span.end;
        let mut what = What::Source;
        for layer in &layers {
            let (shared, len) = layer.share(at..end);
            end = at + len;
            match shared {
                Shared::Below => continue,
                Shared::Zero => what = What::Hole,
                Shared::Block(block, skip) => what = What::Stored(block, skip),
                Shared::Plain => {
                    end = end.min(at + COPY_STEP);
                    let mut bytes = Zeroizing::new(vec![0; (end - at) as usize]);
                    layer.see(at..end, &mut bytes);
                    what = match layer.share(at..end).0 {
                        // Sealed since the first look, perhaps before the bytes were copied.
                        Shared::Block(block, skip) => What::Stored(block, skip),
                        _ => {
                            copied += end - at;
                            What::Bytes(bytes)
                        }
                    };
                }
            }
            break;
        }
        parts.push(Part { at, len: end - at, what });
        at = end;
    }
    parts
}

/// Extents of the folder as parts, with the holes between them.
fn stored_parts(extents: &[Extent], span: Range<u64>, parts: &mut Vec<Part>) {
    let mut at = span.start;
    for extent in extents.iter().filter_map(|extent| extent.clip(span.start, span.end)) {
        if parts.len() >= PARTS_MAX {
            return;
        }
        if at < extent.offset {
            parts.push(Part { at, len: extent.offset - at, what: What::Hole });
        }
        let what = What::Stored(Block::stored(&extent), extent.chunk_skip);
        parts.push(Part { at: extent.offset, len: u64::from(extent.len), what });
        at = extent.end();
    }
    if at < span.end {
        parts.push(Part { at, len: span.end - at, what: What::Hole });
    }
}
