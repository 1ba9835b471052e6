//! The model's store: an overlay over the confirmed state.
//!
//! [`crate::keg::apply`] runs here for pending operations (overlay of the mounted view) and for log entries (overlay of
//! one entry). Reads look into the overlay first; writes go there only.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ReplicaError;
use super::base::{self, Base};
use super::overlay::{Named, Overlay};
use super::types::Xattr;
use crate::format::{DeviceId, Extent, KegId};
use crate::keg::{self, Attributes, Dentry, Known, Node, Redirect, Stamp, Store};

/// Gives rows that come into being the numbers that the mount already knows them by.
pub(super) trait Adopt {
    /// Inode number of a keg.
    fn ino(&self, keg: &KegId) -> Option<u64>;
    /// Cookie of a name, if it is of this keg.
    fn cookie(&self, parent: &KegId, name: &[u8], keg: &KegId) -> Option<u64>;
}

impl Adopt for Overlay {
    fn ino(&self, keg: &KegId) -> Option<u64> {
        self.nodes.get(keg).map(|row| row.node.ino)
    }

    fn cookie(&self, parent: &KegId, name: &[u8], keg: &KegId) -> Option<u64> {
        let named = self.dirs.get(parent)?.names.get(name)?.there.as_ref()?;
        (named.keg == *keg).then_some(named.cookie)
    }
}

/// What comes into being gets this inode number.
pub(super) struct Numbered(pub u64);

impl Adopt for Numbered {
    fn ino(&self, _: &KegId) -> Option<u64> {
        Some(self.0)
    }

    fn cookie(&self, _: &KegId, _: &[u8], _: &KegId) -> Option<u64> {
        None
    }
}

/// Nothing is known yet.
pub(super) struct Fresh;

impl Adopt for Fresh {
    fn ino(&self, _: &KegId) -> Option<u64> {
        None
    }

    fn cookie(&self, _: &KegId, _: &[u8], _: &KegId) -> Option<u64> {
        None
    }
}

/// See the head of this file.
pub(super) struct Layer<'a> {
    pub(super) overlay: &'a mut Overlay,
    pub(super) base: &'a Base<'a>,
    /// Number of the operation at work.
    pub(super) tag: u64,
    pub(super) numbers: &'a AtomicU64,
    pub(super) adopt: &'a dyn Adopt,
    /// A keg that is known not to be in the confirmed state: the random id that the user's own creation has just been
    /// given, or the one that was looked up in vain last.
    pub(super) absent: Cell<Option<KegId>>,
}

impl Layer<'_> {
    /// The keg's number in the database, if it is there.
    fn stored_ino(&self, keg: &KegId) -> Result<Option<u64>, ReplicaError> {
        if let Some(row) = self.overlay.nodes.get(keg) {
            return Ok(row.stored.then_some(row.node.ino));
        }
        Ok(self.base_node(keg)?.map(|row| row.node.ino))
    }

    /// The same where the database may have data that shows: what an overlay has emptied need not be looked for.
    fn ino_with_data(&self, keg: &KegId) -> Result<Option<u64>, ReplicaError> {
        if let Some(row) = self.overlay.nodes.get(keg) {
            return Ok((row.stored && row.node.allocated > 0).then_some(row.node.ino));
        }
        Ok(self.base_node(keg)?.filter(|row| row.node.allocated > 0).map(|row| row.node.ino))
    }

    fn base_node(&self, keg: &KegId) -> Result<Option<std::sync::Arc<super::rows::NodeRow>>, ReplicaError> {
        if self.absent.get().as_ref() == Some(keg) {
            return Ok(None);
        }
        let row = self.base.node(keg)?;
        if row.is_none() {
            self.absent.set(Some(*keg));
        }
        Ok(row)
    }

    fn xattrs(&self, keg: &KegId) -> Result<Vec<Xattr>, ReplicaError> {
        let stored = match self.stored_ino(keg)? {
            Some(ino) => self.base.xattrs(ino)?,
            None => Vec::new(),
        };
        Ok(merge_xattrs(stored, self.overlay, keg))
    }
}

/// Lays the overlay's extended attributes over the stored ones; ascending by name.
pub(super) fn merge_xattrs(stored: Vec<Xattr>, overlay: &Overlay, keg: &KegId) -> Vec<Xattr> {
    let Some(changed) = overlay.xattrs.get(keg) else { return stored };
    let mut merged: std::collections::BTreeMap<_, _> = stored.into_iter().collect();
    for (name, (value, _)) in changed {
        match value {
            Some(value) => merged.insert(name.clone(), value.clone()),
            None => merged.remove(name),
        };
    }
    merged.into_iter().collect()
}

