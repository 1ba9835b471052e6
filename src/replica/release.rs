//! Which blobs nothing refers to any more, and which were released.
//!
//! Every blob that an entry adds is known here. One is *loose*, to be looked at, when the entry that added it has left
//! nothing that refers to it, and when a row of the past that did is removed; nothing else ends a reference. So what can be
//! released is found at the cost of what changed, and whether anything refers to a loose blob is asked again at that time, of
//! the rows themselves: there are no counts that could be wrong.
//!
//! Whoever releases knows the whole past and has applied the log to its end, and the entry counts nowhere else: all that
//! refers to a blob by then is here. Whoever refers to it later has seen the release, since its entry would not count
//! otherwise, and adds the blob again ([`Replica::released`]).

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::ReplicaError;
use super::flush::put_meta;
use super::replica::{Replica, meta};
use super::state::Place;
use super::thin;
use super::types::{Added, Confirmed};
use crate::format::{Batch, BlobId, BlobRef, Checkpoint, EntryKind};

/// In `meta`: something in the log refers to blobs that is not known here.
const UNREAD: &str = "unread";

// Of few blobs, whatever there are in all. `CROSS JOIN` has SQLite begin with the table that is named first: left to itself it
// goes through all blobs and looks for each in the other one, with every entry.
pub(super) const RELEASABLE: &str = "SELECT l.id, b.size FROM loose l CROSS JOIN blob b ON b.id = l.id
     WHERE b.released IS NULL AND NOT EXISTS (SELECT 1 FROM extent WHERE blob = l.id)
     AND NOT EXISTS (SELECT 1 FROM extent_past WHERE blob = l.id)";
pub(super) const MISSED: &str = "SELECT m.id, b.size FROM missed m CROSS JOIN blob b ON b.id = m.id";

/// Takes note of what an entry adds and releases, after its rows were written; returns how many of the blobs that it
/// releases are in use.
pub(super) fn note(conn: &Connection, entry: &Confirmed) -> rusqlite::Result<u64> {
    let envelope = &entry.envelope;
    if entry.added == Added::Unread {
        put_meta(conn, UNREAD, 1)?;
    }
    if entry.added != Added::Ignored && !envelope.adds.is_empty() {
        let of_checkpoint = match envelope.kind {
            EntryKind::Checkpoint => Checkpoint::decode(&envelope.body).ok().map(|body| body.epoch),
            _ => None,
        };
        let mut add = conn.prepare_cached(
            "INSERT INTO blob VALUES (?1, ?2, NULL) ON CONFLICT (id) DO UPDATE SET size = ?2, released = NULL",
        )?;
        for blob in &envelope.adds {
            let named = is_named(conn, &blob.id)?;
            // What files consist of is no state that was handed over, whatever somebody says.
            if let Some(epoch) = of_checkpoint.filter(|_| !named) {
                hand_over(conn, &blob.id, epoch, entry.head.seq)?;
            }
            add.execute(params![blob.id.as_bytes(), blob.size_bytes.cast_signed()])?;
            conn.prepare_cached("DELETE FROM missed WHERE id = ?1")?.execute([blob.id.as_bytes()])?;
            if entry.added == Added::Known && !named {
                conn.prepare_cached("INSERT OR IGNORE INTO loose VALUES (?1)")?.execute([blob.id.as_bytes()])?;
            }
        }
    }
    if let Some(batch) = &entry.batch {
        note_unadded(conn, entry.head.seq, batch, &envelope.adds)?;
    }
    let mut in_use = 0;
    if let Some(thin) = &entry.thin {
        // Also what was added before blobs were noted: who refers to it must know.
        let mut release =
            conn.prepare_cached("INSERT INTO blob VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET released = ?3")?;
        let mut settled = conn.prepare_cached("DELETE FROM loose WHERE id = ?1")?;
        for blob in &envelope.releases {
            if is_shown(conn, &blob.id)?
                || handed_over(conn, &blob.id)?.iter().any(|epoch| thin.lasting_epochs.contains(epoch))
            {
                in_use += 1;
                conn.prepare_cached("INSERT OR IGNORE INTO missed VALUES (?1)")?.execute([blob.id.as_bytes()])?;
            }
            let row = params![blob.id.as_bytes(), blob.size_bytes.cast_signed(), entry.head.seq.cast_signed()];
            release.execute(row)?;
            settled.execute([blob.id.as_bytes()])?;
        }
    }
    Ok(in_use)
}

