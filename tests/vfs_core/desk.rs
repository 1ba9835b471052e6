//! A user at a desk: the vfs with words for what a user does.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use kegfs::vfs::*;

pub const CALLER: Caller = Caller { uid: 1000, gid: 1000, pid: 1, umask: 0o022 };

pub struct Desk {
    pub folder: Arc<MemoryFolder>,
    pub vfs: Arc<Vfs>,
}

pub fn desk() -> Desk {
    desk_with(VfsOptions { uid: 1000, gid: 1000, ..VfsOptions::default() })
}

pub fn desk_with(options: VfsOptions) -> Desk {
    let folder = MemoryFolder::new("acme");
    let vfs = Vfs::single(folder.clone(), options).unwrap();
    Desk { folder, vfs }
}

pub const READ: OpenMode = OpenMode { read: true, write: false, exclusive: false };
pub const WRITE: OpenMode = OpenMode { read: true, write: true, exclusive: false };

impl Desk {
    pub fn create(&self, name: &str) -> (Ino, u64) {
        let (entry, opened) = self.vfs.create(ROOT, name.as_bytes(), 0o644, WRITE, &CALLER).unwrap();
        (entry.attr.ino, opened.fh)
    }

    pub fn ino(&self, name: &str) -> Ino {
        self.vfs.lookup(ROOT, name.as_bytes()).unwrap().attr.ino
    }

    pub fn open(&self, name: &str, mode: OpenMode) -> u64 {
        self.vfs.open(self.ino(name), mode).unwrap().fh
    }

    pub fn write(&self, fh: u64, offset: u64, data: &[u8]) {
        let mut at = 0;
        // As the kernel does it: at most 1 MiB at once.
        for part in data.chunks(1 << 20) {
            assert_eq!(self.vfs.write(fh, offset + at, part).unwrap() as usize, part.len());
            at += part.len() as u64;
        }
    }

    pub fn try_read(&self, fh: u64, offset: u64, len: usize) -> Result<Vec<u8>, VfsError> {
        let (tx, rx) = mpsc::channel();
        let done = move |result: Result<&[u8], VfsError>| tx.send(result.map(<[u8]>::to_vec)).unwrap();
        self.vfs.read(fh, offset, len as u32, Box::new(done));
        rx.recv_timeout(Duration::from_secs(60)).expect("an answer")
    }

    pub fn read(&self, fh: u64, offset: u64, len: usize) -> Vec<u8> {
        self.try_read(fh, offset, len).unwrap()
    }

    pub fn read_all(&self, fh: u64) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let part = self.read(fh, all.len() as u64, 128 << 10);
            if part.is_empty() {
                return all;
            }
            all.extend(part);
        }
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        let fh = self.open(name, READ);
        let all = self.read_all(fh);
        self.close(fh);
        all
    }

    pub fn close(&self, fh: u64) {
        self.vfs.flush(fh).unwrap();
        self.vfs.release(fh);
    }

    pub fn try_fsync(&self, fh: u64) -> Result<(), VfsError> {
        let (tx, rx) = mpsc::channel();
        self.vfs.fsync(fh, Box::new(move |result| tx.send(result).unwrap()));
        rx.recv_timeout(Duration::from_secs(60)).expect("an answer")
    }

    pub fn fsync(&self, fh: u64) {
        self.try_fsync(fh).unwrap();
    }

    pub fn save(&self, name: &str, data: &[u8]) -> Ino {
        let (ino, fh) = self.create(name);
        self.write(fh, 0, data);
        self.close(fh);
        ino
    }

    pub fn settle(&self) {
        self.vfs.flush_all(Duration::from_secs(60)).unwrap();
    }

    /// No written plaintext is left in memory, as soon as the packs that hold moot blocks are closed.
    pub fn drained(&self) {
        self.eventually("no plaintext stays in memory", || self.vfs.memory_bytes().0 == 0);
    }

    pub fn eventually(&self, what: &str, check: impl Fn() -> bool) {
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while !check() {
            assert!(std::time::Instant::now() < until, "it did not come true that {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Clones a range, in as many steps as it takes.
    pub fn copy(&self, from: u64, from_offset: u64, to: u64, to_offset: u64, len: u64) {
        let mut done = 0;
        while done < len {
            let part = self.vfs.copy_range(from, from_offset + done, to, to_offset + done, len - done).unwrap();
            assert!(part > 0, "the source ends at {done} of {len}");
            done += u64::from(part);
        }
    }

    pub fn size(&self, ino: Ino) -> u64 {
        self.vfs.getattr(ino).unwrap().0.size
    }

    pub fn list(&self, ino: Ino) -> Vec<String> {
        let fh = self.vfs.opendir(ino).unwrap();
        let mut names = Vec::new();
        let mut each = |entry: DirEntry<'_>| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            false
        };
        self.vfs.readdir(fh, 0, &mut each, true).unwrap();
        self.vfs.releasedir(fh);
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }
}

/// Bytes that differ at every offset and under every seed, so that misplaced ones are seen.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
