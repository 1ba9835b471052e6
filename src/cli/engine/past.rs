//! A folder's past: what happened to a file, going back to a moment, the trash.
//!
//! Must not know arguments or terminals.

mod conflicts;
mod history;
mod places;
mod retention;
mod trash;

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::super::control::{Listed, PastRequest, PastResponse, RestoreStep, Restored};
use super::super::failure::{Code, Failure};
use super::super::when::{self, When};
use super::Engine;
use crate::format::{KegId, OpKind};
use crate::replica::{Basis, Grouped, Later, PlannedStep, ReplicaError, RestorePlan, Step, Way};
use crate::sync::{Folder, SyncError};
use crate::sys::{clock, random};

/// How often something is planned anew where programs here keep writing to the files that it is about.
const ATTEMPTS: usize = 5;

impl Engine {
    /// Does what `request` asks.
    ///
    /// # Errors
    /// What to tell whoever asked.
    pub(super) fn past(&self, request: PastRequest) -> Result<PastResponse, Failure> {
        match request {
            PastRequest::History { place, limit } => {
                let (folder, path) = self.place(&place)?;
                history::of(self, &folder, &path, limit).map(PastResponse::History)
            }
            PastRequest::Restore { place, at, dry_run, remove_later } => {
                let (folder, path) = self.place(&place)?;
                let later = if remove_later { Later::Remove } else { Later::Keep };
                self.restore(&folder, &path, &at, later, dry_run).map(PastResponse::Restored)
            }
            PastRequest::Trash { folder, limit } => {
                let folder = self.unlocked.folder(&folder)?;
                trash::list(self, &folder, limit).map(PastResponse::Trash)
            }
            PastRequest::TrashRestore { folder, name, new_name } => {
                let folder = self.unlocked.folder(&folder)?;
                trash::restore(self, &folder, &name, new_name.as_ref()).map(PastResponse::Restored)
            }
            PastRequest::Conflicts { folder } => conflicts::list(self, folder.as_deref()).map(PastResponse::Conflicts),
            PastRequest::Retention { folder, change, now } => {
                retention::run(self, &folder, &change, now).map(PastResponse::Retention)
            }
            PastRequest::ConflictKeep { place } => {
                let (folder, path) = self.place(&place)?;
                conflicts::keep(self, &folder, &path).map(PastResponse::ConflictEnded)
            }
            PastRequest::ConflictDiscard { place } => {
                let (folder, path) = self.place(&place)?;
                conflicts::discard(self, &folder, &path).map(PastResponse::ConflictEnded)
            }
        }
    }

    fn restore(
        &self,
        folder: &Arc<Folder>,
        path: &[Vec<u8>],
        at: &str,
        later: Later,
        dry_run: bool,
    ) -> Result<Restored, Failure> {
        let seq = moment(folder, at)?;
        let past = folder.replica.at(seq).map_err(|error| self.read_failed(error))?;
        let way = Way { later, horizon: folder.horizon(), at_ns: clock::unix_nanos(), fresh: &fresh_keg };
        self.on_a_basis(folder, |basis| {
            let plan = folder
                .replica
                .plan_restore(basis, &past, path, &way)
                .map_err(|error| self.read_failed(error))?
                .ok_or_else(|| was_not_there(path, at, later))?;
            self.carry_out(folder, basis, plan, seq, dry_run)
        })
    }

    /// Has `body` read and do something, again where programs here have written meanwhile to what it is about.
    fn on_a_basis<T>(
        &self,
        folder: &Folder,
        mut body: impl FnMut(&Basis<'_>) -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        for _ in 0..ATTEMPTS {
            self.mounts.flush_all()?;
            if let Some(done) = body(&folder.replica.basis())? {
                return Ok(done);
            }
        }
        Err(Failure::new(Code::Busy, ReplicaError::Overtaken.to_string()))
    }

