//! What a new program inherits of this process's open files.
//!
//! Must not know which program it is.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

/// Marks every open descriptor from `first` on to be closed when another program is executed.
///
/// Rust opens files that way by itself; this is for what the process that started this one left open.
///
/// # Errors
/// Those of `close_range(2)`, which Linux has since 5.11 in this form.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: only flags of descriptors change, none is closed now.
    let refused = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    #[test]
    fn a_descriptor_without_the_flag_is_closed_in_the_next_program() {
        // A number that the other program does not use itself.
        // SAFETY: the duplicate is owned by nobody else.
        let kept = unsafe { OwnedFd::from_raw_fd(libc::fcntl(2, libc::F_DUPFD, 500)) };
        close_on_exec_from(3).unwrap();
        let listed = std::process::Command::new("ls").arg("/proc/self/fd").output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(!listed.lines().any(|fd| fd == kept.as_raw_fd().to_string()), "{listed}");
        // It is still open here.
        assert!(std::fs::metadata(format!("/proc/self/fd/{}", kept.as_raw_fd())).is_ok());
    }
}
