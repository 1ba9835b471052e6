//! Bringing a file or a whole subtree back to an earlier moment: the operations that lead there from today.
//!
//! The plan goes by path. What is at the same path and of the same sort is changed in place, whatever keg it is, so that
//! a file which programs have replaced since (as most do when they save) stays one file to its readers. What is missing
//! is brought back: moved from where it is now, restored if it was removed, created anew if neither can be. What came
//! later stays unless the caller wants it removed. No content is copied: extents are shared.
//!
//! The operations are ordinary ones, based on today, so whoever writes meanwhile loses nothing, and a restoration is
//! undone like anything else: by restoring to the moment before it.
//!
//! Must not change anything itself: [`Replica::submit_all`] does what the plan says.

use std::collections::{HashMap, HashSet};

use super::ReplicaError;
use super::layer::Fresh;
use super::past::Past;
use super::replica::Replica;
use super::types::{Change, DirEntry};
use crate::format::{Extent, KegId, NodeKind, Op, OpKind, Range};
use crate::keg::{Applied, Node, ROOT_INO, conflict_name};

/// Extents of one operation: about 450 KiB encoded, so that it fits an entry.
const OP_EXTENTS: usize = 4096;
/// Names read at once.
const PAGE: usize = 4096;

/// What becomes of names that the earlier moment does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// They stay.
    Keep,
    /// They are removed.
    Remove,
}

/// What is done to one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was removed, and comes back.
    BroughtBack,
    /// It is moved back from another path.
    MovedBack,
    /// It is made anew with the content that it had.
    MadeAnew,
    /// It gets the content that it had.
    Content,
    /// It gets the attributes that it had.
    Attributes,
    /// Something of another sort is there now, which is moved aside.
    Aside,
    /// It came later, and is removed.
    Removed,
}

/// One line of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStep {
    /// What is done.
    pub step: Step,
    /// To which path, from the root of the folder.
    pub path: Vec<u8>,
    /// Length of a file then, in bytes.
    pub size: u64,
}

/// What leads back.
#[derive(Clone, Debug, Default)]
pub struct RestorePlan {
    /// The operations, in order.
    pub ops: Vec<OpKind>,
    /// The same for people.
    pub steps: Vec<PlannedStep>,
    /// Names that came later and stay.
    pub kept_later: u64,
}

impl Replica {
    /// What leads `path` (names from the root; empty: the whole folder) back to what it was at `past`. What was removed up to
    /// `horizon` is made anew, since not all members know it (see [`crate::keg::Context::horizon`]); `fresh` gives the ids.
    /// `None`: it did not exist then.
    ///
    /// # Errors
    /// Those of reading.
    pub fn plan_restore(
        &self,
        past: &Past<'_>,
        path: &[Vec<u8>],
        later: Later,
        horizon: u64,
        at_ns: i64,
        fresh: &dyn Fn() -> KegId,
    ) -> Result<Option<RestorePlan>, ReplicaError> {
        let mut planner = Planner {
            replica: self,
            past,
            later,
            horizon,
            at_ns,
            fresh,
            plan: RestorePlan::default(),
            removals: Vec::new(),
            taken: HashSet::new(),
            placed: HashSet::new(),
            used: HashMap::new(),
        };
        if !planner.whole(path)? {
            return Ok(None);
        }
        let Planner { mut plan, removals, .. } = planner;
        plan.ops.extend(removals);
        Ok(Some(plan))
    }

