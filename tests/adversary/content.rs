//! Rows 14–25: bytes changed, moved, cut, repeated, mixed, injected; and what a member with the keys does to content.

use kegfs::crypto::chunk::{ChunkKey, Opener, SEGMENT, seal_into, sealed_len};
use kegfs::crypto::verified;
use kegfs::format::{BlobId, Envelope, Extent, KegId, OpKind, SignedAccountEntry, SignedEntry, encode};
use kegfs::keg::ROOT_INO;
use kegfs::keyring::{AccountLog, KeyRing, box_leaf};
use kegfs::remote::RangeAnswer;
use kegfs::sync::{Event, FETCH_DEADLINE, FetchError, Folder};
use kegfs::sys::{clock, random};

use crate::cast::{Actor, Guest, Team};
use crate::cheat::{Shadow, account_log, name, wait};
use crate::liar::{Asked, Reply};
use crate::lies::{Append, Blobs, Instead, Log, Refuse};
use crate::sync_support::*;

fn extents(folder: &Folder, file: &str) -> Vec<Extent> {
    let view = folder.replica.view();
    let node = view.lookup(ROOT_INO, file.as_bytes()).unwrap().unwrap();
    view.extents(node.ino, 0, node.size.max(1)).unwrap()
}

fn blob_of(folder: &Folder, file: &str) -> BlobId {
    extents(folder, file)[0].blob
}

/// Bytes without a pattern.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}

/// REJ of content: whole and in ranges, a typed error, an event, nothing cached; and the true bytes afterwards.
fn must_refuse(bob: &Actor, blob: BlobId, lie: impl Fn(Vec<u8>) -> Vec<u8> + Clone + Send + Sync + 'static) {
    let told = |bob: &Actor| {
        let events = bob.events().into_iter();
        events.filter(|event| matches!(event, Event::CorruptBlob { blob: of, .. } if *of == blob)).count()
    };
    let before = told(bob);
    bob.liar.tell(Blobs(move |_, bytes| lie(bytes)));
    let size = {
        let refused = bob.folder.fetch_blocking(&blob, FETCH_DEADLINE);
        assert_eq!(refused, Err(FetchError::Corrupt(blob)));
        assert!(!bob.folder.local.contains(&blob), "nothing was cached");
        let until = clock::monotonic() + FETCH_DEADLINE;
        let refused = bob.folder.fetch_range_until(&blob, 100..300, until);
        assert_eq!(refused, Err(FetchError::Corrupt(blob)));
        assert!(!bob.folder.local.contains(&blob));
        told(bob) - before
    };
    assert_eq!(size, 2, "an event for each");
    bob.liar.repent();
}

/// Bob holds `files` of Alice's in the log and nothing of their content.
fn team_with(files: &[(&str, &[u8])]) -> Team {
    let team = Team::new();
    for (file, bytes) in files {
        write(&team.alice.folder, file, bytes);
    }
    team.settle();
    team.bob.folder.local.clear_cache().unwrap();
    team
}

#[test]
fn row_14_malleability_of_entries_account_entries_and_boxes() {
    let team = Team::new();
    team.alice.session().rotate(&team.alice.folder).unwrap();
    write(&team.alice.folder, "a.txt", b"some content");
    team.settle();
    let whole = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    // Every byte of every entry of the log: membership and batches.
    let mut state = kegfs::keyring::FolderState::new(whole.db);
    for entry in &whole.entries {
        let bytes = entry.envelope.len() + entry.signature.len();
        for at in 0..bytes {
            let mut changed = entry.clone();
            match changed.envelope.get_mut(at) {
                Some(byte) => *byte ^= 1 << (at % 8),
                None => changed.signature[at - entry.envelope.len()] ^= 1 << (at % 8),
            }
            assert!(state.check(&changed, &whole.world, &whole.chains).is_err(), "byte {at} of {bytes}");
        }
        state.advance(entry, &whole.world, &whole.chains).unwrap();
    }
    // Every byte of an account log.
    let honest = account_log(&whole.remote, team.alice.id);
    for at in 0..honest[0].entry.len() + 64 {
        let mut changed: Vec<SignedAccountEntry> = honest.clone();
        match changed[0].entry.get_mut(at) {
            Some(byte) => *byte ^= 1 << (at % 8),
            None => changed[0].signature[at - honest[0].entry.len()] ^= 1 << (at % 8),
        }
        assert!(AccountLog::verify(&changed).is_err(), "byte {at}");
    }
    // Every byte of a box: another leaf, and it does not open.
    let start = whole.state.epochs()[1].clone();
    let answer = wait(whole.remote.member_box(whole.db, start.seq)).unwrap();
    let key = whole.identity.user_keys[&0].kem_secret();
    for at in 0..answer.key_box.sealed.len() {
        let mut changed = answer.key_box.clone();
        changed.sealed[at] ^= 1 << (at % 8);
        assert_ne!(box_leaf(&changed), box_leaf(&answer.key_box));
        // Opening costs 100 µs; the leaf has refused it already.
        if at % 16 == 0 {
            let opened = KeyRing::default().open_box(&start.start, &changed, &key, whole.state.epochs());
            assert!(opened.is_err(), "byte {at}");
        }
    }
    let opened = KeyRing::default().open_box(&start.start, &answer.key_box, &key, whole.state.epochs());
    assert_eq!(opened, Ok(()), "unchanged it opens");
}

