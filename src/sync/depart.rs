//! Taking a folder away that the user is no member of any more: what had not reached the server is kept beside the
//! profile, everything else of the folder goes.
//!
//! The order makes a crash harmless: first the kept work, then the profile's record of the folder, then its files. What
//! has no record is removed at the next start.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;

use super::event::Event;
use super::session::Inner;
use super::{Folder, SyncError, export};
use crate::format::DbId;

/// Until what failed (a full disk) is tried again.
const AGAIN: Duration = Duration::from_secs(30);

impl Inner {
    /// Takes folders away as they are told, for as long as the session lives.
    pub async fn run_departures(session: Weak<Self>, mut departing: mpsc::UnboundedReceiver<DbId>) {
        while let Some(db) = departing.recv().await {
            loop {
                let Some(inner) = session.upgrade() else { return };
                let Some(folder) = inner.all().into_iter().find(|folder| folder.id() == db) else { break };
                let this = Arc::clone(&inner);
                let taken = tokio::task::spawn_blocking(move || this.take_away(&folder)).await;
                match taken {
                    Ok(Ok(())) => {
                        // Perhaps the user is a member again: then it begins anew.
                        if let Err(error) = inner.discover().await {
                            tracing::debug!(%error, "the server did not list the folders");
                        }
                        break;
                    }
                    Ok(Err(error)) => tracing::error!(%db, %error, "a folder that was left is still here"),
                    Err(_) => return,
                }
                drop(inner);
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Takes a folder away, with what had not reached the server kept beside the profile.
    pub(super) fn take_away(&self, folder: &Arc<Folder>) -> Result<(), SyncError> {
        folder.stop();
        self.shared.hub.leave(&folder.id());
        let _none_is_opened = self.opening.lock();
        if self.folders.read().get(&folder.id()).is_none() {
            // The session closes; the next one finds the folder as it is.
            return Ok(());
        }
        let name = folder.name();
        let kept = export::keep(folder, &self.kept_dir())?;
        self.store.remove_folder(&folder.id())?;
        self.folders.write().remove(&folder.id());
        if let Err(error) = folder.replica.close() {
            tracing::warn!(%error, "the journal of a folder that was left could not be closed cleanly");
        }
        remove_dir(folder.dir())?;
        self.shared.hub.tell(&Event::Departed { db: folder.id(), name, kept });
        Ok(())
    }

    /// Removes what a process that died while taking a folder away has left.
    pub fn sweep_departed(&self) -> Result<(), SyncError> {
        let known: HashSet<String> = self.store.folders()?.into_iter().map(|record| record.dir).collect();
        let entries = match fs::read_dir(&self.paths.folders) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error(&self.paths.folders, &error)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.parse::<DbId>().is_ok() && !known.contains(name)) {
                remove_dir(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Where work is kept that could not be sent any more.
    pub fn kept_dir(&self) -> std::path::PathBuf {
        self.paths.profile.join("kept")
    }
}

fn remove_dir(dir: &Path) -> Result<(), SyncError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(dir, &error)),
        _ => Ok(()),
    }
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> SyncError {
    SyncError::Io { path: path.to_owned(), detail: error.to_string() }
}
