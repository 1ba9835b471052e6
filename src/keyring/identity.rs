//! Everything secret that an installation keeps: what the keystore wraps.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::boxes::KemSecret;
use crate::crypto::sign::SigningKey;
use crate::crypto::words::Phrase;
use crate::crypto::{Key, kdf, labels};
use crate::format::{AccountId, DeviceId, DeviceKeys, FormatError};

use super::hashes::device_id;
use super::wiped::{decode, encode};

/// A device's two secret keys, as seeds.
pub struct DeviceSecrets {
    sign: Key,
    kem: Key,
}

impl DeviceSecrets {
    /// A fresh device.
    pub fn random() -> Self {
        Self { sign: Key::random(), kem: Key::random() }
    }

    /// The device that a recovery phrase is.
    pub fn from_phrase(phrase: &Phrase) -> Self {
        let derive = |label| kdf::derive(label, &[phrase.as_bytes()]);
        Self { sign: derive(labels::KEY_RECOVERY_SIGN), kem: derive(labels::KEY_RECOVERY_KEM) }
    }

    /// From the seeds of the two keys.
    pub fn from_seeds(sign: Key, kem: Key) -> Self {
        Self { sign, kem }
    }

    /// The signing key.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(self.sign.as_bytes())
    }

    /// The key that opens boxes to this device.
    pub fn kem_secret(&self) -> KemSecret {
        KemSecret::from_seed(self.kem.as_bytes())
    }

    /// The public keys under a display name.
    pub fn public(&self, name: &str) -> DeviceKeys {
        let kem = self.kem_secret().public().as_bytes().to_vec();
        DeviceKeys { sign: self.signing_key().verifying_key().0, kem, name: name.to_owned() }
    }

    /// The device's id.
    pub fn id(&self) -> DeviceId {
        device_id(&self.public(""))
    }
}

/// The seed of one generation of the user key.
pub struct UserKeySeed(Key);

impl UserKeySeed {
    /// A fresh one.
    pub fn random() -> Self {
        Self(Key::random())
    }

    /// From 32 secret bytes.
    pub fn from_key(seed: Key) -> Self {
        Self(seed)
    }

    /// The bytes, for sealing.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The X-Wing key that folders are boxed to.
    pub fn kem_secret(&self) -> KemSecret {
        KemSecret::from_seed(kdf::derive(labels::KEY_USER_KEM, &[self.0.as_bytes()]).as_bytes())
    }
}

/// One installation of one account.
pub struct Identity {
    /// The account.
    pub account: AccountId,
    /// This device's keys.
    pub device: DeviceSecrets,
    /// Seeds of the user key by generation.
    pub user_keys: BTreeMap<u32, UserKeySeed>,
    /// Root of the keys of the local databases.
    pub local: Key,
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Layout {
    #[n(0)]
    version: u8,
    #[n(1)]
    account: AccountId,
    #[cbor(n(2), with = "minicbor::bytes")]
    sign: [u8; 32],
    #[cbor(n(3), with = "minicbor::bytes")]
    kem: [u8; 32],
    #[n(4)]
    user_keys: Vec<Seed>,
    #[cbor(n(5), with = "minicbor::bytes")]
    local: [u8; 32],
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Seed {
    #[n(0)]
    generation: u32,
    #[cbor(n(1), with = "minicbor::bytes")]
    seed: [u8; 32],
}

impl Drop for Layout {
    fn drop(&mut self) {
        self.sign.zeroize();
        self.kem.zeroize();
        self.local.zeroize();
        self.user_keys.iter_mut().for_each(|seed| seed.seed.zeroize());
    }
}

impl Identity {
    /// Layout version of [`Self::to_bytes`].
    const VERSION: u8 = 1;

    /// This device's id.
    pub fn device_id(&self) -> DeviceId {
        self.device.id()
    }

    /// Canonical bytes, to be wrapped at once.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let user_keys =
            self.user_keys.iter().map(|(&generation, seed)| Seed { generation, seed: *seed.as_bytes() }).collect();
        let layout = Layout {
            version: Self::VERSION,
            account: self.account,
            sign: *self.device.sign.as_bytes(),
            kem: *self.device.kem.as_bytes(),
            user_keys,
            local: *self.local.as_bytes(),
        };
        encode(&layout)
    }

    /// The inverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let layout: Layout = decode(bytes)?;
        if layout.version != Self::VERSION {
            return Err(FormatError::UnknownSuite(u16::from(layout.version)));
        }
        let seeds = layout.user_keys.iter();
        let user_keys = seeds.map(|seed| (seed.generation, UserKeySeed(Key::from_bytes(seed.seed)))).collect();
        let device = DeviceSecrets::from_seeds(Key::from_bytes(layout.sign), Key::from_bytes(layout.kem));
        Ok(Self { account: layout.account, device, user_keys, local: Key::from_bytes(layout.local) })
    }
}
