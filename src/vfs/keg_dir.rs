//! `.keg` in the root of each folder: what is made when it is asked for, rather than stored.
//!
//! A port, as [`FolderSource`] is: who provides a folder provides its `.keg` ([`FolderSource::keg_dir`]) as a tree of
//! [`KegNode`]s, and knows neither inode numbers nor handles. To add something to `.keg` is to answer for one more name.
//! Everything in it is read-only whatever the role, belongs to the mounting user, and is found by name only: `.keg` is
//! in no listing, so that programs which walk the tree do not meet it.
//!
//! A directory may contain whole other states of a folder ([`KegNode::Tree`]): each is a [`FolderSource`] of its own, so
//! that everything that works in a folder (reading, seeking, attributes, listing) works there.
//!
//! The name is not a member's to take: `keg::apply` gives a conflict name to whatever the log puts under it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::format::NodeKind;
use crate::keg::{KEG_DIR, ROOT_INO};

use super::core::Core;
use super::mounted::{KEG_BASE, Mounted};
use super::{Attr, Entry, FolderSource, Ino, OpenMode, Opened, ReadDone, ReadOnlyReason, Vfs, VfsError};

/// Set in the numbers of handles of files in `.keg`, so that those of real files are looked up as before.
const KEG_HANDLE: u64 = 1 << 63;

/// Other states of a folder that may lie about unused, before the first look at which are: each is a few hundred bytes.
const TREES_MIN: usize = 64;

/// Something in `.keg`.
#[derive(Clone)]
pub enum KegNode {
    /// A directory.
    Directory(Arc<dyn KegDir>),
    /// A file.
    File(Arc<dyn KegFile>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A folder in another state, read-only: its root is the directory. [`FolderSource::head`] tells one state from
    /// another: under one name, what has the same head is the same and keeps its inodes for as long as the kernel has one.
    Tree(Arc<dyn FolderSource>),
}

/// A directory in `.keg`. Asked at every lookup: nothing is remembered but inode numbers.
pub trait KegDir: Send + Sync {
    /// What is under the name; `None`: nothing.
    fn lookup(&self, name: &[u8]) -> Result<Option<KegNode>, VfsError>;
    /// Names to list, in order. Others may be found by [`Self::lookup`] all the same.
    fn list(&self) -> Result<Vec<(Vec<u8>, NodeKind)>, VfsError>;
    /// Modification time, nanoseconds since 1970 UTC.
    fn modified_ns(&self) -> i64;
}

/// A file in `.keg`.
#[allow(clippy::len_without_is_empty)]
pub trait KegFile: Send + Sync {
    /// The content as it is now. What is opened shows that of the opening, unless [`Self::grows`].
    fn content(&self) -> Result<Bytes, VfsError>;
    /// Its length, for who only asks for that.
    fn len(&self) -> Result<u64, VfsError> {
        Ok(self.content()?.len() as u64)
    }
    /// Content is only ever added at the end, and open handles see it: `tail -f` works.
    fn grows(&self) -> bool {
        false
    }
    /// Modification time, nanoseconds since 1970 UTC.
    fn modified_ns(&self) -> i64;
}

/// Inode numbers given to what was looked up in one folder's `.keg`.
#[derive(Default)]
pub(super) struct Numbers {
    inner: Mutex<Given>,
}

#[derive(Default)]
struct Given {
    /// By number above [`KEG_BASE`]; the first is `.keg` itself.
    places: Vec<Place>,
    names: HashMap<(u64, Vec<u8>), u64>,
    /// With the head that each had when it was mounted.
    trees: HashMap<(u64, Vec<u8>), (u64, Arc<Mounted>)>,
    /// Those whose names lead to others by now.
    replaced: Vec<Arc<Mounted>>,
    /// With so many of them it is time to look which are used no more.
    many: usize,
}

#[derive(Clone)]
struct Place {
    parent: u64,
    kind: NodeKind,
    /// `None`: listed, and not looked up yet.
    node: Option<KegNode>,
}

impl Numbers {
    fn place(&self, local: u64) -> Result<(u64, KegNode), VfsError> {
        let index = local.checked_sub(KEG_BASE).and_then(|index| usize::try_from(index).ok());
        let inner = self.inner.lock();
        let place = index.and_then(|index| inner.places.get(index)).ok_or(VfsError::NotFound)?;
        Ok((place.parent, place.node.clone().ok_or(VfsError::NotFound)?))
    }

