//! Beginning with a checkpoint instead of with the first entry: what a member does who can open nothing from before.
//!
//! The log is verified from its first entry all the same; up to the checkpoint's position its batches are passed over.
//! Then the state comes in, in one transaction, and is checked to be a tree that the rules could have led to, since one
//! that is not (a cycle of directories, say, or of lost versions) could keep every later operation from ending.
//!
//! Where history begins is noted before anything is applied past that position: see [`Replica::set_origin`].

use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use rusqlite::{Connection, OptionalExtension, params};

use super::ReplicaError;
use super::db::Db;
use super::flush::{insert_extent, log_redirect, put_meta, put_name, write_node};
use super::overlay::OverNode;
use super::replica::{Replica, Shared, meta};
use super::types::Change;
use crate::format::{AccountId, DeviceId, KegId, NodeKind, Record, WrittenStamp};
use crate::keg::{Node, ROOT_INO, Redirect, Removed, Stamp};

/// Where a member's history begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The first epoch that the member may read.
    pub epoch: u32,
    /// Position of the entry that began it.
    pub seq: u64,
    /// The state at that position is here.
    pub complete: bool,
}

/// What is known of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointVerdict {
    /// Not compared yet.
    Open,
    /// It says what the log says.
    True,
    /// It does not.
    False,
    /// What it would have to be compared with is not to be had any more.
    Unknown,
}

/// A checkpoint in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRow {
    /// Its entry.
    pub seq: u64,
    /// The epoch whose beginning it is of.
    pub epoch: u32,
    /// Its author.
    pub account: AccountId,
    /// This device made it.
    pub own: bool,
    /// Its sealed state.
    pub sealed: Vec<u8>,
    /// What is known of it.
    pub verdict: CheckpointVerdict,
}

const BAD: fn(&'static str) -> ReplicaError = ReplicaError::BadCheckpoint;

impl Replica {
    /// Where this member's history begins; `None`: at the beginning.
    ///
    /// # Errors
    /// Those of reading.
    pub fn origin(&self) -> Result<Option<Origin>, ReplicaError> {
        let writer = self.shared().writer.lock();
        writer.run(|conn| {
            let wanted = meta::<i64>(conn, "origin_wanted")?;
            let epoch = meta::<i64>(conn, "origin_epoch")?;
            let complete = meta::<i64>(conn, "origin")?.is_some();
            let (Some(seq), Some(epoch)) = (wanted, epoch) else { return Ok(None) };
            let epoch = u32::try_from(epoch).unwrap_or(u32::MAX);
            Ok(Some(Origin { epoch, seq: seq.cast_unsigned(), complete }))
        })
    }

    /// Notes where this member's history begins, before keys are stored that open what comes after. `None`: nowhere, so
    /// that nothing is waited for.
    ///
    /// # Errors
    /// Those of writing.
    pub fn set_origin(&self, origin: Option<(u32, u64)>) -> Result<(), ReplicaError> {
        let writer = self.shared().writer.lock();
        if self.shared().state.read().closed {
            return Err(ReplicaError::Closed);
        }
        writer.durable(true)?;
        writer.run(|conn| {
            conn.execute_batch("BEGIN IMMEDIATE")?;
            match origin {
                Some((epoch, seq)) => {
                    put_meta(conn, "origin_epoch", i64::from(epoch))?;
                    put_meta(conn, "origin_wanted", seq.cast_signed())?;
                }
                None => {
                    conn.execute("DELETE FROM meta WHERE key IN ('origin_epoch', 'origin_wanted')", [])?;
                }
            }
            conn.execute_batch("COMMIT")
        })
    }

    /// Notes a checkpoint of the log, not compared yet. Once more changes nothing.
    ///
    /// # Errors
    /// Those of writing.
    pub fn note_checkpoint(&self, row: &CheckpointRow) -> Result<(), ReplicaError> {
        let writer = self.shared().writer.lock();
        writer.run(|conn| {
            let mut statement =
                conn.prepare_cached("INSERT OR IGNORE INTO checkpoint VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            let verdict = number(row.verdict);
            let row = params![row.seq.cast_signed(), row.epoch, row.account.as_bytes(), row.own, row.sealed, verdict];
            statement.execute(row).map(|_| ())
        })
    }

    /// Notes what became of comparing it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn judge_checkpoint(&self, seq: u64, verdict: CheckpointVerdict) -> Result<(), ReplicaError> {
        let writer = self.shared().writer.lock();
        writer.run(|conn| {
            let mut statement = conn.prepare_cached("UPDATE checkpoint SET verdict = ?2 WHERE seq = ?1")?;
            statement.execute(params![seq.cast_signed(), number(verdict)]).map(|_| ())
        })
    }

    /// All checkpoints of the log so far, oldest first.
    ///
    /// # Errors
    /// Those of reading.
    pub fn checkpoints(&self) -> Result<Vec<CheckpointRow>, ReplicaError> {
        let writer = self.shared().writer.lock();
        writer.run(|conn| {
            let mut statement =
                conn.prepare_cached("SELECT seq, epoch, account, own, sealed, verdict FROM checkpoint ORDER BY seq")?;
            let found = statement.query_map([], |row| {
                Ok(CheckpointRow {
                    seq: row.get::<_, i64>(0)?.cast_unsigned(),
                    epoch: row.get(1)?,
                    account: AccountId(row.get(2)?),
                    own: row.get(3)?,
                    sealed: row.get(4)?,
                    verdict: match row.get::<_, i64>(5)? {
                        1 => CheckpointVerdict::True,
                        2 => CheckpointVerdict::False,
                        3 => CheckpointVerdict::Unknown,
                        _ => CheckpointVerdict::Open,
                    },
                })
            })?;
            found.collect()
        })
    }

    /// Begins to take in the state at position `seq`, at or before the mark. Nothing shows before [`Import::finish`], and
    /// dropping it undoes everything.
    ///
    /// # Errors
    /// [`ReplicaError::BadCheckpoint`] where the replica has a state already; those of writing.
    pub fn import(&self, seq: u64) -> Result<Import<'_>, ReplicaError> {
        let shared = self.shared();
        let writer = shared.writer.lock();
        {
            let state = shared.state.read();
            if state.closed {
                return Err(ReplicaError::Closed);
            }
            if state.head.seq < seq || !state.queue.ops.is_empty() {
                return Err(BAD("it is of another position"));
            }
        }
        let rows: i64 = writer.run(|conn| conn.query_row("SELECT count(*) FROM node", [], |row| row.get(0)))?;
        if rows != 1 {
            return Err(BAD("there is a state already"));
        }
        writer.durable(true)?;
        writer.run(|conn| conn.execute_batch("BEGIN IMMEDIATE"))?;
        Ok(Import { replica: self, shared, writer, seq, devices: Vec::new(), last_extent: None, done: false })
    }
}

