//! Reading the confirmed state: bounded caches in memory over SQL.
//!
//! A statement costs far more than a hit in a cache; a tree of 20,000 files fits. The caches hold what the readers'
//! snapshot holds: rows enter while the state lock is held, and those that a commit changed are replaced under the
//! write lock ([`Cache::replace_node`], [`Cache::replace_name`]). A [`Base`] over the writing connection may look into
//! them for rows its transaction has not changed, but adds nothing.
//!
//! Must not know of pending work.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use rusqlite::{Connection, OptionalExtension, params};

use super::ReplicaError;
use super::db::Db;
use super::pool::Pool;
use super::replica::meta;
use super::rows::{self, Devices, NameRow, NodeRow};
use super::types::{Extents, NameEntry, Xattr};
use crate::format::limits::NAME_MAX_BYTES;
use crate::format::{DeviceId, Extent, KegId};
use crate::keg::{Attributes, ContentVersion, Dentry, Known, Redirect, Stamp};

/// Nodes and names kept in memory, each. About 450 and 250 bytes: 45 MB at most together, for the tree that a build or
/// an `ls -lR` goes through again and again.
const CACHED: usize = 1 << 16;

/// Names by [`name_key`]; `None`: there is no such name.
type Names = LruCache<Box<[u8]>, Option<Arc<NameRow>>>;
/// One line of a listing: name, cookie, node.
type Line = (Vec<u8>, u64, Arc<NodeRow>);

/// What was read from the confirmed state lately.
pub(super) struct Cache {
    nodes: Mutex<LruCache<u64, Arc<NodeRow>>>,
    kegs: Mutex<LruCache<KegId, u64>>,
    names: Mutex<Names>,
    /// All of them: there is one per conflict.
    pub(super) redirects: RwLock<HashMap<(DeviceId, KegId), Redirect>>,
    pub(super) devices: Devices,
    /// Where this member's history begins: there is nothing to be seen from before. 0: nothing is missing.
    pub(super) origin: AtomicU64,
}

impl Cache {
    pub(super) fn new() -> Self {
        let bound = NonZeroUsize::new(CACHED).unwrap_or(NonZeroUsize::MIN);
        Self {
            nodes: Mutex::new(LruCache::new(bound)),
            kegs: Mutex::new(LruCache::new(bound)),
            names: Mutex::new(LruCache::new(bound)),
            redirects: RwLock::default(),
            devices: Devices::default(),
            origin: AtomicU64::new(0),
        }
    }

    /// Forgets everything that can be read again: the confirmed state is another.
    pub(super) fn clear(&self) {
        self.nodes.lock().clear();
        self.kegs.lock().clear();
        self.names.lock().clear();
    }

    /// Reads what is kept whole: devices and redirects.
    pub(super) fn load(&self, conn: &Connection) -> rusqlite::Result<()> {
        self.devices.load(conn)?;
        let mut redirects = HashMap::new();
        let mut statement = conn.prepare("SELECT device, keg, target, seq FROM redirect")?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            let to = Redirect { to: KegId(row.get(2)?), seq: row.get::<_, i64>(3)?.cast_unsigned() };
            redirects.insert((DeviceId(row.get(0)?), KegId(row.get(1)?)), to);
        }
        *self.redirects.write() = redirects;
        let origin = meta::<i64>(conn, "origin")?.unwrap_or(0).cast_unsigned();
        self.origin.store(origin, Ordering::Release);
        Ok(())
    }

    /// Puts a node that a commit changed.
    pub(super) fn replace_node(&self, row: NodeRow) {
        self.add_node(&Arc::new(row));
    }

    /// Puts a name that a commit changed; `None`: it is gone.
    pub(super) fn replace_name(&self, parent: u64, name: &[u8], row: Option<NameRow>) {
        self.names.lock().put(name_key(parent, name, &mut [0; KEY]).into(), row.map(Arc::new));
    }

    /// Forgets a name.
    pub(super) fn forget_name(&self, parent: u64, name: &[u8]) {
        self.names.lock().pop(name_key(parent, name, &mut [0; KEY]));
    }

    fn add_node(&self, row: &Arc<NodeRow>) {
        self.kegs.lock().put(row.node.keg, row.node.ino);
        self.nodes.lock().put(row.node.ino, Arc::clone(row));
    }

    fn add_name(&self, parent: u64, name: &[u8], row: Option<Arc<NameRow>>) {
        self.names.lock().put(name_key(parent, name, &mut [0; KEY]).into(), row);
    }
}

