//! Taking entries in: verify, open, apply, in groups. Synchronous, for a blocking thread.

use std::collections::HashMap;
use std::sync::Arc;

use super::accounts::Accounts;
use super::activity;
use super::event::{Event, Hub};
use super::present::Present;
use super::{Folder, SyncError};
use crate::format::{
    AccountId, ChainHash, DeviceId, Envelope, FormatError, Head, Membership, MembershipChange, SignedEntry, encode,
    limits,
};
use crate::keyring::AccountLogs;
use crate::keyring::{
    Advanced, AuthorState, ChainHistory, FolderState, KeyRing, KeyRingError, Misbehaviour, Verdict, open_batch,
};
use crate::replica::{
    Activity, Added, CheckpointRow, CheckpointVerdict, Confirmed, Happening, MemberInfo, Origin, Replica, Standing,
    Thin,
};

/// Operations that one transaction applies at most, unless one entry alone has more. A longer one would keep readers
/// of the mounted view waiting.
const GROUP_OPS: usize = 4096;
/// Entries that one transaction applies at most.
const GROUP_ENTRIES: usize = 512;

/// The newest entry of the log is kept as it came, for the case that the server is caught, unless it is longer: the one
/// before then stays. Most are a kilobyte or two; writing a long one twice would cost more than it proves.
const KEPT_ENTRY_BYTES: usize = 64 * 1024;

/// A folder's verified log state and the keys that open its bodies. Always that of the replica's mark, but while a
/// group is being applied.
pub(super) struct Verified {
    pub state: FolderState,
    pub ring: KeyRing,
    /// Of the epochs up to this one, those that the ring lacks are not this member's: the log was searched for boxes
    /// beyond them. What was written under them is passed over.
    pub searched: Option<u32>,
    /// Where this member's history begins; `None`: at the beginning.
    pub origin: Option<Origin>,
}

/// How far taking in came.
#[derive(Debug)]
pub(super) enum Taken {
    /// All entries are applied.
    All,
    /// The entry at this index of the given ones, or a later one, brings a key that this client must fetch first.
    NeedsKeys(usize),
    /// The entry at this index comes after the point where this member's history begins, and the state at that point is
    /// not here yet.
    NeedsState(usize),
    /// The entry at this index proves that the server misbehaves. Those before it are applied.
    Caught(usize, Misbehaviour),
}

impl Verified {
    /// The state that the replica has stored.
    pub fn load(replica: &Replica) -> Result<Self, SyncError> {
        let damaged = |what: &str| SyncError::Damaged(format!("the replica's {what}"));
        let ring = match replica.load_keyring()? {
            Some(bytes) => KeyRing::from_bytes(&bytes).map_err(|_| damaged("key ring"))?,
            None => KeyRing::default(),
        };
        let (db, mark) = (replica.params().db, replica.mark());
        let state = if mark == Head::EMPTY {
            FolderState::new(db)
        } else {
            let authors = replica.authors()?.into_iter();
            let authors: HashMap<DeviceId, AuthorState> =
                authors.map(|(device, counter, previous)| (device, AuthorState { counter, previous })).collect();
            FolderState::from_bytes(&replica.standing().state, mark, authors).map_err(|_| damaged("folder state"))?
        };
        Ok(Self { state, ring, searched: None, origin: replica.origin()? })
    }

    /// The epoch's key may still be found in the log.
    fn may_open(&self, epoch: u32) -> bool {
        self.searched.is_none_or(|searched| epoch > searched)
    }

    /// Position from which on the past exists for an entry made now: see [`crate::keg::Context::horizon`].
    pub fn horizon(&self, envelope: &Envelope) -> u64 {
        // Logs of suite 1 have been applied without it.
        if envelope.suite < 2 { 0 } else { self.past_from() }
    }

    /// Before it the past is not the same for everybody: where the current epoch began, or up to where it was thinned out.
    pub fn past_from(&self) -> u64 {
        self.state.epochs().last().map_or(0, |epoch| epoch.seq).max(self.state.thinned())
    }