#[test]
fn row_14_malleability_of_blobs_and_ranges() {
    let content = noise(200_000);
    let team = team_with(&[("large.bin", &content), ("small.txt", b"short")]);
    let (large, small) = (blob_of(&team.bob.folder, "large.bin"), blob_of(&team.bob.folder, "small.txt"));
    let remote = Shadow::of(&team.kegd, &team.bob, &team.bob.folder).remote;
    // Every byte of a small blob; of a verified range those of the tree, and every 251st of the content.
    let bytes = wait(remote.blob(team.bob.folder.id(), small)).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1 << (at % 8);
        assert_ne!(verified::blob_id(&changed), small.0);
    }
    let RangeAnswer { encoded, blob_len } = wait(remote.blob_range(team.bob.folder.id(), large, 70_000, 1000)).unwrap();
    let range = 70_000..71_000;
    let tree = encoded.len() - 65_536;
    assert!(tree > 0 && tree % 64 == 0, "one group and its nodes");
    for at in (0..tree).chain((tree..encoded.len()).step_by(251)) {
        let mut changed = encoded.to_vec();
        changed[at] ^= 1 << (at % 8);
        assert!(verified::decode_range(&large.0, blob_len, range.clone(), &changed).is_err(), "byte {at}");
    }
    assert!(verified::decode_range(&large.0, blob_len, range, &encoded).is_ok());
    // A sample through a real client.
    for at in [0, 15, 65_535, 65_536, 65_552, 199_999] {
        must_refuse(&team.bob, large, move |mut bytes| {
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 0x40;
            bytes
        });
    }
    assert_eq!(read(&team.bob.folder, "large.bin").unwrap(), content, "the true bytes are taken");
}

#[test]
fn row_14_a_changed_entry_freezes_a_real_client() {
    for part in 0..3 {
        let team = Team::new();
        write(&team.alice.folder, "a.txt", b"some content");
        team.alice.folder.wait_uploaded_blocking(PATIENCE).unwrap();
        // Before Bob's client has seen it.
        let team = {
            team.bob.look().unwrap();
            team
        };
        team.bob.liar.tell(Log(move |mut log: Vec<SignedEntry>| {
            let last = log.last_mut().unwrap();
            let middle = last.envelope.len() / 2;
            match part {
                0 => last.envelope[middle] ^= 1,
                1 => last.signature[10] ^= 1,
                _ => last.envelope.push(0),
            }
            log
        }));
        write(&team.alice.folder, "b.txt", b"more");
        let why = team.bob.must_freeze();
        assert!(why.contains("signature") || why.contains("malformed"), "{why}");
    }
}

