//! Names: looking up, creating, linking, removing, moving.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::format::{NodeKind, OpKind, check_name, check_symlink_target};
use crate::keg::Node;
use crate::sys::clock;

use super::acl::{self, Inherited};
use super::core::Core;
use super::flush::Flush;
use super::keg_dir::{check_unreserved, is_reserved};
use super::mode::SETGID;
use super::mounted::{Mounted, fresh_keg};
use super::{Caller, Entry, Ino, RenameMode, Vfs, VfsError};

/// What a new node is.
pub(super) struct New<'a> {
    pub kind: NodeKind,
    pub mode: u16,
    pub rdev: u32,
    pub target: &'a [u8],
}

impl Vfs {
    /// The inode under a name.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Entry, VfsError> {
        if self.core.is_list(parent) {
            return self.core.lookup_folder(name);
        }
        let (folder, local) = self.core.locate(parent)?;
        if Mounted::is_keg(local) || is_reserved(&folder, local, name) {
            return self.core.keg_lookup(&folder, local, name);
        }
        match name {
            b"." => return self.core.known_entry(&folder, local),
            b".." => return self.core.known_entry(&folder, folder.source.parent(local)?),
            _ => check_name(name)?,
        }
        self.core.made_known(&folder, || {
            self.core.shown_entry(&folder, || folder.source.lookup(local, name)?.ok_or(VfsError::NotFound))
        })
    }

    /// How long the kernel may believe that a name does not exist in the directory.
    pub fn negative_ttl(&self, parent: Ino) -> Duration {
        match self.core.locate(parent) {
            Ok((folder, local)) if !Mounted::is_keg(local) => folder.ttl(),
            _ => Duration::ZERO,
        }
    }

    /// The kernel dropped `n` references.
    pub fn forget(&self, ino: Ino, n: u64) {
        if self.core.known.forget(ino, n)
            && let Ok((folder, local)) = self.core.locate(ino)
        {
            folder.nameless.forget(local);
        }
    }

    /// A symlink's target.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, VfsError> {
        let (folder, local) = self.core.locate(ino)?;
        if Mounted::is_keg(local) {
            return self.core.keg_readlink(&folder, local);
        }
        let node = folder.source.node(local)?.ok_or(VfsError::NotFound)?;
        if node.kind == NodeKind::Symlink { Ok(node.target) } else { Err(VfsError::InvalidArgument) }
    }

    /// A new file, pipe, device or socket. `mode`: the twelve bits, umask not yet applied.
    pub fn mknod(
        &self,
        parent: Ino,
        name: &[u8],
        kind: NodeKind,
        mode: u16,
        rdev: u32,
        caller: &Caller,
    ) -> Result<Entry, VfsError> {
        match kind {
            NodeKind::Directory | NodeKind::Symlink => Err(VfsError::InvalidArgument),
            _ => self.make(parent, name, New { kind, mode, rdev, target: &[] }, caller),
        }
    }

    /// A new directory.
    pub fn mkdir(&self, parent: Ino, name: &[u8], mode: u16, caller: &Caller) -> Result<Entry, VfsError> {
        self.make(parent, name, New { kind: NodeKind::Directory, mode, rdev: 0, target: &[] }, caller)
    }

    /// A new symlink.
    pub fn symlink(&self, parent: Ino, name: &[u8], target: &[u8], caller: &Caller) -> Result<Entry, VfsError> {
        check_symlink_target(target)?;
        let caller = Caller { umask: 0, ..*caller };
        self.make(parent, name, New { kind: NodeKind::Symlink, mode: 0o777, rdev: 0, target }, &caller)
    }

    fn make(&self, parent: Ino, name: &[u8], new: New<'_>, caller: &Caller) -> Result<Entry, VfsError> {
        let (folder, local) = self.core.locate_writable(parent)?;
        self.core.made_known(&folder, || {
            let node = self.core.make(&folder, local, name, new, caller, |node, _| node)?;
            folder.source.let_go(&node.keg);
            Ok(Entry { attr: folder.attr(&node, true, &self.core.options), ttl: folder.ttl() })
        })
    }

    /// One more name for a file.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Entry, VfsError> {
        let (folder, directory) = self.core.locate_writable(parent)?;
        let (other, local) = self.core.locate(ino)?;
        if !Arc::ptr_eq(&folder, &other) || Mounted::is_keg(local) {
            return Err(VfsError::CrossFolder);
        }
        check_name(name)?;
        if is_reserved(&folder, directory, name) {
            return Err(VfsError::Exists);
        }
        {
            let _names = folder.names.lock();
            let node = folder.node(local)?.ok_or(VfsError::NotFound)?;
            if node.is_directory() {
                return Err(VfsError::NoPermission);
            }
            if node.nlink == 0 && !folder.nameless.has(local) {
                return Err(VfsError::NotFound);
            }
            let parent = live_directory(&folder, directory)?;
            if folder.source.lookup(directory, name)?.is_some() {
                return Err(VfsError::Exists);
            }
            if node.nlink == 0 {
                self.core.name_nameless(&folder, local, &parent, name)?;
            } else {
                self.core.flush_before(&folder, &node)?;
                let kind = OpKind::Link { keg: node.keg, parent: parent.keg, name: name.to_vec() };
                folder.source.submit(kind, clock::unix_nanos())?;
            }
        }
        self.core.known_entry(&folder, local)
    }

    /// Removes a name that is no directory's.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<(), VfsError> {
        self.remove(parent, name, false)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<(), VfsError> {
        self.remove(parent, name, true)
    }

    fn remove(&self, parent: Ino, name: &[u8], directory: bool) -> Result<(), VfsError> {
        let (folder, local) = self.core.locate_writable(parent)?;
        check_name(name)?;
        check_unreserved(&folder, local, name)?;
        let source = &folder.source;
        let _names = folder.names.lock();
        let parent = live_directory(&folder, local)?;
        let node = source.lookup(local, name)?.ok_or(VfsError::NotFound)?;
        match (node.is_directory(), directory) {
            (true, false) => return Err(VfsError::IsDirectory),
            (false, true) => return Err(VfsError::NotDirectory),
            (true, true) => must_be_empty(&folder, &node)?,
            (false, false) => {}
        }
        let kind = OpKind::Unlink { keg: node.keg, parent: parent.keg, name: name.to_vec() };
        self.core.submit_removal(&folder, kind, &node)
    }

    /// Moves a name.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), VfsError> {
        let (folder, from) = self.core.locate_writable(parent)?;
        let (other, to) = self.core.locate_writable(new_parent)?;
        if !Arc::ptr_eq(&folder, &other) {
            return Err(VfsError::CrossFolder);
        }
        check_name(name)?;
        check_name(new_name)?;
        check_unreserved(&folder, from, name)?;
        check_unreserved(&folder, to, new_name)?;
        let source = &folder.source;
        let _names = folder.names.lock();
        let (parent, new_parent) = (live_directory(&folder, from)?, live_directory(&folder, to)?);
        let node = source.lookup(from, name)?.ok_or(VfsError::NotFound)?;
        let target = source.lookup(to, new_name)?;
        let free = matches!(mode, RenameMode::NoReplace | RenameMode::Whiteout { replace: false, .. });
        match (&target, mode) {
            (Some(_), _) if free => return Err(VfsError::Exists),
            (None, RenameMode::Exchange) => return Err(VfsError::NotFound),
            (Some(target), _) if target.keg == node.keg => return Ok(()),
            (Some(target), RenameMode::Replace | RenameMode::Whiteout { .. }) => {
                match (node.is_directory(), target.is_directory()) {
                    (true, false) => return Err(VfsError::NotDirectory),
                    (false, true) => return Err(VfsError::IsDirectory),
                    (true, true) => must_be_empty(&folder, target)?,
                    (false, false) => {}
                }
            }
            _ => {}
        }
        if node.is_directory() {
            must_not_be_within(&folder, to, node.ino)?;
        }
        if let (Some(target), RenameMode::Exchange) = (&target, mode)
            && target.is_directory()
        {
            must_not_be_within(&folder, from, target.ino)?;
        }
        self.core.flush_before(&folder, &node)?;
        if let (Some(target), RenameMode::Exchange) = (&target, mode) {
            self.core.flush_before(&folder, target)?;
        }
        let kind = OpKind::Rename {
            keg: node.keg,
            parent: parent.keg,
            name: name.to_vec(),
            new_parent: new_parent.keg,
            new_name: new_name.to_vec(),
            target: target.as_ref().map(|target| target.keg),
            exchange: mode == RenameMode::Exchange,
        };
        match target {
            Some(target) if mode != RenameMode::Exchange => self.core.submit_removal(&folder, kind, &target)?,
            _ => source.submit(kind, clock::unix_nanos())?,
        }
        if let RenameMode::Whiteout { caller, .. } = mode {
            // As the kernel's own file systems make it: device 0:0, of nobody's use to anyone else.
            let new = New { kind: NodeKind::CharDevice, mode: 0, rdev: 0, target: &[] };
            source.submit(create(&parent, name, new, None, &caller), clock::unix_nanos())?;
        }
        Ok(())
    }
}

