//! Reading the confirmed state alone, without pending work: what an operation will meet when it is sequenced now.

use super::ReplicaError;
use super::base::{Base, Source};
use super::replica::Replica;
use super::types::Xattr;
use crate::format::{DeviceId, Extent, KegId};
use crate::keg::{Node, Redirect};

impl Replica {
    fn sequenced<T>(&self, read: impl FnOnce(&Base<'_>) -> Result<T, ReplicaError>) -> Result<T, ReplicaError> {
        let _state = self.shared().state.read();
        read(&Base { source: Source::Pool(&self.shared().pool), cache: &self.shared().cache })
    }

    /// The node as the log has it, removed ones included.
    ///
    /// # Errors
    /// Those of reading, as all here.
    pub fn sequenced_node(&self, keg: &KegId) -> Result<Option<Node>, ReplicaError> {
        self.sequenced(|base| Ok(base.node(keg)?.map(|row| row.node.clone())))
    }

    /// All extents of a file as the log has it; of a removed one those that it had.
    ///
    /// # Errors
    /// Those of reading.
    pub fn sequenced_extents(&self, ino: u64) -> Result<Vec<Extent>, ReplicaError> {
        self.sequenced(|base| base.extents(ino, 0, u64::MAX))
    }

    /// All extended attributes as the log has them.
    ///
    /// # Errors
    /// Those of reading.
    pub fn sequenced_xattrs(&self, ino: u64) -> Result<Vec<Xattr>, ReplicaError> {
        self.sequenced(|base| base.xattrs(ino))
    }

    /// Whether the directory has the name in the log.
    ///
    /// # Errors
    /// Those of reading.
    pub fn sequenced_name(&self, parent: u64, name: &[u8]) -> Result<Option<KegId>, ReplicaError> {
        self.sequenced(|base| Ok(base.name(parent, name)?.map(|row| row.keg)))
    }

    /// Where operations of `device` on `keg` go.
    ///
    /// # Errors
    /// Those of reading.
    pub fn sequenced_redirect(&self, device: &DeviceId, keg: &KegId) -> Result<Option<Redirect>, ReplicaError> {
        self.sequenced(|base| Ok(base.redirect(device, keg)))
    }

    /// The earliest content change of the file after `after` by another device, and what the file contained just before.
    ///
    /// # Errors
    /// Those of reading.
    #[allow(clippy::type_complexity)]
    pub fn first_unseen_content(
        &self,
        ino: u64,
        after: u64,
        device: &DeviceId,
    ) -> Result<Option<(u64, (u64, Vec<Extent>))>, ReplicaError> {
        self.sequenced(|base| {
            let Some(first) = base.first_foreign_content(ino, after, device)? else { return Ok(None) };
            Ok(Some((first, base.content_before(ino, first)?.unwrap_or_default())))
        })
    }
}
