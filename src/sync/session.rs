//! One unlocked account: its folders, its connection, its tasks.
//!
//! Every public method may be called from any thread and blocks that thread for as long as it says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::accounts::Accounts;
use super::event::{Event, Hub};
use super::folder::Shared;
use super::runtime::Runtimes;
use super::status::now_ms;
use super::upload::Uploader;
use super::verify::{Taken, take_in};
use super::{Folder, SyncError};
use crate::api::ErrorCode;
use crate::crypto::{kdf, labels};
use crate::format::{
    AccountId, DbId, DeviceId, Head, Membership, MembershipChange, OpKind, SignedEntry, check_name, limits,
};
use crate::keyring::{AccountLogs, Author, AuthorState, Identity, Position, db_id, new_epoch};
use crate::remote::Remote;
use crate::replica::{AccountStore, FolderRecord, Happening};
use crate::sys::clock;

/// How long the calls that need the server take at most, where they name no deadline themselves.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of ciphertext that each folder keeps for reading, unless told otherwise.
pub const DEFAULT_CACHE_BYTES: u64 = 8 << 30;

/// How long closing may take to tell the server that nothing is locked any more.
const LOCKS_END: Duration = Duration::from_secs(1);

/// Where the session's files are, and how much it may keep.
#[derive(Clone, Debug)]
pub struct SessionPaths {
    /// Directory of `account.db` (the profile's).
    pub profile: PathBuf,
    /// Directory below which each folder has its own.
    pub folders: PathBuf,
    /// Bytes of ciphertext that each folder may keep for reading.
    pub cache_bytes: u64,
}

/// What a new folder needs before its tasks start.
type Prepare<'a> = &'a dyn Fn(&Arc<Folder>) -> Result<(), SyncError>;

/// One unlocked account on one device. Dropping it stops everything; [`Session::close`] also says whether local work
/// is safe.
pub struct Session {
    pub(super) inner: Arc<Inner>,
    runtimes: Runtimes,
}

pub(super) struct Inner {
    pub shared: Arc<Shared>,
    pub(super) store: Arc<AccountStore>,
    pub(super) paths: SessionPaths,
    pub(super) folders: RwLock<BTreeMap<DbId, Arc<Folder>>>,
    /// Taken while a folder is being opened or taken away, so that none is opened twice.
    pub(super) opening: Mutex<()>,
    tasks: Mutex<Vec<AbortHandle>>,
    closed: AtomicBool,
}

