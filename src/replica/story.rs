//! What happened to a keg, which kegs were removed, which names a conflict gave: the history as a list.
//!
//! Reads confirmed state only. Must not know how people are told of it.

use rusqlite::{Connection, params};

use super::ReplicaError;
use super::replica::{Replica, Shared};
use super::rows;
use super::thin;
use crate::format::{DeviceId, KegId};
use crate::keg::Node;

/// How a keg was from one position of the log on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since which entry.
    pub seq: u64,
    /// The node after it.
    pub node: Node,
}

/// A name and the time in which it named a keg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSpan {
    /// The directory.
    pub parent_ino: u64,
    /// The name in it.
    pub name: Vec<u8>,
    /// What it named.
    pub child_ino: u64,
    /// Since which entry.
    pub from: u64,
    /// Until which entry, which took it away; `None`: today.
    pub to: Option<u64>,
}

/// A keg without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedNode {
    /// The node, with its last name.
    pub node: Node,
    /// Its last name names something else since the very entry that took it away: it was replaced rather than removed.
    pub replaced: bool,
}

/// A name that a conflict gave in the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictName {
    /// The directory.
    pub parent_ino: u64,
    /// The directory's keg.
    pub parent: KegId,
    /// The name.
    pub name: Vec<u8>,
    /// The name that was asked for.
    pub wanted: Vec<u8>,
    /// Who asked.
    pub device: DeviceId,
    /// In which entry.
    pub seq: u64,
    /// What it names.
    pub node: Node,
    /// It keeps the content that its author wrote to the file of the wanted name.
    pub sibling: bool,
}

