//! Key derivation, commitments and hashes: BLAKE3 in its `derive_key` mode.
//!
//! # Construction
//! `BLAKE3-derive_key(context, role ‖ part₁ ‖ part₂ ‖ …)` where `role` is one byte (1 derive,
//! 2 commit, 3 hash) and each part is its length as u64 big-endian followed by its bytes. The
//! length prefixes make the encoding injective: no two lists of parts give the same input. The
//! role byte keeps a published commitment from ever being a key, even if a label were misused.
//! BLAKE3 (paper, section 2.3 and 7.8) separates contexts from each other and from plain hashing.
//!
//! # The caller's duty
//! `context` is a constant of [`labels`](super::labels). Secrets put in have 32 bytes of entropy:
//! for passphrases there is [`password`](super::password).

use super::Key;

const ROLE_DERIVE: u8 = 1;
const ROLE_COMMIT: u8 = 2;
const ROLE_HASH: u8 = 3;

/// Derives a key from secret `parts`. Without the secret parts the result looks random, even next
/// to keys derived from the same parts under other contexts.
pub fn derive(context: &'static str, parts: &[&[u8]]) -> Key {
    let mut hasher = absorb(context, ROLE_DERIVE, parts);
    let key = Key::from_bytes(hasher.finalize().into());
    zeroize::Zeroize::zeroize(&mut hasher);
    key
}

/// A commitment to secret `parts`: binding (BLAKE3 is collision resistant), and hiding because the
/// parts hold 32 random bytes. Public.
pub fn commit(context: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = absorb(context, ROLE_COMMIT, parts);
    let commitment = hasher.finalize().into();
    zeroize::Zeroize::zeroize(&mut hasher);
    commitment
}

/// The hash of public `parts` for one purpose.
pub fn hash(context: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    absorb(context, ROLE_HASH, parts).finalize().into()
}

fn absorb(context: &'static str, role: u8, parts: &[&[u8]]) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(&[role]);
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTEXT: &str = "KegFS v1 test only";

    #[test]
    fn blake3_is_blake3() {
        // BLAKE3 test_vectors.json, input_len 0 and 1: hash and derive_key.
        let context = "BLAKE3 2019-12-27 16:29:52 test vectors context";
        for (input, hash, derived) in [
            (
                &[][..],
                "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
                "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
            ),
            (
                &[0][..],
                "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
                "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c",
            ),
        ] {
            assert_eq!(blake3::hash(input).to_hex().as_str(), hash);
            assert_eq!(hex::encode(blake3::derive_key(context, input)), derived);
        }
    }

    #[test]
    fn parts_are_prefixed_by_role_and_u64_big_endian_lengths() {
        let mut flat = vec![1];
        flat.extend([0, 0, 0, 0, 0, 0, 0, 3]);
        flat.extend(b"abc");
        flat.extend([0, 0, 0, 0, 0, 0, 1, 1]);
        flat.extend([7; 257]);
        let parts: [&[u8]; 2] = [b"abc", &[7; 257]];
        assert_eq!(derive(CONTEXT, &parts).as_bytes(), &blake3::derive_key(CONTEXT, &flat));
        flat[0] = 2;
        assert_eq!(commit(CONTEXT, &parts), blake3::derive_key(CONTEXT, &flat));
        flat[0] = 3;
        assert_eq!(hash(CONTEXT, &parts), blake3::derive_key(CONTEXT, &flat));
    }

    #[test]
    fn derive_commit_and_hash_are_frozen() {
        let parts: [&[u8]; 2] = [&[0x42; 32], b"epoch 7"];
        assert_eq!(
            hex::encode(derive(CONTEXT, &parts).as_bytes()),
            "2e6732d47a048a7f5955c6415eb15f550a60ed7e6242bcb31bbcf68b68dce601"
        );
        assert_eq!(
            hex::encode(commit(CONTEXT, &parts)),
            "4571ec998eb5982ef976b86ecb421733f0ff577083468da93224be5204cd7578"
        );
        assert_eq!(
            hex::encode(hash(CONTEXT, &parts)),
            "b8504aff10a45df0f62f2f561bb3dde2e011b1a7b83f4b76d45236641f354489"
        );
    }

    #[test]
    fn moving_a_byte_between_parts_or_adding_an_empty_part_changes_the_result() {
        let base = hash(CONTEXT, &[b"ab", b"c"]);
        for other in [&[b"a".as_slice(), b"bc"][..], &[b"abc"], &[b"ab", b"c", b""], &[b"", b"ab", b"c"]] {
            assert_ne!(hash(CONTEXT, other), base);
        }
        assert_ne!(hash("KegFS v1 test other", &[b"ab", b"c"]), base);
        assert_ne!(hash(CONTEXT, &[]), hash(CONTEXT, &[b""]));
    }

    proptest! {
        #[test]
        fn different_lists_of_parts_never_meet(
            a in proptest::collection::vec(proptest::collection::vec(0u8..2, 0..4), 0..4),
            b in proptest::collection::vec(proptest::collection::vec(0u8..2, 0..4), 0..4),
        ) {
            fn refs(parts: &[Vec<u8>]) -> Vec<&[u8]> {
                parts.iter().map(Vec::as_slice).collect()
            }
            prop_assert_eq!(a == b, hash(CONTEXT, &refs(&a)) == hash(CONTEXT, &refs(&b)));
        }
    }
}
