//! How editors save, system call by system call, while another member reads the document all the time: each time whole,
//! the old version or a new one, never empty, never half, never gone unless it is gone for the one who saves as well.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{run, sized, soon};
use crate::common::{Team, wait_for};

/// A way to save version `text` of `dir/name`.
type Save = fn(dir: &Path, name: &str, text: &[u8]) -> io::Result<()>;

/// Version `n` of the document: long enough to be read in several pieces, and every line says which it is.
fn document(n: usize) -> Vec<u8> {
    let lines = 2_000 + n * 10;
    let mut text = format!("version {n:06} of {lines:06} lines\n").into_bytes();
    (0..lines)
        .for_each(|line| text.extend_from_slice(format!("{n:06} line {line:06} {}\n", "x".repeat(60)).as_bytes()));
    text
}

/// Which version this is, if it is one, whole.
fn version_of(text: &[u8]) -> Option<usize> {
    let n = std::str::from_utf8(text.get(8..14)?).ok()?.parse().ok()?;
    (text == document(n)).then_some(n)
}

fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    // As buffered output arrives.
    text.chunks(8192).try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

/// gedit and everything that saves with `g_file_replace`: a temporary file beside it, fsync, rename over it.
fn gnome(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let temporary = dir.join(".goutputstream-A1B2C3");
    create(&temporary, text)?;
    let mode = fs::metadata(dir.join(name)).map_or(0o644, |meta| meta.permissions().mode());
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
    fs::rename(&temporary, dir.join(name))
}

/// The same with a backup, which is made as a hard link.
fn gnome_backup(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let backup = dir.join(format!("{name}~"));
    let _ = fs::remove_file(&backup);
    fs::hard_link(dir.join(name), &backup)?;
    gnome(dir, name, text)
}

/// LibreOffice: a lock file for as long as the document is open, a temporary file, rename over it.
fn libreoffice(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let lock = dir.join(format!(".~lock.{name}#"));
    create(&lock, b",alice,laptop,27.11.2026 10:00,file:///home/alice/.config/libreoffice/4;")?;
    let temporary = dir.join("lu7283hx9k.tmp");
    create(&temporary, text)?;
    fs::rename(&temporary, dir.join(name))?;
    fs::remove_file(&lock)
}

/// vim with `backupcopy=no`: a test file, the old one becomes the backup, a new one is written, the backup goes.
fn vim_rename(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let swap = dir.join(format!(".{name}.swp"));
    create(&swap, b"b0VIM 9.0")?;
    create(&dir.join("4913"), b"")?;
    fs::remove_file(dir.join("4913"))?;
    let backup = dir.join(format!("{name}~"));
    fs::rename(dir.join(name), &backup)?;
    create(&dir.join(name), text)?;
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644))?;
    fs::remove_file(&backup)?;
    fs::remove_file(&swap)
}

/// vim with `backupcopy=yes`: a copy becomes the backup, and the file itself is cut and written anew.
fn vim_copy(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let backup = dir.join(format!("{name}~"));
    create(&backup, &fs::read(dir.join(name))?)?;
    let mut file = OpenOptions::new().write(true).truncate(true).open(dir.join(name))?;
    text.chunks(8192).try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    drop(file);
    fs::remove_file(&backup)
}

/// Emacs: a symbolic link as the lock, the old file is renamed to the backup, a new one is written.
fn emacs(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let lock = dir.join(format!(".#{name}"));
    symlink("alice@laptop.4242:1700000000", &lock)?;
    fs::rename(dir.join(name), dir.join(format!("{name}~")))?;
    create(&dir.join(name), text)?;
    fs::remove_file(&lock)
}

/// What writes without any care: open with O_TRUNC, write, close.
fn careless(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(dir.join(name))?;
    text.chunks(8192).try_for_each(|part| file.write_all(part))
}

/// Real vim, of the small kind, which writes in place.
fn vim(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let source = dir.parent().unwrap().with_extension("vim-source");
    fs::write(&source, text)?;
    let replace = format!("%!cat {}", source.display());
    let set = "set writebackup backupcopy=auto noswapfile fsync";
    run(Command::new("vim.tiny")
        .args(["-es", "-u", "NONE", "-c", set, "-c", &replace, "-c", "wq"])
        .arg(dir.join(name)));
    Ok(())
}

