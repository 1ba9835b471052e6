//! A TCP proxy in front of `kegd` that keeps every byte that passes, in both directions.

use std::fs::{self, File};
use std::io::{BufRead, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The proxy; it listens until the process ends.
pub struct Recorder {
    pub url: String,
    pub dir: PathBuf,
}

impl Recorder {
    /// Listens on a free port, passes everything on to `port`, and writes each connection's directions to files in `dir`.
    pub fn start(dir: &Path, port: u16) -> Self {
        fs::create_dir_all(dir).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let (kept, count) = (dir.to_owned(), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let number = count.fetch_add(1, Ordering::Relaxed);
                pump(client.try_clone().unwrap(), server.try_clone().unwrap(), kept.join(format!("{number}-up")));
                pump(server, client, kept.join(format!("{number}-down")));
            }
        });
        Self { url, dir: dir.to_owned() }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, record: PathBuf) {
    std::thread::spawn(move || {
        let mut record = File::create(record).unwrap();
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            record.write_all(&buffer[..n]).unwrap();
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// Occurrences of any of `needles` in the files and file names below `dir`, as `path: needle`.
pub fn search(dir: &Path, needles: &[(String, Vec<u8>)]) -> Vec<String> {
    let mut hits = vec![];
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            let name = entry.file_name();
            let mut places = vec![name.as_encoded_bytes().to_vec()];
            if kind.is_dir() {
                todo.push(path.clone());
            } else if kind.is_file() {
                places.push(fs::read(&path).unwrap_or_default());
            }
            for (label, needle) in needles {
                if places.iter().any(|bytes| contains(bytes, needle)) {
                    hits.push(format!("{}: {label}", path.display()));
                }
            }
        }
    }
    hits
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    occurrences(bytes, needle, 1) > 0
}

/// How often `needle` is in `bytes`; counting ends at `most`. Skips with the standard library's compiled search, which
/// is fast in an unoptimised test too.
pub fn occurrences(bytes: &[u8], needle: &[u8], most: usize) -> usize {
    let Some(&first) = needle.first() else { return 0 };
    let (mut rest, mut found) = (bytes, 0);
    while found < most && rest.skip_until(first).is_ok_and(|skipped| skipped > 0) {
        // `rest` begins after the byte that was looked for, or is empty when there was none.
        let at = bytes.len() - rest.len() - 1;
        found += usize::from(bytes[at..].starts_with(needle));
    }
    found
}
