//! An unlocked profile at work: answers requests, whoever asks.
//!
//! The background process answers those that come over its socket; a command without a background
//! process answers its own. Must not know sockets, arguments or terminals.

mod doctor;
mod mounts;
mod past;
mod serving;
mod trust;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::control::{Pending, Request, Response, Status};
use super::failure::{Code, Failure};
use super::profile::{Config, Profile};
use super::unlocked::{FolderChange, Unlocked};
use crate::keyring::Identity;
use crate::sys::clock;

pub use serving::Serving;

/// How often waiting looks, and says how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// One unlocked profile and its mounts.
pub struct Engine {
    config: Config,
    unlocked: Arc<Unlocked>,
    mounts: mounts::Mounts,
}

impl Engine {
    /// Unlocks. The caller holds the profile's lock for as long as this lives.
    ///
    /// # Errors
    /// When a local file is damaged, the disk is full, or the server's address cannot be used; not when
    /// the server cannot be reached.
    pub fn open(profile: &Profile, config: Config, identity: Identity) -> Result<Arc<Self>, Failure> {
        let unlocked = Arc::new(Unlocked::open(profile, &config, identity)?);
        let mounts = mounts::Mounts::new(unlocked.clone());
        Ok(Arc::new(Self { config, unlocked, mounts }))
    }

    /// Does what `request` asks. `progress` answers false when nobody waits any more.
    ///
    /// # Errors
    /// What to tell whoever asked.
    pub fn handle(&self, request: Request, progress: &mut dyn FnMut(Pending) -> bool) -> Result<Response, Failure> {
        match request {
            Request::Status => Ok(Response::Status(self.status())),
            Request::Mount { folder, dir, settings } => {
                if let Some(which) = &folder {
                    self.unlocked.discover(which, &mut || progress(Pending::default()))?;
                }
                self.mounts.mount(folder.as_deref(), &dir, &settings)
            }
            Request::Unmount { dir, force, wait_ms } => {
                self.mounts.unmount(&dir, force)?;
                let (pending, online) = self.wait(None, Duration::from_millis(wait_ms), progress)?;
                Ok(Response::Unmounted { dirs: vec![dir], pending, online, ending: self.ending() })
            }
            Request::Lock { force } => {
                let dirs = self.mounts.unmount_all(force)?;
                let (pending, online) = self.unlocked.pending(None)?;
                Ok(Response::Unmounted { dirs, pending, online, ending: self.ending() })
            }
            Request::Sync { folder, wait_ms } => {
                self.mounts.flush_all()?;
                self.unlocked.refresh_if_reachable()?;
                let wait = Duration::from_millis(wait_ms);
                let (pending, online) = self.wait(folder.as_deref(), wait, progress)?;
                Ok(Response::Synced { pending, online })
            }
            Request::CacheClear => Ok(Response::CacheCleared { bytes: self.unlocked.clear_cache()? }),
            Request::FolderCreate { name } => {
                let folder = self.unlocked.create_folder(&name)?;
                // The session tells of folders that others made.
                self.mounts.show(&FolderChange::Joined(folder.id.clone()));
                Ok(Response::FolderCreated(folder))
            }
            Request::FolderList => self.unlocked.folders().map(Response::Folders),
            Request::MemberAdd { folder, account, role, expires_ms, history } => {
                let added = self.unlocked.add_member(&folder, &account, &role, expires_ms, history);
                added.map(Response::MemberAdded)
            }
            Request::MemberRemove { folder, member } => {
                self.unlocked.remove_member(&folder, &member).map(Response::MemberRemoved)
            }
            Request::MemberRole { folder, member, role, expires_ms } => {
                self.unlocked.set_role(&folder, &member, &role, expires_ms).map(Response::MemberChanged)
            }
            Request::FolderLeave { folder } => {
                self.mounts.flush_all()?;
                self.unlocked.leave(&folder).map(Response::Left)
            }
            Request::FolderTransfer { folder, member, step_down } => {
                self.unlocked.transfer(&folder, &member, step_down).map(Response::MemberChanged)
            }
            Request::Device(request) => self.unlocked.device(request).map(Response::Device),
            Request::Invite(request) => self.unlocked.invite(request).map(Response::Invite),
            Request::Rotate { folder } => {
                let (folder, epoch) = self.unlocked.rotate(&folder)?;
                Ok(Response::Rotated { folder, epoch })
            }
            Request::KeptList => self.unlocked.kept().map(Response::Kept),
            Request::Recover { name, dir } => {
                let (files, others) = self.unlocked.recover(&name, absolute(&dir)?)?;
                Ok(Response::Recovered { files, others })
            }
            Request::Verify { contact, same } => self.verify(contact.as_deref(), same),
            Request::VerifyFolder { folder, seen: None } => self.unlocked.folder_words(&folder),
            Request::VerifyFolder { folder, seen: Some(seen) } => self.unlocked.compare_folder(&folder, &seen),
            Request::Evidence { folder, to } => self.evidence(&folder, to.as_deref()),
            Request::Thaw { folder, anew } => self.thaw(&folder, anew),
            Request::Access { folder, path } => self.unlocked.access(&folder, &path).map(Response::Access),
            Request::Activity { folder, after, seen } => self.activity(&folder, after, seen),
            Request::Past(request) => self.past(request).map(Response::Past),
            Request::Doctor(request) => self.doctor(request, progress).map(Response::Doctor),
            Request::MemberList { folder } => self.unlocked.members(&folder).map(Response::Members),
        }
    }

