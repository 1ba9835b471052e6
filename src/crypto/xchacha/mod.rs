//! XChaCha20-Poly1305 twice: [`fast`] for every byte that KegFS moves, [`reference`](mod@reference)
//! to say what the bytes must be.
//!
//! # Construction
//! draft-irtf-cfrg-xchacha-03: `subkey = HChaCha20(key, nonce[0..16])`, then ChaCha20-Poly1305
//! (RFC 8439) under `subkey` with the nonce `00 00 00 00 ‖ nonce[16..24]`. Both implementations
//! bind key and the first 16 nonce bytes once, because [`chunk`](super::chunk) uses them for up to
//! 64 segments; only the last 8 bytes differ between messages.
//!
//! # The caller's duty
//! This room's own business: [`aead`](super::aead) and [`chunk`](super::chunk) give the safe
//! interfaces. A key and nonce pair seals once. Never released: plaintext of a failed `open`.

pub mod fast;
pub mod reference;

/// Bytes of the authentication tag, at the end of every sealed message.
pub const TAG: usize = 16;

/// The two parts of a 24-byte nonce: what is bound once, and what changes between messages.
pub type NoncePrefix = [u8; 16];
/// See [`NoncePrefix`].
pub type NonceSuffix = [u8; 8];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    const PLAINTEXT: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you \
        only one tip for the future, sunscreen would be it.";
    const AAD: &str = "50515253c0c1c2c3c4c5c6c7";
    const KEY: &str = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f";
    const NONCE: &str = "404142434445464748494a4b4c4d4e4f5051525354555657";
    const SEALED: &str = "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb\
        731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452\
        2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9\
        21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49";

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn both_reproduce_the_vector_of_the_draft() {
        let nonce: [u8; 24] = unhex(NONCE);
        let (prefix, suffix) = (nonce[..16].try_into().unwrap(), nonce[16..].try_into().unwrap());
        let aad: [u8; 12] = unhex(AAD);
        let mut sealed = vec![0; PLAINTEXT.len() + TAG];
        fast::Cipher::new(&unhex(KEY), &prefix).seal(&suffix, &aad, PLAINTEXT, &mut sealed).unwrap();
        assert_eq!(hex::encode(&sealed), SEALED);
        sealed.fill(0);
        reference::Cipher::new(&unhex(KEY), &prefix).seal(&suffix, &aad, PLAINTEXT, &mut sealed).unwrap();
        assert_eq!(hex::encode(&sealed), SEALED);
    }

    proptest! {
        #[test]
        fn fast_and_reference_are_byte_identical_and_open_each_other(
            key: [u8; 32], prefix: NoncePrefix, suffix: NonceSuffix,
            aad in proptest::collection::vec(any::<u8>(), 0..64),
            plaintext in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let fast = fast::Cipher::new(&key, &prefix);
            let reference = reference::Cipher::new(&key, &prefix);
            let mut a = vec![0; plaintext.len() + TAG];
            let mut b = a.clone();
            fast.seal(&suffix, &aad, &plaintext, &mut a).unwrap();
            reference.seal(&suffix, &aad, &plaintext, &mut b).unwrap();
            prop_assert_eq!(&a, &b);
            let mut opened = vec![0; plaintext.len()];
            fast.open(&suffix, &aad, &b, &mut opened).unwrap();
            prop_assert_eq!(&opened, &plaintext);
            opened.fill(0);
            reference.open(&suffix, &aad, &a, &mut opened).unwrap();
            prop_assert_eq!(&opened, &plaintext);
        }

        #[test]
        fn a_failed_open_leaves_no_plaintext_in_either(
            key: [u8; 32], plaintext in proptest::collection::vec(1u8.., 1..200), bit: proptest::sample::Index,
        ) {
            let fast = fast::Cipher::new(&key, &[0; 16]);
            let reference = reference::Cipher::new(&key, &[0; 16]);
            let mut sealed = vec![0; plaintext.len() + TAG];
            fast.seal(&[0; 8], b"", &plaintext, &mut sealed).unwrap();
            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            let mut out = vec![0xaa; plaintext.len()];
            prop_assert!(fast.open(&[0; 8], b"", &sealed, &mut out).is_err());
            prop_assert!(out.iter().all(|b| *b == 0));
            out.fill(0xaa);
            prop_assert!(reference.open(&[0; 8], b"", &sealed, &mut out).is_err());
            prop_assert!(out.iter().all(|b| *b == 0));
            out = sealed.clone();
            prop_assert!(fast.open_in_place(&[0; 8], b"", &mut out).is_err());
            prop_assert!(out.iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn buffers_of_the_wrong_length_are_refused() {
        let cipher = fast::Cipher::new(&[1; 32], &[0; 16]);
        let mut out = [0; 100];
        assert!(cipher.seal(&[0; 8], b"", &[0; 85], &mut out).is_err());
        assert!(cipher.open(&[0; 8], b"", &[0; 15], &mut out).is_err());
        assert!(cipher.open(&[0; 8], b"", &[0; 115], &mut out).is_err());
        assert!(cipher.open_in_place(&[0; 8], b"", &mut out[..15]).is_err());
    }
}
