//! The mode bits that are more than permissions, and who may keep them.

use crate::format::{KegId, OpKind};
use crate::keg::Node;
use crate::sys::process;

use super::Caller;

const SETUID: u16 = 0o4000;
pub(super) const SETGID: u16 = 0o2000;
const GROUP_RUNS: u16 = 0o0010;

/// The operation that sets the twelve bits and nothing else.
pub(super) fn set(keg: KegId, mode: u16) -> OpKind {
    OpKind::SetAttr { keg, mode: Some(mode), uid: None, gid: None, atime_ns: None, mtime_ns: None }
}

/// Setgid stays where chmod(2) would leave it: with root, and with who is in the group.
pub(super) fn keeps_setgid(node: &Node, caller: &Caller) -> bool {
    node.mode & SETGID == 0
        || caller.uid == 0
        || caller.gid == node.gid
        || process::groups(caller.pid).contains(&node.gid)
}

/// What cutting a file leaves of its mode: not the right to run as its owner or group. Root keeps it (`CAP_FSETID`).
///
/// The kernel's FUSE asks for that itself, as it does for writing, but for setgid without the group's right to run.
pub(super) fn after_cutting(node: &Node, caller: &Caller) -> u16 {
    if caller.uid == 0 {
        return node.mode;
    }
    let setgid = if node.mode & GROUP_RUNS == 0 && keeps_setgid(node, caller) { 0 } else { SETGID };
    node.mode & !(SETUID | setgid)
}
