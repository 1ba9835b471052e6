//! Who does what a command asks: the background process if one runs, else this process.
//!
//! Must not print. A command that needs the keys asks for the passphrase only when nobody holds them.

use std::sync::Arc;
use std::time::Duration;

use super::args::Global;
use super::control::{Client, Pending, Request, Response};
use super::engine::Engine;
use super::failure::{Code, Failure};
use super::profile::{Config, Profile};
use super::{daemon, keystore, passphrase};
use crate::keyring::Identity;
use crate::sys::files::FileLock;

/// How long a short command waits for another to finish.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a background process that was just ending is asked again.
const TRIES: u32 = 3;

/// A profile on whose behalf commands are done.
pub struct Backend<'a> {
    profile: &'a Profile,
    global: &'a Global,
    /// Unlocked here, when no background process runs: kept for the next request of the same command.
    own: Option<(Arc<Engine>, FileLock)>,
}

impl<'a> Backend<'a> {
    /// For `profile`; nothing is opened yet.
    pub fn new(profile: &'a Profile, global: &'a Global) -> Self {
        Self { profile, global, own: None }
    }

    /// Goes on with an account that this command has just made, without asking for its passphrase again.
    ///
    /// # Errors
    /// Why the profile cannot be opened.
    pub fn unlocked(&mut self, config: Config, identity: Identity) -> Result<(), Failure> {
        let lock = self.profile.lock(PATIENCE)?;
        self.own = Some((Engine::open(self.profile, config, identity)?, lock));
        Ok(())
    }

    /// Has `request` done by whoever can.
    ///
    /// # Errors
    /// The request's own failure, or why the profile cannot be unlocked.
    pub fn ask(&mut self, request: Request, progress: &mut dyn FnMut(Pending)) -> Result<Response, Failure> {
        if let Some(response) = self.ask_running(&request, progress)? {
            return Ok(response);
        }
        if self.own.is_none() {
            let (config, identity) = self.unlock()?;
            let lock = self.profile.lock(PATIENCE)?;
            self.own = Some((Engine::open(self.profile, config, identity)?, lock));
        }
        match &self.own {
            Some((engine, _)) => engine.handle(request, &mut |pending| {
                progress(pending);
                true
            }),
            None => Err(Failure::new(Code::Failure, "the profile could not be unlocked")),
        }
    }

    /// Has `request` done by the background process if one runs; `None` if not.
    ///
    /// # Errors
    /// The request's own failure.
    pub fn ask_running(
        &self,
        request: &Request,
        progress: &mut dyn FnMut(Pending),
    ) -> Result<Option<Response>, Failure> {
        for _ in 0..TRIES {
            let Some(client) = Client::connect(&self.profile.socket())? else { return Ok(None) };
            if let Some(response) = client.ask(request, progress)? {
                return Ok(Some(response));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(None)
    }

    /// Has `request` done by the background process, which is started if none runs.
    ///
    /// # Errors
    /// The request's own failure, or why the process cannot be started.
    pub fn ask_background(&self, request: &Request, progress: &mut dyn FnMut(Pending)) -> Result<Response, Failure> {
        if let Some(response) = self.ask_running(request, progress)? {
            return Ok(response);
        }
        let (_, identity) = self.unlock()?;
        match daemon::start(self.profile, &identity) {
            // Somebody else's was faster: theirs answers as well.
            Err(failure) if failure.code == Code::Busy => {}
            other => other?,
        }
        drop(identity);
        self.ask_running(request, progress)?.ok_or_else(|| {
            Failure::new(
                Code::Busy,
                format!("the profile {} is in use by another command; try again", self.profile.dir().display()),
            )
        })
    }

    fn unlock(&self) -> Result<(Config, Identity), Failure> {
        let config = self.profile.config()?;
        let path = self.profile.keystore();
        // Damage is told before anybody types a passphrase.
        let wrapped = keystore::read(&path)?;
        let passphrase = passphrase::existing(self.global, &config.name)?;
        let identity = keystore::open(&path, &wrapped, &passphrase)?;
        if identity.account.to_string() != config.account {
            return Err(Failure::new(
                Code::Corrupt,
                format!(
                    "{} and {} belong to different accounts; restore both from the same backup",
                    path.display(),
                    self.profile.config_path().display()
                ),
            ));
        }
        Ok((config, identity))
    }
}