fn number(verdict: CheckpointVerdict) -> i64 {
    match verdict {
        CheckpointVerdict::Open => 0,
        CheckpointVerdict::True => 1,
        CheckpointVerdict::False => 2,
        CheckpointVerdict::Unknown => 3,
    }
}

/// A state on its way in.
pub struct Import<'a> {
    replica: &'a Replica,
    shared: &'a Shared,
    writer: MutexGuard<'a, Db>,
    seq: u64,
    devices: Vec<DeviceId>,
    /// File and end of the extent that came last.
    last_extent: Option<(KegId, u64)>,
    done: bool,
}

impl Import<'_> {
    fn stamp(&self, stamp: &WrittenStamp) -> Result<Stamp, ReplicaError> {
        let device = self.devices.get(stamp.device as usize).ok_or(BAD("a device that it does not list"))?;
        if stamp.seq > self.seq {
            Err(BAD("a change from later"))
        } else {
            Ok(Stamp { seq: stamp.seq, device: *device })
        }
    }

    fn live(&self, keg: &KegId) -> Result<(u64, NodeKind, u64), ReplicaError> {
        let found = self.writer.run(|conn| {
            let mut statement = conn.prepare_cached("SELECT ino, kind, size, nlink FROM node WHERE keg = ?1")?;
            let row = statement.query_row([keg.as_bytes()], |row| {
                let kind = super::rows::kind_of(row.get(1)?, 1)?;
                Ok((
                    row.get::<_, i64>(0)?.cast_unsigned(),
                    kind,
                    row.get::<_, i64>(2)?.cast_unsigned(),
                    row.get::<_, i64>(3)?,
                ))
            });
            row.optional()
        })?;
        match found {
            Some((ino, kind, size, nlink)) if nlink != 0 => Ok((ino, kind, size)),
            _ => Err(BAD("something refers to what is not there")),
        }
    }

    /// Takes in the next record.
    ///
    /// # Errors
    /// [`ReplicaError::BadCheckpoint`] where it does not fit those before; those of writing.
    pub fn record(&mut self, record: Record) -> Result<(), ReplicaError> {
        let seq = self.seq;
        let cache = &self.shared.cache;
        match record {
            Record::Devices { devices } => {
                if !self.devices.is_empty() {
                    return Err(BAD("two lists of devices"));
                }
                self.devices = devices;
                Ok(())
            }
            Record::FolderName { name } => self.writer.run(|conn| put_name(conn, &name, seq)),
            Record::Node {
                keg,
                kind,
                mode,
                uid,
                gid,
                rdev,
                nlink,
                size,
                atime_ns,
                mtime_ns,
                ctime_ns,
                btime_ns,
                target,
                content,
            } => {
                let content = self.stamp(&content)?;
                let root = keg == KegId::ROOT;
                if root && kind != NodeKind::Directory {
                    return Err(BAD("a root that is no directory"));
                }
                let ino = if root { ROOT_INO } else { self.shared.numbers.fetch_add(1, Ordering::Relaxed) };
                let node = Node {
                    keg,
                    ino,
                    kind,
                    mode,
                    uid,
                    gid,
                    rdev,
                    nlink,
                    size,
                    // Counted when all extents are here.
                    allocated: 0,
                    atime_ns,
                    mtime_ns,
                    ctime_ns,
                    btime_ns,
                    target,
                    content,
                    removed: None,
                };
                self.put(OverNode { stored: root, ..OverNode::new(node) })
            }
            Record::Name { parent, name, keg, wanted, placed } => {
                let placed = self.stamp(&placed)?;
                let ((parent, kind, _), (child, ..)) = (self.live(&parent)?, self.live(&keg)?);
                if kind != NodeKind::Directory || child == ROOT_INO {
                    return Err(BAD("a name where none can be"));
                }
                let cookie = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
                self.unique(|conn| {
                    let device = cache.devices.number(conn, &placed.device)?;
                    let mut statement =
                        conn.prepare_cached("INSERT INTO dentry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
                    statement
                        .execute(params![
                            parent.cast_signed(),
                            name,
                            child.cast_signed(),
                            cookie.cast_signed(),
                            wanted,
                            placed.seq.cast_signed(),
                            device,
                            seq.cast_signed()
                        ])
                        .map(|_| ())
                })
            }
            Record::Xattr { keg, name, value } => {
                let (ino, ..) = self.live(&keg)?;
                self.unique(|conn| {
                    conn.prepare_cached("UPDATE node SET xattrs = 1 WHERE ino = ?1")?.execute([ino.cast_signed()])?;
                    let mut statement = conn.prepare_cached("INSERT INTO xattr VALUES (?1, ?2, ?3, ?4)")?;
                    statement.execute(params![ino.cast_signed(), name, value, seq.cast_signed()]).map(|_| ())
                })
            }
            Record::Extents { keg, extents } => {
                let (ino, kind, size) = self.live(&keg)?;
                let from = match self.last_extent {
                    Some((last, end)) if last == keg => end,
                    _ => self.writer.run(|conn| {
                        let mut statement =
                            conn.prepare_cached("SELECT max(offset + len) FROM extent WHERE ino = ?1")?;
                        let end: Option<i64> = statement.query_row([ino.cast_signed()], |row| row.get(0))?;
                        Ok(end.unwrap_or(0).cast_unsigned())
                    })?,
                };
                let (Some(first), Some(last)) = (extents.first(), extents.last()) else { return Ok(()) };
                if kind != NodeKind::File || first.offset < from || last.end() > size {
                    return Err(BAD("content where none can be"));
                }
                self.last_extent = Some((keg, last.end()));
                self.unique(|conn| extents.iter().try_for_each(|extent| insert_extent(conn, ino, extent, seq)))
            }
            Record::Versions { keg, versions } => {
                let (ino, _, size) = self.live(&keg)?;
                for version in versions {
                    let stamp = self.stamp(&version)?;
                    self.unique(|conn| {
                        let device = cache.devices.number(conn, &stamp.device)?;
                        let mut statement = conn.prepare_cached(
                            "INSERT INTO content SELECT ino, ?2, ?3, CASE content_seq WHEN ?2 THEN ?4 ELSE 0 END
                             FROM node WHERE ino = ?1",
                        )?;
                        let at = stamp.seq.cast_signed();
                        statement.execute(params![ino.cast_signed(), at, device, size.cast_signed()]).map(|_| ())
                    })?;
                }
                Ok(())
            }
            Record::Redirect { device, keg, to, seq: unseen } => {
                if unseen > seq {
                    return Err(BAD("a change from later"));
                }
                self.unique(|conn| {
                    let mut statement = conn.prepare_cached("INSERT INTO redirect VALUES (?1, ?2, ?3, ?4)")?;
                    let row = params![device.as_bytes(), keg.as_bytes(), to.as_bytes(), unseen.cast_signed()];
                    statement.execute(row)?;
                    log_redirect(conn, &device, &keg, &Redirect { to, seq: unseen }, seq)
                })
            }
            Record::Removed { kegs } => {
                for keg in kegs {
                    if keg == KegId::ROOT {
                        return Err(BAD("no root"));
                    }
                    let ino = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
                    let stamp = Stamp { seq, device: DeviceId::ZERO };
                    let removed = Removed { stamp, parent: KegId::ROOT, name: Vec::new() };
                    let kind = NodeKind::File;
                    let node = Node { keg, ino, kind, mode: 0, nlink: 0, removed: Some(removed), ..Node::root() };
                    self.put(OverNode::new(node))?;
                }
                Ok(())
            }
        }
    }

    fn put(&self, row: OverNode) -> Result<(), ReplicaError> {
        self.unique(|conn| write_node(conn, &self.shared.cache, &row, self.seq))
    }

    /// Runs `body`; a row that is there already is the checkpoint's fault.
    fn unique(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), ReplicaError> {
        match body(&self.writer.conn) {
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == rusqlite::ErrorCode::ConstraintViolation => {
                Err(BAD("the same thing twice"))
            }
            other => other.map_err(|error| self.writer.err(&error)),
        }
    }

    /// Checks the whole, makes it durable and shows it.
    ///
    /// # Errors
    /// [`ReplicaError::BadCheckpoint`] where it is no tree; those of writing. Then nothing has changed.
    pub fn finish(mut self) -> Result<(), ReplicaError> {
        for (question, fault) in FAULTS {
            let faults: i64 = self.writer.run(|conn| conn.query_row(question, [], |row| row.get(0)))?;
            if faults != 0 {
                return Err(BAD(fault));
            }
        }
        let usage = self.writer.run(|conn| {
            let data = "SELECT sum(len) FROM extent WHERE extent.ino = node.ino";
            conn.execute(&format!("UPDATE node SET allocated = coalesce(({data}), 0) WHERE kind = 0"), [])?;
            let sum =
                "SELECT coalesce(sum(CASE kind WHEN 0 THEN size ELSE 0 END), 0), count(*) FROM node WHERE nlink > 0";
            let usage: (i64, i64) = conn.query_row(sum, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            put_meta(conn, "usage_bytes", usage.0)?;
            put_meta(conn, "usage_files", usage.1)?;
            put_meta(conn, "numbers", self.shared.numbers.load(Ordering::Relaxed).cast_signed())?;
            put_meta(conn, "origin", self.seq.cast_signed())?;
            conn.execute_batch("COMMIT")?;
            Ok(usage)
        })?;
        self.done = true;
        {
            let mut state = self.shared.state.write();
            self.shared.cache.clear();
            self.writer.run(|conn| self.shared.cache.load(conn))?;
            self.shared.pool.advance()?;
            state.usage = usage;
            state.folder_name = self.writer.run(|conn| meta(conn, "folder_name"))?;
        }
        self.shared.notify_change(&[Change::Standing]);
        tracing::debug!(db = %self.replica.params().db, seq = self.seq, "began with a checkpoint");
        Ok(())
    }
}

impl Drop for Import<'_> {
    fn drop(&mut self) {
        if !self.done && !self.writer.conn.is_autocommit() {
            // It has failed already; what undoing it says adds nothing. Devices that it added are known in memory only.
            let _ = self.writer.conn.execute_batch("ROLLBACK");
            let _ = self.writer.run(|conn| self.shared.cache.devices.load(conn));
        }
    }
}

