//! The client's own blobs: the spool (sealed, not yet on the server) and the cache (fetched or uploaded).
//!
//! Both are directories of ciphertext files named by blob id. What is put in was verified before or was sealed here; what
//! is read is authenticated by who opens it. A file gets its name by a rename once it is whole, so a killed process leaves
//! no half blob under a name; a machine that loses power may, for spool files that [`LocalStore::sync_spool`] was not
//! called for.
//!
//! The spool is never evicted. The cache is bounded in bytes and loses what was read longest ago; it also gives way when
//! the disk is full and the spool needs room.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use crate::format::BlobId;
use crate::sys::bulk::BulkFile;
use crate::sys::files;

/// Files kept open for reading: 2 GiB of large blobs. Opening costs as much as reading a segment that the page cache has,
/// so jumping about in a large file should not open again and again.
const OPEN_FILES: usize = 512;
/// Why a local blob cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The blob is neither in the spool nor in the cache.
    #[error("blob {0} is not stored locally")]
    Missing(BlobId),
    /// The file system has no room, and emptying the cache has not helped.
    #[error("no space left on the disk for {}; free some space, nothing that was saved is lost", .file.display())]
    DiskFull {
        /// The file being written.
        file: PathBuf,
    },
    /// The blob is shorter than what was asked for: the file was cut or damaged.
    #[error("{} is shorter than the blob it should hold; it is fetched again if the server has it", .file.display())]
    Short {
        /// The file.
        file: PathBuf,
    },
    /// The system refused.
    #[error("{}: {source}", .file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl LocalError {
    fn io(file: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { file: file.to_owned() },
            io::ErrorKind::UnexpectedEof => Self::Short { file: file.to_owned() },
            _ => Self::Io { file: file.to_owned(), source },
        }
    }
}

/// Faults that [`LocalStore::inject`] makes happen, for tests of the rooms above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalFault {
    /// Every write finds the disk full.
    DiskFull,
    /// Every read fails.
    Unreadable,
    /// Every sync fails.
    Unsyncable,
}

/// Bytes and files of each part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalUsage {
    /// Bytes that the server does not have yet.
    pub spool_bytes: u64,
    /// Blobs that the server does not have yet.
    pub spool_blobs: u64,
    /// Bytes that can be fetched again.
    pub cache_bytes: u64,
    /// Blobs that can be fetched again.
    pub cache_blobs: u64,
}

/// See the head of this file. All methods may be called from any thread.
pub struct LocalStore {
    spool_dir: PathBuf,
    cache_dir: PathBuf,
    cache_max: AtomicU64,
    /// Held for changes of the maps and the renames and removals that go with them, never while bytes are written.
    index: Mutex<Index>,
    open: Mutex<LruCache<BlobId, Arc<File>>>,
    temporary: AtomicU64,
    fault: AtomicU8,
}

struct Index {
    spool: HashMap<BlobId, u64>,
    spool_bytes: u64,
    /// Spooled, and maybe not on the disk yet.
    unsynced: HashSet<BlobId>,
    cache: LruCache<BlobId, u64>,
    cache_bytes: u64,
}