/// Bytes of the longest key of the name cache.
const KEY: usize = 8 + NAME_MAX_BYTES;

/// Parent and name as one string of bytes, so that looking up allocates nothing.
fn name_key<'k>(parent: u64, name: &[u8], space: &'k mut [u8; KEY]) -> &'k [u8] {
    let len = name.len().min(NAME_MAX_BYTES);
    space[..8].copy_from_slice(&parent.to_be_bytes());
    space[8..8 + len].copy_from_slice(&name[..len]);
    &space[..8 + len]
}

/// Where statements run.
pub(super) enum Source<'a> {
    /// On any reader of the pool, which all see the same snapshot.
    Pool(&'a Pool),
    /// On the writing connection, within its transaction.
    Writer(&'a Db),
}

/// The confirmed state to read.
pub(super) struct Base<'a> {
    pub(super) source: Source<'a>,
    pub(super) cache: &'a Cache,
}

impl Base<'_> {
    fn sql<T>(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReplicaError> {
        match &self.source {
            Source::Pool(pool) => pool.with(|db| db.run(body)),
            Source::Writer(db) => db.run(body),
        }
    }

    fn caches(&self) -> bool {
        matches!(self.source, Source::Pool(_))
    }

    fn remember(&self, row: NodeRow) -> Arc<NodeRow> {
        let row = Arc::new(row);
        if self.caches() {
            self.cache.add_node(&row);
        }
        row
    }

    /// The node with this number.
    pub(super) fn by_ino(&self, ino: u64) -> Result<Option<Arc<NodeRow>>, ReplicaError> {
        if let Some(row) = self.cache.nodes.lock().get(&ino) {
            return Ok(Some(Arc::clone(row)));
        }
        let row = self.sql(|conn| {
            let mut statement =
                conn.prepare_cached(concat!("SELECT ", rows::node_columns!(), " FROM node n WHERE n.ino = ?1"))?;
            statement.query_row([ino.cast_signed()], |row| rows::node(row, 0, &self.cache.devices)).optional()
        })?;
        Ok(row.map(|row| self.remember(row)))
    }

    /// The node of this keg.
    pub(super) fn node(&self, keg: &KegId) -> Result<Option<Arc<NodeRow>>, ReplicaError> {
        let known = self.cache.kegs.lock().get(keg).copied();
        if let Some(ino) = known {
            return self.by_ino(ino);
        }
        let row = self.sql(|conn| {
            let mut statement =
                conn.prepare_cached(concat!("SELECT ", rows::node_columns!(), " FROM node n WHERE n.keg = ?1"))?;
            statement.query_row([keg.as_bytes()], |row| rows::node(row, 0, &self.cache.devices)).optional()
        })?;
        Ok(row.map(|row| self.remember(row)))
    }

    /// The name in the directory with this number.
    pub(super) fn name(&self, parent: u64, name: &[u8]) -> Result<Option<Arc<NameRow>>, ReplicaError> {
        if name.len() > NAME_MAX_BYTES {
            return Ok(None);
        }
        if let Some(row) = self.cache.names.lock().get(name_key(parent, name, &mut [0; KEY])) {
            return Ok(row.clone());
        }
        let row = self.sql(|conn| {
            let mut statement = conn.prepare_cached(NAME_LOOKUP)?;
            let found = statement.query_row(params![parent.cast_signed(), name], |row| {
                rows::name(row, 0, &self.cache.devices).map(Arc::new)
            });
            found.optional()
        })?;
        if self.caches() {
            self.cache.add_name(parent, name, row.clone());
        }
        Ok(row)
    }

    /// All names of the keg with number `child`, by ascending cookie, with their directories' numbers.
    pub(super) fn names_of(&self, child: u64) -> Result<Vec<(u64, Dentry)>, ReplicaError> {
        self.sql(|conn| {
            let mut statement = conn.prepare_cached(NAMES_OF)?;
            let found = statement.query_map([child.cast_signed()], |row| {
                let name = rows::name(row, 0, &self.cache.devices)?;
                let parent = KegId(row.get(7)?);
                let dentry = dentry(parent, row.get(6)?, &name);
                Ok((row.get::<_, i64>(8)?.cast_unsigned(), dentry))
            })?;
            found.collect()
        })
    }

    /// Whether the directory has a name that `hidden` does not hide.
    pub(super) fn has_name(&self, parent: u64, hidden: impl Fn(&[u8]) -> bool) -> Result<bool, ReplicaError> {
        self.sql(|conn| {
            let mut statement = conn.prepare_cached("SELECT name FROM dentry WHERE parent = ?1 ORDER BY name")?;
            let mut found = statement.query([parent.cast_signed()])?;
            while let Some(row) = found.next()? {
                if !hidden(row.get_ref(0)?.as_blob()?) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Names of the directory with cookies above `after`, ascending, at most `limit`, each with its node.
    pub(super) fn list(&self, parent: u64, after: u64, limit: usize) -> Result<Vec<Line>, ReplicaError> {
        self.sql(|conn| {
            let mut statement = conn.prepare_cached(concat!(
                "SELECT ",
                rows::node_columns!(),
                ", d.name, d.cookie FROM dentry d JOIN node n ON n.ino = d.child
                 WHERE d.parent = ?1 AND d.cookie > ?2 ORDER BY d.cookie LIMIT ?3"
            ))?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut found = statement.query(params![parent.cast_signed(), after.cast_signed(), limit])?;
            let mut lines = Vec::new();
            while let Some(row) = found.next()? {
                let name: Vec<u8> = row.get(rows::NODE_WIDTH)?;
                let cookie = row.get::<_, i64>(rows::NODE_WIDTH + 1)?.cast_unsigned();
                let node = Arc::new(rows::node(row, 0, &self.cache.devices)?);
                if self.caches() {
                    self.cache.add_node(&node);
                }
                lines.push((name, cookie, node));
            }
            Ok(lines)
        })
    }

    /// The same with no more of the nodes than their numbers and kinds, and past the caches: of a million names that are
    /// only listed, none would be found in them again.
    pub(super) fn list_names(&self, parent: u64, after: u64, limit: usize) -> Result<Vec<NameEntry>, ReplicaError> {
        self.sql(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT d.name, d.cookie, n.ino, n.kind FROM dentry d JOIN node n ON n.ino = d.child
                 WHERE d.parent = ?1 AND d.cookie > ?2 ORDER BY d.cookie LIMIT ?3",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let found = statement.query_map(params![parent.cast_signed(), after.cast_signed(), limit], |row| {
                Ok(NameEntry {
                    name: row.get(0)?,
                    cookie: row.get::<_, i64>(1)?.cast_unsigned(),
                    ino: row.get::<_, i64>(2)?.cast_unsigned(),
                    kind: rows::kind_of(row.get(3)?, 3)?,
                })
            })?;
            found.collect()
        })
    }

    /// Current extents of the file that meet `[from, to)`, whole, ascending.
    pub(super) fn extents(&self, ino: u64, from: u64, to: u64) -> Result<Vec<Extent>, ReplicaError> {
        Ok(self.some_extents(ino, from..to, usize::MAX)?.list)
    }

    /// The first of them, about `limit`. They do not overlap: of those that begin before `span` only the last can reach
    /// into it.
    pub(super) fn some_extents(&self, ino: u64, span: Range<u64>, limit: usize) -> Result<Extents, ReplicaError> {
        let (from, to) = (int(span.start), int(span.end));
        // One more, since the first may end before `span`.
        let limit = limit.saturating_add(1);
        let mut list: Vec<Extent> = self.sql(|conn| {
            let mut statement = conn.prepare_cached(EXTENTS)?;
            let rows = i64::try_from(limit).unwrap_or(i64::MAX);
            statement.query_map(params![ino.cast_signed(), from, to, rows], rows::extent)?.collect()
        })?;
        let more = list.len() == limit;
        list.retain(|extent| extent.end() > span.start);
        Ok(Extents::new(list, span.end, more))
    }

    /// Length and extents that the file had just before position `before`; `None`: no content yet.
    pub(super) fn content_before(&self, ino: u64, before: u64) -> Result<Option<(u64, Vec<Extent>)>, ReplicaError> {
        if before <= self.cache.origin.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.sql(|conn| {
            let key = params![ino.cast_signed(), before.cast_signed()];
            let mut newest =
                conn.prepare_cached("SELECT size FROM content WHERE ino = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT 1")?;
            let Some(size) = newest.query_row(key, |row| row.get::<_, i64>(0)).optional()? else { return Ok(None) };
            let mut statement = conn.prepare_cached(concat!(
                "SELECT ",
                rows::extent_columns!(),
                " FROM extent WHERE ino = ?1 AND seq < ?2 UNION ALL SELECT ",
                rows::extent_columns!(),
                " FROM extent_past WHERE ino = ?1 AND from_seq < ?2 AND to_seq >= ?2 ORDER BY 1"
            ))?;
            let extents = statement.query_map(key, rows::extent)?.collect::<Result<_, _>>()?;
            Ok(Some((size.cast_unsigned(), extents)))
        })
    }

    /// Every content change of the file, oldest first.
    pub(super) fn versions(&self, ino: u64) -> Result<Vec<ContentVersion>, ReplicaError> {
        self.sql(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT c.seq, d.device, c.size FROM content c JOIN device d ON d.id = c.device
                 WHERE c.ino = ?1 ORDER BY c.seq",
            )?;
            let found = statement.query_map([ino.cast_signed()], |row| {
                let stamp = Stamp { seq: row.get::<_, i64>(0)?.cast_unsigned(), device: DeviceId(row.get(1)?) };
                Ok(ContentVersion { stamp, size: row.get::<_, i64>(2)?.cast_unsigned() })
            })?;
            found.collect()
        })
        // That there were others before this member's history begins is known, not what they were.
        .map(|mut versions: Vec<ContentVersion>| {
            let origin = self.cache.origin.load(Ordering::Acquire);
            let before = versions.iter().filter(|version| version.stamp.seq <= origin).count();
            versions.drain(..before.saturating_sub(1));
            versions
        })
    }

    /// The earliest content change after `after` by a device other than `device`.
    pub(super) fn first_foreign_content(
        &self,
        ino: u64,
        after: u64,
        device: &DeviceId,
    ) -> Result<Option<u64>, ReplicaError> {
        let own = self.cache.devices.known(device).unwrap_or(-1);
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.sql(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT seq FROM content WHERE ino = ?1 AND seq > ?2 AND device <> ?3 ORDER BY seq LIMIT 1",
            )?;
            let found = statement.query_row(params![ino.cast_signed(), after, own], |row| row.get::<_, i64>(0));
            Ok(found.optional()?.map(i64::cast_unsigned))
        })
    }

    /// The attributes that an author knew of the file, as far as they are in the log, and those that the log gives it
    /// today; `None` where it was not there, or had been removed up to the horizon.
    ///
    /// Both from the rows: a cached node is the one from before the transaction, which may have applied other entries
    /// already.
    pub(super) fn known_attributes(
        &self,
        ino: u64,
        known: &Known<'_>,
    ) -> Result<Option<(Attributes, Attributes)>, ReplicaError> {
        let own = self.cache.devices.known(known.device).unwrap_or(-1);
        let ino = ino.cast_signed();
        let seq = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
        self.sql(|conn| {
            let before = seq(known.before.saturating_sub(1));
            let Some((mut attributes, removed)) = attributes_at(conn, ino, before)? else { return Ok(None) };
            if removed.is_some_and(|removed| removed <= seq(known.horizon)) {
                return Ok(None);
            }
            // Who changes an attribute changes the node's row.
            let mut own_entries = conn.prepare_cached(
                "SELECT r.seq FROM (SELECT from_seq AS seq FROM node_past WHERE ino = ?1 AND from_seq > ?2
                                    UNION ALL SELECT seq FROM node WHERE ino = ?1 AND seq > ?2) r
                 CROSS JOIN log l ON l.seq = r.seq WHERE l.device = ?3 ORDER BY r.seq",
            )?;
            let entries = own_entries.query_map([ino, before, own], |row| row.get::<_, i64>(0))?;
            for entry in entries.collect::<rusqlite::Result<Vec<_>>>()? {
                if let (Some((before, _)), Some((after, _))) =
                    (attributes_at(conn, ino, entry - 1)?, attributes_at(conn, ino, entry)?)
                {
                    attributes.take_changes(&before, &after);
                }
            }
            let Some((today, _)) = attributes_at(conn, ino, i64::MAX)? else { return Ok(None) };
            Ok(Some((attributes, today)))
        })
    }

    /// Extended attributes of the keg, ascending by name.
    pub(super) fn xattrs(&self, ino: u64) -> Result<Vec<Xattr>, ReplicaError> {
        self.sql(|conn| {
            let mut statement = conn.prepare_cached("SELECT name, value FROM xattr WHERE ino = ?1 ORDER BY name")?;
            let found = statement.query_map([ino.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))?;
            found.collect()
        })
    }

    /// One extended attribute.
    pub(super) fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>, ReplicaError> {
        self.sql(|conn| {
            let mut statement = conn.prepare_cached("SELECT value FROM xattr WHERE ino = ?1 AND name = ?2")?;
            statement.query_row(params![ino.cast_signed(), name], |row| row.get(0)).optional()
        })
    }

    /// Where operations of `device` on `keg` go.
    pub(super) fn redirect(&self, device: &DeviceId, keg: &KegId) -> Option<Redirect> {
        let redirects = self.cache.redirects.read();
        if redirects.is_empty() { None } else { redirects.get(&(*device, *keg)).copied() }
    }
}

