//! The pure model of a folder: what operations do to a tree of kegs, and how concurrent ones are reconciled.
//!
//! [`apply()`] is deterministic and total: replicas that apply the same operations in the same order reach the same
//! state, and no operation makes written bytes unreachable that somebody else wrote meanwhile. This room knows no
//! database, no key and no network; it works over any [`Store`], of which [`MemStore`] is the reference.

mod apply;
mod attributes;
mod conflict;
mod content;
mod mem;
mod node;
pub mod retention;
mod store;

pub use apply::{Applied, Context, apply};
pub use attributes::{Attributes, Known};
pub use conflict::{conflict_name, split_extension};
pub use mem::MemStore;
pub(crate) use mem::data_in;
pub use node::{ContentVersion, Dentry, Node, Redirect, Removed, Stamp};
pub use store::Store;

/// The sequence number that pending operations are applied under: above every confirmed one.
pub const PENDING_SEQ: u64 = 1 << 62;
/// The name in the root directory that is no member's to take: clients show there what they make themselves. Whatever the
/// log puts under it gets a conflict name, as if it were taken.
pub const KEG_DIR: &[u8] = b".keg";
/// Inode number of the root directory in every store.
pub const ROOT_INO: u64 = 1;

#[cfg(test)]
mod tests;