impl LocalStore {
    /// Opens the store in `dir`, creating it where there is none, with a cache of at most `cache_max` bytes. Files that
    /// a killed process left half written are removed.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(dir: &Path, cache_max: u64) -> Result<Self, LocalError> {
        let (spool_dir, cache_dir) = (dir.join("spool"), dir.join("cache"));
        for dir in [&spool_dir, &cache_dir] {
            files::create_private_dir(dir).map_err(|error| LocalError::io(dir, error))?;
        }
        let spooled = list(&spool_dir)?;
        let mut cached = list(&cache_dir)?;
        // Oldest first, so that the newest is the last to be evicted.
        cached.sort_by_key(|found| found.modified);
        let mut index = Index {
            spool_bytes: spooled.iter().map(|found| found.size).sum(),
            unsynced: spooled.iter().map(|found| found.id).collect(),
            spool: spooled.into_iter().map(|found| (found.id, found.size)).collect(),
            cache_bytes: cached.iter().map(|found| found.size).sum(),
            cache: LruCache::unbounded(),
        };
        for found in cached {
            index.cache.put(found.id, found.size);
        }
        let store = Self {
            spool_dir,
            cache_dir,
            cache_max: AtomicU64::new(cache_max),
            index: Mutex::new(index),
            open: Mutex::new(LruCache::new(NonZeroUsize::new(OPEN_FILES).unwrap_or(NonZeroUsize::MIN))),
            temporary: AtomicU64::new(0),
            fault: AtomicU8::new(0),
        };
        store.evict(cache_max);
        Ok(store)
    }

    /// Puts a freshly sealed blob into the spool. Survives the process at once, the machine after
    /// [`Self::sync_spool`]. Putting it again does nothing.
    ///
    /// # Errors
    /// [`LocalError::DiskFull`] after the cache was emptied in vain, or the system's.
    pub fn spool(&self, id: &BlobId, bytes: &[u8]) -> Result<(), LocalError> {
        if self.index.lock().spool.contains_key(id) {
            return Ok(());
        }
        let temp = match self.write_temp(&self.spool_dir, bytes) {
            Err(LocalError::DiskFull { .. }) => {
                // What can be fetched again gives way to what cannot.
                self.clear_cache()?;
                self.write_temp(&self.spool_dir, bytes)?
            }
            other => other?,
        };
        let path = self.spool_dir.join(id.to_string());
        let mut index = self.index.lock();
        rename(&temp, &path)?;
        if index.spool.insert(*id, bytes.len() as u64).is_none() {
            index.spool_bytes += bytes.len() as u64;
        }
        index.unsynced.insert(*id);
        Ok(())
    }

    /// Makes spooled blobs durable: their bytes and their names. Blobs that have left the spool are durable elsewhere
    /// (on the server) and are skipped.
    ///
    /// # Errors
    /// The system's; then none of them is sure to be durable.
    pub fn sync_spool(&self, ids: &[BlobId]) -> Result<(), LocalError> {
        let waiting: Vec<BlobId> = {
            let index = self.index.lock();
            ids.iter().filter(|id| index.unsynced.contains(id)).copied().collect()
        };
        if waiting.is_empty() {
            return Ok(());
        }
        let failed = |file: &Path, error| Err(LocalError::io(file, error));
        if self.faulty(LocalFault::Unsyncable) {
            return failed(&self.spool_dir, io::Error::other("injected"));
        }
        for id in &waiting {
            let path = self.spool_dir.join(id.to_string());
            match File::open(&path).and_then(|file| file.sync_data()) {
                Ok(()) => {}
                // Uploaded meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_spooled(id) => {}
                Err(error) => return failed(&path, error),
            }
        }
        files::sync_dir(&self.spool_dir).or_else(|error| failed(&self.spool_dir, error))?;
        let mut index = self.index.lock();
        for id in &waiting {
            index.unsynced.remove(id);
        }
        Ok(())
    }

    /// Makes the whole spool durable. A durable journal names blobs of other files too: whoever makes the journal durable
    /// calls this before, or loses those files' newest content to a power cut that comes before the upload.
    ///
    /// # Errors
    /// As [`Self::sync_spool`].
    pub fn sync_all(&self) -> Result<(), LocalError> {
        let waiting: Vec<BlobId> = self.index.lock().unsynced.iter().copied().collect();
        self.sync_spool(&waiting)
    }

    /// Fills `buf` from byte `offset` of the blob.
    ///
    /// # Errors
    /// [`LocalError::Missing`], [`LocalError::Short`] when the blob ends before, or the system's.
    pub fn read_at(&self, id: &BlobId, offset: u64, buf: &mut [u8]) -> Result<(), LocalError> {
        let path = self.locate(id)?;
        if self.faulty(LocalFault::Unreadable) {
            return Err(LocalError::io(&path, io::Error::other("injected")));
        }
        let file = self.file(id, &path)?;
        file.read_exact_at(buf, offset).map_err(|error| LocalError::io(&path, error))
    }

    /// The whole blob.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub fn read(&self, id: &BlobId) -> Result<Vec<u8>, LocalError> {
        let size = self.size(id).ok_or(LocalError::Missing(*id))?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.read_at(id, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Makes the blob's bytes a file at `to` as well, durable but for its name; what is there already stays.
    ///
    /// # Errors
    /// [`LocalError::Missing`], or the system's.
    pub fn copy_to(&self, id: &BlobId, to: &Path) -> Result<(), LocalError> {
        let path = self.locate(id)?;
        let linked = match fs::hard_link(&path, to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Another file system, or one without links.
            Err(error) if error.kind() != io::ErrorKind::NotFound => fs::copy(&path, to).map(drop),
            other => other,
        };
        let durable = linked.and_then(|()| File::open(to)).and_then(|file| file.sync_data());
        durable.map_err(|error| LocalError::io(to, error))
    }

    /// The blob's bytes hash to its id: after a power cut a spooled blob may have lost bytes.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub fn verify(&self, id: &BlobId) -> Result<bool, LocalError> {
        Ok(blake3::hash(&self.read(id)?).as_bytes() == id.as_bytes())
    }

    /// Length of the blob in bytes, if it is here.
    pub fn size(&self, id: &BlobId) -> Option<u64> {
        let index = self.index.lock();
        index.spool.get(id).or_else(|| index.cache.peek(id)).copied()
    }

    /// The blob is here.
    pub fn contains(&self, id: &BlobId) -> bool {
        let index = self.index.lock();
        index.spool.contains_key(id) || index.cache.contains(id)
    }

    /// The blob waits for its upload.
    pub fn is_spooled(&self, id: &BlobId) -> bool {
        self.index.lock().spool.contains_key(id)
    }

    /// The server has the blob now: it moves from the spool to the cache. Does nothing for blobs that are not spooled.
    ///
    /// # Errors
    /// The system's.
    pub fn uploaded(&self, id: &BlobId) -> Result<(), LocalError> {
        {
            let mut index = self.index.lock();
            let Some(size) = index.spool.get(id).copied() else { return Ok(()) };
            let name = id.to_string();
            rename(&self.spool_dir.join(&name), &self.cache_dir.join(&name))?;
            index.spool.remove(id);
            index.unsynced.remove(id);
            index.spool_bytes -= size;
            index.add_cached(*id, size);
        }
        self.evict(self.cache_max.load(Ordering::Relaxed));
        Ok(())
    }

    /// Removes a spooled blob that no pending operation names any more.
    ///
    /// # Errors
    /// The system's.
    pub fn discard(&self, id: &BlobId) -> Result<(), LocalError> {
        let mut index = self.index.lock();
        if let Some(size) = index.spool.remove(id) {
            index.spool_bytes -= size;
            index.unsynced.remove(id);
            self.open.lock().pop(id);
            remove(&self.spool_dir.join(id.to_string()))?;
        }
        Ok(())
    }

    /// Keeps a fetched, verified blob. The cache never stops the work: blobs longer than it, and blobs for which there is
    /// no room, are not kept.
    ///
    /// # Errors
    /// The system's, but not a full disk.
    pub fn cache(&self, id: &BlobId, bytes: &[u8]) -> Result<(), LocalError> {
        let max = self.cache_max.load(Ordering::Relaxed);
        let size = bytes.len() as u64;
        if size > max || self.contains(id) {
            return Ok(());
        }
        let temp = match self.write_temp(&self.cache_dir, bytes) {
            Err(LocalError::DiskFull { .. }) => {
                self.evict(self.usage().cache_bytes / 2);
                return Ok(());
            }
            other => other?,
        };
        {
            let mut index = self.index.lock();
            rename(&temp, &self.cache_dir.join(id.to_string()))?;
            index.add_cached(*id, size);
        }
        self.evict(max);
        Ok(())
    }

    /// Drops the blob if it is in the cache and its bytes do not hash to its id any more; tells whether it did. One that is
    /// spooled stays: it is the only one.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub fn drop_damaged(&self, id: &BlobId) -> Result<bool, LocalError> {
        if self.is_spooled(id) || self.verify(id)? {
            return Ok(false);
        }
        let mut index = self.index.lock();
        let Some(size) = index.cache.pop(id) else { return Ok(false) };
        index.cache_bytes -= size;
        self.open.lock().pop(id);
        remove(&self.cache_dir.join(id.to_string()))?;
        Ok(true)
    }

    /// Empties the cache.
    ///
    /// # Errors
    /// The system's.
    pub fn clear_cache(&self) -> Result<(), LocalError> {
        self.evict(0);
        match self.usage().cache_blobs {
            0 => Ok(()),
            _ => Err(LocalError::Io {
                file: self.cache_dir.clone(),
                source: io::Error::other("some files could not be removed"),
            }),
        }
    }

    /// Changes the bound of the cache, evicting what is above it.
    pub fn set_cache_max(&self, bytes: u64) {
        self.cache_max.store(bytes, Ordering::Relaxed);
        self.evict(bytes);
    }

    /// Blobs that wait for their upload, with their lengths.
    pub fn spooled(&self) -> Vec<(BlobId, u64)> {
        self.index.lock().spool.iter().map(|(id, size)| (*id, *size)).collect()
    }

    /// How much is here.
    pub fn usage(&self) -> LocalUsage {
        let index = self.index.lock();
        LocalUsage {
            spool_bytes: index.spool_bytes,
            spool_blobs: index.spool.len() as u64,
            cache_bytes: index.cache_bytes,
            cache_blobs: index.cache.len() as u64,
        }
    }

    /// Makes a fault happen from now on, or no more. For tests.
    pub fn inject(&self, fault: Option<LocalFault>) {
        self.fault.store(fault.map_or(0, number), Ordering::Relaxed);
    }

    fn faulty(&self, fault: LocalFault) -> bool {
        self.fault.load(Ordering::Relaxed) == number(fault)
    }

    /// Where the blob is; counts as reading it.
    fn locate(&self, id: &BlobId) -> Result<PathBuf, LocalError> {
        let mut index = self.index.lock();
        let name = id.to_string();
        if index.spool.contains_key(id) {
            return Ok(self.spool_dir.join(name));
        }
        match index.cache.get(id) {
            Some(_) => Ok(self.cache_dir.join(name)),
            None => Err(LocalError::Missing(*id)),
        }
    }

    fn file(&self, id: &BlobId, path: &Path) -> Result<Arc<File>, LocalError> {
        if let Some(file) = self.open.lock().get(id) {
            return Ok(Arc::clone(file));
        }
        let opened = File::open(path).or_else(|error| match error.kind() {
            // It moved from spool to cache since it was located.
            io::ErrorKind::NotFound => File::open(self.cache_dir.join(id.to_string())),
            _ => Err(error),
        });
        let file = Arc::new(opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LocalError::Missing(*id),
            _ => LocalError::io(path, error),
        })?);
        // Who reads one place of a blob reads others of it soon: one long read of the disk instead of many short ones.
        files::will_need(&*file, 0, 0);
        self.open.lock().put(*id, Arc::clone(&file));
        Ok(file)
    }

    fn write_temp(&self, dir: &Path, bytes: &[u8]) -> Result<PathBuf, LocalError> {
        let temp = dir.join(format!("{TEMPORARY}{}", self.temporary.fetch_add(1, Ordering::Relaxed)));
        if self.faulty(LocalFault::DiskFull) {
            return Err(LocalError::DiskFull { file: temp });
        }
        let written = BulkFile::create(&temp).and_then(|mut file| {
            file.write(bytes)?;
            file.finish()
        });
        if let Err(error) = written {
            // Already failing; a temporary file that stays is removed at the next opening.
            let _ = fs::remove_file(&temp);
            return Err(LocalError::io(&temp, error));
        }
        Ok(temp)
    }

    /// Removes what was read longest ago until the cache has at most `max` bytes.
    fn evict(&self, max: u64) {
        let mut index = self.index.lock();
        while index.cache_bytes > max {
            let Some((id, size)) = index.cache.pop_lru() else { break };
            index.cache_bytes -= size;
            self.open.lock().pop(&id);
            if let Err(error) = remove(&self.cache_dir.join(id.to_string())) {
                tracing::warn!(%id, %error, "a cached blob cannot be removed");
                index.add_cached(id, size);
                break;
            }
        }
    }
}

