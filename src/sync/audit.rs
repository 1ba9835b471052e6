//! Comparing every checkpoint with the own state at its point (THREATS row 32).
//!
//! The receiver of a checkpoint cannot tell whether it is true; everybody who has that part of the history can, and does.
//! A false one is told of, and an admin's client that has found it false hands over a true one. A receiver who meets two
//! that differ takes neither side: the folder is frozen, for people to decide.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::event::Event;
use super::newcomer::what_is_wrong;
use super::{FetchError, Folder, SyncError, reach};
use crate::format::{AccountId, BlobId, CheckpointState};
use crate::keyring::{AccountLogs, open_checkpoint};
use crate::replica::{CheckpointRow, CheckpointVerdict, Compared, Comparison, Happening};

/// How often what could not be compared is tried again.
const AGAIN: Duration = Duration::from_secs(60);

impl Folder {
    /// Compares checkpoints for as long as the session lives.
    pub(super) async fn run_auditor(self: Arc<Self>) {
        loop {
            let this = Arc::clone(&self);
            let done = tokio::task::spawn_blocking(move || this.audit()).await;
            let pause = match done {
                Ok(Ok(())) => None,
                Ok(Err(error)) => {
                    tracing::debug!(db = %self.id(), %error, "a checkpoint could not be compared yet");
                    Some(AGAIN)
                }
                Err(_) => return,
            };
            match pause {
                Some(pause) => drop(tokio::time::timeout(pause, self.audits.notified()).await),
                None => self.audits.notified().await,
            }
        }
    }

    /// Compares all checkpoints that were not compared yet and that can be.
    fn audit(&self) -> Result<(), SyncError> {
        let origin = self.replica.origin()?;
        if origin.is_some_and(|origin| !origin.complete) {
            return Ok(());
        }
        // What cannot be had now holds up no other.
        let mut not_yet = Ok(());
        for row in self.replica.checkpoints()? {
            if row.verdict != CheckpointVerdict::Open {
                continue;
            }
            let Some((began, sealed)) = self.openable(&row) else { continue };
            if origin.is_some_and(|origin| began < origin.seq) {
                continue;
            }
            let verdict = match self.compare(&row, began, sealed) {
                Ok(None) => CheckpointVerdict::True,
                Ok(Some(what)) => self.caught_false(&row, what),
                Err(SyncError::Incomparable) => CheckpointVerdict::Unknown,
                Err(SyncError::PastGone(FetchError::Missing(blob))) if self.replica.heard_of(&blob)? == Some(false) => {
                    self.caught_false(&row, "it refers to content that no entry added".to_owned())
                }
                Err(error) => match what_is_wrong(&error) {
                    Some(what) => self.caught_false(&row, what),
                    None => {
                        not_yet = Err(error);
                        continue;
                    }
                },
            };
            self.replica.judge_checkpoint(row.seq, verdict)?;
            self.duties.notify_one();
        }
        not_yet
    }

    /// Where the checkpoint's epoch began, and its opened state, or why it does not open; `None` without its key.
    fn openable(&self, row: &CheckpointRow) -> Option<(u64, Result<CheckpointState, SyncError>)> {
        let verified = self.verified.blocking_lock();
        let began = verified.state.began(row.epoch)?;
        verified.ring.epoch(row.epoch).ok()?;
        let opened = open_checkpoint(&self.id(), row.epoch, &row.sealed, &verified.ring);
        Some((began, opened.map_err(SyncError::from)))
    }

    /// What is false about it, if anything is.
    fn compare(
        &self,
        row: &CheckpointRow,
        began: u64,
        state: Result<CheckpointState, SyncError>,
    ) -> Result<Option<String>, SyncError> {
        let state = state?;
        // Thinned out since: nothing can be said any more.
        let is_there = || Ok::<_, SyncError>(self.replica.moment_after(began)? == began);
        if !is_there()? {
            return Err(SyncError::Incomparable);
        }
        if state.seq != began {
            return Ok(Some("it is of another position".to_owned()));
        }
        // Before they are read: what is not there may have been released.
        let mut blobs: HashSet<BlobId> = state.pieces.iter().map(|piece| piece.blob).collect();
        self.replica.note_state(row.epoch, row.seq, &blobs)?;
        let mut comparison = Comparison::new(&self.replica, began);
        self.read_state(&state, |record| Ok(comparison.record(&record)?))?;
        match comparison.finish()? {
            Compared::Different(_) if !is_there()? => Err(SyncError::Incomparable),
            Compared::Different(what) => Ok(Some(what)),
            Compared::Same(pairs) => {
                blobs.clear();
                blobs.extend(
                    pairs.iter().filter(|(own, theirs)| own.blob != theirs.blob).map(|(_, theirs)| theirs.blob),
                );
                self.replica.note_state(row.epoch, row.seq, &blobs)?;
                let mut all = true;
                for (own, theirs) in &pairs {
                    // The own one may be gone for good, or its author's changed client has sealed nothing that opens; and it may
                    // have been gone where the state was made. Of that nothing can be said, but of the rest.
                    match self.read_if_opens(own)? {
                        Some(own) if !reach::is_unreadable(theirs) => {
                            if own != self.read_extent(theirs)? {
                                return Ok(Some("it has another content of a file".to_owned()));
                            }
                        }
                        _ => all = false,
                    }
                }
                if all { Ok(None) } else { Err(SyncError::Incomparable) }
            }
        }
    }

    fn caught_false(&self, row: &CheckpointRow, what: String) -> CheckpointVerdict {
        self.tell_false(row.seq, row.account, what.clone());
        if self.verified.blocking_lock().origin.is_some() {
            // Began with another one of the same point, or has seen what that one denies. Which is true is not known here.
            let why = format!("members have signed different states of the folder ({what}); ask its owners");
            self.freeze(&why, self.replica.mark(), row.seq, &[]);
        }
        CheckpointVerdict::False
    }

    /// Has the user told of a false checkpoint, now and in the folder's activity.
    pub(super) fn tell_false(&self, seq: u64, account: AccountId, what: String) {
        let name = self.accounts.log(&account).map_or_else(|| account.to_string(), |log| log.name().to_owned());
        self.note(Happening::FalseCheckpoint { account, name, seq, what: what.clone() });
        self.hub.tell(&Event::FalseCheckpoint { db: self.id(), seq, account, what });
    }
}
