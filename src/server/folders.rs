//! Folder logs: what may be appended, checked by the same verification that clients use.
//!
//! The verified state of a folder in use is in memory and runs ahead of the disk: an append is checked and ordered
//! under the folder's lock, made durable with others by the committing thread, and answered only then. If that fails,
//! the state in memory is thrown away and read again; entries that were already queued on top of it fail as well,
//! because the store expects each log to grow by one.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::accounts::Accounts;
use super::auth::{ms_after, now_ms};
use super::commit::{CommitError, Committer, Pending};
use super::error::Refused;
use super::hub::Hub;
use super::locks::Locks;
use super::store::{Job, LogStore, MemberRow, Session, StoreError, Write};
use crate::api::{AppendEntry, Appended, CreateDb, CreatedDb, Detail, ErrorCode, Redeem, Redeeming, Redemptions};
use crate::blobs::BlobStore;
use crate::crypto::merkle;
use crate::format::{
    AccountId, BlobId, ChainHash, DbId, EntryHash, Envelope, InviteKey, KeyBox, MembershipChange, Role, decode, encode,
};
use crate::keyring::{
    Advanced, ChainHistory, FolderState, Misbehaviour, Reason, Verdict, box_leaf, db_id, entry_hash, is_proven,
};

/// Folders in memory. One takes about 100 bytes for each member, device and epoch.
const CACHED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Newest entries of a folder that are remembered because they may not be in the store yet; more than the committing
/// thread lets wait.
const RECENT: usize = 8192;

/// See [`Folders::alone`]: many more than threads that remove blobs, of which there is one.
const GATES: usize = 64;

/// A folder in use.
struct Loaded {
    state: FolderState,
    /// Hash and chain hash of the newest entries, oldest first, with position.
    recent: VecDeque<(u64, EntryHash, ChainHash)>,
    /// Tells states apart that were read at different times.
    generation: u64,
}

#[derive(Default)]
struct Slot {
    loaded: Option<Loaded>,
    generation: u64,
}

/// The chain hashes of a folder's past, in memory or stored.
struct Past<'a> {
    db: DbId,
    recent: &'a VecDeque<(u64, EntryHash, ChainHash)>,
    store: &'a dyn LogStore,
}

impl ChainHistory for Past<'_> {
    fn chain_at(&self, seq: u64) -> Option<ChainHash> {
        if let Some(first) = self.recent.front()
            && let Some(index) = seq.checked_sub(first.0)
        {
            return self.recent.get(usize::try_from(index).ok()?).map(|(_, _, chain)| *chain);
        }
        // Unreadable is the same as unknown to verification: the entry is not accepted.
        self.store.chain_at(&self.db, seq).ok().flatten()
    }
}

/// An append that is ordered but not durable yet.
struct Ordered {
    pending: Pending,
    seq: u64,
    generation: u64,
}

/// The folders of one server.
pub struct Folders {
    store: Arc<dyn LogStore>,
    blobs: Arc<dyn BlobStore>,
    accounts: Arc<Accounts>,
    committer: Committer,
    hub: Hub,
    locks: Arc<Locks>,
    /// How long a released blob is kept.
    release_grace: Duration,
    /// Shared by who refers to blobs, alone for who removes them; folders are spread over them. Lock order: these first.
    gates: [RwLock<()>; GATES],
    /// Lock order: this one before a slot's, and never held while waiting for it.
    slots: Mutex<LruCache<DbId, Arc<Mutex<Slot>>>>,
}

impl Folders {
    /// The folders in `store`.
    pub fn new(
        store: Arc<dyn LogStore>,
        blobs: Arc<dyn BlobStore>,
        (accounts, committer, hub, locks): (Arc<Accounts>, Committer, Hub, Arc<Locks>),
        release_grace: Duration,
    ) -> Self {
        Self {
            store,
            blobs,
            accounts,
            committer,
            hub,
            locks,
            release_grace,
            gates: [const { RwLock::new(()) }; GATES],
            slots: Mutex::new(LruCache::new(CACHED)),
        }
    }

