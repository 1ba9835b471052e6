//! Memory stays bounded while far more than memory streams through a mount.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use common::{Team, wait_for};

/// `KEGFS_STREAM_GIB` changes it.
const STREAM_GIB: u64 = 10;
const BOUND_BYTES: u64 = 400 << 20;

#[test]
fn ten_gibibytes_stream_through_a_mount_below_400_megabytes() {
    let gib = std::env::var("KEGFS_STREAM_GIB").map_or(STREAM_GIB, |text| text.parse().expect("a number"));
    let stream_bytes = gib << 30;
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    // 32 MiB that no compressor shortens, over and over: each chunk has a fresh key, so nothing is stored once only.
    let mut block = vec![0; 32 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut block);
    let mut hasher = blake3::Hasher::new();
    let mut file = fs::File::create(alice.join("stream")).unwrap();
    let mut peak = 0;
    for _ in 0..stream_bytes / block.len() as u64 {
        file.write_all(&block).unwrap();
        hasher.update(&block);
        peak = peak.max(team.alice.peak_memory());
    }
    file.sync_all().unwrap();
    drop(file);
    team.alice.ok(&["sync", "--wait", "--timeout", "1200"]);
    wait_for("Bob to see it", Duration::from_secs(60), || {
        fs::metadata(bob.join("stream")).is_ok_and(|meta| meta.len() == stream_bytes)
    });
    let mut seen = blake3::Hasher::new();
    let mut file = fs::File::open(bob.join("stream")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while let n @ 1.. = file.read(&mut buffer).unwrap() {
        seen.update(&buffer[..n]);
    }
    assert_eq!(seen.finalize(), hasher.finalize());
    let (writer, reader) = (team.alice.peak_memory(), team.bob.peak_memory());
    println!("{gib} GiB; peak memory: writer {} MiB, reader {} MiB", writer >> 20, reader >> 20);
    assert!(writer < BOUND_BYTES && reader < BOUND_BYTES, "writer {writer}, reader {reader}");
    drop(team);
}
