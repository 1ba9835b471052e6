//! An unlocked account: its session with the server, in the words of the command line.
//!
//! Must not know sockets or terminals. The one place where the errors of the rooms below become
//! failures with exit codes.

use std::sync::Arc;
use std::time::Duration;

use super::control::{FolderInfo, FolderStatus, MemberInfo, Pending};
use super::failure::{Code, Failure};
use super::profile::{Config, Profile};
use super::source;
use crate::blobs::LocalError;
use crate::format::{AccountId, Role};
use crate::keyring::Identity;
use crate::remote::{HttpOptions, HttpRemote, Remote, RemoteError};
use crate::replica::ReplicaError;
use crate::sync::{self, Event, Folder, NewAccount, Session, SessionPaths, SyncError};
use crate::vfs::FolderSource;

/// How long a command waits for the server to tell what there is.
const REFRESH: Duration = Duration::from_secs(30);
/// How long a mount waits for a folder that this device does not know yet.
const DISCOVER: Duration = Duration::from_secs(10);

/// A folder came, or is no longer this account's; with its id.
pub enum FolderChange {
    /// It can be shown.
    Joined(String),
    /// It must be hidden.
    Left(String),
}

/// A folder as the vfs wants it, with what people want to know of it.
pub type Shown = (FolderInfo, Arc<dyn FolderSource>);

/// One unlocked account.
pub struct Unlocked {
    session: Arc<Session>,
    server: String,
}

impl Unlocked {
    /// Opens the account's local state and begins to follow the server.
    ///
    /// # Errors
    /// Damaged or missing local files, a full disk, an address that cannot be used.
    pub fn open(profile: &Profile, config: &Config, identity: Identity) -> Result<Self, Failure> {
        let server = config.server.clone();
        let told = |error| failure(&server, error);
        let remote = sync::connect(&options(config), &identity).map_err(told)?;
        let paths = SessionPaths {
            profile: profile.dir().to_owned(),
            folders: profile.dir().join("folders"),
            cache_bytes: sync::DEFAULT_CACHE_BYTES,
        };
        let session = Session::open(&paths, identity, remote).map_err(told)?;
        Ok(Self { session, server })
    }

