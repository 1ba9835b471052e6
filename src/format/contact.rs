//! Whom a user knows, as the user's devices tell each other.

use minicbor::{Decode, Encode};

use super::limits::{CONTACTS_MAX, LABEL_MAX_BYTES};
use super::{AccountId, FormatError, decode};

/// How far an account is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Trust {
    /// Met, and taken for whom it says it is.
    #[n(0)]
    Pinned,
    /// The words were compared and were the same.
    #[n(1)]
    Verified,
    /// Something is wrong: nothing is given to it until the user decides.
    #[n(2)]
    Doubted,
    /// The user has decided that it is not whom it says it is.
    #[n(3)]
    Rejected,
}

/// An account that was met.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Contact {
    /// Which.
    #[n(0)]
    pub account: AccountId,
    /// The name that it had when it was met, at most [`LABEL_MAX_BYTES`].
    #[n(1)]
    pub name: String,
    /// When that was, milliseconds since 1970 UTC.
    #[n(2)]
    pub pinned_ms: i64,
    /// How far it is trusted.
    #[n(3)]
    pub trust: Trust,
    /// Since when, milliseconds since 1970 UTC.
    #[n(4)]
    pub since_ms: i64,
    /// Doubted: why, in plain words; at most [`WHY_MAX_BYTES`].
    #[n(5)]
    pub why: String,
    /// Verified: hash of the keys that the words were made of.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub keys: Option<[u8; 32]>,
}

/// Bytes of a doubt's reason.
pub const WHY_MAX_BYTES: usize = 256;

impl Contact {
    /// What is known when both this and `other` are known of one account: the earlier meeting, and the newest that was
    /// decided or doubted; that it was merely met counts least. The order of merging makes no difference.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let met = |contact: &Self| (contact.pinned_ms, contact.name.clone());
        let (pinned_ms, name) = met(&self).min(met(&other));
        let rank = |contact: &Self| {
            let more = (contact.trust, contact.why.clone(), contact.keys);
            (contact.trust != Trust::Pinned, contact.since_ms, more)
        };
        let newest = if rank(&self) >= rank(&other) { self } else { other };
        Self { pinned_ms, name, ..newest }
    }
}

/// What one entry of an account log tells: plaintext of `AccountChange::Contacts`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ContactBook {
    /// Ascending by account, at most [`CONTACTS_MAX`].
    #[n(0)]
    pub contacts: Vec<Contact>,
}

impl ContactBook {
    /// Decodes canonical bytes within the limits.
    ///
    /// # Errors
    /// Malformed, or out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let book: Self = decode(bytes)?;
        let ascending = book.contacts.is_sorted_by(|one, other| one.account < other.account);
        let bounded = |contact: &Contact| contact.name.len() <= LABEL_MAX_BYTES && contact.why.len() <= WHY_MAX_BYTES;
        if book.contacts.len() > CONTACTS_MAX || !ascending || !book.contacts.iter().all(bounded) {
            return Err(FormatError::OutOfBounds("contacts"));
        }
        Ok(book)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::encode;

    fn contact() -> impl Strategy<Value = Contact> {
        let trust =
            prop_oneof![Just(Trust::Pinned), Just(Trust::Verified), Just(Trust::Doubted), Just(Trust::Rejected)];
        let keys = proptest::option::of(any::<bool>().prop_map(|one| [u8::from(one); 32]));
        ("[ab]", 0..3i64, trust, 0..3i64, "[xy]?", keys).prop_map(|(name, pinned_ms, trust, since_ms, why, keys)| {
            Contact { account: AccountId([1; 32]), name, pinned_ms, trust, since_ms, why, keys }
        })
    }

    proptest! {
        /// Devices hear of each other's decisions in any order, and more than once: all end with the same.
        #[test]
        fn merging_is_the_same_in_every_order_and_twice_is_once(a in contact(), b in contact(), c in contact()) {
            let merged = |one: &Contact, other: &Contact| one.clone().merge(other.clone());
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &a), a.clone());
            prop_assert_eq!(merged(&merged(&a, &b), &b), merged(&a, &b));
            let newer = a.trust != Trust::Pinned && a.since_ms > b.since_ms;
            prop_assert!(!newer || merged(&a, &b).trust == a.trust);
        }
    }

    #[test]
    fn the_layout_is_frozen_and_bounded() {
        let one = Contact {
            account: AccountId([0xaa; 32]),
            name: "bob".to_owned(),
            pinned_ms: 1000,
            trust: Trust::Verified,
            since_ms: 2000,
            why: String::new(),
            keys: Some([0xbb; 32]),
        };
        let book = ContactBook { contacts: vec![one.clone()] };
        let hex: String = encode(&book).iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = format!("8181875820{}63626f621903e8011907d0605820{}", "aa".repeat(32), "bb".repeat(32));
        assert_eq!(hex, expected);
        assert_eq!(ContactBook::decode(&encode(&book)), Ok(book));
        let twice = ContactBook { contacts: vec![one.clone(), one.clone()] };
        assert!(ContactBook::decode(&encode(&twice)).is_err());
        let long = ContactBook { contacts: vec![Contact { why: "x".repeat(WHY_MAX_BYTES + 1), ..one }] };
        assert!(ContactBook::decode(&encode(&long)).is_err());
    }
}
