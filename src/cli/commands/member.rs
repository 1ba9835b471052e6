//! `kegfs member …`.

use super::super::args::{GuestRight, MemberRole, RoleArgs};
use super::super::backend::Backend;
use super::super::control::{Request, Response};
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
    backend: &mut Backend<'_>,
    output: Output,
) -> Result<(), Failure> {
    let (role, expires_ms) = wanted(role)?;
    match backend.ask(Request::MemberAdd { folder, account, role, expires_ms }, &mut |_| {})? {
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

/// The role's name and a guest's end, if they fit together.
fn wanted(args: &RoleArgs) -> Result<(String, Option<i64>), Failure> {
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
