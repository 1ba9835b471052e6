//! What commands print: short text for people, or JSON for programs.
//!
//! Must not decide what happened; it shows it. Text goes to standard output, progress and advice to
//! standard error, so that output can be piped.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::control::{
    ConflictLine, FolderInfo, FolderStatus, HistoryWanted, KeptInfo, MemberInfo, Pending, RecoveredFile, Status,
};
use super::failure::{Code, Failure};

/// Where and how to print.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON, or text for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints `value` as JSON, or `text`.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn show(&self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let written = if self.json {
            serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from).and_then(|()| writeln!(out))
        } else {
            out.write_all(text.as_bytes())
        };
        match written.and_then(|()| out.flush()) {
            // `kegfs status | head -1`: the reader has seen enough.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::new(Code::Failure, format!("standard output cannot be written to: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Prints one of many values: a line of JSON, or `text`.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn show_line(&self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        let line = if self.json { serde_json::to_string(value).unwrap_or_default() + "\n" } else { text.to_owned() };
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| Failure::new(Code::Failure, format!("standard output cannot be written to: {error}")))
    }

    /// Printing for programs.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A remark for people, on standard error.
    pub fn remark(&self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
    }

    /// A failure, on standard error.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            let line = serde_json::json!({ "error": failure, "exit_code": failure.code.exit_status() });
            eprintln!("{line}");
        } else {
            eprintln!("kegfs: {failure}");
        }
    }

    /// A line that shows what is still to be done, rewritten in place on a terminal.
    pub fn progress(&self) -> Progress {
        Progress { shown: !self.json && io::stderr().is_terminal(), written: false }
    }
}

/// See [`Output::progress`]; the line is removed when this is dropped.
pub struct Progress {
    shown: bool,
    written: bool,
}

