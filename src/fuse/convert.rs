//! Values of the vfs as values of the kernel protocol, and back.
//!
//! Must not decide anything: what has no counterpart is `None`, and the adapter answers EINVAL.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, OpenAccMode, OpenFlags, RenameFlags, Request, TimeOrNow};

use crate::vfs::{
    Allocate, Attr, Caller, LOCK_END, LockSpace, LockSpan, NodeKind, OpenMode, RenameMode, SetTime, XattrMode,
};

/// What `stat` recommends as the size of reads and writes: large enough that copying tools fill whole
/// requests of the kernel, small enough for editors that allocate it.
const BLOCK_SIZE: u32 = 128 << 10;

pub(super) fn attr(from: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(from.ino),
        size: from.size,
        blocks: from.blocks,
        atime: time(from.atime_ns),
        mtime: time(from.mtime_ns),
        ctime: time(from.ctime_ns),
        crtime: time(from.btime_ns),
        kind: kind(from.kind),
        perm: from.mode & 0o7777,
        nlink: from.nlink,
        uid: from.uid,
        gid: from.gid,
        rdev: from.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// Attributes of an inode of which only number and kind are told, for `.` and `..` in listings: the
/// kernel uses nothing else of them.
pub(super) fn bare(ino: u64, of: NodeKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(of),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

pub(super) fn kind(from: NodeKind) -> FileType {
    match from {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
        NodeKind::Socket => FileType::Socket,
    }
}

/// The kind in the mode of mknod(2), where no kind means a regular file.
pub(super) fn kind_of_mode(mode: u32) -> Option<NodeKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(NodeKind::File),
        libc::S_IFIFO => Some(NodeKind::Fifo),
        libc::S_IFCHR => Some(NodeKind::CharDevice),
        libc::S_IFBLK => Some(NodeKind::BlockDevice),
        libc::S_IFSOCK => Some(NodeKind::Socket),
        _ => None,
    }
}

/// The twelve mode bits.
pub(super) fn mode_bits(mode: u32) -> u16 {
    // Masked to twelve bits, so nothing is cut off.
    (mode & 0o7777) as u16
}

pub(super) fn time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    let time = if ns < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

pub(super) fn nanos(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

pub(super) fn set_time(from: TimeOrNow) -> SetTime {
    match from {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(nanos(time)),
    }
}

pub(super) fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask }
}

pub(super) fn open_mode(flags: OpenFlags) -> OpenMode {
    let access = flags.acc_mode();
    let write = access != OpenAccMode::O_RDONLY;
    let exclusive = flags.0 & libc::O_EXCL != 0;
    OpenMode { read: access != OpenAccMode::O_WRONLY, write, exclusive }
}

pub(super) fn rename_mode(flags: RenameFlags, caller: Caller) -> Option<RenameMode> {
    const NOREPLACE: RenameFlags = RenameFlags::RENAME_NOREPLACE;
    const WHITEOUT: RenameFlags = RenameFlags::RENAME_WHITEOUT;
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else if flags == WHITEOUT {
        Some(RenameMode::Whiteout { caller, replace: true })
    } else if flags == WHITEOUT | NOREPLACE {
        Some(RenameMode::Whiteout { caller, replace: false })
    } else {
        None
    }
}

pub(super) fn xattr_mode(flags: i32) -> Option<XattrMode> {
    const BOTH: i32 = libc::XATTR_CREATE | libc::XATTR_REPLACE;
    match flags {
        0 => Some(XattrMode::Set),
        libc::XATTR_CREATE => Some(XattrMode::Create),
        libc::XATTR_REPLACE => Some(XattrMode::Replace),
        BOTH => Some(XattrMode::CreateAndReplace),
        _ => None,
    }
}

/// Which locks see each other.
pub(super) fn lock_space(flock: bool) -> LockSpace {
    if flock { LockSpace::Flock } else { LockSpace::Posix }
}

/// The range of a lock and how it is locked; `None` for a range that is none, or for no lock.
pub(super) fn lock_span(start: u64, end: u64, typ: i32, flock: bool) -> Option<LockSpan> {
    let exclusive = match typ {
        libc::F_RDLCK => false,
        libc::F_WRLCK => true,
        _ => return None,
    };
    let end = end.min(LOCK_END);
    (start <= end).then_some(LockSpan { space: lock_space(flock), start, end, exclusive })
}

/// fallocate(2)'s modes; those that move data (collapse, insert) are not offered.
pub(super) fn allocate(mode: i32) -> Option<Allocate> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Some(Allocate::Extend),
        libc::FALLOC_FL_KEEP_SIZE => Some(Allocate::KeepSize),
        PUNCH => Some(Allocate::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Some(Allocate::ZeroRange { keep_size: false }),
        ZERO_KEEP => Some(Allocate::ZeroRange { keep_size: true }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970_survive_both_ways() {
        for ns in [0, 1, -1, 1_700_000_000_123_456_789, -1_700_000_000_123_456_789, i64::MAX, i64::MIN + 1] {
            assert_eq!(nanos(time(ns)), ns);
        }
    }

    #[test]
    fn the_access_mode_tells_what_a_handle_may_do() {
        let mode = |flags| {
            let OpenMode { read, write, exclusive } = open_mode(OpenFlags(flags));
            (read, write, exclusive)
        };
        assert_eq!(mode(libc::O_RDONLY), (true, false, false));
        assert_eq!(mode(libc::O_WRONLY), (false, true, false));
        assert_eq!(mode(libc::O_RDWR | libc::O_EXCL), (true, true, true));
    }

    #[test]
    fn unknown_flags_have_no_counterpart() {
        let exchange = RenameFlags::RENAME_EXCHANGE;
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT | exchange, Caller::default()), None);
        assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE | exchange, Caller::default()), None);
        assert_eq!(xattr_mode(4), None);
        assert_eq!(allocate(libc::FALLOC_FL_COLLAPSE_RANGE), None);
        assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE), None);
        assert_eq!(kind_of_mode(libc::S_IFDIR), None);
    }
}
