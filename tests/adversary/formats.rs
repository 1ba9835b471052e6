//! Rows 33–37: suites, parameters, oracles, logins and encodings that an attacker chooses.

use std::fs;
use std::time::{Duration, Instant};

use kegfs::api::{ApiError, Challenge, Entries, ErrorCode, LoginRequest, LoginStatement};
use kegfs::crypto::chunk::{ChunkKey, Opener, seal_into};
use kegfs::crypto::{kdf, labels};
use kegfs::format::limits::{SUITE, SUITE_OLDEST};
use kegfs::format::{Envelope, SignedEntry, decode, encode};
use kegfs::remote::{HttpOptions, RemoteError};
use kegfs::sync::{Event, FETCH_DEADLINE, FetchError, connect};

use crate::cast::{Guest, Team};
use crate::cheat::{Shadow, direct, wait};
use crate::common;
use crate::content::noise;
use crate::liar::{Asked, Liar, Reply};
use crate::lies::{Append, Blobs, Instead};
use crate::sync_support::*;

/// Exit code of `kegfs` for damaged files.
const CORRUPT: i32 = 7;

/// Peak memory of this process, bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

#[test]
fn row_34_kdf_parameters() {
    let dir = tempfile::tempdir().unwrap();
    let server = common::Server::start(dir.path());
    let member = common::Member::create(dir.path(), "alice", &server.url(), &server.invite());
    let path = member.profile.join("keystore");
    let honest = fs::read(&path).unwrap();
    // Magic (8), checksum (32), then the wrapped identity with its parameters at 8, 12 and 16 and the salt at 20.
    let with = |at: usize, bytes: &[u8]| {
        let mut file = honest.clone();
        file[40 + at..40 + at + bytes.len()].copy_from_slice(bytes);
        let checksum = kdf::hash("KegFS v1 keystore checksum", &[&file[40..]]);
        file[8..40].copy_from_slice(&checksum);
        fs::write(&path, file).unwrap();
        let start = Instant::now();
        let output = member.kegfs(&["folder", "list"]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), start.elapsed())
    };
    let refused = [
        ("m = 8 KiB", 8, 8_u32),
        ("m = 64 GiB", 8, 64 << 20),
        ("m = 4 TiB", 8, u32::MAX),
        ("no pass", 12, 0),
        ("4 billion passes", 12, u32::MAX),
        ("no lane", 16, 0),
        ("16 million lanes", 16, 1 << 24),
    ];
    let mut slowest = Duration::ZERO;
    for (what, at, value) in refused {
        let (code, message, took) = with(at, &value.to_be_bytes());
        assert_eq!(code, Some(CORRUPT), "{what}: {message}");
        assert!(message.contains("keystore") && message.contains("damaged"), "{what}: {message}");
        slowest = slowest.max(took);
    }
    // Refused before hashing: the honest parameters alone take longer than the slowest refusal, by what hashing takes.
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
    // Another salt costs one honest hashing and opens nothing.
    let (_, message, _) = with(20, &[7; 32]);
    assert!(message.contains("wrong passphrase"), "{message}");
    let (_, message, _) = with(0, b"KegFSpx");
    assert!(message.contains("damaged"), "{message}");
    fs::write(&path, &honest).unwrap();
    member.ok(&["folder", "list"]);
    // In this process, where the time of one refusal can be told from that of one hashing.
    let mut wrapped = honest[40..].to_vec();
    wrapped[8..12].copy_from_slice(&(64_u32 << 20).to_be_bytes());
    let (start, before) = (Instant::now(), peak_memory());
    for _ in 0..1000 {
        assert!(kegfs::crypto::password::unwrap(b"x", &wrapped, b"keystore").is_err());
    }
    assert!(start.elapsed() < Duration::from_secs(1) && peak_memory() - before < 8 << 20);
}

