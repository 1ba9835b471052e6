//! Secrets that people copy: a new device's code of six words, and the recovery phrase of 24 words.
//!
//! # Construction
//! Both are spelt with the English list of BIP-39: 2,048 words that differ in their first four letters. A recovery
//! phrase is BIP-39 with 256 bits of entropy and its 8-bit checksum. A code is six words, 66 random bits, without one.
//!
//! # Why six words are enough
//! A code lives for minutes. The one who could use a guess is the server, which holds the sealed request that a guess can
//! be tried on, and only while the other device waits for it; afterwards the code opens nothing that the server does not
//! know anyway. A guess costs an Argon2id of 64 MiB ([`super::password::code_root`]). 10,000
//! machines with ten guesses a second each try 2^27 codes in a quarter of an hour: one chance in 2^39. Somebody without
//! the server's help has the mailbox id to guess, 66 bits online. A table of all codes would have 2^66 rows.
//!
//! # The caller's duty
//! Never log or store either. A code is for one exchange.

use bip39::{Language, Mnemonic};
use zeroize::{Zeroize, Zeroizing};

use super::{CryptoError, Key, password};
use crate::sys::random;

/// Words of a code.
pub const CODE_WORDS: usize = 6;
/// Words of a recovery phrase.
pub const PHRASE_WORDS: usize = 24;
const LIST: Language = Language::English;

/// A new device's code. Secret while the device waits.
pub struct Code([u16; CODE_WORDS]);

