//! Stories about the past of a folder: looking at it, going back to it, letting go of it; and about conflicts.

mod common;
mod sync_support;

#[path = "past_stories/at.rs"]
mod at;
#[path = "past_stories/conflicts.rs"]
mod conflicts;
#[path = "past_stories/mounts.rs"]
mod mounts;
#[path = "past_stories/release.rs"]
mod release;
#[path = "past_stories/retention.rs"]
mod retention;