/// Remembers the released blobs that a batch refers to without adding them: its author did not have them any more. Others
/// may. What nobody has ever added is as if it had been released: the server keeps it for no longer than an upload without an
/// entry, and who refers to it again adds it.
fn note_unadded(conn: &Connection, seq: u64, batch: &Batch, adds: &[BlobRef]) -> rusqlite::Result<()> {
    let mut known: HashSet<BlobId> = adds.iter().map(|blob| blob.id).collect();
    // Not where some were added before any were noted.
    let mut never = conn.prepare_cached(
        "INSERT OR IGNORE INTO blob SELECT ?1, 0, ?2 WHERE NOT EXISTS (SELECT 1 FROM meta WHERE key = 'blobs_since')",
    )?;
    let mut missed =
        conn.prepare_cached("INSERT OR IGNORE INTO missed SELECT id FROM blob WHERE id = ?1 AND released IS NOT NULL")?;
    for blob in batch.ops.iter().flat_map(|op| op.kind.blobs()) {
        if known.insert(blob) {
            never.execute(params![blob.as_bytes(), seq.cast_signed()])?;
            missed.execute([blob.as_bytes()])?;
        }
    }
    Ok(())
}

/// Some row names the blob.
fn is_named(conn: &Connection, blob: &BlobId) -> rusqlite::Result<bool> {
    let named = "SELECT 1 FROM extent WHERE blob = ?1 UNION ALL SELECT 1 FROM extent_past WHERE blob = ?1 LIMIT 1";
    conn.prepare_cached(named)?.exists([blob.as_bytes()])
}

/// What exists today, or a moment that is left, shows the blob.
fn is_shown(conn: &Connection, blob: &BlobId) -> rusqlite::Result<bool> {
    let mut shown = conn.prepare_cached(
        "SELECT 1 FROM extent e JOIN node n ON n.ino = e.ino WHERE e.blob = ?1 AND (n.nlink > 0 OR n.removed_seq > ?2
           OR EXISTS (SELECT 1 FROM kept k WHERE k.seq >= e.seq AND k.seq < n.removed_seq))
         UNION ALL SELECT 1 FROM extent_past e WHERE e.blob = ?1 AND (e.to_seq > ?2
           OR EXISTS (SELECT 1 FROM kept k WHERE k.seq >= e.from_seq AND k.seq < e.to_seq)) LIMIT 1",
    )?;
    shown.exists(params![blob.as_bytes(), thin::thinned(conn)?.cast_signed()])
}

/// Notes that the blob is of a state of the beginning of `epoch`.
fn hand_over(conn: &Connection, blob: &BlobId, epoch: u32, seq: u64) -> rusqlite::Result<()> {
    let mut note = conn.prepare_cached("INSERT OR IGNORE INTO handed_over VALUES (?1, ?2, ?3)")?;
    note.execute(params![blob.as_bytes(), epoch, seq.cast_signed()]).map(|_| ())
}

/// The epochs whose beginnings' states the blob is of, if any: nobody's saying so of one takes it from another.
fn handed_over(conn: &Connection, blob: &BlobId) -> rusqlite::Result<Vec<u32>> {
    let mut epochs = conn.prepare_cached("SELECT epoch FROM handed_over WHERE id = ?1")?;
    let epochs = epochs.query_map([blob.as_bytes()], |row| row.get(0))?;
    epochs.collect()
}

/// Forgets those that something names, and those that were released or were never noted.
pub(super) fn tidy(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute(
        "DELETE FROM loose WHERE EXISTS (SELECT 1 FROM extent WHERE blob = loose.id)
         OR EXISTS (SELECT 1 FROM extent_past WHERE blob = loose.id)
         OR NOT EXISTS (SELECT 1 FROM blob WHERE blob.id = loose.id AND released IS NULL)",
        [],
    )
    .map(|_| ())
}

impl Replica {
    /// Blobs that neither the present nor any moment that is left refers to, nor own pending work, at most `limit`. Of the
    /// state of an epoch's beginning only where the epoch is in `gone`: nobody can begin with it any more. None where
    /// something of the log is not known here.
    ///
    /// # Errors
    /// Those of reading.
    pub fn releasable(&self, limit: usize, gone: &HashSet<u32>) -> Result<Vec<BlobRef>, ReplicaError> {
        let pending = self.pending_blobs();
        self.reading(|conn| {
            if meta::<i64>(conn, "origin_wanted")?.is_some() || meta::<i64>(conn, UNREAD)?.is_some() {
                return Ok(Vec::new());
            }
            let mut statement = conn.prepare_cached(RELEASABLE)?;
            let (mut rows, mut found) = (statement.query([])?, Vec::new());
            while found.len() < limit
                && let Some(row) = rows.next()?
            {
                let blob = BlobRef { id: BlobId(row.get(0)?), size_bytes: row.get::<_, i64>(1)?.cast_unsigned() };
                if !pending.contains(&blob.id) && handed_over(conn, &blob.id)?.iter().all(|epoch| gone.contains(epoch))
                {
                    found.push(blob);
                }
            }
            Ok(found)
        })
    }

    /// What work that was not sent refers to.
    fn pending_blobs(&self) -> HashSet<BlobId> {
        let mut blobs = HashSet::new();
        for queued in &self.shared().state.read().queue.ops {
            if let Place::Filled(op) = &queued.place {
                blobs.extend(op.kind.blobs());
            }
        }
        blobs
    }

