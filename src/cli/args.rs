//! The command line: commands, options, help.
//!
//! Must not do anything: parsing and the words of the help only.

mod joining;
mod past;

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use joining::{
    AcceptArgs, AccountJoin, AccountRecover, AccountRecovery, DeviceAdd, DeviceCommand, InviteArgs, KdfArgs, ServerArgs,
};
pub use past::{ConflictsCommand, HistoryArgs, RestoreArgs, RetentionArgs, TrashArgs};

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed for a reason not listed here
  2  wrong use of the command line
  3  wrong passphrase
  4  the server cannot be reached
  5  the server refused
  6  the mountpoint cannot be used
  7  local data is corrupt
  8  the disk is full
  9  in use by something else
 10  kegfs doctor has found something

Passphrases come from a prompt, --passphrase-file or --passphrase-fd; never from arguments or the environment.";

/// A team's end-to-end encrypted shared folders as an ordinary directory.
#[derive(Debug, Parser)]
#[command(name = "kegfs", version, about, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Directory of the account's local state [default: $XDG_DATA_HOME/kegfs or ~/.local/share/kegfs]
    #[arg(long, global = true, value_name = "DIR")]
    pub profile: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Read the passphrase from the first line of FILE, which only you may be able to read
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_fd")]
    pub passphrase_file: Option<PathBuf>,
    /// Read the passphrase from the first line of file descriptor N
    #[arg(long, global = true, value_name = "N")]
    pub passphrase_fd: Option<RawFd>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create the account of this profile, or show it
    #[command(subcommand)]
    Account(AccountCommand),
    /// Create shared folders, or list them
    #[command(subcommand)]
    Folder(FolderCommand),
    /// Add, remove or list the members of a folder, or change what they may do
    #[command(subcommand)]
    Member(MemberCommand),
    /// The devices of your account: add, list, revoke, rename
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Make a link with which somebody becomes a member of a folder, also without an account
    Invite(InviteArgs),
    /// Use such a link
    Accept(AcceptArgs),
    /// Change a folder's key: what is written from then on is under a new one
    Rotate {
        /// Name or id of the folder
        folder: String,
    },
    /// Open changes that were kept when a membership ended before they were uploaded; without arguments, list them
    Recover {
        /// Which, as the list names it
        #[arg(requires = "dir")]
        name: Option<String>,
        /// Where to write the files; nothing there is replaced
        dir: Option<PathBuf>,
    },
    /// Show the versions of a file or directory: when, who, what
    History(HistoryArgs),
    /// Lead a file, a directory or a whole folder back to what it was at a moment
    Restore(RestoreArgs),
    /// List the removed files of a folder, or bring one back
    Trash(TrashArgs),
    /// Show or set for how long a folder's past is kept
    Retention(RetentionArgs),
    /// List or end the conflicts that two who changed the same thing have made
    #[command(subcommand)]
    Conflicts(ConflictsCommand),
    /// Mount a folder (or all folders, each as a directory) on an empty directory
    Mount(MountArgs),
    /// Unmount; waits until everything is on the server when that is reachable
    Unmount(UnmountArgs),
    /// Unmount everything and forget the keys
    Lock(LockArgs),
    /// Show mounts, folders and what is not yet on the server
    Status,
    /// Compare words with somebody, or with the members of a folder, to be sure that nobody stands between you; without
    /// arguments, list whom you know
    Verify(VerifyArgs),
    /// Show who can read a file, and who could have: members, devices, versions
    Access {
        /// FOLDER/PATH, for example acme/plans/plan.odt
        path: String,
    },
    /// Show what happened in a folder: who came and went, keys and devices, conflicts, warnings
    Log(LogArgs),
    /// Find names that other systems cannot have or take for one, and what is wrong with this installation
    Doctor(DoctorArgs),
    /// Exchange changes with the server now
    Sync(SyncArgs),
    /// Manage the local cache of ciphertext
    #[command(subcommand)]
    Cache(CacheCommand),
    /// The background process; started by `mount`
    #[command(hide = true)]
    Daemon,
}

