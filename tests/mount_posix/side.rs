//! One of the two directories that are compared: the system calls of a step, and what they answer.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, RenameFlags};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags};
use nix::sys::time::{TimeSpec, TimeValLike};

/// A step: made once, done on both sides.
#[derive(Clone, Debug)]
pub enum Step {
    Open { path: String, flags: i32, mode: u32 },
    Close(u8),
    Read { slot: u8, at: u64, len: usize },
    Write { slot: u8, at: u64, len: usize, seed: u8 },
    Cut { slot: u8, size: u64 },
    Allocate { slot: u8, mode: i32, at: u64, len: u64 },
    Copy { from: u8, at: u64, to: u8, to_at: u64, len: usize },
    Sync(u8),
    Stat(u8),
    Truncate { path: String, size: u64 },
    Mkdir { path: String, mode: u32 },
    Fifo { path: String, mode: u32 },
    Rmdir(String),
    Unlink(String),
    Rename { from: String, to: String, flags: u32 },
    Link { from: String, to: String },
    LinkSlot { slot: u8, to: String },
    Symlink { target: String, path: String },
    Readlink(String),
    Chmod { path: String, mode: u32 },
    Utimens { path: String, atime: Time, mtime: Time },
    SetXattr { path: String, name: String, len: usize },
    GetXattr { path: String, name: String },
    RemoveXattr { path: String, name: String },
    ListXattr(String),
    List(String),
    Look(String),
}

#[derive(Clone, Copy, Debug)]
pub enum Time {
    Omit,
    Now,
    At(i64),
}

/// What a step answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Count(usize),
    Bytes(Vec<u8>),
    Facts(Facts),
    Names(Vec<(Vec<u8>, char)>),
}

/// What two sides must agree on about a node. Sizes of directories and the times of what happens by itself are a file
/// system's own.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    pub kind: char,
    pub mode: u32,
    pub nlink: u64,
    pub size: u64,
}

pub fn facts(meta: &fs::Metadata) -> Facts {
    let size = if meta.is_dir() { 0 } else { meta.len() };
    Facts { kind: kind(meta.file_type()), mode: meta.mode() & 0o7777, nlink: meta.nlink(), size }
}

fn kind(of: fs::FileType) -> char {
    match of {
        _ if of.is_dir() => 'd',
        _ if of.is_symlink() => 'l',
        _ if of.is_fifo() => 'p',
        _ if of.is_char_device() => 'c',
        _ => 'f',
    }
}

/// Path, facts, content or target, names of attributes.
pub type Below = (PathBuf, Facts, Vec<u8>, Vec<u8>);

pub struct Side {
    /// What is compared in the end.
    top: PathBuf,
    /// Where paths begin: so deep that no `..` of theirs leads out of `top`.
    root: PathBuf,
    slots: Vec<File>,
}

/// Files open at a time.
const SLOTS: usize = 6;

type Result<T> = std::result::Result<T, i32>;

fn os<T>(result: io::Result<T>) -> Result<T> {
    result.map_err(|error| error.raw_os_error().unwrap_or(0))
}

fn sys<T>(result: nix::Result<T>) -> Result<T> {
    result.map_err(|errno| errno as i32)
}

/// Bytes that differ at every offset and under every seed.
pub fn pattern(seed: u8, at: u64, len: usize) -> Vec<u8> {
    (at..at + len as u64).map(|n| (n.wrapping_mul(0x9E37_79B9) >> 11) as u8 ^ seed).collect()
}

impl Side {
    pub fn new(top: PathBuf) -> Self {
        let root = top.join("1/2/3/4/5/6/7/8");
        fs::create_dir_all(&root).unwrap();
        Self { top, root, slots: Vec::new() }
    }

    /// What [`Side::new`] has made, once more: after a remount.
    pub fn again(top: PathBuf) -> Self {
        Self { root: top.clone(), top, slots: Vec::new() }
    }

    fn path(&self, path: &str) -> PathBuf {
        // Not `join`: what the path ends with is for the kernel to see.
        let mut whole = self.root.clone().into_os_string();
        whole.push("/");
        whole.push(path);
        whole.into()
    }

