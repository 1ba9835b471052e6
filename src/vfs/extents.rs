//! What an open file remembers of its extents, so that a small read does not ask the database.
//!
//! What is remembered is bounded by the number of extents, not by the bytes that they hold: what a read costs after a change
//! does not depend on the pieces that the file is in. The map answers under its own lock, without copying, whether there
//! is data; extents are copied out where their keys are needed.

use std::collections::BTreeMap;
use std::ops::Range;

use zeroize::Zeroize;

use crate::format::Extent;

use super::inode::Inode;
use super::{Extents, VfsError};

/// Extents that are asked for at a place in the file that was not expected: one page of the database. Written in a
/// stream they are 128 MiB of the file.
const ROWS_FIRST: usize = 32;
/// Extents that are asked for at once of a file that is read in order, doubling up to this. In a file that is all
/// pieces of 4 KiB those are 2 MiB; written in a stream 2 GiB.
const ROWS_MAX: usize = 512;
/// Extents that are kept of one file, and the parts that they are known in: 1.5 MB. With more than this everything is
/// forgotten and begun anew, which costs readers who jump about in a file of very many pieces one question each.
const ROWS_KEPT: usize = 16_384;

/// Parts of a file whose extents are known, as of the last look. They do not overlap.
#[derive(Default)]
pub(super) struct ExtentMap {
    /// By first byte.
    windows: BTreeMap<u64, Window>,
    /// Their number, and that of the extents in all of them.
    rows: usize,
    size: Option<u64>,
    /// Counts the times that the map was forgotten: what was loaded before does not count.
    epoch: u64,
}

/// All extents of a part of a file; gaps are holes.
struct Window {
    start: u64,
    end: u64,
    extents: Vec<Extent>,
    /// How many were asked for.
    asked: usize,
}

/// What to ask the source for.
struct Ask {
    /// Nothing is known here.
    gap: Range<u64>,
    rows: usize,
    epoch: u64,
}

impl ExtentMap {
    /// The source's extents have changed.
    pub(super) fn forget(&mut self) {
        self.epoch += 1;
        self.size = None;
        self.rows = 0;
        self.windows.clear();
    }

    /// The part that `at` is in, or what to ask for.
    fn find(&self, at: u64) -> Result<&Window, Ask> {
        let before = self.windows.range(..=at).next_back().map(|(_, window)| window);
        let behind = before.map_or(0, |window| window.end);
        match before.filter(|window| at < window.end) {
            Some(window) => Ok(window),
            None => {
                let next = self.windows.range(at..).next().map_or(u64::MAX, |(start, _)| *start);
                let in_order = before.filter(|window| window.end == at);
                let rows = in_order.map_or(ROWS_FIRST, |window| (window.asked * 2).min(ROWS_MAX));
                Err(Ask { gap: behind..next, rows, epoch: self.epoch })
            }
        }
    }

    /// Remembers what was answered about `at`, as far as it is news.
    fn add(&mut self, at: u64, mut window: Window) {
        let Err(Ask { gap, .. }) = self.find(at) else { return };
        window.clip(&gap);
        if window.extents.is_empty()
            && let Some(mut next) = self.windows.remove(&window.end)
        {
            // A hole that is looked at from behind to the front is one part, however often.
            next.start = window.start;
            self.windows.insert(next.start, next);
            return;
        }
        let rows = 1 + window.extents.len();
        if self.rows + rows > ROWS_KEPT {
            self.windows.clear();
            self.rows = 0;
        }
        self.rows += rows;
        self.windows.insert(window.start, window);
    }
}

impl Window {
    /// Of the source's answer to a question about `at` and what follows.
    fn new(at: u64, found: Extents, asked: usize) -> Self {
        let Extents { list: extents, upto } = found;
        // The first one may begin before, the last one end behind what was asked for.
        let start = extents.first().map_or(at, |first| first.offset.min(at));
        let end = extents.last().map_or(upto, |last| last.end().max(upto));
        Self { start, end, extents, asked }
    }

    /// Leaves what lies in `gap`.
    fn clip(&mut self, gap: &Range<u64>) {
        (self.start, self.end) = (self.start.max(gap.start), self.end.min(gap.end));
        if self.extents.first().is_some_and(|first| first.offset < self.start)
            || self.extents.last().is_some_and(|last| last.end() > self.end)
        {
            let inside = self.extents.iter().filter_map(|extent| extent.clip(self.start, self.end)).collect();
            wipe(&mut std::mem::replace(&mut self.extents, inside));
        }
    }

    /// Index of the first extent that ends behind `at`.
    fn first(&self, at: u64) -> usize {
        self.extents.partition_point(|extent| extent.end() <= at)
    }

    /// Whether there is data at `at`, and how far that is so, as far as is known here.
    fn run(&self, at: u64) -> (bool, u64) {
        let behind = &self.extents[self.first(at)..];
        if behind.first().is_none_or(|first| first.offset > at) {
            return (false, behind.first().map_or(self.end, |first| first.offset));
        }
        let mut end = at;
        for extent in behind {
            if extent.offset > end {
                break;
            }
            end = extent.end();
        }
        (true, end)
    }

