//! The task that keeps the server's idea of this device's locks right, for one folder.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::names::Names;
use crate::api::{ErrorCode, LockAnswer, LockAsk, LockCall, LockResult};
use crate::format::{KegId, Role};
use crate::remote::RemoteError;
use crate::sync::backoff::Backoff;
use crate::sync::event::Event;
use crate::sync::{Folder, SyncError};
use crate::sys::{clock, random};

/// How long a call may take. Programs wait for it.
const CALL: Duration = Duration::from_secs(5);
/// Files asked about at the same time.
const PARALLEL: usize = 16;
/// How long a file that was asked back may be kept without a word while what was written is uploaded: less than anybody
/// would notice, and enough for what programs write under a lock.
const SETTLE: Duration = Duration::from_millis(250);
/// Until the next attempt where nothing was wrong with the network.
const SOON: Duration = Duration::from_millis(50);
/// Until the next attempt where the server does not know of locks.
const LATER: Duration = Duration::from_secs(60);

/// A session with the server.
#[derive(Clone)]
struct Open {
    session: u64,
    names: Arc<Names>,
}

impl Folder {
    /// Sees to locks until the session ends.
    pub(in crate::sync) async fn run_locks(self: Arc<Self>) {
        let mut open: Option<Open> = None;
        let mut backoff = Backoff::default();
        let mut calls = JoinSet::new();
        loop {
            let epoch = self.replica.standing().epoch;
            let plan = {
                let mut state = self.locks.state.lock();
                state.note_standing(self.role().is_some_and(Role::writes), epoch);
                state.plan(clock::boottime())
            };
            plan.alone.iter().for_each(|keg| self.locks.tell(keg, &[]));
            if plan.begin {
                match self.begin_locks().await {
                    Ok(begun) => {
                        backoff.reset();
                        open = Some(begun);
                    }
                    Err(error) => self.no_lock_session(&error, &mut backoff),
                }
                continue;
            }
            if let Some(open) = &open {
                if plan.renew {
                    let call = self.lock_call(open, LockAsk::Renew).await;
                    self.judge_lock_call(open.session, call);
                }
                for keg in plan.files {
                    let (folder, open) = (Arc::clone(&self), open.clone());
                    while calls.len() >= PARALLEL {
                        calls.join_next().await;
                    }
                    calls.spawn(async move {
                        folder.ask_about(&keg, &open).await;
                        folder.locks.state.lock().done(&keg);
                        folder.locks.wake();
                    });
                }
            }
            let pause = plan.wake_at.map(|at| at.saturating_duration_since(clock::boottime()));
            while calls.try_join_next().is_some() {}
            match pause {
                Some(pause) => drop(tokio::time::timeout(pause, self.locks.work.notified()).await),
                None => self.locks.work.notified().await,
            }
        }
    }

    /// Begins a session with everything that is held.
    async fn begin_locks(&self) -> Result<Open, SyncError> {
        let names = {
            let verified = self.verified.lock().await;
            let epoch = verified.state.epoch();
            Arc::new(Names::new(self.id(), epoch, &verified.ring.epoch(epoch)?.content))
        };
        let open = Open { session: u64::from_le_bytes(random::array()), names };
        let made = clock::boottime();
        let files = self.locks.state.lock().begin(&open.names);
        let answer = self.lock_call(&open, LockAsk::Begin(files)).await?;
        let LockResult::Begun(refused) = answer.result else { return Err(nonsense()) };
        let broken = {
            let mut state = self.locks.state.lock();
            state.lease = Duration::from_millis(answer.lease_ms.into());
            state.begun(open.session, open.names.epoch, &refused, made)
        };
        for keg in broken {
            self.hub.tell(&Event::LockBroken { db: self.id(), file: self.path_of(&keg) });
            self.locks.tell(&keg, &[]);
        }
        Ok(open)
    }

    fn no_lock_session(&self, error: &SyncError, backoff: &mut Backoff) {
        let now = clock::boottime();
        tracing::debug!(db = %self.id(), %error, "no session for locks");
        let code = match error {
            SyncError::Remote(error) => error.code(),
            _ => None,
        };
        let (lost, pause) = match code {
            Some(ErrorCode::StaleEpoch | ErrorCode::Role) => {
                // The log says more; it is on its way.
                self.follow.notify_one();
                (false, SOON)
            }
            Some(ErrorCode::NoRoute) => (true, LATER),
            Some(_) | None => (true, backoff.next()),
        };
        self.locks.state.lock().no_session(lost, now, now + pause);
    }

    /// One call, made at once.
    async fn lock_call(&self, open: &Open, ask: LockAsk) -> Result<LockAnswer, RemoteError> {
        let call = LockCall { session: open.session, epoch: open.names.epoch, ask };
        let made = clock::boottime();
        let answer = tokio::time::timeout(CALL, self.remote.locks(self.id(), &call)).await;
        let answer = answer.unwrap_or(Err(RemoteError::Timeout))?;
        if !matches!(answer.result, LockResult::Stale) {
            self.locks.state.lock().answered_at(made);
        }
        Ok(answer)
    }

