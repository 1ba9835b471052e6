//! One folder's replica: opening, closing, and what the user does.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use rusqlite::{Connection, OptionalExtension};
use zeroize::Zeroizing;

use super::base::{Base, Cache, Source};
use super::db::{self, Db};
use super::flush::{put_meta, write_node};
use super::journal::{Journal, Signal};
use super::layer::{Adopt, Fresh, Numbered};
use super::overlay::OverNode;
use super::past::Listings;
use super::pool::Pool;
use super::state::{Place, Queue, State, Tools};
use super::types::{Change, OpenParams, Pending, PendingCounts, Slot, StagedEntry, Standing};
use super::view::View;
use super::{ReplicaError, schema};
use crate::crypto::Key;
use crate::format::limits::SUITE;
use crate::format::{ChainHash, DeviceId, EntryHash, Head, KegId, Op, OpKind};
use crate::keg::{Applied, Context, Node, PENDING_SEQ, ROOT_INO};
use crate::sys::{files, threads};

/// Page cache of the writing connection: one entry's worth of scattered index pages.
const WRITER_CACHE_KIB: u32 = 8192;

type OnChange = Box<dyn Fn(&[Change]) + Send + Sync>;
type OnJournal = Box<dyn Fn() + Send + Sync>;

/// What a submitted operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Its number in the queue.
    pub number: u64,
    /// What applying it to the mounted view did.
    pub applied: Applied,
    /// The node that a `Create` made or a `Link` named, as it is now.
    pub node: Option<Node>,
}