    /// The number of what is under the name, which is of `kind`, and `node` where that is known.
    fn number(&self, parent: u64, name: &[u8], kind: NodeKind, node: Option<KegNode>) -> u64 {
        let mut inner = self.inner.lock();
        let key = (parent, name.to_vec());
        if let Some(&number) = inner.names.get(&key)
            && let Some(place) = inner.places.get_mut((number - KEG_BASE) as usize)
            && place.kind == kind
        {
            place.node = node.or(place.node.take());
            return number;
        }
        let number = KEG_BASE + inner.places.len() as u64;
        inner.places.push(Place { parent, kind, node });
        inner.names.insert(key, number);
        number
    }

    /// The tree that is mounted under the name, which is `source` now; `attach` mounts it where it is another. `detach`
    /// is given those of which it can take away what is used no more; what it leaves stays.
    fn tree(
        &self,
        parent: u64,
        name: &[u8],
        source: &Arc<dyn FolderSource>,
        attach: impl FnOnce() -> Arc<Mounted>,
        detach: impl FnOnce(&mut dyn Iterator<Item = &Arc<Mounted>>) -> HashSet<Ino>,
    ) -> Arc<Mounted> {
        let mut inner = self.inner.lock();
        let key = (parent, name.to_vec());
        if let Some((head, tree)) = inner.trees.get(&key)
            && *head == source.head()
        {
            return Arc::clone(tree);
        }
        if inner.trees.len() + inner.replaced.len() >= inner.many.max(TREES_MIN) {
            let Given { trees, replaced, many, .. } = &mut *inner;
            let gone = detach(&mut trees.values().map(|(_, tree)| tree).chain(&*replaced));
            trees.retain(|_, (_, tree)| !gone.contains(&tree.root()));
            replaced.retain(|tree| !gone.contains(&tree.root()));
            // Each time as many more as there are in use: it costs each the same, however many there are.
            *many = 2 * (trees.len() + replaced.len());
        }
        let tree = attach();
        let before = inner.trees.insert(key, (source.head(), Arc::clone(&tree)));
        inner.replaced.extend(before.map(|(_, tree)| tree));
        tree
    }

