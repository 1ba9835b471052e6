//! What is held, wanted and agreed of each file of a folder, and what is to be done about it. Knows no clock: the time is
//! given to it, by one that goes on while the machine is suspended, since leases do.

use std::collections::HashMap;
use std::time::Duration;

use crate::api::limits::{LOCK_FILES_MAX, LOCK_WANTS_MAX};
use crate::api::{LockGrant, LockWant, LockedFile, WantResult};
use crate::format::{KegId, LockSet, LockSpan, LockToken};
use crate::sys::clock::Boottime;

use super::names::Names;

/// How long a file stays lent that nobody locks any more: programs that work lock again within seconds.
const IDLE: Duration = Duration::from_secs(30);
/// The same where many files are lent.
const IDLE_OF_MANY: Duration = Duration::from_secs(1);
/// What is many: a quarter of what the server takes.
const MANY: usize = LOCK_FILES_MAX / 4;
/// How long a server that had nothing to keep for this device is tried for before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// The lease until the server has told it.
const LEASE: Duration = Duration::from_secs(10);

/// Whether programs may hold what they want to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// They may, from now on.
    Yes,
    /// The server is to be asked.
    Unknown,
    /// Another member has waited longer: first let go of what is held.
    NotYet,
}

/// How it stands with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// This session stands.
    Here(u64),
    /// There is none, or the server did not answer; what was agreed holds for a lease.
    Away,
    /// Nobody can be asked: programs lock among themselves.
    Alone,
}

struct File {
    /// What programs hold.
    held: LockSet,
    /// What they want beyond, and whether they wait for it.
    wants: Vec<(LockSpan, bool)>,
    /// What the server has this device hold, where it is not lent.
    agreed: LockSet,
    /// All of it may be held without asking.
    lent: bool,
    /// The server wants it back.
    recalled: bool,
    /// Another member waits for what is held.
    contended: bool,
    /// Another member has what programs here believe to hold.
    broken: bool,
    /// What a session that begins carries over; it bounds what may be held meanwhile.
    moving: Option<LockSet>,
    /// The wishes are with the server; until when they are not repeated.
    asked_until: Option<Boottime>,
    /// The server has wishes in its queue.
    queued: bool,
    /// The server is to say whether somebody waits.
    look: bool,
    /// A call is under way.
    busy: bool,
    /// A call about it was not answered (yet): the server may have this device hold more than is agreed.
    unanswered: bool,
    used: Boottime,
    /// Counts the times that what is held changed while something was held exclusively, so possibly written.
    writes: u64,
    /// Up to which of them everything written is on the server.
    settled: u64,
}

impl File {
    fn new(now: Boottime) -> Self {
        Self {
            held: LockSet::default(),
            wants: Vec::new(),
            agreed: LockSet::default(),
            lent: false,
            recalled: false,
            contended: false,
            broken: false,
            moving: None,
            asked_until: None,
            queued: false,
            look: false,
            busy: false,
            unanswered: false,
            used: now,
            writes: 0,
            settled: 0,
        }
    }

    fn is_idle(&self) -> bool {
        self.held.is_empty()
            && self.wants.is_empty()
            && self.agreed.is_empty()
            && !self.lent
            && !self.busy
            && !self.unanswered
            && !self.queued
    }

    /// Programs hold this from now on.
    fn hold(&mut self, held: &LockSet, now: Boottime) {
        // Until now something may have been written, or from now on.
        if self.held.has_exclusive() || held.has_exclusive() {
            self.writes += 1;
        }
        self.held.clone_from(held);
        self.used = now;
    }

    /// Something may have been written that others are not to miss.
    fn is_unsettled(&self) -> bool {
        self.settled < self.writes
    }

    /// What the server must believe to be held: what is, and what was held exclusively until everything is uploaded.
    fn to_hold(&self, shown: &LockSet) -> LockSet {
        let mut hold = match (self.is_unsettled(), self.lent) {
            (false, _) => return shown.clone(),
            (true, true) => return LockSet::everything(),
            (true, false) => self.agreed.spans().iter().filter(|span| span.exclusive).copied().collect::<LockSet>(),
        };
        hold.join_all(shown);
        hold
    }
}

/// What is to be done now.
#[derive(Default)]
pub(super) struct Plan {
    /// Begin a session.
    pub begin: bool,
    /// Say that nothing has changed.
    pub renew: bool,
    /// Ask about these files.
    pub files: Vec<KegId>,
    /// Nobody can be asked from now on: those who wait are to be told.
    pub alone: Vec<KegId>,
    /// When to look again.
    pub wake_at: Option<Boottime>,
}

