//! KegFS: a team's end-to-end encrypted shared folders as an ordinary directory.
//!
//! The rooms and who may import whom: `docs/ARCHITECTURE.md`.

pub mod api;
pub mod blobs;
pub mod cli;
pub mod crypto;
pub mod format;
pub mod fuse;
pub mod keg;
pub mod keyring;
pub mod remote;
pub mod replica;
pub mod server;
pub mod sync;
pub mod sys;
pub mod vfs;
