//! The verified state of one folder's log: who is in it, under which epoch, and what the next entry must look like.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::crypto::labels;
use crate::crypto::sign::{Signature, VerifyingKey};
use crate::format::{
    AccountId, ChainHash, Checkpoint, DbId, DeviceId, EntryHash, EntryKind, Envelope, FormatError, Head, InviteKey,
    Membership, MembershipChange, RetentionRule, Role, SignedEntry, Thinning, decode, encode,
};

use super::account::AccountLog;
use super::author::Position;
use super::hashes::{chain, entry_hash};
use super::roles;
use super::standing::{Epoch, Member, OpenInvite, Standing};
use super::verdict::{Advanced, Misbehaviour, Reason, Verdict};

/// Where verification finds verified account logs.
pub trait AccountLogs {
    /// The log of an account as far as it is known.
    fn log(&self, account: &AccountId) -> Option<Arc<AccountLog>>;
}

/// Where verification finds the chain hashes of the folder's own past.
pub trait ChainHistory {
    /// Chain hash after entry `seq`, 1 ≤ `seq` ≤ the head's.
    fn chain_at(&self, seq: u64) -> Option<ChainHash>;
}

/// A device's last entry in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorState {
    /// Its counter; 0 before the first.
    pub counter: u64,
    /// Its hash; zero before the first.
    pub previous: EntryHash,
}

impl AuthorState {
    /// Before a device's first entry.
    pub const NEW: Self = Self { counter: 0, previous: EntryHash::ZERO };
}

/// The verified state after some prefix of the log.
///
/// [`Self::check`] judges the next entry without changing anything, [`Self::commit`] takes it in. All but heads and
/// author states is stored as [`Self::to_bytes`] when [`Advanced::standing_changed`] says so; heads and author states
/// are stored one by one, so that a batch costs O(1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderState {
    db: DbId,
    head: Head,
    standing: Standing,
    authors: HashMap<DeviceId, AuthorState>,
}

/// Layout of [`FolderState::to_bytes`].
#[derive(Encode, Decode)]
#[cbor(array)]
struct Stored<S> {
    #[n(0)]
    version: u8,
    #[n(1)]
    db: DbId,
    #[n(2)]
    head: Head,
    #[n(3)]
    standing: S,
}

impl FolderState {
    /// Version 1 has no suites: its log is all of suite 1.
    const VERSIONS: RangeInclusive<u8> = 1..=2;

    /// Before the first entry of the folder `db`.
    pub fn new(db: DbId) -> Self {
        Self { db, head: Head::EMPTY, standing: Standing::default(), authors: HashMap::new() }
    }

    /// The folder.
    pub fn db(&self) -> DbId {
        self.db
    }

    /// Newest verified position.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Members by account.
    pub fn members(&self) -> &BTreeMap<AccountId, Member> {
        &self.standing.members
    }

    /// Number of the current epoch, 0 before the first entry.
    pub fn epoch(&self) -> u32 {
        self.standing.epochs.last().map_or(0, |epoch| epoch.start.epoch)
    }

    /// All epochs, oldest first.
    pub fn epochs(&self) -> &[Epoch] {
        &self.standing.epochs
    }

    /// The position of the entry with which an epoch began; `None` for one that is not in the log.
    pub fn began(&self, epoch: u32) -> Option<u64> {
        self.epochs().iter().find(|known| known.start.epoch == epoch).map(|known| known.seq)
    }

    /// Newest head of the account's log that an entry here has named.
    pub fn account_head(&self, account: &AccountId) -> Option<Head> {
        self.standing.accounts.get(account).copied()
    }

    /// The account is the only owner.
    pub fn is_last_owner(&self, account: &AccountId) -> bool {
        let mut owners = self.standing.members.iter().filter(|(_, member)| member.role == Role::Owner);
        owners.next().is_some_and(|(owner, _)| owner == account) && owners.next().is_none()
    }

