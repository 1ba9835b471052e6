//! Changes of membership: signed on the log's newest entry, again if somebody else was faster.
//!
//! A change that must shut somebody out brings a new epoch, boxed to all who stay, in the same entry.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::checkpoint::Prepared;
use super::retention::Report;
use super::status::now_ms;
use super::verify::{Chains, Taken, Verified, take_in};
use super::{Folder, SyncError};
use crate::api::Redeem;
use crate::format::{
    AccountId, Head, InviteKey, KeyBox, Membership, MembershipChange, RetentionRule, Role, SignedEntry,
};
use crate::keyring::{
    AccountLog, AccountLogs, EpochSecrets, Position, Reason, RecipientsError, Verdict, grant, grant_since,
    new_epoch_mending,
};

/// How often a change is signed anew because the log has grown meanwhile. Each time somebody else got on.
const ATTEMPTS: usize = 16;

/// What the uploader does between two batches, for who asked for it.
pub(super) struct Command {
    pub work: Work,
    pub done: oneshot::Sender<Result<(), SyncError>>,
}

/// What needs the device's next entry.
pub(super) enum Work {
    /// A change of membership.
    Change(Change),
    /// The entries of a checkpoint.
    Checkpoint(Arc<Prepared>),
    /// What thins out the past.
    Thin(Arc<Report>),
    /// What keeps content that was released in use.
    Keep,
}

/// How much of the past a newcomer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// All of it.
    Full,
    /// Nothing: a new epoch begins, and the state at its beginning is handed over.
    None,
    /// From the beginning of this epoch on, whose state is handed over.
    Since(u32),
}

/// A wanted change.
#[derive(Clone)]
pub(super) enum Change {
    /// A new member.
    Add { newcomer: Arc<AccountLog>, role: Role, expires_ms: Option<i64>, past: Past },
    /// A member no more; the user's own account leaves.
    Remove { account: AccountId },
    /// The same for a guest whose time is over, unless somebody has extended it.
    Expire { account: AccountId },
    /// Another role.
    SetRole { account: AccountId, role: Role, expires_ms: Option<i64> },
    /// An epoch after this one.
    Rotate { after: u32 },
    /// The own account's log has moved on to this head, at least.
    Sync { head: Head },
    /// A link is open to whoever holds it.
    Invite { key: InviteKey, role: Role, ends_ms: i64, expires_ms: Option<i64> },
    /// It is not any more.
    CancelInvite { key: InviteKey },
    /// Another rule for how long the past is kept.
    Retention { rule: RetentionRule },
    /// A new member, who has proven to hold an invite; a guest without history.
    Redeem { newcomer: Arc<AccountLog>, redeem: Box<Redeem>, guest: bool },
}

/// A signed change, ready to be sent.
struct Signed {
    entry: SignedEntry,
    boxes: Vec<KeyBox>,
    secrets: Option<EpochSecrets>,
    seq: u64,
}

impl Folder {
    /// Hands the change to the uploader and waits for it.
    pub(super) async fn change_membership(&self, change: Change) -> Result<(), SyncError> {
        self.work(Work::Change(change)).await
    }

    /// The same with the entries of a checkpoint.
    pub(super) async fn post(&self, prepared: Arc<Prepared>) -> Result<(), SyncError> {
        self.work(Work::Checkpoint(prepared)).await
    }

    /// The same with what thins out the past.
    pub(super) async fn post_thinning(&self, report: Arc<Report>) -> Result<(), SyncError> {
        self.work(Work::Thin(report)).await
    }

    /// The same with what keeps content that was released in use.
    pub(super) async fn post_keeping(&self) -> Result<(), SyncError> {
        self.work(Work::Keep).await
    }

    async fn work(&self, work: Work) -> Result<(), SyncError> {
        let (done, result) = oneshot::channel();
        self.commands.send(Command { work, done }).await.map_err(|_| SyncError::Closed)?;
        result.await.map_err(|_| SyncError::Closed)?
    }

