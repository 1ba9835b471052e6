//! Arguments of what makes devices and members: `account join|recovery|recover`, `device`, `invite`, `accept`.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::RoleArgs;
use crate::crypto::password::Params;

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
    /// Cost of the new passphrase
    #[command(flatten)]
    pub kdf: KdfArgs,
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

/// What a guess of the passphrase costs who has got hold of the keystore, and unlocking costs you (Argon2id, RFC 9106).
#[derive(Debug, Clone, Args)]
pub struct KdfArgs {
    /// Memory that unlocking takes, MiB: more makes guessing the passphrase costlier
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(19..=1024))]
    pub kdf_memory: u32,
    /// Passes over that memory
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub kdf_passes: u32,
}

impl KdfArgs {
    /// The cost, within its bounds.
    pub fn params(&self) -> Params {
        Params::new(self.kdf_memory << 10, self.kdf_passes, 1).unwrap_or_default()
    }
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
    /// Cost of the new passphrase
    #[command(flatten)]
    pub kdf: KdfArgs,
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
    /// Cost of the passphrase of a new account
    #[command(flatten)]
    pub kdf: KdfArgs,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        kdf: KdfArgs,
    }

    #[test]
    fn what_the_options_take_is_what_a_keystore_takes() {
        let params = |memory: &str, passes: &str| {
            let line = Line::try_parse_from(["kegfs", "--kdf-memory", memory, "--kdf-passes", passes]).ok()?;
            Some((line.kdf.params().memory_kib() >> 10, line.kdf.params().passes()))
        };
        assert_eq!(params("19", "1"), Some((19, 1)));
        assert_eq!(params("1024", "16"), Some((1024, 16)));
        for (memory, passes) in [("18", "3"), ("1025", "3"), ("64", "0"), ("64", "17")] {
            assert_eq!(params(memory, passes), None);
        }
        let unsaid = Line::try_parse_from(["kegfs"]).map(|line| line.kdf.params());
        assert_eq!(unsaid.ok(), Some(Params::DEFAULT));
    }
}
