//! Writing what one log entry changed, and keeping what it superseded.
//!
//! A current row that an entry at `seq` changes goes to its `*_past` table with `to_seq = seq`, unless the same entry made
//! it. One entry writes each row once, whatever number of its operations touched it.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::ReplicaError;
use super::base::{Base, Cache};
use super::db::Db;
use super::overlay::{OverNode, Overlay, Touched};
use super::past::fork;
use super::rows::{kind_number, usage};
use crate::format::{DeviceId, Extent, KegId};
use crate::keg::Redirect;

/// Who wrote the entry, and where it stands.
pub(super) struct Author<'a> {
    pub(super) seq: u64,
    pub(super) tag: u64,
    pub(super) device: &'a DeviceId,
}

/// Writes everything that the entry changed, within the caller's transaction on `base`'s writer. The overlay's rows stay
/// as what the database now holds, but for contents and attributes. Returns what was touched.
pub(super) fn flush(
    db: &Db,
    base: &Base<'_>,
    overlay: &mut Overlay,
    author: &Author<'_>,
) -> Result<HashSet<Touched>, ReplicaError> {
    let touched = overlay.take_touched();
    let mut fresh = HashSet::new();
    let mut nodes: Vec<&mut OverNode> = Vec::new();
    for (keg, row) in &mut overlay.nodes {
        if row.tag == author.tag {
            if !row.stored {
                fresh.insert(*keg);
            }
            nodes.push(row);
        }
    }
    // In the order of the table: neighbouring rows go to one page.
    nodes.sort_unstable_by_key(|row| row.node.ino);
    for row in nodes {
        db.run(|conn| write_node(conn, base.cache, row, author.seq))?;
        row.set_stored();
    }
    for row in &touched {
        match row {
            Touched::Node(_) => {}
            Touched::Dir(keg) => names(db, base, overlay, keg, author)?,
            Touched::Content(keg) => {
                let Some(content) = overlay.contents.remove(keg) else { continue };
                let Some((ino, size)) = overlay.nodes.get(keg).map(|row| (row.node.ino, row.node.size)) else {
                    continue;
                };
                let old = !fresh.contains(keg);
                for (from, to, extent) in content.edits() {
                    let superseded = if old { base.extents(ino, from, to)? } else { Vec::new() };
                    db.run(|conn| edit_content(conn, ino, (from, to), &superseded, extent, author.seq))?;
                }
                if overlay.forgotten.remove(keg) {
                    db.run(|conn| forget_versions(conn, ino, author.seq))?;
                }
                db.run(|conn| {
                    let device = base.cache.devices.number(conn, author.device)?;
                    let mut statement =
                        conn.prepare_cached("INSERT OR REPLACE INTO content VALUES (?1, ?2, ?3, ?4)")?;
                    statement.execute(params![int(ino), int(author.seq), device, int(size)]).map(|_| ())
                })?;
            }
            Touched::Xattr(keg) => {
                let Some(xattrs) = overlay.xattrs.remove(keg) else { continue };
                let Some(ino) = overlay.nodes.get(keg).map(|row| row.node.ino) else { continue };
                for (name, (value, _)) in &xattrs {
                    db.run(|conn| write_xattr(conn, ino, name, value.as_deref(), author.seq))?;
                }
            }
            Touched::Redirect(row) => {
                let (device, keg) = &**row;
                let Some((redirect, _)) = overlay.redirects.get(&**row) else { continue };
                db.run(|conn| {
                    let mut statement =
                        conn.prepare_cached("INSERT OR REPLACE INTO redirect VALUES (?1, ?2, ?3, ?4)")?;
                    let row = params![device.as_bytes(), keg.as_bytes(), redirect.to.as_bytes(), int(redirect.seq)];
                    statement.execute(row)?;
                    log_redirect(conn, device, keg, redirect, author.seq)
                })?;
            }
            Touched::FolderName => {
                let Some((name, _)) = &overlay.folder_name else { continue };
                db.run(|conn| put_name(conn, name, author.seq))?;
            }
        }
    }
    Ok(touched)
}

/// The changes of a file's content so far are of the past from entry `seq` on.
fn forget_versions(conn: &Connection, ino: u64, seq: u64) -> rusqlite::Result<()> {
    let past = "INSERT OR IGNORE INTO content_past SELECT ino, seq, device, size, ?2 FROM content WHERE ino = ?1";
    conn.prepare_cached(past)?.execute([int(ino), int(seq)])?;
    conn.prepare_cached("DELETE FROM content WHERE ino = ?1")?.execute([int(ino)]).map(|_| ())
}

