//! The folder as it was: reads of the confirmed state at an earlier position of the log.
//!
//! # Construction
//! A row is valid in `[from_seq, to_seq)`; a current one from `seq` on. A thing with one row at a time (a node, a name, an
//! extent at one offset, an attribute) is found by the newest row that began at or before the moment: one step down an
//! index. The names of a directory are found through a relational interval tree, see [`super::schema`]. So what a read
//! costs depends on its answer and on the logarithm of the history, not on the history.
//!
//! Extents of a range are found offset by offset: what it costs grows with the number of different offsets at which
//! extents ever began there, at most one for each byte, usually one for each 4 KiB, however often they were rewritten.
//!
//! Moments before `meta.origin` (where this member's history begins) do not exist here, nor do those that were thinned out
//! ([`super::thin`]): reading at one fails, also when it goes while it is being read.
//!
//! Must not know of pending work: it has no place in the log yet.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lru::LruCache;
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::ReplicaError;
use super::base;
use super::replica::{Replica, Shared};
use super::rows::{self, NodeRow};
use super::thin;
use super::types::{DirEntry, Extents, NameOf, Xattr};
use crate::format::limits::CHUNK_MAX_BYTES;
use crate::format::{Extent, KegId};
use crate::keg::{Node, ROOT_INO};

/// Names of listings that are kept in memory, all together: about 100 bytes each. The newest stays whatever its length,
/// since it is being listed.
const LISTED_MAX: usize = 1 << 17;

/// One name of a past directory.
struct Line {
    cookie: u64,
    child: u64,
    name: Box<[u8]>,
}

/// Listings by directory and moment. They never change.
pub(super) struct Listings {
    lists: LruCache<(u64, u64), Arc<[Line]>>,
    lines: usize,
}

impl Default for Listings {
    fn default() -> Self {
        Self { lists: LruCache::unbounded(), lines: 0 }
    }
}

impl Listings {
    fn put(&mut self, key: (u64, u64), list: &Arc<[Line]>) {
        self.lines += list.len();
        if let Some(before) = self.lists.put(key, Arc::clone(list)) {
            self.lines -= before.len();
        }
        let one = NonZeroUsize::MIN.get();
        while self.lines > LISTED_MAX && self.lists.len() > one {
            let Some((_, oldest)) = self.lists.pop_lru() else { break };
            self.lines -= oldest.len();
        }
    }
}

/// Where the row valid in `[from, to)` is registered: of the numbers in it the one that the highest power of two divides.
pub(super) fn fork(from: u64, to: u64) -> u64 {
    let (before, last) = (from.max(1) - 1, to - 1);
    let level = 63 - (before ^ last).leading_zeros().min(63);
    last >> level << level
}

/// The forks at which rows that are valid at `seq` can be registered, in a log that ends at `head`.
pub(super) fn forks(seq: u64, head: u64) -> impl Iterator<Item = u64> {
    let levels = seq.trailing_zeros().min(62)..u64::BITS - head.max(seq).leading_zeros();
    levels.map(move |level| (seq >> level | 1) << level)
}

/// A moment of the confirmed state. Holds nothing: each call reads for itself.
pub struct Past<'a> {
    shared: &'a Shared,
    seq: u64,
}

impl Replica {
    /// The folder as it was after entry `seq`.
    ///
    /// # Errors
    /// [`ReplicaError::NoSuchMoment`], [`ReplicaError::ThinnedOut`].
    pub fn at(&self, seq: u64) -> Result<Past<'_>, ReplicaError> {
        let shared = self.shared();
        let to = shared.state.read().head.seq;
        let from = shared.cache.origin.load(Ordering::Acquire);
        if !(from..=to).contains(&seq) {
            return Err(ReplicaError::NoSuchMoment { seq, from, to });
        }
        let past = Past { shared, seq };
        past.read(|_| Ok(()))?;
        Ok(past)
    }

    /// The newest position at `time_ms` (milliseconds since 1970 UTC): the last entry whose time is not after it, where
    /// the times of the log are taken as never going back; of what was thinned out, the last moment before that is left.
    /// `None`: the folder, as far as it is known here, is younger.
    ///
    /// # Errors
    /// Those of reading.
    pub fn seq_at(&self, time_ms: i64) -> Result<Option<u64>, ReplicaError> {
        let _state = self.shared().state.read();
        let found = self.shared().pool.with(|db| {
            db.run(|conn| {
                let mut newest = conn.prepare_cached(
                    "SELECT seq FROM log WHERE clock_ms <= ?1 ORDER BY clock_ms DESC, seq DESC LIMIT 1",
                )?;
                let newest =
                    newest.query_row([time_ms], |row| row.get::<_, i64>(0).map(i64::cast_unsigned)).optional()?;
                newest.map(|seq| thin::moment_before(conn, seq)).transpose()
            })
        });
        let origin = self.shared().cache.origin.load(Ordering::Acquire);
        Ok(found?.filter(|seq| *seq >= origin.max(1)))
    }

    /// The time of entry `seq` as [`Self::seq_at`] takes it.
    ///
    /// # Errors
    /// Those of reading.
    pub fn time_of(&self, seq: u64) -> Result<Option<i64>, ReplicaError> {
        let _state = self.shared().state.read();
        self.shared().pool.with(|db| {
            db.run(|conn| {
                let mut time = conn.prepare_cached("SELECT clock_ms FROM log WHERE seq = ?1")?;
                time.query_row([seq.cast_signed()], |row| row.get::<_, i64>(0)).optional()
            })
        })
    }
}