    /// Makes the change. The caller holds `authoring`, and no own entry is on its way.
    pub(super) async fn make_change(self: &Arc<Self>, change: &Change) -> Result<(), SyncError> {
        self.catch_up().await?;
        if change.shuts_out(&self.me) {
            self.check_allowed(change.action())?;
            let members: Vec<AccountId> = self.verified.lock().await.state.members().keys().copied().collect();
            let fresh = self.accounts.freshen(&members).await;
            fresh.map_err(|error| self.judge(error, self.replica.mark().seq, &[]))?;
        }
        let mut perhaps_sent = false;
        for _ in 0..ATTEMPTS {
            let verified = Arc::clone(&self.verified).lock_owned().await;
            if self.is_done(&verified, change, perhaps_sent) {
                return Ok(());
            }
            let (this, wanted) = (Arc::clone(self), change.clone());
            // Sealing thousands of boxes takes seconds.
            let signing = tokio::task::spawn_blocking(move || this.sign_change(&verified, &wanted));
            let signed = match signing.await.map_err(|_| SyncError::Closed)? {
                Ok(signed) => signed,
                Err(Unsigned::Needs(account)) => {
                    self.accounts.refresh(account).await?;
                    continue;
                }
                Err(Unsigned::Failed(error)) => return Err(error),
            };
            match self.remote.append(self.id(), &signed.entry, &signed.boxes).await {
                Ok(got) => {
                    tracing::debug!(db = %self.id(), got, "membership changed");
                    self.take_own(signed, got).await?;
                    return self.catch_up().await;
                }
                // Somebody was faster.
                Err(error) if error.is_overtaken() => {}
                // Whether it was appended is unknown: the log tells. The same counter never counts twice.
                Err(error) if error.is_transient() => perhaps_sent = true,
                Err(error) => return Err(error.into()),
            }
            self.catch_up().await?;
        }
        Err(SyncError::TimedOut("changing the members of a busy folder"))
    }

    /// Takes in the own entry that the server says is number `seq`, with the secrets that were made for it, where it
    /// follows what is known. Otherwise catching up finds it.
    async fn take_own(self: &Arc<Self>, signed: Signed, seq: u64) -> Result<(), SyncError> {
        let mut verified = Arc::clone(&self.verified).lock_owned().await;
        let (Some(secrets), true) = (signed.secrets, seq == signed.seq && verified.state.head().seq + 1 == seq) else {
            return Ok(());
        };
        let this = Arc::clone(self);
        let taken = tokio::task::spawn_blocking(move || {
            verified.ring.insert(secrets);
            this.replica.store_keyring(&verified.ring.to_bytes())?;
            take_in(&this, &mut verified, std::slice::from_ref(&signed.entry))
        });
        match taken.await.map_err(|_| SyncError::Closed)?? {
            Taken::All | Taken::NeedsKeys(_) | Taken::NeedsState(_) => Ok(()),
            Taken::Caught(_, misbehaviour) => Err(SyncError::Misbehaviour(misbehaviour.to_string())),
        }
    }

    /// Nothing is left to do. That somebody is a member already, or none, is an error for who asks for it, unless the
    /// own request may have caused it.
    fn is_done(&self, verified: &Verified, change: &Change, perhaps_sent: bool) -> bool {
        let members = verified.state.members();
        match change {
            Change::Add { newcomer, .. } => perhaps_sent && members.contains_key(&newcomer.id()),
            Change::Remove { account } => perhaps_sent && !members.contains_key(account),
            Change::Expire { account } => members.get(account).is_none_or(|member| !member.expired_at(now_ms())),
            Change::SetRole { account, role, expires_ms } => {
                members.get(account).is_some_and(|member| member.role == *role && member.expires_ms == *expires_ms)
            }
            Change::Rotate { after } => verified.state.epoch() > *after,
            Change::Sync { head } => verified.state.account_head(&self.me).is_some_and(|known| known.seq >= head.seq),
            Change::Invite { key, .. } => verified.state.invites().contains_key(key),
            Change::Retention { rule } => perhaps_sent && verified.state.retention() == *rule,
            Change::CancelInvite { key } => perhaps_sent && !verified.state.invites().contains_key(key),
            // Somebody else's client was faster, or it was cancelled meanwhile.
            Change::Redeem { redeem, .. } => !verified.state.invites().contains_key(&redeem.redemption.key),
        }
    }

