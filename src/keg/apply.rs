//! The rules: what each operation does to a tree in which others may have acted meanwhile (DESIGN §2).

use crate::format::{DeviceId, KegId, NodeKind, Op, OpKind};

use super::conflict::conflict_name;
use super::content;
use super::{Dentry, KEG_DIR, Node, Removed, Stamp, Store};

/// Whose operation is applied, and where in the log.
#[derive(Clone, Debug)]
pub struct Context {
    /// Position of the batch, or [`super::PENDING_SEQ`].
    pub seq: u64,
    /// The author's device.
    pub device: DeviceId,
    /// `alice's laptop`: how conflict names call the author.
    pub label: String,
    /// What was removed, and what a file contained, up to this position is not there for the operation: the position at
    /// which the epoch of its entry began, so that a member who reads from an epoch on comes to the same as one who has
    /// read everything. 0 for pending work, and for entries of suite 1. An author who means something from before puts it
    /// into the entry: see [`OpKind::Revive`].
    pub horizon: u64,
    /// Suite of the entry; for pending work the one that it will be written in.
    pub suite: u16,
}

impl Context {
    /// The stamp of changes made here.
    pub fn stamp(&self) -> Stamp {
        Stamp { seq: self.seq, device: self.device }
    }

    /// What an author goes on doing to a version that lost is for that version: extended attributes too, and where it has
    /// lost again. Logs of suite 1 have been applied without that.
    pub(super) fn parts_versions(&self) -> bool {
        self.suite >= 2
    }

    /// A conflict name stands for the wanted one in what its own author did before having seen it. Logs of suite 1 have
    /// been applied with anybody's standing for it, for ever.
    fn finds_own(&self) -> bool {
        self.suite >= 2
    }

    /// The node was removed before the horizon.
    pub(super) fn hides(&self, node: &Node) -> bool {
        node.removed.as_ref().is_some_and(|removed| removed.stamp.seq <= self.horizon)
    }

    /// `stamp` is by someone else and later than what an operation with `base` has seen.
    pub(super) fn unseen(&self, stamp: &Stamp, base: u64) -> bool {
        stamp.seq > base && stamp.device != self.device
    }
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It did what was asked.
    Done,
    /// It did what was asked, under another name, since the name was taken meanwhile.
    Renamed(Vec<u8>),
    /// The content had changed meanwhile; this version lives on as the sibling with this id.
    Sibling(KegId),
    /// It did what was asked to a file or in a directory that someone else had removed, and which is back now.
    Restored,
    /// Someone else's change made it void; nothing is lost by that.
    Nothing,
}

