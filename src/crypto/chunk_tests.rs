//! Tests of chunks: the layout against an independent construction, and every way to rearrange it.
#![allow(clippy::unwrap_used)]

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, KeyInit};
use proptest::prelude::*;

use super::*;

fn key() -> ChunkKey {
    ChunkKey::from_bytes([0x11; 32])
}

fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256 + i / 65536) as u8).collect()
}

fn sealed(key: &ChunkKey, plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    seal_into(key, plaintext, &mut out).unwrap();
    out
}

fn open(key: &ChunkKey, plain_len: usize, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut out = vec![0xaa; plain_len];
    let opened = Opener::new(key, plain_len)?.open_all(sealed, &mut out);
    if opened.is_err() {
        assert!(out.iter().all(|b| *b == 0), "plaintext left behind by a failed open");
    }
    opened.map(|()| out)
}

/// The construction written down a second time, with the reference crate and whole nonces.
fn by_the_book(key: &ChunkKey, plaintext: &[u8]) -> Vec<u8> {
    let cipher_key = kdf::derive("KegFS v1 chunk cipher key", &[key.as_bytes()]);
    let cipher = XChaCha20Poly1305::new(cipher_key.as_bytes().into());
    let count = plaintext.len().div_ceil(65536);
    let mut out = Vec::new();
    for (i, segment) in plaintext.chunks(65536).enumerate() {
        let mut nonce = [0u8; 24];
        nonce[22] = i as u8;
        nonce[23] = if i + 1 == count { 1 } else { 0 };
        out.extend(cipher.encrypt(&nonce.into(), segment).unwrap());
    }
    out
}