/// The operation that makes a node in `parent`: of the caller, in a directory with the setgid bit of its group. The umask
/// counts where nothing is inherited.
pub(super) fn create(
    parent: &Node,
    name: &[u8],
    new: New<'_>,
    inherited: Option<&Inherited>,
    caller: &Caller,
) -> OpKind {
    let mut mode = match inherited {
        Some(inherited) => inherited.first_mode,
        None => new.mode & !(caller.umask as u16 & 0o777),
    } & 0o7777;
    let mut gid = caller.gid;
    if parent.mode & SETGID != 0 {
        gid = parent.gid;
        if new.kind == NodeKind::Directory {
            mode |= SETGID;
        }
    }
    OpKind::Create {
        keg: fresh_keg(),
        parent: parent.keg,
        name: name.to_vec(),
        kind: new.kind,
        mode,
        uid: caller.uid,
        gid,
        rdev: new.rdev,
        target: new.target.to_vec(),
    }
}

/// The directory, which still has a name.
pub(super) fn live_directory(folder: &Mounted, local: u64) -> Result<Node, VfsError> {
    let node = folder.source.node(local)?.ok_or(VfsError::NotFound)?;
    if !node.is_directory() {
        return Err(VfsError::NotDirectory);
    }
    if node.nlink == 0 { Err(VfsError::NotFound) } else { Ok(node) }
}

