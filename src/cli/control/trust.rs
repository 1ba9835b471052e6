//! What is said about trust: contacts, words, evidence, access.
//!
//! Must not carry secrets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Somebody whom the user knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactInfo {
    /// The account's id, hexadecimal.
    pub account: String,
    /// The name that it had when it was met.
    pub name: String,
    /// `pinned`, `verified`, `doubted` or `rejected`.
    pub trust: String,
    /// Since when, Unix time in milliseconds.
    pub since_ms: i64,
    /// When it was met, Unix time in milliseconds.
    pub met_ms: i64,
    /// Doubted: why.
    pub why: String,
}

/// A contact and the words to compare with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparisonInfo {
    /// Who.
    pub contact: ContactInfo,
    /// The words, in order.
    pub words: Vec<String>,
    /// It was verified, and its own devices have changed its keys since.
    pub new_keys: bool,
}

/// A proof of the server's misbehaviour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceInfo {
    /// Where it is.
    pub path: PathBuf,
    /// When it was found, Unix time in milliseconds.
    pub seen_ms: i64,
    /// What was found.
    pub what: String,
    /// The position that was verified here.
    pub seq: u64,
    /// The chain hash there, hexadecimal.
    pub chain: String,
    /// The length of the log that the server claimed.
    pub offered_seq: u64,
    /// How many signed entries it offered.
    pub offered: u64,
    /// Where it was written to, readable by other programs.
    pub exported: Option<PathBuf>,
}

/// Who can read a file, and who could have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessInfo {
    /// The folder's name.
    pub folder: String,
    /// The file, from the folder's root.
    pub path: String,
    /// Its versions, oldest first.
    pub versions: Vec<VersionInfo>,
    /// Members, and what they can read.
    pub now: Vec<ReaderInfo>,
    /// Former members and revoked devices, and what they may have kept.
    pub before: Vec<ReaderInfo>,
}

/// A version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Position of the folder's log entry that wrote it.
    pub seq: u64,
    /// The epoch of the folder's key that it was written under.
    pub epoch: u32,
    /// When, Unix time in milliseconds.
    pub at_ms: i64,
    /// Who wrote it.
    pub by: String,
    /// Length in bytes.
    pub size: u64,
}

/// Somebody who can read some version, or could.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderInfo {
    /// The account's id, hexadecimal.
    pub account: String,
    /// The account's name.
    pub name: String,
    /// A revoked device alone.
    pub device: Option<String>,
    /// The role, the last one of former members.
    pub role: String,
    /// Since when, Unix time in milliseconds.
    pub since_ms: i64,
    /// `no`, `removed`, `left` or `revoked`.
    pub end: String,
    /// When, Unix time in milliseconds.
    pub end_ms: Option<i64>,
    /// The account's valid devices.
    pub devices: Vec<String>,
    /// Positions of the versions that can be read.
    pub versions: Vec<u64>,
}
