//! Every domain-separation string of KegFS.
//!
//! Two uses of cryptography with different purposes must not be able to stand in for each other,
//! and the label is what tells them apart. Hence the rules: a label is used for one purpose at one
//! place of the code (plus its inverse: seal and open, sign and verify), never changes once
//! released (a change of meaning is a new label), and starts with `KegFS v1 `.
//! A test checks prefix and uniqueness of everything in [`ALL`]; a new label goes in there too.

/// Declares the labels and collects them in [`ALL`].
macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = concat!("KegFS v1 ", $text);)*
        /// Every label of this module.
        pub const ALL: &[&str] = &[$($name),*];
    };
}

labels! {
    // --- inside this room ---
    /// Chunk key → cipher key of its segments ([`chunk`](super::chunk)).
    CHUNK_CIPHER = "chunk cipher key";
    /// Secret → cipher key of [`aead::seal`](super::aead::seal).
    AEAD_CIPHER = "aead cipher key";
    /// Hashes the `info` of a box before HPKE sees it ([`boxes`](super::boxes)).
    BOX_INFO = "box info";
    /// Exporter context: HPKE context → key of a box's payload.
    BOX_EXPORT = "box payload key";
    /// Passphrase hash → key of the wrapped secret ([`password`](super::password)).
    PASSWORD_WRAP = "passphrase wrap key";
    /// Leaves, nodes and root of [`merkle`](super::merkle).
    MERKLE = "merkle tree";

    // --- signatures ([`sign`](super::sign)) ---
    /// An entry of a keg db log.
    SIGN_ENTRY = "sign db entry";
    /// An entry of an account log.
    SIGN_ACCOUNT_ENTRY = "sign account entry";
    /// The server's login challenge, answered by a device.
    SIGN_LOGIN = "sign login challenge";
    /// A checkpoint of a folder's state.
    SIGN_CHECKPOINT = "sign checkpoint";
    /// An invitation to a folder or server.
    SIGN_INVITE = "sign invite";
    /// The provisioning of a new device by an old one.
    SIGN_PROVISION = "sign device provisioning";

    // --- hashes and commitments of the logs ---
    /// An entry of a keg db log → its hash; of the first one, the keg db id.
    HASH_ENTRY = "hash db entry";
    /// An entry of an account log → its hash; of the first one, the account id.
    HASH_ACCOUNT_ENTRY = "hash account entry";
    /// A device's two public keys → device id.
    HASH_DEVICE = "hash device keys";
    /// Previous chain hash, entry hash → chain hash of a log.
    CHAIN = "chain hash";
    /// An account's present keys, for [`compare`](super::compare).
    HASH_ACCOUNT_KEYS = "hash account keys";
    /// Two accounts and their keys → the words that two people compare.
    COMPARE_ACCOUNTS = "compare accounts";
    /// A folder and a position → the words that its members compare.
    COMPARE_FOLDER = "compare folder";
    /// A user key's seed → key of what the account's devices tell each other of contacts.
    KEY_USER_CONTACTS = "user key contacts";
    /// Commitment to an epoch's content secret `s_e`.
    COMMIT_CONTENT = "commit epoch content secret";
    /// Commitment to an epoch's history secret `h_e`.
    COMMIT_HISTORY = "commit epoch history secret";
    /// A member's box → its leaf in the epoch's Merkle tree.
    BOX_LEAF = "box merkle leaf";

    // --- what the server stores instead of a secret ---
    /// A login token → the hash under which the server keeps the session.
    HASH_TOKEN = "hash login token";
    /// An admission code → the hash under which the server keeps its uses.
    HASH_INVITE = "hash admission code";

    // --- keys of the epochs and accounts ---
    /// `s_e` → key of entry bodies.
    KEY_ENTRY_BODY = "epoch entry body key";
    /// `s_e` → key of checkpoints.
    KEY_CHECKPOINT = "epoch checkpoint key";
    /// A newcomer's fresh key → key of the epochs granted to them.
    KEY_GRANTED = "granted epochs key";
    /// `h_e` → key of the back-link to the epoch before.
    KEY_BACK_LINK = "epoch back-link key";
    /// `s_e` → key of the tokens by which the server knows locked files.
    KEY_LOCK_TOKEN = "epoch lock token key";
    /// `s_e` → key of the notes beside them.
    KEY_LOCK_NOTE = "epoch lock note key";
    /// That key and a file's id → the token.
    LOCK_TOKEN = "lock token";
    /// User key seed → seed of its X-Wing key.
    KEY_USER_KEM = "user key kem seed";
    /// User key seed of one generation → key that seals the seed of the generation before.
    KEY_USER_PREVIOUS = "user key previous generation";

    // --- joining: devices, recovery phrases, invites ---
    /// Stretched code of a new device → root of the keys of its mailbox.
    CODE_ROOT = "device code root";
    /// Root of a device code → id of the mailbox. Public.
    CODE_MAILBOX = "device code mailbox";
    /// Root of a device code, side of the mailbox, hash of the letters before → key of a letter.
    KEY_CODE_LETTER = "device code letter key";
    /// The letters so far, as they lie in the mailbox → what the next one is bound to.
    HASH_CODE_LETTERS = "hash device code letters";
    /// Nonce and keys of a new device → what it cannot change any more before it has seen the other's nonce.
    COMMIT_JOINING = "joining nonce commitment";
    /// Local key of a device, a request → its nonce for that request.
    KEY_JOINING_NONCE = "nonce for a joining device";
    /// Plaintext of the first three letters → what both devices show, and what the others are signed over.
    COMPARE_JOINING = "compare joining devices";
    /// Signs what a device says after the comparison.
    SIGN_JOINING = "sign joining letter";
    /// Recovery phrase → seed of its signing key.
    KEY_RECOVERY_SIGN = "recovery phrase signing seed";
    /// Recovery phrase → seed of its X-Wing key.
    KEY_RECOVERY_KEM = "recovery phrase kem seed";
    /// Secret of an invite → seed of its signing key.
    KEY_INVITE_SIGN = "invite signing seed";
    /// Secret of an invite → admission code to the server.
    KEY_INVITE_ADMISSION = "invite admission code";
    /// What a link says → its checksum, against links that were cut off. Public.
    HASH_INVITE_LINK = "invite link checksum";

    // --- keys of the local profile ---
    /// Keystore root → database key of a replica.
    KEY_REPLICA = "profile replica database key";
    /// Keystore root → key of the spool's and cache's own records.
    KEY_SPOOL = "profile spool key";
}

#[cfg(test)]
mod tests {
    use super::ALL;
    use std::collections::HashSet;

    #[test]
    fn labels_are_versioned_distinct_and_no_prefix_of_another() {
        assert_eq!(ALL.iter().collect::<HashSet<_>>().len(), ALL.len());
        for one in ALL {
            assert!(one.starts_with("KegFS v1 ") && one.is_ascii() && one.len() < 256, "{one}");
            for other in ALL {
                assert!(one == other || !other.starts_with(one), "{one} begins {other}");
            }
        }
    }
}
