//! The mounted view: confirmed state with pending work on top.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use rusqlite::OptionalExtension;

use super::ReplicaError;
use super::base::{Base, Source};
use super::layer::{merge_names, merge_xattrs};
use super::replica::Shared;
use super::rows::NodeRow;
use super::state::State;
use super::types::{DirEntry, Extents, LogLine, NameEntry, NameOf, Standing, Xattr};
use crate::format::{AccountId, ChainHash, DeviceId, EntryHash, Extent, Head, KegId, Role};
use crate::keg::{ContentVersion, Node};

/// A line of a listing.
trait Line {
    fn cookie(&self) -> u64;
    fn name(&self) -> &[u8];
}

impl Line for DirEntry {
    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn name(&self) -> &[u8] {
        &self.name
    }
}

impl Line for NameEntry {
    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn name(&self) -> &[u8] {
        &self.name
    }
}

/// Stored names read at once at most where pending removals hide those read before.
const HIDDEN_BATCH: usize = 4096;

/// A moment of the folder. See [`super::Replica::view`] for how long to hold it.
pub struct View<'a> {
    shared: &'a Shared,
    state: RwLockReadGuard<'a, State>,
}

impl<'a> View<'a> {
    pub(super) fn new(shared: &'a Shared, state: RwLockReadGuard<'a, State>) -> Self {
        Self { shared, state }
    }