/// The local copy of one folder. Synchronous; every method may be called from any thread. Dropping it closes it.
pub struct Replica {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the replica's threads share.
pub(super) struct Shared {
    pub(super) params: OpenParams,
    pub(super) dir: PathBuf,
    /// Before `writer`: the connection that is closed last empties the write-ahead log, and readers cannot.
    pub(super) pool: Pool,
    pub(super) writer: Mutex<Db>,
    pub(super) cache: Cache,
    pub(super) state: RwLock<State>,
    /// Next inode number or cookie. Persisted with the confirmed state; numbers that only pending work has are found
    /// in the journal.
    pub(super) numbers: AtomicU64,
    /// How pending operations are applied.
    pub(super) context: Context,
    pub(super) journal: Journal,
    pub(super) signal: Signal,
    pub(super) staged: Mutex<BTreeMap<u64, StagedEntry>>,
    /// Directories of past moments that are being listed.
    pub(super) listings: Mutex<Listings>,
    /// Files that programs have open, by number, how often.
    pub(super) open_files: Mutex<HashMap<u64, u32>>,
    on_change: RwLock<Option<OnChange>>,
    on_journal: RwLock<Option<OnJournal>>,
    /// Held from opening to closing, whoever still refers to the replica then.
    file_lock: Mutex<Option<files::FileLock>>,
}

impl Replica {
    /// Opens the replica in `dir`, creating it where there is none.
    ///
    /// # Errors
    /// [`ReplicaError::InUse`], [`ReplicaError::WrongKey`], [`ReplicaError::Corrupt`], [`ReplicaError::OtherOwner`],
    /// [`ReplicaError::NewerLayout`], [`ReplicaError::DiskFull`], or the system's. Nothing on disk is changed then.
    pub fn open(dir: &Path, key: &Key, params: OpenParams) -> Result<Arc<Self>, ReplicaError> {
        files::create_private_dir(dir).map_err(|error| ReplicaError::io(dir, error))?;
        let lock_file = dir.join("lock");
        let lock = files::lock_exclusive(&lock_file).map_err(|error| ReplicaError::io(&lock_file, error))?;
        db::check_key(dir, key)?;
        let file = dir.join("state.db");
        let writer = db::open(&file, key, WRITER_CACHE_KIB, false)?;
        db::migrate(&writer, schema::STATE)?;
        writer.run(|conn| {
            // Emptied by `apply`, which knows when no reader holds it. See `pool`.
            conn.execute_batch("PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=16777216;")
        })?;
        let cache = Cache::new();
        writer.run(|conn| cache.load(conn))?;
        initialise(&writer, &cache, &params)?;
        writer.run(super::told::take_over)?;
        let saved = writer.run(load)?;
        let pool = Pool::open(&file, key)?;
        let journal = Journal::open(&dir.join("journal.db"), key)?;
        let own_counter = writer.run(|conn| author(conn, &params.device))?.map_or(0, |(counter, _)| counter);
        let mut staged = BTreeMap::new();
        for entry in journal.load_staged()? {
            if entry.counter > own_counter {
                staged.insert(entry.counter, entry);
            }
        }
        let ops = journal.load(saved.confirmed_op)?;
        let last = ops.last().map_or(0, |op| op.number).max(saved.confirmed_op);
        let last = staged.values().map(|entry| entry.last_op).fold(last, u64::max);
        let first = ops.first().map_or(last + 1, |op| op.number);
        let numbers = ops.iter().map(|op| op.ino + 1).fold(saved.numbers, u64::max);
        let state = State {
            head: saved.head,
            standing: Arc::new(saved.standing),
            folder_name: saved.folder_name,
            usage: saved.usage,
            overlay: super::overlay::Overlay::default(),
            queue: Queue::new(first),
            written_since: HashMap::new(),
            closed: false,
        };
        let (device, label) = (params.device, params.label.clone());
        let context = Context { seq: PENDING_SEQ, device, label, horizon: 0, suite: SUITE };
        let shared = Arc::new(Shared {
            params,
            dir: dir.to_owned(),
            writer: Mutex::new(writer),
            pool,
            cache,
            state: RwLock::new(state),
            numbers: AtomicU64::new(numbers),
            context,
            journal,
            signal: Signal::default(),
            staged: Mutex::new(staged),
            listings: Mutex::default(),
            open_files: Mutex::default(),
            on_change: RwLock::new(None),
            on_journal: RwLock::new(None),
            file_lock: Mutex::new(Some(lock)),
        });
        shared.replay(ops, last)?;
        let worker = Arc::clone(&shared);
        let thread = threads::spawn("kegfs-journal", move || worker.journal_thread())
            .map_err(|error| ReplicaError::io(dir, error))?;
        Ok(Arc::new(Self { shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Makes what was queued durable, stops, and lets go of the files: they can be opened again when this returns, even
    /// while somebody still refers to this replica. Places that are still reserved count as empty.
    ///
    /// # Errors
    /// When the journal cannot be written; the replica is closed all the same.
    pub fn close(&self) -> Result<(), ReplicaError> {
        let Some(thread) = self.thread.lock().take() else { return Ok(()) };
        self.shared.state.write().release_reserved();
        self.shared.signal.wake();
        let result = self.flush(true);
        self.shared.state.write().closed = true;
        {
            let mut progress = self.shared.signal.shared.lock();
            progress.closing = true;
            self.shared.signal.work.notify_one();
        }
        // The thread does not panic; if it did, there is nothing left to stop.
        let _ = thread.join();
        // Who is writing now finishes first; who comes later sees that it is closed.
        drop(self.shared.writer.lock());
        drop(self.shared.staged.lock());
        self.shared.file_lock.lock().take();
        result
    }

    /// The directory that the replica lies in.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Whose replica it is.
    pub fn params(&self) -> &OpenParams {
        &self.shared.params
    }

    /// The mounted view: confirmed state with pending work on top, unchanging while the view is held. Hold it briefly
    /// (writers wait), never two in one thread, and never while calling anything else of the replica.
    pub fn view(&self) -> View<'_> {
        View::new(&self.shared, self.shared.state.read())
    }

    /// The newest applied position. What the user does now is based on it.
    pub fn head(&self) -> Head {
        self.shared.state.read().head
    }

    // --- what the user does ---

    /// Does `kind` at `at_ns` (nanoseconds since 1970 UTC) on what the mounted view shows now: queued for the journal and
    /// visible at once. Checks the format's limits only. The keg of a `Create` must be new (random).
    ///
    /// # Errors
    /// [`ReplicaError::Format`]; [`ReplicaError::DiskFull`] and the like while the journal cannot be written, so that
    /// work which cannot be kept does not pile up; or those of reading the confirmed state.
    pub fn submit(&self, kind: OpKind, at_ns: i64) -> Result<Submitted, ReplicaError> {
        self.shared.submit(None, kind, at_ns)
    }

    /// An inode number that no node has and none will get, but by [`Self::submit_numbered`].
    pub fn fresh_number(&self) -> u64 {
        self.shared.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Whatever name comes into being from now on has a cookie above this.
    pub fn newest_cookie(&self) -> u64 {
        self.shared.numbers.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// As [`Self::submit`], for a creation whose node gets a [fresh number](Self::fresh_number).
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn submit_numbered(&self, kind: OpKind, at_ns: i64, number: u64) -> Result<Submitted, ReplicaError> {
        self.shared.submit_adopting(None, kind, at_ns, &Numbered(number))
    }

    /// As [`Self::submit`], on the version that `op.base` names.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn submit_based(&self, op: Op) -> Result<Submitted, ReplicaError> {
        self.shared.submit(Some(op.base), op.kind, op.at_ns)
    }

    /// Keeps a place in the queue for content of `keg` that is still being sealed: operations submitted later come after
    /// it in the log. Must be filled.
    ///
    /// # Errors
    /// As [`Self::submit`], but for limits.
    pub fn reserve(&self, keg: KegId) -> Result<Slot, ReplicaError> {
        self.shared.journal_works()?;
        let mut state = self.shared.state.write();
        if state.closed {
            return Err(ReplicaError::Closed);
        }
        Ok(Slot(state.reserve(keg)))
    }

    /// Fills a place with the content operation, or with nothing. The mounted view shows the content from now on, as if
    /// it had come in its place. Works while the journal fails: what is sealed is not to be lost.
    ///
    /// # Errors
    /// [`ReplicaError::Format`] (the place then counts as empty), [`ReplicaError::NoSuchSlot`], or those of reading.
    pub fn fill(&self, slot: Slot, op: Option<Op>) -> Result<(), ReplicaError> {
        let checked = op.as_ref().map_or(Ok(()), Op::check);
        let op = op.filter(|_| checked.is_ok());
        {
            let mut state = self.shared.state.write();
            state.fill(&self.shared.tools(), slot.0, op)?;
        }
        self.shared.signal.wake();
        Ok(checked?)
    }

    /// Waits until everything queued before is filled and in the journal; `durable`: and on the disk.
    ///
    /// # Errors
    /// Why the journal could not be written; the work stays queued and is tried again.
    pub fn flush(&self, durable: bool) -> Result<(), ReplicaError> {
        self.flush_by(durable, None)
    }

    /// As [`Self::flush`], but waits no longer than until `deadline`.
    ///
    /// # Errors
    /// As [`Self::flush`], and [`ReplicaError::TimedOut`]; the work stays queued.
    pub fn flush_until(&self, durable: bool, deadline: Instant) -> Result<(), ReplicaError> {
        self.flush_by(durable, Some(deadline))
    }

    fn flush_by(&self, durable: bool, deadline: Option<Instant>) -> Result<(), ReplicaError> {
        let target = self.shared.state.read().queue.last();
        let signal = &self.shared.signal;
        let mut progress = signal.shared.lock();
        let failures = progress.failures;
        loop {
            let reached = if durable { progress.durable } else { progress.written };
            if reached >= target {
                return Ok(());
            }
            if progress.failures != failures
                && let Some(error) = &progress.error
            {
                return Err(error.duplicate());
            }
            if progress.ended {
                return Err(ReplicaError::Closed);
            }
            let wanted = if durable { &mut progress.wanted_durable } else { &mut progress.wanted };
            if *wanted < target {
                *wanted = target;
                drop(progress);
                signal.wake();
                signal.work.notify_one();
                progress = signal.shared.lock();
                continue;
            }
            match deadline {
                None => signal.done.wait(&mut progress),
                Some(deadline) if signal.done.wait_until(&mut progress, deadline).timed_out() => {
                    return Err(ReplicaError::TimedOut);
                }
                Some(_) => {}
            }
        }
    }

    // --- what the uploader does ---

    /// How far local work has come.
    pub fn pending_counts(&self) -> PendingCounts {
        let state = self.shared.state.read();
        let queue = &state.queue;
        let mut counts = PendingCounts::default();
        for (number, queued) in (queue.first..).zip(&queue.ops) {
            if matches!(queued.place, Place::Void) {
                continue;
            }
            counts.pending += 1;
            counts.unjournaled += u64::from(number > queue.journaled);
            counts.staged += u64::from(number <= queue.staged);
        }
        counts
    }

    /// Journaled operations that are in no staged entry, in order, at most `max_ops` and together at most `max_bytes`
    /// encoded (but at least one).
    pub fn pending(&self, max_ops: usize, max_bytes: usize) -> Vec<Pending> {
        let state = self.shared.state.read();
        let queue = &state.queue;
        let mut taken = Vec::new();
        let mut bytes = 0;
        for number in queue.staged + 1..=queue.journaled {
            let Some(queued) = queue.get(number) else { continue };
            let Place::Filled(op) = &queued.place else { continue };
            bytes += queued.bytes as usize;
            if taken.len() >= max_ops || (bytes > max_bytes && !taken.is_empty()) {
                break;
            }
            taken.push(Pending { number, op: Arc::clone(op) });
        }
        taken
    }

    /// Remembers a signed entry durably, before it is sent: identical bytes are sent until it shows up in the log, and
    /// then its operations are confirmed once.
    ///
    /// # Errors
    /// Those of the journal; the entry must then not be sent.
    pub fn stage(&self, entry: StagedEntry) -> Result<(), ReplicaError> {
        let mut staged = self.shared.staged.lock();
        self.shared.is_open()?;
        self.shared.journal.stage(&entry)?;
        let mut state = self.shared.state.write();
        state.queue.staged = state.queue.staged.max(entry.last_op);
        staged.insert(entry.counter, entry);
        Ok(())
    }

    /// All staged entries, ascending by counter.
    pub fn staged(&self) -> Vec<StagedEntry> {
        self.shared.staged.lock().values().cloned().collect()
    }

    /// Takes back the staged entries from `counter` on, which the server has refused for good: their operations are
    /// pending again.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn unstage(&self, counter: u64) -> Result<(), ReplicaError> {
        let mut staged = self.shared.staged.lock();
        self.shared.is_open()?;
        self.shared.journal.unstage(counter)?;
        staged.retain(|number, _| *number < counter);
        let last = staged.values().map(|entry| entry.last_op).max().unwrap_or(0);
        let mut state = self.shared.state.write();
        state.queue.staged = last.max(state.queue.first - 1);
        Ok(())
    }

    /// Calls `notify` on the journal's thread whenever [`Self::pending`] may have more to give. It must not block.
    pub fn on_journal(&self, notify: impl Fn() + Send + Sync + 'static) {
        *self.shared.on_journal.write() = Some(Box::new(notify));
    }

    /// Calls `notify` with what others changed, after it shows in new views. On the thread that applies; no lock held.
    pub fn on_change(&self, notify: impl Fn(&[Change]) + Send + Sync + 'static) {
        *self.shared.on_change.write() = Some(Box::new(notify));
    }

    // --- what the verifier keeps here ---

    /// The newest entry that was verified, applied and made durable.
    pub fn mark(&self) -> Head {
        self.head()
    }

    /// What [`Self::apply`] was given last.
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.shared.state.read().standing)
    }

    /// Counter and hash of the device's newest entry in this log.
    ///
    /// # Errors
    /// Those of reading.
    pub fn author(&self, device: &DeviceId) -> Result<Option<(u64, EntryHash)>, ReplicaError> {
        let _state = self.shared.state.read();
        self.shared.pool.with(|db| db.run(|conn| author(conn, device)))
    }

    /// All devices that ever wrote, with counter and hash of their newest entries.
    ///
    /// # Errors
    /// Those of reading.
    pub fn authors(&self) -> Result<Vec<(DeviceId, u64, EntryHash)>, ReplicaError> {
        let _state = self.shared.state.read();
        self.shared.pool.with(|db| {
            db.run(|conn| {
                let mut statement = conn.prepare("SELECT device, counter, hash FROM author")?;
                let rows = statement.query_map([], |row| {
                    let counter = row.get::<_, i64>(1)?.cast_unsigned();
                    Ok((DeviceId(row.get(0)?), counter, EntryHash(row.get(2)?)))
                })?;
                rows.collect()
            })
        })
    }

    /// Chain hash after entry `seq`; of the empty log for 0, `None` beyond the mark.
    ///
    /// # Errors
    /// Those of reading.
    pub fn chain_at(&self, seq: u64) -> Result<Option<ChainHash>, ReplicaError> {
        let state = self.shared.state.read();
        if seq == 0 || seq == state.head.seq {
            return Ok(Some(if seq == 0 { ChainHash::ZERO } else { state.head.chain }));
        }
        self.shared.pool.with(|db| {
            db.run(|conn| {
                let mut statement = conn.prepare_cached("SELECT chain FROM log WHERE seq = ?1")?;
                statement.query_row([seq.cast_signed()], |row| row.get(0).map(ChainHash)).optional()
            })
        })
    }

    /// Keeps the key ring's bytes.
    ///
    /// # Errors
    /// Those of writing.
    pub fn store_keyring(&self, bytes: &[u8]) -> Result<(), ReplicaError> {
        let writer = self.shared.writer.lock();
        self.shared.is_open()?;
        writer.durable(true)?;
        writer.run(|conn| put_meta(conn, "keyring", bytes))
    }

    /// The key ring's bytes, as stored last.
    ///
    /// # Errors
    /// Those of reading.
    pub fn load_keyring(&self) -> Result<Option<Zeroizing<Vec<u8>>>, ReplicaError> {
        let writer = self.shared.writer.lock();
        writer.run(|conn| Ok(meta::<Vec<u8>>(conn, "keyring")?.map(Zeroizing::new)))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // Who wants to know whether it worked calls it before.
        let _ = self.close();
    }
}

impl Shared {
    /// What applying pending operations needs.
    pub(super) fn tools(&self) -> Tools<'_> {
        let base = Base { source: Source::Pool(&self.pool), cache: &self.cache };
        Tools { base, numbers: &self.numbers, context: &self.context }
    }

