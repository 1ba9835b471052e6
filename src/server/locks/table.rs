//! The table of lock leases: who holds and who waits for what, without clock, network or storage.
//!
//! A device holds what it holds for one lease after its last call. What it holds of a file is a set of spans, or the
//! file is lent to it as a whole and is asked back when somebody else wants something of it. Devices that may still
//! carry locks over, after a restart or from an earlier epoch, are *awaited*: until they have, or their lease has run
//! out, nobody else is granted anything.
//!
//! Who waits is served in the order of coming: a span is not granted to a device that holds nothing of the file while
//! another has waited longer for a conflicting one. A device that does hold something passes, because whoever waits may
//! wait for just that device.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::api::limits::{LOCK_FILES_MAX, LOCK_LIST_MAX, LOCK_NOTE_MAX_BYTES, LOCK_SPANS_ALL_MAX, LOCK_WANTS_MAX};
use crate::api::{
    Detail, ErrorCode, LockAsk, LockCall, LockEvent, LockGrant, LockHolder, LockResult, LockWant, LockedFile,
    WantResult,
};
use crate::format::{AccountId, DbId, DeviceId, LockSet, LockSpan, LockToken};
use crate::server::error::Refused;

/// A device of an account.
pub type Who = (AccountId, DeviceId);

/// How long a device that was told that it may have its turn can take to come for it.
const TURN: Duration = Duration::from_secs(2);

/// Who calls, in which folder.
#[derive(Clone, Copy)]
pub struct Caller {
    /// The device.
    pub who: Who,
    /// The folder.
    pub db: DbId,
    /// The folder's epoch now.
    pub epoch: u32,
    /// The role writes: others hold nothing exclusively, because reading needs no more.
    pub writes: bool,
}

/// Whom to tell of what.
pub type Told = Vec<(Who, LockEvent)>;

/// All leases of a server.
pub struct Table {
    lease: Duration,
    dbs: HashMap<DbId, Db>,
}

struct Db {
    id: DbId,
    epoch: u32,
    sessions: HashMap<Who, Session>,
    files: HashMap<LockToken, File>,
    awaited: HashMap<Who, Instant>,
}

struct Session {
    number: u64,
    until: Instant,
    files: BTreeSet<LockToken>,
}

#[derive(Default)]
struct File {
    claims: Vec<Claim>,
    /// In the order of coming.
    waiters: Vec<Waiter>,
}

struct Claim {
    who: Who,
    note: Vec<u8>,
    held: LockSet,
    lent: bool,
    /// When the file was asked back.
    recalled: Option<Instant>,
}

struct Waiter {
    who: Who,
    note: Vec<u8>,
    wants: Vec<LockSpan>,
    /// Since when it has known that it may have its turn.
    turn: Option<Instant>,
}

impl Claim {
    fn conflicts(&self, span: &LockSpan) -> bool {
        self.lent || self.held.conflict(span).is_some()
    }
}

impl Waiter {
    fn conflicts(&self, span: &LockSpan) -> bool {
        self.wants.iter().any(|want| want.conflicts(span))
    }
}

impl File {
    fn claim(&self, who: &Who) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.who == *who)
    }

    /// The claim of another device, or its wish before the place `before` of the queue, that `span` must wait for.
    fn in_the_way(&self, who: &Who, span: &LockSpan, before: usize) -> Option<Who> {
        if let Some(claim) = self.claims.iter().find(|claim| claim.who != *who && claim.conflicts(span)) {
            return Some(claim.who);
        }
        if self.claim(who).is_some_and(|claim| claim.lent || !claim.held.is_empty()) {
            return None;
        }
        self.waiters[..before].iter().find(|waiter| waiter.who != *who && waiter.conflicts(span)).map(|one| one.who)
    }

    fn place_of(&self, who: &Who) -> usize {
        self.waiters.iter().position(|waiter| waiter.who == *who).unwrap_or(self.waiters.len())
    }

    fn is_idle(&self) -> bool {
        self.claims.is_empty() && self.waiters.is_empty()
    }

    /// Takes everything of a device away.
    fn drop_of(&mut self, who: &Who) {
        self.claims.retain(|claim| claim.who != *who);
        self.waiters.retain(|waiter| waiter.who != *who);
    }
}

