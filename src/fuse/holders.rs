//! Who keeps a mount busy: a scan of `/proc` for working directories, roots and open files.
//!
//! Must not open anything below the mount. What belongs to other users stays invisible to an
//! ordinary user, so an empty answer does not mean that nobody holds it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use crate::sys::{clock, threads};

/// One process that uses a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name as the kernel shows it (15 bytes at most).
    pub name: String,
    /// What it uses.
    pub how: Use,
}

/// How a process uses a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It works in a directory there.
    WorkingDirectory,
    /// Its root directory is there.
    Root,
    /// It runs a program from there.
    Program,
    /// It holds a file or directory open.
    OpenFile,
    /// It has a file mapped into memory.
    Mapping,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.how {
            Use::WorkingDirectory => "working directory",
            Use::Root => "root directory",
            Use::Program => "running program",
            Use::OpenFile => "open file",
            Use::Mapping => "mapped file",
        };
        write!(f, "{} (process {}, {how})", self.name, self.pid)
    }
}

/// The most holders that are listed: a message, not an inventory.
const MOST: usize = 8;

/// How long the search may take: what a process has mapped cannot be read while it waits for a file system.
const PATIENCE: Duration = Duration::from_secs(3);

/// The processes that use the mount on `dir` (absolute), one line each, at most eight; those found in time.
pub fn of(dir: &Path) -> Vec<Holder> {
    let (found, holders) = mpsc::channel();
    let dir = dir.to_owned();
    // The thread ends by itself, at the latest with the process that it waits for.
    if threads::spawn("kegfs-holders", move || search(&dir, &found)).is_err() {
        return Vec::new();
    }
    let until = clock::monotonic() + PATIENCE;
    let left = || until.saturating_duration_since(clock::monotonic());
    std::iter::from_fn(|| holders.recv_timeout(left()).ok()).collect()
}

fn search(dir: &Path, found: &mpsc::Sender<Holder>) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let processes =
        processes.flatten().filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    let processes: Vec<(u32, PathBuf)> = processes.collect();
    // Mappings last: reading them may wait.
    let quick = processes.iter().filter_map(|(pid, process)| Some((*pid, process, use_of(process, dir)?)));
    let mapped = processes.iter().filter(|(_, process)| use_of(process, dir).is_none() && has_mapped(process, dir));
    let all = quick.chain(mapped.map(|(pid, process)| (*pid, process, Use::Mapping)));
    for (pid, process, how) in all.take(MOST) {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        if found.send(Holder { pid, name: name.trim().to_owned(), how }).is_err() {
            return;
        }
    }
}

fn use_of(process: &Path, dir: &Path) -> Option<Use> {
    let inside = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(dir));
    if inside(&process.join("cwd")) {
        return Some(Use::WorkingDirectory);
    }
    if inside(&process.join("root")) {
        return Some(Use::Root);
    }
    if inside(&process.join("exe")) {
        return Some(Use::Program);
    }
    let open = fs::read_dir(process.join("fd")).is_ok_and(|fds| fds.flatten().any(|fd| inside(&fd.path())));
    open.then_some(Use::OpenFile)
}

fn has_mapped(process: &Path, dir: &Path) -> bool {
    let Ok(maps) = fs::read(process.join("maps")) else { return false };
    let dir = dir.as_os_str().as_encoded_bytes();
    // The path is the sixth field and the only one that can hold a slash at its start.
    maps.split(|byte| *byte == b'\n').any(|line| {
        line.iter()
            .position(|byte| *byte == b'/')
            .is_some_and(|start| line[start..].starts_with(dir) && line.get(start + dir.len()) == Some(&b'/'))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_of_this_process_is_found_and_gone_after_closing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let file = fs::File::create(path.join("held")).unwrap();
        let found = of(&path);
        assert!(
            found.iter().any(|holder| holder.pid == std::process::id() && holder.how == Use::OpenFile),
            "{found:?}"
        );
        drop(file);
        assert!(of(&path).iter().all(|holder| holder.pid != std::process::id()));
    }

    #[test]
    fn a_directory_with_the_same_prefix_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        fs::create_dir(path.join("keg")).unwrap();
        fs::create_dir(path.join("keg2")).unwrap();
        let _file = fs::File::create(path.join("keg2/held")).unwrap();
        assert!(of(&path.join("keg")).iter().all(|holder| holder.pid != std::process::id()));
    }
}
