//! The log store in one SQLite database, `log.db` of the data directory.
//!
//! One connection writes, with `synchronous=FULL`: what [`commit`](LogStore::commit) returned is on disk. Readers have
//! connections of their own and see the last commit (WAL), so a reader never waits for a writer. Several processes may
//! have the database open: `kegd invite` writes to it beside the server.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Params, Row, TransactionBehavior, params};

use super::{BoxRow, Job, LogStore, MemberRow, Session, StoreError, Waste, Write};
use crate::format::{AccountId, BlobId, ChainHash, DbId, DeviceId, EntryHash, Head, KeyBox, Role};
use crate::keyring::AuthorState;

/// Layout of the tables, kept in `user_version`.
const LAYOUT: i64 = 5;

/// `released` in `blob` is the entry that released it.
const SCHEMA: &str = "
CREATE TABLE account (id BLOB PRIMARY KEY, seq INTEGER NOT NULL, chain BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE account_entry (account BLOB NOT NULL, seq INTEGER NOT NULL, bytes BLOB NOT NULL,
    UNIQUE (account, seq));
CREATE TABLE device (account BLOB NOT NULL, id BLOB NOT NULL, sign BLOB NOT NULL, revoked INTEGER NOT NULL,
    PRIMARY KEY (account, id)) WITHOUT ROWID;
CREATE TABLE invite (hash BLOB PRIMARY KEY, uses INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE session (hash BLOB PRIMARY KEY, account BLOB NOT NULL, device BLOB NOT NULL, expires_ms INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE INDEX session_device ON session (device);
CREATE INDEX session_end ON session (expires_ms);
CREATE TABLE db (id BLOB PRIMARY KEY, seq INTEGER NOT NULL, chain BLOB NOT NULL, payer BLOB) WITHOUT ROWID;
CREATE INDEX db_payer ON db (payer);
CREATE TABLE standing (db BLOB PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE entry (db BLOB NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL, chain BLOB NOT NULL,
    bytes BLOB NOT NULL, UNIQUE (db, seq), UNIQUE (db, hash));
CREATE TABLE author (db BLOB NOT NULL, device BLOB NOT NULL, counter INTEGER NOT NULL, previous BLOB NOT NULL,
    PRIMARY KEY (db, device)) WITHOUT ROWID;
CREATE TABLE box (db BLOB NOT NULL, seq INTEGER NOT NULL, idx INTEGER NOT NULL, account BLOB NOT NULL,
    generation INTEGER NOT NULL, leaf BLOB NOT NULL, sealed BLOB NOT NULL, UNIQUE (db, seq, account),
    UNIQUE (db, seq, idx));
CREATE TABLE member (account BLOB NOT NULL, db BLOB NOT NULL, role INTEGER NOT NULL, expires_ms INTEGER,
    PRIMARY KEY (account, db)) WITHOUT ROWID;
CREATE INDEX member_db ON member (db, account);
CREATE TABLE blob (db BLOB NOT NULL, id BLOB NOT NULL, size INTEGER NOT NULL, released INTEGER,
    PRIMARY KEY (db, id)) WITHOUT ROWID;
";

/// What layout 2 has more: up to which entry a former member may read the log, so that the removal can be proven.
const FORMER: &str = "
CREATE TABLE former (account BLOB NOT NULL, db BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (account, db))
    WITHOUT ROWID;
";

/// What layout 3 has more: which devices may hold locks, so that a restart knows for whom to wait.
const LOCK_HOLDER: &str = "
CREATE TABLE lock_holder (db BLOB NOT NULL, account BLOB NOT NULL, device BLOB NOT NULL, until_ms INTEGER NOT NULL,
    PRIMARY KEY (db, account, device)) WITHOUT ROWID;
";

/// What layout 4 has more: admissions, which are invites of an account that end, and who waits to become a member by an
/// invite to a folder.
const JOINING: &str = "
ALTER TABLE invite ADD COLUMN account BLOB;
ALTER TABLE invite ADD COLUMN ends_ms INTEGER;
ALTER TABLE invite ADD COLUMN db BLOB;
ALTER TABLE invite ADD COLUMN key BLOB;
CREATE INDEX invite_account ON invite (account) WHERE account IS NOT NULL;
CREATE TABLE redemption (db BLOB NOT NULL, invite BLOB NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (db, invite))
    WITHOUT ROWID;
";

/// What layout 5 has more: blobs that nothing refers to, and from when on they may be removed.
const WASTE: &str = "
CREATE TABLE waste (db BLOB NOT NULL, id BLOB NOT NULL, due_ms INTEGER NOT NULL, PRIMARY KEY (db, id)) WITHOUT ROWID;
CREATE INDEX waste_due ON waste (due_ms);
";

/// Logs in SQLite.
pub struct SqliteStore {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

impl SqliteStore {
    /// Opens the database at `path`, making it when missing.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for one of a newer version; otherwise what the database says.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut writer = connect(path)?;
        writer.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=4000;")?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        match transaction.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? {
            found @ 0..LAYOUT => {
                let steps = [SCHEMA, FORMER, LOCK_HOLDER, JOINING, WASTE];
                let missing = steps.iter().skip(usize::try_from(found).unwrap_or(0));
                missing.copied().try_for_each(|step| transaction.execute_batch(step))?;
                transaction.execute_batch(&format!("PRAGMA user_version={LAYOUT};"))?;
            }
            LAYOUT => {}
            found => return Err(StoreError::Newer { found, known: LAYOUT }),
        }
        transaction.commit()?;
        Ok(Self { path: path.to_owned(), writer: Mutex::new(writer), readers: Mutex::default() })
    }

    /// Runs `read` on a connection of its own, within one view of the data.
    fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let pooled = self.readers.lock().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => {
                let connection = connect(&self.path)?;
                connection.execute_batch("PRAGMA query_only=ON;")?;
                connection
            }
        };
        let result = read(&connection);
        let mut pool = self.readers.lock();
        // As many as threads read at once in a calm hour; more are closed again.
        if pool.len() < 8 {
            pool.push(connection);
        }
        result
    }

    fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        self.read(|connection| Ok(connection.prepare_cached(sql)?.query_row(params, map).optional()?))
    }

    fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(params, map)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    // `kegd invite` may hold the write lock for a moment.
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.execute_batch("PRAGMA cache_size=-8192; PRAGMA mmap_size=268435456; PRAGMA temp_store=MEMORY;")?;
    connection.set_prepared_statement_cache_capacity(64);
    // A statement is planned once, not anew for the values bound to it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

fn apply(connection: &Connection, write: &Write) -> Result<(), StoreError> {
    let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| connection.prepare_cached(sql)?.execute(params);
    match write {
        Write::AccountEntry { account, head, bytes } => {
            let changed = if head.seq == 1 {
                run("INSERT OR IGNORE INTO account VALUES (?,1,?)", params![account.0, head.chain.0])?
            } else {
                run(
                    "UPDATE account SET seq=?,chain=? WHERE id=? AND seq=?",
                    params![int(head.seq), head.chain.0, account.0, int(head.seq - 1)],
                )?
            };
            expect(changed, "account log")?;
            run("INSERT INTO account_entry VALUES (?,?,?)", params![account.0, int(head.seq), bytes])?;
        }
        Write::AddDevice { account, device, sign } => {
            run("INSERT OR IGNORE INTO device VALUES (?,?,?,0)", params![account.0, device.0, sign])?;
        }
        Write::RevokeDevice { account, device } => {
            run("UPDATE device SET revoked=1 WHERE account=? AND id=?", params![account.0, device.0])?;
            run("DELETE FROM session WHERE device=? AND account=?", params![device.0, account.0])?;
        }
        Write::AddInvite { hash, uses } => {
            run("INSERT INTO invite VALUES (?,?,NULL,NULL,NULL,NULL)", params![hash, uses])?;
        }
        Write::AddAdmission { hash, account, db, key, ends_ms, most, now_ms } => {
            run("DELETE FROM invite WHERE account=? AND (ends_ms<? OR uses=0)", params![account.0, now_ms])?;
            let known = connection.prepare_cached("SELECT 1 FROM invite WHERE hash=?")?.exists(params![hash])?;
            if !known {
                let changed = run(
                    "INSERT INTO invite SELECT ?1,1,?2,?3,?5,?6
                     WHERE (SELECT COUNT(*) FROM invite WHERE account=?2)<?4",
                    params![hash, account.0, ends_ms, most, db.0, key.0],
                )?;
                expect(changed, "admissions")?;
            }
        }
        Write::SpendInvite { hash, now_ms } => {
            let spend = "UPDATE invite SET uses=uses-1 WHERE hash=? AND uses>0 AND (ends_ms IS NULL OR ends_ms>=?)";
            expect(run(spend, params![hash, now_ms])?, "invite")?;
        }
        Write::AddRedemption { db, key, bytes } => {
            run("INSERT OR IGNORE INTO redemption VALUES (?,?,?)", params![db.0, key.0, bytes])?;
            let same = "SELECT 1 FROM redemption WHERE db=? AND invite=? AND bytes=?";
            let waits = connection.prepare_cached(same)?.exists(params![db.0, key.0, bytes])?;
            expect(usize::from(waits), "redemption")?;
        }
        Write::CloseInvite { db, key } => {
            run("DELETE FROM redemption WHERE db=? AND invite=?", params![db.0, key.0])?;
            run("DELETE FROM invite WHERE account IS NOT NULL AND db=? AND key=?", params![db.0, key.0])?;
        }
        Write::AddSession { hash, session } => {
            let changed = run(
                "INSERT INTO session SELECT ?1,?2,?3,?4
                 WHERE EXISTS (SELECT 1 FROM device WHERE id=?3 AND account=?2 AND revoked=0)",
                params![hash, session.account.0, session.device.0, session.expires_ms],
            )?;
            expect(changed, "device")?;
        }
        Write::ForgetSessions { before_ms } => {
            run("DELETE FROM session WHERE expires_ms<?", params![before_ms])?;
        }
        Write::Entry { db, head, hash, bytes } => {
            let changed = if head.seq == 1 {
                run("INSERT OR IGNORE INTO db VALUES (?,1,?,NULL)", params![db.0, head.chain.0])?
            } else {
                run(
                    "UPDATE db SET seq=?,chain=? WHERE id=? AND seq=?",
                    params![int(head.seq), head.chain.0, db.0, int(head.seq - 1)],
                )?
            };
            expect(changed, "folder log")?;
            run("INSERT INTO entry VALUES (?,?,?,?,?)", params![db.0, int(head.seq), hash.0, head.chain.0, bytes])?;
        }
        Write::ExpectEntry { db, hash } => {
            let found = connection
                .prepare_cached("SELECT 1 FROM entry WHERE db=? AND hash=?")?
                .exists(params![db.0, hash.0])?;
            expect(usize::from(found), "entry")?;
        }
        Write::Boxes { db, seq, boxes } => {
            let mut insert = connection.prepare_cached("INSERT INTO box VALUES (?,?,?,?,?,?,?)")?;
            for (index, (key_box, leaf)) in boxes.iter().enumerate() {
                insert.execute(params![
                    db.0,
                    int(*seq),
                    int(index as u64),
                    key_box.account.0,
                    key_box.generation,
                    leaf,
                    key_box.sealed
                ])?;
            }
        }
        Write::Member { db, account, row: Some(row) } => {
            run(
                "INSERT OR REPLACE INTO member VALUES (?,?,?,?)",
                params![account.0, db.0, role_number(row.role), row.expires_ms],
            )?;
        }
        Write::Member { db, account, row: None } => {
            run("DELETE FROM member WHERE account=? AND db=?", params![account.0, db.0])?;
        }
        Write::Former { db, account, seq } => {
            run("INSERT OR REPLACE INTO former VALUES (?,?,?)", params![account.0, db.0, int(*seq)])?;
        }
        Write::Payer { db, account } => {
            run("UPDATE db SET payer=? WHERE id=?", params![account.0, db.0])?;
        }
        Write::Author { db, device, last } => {
            run(
                "INSERT OR REPLACE INTO author VALUES (?,?,?,?)",
                params![db.0, device.0, int(last.counter), last.previous.0],
            )?;
        }
        Write::Standing { db, bytes } => {
            run("INSERT OR REPLACE INTO standing VALUES (?,?)", params![db.0, bytes])?;
        }
        Write::Upload { db, blob, due_ms } => {
            let size = int(blob.size_bytes);
            let new = run("INSERT OR IGNORE INTO blob VALUES (?,?,?,NULL)", params![db.0, blob.id.0, size])?;
            if new == 1 {
                run("INSERT OR REPLACE INTO waste VALUES (?,?,?)", params![db.0, blob.id.0, due_ms])?;
            } else {
                run("UPDATE blob SET size=? WHERE db=? AND id=? AND size=0", params![size, db.0, blob.id.0])?;
            }
        }
        Write::Blob { db, blob } => {
            run(
                "INSERT INTO blob VALUES (?,?,?,NULL) ON CONFLICT (db,id) DO UPDATE SET size=excluded.size,released=NULL",
                params![db.0, blob.id.0, int(blob.size_bytes)],
            )?;
            run("DELETE FROM waste WHERE db=? AND id=?", params![db.0, blob.id.0])?;
        }
        Write::Release { db, blob, seq, due_ms } => {
            let known = run("UPDATE blob SET released=? WHERE db=? AND id=?", params![int(*seq), db.0, blob.0])?;
            if known == 1 {
                run("INSERT OR REPLACE INTO waste VALUES (?,?,?)", params![db.0, blob.0, due_ms])?;
            }
        }
        Write::Discard { db, blob, due_ms } => {
            let changed = run("DELETE FROM waste WHERE db=? AND id=? AND due_ms=?", params![db.0, blob.0, due_ms])?;
            expect(changed, "waste")?;
            run("DELETE FROM blob WHERE db=? AND id=?", params![db.0, blob.0])?;
        }
        Write::Postpone { db, blob, due_ms, until_ms } => {
            let row = params![until_ms, db.0, blob.0, due_ms];
            run("UPDATE waste SET due_ms=? WHERE db=? AND id=? AND due_ms=?", row)?;
        }
        Write::LockHolder { db, account, device, until_ms, now_ms } => {
            run("DELETE FROM lock_holder WHERE db=? AND until_ms<=?", params![db.0, now_ms])?;
            run("INSERT OR REPLACE INTO lock_holder VALUES (?,?,?,?)", params![db.0, account.0, device.0, until_ms])?;
        }
    }
    Ok(())
}

fn expect(changed: usize, what: &'static str) -> Result<(), StoreError> {
    if changed == 1 { Ok(()) } else { Err(StoreError::Outdated(what)) }
}

/// SQLite has signed integers. No log reaches 2^63 entries.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn uint(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| u64::try_from(value).unwrap_or(0))
}

