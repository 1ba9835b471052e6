//! The reading connections: all hold a transaction open on the same snapshot.
//!
//! A durable commit waits for the disk. Were readers to see it as soon as SQLite publishes it, the state lock would have
//! to be held for that long, and every operation of the mount with it. Instead the readers stay at the snapshot before,
//! and [`Pool::advance`] moves all of them in microseconds, together with the overlay, under the state's write lock.
//!
//! An open snapshot keeps the write-ahead log from starting over; see `Replica::apply` for how it is emptied.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::ReplicaError;
use super::db::{self, Db};
use crate::crypto::Key;

/// Reading connections. More than threads that read at once wait for each other; statements are short.
const READERS: usize = 4;
/// Page cache of each. The caches above answer most questions; this is for scans.
const READER_CACHE_KIB: u32 = 2048;

/// The reading connections.
pub(super) struct Pool {
    readers: Vec<Mutex<Db>>,
    /// Whom to wait for when all are busy: each in turn.
    turn: AtomicUsize,
}

impl Pool {
    /// Opens the connections; the file and its tables exist.
    pub(super) fn open(file: &Path, key: &Key) -> Result<Self, ReplicaError> {
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let db = db::open(file, key, READER_CACHE_KIB, true)?;
            begin(&db)?;
            readers.push(Mutex::new(db));
        }
        Ok(Self { readers, turn: AtomicUsize::new(0) })
    }

    /// Runs `body` on one of them.
    pub(super) fn with<T>(&self, body: impl FnOnce(&Db) -> T) -> T {
        if let Some(db) = self.readers.iter().find_map(Mutex::try_lock) {
            return body(&db);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.readers.len();
        body(&self.readers[turn].lock())
    }

    /// How many steps of the database's machine `body` takes. It runs alone.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(super) fn steps(&self, body: impl FnOnce()) -> u64 {
        use std::sync::Arc;
        use std::sync::atomic::AtomicU64;
        let steps = Arc::new(AtomicU64::new(0));
        for db in &self.readers {
            let steps = Arc::clone(&steps);
            let count = move || {
                steps.fetch_add(1, Ordering::Relaxed);
                false
            };
            db.lock().conn.progress_handler(1, Some(count)).unwrap();
        }
        body();
        for db in &self.readers {
            db.lock().conn.progress_handler(0, None::<fn() -> bool>).unwrap();
        }
        steps.load(Ordering::Relaxed)
    }

    /// Moves all of them to the newest commit. The caller holds the state's write lock, so none is in use.
    pub(super) fn advance(&self) -> Result<(), ReplicaError> {
        for db in &self.readers {
            let db = db.lock();
            // A reader that lost its transaction to an error has none to end.
            if !db.conn.is_autocommit() {
                db.run(|conn| conn.prepare_cached("COMMIT")?.execute([]).map(|_| ()))?;
            }
            begin(&db)?;
        }
        Ok(())
    }
}

/// Begins a transaction and takes the snapshot, which SQLite does at the first read.
fn begin(db: &Db) -> Result<(), ReplicaError> {
    db.run(|conn| {
        conn.prepare_cached("BEGIN")?.execute([])?;
        conn.prepare_cached("SELECT key FROM meta LIMIT 1")?.query_row([], |_| Ok(())).or_else(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => Ok(()),
            error => Err(error),
        })
    })
}