    fn submit(&self, base: Option<u64>, kind: OpKind, at_ns: i64) -> Result<Submitted, ReplicaError> {
        self.submit_adopting(base, kind, at_ns, &Fresh)
    }

    fn submit_adopting(
        &self,
        base: Option<u64>,
        kind: OpKind,
        at_ns: i64,
        adopt: &dyn Adopt,
    ) -> Result<Submitted, ReplicaError> {
        self.journal_works()?;
        let shown = match &kind {
            OpKind::Create { keg, .. } | OpKind::Link { keg, .. } => Some(*keg),
            _ => None,
        };
        let mut op = Op { base: base.unwrap_or(0), at_ns, kind };
        op.check_own()?;
        let submitted = {
            let mut state = self.state.write();
            if state.closed {
                return Err(ReplicaError::Closed);
            }
            op.base = base.unwrap_or(state.head.seq);
            let (number, applied) = state.submit(&self.tools(), op, adopt)?;
            let node = shown.and_then(|keg| state.overlay.nodes.get(&keg)).map(|row| row.node.clone());
            Submitted { number, applied, node }
        };
        self.signal.wake();
        Ok(submitted)
    }

    pub(super) fn is_open(&self) -> Result<(), ReplicaError> {
        if self.state.read().closed { Err(ReplicaError::Closed) } else { Ok(()) }
    }

