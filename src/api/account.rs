//! Accounts: registration, their logs, and the login of a device.

use std::fmt;

use minicbor::{Decode, Encode};

use crate::format::{AccountId, DeviceId, Head, SignedAccountEntry, encode};

/// Makes an account known to the server. The same `first` again succeeds and spends no invite.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Register {
    /// Admission code, as the server's operator handed it out. Secret.
    #[n(0)]
    pub invite: String,
    /// First entry of the account's log; its hash is the account's id.
    #[n(1)]
    pub first: SignedAccountEntry,
}

impl fmt::Debug for Register {
    /// Without the invite.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register").field("first", &self.first).finish_non_exhaustive()
    }
}

/// Answer to [`Register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Registered {
    /// The account that the server now knows.
    #[n(0)]
    pub account: AccountId,
}

/// A part of an account's log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AccountEntries {
    /// Entries from the one after the wanted sequence number, ascending, without gaps; possibly not all there are
    /// ([`super::limits::ACCOUNT_ENTRIES_MAX`]).
    #[n(0)]
    pub entries: Vec<SignedAccountEntry>,
    /// Head of the whole log.
    #[n(1)]
    pub head: Head,
}

/// One more entry of the caller's account log. Answered by [`super::Appended`]; the same bytes again give the same
/// sequence number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AppendAccountEntry {
    /// The entry.
    #[n(0)]
    pub entry: SignedAccountEntry,
}

/// Asks for a challenge. Answered for unknown accounts and devices too, so that it does not tell who has an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ChallengeRequest {
    /// Who wants to log in.
    #[n(0)]
    pub account: AccountId,
    /// With which device.
    #[n(1)]
    pub device: DeviceId,
}

/// A challenge: good for one login within [`super::limits::CHALLENGE_MS`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Challenge {
    /// Random bytes.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub challenge: [u8; 32],
    /// The name that the server gives itself. The device must compare it with the name it knows the server by before
    /// it signs: that is what stops a relay (THREATS row 36).
    #[n(1)]
    pub server_name: String,
}

/// What a device signs to log in, under the domain tag of logins: the canonical encoding, so that no two sets of
/// values have the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LoginStatement {
    /// As in [`Challenge`].
    #[n(0)]
    pub server_name: String,
    /// As in [`Challenge`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub challenge: [u8; 32],
    /// Who logs in.
    #[n(2)]
    pub account: AccountId,
    /// With which device.
    #[n(3)]
    pub device: DeviceId,
}

impl LoginStatement {
    /// The bytes under the signature.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }
}

/// The answer to a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LoginRequest {
    /// Who.
    #[n(0)]
    pub account: AccountId,
    /// With which device.
    #[n(1)]
    pub device: DeviceId,
    /// The challenge that is answered.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub challenge: [u8; 32],
    /// The device's Ed25519 signature over [`LoginStatement::to_bytes`].
    #[cbor(n(3), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

/// What a device shows with every further request, as `Authorization: Bearer …`. Secret.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Token {
    /// 64 hexadecimal characters.
    #[n(0)]
    pub token: String,
    /// When it ends by the server's clock, milliseconds since 1970 UTC.
    #[n(1)]
    pub expires_ms: i64,
}

impl fmt::Debug for Token {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let first = SignedAccountEntry { entry: vec![1], signature: [0; 64] };
        let shown = format!("{:?}", Register { invite: "planted-secret".into(), first });
        assert!(!shown.contains("planted"), "{shown}");
        let shown = format!("{:?}", Token { token: "planted-secret".into(), expires_ms: 5 });
        assert!(!shown.contains("planted") && shown.contains('5'), "{shown}");
    }

    #[test]
    fn login_statements_that_differ_have_different_bytes() {
        let one = LoginStatement {
            server_name: "a".into(),
            challenge: [1; 32],
            account: AccountId([2; 32]),
            device: DeviceId([3; 32]),
        };
        for other in [
            LoginStatement { server_name: "b".into(), ..one.clone() },
            LoginStatement { challenge: [9; 32], ..one.clone() },
            LoginStatement { account: AccountId([9; 32]), ..one.clone() },
            LoginStatement { device: DeviceId([9; 32]), ..one.clone() },
        ] {
            assert_ne!(one.to_bytes(), other.to_bytes());
        }
    }
}