#[test]
fn row_35_decryption_oracle() {
    // 10,000 crafted ciphertexts in front of the opener of a chunk: one and the same error for every one.
    let (key, plain) = (ChunkKey::random(), noise(70_000));
    let mut sealed = Vec::new();
    seal_into(&key, &plain, &mut sealed).unwrap();
    let opener = Opener::new(&key, plain.len()).unwrap();
    let mut errors = std::collections::HashSet::new();
    let mut out = vec![0xaa; 65_536];
    for number in 0..10_000_usize {
        let mut crafted = sealed[..65_552].to_vec();
        crafted[number * 6 % 65_552] ^= 1 << (number % 8);
        errors.insert(opener.open_segment(0, &crafted, &mut out).unwrap_err().to_string());
        assert!(out.iter().all(|byte| *byte == 0 || *byte == 0xaa), "no plaintext is left behind");
    }
    assert_eq!(errors.len(), 1, "{errors:?}");
    // Through a real client: 300 crafted answers, one request for each read (no retries that could be counted), one error.
    let team = Team::new();
    write(&team.alice.folder, "one.bin", &plain);
    team.settle();
    team.bob.folder.local.clear_cache().unwrap();
    let blob = {
        let view = team.bob.folder.replica.view();
        let node = view.lookup(kegfs::keg::ROOT_INO, b"one.bin").unwrap().unwrap();
        view.extents(node.ino, 0, node.size).unwrap()[0].blob
    };
    let shape = std::sync::atomic::AtomicUsize::new(0);
    team.bob.liar.tell(Blobs(move |_, mut bytes: Vec<u8>| {
        let number = shape.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match number % 4 {
            0 => bytes.truncate(number),
            1 => bytes.extend(noise(number)),
            2 => bytes.fill(number as u8),
            _ => {
                let at = number * 101 % bytes.len();
                bytes[at] ^= 1;
            }
        }
        bytes
    }));
    let requests =
        |team: &Team| team.bob.liar.asked().iter().filter(|asked| matches!(asked, Asked::Blob { .. })).count();
    let before = requests(&team);
    for _ in 0..300 {
        assert_eq!(team.bob.folder.fetch_blocking(&blob, FETCH_DEADLINE), Err(FetchError::Corrupt(blob)));
    }
    assert_eq!(requests(&team) - before, 300);
    // Crafted bodies, of which a member's accomplice can make any number: the error that is told is the same for all.
    let mut shadow = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let mut reasons = std::collections::HashSet::new();
    for number in 0..24_usize {
        let honest = shadow.batch(vec![crate::cheat::name("x")]);
        let crafted = shadow.forged(&honest, |envelope| match number % 3 {
            0 => {
                let at = number * 7 % envelope.body.len();
                envelope.body[at] ^= 1;
            }
            1 => envelope.body.truncate(number),
            _ => envelope.body = noise(40 + number),
        });
        let seq = shadow.post(&crafted, &[]).unwrap();
        shadow.push(crafted);
        eventually("it is ignored", || {
            team.alice.heard(|event| matches!(event, Event::EntryIgnored { seq: at, .. } if *at == seq))
        });
    }
    for event in team.alice.events() {
        if let Event::EntryIgnored { reason, .. } = event {
            reasons.insert(reason);
        }
    }
    assert!(reasons.len() <= 2, "only the length, which everybody sees, is told apart: {reasons:?}");
}

