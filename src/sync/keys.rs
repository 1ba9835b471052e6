//! Getting the folder's keys: finding the member's newest box in the log, fetching it, checking that the log commits
//! to it, opening it.
//!
//! A newcomer with full history meets sealed batches long before the entry that brought the own box. So the log is
//! walked ahead, verified but not applied, to its end; the newest box opens the current epoch and the back-links
//! lead from there to every earlier one. Who reads from some point on has a box for each epoch since, and takes them
//! all. Boxes from before the own removal belong to a membership that is over.

use super::event::Event;
use super::verify::{Chains, Verified, brings_key};
use super::{Folder, SyncError};
use crate::crypto::merkle;
use crate::format::{AccountId, Head, KeyBox, Membership, MembershipChange, NewEpoch, SignedEntry};
use crate::keyring::{Advanced, FolderState, KeyRing, KeyRingError, Verdict, box_leaf};

/// Bytes of entries per request on the way ahead.
const PAGE_BYTES: u64 = 4 * 1024 * 1024;

/// A box of this member that the log commits to.
struct Promise {
    /// The entry it came with.
    seq: u64,
    /// The epoch whose secrets it holds.
    start: NewEpoch,
    /// Leaf hash, where the entry names it (a grant); else the Merkle root of `start` commits to it.
    leaf: Option<[u8; 32]>,
    /// Where it is a grant from some epoch on: that epoch, and the sealed secrets of those before the current one.
    since: Option<(u32, Vec<u8>)>,
}

impl Folder {
    /// Completes the key ring from the log after the verified state, of which `ahead` is the beginning.
    pub(super) async fn obtain_keys(&self, verified: &mut Verified, ahead: &[SignedEntry]) -> Result<(), SyncError> {
        let mut promises: Vec<Promise> = Vec::new();
        let ring = &verified.ring;
        let state = self
            .walk_ahead(verified, ahead, |advanced, state| {
                let Verdict::Membership(body) = &advanced.verdict else { return };
                if matches!(body.change, MembershipChange::Remove { account } if account == self.me) {
                    promises.clear();
                } else if brings_key(&advanced.envelope.author, body, state, &self.me, ring) {
                    promises.extend(promise(advanced.seq, body, state));
                }
            })
            .await?;
        let member = state.members().contains_key(&self.me);
        if member && promises.is_empty() && verified.ring.epoch(state.epoch()).is_err() {
            let what = "the log has no key for this member; ask an admin to add you again";
            return Err(SyncError::Damaged(what.to_owned()));
        }
        let mut ring = KeyRing::from_bytes(&verified.ring.to_bytes())?;
        // Newest first: with history it leads to all the others.
        for promise in promises.iter().rev() {
            if ring.epoch(promise.start.epoch).is_ok_and(|secrets| secrets.is_of(&promise.start)) {
                continue;
            }
            let sealed = self.fetch_box(promise).await?;
            let seed = match self.user_key(sealed.generation) {
                Ok(seed) => seed,
                Err(_) => {
                    // Another device may have changed the user key a moment ago.
                    self.accounts.refresh(self.me).await?;
                    self.user_key(sealed.generation)?
                }
            };
            let opened = match &promise.since {
                Some((first, epochs)) => {
                    ring.open_since(&promise.start, *first, &sealed, epochs, &seed, state.epochs())
                }
                None => ring.open_box(&promise.start, &sealed, &seed, state.epochs()),
            };
            if let Err(error) = opened {
                if matches!(error, KeyRingError::Commitment | KeyRingError::Crypto(_)) {
                    // The log commits to the box: it is not the server that made it so.
                    self.note_false_key(promise.start.epoch);
                }
                self.refuse_key(promise.start.epoch, error);
                return Err(error.into());
            }
            if let Some(epoch) = ring.false_back_link() {
                self.refuse_key(epoch, KeyRingError::Commitment);
            }
        }
        // Before the keys, which open what comes after it.
        self.begin_at(verified, origin_of(&state, &self.me))?;
        if let Some(epoch) = ring.false_back_link() {
            self.note_false_link(epoch);
        }
        self.replica.store_keyring(&ring.to_bytes())?;
        verified.ring = ring;
        verified.searched = Some(state.epoch());
        Ok(())
    }

