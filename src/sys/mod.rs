//! The one door to the operating system: clock, randomness, threads, crash-safe files, process
//! hardening and locked memory.
//!
//! This is the only room whose files may contain `unsafe`; each such file says so at its top and
//! each block says why it is sound. The room knows nothing of KegFS: no ids, no formats, no keys,
//! no network. Errors are plain [`std::io::Error`]s; the rooms above give them their meaning.

pub mod bulk;
pub mod clock;
pub mod descriptors;
pub mod files;
pub mod process;
pub mod random;
pub mod secret;
pub mod threads;