/// Applies one operation. Deterministic: depends on the store, the context and the operation only.
pub fn apply<S: Store>(store: &mut S, context: &Context, op: &Op) -> Result<Applied, S::Error> {
    let mut tree = Tree { store, context, base: op.base, at_ns: op.at_ns };
    match &op.kind {
        OpKind::Create { keg, parent, name, kind, mode, uid, gid, rdev, target } => {
            let node = Node {
                keg: *keg,
                ino: 0,
                kind: *kind,
                mode: *mode,
                uid: *uid,
                gid: *gid,
                rdev: *rdev,
                nlink: if *kind == NodeKind::Directory { 2 } else { 1 },
                size: target.len() as u64,
                allocated: 0,
                atime_ns: op.at_ns,
                mtime_ns: op.at_ns,
                ctime_ns: op.at_ns,
                btime_ns: op.at_ns,
                target: target.clone(),
                content: context.stamp(),
                removed: None,
            };
            tree.create(node, parent, name)
        }
        OpKind::Link { keg, parent, name } => tree.link(keg, parent, name),
        OpKind::Unlink { keg, parent, name } => tree.unlink(keg, parent, name),
        OpKind::Rename { keg, parent, name, new_parent, new_name, target, exchange } => {
            let Some(from) = tree.find(parent, name, keg)? else { return Ok(Applied::Nothing) };
            if *exchange {
                tree.exchange(from, new_parent, new_name, *target)
            } else {
                tree.rename(from, new_parent, new_name, *target)
            }
        }
        OpKind::SetAttr { keg, mode, uid, gid, atime_ns, mtime_ns } => {
            let keg = content::redirected(tree.store, context, keg, op.base)?;
            let Some(mut node) = tree.node(&keg)? else { return Ok(Applied::Nothing) };
            node.mode = mode.unwrap_or(node.mode);
            node.uid = uid.unwrap_or(node.uid);
            node.gid = gid.unwrap_or(node.gid);
            node.atime_ns = atime_ns.unwrap_or(node.atime_ns);
            node.mtime_ns = mtime_ns.unwrap_or(node.mtime_ns);
            node.ctime_ns = op.at_ns;
            tree.store.put_node(node)?;
            tree.store.note_attributes(&keg, context.stamp())?;
            Ok(Applied::Done)
        }
        OpKind::SetXattr { keg, name, value } => tree.xattr(keg, name, Some(value)),
        OpKind::RemoveXattr { keg, name } => tree.xattr(keg, name, None),
        OpKind::Content { keg, truncate, holes, extents, size, mtime_ns } => {
            let change = content::Change { truncate: *truncate, holes, extents, size: *size, mtime_ns: *mtime_ns };
            tree.content(keg, &change)
        }
        OpKind::Revive { keg, parent, name, kind, mode, uid, gid, rdev, target, btime_ns } => {
            let node = Node {
                keg: *keg,
                ino: 0,
                kind: *kind,
                mode: *mode,
                uid: *uid,
                gid: *gid,
                rdev: *rdev,
                nlink: if *kind == NodeKind::Directory { 2 } else { 1 },
                size: target.len() as u64,
                allocated: 0,
                atime_ns: op.at_ns,
                mtime_ns: op.at_ns,
                ctime_ns: op.at_ns,
                btime_ns: *btime_ns,
                target: target.clone(),
                content: context.stamp(),
                removed: None,
            };
            tree.revive(node, parent, name)
        }
        OpKind::FolderName { name } => {
            tree.store.set_folder_name(name)?;
            Ok(Applied::Done)
        }
        OpKind::Restore { keg, parent, name } => tree.bring_back(keg, parent, name),
    }
}

/// One operation at work on a store.
pub(super) struct Tree<'a, S: Store> {
    pub(super) store: &'a mut S,
    pub(super) context: &'a Context,
    pub(super) base: u64,
    pub(super) at_ns: i64,
}