/// Notes where operations go, as it is from entry `seq` on.
pub(super) fn log_redirect(
    conn: &Connection,
    device: &DeviceId,
    keg: &KegId,
    redirect: &Redirect,
    seq: u64,
) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached("INSERT OR REPLACE INTO redirect_log VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let row = params![device.as_bytes(), keg.as_bytes(), int(seq), redirect.to.as_bytes(), int(redirect.seq)];
    statement.execute(row).map(|_| ())
}

/// Writes the folder's name, as it is from entry `seq` on.
pub(super) fn put_name(conn: &Connection, name: &str, seq: u64) -> rusqlite::Result<()> {
    put_meta(conn, "folder_name", name)?;
    conn.execute("INSERT OR REPLACE INTO name_log VALUES (?1, ?2)", params![int(seq), name]).map(|_| ())
}

/// Writes a value of table `meta`.
pub(super) fn put_meta(conn: &Connection, key: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?;
    statement.execute(params![key, value]).map(|_| ())
}

fn int(number: u64) -> i64 {
    number.cast_signed()
}

/// Writes one node. Also used for the root of a new database.
pub(super) fn write_node(conn: &Connection, cache: &Cache, row: &OverNode, seq: u64) -> rusqlite::Result<()> {
    let node = &row.node;
    let content_device = cache.devices.number(conn, &node.content.device)?;
    let removed_device = match &node.removed {
        Some(removed) => Some(cache.devices.number(conn, &removed.stamp.device)?),
        None => None,
    };
    let removed = node.removed.as_ref();
    let sql = if row.stored {
        let mut past = conn.prepare_cached(
            "INSERT INTO node_past SELECT ino, keg, seq, kind, mode, uid, gid, rdev, nlink, size, atime_ns, mtime_ns,
             ctime_ns, btime_ns, target, content_seq, content_device, removed_seq, removed_device, removed_parent,
             removed_name, xattrs, ?2, allocated FROM node WHERE ino = ?1 AND seq < ?2",
        )?;
        past.execute(params![int(node.ino), int(seq)])?;
        "UPDATE node SET seq = ?3, kind = ?4, mode = ?5, uid = ?6, gid = ?7, rdev = ?8, nlink = ?9, size = ?10,
         atime_ns = ?11, mtime_ns = ?12, ctime_ns = ?13, btime_ns = ?14, target = ?15, content_seq = ?16,
         content_device = ?17, removed_seq = ?18, removed_device = ?19, removed_parent = ?20, removed_name = ?21,
         xattrs = ?22, allocated = ?23 WHERE ino = ?1 AND keg = ?2"
    } else {
        "INSERT INTO node VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,
         ?20, ?21, ?22, ?23)"
    };
    conn.prepare_cached(sql)?.execute(params![
        int(node.ino),
        node.keg.as_bytes(),
        int(seq),
        kind_number(node.kind),
        node.mode,
        node.uid,
        node.gid,
        node.rdev,
        node.nlink,
        int(node.size),
        node.atime_ns,
        node.mtime_ns,
        node.ctime_ns,
        node.btime_ns,
        (!node.target.is_empty()).then_some(&node.target),
        int(node.content.seq),
        content_device,
        removed.map(|removed| int(removed.stamp.seq)),
        removed_device,
        removed.map(|removed| removed.parent.as_bytes()),
        removed.map(|removed| &removed.name),
        row.xattrs,
        int(node.allocated),
    ])?;
    Ok(())
}

