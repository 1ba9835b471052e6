//! Row 32: states for newcomers that are not the folder's.

use std::path::{Path, PathBuf};

use kegfs::crypto::chunk::{ChunkKey, seal_into};
use kegfs::crypto::verified;
use kegfs::format::{BlobId, BlobRef, Checkpoint, CheckpointState, Extent, Record, Role, encode};
use kegfs::keyring::{Author, FolderState, seal_checkpoint};
use kegfs::remote::{Call, Fault, Remote, RemoteError};
use kegfs::replica::{CheckpointVerdict, Happening, ReplicaError};
use kegfs::sync::{Event, Folder, History, SyncError};

use crate::sync_support::hoard::wait;
use crate::sync_support::lived::*;
use crate::sync_support::*;

fn epoch(folder: &Folder) -> u32 {
    folder.status().epoch
}

/// Appends a checkpoint of the beginning of `epoch` in alice's name that says what `change` makes of the true state.
fn forge(pair: &Pair, epoch: u32, change: impl Fn(&mut Vec<Record>, &mut u64)) -> u64 {
    let (db, replica) = (pair.ours.id(), &pair.ours.replica);
    let authors = replica.authors().unwrap().into_iter();
    let authors =
        authors.map(|(device, counter, previous)| (device, kegfs::keyring::AuthorState { counter, previous }));
    let standing = FolderState::from_bytes(&replica.standing().state, replica.mark(), authors.collect()).unwrap();
    let mut seq = standing.epochs()[epoch as usize].seq;
    let mut records = Vec::new();
    let keep = |record| {
        records.push(record);
        Ok::<_, ReplicaError>(())
    };
    replica.export(seq, keep).unwrap();
    records.iter_mut().for_each(|record| {
        if let Record::Extents { extents, .. } = record {
            extents.retain(Extent::is_whole);
        }
    });
    records.retain(|record| !matches!(record, Record::Extents { extents, .. } if extents.is_empty()));
    change(&mut records, &mut seq);
    let mut plain = Vec::new();
    for record in &records {
        let bytes = encode(record);
        plain.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        plain.extend_from_slice(&bytes);
    }
    let (key, mut sealed) = (ChunkKey::random(), Vec::new());
    seal_into(&key, &plain, &mut sealed).unwrap();
    let (blob, len) = (BlobId(verified::blob_id(&sealed)), plain.len() as u32);
    let adds = vec![BlobRef { id: blob, size_bytes: sealed.len() as u64 }];
    wait(pair.alice.network.put_blob(db, blob, sealed.into())).unwrap();
    let key = *key.as_bytes();
    let piece = Extent { offset: 0, len, blob, blob_offset: 0, chunk_len: len, chunk_skip: 0, key };
    let state = CheckpointState { seq, records: records.len() as u64, pieces: vec![piece] };
    let sealed = seal_checkpoint(&db, ring(&pair.ours).epoch(epoch).unwrap(), &state);
    let author = Author::new(&pair.alice.identity());
    let account_head = standing.account_head(&pair.alice.id).unwrap();
    let position = standing.position(&pair.ours.device(), account_head, now_ms());
    let body = Checkpoint { epoch, state: Some(sealed) };
    wait(pair.alice.network.append(db, &author.checkpoint(&position, adds, &body), &[])).unwrap()
}

/// Another file's name in place of a true one.
fn renamed(records: &mut Vec<Record>, _: &mut u64) {
    for record in records {
        match record {
            Record::Name { name, .. } if name == b"plan too" => *name = b"plan B".to_vec(),
            _ => {}
        }
    }
}

/// Files whose path holds `part`.
fn files_below(dir: &Path, part: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).unwrap().flat_map(|entry| match entry.unwrap().path() {
        path if path.is_dir() => files_below(&path, part),
        path => vec![path],
    });
    all.filter(|path| path.to_string_lossy().contains(part)).collect()
}

fn told_of(told: &dyn Fn() -> Vec<Event>, entry: u64) -> bool {
    told().iter().any(|event| matches!(event, Event::FalseCheckpoint { seq, .. } if *seq == entry))
}

