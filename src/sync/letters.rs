//! The letters between a new device and one that knows the account, and the words that both show.
//!
//! # Construction
//! A person types the new device's code on the other. From it follow a mailbox at the server and the keys of the letters:
//! each under a key of its own from the code's root, its side and those of the first three that come before it, so that
//! nobody without the code reads, replaces or reorders any.
//!
//! | letter | by | says |
//! |---|---|---|
//! | request | the new device N | N's keys, commitment to N's nonce and keys |
//! | offer | the device of the account, O | account, O's keys, O's nonce |
//! | reveal | N | N's nonce |
//! | verdict | N | whether N's user has found the words equal; signed by N's key |
//! | answer | O | what N must accept no less than, or that O's user has refused; signed by O's key |
//!
//! The words are three of BIP-39's list, of the hash of the first three letters' plaintext. Each side's user says whether
//! the other device shows the same, before anything is changed: O adds N when both have said so.
//!
//! # What it is good for
//! Who does not know the code can do nothing but be silent. Who does (it was seen, or a person was talked into telling
//! it) and is the server too can put another device in N's place towards O and another account in O's place towards N,
//! and must then have both spell the same. N's nonce is fixed by the commitment before N sees O's, and is seen by O's side
//! only after O's own is fixed; so each of the two attempts is one guess at 33 bits, for which two people must look (S.
//! Vaudenay, Secure communications over insecure channels based on short authenticated strings, 2005; so do Bluetooth and
//! Matrix). What is said afterwards is signed by the keys that were compared: nothing depends on the code any more.
//!
//! Layouts: docs/FORMAT.md §7.

use std::sync::Arc;
use std::time::Duration;

use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use super::SyncError;
use crate::api::{Letter, Side};
use crate::crypto::compare::{self, DEVICE_WORDS};
use crate::crypto::sign::{Signature, SigningKey, VerifyingKey};
use crate::crypto::words::Code;
use crate::crypto::{Key, aead, kdf, labels};
use crate::format::{AccountId, DbId, DeviceKeys, Head, MailboxId, decode, encode};
use crate::remote::Remote;

/// Between two looks into the mailbox.
const LOOK: Duration = Duration::from_millis(500);
/// The letters that the words are made of. The other two may come in any order, or only one of them.
const COMPARED: usize = 3;
/// Layout of the letters. 1 had two of them.
pub(super) const VERSION: u8 = 2;

/// What the new device asks.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(super) struct Request {
    #[n(0)]
    pub version: u8,
    #[n(1)]
    pub device: DeviceKeys,
    #[cbor(n(2), with = "minicbor::bytes")]
    pub commitment: [u8; 32],
}

/// What a device of an account offers.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(super) struct Offer {
    #[n(0)]
    pub version: u8,
    #[n(1)]
    pub account: AccountId,
    /// How the account calls itself.
    #[n(2)]
    pub name: String,
    #[n(3)]
    pub device: DeviceKeys,
    #[cbor(n(4), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
}

/// What the new device had committed to.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(super) struct Reveal {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
}

/// A letter after the comparison. Its plaintext is signed over the transcript.
#[derive(Encode, Decode)]
#[cbor(array)]
struct Signed {
    #[cbor(n(0), with = "minicbor::bytes")]
    plain: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    signature: [u8; 64],
}

/// What the new device's user has found.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(super) struct Verdict {
    #[n(0)]
    pub same: bool,
}

/// What the other device makes of it: nothing secret.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(super) struct Answer {
    /// Absent where its user has refused.
    #[n(0)]
    pub provision: Option<Provision>,
}

/// What the new device must accept no less than.
#[derive(Encode, Decode)]
#[cbor(array)]
pub(super) struct Provision {
    /// Of the account's log, the new device included.
    #[n(0)]
    pub head: Head,
    #[n(1)]
    pub marks: Vec<Mark>,
}

/// How far another device knew a folder.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Mark {
    #[n(0)]
    pub db: DbId,
    #[n(1)]
    pub head: Head,
    #[n(2)]
    pub name: String,
}

/// Commits a new device to its nonce and keys.
pub(super) fn commitment(nonce: &[u8; 32], device: &DeviceKeys) -> [u8; 32] {
    kdf::commit(labels::COMMIT_JOINING, &[nonce, &encode(device)])
}

/// The letters so far, as one of the two devices knows them.
#[derive(Clone)]
pub(super) struct Exchange {
    pub mailbox: MailboxId,
    root: Arc<Key>,
    sealed: Vec<Vec<u8>>,
    plain: Vec<Zeroizing<Vec<u8>>>,
}

