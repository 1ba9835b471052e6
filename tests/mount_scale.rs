//! Sizes and storms on real mounts: files of terabytes, very many files, and everything at once from both members.
//!
//! `scripts/scale` has the full sizes; `KEGFS_STORM_SECONDS` makes storms longer.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

#[path = "mount_scale/many.rs"]
mod many;
#[path = "mount_scale/mapped.rs"]
mod mapped;
#[path = "mount_scale/sparse.rs"]
mod sparse;
#[path = "mount_scale/storms.rs"]
mod storms;
