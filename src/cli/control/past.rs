//! Requests about a folder's past and its conflicts, and their answers.
//!
//! Names of files are bytes: text where they are UTF-8, else a list of numbers.

use serde::{Deserialize, Serialize};

use super::Listed;

/// A name or a path as bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Raw(Vec<u8>),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Raw(error.into_bytes()), Self::Text)
    }
}

impl Bytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Raw(bytes) => bytes,
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(self.as_slice()).into_owned()
    }
}

/// What a user names on the command line: a path below a mount, or `FOLDER/PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As typed.
    pub typed: Bytes,
    /// The same as an absolute path.
    pub absolute: Bytes,
}

/// Asked about the past, or about conflicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum PastRequest {
    /// What happened to a file or directory.
    History {
        /// Which.
        place: Place,
        /// At most so many lines, the newest.
        limit: usize,
    },
    /// Lead a file or subtree back to what it was.
    Restore {
        /// Which.
        place: Place,
        /// When, as typed.
        at: String,
        /// Only say what would be done.
        dry_run: bool,
        /// Remove what came later.
        remove_later: bool,
    },
    /// Removed files.
    Trash {
        /// Name or id of the folder.
        folder: String,
        /// At most so many, the latest.
        limit: usize,
    },
    /// Bring a removed file back.
    TrashRestore {
        /// Name or id of the folder.
        folder: String,
        /// Its path, or its name alone.
        name: Bytes,
        /// The name that it gets, where not its own.
        new_name: Option<Bytes>,
    },
    /// Versions that conflicts have set beside others.
    Conflicts {
        /// Name or id of the folder; all when missing.
        folder: Option<String>,
    },
    /// For how long the past is kept: changes the rule, thins out, and shows it.
    Retention {
        /// Name or id of the folder.
        folder: String,
        /// What is to change.
        change: RetentionChange,
        /// Take away now what the rule lets go.
        now: bool,
    },
    /// Give the conflict version the name and place of the other.
    ConflictKeep {
        /// The conflict version.
        place: Place,
    },
    /// Remove the conflict version.
    ConflictDiscard {
        /// The conflict version.
        place: Place,
    },
}

/// The answer to a [`PastRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PastResponse {
    /// Of `History`.
    History(Listed<HistoryLine>),
    /// Of `Restore` and `TrashRestore`.
    Restored(Restored),
    /// Of `Trash`.
    Trash(Listed<TrashLine>),
    /// Of `Conflicts`.
    Conflicts(Listed<ConflictLine>),
    /// Of `Retention`.
    Retention(RetentionInfo),
    /// Of `ConflictKeep` and `ConflictDiscard`: what it was.
    ConflictEnded(ConflictLine),
}

/// Steps of a rule, as typed: ages. What is missing stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionChange {
    /// Until when every version is kept.
    pub keep_all: Option<String>,
    /// Then one of each hour.
    pub then_hourly: Option<String>,
    /// Then one of each day.
    pub then_daily: Option<String>,
    /// Then one of each week.
    pub then_weekly: Option<String>,
}

/// For how long a folder's past is kept. Ages as they are typed; a step that ends with the one before is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionInfo {
    /// The folder's name.
    pub folder: String,
    /// Until when every version is kept.
    pub keep_all: String,
    /// Then one of each hour.
    pub then_hourly: String,
    /// Then one of each day.
    pub then_daily: String,
    /// Then one of each week.
    pub then_weekly: String,
    /// The same in words.
    pub words: String,
    /// An owner has said so.
    pub chosen: bool,
    /// From this version on all are there; missing: all are.
    pub thinned_before: Option<String>,
    /// Versions that are left before that.
    pub kept: u64,
    /// Versions that were taken away now, where that was asked for.
    pub removed: Option<u64>,
    /// Bytes that the server keeps for the present and what is left of the past, if that is known here.
    pub stored_bytes: Option<u64>,
    /// Bytes that the server will not keep for them any more.
    pub released_bytes: Option<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// The version that it made, for `--at` and `.keg/at/`.
    pub version: String,
    /// When, by the author's clock, Unix time in milliseconds.
    pub at_ms: i64,
    /// Whose device.
    pub author: String,
    /// The path after it, from the root of the folder; the last one of what was removed.
    pub path: Bytes,
    /// Length after it, of a file.
    pub size: Option<u64>,
    /// What happened.
    pub what: Vec<String>,
}

/// What was or would be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The version that was gone back to.
    pub version: String,
    /// Its time, Unix time in milliseconds.
    pub at_ms: Option<i64>,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Of how many paths something is done to one.
    pub changes: u64,
    /// What is done to which path: the first of them.
    pub steps: Vec<RestoreStep>,
    /// Versions and names that stand beside what others have made meanwhile, as conflicts.
    pub beside: u64,
    /// Names that came later and stay.
    pub kept_later: u64,
    /// The version before this change: restoring to it undoes it.
    pub undo: String,
}

/// What is done to one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreStep {
    /// What.
    pub step: String,
    /// From the root of the folder.
    pub path: Bytes,
    /// Length then.
    pub size: u64,
}

/// A removed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashLine {
    /// Its last path.
    pub path: Bytes,
    /// A directory.
    pub directory: bool,
    /// Length.
    pub size: u64,
    /// When, by the clock of who removed it, Unix time in milliseconds.
    pub removed_ms: i64,
    /// Whose device.
    pub author: String,
    /// The version before.
    pub version: String,
}

/// A version that a conflict has set beside another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictLine {
    /// The folder's name.
    pub folder: String,
    /// Its path, from the root of the folder.
    pub path: Bytes,
    /// The path that its author meant.
    pub original: Bytes,
    /// Whose device.
    pub author: String,
    /// When, by the author's clock, Unix time in milliseconds.
    pub at_ms: i64,
    /// `content`: both wrote to the file. `name`: both gave the name.
    pub kind: String,
    /// Length.
    pub size: u64,
    /// A directory.
    pub directory: bool,
}
