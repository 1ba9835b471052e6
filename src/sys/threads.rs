//! Starting threads.
//!
//! Must not know what the threads do. A thread without a name is invisible in a debugger and in
//! `/proc`, so a name is required here.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread named `name` (the kernel shows its first 15 bytes).
///
/// # Errors
/// When the system refuses another thread, or when `name` contains a NUL byte.
pub fn spawn<T, F>(name: &str, body: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a thread's name must not contain NUL"));
    }
    Builder::new().name(name.to_owned()).spawn(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_carries_its_name_and_returns_its_value() {
        let handle = spawn("kegfs-test", || std::thread::current().name().map(str::to_owned)).unwrap();
        assert_eq!(handle.join().unwrap().as_deref(), Some("kegfs-test"));
    }

    #[test]
    fn a_name_with_nul_is_an_error_and_not_a_panic() {
        assert!(spawn("a\0b", || ()).is_err());
    }
}
