//! Arguments of what makes devices and members: `account join|recovery|recover`, `device`, `invite`, `accept`.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::RoleArgs;

/// `kegfs account join`
#[derive(Debug, Clone, Args)]
pub struct AccountJoin {
    /// Where the account is
    #[command(flatten)]
    pub server: ServerArgs,
    /// Name of this device, as your other devices and other members see it [default: the host name]
    #[arg(long)]
    pub device: Option<String>,
    /// How long to wait for the code to be typed on the other device
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub timeout: u64,
}

/// A server, and how it is recognised.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address of the server, for example `https://kegs.example.com`
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// Trust this certificate (PEM) for the server, besides the system's authorities
    #[arg(long, value_name = "FILE")]
    pub server_cert: Option<PathBuf>,
}

/// `kegfs account recovery`
#[derive(Debug, Clone, Args)]
pub struct AccountRecovery {
    /// Do not ask for some of the words to see that they were written down
    #[arg(long)]
    pub no_confirm: bool,
}

/// `kegfs account recover`
#[derive(Debug, Clone, Args)]
pub struct AccountRecover {
    /// Where the account is
    #[command(flatten)]
    pub server: ServerArgs,
    /// The account's id, as it stands beside the phrase
    #[arg(long, value_name = "ID")]
    pub account: String,
    /// Name of this device, as other members see it [default: the host name]
    #[arg(long)]
    pub device: Option<String>,
    /// Read the phrase from FILE, which only you may be able to read [default: ask]
    #[arg(long, value_name = "FILE", conflicts_with = "phrase_fd")]
    pub phrase_file: Option<PathBuf>,
    /// Read the phrase from file descriptor N
    #[arg(long, value_name = "N")]
    pub phrase_fd: Option<RawFd>,
}

/// `kegfs device …`
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Let a new device in, on which `kegfs account join` shows a code
    Add(DeviceAdd),
    /// List the devices of the account
    List,
    /// Shut a lost device out: every folder gets a new key, and what it writes counts no more
    Revoke {
        /// Name or id of the device
        device: String,
    },
    /// Give a device another name
    Rename {
        /// Name or id of the device
        device: String,
        /// The new name
        name: String,
    },
}

/// `kegfs device add`
#[derive(Debug, Clone, Args)]
pub struct DeviceAdd {
    /// The six words of the code [default: ask]
    pub code: Vec<String>,
    /// The three words that the new device shows once the code was typed here, instead of being asked whether they are the same
    #[arg(long, value_name = "WORDS", conflicts_with = "look")]
    pub words: Option<String>,
    /// Show who waits under the code and the words that it must show, and change nothing
    #[arg(long)]
    pub look: bool,
}

/// `kegfs invite`
#[derive(Debug, Clone, Args)]
pub struct InviteArgs {
    /// Name or id of the folder
    pub folder: String,
    /// What who comes may do
    #[command(flatten)]
    pub role: RoleArgs,
    /// When the link ends if nobody has used it: as --expires; for others than guests --expires means the same
    #[arg(long, value_name = "WHEN", default_value = "7d")]
    pub link_expires: String,
    /// List the links that nobody has used
    #[arg(long, conflicts_with = "cancel")]
    pub list: bool,
    /// End a link, named as --list shows it
    #[arg(long, value_name = "ID")]
    pub cancel: Option<String>,
}

/// `kegfs accept`
#[derive(Debug, Clone, Args)]
pub struct AcceptArgs {
    /// The link [default: ask, so that no other user of this machine sees it among the processes]
    pub link: Option<String>,
    /// Your name, as other members see it; where this profile has no account yet
    #[arg(long)]
    pub name: Option<String>,
    /// Name of this device, as other members see it [default: the host name]
    #[arg(long)]
    pub device: Option<String>,
    /// How long to wait for an admin's client to let you in
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
}