    fn slot(&self, slot: u8) -> Result<&File> {
        let count = self.slots.len().max(1);
        self.slots.get(slot as usize % count).ok_or(-1)
    }

    /// Does the step; the error is the errno, or -1 where no file is open.
    pub fn run(&mut self, step: &Step) -> Result<Answer> {
        match step {
            Step::Open { path, flags, mode } => {
                // Pipes must not wait.
                let path = CString::new(self.path(path).as_os_str().as_bytes()).unwrap();
                let flags = nix::fcntl::OFlag::from_bits_retain(flags | libc::O_NONBLOCK | libc::O_CLOEXEC);
                let file = sys(nix::fcntl::open(path.as_c_str(), flags, Mode::from_bits_truncate(*mode)))?;
                if self.slots.len() == SLOTS {
                    self.slots.remove(0);
                }
                self.slots.push(file.into());
                Ok(Answer::Done)
            }
            Step::Close(slot) => {
                self.slot(*slot)?;
                let at = *slot as usize % self.slots.len();
                self.slots.remove(at);
                Ok(Answer::Done)
            }
            Step::Read { slot, at, len } => {
                let mut bytes = vec![0; *len];
                let read = os(self.slot(*slot)?.read_at(&mut bytes, *at))?;
                bytes.truncate(read);
                Ok(Answer::Bytes(bytes))
            }
            Step::Write { slot, at, len, seed } => {
                os(self.slot(*slot)?.write_at(&pattern(*seed, *at, *len), *at)).map(Answer::Count)
            }
            Step::Cut { slot, size } => done(sys(nix::unistd::ftruncate(self.slot(*slot)?, *size as i64))),
            Step::Allocate { slot, mode, at, len } => {
                let mode = FallocateFlags::from_bits_retain(*mode);
                done(sys(nix::fcntl::fallocate(self.slot(*slot)?, mode, *at as i64, *len as i64)))
            }
            Step::Copy { from, at, to, to_at, len } => {
                let (from, to) = (self.slot(*from)?, self.slot(*to)?);
                let (mut at, mut to_at) = (*at as i64, *to_at as i64);
                sys(nix::fcntl::copy_file_range(from, Some(&mut at), to, Some(&mut to_at), *len)).map(Answer::Count)
            }
            Step::Sync(slot) => done(os(self.slot(*slot)?.sync_all())),
            Step::Stat(slot) => Ok(Answer::Facts(facts(&os(self.slot(*slot)?.metadata())?))),
            Step::Truncate { path, size } => done(sys(nix::unistd::truncate(&self.path(path), *size as i64))),
            Step::Mkdir { path, mode } => {
                done(sys(nix::unistd::mkdir(&self.path(path), Mode::from_bits_truncate(*mode))))
            }
            Step::Fifo { path, mode } => {
                let mode = Mode::from_bits_truncate(*mode);
                done(sys(nix::sys::stat::mknod(&self.path(path), SFlag::S_IFIFO, mode, 0)))
            }
            Step::Rmdir(path) => done(os(fs::remove_dir(self.path(path)))),
            Step::Unlink(path) => done(sys(nix::unistd::unlink(&self.path(path)))),
            Step::Rename { from, to, flags } => {
                let flags = RenameFlags::from_bits_retain(*flags);
                done(sys(nix::fcntl::renameat2(AT_FDCWD, &self.path(from), AT_FDCWD, &self.path(to), flags)))
            }
            Step::Link { from, to } => {
                let (from, to) = (self.path(from), self.path(to));
                done(sys(nix::unistd::linkat(AT_FDCWD, &from, AT_FDCWD, &to, AtFlags::empty())))
            }
            Step::LinkSlot { slot, to } => {
                let from = PathBuf::from(format!("/proc/self/fd/{}", self.slot(*slot)?.as_raw_fd()));
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                done(sys(nix::unistd::linkat(AT_FDCWD, &from, AT_FDCWD, &self.path(to), follow)))
            }
            Step::Symlink { target, path } => {
                done(sys(nix::unistd::symlinkat(target.as_str(), AT_FDCWD, &self.path(path))))
            }
            Step::Readlink(path) => {
                os(fs::read_link(self.path(path))).map(|target| Answer::Bytes(target.as_os_str().as_bytes().to_vec()))
            }
            Step::Chmod { path, mode } => {
                done(os(fs::set_permissions(self.path(path), std::os::unix::fs::PermissionsExt::from_mode(*mode))))
            }
            Step::Utimens { path, atime, mtime } => self.utimens(path, *atime, *mtime),
            Step::SetXattr { path, name, len } => done(os(xattr::set(self.path(path), name, &pattern(7, 0, *len)))),
            Step::GetXattr { path, name } => os(xattr::get(self.path(path), name))
                .map(|value| Answer::Bytes(value.unwrap_or_else(|| b"none".to_vec()))),
            Step::RemoveXattr { path, name } => done(os(xattr::remove(self.path(path), name))),
            Step::ListXattr(path) => attributes(&self.path(path)).map(Answer::Bytes),
            Step::List(path) => {
                let mut names = Vec::new();
                for entry in os(fs::read_dir(self.path(path)))? {
                    let entry = os(entry)?;
                    names.push((entry.file_name().as_bytes().to_vec(), kind(os(entry.file_type())?)));
                }
                names.sort();
                Ok(Answer::Names(names))
            }
            Step::Look(path) => Ok(Answer::Facts(facts(&os(fs::symlink_metadata(self.path(path)))?))),
        }
    }