/// All files of a folder.
pub(super) struct State {
    pub link: Link,
    pub lease: Duration,
    /// When the last call was made that was answered.
    answered: Boottime,
    /// Since when it does not answer.
    lost: Option<Boottime>,
    try_at: Boottime,
    files: HashMap<KegId, File>,
    tokens: HashMap<LockToken, KegId>,
    /// The role may hold exclusively, towards others.
    writes: bool,
    epoch: Option<u32>,
}

impl State {
    /// Nothing is held.
    pub fn new(now: Boottime) -> Self {
        Self {
            link: Link::Away,
            lease: LEASE,
            // Nothing was agreed that would have to run out.
            answered: Boottime::START,
            lost: None,
            try_at: now,
            files: HashMap::new(),
            tokens: HashMap::new(),
            writes: true,
            epoch: None,
        }
    }

    /// What others see of what is held: who only reads is in the way of writers only.
    fn shown(&self, held: &LockSet) -> LockSet {
        match self.writes {
            true => held.clone(),
            false => held.spans().iter().map(|span| LockSpan { exclusive: false, ..*span }).collect(),
        }
    }

    /// What the server has agreed to still binds it. Afterwards it may have given the same to others, be it that this machine
    /// was suspended, or this process stopped, and has not found out yet.
    fn is_leased(&self, now: Boottime) -> bool {
        now < self.answered + self.lease
    }

    /// See [`super::Folder::claim_lock`].
    pub fn claim(&mut self, keg: &KegId, held: &LockSet, newcomer: bool, now: Boottime) -> Agreed {
        let shown = (!self.writes).then(|| self.shown(held));
        if self.files.is_empty() && self.link == Link::Away {
            // That it did not answer once says nothing of now.
            (self.lost, self.try_at) = (None, now);
        }
        let alone = self.link == Link::Alone;
        let leased = self.is_leased(now);
        let file = self.files.entry(*keg).or_insert_with(|| File::new(now));
        let wanted = shown.as_ref().unwrap_or(held);
        let within = leased
            && match &file.moving {
                Some(moving) => moving.covers_all(wanted),
                None => (file.lent && !file.recalled) || file.agreed.covers_all(wanted),
            };
        let grown = !file.held.covers_all(held);
        let agreed = if alone || file.broken {
            Agreed::Yes
        } else if newcomer && file.contended && !(file.held.is_empty() && file.agreed.is_empty()) {
            // Also where it would not make what is held more: readers who overlap would keep a writer out for ever.
            Agreed::NotYet
        } else if !grown || within {
            Agreed::Yes
        } else {
            Agreed::Unknown
        };
        if agreed == Agreed::Yes {
            file.hold(held, now);
        }
        agreed
    }

    /// See [`super::Folder::want_locks`]; tells whether there is something to do.
    pub fn want(&mut self, keg: &KegId, held: &LockSet, wants: &[(LockSpan, bool)], now: Boottime) -> bool {
        let Some(file) = self.files.get_mut(keg) else { return false };
        if file.held != *held {
            file.hold(held, now);
        }
        if file.wants != wants {
            file.wants = wants.to_vec();
            file.asked_until = None;
        }
        if file.broken && held.is_empty() {
            file.broken = false;
        }
        if file.is_idle() {
            self.forget(keg);
            return false;
        }
        // What is lent and idle is seen to when the lease is renewed.
        !file.lent || !file.wants.is_empty()
    }

    fn forget(&mut self, keg: &KegId) {
        self.files.remove(keg);
        self.tokens.retain(|_, of| of != keg);
    }

    /// The server says that something about the file changed.
    pub fn told(&mut self, token: &LockToken) {
        let file = self.tokens.get(token).and_then(|keg| self.files.get_mut(keg));
        let Some(file) = file else { return };
        file.asked_until = None;
        file.recalled |= file.lent;
        file.look |= !file.agreed.is_empty();
    }

    /// The role and the epoch are these.
    pub fn note_standing(&mut self, writes: bool, epoch: u32) {
        let changed = self.writes != writes || self.epoch.is_some_and(|before| before != epoch);
        self.writes = writes;
        if changed && matches!(self.link, Link::Here(_)) {
            self.link = Link::Away;
        }
    }