    pub(super) fn journal_works(&self) -> Result<(), ReplicaError> {
        if self.signal.failing.load(Ordering::Acquire)
            && let Some(error) = &self.signal.shared.lock().error
        {
            return Err(error.duplicate());
        }
        Ok(())
    }

    /// Puts the journal's operations back into the queue and the overlay.
    fn replay(&self, ops: Vec<super::journal::Journaled>, last: u64) -> Result<(), ReplicaError> {
        struct Known(HashMap<KegId, u64>);
        impl Adopt for Known {
            fn ino(&self, keg: &KegId) -> Option<u64> {
                self.0.get(keg).copied()
            }
            fn cookie(&self, _: &KegId, _: &[u8], _: &KegId) -> Option<u64> {
                None
            }
        }
        let known = ops.iter().filter_map(|journaled| match &journaled.op.kind {
            OpKind::Create { keg, .. } if journaled.ino > 0 => Some((*keg, journaled.ino)),
            _ => None,
        });
        let known = Known(known.collect());
        let mut state = self.state.write();
        for journaled in ops {
            // Numbers of places that came to nothing are missing.
            while state.queue.last() + 1 < journaled.number {
                state.queue.push(Place::Void, 0);
            }
            let (number, _) = state.submit(&self.tools(), journaled.op, &known)?;
            if let Some(queued) = state.queue.get_mut(number) {
                queued.bytes = journaled.bytes;
            }
        }
        while state.queue.last() < last {
            state.queue.push(Place::Void, 0);
        }
        state.queue.set_journaled(last);
        let staged = self.staged.lock().values().map(|entry| entry.last_op).max().unwrap_or(0);
        state.queue.staged = state.queue.staged.max(staged);
        let mut progress = self.signal.shared.lock();
        progress.written = last;
        Ok(())
    }

