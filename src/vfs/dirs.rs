//! Listing directories, and the list of folders.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::format::NodeKind;

use super::core::Core;
use super::flush::SyncRequest;
use super::handles::DirHandle;
use super::keg_dir::KegListed;
use super::mounted::Mounted;
use super::{DirEntry, Entry, Ino, SyncDone, Vfs, VfsError};

/// Cookies of `.` and `..`; a folder's own are shown one higher than they are, which puts them above.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Names asked for at first. The kernel's first buffer holds about 30 with attributes.
const FIRST_BATCH: usize = 64;
/// Names asked for at most.
const BATCH_MAX: usize = 4096;

impl Vfs {
    /// Opens a directory.
    pub fn opendir(&self, ino: Ino) -> Result<u64, VfsError> {
        let (folder, local, keg, end) = if self.core.is_list(ino) {
            (None, ino, None, 0)
        } else {
            let (folder, local) = self.core.locate(ino)?;
            let keg = match Mounted::is_keg(local) {
                true => Some(self.core.keg_list(&folder, local)?),
                false if !folder.source.node(local)?.ok_or(VfsError::NotFound)?.is_directory() => {
                    return Err(VfsError::NotDirectory);
                }
                false => None,
            };
            let end = if keg.is_some() { 0 } else { folder.source.newest_cookie(local)? };
            (Some(folder), local, keg, end)
        };
        let fh = self.core.table.next_handle();
        let (end, fits) = (AtomicU64::new(end), AtomicUsize::new(FIRST_BATCH));
        let handle = DirHandle { folder, local, keg, end, fits };
        self.core.directories.write().insert(fh, Arc::new(handle));
        Ok(fh)
    }

    /// Lists names behind the cookie `offset` (0: all) until `each` answers `true` (full, the entry was not taken).
    /// `plus`: with attributes. Names that came after [`Vfs::opendir`], and after the last call with an `offset` of 0, are
    /// not among them: else who renames each name to another and back while he lists would never be done.
    pub fn readdir(
        &self,
        fh: u64,
        offset: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
        plus: bool,
    ) -> Result<(), VfsError> {
        let handle = self.core.directories.read().get(&fh).cloned().ok_or(VfsError::BadHandle)?;
        let Some(folder) = &handle.folder else { return self.core.list_folders(offset, each) };
        folder.readable()?;
        let (ino, parent) = (folder.ino(handle.local), self.core.parent_of(folder, handle.local)?);
        if handle.keg.is_none() && offset == 0 {
            handle.end.store(folder.source.newest_cookie(handle.local)?, Ordering::Release);
        }
        if dots(ino, parent, offset, each) {
            return Ok(());
        }
        if let Some(listed) = &handle.keg {
            list_keg(listed, offset, each);
            return Ok(());
        }
        // A folder's own cookies begin above those of `.` and `..`.
        let after = offset.saturating_sub(1).max(1);
        if plus {
            self.list_with_attributes(&handle, folder, after, each)
        } else {
            self.list_names(&handle, folder, after, each)
        }
    }

    fn list_names(
        &self,
        handle: &DirHandle,
        folder: &Mounted,
        mut after: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), VfsError> {
        let end = handle.end.load(Ordering::Acquire);
        let mut taken = 0;
        while after < end {
            let limit = handle.fits.load(Ordering::Relaxed).clamp(FIRST_BATCH, BATCH_MAX);
            let listed = folder.source.list_names(handle.local, after, limit)?;
            let last = listed.len() < limit;
            for item in listed {
                if item.cookie > end {
                    return Ok(());
                }
                let (ino, cookie) = (folder.ino(item.ino), item.cookie + 1);
                if each(DirEntry { ino, cookie, name: &item.name, kind: item.kind, entry: None }) {
                    handle.fits.store(taken + taken / 8 + 1, Ordering::Relaxed);
                    return Ok(());
                }
                after = item.cookie;
                taken += 1;
            }
            if last {
                break;
            }
        }
        Ok(())
    }

    fn list_with_attributes(
        &self,
        handle: &DirHandle,
        folder: &Arc<Mounted>,
        mut after: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), VfsError> {
        let end = handle.end.load(Ordering::Acquire);
        let mut taken = 0;
        while after < end {
            let foreign = folder.foreign.load(Ordering::Acquire);
            let fills = folder.fills.load(Ordering::Acquire);
            let limit = handle.fits.load(Ordering::Relaxed).clamp(FIRST_BATCH, BATCH_MAX);
            let listed = folder.source.list(handle.local, after, limit)?;
            let writable = folder.writable().is_ok();
            let ttl = self.core.ttl_since(folder, foreign);
            let last = listed.len() < limit;
            for mut item in listed {
                if item.cookie > end {
                    return Ok(());
                }
                let ino = folder.ino(item.node.ino);
                match self.core.table.shown(ino) {
                    Some(shown) => shown.apply(&mut item.node),
                    // Not in memory any more; but was it in the source already when that was listed?
                    None if item.node.kind == NodeKind::File && folder.fills.load(Ordering::Acquire) != fills => {
                        let read = || folder.node(item.node.ino)?.ok_or(VfsError::NotFound);
                        item.node = self.core.shown_node(folder, read)?;
                    }
                    None => {}
                }
                self.core.known.add(ino);
                let ttl = ttl.min(self.core.ttl_since(folder, foreign));
                let entry = Entry { attr: folder.attr(&item.node, writable, &self.core.options), ttl };
                let (cookie, kind) = (item.cookie + 1, item.node.kind);
                if each(DirEntry { ino, cookie, name: &item.name, kind, entry: Some(&entry) }) {
                    self.core.known.forget(ino, 1);
                    handle.fits.store(taken + taken / 8 + 1, Ordering::Relaxed);
                    return Ok(());
                }
                after = item.cookie;
                taken += 1;
            }
            if last {
                break;
            }
        }
        Ok(())
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: u64) {
        self.core.directories.write().remove(&fh);
    }

