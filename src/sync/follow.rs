//! Following the log: from the server's announcement to the applied entry.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::backoff::Backoff;
use super::event::Event;
use super::present::Present;
use super::verify::{Taken, take_in};
use super::{Folder, SyncError};
use crate::api::{Entries, ErrorCode};
use crate::format::{Head, SignedEntry};
use crate::keyring::Misbehaviour;
use crate::remote::RemoteError;

/// Bytes of entries per request.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;
/// How often the server is asked although nothing was announced: what a server that does not push costs in freshness.
const POLL: Duration = Duration::from_secs(30);
/// Failures in a row, with the event stream standing, after which people are told: a few seconds, and no error is ever
/// taken for an answer meanwhile.
const STALLED: u32 = 5;

impl Folder {
    /// Follows until the session ends.
    pub(super) async fn run_follower(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        let mut failures = 0_u32;
        // What was announced and could not be had.
        let mut unmet = None;
        loop {
            if self.standing.read().is_expired() {
                // What the server says about it does not matter.
                return self.depart();
            }
            let live = self.shared.live.load(Ordering::Acquire);
            let pause = match self.catch_up().await {
                Ok(()) => {
                    let announced = self.announced.load(Ordering::Acquire);
                    let owes = announced > self.replica.mark().seq;
                    if owes && unmet.replace(announced) == Some(announced) {
                        // Asked for twice: it is announced, and there is nothing.
                        let why = format!("there is an entry {announced}, and the server does not give it");
                        self.link.lost(Some(why.clone()));
                        self.note_stall(&mut failures, live, &why);
                        let pause = backoff.next();
                        let _ = tokio::time::timeout(pause, self.follow.notified()).await;
                        continue;
                    }
                    if owes {
                        continue;
                    }
                    unmet = None;
                    if self.standing.read().invites {
                        // The announcement may have been of somebody who waits to be let in.
                        self.duties.notify_one();
                    }
                    backoff.reset();
                    failures = 0;
                    // The stream must have stood before and after: then nothing was announced unheard.
                    self.link.complete(live && self.shared.live.load(Ordering::Acquire));
                    POLL
                }
                Err(error) => {
                    self.link.lost(Some(error.to_string()));
                    match &error {
                        SyncError::Frozen(_) | SyncError::Misbehaviour(_) => POLL,
                        _ => {
                            tracing::debug!(db = %self.id(), %error, "catching up failed");
                            self.note_stall(&mut failures, live, &error.to_string());
                            backoff.next()
                        }
                    }
                }
            };
            // What was announced while catching up has left its permit here.
            let pause = self.standing.read().time_left().map_or(pause, |left| pause.min(left));
            let _ = tokio::time::timeout(pause, self.follow.notified()).await;
        }
    }

    /// One more failure in a row; told of once, when it is not the network's.
    fn note_stall(&self, failures: &mut u32, live: bool, reason: &str) {
        *failures = if live { failures.saturating_add(1) } else { 0 };
        if *failures == STALLED {
            self.hub.tell(&Event::Stalled { db: self.id(), reason: reason.to_owned() });
        }
    }

    /// Brings the replica to the server's head.
    pub(super) async fn catch_up(self: &Arc<Self>) -> Result<(), SyncError> {
        let _one = self.catching_up.lock().await;
        self.to_the_end().await?;
        let (now, waits) = {
            let verified = self.verified.lock().await;
            let waits = verified.origin.is_some_and(|origin| !origin.complete);
            (Present::of(&verified.state, &self.me), waits)
        };
        self.at_the_end(now);
        self.shared.check_device()?;
        // The log ends with the own addition: the present state is still to come.
        if waits && now.role_now().is_some() { Err(SyncError::AwaitingState) } else { Ok(()) }
    }

    /// The same for somebody who waits, as long as something comes at least every `silence`.
    pub(super) async fn catch_up_while_it_comes(self: &Arc<Self>, silence: Duration) -> Result<(), SyncError> {
        let mut progress = self.progress.subscribe();
        let mut work = std::pin::pin!(self.catch_up());
        loop {
            tokio::select! {
                result = &mut work => return result,
                moved = tokio::time::timeout(silence, progress.changed()) => {
                    if !matches!(moved, Ok(Ok(()))) {
                        return Err(SyncError::TimedOut("fetching the folder's log"));
                    }
                }
            }
        }
    }