    pub(super) fn notify_journal(&self) {
        if let Some(notify) = &*self.on_journal.read() {
            notify();
        }
    }

    pub(super) fn notify_change(&self, changes: &[Change]) {
        if !changes.is_empty()
            && let Some(notify) = &*self.on_change.read()
        {
            notify(changes);
        }
    }
}

/// What `meta` says at opening.
struct Saved {
    head: Head,
    standing: Standing,
    folder_name: Option<String>,
    usage: (i64, i64),
    numbers: u64,
    confirmed_op: u64,
}

fn load(conn: &Connection) -> rusqlite::Result<Saved> {
    let number = |key| meta::<i64>(conn, key).map(|value| value.unwrap_or(0));
    Ok(Saved {
        head: Head {
            seq: number("mark_seq")?.cast_unsigned(),
            chain: meta(conn, "mark_chain")?.map_or(ChainHash::ZERO, ChainHash),
        },
        standing: super::standing::load(conn)?,
        folder_name: meta(conn, "folder_name")?,
        usage: (number("usage_bytes")?, number("usage_files")?),
        numbers: number("numbers")?.cast_unsigned().max(ROOT_INO + 1),
        confirmed_op: number("confirmed_op")?.cast_unsigned(),
    })
}

/// A value of table `meta`.
pub(super) fn meta<T: rusqlite::types::FromSql>(conn: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    conn.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()
}

fn author(conn: &Connection, device: &DeviceId) -> rusqlite::Result<Option<(u64, EntryHash)>> {
    let mut statement = conn.prepare_cached("SELECT counter, hash FROM author WHERE device = ?1")?;
    let row = statement
        .query_row([device.as_bytes()], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), EntryHash(row.get(1)?))));
    row.optional()
}

/// Gives a new database its owner and its root, or compares the owner.
fn initialise(writer: &Db, cache: &Cache, params: &OpenParams) -> Result<(), ReplicaError> {
    let (db, device) = writer.run(|conn| Ok((meta::<[u8; 32]>(conn, "db")?, meta::<[u8; 32]>(conn, "own_device")?)))?;
    match (db, device) {
        (Some(db), Some(device)) if db == params.db.0 && device == params.device.0 => return Ok(()),
        (Some(_), _) => return Err(ReplicaError::OtherOwner { file: writer.file.clone() }),
        _ => {}
    }
    writer.durable(true)?;
    writer.run(|conn| {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        let root = OverNode::new(Node::root());
        write_node(conn, cache, &root, 0)?;
        put_meta(conn, "usage_files", 1)?;
        put_meta(conn, "own_device", params.device.as_bytes())?;
        put_meta(conn, "db", params.db.as_bytes())?;
        conn.execute_batch("COMMIT")
    })
}