    /// This process, where nothing is left to do for it.
    fn ending(&self) -> Option<u32> {
        (!self.is_mounted()).then(std::process::id)
    }

    /// Whether something is mounted.
    pub fn is_mounted(&self) -> bool {
        !self.mounts.is_empty()
    }

    /// Calls `lock` when another device of the account has revoked this one.
    pub fn on_revoked(&self, lock: Box<dyn Fn() + Send + Sync>) {
        self.unlocked.on_revoked(lock);
    }

    /// Unmounts everything, by force where it must, and flushes: the process is about to end.
    pub fn end(&self) {
        if let Err(failure) = self.mounts.unmount_all(false) {
            tracing::warn!(code = ?failure.code, "a mount is in use and is detached");
            if let Err(failure) = self.mounts.unmount_all(true) {
                tracing::error!(code = ?failure.code, "a mount could not be ended cleanly");
            }
        }
        self.unlocked.close();
    }

    fn status(&self) -> Status {
        let folders = self.unlocked.status();
        Status {
            server: self.config.server.clone(),
            online: self.unlocked.online(),
            pid: Some(std::process::id()),
            mounts: self.mounts.list(),
            folders,
            // What is damaged is told by `kegfs recover`.
            kept: self.unlocked.kept().unwrap_or_default(),
            // A revoked device locks itself before anybody asks.
            revoked: None,
        }
    }

    /// Waits until everything is on the server, at most `patience`, and not while offline: what is in
    /// the journal is safe, and nobody knows when the server is back.
    fn wait(
        &self,
        folder: Option<&str>,
        patience: Duration,
        progress: &mut dyn FnMut(Pending) -> bool,
    ) -> Result<(Pending, bool), Failure> {
        let deadline = clock::monotonic() + patience;
        // A session that was opened a moment ago is not connected yet.
        let connect_by = clock::monotonic() + patience.min(Duration::from_secs(5));
        let mut told = None;
        loop {
            let (pending, online) = self.unlocked.pending(folder)?;
            let now = clock::monotonic();
            if pending.is_empty() || now >= deadline || (!online && now >= connect_by) {
                return Ok((pending, online));
            }
            if told.is_none_or(|at| now >= at + Duration::from_millis(500)) {
                told = Some(now);
                if !progress(pending) {
                    return Ok((pending, online));
                }
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.unlocked.close();
    }
}

/// Refuses a mountpoint that is not absolute: this process has its own working directory.
fn absolute(dir: &Path) -> Result<&Path, Failure> {
    if dir.is_absolute() {
        Ok(dir)
    } else {
        Err(Failure::new(Code::Usage, format!("{} is not an absolute path", dir.display())))
    }
}