    /// The folder's current epoch. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`]; those of the store.
    pub fn epoch(&self, db: &DbId) -> Result<u32, Refused> {
        let slot = self.slots.lock().get_or_insert(*db, Arc::default).clone();
        let mut slot = slot.lock();
        self.load(db, &mut slot)?;
        slot.loaded.as_ref().map(|loaded| loaded.state.epoch()).ok_or_else(Refused::not_found)
    }

    /// The caller's membership of a folder. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] for folders that do not exist, of which the caller is no member, or no more.
    pub fn member(&self, caller: &Session, db: &DbId) -> Result<MemberRow, Refused> {
        let row = self.store.member(db, &caller.account)?;
        row.filter(|row| row.holds(now_ms())).ok_or_else(Refused::not_found)
    }

    /// Up to which entry the caller may read a folder's log: all of it for a member, up to the own removal for who was
    /// removed, so that a client takes nobody's word for that. Blocks.
    ///
    /// # Errors
    /// As [`Self::member`].
    pub fn readable_until(&self, caller: &Session, db: &DbId) -> Result<u64, Refused> {
        match self.store.member(db, &caller.account)? {
            Some(row) if row.holds(now_ms()) => Ok(u64::MAX),
            Some(_) => Err(Refused::not_found()),
            None => self.store.former(db, &caller.account)?.ok_or_else(Refused::not_found),
        }
    }

    /// The caller's membership, where it may write. Blocks.
    ///
    /// # Errors
    /// As [`Self::member`], and [`ErrorCode::Role`].
    pub fn writer(&self, caller: &Session, db: &DbId) -> Result<MemberRow, Refused> {
        let row = self.member(caller, db)?;
        if row.role.writes() { Ok(row) } else { Err(Refused::new(ErrorCode::Role, Reason::Role.to_string())) }
    }

    /// Starts a folder. The same entry again gives the same answer. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::EntryRefused`], [`ErrorCode::AccountLog`].
    pub fn create(&self, caller: &Session, request: &CreateDb) -> Result<CreatedDb, Refused> {
        let db = db_id(&request.entry);
        let envelope = Envelope::decode(&request.entry.envelope)?;
        check_author(caller, &envelope)?;
        // The id is the hash of the first entry, so a folder with this id began with these very bytes.
        if self.store.head(&db)?.is_some() {
            return Ok(CreatedDb { db });
        }
        self.accounts.require(&envelope.author, envelope.account_head)?;
        if !envelope.adds.is_empty() {
            return Err(entry_refused("the first entry cannot add blobs"));
        }
        let mut state = FolderState::new(db);
        let past = Past { db, recent: &VecDeque::new(), store: &*self.store };
        let advanced = state.check(&request.entry, &*self.accounts, &past).map_err(|why| wrong(&why, &state))?;
        state.commit(&advanced);
        let boxes = check_boxes(&advanced, &state, &request.boxes)?;
        let (job, changed) = writes(&state, None, &advanced, encode(&request.entry), boxes);
        match self.submit(job, &state, &advanced, changed).durable_blocking() {
            Err(CommitError::Store(StoreError::Outdated(_))) if self.store.head(&db)?.is_some() => {}
            other => other?,
        }
        Ok(CreatedDb { db })
    }

