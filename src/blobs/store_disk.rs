//! Blobs as files of a directory: `<db>/<first two digits>/<blob>`, hash trees as `<blob>.obao` beside them.
//!
//! A blob appears under its name only when it is whole, right and on disk: it is written to `tmp/`, hashed on the way,
//! synced, renamed, and the directory synced. What lies in `tmp/` when a store is opened was left by a process that
//! died, and is removed. Blobs are never changed, so readers need no lock.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lru::LruCache;
use parking_lot::Mutex;

use super::store::{BlobData, BlobError, BlobStore, BlobUpload, Listing, Stored};
use crate::format::{BlobId, BlobRef, DbId};
use crate::sys::bulk::{AlignedBuffer, BulkFile, BulkReader};
use crate::sys::{files, random};

/// Directory of unfinished uploads. No folder's id has this form.
const TMP: &str = "tmp";
/// How the name of a hash tree ends.
const TREE: &str = ".obao";

/// From this length on a blob is read past the page cache the first time that it is asked for: most are fetched by each
/// member once, and the page cache is for those that are fetched again.
const DIRECT_MIN_BYTES: u64 = 1 << 20;
/// How many blobs are remembered as asked for: 16 GiB of long ones.
const ASKED_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Blobs in a local directory. One process at a time may use it.
pub struct DiskBlobs {
    root: PathBuf,
    /// Directories known to exist and to be durable, so that an upload does not look again. At most 256 a folder.
    known: std::sync::Arc<Mutex<HashSet<PathBuf>>>,
    /// Long blobs that were asked for lately.
    asked: Mutex<LruCache<BlobId, ()>>,
}

impl DiskBlobs {
    /// Opens the store in `root`, making it when missing, and removes unfinished uploads of earlier processes.
    ///
    /// # Errors
    /// [`BlobError::Io`] naming the path.
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        let tmp = root.join(TMP);
        let fail = |error| BlobError::io(format!("opening {}", root.display()), error);
        files::create_private_dir(root).map_err(fail)?;
        files::create_private_dir(&tmp).map_err(fail)?;
        for left in fs::read_dir(&tmp).map_err(fail)? {
            fs::remove_file(left.map_err(fail)?.path()).map_err(fail)?;
        }
        Ok(Self { root: root.to_owned(), known: Default::default(), asked: Mutex::new(LruCache::new(ASKED_MAX)) })
    }

    fn dir(&self, db: &DbId, id: &BlobId) -> PathBuf {
        self.root.join(db.to_string()).join(format!("{:02x}", id.0[0]))
    }

    fn path(&self, db: &DbId, id: &BlobId) -> PathBuf {
        self.dir(db, id).join(id.to_string())
    }

    fn tree_path(&self, db: &DbId, id: &BlobId) -> PathBuf {
        self.dir(db, id).join(format!("{id}{TREE}"))
    }

    fn temp(&self) -> Result<(BulkFile, Temp), BlobError> {
        let path = self.root.join(TMP).join(hex::encode(random::array::<16>()));
        let file =
            BulkFile::create(&path).map_err(|error| BlobError::io(format!("creating {}", path.display()), error))?;
        Ok((file, Temp(path)))
    }
}

/// A temporary file's name; the file is removed with it unless it was renamed away.
struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        // Gone after a rename; anything else is removed when the store is opened next.
        let _ = fs::remove_file(&self.0);
    }
}

struct DiskUpload {
    file: BulkFile,
    temp: Temp,
    hasher: blake3::Hasher,
    id: BlobId,
    size_bytes: u64,
    max_bytes: u64,
    dir: PathBuf,
    known: std::sync::Arc<Mutex<HashSet<PathBuf>>>,
}

impl DiskUpload {
    /// Makes the blob's directory durable before anything is in it, so that the blob's own sync is enough.
    fn make_dir(&self) -> io::Result<()> {
        if self.known.lock().contains(&self.dir) {
            return Ok(());
        }
        if !self.dir.is_dir() {
            files::create_private_dir(&self.dir)?;
        }
        for dir in self.dir.ancestors().skip(1).take(2) {
            files::sync_dir(dir)?;
        }
        self.known.lock().insert(self.dir.clone());
        Ok(())
    }
}

impl BlobUpload for DiskUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.size_bytes += bytes.len() as u64;
        if self.size_bytes > self.max_bytes {
            return Err(BlobError::TooLarge(self.max_bytes));
        }
        self.hasher.update(bytes);
        self.file.write(bytes).map_err(|error| BlobError::io(format!("writing blob {}", self.id), error))
    }

    fn finish(self: Box<Self>) -> Result<Stored, BlobError> {
        if self.hasher.finalize().as_bytes() != self.id.as_bytes() {
            return Err(BlobError::WrongBytes(self.id));
        }
        let (id, size_bytes) = (self.id, self.size_bytes);
        let fail = |error| BlobError::io(format!("storing blob {id}"), error);
        self.make_dir().map_err(fail)?;
        let Self { file, temp, dir, .. } = *self;
        let path = dir.join(id.to_string());
        if path.exists() {
            // Another upload was first. Its directory may not be synced yet, and the caller must be able to rely on it.
            files::sync_dir(&dir).map_err(fail)?;
            return Ok(Stored { size_bytes, new: false });
        }
        file.finish().and_then(|file| file.sync_data()).map_err(fail)?;
        // A hard link fails where a rename would replace, so exactly one of several uploads is the new one.
        let new = match fs::hard_link(&temp.0, &path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(fail(error)),
        };
        files::sync_dir(&dir).map_err(fail)?;
        Ok(Stored { size_bytes, new })
    }
}