/// `kegfs account …`
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Create an account on a server; this profile becomes its first device
    Create(AccountCreate),
    /// Make this profile a further device of your account: shows a code to type on a device that you have
    Join(AccountJoin),
    /// Make a recovery phrase: 24 words on paper that bring the account back when all devices are lost
    Recovery(AccountRecovery),
    /// Make this profile a device of your account with the recovery phrase
    Recover(AccountRecover),
    /// Show the account of this profile; the id is what others need to add you to a folder
    Show,
}

/// `kegfs account create`
#[derive(Debug, Clone, Args)]
pub struct AccountCreate {
    /// Where to create it
    #[command(flatten)]
    pub server: ServerArgs,
    /// Your name, as other members see it
    #[arg(long)]
    pub name: String,
    /// Name of this device, as other members see it [default: the host name]
    #[arg(long)]
    pub device: Option<String>,
    /// Invite code of the server
    #[arg(long, value_name = "CODE")]
    pub invite: String,
    /// Cost of the passphrase
    #[command(flatten)]
    pub kdf: KdfArgs,
}

/// `kegfs folder …`
#[derive(Debug, Subcommand)]
pub enum FolderCommand {
    /// Create a shared folder, with you as its owner
    Create {
        /// Its name, as all members see it
        name: String,
    },
    /// List the folders you are a member of
    List,
    /// Show what is kept of the server's misbehaviour in a folder
    Evidence {
        /// Name or id of the folder
        folder: String,
        /// Also write it there, with all that others need to check it
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Have a folder go on that was frozen because the server was caught
    Thaw {
        /// Name or id of the folder
        folder: String,
        /// Not from what was verified here, but with the log that the server shows, from its beginning; unsent work is kept
        /// aside
        #[arg(long)]
        anew: bool,
    },
    /// Leave a folder; what you have not uploaded is uploaded first
    Leave {
        /// Name or id of the folder
        folder: String,
    },
    /// Make another member an owner
    Transfer {
        /// Name or id of the folder
        folder: String,
        /// Name or id of the member
        member: String,
        /// Become an admin yourself
        #[arg(long)]
        step_down: bool,
    },
}

/// `kegfs member …`
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Add an account to a folder
    Add {
        /// Name or id of the folder
        folder: String,
        /// Name of somebody whom you know (see `kegfs verify`), or the id that `kegfs account show` prints there
        account: String,
        /// What the member may do
        #[command(flatten)]
        role: RoleArgs,
        /// How much of the past they get: `full`, `none`, or `since=DATE` (`since=2026-11-20`, `since=30d`, or an RFC 3339
        /// time) [default: full; guests: none]
        #[arg(long, value_name = "WHAT")]
        history: Option<String>,
    },
    /// Remove a member; the folder's key changes, and what is written from then on is closed to them
    Remove {
        /// Name or id of the folder
        folder: String,
        /// Name or id of the member
        member: String,
    },
    /// Give a member another role, or a guest another end
    Role {
        /// Name or id of the folder
        folder: String,
        /// Name or id of the member
        member: String,
        /// What the member may do
        #[command(flatten)]
        role: RoleArgs,
    },
    /// List the members of a folder
    List {
        /// Name or id of the folder
        folder: String,
    },
}

/// A role with what belongs to it.
#[derive(Debug, Clone, Args)]
pub struct RoleArgs {
    /// What the member may do
    #[arg(long, value_enum, default_value_t = MemberRole::Editor)]
    pub role: MemberRole,
    /// Guests: may also write
    #[arg(long, value_enum, value_name = "WHAT")]
    pub can: Option<GuestRight>,
    /// Guests: when the membership ends: `30m`, `12h`, `7d`, `2w`, `2026-12-24` (the end of that day) or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    pub expires: Option<String>,
}

/// What a guest may do besides reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuestRight {
    /// Write
    Edit,
}