    /// Appends an entry. The same bytes again give the same answer.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::Role`], [`ErrorCode::StaleObserved`], [`ErrorCode::StaleEpoch`],
    /// [`ErrorCode::Counter`], [`ErrorCode::MissingBlobs`], [`ErrorCode::AccountLog`], [`ErrorCode::EntryRefused`].
    pub async fn append(self: Arc<Self>, caller: Session, db: DbId, request: AppendEntry) -> Result<Appended, Refused> {
        let request = Arc::new(request);
        let mut attempt = 0;
        loop {
            let (this, again) = (self.clone(), request.clone());
            let ordered = super::body::blocking(move || this.order(&caller, db, &again)).await?;
            match ordered.pending.durable().await {
                Ok(()) => return Ok(Appended { seq: ordered.seq }),
                Err(error) => {
                    self.forget(&db, ordered.generation);
                    attempt += 1;
                    // Queued on top of an entry that failed, or the folder was in memory twice for a moment.
                    if attempt > 3 || !matches!(error, CommitError::Store(StoreError::Outdated(_))) {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    /// Checks an entry and gives it its place. Blocks.
    fn order(&self, caller: &Session, db: DbId, request: &AppendEntry) -> Result<Ordered, Refused> {
        let envelope = Envelope::decode(&request.entry.envelope)?;
        check_author(caller, &envelope)?;
        let hash = entry_hash(&request.entry);
        // Before the membership, so that who has left can ask again whether leaving has arrived.
        if let Some(seq) = self.store.seq_of(&db, &hash)? {
            let pending = self.committer.submit(vec![Write::ExpectEntry { db, hash }]);
            return Ok(Ordered { pending, seq, generation: 0 });
        }
        self.member(caller, &db)?;
        self.accounts.require(&envelope.author, envelope.account_head)?;
        // Blobs that are here now stay until the entry that adds them has its place.
        let _none_is_removed = self.gate(&db).read();
        self.check_blobs(&db, &envelope)?;

        let slot = self.slots.lock().get_or_insert(db, Arc::default).clone();
        let mut slot = slot.lock();
        self.load(&db, &mut slot)?;
        let Some(loaded) = slot.loaded.as_mut() else { return Err(Refused::not_found()) };
        let generation = loaded.generation;
        if let Some((seq, ..)) = loaded.recent.iter().find(|(_, recent, _)| *recent == hash) {
            let pending = self.committer.submit(vec![Write::ExpectEntry { db, hash }]);
            return Ok(Ordered { pending, seq: *seq, generation });
        }
        let past = Past { db, recent: &loaded.recent, store: &*self.store };
        let advanced =
            loaded.state.check(&request.entry, &*self.accounts, &past).map_err(|why| wrong(&why, &loaded.state))?;
        if let Verdict::Ignored(reason) = &advanced.verdict {
            return Err(not_allowed(*reason, &loaded.state));
        }
        let boxes = check_boxes(&advanced, &loaded.state, &request.boxes)?;
        let payer = payer(&loaded.state);
        let told = told_of_removal(&loaded.state, &advanced);
        let open: Vec<InviteKey> = loaded.state.invites().keys().copied().collect();
        loaded.state.commit(&advanced);
        let closed = open.into_iter().filter(|key| !loaded.state.invites().contains_key(key));
        let closed: Vec<Write> = closed.map(|key| Write::CloseInvite { db, key }).collect();
        loaded.recent.push_back((advanced.seq, hash, advanced.chain));
        if loaded.recent.len() > RECENT {
            loaded.recent.pop_front();
        }
        let (mut job, changed) = writes(&loaded.state, payer, &advanced, encode(&request.entry), boxes);
        let due_ms = ms_after(self.release_grace);
        let releases = advanced.envelope.releases.iter();
        job.extend(releases.map(|blob| Write::Release { db, blob: blob.id, seq: advanced.seq, due_ms }));
        job.extend(told.map(|account| Write::Former { db, account, seq: advanced.seq }));
        job.extend(closed);
        // Under the slot's lock: the order of submission is the order of the log.
        let pending = self.submit(job, &loaded.state, &advanced, changed);
        Ok(Ordered { pending, seq: advanced.seq, generation })
    }

    /// Until this is dropped, no entry of the folder is given its place, nor those whose blobs were looked at before: who
    /// removes blobs cannot meet one that is being referred to again. What was ordered before may not be stored yet.
    pub fn alone(&self, db: &DbId) -> RwLockWriteGuard<'_, ()> {
        self.gate(db).write()
    }

    fn gate(&self, db: &DbId) -> &RwLock<()> {
        &self.gates[usize::from(db.0[0]) % self.gates.len()]
    }

    /// Notes that the caller waits to become a member by an invite, and lets the members' clients know. The same again
    /// succeeds. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::BadInvite`], also for folders that do not exist; [`ErrorCode::AccountLog`].
    pub fn redeem(&self, caller: &Session, db: DbId, request: &Redeem) -> Result<Redeeming, Refused> {
        let bad = |message: &str| Refused::new(ErrorCode::BadInvite, message);
        let Redeem { redemption, proof } = request;
        if redemption.db != db || redemption.account != caller.account || !is_proven(redemption, proof) {
            return Err(entry_refused(
                "the redemption is not signed with the invite's key for this account and folder",
            ));
        }
        if self.store.member(&db, &caller.account)?.is_some_and(|row| row.holds(now_ms())) {
            return Ok(Redeeming { member: true });
        }
        self.accounts.require(&caller.account, redemption.account_head)?;
        let head = {
            let slot = self.slots.lock().get_or_insert(db, Arc::default).clone();
            let mut slot = slot.lock();
            self.load(&db, &mut slot)?;
            let gone = || bad("the invite was used or cancelled, or its folder is gone; ask for another link");
            let state = &slot.loaded.as_ref().ok_or_else(gone)?.state;
            let invite = state.invites().get(&redemption.key).ok_or_else(gone)?;
            if invite.ended_at(now_ms()) || invite.expires_ms.is_some_and(|end| now_ms() > end) {
                return Err(bad("the invite has expired; ask for another link"));
            }
            state.head()
        };
        let job = vec![Write::AddRedemption { db, key: redemption.key, bytes: encode(request) }];
        let hub = self.hub.clone();
        let tell: super::commit::After = Box::new(move || hub.entry(db, head.seq, &[], now_ms()));
        match self.committer.submit_then(job, Some(tell)).durable_blocking() {
            Err(CommitError::Store(StoreError::Outdated(_))) => {
                Err(bad("the invite is being used by another account; ask for another link"))
            }
            other => Ok(other.map(|()| Redeeming { member: false })?),
        }
    }

    /// Who waits to become a member, for who administers the folder. Blocks.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::Role`].
    pub fn redemptions(&self, caller: &Session, db: &DbId) -> Result<Redemptions, Refused> {
        if !self.member(caller, db)?.role.administers() {
            return Err(Refused::new(ErrorCode::Role, Reason::Role.to_string()));
        }
        let stored = self.store.redemptions(db)?;
        let waiting = stored.iter().map(|bytes| decode(bytes)).collect::<Result<_, _>>();
        let waiting = waiting.map_err(|error| StoreError::Damaged(format!("redemptions of {db}: {error}")))?;
        Ok(Redemptions { waiting })
    }

    /// `state` is the one with the entry.
    fn submit(&self, job: Job, state: &FolderState, advanced: &Advanced, changed: Changed) -> Pending {
        let (hub, locks, seq, db, epoch) =
            (self.hub.clone(), self.locks.clone(), advanced.seq, state.db(), state.epoch());
        let standing_changed = advanced.standing_changed;
        let tell = move || {
            if standing_changed {
                let gone = changed.iter().filter(|(_, row)| row.is_none()).map(|(account, _)| *account);
                locks.folder_changed(&db, &gone.collect::<Vec<_>>(), epoch);
            }
            hub.entry(db, seq, &changed, now_ms());
        };
        self.committer.submit_then(job, Some(Box::new(tell)))
    }

    /// Reads a folder's state if it is not in memory.
    fn load(&self, db: &DbId, slot: &mut Slot) -> Result<(), Refused> {
        if slot.loaded.is_some() {
            return Ok(());
        }
        // What was submitted from an earlier state in memory must be in the store, or have failed, before it is read.
        self.committer.submit(vec![]).durable_blocking()?;
        let (Some(head), Some(standing)) = (self.store.head(db)?, self.store.standing(db)?) else { return Ok(()) };
        let state = FolderState::from_bytes(&standing, head, self.store.authors(db)?)
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
        slot.generation += 1;
        slot.loaded = Some(Loaded { state, recent: VecDeque::new(), generation: slot.generation });
        Ok(())
    }

    /// Throws the state away from which something was submitted that failed.
    fn forget(&self, db: &DbId, generation: u64) {
        let slot = self.slots.lock().get(db).cloned();
        if let Some(slot) = slot {
            let mut slot = slot.lock();
            if slot.loaded.as_ref().is_some_and(|loaded| loaded.generation == generation) {
                slot.loaded = None;
            }
        }
    }

    fn check_blobs(&self, db: &DbId, envelope: &Envelope) -> Result<(), Refused> {
        let mut missing: Vec<BlobId> = Vec::new();
        for blob in &envelope.adds {
            if self.blobs.size(db, &blob.id)? != Some(blob.size_bytes) {
                missing.push(blob.id);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let message = "the entry refers to blobs that are not here, or not of that length: upload them first";
        Err(Refused::new(ErrorCode::MissingBlobs, message).with(Detail::Blobs(missing)))
    }
}

/// Memberships that an entry changed.
type Changed = Vec<(AccountId, Option<MemberRow>)>;

/// Everything that storing an entry changes. `state` is the one after it.
fn writes(
    state: &FolderState,
    payer_before: Option<AccountId>,
    advanced: &Advanced,
    bytes: Vec<u8>,
    boxes: Vec<(KeyBox, [u8; 32])>,
) -> (Job, Changed) {
    let (db, envelope) = (state.db(), &advanced.envelope);
    let mut job = vec![
        Write::Entry { db, head: advanced.head(), hash: advanced.hash, bytes },
        Write::Author { db, device: envelope.device, last: state.author(&envelope.device) },
    ];
    job.extend(envelope.adds.iter().map(|blob| Write::Blob { db, blob: *blob }));
    if advanced.standing_changed {
        job.push(Write::Standing { db, bytes: state.to_bytes() });
    }
    if !boxes.is_empty() {
        job.push(Write::Boxes { db, seq: advanced.seq, boxes });
    }
    let mut changed = Changed::new();
    if let Verdict::Membership(body) = &advanced.verdict {
        let subject = match &body.change {
            MembershipChange::Create => Some(envelope.author),
            MembershipChange::Add { account, .. }
            | MembershipChange::AddSince { account, .. }
            | MembershipChange::Redeem { account, .. }
            | MembershipChange::Remove { account }
            | MembershipChange::SetRole { account, .. } => Some(*account),
            MembershipChange::Rotate
            | MembershipChange::AccountSync { .. }
            | MembershipChange::Invite { .. }
            | MembershipChange::CancelInvite { .. }
            | MembershipChange::Retention { .. } => None,
        };
        if let Some(account) = subject {
            let member = state.members().get(&account);
            let row = member.map(|member| MemberRow { role: member.role, expires_ms: member.expires_ms });
            job.push(Write::Member { db, account, row });
            changed.push((account, row));
        }
        let payer = payer(state);
        if let (Some(account), true) = (payer, payer != payer_before) {
            job.push(Write::Payer { db, account });
        }
    }
    (job, changed)
}

/// Who is removed by the entry and may read it. Not a guest whose time is over: what the others wrote between the end
/// and the removal is still sealed under an epoch that the guest has. `state` is the one before the entry.
fn told_of_removal(state: &FolderState, advanced: &Advanced) -> Option<AccountId> {
    let Verdict::Membership(body) = &advanced.verdict else { return None };
    let MembershipChange::Remove { account } = body.change else { return None };
    state.members().get(&account).filter(|member| !member.expired_at(now_ms())).map(|_| account)
}

/// Whose quota a folder counts against: the owner who joined first.
fn payer(state: &FolderState) -> Option<AccountId> {
    let owners = state.members().iter().filter(|(_, member)| member.role == Role::Owner);
    owners.min_by_key(|(_, member)| member.joined_seq).map(|(account, _)| *account)
}

/// Whoever logged in signs in its own name only.
fn check_author(caller: &Session, envelope: &Envelope) -> Result<(), Refused> {
    if envelope.author == caller.account && envelope.device == caller.device {
        Ok(())
    } else {
        Err(entry_refused("the entry is signed by another device than the one that is logged in"))
    }
}

/// The boxes with their leaf hashes, if they are those that the entry commits to. `state` is the one before the entry
/// or, for the first, after it.
///
/// The server cannot see what is in a box; it checks that every member has one and that the proofs it will serve lead
/// to the root in the entry, so that nobody is locked out by a list that does not fit.
fn check_boxes(advanced: &Advanced, state: &FolderState, boxes: &[KeyBox]) -> Result<Vec<(KeyBox, [u8; 32])>, Refused> {
    let leaves: Vec<[u8; 32]> = boxes.iter().map(box_leaf).collect();
    let change = match &advanced.verdict {
        Verdict::Membership(body) => Some((&body.change, &body.new_epoch)),
        _ => None,
    };
    let of = boxes.iter().map(|key_box| key_box.account);
    let fit = match change {
        Some((change, Some(epoch))) => {
            let mut expected: Vec<AccountId> = state.members().keys().copied().collect();
            match change {
                MembershipChange::Add { account, .. } | MembershipChange::Redeem { account, .. } => {
                    expected.push(*account);
                }
                MembershipChange::Remove { account } => expected.retain(|member| member != account),
                _ => {}
            }
            expected.sort_unstable();
            of.eq(expected) && epoch.boxes as usize == boxes.len() && merkle::root(&leaves) == epoch.boxes_root
        }
        Some((
            MembershipChange::Add { account, grant: Some(grant), .. }
            | MembershipChange::AddSince { account, grant, .. }
            | MembershipChange::Redeem { account, grant: Some(grant), .. },
            None,
        )) => of.eq([*account]) && leaves == [grant.leaf],
        _ => boxes.is_empty(),
    };
    let within = boxes.iter().all(|key_box| key_box.sealed.len() <= crate::format::limits::BOX_MAX_BYTES);
    if !fit || !within {
        return Err(entry_refused("the boxes are not those that the entry commits to, one for each member in order"));
    }
    Ok(boxes.iter().cloned().zip(leaves).collect())
}

fn entry_refused(message: &str) -> Refused {
    Refused::new(ErrorCode::EntryRefused, message)
}

/// What verification calls the server's fault is the author's here: the entry comes from it.
fn wrong(why: &Misbehaviour, state: &FolderState) -> Refused {
    let text = match why {
        Misbehaviour::Malformed(error) => return Refused::from(error.clone()),
        Misbehaviour::Counter { expected, .. } => {
            let message = format!("the device's next entry here has the counter {expected} and follows its last one");
            return Refused::new(ErrorCode::Counter, message).with(Detail::Counter(*expected));
        }
        Misbehaviour::AccountMissing { account, .. } => {
            let message = "the entry relies on account entries that the server does not have: post them first";
            return Refused::new(ErrorCode::AccountLog, message).with(Detail::Account(*account));
        }
        Misbehaviour::Fork { seq } if *seq > state.head().seq => {
            "the entry observes a position that does not exist yet"
        }
        Misbehaviour::Fork { .. } => "the entry observes another history of this folder",
        Misbehaviour::OtherFolder => "the entry belongs to another folder",
        Misbehaviour::AccountForked(_) => "the entry names another history of an account",
        Misbehaviour::UnknownDevice(_) => "the account has no such device at that state",
        Misbehaviour::Signature => "the signature is not valid",
        Misbehaviour::Stranger(_) => "the author was never a member of this folder",
        Misbehaviour::BadStart => "a folder begins with its creation, signed by its owner",
    };
    entry_refused(text)
}

fn not_allowed(reason: Reason, state: &FolderState) -> Refused {
    let refused = |code| Refused::new(code, reason.to_string());
    match reason {
        Reason::NotMember | Reason::Expired => Refused::not_found(),
        Reason::Role => refused(ErrorCode::Role),
        Reason::DeviceRevoked => refused(ErrorCode::Unauthenticated),
        Reason::StaleEpoch => refused(ErrorCode::StaleEpoch).with(Detail::Epoch(state.epoch())),
        Reason::NotOnHead | Reason::Thinned | Reason::AccountOutdated => {
            refused(ErrorCode::StaleObserved).with(Detail::Head(state.head()))
        }
        Reason::BadChange | Reason::Releases | Reason::BadBody | Reason::OldSuite | Reason::RecoveryPhrase => {
            refused(ErrorCode::EntryRefused)
        }
        Reason::Invite => refused(ErrorCode::BadInvite),
    }
}
