//! Taking in what the server has sequenced.
//!
//! One transaction for all entries of a call: rows, mark, author counters, standing. It is on the disk before any of it
//! is shown (THREATS row 27). Then, under the state's write lock and without any waiting, the caches, the readers and the
//! overlay move to the new state together.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::params;

use super::activity::Watch;
use super::base::{Base, Source};
use super::db::Db;
use super::flush::{Author, flush, put_meta};
use super::layer::{Adopt, Layer};
use super::overlay::{Named, Overlay, Touched};
use super::replica::{Replica, Shared};
use super::rows::{NameRow, NodeRow};
use super::state::State;
use super::thin::Told;
use super::types::{Change, Confirmed, StagedEntry, Standing};
use super::{Activity, Happening, ReplicaError, activity, release, standing, thin, told};
use crate::format::{ChainHash, Head, KegId, SignedEntry, decode, encode};
use crate::keg::{self, Applied, Context};
use crate::sys::clock;

/// The write-ahead log is emptied when it is longer than this.
const WAL_BYTES: u64 = 8 * 1024 * 1024;

/// As [`told::BEHIND_MS`], in the other direction.
const AHEAD_MS: i64 = told::BEHIND_MS;

/// Nodes and names of the mounted view keep their numbers when they are confirmed.
struct Mounted<'a>(&'a Shared);

impl Adopt for Mounted<'_> {
    fn ino(&self, keg: &KegId) -> Option<u64> {
        self.0.state.read().overlay.ino(keg)
    }

    fn cookie(&self, parent: &KegId, name: &[u8], keg: &KegId) -> Option<u64> {
        self.0.state.read().overlay.cookie(parent, name, keg)
    }
}

/// What the transaction came to.
#[derive(Default)]
struct Outcome {
    overlay: Overlay,
    /// Everything that any entry touched.
    touched: HashSet<Touched>,
    /// What the local user did not do himself, or what came out differently from what he saw.
    foreign: HashSet<Touched>,
    /// Names in `foreign`.
    names: HashSet<(KegId, Arc<[u8]>)>,
    /// Last own operation that is confirmed, and counter of its entry.
    own_op: u64,
    own_counter: u64,
}

impl Replica {
    /// Applies verified entries that follow the mark, in one durable transaction, and returns what others changed (it is
    /// also told to [`Replica::on_change`]). `standing`: what verification says after the last of them, if it changed.
    /// Give a few hundred entries or some megabytes at once: a call costs one or two waits for the disk.
    ///
    /// An own entry that was staged confirms its operations; they are no longer pending. An own entry that the log
    /// ignores (`batch` is `None`) gives them back to [`Replica::pending`].
    ///
    /// # Errors
    /// [`ReplicaError::OutOfOrder`], or those of writing; then nothing has changed.
    pub fn apply(&self, entries: &[Confirmed], standing: Option<Standing>) -> Result<Vec<Change>, ReplicaError> {
        let changes = self.shared().apply(entries, standing)?;
        self.shared().notify_change(&changes);
        Ok(changes)
    }
}

impl Replica {
    pub(super) fn write_beside(
        &self,
        body: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<()>,
    ) -> Result<(), ReplicaError> {
        self.shared().write_beside(body)
    }
}

impl crate::keyring::ChainHistory for Replica {
    fn chain_at(&self, seq: u64) -> Option<ChainHash> {
        // A position that cannot be read is one that cannot be vouched for.
        Replica::chain_at(self, seq).ok().flatten()
    }
}

