//! The reference store: plain maps, whole history of contents and attributes, nothing clever.

use std::collections::BTreeMap;
use std::convert::Infallible;

use crate::format::{DeviceId, Extent, KegId};

use super::{Attributes, ContentVersion, Dentry, Known, Node, ROOT_INO, Redirect, Stamp, Store};

/// A tree in memory. Two of them that saw the same operations are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemStore {
    nodes: BTreeMap<KegId, Node>,
    dentries: BTreeMap<(KegId, Vec<u8>), Dentry>,
    xattrs: BTreeMap<(KegId, Vec<u8>), Vec<u8>>,
    /// After each change so far.
    attributes: BTreeMap<KegId, Vec<(Stamp, Attributes)>>,
    contents: BTreeMap<KegId, Content>,
    redirects: BTreeMap<(DeviceId, KegId), Redirect>,
    folder_name: Option<String>,
    last: u64,
}

/// Extents now, and after each change so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    extents: BTreeMap<u64, Extent>,
    versions: Vec<(ContentVersion, BTreeMap<u64, Extent>)>,
}

impl Default for MemStore {
    fn default() -> Self {
        let root = Node::root();
        Self {
            nodes: BTreeMap::from([(root.keg, root)]),
            dentries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            attributes: BTreeMap::new(),
            contents: BTreeMap::new(),
            redirects: BTreeMap::new(),
            folder_name: None,
            last: ROOT_INO,
        }
    }
}

impl MemStore {
    /// All nodes, removed ones included.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// All names.
    pub fn dentries(&self) -> impl Iterator<Item = &Dentry> {
        self.dentries.values()
    }

    /// Current extents of a file, ascending.
    pub fn extents(&self, keg: &KegId) -> Vec<Extent> {
        self.contents.get(keg).map(|content| content.extents.values().cloned().collect()).unwrap_or_default()
    }

    /// All versions of a file's content so far, oldest first, with their extents.
    pub fn versions(&self, keg: &KegId) -> Vec<(ContentVersion, Vec<Extent>)> {
        let versions = self.contents.get(keg).map(|content| content.versions.as_slice()).unwrap_or_default();
        versions.iter().map(|(version, extents)| (*version, extents.values().cloned().collect())).collect()
    }

    /// Extended attributes of a keg.
    pub fn xattrs(&self, keg: &KegId) -> Vec<(Vec<u8>, Vec<u8>)> {
        let of_keg = self.xattrs.iter().filter(|((owner, _), _)| owner == keg);
        of_keg.map(|((_, name), value)| (name.clone(), value.clone())).collect()
    }

    fn attributes_now(&self, keg: &KegId) -> Option<Attributes> {
        let node = self.nodes.get(keg)?;
        Some(Attributes::of(node, self.xattrs(keg).into_iter().collect()))
    }

    /// The folder's name, once it has one.
    pub fn folder_name(&self) -> Option<&str> {
        self.folder_name.as_deref()
    }
}

impl Store for MemStore {
    type Error = Infallible;

    fn node(&self, keg: &KegId) -> Result<Option<Node>, Infallible> {
        Ok(self.nodes.get(keg).cloned())
    }

    fn put_node(&mut self, node: Node) -> Result<(), Infallible> {
        self.nodes.insert(node.keg, node);
        Ok(())
    }

    fn allocate(&mut self) -> Result<u64, Infallible> {
        self.last += 1;
        Ok(self.last)
    }

    fn dentry(&self, parent: &KegId, name: &[u8]) -> Result<Option<Dentry>, Infallible> {
        Ok(self.dentries.get(&(*parent, name.to_vec())).cloned())
    }

    fn dentries_of(&self, keg: &KegId) -> Result<Vec<Dentry>, Infallible> {
        let mut found: Vec<_> = self.dentries.values().filter(|dentry| dentry.keg == *keg).cloned().collect();
        found.sort_by_key(|dentry| dentry.cookie);
        Ok(found)
    }

    fn is_empty(&self, directory: &KegId) -> Result<bool, Infallible> {
        Ok(self.dentries.range((*directory, Vec::new())..).next().is_none_or(|((parent, _), _)| parent != directory))
    }

    fn put_dentry(&mut self, dentry: Dentry) -> Result<(), Infallible> {
        self.dentries.insert((dentry.parent, dentry.name.clone()), dentry);
        Ok(())
    }

    fn remove_dentry(&mut self, dentry: &Dentry) -> Result<(), Infallible> {
        self.dentries.remove(&(dentry.parent, dentry.name.clone()));
        Ok(())
    }

