//! Files without a name (`O_TMPFILE`): they are here alone, until linkat(2) gives them one.
//!
//! Nothing of them is in the journal, so nobody else ever sees them and a crash leaves nothing: what was sealed of them is
//! in the spool without an operation that names it, and goes when the folder is opened. Their content is that of any file
//! that is open and has no name any more. They end when the kernel forgets them, which is when the last who had them open
//! or mapped is gone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::format::{NodeKind, OpKind};
use crate::keg::{Node, PENDING_SEQ, Stamp};
use crate::sys::clock;

use super::acl;
use super::core::Core;
use super::flush::Flush;
use super::handles::FileHandle;
use super::inode::Pin;
use super::mounted::Mounted;
use super::names::{New, create, live_directory};
use super::{Caller, Entry, Ino, OpenMode, Opened, Vfs, VfsError};

/// One such file. Keeps its content in memory: without handles it can still get a name.
struct File {
    node: Node,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pin: Pin,
}

/// Those of a folder, by the folder's own numbers.
#[derive(Default)]
pub(super) struct Nameless {
    /// Taken after all other locks of the vfs; the folder's own are taken under it.
    files: Mutex<HashMap<u64, File>>,
    /// How many there are: mostly none, and then nobody takes the lock.
    count: AtomicUsize,
}

impl Nameless {
    fn with<T>(&self, local: u64, body: impl FnOnce(&mut File) -> T) -> Option<T> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.files.lock().get_mut(&local).map(body)
    }

    /// It has no name, and may get one.
    pub(super) fn has(&self, local: u64) -> bool {
        self.with(local, |_| ()).is_some()
    }

    /// The kernel has forgotten the file.
    pub(super) fn forget(&self, local: u64) {
        if self.has(local) {
            let gone = self.files.lock().remove(&local);
            self.count.fetch_sub(usize::from(gone.is_some()), Ordering::AcqRel);
            // Its content goes with it, outside of the lock.
            drop(gone);
        }
    }

    /// All of them are gone.
    pub(super) fn clear(&self) {
        let gone = std::mem::take(&mut *self.files.lock());
        self.count.fetch_sub(gone.len(), Ordering::AcqRel);
        drop(gone);
    }
}

impl Mounted {
    /// The node with the folder's own number `local`, whether it has a name or not.
    pub(super) fn node(&self, local: u64) -> Result<Option<Node>, VfsError> {
        match self.nameless.with(local, |file| file.node.clone()) {
            Some(node) => Ok(Some(node)),
            None => self.source.node(local),
        }
    }

    /// One extended attribute.
    pub(super) fn xattr(&self, local: u64, name: &[u8]) -> Result<Option<Vec<u8>>, VfsError> {
        match self.nameless.with(local, |file| file.xattrs.get(name).cloned()) {
            Some(value) => Ok(value),
            None => self.source.xattr(local, name),
        }
    }

    /// The names of all extended attributes.
    pub(super) fn xattrs(&self, local: u64) -> Result<Vec<Vec<u8>>, VfsError> {
        match self.nameless.with(local, |file| file.xattrs.keys().cloned().collect()) {
            Some(names) => Ok(names),
            None => self.source.xattrs(local),
        }
    }

    /// Changes attributes of a node.
    pub(super) fn change(&self, local: u64, kind: OpKind, at_ns: i64) -> Result<(), VfsError> {
        if self.nameless.with(local, |file| file.change(&kind, at_ns)).is_some() {
            return Ok(());
        }
        self.source.submit(kind, at_ns)
    }
}

impl File {
    fn change(&mut self, kind: &OpKind, at_ns: i64) {
        let node = &mut self.node;
        match kind {
            OpKind::SetAttr { mode, uid, gid, atime_ns, mtime_ns, .. } => {
                node.mode = mode.unwrap_or(node.mode);
                node.uid = uid.unwrap_or(node.uid);
                node.gid = gid.unwrap_or(node.gid);
                node.atime_ns = atime_ns.unwrap_or(node.atime_ns);
                node.mtime_ns = mtime_ns.unwrap_or(node.mtime_ns);
            }
            OpKind::SetXattr { name, value, .. } => {
                self.xattrs.insert(name.clone(), value.clone());
            }
            OpKind::RemoveXattr { name, .. } => {
                self.xattrs.remove(name);
            }
            // Everything else is about names or content.
            _ => return,
        }
        node.ctime_ns = at_ns;
    }
}

