//! Making checkpoints: what a member with full history does for one who has nothing from before.
//!
//! The state at the beginning of the epoch is exported, sealed piece by piece and uploaded; an entry under the maker's
//! signature says where it is. Extents that are not their whole chunk are sealed anew first: their chunk's key would open
//! what was overwritten (or cut off) before. So the receiver's extents are not everybody's, but hold the same bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::reach::{self, Packer};
use super::verify::{Chains, Verified};
use super::{Folder, SyncError};
use crate::crypto::chunk;
use crate::format::limits::CHECKPOINT_MAX_PIECES;
use crate::format::{BlobId, BlobRef, Checkpoint, CheckpointState, Extent, KegId, Record, encode};
use crate::keyring::{Verdict, seal_checkpoint};
use crate::replica::CheckpointVerdict;

/// Blobs of one part, which is an entry as soon as they are sent: the server keeps what no entry has added for a day only, and 64 MiB
/// take less than that on any network that can be worked with. A folder of a million files comes to some dozen entries.
const PART_BLOBS: usize = 16;
/// Content records that wait for a pack of chunks sealed anew.
const WAITING: usize = 512;
/// How often an entry is signed anew because the log has grown meanwhile.
const ATTEMPTS: usize = 16;
/// How often an upload is tried before the whole is begun again.
const UPLOADS: u32 = 5;

/// A part of a checkpoint whose blobs are on the server.
pub(super) struct Prepared {
    epoch: u32,
    adds: Vec<BlobRef>,
    /// In the last one.
    sealed: Option<Vec<u8>>,
}

