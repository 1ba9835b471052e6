//! The journal: own work made safe against a crash before the server has it.
//!
//! One thread writes the filled front of the queue, in its order, in groups: rows of table `work` pack up to
//! [`ROW_OPS`] operations each, since a row per operation would cost more than the operations. A group waits
//! [`GROUP_DELAY`] for company unless somebody waits for it. When the server has sequenced operations, their rows go.
//!
//! Layout of `work.ops`, repeated: number (u64 BE) ‖ inode number of the created node or 0 (u64 BE) ‖ length (u32 BE) ‖
//! canonical bytes of the operation. Layout of `staged.blobs`: canonical CBOR of the list.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::params;
use zeroize::Zeroizing;

use super::ReplicaError;
use super::db::{self, Db};
use super::schema;
use super::state::Place;
use super::types::StagedEntry;
use crate::crypto::Key;
use crate::format::{Op, decode, encode};

/// Operations of one row. Bounds what is kept of a row when only its front is confirmed.
const ROW_OPS: usize = 256;
/// Operations written in one transaction, so that waiting for a flush never waits for much more.
pub(super) const GROUP_OPS: usize = 4096;
/// How long work waits for company. A crash of the process within it loses what no flush was asked for, as a crash of
/// the machine loses the last seconds on any file system.
pub(super) const GROUP_DELAY: Duration = Duration::from_millis(5);
/// After a failure, how long until the next attempt.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Page cache of the journal's connection.
const CACHE_KIB: u32 = 1024;

/// One operation as the journal has it.
pub(super) struct Journaled {
    pub(super) number: u64,
    pub(super) ino: u64,
    pub(super) bytes: u32,
    pub(super) op: Op,
}

/// The database. Behind a lock of its own: the thread and the uploader use it.
pub(super) struct Journal {
    db: Mutex<Db>,
}

impl Journal {
    pub(super) fn open(file: &Path, key: &Key) -> Result<Self, ReplicaError> {
        let db = db::open(file, key, CACHE_KIB, false)?;
        db::migrate(&db, schema::JOURNAL)?;
        Ok(Self { db: Mutex::new(db) })
    }

    /// All operations above `confirmed` in their order.
    pub(super) fn load(&self, confirmed: u64) -> Result<Vec<Journaled>, ReplicaError> {
        let db = self.db.lock();
        let rows: Vec<Zeroizing<Vec<u8>>> = db.run(|conn| {
            let mut statement = conn.prepare("SELECT ops FROM work WHERE last > ?1 ORDER BY last")?;
            let rows = statement.query_map([confirmed.cast_signed()], |row| row.get(0).map(Zeroizing::new))?;
            rows.collect()
        })?;
        let mut ops = Vec::new();
        for row in &rows {
            let mut rest = row.as_slice();
            while !rest.is_empty() {
                let (journaled, after) = unpack(rest).ok_or_else(|| ReplicaError::Corrupt {
                    file: db.file.clone(),
                    detail: "an operation cannot be read".to_owned(),
                    next: super::error::NEXT_JOURNAL,
                })?;
                rest = after;
                if journaled.number > confirmed {
                    ops.push(journaled);
                }
            }
        }
        Ok(ops)
    }

    /// All staged entries, ascending by counter.
    pub(super) fn load_staged(&self) -> Result<Vec<StagedEntry>, ReplicaError> {
        let db = self.db.lock();
        db.run(|conn| {
            let mut statement = conn.prepare("SELECT counter, last_op, bytes, blobs FROM staged ORDER BY counter")?;
            let rows = statement.query_map([], |row| {
                Ok(StagedEntry {
                    counter: row.get::<_, i64>(0)?.cast_unsigned(),
                    last_op: row.get::<_, i64>(1)?.cast_unsigned(),
                    bytes: row.get(2)?,
                    // The bytes are ours and authenticated page by page; an unreadable list reads as none, and the
                    // server then names the blobs that it misses.
                    blobs: decode(&row.get::<_, Vec<u8>>(3)?).unwrap_or_default(),
                })
            })?;
            rows.collect()
        })
    }

