//! Where a passphrase comes from: a file, a file descriptor, or a prompt.
//!
//! Must not take it from arguments or the environment, which other processes can read, and must not
//! print it anywhere.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::args::Global;
use super::failure::{Code, Failure};

/// A passphrase in memory that is wiped when dropped.
pub type Passphrase = Zeroizing<Vec<u8>>;

/// No passphrase is longer: whoever sends more has named the wrong file.
const MOST_BYTES: u64 = 4096;

/// Asks for the passphrase of an existing account.
///
/// # Errors
/// When there is nowhere to ask, or the file is readable by others.
pub fn existing(global: &Global, account: &str) -> Result<Passphrase, Failure> {
    match source(global) {
        Some(given) => given.read(),
        None => prompt(&format!("Passphrase of {account}: ")),
    }
}

/// Asks for the passphrase of a new account: twice, when it is typed.
///
/// # Errors
/// As [`existing`]; also when it is empty or the two differ.
pub fn new(global: &Global) -> Result<Passphrase, Failure> {
    let chosen = match source(global) {
        Some(given) => given.read()?,
        None => {
            let first = prompt("New passphrase: ")?;
            let second = prompt("The same again: ")?;
            if first != second {
                return Err(Failure::new(Code::Usage, "the two passphrases differ; nothing was created, try again"));
            }
            first
        }
    };
    if chosen.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            "the passphrase is empty; it protects your keys on this device, so choose one",
        ));
    }
    Ok(chosen)
}

/// Another secret than the passphrase, from a file, a descriptor, or a prompt that does not show it.
///
/// # Errors
/// As [`existing`].
pub fn secret(file: Option<PathBuf>, descriptor: Option<RawFd>, text: &str) -> Result<Passphrase, Failure> {
    match file.map(Source::File).or_else(|| descriptor.map(Source::Descriptor)) {
        Some(given) => given.read(),
        None => prompt(text),
    }
}

/// A line that somebody types or a program writes, shown as it is typed.
///
/// # Errors
/// When standard input cannot be read, or ends before.
pub fn ask_line(text: &str) -> Result<Zeroizing<String>, Failure> {
    eprint!("{text}");
    let _ = io::stderr().flush();
    let mut line = Zeroizing::new(String::with_capacity(1 << 15));
    match io::stdin().lock().take(1 << 15).read_line(&mut line) {
        Ok(0) => {
            Err(Failure::new(Code::Usage, "an answer is needed and there is nobody to ask: standard input is closed"))
        }
        Ok(_) => Ok(line),
        Err(error) => Err(Failure::new(Code::Usage, format!("standard input cannot be read: {error}"))),
    }
}

enum Source {
    File(PathBuf),
    Descriptor(RawFd),
}

fn source(global: &Global) -> Option<Source> {
    let file = global.passphrase_file.clone().map(Source::File);
    file.or_else(|| global.passphrase_fd.map(Source::Descriptor))
}

impl Source {
    fn read(self) -> Result<Passphrase, Failure> {
        match self {
            Self::File(path) => {
                let failed = |error: io::Error| Failure::io("reading the passphrase file", &path, &error);
                let file = File::open(&path).map_err(failed)?;
                check_private(&path, &file)?;
                first_line(file).map_err(failed)
            }
            Self::Descriptor(number) => {
                // Opened through /proc: the descriptor itself stays untouched, and no raw handle is
                // turned into an owned one.
                let path = PathBuf::from(format!("/proc/self/fd/{number}"));
                File::open(&path).and_then(first_line).map_err(|error| {
                    Failure::new(
                        Code::Usage,
                        format!("--passphrase-fd {number} cannot be read: {error}; pass an open descriptor, for example: kegfs … --passphrase-fd 3 3<FILE"),
                    )
                })
            }
        }
    }
}

/// Refuses a file that others can read or that somebody else owns.
fn check_private(path: &Path, file: &File) -> Result<(), Failure> {
    let metadata = file.metadata().map_err(|error| Failure::io("reading the passphrase file", path, &error))?;
    if !metadata.is_file() {
        // A pipe, as in <(pass show kegfs): nobody else can open it.
        return Ok(());
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Failure::new(
            Code::Usage,
            format!("the passphrase file {0} can be read by others; run: chmod 600 {0}", path.display()),
        ));
    }
    let user = nix::unistd::geteuid();
    if metadata.uid() != user.as_raw() && !user.is_root() {
        return Err(Failure::new(
            Code::Usage,
            format!("the passphrase file {} belongs to another user; use a file of your own", path.display()),
        ));
    }
    Ok(())
}

/// The bytes before the first line end.
fn first_line(input: impl Read) -> io::Result<Passphrase> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST_BYTES as usize + 1));
    input.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    if end as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its first line is longer than 4096 bytes"));
    }
    bytes.truncate(end);
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    Ok(bytes)
}

fn prompt(text: &str) -> Result<Passphrase, Failure> {
    match rpassword::prompt_password(text) {
        Ok(typed) => Ok(Zeroizing::new(typed.into_bytes())),
        Err(error) => Err(Failure::new(
            Code::Usage,
            format!(
                "a passphrase is needed and there is no terminal to ask on ({error}); use --passphrase-file or --passphrase-fd"
            ),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    fn read(content: &[u8], mode: u32) -> Result<Passphrase, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Source::File(path).read()
    }

    #[test]
    fn the_first_line_counts_without_its_end() {
        for content in [&b"correct horse"[..], b"correct horse\n", b"correct horse\r\nmore\n"] {
            assert_eq!(**read(content, 0o600).unwrap(), *b"correct horse");
        }
        assert_eq!(**read(b" \xff spaces count ", 0o400).unwrap(), *b" \xff spaces count ");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_to_run() {
        for mode in [0o640, 0o604, 0o660] {
            let failure = read(b"x", mode).unwrap_err();
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.message.contains("chmod 600"), "{failure}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        assert!(read(&vec![b'x'; 5000], 0o600).is_err());
        assert_eq!(read(&vec![b'x'; 4096], 0o600).unwrap().len(), 4096);
    }

    #[test]
    fn a_descriptor_is_read_and_a_closed_one_is_refused() {
        use std::os::fd::AsRawFd;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        fs::write(&path, b"secret\n").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(**Source::Descriptor(file.as_raw_fd()).read().unwrap(), *b"secret");
        assert_eq!(Source::Descriptor(99_999).read().unwrap_err().code, Code::Usage);
    }
}
