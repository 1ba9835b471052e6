//! `kegfs verify …`, `kegfs access …`, and what concerns a frozen folder.

use std::path::PathBuf;

use super::super::args::VerifyArgs;
use super::super::backend::Backend;
use super::super::control::{Request, Response};
use super::super::failure::{Code, Failure};
use super::super::output::{self, Output};
use super::super::told;
use super::unexpected;

/// `verify`
pub fn verify(args: VerifyArgs, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let request = match (args.folder, &args.contact) {
        (Some(folder), _) => Request::VerifyFolder { folder, seen: args.seen.clone() },
        (None, contact) => Request::Verify {
            contact: contact.clone(),
            same: match (args.accept, args.reject) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            },
        },
    };
    let response = backend.ask(request, &mut |_| {})?;
    let text = match &response {
        Response::Contacts(contacts) => return output.show(contacts, &told::contacts(contacts)),
        Response::Compared(comparison) => told::comparison(comparison),
        Response::Decided(contact) => told::decided(contact),
        Response::FolderWords { folder, seq, .. } if args.seen.is_some() => {
            format!("the same: up to entry {seq} both have seen one and the same {}\n", output::harmless(folder))
        }
        Response::FolderWords { folder, seq, words } => told::folder_words(folder, *seq, words),
        other => return Err(unexpected(other)),
    };
    output.show(&response, &text)
}

/// `access`
pub fn access(path: &str, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let (folder, path) = path.split_once('/').ok_or_else(|| {
        Failure::new(Code::Usage, format!("{path} names no file; give FOLDER/PATH, for example acme/plans/plan.odt"))
    })?;
    let request = Request::Access { folder: folder.to_owned(), path: path.to_owned() };
    match backend.ask(request, &mut |_| {})? {
        Response::Access(access) => output.show(&access, &told::access(&access)),
        other => Err(unexpected(&other)),
    }
}

/// `folder evidence`
pub fn evidence(folder: String, to: Option<PathBuf>, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let to = match to {
        Some(dir) => Some(
            std::path::absolute(&dir)
                .map_err(|error| Failure::new(Code::Usage, format!("{} cannot be used: {error}", dir.display())))?,
        ),
        None => None,
    };
    match backend.ask(Request::Evidence { folder, to }, &mut |_| {})? {
        Response::Evidence(found) => output.show(&found, &told::evidence(&found)),
        other => Err(unexpected(&other)),
    }
}

/// `folder thaw`
pub fn thaw(folder: String, anew: bool, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let response = backend.ask(Request::Thaw { folder, anew }, &mut |_| {})?;
    let Response::Thawed(name) = &response else { return Err(unexpected(&response)) };
    let name = output::harmless(name);
    let text = match anew {
        true => format!("{name} begins anew with what the server shows; unsent work is in: kegfs recover\n"),
        false => format!("{name} goes on from what was verified; the evidence stays: kegfs folder evidence {name}\n"),
    };
    output.show(&response, &text)
}
