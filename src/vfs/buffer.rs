//! Memory for written plaintext: growable buffers that are wiped when given back, recycled where they are large, and
//! counted against one bound.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use zeroize::Zeroize;

use crate::format::limits::CHUNK_MAX_BYTES;
use crate::sys::clock;

use super::VfsError;

/// Full-size buffers kept for the next writer. Allocating and wiping 4 MiB costs about as much as sealing 2 MiB.
const RECYCLED_MAX: usize = 20;
/// Capacity of a buffer's first allocation; it then grows fourfold, so that a small file takes little memory and a
/// large one is copied less than once and a half.
const FIRST_BYTES: usize = 4096;

/// Where buffers come from, and how many bytes of them there may be.
pub(super) struct Budget {
    max: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    used: usize,
    recycled: Vec<Vec<u8>>,
    closed: bool,
}

impl Budget {
    /// At most `max` bytes, which writers may overshoot by one buffer each.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default(), freed: Condvar::new() })
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.state.lock().used
    }

    /// More is in use than may be.
    pub(super) fn is_full(&self) -> bool {
        self.used() >= self.max
    }

    /// Waits until less is in use than may be.
    pub(super) fn wait(&self, deadline: Instant) -> Result<(), VfsError> {
        let mut state = self.state.lock();
        while state.used >= self.max {
            if self.freed.wait_until(&mut state, deadline).timed_out() && state.used >= self.max {
                return Err(VfsError::TimedOut);
            }
        }
        Ok(())
    }

    /// Wakes all who wait, for them to look at the state of the world again, and wipes what is kept for recycling.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.recycled.iter_mut().for_each(Zeroize::zeroize);
        state.recycled.clear();
        self.freed.notify_all();
    }

    fn allocate(&self, capacity: usize) -> Vec<u8> {
        let mut state = self.state.lock();
        state.used += capacity;
        let recycled = if capacity == CHUNK_MAX_BYTES { state.recycled.pop() } else { None };
        drop(state);
        recycled.unwrap_or_else(|| Vec::with_capacity(capacity))
    }

    fn give_back(&self, mut bytes: Vec<u8>, counted: usize) {
        let mut state = self.state.lock();
        state.used -= counted;
        if state.used < self.max {
            self.freed.notify_all();
        }
        if counted == CHUNK_MAX_BYTES && state.recycled.len() < RECYCLED_MAX && !state.closed {
            bytes.clear();
            state.recycled.push(bytes);
            return;
        }
        drop(state);
        bytes.zeroize();
    }
}

/// Up to [`CHUNK_MAX_BYTES`] of plaintext.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    capacity: usize,
    budget: Arc<Budget>,
}

impl Buffer {
    /// An empty buffer.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { bytes: Vec::new(), capacity: 0, budget: budget.clone() }
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Their number.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Puts `data` at `at`, which is at most [`Buffer::len`]: over what is there, and behind it.
    pub(super) fn put(&mut self, at: usize, data: &[u8]) {
        self.grow(at + data.len());
        let over = data.len().min(self.bytes.len() - at);
        self.bytes[at..at + over].copy_from_slice(&data[..over]);
        self.bytes.extend_from_slice(&data[over..]);
    }

    /// Keeps the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.bytes[len..].zeroize();
        self.bytes.truncate(len);
    }

    fn grow(&mut self, len: usize) {
        if len <= self.capacity {
            return;
        }
        let mut capacity = self.capacity.max(FIRST_BYTES);
        while capacity < len {
            capacity = (capacity * 4).min(CHUNK_MAX_BYTES.max(len));
        }
        let mut larger = self.budget.allocate(capacity);
        larger.extend_from_slice(&self.bytes);
        let old = std::mem::replace(&mut self.bytes, larger);
        self.budget.give_back(old, self.capacity);
        self.capacity = capacity;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.budget.give_back(std::mem::take(&mut self.bytes), self.capacity);
    }
}

/// Now plus `duration`, on the monotonic clock.
pub(super) fn deadline_in(duration: std::time::Duration) -> Instant {
    clock::monotonic() + duration
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn bytes_survive_growth_and_overwriting() {
        let budget = Budget::new(1 << 30);
        let mut buffer = Buffer::new(&budget);
        let mut model = Vec::new();
        for step in 0..300usize {
            let at = (step * 7919) % (model.len() + 1);
            let data = vec![step as u8; (step * 131) % 20_000];
            buffer.put(at, &data);
            model.resize(model.len().max(at + data.len()), 0);
            model[at..at + data.len()].copy_from_slice(&data);
            assert_eq!(buffer.bytes(), model);
        }
        buffer.truncate(10);
        assert_eq!(buffer.bytes(), &model[..10]);
    }

    #[test]
    fn everything_taken_is_given_back_and_waiters_wake() {
        let budget = Budget::new(CHUNK_MAX_BYTES);
        let mut buffer = Buffer::new(&budget);
        buffer.put(0, &vec![1; CHUNK_MAX_BYTES]);
        assert_eq!(budget.used(), CHUNK_MAX_BYTES);
        assert_eq!(budget.wait(deadline_in(Duration::from_millis(5))), Err(VfsError::TimedOut));
        let waiter = std::thread::spawn({
            let budget = budget.clone();
            move || budget.wait(deadline_in(Duration::from_secs(20)))
        });
        drop(buffer);
        waiter.join().unwrap().unwrap();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_small_file_takes_a_small_buffer() {
        let budget = Budget::new(1 << 30);
        let mut buffer = Buffer::new(&budget);
        buffer.put(0, b"hello");
        assert_eq!(budget.used(), FIRST_BYTES);
    }
}