impl Table {
    /// Nothing is held yet.
    pub fn new(lease: Duration) -> Self {
        Self { lease, dbs: HashMap::new() }
    }

    /// These devices may carry locks over until then.
    pub fn await_holders(&mut self, db: DbId, epoch: u32, holders: impl IntoIterator<Item = Who>, until: Instant) {
        let mut holders = holders.into_iter().peekable();
        if holders.peek().is_none() {
            return;
        }
        let db = self.dbs.entry(db).or_insert_with(|| Db::new(db, epoch));
        db.awaited.extend(holders.map(|who| (who, until)));
    }

    /// Does what a call asks.
    ///
    /// # Errors
    /// [`ErrorCode::StaleEpoch`], [`ErrorCode::Role`], [`ErrorCode::TooLarge`].
    pub fn call(&mut self, caller: &Caller, call: &LockCall, now: Instant) -> Result<(LockResult, Told), Refused> {
        let lease = self.lease;
        let db = self.dbs.entry(caller.db).or_insert_with(|| Db::new(caller.db, caller.epoch));
        let mut told = db.expire(now, lease);
        // Looked up before this call had its turn, it may be an earlier one; a folder never goes back to that.
        if caller.epoch > db.epoch {
            told.extend(db.begin_epoch(caller.epoch, now + lease));
        }
        let result = match &call.ask {
            LockAsk::List => LockResult::List(db.list()),
            _ if call.epoch != db.epoch => {
                let message = "locks are named by the folder's current epoch: catch up and begin anew";
                return Err(Refused::new(ErrorCode::StaleEpoch, message).with(Detail::Epoch(db.epoch)));
            }
            LockAsk::Begin(files) => db.begin(caller, call.session, files, now, lease, &mut told)?,
            LockAsk::Set(..) | LockAsk::Renew | LockAsk::End => match db.sessions.get_mut(&caller.who) {
                Some(session) if session.number == call.session => {
                    session.until = now + lease;
                    match &call.ask {
                        LockAsk::Set(file, wants) => db.set(caller, file, wants, now, &mut told)?,
                        LockAsk::End => {
                            db.leave(&caller.who, now, &mut told);
                            LockResult::Done
                        }
                        LockAsk::Renew | LockAsk::Begin(_) | LockAsk::List => LockResult::Done,
                    }
                }
                _ => LockResult::Stale,
            },
        };
        if db.is_idle() {
            self.dbs.remove(&caller.db);
        }
        Ok((result, told))
    }

    /// Takes away what has run out by now.
    pub fn expire(&mut self, now: Instant) -> Told {
        let lease = self.lease;
        let told = self.dbs.values_mut().flat_map(|db| db.expire(now, lease)).collect();
        self.dbs.retain(|_, db| !db.is_idle());
        told
    }

    /// An account is no member of the folder any more.
    pub fn remove_member(&mut self, db: &DbId, account: &AccountId, now: Instant) -> Told {
        let Some(db) = self.dbs.get_mut(db) else { return Told::new() };
        let theirs = |who: &Who| who.0 == *account;
        let mut told = Told::new();
        db.awaited.retain(|who, _| !theirs(who));
        for who in db.sessions.keys().filter(|who| theirs(who)).copied().collect::<Vec<_>>() {
            db.leave(&who, now, &mut told);
        }
        db.wake_all(now, &mut told);
        told
    }

    /// The folder is in this epoch now: files have other names, and holders are to carry their locks over.
    pub fn begin_epoch(&mut self, db: &DbId, epoch: u32, now: Instant) -> Told {
        let until = now + self.lease;
        match self.dbs.get_mut(db) {
            Some(db) if epoch > db.epoch => db.begin_epoch(epoch, until),
            _ => Told::new(),
        }
    }

    /// Nobody holds or waits for anything.
    pub fn is_idle(&self) -> bool {
        self.dbs.is_empty()
    }
}

impl Db {
    fn new(id: DbId, epoch: u32) -> Self {
        Self { id, epoch, sessions: HashMap::new(), files: HashMap::new(), awaited: HashMap::new() }
    }

    fn is_idle(&self) -> bool {
        self.sessions.is_empty() && self.awaited.is_empty()
    }

