//! What happened in a folder, in words.
//!
//! Must be the same whenever it is asked for: `.keg/activity` only ever grows at its end.

use super::control::ActivityInfo;
use super::output::{clock_time, harmless};
use super::retention;
use super::unlocked::role_name;
use crate::format::Role;
use crate::replica::{Activity, Happening};

/// A line of the log.
pub fn info(number: u64, activity: &Activity) -> ActivityInfo {
    ActivityInfo {
        number,
        seq: activity.seq,
        at_ms: activity.at_ms,
        account: activity.account.map(|account| account.to_string()),
        actor: activity.actor.clone(),
        kind: kind(&activity.what).to_owned(),
        warning: activity.what.is_warning(),
        text: text(&activity.what),
    }
}

/// `2026-11-23 15:04:05  alice's laptop  added bob as editor`; warnings are marked.
pub fn line(info: &ActivityInfo) -> String {
    let actor = if info.actor.is_empty() { "this machine" } else { &info.actor };
    let mark = if info.warning { "WARNING  " } else { "" };
    format!("{}  {mark}{}  {}\n", clock_time(info.at_ms), harmless(actor), harmless(&info.text))
}

/// What programs call it.
fn kind(what: &Happening) -> &'static str {
    match what {
        Happening::Created => "created",
        Happening::Added { .. } => "added",
        Happening::Removed { .. } => "removed",
        Happening::Left => "left",
        Happening::Role { .. } => "role",
        Happening::Rotated { .. } => "rotated",
        Happening::DeviceAdded { .. } => "device_added",
        Happening::DeviceRevoked { .. } => "device_revoked",
        Happening::Conflict { .. } => "conflict",
        Happening::MassChange { .. } => "mass_change",
        Happening::Misbehaviour { .. } => "misbehaviour",
        Happening::Ignored { .. } => "ignored",
        Happening::FalseLink { .. } => "false_link",
        Happening::FalseKey { .. } => "false_key",
        Happening::Thawed => "thawed",
        Happening::InDoubt { .. } => "in_doubt",
        Happening::Altered { .. } => "altered",
        Happening::FalseAccount { .. } => "false_account",
        Happening::Stalled { .. } => "stalled",
        Happening::FalseCheckpoint { .. } => "false_checkpoint",
        Happening::Retention { .. } => "retention",
        Happening::OverThinned { .. } => "over_thinned",
        Happening::ThinnedAhead { .. } => "thinned_ahead",
        Happening::ThinnedBehind { .. } => "thinned_behind",
        Happening::Invited { .. } => "invited",
        Happening::InviteCancelled { .. } => "invite_cancelled",
        Happening::InviteEnded { .. } => "invite_ended",
        Happening::ReleasedInUse { .. } => "released_in_use",
        Happening::ContentLost { .. } => "content_lost",
    }
}

