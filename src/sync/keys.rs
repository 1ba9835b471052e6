//! Getting the folder's keys: finding the member's newest box in the log, fetching it, checking that the log commits
//! to it, opening it.
//!
//! A newcomer with full history meets sealed batches long before the entry that brought the own box. So the log is
//! walked ahead, verified but not applied, to its end; the newest box opens the current epoch and the back-links
//! lead from there to every earlier one.

use super::verify::{Chains, Verified, brings_key};
use super::{Folder, SyncError};
use crate::crypto::merkle;
use crate::format::{Head, MembershipChange, NewEpoch, SignedEntry};
use crate::keyring::{KeyRing, Misbehaviour, Verdict, box_leaf};

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
}

impl Folder {
    /// Completes the key ring from the log after the verified state, of which `ahead` is the beginning.
    pub(super) async fn obtain_keys(&self, verified: &mut Verified, ahead: &[SignedEntry]) -> Result<(), SyncError> {
        let (mut state, mut heads) = (verified.state.clone(), Vec::<Head>::new());
        let mut promise: Option<Promise> = None;
        let mut page = ahead.to_vec();
        loop {
            self.accounts.prepare(&page).await?;
            for entry in &page {
                let chains = Chains { replica: &self.replica, recent: &heads };
                let caught = |error: Misbehaviour| SyncError::Misbehaviour(error.to_string());
                let advanced = state.check(entry, &*self.accounts, &chains).map_err(caught)?;
                if let Verdict::Membership(body) = &advanced.verdict
                    && brings_key(&advanced.envelope.author, body, &state, &self.me, &verified.ring)
                {
                    promise = match (&body.new_epoch, &body.change) {
                        (Some(start), _) => Some(Promise { seq: advanced.seq, start: start.clone(), leaf: None }),
                        (None, MembershipChange::Add { grant: Some(grant), .. }) => {
                            state.epochs().last().filter(|epoch| epoch.start.epoch == grant.epoch).map(|epoch| {
                                Promise { seq: advanced.seq, start: epoch.start.clone(), leaf: Some(grant.leaf) }
                            })
                        }
                        _ => promise,
                    };
                }
                state.commit(&advanced);
                heads.push(advanced.head());
            }
            let after = state.head().seq;
            let next = self.remote.entries(self.id(), after, PAGE_BYTES).await?;
            if next.entries.is_empty() {
                break;
            }
            page = next.entries;
        }
        let promise = promise.ok_or_else(|| {
            SyncError::Damaged("the log has no key for this member; ask an admin to add you again".to_owned())
        })?;
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
        if !committed || answer.key_box.account != self.me {
            return Err(SyncError::Misbehaviour("it sent a key box that the folder's log does not contain".to_owned()));
        }
        let seed = self.user_key(answer.key_box.generation)?;
        let mut ring = KeyRing::from_bytes(&verified.ring.to_bytes())?;
        ring.open_box(&promise.start, &answer.key_box, &seed, state.epochs())?;
        self.replica.store_keyring(&ring.to_bytes())?;
        verified.ring = ring;
        Ok(())
    }
}
