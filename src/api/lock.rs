//! Locks on files among the devices of a folder's members: leases that the server hands out.
//!
//! The server knows a locked file by a [`LockToken`] and by a sealed note, and tells who may hold what. Locks are
//! advisory: nothing that is stored depends on them, so a server that lies about them can deny a lock or grant it twice,
//! and do no other harm. `docs/FORMAT.md` has the rules, `docs/decisions/` the reasons.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::format::{AccountId, DbId, DeviceId, FormatError, LockSet, LockSpan, LockToken};

/// Name of the event that carries a [`LockEvent`].
pub const EVENT_LOCK: &str = "lock";

/// Something changed about a locked file that the device has or wants: it should ask again, or give back what it was
/// lent. Events may be lost; whoever waits asks again on its own after a third of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockEvent {
    /// The folder.
    pub db: DbId,
    /// The file.
    pub token: LockToken,
}

impl fmt::Display for LockEvent {
    /// The event's data: the two ids with one space between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.db, self.token)
    }
}

impl FromStr for LockEvent {
    type Err = FormatError;

    fn from_str(data: &str) -> Result<Self, FormatError> {
        let (db, token) = data.split_once(' ').ok_or_else(|| FormatError::Malformed("lock event".to_owned()))?;
        Ok(Self { db: db.parse()?, token: token.parse()? })
    }
}

/// A call about locks in one folder.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LockCall {
    /// Chosen at random by the device for each [`LockAsk::Begin`]. Calls of an earlier session change nothing any more,
    /// however late they arrive.
    #[n(0)]
    pub session: u64,
    /// The epoch whose secret the tokens are derived from; it must be the folder's current one.
    #[n(1)]
    pub epoch: u32,
    /// What is asked.
    #[n(2)]
    pub ask: LockAsk,
}

/// What is asked. Everything but [`LockAsk::List`] renews the device's lease.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LockAsk {
    /// Starts a session: the device holds these, and nothing else. After a restart of the server, or in a new epoch, this
    /// is how locks are carried over.
    #[n(0)]
    Begin(#[n(0)] Vec<LockedFile>),
    /// The device holds this of one file from now on, which is no more than before, and wants more.
    #[n(1)]
    Set(#[n(0)] LockedFile, #[n(1)] Vec<LockWant>),
    /// Everything is as it was.
    #[n(2)]
    Renew,
    /// The device holds nothing any more.
    #[n(3)]
    End,
    /// Who holds what?
    #[n(4)]
    List,
}

/// A file of which a device holds something.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LockedFile {
    /// The file, as the server knows it.
    #[n(0)]
    pub token: LockToken,
    /// The file, sealed for members.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub note: Vec<u8>,
    /// What is locked.
    #[n(2)]
    pub held: LockSet,
}

/// A span that a device wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LockWant {
    /// The span.
    #[n(0)]
    pub span: LockSpan,
    /// To be queued for it where somebody else has it.
    #[n(1)]
    pub wait: bool,
}

/// The answer to a [`LockCall`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LockAnswer {
    /// How long what the device holds is kept for it without another call, milliseconds.
    #[n(0)]
    pub lease_ms: u32,
    /// Sequence number of the folder's newest entry. Who was granted a lock has seen what its former holder did once
    /// everything up to here is applied.
    #[n(1)]
    pub head_seq: u64,
    /// The result.
    #[n(2)]
    pub result: LockResult,
}

/// What became of a [`LockAsk`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LockResult {
    /// Of `Begin`: the session stands. Of these files somebody else holds something by now.
    #[n(0)]
    Begun(#[n(0)] Vec<LockToken>),
    /// Of `Set`.
    #[n(1)]
    Set(#[n(0)] LockGrant),
    /// Of `Renew` and `End`.
    #[n(2)]
    Done,
    /// There is no such session any more: begin anew.
    #[n(3)]
    Stale,
    /// Of `List`.
    #[n(4)]
    List(#[n(0)] Vec<LockHolder>),
}

/// What a device holds of a file after a `Set`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LockGrant {
    /// Nobody else has or wants anything of the file, and the device may take and release all of it without asking, until
    /// it is told that somebody else wants it.
    #[n(0)]
    pub lent: bool,
    /// Somebody else waits for what the device holds.
    #[n(1)]
    pub contended: bool,
    /// For each wish, in order.
    #[n(2)]
    pub wants: Vec<WantResult>,
}

/// What became of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum WantResult {
    /// The device holds it.
    #[n(0)]
    Granted,
    /// Another device has a conflicting lock, or has waited longer for one. Queued, where that was asked.
    #[n(1)]
    Taken(#[n(0)] AccountId, #[n(1)] DeviceId),
    /// Not known yet: somebody is asked to give the file back, or may still carry a lock over. Queued in any case.
    #[n(2)]
    Later,
}

/// A device that holds or wants something of a file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LockHolder {
    /// Whose.
    #[n(0)]
    pub account: AccountId,
    /// Which device.
    #[n(1)]
    pub device: DeviceId,
    /// The file and what is locked of it; of a lent file what is locked is not known to the server.
    #[n(2)]
    pub file: LockedFile,
    /// The file is lent to the device.
    #[n(3)]
    pub lent: bool,
    /// What it waits for.
    #[n(4)]
    pub wants: Vec<LockSpan>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{LockSpace, decode, encode};

    #[test]
    fn every_call_and_answer_comes_back_from_its_bytes() {
        let span = LockSpan { space: LockSpace::Posix, start: 5, end: 9, exclusive: true };
        let file = LockedFile { token: LockToken([1; 16]), note: vec![2; 50], held: [span].into_iter().collect() };
        for ask in [
            LockAsk::Begin(vec![file.clone(), file.clone()]),
            LockAsk::Set(file.clone(), vec![LockWant { span, wait: true }]),
            LockAsk::Renew,
            LockAsk::End,
            LockAsk::List,
        ] {
            let call = LockCall { session: u64::MAX, epoch: 3, ask };
            assert_eq!(decode::<LockCall>(&encode(&call)).unwrap(), call);
        }
        let (account, device) = (AccountId([3; 32]), DeviceId([4; 32]));
        let wants = vec![WantResult::Granted, WantResult::Taken(account, device), WantResult::Later];
        for result in [
            LockResult::Begun(vec![LockToken([5; 16])]),
            LockResult::Set(LockGrant { lent: true, contended: false, wants }),
            LockResult::Done,
            LockResult::Stale,
            LockResult::List(vec![LockHolder { account, device, file, lent: false, wants: vec![span] }]),
        ] {
            let answer = LockAnswer { lease_ms: 10_000, head_seq: 7, result };
            assert_eq!(decode::<LockAnswer>(&encode(&answer)).unwrap(), answer);
        }
    }

    #[test]
    fn lock_events_come_back_from_their_text_and_others_are_refused() {
        let event = LockEvent { db: DbId([0xfe; 32]), token: LockToken([7; 16]) };
        assert_eq!(event.to_string().parse::<LockEvent>().unwrap(), event);
        for bad in ["", "x y", &event.db.to_string(), &format!("{event} 1"), &format!("{event}0")] {
            assert!(bad.parse::<LockEvent>().is_err(), "{bad}");
        }
    }
}
