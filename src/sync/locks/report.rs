//! Who holds what, for people.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{LockAsk, LockCall, LockResult};
use crate::format::{AccountId, DeviceId, KegId, LOCK_END, LockSet, LockSpace, LockSpan, LockToken};
use crate::sync::runtime::run_on;
use crate::sync::{Folder, SyncError};
use crate::sys::clock;

use super::names::Names;
use super::state::Link;

/// How long what the server told of others is not asked for again.
const FRESH: Duration = Duration::from_millis(500);

/// What the server told last of the locks of others.
#[derive(Default)]
pub(super) struct Others {
    asked: Option<Instant>,
    locks: Vec<LockInfo>,
}

/// One device's locks on one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockInfo {
    /// The file's path in the folder.
    pub path: String,
    /// Whose lock, for people: `alice's laptop`.
    pub holder: String,
    /// The account; `None` where it is this device's.
    pub account: Option<AccountId>,
    /// What is locked.
    pub held: LockSet,
    /// What is waited for.
    pub wants: Vec<LockSpan>,
    /// The file is lent to another device, which has locked it or has done so a moment ago.
    pub lent: bool,
    /// Somebody else has the lock by now: the connection was lost for longer than a lease.
    pub broken: bool,
}

impl LockInfo {
    /// What is locked, for people; of a file that is lent to another device only that.
    pub fn held_words(&self) -> Vec<String> {
        if self.lent {
            return vec!["in use".to_owned()];
        }
        self.held.spans().iter().map(words).collect()
    }

    /// What is waited for, for people.
    pub fn waiting_words(&self) -> Vec<String> {
        self.wants.iter().map(words).collect()
    }
}

/// `flock exclusive`, `bytes 0-99 shared`, `bytes from 100 exclusive`.
fn words(span: &LockSpan) -> String {
    let how = if span.exclusive { "exclusive" } else { "shared" };
    match (span.space, span.end) {
        (LockSpace::Flock, _) => format!("flock {how}"),
        (LockSpace::Posix, LOCK_END) => format!("bytes from {} {how}", span.start),
        (LockSpace::Posix, end) => format!("bytes {}-{end} {how}", span.start),
    }
}

/// The locks of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockReport {
    /// One for each device and file.
    pub locks: Vec<LockInfo>,
    /// Locks are those of this mount alone: the server cannot be reached, so others do not see them.
    pub local_only: bool,
}

impl Folder {
    /// Who holds what; of others as far as the server tells within `within`.
    pub fn locks_blocking(self: &Arc<Self>, within: Duration) -> LockReport {
        let folder = Arc::clone(self);
        let asked = run_on(&self.shared.foreground, async move {
            let asked = tokio::time::timeout(within, folder.locks_of_others()).await;
            asked.unwrap_or(Err(SyncError::TimedOut("asking who holds locks")))
        });
        self.lock_report(asked.ok())
    }

    /// The same with what is known here: of others as the server told last, which is then asked for anew.
    pub fn known_locks(self: &Arc<Self>) -> LockReport {
        let now = clock::monotonic();
        let (known, old) = {
            let mut others = self.locks.others.lock();
            let old = others.asked.is_none_or(|at| now.saturating_duration_since(at) >= FRESH);
            if old {
                others.asked = Some(now);
            }
            (others.locks.clone(), old)
        };
        if old && self.online() {
            let folder = Arc::clone(self);
            self.shared.foreground.spawn(async move { folder.locks_of_others().await });
        }
        let alone = self.locks.state.lock().link == Link::Alone;
        self.lock_report((!alone).then_some(known))
    }

    fn lock_report(&self, others: Option<Vec<LockInfo>>) -> LockReport {
        let mine = self.locks.state.lock().mine();
        let info = |(keg, held, wants, broken): (KegId, LockSet, Vec<LockSpan>, bool)| LockInfo {
            path: self.path_of(&keg),
            holder: self.shared.label.clone(),
            account: None,
            held,
            wants,
            lent: false,
            broken,
        };
        let local_only = others.is_none() && !mine.is_empty();
        let mut locks: Vec<_> = mine.into_iter().map(info).chain(others.unwrap_or_default()).collect();
        locks.sort_by(|one, other| (&one.path, &one.holder).cmp(&(&other.path, &other.holder)));
        LockReport { locks, local_only }
    }

    async fn lock_list(&self) -> Result<(Names, Vec<crate::api::LockHolder>), SyncError> {
        let names = {
            let verified = self.verified.lock().await;
            let epoch = verified.state.epoch();
            Names::new(self.id(), epoch, &verified.ring.epoch(epoch)?.content)
        };
        let call = LockCall { session: 0, epoch: names.epoch, ask: LockAsk::List };
        let answer = self.remote.locks(self.id(), &call).await?;
        let LockResult::List(holders) = answer.result else { return Ok((names, Vec::new())) };
        Ok((names, holders))
    }

    async fn locks_of_others(&self) -> Result<Vec<LockInfo>, SyncError> {
        let (names, holders) = self.lock_list().await?;
        let others = holders.into_iter().filter(|holder| holder.device != self.device);
        let info = |holder: crate::api::LockHolder| {
            let keg = names.read(&holder.file.token, &holder.file.note)?;
            Some(LockInfo {
                path: self.path_of(&keg),
                holder: self.holder_name(&holder.account, &holder.device),
                account: Some(holder.account),
                held: holder.file.held,
                wants: holder.wants,
                lent: holder.lent,
                broken: false,
            })
        };
        let locks: Vec<LockInfo> = others.filter_map(info).collect();
        self.locks.others.lock().locks.clone_from(&locks);
        Ok(locks)
    }

    fn holder_name(&self, account: &AccountId, device: &DeviceId) -> String {
        self.label(device).unwrap_or_else(|| format!("account {}", &account.to_string()[..8]))
    }

    /// Asks whether another member is in the way of `span`; `done` is called at once or later, on another thread.
    pub fn probe_lock(self: &Arc<Self>, keg: &KegId, span: &LockSpan, done: Box<dyn FnOnce(Option<LockSpan>) + Send>) {
        if self.locks.state.lock().decides(keg, span, clock::boottime()) {
            return done(None);
        }
        let (folder, keg, span) = (Arc::clone(self), *keg, *span);
        self.shared.foreground.spawn(async move {
            // Who cannot be asked is not in the way.
            let Ok((names, holders)) = folder.lock_list().await else { return done(None) };
            let token: LockToken = names.token(&keg);
            let others = holders.into_iter().filter(|one| one.device != folder.device && one.file.token == token);
            let in_the_way = others.filter_map(|one| match one.lent {
                // What exactly is locked of a lent file only its holder knows; the whole is the honest answer.
                true if !one.file.held.is_empty() => Some(whole(span.space)),
                true => None,
                false => one.file.held.conflict(&span),
            });
            done(in_the_way.min());
        });
    }
}

fn whole(space: LockSpace) -> LockSpan {
    LockSpan::whole(space, true)
}
