//! The confirmed state as it was after some entry, as the records of a checkpoint; and whether records say the same.
//!
//! Rows carry the positions from and to which they are valid, so an earlier state is a query, and it answers the same
//! while later entries are applied. Nothing is held while a page of rows is worked on: a folder of a million files is
//! exported next to a mount that is in use.
//!
//! What is exported is what later operations depend on, and nothing else of the time before: of what has no name any
//! more the ids only, and of earlier contents that they were. See docs/FORMAT.md §7.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};

use rusqlite::{Params, Row, params};

use super::ReplicaError;
use super::replica::Replica;
use super::rows;
use crate::format::limits::RECORD_MAX_ITEMS;
use crate::format::{DeviceId, Extent, KegId, Record, WrittenStamp};
use crate::keg::{Node, Stamp};

/// Rows read at once: a few milliseconds, for which one of the reading connections is taken.
const PAGE: i64 = 2048;

/// Nodes as they were at `?2`, after the inode number `?1`.
const NODES: &str = concat!(
    "SELECT ",
    rows::node_columns!(),
    " FROM node n WHERE n.ino > ?1 AND n.seq <= ?2 UNION ALL SELECT ",
    rows::node_columns!(),
    " FROM node_past n WHERE n.ino > ?1 AND n.from_seq <= ?2 AND n.to_seq > ?2
     ORDER BY 1 LIMIT ?3"
);
const NAMES: &str = "SELECT parent, name, child, cookie, wanted, placed_seq, placed_device FROM dentry
     WHERE (parent, name) > (?1, ?4) AND seq <= ?2
     UNION ALL SELECT parent, name, child, cookie, wanted, placed_seq, placed_device FROM dentry_past
     WHERE (parent, name) > (?1, ?4) AND from_seq <= ?2 AND to_seq > ?2 ORDER BY 1, 2 LIMIT ?3";
const XATTRS: &str = "SELECT ino, name, value FROM xattr WHERE (ino, name) > (?1, ?4) AND seq <= ?2
     UNION ALL SELECT ino, name, value FROM xattr_past WHERE (ino, name) > (?1, ?4) AND from_seq <= ?2 AND to_seq > ?2
     ORDER BY 1, 2 LIMIT ?3";
const EXTENTS: &str = "SELECT offset, len, blob, blob_offset, chunk_len, chunk_skip, key, ino FROM extent
     WHERE (ino, offset) > (?1, ?4) AND seq <= ?2
     UNION ALL SELECT offset, len, blob, blob_offset, chunk_len, chunk_skip, key, ino FROM extent_past
     WHERE (ino, offset) > (?1, ?4) AND from_seq <= ?2 AND to_seq > ?2 ORDER BY 8, 1 LIMIT ?3";
const VERSIONS: &str = "SELECT ino, seq, device FROM content WHERE (ino, seq) > (?1, ?4) AND seq <= ?2
     UNION ALL SELECT ino, seq, device FROM content_past WHERE (ino, seq) > (?1, ?4) AND seq <= ?2 AND to_seq > ?2
     ORDER BY 1, 2 LIMIT ?3";
const REDIRECTS: &str = "SELECT device, keg, target, unseen FROM redirect_log r WHERE seq = (
     SELECT max(seq) FROM redirect_log s WHERE s.device = r.device AND s.keg = r.keg AND s.seq <= ?1) ORDER BY device, keg";
const NAME: &str = "SELECT name FROM name_log WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1";

/// A name among the names of one keg.
struct OneName {
    placed: (u64, u64),
    record: Record,
}

