//! Changes of one file's content that are not in the database yet: which ranges became holes or extents.
//!
//! Every change is a range with the number of the operation that made it. What no range covers is as the database has
//! it. Ranges are disjoint, so a later change splits the earlier ones that it overlaps.

use std::collections::BTreeMap;

use crate::format::Extent;

/// The changed ranges of one file, by first byte.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// Boxed, since a node of the tree has room for eleven and most files have one.
    edits: BTreeMap<u64, Box<Edit>>,
}

#[derive(Clone, Debug)]
struct Edit {
    /// First byte after it.
    to: u64,
    /// `None`: a hole.
    extent: Option<Extent>,
    /// The operation that made it.
    tag: u64,
}

impl Content {
    /// Makes `[from, to)` a hole.
    ///
    /// Noted even where the database has nothing of the file: once earlier operations are confirmed, what they placed there is in the
    /// database and must stay hidden.
    pub(super) fn clear(&mut self, from: u64, to: u64, tag: u64) {
        self.set(from, to, None, tag);
    }

    /// Places an extent.
    pub(super) fn put(&mut self, extent: &Extent, tag: u64) {
        self.set(extent.offset, extent.end(), Some(extent.clone()), tag);
    }

    fn set(&mut self, from: u64, to: u64, extent: Option<Extent>, tag: u64) {
        if from >= to {
            return;
        }
        // Only the last range that begins before `from` can reach into it.
        let before = self.edits.range(..from).next_back().filter(|(_, edit)| edit.to > from).map(|(start, _)| *start);
        let inside = self.edits.range(from..to).map(|(start, _)| *start);
        let met: Vec<u64> = before.into_iter().chain(inside).collect();
        for start in met {
            if let Some(edit) = self.edits.remove(&start) {
                for (start, end) in [(start, from.min(edit.to)), (to.max(start), edit.to)] {
                    if start < end {
                        let extent = edit.extent.as_ref().and_then(|extent| extent.clip(start, end));
                        self.edits.insert(start, Box::new(Edit { to: end, extent, tag: edit.tag }));
                    }
                }
            }
        }
        self.edits.insert(from, Box::new(Edit { to, extent, tag }));
    }

    /// Forgets what operations up to `number` did: the database has it now.
    pub(super) fn confirm(&mut self, number: u64) {
        self.edits.retain(|_, edit| edit.tag > number);
    }

    /// Nothing here differs from the database.
    pub(super) fn is_void(&self) -> bool {
        self.edits.is_empty()
    }

    /// How far in `[from, to)` one comes with `limit` changes.
    pub(super) fn reach(&self, from: u64, to: u64, limit: usize) -> u64 {
        self.ranges(from, to).nth(limit.saturating_sub(1)).map_or(to, |(_, end)| end.min(to))
    }

    /// Lays the changes over `base`, the database's extents that meet `[from, to)`: all extents that meet it, ascending.
    pub(super) fn over(&self, base: Vec<Extent>, from: u64, to: u64) -> Vec<Extent> {
        let mut result = Vec::new();
        // Of the changes in the first and the last extent only the nearest ones outside of the range matter.
        let left = self.edits.range(..from).next_back().map_or(0, |(_, edit)| edit.to.min(from));
        let right = self.edits.range(to.max(from)..).next().map_or(u64::MAX, |(start, _)| *start);
        for extent in base.iter().filter_map(|extent| extent.clip(left, right)) {
            let mut at = extent.offset;
            for (start, end) in self.ranges(extent.offset, extent.end()) {
                result.extend(extent.clip(at, start));
                at = end;
            }
            result.extend(extent.clip(at, u64::MAX));
        }
        let first = self.edits.range(..from).next_back().filter(|(_, edit)| edit.to > from);
        let edits = first.into_iter().chain(self.edits.range(from..to.max(from)));
        result.extend(edits.filter_map(|(_, edit)| edit.extent.clone()));
        result.retain(|extent| extent.end() > from && extent.offset < to);
        result.sort_unstable_by_key(|extent| extent.offset);
        result
    }

    /// The changed ranges that meet `[from, to)`.
    fn ranges(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = self.edits.range(..from).next_back().filter(move |(_, edit)| edit.to > from);
        first.into_iter().chain(self.edits.range(from..to)).map(|(start, edit)| (*start, edit.to))
    }

    /// All changed ranges with what they hold now, ascending.
    pub(super) fn edits(&self) -> impl Iterator<Item = (u64, u64, Option<&Extent>)> {
        self.edits.iter().map(|(start, edit)| (*start, edit.to, edit.extent.as_ref()))
    }
}