    fn event(&self, token: LockToken) -> LockEvent {
        LockEvent { db: self.id, token }
    }

    fn awaits_others(&self, who: &Who) -> bool {
        self.awaited.keys().any(|awaited| awaited != who)
    }

    fn begin_epoch(&mut self, epoch: u32, until: Instant) -> Told {
        self.epoch = epoch;
        self.files.clear();
        let mut told = Told::new();
        for (who, session) in std::mem::take(&mut self.sessions) {
            // Who holds nothing has nothing to carry over.
            if let Some(token) = session.files.first() {
                self.awaited.insert(who, until);
                told.push((who, self.event(*token)));
            }
        }
        told
    }

    fn expire(&mut self, now: Instant, lease: Duration) -> Told {
        let mut told = Told::new();
        let over: Vec<Who> =
            self.sessions.iter().filter(|(_, session)| session.until <= now).map(|(who, _)| *who).collect();
        for who in over {
            self.leave(&who, now, &mut told);
        }
        let before = self.awaited.len();
        self.awaited.retain(|_, until| *until > now);
        if self.awaited.len() < before {
            self.wake_all(now, &mut told);
        }
        let mut changed = Vec::new();
        for (token, file) in &mut self.files {
            // Whoever renews its lease and does not give back what it was asked for keeps it no longer than a lease.
            let kept = |claim: &Claim| claim.recalled.is_none_or(|at| now.saturating_duration_since(at) < lease);
            let late = |waiter: &Waiter| waiter.turn.is_some_and(|at| now.saturating_duration_since(at) >= TURN);
            if file.claims.iter().all(kept) && !file.waiters.iter().any(late) {
                continue;
            }
            let of_claims = file.claims.iter().filter(|claim| !kept(claim)).map(|claim| claim.who);
            let of_waiters = file.waiters.iter().filter(|waiter| late(waiter)).map(|waiter| waiter.who);
            changed.push((*token, of_claims.chain(of_waiters).collect::<Vec<_>>()));
            file.claims.retain(kept);
            file.waiters.retain(|waiter| !late(waiter));
        }
        for (token, whose) in changed {
            self.changed(token, now, &mut told);
            whose.iter().for_each(|who| self.forget_file(who, &token));
        }
        told
    }

    /// The device holds and waits for nothing any more.
    fn leave(&mut self, who: &Who, now: Instant, told: &mut Told) {
        let Some(session) = self.sessions.remove(who) else { return };
        for token in session.files {
            if let Some(file) = self.files.get_mut(&token) {
                file.drop_of(who);
            }
            self.changed(token, now, told);
        }
    }

    fn begin(
        &mut self,
        caller: &Caller,
        number: u64,
        files: &[LockedFile],
        now: Instant,
        lease: Duration,
        told: &mut Told,
    ) -> Result<LockResult, Refused> {
        let who = caller.who;
        let spans = files.iter().map(|file| file.held.len()).sum::<usize>();
        if files.len() > LOCK_FILES_MAX || spans > LOCK_SPANS_ALL_MAX {
            return Err(Refused::too_large("the list of locks", LOCK_FILES_MAX as u64));
        }
        for file in files {
            check_file(caller, file)?;
        }
        self.leave(&who, now, told);
        let was_awaited = self.awaited.remove(&who).is_some();
        self.sessions.insert(who, Session { number, until: now + lease, files: BTreeSet::new() });
        let mut refused = Vec::new();
        for file in files.iter().filter(|file| !file.held.is_empty()) {
            let others = self.files.entry(file.token).or_default();
            let mut spans = file.held.spans().iter();
            if spans.any(|span| others.claims.iter().any(|claim| claim.who != who && claim.conflicts(span))) {
                refused.push(file.token);
                continue;
            }
            let (note, held) = (file.note.clone(), file.held.clone());
            others.claims.retain(|claim| claim.who != who);
            others.claims.push(Claim { who, note, held, lent: false, recalled: None });
            self.note_file(&who, file.token);
        }
        self.files.retain(|_, file| !file.is_idle());
        if was_awaited {
            self.wake_all(now, told);
        }
        Ok(LockResult::Begun(refused))
    }

    fn note_file(&mut self, who: &Who, token: LockToken) {
        if let Some(session) = self.sessions.get_mut(who) {
            session.files.insert(token);
        }
    }