    /// Forgets everything; returns the trees.
    pub(super) fn clear(&self) -> Vec<Arc<Mounted>> {
        let given = std::mem::take(&mut *self.inner.lock());
        given.trees.into_values().map(|(_, tree)| tree).chain(given.replaced).collect()
    }
}

fn kind(node: &KegNode) -> NodeKind {
    match node {
        KegNode::Directory(_) | KegNode::Tree(_) => NodeKind::Directory,
        KegNode::File(_) => NodeKind::File,
        KegNode::Symlink(_) => NodeKind::Symlink,
    }
}

/// An open file in `.keg`.
pub(super) struct KegHandle {
    folder: Arc<Mounted>,
    file: Arc<dyn KegFile>,
    /// As it was at the opening; `None`: it grows.
    content: Option<Bytes>,
}

impl KegHandle {
    fn content(&self) -> Result<Bytes, VfsError> {
        self.folder.readable()?;
        self.content.clone().map_or_else(|| self.file.content(), Ok)
    }
}

/// The name in this directory is `.keg`'s.
pub(super) fn is_reserved(folder: &Mounted, directory: u64, name: &[u8]) -> bool {
    directory == ROOT_INO && name == KEG_DIR && !folder.is_tree()
}

/// Nobody moves or removes `.keg`, or puts something in its place.
pub(super) fn check_unreserved(folder: &Mounted, directory: u64, name: &[u8]) -> Result<(), VfsError> {
    let reserved = is_reserved(folder, directory, name);
    if reserved { Err(VfsError::ReadOnly(ReadOnlyReason::View)) } else { Ok(()) }
}

impl Core {
    /// What is under a name in `.keg`, or `.keg` itself in the folder's root.
    pub(super) fn keg_lookup(&self, folder: &Arc<Mounted>, parent: u64, name: &[u8]) -> Result<Entry, VfsError> {
        let node = if parent == ROOT_INO {
            folder.source.keg_dir().map(KegNode::Directory)
        } else {
            let (above, node) = folder.keg.place(parent)?;
            let KegNode::Directory(directory) = node else { return Err(VfsError::NotDirectory) };
            match name {
                b"." => return self.keg_known_entry(folder, parent),
                b".." if above == ROOT_INO => return self.known_entry(folder, ROOT_INO),
                b".." => return self.keg_known_entry(folder, above),
                _ => directory.lookup(name)?,
            }
        };
        match node.ok_or(VfsError::NotFound)? {
            KegNode::Tree(source) => {
                let attach = || self.attach(&source, folder, parent);
                let detach = |trees: &mut dyn Iterator<Item = &Arc<Mounted>>| self.detach(trees);
                let tree = folder.keg.tree(parent, name, &source, attach, detach);
                self.known_entry(&tree, ROOT_INO)
            }
            node => self.keg_known_entry(folder, folder.keg.number(parent, name, kind(&node), Some(node))),
        }
    }

    fn keg_known_entry(&self, folder: &Mounted, local: u64) -> Result<Entry, VfsError> {
        let attr = self.keg_attr(folder, local)?;
        self.known.add(attr.ino);
        // What is made when it is asked for is asked for every time.
        Ok(Entry { attr, ttl: Duration::ZERO })
    }

    /// Attributes of what is in `.keg`.
    pub(super) fn keg_attr(&self, folder: &Mounted, local: u64) -> Result<Attr, VfsError> {
        let (_, node) = folder.keg.place(local)?;
        let (mode, nlink, size, time_ns) = match &node {
            KegNode::Directory(directory) => (0o555, 2, 0, directory.modified_ns()),
            KegNode::Tree(_) => (0o555, 2, 0, self.started_ns),
            KegNode::File(file) => (0o444, 1, file.len()?, file.modified_ns()),
            KegNode::Symlink(target) => (0o777, 1, target.len() as u64, self.started_ns),
        };
        Ok(Attr {
            ino: folder.ino(local),
            kind: kind(&node),
            mode,
            nlink,
            uid: self.options.uid,
            gid: self.options.gid,
            rdev: 0,
            size,
            blocks: if kind(&node) == NodeKind::File { size.div_ceil(512) } else { 0 },
            atime_ns: time_ns,
            mtime_ns: time_ns,
            ctime_ns: time_ns,
            btime_ns: time_ns,
        })
    }

    /// A symlink's target.
    pub(super) fn keg_readlink(&self, folder: &Mounted, local: u64) -> Result<Vec<u8>, VfsError> {
        match folder.keg.place(local)?.1 {
            KegNode::Symlink(target) => Ok(target),
            _ => Err(VfsError::InvalidArgument),
        }
    }

    /// The names of a directory, each with its kind and the number to show.
    pub(super) fn keg_list(&self, folder: &Mounted, local: u64) -> Result<Vec<KegListed>, VfsError> {
        let (_, KegNode::Directory(directory)) = folder.keg.place(local)? else { return Err(VfsError::NotDirectory) };
        let listed = directory.list()?.into_iter().map(|(name, kind)| {
            let number = folder.keg.number(local, &name, kind, None);
            (name, kind, folder.ino(number))
        });
        Ok(listed.collect())
    }

