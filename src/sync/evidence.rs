//! What is kept when the server is caught: the proof for people, and the mark that keeps the folder read-only.

use std::fs;
use std::path::{Path, PathBuf};

use minicbor::Encode;

use super::SyncError;
use crate::format::{DbId, Head, SignedEntry, encode};
use crate::sys::files;

/// Name of the mark in the folder's directory: text for people. While it is there, the folder is read-only.
const FROZEN: &str = "frozen";
/// Directory of the proofs.
const EVIDENCE: &str = "evidence";

/// What is kept: the verified head and what the server showed beside or after it. Both are signed, so that anyone with
/// the account logs can check the contradiction.
#[derive(Encode)]
#[cbor(array)]
struct Evidence<'a> {
    /// The folder.
    #[n(0)]
    db: DbId,
    /// When, milliseconds since 1970 UTC.
    #[n(1)]
    seen_ms: i64,
    /// In plain words.
    #[n(2)]
    what: &'a str,
    /// The replica's verified head.
    #[n(3)]
    head: Head,
    /// The length of the log that the server claims.
    #[n(4)]
    offered_seq: u64,
    /// The entries that it offered after the head.
    #[n(5)]
    offered: &'a [SignedEntry],
}

/// Writes the proof and then the mark; returns where the proof is.
pub(super) fn keep(
    dir: &Path,
    db: DbId,
    what: &str,
    head: Head,
    offered_seq: u64,
    offered: &[SignedEntry],
) -> Result<PathBuf, SyncError> {
    let seen_ms = super::status::now_ms();
    let proofs = dir.join(EVIDENCE);
    let proof = proofs.join(format!("{seen_ms}.cbor"));
    let bytes = encode(&Evidence { db, seen_ms, what, head, offered_seq, offered });
    let io = |path: &Path, error: std::io::Error| SyncError::Io { path: path.to_owned(), detail: error.to_string() };
    files::create_private_dir(&proofs).map_err(|error| io(&proofs, error))?;
    files::write_atomic(&proof, &bytes, 0o600).map_err(|error| io(&proof, error))?;
    let mark = dir.join(FROZEN);
    files::write_atomic(&mark, what.as_bytes(), 0o600).map_err(|error| io(&mark, error))?;
    Ok(proof)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stays_frozen_and_the_proof_holds_what_was_offered() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(frozen(dir.path()).unwrap(), None);
        let offered = SignedEntry { envelope: b"the offered envelope".to_vec(), signature: [7; 64] };
        let proof = keep(dir.path(), DbId([1; 32]), "it lies", Head::EMPTY, 3, &[offered]).unwrap();
        assert_eq!(frozen(dir.path()).unwrap().as_deref(), Some("it lies"));
        let bytes = fs::read(proof).unwrap();
        assert!(bytes.windows(20).any(|part| part == b"the offered envelope"));
    }
}
