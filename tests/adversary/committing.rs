//! A chunk of one segment that opens under two keys: the invisible salamander of Grubbs, Lu and Ristenpart (CRYPTO 2017)
//! for ChaCha20-Poly1305.
//!
//! Poly1305 evaluates the ciphertext's blocks as a polynomial in a secret point. For two keys the tags of one ciphertext
//! differ by something linear in each block, so one free block can be chosen such that they are equal.

use kegfs::crypto::chunk::{ChunkKey, seal_into};

/// A number below 2^131, for arithmetic modulo 2^130 - 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Num {
    high: u64,
    low: u128,
}

const P: Num = Num { high: 3, low: u128::MAX - 4 };

impl Num {
    const ZERO: Self = Self { high: 0, low: 0 };

    fn of(low: u128) -> Self {
        Self { high: 0, low }
    }

    fn reduced(self) -> Self {
        let (low, borrow) = self.low.overflowing_sub(P.low);
        match self.high.checked_sub(P.high + u64::from(borrow)) {
            Some(high) => Self { high, low }.reduced(),
            None => self,
        }
    }

    fn add(self, other: Self) -> Self {
        let (low, carry) = self.low.overflowing_add(other.low);
        Self { high: self.high + other.high + u64::from(carry), low }.reduced()
    }

    fn negated(self) -> Self {
        let (low, borrow) = P.low.overflowing_sub(self.low);
        Self { high: P.high - self.high - u64::from(borrow), low }.reduced()
    }

    fn sub(self, other: Self) -> Self {
        self.add(other.negated())
    }

    fn bit(self, at: u32) -> bool {
        if at < 128 { self.low >> at & 1 == 1 } else { self.high >> (at - 128) & 1 == 1 }
    }

    fn mul(self, other: Self) -> Self {
        (0..130).rev().fold(Self::ZERO, |product, at| {
            let doubled = product.add(product);
            if other.bit(at) { doubled.add(self) } else { doubled }
        })
    }

    fn pow(self, exponent: Self) -> Self {
        (0..130).rev().fold(Self::of(1), |power, at| {
            let squared = power.mul(power);
            if exponent.bit(at) { squared.mul(self) } else { squared }
        })
    }

    fn inverse(self) -> Self {
        self.pow(Self { high: P.high, low: P.low - 2 })
    }
}

/// A block of 16 bytes as the polynomial has it.
fn block(bytes: &[u8]) -> Num {
    Num { high: 1, low: u128::from_le_bytes(bytes.try_into().unwrap()) }
}

/// The secret point of the tags of the first segment under `key`, found by sealing: the tag of a known text tells it
/// to who has the key. Computed from the cipher's first key stream block (RFC 8439 §2.6).
struct Tagger {
    point: Num,
    pad: u128,
}

impl Tagger {
    fn of(key: &ChunkKey) -> Self {
        use chacha20::cipher::{KeyIvInit, StreamCipher};
        let cipher_key = kegfs::crypto::kdf::derive(kegfs::crypto::labels::CHUNK_CIPHER, &[key.as_bytes()]);
        // Segment 0, which is the last: 19 zeros, the counter 0, the flag 1.
        let mut nonce = [0; 24];
        nonce[23] = 1;
        let mut stream = [0; 32];
        chacha20::XChaCha20::new(cipher_key.as_bytes().into(), (&nonce).into()).apply_keystream(&mut stream);
        let clamp = 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
        let (point, pad) = stream.split_at(16);
        let point = u128::from_le_bytes(point.try_into().unwrap()) & clamp;
        Self { point: Num::of(point), pad: u128::from_le_bytes(pad.try_into().unwrap()) }
    }

    /// The polynomial over ciphertext and lengths, without the pad.
    fn polynomial(&self, ciphertext: &[u8]) -> Num {
        let lengths = (ciphertext.len() as u128) << 64;
        let blocks = ciphertext.chunks(16).map(block).chain([Num { high: 1, low: lengths }]);
        blocks.fold(Num::ZERO, |sum, block| sum.add(block).mul(self.point))
    }
}

/// Ciphertext and tag of one segment that both keys open.
pub fn one_ciphertext_for(one: &ChunkKey, other: &ChunkKey) -> Vec<u8> {
    let (first, second) = (Tagger::of(one), Tagger::of(other));
    // Three blocks: the first carries a text under the first key, the second is free, the third is the one to find.
    let mut sealed = Vec::new();
    seal_into(one, b"transfer 10 euro to alice now, she has earned it", &mut sealed).unwrap();
    let mut ciphertext = sealed[..48].to_vec();
    // Position of the block to be found, counted from the end with the lengths: its coefficient is point^2.
    let weight = |tagger: &Tagger| tagger.point.mul(tagger.point);
    let slope = weight(&first).sub(weight(&second)).inverse();
    for attempt in 0_u128.. {
        ciphertext[16..32].copy_from_slice(&attempt.to_le_bytes());
        ciphertext[32..48].fill(0);
        // Tags are equal when the polynomials differ by the pads' difference.
        let pads = Num::of(second.pad).sub(Num::of(first.pad));
        let now = first.polynomial(&ciphertext).sub(second.polynomial(&ciphertext));
        let found = pads.sub(now).mul(slope);
        if found.high > 0 {
            continue;
        }
        ciphertext[32..48].copy_from_slice(&found.low.to_le_bytes());
        let tag = |tagger: &Tagger| tagger.polynomial(&ciphertext).low.wrapping_add(tagger.pad);
        // The final sum is taken modulo 2^128, which the equation above does not know: about half of the tries fit.
        if tag(&first) == tag(&second) {
            return [&ciphertext[..], &tag(&first).to_le_bytes()].concat();
        }
    }
    unreachable!("one in about eight tries fits")
}
