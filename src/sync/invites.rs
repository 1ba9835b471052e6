//! Invites: making a link's public half, and what becomes of it.
//!
//! Who holds a link proves it to the admins' clients by way of the server, and the first of them that is online makes
//! the account a member, in an entry that carries the proof. Until then nobody seals a key to the newcomer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::event::Event;
use super::member::Change;
use super::session::CALL_DEADLINE;
use super::status::now_ms;
use super::{Folder, Session, SyncError};
use crate::api::{Admit, ErrorCode, Redeem};
use crate::format::{DbId, InviteKey, Redemption, Role};
use crate::keyring::{AccountLogs, InviteSecret, OpenInvite, is_proven};
use crate::sys::clock;

/// An open invite, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// Its public key; people name it by the first characters.
    pub key: InviteKey,
    /// Who made it.
    pub by: String,
    /// As what the newcomer joins.
    pub role: Role,
    /// Until when it can be used, milliseconds since 1970 UTC.
    pub ends_ms: i64,
    /// Guests: end of membership.
    pub expires_ms: Option<i64>,
}

/// What a new invite gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// As what.
    pub role: Role,
    /// Until when the link can be used, milliseconds since 1970 UTC.
    pub ends_ms: i64,
    /// Guests: end of membership.
    pub expires_ms: Option<i64>,
}

impl Session {
    /// Opens the folder to who holds the secret behind `key`, and the server to one new account with the admission code
    /// whose hash is given.
    ///
    /// # Errors
    /// [`SyncError::NotAllowed`], [`SyncError::PastExpiry`], [`SyncError::Remote`].
    pub fn invite(
        &self,
        folder: &Arc<Folder>,
        key: InviteKey,
        admission_hash: [u8; 32],
        gives: Invitation,
    ) -> Result<(), SyncError> {
        let Invitation { role, ends_ms, expires_ms } = gives;
        if ends_ms <= now_ms() || expires_ms.is_some_and(|end| end <= now_ms()) {
            return Err(SyncError::PastExpiry);
        }
        let own = folder.role().ok_or(SyncError::NotAMember)?;
        if !own.manages(role) {
            return Err(SyncError::NotAllowed { role: own, action: "invite in that role" });
        }
        let (inner, folder) = (Arc::clone(&self.inner), Arc::clone(folder));
        self.timed(CALL_DEADLINE, "making the invite", async move {
            inner.shared.remote.admit(Admit { hash: admission_hash, ends_ms, db: folder.id(), key }).await?;
            folder.change_membership(Change::Invite { key, role, ends_ms, expires_ms }).await
        })
    }

    /// The invites to a folder that can still be used, the next to end first.
    pub fn invites(&self, folder: &Arc<Folder>) -> Result<Vec<Invite>, SyncError> {
        let (inner, folder) = (Arc::clone(&self.inner), Arc::clone(folder));
        self.timed(CALL_DEADLINE, "looking for invites", async move {
            let named =
                |account| inner.shared.accounts.log(&account).map_or_else(String::new, |log| log.name().to_owned());
            let verified = folder.verified.lock().await;
            let open = verified.state.invites().iter().filter(|(_, invite)| !invite.ended_at(now_ms()));
            let one = |(key, invite): (&InviteKey, &OpenInvite)| Invite {
                key: *key,
                by: named(invite.by),
                role: invite.role,
                ends_ms: invite.ends_ms,
                expires_ms: invite.expires_ms,
            };
            let mut invites: Vec<_> = open.map(one).collect();
            invites.sort_by_key(|invite| (invite.ends_ms, invite.key));
            Ok(invites)
        })
    }

    /// Closes an invite, named by the first characters of its key; returns which it was.
    ///
    /// # Errors
    /// [`SyncError::BadInvite`], [`SyncError::NotAllowed`], [`SyncError::Remote`].
    pub fn cancel_invite(&self, folder: &Arc<Folder>, id: &str) -> Result<Invite, SyncError> {
        let wanted = id.to_ascii_lowercase();
        let named = |invite: &Invite| wanted.len() >= 4 && invite.key.to_string().starts_with(&wanted);
        let mut found = self.invites(folder)?.into_iter().filter(named);
        let (Some(invite), None) = (found.next(), found.next()) else {
            let what = format!("'{id}' names no open invite, or several; `kegfs invite FOLDER --list` shows them");
            return Err(SyncError::BadInvite(what));
        };
        let (folder, key) = (Arc::clone(folder), invite.key);
        self.timed(CALL_DEADLINE, "cancelling the invite", async move {
            folder.change_membership(Change::CancelInvite { key }).await
        })?;
        Ok(invite)
    }

