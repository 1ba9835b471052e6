//! The account log: one person's devices and user key, each step signed by a device that the steps before made valid.

use std::collections::BTreeMap;

use crate::crypto::boxes::{self, KemPublic};
use crate::crypto::sign::{Signature, VerifyingKey};
use crate::crypto::{CryptoError, Key, aead, kdf, labels};
use crate::format::{
    AccountChange, AccountEntry, AccountId, ChainHash, DeviceId, DeviceKeys, FormatError, Head, SignedAccountEntry,
    UserKeyBox, UserKeyPublic, encode, limits,
};

use super::hashes::{account_entry_hash, chain, device_id};
use super::identity::{DeviceSecrets, UserKeySeed};

/// Why an account log is refused. Whoever served it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No entries.
    #[error("the account log is empty")]
    Empty,
    /// Not parseable, or out of bounds.
    #[error("the account log is malformed: {0}")]
    Format(#[from] FormatError),
    /// Not signed by a device that was valid at this point.
    #[error("the account log has an entry that no valid device of the account signed")]
    NotSigned,
    /// Not the continuation of the entries before.
    #[error("the account log is not one unbroken chain")]
    Broken,
    /// A change that makes no sense at its place.
    #[error("the account log has a change that is not allowed at its place")]
    NotAllowed,
    /// A public key that nobody can own.
    #[error("the account log has an unusable public key")]
    BadKey,
}

/// A device as its account's log describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Public keys and name.
    pub keys: DeviceKeys,
    /// Position of the entry that added it.
    pub added_seq: u64,
    /// Position of the entry that revoked it.
    pub revoked_seq: Option<u64>,
    /// Made of a recovery phrase: it adds a device to the account and does nothing else.
    pub recovery: bool,
    /// Earlier names, each with the position of the entry that ended it, oldest first.
    former_names: Vec<(u64, String)>,
}

impl Device {
    fn new(keys: DeviceKeys, added_seq: u64) -> Self {
        Self { keys, added_seq, revoked_seq: None, recovery: false, former_names: Vec::new() }
    }

    /// Its name when the log's head was at `seq`.
    pub fn name_at(&self, seq: u64) -> &str {
        let former = self.former_names.iter().find(|(until, _)| seq < *until);
        former.map_or(&self.keys.name, |(_, name)| name)
    }
}

/// A verified account log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountLog {
    id: AccountId,
    name: String,
    /// Suite of the newest entry; it never goes back.
    suite: u16,
    chains: Vec<ChainHash>,
    devices: BTreeMap<DeviceId, Device>,
    /// By generation. Those before the current one are kept without boxes, for their keys and links.
    user_keys: Vec<UserKeyPublic>,
}

impl AccountLog {
    /// A new account with its first device, and the entry that creates it.
    pub fn create(
        now_ms: i64,
        name: &str,
        device: &DeviceSecrets,
        device_name: &str,
        seed: &UserKeySeed,
    ) -> Result<(Self, SignedAccountEntry), AccountError> {
        let user_key = UserKeyPublic {
            generation: 0,
            kem: seed.kem_secret().public().as_bytes().to_vec(),
            boxes: vec![seed_box(&device.id(), &device.kem_secret().public(), 0, seed)],
            previous: None,
        };
        let entry = AccountEntry {
            suite: limits::SUITE,
            account: AccountId::ZERO,
            seq: 1,
            previous: ChainHash::ZERO,
            device: device.id(),
            created_ms: now_ms,
            change: AccountChange::Create { name: name.to_owned(), device: device.public(device_name), user_key },
        };
        let signed = sign(device, &entry);
        Ok((Self::verify(std::slice::from_ref(&signed))?, signed))
    }

    /// Verifies a whole log. The caller compares [`Self::id`] with the account it asked for.
    pub fn verify(entries: &[SignedAccountEntry]) -> Result<Self, AccountError> {
        let (first, rest) = entries.split_first().ok_or(AccountError::Empty)?;
        let mut log = Self::begin(first)?;
        rest.iter().try_for_each(|entry| log.extend(entry))?;
        Ok(log)
    }

