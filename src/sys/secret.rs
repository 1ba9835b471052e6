//! Memory for long-lived secrets: kept out of swap and core dumps, wiped when given back.
//!
//! Must not know what the secret is. Only the few roots of the keystore live here; keys derived
//! from them are short-lived ordinary memory that zeroises on drop, because `RLIMIT_MEMLOCK` is
//! small and a page for each of thousands of keys would be waste.
#![allow(unsafe_code)]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use zeroize::Zeroize;

/// Bytes in pages of their own: locked into memory and excluded from core dumps, both best effort,
/// and zeroised before the pages are given back.
pub struct LockedBytes {
    start: NonNull<u8>,
    len: usize,
    mapped: usize,
}

// SAFETY: the pages belong to this value alone and are reached only through `&self` and `&mut self`.
unsafe impl Send for LockedBytes {}
// SAFETY: as above; `&self` gives read access only.
unsafe impl Sync for LockedBytes {}

impl LockedBytes {
    /// `len` zero bytes.
    ///
    /// # Errors
    /// `OutOfMemory` when the system has no pages. That they could not be locked is no error: the
    /// limit may be 0 in a container, and refusing to work would protect nobody.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let page = page_size();
        let mapped =
            len.max(1).checked_next_multiple_of(page).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: a new anonymous private mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is exactly the mapping made above; both calls leave its bytes alone.
        unsafe {
            libc::mlock(start, mapped);
            libc::madvise(start, mapped, libc::MADV_DONTDUMP);
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len, mapped })
    }

    /// Moves `secret` into locked memory and wipes the original.
    ///
    /// # Errors
    /// As [`LockedBytes::zeroed`]; the original is wiped in any case.
    pub fn take(secret: &mut [u8]) -> io::Result<Self> {
        let locked = Self::zeroed(secret.len()).map(|mut locked| {
            locked.copy_from_slice(secret);
            locked
        });
        secret.zeroize();
        locked
    }
}

impl Deref for LockedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to at least `len` initialised bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for LockedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for LockedBytes {
    fn drop(&mut self) {
        self.zeroize();
        // SAFETY: exactly the mapping made in `zeroed`, to which no reference is left. Unmapping
        // also unlocks.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

fn page_size() -> usize {
    // SAFETY: `sysconf` takes an integer and has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn taking_a_secret_wipes_the_original() {
        let mut original = *b"a root secret of the keystore...";
        let locked = LockedBytes::take(&mut original).unwrap();
        assert_eq!(&locked[..], b"a root secret of the keystore...");
        assert_eq!(original, [0; 32]);
    }

    #[test]
    fn lengths_around_a_page_are_whole_and_writable() {
        for len in [0, 1, 4095, 4096, 4097, 100_000] {
            let mut locked = LockedBytes::zeroed(len).unwrap();
            locked.fill(7);
            assert_eq!(locked.len(), len);
            assert!(locked.iter().all(|b| *b == 7));
        }
    }

    #[test]
    fn an_absurd_length_is_an_error() {
        assert!(LockedBytes::zeroed(usize::MAX).is_err());
        assert!(LockedBytes::zeroed(usize::MAX / 2).is_err());
    }

    #[test]
    fn the_pages_are_left_out_of_core_dumps() {
        let locked = LockedBytes::zeroed(32).unwrap();
        let address = locked.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let mut flags = None;
        for line in maps.lines() {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((from, to)) = range.split_once('-')
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&address);
            } else if inside && let Some(found) = line.strip_prefix("VmFlags:") {
                flags = Some(found.to_owned());
            }
        }
        let flags = flags.unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "dd"), "{flags}");
    }
}
