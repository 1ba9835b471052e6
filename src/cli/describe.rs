//! A folder and its members in the words of the command line.
//!
//! Must not decide anything, and must not ask the server: what is known here is what is told.

use std::sync::Arc;

use super::control::{FolderInfo, FolderStatus, HistoryWanted, MemberInfo, Pending};
use super::unlocked::role_name;
use super::{activity, locks};
use crate::sync::{self, Folder, History};

/// Warnings that `status` tells; the log has all.
const WARNINGS: usize = 5;

/// A folder.
pub fn folder_info(folder: &Folder) -> FolderInfo {
    FolderInfo {
        id: folder.id().to_string(),
        name: folder.name(),
        role: folder.role().map_or("none", role_name).to_owned(),
        members: folder.replica.standing().members.len() as u64,
    }
}

/// Where it stands.
pub fn folder_status(folder: &Arc<Folder>) -> FolderStatus {
    let status = folder.status();
    let (locks, locks_local_only) = locks::known(folder);
    FolderStatus {
        locks,
        locks_local_only,
        folder: folder_info(folder),
        online: status.online,
        stale_since_ms: status.stale_since_ms,
        pending: Pending { changes: status.pending_ops, bytes: status.pending_bytes },
        frozen: status.frozen,
        rotation_due: status.rotation_due,
        expires_ms: status.expires_ms,
        last_error: status.last_error,
        complete_ms: status.complete_ms,
        undecided: status.undecided.into_iter().map(|(account, name, why)| (name, account.to_string(), why)).collect(),
        clock_behind: status.clock_behind.as_ref().map(sync::clock_behind),
        warnings: folder.unseen_warnings(WARNINGS).iter().map(|(number, line)| activity::info(*number, line)).collect(),
    }
}

/// A member.
pub fn member_info(member: &sync::Member) -> MemberInfo {
    MemberInfo {
        account: member.account.to_string(),
        name: member.name.clone(),
        role: role_name(member.role).to_owned(),
        expires_ms: member.expires_ms,
        history: match member.history {
            History::Full => HistoryWanted::Full,
            History::None => HistoryWanted::None,
            History::Since(ms) => HistoryWanted::SinceMs(ms),
        },
        me: member.me,
    }
}

/// Its members, by name.
pub fn members(folder: &Folder) -> Vec<MemberInfo> {
    folder.members().iter().map(member_info).collect()
}
