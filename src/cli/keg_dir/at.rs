//! `.keg/at/WHEN/`: the folder as it was, as a tree.
//!
//! A moment is found by its name alone; the directory lists none, since there are as many as there are entries in the log.
//! Each is a folder of its own to the vfs, read-only, over the replica at that position: nothing is copied or prepared, and
//! what is read comes through the same caches as the present.
//!
//! Must not make up moments: what is before this member's history, or yet to come, is not there.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiff::tz::TimeZone;

use super::super::source;
use super::super::when::{self, When};
use crate::format::{BlobId, DbId, DeviceId, KegId, Op, OpKind, Role};
use crate::keg::{Node, ROOT_INO};
use crate::replica::{Past, ReplicaError};
use crate::sync::Folder;
use crate::sys::clock;
use crate::vfs::{
    Extents, FolderSource, KegDir, KegNode, Listed, NodeKind, OnChange, Progress, ReadOnlyReason, Room, Slot, VfsError,
};

/// The directory `at`.
pub(super) struct At {
    pub(super) folder: Arc<Folder>,
}

impl KegDir for At {
    fn lookup(&self, name: &[u8]) -> Result<Option<KegNode>, VfsError> {
        let now_ms = clock::unix_nanos() / 1_000_000;
        let parsed = std::str::from_utf8(name).ok().and_then(|name| when::parse(name, now_ms, &TimeZone::system()));
        let replica = &self.folder.replica;
        let seq = match parsed {
            Some(When::Version(seq)) => Some(seq),
            Some(When::Time(time_ms)) => replica.seq_at(time_ms).map_err(|error| source::told(&error))?,
            Some(When::ToCome) | None => None,
        };
        let Some(seq) = seq else { return Ok(None) };
        match replica.at(seq) {
            Ok(past) => {
                let seq = past.seq();
                Ok(Some(KegNode::Tree(Arc::new(AsItWas {
                    live: source::of(&self.folder, false),
                    folder: self.folder.clone(),
                    seq,
                }))))
            }
            Err(ReplicaError::NoSuchMoment { .. } | ReplicaError::ThinnedOut { .. }) => Ok(None),
            Err(error) => Err(source::told(&error)),
        }
    }

    fn list(&self) -> Result<Vec<(Vec<u8>, NodeKind)>, VfsError> {
        Ok(Vec::new())
    }

    fn modified_ns(&self) -> i64 {
        clock::unix_nanos()
    }
}

/// One moment. Content comes the way it comes for the folder of today.
struct AsItWas {
    live: Arc<dyn FolderSource>,
    folder: Arc<Folder>,
    seq: u64,
}

impl AsItWas {
    fn read<T>(&self, read: impl FnOnce(&Past<'_>) -> Result<T, ReplicaError>) -> Result<T, VfsError> {
        self.folder.replica.at(self.seq).and_then(|past| read(&past)).map_err(|error| source::told(&error))
    }
}

const REFUSED: VfsError = VfsError::ReadOnly(ReadOnlyReason::View);

impl FolderSource for AsItWas {
    fn node(&self, ino: u64) -> Result<Option<Node>, VfsError> {
        self.read(|past| past.node(ino))
    }

    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Node>, VfsError> {
        self.read(|past| past.lookup(parent, name))
    }

    fn list(&self, directory: u64, after: u64, limit: usize) -> Result<Vec<Listed>, VfsError> {
        let listed = self.read(|past| past.readdir(directory, after, limit))?;
        Ok(listed.into_iter().map(|one| Listed { name: one.name, cookie: one.cookie, node: one.node }).collect())
    }

    fn newest_cookie(&self, _: u64) -> Result<u64, VfsError> {
        Ok(u64::MAX)
    }

    fn parent(&self, directory: u64) -> Result<u64, VfsError> {
        if directory == ROOT_INO {
            return Ok(ROOT_INO);
        }
        self.read(|past| past.names(directory))?.first().map(|name| name.parent_ino).ok_or(VfsError::NotFound)
    }

    fn extents(&self, ino: u64, span: Range<u64>, limit: usize) -> Result<Extents, VfsError> {
        self.read(|past| past.some_extents(ino, span, limit)).map(source::extents)
    }

    fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>, VfsError> {
        self.read(|past| past.xattr(ino, name))
    }

    fn xattrs(&self, ino: u64) -> Result<Vec<Vec<u8>>, VfsError> {
        Ok(self.read(|past| past.xattrs(ino))?.into_iter().map(|(name, _)| name).collect())
    }

    fn usage(&self) -> Result<(u64, u64), VfsError> {
        self.live.usage()
    }

    fn room(&self) -> Option<Room> {
        self.live.room()
    }

    fn head(&self) -> u64 {
        self.seq
    }

    fn submit(&self, _: OpKind, _: i64) -> Result<(), VfsError> {
        Err(REFUSED)
    }

    fn fresh_number(&self) -> Result<u64, VfsError> {
        Err(REFUSED)
    }

    fn submit_numbered(&self, _: OpKind, _: i64, _: u64) -> Result<(), VfsError> {
        Err(REFUSED)
    }

    fn reserve(&self, _: &KegId) -> Result<Slot, VfsError> {
        Err(REFUSED)
    }

    fn fill(&self, _: Slot, _: Option<Op>) -> Result<(), VfsError> {
        Err(REFUSED)
    }

    fn flush(&self, _: bool, _: Instant) -> Result<(), VfsError> {
        Ok(())
    }

    fn spool(&self, _: &BlobId, _: &[u8]) -> Result<(), VfsError> {
        Err(REFUSED)
    }

    fn sync_spool(&self, _: &[BlobId]) -> Result<(), VfsError> {
        Ok(())
    }

    fn discard(&self, _: &BlobId) -> Result<(), VfsError> {
        Err(REFUSED)
    }

    fn read_local(&self, blob: &BlobId, offset: u64, out: &mut [u8]) -> Result<bool, VfsError> {
        self.live.read_local(blob, offset, out)
    }

    fn drop_damaged(&self, blob: &BlobId) -> Result<bool, VfsError> {
        self.live.drop_damaged(blob)
    }

    fn has_local(&self, blob: &BlobId) -> bool {
        self.live.has_local(blob)
    }

    fn fetch(&self, blob: &BlobId, range: Option<Range<u64>>, deadline: Instant) -> Result<Bytes, VfsError> {
        self.live.fetch(blob, range, deadline)
    }

    fn online(&self) -> bool {
        // Nothing is told of a moment, since it does not change; but the end of the membership is to show soon.
        false
    }

    fn role(&self) -> Option<Role> {
        self.live.role().map(|_| Role::Viewer)
    }

    fn frozen(&self) -> bool {
        self.live.frozen()
    }

    fn id(&self) -> DbId {
        self.folder.id()
    }

    fn name(&self) -> String {
        self.live.name()
    }

    fn device(&self) -> DeviceId {
        self.live.device()
    }

    fn label(&self, device: &DeviceId) -> Option<String> {
        self.live.label(device)
    }

    fn progress(&self, _: u64) -> Result<Progress, VfsError> {
        Ok(Progress::OnServer)
    }

    fn on_change(&self, _: OnChange) {}
}
