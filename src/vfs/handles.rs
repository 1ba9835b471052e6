//! Open files and directories.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::core::Core;
use super::inode::Pin;
use super::keg_dir::KegListed;
use super::mounted::Mounted;
use super::prefetch::Reader;
use super::stores::Writing;
use super::{OpenMode, VfsError};

/// An open file. Holds its inode in the table.
pub(super) struct FileHandle {
    pub pin: Pin,
    pub mode: OpenMode,
    /// How it is being read.
    pub reader: Arc<Reader>,
    _writing: Option<Writing>,
    _open: Open,
}

/// Tells the folder that the file is open, for as long as it lives.
struct Open {
    folder: Arc<Mounted>,
    local: u64,
}

impl Open {
    fn begin(pin: &Pin) -> Self {
        pin.folder.source.opened(pin.local);
        Self { folder: pin.folder.clone(), local: pin.local }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.folder.source.closed(self.local);
    }
}

/// An open directory.
pub(super) struct DirHandle {
    /// `None`: the list of folders.
    pub folder: Option<Arc<Mounted>>,
    pub local: u64,
    /// In `.keg`: what it listed when it was opened.
    pub keg: Option<Vec<KegListed>>,
    /// What has a cookie above this came after the directory was opened, or read from its beginning, and is not listed.
    pub end: AtomicU64,
    /// How many names the last answer had room for: the next one asks for a few more than that.
    pub fits: AtomicUsize,
}

impl FileHandle {
    /// Where it may write, the kernel is handed nothing of the file from now on.
    pub(super) fn new(pin: Pin, mode: OpenMode) -> Self {
        let writing = mode.write.then(|| Writing::begin(&pin));
        let open = Open::begin(&pin);
        Self { pin, mode, reader: Arc::new(Reader::default()), _writing: writing, _open: open }
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
    /// Gives the handle its number.
    pub(super) fn add_file(&self, handle: FileHandle) -> u64 {
        let fh = self.table.next_handle();
        self.files.write().insert(fh, Arc::new(handle));
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