    /// The folder named `which`, for a mount. A folder that is not known here is looked for at the server.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn source(&self, which: &str, fsync_server: bool) -> Result<Shown, Failure> {
        let folder = self.folder(which)?;
        Ok((self.info(&folder), source::of(&folder, fsync_server)))
    }

    /// All folders, for a mount.
    ///
    /// # Errors
    /// None today: what the server would add appears when it is reached.
    pub fn sources(&self, fsync_server: bool) -> Result<Vec<Shown>, Failure> {
        if self.session.folders().is_empty() {
            // A new device; offline there is nothing to show yet, and folders appear when they come.
            let _ = self.session.refresh(DISCOVER);
        }
        let mine = self.session.folders().into_iter().filter(|folder| folder.role().is_some());
        Ok(mine.map(|folder| (self.info(&folder), source::of(&folder, fsync_server))).collect())
    }

    /// Creates a folder.
    ///
    /// # Errors
    /// A name that cannot be used or is taken; the server.
    pub fn create_folder(&self, name: &str) -> Result<FolderInfo, Failure> {
        let folder = self.session.create_folder(name).map_err(|error| self.told(error))?;
        Ok(self.info(&folder))
    }

    /// All folders; as known here when the server cannot be reached.
    ///
    /// # Errors
    /// What keeps a folder from being complete, except an unreachable server.
    pub fn folders(&self) -> Result<Vec<FolderInfo>, Failure> {
        self.refresh_if_reachable()?;
        Ok(self.session.folders().iter().map(|folder| self.info(folder)).collect())
    }

    /// Adds a member.
    ///
    /// # Errors
    /// An account that is none, a role that does not allow it; the server.
    pub fn add_member(&self, folder: &str, account: &str, role: &str) -> Result<MemberInfo, Failure> {
        let account: AccountId = account.parse().map_err(|_| {
            Failure::new(
                Code::Usage,
                format!(
                    "{account} is not an account's id; ask for the 64 characters that `kegfs account show` prints there"
                ),
            )
        })?;
        let role = role_of(role)?;
        let folder = self.folder(folder)?;
        self.session.add_member(&folder, account, role).map_err(|error| self.told(error))?;
        let members = self.session.members(&folder);
        let added = members.iter().find(|member| member.account == account);
        added.map(member_info).ok_or_else(|| {
            Failure::new(
                Code::Refused,
                format!("{account} was added and removed by somebody else at once; look: kegfs member list"),
            )
        })
    }

    /// The members of a folder.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn members(&self, folder: &str) -> Result<Vec<MemberInfo>, Failure> {
        self.refresh_if_reachable()?;
        let folder = self.folder(folder)?;
        Ok(self.session.members(&folder).iter().map(member_info).collect())
    }

    /// Where each folder stands.
    pub fn status(&self) -> Vec<FolderStatus> {
        let one = |folder: &Arc<Folder>| {
            let status = folder.status();
            FolderStatus {
                folder: self.info(folder),
                online: status.online,
                stale_since_ms: status.stale_since_ms,
                pending: Pending { changes: status.pending_ops, bytes: status.pending_bytes },
                frozen: status.frozen,
                last_error: status.last_error,
            }
        };
        self.session.folders().iter().map(one).collect()
    }

    /// Whether the server is reachable now.
    pub fn online(&self) -> bool {
        self.session.online()
    }

    /// What is not yet on the server, of one folder or of all that can be sent; and whether the server
    /// is reachable.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn pending(&self, folder: Option<&str>) -> Result<(Pending, bool), Failure> {
        let folders = match folder {
            Some(which) => vec![self.session.folder(which).map_err(|error| self.told(error))?],
            None => self.session.folders(),
        };
        let pending = folders.iter().filter(|folder| folder.writable()).fold(Pending::default(), |sum, folder| {
            let status = folder.status();
            sum.plus(Pending { changes: status.pending_ops, bytes: status.pending_bytes })
        });
        Ok((pending, self.session.online()))
    }

    /// Fetches what others did, where the server can be reached.
    ///
    /// # Errors
    /// What keeps a folder from being complete, except an unreachable server.
    pub fn refresh_if_reachable(&self) -> Result<(), Failure> {
        match self.session.refresh(REFRESH) {
            Err(error) if error.is_transient() => Ok(()),
            other => other.map_err(|error| self.told(error)),
        }
    }

    /// Removes cached ciphertext; returns how many bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn clear_cache(&self) -> Result<u64, Failure> {
        let mut freed = 0;
        for folder in self.session.folders() {
            freed += folder.local.usage().cache_bytes;
            folder.local.clear_cache().map_err(|error| self.told(SyncError::from(error)))?;
        }
        Ok(freed)
    }

    /// Calls `listener` when folders come and go, from background threads.
    pub fn on_folder_change(&self, listener: Box<dyn Fn(&FolderChange) + Send + Sync>) {
        self.session.on_event(move |event| match event {
            Event::FolderJoined { db, .. } => listener(&FolderChange::Joined(db.to_string())),
            Event::RoleChanged { db, role: None } => listener(&FolderChange::Left(db.to_string())),
            Event::RoleChanged { db, role: Some(_) } => listener(&FolderChange::Joined(db.to_string())),
            Event::Online
            | Event::Offline { .. }
            | Event::Misbehaviour { .. }
            | Event::EntryIgnored { .. }
            | Event::CorruptBlob { .. }
            | Event::UploadBlocked { .. } => {}
        });
    }

    /// Closes the account's local state, its journals durable. Later calls do nothing.
    pub fn close(&self) {
        if let Err(error) = self.session.close() {
            tracing::error!(%error, "a folder could not be closed cleanly");
        }
    }

    fn folder(&self, which: &str) -> Result<Arc<Folder>, Failure> {
        match self.session.folder(which) {
            Err(SyncError::NoSuchFolder(_)) => {
                // Perhaps somebody has added this account a moment ago.
                match self.session.refresh(DISCOVER) {
                    Err(error) if !error.is_transient() => return Err(self.told(error)),
                    _ => {}
                }
                self.session.folder(which).map_err(|error| self.told(error))
            }
            other => other.map_err(|error| self.told(error)),
        }
    }

    fn info(&self, folder: &Arc<Folder>) -> FolderInfo {
        FolderInfo {
            id: folder.id().to_string(),
            name: folder.name(),
            role: folder.role().map_or("none", role_name).to_owned(),
            members: self.session.members(folder).len() as u64,
        }
    }

    fn told(&self, error: SyncError) -> Failure {
        failure(&self.server, error)
    }
}

