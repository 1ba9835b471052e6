//! What goes in and out of the replica: plain values, no database and no lock.

use crate::format::{
    AccountId, Batch, BlobRef, ChainHash, DbId, DeviceId, EntryHash, Envelope, Extent, Head, KegId, Op, Role,
};
use crate::keg::Node;

/// Whose replica it is. Fixed at creation; opening with another `db` or `device` is refused.
#[derive(Clone, Debug)]
pub struct OpenParams {
    /// The folder.
    pub db: DbId,
    /// This installation: its own operations never conflict with each other.
    pub device: DeviceId,
    /// `alice's laptop`: how conflict names call this installation while its work is pending.
    pub label: String,
}

/// Extents of a part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    /// Whole, ascending and disjoint; gaps are holes.
    pub list: Vec<Extent>,
    /// Up to here they are all: behind the beginning of what was asked for, and at most its end.
    pub upto: u64,
}

impl Extents {
    /// The answer about a part that ends at `to`, where there may be `more` than this.
    pub(super) fn new(list: Vec<Extent>, to: u64, more: bool) -> Self {
        let upto = list.last().filter(|_| more).map_or(to, |last| last.end().min(to));
        Self { list, upto }
    }
}

/// One member as the verified log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Who.
    pub account: AccountId,
    /// As what.
    pub role: Role,
    /// Guests: end of membership, milliseconds since 1970 UTC.
    pub expires_ms: Option<i64>,
    /// The entry that made them a member.
    pub joined_seq: u64,
}

/// What the verification of the log says about the folder after the newest entry. Opaque here but for what the mounted
/// view shows; the replica stores it in the same transaction as the mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The verifier's own state (`keyring::FolderState::to_bytes`), given back as it is by [`super::Replica::standing`].
    pub state: Vec<u8>,
    /// Current epoch.
    pub epoch: u32,
    /// This account's role; `None`: not a member (any more).
    pub role: Option<Role>,
    /// All members, ascending by account.
    pub members: Vec<MemberInfo>,
}

/// What the blobs that an entry adds are to the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// Nothing: the entry does not count.
    Ignored,
    /// Of the folder; what refers to them was read.
    Known,
    /// Of the folder; what refers to them could not be read here, for lack of the key.
    Unread,
}

/// One verified entry of the log, ready to be applied.
#[derive(Clone, Debug)]
pub struct Confirmed {
    /// Position and chain hash after it.
    pub head: Head,
    /// Hash of the signed entry.
    pub hash: EntryHash,
    /// The verified envelope.
    pub envelope: Envelope,
    /// The opened batch, if the verdict is that it counts. `None` for membership entries, and for ignored entries: those
    /// advance the log and the author's counter and change nothing. Pending work of an own ignored entry stays pending.
    pub batch: Option<Batch>,
    /// From where on the past exists for the entry: see [`crate::keg::Context::horizon`].
    pub horizon: u64,
    /// What the blobs that it adds are.
    pub added: Added,
    /// Its author administered the folder when it came.
    pub administers: bool,
    /// It thins out the past, or releases blobs.
    pub thin: Option<super::Thin>,
    /// The author's label for conflict names, the same on every replica (from the author's account log).
    pub label: String,
    /// The signed entry, to be kept as the newest that was verified; given for the last of those applied together.
    pub signed: Option<Vec<u8>>,
    /// What happened with it, as far as the verification of the log tells. Conflicts and mass changes are added here.
    pub activity: Vec<super::Activity>,
}

/// An own entry that is signed and may already have reached the server. The same bytes are sent again until it shows up
/// in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedEntry {
    /// The device's entry counter.
    pub counter: u64,
    /// Number of the last pending operation that it carries; 0 for entries without operations.
    pub last_op: u64,
    /// Encoded [`crate::format::SignedEntry`].
    pub bytes: Vec<u8>,
    /// Blobs that must be on the server before it.
    pub blobs: Vec<BlobRef>,
}

/// A pending operation with its number.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Ascending, unique in the replica, with gaps.
    pub number: u64,
    /// The operation.
    pub op: std::sync::Arc<Op>,
}

/// A name in a listing without the attributes of what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameEntry {
    /// The name.
    pub name: Vec<u8>,
    /// As that of [`DirEntry`].
    pub cookie: u64,
    /// Inode number of what it names.
    pub ino: u64,
    /// What that is.
    pub kind: crate::format::NodeKind,
}

/// How far local work has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingCounts {
    /// Operations that the server has not sequenced.
    pub pending: u64,
    /// Of these, not yet in the journal (places whose content is still being sealed included).
    pub unjournaled: u64,
    /// Of these, in a staged entry.
    pub staged: u64,
}

/// A place in the queue of pending operations, kept for content that is still being sealed. Must be filled
/// ([`super::Replica::fill`]) exactly once: the journal cannot go past it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a slot that is never filled stops the journal"]
pub struct Slot(pub(super) u64);

impl Slot {
    /// Its number in the queue.
    pub fn number(&self) -> u64 {
        self.0
    }
}

/// Something that someone else changed, for the kernel's caches. May name more than what really changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Attributes of an inode.
    Attr(u64),
    /// Content (and attributes) of a file.
    Content(u64),
    /// A name: now there, gone, or something else.
    Entry {
        /// The directory.
        parent_ino: u64,
        /// The name.
        name: Vec<u8>,
        /// What it names now; `None`: nothing.
        child: Option<u64>,
    },
    /// Role, members, epoch or name of the folder.
    Standing,
}

/// One line of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: Vec<u8>,
    /// Where the listing goes on after it.
    pub cookie: u64,
    /// The inode.
    pub ino: u64,
    /// Its node.
    pub node: Node,
}

/// Name and value of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// One name of a keg, by inode number of its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameOf {
    /// The directory.
    pub parent_ino: u64,
    /// The directory's keg.
    pub parent: KegId,
    /// The name in it.
    pub name: Vec<u8>,
}

/// What is kept of every entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Position.
    pub seq: u64,
    /// Chain hash up to and including it.
    pub chain: ChainHash,
    /// Hash of the signed entry.
    pub hash: EntryHash,
    /// Author.
    pub account: AccountId,
    /// Author's device.
    pub device: DeviceId,
    /// Author's label.
    pub label: String,
    /// Author's clock, milliseconds since 1970 UTC.
    pub created_ms: i64,
}
