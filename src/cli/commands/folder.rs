//! `kegfs folder …` and `kegfs member …`.

use super::super::args::MemberRole;
use super::super::backend::Backend;
use super::super::control::{Request, Response};
use super::super::failure::Failure;
use super::super::output::{self, Output};
use super::super::unlocked::role_name;
use super::unexpected;
use crate::format::Role;

/// `folder create`
pub fn create(name: String, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask(Request::FolderCreate { name }, &mut |_| {})? {
        Response::FolderCreated(folder) => {
            let name = output::harmless(&folder.name);
            let text = format!(
                "created {name} ({})\nmount it: kegfs mount '{name}' DIR; add others: kegfs member add '{name}' ACCOUNT\n",
                folder.id
            );
            output.show(&folder, &text)
        }
        other => Err(unexpected(&other)),
    }
}

/// `folder list`
pub fn list(backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask(Request::FolderList, &mut |_| {})? {
        Response::Folders(folders) => output.show(&folders, &output::folders(&folders)),
        other => Err(unexpected(&other)),
    }
}

/// `member add`
pub fn add_member(
    folder: String,
    account: String,
    role: MemberRole,
    backend: &mut Backend<'_>,
    output: Output,
) -> Result<(), Failure> {
    let role = role_name(Role::from(role)).to_owned();
    match backend.ask(Request::MemberAdd { folder, account, role }, &mut |_| {})? {
        Response::MemberAdded(member) => {
            output.show(&member, &format!("added {} as {}\n", output::harmless(&member.name), member.role))
        }
        other => Err(unexpected(&other)),
    }
}

/// `member list`
pub fn members(folder: String, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask(Request::MemberList { folder }, &mut |_| {})? {
        Response::Members(members) => output.show(&members, &output::members(&members)),
        other => Err(unexpected(&other)),
    }
}
