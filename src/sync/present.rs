//! What the newest verified entries say about the user, kept where everybody can ask without waiting.
//!
//! Must not decide what becomes of a folder that the user is no member of any more: see [`super::depart`].

use std::time::Duration;

use super::Folder;
use super::event::Event;
use super::status::now_ms;
use crate::format::{AccountId, Role};
use crate::keyring::FolderState;

/// The user in the folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    /// As what; `None`: no member (yet, or any more).
    pub role: Option<Role>,
    /// Guests: end of membership, milliseconds since 1970 UTC.
    pub expires_ms: Option<i64>,
    /// The entry that made the user a member: tells one membership from the next.
    joined_seq: u64,
    /// The log knows the account, so it was a member once.
    known: bool,
    /// Somebody has the current key who should not: an admin's client starts a new epoch.
    pub rotation_due: bool,
    /// There are open invites: somebody may have to be let in.
    pub invites: bool,
    /// Nothing of the folder is shown any more.
    departed: bool,
}

impl Present {
    pub fn of(state: &FolderState, me: &AccountId) -> Self {
        let member = state.members().get(me);
        Self {
            role: member.map(|member| member.role),
            expires_ms: member.and_then(|member| member.expires_ms),
            joined_seq: member.map_or(0, |member| member.joined_seq),
            known: state.account_head(me).is_some(),
            rotation_due: state.rotation_due(),
            invites: !state.invites().is_empty(),
            departed: false,
        }
    }

    /// The role that counts now: a guest's time ends by this machine's clock, whatever the server still says.
    pub fn role_now(&self) -> Option<Role> {
        let over = self.departed || self.expires_ms.is_some_and(|end| now_ms() > end);
        self.role.filter(|_| !over)
    }

    /// A guest whose time is over.
    pub fn is_expired(&self) -> bool {
        self.role.is_some() && self.role_now().is_none() && !self.departed
    }

    /// Until a guest's time is over.
    pub fn time_left(&self) -> Option<Duration> {
        let left_ms = self.expires_ms?.saturating_sub(now_ms()).saturating_add(1);
        Some(Duration::from_millis(left_ms.max(1).unsigned_abs()))
    }

    /// The log says that the user was a member and is none.
    fn is_former(&self) -> bool {
        self.role.is_none() && self.known
    }
}

impl Folder {
    /// Takes note of the newest entry that was applied. That the user is no member any more counts only at the log's
    /// end ([`Self::at_the_end`]): on the way there it may be said of a membership that was followed by another.
    pub(super) fn note_standing(&self, next: Present) {
        let before = *self.standing.read();
        self.duties.notify_one();
        self.locks.wake();
        if before.departed || next.role.is_none() || Self::is_another_membership(&before, &next) {
            self.standing.write().rotation_due = next.rotation_due;
            return;
        }
        *self.standing.write() = next;
        self.tell_due(before.rotation_due, next.rotation_due);
        if before.role != next.role {
            self.hub.tell(&Event::RoleChanged { db: self.id(), role: next.role });
            self.standing_changed();
        }
        if before.expires_ms != next.expires_ms {
            // The follower waits for a guest's end.
            self.follow.notify_one();
        }
        self.retry_now();
    }

    /// Everything that the server has is applied: what `now` says is so.
    pub(super) fn at_the_end(&self, now: Present) {
        let before = *self.standing.read();
        if now.is_former() || Self::is_another_membership(&before, &now) {
            self.depart();
        }
    }

    /// Nothing is shown any more; the session then takes the folder away.
    pub(super) fn depart(&self) {
        {
            let mut standing = self.standing.write();
            if standing.departed {
                return;
            }
            standing.departed = true;
        }
        self.hub.tell(&Event::RoleChanged { db: self.id(), role: None });
        self.standing_changed();
        self.note_progress();
        // Nobody listens when the session is closing; the next one finds the same.
        let _ = self.shared.departures.send(self.id());
    }

    fn is_another_membership(before: &Present, next: &Present) -> bool {
        before.role.is_some() && next.role.is_some() && before.joined_seq != next.joined_seq
    }

    fn tell_due(&self, before: bool, now: bool) {
        if now && !before {
            self.hub.tell(&Event::RotationDue { db: self.id() });
        }
    }
}
