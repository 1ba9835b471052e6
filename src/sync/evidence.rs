//! What is kept when the server is caught: the proof for people, and the mark that keeps the folder read-only.

use std::fs;
use std::path::{Path, PathBuf};

use minicbor::{Decode, Encode};

use super::SyncError;
use crate::format::{DbId, Head, SignedEntry, decode, encode};
use crate::sys::files;

/// Name of the mark in the folder's directory: text for people. While it is there, the folder is read-only.
const FROZEN: &str = "frozen";
/// Directory of the proofs, below the profile's: they outlive the folder.
const EVIDENCE: &str = "evidence";

/// What is kept: the verified head, the newest entry behind it, and what the server showed beside or after it. Both
/// sides are signed, so that anyone with the account logs can check the contradiction.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Evidence {
    /// The folder.
    #[n(0)]
    pub db: DbId,
    /// When, milliseconds since 1970 UTC.
    #[n(1)]
    pub seen_ms: i64,
    /// In plain words.
    #[n(2)]
    pub what: String,
    /// The replica's verified head.
    #[n(3)]
    pub head: Head,
    /// The length of the log that the server claims.
    #[n(4)]
    pub offered_seq: u64,
    /// The entries that it offered after the head.
    #[n(5)]
    pub offered: Vec<SignedEntry>,
    /// A signed entry of the verified log, the newest that was at hand: it attests what its author saw of the log.
    #[n(6)]
    pub own: Option<SignedEntry>,
}

/// A proof and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The file, canonical CBOR (docs/FORMAT.md §8).
    pub path: PathBuf,
    /// What is in it.
    pub evidence: Evidence,
}

/// Where the proofs about a folder are, for a profile directory.
pub(super) fn dir_of(profile: &Path, db: &DbId) -> PathBuf {
    profile.join(EVIDENCE).join(db.to_string())
}

/// Writes the proof below `proofs` and then the mark into the folder's directory; returns where the proof is.
pub(super) fn keep(folder: &Path, proofs: &Path, evidence: &Evidence) -> Result<PathBuf, SyncError> {
    let io = |path: &Path, error: std::io::Error| SyncError::Io { path: path.to_owned(), detail: error.to_string() };
    files::create_private_dir(proofs).map_err(|error| io(proofs, error))?;
    let proof = proofs.join(format!("{}.cbor", evidence.seen_ms));
    files::write_atomic(&proof, &encode(evidence), 0o600).map_err(|error| io(&proof, error))?;
    let mark = folder.join(FROZEN);
    files::write_atomic(&mark, evidence.what.as_bytes(), 0o600).map_err(|error| io(&mark, error))?;
    Ok(proof)
}

/// The proofs about a folder, oldest first.
pub(super) fn all(proofs: &Path) -> Result<Vec<Kept>, SyncError> {
    let io = |path: &Path, error: std::io::Error| SyncError::Io { path: path.to_owned(), detail: error.to_string() };
    let entries = match fs::read_dir(proofs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(proofs, error)),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let bytes = fs::read(&path).map_err(|error| io(&path, error))?;
        // What is no proof was not written here.
        if let Ok(evidence) = decode::<Evidence>(&bytes) {
            found.push(Kept { path, evidence });
        }
    }
    found.sort_by_key(|kept| kept.evidence.seen_ms);
    Ok(found)
}

/// Why the folder is frozen, if it is.
pub(super) fn frozen(dir: &Path) -> Result<Option<String>, SyncError> {
    let mark = dir.join(FROZEN);
    match fs::read(&mark) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SyncError::Io { path: mark, detail: error.to_string() }),
    }
}

/// Takes the mark away. The proofs stay.
pub(super) fn thaw(dir: &Path) -> Result<(), SyncError> {
    let mark = dir.join(FROZEN);
    match fs::remove_file(&mark) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SyncError::Io { path: mark, detail: error.to_string() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stays_frozen_until_it_is_thawed_and_the_proof_outlives_that() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, proofs) = (dir.path().join("folder"), dir_of(dir.path(), &DbId([1; 32])));
        fs::create_dir(&folder).unwrap();
        assert_eq!(frozen(&folder).unwrap(), None);
        assert!(all(&proofs).unwrap().is_empty());
        let entry = |text: &[u8]| SignedEntry { envelope: text.to_vec(), signature: [7; 64] };
        let evidence = Evidence {
            db: DbId([1; 32]),
            seen_ms: 5,
            what: "it lies".to_owned(),
            head: Head::EMPTY,
            offered_seq: 3,
            offered: vec![entry(b"offered")],
            own: Some(entry(b"known")),
        };
        let path = keep(&folder, &proofs, &evidence).unwrap();
        assert_eq!(frozen(&folder).unwrap().as_deref(), Some("it lies"));
        thaw(&folder).unwrap();
        thaw(&folder).unwrap();
        assert_eq!(frozen(&folder).unwrap(), None);
        assert_eq!(all(&proofs).unwrap(), [Kept { path, evidence }]);
    }
}