#[test]
fn row_15_chunks_reordered_or_swapped_between_files() {
    let (one, other) = (noise(200_000), noise(400_000)[200_000..].to_vec());
    let team = team_with(&[("one.bin", &one), ("other.bin", &other)]);
    let (first, second) = (blob_of(&team.bob.folder, "one.bin"), blob_of(&team.bob.folder, "other.bin"));
    let segment = SEGMENT + 16;
    must_refuse(&team.bob, first, move |mut bytes| {
        let middle = segment.min(bytes.len() / 2);
        let (left, right) = bytes.split_at_mut(middle);
        let len = left.len().min(right.len());
        left[..len].swap_with_slice(&mut right[..len]);
        bytes
    });
    let remote = Shadow::of(&team.kegd, &team.bob, &team.bob.folder).remote;
    let db = team.bob.folder.id();
    let (whole, range) =
        (wait(remote.blob(db, second)).unwrap().to_vec(), wait(remote.blob_range(db, second, 100, 200)).unwrap());
    let swapped = move |bytes: Vec<u8>| if bytes.len() == whole.len() { whole.clone() } else { range.encoded.to_vec() };
    must_refuse(&team.bob, first, swapped);
    // Another range of the same blob.
    let later = wait(remote.blob_range(db, first, 140_000, 200)).unwrap().encoded.to_vec();
    must_refuse(&team.bob, first, move |bytes| if bytes.len() > 140_000 { later.clone() } else { bytes[1..].to_vec() });
    assert_eq!(read(&team.bob.folder, "one.bin").unwrap(), one);
}

#[test]
fn row_16_truncation_at_a_boundary() {
    let content = noise(200_000);
    let team = team_with(&[("one.bin", &content)]);
    let blob = blob_of(&team.bob.folder, "one.bin");
    let segment = SEGMENT + 16;
    for keep in [0, segment, 2 * segment, 65_536, 131_072] {
        must_refuse(&team.bob, blob, move |mut bytes| {
            bytes.truncate(keep.min(bytes.len() - 1));
            bytes
        });
    }
    // A middle segment.
    must_refuse(&team.bob, blob, move |mut bytes| {
        let from = segment.min(bytes.len() / 3);
        let to = (2 * segment).min(bytes.len() / 3 * 2);
        bytes.drain(from..to);
        bytes
    });
    // A middle entry, for a client that has none of them; and the last one for a client that has it.
    let at = usize::try_from(team.head()).unwrap() - 2;
    let carol = Guest::join(&team.kegd, "carol");
    carol.liar.tell(Log(move |mut log: Vec<SignedEntry>| {
        log.remove(at);
        log
    }));
    team.alice.session().add_member(&team.alice.folder, carol.person.id, kegfs::format::Role::Viewer).unwrap();
    eventually("the newcomer's client is not deceived", || {
        carol.events().iter().any(|event| matches!(event, Event::Misbehaviour { .. }))
    });
    team.settle();
    team.bob.liar.tell(Log(|mut log: Vec<SignedEntry>| {
        log.pop();
        log
    }));
    let why = team.bob.must_freeze();
    assert!(why.contains("gone back"), "{why}");
}

#[test]
fn row_17_duplication_and_extension() {
    let content = noise(150_000);
    let team = team_with(&[("one.bin", &content)]);
    let blob = blob_of(&team.bob.folder, "one.bin");
    must_refuse(&team.bob, blob, |mut bytes| {
        bytes.push(0);
        bytes
    });
    must_refuse(&team.bob, blob, |bytes| [&bytes[..], &bytes[..]].concat());
    must_refuse(&team.bob, blob, |mut bytes| {
        // The first segment twice, the rest behind it.
        let first = bytes[..(SEGMENT + 16).min(bytes.len())].to_vec();
        bytes.splice(0..0, first);
        bytes
    });
    // An entry twice.
    team.bob.liar.tell(Log(|mut log: Vec<SignedEntry>| {
        log.push(log.last().unwrap().clone());
        log
    }));
    let why = team.bob.must_freeze();
    assert!(why.contains("repeated"), "{why}");
}

#[test]
fn row_18_versions_of_one_file_mixed() {
    let (old, new) = (noise(100_000), noise(200_000)[100_000..].to_vec());
    let team = team_with(&[("one.bin", &old)]);
    let before = blob_of(&team.bob.folder, "one.bin");
    let earlier = team.bob.folder.fetch_blocking(&before, FETCH_DEADLINE).unwrap().to_vec();
    write(&team.alice.folder, "one.bin", &new);
    team.settle();
    let now = blob_of(&team.bob.folder, "one.bin");
    assert_ne!(before, now);
    let remote = Shadow::of(&team.kegd, &team.bob, &team.bob.folder).remote;
    let range = wait(remote.blob_range(team.bob.folder.id(), before, 100, 200)).unwrap().encoded.to_vec();
    must_refuse(&team.bob, now, move |bytes| {
        // Where the new version is asked for whole, the old one whole; where a range, that of the old one.
        if bytes.len() == earlier.len() { earlier.clone() } else { range.clone() }
    });
    assert_eq!(read(&team.bob.folder, "one.bin").unwrap(), new);
}

