//! Bringing a file or a whole subtree back to an earlier moment: the operations that lead there from today.
//!
//! The plan goes by path. What is at the same path and of the same sort is changed in place, whatever keg it is, so that
//! a file which programs have replaced since (as most do when they save) stays one file to its readers. What is missing
//! is brought back: moved from where it is now, restored if it was removed, created anew if neither can be. What came
//! later stays unless the caller wants it removed. No content is copied: extents are shared.
//!
//! A file with several names is one file again: what was given the state of a keg once gets its other names by links. And a
//! file that has other names today does not become what another file was: the name is taken from it.
//!
//! Directories above the path are only ways to it: one that is missing is brought back, one that is there stays as it is,
//! and none is moved, since what came into it later would move too.
//!
//! The operations are ordinary ones, based on the moment at which planning began, so whoever writes meanwhile loses nothing,
//! and a restoration is undone like anything else: by restoring to the moment before it.
//!
//! Must not change anything itself: [`Replica::submit_all`] does what the plan says.

mod settle;

use std::collections::{HashMap, HashSet};

use super::ReplicaError;
use super::group::Basis;
use super::past::Past;
use super::replica::Replica;
use super::types::DirEntry;
use crate::format::{DeviceId, KegId, NodeKind, OpKind};
use crate::keg::{Node, ROOT_INO, conflict_name};

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

/// How a path is led back.
pub struct Way<'a> {
    /// What becomes of names that the earlier moment does not have.
    pub later: Later,
    /// What was removed up to this position is made anew, since not all members know it (see
    /// [`crate::keg::Context::horizon`]).
    pub horizon: u64,
    /// The time of what is done, nanoseconds since 1970 UTC.
    pub at_ns: i64,
    /// Gives ids of what is made anew.
    pub fresh: &'a dyn Fn() -> KegId,
}

impl Replica {
    /// What leads `path` (names from the root; empty: the whole folder) back to what it was at `past`. What was not there
    /// then is led back under the name that it has today, or, with [`Later::Remove`], to the name that it had, or away.
    /// `None`: it did not exist then, and stays; or exists at neither time. `basis` must be taken before.
    ///
    /// # Errors
    /// Those of reading.
    pub fn plan_restore(
        &self,
        basis: &Basis<'_>,
        past: &Past<'_>,
        path: &[Vec<u8>],
        way: &Way<'_>,
    ) -> Result<Option<RestorePlan>, ReplicaError> {
        let mut planner = Planner {
            replica: self,
            past,
            way,
            seen: basis.seq(),
            device: self.params().device,
            plan: RestorePlan::default(),
            removals: Vec::new(),
            times: Vec::new(),
            taken: HashSet::new(),
            placed: HashSet::new(),
            used: HashMap::new(),
            became: HashMap::new(),
        };
        if !planner.whole(path)? {
            return Ok(None);
        }
        planner.finish();
        Ok(Some(planner.plan))
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
    fn root() -> Self {
        Self { keg: KegId::ROOT, ino: ROOT_INO, empty: false, path: Vec::new() }
    }

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
    way: &'a Way<'a>,
    /// Content that others have changed after this position is not overwritten: the operation makes a conflict.
    seen: u64,
    device: DeviceId,
    plan: RestorePlan,
    /// Done last: what is moved away from a directory goes before the directory is removed.
    removals: Vec<OpKind>,
    /// Directories whose names are led back, with the time of today and that of then. Set when all else is done: each name
    /// that is given or taken moves the time of its directory.
    times: Vec<(KegId, Option<i64>, i64)>,
    /// Names of today that the plan moves away.
    taken: HashSet<(KegId, Vec<u8>)>,
    /// Names that the plan leaves with what belongs there.
    placed: HashSet<(KegId, Vec<u8>)>,
    /// Kegs of today that the plan has found a place for, and the keg whose state they get.
    used: HashMap<KegId, KegId>,
    /// The same from the kegs of then.
    became: HashMap<KegId, KegId>,
}

impl Planner<'_> {
    /// Says whether there was anything to lead back to.
    fn whole(&mut self, path: &[Vec<u8>]) -> Result<bool, ReplicaError> {
        if path.is_empty() {
            self.directory(ROOT_INO, &Here::root())?;
            return Ok(true);
        }
        match self.past.resolve(path.iter().map(Vec::as_slice))?.filter(|node| node.nlink > 0) {
            Some(then) => self.lead(path, &then),
            None => self.was_not_there(path),
        }
    }

    /// Leads what was at `path`, which is not the root, back to it.
    fn lead(&mut self, path: &[Vec<u8>], then: &Node) -> Result<bool, ReplicaError> {
        let Some((name, above)) = path.split_last() else { return Ok(false) };
        let (mut here, mut dir_then) = (Here::root(), ROOT_INO);
        for name in above {
            // It resolved a moment ago, and the past does not change; thinned out meanwhile, it does not exist.
            let Some(directory) = self.past.lookup(dir_then, name)? else { return Ok(false) };
            dir_then = directory.ino;
            here = self.above(name, &directory, &here)?;
        }
        if let Some(inside) = self.place(name, then, &here)? {
            self.directory(then.ino, &inside)?;
        }
        Ok(true)
    }

