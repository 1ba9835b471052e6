//! Taking a folder out of a mount while files of it may be open.
//!
//! What was written and is not in the journal yet still goes there: the folder's owner of the moment decides what becomes
//! of it. Then nothing of the folder is left in memory.

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroize;

use super::flush::{Flush, wait_settled};
use super::mounted::Mounted;
use super::{Ino, Vfs, VfsError};

impl Vfs {
    /// Takes the folder with this root away. Operations on it, open handles and mappings included, answer
    /// [`VfsError::Gone`] at once; the kernel forgets what it has cached. Then brings what was written into the journal,
    /// for at most `patience`, and wipes it and everything that was opened for reading. In a mount of all folders its
    /// name is gone.
    ///
    /// # Errors
    /// [`VfsError::NotFound`]; or the first failure to bring content to the journal: that content is lost.
    pub fn remove_folder(&self, root: Ino, patience: Duration) -> Result<(), VfsError> {
        let core = &self.core;
        let folder = {
            let (index, _) = Mounted::split(root);
            let mut folders = core.folders.write();
            let place = folders.get_mut(&index).ok_or(VfsError::NotFound)?;
            // The root of a mount stays; there is nothing in its place.
            let found = if core.lists_folders { place.take() } else { place.clone() };
            found.ok_or(VfsError::NotFound)?
        };
        folder.leave();
        core.drop_locks(|other| Arc::ptr_eq(other, &folder));
        if let Some(notifier) = core.notifier.get() {
            if core.lists_folders {
                notifier.entry(super::ROOT, folder.source.name().as_bytes());
                notifier.inode(super::ROOT, 0, 0);
            }
            core.tell_standing(&folder, &**notifier);
        }
        let flushed = self.flush_folder(&folder, patience);
        self.drop_trees(&folder);
        core.table.wipe_those(|inode| Arc::ptr_eq(&inode.folder, &folder) || inode.folder.is_within(&folder));
        folder.nameless.clear();
        // Segments do not know their folder; those of others are opened again when they are read.
        core.segments.clear();
        let replies = std::mem::take(&mut *core.replies.lock());
        replies.into_iter().for_each(|mut bytes| bytes.zeroize());
        flushed
    }

    /// Takes the other states of a folder away, which have answered nothing since the folder does not.
    fn drop_trees(&self, folder: &Mounted) {
        let core = &self.core;
        for tree in folder.keg.clear() {
            if let Some(notifier) = core.notifier.get() {
                core.tell_standing(&tree, &**notifier);
            }
            let (index, _) = Mounted::split(tree.root());
            if let Some(place) = core.folders.write().get_mut(&index) {
                *place = None;
            }
        }
    }

    fn flush_folder(&self, folder: &Arc<Mounted>, patience: Duration) -> Result<(), VfsError> {
        let core = &self.core;
        let deadline = super::buffer::deadline_in(patience);
        let inodes: Vec<_> = core.table.all().into_iter().filter(|inode| Arc::ptr_eq(&inode.folder, folder)).collect();
        let mut first = Ok(());
        for inode in &inodes {
            let mut state = inode.state.lock();
            state.error = None;
            first = first.and(core.start_flush(inode, &mut state, Flush::Settle));
        }
        core.nudge();
        for inode in &inodes {
            first = first.and(wait_settled(inode, deadline));
        }
        first.and_then(|()| core.make_durable(folder, deadline))
    }
}