impl Folder {
    /// The first epoch whose beginning some member needs the state of and nobody has handed over.
    pub(super) fn checkpoint_due(&self, verified: &Verified) -> Option<u32> {
        let mut wanted: Vec<u32> = verified.state.members().values().filter_map(|member| member.since).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return None;
        }
        // Unreadable is as good as none: one more does no harm.
        let there = self.replica.checkpoints().unwrap_or_default();
        // Of the last one the server may have removed something that nobody has any more.
        let counts = |epoch: &u32| {
            let good = there.iter().filter(|row| row.epoch == *epoch && row.verdict != CheckpointVerdict::False);
            let last = good.map(|row| row.seq).max();
            last.is_some_and(|seq| !self.replica.lost_state(seq).is_ok_and(|lost| lost))
        };
        // Of what was thinned out nobody has the state. It lasts while a member begins with it, so none waits for it.
        let is_there = |number: &u32| {
            let began = verified.state.began(*number);
            began.is_some_and(|seq| self.replica.moment_after(seq).is_ok_and(|there| there == seq))
        };
        wanted.into_iter().find(|epoch| !counts(epoch) && is_there(epoch))
    }

    /// Makes the checkpoint of `epoch`, unless there is one.
    pub(super) async fn hand_over(self: &Arc<Self>, epoch: u32) -> Result<(), SyncError> {
        let _one = self.handing_over.lock().await;
        self.catch_up().await?;
        if self.checkpoint_due(&*self.verified.lock().await) != Some(epoch) {
            return Ok(());
        }
        let this = Arc::clone(self);
        let preparing = tokio::task::spawn_blocking(move || prepare(&this, epoch));
        let prepared = preparing.await.map_err(|_| SyncError::Closed)??;
        self.post(Arc::new(prepared)).await
    }

    /// Appends the entry of a part of a checkpoint. The caller holds `authoring`, and no own entry is on its way.
    pub(super) async fn post_checkpoint(self: &Arc<Self>, prepared: &Prepared) -> Result<(), SyncError> {
        let body = Checkpoint { epoch: prepared.epoch, state: prepared.sealed.clone() };
        for _ in 0..ATTEMPTS {
            self.catch_up().await?;
            let entry = {
                let verified = self.verified.lock().await;
                let entry = self.shared.author.checkpoint(&self.position(&verified)?, prepared.adds.clone(), &body);
                let chains = Chains { replica: &self.replica, recent: &[] };
                let advanced = verified.state.check(&entry, &*self.accounts, &chains);
                match advanced.map_err(|error| SyncError::Damaged(error.to_string()))?.verdict {
                    Verdict::Checkpoint(_) => entry,
                    Verdict::Ignored(reason) => return Err(SyncError::Refused(reason.to_string())),
                    Verdict::Membership(_) | Verdict::Batch | Verdict::Thin(_) => {
                        return Err(SyncError::Damaged("a checkpoint".to_owned()));
                    }
                }
            };
            match self.remote.append(self.id(), &entry, &[]).await {
                Ok(_) => return self.catch_up().await,
                Err(error) if error.is_overtaken() => {}
                // Whether it was appended is unknown. If it was, its counter is used up, and one more does no harm.
                Err(error) if error.is_transient() => tokio::time::sleep(Duration::from_millis(500)).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(SyncError::TimedOut("handing over the state of a busy folder"))
    }
}

/// Exports, seals and uploads; all but the last part is in the log then. Blocks.
fn prepare(folder: &Arc<Folder>, epoch: u32) -> Result<Prepared, SyncError> {
    let seq = {
        let verified = folder.verified.blocking_lock();
        verified.ring.epoch(epoch)?;
        let began = verified.state.began(epoch);
        began.ok_or_else(|| SyncError::Damaged("an epoch that is not in the log".to_owned()))?
    };
    let mut maker = Maker {
        folder,
        epoch,
        runtime: folder.shared.foreground.clone(),
        plain: Zeroizing::new(Vec::with_capacity(chunk::MAX_PLAIN)),
        state: CheckpointState { seq, records: 0, pieces: Vec::new() },
        adds: Vec::new(),
        pack: Packer::default(),
        packed: Vec::new(),
        waiting: Vec::new(),
    };
    folder.replica.export(seq, |record| maker.record(record))?;
    maker.flush_waiting()?;
    maker.flush_piece()?;
    if folder.replica.moment_after(seq)? != seq {
        return Err(SyncError::Refused("the state that was to be handed over was thinned out meanwhile".to_owned()));
    }
    let verified = folder.verified.blocking_lock();
    let sealed = seal_checkpoint(&folder.id(), verified.ring.epoch(epoch)?, &maker.state);
    Ok(Prepared { epoch, adds: maker.adds, sealed: Some(sealed) })
}

/// A checkpoint in the making.
struct Maker<'a> {
    folder: &'a Arc<Folder>,
    epoch: u32,
    runtime: Handle,
    /// The piece that is being filled.
    plain: Zeroizing<Vec<u8>>,
    state: CheckpointState,
    /// What no entry has added yet.
    adds: Vec<BlobRef>,
    /// Chunks that are sealed anew.
    pack: Packer,
    /// Which extents of `waiting` lie in it: record and extent.
    packed: Vec<(usize, usize)>,
    /// Content whose records wait for the pack's id, and those after them: the order stays.
    waiting: Vec<(KegId, Vec<Extent>)>,
}