#[test]
fn row_32_forged_checkpoint() {
    let pair = lived_in();
    let carol = Person::join(&pair.kegd, "carol");
    let hers = add(&pair, &carol, History::None);
    let heard = events(&pair.bob);
    pair.settle();
    let seq = forge(&pair, epoch(&hers), renamed);
    eventually("bob is told", || told_of(&heard, seq));
    eventually("and it stays to be seen", || {
        let warnings = pair.theirs.activity(0, 1000).unwrap().into_iter().map(|(_, line)| line.what);
        warnings.into_iter().any(|what| matches!(what, Happening::FalseCheckpoint { name, seq: at, .. } if (name.as_str(), at) == ("alice", seq)))
    });
    assert!(pair.theirs.frozen().is_none(), "who can tell goes on");
    // Carol has begun with another, and takes neither side.
    eventually("carol's folder is frozen", || hers.frozen().is_some_and(|why| why.contains("different states")));
    // The true one again is no news.
    let again = pair.theirs.replica.checkpoints().unwrap();
    assert_eq!(again.len(), 2);
    assert_eq!(again.iter().filter(|row| row.verdict == CheckpointVerdict::False).count(), 1);
}

#[test]
fn what_the_own_disk_damaged_makes_nobody_a_liar() {
    let pair = lived_in();
    pair.settle();
    // Bob has read everything once, and his disk has lost some bits since.
    drop(tree(&pair.theirs));
    let mut damaged = 0;
    for blob in files_below(pair.bob.profile.path(), "blobs/cache/") {
        let mut bytes = std::fs::read(&blob).unwrap();
        bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
        std::fs::write(&blob, bytes).unwrap();
        damaged += 1;
    }
    assert!(damaged > 0, "nothing is cached");
    let carol = Person::join(&pair.kegd, "carol");
    drop(add(&pair, &carol, History::None));
    let verdicts = || pair.theirs.replica.checkpoints().unwrap().into_iter().map(|row| row.verdict).collect::<Vec<_>>();
    eventually("bob has compared", || !verdicts().is_empty() && !verdicts().contains(&CheckpointVerdict::Open));
    assert_eq!(verdicts(), [CheckpointVerdict::True]);
}

#[test]
fn row_32_forged_checkpoint_that_somebody_began_with() {
    let mut pair = lived_in();
    let dave = Person::join(&pair.kegd, "dave");
    pair.alice.session().add_member(&pair.ours, dave.id, Role::Admin).unwrap();
    drop(dave.folder("acme"));
    let carol = Person::join(&pair.kegd, "carol");
    // Alice's machine hands over a false state instead of the true one.
    pair.alice.network.script(Call::PutBlob, 0, 1, Fault::Fail(RemoteError::Protocol("no".to_owned())));
    let added = pair.alice.session().add_member_with(&pair.ours, carol.id, Role::Editor, History::None);
    assert!(matches!(added, Err(SyncError::AddedOnly { .. })), "{added:?}");
    forge(&pair, epoch(&pair.ours), renamed);
    pair.alice.lock();
    let hers = carol.folder("acme");
    eventually("dave's client hands over the true one, and carol's folder is frozen", || {
        hers.frozen().is_some_and(|why| why.contains("different states"))
    });
    eventually("it is dave's", || {
        let rows = pair.theirs.replica.checkpoints().unwrap();
        rows.iter().any(|row| row.account == dave.id && row.verdict == CheckpointVerdict::True)
    });
}

#[test]
fn row_32_a_checkpoint_that_nobody_can_begin_with() {
    let pair = lived_in();
    let dave = Person::join(&pair.kegd, "dave");
    pair.alice.session().add_member(&pair.ours, dave.id, Role::Admin).unwrap();
    drop(dave.folder("acme"));
    let carol = Person::join(&pair.kegd, "carol");
    let heard = events(&carol);
    pair.alice.network.script(Call::PutBlob, 0, 1, Fault::Fail(RemoteError::Protocol("no".to_owned())));
    let added = pair.alice.session().add_member_with(&pair.ours, carol.id, Role::Editor, History::None);
    assert!(matches!(added, Err(SyncError::AddedOnly { .. })), "{added:?}");
    // No tree: a name twice.
    let seq = forge(&pair, epoch(&pair.ours), |records, _| {
        let name = records.iter().find(|record| matches!(record, Record::Name { .. })).cloned();
        records.extend(name);
    });
    let hers = carol.folder("acme");
    assert!(told_of(&heard, seq));
    assert_eq!(tree(&hers), tree(&pair.theirs));
    assert!(hers.frozen().is_none());
}