fn text(what: &Happening) -> String {
    match what {
        Happening::Created => "created the folder".to_owned(),
        Happening::Added { name, role, expires_ms, reads_from, since, invite, .. } => {
            let history = match (reads_from, since) {
                (0, _) => "",
                (_, true) => ", with a part of the history",
                (_, false) => ", without the history",
            };
            let by = invite.as_ref().map_or_else(String::new, |invite| format!(", who came by the invite {invite}"));
            format!("added {name} as {}{history}{by}", as_role(*role, *expires_ms))
        }
        Happening::Removed { name, .. } => format!("removed {name}"),
        Happening::Invited { invite, role, ends_ms, expires_ms } => {
            format!(
                "made the invite {invite} for somebody as {}, good until {}",
                as_role(*role, *expires_ms),
                clock_time(*ends_ms)
            )
        }
        Happening::InviteCancelled { invite } => format!("withdrew the invite {invite}"),
        Happening::InviteEnded { invite, ends_ms } => {
            format!("nobody has used the invite {invite}, which was good until {}", clock_time(*ends_ms))
        }
        Happening::Left => "left the folder".to_owned(),
        Happening::Role { name, from, role, expires_ms, .. } if from == role => {
            format!("gave {name} another end: {}", as_role(*role, *expires_ms))
        }
        Happening::Role { name, from, role, expires_ms, .. } => {
            format!("made {name}, until then {}, {}", role_name(*from), as_role(*role, *expires_ms))
        }
        Happening::Rotated { epoch } => format!("changed the folder's key (epoch {epoch})"),
        Happening::DeviceAdded { name, .. } => format!("has a new device: {name}"),
        Happening::DeviceRevoked { name, .. } => format!("revoked a device: {name}"),
        Happening::Conflict { name, more } => {
            let more = if *more == 0 { String::new() } else { format!(", and {more} more") };
            format!("changed what somebody else had changed: {}{more}", String::from_utf8_lossy(name))
        }
        Happening::MassChange { overwritten, removed, files, since_ms } => format!(
            "overwrote {overwritten} and removed {removed} of {files} files since {}; if nobody meant to, lock that device out: kegfs member remove, or revoke the device",
            clock_time(*since_ms)
        ),
        Happening::Misbehaviour { what } => format!("the folder is frozen: {what}"),
        Happening::Ignored { reason } => format!("tried what counts for nothing: {reason}"),
        Happening::FalseLink { epoch } => format!(
            "epoch {epoch} has a false link to what is older: members who join later do not read that until an admin's client, which has the older keys, has changed the key once more; whoever began it did so on purpose"
        ),
        Happening::FalseKey { epoch } => format!(
            "the key that you were given for epoch {epoch} is not the one that the log commits to: whoever began it shut you out; tell an owner, whose next change of the key mends that"
        ),
        Happening::Thawed => "the folder goes on after you decided so".to_owned(),
        Happening::FalseCheckpoint { name, seq, what, .. } => format!(
            "{name} has signed a false state of the folder for a new member (entry {seq}): {what}; it does not count; ask {name}, and consider kegfs member remove"
        ),
        Happening::Retention { rule } => format!("changed how long the past is kept: {}", retention::words(rule)),
        Happening::OverThinned { moments } => format!(
            "wanted to take {moments} versions of the folder away that the rule keeps; they stayed: ask, and consider kegfs member remove"
        ),
        Happening::ThinnedAhead { ahead_s } => format!(
            "thinned out the past by a clock that is {} h ahead: more of it is gone than the rule says; ask, and consider kegfs member remove",
            ahead_s.div_ceil(3600)
        ),
        Happening::ThinnedBehind { behind_s, void: true } => format!(
            "wanted to thin out the past by a clock that is {} h behind what the folder's owners and admins have dated; it took \
             nothing away: ask for that clock to be set right",
            behind_s.div_ceil(3600)
        ),
        Happening::ThinnedBehind { behind_s, void: false } => format!(
            "thinned out the past by a clock that is {} h behind entries before: either that clock is wrong, and versions since then \
             are let go of earlier than the rule says, or the clock of who wrote those; ask, and set it right",
            behind_s.div_ceil(3600)
        ),
        Happening::ReleasedInUse { blobs } => format!(
            "told the server to remove {blobs} pieces of content that files or kept versions consist of: an editor's client that has \
             them sends them again; ask, and consider kegfs member remove"
        ),
        Happening::ContentLost { blobs } => format!(
            "{blobs} pieces of content that unsent work here refers to cannot be read: removed while this machine was away, or never \
             stored so that they can be opened; kegfs history shows older versions of the files"
        ),
        Happening::FalseAccount { what } => what.clone(),
        Happening::Stalled { reason } => {
            format!("the folder does not come up to date although the server is there: {reason}")
        }
        Happening::Altered { blob } => format!(
            "the server sent altered content (blob {blob}); it was thrown away, and reading that part fails until the right one comes"
        ),
        Happening::InDoubt { account, name, why } => format!(
            "{name} ({account}) is in doubt: {why}; nothing is given to this account until you decide: kegfs verify {account}"
        ),
    }
}

fn as_role(role: Role, expires_ms: Option<i64>) -> String {
    match expires_ms {
        Some(end) => format!("{} until {}", role_name(role), clock_time(end)),
        None => role_name(role).to_owned(),
    }
}