    fn sign_change(&self, verified: &Verified, change: &Change) -> Result<Signed, Unsigned> {
        self.check_subject(verified, change)?;
        let epoch = verified.state.epochs().last().ok_or(SyncError::NotAMember)?;
        let mut boxes = Vec::new();
        let mut wanted = change.entry(&self.me);
        let granted_to = match change {
            Change::Add { newcomer, role, past: past @ (Past::Full | Past::Since(_)), .. } => {
                Some((newcomer, *role, *past))
            }
            // The role is the invite's.
            Change::Redeem { newcomer, guest: false, .. } => Some((newcomer, Role::Viewer, Past::Full)),
            _ => None,
        };
        if let Some((newcomer, role, past)) = granted_to {
            let account = newcomer.id();
            let bad_key = |_| SyncError::Misbehaviour(format!("account {account} has an unusable key"));
            let (generation, key) = newcomer.user_key().map_err(bad_key)?;
            let start = &epoch.start;
            if let Past::Since(first) = past {
                self.check_allowed(change.action())?;
                self.check_begins(verified, first)?;
                let granted = grant_since(&verified.ring, start, first, account, generation, &key);
                let (grant, sealed, epochs) = granted.map_err(SyncError::from)?;
                let account_head = newcomer.head();
                wanted = MembershipChange::AddSince { account, account_head, role, first, grant, epochs };
                boxes.push(sealed);
            } else if let MembershipChange::Add { grant: promised, .. }
            | MembershipChange::Redeem { grant: promised, .. } = &mut wanted
            {
                let secrets = verified.ring.epoch(start.epoch).map_err(SyncError::from)?;
                let granted = grant(secrets, start, account, generation, &key).map_err(SyncError::from)?;
                *promised = Some(granted.0);
                boxes.push(granted.1);
            }
        }
        let (mut new_epoch, mut secrets) = (None, None);
        if change.shuts_out(&self.me) {
            self.check_allowed(change.action())?;
            let current = verified.ring.epoch(epoch.start.epoch).map_err(SyncError::from)?;
            let recipients = verified.state.recipients(&wanted, &*self.accounts)?;
            recipients.iter().try_for_each(|recipient| self.accounts.check_trusted(&recipient.account))?;
            let bridged = verified.ring.to_mend(verified.state.epochs());
            let made = new_epoch_mending(Some(current), &bridged, &recipients);
            let (start, sealed, fresh) = made.map_err(SyncError::from)?;
            (new_epoch, secrets, boxes) = (Some(start), Some(fresh), sealed);
        }
        if let Change::Add { newcomer, .. } = change {
            self.accounts.check_trusted(&newcomer.id())?;
        }
        let body = Membership { change: wanted, new_epoch };
        let entry = self.shared.author.membership(&self.position(verified)?, &body);
        // What every member would ignore is refused here, with the reason.
        let chains = Chains { replica: &self.replica, recent: &[] };
        let advanced = verified
            .state
            .check(&entry, &*self.accounts, &chains)
            .map_err(|error| SyncError::Damaged(error.to_string()))?;
        match advanced.verdict {
            Verdict::Ignored(Reason::NotMember) => Err(SyncError::NotAMember.into()),
            Verdict::Ignored(Reason::Role) => Err(self.not_allowed(change.action()).into()),
            Verdict::Ignored(reason) => Err(SyncError::Refused(reason.to_string()).into()),
            Verdict::Membership(_) | Verdict::Batch | Verdict::Checkpoint(_) | Verdict::Thin(_) => {
                Ok(Signed { entry, boxes, secrets, seq: advanced.seq })
            }
        }
    }

    /// What is wrong with whom the change is about, in words that help.
    fn check_subject(&self, verified: &Verified, change: &Change) -> Result<(), SyncError> {
        let members = verified.state.members();
        let present = |account: &AccountId| {
            members.get(account).ok_or_else(|| SyncError::NotTheirMember { name: self.name_of(account) })
        };
        match change {
            Change::Add { newcomer, .. } => match members.get(&newcomer.id()) {
                Some(member) => Err(SyncError::AlreadyMember { name: newcomer.name().to_owned(), role: member.role }),
                None => Ok(()),
            },
            Change::Remove { account } | Change::Expire { account } => {
                present(account)?;
                if verified.state.is_last_owner(account) { Err(SyncError::LastOwner) } else { Ok(()) }
            }
            Change::SetRole { account, role, .. } => {
                let member = present(account)?;
                if *role != Role::Owner && verified.state.is_last_owner(account) {
                    return Err(SyncError::LastOwner);
                }
                if role.administers() && !member.history {
                    return Err(SyncError::NoHistory { name: self.name_of(account) });
                }
                Ok(())
            }
            Change::Redeem { newcomer, .. } => match members.get(&newcomer.id()) {
                Some(member) => Err(SyncError::AlreadyMember { name: newcomer.name().to_owned(), role: member.role }),
                None => Ok(()),
            },
            Change::CancelInvite { key } => match verified.state.invites().get(key) {
                Some(_) => Ok(()),
                None => {
                    Err(SyncError::BadInvite("there is no such open invite; `kegfs invite --list` shows them".into()))
                }
            },
            Change::Rotate { .. } | Change::Sync { .. } | Change::Invite { .. } | Change::Retention { .. } => Ok(()),
        }
    }