impl Progress {
    /// Shows `pending`.
    pub fn show(&mut self, pending: Pending) {
        if self.shown {
            self.written = true;
            let _ = write!(io::stderr(), "\r\x1b[Kwaiting for the server: {}", left(pending));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.written {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// `3 changes, 12.0 MiB`.
pub fn left(pending: Pending) -> String {
    let changes = match pending.changes {
        1 => "1 change".to_owned(),
        many => format!("{many} changes"),
    };
    if pending.bytes == 0 { changes } else { format!("{changes}, {}", bytes(pending.bytes)) }
}

/// `12.0 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // For people: the rounding of f64 does not show in one decimal.
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A name from a server or member on its way to a terminal: control characters could rewrite it.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The folders as a table.
pub fn folders(folders: &[FolderInfo]) -> String {
    if folders.is_empty() {
        return "no folders yet; create one: kegfs folder create NAME\n".to_owned();
    }
    let rows = folders
        .iter()
        .map(|folder| [harmless(&folder.name), folder.role.clone(), folder.members.to_string(), folder.id.clone()]);
    table(["NAME", "ROLE", "MEMBERS", "ID"], rows)
}

/// The members as a table.
pub fn members(members: &[MemberInfo]) -> String {
    let rows = members.iter().map(|member| {
        let me = if member.me { " (you)" } else { "" };
        [format!("{}{me}", harmless(&member.name)), role(member), history(member), member.account.clone()]
    });
    table(["NAME", "ROLE", "HISTORY", "ACCOUNT"], rows)
}

/// How much of the past a member reads.
fn history(member: &MemberInfo) -> String {
    match member.history {
        HistoryWanted::Full => "all".to_owned(),
        HistoryWanted::None => "none".to_owned(),
        HistoryWanted::SinceMs(ms) => format!("since {}", clock_time(ms)),
    }
}

/// A member's role, a guest's with the time that is left.
pub fn role(member: &MemberInfo) -> String {
    match member.expires_ms {
        Some(end) => format!("{}, {}", member.role, time_left(end)),
        None => member.role.clone(),
    }
}

/// `6 days left (until 2026-12-24 23:59:59)`.
fn time_left(end_ms: i64) -> String {
    let seconds = (end_ms - crate::sys::clock::unix_nanos() / 1_000_000) / 1000;
    let (count, unit) = match seconds {
        ..0 => return format!("expired {}", clock_time(end_ms)),
        0..120 => (seconds, "seconds"),
        120..7_200 => (seconds / 60, "minutes"),
        7_200..172_800 => (seconds / 3_600, "hours"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{count} {unit} left (until {})", clock_time(end_ms))
}

/// Conflicts as a table.
pub fn conflicts(lines: &[ConflictLine]) -> String {
    if lines.is_empty() {
        return "no conflicts\n".to_owned();
    }
    let rows = lines.iter().map(|line| {
        [
            harmless(&line.folder),
            clock_time(line.at_ms),
            harmless(&line.author),
            if line.directory { "directory".to_owned() } else { bytes(line.size) },
            harmless(&line.path.shown()),
            harmless(&line.original.shown()),
        ]
    });
    let list = table(["FOLDER", "TIME", "BY", "SIZE", "PATH", "BESIDE"], rows);
    format!("{list}end one: kegfs conflicts keep FOLDER/PATH, or discard\n")
}

/// What is kept, as a table.
pub fn kept(kept: &[KeptInfo]) -> String {
    if kept.is_empty() {
        return "nothing is kept: every change has reached the server, or still can\n".to_owned();
    }
    let rows = kept.iter().map(|one| {
        [
            one.name.clone(),
            harmless(&one.folder),
            one.files.to_string(),
            one.changes.to_string(),
            clock_time(one.kept_ms),
        ]
    });
    format!("{}open one: kegfs recover NAME DIR\n", table(["NAME", "FOLDER", "FILES", "CHANGES", "KEPT SINCE"], rows))
}

/// What was recovered.
pub fn recovered(files: &[RecoveredFile], others: u64) -> String {
    let mut text = String::new();
    for file in files {
        let _ = write!(text, "{}", harmless(&file.path.display().to_string()));
        match file.missing_bytes {
            0 => text.push('\n'),
            missing => {
                let _ = writeln!(text, " ({} were never on this machine and read as zeros)", bytes(missing));
            }
        }
    }
    let _ = writeln!(text, "{} files; {others} other changes (names, attributes) had nothing to write", files.len());
    text
}

/// `kegfs status` for people.
pub fn status(status: &Status) -> String {
    let mut text = format!("server   {} ({})\n", status.server, if status.online { "online" } else { "offline" });
    for mount in &status.mounts {
        let what = mount.folder.as_deref().map_or_else(|| "all folders".to_owned(), harmless);
        let how = if mount.read_only { " (read-only)" } else { "" };
        let _ = writeln!(text, "mounted  {what} on {}{how}", mount.dir.display());
    }
    if status.mounts.is_empty() {
        text.push_str("mounted  nothing\n");
    }
    for folder in &status.folders {
        let _ = writeln!(text, "folder   {}: {}", harmless(&folder.folder.name), folder_state(folder));
        text.push_str(&warnings(folder));
        text.push_str(&super::locks::text(folder));
    }
    for one in &status.kept {
        let _ = writeln!(
            text,
            "KEPT     {} changes to {}, which could no longer be uploaded: {}; open them: kegfs recover {} DIR",
            one.changes,
            harmless(&one.folder),
            one.dir.display(),
            one.name
        );
    }
    text
}

/// Where one folder stands, a line for each thing, as `.keg/status` shows it. Lines in capitals are warnings.
pub fn folder_page(folder: &FolderStatus) -> String {
    let mut text =
        format!("folder   {} ({})\nrole     {}", harmless(&folder.folder.name), folder.folder.id, folder.folder.role);
    if let Some(end) = folder.expires_ms {
        let _ = write!(text, ", {}", time_left(end));
    }
    let _ = write!(text, "\nmembers  {}\nview     {}\n", folder.folder.members, freshness(folder));
    let _ = writeln!(text, "changes  {}", uploaded(folder));
    if let Some(error) = &folder.last_error {
        let _ = writeln!(text, "error    {}", harmless(error));
    }
    if let Some(reason) = &folder.frozen {
        let _ = writeln!(text, "FROZEN   {}", frozen(folder, reason));
    }
    if folder.rotation_due {
        let _ = writeln!(text, "KEY      {ROTATION_DUE}");
    }
    text.push_str(&warnings(folder));
    text.push_str(&super::locks::text(folder));
    text
}

/// Why it is frozen, and what to do.
fn frozen(folder: &FolderStatus, reason: &str) -> String {
    let name = harmless(&folder.folder.name);
    format!(
        "read-only: {}; both versions are kept (kegfs folder evidence {name}); compare with another member (kegfs verify --folder {name}), then go on: kegfs folder thaw {name}",
        harmless(reason)
    )
}

/// The warnings that nobody has marked as seen, and the members in doubt.
fn warnings(folder: &FolderStatus) -> String {
    let mut text = String::new();
    for (name, account, why) in &folder.undecided {
        let name = harmless(name);
        let _ = writeln!(
            text,
            "WARNING  {name} is in doubt: {}; the key changes for nobody until you decide: kegfs verify {account}",
            harmless(why)
        );
    }
    if let Some(why) = &folder.clock_behind {
        let _ = writeln!(text, "WARNING  {}", harmless(why));
    }
    for warning in &folder.warnings {
        let _ = write!(text, "WARNING  {}", super::activity::line(warning).replacen("WARNING  ", "", 1));
    }
    if !folder.warnings.is_empty() {
        let name = harmless(&folder.folder.name);
        let _ = writeln!(text, "         all of it: kegfs log {name}; seen: kegfs log {name} --seen");
    }
    text
}

/// Why a new epoch is due, and what will happen.
const ROTATION_DUE: &str = "a member or device is gone: the key changes as soon as an admin is online";

/// How new the view is. Never claims more than the server has said.
fn freshness(folder: &FolderStatus) -> String {
    match (folder.online, folder.stale_since_ms) {
        (true, _) => format!("up to date with the server, which said so at {}", clock_time(folder.complete_ms)),
        (false, Some(since)) => format!("not up to date: stale since {}", clock_time(since)),
        (false, None) => "not up to date".to_owned(),
    }
}

fn uploaded(folder: &FolderStatus) -> String {
    if folder.pending.is_empty() {
        "everything is on the server".to_owned()
    } else {
        format!("{} not yet on the server", left(folder.pending))
    }
}

fn folder_state(folder: &FolderStatus) -> String {
    let mut parts = vec![folder.folder.role.clone()];
    if let Some(end) = folder.expires_ms {
        parts.push(time_left(end));
    }
    if folder.rotation_due {
        parts.push(ROTATION_DUE.to_owned());
    }
    if let Some(reason) = &folder.frozen {
        parts.push(format!("FROZEN, {}", frozen(folder, reason)));
    }
    parts.push(freshness(folder));
    parts.push(uploaded(folder));
    if let Some(error) = &folder.last_error {
        parts.push(format!("last error: {}", harmless(error)));
    }
    parts.join(", ")
}

/// Local time, to the second.
pub fn clock_time(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms).map_or_else(
        |_| "an unknown time".to_owned(),
        |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// Columns that line up.
pub fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let last = column + 1 == N;
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let pad = if last { 0 } else { width - cell.chars().count() + 2 };
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', pad));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_name_cannot_rewrite_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn columns_line_up_with_names_of_several_bytes_a_letter() {
        let info = |name: &str| FolderInfo { id: "ab".into(), name: name.into(), role: "owner".into(), members: 2 };
        let text = folders(&[info("Bücher"), info("x")]);
        let positions: Vec<_> = text.lines().map(|line| line.chars().collect::<Vec<_>>()).map(|line| line[8]).collect();
        assert_eq!(positions, ['R', 'o', 'o'], "{text}");
    }
}
