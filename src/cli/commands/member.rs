//! `kegfs member …`.

use super::super::args::{GuestRight, MemberRole, RoleArgs};
use super::super::backend::Backend;
use super::super::control::{HistoryWanted, Request, Response};
use super::super::expiry;
use super::super::failure::{Code, Failure};
use super::super::output::{self, Output};
use super::super::unlocked::role_name;
use super::unexpected;
use crate::format::Role;

/// `member add`
pub fn add(
    folder: String,
    account: String,
    role: &RoleArgs,
    history: Option<&str>,
    backend: &mut Backend<'_>,
    output: Output,
) -> Result<(), Failure> {
    let history = history_wanted(history, role.role)?;
    let (role, expires_ms) = wanted(role)?;
    match backend.ask(Request::MemberAdd { folder, account, role, expires_ms, history }, &mut |_| {})? {
        Response::MemberAdded(member) => {
            output.show(&member, &format!("added {} as {}\n", output::harmless(&member.name), output::role(&member)))
        }
        other => Err(unexpected(&other)),
    }
}

/// `member remove`
pub fn remove(folder: String, member: String, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask(Request::MemberRemove { folder, member }, &mut |_| {})? {
        Response::MemberRemoved(member) => {
            let name = output::harmless(&member.name);
            let text =
                format!("removed {name}; what {name} has read stays known there, what is written now does not\n");
            output.show(&member, &text)
        }
        other => Err(unexpected(&other)),
    }
}

/// `member role`
pub fn role(
    folder: String,
    member: String,
    role: &RoleArgs,
    backend: &mut Backend<'_>,
    output: Output,
) -> Result<(), Failure> {
    let (role, expires_ms) = wanted(role)?;
    match backend.ask(Request::MemberRole { folder, member, role, expires_ms }, &mut |_| {})? {
        Response::MemberChanged(member) => {
            output.show(&member, &format!("{} is {} now\n", output::harmless(&member.name), output::role(&member)))
        }
        other => Err(unexpected(&other)),
    }
}

/// `member list`
pub fn list(folder: String, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask(Request::MemberList { folder }, &mut |_| {})? {
        Response::Members(members) => output.show(&members, &output::members(&members)),
        other => Err(unexpected(&other)),
    }
}

/// What `--history` says, if the role can have it.
fn history_wanted(history: Option<&str>, role: MemberRole) -> Result<HistoryWanted, Failure> {
    let usage = |message: &str| Err(Failure::new(Code::Usage, message));
    let wanted = match history {
        None if role == MemberRole::Guest => HistoryWanted::None,
        None | Some("full") => HistoryWanted::Full,
        Some("none") => HistoryWanted::None,
        Some(other) => match other.strip_prefix("since=") {
            Some(when) => HistoryWanted::SinceMs(expiry::parse_past(when)?),
            None => return usage("--history takes full, none, or since=DATE, for example since=2026-11-20"),
        },
    };
    match (role, wanted) {
        (MemberRole::Guest, HistoryWanted::Full | HistoryWanted::SinceMs(_)) => {
            usage("guests get nothing of the history; leave --history away, or give --role viewer or editor")
        }
        (MemberRole::Owner | MemberRole::Admin, HistoryWanted::None | HistoryWanted::SinceMs(_)) => {
            usage("admins and owners hold the whole history; leave --history away, or give --role viewer or editor")
        }
        _ => Ok(wanted),
    }
}

/// The role's name and a guest's end, if they fit together.
pub(super) fn wanted(args: &RoleArgs) -> Result<(String, Option<i64>), Failure> {
    let usage = |message: &str| Err(Failure::new(Code::Usage, message));
    let role = match (args.role, args.can) {
        (MemberRole::Guest, None) => Role::GuestViewer,
        (MemberRole::Guest, Some(GuestRight::Edit)) => Role::GuestEditor,
        (_, Some(_)) => return usage("--can is for guests; give --role guest, or --role editor without it"),
        (MemberRole::Owner, None) => Role::Owner,
        (MemberRole::Admin, None) => Role::Admin,
        (MemberRole::Editor, None) => Role::Editor,
        (MemberRole::Viewer, None) => Role::Viewer,
    };
    let expires_ms = match (&args.expires, args.role) {
        (Some(when), MemberRole::Guest) => Some(expiry::parse(when)?),
        (None, MemberRole::Guest) => return usage("a guest needs an end, for example --expires 7d"),
        (Some(_), _) => return usage("--expires is for guests; give --role guest with it"),
        (None, _) => None,
    };
    Ok((role_name(role).to_owned(), expires_ms))
}