/// Lays the overlay's names of a keg over the stored ones; ascending by cookie.
pub(super) fn merge_names(stored: Vec<(u64, Dentry)>, overlay: &Overlay, keg: &KegId) -> Vec<Dentry> {
    let hidden = |dentry: &Dentry| {
        overlay.dirs.get(&dentry.parent).is_some_and(|dir| dir.names.contains_key(dentry.name.as_slice()))
    };
    let mut names: Vec<_> = stored.into_iter().map(|(_, dentry)| dentry).filter(|dentry| !hidden(dentry)).collect();
    for (parent, name) in overlay.names_of.get(keg).map(Vec::as_slice).unwrap_or_default() {
        let over = overlay.dirs.get(parent).and_then(|dir| dir.names.get(name));
        names.extend(over.and_then(|over| over.there.as_ref()).map(|named| named.dentry(*parent, name)));
    }
    names.sort_by_key(|dentry| dentry.cookie);
    names
}

impl Store for Layer<'_> {
    type Error = ReplicaError;

    fn node(&self, keg: &KegId) -> Result<Option<Node>, ReplicaError> {
        if let Some(row) = self.overlay.nodes.get(keg) {
            return Ok(Some(row.node.clone()));
        }
        Ok(self.base_node(keg)?.map(|row| row.node.clone()))
    }

    fn put_node(&mut self, mut node: Node) -> Result<(), ReplicaError> {
        if !self.overlay.nodes.contains_key(&node.keg) {
            let base = self.base_node(&node.keg)?.map(|row| (row.node.clone(), row.xattrs));
            match &base {
                Some((stored, _)) => node.ino = stored.ino,
                None => node.ino = self.adopt.ino(&node.keg).unwrap_or(node.ino),
            }
            return self.overlay.put_node(node, self.tag, || Ok(base));
        }
        self.overlay.put_node(node, self.tag, || Ok(None))
    }

    fn allocate(&mut self) -> Result<u64, ReplicaError> {
        Ok(self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    fn dentry(&self, parent: &KegId, name: &[u8]) -> Result<Option<Dentry>, ReplicaError> {
        if let Some(over) = self.overlay.dirs.get(parent).and_then(|dir| dir.names.get(name)) {
            return Ok(over.there.as_ref().map(|named| named.dentry(*parent, name)));
        }
        let Some(ino) = self.stored_ino(parent)? else { return Ok(None) };
        Ok(self.base.name(ino, name)?.map(|row| base::dentry(*parent, name.to_vec(), &row)))
    }

    fn dentries_of(&self, keg: &KegId) -> Result<Vec<Dentry>, ReplicaError> {
        let stored = match self.stored_ino(keg)? {
            Some(ino) => self.base.names_of(ino)?,
            None => Vec::new(),
        };
        Ok(merge_names(stored, self.overlay, keg))
    }

    fn is_empty(&self, directory: &KegId) -> Result<bool, ReplicaError> {
        let over = self.overlay.dirs.get(directory);
        if over.is_some_and(|dir| !dir.order.is_empty()) {
            return Ok(false);
        }
        let Some(ino) = self.stored_ino(directory)? else { return Ok(true) };
        let hidden = |name: &[u8]| over.is_some_and(|dir| dir.names.contains_key(name));
        Ok(!self.base.has_name(ino, hidden)?)
    }

    fn put_dentry(&mut self, dentry: Dentry) -> Result<(), ReplicaError> {
        let Dentry { parent, name, keg, cookie, wanted, placed } = dentry;
        let cookie = self.adopt.cookie(&parent, &name, &keg).unwrap_or(cookie);
        self.overlay.put_name(parent, &name, Some(Named { keg, cookie, wanted, placed }), self.tag);
        Ok(())
    }

    fn remove_dentry(&mut self, dentry: &Dentry) -> Result<(), ReplicaError> {
        self.overlay.put_name(dentry.parent, &dentry.name, None, self.tag);
        Ok(())
    }

    fn set_xattr(&mut self, keg: &KegId, name: &[u8], value: Option<&[u8]>) -> Result<(), ReplicaError> {
        // The node's row carries the mark that it has attributes at all.
        if let Some(node) = self.node(keg)? {
            self.put_node(node)?;
        }
        self.overlay.put_xattr(keg, name, value, self.tag);
        Ok(())
    }

    fn note_attributes(&mut self, _: &KegId, _: Stamp) -> Result<(), ReplicaError> {
        // The rows that an entry changed are kept as they were before.
        Ok(())
    }

    fn known_attributes(&self, known: Known<'_>) -> Result<Attributes, ReplicaError> {
        let of = |node: &Node, xattrs: Vec<Xattr>| Attributes::of(node, xattrs.into_iter().collect());
        let now = self.node(known.keg)?.unwrap_or_else(Node::root);
        let now = of(&now, self.xattrs(known.keg)?);
        let ino = match self.base_node(known.keg)? {
            Some(row) if !self.overlay.forgotten.contains(known.keg) => row.node.ino,
            _ => return Ok(now),
        };
        let Some((mut attributes, stored)) = self.base.known_attributes(ino, &known)? else { return Ok(now) };
        // What differs from the rows is by one device, the one that asks: see the callers of `apply` in this room.
        attributes.take_changes(&stored, &now);
        Ok(attributes)
    }

    fn clear_range(&mut self, keg: &KegId, from: u64, to: u64) -> Result<u64, ReplicaError> {
        let stored = match self.ino_with_data(keg)? {
            Some(ino) => self.base.extents(ino, from, to)?,
            None => Vec::new(),
        };
        let content = self.overlay.content(keg, self.tag);
        let cleared = keg::data_in(&content.over(stored, from, to), from, to);
        content.clear(from, to, self.tag);
        Ok(cleared)
    }

    fn put_extent(&mut self, keg: &KegId, extent: &Extent) -> Result<(), ReplicaError> {
        self.overlay.content(keg, self.tag).put(extent, self.tag);
        Ok(())
    }

    fn note_content(&mut self, keg: &KegId, _: Stamp, _: u64) -> Result<(), ReplicaError> {
        // Stamp and size are those of the node, which is put next; that the content changed at all is the mark.
        self.overlay.content(keg, self.tag);
        if let Some(row) = self.overlay.nodes.get_mut(keg) {
            row.content_tag = row.content_tag.max(self.tag);
        }
        Ok(())
    }

    fn first_foreign_content(&self, keg: &KegId, after: u64, device: &DeviceId) -> Result<Option<u64>, ReplicaError> {
        // What lies in an overlay is by one device, the one that asks: see the callers of `apply` in this room.
        if self.overlay.forgotten.contains(keg) {
            return Ok(None);
        }
        match self.stored_ino(keg)? {
            Some(ino) => self.base.first_foreign_content(ino, after, device),
            None => Ok(None),
        }
    }

    fn copy_content_before(&mut self, from: &KegId, before: u64, to: &KegId) -> Result<(u64, u64), ReplicaError> {
        let Some(ino) = self.stored_ino(from)?.filter(|_| !self.overlay.forgotten.contains(from)) else {
            return Ok((0, 0));
        };
        let Some((size, extents)) = self.base.content_before(ino, before)? else {
            return Ok((0, 0));
        };
        for extent in &extents {
            self.put_extent(to, extent)?;
        }
        Ok((size, extents.iter().map(|extent| u64::from(extent.len)).sum()))
    }

    fn forget(&mut self, keg: &KegId) -> Result<(), ReplicaError> {
        for (name, _) in self.xattrs(keg)? {
            self.set_xattr(keg, &name, None)?;
        }
        self.overlay.content(keg, self.tag).clear(0, u64::MAX, self.tag);
        self.overlay.forgotten.insert(*keg);
        Ok(())
    }

    fn redirect(&self, device: &DeviceId, keg: &KegId) -> Result<Option<Redirect>, ReplicaError> {
        if let Some((redirect, _)) = self.overlay.redirects.get(&(*device, *keg)) {
            return Ok(Some(*redirect));
        }
        Ok(self.base.redirect(device, keg))
    }

    fn set_redirect(&mut self, device: &DeviceId, keg: &KegId, redirect: Redirect) -> Result<(), ReplicaError> {
        self.overlay.put_redirect(*device, *keg, redirect, self.tag);
        Ok(())
    }

    fn set_folder_name(&mut self, name: &str) -> Result<(), ReplicaError> {
        self.overlay.put_folder_name(name, self.tag);
        Ok(())
    }
}