impl Replica {
    fn query<T>(
        &self,
        sql: &str,
        values: impl Params,
        mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, ReplicaError> {
        self.shared().pool.with(|db| {
            db.run(|conn| {
                let mut statement = conn.prepare_cached(sql)?;
                let found = statement.query_map(values, |row| read(row))?;
                found.collect()
            })
        })
    }

    /// Gives the state after entry `seq`, which has been applied, record by record, to `take`.
    ///
    /// # Errors
    /// Those of reading, and those of `take`.
    pub fn export<E: From<ReplicaError>>(
        &self,
        seq: u64,
        mut take: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let devices = self.query("SELECT device FROM device ORDER BY id", [], |row| row.get(0).map(DeviceId))?;
        let indices: HashMap<DeviceId, u32> = devices.iter().copied().zip(0..).collect();
        let stamp = |stamp: &Stamp| written(&indices, stamp);
        take(Record::Devices { devices })?;
        if let Some(name) = self.query(NAME, [seq.cast_signed()], |row| row.get(0))?.pop() {
            take(Record::FolderName { name })?;
        }
        let mut kegs: HashMap<u64, KegId> = HashMap::new();
        let (mut removed, mut linked) = (Vec::new(), HashSet::new());
        let (mut after, cache) = (0, &self.shared().cache.devices);
        loop {
            let page = self.query(NODES, params![after, seq.cast_signed(), PAGE], |row| rows::node(row, 0, cache))?;
            let Some(last) = page.last() else { break };
            after = last.node.ino.cast_signed();
            for row in page {
                if row.node.nlink == 0 {
                    removed.push(row.node.keg);
                    continue;
                }
                kegs.insert(row.node.ino, row.node.keg);
                if row.node.nlink > 1 && !row.node.is_directory() {
                    linked.insert(row.node.ino);
                }
                take(node_record(row.node, &stamp))?;
            }
        }
        self.export_names(seq, &kegs, &linked, &indices, &mut take)?;
        self.export_details(seq, &kegs, &indices, &mut take)?;
        for (device, keg, to, unseen) in self.redirects_at(seq)? {
            take(Record::Redirect { device, keg, to, seq: unseen })?;
        }
        for kegs in removed.chunks(RECORD_MAX_ITEMS) {
            take(Record::Removed { kegs: kegs.to_vec() })?;
        }
        Ok(())
    }

    fn redirects_at(&self, seq: u64) -> Result<Vec<(DeviceId, KegId, KegId, u64)>, ReplicaError> {
        self.query(REDIRECTS, [seq.cast_signed()], |row| {
            Ok((DeviceId(row.get(0)?), KegId(row.get(1)?), KegId(row.get(2)?), row.get::<_, i64>(3)?.cast_unsigned()))
        })
    }

    /// Names in the order of their directories; those of files with several names at the end, in the order of their
    /// placing.
    fn export_names<E: From<ReplicaError>>(
        &self,
        seq: u64,
        kegs: &HashMap<u64, KegId>,
        linked: &HashSet<u64>,
        indices: &HashMap<DeviceId, u32>,
        take: &mut impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut several: Vec<(u64, OneName)> = Vec::new();
        let mut after = (0, Vec::new());
        loop {
            let page = self.query(NAMES, params![after.0, seq.cast_signed(), PAGE, after.1], |row| {
                let placed = Stamp { seq: row.get::<_, i64>(5)?.cast_unsigned(), device: self.device_of(row.get(6)?) };
                let child = row.get::<_, i64>(2)?.cast_unsigned();
                let cookie = row.get::<_, i64>(3)?.cast_unsigned();
                Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, child, cookie, row.get(4)?, placed))
            })?;
            let Some((parent, name, ..)) = page.last() else { break };
            after = (*parent, name.clone());
            for (parent, name, child, cookie, wanted, placed) in page {
                let (Some(parent), Some(keg)) = (kegs.get(&parent.cast_unsigned()), kegs.get(&child)) else { continue };
                let order = (placed.seq, cookie);
                let record =
                    Record::Name { parent: *parent, name, keg: *keg, wanted, placed: written(indices, &placed) };
                if linked.contains(&child) {
                    several.push((child, OneName { placed: order, record }));
                } else {
                    take(record)?;
                }
            }
        }
        several.sort_by_key(|(child, name)| (*child, name.placed));
        several.into_iter().try_for_each(|(_, name)| take(name.record))
    }

    fn export_details<E: From<ReplicaError>>(
        &self,
        seq: u64,
        kegs: &HashMap<u64, KegId>,
        indices: &HashMap<DeviceId, u32>,
        take: &mut impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut after = (0, Vec::new());
        loop {
            let page = self.query(XATTRS, params![after.0, seq.cast_signed(), PAGE, after.1], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?))
            })?;
            let Some((ino, name, _)) = page.last() else { break };
            after = (*ino, name.clone());
            for (ino, name, value) in page {
                if let Some(keg) = kegs.get(&ino.cast_unsigned()) {
                    take(Record::Xattr { keg: *keg, name, value })?;
                }
            }
        }
        let mut after = (0, -1);
        loop {
            let page = self.query(EXTENTS, params![after.0, seq.cast_signed(), PAGE, after.1], |row| {
                Ok((row.get::<_, i64>(7)?, rows::extent(row)?))
            })?;
            let Some((ino, extent)) = page.last() else { break };
            after = (*ino, extent.offset.cast_signed());
            for file in page.chunk_by(|one, other| one.0 == other.0) {
                if let Some(keg) = kegs.get(&file[0].0.cast_unsigned()) {
                    let extents = file.iter().map(|(_, extent)| extent.clone()).collect();
                    take(Record::Extents { keg: *keg, extents })?;
                }
            }
        }
        let mut after = (0, -1);
        loop {
            let page = self.query(VERSIONS, params![after.0, seq.cast_signed(), PAGE, after.1], |row| {
                let stamp = Stamp { seq: row.get::<_, i64>(1)?.cast_unsigned(), device: self.device_of(row.get(2)?) };
                Ok((row.get::<_, i64>(0)?, stamp))
            })?;
            let Some((ino, stamp)) = page.last() else { break };
            after = (*ino, stamp.seq.cast_signed());
            for file in page.chunk_by(|one, other| one.0 == other.0) {
                if let Some(keg) = kegs.get(&file[0].0.cast_unsigned()) {
                    let versions = file.iter().map(|(_, stamp)| written(indices, stamp)).collect();
                    take(Record::Versions { keg: *keg, versions })?;
                }
            }
        }
        Ok(())
    }

    fn device_of(&self, number: i64) -> DeviceId {
        self.shared().cache.devices.get(number)
    }
}