impl Replica {
    /// What is left of the history of a node, oldest first: what no moment shows is left out.
    ///
    /// # Errors
    /// As all functions here: those of reading.
    pub fn moments(&self, ino: u64) -> Result<Vec<Moment>, ReplicaError> {
        read(self.shared(), |shared, conn| {
            let mut statement = conn.prepare_cached(concat!(
                "SELECT ",
                rows::node_columns!(),
                ", n.from_seq AS since FROM node_past n WHERE n.ino = ?1 AND (n.to_seq > ?2 OR EXISTS
                   (SELECT 1 FROM kept k WHERE k.seq >= n.from_seq AND k.seq < n.to_seq)) UNION ALL SELECT ",
                rows::node_columns!(),
                ", n.seq AS since FROM node n WHERE n.ino = ?1 ORDER BY since"
            ))?;
            let thinned = thin::thinned(conn)?.cast_signed();
            let moments = statement.query_map([ino.cast_signed(), thinned], |row| {
                let node = rows::node(row, 0, &shared.cache.devices)?.node;
                Ok(Moment { seq: row.get::<_, i64>(rows::NODE_WIDTH)?.cast_unsigned(), node })
            })?;
            moments.collect()
        })
    }

    /// All names that a node has or had, by the entry that gave them.
    ///
    /// # Errors
    /// Those of reading.
    pub fn names_of_child(&self, ino: u64) -> Result<Vec<NameSpan>, ReplicaError> {
        self.spans("d.child = ?1", params![ino.cast_signed()])
    }

    /// All that was ever under a name, by the entry that put it there.
    ///
    /// # Errors
    /// Those of reading.
    pub fn names_in(&self, parent: u64, name: &[u8]) -> Result<Vec<NameSpan>, ReplicaError> {
        self.spans("d.parent = ?1 AND d.name = ?2", params![parent.cast_signed(), name])
    }

    /// All names that a directory has or had, by the entry that put them there.
    ///
    /// # Errors
    /// Those of reading.
    pub fn names_of_directory(&self, parent: u64) -> Result<Vec<NameSpan>, ReplicaError> {
        self.spans("d.parent = ?1", params![parent.cast_signed()])
    }

    fn spans(&self, which: &str, key: impl rusqlite::Params) -> Result<Vec<NameSpan>, ReplicaError> {
        read(self.shared(), |_, conn| {
            let mut statement = conn.prepare_cached(&format!(
                "SELECT d.parent, d.name, d.child, d.from_seq AS since, d.to_seq FROM dentry_past d WHERE {which}
                 UNION ALL SELECT d.parent, d.name, d.child, d.seq AS since, NULL FROM dentry d WHERE {which}
                 ORDER BY since"
            ))?;
            let spans = statement.query_map(key, |row| {
                Ok(NameSpan {
                    parent_ino: row.get::<_, i64>(0)?.cast_unsigned(),
                    name: row.get(1)?,
                    child_ino: row.get::<_, i64>(2)?.cast_unsigned(),
                    from: row.get::<_, i64>(3)?.cast_unsigned(),
                    to: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
                })
            })?;
            spans.collect()
        })
    }

    /// Removed nodes, the latest first, at most `limit` of those after `after`: by which entry, and the inode number.
    ///
    /// # Errors
    /// Those of reading.
    pub fn removed(&self, after: Option<(u64, u64)>, limit: usize) -> Result<Vec<RemovedNode>, ReplicaError> {
        read(self.shared(), |shared, conn| {
            let mut statement = conn.prepare_cached(concat!(
                "SELECT ",
                rows::node_columns!(),
                ", EXISTS (SELECT 1 FROM node p JOIN dentry d ON d.parent = p.ino AND d.name = n.removed_name
                           WHERE p.keg = n.removed_parent AND d.placed_seq = n.removed_seq)
                OR EXISTS (SELECT 1 FROM node p JOIN dentry_past d ON d.parent = p.ino AND d.name = n.removed_name
                           WHERE p.keg = n.removed_parent AND d.from_seq = n.removed_seq)
                 FROM node n WHERE n.removed_seq IS NOT NULL AND (n.removed_seq, n.ino) < (?2, ?3)
                 ORDER BY n.removed_seq DESC, n.ino DESC LIMIT ?1"
            ))?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let (seq, ino) = after.map_or((i64::MAX, i64::MAX), |(seq, ino)| (seq.cast_signed(), ino.cast_signed()));
            let removed = statement.query_map([limit, seq, ino], |row| {
                let node = rows::node(row, 0, &shared.cache.devices)?.node;
                Ok(RemovedNode { node, replaced: row.get(rows::NODE_WIDTH)? })
            })?;
            removed.collect()
        })
    }

    /// Names that conflicts gave and that still stand, by their place in the log.
    ///
    /// # Errors
    /// Those of reading.
    pub fn conflicts(&self) -> Result<Vec<ConflictName>, ReplicaError> {
        read(self.shared(), |shared, conn| {
            let mut statement = conn.prepare_cached(concat!(
                "SELECT ",
                rows::node_columns!(),
                ", d.parent, p.keg, d.name, d.wanted, e.device, d.placed_seq,
                   EXISTS (SELECT 1 FROM redirect r WHERE r.target = n.keg)
                 FROM dentry d JOIN node n ON n.ino = d.child JOIN node p ON p.ino = d.parent
                 JOIN device e ON e.id = d.placed_device
                 WHERE d.wanted IS NOT NULL ORDER BY d.placed_seq, d.cookie"
            ))?;
            let conflicts = statement.query_map([], |row| {
                let at = rows::NODE_WIDTH;
                Ok(ConflictName {
                    node: rows::node(row, 0, &shared.cache.devices)?.node,
                    parent_ino: row.get::<_, i64>(at)?.cast_unsigned(),
                    parent: KegId(row.get(at + 1)?),
                    name: row.get(at + 2)?,
                    wanted: row.get(at + 3)?,
                    device: DeviceId(row.get(at + 4)?),
                    seq: row.get::<_, i64>(at + 5)?.cast_unsigned(),
                    sibling: row.get(at + 6)?,
                })
            })?;
            conflicts.collect()
        })
    }
}

fn read<T>(shared: &Shared, body: impl FnOnce(&Shared, &Connection) -> rusqlite::Result<T>) -> Result<T, ReplicaError> {
    let state = shared.state.read();
    if state.closed {
        return Err(ReplicaError::Closed);
    }
    shared.pool.with(|db| db.run(|conn| body(shared, conn)))
}