    /// Does several things at `at_ns`, one after the other, with nothing else in between: they go into the queue together,
    /// and into as few entries as their size allows. Callbacks are told of the changes, since no kernel has asked for them.
    ///
    /// # Errors
    /// As [`Replica::submit`]. Of the format's limits before anything is done; else what was done before it stays.
    pub fn submit_all(&self, kinds: Vec<OpKind>, at_ns: i64) -> Result<(), ReplicaError> {
        let shared = self.shared();
        shared.journal_works()?;
        let mut changes = Vec::new();
        let mut result = Ok(());
        {
            let mut state = shared.state.write();
            if state.closed {
                return Err(ReplicaError::Closed);
            }
            let base = state.head.seq;
            let ops: Vec<Op> = kinds.into_iter().map(|kind| Op { base, at_ns, kind }).collect();
            ops.iter().try_for_each(Op::check)?;
            let tools = shared.tools();
            for op in ops {
                let names = names_of(&op.kind);
                let (content, attr) = match &op.kind {
                    OpKind::Content { keg, .. } => (Some(*keg), None),
                    OpKind::SetAttr { keg, .. }
                    | OpKind::SetXattr { keg, .. }
                    | OpKind::RemoveXattr { keg, .. }
                    | OpKind::Link { keg, .. } => (None, Some(*keg)),
                    _ => (None, None),
                };
                let applied = match state.submit(&tools, op, &Fresh) {
                    Ok((_, applied)) => applied,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                };
                let number = |keg: &KegId| match state.overlay.nodes.get(keg) {
                    Some(row) => Ok(Some(row.node.ino)),
                    None => tools.base.node(keg).map(|row| row.map(|row| row.node.ino)),
                };
                if let Some(keg) = content {
                    changes.extend(number(&keg)?.map(Change::Content));
                }
                if let Some(keg) = attr {
                    changes.extend(number(&keg)?.map(Change::Attr));
                }
                for (parent, mut name) in names {
                    let Some(parent_ino) = number(&parent)? else { continue };
                    changes.push(Change::Attr(parent_ino));
                    changes.push(Change::Entry { parent_ino, name: name.clone(), child: None });
                    if let Applied::Renamed(other) = &applied {
                        name.clone_from(other);
                        changes.push(Change::Entry { parent_ino, name, child: None });
                    }
                }
            }
        }
        shared.signal.wake();
        shared.notify_change(&changes);
        result
    }
}

/// Names that an operation gives or takes.
fn names_of(kind: &OpKind) -> Vec<(KegId, Vec<u8>)> {
    match kind {
        OpKind::Create { parent, name, .. }
        | OpKind::Link { parent, name, .. }
        | OpKind::Unlink { parent, name, .. }
        | OpKind::Restore { parent, name, .. } => vec![(*parent, name.clone())],
        OpKind::Rename { parent, name, new_parent, new_name, .. } => {
            vec![(*parent, name.clone()), (*new_parent, new_name.clone())]
        }
        _ => Vec::new(),
    }
}

/// A directory as it is today, or will be.
#[derive(Clone)]
struct Here {
    keg: KegId,
    ino: u64,
    /// It is empty: it was brought back or made by the plan.
    empty: bool,
    path: Vec<u8>,
}

impl Here {
    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, b"/".as_slice(), name].concat() }
    }

    fn within(&self, node: &Node, name: &[u8], empty: bool) -> Self {
        Self { keg: node.keg, ino: node.ino, empty, path: self.path_of(name) }
    }
}

struct Planner<'a> {
    replica: &'a Replica,
    past: &'a Past<'a>,
    later: Later,
    horizon: u64,
    at_ns: i64,
    fresh: &'a dyn Fn() -> KegId,
    plan: RestorePlan,
    /// Done last: what is moved away from a directory goes before the directory is removed.
    removals: Vec<OpKind>,
    /// Names of today that the plan moves away.
    taken: HashSet<(KegId, Vec<u8>)>,
    /// Names that the plan leaves with what belongs there.
    placed: HashSet<(KegId, Vec<u8>)>,
    /// Kegs of today that the plan has found a place for; `true`: as what they were then.
    used: HashMap<KegId, bool>,
}