    fn set(
        &mut self,
        caller: &Caller,
        file: &LockedFile,
        wants: &[LockWant],
        now: Instant,
        told: &mut Told,
    ) -> Result<LockResult, Refused> {
        let who = caller.who;
        check_file(caller, file)?;
        if wants.len() > LOCK_WANTS_MAX {
            return Err(Refused::too_large("the list of wishes", LOCK_WANTS_MAX as u64));
        }
        if !caller.writes && wants.iter().any(|want| want.span.exclusive) {
            return Err(role());
        }
        let session = self.sessions.get(&who).map_or(0, |session| session.files.len());
        let known = self.files.get(&file.token).and_then(|found| found.claim(&who));
        if known.is_none() && session >= LOCK_FILES_MAX {
            return Err(Refused::too_large("the list of locked files", LOCK_FILES_MAX as u64));
        }
        // More than before is wanted, not held.
        let within = known.is_some_and(|claim| claim.lent || claim.held.covers_all(&file.held));
        let was_lent = known.is_some_and(|claim| claim.lent);
        if !file.held.is_empty() && !within {
            return Ok(LockResult::Stale);
        }
        let awaits = self.awaits_others(&who);
        let token = file.token;
        let event = self.event(token);
        let entry = self.files.entry(token).or_default();
        entry.claims.retain(|claim| claim.who != who);
        let claim = Claim { who, note: file.note.clone(), held: file.held.clone(), lent: false, recalled: None };
        entry.claims.push(claim);
        let place = entry.place_of(&who);
        let (mut results, mut queued) = (Vec::with_capacity(wants.len()), Vec::new());
        for want in wants {
            let span = want.span;
            let blocked = entry.in_the_way(&who, &span, place);
            let result = match blocked {
                None if awaits => WantResult::Later,
                None => WantResult::Granted,
                Some(other) => match entry.claims.iter_mut().find(|claim| claim.who == other && claim.lent) {
                    Some(lent) => {
                        // Asked back once; the answer comes within a lease, or the file is taken back.
                        if lent.recalled.is_none() {
                            lent.recalled = Some(now);
                        }
                        told.push((other, event));
                        WantResult::Later
                    }
                    None => WantResult::Taken(other.0, other.1),
                },
            };
            match result {
                WantResult::Granted => {
                    if let Some(mine) = entry.claims.iter_mut().find(|claim| claim.who == who) {
                        mine.held.join(span);
                    }
                }
                WantResult::Taken(..) if !want.wait => {}
                WantResult::Taken(..) | WantResult::Later => queued.push(span),
            }
            results.push(result);
        }
        Self::queue(entry, &who, file, queued, event, told);
        let mine = entry.claim(&who);
        if mine.is_some_and(|claim| claim.held.len() > crate::format::limits::LOCK_SPANS_MAX) {
            entry.drop_of(&who);
            self.changed(token, now, told);
            self.forget_file(&who, &token);
            return Err(Refused::too_large("the list of locks on one file", LOCK_SPANS_ALL_MAX as u64));
        }
        let alone = entry.claims.len() == 1 && entry.waiters.is_empty();
        let lent = alone && caller.writes && !awaits && entry.claim(&who).is_some_and(|claim| !claim.held.is_empty());
        if let Some(mine) = entry.claims.iter_mut().find(|claim| claim.who == who) {
            mine.lent = lent;
        }
        let contended = entry.claim(&who).is_some_and(|claim| {
            let mut spans = claim.held.spans().iter();
            spans.any(|span| entry.waiters.iter().any(|waiter| waiter.who != who && waiter.conflicts(span)))
        });
        self.note_file(&who, token);
        if was_lent && !lent {
            self.tell_waiters(&token, told);
        }
        self.changed(token, now, told);
        self.forget_file(&who, &token);
        Ok(LockResult::Set(LockGrant { lent, contended, wants: results }))
    }