    /// Blobs that were released although today's files or moments that are left consist of them, or that are of files
    /// without having been added again; at most `limit`, with their lengths as far as those are known.
    ///
    /// # Errors
    /// Those of reading.
    pub fn missed(&self, limit: usize) -> Result<Vec<BlobRef>, ReplicaError> {
        let mut stale = Vec::new();
        let found = self.reading(|conn| {
            let mut statement = conn.prepare_cached(MISSED)?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while found.len() < limit
                && let Some(row) = rows.next()?
            {
                let blob = BlobRef { id: BlobId(row.get(0)?), size_bytes: row.get::<_, i64>(1)?.cast_unsigned() };
                // It may have been overwritten and thinned out since. Of a state that was handed over it does no harm.
                if is_shown(conn, &blob.id)? || !handed_over(conn, &blob.id)?.is_empty() {
                    found.push(blob);
                } else {
                    stale.push(blob.id);
                }
            }
            Ok(found)
        })?;
        if !stale.is_empty() {
            // Not gone through again: who refers to one of them from now on adds it.
            self.give_up(&stale)?;
        }
        Ok(found)
    }

    /// Notes which blobs the state of the beginning of `epoch` refers to that is signed at `seq`.
    ///
    /// # Errors
    /// Those of writing.
    pub fn note_state(&self, epoch: u32, seq: u64, blobs: &HashSet<BlobId>) -> Result<(), ReplicaError> {
        self.write_beside(|conn| blobs.iter().try_for_each(|blob| hand_over(conn, blob, epoch, seq)))
    }

    /// Some of the state that is signed at `seq` was released, and nobody here can add it again.
    ///
    /// # Errors
    /// Those of reading.
    pub fn lost_state(&self, seq: u64) -> Result<bool, ReplicaError> {
        self.reading(|conn| {
            let mut lost = conn.prepare_cached(
                "SELECT 1 FROM handed_over h CROSS JOIN blob b ON b.id = h.id WHERE h.seq = ?1 AND b.released IS NOT NULL
                 AND NOT EXISTS (SELECT 1 FROM missed m WHERE m.id = h.id) LIMIT 1",
            )?;
            lost.exists([seq.cast_signed()])
        })
    }

    /// Whether any entry has added or released the blob; `None` where not all that was is known here.
    ///
    /// # Errors
    /// Those of reading.
    pub fn heard_of(&self, blob: &BlobId) -> Result<Option<bool>, ReplicaError> {
        self.reading(|conn| {
            if meta::<i64>(conn, "blobs_since")?.is_some() || meta::<i64>(conn, UNREAD)?.is_some() {
                return Ok(None);
            }
            conn.prepare_cached("SELECT 1 FROM blob WHERE id = ?1")?.exists([blob.as_bytes()]).map(Some)
        })
    }

    /// There are any.
    pub fn has_missed(&self) -> bool {
        // Unreadable: looked at again later.
        self.missed(1).is_ok_and(|found| !found.is_empty())
    }

    /// The blobs are not to be had here: they are not [`missed`](Self::missed) any more.
    ///
    /// # Errors
    /// Those of writing.
    pub fn give_up(&self, blobs: &[BlobId]) -> Result<(), ReplicaError> {
        self.write_beside(|conn| {
            let mut forget = conn.prepare_cached("DELETE FROM missed WHERE id = ?1")?;
            blobs.iter().try_for_each(|blob| forget.execute([blob.as_bytes()]).map(|_| ()))
        })
    }

    /// Bytes of all blobs that the server keeps for the folder, without those that wait to be removed; `None` where not
    /// all of them are known here.
    ///
    /// # Errors
    /// Those of reading.
    pub fn kept_bytes(&self) -> Result<Option<u64>, ReplicaError> {
        self.reading(|conn| {
            if meta::<i64>(conn, "blobs_since")?.is_some() {
                return Ok(None);
            }
            let sum = "SELECT coalesce(sum(size), 0) FROM blob WHERE released IS NULL";
            conn.query_row(sum, [], |row| row.get::<_, i64>(0)).map(|bytes| Some(bytes.cast_unsigned()))
        })
    }

    /// Which of the blobs were released and not added since: who refers to one adds it again.
    ///
    /// # Errors
    /// Those of reading.
    pub fn released(&self, blobs: &[BlobId]) -> Result<Vec<BlobId>, ReplicaError> {
        self.reading(|conn| {
            let mut statement = conn.prepare_cached("SELECT 1 FROM blob WHERE id = ?1 AND released IS NOT NULL")?;
            let mut found = Vec::new();
            for id in blobs {
                if statement.exists([id.as_bytes()])? {
                    found.push(*id);
                }
            }
            Ok(found)
        })
    }
}
