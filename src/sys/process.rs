//! What a process may do to itself and learn about its peers.
//!
//! Must not know which process this is: the command line decides when to harden and whom to trust.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// Ends the process at once, without the exit handlers of C libraries: OpenSSL's frees what threads that still run use
/// (seen as "double free or corruption" after a command had done its work). The caller has flushed what it wrote.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions and does not return.
    unsafe { libc::_exit(status.into()) }
}

/// Keeps the process's memory out of core dumps and away from debuggers of the same user.
///
/// `PR_SET_DUMPABLE` 0 also makes `/proc/self` belong to root: whoever needs its entries (for
/// example `fusermount3` through `/proc/self/fd`) must be done with them, or root.
///
/// # Errors
/// Those of `prctl(2)` and `setrlimit(2)`.
pub fn harden() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Sets the nice value of the calling thread alone (Linux schedules threads), -20 to 19.
///
/// # Errors
/// `PermissionDenied` when lowering it without the privilege.
pub fn set_thread_nice(nice: i32) -> io::Result<()> {
    // SAFETY: `gettid` has no preconditions, and `setpriority` takes integers only.
    let refused = unsafe {
        let thread = libc::gettid().unsigned_abs();
        libc::setpriority(libc::PRIO_PROCESS, thread, nice)
    };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the limit of open files to what the system allows this process; returns the new limit.
///
/// A mount holds a descriptor for each file of the spool and cache in use, and 1,024, the usual soft
/// limit, is soon reached.
///
/// # Errors
/// Those of `getrlimit(2)` and `setrlimit(2)`.
pub fn raise_nofile_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// The user id of the process at the other end of a Unix socket, as of when it connected.
///
/// # Errors
/// Those of `getsockopt(2)`, for example when `socket` is not a Unix socket.
pub fn peer_uid(socket: &impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(&socket.as_fd(), PeerCredentials)?.uid())
}

/// The supplementary groups of a process; none of one that is gone. From `/proc`, see proc_pid_status(5).
pub fn groups(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn groups_are_those_that_the_process_has() {
        let own: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
        let told = groups(std::process::id());
        assert!(own.iter().all(|group| told.contains(group)), "{own:?} {told:?}");
        assert!(groups(u32::MAX).is_empty());
    }

    #[test]
    fn the_peer_of_a_socket_pair_is_this_user() {
        let (one, _other) = UnixStream::pair().unwrap();
        // SAFETY: `geteuid` has no preconditions.
        assert_eq!(peer_uid(&one).unwrap(), unsafe { libc::geteuid() });
    }

    #[test]
    fn the_nice_value_changes_in_the_calling_thread_only() {
        // SAFETY: `getpriority` and `gettid` take and return integers only.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::gettid().unsigned_abs()) };
        let before = nice();
        let inside = std::thread::spawn(move || {
            set_thread_nice(before + 1).unwrap();
            nice()
        });
        assert_eq!(inside.join().unwrap(), before + 1);
        assert_eq!(nice(), before);
    }

    #[test]
    fn the_file_limit_reaches_the_hard_limit() {
        let limit = raise_nofile_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }

    #[test]
    fn a_hardened_process_leaves_no_core_dump() {
        // In a child: the other tests of this process stay as they are.
        // SAFETY: the child makes system calls only and leaves without running destructors.
        match unsafe { libc::fork() } {
            0 => {
                let hard = harden().is_ok()
                    && prctl::get_dumpable() == Ok(false)
                    && getrlimit(Resource::RLIMIT_CORE) == Ok((0, 0));
                unsafe { libc::_exit(if hard { 0 } else { 1 }) }
            }
            child => {
                let mut status = -1;
                // SAFETY: waits for the child just made and stores its status in a local.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert_eq!(status, 0);
            }
        }
    }
}