    fn base(&self) -> Base<'_> {
        Base { source: Source::Pool(&self.shared.pool), cache: &self.shared.cache }
    }

    /// The newest signed entry of the log that was kept as it came ([`super::Confirmed::signed`]).
    ///
    /// # Errors
    /// Those of reading.
    pub fn head_entry(&self) -> Result<Option<Vec<u8>>, ReplicaError> {
        self.sql(|conn| super::replica::meta(conn, "head_entry"))
    }

    /// Runs a statement on the snapshot.
    pub(super) fn sql<T>(
        &self,
        body: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReplicaError> {
        self.shared.pool.with(|db| db.run(body))
    }

    /// The node with this inode number, removed ones included (`nlink` 0).
    ///
    /// # Errors
    /// As all methods here that return a `Result`: those of reading the database.
    pub fn node(&self, ino: u64) -> Result<Option<Node>, ReplicaError> {
        if let Some(row) = self.state.overlay.by_ino(ino) {
            return Ok(Some(row.node.clone()));
        }
        Ok(self.base().by_ino(ino)?.map(|row| row.node.clone()))
    }

    /// The node of this keg.
    ///
    /// # Errors
    /// Those of reading.
    pub fn node_of(&self, keg: &KegId) -> Result<Option<Node>, ReplicaError> {
        if let Some(row) = self.state.overlay.nodes.get(keg) {
            return Ok(Some(row.node.clone()));
        }
        Ok(self.base().node(keg)?.map(|row| row.node.clone()))
    }

    /// The inode number of this keg.
    ///
    /// # Errors
    /// Those of reading.
    pub fn ino_of(&self, keg: &KegId) -> Result<Option<u64>, ReplicaError> {
        Ok(self.node_of(keg)?.map(|node| node.ino))
    }

    /// The node under `name` in the directory `parent`; `None` too where `parent` is no directory.
    ///
    /// # Errors
    /// Those of reading.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Node>, ReplicaError> {
        let overlay = &self.state.overlay;
        if let Some(keg) = overlay.inos.get(&parent) {
            if let Some(over) = overlay.dirs.get(keg).and_then(|dir| dir.names.get(name)) {
                return match &over.there {
                    Some(named) => self.node_of(&named.keg),
                    None => Ok(None),
                };
            }
            if overlay.nodes.get(keg).is_some_and(|row| !row.stored) {
                return Ok(None);
            }
        }
        match self.base().name(parent, name)? {
            // Pending work may have changed the node, though not the name.
            Some(row) => self.node(row.child),
            None => Ok(None),
        }
    }

    /// Names in the directory whose cookies are above `after` (0: from the beginning), ascending, at most `limit`.
    /// Cookies stay the same while names come and go, so a listing continues where it stopped.
    ///
    /// # Errors
    /// Those of reading.
    pub fn readdir(&self, dir: u64, after: u64, limit: usize) -> Result<Vec<DirEntry>, ReplicaError> {
        let entry = |name, cookie, node: Node| DirEntry { name, cookie, ino: node.ino, node };
        let stored = |at, wanted| {
            let lines = self.base().list(dir, at, wanted)?;
            let shown = |row: &NodeRow| match self.state.overlay.nodes.get(&row.node.keg) {
                Some(over) => over.node.clone(),
                None => row.node.clone(),
            };
            Ok(lines.into_iter().map(|(name, cookie, row)| entry(name, cookie, shown(&row))).collect())
        };
        self.listing(dir, after, limit, stored, entry)
    }

    /// The same without attributes: for directories of a million names, of which nobody wants more than the names.
    ///
    /// # Errors
    /// Those of reading.
    pub fn names_in(&self, dir: u64, after: u64, limit: usize) -> Result<Vec<NameEntry>, ReplicaError> {
        let entry = |name, cookie, node: Node| NameEntry { name, cookie, ino: node.ino, kind: node.kind };
        self.listing(dir, after, limit, |at, wanted| self.base().list_names(dir, at, wanted), entry)
    }

    /// Lays the pending names of a directory over the stored ones.
    fn listing<E: Line>(
        &self,
        dir: u64,
        after: u64,
        limit: usize,
        read: impl Fn(u64, usize) -> Result<Vec<E>, ReplicaError>,
        entry: impl Fn(Vec<u8>, u64, Node) -> E,
    ) -> Result<Vec<E>, ReplicaError> {
        let overlay = &self.state.overlay;
        let keg = overlay.inos.get(&dir);
        let over = keg.and_then(|keg| overlay.dirs.get(keg));
        let stored = keg.and_then(|keg| overlay.nodes.get(keg)).is_none_or(|row| row.stored);
        let mut entries = Vec::new();
        let mut at = after;
        let mut wanted = limit;
        while stored && entries.len() < limit {
            let lines = read(at, wanted)?;
            let last = lines.len() < wanted;
            at = lines.last().map_or(at, Line::cookie);
            let shown = lines.into_iter().filter(|line| over.is_none_or(|dir| !dir.names.contains_key(line.name())));
            entries.extend(shown);
            if last {
                break;
            }
            // Many names may be hidden by pending removals: whether a directory is empty is asked with a limit of 1.
            wanted = wanted.saturating_mul(2).min(HIDDEN_BATCH).max(limit.saturating_sub(entries.len()));
        }
        if let Some(dir) = over {
            // Only up to where the stored names were read, or all of them if they were read to their end.
            let full = entries.len() >= limit;
            let upto = entries.last().map_or(u64::MAX, Line::cookie);
            for (cookie, name) in dir.order.range(after.saturating_add(1)..).take(limit) {
                if full && *cookie > upto {
                    break;
                }
                let Some(named) = dir.names.get(name).and_then(|over| over.there.as_ref()) else { continue };
                let Some(node) = self.node_of(&named.keg)? else { continue };
                entries.push(entry(name.to_vec(), *cookie, node));
            }
            entries.sort_unstable_by_key(Line::cookie);
            entries.truncate(limit);
        }
        Ok(entries)
    }

    /// The directory has no names.
    ///
    /// # Errors
    /// Those of reading.
    pub fn is_empty(&self, dir: u64) -> Result<bool, ReplicaError> {
        let overlay = &self.state.overlay;
        let keg = overlay.inos.get(&dir);
        let over = keg.and_then(|keg| overlay.dirs.get(keg));
        if over.is_some_and(|dir| !dir.order.is_empty()) {
            return Ok(false);
        }
        if keg.and_then(|keg| overlay.nodes.get(keg)).is_some_and(|row| !row.stored) {
            return Ok(true);
        }
        Ok(!self.base().has_name(dir, |name| over.is_some_and(|dir| dir.names.contains_key(name)))?)
    }

    /// Extents of the file that meet `[offset, offset + len)`, whole, ascending and disjoint; gaps are holes. Costs the
    /// same in large files as in small ones.
    ///
    /// # Errors
    /// Those of reading.
    pub fn extents(&self, ino: u64, offset: u64, len: u64) -> Result<Vec<Extent>, ReplicaError> {
        Ok(self.some_extents(ino, offset..offset.saturating_add(len), usize::MAX)?.list)
    }

    /// The first of them, about `limit`, which is at least 1. What it costs does not depend on how many more there are, nor
    /// on how long the holes are.
    ///
    /// # Errors
    /// Those of reading.
    pub fn some_extents(&self, ino: u64, span: Range<u64>, limit: usize) -> Result<Extents, ReplicaError> {
        let overlay = &self.state.overlay;
        let Some(keg) = overlay.inos.get(&ino) else { return self.base().some_extents(ino, span, limit) };
        let stored = overlay.nodes.get(keg).is_none_or(|row| row.stored);
        let base = match stored {
            true => self.base().some_extents(ino, span.clone(), limit)?,
            false => Extents { list: Vec::new(), upto: span.end },
        };
        let Some(content) = overlay.contents.get(keg) else { return Ok(base) };
        let upto = content.reach(span.start, base.upto, limit);
        Ok(Extents { list: content.over(base.list, span.start, upto), upto })
    }

    /// One extended attribute.
    ///
    /// # Errors
    /// Those of reading.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>, ReplicaError> {
        let overlay = &self.state.overlay;
        if let Some(row) = overlay.by_ino(ino) {
            if !row.xattrs {
                return Ok(None);
            }
            if let Some((value, _)) = overlay.xattrs.get(&row.node.keg).and_then(|xattrs| xattrs.get(name)) {
                return Ok(value.clone());
            }
            return if row.stored { self.base().xattr(ino, name) } else { Ok(None) };
        }
        match self.base().by_ino(ino)? {
            Some(row) if row.xattrs => self.base().xattr(ino, name),
            _ => Ok(None),
        }
    }

    /// All extended attributes, ascending by name.
    ///
    /// # Errors
    /// Those of reading.
    pub fn xattrs(&self, ino: u64) -> Result<Vec<Xattr>, ReplicaError> {
        let overlay = &self.state.overlay;
        if let Some(row) = overlay.by_ino(ino) {
            let stored = if row.stored && row.xattrs { self.base().xattrs(ino)? } else { Vec::new() };
            return Ok(merge_xattrs(stored, overlay, &row.node.keg));
        }
        match self.base().by_ino(ino)? {
            Some(row) if row.xattrs => self.base().xattrs(ino),
            _ => Ok(Vec::new()),
        }
    }

    /// All names of a node, in the order in which they were made.
    ///
    /// # Errors
    /// Those of reading.
    pub fn names(&self, ino: u64) -> Result<Vec<NameOf>, ReplicaError> {
        let overlay = &self.state.overlay;
        let over = overlay.by_ino(ino);
        let stored = if over.is_none_or(|row| row.stored) { self.base().names_of(ino)? } else { Vec::new() };
        let keg = match over {
            Some(row) => row.node.keg,
            None => match self.base().by_ino(ino)? {
                Some(row) => row.node.keg,
                None => return Ok(Vec::new()),
            },
        };
        let mut names = Vec::new();
        for dentry in merge_names(stored, overlay, &keg) {
            if let Some(parent_ino) = self.ino_of(&dentry.parent)? {
                names.push(NameOf { parent_ino, parent: dentry.parent, name: dentry.name });
            }
        }
        Ok(names)
    }

    /// Bytes of all files, and number of all nodes.
    pub fn usage(&self) -> (u64, u64) {
        let (confirmed, pending) = (self.state.usage, self.state.overlay.usage);
        let sum = |a: i64, b: i64| u64::try_from(a.saturating_add(b)).unwrap_or(0);
        (sum(confirmed.0, pending.0), sum(confirmed.1, pending.1))
    }

    /// The newest applied position.
    pub fn head(&self) -> Head {
        self.state.head
    }

    /// What verification says about the folder.
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.state.standing)
    }

    /// This account's role; `None`: not a member (any more).
    pub fn role(&self) -> Option<Role> {
        self.state.standing.role
    }

    /// Current epoch.
    pub fn epoch(&self) -> u32 {
        self.state.standing.epoch
    }

    /// The folder's name, once it has one.
    pub fn folder_name(&self) -> Option<String> {
        let pending = self.state.overlay.folder_name.as_ref().map(|(name, _)| name);
        pending.or(self.state.folder_name.as_ref()).cloned()
    }

    /// Whether something about this node is pending: its attributes, names in it, or content.
    pub fn is_pending(&self, ino: u64) -> bool {
        self.state.overlay.inos.contains_key(&ino)
    }

    /// Confirmed content changes of the file, oldest first.
    ///
    /// # Errors
    /// Those of reading.
    pub fn versions(&self, ino: u64) -> Result<Vec<ContentVersion>, ReplicaError> {
        self.base().versions(ino)
    }

    /// Length and extents of the file as they were confirmed at position `seq`; `None` before its first content.
    ///
    /// # Errors
    /// Those of reading.
    pub fn content_at(&self, ino: u64, seq: u64) -> Result<Option<(u64, Vec<Extent>)>, ReplicaError> {
        self.base().content_before(ino, seq.saturating_add(1))
    }

    /// What is kept of entry `seq`.
    ///
    /// # Errors
    /// Those of reading.
    pub fn log_line(&self, seq: u64) -> Result<Option<LogLine>, ReplicaError> {
        self.shared.pool.with(|db| {
            db.run(|conn| {
                let mut statement = conn.prepare_cached(
                    "SELECT l.chain, l.hash, l.account, d.device, l.label, l.created_ms FROM log l
                     JOIN device d ON d.id = l.device WHERE l.seq = ?1",
                )?;
                let line = statement.query_row([seq.cast_signed()], |row| {
                    Ok(LogLine {
                        seq,
                        chain: ChainHash(row.get(0)?),
                        hash: EntryHash(row.get(1)?),
                        account: AccountId(row.get(2)?),
                        device: DeviceId(row.get(3)?),
                        label: row.get(4)?,
                        created_ms: row.get(5)?,
                    })
                });
                line.optional()
            })
        })
    }
}
