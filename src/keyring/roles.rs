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
//!
//! Guests have an expiry and never join with history; nobody else has an expiry. Admins and owners have history:
//! only with it can an epoch be started that leads back to those before.

use crate::format::{AccountId, Membership, MembershipChange, Role, limits};

use super::folder::FolderState;
use super::since::granted_len;
use super::standing::Member;
use super::verdict::Reason;

/// An owner manages everybody, an admin those below admin.
fn manages(actor: Role, target: Role) -> bool {
    match actor {
        Role::Owner => true,
        Role::Admin => target < Role::Admin,
        _ => false,
    }
}

/// A member with this expiry and history can hold the role.
fn fits(role: Role, expires_ms: Option<i64>, history: bool) -> bool {
    let guest = matches!(role, Role::GuestViewer | Role::GuestEditor);
    guest == expires_ms.is_some() && (history || !role.administers())
}

/// Checks `body` by `author`, a member, against the state before it.
pub(super) fn check(state: &FolderState, author: &AccountId, actor: &Member, body: &Membership) -> Result<(), Reason> {
    let members = state.members();
    let (change_ok, members_after) = match &body.change {
        MembershipChange::Create => return Err(Reason::BadChange),
        MembershipChange::Add { account, account_head, role, expires_ms, grant } => {
            allowed(manages(actor.role, *role))?;
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
            allowed(manages(actor.role, *role))?;
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
            allowed(leaves || manages(actor.role, target.role))?;
            (body.new_epoch.is_some() != leaves && !state.is_last_owner(account), members.len() - 1)
        }
        MembershipChange::SetRole { account, role, expires_ms } => {
            let target = members.get(account).ok_or(Reason::BadChange)?;
            allowed(manages(actor.role, target.role) && manages(actor.role, *role))?;
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
    };
    let epoch_ok = body.new_epoch.as_ref().is_none_or(|epoch| {
        epoch.epoch == state.epoch() + 1 && epoch.boxes as usize == members_after && epoch.back_link.is_some()
    });
    if change_ok && epoch_ok { Ok(()) } else { Err(Reason::BadChange) }
}

fn allowed(allowed: bool) -> Result<(), Reason> {
    if allowed { Ok(()) } else { Err(Reason::Role) }
}