impl Shared {
    fn apply(&self, entries: &[Confirmed], standing: Option<Standing>) -> Result<Vec<Change>, ReplicaError> {
        let writer = self.writer.lock();
        let mut mark = {
            let state = self.state.read();
            if state.closed {
                return Err(ReplicaError::Closed);
            }
            state.head
        };
        for entry in entries {
            if entry.head.seq != mark.seq + 1 {
                return Err(ReplicaError::OutOfOrder { mark: mark.seq, got: entry.head.seq });
            }
            mark = entry.head;
        }
        if entries.is_empty() && standing.is_none() {
            return Ok(Vec::new());
        }
        writer.durable(true)?;
        writer.run(|conn| conn.execute_batch("BEGIN IMMEDIATE"))?;
        let written = self
            .transaction(&writer, entries, standing.as_ref(), mark)
            .and_then(|outcome| writer.run(|conn| conn.execute_batch("COMMIT")).map(|()| outcome));
        let outcome = match written {
            Ok(outcome) => outcome,
            Err(error) => {
                if !writer.conn.is_autocommit() {
                    // It has failed already; what undoing it says adds nothing.
                    let _ = writer.conn.execute_batch("ROLLBACK");
                }
                // Devices that the transaction added are known in memory only.
                writer.run(|conn| self.cache.devices.load(conn))?;
                return Err(error);
            }
        };
        let changes = self.publish(outcome, mark, standing)?;
        // Now that own work of these entries is no longer pending. What is not done is still owed.
        if let Err(error) = self.sweep(&writer) {
            tracing::warn!(db = %self.params.db, %error, "what was thinned out is removed later");
        }
        self.empty_wal(&writer)?;
        Ok(changes)
    }

    fn transaction(
        &self,
        writer: &Db,
        entries: &[Confirmed],
        standing: Option<&Standing>,
        mark: Head,
    ) -> Result<Outcome, ReplicaError> {
        let mut out = Outcome::default();
        let base = Base { source: Source::Writer(writer), cache: &self.cache };
        for (tag, entry) in (1..).zip(entries) {
            let own = self.own(entry);
            let mut as_seen = true;
            if let Some(batch) = &entry.batch {
                let device = entry.envelope.device;
                let (label, suite) = (entry.label.clone(), entry.envelope.suite);
                let context = Context { seq: entry.head.seq, device, label, horizon: entry.horizon, suite };
                let mut watch = Watch::begin(writer, &base, entry)?;
                for op in &batch.ops {
                    let mut layer = Layer {
                        overlay: &mut out.overlay,
                        base: &base,
                        tag,
                        numbers: &self.numbers,
                        adopt: &Mounted(self),
                        absent: std::cell::Cell::new(None),
                    };
                    watch.before(&layer, op)?;
                    let applied = keg::apply(&mut layer, &context, op)?;
                    watch.after(&layer, &applied)?;
                    as_seen &= applied == Applied::Done;
                }
                // Without the root.
                let files = self.state.read().usage.1.saturating_add(out.overlay.usage.1).saturating_sub(1).max(0);
                watch.end(writer, &base, files.cast_unsigned())?;
                let author = Author { seq: entry.head.seq, tag, device: &device };
                let touched = flush(writer, &base, &mut out.overlay, &author)?;
                if own.is_none() || !as_seen {
                    for row in &touched {
                        if let Touched::Dir(keg) = row
                            && let Some(dir) = out.overlay.dirs.get(keg)
                        {
                            let names = dir.names.iter().filter(|(_, over)| over.tag == tag);
                            out.names.extend(names.map(|(name, _)| (*keg, Arc::clone(name))));
                        }
                    }
                    out.foreign.extend(touched.iter().cloned());
                }
                out.touched.extend(touched);
            }
            if entry.envelope.device == self.params.device {
                out.own_counter = entry.envelope.counter;
                if entry.batch.is_some() {
                    out.own_op = out.own_op.max(own.map_or(0, |staged| staged.last_op));
                }
            }
            self.log(writer, entry)?;
            if let Some(wanted) = &entry.thin {
                let Told { refused, behind_ms, void } =
                    writer.run(|conn| thin::apply(conn, &self.cache, entry.head.seq, wanted))?;
                let ahead_ms = wanted.now_ms.saturating_sub(clock::unix_nanos() / 1_000_000);
                let told = [
                    (refused > 0).then_some(Happening::OverThinned { moments: refused }),
                    behind_ms.map(|behind_ms| Happening::ThinnedBehind { behind_s: behind_ms / 1000, void }),
                    (ahead_ms > AHEAD_MS).then(|| Happening::ThinnedAhead { ahead_s: ahead_ms.unsigned_abs() / 1000 }),
                ];
                for what in told.into_iter().flatten() {
                    writer.run(|conn| activity::add(conn, &activity_of(entry, what)))?;
                }
            }
            writer.run(|conn| told::note(conn, entry))?;
            let in_use = writer.run(|conn| release::note(conn, entry))?;
            if in_use > 0 {
                let what = Happening::ReleasedInUse { blobs: in_use };
                writer.run(|conn| activity::add(conn, &activity_of(entry, what)))?;
            }
            entry.activity.iter().try_for_each(|activity| writer.run(|conn| activity::add(conn, activity)))?;
        }
        let (bytes, files) = {
            let state = self.state.read();
            (state.usage.0 + out.overlay.usage.0, state.usage.1 + out.overlay.usage.1)
        };
        writer.run(|conn| {
            put_meta(conn, "mark_seq", mark.seq.cast_signed())?;
            put_meta(conn, "mark_chain", mark.chain.as_bytes())?;
            if let Some(signed) = entries.last().and_then(|entry| entry.signed.as_ref()) {
                put_meta(conn, "head_entry", signed)?;
            }
            put_meta(conn, "usage_bytes", bytes)?;
            put_meta(conn, "usage_files", files)?;
            put_meta(conn, "numbers", self.numbers.load(Ordering::Relaxed).cast_signed())?;
            if out.own_op > 0 {
                put_meta(conn, "confirmed_op", out.own_op.cast_signed())?;
            }
            standing.map_or(Ok(()), |standing| standing::store(conn, standing))
        })?;
        Ok(out)
    }

