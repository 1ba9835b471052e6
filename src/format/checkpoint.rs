//! Checkpoints: the folder as it was at the beginning of an epoch, for members who can open nothing from before.
//!
//! An entry names the epoch in the clear and holds a sealed [`CheckpointState`], which says where the state lies: a stream
//! of [`Record`]s, cut into pieces that are sealed as chunks, one in each blob. What is in the records was chosen so that
//! every later operation does the same on a replica that began with them as on one that has read the whole log
//! (`docs/decisions`), and tells nothing else of the time before.

use minicbor::{Decode, Encode};

use super::limits::{CHECKPOINT_MAX_PIECES, ENTRY_MAX_BYTES, LABEL_MAX_BYTES, RECORD_MAX_ITEMS, XATTR_VALUE_MAX_BYTES};
use super::op::check_extents;
use super::{
    DeviceId, Extent, FormatError, KegId, NodeKind, check_name, check_symlink_target, check_xattr_name, decode,
};

/// A checkpoint entry's body, readable by the server.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Checkpoint {
    /// The epoch whose beginning it is of, and under whose content secret it is sealed.
    #[n(0)]
    pub epoch: u32,
    /// Sealed, padded [`CheckpointState`]. Absent in an entry that only adds blobs, where they are too many for one.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub state: Option<Vec<u8>>,
}

/// Where the state lies.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CheckpointState {
    /// Position of the entry that began the epoch: the state is that after it.
    #[n(0)]
    pub seq: u64,
    /// Number of records.
    #[n(1)]
    pub records: u64,
    /// The pieces of the stream, without gaps, each a whole chunk; at most [`CHECKPOINT_MAX_PIECES`].
    #[n(2)]
    pub pieces: Vec<Extent>,
}

/// Position and device of a change; the device by its index in [`Record::Devices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct WrittenStamp {
    /// Position.
    #[n(0)]
    pub seq: u64,
    /// Index of the device.
    #[n(1)]
    pub device: u32,
}

/// One piece of the state. In the stream each stands behind its length (u32 BE).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Record {
    /// Devices that stamps name, in the order of their indices. Comes first, once.
    #[n(0)]
    Devices {
        /// The devices.
        #[n(0)]
        devices: Vec<DeviceId>,
    },
    /// The folder's name.
    #[n(1)]
    FolderName {
        /// The name.
        #[n(0)]
        name: String,
    },
    /// A keg with a name (or the root). Comes before everything that refers to it.
    #[n(2)]
    Node {
        /// Its id.
        #[n(0)]
        keg: KegId,
        /// What it is.
        #[n(1)]
        kind: NodeKind,
        /// The twelve mode bits.
        #[n(2)]
        mode: u16,
        /// Stored numeric owner.
        #[n(3)]
        uid: u32,
        /// Stored numeric group.
        #[n(4)]
        gid: u32,
        /// Device number, for devices.
        #[n(5)]
        rdev: u32,
        /// Link count.
        #[n(6)]
        nlink: u32,
        /// Length in bytes.
        #[n(7)]
        size: u64,
        /// Access time, nanoseconds since 1970 UTC, as all times here.
        #[n(8)]
        atime_ns: i64,
        /// Modification time.
        #[n(9)]
        mtime_ns: i64,
        /// Change time.
        #[n(10)]
        ctime_ns: i64,
        /// Creation time.
        #[n(11)]
        btime_ns: i64,
        /// A symlink's target; empty otherwise.
        #[cbor(n(12), with = "minicbor::bytes")]
        target: Vec<u8>,
        /// Last change of the content.
        #[n(13)]
        content: WrittenStamp,
    },
    /// A name. All names come in the order in which they were placed.
    #[n(3)]
    Name {
        /// The directory.
        #[n(0)]
        parent: KegId,
        /// The name.
        #[cbor(n(1), with = "minicbor::bytes")]
        name: Vec<u8>,
        /// What it names.
        #[n(2)]
        keg: KegId,
        /// The name that was asked for, where a conflict gave another.
        #[cbor(n(3), with = "minicbor::bytes")]
        wanted: Option<Vec<u8>>,
        /// Who placed it.
        #[n(4)]
        placed: WrittenStamp,
    },
    /// An extended attribute.
    #[n(4)]
    Xattr {
        /// Of which keg.
        #[n(0)]
        keg: KegId,
        /// Name.
        #[cbor(n(1), with = "minicbor::bytes")]
        name: Vec<u8>,
        /// Value.
        #[cbor(n(2), with = "minicbor::bytes")]
        value: Vec<u8>,
    },
    /// Content of a file; what no extent covers is a hole. Whole chunks only.
    #[n(5)]
    Extents {
        /// Of which file.
        #[n(0)]
        keg: KegId,
        /// Ascending and disjoint, also across the records of one file.
        #[n(1)]
        extents: Vec<Extent>,
    },
    /// When and by which device a file's content was changed so far, not what it was: for conflicts with changes that were
    /// made before that.
    #[n(6)]
    Versions {
        /// Of which file.
        #[n(0)]
        keg: KegId,
        /// Ascending.
        #[n(1)]
        versions: Vec<WrittenStamp>,
    },
    /// See `keg::Redirect`.
    #[n(7)]
    Redirect {
        /// Whose operations.
        #[n(0)]
        device: DeviceId,
        /// On which keg.
        #[n(1)]
        keg: KegId,
        /// Go where.
        #[n(2)]
        to: KegId,
        /// While made before this position.
        #[n(3)]
        seq: u64,
    },
    /// Ids of kegs that have no name any more. Nothing else of them.
    #[n(8)]
    Removed {
        /// The ids.
        #[n(0)]
        kegs: Vec<KegId>,
    },
}

