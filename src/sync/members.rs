//! Members of a folder: who they are, and the changes that a user asks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::member::{Change, Past};
use super::session::CALL_DEADLINE;
use super::status::now_ms;
use super::{Folder, Session, SyncError};
use crate::format::{AccountId, Role};
use crate::keyring::{AccountLogs, FolderState};

/// How long leaving waits for what is not on the server yet; the rest is kept beside the profile.
const LAST_UPLOAD: Duration = Duration::from_secs(20);

/// How long handing over the state of a large folder may take; then it goes on in the background.
const HAND_OVER: Duration = Duration::from_secs(3600);

/// How much of a folder's past a new member gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// All of it.
    Full,
    /// Nothing: the present, and what comes.
    None,
    /// From this moment on, milliseconds since 1970 UTC; in fact from the beginning of the epoch that was current then.
    Since(i64),
}

/// A member of a folder, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub account: AccountId,
    /// The name that the account gave itself.
    pub name: String,
    /// As what.
    pub role: Role,
    /// Guests: end of membership, milliseconds since 1970 UTC.
    pub expires_ms: Option<i64>,
    /// How much of the folder's past the member has the keys of.
    pub history: History,
    /// This is the user.
    pub me: bool,
}

impl Folder {
    /// The members as of the verified head, by name.
    pub fn members(&self) -> Vec<Member> {
        let me = self.me;
        let named = |account: &AccountId| {
            let log = self.accounts.log(account);
            log.map_or_else(|| account.to_string(), |log| log.name().to_owned())
        };
        let standing = self.replica.standing();
        let state = FolderState::from_bytes(&standing.state, self.replica.mark(), HashMap::new()).ok();
        let history = |account: &AccountId| match &state {
            Some(state) => self.history_of(state, account),
            // Before the first entry.
            None => History::Full,
        };
        let member = |member: &crate::replica::MemberInfo| Member {
            history: history(&member.account),
            account: member.account,
            name: named(&member.account),
            role: member.role,
            expires_ms: member.expires_ms,
            me: member.account == me,
        };
        let mut members: Vec<_> = standing.members.iter().map(member).collect();
        members.sort_by(|one, other| (&one.name, one.account).cmp(&(&other.name, other.account)));
        members
    }
}

impl Folder {
    /// From what epoch on a member reads, as it was granted.
    fn history_of(&self, state: &FolderState, account: &AccountId) -> History {
        let Some(member) = state.members().get(account) else { return History::None };
        let Some(first) = member.since else { return if member.history { History::Full } else { History::None } };
        let began = state.began(first).unwrap_or(0);
        if began >= member.joined_seq {
            return History::None;
        }
        let began_ms = self.replica.view().log_line(began).ok().flatten().map_or(0, |line| line.created_ms);
        History::Since(began_ms)
    }
}

impl Session {
    /// The members of a folder as of its verified head, by name.
    pub fn members(&self, folder: &Folder) -> Vec<Member> {
        folder.members()
    }

    /// The member with this id or, where only one has it, this name.
    ///
    /// # Errors
    /// [`SyncError::NotTheirMember`], [`SyncError::AmbiguousMember`].
    pub fn member(&self, folder: &Folder, name_or_id: &str) -> Result<Member, SyncError> {
        let id = name_or_id.parse::<AccountId>().ok();
        let members = self.members(folder).into_iter();
        let mut found: Vec<_> = members
            .filter(|member| Some(member.account) == id || (id.is_none() && member.name == name_or_id))
            .collect();
        match (found.pop(), found.len()) {
            (None, _) => Err(SyncError::NotTheirMember { name: name_or_id.to_owned() }),
            (Some(member), 0) => Ok(member),
            (Some(_), others) => Err(SyncError::AmbiguousMember { name: name_or_id.to_owned(), count: others + 1 }),
        }
    }

    /// Makes `account` a member with full history, verified against its log, which is fetched anew.
    ///
    /// # Errors
    /// As [`Self::add_member_with`].
    pub fn add_member(&self, folder: &Arc<Folder>, account: AccountId, role: Role) -> Result<(), SyncError> {
        self.add(folder, account, role, None, History::Full)
    }

    /// Makes `account` a member that sees the folder as it is and becomes, and as much of its past as `history` says.
    /// Returns when the newcomer can begin.
    ///
    /// # Errors
    /// [`SyncError::NoSuchAccount`], [`SyncError::AlreadyMember`], [`SyncError::NotAllowed`], [`SyncError::Remote`];
    /// [`SyncError::HistoryOfRole`], [`SyncError::HistoryInFuture`], [`SyncError::HistoryBeforeFolder`];
    /// [`SyncError::AddedOnly`] where the account is a member and the state is still to be handed over.
    pub fn add_member_with(
        &self,
        folder: &Arc<Folder>,
        account: AccountId,
        role: Role,
        history: History,
    ) -> Result<(), SyncError> {
        self.add(folder, account, role, None, history)
    }

    /// Makes `account` a guest until `expires_ms`, milliseconds since 1970 UTC; without history.
    ///
    /// # Errors
    /// [`SyncError::PastExpiry`]; as [`Self::add_member_with`].
    pub fn add_guest(
        &self,
        folder: &Arc<Folder>,
        account: AccountId,
        can_edit: bool,
        expires_ms: i64,
    ) -> Result<(), SyncError> {
        let role = if can_edit { Role::GuestEditor } else { Role::GuestViewer };
        self.add(folder, account, role, Some(expires_ms), History::None)
    }