    /// Somebody who should not have the current epoch's secrets any more has them: a member has left, or a member's
    /// device was revoked. Whoever administers starts a new epoch as soon as they see this.
    pub fn rotation_due(&self) -> bool {
        self.standing.rotation_due
    }

    /// Invites that can still be used, as far as the log tells.
    pub fn invites(&self) -> &BTreeMap<InviteKey, OpenInvite> {
        self.standing.invites()
    }

    /// The end of the log's own time: guests and invites whose end is before it are over, whatever an author's clock says.
    pub fn clock_ms(&self) -> i64 {
        self.standing.clock_ms
    }

    /// For how long the past is kept.
    pub fn retention(&self) -> RetentionRule {
        self.standing.past.as_ref().and_then(|past| past.rule).unwrap_or_default()
    }

    /// An owner has said so.
    pub fn has_rule(&self) -> bool {
        self.standing.past.as_ref().is_some_and(|past| past.rule.is_some())
    }

    /// The newest entry that thinned out the past or released blobs; 0: none.
    pub fn last_thinning(&self) -> u64 {
        self.standing.past.as_ref().map_or(0, |past| past.last)
    }

    /// The first position of which the past is whole: of those before, some are gone. 0: all are there.
    pub fn thinned(&self) -> u64 {
        self.standing.past.as_ref().map_or(0, |past| past.thinned)
    }

    /// Positions that thinning leaves whatever the rule says: where the epochs began that are current, or that some member
    /// begins with, whose state may have to be handed over or compared. Ascending.
    pub fn lasting(&self) -> Vec<u64> {
        self.lasting_epochs().map(|epoch| epoch.seq).collect()
    }

    /// The epochs that begin there.
    pub fn lasting_epochs(&self) -> impl Iterator<Item = &Epoch> {
        let current = self.epoch();
        let begun = move |epoch: &&Epoch| {
            let number = epoch.start.epoch;
            number == current || self.standing.members.values().any(|member| member.since == Some(number))
        };
        self.standing.epochs.iter().filter(begun)
    }

    /// Where the next entry of `device` goes, made now.
    pub fn position(&self, device: &DeviceId, account_head: Head, now_ms: i64) -> Position {
        let (db, observed, last) = (self.db, self.head, self.author(device));
        Position { db, observed, account_head, last, epoch: self.epoch(), now_ms }
    }

    /// A device's last entry.
    pub fn author(&self, device: &DeviceId) -> AuthorState {
        self.authors.get(device).copied().unwrap_or(AuthorState::NEW)
    }

    /// Devices that have written, with their last entries.
    pub fn authors(&self) -> impl Iterator<Item = (&DeviceId, &AuthorState)> {
        self.authors.iter()
    }

    /// Everything but author states.
    pub fn to_bytes(&self) -> Vec<u8> {
        let version = if self.standing.suites.is_some() { *Self::VERSIONS.end() } else { *Self::VERSIONS.start() };
        encode(&Stored { version, db: self.db, head: self.head, standing: &self.standing })
    }

    /// The inverse of [`Self::to_bytes`], resumed at a later `head` (batches moved only that) with the author states.
    pub fn from_bytes(bytes: &[u8], head: Head, authors: HashMap<DeviceId, AuthorState>) -> Result<Self, FormatError> {
        let stored: Stored<Standing> = decode(bytes)?;
        let later = head.seq > stored.head.seq || head == stored.head;
        if !Self::VERSIONS.contains(&stored.version) || !later {
            return Err(FormatError::OutOfBounds("stored folder state"));
        }
        Ok(Self { db: stored.db, head, standing: stored.standing, authors })
    }