fn must_be_empty(folder: &Mounted, directory: &Node) -> Result<(), VfsError> {
    // A directory with subdirectories says so without being listed.
    let empty = directory.nlink <= 2 && folder.source.list(directory.ino, 0, 1)?.is_empty();
    if empty { Ok(()) } else { Err(VfsError::NotEmpty) }
}

/// `directory` is not `ancestor` and not below it.
fn must_not_be_within(folder: &Mounted, mut directory: u64, ancestor: u64) -> Result<(), VfsError> {
    loop {
        if directory == ancestor {
            return Err(VfsError::InvalidArgument);
        }
        let parent = folder.source.parent(directory)?;
        if parent == directory {
            return Ok(());
        }
        directory = parent;
    }
}

impl Core {
    /// Creates a node under a name that is free.
    ///
    /// `made` is called before anybody can remove it, with whether it has no extended attributes.
    pub(super) fn make<T>(
        &self,
        folder: &Mounted,
        directory: u64,
        name: &[u8],
        new: New<'_>,
        caller: &Caller,
        made: impl FnOnce(Node, bool) -> T,
    ) -> Result<T, VfsError> {
        check_name(name)?;
        if is_reserved(folder, directory, name) {
            return Err(VfsError::Exists);
        }
        let source = &folder.source;
        let _names = folder.names.lock();
        let parent = live_directory(folder, directory)?;
        if source.lookup(directory, name)?.is_some() {
            return Err(VfsError::Exists);
        }
        let now_ns = clock::unix_nanos();
        let inherited = self.inherited(folder, &parent, &new)?;
        source.submit(create(&parent, name, new, inherited.as_ref(), caller), now_ns)?;
        let find = || source.lookup(directory, name)?.ok_or(VfsError::NotFound);
        let (mut node, bare) = (find()?, inherited.is_none());
        if let Some(inherited) = inherited {
            inherited.rest(&node).try_for_each(|kind| source.submit(kind, now_ns))?;
            node = find()?;
        }
        Ok(made(node, bare))
    }

    /// What a new node inherits, in mounts that have access control lists.
    pub(super) fn inherited(
        &self,
        folder: &Mounted,
        parent: &Node,
        new: &New<'_>,
    ) -> Result<Option<Inherited>, VfsError> {
        if self.options.owners_stored { acl::inherited(folder, parent, new.kind, new.mode) } else { Ok(None) }
    }

