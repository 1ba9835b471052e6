//! The command line: arguments, messages, progress, exit codes; puts the parts together.
//!
//! The only room that knows all others. It decides nothing about data: what may be done, and what it
//! does, is the business of the rooms below.

mod activity;
pub mod args;
mod backend;
mod commands;
mod compare;
mod conflicts;
mod control;
mod daemon;
mod describe;
mod devices;
mod doctor;
mod engine;
mod expiry;
mod failure;
mod keg_dir;
mod keystore;
mod link;
mod locks;
mod log;
mod output;
mod passphrase;
mod paths;
mod profile;
mod retention;
mod source;
mod told;
mod unlocked;
mod when;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::sys::process;
use args::{Cli, Command};
use failure::Code;
use output::Output;
use profile::Profile;

/// The program `kegfs`: parses the arguments, does what they say, reports the outcome.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are printed to standard output and are no failure.
            let _ = error.print();
            let wrong = error.use_stderr();
            return if wrong { Code::Usage.exit_status().into() } else { ExitCode::SUCCESS };
        }
    };
    let output = Output::new(cli.global.json);
    let status = match run(cli, output) {
        Ok(()) => 0,
        Err(failure) => {
            output.failure(&failure);
            failure.code.exit_status()
        }
    };
    // Nobody is left to be told that the output cannot be written.
    let _ = std::io::stdout().flush();
    process::exit_now(status)
}

fn run(cli: Cli, output: Output) -> Result<(), failure::Failure> {
    let profile = Profile::locate(cli.global.profile.as_deref())?;
    match cli.command {
        Command::Daemon => daemon::run(&profile),
        command => commands::run(command, &profile, &cli.global, output),
    }
}