    fn begin(signed: &SignedAccountEntry) -> Result<Self, AccountError> {
        let entry = AccountEntry::decode(&signed.entry)?;
        let AccountChange::Create { name, device, user_key } = entry.change else {
            return Err(AccountError::NotAllowed);
        };
        let start = entry.account == AccountId::ZERO && entry.seq == 1 && entry.previous == ChainHash::ZERO;
        if !start || entry.device != device_id(&device) || user_key.generation != 0 {
            return Err(AccountError::Broken);
        }
        check_signature(signed, &device)?;
        check_keys(&device)?;
        check_user_key(&user_key, &[entry.device])?;
        if user_key.previous.is_some() {
            return Err(AccountError::NotAllowed);
        }
        let hash = account_entry_hash(signed);
        let devices = BTreeMap::from([(entry.device, Device::new(device, 1))]);
        Ok(Self {
            id: AccountId(hash.0),
            name,
            suite: entry.suite,
            chains: vec![chain(ChainHash::ZERO, hash)],
            devices,
            user_keys: vec![user_key],
        })
    }

    /// Verifies one more entry and takes it in. On an error the log is unchanged.
    pub fn extend(&mut self, signed: &SignedAccountEntry) -> Result<(), AccountError> {
        let entry = AccountEntry::decode(&signed.entry)?;
        let head = self.head();
        if entry.account != self.id || entry.seq != head.seq + 1 || entry.previous != head.chain {
            return Err(AccountError::Broken);
        }
        if entry.suite < self.suite {
            return Err(AccountError::NotAllowed);
        }
        let signer = self
            .devices
            .get(&entry.device)
            .filter(|device| device.revoked_seq.is_none())
            .ok_or(AccountError::NotSigned)?;
        check_signature(signed, &signer.keys)?;
        // Words that somebody found open the account, by adding a device that everybody sees; they do nothing unseen.
        if signer.recovery && !matches!(entry.change, AccountChange::AddDevice { .. }) {
            return Err(AccountError::NotAllowed);
        }
        let recovery = matches!(entry.change, AccountChange::AddRecovery { .. });
        match entry.change {
            AccountChange::Create { .. } => return Err(AccountError::NotAllowed),
            AccountChange::AddDevice { device, seed_box } | AccountChange::AddRecovery { device, seed_box } => {
                check_keys(&device)?;
                let id = device_id(&device);
                let fresh = !self.devices.contains_key(&id) && self.devices.len() < limits::DEVICES_MAX;
                if !fresh || seed_box.device != id || !is_seed_box(&seed_box) {
                    return Err(AccountError::NotAllowed);
                }
                // Kept beside the boxes of the generation, where the new device looks for its own.
                if let Some(current) = self.user_keys.last_mut() {
                    current.boxes.push(seed_box);
                    current.boxes.sort_by_key(|sealed| sealed.device);
                }
                self.devices.insert(id, Device { recovery, ..Device::new(device, entry.seq) });
            }
            // To the current generation: a device that was revoked is told nothing.
            AccountChange::Contacts { generation, .. } => {
                if generation as usize + 1 != self.user_keys.len() {
                    return Err(AccountError::NotAllowed);
                }
            }
            AccountChange::RevokeDevice { device, user_key } => {
                let valid = |id: &DeviceId| self.devices.get(id).is_some_and(|device| device.revoked_seq.is_none());
                // No device revokes itself: it would choose, and know, the seed that is to shut it out.
                let by_another = device != entry.device;
                let next = user_key.generation as usize == self.user_keys.len();
                let linked = user_key.previous.as_ref().is_some_and(|link| link.len() == aead::OVERHEAD + 32);
                if !valid(&device) || !by_another || !next || !linked {
                    return Err(AccountError::NotAllowed);
                }
                let remaining: Vec<_> = self.devices.keys().filter(|id| valid(id) && **id != device).copied().collect();
                check_user_key(&user_key, &remaining)?;
                self.user_keys.iter_mut().for_each(|older| older.boxes.clear());
                self.user_keys.push(user_key);
                if let Some(device) = self.devices.get_mut(&device) {
                    device.revoked_seq = Some(entry.seq);
                }
            }
            AccountChange::RenameDevice { device, name } => {
                let device = self.devices.get_mut(&device).filter(|device| device.revoked_seq.is_none());
                let device = device.ok_or(AccountError::NotAllowed)?;
                let before = std::mem::replace(&mut device.keys.name, name);
                device.former_names.push((entry.seq, before));
            }
        }
        self.suite = entry.suite;
        self.chains.push(chain(head.chain, account_entry_hash(signed)));
        Ok(())
    }