impl Checkpoint {
    /// Decodes canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let body: Self = decode(bytes)?;
        if body.state.as_ref().is_some_and(|state| state.len() > ENTRY_MAX_BYTES) {
            return Err(FormatError::OutOfBounds("checkpoint"));
        }
        Ok(body)
    }
}

impl CheckpointState {
    /// Decodes canonical bytes; the pieces are whole chunks that follow each other.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let state: Self = decode(bytes)?;
        let mut at = 0;
        for piece in &state.pieces {
            if piece.offset != at || !piece.is_whole() {
                return Err(FormatError::OutOfBounds("pieces of a checkpoint"));
            }
            at = piece.end();
        }
        if state.pieces.len() > CHECKPOINT_MAX_PIECES {
            return Err(FormatError::OutOfBounds("pieces of a checkpoint"));
        }
        check_extents(&state.pieces)?;
        Ok(state)
    }
}

impl Record {
    /// Decodes canonical bytes and checks names, sizes and extents.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let record: Self = decode(bytes)?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), FormatError> {
        let name_ok = |name: &[u8]| check_name(name).map_err(|_| FormatError::OutOfBounds("file name"));
        let few = |count: usize| match count {
            1..=RECORD_MAX_ITEMS => Ok(()),
            _ => Err(FormatError::OutOfBounds("record")),
        };
        match self {
            // Not `few`: stamps are by index, and all devices come in one record.
            Self::Devices { .. } | Self::Redirect { .. } => Ok(()),
            Self::FolderName { name } if name.is_empty() || name.len() > LABEL_MAX_BYTES => {
                Err(FormatError::OutOfBounds("folder name"))
            }
            Self::FolderName { name } => name_ok(name.as_bytes()),
            Self::Node { kind, mode, size, target, nlink, .. } => {
                let length = i64::try_from(*size).is_ok();
                if *mode > 0o7777 || !length || *nlink == 0 {
                    return Err(FormatError::OutOfBounds("node"));
                }
                match (kind, target.is_empty()) {
                    (NodeKind::Symlink, _) => {
                        check_symlink_target(target).map_err(|_| FormatError::OutOfBounds("symlink target"))
                    }
                    (_, true) => Ok(()),
                    (_, false) => Err(FormatError::OutOfBounds("target of what is no symlink")),
                }
            }
            Self::Name { name, wanted, .. } => {
                name_ok(name)?;
                wanted.as_deref().map_or(Ok(()), name_ok)
            }
            Self::Xattr { name, value, .. } => {
                check_xattr_name(name).map_err(|_| FormatError::OutOfBounds("attribute name"))?;
                if value.len() > XATTR_VALUE_MAX_BYTES {
                    Err(FormatError::OutOfBounds("attribute value"))
                } else {
                    Ok(())
                }
            }
            Self::Extents { extents, .. } => {
                few(extents.len())?;
                if extents.iter().all(Extent::is_whole) {
                    check_extents(extents)
                } else {
                    Err(FormatError::OutOfBounds("extent of a checkpoint that is not its whole chunk"))
                }
            }
            Self::Versions { versions, .. } => few(versions.len()),
            Self::Removed { kegs } => few(kegs.len()),
        }
    }
}
