//! Keeping content that is in use and was released: by somebody's changed client, or before somebody referred to it who did
//! not have it any more.
//!
//! Everybody who can write and shows such content adds it again, from the own store where the server has removed it
//! meanwhile: one is enough, and more do no harm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::carry::nothing;
use super::verify::Verified;
use super::{Folder, SyncError};
use crate::api::{Detail, ErrorCode};
use crate::format::{Batch, BlobId, BlobRef, Op, SignedEntry};
use crate::keyring::Draft;
use crate::remote::RemoteError;
use crate::sys::clock;

/// Blobs of one entry, as many as an entry usually adds.
const BLOBS: usize = 2048;
/// How often an entry is signed anew: somebody was faster, or blobs had to be sent.
const ATTEMPTS: usize = 16;
/// Between two attempts where the server did not answer.
const AGAIN: Duration = Duration::from_millis(500);

impl Folder {
    /// Adds again what was released in use. No own entry is on its way.
    pub(super) async fn make_keeping(self: &Arc<Self>) -> Result<(), SyncError> {
        // What the server lacked, with the length of what was sent.
        let mut sent: HashMap<BlobId, u64> = HashMap::new();
        for _ in 0..ATTEMPTS {
            self.catch_up().await?;
            let entry = {
                let verified = self.verified.lock().await;
                self.sign_keeping(&verified, &sent)?
            };
            let Some(entry) = entry else { return Ok(()) };
            match self.remote.append(self.id(), &entry, &[]).await {
                Ok(seq) => {
                    tracing::info!(db = %self.id(), seq, "added content again that was released in use");
                    return self.catch_up().await;
                }
                Err(error) if error.is_overtaken() => {}
                Err(error) if error.is_transient() => tokio::time::sleep(AGAIN).await,
                Err(error) => self.send_again(missing(error)?, &mut sent).await?,
            }
        }
        Err(SyncError::TimedOut("keeping content that was released"))
    }

    /// The entry; `None` if nothing is to be added.
    fn sign_keeping(&self, verified: &Verified, sent: &HashMap<BlobId, u64>) -> Result<Option<SignedEntry>, SyncError> {
        let length =
            |blob: BlobRef| BlobRef { size_bytes: sent.get(&blob.id).copied().unwrap_or(blob.size_bytes), ..blob };
        let adds: Vec<BlobRef> = self.replica.missed(BLOBS)?.into_iter().map(length).collect();
        if adds.is_empty() {
            return Ok(None);
        }
        let position = self.position(verified)?;
        let secrets = verified.ring.epoch(position.epoch)?;
        let op = Op { base: position.observed.seq, at_ns: clock::unix_nanos(), kind: nothing() };
        let draft = Draft { batch: Batch { ops: vec![op] }, adds, releases: Vec::new() };
        Ok(Some(self.shared.author.batch(&position, secrets, draft)))
    }

    /// Sends what the server lacks and is here. The rest is given up: somebody else may have it.
    async fn send_again(
        self: &Arc<Self>,
        lacks: Vec<BlobId>,
        sent: &mut HashMap<BlobId, u64>,
    ) -> Result<(), SyncError> {
        let mut gone = Vec::new();
        for id in lacks {
            let this = Arc::clone(self);
            let here = tokio::task::spawn_blocking(move || this.own(&id));
            match here.await.map_err(|_| SyncError::Closed)? {
                Some(bytes) => {
                    sent.insert(id, bytes.len() as u64);
                    self.remote.put_blob(self.id(), id, bytes).await?;
                }
                None => gone.push(id),
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let this = Arc::clone(self);
        let given_up = tokio::task::spawn_blocking(move || this.replica.give_up(&gone));
        Ok(given_up.await.map_err(|_| SyncError::Closed)??)
    }
}

/// Which blobs the server lacks, if that is what it says.
fn missing(error: RemoteError) -> Result<Vec<BlobId>, SyncError> {
    if error.code() == Some(ErrorCode::MissingBlobs)
        && let RemoteError::Refused(refusal) = &error
        && let Detail::Blobs(blobs) = &refusal.detail
    {
        return Ok(blobs.clone());
    }
    Err(error.into())
}
