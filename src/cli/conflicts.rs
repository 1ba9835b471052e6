//! Versions that conflicts have set beside others, in the words of the command line and of `.keg/conflicts`.
//!
//! What is a conflict is known from the log: the name that somebody asked for and did not get.

use super::control::ConflictLine;
use super::paths::Paths;
use crate::replica::{ConflictName, ReplicaError};
use crate::sync::Folder;

/// Conflicts of a folder, as far as the mounted view still shows them.
pub fn of(folder: &Folder) -> Result<Vec<(ConflictName, ConflictLine)>, ReplicaError> {
    let replica = &folder.replica;
    let mut paths = Paths::default();
    let mut found = Vec::new();
    for conflict in replica.conflicts()? {
        let now = replica.view().lookup(conflict.parent_ino, &conflict.name)?;
        if now.as_ref().is_none_or(|node| node.keg != conflict.node.keg) {
            continue;
        }
        let at_ms = replica.view().log_line(conflict.seq)?.map_or(0, |line| line.created_ms);
        let author = folder.label(&conflict.device).unwrap_or_default();
        let line = ConflictLine {
            folder: folder.name(),
            path: paths.of(replica, conflict.parent_ino, &conflict.name)?.into(),
            original: paths.of(replica, conflict.parent_ino, &conflict.wanted)?.into(),
            author,
            at_ms,
            kind: if conflict.sibling { "content" } else { "name" }.to_owned(),
            size: if conflict.node.is_directory() { 0 } else { now.map_or(0, |node| node.size) },
            directory: conflict.node.is_directory(),
        };
        found.push((conflict, line));
    }
    Ok(found)
}