    /// Writes operations, durably if asked to. `[]` with `durable` makes durable what was written before.
    /// Returns the encoded length of each.
    pub(super) fn write(&self, ops: &[(u64, u64, Arc<Op>)], durable: bool) -> Result<Vec<u32>, ReplicaError> {
        let mut lengths = Vec::with_capacity(ops.len());
        let mut rows = Vec::with_capacity(ops.len() / ROW_OPS + 1);
        for chunk in ops.chunks(ROW_OPS) {
            let mut packed = Zeroizing::new(Vec::with_capacity(chunk.len() * 128));
            for (number, ino, op) in chunk {
                // Holds chunk keys.
                let bytes = Zeroizing::new(encode(op.as_ref()));
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                packed.extend_from_slice(&number.to_be_bytes());
                packed.extend_from_slice(&ino.to_be_bytes());
                packed.extend_from_slice(&length.to_be_bytes());
                packed.extend_from_slice(&bytes);
                lengths.push(length);
            }
            rows.push((chunk[0].0, chunk[chunk.len() - 1].0, packed));
        }
        self.transaction(durable, |db| {
            db.run(|conn| {
                let mut statement = conn.prepare_cached("INSERT OR REPLACE INTO work VALUES (?1, ?2, ?3)")?;
                for (first, last, packed) in &rows {
                    statement.execute(params![last.cast_signed(), first.cast_signed(), packed.as_slice()])?;
                }
                // A commit without changes would not reach the disk.
                let mut touch = conn.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('flushed', ?1)")?;
                touch.execute([rows.last().map_or(0, |(_, last, _)| last.cast_signed())]).map(|_| ())
            })
        })?;
        Ok(lengths)
    }

    /// Remembers a signed entry, durably: it may be on its way from now on.
    pub(super) fn stage(&self, entry: &StagedEntry) -> Result<(), ReplicaError> {
        self.transaction(true, |db| {
            db.run(|conn| {
                let mut statement = conn.prepare_cached("INSERT OR REPLACE INTO staged VALUES (?1, ?2, ?3, ?4)")?;
                let blobs = encode(&entry.blobs);
                let row = params![entry.counter.cast_signed(), entry.last_op.cast_signed(), entry.bytes, blobs];
                statement.execute(row).map(|_| ())
            })
        })
    }

    /// Forgets staged entries from `counter` on.
    pub(super) fn unstage(&self, counter: u64) -> Result<(), ReplicaError> {
        self.transaction(true, |db| {
            db.run(|conn| conn.execute("DELETE FROM staged WHERE counter >= ?1", [counter.cast_signed()]).map(|_| ()))
        })
    }

    /// Forgets operations up to `last_op` and staged entries up to `counter`: the confirmed state has them. Need not be
    /// durable, since whoever opens the journal skips what the confirmed state has.
    pub(super) fn trim(&self, last_op: u64, counter: u64) -> Result<(), ReplicaError> {
        self.transaction(false, |db| {
            db.run(|conn| {
                conn.execute("DELETE FROM work WHERE last <= ?1", [last_op.cast_signed()])?;
                conn.execute("DELETE FROM staged WHERE counter <= ?1", [counter.cast_signed()]).map(|_| ())
            })
        })
    }

    fn transaction(
        &self,
        durable: bool,
        body: impl FnOnce(&Db) -> Result<(), ReplicaError>,
    ) -> Result<(), ReplicaError> {
        let db = self.db.lock();
        db.durable(durable)?;
        db.run(|conn| conn.execute_batch("BEGIN IMMEDIATE"))?;
        let result = body(&db).and_then(|()| db.run(|conn| conn.execute_batch("COMMIT")));
        if result.is_err() && !db.conn.is_autocommit() {
            // The transaction has failed already; what undoing it says adds nothing.
            let _ = db.conn.execute_batch("ROLLBACK");
        }
        result
    }

    /// Limits the file to `pages`, as a full disk would; `None` lifts the limit.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: Option<u32>) {
        let pages = pages.unwrap_or(u32::MAX - 1);
        let db = self.db.lock();
        let _ = db.conn.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()));
    }
}