fn role_number(role: Role) -> u8 {
    match role {
        Role::GuestViewer => 0,
        Role::GuestEditor => 1,
        Role::Viewer => 2,
        Role::Editor => 3,
        Role::Admin => 4,
        Role::Owner => 5,
    }
}

fn member_row(row: &Row<'_>, column: usize) -> rusqlite::Result<MemberRow> {
    let role = match row.get::<_, u8>(column)? {
        0 => Role::GuestViewer,
        1 => Role::GuestEditor,
        2 => Role::Viewer,
        3 => Role::Editor,
        4 => Role::Admin,
        5 => Role::Owner,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(column, i64::from(other))),
    };
    Ok(MemberRow { role, expires_ms: row.get(column + 1)? })
}

fn waste(row: &Row<'_>) -> rusqlite::Result<Waste> {
    Ok(Waste { db: DbId(row.get(0)?), blob: BlobId(row.get(1)?), due_ms: row.get(2)?, size_bytes: uint(row, 3)? })
}

fn head(row: &Row<'_>) -> rusqlite::Result<Head> {
    Ok(Head { seq: uint(row, 0)?, chain: ChainHash(row.get(1)?) })
}

impl LogStore for SqliteStore {
    fn commit(&self, jobs: &[Job]) -> Result<Vec<Result<(), StoreError>>, StoreError> {
        let mut writer = self.writer.lock();
        let mut transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut results = Vec::with_capacity(jobs.len());
        for job in jobs {
            let savepoint = transaction.savepoint()?;
            let result = job.iter().try_for_each(|write| apply(&savepoint, write));
            // Dropped without a commit, a savepoint is rolled back.
            if result.is_ok() {
                savepoint.commit()?;
            }
            results.push(result);
        }
        transaction.commit().map_err(|error| match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full,
            _ => error.into(),
        })?;
        Ok(results)
    }

    fn account_head(&self, account: &AccountId) -> Result<Option<Head>, StoreError> {
        self.one("SELECT seq,chain FROM account WHERE id=?", params![account.0], head)
    }

    fn account_entries(&self, account: &AccountId, after: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        self.all(
            "SELECT bytes FROM account_entry WHERE account=? AND seq>? ORDER BY seq LIMIT ?",
            params![account.0, int(after), int(limit as u64)],
            |row| row.get(0),
        )
    }

    fn device_key(&self, account: &AccountId, device: &DeviceId) -> Result<Option<[u8; 32]>, StoreError> {
        self.one(
            "SELECT sign FROM device WHERE id=? AND account=? AND revoked=0",
            params![device.0, account.0],
            |row| row.get(0),
        )
    }

    fn session(&self, hash: &[u8; 32]) -> Result<Option<Session>, StoreError> {
        self.one("SELECT account,device,expires_ms FROM session WHERE hash=?", params![hash], |row| {
            Ok(Session { account: AccountId(row.get(0)?), device: DeviceId(row.get(1)?), expires_ms: row.get(2)? })
        })
    }

    fn has_invites(&self) -> Result<bool, StoreError> {
        Ok(self.one("SELECT 1 FROM invite LIMIT 1", [], |_| Ok(()))?.is_some())
    }

    fn head(&self, db: &DbId) -> Result<Option<Head>, StoreError> {
        self.one("SELECT seq,chain FROM db WHERE id=?", params![db.0], head)
    }

    fn chain_at(&self, db: &DbId, seq: u64) -> Result<Option<ChainHash>, StoreError> {
        self.one("SELECT chain FROM entry WHERE db=? AND seq=?", params![db.0, int(seq)], |row| {
            Ok(ChainHash(row.get(0)?))
        })
    }

    fn seq_of(&self, db: &DbId, hash: &EntryHash) -> Result<Option<u64>, StoreError> {
        self.one("SELECT seq FROM entry WHERE db=? AND hash=?", params![db.0, hash.0], |row| uint(row, 0))
    }

    fn entries(&self, db: &DbId, after: u64, max_bytes: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT bytes FROM entry WHERE db=? AND seq>? ORDER BY seq")?;
            let mut rows = statement.query(params![db.0, int(after)])?;
            let (mut entries, mut room) = (Vec::<Vec<u8>>::new(), max_bytes);
            while let Some(row) = rows.next()? {
                let length = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?.len();
                if length > room && !entries.is_empty() {
                    break;
                }
                room = room.saturating_sub(length);
                entries.push(row.get(0)?);
            }
            Ok(entries)
        })
    }

    fn member_box(&self, db: &DbId, seq: u64, account: &AccountId) -> Result<Option<BoxRow>, StoreError> {
        self.one(
            "SELECT generation,sealed,idx FROM box WHERE db=? AND seq=? AND account=?",
            params![db.0, int(seq), account.0],
            |row| {
                let key_box = KeyBox { account: *account, generation: row.get(0)?, sealed: row.get(1)? };
                Ok(BoxRow { key_box, index: row.get(2)? })
            },
        )
    }

    fn leaves(&self, db: &DbId, seq: u64) -> Result<Vec<[u8; 32]>, StoreError> {
        self.all("SELECT leaf FROM box WHERE db=? AND seq=? ORDER BY idx", params![db.0, int(seq)], |row| row.get(0))
    }

    fn member(&self, db: &DbId, account: &AccountId) -> Result<Option<MemberRow>, StoreError> {
        self.one("SELECT role,expires_ms FROM member WHERE account=? AND db=?", params![account.0, db.0], |row| {
            member_row(row, 0)
        })
    }

    fn members(&self, db: &DbId) -> Result<Vec<(AccountId, MemberRow)>, StoreError> {
        self.all("SELECT account,role,expires_ms FROM member WHERE db=? ORDER BY account", params![db.0], |row| {
            Ok((AccountId(row.get(0)?), member_row(row, 1)?))
        })
    }

    fn former(&self, db: &DbId, account: &AccountId) -> Result<Option<u64>, StoreError> {
        self.one("SELECT seq FROM former WHERE account=? AND db=?", params![account.0, db.0], |row| uint(row, 0))
    }

    fn waste(&self, now_ms: i64, limit: usize) -> Result<Vec<Waste>, StoreError> {
        self.all(
            "SELECT w.db,w.id,w.due_ms,b.size FROM waste w CROSS JOIN blob b ON b.db=w.db AND b.id=w.id
             WHERE w.due_ms<=? ORDER BY w.due_ms LIMIT ?",
            params![now_ms, int(limit as u64)],
            waste,
        )
    }

    fn waste_of(&self, db: &DbId, blob: &BlobId) -> Result<Option<Waste>, StoreError> {
        self.one(
            "SELECT w.db,w.id,w.due_ms,b.size FROM waste w JOIN blob b ON b.db=w.db AND b.id=w.id WHERE w.db=? AND w.id=?",
            params![db.0, blob.0],
            waste,
        )
    }

    fn unknown_blobs(&self, db: &DbId, blobs: &[BlobId]) -> Result<Vec<BlobId>, StoreError> {
        let mut unknown = Vec::new();
        for id in blobs {
            let known = self.one("SELECT 1 FROM blob WHERE db=? AND id=?", params![db.0, id.0], |_| Ok(()))?;
            if known.is_none() {
                unknown.push(*id);
            }
        }
        Ok(unknown)
    }

    fn next_waste_ms(&self) -> Result<Option<i64>, StoreError> {
        self.one("SELECT due_ms FROM waste ORDER BY due_ms LIMIT 1", [], |row| row.get(0))
    }

    fn lock_holders(&self, db: &DbId, now_ms: i64) -> Result<Vec<(AccountId, DeviceId)>, StoreError> {
        let sql = "SELECT account,device FROM lock_holder WHERE db=? AND until_ms>?";
        self.all(sql, params![db.0, now_ms], |row| Ok((AccountId(row.get(0)?), DeviceId(row.get(1)?))))
    }

    fn dbs_of(&self, account: &AccountId) -> Result<Vec<(DbId, u64, MemberRow)>, StoreError> {
        self.all(
            "SELECT member.db,db.seq,role,expires_ms FROM member JOIN db ON db.id=member.db
             WHERE account=? ORDER BY member.db",
            params![account.0],
            |row| Ok((DbId(row.get(0)?), uint(row, 1)?, member_row(row, 2)?)),
        )
    }

    fn redemptions(&self, db: &DbId) -> Result<Vec<Vec<u8>>, StoreError> {
        self.all("SELECT bytes FROM redemption WHERE db=? ORDER BY invite", params![db.0], |row| row.get(0))
    }

    fn standing(&self, db: &DbId) -> Result<Option<Vec<u8>>, StoreError> {
        self.one("SELECT bytes FROM standing WHERE db=?", params![db.0], |row| row.get(0))
    }

    fn authors(&self, db: &DbId) -> Result<HashMap<DeviceId, AuthorState>, StoreError> {
        let authors = self.all("SELECT device,counter,previous FROM author WHERE db=?", params![db.0], |row| {
            Ok((DeviceId(row.get(0)?), AuthorState { counter: uint(row, 1)?, previous: EntryHash(row.get(2)?) }))
        })?;
        Ok(authors.into_iter().collect())
    }

    fn payer(&self, db: &DbId) -> Result<Option<AccountId>, StoreError> {
        let payer = self.one("SELECT payer FROM db WHERE id=?", params![db.0], |row| row.get::<_, Option<_>>(0))?;
        Ok(payer.flatten().map(AccountId))
    }

    fn usage(&self, payer: &AccountId) -> Result<u64, StoreError> {
        let sum = "SELECT COALESCE(SUM(size),0) FROM blob JOIN db ON db.id=blob.db WHERE db.payer=?";
        Ok(self.one(sum, params![payer.0], |row| uint(row, 0))?.unwrap_or(0))
    }

    fn check(&self) -> Result<(), StoreError> {
        self.one("SELECT COUNT(*) FROM db WHERE id=?", params![DbId::ZERO.0], |_| Ok(()))?;
        // Whether the writer is stuck, without waiting for it: a commit takes milliseconds.
        match self.writer.try_lock_for(Duration::from_secs(5)) {
            Some(_) => Ok(()),
            None => Err(StoreError::Damaged("the writer does not answer".to_owned())),
        }
    }
}