impl Code {
    /// A fresh one.
    pub fn random() -> Self {
        let bytes = Zeroizing::new(random::array::<{ 2 * CODE_WORDS }>());
        // 2,048 divides 65,536: all words are equally likely.
        let mut pairs = bytes.chunks_exact(2);
        Self(std::array::from_fn(|_| pairs.next().map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]) % 2048)))
    }

    /// What somebody typed: upper or lower case, words separated by anything but letters, four letters suffice.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`] for another number of words or one that is not in the list.
    pub fn parse(text: &str) -> Result<Self, CryptoError> {
        let malformed = CryptoError::Malformed("code of a device");
        let typed: Zeroizing<String> = Zeroizing::new(text.to_lowercase());
        let words = typed.split(|c: char| !c.is_ascii_lowercase()).filter(|word| !word.is_empty());
        let mut indices = words.map(index_of);
        let mut code = [0; CODE_WORDS];
        for place in &mut code {
            *place = indices.next().flatten().ok_or(malformed)?;
        }
        if indices.next().is_some() { Err(malformed) } else { Ok(Self(code)) }
    }

    /// `word-word-word-word-word-word`.
    pub fn to_text(&self) -> Zeroizing<String> {
        let words: Vec<&str> = self.0.iter().map(|index| LIST.word_list()[usize::from(*index) % 2048]).collect();
        Zeroizing::new(words.join("-"))
    }

    /// The key that both devices derive everything from. Takes about 0.3 s.
    ///
    /// # Errors
    /// [`CryptoError::OutOfMemory`].
    pub fn root(&self) -> Result<Key, CryptoError> {
        password::code_root(self.to_text().as_bytes())
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The word, or the one that begins with these four letters.
fn index_of(typed: &str) -> Option<u16> {
    let list = LIST.word_list();
    let exact = list.iter().position(|word| *word == typed);
    let begun = || list.iter().position(|word| typed.len() == 4 && word.starts_with(typed));
    exact.or_else(begun).and_then(|index| u16::try_from(index).ok())
}

/// A recovery phrase: 256 bits on paper. Secret for as long as the account lives.
pub struct Phrase(Key);

impl Phrase {
    /// A fresh one.
    pub fn random() -> Self {
        Self(Key::random())
    }

    /// From its 256 bits.
    pub fn from_key(entropy: Key) -> Self {
        Self(entropy)
    }

    /// What somebody typed.
    ///
    /// # Errors
    /// [`CryptoError::Malformed`] when it is not 24 words of the list, or the checksum does not fit: one is wrong, or two
    /// are exchanged.
    pub fn parse(text: &str) -> Result<Self, CryptoError> {
        let malformed = CryptoError::Malformed("recovery phrase");
        let typed = Zeroizing::new(text.to_lowercase());
        let words: Vec<&str> = typed.split(|c: char| !c.is_ascii_lowercase()).filter(|word| !word.is_empty()).collect();
        if words.len() != PHRASE_WORDS {
            return Err(malformed);
        }
        let joined = Zeroizing::new(words.join(" "));
        let mut mnemonic = Mnemonic::parse_in_normalized(LIST, &joined).map_err(|_| malformed)?;
        let (mut entropy, len) = mnemonic.to_entropy_array();
        let key = Key::from_slice(&entropy[..len.min(32)]);
        entropy.zeroize();
        mnemonic.zeroize();
        key.map(Self).ok_or(malformed)
    }

    /// Its 24 words.
    pub fn words(&self) -> Vec<&'static str> {
        // 32 bytes are one of the lengths that BIP-39 knows.
        Mnemonic::from_entropy_in(LIST, self.0.as_bytes()).map_or_else(
            |_| Vec::new(),
            |mut mnemonic| {
                let words = mnemonic.words().collect();
                mnemonic.zeroize();
                words
            },
        )
    }

    /// The bits, to derive from.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_bip_39() {
        // Trezor's vectors: 256 bits.
        let zero = Phrase::from_key(Key::from_bytes([0; 32]));
        assert_eq!(zero.words().join(" "), format!("{}art", "abandon ".repeat(23)));
        let text = "hamster diagram private dutch cause delay private meat slide toddler razor book happy fancy gospel \
                    tennis maple dilemma loan word shrug inflict delay length";
        let phrase = Phrase::parse(text).unwrap();
        assert_eq!(hex::encode(phrase.as_bytes()), "68a79eaca2324873eacc50cb9c6eca8cc68ea5d936f98787c60c7ebc74e6ce7c");
        assert_eq!(phrase.words(), text.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn a_phrase_with_a_wrong_or_exchanged_or_missing_word_is_refused() {
        let phrase = Phrase::random();
        let words = phrase.words();
        assert_eq!(Phrase::parse(&words.join(",\n ").to_uppercase()).unwrap().as_bytes(), phrase.as_bytes());
        assert!(Phrase::parse(&words[1..].join(" ")).is_err());
        assert!(Phrase::parse(&format!("{} art", words.join(" "))).is_err());
        assert!(Phrase::parse(&words.join(" ").replacen(words[0], "kegfs", 1)).is_err());
        // A checksum of 8 bits lets one exchange in 256 pass.
        let caught = (0..23).filter(|at| {
            let mut swapped = words.clone();
            swapped.swap(*at, at + 1);
            swapped != words && Phrase::parse(&swapped.join(" ")).is_err()
        });
        assert!(caught.count() >= 18);
    }

    #[test]
    fn a_code_is_six_words_that_are_read_as_people_type_them() {
        let code = Code::random();
        let text = code.to_text();
        assert_eq!(text.split('-').count(), CODE_WORDS);
        for typed in [text.to_uppercase(), text.replace('-', " "), format!("  {}\n", text.replace('-', ", "))] {
            assert_eq!(Code::parse(&typed).unwrap().0, code.0, "{typed}");
        }
        let short: Vec<&str> = text.split('-').map(|word| &word[..word.len().min(4)]).collect();
        assert_eq!(Code::parse(&short.join(" ")).unwrap().0, code.0);
        let first = text.split('-').next().unwrap();
        for bad in ["", first, &text.replacen(first, "kegfs", 1), &format!("{}-zoo", &*text)] {
            assert!(Code::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_root_of_a_code_is_frozen() {
        let code = Code::parse("abandon ability able about above absent").unwrap();
        assert_eq!(
            hex::encode(code.root().unwrap().as_bytes()),
            "8d279d5441aa49676302aceee961d1045641923c196b99305330b8f9a5aad295"
        );
    }
}
