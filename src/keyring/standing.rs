//! What a folder's log amounts to: members, epochs, known accounts, and the log's own clock.
//!
//! Plain data and how an entry that counts changes it. Whether an entry counts is decided in `folder` and `roles`.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use crate::format::{
    AccountId, Head, InviteKey, Membership, MembershipChange, NewEpoch, RetentionRule, Role, Thinning, limits,
};

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Member {
    /// What the member may do.
    #[n(0)]
    pub role: Role,
    /// Guests: end of membership, milliseconds since 1970 UTC.
    #[n(1)]
    pub expires_ms: Option<i64>,
    /// Position of the entry that added the member.
    #[n(2)]
    pub joined_seq: u64,
    /// The member's boxes hold the history secret, which opens every earlier epoch. Who was added with a new epoch
    /// instead of a grant reads from there on and must never get it (DESIGN §3).
    #[n(3)]
    pub history: bool,
    /// The first epoch that the member may read, where that is not all of them: the state at its beginning comes from a
    /// checkpoint. `None` with `history`, and in what was stored before there were checkpoints.
    #[n(4)]
    pub since: Option<u32>,
}

impl Member {
    /// A guest whose time is over at `now_ms`. The last millisecond still counts.
    pub fn expired_at(&self, now_ms: i64) -> bool {
        self.expires_ms.is_some_and(|expires| now_ms > expires)
    }
}

/// One epoch: what its first entry committed to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Epoch {
    /// The commitments.
    #[n(0)]
    pub start: NewEpoch,
    /// Position of the entry that started it.
    #[n(1)]
    pub seq: u64,
}

/// An invite that was made and neither used nor cancelled.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OpenInvite {
    /// Who made it.
    #[n(0)]
    pub by: AccountId,
    /// As what the newcomer joins.
    #[n(1)]
    pub role: Role,
    /// Until when it can be used, milliseconds since 1970 UTC.
    #[n(2)]
    pub ends_ms: i64,
    /// Guests: end of membership, milliseconds since 1970 UTC.
    #[n(3)]
    pub expires_ms: Option<i64>,
    /// Position of the entry that made it.
    #[n(4)]
    pub seq: u64,
}

impl OpenInvite {
    /// Too late at `now_ms`. The last millisecond still counts.
    pub fn ended_at(&self, now_ms: i64) -> bool {
        now_ms > self.ends_ms
    }
}

/// What the log says about its own past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Past {
    /// For how long it is kept; `None`: as nobody has said otherwise.
    #[n(0)]
    pub rule: Option<RetentionRule>,
    /// Of the positions before this one some are gone.
    #[n(1)]
    pub thinned: u64,
    /// The newest entry that has thinned it out or released blobs; 0: none.
    #[n(2)]
    pub last: u64,
}

static NO_INVITES: BTreeMap<InviteKey, OpenInvite> = BTreeMap::new();

/// All that entries which count add up to, but for the head and the devices' counters.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Standing {
    #[n(0)]
    pub members: BTreeMap<AccountId, Member>,
    /// Oldest first; the index is the epoch's number.
    #[n(1)]
    pub epochs: Vec<Epoch>,
    /// Newest head of each account's log that an entry here has named; former members stay. It never goes back.
    #[n(2)]
    pub accounts: BTreeMap<AccountId, Head>,
    /// Largest creation time of a membership entry by somebody who administers: the log's own clock for guests. Anyone
    /// may sync an account or leave; only who could remove a guest anyway may move this. Batches do not, so that a
    /// batch costs O(1) to store.
    #[n(3)]
    pub clock_ms: i64,
    /// Somebody has the current epoch's secrets who should not.
    #[n(4)]
    pub rotation_due: bool,
    /// Suites above the oldest that this log has moved to, each with the position of the first entry that counts and
    /// has it: who has seen that entry uses no older suite any more. `None`: none, as in logs from before suite 2.
    #[n(5)]
    pub suites: Option<BTreeMap<u16, u64>>,
    /// Open invites; absent when there are none, so that the layout is the old one until somebody makes one.
    #[n(6)]
    pub invites: Option<BTreeMap<InviteKey, OpenInvite>>,
    /// Absent until somebody changes the rule or thins out the past, for the same reason.
    #[n(7)]
    pub past: Option<Past>,
}

impl Default for Standing {
    fn default() -> Self {
        let (members, epochs, accounts) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self {
            members,
            epochs,
            accounts,
            clock_ms: i64::MIN,
            rotation_due: false,
            suites: None,
            invites: None,
            past: None,
        }
    }
}

impl Standing {
    pub fn raise_account(&mut self, account: AccountId, head: Head) {
        let known = self.accounts.entry(account).or_insert(head);
        if head.seq > known.seq {
            *known = head;
        }
    }

