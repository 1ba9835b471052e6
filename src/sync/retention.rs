//! For how long the past is kept, thinning it out, and releasing what nothing refers to any more.
//!
//! Owners set the rule. What it lets go is taken away by an entry of somebody who administers and knows the whole past, at
//! most once a day, by whoever's turn it is ([`super::steward`]); or when the user asks for it. The entry is made on the
//! log's newest entry, so that its author knows all that refers to the past.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::member::Change;
use super::session::CALL_DEADLINE;
use super::status::now_ms;
use super::verify::{Chains, Verified};
use super::{Folder, Session, SyncError};
use crate::format::limits::ENTRY_MAX_BLOBS;
use crate::format::{BlobRef, RetentionRule, Role, SignedEntry, Thinning};
use crate::keyring::{Reason, Verdict};
use crate::replica::{Behind, PastSize};

/// How often the past of a folder is thinned out, at most.
const EVERY_MS: i64 = 24 * 3_600_000;
/// How often an entry is signed anew because the log has grown meanwhile: often, since nobody waits for it, and somebody who
/// writes without a pause overtakes most attempts.
const ATTEMPTS: usize = 64;
/// Between two attempts where the server did not answer.
const AGAIN: Duration = Duration::from_millis(500);

/// A folder's past, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// For how long what is kept.
    pub rule: RetentionRule,
    /// An owner has set it.
    pub chosen: bool,
    /// How much of the past is left.
    pub size: PastSize,
    /// Bytes that the server keeps for it and for the present, if that is known here.
    pub stored_bytes: Option<u64>,
}

/// What thinning out has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThinnedOut {
    /// Versions of the folder that were taken away.
    pub moments: u64,
    /// Blobs that the server need not keep any more.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where the uploader leaves what has come of it.
#[derive(Default)]
pub(super) struct Report {
    done: Mutex<ThinnedOut>,
    /// By the user, who is told where this machine's clock does not allow it. By itself, what no clock has to do with is done.
    asked: bool,
}

impl Folder {
    /// Some of the past is older than the rule keeps it, and none was taken away for a day.
    pub(super) fn thinning_due(&self, verified: &Verified, now_ms: i64) -> bool {
        if verified.origin.is_some() {
            return false;
        }
        let last = match verified.state.last_thinning() {
            0 => None,
            // When it was seen here: its author's clock may be anything.
            seq => self.replica.time_of(seq).ok().flatten(),
        };
        let rests = |last_ms: i64| now_ms.saturating_sub(last_ms) < EVERY_MS;
        if last.is_some_and(rests) {
            return false;
        }
        // Unreadable: looked at again later.
        let thinnable = self.replica.thinnable(&verified.state.retention(), now_ms, &verified.state.lasting());
        if thinnable.is_ok_and(|found| found.is_some()) {
            return true;
        }
        // The first of them a day after the folder began.
        let began = self.replica.time_of(1).ok().flatten();
        !began.is_some_and(rests) && self.releasable(verified, 1).is_ok_and(|found| !found.is_empty())
    }

    /// This machine would thin out the past, and its clock is too far behind for that.
    pub(super) fn clock_behind(&self) -> Option<Behind> {
        let can = self.role().is_some_and(Role::administers);
        // Unreadable: asked again with the next status.
        if can { self.replica.clock_behind(now_ms()).ok().flatten() } else { None }
    }

    /// Blobs that nobody refers to, at most `limit`.
    fn releasable(&self, verified: &Verified, limit: usize) -> Result<Vec<BlobRef>, SyncError> {
        // Where the moment at which they began was thinned out: nobody can begin with them any more.
        let mut gone = HashSet::new();
        for epoch in verified.state.epochs() {
            if self.replica.moment_after(epoch.seq)? != epoch.seq {
                gone.insert(epoch.start.epoch);
            }
        }
        Ok(self.replica.releasable(limit, &gone)?)
    }

    /// Takes away what the rule lets go.
    pub(super) async fn thin_out(&self, asked: bool) -> Result<ThinnedOut, SyncError> {
        let report = Arc::new(Report { asked, ..Report::default() });
        self.post_thinning(Arc::clone(&report)).await?;
        let done = *report.done.lock();
        Ok(done)
    }

