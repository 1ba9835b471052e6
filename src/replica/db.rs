//! Opening SQLCipher databases: key, page layout, durability, and telling a wrong key from a damaged file.
//!
//! # Construction
//! Database key = KDF([`labels::KEY_REPLICA`], key ‖ file name), handed to SQLCipher as a raw key, so that no passphrase
//! hashing runs. Pages are AES-256-CBC with HMAC-SHA512 (SQLCipher 4's own construction); the header is not plain.
//! Beside the databases lies `key.check`: a commitment to the key (public, hiding for random keys), by which a wrong key
//! is told from a damaged file, which SQLCipher itself cannot.
//!
//! Must not know what is in the tables.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use zeroize::{Zeroize, Zeroizing};

use super::ReplicaError;
use crate::crypto::{Key, kdf, labels};
use crate::sys::files;

/// 4 KiB is a page of the usual file systems and half the write amplification of 8 KiB for the scattered inserts of the
/// name and keg indexes. Not measured against larger pages yet.
const PAGE_BYTES: u32 = 4096;
/// How long a connection waits for another of the same process. Only checkpoints and openings ever meet.
const BUSY: Duration = Duration::from_secs(5);
/// Statements kept prepared per connection; there are about 120 in all.
const STATEMENTS: usize = 128;

/// One connection and the file it is about.
pub(super) struct Db {
    pub(super) conn: Connection,
    pub(super) file: PathBuf,
}

impl Db {
    /// SQLite's refusal as a situation of this file.
    pub(super) fn err(&self, error: &rusqlite::Error) -> ReplicaError {
        ReplicaError::of(&self.file, error)
    }

    /// Runs `body`, giving its error the file's name.
    pub(super) fn run<T>(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ReplicaError> {
        body(&self.conn).map_err(|error| self.err(&error))
    }

    /// Sets whether the next commit reaches the disk before it returns. Outside of transactions only.
    pub(super) fn durable(&self, durable: bool) -> Result<(), ReplicaError> {
        let pragma = if durable { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" };
        self.run(|conn| conn.execute_batch(pragma))
    }
}

/// Opens (and creates where missing) the database at `file`. `cache_kib` bounds its page cache, which holds plaintext in
/// memory. `readonly` connections never write.
pub(super) fn open(file: &Path, key: &Key, cache_kib: u32, readonly: bool) -> Result<Db, ReplicaError> {
    let access = if readonly {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    let conn = Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| ReplicaError::of(file, &error))?;
    let db = Db { conn, file: file.to_owned() };
    db.run(|conn| {
        conn.busy_timeout(BUSY)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS);
        // Otherwise a statement that a partial index might serve is planned anew for every value that is bound to it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        let mut pragma = Zeroizing::new(String::with_capacity(96));
        pragma.push_str("PRAGMA key = \"x'");
        let name = file.file_name().unwrap_or_default().as_encoded_bytes();
        let derived = kdf::derive(labels::KEY_REPLICA, &[key.as_bytes(), name]);
        let mut digits = [0; 64];
        // 32 bytes are exactly 64 digits.
        let _ = hex::encode_to_slice(derived.as_bytes(), &mut digits);
        pragma.push_str(std::str::from_utf8(&digits).unwrap_or_default());
        digits.zeroize();
        pragma.push_str("'\"");
        conn.execute_batch(&pragma)?;
        conn.execute_batch(&format!(
            "PRAGMA cipher_page_size={PAGE_BYTES}; PRAGMA cache_size=-{cache_kib}; PRAGMA temp_store=MEMORY;
             PRAGMA cipher_memory_security=OFF;"
        ))
    })?;
    // The first read decrypts a page: here a wrong key or a damaged header shows.
    db.run(|conn| conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)))?;
    if !readonly {
        db.run(|conn| {
            conn.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
            conn.execute_batch("PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=OFF;")
        })?;
    }
    Ok(db)
}

/// Compares `dir/key.check` with `key`, and writes it where nothing was stored under any key yet.
pub(super) fn check_key(dir: &Path, key: &Key) -> Result<(), ReplicaError> {
    let file = dir.join("key.check");
    let commitment = kdf::commit(labels::KEY_REPLICA, &[key.as_bytes(), b"key.check"]);
    match fs::read(&file) {
        Ok(found) if found == commitment => Ok(()),
        Ok(_) => Err(ReplicaError::WrongKey { file }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            files::write_atomic(&file, &commitment, 0o600).map_err(|error| ReplicaError::io(&file, error))
        }
        Err(error) => Err(ReplicaError::io(&file, error)),
    }
}

/// Brings the file to the layout that `steps` lead to, in place, all or nothing; creates the tables of a new file.
pub(super) fn migrate(db: &Db, steps: &[&str]) -> Result<(), ReplicaError> {
    let found: i64 = db.run(|conn| conn.query_row("PRAGMA user_version", [], |row| row.get(0)))?;
    let missing = usize::try_from(found).ok().and_then(|taken| steps.get(taken..));
    let Some(missing) = missing else { return Err(ReplicaError::NewerLayout { file: db.file.clone(), found }) };
    if missing.is_empty() {
        return Ok(());
    }
    let (steps, layout) = (missing.concat(), steps.len());
    let migrated =
        db.run(|conn| conn.execute_batch(&format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version={layout}; COMMIT;")));
    if migrated.is_err() && !db.conn.is_autocommit() {
        // It has failed already; what undoing it says adds nothing.
        let _ = db.conn.execute_batch("ROLLBACK");
    }
    migrated
}
