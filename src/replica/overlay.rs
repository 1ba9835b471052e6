//! Changes in memory that lie over the confirmed state: rows by keg, each with the number of the last operation that
//! touched it.
//!
//! Two overlays exist. The *pending* one is the mounted view's difference from the confirmed state; when operations up to
//! a number are confirmed, rows with tags up to it are dropped, since the database has them ([`Overlay::confirm`]). The
//! *entry* one collects what one log entry changes, so that a file that is created, written and given its attributes in
//! one entry costs one row, not three ([`super::flush`]).
//!
//! Memory: about 1 KiB for a pending creation (node 350 bytes, name 200, operation and queue 250, marks 150), 250 bytes
//! for other operations, and 100 for each extent.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::content::Content;
use super::rows::usage;
use crate::format::{DeviceId, KegId};
use crate::keg::{Dentry, Node, Redirect, Stamp};

/// A node that differs from the confirmed one, or is not there yet.
#[derive(Clone, Debug)]
pub(super) struct OverNode {
    pub(super) node: Node,
    /// See [`super::rows::NodeRow::xattrs`].
    pub(super) xattrs: bool,
    /// The database has a row of this keg. If not, it has no names, content or attributes of it either: lookups need not
    /// ask it.
    pub(super) stored: bool,
    /// What that row adds to the folder's usage.
    pub(super) base_usage: (i64, i64),
    pub(super) tag: u64,
    /// The last operation that changed the content, as far as the overlay knows.
    pub(super) content_tag: u64,
}

impl OverNode {
    /// A node that no database has yet.
    pub(super) fn new(node: Node) -> Self {
        Self { node, xattrs: false, stored: false, base_usage: (0, 0), tag: 0, content_tag: 0 }
    }
}

impl OverNode {
    /// Operations up to `number` are confirmed: what they did bears the log's stamps now.
    fn settle(&mut self, number: u64, base: Option<&Node>) {
        let Some(base) = base else { return };
        if self.content_tag <= number {
            self.node.content = base.content;
        }
        if let (Some(removed), Some(confirmed)) = (&mut self.node.removed, &base.removed) {
            removed.stamp = confirmed.stamp;
        }
    }
}

/// A name that differs from the confirmed one.
#[derive(Clone, Debug)]
pub(super) struct OverName {
    /// `None`: there is no such name (any more).
    pub(super) there: Option<Named>,
    /// The database may have a row of this name.
    pub(super) stored: bool,
    pub(super) tag: u64,
}

/// What a name names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) keg: KegId,
    pub(super) cookie: u64,
    pub(super) wanted: Option<Vec<u8>>,
    pub(super) placed: Stamp,
}

impl Named {
    pub(super) fn dentry(&self, parent: KegId, name: &[u8]) -> Dentry {
        Dentry {
            parent,
            name: name.to_vec(),
            keg: self.keg,
            cookie: self.cookie,
            wanted: self.wanted.clone(),
            placed: self.placed,
        }
    }
}

/// The names of one directory that differ.
#[derive(Debug, Default)]
pub(super) struct Dir {
    pub(super) names: HashMap<Arc<[u8]>, OverName>,
    /// Those that are there, in the order of listings.
    pub(super) order: BTreeMap<u64, Arc<[u8]>>,
}

/// A row that an operation touched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Touched {
    Node(KegId),
    Dir(KegId),
    Content(KegId),
    Xattr(KegId),
    /// Boxed: there are few, and the marks of all operations are as large as the largest.
    Redirect(Box<(DeviceId, KegId)>),
    FolderName,
}

/// Extended attributes of one keg that differ: value (`None`: removed) and tag.
pub(super) type Xattrs = BTreeMap<Vec<u8>, (Option<Vec<u8>>, u64)>;

/// Directories and names that lead to a keg.
type NamesOf = HashMap<KegId, Vec<(KegId, Arc<[u8]>)>>;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// Boxed: a map that grows has two tables for a while.
    pub(super) nodes: HashMap<KegId, Box<OverNode>>,
    /// Keg of every inode number in `nodes`.
    pub(super) inos: HashMap<u64, KegId>,
    pub(super) dirs: HashMap<KegId, Dir>,
    /// Where the names of `dirs` that are there lead back to.
    pub(super) names_of: NamesOf,
    pub(super) contents: HashMap<KegId, Content>,
    pub(super) xattrs: HashMap<KegId, Xattrs>,
    pub(super) redirects: HashMap<(DeviceId, KegId), (Redirect, u64)>,
    pub(super) folder_name: Option<(String, u64)>,
    /// Files whose content changes so far are to be forgotten: see `keg::Store::forget`.
    pub(super) forgotten: HashSet<KegId>,
    /// What each operation touched, in the order of their numbers; repetitions within one are left out.
    marks: VecDeque<(u64, Touched)>,
    /// Difference of (bytes, files) from the confirmed state.
    pub(super) usage: (i64, i64),
}