fn written(indices: &HashMap<DeviceId, u32>, stamp: &Stamp) -> WrittenStamp {
    // Every stamp's device is in the table that the indices are of.
    WrittenStamp { seq: stamp.seq, device: indices.get(&stamp.device).copied().unwrap_or(u32::MAX) }
}

fn node_record(node: Node, stamp: &impl Fn(&Stamp) -> WrittenStamp) -> Record {
    // All fields by name: what a node gets in addition must be decided on here.
    let Node {
        keg,
        ino: _,
        kind,
        mode,
        uid,
        gid,
        rdev,
        nlink,
        size,
        // Follows from the extents.
        allocated: _,
        atime_ns,
        mtime_ns,
        ctime_ns,
        btime_ns,
        target,
        content,
        removed: _,
    } = node;
    let content = stamp(&content);
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
    }
}

/// How a checkpoint differs from the confirmed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// It says the same, if each of these pairs of extents, the folder's own and the checkpoint's, holds the same bytes.
    Same(Vec<(Extent, Extent)>),
    /// It says something else; what, for people.
    Different(String),
}

/// Compares records with the state after entry `seq`, record by record, in any order.
pub struct Comparison<'a> {
    replica: &'a Replica,
    seq: u64,
    devices: Vec<DeviceId>,
    pairs: Vec<(Extent, Extent)>,
    different: Option<String>,
    seen: Seen,
}

impl<'a> Comparison<'a> {
    /// Nothing compared yet.
    pub fn new(replica: &'a Replica, seq: u64) -> Self {
        Self { replica, seq, devices: vec![], pairs: vec![], different: None, seen: Seen::default() }
    }

    /// The next record.
    ///
    /// # Errors
    /// Those of reading.
    pub fn record(&mut self, record: &Record) -> Result<(), ReplicaError> {
        if self.different.is_none()
            && let Some(what) = self.differs(record)?
        {
            self.different = Some(what);
        }
        Ok(())
    }