/// The attributes of a node just after position `seq`, and where it had been removed by then.
fn attributes_at(conn: &Connection, ino: i64, seq: i64) -> rusqlite::Result<Option<(Attributes, Option<i64>)>> {
    let mut node = conn.prepare_cached(
        "SELECT mode, uid, gid, atime_ns, removed_seq FROM node WHERE ino = ?1 AND seq <= ?2 UNION ALL
         SELECT mode, uid, gid, atime_ns, removed_seq FROM node_past WHERE ino = ?1 AND from_seq <= ?2 AND to_seq > ?2",
    )?;
    let found = node.query_row([ino, seq], |row| {
        let (mode, uid, gid, atime_ns) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((Attributes { mode, uid, gid, atime_ns, xattrs: BTreeMap::new() }, row.get(4)?))
    });
    let Some((mut attributes, removed)) = found.optional()? else { return Ok(None) };
    let mut xattrs = conn.prepare_cached(
        "SELECT name, value FROM xattr WHERE ino = ?1 AND seq <= ?2 UNION ALL
         SELECT name, value FROM xattr_past WHERE ino = ?1 AND from_seq <= ?2 AND to_seq > ?2",
    )?;
    let found = xattrs.query_map([ino, seq], |row| Ok((row.get(0)?, row.get(1)?)))?;
    attributes.xattrs = found.collect::<rusqlite::Result<_>>()?;
    Ok(Some((attributes, removed)))
}

