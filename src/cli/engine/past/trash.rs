//! Removed files, and bringing one back.

use std::collections::BTreeMap;

use super::super::super::control::{Bytes, Restored, TrashLine};
use super::super::super::failure::{Code, Failure};
use super::super::super::paths::Paths;
use super::super::super::when;
use super::super::Engine;
use super::must_write;
use crate::format::{KegId, OpKind, check_name};
use crate::keg::{Node, Removed};
use crate::replica::{Later, PlannedStep, Replica, ReplicaError, RestorePlan, Step};
use crate::sync::Folder;
use std::sync::Arc;

/// What was removed with a directory: by the same device, within this time before it.
const TOGETHER_MS: i64 = 3_600_000;

/// One removed node.
struct Gone {
    node: Node,
    path: Vec<u8>,
    seq: u64,
    /// The last version that shows it.
    shown: u64,
    removed_ms: i64,
    author: String,
}

/// The latest `limit`. What was replaced by a later version is no trash: `kegfs history` has it.
pub(super) fn list(engine: &Engine, folder: &Folder, limit: usize) -> Result<Vec<TrashLine>, Failure> {
    let gone = gone(&folder.replica, limit).map_err(|error| engine.read_failed(error))?;
    Ok(gone.into_iter().map(line).collect())
}

fn line(gone: Gone) -> TrashLine {
    TrashLine {
        path: gone.path.into(),
        directory: gone.node.is_directory(),
        size: if gone.node.is_directory() { 0 } else { gone.node.size },
        removed_ms: gone.removed_ms,
        author: gone.author,
        version: when::version(gone.shown),
    }
}

/// The last version that shows the removed node, if one is left; none if it was replaced rather than removed.
fn last_shown(replica: &Replica, node: &Node, parent: u64, last: &Removed) -> Result<Option<u64>, ReplicaError> {
    let before = last.stamp.seq.saturating_sub(1);
    let shown = replica.moment_before(before)?;
    if shown == before {
        return Ok(Some(shown));
    }
    if shown == 0 || replica.at(shown)?.node(node.ino)?.is_none_or(|node| node.nlink == 0) {
        return Ok(None);
    }
    // What took its place at once may be gone from the past itself: what is under the name as soon as that can be seen?
    let after = replica.moment_after(last.stamp.seq)?;
    let replaced = replica.at(after)?.lookup(parent, &last.name)?.is_some();
    Ok(Some(shown).filter(|_| !replaced))
}

/// Removed nodes, the latest first.
fn gone(replica: &Replica, limit: usize) -> Result<Vec<Gone>, ReplicaError> {
    let mut paths = Paths::default();
    let mut found = Vec::new();
    // Saving by renaming makes a replaced file each time: there may be many of them for one that was removed.
    for removed in replica.removed(usize::MAX)? {
        if found.len() >= limit {
            break;
        }
        let Some(last) = &removed.node.removed else { continue };
        if removed.replaced {
            continue;
        }
        // Removed here a moment ago and brought back since, or the other way round: the mounted view decides.
        if replica.view().node(removed.node.ino)?.is_none_or(|node| node.nlink > 0) {
            continue;
        }
        let Some(parent) = replica.view().ino_of(&last.parent)? else { continue };
        let shown = match last_shown(replica, &removed.node, parent, last) {
            Ok(Some(shown)) => shown,
            // From before this member's history, or thinned out meanwhile.
            Ok(None) | Err(ReplicaError::NoSuchMoment { .. } | ReplicaError::ThinnedOut { .. }) => continue,
            Err(error) => return Err(error),
        };
        let path = paths.of(replica, parent, &last.name)?;
        let line = replica.view().log_line(last.stamp.seq)?;
        found.push(Gone {
            path,
            seq: last.stamp.seq,
            shown,
            removed_ms: line.as_ref().map_or(0, |line| line.created_ms),
            author: line.map_or_else(String::new, |line| line.label),
            node: removed.node,
        });
    }
    Ok(found)
}