impl Overlay {
    /// Puts a node. `base`: the confirmed row, asked for only where the overlay has none.
    pub(super) fn put_node<E>(
        &mut self,
        node: Node,
        tag: u64,
        base: impl FnOnce() -> Result<Option<(Node, bool)>, E>,
    ) -> Result<(), E> {
        let keg = node.keg;
        match self.nodes.get_mut(&keg) {
            Some(there) => {
                add(&mut self.usage, usage(&node), usage(&there.node));
                let ino = there.node.ino;
                there.node = Node { ino, ..node };
                if there.tag < tag {
                    there.tag = tag;
                    self.marks.push_back((tag, Touched::Node(keg)));
                }
            }
            None => {
                let base = base()?;
                let (stored, xattrs) = (base.is_some(), base.as_ref().is_some_and(|(_, xattrs)| *xattrs));
                let base_usage = base.as_ref().map_or((0, 0), |(node, _)| usage(node));
                add(&mut self.usage, usage(&node), base_usage);
                self.inos.insert(node.ino, keg);
                let row = OverNode { node, xattrs, stored, base_usage, tag, content_tag: tag };
                self.nodes.insert(keg, Box::new(row));
                self.marks.push_back((tag, Touched::Node(keg)));
            }
        }
        Ok(())
    }

    /// Names of a keg that are not confirmed, with their directories.
    pub(super) fn names(&self, keg: &KegId) -> impl Iterator<Item = (KegId, Vec<u8>)> {
        let names = self.names_of.get(keg).map(Vec::as_slice).unwrap_or_default();
        names.iter().map(|(parent, name)| (*parent, name.to_vec()))
    }

    /// Puts or removes a name.
    pub(super) fn put_name(&mut self, parent: KegId, name: &[u8], there: Option<Named>, tag: u64) {
        let parent_stored = self.nodes.get(&parent).is_none_or(|row| row.stored);
        let dir = self.dirs.entry(parent).or_default();
        let (key, old) = match dir.names.get_key_value(name) {
            Some((key, old)) => (Arc::clone(key), Some(old)),
            None => (Arc::from(name), None),
        };
        let stored = old.map_or(parent_stored, |old| old.stored);
        let old_tag = old.map_or(0, |old| old.tag);
        if let Some(gone) = old.and_then(|old| old.there.as_ref()) {
            dir.order.remove(&gone.cookie);
            forget_name(&mut self.names_of, gone.keg, parent, name);
        }
        if let Some(named) = &there {
            dir.order.insert(named.cookie, Arc::clone(&key));
            // Most have one name.
            let names = self.names_of.entry(named.keg).or_insert_with(|| Vec::with_capacity(1));
            names.push((parent, Arc::clone(&key)));
        }
        dir.names.insert(key, OverName { there, stored, tag: tag.max(old_tag) });
        self.mark(tag, Touched::Dir(parent));
    }

    /// The content's changes, to be changed further by operation `tag`.
    pub(super) fn content(&mut self, keg: &KegId, tag: u64) -> &mut Content {
        self.mark(tag, Touched::Content(*keg));
        self.contents.entry(*keg).or_default()
    }

    /// Sets or removes an extended attribute.
    pub(super) fn put_xattr(&mut self, keg: &KegId, name: &[u8], value: Option<&[u8]>, tag: u64) {
        self.xattrs.entry(*keg).or_default().insert(name.to_vec(), (value.map(<[u8]>::to_vec), tag));
        if let Some(row) = self.nodes.get_mut(keg) {
            row.xattrs = true;
        }
        self.mark(tag, Touched::Xattr(*keg));
    }

    pub(super) fn put_redirect(&mut self, device: DeviceId, keg: KegId, redirect: Redirect, tag: u64) {
        self.redirects.insert((device, keg), (redirect, tag));
        self.mark(tag, Touched::Redirect(Box::new((device, keg))));
    }

