//! One folder's local database: the confirmed state with its history, own pending work, and the view that results.
//!
//! Three things lie in a folder's directory, none of them in plaintext: `state.db` (what the server has sequenced and the
//! client has verified: tree, contents, history, mark), `journal.db` (own operations and signed entries that the server
//! has not sequenced yet) and `key.check` (see `db`). The *overlay* in memory is the pending operations' effect on the
//! confirmed state; reads go through it, so the user sees at once what he did, and what others did as soon as it is
//! durable.
//!
//! Promises, each with a test:
//! - What [`Replica::flush`] with `durable` returned for, survives power cuts; without, it survives the process.
//! - The mark is on the disk before anything up to it is shown, and never goes back.
//! - An own operation is confirmed exactly once, even if the server's answer was lost.
//! - The mounted view equals the model applied to the log and then to the pending operations, whatever happened between.
//!
//! This room runs the model ([`crate::keg`]) and owns the SQL. It must not know the network, how entries are verified,
//! what a chunk's bytes are, or that a kernel asks.

mod account_store;
mod activity;
mod base;
mod confirm;
mod contact_store;
mod content;
mod db;
mod error;
mod export;
mod flush;
mod group;
mod import;
mod journal;
mod layer;
mod overlay;
mod past;
mod pool;
mod release;
#[allow(clippy::module_inception)]
mod replica;
mod restore;
mod rows;
mod schema;
mod sequenced;
mod standing;
mod state;
mod story;
mod thin;
mod told;
mod types;
mod view;

pub use account_store::{AccountStore, FolderRecord};
pub use activity::{Activity, Happening};
pub use error::ReplicaError;
pub use export::{Compared, Comparison};
pub use group::{Basis, Grouped, Unflushed};
pub use import::{CheckpointRow, CheckpointVerdict, Import, Origin};
pub use past::Past;
pub use replica::{Replica, Submitted};
pub use restore::{Later, PlannedStep, RestorePlan, Step, Way};
pub use story::{ConflictName, Moment, NameSpan, RemovedNode};
pub use thin::{PastSize, Thin, Thinnable};
pub use told::Behind;
pub use types::{
    Added, Change, Confirmed, DirEntry, Extents, LogLine, MemberInfo, NameEntry, NameOf, OpenParams, Pending,
    PendingCounts, Slot, StagedEntry, Standing, Xattr,
};
pub use view::View;

#[cfg(test)]
mod agree_tests;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod past_tests;
#[cfg(test)]
mod release_tests;
#[cfg(test)]
mod restore_tests;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thin_tests;
#[cfg(test)]
mod told_tests;
