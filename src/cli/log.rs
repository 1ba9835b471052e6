//! The background process's log: `daemon.log` in the profile, bounded in size.
//!
//! Must not tell names or contents (THREATS 41, 42): of an event only its place, its fixed message,
//! numbers, and fields known to be free of both are written. A panic is logged by its place alone,
//! because its message may quote anything.

use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::sys::clock;

/// The log and its one predecessor take at most twice this.
const MOST_BYTES: u64 = 1 << 20;

/// Text fields that say what failed and how, never to which file: the errors of the rooms below name
/// objects by id. Other text fields are left out.
const HARMLESS: &[&str] = &["error", "errno", "operation", "capability", "reason", "code"];

/// Logs to `path` from now on, panics included.
///
/// # Errors
/// When the file cannot be opened.
pub fn start(path: &Path, verbose: bool) -> io::Result<()> {
    let most = if verbose { Level::DEBUG } else { Level::INFO };
    let layer = LogLayer { log: Mutex::new(Rotating::open(path)?), most };
    // Not `init`: that would also collect what libraries log through `log`, which may name files.
    let subscriber = tracing_subscriber::registry().with(layer);
    // Fails only when a subscriber is set already, and then that one is as good.
    let _ = tracing::subscriber::set_global_default(subscriber);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location();
        tracing::error!(
            file = place.map_or("", |place| place.file()),
            line = place.map_or(0, std::panic::Location::line),
            "a panic"
        );
    }));
    Ok(())
}

struct LogLayer {
    log: Mutex<Rotating>,
    most: Level,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > self.most || !metadata.target().starts_with("kegfs") {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let now = jiff::Timestamp::from_nanosecond(i128::from(clock::unix_nanos()))
            .map_or_else(|_| String::new(), |now| now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
        let line = format!("{now} {:5} {}: {}{}\n", metadata.level(), metadata.target(), line.message, line.fields);
        // A full disk must not stop the mount.
        let _ = self.log.lock().write(line.as_bytes());
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = write!(self.fields, " {}={value}", field.name());
    }
}

impl Visit for Line {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, format_args!("{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // Of string fields the place of a panic is one more that is fixed at compile time.
        if field.name() == "file" || HARMLESS.contains(&field.name()) {
            self.field(field, format_args!("{value:?}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name if HARMLESS.contains(&name) => {
                let text = format!("{value:?}").replace(['\n', '\r'], " ");
                self.field(field, format_args!("{text}"));
            }
            _ => {}
        }
    }
}

/// A file that becomes its predecessor when it is full.
struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Rotating {
    fn open(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let len = line.len() as u64;
        if self.bytes > 0 && self.bytes + len > MOST_BYTES {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.file = append(&self.path)?;
            self.bytes = 0;
        }
        self.file.write_all(line)?;
        self.bytes += len;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn logged(emit: impl FnOnce()) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let layer = LogLayer { log: Mutex::new(Rotating::open(&path).unwrap()), most: Level::INFO };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), emit);
        fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn names_are_left_out_and_errors_and_numbers_are_kept() {
        let text = logged(|| {
            tracing::warn!(target: "kegfs::test", folder = "Project Zebra", name = ?"plan.txt", error = %"timed out", seq = 7, "late");
            tracing::debug!(target: "kegfs::test", "too fine");
            tracing::error!(target: "hyper", "not ours");
        });
        assert!(text.ends_with(" WARN  kegfs::test: late error=timed out seq=7\n"), "{text}");
        assert!(!text.contains("Zebra") && !text.contains("plan"));
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn the_log_stays_within_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let mut log = Rotating::open(&path).unwrap();
        for _ in 0..40 {
            log.write(&[b'x'; 100_000]).unwrap();
        }
        let total: u64 = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 2 * MOST_BYTES, "{total}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(fs::metadata(&path).unwrap().len() > 0);
    }
}