/// Questions that must be answered with 0, and what is wrong otherwise.
const FAULTS: &[(&str, &str)] = &[
    (
        "SELECT count(*) FROM dentry d JOIN node p ON p.ino = d.parent JOIN node c ON c.ino = d.child
         WHERE p.kind <> 1 OR p.nlink = 0 OR c.nlink = 0 OR c.ino = 1",
        "a name where none can be",
    ),
    (
        "SELECT count(*) FROM node n WHERE n.nlink > 0 AND n.ino <> 1
         AND (SELECT count(*) FROM dentry d WHERE d.child = n.ino) <> CASE n.kind WHEN 1 THEN 1 ELSE n.nlink END",
        "a wrong number of names",
    ),
    (
        "SELECT count(*) FROM node n WHERE n.kind = 1 AND n.nlink > 0 AND n.nlink <> 2
         + (SELECT count(*) FROM dentry d JOIN node c ON c.ino = d.child WHERE d.parent = n.ino AND c.kind = 1)",
        "a wrong number of subdirectories",
    ),
    (
        "SELECT (SELECT count(*) FROM node WHERE kind = 1 AND nlink > 0) - (WITH RECURSIVE tree(ino) AS (
           SELECT 1 UNION SELECT d.child FROM tree t JOIN dentry d ON d.parent = t.ino
           JOIN node c ON c.ino = d.child AND c.kind = 1) SELECT count(*) FROM tree)",
        "directories that are not in the tree",
    ),
    (
        "SELECT count(*) FROM redirect a JOIN redirect b ON b.device = a.device AND b.keg = a.target WHERE b.seq <= a.seq",
        "versions that lost before they were made",
    ),
];
