//! For how long the past is kept, and thinning it out.
//!
//! Owners set the rule. What it lets go is taken away by an entry of somebody who administers and knows the whole past, at
//! most once a day, by whoever's turn it is ([`super::steward`]); or when the user asks for it. The entry is made on the
//! log's newest entry, so that its author knows all that refers to the past.

use std::sync::Arc;

use parking_lot::Mutex;

use super::member::Change;
use super::session::CALL_DEADLINE;
use super::verify::{Chains, Verified};
use super::{Folder, Session, SyncError};
use crate::format::{RetentionRule, Role, SignedEntry};
use crate::keyring::{Reason, Verdict};
use crate::replica::PastSize;

/// How often the past of a folder is thinned out, at most.
const EVERY_MS: i64 = 24 * 3_600_000;
/// How often an entry is signed anew because the log has grown meanwhile.
const ATTEMPTS: usize = 16;

/// A folder's past, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// For how long what is kept.
    pub rule: RetentionRule,
    /// An owner has set it.
    pub chosen: bool,
    /// How much of the past is left.
    pub size: PastSize,
}

/// What thinning out has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThinnedOut {
    /// Versions of the folder that were taken away.
    pub moments: u64,
}

/// Where the uploader leaves what has come of it.
#[derive(Default)]
pub(super) struct Report(Mutex<ThinnedOut>);

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
        let rested = last.is_none_or(|last_ms| now_ms.saturating_sub(last_ms) >= EVERY_MS);
        // Unreadable: looked at again later.
        rested
            && self
                .replica
                .thinnable(&verified.state.retention(), now_ms, &verified.state.lasting())
                .is_ok_and(|found| found.is_some())
    }

    /// Takes away what the rule lets go.
    pub(super) async fn thin_out(&self) -> Result<ThinnedOut, SyncError> {
        let report = Arc::new(Report::default());
        self.post_thinning(Arc::clone(&report)).await?;
        let done = *report.0.lock();
        Ok(done)
    }

    /// Signs and appends the entry. No own entry is on its way.
    pub(super) async fn make_thinning(self: &Arc<Self>, report: &Arc<Report>) -> Result<(), SyncError> {
        for _ in 0..ATTEMPTS {
            self.catch_up().await?;
            let verified = Arc::clone(&self.verified).lock_owned().await;
            let this = Arc::clone(self);
            let signing = tokio::task::spawn_blocking(move || this.sign_thinning(&verified));
            let Some((entry, moments)) = signing.await.map_err(|_| SyncError::Closed)?? else { return Ok(()) };
            match self.remote.append(self.id(), &entry, &[]).await {
                Ok(seq) => {
                    tracing::debug!(db = %self.id(), seq, moments, "thinned out the past");
                    report.0.lock().moments += moments;
                    return self.catch_up().await;
                }
                // Somebody was faster.
                Err(error) if error.is_overtaken() => {}
                // Whether it was appended is unknown. If it was, nothing is left to do.
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(SyncError::TimedOut("thinning out the past of a busy folder"))
    }

    /// The entry, and how many moments it takes away; `None` if there are none.
    fn sign_thinning(&self, verified: &Verified) -> Result<Option<(SignedEntry, u64)>, SyncError> {
        let position = self.position(verified)?;
        let state = &verified.state;
        let found = self.replica.thinnable(&state.retention(), position.now_ms, &state.lasting())?;
        let Some(found) = found else { return Ok(None) };
        let entry = self.shared.author.thinning(&position, &found.body, Vec::new());
        let chains = Chains { replica: &self.replica, recent: &[] };
        let advanced = state.check(&entry, &*self.accounts, &chains);
        match advanced.map_err(|error| SyncError::Damaged(error.to_string()))?.verdict {
            Verdict::Thin(_) => Ok(Some((entry, found.moments))),
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
        Ok(Retention { rule, chosen: verified.state.has_rule(), size: folder.replica.past_size()? })
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
            folder.thin_out().await
        })
    }
}