    /// Copies the extents that meet `span`, which begins in the window, to the end of `out`, at most `most`. Returns up to
    /// where those are all.
    fn copy(&self, span: &Range<u64>, most: usize, out: &mut Vec<Extent>) -> u64 {
        let met = self.extents[self.first(span.start)..].iter().take_while(|extent| extent.offset < span.end);
        let before = out.len();
        out.extend(met.take(most).cloned());
        #[cfg(test)]
        tests::COPIED.with(|copied| copied.set(copied.get() + out.len() - before));
        match out.last() {
            Some(last) if out.len() - before == most => last.end(),
            _ => self.end,
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        wipe(&mut self.extents);
    }
}

fn wipe(extents: &mut [Extent]) {
    extents.iter_mut().for_each(|extent| extent.key.zeroize());
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

    /// Whether the source has data at the beginning of `span`, and how far that is so, or at least is known to be. A hole
    /// is passed at once, however long.
    pub(super) fn run(&self, span: Range<u64>) -> Result<(bool, u64), VfsError> {
        let (data, end) = self.with_window(span.start, |window| window.run(span.start))?;
        Ok((data, end.min(span.end)))
    }

    /// The source's extents that meet `span`, ascending; gaps are holes.
    pub(super) fn extents(&self, span: Range<u64>) -> Result<Vec<Extent>, VfsError> {
        Ok(self.some_extents(span, usize::MAX)?.list)
    }

    /// The first of them, `most` at most.
    pub(super) fn some_extents(&self, span: Range<u64>, most: usize) -> Result<Extents, VfsError> {
        let mut list = Vec::new();
        let mut at = span.start;
        while at < span.end && list.len() < most {
            at = self.with_window(at, |window| window.copy(&(at..span.end), most - list.len(), &mut list))?;
        }
        Ok(Extents { list, upto: at.min(span.end) })
    }

    /// Has `look` look at the part that `at` is in.
    fn with_window<T>(&self, at: u64, look: impl FnOnce(&Window) -> T) -> Result<T, VfsError> {
        let ask = match self.map.lock().find(at) {
            Ok(window) => return Ok(look(window)),
            Err(ask) => ask,
        };
        let found = self.folder.source.extents(self.local, at..ask.gap.end, ask.rows)?;
        let window = Window::new(at, found, ask.rows);
        // Right when it was asked for, also where there was a change meanwhile.
        let answer = look(&window);
        let mut map = self.map.lock();
        if map.epoch == ask.epoch {
            map.add(at, window);
        }
        Ok(answer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use proptest::prelude::*;

    use crate::format::{BlobId, KegId, NodeKind, OpKind};

    use super::super::inode::{Pin, Table};
    use super::super::memory::MemoryFolder;
    use super::super::mounted::Mounted;
    use super::super::source::FolderSource;
    use super::*;

    thread_local! {
        /// Extents copied out of maps.
        pub(super) static COPIED: Cell<usize> = const { Cell::new(0) };
    }

    const FILE: KegId = KegId([7; 16]);

    fn pieces(of: impl IntoIterator<Item = (u64, u32)>) -> Vec<Extent> {
        let extent = |(offset, len)| {
            let (blob, key) = (BlobId([1; 32]), [2; 32]);
            Extent { offset, len, blob, blob_offset: 0, chunk_len: len, chunk_skip: 0, key }
        };
        of.into_iter().map(extent).collect()
    }

    /// A file that consists of these.
    fn file(extents: Vec<Extent>) -> (Arc<MemoryFolder>, Pin) {
        let folder = MemoryFolder::new("acme");
        let create = OpKind::Create {
            keg: FILE,
            parent: KegId::ROOT,
            name: b"f".to_vec(),
            kind: NodeKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            rdev: 0,
            target: Vec::new(),
        };
        folder.submit(create, 0).unwrap();
        write(&folder, extents);
        let local = folder.lookup(1, b"f").unwrap().unwrap().ino;
        let pin = Arc::<Table>::default().pin(&Mounted::new(folder.clone(), 1), local, FILE);
        (folder, pin)
    }

    fn write(folder: &MemoryFolder, extents: Vec<Extent>) {
        let size = extents.last().map_or(0, Extent::end);
        let kind = OpKind::Content { keg: FILE, truncate: Some(0), holes: Vec::new(), extents, size, mtime_ns: 0 };
        folder.submit(kind, 0).unwrap();
    }

    #[test]
    fn to_go_through_a_files_holes_copies_no_extents_and_asks_for_each_once() {
        let count = 4000;
        let (folder, file) = file(pieces((0..count).map(|n| (n * 8192, 4096))));
        let (mut at, end, mut turns) = (0, count * 8192 - 4096, 0);
        COPIED.set(0);
        while at < end {
            let (data, until) = file.run(at..end).unwrap();
            assert_eq!((data, until), (turns % 2 == 0, at + 4096));
            (at, turns) = (until, turns + 1);
        }
        let (asked, rows) = folder.extents_asked();
        assert!(asked < 20 && rows as u64 == count, "{rows} extents in {asked} answers");
        assert_eq!(COPIED.get(), 0);
    }

    #[test]
    fn a_read_after_a_change_costs_the_same_however_many_pieces_there_are() {
        for count in [100, 2000, 8000] {
            let extents = pieces((0..count).map(|n| (n * 8192, 4096)));
            let (folder, file) = file(extents.clone());
            for n in 0..20 {
                write(&folder, extents.clone());
                file.map.lock().forget();
                let at = n * 101 % count * 8192;
                assert_eq!(file.extents(at..at + 4096).unwrap().len(), 1);
                let (asked, rows) = folder.extents_asked();
                assert!(asked == 1 && rows <= ROWS_FIRST, "{rows} extents in {asked} answers");
            }
        }
    }

    #[test]
    fn a_stream_that_is_read_in_order_is_asked_for_a_few_times_and_the_end_of_a_hole_once() {
        let chunk = 4 << 20;
        // 8 GiB without a hole, and as much behind one of 1 TiB.
        let dense = |from: u64| (0..2048).map(move |n| (from + n * u64::from(chunk), chunk));
        let (folder, file) = file(pieces(dense(0).chain(dense(1 << 40))));
        let mut at = 0;
        while at < 8 << 30 {
            let extents = file.extents(at..at + (1 << 20)).unwrap();
            assert!(extents.len() == 1 && extents[0].offset == at - at % u64::from(chunk));
            at += 1 << 20;
        }
        let (asked, rows) = folder.extents_asked();
        assert!(asked <= 8 && rows < 2048 + ROWS_MAX, "{rows} extents in {asked} answers");
        let (hole, end) = file.run(at..1 << 62).unwrap();
        assert_eq!((hole, end), (false, 1 << 40));
        assert!(folder.extents_asked().0 <= 1);
    }

    #[test]
    fn what_is_kept_of_a_file_is_bounded() {
        let count = ROWS_KEPT as u64 + 2000;
        let (_folder, file) = file(pieces((0..count).map(|n| (n * 10, 7))));
        assert_eq!(file.extents(0..count * 10).unwrap().len() as u64, count);
        let map = file.map.lock();
        assert!(map.rows <= ROWS_KEPT);
        assert_eq!(map.rows, map.windows.values().map(|window| 1 + window.extents.len()).sum::<usize>());
    }

    #[test]
    fn what_is_kept_of_a_hole_does_not_grow_with_the_looks_at_it() {
        let end = 1 << 40;
        for (extents, known) in [(pieces([(end, 4096)]), 1), (Vec::new(), 0)] {
            let (_folder, file) = file(extents);
            for n in 1..=4 * ROWS_KEPT as u64 {
                let at = end - n * 4096;
                assert!(file.extents(at..at + 4096).unwrap().is_empty());
                assert_eq!(file.run(at..end).unwrap(), (false, end));
            }
            assert_eq!(file.extents(end..end + 4096).unwrap().len(), known);
            let map = file.map.lock();
            assert_eq!((map.windows.len(), map.rows), (1, 1 + known));
        }
    }

    fn layouts() -> impl Strategy<Value = Vec<Extent>> {
        // Gap and length.
        proptest::collection::vec((prop_oneof![Just(0), 1..40_u64], 1..60_u32), 0..400).prop_map(|parts| {
            let mut at = 0;
            pieces(parts.into_iter().map(|(gap, len)| {
                let offset = at + gap;
                at = offset + u64::from(len);
                (offset, len)
            }))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whatever_was_asked_before_the_answers_are_those_of_the_source(
            layouts in proptest::collection::vec(layouts(), 1..3),
            asks in proptest::collection::vec((0..16_000_u64, 1..3000_u64), 1..60),
        ) {
            let (folder, file) = file(Vec::new());
            for layout in layouts {
                write(&folder, layout.clone());
                file.map.lock().forget();
                for &(from, len) in &asks {
                    let span = from..from + len;
                    let met: Vec<_> = layout.iter().filter(|one| one.end() > from && one.offset < span.end).cloned().collect();
                    let found = file.extents(span.clone()).unwrap();
                    prop_assert_eq!(&found, &met);
                    let some = file.some_extents(span.clone(), 3).unwrap();
                    let upto = met.get(2).map_or(span.end, |third| third.end().min(span.end));
                    prop_assert_eq!((&some.list[..], some.upto), (&met[..met.len().min(3)], upto));
                    // Whether there is data, byte by byte, as far as the answer goes.
                    let (data, until) = file.run(span.clone()).unwrap();
                    prop_assert!(until > from && until <= span.end);
                    for at in from..until {
                        prop_assert_eq!(met.iter().any(|one| one.offset <= at && at < one.end()), data);
                    }
                }
            }
        }
    }
}
