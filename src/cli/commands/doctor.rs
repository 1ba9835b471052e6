//! `kegfs doctor`

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::super::args::DoctorArgs;
use super::super::backend::Backend;
use super::super::control::{DoctorRequest, DoctorResponse, FolderNames, NameFinding, Request, Response, ServerState};
use super::super::failure::{Code, Failure};
use super::super::output::{Output, bytes, harmless};
use super::super::profile::Profile;
use super::unexpected;
use crate::fuse;
use crate::sys::files;

/// Less than this on the profile's disk is told: one large file that is being written takes more.
const LITTLE_DISK_BYTES: u64 = 1 << 30;
/// A clock that is further off is told. Within it the conflict names and times that others see make sense.
const CLOCK_MS: i64 = 30_000;

/// What is right or wrong with the installation.
#[derive(Debug, Serialize)]
struct Check {
    /// What was looked at.
    check: &'static str,
    /// Nothing is wrong.
    ok: bool,
    /// What was found, and what to do.
    text: String,
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Found {
    checks: Vec<Check>,
    folders: Vec<FolderNames>,
}

/// `kegfs doctor`
pub fn doctor(args: DoctorArgs, profile: &Profile, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let mut found = Found { checks: Vec::new(), folders: Vec::new() };
    let wanted = match args.folder {
        Some(folder) => vec![folder],
        None => {
            found.checks = here(profile);
            if profile.config_path().exists() {
                found.checks.push(server(&ask_server(backend)?));
                folders(backend)?
            } else {
                Vec::new()
            }
        }
    };
    for folder in wanted {
        found.folders.push(names(backend, folder, args.limit)?);
    }
    output.show(&found, &text(&found))?;
    let wrong = found.checks.iter().filter(|check| !check.ok).count() as u64;
    let names: u64 = found.folders.iter().map(|folder| folder.total).sum();
    match (wrong, names) {
        (0, 0) => Ok(()),
        _ => Err(Failure::new(Code::Found, summary(wrong, names))),
    }
}

fn summary(wrong: u64, names: u64) -> String {
    let checks = (wrong > 0).then(|| format!("{wrong} of this installation's checks failed"));
    let names = (names > 0).then(|| match names {
        1 => "1 name does not work on every system".to_owned(),
        many => format!("{many} names do not work on every system"),
    });
    let parts: Vec<_> = checks.into_iter().chain(names).collect();
    format!("{}; see the list", parts.join(", and "))
}

/// What can be seen without unlocking anything.
fn here(profile: &Profile) -> Vec<Check> {
    let check = |check, problem: Option<String>, fine: &str| Check {
        check,
        ok: problem.is_none(),
        text: problem.unwrap_or_else(|| fine.to_owned()),
    };
    let device = fuse::open_device(Path::new("/")).err().map(|error| error.to_string());
    let helper = fuse::check_helper().err().map(|error| error.to_string());
    let dir = profile.dir();
    // Before the first account there is no directory yet.
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    let disk = match files::disk_space(existing) {
        Ok(space) if space.free_bytes < LITTLE_DISK_BYTES => Check {
            check: "disk",
            ok: false,
            text: format!(
                "{} left on the disk of {}: what is written waits there for the server; make room, or run kegfs cache clear",
                bytes(space.free_bytes),
                dir.display()
            ),
        },
        Ok(space) => check("disk", None, &format!("{} left on the disk of {}", bytes(space.free_bytes), dir.display())),
        Err(error) => check("disk", Some(format!("the disk of {} cannot be looked at: {error}", dir.display())), ""),
    };
    let account = match profile.config_path().exists() {
        true => check("account", None, "this profile has an account"),
        false => check(
            "account",
            Some("no account here yet: kegfs account create, kegfs account join or kegfs accept makes one".to_owned()),
            "",
        ),
    };
    vec![
        check("fuse-device", device, "/dev/fuse can be used"),
        check("fuse-helper", helper, "fusermount3 is installed"),
        disk,
        account,
    ]
}

fn server(state: &ServerState) -> Check {
    let (ok, text) = match (&state.problem, state.ahead_ms) {
        (Some(problem), _) => (false, problem.clone()),
        (None, Some(ahead_ms)) if ahead_ms.abs() > CLOCK_MS => (
            false,
            format!(
                "{} answers, and its clock is {} seconds {} this machine's: one of them is wrong (here: timedatectl)",
                state.server,
                ahead_ms.abs() / 1000,
                if ahead_ms > 0 { "ahead of" } else { "behind" }
            ),
        ),
        (None, _) => (true, format!("{} answers, and its clock agrees with this machine's", state.server)),
    };
    Check { check: "server", ok, text }
}

fn ask(backend: &mut Backend<'_>, request: DoctorRequest) -> Result<DoctorResponse, Failure> {
    match backend.ask(Request::Doctor(request), &mut |_| {})? {
        Response::Doctor(response) => Ok(response),
        other => Err(unexpected(&other)),
    }
}

fn ask_server(backend: &mut Backend<'_>) -> Result<ServerState, Failure> {
    match ask(backend, DoctorRequest::Server)? {
        DoctorResponse::Server(state) => Ok(state),
        other => Err(unexpected(&Response::Doctor(other))),
    }
}

/// The ids of all folders.
fn folders(backend: &mut Backend<'_>) -> Result<Vec<String>, Failure> {
    match backend.ask(Request::FolderList, &mut |_| {})? {
        Response::Folders(folders) => Ok(folders.into_iter().map(|folder| folder.id).collect()),
        other => Err(unexpected(&other)),
    }
}

/// The names of one folder, page by page.
fn names(backend: &mut Backend<'_>, folder: String, limit: usize) -> Result<FolderNames, Failure> {
    let mut whole: Option<FolderNames> = None;
    loop {
        let skip = whole.as_ref().map_or(0, |names| names.findings.len());
        let request = DoctorRequest::Names { folder: folder.clone(), skip: skip as u64, limit: limit - skip };
        let page = match ask(backend, request)? {
            DoctorResponse::Names(page) => page,
            other => return Err(unexpected(&Response::Doctor(other))),
        };
        let empty = page.findings.is_empty();
        let names = match &mut whole {
            Some(names) => {
                names.findings.extend(page.findings);
                names
            }
            None => whole.insert(page),
        };
        let all = names.findings.len() as u64 >= names.total.min(limit as u64);
        if empty || all {
            break;
        }
    }
    whole.ok_or_else(|| Failure::new(Code::Failure, "the folder could not be looked at"))
}

fn text(found: &Found) -> String {
    let mut text = String::new();
    for check in &found.checks {
        let _ = writeln!(text, "{:<8} {}", if check.ok { "ok" } else { "PROBLEM" }, harmless(&check.text));
    }
    for folder in &found.folders {
        let name = harmless(&folder.folder);
        if folder.total == 0 {
            let _ = writeln!(text, "{:<8} {name}: all {} names work on every system", "ok", folder.names);
            continue;
        }
        let verb = if folder.total == 1 { "does" } else { "do" };
        let _ = writeln!(
            text,
            "{:<8} {name}: {} of {} names {verb} not work on every system",
            "PROBLEM", folder.total, folder.names
        );
        folder.findings.iter().for_each(|finding| told(&mut text, finding));
        let left = folder.total - (folder.findings.len() as u64).min(folder.total);
        if left > 0 {
            let _ = writeln!(text, "  and {left} more; --limit {} lists them", folder.total);
        }
    }
    text
}

fn told(text: &mut String, finding: &NameFinding) {
    let _ = writeln!(text, "  {}", harmless(&finding.path.shown()));
    for problem in &finding.problems {
        let with = problem.with.as_ref().map_or_else(String::new, |with| format!(" as {}", harmless(&with.shown())));
        let _ = writeln!(text, "    {}: {}{with}", problem.systems.join(", "), harmless(&problem.what));
    }
    if let Some(name) = &finding.rename_to {
        let _ = writeln!(text, "    better: {}", harmless(name));
    }
}
