//! Membership entries: who is in a folder, in which role, under which epoch. Readable by the server.

use minicbor::{Decode, Encode};

use super::limits::{BOX_MAX_BYTES, MEMBERS_MAX};
use super::{AccountId, FormatError, Head, InviteKey, RetentionRule, check_suite, decode};

/// What a member may do. Ordered: a higher role may do all that a lower one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    /// Reads; for a while.
    #[n(0)]
    GuestViewer,
    /// Reads and writes; for a while.
    #[n(1)]
    GuestEditor,
    /// Reads.
    #[n(2)]
    Viewer,
    /// Reads and writes.
    #[n(3)]
    Editor,
    /// Also adds and removes members below admin, and rotates.
    #[n(4)]
    Admin,
    /// Also names admins and owners.
    #[n(5)]
    Owner,
}

impl Role {
    /// May sign batches.
    pub fn writes(self) -> bool {
        matches!(self, Self::GuestEditor | Self::Editor | Self::Admin | Self::Owner)
    }

    /// May give and take the role `target`: an owner every one, an admin those below admin.
    pub fn manages(self, target: Self) -> bool {
        match self {
            Self::Owner => true,
            Self::Admin => target < Self::Admin,
            _ => false,
        }
    }

    /// May sign membership changes of members below itself, and holds full history.
    pub fn administers(self) -> bool {
        matches!(self, Self::Admin | Self::Owner)
    }
}

/// One membership entry's body.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Membership {
    /// The change.
    #[n(0)]
    pub change: MembershipChange,
    /// Set when the change starts a new epoch (always for `Create`, `Rotate` and the removal of somebody else).
    #[n(1)]
    pub new_epoch: Option<NewEpoch>,
}

/// A change of membership.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MembershipChange {
    /// First entry of a log: its author becomes the owner.
    #[n(0)]
    Create,
    /// A new member.
    #[n(1)]
    Add {
        /// Who.
        #[n(0)]
        account: AccountId,
        /// Head of the newcomer's account log that the author verified.
        #[n(1)]
        account_head: Head,
        /// As what.
        #[n(2)]
        role: Role,
        /// Guests: end of membership, milliseconds since 1970 UTC.
        #[n(3)]
        expires_ms: Option<i64>,
        /// The newcomer's box for the current epoch, when the entry starts no new one.
        #[n(4)]
        grant: Option<BoxGrant>,
    },
    /// A member no more. With a new epoch, unless the author leaves: then those who stay rotate.
    #[n(2)]
    Remove {
        /// Who.
        #[n(0)]
        account: AccountId,
    },
    /// Another role.
    #[n(3)]
    SetRole {
        /// Who.
        #[n(0)]
        account: AccountId,
        /// As what.
        #[n(1)]
        role: Role,
        /// Guests: end of membership, milliseconds since 1970 UTC.
        #[n(2)]
        expires_ms: Option<i64>,
    },
    /// A new epoch and nothing else.
    #[n(4)]
    Rotate,
    /// The author's account log has moved on: entries of devices revoked there count no more from here.
    #[n(5)]
    AccountSync {
        /// Whose log.
        #[n(0)]
        account: AccountId,
        /// Its new head.
        #[n(1)]
        head: Head,
    },
    /// A new member who may read from the beginning of an earlier epoch on.
    #[n(6)]
    AddSince {
        /// Who.
        #[n(0)]
        account: AccountId,
        /// Head of the newcomer's account log that the author verified.
        #[n(1)]
        account_head: Head,
        /// As what.
        #[n(2)]
        role: Role,
        /// The first epoch granted.
        #[n(3)]
        first: u32,
        /// The newcomer's box for the current epoch: its content secret and the key of `epochs`.
        #[n(4)]
        grant: BoxGrant,
        /// The content secrets of the epochs from `first` to before the current one, sealed; empty where there are none.
        #[cbor(n(5), with = "minicbor::bytes")]
        epochs: Vec<u8>,
    },
    /// Whoever holds the private half of `key` may become a member, once (suite 2).
    #[n(7)]
    Invite {
        /// Public key that follows from the secret in the link.
        #[n(0)]
        key: InviteKey,
        /// As what.
        #[n(1)]
        role: Role,
        /// Until when, milliseconds since 1970 UTC.
        #[n(2)]
        ends_ms: i64,
        /// Guests: end of membership, milliseconds since 1970 UTC.
        #[n(3)]
        expires_ms: Option<i64>,
    },
    /// The invite opens nothing any more (suite 2).
    #[n(8)]
    CancelInvite {
        /// Which.
        #[n(0)]
        key: InviteKey,
    },
    /// A new member, who has proven to hold an invite; the invite is used up (suite 2). Role and expiry are those of the
    /// invite.
    #[n(9)]
    Redeem {
        /// Which invite.
        #[n(0)]
        key: InviteKey,
        /// Who.
        #[n(1)]
        account: AccountId,
        /// Head of the newcomer's account log that the newcomer signed and the author verified.
        #[n(2)]
        account_head: Head,
        /// Signature by `key` over folder, account and head ([`Redemption`]).
        #[cbor(n(3), with = "minicbor::bytes")]
        proof: [u8; 64],
        /// The newcomer's box for the current epoch, when the entry starts no new one.
        #[n(4)]
        grant: Option<BoxGrant>,
    },
    /// For how long the folder's past is kept, from now on (suite 2).
    #[n(12)]
    Retention {
        /// The rule; the newest counts.
        #[n(0)]
        rule: RetentionRule,
    },
}

