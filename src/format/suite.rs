//! Format suites: which ones are read, and what each may contain.

use super::FormatError;
use super::limits::{SUITE, SUITE_OLDEST};

/// Bytes of `suite` may be read here, and may contain what suite `since` introduced. An unknown suite is never read as a
/// known one (THREATS row 33); that a folder or account does not go back to an older one is for `keyring` to see.
pub(super) fn check_suite(suite: u16, since: u16) -> Result<(), FormatError> {
    if !(SUITE_OLDEST..=SUITE).contains(&suite) {
        Err(FormatError::UnknownSuite(suite))
    } else if since > suite {
        Err(FormatError::NotInSuite(suite))
    } else {
        Ok(())
    }
}
