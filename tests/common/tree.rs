//! Real trees: where they come from, and what they are reduced to for comparison.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is compared of one path: kind, permission bits, and the digest of the content or target.
pub type Facts = (char, u32, String);

/// Every path below `root` with its facts.
pub fn digest(root: &Path) -> BTreeMap<Vec<u8>, Facts> {
    digest_by(root, digest_file)
}

/// The same; `of_file` digests each file.
pub fn digest_by(root: &Path, of_file: impl Fn(&Path) -> String) -> BTreeMap<Vec<u8>, Facts> {
    let mut facts = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mode = meta.permissions().mode() & 0o7777;
            let fact = if meta.is_symlink() {
                ('l', 0, hex::encode(fs::read_link(&path).unwrap().as_os_str().as_bytes()))
            } else if meta.is_dir() {
                todo.push(path.clone());
                ('d', mode, String::new())
            } else {
                ('f', mode, of_file(&path))
            };
            facts.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), fact);
        }
    }
    facts
}

/// BLAKE3 of a file's content, read in 1 MiB pieces.
pub fn digest_file(path: &Path) -> String {
    let mut file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            0 => return hasher.finalize().to_hex().to_string(),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// Directories of unpacked crates with together at least `files` files: what any build of this project has on disk.
pub fn registry_sources(files: usize) -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"));
    let registries = fs::read_dir(home.join("registry/src")).expect("the cargo registry's unpacked sources");
    let mut crates: Vec<_> = registries
        .flatten()
        .flat_map(|registry| fs::read_dir(registry.path()).unwrap().flatten())
        .map(|entry| entry.path())
        .collect();
    crates.sort();
    let mut chosen = vec![];
    let mut count = 0;
    for path in crates {
        if count >= files {
            return chosen;
        }
        let here = count_files(&path);
        // Giants would make the tree of two crates.
        if here < 1500 {
            count += here;
            chosen.push(path);
        }
    }
    panic!("the cargo registry has only {count} unpacked files, {files} are needed");
}

fn count_files(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|entry| if entry.file_type().unwrap().is_dir() { count_files(&entry.path()) } else { 1 })
        .sum()
}

/// Fills `path` with `bytes` bytes that no compressor and no deduplication shortens, the same for the same `seed`.
pub fn write_random(path: &Path, bytes: u64, seed: u64) {
    use std::io::Write;
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut file = fs::File::create(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(buffer.len() as u64) as usize;
        reader.fill(&mut buffer[..n]);
        file.write_all(&buffer[..n]).unwrap();
        left -= n as u64;
    }
    file.sync_all().unwrap();
}