impl Index {
    fn add_cached(&mut self, id: BlobId, size: u64) {
        match self.cache.put(id, size) {
            Some(old) => self.cache_bytes = self.cache_bytes - old + size,
            None => self.cache_bytes += size,
        }
    }
}

/// How the names of half-written files begin. No blob id does.
const TEMPORARY: &str = ".temp-";

struct Found {
    id: BlobId,
    size: u64,
    modified: std::time::SystemTime,
}

/// The blobs in a directory. Removes half-written files; leaves alone what it does not know.
fn list(dir: &Path) -> Result<Vec<Found>, LocalError> {
    let failed = |error| LocalError::io(dir, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(TEMPORARY) {
            remove(&entry.path())?;
        } else if let Ok(id) = BlobId::from_canonical(name) {
            let meta = entry.metadata().map_err(failed)?;
            found.push(Found { id, size: meta.len(), modified: meta.modified().map_err(failed)? });
        }
    }
    Ok(found)
}

fn rename(from: &Path, to: &Path) -> Result<(), LocalError> {
    fs::rename(from, to).map_err(|error| LocalError::io(to, error))
}

/// Removes a file; one that is not there is fine.
fn remove(path: &Path) -> Result<(), LocalError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(LocalError::io(path, error)),
        _ => Ok(()),
    }
}

fn number(fault: LocalFault) -> u8 {
    match fault {
        LocalFault::DiskFull => 1,
        LocalFault::Unreadable => 2,
        LocalFault::Unsyncable => 3,
    }
}