    /// Drops what was verified but not applied.
    pub fn reset(&mut self, replica: &Replica) -> Result<(), SyncError> {
        *self = Self::load(replica)?;
        Ok(())
    }

    /// What the mounted view shows of this state.
    pub fn standing(&self, me: &AccountId) -> Standing {
        let members = self.state.members();
        Standing {
            state: self.state.to_bytes(),
            epoch: self.state.epoch(),
            role: members.get(me).map(|member| member.role),
            members: members
                .iter()
                .map(|(account, member)| MemberInfo {
                    account: *account,
                    role: member.role,
                    expires_ms: member.expires_ms,
                    joined_seq: member.joined_seq,
                })
                .collect(),
        }
    }
}

/// What an entry that verification refuses means: mostly that the server was caught.
pub(super) fn judged(error: Misbehaviour) -> SyncError {
    match error {
        // Nobody's fault: somebody has a newer version.
        Misbehaviour::Malformed(FormatError::UnknownSuite(suite)) if suite > limits::SUITE => {
            SyncError::UpdateNeeded(suite)
        }
        error => SyncError::Misbehaviour(error.to_string()),
    }
}

/// The author of an entry that comes after `before` administers the folder.
fn administers(before: &FolderState, advanced: &Advanced) -> bool {
    before.members().get(&advanced.envelope.author).is_some_and(|member| member.role.administers())
}

/// Whether a membership change gives `me` a box, for an epoch that `ring` lacks.
pub(super) fn brings_key(
    author: &AccountId,
    body: &Membership,
    state: &FolderState,
    me: &AccountId,
    ring: &KeyRing,
) -> bool {
    let member_after = match &body.change {
        MembershipChange::Create => author == me,
        MembershipChange::Add { account, .. }
        | MembershipChange::AddSince { account, .. }
        | MembershipChange::Redeem { account, .. }
            if account == me =>
        {
            true
        }
        MembershipChange::Remove { account } if account == me => false,
        _ => state.members().contains_key(me),
    };
    match (&body.new_epoch, &body.change) {
        // Secrets that were made here for an epoch that somebody else then started are not those of the log.
        (Some(start), _) => member_after && !ring.epoch(start.epoch).is_ok_and(|secrets| secrets.is_of(start)),
        (
            None,
            MembershipChange::Add { account, grant: Some(grant), .. }
            | MembershipChange::Redeem { account, grant: Some(grant), .. },
        ) => account == me && ring.epoch(grant.epoch).is_err(),
        (None, MembershipChange::AddSince { account, grant, .. }) => account == me && ring.epoch(grant.epoch).is_err(),
        _ => false,
    }
}

/// Chain hashes of the log: those in the replica and those verified since.
pub(super) struct Chains<'a> {
    pub replica: &'a Replica,
    /// Chain hashes after the replica's mark, ascending without gaps.
    pub recent: &'a [Head],
}

impl ChainHistory for Chains<'_> {
    fn chain_at(&self, seq: u64) -> Option<ChainHash> {
        match self.recent.first() {
            Some(first) if seq >= first.seq => {
                let index = usize::try_from(seq - first.seq).ok()?;
                self.recent.get(index).map(|head| head.chain)
            }
            _ => self.replica.chain_at(seq).ok().flatten(),
        }
    }
}

/// Verifies `entries`, which follow the state's head, and applies them. On an error the state is that of the replica.
pub(super) fn take_in(folder: &Folder, verified: &mut Verified, entries: &[SignedEntry]) -> Result<Taken, SyncError> {
    let mut intake = Intake {
        folder,
        accounts: &folder.accounts,
        hub: &folder.hub,
        group: Vec::new(),
        heads: Vec::new(),
        checkpoints: Vec::new(),
        ops: 0,
        standing: false,
    };
    let taken = intake.entries(verified, entries).and_then(|taken| {
        let looked_at = match &taken {
            Taken::All => entries.len(),
            Taken::NeedsKeys(index) | Taken::NeedsState(index) | Taken::Caught(index, _) => *index,
        };
        intake.apply(verified, intake.newest(entries, looked_at))?;
        Ok(taken)
    });
    if taken.is_err() {
        verified.reset(&folder.replica)?;
    }
    taken
}