    /// Signs and appends entries until there is nothing left to do. No own entry is on its way.
    pub(super) async fn make_thinning(self: &Arc<Self>, report: &Arc<Report>) -> Result<(), SyncError> {
        let (mut attempts, mut moments) = (0, true);
        while attempts < ATTEMPTS {
            self.catch_up().await?;
            if moments && let Some(behind) = self.replica.clock_behind(now_ms())? {
                if report.asked {
                    return Err(SyncError::ClockBehind(behind));
                }
                moments = false;
            }
            let verified = Arc::clone(&self.verified).lock_owned().await;
            let this = Arc::clone(self);
            let signing = tokio::task::spawn_blocking(move || this.sign_thinning(&verified, moments));
            let Some((entry, done)) = signing.await.map_err(|_| SyncError::Closed)?? else { return Ok(()) };
            match self.remote.append(self.id(), &entry, &[]).await {
                Ok(seq) => {
                    tracing::debug!(db = %self.id(), seq, ?done, "thinned out the past");
                    let mut report = report.done.lock();
                    report.moments += done.moments;
                    report.blobs += done.blobs;
                    report.bytes += done.bytes;
                    (attempts, moments) = (0, false);
                }
                // Somebody was faster.
                Err(error) if error.is_overtaken() => attempts += 1,
                // Whether it was appended is unknown. If it was, that is not left to do.
                Err(error) if error.is_transient() => {
                    attempts += 1;
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(SyncError::TimedOut("thinning out the past of a busy folder"))
    }

    /// The next entry and what it does; `None` if nothing is left to do. `moments`: also those, which one entry does.
    fn sign_thinning(
        &self,
        verified: &Verified,
        moments: bool,
    ) -> Result<Option<(SignedEntry, ThinnedOut)>, SyncError> {
        let position = self.position(verified)?;
        let state = &verified.state;
        let (rule, lasting) = (state.retention(), state.lasting());
        let found = if moments { self.replica.thinnable(&rule, position.now_ms, &lasting)? } else { None };
        let (body, releases, done) = match found {
            Some(found) => (found.body, Vec::new(), ThinnedOut { moments: found.moments, ..ThinnedOut::default() }),
            None => {
                let blobs = self.releasable(verified, ENTRY_MAX_BLOBS)?;
                if blobs.is_empty() {
                    return Ok(None);
                }
                let bytes = blobs.iter().map(|blob| blob.size_bytes).sum();
                let done = ThinnedOut { moments: 0, blobs: blobs.len() as u64, bytes };
                (Thinning { from: 0, upto: 0, keep: Vec::new() }, blobs, done)
            }
        };
        let entry = self.shared.author.thinning(&position, &body, releases);
        let chains = Chains { replica: &self.replica, recent: &[] };
        let advanced = state.check(&entry, &*self.accounts, &chains);
        match advanced.map_err(|error| SyncError::Damaged(error.to_string()))?.verdict {
            Verdict::Thin(_) => Ok(Some((entry, done))),
            Verdict::Ignored(Reason::NotMember) => Err(SyncError::NotAMember),
            Verdict::Ignored(Reason::Role) => Err(self.may_not("thin out the past")),
            Verdict::Ignored(reason) => Err(SyncError::Refused(reason.to_string())),
            Verdict::Membership(_) | Verdict::Batch | Verdict::Checkpoint(_) => {
                Err(SyncError::Damaged("a thinning".to_owned()))
            }
        }
    }

    fn may_not(&self, action: &'static str) -> SyncError {
        self.role().map_or(SyncError::NotAMember, |role| SyncError::NotAllowed { role, action })
    }
}

impl Session {
    /// For how long a folder's past is kept, as of its verified head.
    ///
    /// # Errors
    /// Those of reading.
    pub fn retention(&self, folder: &Arc<Folder>) -> Result<Retention, SyncError> {
        let verified = folder.verified.blocking_lock();
        let rule = verified.state.retention();
        let (chosen, replica) = (verified.state.has_rule(), &folder.replica);
        Ok(Retention { rule, chosen, size: replica.past_size()?, stored_bytes: replica.kept_bytes()? })
    }

    /// Sets it, for everybody.
    ///
    /// # Errors
    /// [`SyncError::NotAllowed`], [`SyncError::Remote`].
    pub fn set_retention(&self, folder: &Arc<Folder>, rule: RetentionRule) -> Result<(), SyncError> {
        let folder = Arc::clone(folder);
        self.timed(CALL_DEADLINE, "changing how long the past is kept", async move {
            if folder.role() != Some(Role::Owner) {
                return Err(folder.may_not("change how long the past is kept"));
            }
            folder.change_membership(Change::Retention { rule }).await
        })
    }

    /// Takes away now what the rule lets go, instead of once a day.
    ///
    /// # Errors
    /// [`SyncError::NotAllowed`], [`SyncError::Remote`].
    pub fn thin_out(&self, folder: &Arc<Folder>) -> Result<ThinnedOut, SyncError> {
        let folder = Arc::clone(folder);
        self.timed(CALL_DEADLINE, "thinning out the past", async move {
            if !folder.role().is_some_and(Role::administers) {
                return Err(folder.may_not("thin out the past"));
            }
            folder.thin_out(true).await
        })
    }
}
