//! The account log: which devices speak for a person, and to which key folders are boxed.

use minicbor::{Decode, Encode};

use super::limits::{BOX_MAX_BYTES, CONTACTS_MAX_BYTES, DEVICES_MAX, KEM_PUBLIC_BYTES, LABEL_MAX_BYTES};
use super::{AccountId, ChainHash, DeviceId, FormatError, check_suite, decode};

/// A device's public keys and its name.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct DeviceKeys {
    /// Ed25519 public key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub sign: [u8; 32],
    /// X-Wing public key, [`KEM_PUBLIC_BYTES`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub kem: Vec<u8>,
    /// Name for people, at most [`LABEL_MAX_BYTES`].
    #[n(2)]
    pub name: String,
}

/// The public half of one generation of the user key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct UserKeyPublic {
    /// 0 for the first, then one more at each rotation.
    #[n(0)]
    pub generation: u32,
    /// X-Wing public key derived from the generation's seed.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub kem: Vec<u8>,
    /// The seed, boxed to each device that may have it.
    #[n(2)]
    pub boxes: Vec<UserKeyBox>,
    /// The seed of the generation before, sealed under a key derived from this generation's seed, so that a device
    /// added later opens what was boxed to older generations too. Absent in generation 0.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub previous: Option<Vec<u8>>,
}

/// One device's box of a user key seed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct UserKeyBox {
    /// The device that can open it.
    #[n(0)]
    pub device: DeviceId,
    /// HPKE box of the 32-byte seed.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
}

/// One change of an account.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AccountChange {
    /// First entry: the account, its first device, generation 0 of the user key.
    #[n(0)]
    Create {
        /// Name for people, at most [`LABEL_MAX_BYTES`]. Chosen by the account, certified by nobody.
        #[n(0)]
        name: String,
        /// The first device; it signs this entry.
        #[n(1)]
        device: DeviceKeys,
        /// Generation 0.
        #[n(2)]
        user_key: UserKeyPublic,
    },
    /// An existing device vouches for a new one and boxes the current generation's seed to it.
    #[n(1)]
    AddDevice {
        /// The new device.
        #[n(0)]
        device: DeviceKeys,
        /// The current generation's seed, boxed to the new device.
        #[n(1)]
        seed_box: UserKeyBox,
    },
    /// A device is no longer trusted; the user key moves to a new generation boxed to the remaining devices.
    #[n(2)]
    RevokeDevice {
        /// The device.
        #[n(0)]
        device: DeviceId,
        /// The next generation.
        #[n(1)]
        user_key: UserKeyPublic,
    },
    /// Another name for a device of the account (suite 2).
    #[n(3)]
    RenameDevice {
        /// The device, which is valid.
        #[n(0)]
        device: DeviceId,
        /// Name for people, at most [`LABEL_MAX_BYTES`].
        #[n(1)]
        name: String,
    },
    /// A recovery phrase (suite 2): a device whose keys follow from words on paper. It speaks for the account in the
    /// account's own log only, and there does nothing but add a device.
    #[n(4)]
    AddRecovery {
        /// Its keys.
        #[n(0)]
        device: DeviceKeys,
        /// The current generation's seed, boxed to it.
        #[n(1)]
        seed_box: UserKeyBox,
    },
    /// What the account's devices tell each other of whom the user knows.
    #[n(6)]
    Contacts {
        /// The generation of the user key that it is sealed to: the current one.
        #[n(0)]
        generation: u32,
        /// A padded [`super::ContactBook`], at most [`CONTACTS_MAX_BYTES`].
        #[cbor(n(1), with = "minicbor::bytes")]
        sealed: Vec<u8>,
    },
}

impl AccountChange {
    /// The suite that introduced it.
    pub fn since(&self) -> u16 {
        match self {
            Self::Create { .. } | Self::AddDevice { .. } | Self::RevokeDevice { .. } => 1,
            Self::RenameDevice { .. } | Self::AddRecovery { .. } | Self::Contacts { .. } => 2,
        }
    }
}

/// What a device signs to change its account.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AccountEntry {
    /// Format suite, from [`super::limits::SUITE_OLDEST`] to [`super::limits::SUITE`].
    #[n(0)]
    pub suite: u16,
    /// The account; [`AccountId::ZERO`] in the first entry, whose hash becomes the id.
    #[n(1)]
    pub account: AccountId,
    /// Position, from 1.
    #[n(2)]
    pub seq: u64,
    /// Chain hash of the log before this entry, zero for the first.
    #[n(3)]
    pub previous: ChainHash,
    /// Signing device.
    #[n(4)]
    pub device: DeviceId,
    /// Creation time by the device's clock, milliseconds since 1970 UTC.
    #[n(5)]
    pub created_ms: i64,
    /// The change.
    #[n(6)]
    pub change: AccountChange,
}

impl AccountEntry {
    /// Decodes canonical bytes within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let entry: Self = decode(bytes)?;
        check_suite(entry.suite, entry.change.since())?;
        match &entry.change {
            AccountChange::Create { name, device, user_key } => {
                check_label(name)?;
                check_device(device)?;
                check_user_key(user_key)?;
            }
            AccountChange::AddDevice { device, seed_box } | AccountChange::AddRecovery { device, seed_box } => {
                check_device(device)?;
                check_box(seed_box)?;
            }
            AccountChange::RevokeDevice { user_key, .. } => check_user_key(user_key)?,
            AccountChange::Contacts { sealed, .. } => {
                if sealed.len() > CONTACTS_MAX_BYTES {
                    return Err(FormatError::OutOfBounds("contacts"));
                }
            }
            AccountChange::RenameDevice { name, .. } => check_label(name)?,
        }
        Ok(entry)
    }
}

/// Checks a name for people: 1 to [`LABEL_MAX_BYTES`] bytes without control characters and `/`.
///
/// # Errors
/// [`FormatError::OutOfBounds`].
pub fn check_label(label: &str) -> Result<(), FormatError> {
    let printable = !label.chars().any(char::is_control);
    if label.is_empty() || label.len() > LABEL_MAX_BYTES || !printable || label.contains('/') {
        return Err(FormatError::OutOfBounds("display name"));
    }
    Ok(())
}

fn check_device(device: &DeviceKeys) -> Result<(), FormatError> {
    check_label(&device.name)?;
    if device.kem.len() == KEM_PUBLIC_BYTES { Ok(()) } else { Err(FormatError::OutOfBounds("device key")) }
}

fn check_user_key(key: &UserKeyPublic) -> Result<(), FormatError> {
    let previous_ok = key.previous.as_ref().is_none_or(|sealed| sealed.len() <= BOX_MAX_BYTES);
    if key.kem.len() != KEM_PUBLIC_BYTES || key.boxes.is_empty() || key.boxes.len() > DEVICES_MAX || !previous_ok {
        return Err(FormatError::OutOfBounds("user key"));
    }
    key.boxes.iter().try_for_each(check_box)
}

fn check_box(sealed: &UserKeyBox) -> Result<(), FormatError> {
    if sealed.sealed.len() <= BOX_MAX_BYTES { Ok(()) } else { Err(FormatError::OutOfBounds("user key box")) }
}

/// An account entry as it travels: received bytes and the device's Ed25519 signature over domain tag and bytes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SignedAccountEntry {
    /// Canonical bytes of an [`AccountEntry`].
    #[cbor(n(0), with = "minicbor::bytes")]
    pub entry: Vec<u8>,
    /// Signature.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}