/// As SQLite has it: what is above the greatest offset is that.
fn int(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// A name of the model.
pub(super) fn dentry(parent: KegId, name: Vec<u8>, row: &NameRow) -> Dentry {
    Dentry { parent, name, keg: row.keg, cookie: row.cookie, wanted: row.wanted.clone(), placed: row.placed }
}

/// Of file ?1 those that meet [?2, ?3), at most ?4, and perhaps the one before them; each with the entry that made it.
pub(super) const EXTENTS: &str = concat!(
    "SELECT ",
    rows::extent_columns!(),
    ", seq FROM extent WHERE ino = ?1 AND offset < ?3 AND offset >= ifnull(
     (SELECT offset FROM extent WHERE ino = ?1 AND offset <= ?2 ORDER BY offset DESC LIMIT 1), ?2) ORDER BY offset LIMIT ?4"
);
pub(super) const NAME_LOOKUP: &str = "SELECT n.keg, d.child, d.cookie, d.wanted, d.placed_seq, d.placed_device
     FROM dentry d JOIN node n ON n.ino = d.child WHERE d.parent = ?1 AND d.name = ?2";
pub(super) const NAMES_OF: &str =
    "SELECT n.keg, d.child, d.cookie, d.wanted, d.placed_seq, d.placed_device, d.name, p.keg, p.ino
     FROM dentry d JOIN node n ON n.ino = d.child JOIN node p ON p.ino = d.parent WHERE d.child = ?1 ORDER BY d.cookie";
