//! Values of the model as rows, and back.
//!
//! Devices are stored as small numbers (table `device`), kept in memory in both directions: a folder has few of them,
//! and every node and name carries some.

use std::collections::HashMap;

use parking_lot::RwLock;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use crate::format::{DeviceId, Extent, KegId, NodeKind};
use crate::keg::{Node, Removed, Stamp};

/// A node as the database holds it.
#[derive(Clone, Debug)]
pub(super) struct NodeRow {
    pub(super) node: Node,
    /// Has or had extended attributes. While `false`, asking for one costs nothing.
    pub(super) xattrs: bool,
}

/// A name as the database holds it; directory and name are what it was found by.
#[derive(Clone, Debug)]
pub(super) struct NameRow {
    pub(super) keg: KegId,
    pub(super) child: u64,
    pub(super) cookie: u64,
    pub(super) wanted: Option<Vec<u8>>,
    pub(super) placed: Stamp,
}

/// What a node adds to the folder's (bytes, files): nothing once it is removed.
pub(super) fn usage(node: &Node) -> (i64, i64) {
    match (node.nlink, node.kind) {
        (0, _) => (0, 0),
        (_, NodeKind::File) => (node.size.cast_signed(), 1),
        _ => (0, 1),
    }
}

/// Columns of `node` in the order that [`node`] reads, with a table alias `n`.
macro_rules! node_columns {
    () => {
        "n.ino, n.keg, n.kind, n.mode, n.uid, n.gid, n.rdev, n.nlink, n.size, n.atime_ns, n.mtime_ns, n.ctime_ns, \
         n.btime_ns, n.target, n.content_seq, n.content_device, n.removed_seq, n.removed_device, n.removed_parent, \
         n.removed_name, n.xattrs, n.allocated"
    };
}
/// Columns of an extent in the order that [`extent`] reads.
macro_rules! extent_columns {
    () => {
        "offset, len, blob, blob_offset, chunk_len, chunk_skip, key"
    };
}
pub(super) use {extent_columns, node_columns};

/// Number of columns of `node_columns`.
pub(super) const NODE_WIDTH: usize = 22;

/// Reads a node from the columns `node_columns` that begin at `at`.
pub(super) fn node(row: &Row<'_>, at: usize, devices: &Devices) -> rusqlite::Result<NodeRow> {
    let removed = match row.get::<_, Option<i64>>(at + 16)? {
        Some(seq) => Some(Removed {
            stamp: Stamp { seq: seq.cast_unsigned(), device: devices.get(row.get(at + 17)?) },
            parent: KegId(row.get(at + 18)?),
            name: row.get(at + 19)?,
        }),
        None => None,
    };
    let node = Node {
        keg: KegId(row.get(at + 1)?),
        ino: row.get::<_, i64>(at)?.cast_unsigned(),
        kind: kind_of(row.get(at + 2)?, at + 2)?,
        mode: row.get(at + 3)?,
        uid: row.get(at + 4)?,
        gid: row.get(at + 5)?,
        rdev: row.get(at + 6)?,
        nlink: row.get(at + 7)?,
        size: row.get::<_, i64>(at + 8)?.cast_unsigned(),
        allocated: row.get::<_, i64>(at + 21)?.cast_unsigned(),
        atime_ns: row.get(at + 9)?,
        mtime_ns: row.get(at + 10)?,
        ctime_ns: row.get(at + 11)?,
        btime_ns: row.get(at + 12)?,
        target: row.get::<_, Option<Vec<u8>>>(at + 13)?.unwrap_or_default(),
        content: Stamp { seq: row.get::<_, i64>(at + 14)?.cast_unsigned(), device: devices.get(row.get(at + 15)?) },
        removed,
    };
    Ok(NodeRow { node, xattrs: row.get(at + 20)? })
}