    pub(super) fn put_folder_name(&mut self, name: &str, tag: u64) {
        self.folder_name = Some((name.to_owned(), tag));
        self.mark(tag, Touched::FolderName);
    }

    /// Remembers that `tag` touched a row. Operations touch few rows, so looking at the last marks finds repetitions.
    fn mark(&mut self, tag: u64, touched: Touched) {
        let recent = self.marks.iter().rev().take(4);
        if !recent.into_iter().any(|(number, there)| *number == tag && *there == touched) {
            self.marks.push_back((tag, touched));
        }
    }

    /// Everything touched, each once; the marks are used up.
    pub(super) fn take_touched(&mut self) -> HashSet<Touched> {
        self.marks.drain(..).map(|(_, touched)| touched).collect()
    }

    /// Drops what operations up to `number` did: the database has it. `base` gives the confirmed row of a keg.
    ///
    /// Marks of places filled late may stand behind greater numbers; they go with those.
    pub(super) fn confirm<E>(
        &mut self,
        number: u64,
        mut base: impl FnMut(&KegId) -> Result<Option<(Node, bool)>, E>,
    ) -> Result<(), E> {
        let mut touched = HashSet::new();
        while let Some((tag, _)) = self.marks.front()
            && *tag <= number
        {
            touched.extend(self.marks.pop_front().map(|(_, touched)| touched));
        }
        for row in touched {
            match row {
                Touched::Node(keg) => {
                    let Some(there) = self.nodes.get_mut(&keg) else { continue };
                    let row = base(&keg)?;
                    let base_usage = row.as_ref().map_or((0, 0), |(node, _)| usage(node));
                    // The confirmed total now has what this row's base adds.
                    add(&mut self.usage, there.base_usage, base_usage);
                    there.base_usage = base_usage;
                    there.stored = row.is_some();
                    there.settle(number, row.as_ref().map(|(node, _)| node));
                    if there.tag <= number {
                        add(&mut self.usage, base_usage, usage(&there.node));
                        self.inos.remove(&there.node.ino);
                        self.nodes.remove(&keg);
                    }
                }
                Touched::Dir(keg) => self.confirm_dir(&keg, number),
                Touched::Content(keg) => {
                    if let Some(there) = self.nodes.get_mut(&keg) {
                        there.settle(number, base(&keg)?.as_ref().map(|(node, _)| node));
                    }
                    if let Some(content) = self.contents.get_mut(&keg) {
                        content.confirm(number);
                        if content.is_void() {
                            self.contents.remove(&keg);
                        }
                    }
                }
                Touched::Xattr(keg) => {
                    if let Some(xattrs) = self.xattrs.get_mut(&keg) {
                        xattrs.retain(|_, (_, tag)| *tag > number);
                        if xattrs.is_empty() {
                            self.xattrs.remove(&keg);
                        }
                    }
                }
                Touched::Redirect(row) => {
                    if self.redirects.get(&*row).is_some_and(|(_, tag)| *tag <= number) {
                        self.redirects.remove(&*row);
                    }
                }
                Touched::FolderName => {
                    self.folder_name = self.folder_name.take().filter(|(_, tag)| *tag > number);
                }
            }
        }
        Ok(())
    }

    fn confirm_dir(&mut self, keg: &KegId, number: u64) {
        let Some(dir) = self.dirs.get_mut(keg) else { return };
        let Dir { names, order, .. } = dir;
        names.retain(|name, over| {
            if over.tag > number {
                over.stored = true;
                return true;
            }
            if let Some(named) = &over.there {
                order.remove(&named.cookie);
                forget_name(&mut self.names_of, named.keg, *keg, name);
            }
            false
        });
        if names.is_empty() {
            self.dirs.remove(keg);
        }
    }

    /// The node with this number, if it is here.
    pub(super) fn by_ino(&self, ino: u64) -> Option<&OverNode> {
        self.nodes.get(self.inos.get(&ino)?).map(|row| &**row)
    }
}

fn forget_name(names_of: &mut NamesOf, keg: KegId, parent: KegId, name: &[u8]) {
    if let Some(list) = names_of.get_mut(&keg) {
        list.retain(|(directory, there)| *directory != parent || **there != *name);
        if list.is_empty() {
            names_of.remove(&keg);
        }
    }
}

/// `total += plus - minus`.
fn add(total: &mut (i64, i64), plus: (i64, i64), minus: (i64, i64)) {
    total.0 += plus.0 - minus.0;
    total.1 += plus.1 - minus.1;
}
