//! Invites: a secret that travels in a link, the key pair that follows from it, and the proof that somebody holds it.
//!
//! The log has the public key. Whoever has the secret signs the own account with the private one, and the client of an
//! admin that sees the proof makes the account a member, in an entry that carries it; every client checks it there. The
//! server sees public key and proof. It cannot accept the invite itself (THREATS row 13), and the secret never reaches
//! it (row 12).

use crate::crypto::sign::{Signature, SigningKey, VerifyingKey};
use crate::crypto::{Key, kdf, labels};
use crate::format::{InviteKey, Redemption, encode};

/// The secret in a link.
pub struct InviteSecret(Key);

impl InviteSecret {
    /// A fresh one.
    pub fn random() -> Self {
        Self(Key::random())
    }

    /// From the bytes in a link.
    pub fn from_key(secret: Key) -> Self {
        Self(secret)
    }

    /// The bytes, for the link.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(kdf::derive(labels::KEY_INVITE_SIGN, &[self.0.as_bytes()]).as_bytes())
    }

    /// What the log knows of it.
    pub fn key(&self) -> InviteKey {
        InviteKey(self.signing_key().verifying_key().0)
    }

    /// Admission code to the server, for who has no account. The server learns it when it is used, and cannot find the
    /// secret from it.
    pub fn admission(&self) -> String {
        hex::encode(&kdf::derive(labels::KEY_INVITE_ADMISSION, &[self.0.as_bytes()]).as_bytes()[..16])
    }

    /// What the server is given of the admission code beforehand.
    pub fn admission_hash(&self) -> [u8; 32] {
        kdf::hash(labels::HASH_INVITE, &[self.admission().as_bytes()])
    }

    /// The proof to hold the invite, for the account in `redemption`.
    pub fn prove(&self, redemption: &Redemption) -> [u8; 64] {
        self.signing_key().sign(labels::SIGN_INVITE, &encode(redemption)).0
    }
}

/// Whether who made `proof` holds the invite, and made it for this account and folder.
pub fn is_proven(redemption: &Redemption, proof: &[u8; 64]) -> bool {
    VerifyingKey(redemption.key.0).verify(labels::SIGN_INVITE, &encode(redemption), &Signature(*proof)).is_ok()
}
