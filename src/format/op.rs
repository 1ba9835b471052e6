//! Keg operations: what a sealed batch holds.

use std::fmt;

use minicbor::{Decode, Encode};

use super::limits::{
    BATCH_MAX_BYTES, BATCH_MAX_OPS, BLOB_MAX_BYTES, CHUNK_MAX_BYTES, FILE_MAX_BYTES, LABEL_MAX_BYTES,
    XATTR_VALUE_MAX_BYTES,
};
use super::{
    BlobId, FormatError, KegId, check_name, check_suite, check_symlink_target, check_xattr_name, decode, encode,
};

/// What a keg is in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum NodeKind {
    /// Regular file.
    #[n(0)]
    File,
    /// Directory.
    #[n(1)]
    Directory,
    /// Symbolic link.
    #[n(2)]
    Symlink,
    /// Named pipe.
    #[n(3)]
    Fifo,
    /// Character device.
    #[n(4)]
    CharDevice,
    /// Block device.
    #[n(5)]
    BlockDevice,
    /// Unix socket.
    #[n(6)]
    Socket,
}

/// A half-open range of bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Range {
    /// First byte.
    #[n(0)]
    pub offset: u64,
    /// Number of bytes, at least 1.
    #[n(1)]
    pub len: u64,
}

/// A range of a file and the sealed chunk that holds its bytes.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Extent {
    /// First byte in the file.
    #[n(0)]
    pub offset: u64,
    /// Number of bytes, 1 to [`CHUNK_MAX_BYTES`].
    #[n(1)]
    pub len: u32,
    /// The blob that holds the chunk.
    #[n(2)]
    pub blob: BlobId,
    /// Where the sealed chunk begins in the blob.
    #[n(3)]
    pub blob_offset: u32,
    /// Plaintext length of the whole chunk.
    #[n(4)]
    pub chunk_len: u32,
    /// Where in the chunk's plaintext this extent begins; `chunk_skip + len <= chunk_len`.
    #[n(5)]
    pub chunk_skip: u32,
    /// The chunk's key. Secret: an extent is only ever stored sealed.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub key: [u8; 32],
}

impl fmt::Debug for Extent {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Extent({}+{} @ {:?}+{} [{}/{}])",
            self.offset, self.len, self.blob, self.blob_offset, self.chunk_skip, self.chunk_len
        )
    }
}

impl Extent {
    /// The extent is its whole chunk. Only such extents are ever written into an entry anew (by restoring, cloning, or a
    /// checkpoint): the key of any other opens bytes that were overwritten, and whoever reads the entry need not be
    /// one who may read those.
    pub fn is_whole(&self) -> bool {
        self.chunk_skip == 0 && self.len == self.chunk_len
    }