    /// The account: the hash of the first entry.
    pub fn id(&self) -> AccountId {
        self.id
    }

    /// The display name that the account gave itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Newest position.
    pub fn head(&self) -> Head {
        Head { seq: self.chains.len() as u64, chain: self.chains.last().copied().unwrap_or(ChainHash::ZERO) }
    }

    /// `head` was the head of this log at some time.
    pub fn has_head(&self, head: Head) -> bool {
        self.head_at(head.seq) == Some(head)
    }

    /// The head of this log when it had `seq` entries.
    pub fn head_at(&self, seq: u64) -> Option<Head> {
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.chains.get(index).map(|chain| Head { seq, chain: *chain })
    }

    /// A device, revoked ones included.
    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.get(id)
    }

    /// All devices, revoked ones included.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceId, &Device)> {
        self.devices.iter()
    }

    /// The device was added and not yet revoked when the log's head was at `seq`.
    pub fn device_valid_at(&self, id: &DeviceId, seq: u64) -> bool {
        let valid = |device: &Device| device.added_seq <= seq && device.revoked_seq.is_none_or(|revoked| revoked > seq);
        self.devices.get(id).is_some_and(valid)
    }

    /// [`Self::device_valid_at`], and the device may sign entries of folders: a recovery phrase never does.
    pub fn may_write_at(&self, id: &DeviceId, seq: u64) -> bool {
        self.device_valid_at(id, seq) && self.devices.get(id).is_some_and(|device| !device.recovery)
    }

    /// A device was revoked by an entry after position `after`, up to `upto`.
    pub fn revokes_between(&self, after: u64, upto: u64) -> bool {
        self.devices.values().filter_map(|device| device.revoked_seq).any(|seq| after < seq && seq <= upto)
    }

    /// Generation and public key that folders are boxed to now.
    pub fn user_key(&self) -> Result<(u32, KemPublic), CryptoError> {
        let current = self.current_key()?;
        Ok((current.generation, KemPublic::from_bytes(&current.kem)?))
    }

    /// Hash of the keys that speak for the account now: its devices', and the user key that folders are boxed to. Says
    /// nothing of names, and not how it came to them.
    pub fn keys_hash(&self) -> [u8; 32] {
        let current = self.user_keys.last();
        let generation = current.map_or(0, |key| key.generation).to_be_bytes();
        let mut parts: Vec<&[u8]> = vec![self.id.as_bytes(), &generation];
        parts.extend(current.map(|key| key.kem.as_slice()));
        let valid = self.devices.iter().filter(|(_, device)| device.revoked_seq.is_none());
        parts.extend(valid.map(|(id, _)| id.as_bytes().as_slice()));
        kdf::hash(labels::HASH_ACCOUNT_KEYS, &parts)
    }

    /// `alice's laptop`: how messages call a device now.
    pub fn label(&self, device: &DeviceId) -> String {
        self.label_at(device, u64::MAX)
    }

    /// The same when the log's head was at `seq`: what an entry that names this head is labelled with, for everybody and
    /// for ever. Conflict names come from it.
    pub fn label_at(&self, device: &DeviceId, seq: u64) -> String {
        match self.devices.get(device) {
            Some(device) => format!("{}'s {}", self.name, device.name_at(seq)),
            None => self.name.clone(),
        }
    }

    fn current_key(&self) -> Result<&UserKeyPublic, CryptoError> {
        self.user_keys.last().ok_or(CryptoError::BadPublicKey)
    }

    /// Opens the current generation's seed with this device's key.
    pub fn open_seed(&self, device: &DeviceSecrets) -> Result<UserKeySeed, CryptoError> {
        let (id, current) = (device.id(), self.current_key()?);
        let sealed = current.boxes.iter().find(|sealed| sealed.device == id);
        let sealed = &sealed.ok_or(CryptoError::AuthenticationFailed)?.sealed;
        let seed = boxes::open(&device.kem_secret(), &seed_info(current.generation, &id), sealed)?;
        opened_seed(current, &seed)
    }

    /// Opens the seeds of all generations: the current one with this device's key, the others along the links.
    pub fn open_seeds(&self, device: &DeviceSecrets) -> Result<BTreeMap<u32, UserKeySeed>, CryptoError> {
        let mut seed = self.open_seed(device)?;
        let mut seeds = BTreeMap::new();
        let links = self.user_keys.iter().zip(self.user_keys.iter().skip(1));
        for (older, newer) in links.rev() {
            let link = newer.previous.as_ref().ok_or(CryptoError::Malformed("user key link"))?;
            let bytes = aead::open(&link_key(&seed), &newer.generation.to_be_bytes(), link)?;
            seeds.insert(newer.generation, std::mem::replace(&mut seed, opened_seed(older, &bytes)?));
        }
        seeds.insert(0, seed);
        Ok(seeds)
    }

    /// The entry by which `by`, a device of this account, adds another: it gets the current generation's `seed`.
    ///
    /// # Errors
    /// What [`Self::extend`] would say about the entry.
    pub fn add_device(
        &self,
        now_ms: i64,
        by: &DeviceSecrets,
        device: DeviceKeys,
        seed: &UserKeySeed,
    ) -> Result<SignedAccountEntry, AccountError> {
        let seed_box = self.seed_box_for(&device, seed)?;
        self.next(now_ms, by, AccountChange::AddDevice { device, seed_box })
    }

    /// The entry by which `by` makes a recovery phrase a device of this account.
    ///
    /// # Errors
    /// What [`Self::extend`] would say about the entry.
    pub fn add_recovery(
        &self,
        now_ms: i64,
        by: &DeviceSecrets,
        device: DeviceKeys,
        seed: &UserKeySeed,
    ) -> Result<SignedAccountEntry, AccountError> {
        let seed_box = self.seed_box_for(&device, seed)?;
        self.next(now_ms, by, AccountChange::AddRecovery { device, seed_box })
    }

    /// The entry by which `by` gives a device of this account another name.
    ///
    /// # Errors
    /// What [`Self::extend`] would say about the entry.
    pub fn rename_device(
        &self,
        now_ms: i64,
        by: &DeviceSecrets,
        device: DeviceId,
        name: String,
    ) -> Result<SignedAccountEntry, AccountError> {
        self.next(now_ms, by, AccountChange::RenameDevice { device, name })
    }

    fn seed_box_for(&self, device: &DeviceKeys, seed: &UserKeySeed) -> Result<UserKeyBox, AccountError> {
        let (generation, _) = self.user_key().map_err(|_| AccountError::BadKey)?;
        let key = KemPublic::from_bytes(&device.kem).map_err(|_| AccountError::BadKey)?;
        Ok(seed_box(&device_id(device), &key, generation, seed))
    }

    /// The entry by which `by` tells the account's other devices of contacts, sealed with
    /// [`seal_contacts`](super::seal_contacts) under the current generation.
    ///
    /// # Errors
    /// What [`Self::extend`] would say about the entry.
    pub fn tell_contacts(
        &self,
        now_ms: i64,
        by: &DeviceSecrets,
        generation: u32,
        sealed: Vec<u8>,
    ) -> Result<SignedAccountEntry, AccountError> {
        self.next(now_ms, by, AccountChange::Contacts { generation, sealed })
    }

    /// The entry by which `by` revokes another device of this account. The user key moves from the current seed to
    /// `next`, which the remaining devices get. Every folder is then to learn of it by an `AccountSync` entry.
    ///
    /// # Errors
    /// What [`Self::extend`] would say about the entry.
    pub fn revoke_device(
        &self,
        now_ms: i64,
        by: &DeviceSecrets,
        device: DeviceId,
        current: &UserKeySeed,
        next: &UserKeySeed,
    ) -> Result<SignedAccountEntry, AccountError> {
        let generation = self.user_keys.len() as u32;
        let remaining = self.devices.iter().filter(|(id, other)| **id != device && other.revoked_seq.is_none());
        let boxes = remaining.map(|(id, other)| {
            let key = KemPublic::from_bytes(&other.keys.kem).map_err(|_| AccountError::BadKey)?;
            Ok(seed_box(id, &key, generation, next))
        });
        let user_key = UserKeyPublic {
            generation,
            kem: next.kem_secret().public().as_bytes().to_vec(),
            boxes: boxes.collect::<Result<_, AccountError>>()?,
            previous: Some(aead::seal(&link_key(next), &generation.to_be_bytes(), current.as_bytes())),
        };
        self.next(now_ms, by, AccountChange::RevokeDevice { device, user_key })
    }

    fn next(&self, now_ms: i64, by: &DeviceSecrets, change: AccountChange) -> Result<SignedAccountEntry, AccountError> {
        let Head { seq, chain } = self.head();
        let entry = AccountEntry {
            suite: limits::SUITE,
            account: self.id,
            seq: seq + 1,
            previous: chain,
            device: by.id(),
            created_ms: now_ms,
            change,
        };
        let signed = sign(by, &entry);
        self.clone().extend(&signed)?;
        Ok(signed)
    }
}

