//! Storage of blobs: immutable ciphertext, named by the BLAKE3 hash of its bytes.
//!
//! This room never sees a key and does not know what a blob holds or who may read it.

mod local;
#[cfg(test)]
mod local_tests;
mod store;
mod store_disk;
mod store_memory;
#[cfg(test)]
mod store_tests;

pub use local::{LocalError, LocalFault, LocalStore, LocalUsage};
pub use store::{BlobData, BlobError, BlobStore, BlobUpload, Listing, Stored};
pub use store_disk::DiskBlobs;
pub use store_memory::{BlobFault, FailingBlobs, MemoryBlobs};
