//! What the kernel says is mounted where, read from `/proc/self/mountinfo`.
//!
//! Must not touch the mounts themselves: a dead or slow file system must not be able to hold up the
//! question what it is.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The type under which `/proc/mounts` shows a KegFS mount.
pub const FS_TYPE: &str = "fuse.kegfs";

/// One line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLine {
    /// `major:minor` of the device, as in `/sys/class/bdi`.
    pub device: String,
    /// Where it is mounted, absolute.
    pub dir: PathBuf,
    /// For example `ext4` or `fuse.kegfs`.
    pub fs_type: String,
    /// The source name.
    pub source: String,
}

impl MountLine {
    /// Whether this is a mount of ours.
    pub fn is_kegfs(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// All mounts of this process's namespace, in mount order: of several on one directory the last is
/// the visible one.
///
/// # Errors
/// When `/proc` is not there.
pub fn all() -> io::Result<Vec<MountLine>> {
    Ok(std::fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// The visible mount on exactly `dir` (absolute, symlinks resolved), if any.
///
/// # Errors
/// As [`all`].
pub fn at(dir: &Path) -> io::Result<Option<MountLine>> {
    Ok(all()?.into_iter().rfind(|line| line.dir == dir))
}

/// The absolute form of `dir` with the symlinks of its parents resolved, without touching what is
/// mounted on `dir` itself: resolving that could block on a file system that does not answer.
///
/// # Errors
/// When a parent does not exist or may not be read.
pub fn resolve(dir: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(dir)?;
    let trailing_dots = absolute.components().next_back().is_some_and(|last| last.as_os_str() == "..");
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if !trailing_dots => {
            let parent = parent.canonicalize()?;
            let whole = parent.join(name);
            if at(&whole)?.is_some() {
                return Ok(whole);
            }
            // Not a mountpoint, so reading it reaches an ordinary file system: follow a symlink.
            match whole.canonicalize() {
                Ok(resolved) => Ok(resolved),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(whole),
                Err(error) => Err(error),
            }
        }
        _ => absolute.canonicalize(),
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: the optional fields before the
/// lone dash vary in number.
fn parse(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = text(fields.nth(2)?);
    let dir = unescape(fields.nth(1)?);
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = text(fields.next()?);
    Some(MountLine { device, dir: PathBuf::from(OsString::from_vec(dir)), fs_type, source })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// The kernel writes space, tab, newline and backslash as three octal digits after a backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        if first == b'\\'
            && let Some(digits) = after.get(..3)
            && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
        {
            let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(value.to_le_bytes()[0]);
            rest = &after[3..];
        } else {
            out.push(first);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_and_escapes_are_understood() {
        let line = parse(br"36 35 0:52 / /home/a\040b/keg\134s rw,nosuid master:1 propagate_from:2 - fuse.kegfs acme\040x rw,user_id=0").unwrap();
        assert_eq!(line.device, "0:52");
        assert_eq!(line.dir, Path::new(r"/home/a b/keg\s"));
        assert_eq!(line.fs_type, FS_TYPE);
        assert_eq!(line.source, "acme x");
        assert!(line.is_kegfs());
    }

    #[test]
    fn a_line_without_optional_fields_is_understood() {
        let line = parse(b"22 1 8:1 / / rw - ext4 /dev/sda1 rw").unwrap();
        assert_eq!((line.dir.as_path(), line.fs_type.as_str()), (Path::new("/"), "ext4"));
    }

    #[test]
    fn cut_off_lines_are_skipped() {
        for line in [&b""[..], b"22 1 8:1", b"22 1 8:1 / / rw ext4", b"22 1 8:1 / / rw -"] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn proc_is_found_and_an_ordinary_directory_is_not() {
        assert_eq!(at(Path::new("/proc")).unwrap().unwrap().fs_type, "proc");
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(at(dir.path()).unwrap(), None);
    }

    #[test]
    fn paths_are_resolved_even_when_the_last_part_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        std::fs::create_dir(real.join("d")).unwrap();
        assert_eq!(resolve(&real.join("link/d")).unwrap(), real.join("d"));
        assert_eq!(resolve(&real.join("link")).unwrap(), real);
        assert_eq!(resolve(&real.join("link/new")).unwrap(), real.join("new"));
        assert_eq!(resolve(&real.join("d/..")).unwrap(), real);
        assert!(resolve(&real.join("none/new")).is_err());
    }
}