    /// What was written to a file comes before the operation that follows.
    fn flush_before(&self, folder: &Mounted, node: &Node) -> Result<(), VfsError> {
        match self.table.get(folder.ino(node.ino)) {
            Some(inode) => self.start_flush(&inode, &mut inode.state.lock(), Flush::Settle),
            None => Ok(()),
        }
    }

    /// Submits an operation that takes a name from `node`. If it was the last one, nothing of what was written is uploaded
    /// any more. That is decided under the file's lock: a flush that took its place behind the removal would bring the
    /// file back. So would one of who opens the file meanwhile: it is in the table until they can see that it is gone.
    fn submit_removal(&self, folder: &Arc<Mounted>, kind: OpKind, node: &Node) -> Result<(), VfsError> {
        if node.kind != NodeKind::File {
            return folder.source.submit(kind, clock::unix_nanos());
        }
        let pin = self.table.pin(folder, node.ino, node.keg);
        let busy = {
            let mut state = pin.state.lock();
            folder.source.submit(kind, clock::unix_nanos())?;
            if node.nlink > 1 && pin.has_name() {
                return Ok(());
            }
            state.unlinked = true;
            self.known.set_removed(pin.ino, true);
            folder.removals.fetch_add(1, Ordering::AcqRel);
            !state.is_clean()
        };
        folder.source.let_go(&node.keg);
        if busy {
            self.settle(&pin);
        }
        Ok(())
    }

    /// Name and attributes of an existing node.
    pub(super) fn entry(&self, folder: &Arc<Mounted>, local: u64) -> Result<Entry, VfsError> {
        self.shown_entry(folder, || folder.node(local)?.ok_or(VfsError::NotFound))
    }

    /// As [`Core::entry`], for an answer that gives the kernel the inode.
    pub(super) fn known_entry(&self, folder: &Arc<Mounted>, local: u64) -> Result<Entry, VfsError> {
        self.made_known(folder, || self.entry(folder, local))
    }

    /// Notes that the kernel gets the inode of what `entry` answers. What changes for all inodes between collecting the
    /// answer and noting it is not missed: the kernel may then not keep the answer.
    pub(super) fn made_known(
        &self,
        folder: &Mounted,
        entry: impl FnOnce() -> Result<Entry, VfsError>,
    ) -> Result<Entry, VfsError> {
        let foreign = folder.foreign.load(Ordering::Acquire);
        let mut entry = entry()?;
        self.known.add(entry.attr.ino);
        if folder.foreign.load(Ordering::Acquire) != foreign {
            entry.ttl = Duration::ZERO;
        }
        Ok(entry)
    }

    fn shown_entry(&self, folder: &Arc<Mounted>, read: impl Fn() -> Result<Node, VfsError>) -> Result<Entry, VfsError> {
        let foreign = folder.foreign.load(Ordering::Acquire);
        let node = self.shown_node(folder, read)?;
        let attr = folder.attr(&node, folder.writable().is_ok(), &self.options);
        Ok(Entry { attr, ttl: self.ttl_since(folder, foreign) })
    }

    /// Validity of an answer whose collecting began at `foreign`: none if others changed something meanwhile, since the
    /// kernel may hear of that before it gets the answer.
    pub(super) fn ttl_since(&self, folder: &Mounted, foreign: u64) -> Duration {
        if folder.foreign.load(Ordering::Acquire) == foreign { folder.ttl() } else { Duration::ZERO }
    }

    /// The node that `read` finds, with what is written to it and not in the source yet.
    pub(super) fn shown_node(
        &self,
        folder: &Mounted,
        read: impl Fn() -> Result<Node, VfsError>,
    ) -> Result<Node, VfsError> {
        loop {
            let fills = folder.fills.load(Ordering::Acquire);
            let mut node = read()?;
            if let Some(shown) = self.table.shown(folder.ino(node.ino)) {
                shown.apply(&mut node);
                return Ok(node);
            }
            // Not in memory any more; but was it in the source already when that was read?
            if node.kind != NodeKind::File || folder.fills.load(Ordering::Acquire) == fills {
                return Ok(node);
            }
        }
    }
}
