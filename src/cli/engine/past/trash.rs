//! Removed files, and bringing one back.

use std::collections::{BTreeMap, HashMap};

use super::super::super::control::{Bytes, Listed, Restored, TrashLine};
use super::super::super::failure::{Code, Failure};
use super::super::super::paths::Paths;
use super::super::super::when;
use super::super::Engine;
use super::must_write;
use crate::format::{DeviceId, KegId, OpKind, check_name};
use crate::keg::{Node, Removed};
use crate::replica::{Basis, Later, PlannedStep, Replica, ReplicaError, RestorePlan, Step};
use crate::sync::Folder;
use std::sync::Arc;

/// What was removed with a directory: by the same device, within this time before it.
const TOGETHER_MS: i64 = 3_600_000;

/// Removed nodes read at once.
const PAGE: usize = 1024;

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
pub(super) fn list(engine: &Engine, folder: &Folder, limit: usize) -> Result<Listed<TrashLine>, Failure> {
    let gone = gone(&folder.replica, limit.saturating_add(1)).map_err(|error| engine.read_failed(error))?;
    Ok(Listed::of(gone.into_iter().map(line), limit))
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
    let mut entries: HashMap<u64, (i64, String)> = HashMap::new();
    let mut found = Vec::new();
    let mut before = None;
    // Saving by renaming makes a replaced file each time: there may be many of them for one that was removed.
    loop {
        let page = replica.removed(before, PAGE)?;
        let last = page.len() < PAGE;
        for removed in page {
            let Some(gone) = &removed.node.removed else { continue };
            before = Some((gone.stamp.seq, removed.node.ino));
            if found.len() == limit {
                return Ok(found);
            }
            if removed.replaced {
                continue;
            }
            // Removed here a moment ago and brought back since, or the other way round: the mounted view decides.
            if replica.view().node(removed.node.ino)?.is_none_or(|node| node.nlink > 0) {
                continue;
            }
            let Some(parent) = replica.view().ino_of(&gone.parent)? else { continue };
            let shown = match last_shown(replica, &removed.node, parent, gone) {
                Ok(Some(shown)) => shown,
                // From before this member's history, or thinned out meanwhile.
                Ok(None) | Err(ReplicaError::NoSuchMoment { .. } | ReplicaError::ThinnedOut { .. }) => continue,
                Err(error) => return Err(error),
            };
            let path = paths.of(replica, parent, &gone.name)?;
            let seq = gone.stamp.seq;
            let (removed_ms, author) = match entries.get(&seq) {
                Some(known) => known.clone(),
                None => {
                    let line = replica.view().log_line(seq)?;
                    let known = line.map_or_else(Default::default, |line| (line.created_ms, line.label));
                    entries.insert(seq, known.clone());
                    known
                }
            };
            found.push(Gone { path, seq, shown, removed_ms, author, node: removed.node });
        }
        if last {
            return Ok(found);
        }
    }
}

/// Brings one back under its last name or another; a directory with what was removed with it.
pub(super) fn restore(
    engine: &Engine,
    folder: &Arc<Folder>,
    name: &Bytes,
    new_name: Option<&Bytes>,
) -> Result<Restored, Failure> {
    engine.on_a_basis(folder, |basis| restore_on(engine, folder, basis, name, new_name))
}

fn restore_on(
    engine: &Engine,
    folder: &Arc<Folder>,
    basis: &Basis<'_>,
    name: &Bytes,
    new_name: Option<&Bytes>,
) -> Result<Option<Restored>, Failure> {
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
        return engine.restore(folder, &path, &before, Later::Keep, false).map(Some);
    }
    let mut plan = RestorePlan::default();
    bring(&mut plan, one, last.parent, as_name);
    let mut went_from: HashMap<(KegId, DeviceId), Vec<&Gone>> = HashMap::new();
    for other in &all {
        if let Some(removed) = &other.node.removed {
            went_from.entry((removed.parent, removed.stamp.device)).or_default().push(other);
        }
    }
    // Parents before what is in them.
    let mut inside = vec![one.node.keg];
    while let Some(directory) = inside.pop() {
        // Each directory once, whatever it says of itself.
        for other in went_from.remove(&(directory, last.stamp.device)).unwrap_or_default() {
            let Some(removed) = &other.node.removed else { continue };
            if removed.stamp.seq <= one.seq && one.removed_ms - other.removed_ms <= TOGETHER_MS {
                bring(&mut plan, other, directory, removed.name.clone());
                if other.node.is_directory() {
                    inside.push(other.node.keg);
                }
            }
        }
    }
    engine.carry_out(folder, basis, plan, one.seq.saturating_sub(1), false)
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
