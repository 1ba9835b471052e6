//! Twins of the server's blob store for tests: one in memory, one that fails when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::store::{BlobData, BlobError, BlobStore, BlobUpload, Listing, Stored};
use crate::format::{BlobId, BlobRef, DbId};

#[derive(Default)]
struct Held {
    blobs: BTreeMap<(DbId, BlobId), Arc<Vec<u8>>>,
    trees: BTreeMap<(DbId, BlobId), Vec<u8>>,
}

/// Blobs in memory, with the same promises but durability.
#[derive(Clone, Default)]
pub struct MemoryBlobs(Arc<Mutex<Held>>);

struct MemoryUpload {
    held: Arc<Mutex<Held>>,
    key: (DbId, BlobId),
    bytes: Vec<u8>,
    max_bytes: u64,
}

impl BlobUpload for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if (self.bytes.len() + bytes.len()) as u64 > self.max_bytes {
            return Err(BlobError::TooLarge(self.max_bytes));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Stored, BlobError> {
        if blake3::hash(&self.bytes).as_bytes() != self.key.1.as_bytes() {
            return Err(BlobError::WrongBytes(self.key.1));
        }
        let size_bytes = self.bytes.len() as u64;
        let old = self.held.lock().blobs.insert(self.key, Arc::new(self.bytes));
        Ok(Stored { size_bytes, new: old.is_none() })
    }
}

struct MemoryData(Arc<Vec<u8>>);

impl BlobData for MemoryData {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let from = self.0.get(start..start.saturating_add(buf.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }
}

impl BlobStore for MemoryBlobs {
    fn upload(&self, db: &DbId, id: &BlobId, max_bytes: u64) -> Result<Box<dyn BlobUpload>, BlobError> {
        Ok(Box::new(MemoryUpload { held: self.0.clone(), key: (*db, *id), bytes: Vec::new(), max_bytes }))
    }

    fn open(&self, db: &DbId, id: &BlobId) -> Result<Option<Box<dyn BlobData>>, BlobError> {
        let found = self.0.lock().blobs.get(&(*db, *id)).cloned();
        Ok(found.map(|bytes| Box::new(MemoryData(bytes)) as Box<dyn BlobData>))
    }

    fn size(&self, db: &DbId, id: &BlobId) -> Result<Option<u64>, BlobError> {
        Ok(self.0.lock().blobs.get(&(*db, *id)).map(|bytes| bytes.len() as u64))
    }

    fn delete(&self, db: &DbId, id: &BlobId) -> Result<(), BlobError> {
        let mut held = self.0.lock();
        held.blobs.remove(&(*db, *id));
        held.trees.remove(&(*db, *id));
        Ok(())
    }

    fn delete_tree(&self, db: &DbId, id: &BlobId) -> Result<(), BlobError> {
        self.0.lock().trees.remove(&(*db, *id));
        Ok(())
    }

    fn dbs(&self) -> Result<Vec<DbId>, BlobError> {
        let held = self.0.lock();
        let dbs: BTreeSet<DbId> = held.blobs.keys().chain(held.trees.keys()).map(|(db, _)| *db).collect();
        Ok(dbs.into_iter().collect())
    }

    fn list(&self, db: &DbId, first: u8) -> Result<Listing, BlobError> {
        let held = self.0.lock();
        let of = |(there, id): &(DbId, BlobId)| there == db && id.0[0] == first;
        let blobs = held.blobs.iter().filter(|(key, _)| of(key));
        let trees = held.trees.keys().filter(|key| of(key) && !held.blobs.contains_key(*key));
        Ok(Listing {
            blobs: blobs.map(|((_, id), bytes)| BlobRef { id: *id, size_bytes: bytes.len() as u64 }).collect(),
            lone_trees: trees.map(|(_, id)| *id).collect(),
        })
    }

    fn tree(&self, db: &DbId, id: &BlobId) -> Result<Option<Vec<u8>>, BlobError> {
        Ok(self.0.lock().trees.get(&(*db, *id)).cloned())
    }

    fn keep_tree(&self, db: &DbId, id: &BlobId, tree: &[u8]) -> Result<(), BlobError> {
        self.0.lock().trees.insert((*db, *id), tree.to_vec());
        Ok(())
    }