/// Roles that can be given to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MemberRole {
    /// Everything, also removing owners
    Owner,
    /// Manages members, reads and writes
    Admin,
    /// Reads and writes
    Editor,
    /// Reads
    Viewer,
    /// Reads for a while (see --expires), without the folder's history
    Guest,
}

/// `kegfs mount`
#[derive(Debug, Args)]
pub struct MountArgs {
    /// Name or id of the folder; without it all folders are mounted, each as a directory
    #[arg(value_name = "FOLDER")]
    pub first: PathBuf,
    /// The directory to mount on; must exist and be empty
    #[arg(value_name = "DIR")]
    pub second: Option<PathBuf>,
    /// Options, separated by commas: ro, allow_other, fsync=server, owners=stored
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    pub options: Vec<String>,
}

/// `kegfs unmount`
#[derive(Debug, Args)]
pub struct UnmountArgs {
    /// The mountpoint
    pub dir: PathBuf,
    /// Detach even while files are open there; they give errors from then on
    #[arg(long)]
    pub force: bool,
    /// Do not wait for the server; what it has not got yet stays in the journal
    #[arg(long)]
    pub no_wait: bool,
    /// Wait this long for the server
    #[arg(long, value_name = "SECONDS", default_value_t = 60, conflicts_with = "no_wait")]
    pub timeout: u64,
}

/// `kegfs lock`
#[derive(Debug, Args)]
pub struct LockArgs {
    /// Detach even while files are open; they give errors from then on
    #[arg(long)]
    pub force: bool,
}

/// `kegfs verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Name or id of somebody whom you know, or the id of somebody new
    pub contact: Option<String>,
    /// The words are the same on the other side
    #[arg(long, requires = "contact", conflicts_with = "reject")]
    pub accept: bool,
    /// They are not: give this account nothing
    #[arg(long, requires = "contact")]
    pub reject: bool,
    /// Show the words for a folder as it is here
    #[arg(long, value_name = "FOLDER", conflicts_with = "contact")]
    pub folder: Option<String>,
    /// Compare with what another member's `kegfs verify --folder` shows: the number of the entry and the words, in quotes
    #[arg(long, value_name = "ENTRY WORDS", requires = "folder")]
    pub seen: Option<String>,
}

/// `kegfs log`
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Name or id of the folder
    pub folder: String,
    /// Go on as things happen
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines (of those that are there already)
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Mark the warnings as seen: `kegfs status` does not repeat them
    #[arg(long)]
    pub seen: bool,
}

/// `kegfs doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Only the names in this folder [default: the installation, and all folders]
    pub folder: Option<String>,
    /// List at most N names of each folder; all are counted
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000)]
    pub limit: usize,
}

/// `kegfs sync`
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Name or id of the folder [default: all folders]
    pub folder: Option<String>,
    /// Wait until everything local is on the server
    #[arg(long)]
    pub wait: bool,
    /// With --wait: wait at most this long
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

/// `kegfs cache …`
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Remove cached ciphertext; what is not yet on the server stays
    Clear,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_exit_code_is_documented_in_the_help() {
        let help = Cli::command().render_long_help().to_string();
        for code in 0..=10 {
            assert!(help.contains(&format!("\n {code:>2}  ")), "{code} in {help}");
        }
    }

    #[test]
    fn mount_takes_an_optional_folder_and_options() {
        let parsed = Cli::try_parse_from(["kegfs", "mount", "acme", "/m", "-o", "ro,fsync=server"]).unwrap();
        let Command::Mount(args) = parsed.command else { panic!() };
        assert_eq!(args.options, ["ro", "fsync=server"]);
        assert!(args.second.is_some());
        assert!(Cli::try_parse_from(["kegfs", "mount"]).is_err());
    }

    #[test]
    fn passphrases_cannot_come_from_two_places() {
        let twice = ["kegfs", "status", "--passphrase-file", "a", "--passphrase-fd", "3"];
        assert!(Cli::try_parse_from(twice).is_err());
    }
}
