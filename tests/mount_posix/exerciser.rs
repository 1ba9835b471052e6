//! One file, random operations of every kind that reaches its bytes, a plain vector beside it; with remounts in between.
//! What `fsx` does, where `fsx` cannot go: it knows neither clones to other files nor the end of a mount.

#![allow(unsafe_code)] // Mappings have no safe interface: another mapping may change the bytes at any time.

use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, copy_file_range, fallocate, posix_fadvise};
use nix::sys::mman::{MapFlags, MmapAdvise, MsFlags, ProtFlags, madvise, mmap, msync, munmap};

use super::{Alone, many};

/// Two boundaries of chunks are inside.
const SIZE_MAX: u64 = 9 << 20;
const PAGE: u64 = 4096;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A place, most often near the beginning or a boundary.
    fn place(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(SIZE_MAX),
            1 => ((1 + self.below(2)) << 22) - 300 + self.below(600),
            2 => 65_536 * self.below(4) + self.below(300),
            _ => self.below(100_000),
        }
    }

    fn length(&mut self) -> u64 {
        match self.below(30) {
            0 => self.below(1 << 20),
            1..5 => PAGE * self.below(17),
            _ => self.below(9000),
        }
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len as usize + 8);
        while (bytes.len() as u64) < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len as usize);
        bytes
    }
}

/// A shared mapping of the pages that a range touches.
struct Mapping {
    start: std::ptr::NonNull<std::ffi::c_void>,
    len: usize,
    skip: usize,
}

impl Mapping {
    fn new(file: &File, at: u64, len: u64, private: bool) -> Self {
        let first = at - at % PAGE;
        let whole = NonZeroUsize::new((at - first + len) as usize).unwrap();
        let flags = if private { MapFlags::MAP_PRIVATE } else { MapFlags::MAP_SHARED };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; only this value uses it.
        let start = unsafe { mmap(None, whole, protection, flags, file.as_fd(), first as i64) }.unwrap();
        Self { start, len: whole.get(), skip: (at - first) as usize }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped in `new` with this length, readable and writable; the file is not cut while it lives.
        let all = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast::<u8>(), self.len) };
        &mut all[self.skip..]
    }

    fn sync(&self) {
        // SAFETY: as in `bytes`.
        unsafe { msync(self.start, self.len, MsFlags::MS_SYNC) }.unwrap();
    }

    fn forget(&self) {
        // SAFETY: as in `bytes`; pages of a shared mapping of a file come back from the file.
        let _ = unsafe { madvise(self.start, self.len, MmapAdvise::MADV_DONTNEED) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nothing refers to it any more.
        unsafe { munmap(self.start, self.len) }.unwrap();
    }
}

struct Exerciser {
    random: Random,
    path: PathBuf,
    file: File,
    model: Vec<u8>,
    log: Vec<String>,
}

fn open(path: &PathBuf) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

impl Exerciser {
    fn new(path: PathBuf, seed: u64) -> Self {
        Self { random: Random(seed), file: open(&path), path, model: Vec::new(), log: Vec::new() }
    }

    fn size(&self) -> u64 {
        self.model.len() as u64
    }

    /// A range in the file that is not empty.
    fn inside(&mut self) -> Option<(u64, u64)> {
        let at = self.random.place();
        let len = self.random.length().min(self.size().saturating_sub(at));
        (len > 0).then_some((at, len))
    }

    fn put(&mut self, at: u64, data: &[u8]) {
        let end = at as usize + data.len();
        self.model.resize(self.model.len().max(end), 0);
        self.model[at as usize..end].copy_from_slice(data);
    }

    #[track_caller]
    fn same(&self, at: u64, seen: &[u8], how: &str) {
        let expected = &self.model[at as usize..at as usize + seen.len()];
        if seen == expected {
            return;
        }
        let first = seen.iter().zip(expected).position(|(a, b)| a != b).unwrap() as u64;
        let wrong = seen.iter().zip(expected).filter(|(a, b)| a != b).count();
        let last = self.log.len().saturating_sub(40);
        panic!(
            "{how} at {at}, {} bytes: {wrong} wrong, the first at {} ({} instead of {}); the last operations:\n{}",
            seen.len(),
            at + first,
            seen[first as usize],
            expected[first as usize],
            self.log[last..].join("\n")
        );
    }