    async fn to_the_end(self: &Arc<Self>) -> Result<(), SyncError> {
        if let Some(why) = self.frozen() {
            return Err(SyncError::Frozen(why));
        }
        // Position after which the page was asked for. Own entries confirmed from memory may be ahead of it by the time
        // the page is here.
        let mut after = self.replica.mark().seq;
        let mut page = self.page(after).await?;
        loop {
            let floor = self.shared.floors.get(&self.id()).map_or(0, |floor| floor.head.seq);
            if page.head_seq < floor.max(after) && page.head_seq >= after {
                let what = format!(
                    "the server shows a log of {} entries, and your other device had seen {floor} when it let this one in",
                    page.head_seq
                );
                return Err(self.caught(what, self.replica.mark(), page.head_seq, &page.entries));
            }
            if page.head_seq < after {
                let what = format!(
                    "the server shows a log of {} entries after it had shown {after}: it has gone back",
                    page.head_seq
                );
                return Err(self.caught(what, self.replica.mark(), page.head_seq, &page.entries));
            }
            let end = after + page.entries.len() as u64;
            if end == after {
                if page.head_seq > after {
                    let why = format!("it announces entry {} and does not give it", page.head_seq);
                    return Err(RemoteError::Protocol(why).into());
                }
                return Ok(());
            }
            // The next page travels while this one is verified and applied.
            let next = (page.head_seq > end).then(|| {
                let this = Arc::clone(self);
                tokio::spawn(async move { this.page(end).await })
            });
            self.take(after, page).await?;
            let Some(next) = next else { return Ok(()) };
            page = next.await.map_err(|_| SyncError::Closed)??;
            after = end;
        }
    }

    async fn page(&self, after: u64) -> Result<Entries, SyncError> {
        self.remote.entries(self.id(), after, PAGE_BYTES).await.map_err(|error| match error.code() {
            Some(ErrorCode::NotFound | ErrorCode::Role) => SyncError::NotAMember,
            _ => error.into(),
        })
    }

    /// Verifies and applies a page that begins after `after`.
    async fn take(self: &Arc<Self>, after: u64, page: Entries) -> Result<(), SyncError> {
        self.accounts.prepare(&page.entries).await.map_err(|error| self.judge(error, page.head_seq, &page.entries))?;
        let mut verified = Arc::clone(&self.verified).lock_owned().await;
        let mark = verified.state.head().seq;
        let skip = usize::try_from(mark.saturating_sub(after)).unwrap_or(usize::MAX);
        let mut entries: Vec<SignedEntry> = page.entries;
        entries.drain(..skip.min(entries.len()));
        loop {
            let this = Arc::clone(self);
            let blocking = tokio::task::spawn_blocking(move || {
                let taken = take_in(&this, &mut verified, &entries);
                (verified, entries, taken)
            });
            let (back, given, taken) = blocking.await.map_err(|_| SyncError::Closed)?;
            verified = back;
            self.note_progress();
            match taken? {
                Taken::All => return Ok(()),
                Taken::NeedsKeys(index) => {
                    entries = given;
                    entries.drain(..index);
                    let obtained = self.obtain_keys(&mut verified, &entries).await;
                    obtained.map_err(|error| self.judge(error, page.head_seq, &entries))?;
                }
                Taken::NeedsState(index) => {
                    entries = given;
                    entries.drain(..index);
                    let obtained = self.obtain_state(&mut verified, &entries).await;
                    obtained.map_err(|error| self.judge(error, page.head_seq, &entries))?;
                }
                Taken::Caught(index, Misbehaviour::AccountMissing { account, head }) => {
                    // `prepare` has asked for it: the server names an account state that it does not show.
                    let what = Misbehaviour::AccountMissing { account, head }.to_string();
                    return Err(self.caught(what, verified.state.head(), page.head_seq, &given[index..]));
                }
                Taken::Caught(index, misbehaviour) => {
                    let what = misbehaviour.to_string();
                    return Err(self.caught(what, verified.state.head(), page.head_seq, &given[index..]));
                }
            }
        }
    }

    /// Freezes the folder where the error is proof.
    pub(super) fn judge(&self, error: SyncError, offered_seq: u64, entries: &[SignedEntry]) -> SyncError {
        match error {
            SyncError::Misbehaviour(what) => self.caught(what, self.replica.mark(), offered_seq, entries),
            other => other,
        }
    }

    fn caught(&self, what: String, head: Head, offered_seq: u64, offered: &[SignedEntry]) -> SyncError {
        self.freeze(&what, head, offered_seq, offered);
        SyncError::Misbehaviour(what)
    }
}
