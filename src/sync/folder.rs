//! One shared folder, open: its replica, its local ciphertext, its connection.
//!
//! What has a deadline blocks the calling thread and may be called from any; everything else answers from local state.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};

use super::accounts::Accounts;
use super::event::{Event, Hub};
use super::fetch::{Fetcher, deadline};
use super::letters::Mark;
use super::locks::Locks;
use super::member::Command;
use super::newborn::Newborns;
use super::present::Present;
use super::runtime::run_on;
use super::status::{Link, Status, now_ms};
use super::upload::RetryNow;
use super::verify::Verified;
use super::{Evidence, FetchError, Kept, SyncError, evidence};
use crate::blobs::LocalStore;
use crate::crypto::boxes::KemSecret;
use crate::crypto::{kdf, labels};
use crate::format::{AccountId, BlobId, DbId, DeviceId, Head, Role, SignedEntry, decode};
use crate::keyring::{Author, Identity};
use crate::remote::Remote;
use crate::replica::{Activity, Happening, OpenParams, Replica, ReplicaError};
use crate::sys::files;

/// What the folders of a session share.
pub(super) struct Shared {
    pub identity: Identity,
    pub author: Author,
    pub device: DeviceId,
    pub label: String,
    pub remote: Arc<dyn Remote>,
    pub accounts: Arc<Accounts>,
    pub hub: Arc<Hub>,
    pub foreground: Handle,
    pub background: Handle,
    /// The event stream stands.
    pub live: AtomicBool,
    /// The account's log says that this device was revoked.
    pub revoked: AtomicBool,
    /// What another device knew of folders when it let this one in: less is not accepted (THREATS row 31).
    pub floors: HashMap<DbId, Mark>,
    pub cache_bytes: u64,
    /// The profile's directory.
    pub profile: PathBuf,
    /// Folders that the user is no member of any more, for the session to take away.
    pub departures: mpsc::UnboundedSender<DbId>,
}

type OnStanding = Box<dyn Fn() + Send + Sync>;

/// A shared folder. Follows the server's log and uploads local changes for as long as the session is open.
pub struct Folder {
    /// The mounted view and the queue of local changes.
    pub replica: Arc<Replica>,
    /// Ciphertext: the spool of what is to be uploaded, the cache of what was read.
    pub local: Arc<LocalStore>,
    id: DbId,
    dir: PathBuf,
    pub(super) me: AccountId,
    pub(super) device: DeviceId,
    pub(super) shared: Arc<Shared>,
    pub(super) remote: Arc<dyn Remote>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) hub: Arc<Hub>,
    pub(super) link: Link,
    /// State and keys of the replica's mark. Held while entries are taken in and while entries are signed, never while
    /// waiting for the network.
    pub(super) verified: Arc<tokio::sync::Mutex<Verified>>,
    /// Taken for a whole catch-up, before `verified`.
    pub(super) catching_up: tokio::sync::Mutex<()>,
    pub(super) follow: Notify,
    pub(super) upload: Arc<Notify>,
    /// Newest position that the server has announced.
    pub(super) announced: AtomicU64,
    /// Counts the times that own work was confirmed, or failed for good.
    pub(super) progress: watch::Sender<u64>,
    /// Something about the membership changed: see `steward`.
    pub(super) duties: Notify,
    /// There may be a checkpoint to compare: see `audit`.
    pub(super) audits: Notify,
    /// Taken while a checkpoint is made.
    pub(super) handing_over: tokio::sync::Mutex<()>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) retry_now: RetryNow,
    pub(super) newborns: Newborns,
    /// Number of the first operation of the entry that was staged last.
    pub(super) staged_from: AtomicU64,
    pub(super) locks: Locks,
    pub(super) room_told: super::room::Told,
    /// Epochs whose keys were refused, and told of.
    pub(super) refused_keys: Mutex<HashSet<u32>>,
    fetcher: Arc<Fetcher>,
    pub(super) standing: RwLock<Present>,
    on_standing: RwLock<Option<OnStanding>>,
    frozen: RwLock<Option<String>>,
    pub(super) tasks: Mutex<Vec<tokio::task::AbortHandle>>,
}