    /// Verifies the next entry, without changing anything. Costs one signature check and the hashing of the entry.
    pub fn check(
        &self,
        entry: &SignedEntry,
        accounts: &dyn AccountLogs,
        history: &dyn ChainHistory,
    ) -> Result<Advanced, Misbehaviour> {
        let envelope = Envelope::decode(&entry.envelope)?;
        let hash = entry_hash(entry);
        if self.head.seq == 0 {
            if envelope.db != DbId::ZERO || self.db != DbId(hash.0) {
                return Err(Misbehaviour::BadStart);
            }
        } else if envelope.db != self.db {
            return Err(Misbehaviour::OtherFolder);
        }
        let log = known_account(accounts, &envelope.author, envelope.account_head)?;
        let device = log.device(&envelope.device).filter(|device| device.added_seq <= envelope.account_head.seq);
        let device = device.ok_or(Misbehaviour::UnknownDevice(envelope.author))?;
        let verified =
            VerifyingKey(device.keys.sign).verify(labels::SIGN_ENTRY, &entry.envelope, &Signature(entry.signature));
        verified.map_err(|_| Misbehaviour::Signature)?;

        let author = self.author(&envelope.device);
        if envelope.counter != author.counter + 1 || envelope.previous != author.previous {
            return Err(Misbehaviour::Counter { expected: author.counter + 1, got: envelope.counter });
        }
        self.check_observed(envelope.observed, history)?;
        let verdict = self.judge(&envelope, &log, accounts)?;
        let known = self.account_head(&envelope.author);
        let named = newest_named(&envelope, &verdict);
        let account_moved = known.is_some_and(|known| named.seq > known.seq);
        let revokes = known.is_some_and(|known| log.revokes_between(known.seq, named.seq));
        let counts = !matches!(verdict, Verdict::Ignored(_));
        let suite_moved = counts && envelope.suite > self.standing.newest_suite();
        let standing_changed =
            matches!(verdict, Verdict::Membership(_) | Verdict::Thin(_)) || account_moved || suite_moved;
        let chain = chain(self.head.chain, hash);
        Ok(Advanced { seq: self.head.seq + 1, hash, chain, envelope, verdict, standing_changed, revokes })
    }

    /// Takes in what [`Self::check`] returned for this very state.
    ///
    /// An entry that does not count moves the head and its device's counter. What it says about the author's account
    /// log stays said, since it was verified: a revocation cannot be unlearnt.
    pub fn commit(&mut self, advanced: &Advanced) {
        let Advanced { seq, hash, envelope, verdict, .. } = advanced;
        debug_assert_eq!(*seq, self.head.seq + 1);
        self.head = advanced.head();
        self.authors.insert(envelope.device, AuthorState { counter: envelope.counter, previous: *hash });
        self.standing.raise_account(envelope.author, envelope.account_head);
        if advanced.revokes {
            self.standing.rotation_due = true;
            // Who has the device may have the links that were made on it.
            self.standing.drop_invites_of(&envelope.author);
        }
        if !matches!(verdict, Verdict::Ignored(_)) {
            self.standing.raise_suite(envelope.suite, *seq);
        }
        if let Verdict::Membership(body) = verdict {
            self.standing.change(*seq, &envelope.author, envelope.created_ms, body);
        }
        if let Verdict::Thin(body) = verdict {
            self.standing.thin(*seq, body);
        }
    }

    /// [`Self::check`] and [`Self::commit`].
    pub fn advance(
        &mut self,
        entry: &SignedEntry,
        accounts: &dyn AccountLogs,
        history: &dyn ChainHistory,
    ) -> Result<Advanced, Misbehaviour> {
        let advanced = self.check(entry, accounts, history)?;
        self.commit(&advanced);
        Ok(advanced)
    }

    fn check_observed(&self, observed: Head, history: &dyn ChainHistory) -> Result<(), Misbehaviour> {
        let ours = match observed.seq {
            0 => Some(ChainHash::ZERO),
            seq if seq == self.head.seq => Some(self.head.chain),
            seq if seq < self.head.seq => history.chain_at(seq),
            _ => None,
        };
        if ours == Some(observed.chain) { Ok(()) } else { Err(Misbehaviour::Fork { seq: observed.seq }) }
    }