#[test]
fn row_19_files_or_directories_swapped() {
    // The blobs that the two files have are exchanged: neither is what the log says.
    let (one, other) = (noise(80_000), noise(160_000)[80_000..].to_vec());
    let team = team_with(&[("one.bin", &one), ("other.bin", &other)]);
    let (first, second) = (blob_of(&team.bob.folder, "one.bin"), blob_of(&team.bob.folder, "other.bin"));
    let (db, url) = (team.bob.folder.id(), Shadow::of(&team.kegd, &team.bob, &team.bob.folder).remote);
    let (a, b) = (wait(url.blob(db, first)).unwrap().to_vec(), wait(url.blob(db, second)).unwrap().to_vec());
    team.bob.liar.tell(Blobs(move |id, _| if id == first { b.clone() } else { a.clone() }));
    for blob in [first, second] {
        assert_eq!(team.bob.folder.fetch_blocking(&blob, FETCH_DEADLINE), Err(FetchError::Corrupt(blob)));
        assert!(!team.bob.folder.local.contains(&blob));
    }
    team.bob.liar.repent();
    // The order of two entries is exchanged, so that what one made lies where the other was.
    let carol = Guest::join(&team.kegd, "carol");
    let at = usize::try_from(team.head()).unwrap() - 2;
    carol.liar.tell(Log(move |mut log: Vec<SignedEntry>| {
        log.swap(at, at + 1);
        log
    }));
    team.alice.session().add_member(&team.alice.folder, carol.person.id, kegfs::format::Role::Viewer).unwrap();
    eventually("the newcomer's client is not deceived", || {
        carol.events().iter().any(|event| matches!(event, Event::Misbehaviour { .. }))
    });
    assert!(carol.person.session().folders().is_empty());
}

#[test]
fn row_20_names_sizes_times_modes_changed() {
    // What is not sealed of an entry, field by field, without the author's signature.
    type Edit = fn(&mut Envelope);
    let edits: [Edit; 7] = [
        |envelope| envelope.created_ms += 1,
        |envelope| envelope.epoch += 1,
        |envelope| envelope.adds.iter_mut().for_each(|blob| blob.size_bytes += 1),
        |envelope| envelope.adds.clear(),
        |envelope| envelope.releases.push(kegfs::format::BlobRef { id: BlobId([1; 32]), size_bytes: 1 }),
        |envelope| envelope.observed.seq -= 1,
        |envelope| envelope.body[30] ^= 1,
    ];
    let team = team_with(&[("one.bin", b"content")]);
    let mut whole = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let position = whole.entries.iter().rposition(|entry| !Envelope::decode(&entry.envelope).unwrap().adds.is_empty());
    let position = position.expect("an entry with a blob");
    let mut state = kegfs::keyring::FolderState::new(whole.db);
    for entry in &whole.entries[..position] {
        state.advance(entry, &whole.world, &whole.chains).unwrap();
    }
    let honest = whole.entries.remove(position);
    for (number, edit) in edits.iter().enumerate() {
        let mut envelope = Envelope::decode(&honest.envelope).unwrap();
        edit(&mut envelope);
        let edited = SignedEntry { envelope: encode(&envelope), ..honest.clone() };
        assert_ne!(edited, honest);
        assert!(state.check(&edited, &whole.world, &whole.chains).is_err(), "edit {number}");
    }
    // One of them in front of a real client, which has not seen the entry yet.
    let carol = Guest::join(&team.kegd, "carol");
    carol.liar.tell(Log(move |mut log: Vec<SignedEntry>| {
        let mut envelope = Envelope::decode(&log[position].envelope).unwrap();
        envelope.created_ms += 1;
        log[position].envelope = encode(&envelope);
        log
    }));
    team.alice.session().add_member(&team.alice.folder, carol.person.id, kegfs::format::Role::Viewer).unwrap();
    let caught = |event: &Event| matches!(event, Event::Misbehaviour { what, .. } if what.contains("false signature"));
    eventually("the newcomer's client is not deceived", || carol.events().iter().any(caught));
}

