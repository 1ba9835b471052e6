//! `kegfs account …`.

use serde::Serialize;

use super::super::args::{AccountCreate, Global};
use super::super::failure::{Code, Failure};
use super::super::output::{self, Output};
use super::super::profile::{CONFIG_VERSION, Config, Profile};
use super::super::{keystore, passphrase, unlocked};
use crate::crypto::password;

/// What `--json` prints of an account.
#[derive(Serialize)]
struct Account<'a> {
    id: &'a str,
    name: &'a str,
    device: &'a str,
    server: &'a str,
}

/// `account create`: the keys are on the disk before the server hears of them, so that no account
/// exists whose keys are lost; `config.json` is last and makes it an account.
pub fn create(args: &AccountCreate, profile: &Profile, global: &Global, output: Output) -> Result<(), Failure> {
    profile.create()?;
    let _lock = profile.lock(std::time::Duration::ZERO)?;
    if profile.config_path().exists() {
        return Err(Failure::new(
            Code::Usage,
            format!(
                "there is an account in {} already; use another profile for another account: --profile DIR",
                profile.dir().display()
            ),
        ));
    }
    let read = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path).map_err(|error| Failure::io("reading the server's certificate", path, &error))
    };
    let server_cert = args.server_cert.as_ref().map(read).transpose()?;
    let device = args.device.clone().unwrap_or_else(host_name);
    let passphrase = passphrase::new(global)?;
    let new = unlocked::new_account(&args.server, &args.name, &device)?;
    let config = Config {
        version: CONFIG_VERSION,
        server: args.server.trim_end_matches('/').to_owned(),
        account: new.identity.account.to_string(),
        name: args.name.clone(),
        device,
        server_cert,
    };
    keystore::write(&profile.keystore(), &new.identity, &passphrase, password::Params::DEFAULT)?;
    let registered = unlocked::register(&config, &args.invite, &new).and_then(|()| profile.write_config(&config));
    if let Err(failure) = registered {
        // An account that nobody knows of: its keys are of no use.
        let _ = std::fs::remove_file(profile.keystore());
        return Err(failure);
    }
    output.remark("Keep a copy of the keystore file and remember your passphrase: without both the account is lost.");
    print(&config, output)
}

/// `account show`: needs no passphrase.
pub fn show(profile: &Profile, output: Output) -> Result<(), Failure> {
    print(&profile.config()?, output)
}

fn print(config: &Config, output: Output) -> Result<(), Failure> {
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

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "computer".to_owned(),
        name => name.to_owned(),
    }
}
