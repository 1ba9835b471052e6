//! Bounds of every length and count. A value outside them is refused before anything is allocated for it.

/// The format suite that this code writes: BLAKE3, XChaCha20-Poly1305, Ed25519, HPKE with X-Wing, canonical CBOR; what
/// each number brought is in `docs/FORMAT.md` §1.
pub const SUITE: u16 = 2;
/// The oldest suite that this code reads.
pub const SUITE_OLDEST: u16 = 1;
/// Plaintext bytes of one segment: the unit of decryption. 64 KiB keeps the cost of a random 4 KiB read near that of
/// a page fault from disk while the tags cost 0.02 %.
pub const SEGMENT_BYTES: usize = 64 * 1024;
/// Plaintext bytes of the longest chunk, and of all chunks of one blob together.
pub const CHUNK_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of the longest blob: a full chunk with its 64 tags, padded by Padmé.
pub const BLOB_MAX_BYTES: usize = 4_325_376;
/// Bytes of the longest signed entry, body included.
pub const ENTRY_MAX_BYTES: usize = 1024 * 1024;
/// Operations of one batch.
pub const BATCH_MAX_OPS: usize = 8192;
/// Encoded operations that a member puts into one entry, so also the longest that it makes. With padding (at most 12 %) and the
/// list of blobs that stays below [`ENTRY_MAX_BYTES`]. Who reads takes what comes.
pub const BATCH_MAX_BYTES: usize = 768 * 1024;
/// Blobs that one entry may add or release (each list).
pub const ENTRY_MAX_BLOBS: usize = 4096;
/// Positions that one thinning of the past names as kept: with the blobs that it may release it fits an entry. The rule of
/// a folder that keeps one moment of each hour for seven years.
pub const THIN_MAX_KEPT: usize = 65_536;
/// Pieces of one checkpoint's state, each in a blob of its own: 14 GB of state, some fifty million files.
pub const CHECKPOINT_MAX_PIECES: usize = 3500;
/// Elements of one record of a checkpoint's state that holds a list; longer lists are several records.
pub const RECORD_MAX_ITEMS: usize = 4096;
/// Bytes of a file name (Linux NAME_MAX).
pub const NAME_MAX_BYTES: usize = 255;
/// Bytes of a symlink's target (Linux PATH_MAX without the final NUL).
pub const SYMLINK_MAX_BYTES: usize = 4095;
/// Bytes of an extended attribute's value (Linux XATTR_SIZE_MAX).
pub const XATTR_VALUE_MAX_BYTES: usize = 65_536;
/// Bytes of a file: the largest offset that the kernel can express.
pub const FILE_MAX_BYTES: u64 = i64::MAX as u64;
/// Bytes of an account's or a device's display name, and of a folder's name.
pub const LABEL_MAX_BYTES: usize = 64;
/// Members of one folder.
pub const MEMBERS_MAX: usize = 100_000;
/// Devices that one account ever had.
pub const DEVICES_MAX: usize = 1024;
/// Bytes of an X-Wing public key (draft-connolly-cfrg-xwing-kem).
pub const KEM_PUBLIC_BYTES: usize = 1216;
/// Bytes of one sealed key box, generously.
pub const BOX_MAX_BYTES: usize = 2048;
/// Spans that one device may have locked of one file.
pub const LOCK_SPANS_MAX: usize = 256;
/// Contacts that one entry of an account log tells of.
pub const CONTACTS_MAX: usize = 64;
/// Bytes of such an entry's sealed contacts: as many with the longest names and reasons, padded. Everybody who knows the
/// account fetches them.
pub const CONTACTS_MAX_BYTES: usize = 32 * 1024;
/// Open invites of one folder.
pub const INVITES_MAX: usize = 1024;
