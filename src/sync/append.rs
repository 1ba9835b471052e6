//! Making an entry of local operations and bringing it into the log, once.
//!
//! The signed bytes are made durable before they are sent and the same bytes are sent until the log has them, so an
//! answer that is lost, a restart on either side and a second attempt all end with one entry.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::carry::{carry, wanted};
use super::verify::{Taken, Verified, take_in};
use super::{Folder, SyncError};
use crate::api::{Detail, ErrorCode};
use crate::format::{Batch, BlobId, BlobRef, SignedEntry, decode, encode};
use crate::keyring::Draft;
use crate::remote::RemoteError;
use crate::replica::{Pending, StagedEntry};

/// What became of an entry.
pub(super) enum Outcome {
    /// It is in the log, and applied.
    Confirmed,
    /// It is not in the log as it is; its operations are pending again.
    Again,
    /// The server lacks these blobs.
    Missing(Vec<BlobId>),
    /// Unknown, or not now: the same bytes later.
    Later(SyncError),
    /// Not for a reason that time mends.
    Blocked(SyncError),
}

/// How often what an entry needs is fetched before it is made: after that what is still missing is fetched while it is made.
const FETCHES: u32 = 4;

/// What came of making an entry.
enum Sealed {
    Entry(StagedEntry),
    /// These blobs are to be fetched first.
    Wants(Vec<BlobId>),
}

/// Signs the operations as one entry and makes it durable.
///
/// What it needs and is not here is fetched before, so that the folder goes on following the log meanwhile: fetching may take
/// minutes. Whether that is all that it needs is seen while nothing can change any more.
pub(super) async fn seal(
    folder: &Arc<Folder>,
    ops: Vec<Pending>,
    adds: Vec<BlobRef>,
) -> Result<StagedEntry, SyncError> {
    let (ops, adds) = (Arc::new(ops), Arc::new(adds));
    let (mut gone, mut fetches) = (HashSet::new(), 0);
    loop {
        let verified = Arc::clone(&folder.verified).lock_owned().await;
        let (this, ops, adds, known) = (Arc::clone(folder), Arc::clone(&ops), Arc::clone(&adds), gone.clone());
        let sealing = tokio::task::spawn_blocking(move || {
            let wanted =
                if fetches < FETCHES { wanted(&this, &ops, verified.past_from(), &adds, &known)? } else { Vec::new() };
            if !wanted.is_empty() {
                return Ok(Sealed::Wants(wanted));
            }
            seal_now(&this, &verified, &ops, &adds, &known).map(Sealed::Entry)
        });
        match sealing.await.map_err(|_| SyncError::Closed)?? {
            Sealed::Entry(staged) => return Ok(staged),
            Sealed::Wants(blobs) => gone.extend(fetch(folder, blobs).await?),
        }
        fetches += 1;
    }
}

/// Brings blobs into the local store; returns those that are gone.
async fn fetch(folder: &Arc<Folder>, blobs: Vec<BlobId>) -> Result<Vec<BlobId>, SyncError> {
    let folder = Arc::clone(folder);
    let fetching = tokio::task::spawn_blocking(move || {
        let mut gone = Vec::new();
        for blob in blobs {
            if folder.own_or_fetched(&blob)?.is_none() {
                gone.push(blob);
            }
        }
        Ok(gone)
    });
    fetching.await.map_err(|_| SyncError::Closed)?
}

/// Blocks.
fn seal_now(
    folder: &Arc<Folder>,
    verified: &Verified,
    ops: &[Pending],
    adds: &[BlobRef],
    gone: &HashSet<BlobId>,
) -> Result<StagedEntry, SyncError> {
    let position = folder.position(verified)?;
    let secrets = verified.ring.epoch(position.epoch)?;
    let carried = carry(folder, ops, verified.past_from(), adds, gone)?;
    let (last_op, mut adds) = (carried.last, adds.to_vec());
    if carried.last < ops.last().map_or(0, |pending| pending.number) {
        // Not all of them fit: their blobs come with the next entry.
        let kept: HashSet<BlobId> = carried.ops.iter().flat_map(|op| op.kind.blobs()).collect();
        adds.retain(|blob| kept.contains(&blob.id));
    }
    adds.extend(carried.adds);
    let draft = Draft { batch: Batch { ops: carried.ops }, adds: adds.clone(), releases: Vec::new() };
    let entry = folder.shared.author.batch(&position, secrets, draft);
    let staged = StagedEntry { counter: position.last.counter + 1, last_op, bytes: encode(&entry), blobs: adds };
    let first = ops.first().map_or(0, |pending| pending.number);
    folder.staged_from.store(first, Ordering::Release);
    folder.replica.stage(staged.clone())?;
    Ok(staged)
}

