//! Requests about what happened and whom to trust.

use super::super::control::Response;
use super::super::failure::Failure;
use super::Engine;

impl Engine {
    /// Lines of a folder's log above `after`; `seen` marks the warnings among all lines as seen.
    pub(super) fn activity(&self, folder: &str, after: u64, seen: bool) -> Result<Response, Failure> {
        self.unlocked.activity(folder, after, seen).map(Response::Activity)
    }
}