    /// Calls `done` on another thread when everything done before is durable.
    pub fn fsyncdir(&self, fh: u64, done: SyncDone) {
        let handle = self.core.directories.read().get(&fh).cloned();
        match handle.map(|handle| handle.folder.clone()) {
            Some(Some(folder)) => self.core.sync(SyncRequest::of_names(folder, done, self.core.deadline())),
            Some(None) => done(Ok(())),
            None => done(Err(VfsError::BadHandle)),
        }
    }
}

/// Lists what was in a directory of `.keg` when it was opened.
fn list_keg(listed: &[KegListed], offset: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) {
    for (cookie, (name, kind, ino)) in (DOT_DOT + 1..).zip(listed) {
        let entry = DirEntry { ino: *ino, cookie, name, kind: *kind, entry: None };
        if cookie > offset && each(entry) {
            return;
        }
    }
}

/// Lists `.` and `..`; returns whether the list is full.
fn dots(ino: Ino, parent: Ino, offset: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> bool {
    let dot = |ino, cookie, name| DirEntry { ino, cookie, name, kind: NodeKind::Directory, entry: None };
    (offset < DOT && each(dot(ino, DOT, b".".as_slice()))) || (offset < DOT_DOT && each(dot(parent, DOT_DOT, b"..")))
}

impl Core {
    fn parent_of(&self, folder: &Mounted, local: u64) -> Result<Ino, VfsError> {
        if Mounted::is_keg(local) {
            return self.keg_parent(folder, local);
        }
        let root = folder.ino(local) == folder.root();
        if root { Ok(folder.above().unwrap_or(super::ROOT)) } else { Ok(folder.ino(folder.source.parent(local)?)) }
    }

    /// Folders and the names under which they are listed: their own, made unique and possible.
    fn folder_names(&self) -> Vec<(String, Arc<Mounted>)> {
        let mut taken = HashSet::new();
        let mut named = Vec::new();
        for folder in self.mounted() {
            let own = folder.source.name().replace(['/', '\0'], "_");
            let own = if matches!(own.as_str(), "" | "." | "..") { "folder".to_owned() } else { own };
            let mut name = own.clone();
            let mut n = 1;
            while !taken.insert(name.clone()) {
                n += 1;
                name = format!("{own} ({n})");
            }
            named.push((name, folder));
        }
        named
    }

    pub(super) fn lookup_folder(&self, name: &[u8]) -> Result<Entry, VfsError> {
        if matches!(name, b"." | b"..") {
            let (attr, ttl) = self.list_attr();
            return Ok(Entry { attr, ttl });
        }
        let mut named = self.folder_names().into_iter();
        let (_, folder) = named.find(|(own, _)| own.as_bytes() == name).ok_or(VfsError::NotFound)?;
        folder.readable()?;
        self.known_entry(&folder, crate::keg::ROOT_INO)
    }

    fn list_folders(&self, offset: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), VfsError> {
        if dots(super::ROOT, super::ROOT, offset, each) {
            return Ok(());
        }
        for (name, folder) in self.folder_names() {
            let (index, _) = Mounted::split(folder.root());
            let cookie = DOT_DOT + index;
            let entry =
                DirEntry { ino: folder.root(), cookie, name: name.as_bytes(), kind: NodeKind::Directory, entry: None };
            if cookie > offset && folder.readable().is_ok() && each(entry) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::memory::MemoryFolder;
    use super::super::{Caller, OpenMode, ROOT, VfsOptions};
    use super::*;
    use crate::sys::threads;

    #[test]
    fn a_listing_asks_nothing_about_open_files_that_it_does_not_list() {
        let caller = Caller { uid: 1, gid: 1, pid: 1, umask: 0 };
        let vfs = Vfs::single(MemoryFolder::new("acme"), VfsOptions::default()).unwrap();
        let (here, there) = (vfs.mkdir(ROOT, b"here", 0o755, &caller), vfs.mkdir(ROOT, b"there", 0o755, &caller));
        let (here, there) = (here.unwrap().attr.ino, there.unwrap().attr.ino);
        vfs.mkdir(here, b"listed", 0o755, &caller).unwrap();
        let mode = OpenMode { read: true, write: true, exclusive: false };
        let (made, opened) = vfs.create(there, b"busy", 0o644, mode, &caller).unwrap();
        vfs.write(opened.fh, 0, b"text").unwrap();
        // Somebody is at work in the file.
        let busy = vfs.core.table.get(made.attr.ino).unwrap();
        let state = busy.state.lock();
        let (tell, told) = mpsc::channel();
        let lister = vfs.clone();
        threads::spawn("lister", move || {
            let fh = lister.opendir(here).unwrap();
            let mut names = 0;
            let mut each = |_: DirEntry<'_>| {
                names += 1;
                false
            };
            lister.readdir(fh, 0, &mut each, true).unwrap();
            tell.send(names).unwrap();
        })
        .unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(3));
        drop(state);
    }
}
