//! What two people read to each other to find out that nobody stands between them: twelve words. And what one person
//! compares on two devices: three.
//!
//! # Construction
//! The first 132 bits of a hash, spelt with the English list of BIP-39: 2,048 words that differ in their first four
//! letters. Of two accounts the hash covers both ids and both accounts' present keys, the smaller id first, so that both
//! see the same words; of a folder its id and a position with the chain hash there.
//!
//! # Why twelve
//! Who stands between two people gives each an account of their own making, and wins when both pairs spell the same. They
//! may choose both accounts, so a search costs the square root of what the words can say: 2^66 key generations for 132
//! bits. Eight words would cost 2^44, which is an afternoon.
//!
//! # Why three between two devices
//! There, who stands between has one attempt for each time that a person looks: each side's part is fixed before it sees
//! the other's ([`crate::sync`]'s letters). One chance in 2^33.
//!
//! # The caller's duty
//! The words prove what was compared and nothing else: remember the keys that they were made of.

use bip39::Language;

use super::{kdf, labels};

/// Words of a code.
pub const WORDS: usize = 12;

/// Words that two devices of one person show.
pub const DEVICE_WORDS: usize = 3;

/// The words that both devices show which have exchanged what `transcript` is the hash of.
pub fn device_words(transcript: &[u8; 32]) -> [&'static str; DEVICE_WORDS] {
    spell(transcript)
}

/// What is compared. Not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code([u8; 32]);

impl Code {
    /// Of two accounts, each as (id, hash of its present keys). The order of the two makes no difference.
    pub fn of_accounts(one: (&[u8; 32], &[u8; 32]), other: (&[u8; 32], &[u8; 32])) -> Self {
        let (low, high) = if one.0 <= other.0 { (one, other) } else { (other, one) };
        Self(kdf::hash(labels::COMPARE_ACCOUNTS, &[low.0, low.1, high.0, high.1]))
    }

    /// Of a folder's log up to a position.
    pub fn of_folder(db: &[u8; 32], seq: u64, chain: &[u8; 32]) -> Self {
        Self(kdf::hash(labels::COMPARE_FOLDER, &[db, &seq.to_be_bytes(), chain]))
    }

    /// The words to read out.
    pub fn words(&self) -> [&'static str; WORDS] {
        spell(&self.0)
    }

    /// The whole hash, to remember which words were shown.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn spell<const N: usize>(digest: &[u8; 32]) -> [&'static str; N] {
    let list = Language::English.word_list();
    std::array::from_fn(|word| {
        // 11 bits, most significant first, from bit 11·word on.
        let index = (0..11).fold(0, |index, bit| {
            let at = 11 * word + bit;
            index << 1 | usize::from(digest[at / 8] >> (7 - at % 8) & 1)
        });
        list[index]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_are_spelt_as_bip_39_spells_them() {
        assert_eq!(spell(&[0; 32]), ["abandon"; WORDS]);
        assert_eq!(spell(&[0xff; 32]), ["zoo"; WORDS]);
        let mut digest = [0; 32];
        digest[1] = 0b0010_0000; // bit 10: the last of the first word
        digest[2] = 0b0000_0100; // bit 21: the last of the second
        assert_eq!(spell(&digest), ["ability", "ability", "abandon"]);
        assert_eq!(device_words(&digest), spell(&digest));
    }

    #[test]
    fn both_sides_see_the_same_words_and_any_other_key_gives_others() {
        let (alice, bob, keys, other) = (&[1; 32], &[2; 32], &[3; 32], &[4; 32]);
        let words = Code::of_accounts((alice, keys), (bob, other));
        assert_eq!(words, Code::of_accounts((bob, other), (alice, keys)));
        assert_ne!(words, Code::of_accounts((alice, other), (bob, keys)));
        assert_ne!(words, Code::of_accounts((alice, keys), (bob, keys)));
        assert_ne!(Code::of_folder(alice, 5, keys), Code::of_folder(alice, 6, keys));
        assert_ne!(Code::of_folder(alice, 5, keys), Code::of_folder(alice, 5, other));
    }

    #[test]
    fn the_words_are_frozen() {
        assert_eq!(
            Code::of_accounts((&[1; 32], &[3; 32]), (&[2; 32], &[4; 32])).words().join(" "),
            "tiny parrot glide explain radar allow near bus across crucial half casual"
        );
        assert_eq!(
            Code::of_folder(&[1; 32], 5, &[3; 32]).words().join(" "),
            "butter joy able brown floor warfare summer shrimp boost calm charge salute"
        );
    }
}
