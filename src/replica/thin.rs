//! Thinning out the past.
//!
//! # Construction
//! What an entry of this kind does to the *moments* is a pure function of the log, done in its transaction: every replica is
//! left with the same, of those that it had. `kept` has the moments that are left before `meta.thinned`; from there on all
//! are there.
//!
//! What goes with a moment is what no other shows. Between two neighbouring moments that are left, `a` and `b`, those are the
//! rows valid in `[from, to)` with `a < from` and `to <= b`, found by the end of their validity: the cost is that of what
//! changed between the two, however large folder and past are. Which pairs are still to be looked through is in `owed`.
//!
//! Removing rows changes nothing that any entry does: entries that come later are applied without what was before `thinned`
//! (`keg::Context::horizon`), and their authors have put into them what they mean of it (`sync::carry`). So *when* it is done
//! is this machine's affair: not while own work is pending that was made on what would go, and not to the content of a
//! removed file that a program here still has open.
//!
//! The node of a removed keg stays, and which changes of content there were: that is what later entries ask for. What it
//! contained ends with its removal, and is of the past from then on.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension};

use super::ReplicaError;
use super::base::Cache;
use super::db::Db;
use super::flush::put_meta;
use super::release;
use super::replica::{Replica, Shared, meta};
use super::state::{Place, State};
use super::told;
use crate::format::limits::THIN_MAX_KEPT;
use crate::format::{RetentionRule, Thinning};
use crate::keg::retention::{self, Dated};

/// Moments that stay for the one reason that those after them are left to the next entry: the last of an hour, a day and a
/// week, by either of the times.
const AT_THE_CUT: usize = 6;

/// A thinning that counts, with what it depends on.
#[derive(Clone, Debug)]
pub struct Thin {
    /// What its author wants.
    pub body: Thinning,
    /// The rule in force.
    pub rule: RetentionRule,
    /// The entry's own time, milliseconds since 1970 UTC.
    pub now_ms: i64,
    /// Moments that stay whatever it says, ascending.
    pub lasting: Vec<u64>,
    /// The epochs that begin there: the states handed over of their beginnings are in use.
    pub lasting_epochs: Vec<u32>,
}

/// What thinning out would do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thinnable {
    /// The entry's body.
    pub body: Thinning,
    /// Moments that it takes away.
    pub moments: u64,
}

/// How much of the past is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PastSize {
    /// Before this position only some moments are left; 0: all are there.
    pub thinned: u64,
    /// How many those are.
    pub kept: u64,
}

/// What is to be told of an entry that thins out the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// How many moments it wanted to take away against the rule.
    pub refused: u64,
    /// It is dated that many milliseconds before what was there when it was made.
    pub behind_ms: Option<u64>,
    /// And so it took nothing away.
    pub void: bool,
}

/// Does what the entry at `seq` says.
pub(super) fn apply(conn: &Connection, cache: &Cache, seq: u64, thin: &Thin) -> rusqlite::Result<Told> {
    let Thinning { from, upto, keep } = &thin.body;
    if from >= upto {
        // It says nothing of the past, and so nothing of when it was.
        return Ok(Told::default());
    }
    let latest_ms = match told::latest(conn, thin.now_ms)? {
        Ok(latest_ms) => latest_ms,
        Err(behind_ms) => return Ok(Told { refused: 0, behind_ms: Some(behind_ms), void: true }),
    };
    let behind_ms = told::behind_seen(conn, seq, thin.now_ms)?;
    conn.prepare_cached("INSERT INTO thinning VALUES (?1, ?2)")?.execute([int(seq), latest_ms])?;
    let origin = cache.origin.load(Ordering::Acquire).max(1);
    let before = thinned(conn)?;
    let moments = moments(conn, (*from).max(origin), *upto)?;
    let (gone, refused) = retention::going(&thin.rule, thin.now_ms, moments, keep, &thin.lasting);
    let mut left = conn.prepare_cached("INSERT INTO kept SELECT seq FROM log WHERE seq >= ?1 AND seq < ?2")?;
    left.execute([int(before.max(origin)), int(*upto)])?;
    let mut drop = conn.prepare_cached("DELETE FROM kept WHERE seq = ?1")?;
    for seq in &gone {
        drop.execute([int(*seq)])?;
    }
    let after = before.max(*upto);
    put_meta(conn, "thinned", int(after))?;
    owe(conn, &gone, after)?;
    Ok(Told { refused, behind_ms, void: false })
}

