//! What happens in the background that a person may want to hear of, and who listens.

use std::path::PathBuf;

use parking_lot::RwLock;

use crate::format::{BlobId, DbId, Role};

/// Something happened in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The connection to the server stands.
    Online,
    /// The connection to the server is lost.
    Offline {
        /// Why, for people.
        reason: String,
    },
    /// A folder is there that was not there before.
    FolderJoined {
        /// The folder.
        db: DbId,
        /// Its name.
        name: String,
    },
    /// The user's role in a folder is another; `None`: no longer a member.
    RoleChanged {
        /// The folder.
        db: DbId,
        /// The role.
        role: Option<Role>,
    },
    /// The server was caught; the folder is read-only from now on.
    Misbehaviour {
        /// The folder.
        db: DbId,
        /// What was seen, in plain words.
        what: String,
        /// Where the proof is kept.
        evidence: PathBuf,
    },
    /// An entry of the log counts for nothing, by the rules that every member follows.
    EntryIgnored {
        /// The folder.
        db: DbId,
        /// The entry.
        seq: u64,
        /// Why.
        reason: String,
    },
    /// The server sent something else than a blob; it was thrown away.
    CorruptBlob {
        /// The folder.
        db: DbId,
        /// The blob that was asked for.
        blob: BlobId,
    },
    /// Local changes do not reach the server for a reason that time does not mend. They are kept.
    UploadBlocked {
        /// The folder.
        db: DbId,
        /// Why, for people.
        reason: String,
    },
}

type Listener = Box<dyn Fn(&Event) + Send + Sync>;

/// The listeners of a session. They are called from background tasks and must not block.
#[derive(Default)]
pub(super) struct Hub {
    listeners: RwLock<Vec<Listener>>,
}

impl Hub {
    pub fn listen(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    pub fn tell(&self, event: &Event) {
        match event {
            Event::Misbehaviour { .. } | Event::CorruptBlob { .. } => tracing::error!(?event, "server misbehaves"),
            Event::Offline { .. } | Event::UploadBlocked { .. } | Event::EntryIgnored { .. } => tracing::warn!(?event),
            Event::Online | Event::FolderJoined { .. } | Event::RoleChanged { .. } => tracing::info!(?event),
        }
        for listener in self.listeners.read().iter() {
            listener(event);
        }
    }
}
