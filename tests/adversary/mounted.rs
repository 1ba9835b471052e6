//! Rows that are about processes, mounts and crashes: real `kegfs` processes, their server bad or gone back in time.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kegfs::crypto::padme::padded_len;

use crate::cheat::{Shadow, direct, name, wait};
use crate::common::{Member, Server, Team, wait_for};
use crate::content::noise;
use crate::liar::{Asked, Liar};
use crate::lies::{Blobs, Frozen, Rollback};

const SOON: Duration = Duration::from_secs(60);
const EIO: i32 = 5;
const EROFS: i32 = 30;

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn status(member: &Member) -> serde_json::Value {
    serde_json::from_str(&member.ok(&["status", "--json"])).unwrap()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").args(["-a", from.to_str().unwrap(), to.to_str().unwrap()]).status().unwrap().success());
}

fn listed(dir: &Path) -> Vec<std::ffi::OsString> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// The directory of the only folder in a profile.
fn folder_dir(member: &Member) -> PathBuf {
    let mut dirs = fs::read_dir(member.profile.join("folders")).unwrap();
    dirs.next().unwrap().unwrap().path()
}

#[test]
fn row_27_rollback_across_a_crash_of_client_and_server() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    fs::write(alice.join("plan.txt"), "first").unwrap();
    team.alice.sync();
    wait_for("Bob to see it", SOON, || fs::read(bob.join("plan.txt")).is_ok_and(|text| text == b"first"));
    // The server as it is now comes back later.
    let kept = team.dir.path().join("old-server");
    team.server.kill9();
    copy(&team.server.data, &kept);
    team.server.restart();
    fs::write(alice.join("plan.txt"), "second, which Bob reads").unwrap();
    team.alice.sync();
    wait_for("Bob to read it", SOON, || {
        fs::read(bob.join("plan.txt")).is_ok_and(|text| text == b"second, which Bob reads")
    });
    // Bob's process dies the moment after it released the data: what it had seen is durable.
    team.bob.kill9();
    team.server.kill9();
    copy(&kept, &team.server.data);
    team.server.restart();
    // An emptied cache and a reboot change nothing: the mark is not in the cache.
    let _ = fs::remove_dir_all(folder_dir(&team.bob).join("blobs").join("cache"));
    let bob = team.bob.mount("acme");
    wait_for("Bob's folder to freeze", SOON, || status(&team.bob).to_string().contains("gone back"));
    let text = team.bob.ok(&["status"]);
    assert!(text.contains("gone back") && text.contains("acme"), "{text}");
    assert_eq!(errno(File::create(bob.join("new.txt"))), EROFS);
    assert_eq!(errno(fs::write(bob.join("plan.txt"), "x")), EROFS);
    assert_eq!(fs::metadata(bob.join("plan.txt")).unwrap().len(), 23, "the view is the one that was verified");
    let kept = fs::read_dir(team.bob.profile.join("evidence")).unwrap();
    let proofs: usize = kept.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum();
    assert_eq!(proofs, 1);
    // It stays frozen over another crash.
    team.bob.kill9();
    let bob = team.bob.mount("acme");
    assert_eq!(errno(File::create(bob.join("new.txt"))), EROFS);
}

/// A team of which each member reaches the server through a liar.
struct LiedTo {
    team: Team,
    liar: Liar,
}

impl LiedTo {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let liar = Liar::before(SocketAddr::from(([127, 0, 0, 1], server.port)));
        let url = liar.url.clone();
        Self { team: Team::on(dir, server, &url), liar }
    }
}