    fn add(
        &self,
        folder: &Arc<Folder>,
        account: AccountId,
        role: Role,
        expires_ms: Option<i64>,
        history: History,
    ) -> Result<(), SyncError> {
        if account == self.account() {
            return Err(SyncError::Yourself { next: "you are a member already" });
        }
        check_expiry(expires_ms)?;
        if role.administers() && history != History::Full {
            return Err(SyncError::HistoryOfRole { role });
        }
        let (inner, adding) = (Arc::clone(&self.inner), Arc::clone(folder));
        let name = self.timed(CALL_DEADLINE, "adding the member", async move {
            adding.catch_up().await?;
            let past = adding.past(history).await?;
            let newcomer = inner.shared.accounts.refresh(account).await?;
            let name = newcomer.name().to_owned();
            adding.change_membership(Change::Add { newcomer, role, expires_ms, past }).await?;
            Ok(name)
        })?;
        if history == History::Full {
            return Ok(());
        }
        let folder = Arc::clone(folder);
        let handed = self.timed(HAND_OVER, "handing over the folder's present state", async move {
            // It goes on when nobody waits any more: what was sent of it is of use then.
            let handing = tokio::spawn(async move {
                let due = folder.checkpoint_due(&*folder.verified.lock().await);
                match due {
                    Some(epoch) => folder.hand_over(epoch).await,
                    None => Ok(()),
                }
            });
            handing.await.map_err(|_| SyncError::Closed)?
        });
        handed.map_err(|error| SyncError::AddedOnly { name, error: Box::new(error) })
    }

    /// Removes a member, under a new epoch: what is written from now on is closed to them.
    ///
    /// # Errors
    /// [`SyncError::Yourself`], [`SyncError::NotTheirMember`], [`SyncError::NotAllowed`], [`SyncError::LastOwner`],
    /// [`SyncError::Remote`].
    pub fn remove_member(&self, folder: &Arc<Folder>, account: AccountId) -> Result<(), SyncError> {
        if account == self.account() {
            return Err(SyncError::Yourself { next: "to leave the folder: kegfs folder leave FOLDER" });
        }
        self.change(folder, "removing the member", Change::Remove { account })
    }

    /// Gives a member another role; `expires_ms` exactly for guests.
    ///
    /// # Errors
    /// [`SyncError::NotTheirMember`], [`SyncError::NotAllowed`], [`SyncError::LastOwner`], [`SyncError::NoHistory`],
    /// [`SyncError::PastExpiry`], [`SyncError::Remote`].
    pub fn set_role(
        &self,
        folder: &Arc<Folder>,
        account: AccountId,
        role: Role,
        expires_ms: Option<i64>,
    ) -> Result<(), SyncError> {
        check_expiry(expires_ms)?;
        self.change(folder, "changing the role", Change::SetRole { account, role, expires_ms })
    }

    /// The user leaves the folder, after what is not on the server yet had time to get there. Those who stay start a new
    /// epoch as soon as an admin's client sees it.
    ///
    /// # Errors
    /// [`SyncError::LastOwner`], [`SyncError::Remote`].
    pub fn leave(&self, folder: &Arc<Folder>) -> Result<(), SyncError> {
        if folder.writable() {
            match folder.wait_uploaded_blocking(LAST_UPLOAD) {
                // Leaving with a server that cannot be reached fails anyway.
                Ok(()) | Err(SyncError::TimedOut(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.change(folder, "leaving the folder", Change::Remove { account: self.account() })
    }

    /// Makes another member an owner too; with `step_down` the user then becomes an admin.
    ///
    /// # Errors
    /// As [`Self::set_role`].
    pub fn transfer(&self, folder: &Arc<Folder>, account: AccountId, step_down: bool) -> Result<(), SyncError> {
        if account == self.account() {
            return Err(SyncError::Yourself { next: "name another member as the owner" });
        }
        self.set_role(folder, account, Role::Owner, None)?;
        if step_down { self.set_role(folder, self.account(), Role::Admin, None) } else { Ok(()) }
    }

    /// Starts a new epoch.
    ///
    /// # Errors
    /// [`SyncError::NotAllowed`], [`SyncError::Remote`].
    pub fn rotate(&self, folder: &Arc<Folder>) -> Result<(), SyncError> {
        let folder = Arc::clone(folder);
        self.timed(CALL_DEADLINE, "changing the folder's key", async move { folder.rotate().await })
    }

    fn change(&self, folder: &Arc<Folder>, what: &'static str, change: Change) -> Result<(), SyncError> {
        let folder = Arc::clone(folder);
        self.timed(CALL_DEADLINE, what, async move { folder.change_membership(change).await })
    }
}

impl Folder {
    /// The part of the past that `history` means here.
    async fn past(&self, history: History) -> Result<Past, SyncError> {
        let since_ms = match history {
            History::Full => return Ok(Past::Full),
            History::None => return Ok(Past::None),
            History::Since(since_ms) => since_ms,
        };
        if since_ms > now_ms() {
            return Err(SyncError::HistoryInFuture);
        }
        let verified = self.verified.lock().await;
        let (mut first, mut older) = (None, false);
        for epoch in verified.state.epochs() {
            let line = self.replica.view().log_line(epoch.seq)?;
            let before = line.is_some_and(|line| line.created_ms <= since_ms);
            older |= before;
            // Of what was thinned out nobody can hand over the state: then from the next one on, not from an earlier one.
            if self.replica.moment_after(epoch.seq)? != epoch.seq {
                first = first.filter(|_| !before);
            } else if before || first.is_none() {
                first = Some(epoch.start.epoch);
            }
        }
        first.filter(|_| older).map(Past::Since).ok_or(SyncError::HistoryBeforeFolder)
    }
}

fn check_expiry(expires_ms: Option<i64>) -> Result<(), SyncError> {
    if expires_ms.is_some_and(|end| end <= now_ms()) { Err(SyncError::PastExpiry) } else { Ok(()) }
}