fn sign(device: &DeviceSecrets, entry: &AccountEntry) -> SignedAccountEntry {
    let entry = encode(entry);
    let signature = device.signing_key().sign(labels::SIGN_ACCOUNT_ENTRY, &entry).0;
    SignedAccountEntry { entry, signature }
}

/// Seals a generation's seed to a device.
fn seed_box(device: &DeviceId, key: &KemPublic, generation: u32, seed: &UserKeySeed) -> UserKeyBox {
    UserKeyBox { device: *device, sealed: boxes::seal(key, &seed_info(generation, device), seed.as_bytes()) }
}

/// The log commits to the public key: another seed than the one that everybody boxes to is refused.
fn opened_seed(public: &UserKeyPublic, bytes: &[u8]) -> Result<UserKeySeed, CryptoError> {
    let seed = UserKeySeed::from_key(Key::from_slice(bytes).ok_or(CryptoError::Malformed("user key seed"))?);
    let right = seed.kem_secret().public().as_bytes().as_slice() == public.kem;
    if right { Ok(seed) } else { Err(CryptoError::AuthenticationFailed) }
}

/// The key under which a generation's seed seals the one before.
fn link_key(seed: &UserKeySeed) -> Key {
    kdf::derive(labels::KEY_USER_PREVIOUS, &[seed.as_bytes()])
}