    fn judge(
        &self,
        envelope: &Envelope,
        log: &AccountLog,
        accounts: &dyn AccountLogs,
    ) -> Result<Verdict, Misbehaviour> {
        if self.head.seq == 0 {
            return Ok(Verdict::Membership(Box::new(judge_creation(envelope, log)?)));
        }
        // Nobody honest puts an entry of a stranger into a log. Who was a member once may have been overtaken by the
        // own removal.
        let Some(known) = self.account_head(&envelope.author) else {
            return Err(Misbehaviour::Stranger(envelope.author));
        };
        // The newest state of the account that this log knows decides which devices are valid, not the one that the
        // author would like to rely on.
        // Also when the entry names a later head: both must lie in one and the same log.
        known_account(accounts, &envelope.author, known)?;
        if envelope.account_head.seq < known.seq {
            let revoked = !log.device_valid_at(&envelope.device, known.seq);
            return Ok(Verdict::Ignored(if revoked { Reason::DeviceRevoked } else { Reason::AccountOutdated }));
        }
        if !log.device_valid_at(&envelope.device, envelope.account_head.seq) {
            return Ok(Verdict::Ignored(Reason::DeviceRevoked));
        }
        if !log.may_write_at(&envelope.device, envelope.account_head.seq) {
            return Ok(Verdict::Ignored(Reason::RecoveryPhrase));
        }
        let Some(member) = self.standing.members.get(&envelope.author) else {
            return Ok(Verdict::Ignored(Reason::NotMember));
        };
        // A guest may lie about the time. What administrators have said about it counts too.
        if member.expired_at(envelope.created_ms.max(self.standing.clock_ms)) {
            return Ok(Verdict::Ignored(Reason::Expired));
        }
        // Who writes under an epoch has seen it begin, so every entry that counts attests the log at least up to there.
        let began = self.standing.epochs.last().map_or(0, |epoch| epoch.seq);
        if envelope.epoch != self.epoch() || envelope.observed.seq < began {
            return Ok(Verdict::Ignored(Reason::StaleEpoch));
        }
        // An older program may still write what it began before it could know. Nobody goes back knowingly.
        if envelope.suite < self.standing.suite_at(envelope.observed.seq) {
            return Ok(Verdict::Ignored(Reason::OldSuite));
        }
        // What an author had seen may be gone since: who has seen that it is refers to nothing of it.
        let refers = matches!(envelope.kind, EntryKind::Batch | EntryKind::Checkpoint);
        if refers && self.standing.past.as_ref().is_some_and(|past| envelope.observed.seq < past.last) {
            return Ok(Verdict::Ignored(Reason::Thinned));
        }
        match envelope.kind {
            EntryKind::Batch if !member.role.writes() => Ok(Verdict::Ignored(Reason::Role)),
            // Else whoever may write could have everybody's content thrown away.
            EntryKind::Batch if !envelope.releases.is_empty() => Ok(Verdict::Ignored(Reason::Releases)),
            EntryKind::Batch => Ok(Verdict::Batch),
            EntryKind::Thin => Ok(self.judge_thinning(envelope, member)),
            EntryKind::Checkpoint => Ok(self.judge_checkpoint(envelope, member)),
            EntryKind::Membership => self.judge_membership(envelope, member, accounts),
        }
    }

    /// What a newcomer begins with comes from who has all of the history, and is of an epoch that has begun.
    fn judge_checkpoint(&self, envelope: &Envelope, member: &Member) -> Verdict {
        if !member.role.administers() || !member.history {
            return Verdict::Ignored(Reason::Role);
        }
        match Checkpoint::decode(&envelope.body) {
            Ok(body) if body.epoch <= self.epoch() && envelope.releases.is_empty() => {
                Verdict::Checkpoint(Box::new(body))
            }
            Ok(_) => Verdict::Ignored(Reason::BadChange),
            Err(_) => Verdict::Ignored(Reason::BadBody),
        }
    }