    fn set_xattr(&mut self, keg: &KegId, name: &[u8], value: Option<&[u8]>) -> Result<(), Infallible> {
        let key = (*keg, name.to_vec());
        match value {
            Some(value) => self.xattrs.insert(key, value.to_vec()),
            None => self.xattrs.remove(&key),
        };
        Ok(())
    }

    fn note_attributes(&mut self, keg: &KegId, stamp: Stamp) -> Result<(), Infallible> {
        let Some(now) = self.attributes_now(keg) else { return Ok(()) };
        let versions = self.attributes.entry(*keg).or_default();
        if versions.last().is_some_and(|(last, _)| *last == stamp) {
            versions.pop();
        }
        versions.push((stamp, now));
        Ok(())
    }

    fn known_attributes(&self, known: Known<'_>) -> Result<Attributes, Infallible> {
        let versions = self.attributes.get(known.keg).map(Vec::as_slice).unwrap_or_default();
        let (earlier, later) = versions.split_at(versions.partition_point(|(stamp, _)| stamp.seq < known.before));
        let Some((_, first)) = earlier.last() else {
            return Ok(self
                .attributes_now(known.keg)
                .unwrap_or_else(|| Attributes::of(&Node::root(), BTreeMap::new())));
        };
        let (mut attributes, mut before) = (first.clone(), first);
        for (stamp, after) in later {
            if stamp.device == *known.device {
                attributes.take_changes(before, after);
            }
            before = after;
        }
        Ok(attributes)
    }

    fn clear_range(&mut self, keg: &KegId, from: u64, to: u64) -> Result<u64, Infallible> {
        let Some(content) = self.contents.get_mut(keg) else { return Ok(0) };
        let touched: Vec<_> =
            content.extents.values().filter(|extent| extent.clip(from, to).is_some()).cloned().collect();
        let cleared = data_in(&touched, from, to);
        for extent in touched {
            content.extents.remove(&extent.offset);
            for rest in [extent.clip(0, from), extent.clip(to, u64::MAX)].into_iter().flatten() {
                content.extents.insert(rest.offset, rest);
            }
        }
        Ok(cleared)
    }

    fn put_extent(&mut self, keg: &KegId, extent: &Extent) -> Result<(), Infallible> {
        self.contents.entry(*keg).or_default().extents.insert(extent.offset, extent.clone());
        Ok(())
    }

    fn note_content(&mut self, keg: &KegId, stamp: Stamp, size: u64) -> Result<(), Infallible> {
        let content = self.contents.entry(*keg).or_default();
        if content.versions.last().is_some_and(|(version, _)| version.stamp == stamp) {
            content.versions.pop();
        }
        content.versions.push((ContentVersion { stamp, size }, content.extents.clone()));
        Ok(())
    }

    fn first_foreign_content(&self, keg: &KegId, after: u64, device: &DeviceId) -> Result<Option<u64>, Infallible> {
        let Some(content) = self.contents.get(keg) else { return Ok(None) };
        let mut stamps = content.versions.iter().map(|(version, _)| version.stamp);
        Ok(stamps.find(|stamp| stamp.seq > after && stamp.device != *device).map(|stamp| stamp.seq))
    }

    fn copy_content_before(&mut self, from: &KegId, before: u64, to: &KegId) -> Result<(u64, u64), Infallible> {
        let Some(content) = self.contents.get(from) else { return Ok((0, 0)) };
        let Some((version, extents)) =
            content.versions.iter().rev().find(|(version, _)| version.stamp.seq < before).cloned()
        else {
            return Ok((0, 0));
        };
        let allocated = extents.values().map(|extent| u64::from(extent.len)).sum();
        self.contents.entry(*to).or_default().extents = extents;
        Ok((version.size, allocated))
    }

    fn forget(&mut self, keg: &KegId) -> Result<(), Infallible> {
        self.contents.remove(keg);
        self.attributes.remove(keg);
        self.xattrs.retain(|(owner, _), _| owner != keg);
        Ok(())
    }

    fn redirect(&self, device: &DeviceId, keg: &KegId) -> Result<Option<Redirect>, Infallible> {
        Ok(self.redirects.get(&(*device, *keg)).copied())
    }

    fn set_redirect(&mut self, device: &DeviceId, keg: &KegId, redirect: Redirect) -> Result<(), Infallible> {
        self.redirects.insert((*device, *keg), redirect);
        Ok(())
    }

    fn set_folder_name(&mut self, name: &str) -> Result<(), Infallible> {
        self.folder_name = Some(name.to_owned());
        Ok(())
    }
}

/// Bytes of `[from, to)` that the extents cover.
pub(crate) fn data_in(extents: &[Extent], from: u64, to: u64) -> u64 {
    extents.iter().filter_map(|extent| extent.clip(from, to)).map(|part| u64::from(part.len)).sum()
}
