//! Folders: their logs, the boxes beside membership entries, and blobs.

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};

use crate::format::{AccountId, BlobId, DbId, KeyBox, SignedEntry};

/// A folder and how long its log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct DbHead {
    /// The folder.
    #[n(0)]
    pub db: DbId,
    /// Sequence number of its newest entry.
    #[n(1)]
    pub head_seq: u64,
}

/// The folders of which the caller is a member now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct DbList {
    /// In ascending order of id.
    #[n(0)]
    pub dbs: Vec<DbHead>,
}

/// Starts a folder. The same entry again gives the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CreateDb {
    /// First entry of the log; its hash is the folder's id.
    #[n(0)]
    pub entry: SignedEntry,
    /// The creator's box.
    #[n(1)]
    pub boxes: Vec<KeyBox>,
}

/// Answer to [`CreateDb`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CreatedDb {
    /// The folder's id.
    #[n(0)]
    pub db: DbId,
}

/// One more entry of a folder's log. The same bytes again give the same sequence number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AppendEntry {
    /// The entry.
    #[n(0)]
    pub entry: SignedEntry,
    /// With a new epoch: one box per member in ascending order of account id. With a grant: the newcomer's box.
    /// Otherwise empty.
    #[n(1)]
    pub boxes: Vec<KeyBox>,
}

/// An entry is durable in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Appended {
    /// Its sequence number.
    #[n(0)]
    pub seq: u64,
}

/// A part of a folder's log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Entries {
    /// Entries from the one after the wanted sequence number, ascending, without gaps; possibly not all there are.
    #[n(0)]
    pub entries: Vec<SignedEntry>,
    /// Sequence number of the newest entry.
    #[n(1)]
    pub head_seq: u64,
}

/// A member's box and the proof that the entry it came with commits to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct MemberBox {
    /// The box.
    #[n(0)]
    pub key_box: KeyBox,
    /// Its position among the boxes of the entry.
    #[n(1)]
    pub index: u32,
    /// Number of boxes of the entry.
    #[n(2)]
    pub count: u32,
    /// Sibling hashes from the leaf to the Merkle root; empty for the box of a grant, which the entry names by its
    /// leaf hash.
    #[n(3)]
    pub proof: Vec<ByteArray<32>>,
}

/// Blob ids, at most [`super::limits::MISSING_MAX_IDS`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct BlobIds {
    /// The ids.
    #[n(0)]
    pub ids: Vec<BlobId>,
}

/// How much the account that pays for a folder may store on the server, in all its folders, and how much it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Room {
    /// The account: folders of one account share its room.
    #[n(0)]
    pub payer: AccountId,
    /// Bytes that it may store.
    #[n(1)]
    pub limit_bytes: u64,
    /// Bytes that it stores, with uploads under way.
    #[n(2)]
    pub used_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{decode, encode};

    #[test]
    fn every_body_comes_back_from_its_bytes() {
        let entry = SignedEntry { envelope: vec![1, 2, 3], signature: [4; 64] };
        let key_box = KeyBox { account: AccountId([1; 32]), generation: 2, sealed: vec![3; 40] };
        let append = AppendEntry { entry: entry.clone(), boxes: vec![key_box.clone()] };
        assert_eq!(decode::<AppendEntry>(&encode(&append)).unwrap(), append);
        let entries = Entries { entries: vec![entry.clone(), entry], head_seq: 9 };
        assert_eq!(decode::<Entries>(&encode(&entries)).unwrap(), entries);
        let member_box = MemberBox { key_box, index: 1, count: 3, proof: vec![ByteArray::from([7; 32]); 2] };
        let bytes = encode(&member_box);
        assert_eq!(decode::<MemberBox>(&bytes).unwrap(), member_box);
        // A proof of byte strings, not of lists of integers.
        assert!(bytes.len() < 200);
        let room = Room { payer: AccountId([4; 32]), limit_bytes: 1 << 40, used_bytes: 5 };
        assert_eq!(decode::<Room>(&encode(&room)).unwrap(), room);
        let list = DbList { dbs: vec![DbHead { db: DbId([1; 32]), head_seq: 1 }] };
        assert_eq!(decode::<DbList>(&encode(&list)).unwrap(), list);
    }
}