/// The server goes on talking to Bob, and shows him the folder as it was: nothing is announced and nothing is given.
#[test]
fn row_29_freeze_of_one_members_view() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let liar = Liar::before(SocketAddr::from(([127, 0, 0, 1], server.port)));
    let mut alice = Member::create(dir.path(), "alice", &server.url(), &server.invite());
    let mut bob = Member::create(dir.path(), "bob", &liar.url, &server.invite());
    alice.ok(&["folder", "create", "acme"]);
    alice.ok(&["member", "add", "acme", &bob.account]);
    let (ours, theirs) = (alice.mount("acme"), bob.mount("acme"));
    fs::write(ours.join("plan.txt"), "meet at noon").unwrap();
    wait_for("Bob to see it", SOON, || fs::read(theirs.join("plan.txt")).is_ok_and(|text| text == b"meet at noon"));
    alice.sync();
    liar.tell(Frozen::new());
    liar.nudge();
    wait_for("the server to have chosen what it shows", SOON, || {
        matches!(liar.asked().last(), Some(Asked::Entries { .. }))
    });
    fs::write(ours.join("plan.txt"), "meet at three").unwrap();
    alice.sync();
    // Nothing tells Bob's client. It claims no more than the server has said, with the time when it did.
    let said = bob.ok(&["status"]);
    assert!(said.contains("up to date with the server, which said so at") && !said.contains("in sync"), "{said}");
    assert_eq!(fs::read(theirs.join("plan.txt")).unwrap(), b"meet at noon");
    // Alice reads out what her device has, and Bob compares.
    let hers: serde_json::Value = serde_json::from_str(&alice.ok(&["verify", "--folder", "acme", "--json"])).unwrap();
    let hers = &hers["folder_words"];
    let words: Vec<&str> = hers["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let seen = format!("{} {}", hers["seq"], words.join(" "));
    let compared = bob.kegfs(&["verify", "--folder", "acme", "--seen", &seen]);
    let message = String::from_utf8_lossy(&compared.stderr);
    assert_eq!(compared.status.code(), Some(5), "{message}");
    assert!(message.contains("holds back the rest"), "{message}");
    // From then on the folder is stale, and says since when.
    wait_for("the status to say so", SOON, || status(&bob)["folders"][0]["online"] == false);
    let first = &status(&bob)["folders"][0];
    assert!(first["stale_since_ms"].as_i64().is_some(), "{first}");
    let text = bob.ok(&["status"]) + &fs::read_to_string(theirs.join(".keg/status")).unwrap();
    assert_eq!(text.matches("stale since").count(), 2, "{text}");
    assert!(!text.contains("up to date with the server"), "{text}");
    wait_for("the log to tell it", SOON, || bob.ok(&["log", "acme"]).contains("does not come up to date"));
    // The truth at last; and the same words.
    liar.repent();
    wait_for("Bob to read on", SOON, || fs::read(theirs.join("plan.txt")).is_ok_and(|text| text == b"meet at three"));
    wait_for("the status to be well", SOON, || status(&bob)["folders"][0]["online"] == true);
    let same = bob.ok(&["verify", "--folder", "acme", "--seen", &seen]);
    assert!(same.starts_with("the same"), "{same}");
    let other = format!("{} {}", hers["seq"], words.iter().rev().copied().collect::<Vec<_>>().join(" "));
    let compared = bob.kegfs(&["verify", "--folder", "acme", "--seen", &other]);
    assert!(String::from_utf8_lossy(&compared.stderr).contains("different folders"));
}

#[test]
fn row_26_and_25_on_a_mount_rollback_and_forged_content() {
    let LiedTo { mut team, liar } = LiedTo::new();
    let alice = team.alice.mount("acme");
    let content = noise(300_000);
    fs::write(alice.join("large.bin"), &content).unwrap();
    team.alice.sync();
    team.alice.unmount(&alice);
    // Content that is not what was signed for: EIO, nothing cached, an event in the log of the process; then the truth.
    liar.tell(Blobs(|_, bytes: Vec<u8>| vec![0; bytes.len()]));
    let bob = team.bob.mount("acme");
    wait_for("the file to appear", SOON, || bob.join("large.bin").exists());
    assert_eq!(errno(fs::read(bob.join("large.bin"))), EIO);
    let cache = folder_dir(&team.bob).join("blobs").join("cache");
    let cached = fs::read_dir(cache).map_or(0, |files| files.flatten().filter(|file| file.path().is_file()).count());
    assert_eq!(cached, 0, "nothing was cached");
    liar.repent();
    assert_eq!(fs::read(bob.join("large.bin")).unwrap(), content);
    // The log gone back: read-only, told, and what was read can still be read.
    liar.tell(Rollback { to: 2 });
    liar.nudge();
    wait_for("the folder to freeze", SOON, || status(&team.bob).to_string().contains("gone back"));
    assert_eq!(errno(File::create(bob.join("new.txt"))), EROFS);
    assert_eq!(fs::read(bob.join("large.bin")).unwrap(), content);
}

