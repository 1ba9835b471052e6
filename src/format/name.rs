//! What may be a file name, a symlink target, an extended attribute's name.

use super::limits::{NAME_MAX_BYTES, SYMLINK_MAX_BYTES};

/// Why bytes cannot be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes, `.` or `..`.
    #[error("the name is empty, '.' or '..'")]
    Reserved,
    /// Contains `/` or NUL.
    #[error("the name contains '/' or a zero byte")]
    Forbidden,
    /// Longer than [`NAME_MAX_BYTES`] (names, attribute names) or [`SYMLINK_MAX_BYTES`] (targets).
    #[error("the name is too long")]
    TooLong,
}

/// Checks one path component. Any byte but `/` and NUL is allowed: names are bytes, not text.
pub fn check_name(name: &[u8]) -> Result<(), NameError> {
    if matches!(name, b"" | b"." | b"..") {
        return Err(NameError::Reserved);
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong);
    }
    forbid(name, b"/\0")
}

/// Checks a symlink's target: 1 to [`SYMLINK_MAX_BYTES`] bytes, no NUL.
pub fn check_symlink_target(target: &[u8]) -> Result<(), NameError> {
    if target.is_empty() {
        return Err(NameError::Reserved);
    }
    if target.len() > SYMLINK_MAX_BYTES {
        return Err(NameError::TooLong);
    }
    forbid(target, b"\0")
}

/// Checks an extended attribute's name: 1 to 255 bytes, no NUL.
pub fn check_xattr_name(name: &[u8]) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Reserved);
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong);
    }
    forbid(name, b"\0")
}

fn forbid(bytes: &[u8], forbidden: &[u8]) -> Result<(), NameError> {
    if bytes.iter().any(|byte| forbidden.contains(byte)) { Err(NameError::Forbidden) } else { Ok(()) }
}