    /// Only who knows the whole past can tell what nothing refers to; and only in a log that has not moved since.
    fn judge_thinning(&self, envelope: &Envelope, member: &Member) -> Verdict {
        if !member.role.administers() || !member.history {
            return Verdict::Ignored(Reason::Role);
        }
        if envelope.observed != self.head {
            return Verdict::Ignored(Reason::NotOnHead);
        }
        match Thinning::decode(&envelope.body) {
            // The newest moment is the present.
            Ok(body) if body.upto <= self.head.seq && envelope.adds.is_empty() => Verdict::Thin(Box::new(body)),
            Ok(_) => Verdict::Ignored(Reason::BadChange),
            Err(_) => Verdict::Ignored(Reason::BadBody),
        }
    }

    fn judge_membership(
        &self,
        envelope: &Envelope,
        member: &Member,
        accounts: &dyn AccountLogs,
    ) -> Result<Verdict, Misbehaviour> {
        if envelope.observed != self.head {
            return Ok(Verdict::Ignored(Reason::NotOnHead));
        }
        let Ok(body) = Membership::decode(&envelope.body, envelope.suite) else {
            return Ok(Verdict::Ignored(Reason::BadBody));
        };
        // Else who may only read could release everybody's blobs.
        if !envelope.adds.is_empty() || !envelope.releases.is_empty() {
            return Ok(Verdict::Ignored(Reason::BadChange));
        }
        if let Err(reason) = roles::check(self, envelope, member, &body) {
            return Ok(Verdict::Ignored(reason));
        }
        match &body.change {
            MembershipChange::Add { account, account_head, .. }
            | MembershipChange::AddSince { account, account_head, .. }
            | MembershipChange::Redeem { account, account_head, .. } => {
                self.known_onwards(accounts, account, *account_head)?
            }
            MembershipChange::AccountSync { account, head } => self.known_onwards(accounts, account, *head)?,
            _ => {}
        }
        Ok(Verdict::Membership(Box::new(body)))
    }

    /// The account's log is known up to `head`, and is the one that entries here have named before.
    fn known_onwards(&self, accounts: &dyn AccountLogs, account: &AccountId, head: Head) -> Result<(), Misbehaviour> {
        known_account(accounts, account, head)?;
        self.account_head(account).map_or(Ok(()), |known| known_account(accounts, account, known).map(drop))
    }
}

/// Checks that a folder begins as it must: its author, with a valid device, becomes the owner under epoch 0.
fn judge_creation(envelope: &Envelope, log: &AccountLog) -> Result<Membership, Misbehaviour> {
    let body = Membership::decode(&envelope.body, envelope.suite)?;
    let epoch_ok =
        body.new_epoch.as_ref().is_some_and(|epoch| epoch.epoch == 0 && epoch.boxes == 1 && epoch.back_link.is_none());
    let creation = envelope.kind == EntryKind::Membership && body.change == MembershipChange::Create;
    let bare = envelope.epoch == 0 && envelope.adds.is_empty() && envelope.releases.is_empty();
    if creation && epoch_ok && bare && log.may_write_at(&envelope.device, envelope.account_head.seq) {
        Ok(body)
    } else {
        Err(Misbehaviour::BadStart)
    }
}

/// The newest head of the author's own account log that the entry brings.
fn newest_named(envelope: &Envelope, verdict: &Verdict) -> Head {
    let synced = match verdict {
        Verdict::Membership(body) => match body.change {
            MembershipChange::AccountSync { head, .. } => Some(head),
            _ => None,
        },
        _ => None,
    };
    synced.filter(|head| head.seq > envelope.account_head.seq).unwrap_or(envelope.account_head)
}

/// The account's log, known at least up to `head`.
fn known_account(accounts: &dyn AccountLogs, account: &AccountId, head: Head) -> Result<Arc<AccountLog>, Misbehaviour> {
    match accounts.log(account) {
        Some(log) if log.id() != *account => Err(Misbehaviour::AccountForked(*account)),
        Some(log) if log.has_head(head) => Ok(log),
        Some(log) if log.head().seq >= head.seq || head.seq == 0 => Err(Misbehaviour::AccountForked(*account)),
        _ => Err(Misbehaviour::AccountMissing { account: *account, head }),
    }
}