    /// Writes what belongs to no entry, whole and durably, and shows it.
    pub(super) fn write_beside(
        &self,
        body: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<()>,
    ) -> Result<(), ReplicaError> {
        let writer = self.writer.lock();
        self.is_open()?;
        writer.durable(true)?;
        writer.run(|conn| {
            let whole = conn.unchecked_transaction()?;
            body(&whole)?;
            whole.commit()
        })?;
        let _nobody_reads = self.state.write();
        self.pool.advance()
    }

    /// The staged entry that this is: same counter, same bytes.
    fn own(&self, entry: &Confirmed) -> Option<StagedEntry> {
        if entry.envelope.device != self.params.device {
            return None;
        }
        let staged = self.staged.lock().get(&entry.envelope.counter).cloned()?;
        let signed: SignedEntry = decode(&staged.bytes).ok()?;
        (signed.envelope == encode(&entry.envelope)).then_some(staged)
    }

    fn log(&self, writer: &Db, entry: &Confirmed) -> Result<(), ReplicaError> {
        writer.run(|conn| {
            let envelope = &entry.envelope;
            let device = self.cache.devices.number(conn, &envelope.device)?;
            // Never back, and not into the future: one wrong clock must not hide what comes after it.
            let clock_ms = envelope.created_ms.min(clock::unix_nanos() / 1_000_000);
            let mut log = conn.prepare_cached(
                "INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7,
                 max(?8, coalesce((SELECT clock_ms FROM log ORDER BY seq DESC LIMIT 1), ?8)))",
            )?;
            log.execute(params![
                entry.head.seq.cast_signed(),
                entry.head.chain.as_bytes(),
                entry.hash.as_bytes(),
                envelope.author.as_bytes(),
                device,
                entry.label,
                envelope.created_ms,
                clock_ms
            ])?;
            let mut author = conn.prepare_cached("INSERT OR REPLACE INTO author VALUES (?1, ?2, ?3)")?;
            let row = params![envelope.device.as_bytes(), envelope.counter.cast_signed(), entry.hash.as_bytes()];
            author.execute(row).map(|_| ())
        })
    }

    /// Shows the committed state.
    fn publish(&self, mut out: Outcome, mark: Head, standing: Option<Standing>) -> Result<Vec<Change>, ReplicaError> {
        let mut staged = self.staged.lock();
        let mut state = self.state.write();
        self.replace_cached(&out)?;
        self.pool.advance()?;
        state.head = mark;
        state.usage.0 += out.overlay.usage.0;
        state.usage.1 += out.overlay.usage.1;
        if let Some((name, _)) = out.overlay.folder_name.take() {
            state.folder_name = Some(name);
        }
        let mut changes = Vec::new();
        if let Some(standing) = standing {
            state.standing = Arc::new(standing);
            changes.push(Change::Standing);
        }
        if out.own_counter > 0 {
            staged.retain(|counter, _| *counter > out.own_counter);
            // An ignored entry's operations are pending again.
            let last = staged.values().map(|entry| entry.last_op).max().unwrap_or(0);
            state.queue.staged = last.max(out.own_op);
        }
        state.queue.confirm(out.own_op);
        let tools = self.tools();
        let foreign = !out.foreign.is_empty();
        if foreign && (meets(&state.overlay, &out) || state.depends_on_others()) {
            let old = state.rebuild(&tools)?;
            differences(&old, &state.overlay, &mut changes);
        } else {
            let base = |keg: &KegId| tools.base.node(keg).map(|row| row.map(|row| (row.node.clone(), row.xattrs)));
            state.overlay.confirm(out.own_op, base)?;
        }
        self.foreign_changes(&state, &out, &mut changes)?;
        drop(state);
        drop(staged);
        if out.own_counter > 0 {
            self.signal.shared.lock().trim = Some((out.own_op, out.own_counter));
            self.signal.wake();
            self.notify_journal();
        }
        Ok(changes)
    }

    /// Puts what the transaction changed into the caches.
    fn replace_cached(&self, out: &Outcome) -> Result<(), ReplicaError> {
        let overlay = &out.overlay;
        let number = |keg: &KegId| overlay.nodes.get(keg).map(|row| row.node.ino);
        for row in &out.touched {
            match row {
                Touched::Node(keg) => {
                    if let Some(row) = overlay.nodes.get(keg) {
                        self.cache.replace_node(NodeRow { node: row.node.clone(), xattrs: row.xattrs });
                    }
                }
                Touched::Dir(keg) => {
                    let (Some(dir), Some(parent)) = (overlay.dirs.get(keg), number(keg)) else { continue };
                    for (name, over) in &dir.names {
                        let row = over.there.as_ref().and_then(|named| {
                            let Named { keg, cookie, wanted, placed } = named.clone();
                            Some(NameRow { keg, child: number(&keg)?, cookie, wanted, placed })
                        });
                        if row.is_some() || over.there.is_none() {
                            self.cache.replace_name(parent, name, row);
                        } else {
                            // The named node is as it was, and so not at hand: to be read when it is asked for.
                            self.cache.forget_name(parent, name);
                        }
                    }
                }
                Touched::Redirect(row) => {
                    if let Some((redirect, _)) = overlay.redirects.get(&**row) {
                        self.cache.redirects.write().insert(**row, *redirect);
                    }
                }
                Touched::Content(_) | Touched::Xattr(_) | Touched::FolderName => {}
            }
        }
        Ok(())
    }

    /// What the kernel must hear of: the rows that others changed, as the mounted view shows them now.
    fn foreign_changes(&self, state: &State, out: &Outcome, changes: &mut Vec<Change>) -> Result<(), ReplicaError> {
        let base = Base { source: Source::Pool(&self.pool), cache: &self.cache };
        let number = |keg: &KegId| match state.overlay.nodes.get(keg).or_else(|| out.overlay.nodes.get(keg)) {
            Some(row) => Ok(Some(row.node.ino)),
            None => base.node(keg).map(|row| row.map(|row| row.node.ino)),
        };
        for row in &out.foreign {
            match row {
                Touched::Content(keg) => changes.extend(number(keg)?.map(Change::Content)),
                Touched::Node(keg) if !out.foreign.contains(&Touched::Content(*keg)) => {
                    changes.extend(number(keg)?.map(Change::Attr));
                }
                Touched::FolderName => changes.push(Change::Standing),
                _ => {}
            }
        }
        for (parent, name) in &out.names {
            let pending = state.overlay.dirs.get(parent).and_then(|dir| dir.names.get(name));
            let confirmed = out.overlay.dirs.get(parent).and_then(|dir| dir.names.get(name));
            let there = pending.or(confirmed).and_then(|over| over.there.as_ref());
            let child = there.map(|named| number(&named.keg)).transpose()?.flatten();
            if let Some(parent_ino) = number(parent)? {
                changes.push(Change::Entry { parent_ino, name: name.to_vec(), child });
            }
        }
        Ok(())
    }

    /// Moves the write-ahead log into the database when it has grown. All readers are at its end now; once everything is
    /// moved they begin anew from the database alone, and the next commit starts the log over.
    fn empty_wal(&self, writer: &Db) -> Result<(), ReplicaError> {
        let wal = writer.file.with_file_name("state.db-wal");
        if std::fs::metadata(&wal).map_or(0, |meta| meta.len()) < WAL_BYTES {
            return Ok(());
        }
        writer.run(|conn| conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())))?;
        let _state = self.state.write();
        self.pool.advance()
    }
}