impl Maker<'_> {
    fn record(&mut self, record: Record) -> Result<(), SyncError> {
        match record {
            Record::Extents { keg, extents }
                if !self.waiting.is_empty() || extents.iter().any(|extent| !extent.is_whole()) =>
            {
                self.reseal(keg, extents)
            }
            record => self.write(&record),
        }
    }

    fn reseal(&mut self, keg: KegId, extents: Vec<Extent>) -> Result<(), SyncError> {
        if self.waiting.len() >= WAITING {
            self.flush_waiting()?;
        }
        self.waiting.push((keg, extents.clone()));
        for (index, extent) in extents.iter().enumerate().filter(|(_, extent)| !extent.is_whole()) {
            if !self.pack.fits(extent.len as usize) {
                self.close_pack()?;
            }
            let record = self.waiting.len() - 1;
            match self.folder.read_if_opens(extent)? {
                Some(bytes) => {
                    self.waiting[record].1[index] = self.pack.add(extent.offset, &bytes)?;
                    self.packed.push((record, index));
                }
                // So it is for everybody, and the rest of the folder is not.
                None => self.waiting[record].1[index] = reach::unreadable(extent),
            }
        }
        Ok(())
    }

    /// Gives the chunks sealed anew so far their blob.
    fn close_pack(&mut self) -> Result<(), SyncError> {
        if let Some((blob, bytes)) = self.pack.close() {
            for (record, index) in std::mem::take(&mut self.packed) {
                self.waiting[record].1[index].blob = blob.id;
            }
            self.upload(blob, bytes)?;
        }
        Ok(())
    }

    fn flush_waiting(&mut self) -> Result<(), SyncError> {
        self.close_pack()?;
        for (keg, extents) in std::mem::take(&mut self.waiting) {
            self.write(&Record::Extents { keg, extents })?;
        }
        Ok(())
    }

    fn write(&mut self, record: &Record) -> Result<(), SyncError> {
        let bytes = Zeroizing::new(encode(record));
        if self.plain.len() + 4 + bytes.len() > chunk::MAX_PLAIN {
            self.flush_piece()?;
        }
        let length = u32::try_from(bytes.len()).map_err(|_| SyncError::Damaged("a record".to_owned()))?;
        self.plain.extend_from_slice(&length.to_be_bytes());
        self.plain.extend_from_slice(&bytes);
        self.state.records += 1;
        Ok(())
    }

    fn flush_piece(&mut self) -> Result<(), SyncError> {
        if self.plain.is_empty() {
            return Ok(());
        }
        if self.state.pieces.len() >= CHECKPOINT_MAX_PIECES {
            return Err(SyncError::Refused("the folder has more files than a checkpoint can hold".to_owned()));
        }
        let offset = self.state.pieces.last().map_or(0, Extent::end);
        let mut pack = Packer::default();
        let mut piece = pack.add(offset, &self.plain)?;
        self.plain.clear();
        if let Some((blob, bytes)) = pack.close() {
            piece.blob = blob.id;
            self.upload(blob, bytes)?;
        }
        self.state.pieces.push(piece);
        Ok(())
    }

    fn upload(&mut self, blob: BlobRef, bytes: Vec<u8>) -> Result<(), SyncError> {
        let (folder, bytes) = (Arc::clone(self.folder), Bytes::from(bytes));
        let (done, result) = oneshot::channel();
        self.runtime.spawn(async move {
            let sent = put(&folder, blob.id, bytes).await;
            // Nobody waits for it when the session has closed.
            let _ = done.send(sent);
        });
        result.blocking_recv().map_err(|_| SyncError::Closed)??;
        self.adds.push(blob);
        if self.adds.len() >= PART_BLOBS { self.post() } else { Ok(()) }
    }

    /// Has the blobs so far added, so that the server keeps them however long the rest takes.
    fn post(&mut self) -> Result<(), SyncError> {
        let part = Prepared { epoch: self.epoch, adds: std::mem::take(&mut self.adds), sealed: None };
        let (folder, (done, result)) = (Arc::clone(self.folder), oneshot::channel());
        self.runtime.spawn(async move {
            let posted = folder.post(Arc::new(part)).await;
            // Nobody waits for it when the session has closed.
            let _ = done.send(posted);
        });
        result.blocking_recv().map_err(|_| SyncError::Closed)?
    }
}

async fn put(folder: &Folder, id: BlobId, bytes: Bytes) -> Result<(), SyncError> {
    let mut attempt = 0;
    loop {
        match folder.remote.put_blob(folder.id(), id, bytes.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() && attempt < UPLOADS => {
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(200) * 2u32.pow(attempt)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