impl<S: Store> Tree<'_, S> {
    fn create(&mut self, mut node: Node, parent: &KegId, name: &[u8]) -> Result<Applied, S::Error> {
        if self.store.node(&node.keg)?.is_some() {
            return Ok(Applied::Nothing);
        }
        let Some(parent) = self.live_directory(parent)? else { return Ok(Applied::Nothing) };
        node.ino = self.store.allocate()?;
        let (keg, cookie, directory) = (node.keg, node.ino, node.is_directory());
        self.store.put_node(node)?;
        self.store.note_attributes(&keg, self.context.stamp())?;
        self.place(parent, name, keg, cookie, directory)
    }

    /// The node, unless it was removed before the horizon.
    pub(super) fn node(&self, keg: &KegId) -> Result<Option<Node>, S::Error> {
        Ok(self.store.node(keg)?.filter(|node| !self.context.hides(node)))
    }

    /// Gives an id that is hidden a second life, without anything of the first.
    fn revive(&mut self, mut node: Node, parent: &KegId, name: &[u8]) -> Result<Applied, S::Error> {
        let Some(hidden) = self.store.node(&node.keg)?.filter(|node| self.context.hides(node)) else {
            return Ok(Applied::Nothing);
        };
        let Some(parent) = self.live_directory(parent)? else { return Ok(Applied::Nothing) };
        node.ino = hidden.ino;
        let (keg, directory, stamp, size) = (node.keg, node.is_directory(), node.content, node.size);
        self.store.forget(&keg)?;
        if node.kind == NodeKind::File {
            self.store.note_content(&keg, stamp, size)?;
        }
        self.store.put_node(node)?;
        self.store.note_attributes(&keg, stamp)?;
        let cookie = self.store.allocate()?;
        match self.place(parent, name, keg, cookie, directory)? {
            Applied::Renamed(name) => Ok(Applied::Renamed(name)),
            _ => Ok(Applied::Restored),
        }
    }

    fn link(&mut self, keg: &KegId, parent: &KegId, name: &[u8]) -> Result<Applied, S::Error> {
        let Some(mut node) = self.node(keg)? else { return Ok(Applied::Nothing) };
        if node.is_directory() {
            return Ok(Applied::Nothing);
        }
        let Some(parent) = self.live_directory(parent)? else { return Ok(Applied::Nothing) };
        if self.store.dentry(&parent, name)?.is_some_and(|there| there.keg == *keg) {
            return Ok(Applied::Nothing);
        }
        node.nlink += 1;
        node.removed = None;
        node.ctime_ns = self.at_ns;
        self.store.put_node(node)?;
        let cookie = self.store.allocate()?;
        self.place(parent, name, *keg, cookie, false)
    }

    fn bring_back(&mut self, keg: &KegId, parent: &KegId, name: &[u8]) -> Result<Applied, S::Error> {
        if self.node(keg)?.is_none_or(|node| node.nlink > 0) {
            return Ok(Applied::Nothing);
        }
        let Some(parent) = self.live_directory(parent)? else { return Ok(Applied::Nothing) };
        let Some(mut node) = self.node(keg)? else { return Ok(Applied::Nothing) };
        if node.nlink > 0 {
            // The directory was last inside it, and has brought it back.
            return Ok(Applied::Restored);
        }
        let directory = node.is_directory();
        node.removed = None;
        node.nlink = if directory { 2 } else { 1 };
        node.ctime_ns = self.at_ns;
        self.store.put_node(node)?;
        let cookie = self.store.allocate()?;
        self.place(parent, name, *keg, cookie, directory)
    }

    fn unlink(&mut self, keg: &KegId, parent: &KegId, name: &[u8]) -> Result<Applied, S::Error> {
        let Some(dentry) = self.find(parent, name, keg)? else { return Ok(Applied::Nothing) };
        if !self.removable(keg)? {
            return Ok(Applied::Nothing);
        }
        self.remove(&dentry)?;
        Ok(Applied::Done)
    }

    /// Nobody else has written to the file, or put something into the directory, meanwhile.
    fn removable(&self, keg: &KegId) -> Result<bool, S::Error> {
        match self.store.node(keg)? {
            Some(node) if node.is_directory() => self.store.is_empty(keg),
            Some(node) => Ok(!self.context.unseen(&node.content, self.base)),
            None => Ok(false),
        }
    }

    fn rename(
        &mut self,
        from: Dentry,
        new_parent: &KegId,
        new_name: &[u8],
        target: Option<KegId>,
    ) -> Result<Applied, S::Error> {
        let Some(node) = self.store.node(&from.keg)? else { return Ok(Applied::Nothing) };
        let Some(new_parent) = self.live_directory(new_parent)? else { return Ok(Applied::Nothing) };
        if node.is_directory() && self.is_within(&new_parent, &from.keg)? {
            return Ok(Applied::Nothing);
        }
        // Two names of one file: rename(2) leaves both.
        let onto_itself = self.store.dentry(&new_parent, new_name)?.is_some_and(|there| there.keg == from.keg);
        if onto_itself || target == Some(from.keg) {
            return Ok(Applied::Nothing);
        }
        let replaced = match target {
            Some(target) => self.find(&new_parent, new_name, &target)?,
            None => None,
        };
        // What the user meant to replace may itself live under a conflict name by now: then that is the place.
        let mut place_name = new_name.to_vec();
        let mut position = None;
        if let Some(replaced) = replaced
            && self.replaceable(&node, &replaced.keg)?
        {
            self.remove(&replaced)?;
            place_name = replaced.name;
            position = Some(replaced.cookie);
        }
        self.take_out(&from, node.is_directory())?;
        let cookie = self.position(&node, position)?;
        let applied = self.place(new_parent, &place_name, from.keg, cookie, node.is_directory())?;
        if place_name != new_name
            && let Some(dentry) = self.store.dentry(&new_parent, &place_name)?
        {
            self.store.remove_dentry(&dentry)?;
            self.store.put_dentry(Dentry { wanted: Some(new_name.to_vec()), ..dentry })?;
        }
        self.touch(&from.keg)?;
        Ok(applied)
    }

    /// Where in listings a name stands that names `node` from now on: where it stood, so that who lists meanwhile meets it
    /// all the same. A node of several names gets a fresh cookie: theirs tell in which order they were placed.
    fn position(&mut self, node: &Node, stood: Option<u64>) -> Result<u64, S::Error> {
        match stood.filter(|_| node.is_directory() || node.nlink == 1) {
            Some(cookie) => Ok(cookie),
            None => self.store.allocate(),
        }
    }

    fn replaceable(&self, node: &Node, target: &KegId) -> Result<bool, S::Error> {
        let same_sort = self.store.node(target)?.is_some_and(|target| target.is_directory() == node.is_directory());
        Ok(same_sort && self.removable(target)?)
    }

    fn exchange(
        &mut self,
        from: Dentry,
        new_parent: &KegId,
        new_name: &[u8],
        target: Option<KegId>,
    ) -> Result<Applied, S::Error> {
        let Some(target) = target else { return Ok(Applied::Nothing) };
        let Some(to) = self.find(new_parent, new_name, &target)? else { return Ok(Applied::Nothing) };
        let (Some(one), Some(other)) = (self.store.node(&from.keg)?, self.store.node(&to.keg)?) else {
            return Ok(Applied::Nothing);
        };
        let cycle = (one.is_directory() && self.is_within(&to.parent, &from.keg)?)
            || (other.is_directory() && self.is_within(&from.parent, &to.keg)?);
        if cycle || from.keg == to.keg {
            return Ok(Applied::Nothing);
        }
        self.take_out(&from, one.is_directory())?;
        self.take_out(&to, other.is_directory())?;
        let (first, second) = (self.position(&other, Some(from.cookie))?, self.position(&one, Some(to.cookie))?);
        let placed = self.context.stamp();
        self.put_in(Dentry { keg: to.keg, cookie: first, placed, ..from.clone() }, other.is_directory())?;
        self.put_in(Dentry { keg: from.keg, cookie: second, placed, ..to.clone() }, one.is_directory())?;
        self.touch(&from.keg)?;
        self.touch(&to.keg)?;
        Ok(Applied::Done)
    }

    fn xattr(&mut self, keg: &KegId, name: &[u8], value: Option<&[u8]>) -> Result<Applied, S::Error> {
        let keg = match self.context.parts_versions() {
            true => content::redirected(self.store, self.context, keg, self.base)?,
            false => *keg,
        };
        if self.store.node(&keg)?.is_none() {
            return Ok(Applied::Nothing);
        }
        self.store.set_xattr(&keg, name, value)?;
        self.store.note_attributes(&keg, self.context.stamp())?;
        self.touch(&keg)?;
        Ok(Applied::Done)
    }

    /// The dentry that the author means by `parent/name`: the keg under that name, or under the name that a conflict
    /// gave it instead of that one. Not where someone else has put it there meanwhile, be it after moving it away: an
    /// operation that was void when its author looked stays void.
    ///
    /// Only the author's own conflict names are meant, and only until the author had seen them: whoever sees such a name
    /// uses it, and whoever has not seen another's did not know that the keg is there.
    fn find(&self, parent: &KegId, name: &[u8], keg: &KegId) -> Result<Option<Dentry>, S::Error> {
        let seen = |dentry: &Dentry| !self.context.unseen(&dentry.placed, self.base);
        let there = self.store.dentry(parent, name)?.filter(|dentry| dentry.keg == *keg);
        if !self.context.finds_own() {
            let found = match there {
                Some(dentry) => Some(dentry),
                None => {
                    let mut others = self.store.dentries_of(keg)?.into_iter();
                    others.find(|dentry| dentry.parent == *parent && dentry.wanted.as_deref() == Some(name))
                }
            };
            return Ok(found.filter(seen));
        }
        if let Some(dentry) = there.filter(seen) {
            return Ok(Some(dentry));
        }
        let own = |dentry: &Dentry| dentry.placed.device == self.context.device && dentry.placed.seq > self.base;
        let meant = |dentry: &Dentry| dentry.parent == *parent && dentry.wanted.as_deref() == Some(name) && own(dentry);
        let candidates = self.store.dentries_of(keg)?.into_iter().filter(meant);
        // Cookies are local.
        Ok(candidates.max_by(|one, other| (one.placed.seq, &other.name).cmp(&(other.placed.seq, &one.name))))
    }

    /// The directory, brought back if it was removed; `None` if there never was such a directory.
    fn live_directory(&mut self, keg: &KegId) -> Result<Option<KegId>, S::Error> {
        match self.node(keg)? {
            Some(node) if !node.is_directory() => Ok(None),
            Some(node) if node.nlink == 0 => self.restore(node).map(Some),
            Some(node) => Ok(Some(node.keg)),
            None => Ok(None),
        }
    }

    /// Brings a removed node back under its last name, and the directories above it likewise.
    pub(super) fn restore(&mut self, node: Node) -> Result<KegId, S::Error> {
        // Outermost first. A directory that lost its last name inside itself cannot exist: cycles are never made.
        let mut chain = vec![node];
        while let Some(parent) = chain.last().and_then(|node| node.removed.as_ref()).map(|removed| removed.parent) {
            // A directory that is empty is removed after what was in it: it is never hidden where that is not.
            match self.node(&parent)? {
                Some(parent) if parent.nlink == 0 && chain.iter().all(|node| node.keg != parent.keg) => {
                    chain.push(parent)
                }
                _ => break,
            }
        }
        let mut keg = KegId::ROOT;
        for mut node in chain.into_iter().rev() {
            let Some(removed) = node.removed.take() else { continue };
            node.nlink = if node.is_directory() { 2 } else { 1 };
            node.ctime_ns = self.at_ns;
            keg = node.keg;
            let directory = node.is_directory();
            self.store.put_node(node)?;
            let cookie = self.store.allocate()?;
            self.place(removed.parent, &removed.name, keg, cookie, directory)?;
        }
        Ok(keg)
    }

    /// `directory` is `ancestor` or below it.
    fn is_within(&self, directory: &KegId, ancestor: &KegId) -> Result<bool, S::Error> {
        let mut at = *directory;
        loop {
            if at == *ancestor {
                return Ok(true);
            }
            match self.store.dentries_of(&at)?.first() {
                Some(dentry) => at = dentry.parent,
                None => return Ok(false),
            }
        }
    }

    /// Puts a keg under a name, or under a conflict name where that is taken.
    pub(super) fn place(
        &mut self,
        parent: KegId,
        name: &[u8],
        keg: KegId,
        cookie: u64,
        directory: bool,
    ) -> Result<Applied, S::Error> {
        let mut free = name.to_vec();
        let mut attempt = 0;
        let reserved = |name: &[u8]| parent == KegId::ROOT && name == KEG_DIR;
        while reserved(&free) || self.store.dentry(&parent, &free)?.is_some() {
            attempt += 1;
            free = conflict_name(name, &self.context.label, self.at_ns, attempt);
        }
        let wanted = (attempt > 0).then(|| name.to_vec());
        let applied = if attempt > 0 { Applied::Renamed(free.clone()) } else { Applied::Done };
        self.put_in(Dentry { parent, name: free, keg, cookie, wanted, placed: self.context.stamp() }, directory)?;
        Ok(applied)
    }

    fn put_in(&mut self, dentry: Dentry, directory: bool) -> Result<(), S::Error> {
        let parent = dentry.parent;
        self.store.put_dentry(dentry)?;
        self.adjust(&parent, if directory { 1 } else { 0 })
    }

    fn take_out(&mut self, dentry: &Dentry, directory: bool) -> Result<(), S::Error> {
        self.store.remove_dentry(dentry)?;
        self.adjust(&dentry.parent, if directory { -1 } else { 0 })
    }

    /// Removes a name, and with its last name the node.
    fn remove(&mut self, dentry: &Dentry) -> Result<(), S::Error> {
        let Some(mut node) = self.store.node(&dentry.keg)? else { return Ok(()) };
        self.take_out(dentry, node.is_directory())?;
        node.nlink = if node.is_directory() { 0 } else { node.nlink.saturating_sub(1) };
        node.ctime_ns = self.at_ns;
        if node.nlink == 0 {
            let stamp = self.context.stamp();
            node.removed = Some(Removed { stamp, parent: dentry.parent, name: dentry.name.clone() });
        }
        self.store.put_node(node)
    }

    /// A directory whose names changed: its times, and its links by the number of subdirectories.
    fn adjust(&mut self, directory: &KegId, links: i32) -> Result<(), S::Error> {
        if let Some(mut node) = self.store.node(directory)? {
            node.nlink = node.nlink.saturating_add_signed(links);
            node.mtime_ns = self.at_ns;
            node.ctime_ns = self.at_ns;
            self.store.put_node(node)?;
        }
        Ok(())
    }

    fn touch(&mut self, keg: &KegId) -> Result<(), S::Error> {
        if let Some(mut node) = self.store.node(keg)? {
            node.ctime_ns = self.at_ns;
            self.store.put_node(node)?;
        }
        Ok(())
    }
}
