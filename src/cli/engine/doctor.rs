//! What `kegfs doctor` asks of an unlocked profile.
//!
//! Must not know arguments or terminals.

use std::time::Duration;

use super::super::control::{DoctorRequest, DoctorResponse, FolderNames, Pending, ServerState};
use super::super::doctor::{Page, walk};
use super::super::failure::Failure;
use super::Engine;
use crate::sync::SyncError;
use crate::sys::clock;

/// How long the server may take to tell its time.
const SERVER: Duration = Duration::from_secs(10);
/// Bytes of names and words in one answer: a line of the control socket has at most 1 MiB, and JSON adds to them.
const ANSWER_BYTES: usize = 256 << 10;
/// How often who waits is told that work goes on.
const TICK: Duration = Duration::from_secs(1);

impl Engine {
    /// Does what `request` asks.
    ///
    /// # Errors
    /// What to tell whoever asked; not that something was found.
    pub(super) fn doctor(
        &self,
        request: DoctorRequest,
        progress: &mut dyn FnMut(Pending) -> bool,
    ) -> Result<DoctorResponse, Failure> {
        match request {
            DoctorRequest::Server => {
                let told = self.unlocked.session.clock_ahead_ms(SERVER);
                let server = self.config.server.clone();
                Ok(DoctorResponse::Server(match told {
                    Ok(ahead_ms) => ServerState { server, problem: None, ahead_ms: Some(ahead_ms) },
                    Err(error) => {
                        ServerState { server, problem: Some(self.unlocked.told(error).message), ahead_ms: None }
                    }
                }))
            }
            DoctorRequest::Names { folder, skip, limit } => {
                let folder = self.unlocked.folder(&folder)?;
                let mut page = Page::new(skip, limit, ANSWER_BYTES);
                let mut told = clock::monotonic();
                walk(&*folder.replica, &mut page, &mut || {
                    let now = clock::monotonic();
                    if now < told + TICK {
                        return true;
                    }
                    told = now;
                    progress(Pending::default())
                })
                .map_err(|error| self.unlocked.told(SyncError::from(error)))?;
                let (names, total, findings) = (page.names, page.total, page.findings);
                Ok(DoctorResponse::Names(FolderNames { folder: folder.name(), names, total, findings }))
            }
        }
    }
}