#[test]
fn stream_nonce_counter_is_big_endian_and_last_flag_is_set() {
    assert_eq!(suffix(0, 1), [0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(suffix(1, 1), [0, 0, 0, 0, 0, 0, 1, 1]);
    assert_eq!(suffix(0x01_02_03_04, 0x01_02_03_05), [0, 0, 0, 1, 2, 3, 4, 0]);
}

#[test]
fn a_small_chunk_is_frozen() {
    assert_eq!(hex::encode(sealed(&key(), b"kegs roll")), "575f344f1d8bb63902b3a40a961fb6ba89d28f9d8ed7af84cb");
}

#[test]
fn a_chunk_of_three_segments_is_frozen() {
    let bytes = sealed(&key(), &sample(2 * SEGMENT + 1));
    assert_eq!(bytes.len(), 2 * 65552 + 17);
    assert_eq!(
        blake3::hash(&bytes).to_hex().as_str(),
        "4b01be12b48be4b82fe1e466d3f93911eb5df9cd57edf4b6d143cc49565eb1f2"
    );
}

#[test]
fn sizes_around_segment_boundaries_equal_the_reference_and_open() {
    for len in [1, 2, 65535, 65536, 65537, 131_071, 131_072, 131_073, MAX_PLAIN - 1, MAX_PLAIN] {
        let plaintext = sample(len);
        let bytes = sealed(&key(), &plaintext);
        assert_eq!(bytes.len(), sealed_len(len), "{len}");
        assert!(bytes == by_the_book(&key(), &plaintext), "{len}");
        assert!(open(&key(), len, &bytes).unwrap() == plaintext, "{len}");
    }
}

#[test]
fn empty_and_oversized_chunks_are_refused_before_anything_is_done() {
    let mut out = vec![1, 2, 3];
    for len in [0, MAX_PLAIN + 1] {
        assert!(seal_into(&key(), &vec![0; len], &mut out).is_err());
        assert!(Opener::new(&key(), len).is_err());
    }
    assert!(Opener::new(&key(), usize::MAX).is_err());
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn sealing_appends_behind_what_is_there() {
    let mut out = b"another chunk".to_vec();
    seal_into(&key(), b"kegs roll", &mut out).unwrap();
    assert_eq!(out[13..], sealed(&key(), b"kegs roll"));
    assert_eq!(&out[..13], b"another chunk");
}

#[test]
fn segments_open_alone_in_any_order_and_in_place() {
    let plaintext = sample(3 * SEGMENT + 77);
    let bytes = sealed(&key(), &plaintext);
    let opener = Opener::new(&key(), plaintext.len()).unwrap();
    assert_eq!((opener.segments(), opener.plain_len()), (4, plaintext.len()));
    for i in [3, 0, 2, 1] {
        let mut out = vec![0; opener.plain_range(i).len()];
        opener.open_segment(i, &bytes[opener.sealed_range(i)], &mut out).unwrap();
        assert!(out == plaintext[opener.plain_range(i)]);
        let mut place = bytes[opener.sealed_range(i)].to_vec();
        assert!(opener.open_segment_in_place(i, &mut place).unwrap() == out);
    }
    assert_eq!(opener.sealed_range(3), 3 * 65552..bytes.len());
    assert!(opener.sealed_range(4).is_empty() && opener.plain_range(4).is_empty());
    assert!(opener.sealed_range(usize::MAX).is_empty());
}

#[test]
fn a_segment_opens_at_its_own_index_only() {
    let bytes = sealed(&key(), &sample(4 * SEGMENT));
    let opener = Opener::new(&key(), 4 * SEGMENT).unwrap();
    let mut out = vec![0; SEGMENT];
    for from in 0..4 {
        for to in 0..5 {
            let opened = opener.open_segment(to, &bytes[opener.sealed_range(from)], &mut out);
            assert_eq!(opened.is_ok(), from == to, "{from} as {to}");
            let mut place = bytes[opener.sealed_range(from)].to_vec();
            assert_eq!(opener.open_segment_in_place(to, &mut place).is_ok(), from == to);
        }
    }
}

#[test]
fn reordered_dropped_repeated_and_appended_segments_are_refused() {
    let bytes = sealed(&key(), &sample(4 * SEGMENT));
    let segments: Vec<&[u8]> = bytes.chunks(SEGMENT + TAG).collect();
    let arrangements: [&[usize]; 8] = [
        &[1, 0, 2, 3], // swapped
        &[0, 1, 3, 2], // the last one moved
        &[0, 1, 2],    // the last one dropped
        &[0, 1, 3],    // a middle one dropped
        &[1, 2, 3],    // the first one dropped
        &[0, 0, 2, 3], // repeated in place
        &[0, 1, 2, 3, 3],
        &[0, 1, 2, 2, 3],
    ];
    for arrangement in arrangements {
        let bad: Vec<u8> = arrangement.iter().flat_map(|i| segments[*i].to_vec()).collect();
        // Against the true length, and against the length that the arrangement pretends.
        for plain_len in [4 * SEGMENT, arrangement.len() * SEGMENT] {
            assert!(open(&key(), plain_len, &bad).is_err(), "{arrangement:?} as {plain_len}");
        }
    }
    assert!(open(&key(), 4 * SEGMENT, &bytes).is_ok());
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_small_chunk_is_refused() {
    let bytes = sealed(&key(), b"kegs roll");
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&key(), 9, &bad).unwrap_err(), CryptoError::AuthenticationFailed);
    }
    for len in 0..bytes.len() {
        assert!(open(&key(), 9, &bytes[..len]).is_err());
        // An extent that lies about the length in the same way.
        if len > TAG {
            assert!(open(&key(), len - TAG, &bytes[..len]).is_err());
        }
    }
}

#[test]
fn another_key_is_refused() {
    let bytes = sealed(&key(), b"kegs roll");
    assert!(open(&ChunkKey::from_bytes([0x12; 32]), 9, &bytes).is_err());
    assert!(ChunkKey::random() != ChunkKey::random());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_chunk_equals_the_reference_and_opens(
        secret: [u8; 32], segments in 0usize..4, rest in 1usize..=SEGMENT, seed: u8,
    ) {
        let key = ChunkKey::from_bytes(secret);
        let plaintext: Vec<u8> = sample(segments * SEGMENT + rest).iter().map(|b| b ^ seed).collect();
        let bytes = sealed(&key, &plaintext);
        prop_assert!(bytes == by_the_book(&key, &plaintext));
        prop_assert!(open(&key, plaintext.len(), &bytes).unwrap() == plaintext);
    }

    #[test]
    fn any_flipped_bit_of_a_large_chunk_is_refused(len in 1usize..3 * SEGMENT, at: proptest::sample::Index) {
        let mut bytes = sealed(&key(), &sample(len));
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(open(&key(), len, &bytes).is_err());
    }
}
