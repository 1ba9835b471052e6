//! Changes of membership: signed on the log's newest entry, again if somebody else was faster.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::status::now_ms;
use super::verify::{Chains, Verified};
use super::{Folder, SyncError};
use crate::api::ErrorCode;
use crate::format::{AccountId, KeyBox, Membership, MembershipChange, Role, SignedEntry};
use crate::keyring::{AccountLog, Position, Reason, Verdict, grant};

/// How often a change is signed anew because the log has grown meanwhile. Each time somebody else got on.
const ATTEMPTS: usize = 16;

/// What the uploader does between two batches, for who asked for it.
pub(super) struct Command {
    pub change: Change,
    pub done: oneshot::Sender<Result<(), SyncError>>,
}

/// A wanted change.
#[derive(Clone)]
pub(super) enum Change {
    /// A new member with full history.
    Add { newcomer: Arc<AccountLog>, role: Role },
}

impl Folder {
    /// Hands the change to the uploader and waits for it.
    pub(super) async fn change_membership(&self, change: Change) -> Result<(), SyncError> {
        let (done, result) = oneshot::channel();
        self.commands.send(Command { change, done }).await.map_err(|_| SyncError::Closed)?;
        result.await.map_err(|_| SyncError::Closed)?
    }

    /// Makes the change. The caller holds `authoring`, and no own entry is on its way.
    pub(super) async fn make_change(self: &Arc<Self>, change: &Change) -> Result<(), SyncError> {
        for _ in 0..ATTEMPTS {
            self.catch_up().await?;
            let (entry, boxes, seq) = {
                let verified = self.verified.lock().await;
                let (entry, boxes) = self.sign_change(&verified, change)?;
                (entry, boxes, verified.state.head().seq + 1)
            };
            match self.remote.append(self.id(), &entry, &boxes).await {
                Ok(got) => {
                    tracing::debug!(db = %self.id(), seq, got, "membership changed");
                    return self.catch_up().await;
                }
                // Somebody was faster.
                Err(error)
                    if matches!(
                        error.code(),
                        Some(ErrorCode::StaleObserved | ErrorCode::StaleEpoch | ErrorCode::Counter)
                    ) => {}
                // Whether it was appended is unknown: the log tells. The same counter never counts twice.
                Err(error) if error.is_transient() => {
                    self.catch_up().await?;
                    if self.is_done(change).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(SyncError::TimedOut("changing the members of a busy folder"))
    }

    async fn is_done(&self, change: &Change) -> bool {
        let verified = self.verified.lock().await;
        match change {
            Change::Add { newcomer, .. } => verified.state.members().contains_key(&newcomer.id()),
        }
    }

    fn sign_change(&self, verified: &Verified, change: &Change) -> Result<(SignedEntry, Vec<KeyBox>), SyncError> {
        let (body, boxes, action) = match change {
            Change::Add { newcomer, role } => {
                if let Some(member) = verified.state.members().get(&newcomer.id()) {
                    return Err(SyncError::AlreadyMember { name: newcomer.name().to_owned(), role: member.role });
                }
                let (body, sealed) = add(verified, newcomer, *role)?;
                (body, vec![sealed], "add members")
            }
        };
        let entry = self.shared.author.membership(&self.position(verified)?, &body);
        // What every member would ignore is refused here, with the reason.
        let chains = Chains { replica: &self.replica, recent: &[] };
        let advanced = verified
            .state
            .check(&entry, &*self.accounts, &chains)
            .map_err(|error| SyncError::Damaged(error.to_string()))?;
        match advanced.verdict {
            Verdict::Ignored(Reason::NotMember) => Err(SyncError::NotAMember),
            Verdict::Ignored(Reason::Role) => match self.role() {
                Some(role) => Err(SyncError::NotAllowed { role, action }),
                None => Err(SyncError::NotAMember),
            },
            Verdict::Ignored(reason) => Err(SyncError::Refused(reason.to_string())),
            Verdict::Membership(_) | Verdict::Batch => Ok((entry, boxes)),
        }
    }

    /// Where the device's next entry goes.
    pub(super) fn position(&self, verified: &Verified) -> Result<Position, SyncError> {
        use crate::keyring::AccountLogs;
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

fn add(verified: &Verified, newcomer: &AccountLog, role: Role) -> Result<(Membership, KeyBox), SyncError> {
    let account: AccountId = newcomer.id();
    let epoch = verified.state.epochs().last().ok_or(SyncError::NotAMember)?;
    let secrets = verified.ring.epoch(epoch.start.epoch)?;
    let bad_key = |_| SyncError::Misbehaviour(format!("account {account} has an unusable key"));
    let (generation, key) = newcomer.user_key().map_err(bad_key)?;
    let (promise, sealed) = grant(secrets, &epoch.start, account, generation, &key)?;
    let change =
        MembershipChange::Add { account, account_head: newcomer.head(), role, expires_ms: None, grant: Some(promise) };
    Ok((Membership { change, new_epoch: None }, sealed))
}
