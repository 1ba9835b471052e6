//! Row 32: states for newcomers that are not the folder's.

use std::path::{Path, PathBuf};

use kegfs::crypto::chunk::{ChunkKey, seal_into};
use kegfs::crypto::verified;
use kegfs::format::{BlobId, BlobRef, Checkpoint, CheckpointState, Extent, KegId, OpKind, Record, Role, encode};
use kegfs::keyring::{Author, FolderState, seal_checkpoint};
use kegfs::remote::{Call, Fault, Remote, RemoteError};
use kegfs::replica::{CheckpointVerdict, Happening, ReplicaError};
use kegfs::sync::{Event, Folder, History, SyncError};
use kegfs::sys::random;

use crate::cheat::Shadow;
use crate::sync_support::hoard::wait;
use crate::sync_support::lived::*;
use crate::sync_support::*;

fn epoch(folder: &Folder) -> u32 {
    folder.status().epoch
}

/// Appends a checkpoint of the beginning of `epoch` in alice's name that says what `change` makes of the true state.
fn forge(pair: &Pair, epoch: u32, change: impl Fn(&mut Vec<Record>, &mut u64)) -> u64 {
    forge_where(pair, epoch, true, |records, seq| {
        records.iter_mut().for_each(|record| {
            if let Record::Extents { extents, .. } = record {
                extents.retain(Extent::is_whole);
            }
        });
        records.retain(|record| !matches!(record, Record::Extents { extents, .. } if extents.is_empty()));
        change(records, seq);
    })
}

/// The same with all extents. Where it is not `there`, the state is nowhere.
fn forge_where(pair: &Pair, epoch: u32, there: bool, change: impl Fn(&mut Vec<Record>, &mut u64)) -> u64 {
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
    let mut adds = vec![];
    if there {
        adds.push(BlobRef { id: blob, size_bytes: sealed.len() as u64 });
        wait(pair.alice.network.put_blob(db, blob, sealed.into())).unwrap();
    }
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
fn row_32_a_state_that_is_nowhere_hides_no_false_one_and_keeps_nobody_waiting() {
    let pair = lived_in();
    let heard = events(&pair.bob);
    let carol = Person::join(&pair.kegd, "carol");
    pair.alice.network.script(Call::PutBlob, 0, 1, Fault::Fail(RemoteError::Protocol("no".to_owned())));
    let added = pair.alice.session().add_member_with(&pair.ours, carol.id, Role::Editor, History::None);
    assert!(matches!(added, Err(SyncError::AddedOnly { .. })), "{added:?}");
    let nowhere = forge_where(&pair, epoch(&pair.ours), false, |_, _| {});
    let hers = carol.folder("acme");
    eventually("a true one is handed over, and carol begins", || hers.catch_up_blocking(PATIENCE).is_ok());
    assert_eq!(tree(&hers), tree(&pair.theirs));
    let forged = forge(&pair, epoch(&pair.ours), renamed);
    eventually("bob is told of both", || told_of(&heard, nowhere) && told_of(&heard, forged));
}

/// Posts a file of an editor that consists of a part of a chunk that opens with no key.
fn unreadable(pair: &Pair, editor: &Shadow, name: &[u8]) {
    let keg = KegId(random::array());
    let mut extents = seal(&pair.theirs, b"nobody will read this");
    let blob = extents[0].blob;
    let bytes = pair.theirs.local.read(&blob).unwrap();
    let adds = [BlobRef { id: blob, size_bytes: bytes.len() as u64 }];
    wait(editor.remote.put_blob(pair.ours.id(), blob, bytes.into())).unwrap();
    extents[0].key[0] ^= 1;
    (extents[0].chunk_skip, extents[0].len) = (1, extents[0].len - 1);
    let size = u64::from(extents[0].len);
    let content = OpKind::Content { keg, truncate: Some(0), holes: vec![], extents, size, mtime_ns: 0 };
    let batch =
        editor.forged(&editor.batch(vec![create(keg, name), content]), |envelope| envelope.adds = adds.to_vec());
    editor.post(&batch, &[]).unwrap();
}

#[test]
fn row_07_a_file_that_opens_nowhere_keeps_no_newcomer_waiting_and_hides_no_false_state() {
    let pair = Pair::new();
    let mut dave = Person::join(&pair.kegd, "dave");
    pair.alice.session().add_member(&pair.ours, dave.id, Role::Editor).unwrap();
    let editor = Shadow::of(&pair.kegd, &dave, &dave.folder("acme"));
    dave.lock();
    unreadable(&pair, &editor, b"broken");
    pair.ours.catch_up_blocking(PATIENCE).unwrap();
    write(&pair.ours, "plan.txt", b"meet at ten");
    pair.settle();
    let carol = Person::join(&pair.kegd, "carol");
    let heard = events(&pair.bob);
    let hers = add(&pair, &carol, History::None);
    hers.catch_up_blocking(PATIENCE).unwrap();
    assert_eq!(read(&hers, "plan.txt").unwrap(), b"meet at ten");
    assert!(names(&hers).contains(&"broken".to_owned()));
    let verdicts = || pair.theirs.replica.checkpoints().unwrap().into_iter().map(|row| row.verdict).collect::<Vec<_>>();
    eventually("bob has compared what can be", || verdicts() == [CheckpointVerdict::Unknown]);
    // Other bytes for everything, the broken file first.
    let forged = forge_where(&pair, epoch(&pair.ours), true, |records, _| {
        let state = &pair.ours;
        for record in records.iter_mut() {
            if let Record::Extents { extents, .. } = record {
                for extent in extents {
                    let fresh = seal(state, &vec![b'x'; extent.len as usize]).remove(0);
                    let bytes = state.local.read(&fresh.blob).unwrap();
                    wait(pair.alice.network.put_blob(state.id(), fresh.blob, bytes.into())).unwrap();
                    *extent = Extent { offset: extent.offset, ..fresh };
                }
            }
        }
    });
    eventually("bob is told", || told_of(&heard, forged));
    assert_eq!(
        heard().iter().filter(|event| matches!(event, Event::FalseCheckpoint { .. })).count(),
        1,
        "and of none other"
    );
}

#[test]
fn what_the_own_disk_damaged_makes_nobody_a_liar() {
    let pair = lived_in();
    pair.settle();
    // Bob has read everything once, and his disk has lost some bits since.
    drop(tree(&pair.theirs));
    let mut damaged = 0;
    for blob in files_below(pair.bob.profile.path(), "blobs/cache/") {
        // What gets its name just now has another one already.
        let Ok(mut bytes) = std::fs::read(&blob) else { continue };
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
