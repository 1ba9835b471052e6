//! What the server calls a file that is locked, and how members find out which file it is.
//!
//! # Construction
//! Token: the first 16 bytes of `derive(LOCK_TOKEN, s_e ‖ folder ‖ keg)`; note: the keg's id sealed under
//! `derive(LOCK_NOTE, s_e)` with the token as associated data, where `s_e` is the content secret of the folder's current
//! epoch. Without the secret, tokens of two epochs, and a token and a file, cannot be linked.
//!
//! # The caller's duty
//! A note counts only if the token follows from what it says: see [`Names::read`].

use crate::crypto::{Key, aead, kdf, labels};
use crate::format::{DbId, KegId, LockToken};

/// The names of one epoch.
pub(super) struct Names {
    db: DbId,
    pub epoch: u32,
    token: Key,
    note: Key,
}

impl Names {
    /// From the content secret of `epoch`.
    pub fn new(db: DbId, epoch: u32, content: &Key) -> Self {
        let key = |label| kdf::derive(label, &[content.as_bytes(), db.as_bytes()]);
        Self { db, epoch, token: key(labels::KEY_LOCK_TOKEN), note: key(labels::KEY_LOCK_NOTE) }
    }

    /// What the server calls the file.
    pub fn token(&self, keg: &KegId) -> LockToken {
        let long = kdf::derive(labels::LOCK_TOKEN, &[self.token.as_bytes(), self.db.as_bytes(), keg.as_bytes()]);
        let mut short = LockToken::ZERO;
        short.0.copy_from_slice(&long.as_bytes()[..LockToken::LEN]);
        short
    }

    /// What members are told beside it.
    pub fn note(&self, keg: &KegId) -> Vec<u8> {
        aead::seal(&self.note, self.token(keg).as_bytes(), keg.as_bytes())
    }

    /// The file that a member's note is about; `None` for one that is false or from another epoch.
    pub fn read(&self, token: &LockToken, note: &[u8]) -> Option<KegId> {
        let opened = aead::open(&self.note, token.as_bytes(), note).ok()?;
        let keg = KegId::from_slice(&opened).ok()?;
        (self.token(&keg) == *token).then_some(keg)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::limits::LOCK_NOTE_MAX_BYTES;

    fn names(folder: u8, epoch: u32, secret: u8) -> Names {
        Names::new(DbId([folder; 32]), epoch, &Key::from_bytes([secret; 32]))
    }

    #[test]
    fn tokens_are_frozen_and_differ_with_file_folder_and_epoch() {
        let keg = KegId([7; 16]);
        let token = names(1, 3, 0x42).token(&keg);
        assert_eq!(token.to_string(), FROZEN);
        for other in
            [names(1, 3, 0x42).token(&KegId([8; 16])), names(2, 3, 0x42).token(&keg), names(1, 4, 0x43).token(&keg)]
        {
            assert_ne!(token, other);
        }
    }

    const FROZEN: &str = "eee242f104f385d64bdc3f909d71a879";

    #[test]
    fn a_note_tells_members_the_file_and_a_false_one_nothing() {
        let (ours, keg) = (names(1, 3, 0x42), KegId([7; 16]));
        let (token, note) = (ours.token(&keg), ours.note(&keg));
        assert!(note.len() <= LOCK_NOTE_MAX_BYTES);
        assert_eq!(ours.read(&token, &note), Some(keg));
        assert_eq!(names(1, 4, 0x43).read(&token, &note), None, "another epoch");
        let other = KegId([9; 16]);
        assert_eq!(ours.read(&ours.token(&other), &note), None, "moved to another token");
        // A member seals one file's id for another's token.
        let lie = aead::seal(&ours.note, token.as_bytes(), other.as_bytes());
        assert_eq!(ours.read(&token, &lie), None);
    }
}