#[test]
fn row_21_holes_injected() {
    let content = noise(100_000);
    let team = team_with(&[("one.bin", &content)]);
    let blob = blob_of(&team.bob.folder, "one.bin");
    must_refuse(&team.bob, blob, |bytes| vec![0; bytes.len()]);
    must_refuse(&team.bob, blob, |_| Vec::new());
    must_refuse(&team.bob, blob, |mut bytes| {
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        bytes
    });
    // Not to have it is an error too, and no hole.
    let asks = |asked: &Asked| matches!(asked, Asked::Blob { .. } | Asked::Range { .. });
    team.bob.liar.tell(Refuse(asks, kegfs::api::ErrorCode::NotFound));
    assert_eq!(team.bob.folder.fetch_blocking(&blob, FETCH_DEADLINE), Err(FetchError::Missing(blob)));
    let until = clock::monotonic() + FETCH_DEADLINE;
    assert_eq!(team.bob.folder.fetch_range_until(&blob, 0..10, until), Err(FetchError::Missing(blob)));
    team.bob.liar.repent();
    let empty = |asked: &Asked| matches!(asked, Asked::Blob { .. }).then(|| Reply::Raw(204, Vec::new()));
    team.bob.liar.tell(Instead(empty));
    assert_eq!(team.bob.folder.fetch_blocking(&blob, FETCH_DEADLINE), Err(FetchError::Corrupt(blob)));
    assert!(!team.bob.folder.local.contains(&blob));
}

fn fresh(name: &[u8]) -> OpKind {
    create(KegId(random::array()), name)
}

#[test]
fn row_22_files_injected() {
    // By the server, which has no key: sealed under a key of its own, in the name of a member.
    let team = Team::new();
    let shadow = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let mut injected = shadow.batch(vec![fresh(b"injected.txt")]);
    injected.signature[0] ^= 1;
    team.alice.liar.tell(Append(injected));
    let why = team.alice.must_freeze();
    assert!(why.contains("false signature"), "{why}");
    // By a member's device, sealed under another key than the folder's: nobody can open it, nothing is listed.
    let mut envelope = Envelope::decode(&shadow.batch(vec![fresh(b"injected.txt")]).envelope).unwrap();
    envelope.body = noise(envelope.body.len());
    shadow.post(&shadow.sign(&envelope), &[]).unwrap();
    team.bob.must_ignore(team.head() + 1, "could not be opened");
    assert_eq!(names(&team.bob.folder), ["plan.txt"]);
    assert_eq!(names(&team.alice.folder), ["plan.txt"]);
}

#[test]
fn row_23_hostile_names() {
    let team = Team::new();
    let mut bob = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let long = vec![b'a'; 256];
    let names_of_files: [&[u8]; 9] =
        [b"", b".", b"..", b"/", b"a/b", b"../../../etc/cron.d/x", b"/etc/passwd", b"nul\0byte", &long];
    let mut hostile: Vec<OpKind> = names_of_files.iter().map(|name| fresh(name)).collect();
    let keg = {
        let view = team.bob.folder.replica.view();
        view.lookup(ROOT_INO, b"plan.txt").unwrap().unwrap().keg
    };
    hostile.push(OpKind::Link { keg, parent: KegId::ROOT, name: b"..".to_vec() });
    hostile.push(OpKind::Rename {
        keg,
        parent: KegId::ROOT,
        name: b"plan.txt".to_vec(),
        new_parent: KegId::ROOT,
        new_name: b"../plan.txt".to_vec(),
        target: None,
        exchange: false,
    });
    hostile.extend(["", ".", "..", "a/b", "nul\0", "bell\u{7}", &"x".repeat(65)].map(name));
    for (number, op) in hostile.into_iter().enumerate() {
        // One good operation before and one after: the entry as a whole counts for nothing.
        let entry = bob.batch(vec![fresh(b"good-before"), op, fresh(b"good-after")]);
        let seq = bob.post(&entry, &[]).unwrap();
        bob.push(entry);
        team.alice.must_ignore(seq, "malformed");
        assert_eq!(names(&team.alice.folder), ["plan.txt"], "number {number}");
        assert_eq!(team.alice.folder.name(), "acme");
    }
}