/// Writes the names of one directory that the entry changed.
fn names(
    db: &Db,
    base: &Base<'_>,
    overlay: &mut Overlay,
    keg: &KegId,
    author: &Author<'_>,
) -> Result<(), ReplicaError> {
    let Overlay { nodes, dirs, .. } = overlay;
    let number = |keg: &KegId| match nodes.get(keg) {
        Some(row) => Ok(Some(row.node.ino)),
        None => base.node(keg).map(|row| row.map(|row| row.node.ino)),
    };
    let (Some(dir), Some(parent)) = (dirs.get_mut(keg), number(keg)?) else { return Ok(()) };
    for (name, over) in &mut dir.names {
        if over.tag != author.tag {
            continue;
        }
        if over.stored {
            db.run(|conn| remove_name(conn, parent, name, author.seq))?;
        }
        if let Some(named) = &over.there
            && let Some(child) = number(&named.keg)?
        {
            db.run(|conn| {
                let device = base.cache.devices.number(conn, &named.placed.device)?;
                let mut statement =
                    conn.prepare_cached("INSERT INTO dentry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
                statement
                    .execute(params![
                        int(parent),
                        &name[..],
                        int(child),
                        int(named.cookie),
                        named.wanted,
                        int(named.placed.seq),
                        device,
                        int(author.seq)
                    ])
                    .map(|_| ())
            })?;
        }
        over.stored = over.there.is_some();
    }
    Ok(())
}

fn remove_name(conn: &Connection, parent: u64, name: &[u8], seq: u64) -> rusqlite::Result<()> {
    let mut since = conn.prepare_cached("SELECT seq FROM dentry WHERE parent = ?1 AND name = ?2")?;
    let from: Option<i64> = since.query_row(params![int(parent), name], |row| row.get(0)).optional()?;
    if let Some(from) = from.map(i64::cast_unsigned).filter(|from| *from < seq) {
        let mut past = conn.prepare_cached(
            "INSERT INTO dentry_past
             SELECT parent, name, child, cookie, wanted, placed_seq, placed_device, seq, ?3, ?4
             FROM dentry WHERE parent = ?1 AND name = ?2",
        )?;
        past.execute(params![int(parent), name, int(seq), int(fork(from, seq))])?;
    }
    let mut gone = conn.prepare_cached("DELETE FROM dentry WHERE parent = ?1 AND name = ?2")?;
    gone.execute(params![int(parent), name]).map(|_| ())
}

fn edit_content(
    conn: &Connection,
    ino: u64,
    (from, to): (u64, u64),
    superseded: &[Extent],
    extent: Option<&Extent>,
    seq: u64,
) -> rusqlite::Result<()> {
    for old in superseded {
        let mut past = conn.prepare_cached(
            "INSERT INTO extent_past SELECT ino, offset, len, blob, blob_offset, chunk_len, chunk_skip, key, seq, ?3
             FROM extent WHERE ino = ?1 AND offset = ?2 AND seq < ?3",
        )?;
        past.execute(params![int(ino), int(old.offset), int(seq)])?;
        let mut gone = conn.prepare_cached("DELETE FROM extent WHERE ino = ?1 AND offset = ?2")?;
        gone.execute(params![int(ino), int(old.offset)])?;
        for rest in [old.clip(0, from), old.clip(to, u64::MAX)].into_iter().flatten() {
            insert_extent(conn, ino, &rest, seq)?;
        }
    }
    extent.map_or(Ok(()), |extent| insert_extent(conn, ino, extent, seq))
}

pub(super) fn insert_extent(conn: &Connection, ino: u64, extent: &Extent, seq: u64) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached("INSERT INTO extent VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    let row = params![
        int(ino),
        int(extent.offset),
        extent.len,
        extent.blob.as_bytes(),
        extent.blob_offset,
        extent.chunk_len,
        extent.chunk_skip,
        extent.key,
        int(seq)
    ];
    statement.execute(row).map(|_| ())
}

fn write_xattr(conn: &Connection, ino: u64, name: &[u8], value: Option<&[u8]>, seq: u64) -> rusqlite::Result<()> {
    let key = params![int(ino), name, int(seq)];
    let mut past = conn.prepare_cached(
        "INSERT INTO xattr_past SELECT ino, name, value, seq, ?3 FROM xattr WHERE ino = ?1 AND name = ?2 AND seq < ?3",
    )?;
    past.execute(key)?;
    match value {
        Some(value) => {
            let mut statement = conn.prepare_cached("INSERT OR REPLACE INTO xattr VALUES (?1, ?2, ?3, ?4)")?;
            statement.execute(params![int(ino), name, value, int(seq)])?;
        }
        None => {
            let mut statement = conn.prepare_cached("DELETE FROM xattr WHERE ino = ?1 AND name = ?2")?;
            statement.execute(params![int(ino), name])?;
        }
    }
    Ok(())
}

impl OverNode {
    /// The database has this row now.
    fn set_stored(&mut self) {
        self.stored = true;
        self.base_usage = usage(&self.node);
    }
}
