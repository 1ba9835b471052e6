//! What a profile knows beside its folders: which folders there are, verified account logs, pins, settings.
//!
//! Must not verify anything: it keeps bytes that were verified before, and gives them back.

use std::path::Path;

use parking_lot::Mutex;
use rusqlite::{OptionalExtension, params};

use super::ReplicaError;
use super::db::{self, Db};
use super::schema;
use crate::crypto::Key;
use crate::format::{AccountId, DbId, SignedAccountEntry, decode, encode};

/// A folder of the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderRecord {
    /// Its id.
    pub db: DbId,
    /// Its name as last seen; may be empty before the first.
    pub name: String,
    /// Its directory below the profile's.
    pub dir: String,
}

/// `account.db` of a profile. Every change is durable when the call returns.
pub struct AccountStore {
    db: Mutex<Db>,
}

impl AccountStore {
    /// Opens `dir/account.db`, creating it where there is none.
    ///
    /// # Errors
    /// [`ReplicaError::WrongKey`], [`ReplicaError::Corrupt`], [`ReplicaError::DiskFull`], or the system's.
    pub fn open(dir: &Path, key: &Key) -> Result<Self, ReplicaError> {
        crate::sys::files::create_private_dir(dir).map_err(|error| ReplicaError::io(dir, error))?;
        db::check_key(dir, key)?;
        let db = db::open(&dir.join("account.db"), key, 512, false)?;
        db::migrate(&db, schema::ACCOUNT)?;
        db.durable(true)?;
        Ok(Self { db: Mutex::new(db) })
    }

    pub(super) fn run<T>(
        &self,
        body: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReplicaError> {
        self.db.lock().run(body)
    }

    /// All folders.
    ///
    /// # Errors
    /// As of all methods here: those of the database.
    pub fn folders(&self) -> Result<Vec<FolderRecord>, ReplicaError> {
        self.db.lock().run(|conn| {
            let mut statement = conn.prepare_cached("SELECT db, name, dir FROM folder ORDER BY name, db")?;
            let rows = statement
                .query_map([], |row| Ok(FolderRecord { db: DbId(row.get(0)?), name: row.get(1)?, dir: row.get(2)? }))?;
            rows.collect()
        })
    }

    /// Adds a folder, or changes its name and directory.
    ///
    /// # Errors
    /// Those of the database.
    pub fn put_folder(&self, folder: &FolderRecord) -> Result<(), ReplicaError> {
        self.db.lock().run(|conn| {
            let mut statement = conn.prepare_cached("INSERT OR REPLACE INTO folder VALUES (?1, ?2, ?3)")?;
            statement.execute(params![folder.db.as_bytes(), folder.name, folder.dir]).map(|_| ())
        })
    }

    /// Forgets a folder.
    ///
    /// # Errors
    /// Those of the database.
    pub fn remove_folder(&self, db: &DbId) -> Result<(), ReplicaError> {
        let statement = "DELETE FROM folder WHERE db = ?1";
        self.db.lock().run(|conn| conn.execute(statement, [db.as_bytes()]).map(|_| ()))
    }

    /// The entries of an account's log that were stored, from the first.
    ///
    /// # Errors
    /// Those of the database; [`ReplicaError::Format`] for what is no entry.
    pub fn account_log(&self, account: &AccountId) -> Result<Vec<SignedAccountEntry>, ReplicaError> {
        let rows: Vec<Vec<u8>> = self.db.lock().run(|conn| {
            let mut statement = conn.prepare_cached("SELECT entry FROM account_log WHERE account = ?1 ORDER BY seq")?;
            let rows = statement.query_map([account.as_bytes()], |row| row.get(0))?;
            rows.collect()
        })?;
        rows.iter().map(|bytes| Ok(decode(bytes)?)).collect()
    }

    /// Accounts with a stored log.
    ///
    /// # Errors
    /// Those of the database.
    pub fn accounts(&self) -> Result<Vec<AccountId>, ReplicaError> {
        self.db.lock().run(|conn| {
            let mut statement = conn.prepare_cached("SELECT DISTINCT account FROM account_log")?;
            let rows = statement.query_map([], |row| row.get(0).map(AccountId))?;
            rows.collect()
        })
    }

    /// Stores entry `seq` (from 1) of an account's log. A log never changes: what is stored stays, and another entry at
    /// the same position is refused.
    ///
    /// # Errors
    /// [`ReplicaError::OutOfOrder`] for a position that is not the next or holds another entry; those of the database.
    pub fn append_account(
        &self,
        account: &AccountId,
        seq: u64,
        entry: &SignedAccountEntry,
    ) -> Result<(), ReplicaError> {
        let bytes = encode(entry);
        let db = self.db.lock();
        let (last, there) = db.run(|conn| {
            let mut last = conn.prepare_cached("SELECT max(seq) FROM account_log WHERE account = ?1")?;
            let last = last.query_row([account.as_bytes()], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0);
            let mut there = conn.prepare_cached("SELECT entry FROM account_log WHERE account = ?1 AND seq = ?2")?;
            let key = params![account.as_bytes(), seq.cast_signed()];
            Ok((last.cast_unsigned(), there.query_row(key, |row| row.get::<_, Vec<u8>>(0)).optional()?))
        })?;
        match there {
            Some(there) if there == bytes => return Ok(()),
            None if seq == last + 1 => {}
            _ => return Err(ReplicaError::OutOfOrder { mark: last, got: seq }),
        }
        db.run(|conn| {
            let mut statement = conn.prepare_cached("INSERT INTO account_log VALUES (?1, ?2, ?3)")?;
            statement.execute(params![account.as_bytes(), seq.cast_signed(), bytes]).map(|_| ())
        })
    }

    /// A setting's bytes.
    ///
    /// # Errors
    /// Those of the database.
    pub fn setting(&self, key: &str) -> Result<Option<Vec<u8>>, ReplicaError> {
        self.db.lock().run(|conn| {
            let mut statement = conn.prepare_cached("SELECT value FROM setting WHERE key = ?1")?;
            statement.query_row([key], |row| row.get(0)).optional()
        })
    }

    /// Sets it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn put_setting(&self, key: &str, value: &[u8]) -> Result<(), ReplicaError> {
        self.db.lock().run(|conn| {
            let mut statement = conn.prepare_cached("INSERT OR REPLACE INTO setting VALUES (?1, ?2)")?;
            statement.execute(params![key, value]).map(|_| ())
        })
    }
}