    /// First byte of the file after this extent.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// The part of this extent inside `[from, to)`, or `None` where they do not meet.
    pub fn clip(&self, from: u64, to: u64) -> Option<Self> {
        let start = self.offset.max(from);
        let end = self.end().min(to);
        if start >= end {
            return None;
        }
        let mut part = self.clone();
        part.chunk_skip += (start - self.offset) as u32;
        part.offset = start;
        part.len = (end - start) as u32;
        Some(part)
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Op {
    /// The version it was made against: the newest sequence number that the author had applied when the user acted.
    #[n(0)]
    pub base: u64,
    /// When the user acted, by the author's clock, nanoseconds since 1970 UTC. Becomes the change time.
    #[n(1)]
    pub at_ns: i64,
    /// What to do.
    #[n(2)]
    pub kind: OpKind,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OpKind {
    /// A new keg under a name.
    #[n(0)]
    Create {
        /// Its id, fresh.
        #[n(0)]
        keg: KegId,
        /// The directory.
        #[n(1)]
        parent: KegId,
        /// The name in it.
        #[cbor(n(2), with = "minicbor::bytes")]
        name: Vec<u8>,
        /// What it is.
        #[n(3)]
        kind: NodeKind,
        /// The twelve mode bits.
        #[n(4)]
        mode: u16,
        /// Numeric owner as given by the creating system.
        #[n(5)]
        uid: u32,
        /// Numeric group.
        #[n(6)]
        gid: u32,
        /// Device number, for devices.
        #[n(7)]
        rdev: u32,
        /// A symlink's target; empty otherwise.
        #[cbor(n(8), with = "minicbor::bytes")]
        target: Vec<u8>,
    },
    /// One more name for a keg that is not a directory.
    #[n(1)]
    Link {
        /// The keg.
        #[n(0)]
        keg: KegId,
        /// The directory.
        #[n(1)]
        parent: KegId,
        /// The name in it.
        #[cbor(n(2), with = "minicbor::bytes")]
        name: Vec<u8>,
    },
    /// Removes a name; of a directory only if it is empty.
    #[n(2)]
    Unlink {
        /// The keg that the user saw there.
        #[n(0)]
        keg: KegId,
        /// The directory.
        #[n(1)]
        parent: KegId,
        /// The name in it.
        #[cbor(n(2), with = "minicbor::bytes")]
        name: Vec<u8>,
    },
    /// Moves a name.
    #[n(3)]
    Rename {
        /// The keg that the user saw under the old name.
        #[n(0)]
        keg: KegId,
        /// Old directory.
        #[n(1)]
        parent: KegId,
        /// Old name.
        #[cbor(n(2), with = "minicbor::bytes")]
        name: Vec<u8>,
        /// New directory.
        #[n(3)]
        new_parent: KegId,
        /// New name.
        #[cbor(n(4), with = "minicbor::bytes")]
        new_name: Vec<u8>,
        /// The keg that the user saw under the new name and meant to replace (or exchange with).
        #[n(5)]
        target: Option<KegId>,
        /// Exchange the two names instead of replacing.
        #[n(6)]
        exchange: bool,
    },
    /// Sets some attributes; those that are absent stay.
    #[n(4)]
    SetAttr {
        /// The keg.
        #[n(0)]
        keg: KegId,
        /// Mode bits.
        #[n(1)]
        mode: Option<u16>,
        /// Owner.
        #[n(2)]
        uid: Option<u32>,
        /// Group.
        #[n(3)]
        gid: Option<u32>,
        /// Access time, nanoseconds since 1970 UTC.
        #[n(4)]
        atime_ns: Option<i64>,
        /// Modification time, nanoseconds since 1970 UTC.
        #[n(5)]
        mtime_ns: Option<i64>,
    },
    /// Sets an extended attribute.
    #[n(5)]
    SetXattr {
        /// The keg.
        #[n(0)]
        keg: KegId,
        /// Name, namespace prefix included.
        #[cbor(n(1), with = "minicbor::bytes")]
        name: Vec<u8>,
        /// Value.
        #[cbor(n(2), with = "minicbor::bytes")]
        value: Vec<u8>,
    },
    /// Removes an extended attribute.
    #[n(6)]
    RemoveXattr {
        /// The keg.
        #[n(0)]
        keg: KegId,
        /// Name, namespace prefix included.
        #[cbor(n(1), with = "minicbor::bytes")]
        name: Vec<u8>,
    },
    /// Changes a file's content in one step: first cut to `truncate` if given, then make `holes`, then place `extents`,
    /// then cut or extend (by a hole) to `size`.
    #[n(7)]
    Content {
        /// The file.
        #[n(0)]
        keg: KegId,
        /// The shortest length that the file had on the way.
        #[n(1)]
        truncate: Option<u64>,
        /// Ranges that become holes.
        #[n(2)]
        holes: Vec<Range>,
        /// New extents, ascending and disjoint.
        #[n(3)]
        extents: Vec<Extent>,
        /// Final length.
        #[n(4)]
        size: u64,
        /// Modification time, nanoseconds since 1970 UTC.
        #[n(5)]
        mtime_ns: i64,
    },
    /// Brings back what was removed before the epoch began under which this is sealed, and of which a member who reads
    /// from then on knows no more than the id: empty, under a name. Does nothing to anything else.
    #[n(16)]
    Revive {
        /// Its id.
        #[n(0)]
        keg: KegId,
        /// The directory.
        #[n(1)]
        parent: KegId,
        /// The name in it.
        #[cbor(n(2), with = "minicbor::bytes")]
        name: Vec<u8>,
        /// What it is.
        #[n(3)]
        kind: NodeKind,
        /// The twelve mode bits.
        #[n(4)]
        mode: u16,
        /// Numeric owner.
        #[n(5)]
        uid: u32,
        /// Numeric group.
        #[n(6)]
        gid: u32,
        /// Device number, for devices.
        #[n(7)]
        rdev: u32,
        /// A symlink's target; empty otherwise.
        #[cbor(n(8), with = "minicbor::bytes")]
        target: Vec<u8>,
        /// Creation time, nanoseconds since 1970 UTC.
        #[n(9)]
        btime_ns: i64,
    },
    /// Names the folder.
    #[n(8)]
    FolderName {
        /// The name, at most [`LABEL_MAX_BYTES`].
        #[n(0)]
        name: String,
    },
    /// Brings a removed keg back under a name. Does nothing to one that has a name.
    #[n(15)]
    Restore {
        /// The keg.
        #[n(0)]
        keg: KegId,
        /// The directory.
        #[n(1)]
        parent: KegId,
        /// The name in it.
        #[cbor(n(2), with = "minicbor::bytes")]
        name: Vec<u8>,
    },
}

/// The plaintext of a batch entry's body.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Batch {
    /// Operations in the order in which the author made them, 1 to [`BATCH_MAX_OPS`].
    #[n(0)]
    pub ops: Vec<Op>,
}

impl OpKind {
    /// The suite that introduced it.
    pub fn since(&self) -> u16 {
        match self {
            Self::Create { .. }
            | Self::Link { .. }
            | Self::Unlink { .. }
            | Self::Rename { .. }
            | Self::SetAttr { .. }
            | Self::SetXattr { .. }
            | Self::RemoveXattr { .. }
            | Self::Content { .. }
            | Self::FolderName { .. } => 1,
            Self::Restore { .. } | Self::Revive { .. } => 2,
        }
    }

    /// The blobs that it refers to, as often as it does.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> + '_ {
        let extents = match self {
            Self::Content { extents, .. } => extents.as_slice(),
            _ => &[],
        };
        extents.iter().map(|extent| extent.blob)
    }
}

impl Batch {
    /// Decodes canonical bytes of an entry of `suite` and checks every operation's bounds and names.
    pub fn decode(bytes: &[u8], suite: u16) -> Result<Self, FormatError> {
        let batch: Self = decode(bytes)?;
        batch.ops.iter().try_for_each(|op| check_suite(suite, op.kind.since()))?;
        if batch.ops.is_empty() || batch.ops.len() > BATCH_MAX_OPS {
            return Err(FormatError::OutOfBounds("operations of a batch"));
        }
        batch.ops.iter().try_for_each(Op::check)?;
        Ok(batch)
    }
}

impl Op {
    /// As [`Self::check`], for who makes it: it must also fit an entry, or it could never be sent, nor what comes after it.
    pub fn check_own(&self) -> Result<(), FormatError> {
        /// Encoded, with every number in it at its longest.
        const RANGE: usize = 19;
        const EXTENT: usize = 100;
        self.check()?;
        match &self.kind {
            OpKind::Content { holes, extents, .. }
                if holes.len() * RANGE + extents.len() * EXTENT > BATCH_MAX_BYTES / 2
                    && encode(self).len() > BATCH_MAX_BYTES =>
            {
                Err(FormatError::OutOfBounds("operation"))
            }
            // Nothing else has more than two names, a target or a value.
            _ => Ok(()),
        }
    }