/// What the box of a user key seed is bound to.
fn seed_info(generation: u32, device: &DeviceId) -> Vec<u8> {
    [b"user key seed".as_slice(), &generation.to_be_bytes(), device.as_bytes()].concat()
}

fn check_signature(signed: &SignedAccountEntry, device: &DeviceKeys) -> Result<(), AccountError> {
    let verified =
        VerifyingKey(device.sign).verify(labels::SIGN_ACCOUNT_ENTRY, &signed.entry, &Signature(signed.signature));
    verified.map_err(|_| AccountError::NotSigned)
}

fn check_keys(device: &DeviceKeys) -> Result<(), AccountError> {
    VerifyingKey(device.sign).validate().map_err(|_| AccountError::BadKey)?;
    KemPublic::from_bytes(&device.kem).map(|_| ()).map_err(|_| AccountError::BadKey)
}

/// The key is usable, and exactly these devices have a box of its seed (both in ascending order).
fn check_user_key(key: &UserKeyPublic, devices: &[DeviceId]) -> Result<(), AccountError> {
    KemPublic::from_bytes(&key.kem).map_err(|_| AccountError::BadKey)?;
    let one_each = key.boxes.iter().map(|sealed| &sealed.device).eq(devices);
    if one_each && key.boxes.iter().all(is_seed_box) { Ok(()) } else { Err(AccountError::NotAllowed) }
}

/// As long as the box of a seed is: nobody makes others store more.
fn is_seed_box(sealed: &UserKeyBox) -> bool {
    sealed.sealed.len() == boxes::OVERHEAD + 32
}
