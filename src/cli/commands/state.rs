//! `kegfs status`, `kegfs sync`, `kegfs cache …`.

use std::time::Duration;

use super::super::args::SyncArgs;
use super::super::backend::Backend;
use super::super::control::{Request, Response, Status};
use super::super::failure::{Code, Failure};
use super::super::output::{self, Output};
use super::super::profile::Profile;
use super::unexpected;

/// `status`: without a background process nothing is unlocked, and that is what there is to tell.
pub fn status(profile: &Profile, backend: &Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask_running(&Request::Status, &mut |_| {})? {
        Some(Response::Status(status)) => output.show(&status, &output::status(&status)),
        Some(other) => Err(unexpected(&other)),
        None => {
            let config = profile.config()?;
            let next = match profile.revoked() {
                Some(why) => format!("REVOKED  {}\n", output::harmless(&why)),
                None => "unlock:  kegfs mount [FOLDER] DIR\n".to_owned(),
            };
            let text = format!(
                "locked: nothing is mounted, no process holds a key\naccount  {}\nserver   {}\n{next}",
                output::harmless(&config.name),
                config.server
            );
            let locked = Status {
                server: config.server,
                online: false,
                pid: None,
                mounts: Vec::new(),
                folders: Vec::new(),
                kept: Vec::new(),
                revoked: profile.revoked(),
            };
            output.show(&locked, &text)
        }
    }
}

/// `sync`
pub fn sync(args: SyncArgs, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let wait = if args.wait { Duration::from_secs(args.timeout) } else { Duration::ZERO };
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let mut progress = output.progress();
    let response =
        backend.ask(Request::Sync { folder: args.folder, wait_ms }, &mut |pending| progress.show(pending))?;
    drop(progress);
    let Response::Synced { pending, online } = response else { return Err(unexpected(&response)) };
    if args.wait && !pending.is_empty() {
        let (code, why) = match online {
            true => (Code::Failure, "the time is up"),
            false => (Code::Unreachable, "the server cannot be reached"),
        };
        let left = output::left(pending);
        return Err(Failure::new(
            code,
            format!(
                "{why}: {left} not yet on the server; they are safe in the journal and will be sent; look: kegfs status"
            ),
        ));
    }
    let text = match (pending.is_empty(), online) {
        (true, true) => "everything is on the server\n".to_owned(),
        (true, false) => "offline; nothing local is waiting for the server\n".to_owned(),
        (false, true) => format!("{} on the way to the server\n", output::left(pending)),
        (false, false) => format!("offline; {} wait for the server, safe in the journal\n", output::left(pending)),
    };
    output.show(&response, &text)
}

/// `cache clear`
pub fn clear_cache(backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask(Request::CacheClear, &mut |_| {})? {
        Response::CacheCleared { bytes } => {
            output.show(&Response::CacheCleared { bytes }, &format!("freed {}\n", output::bytes(bytes)))
        }
        other => Err(unexpected(&other)),
    }
}
