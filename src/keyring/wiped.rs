//! Canonical bytes of secrets: the same layouts as `format::encode`, without copies left behind in freed memory.

use std::convert::Infallible;

use minicbor::encode::Write;
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::format::FormatError;

/// Counts bytes, so that the real buffer never has to grow (growing would leave the old one behind, unwiped).
struct Counter(usize);

impl Write for Counter {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0 += bytes.len();
        Ok(())
    }
}

/// The canonical bytes of `value`, wiped when dropped.
pub(super) fn encode<T: Encode<()>>(value: &T) -> Zeroizing<Vec<u8>> {
    let mut counter = Counter(0);
    // Neither counting nor writing to a Vec has an error, and no layout here has a failing encoder.
    let _ = minicbor::encode(value, &mut counter);
    let mut bytes = Zeroizing::new(Vec::with_capacity(counter.0));
    let _ = minicbor::encode(value, &mut *bytes);
    bytes
}

/// Decodes `bytes` and checks that they are exactly [`encode`] of the result.
pub(super) fn decode<'b, T: Decode<'b, ()> + Encode<()>>(bytes: &'b [u8]) -> Result<T, FormatError> {
    // The decoder's message could tell of the bytes; that they are damaged says enough.
    let value: T = minicbor::decode(bytes).map_err(|_| FormatError::Malformed("stored secrets".to_owned()))?;
    if *encode(&value) == bytes { Ok(value) } else { Err(FormatError::NotCanonical) }
}
