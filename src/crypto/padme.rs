//! Padding that hides lengths.
//!
//! # Construction
//! Padmé (Nikitin, Barman, Lueks, Underwood, Hubaux, Ford: "Reducing Metadata Leakage from
//! Encrypted Files and Communication with PURBs", PETS 2019, section 4): a length is rounded up
//! so that its mantissa is no longer than its exponent. A length up to L leaks O(log log L) bits
//! and costs at most 12 % (below 6 % from 1 KiB, below 3 % from 1 MiB).
//!
//! Content is followed by one byte 0x80 and zeros up to the padded length (ISO/IEC 7816-4), so
//! every content has exactly one padded form.

use super::CryptoError;

/// The length that a message of `len` bytes is padded to: at least `len`. Lengths too large to be
/// rounded within u64 are returned as they are.
pub const fn padded_len(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = len.ilog2();
    let mantissa = exponent.ilog2() + 1;
    let Some(clear) = exponent.checked_sub(mantissa) else {
        return len;
    };
    let mask = (1 << clear) - 1;
    match len.checked_add(mask) {
        Some(sum) => sum & !mask,
        None => len,
    }
}

/// Pads `content`; the result is [`padded_len`]`(content.len() + 1)` bytes long.
pub fn pad(mut content: Vec<u8>) -> Vec<u8> {
    let length = padded_len(content.len() as u64 + 1) as usize;
    content.push(0x80);
    content.resize(length, 0);
    content
}

/// The content that [`pad`] was given. Meant for bytes that were authenticated before.
///
/// # Errors
/// [`CryptoError::Malformed`] for bytes that [`pad`] does not make: without the mark, or longer or
/// shorter than they have to be.
pub fn unpad(padded: &[u8]) -> Result<&[u8], CryptoError> {
    const MALFORMED: CryptoError = CryptoError::Malformed("padding");
    let mark = padded.iter().rposition(|b| *b != 0).ok_or(MALFORMED)?;
    let exact = padded_len(mark as u64 + 1) == padded.len() as u64;
    if padded[mark] == 0x80 && exact { Ok(&padded[..mark]) } else { Err(MALFORMED) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_those_of_the_paper() {
        // Computed by hand from algorithm 1: E = ⌊log2 L⌋, S = ⌊log2 E⌋ + 1, E - S low bits cleared.
        for (len, padded) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (8, 8),
            (9, 10), // E=3 S=2 z=1
            (15, 16),
            (16, 16),
            (17, 18),               // E=4 S=3 z=1
            (100, 104),             // E=6 S=3 z=3
            (1000, 1024),           // E=9 S=4 z=5
            (1025, 1088),           // E=10 S=4 z=6
            (65_537, 67_584),       // E=16 S=5 z=11
            (4_194_305, 4_325_376), // E=22 S=5 z=17
        ] {
            assert_eq!(padded_len(len), padded, "{len}");
        }
    }

    #[test]
    fn padding_is_one_mark_and_zeros() {
        assert_eq!(pad(b"".to_vec()), [0x80]);
        assert_eq!(pad(b"12345678".to_vec()), b"12345678\x80\x00");
        assert_eq!(pad(vec![0; 8]), [0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0]);
    }

    #[test]
    fn what_pad_does_not_make_is_refused() {
        for bad in [&b""[..], b"\0", b"12345678", b"12345678\x81\0", b"12345678\x80\0\0", b"1234567890\x80", b"\x80\0"]
        {
            assert!(unpad(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn huge_lengths_do_not_overflow() {
        assert_eq!(padded_len(u64::MAX), u64::MAX);
        assert_eq!(padded_len(1 << 63), 1 << 63);
    }

    proptest! {
        #[test]
        fn any_content_comes_back(content: Vec<u8>) {
            let padded = pad(content.clone());
            prop_assert_eq!(padded.len() as u64, padded_len(content.len() as u64 + 1));
            prop_assert_eq!(unpad(&padded).unwrap(), &content[..]);
        }

        #[test]
        fn any_accepted_bytes_are_what_pad_makes(mut bytes in proptest::collection::vec(0u8..2, 0..70)) {
            bytes.iter_mut().for_each(|b| *b *= 0x80);
            if let Ok(content) = unpad(&bytes) {
                prop_assert_eq!(pad(content.to_vec()), bytes);
            }
        }

        #[test]
        fn padding_is_monotonic_idempotent_and_cheap(len in 0u64..1 << 40) {
            let padded = padded_len(len);
            prop_assert!(padded >= len && padded_len(padded) == padded);
            prop_assert!(padded_len(len + 1) >= padded);
            prop_assert!((padded - len) * 100 <= len * 12);
        }
    }
}