    fn step(&mut self) {
        let kind = self.random.below(100);
        let (at, len) = (self.random.place(), self.random.length());
        let len = len.min(SIZE_MAX - at);
        self.log.push(format!("{kind}: {at}+{len} of {}", self.size()));
        match kind {
            0..20 => {
                let data = self.random.bytes(len);
                self.file.write_all_at(&data, at).unwrap();
                if len > 0 {
                    self.put(at, &data);
                }
            }
            20..40 => {
                let mut seen = vec![0; len as usize];
                let read = self.file.read_at(&mut seen, at).unwrap();
                assert_eq!(read as u64, len.min(self.size().saturating_sub(at)), "a short read at {at}");
                self.same(at.min(self.size()), &seen[..read], "read");
            }
            40..50 => {
                if let Some((at, len)) = self.inside() {
                    let data = self.random.bytes(len);
                    let mut mapping = Mapping::new(&self.file, at, len, false);
                    mapping.bytes().copy_from_slice(&data);
                    if self.random.below(2) == 0 {
                        mapping.sync();
                        mapping.forget();
                    }
                    drop(mapping);
                    self.put(at, &data);
                }
            }
            50..58 => {
                if let Some((at, len)) = self.inside() {
                    let mut mapping = Mapping::new(&self.file, at, len, self.random.below(2) == 0);
                    self.same(at, mapping.bytes(), "mapped");
                }
            }
            58..65 => {
                let size = if self.random.below(3) == 0 { at } else { self.size().saturating_sub(len) };
                self.file.set_len(size).unwrap();
                self.model.resize(size as usize, 0);
            }
            65..78 => {
                let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE;
                let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep;
                let all = [FallocateFlags::empty(), punch, punch, zero, zero | keep];
                let how = all[self.random.below(5) as usize];
                if len > 0 {
                    fallocate(&self.file, how, at as i64, len as i64).unwrap();
                    if !how.contains(keep) {
                        self.model.resize(self.model.len().max((at + len) as usize), 0);
                    }
                    if !how.is_empty() {
                        let end = (at + len).min(self.size());
                        self.model[at.min(end) as usize..end as usize].fill(0);
                    }
                }
            }
            78..88 => {
                let Some((from, len)) = self.inside() else { return };
                let len = len.min(SIZE_MAX - at);
                if from.abs_diff(at) >= len && len > 0 {
                    let (mut source, mut target) = (from as i64, at as i64);
                    let mut left = len as usize;
                    while left > 0 {
                        let file = &self.file;
                        let done = copy_file_range(file, Some(&mut source), file, Some(&mut target), left).unwrap();
                        assert!(done > 0, "nothing was copied");
                        left -= done;
                    }
                    let data = self.model[from as usize..(from + len) as usize].to_vec();
                    self.put(at, &data);
                }
            }
            88 => self.clone_whole(),
            89..94 => self.file = open(&self.path),
            94..96 => self.file.sync_data().unwrap(),
            96..98 => {
                posix_fadvise(&self.file, at as i64, len as i64, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
            }
            _ => assert_eq!(self.file.metadata().unwrap().len(), self.size(), "the length"),
        }
    }

    /// A clone has the bytes of now, whatever becomes of the original.
    fn clone_whole(&mut self) {
        let path = self.path.with_extension("clone");
        let clone = open(&path);
        let (mut source, mut target) = (0, 0);
        while copy_file_range(&self.file, Some(&mut source), &clone, Some(&mut target), 1 << 30).unwrap() > 0 {}
        let at = self.random.place().min(self.size());
        let data = self.random.bytes(100);
        self.file.write_all_at(&data, at).unwrap();
        self.same(0, &std::fs::read(&path).unwrap(), "the clone");
        self.put(at, &data);
        std::fs::remove_file(&path).unwrap();
    }

    fn check(&self, when: &str) {
        let whole = std::fs::read(&self.path).unwrap();
        assert_eq!(whole.len(), self.model.len(), "the length {when}");
        self.same(0, &whole, when);
    }
}

#[test]
fn every_way_to_a_files_bytes_agrees_over_remounts() {
    let operations = many("KEGFS_FSX_OPERATIONS", 6_000);
    let seed = many("KEGFS_FSX_SEED", 1);
    let mut alone = Alone::set_up();
    let mut exerciser = Exerciser::new(alone.mnt.join("file"), u64::from(seed));
    for part in 0..3 {
        for _ in 0..operations.div_ceil(3) {
            exerciser.step();
        }
        exerciser.check("before the remount");
        // Whoever has a file open keeps the mount busy.
        exerciser.file = File::open("/dev/null").unwrap();
        alone.remount();
        exerciser.check(&format!("after remount {part}"));
        exerciser.file = open(&exerciser.path);
        exerciser.log.push("remount".to_owned());
    }
}