    /// The directory that a directory in `.keg` is in.
    pub(super) fn keg_parent(&self, folder: &Mounted, local: u64) -> Result<Ino, VfsError> {
        Ok(folder.ino(folder.keg.place(local)?.0))
    }

    /// Opens a file in `.keg`.
    pub(super) fn keg_open(&self, folder: &Arc<Mounted>, local: u64, mode: OpenMode) -> Result<Opened, VfsError> {
        let (_, KegNode::File(file)) = folder.keg.place(local)? else { return Err(VfsError::IsDirectory) };
        if mode.write {
            return Err(VfsError::ReadOnly(ReadOnlyReason::View));
        }
        let content = if file.grows() { None } else { Some(file.content()?) };
        let fh = self.table.next_handle() | KEG_HANDLE;
        self.keg_files.write().insert(fh, Arc::new(KegHandle { folder: Arc::clone(folder), file, content }));
        // Its length now need not be that of the next moment: the kernel is to ask for what there is.
        Ok(Opened { fh, keep_cache: false, direct: true })
    }

    fn keg_content(&self, fh: u64) -> Result<Bytes, VfsError> {
        let handle = self.keg_files.read().get(&fh).cloned();
        handle.ok_or(if self.is_stopped() { VfsError::Gone } else { VfsError::BadHandle })?.content()
    }

    /// Mounts another state of `within` in its `.keg`, in the directory with the number `directory`.
    fn attach(&self, source: &Arc<dyn FolderSource>, within: &Arc<Mounted>, directory: u64) -> Arc<Mounted> {
        let mut folders = self.folders.write();
        let index = Mounted::free_index(Mounted::split(within.root()).0 + 1, |index| folders.contains_key(&index));
        let tree = Mounted::tree(Arc::clone(source), index, within, directory);
        folders.insert(index, Some(Arc::clone(&tree)));
        tree
    }

    /// Takes those of the trees away that nobody uses: the kernel has forgotten what is in them, and nothing is being asked
    /// of them. Returns their roots. The caller holds the lock under which trees are looked up.
    fn detach(&self, trees: &mut dyn Iterator<Item = &Arc<Mounted>>) -> HashSet<Ino> {
        let mut folders = self.folders.write();
        // Who has one in hand has it from here or from the caller. Before the kernel is asked: who had it in hand until
        // now has told it of what he found.
        let idle: Vec<_> = trees.filter(|tree| Arc::strong_count(tree) == 2).map(|tree| tree.root()).collect();
        let known = self.known.folders();
        let gone: HashSet<_> = idle.into_iter().filter(|root| !known.contains(&Mounted::split(*root).0)).collect();
        for root in &gone {
            folders.remove(&Mounted::split(*root).0);
        }
        gone
    }
}

/// A name, what it is, and the number to show for it.
pub(super) type KegListed = (Vec<u8>, NodeKind, Ino);

/// The handle is one of a file in `.keg`.
pub(super) fn is_keg_handle(fh: u64) -> bool {
    fh & KEG_HANDLE != 0
}

impl Vfs {
    pub(super) fn keg_read(&self, fh: u64, offset: u64, size: u32, done: ReadDone) {
        match self.core.keg_content(fh) {
            Ok(content) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
                let to = from.saturating_add(size as usize).min(content.len());
                done(Ok(&content[from..to]));
            }
            Err(error) => done(Err(error)),
        }
    }

    /// Everything up to the end is data.
    pub(super) fn keg_seek(&self, fh: u64, offset: u64, data: bool) -> Result<u64, VfsError> {
        let len = self.core.keg_content(fh)?.len() as u64;
        match offset < len {
            true if data => Ok(offset),
            true => Ok(len),
            false => Err(VfsError::PastEnd),
        }
    }

    pub(super) fn keg_release(&self, fh: u64) {
        self.core.keg_files.write().remove(&fh);
    }
}