impl Planner<'_> {
    /// Says whether there was anything to lead back to.
    fn whole(&mut self, path: &[Vec<u8>]) -> Result<bool, ReplicaError> {
        let root = Here { keg: KegId::ROOT, ino: ROOT_INO, empty: false, path: Vec::new() };
        let Some((name, above)) = path.split_last() else {
            self.directory(ROOT_INO, &root)?;
            return Ok(true);
        };
        if let Some(then) = self.past.resolve(path.iter().map(Vec::as_slice))?.filter(|node| node.nlink > 0) {
            let mut here = root;
            let mut dir_then = ROOT_INO;
            for name in above {
                // It resolved a moment ago, and the past does not change; thinned out meanwhile, it does not exist.
                let Some(directory) = self.past.lookup(dir_then, name)? else { return Ok(false) };
                dir_then = directory.ino;
                here = match self.place(name, &directory, &here)? {
                    Some(next) => next,
                    None => return Ok(false),
                };
            }
            if let Some(inside) = self.place(name, &then, &here)? {
                self.directory(then.ino, &inside)?;
            }
            return Ok(true);
        }
        // Its name then was another.
        let mut here = root;
        let mut now = self.replica.view().node(ROOT_INO)?;
        for (depth, name) in path.iter().enumerate() {
            let Some(directory) = now else { return Ok(false) };
            now = self.replica.view().lookup(directory.ino, name)?;
            if let (Some(node), true) = (&now, depth + 1 < path.len()) {
                here = here.within(node, name, false);
            }
        }
        let Some(now) = now else { return Ok(false) };
        let Some(then) = self.past.node(now.ino)?.filter(|node| node.nlink > 0) else { return Ok(false) };
        self.used.insert(now.keg, true);
        self.update(&then, &now, &here.path_of(name))?;
        if then.is_directory() {
            self.directory(then.ino, &here.within(&now, name, false))?;
        }
        Ok(true)
    }

    /// Leads the names of the directory `here` back to those that `then` had.
    fn directory(&mut self, then: u64, here: &Here) -> Result<(), ReplicaError> {
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        let mut names = HashSet::new();
        let mut after = 0;
        loop {
            let page = self.past.readdir(then, after, PAGE)?;
            after = page.last().map_or(after, |entry| entry.cookie);
            let last = page.len() < PAGE;
            for entry in page {
                names.insert(entry.name.clone());
                let now = self.now(here, &entry.name)?;
                if now.is_some() { there.push(entry) } else { missing.push(entry) }
            }
            if last {
                break;
            }
        }
        // What is missing may be somewhere under a name at which something else was: it goes first.
        for DirEntry { name, node, .. } in missing.into_iter().chain(there) {
            if let Some(inside) = self.place(&name, &node, here)? {
                self.directory(node.ino, &inside)?;
            }
        }
        if !here.empty {
            self.later_names(here, &names)?;
        }
        // Placing names has moved the time of the directory.
        if let (Some(then), Some(now)) = (self.past.node(then)?, self.replica.view().node(here.ino)?)
            && (here.empty || now.mtime_ns != then.mtime_ns)
        {
            self.plan.ops.push(OpKind::SetAttr {
                keg: here.keg,
                mode: None,
                uid: None,
                gid: None,
                atime_ns: None,
                mtime_ns: Some(then.mtime_ns),
            });
        }
        Ok(())
    }

    fn later_names(&mut self, here: &Here, names: &HashSet<Vec<u8>>) -> Result<(), ReplicaError> {
        let mut after = 0;
        loop {
            let page = self.replica.view().readdir(here.ino, after, PAGE)?;
            after = page.last().map_or(after, |entry| entry.cookie);
            let last = page.len() < PAGE;
            for entry in page {
                let key = (here.keg, entry.name.clone());
                if names.contains(&entry.name) || self.taken.contains(&key) || self.placed.contains(&key) {
                    continue;
                }
                match self.later {
                    Later::Keep => self.plan.kept_later += 1,
                    Later::Remove => self.remove(here, &entry.name, &entry.node)?,
                }
            }
            if last {
                return Ok(());
            }
        }
    }

    fn remove(&mut self, here: &Here, name: &[u8], node: &Node) -> Result<(), ReplicaError> {
        if node.is_directory() {
            let inside = here.within(node, name, false);
            let mut after = 0;
            loop {
                let page = self.replica.view().readdir(node.ino, after, PAGE)?;
                after = page.last().map_or(after, |entry| entry.cookie);
                let last = page.len() < PAGE;
                for entry in page {
                    if !self.taken.contains(&(node.keg, entry.name.clone())) {
                        self.remove(&inside, &entry.name, &entry.node)?;
                    }
                }
                if last {
                    break;
                }
            }
        }
        self.note(Step::Removed, here.path_of(name), node);
        self.removals.push(OpKind::Unlink { keg: node.keg, parent: here.keg, name: name.to_vec() });
        Ok(())
    }

    /// Has `name` in `here` name what it named then. Returns the directory to go on in, if it is one.
    fn place(&mut self, name: &[u8], then: &Node, here: &Here) -> Result<Option<Here>, ReplicaError> {
        let path = here.path_of(name);
        let placed = match self.now(here, name)? {
            Some(now) if same_sort(&now, then) => {
                self.used.insert(now.keg, now.keg == then.keg);
                self.update(then, &now, &path)?;
                here.within(&now, name, false)
            }
            Some(now) => {
                self.aside(here, name, &now)?;
                self.bring(name, then, here)?
            }
            None => self.bring(name, then, here)?,
        };
        self.placed.insert((here.keg, name.to_vec()));
        Ok(then.is_directory().then_some(placed))
    }

    /// Makes room at a name that something of another sort has today.
    fn aside(&mut self, here: &Here, name: &[u8], now: &Node) -> Result<(), ReplicaError> {
        let mut attempt = 1;
        let new_name = loop {
            let new_name = conflict_name(name, "before a restore", self.at_ns, attempt);
            let free = self.replica.view().lookup(here.ino, &new_name)?.is_none()
                && self.past.lookup(here.ino, &new_name)?.is_none();
            if free && self.placed.insert((here.keg, new_name.clone())) {
                break new_name;
            }
            attempt += 1;
        };
        self.note(Step::Aside, here.path_of(name), now);
        self.taken.insert((here.keg, name.to_vec()));
        self.rename(now.keg, (here.keg, name.to_vec()), (here.keg, new_name));
        Ok(())
    }

    /// Brings what was under a name then to the name, which is free.
    fn bring(&mut self, name: &[u8], then: &Node, here: &Here) -> Result<Here, ReplicaError> {
        let path = here.path_of(name);
        let now = self.replica.view().node(then.ino)?;
        let free = now.filter(|now| !self.used.contains_key(&now.keg));
        match (free, self.used.get(&then.keg)) {
            (Some(now), _) if now.removed.as_ref().is_some_and(|removed| removed.stamp.seq <= self.horizon) => {
                self.anew(name, then, here)
            }
            (Some(now), _) if now.nlink == 0 => {
                self.used.insert(now.keg, true);
                self.plan.ops.push(OpKind::Restore { keg: now.keg, parent: here.keg, name: name.to_vec() });
                self.note(Step::BroughtBack, path.clone(), then);
                self.settle(then, &now)?;
                Ok(here.within(&now, name, true))
            }
            (Some(now), _) => {
                let from = self.source(&now, then)?;
                self.used.insert(now.keg, true);
                match from {
                    Some(from) => {
                        self.taken.insert(from.clone());
                        self.rename(now.keg, from, (here.keg, name.to_vec()));
                    }
                    None if now.is_directory() => return self.anew(name, then, here),
                    None => self.link(now.keg, name, here),
                }
                self.note(Step::MovedBack, path.clone(), then);
                self.settle(then, &now)?;
                Ok(here.within(&now, name, false))
            }
            (None, Some(true)) if !then.is_directory() => {
                self.link(then.keg, name, here);
                self.note(Step::BroughtBack, path, then);
                Ok(here.within(then, name, true))
            }
            _ => self.anew(name, then, here),
        }
    }

    /// The name of today that a keg is moved from: of several, one at which it was not then.
    fn source(&self, now: &Node, then: &Node) -> Result<Option<(KegId, Vec<u8>)>, ReplicaError> {
        let names = self.replica.view().names(now.ino)?;
        let only = names.len() == 1;
        for one in names {
            let key = (one.parent, one.name);
            let stays = !now.is_directory()
                && !only
                && self.past.lookup(one.parent_ino, &key.1)?.is_some_and(|node| node.keg == then.keg);
            if !stays && !self.taken.contains(&key) && !self.placed.contains(&key) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    fn anew(&mut self, name: &[u8], then: &Node, here: &Here) -> Result<Here, ReplicaError> {
        let keg = (self.fresh)();
        self.used.insert(keg, true);
        self.plan.ops.push(OpKind::Create {
            keg,
            parent: here.keg,
            name: name.to_vec(),
            kind: then.kind,
            mode: then.mode,
            uid: then.uid,
            gid: then.gid,
            rdev: then.rdev,
            target: then.target.clone(),
        });
        self.note(Step::MadeAnew, here.path_of(name), then);
        // No inode has this number.
        let made = Node { keg, ino: 0, size: then.target.len() as u64, mtime_ns: self.at_ns, ..then.clone() };
        self.settle(then, &made)?;
        Ok(here.within(&made, name, true))
    }

    fn link(&mut self, keg: KegId, name: &[u8], here: &Here) {
        self.plan.ops.push(OpKind::Link { keg, parent: here.keg, name: name.to_vec() });
    }

    fn rename(&mut self, keg: KegId, from: (KegId, Vec<u8>), to: (KegId, Vec<u8>)) {
        let ((parent, name), (new_parent, new_name)) = (from, to);
        let kind = OpKind::Rename { keg, parent, name, new_parent, new_name, target: None, exchange: false };
        self.plan.ops.push(kind);
    }

    fn note(&mut self, step: Step, path: Vec<u8>, node: &Node) {
        let size = if node.kind == NodeKind::File { node.size } else { 0 };
        self.plan.steps.push(PlannedStep { step, path, size });
    }

    /// What `here` has under a name today, as far as the plan has not moved it.
    fn now(&self, here: &Here, name: &[u8]) -> Result<Option<Node>, ReplicaError> {
        if here.empty || self.taken.contains(&(here.keg, name.to_vec())) {
            return Ok(None);
        }
        self.replica.view().lookup(here.ino, name)
    }

    /// As [`Self::settle`], telling of it.
    fn update(&mut self, then: &Node, now: &Node, path: &[u8]) -> Result<(), ReplicaError> {
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
    fn settle(&mut self, then: &Node, now: &Node) -> Result<bool, ReplicaError> {
        let content = then.kind == NodeKind::File && self.content(then, now)?;
        let new = |then, now| (then != now).then_some(then);
        let mtime = then.mtime_ns != now.mtime_ns && !then.is_directory();
        let (mode, uid, gid) =
            (new(u32::from(then.mode), u32::from(now.mode)), new(then.uid, now.uid), new(then.gid, now.gid));
        if mode.is_some() || uid.is_some() || gid.is_some() || mtime {
            let mode = mode.is_some().then_some(then.mode);
            let mtime_ns = mtime.then_some(then.mtime_ns);
            self.plan.ops.push(OpKind::SetAttr { keg: now.keg, mode, uid, gid, atime_ns: None, mtime_ns });
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
        let has = if now.ino == 0 { Vec::new() } else { self.replica.view().extents(now.ino, 0, u64::MAX)? };
        let holes = holes(&had, &has, then.size);
        let mut same = has.iter().peekable();
        let put: Vec<Extent> = had
            .into_iter()
            .filter(|extent| {
                while same.next_if(|other| other.offset < extent.offset).is_some() {}
                same.peek() != Some(&extent)
            })
            .collect();
        if put.is_empty() && holes.is_empty() && then.size == now.size {
            return Ok(false);
        }
        let truncate = (then.size < now.size).then_some(then.size);
        let mut parts = put.chunks(OP_EXTENTS);
        let first = parts.next().unwrap_or_default().to_vec();
        let (keg, size, mtime_ns) = (now.keg, then.size, then.mtime_ns);
        self.plan.ops.push(OpKind::Content { keg, truncate, holes, extents: first, size, mtime_ns });
        for part in parts {
            let extents = part.to_vec();
            self.plan.ops.push(OpKind::Content { keg, truncate: None, holes: Vec::new(), extents, size, mtime_ns });
        }
        Ok(true)
    }
}

/// Something of the one sort can become the other by a change of content and attributes.
fn same_sort(now: &Node, then: &Node) -> bool {
    now.kind == then.kind && now.rdev == then.rdev && now.target == then.target
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
