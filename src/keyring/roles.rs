//! Who may change whose membership: the rules of membership entries, as a function of the state before.
//!
//! | change | who | new epoch |
//! |---|---|---|
//! | `Add` | an owner anybody, an admin below admin; nobody present | either a grant (full history) or a new epoch (from now on) |
//! | `AddSince` | as `Add`; nobody who administers, no guest | no: a grant for the current epoch and those back to one |
//! | `Remove` of another | an owner anybody, an admin below admin; not the last owner | yes |
//! | `Remove` of oneself | every member but the last owner | no: secrets of one's own making shut nobody out |
//! | `SetRole` | as `Add`, by the old and by the new role; not the last owner | no |
//! | `Rotate` | admins and owners | yes |
//! | `AccountSync` | every member, for the own account | no |
//! | `Invite`, `CancelInvite` | as `Add`, by the role in the invite | no |
//! | `Retention` | owners | no |
//! | `Redeem` | as `Add`, by the role in the invite, with the proof of who holds it | guests yes; others a grant |
//!
//! Guests have an expiry and never join with history; nobody else has an expiry. Admins and owners have history:
//! only with it can an epoch be started that leads back to those before.

use crate::crypto::sign::VerifyingKey;
use crate::format::{Envelope, Membership, MembershipChange, Redemption, Role, limits};

use super::folder::FolderState;
use super::invite::is_proven;
use super::since::granted_len;
use super::standing::Member;
use super::verdict::Reason;

/// A member with this expiry and history can hold the role.
fn fits(role: Role, expires_ms: Option<i64>, history: bool) -> bool {
    let guest = matches!(role, Role::GuestViewer | Role::GuestEditor);
    guest == expires_ms.is_some() && (history || !role.administers())
}

/// Checks `body` by `author`, a member, against the state before it.
pub(super) fn check(state: &FolderState, envelope: &Envelope, actor: &Member, body: &Membership) -> Result<(), Reason> {
    let (author, members) = (&envelope.author, state.members());
    // Who administers may move the log's own clock; an author's clock that is behind it does not count.
    let now_ms = envelope.created_ms.max(state.clock_ms());
    let (change_ok, members_after) = match &body.change {
        MembershipChange::Create => return Err(Reason::BadChange),
        MembershipChange::Add { account, account_head, role, expires_ms, grant } => {
            allowed(actor.role.manages(*role))?;
            // An older state would have the box made to a user key that a revoked device holds.
            if state.account_head(account).is_some_and(|known| account_head.seq < known.seq) {
                return Err(Reason::AccountOutdated);
            }
            let one_key = grant.is_some() != body.new_epoch.is_some();
            // A grant opens everything before, which a guest must not.
            let grant_ok = grant.as_ref().is_none_or(|grant| grant.epoch == state.epoch() && expires_ms.is_none());
            let room = !members.contains_key(account) && members.len() < limits::MEMBERS_MAX;
            (room && one_key && grant_ok && fits(*role, *expires_ms, grant.is_some()), members.len() + 1)
        }
        MembershipChange::AddSince { account, account_head, role, first, grant, epochs } => {
            allowed(actor.role.manages(*role))?;
            if state.account_head(account).is_some_and(|known| account_head.seq < known.seq) {
                return Err(Reason::AccountOutdated);
            }
            let current = grant.epoch == state.epoch() && *first <= grant.epoch;
            let sealed_ok = current && epochs.len() == granted_len(grant.epoch - *first);
            let room = !members.contains_key(account) && members.len() < limits::MEMBERS_MAX;
            (room && sealed_ok && fits(*role, None, false) && body.new_epoch.is_none(), members.len() + 1)
        }
        MembershipChange::Remove { account } => {
            let target = members.get(account).ok_or(Reason::BadChange)?;
            let leaves = account == author;
            allowed(leaves || actor.role.manages(target.role))?;
            (body.new_epoch.is_some() != leaves && !state.is_last_owner(account), members.len() - 1)
        }
        MembershipChange::SetRole { account, role, expires_ms } => {
            let target = members.get(account).ok_or(Reason::BadChange)?;
            allowed(actor.role.manages(target.role) && actor.role.manages(*role))?;
            let keeps_owner = *role == Role::Owner || !state.is_last_owner(account);
            (keeps_owner && fits(*role, *expires_ms, target.history) && body.new_epoch.is_none(), members.len())
        }
        MembershipChange::Rotate => {
            allowed(actor.role.administers())?;
            (body.new_epoch.is_some(), members.len())
        }
        MembershipChange::AccountSync { account, head } => {
            // The head that is known is fine too: a batch may have told of it first.
            let forward = state.account_head(account).is_none_or(|known| head.seq >= known.seq);
            (account == author && forward && body.new_epoch.is_none(), members.len())
        }
        MembershipChange::Invite { key, role, ends_ms, expires_ms } => {
            allowed(actor.role.manages(*role))?;
            let new = !state.invites().contains_key(key) && state.invites().len() < limits::INVITES_MAX;
            let lasts = *ends_ms >= now_ms && expires_ms.is_none_or(|end| end >= now_ms);
            // Guests join from now on, all others with a grant.
            let fits = fits(*role, *expires_ms, expires_ms.is_none());
            (new && lasts && fits && VerifyingKey(key.0).validate().is_ok() && body.new_epoch.is_none(), members.len())
        }
        MembershipChange::CancelInvite { key } => {
            let invite = state.invites().get(key).ok_or(Reason::Invite)?;
            allowed(actor.role.manages(invite.role))?;
            (body.new_epoch.is_none(), members.len())
        }
        MembershipChange::Retention { .. } => {
            allowed(actor.role == Role::Owner)?;
            (body.new_epoch.is_none(), members.len())
        }
        MembershipChange::Redeem { key, account, account_head, proof, grant } => {
            let invite = state.invites().get(key).filter(|invite| !invite.ended_at(now_ms)).ok_or(Reason::Invite)?;
            allowed(actor.role.manages(invite.role))?;
            let statement = Redemption { db: state.db(), key: *key, account: *account, account_head: *account_head };
            if !is_proven(&statement, proof) {
                return Err(Reason::Invite);
            }
            if state.account_head(account).is_some_and(|known| account_head.seq < known.seq) {
                return Err(Reason::AccountOutdated);
            }
            let guest = invite.expires_ms.is_some();
            let granted = grant.as_ref().is_some_and(|grant| grant.epoch == state.epoch());
            let one_key =
                if guest { grant.is_none() && body.new_epoch.is_some() } else { granted && body.new_epoch.is_none() };
            let lasts = invite.expires_ms.is_none_or(|end| end >= now_ms);
            let room = !members.contains_key(account) && members.len() < limits::MEMBERS_MAX;
            (room && one_key && lasts, members.len() + 1)
        }
    };
    let epoch_ok = body.new_epoch.as_ref().is_none_or(|epoch| {
        epoch.epoch == state.epoch() + 1 && epoch.boxes as usize == members_after && epoch.back_link.is_some()
    });
    if change_ok && epoch_ok { Ok(()) } else { Err(Reason::BadChange) }
}

fn allowed(allowed: bool) -> Result<(), Reason> {
    if allowed { Ok(()) } else { Err(Reason::Role) }
}
