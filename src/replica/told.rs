//! What time it is, as far as the log tells: by it entries that thin out the past are judged.
//!
//! # Construction
//! The *told time* at a position is the largest creation time of the entries before it that count and whose author
//! administered the folder. It never goes back, is the same on every replica of the log, and who only writes cannot move it.
//!
//! An entry that thins out the past and is dated more than [`BEHIND_MS`] before the told time takes nothing away: it would
//! make everything that came since look as old as its author's clock says, for good. Else nothing that came before it is later
//! than it says, or than the told time where that is later by less: so these times never go back either, and no moment of somebody who
//! administers is ever older than that entry itself says.
//!
//! A clock ahead, of somebody who administers, stops thinning until that time comes: too much is kept, nothing is lost.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension};

use super::flush::put_meta;
use super::replica::{Replica, meta};
use super::standing;
use super::types::Confirmed;
use super::{Added, ReplicaError};
use crate::sys::clock;

/// Clocks that differ by less than this are set right; rules are about days.
pub(super) const BEHIND_MS: i64 = 3_600_000;

/// In `meta`: the told time, milliseconds since 1970 UTC, and the position of the entry that told it.
const TOLD_MS: &str = "told_ms";
const TOLD_SEQ: &str = "told_seq";

/// This machine's clock is behind the one that an entry was dated by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// By how much, in milliseconds.
    pub behind_ms: u64,
    /// The entry.
    pub seq: u64,
    /// Its author, as the log names it.
    pub label: String,
}

/// Takes note of the time of an entry, after what it does.
pub(super) fn note(conn: &Connection, entry: &Confirmed) -> rusqlite::Result<()> {
    if entry.administers && entry.added != Added::Ignored {
        raise(conn, entry.envelope.created_ms, entry.head.seq.cast_signed())?;
    }
    Ok(())
}

fn raise(conn: &Connection, created_ms: i64, seq: i64) -> rusqlite::Result<()> {
    if meta::<i64>(conn, TOLD_MS)?.is_none_or(|told_ms| created_ms > told_ms) {
        put_meta(conn, TOLD_MS, created_ms)?;
        put_meta(conn, TOLD_SEQ, seq)?;
    }
    Ok(())
}

/// Up to when everything before an entry was, that thins out at `created_ms`; or by how many milliseconds it is too far behind.
pub(super) fn latest(conn: &Connection, created_ms: i64) -> rusqlite::Result<Result<i64, u64>> {
    let told_ms = meta::<i64>(conn, TOLD_MS)?.unwrap_or(i64::MIN);
    let behind_ms = told_ms.saturating_sub(created_ms);
    Ok(if behind_ms > BEHIND_MS { Err(behind_ms.unsigned_abs()) } else { Ok(created_ms.max(told_ms)) })
}

/// By how much a thinning dated `created_ms` is behind the entries since the one before it, if that is much: as they are dated, but
/// not later than this machine's clock says.
pub(super) fn behind_seen(conn: &Connection, seq: u64, created_ms: i64) -> rusqlite::Result<Option<u64>> {
    let mut newest = conn.prepare_cached(
        "SELECT max(created_ms) FROM log WHERE seq < ?1 AND seq > coalesce((SELECT max(seq) FROM thinning WHERE seq < ?1), 0)",
    )?;
    let newest_ms: Option<i64> = newest.query_row([seq.cast_signed()], |row| row.get(0))?;
    let seen_ms = newest_ms.unwrap_or(i64::MIN).min(clock::unix_nanos() / 1_000_000);
    let behind_ms = seen_ms.saturating_sub(created_ms);
    Ok((behind_ms > BEHIND_MS).then_some(behind_ms.unsigned_abs()))
}

/// A replica from before the told time was kept: what those have told who administer now, and which thinnings counted by that.
/// Others may know more, of people who do no longer; the next entry of anybody who administers is later than that.
pub(super) fn take_over(conn: &Connection) -> rusqlite::Result<()> {
    if meta::<i64>(conn, TOLD_MS)?.is_some() || meta::<i64>(conn, "mark_seq")?.is_none() {
        return Ok(());
    }
    let admins = standing::load(conn)?.members.into_iter().filter(|member| member.role.administers());
    let admins: HashSet<[u8; 32]> = admins.map(|member| *member.account.as_bytes()).collect();
    let mut log = conn.prepare(
        "SELECT l.seq, l.account, l.created_ms, t.said_ms FROM log l LEFT JOIN thinning t ON t.seq = l.seq ORDER BY l.seq",
    )?;
    let mut rows = log.query([])?;
    let (mut told, mut thinnings) = (None, Vec::new());
    while let Some(row) = rows.next()? {
        let (seq, account, created_ms): (i64, [u8; 32], i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let told_ms = told.map_or(i64::MIN, |(told_ms, _)| told_ms);
        if let Some(said_ms) = row.get::<_, Option<i64>>(3)? {
            thinnings.push((seq, (told_ms.saturating_sub(said_ms) <= BEHIND_MS).then_some(said_ms.max(told_ms))));
        }
        if admins.contains(&account) && created_ms > told_ms {
            told = Some((created_ms, seq));
        }
    }
    conn.execute_batch("SAVEPOINT told")?;
    for (seq, latest_ms) in thinnings {
        match latest_ms {
            Some(latest_ms) => conn.execute("UPDATE thinning SET said_ms = ?2 WHERE seq = ?1", [seq, latest_ms])?,
            None => conn.execute("DELETE FROM thinning WHERE seq = ?1", [seq])?,
        };
    }
    if let Some((told_ms, seq)) = told {
        raise(conn, told_ms, seq)?;
    }
    conn.execute_batch("RELEASE told")
}

impl Replica {
    /// A machine whose clock says `now_ms` (milliseconds since 1970 UTC) is too far behind to thin out the past.
    ///
    /// # Errors
    /// Those of reading.
    pub fn clock_behind(&self, now_ms: i64) -> Result<Option<Behind>, ReplicaError> {
        self.reading(|conn| {
            let Err(behind_ms) = latest(conn, now_ms)? else { return Ok(None) };
            let seq = meta::<i64>(conn, TOLD_SEQ)?.unwrap_or(0);
            let mut label = conn.prepare_cached("SELECT label FROM log WHERE seq = ?1")?;
            let label = label.query_row([seq], |row| row.get(0)).optional()?.unwrap_or_default();
            Ok(Some(Behind { behind_ms, seq: seq.cast_unsigned(), label }))
        })
    }
}
