//! Bringing local changes to the server: blobs first, in parallel, then the entry that refers to them.
//!
//! One task per folder looks at the front of the journal. Blobs start as soon as the operation that refers to them is
//! journaled; the longest front of operations whose blobs have all arrived becomes the next entry. One entry is on its
//! way at a time: while it travels, operations gather for the next one, so batches grow with the load and stay small
//! without it. What entries are made of and what becomes of them is in [`super::append`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::append::{Outcome, seal, send};
use super::backoff::Backoff;
use super::event::Event;
use super::member::{Command, Work};
use super::newborn::Ready;
use super::{Folder, SyncError};
use crate::format::limits::{BATCH_MAX_BYTES, BATCH_MAX_OPS};
use crate::format::{BlobId, BlobRef, NodeKind, OpKind, Role};
use crate::replica::Pending;
use crate::sys::clock;

/// Blobs on their way at once: enough to keep a fast network busy, and bounds the memory to 4 × 4.2 MiB.
const PARALLEL: usize = 4;
/// Blobs of one entry, so that it stays below the 1 MiB that it may have: 2,048 references are 80 KiB.
const BATCH_BLOBS: usize = 2048;
/// How far ahead of the entries blobs are looked for.
const AHEAD_OPS: usize = 2 * BATCH_MAX_OPS;
/// See [`AHEAD_OPS`].
const AHEAD_BYTES: usize = 4 * BATCH_MAX_BYTES;
/// How long the first operation after a quiet time waits for company. Saving a file is several operations within a
/// few milliseconds; a person notices nothing below 100.
const GROUP_DELAY: Duration = Duration::from_millis(15);
/// Until the next attempt, where time alone does not help.
const BLOCKED: Duration = Duration::from_secs(15);
/// Ids that one question for missing blobs names.
const MISSING_IDS: usize = 1024;

/// How often it is looked whether a stream is being written.
const STREAM_SAMPLE: Duration = Duration::from_millis(100);
/// Bytes spooled within one sample that make a stream: far more than saving a document, a tenth of what a disk takes.
const STREAM_BYTES: u64 = 16 << 20;
/// How long the upload stands back for a stream at most; after that both share the machine.
const STREAM_HOLD: Duration = Duration::from_secs(3);

type Upload = (BlobId, u64, Result<(), SyncError>);

/// A folder's uploader.
pub(super) struct Uploader {
    folder: Arc<Folder>,
    commands: mpsc::Receiver<Command>,
    /// Blobs that the server has and that no entry refers to yet, with their sizes.
    stored: HashMap<BlobId, u64>,
    flying: HashSet<BlobId>,
    uploads: JoinSet<Upload>,
    job: Option<JoinHandle<Outcome>>,
    /// Work was first seen then.
    since: Option<Instant>,
    stream: Stream,
    paused_until: Option<Instant>,
    backoff: Backoff,
    /// The reason that was told last, so that it is told once.
    blocked: Option<String>,
    /// What the server has already is not known: after a start.
    ask_missing: bool,
}

/// Notices that large files are being written. Sending them at the same time would halve the speed of writing, since
/// the machine would seal, store, read and send at once; a moment later it is idle.
#[derive(Default)]
struct Stream {
    sampled: Option<(Instant, u64)>,
    since: Option<Instant>,
}

impl Stream {
    /// Whether to stand back now, when the spool holds `spooled` bytes.
    fn flows(&mut self, now: Instant, spooled: u64) -> bool {
        if let Some((at, before)) = self.sampled {
            if now.saturating_duration_since(at) < STREAM_SAMPLE {
                return self.since.is_some_and(|since| now.saturating_duration_since(since) < STREAM_HOLD);
            }
            if spooled.saturating_sub(before) >= STREAM_BYTES {
                self.since.get_or_insert(now);
            } else {
                self.since = None;
            }
        }
        self.sampled = Some((now, spooled));
        self.since.is_some_and(|since| now.saturating_duration_since(since) < STREAM_HOLD)
    }
}