/// The moments in `[from, upto)` with their times as everybody takes them, the latest first.
fn moments(conn: &Connection, from: u64, upto: u64) -> rusqlite::Result<Vec<Dated>> {
    // No time is later than the next thinning says; and those never go back.
    let mut statement = conn.prepare_cached("SELECT seq, said_ms FROM thinning WHERE seq > ?1 ORDER BY seq DESC")?;
    let said = statement.query_map([int(from)], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)))?;
    let mut said = said.collect::<rusqlite::Result<Vec<(u64, i64)>>>()?.into_iter().peekable();
    let before = thinned(conn)?;
    let mut whole =
        conn.prepare_cached("SELECT seq, created_ms FROM log WHERE seq >= ?1 AND seq < ?2 ORDER BY seq DESC")?;
    // Of what was thinned before, the few that are left, not all that there were.
    let mut kept = conn.prepare_cached(
        "SELECT k.seq, l.created_ms FROM kept k CROSS JOIN log l ON l.seq = k.seq
         WHERE k.seq >= ?1 AND k.seq < ?2 ORDER BY k.seq DESC",
    )?;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?));
    let mut found = whole.query_map([int(from.max(before)), int(upto)], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    found.extend(kept.query_map([int(from), int(upto.min(before))], read)?.collect::<rusqlite::Result<Vec<_>>>()?);
    let mut latest_ms = i64::MAX;
    Ok(found
        .into_iter()
        .map(|(seq, created_ms)| {
            while let Some((_, said_ms)) = said.next_if(|(thinning, _)| *thinning > seq) {
                latest_ms = latest_ms.min(said_ms);
            }
            Dated { seq, time_ms: created_ms.min(latest_ms) }
        })
        .collect())
}

/// The first of the moments (descending) that is not among those kept (ascending).
fn first_gone(moments: &[(Dated, i64)], keep: &[u64]) -> Option<u64> {
    let ascending = moments.iter().rev().map(|(moment, _)| moment.seq).enumerate();
    ascending.into_iter().find(|(index, seq)| keep.get(*index) != Some(seq)).map(|(_, seq)| seq)
}

/// Notes between which moments rows are to be looked through. `gone` is descending.
fn owe(conn: &Connection, gone: &[u64], thinned: u64) -> rusqlite::Result<()> {
    let mut before = conn.prepare_cached("SELECT seq FROM kept WHERE seq < ?1 ORDER BY seq DESC LIMIT 1")?;
    let mut after = conn.prepare_cached("SELECT seq FROM kept WHERE seq > ?1 ORDER BY seq LIMIT 1")?;
    let mut note = conn.prepare_cached(
        "INSERT INTO owed VALUES (?1, ?2) ON CONFLICT (after) DO UPDATE SET upto = max(upto, excluded.upto)",
    )?;
    let mut done = u64::MAX;
    for seq in gone.iter().copied() {
        if seq > done {
            continue;
        }
        let a: i64 = before.query_row([int(seq)], |row| row.get(0)).optional()?.unwrap_or(0);
        let b = after.query_row([int(seq)], |row| row.get(0)).optional()?.unwrap_or(int(thinned));
        note.execute([a, b])?;
        // All others in this gap.
        done = a.cast_unsigned();
    }
    Ok(())
}

