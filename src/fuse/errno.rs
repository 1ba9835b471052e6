//! The one table from situations to errno numbers.
//!
//! No wildcard arm: a new error does not compile until it has its number, and a changed number is a
//! change of documented behaviour (docs/SEMANTICS.md).

use fuser::Errno;

use crate::vfs::{ReadOnlyReason, VfsError};

/// The number an application sees for `error`.
pub fn errno_of(error: &VfsError) -> Errno {
    match error {
        VfsError::NotFound => Errno::ENOENT,
        VfsError::Exists => Errno::EEXIST,
        VfsError::NotDirectory => Errno::ENOTDIR,
        VfsError::IsDirectory => Errno::EISDIR,
        VfsError::NotEmpty => Errno::ENOTEMPTY,
        VfsError::NoPermission => Errno::EPERM,
        // As the missing `w` in the mode bits would have it; reached by root, whom they do not stop.
        VfsError::ReadOnly(ReadOnlyReason::Role(_)) => Errno::EACCES,
        VfsError::ReadOnly(ReadOnlyReason::Frozen | ReadOnlyReason::View) => Errno::EROFS,
        VfsError::NameTooLong => Errno::ENAMETOOLONG,
        VfsError::InvalidArgument => Errno::EINVAL,
        VfsError::BadHandle => Errno::EBADF,
        VfsError::NoAttribute => Errno::NO_XATTR,
        // lseek(2): SEEK_DATA and SEEK_HOLE beyond the end.
        VfsError::PastEnd => Errno::ENXIO,
        VfsError::NoSpace => Errno::ENOSPC,
        // "Host is down": no other file system error reads like it, so that offline can be told from broken.
        VfsError::Offline => Errno::EHOSTDOWN,
        VfsError::TimedOut => Errno::ETIMEDOUT,
        // The documented answer of open handles of a folder that was locked or left.
        VfsError::Gone => Errno::ESTALE,
        // Never reaches a program: the kernel looks the name up once more (`LOOKUP_REVAL`).
        VfsError::Outdated => Errno::ESTALE,
        VfsError::Corrupt(_) => Errno::EIO,
        VfsError::TooLarge => Errno::EFBIG,
        VfsError::CrossFolder => Errno::EXDEV,
        VfsError::Locked => Errno::EAGAIN,
        VfsError::Deadlock => Errno::EDEADLK,
        VfsError::Interrupted => Errno::EINTR,
        VfsError::NoLocks => Errno::ENOLCK,
        VfsError::Unsupported => Errno::EOPNOTSUPP,
        VfsError::Storage(_) => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offline_gone_and_damaged_can_be_told_apart() {
        let numbers = [
            errno_of(&VfsError::Offline),
            errno_of(&VfsError::Gone),
            errno_of(&VfsError::corrupt("x")),
            errno_of(&VfsError::NoSpace),
            errno_of(&VfsError::TimedOut),
        ];
        for (index, number) in numbers.iter().enumerate() {
            assert!(!numbers[..index].contains(number), "{number:?}");
        }
    }
}