    /// Sets the times and answers with those that are as they were set.
    fn utimens(&self, path: &str, atime: Time, mtime: Time) -> Result<Answer> {
        let path = self.path(path);
        let spec = |time| match time {
            Time::Omit => TimeSpec::UTIME_OMIT,
            Time::Now => TimeSpec::UTIME_NOW,
            Time::At(ns) => TimeSpec::nanoseconds(ns),
        };
        let flags = UtimensatFlags::NoFollowSymlink;
        // Looked at through a descriptor: a path that leads through the very link would have a local file system note that it
        // was read (`b/../b`), which a mount never does.
        let seen = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(&path);
        sys(nix::sys::stat::utimensat(AT_FDCWD, &path, &spec(atime), &spec(mtime), flags))?;
        let meta = os(os(seen)?.metadata())?;
        let mut shown = String::new();
        for (set, seconds, nanos) in
            [(atime, meta.atime(), meta.atime_nsec()), (mtime, meta.mtime(), meta.mtime_nsec())]
        {
            if matches!(set, Time::At(_)) {
                shown += &format!("{seconds}.{nanos:09} ");
            }
        }
        Ok(Answer::Bytes(shown.into_bytes()))
    }

    /// Everything below, with content and attributes.
    pub fn tree(&mut self) -> Vec<Below> {
        self.slots.clear();
        let mut found = Vec::new();
        let mut todo = vec![self.top.clone()];
        while let Some(dir) = todo.pop() {
            let mut paths: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            for path in paths {
                let facts = facts(&fs::symlink_metadata(&path).unwrap());
                let content = match facts.kind {
                    'f' => fs::read(&path).unwrap_or_default(),
                    'l' => fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec(),
                    _ => Vec::new(),
                };
                let listed = if facts.kind == 'l' { Vec::new() } else { attributes(&path).unwrap() };
                if facts.kind == 'd' {
                    // Whoever is not root could not look into all of them.
                    let open = std::os::unix::fs::PermissionsExt::from_mode(facts.mode | 0o700);
                    fs::set_permissions(&path, open).unwrap();
                    todo.push(path.clone());
                }
                found.push((path.strip_prefix(&self.top).unwrap().to_owned(), facts, content, listed));
            }
        }
        found
    }
}

fn attributes(path: &Path) -> Result<Vec<u8>> {
    let mut names: Vec<_> = os(xattr::list(path))?.map(|name| name.as_bytes().to_vec()).collect();
    // What a security module adds on one of the file systems is not ours.
    names.retain(|name| name.starts_with(b"user."));
    names.sort();
    Ok(names.join(&b' '))
}

fn done(result: Result<()>) -> Result<Answer> {
    result.map(|()| Answer::Done)
}
