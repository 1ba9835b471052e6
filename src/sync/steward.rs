//! What the client of an admin or owner does unasked, so that who should not read does not: new epochs after somebody
//! left or lost a device, the removal of guests whose time is over, a new epoch now and then, and one whose back-link leads
//! past a false one. And they let in who proves to hold an invite, and thin out the past. Everybody's client that can
//! write keeps what was released in use.
//!
//! Every admin's client sees the same and one is enough. They take turns, by a rank that the log gives them; who comes
//! second finds it done.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::activity::invite_name;
use super::backoff::Backoff;
use super::member::Change;
use super::status::now_ms;
use super::verify::Verified;
use super::{Folder, SyncError};
use crate::format::{AccountId, Role};
use crate::keyring::AccountLogs;
use crate::replica::Happening;
use crate::sys::{clock, random};

/// Between the turns of two admins: longer than a rotation of a large folder takes to be seen by the next.
const TURN: Duration = Duration::from_millis(1500);
/// Clocks differ by that much: those who come in the same turn do not come at the same moment.
const JITTER_MS: u64 = 300;
/// How long who has added a member without history has for handing over the folder's state.
const HAND_OVER_AFTER: Duration = Duration::from_secs(3);
/// Between the turns of two admins there, and as much more for each thousand files: making and sending their state.
const HAND_OVER_TURN: Duration = Duration::from_secs(4);
/// See [`HAND_OVER_TURN`].
const HAND_OVER_TURN_FILES: u64 = 1000;
/// An epoch is not used for longer: what a key that leaked unnoticed opens is bounded.
const EPOCH_AGE_MS: i64 = 90 * 24 * 3_600_000;
/// How often it is looked although nothing was heard.
const LOOK: Duration = Duration::from_secs(3600);

impl Folder {
    /// Does what is due for as long as the session lives.
    pub(super) async fn run_steward(self: Arc<Self>) {
        let (mut backoff, mut lies) = (Backoff::default(), HashSet::new());
        let mut failed = Failed::default();
        loop {
            let next_end = self.note_ended_invites().await;
            let pause = match self.duty(&failed).await {
                Ok((duty, turn)) => {
                    tokio::time::sleep(turn).await;
                    // Somebody whose turn was before has done it, or it has become another.
                    let subject = duty.subject();
                    if !self.duty(&failed).await.is_ok_and(|(now, _)| now.subject() == subject) {
                        continue;
                    }
                    let done = match duty {
                        Duty::Change(change) => self.change_membership(change).await,
                        Duty::HandOver { epoch } => self.hand_over(epoch).await,
                        Duty::Thin => self.thin_out(false).await.map(drop),
                        Duty::Keep => self.post_keeping().await,
                    };
                    if let Err(error) = &done {
                        if matches!(error, SyncError::Undecided { .. }) {
                            self.link.note_error(Some(error.to_string()));
                        }
                        tracing::debug!(db = %self.id(), %error, "what is due could not be done yet");
                    }
                    failed.note(subject, done.is_err());
                    continue;
                }
                Err(pause) => match self.let_in(&mut lies).await {
                    Ok(more) => {
                        backoff.reset();
                        if more {
                            continue;
                        }
                        pause
                    }
                    Err(error) => {
                        tracing::debug!(db = %self.id(), %error, "who waits could not be let in yet");
                        backoff.next().min(pause)
                    }
                },
            };
            // Woken by every change of the membership; a pause is then cut short.
            let pause = pause.min(next_end).min(failed.next());
            if tokio::time::timeout(pause, self.duties.notified()).await.is_ok() {
                failed.hurry();
            }
        }
    }

    /// Notes invites that nobody has used in their time, once each; returns how long until the next may be over.
    async fn note_ended_invites(&self) -> Duration {
        let (now, mut ended, mut next) = (now_ms(), Vec::new(), i64::MAX);
        for (key, invite) in self.verified.lock().await.state.invites() {
            if invite.ended_at(now) {
                ended.push(Happening::InviteEnded { invite: invite_name(key), ends_ms: invite.ends_ms });
            } else {
                next = next.min(invite.ends_ms.saturating_sub(now).saturating_add(1));
            }
        }
        ended.into_iter().for_each(|what| self.note_once(what));
        LOOK.min(Duration::from_millis(next.unsigned_abs()))
    }