    fn check(&self) -> Result<(), BlobError> {
        Ok(())
    }
}

/// What a [`FailingBlobs`] does from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlobFault {
    /// Works.
    #[default]
    None,
    /// There is no room: uploads fail at their first byte.
    Full,
    /// Uploads take every byte and fail at the end.
    FinishFails,
    /// Reading fails in the middle.
    ReadFails,
    /// Everything fails at once.
    Down,
}

/// A store that works like another one until told otherwise.
#[derive(Clone)]
pub struct FailingBlobs {
    inner: Arc<dyn BlobStore>,
    fault: Arc<Mutex<BlobFault>>,
}

fn broken(what: &str) -> BlobError {
    BlobError::io(what, io::Error::other("injected fault"))
}

impl FailingBlobs {
    /// Over `inner`, without a fault yet.
    pub fn new(inner: Arc<dyn BlobStore>) -> Self {
        Self { inner, fault: Arc::default() }
    }

    /// Sets the fault; uploads and blobs that are open already see it too.
    pub fn set(&self, fault: BlobFault) {
        *self.fault.lock() = fault;
    }

    fn up(&self) -> Result<(), BlobError> {
        if *self.fault.lock() == BlobFault::Down { Err(broken("store")) } else { Ok(()) }
    }
}

struct FailingUpload {
    inner: Box<dyn BlobUpload>,
    fault: Arc<Mutex<BlobFault>>,
}

impl BlobUpload for FailingUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        match *self.fault.lock() {
            BlobFault::Full => Err(BlobError::Full),
            BlobFault::Down => Err(broken("write")),
            _ => self.inner.write(bytes),
        }
    }

    fn finish(self: Box<Self>) -> Result<Stored, BlobError> {
        match *self.fault.lock() {
            BlobFault::Full => Err(BlobError::Full),
            BlobFault::FinishFails | BlobFault::Down => Err(broken("finish")),
            _ => self.inner.finish(),
        }
    }
}

struct FailingData {
    inner: Box<dyn BlobData>,
    fault: Arc<Mutex<BlobFault>>,
}

impl BlobData for FailingData {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match *self.fault.lock() {
            BlobFault::ReadFails | BlobFault::Down => Err(io::Error::other("injected fault")),
            _ => self.inner.read_exact_at(offset, buf),
        }
    }
}

impl BlobStore for FailingBlobs {
    fn upload(&self, db: &DbId, id: &BlobId, max_bytes: u64) -> Result<Box<dyn BlobUpload>, BlobError> {
        self.up()?;
        Ok(Box::new(FailingUpload { inner: self.inner.upload(db, id, max_bytes)?, fault: self.fault.clone() }))
    }

    fn open(&self, db: &DbId, id: &BlobId) -> Result<Option<Box<dyn BlobData>>, BlobError> {
        self.up()?;
        let opened = self.inner.open(db, id)?;
        let fault = self.fault.clone();
        Ok(opened.map(|inner| Box::new(FailingData { inner, fault }) as Box<dyn BlobData>))
    }

    fn size(&self, db: &DbId, id: &BlobId) -> Result<Option<u64>, BlobError> {
        self.up()?;
        self.inner.size(db, id)
    }

    fn delete(&self, db: &DbId, id: &BlobId) -> Result<(), BlobError> {
        self.up()?;
        self.inner.delete(db, id)
    }

    fn delete_tree(&self, db: &DbId, id: &BlobId) -> Result<(), BlobError> {
        self.up()?;
        self.inner.delete_tree(db, id)
    }

    fn dbs(&self) -> Result<Vec<DbId>, BlobError> {
        self.up()?;
        self.inner.dbs()
    }

    fn list(&self, db: &DbId, first: u8) -> Result<Listing, BlobError> {
        self.up()?;
        self.inner.list(db, first)
    }

    fn tree(&self, db: &DbId, id: &BlobId) -> Result<Option<Vec<u8>>, BlobError> {
        self.up()?;
        self.inner.tree(db, id)
    }

    fn keep_tree(&self, db: &DbId, id: &BlobId, tree: &[u8]) -> Result<(), BlobError> {
        self.up()?;
        self.inner.keep_tree(db, id, tree)
    }

    fn check(&self) -> Result<(), BlobError> {
        self.up()?;
        self.inner.check()
    }
}
