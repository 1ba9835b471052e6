//! What a command reports when it fails: a message with the next step, and an exit code.
//!
//! Must not hold secrets: a failure crosses the control socket and is shown to people.

use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fuse::{MountError, UnmountError};

/// The documented exit codes; see `kegfs --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// None of the others.
    Failure,
    /// Wrong use of the command line.
    Usage,
    /// The passphrase does not open the keystore.
    WrongPassphrase,
    /// No connection to the server.
    Unreachable,
    /// The server, or the folder's rules, said no.
    Refused,
    /// The mountpoint cannot be used.
    Mountpoint,
    /// A local file is not what was written.
    Corrupt,
    /// No space left.
    DiskFull,
    /// Somebody else uses it.
    Busy,
    /// `kegfs doctor` has listed something that is not as it should be.
    Found,
}

impl Code {
    /// The process's exit status.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::WrongPassphrase => 3,
            Self::Unreachable => 4,
            Self::Refused => 5,
            Self::Mountpoint => 6,
            Self::Corrupt => 7,
            Self::DiskFull => 8,
            Self::Busy => 9,
            Self::Found => 10,
        }
    }
}

/// A failed command: what happened, to what, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind, as an exit code.
    pub code: Code,
    /// One or two sentences for people.
    pub message: String,
}

impl Failure {
    /// A failure with `message`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A failed access to a local file: `what` says what was being done to `path`.
    pub fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        if is_disk_full(error) {
            return Self::new(
                Code::DiskFull,
                format!(
                    "the disk of {} is full while {what}; free some space and try again (nothing was lost)",
                    path.display()
                ),
            );
        }
        let next = match error.kind() {
            io::ErrorKind::PermissionDenied => "; check its owner and permissions",
            _ => "",
        };
        Self::new(Code::Failure, format!("{what}: {}: {error}{next}", path.display()))
    }
}

/// No space or quota left.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let code = match &error {
            MountError::NoDevice | MountError::NoHelper => Code::Failure,
            MountError::Missing { .. }
            | MountError::NotDirectory { .. }
            | MountError::NotEmpty { .. }
            | MountError::AlreadyMounted { .. }
            | MountError::ForeignMount { .. }
            | MountError::Dead { .. }
            | MountError::NoPermission { .. }
            | MountError::Inaccessible { .. }
            | MountError::Failed { .. } => Code::Mountpoint,
        };
        Self::new(code, error.to_string())
    }
}

impl From<UnmountError> for Failure {
    fn from(error: UnmountError) -> Self {
        let code = match &error {
            UnmountError::Busy { .. } => Code::Busy,
            UnmountError::NotMounted { .. } | UnmountError::Failed { .. } => Code::Mountpoint,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_errors() {
        let path = Path::new("/p/keystore");
        let full = Failure::io("writing the keystore", path, &io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(full.code, Code::DiskFull);
        let quota = Failure::io("writing the keystore", path, &io::Error::from_raw_os_error(libc::EDQUOT));
        assert_eq!(quota.code, Code::DiskFull);
        let denied = Failure::io("writing the keystore", path, &io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(denied.code, Code::Failure);
        assert!(denied.message.contains("/p/keystore") && denied.message.contains("permissions"));
    }
}
