//! Sealing what a user's devices tell each other of whom the user knows.
//!
//! # Construction
//! A padded [`ContactBook`] under a key derived from the user key's seed of a generation, bound to account and generation:
//! who has that seed opens it, which is every device of the account that was valid then, or came later.

use crate::crypto::{CryptoError, Key, aead, kdf, labels, padme};
use crate::format::{AccountId, Contact, ContactBook, encode};

use super::KeyRingError;
use super::identity::UserKeySeed;

/// Seals contacts, which must be ascending by account.
pub fn seal_contacts(account: &AccountId, generation: u32, seed: &UserKeySeed, contacts: &[Contact]) -> Vec<u8> {
    let padded = padme::pad(encode(&ContactBook { contacts: contacts.to_vec() }));
    aead::seal(&contacts_key(seed), &bound_to(account, generation), &padded)
}

/// The inverse.
///
/// # Errors
/// Another seed, account or generation; altered; out of bounds.
pub fn open_contacts(
    account: &AccountId,
    generation: u32,
    seed: &UserKeySeed,
    sealed: &[u8],
) -> Result<Vec<Contact>, KeyRingError> {
    let padded = aead::open(&contacts_key(seed), &bound_to(account, generation), sealed)?;
    let book = ContactBook::decode(padme::unpad(&padded)?).map_err(|_| CryptoError::Malformed("contacts"))?;
    Ok(book.contacts)
}

fn contacts_key(seed: &UserKeySeed) -> Key {
    kdf::derive(labels::KEY_USER_CONTACTS, &[seed.as_bytes()])
}

fn bound_to(account: &AccountId, generation: u32) -> Vec<u8> {
    [account.as_bytes().as_slice(), &generation.to_be_bytes()].concat()
}
