//! Rows 41 and 42: nothing readable on the server or on the wire, and after an unmount nothing on the client.

use std::fs;
use std::path::Path;
use std::time::Duration;

use kegfs::crypto::password;
use kegfs::keyring::Identity;

use crate::common::recorder::{Recorder, occurrences, search};
use crate::common::{Member, PASSPHRASE, Server, Team, wait_for};

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

/// The identity in a member's keystore.
pub fn identity(profile: &Path) -> Identity {
    // Layout of the file: magic, checksum, wrapped identity (docs/FORMAT.md).
    let file = fs::read(profile.join("keystore")).unwrap();
    let bytes = password::unwrap(PASSPHRASE.as_bytes(), &file[8 + 32..], b"keystore").unwrap();
    Identity::from_bytes(&bytes).unwrap()
}

/// The member's own secret keys, from the keystore and the passphrase.
fn keys(profile: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let identity = identity(profile);
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

/// A team that has used two folders and unmounted them; what must not be found.
fn used() -> (Team, Recorder, Vec<(String, Vec<u8>)>) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let recorder = Recorder::start(&dir.path().join("traffic"), server.port);
    let mut team = Team::on(dir, server, &recorder.url);
    use_it(&mut team);
    let mut needles = needles();
    for member in [&team.alice, &team.bob] {
        needles.extend(keys(&member.profile).iter().flat_map(|(label, secret)| forms(label, secret)));
    }
    (team, recorder, needles)
}

fn nothing_in(place: &Path, needles: &[(String, Vec<u8>)]) {
    assert!(fs::read_dir(place).unwrap().count() > 0, "{} holds something to search", place.display());
    let hits = search(place, needles);
    assert!(hits.is_empty(), "{hits:#?}");
    // The search is able to find: each secret, planted here, is found.
    for (label, secret) in needles {
        let planted = place.join("planted");
        fs::write(&planted, [b"some bytes before ".as_slice(), secret, b" and after"].concat()).unwrap();
        assert!(!search_file(place, label, secret).is_empty(), "{label} planted in {}", place.display());
        fs::remove_file(planted).unwrap();
    }
}

#[test]
fn row_41_canary() {
    let (team, recorder, needles) = used();
    // Disk, database and log of the server are below its directory; the traffic is all that passed in either direction.
    nothing_in(&team.server.data, &needles);
    nothing_in(&recorder.dir, &needles);
    // Traffic is really captured: the account's display name, which the server may see, is in it.
    assert!(!search(&recorder.dir, &[("display name".to_owned(), b"alice".to_vec())]).is_empty());
}

#[test]
fn row_42_plaintext_at_rest_on_the_client() {
    let (team, _recorder, needles) = used();
    for member in [&team.alice, &team.bob] {
        wait_for("the process that holds the keys to end", Duration::from_secs(10), || member.daemon_pid().is_none());
        nothing_in(&member.profile, &needles);
    }
}

/// Everything that a process has in memory, as a core dump would have it.
fn core(member: &Member) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let pid = member.daemon_pid().expect("a background process");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut core = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            core.extend(bytes);
        }
    }
    core
}

#[test]
fn row_42_memory_after_the_unmount_of_one_of_two_folders() {
    let mut team = Team::new();
    team.alice.ok(&["folder", "create", "other"]);
    let (acme, other) = (team.alice.mount("acme"), team.alice.mount("other"));
    let text = format!("{CONTENT}\n").repeat(3000);
    fs::write(acme.join("secret.txt"), &text).unwrap();
    fs::write(other.join("harmless.txt"), "harmless").unwrap();
    team.alice.sync();
    assert_eq!(fs::read_to_string(acme.join("secret.txt")).unwrap(), text);
    let pid = team.alice.daemon_pid();
    assert!(occurrences(&core(&team.alice), CONTENT.as_bytes(), 1) > 0, "the search sees what is in memory");
    team.alice.unmount(&acme);
    assert_eq!(team.alice.daemon_pid(), pid, "the process lives on for the other folder");
    // What is left in buffers is overwritten by the next requests.
    for number in 0..50 {
        fs::write(other.join(format!("f{number}")), vec![0; 200_000]).unwrap();
        fs::read(other.join(format!("f{number}"))).unwrap();
    }
    let left = occurrences(&core(&team.alice), CONTENT.as_bytes(), 100);
    assert_eq!(left, 0, "{left} places with the content of an unmounted folder");
}

fn search_file(place: &Path, label: &str, secret: &[u8]) -> Vec<String> {
    search(place, &[(label.to_owned(), secret.to_vec())])
}
