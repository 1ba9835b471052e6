//! How much room the server has for a folder.
//!
//! `df` must not wait for the network: what the server said last is answered, and asked for again in the background.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Folder;
use crate::api::Room;
use crate::sys::clock;

/// How long an answer is used without asking again. Programs that watch the room ask about once a second.
const FRESH: Duration = Duration::from_secs(2);

/// What the server said last.
#[derive(Default)]
pub(super) struct Told {
    last: Mutex<(Option<Room>, Option<Instant>)>,
}

impl Folder {
    /// How much room there is, as the server said last; `None` until it has. Answers at once.
    pub fn room(self: &Arc<Self>) -> Option<Room> {
        self.ask_room();
        self.room_told.last.lock().0
    }

    /// Asks the server in the background, unless it was asked a moment ago.
    pub(super) fn ask_room(self: &Arc<Self>) {
        let now = clock::monotonic();
        {
            let mut last = self.room_told.last.lock();
            if last.1.is_some_and(|asked| now.saturating_duration_since(asked) < FRESH) {
                return;
            }
            last.1 = Some(now);
        }
        let folder = Arc::clone(self);
        self.shared.foreground.spawn(async move {
            match folder.remote.room(folder.id()).await {
                Ok(room) => folder.room_told.last.lock().0 = Some(room),
                Err(error) => tracing::debug!(%error, "the server did not tell about its room"),
            }
        });
    }
}