/// A line about an entry.
fn activity_of(entry: &Confirmed, what: Happening) -> Activity {
    Activity {
        seq: entry.head.seq,
        at_ms: entry.envelope.created_ms,
        account: Some(entry.envelope.author),
        actor: entry.label.clone(),
        what,
    }
}

/// Others touched what pending operations touch: these must be applied again.
fn meets(pending: &Overlay, out: &Outcome) -> bool {
    let rows = out.foreign.iter().any(|row| match row {
        Touched::Node(keg) => pending.nodes.contains_key(keg),
        Touched::Content(keg) => pending.contents.contains_key(keg),
        Touched::Xattr(keg) => pending.xattrs.contains_key(keg),
        Touched::Redirect(row) => pending.redirects.contains_key(&**row),
        Touched::Dir(_) | Touched::FolderName => false,
    });
    rows || out
        .names
        .iter()
        .any(|(parent, name)| pending.dirs.get(parent).is_some_and(|dir| dir.names.contains_key(name)))
}

/// Rows in which two overlays of the same pending work differ.
fn differences(old: &Overlay, new: &Overlay, changes: &mut Vec<Change>) {
    let kegs: HashSet<&KegId> = old.nodes.keys().chain(new.nodes.keys()).collect();
    for keg in kegs {
        let (before, after) = (old.nodes.get(keg), new.nodes.get(keg));
        if let (Some(before), Some(after)) = (before, after)
            && before.node == after.node
        {
            continue;
        }
        let content = |row: Option<&Box<super::overlay::OverNode>>| row.map(|row| (row.node.content, row.node.size));
        if let Some(row) = before.or(after) {
            let same = content(before) == content(after);
            changes.push(if same { Change::Attr(row.node.ino) } else { Change::Content(row.node.ino) });
        }
    }
    let dirs: HashSet<&KegId> = old.dirs.keys().chain(new.dirs.keys()).collect();
    for keg in dirs {
        let Some(parent_ino) = old.ino(keg).or_else(|| new.ino(keg)) else { continue };
        let (before, after) = (old.dirs.get(keg), new.dirs.get(keg));
        let names = [before, after].into_iter().flatten().flat_map(|dir| dir.names.keys());
        for name in names.collect::<HashSet<_>>() {
            let there = |dir: Option<&super::overlay::Dir>| {
                dir.and_then(|dir| dir.names.get(name)).and_then(|over| over.there.as_ref()).map(|named| named.keg)
            };
            let (was, is) = (there(before), there(after));
            if was != is {
                let child = is.and_then(|keg| new.ino(&keg));
                changes.push(Change::Entry { parent_ino, name: name.to_vec(), child });
            }
        }
    }
}