    /// Checks names, sizes and extents against the limits.
    pub fn check(&self) -> Result<(), FormatError> {
        let name_ok = |name: &[u8]| check_name(name).map_err(|_| FormatError::OutOfBounds("file name"));
        match &self.kind {
            OpKind::Create { name, kind, mode, target, keg, .. }
            | OpKind::Revive { name, kind, mode, target, keg, .. } => {
                name_ok(name)?;
                if *mode > 0o7777 || *keg == KegId::ROOT {
                    return Err(FormatError::OutOfBounds("create"));
                }
                match (kind, target.is_empty()) {
                    (NodeKind::Symlink, _) => {
                        check_symlink_target(target).map_err(|_| FormatError::OutOfBounds("symlink target"))
                    }
                    (_, true) => Ok(()),
                    (_, false) => Err(FormatError::OutOfBounds("target of what is no symlink")),
                }
            }
            OpKind::Link { name, .. } | OpKind::Unlink { name, .. } => name_ok(name),
            OpKind::Restore { name, keg, .. } => match *keg {
                KegId::ROOT => Err(FormatError::OutOfBounds("restore")),
                _ => name_ok(name),
            },
            OpKind::Rename { name, new_name, .. } => name_ok(name).and_then(|()| name_ok(new_name)),
            OpKind::SetAttr { mode, .. } if mode.is_some_and(|mode| mode > 0o7777) => {
                Err(FormatError::OutOfBounds("mode"))
            }
            OpKind::SetAttr { .. } => Ok(()),
            OpKind::SetXattr { name, value, .. } => {
                check_xattr_name(name).map_err(|_| FormatError::OutOfBounds("attribute name"))?;
                if value.len() > XATTR_VALUE_MAX_BYTES {
                    Err(FormatError::OutOfBounds("attribute value"))
                } else {
                    Ok(())
                }
            }
            OpKind::RemoveXattr { name, .. } => {
                check_xattr_name(name).map_err(|_| FormatError::OutOfBounds("attribute name"))
            }
            OpKind::Content { truncate, holes, extents, size, .. } => {
                if *size > FILE_MAX_BYTES || truncate.is_some_and(|cut| cut > FILE_MAX_BYTES) {
                    return Err(FormatError::OutOfBounds("file size"));
                }
                check_ranges(holes)?;
                check_extents(extents)
            }
            // Shown in terminals and as a directory: nothing in it moves a cursor.
            OpKind::FolderName { name } => {
                let printable = !name.chars().any(char::is_control);
                if name.len() <= LABEL_MAX_BYTES && printable && check_name(name.as_bytes()).is_ok() {
                    Ok(())
                } else {
                    Err(FormatError::OutOfBounds("folder name"))
                }
            }
        }
    }
}

fn check_ranges(ranges: &[Range]) -> Result<(), FormatError> {
    let mut end = 0;
    for range in ranges {
        if range.len == 0 || range.offset < end || range.len > FILE_MAX_BYTES.saturating_sub(range.offset) {
            return Err(FormatError::OutOfBounds("holes"));
        }
        end = range.offset + range.len;
    }
    Ok(())
}

pub(super) fn check_extents(extents: &[Extent]) -> Result<(), FormatError> {
    let mut end = 0;
    for extent in extents {
        let inside_chunk = u64::from(extent.chunk_skip) + u64::from(extent.len) <= u64::from(extent.chunk_len);
        let inside_file = u64::from(extent.len) <= FILE_MAX_BYTES.saturating_sub(extent.offset);
        let bounded = extent.chunk_len as usize <= CHUNK_MAX_BYTES && (extent.blob_offset as usize) < BLOB_MAX_BYTES;
        if extent.len == 0 || extent.offset < end || !inside_chunk || !inside_file || !bounded {
            return Err(FormatError::OutOfBounds("extents"));
        }
        end = extent.end();
    }
    Ok(())
}