    /// The state at the epoch's beginning is still there to be handed over: it may have been thinned out since it was chosen, and
    /// lasts only once somebody begins with it.
    fn check_begins(&self, verified: &Verified, first: u32) -> Result<(), SyncError> {
        let began = verified.state.began(first).unwrap_or(0);
        if self.replica.moment_after(began)? == began {
            return Ok(());
        }
        let what = "what the folder was at that date was thinned out meanwhile; try again, or give a later date";
        Err(SyncError::Refused(what.to_owned()))
    }

    /// Who does not administer has no secrets to start an epoch with.
    fn check_allowed(&self, action: &'static str) -> Result<(), SyncError> {
        if self.role().is_some_and(Role::administers) { Ok(()) } else { Err(self.not_allowed(action)) }
    }

    fn not_allowed(&self, action: &'static str) -> SyncError {
        self.role().map_or(SyncError::NotAMember, |role| SyncError::NotAllowed { role, action })
    }

    fn name_of(&self, account: &AccountId) -> String {
        self.accounts.log(account).map_or_else(|| account.to_string(), |log| log.name().to_owned())
    }

    /// Where the device's next entry goes.
    pub(super) fn position(&self, verified: &Verified) -> Result<Position, SyncError> {
        let own = self.accounts.log(&self.me).ok_or(SyncError::NoSuchAccount(self.me))?;
        Ok(Position {
            db: self.id(),
            observed: verified.state.head(),
            account_head: own.head(),
            last: verified.state.author(&self.device),
            epoch: verified.state.epoch(),
            now_ms: now_ms(),
        })
    }
}

impl Change {
    /// It starts a new epoch. Who leaves starts none: the others do.
    fn shuts_out(&self, me: &AccountId) -> bool {
        match self {
            Self::Add { past, .. } => *past == Past::None,
            Self::Remove { account } | Self::Expire { account } => account != me,
            Self::SetRole { .. }
            | Self::Sync { .. }
            | Self::Invite { .. }
            | Self::CancelInvite { .. }
            | Self::Retention { .. } => false,
            Self::Rotate { .. } => true,
            Self::Redeem { guest, .. } => *guest,
        }
    }

    /// The change as the log has it; the grant is still to be made.
    fn entry(&self, me: &AccountId) -> MembershipChange {
        match self {
            Self::Sync { head } => MembershipChange::AccountSync { account: *me, head: *head },
            Self::Invite { key, role, ends_ms, expires_ms } => {
                MembershipChange::Invite { key: *key, role: *role, ends_ms: *ends_ms, expires_ms: *expires_ms }
            }
            Self::CancelInvite { key } => MembershipChange::CancelInvite { key: *key },
            Self::Retention { rule } => MembershipChange::Retention { rule: *rule },
            Self::Redeem { redeem, .. } => MembershipChange::Redeem {
                key: redeem.redemption.key,
                account: redeem.redemption.account,
                account_head: redeem.redemption.account_head,
                proof: redeem.proof,
                grant: None,
            },
            Self::Add { newcomer, role, expires_ms, .. } => MembershipChange::Add {
                account: newcomer.id(),
                account_head: newcomer.head(),
                role: *role,
                expires_ms: *expires_ms,
                grant: None,
            },
            Self::Remove { account } | Self::Expire { account } => MembershipChange::Remove { account: *account },
            Self::SetRole { account, role, expires_ms } => {
                MembershipChange::SetRole { account: *account, role: *role, expires_ms: *expires_ms }
            }
            Self::Rotate { .. } => MembershipChange::Rotate,
        }
    }

    fn action(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add members in that role",
            Self::Remove { .. } | Self::Expire { .. } => "remove that member",
            Self::SetRole { .. } => "give or take that role",
            Self::Rotate { .. } => "change the folder's key",
            Self::Sync { .. } => "tell of your devices",
            Self::Retention { .. } => "change how long the past is kept",
            Self::Invite { .. } | Self::CancelInvite { .. } | Self::Redeem { .. } => "invite in that role",
        }
    }
}

/// Why a change was not signed.
enum Unsigned {
    /// The log of this account is needed first.
    Needs(AccountId),
    Failed(SyncError),
}

impl From<SyncError> for Unsigned {
    fn from(error: SyncError) -> Self {
        Self::Failed(error)
    }
}

impl From<RecipientsError> for Unsigned {
    fn from(error: RecipientsError) -> Self {
        match error {
            RecipientsError::AccountMissing { account, .. } => Self::Needs(account),
            RecipientsError::BadKey(_) => Self::Failed(SyncError::Misbehaviour(error.to_string())),
        }
    }
}