    /// What is to be done, and how long others go first; or when to look again. What has failed waits, and the rest does not
    /// wait for it.
    async fn duty(&self, failed: &Failed) -> Result<(Duty, Duration), Duration> {
        let verified = self.verified.lock().await;
        let ready = |duty: Duty| (!failed.waits(&duty.subject())).then_some(duty);
        if let Some(sync) = self.sync_due(&verified).map(Duty::Change).and_then(ready) {
            // The device that revoked does it at once; the others see to it that it is done.
            return Ok((sync, TURN));
        }
        if self.frozen().is_some() {
            return Err(LOOK);
        }
        let mut look = LOOK;
        let administers = self.role().is_some_and(|role| role.administers());
        let now = now_ms();
        if administers {
            let began = verified.state.epochs().last().map_or(0, |epoch| epoch.seq);
            let began_ms = self.replica.view().log_line(began).ok().flatten().map_or(now, |line| line.created_ms);
            match due(&verified, now, began_ms).map(Duty::Change).map(ready) {
                Ok(Some(change)) => return Ok((change, self.turn(&verified))),
                Ok(None) => {}
                Err(pause) => look = pause,
            }
            let hand_over = self.checkpoint_due(&verified).map(|epoch| Duty::HandOver { epoch });
            if let Some(hand_over) = hand_over.and_then(ready) {
                // Whoever added the member is at it, or has gone.
                let thousands = u32::try_from(self.replica.view().usage().1 / HAND_OVER_TURN_FILES).unwrap_or(u32::MAX);
                let turn = HAND_OVER_TURN + Duration::from_secs(1) * thousands;
                return Ok((hand_over, HAND_OVER_AFTER + turn * self.rank(&verified)));
            }
        }
        if self.role().is_some_and(Role::writes)
            && let Some(keep) = ready(Duty::Keep)
            && self.replica.has_missed()
        {
            return Ok((keep, Duration::from_millis(u64::from_le_bytes(random::array()) % JITTER_MS)));
        }
        if administers
            && let Some(thin) = ready(Duty::Thin)
            && self.thinning_due(&verified, now)
        {
            return Ok((thin, self.turn(&verified)));
        }
        Err(look)
    }

    /// The folder does not know yet that a device of the user was revoked.
    fn sync_due(&self, verified: &Verified) -> Option<Change> {
        let (known, own) = (verified.state.account_head(&self.me)?, self.accounts.log(&self.me)?);
        let revoked = own.revokes_between(known.seq, own.head().seq);
        let can = self.frozen().is_none() && self.role().is_some() && revoked;
        can.then(|| Change::Sync { head: own.head() })
    }

    pub(super) fn turn(&self, verified: &Verified) -> Duration {
        let members = verified.state.members().iter();
        let admins: Vec<&AccountId> =
            members.filter(|(_, member)| member.role.administers()).map(|(account, _)| account).collect();
        let jitter = match admins.len() {
            0 | 1 => 0,
            _ => u64::from_le_bytes(random::array()) % JITTER_MS,
        };
        TURN * self.rank(verified) + Duration::from_millis(jitter)
    }

    /// How many of those who administer come before the user.
    fn rank(&self, verified: &Verified) -> u32 {
        let members = verified.state.members().iter();
        let before = members.filter(|(account, member)| member.role.administers() && **account < self.me).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// Waits for the result of what the user asked for.
    pub(super) async fn rotate(&self) -> Result<(), SyncError> {
        let after = self.verified.lock().await.state.epoch();
        self.change_membership(Change::Rotate { after }).await
    }
}

/// The first thing that is due at `now_ms`, when the epoch began at `began_ms`; or when something may be.
fn due(verified: &Verified, now_ms: i64, began_ms: i64) -> Result<Change, Duration> {
    let state = &verified.state;
    let expired = state.members().iter().find(|(_, member)| member.expired_at(now_ms));
    if let Some((account, _)) = expired {
        return Ok(Change::Expire { account: *account });
    }
    let age_ms = now_ms.saturating_sub(began_ms);
    // A link of an epoch leads nowhere: who joins later would not read what is older.
    let cut_off = !verified.ring.to_mend(state.epochs()).is_empty();
    if state.rotation_due() || age_ms >= EPOCH_AGE_MS || cut_off {
        return Ok(Change::Rotate { after: state.epoch() });
    }
    let next_end = state.members().values().filter_map(|member| member.expires_ms).min();
    let wait_ms = next_end.map_or(i64::MAX, |end| end.saturating_sub(now_ms).saturating_add(1));
    let wait_ms = wait_ms.min(EPOCH_AGE_MS.saturating_sub(age_ms)).max(1);
    Err(LOOK.min(Duration::from_millis(wait_ms.unsigned_abs())))
}

/// What is to be done.
enum Duty {
    Change(Change),
    /// A member waits for the state at the beginning of this epoch.
    HandOver {
        epoch: u32,
    },
    /// Some of the past is older than the rule keeps it.
    Thin,
    /// Content was released that is in use.
    Keep,
}

/// Tells two duties apart.
type Subject = (u8, Option<AccountId>, u32);

/// What could not be done, each with when it is tried again.
#[derive(Default)]
struct Failed(HashMap<Subject, (Backoff, Option<Instant>)>);

impl Failed {
    /// What became of a duty.
    fn note(&mut self, subject: Subject, failed: bool) {
        if failed {
            let (backoff, again) = self.0.entry(subject).or_default();
            *again = Some(clock::monotonic() + backoff.next());
        } else {
            self.0.remove(&subject);
        }
    }

