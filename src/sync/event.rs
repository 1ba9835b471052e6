//! What happens in the background that a person may want to hear of, and who listens.

use std::path::PathBuf;

use parking_lot::RwLock;

use crate::format::{AccountId, BlobId, DbId, Role};

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
    /// The server shows an account that cannot be: another history than before, or one that nobody of it signed. Nothing
    /// was taken over.
    FalseAccount {
        /// Whose.
        account: AccountId,
        /// What was seen, in plain words.
        what: String,
    },
    /// The folder's key that was sealed to the user is not the one that the log commits to: whoever started the epoch
    /// cheats. What is written under it stays closed here.
    FalseKey {
        /// The folder.
        db: DbId,
        /// The epoch.
        epoch: u32,
        /// Why it was refused.
        reason: String,
    },
    /// The server is there, but does not give what following the folder needs, again and again: the view stays as it is
    /// and is out of date.
    Stalled {
        /// The folder.
        db: DbId,
        /// What is missing, for people.
        reason: String,
    },
    /// Local changes do not reach the server for a reason that time does not mend. They are kept.
    UploadBlocked {
        /// The folder.
        db: DbId,
        /// Why, for people.
        reason: String,
    },
    /// A member has signed that the folder was something that it was not, for somebody who cannot tell.
    FalseCheckpoint {
        /// The folder.
        db: DbId,
        /// The entry.
        seq: u64,
        /// Who signed it.
        account: AccountId,
        /// What is wrong with it, for people.
        what: String,
    },
    /// Somebody has the folder's key who should not any more; the client of an admin or owner starts a new epoch as soon
    /// as one sees it.
    RotationDue {
        /// The folder.
        db: DbId,
    },
    /// The connection was lost for longer than locks are kept, and another member has locked by now what programs here
    /// still believe to have locked.
    LockBroken {
        /// The folder.
        db: DbId,
        /// The file's path in the folder.
        file: String,
    },
    /// The account's log says that this device was revoked: it is to be locked, and opens nothing any more.
    DeviceRevoked {
        /// How people call it: `alice's laptop`.
        name: String,
    },
    /// The server claims that somebody holds an invite who has not proven it.
    FalseRedemption {
        /// The folder.
        db: DbId,
    },
    /// Somebody has joined by an invite, let in by this client.
    InviteUsed {
        /// The folder.
        db: DbId,
        /// Who.
        account: AccountId,
    },
    /// The user is no member any more, and nothing of the folder is left here.
    Departed {
        /// The folder.
        db: DbId,
        /// Its name.
        name: String,
        /// Where changes are kept that had not reached the server; see [`super::Session::recover`].
        kept: Option<PathBuf>,
    },
}

type Leaving = Box<dyn Fn(&DbId) + Send + Sync>;
type Listener = Box<dyn Fn(&Event) + Send + Sync>;

/// The listeners of a session. They are called from background tasks and must not block.
#[derive(Default)]
pub(super) struct Hub {
    listeners: RwLock<Vec<Listener>>,
    leaving: RwLock<Vec<Leaving>>,
}

impl Hub {
    pub fn listen(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    pub fn on_leaving(&self, listener: Leaving) {
        self.leaving.write().push(listener);
    }

    /// Has everybody bring to the journal what they hold of a folder, and forget it. Blocks.
    pub fn leave(&self, db: &DbId) {
        for listener in self.leaving.read().iter() {
            listener(db);
        }
    }

    pub fn tell(&self, event: &Event) {
        match event {
            Event::FalseCheckpoint { .. } => tracing::error!(?event, "a member misbehaves"),
            Event::Misbehaviour { .. }
            | Event::CorruptBlob { .. }
            | Event::FalseAccount { .. }
            | Event::FalseRedemption { .. } => {
                tracing::error!(?event, "server misbehaves");
            }
            Event::FalseKey { .. } => tracing::error!(?event, "an administrator cheats"),
            Event::Stalled { .. }
            | Event::Offline { .. }
            | Event::UploadBlocked { .. }
            | Event::EntryIgnored { .. } => tracing::warn!(?event),
            // Names stay out of the log.
            Event::LockBroken { db, .. } => {
                tracing::warn!(%db, "another member has a lock that programs here believe to have")
            }
            Event::DeviceRevoked { .. } => tracing::warn!("this device was revoked"),
            // The folder's name stays out of the log.
            Event::Departed { db, kept, .. } => tracing::warn!(%db, ?kept, "no longer a member of a folder"),
            Event::Online
            | Event::FolderJoined { .. }
            | Event::RoleChanged { .. }
            | Event::RotationDue { .. }
            | Event::InviteUsed { .. } => tracing::info!(?event),
        }
        for listener in self.listeners.read().iter() {
            listener(event);
        }
    }
}
