//! What any application may expect of a file system, on real mounts: compared with a local directory, step by step.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;
#[path = "mount_posix/differ.rs"]
mod differ;
#[path = "mount_posix/exerciser.rs"]
mod exerciser;
#[path = "mount_posix/lists.rs"]
mod lists;
#[path = "mount_posix/nameless.rs"]
mod nameless;
#[path = "mount_posix/names.rs"]
mod names;
#[path = "mount_posix/side.rs"]
mod side;
#[path = "mount_posix/stories.rs"]
mod stories;
#[path = "mount_posix/times.rs"]
mod times;

use std::path::PathBuf;

use common::{Member, Server};
use tempfile::TempDir;

/// Arguments of a mount that shows and stores numeric owners, for all users.
pub const STORED: [&str; 2] = ["-o", "owners=stored,allow_other"];

/// One member with one folder, mounted.
pub struct Alone {
    pub alice: Member,
    pub mnt: PathBuf,
    /// A directory of the local file system.
    pub local: PathBuf,
    pub server: Server,
    _dir: TempDir,
}

impl Alone {
    pub fn set_up() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Others must get through to the mount.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let server = Server::start(dir.path());
        let mut alice = Member::create(dir.path(), "alice", &server.url(), &server.invite());
        alice.ok(&["folder", "create", "acme"]);
        let mnt = alice.mount("acme");
        let local = dir.path().join("local");
        std::fs::create_dir(&local).unwrap();
        Self { alice, mnt, local, server, _dir: dir }
    }

    /// Mounts with the numeric owners instead, for all users; only root can.
    pub fn mount_stored(&mut self) -> PathBuf {
        self.alice.unmount(&self.mnt);
        self.alice.mount_with("acme", &STORED)
    }

    /// Unmounts, which ends the process and with it everything in memory, and mounts again.
    pub fn remount(&mut self) {
        let mnt = self.mnt.clone();
        self.alice.unmount(&mnt);
        self.mnt = self.alice.mount("acme");
        assert_eq!(self.mnt, mnt);
    }
}

/// Number of cases or operations: `default`, unless the environment asks for more.
pub fn many(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}