impl Exchange {
    /// Before the first. Takes about 0.3 s.
    pub fn of(code: &Code) -> Result<Self, SyncError> {
        let root = code.root().map_err(|error| SyncError::System(error.to_string()))?;
        let mailbox = MailboxId(kdf::commit(labels::CODE_MAILBOX, &[root.as_bytes()]));
        Ok(Self { mailbox, root: Arc::new(root), sealed: Vec::new(), plain: Vec::new() })
    }

    fn key(&self, side: Side) -> Key {
        let before: Vec<&[u8]> = self.sealed.iter().take(COMPARED).map(Vec::as_slice).collect();
        let before = kdf::hash(labels::HASH_CODE_LETTERS, &before);
        kdf::derive(labels::KEY_CODE_LETTER, &[self.root.as_bytes(), side.name().as_bytes(), &before])
    }

    /// Makes the next letter.
    pub fn seal(&mut self, side: Side, plain: &impl Encode<()>) -> Letter {
        let plain = Zeroizing::new(encode(plain));
        let sealed = aead::seal(&self.key(side), self.mailbox.as_bytes(), &plain);
        self.take(sealed.clone(), plain);
        Letter { sealed }
    }

    /// Opens the next letter. `who` is whose place somebody else's is in.
    pub fn open<T: for<'b> Decode<'b, ()> + Encode<()>>(
        &mut self,
        side: Side,
        letter: &Letter,
        who: &str,
    ) -> Result<T, SyncError> {
        let lying = |_| SyncError::Misbehaviour(format!("it put something else in the place of {who}'s letter"));
        let plain = aead::open(&self.key(side), self.mailbox.as_bytes(), &letter.sealed).map_err(lying)?;
        let read = decode(&plain);
        self.take(letter.sealed.clone(), plain);
        read.map_err(|_| SyncError::Damaged(format!("a letter of {who}; update KegFS on both")))
    }

    fn take(&mut self, sealed: Vec<u8>, plain: Zeroizing<Vec<u8>>) {
        self.sealed.push(sealed);
        self.plain.push(plain);
    }

    /// Of the first three letters.
    fn transcript(&self) -> [u8; 32] {
        let plain: Vec<&[u8]> = self.plain.iter().take(COMPARED).map(|plain| plain.as_slice()).collect();
        kdf::hash(labels::COMPARE_JOINING, &plain)
    }

    /// What both devices show, when there are three letters.
    pub fn words(&self) -> [&'static str; DEVICE_WORDS] {
        compare::device_words(&self.transcript())
    }

    fn statement(&self, side: Side, plain: &[u8]) -> Vec<u8> {
        [self.transcript().as_slice(), side.name().as_bytes(), b":", plain].concat()
    }

    /// Makes a letter of after the comparison.
    pub fn seal_signed(&mut self, side: Side, plain: &impl Encode<()>, key: &SigningKey) -> Letter {
        let plain = encode(plain);
        let signature = key.sign(labels::SIGN_JOINING, &self.statement(side, &plain)).0;
        self.seal(side, &Signed { plain, signature })
    }

    /// Opens one, which `by` has signed.
    pub fn open_signed<T: for<'b> Decode<'b, ()> + Encode<()>>(
        &mut self,
        side: Side,
        letter: &Letter,
        by: &DeviceKeys,
        who: &str,
    ) -> Result<T, SyncError> {
        let Signed { plain, signature } = self.open(side, letter, who)?;
        let checked =
            VerifyingKey(by.sign).verify(labels::SIGN_JOINING, &self.statement(side, &plain), &Signature(signature));
        checked.map_err(|_| SyncError::Misbehaviour(format!("it speaks for {who}, and {who} has not signed that")))?;
        decode(&plain).map_err(|_| SyncError::Damaged(format!("a letter of {who}; update KegFS on both")))
    }

    /// The letter on this side, if it is there (yet).
    pub async fn look(&self, remote: &dyn Remote, side: Side) -> Result<Option<Letter>, SyncError> {
        match remote.letter(self.mailbox, side).await {
            Err(error) if error.is_transient() => Ok(None),
            other => Ok(other?),
        }
    }

