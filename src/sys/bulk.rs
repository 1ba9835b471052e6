//! Files that are written or read once, front to back, and not again soon: past the page cache.
//!
//! Copying a gibibyte into the page cache costs more than sealing it, and takes the memory of what is worth caching.
//! So what is long goes to the disk and comes from it directly (`O_DIRECT`), with aligned memory, in pieces of
//! [`PIECE_BYTES`]; what is short, and the unaligned end of what is written, goes through the page cache. A file system
//! without direct reads or writes gets ordinary ones.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Bytes of one direct write: long enough for the disk's full speed, short enough to keep one a stream.
const PIECE_BYTES: usize = 1 << 20;
/// What memory, offset and length of a direct write are multiples of, on every disk in use.
const ALIGN: usize = 4096;

/// Aligned memory; read and written as bytes only.
#[repr(align(4096))]
#[derive(Clone, Copy)]
struct Page(#[allow(dead_code)] [u8; ALIGN]);

/// Memory as direct reads and writes want it.
#[derive(Default)]
pub struct AlignedBuffer(Vec<Page>);

impl AlignedBuffer {
    /// Makes it at least `len` bytes long.
    pub fn reserve(&mut self, len: usize) {
        let pages = len.div_ceil(ALIGN);
        if self.0.len() < pages {
            self.0.resize(pages, Page([0; ALIGN]));
        }
    }

    /// All of it, a whole number of pages.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: a page is exactly ALIGN initialised bytes without padding, and the borrow covers them all.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * ALIGN) }
    }

    /// The same to write to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * ALIGN) }
    }
}

/// A file being read past the page cache.
pub struct BulkReader(File);

impl BulkReader {
    /// Opens the file.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        match direct {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path).map(Self),
            other => other.map(Self),
        }
    }

    /// Fills the first `len` bytes of `memory`, which is made long enough, from `offset`: a multiple of 4096.
    ///
    /// # Errors
    /// Those of `pread(2)`; `UnexpectedEof` where the file ends before.
    pub fn read_exact_at(&self, offset: u64, memory: &mut AlignedBuffer, len: usize) -> io::Result<()> {
        memory.reserve(len);
        let room = &mut memory.bytes_mut()[..len.next_multiple_of(ALIGN)];
        let mut filled = 0;
        while filled < len {
            let read = match self.0.read_at(&mut room[filled..], offset + filled as u64) {
                // What the file system opens so and does not read so.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    fcntl(&self.0, FcntlArg::F_SETFL(OFlag::empty()))?;
                    self.0.read_at(&mut room[filled..], offset + filled as u64)?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
        }
        Ok(())
    }
}

/// A new file being written.
pub struct BulkFile {
    file: File,
    /// Empty until it is needed; then one piece.
    pages: AlignedBuffer,
    filled: usize,
    direct: bool,
    /// Direct writes were refused once.
    refused: bool,
}

impl BulkFile {
    /// Creates the file, which must not exist, readable and writable by its owner only.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { file, pages: AlignedBuffer::default(), filled: 0, direct: false, refused: false })
    }

    /// Appends `bytes`. They may stay in memory until [`Self::finish`].
    ///
    /// # Errors
    /// Those of `write(2)`; the file is of no use then.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        // What lies in memory as the disk wants it need not be copied.
        if self.filled == 0 && bytes.as_ptr().align_offset(ALIGN) == 0 {
            let (whole, rest) = bytes.split_at(bytes.len() / PIECE_BYTES * PIECE_BYTES);
            if !whole.is_empty() {
                self.set_direct(true);
                self.put(whole)?;
            }
            bytes = rest;
        }
        if !bytes.is_empty() {
            self.pages.reserve(PIECE_BYTES);
        }
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.filled));
            let filled = self.filled;
            self.pages.bytes_mut()[filled..filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = rest;
            if self.filled == PIECE_BYTES {
                self.set_direct(true);
                self.put_pages(0, PIECE_BYTES)?;
                self.filled = 0;
            }
        }
        Ok(())
    }

    /// Writes what is left and returns the file. Nothing is durable before it is synced.
    ///
    /// # Errors
    /// Those of `write(2)`.
    pub fn finish(mut self) -> io::Result<File> {
        let aligned = if self.direct { self.filled / ALIGN * ALIGN } else { 0 };
        if aligned > 0 {
            self.put_pages(0, aligned)?;
        }
        self.set_direct(false);
        self.put_pages(aligned, self.filled)?;
        Ok(self.file)
    }

    fn put_pages(&mut self, from: usize, to: usize) -> io::Result<()> {
        let pages = std::mem::take(&mut self.pages);
        // Both are at most the length of the pages.
        let result = self.put(&pages.bytes()[from..to]);
        self.pages = pages;
        result
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        match (&self.file).write_all(bytes) {
            // Nothing of it was written: the first direct write on a file system that has none.
            Err(error) if self.direct && error.raw_os_error() == Some(libc::EINVAL) => {
                self.refused = true;
                self.set_direct(false);
                (&self.file).write_all(bytes)
            }
            other => other,
        }
    }

    fn set_direct(&mut self, direct: bool) {
        if self.direct != direct && !(direct && self.refused) {
            let flags = if direct { OFlag::O_DIRECT } else { OFlag::empty() };
            match fcntl(&self.file, FcntlArg::F_SETFL(flags)) {
                Ok(_) => self.direct = direct,
                Err(_) => self.refused = true,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_length_around_pages_and_pieces_is_written_as_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES + 5000).map(|n| (n * 7 + n / 4096) as u8).collect();
        let lengths =
            [0, 1, ALIGN - 1, ALIGN, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, PIECE_BYTES + ALIGN, bytes.len()];
        for length in lengths {
            for step in [1000, 65_536, bytes.len()] {
                let path = dir.path().join(format!("{length}-{step}"));
                let mut file = BulkFile::create(&path).unwrap();
                bytes[..length].chunks(step).for_each(|part| file.write(part).unwrap());
                file.finish().unwrap().sync_data().unwrap();
                assert!(std::fs::read(&path).unwrap() == bytes[..length], "{length} in steps of {step}");
            }
        }
    }

    #[test]
    fn aligned_memory_is_written_as_well_before_and_after_other_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = AlignedBuffer::default();
        memory.reserve(2 * PIECE_BYTES + 1);
        memory.bytes_mut().fill(7);
        let pages = memory.bytes();
        let path = dir.path().join("aligned");
        let mut file = BulkFile::create(&path).unwrap();
        file.write(pages).unwrap();
        file.write(b"odd").unwrap();
        file.write(pages).unwrap();
        file.finish().unwrap();
        let expected = [pages, b"odd", pages].concat();
        assert!(std::fs::read(&path).unwrap() == expected);
    }

    #[test]
    fn what_is_read_directly_is_what_was_written_up_to_an_unaligned_end() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3 * ALIGN + 77).map(|n| (n * 7 + n / 4096) as u8).collect();
        let path = dir.path().join("blob");
        std::fs::write(&path, &bytes).unwrap();
        let reader = BulkReader::open(&path).unwrap();
        let mut memory = AlignedBuffer::default();
        for (offset, len) in [(0, bytes.len()), (ALIGN, 2 * ALIGN), (3 * ALIGN, 77), (0, 1)] {
            reader.read_exact_at(offset as u64, &mut memory, len).unwrap();
            assert!(memory.bytes()[..len] == bytes[offset..offset + len], "{len} from {offset}");
        }
        let beyond = reader.read_exact_at(3 * ALIGN as u64, &mut memory, 78).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("there");
        std::fs::write(&path, b"precious").unwrap();
        assert!(BulkFile::create(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