#[test]
fn row_38_only_padded_sizes_and_row_39_no_known_file_fingerprint() {
    let LiedTo { mut team, liar } = LiedTo::new();
    let (alice, bob) = team.mount();
    // Sizes that are nobody's business.
    for (number, len) in [1, 100, 1000, 4097, 65_537, 100_001, 999_983].into_iter().enumerate() {
        fs::write(alice.join(format!("f{number}")), noise(len)).unwrap();
        team.alice.sync();
    }
    // A file that everybody knows, twice by one and once by another.
    let known = noise(1 << 20);
    for path in [alice.join("known"), alice.join("known again"), bob.join("known to bob")] {
        fs::write(path, &known).unwrap();
    }
    team.alice.sync();
    team.bob.sync();
    let mut ids = std::collections::HashSet::new();
    let mut pieces: std::collections::HashMap<Vec<u8>, kegfs::format::BlobId> = std::collections::HashMap::new();
    let mut seen = 0;
    for asked in liar.asked() {
        match asked {
            Asked::Put { blob, bytes } => {
                seen += 1;
                let len = bytes.len() as u64;
                assert_eq!(padded_len(len), len, "a blob of {len} bytes");
                ids.insert(blob);
                // No stretch of 32 bytes is in two blobs.
                for piece in bytes.chunks_exact(32) {
                    let other = pieces.insert(piece.to_vec(), blob);
                    let zeros = piece.iter().all(|byte| *byte == 0);
                    assert!(zeros || other.is_none_or(|other| other == blob), "equal ciphertext");
                }
            }
            Asked::Append { sent, .. } => {
                let envelope = kegfs::format::Envelope::decode(&sent.entry.envelope).unwrap();
                if envelope.kind == kegfs::format::EntryKind::Batch {
                    let padded = (envelope.body.len() - kegfs::crypto::aead::OVERHEAD) as u64;
                    assert_eq!(padded_len(padded), padded, "a body of {padded} bytes");
                }
            }
            _ => {}
        }
    }
    assert!(seen >= 10 && ids.len() == seen, "{seen} uploads, {} ids", ids.len());
}

#[test]
fn row_40_traffic_pattern_is_documented_as_visible() {
    let LiedTo { mut team, liar } = LiedTo::new();
    let (alice, bob) = team.mount();
    fs::write(alice.join("plan.txt"), noise(100_000)).unwrap();
    team.alice.sync();
    wait_for("Bob to read it", SOON, || fs::read(bob.join("plan.txt")).is_ok_and(|bytes| bytes.len() == 100_000));
    // Who writes and who reads what blob, and when, is plain to see …
    let put = liar.asked().into_iter().find_map(|asked| match asked {
        Asked::Put { blob, .. } => Some(blob),
        _ => None,
    });
    let put = put.expect("an upload");
    let got = |asked: &Asked| matches!(asked, Asked::Blob { blob } | Asked::Range { blob, .. } if *blob == put);
    assert!(liar.asked().iter().any(got), "the reader asks for the very blob");
    // … and the documentation says so.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let format = fs::read_to_string(root.join("docs/FORMAT.md")).unwrap();
    assert!(format.contains("who fetches what and when"));
    let semantics = fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let semantics = semantics.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(semantics.contains("when and from where somebody is active"));
}

#[test]
fn row_23_hostile_names_do_not_leave_the_mount() {
    // Bob's changed client gives the folder names that would put its directory elsewhere; a mount of all folders shows
    // nothing outside of itself.
    let mut team = Team::new();
    let mountpoint = team.alice.mount_all();
    wait_for("the folder", SOON, || mountpoint.join("acme").exists());
    let identity = super::secrets::identity(&team.bob.profile);
    let db = wait(direct(&team.server.url(), &identity).dbs()).unwrap()[0].db;
    let mut shadow = Shadow::from_boxes(&team.server.url(), identity, db);
    let attempts = || team.alice.ok(&["log", "acme"]).matches("counts for nothing").count();
    for (seen, hostile) in ["..", "../outside", "/tmp/outside-of-kegfs", "a/b", ".", ""].into_iter().enumerate() {
        let entry = shadow.batch(vec![name(hostile)]);
        shadow.post(&entry, &[]).unwrap();
        shadow.push(entry);
        // Alice has read it, and shows what she showed before.
        wait_for("Alice to have it", SOON, || listed(&mountpoint) != ["acme"] || attempts() > seen);
        assert_eq!(listed(&mountpoint), ["acme"], "{hostile:?}");
    }
    shadow.post(&shadow.batch(vec![name("renamed")]), &[]).unwrap();
    wait_for("the honest name after them", SOON, || mountpoint.join("renamed").exists());
    assert_eq!(listed(&mountpoint), ["renamed"]);
    assert!(!team.dir.path().join("outside").exists() && !Path::new("/tmp/outside-of-kegfs").exists());
}
