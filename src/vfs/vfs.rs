//! [`Vfs`]: making it, changing which folders it shows, ending it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zeroize::Zeroize;

use super::core::Core;
use super::{FolderSource, Ino, Notifier, VfsError, VfsOptions};
use crate::format::KegId;

/// One mount: one folder, or all of them in a directory each.
pub struct Vfs {
    pub(super) core: Arc<Core>,
}

impl Vfs {
    /// A mount whose root is the root of `folder`.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn single(folder: Arc<dyn FolderSource>, options: VfsOptions) -> Result<Arc<Self>, VfsError> {
        let core = Core::start(options, false)?;
        core.add(folder);
        Ok(Arc::new(Self { core }))
    }

    /// A mount whose root lists folders; see [`Vfs::add_folder`].
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn all(options: VfsOptions) -> Result<Arc<Self>, VfsError> {
        Ok(Arc::new(Self { core: Core::start(options, true)? }))
    }

    /// Adds a folder to a mount made by [`Vfs::all`]; returns its root's number.
    pub fn add_folder(&self, folder: Arc<dyn FolderSource>) -> Result<Ino, VfsError> {
        if !self.core.lists_folders {
            return Err(VfsError::InvalidArgument);
        }
        let folder = self.core.add(folder);
        if let Some(notifier) = self.core.notifier.get() {
            notifier.inode(super::ROOT, 0, 0);
            notifier.entry(super::ROOT, folder.source.name().as_bytes());
        }
        Ok(folder.root())
    }

    /// The mount stores access control lists and relies on the kernel to enforce them.
    pub fn has_acls(&self) -> bool {
        self.core.options.owners_stored
    }

    /// Who is told of changes by others. Set once, after the kernel session exists; later calls change nothing.
    pub fn set_notifier(&self, notifier: Arc<dyn Notifier>) {
        let _ = self.core.notifier.set(notifier);
    }

    /// Plaintext bytes in memory: written and not sealed yet, opened and kept for reading.
    pub fn memory_bytes(&self) -> (usize, usize) {
        (self.core.budget.used(), self.core.segments.bytes())
    }

    /// Has everything sealed and journaled that was written so far, and makes it durable.
    ///
    /// # Errors
    /// The first failure; what could not be flushed stays in memory.
    pub fn flush_all(&self, deadline: Duration) -> Result<(), VfsError> {
        self.core.flush_all(super::buffer::deadline_in(deadline))
    }

    /// Files with content in memory that their folders do not have yet. `None`: that cannot be told now. May be called by who
    /// keeps readers of a folder waiting.
    pub fn unflushed(&self) -> Option<HashSet<KegId>> {
        self.core.table.unflushed()
    }

    /// Flushes everything to the journal, wipes all plaintext, and fails every later operation with
    /// [`VfsError::Gone`].
    ///
    /// # Errors
    /// Where something could not be flushed within `deadline`: then nothing is wiped and the mount goes on, so that the
    /// caller can say so and try again.
    pub fn shutdown(&self, deadline: Duration) -> Result<(), VfsError> {
        if self.core.is_stopped() {
            return Ok(());
        }
        self.core.set_closing(true);
        if let Err(error) = self.flush_all(deadline) {
            self.core.set_closing(false);
            return Err(error);
        }
        self.abandon();
        Ok(())
    }

    /// Wipes all plaintext and ends the mount, whatever is not in the journal yet.
    pub fn abandon(&self) {
        let core = &self.core;
        core.stop();
        for folder in core.mounted() {
            folder.leave();
        }
        core.drop_locks(|_| true);
        for handle in std::mem::take(&mut *core.files.write()).into_values() {
            handle.reader.closed.store(true, Ordering::Release);
        }
        core.directories.write().clear();
        core.keg_files.write().clear();
        core.table.wipe();
        for folder in core.mounted() {
            folder.nameless.clear();
        }
        core.failed.lock().clear();
        core.segments.close();
        core.budget.close();
        let replies = std::mem::take(&mut *core.replies.lock());
        replies.into_iter().for_each(|mut bytes| bytes.zeroize());
    }
}

impl Drop for Vfs {
    fn drop(&mut self) {
        // Whoever wanted the last to be flushed has called `shutdown`.
        if !self.core.is_stopped() {
            self.abandon();
        }
    }
}
