//! Tests of verified ranges: exact lengths, exact bytes, and every way to send something else.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const G: u64 = GROUP;

fn sample(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 1021) as u8).collect()
}

fn encode(data: &[u8], range: Range<u64>) -> Vec<u8> {
    let (id, tree) = id_and_outboard(data);
    encode_range(&id, data, data.len() as u64, &tree, range).unwrap()
}

#[test]
fn a_blob_id_is_the_plain_blake3_hash_and_the_root_of_the_tree() {
    for len in [0, 1, 1024, 1025, G - 1, G, G + 1, 2 * G, 5 * G + 3, 64 * G + 64 * 16] {
        let data = sample(len);
        let (id, tree) = id_and_outboard(&data);
        assert_eq!(id, *blake3::hash(&data).as_bytes(), "{len}");
        assert_eq!(id, blob_id(&data));
        assert_eq!(tree.len() as u64, len.div_ceil(G).saturating_sub(1) * 64, "{len}");
        assert_eq!(tree, outboard(&data));
        let mut hasher = BlobHasher::new();
        data.chunks(999).for_each(|part| hasher.update(part));
        assert_eq!(hasher.finish(), id);
    }
}

#[test]
fn outboard_and_encoding_of_three_groups_are_frozen() {
    let data = sample(2 * G + 100);
    let tree = outboard(&data);
    assert_eq!(hex::encode(&tree[..32]), "c61511e5c74850798bcc090f567a34981aab3bec8fbf42aac799fc9ec21f134e");
    assert_eq!(
        blake3::hash(&tree).to_hex().as_str(),
        "395f0145743c972e8b7a616a1c6d646ae2ad7d9bde6be0ab850c2c48b092fa7b"
    );
    // Root node, its left child, then the second group.
    let encoded = encode(&data, G..G + 1);
    assert_eq!(encoded, [&tree[..64], &tree[64..128], &data[G as usize..2 * G as usize]].concat());
    // The last group hangs from the root.
    let encoded = encode(&data, 2 * G + 99..2 * G + 100);
    assert_eq!(encoded, [&tree[..64], &data[2 * G as usize..]].concat());
}

#[test]
fn a_blob_of_one_group_is_sent_as_it_is() {
    let data = sample(1000);
    assert_eq!(encode(&data, 10..20), data);
    assert_eq!(decode_range(&blob_id(&data), 1000, 10..20, &data).unwrap(), data[10..20]);
}

#[test]
fn every_flipped_byte_is_refused() {
    let data = sample(2 * G + 100);
    let id = blob_id(&data);
    let encoded = encode(&data, G..2 * G + 100);
    // All of the nodes and of the last group, and samples of the full group.
    let at = (0..encoded.len()).filter(|i| *i < 200 || *i > encoded.len() - 200 || i % 997 == 0);
    for i in at {
        for bit in 0..8 {
            let mut bad = encoded.clone();
            bad[i] ^= 1 << bit;
            let refused = decode_range(&id, data.len() as u64, G..2 * G + 100, &bad).unwrap_err();
            assert_eq!(refused, CryptoError::AuthenticationFailed);
        }
    }
}

#[test]
fn cut_extended_or_other_ranges_are_refused() {
    let data = sample(4 * G);
    let id = blob_id(&data);
    let encoded = encode(&data, G..2 * G);
    assert!(decode_range(&id, 4 * G, G..2 * G, &encoded).is_ok());
    for len in [0, 63, 64, 128, encoded.len() - 1] {
        assert!(decode_range(&id, 4 * G, G..2 * G, &encoded[..len]).is_err());
    }
    assert!(decode_range(&id, 4 * G, G..2 * G, &[&encoded[..], &[0]].concat()).is_err());
    for start in [0, 2 * G, 3 * G] {
        assert!(decode_range(&id, 4 * G, start..start + G, &encoded).is_err());
    }
    assert!(decode_range(&[0; 32], 4 * G, G..2 * G, &encoded).is_err());
    assert!(decode_range(&blob_id(b"other"), 4 * G, G..2 * G, &encoded).is_err());
}

#[test]
fn impossible_ranges_are_malformed_on_both_sides() {
    let data = sample(100);
    let (id, tree) = id_and_outboard(&data);
    for range in [0..0, 5..5, 0..101, 100..101, u64::MAX - 1..u64::MAX, Range { start: 9, end: 3 }] {
        let refused = decode_range(&id, 100, range.clone(), &data).unwrap_err();
        assert!(matches!(refused, CryptoError::Malformed(_)), "{range:?}");
        let refused = encode_range(&id, &data[..], 100, &tree, range).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
    assert!(decode_range(&id, u64::MAX, 0..u64::MAX, &data).is_err());
    assert!(decode_range(&id, u64::MAX, u64::MAX - 1..u64::MAX, &data).is_err());
}

#[test]
fn a_server_whose_blob_rotted_says_so() {
    let data = sample(3 * G);
    let (id, tree) = id_and_outboard(&data);
    let len = data.len() as u64;
    let mut rotten = data.clone();
    rotten[70_000] ^= 1;
    let refused = encode_range(&id, &rotten[..], len, &tree, G..2 * G).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    let mut bad_tree = tree.clone();
    bad_tree[0] ^= 1;
    assert!(encode_range(&id, &data[..], len, &bad_tree, G..2 * G).is_err());
    assert!(encode_range(&id, &data[..], len, &tree[..64], G..2 * G).is_err());
    assert!(encode_range(&id, &data[..1000], len, &tree, 0..len).is_err());
}

#[test]
fn ranges_of_a_file_are_encoded_from_the_file() {
    let data = sample(3 * G + 5);
    let (id, tree) = id_and_outboard(&data);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob");
    std::fs::write(&path, &data).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let encoded = encode_range(&id, &file, data.len() as u64, &tree, 70_000..140_000).unwrap();
    let decoded = decode_range(&id, data.len() as u64, 70_000..140_000, &encoded).unwrap();
    assert!(decoded == data[70_000..140_000]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_range_of_any_blob_comes_back_exactly(len in 1u64..20 * G, a: u64, b: u64) {
        let data = sample(len);
        let (a, b) = (a % len, b % len);
        let range = a.min(b)..a.max(b) + 1;
        let encoded = encode(&data, range.clone());
        prop_assert_eq!(encoded.len() as u64, encoded_len(range.clone(), len).unwrap());
        prop_assert!(encoded == encode(&data, align(range.clone(), len)));
        let decoded = decode_range(&blob_id(&data), len, range.clone(), &encoded).unwrap();
        prop_assert!(decoded == data[range.start as usize..range.end as usize]);
    }

    #[test]
    fn any_bytes_from_the_server_never_panic(
        blob_len: u64, start: u64, end: u64, encoded in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        prop_assert!(decode_range(&[1; 32], blob_len, start..end, &encoded).is_err());
        let small = blob_len % 300;
        prop_assert!(decode_range(&[1; 32], small, start % 300..end % 300, &encoded).is_err());
    }
}