    /// It is too early to try it again.
    fn waits(&self, subject: &Subject) -> bool {
        self.0.get(subject).is_some_and(|(_, again)| again.is_some())
    }

    /// How long until the next may be tried again; none of those whose time has come waits any more.
    fn next(&mut self) -> Duration {
        let (now, mut next) = (clock::monotonic(), LOOK);
        for (_, again) in self.0.values_mut() {
            let wait = again.map_or(LOOK, |at| at.saturating_duration_since(now));
            if wait.is_zero() {
                *again = None;
            }
            next = next.min(wait);
        }
        next
    }

    /// Something has changed: all may be tried again.
    fn hurry(&mut self) {
        self.0.values_mut().for_each(|(_, again)| *again = None);
    }
}

impl Duty {
    fn subject(&self) -> Subject {
        match self {
            Self::Change(change) => change.subject(),
            Self::HandOver { epoch } => (1, None, *epoch),
            Self::Thin => (4, None, 0),
            Self::Keep => (5, None, 0),
        }
    }
}

impl Change {
    fn subject(&self) -> Subject {
        match self {
            Self::Expire { account } | Self::Remove { account } | Self::SetRole { account, .. } => {
                (0, Some(*account), 0)
            }
            Self::Add { newcomer, .. } => (0, Some(newcomer.id()), 0),
            Self::Rotate { after } => (0, None, *after),
            Self::Redeem { redeem, .. } => (0, Some(redeem.redemption.account), 0),
            Self::Sync { head } => (2, None, u32::try_from(head.seq).unwrap_or(u32::MAX)),
            Self::Invite { .. } | Self::CancelInvite { .. } | Self::Retention { .. } => (3, None, 0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::format::{DbId, Membership, MembershipChange};
    use crate::keyring::{
        AccountLog, Author, AuthorState, ChainHistory, DeviceSecrets, FolderState, Identity, KeyRing, Position,
        UserKeySeed, db_id, new_epoch,
    };

    const DAY_MS: i64 = 24 * 3_600_000;

    struct One(Arc<AccountLog>);

    impl AccountLogs for One {
        fn log(&self, account: &AccountId) -> Option<Arc<AccountLog>> {
            (self.0.id() == *account).then(|| self.0.clone())
        }
    }

    impl ChainHistory for One {
        fn chain_at(&self, _: u64) -> Option<crate::format::ChainHash> {
            None
        }
    }

    #[test]
    fn an_epoch_ends_after_its_time_and_not_before() {
        let (device, seed) = (DeviceSecrets::random(), UserKeySeed::random());
        let (log, _) = AccountLog::create(0, "alice", &device, "laptop", &seed).unwrap();
        let (log, local) = (Arc::new(log), crate::crypto::Key::random());
        let identity = Identity { account: log.id(), device, user_keys: [(0, seed)].into(), local };
        let (generation, key) = log.user_key().unwrap();
        let (start, _, _) = new_epoch(None, &[(log.id(), generation, key)]).unwrap();
        let position = Position {
            db: DbId::ZERO,
            observed: crate::format::Head::EMPTY,
            account_head: log.head(),
            last: AuthorState::NEW,
            epoch: 0,
            now_ms: 0,
        };
        let body = Membership { change: MembershipChange::Create, new_epoch: Some(start) };
        let entry = Author::new(&identity).membership(&position, &body);
        let mut state = FolderState::new(db_id(&entry));
        state.advance(&entry, &One(log.clone()), &One(log.clone())).unwrap();
        assert_eq!(state.members()[&log.id()].role, Role::Owner);
        let verified = Verified { state, ring: KeyRing::default(), searched: None, origin: None };
        assert!(matches!(due(&verified, 5 * DAY_MS, 0), Err(pause) if pause == LOOK));
        assert!(matches!(due(&verified, 90 * DAY_MS - 1, 0), Err(pause) if pause <= Duration::from_millis(1)));
        assert!(matches!(due(&verified, 90 * DAY_MS, 0), Ok(Change::Rotate { after: 0 })));
        assert!(due(&verified, 0, DAY_MS).is_err(), "a clock behind the one who rotated");
    }
}
