//! Hashes that name entries, logs and devices.

use crate::crypto::{kdf, labels};
use crate::format::{ChainHash, DbId, DeviceId, DeviceKeys, EntryHash, SignedAccountEntry, SignedEntry, encode};

/// The hash of an entry as it travels, signature included.
pub fn entry_hash(entry: &SignedEntry) -> EntryHash {
    EntryHash(kdf::hash(labels::HASH_ENTRY, &[&encode(entry)]))
}

/// The hash of an account entry as it travels, signature included.
pub fn account_entry_hash(entry: &SignedAccountEntry) -> EntryHash {
    EntryHash(kdf::hash(labels::HASH_ACCOUNT_ENTRY, &[&encode(entry)]))
}

/// The id of the keg db that begins with this entry.
pub fn db_id(first: &SignedEntry) -> DbId {
    DbId(entry_hash(first).0)
}

/// `H(n) = derive(H(n-1), hash(entry n))`, with [`ChainHash::ZERO`] before the first entry.
pub fn chain(before: ChainHash, entry: EntryHash) -> ChainHash {
    ChainHash(kdf::hash(labels::CHAIN, &[&before.0, &entry.0]))
}

/// The id of a device: the hash of its two public keys. Its name is not part of it.
pub fn device_id(keys: &DeviceKeys) -> DeviceId {
    DeviceId(kdf::hash(labels::HASH_DEVICE, &[&keys.sign, &keys.kem]))
}