    /// The result, after the last record.
    ///
    /// # Errors
    /// Those of reading.
    pub fn finish(self) -> Result<Compared, ReplicaError> {
        if let Some(what) = self.different {
            return Ok(Compared::Different(what));
        }
        // Each record is one of the folder's own: what is left to find out is whether each of those came once.
        let mut own = Seen { salt: self.seen.salt.clone(), ..Seen::default() };
        self.replica.export(self.seq, |record| {
            own.note(&record);
            Ok::<_, ReplicaError>(())
        })?;
        Ok(if (own.sums, own.named) == (self.seen.sums, self.seen.named) {
            Compared::Same(self.pairs)
        } else {
            Compared::Different("it leaves something out, or adds something".to_owned())
        })
    }

    fn stamp(&self, stamp: &WrittenStamp) -> Option<Stamp> {
        self.devices.get(stamp.device as usize).map(|device| Stamp { seq: stamp.seq, device: *device })
    }

    fn ino(&self, keg: &KegId) -> Result<Option<i64>, ReplicaError> {
        let found = self.replica.query("SELECT ino FROM node WHERE keg = ?1", [keg.as_bytes()], |row| row.get(0))?;
        Ok(found.into_iter().next())
    }

    /// The newest row at the moment, of those that `sql` finds for the keg; `?1` is the inode number, `?2` the moment.
    fn own<T>(
        &self,
        keg: &KegId,
        sql: &str,
        key: &dyn rusqlite::ToSql,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, ReplicaError> {
        let Some(ino) = self.ino(keg)? else { return Ok(None) };
        Ok(self.replica.query(sql, params![ino, self.seq.cast_signed(), key], read)?.into_iter().next())
    }

    fn own_node(&self, keg: &KegId) -> Result<Option<Node>, ReplicaError> {
        let cache = &self.replica.shared().cache.devices;
        const ONE: &str = concat!(
            "SELECT ",
            rows::node_columns!(),
            " FROM node n WHERE n.ino = ?1 AND n.seq <= ?2 AND ?3 UNION ALL SELECT ",
            rows::node_columns!(),
            " FROM node_past n WHERE n.ino = ?1 AND n.from_seq <= ?2 AND n.to_seq > ?2 AND ?3"
        );
        Ok(self.own(keg, ONE, &true, |row| rows::node(row, 0, cache))?.map(|row| row.node))
    }

    fn differs(&mut self, record: &Record) -> Result<Option<String>, ReplicaError> {
        self.seen.note(record);
        let seq = self.seq;
        let differs = |what: &str, differs: bool| differs.then(|| format!("it has another {what}"));
        Ok(match record {
            Record::Devices { devices } => {
                self.devices.clone_from(devices);
                None
            }
            Record::FolderName { name } => {
                let own: Option<String> = self.replica.query(NAME, [seq.cast_signed()], |row| row.get(0))?.pop();
                differs("name for the folder", own.as_ref() != Some(name))
            }
            Record::Node { keg, content, .. } => {
                let own = self.own_node(keg)?.filter(|node| node.nlink > 0);
                // With the index that the record uses, where the device is the same.
                let known = self.stamp(content);
                let own = own.filter(|own| Some(own.content) == known).map(|own| node_record(own, &|_| *content));
                differs("file or attributes of a file", own.as_ref() != Some(record))
            }
            Record::Name { parent, name, keg, wanted, placed } => {
                const ONE: &str = "SELECT n.keg, d.wanted, d.placed_seq, d.placed_device FROM dentry d
                     JOIN node n ON n.ino = d.child WHERE d.parent = ?1 AND d.name = ?3 AND d.seq <= ?2
                     UNION ALL SELECT n.keg, d.wanted, d.placed_seq, d.placed_device FROM dentry_past d
                     JOIN node n ON n.ino = d.child
                     WHERE d.parent = ?1 AND d.name = ?3 AND d.from_seq <= ?2 AND d.to_seq > ?2";
                let replica = self.replica;
                let own = self.own(parent, ONE, name, |row| {
                    let placed =
                        Stamp { seq: row.get::<_, i64>(2)?.cast_unsigned(), device: replica.device_of(row.get(3)?) };
                    Ok((KegId(row.get(0)?), row.get::<_, Option<Vec<u8>>>(1)?, placed))
                })?;
                let same = own.is_some_and(|(child, asked, stamp)| {
                    child == *keg && asked == *wanted && self.stamp(placed) == Some(stamp)
                });
                differs("name of a file", !same)
            }
            Record::Xattr { keg, name, value } => {
                const ONE: &str = "SELECT value FROM xattr WHERE ino = ?1 AND name = ?3 AND seq <= ?2 UNION ALL
                     SELECT value FROM xattr_past WHERE ino = ?1 AND name = ?3 AND from_seq <= ?2 AND to_seq > ?2";
                let own: Option<Vec<u8>> = self.own(keg, ONE, name, |row| row.get(0))?;
                differs("extended attribute", own.as_ref() != Some(value))
            }
            Record::Extents { keg, extents } => self.extents_differ(keg, extents)?,
            Record::Versions { keg, versions } => {
                let replica = self.replica;
                let mut same = true;
                for version in versions {
                    const ONE: &str = "SELECT device FROM content WHERE ino = ?1 AND seq = ?3 AND seq <= ?2 UNION ALL
                         SELECT device FROM content_past WHERE ino = ?1 AND seq = ?3 AND seq <= ?2 AND to_seq > ?2";
                    let at = version.seq.cast_signed();
                    let own = self.own(keg, ONE, &at, |row| row.get(0))?.map(|device| replica.device_of(device));
                    same &= own.is_some() && own == self.stamp(version).map(|stamp| stamp.device);
                }
                differs("history of changes", !same)
            }
            Record::Redirect { device, keg, to, seq: unseen } => {
                let own = self.replica.redirects_at(seq)?;
                differs("account of a conflict", !own.contains(&(*device, *keg, *to, *unseen)))
            }
            Record::Removed { kegs } => {
                let mut same = true;
                for keg in kegs {
                    same &= self.own_node(keg)?.is_some_and(|node| node.nlink == 0);
                }
                differs("list of what was removed", !same)
            }
        })
    }

    fn extents_differ(&mut self, keg: &KegId, extents: &[Extent]) -> Result<Option<String>, ReplicaError> {
        const ONE: &str = "SELECT offset, len, blob, blob_offset, chunk_len, chunk_skip, key FROM extent
             WHERE ino = ?1 AND offset = ?3 AND seq <= ?2
             UNION ALL SELECT offset, len, blob, blob_offset, chunk_len, chunk_skip, key FROM extent_past
             WHERE ino = ?1 AND offset = ?3 AND from_seq <= ?2 AND to_seq > ?2";
        for extent in extents {
            let own = self.own(keg, ONE, &extent.offset.cast_signed(), rows::extent)?;
            match own {
                Some(own) if own == *extent => {}
                Some(own) if own.len == extent.len => self.pairs.push((own, extent.clone())),
                _ => return Ok(Some("it has another content of a file".to_owned())),
            }
        }
        Ok(None)
    }
}

/// What came so far, as a sum of hashes under a random key for each kind: no one can choose what to repeat and what to
/// leave out so that it comes out the same.
#[derive(Default)]
struct Seen {
    salt: RandomState,
    sums: [u64; 7],
    named: u64,
}

impl Seen {
    fn add(&mut self, kind: usize, item: impl Hash) {
        self.sums[kind] = self.sums[kind].wrapping_add(self.salt.hash_one((kind, item)));
    }

    fn note(&mut self, record: &Record) {
        match record {
            Record::Devices { .. } => {}
            Record::FolderName { .. } => self.named += 1,
            Record::Node { keg, .. } => self.add(0, keg),
            Record::Name { parent, name, .. } => self.add(1, (parent, name)),
            Record::Xattr { keg, name, .. } => self.add(2, (keg, name)),
            Record::Extents { keg, extents } => extents.iter().for_each(|extent| self.add(3, (keg, extent.offset))),
            Record::Versions { keg, versions } => versions.iter().for_each(|version| self.add(4, (keg, version.seq))),
            Record::Redirect { device, keg, .. } => self.add(5, (device, keg)),
            Record::Removed { kegs } => kegs.iter().for_each(|keg| self.add(6, keg)),
        }
    }
}
