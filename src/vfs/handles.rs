//! Open files and directories.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::core::Core;
use super::inode::Pin;
use super::mounted::Mounted;
use super::prefetch::Reader;
use super::{OpenMode, VfsError};

/// An open file. Holds its inode in the table.
pub(super) struct FileHandle {
    pub pin: Pin,
    pub mode: OpenMode,
    /// How it is being read.
    pub reader: Arc<Reader>,
}

/// An open directory.
pub(super) struct DirHandle {
    /// `None`: the list of folders.
    pub folder: Option<Arc<Mounted>>,
    pub local: u64,
    /// How many names the last answer had room for: the next one asks for a few more than that.
    pub fits: AtomicUsize,
}

impl FileHandle {
    fn new(pin: Pin, mode: OpenMode) -> Self {
        Self { pin, mode, reader: Arc::new(Reader::default()) }
    }

    /// Opened for writing, and writing is still allowed.
    pub(super) fn check_writable(&self, core: &Core) -> Result<(), VfsError> {
        if !self.mode.write {
            return Err(VfsError::BadHandle);
        }
        if core.is_closing() {
            return Err(VfsError::Gone);
        }
        self.pin.folder.writable()
    }
}

impl Core {
    /// A new handle.
    pub(super) fn add_file(&self, pin: Pin, mode: OpenMode) -> u64 {
        let fh = self.table.next_handle();
        self.files.write().insert(fh, Arc::new(FileHandle::new(pin, mode)));
        fh
    }

    /// The handle.
    pub(super) fn file(&self, fh: u64) -> Result<Arc<FileHandle>, VfsError> {
        self.files.read().get(&fh).cloned().ok_or(if self.is_stopped() { VfsError::Gone } else { VfsError::BadHandle })
    }

    /// Takes the handle away.
    pub(super) fn remove_file(&self, fh: u64) -> Option<Arc<FileHandle>> {
        let handle = self.files.write().remove(&fh)?;
        handle.reader.closed.store(true, Ordering::Release);
        Some(handle)
    }
}