    /// A directory above the path, which is only there to hold it.
    fn above(&mut self, name: &[u8], then: &Node, here: &Here) -> Result<Here, ReplicaError> {
        match self.now(here, name)? {
            Some(now) if now.is_directory() => {
                self.becomes(now.keg, then.keg);
                return Ok(here.within(&now, name, false));
            }
            Some(now) => self.aside(here, name, &now)?,
            None => {}
        }
        let now = self.replica.view().node(then.ino)?;
        match now.filter(|now| now.nlink == 0 && !self.used.contains_key(&now.keg) && !self.is_hidden(now)) {
            Some(now) => self.back(name, then, &now, here),
            None => self.anew(name, then, here),
        }
    }

    /// Nothing was at the path.
    fn was_not_there(&mut self, path: &[Vec<u8>]) -> Result<bool, ReplicaError> {
        let mut ways = vec![Here::root()];
        let mut now = self.replica.view().node(ROOT_INO)?;
        for (depth, name) in path.iter().enumerate() {
            let Some(directory) = now else { return Ok(false) };
            now = self.replica.view().lookup(directory.ino, name)?;
            if let (Some(node), Some(here), true) = (&now, ways.last(), depth + 1 < path.len()) {
                ways.push(here.within(node, name, false));
            }
        }
        let (Some(now), Some(name), Some(here)) = (now, path.last(), ways.last()) else { return Ok(false) };
        // Its name then was another.
        let then = self.past.node(now.ino)?.filter(|node| node.nlink > 0);
        match (then, self.way.later) {
            (None, Later::Keep) => return Ok(false),
            (Some(then), Later::Keep) => {
                self.becomes(now.keg, then.keg);
                self.update(&then, &now, &here.path_of(name))?;
                if then.is_directory() {
                    self.directory(then.ino, &here.within(&now, name, false))?;
                }
                return Ok(true);
            }
            (then, Later::Remove) => {
                let home = then.as_ref().map_or(Ok(None), |then| self.home(then, &now, path))?;
                match (home, then) {
                    (Some(home), Some(then)) => {
                        self.lead(&home, &then)?;
                    }
                    _ => self.remove(here, name, &now)?,
                }
            }
        }
        // Directories that hold nothing else and were not there either have come with it, and go with it.
        for depth in (1..path.len()).rev() {
            let (Some(directory), Some(parent)) = (ways.get(depth), ways.get(depth - 1)) else { break };
            let was_there = self.past.resolve(path[..depth].iter().map(Vec::as_slice))?;
            if was_there.is_some_and(|node| node.nlink > 0)
                || self.replica.view().readdir(directory.ino, 0, 2)?.len() > 1
                || self.used.contains_key(&directory.keg)
            {
                break;
            }
            let (keg, name) = (directory.keg, path[depth - 1].clone());
            self.plan.steps.push(PlannedStep { step: Step::Removed, path: directory.path.clone(), size: 0 });
            self.removals.push(OpKind::Unlink { keg, parent: parent.keg, name });
        }
        Ok(true)
    }

    /// The path that something had which is at `path` today and nowhere else, where nothing is in its way there.
    fn home(&self, then: &Node, now: &Node, path: &[Vec<u8>]) -> Result<Option<Vec<Vec<u8>>>, ReplicaError> {
        /// Deeper than any path that a system call takes.
        const DEEPEST: usize = 4096;
        if !now.is_directory() && now.nlink > 1 {
            return Ok(None);
        }
        let (mut at, mut home) = (then.ino, Vec::new());
        while at != ROOT_INO {
            let Some(name) = self.past.names(at)?.into_iter().next() else { return Ok(None) };
            if home.len() == DEEPEST {
                return Ok(None);
            }
            at = name.parent_ino;
            home.push(name.name);
        }
        home.reverse();
        // Nothing moves into itself.
        if home.starts_with(path) {
            return Ok(None);
        }
        let view = self.replica.view();
        let mut ino = ROOT_INO;
        for name in &home {
            match view.lookup(ino, name)? {
                Some(node) => ino = node.ino,
                None => return Ok(Some(home)),
            }
        }
        Ok(None)
    }

    /// A keg of today gets the state that a keg had.
    fn becomes(&mut self, now: KegId, then: KegId) {
        self.used.insert(now, then);
        self.became.insert(then, now);
    }

