//! What leads one node back that has its place: content, attributes, extended attributes.

use std::collections::{HashMap, HashSet};

use super::{Planner, Step};
use crate::format::{Extent, NodeKind, OpKind, Range};
use crate::keg::Node;
use crate::replica::ReplicaError;

/// Extents of one operation: about 450 KiB encoded, so that it fits an entry.
const OP_EXTENTS: usize = 4096;
/// Holes of one operation: at most 80 KiB encoded, beside those extents.
const OP_HOLES: usize = 4096;

impl Planner<'_> {
    /// As [`Self::settle`], telling of it.
    pub(super) fn update(&mut self, then: &Node, now: &Node, path: &[u8]) -> Result<(), ReplicaError> {
        let before = self.plan.ops.len();
        let content = self.settle(then, now)?;
        // A directory's own time is set when its names are done.
        if content {
            self.note(Step::Content, path.to_vec(), then);
        } else if self.plan.ops.len() > before {
            self.note(Step::Attributes, path.to_vec(), then);
        }
        Ok(())
    }

    /// Gives `now` content and attributes of `then`. Says whether the content was another.
    pub(super) fn settle(&mut self, then: &Node, now: &Node) -> Result<bool, ReplicaError> {
        let content = then.kind == NodeKind::File && self.content(then, now)?;
        fn new<T: PartialEq>(then: T, now: T) -> Option<T> {
            (then != now).then_some(then)
        }
        let mtime = then.mtime_ns != now.mtime_ns && !then.is_directory();
        let (mode, uid, gid) = (new(then.mode, now.mode), new(then.uid, now.uid), new(then.gid, now.gid));
        let atime_ns = new(then.atime_ns, now.atime_ns);
        if mode.is_some() || uid.is_some() || gid.is_some() || atime_ns.is_some() || mtime {
            let mtime_ns = mtime.then_some(then.mtime_ns);
            self.plan.ops.push(OpKind::SetAttr { keg: now.keg, mode, uid, gid, atime_ns, mtime_ns });
        }
        let had: HashMap<_, _> = self.past.xattrs(then.ino)?.into_iter().collect();
        let has: HashMap<_, _> = self.replica.view().xattrs(now.ino)?.into_iter().collect();
        let mut names: Vec<_> = had.keys().chain(has.keys()).collect::<HashSet<_>>().into_iter().collect();
        names.sort_unstable();
        for name in names {
            match (had.get(name), has.get(name)) {
                (then, now) if then == now => {}
                (Some(value), _) => {
                    let (name, value) = (name.clone(), value.clone());
                    self.plan.ops.push(OpKind::SetXattr { keg: now.keg, name, value });
                }
                (None, _) => self.plan.ops.push(OpKind::RemoveXattr { keg: now.keg, name: name.clone() }),
            }
        }
        Ok(content)
    }

    /// The ranges that differ, as operations.
    fn content(&mut self, then: &Node, now: &Node) -> Result<bool, ReplicaError> {
        let had = self.past.extents(then.ino, 0, u64::MAX)?;
        // Of one moment: others may write meanwhile.
        let (today, has) = if now.ino == 0 {
            (None, Vec::new())
        } else {
            let view = self.replica.view();
            (view.node(now.ino)?, view.extents(now.ino, 0, u64::MAX)?)
        };
        let now = today.as_ref().unwrap_or(now);
        let mut holes = holes(&had, &has, then.size);
        let mut same = has.iter().peekable();
        let differs = |extent: &&Extent| {
            while same.next_if(|other| other.offset < extent.offset).is_some() {}
            same.peek() != Some(extent)
        };
        let mut put: Vec<Extent> = had.iter().filter(differs).cloned().collect();
        if put.is_empty() && holes.is_empty() && then.size == now.size {
            return Ok(false);
        }
        let mut truncate = (then.size < now.size).then_some(then.size);
        if now.content.device != self.device && now.content.seq > self.seen {
            // Somebody has written since planning began. This version will stand beside that one, as a change of what was
            // before it: a change of all, whatever that was.
            (truncate, holes, put) = (Some(0), Vec::new(), had);
        }
        let (keg, size, mtime_ns) = (now.keg, then.size, then.mtime_ns);
        let (mut punched, mut placed) = (holes.chunks(OP_HOLES), put.chunks(OP_EXTENTS));
        loop {
            let (holes, extents) =
                (punched.next().unwrap_or_default().to_vec(), placed.next().unwrap_or_default().to_vec());
            // Only the first cuts: the others come after it.
            self.plan.ops.push(OpKind::Content { keg, truncate: truncate.take(), holes, extents, size, mtime_ns });
            if punched.len() == 0 && placed.len() == 0 {
                return Ok(true);
            }
        }
    }
}

/// Ranges below `size` that `has` covers and `had` does not.
fn holes(had: &[Extent], has: &[Extent], size: u64) -> Vec<Range> {
    let mut holes: Vec<Range> = Vec::new();
    let mut add = |from: u64, to: u64| {
        let to = to.min(size);
        if from >= to {
            return;
        }
        match holes.last_mut() {
            Some(last) if last.offset + last.len == from => last.len += to - from,
            _ => holes.push(Range { offset: from, len: to - from }),
        }
    };
    let mut kept = had.iter().peekable();
    for extent in has {
        let mut at = extent.offset;
        while at < extent.end() {
            while kept.next_if(|other| other.end() <= at).is_some() {}
            match kept.peek() {
                Some(next) if next.offset <= at => at = next.end(),
                Some(next) if next.offset < extent.end() => {
                    add(at, next.offset);
                    at = next.end();
                }
                _ => {
                    add(at, extent.end());
                    at = extent.end();
                }
            }
        }
    }
    holes
}