/// Sends a staged entry and applies it.
pub(super) async fn send(folder: Arc<Folder>, staged: StagedEntry) -> Outcome {
    let entry: SignedEntry = match decode(&staged.bytes) {
        Ok(entry) => entry,
        Err(error) => return Outcome::Blocked(SyncError::Damaged(format!("a staged entry: {error}"))),
    };
    let result = match folder.remote.append(folder.id(), &entry, &[]).await {
        Ok(seq) => confirm(&folder, &staged, entry, seq).await,
        Err(error) => return refused(&folder, &staged, error).await,
    };
    match result {
        Ok(()) => Outcome::Confirmed,
        Err(error) if error.is_transient() => Outcome::Later(error),
        Err(error) => Outcome::Blocked(error),
    }
}

/// The server says that the entry is number `seq` of the log.
async fn confirm(folder: &Arc<Folder>, staged: &StagedEntry, entry: SignedEntry, seq: u64) -> Result<(), SyncError> {
    let mut verified = Arc::clone(&folder.verified).lock_owned().await;
    if verified.state.head().seq + 1 == seq {
        // The usual case: nobody else wrote meanwhile, and the entry need not be downloaded again.
        let this = Arc::clone(folder);
        let applied = tokio::task::spawn_blocking(move || {
            let taken = take_in(&this, &mut verified, std::slice::from_ref(&entry));
            (taken, verified.state.head(), entry)
        });
        let (taken, head, entry) = applied.await.map_err(|_| SyncError::Closed)?;
        match taken? {
            Taken::All => {}
            Taken::NeedsKeys(_) | Taken::NeedsState(_) => {
                return Err(SyncError::Damaged("an own entry under an unknown key".to_owned()));
            }
            // Own bytes do not fit where the server says they are: its log is not the one that was verified.
            Taken::Caught(_, misbehaviour) => {
                let what =
                    format!("the server acknowledged an entry as number {seq}, where it cannot be: {misbehaviour}");
                folder.freeze(&what, head, seq, &[entry]);
                return Err(SyncError::Misbehaviour(what));
            }
        }
    } else {
        drop(verified);
        folder.catch_up().await?;
        let verified = folder.verified.lock().await;
        if verified.state.author(&folder.device).counter < staged.counter && verified.state.head().seq >= seq {
            let what = format!("the server acknowledged an entry as number {seq} and left it out of the log");
            folder.freeze(&what, verified.state.head(), seq, &[entry]);
            return Err(SyncError::Misbehaviour(what));
        }
    }
    settle(folder, staged).await
}

/// After the log has moved: an entry whose counter is used up is over, whether it counted or not.
async fn settle(folder: &Arc<Folder>, staged: &StagedEntry) -> Result<(), SyncError> {
    let used = folder.verified.lock().await.state.author(&folder.device).counter >= staged.counter;
    if used && folder.replica.staged().iter().any(|entry| entry.counter == staged.counter) {
        // It was ignored by the log's rules: its operations are sealed anew.
        folder.replica.unstage(staged.counter)?;
    }
    Ok(())
}

async fn refused(folder: &Arc<Folder>, staged: &StagedEntry, error: RemoteError) -> Outcome {
    let Some(code) = error.code() else {
        let error = SyncError::from(error);
        return if error.is_transient() { Outcome::Later(error) } else { Outcome::Blocked(error) };
    };
    if code == ErrorCode::MissingBlobs
        && let RemoteError::Refused(refusal) = &error
        && let Detail::Blobs(blobs) = &refusal.detail
    {
        return Outcome::Missing(blobs.clone());
    }
    if error.is_transient() {
        return Outcome::Later(error.into());
    }
    // Every other refusal is about the state of the log: look at it.
    if let Err(error) = folder.catch_up().await {
        return if error.is_transient() { Outcome::Later(error) } else { Outcome::Blocked(error) };
    }
    if !folder.replica.staged().iter().any(|entry| entry.counter == staged.counter) {
        return Outcome::Confirmed;
    }
    if let Err(error) = folder.replica.unstage(staged.counter) {
        return Outcome::Blocked(error.into());
    }
    match code {
        ErrorCode::StaleEpoch | ErrorCode::StaleObserved | ErrorCode::Counter => Outcome::Again,
        _ => Outcome::Blocked(error.into()),
    }
}