impl Folder {
    /// Opens (or creates) the local side of folder `id` under `dir`. Starts nothing.
    pub(super) fn open(
        shared: &Arc<Shared>,
        id: DbId,
        dir: &Path,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Command>), SyncError> {
        let io = |error: std::io::Error| SyncError::Io { path: dir.to_owned(), detail: error.to_string() };
        files::create_private_dir(dir).map_err(io)?;
        let key = kdf::derive(labels::KEY_REPLICA, &[shared.identity.local.as_bytes(), id.as_bytes()]);
        let params = OpenParams { db: id, device: shared.device, label: shared.label.clone() };
        let replica = Replica::open(dir, &key, params)?;
        let local = Arc::new(LocalStore::open(&dir.join("blobs"), shared.cache_bytes)?);
        let verified = Verified::load(&replica)?;
        let present = Present::of(&verified.state, &shared.author.account());
        let (commands, receiver) = mpsc::channel(16);
        let folder = Arc::new(Self {
            fetcher: Fetcher::new(
                id,
                Arc::clone(&shared.remote),
                Arc::clone(&local),
                shared.foreground.clone(),
                Arc::clone(&shared.hub),
            ),
            id,
            dir: dir.to_owned(),
            me: shared.author.account(),
            device: shared.device,
            remote: Arc::clone(&shared.remote),
            accounts: Arc::clone(&shared.accounts),
            hub: Arc::clone(&shared.hub),
            link: Link::new(0),
            verified: Arc::new(tokio::sync::Mutex::new(verified)),
            catching_up: tokio::sync::Mutex::default(),
            follow: Notify::new(),
            upload: Arc::new(Notify::new()),
            announced: AtomicU64::new(0),
            progress: watch::channel(0).0,
            duties: Notify::new(),
            audits: Notify::new(),
            handing_over: tokio::sync::Mutex::default(),
            commands,
            retry_now: RetryNow::default(),
            newborns: Newborns::default(),
            staged_from: AtomicU64::new(0),
            locks: Locks::new(),
            room_told: Default::default(),
            refused_keys: Mutex::default(),
            standing: RwLock::new(present),
            on_standing: RwLock::default(),
            frozen: RwLock::new(evidence::frozen(dir)?),
            tasks: Mutex::default(),
            shared: Arc::clone(shared),
            replica,
            local,
        });
        folder.sweep_spool();
        let wake = Arc::clone(&folder.upload);
        folder.replica.on_journal(move || wake.notify_one());
        Ok((folder, receiver))
    }

    /// Lets go of spooled blobs that no pending work refers to: their entries were confirmed right before the process
    /// ended, or their operations never reached the journal.
    fn sweep_spool(&self) {
        let mut needed: HashSet<BlobId> =
            self.replica.staged().iter().flat_map(|entry| &entry.blobs).map(|blob| blob.id).collect();
        for pending in self.replica.pending(usize::MAX, usize::MAX) {
            needed.extend(pending.op.kind.blobs());
        }
        for (blob, _) in self.local.spooled() {
            if !needed.contains(&blob)
                && let Err(error) = self.local.uploaded(&blob)
            {
                tracing::warn!(%blob, %error, "a blob stays in the spool");
            }
        }
    }

    /// The folder's id.
    pub fn id(&self) -> DbId {
        self.id
    }

