//! Beginning in the middle: a member who can open nothing from before takes the folder's state from a checkpoint.
//!
//! The log is verified from its first entry like everybody's. Where the member's history begins, the log is searched
//! ahead for a checkpoint of that point, which comes later in it; until there is one, nothing further is applied. A
//! checkpoint that does not open, decode, hash or make a tree is told of and passed over.

use std::sync::Arc;

use super::keys::origin_of;
use super::verify::Verified;
use super::{FetchError, Folder, SyncError};
use crate::format::{CheckpointState, Record, SignedEntry};
use crate::keyring::{Verdict, open_checkpoint};
use crate::replica::{CheckpointRow, CheckpointVerdict, ReplicaError};

impl Folder {
    /// Gets the state at the point where this member's history begins. `ahead` follows the verified state.
    ///
    /// # Errors
    /// [`SyncError::AwaitingState`] while nobody has handed it over.
    pub(super) async fn obtain_state(
        self: &Arc<Self>,
        verified: &mut Verified,
        ahead: &[SignedEntry],
    ) -> Result<(), SyncError> {
        let Some(origin) = verified.origin.filter(|origin| !origin.complete) else { return Ok(()) };
        let mut found = Vec::new();
        let state = self
            .walk_ahead(verified, ahead, |advanced, _| {
                if let Verdict::Checkpoint(body) = &advanced.verdict
                    && body.epoch == origin.epoch
                    && let Some(sealed) = &body.state
                {
                    found.push(CheckpointRow {
                        seq: advanced.seq,
                        epoch: body.epoch,
                        account: advanced.envelope.author,
                        own: false,
                        sealed: sealed.clone(),
                        verdict: CheckpointVerdict::False,
                    });
                }
            })
            .await?;
        let now = origin_of(&state, &self.me);
        if now != Some((origin.epoch, origin.seq)) {
            // The membership is over, or another has begun: there is nothing to wait for, or something else.
            return self.begin_at(verified, now);
        }
        let refused: Vec<CheckpointRow> = self.replica.checkpoints()?;
        let refused = |row: &CheckpointRow| {
            refused.iter().any(|known| known.seq == row.seq && known.verdict == CheckpointVerdict::False)
        };
        for checkpoint in found.into_iter().filter(|row| !refused(row)) {
            let opened = open_checkpoint(&self.id(), origin.epoch, &checkpoint.sealed, &verified.ring);
            let taken = match opened {
                Ok(state) if state.seq == origin.seq => {
                    let this = Arc::clone(self);
                    let taking = tokio::task::spawn_blocking(move || this.take_state(&state));
                    taking.await.map_err(|_| SyncError::Closed)?
                }
                Ok(_) => Err(SyncError::Damaged("it is of another position".to_owned())),
                Err(error) => Err(error.into()),
            };
            match taken {
                Ok(()) => {
                    verified.origin = self.replica.origin()?;
                    self.note_progress();
                    return Ok(());
                }
                // Nobody's fault who can be named. A later one may be whole, and else somebody makes one.
                Err(SyncError::PastGone(FetchError::Missing(_))) => {}
                Err(error) => match what_is_wrong(&error) {
                    Some(what) => {
                        // Once: it is met again whenever the log is looked through for another.
                        self.replica.note_checkpoint(&checkpoint)?;
                        self.tell_false(checkpoint.seq, checkpoint.account, what);
                    }
                    None => return Err(error),
                },
            }
        }
        Err(SyncError::AwaitingState)
    }

    fn take_state(&self, state: &CheckpointState) -> Result<(), SyncError> {
        let mut import = self.replica.import(state.seq)?;
        self.read_state(state, |record| Ok(import.record(record)?))?;
        Ok(import.finish()?)
    }

    /// Fetches the pieces of a checkpoint's state, opens them, and gives their records to `take`. Blocks.
    pub(super) fn read_state(
        &self,
        state: &CheckpointState,
        mut take: impl FnMut(Record) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        let damaged = || SyncError::Damaged("a checkpoint's records".to_owned());
        let mut records = 0;
        for piece in &state.pieces {
            let plain = self.read_extent(piece)?;
            let mut rest = plain.as_slice();
            while !rest.is_empty() {
                let (length, after) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
                let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| damaged())?;
                let (record, after) = after.split_at_checked(length).ok_or_else(damaged)?;
                take(Record::decode(record).map_err(|_| damaged())?)?;
                (rest, records) = (after, records + 1);
            }
        }
        if records == state.records { Ok(()) } else { Err(damaged()) }
    }
}

/// What is wrong with a checkpoint, where it is its maker's fault and not that of this machine, the network or the server.
pub(super) fn what_is_wrong(error: &SyncError) -> Option<String> {
    let fault = match error {
        SyncError::Keyring(_) | SyncError::Damaged(_) => true,
        SyncError::Replica(error) => matches!(**error, ReplicaError::BadCheckpoint(_)),
        _ => false,
    };
    fault.then(|| error.to_string())
}