#[test]
fn row_36_login_relayed_or_signature_reused() {
    let kegd = Kegd::start();
    let bob = Guest::join(&kegd, "bob");
    let identity = bob.person.identity();
    // A server that calls itself evil.example relays the challenge of Bob's true server.
    let relay = Liar::before(kegd.address);
    let options =
        HttpOptions { url: relay.url.clone(), server_name: Some("evil.example".to_owned()), ..HttpOptions::default() };
    let remote = connect(&options, &identity).unwrap();
    let refused = wait(remote.dbs());
    assert!(matches!(refused, Err(RemoteError::WrongServer { .. })), "{refused:?}");
    let logins = relay.asked().iter().filter(|asked| matches!(asked, Asked::Login)).count();
    assert_eq!(logins, 1, "a challenge was asked for, and not answered");
    // It puts its own name in: the answer is worth nothing at the true server.
    let challenge = |kegd: &Kegd| -> Challenge {
        let request = kegfs::api::ChallengeRequest { account: identity.account, device: identity.device_id() };
        decode(&post(&format!("{}/v1/login/challenge", kegd.url()), encode(&request)).1).unwrap()
    };
    let login = |statement: &[u8], tag: &'static str, challenge: [u8; 32]| {
        let signature = identity.device.signing_key().sign(tag, statement).0;
        let (account, device) = (identity.account, identity.device_id());
        let (status, body) =
            post(&format!("{}/v1/login", kegd.url()), encode(&LoginRequest { account, device, challenge, signature }));
        (status, decode::<ApiError>(&body).ok().map(|error| error.code))
    };
    let statement = |given: &Challenge, name: &str| {
        let (account, device) = (identity.account, identity.device_id());
        LoginStatement { server_name: name.to_owned(), challenge: given.challenge, account, device }.to_bytes()
    };
    let given = challenge(&kegd);
    let relayed = login(&statement(&given, "evil.example"), labels::SIGN_LOGIN, given.challenge);
    assert_eq!(relayed, (401, Some(ErrorCode::LoginFailed)));
    // A signature that was made for an entry, over the very statement.
    for tag in [labels::SIGN_ENTRY, labels::SIGN_ACCOUNT_ENTRY] {
        let given = challenge(&kegd);
        let answer = login(&statement(&given, &given.server_name), tag, given.challenge);
        assert_eq!(answer, (401, Some(ErrorCode::LoginFailed)));
    }
    // The right one logs in, once.
    let given = challenge(&kegd);
    let right = statement(&given, &given.server_name);
    assert_eq!(login(&right, labels::SIGN_LOGIN, given.challenge), (200, None));
    assert_eq!(login(&right, labels::SIGN_LOGIN, given.challenge), (401, Some(ErrorCode::LoginFailed)));
    // And a challenge that is an entry: what a device signs to log in is no entry.
    let team = Team::new();
    let shadow = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let entry = shadow.batch(vec![crate::cheat::name("signed by a login")]);
    let signature = shadow.author.sign_login(&entry.envelope);
    team.alice.liar.tell(Append(SignedEntry { signature, ..entry }));
    let why = team.alice.must_freeze();
    assert!(why.contains("false signature"), "{why}");
}

/// One request outside of any client.
pub fn post(url: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    wait(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.post(url).header("content-type", "application/cbor").body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    })
}