/// What the one who saves does with the document, and so what the reader may see of it.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Another file takes its name.
    Replaced,
    /// It is gone for a moment.
    Gone,
    /// It stays the same file. Who is reading while a new version arrives gets a part of each, as on any file system;
    /// who then reads again does not.
    InPlace,
}

/// Saves many versions at one member's while the other reads.
fn observed(who: &str, save: Save, way: Way) {
    let versions = sized(25, 400);
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let name = "report.odt";
    let (dir, theirs) = (alice.join("documents"), bob.join("documents"));
    fs::create_dir(&dir).unwrap();
    create(&dir.join(name), &document(0)).unwrap();
    wait_for("the first version", soon(), || {
        fs::read(theirs.join(name)).is_ok_and(|text| version_of(&text) == Some(0))
    });
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut seen, mut gone, mut torn) = (vec![0], 0, 0);
            while !done.load(Ordering::Acquire) {
                match fs::read(theirs.join(name)) {
                    Ok(text) => {
                        let length = text.len();
                        let again = || {
                            torn += 1;
                            let end = Instant::now() + Duration::from_millis(500);
                            let mut texts = std::iter::repeat_with(|| fs::read(theirs.join(name)).unwrap());
                            let late = || Instant::now() > end;
                            let found = texts.find_map(|text| version_of(&text).or(late().then_some(0)));
                            found.filter(|version| *version > 0 && length > 0 && way == Way::InPlace)
                        };
                        let version = version_of(&text)
                            .or_else(again)
                            .unwrap_or_else(|| panic!("{who}: {length} bytes that are no version, after {seen:?}"));
                        let last = seen.last().copied().unwrap_or(0);
                        assert!(version >= last, "{who}: version {version} after {last}");
                        if version > last {
                            seen.push(version);
                        }
                    }
                    Err(error) if way == Way::Gone && error.kind() == io::ErrorKind::NotFound => gone += 1,
                    Err(error) => panic!("{who}: {error}, after {seen:?}"),
                }
            }
            println!(
                "{who}: {} of {versions} versions seen; gone {gone} times, {torn} read while one arrived",
                seen.len() - 1
            );
            seen
        });
        let pause = Duration::from_millis(20);
        for n in 1..=versions {
            save(&dir, name, &document(n)).unwrap();
            // Sometimes at once, sometimes after a while.
            std::thread::sleep(pause * (n as u32 % 3));
            if reader.is_finished() {
                break;
            }
        }
        let end = Instant::now() + soon();
        while Instant::now() < end && !reader.is_finished() {
            if fs::read(theirs.join(name)).is_ok_and(|text| version_of(&text) == Some(versions)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        done.store(true, Ordering::Release);
        reader.join().unwrap()
    });
    assert!(seen.len() > 3, "{who}: the reader saw only {seen:?}");
    team.alice.sync();
    wait_for("the last version", soon(), || {
        fs::read(theirs.join(name)).is_ok_and(|text| version_of(&text) == Some(versions))
    });
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    wait_for("no lock and no temporary file to be left", soon(), || names(&theirs) == names(&dir));
    let left = names(&dir);
    assert!(left.iter().all(|left| left.to_string_lossy().trim_end_matches('~') == name), "{who}: {left:?}");
}

#[test]
fn gnome_programs_save() {
    observed("g_file_replace", gnome, Way::Replaced);
    observed("g_file_replace with a backup", gnome_backup, Way::Replaced);
}

#[test]
fn libreoffice_saves() {
    observed("LibreOffice", libreoffice, Way::Replaced);
}

#[test]
fn vim_saves() {
    observed("vim, backupcopy=no", vim_rename, Way::Gone);
    observed("vim, backupcopy=yes", vim_copy, Way::InPlace);
    observed("vim itself", vim, Way::InPlace);
}

#[test]
fn emacs_saves() {
    observed("Emacs", emacs, Way::Gone);
}

#[test]
fn programs_without_care_save() {
    observed("truncate and write", careless, Way::InPlace);
}
