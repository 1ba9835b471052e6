//! Making operations carry what they need from before the current epoch.
//!
//! Whoever reads from an epoch on knows nothing of what was removed or overwritten before it began, and every replica does
//! with an entry what such a member's does (`keg::Context::horizon`). An operation that was made earlier, by somebody who
//! had not seen the removal or the other's version, would lose what it means. Its author has seen them by now, and puts
//! into the entry what is missing: [`OpKind::Revive`] and the content before a write to what was removed, the whole content
//! instead of a change where a conflict sibling must come of it.
//!
//! And whatever an entry refers to, it gives keys of whole chunks only: bytes beside the wanted ones are sealed anew; and
//! blobs that were released since are added again, so that the server keeps them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::reach::{self, Packer};
use super::{Folder, SyncError};
use crate::format::limits::BATCH_MAX_OPS;
use crate::format::{BlobId, BlobRef, Extent, KegId, NodeKind, Op, OpKind, encode};
use crate::keg::Node;
use crate::replica::{Happening, Pending};
use crate::sys::random;

/// Encoded bytes that operations from before the horizon may have in an entry, beside what an entry usually has.
const BYTES: usize = 64 * 1024;
/// The same where such an operation is the only one: with padding and blobs below the 1 MiB that an entry may have.
const BYTES_ALONE: usize = 832 * 1024;
/// Blobs that an entry adds again. Each may have to be fetched first.
const BLOBS: usize = 256;

/// What is to be sealed.
pub(super) struct Carried {
    /// Number of the last pending operation in it; before the first where there is none.
    pub last: u64,
    /// The operations.
    pub ops: Vec<Op>,
    /// Blobs that were sealed anew, or that were released; in the spool.
    pub adds: Vec<BlobRef>,
}

/// Makes `pending` independent of what was before `horizon`, where the current epoch began; the front of it, if all does
/// not fit. `added`: what the entry adds anyway; `gone`: blobs that the server has been found not to have. Blocks.
pub(super) fn carry(
    folder: &Arc<Folder>,
    pending: &[Pending],
    horizon: u64,
    added: &[BlobRef],
    gone: &HashSet<BlobId>,
) -> Result<Carried, SyncError> {
    Ok(walk(folder, pending, horizon, added, gone, None)?.0)
}

/// The blobs that [`carry`] would have to fetch. Fetches nothing and seals nothing.
pub(super) fn wanted(
    folder: &Arc<Folder>,
    pending: &[Pending],
    horizon: u64,
    added: &[BlobRef],
    gone: &HashSet<BlobId>,
) -> Result<Vec<BlobId>, SyncError> {
    Ok(walk(folder, pending, horizon, added, gone, Some(Vec::new()))?.1)
}

fn walk(
    folder: &Arc<Folder>,
    pending: &[Pending],
    horizon: u64,
    added: &[BlobRef],
    gone: &HashSet<BlobId>,
    rehearsal: Option<Vec<BlobId>>,
) -> Result<(Carried, Vec<BlobId>), SyncError> {
    let mut carrier = Carrier {
        folder,
        horizon,
        gone,
        rehearsal,
        ops: Vec::new(),
        bytes: 0,
        adds: Vec::new(),
        again: Vec::new(),
        known: added.iter().map(|blob| blob.id).collect(),
        lost: 0,
        revived: HashSet::new(),
        diverted: HashMap::new(),
    };
    let mut last = 0;
    for (index, Pending { number, op }) in pending.iter().enumerate() {
        let (ops, bytes, adds) = (carrier.ops.len(), carrier.bytes, carrier.adds.len());
        carrier.op(op)?;
        let most = if index == 0 { BYTES_ALONE } else { BYTES };
        if carrier.bytes > most || carrier.ops.len() > BATCH_MAX_OPS {
            carrier.ops.truncate(ops);
            carrier.adds.truncate(adds);
            carrier.bytes = bytes;
            if index > 0 {
                break;
            }
            // More than any entry can hold: as it is. What was before the horizon stays behind.
            carrier.ops.push(Op::clone(op));
        }
        carrier.add_again(ops)?;
        if carrier.again.len() > BLOBS {
            carrier.ops.truncate(ops);
            carrier.adds.truncate(adds);
            if index == 0 {
                // The server is to keep them before the operation comes, which then need not add them.
                carrier.ops.push(Op { kind: nothing(), ..Op::clone(op) });
                last = number.saturating_sub(1);
            }
            break;
        }
        last = *number;
        if carrier.bytes > BYTES {
            break;
        }
    }
    carrier.again.truncate(BLOBS);
    carrier.adds.append(&mut carrier.again);
    if carrier.lost > 0 && carrier.rehearsal.is_none() {
        folder.note_once(Happening::ContentLost { blobs: carrier.lost });
    }
    let wanted = carrier.rehearsal.unwrap_or_default();
    Ok((Carried { last, ops: carrier.ops, adds: carrier.adds }, wanted))
}