impl Past<'_> {
    /// The position that is shown.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Reads in one snapshot, which is that of the mounted view.
    fn read<T>(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReplicaError> {
        self.read_with_head(|conn, _| body(conn))
    }

    /// The same, telling at which position the log ends in that snapshot.
    fn read_with_head<T>(&self, body: impl FnOnce(&Connection, u64) -> rusqlite::Result<T>) -> Result<T, ReplicaError> {
        let state = self.shared.state.read();
        if state.closed {
            return Err(ReplicaError::Closed);
        }
        let found = self.shared.pool.with(|db| {
            db.run(|conn| {
                if !thin::is_there(conn, self.seq, thin::thinned(conn)?)? {
                    return Ok(None);
                }
                body(conn, state.head.seq).map(Some)
            })
        })?;
        found.ok_or(ReplicaError::ThinnedOut { seq: self.seq })
    }

    /// The node with this inode number, which is the one it has today; removed ones included (`nlink` 0).
    ///
    /// # Errors
    /// As all methods here: those of reading.
    pub fn node(&self, ino: u64) -> Result<Option<Node>, ReplicaError> {
        Ok(self.read(|conn| self.node_row(conn, ino))?.map(|row| row.node))
    }

    /// The node of this keg.
    ///
    /// # Errors
    /// Those of reading.
    pub fn node_of(&self, keg: &KegId) -> Result<Option<Node>, ReplicaError> {
        let row = self.read(|conn| {
            let mut ino = conn.prepare_cached("SELECT ino FROM node WHERE keg = ?1")?;
            match ino.query_row([keg.as_bytes()], |row| row.get::<_, i64>(0)).optional()? {
                Some(ino) => self.node_row(conn, ino.cast_unsigned()),
                None => Ok(None),
            }
        })?;
        Ok(row.map(|row| row.node))
    }

    /// The node under `name` in the directory `parent`.
    ///
    /// # Errors
    /// Those of reading.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Node>, ReplicaError> {
        let row = self.read(|conn| {
            let key = params![parent.cast_signed(), name, self.seq.cast_signed()];
            let child = one(
                conn,
                "SELECT child FROM dentry WHERE parent = ?1 AND name = ?2 AND seq <= ?3",
                "SELECT child, to_seq > ?3 FROM dentry_past WHERE parent = ?1 AND name = ?2 AND from_seq <= ?3
                 ORDER BY from_seq DESC LIMIT 1",
                1,
                key,
                |row| row.get::<_, i64>(0),
            )?;
            child.map_or(Ok(None), |child| self.node_row(conn, child.cast_unsigned()))
        })?;
        Ok(row.map(|row| row.node))
    }

    /// Names in the directory whose cookies are above `after` (0: from the beginning), ascending, at most `limit`.
    ///
    /// # Errors
    /// Those of reading.
    pub fn readdir(&self, dir: u64, after: u64, limit: usize) -> Result<Vec<DirEntry>, ReplicaError> {
        let list = self.listing(dir)?;
        let from = list.partition_point(|line| line.cookie <= after);
        let lines = &list[from..list.len().min(from.saturating_add(limit))];
        self.read(|conn| {
            let mut entries = Vec::with_capacity(lines.len());
            for line in lines {
                if let Some(row) = self.node_row(conn, line.child)? {
                    let (name, cookie, node) = (line.name.to_vec(), line.cookie, row.node);
                    entries.push(DirEntry { name, cookie, ino: node.ino, node });
                }
            }
            Ok(entries)
        })
    }

    fn listing(&self, dir: u64) -> Result<Arc<[Line]>, ReplicaError> {
        let key = (dir, self.seq);
        if let Some(list) = self.shared.listings.lock().lists.get(&key) {
            return Ok(Arc::clone(list));
        }
        let mut lines = self.read_with_head(|conn, head| {
            let (parent, seq) = (dir.cast_signed(), self.seq.cast_signed());
            let mut lines = Vec::new();
            let current = "SELECT cookie, child, name FROM dentry WHERE parent = ?1 AND seq <= ?2";
            collect(conn, current, params![parent, seq], &mut lines)?;
            if self.seq == 0 {
                return Ok(lines);
            }
            for fork in forks(self.seq, head) {
                let past = if fork <= self.seq {
                    "SELECT cookie, child, name FROM dentry_past WHERE parent = ?1 AND fork = ?3 AND to_seq > ?2"
                } else {
                    "SELECT cookie, child, name FROM dentry_past WHERE parent = ?1 AND fork = ?3 AND from_seq <= ?2"
                };
                collect(conn, past, params![parent, seq, fork.cast_signed()], &mut lines)?;
            }
            Ok(lines)
        })?;
        lines.sort_unstable_by_key(|line| line.cookie);
        let list: Arc<[Line]> = lines.into();
        self.shared.listings.lock().put(key, &list);
        Ok(list)
    }

    /// Extents of the file that meet `[offset, offset + len)`, whole, ascending and disjoint; gaps are holes.
    ///
    /// # Errors
    /// Those of reading.
    pub fn extents(&self, ino: u64, offset: u64, len: u64) -> Result<Vec<Extent>, ReplicaError> {
        Ok(self.some_extents(ino, offset..offset.saturating_add(len), usize::MAX)?.list)
    }

    /// The first of them, about `limit`, which is at least 1. What it costs does not depend on how many more there are.
    ///
    /// # Errors
    /// Those of reading.
    pub fn some_extents(&self, ino: u64, span: Range<u64>, limit: usize) -> Result<Extents, ReplicaError> {
        let int = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
        let (from, to) = (int(span.start), int(span.end));
        let mut found = self.read(|conn| {
            let (ino, seq) = (ino.cast_signed(), self.seq.cast_signed());
            // Younger ones count: else a file that was written anew since would be read to its end.
            let rows = limit.saturating_add(1);
            let mut current = conn.prepare_cached(base::EXTENTS)?;
            let mut current = current.query(params![ino, from, to, i64::try_from(rows).unwrap_or(i64::MAX)])?;
            let (mut list, mut read, mut reached) = (Vec::new(), 0, from);
            while let Some(row) = current.next()? {
                let extent = rows::extent(row)?;
                (read, reached) = (read + 1, int(extent.end()));
                if row.get::<_, i64>(7)? <= seq {
                    list.push(extent);
                }
            }
            let to = if read == rows { to.min(reached) } else { to };
            let mut newest = conn.prepare_cached(concat!(
                "SELECT ",
                rows::extent_columns!(),
                ", to_seq > ?3 FROM extent_past WHERE ino = ?1 AND offset = ?2 AND from_seq <= ?3
                 ORDER BY from_seq DESC LIMIT 1"
            ))?;
            let mut newest = |offset: i64| {
                let found = newest.query_row(params![ino, offset, seq], |row| {
                    Ok(if row.get(7)? { Some(rows::extent(row)?) } else { None })
                });
                Ok::<_, rusqlite::Error>(found.optional()?.flatten())
            };
            // Back to the last one that was there: those before it end before it begins.
            let first = list.first().map(|first| int(first.offset)).filter(|first| *first <= from);
            let lowest = first.unwrap_or_else(|| from.saturating_sub(CHUNK_MAX_BYTES as i64).max(0));
            let mut before = conn.prepare_cached(
                "SELECT offset FROM extent_past WHERE ino = ?1 AND offset >= ?2 AND offset < ?3 ORDER BY offset DESC LIMIT 1",
            )?;
            let mut at = from;
            while let Some(offset) = before.query_row(params![ino, lowest, at], |row| row.get::<_, i64>(0)).optional()? {
                if let Some(extent) = newest(offset)? {
                    list.push(extent);
                    break;
                }
                at = offset;
            }
            // On from one offset to the next, whatever number of rows each has.
            let mut next = conn.prepare_cached(
                "SELECT offset FROM extent_past WHERE ino = ?1 AND offset >= ?2 AND offset < ?3 ORDER BY offset LIMIT 1",
            )?;
            let (mut at, mut upto, mut steps) = (from, to, 0);
            while let Some(offset) = next.query_row(params![ino, at, to], |row| row.get::<_, i64>(0)).optional()? {
                if steps >= limit && offset > from {
                    upto = offset;
                    break;
                }
                list.extend(newest(offset)?);
                (at, steps) = (offset + 1, steps + 1);
            }
            let upto = if upto == int(span.end) { span.end } else { upto.cast_unsigned() };
            Ok(Extents { list, upto })
        })?;
        found.list.retain(|extent| extent.end() > span.start && extent.offset < found.upto);
        found.list.sort_unstable_by_key(|extent| extent.offset);
        Ok(found)
    }

    /// One extended attribute.
    ///
    /// # Errors
    /// Those of reading.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>, ReplicaError> {
        self.read(|conn| self.xattr_row(conn, ino, name))
    }

    fn xattr_row(&self, conn: &Connection, ino: u64, name: &[u8]) -> rusqlite::Result<Option<Vec<u8>>> {
        one(
            conn,
            "SELECT value FROM xattr WHERE ino = ?1 AND name = ?2 AND seq <= ?3",
            "SELECT value, to_seq > ?3 FROM xattr_past WHERE ino = ?1 AND name = ?2 AND from_seq <= ?3
             ORDER BY from_seq DESC LIMIT 1",
            1,
            params![ino.cast_signed(), name, self.seq.cast_signed()],
            |row| row.get(0),
        )
    }

    /// All extended attributes, ascending by name.
    ///
    /// # Errors
    /// Those of reading.
    pub fn xattrs(&self, ino: u64) -> Result<Vec<Xattr>, ReplicaError> {
        self.read(|conn| {
            let mut names = conn.prepare_cached(
                "SELECT name FROM xattr WHERE ino = ?1 UNION SELECT name FROM xattr_past WHERE ino = ?1 ORDER BY name",
            )?;
            let names: Vec<Vec<u8>> =
                names.query_map([ino.cast_signed()], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let mut xattrs = Vec::new();
            for name in names {
                if let Some(value) = self.xattr_row(conn, ino, &name)? {
                    xattrs.push((name, value));
                }
            }
            Ok(xattrs)
        })
    }

    /// All names of a node.
    ///
    /// # Errors
    /// Those of reading.
    pub fn names(&self, ino: u64) -> Result<Vec<NameOf>, ReplicaError> {
        self.read(|conn| {
            let mut names = conn.prepare_cached(
                "SELECT p.keg, d.parent, d.name FROM
                   (SELECT parent, name, cookie FROM dentry WHERE child = ?1 AND seq <= ?2 UNION ALL
                    SELECT parent, name, cookie FROM dentry_past WHERE child = ?1 AND from_seq <= ?2 AND to_seq > ?2) d
                 JOIN node p ON p.ino = d.parent ORDER BY d.cookie",
            )?;
            let found = names.query_map(params![ino.cast_signed(), self.seq.cast_signed()], |row| {
                let parent_ino = row.get::<_, i64>(1)?.cast_unsigned();
                Ok(NameOf { parent_ino, parent: KegId(row.get(0)?), name: row.get(2)? })
            })?;
            found.collect()
        })
    }

    /// The node at the end of a path from the root, by names.
    ///
    /// # Errors
    /// Those of reading.
    pub fn resolve<'n>(&self, path: impl IntoIterator<Item = &'n [u8]>) -> Result<Option<Node>, ReplicaError> {
        let mut node = self.node(ROOT_INO)?;
        for name in path {
            let Some(directory) = node else { return Ok(None) };
            node = self.lookup(directory.ino, name)?;
        }
        Ok(node)
    }

    fn node_row(&self, conn: &Connection, ino: u64) -> rusqlite::Result<Option<NodeRow>> {
        one(
            conn,
            concat!("SELECT ", rows::node_columns!(), " FROM node n WHERE n.ino = ?1 AND n.seq <= ?2"),
            concat!(
                "SELECT ",
                rows::node_columns!(),
                ", n.to_seq > ?2 FROM node_past n WHERE n.ino = ?1 AND n.from_seq <= ?2 ORDER BY n.from_seq DESC LIMIT 1"
            ),
            rows::NODE_WIDTH,
            params![ino.cast_signed(), self.seq.cast_signed()],
            |row| rows::node(row, 0, &self.shared.cache.devices),
        )
    }
}

/// The current row if it was valid at the moment, else the newest superseded one that began before it, if column `valid`
/// says that it had not ended.
fn one<T>(
    conn: &Connection,
    current: &str,
    past: &str,
    valid: usize,
    key: impl Params + Copy,
    map: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    if let Some(found) = conn.prepare_cached(current)?.query_row(key, &map).optional()? {
        return Ok(Some(found));
    }
    let mut past = conn.prepare_cached(past)?;
    let found = past.query_row(key, |row| Ok(if row.get(valid)? { Some(map(row)?) } else { None }));
    Ok(found.optional()?.flatten())
}

fn collect(conn: &Connection, sql: &str, key: impl Params, lines: &mut Vec<Line>) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(key)?;
    while let Some(row) = rows.next()? {
        lines.push(Line {
            cookie: row.get::<_, i64>(0)?.cast_unsigned(),
            child: row.get::<_, i64>(1)?.cast_unsigned(),
            name: row.get_ref(2)?.as_blob()?.into(),
        });
    }
    Ok(())
}
