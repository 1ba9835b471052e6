//! The people whom the user knows: every account that was ever met, and what the user has decided about it.
//!
//! Must not decide anything; the rules are in `sync`.

use rusqlite::{OptionalExtension, Row, params};

use super::{AccountStore, ReplicaError};
use crate::format::{AccountId, Contact, Trust};

fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

fn contact(row: &Row<'_>) -> rusqlite::Result<Contact> {
    let trust = match row.get::<_, i64>(3)? {
        0 => Trust::Pinned,
        1 => Trust::Verified,
        3 => Trust::Rejected,
        // What is not known is not trusted.
        _ => Trust::Doubted,
    };
    Ok(Contact {
        account: AccountId(row.get(0)?),
        name: row.get(1)?,
        pinned_ms: row.get(2)?,
        trust,
        since_ms: row.get(4)?,
        why: row.get(5)?,
        keys: row.get(6)?,
    })
}

impl AccountStore {
    /// All contacts, by name.
    ///
    /// # Errors
    /// As of all methods here: those of the database.
    pub fn contacts(&self) -> Result<Vec<Contact>, ReplicaError> {
        self.run(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT account, label, pinned_ms, trust, since_ms, why, keys FROM pin ORDER BY label, account",
            )?;
            let rows = statement.query_map([], contact)?;
            rows.collect()
        })
    }

    /// One of them.
    ///
    /// # Errors
    /// Those of the database.
    pub fn contact(&self, account: &AccountId) -> Result<Option<Contact>, ReplicaError> {
        self.run(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT account, label, pinned_ms, trust, since_ms, why, keys FROM pin WHERE account = ?1",
            )?;
            statement.query_row([account.as_bytes()], contact).optional()
        })
    }

    /// Those whose names people take for this one: the same but for case and blanks around it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn namesakes(&self, name: &str) -> Result<Vec<Contact>, ReplicaError> {
        self.run(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT account, label, pinned_ms, trust, since_ms, why, keys FROM pin WHERE folded = ?1
                 ORDER BY pinned_ms, account",
            )?;
            let rows = statement.query_map([folded(name)], contact)?;
            rows.collect()
        })
    }

    /// Adds a contact, or replaces what is known of it. `local`: the user's other devices do not know it yet.
    ///
    /// # Errors
    /// Those of the database.
    pub fn put_contact(&self, contact: &Contact, local: bool) -> Result<(), ReplicaError> {
        self.run(|conn| {
            let mut statement = conn.prepare_cached(
                "INSERT INTO pin (account, label, pinned_ms, trust, since_ms, why, keys, local, folded)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (account) DO UPDATE SET label = ?2, pinned_ms = ?3, trust = ?4, since_ms = ?5, why = ?6,
                 keys = ?7, local = ?8, folded = ?9",
            )?;
            let row = params![
                contact.account.as_bytes(),
                contact.name,
                contact.pinned_ms,
                contact.trust as i64,
                contact.since_ms,
                contact.why,
                contact.keys,
                local,
                folded(&contact.name)
            ];
            statement.execute(row).map(|_| ())
        })
    }

    /// The contacts that the user's other devices do not know as they are here.
    ///
    /// # Errors
    /// Those of the database.
    pub fn local_contacts(&self) -> Result<Vec<Contact>, ReplicaError> {
        self.run(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT account, label, pinned_ms, trust, since_ms, why, keys FROM pin WHERE local ORDER BY account",
            )?;
            let rows = statement.query_map([], contact)?;
            rows.collect()
        })
    }

    /// Hash of the keys of which words were shown last for this contact.
    ///
    /// # Errors
    /// Those of the database.
    pub fn shown(&self, account: &AccountId) -> Result<Option<[u8; 32]>, ReplicaError> {
        self.run(|conn| {
            let mut statement = conn.prepare_cached("SELECT shown FROM pin WHERE account = ?1")?;
            let mut rows = statement.query([account.as_bytes()])?;
            rows.next()?.map_or(Ok(None), |row| row.get(0))
        })
    }

    /// Remembers it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn put_shown(&self, account: &AccountId, keys: &[u8; 32]) -> Result<(), ReplicaError> {
        self.run(|conn| {
            let mut statement = conn.prepare_cached("UPDATE pin SET shown = ?2 WHERE account = ?1")?;
            statement.execute(params![account.as_bytes(), keys]).map(|_| ())
        })
    }
}