    /// Waits for the letter on this side.
    pub async fn wait_for(
        &self,
        remote: &dyn Remote,
        side: Side,
        within: Duration,
    ) -> Result<Option<Letter>, SyncError> {
        let looking = async {
            loop {
                if let Some(letter) = self.look(remote, side).await? {
                    return Ok(letter);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(within, looking).await {
            Ok(letter) => letter.map(Some),
            Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::keyring::DeviceSecrets;

    const CODE: &str = "abandon ability able about above absent";

    fn keys(seed: u8) -> DeviceKeys {
        DeviceSecrets::from_seeds(Key::from_bytes([seed; 32]), Key::from_bytes([seed; 32])).public("phone")
    }

    fn offer(nonce: u8) -> Offer {
        let account = AccountId([3; 32]);
        Offer { version: VERSION, account, name: "alice".to_owned(), device: keys(2), nonce: [nonce; 32] }
    }

    fn request(nonce: u8) -> Request {
        let device = keys(1);
        Request { version: VERSION, commitment: commitment(&[nonce; 32], &device), device }
    }

    /// Both ends after three letters.
    fn met() -> (Exchange, Exchange) {
        let code = Code::parse(CODE).unwrap();
        let (mut new, mut old) = (Exchange::of(&code).unwrap(), Exchange::of(&code).unwrap());
        let letter = new.seal(Side::Request, &request(7));
        let asked: Request = old.open(Side::Request, &letter, "x").unwrap();
        let letter = old.seal(Side::Offer, &offer(8));
        let _: Offer = new.open(Side::Offer, &letter, "x").unwrap();
        let letter = new.seal(Side::Reveal, &Reveal { nonce: [7; 32] });
        let shown: Reveal = old.open(Side::Reveal, &letter, "x").unwrap();
        assert_eq!(commitment(&shown.nonce, &asked.device), asked.commitment);
        (new, old)
    }

    #[test]
    fn both_show_the_same_words_and_they_are_frozen() {
        let (new, old) = met();
        assert_eq!(new.words(), old.words());
        assert_eq!(new.words().join(" "), "sudden sausage west");
    }

    #[test]
    fn every_part_of_the_first_three_letters_is_in_the_words() {
        let words = |request: &Request, offer: &Offer, reveal: u8| {
            let mut one = Exchange::of(&Code::parse(CODE).unwrap()).unwrap();
            one.seal(Side::Request, request);
            one.seal(Side::Offer, offer);
            one.seal(Side::Reveal, &Reveal { nonce: [reveal; 32] });
            one.words()
        };
        let others = [
            words(&request(6), &offer(8), 7),
            words(&Request { device: keys(9), ..request(7) }, &offer(8), 7),
            words(&request(7), &offer(9), 7),
            words(&request(7), &Offer { account: AccountId([4; 32]), ..offer(8) }, 7),
            words(&request(7), &Offer { device: keys(9), ..offer(8) }, 7),
            words(&request(7), &Offer { name: "eve".to_owned(), ..offer(8) }, 7),
            words(&request(7), &offer(8), 6),
            words(&request(7), &offer(8), 7),
        ];
        let distinct: std::collections::HashSet<_> = others.iter().collect();
        assert_eq!(distinct.len(), others.len());
    }

    #[test]
    fn a_letter_opens_in_its_place_only_and_says_what_its_device_signed() {
        let (mut new, mut old) = met();
        let phone = DeviceSecrets::from_seeds(Key::from_bytes([1; 32]), Key::from_bytes([1; 32]));
        let other = DeviceSecrets::from_seeds(Key::from_bytes([9; 32]), Key::from_bytes([9; 32]));
        // Who knows the code seals anything; only the device signs it.
        let forged = new.clone().seal_signed(Side::Verdict, &Verdict { same: true }, &other.signing_key());
        let opened = old.clone().open_signed::<Verdict>(Side::Verdict, &forged, &keys(1), "the new device");
        assert!(matches!(opened, Err(SyncError::Misbehaviour(_))));
        let letter = new.seal_signed(Side::Verdict, &Verdict { same: true }, &phone.signing_key());
        for at in 0..letter.sealed.len() {
            let mut bad = letter.clone();
            bad.sealed[at] ^= 1;
            assert!(old.clone().open_signed::<Verdict>(Side::Verdict, &bad, &keys(1), "x").is_err(), "{at}");
        }
        assert!(old.clone().open_signed::<Verdict>(Side::Answer, &letter, &keys(1), "x").is_err(), "another side");
        assert!(met().1.open_signed::<Verdict>(Side::Verdict, &letter, &keys(1), "x").is_err(), "another exchange");
        assert!(old.open_signed::<Verdict>(Side::Verdict, &letter, &keys(1), "x").unwrap().same);
    }
}
