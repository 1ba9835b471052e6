//! Mapped files whose names, lengths and contents change meanwhile.
//!
//! A mapping is looked at through read(2) and write(2) of other files, which answer EFAULT where the memory is not
//! there, instead of ending the test with SIGBUS.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::time::Instant;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};

use super::storms::{Dice, Wrong, equal, watch};
use crate::common::watchdog::storm_time;
use crate::common::{Team, wait_for};

const PAGE: usize = 4096;

/// A shared mapping of a file.
struct Mapping {
    at: NonNull<c_void>,
    len: usize,
    /// Where bytes go through on the way in and out.
    window: OwnedFd,
}

impl Mapping {
    fn new(file: &fs::File, len: usize) -> io::Result<Self> {
        let length = NonZeroUsize::new(len).unwrap();
        let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses; nothing refers to its memory but `self`, and
        // only through system calls.
        let at = unsafe { mmap(None, length, flags, MapFlags::MAP_SHARED, file, 0) }?;
        let window = memfd_create(c"window", MFdFlags::empty())?;
        Ok(Self { at, len, window })
    }

    /// The page at `offset`; EFAULT where the file does not reach.
    fn read(&self, offset: usize) -> io::Result<Vec<u8>> {
        assert!(offset + PAGE <= self.len);
        // SAFETY: within the mapping, which lives as long as `self`; where it has no memory, pwrite(2) says EFAULT.
        let count = unsafe { libc::pwrite(self.window.as_raw_fd(), self.at.as_ptr().byte_add(offset), PAGE, 0) };
        check(count)?;
        let mut page = vec![0; PAGE];
        nix::sys::uio::pread(&self.window, &mut page, 0)?;
        Ok(page)
    }

    /// Fills the page at `offset` with `byte`; EFAULT where the file does not reach.
    fn fill(&self, offset: usize, byte: u8) -> io::Result<()> {
        assert!(offset + PAGE <= self.len);
        nix::sys::uio::pwrite(&self.window, &vec![byte; PAGE], 0)?;
        // SAFETY: as in `read`.
        check(unsafe { libc::pread(self.window.as_raw_fd(), self.at.as_ptr().byte_add(offset), PAGE, 0) })
    }

    fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly this mapping.
        Ok(unsafe { msync(self.at, self.len, MsFlags::MS_SYNC) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly this mapping, to which nothing refers any more.
        let _ = unsafe { munmap(self.at, self.len) };
    }
}

fn check(count: isize) -> io::Result<()> {
    match count {
        -1 => Err(io::Error::last_os_error()),
        count if count as usize == PAGE => Ok(()),
        count => Err(io::Error::other(format!("{count} bytes of a page"))),
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

#[test]
fn unlinked_files_stay_mapped_and_whole() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (dog, wrong) = (watch(&team), Wrong::default());
    let end = Instant::now() + storm_time();
    std::thread::scope(|scope| {
        for (seed, root) in [(1, &alice), (2, &bob), (3, &alice), (4, &bob)] {
            let (dog, wrong) = (&dog, &wrong);
            scope.spawn(move || {
                let mut dice = Dice::new(seed);
                while Instant::now() < end {
                    let pages = 1 + dice.roll(300) as usize;
                    let path = root.join(format!("mapped-{seed}"));
                    let mut whole = || -> io::Result<()> {
                        let file = dog.doing(format!("create {}", path.display()), || open(&path))?;
                        file.set_len((pages * PAGE) as u64)?;
                        let mapping = Mapping::new(&file, pages * PAGE)?;
                        for page in 0..pages {
                            dog.doing("write to a mapped page", || mapping.fill(page * PAGE, page as u8 | 1))?;
                        }
                        if dice.roll(2) == 0 {
                            dog.doing("msync", || mapping.sync())?;
                        }
                        dog.doing(format!("unlink {}", path.display()), || fs::remove_file(&path))?;
                        for page in 0..pages {
                            let seen = dog.doing("read a mapped page", || mapping.read(page * PAGE))?;
                            if seen != vec![page as u8 | 1; PAGE] {
                                return Err(io::Error::other(format!("page {page} of {pages} is not as written")));
                            }
                        }
                        dog.doing("write to a page of an unlinked file", || mapping.fill(0, 77))?;
                        dog.doing("msync of an unlinked file", || mapping.sync())?;
                        let mut first = [0; 1];
                        nix::sys::uio::pread(&file, &mut first, 0)?;
                        if first != [77] {
                            return Err(io::Error::other("the descriptor does not see what was mapped"));
                        }
                        Ok(())
                    };
                    if let Err(error) = whole() {
                        wrong.note(format!("{pages} pages of {}: {error}", path.display()));
                    }
                }
            });
        }
    });
    println!("{} operations", dog.count());
    wrong.check();
    equal(&team, &dog, [&alice, &bob]);
    assert!(fs::read_dir(&alice).unwrap().next().is_none(), "what was unlinked stays unlinked");
}

#[test]
fn mapped_files_are_cut_grown_and_removed_by_both() {
    const PAGES: u64 = 64;
    /// EFAULT: the page is behind the file's end.
    const BEHIND: i32 = 14;
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    for n in 0..3 {
        fs::write(alice.join(format!("shared-{n}")), vec![1; PAGES as usize * PAGE]).unwrap();
    }
    team.alice.sync();
    wait_for("the files", std::time::Duration::from_secs(30), || bob.join("shared-2").exists());
    let (dog, wrong) = (watch(&team), Wrong::default());
    let end = Instant::now() + storm_time();
    std::thread::scope(|scope| {
        for (seed, root) in [(1, &alice), (2, &bob), (3, &alice), (4, &bob)] {
            let (dog, wrong) = (&dog, &wrong);
            scope.spawn(move || {
                let mut dice = Dice::new(seed);
                while Instant::now() < end {
                    let path = root.join(format!("shared-{}", dice.roll(3)));
                    let mut once = || -> io::Result<()> {
                        let file = dog.doing(format!("open {}", path.display()), || open(&path))?;
                        let mapping = Mapping::new(&file, PAGES as usize * PAGE)?;
                        for _ in 0..20 {
                            let (page, size) = (dice.roll(PAGES) as usize * PAGE, dice.roll(PAGES * PAGE as u64));
                            let result = match dice.roll(6) {
                                0 => dog.doing(format!("ftruncate {} {size}", path.display()), || file.set_len(size)),
                                1 => dog.doing("msync", || mapping.sync()),
                                2 => dog.doing("fsync", || file.sync_all()),
                                3 => dog.doing("read a mapped page", || mapping.read(page)).map(drop),
                                4 => {
                                    nix::sys::uio::pwrite(&file, &[9; 5000], page as i64).map(drop).map_err(Into::into)
                                }
                                _ => dog.doing("write to a mapped page", || mapping.fill(page, dice.roll(256) as u8)),
                            };
                            match result {
                                Err(error) if error.raw_os_error() == Some(BEHIND) => {}
                                other => other?,
                            }
                        }
                        if dice.roll(10) == 0 {
                            dog.doing(format!("unlink {}", path.display()), || fs::remove_file(&path))?;
                        }
                        Ok(())
                    };
                    let done = once();
                    let _ = wrong.judge(|| path.display().to_string(), done);
                }
            });
        }
    });
    println!("{} operations", dog.count());
    wrong.check();
    equal(&team, &dog, [&alice, &bob]);
}
