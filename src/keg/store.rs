//! What [`super::apply()`] needs from a place that holds a tree.

use crate::format::{DeviceId, Extent, KegId};

use super::{Attributes, Dentry, Known, Node, Redirect, Stamp};

/// A tree of kegs. Implementations: [`super::MemStore`], the replica's database, the replica's overlay of pending work.
///
/// Methods that change something are called with valid arguments only; the rules are in [`super::apply()`].
pub trait Store {
    /// Failure of the storage beneath; the model itself has no errors.
    type Error;

    /// The node, removed ones included.
    fn node(&self, keg: &KegId) -> Result<Option<Node>, Self::Error>;
    /// Inserts or replaces the node with `node.keg`. A replaced node keeps its `ino`.
    fn put_node(&mut self, node: Node) -> Result<(), Self::Error>;
    /// A number never given before by this store: for inode numbers and cookies.
    fn allocate(&mut self) -> Result<u64, Self::Error>;

    /// The name in the directory.
    fn dentry(&self, parent: &KegId, name: &[u8]) -> Result<Option<Dentry>, Self::Error>;
    /// All names of a keg, in ascending order of cookie.
    fn dentries_of(&self, keg: &KegId) -> Result<Vec<Dentry>, Self::Error>;
    /// The directory has no names in it.
    fn is_empty(&self, directory: &KegId) -> Result<bool, Self::Error>;
    /// Inserts a name that is not there.
    fn put_dentry(&mut self, dentry: Dentry) -> Result<(), Self::Error>;
    /// Removes a name that is there.
    fn remove_dentry(&mut self, dentry: &Dentry) -> Result<(), Self::Error>;

    /// Sets (`Some`) or removes (`None`) an extended attribute.
    fn set_xattr(&mut self, keg: &KegId, name: &[u8], value: Option<&[u8]>) -> Result<(), Self::Error>;
    /// Records that attributes, extended ones included, may have changed.
    fn note_attributes(&mut self, keg: &KegId, stamp: Stamp) -> Result<(), Self::Error>;
    /// The attributes that an author knew; see [`Known`]. Of a file that was not there before that position, or was
    /// removed up to the horizon: those that it has.
    fn known_attributes(&self, known: Known<'_>) -> Result<Attributes, Self::Error>;

    /// Makes `[from, to)` of the file a hole: extents inside vanish, those at the edges are cut with [`Extent::clip`].
    /// Returns how many bytes of data were there.
    fn clear_range(&mut self, keg: &KegId, from: u64, to: u64) -> Result<u64, Self::Error>;
    /// Places an extent in a range that is a hole.
    fn put_extent(&mut self, keg: &KegId, extent: &Extent) -> Result<(), Self::Error>;
    /// Records that the content changed, and the length that resulted.
    fn note_content(&mut self, keg: &KegId, stamp: Stamp, size: u64) -> Result<(), Self::Error>;
    /// The earliest content change after `after` by a device other than `device`.
    fn first_foreign_content(&self, keg: &KegId, after: u64, device: &DeviceId) -> Result<Option<u64>, Self::Error>;
    /// Gives `to`, which has no content, the extents that `from` had just before position `before`; returns the length
    /// that it had then (0 before its first change), and how much of that is data.
    fn copy_content_before(&mut self, from: &KegId, before: u64, to: &KegId) -> Result<(u64, u64), Self::Error>;

    /// The keg has no content, no content changes and no extended attributes any more, and never had any.
    fn forget(&mut self, keg: &KegId) -> Result<(), Self::Error>;

    /// Where operations of `device` on `keg` go.
    fn redirect(&self, device: &DeviceId, keg: &KegId) -> Result<Option<Redirect>, Self::Error>;
    /// Sets it.
    fn set_redirect(&mut self, device: &DeviceId, keg: &KegId, redirect: Redirect) -> Result<(), Self::Error>;
    /// Names the folder.
    fn set_folder_name(&mut self, name: &str) -> Result<(), Self::Error>;
}
