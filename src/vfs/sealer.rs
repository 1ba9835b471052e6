//! Seals blocks into blobs on worker threads: large ones alone, small ones of many files together.
//!
//! Every chunk has a fresh random key; a blob is padded to hide how much is in it and named by its hash. Knows nothing
//! of layers: whoever waits for a block is told by [`Core::settle`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};
use zeroize::Zeroizing;

use crate::crypto::chunk::{self, ChunkKey};
use crate::crypto::{padme, verified};
use crate::format::BlobId;
use crate::sys::{clock, random};

use super::block::{Block, Place, Spooled};
use super::core::Core;
use super::inode::Inode;
use super::mounted::Mounted;
use super::{Ino, VfsError};

/// A block from this size has a blob of its own: packing saves requests, and from here on the request costs less than
/// the transfer.
const ALONE_MIN_BYTES: u32 = 1 << 20;
/// Sealed bytes of the fullest blob, before padding: those of one full chunk.
const FULL_BYTES: usize = chunk::sealed_len(chunk::MAX_PLAIN);
/// A pack waits this long for company. Long against the time between two files of an unpacked archive (below 1 ms),
/// short against the second within which others must see a saved file.
const PACK_IDLE: Duration = Duration::from_millis(20);

/// A block to seal and the file it is for.
pub(super) struct Job {
    pub block: Arc<Block>,
    pub inode: Arc<Inode>,
}

impl Job {
    /// Nobody but this job refers to the block any more: what it held was overwritten or its file is gone.
    fn is_moot(&self) -> bool {
        Arc::strong_count(&self.block) == 1
    }
}

struct Pack {
    folder: Arc<Mounted>,
    bytes: Vec<u8>,
    members: Vec<(Job, u32, ChunkKey)>,
    last: Instant,
}

/// One sealing thread.
pub(super) struct Worker {
    core: Arc<Core>,
    jobs: Receiver<Job>,
    /// Someone waits: close packs as soon as no job is left.
    nudges: Receiver<()>,
    packs: HashMap<Ino, Pack>,
    spare: Vec<Vec<u8>>,
}

impl Worker {
    pub(super) fn new(core: Arc<Core>, jobs: Receiver<Job>, nudges: Receiver<()>) -> Self {
        Self { core, jobs, nudges, packs: HashMap::new(), spare: Vec::new() }
    }

