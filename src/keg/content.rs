//! Changes of a file's content, and the sibling that keeps the version of the later of two writers.

use crate::format::{Extent, KegId, NodeKind, Range};

use super::apply::{Applied, Context, Tree};
use super::conflict::sibling_id;
use super::{Attributes, Known, Node, Redirect, Store};

/// One change of a file's content; see [`crate::format::OpKind::Content`].
pub(super) struct Change<'a> {
    pub truncate: Option<u64>,
    pub holes: &'a [Range],
    pub extents: &'a [Extent],
    pub size: u64,
    pub mtime_ns: i64,
}

/// The keg that the author's operation on `keg` is for: the conflict sibling while the author had not seen the conflict,
/// and that one's own where it has lost too.
pub(super) fn redirected<S: Store>(store: &S, context: &Context, keg: &KegId, base: u64) -> Result<KegId, S::Error> {
    // A sibling is made of a change that it lost against, and loses against later ones only: positions rise on the way. To
    // ask for that ends it whatever the store holds.
    let (mut keg, mut after) = (*keg, base);
    while let Some(redirect) = store.redirect(&context.device, &keg)?.filter(|redirect| after < redirect.seq) {
        (keg, after) = (redirect.to, redirect.seq);
        if !context.parts_versions() {
            break;
        }
    }
    Ok(keg)
}

impl<S: Store> Tree<'_, S> {
    pub(super) fn content(&mut self, keg: &KegId, change: &Change<'_>) -> Result<Applied, S::Error> {
        let keg = redirected(self.store, self.context, keg, self.base)?;
        let Some(mut node) = self.node(&keg)? else { return Ok(Applied::Nothing) };
        if node.kind != NodeKind::File {
            return Ok(Applied::Nothing);
        }
        let mut applied = Applied::Done;
        // Whoever writes to a file sees it: the author's client sends no content for what it shows as removed. So even
        // the author's own removal, which another's entry may have made void in between, does not stand against it.
        if node.removed.is_some() {
            self.restore(node)?;
            applied = Applied::Restored;
            match self.store.node(&keg)? {
                Some(restored) => node = restored,
                None => return Ok(Applied::Nothing),
            }
        }
        if self.context.unseen(&node.content, self.base)
            && let Some(first_unseen) = self.store.first_foreign_content(&keg, self.base, &self.context.device)?
        {
            node = self.sibling(&node, first_unseen)?;
            applied = Applied::Sibling(node.keg);
        }
        self.change(node, change)?;
        Ok(applied)
    }

    /// A new file beside `node` with the content and the attributes that the author had before others changed the content
    /// from `first_unseen` on.
    fn sibling(&mut self, node: &Node, first_unseen: u64) -> Result<Node, S::Error> {
        let device = self.context.device;
        let mut attempt = 0;
        let keg = loop {
            attempt += 1;
            let id = sibling_id(&node.keg, &device, self.at_ns, attempt);
            if id != KegId::ROOT && self.store.node(&id)?.is_none() {
                break id;
            }
        };
        let ino = self.store.allocate()?;
        let content = self.context.stamp();
        // What the file was before the horizon is not there. Honest authors do not depend on it.
        let before = first_unseen.max(self.context.horizon + 1);
        let Attributes { mode, uid, gid, atime_ns, xattrs } = self.store.known_attributes(Known {
            keg: &node.keg,
            before: if self.context.parts_versions() { before } else { u64::MAX },
            device: &device,
            horizon: self.context.horizon,
        })?;
        let attributes = Node { mode, uid, gid, atime_ns, ..node.clone() };
        let mut sibling = Node { keg, ino, nlink: 1, size: 0, allocated: 0, content, removed: None, ..attributes };
        self.store.put_node(sibling.clone())?;
        (sibling.size, sibling.allocated) = self.store.copy_content_before(&node.keg, before, &keg)?;
        for (name, value) in &xattrs {
            self.store.set_xattr(&keg, name, Some(value))?;
        }
        self.store.note_attributes(&keg, content)?;
        // The file has a name: a removed one was restored before. Should a store disagree, the root takes the sibling.
        // Among several names all replicas choose one that was placed first. Cookies are local, and of what one entry
        // placed they need not tell the order where its author had renamed it before it was confirmed.
        let mut names = self.store.dentries_of(&node.keg)?;
        if self.context.parts_versions() {
            names.sort_by(|one, other| (one.parent, &one.name).cmp(&(other.parent, &other.name)));
        }
        let (parent, name) = match names.into_iter().min_by_key(|dentry| dentry.placed.seq) {
            Some(dentry) => (dentry.parent, dentry.wanted.unwrap_or(dentry.name)),
            None => (KegId::ROOT, keg.to_string().into_bytes()),
        };
        self.place(parent, &name, keg, ino, false)?;
        self.store.set_redirect(&device, &node.keg, Redirect { to: keg, seq: first_unseen })?;
        Ok(sibling)
    }

    fn change(&mut self, mut node: Node, change: &Change<'_>) -> Result<(), S::Error> {
        if let Some(cut) = change.truncate
            && cut < node.size
        {
            node.allocated = node.allocated.saturating_sub(self.store.clear_range(&node.keg, cut, u64::MAX)?);
            node.size = cut;
        }
        for hole in change.holes {
            node.allocated = node.allocated.saturating_sub(self.store.clear_range(
                &node.keg,
                hole.offset,
                hole.offset + hole.len,
            )?);
        }
        for extent in change.extents {
            if extent.offset < node.size {
                node.allocated =
                    node.allocated.saturating_sub(self.store.clear_range(&node.keg, extent.offset, extent.end())?);
            }
            self.store.put_extent(&node.keg, extent)?;
            node.allocated += u64::from(extent.len);
        }
        let end = change.extents.last().map_or(node.size, |last| last.end().max(node.size));
        if change.size < end {
            node.allocated = node.allocated.saturating_sub(self.store.clear_range(&node.keg, change.size, u64::MAX)?);
        }
        node.size = change.size;
        node.mtime_ns = change.mtime_ns;
        node.ctime_ns = self.at_ns;
        node.content = self.context.stamp();
        self.store.note_content(&node.keg, node.content, node.size)?;
        self.store.put_node(node)
    }
}
