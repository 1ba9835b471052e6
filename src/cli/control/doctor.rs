//! Requests of `kegfs doctor`, and their answers.

use serde::{Deserialize, Serialize};

use super::past::Bytes;

/// Asked by `kegfs doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum DoctorRequest {
    /// Whether the server answers, and what its clock says.
    Server,
    /// Names that other systems cannot have.
    Names {
        /// Name or id of the folder.
        folder: String,
        /// Leave out so many at the beginning.
        skip: u64,
        /// At most so many; the answer has fewer where it would become too long.
        limit: usize,
    },
}

/// The answer to a [`DoctorRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DoctorResponse {
    /// Of `Server`.
    Server(ServerState),
    /// Of `Names`.
    Names(FolderNames),
}

/// Whether the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerState {
    /// Its address.
    pub server: String,
    /// Why it does not; none when it does.
    pub problem: Option<String>,
    /// How far its clock is ahead of this machine's, milliseconds, where that can be told.
    pub ahead_ms: Option<i64>,
}

/// What was found among the names of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderNames {
    /// The folder's name.
    pub folder: String,
    /// Names that were looked at.
    pub names: u64,
    /// Names with a problem.
    pub total: u64,
    /// Those that were asked for.
    pub findings: Vec<NameFinding>,
}

/// A name that not every system can have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameFinding {
    /// The path in the folder.
    pub path: Bytes,
    /// What is wrong with the last name in it.
    pub problems: Vec<NameProblem>,
    /// A name without these problems that nothing else in the directory has; none where another name does not help.
    pub rename_to: Option<String>,
}

/// One thing that is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameProblem {
    /// Which.
    pub trouble: Trouble,
    /// On which systems.
    pub systems: Vec<String>,
    /// For people.
    pub what: String,
    /// The name that it is taken for.
    pub with: Option<Bytes>,
}

/// What can be wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Another name in the directory is the same there.
    Clash,
    /// It is a device's.
    Reserved,
    /// It has a character that no name has there.
    Character,
    /// Its end is cut off there.
    Ending,
    /// It is not UTF-8.
    Encoding,
    /// The path to it is too long.
    PathLength,
}