    /// What an answer means for the session; `None` where there is none any more.
    fn judge_lock_call(&self, session: u64, answer: Result<LockAnswer, RemoteError>) -> Option<LockAnswer> {
        let lost = match answer {
            Ok(answer) if !matches!(answer.result, LockResult::Stale) => return Some(answer),
            Ok(_) => false,
            Err(error) => match error.code() {
                Some(ErrorCode::StaleEpoch | ErrorCode::Role) => {
                    self.follow.notify_one();
                    false
                }
                _ => {
                    tracing::debug!(db = %self.id(), %error, "a call about locks failed");
                    true
                }
            },
        };
        self.locks.state.lock().session_ended(session, lost, clock::boottime());
        self.locks.wake();
        None
    }

    /// Brings one file's locks to the server and its answer back.
    async fn ask_about(&self, keg: &KegId, open: &Open) {
        let unsettled = self.locks.state.lock().to_settle(keg);
        if let Some(writes) = unsettled {
            let mut settle = std::pin::pin!(self.settle());
            if tokio::time::timeout(SETTLE, settle.as_mut()).await.is_err() {
                // A long upload: the server learns that it is not ignored.
                if self.locks.state.lock().must_say_first(keg) && !self.say(keg, open).await {
                    return;
                }
                settle.await;
            }
            self.locks.state.lock().settled(keg, writes);
        }
        self.say(keg, open).await;
    }

    /// One call about a file; tells whether the session stands.
    async fn say(&self, keg: &KegId, open: &Open) -> bool {
        let call = self.locks.state.lock().call(keg, &open.names, open.session, clock::boottime());
        let Some((file, wants)) = call else { return false };
        let answer = self.lock_call(open, LockAsk::Set(file, wants.clone())).await;
        let Some(answer) = self.judge_lock_call(open.session, answer) else { return false };
        let LockResult::Set(grant) = answer.result else { return false };
        if grant.wants.iter().any(|result| matches!(result, crate::api::WantResult::Granted)) {
            self.see(answer.head_seq).await;
        }
        let taken = self.locks.state.lock().granted(keg, open.session, &wants, &grant);
        self.locks.tell(keg, &taken);
        true
    }

    /// Everything that was written is on the server, as far as it can be.
    async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        match &*self.locks.news.read() {
            Some(news) => news.settle(Box::new(move || {
                // Nobody waits any more when the task has ended.
                let _ = done.send(());
            })),
            None => drop(done),
        }
        // Dropped without an answer when the mount is gone: then it has flushed.
        let _ = settled.await;
        if let Err(error) = self.uploaded().await {
            tracing::debug!(db = %self.id(), %error, "a lock is given up before everything written is on the server");
        }
    }

    /// Waits until everything up to `seq` is applied here and told to the mount: what the former holder did.
    async fn see(&self, seq: u64) {
        let deadline = clock::boottime() + self.locks.state.lock().lease;
        loop {
            {
                // Held while entries are applied and told.
                let _told = self.catching_up.lock().await;
                if self.replica.mark().seq >= seq {
                    return;
                }
            }
            if clock::boottime() >= deadline {
                tracing::warn!(db = %self.id(), seq, "a lock is taken before its former holder's changes have arrived");
                return;
            }
            self.announce(seq);
            let _ = tokio::time::timeout(Duration::from_millis(5), self.follow_done()).await;
        }
    }

    async fn follow_done(&self) {
        let mut progress = self.progress.subscribe();
        let _ = progress.changed().await;
    }

    /// Gives everything up that the server has, for a mount that ends.
    pub(in crate::sync) async fn end_locks(&self) {
        let session = self.locks.state.lock().end();
        let Some(session) = session else { return };
        let epoch = self.replica.standing().epoch;
        let call = LockCall { session, epoch, ask: LockAsk::End };
        if let Err(error) = self.remote.locks(self.id(), &call).await {
            tracing::debug!(db = %self.id(), %error, "locks end with their lease");
        }
    }

    /// The file's place in the folder, or its id where it has none.
    pub(super) fn path_of(&self, keg: &KegId) -> String {
        let view = self.replica.view();
        let mut parts: Vec<String> = Vec::new();
        let mut ino = view.ino_of(keg).ok().flatten();
        while let Some(at) = ino.filter(|ino| *ino != crate::keg::ROOT_INO) {
            // A directory has one name; of a file's several the first will do.
            let name = view.names(at).ok().and_then(|names| names.into_iter().next());
            let Some(name) = name.filter(|_| parts.len() < 256) else { break };
            parts.push(String::from_utf8_lossy(&name.name).into_owned());
            ino = Some(name.parent_ino);
        }
        if parts.is_empty() {
            return format!("(removed file {keg:?})");
        }
        parts.reverse();
        parts.join("/")
    }
}

fn nonsense() -> SyncError {
    RemoteError::Protocol("an answer about locks to another question".to_owned()).into()
}
