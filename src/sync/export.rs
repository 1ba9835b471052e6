//! Work that can no longer be sent: kept as ciphertext beside the profile when a folder is taken away, and opened again
//! when the user asks for it.
//!
//! A kept piece is a directory `kept/<folder>-<position>`: the file `manifest`, sealed under a fresh key that is boxed to
//! the user's own key, and the blobs that it names, as they lay in the spool or the cache. Whatever else happens to the
//! folder's keys, the user's account opens it. Layouts: docs/FORMAT.md §8.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use super::depart::io_error;
use super::folder::Shared;
use super::status::now_ms;
use super::{Folder, Session, SyncError};
use crate::blobs::LocalError;
use crate::crypto::chunk::{self, ChunkKey, Opener};
use crate::crypto::{Key, aead, boxes};
use crate::format::{BlobId, DbId, Extent, KegId, NodeKind, Op, OpKind, check_name, decode, encode};
use crate::keg::ROOT_INO;
use crate::keyring::AccountLogs;
use crate::sys::files;

const VERSION: u8 = 1;
const MANIFEST: &str = "manifest";
/// Directories within each other; a deeper path is cut off at the top.
const DEPTH_MAX: usize = 1024;

/// One piece of kept work, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptWork {
    /// Its name: that of its directory.
    pub name: String,
    /// The directory.
    pub dir: PathBuf,
    /// The folder's name.
    pub folder: String,
    /// When it was kept, milliseconds since 1970 UTC.
    pub kept_ms: i64,
    /// Files with content that the server has not got.
    pub files: u64,
    /// All changes.
    pub changes: u64,
}

/// What was recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The files written, with the number of bytes that were not on this machine and read as zeros.
    pub files: Vec<(PathBuf, u64)>,
    /// Changes that are no content: renames, removals, attributes.
    pub others: u64,
}