    /// Works until the vfs stops.
    pub(super) fn run(mut self) {
        while !self.core.is_stopped() {
            match self.next() {
                Ok(Some(job)) => self.take(job),
                Ok(None) => {}
                Err(RecvTimeoutError::Timeout) => self.close_idle(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.core.hurry.load(Ordering::Acquire) > 0 && self.jobs.is_empty() {
                self.close_all();
            }
        }
        self.close_all();
    }

    fn next(&self) -> Result<Option<Job>, RecvTimeoutError> {
        let oldest = self.packs.values().map(|pack| pack.last).min();
        let wait = match oldest {
            Some(last) => PACK_IDLE.saturating_sub(clock::monotonic() - last),
            None => Duration::from_secs(3600),
        };
        select! {
            recv(self.jobs) -> job => job.map(Some).map_err(|_| RecvTimeoutError::Disconnected),
            recv(self.nudges) -> nudge => nudge.map(|()| None).map_err(|_| RecvTimeoutError::Disconnected),
            default(wait) => Err(RecvTimeoutError::Timeout),
        }
    }

    fn take(&mut self, job: Job) {
        self.core.note_taken(job.block.len() as usize);
        if job.is_moot() || job.block.is_sealed() {
            return;
        }
        let root = job.inode.folder.root();
        if job.block.len() >= ALONE_MIN_BYTES {
            let mut pack = self.new_pack(&job.inode.folder);
            self.add(&mut pack, job);
            return self.close(pack);
        }
        let sealed = chunk::sealed_len(job.block.len() as usize);
        let mut pack = match self.packs.remove(&root) {
            Some(pack) if pack.bytes.len() + sealed <= FULL_BYTES => pack,
            full => {
                if let Some(full) = full {
                    self.close(full);
                }
                self.new_pack(&job.inode.folder)
            }
        };
        self.add(&mut pack, job);
        self.packs.insert(root, pack);
    }

    fn new_pack(&mut self, folder: &Arc<Mounted>) -> Pack {
        let bytes = self.spare.pop().unwrap_or_default();
        Pack { folder: folder.clone(), bytes, members: Vec::new(), last: clock::monotonic() }
    }

    fn add(&mut self, pack: &mut Pack, job: Job) {
        let key = ChunkKey::random();
        let offset = pack.bytes.len() as u32;
        let sealed = job.block.with_plain(|plain| chunk::seal_into(&key, plain, &mut pack.bytes));
        match sealed {
            Some(Ok(())) => pack.members.push((job, offset, key)),
            // Blocks are neither empty nor longer than a chunk, so this says that the program is wrong.
            Some(Err(error)) => self.core.fail(job, VfsError::storage(error)),
            None => {}
        }
        pack.last = clock::monotonic();
    }

    fn close_idle(&mut self) {
        let now = clock::monotonic();
        let idle = self.packs.iter().filter(|(_, pack)| now - pack.last >= PACK_IDLE).map(|(root, _)| *root);
        for root in idle.collect::<Vec<_>>() {
            if let Some(pack) = self.packs.remove(&root) {
                self.close(pack);
            }
        }
    }

    fn close_all(&mut self) {
        for pack in std::mem::take(&mut self.packs).into_values() {
            self.close(pack);
        }
    }

    /// Stores the blob and tells those who wait for what is in it.
    fn close(&mut self, mut pack: Pack) {
        if pack.members.iter().any(|(job, ..)| !job.is_moot()) {
            pad(&mut pack.bytes);
            let blob = BlobId(verified::blob_id(&pack.bytes));
            match pack.folder.source.spool(&blob, &pack.bytes) {
                Ok(()) => self.settle(&pack.folder, blob, pack.members),
                Err(error) => {
                    for (job, ..) in pack.members {
                        self.core.fail(job, error.clone());
                    }
                }
            }
        }
        pack.bytes.clear();
        if self.spare.len() < 2 {
            self.spare.push(pack.bytes);
        }
    }

    fn settle(&self, folder: &Arc<Mounted>, blob: BlobId, members: Vec<(Job, u32, ChunkKey)>) {
        self.core.disk.lock().take();
        folder.unsynced.lock().push(blob);
        let spooled = Spooled::new(blob, folder.clone());
        let mut inodes: Vec<Arc<Inode>> = Vec::with_capacity(members.len());
        for (job, blob_offset, key) in members {
            let key = Zeroizing::new(*key.as_bytes());
            job.block.seal(Place { blob, blob_offset, key, spooled: Some(spooled.clone()) });
            inodes.push(job.inode);
        }
        // By address, not by number: of two inodes of one file, the older is only here with what nobody wants any more.
        inodes.sort_unstable_by_key(|inode| Arc::as_ptr(inode).addr());
        inodes.dedup_by(|one, other| Arc::ptr_eq(one, other));
        for inode in inodes {
            self.core.settle(&inode);
        }
    }
}

/// Pads to the next Padmé length with what cannot be told from ciphertext. A blob with one full chunk is left as it is:
/// all of them are equally long, so there is nothing to hide, and padding would cost 3 % of every large file.
fn pad(bytes: &mut Vec<u8>) {
    let len = bytes.len();
    if len < FULL_BYTES {
        // Not beyond what any blob may be: the largest pad stays below `BLOB_MAX_BYTES`, by its definition.
        bytes.resize(padme::padded_len(len as u64) as usize, 0);
        random::fill(&mut bytes[len..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::limits::BLOB_MAX_BYTES;

    #[test]
    fn no_padded_blob_is_longer_than_a_blob_may_be() {
        for len in [1, 2, 100, 65_552, 1 << 20, FULL_BYTES - 1, FULL_BYTES] {
            let mut bytes = vec![0; len];
            pad(&mut bytes);
            assert!(bytes.len() >= len && bytes.len() <= BLOB_MAX_BYTES, "{len} became {}", bytes.len());
        }
        assert_eq!(padme::padded_len(FULL_BYTES as u64) as usize, BLOB_MAX_BYTES);
    }
}
