//! The exit codes of mount(8) and how the outcome of `kegfs mount` becomes one of them.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

/// What mount(8) is told (mount(8), "EXIT STATUS"). Two of its codes never arise here: 16, since nobody writes an mtab
/// any more, and 64 (some mounts succeeded), since a helper mounts one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The mount answers.
    Mounted = 0,
    /// Wrong arguments, or not permitted.
    Usage = 1,
    /// The system lacks something: the `kegfs` program, a user, a namespace.
    System = 2,
    /// A bug: `kegfs` died.
    Bug = 4,
    /// Interrupted by the user.
    Interrupted = 8,
    /// `kegfs` said why it could not mount.
    Failed = 32,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Signals by which a user or the system stops a program.
const STOPPED: [i32; 3] = [1, 2, 15]; // SIGHUP, SIGINT, SIGTERM

/// Shells and careful programs report death by signal n as 128 + n.
const SIGNAL_BASE: i32 = 128;

/// The code with which a Rust program ends after a panic.
const PANIC: i32 = 101;

/// The code with which argument parsers (clap) refuse a command line.
const REFUSED_ARGUMENTS: i32 = 2;

impl Exit {
    /// Translates the end of `kegfs mount`.
    pub fn of(status: ExitStatus) -> Exit {
        match (status.code(), status.signal()) {
            (Some(0), _) => Exit::Mounted,
            (Some(REFUSED_ARGUMENTS), _) => Exit::Usage,
            (Some(PANIC), _) => Exit::Bug,
            (Some(code), _) if STOPPED.contains(&(code - SIGNAL_BASE)) => Exit::Interrupted,
            (Some(_), _) => Exit::Failed,
            (None, Some(signal)) if STOPPED.contains(&signal) => Exit::Interrupted,
            (None, _) => Exit::Bug,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// wait(2) keeps the code in the second byte and a signal in the first.
    fn exited(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn every_end_of_kegfs_has_its_code() {
        assert_eq!(Exit::of(exited(0)), Exit::Mounted);
        assert_eq!(Exit::of(exited(1)), Exit::Failed);
        assert_eq!(Exit::of(exited(2)), Exit::Usage);
        assert_eq!(Exit::of(exited(3)), Exit::Failed);
        assert_eq!(Exit::of(exited(101)), Exit::Bug);
        assert_eq!(Exit::of(exited(130)), Exit::Interrupted);
        assert_eq!(Exit::of(exited(143)), Exit::Interrupted);
        assert_eq!(Exit::of(ExitStatus::from_raw(2)), Exit::Interrupted, "SIGINT");
        assert_eq!(Exit::of(ExitStatus::from_raw(6)), Exit::Bug, "SIGABRT");
        assert_eq!(Exit::of(ExitStatus::from_raw(9)), Exit::Bug, "SIGKILL");
    }

    #[test]
    fn only_success_is_zero() {
        for code in 1..=255 {
            assert_ne!(Exit::of(exited(code)), Exit::Mounted, "code {code}");
        }
        for signal in 1..=64 {
            assert_ne!(Exit::of(ExitStatus::from_raw(signal)), Exit::Mounted, "signal {signal}");
        }
    }

    #[test]
    fn codes_are_those_of_mount() {
        let codes =
            [Exit::Mounted, Exit::Usage, Exit::System, Exit::Bug, Exit::Interrupted, Exit::Failed].map(|e| e as u8);
        assert_eq!(codes, [0, 1, 2, 4, 8, 32]);
    }
}