    /// Does what a plan says, if it may and is to be done. `None`: nothing was done, since programs here have written to
    /// the files meanwhile.
    fn carry_out(
        &self,
        folder: &Folder,
        basis: &Basis<'_>,
        plan: RestorePlan,
        seq: u64,
        dry_run: bool,
    ) -> Result<Option<Restored>, Failure> {
        let undo = when::version(folder.replica.head().seq);
        let mut beside = 0;
        if !dry_run && !plan.ops.is_empty() {
            must_write(folder)?;
            let Some(grouped) = self.submit(folder, basis, plan.ops)? else { return Ok(None) };
            beside = grouped.beside;
        }
        let at_ms = folder.replica.time_of(seq).map_err(|error| self.read_failed(error))?;
        let changes = plan.steps.len() as u64;
        let steps = Listed::of(plan.steps.into_iter().map(step), usize::MAX).lines;
        let version = when::version(seq);
        Ok(Some(Restored { version, at_ms, dry_run, changes, steps, beside, kept_later: plan.kept_later, undo }))
    }

    /// Does several things together, durably. `None`: nothing was done, since programs here have written meanwhile to what
    /// they are about.
    fn submit(&self, folder: &Folder, basis: &Basis<'_>, kinds: Vec<OpKind>) -> Result<Option<Grouped>, Failure> {
        let grouped = match folder.replica.submit_all(basis, kinds, clock::unix_nanos(), &|| self.mounts.unflushed()) {
            Ok(grouped) => grouped,
            Err(ReplicaError::Overtaken) => return Ok(None),
            Err(error) => return Err(self.read_failed(error)),
        };
        folder.replica.flush(true).map_err(|error| self.read_failed(error))?;
        Ok(Some(grouped))
    }

    fn read_failed(&self, error: ReplicaError) -> Failure {
        match error {
            ReplicaError::NoSuchMoment { .. } | ReplicaError::ThinnedOut { .. } => {
                Failure::new(Code::Failure, error.to_string())
            }
            other => self.unlocked.told(SyncError::from(other)),
        }
    }
}

fn was_not_there(path: &[Vec<u8>], at: &str, later: Later) -> Failure {
    let path = String::from_utf8_lossy(&path.join(&b'/')).into_owned();
    let next = match later {
        Later::Keep => "`kegfs history` shows which versions there are, and --remove-later removes what came later",
        Later::Remove => "nor is it now; `kegfs history` shows which versions there are",
    };
    Failure::new(Code::Failure, format!("{path} was not there at {at}; {next}"))
}

/// The position of the log that `at` means.
fn moment(folder: &Folder, at: &str) -> Result<u64, Failure> {
    let now_ms = clock::unix_nanos() / 1_000_000;
    let parsed = when::parse(at, now_ms, &TimeZone::system());
    let parsed = parsed
        .ok_or_else(|| Failure::new(Code::Usage, format!("{at} is no moment; give for example {}", when::ACCEPTED)))?;
    match parsed {
        When::Version(seq) => Ok(seq),
        When::ToCome => Err(Failure::new(Code::Usage, format!("{at} is yet to come"))),
        When::Time(time_ms) => {
            folder.replica.seq_at(time_ms).map_err(|error| Failure::new(Code::Failure, error.to_string()))?.ok_or_else(
                || {
                    Failure::new(
                        Code::Failure,
                        format!("{} is younger than that, as far as it is known here", folder.name()),
                    )
                },
            )
        }
    }
}

fn must_write(folder: &Folder) -> Result<(), Failure> {
    if folder.writable() {
        return Ok(());
    }
    let why = match (folder.frozen(), folder.role()) {
        (Some(reason), _) => format!("{} is frozen: {reason}", folder.name()),
        (None, Some(_)) => {
            format!("you may read {} and not change it; ask an owner or admin for the role editor", folder.name())
        }
        (None, None) => format!("you are no member of {} any more", folder.name()),
    };
    Err(Failure::new(Code::Refused, why))
}

fn fresh_keg() -> KegId {
    loop {
        let keg = KegId(random::array());
        if keg != KegId::ROOT {
            return keg;
        }
    }
}

fn step(planned: PlannedStep) -> RestoreStep {
    let step = match planned.step {
        Step::BroughtBack => "brought back",
        Step::MovedBack => "moved back",
        Step::MadeAnew => "made anew",
        Step::Content => "content",
        Step::Attributes => "attributes",
        Step::Aside => "moved aside",
        Step::Removed => "removed",
    };
    RestoreStep { step: step.to_owned(), path: planned.path.into(), size: planned.size }
}