fn unpack(bytes: &[u8]) -> Option<(Journaled, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (ino, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length);
    let (op, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let op = decode::<Op>(op).ok()?;
    let number = u64::from_be_bytes(*number);
    Some((Journaled { number, ino: u64::from_be_bytes(*ino), bytes: length, op }, rest))
}

/// How the thread and those who wait for it talk.
#[derive(Default)]
pub(super) struct Signal {
    pub(super) shared: Mutex<Progress>,
    /// For the thread: there is something to do.
    pub(super) work: Condvar,
    /// For those who wait: something was done, or failed.
    pub(super) done: Condvar,
    /// The thread knows that there is work; spares the others its lock.
    awake: AtomicBool,
    /// The last attempt failed.
    pub(super) failing: AtomicBool,
}

/// What was asked for and what was done.
#[derive(Default)]
pub(super) struct Progress {
    /// Somebody waits for everything up to this number.
    pub(super) wanted: u64,
    /// Somebody waits for everything up to this number to be on the disk.
    pub(super) wanted_durable: u64,
    /// Written up to this number.
    pub(super) written: u64,
    /// On the disk up to this number.
    pub(super) durable: u64,
    /// Confirmed operations and counter to forget.
    pub(super) trim: Option<(u64, u64)>,
    /// Attempts that failed so far; a waiter fails with the first after it began to wait.
    pub(super) failures: u64,
    pub(super) error: Option<ReplicaError>,
    pub(super) closing: bool,
    pub(super) ended: bool,
}

impl Signal {
    /// There is work. Costs an atomic operation while the thread knows already.
    pub(super) fn wake(&self) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            let _held = self.shared.lock();
            self.work.notify_one();
        }
    }

    /// Waits until there is work; says whether to go on.
    pub(super) fn wait(&self) -> bool {
        let mut progress = self.shared.lock();
        while !self.awake.load(Ordering::Acquire) && !progress.closing {
            self.work.wait(&mut progress);
        }
        if !progress.urgent() && !progress.closing {
            // Company may come.
            self.work.wait_while_for(&mut progress, |progress| !progress.urgent() && !progress.closing, GROUP_DELAY);
        }
        self.awake.store(false, Ordering::Release);
        !progress.closing
    }
}

impl Progress {
    fn urgent(&self) -> bool {
        self.wanted > self.written || self.wanted_durable > self.durable || self.trim.is_some()
    }
}

impl super::replica::Shared {
    /// The thread's work until the replica is closed.
    pub(super) fn journal_thread(&self) {
        let mut go_on = true;
        while go_on {
            go_on = self.signal.wait();
            // On closing, once more for what came last.
            match self.journal_round() {
                Ok(true) => self.signal.wake(),
                Ok(false) => {}
                Err(error) => {
                    self.signal.failing.store(true, Ordering::Release);
                    let mut progress = self.signal.shared.lock();
                    progress.failures += 1;
                    progress.error = Some(error);
                    self.signal.done.notify_all();
                    if go_on {
                        // Those who wait have been told; what they wanted is asked for anew by the next.
                        progress.wanted = progress.written;
                        progress.wanted_durable = progress.durable;
                        self.signal.work.wait_while_for(
                            &mut progress,
                            |progress| !progress.urgent() && !progress.closing,
                            RETRY,
                        );
                        drop(progress);
                        self.signal.wake();
                    }
                }
            }
        }
        self.signal.shared.lock().ended = true;
        self.signal.done.notify_all();
    }

    /// Writes one group. Says whether there is more.
    fn journal_round(&self) -> Result<bool, ReplicaError> {
        let (wanted_durable, durable_before, trim) = {
            let mut progress = self.signal.shared.lock();
            (progress.wanted_durable, progress.durable, progress.trim.take())
        };
        if let Some((last_op, counter)) = trim {
            self.journal.trim(last_op, counter)?;
        }
        let (ops, upto, more) = {
            let state = self.state.read();
            let queue = &state.queue;
            let upto = queue.ready.min(queue.journaled + GROUP_OPS as u64);
            let group = queue.journaled + 1..=upto;
            let ops: Vec<_> = group
                .filter_map(|number| match queue.get(number).map(|queued| (&queued.place, queued.ino)) {
                    Some((Place::Filled(op), ino)) => Some((number, ino, Arc::clone(op))),
                    _ => None,
                })
                .collect();
            (ops, upto, upto < queue.ready)
        };
        let durable = wanted_durable > durable_before && !more;
        if !ops.is_empty() || durable {
            let lengths = self.journal.write(&ops, durable)?;
            let mut state = self.state.write();
            for ((number, ..), bytes) in ops.iter().zip(lengths) {
                if let Some(queued) = state.queue.get_mut(*number) {
                    queued.bytes = bytes;
                }
            }
            state.queue.set_journaled(upto);
        } else {
            self.state.write().queue.set_journaled(upto);
        }
        self.signal.failing.store(false, Ordering::Release);
        {
            let mut progress = self.signal.shared.lock();
            progress.error = None;
            progress.written = progress.written.max(upto);
            if durable {
                progress.durable = progress.durable.max(upto);
            }
            self.signal.done.notify_all();
        }
        if !ops.is_empty() {
            self.notify_journal();
        }
        Ok(more)
    }
}