#[test]
fn row_24_two_keys_for_one_ciphertext() {
    // A sealed chunk that opens under two keys, to two texts: possible, since the cipher does not commit to its key.
    let (one, other) = (ChunkKey::random(), ChunkKey::random());
    let crafted = super::committing::one_ciphertext_for(&one, &other);
    let open = |key: &ChunkKey| {
        let mut plain = vec![0; crafted.len() - 16];
        Opener::new(key, plain.len()).unwrap().open_all(&crafted, &mut plain).map(|()| plain)
    };
    let (first, second) = (open(&one).unwrap(), open(&other).unwrap());
    assert_ne!(first, second);
    // Bob's changed client uploads it. Which of the two texts the file has is in the entry that he signs: everybody
    // reads that one, and there is nothing that the server or Bob could say to one reader and not to another.
    let team = Team::new();
    let carol = team.third("carol", kegfs::format::Role::Viewer);
    team.settle();
    let bob = &team.bob.folder;
    let blob = BlobId(verified::blob_id(&crafted));
    bob.local.spool(&blob, &crafted).unwrap();
    let keg = KegId(random::array());
    let OpKind::Create { parent, name, kind, mode, uid, gid, rdev, target, .. } = fresh(b"two-faced.txt") else {
        panic!("a creation")
    };
    let now = clock::unix_nanos();
    bob.replica.submit(OpKind::Create { keg, parent, name, kind, mode, uid, gid, rdev, target }, now).unwrap();
    let len = u32::try_from(first.len()).unwrap();
    let extent = Extent { offset: 0, len, blob, blob_offset: 0, chunk_len: len, chunk_skip: 0, key: *one.as_bytes() };
    let size = u64::from(len);
    bob.replica
        .submit(
            OpKind::Content { keg, truncate: Some(0), holes: vec![], extents: vec![extent], size, mtime_ns: now },
            now,
        )
        .unwrap();
    bob.wait_uploaded_blocking(PATIENCE).unwrap();
    for reader in [&team.alice, &carol] {
        eventually("the file is there", || names(&reader.folder).contains(&"two-faced.txt".to_owned()));
        assert_eq!(read(&reader.folder, "two-faced.txt").unwrap(), first);
        assert_eq!(extents(&reader.folder, "two-faced.txt")[0].key, *one.as_bytes());
    }
    // The entry with the other key in it is another entry: who is shown both sees a repeated counter.
    let shadow = Shadow::of(&team.kegd, &team.bob, bob);
    let last = shadow.entries.last().unwrap();
    let twin = shadow.forged(last, |envelope| envelope.created_ms += 1);
    team.alice.liar.tell(Append(twin));
    let why = team.alice.must_freeze();
    assert!(why.contains("repeated"), "{why}");
}

#[test]
fn row_25_insider_forges_anothers_content() {
    let content = noise(150_000);
    let team = team_with(&[("alices.bin", &content)]);
    let carol = team.third("carol", kegfs::format::Role::Viewer);
    let extent = extents(&team.bob.folder, "alices.bin").remove(0);
    let blob = extent.blob;
    // Bob has the chunk's key: he seals other words under it, of the same length, and has the server hand them to Carol.
    let mut forged = Vec::new();
    seal_into(&ChunkKey::from_bytes(extent.key), &vec![b'x'; content.len()], &mut forged).unwrap();
    let honest =
        wait(Shadow::of(&team.kegd, &team.bob, &team.bob.folder).remote.blob(team.bob.folder.id(), blob)).unwrap();
    assert_eq!(forged.len(), honest.len());
    let opener = Opener::new(&ChunkKey::from_bytes(extent.key), content.len()).unwrap();
    let mut plain = vec![0; content.len()];
    opener.open_all(&forged[..sealed_len(content.len())], &mut plain).unwrap();
    assert_eq!(plain, vec![b'x'; content.len()], "by its key alone it would pass");
    let tree = verified::outboard(&forged);
    let len = forged.len() as u64;
    let slice = |range: std::ops::Range<u64>| {
        verified::encode_range(&verified::blob_id(&forged), &forged[..], len, &tree, range).unwrap()
    };
    let (whole, part) = (forged.clone(), slice(100..300));
    must_refuse(&carol, blob, move |bytes| if bytes.len() == whole.len() { whole.clone() } else { part.clone() });
    // One segment of it among the honest ones.
    let mut mixed = honest.to_vec();
    mixed[..SEGMENT + 16].copy_from_slice(&forged[..SEGMENT + 16]);
    must_refuse(
        &carol,
        blob,
        move |bytes| if bytes.len() == mixed.len() { mixed.clone() } else { bytes[1..].to_vec() },
    );
    assert_eq!(read(&carol.folder, "alices.bin").unwrap(), content);
}
