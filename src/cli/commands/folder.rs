//! `kegfs folder …` and `kegfs rotate`.

use super::super::backend::Backend;
use super::super::control::{Request, Response};
use super::super::failure::Failure;
use super::super::output::{self, Output};
use super::unexpected;

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

/// `folder leave`
pub fn leave(folder: String, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask(Request::FolderLeave { folder }, &mut |_| {})? {
        Response::Left(folder) => output.show(&folder, &format!("left {}\n", output::harmless(&folder.name))),
        other => Err(unexpected(&other)),
    }
}

/// `folder transfer`
pub fn transfer(
    folder: String,
    member: String,
    step_down: bool,
    backend: &mut Backend<'_>,
    output: Output,
) -> Result<(), Failure> {
    match backend.ask(Request::FolderTransfer { folder, member, step_down }, &mut |_| {})? {
        Response::MemberChanged(member) => {
            let own = if step_down { "; you are an admin now" } else { ", as you are" };
            output.show(&member, &format!("{} is an owner now{own}\n", output::harmless(&member.name)))
        }
        other => Err(unexpected(&other)),
    }
}

/// `rotate`
pub fn rotate(folder: String, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask(Request::Rotate { folder }, &mut |_| {})? {
        Response::Rotated { folder, epoch } => {
            let text = format!("{} has a new key (epoch {epoch})\n", output::harmless(&folder));
            output.show(&Response::Rotated { folder, epoch }, &text)
        }
        other => Err(unexpected(&other)),
    }
}
