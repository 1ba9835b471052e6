//! How fast bytes are sealed, opened, named and verified, on one core.
//!
//! `cargo bench --bench crypto`. Measures the crypto room alone: no disk, no network. Must not know
//! anything above it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kegfs::crypto::chunk::{ChunkKey, MAX_PLAIN, Opener, SEGMENT, TAG, seal_into, sealed_len};
use kegfs::crypto::xchacha::{fast, reference};
use kegfs::crypto::{Key, aead, boxes, labels, password, sign, verified};
use kegfs::sys::random;

fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 257) as u8).collect()
}

/// The stream: chunks of 4 MiB, as a large file is written and read.
fn chunks(c: &mut Criterion) {
    let plain = sample(MAX_PLAIN);
    let key = ChunkKey::random();
    let mut sealed = Vec::with_capacity(sealed_len(MAX_PLAIN));
    let mut group = c.benchmark_group("chunk of 4 MiB");
    group.throughput(Throughput::Bytes(MAX_PLAIN as u64));
    group.bench_function("seal", |b| {
        b.iter(|| {
            sealed.clear();
            seal_into(&key, black_box(&plain), &mut sealed).unwrap();
        });
    });
    let opener = Opener::new(&key, MAX_PLAIN).unwrap();
    let mut out = vec![0; MAX_PLAIN];
    group.bench_function("open", |b| {
        b.iter(|| opener.open_all(black_box(&sealed), &mut out).unwrap());
    });
    let (id, tree) = verified::id_and_outboard(&sealed);
    group.bench_function("blob id", |b| b.iter(|| verified::blob_id(black_box(&sealed))));
    group.bench_function("blob id and outboard", |b| {
        b.iter(|| verified::id_and_outboard(black_box(&sealed)));
    });
    let len = sealed.len() as u64;
    let encoded = verified::encode_range(&id, &sealed[..], len, &tree, 0..len).unwrap();
    group.bench_function("decode the whole range", |b| {
        b.iter(|| verified::decode_range(&id, len, 0..len, black_box(&encoded)).unwrap());
    });
    group.finish();
}

/// The two implementations side by side.
fn segments(c: &mut Criterion) {
    let plain = sample(SEGMENT);
    let mut sealed = vec![0; SEGMENT + TAG];
    let (fast, reference) = (fast::Cipher::new(&[1; 32], &[0; 16]), reference::Cipher::new(&[1; 32], &[0; 16]));
    let mut group = c.benchmark_group("segment of 64 KiB");
    group.throughput(Throughput::Bytes(SEGMENT as u64));
    group.bench_function("fast seal", |b| {
        b.iter(|| fast.seal(&[0; 8], &[], black_box(&plain), &mut sealed).unwrap());
    });
    group.bench_function("reference seal", |b| {
        b.iter(|| reference.seal(&[0; 8], &[], black_box(&plain), &mut sealed).unwrap());
    });
    group.finish();
}

/// What each of 20,000 small files costs.
fn small(c: &mut Criterion) {
    let mut group = c.benchmark_group("small");
    group.bench_function("32 random bytes", |b| b.iter(random::array::<32>));
    let plain = sample(4096);
    group.bench_function("chunk of 4 KiB, fresh key: seal", |b| {
        b.iter_batched_ref(
            || Vec::with_capacity(sealed_len(4096)),
            |out| seal_into(&ChunkKey::random(), black_box(&plain), out).unwrap(),
            BatchSize::SmallInput,
        );
    });
    let key = Key::random();
    group.bench_function("aead seal of 256 B", |b| {
        b.iter(|| aead::seal(&key, b"aad", black_box(&plain[..256])));
    });
    let signing = sign::SigningKey::random();
    let public = signing.verifying_key();
    let signature = signing.sign(labels::SIGN_ENTRY, &plain);
    group.bench_function("sign an entry of 4 KiB", |b| {
        b.iter(|| signing.sign(labels::SIGN_ENTRY, black_box(&plain)));
    });
    group.bench_function("verify an entry of 4 KiB", |b| {
        b.iter(|| public.verify(labels::SIGN_ENTRY, black_box(&plain), &signature).unwrap());
    });
    let secret = boxes::KemSecret::random();
    let to = secret.public();
    let sealed = boxes::seal(&to, b"info", &[7; 64]);
    group.bench_function("box seal", |b| b.iter(|| boxes::seal(&to, b"info", black_box(&[7; 64]))));
    group.bench_function("box open", |b| {
        b.iter(|| boxes::open(&secret, b"info", black_box(&sealed)).unwrap());
    });
    group.sample_size(10);
    group.bench_function("passphrase, default cost", |b| {
        b.iter(|| password::wrap(b"pass", &[1; 64], password::Params::DEFAULT, b"").unwrap());
    });
    group.finish();
}

criterion_group!(benches, chunks, segments, small);
criterion_main!(benches);