struct DiskData {
    file: File,
    /// For reading the whole past the page cache.
    direct: Option<BulkReader>,
    size_bytes: u64,
}

impl BlobData for DiskData {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn read_part_at(&self, offset: u64, part: &mut AlignedBuffer, len: usize) -> io::Result<()> {
        if let Some(direct) = &self.direct {
            return direct.read_exact_at(offset, part, len);
        }
        if offset == 0 {
            // One long read of the disk instead of one for each part.
            files::will_need(&self.file, 0, 0);
        }
        part.reserve(len);
        self.file.read_exact_at(&mut part.bytes_mut()[..len], offset)
    }
}

/// `None` for what is not there.
fn found<T>(result: io::Result<T>, context: impl FnOnce() -> String) -> Result<Option<T>, BlobError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BlobError::io(context(), error)),
    }
}

impl BlobStore for DiskBlobs {
    fn upload(&self, db: &DbId, id: &BlobId, max_bytes: u64) -> Result<Box<dyn BlobUpload>, BlobError> {
        let (file, temp) = self.temp()?;
        Ok(Box::new(DiskUpload {
            file,
            temp,
            hasher: blake3::Hasher::new(),
            id: *id,
            size_bytes: 0,
            max_bytes,
            dir: self.dir(db, id),
            known: self.known.clone(),
        }))
    }

    fn open(&self, db: &DbId, id: &BlobId) -> Result<Option<Box<dyn BlobData>>, BlobError> {
        let context = || format!("opening blob {id}");
        let path = self.path(db, id);
        let Some(file) = found(File::open(&path), context)? else { return Ok(None) };
        let size_bytes = file.metadata().map_err(|error| BlobError::io(context(), error))?.len();
        let once = size_bytes >= DIRECT_MIN_BYTES && self.asked.lock().put(*id, ()).is_none();
        let direct = if once { found(BulkReader::open(&path), context)? } else { None };
        Ok(Some(Box::new(DiskData { file, direct, size_bytes })))
    }

    fn size(&self, db: &DbId, id: &BlobId) -> Result<Option<u64>, BlobError> {
        let found = found(fs::metadata(self.path(db, id)), || format!("looking for blob {id}"))?;
        Ok(found.map(|metadata| metadata.len()))
    }

    fn delete(&self, db: &DbId, id: &BlobId) -> Result<(), BlobError> {
        let context = || format!("removing blob {id}");
        found(fs::remove_file(self.tree_path(db, id)), context)?;
        found(fs::remove_file(self.path(db, id)), context)?;
        Ok(())
    }

    fn delete_tree(&self, db: &DbId, id: &BlobId) -> Result<(), BlobError> {
        found(fs::remove_file(self.tree_path(db, id)), || format!("removing the tree of blob {id}")).map(|_| ())
    }

    fn dbs(&self) -> Result<Vec<DbId>, BlobError> {
        let fail = |error| BlobError::io(format!("listing {}", self.root.display()), error);
        let mut dbs = Vec::new();
        for dir in fs::read_dir(&self.root).map_err(fail)? {
            let name = dir.map_err(fail)?.file_name();
            // Not the directory of unfinished uploads.
            dbs.extend(name.to_str().and_then(|name| name.parse::<DbId>().ok()));
        }
        Ok(dbs)
    }

    fn list(&self, db: &DbId, first: u8) -> Result<Listing, BlobError> {
        let dir = self.root.join(db.to_string()).join(format!("{first:02x}"));
        let context = || format!("listing {}", dir.display());
        let (mut blobs, mut trees) = (Vec::new(), Vec::new());
        let Some(files) = found(fs::read_dir(&dir), context)? else { return Ok(Listing::default()) };
        for file in files {
            let file = file.map_err(|error| BlobError::io(context(), error))?;
            let Ok(name) = file.file_name().into_string() else { continue };
            if let Some(id) = name.strip_suffix(TREE).and_then(|name| BlobId::from_canonical(name).ok()) {
                trees.push(id);
            } else if let Ok(id) = BlobId::from_canonical(&name)
                // Removed meanwhile.
                && let Some(metadata) = found(file.metadata(), context)?
            {
                blobs.push(BlobRef { id, size_bytes: metadata.len() });
            }
        }
        let there: HashSet<BlobId> = blobs.iter().map(|blob| blob.id).collect();
        trees.retain(|id| !there.contains(id));
        Ok(Listing { blobs, lone_trees: trees })
    }

    fn tree(&self, db: &DbId, id: &BlobId) -> Result<Option<Vec<u8>>, BlobError> {
        found(fs::read(self.tree_path(db, id)), || format!("reading the tree of blob {id}"))
    }

    fn keep_tree(&self, db: &DbId, id: &BlobId, tree: &[u8]) -> Result<(), BlobError> {
        let fail = |error| BlobError::io(format!("keeping the tree of blob {id}"), error);
        let (mut file, temp) = self.temp()?;
        file.write(tree).and_then(|()| file.finish()).map_err(fail)?;
        fs::rename(&temp.0, self.tree_path(db, id)).map_err(fail)
    }

    fn check(&self) -> Result<(), BlobError> {
        let (mut file, _temp) = self.temp()?;
        file.write(b"kegd").and_then(|()| file.finish()).map(drop).map_err(|error| BlobError::io("writing", error))
    }
}
