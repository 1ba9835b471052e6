//! One file for each group of commands: ask, then show.
//!
//! Must not hold logic that a program using the control socket would miss.

mod account;
mod device;
mod doctor;
mod folder;
mod invite;
mod join;
mod log;
mod member;
mod mount;
mod past;
mod recover;
mod retention;
mod state;
mod verify;

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
        Command::Account(AccountCommand::Join(args)) => join::join(&args, profile, global, output),
        Command::Account(AccountCommand::Recover(args)) => join::recover(&args, profile, global, output),
        Command::Account(AccountCommand::Recovery(args)) => join::recovery(&args, profile, &mut backend, output),
        Command::Device(command) => device::run(command, &mut backend, output),
        Command::Invite(args) => invite::invite(args, profile, &mut backend, output),
        Command::Accept(args) => invite::accept(args, profile, global, output),
        Command::Folder(FolderCommand::Create { name }) => folder::create(name, &mut backend, output),
        Command::Folder(FolderCommand::List) => folder::list(&mut backend, output),
        Command::Folder(FolderCommand::Leave { folder }) => folder::leave(folder, &mut backend, output),
        Command::Folder(FolderCommand::Transfer { folder, member, step_down }) => {
            folder::transfer(folder, member, step_down, &mut backend, output)
        }
        Command::Rotate { folder } => folder::rotate(folder, &mut backend, output),
        Command::Member(MemberCommand::Add { folder, account, role, history }) => {
            member::add(folder, account, &role, history.as_deref(), &mut backend, output)
        }
        Command::Member(MemberCommand::Remove { folder, member }) => {
            member::remove(folder, member, &mut backend, output)
        }
        Command::Member(MemberCommand::Role { folder, member, role }) => {
            member::role(folder, member, &role, &mut backend, output)
        }
        Command::Member(MemberCommand::List { folder }) => member::list(folder, &mut backend, output),
        Command::Recover { name: Some(name), dir: Some(dir) } => recover::open(name, &dir, &mut backend, output),
        Command::Recover { .. } => recover::list(&mut backend, output),
        Command::History(args) => past::history(args, &mut backend, output),
        Command::Restore(args) => past::restore(args, &mut backend, output),
        Command::Trash(args) => past::trash(args, &mut backend, output),
        Command::Retention(args) => retention::run(args, &mut backend, output),
        Command::Doctor(args) => doctor::doctor(args, profile, &mut backend, output),
        Command::Conflicts(command) => past::conflicts(command, &mut backend, output),
        Command::Mount(args) => mount::mount(args, &backend, output),
        Command::Unmount(args) => mount::unmount(&args, &backend, output),
        Command::Lock(args) => mount::lock(&args, &backend, output),
        Command::Status => state::status(profile, &backend, output),
        Command::Verify(args) => verify::verify(args, &mut backend, output),
        Command::Access { path } => verify::access(&path, &mut backend, output),
        Command::Folder(FolderCommand::Evidence { folder, to }) => verify::evidence(folder, to, &mut backend, output),
        Command::Folder(FolderCommand::Thaw { folder, anew }) => verify::thaw(folder, anew, &mut backend, output),
        Command::Log(args) => log::log(args, &mut backend, output),
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