/// Brings one back under its last name or another; a directory with what was removed with it.
pub(super) fn restore(
    engine: &Engine,
    folder: &Arc<Folder>,
    name: &Bytes,
    new_name: Option<&Bytes>,
) -> Result<Restored, Failure> {
    engine.mounts.flush_all()?;
    must_write(folder)?;
    let replica = &folder.replica;
    let failed = |error| engine.read_failed(error);
    let all = gone(replica, usize::MAX).map_err(failed)?;
    let wanted = name.as_slice();
    let matching = |gone: &&Gone| gone.path == wanted || gone.path.rsplit(|byte| *byte == b'/').next() == Some(wanted);
    let mut found: BTreeMap<&[u8], &Gone> = BTreeMap::new();
    for one in all.iter().filter(matching) {
        // The latest of one path comes first.
        found.entry(&one.path).or_insert(one);
    }
    let one = match (found.len(), found.get(wanted)) {
        (_, Some(exact)) => *exact,
        (1, None) => found.into_values().next().ok_or_else(|| none(name, folder))?,
        (0, None) => return Err(none(name, folder)),
        _ => {
            let paths: Vec<_> = found.keys().take(8).map(|path| String::from_utf8_lossy(path).into_owned()).collect();
            return Err(Failure::new(
                Code::Usage,
                format!("several removed files are called {}: {}; give the path", name.shown(), paths.join(", ")),
            ));
        }
    };
    let Some(last) = one.node.removed.clone() else { return Err(none(name, folder)) };
    let as_name = new_name.map_or(last.name.clone(), |name| name.as_slice().to_vec());
    check_name(&as_name).map_err(|error| Failure::new(Code::Usage, format!("that name cannot be given: {error}")))?;
    let parent = replica.view().node_of(&last.parent).map_err(failed)?;
    let live = parent.filter(|parent| parent.nlink > 0);
    let taken = match &live {
        Some(parent) => replica.view().lookup(parent.ino, &as_name).map_err(failed)?.is_some(),
        None => false,
    };
    if taken {
        return Err(Failure::new(
            Code::Failure,
            format!("{} exists again; give another name with --as NAME", String::from_utf8_lossy(&one.path)),
        ));
    }
    if one.seq <= folder.horizon() {
        // Members who came with the present key have never heard of it: it is made anew, as going back does.
        if new_name.is_some() {
            return Err(Failure::new(
                Code::Failure,
                format!(
                    "{} is from before the folder's key changed or its past was thinned out: bring it back without --as",
                    name.shown()
                ),
            ));
        }
        let before = when::version(one.shown);
        let path: Vec<Vec<u8>> = one.path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        return engine.restore(folder, &path, &before, Later::Keep, false);
    }
    let mut plan = RestorePlan::default();
    bring(&mut plan, one, last.parent, as_name);
    // Parents before what is in them.
    let mut inside = vec![one.node.keg];
    while let Some(directory) = inside.pop() {
        let with = |other: &&Gone| {
            let removed = other.node.removed.as_ref();
            removed.is_some_and(|removed| {
                let same = removed.parent == directory && Some(removed.stamp.device) == device_of(one);
                same && removed.stamp.seq <= one.seq && one.removed_ms - other.removed_ms <= TOGETHER_MS
            })
        };
        for other in all.iter().filter(with) {
            if let Some(removed) = &other.node.removed {
                bring(&mut plan, other, directory, removed.name.clone());
                inside.push(other.node.keg);
            }
        }
    }
    engine.carry_out(folder, plan, one.seq.saturating_sub(1), false)
}

fn device_of(gone: &Gone) -> Option<crate::format::DeviceId> {
    gone.node.removed.as_ref().map(|removed| removed.stamp.device)
}

fn bring(plan: &mut RestorePlan, gone: &Gone, parent: KegId, name: Vec<u8>) {
    plan.ops.push(OpKind::Restore { keg: gone.node.keg, parent, name });
    let size = if gone.node.is_directory() { 0 } else { gone.node.size };
    plan.steps.push(PlannedStep { step: Step::BroughtBack, path: gone.path.clone(), size });
}

fn none(name: &Bytes, folder: &Folder) -> Failure {
    Failure::new(
        Code::Failure,
        format!("{} is not among the removed files of {1}; list them: kegfs trash {1}", name.shown(), folder.name()),
    )
}