    /// Proves to hold an invite to the folder `db`; true if the account is a member already.
    ///
    /// # Errors
    /// [`SyncError::BadInvite`] for one that is over, used, cancelled or unknown; [`SyncError::Remote`].
    pub fn redeem(&self, db: DbId, secret: &InviteSecret) -> Result<bool, SyncError> {
        let (inner, key) = (Arc::clone(&self.inner), secret.key());
        let own = self.timed(CALL_DEADLINE, "looking after the account", async move { inner.refresh_own().await })?;
        let redemption = Redemption { db, key, account: own.id(), account_head: own.head() };
        let (redeem, inner) = (Redeem { redemption, proof: secret.prove(&redemption) }, Arc::clone(&self.inner));
        self.timed(CALL_DEADLINE, "using the invite", async move {
            inner.shared.remote.redeem(redeem).await.map_err(|error| match error.code() {
                Some(ErrorCode::BadInvite) => SyncError::BadInvite(said(&error)),
                _ => error.into(),
            })
        })
    }

    /// Waits until the folder is there, complete up to its name; `None` when it is not yet.
    ///
    /// # Errors
    /// [`SyncError::BadInvite`] when the invite was closed meanwhile; those of [`Session::refresh`].
    pub fn wait_joined(
        &self,
        db: DbId,
        secret: &InviteSecret,
        within: Duration,
    ) -> Result<Option<Arc<Folder>>, SyncError> {
        const LOOK: Duration = Duration::from_millis(100);
        /// Between two times of asking again, which also tells when the invite was closed.
        const ASK: Duration = Duration::from_secs(5);
        let (until, mut ask) = (clock::monotonic() + within, clock::monotonic() + ASK);
        loop {
            let ready = self.folders().into_iter().find(|folder| folder.id() == db);
            if ready.is_some() {
                return Ok(ready);
            }
            let now = clock::monotonic();
            if now >= until {
                return Ok(None);
            }
            if now >= ask {
                ask = now + ASK;
                match self.redeem(db, secret) {
                    Ok(true) => self.refresh(CALL_DEADLINE)?,
                    Err(error) if !error.is_transient() => return Err(error),
                    _ => {}
                }
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// The server's words, without its code.
fn said(error: &crate::remote::RemoteError) -> String {
    match error {
        crate::remote::RemoteError::Refused(refusal) => refusal.message.clone(),
        other => other.to_string(),
    }
}

impl Folder {
    /// Makes members of those who prove to hold an open invite; true if there was one. `lies` are the claims that the
    /// user was told of already.
    pub(super) async fn let_in(self: &Arc<Self>, lies: &mut HashSet<[u8; 64]>) -> Result<bool, SyncError> {
        let (open, turn) = {
            let verified = self.verified.lock().await;
            (verified.state.invites().clone(), self.turn(&verified))
        };
        let Some(role) = self.role().filter(|role| role.administers() && self.frozen().is_none()) else {
            return Ok(false);
        };
        if open.is_empty() {
            return Ok(false);
        }
        let mut any = false;
        for redeem in self.remote.redemptions(self.id()).await? {
            let Redemption { db, key, account, account_head } = redeem.redemption;
            // Used, over, or for a role that another admin gives.
            let Some(invite) = open.get(&key).filter(|invite| !invite.ended_at(now_ms())) else { continue };
            if !role.manages(invite.role) {
                continue;
            }
            let proven = db == self.id() && is_proven(&redeem.redemption, &redeem.proof);
            let newcomer = if proven { Some(self.accounts.refresh(account).await?) } else { None };
            let Some(newcomer) = newcomer.filter(|log| log.has_head(account_head)) else {
                if lies.insert(redeem.proof) {
                    self.hub.tell(&Event::FalseRedemption { db: self.id() });
                }
                continue;
            };
            if let Err(error) = self.accounts.check_trusted(&account) {
                // Somebody under a known name, for example: the user decides first.
                tracing::warn!(db = %self.id(), %account, %error, "who holds an invite is in doubt");
                continue;
            }
            tokio::time::sleep(turn).await;
            let guest = invite.expires_ms.is_some();
            let change = Change::Redeem { newcomer, redeem: Box::new(redeem), guest };
            match self.change_membership(change).await {
                Ok(()) => {}
                Err(SyncError::AlreadyMember { .. } | SyncError::Refused(_)) => continue,
                Err(error) => return Err(error),
            }
            any = true;
            self.hub.tell(&Event::InviteUsed { db: self.id(), account });
            // What there is now, for who reads from now on.
            let due = self.checkpoint_due(&*self.verified.lock().await);
            if let Some(epoch) = due {
                self.hand_over(epoch).await?;
            }
        }
        Ok(any)
    }
}
