//! Access control lists: acl(5), which is POSIX.1e draft 17, in the form that the kernel gives them in extended attributes
//! (Linux, `include/uapi/linux/posix_acl_xattr.h`).
//!
//! The kernel enforces them; here is what it leaves to a file system. What list and mode both say (owner, others, and the
//! mask or else the group) is the mode's to say: a list is stored for its other entries and shown with the mode's bits.

use crate::format::{NodeKind, OpKind};
use crate::keg::Node;
use crate::sys::clock;

use super::mode::{self, SETGID};
use super::mounted::Mounted;
use super::{Caller, VfsError};

/// Who may use a file, beyond the mode.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// What new nodes of a directory get.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// The attribute is a list.
pub(super) fn is_list(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;
/// The most that an attribute has room for, and more than any program makes.
const ENTRIES_MAX: usize = 1024;
/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// `e_tag` of acl(5), in the order that a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    OwningGroup = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Others = 0x20,
}

impl Tag {
    fn from_number(number: u16) -> Option<Self> {
        let all = [Self::Owner, Self::User, Self::OwningGroup, Self::Group, Self::Mask, Self::Others];
        all.into_iter().find(|tag| *tag as u16 == number)
    }

    fn names_somebody(self) -> bool {
        matches!(self, Self::User | Self::Group)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct AclEntry {
    tag: Tag,
    /// rwx: three bits.
    perm: u16,
    id: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<AclEntry>);

impl Acl {
    /// Decodes the kernel's form. `None` for what is no valid list (acl(5), "VALID ACLs"): owner, owning group and others
    /// once each, a mask at most once and wherever somebody is named, nobody named twice.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let entries = bytes.strip_prefix(&VERSION.to_le_bytes())?;
        if entries.len() % ENTRY_BYTES != 0 || entries.len() / ENTRY_BYTES > ENTRIES_MAX {
            return None;
        }
        let entry = |bytes: &[u8]| {
            let [tag0, tag1, perm0, perm1, id @ ..] = *<&[u8; ENTRY_BYTES]>::try_from(bytes).ok()?;
            let tag = Tag::from_number(u16::from_le_bytes([tag0, tag1]))?;
            let perm = u16::from_le_bytes([perm0, perm1]);
            let id = if tag.names_somebody() { u32::from_le_bytes(id) } else { NOBODY };
            (perm <= 7 && (id == NOBODY) != tag.names_somebody()).then_some(AclEntry { tag, perm, id })
        };
        let mut entries = entries.chunks_exact(ENTRY_BYTES).map(entry).collect::<Option<Vec<_>>>()?;
        entries.sort_by_key(|entry| (entry.tag, entry.id));
        let twice = entries.windows(2).any(|pair| (pair[0].tag, pair[0].id) == (pair[1].tag, pair[1].id));
        let acl = Self(entries);
        let has = |tag| acl.perm(tag).is_some();
        let whole = has(Tag::Owner) && has(Tag::OwningGroup) && has(Tag::Others);
        (whole && !twice && (has(Tag::Mask) || acl.is_minimal())).then_some(acl)
    }

    /// The kernel's form.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for AclEntry { tag, perm, id } in &self.0 {
            bytes.extend_from_slice(&(*tag as u16).to_le_bytes());
            bytes.extend_from_slice(&perm.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    fn perm(&self, tag: Tag) -> Option<u16> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm)
    }

    /// The entry that the mode's group bits stand for.
    fn group_class(&self) -> Tag {
        if self.perm(Tag::Mask).is_some() { Tag::Mask } else { Tag::OwningGroup }
    }

