//! One file for each group of commands: ask, then show.
//!
//! Must not hold logic that a program using the control socket would miss.

mod account;
mod folder;
mod mount;
mod state;

use super::args::{AccountCommand, CacheCommand, Command, FolderCommand, Global, MemberCommand};
use super::backend::Backend;
use super::control::Response;
use super::failure::{Code, Failure};
use super::output::Output;
use super::profile::Profile;

/// Does one command.
///
/// # Errors
/// What to tell the user.
pub fn run(command: Command, profile: &Profile, global: &Global, output: Output) -> Result<(), Failure> {
    let mut backend = Backend::new(profile, global);
    match command {
        Command::Account(AccountCommand::Create(args)) => account::create(&args, profile, global, output),
        Command::Account(AccountCommand::Show) => account::show(profile, output),
        Command::Folder(FolderCommand::Create { name }) => folder::create(name, &mut backend, output),
        Command::Folder(FolderCommand::List) => folder::list(&mut backend, output),
        Command::Member(MemberCommand::Add { folder, account, role }) => {
            folder::add_member(folder, account, role, &mut backend, output)
        }
        Command::Member(MemberCommand::List { folder }) => folder::members(folder, &mut backend, output),
        Command::Mount(args) => mount::mount(args, &backend, output),
        Command::Unmount(args) => mount::unmount(&args, &backend, output),
        Command::Lock(args) => mount::lock(&args, &backend, output),
        Command::Status => state::status(profile, &backend, output),
        Command::Sync(args) => state::sync(args, &mut backend, output),
        Command::Cache(CacheCommand::Clear) => state::clear_cache(&mut backend, output),
        // Handled before a backend is made.
        Command::Daemon => Err(Failure::new(Code::Usage, "`kegfs daemon` is started by `kegfs mount`")),
    }
}

/// An answer that does not belong to the question: another version of the program is running.
fn unexpected(_: &Response) -> Failure {
    Failure::new(Code::Failure, "the background process is of another version; run `kegfs lock` and try again")
}