/// The file `manifest`.
#[derive(Encode, Decode)]
#[cbor(array)]
struct Sealed {
    #[n(0)]
    version: u8,
    #[n(1)]
    db: DbId,
    /// Generation of the user key that opens the box.
    #[n(2)]
    generation: u32,
    /// Box of the manifest's key.
    #[cbor(n(3), with = "minicbor::bytes")]
    key: Vec<u8>,
    /// [`Manifest`] under it.
    #[cbor(n(4), with = "minicbor::bytes")]
    manifest: Vec<u8>,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Manifest {
    #[n(0)]
    folder: String,
    #[n(1)]
    kept_ms: i64,
    #[n(2)]
    files: Vec<KeptFile>,
    #[n(3)]
    ops: Vec<Op>,
}

/// A file as the mounted view showed it last.
#[derive(Encode, Decode)]
#[cbor(array)]
struct KeptFile {
    /// Names from the folder's root on.
    #[n(0)]
    path: Vec<Name>,
    #[n(1)]
    size: u64,
    #[n(2)]
    extents: Vec<Extent>,
}

#[derive(Encode, Decode)]
#[cbor(transparent)]
struct Name(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>);

fn box_info(db: &DbId, generation: u32) -> Vec<u8> {
    [b"kept work".as_slice(), db.as_bytes(), &generation.to_be_bytes()].concat()
}

/// Keeps what the folder's journal holds below `kept`, durable; returns where, or `None` where there is nothing. Doing it
/// again replaces what was kept.
pub(super) fn keep(folder: &Folder, kept: &Path) -> Result<Option<PathBuf>, SyncError> {
    // An entry that is on its way will never arrive: the log is known up to the own removal.
    folder.replica.unstage(0)?;
    folder.replica.flush(true)?;
    let pending = folder.replica.pending(usize::MAX, usize::MAX);
    if pending.is_empty() {
        return Ok(None);
    }
    let ops: Vec<Op> = pending.iter().map(|pending| Op::clone(&pending.op)).collect();
    let files = touched_files(folder, &ops)?;
    let dir = kept.join(format!("{}-{}", &folder.id().to_string()[..16], folder.replica.mark().seq));
    files::create_private_dir(&dir).map_err(|error| io_error(&dir, &error))?;
    for blob in files.iter().flat_map(|file| &file.extents).map(|extent| extent.blob).collect::<HashSet<BlobId>>() {
        match folder.local.copy_to(&blob, &dir.join(blob.to_string())) {
            // On the server, where it is out of reach now; the manifest tells how much is missing.
            Ok(()) | Err(LocalError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    files::sync_dir(&dir).map_err(|error| io_error(&dir, &error))?;
    let manifest = Manifest { folder: folder.name(), kept_ms: now_ms(), files, ops };
    let own = folder.accounts.log(&folder.me).ok_or(SyncError::NoSuchAccount(folder.me))?;
    let damaged = |_| SyncError::Damaged("the own user key".to_owned());
    let (generation, public) = own.user_key().map_err(damaged)?;
    let key = Key::random();
    let db = folder.id();
    let sealed = Sealed {
        version: VERSION,
        db,
        generation,
        key: boxes::seal(&public, &box_info(&db, generation), key.as_bytes()),
        manifest: aead::seal(&key, db.as_bytes(), &Zeroizing::new(encode(&manifest))),
    };
    let path = dir.join(MANIFEST);
    files::write_atomic(&path, &encode(&sealed), 0o600).map_err(|error| io_error(&path, &error))?;
    files::sync_dir(kept).map_err(|error| io_error(kept, &error))?;
    Ok(Some(dir))
}

/// The files that the operations made or wrote to and that still have a name.
fn touched_files(folder: &Folder, ops: &[Op]) -> Result<Vec<KeptFile>, SyncError> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for op in ops {
        let keg = match &op.kind {
            OpKind::Content { keg, .. } | OpKind::Create { keg, kind: NodeKind::File, .. } => *keg,
            _ => continue,
        };
        if seen.insert(keg)
            && let Some(file) = kept_file(folder, &keg)?
        {
            files.push(file);
        }
    }
    Ok(files)
}

fn kept_file(folder: &Folder, keg: &KegId) -> Result<Option<KeptFile>, SyncError> {
    let view = folder.replica.view();
    let Some(node) = view.node_of(keg)?.filter(|node| node.nlink > 0) else { return Ok(None) };
    let (mut path, mut at) = (Vec::new(), node.ino);
    while at != ROOT_INO && path.len() < DEPTH_MAX {
        let Some(name) = view.names(at)?.into_iter().next() else { break };
        path.push(Name(name.name));
        at = name.parent_ino;
    }
    path.reverse();
    let extents = if node.size == 0 { Vec::new() } else { view.extents(node.ino, 0, node.size)? };
    Ok((!path.is_empty()).then_some(KeptFile { path, size: node.size, extents }))
}

impl Session {
    /// The pieces of work that are kept because they could no longer be sent, oldest first.
    ///
    /// # Errors
    /// [`SyncError::Io`]; [`SyncError::Damaged`].
    pub fn kept_work(&self) -> Result<Vec<KeptWork>, SyncError> {
        let kept = self.inner.kept_dir();
        let entries = match fs::read_dir(&kept) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(&kept, &error)),
        };
        let mut found = Vec::new();
        for entry in entries.flatten().filter(|entry| entry.path().join(MANIFEST).exists()) {
            let (dir, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let manifest = open(&dir, &self.inner.shared)?;
            let (files, changes) = (manifest.files.len() as u64, manifest.ops.len() as u64);
            found.push(KeptWork { name, dir, folder: manifest.folder, kept_ms: manifest.kept_ms, files, changes });
        }
        found.sort_by_key(|one| one.kept_ms);
        Ok(found)
    }

    /// Writes the files of a kept piece, in the clear, below the directory `to`. Nothing that is there is replaced, and
    /// what is kept stays.
    ///
    /// # Errors
    /// [`SyncError::NoKeptWork`]; [`SyncError::Io`], above all for what is there already; [`SyncError::Damaged`].
    pub fn recover(&self, name: &str, to: &Path) -> Result<Recovered, SyncError> {
        let dir = self.inner.kept_dir().join(name);
        if check_name(name.as_bytes()).is_err() || !dir.join(MANIFEST).exists() {
            return Err(SyncError::NoKeptWork(name.to_owned()));
        }
        let manifest = open(&dir, &self.inner.shared)?;
        let mut files = Vec::new();
        for file in &manifest.files {
            files.push(file.write(&dir, to)?);
        }
        let content =
            |op: &&Op| matches!(op.kind, OpKind::Content { .. } | OpKind::Create { kind: NodeKind::File, .. });
        let others = manifest.ops.len() - manifest.ops.iter().filter(content).count();
        Ok(Recovered { files, others: others as u64 })
    }
}

fn open(dir: &Path, shared: &Shared) -> Result<Manifest, SyncError> {
    let path = dir.join(MANIFEST);
    let damaged = || SyncError::Damaged(format!("{} cannot be opened", path.display()));
    let bytes = fs::read(&path).map_err(|error| io_error(&path, &error))?;
    let sealed: Sealed = decode(&bytes).map_err(|_| damaged())?;
    if sealed.version != VERSION {
        return Err(SyncError::Damaged(format!("{} is of another version; update KegFS", path.display())));
    }
    let secret = shared.user_key(sealed.generation).map_err(|_| damaged())?;
    let info = box_info(&sealed.db, sealed.generation);
    let key = boxes::open(&secret, &info, &sealed.key).map_err(|_| damaged())?;
    let key = Key::from_slice(&key).ok_or_else(damaged)?;
    let plain = aead::open(&key, sealed.db.as_bytes(), &sealed.manifest).map_err(|_| damaged())?;
    decode(&plain).map_err(|_| damaged())
}

impl KeptFile {
    /// Writes the file below `to`; returns its path and how many bytes are missing.
    fn write(&self, from: &Path, to: &Path) -> Result<(PathBuf, u64), SyncError> {
        let mut path = to.to_owned();
        for Name(name) in &self.path {
            check_name(name).map_err(|_| SyncError::Damaged("a name in kept work".to_owned()))?;
            path.push(std::ffi::OsStr::from_bytes(name));
        }
        let failed = |error: io::Error| io_error(&path, &error);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        file.set_len(self.size).map_err(failed)?;
        let mut missing = 0;
        for extent in &self.extents {
            match plaintext(from, extent)? {
                Some(plain) => {
                    use std::io::Seek as _;
                    file.seek(io::SeekFrom::Start(extent.offset)).map_err(failed)?;
                    file.write_all(&plain).map_err(failed)?;
                }
                None => missing += u64::from(extent.len),
            }
        }
        file.sync_all().map_err(failed)?;
        Ok((path, missing))
    }
}

/// The bytes of an extent, if its blob was kept.
fn plaintext(dir: &Path, extent: &Extent) -> Result<Option<Zeroizing<Vec<u8>>>, SyncError> {
    let path = dir.join(extent.blob.to_string());
    let blob = match fs::read(&path) {
        Ok(blob) => blob,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(&path, &error)),
    };
    let damaged = || SyncError::Damaged(format!("{} is not what was kept", path.display()));
    let (start, len) = (extent.blob_offset as usize, extent.chunk_len as usize);
    let sealed = blob.get(start..start + chunk::sealed_len(len)).ok_or_else(damaged)?;
    let opener = Opener::new(&ChunkKey::from_bytes(extent.key), len).map_err(|_| damaged())?;
    let mut plain = Zeroizing::new(vec![0; len]);
    opener.open_all(sealed, &mut plain).map_err(|_| damaged())?;
    let skip = extent.chunk_skip as usize;
    let part = plain.get(skip..skip + extent.len as usize).ok_or_else(damaged)?;
    Ok(Some(Zeroizing::new(part.to_vec())))
}