impl Vfs {
    /// Creates and opens a file without a name in the file system of the directory `parent`.
    pub fn create_nameless(
        &self,
        parent: Ino,
        mode: u16,
        open: OpenMode,
        caller: &Caller,
    ) -> Result<(Entry, Opened), VfsError> {
        let core = &self.core;
        let (folder, local) = core.locate_writable(parent)?;
        let directory = live_directory(&folder, local)?;
        let new = New { kind: NodeKind::File, mode, rdev: 0, target: &[] };
        let inherited = core.inherited(&folder, &directory, &new)?;
        // Owner and mode as those of a file that is created there.
        let made = create(&directory, b"", new, inherited.as_ref(), caller);
        let OpKind::Create { keg, mode, uid, gid, .. } = made else { return Err(VfsError::InvalidArgument) };
        let number = folder.source.fresh_number()?;
        let now_ns = clock::unix_nanos();
        let node = Node {
            keg,
            ino: number,
            kind: NodeKind::File,
            mode,
            uid,
            gid,
            nlink: 0,
            atime_ns: now_ns,
            mtime_ns: now_ns,
            ctime_ns: now_ns,
            btime_ns: now_ns,
            content: Stamp { seq: PENDING_SEQ, device: folder.source.device() },
            ..Node::root()
        };
        let (kept, opened) = (core.table.pin(&folder, number, keg), core.table.pin(&folder, number, keg));
        kept.bare.store(inherited.is_none(), Ordering::Release);
        kept.state.lock().unlinked = true;
        let mut file = File { node, xattrs: BTreeMap::new(), pin: kept };
        if let Some(inherited) = inherited {
            let node = file.node.clone();
            inherited.rest(&node).for_each(|kind| file.change(&kind, now_ns));
        }
        let attr = folder.attr(&file.node, true, &core.options);
        folder.nameless.files.lock().insert(number, file);
        folder.nameless.count.fetch_add(1, Ordering::AcqRel);
        core.known.add(folder.ino(number));
        let fh = core.add_file(FileHandle::new(opened, open));
        let entry = Entry { attr, ttl: folder.ttl() };
        Ok((entry, Opened { fh, keep_cache: false, direct: false }))
    }
}

impl Core {
    /// Gives a file without a name one that is free. The caller holds the folder's `names`.
    pub(super) fn name_nameless(
        &self,
        folder: &Arc<Mounted>,
        local: u64,
        parent: &Node,
        name: &[u8],
    ) -> Result<(), VfsError> {
        let source = &folder.source;
        let file = {
            let mut files = folder.nameless.files.lock();
            let file = files.get(&local).ok_or(VfsError::NotFound)?;
            let now_ns = clock::unix_nanos();
            let Node { keg, mode, uid, gid, atime_ns, mtime_ns, .. } = file.node;
            let made = OpKind::Create {
                keg,
                parent: parent.keg,
                name: name.to_vec(),
                kind: NodeKind::File,
                mode: acl::until_listed(mode, file.xattrs.get(acl::ACCESS).map(Vec::as_slice)),
                uid,
                gid,
                rdev: 0,
                target: Vec::new(),
            };
            source.submit_numbered(made, now_ns, local)?;
            // It has a name: from here on nothing is asked of it here, whatever fails.
            let file = files.remove(&local).ok_or(VfsError::NotFound)?;
            folder.nameless.count.fetch_sub(1, Ordering::AcqRel);
            for (name, value) in &file.xattrs {
                let kind = OpKind::SetXattr { keg, name: name.clone(), value: value.clone() };
                source.submit(kind, now_ns)?;
            }
            let rest = OpKind::SetAttr {
                keg,
                mode: Some(mode),
                uid: None,
                gid: None,
                atime_ns: Some(atime_ns),
                mtime_ns: Some(mtime_ns),
            };
            source.submit(rest, now_ns)?;
            file
        };
        let inode = &*file.pin;
        let mut state = inode.state.lock();
        state.unlinked = false;
        inode.map.lock().forget();
        match &mut state.current {
            Some(layer) => {
                layer.base = source.head();
                self.start_flush(inode, &mut state, Flush::Settle)
            }
            None => {
                source.let_go(&file.node.keg);
                Ok(())
            }
        }
    }
}
