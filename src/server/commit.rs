//! One thread that makes jobs durable, as many as have come in at once.
//!
//! A durable commit costs a disk flush, whatever is in it. So jobs that arrive while one flush is under way share the
//! next one. It does not know what the jobs mean; their order is the order of submission.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::store::{Job, LogStore, StoreError};
use crate::sys::threads;

/// Jobs of one commit at most: bounds how long the first of them waits for the others' inserts.
const GROUP_MAX: usize = 256;

/// Jobs that may wait. Beyond it submitters wait too, which slows the clients down.
const QUEUE_MAX: usize = 4096;

/// What happens in the committing thread once the job is durable, before its submitter hears of it. Run in the order
/// of the jobs, which is what the hub needs. Must not block.
pub type After = Box<dyn FnOnce() + Send>;

struct Submitted {
    job: Job,
    after: Option<After>,
    done: Option<oneshot::Sender<Result<(), CommitError>>>,
}

/// Why a job is not durable.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The job itself.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The whole group, or the server is stopping.
    #[error("the commit failed: {0}")]
    Group(String),
}

/// A commit that is under way.
pub struct Pending(oneshot::Receiver<Result<(), CommitError>>);

impl Pending {
    /// Waits until the job is durable.
    ///
    /// # Errors
    /// When it is not, and never will be.
    pub async fn durable(self) -> Result<(), CommitError> {
        self.0.await.unwrap_or_else(|_| Err(CommitError::Group("the server is stopping".to_owned())))
    }

    /// The same for a thread that may block.
    ///
    /// # Errors
    /// As [`durable`](Self::durable).
    pub fn durable_blocking(self) -> Result<(), CommitError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(CommitError::Group("the server is stopping".to_owned())))
    }
}

/// The door to the committing thread, which ends when the last door is gone.
#[derive(Clone)]
pub struct Committer(Sender<Submitted>);

impl Committer {
    /// Starts the thread over `store`.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn start(store: Arc<dyn LogStore>) -> std::io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::bounded(QUEUE_MAX);
        threads::spawn("kegd-commit", move || run(&*store, &receiver))?;
        Ok(Self(sender))
    }

    /// Submits a job. Jobs are done in the order of these calls. Blocks while too many wait.
    pub fn submit(&self, job: Job) -> Pending {
        self.submit_then(job, None)
    }

    /// The same, with something to do as soon as the job is durable.
    pub fn submit_then(&self, job: Job, after: Option<After>) -> Pending {
        let (done, waiting) = oneshot::channel();
        // A thread that is gone drops `done`, which `Pending` reports.
        let _ = self.0.send(Submitted { job, after, done: Some(done) });
        Pending(waiting)
    }

    /// Submits a job whose loss would do no harm; nobody waits for it.
    pub fn submit_lazily(&self, job: Job) {
        let _ = self.0.send(Submitted { job, after: None, done: None });
    }
}

fn run(store: &dyn LogStore, receiver: &Receiver<Submitted>) {
    while let Ok(first) = receiver.recv() {
        let group: Vec<Submitted> = std::iter::once(first).chain(receiver.try_iter()).take(GROUP_MAX).collect();
        let (jobs, waiting): (Vec<Job>, Vec<_>) = group.into_iter().map(|job| (job.job, (job.after, job.done))).unzip();
        let results = match store.commit(&jobs) {
            Ok(results) => results.into_iter().map(|result| result.map_err(CommitError::Store)).collect::<Vec<_>>(),
            Err(error) => {
                tracing::error!(%error, jobs = jobs.len(), "commit failed");
                let storage_full = matches!(error, StoreError::Full);
                let text = error.to_string();
                let each = || if storage_full { StoreError::Full.into() } else { CommitError::Group(text.clone()) };
                jobs.iter().map(|_| Err(each())).collect()
            }
        };
        for (result, (after, done)) in results.into_iter().zip(waiting) {
            if let (Ok(()), Some(after)) = (&result, after) {
                after();
            }
            match (done, result) {
                // A submitter who has gone away does not need the answer.
                (Some(done), result) => drop(done.send(result)),
                (None, Err(error)) => tracing::warn!(%error, "lazy write failed"),
                (None, Ok(())) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::{MemoryStore, Write};
    use super::*;
    use crate::format::{ChainHash, DbId, EntryHash, Head};

    #[test]
    fn jobs_are_done_in_order_and_each_learns_its_own_result() {
        let store = Arc::new(MemoryStore::default());
        let committer = Committer::start(store.clone()).unwrap();
        let db = DbId([1; 32]);
        let entry = |seq: u64| {
            let head = Head { seq, chain: ChainHash::ZERO };
            vec![Write::Entry { db, head, hash: EntryHash([seq as u8; 32]), bytes: vec![] }]
        };
        let pending: Vec<_> = (1..=100).chain([7]).map(|seq| committer.submit(entry(seq))).collect();
        let results: Vec<bool> = pending.into_iter().map(|p| p.durable_blocking().is_ok()).collect();
        assert_eq!(results.iter().filter(|ok| **ok).count(), 100);
        assert!(!results[100]);
        assert_eq!(store.head(&db).unwrap().unwrap().seq, 100);
    }
}
