//! Fixed-length identifiers. They carry no secret: all may be shown and logged.

use std::fmt;
use std::str::FromStr;

use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::{Encoder, Error as EncodeError, Write};

use super::FormatError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// All zero bytes: stands for "not known yet" where the layout says so.
            pub const ZERO: Self = Self([0; $len]);

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// From a slice of exactly [`Self::LEN`] bytes.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, FormatError> {
                bytes.try_into().map(Self).map_err(|_| FormatError::BadId(stringify!($name)))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:02x}{:02x}{:02x}{:02x}…)"), self.0[0], self.0[1], self.0[2], self.0[3])
            }
        }

        impl FromStr for $name {
            type Err = FormatError;

            /// Lower- or upper-case hexadecimal, exactly twice [`Self::LEN`] characters.
            fn from_str(text: &str) -> Result<Self, FormatError> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| FormatError::BadId(stringify!($name)))?;
                Ok(Self(bytes))
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
                let bytes = d.bytes()?;
                bytes.try_into().map(Self).map_err(|_| DecodeError::message("identifier of a wrong length"))
            }
        }
    };
}

id!(
    /// An account: the hash of the first entry of its account log.
    AccountId, 32
);
id!(
    /// A device: the hash of its two public keys.
    DeviceId, 32
);
id!(
    /// A keg db (one shared folder): the hash of the first entry of its log.
    DbId, 32
);
id!(
    /// A keg: 16 random bytes, chosen by its creator. The root directory is [`KegId::ROOT`].
    KegId, 16
);
id!(
    /// A blob: the BLAKE3 hash of its bytes.
    BlobId, 32
);
id!(
    /// The hash of one signed entry as it travels.
    EntryHash, 32
);
id!(
    /// The hash of a log up to and including one entry.
    ChainHash, 32
);

id!(
    /// Stands for a file towards the server when it is locked: derived from the file's id and a secret of the folder's
    /// epoch, so that it says nothing to who has no key.
    LockToken, 16
);

id!(
    /// An invite: the Ed25519 public key that follows from the secret in its link.
    InviteKey, 32
);

id!(
    /// A mailbox of the server, through which two devices that share a code find each other. Follows from the code.
    MailboxId, 32
);

impl KegId {
    /// The root directory of every folder.
    pub const ROOT: Self = Self::ZERO;
}

impl BlobId {
    /// Parses a path component; only the 64 lower-case characters that [`BlobId`] itself prints are accepted,
    /// so that one blob has one name.
    pub fn from_canonical(text: &str) -> Result<Self, FormatError> {
        let id: Self = text.parse()?;
        if id.to_string() == text { Ok(id) } else { Err(FormatError::BadId("BlobId")) }
    }
}
