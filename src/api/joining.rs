//! Joining: a new device by way of a mailbox, a new account by an admission, a new member by an invite, and the proof
//! that a device was revoked.

use std::fmt;

use minicbor::{Decode, Encode};

use super::LoginRequest;
use crate::format::{DbId, InviteKey, Redemption};

/// What lies in one side of a mailbox: sealed by one device for another. The server keeps it for
/// [`super::limits::MAILBOX_MS`] in memory; each side is written once.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Letter {
    /// Sealed bytes.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
}

impl fmt::Debug for Letter {
    /// Its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter").field("bytes", &self.sealed.len()).finish()
    }
}

/// A side of a mailbox, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// What the new device asks.
    Request,
    /// What a device of an account offers it.
    Offer,
    /// What the new device had committed to in its request.
    Reveal,
    /// What the new device's user has found comparing both.
    Verdict,
    /// What the device of the account makes of it.
    Answer,
}

impl Side {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Request, Self::Offer, Self::Reveal, Self::Verdict, Self::Answer];

    /// Written by the new device, so without a login, since there is no account yet.
    pub fn is_new_devices(self) -> bool {
        matches!(self, Self::Request | Self::Reveal | Self::Verdict)
    }

    /// Its name in a path.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Offer => "offer",
            Self::Reveal => "reveal",
            Self::Verdict => "verdict",
            Self::Answer => "answer",
        }
    }

    /// The side with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|side| side.name() == name)
    }
}

/// An admin of a folder admits one more account to the server, for as long as an invite lasts; closing the invite ends
/// it. The same again succeeds.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Admit {
    /// Hash of the admission code, as [`super::Register`] will bring it; the code itself stays with the caller.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub hash: [u8; 32],
    /// Until when, milliseconds since 1970 UTC; the server may end it earlier.
    #[n(1)]
    pub ends_ms: i64,
    /// The folder.
    #[n(2)]
    pub db: DbId,
    /// The invite.
    #[n(3)]
    pub key: InviteKey,
}

impl fmt::Debug for Admit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admit").field("ends_ms", &self.ends_ms).finish_non_exhaustive()
    }
}

/// Answer to [`Admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Admitted {
    /// Until when the code can be used, milliseconds since 1970 UTC.
    #[n(0)]
    pub ends_ms: i64,
}

/// Somebody proves to hold an invite and waits for the client of an admin to add the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Redeem {
    /// What the invite's holder signed.
    #[n(0)]
    pub redemption: Redemption,
    /// Signature by the invite's key over the canonical bytes of `redemption`.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub proof: [u8; 64],
}

/// Answer to [`Redeem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Redeeming {
    /// It is done: the account is a member.
    #[n(0)]
    pub member: bool,
}

/// The redemptions of a folder that wait, for who administers it. The server may have made them up: the proof decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Redemptions {
    /// At most one for each open invite.
    #[n(0)]
    pub waiting: Vec<Redeem>,
}

/// A device that may not log in any more asks why: it proves itself as for a login, and is shown the account's log up to
/// its revocation. Answered by [`super::AccountEntries`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RevocationRequest {
    /// The answered challenge.
    #[n(0)]
    pub login: LoginRequest,
    /// The sequence number before the first wanted entry.
    #[n(1)]
    pub after: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{AccountId, Head, decode, encode};

    #[test]
    fn every_body_comes_back_from_its_bytes_and_shows_nothing_secret() {
        let letter = Letter { sealed: vec![1, 2, 3] };
        assert_eq!(decode::<Letter>(&encode(&letter)).unwrap(), letter);
        assert_eq!(format!("{letter:?}"), "Letter { bytes: 3 }");
        let admit = Admit { hash: [0xab; 32], ends_ms: 5, db: DbId([1; 32]), key: InviteKey([2; 32]) };
        assert_eq!(decode::<Admit>(&encode(&admit)).unwrap(), admit);
        assert!(!format!("{admit:?}").contains("171"), "{admit:?}");
        let redemption = Redemption {
            db: DbId([1; 32]),
            key: InviteKey([2; 32]),
            account: AccountId([3; 32]),
            account_head: Head::EMPTY,
        };
        let waiting = Redemptions { waiting: vec![Redeem { redemption, proof: [4; 64] }] };
        assert_eq!(decode::<Redemptions>(&encode(&waiting)).unwrap(), waiting);
        assert!(Side::ALL.iter().all(|side| Side::named(side.name()) == Some(*side)));
        assert_eq!(Side::named("Request"), None);
    }
}
