//! `kegfs history`, `restore`, `trash` and `conflicts`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::super::args::{ConflictsCommand, HistoryArgs, RestoreArgs, TrashArgs};
use super::super::backend::Backend;
use super::super::control::{
    Bytes, ConflictLine, HistoryLine, Listed, PastRequest, PastResponse, Place, Request, Response, Restored, TrashLine,
};
use super::super::failure::Failure;
use super::super::output::{self, Output, bytes, clock_time, harmless, table};
use super::unexpected;

/// `kegfs history`
pub fn history(args: HistoryArgs, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let request = PastRequest::History { place: place(&args.path)?, limit: args.limit };
    match ask(backend, request)? {
        PastResponse::History(lines) => output.show(&lines, &history_text(&lines)),
        other => Err(unexpected(&Response::Past(other))),
    }
}

/// `kegfs restore`
pub fn restore(args: RestoreArgs, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let RestoreArgs { path, at, dry_run, remove_later } = args;
    let request = PastRequest::Restore { place: place(&path)?, at, dry_run, remove_later };
    match ask(backend, request)? {
        PastResponse::Restored(restored) => output.show(&restored, &restored_text(&restored)),
        other => Err(unexpected(&Response::Past(other))),
    }
}

/// `kegfs trash`
pub fn trash(args: TrashArgs, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let TrashArgs { folder, restore, new_name, limit } = args;
    let bytes = |name: OsString| Bytes::from(name.into_vec());
    let request = match restore {
        Some(name) => PastRequest::TrashRestore { folder, name: bytes(name), new_name: new_name.map(bytes) },
        None => PastRequest::Trash { folder, limit },
    };
    match ask(backend, request)? {
        PastResponse::Trash(lines) => output.show(&lines, &trash_text(&lines)),
        PastResponse::Restored(restored) => output.show(&restored, &restored_text(&restored)),
        other => Err(unexpected(&Response::Past(other))),
    }
}

/// `kegfs conflicts …`
pub fn conflicts(command: ConflictsCommand, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let (request, done) = match command {
        ConflictsCommand::List { folder } => (PastRequest::Conflicts { folder }, ""),
        ConflictsCommand::Keep { path } => (PastRequest::ConflictKeep { place: place(&path)? }, "kept"),
        ConflictsCommand::Discard { path } => (PastRequest::ConflictDiscard { place: place(&path)? }, "discarded"),
    };
    match ask(backend, request)? {
        PastResponse::Conflicts(list) => {
            let more = if list.more { "there are more, which are listed when these are ended\n" } else { "" };
            output.show(&list, &(output::conflicts(&list.lines) + more))
        }
        PastResponse::ConflictEnded(line) => output.show(&line, &ended_text(&line, done)),
        other => Err(unexpected(&Response::Past(other))),
    }
}

fn ask(backend: &mut Backend<'_>, request: PastRequest) -> Result<PastResponse, Failure> {
    match backend.ask(Request::Past(request), &mut |_| {})? {
        Response::Past(response) => Ok(response),
        other => Err(unexpected(&other)),
    }
}

fn place(path: &OsStr) -> Result<Place, Failure> {
    let shown = Path::new(path);
    let absolute = std::path::absolute(shown).map_err(|error| Failure::io("locating the file", shown, &error))?;
    let bytes = |path: &OsStr| Bytes::from(path.as_bytes().to_vec());
    Ok(Place { typed: bytes(path), absolute: bytes(absolute.as_os_str()) })
}

fn history_text(list: &Listed<HistoryLine>) -> String {
    let rows = list.lines.iter().map(|line| {
        [
            line.version.clone(),
            clock_time(line.at_ms),
            harmless(&line.author),
            line.size.map_or_else(String::new, bytes),
            harmless(&line.path.shown()),
            harmless(&line.what.join(", ")),
        ]
    });
    let more =
        if list.more { "older versions are not shown; --limit N shows more, up to some thousands\n" } else { "" };
    table(["VERSION", "TIME", "BY", "SIZE", "PATH", "WHAT"], rows) + more
}

fn restored_text(restored: &Restored) -> String {
    let mut text = String::new();
    for step in &restored.steps {
        let size = if step.size > 0 { format!(", {}", bytes(step.size)) } else { String::new() };
        let _ = writeln!(text, "{}: {}{size}", step.step, harmless(&step.path.shown()));
    }
    let when = restored.at_ms.map_or_else(String::new, |at| format!(" of {}", clock_time(at)));
    let count = restored.changes;
    let more = count.saturating_sub(restored.steps.len() as u64);
    if more > 0 {
        let _ = writeln!(text, "… and {more} more");
    }
    let _ = match (restored.dry_run, count) {
        (_, 0) => writeln!(text, "nothing to do: it is as it was in {}{when}", restored.version),
        (true, _) => writeln!(text, "{count} changes would lead back to {}{when}; nothing was done", restored.version),
        (false, _) => writeln!(
            text,
            "{count} changes led back to {}{when}; to undo this, restore the same with --at {} --remove-later",
            restored.version, restored.undo
        ),
    };
    if restored.beside > 0 {
        let _ = writeln!(
            text,
            "{} of them stand beside what others have made meanwhile; see: kegfs conflicts list",
            restored.beside
        );
    }
    if restored.kept_later > 0 {
        let _ = writeln!(text, "{} names that came later stay; --remove-later removes them", restored.kept_later);
    }
    text
}

fn trash_text(list: &Listed<TrashLine>) -> String {
    if list.lines.is_empty() && !list.more {
        return "nothing was removed, as far as it is known here\n".to_owned();
    }
    let rows = list.lines.iter().map(|line| {
        [
            clock_time(line.removed_ms),
            harmless(&line.author),
            if line.directory { "directory".to_owned() } else { bytes(line.size) },
            harmless(&line.path.shown()),
        ]
    });
    let more = if list.more { "earlier ones are not shown; --limit N shows more, up to some thousands\n" } else { "" };
    let lines = table(["REMOVED", "BY", "SIZE", "PATH"], rows);
    format!("{lines}{more}bring one back: kegfs trash FOLDER --restore PATH\n")
}

fn ended_text(line: &ConflictLine, done: &str) -> String {
    let (path, original) = (harmless(&line.path.shown()), harmless(&line.original.shown()));
    match done {
        "kept" => format!("{path} is {original} now; the other version is in the trash and in its history\n"),
        _ => format!("removed {path}; it is in the trash\n"),
    }
}