/// Reads a name from keg, child, cookie, wanted, placed_seq, placed_device, beginning at column `at`.
pub(super) fn name(row: &Row<'_>, at: usize, devices: &Devices) -> rusqlite::Result<NameRow> {
    Ok(NameRow {
        keg: KegId(row.get(at)?),
        child: row.get::<_, i64>(at + 1)?.cast_unsigned(),
        cookie: row.get::<_, i64>(at + 2)?.cast_unsigned(),
        wanted: row.get(at + 3)?,
        placed: Stamp { seq: row.get::<_, i64>(at + 4)?.cast_unsigned(), device: devices.get(row.get(at + 5)?) },
    })
}

/// Reads an extent from `extent_columns`.
pub(super) fn extent(row: &Row<'_>) -> rusqlite::Result<Extent> {
    Ok(Extent {
        offset: row.get::<_, i64>(0)?.cast_unsigned(),
        len: row.get(1)?,
        blob: crate::format::BlobId(row.get(2)?),
        blob_offset: row.get(3)?,
        chunk_len: row.get(4)?,
        chunk_skip: row.get(5)?,
        key: row.get(6)?,
    })
}

/// The number that stands for a kind; never changes.
pub(super) fn kind_number(kind: NodeKind) -> i64 {
    match kind {
        NodeKind::File => 0,
        NodeKind::Directory => 1,
        NodeKind::Symlink => 2,
        NodeKind::Fifo => 3,
        NodeKind::CharDevice => 4,
        NodeKind::BlockDevice => 5,
        NodeKind::Socket => 6,
    }
}

pub(super) fn kind_of(number: i64, column: usize) -> rusqlite::Result<NodeKind> {
    Ok(match number {
        0 => NodeKind::File,
        1 => NodeKind::Directory,
        2 => NodeKind::Symlink,
        3 => NodeKind::Fifo,
        4 => NodeKind::CharDevice,
        5 => NodeKind::BlockDevice,
        6 => NodeKind::Socket,
        _ => return Err(rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, "kind".into())),
    })
}

/// Device ids by number and numbers by device id.
#[derive(Default)]
pub(super) struct Devices(RwLock<(Vec<DeviceId>, HashMap<DeviceId, i64>)>);

impl Devices {
    /// Reads the table again: at opening, and after a transaction that may have added to it was rolled back.
    pub(super) fn load(&self, conn: &Connection) -> rusqlite::Result<()> {
        let mut list = Vec::new();
        let mut numbers = HashMap::new();
        let mut statement = conn.prepare("SELECT id, device FROM device ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, device) = (row.get::<_, i64>(0)?, DeviceId(row.get(1)?));
            let index = usize::try_from(id).unwrap_or_default();
            if list.len() <= index {
                list.resize(index + 1, DeviceId::ZERO);
            }
            list[index] = device;
            numbers.insert(device, id);
        }
        *self.0.write() = (list, numbers);
        Ok(())
    }

    /// The device with this number. Numbers come from the same database, so an unknown one reads as nobody.
    pub(super) fn get(&self, number: i64) -> DeviceId {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        self.0.read().0.get(index).copied().unwrap_or(DeviceId::ZERO)
    }

    /// The number of a device, given now if it has none. Within a write transaction only.
    pub(super) fn number(&self, conn: &Connection, device: &DeviceId) -> rusqlite::Result<i64> {
        if let Some(number) = self.0.read().1.get(device) {
            return Ok(*number);
        }
        let mut known = self.0.write();
        let number = i64::try_from(known.0.len().max(1)).unwrap_or(i64::MAX);
        conn.execute("INSERT INTO device (id, device) VALUES (?1, ?2)", params![number, device.as_bytes()])?;
        known.0.resize(number as usize, DeviceId::ZERO);
        known.0.push(*device);
        known.1.insert(*device, number);
        Ok(number)
    }

    /// The number of a device if it has one.
    pub(super) fn known(&self, device: &DeviceId) -> Option<i64> {
        self.0.read().1.get(device).copied()
    }
}