    /// Puts the wishes in the place that the device has in the queue, or at its end, and tells those who are in the way.
    fn queue(file: &mut File, who: &Who, of: &LockedFile, wants: Vec<LockSpan>, event: LockEvent, told: &mut Told) {
        let place = file.place_of(who);
        if wants.is_empty() {
            file.waiters.retain(|waiter| waiter.who != *who);
            return;
        }
        let in_the_way = |claim: &&Claim| claim.who != *who && wants.iter().any(|want| claim.conflicts(want));
        match file.waiters.get_mut(place) {
            Some(waiter) => {
                waiter.turn = None;
                if waiter.wants == wants {
                    return;
                }
                told.extend(file.claims.iter().filter(in_the_way).map(|claim| (claim.who, event)));
                waiter.wants = wants;
            }
            None => {
                told.extend(file.claims.iter().filter(in_the_way).map(|claim| (claim.who, event)));
                file.waiters.push(Waiter { who: *who, note: of.note.clone(), wants, turn: None });
            }
        }
    }

    /// Something of the file was let go: tidies up, and tells those whose turn it is.
    fn changed(&mut self, token: LockToken, now: Instant, told: &mut Told) {
        let event = self.event(token);
        let awaited: Vec<Who> = self.awaited.keys().copied().collect();
        let Some(file) = self.files.get_mut(&token) else { return };
        file.claims.retain(|claim| claim.lent || !claim.held.is_empty());
        for index in 0..file.waiters.len() {
            let waiter = &file.waiters[index];
            let who = waiter.who;
            let free = waiter.wants.iter().any(|span| file.in_the_way(&who, span, index).is_none());
            if free && waiter.turn.is_none() && awaited.iter().all(|other| *other == who) {
                file.waiters[index].turn = Some(now);
                told.push((who, event));
            }
        }
        if file.is_idle() {
            self.files.remove(&token);
        }
    }

    /// Takes the file off the device's list, where it neither holds nor wants anything of it any more.
    fn forget_file(&mut self, who: &Who, token: &LockToken) {
        let file = self.files.get(token);
        let used = file.is_some_and(|file| file.claim(who).is_some() || file.place_of(who) < file.waiters.len());
        if !used && let Some(session) = self.sessions.get_mut(who) {
            session.files.remove(token);
        }
    }

    /// What was not known is known: those who wait may ask again, also those who only wanted to try.
    fn tell_waiters(&self, token: &LockToken, told: &mut Told) {
        let waiters = self.files.get(token).into_iter().flat_map(|file| &file.waiters);
        told.extend(waiters.map(|waiter| (waiter.who, self.event(*token))));
    }

    fn wake_all(&mut self, now: Instant, told: &mut Told) {
        let tokens: Vec<LockToken> = self.files.keys().copied().collect();
        for token in tokens {
            self.tell_waiters(&token, told);
            self.changed(token, now, told);
        }
    }

    fn list(&self) -> Vec<LockHolder> {
        let mut all = Vec::new();
        for (token, file) in &self.files {
            let wants_of = |who: &Who| {
                let waiter = file.waiters.iter().find(|waiter| waiter.who == *who);
                waiter.map(|waiter| waiter.wants.clone()).unwrap_or_default()
            };
            let holder = |who: &Who, note: &Vec<u8>, held: &LockSet, lent| LockHolder {
                account: who.0,
                device: who.1,
                file: LockedFile { token: *token, note: note.clone(), held: held.clone() },
                lent,
                wants: wants_of(who),
            };
            all.extend(file.claims.iter().map(|claim| holder(&claim.who, &claim.note, &claim.held, claim.lent)));
            let only_waiting = file.waiters.iter().filter(|waiter| file.claim(&waiter.who).is_none());
            all.extend(only_waiting.map(|waiter| holder(&waiter.who, &waiter.note, &LockSet::default(), false)));
        }
        all.sort_by_key(|holder| (holder.file.token, holder.account, holder.device));
        all.truncate(LOCK_LIST_MAX);
        all
    }
}

fn role() -> Refused {
    Refused::new(ErrorCode::Role, "only who may write holds locks exclusively; ask for a shared one")
}

fn check_file(caller: &Caller, file: &LockedFile) -> Result<(), Refused> {
    if file.note.len() > LOCK_NOTE_MAX_BYTES {
        return Err(Refused::too_large("the note of a lock", LOCK_NOTE_MAX_BYTES as u64));
    }
    if !caller.writes && file.held.has_exclusive() {
        return Err(role());
    }
    Ok(())
}