    /// What is to be done at `now`; the files are marked as being asked about.
    pub fn plan(&mut self, now: Boottime) -> Plan {
        let mut plan = Plan::default();
        if self.files.is_empty() {
            return plan;
        }
        let mut wake = |at: Boottime| plan.wake_at = Some(plan.wake_at.map_or(at, |before| before.min(at)));
        match self.link {
            Link::Here(_) => {}
            Link::Away | Link::Alone => {
                // One lost call is not the loss of the server.
                let alone_at = self.lost.map(|lost| (self.answered + self.lease).max(lost + PATIENCE));
                if self.link == Link::Away && alone_at.is_some_and(|at| now >= at) {
                    self.link = Link::Alone;
                    plan.alone = self.files.keys().copied().collect();
                }
                if now >= self.try_at {
                    plan.begin = true;
                } else {
                    wake(self.try_at);
                    if let Some(at) = alone_at.filter(|_| self.link == Link::Away) {
                        wake(at);
                    }
                }
                return plan;
            }
        }
        let idle = if self.files.len() > MANY { IDLE_OF_MANY } else { IDLE };
        let writes = self.writes;
        let mut leased = false;
        for (keg, file) in &mut self.files {
            leased |= file.lent || !file.agreed.is_empty() || file.asked_until.is_some();
            if file.busy || file.broken {
                continue;
            }
            let shown = match writes {
                true => file.held.clone(),
                false => file.held.spans().iter().map(|span| LockSpan { exclusive: false, ..*span }).collect(),
            };
            let ask = !file.wants.is_empty() && file.asked_until.is_none_or(|until| now >= until);
            let needed = match file.lent {
                true => file.recalled || ask || (file.held.is_empty() && now >= file.used + idle),
                false => file.look || ask || file.agreed != shown || (file.queued && file.wants.is_empty()),
            };
            if needed {
                file.busy = true;
                plan.files.push(*keg);
            } else if file.lent && file.held.is_empty() {
                wake(file.used + idle);
            } else if let Some(until) = file.asked_until.filter(|_| !file.wants.is_empty()) {
                wake(until);
            }
        }
        if leased {
            let due = self.answered + self.lease / 3;
            plan.renew = now >= due;
            wake(if plan.renew { now + self.lease / 3 } else { due });
        }
        plan
    }

    /// A session is about to begin: what it carries over.
    pub fn begin(&mut self, names: &Names) -> Vec<LockedFile> {
        self.tokens.clear();
        let writes = self.writes;
        let mut carried = Vec::new();
        for (keg, file) in &mut self.files {
            let shown: LockSet = match writes {
                true => file.held.clone(),
                false => file.held.spans().iter().map(|span| LockSpan { exclusive: false, ..*span }).collect(),
            };
            let hold = if writes { file.to_hold(&shown) } else { shown };
            let token = names.token(keg);
            self.tokens.insert(token, *keg);
            file.moving = Some(hold.clone());
            if !hold.is_empty() && carried.len() < LOCK_FILES_MAX {
                file.unanswered = true;
                carried.push(LockedFile { token, note: names.note(keg), held: hold });
            }
        }
        carried
    }

    /// The session stands. Returns the files that others hold by now.
    pub fn begun(&mut self, session: u64, epoch: u32, refused: &[LockToken], made: Boottime) -> Vec<KegId> {
        self.link = Link::Here(session);
        self.epoch = Some(epoch);
        self.answered_at(made);
        let mut broken = Vec::new();
        let refused: Vec<KegId> = refused.iter().filter_map(|token| self.tokens.get(token)).copied().collect();
        for (keg, file) in &mut self.files {
            let Some(hold) = file.moving.take() else { continue };
            let lost = refused.contains(keg);
            file.agreed = if lost { LockSet::default() } else { hold };
            (file.lent, file.recalled, file.contended) = (false, false, false);
            (file.asked_until, file.queued, file.unanswered) = (None, false, false);
            let was = std::mem::replace(&mut file.broken, lost && !file.held.is_empty());
            if file.broken && !was {
                broken.push(*keg);
            }
        }
        self.files.retain(|_, file| !file.is_idle());
        broken
    }

    /// A call of the session showed that it stands no more. Of a session that was given up before, or is being succeeded,
    /// that says nothing.
    pub fn session_ended(&mut self, session: u64, lost: bool, now: Boottime) {
        if self.link == Link::Here(session) {
            self.no_session(lost, now, now);
        }
    }

    /// There is no session; when to try again. `lost`: because the server does not answer.
    pub fn no_session(&mut self, lost: bool, now: Boottime, try_at: Boottime) {
        if !matches!(self.link, Link::Alone) {
            self.link = Link::Away;
        }
        if lost {
            self.lost.get_or_insert(now);
        }
        self.try_at = try_at;
        self.files.values_mut().for_each(|file| file.moving = None);
    }

    /// The server can be reached again, and may be another than before.
    pub fn reconnected(&mut self, now: Boottime) {
        self.try_at = now;
        // Who holds something believes in it until the server has agreed or not.
        if self.link != Link::Alone || self.files.is_empty() {
            (self.link, self.lost) = (Link::Away, None);
        }
    }

    /// The server has answered a call made then.
    pub fn answered_at(&mut self, made: Boottime) {
        self.answered = self.answered.max(made);
        self.lost = None;
    }