struct Intake<'a> {
    folder: &'a Folder,
    accounts: &'a Arc<Accounts>,
    hub: &'a Arc<Hub>,
    group: Vec<Confirmed>,
    heads: Vec<Head>,
    checkpoints: Vec<CheckpointRow>,
    ops: usize,
    standing: bool,
}

impl Intake<'_> {
    fn entries(&mut self, verified: &mut Verified, entries: &[SignedEntry]) -> Result<Taken, SyncError> {
        for (index, entry) in entries.iter().enumerate() {
            let chains = Chains { replica: &self.folder.replica, recent: &self.heads };
            let advanced = match verified.state.check(entry, &**self.accounts, &chains) {
                Ok(advanced) => advanced,
                // Nobody's fault: somebody has a newer version.
                Err(Misbehaviour::Malformed(FormatError::UnknownSuite(suite))) if suite > limits::SUITE => {
                    self.apply(verified, self.newest(entries, index))?;
                    return Err(SyncError::UpdateNeeded(suite));
                }
                Err(misbehaviour) => return Ok(Taken::Caught(index, misbehaviour)),
            };
            let floor = self.folder.shared.floors.get(&self.folder.id()).map(|mark| mark.head);
            if floor.is_some_and(|floor| floor.seq == advanced.seq && floor.chain != advanced.chain) {
                return Ok(Taken::Caught(index, Misbehaviour::Fork { seq: advanced.seq }));
            }
            if verified.origin.is_some_and(|origin| !origin.complete && advanced.seq > origin.seq) {
                return Ok(Taken::NeedsState(index));
            }
            let me = &self.folder.me;
            let needs_keys = match &advanced.verdict {
                Verdict::Batch => {
                    let epoch = advanced.envelope.epoch;
                    verified.may_open(epoch) && verified.ring.epoch(epoch).is_err()
                }
                Verdict::Membership(body) => {
                    let epoch = body.new_epoch.as_ref().map_or(verified.state.epoch(), |start| start.epoch);
                    verified.may_open(epoch)
                        && brings_key(&advanced.envelope.author, body, &verified.state, me, &verified.ring)
                }
                Verdict::Checkpoint(_) | Verdict::Thin(_) | Verdict::Ignored(_) => false,
            };
            if needs_keys {
                return Ok(Taken::NeedsKeys(index));
            }
            let author = self.accounts.log(&advanced.envelope.author);
            let named = advanced.envelope.account_head.seq;
            let label = author.map_or_else(String::new, |log| log.label_at(&advanced.envelope.device, named));
            let activity = activity::of_entry(&advanced, &verified.state, self.accounts, &label);
            let administers = advanced.seq == 1 || administers(&verified.state, &advanced);
            verified.state.commit(&advanced);
            self.add(verified, advanced, administers, label, activity);
            if self.ops >= GROUP_OPS || self.group.len() >= GROUP_ENTRIES {
                self.apply(verified, Some(entry))?;
            }
        }
        Ok(Taken::All)
    }

    /// The last of `entries` that is in the group, where those up to `index` were looked at.
    fn newest<'e>(&self, entries: &'e [SignedEntry], index: usize) -> Option<&'e SignedEntry> {
        index.checked_sub(1).and_then(|index| entries.get(index)).filter(|_| !self.group.is_empty())
    }

    fn add(
        &mut self,
        verified: &Verified,
        advanced: Advanced,
        administers: bool,
        label: String,
        mut activity: Vec<Activity>,
    ) {
        let db = self.folder.id();
        let ignored = |reason: String| {
            self.hub.tell(&Event::EntryIgnored { db, seq: advanced.seq, reason });
        };
        let mut added = Added::Known;
        let batch = match &advanced.verdict {
            Verdict::Batch => match open_batch(&db, &advanced.envelope, &verified.ring) {
                Ok(batch) => Some(batch),
                // Written while the user was no member, or before, without a grant of history.
                Err(KeyRingError::NoEpoch(_)) => {
                    added = Added::Unread;
                    None
                }
                // Every member has the same key and comes to the same result: the entry counts for nothing.
                Err(error) => {
                    ignored(error.to_string());
                    activity.push(Activity {
                        seq: advanced.seq,
                        at_ms: advanced.envelope.created_ms,
                        account: Some(advanced.envelope.author),
                        actor: label.clone(),
                        what: Happening::Ignored { reason: error.to_string() },
                    });
                    None
                }
            },
            Verdict::Membership(_) | Verdict::Thin(_) => None,
            Verdict::Checkpoint(body) => {
                if let Some(sealed) = &body.state {
                    self.checkpoints.push(CheckpointRow {
                        seq: advanced.seq,
                        epoch: body.epoch,
                        account: advanced.envelope.author,
                        own: advanced.envelope.device == self.folder.device,
                        sealed: sealed.clone(),
                        verdict: CheckpointVerdict::Open,
                    });
                }
                None
            }
            Verdict::Ignored(reason) => {
                ignored(reason.to_string());
                added = Added::Ignored;
                None
            }
        };
        let head = advanced.head();
        self.ops += batch.as_ref().map_or(0, |batch| batch.ops.len());
        self.standing |= advanced.standing_changed;
        self.heads.push(head);
        let horizon = verified.horizon(&advanced.envelope);
        let thin = match advanced.verdict {
            Verdict::Thin(body) => Some(Thin {
                body: *body,
                rule: verified.state.retention(),
                now_ms: advanced.envelope.created_ms,
                lasting: verified.state.lasting(),
                lasting_epochs: verified.state.lasting_epochs().map(|epoch| epoch.start.epoch).collect(),
            }),
            _ => None,
        };
        let (hash, envelope) = (advanced.hash, advanced.envelope);
        let signed = None;
        self.group.push(Confirmed {
            head,
            hash,
            envelope,
            batch,
            horizon,
            added,
            administers,
            thin,
            label,
            signed,
            activity,
        });
    }

    /// `newest`: the last of the group, as it came.
    fn apply(&mut self, verified: &Verified, newest: Option<&SignedEntry>) -> Result<(), SyncError> {
        if let Some(last) = self.group.last_mut() {
            last.signed = newest.map(encode).filter(|bytes| bytes.len() <= KEPT_ENTRY_BYTES);
        } else {
            return Ok(());
        }
        let standing = std::mem::take(&mut self.standing).then(|| verified.standing(&self.folder.me));
        let present = standing.is_some().then(|| Present::of(&verified.state, &self.folder.me));
        for row in &self.checkpoints {
            // Before the mark passes it; once more after a crash changes nothing.
            self.folder.replica.note_checkpoint(row)?;
        }
        self.folder.replica.apply(&self.group, standing)?;
        if !std::mem::take(&mut self.checkpoints).is_empty() {
            self.folder.audits.notify_one();
            self.folder.duties.notify_one();
        }
        if self.folder.replica.has_missed() {
            self.folder.duties.notify_one();
        }
        if let Some(present) = present {
            self.folder.note_standing(present);
            self.folder.note_doubts();
        }
        for confirmed in self.group.iter().filter(|confirmed| confirmed.envelope.device == self.folder.device) {
            for blob in &confirmed.envelope.adds {
                // Failing to move a file from spool to cache costs room, not data; the next start tries again.
                if let Err(error) = self.folder.local.uploaded(&blob.id) {
                    tracing::warn!(blob = %blob.id, %error, "an uploaded blob stays in the spool");
                }
            }
        }
        self.group.clear();
        self.heads.clear();
        self.ops = 0;
        Ok(())
    }
}
