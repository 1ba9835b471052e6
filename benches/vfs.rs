//! What the mounted view costs without a kernel: `cargo bench --bench vfs`.
//!
//! Blobs lie in memory, so this is the ceiling that sealing, opening, copying and locking set. One line per row; each is
//! run three times and the median is shown, with the processor seconds of the median's run.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use kegfs::vfs::*;

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1, umask: 0 };
const READ: OpenMode = OpenMode { read: true, write: false, exclusive: false };
const WRITE: OpenMode = OpenMode { read: true, write: true, exclusive: false };
const STREAM: u64 = 1 << 30;

fn main() {
    let mib = STREAM >> 20;
    row("write 1 GiB in 1 MiB requests, fsync", "MiB/s", mib, || (), |()| stream_write(1 << 20));
    row("write 1 GiB in 128 KiB requests, fsync", "MiB/s", mib, || (), |()| stream_write(128 << 10));
    let folder = filled();
    let fresh = || Vfs::single(folder.clone(), VfsOptions::default()).unwrap();
    row("read 1 GiB in 1 MiB requests, local ciphertext", "MiB/s", mib, fresh, |vfs| stream_read(&vfs, 1 << 20));
    row("read 1 GiB in 128 KiB requests, local ciphertext", "MiB/s", mib, fresh, |vfs| stream_read(&vfs, 128 << 10));
    let evicted = || {
        folder.evict();
        fresh()
    };
    row("read 1 GiB in 1 MiB requests, fetched", "MiB/s", mib, evicted, |vfs| stream_read(&vfs, 1 << 20));
    row("read 4 KiB at random in 1 GiB", "reads/s", 20_000, fresh, |vfs| random_read(&vfs, 20_000, STREAM));
    let warm = || {
        let vfs = fresh();
        random_read(&vfs, 2000, 32 << 20);
        vfs
    };
    row("read 4 KiB at random in 32 MiB, opened", "reads/s", 100_000, warm, |vfs| random_read(&vfs, 100_000, 32 << 20));
    row("create, write 8 KiB, close", "files/s", 20_000, || (), |()| small_files(20_000));
}

fn row<S>(name: &str, unit: &str, count: u64, prepare: impl Fn() -> S, work: impl Fn(S)) {
    let mut runs: Vec<(f64, f64)> = (0..3)
        .map(|_| {
            let subject = prepare();
            let (start, cpu) = (Instant::now(), cpu_seconds());
            work(subject);
            (start.elapsed().as_secs_f64(), cpu_seconds() - cpu)
        })
        .collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (seconds, cpu) = runs[1];
    println!("{name:50} {:9.0} {unit:8} {seconds:6.2} s, {cpu:6.2} s of processor", count as f64 / seconds);
}

fn cpu_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn stream_write(request: usize) {
    let folder = MemoryFolder::new("bench");
    write_stream(&folder, request);
}

fn write_stream(folder: &Arc<MemoryFolder>, request: usize) {
    let vfs = Vfs::single(folder.clone(), VfsOptions::default()).unwrap();
    let (_, opened) = vfs.create(ROOT, b"stream", 0o644, WRITE, &CALLER).unwrap();
    let data = vec![0x5A; request];
    for at in (0..STREAM).step_by(request) {
        vfs.write(opened.fh, at, &data).unwrap();
    }
    let (tx, rx) = mpsc::channel();
    vfs.fsync(opened.fh, Box::new(move |result| tx.send(result).unwrap()));
    rx.recv().unwrap().unwrap();
    vfs.flush(opened.fh).unwrap();
    vfs.release(opened.fh);
}

fn filled() -> Arc<MemoryFolder> {
    let folder = MemoryFolder::new("bench");
    write_stream(&folder, 1 << 20);
    folder
}

fn read(vfs: &Vfs, fh: u64, at: u64, len: u32) {
    let (tx, rx) = mpsc::sync_channel(1);
    vfs.read(fh, at, len, Box::new(move |result| tx.send(result.unwrap().len()).unwrap()));
    assert_eq!(rx.recv().unwrap(), len as usize);
}

fn stream_read(vfs: &Vfs, request: u32) {
    let fh = vfs.open(vfs.lookup(ROOT, b"stream").unwrap().attr.ino, READ).unwrap().fh;
    for at in (0..STREAM).step_by(request as usize) {
        read(vfs, fh, at, request);
    }
    vfs.release(fh);
}

fn random_read(vfs: &Vfs, count: u64, span: u64) {
    let fh = vfs.open(vfs.lookup(ROOT, b"stream").unwrap().attr.ino, READ).unwrap().fh;
    let mut state = 88_172_645_463_325_252u64;
    for _ in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        read(vfs, fh, state % (span / 4096) * 4096, 4096);
    }
    vfs.release(fh);
}

fn small_files(count: u64) {
    let vfs = Vfs::single(MemoryFolder::new("bench"), VfsOptions::default()).unwrap();
    let data = vec![0x5A; 8192];
    for i in 0..count {
        let (_, opened) = vfs.create(ROOT, format!("file {i}").as_bytes(), 0o644, WRITE, &CALLER).unwrap();
        vfs.write(opened.fh, 0, &data).unwrap();
        vfs.flush(opened.fh).unwrap();
        vfs.release(opened.fh);
    }
    vfs.flush_all(std::time::Duration::from_secs(60)).unwrap();
}
