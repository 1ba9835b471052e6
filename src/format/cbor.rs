//! Canonical CBOR: one encoding per value, enforced by encoding again what was decoded.

/// Why bytes are not a value of the expected layout.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// Not parseable as the expected layout.
    #[error("malformed data: {0}")]
    Malformed(String),
    /// Parseable, but not the bytes that encoding the value gives.
    #[error("data is not in canonical form")]
    NotCanonical,
    /// A value outside the bounds of [`super::limits`].
    #[error("out of bounds: {0}")]
    OutOfBounds(&'static str),
    /// Text or bytes that are not an identifier of the named type.
    #[error("not a valid {0}")]
    BadId(&'static str),
    /// A suite that this version does not know. Tells the user what to do, since only an update helps.
    #[error("format suite {0} is not supported by this version; update KegFS")]
    UnknownSuite(u16),
    /// Something that the suite which the bytes name does not have.
    #[error("it contains something that format suite {0} does not have")]
    NotInSuite(u16),
}

/// The canonical bytes of `value`.
pub fn encode<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    // Writing to a Vec has no error (core::convert::Infallible), and no layout here has a failing encoder.
    let _ = minicbor::encode(value, &mut bytes);
    bytes
}

/// Decodes `bytes` and checks that they are exactly [`encode`] of the result: no trailing bytes, no longer form of an
/// integer or a length, no unknown field.
pub fn decode<'b, T: minicbor::Decode<'b, ()> + minicbor::Encode<()>>(bytes: &'b [u8]) -> Result<T, FormatError> {
    let value: T = minicbor::decode(bytes).map_err(|error| FormatError::Malformed(error.to_string()))?;
    if encode(&value) == bytes { Ok(value) } else { Err(FormatError::NotCanonical) }
}