/// What the holder of an invite signs with the invite's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Redemption {
    /// The folder.
    #[n(0)]
    pub db: super::DbId,
    /// The invite.
    #[n(1)]
    pub key: InviteKey,
    /// Who wants to be a member.
    #[n(2)]
    pub account: AccountId,
    /// Head of the account's log.
    #[n(3)]
    pub account_head: Head,
}

impl MembershipChange {
    /// The suite that introduced it.
    pub fn since(&self) -> u16 {
        match self {
            Self::Create
            | Self::Add { .. }
            | Self::Remove { .. }
            | Self::SetRole { .. }
            | Self::Rotate
            | Self::AccountSync { .. } => 1,
            Self::AddSince { .. }
            | Self::Invite { .. }
            | Self::CancelInvite { .. }
            | Self::Redeem { .. }
            | Self::Retention { .. } => 2,
        }
    }
}

/// The start of an epoch (DESIGN §3).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct NewEpoch {
    /// Its number: 0 for the first, then one more each.
    #[n(0)]
    pub epoch: u32,
    /// Commitment to the content secret `s_e`.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub content_commitment: [u8; 32],
    /// Commitment to the history secret `h_e`.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub history_commitment: [u8; 32],
    /// Merkle root over the leaf hashes of the boxes, one per member, in ascending order of account id.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub boxes_root: [u8; 32],
    /// Number of boxes.
    #[n(4)]
    pub boxes: u32,
    /// `s_{e-1} ‖ h_{e-1}` sealed under a key derived from `h_e`; absent in epoch 0.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub back_link: Option<Vec<u8>>,
}

/// The box that an `Add` without a new epoch brings for the newcomer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct BoxGrant {
    /// The epoch whose secrets it holds: the current one.
    #[n(0)]
    pub epoch: u32,
    /// Leaf hash of the box.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub leaf: [u8; 32],
}

/// A member's box as it travels beside the entry that commits to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KeyBox {
    /// Whose.
    #[n(0)]
    pub account: AccountId,
    /// Generation of the user key that opens it.
    #[n(1)]
    pub generation: u32,
    /// HPKE box of `s_e` or `s_e ‖ h_e`, at most [`BOX_MAX_BYTES`].
    #[cbor(n(2), with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
}

impl Membership {
    /// Decodes canonical bytes within the limits, from an entry of `suite`.
    pub fn decode(bytes: &[u8], suite: u16) -> Result<Self, FormatError> {
        let body: Self = decode(bytes)?;
        check_suite(suite, body.change.since())?;
        if let Some(epoch) = &body.new_epoch
            && (epoch.boxes as usize > MEMBERS_MAX
                || epoch.back_link.as_ref().is_some_and(|link| link.len() > BOX_MAX_BYTES))
        {
            return Err(FormatError::OutOfBounds("epoch"));
        }
        if let MembershipChange::Retention { rule } = &body.change {
            rule.check()?;
        }
        Ok(body)
    }
}