    /// Verifies what follows the verified state to the end of the log, without applying it; `ahead` is the beginning of it.
    /// Calls `see` with each entry and the state before it; returns the state at the end.
    pub(super) async fn walk_ahead(
        &self,
        verified: &Verified,
        ahead: &[SignedEntry],
        mut see: impl FnMut(&Advanced, &FolderState),
    ) -> Result<FolderState, SyncError> {
        let (mut state, mut heads) = (verified.state.clone(), Vec::<Head>::new());
        let mut page = ahead.to_vec();
        loop {
            self.accounts.prepare(&page).await?;
            for entry in &page {
                let chains = Chains { replica: &self.replica, recent: &heads };
                let caught = super::verify::judged;
                let advanced = state.check(entry, &*self.accounts, &chains).map_err(caught)?;
                see(&advanced, &state);
                state.commit(&advanced);
                heads.push(advanced.head());
            }
            let after = state.head().seq;
            let next = self.remote.entries(self.id(), after, PAGE_BYTES).await?;
            if next.entries.is_empty() {
                return Ok(state);
            }
            page = next.entries;
        }
    }

    /// Notes where this member's history begins, unless it has begun.
    pub(super) fn begin_at(&self, verified: &mut Verified, origin: Option<(u32, u64)>) -> Result<(), SyncError> {
        let known = verified.origin.map(|origin| (origin.epoch, origin.seq));
        if known != origin && !verified.origin.is_some_and(|origin| origin.complete) {
            self.replica.set_origin(origin)?;
            verified.origin = self.replica.origin()?;
        }
        Ok(())
    }

    /// Tells of a false key, once for each epoch.
    fn refuse_key(&self, epoch: u32, error: KeyRingError) {
        if self.refused_keys.lock().insert(epoch) {
            self.hub.tell(&Event::FalseKey { db: self.id(), epoch, reason: error.to_string() });
        }
    }

    /// The own box that the log promises.
    async fn fetch_box(&self, promise: &Promise) -> Result<KeyBox, SyncError> {
        let answer = self.remote.member_box(self.id(), promise.seq).await?;
        let leaf = box_leaf(&answer.key_box);
        let committed = match promise.leaf {
            Some(promised) => promised == leaf,
            None => {
                let proof: Vec<[u8; 32]> = answer.proof.iter().map(|digest| **digest).collect();
                let (index, count) = (u64::from(answer.index), u64::from(promise.start.boxes));
                merkle::verify(&promise.start.boxes_root, &leaf, index, count, &proof)
            }
        };
        if committed && answer.key_box.account == self.me {
            Ok(answer.key_box)
        } else {
            Err(SyncError::Misbehaviour("the server sent a key box that the folder's log does not contain".to_owned()))
        }
    }
}

/// What the log promises with a membership entry that brings a key. `state` is the one before it.
fn promise(seq: u64, body: &Membership, state: &FolderState) -> Option<Promise> {
    if let Some(start) = &body.new_epoch {
        return Some(Promise { seq, start: start.clone(), leaf: None, since: None });
    }
    let (grant, since) = match &body.change {
        MembershipChange::Add { grant: Some(grant), .. } | MembershipChange::Redeem { grant: Some(grant), .. } => {
            (grant, None)
        }
        MembershipChange::AddSince { grant, first, epochs, .. } => (grant, Some((*first, epochs.clone()))),
        _ => return None,
    };
    let epoch = state.epochs().last().filter(|epoch| epoch.start.epoch == grant.epoch)?;
    Some(Promise { seq, start: epoch.start.clone(), leaf: Some(grant.leaf), since })
}

/// The first epoch that `me` may read, where that is not the first of all, and where it began.
pub(super) fn origin_of(state: &FolderState, me: &AccountId) -> Option<(u32, u64)> {
    let since = state.members().get(me)?.since?;
    Some((since, state.began(since)?))
}
