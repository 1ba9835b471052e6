//! The kernel's requests, each passed to the vfs and its answer passed back.
//!
//! Boring by intent: call, match, reply. What may be done and what it does is decided in the vfs.
//! A panic is caught here: the request that caused it is answered with EIO (a reply that is dropped
//! answers so by itself), the mount lives on.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, RequestId, TimeOrNow, WriteFlags,
};

use super::convert;
use super::errno::errno_of;
use crate::vfs::{Entry, InTheWay, LOCK_END, LockRequest, NodeKind, Opened, SetAttr, Vfs, VfsError};

/// Inode numbers are never used twice, so there is one generation.
const GENERATION: Generation = Generation(0);

/// The largest write and read request. The kernel allows 256 pages unless `fs.fuse.max_pages_limit`
/// was raised, and larger ones were not faster.
const MAX_REQUEST_BYTES: u32 = 1 << 20;

/// Background requests (readahead, asynchronous direct I/O) that the kernel keeps under way. The
/// default of 16 is one readahead window of 4 MiB and a bit; mountpoint-s3 gained half with 64 and more.
const MAX_BACKGROUND: u16 = 128;

/// What is asked of the kernel where it has it; see FUSE.md for what is deliberately absent, above all
/// the writeback cache, which assumes that nobody else writes.
const CAPABILITIES: &[(InitFlags, &str)] = &[
    (InitFlags::FUSE_PARALLEL_DIROPS, "lookups and listings of one directory at the same time"),
    (InitFlags::FUSE_DO_READDIRPLUS, "attributes come with the names: they are local here"),
    (InitFlags::FUSE_READDIRPLUS_AUTO, "but only while somebody looks at them"),
    (InitFlags::FUSE_ASYNC_DIO, "parts of one direct read or write at the same time"),
    (InitFlags::FUSE_CACHE_SYMLINKS, "targets never change"),
    (InitFlags::FUSE_EXPLICIT_INVAL_DATA, "pages are dropped when we say so, not when an mtime moves"),
    (InitFlags::FUSE_POSIX_LOCKS, "other members see locks of fcntl"),
    (InitFlags::FUSE_FLOCK_LOCKS, "and those of flock"),
    (InitFlags::FUSE_ABORT_ERROR, "a cut connection reads as ECONNABORTED, a dead one as ENOTCONN"),
];

/// The vfs as a fuser file system.
pub(super) struct Adapter {
    vfs: Arc<Vfs>,
    /// Dropped with the adapter: how the session's end is noticed.
    _alive: Sender<()>,
}

impl Adapter {
    /// `alive` is dropped when the session ends, whoever ends it.
    pub(super) fn new(vfs: Arc<Vfs>, alive: Sender<()>) -> Self {
        Self { vfs, _alive: alive }
    }
}

/// Runs `body`; a panic becomes a line in the log. The message of a panic may quote file names, so
/// only its place is logged, by the process's panic hook.
fn guarded(operation: &'static str, body: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(body)).is_err() {
        tracing::error!(operation, "a request caused a panic and was answered with EIO");
    }
}

fn entry(reply: ReplyEntry, result: Result<Entry, VfsError>) {
    match result {
        Ok(entry) => reply.entry(&entry.ttl, &convert::attr(&entry.attr), GENERATION),
        Err(error) => reply.error(errno_of(&error)),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), VfsError>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno_of(&error)),
    }
}

fn written(reply: ReplyWrite, result: Result<u32, VfsError>) {
    match result {
        Ok(count) => reply.written(count),
        Err(error) => reply.error(errno_of(&error)),
    }
}

/// An attribute's value or list under getxattr(2)'s rule: `size` 0 asks for the length.
fn xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, VfsError>) {
    match result {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(length) if size == 0 => reply.size(length),
            Ok(length) if length <= size => reply.data(&value),
            Ok(_) | Err(_) => reply.error(Errno::ERANGE),
        },
        Err(error) => reply.error(errno_of(&error)),
    }
}

fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache);
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct);
    flags
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for (capability, reason) in CAPABILITIES {
            if config.add_capabilities(*capability).is_err() {
                tracing::debug!(?capability, reason, "this kernel does not have it");
            }
        }
        // Where the kernel does not enforce access control lists, the mount is not to be (all since Linux 4.9 do). The
        // umask is left to the vfs: a directory with a default list has new files heed that instead.
        if self.vfs.has_acls() {
            let lists = InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK;
            config.add_capabilities(lists).map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
        }
        // Each returns the nearest possible value when ours is out of its range.
        if let Err(nearest) = config.set_max_write(MAX_REQUEST_BYTES) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(MAX_REQUEST_BYTES) {
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded("lookup", || match self.vfs.lookup(parent.0, name.as_bytes()) {
            Err(VfsError::NotFound) => {
                let ttl = self.vfs.negative_ttl(parent.0);
                if ttl.is_zero() {
                    reply.error(Errno::ENOENT);
                } else {
                    // Inode number 0: there is no such name, and the kernel may remember it.
                    reply.entry(&ttl, &convert::bare(0, NodeKind::File), GENERATION);
                }
            }
            result => entry(reply, result),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        guarded("forget", || self.vfs.forget(ino.0, count));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        guarded("getattr", || attributes(reply, self.vfs.getattr(ino.0)));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        guarded("setattr", || {
            let set = SetAttr {
                mode: mode.map(convert::mode_bits),
                uid,
                gid,
                size,
                atime: atime.map(convert::set_time),
                mtime: mtime.map(convert::set_time),
                fh: fh.map(|fh| fh.0),
            };
            attributes(reply, self.vfs.setattr(ino.0, &set, &convert::caller(req, 0)));
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        guarded("readlink", || match self.vfs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno_of(&error)),
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        guarded("mknod", || {
            let Some(kind) = convert::kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
            let caller = convert::caller(req, umask);
            let made = self.vfs.mknod(parent.0, name.as_bytes(), kind, convert::mode_bits(mode), rdev, &caller);
            entry(reply, made);
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        guarded("mkdir", || {
            let caller = convert::caller(req, umask);
            entry(reply, self.vfs.mkdir(parent.0, name.as_bytes(), convert::mode_bits(mode), &caller));
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("unlink", || empty(reply, self.vfs.unlink(parent.0, name.as_bytes())));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("rmdir", || empty(reply, self.vfs.rmdir(parent.0, name.as_bytes())));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        guarded("symlink", || {
            let target = target.as_os_str().as_bytes();
            entry(reply, self.vfs.symlink(parent.0, name.as_bytes(), target, &convert::caller(req, 0)));
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        guarded("rename", || {
            let Some(mode) = convert::rename_mode(flags, convert::caller(req, 0)) else {
                return reply.error(Errno::EINVAL);
            };
            empty(reply, self.vfs.rename(parent.0, name.as_bytes(), newparent.0, newname.as_bytes(), mode));
        });
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        guarded("link", || entry(reply, self.vfs.link(ino.0, newparent.0, newname.as_bytes())));
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guarded("open", || match self.vfs.open(ino.0, convert::open_mode(flags)) {
            Ok(opened) => reply.opened(FileHandle(opened.fh), open_flags(&opened)),
            Err(error) => reply.error(errno_of(&error)),
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        guarded("create", || {
            let open = convert::open_mode(OpenFlags(flags));
            let caller = convert::caller(req, umask);
            match self.vfs.create(parent.0, name.as_bytes(), convert::mode_bits(mode), open, &caller) {
                Ok((entry, opened)) => {
                    let attr = convert::attr(&entry.attr);
                    reply.created(&entry.ttl, &attr, GENERATION, FileHandle(opened.fh), open_flags(&opened));
                }
                Err(error) => reply.error(errno_of(&error)),
            }
        });
    }

    fn tmpfile(&self, req: &Request, parent: INodeNo, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        guarded("tmpfile", || {
            let open = convert::open_mode(OpenFlags(flags));
            let caller = convert::caller(req, umask);
            match self.vfs.create_nameless(parent.0, convert::mode_bits(mode), open, &caller) {
                Ok((entry, opened)) => {
                    let attr = convert::attr(&entry.attr);
                    reply.created(&entry.ttl, &attr, GENERATION, FileHandle(opened.fh), open_flags(&opened));
                }
                Err(error) => reply.error(errno_of(&error)),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded("read", || {
            let answer = move |result: Result<&[u8], VfsError>| match result {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(errno_of(&error)),
            };
            self.vfs.read(fh.0, offset, size, Box::new(answer));
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guarded("write", || {
            let append = flags.0 & libc::O_APPEND != 0;
            written(reply, if append { self.vfs.append(fh.0, data) } else { self.vfs.write(fh.0, offset, data) });
        });
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        guarded("flush", || {
            let flushed = self.vfs.flush(fh.0);
            // Afterwards: who gets a lock is to see what was written under it.
            self.vfs.unlock_closed(fh.0, owner.0);
            empty(reply, flushed);
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guarded("release", || {
            self.vfs.release(fh.0);
            reply.ok();
        });
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        guarded("fsync", || self.vfs.fsync(fh.0, Box::new(move |result| empty(reply, result))));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        guarded("opendir", || match self.vfs.opendir(ino.0) {
            Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
            Err(error) => reply.error(errno_of(&error)),
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded("readdir", || {
            let listed = self.vfs.readdir(
                fh.0,
                offset,
                &mut |one| {
                    reply.add(INodeNo(one.ino), one.cookie, convert::kind(one.kind), OsStr::from_bytes(one.name))
                },
                false,
            );
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno_of(&error)),
            }
        });
    }

    fn readdirplus(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        guarded("readdirplus", || {
            let listed = self.vfs.readdir(
                fh.0,
                offset,
                &mut |one| {
                    let (attr, ttl): (FileAttr, Duration) = match one.entry {
                        Some(entry) => (convert::attr(&entry.attr), entry.ttl),
                        // `.` and `..`: the kernel takes the number and the kind, and counts no lookup. Others: it is
                        // to look the name up when it needs it, and that may give another number.
                        None => (convert::bare(one.ino, one.kind), Duration::ZERO),
                    };
                    let name = OsStr::from_bytes(one.name);
                    reply.add(INodeNo(one.ino), one.cookie, name, &ttl, &attr, GENERATION)
                },
                true,
            );
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno_of(&error)),
            }
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        guarded("releasedir", || {
            self.vfs.releasedir(fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        guarded("fsyncdir", || self.vfs.fsyncdir(fh.0, Box::new(move |result| empty(reply, result))));
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        guarded("statfs", || match self.vfs.statfs(ino.0) {
            Ok(now) => reply.statfs(
                now.blocks,
                now.blocks_free,
                now.blocks_free,
                now.files,
                now.files_free,
                now.block_bytes,
                now.name_max,
                now.block_bytes,
            ),
            Err(error) => reply.error(errno_of(&error)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        guarded("setxattr", || {
            let Some(mode) = convert::xattr_mode(flags) else { return reply.error(Errno::EINVAL) };
            empty(reply, self.vfs.setxattr(ino.0, name.as_bytes(), value, mode, &convert::caller(req, 0)));
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded("getxattr", || xattr(reply, size, self.vfs.getxattr(ino.0, name.as_bytes())));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded("listxattr", || xattr(reply, size, self.vfs.listxattr(ino.0)));
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("removexattr", || empty(reply, self.vfs.removexattr(ino.0, name.as_bytes())));
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        guarded("access", || {
            // Three bits, never negative.
            let mask = mask.bits().unsigned_abs();
            empty(reply, self.vfs.access(ino.0, mask, &convert::caller(req, 0)));
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        guarded("fallocate", || {
            let Some(how) = convert::allocate(mode) else { return reply.error(Errno::EOPNOTSUPP) };
            empty(reply, self.vfs.fallocate(fh.0, offset, length, how));
        });
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        guarded("lseek", || {
            let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
            let found = match whence {
                libc::SEEK_DATA => self.vfs.seek_data(fh.0, offset),
                libc::SEEK_HOLE => self.vfs.seek_hole(fh.0, offset),
                _ => Err(VfsError::InvalidArgument),
            };
            match found.map(i64::try_from) {
                Ok(Ok(position)) => reply.offset(position),
                Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
                Err(error) => reply.error(errno_of(&error)),
            }
        });
    }

    fn getlk(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        _pid: u32,
        reply: ReplyLock,
    ) {
        guarded("getlk", || {
            let Some(span) = convert::lock_span(start, end, typ, false) else { return reply.error(Errno::EINVAL) };
            let answer = move |found: Result<Option<InTheWay>, VfsError>| match found {
                Ok(Some((pid, span))) => {
                    let typ = if span.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
                    reply.locked(span.start, span.end, typ, pid);
                }
                Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
                Err(error) => reply.error(errno_of(&error)),
            };
            self.vfs.test_lock(fh.0, owner.0, span, Box::new(answer));
        });
    }

    fn setlk(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        wait: bool,
        flock: bool,
        reply: ReplyEmpty,
    ) {
        guarded("setlk", || {
            if typ == libc::F_UNLCK {
                let space = convert::lock_space(flock);
                return empty(reply, self.vfs.unlock(fh.0, owner.0, space, start, end.min(LOCK_END)));
            }
            let Some(span) = convert::lock_span(start, end, typ, flock) else { return reply.error(Errno::EINVAL) };
            let request = LockRequest { id: req.unique().0, fh: fh.0, owner: owner.0, pid, span, wait };
            self.vfs.lock(&request, Box::new(move |result| empty(reply, result)));
        });
    }

    fn interrupt(&self, unique: RequestId) {
        guarded("interrupt", || self.vfs.interrupt(unique.0));
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        guarded("copy_file_range", || {
            written(reply, self.vfs.copy_range(fh_in.0, offset_in, fh_out.0, offset_out, len));
        });
    }

    // What follows is not offered. ENOSYS tells the kernel to do it itself and not to ask again;
    // fuser's own defaults would say the same with a line of log that names files.

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // ioctl(2) on a file that has none.
        reply.error(Errno::ENOTTY);
    }
}

fn attributes(reply: ReplyAttr, result: Result<(crate::vfs::Attr, Duration), VfsError>) {
    match result {
        Ok((attr, ttl)) => reply.attr(&ttl, &convert::attr(&attr)),
        Err(error) => reply.error(errno_of(&error)),
    }
}
