//! Locked means locked: after an unmount nothing readable is left, on the client, on the server, or on the wire.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::recorder::{Recorder, search};
use common::{PASSPHRASE, Server, Team, wait_for};
use kegfs::crypto::password;
use kegfs::keyring::Identity;

const FILE: &str = "merger-with-globex-4417.txt";
const DIRECTORY: &str = "board-minutes-9921";
const CONTENT: &str = "the price is 12 million and nobody may know, reference 5530-QX";
const FOLDER: &str = "acme";
const RENAMED_FOLDER: &str = "zephyr-project-3308";

/// Everything that must not be found, as it is, in hexadecimal and in base64.
fn needles() -> Vec<(String, Vec<u8>)> {
    let secrets = [
        ("file name", FILE),
        ("directory name", DIRECTORY),
        ("content", CONTENT),
        ("folder name", RENAMED_FOLDER),
        ("passphrase", PASSPHRASE),
    ];
    secrets.iter().flat_map(|(label, secret)| forms(label, secret.as_bytes())).collect()
}

fn forms(label: &str, secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut forms =
        vec![(label.to_owned(), secret.to_vec()), (format!("{label}, in hex"), hex::encode(secret).into_bytes())];
    // The three alignments of base64, without the ends, which depend on the neighbours.
    for skip in 0..3 {
        let text = base64(&secret[skip..]);
        forms.push((format!("{label}, in base64"), text.as_bytes()[..text.len() / 4 * 4 - 4].to_vec()));
    }
    forms
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).map(|i| char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63])).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// The member's own secret keys, from the keystore and the passphrase.
fn keys(profile: &Path) -> Vec<(&'static str, Vec<u8>)> {
    // Layout of the file: magic, checksum, wrapped identity (docs/FORMAT.md).
    let file = fs::read(profile.join("keystore")).unwrap();
    let bytes = password::unwrap(PASSPHRASE.as_bytes(), &file[8 + 32..], b"keystore").unwrap();
    let identity = Identity::from_bytes(&bytes).unwrap();
    let mut keys = vec![
        ("signing key", identity.device.signing_key().seed().to_vec()),
        ("device key", identity.device.kem_secret().seed().to_vec()),
        ("local key", identity.local.as_bytes().to_vec()),
    ];
    keys.extend(identity.user_keys.values().map(|seed| ("user key", seed.as_bytes().to_vec())));
    keys
}

fn use_it(team: &mut Team) {
    team.alice.ok(&["folder", "create", RENAMED_FOLDER]);
    team.alice.ok(&["member", "add", RENAMED_FOLDER, &team.bob.account, "--role", "editor"]);
    for folder in [FOLDER, RENAMED_FOLDER] {
        let (alice, bob) = (team.alice.mount(folder), team.bob.mount(folder));
        fs::create_dir(alice.join(DIRECTORY)).unwrap();
        let text = format!("{CONTENT}\n").repeat(1000);
        fs::write(alice.join(DIRECTORY).join(FILE), &text).unwrap();
        wait_for("the other side", Duration::from_secs(30), || {
            fs::read(bob.join(DIRECTORY).join(FILE)).is_ok_and(|seen| seen == text.as_bytes())
        });
        team.alice.unmount(&alice);
        team.bob.unmount(&bob);
        for dir in [&alice, &bob] {
            assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "the mountpoint is empty");
        }
    }
}

#[test]
fn row_41_and_42_nothing_readable_is_left_anywhere_after_the_unmount() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let recorder = Recorder::start(&dir.path().join("traffic"), server.port);
    let mut team = Team::on(dir, server, &recorder.url);
    use_it(&mut team);

    for member in [&team.alice, &team.bob] {
        wait_for("the process that holds the keys to end", Duration::from_secs(10), || member.daemon_pid().is_none());
    }
    let places = [team.server.data.clone(), team.alice.profile.clone(), team.bob.profile.clone(), recorder.dir.clone()];
    let mut needles = needles();
    for member in [&team.alice, &team.bob] {
        needles.extend(keys(&member.profile).iter().flat_map(|(label, secret)| forms(label, secret)));
    }
    for place in &places {
        assert!(fs::read_dir(place).unwrap().count() > 0, "{} holds something to search", place.display());
        let hits = search(place, &needles);
        assert!(hits.is_empty(), "{hits:#?}");
    }
    // The search is able to find: each secret, planted in each place, is found.
    for place in &places {
        for (label, secret) in &needles {
            let planted = place.join("planted");
            fs::write(&planted, [b"some bytes before ".as_slice(), secret, b" and after"].concat()).unwrap();
            assert!(!search_file(place, label, secret).is_empty(), "{label} planted in {}", place.display());
            fs::remove_file(planted).unwrap();
        }
    }
}

fn search_file(place: &Path, label: &str, secret: &[u8]) -> Vec<String> {
    search(place, &[(label.to_owned(), secret.to_vec())])
}

#[test]
fn the_recorder_sees_what_would_be_readable() {
    // Traffic is really captured: the account's display name, which the server may see, is in it.
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let recorder = Recorder::start(&dir.path().join("traffic"), server.port);
    let _team = Team::on(dir, server, &recorder.url);
    assert!(!search(&recorder.dir, &[("display name".to_owned(), b"alice".to_vec())]).is_empty());
}