/// What the uploader finds in front of it.
struct Front {
    /// Blobs to be sent, in the order in which entries need them.
    wanted: Vec<(BlobId, u64)>,
    /// Operations whose blobs are all there.
    ready: Vec<Pending>,
    adds: Vec<BlobRef>,
    /// The next entry is as large as an entry may be.
    full: bool,
    /// The next operation creates a file that is being written; it waits until then at most.
    held_until: Option<Instant>,
}

/// Set when something happened that makes trying again at once right.
#[derive(Default)]
pub(super) struct RetryNow(AtomicBool);

impl RetryNow {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Uploader {
    pub fn new(folder: Arc<Folder>, commands: mpsc::Receiver<Command>) -> Self {
        Self {
            folder,
            commands,
            stored: HashMap::new(),
            flying: HashSet::new(),
            uploads: JoinSet::new(),
            job: None,
            since: None,
            stream: Stream::default(),
            paused_until: None,
            backoff: Backoff::default(),
            blocked: None,
            ask_missing: true,
        }
    }

    /// Uploads until the session ends.
    pub async fn run(mut self) {
        let folder = Arc::clone(&self.folder);
        loop {
            let pause = self.step().await;
            tokio::select! {
                () = folder.upload.notified() => {}
                Some(landed) = self.uploads.join_next(), if !self.uploads.is_empty() => {
                    if let Ok(landed) = landed {
                        self.landed(landed);
                    }
                }
                done = finished(&mut self.job), if self.job.is_some() => self.finish(done),
                Some(command) = self.commands.recv(), if self.job.is_none() => self.change(command),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Starts what can be started; returns how long there is nothing to do unless something happens.
    async fn step(&mut self) -> Duration {
        let now = clock::monotonic();
        if self.folder.retry_now.take() {
            self.paused_until = None;
            self.backoff.reset();
        }
        if let Some(until) = self.paused_until {
            if until > now {
                return until - now;
            }
            self.paused_until = None;
        }
        if !self.folder.role().is_some_and(Role::writes) || self.folder.frozen().is_some() {
            // Pending work is kept; a change of role wakes this task.
            self.tell_waiting();
            return BLOCKED;
        }
        if self.job.is_some() && self.flying.len() >= PARALLEL {
            return BLOCKED;
        }
        let staged = self.folder.replica.staged();
        let front = self.look(staged.iter().flat_map(|entry| &entry.blobs), now);
        if self.ask_missing && !front.wanted.is_empty() {
            self.ask(&front).await;
            return Duration::ZERO;
        }
        if !front.wanted.is_empty() && self.stream.flows(now, self.folder.local.usage().spool_bytes) {
            return STREAM_SAMPLE;
        }
        for (blob, size) in front.wanted.iter().take(PARALLEL.saturating_sub(self.flying.len())) {
            self.start_upload(*blob, *size);
        }
        if self.job.is_some() {
            return BLOCKED;
        }
        if let Some(first) = staged.into_iter().next() {
            let arrived =
                |blob: &BlobRef| self.stored.contains_key(&blob.id) || !self.folder.local.is_spooled(&blob.id);
            if first.blobs.iter().all(arrived) {
                self.job = Some(self.folder.shared.foreground.spawn(send(Arc::clone(&self.folder), first)));
            }
            return BLOCKED;
        }
        if front.ready.is_empty() {
            if front.wanted.is_empty() && self.flying.is_empty() {
                self.since = None;
            } else {
                self.since.get_or_insert(now);
            }
            return front.held_until.map_or(BLOCKED, |until| until.saturating_duration_since(now));
        }
        let due = *self.since.get_or_insert(now) + GROUP_DELAY;
        if due > now && !front.full {
            return due - now;
        }
        let folder = Arc::clone(&self.folder);
        self.job = Some(self.folder.shared.foreground.spawn(async move {
            match seal(&folder, front.ready, front.adds).await {
                Ok(staged) => send(folder, staged).await,
                Err(error) => Outcome::Blocked(error),
            }
        }));
        BLOCKED
    }

    /// Tells once that changes wait for a role that may write.
    fn tell_waiting(&mut self) {
        let waiting = self.folder.waiting_for_role();
        if let (Some(reason), None) = (&waiting, &self.blocked) {
            self.folder.hub.tell(&Event::UploadBlocked { db: self.folder.id(), reason: reason.clone() });
            self.blocked = waiting;
        }
    }

    /// Looks at the front of the journal, after the blobs of entries that are staged already.
    fn look<'a>(&self, staged: impl Iterator<Item = &'a BlobRef>, now: Instant) -> Front {
        let mut front =
            Front { wanted: Vec::new(), ready: Vec::new(), adds: Vec::new(), full: false, held_until: None };
        let mut ready = Ready::new();
        let mut seen = HashSet::new();
        for blob in staged {
            if seen.insert(blob.id) && !self.stored.contains_key(&blob.id) && self.folder.local.is_spooled(&blob.id) {
                front.want(blob.id, blob.size_bytes, &self.flying);
            }
        }
        let most = self.folder.replica.pending(BATCH_MAX_OPS, BATCH_MAX_BYTES).len();
        let mut open = true;
        let ahead = self.folder.replica.pending(AHEAD_OPS, AHEAD_BYTES);
        self.folder.let_filled_go(&ahead);
        for pending in ahead {
            let mut adds = Vec::new();
            let mut arrived = true;
            if let OpKind::Create { keg, parent, name, kind: NodeKind::File, .. } = &pending.op.kind
                && open
                && let Some(until) = self.folder.newborns.held_until(keg, now)
            {
                front.held_until = Some(until);
                ready.hold_back(&(*parent, name.clone()));
                open = false;
            }
            for id in pending.op.kind.blobs() {
                if !seen.insert(id) {
                    arrived &= self.stored.contains_key(&id) || !self.folder.local.is_spooled(&id);
                } else if let Some(size) = self.stored.get(&id) {
                    adds.push(BlobRef { id, size_bytes: *size });
                } else if self.folder.local.is_spooled(&id)
                    && let Some(size) = self.folder.local.size(&id)
                {
                    arrived = false;
                    front.want(id, size, &self.flying);
                }
            }
            let fits = ready.len() < most && front.adds.len() + adds.len() <= BATCH_BLOBS.max(adds.len());
            front.full |= open && arrived && !fits;
            open &= arrived && fits;
            if open {
                let added = adds.len();
                front.adds.append(&mut adds);
                ready.take(pending, added);
            } else if let OpKind::Content { keg, .. } = &pending.op.kind {
                ready.wait_for(keg, front.full);
            }
            if !open && front.wanted.len() >= PARALLEL && !ready.has_empty() {
                break;
            }
        }
        let (ready, adds) = ready.done();
        front.ready = ready;
        front.adds.truncate(adds);
        front
    }

    /// Learns which of the wanted blobs the server has from before the start.
    async fn ask(&mut self, front: &Front) {
        let ids: Vec<BlobId> = front.wanted.iter().map(|(id, _)| *id).take(MISSING_IDS).collect();
        match self.folder.remote.missing_blobs(self.folder.id(), &ids).await {
            Ok(missing) => {
                let missing: HashSet<BlobId> = missing.into_iter().collect();
                let there = front.wanted.iter().take(MISSING_IDS).filter(|(id, _)| !missing.contains(id));
                self.stored.extend(there.copied());
                self.ask_missing = false;
            }
            Err(error) => self.failed(&error.into()),
        }
    }

    fn start_upload(&mut self, blob: BlobId, size: u64) {
        self.flying.insert(blob);
        let folder = Arc::clone(&self.folder);
        self.uploads.spawn_on(
            async move {
                let result = put(&folder, blob).await;
                (blob, size, result)
            },
            &self.folder.shared.background,
        );
    }

    fn landed(&mut self, (blob, size, result): Upload) {
        self.flying.remove(&blob);
        match result {
            Ok(()) => {
                self.stored.insert(blob, size);
                self.backoff.reset();
            }
            Err(error) => self.failed(&error),
        }
    }

    fn change(&mut self, command: Command) {
        let folder = Arc::clone(&self.folder);
        self.job = Some(self.folder.shared.foreground.spawn(async move {
            // The counter that a staged entry has taken must be settled first.
            for staged in folder.replica.staged() {
                match send(Arc::clone(&folder), staged).await {
                    Outcome::Confirmed => {}
                    Outcome::Later(error) | Outcome::Blocked(error) => {
                        let _ = command.done.send(Err(error));
                        return Outcome::Again;
                    }
                    Outcome::Again | Outcome::Missing(_) => {}
                }
            }
            let result = match &command.work {
                Work::Change(change) => folder.make_change(change).await,
                Work::Checkpoint(prepared) => folder.post_checkpoint(prepared).await,
                Work::Thin(report) => folder.make_thinning(report).await,
                Work::Keep => folder.make_keeping().await,
            };
            // Who asked may have stopped waiting.
            let _ = command.done.send(result);
            Outcome::Again
        }));
    }

    fn finish(&mut self, outcome: Option<Outcome>) {
        self.job = None;
        match outcome {
            Some(Outcome::Confirmed) => {
                self.backoff.reset();
                self.blocked = None;
                self.folder.link.note_error(None);
                let local = &self.folder.local;
                self.stored.retain(|blob, _| local.is_spooled(blob));
            }
            Some(Outcome::Again) => {}
            Some(Outcome::Missing(blobs)) => {
                for blob in blobs {
                    self.stored.remove(&blob);
                    if !self.folder.local.is_spooled(&blob) {
                        self.failed(&SyncError::LostBlob(blob));
                    }
                }
            }
            Some(Outcome::Later(error) | Outcome::Blocked(error)) => self.failed(&error),
            // The task ended without a result: it panicked, and what it did is in its staged entry.
            None => self.paused_until = Some(clock::monotonic() + BLOCKED),
        }
        self.folder.note_progress();
    }

    fn failed(&mut self, error: &SyncError) {
        let text = error.to_string();
        self.folder.link.note_error(Some(text.clone()));
        let pause = if error.is_transient() {
            self.backoff.next()
        } else {
            if self.blocked.as_ref() != Some(&text) {
                self.folder.hub.tell(&Event::UploadBlocked { db: self.folder.id(), reason: text.clone() });
                self.blocked = Some(text);
            }
            BLOCKED
        };
        let until = clock::monotonic() + pause;
        self.paused_until = Some(self.paused_until.map_or(until, |before| before.max(until)));
        self.ask_missing = true;
    }
}

impl Front {
    fn want(&mut self, blob: BlobId, size: u64, flying: &HashSet<BlobId>) {
        if !flying.contains(&blob) {
            self.wanted.push((blob, size));
        }
    }
}

async fn finished(job: &mut Option<JoinHandle<Outcome>>) -> Option<Outcome> {
    match job {
        Some(job) => job.await.ok(),
        None => std::future::pending().await,
    }
}

async fn put(folder: &Arc<Folder>, blob: BlobId) -> Result<(), SyncError> {
    let local = Arc::clone(&folder.local);
    let read = tokio::task::spawn_blocking(move || local.read(&blob));
    let bytes: Bytes = read.await.map_err(|_| SyncError::Closed)??.into();
    Ok(folder.remote.put_blob(folder.id(), blob, bytes).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_given_way_to_for_a_while_and_a_saved_document_is_not() {
        let start = clock::monotonic();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut saving = Stream::default();
        assert!(!saving.flows(at(0), 1 << 20));
        assert!(!saving.flows(at(150), 2 << 20));
        let mut stream = Stream::default();
        assert!(!stream.flows(at(0), 0));
        assert!(stream.flows(at(100), 64 << 20));
        assert!(stream.flows(at(150), 64 << 20), "between two samples nothing is decided");
        assert!(stream.flows(at(250), 128 << 20));
        assert!(!stream.flows(at(360), 129 << 20), "it has ended");
        assert!(stream.flows(at(500), 300 << 20));
        for n in 6..40 {
            stream.flows(at(n * 100), n << 28);
        }
        assert!(!stream.flows(at(4000), 40 << 28), "not for ever");
    }
}