    /// Before it the past is not there for everybody: where the current epoch began, or up to where it was thinned out. Not
    /// to be called from async code.
    pub fn horizon(&self) -> u64 {
        self.verified.blocking_lock().past_from()
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The folder's name; until the log has named it, the one that the device knew which let this one in, or its shortened
    /// id.
    pub fn name(&self) -> String {
        let told = || self.shared.floors.get(&self.id).map(|mark| mark.name.clone());
        let id = || format!("folder-{}", &self.id.to_string()[..8]);
        self.replica.view().folder_name().or_else(told).unwrap_or_else(id)
    }

    /// The log has given the folder its name: everything up to there is applied.
    pub fn is_named(&self) -> bool {
        self.replica.view().folder_name().is_some()
    }

    /// There is something to show: the log has named the folder, and the user is a member of it.
    pub fn is_ready(&self) -> bool {
        self.role().is_some() && self.is_named()
    }

    /// Where the folder's local files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The user's role; `None`: not (or no longer) a member.
    pub fn role(&self) -> Option<Role> {
        self.standing.read().role_now()
    }

    /// Calls `notify` when what the user may do here has changed, after [`Self::role`] and [`Self::frozen`] say so. It
    /// must not block.
    pub fn on_standing(&self, notify: impl Fn() + Send + Sync + 'static) {
        *self.on_standing.write() = Some(Box::new(notify));
    }

    pub(super) fn standing_changed(&self) {
        if let Some(notify) = &*self.on_standing.read() {
            notify();
        }
    }

    /// Why the folder is read-only although the role may write: the server was caught.
    pub fn frozen(&self) -> Option<String> {
        self.frozen.read().clone()
    }

    /// Local changes are taken: the role writes and the folder is not frozen.
    pub fn writable(&self) -> bool {
        self.role().is_some_and(Role::writes) && self.frozen.read().is_none()
    }

    /// Subscribed to the server's push, and everything it announced is applied: what is cached will be told when it
    /// changes.
    pub fn online(&self) -> bool {
        self.link.online()
    }

    /// Until when the view is known to be complete, milliseconds since 1970 UTC; `None` while [`Self::online`].
    pub fn stale_since_ms(&self) -> Option<i64> {
        self.link.report().1
    }

    /// How people call a device: `alice's laptop`. `None` for one that no entry here has named.
    pub fn label(&self, device: &DeviceId) -> Option<String> {
        self.accounts.label(device)
    }

    /// Bytes of ciphertext that wait for their upload. What no operation waits with is not going to be uploaded.
    pub fn waiting_bytes(&self) -> u64 {
        if self.replica.pending_counts().pending > 0 { self.local.usage().spool_bytes } else { 0 }
    }

    /// Where the folder stands.
    pub fn status(&self) -> Status {
        let (since_ms, stale_since_ms, last_error) = self.link.report();
        let stored = self.local.usage();
        let present = *self.standing.read();
        let pending_ops = self.replica.pending_counts().pending;
        Status {
            db: self.id,
            name: self.name(),
            role: self.role(),
            online: self.online(),
            since_ms,
            stale_since_ms,
            head_seq: self.replica.mark().seq,
            epoch: self.replica.standing().epoch,
            pending_ops,
            pending_blobs: if pending_ops > 0 { stored.spool_blobs } else { 0 },
            pending_bytes: self.waiting_bytes(),
            cache_bytes: stored.cache_bytes,
            last_error: self.waiting_for_role().or(last_error),
            rotation_due: present.rotation_due,
            expires_ms: present.expires_ms,
            frozen: self.frozen(),
            undecided: self.undecided(),
            clock_behind: self.clock_behind(),
            complete_ms: self.link.complete_ms(),
        }
    }

    /// What to say of local changes that the user's role does not let through (any more).
    pub(super) fn waiting_for_role(&self) -> Option<String> {
        let role = self.role().filter(|role| !role.writes())?;
        let waiting = self.replica.pending_counts().pending;
        let refused = SyncError::NotAllowed { role, action: "write" };
        (waiting > 0).then(|| format!("{refused}; {waiting} changes wait here until you can"))
    }

    /// The whole blob, from the server, verified against its id and then cached. Several callers share one transfer.
    /// Ask [`Self::local`] first.
    pub fn fetch_blocking(&self, blob: &BlobId, within: Duration) -> Result<Bytes, FetchError> {
        self.fetcher.fetch(*blob, deadline(within))
    }

    /// The same with a point in time.
    pub fn fetch_until(&self, blob: &BlobId, until: Instant) -> Result<Bytes, FetchError> {
        self.fetcher.fetch(*blob, until)
    }

    /// A range of a blob, from the server, verified against the blob's id, not cached. For small reads at random places.
    pub fn fetch_range_until(&self, blob: &BlobId, range: Range<u64>, until: Instant) -> Result<Vec<u8>, FetchError> {
        self.fetcher.fetch_range(*blob, range, until)
    }

    /// Begins to fetch a blob that will be wanted soon. Returns at once.
    pub fn prefetch(&self, blob: &BlobId) {
        self.fetcher.prefetch(*blob);
    }

    /// Waits until the server has sequenced everything that was in the journal at the time of the call.
    ///
    /// # Errors
    /// [`SyncError::TimedOut`]; [`SyncError::Frozen`] and [`SyncError::NotAMember`] where it will never happen.
    pub fn wait_uploaded_blocking(self: &Arc<Self>, within: Duration) -> Result<(), SyncError> {
        let folder = Arc::clone(self);
        run_on(&self.shared.foreground, async move {
            tokio::time::timeout(within, folder.uploaded())
                .await
                .map_err(|_| SyncError::TimedOut("uploading the folder's changes"))?
        })
    }

    pub(super) async fn uploaded(&self) -> Result<(), SyncError> {
        let replica = Arc::clone(&self.replica);
        let journaled = tokio::task::spawn_blocking(move || replica.flush(false));
        journaled.await.map_err(|_| SyncError::Closed)??;
        let staged = self.replica.staged().iter().map(|entry| entry.last_op).max().unwrap_or(0);
        let last = self.replica.pending(usize::MAX, usize::MAX).last().map_or(staged, |pending| pending.number);
        let mut progress = self.progress.subscribe();
        self.upload.notify_one();
        loop {
            if self.confirmed_upto(last) {
                return Ok(());
            }
            if let Some(why) = self.frozen() {
                return Err(SyncError::Frozen(why));
            }
            match self.role() {
                Some(role) if role.writes() => {}
                Some(role) => return Err(SyncError::NotAllowed { role, action: "write" }),
                None => return Err(SyncError::NotAMember),
            }
            progress.changed().await.map_err(|_| SyncError::Closed)?;
        }
    }

    /// No operation up to number `last` waits for the server.
    fn confirmed_upto(&self, last: u64) -> bool {
        // Staged before pending: an operation moves from the one to the other, and back only when it is refused.
        let first = self.replica.pending(1, 0).first().map(|pending| pending.number);
        let from = self.staged_from.load(Ordering::Acquire);
        let staged = !self.replica.staged().is_empty() && from <= last;
        !staged && first.is_none_or(|first| first > last)
    }

    /// Waits until everything that the server has now is applied here.
    pub fn catch_up_blocking(self: &Arc<Self>, within: Duration) -> Result<(), SyncError> {
        let folder = Arc::clone(self);
        run_on(&self.shared.foreground, async move {
            tokio::time::timeout(within, folder.catch_up())
                .await
                .map_err(|_| SyncError::TimedOut("catching up with the server"))?
        })
    }

    /// The server announced entry `seq`.
    pub(super) fn announce(&self, seq: u64) {
        self.announced.fetch_max(seq, Ordering::AcqRel);
        self.follow.notify_one();
    }

    /// The user's key of `generation`.
    pub(super) fn user_key(&self, generation: u32) -> Result<KemSecret, SyncError> {
        self.shared.user_key(generation)
    }

    /// Something happened that makes uploading at once right.
    pub(super) fn retry_now(&self) {
        self.retry_now.set();
        self.upload.notify_one();
    }

    /// The server was caught: keeps the proof, and nothing is written or applied any more.
    pub(super) fn freeze(&self, what: &str, head: Head, offered_seq: u64, offered: &[SignedEntry]) {
        if self.frozen.read().is_some() {
            return;
        }
        let proof = Evidence {
            db: self.id,
            seen_ms: now_ms(),
            what: what.to_owned(),
            head,
            offered_seq,
            offered: offered.to_vec(),
            own: self.newest_signed(),
        };
        let evidence = evidence::keep(&self.dir, &self.proofs(), &proof).unwrap_or_else(|error| {
            tracing::error!(%error, "the evidence could not be written");
            self.dir.clone()
        });
        *self.frozen.write() = Some(what.to_owned());
        self.link.lost(Some(what.to_owned()));
        self.note(Happening::Misbehaviour { what: what.to_owned() });
        self.hub.tell(&Event::Misbehaviour { db: self.id, what: what.to_owned(), evidence });
        self.standing_changed();
        self.note_progress();
    }

    /// The server was heard, and has announced nothing that is not applied.
    pub(super) fn heard(&self) {
        if self.announced.load(Ordering::Acquire) <= self.replica.mark().seq {
            self.link.heard();
        }
    }

    /// Where the proofs of the server's misbehaviour are.
    fn proofs(&self) -> PathBuf {
        evidence::dir_of(&self.shared.profile, &self.id)
    }

    /// The newest signed entry that is at hand.
    fn newest_signed(&self) -> Option<SignedEntry> {
        let bytes = self.replica.view().head_entry().ok().flatten()?;
        decode(&bytes).ok()
    }

    /// What is kept of the server's misbehaviour in this folder, oldest first.
    ///
    /// # Errors
    /// Those of the files.
    pub fn evidence(&self) -> Result<Vec<Kept>, SyncError> {
        evidence::all(&self.proofs())
    }

    /// The user has decided that a frozen folder goes on from what was verified. Where the server still contradicts that,
    /// it is frozen again.
    ///
    /// # Errors
    /// [`SyncError::NotFrozen`]; those of the files.
    pub fn thaw(&self) -> Result<(), SyncError> {
        if self.frozen.read().is_none() {
            return Err(SyncError::NotFrozen);
        }
        evidence::thaw(&self.dir)?;
        *self.frozen.write() = None;
        self.note(Happening::Thawed);
        self.standing_changed();
        self.follow.notify_one();
        self.retry_now();
        Ok(())
    }

    /// Adds to the folder's activity what this machine noticed by itself.
    pub(super) fn note(&self, what: Happening) {
        self.note_with(what, Replica::note);
    }

    fn note_with(&self, what: Happening, how: impl Fn(&Replica, &Activity) -> Result<(), ReplicaError>) {
        let line =
            Activity { seq: self.replica.mark().seq, at_ms: now_ms(), account: None, actor: String::new(), what };
        if let Err(error) = how(&self.replica, &line) {
            tracing::warn!(db = %self.id, %error, "a line of the folder's activity could not be kept");
        }
    }

    /// Adds a warning, unless the same was added before.
    pub(super) fn note_once(&self, what: Happening) {
        self.note_with(what, Replica::note_once);
    }

    /// Tells of an epoch of which this member was given another key than the log says.
    pub(super) fn note_false_key(&self, epoch: u32) {
        self.note_once(Happening::FalseKey { epoch });
    }

    /// Tells of an epoch that cuts off from what is older who joins later. Once: every later key comes by here.
    pub(super) fn note_false_link(&self, epoch: u32) {
        self.note_once(Happening::FalseLink { epoch });
    }

    /// Tells of members who are in doubt, once for each doubt.
    pub(super) fn note_doubts(&self) {
        for (account, name, why) in self.undecided() {
            self.note_once(Happening::InDoubt { account, name, why });
        }
    }

    /// What happened in the folder, with numbers that ascend: those above `after`, at most `limit`.
    ///
    /// # Errors
    /// Those of the replica.
    pub fn activity(&self, after: u64, limit: usize) -> Result<Vec<(u64, Activity)>, SyncError> {
        Ok(self.replica.view().activity(after, limit)?)
    }

    /// The newest `limit` warnings that the user has not seen yet, oldest first.
    pub fn unseen_warnings(&self, limit: usize) -> Vec<(u64, Activity)> {
        let view = self.replica.view();
        view.warnings_seen().and_then(|seen| view.warnings(seen, limit)).unwrap_or_default()
    }

    /// The user has seen the warnings up to this number.
    ///
    /// # Errors
    /// Those of the replica.
    pub fn see_warnings(&self, upto: u64) -> Result<(), SyncError> {
        Ok(self.replica.see_warnings(upto)?)
    }

    pub(super) fn note_progress(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    /// Ends the folder's tasks. The replica is closed by the session.
    pub(super) fn stop(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}
