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
        // What the server said that it lacks: the length of what was sent, `None` where nobody here has it.
        let mut sent: HashMap<BlobId, Option<u64>> = HashMap::new();
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
                Err(error) => {
                    for id in missing(error)? {
                        sent.insert(id, self.send_again(id).await?);
                    }
                }
            }
        }
        Err(SyncError::TimedOut("keeping content that was released"))
    }

    /// The entry; `None` if nothing is to be added.
    fn sign_keeping(
        &self,
        verified: &Verified,
        sent: &HashMap<BlobId, Option<u64>>,
    ) -> Result<Option<SignedEntry>, SyncError> {
        let mut adds = Vec::new();
        for blob in self.replica.missed(BLOBS)? {
            match sent.get(&blob.id) {
                None => adds.push(blob),
                Some(Some(size_bytes)) => adds.push(BlobRef { size_bytes: *size_bytes, ..blob }),
                // Not to be had here. Somebody else may have it.
                Some(None) => self.replica.give_up(&blob.id)?,
            }
        }
        if adds.is_empty() {
            return Ok(None);
        }
        let position = self.position(verified)?;
        let secrets = verified.ring.epoch(position.epoch)?;
        let op = Op { base: position.observed.seq, at_ns: clock::unix_nanos(), kind: nothing() };
        let draft = Draft { batch: Batch { ops: vec![op] }, adds, releases: Vec::new() };
        Ok(Some(self.shared.author.batch(&position, secrets, draft)))
    }

    /// Sends a blob that the server lacks; its length.
    async fn send_again(self: &Arc<Self>, id: BlobId) -> Result<Option<u64>, SyncError> {
        let this = Arc::clone(self);
        let here = tokio::task::spawn_blocking(move || this.own_or_fetched(&id));
        let Some(bytes) = here.await.map_err(|_| SyncError::Closed)?? else { return Ok(None) };
        let size_bytes = bytes.len() as u64;
        self.remote.put_blob(self.id(), id, bytes).await?;
        Ok(Some(size_bytes))
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
