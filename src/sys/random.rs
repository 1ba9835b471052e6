//! Randomness of the operating system (`getrandom(2)`), buffered per thread.
//!
//! Must not know what the bytes become. Unpacking a tree of 20,000 files asks for about 100,000
//! small values (keg ids, chunk keys, nonces); a system call for each would cost more than
//! sealing the files. Each thread therefore draws [`BUFFER_BYTES`] at a time, and a byte that was
//! handed out is wiped from the buffer in the same call, so that a later look into the
//! process's memory finds no key that was given out before.
//!
//! A `fork` would copy the buffer, and parent and child would hand out the same "random" bytes:
//! equal nonces under equal keys. A fork handler therefore invalidates all buffers in the child.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroize;

/// Bytes drawn from the system at once. 1 KiB is 32 keys: the system call is then amortised
/// (more gains nothing measurable) and little unused secret material lies in memory.
const BUFFER_BYTES: usize = 1024;

/// Requests of at least this many bytes go to the system directly; buffering would only copy.
const DIRECT_BYTES: usize = 256;

/// Counts the forks behind this process. A buffer filled under another value is not used.
static FORKS: AtomicU64 = AtomicU64::new(0);
static WATCH_FORKS: Once = Once::new();

extern "C" fn forked() {
    FORKS.fetch_add(1, Ordering::SeqCst);
}

struct Buffer {
    bytes: [u8; BUFFER_BYTES],
    /// Bytes before this index were handed out and are zero.
    used: usize,
    /// Value of [`FORKS`] when the buffer was filled.
    forks: u64,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Buffer {
    fn take(&mut self, out: &mut [u8]) {
        let forks = FORKS.load(Ordering::SeqCst);
        if self.forks != forks || BUFFER_BYTES - self.used < out.len() {
            WATCH_FORKS.call_once(|| {
                // SAFETY: `forked` is a plain function that lives as long as the process and only
                // touches an atomic, which is allowed between `fork` and `exec`.
                let refused = unsafe { libc::pthread_atfork(None, None, Some(forked)) };
                assert_eq!(refused, 0, "no memory for the fork handler");
            });
            from_system(&mut self.bytes);
            self.used = 0;
            self.forks = FORKS.load(Ordering::SeqCst);
        }
        let part = &mut self.bytes[self.used..self.used + out.len()];
        out.copy_from_slice(part);
        part.zeroize();
        self.used += out.len();
    }
}

thread_local! {
    static BUFFER: RefCell<Buffer> = const {
        RefCell::new(Buffer { bytes: [0; BUFFER_BYTES], used: BUFFER_BYTES, forks: 0 })
    };
}

/// Fills `out` with bytes that nobody can predict.
///
/// # Panics
/// When the system has no randomness. Linux cannot fail here once booted (`getrandom(2)`), and a
/// process that cannot make keys must not go on.
pub fn fill(out: &mut [u8]) {
    if out.len() >= DIRECT_BYTES {
        return from_system(out);
    }
    // A thread that is being torn down has no buffer any more.
    let buffered = BUFFER.try_with(|buffer| buffer.borrow_mut().take(out));
    if buffered.is_err() {
        from_system(out);
    }
}

/// An array of bytes that nobody can predict; see [`fill`].
pub fn array<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    fill(&mut out);
    out
}

fn from_system(out: &mut [u8]) {
    if let Err(error) = getrandom::fill(out) {
        panic!("the operating system has no randomness: {error}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn values_never_repeat_across_refills_and_threads() {
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(|| (0..5_000).map(|_| array::<16>()).collect::<Vec<_>>())).collect();
        let values: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(values.iter().collect::<HashSet<_>>().len(), 20_000);
        // A window that was never filled would show as zeros.
        assert!(values.iter().all(|v| v != &[0; 16]));
    }

    #[test]
    fn every_length_around_the_buffer_is_filled_to_its_last_byte() {
        for len in [0, 1, 2, 31, 255, 256, 257, 1023, 1024, 1025, 5000] {
            let mut seen = vec![0u8; len];
            // 64 draws leave a byte zero in all of them with probability 2^-512.
            for _ in 0..64 {
                let mut out = vec![0u8; len];
                fill(&mut out);
                seen.iter_mut().zip(&out).for_each(|(s, o)| *s |= o);
            }
            assert!(seen.iter().all(|b| *b != 0), "length {len}");
        }
    }

    #[test]
    fn bytes_handed_out_are_wiped_from_the_buffer() {
        let mut buffer = Buffer { bytes: [0; BUFFER_BYTES], used: BUFFER_BYTES, forks: 0 };
        let mut out = [0u8; 100];
        buffer.take(&mut out);
        assert_ne!(out, [0; 100]);
        assert_eq!(buffer.bytes[..100], [0; 100]);
        assert_ne!(buffer.bytes[100..200], [0; 100]);
    }

    #[test]
    fn parent_and_child_of_a_fork_draw_different_bytes() {
        let _: [u8; 8] = array(); // the buffer is filled before the fork
        let (mut parent_end, mut child_end) = UnixStream::pair().unwrap();
        // SAFETY: the child allocates nothing and takes no lock: it draws into an array, writes
        // it to a socket and leaves without running destructors.
        match unsafe { libc::fork() } {
            0 => {
                let drawn: [u8; 32] = array();
                let sent = child_end.write_all(&drawn).is_ok();
                unsafe { libc::_exit(if sent { 0 } else { 1 }) }
            }
            child => {
                assert!(child > 0);
                drop(child_end);
                let own: [u8; 32] = array();
                let mut theirs = [0; 32];
                parent_end.read_exact(&mut theirs).unwrap();
                // SAFETY: waits for the child just made; a null status is allowed.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
                assert_ne!(own, theirs);
            }
        }
    }
}