    /// The file is to be given up, or parts of it that were held exclusively, and what was written meanwhile is not known
    /// to be on the server: up to which count.
    pub fn to_settle(&self, keg: &KegId) -> Option<u64> {
        let file = self.files.get(keg)?;
        let kept = |span: &LockSpan| file.held.covers(span);
        let given_up = file.lent || file.agreed.spans().iter().any(|span| span.exclusive && !kept(span));
        (given_up && file.is_unsettled()).then_some(file.writes)
    }

    /// Everything written up to there is on the server.
    pub fn settled(&mut self, keg: &KegId, writes: u64) {
        if let Some(file) = self.files.get_mut(keg) {
            file.settled = file.settled.max(writes);
        }
    }

    /// A lent file is asked back and cannot be given up yet: what to say at once.
    pub fn must_say_first(&self, keg: &KegId) -> bool {
        self.files.get(keg).is_some_and(|file| file.lent && file.recalled)
    }

    /// The call about a file; from now on no more than it says may be held without another. `None` when there is nothing
    /// to say, or another session.
    pub fn call(
        &mut self,
        keg: &KegId,
        names: &Names,
        session: u64,
        now: Boottime,
    ) -> Option<(LockedFile, Vec<LockWant>)> {
        if self.link != Link::Here(session) {
            return None;
        }
        let writes = self.writes;
        let lease = self.lease;
        let shown = self.files.get(keg).map(|file| self.shown(&file.held))?;
        let file = self.files.get_mut(keg)?;
        let hold = if writes { file.to_hold(&shown) } else { shown };
        file.agreed.clone_from(&hold);
        (file.lent, file.recalled, file.look, file.unanswered) = (false, false, false, true);
        file.asked_until = (!file.wants.is_empty()).then_some(now + lease / 3);
        let mut wants: Vec<LockWant> = Vec::new();
        for (span, wait) in &file.wants {
            let span = LockSpan { exclusive: span.exclusive && writes, ..*span };
            match wants.iter().position(|want| want.span == span) {
                Some(known) => wants[known].wait |= wait,
                None if wants.len() < LOCK_WANTS_MAX => wants.push(LockWant { span, wait: *wait }),
                None => {}
            }
        }
        let token = names.token(keg);
        self.tokens.insert(token, *keg);
        Some((LockedFile { token, note: names.note(keg), held: hold }, wants))
    }

    /// The answer to it. Returns the wishes, as programs have them, that others are in the way of.
    pub fn granted(&mut self, keg: &KegId, session: u64, wants: &[LockWant], grant: &LockGrant) -> Vec<LockSpan> {
        if self.link != Link::Here(session) {
            return Vec::new();
        }
        let writes = self.writes;
        let Some(file) = self.files.get_mut(keg) else { return Vec::new() };
        let mut taken = Vec::new();
        (file.queued, file.unanswered) = (false, false);
        for (want, result) in wants.iter().zip(&grant.wants) {
            match result {
                WantResult::Granted => file.agreed.join(want.span),
                WantResult::Taken(..) => {
                    file.queued |= want.wait;
                    let same = |span: &LockSpan| LockSpan { exclusive: span.exclusive && writes, ..*span } == want.span;
                    taken.extend(file.wants.iter().map(|(span, _)| *span).filter(same));
                }
                WantResult::Later => file.queued = true,
            }
        }
        file.lent = grant.lent;
        file.contended = grant.contended;
        taken
    }

    /// The call about a file is over.
    pub fn done(&mut self, keg: &KegId) {
        let Some(file) = self.files.get_mut(keg) else { return };
        file.busy = false;
        if file.is_idle() {
            self.forget(keg);
        }
    }

    /// Everything that the server has is given up: the session ends.
    pub fn end(&mut self) -> Option<u64> {
        let Link::Here(session) = self.link else { return None };
        self.link = Link::Away;
        self.files.retain(|_, file| !file.held.is_empty() || !file.wants.is_empty());
        Some(session)
    }

    /// What programs here hold and want: file, held, waiting for, lent, broken.
    pub fn mine(&self) -> Vec<(KegId, LockSet, Vec<LockSpan>, bool)> {
        let used = self.files.iter().filter(|(_, file)| !file.held.is_empty() || !file.wants.is_empty());
        let wants = |file: &File| file.wants.iter().map(|(span, _)| *span).collect();
        used.map(|(keg, file)| (*keg, file.held.clone(), wants(file), file.broken)).collect()
    }

    /// Whether `span` is this device's to give, without asking.
    pub fn decides(&self, keg: &KegId, span: &LockSpan, now: Boottime) -> bool {
        let leased = self.is_leased(now);
        let given = |file: &File| file.broken || (leased && (file.lent || file.agreed.covers(span)));
        self.link == Link::Alone || self.files.get(keg).is_some_and(given)
    }
}