impl Session {
    /// Opens the account's folders and starts to follow the server. Needs the server only when the account's own log is
    /// not known on this device yet.
    ///
    /// # Errors
    /// Files that cannot be opened; [`SyncError::Remote`] on the very first start without a server.
    pub fn open(paths: &SessionPaths, identity: Identity, remote: Arc<dyn Remote>) -> Result<Arc<Self>, SyncError> {
        let runtimes = Runtimes::new()?;
        let account_key = kdf::derive(labels::KEY_REPLICA, &[identity.local.as_bytes(), b"account"]);
        let store = Arc::new(AccountStore::open(&paths.profile, &account_key)?);
        let hub = Arc::<Hub>::default();
        let accounts =
            Arc::new(Accounts::new(Arc::clone(&remote), Arc::clone(&store), Arc::clone(&hub), identity.account)?);
        let me = identity.account;
        let own = match accounts.log(&me) {
            Some(log) => log,
            None => {
                let accounts = Arc::clone(&accounts);
                runtimes.run(async move { accounts.refresh(me).await })?
            }
        };
        let device = identity.device_id();
        if let Some(error) = super::own::revocation(&own, &device) {
            return Err(error);
        }
        let floors = super::join::stored_marks(&store)?.into_iter().map(|mark| (mark.db, mark)).collect();
        let (departures, departing) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            author: Author::new(&identity),
            label: own.label(&device),
            identity,
            device,
            remote,
            accounts,
            hub,
            foreground: runtimes.foreground(),
            background: runtimes.background(),
            live: AtomicBool::new(false),
            revoked: AtomicBool::new(false),
            floors,
            cache_bytes: paths.cache_bytes,
            profile: paths.profile.clone(),
            departures,
        });
        let inner = Arc::new(Inner {
            shared,
            store,
            paths: paths.clone(),
            folders: RwLock::default(),
            opening: Mutex::default(),
            tasks: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        inner.sweep_departed()?;
        let weak = Arc::downgrade(&inner);
        inner.shared.hub.listen(Box::new(move |event| {
            if let Some(inner) = weak.upgrade() {
                inner.note_event(event);
            }
        }));
        for record in inner.store.folders()? {
            inner.open_folder(record.db, None)?;
        }
        let runtime = &inner.shared.foreground;
        let stream = runtime.spawn(Inner::run_stream(Arc::downgrade(&inner)));
        let departures = runtime.spawn(Inner::run_departures(Arc::downgrade(&inner), departing));
        let pins = runtime.spawn(Inner::run_pins(Arc::downgrade(&inner)));
        inner.tasks.lock().extend([stream, departures, pins].map(|task| task.abort_handle()));
        Ok(Arc::new(Self { inner, runtimes }))
    }

    /// The account.
    pub fn account(&self) -> AccountId {
        self.inner.shared.author.account()
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.inner.shared.device
    }

    /// The name that the account gave itself.
    pub fn account_name(&self) -> String {
        let log = self.inner.shared.accounts.log(&self.account());
        log.map_or_else(String::new, |log| log.name().to_owned())
    }

    /// The event stream to the server stands.
    pub fn online(&self) -> bool {
        self.inner.shared.live.load(std::sync::atomic::Ordering::Acquire)
    }

    /// How far the server's clock is ahead of this machine's, milliseconds, to about a second.
    ///
    /// # Errors
    /// [`SyncError::Remote`], [`SyncError::TimedOut`].
    pub fn clock_ahead_ms(&self, within: Duration) -> Result<i64, SyncError> {
        let remote = Arc::clone(&self.inner.shared.remote);
        self.timed(within, "asking the server for its time", async move {
            let before_ms = now_ms();
            let server_ms = remote.clock().await?;
            // Its second began half a second ago on average, and it was asked halfway.
            Ok(server_ms + 500 - (before_ms + now_ms()) / 2)
        })
    }

    /// Calls `listener` with every event, from background threads. It must not block.
    pub fn on_event(&self, listener: impl Fn(&Event) + Send + Sync + 'static) {
        self.inner.shared.hub.listen(Box::new(listener));
    }

    /// The folders that are complete up to their name and the user's membership, by name.
    pub fn folders(&self) -> Vec<Arc<Folder>> {
        let mut folders: Vec<_> =
            self.inner.folders.read().values().filter(|folder| folder.is_ready()).map(Arc::clone).collect();
        folders.sort_by_cached_key(|folder| (folder.name(), folder.id()));
        folders
    }

    /// The folders that are not complete yet, though the user is a member: see [`SyncError::AwaitingState`].
    pub fn waiting(&self) -> Vec<Arc<Folder>> {
        let folders = self.inner.folders.read();
        folders.values().filter(|folder| folder.role().is_some() && !folder.is_ready()).map(Arc::clone).collect()
    }

    /// The folders of which nothing is shown because the server was caught before they were complete, as a new device may
    /// find it: [`Folder::frozen`] says why.
    pub fn hidden(&self) -> Vec<Arc<Folder>> {
        let folders = self.inner.folders.read();
        folders.values().filter(|folder| folder.frozen().is_some() && folder.role().is_none()).map(Arc::clone).collect()
    }

    /// The folder with this name or id.
    ///
    /// # Errors
    /// [`SyncError::NoSuchFolder`], [`SyncError::AmbiguousFolder`].
    pub fn folder(&self, name_or_id: &str) -> Result<Arc<Folder>, SyncError> {
        if let Ok(id) = name_or_id.parse::<DbId>()
            && let Some(folder) = self.inner.folders.read().get(&id)
        {
            return Ok(Arc::clone(folder));
        }
        let mut found: Vec<_> = self.folders().into_iter().filter(|folder| folder.name() == name_or_id).collect();
        match (found.pop(), found.len()) {
            (None, _) => Err(SyncError::NoSuchFolder(name_or_id.to_owned())),
            (Some(folder), 0) => Ok(folder),
            (Some(_), others) => Err(SyncError::AmbiguousFolder { name: name_or_id.to_owned(), count: others + 1 }),
        }
    }

    /// Asks the server which folders there are and brings all of them up to date. A folder of a million files takes a
    /// new device minutes; `within` is how long nothing at all may come.
    ///
    /// # Errors
    /// [`SyncError::Remote`], [`SyncError::TimedOut`], or what keeps a folder from being complete.
    pub fn refresh(&self, within: Duration) -> Result<(), SyncError> {
        let inner = Arc::clone(&self.inner);
        self.runtimes.run(async move {
            let asked = tokio::time::timeout(within, inner.discover()).await;
            match asked.map_err(|_| SyncError::TimedOut("asking the server for folders"))? {
                Err(SyncError::Remote(error)) if error.code() == Some(ErrorCode::LoginFailed) => {
                    // What the account's log proves is the better reason.
                    inner.why_refused().await?;
                    return Err(error.into());
                }
                other => other?,
            }
            for folder in inner.all() {
                match folder.catch_up_while_it_comes(within).await {
                    // It is there as soon as somebody hands its state over; the others need not wait for that.
                    Ok(()) | Err(SyncError::AwaitingState) => inner.note_name(&folder),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }

    /// Creates a folder and waits until the server has it with its name.
    ///
    /// # Errors
    /// [`SyncError::BadName`], [`SyncError::NameTaken`], [`SyncError::Remote`], or those of the local files.
    pub fn create_folder(&self, name: &str) -> Result<Arc<Folder>, SyncError> {
        let printable = !name.chars().any(char::is_control);
        if name.len() > limits::LABEL_MAX_BYTES || !printable || check_name(name.as_bytes()).is_err() {
            return Err(SyncError::BadName(name.to_owned()));
        }
        if self.folders().iter().any(|folder| folder.name() == name) {
            return Err(SyncError::NameTaken(name.to_owned()));
        }
        let (inner, wanted) = (Arc::clone(&self.inner), name.to_owned());
        let folder = self.timed(CALL_DEADLINE, "creating the folder", async move {
            let folder = inner.create().await?;
            folder.replica.submit(OpKind::FolderName { name: wanted }, clock::unix_nanos())?;
            Ok(folder)
        })?;
        folder.wait_uploaded_blocking(CALL_DEADLINE)?;
        self.inner.note_name(&folder);
        Ok(folder)
    }

    /// Waits until the server has everything of all folders.
    ///
    /// # Errors
    /// As [`Folder::wait_uploaded_blocking`].
    pub fn wait_uploaded(&self, within: Duration) -> Result<(), SyncError> {
        let until = super::fetch::deadline(within);
        let folders: Vec<_> = self.inner.folders.read().values().map(Arc::clone).collect();
        for folder in folders.iter().filter(|folder| folder.writable()) {
            folder.wait_uploaded_blocking(until.saturating_duration_since(clock::monotonic()))?;
        }
        Ok(())
    }

    /// Stops following and uploading and closes all folders, their journals durable. Called once; later calls do nothing.
    ///
    /// # Errors
    /// The first journal that could not be made durable. Everything is closed all the same.
    pub fn close(&self) -> Result<(), SyncError> {
        let inner = Arc::clone(&self.inner);
        // So that nobody waits for a lease to run out. Without the server they do.
        let _ = self.timed(LOCKS_END, "giving up locks", async move {
            futures_util::future::join_all(inner.all().iter().map(|folder| folder.end_locks())).await;
            Ok(())
        });
        self.inner.close()
    }

    /// Calls `listener` on a background thread when a folder is to be taken away. When it returns, nothing of the folder
    /// may be in memory that is not in its journal.
    pub fn on_leaving(&self, listener: impl Fn(&DbId) + Send + Sync + 'static) {
        self.inner.shared.hub.on_leaving(Box::new(listener));
    }

    pub(super) fn timed<T: Send + 'static>(
        &self,
        within: Duration,
        what: &'static str,
        work: impl Future<Output = Result<T, SyncError>> + Send + 'static,
    ) -> Result<T, SyncError> {
        self.runtimes
            .run(async move { tokio::time::timeout(within, work).await.map_err(|_| SyncError::TimedOut(what))? })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Who wants to know whether it worked calls it before.
        let _ = self.inner.close();
    }
}

impl Inner {
    /// Keeps in the folders' activity what the server was seen to do wrong. Called on any thread, and does not block.
    fn note_event(&self, event: &Event) {
        // Of a false account: in the folders that it is a member of.
        let (folders, what, member) = match event {
            Event::CorruptBlob { db, blob } => (self.folder_of(db), Happening::Altered { blob: *blob }, None),
            Event::Stalled { db, reason } => (self.folder_of(db), Happening::Stalled { reason: reason.clone() }, None),
            Event::FalseAccount { account, what } => {
                (self.all(), Happening::FalseAccount { what: what.clone() }, Some(*account))
            }
            _ => return,
        };
        self.shared.background.spawn_blocking(move || {
            let concerned = |folder: &Folder| {
                member.is_none_or(|account| {
                    folder.replica.standing().members.iter().any(|known| known.account == account)
                })
            };
            for folder in folders.iter().filter(|folder| concerned(folder)) {
                folder.note_once(what.clone());
            }
        });
    }

    fn folder_of(&self, db: &DbId) -> Vec<Arc<Folder>> {
        self.folders.read().get(db).cloned().into_iter().collect()
    }

    /// Opens a folder, prepares it if it is new, and starts its tasks.
    pub fn open_folder(self: &Arc<Self>, id: DbId, prepare: Option<Prepare<'_>>) -> Result<Arc<Folder>, SyncError> {
        let _one = self.opening.lock();
        if self.closed.load(std::sync::atomic::Ordering::Acquire) {
            return Err(SyncError::Closed);
        }
        if let Some(folder) = self.folders.read().get(&id) {
            return Ok(Arc::clone(folder));
        }
        let known = self.store.folders()?.into_iter().find(|record| record.db == id);
        let record = known.unwrap_or_else(|| FolderRecord { db: id, name: String::new(), dir: id.to_string() });
        let (folder, commands) = Folder::open(&self.shared, id, &self.paths.folders.join(&record.dir))?;
        if let Some(prepare) = prepare {
            prepare(&folder)?;
        }
        self.store.put_folder(&record)?;
        self.folders.write().insert(id, Arc::clone(&folder));
        let runtime = &self.shared.foreground;
        let follower = runtime.spawn(Arc::clone(&folder).run_follower());
        let uploader = runtime.spawn(Uploader::new(Arc::clone(&folder), commands).run());
        let steward = runtime.spawn(Arc::clone(&folder).run_steward());
        let auditor = runtime.spawn(Arc::clone(&folder).run_auditor());
        let locks = runtime.spawn(Arc::clone(&folder).run_locks());
        let tasks = [follower, uploader, steward, auditor, locks];
        folder.tasks.lock().extend(tasks.map(|task| task.abort_handle()));
        Ok(folder)
    }

    /// Opens the folders that the server knows and this device does not.
    pub async fn discover(self: &Arc<Self>) -> Result<(), SyncError> {
        for head in self.shared.remote.dbs().await? {
            self.show(head.db, head.head_seq).await;
        }
        Ok(())
    }

    /// The server says that a folder has grown to `seq`. Of one that is not here it may be the end of the membership,
    /// which was noticed before: what is new is opened only where the server lists it.
    pub async fn announce(self: &Arc<Self>, db: DbId, seq: u64) {
        let known = self.folders.read().get(&db).map(Arc::clone);
        match known {
            Some(folder) => folder.announce(seq),
            None => {
                if let Err(error) = self.discover().await {
                    tracing::debug!(%error, "the server did not list the folders");
                }
            }
        }
    }

    /// Brings a folder of the user up to `seq`, opening it where it is new.
    async fn show(self: &Arc<Self>, db: DbId, seq: u64) {
        let known = self.folders.read().get(&db).map(Arc::clone);
        if let Some(folder) = known {
            folder.announce(seq);
            return;
        }
        let inner = Arc::clone(self);
        let opened = tokio::task::spawn_blocking(move || inner.open_folder(db, None)).await;
        match opened {
            Ok(Ok(folder)) => {
                folder.announce(seq);
                let inner = Arc::clone(self);
                tokio::spawn(async move { inner.greet(&folder).await });
            }
            Ok(Err(error)) => tracing::error!(%db, %error, "a folder cannot be opened"),
            Err(_) => {}
        }
    }

    /// Tells of a new folder once its name is known.
    async fn greet(&self, folder: &Arc<Folder>) {
        let mut progress = folder.progress.subscribe();
        while !folder.is_ready() {
            if progress.changed().await.is_err() {
                return;
            }
        }
        self.note_name(folder);
        self.shared.hub.tell(&Event::FolderJoined { db: folder.id(), name: folder.name() });
    }

    fn note_name(&self, folder: &Folder) {
        if !folder.is_named() {
            return;
        }
        let record = FolderRecord { db: folder.id(), name: folder.name(), dir: folder.id().to_string() };
        if let Err(error) = self.store.put_folder(&record) {
            tracing::warn!(%error, "a folder's name could not be noted");
        }
    }

    /// A new folder with this account as its owner.
    async fn create(self: &Arc<Self>) -> Result<Arc<Folder>, SyncError> {
        let me = self.shared.author.account();
        let own = self.shared.accounts.log(&me).ok_or(SyncError::NoSuchAccount(me))?;
        let (generation, key) =
            own.user_key().map_err(|error| SyncError::Damaged(format!("the own user key: {error}")))?;
        let (start, boxes, secrets) = new_epoch(None, &[(me, generation, key)])?;
        let body = Membership { change: MembershipChange::Create, new_epoch: Some(start) };
        let position = Position {
            db: DbId::ZERO,
            observed: Head::EMPTY,
            account_head: own.head(),
            last: AuthorState::NEW,
            epoch: 0,
            now_ms: now_ms(),
        };
        let entry = self.shared.author.membership(&position, &body);
        let db = db_id(&entry);
        let claimed = self.shared.remote.create_db(&entry, &boxes).await?;
        if claimed != db {
            return Err(SyncError::Misbehaviour("it gave a new folder another id than it has".to_owned()));
        }
        let secrets = Mutex::new(Some(secrets));
        let inner = Arc::clone(self);
        let opened = tokio::task::spawn_blocking(move || {
            inner.open_folder(db, Some(&|folder| begin(folder, &entry, secrets.lock().take())))
        });
        let folder = opened.await.map_err(|_| SyncError::Closed)??;
        // The server's announcement may have been faster than its answer; the folder was then opened as anybody's.
        folder.catch_up().await?;
        Ok(folder)
    }

    pub fn all(&self) -> Vec<Arc<Folder>> {
        self.folders.read().values().map(Arc::clone).collect()
    }

    fn close(&self) -> Result<(), SyncError> {
        if self.closed.swap(true, std::sync::atomic::Ordering::AcqRel) {
            return Ok(());
        }
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        let _none_is_opened = self.opening.lock();
        let folders = std::mem::take(&mut *self.folders.write());
        folders.values().for_each(|folder| folder.stop());
        let results: Vec<_> = folders.values().map(|folder| folder.replica.close()).collect();
        results.into_iter().collect::<Result<Vec<()>, _>>().map(drop).map_err(SyncError::from)
    }
}

/// Takes in the creation of a folder, with the keys that were made for it.
fn begin(
    folder: &Arc<Folder>,
    entry: &SignedEntry,
    secrets: Option<crate::keyring::EpochSecrets>,
) -> Result<(), SyncError> {
    let mut verified = folder.verified.blocking_lock();
    if let Some(secrets) = secrets {
        verified.ring.insert(secrets);
        folder.replica.store_keyring(&verified.ring.to_bytes())?;
    }
    match take_in(folder, &mut verified, std::slice::from_ref(entry))? {
        Taken::All => Ok(()),
        Taken::NeedsKeys(_) | Taken::NeedsState(_) | Taken::Caught(..) => {
            Err(SyncError::Damaged("the creation of the folder".to_owned()))
        }
    }
}