    /// It says no more than nine bits of a mode.
    pub(super) fn is_minimal(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, Tag::Owner | Tag::OwningGroup | Tag::Others))
    }

    /// What a node of the mode `mode` has until it has the list, which agrees with that: without it the owning group would have
    /// what is only the mask's.
    fn first_mode(&self, mode: u16) -> u16 {
        let group = self.perm(Tag::OwningGroup).unwrap_or(0);
        mode & (0o7707 | group << 3)
    }

    /// The nine bits that stand for it.
    pub(super) fn mode(&self) -> u16 {
        let of = |tag| self.perm(tag).unwrap_or(0);
        of(Tag::Owner) << 6 | of(self.group_class()) << 3 | of(Tag::Others)
    }

    /// With the bits of `mode` where it says the same.
    pub(super) fn with_mode(mut self, mode: u16) -> Self {
        let group = self.group_class();
        for entry in &mut self.0 {
            match entry.tag {
                Tag::Owner => entry.perm = mode >> 6 & 7,
                Tag::Others => entry.perm = mode & 7,
                tag if tag == group => entry.perm = mode >> 3 & 7,
                _ => {}
            }
        }
        self
    }
}

/// What a new node gets in a directory with a default list (acl(5), "OBJECT CREATION AND DEFAULT ACLs").
pub(super) struct Inherited {
    /// The node's mode: what was asked for, as far as the list allows it. The umask plays no part.
    mode: u16,
    /// The mode that it is created with: [`Acl::first_mode`].
    pub first_mode: u16,
    /// Extended attributes, by name.
    xattrs: Vec<(&'static [u8], Vec<u8>)>,
}

impl Inherited {
    /// What follows the creation of `node`.
    pub(super) fn rest(self, node: &Node) -> impl Iterator<Item = OpKind> {
        let (keg, first, mode) = (node.keg, node.mode, node.mode & 0o7000 | self.mode & 0o777);
        let set = move |(name, value): (&[u8], _)| OpKind::SetXattr { keg, name: name.to_vec(), value };
        self.xattrs.into_iter().map(set).chain((first != mode).then(|| mode::set(keg, mode)))
    }
}

/// The mode until the node has the list that is stored for it.
pub(super) fn until_listed(mode: u16, access: Option<&[u8]>) -> u16 {
    access.and_then(Acl::parse).map_or(mode, |list| list.with_mode(mode).first_mode(mode))
}

/// What a node of this kind inherits in `directory`, where that has a default list.
pub(super) fn inherited(
    folder: &Mounted,
    directory: &Node,
    kind: NodeKind,
    mode: u16,
) -> Result<Option<Inherited>, VfsError> {
    if kind == NodeKind::Symlink {
        return Ok(None);
    }
    let Some(stored) = folder.source.xattr(directory.ino, DEFAULT)? else { return Ok(None) };
    let Some(list) = Acl::parse(&stored) else { return Ok(None) };
    let mode = mode & (list.mode() | !0o777);
    let (mut first_mode, mut xattrs) = (mode, Vec::new());
    if !list.is_minimal() {
        let own = list.with_mode(mode);
        first_mode = own.first_mode(mode);
        xattrs.push((ACCESS, own.encode()));
    }
    if kind == NodeKind::Directory {
        xattrs.push((DEFAULT, stored));
    }
    Ok(Some(Inherited { mode, first_mode, xattrs }))
}

/// What is shown of a stored list where the mode `mode` is shown. `None` for what is no valid list.
pub(super) fn shown(name: &[u8], stored: &[u8], mode: u16) -> Option<Vec<u8>> {
    let list = Acl::parse(stored)?;
    Some(if name == ACCESS { list.with_mode(mode).encode() } else { list.encode() })
}

/// Sets a list. The caller holds the folder's `names`.
pub(super) fn set(folder: &Mounted, node: &Node, name: &[u8], value: &[u8], caller: &Caller) -> Result<(), VfsError> {
    let list = Acl::parse(value).ok_or(VfsError::InvalidArgument)?;
    let now_ns = clock::unix_nanos();
    let keg = node.keg;
    let stored = OpKind::SetXattr { keg, name: name.to_vec(), value: list.encode() };
    if name != ACCESS {
        return folder.change(node.ino, stored, now_ns);
    }
    let kept = if mode::keeps_setgid(node, caller) { 0o7000 } else { 0o7000 & !SETGID };
    let set_mode = mode::set(keg, node.mode & kept | list.mode());
    // In this order the group never has for a moment what is only the mask's.
    if list.is_minimal() {
        folder.change(node.ino, set_mode, now_ns)?;
        remove(folder, node, name)
    } else {
        folder.change(node.ino, stored, now_ns)?;
        folder.change(node.ino, set_mode, now_ns)
    }
}

/// Removes a list, where there is one.
pub(super) fn remove(folder: &Mounted, node: &Node, name: &[u8]) -> Result<(), VfsError> {
    match folder.xattr(node.ino, name)? {
        Some(_) => {
            let kind = OpKind::RemoveXattr { keg: node.keg, name: name.to_vec() };
            folder.change(node.ino, kind, clock::unix_nanos())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&perm.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    const OWNER: (u16, u16, u32) = (0x01, 6, NOBODY);
    const GROUP: (u16, u16, u32) = (0x04, 5, NOBODY);
    const OTHERS: (u16, u16, u32) = (0x20, 4, NOBODY);
    const MASK: (u16, u16, u32) = (0x10, 2, NOBODY);

    #[test]
    fn only_valid_lists_are_lists() {
        let valid = [
            vec![OWNER, GROUP, OTHERS],
            vec![OWNER, GROUP, MASK, OTHERS],
            vec![OWNER, (0x02, 7, 0), (0x02, 0, 1000), GROUP, (0x08, 1, 1000), MASK, OTHERS],
        ];
        for entries in valid {
            let bytes = list(&entries);
            assert_eq!(Acl::parse(&bytes).unwrap().encode(), bytes);
        }
        let invalid = [
            vec![],
            vec![OWNER, GROUP],
            vec![OWNER, OWNER, GROUP, OTHERS],
            vec![OWNER, GROUP, MASK, MASK, OTHERS],
            vec![OWNER, (0x02, 7, 1), GROUP, OTHERS],
            vec![OWNER, (0x02, 7, 1), (0x02, 6, 1), GROUP, MASK, OTHERS],
            vec![OWNER, (0x02, 7, NOBODY), GROUP, MASK, OTHERS],
            vec![OWNER, GROUP, (0x20, 8, NOBODY)],
            vec![OWNER, GROUP, OTHERS, (0x40, 1, NOBODY)],
        ];
        for entries in invalid {
            assert_eq!(Acl::parse(&list(&entries)), None, "{entries:?}");
        }
        assert_eq!(Acl::parse(&list(&[OWNER, GROUP, OTHERS])[..27]), None, "cut off");
        assert_eq!(Acl::parse(b"\x01\0\0\0"), None, "of another version");
    }

    #[test]
    fn the_groups_bits_are_the_masks_where_there_is_one() {
        let plain = Acl::parse(&list(&[OWNER, GROUP, OTHERS])).unwrap();
        assert!(plain.is_minimal());
        assert_eq!(plain.mode(), 0o654);
        let masked = Acl::parse(&list(&[OWNER, GROUP, MASK, OTHERS])).unwrap();
        assert!(!masked.is_minimal());
        assert_eq!(masked.mode(), 0o624);
        let changed = masked.with_mode(0o4371);
        assert_eq!((changed.mode(), changed.perm(Tag::OwningGroup)), (0o371, Some(5)));
    }

    proptest! {
        /// Whatever a member's changed client has stored: it is a list that the kernel takes, or none.
        #[test]
        fn any_bytes_are_a_list_or_none(
            version in prop_oneof![3 => Just(VERSION), 1 => any::<u32>()],
            entries in proptest::collection::vec((0_u16..0x42, 0_u16..9, prop_oneof![0_u32..3, Just(NOBODY)]), 0..9),
            rest in proptest::collection::vec(any::<u8>(), 0..3),
            mode in 0_u16..0o10000,
        ) {
            let mut bytes = list(&entries);
            bytes.splice(..4, version.to_le_bytes());
            bytes.extend(rest);
            if let Some(list) = Acl::parse(&bytes) {
                let again = Acl::parse(&list.encode()).unwrap();
                prop_assert_eq!(&again, &list);
                prop_assert_eq!(list.with_mode(mode).mode(), mode & 0o777);
            }
        }
    }
}