/// Keys and first entry of a new account; nothing is sent yet.
///
/// # Errors
/// Names out of their bounds.
pub fn new_account(config_server: &str, name: &str, device: &str) -> Result<NewAccount, Failure> {
    NewAccount::create(name, device).map_err(|error| failure(config_server, error))
}

/// Registers a new account with its server.
///
/// # Errors
/// The server cannot be reached, or refuses the invite.
pub fn register(config: &Config, invite: &str, account: &NewAccount) -> Result<(), Failure> {
    let told = |error| failure(&config.server, error);
    let remote: Arc<dyn Remote> =
        HttpRemote::new(&options(config), None).map_err(|error| told(SyncError::Remote(error)))?;
    account.register(&remote, invite).map_err(told)
}

/// A role as commands and JSON call it.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::GuestViewer => "guest-viewer",
        Role::GuestEditor => "guest-editor",
        Role::Viewer => "viewer",
        Role::Editor => "editor",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}

fn role_of(name: &str) -> Result<Role, Failure> {
    [Role::Viewer, Role::Editor, Role::Admin, Role::Owner].into_iter().find(|role| role_name(*role) == name).ok_or_else(
        || Failure::new(Code::Usage, format!("{name} is not a role; there are: viewer, editor, admin, owner")),
    )
}

fn member_info(member: &sync::Member) -> MemberInfo {
    MemberInfo {
        account: member.account.to_string(),
        name: member.name.clone(),
        role: role_name(member.role).to_owned(),
    }
}

fn options(config: &Config) -> HttpOptions {
    HttpOptions {
        url: config.server.clone(),
        server_cert_pem: config.server_cert.as_ref().map(|pem| pem.clone().into_bytes()),
        server_name: None,
    }
}

/// An error of the session with what it means for the user.
fn failure(server: &str, error: SyncError) -> Failure {
    let code = match &error {
        SyncError::Remote(remote) => return remote_failure(server, remote),
        SyncError::TimedOut(_) => Code::Unreachable,
        SyncError::Replica(error) => replica_code(error),
        SyncError::Store(error) => store_code(error),
        SyncError::Damaged(_) | SyncError::LostBlob(_) | SyncError::Keyring(_) => Code::Corrupt,
        SyncError::NameTaken(_)
        | SyncError::AlreadyMember { .. }
        | SyncError::NotAllowed { .. }
        | SyncError::NotAMember
        | SyncError::Frozen(_)
        | SyncError::Misbehaviour(_)
        | SyncError::Refused(_)
        | SyncError::NoSuchAccount(_) => Code::Refused,
        SyncError::BadName(_) | SyncError::BadLabel(_) => Code::Usage,
        SyncError::NoSuchFolder(_)
        | SyncError::AmbiguousFolder { .. }
        | SyncError::Io { .. }
        | SyncError::Closed
        | SyncError::System(_) => Code::Failure,
    };
    let message = match &error {
        SyncError::TimedOut(_) => format!("{error}; is the server {server} reachable? try again"),
        _ => error.to_string(),
    };
    Failure::new(code, message)
}

fn remote_failure(server: &str, error: &RemoteError) -> Failure {
    match error {
        RemoteError::Unreachable(_) | RemoteError::Timeout => Failure::new(
            Code::Unreachable,
            format!(
                "the server {server} cannot be reached ({error}); check the address and the network, then try again"
            ),
        ),
        RemoteError::Untrusted(_) => Failure::new(Code::Unreachable, format!("{server}: {error}")),
        RemoteError::Refused(_) | RemoteError::WrongServer { .. } => {
            Failure::new(Code::Refused, format!("{server}: {error}"))
        }
        RemoteError::Protocol(_) => {
            Failure::new(Code::Failure, format!("{server}: {error}; is it a kegd, and of this version?"))
        }
        RemoteError::BadAddress(_) => Failure::new(Code::Usage, format!("{server}: {error}")),
    }
}

fn replica_code(error: &ReplicaError) -> Code {
    match error {
        ReplicaError::Corrupt { .. } | ReplicaError::WrongKey { .. } | ReplicaError::OtherOwner { .. } => Code::Corrupt,
        ReplicaError::DiskFull { .. } => Code::DiskFull,
        ReplicaError::InUse { .. } => Code::Busy,
        _ => Code::Failure,
    }
}

fn store_code(error: &LocalError) -> Code {
    match error {
        LocalError::DiskFull { .. } => Code::DiskFull,
        _ => Code::Failure,
    }
}