/// Removes the rows that no moment shows any more, and makes what removed files contained rows of the past. `held`: it is
/// still needed as it is.
fn sweep(conn: &Connection, held: impl Fn(u64) -> bool) -> rusqlite::Result<()> {
    settle(conn, held)?;
    let mut owed = conn.prepare_cached("SELECT after, upto FROM owed")?;
    let gaps = owed.query_map([], |row| Ok([row.get::<_, i64>(0)?, row.get::<_, i64>(1)?]))?;
    let gaps = gaps.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut loose = conn.prepare_cached(
        "INSERT OR IGNORE INTO loose SELECT blob FROM extent_past WHERE to_seq > ?1 AND to_seq <= ?2 AND from_seq > ?1",
    )?;
    for gap in &gaps {
        loose.execute(*gap)?;
    }
    for table in ["node_past", "dentry_past", "extent_past", "xattr_past"] {
        let sql = format!("DELETE FROM {table} WHERE to_seq > ?1 AND to_seq <= ?2 AND from_seq > ?1");
        let mut delete = conn.prepare_cached(&sql)?;
        for gap in &gaps {
            delete.execute(*gap)?;
        }
    }
    conn.execute("DELETE FROM owed", [])?;
    release::tidy(conn)
}

/// What files contained that were removed before `thinned` ends with their removal.
///
/// Those that are still needed are remembered one by one, so that each file is looked at once, whatever stays open.
fn settle(conn: &Connection, held: impl Fn(u64) -> bool) -> rusqlite::Result<()> {
    let (from, upto) = (meta::<i64>(conn, "settled")?.unwrap_or(0), int(thinned(conn)?));
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let mut before = conn.prepare_cached("SELECT ino, removed_seq FROM held")?;
    let mut removed = before.query_map([], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut since = conn.prepare_cached(
        "SELECT ino, removed_seq FROM node WHERE removed_seq > ?1 AND removed_seq <= ?2 ORDER BY removed_seq",
    )?;
    removed.extend(since.query_map([from, upto], read)?.collect::<rusqlite::Result<Vec<_>>>()?);
    let mut hold = conn.prepare_cached("INSERT OR REPLACE INTO held VALUES (?1, ?2)")?;
    let mut let_go = conn.prepare_cached("DELETE FROM held WHERE ino = ?1")?;
    let mut gone = conn.prepare_cached("SELECT 1 FROM node WHERE ino = ?1 AND removed_seq = ?2")?;
    for (ino, end) in removed {
        if held(ino.cast_unsigned()) {
            hold.execute([ino, end])?;
            continue;
        }
        let_go.execute([ino])?;
        if !gone.exists([ino, end])? {
            // It has come back.
            continue;
        }
        conn.prepare_cached("INSERT OR IGNORE INTO loose SELECT blob FROM extent WHERE ino = ?1")?.execute([ino])?;
        let shown = "EXISTS (SELECT 1 FROM kept WHERE kept.seq >= t.seq AND kept.seq < ?2)";
        for (table, columns) in [
            ("extent", "ino, offset, len, blob, blob_offset, chunk_len, chunk_skip, key"),
            ("xattr", "ino, name, value"),
        ] {
            let keep = format!(
                "INSERT OR IGNORE INTO {table}_past SELECT {columns}, seq, ?2 FROM {table} t
                 WHERE ino = ?1 AND seq < ?2 AND {shown}"
            );
            conn.prepare_cached(&keep)?.execute([ino, end])?;
            conn.prepare_cached(&format!("DELETE FROM {table} WHERE ino = ?1"))?.execute([ino])?;
        }
    }
    put_meta(conn, "settled", upto)
}

/// Files that a sweep would look at again.
fn held_before(conn: &Connection) -> rusqlite::Result<Vec<u64>> {
    let mut held = conn.prepare_cached("SELECT ino FROM held")?;
    let inos = held.query_map([], |row| row.get::<_, i64>(0))?;
    inos.map(|ino| ino.map(i64::cast_unsigned)).collect()
}

/// The first position from which on all moments are there.
pub(super) fn thinned(conn: &Connection) -> rusqlite::Result<u64> {
    Ok(meta::<i64>(conn, "thinned")?.unwrap_or(0).cast_unsigned())
}

/// The moment is left. Positions before a member's history are none, but that is not looked at here.
pub(super) fn is_there(conn: &Connection, seq: u64, thinned: u64) -> rusqlite::Result<bool> {
    if seq >= thinned || seq == 0 {
        return Ok(true);
    }
    conn.prepare_cached("SELECT 1 FROM kept WHERE seq = ?1")?.exists([int(seq)])
}

fn int(number: u64) -> i64 {
    number.cast_signed()
}

impl State {
    /// No pending work was made on what is before `thinned`.
    fn is_free_of(&self, thinned: u64) -> bool {
        self.queue.ops.iter().all(|queued| match &queued.place {
            Place::Filled(op) => op.base >= thinned,
            // Its content was begun who knows when.
            Place::Reserved(_) => false,
            Place::Void => true,
        })
    }
}

impl Shared {
    /// Removes what is owed, if nothing here needs it (own work made on it is pending, a program has it open), in a transaction of its
    /// own: it is owed until it is done, and looked at with each entry.
    pub(super) fn sweep(&self, writer: &Db) -> Result<(), ReplicaError> {
        let due = writer.run(|conn| {
            let owed = conn.prepare_cached("SELECT 1 FROM owed LIMIT 1")?.exists([])?
                || meta::<i64>(conn, "settled")?.unwrap_or(0) < int(thinned(conn)?);
            let held = held_before(conn)?;
            let open = self.open_files.lock();
            let closed = held.iter().any(|ino| !open.contains_key(ino));
            Ok((owed || closed).then_some(thinned(conn)?))
        })?;
        if !due.is_some_and(|thinned| self.state.read().is_free_of(thinned)) {
            return Ok(());
        }
        writer.durable(false)?;
        let swept = writer.run(|conn| {
            conn.execute_batch("BEGIN IMMEDIATE")?;
            let open = self.open_files.lock();
            sweep(conn, |ino| open.contains_key(&ino))?;
            conn.execute_batch("COMMIT")
        });
        if let Err(error) = swept {
            if !writer.conn.is_autocommit() {
                // It has failed already; what undoing it says adds nothing.
                let _ = writer.conn.execute_batch("ROLLBACK");
            }
            return Err(error);
        }
        let _nobody_reads = self.state.write();
        self.pool.advance()
    }
}

impl Replica {
    /// A program has the file open: what it contains stays readable when others remove it.
    pub fn opened(&self, ino: u64) {
        *self.shared().open_files.lock().entry(ino).or_insert(0) += 1;
    }

    /// The inverse of [`Self::opened`].
    pub fn closed(&self, ino: u64) {
        let mut open = self.shared().open_files.lock();
        if let Some(count) = open.get_mut(&ino) {
            *count -= 1;
            if *count == 0 {
                open.remove(&ino);
            }
        }
    }

    /// How much of the past is left.
    ///
    /// # Errors
    /// As all here: those of reading.
    pub fn past_size(&self) -> Result<PastSize, ReplicaError> {
        self.reading(|conn| {
            let kept = conn.query_row("SELECT count(*) FROM kept", [], |row| row.get::<_, i64>(0))?;
            Ok(PastSize { thinned: thinned(conn)?, kept: kept.cast_unsigned() })
        })
    }

    /// What the rule lets go at `now_ms` (milliseconds since 1970 UTC), by the times in the log and by those at which this
    /// machine has first seen the entries; `None`: nothing. Costs what the moments left of the thinned past cost, and those
    /// since.
    ///
    /// # Errors
    /// Those of reading.
    pub fn thinnable(
        &self,
        rule: &RetentionRule,
        now_ms: i64,
        lasting: &[u64],
    ) -> Result<Option<Thinnable>, ReplicaError> {
        self.thinnable_by(rule, now_ms, lasting, THIN_MAX_KEPT)
    }

    /// The same for an entry that names at most `most`: the front of it, where the rule keeps more.
    pub(super) fn thinnable_by(
        &self,
        rule: &RetentionRule,
        now_ms: i64,
        lasting: &[u64],
        most: usize,
    ) -> Result<Option<Thinnable>, ReplicaError> {
        if rule.keep_all_s == RetentionRule::FOREVER {
            return Ok(None);
        }
        let head = self.head().seq;
        let origin = self.shared().cache.origin.load(Ordering::Acquire).max(1);
        self.reading(|conn| {
            // The entry would take nothing away.
            let Ok(latest_ms) = told::latest(conn, now_ms)? else { return Ok(None) };
            let all_from_ms =
                now_ms.saturating_sub(i64::try_from(rule.keep_all_s.saturating_mul(1000)).unwrap_or(i64::MAX));
            let newest = "SELECT seq FROM log WHERE clock_ms <= ?1 ORDER BY clock_ms DESC, seq DESC LIMIT 1";
            let newest =
                conn.prepare_cached(newest)?.query_row([all_from_ms], |row| row.get::<_, i64>(0)).optional()?;
            let Some(newest) = newest.map(i64::cast_unsigned) else { return Ok(None) };
            let mut upto = (newest + 1).min(head);
            let mut clock = conn.prepare_cached("SELECT clock_ms FROM log WHERE seq = ?1")?;
            let mut dated = Vec::new();
            for mut moment in moments(conn, origin, upto)? {
                // As the entry that is to be made will take it.
                moment.time_ms = moment.time_ms.min(latest_ms);
                let seen_ms = clock.query_row([int(moment.seq)], |row| row.get(0))?;
                dated.push((moment, seen_ms));
            }
            let mut keep = retention::choose(rule, now_ms, &dated, lasting);
            let Some(mut from) = first_gone(&dated, &keep) else { return Ok(None) };
            let named = keep.partition_point(|seq| *seq < from);
            if keep.len() - named > most {
                upto = keep[named + most.saturating_sub(AT_THE_CUT)];
                dated.retain(|(moment, _)| moment.seq < upto);
                keep = retention::choose(rule, now_ms, &dated, lasting);
                match first_gone(&dated, &keep) {
                    Some(first) => from = first,
                    None => return Ok(None),
                }
            }
            let moments = (dated.len() - keep.len()) as u64;
            let keep = keep.into_iter().filter(|seq| *seq >= from).collect();
            Ok(Some(Thinnable { body: Thinning { from, upto, keep }, moments }))
        })
    }

    /// The first moment at or after `seq` that is left.
    ///
    /// # Errors
    /// Those of reading.
    pub fn moment_after(&self, seq: u64) -> Result<u64, ReplicaError> {
        self.reading(|conn| {
            let thinned = thinned(conn)?;
            if is_there(conn, seq, thinned)? {
                return Ok(seq);
            }
            let mut next = conn.prepare_cached("SELECT seq FROM kept WHERE seq > ?1 ORDER BY seq LIMIT 1")?;
            Ok(next.query_row([int(seq)], |row| row.get::<_, i64>(0)).optional()?.map_or(thinned, i64::cast_unsigned))
        })
    }

    /// The last moment at or before `seq` that is left; 0 is the empty folder.
    ///
    /// # Errors
    /// Those of reading.
    pub fn moment_before(&self, seq: u64) -> Result<u64, ReplicaError> {
        self.reading(|conn| moment_before(conn, seq))
    }

    pub(super) fn reading<T>(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReplicaError> {
        let state = self.shared().state.read();
        if state.closed {
            return Err(ReplicaError::Closed);
        }
        self.shared().pool.with(|db| db.run(body))
    }
}

/// See [`Replica::moment_before`].
pub(super) fn moment_before(conn: &Connection, seq: u64) -> rusqlite::Result<u64> {
    if is_there(conn, seq, thinned(conn)?)? {
        return Ok(seq);
    }
    let mut last = conn.prepare_cached("SELECT seq FROM kept WHERE seq < ?1 ORDER BY seq DESC LIMIT 1")?;
    Ok(last.query_row([int(seq)], |row| row.get::<_, i64>(0)).optional()?.map_or(0, i64::cast_unsigned))
}
