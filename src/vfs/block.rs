//! A block: frozen plaintext on its way into a chunk of a blob.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use zeroize::Zeroizing;

use crate::format::{BlobId, Extent};

use super::buffer::Buffer;
use super::mounted::Mounted;

/// Up to 4 MiB of plaintext that nobody changes any more. Its bytes are dropped once it is sealed and spooled.
pub(super) struct Block {
    len: u32,
    state: RwLock<State>,
}

enum State {
    Plain(Buffer),
    Sealed(Place),
}

/// Where a block's chunk is.
#[derive(Clone)]
pub(super) struct Place {
    pub blob: BlobId,
    pub blob_offset: u32,
    pub key: Zeroizing<[u8; 32]>,
    /// The blob in the spool, where it is one that was sealed here.
    pub spooled: Option<Arc<Spooled>>,
}

/// A blob in the spool that no operation names yet. What was written to a file that is removed before its turn, or while
/// it is open, never is: when the last block in it goes, the blob may go from the spool.
pub(super) struct Spooled {
    blob: BlobId,
    folder: Arc<Mounted>,
    named: AtomicBool,
}

impl Spooled {
    pub(super) fn new(blob: BlobId, folder: Arc<Mounted>) -> Arc<Self> {
        Arc::new(Self { blob, folder, named: AtomicBool::new(false) })
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if !*self.named.get_mut() {
            self.folder.orphaned(self.blob);
        }
    }
}

impl Block {
    /// Of a buffer that is not empty.
    pub(super) fn new(buffer: Buffer) -> Arc<Self> {
        Arc::new(Self { len: buffer.len() as u32, state: RwLock::new(State::Plain(buffer)) })
    }

    /// Of a chunk that is stored already: what a clone refers to.
    pub(super) fn stored(extent: &Extent) -> Arc<Self> {
        let place = Place {
            blob: extent.blob,
            blob_offset: extent.blob_offset,
            key: Zeroizing::new(extent.key),
            spooled: None,
        };
        Arc::new(Self { len: extent.chunk_len, state: RwLock::new(State::Sealed(place)) })
    }

    /// Number of plaintext bytes.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// It has a place in a blob.
    pub(super) fn is_sealed(&self) -> bool {
        matches!(*self.state.read(), State::Sealed(_))
    }

    /// Calls `with` with the plaintext, unless it is sealed already.
    pub(super) fn with_plain<T>(&self, with: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match &*self.state.read() {
            State::Plain(buffer) => Some(with(buffer.bytes())),
            State::Sealed(_) => None,
        }
    }

    /// The chunk is stored: forgets the plaintext.
    pub(super) fn seal(&self, place: Place) {
        // The old state, and with it the lock of the budget, is dropped outside the lock.
        let _plain = std::mem::replace(&mut *self.state.write(), State::Sealed(place));
    }

    /// An operation that names its blob goes to the journal: from here on the blob leaves the spool when it was uploaded.
    pub(super) fn name(&self) {
        if let State::Sealed(Place { spooled: Some(spooled), .. }) = &*self.state.read() {
            spooled.named.store(true, Ordering::Release);
        }
    }

    /// `len` bytes from `skip` as an extent at `offset` of a file, once sealed.
    pub(super) fn extent(&self, offset: u64, skip: u32, len: u32) -> Option<Extent> {
        match &*self.state.read() {
            State::Plain(_) => None,
            State::Sealed(place) => Some(Extent {
                offset,
                len,
                blob: place.blob,
                blob_offset: place.blob_offset,
                chunk_len: self.len,
                chunk_skip: skip,
                key: *place.key,
            }),
        }
    }
}