    /// The oldest suite that an entry may have whose author has seen the log up to `observed`.
    pub fn suite_at(&self, observed: u64) -> u16 {
        let seen = self.suites.iter().flatten().filter(|(_, since)| **since <= observed);
        seen.map(|(suite, _)| *suite).max().unwrap_or(limits::SUITE_OLDEST)
    }

    /// Takes note of the suite of the entry `seq`, which counts.
    pub fn raise_suite(&mut self, suite: u16, seq: u64) {
        if suite > self.newest_suite() {
            self.suites.get_or_insert_default().insert(suite, seq);
        }
    }

    /// The newest suite of an entry that counts.
    pub fn newest_suite(&self) -> u16 {
        self.suite_at(u64::MAX)
    }

    pub fn invites(&self) -> &BTreeMap<InviteKey, OpenInvite> {
        self.invites.as_ref().unwrap_or(&NO_INVITES)
    }

    fn retain_invites(&mut self, keep: impl Fn(&InviteKey, &OpenInvite) -> bool) {
        if let Some(invites) = &mut self.invites {
            invites.retain(|key, invite| keep(key, invite));
            if invites.is_empty() {
                self.invites = None;
            }
        }
    }

    /// Who knows the links of an account is as trusted as the account was.
    pub fn drop_invites_of(&mut self, account: &AccountId) {
        self.retain_invites(|_, invite| invite.by != *account);
    }

    /// Takes in a thinning that counts.
    pub fn thin(&mut self, seq: u64, body: &Thinning) {
        let past = self.past.get_or_insert_default();
        past.last = seq;
        if body.from < body.upto {
            past.thinned = past.thinned.max(body.upto);
        }
    }

    /// Takes in a membership entry that counts.
    pub fn change(&mut self, seq: u64, author: &AccountId, created_ms: i64, body: &Membership) {
        let administers = self.members.get(author).is_some_and(|member| member.role.administers());
        if administers || body.change == MembershipChange::Create {
            self.clock_ms = self.clock_ms.max(created_ms);
        }
        match &body.change {
            MembershipChange::Create => {
                let owner = Member { role: Role::Owner, expires_ms: None, joined_seq: seq, history: true, since: None };
                self.members.insert(*author, owner);
            }
            MembershipChange::Add { account, account_head, role, expires_ms, grant } => {
                let history = grant.is_some();
                let since = body.new_epoch.as_ref().map(|start| start.epoch);
                let member = Member { role: *role, expires_ms: *expires_ms, joined_seq: seq, history, since };
                self.members.insert(*account, member);
                self.raise_account(*account, *account_head);
            }
            MembershipChange::AddSince { account, account_head, role, first, .. } => {
                let since = Some(*first);
                let member = Member { role: *role, expires_ms: None, joined_seq: seq, history: false, since };
                self.members.insert(*account, member);
                self.raise_account(*account, *account_head);
            }
            MembershipChange::Remove { account } => {
                self.members.remove(account);
                self.drop_invites_of(account);
                self.rotation_due = true;
            }
            MembershipChange::SetRole { account, role, expires_ms } => {
                if let Some(member) = self.members.get_mut(account) {
                    (member.role, member.expires_ms) = (*role, *expires_ms);
                }
                // What the role may give no more, the links do not give either.
                self.retain_invites(|_, invite| invite.by != *account || role.manages(invite.role));
            }
            MembershipChange::Rotate => {}
            MembershipChange::AccountSync { account, head } => self.raise_account(*account, *head),
            MembershipChange::Invite { key, role, ends_ms, expires_ms } => {
                let invite = OpenInvite { by: *author, role: *role, ends_ms: *ends_ms, expires_ms: *expires_ms, seq };
                let clock_ms = self.clock_ms;
                // What is over is forgotten here, so that the list stays short.
                self.retain_invites(|_, invite| !invite.ended_at(clock_ms));
                self.invites.get_or_insert_default().insert(*key, invite);
            }
            MembershipChange::CancelInvite { key } => self.retain_invites(|open, _| open != key),
            MembershipChange::Retention { rule } => self.past.get_or_insert_default().rule = Some(*rule),
            MembershipChange::Redeem { key, account, account_head, grant, .. } => {
                if let Some(OpenInvite { role, expires_ms, .. }) = self.invites().get(key).cloned() {
                    // As with `Add`.
                    let since = body.new_epoch.as_ref().map(|start| start.epoch);
                    let member = Member { role, expires_ms, joined_seq: seq, history: grant.is_some(), since };
                    self.members.insert(*account, member);
                    self.raise_account(*account, *account_head);
                    self.retain_invites(|open, _| open != key);
                }
            }
        }
        if let Some(start) = &body.new_epoch {
            self.epochs.push(Epoch { start: start.clone(), seq });
            self.rotation_due = false;
        }
    }
}