#[test]
fn row_37_encoding_tricks_and_parser_bombs() {
    let team = Team::new();
    let honest = Entries { entries: vec![], head_seq: team.head() };
    let canonical = encode(&honest);
    let seq = u8::try_from(team.head()).unwrap();
    let bombs: Vec<(&str, Vec<u8>)> = vec![
        ("trailing byte", [&canonical[..], &[0]].concat()),
        ("overlong integer", vec![0x82, 0x80, 0x19, 0, seq]),
        ("overlong length", vec![0x98, 2, 0x80, seq]),
        ("indefinite length", vec![0x9f, 0x80, seq, 0xff]),
        ("four billion entries", vec![0x82, 0x9a, 0xff, 0xff, 0xff, 0xff]),
        ("entries without end", vec![0x82, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("an envelope of exabytes", vec![0x82, 0x81, 0x82, 0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("nested a million deep", vec![0x81; 1_000_000]),
        ("nested maps", vec![0xa1; 1_000_000]),
        ("tags without end", vec![0xc1; 1_000_000]),
        ("an unknown field", vec![0x83, 0x80, seq, 0]),
        ("text for bytes", vec![0x82, 0x81, 0x82, 0x61, b'x', 0x40, seq]),
        ("nothing", vec![]),
        ("noise", noise(100_000)),
        ("more than a page may have", vec![0x5a; 24 << 20]),
    ];
    let before = peak_memory();
    let mark = team.bob.folder.replica.mark();
    for (what, bytes) in bombs {
        team.bob.liar.tell(Instead(move |asked: &Asked| {
            matches!(asked, Asked::Entries { .. }).then(|| Reply::Raw(200, bytes.clone()))
        }));
        let refused = team.bob.look();
        assert!(refused.is_err(), "{what}");
        let protocol = matches!(&refused, Err(kegfs::sync::SyncError::Remote(RemoteError::Protocol(_))));
        assert!(protocol, "{what}: {refused:?}");
        team.bob.liar.repent();
        assert_eq!(team.bob.folder.replica.mark(), mark);
    }
    let grown = peak_memory() - before;
    assert!(grown < 192 << 20, "{} MiB more at the peak, the bombs themselves included", grown >> 20);
    // The same at the server, from a member and from nobody.
    let shadow = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    for bytes in [vec![0x82, 0x9a, 0xff, 0xff, 0xff, 0xff], vec![0x81; 200_000], noise(5000), vec![]] {
        for route in ["register", "login", "login/challenge"] {
            let (status, body) = post(&format!("{}/v1/{route}", team.kegd.url()), bytes.clone());
            assert_eq!((status, decode::<ApiError>(&body).unwrap().code), (400, ErrorCode::Malformed));
        }
    }
    // Entries whose envelope is a bomb, before all who would have to read it.
    for envelope in [vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], vec![0x81; 900_000], vec![0; 1 << 20]]
    {
        assert!(shadow.post(&SignedEntry { envelope, signature: [0; 64] }, &[]).is_err());
    }
    // And bodies that only who has the key can make: sealed bombs, which nobody else can look into before.
    let mut shadow = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    for plain in [vec![0x81, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], vec![0x81; 500_000], vec![]] {
        let entry = shadow.batch_of_bytes(&plain);
        let seq = shadow.post(&entry, &[]).unwrap();
        shadow.push(entry);
        team.alice.must_ignore(seq, "malformed");
    }
    assert!(wait(direct(&team.kegd.url(), &team.alice.identity()).dbs()).is_ok(), "the server is well");
}

#[test]
fn row_33_downgrade_of_format_or_suite() {
    let team = Team::new();
    let shadow = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let honest = shadow.batch(vec![crate::cheat::name("of an older suite")]);
    assert_eq!(Envelope::decode(&honest.envelope).unwrap().suite, SUITE);
    // The folder has moved to a newer suite, and Bob's changed client has seen it: an older one counts for nothing.
    let older = shadow.forged(&honest, |envelope| envelope.suite = SUITE_OLDEST);
    assert!(shadow.post(&older, &[]).is_err(), "an honest server refuses it");
    team.alice.liar.tell(Append(older));
    team.alice.must_ignore(team.head() + 1, "older format suite");
    assert_eq!(team.alice.folder.name(), "acme");
    // The server alone cannot relabel what is signed, and suites that nobody knows are no suites.
    let mut relabelled = Envelope::decode(&honest.envelope).unwrap();
    relabelled.suite = SUITE_OLDEST;
    let relabelled = SignedEntry { envelope: encode(&relabelled), ..honest.clone() };
    let unknown = [0, SUITE + 1, u16::MAX].map(|suite| shadow.forged(&honest, |envelope| envelope.suite = suite));
    let mut state = kegfs::keyring::FolderState::new(shadow.db);
    for entry in &shadow.entries {
        state.advance(entry, &shadow.world, &shadow.chains).unwrap();
    }
    for entry in [&relabelled].into_iter().chain(&unknown) {
        assert!(shadow.post(entry, &[]).is_err());
        assert!(state.check(entry, &shadow.world, &shadow.chains).is_err());
    }
    // One that a newer version may know is not taken in, and asks for an update; one that never was proves the lie.
    let mark = team.bob.folder.replica.mark();
    team.bob.liar.tell(Append(unknown[1].clone()));
    let refused = team.bob.look();
    assert!(matches!(refused, Err(kegfs::sync::SyncError::UpdateNeeded(suite)) if suite == SUITE + 1), "{refused:?}");
    assert_eq!((team.bob.folder.replica.mark(), team.bob.folder.frozen()), (mark, None));
    team.bob.liar.nudge();
    eventually("the status says what to do", || {
        let status = team.bob.folder.status();
        !status.online && status.last_error.is_some_and(|error| error.contains("pdate"))
    });
    // With a program that knows the entry, which here is the truth, it goes on; nothing is left of it.
    team.bob.liar.repent();
    team.bob.liar.nudge();
    eventually("it goes on", || team.bob.folder.online());
    write(&team.bob.folder, "newer.txt", b"after the update");
    team.bob.folder.wait_uploaded_blocking(PATIENCE).unwrap();
    team.bob.look().unwrap();
    assert_eq!(team.bob.folder.status().last_error, None);
    team.bob.liar.tell(Append(unknown[0].clone()));
    let why = team.bob.must_freeze();
    assert!(why.contains("suite"), "{why}");
    // An older or newer interface is none.
    for version in ["v0", "v2"] {
        let (status, body) = post(&format!("{}/{version}/login", team.kegd.url()), vec![]);
        assert_eq!((status, decode::<ApiError>(&body).unwrap().code), (404, ErrorCode::NoRoute));
    }
}
