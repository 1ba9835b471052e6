//! Merkle trees over 32-byte leaves: a short root fixes a list, a short proof shows one item of it.
//!
//! # Construction
//! The tree of RFC 6962, section 2.1 (the left subtree takes the largest power of two smaller
//! than the count), with BLAKE3 in derive-key mode under [`MERKLE`](super::labels::MERKLE):
//! - leaf: `H(00 ‖ leaf)`; node: `H(01 ‖ left ‖ right)`;
//! - root: `H(02 ‖ count as u64 big-endian ‖ top)`, where `top` is the topmost node, or 32 zero bytes
//!   for an empty list.
//!
//! The prefixes keep a node from being shown as a leaf (second preimages); the count in the root
//! fixes the tree's shape, so a proof shows the index too.
//!
//! A proof is the list of siblings from the leaf upwards.

use super::labels;

/// A digest: leaf, node or root.
pub type Digest = [u8; 32];

/// The root over `leaves`.
pub fn root(leaves: &[Digest]) -> Digest {
    let top = if leaves.is_empty() { [0; 32] } else { subtree(leaves) };
    finish(leaves.len() as u64, &top)
}

/// The proof that `leaves[i]` is at index `i`; `None` when there is no such index. At most 64 digests.
pub fn proof(leaves: &[Digest], i: usize) -> Option<Vec<Digest>> {
    if i >= leaves.len() {
        return None;
    }
    let mut proof = Vec::new();
    let (mut part, mut i) = (leaves, i);
    while part.len() > 1 {
        let (left, right) = part.split_at(left_count(part.len() as u64) as usize);
        if i < left.len() {
            proof.push(subtree(right));
            part = left;
        } else {
            proof.push(subtree(left));
            i -= left.len();
            part = right;
        }
    }
    proof.reverse();
    Some(proof)
}

/// Whether `root` is the root over `n` leaves of which the one at index `i` is `leaf`.
pub fn verify(root: &Digest, leaf: &Digest, i: u64, n: u64, proof: &[Digest]) -> bool {
    if i >= n {
        return false;
    }
    // From the top downwards: on which side of each node the leaf lies.
    let (mut i, mut part) = (i, n);
    let mut on_the_right = Vec::new();
    while part > 1 {
        let left = left_count(part);
        on_the_right.push(i >= left);
        (i, part) = if i < left { (i, left) } else { (i - left, part - left) };
    }
    if on_the_right.len() != proof.len() {
        return false;
    }
    let top = on_the_right.iter().rev().zip(proof).fold(hash_leaf(leaf), |own, (right, sibling)| {
        if *right { hash_node(sibling, &own) } else { hash_node(&own, sibling) }
    });
    finish(n, &top) == *root
}

/// The leaves of the left subtree: the largest power of two below `n` (n ≥ 2).
fn left_count(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

fn subtree(leaves: &[Digest]) -> Digest {
    match leaves {
        [leaf] => hash_leaf(leaf),
        _ => {
            let (left, right) = leaves.split_at(left_count(leaves.len() as u64) as usize);
            hash_node(&subtree(left), &subtree(right))
        }
    }
}

fn hash_leaf(leaf: &Digest) -> Digest {
    digest(&[&[0], leaf])
}

fn hash_node(left: &Digest, right: &Digest) -> Digest {
    digest(&[&[1], left, right])
}

fn finish(count: u64, top: &Digest) -> Digest {
    digest(&[&[2], &count.to_be_bytes(), top])
}

fn digest(parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(labels::MERKLE);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(n: usize) -> Vec<Digest> {
        (0..n).map(|i| *blake3::hash(&(i as u64).to_be_bytes()).as_bytes()).collect()
    }

    #[test]
    fn three_leaves_make_the_shape_of_rfc_6962() {
        let l = leaves(3);
        let top = hash_node(&hash_node(&hash_leaf(&l[0]), &hash_leaf(&l[1])), &hash_leaf(&l[2]));
        assert_eq!(root(&l), finish(3, &top));
        assert_eq!(hash_leaf(&l[0]), blake3::derive_key(labels::MERKLE, &[&[0], &l[0][..]].concat()));
        assert_eq!(hash_node(&l[0], &l[1]), blake3::derive_key(labels::MERKLE, &[&[1], &l[0][..], &l[1]].concat()));
        assert_eq!(hex::encode(root(&l)), "71d76f2e5532486fe2757c95a0a6be59486f1549263f8e2b27d3906e3f784d2a");
        assert_eq!(hex::encode(root(&[])), "64e1418c2e0031560fdaa7ae8e3cd01218b12a4e6b3b3ac534532fdf59e2014f");
    }

    #[test]
    fn every_index_of_every_small_tree_has_a_proof_that_fits_only_there() {
        for n in 1..20_usize {
            let l = leaves(n);
            let root = root(&l);
            for i in 0..n {
                let proof = proof(&l, i).unwrap();
                for j in 0..=n {
                    for m in 0..=n + 1 {
                        let fits = verify(&root, &l[i], j as u64, m as u64, &proof);
                        assert_eq!(fits, j == i && m == n, "{i} of {n} as {j} of {m}");
                    }
                }
            }
            assert_eq!(proof(&l, n), None);
        }
    }

    #[test]
    fn a_node_shown_as_a_leaf_is_refused() {
        let l = leaves(4);
        let node = hash_node(&hash_leaf(&l[0]), &hash_leaf(&l[1]));
        let sibling = hash_node(&hash_leaf(&l[2]), &hash_leaf(&l[3]));
        for n in 1..6 {
            assert!(!verify(&root(&l), &node, 0, n, &[sibling]));
        }
    }

    #[test]
    fn every_flipped_bit_of_leaf_proof_and_root_is_refused() {
        let l = leaves(5);
        let (root, proof) = (root(&l), proof(&l, 2).unwrap());
        for bit in 0..256 {
            let flip = |digest: &Digest| {
                let mut bad = *digest;
                bad[bit / 8] ^= 1 << (bit % 8);
                bad
            };
            assert!(!verify(&flip(&root), &l[2], 2, 5, &proof));
            assert!(!verify(&root, &flip(&l[2]), 2, 5, &proof));
            for at in 0..proof.len() {
                let mut bad = proof.clone();
                bad[at] = flip(&bad[at]);
                assert!(!verify(&root, &l[2], 2, 5, &bad));
            }
        }
        assert!(!verify(&root, &l[2], 2, 5, &proof[1..]));
        assert!(!verify(&root, &l[2], 2, 5, &[&proof[..], &[[0; 32]]].concat()));
    }

    #[test]
    fn absurd_counts_end_at_once() {
        assert!(!verify(&[0; 32], &[0; 32], u64::MAX - 1, u64::MAX, &[]));
        assert!(!verify(&[0; 32], &[0; 32], 0, 0, &[]));
    }

    proptest! {
        #[test]
        fn large_trees_verify(n in 1usize..1500, at: proptest::sample::Index) {
            let l = leaves(n);
            let i = at.index(n);
            prop_assert!(verify(&root(&l), &l[i], i as u64, n as u64, &proof(&l, i).unwrap()));
        }
    }
}
