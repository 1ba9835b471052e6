//! `kegfs account …`.

use serde::Serialize;

use super::super::args::{AccountCreate, Global, ServerArgs};
use super::super::failure::{Code, Failure};
use super::super::output::{self, Output};
use super::super::profile::{CONFIG_VERSION, Config, Profile};
use super::super::{keystore, passphrase, unlocked};
use crate::crypto::password;
use crate::keyring::Identity;
use crate::sys::files::FileLock;

/// What `--json` prints of an account.
#[derive(Serialize)]
struct Account<'a> {
    id: &'a str,
    name: &'a str,
    device: &'a str,
    server: &'a str,
}

/// A profile without an account, held for the one that is being made.
pub(super) struct Fresh<'a> {
    /// The profile.
    pub profile: &'a Profile,
    _lock: FileLock,
}

impl<'a> Fresh<'a> {
    /// Makes the directory and checks that there is no account in it.
    pub fn claim(profile: &'a Profile) -> Result<Self, Failure> {
        profile.create()?;
        let lock = profile.lock(std::time::Duration::ZERO)?;
        if profile.config_path().exists() {
            return Err(Failure::new(
                Code::Usage,
                format!(
                    "there is an account in {} already; use another profile for another account: --profile DIR",
                    profile.dir().display()
                ),
            ));
        }
        Ok(Self { profile, _lock: lock })
    }
}

/// What a profile knows of an account that is still to come.
pub(super) fn config(server: &ServerArgs, name: String, device: String) -> Result<Config, Failure> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path).map_err(|error| Failure::io("reading the server's certificate", path, &error))
    };
    Ok(Config {
        version: CONFIG_VERSION,
        server: server.server.trim_end_matches('/').to_owned(),
        account: String::new(),
        name,
        device,
        server_cert: server.server_cert.as_ref().map(read).transpose()?,
    })
}

/// Makes the account that `config` describes: the keys are on the disk before the server hears of them, so that no account
/// exists whose keys are lost; `config.json` is last and makes it an account.
pub(super) fn register(
    fresh: &Fresh<'_>,
    mut config: Config,
    code: &str,
    cost: password::Params,
    global: &Global,
) -> Result<(Config, Identity), Failure> {
    let profile = fresh.profile;
    let passphrase = passphrase::new(global)?;
    let new = unlocked::new_account(&config.server, &config.name, &config.device)?;
    config.account = new.identity.account.to_string();
    keystore::write(&profile.keystore(), &new.identity, &passphrase, cost)?;
    let registered = unlocked::register(&config, code, &new).and_then(|()| profile.write_config(&config));
    if let Err(failure) = registered {
        // An account that nobody knows of: its keys are of no use.
        let _ = std::fs::remove_file(profile.keystore());
        return Err(failure);
    }
    Ok((config, new.identity))
}

/// `account create`
pub fn create(args: &AccountCreate, profile: &Profile, global: &Global, output: Output) -> Result<(), Failure> {
    let fresh = Fresh::claim(profile)?;
    let device = args.device.clone().unwrap_or_else(host_name);
    let config = config(&args.server, args.name.clone(), device)?;
    let (config, _) = register(&fresh, config, &args.invite, args.kdf.params(), global)?;
    output.remark("Keep a copy of the keystore file and remember your passphrase: without both the account is lost.");
    print(&config, output)
}

/// `account show`: needs no passphrase.
pub fn show(profile: &Profile, output: Output) -> Result<(), Failure> {
    print(&profile.config()?, output)
}

pub(super) fn print(config: &Config, output: Output) -> Result<(), Failure> {
    let account = Account { id: &config.account, name: &config.name, device: &config.device, server: &config.server };
    let text = format!(
        "account  {}\ndevice   {}\nserver   {}\nid       {}\n",
        output::harmless(account.name),
        output::harmless(account.device),
        account.server,
        account.id
    );
    output.show(&account, &text)
}

/// What this machine calls itself.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "computer".to_owned(),
        name => name.to_owned(),
    }
}
