//! The mounted view without a kernel and without a server: on the folder's twin in memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "vfs_core/boundaries.rs"]
mod boundaries;
#[path = "vfs_core/concurrency.rs"]
mod concurrency;
#[path = "vfs_core/desk.rs"]
mod desk;
#[path = "vfs_core/faults.rs"]
mod faults;
#[path = "vfs_core/foreign.rs"]
mod foreign;
#[path = "vfs_core/keg_dir.rs"]
mod keg_dir;
#[path = "vfs_core/locks.rs"]
mod locks;
#[path = "vfs_core/model.rs"]
mod model;
#[path = "vfs_core/names.rs"]
mod names;
#[path = "vfs_core/reading.rs"]
mod reading;
#[path = "vfs_core/removed.rs"]
mod removed;
#[path = "vfs_core/stores.rs"]
mod stores;