    /// Not all members know that this removed node ever was.
    fn is_hidden(&self, now: &Node) -> bool {
        now.removed.as_ref().is_some_and(|removed| removed.stamp.seq <= self.way.horizon)
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
        if let Some(then) = self.past.node(then)? {
            // What is made anew has no inode yet, and is of the time at which it is made.
            let now = self.replica.view().node(here.ino)?.map(|now| now.mtime_ns);
            self.times.push((here.keg, now, then.mtime_ns));
        }
        Ok(())
    }

    /// What must come last.
    fn finish(&mut self) {
        self.plan.ops.append(&mut self.removals);
        let touched: HashSet<KegId> = self.plan.ops.iter().flat_map(directories).collect();
        for (keg, now, then) in self.times.drain(..) {
            if now != Some(then) || touched.contains(&keg) {
                let mtime_ns = Some(then);
                let (mode, uid, gid, atime_ns) = (None, None, None, None);
                self.plan.ops.push(OpKind::SetAttr { keg, mode, uid, gid, atime_ns, mtime_ns });
            }
        }
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
                match self.way.later {
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
        // It has got its state back under another name already.
        let there = self.became.get(&then.keg).copied().filter(|_| !then.is_directory());
        let placed = match self.now(here, name)? {
            Some(now) if there == Some(now.keg) => here.within(&now, name, false),
            Some(now) if there.is_none() && self.can_become(&now, then) => {
                self.becomes(now.keg, then.keg);
                self.update(then, &now, &path)?;
                here.within(&now, name, false)
            }
            Some(now) if same_sort(&now, then) && !now.is_directory() => {
                let (keg, parent) = (now.keg, here.keg);
                self.plan.ops.push(OpKind::Unlink { keg, parent, name: name.to_vec() });
                self.taken.insert((parent, name.to_vec()));
                self.bring(name, then, here)?
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

    /// What is at a name today can be given the state of what was there then, and nothing else changes by that.
    fn can_become(&self, now: &Node, then: &Node) -> bool {
        let own = now.keg == then.keg || now.is_directory() || now.nlink == 1;
        own && same_sort(now, then) && self.used.get(&now.keg).is_none_or(|keg| *keg == then.keg)
    }

    /// Makes room at a name that something of another sort has today.
    fn aside(&mut self, here: &Here, name: &[u8], now: &Node) -> Result<(), ReplicaError> {
        let mut attempt = 1;
        let new_name = loop {
            let new_name = conflict_name(name, "before a restore", self.way.at_ns, attempt);
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
        if let Some(there) = self.became.get(&then.keg).copied().filter(|_| !then.is_directory()) {
            self.link(there, name, here);
            self.note(Step::BroughtBack, here.path_of(name), then);
            return Ok(here.within(then, name, true));
        }
        let now = self.replica.view().node(then.ino)?;
        match now.filter(|now| !self.used.contains_key(&now.keg) && !self.is_hidden(now)) {
            Some(now) if now.nlink == 0 => self.back(name, then, &now, here),
            Some(now) => {
                match self.source(&now, then)? {
                    Some(from) => {
                        self.taken.insert(from.clone());
                        self.rename(now.keg, from, (here.keg, name.to_vec()));
                    }
                    None if now.is_directory() => return self.anew(name, then, here),
                    None => self.link(now.keg, name, here),
                }
                self.becomes(now.keg, then.keg);
                self.note(Step::MovedBack, here.path_of(name), then);
                self.settle(then, &now)?;
                Ok(here.within(&now, name, false))
            }
            None => self.anew(name, then, here),
        }
    }

    /// Brings a removed node back.
    fn back(&mut self, name: &[u8], then: &Node, now: &Node, here: &Here) -> Result<Here, ReplicaError> {
        self.becomes(now.keg, then.keg);
        self.plan.ops.push(OpKind::Restore { keg: now.keg, parent: here.keg, name: name.to_vec() });
        self.note(Step::BroughtBack, here.path_of(name), then);
        self.settle(then, now)?;
        Ok(here.within(now, name, true))
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
        let keg = (self.way.fresh)();
        self.becomes(keg, then.keg);
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
        let made = Node { keg, ino: 0, size: then.target.len() as u64, ..then.clone() };
        // Those of its making.
        let made = Node { atime_ns: self.way.at_ns, mtime_ns: self.way.at_ns, ..made };
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
}

/// Directories in which an operation of a plan gives or takes a name.
fn directories(kind: &OpKind) -> impl Iterator<Item = KegId> + use<> {
    let (one, other) = match kind {
        OpKind::Create { parent, .. }
        | OpKind::Link { parent, .. }
        | OpKind::Unlink { parent, .. }
        | OpKind::Restore { parent, .. } => (Some(*parent), None),
        OpKind::Rename { parent, new_parent, .. } => (Some(*parent), Some(*new_parent)),
        _ => (None, None),
    };
    one.into_iter().chain(other)
}

/// Something of the one sort can become the other by a change of content and attributes.
fn same_sort(now: &Node, then: &Node) -> bool {
    now.kind == then.kind && now.rdev == then.rdev && now.target == then.target
}