struct Carrier<'a> {
    folder: &'a Arc<Folder>,
    horizon: u64,
    /// The server does not have these.
    gone: &'a HashSet<BlobId>,
    /// It is only asked what would have to be fetched: this.
    rehearsal: Option<Vec<BlobId>>,
    ops: Vec<Op>,
    bytes: usize,
    adds: Vec<BlobRef>,
    /// Blobs that were released.
    again: Vec<BlobRef>,
    /// Blobs that need not be looked at any more.
    known: HashSet<BlobId>,
    /// Blobs that nobody has any more, and pieces that do not open.
    lost: u64,
    /// Brought back by an operation before.
    revived: HashSet<KegId>,
    /// Files of whose content an operation before has made a sibling, and the first change that it had not seen.
    diverted: HashMap<KegId, u64>,
}

impl Carrier<'_> {
    fn put(&mut self, op: Op) {
        self.bytes += encode(&op).len();
        self.ops.push(op);
    }

    /// The blob is nowhere that could be asked.
    fn is_gone(&self, id: &BlobId) -> bool {
        self.gone.contains(id) && !self.folder.local.contains(id)
    }

    /// The blob will be read.
    fn want(&mut self, id: BlobId) {
        if let Some(wanted) = &mut self.rehearsal
            && !self.gone.contains(&id)
            && !self.folder.local.contains(&id)
            && !wanted.contains(&id)
        {
            wanted.push(id);
        }
    }

    /// Adds the blobs again that the operations from this one on refer to and that were released.
    fn add_again(&mut self, from: usize) -> Result<(), SyncError> {
        let named = self.ops[from..].iter().flat_map(|op| op.kind.blobs()).filter(|id| self.known.insert(*id));
        let named: Vec<BlobId> = named.collect();
        if named.is_empty() {
            return Ok(());
        }
        for id in self.folder.replica.released(&named)? {
            if self.again.len() > BLOBS {
                break;
            }
            if self.rehearsal.is_some() {
                self.want(id);
                self.again.push(BlobRef { id, size_bytes: 0 });
                continue;
            }
            match if self.is_gone(&id) { None } else { self.folder.spool_again(&id)? } {
                Some(blob) => self.again.push(blob),
                None => self.lost += 1,
            }
        }
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<(), SyncError> {
        if op.base >= self.horizon {
            // The user had seen what was before. The usual case, at the cost of a comparison.
            let mut op = op.clone();
            if let OpKind::Content { extents, .. } = &mut op.kind
                && !extents.iter().all(Extent::is_whole)
            {
                *extents = self.whole(extents)?;
            }
            self.ops.push(op);
            return Ok(());
        }
        match &op.kind {
            OpKind::Content { keg, .. } => self.content(op, *keg)?,
            OpKind::Create { parent, .. } => {
                self.revive(op, parent)?;
                self.put(op.clone());
            }
            OpKind::Link { keg, parent, .. } | OpKind::Restore { keg, parent, .. } => {
                self.revive(op, parent)?;
                self.revive(op, keg)?;
                self.put(op.clone());
            }
            OpKind::Rename { keg, parent, name, new_parent, .. } => {
                if self.moves(keg, parent, name)? {
                    self.revive(op, new_parent)?;
                }
                self.put(op.clone());
            }
            _ => self.put(op.clone()),
        }
        Ok(())
    }

    /// A rename finds what it is about: it is in the log under that name, or comes with an operation before.
    fn moves(&self, keg: &KegId, parent: &KegId, name: &[u8]) -> Result<bool, SyncError> {
        let replica = &self.folder.replica;
        let there = match replica.sequenced_node(parent)? {
            Some(parent) => replica.sequenced_name(parent.ino, name)? == Some(*keg),
            None => false,
        };
        let placed = |op: &Op| match &op.kind {
            OpKind::Create { keg: made, .. }
            | OpKind::Link { keg: made, .. }
            | OpKind::Restore { keg: made, .. }
            | OpKind::Rename { keg: made, .. } => made == keg,
            _ => false,
        };
        Ok(there || self.ops.iter().any(placed))
    }

    /// The node, if it was removed before the horizon and nothing has brought it back.
    fn hidden(&self, keg: &KegId) -> Result<Option<Node>, SyncError> {
        let node = self.folder.replica.sequenced_node(keg)?;
        let hidden = |node: &Node| node.removed.as_ref().is_some_and(|removed| removed.stamp.seq <= self.horizon);
        Ok(node.filter(hidden).filter(|node| !self.revived.contains(&node.keg)))
    }

    /// Brings back what was removed before the horizon, with the directories above it.
    fn revive(&mut self, op: &Op, keg: &KegId) -> Result<(), SyncError> {
        let mut chain = Vec::new();
        let mut next = *keg;
        while let Some(node) = self.hidden(&next)? {
            let parent = node.removed.as_ref().map_or(KegId::ROOT, |removed| removed.parent);
            chain.push(node);
            if parent == next || chain.iter().any(|node| node.keg == parent) {
                break;
            }
            next = parent;
        }
        for node in chain.into_iter().rev() {
            self.revive_one(op, node, true)?;
        }
        Ok(())
    }

    fn revive_one(&mut self, op: &Op, node: Node, with_content: bool) -> Result<(), SyncError> {
        let Some(removed) = node.removed.clone() else { return Ok(()) };
        self.revived.insert(node.keg);
        let make = |kind: OpKind| Op { base: op.base, at_ns: op.at_ns, kind };
        self.put(make(OpKind::Revive {
            keg: node.keg,
            parent: removed.parent,
            name: removed.name,
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            rdev: node.rdev,
            target: node.target.clone(),
            btime_ns: node.btime_ns,
        }));
        for (name, value) in self.folder.replica.sequenced_xattrs(node.ino)? {
            self.put(make(OpKind::SetXattr { keg: node.keg, name, value }));
        }
        if node.kind == NodeKind::File && with_content && node.size > 0 {
            let extents = self.folder.replica.sequenced_extents(node.ino)?;
            let extents = self.whole(&extents)?;
            let (truncate, holes, size, mtime_ns) = (Some(0), vec![], node.size, node.mtime_ns);
            self.put(make(OpKind::Content { keg: node.keg, truncate, holes, extents, size, mtime_ns }));
        }
        let (atime_ns, mtime_ns) = (Some(node.atime_ns), Some(node.mtime_ns));
        self.put(make(OpKind::SetAttr { keg: node.keg, mode: None, uid: None, gid: None, atime_ns, mtime_ns }));
        Ok(())
    }

    fn content(&mut self, op: &Op, keg: KegId) -> Result<(), SyncError> {
        let OpKind::Content { truncate, holes, extents, size, mtime_ns, .. } = &op.kind else { return Ok(()) };
        let device = self.folder.device;
        let replica = &self.folder.replica;
        // As the rules do it: positions rise.
        let (mut to, mut after) = (keg, op.base);
        while let Some(redirect) = replica.sequenced_redirect(&device, &to)?.filter(|next| after < next.seq) {
            (to, after) = (redirect.to, redirect.seq);
        }
        if to != keg {
            // It is for the sibling, which somebody may have removed.
            self.revive(op, &to)?;
        }
        let diverted = self.diverted.get(&to).is_some_and(|first| op.base < *first);
        let extents = self.whole(extents)?;
        let change = |truncate: Option<u64>, holes: Vec<_>, extents: Vec<Extent>| Op {
            kind: OpKind::Content { keg, truncate, holes, extents, size: *size, mtime_ns: *mtime_ns },
            ..op.clone()
        };
        if to == keg
            && !diverted
            && let Some(node) = self.hidden(&keg)?
        {
            if let Some(removed) = &node.removed {
                self.revive(op, &removed.parent.clone())?;
            }
            self.revive_one(op, node, *truncate != Some(0))?;
        } else if !diverted && *truncate != Some(0) && !self.revived.contains(&to) {
            let node = replica.sequenced_node(&to)?;
            let unseen = node.filter(|node| node.content.seq > op.base && node.content.device != device);
            let first = match unseen {
                Some(node) => replica.first_unseen_content(node.ino, op.base, &device)?,
                None => None,
            };
            if let Some((first, (_, before))) = first {
                self.diverted.insert(to, first);
                if first <= self.horizon {
                    let mut all = lay_over(before, *truncate, holes, &extents);
                    all.retain_mut(|extent| match extent.clip(0, *size) {
                        Some(part) => {
                            *extent = part;
                            true
                        }
                        None => false,
                    });
                    let all = self.whole(&all)?;
                    self.put(change(Some(0), vec![], all));
                    return Ok(());
                }
            }
        }
        self.put(change(*truncate, holes.clone(), extents));
        Ok(())
    }

    /// The extents, those that are not their whole chunk sealed anew.
    fn whole(&mut self, extents: &[Extent]) -> Result<Vec<Extent>, SyncError> {
        let mut all = extents.to_vec();
        if self.rehearsal.is_some() {
            extents.iter().filter(|extent| !extent.is_whole()).for_each(|extent| self.want(extent.blob));
            return Ok(all);
        }
        let (mut pack, mut packed) = (Packer::default(), Vec::new());
        for (index, extent) in extents.iter().enumerate().filter(|(_, extent)| !extent.is_whole()) {
            if !pack.fits(extent.len as usize) {
                self.spool(&mut pack, &mut packed, &mut all)?;
            }
            let read = if self.is_gone(&extent.blob) { None } else { self.folder.read_if_opens(extent)? };
            match read {
                Some(bytes) => {
                    all[index] = pack.add(extent.offset, &bytes)?;
                    packed.push(index);
                }
                // So it is for everybody: no reason to keep what this user does from the others.
                None => {
                    all[index] = reach::unreadable(extent);
                    self.lost += 1;
                }
            }
        }
        self.spool(&mut pack, &mut packed, &mut all)?;
        Ok(all)
    }

    fn spool(&mut self, pack: &mut Packer, packed: &mut Vec<usize>, all: &mut [Extent]) -> Result<(), SyncError> {
        if let Some((blob, bytes)) = pack.close() {
            self.folder.local.spool(&blob.id, &bytes)?;
            self.folder.local.sync_spool(&[blob.id])?;
            packed.drain(..).for_each(|index| all[index].blob = blob.id);
            self.adds.push(blob);
        }
        Ok(())
    }
}

/// An operation that does nothing, for an entry that needs none but has one: there is no such keg.
pub(super) fn nothing() -> OpKind {
    OpKind::Unlink { keg: KegId(random::array()), parent: KegId::ROOT, name: b"-".to_vec() }
}

/// The extents of a file after a change; ascending.
fn lay_over(
    before: Vec<Extent>,
    truncate: Option<u64>,
    holes: &[crate::format::Range],
    extents: &[Extent],
) -> Vec<Extent> {
    let mut all = before;
    let mut clear = |from: u64, to: u64| {
        all = std::mem::take(&mut all)
            .into_iter()
            .flat_map(|extent| [extent.clip(0, from), extent.clip(to, u64::MAX)])
            .flatten()
            .collect();
    };
    if let Some(cut) = truncate {
        clear(cut, u64::MAX);
    }
    holes.iter().for_each(|hole| clear(hole.offset, hole.offset + hole.len));
    extents.iter().for_each(|extent| clear(extent.offset, extent.end()));
    all.extend(extents.iter().cloned());
    all.sort_unstable_by_key(|extent| extent.offset);
    all
}
