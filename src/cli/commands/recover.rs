//! `kegfs recover`.

use std::path::Path;

use super::super::backend::Backend;
use super::super::control::{Request, Response};
use super::super::failure::Failure;
use super::super::output::{self, Output};
use super::unexpected;

/// Lists what is kept.
pub fn list(backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask(Request::KeptList, &mut |_| {})? {
        Response::Kept(kept) => output.show(&kept, &output::kept(&kept)),
        other => Err(unexpected(&other)),
    }
}

/// Writes the files of one.
pub fn open(name: String, dir: &Path, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let dir = std::path::absolute(dir).map_err(|error| Failure::io("locating the directory", dir, &error))?;
    match backend.ask(Request::Recover { name, dir }, &mut |_| {})? {
        Response::Recovered { files, others } => {
            let text = output::recovered(&files, others);
            output.show(&Response::Recovered { files, others }, &text)
        }
        other => Err(unexpected(&other)),
    }
}
