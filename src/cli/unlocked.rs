//! An unlocked account: its session with the server, in the words of the command line.
//!
//! Must not know sockets or terminals. The one place where the errors of the rooms below become
//! failures with exit codes.

pub(super) mod trust;

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::control::{FolderInfo, FolderStatus, HistoryWanted, KeptInfo, MemberInfo, Pending, RecoveredFile};
use super::failure::{Code, Failure};
use super::profile::{Config, Profile};
use super::{describe, locks, source};
use crate::blobs::LocalError;
use crate::crypto::words::Phrase;
use crate::format::{AccountId, Role};
use crate::keyring::Identity;
use crate::remote::{HttpOptions, HttpRemote, Remote, RemoteError};
use crate::replica::ReplicaError;
use crate::sync::{
    self, Event, Folder, History, Joined, Joining, KeptWork, Meeting, NewAccount, Session, SessionPaths, SyncError,
};
use crate::sys::threads;
use crate::vfs::FolderSource;

/// How long a command waits for the server to tell what there is.
const REFRESH: Duration = Duration::from_secs(30);
/// How long a mount waits for a folder that this device does not know yet, while nothing comes.
const DISCOVER: Duration = Duration::from_secs(10);

/// A folder came; with its id.
pub enum FolderChange {
    /// It can be shown.
    Joined(String),
}

/// A folder as the vfs wants it, with what people want to know of it.
pub type Shown = (FolderInfo, Arc<dyn FolderSource>);

/// One unlocked account.
pub struct Unlocked {
    pub(super) session: Arc<Session>,
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
        let opened = Session::open(&paths, identity, remote);
        if let Err(error @ SyncError::DeviceRevoked { .. }) = &opened {
            profile.note_revoked(&error.to_string());
        }
        let session = opened.map_err(told)?;
        let noted = profile.clone();
        session.on_event(move |event| {
            if let Event::DeviceRevoked { name } = event {
                noted.note_revoked(&SyncError::DeviceRevoked { name: name.clone() }.to_string());
            }
        });
        Ok(Self { session, server })
    }

    /// The folder named `which`, for a mount. A folder that is not known here is looked for at the server.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn source(&self, which: &str, fsync_server: bool) -> Result<Shown, Failure> {
        let folder = self.folder(which)?;
        Ok((describe::folder_info(&folder), source::of(&folder, fsync_server)))
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
        Ok(mine.map(|folder| (describe::folder_info(&folder), source::of(&folder, fsync_server))).collect())
    }

    /// Creates a folder.
    ///
    /// # Errors
    /// A name that cannot be used or is taken; the server.
    pub fn create_folder(&self, name: &str) -> Result<FolderInfo, Failure> {
        let folder = self.session.create_folder(name).map_err(|error| self.told(error))?;
        Ok(describe::folder_info(&folder))
    }

    /// All folders; as known here when the server cannot be reached.
    ///
    /// # Errors
    /// What keeps a folder from being complete, except an unreachable server.
    pub fn folders(&self) -> Result<Vec<FolderInfo>, Failure> {
        self.refresh_if_reachable()?;
        Ok(self.session.folders().iter().map(|folder| describe::folder_info(folder)).collect())
    }

    /// Adds a member; a guest until `expires_ms`.
    ///
    /// # Errors
    /// An account that is none, a role that does not allow it; the server.
    pub fn add_member(
        &self,
        folder: &str,
        account: &str,
        role: &str,
        expires_ms: Option<i64>,
        history: HistoryWanted,
    ) -> Result<MemberInfo, Failure> {
        let account = match account.parse::<AccountId>() {
            Ok(account) => account,
            Err(_) => self.known(account)?,
        };
        let role = role_of(role)?;
        let folder = self.folder(folder)?;
        let added = match expires_ms {
            Some(end) => self.session.add_guest(&folder, account, role.writes(), end),
            None => {
                let history = match history {
                    HistoryWanted::Full => History::Full,
                    HistoryWanted::None => History::None,
                    HistoryWanted::SinceMs(since_ms) => History::Since(since_ms),
                };
                self.session.add_member_with(&folder, account, role, history)
            }
        };
        added.map_err(|error| self.told(error))?;
        self.as_listed(&folder, account)
    }

    /// Removes a member; returns who it was.
    ///
    /// # Errors
    /// Not a member, not allowed; the server.
    pub fn remove_member(&self, folder: &str, member: &str) -> Result<MemberInfo, Failure> {
        let (folder, member) = self.member(folder, member)?;
        self.session.remove_member(&folder, member.account).map_err(|error| self.told(error))?;
        Ok(describe::member_info(&member))
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// Not a member, not allowed; the server.
    pub fn set_role(
        &self,
        folder: &str,
        member: &str,
        role: &str,
        expires_ms: Option<i64>,
    ) -> Result<MemberInfo, Failure> {
        let role = role_of(role)?;
        let (folder, member) = self.member(folder, member)?;
        self.session.set_role(&folder, member.account, role, expires_ms).map_err(|error| self.told(error))?;
        self.as_listed(&folder, member.account)
    }

    /// Makes another member an owner.
    ///
    /// # Errors
    /// Not a member, not allowed; the server.
    pub fn transfer(&self, folder: &str, member: &str, step_down: bool) -> Result<MemberInfo, Failure> {
        let (folder, member) = self.member(folder, member)?;
        self.session.transfer(&folder, member.account, step_down).map_err(|error| self.told(error))?;
        self.as_listed(&folder, member.account)
    }

    /// Leaves a folder; returns which it was.
    ///
    /// # Errors
    /// The only owner; the server.
    pub fn leave(&self, folder: &str) -> Result<FolderInfo, Failure> {
        let folder = self.folder(folder)?;
        let info = describe::folder_info(&folder);
        self.session.leave(&folder).map_err(|error| self.told(error))?;
        Ok(info)
    }

    /// Starts a new epoch; returns the folder's name and the epoch.
    ///
    /// # Errors
    /// Not allowed; the server.
    pub fn rotate(&self, folder: &str) -> Result<(String, u32), Failure> {
        let folder = self.folder(folder)?;
        self.session.rotate(&folder).map_err(|error| self.told(error))?;
        Ok((folder.name(), folder.status().epoch))
    }

    /// Changes that are kept because they could no longer be uploaded.
    ///
    /// # Errors
    /// Those of the files.
    pub fn kept(&self) -> Result<Vec<KeptInfo>, Failure> {
        let kept = self.session.kept_work().map_err(|error| self.told(error))?;
        let info = |one: KeptWork| KeptInfo {
            name: one.name,
            dir: one.dir,
            folder: one.folder,
            kept_ms: one.kept_ms,
            files: one.files,
            changes: one.changes,
        };
        Ok(kept.into_iter().map(info).collect())
    }

    /// Writes the files of kept changes below `dir`; also tells how many other changes there are.
    ///
    /// # Errors
    /// No such kept changes; those of the files.
    pub fn recover(&self, name: &str, dir: &std::path::Path) -> Result<(Vec<RecoveredFile>, u64), Failure> {
        let recovered = self.session.recover(name, dir).map_err(|error| self.told(error))?;
        let file = |(path, missing_bytes)| RecoveredFile { path, missing_bytes };
        Ok((recovered.files.into_iter().map(file).collect(), recovered.others))
    }

    /// A folder, up to date where the server can be reached, and one of its members.
    fn member(&self, folder: &str, member: &str) -> Result<(Arc<Folder>, sync::Member), Failure> {
        let folder = self.folder(folder)?;
        match folder.catch_up_blocking(REFRESH) {
            Err(error) if !error.is_transient() => return Err(self.told(error)),
            _ => {}
        }
        let member = self.session.member(&folder, member).map_err(|error| self.told(error))?;
        Ok((folder, member))
    }

    fn as_listed(&self, folder: &Folder, account: AccountId) -> Result<MemberInfo, Failure> {
        let members = folder.members();
        members.iter().find(|member| member.account == account).map(describe::member_info).ok_or_else(|| {
            Failure::new(
                Code::Refused,
                format!("somebody else has removed {account} at the same moment; look: kegfs member list"),
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
        Ok(describe::members(&folder))
    }

    /// Where each folder stands.
    pub fn status(&self) -> Vec<FolderStatus> {
        let asked = |folder: &Arc<Folder>| {
            let mut status = describe::folder_status(folder);
            locks::ask(folder, &mut status);
            status
        };
        let shown = self.session.folders();
        shown.iter().chain(&self.session.waiting()).chain(&self.session.hidden()).map(asked).collect()
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

    /// Calls `listener` with the id of a folder that is to be taken away, on a background thread, and waits for it.
    pub fn on_leaving(&self, listener: Box<dyn Fn(&str) + Send + Sync>) {
        self.session.on_leaving(move |db| listener(&db.to_string()));
    }

    /// Calls `lock` when this device was revoked, from a background thread; at once where it happened already.
    pub fn on_revoked(&self, lock: Box<dyn Fn() + Send + Sync>) {
        let lock = Arc::new(lock);
        let later = Arc::clone(&lock);
        self.session.on_event(move |event| {
            if matches!(event, Event::DeviceRevoked { .. }) {
                later();
            }
        });
        if self.session.is_revoked() {
            lock();
        }
    }

    /// Calls `listener` when folders come, from background threads.
    pub fn on_folder_change(&self, listener: Box<dyn Fn(&FolderChange) + Send + Sync>) {
        self.session.on_event(move |event| match event {
            Event::FolderJoined { db, .. } => listener(&FolderChange::Joined(db.to_string())),
            Event::RoleChanged { db, role: Some(_) } => listener(&FolderChange::Joined(db.to_string())),
            Event::RoleChanged { role: None, .. }
            | Event::DeviceRevoked { .. }
            | Event::FalseRedemption { .. }
            | Event::InviteUsed { .. }
            | Event::RotationDue { .. }
            | Event::Departed { .. }
            | Event::LockBroken { .. }
            | Event::Online
            | Event::Offline { .. }
            | Event::Misbehaviour { .. }
            | Event::FalseCheckpoint { .. }
            | Event::EntryIgnored { .. }
            | Event::CorruptBlob { .. }
            | Event::FalseAccount { .. }
            | Event::FalseKey { .. }
            | Event::Stalled { .. }
            | Event::UploadBlocked { .. } => {}
        });
    }

    /// Closes the account's local state, its journals durable. Later calls do nothing.
    pub fn close(&self) {
        if let Err(error) = self.session.close() {
            tracing::error!(%error, "a folder could not be closed cleanly");
        }
    }

    /// All folders that this device has.
    pub(super) fn all_folders(&self) -> Vec<Arc<Folder>> {
        self.session.folders()
    }

    /// Waits for a folder that this device does not know (yet): perhaps somebody has added this account a moment ago.
    /// The log of a folder with a million files takes minutes; `waiting` is called every second meanwhile and answers
    /// `false` when nobody waits any more.
    ///
    /// # Errors
    /// What keeps the folder from coming. That there is none of that name is not known here.
    pub fn discover(&self, which: &str, waiting: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        if !matches!(self.session.folder(which), Err(SyncError::NoSuchFolder(_))) {
            return Ok(());
        }
        let (session, (done, result)) = (self.session.clone(), std::sync::mpsc::channel());
        threads::spawn("kegfs-discover", move || done.send(session.refresh(DISCOVER)).is_ok())
            .map_err(|error| Failure::new(Code::Failure, format!("no thread to wait for the folder: {error}")))?;
        loop {
            match result.recv_timeout(Duration::from_secs(1)) {
                Err(RecvTimeoutError::Timeout) if waiting() => {}
                Ok(Err(error)) if !error.is_transient() => return Err(self.told(error)),
                _ => return Ok(()),
            }
        }
    }

    /// The folder with this name or id. One that is not known here is looked for at the server.
    ///
    /// # Errors
    /// When there is none, or several.
    pub(super) fn folder(&self, which: &str) -> Result<Arc<Folder>, Failure> {
        self.discover(which, &mut || true)?;
        self.session.folder(which).map_err(|error| match error {
            // It may be the one that has no name here yet.
            SyncError::NoSuchFolder(_) if !self.session.waiting().is_empty() => self.told(SyncError::AwaitingState),
            error => self.told(error),
        })
    }

    pub(super) fn told(&self, error: SyncError) -> Failure {
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

/// A new device called `name` that waits under a code.
///
/// # Errors
/// The server cannot be reached; a name that cannot be used.
pub fn begin_joining(config: &Config, name: &str) -> Result<Joining, Failure> {
    Joining::begin(&options(config), name).map_err(|error| failure(&config.server, error))
}

/// Waits until the code was typed on another device.
///
/// # Errors
/// Nobody typed the code in time; the server was caught.
pub fn meet(config: &Config, joining: Joining, within: Duration) -> Result<Meeting, Failure> {
    joining.meet(within).map_err(|error| failure(&config.server, error))
}

/// The words are the same: waits until it was let in.
///
/// # Errors
/// It was refused there, or nothing was said in time; the server was caught.
pub fn end_joining(config: &Config, meeting: Meeting, within: Duration) -> Result<Joined, Failure> {
    meeting.accept(within).map_err(|error| failure(&config.server, error))
}

/// The words are not the same.
///
/// # Errors
/// Those of telling the other device.
pub fn refuse_meeting(config: &Config, meeting: Meeting) -> Result<(), Failure> {
    meeting.refuse().map_err(|error| failure(&config.server, error))
}

/// A new device by the recovery phrase.
///
/// # Errors
/// A wrong phrase; the server.
pub fn recover_account(config: &Config, account: AccountId, phrase: &Phrase, name: &str) -> Result<Joined, Failure> {
    sync::recover_account(&options(config), account, phrase, name).map_err(|error| failure(&config.server, error))
}

/// Writes what a new device was told to the profile.
///
/// # Errors
/// Those of the files.
pub fn keep_joined(config: &Config, joined: &Joined, profile: &Profile) -> Result<(), Failure> {
    joined.keep(profile.dir()).map_err(|error| failure(&config.server, error))
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

/// The role of that name.
///
/// # Errors
/// [`Code::Usage`] where there is none.
pub fn role_of(name: &str) -> Result<Role, Failure> {
    use Role::{Admin, Editor, GuestEditor, GuestViewer, Owner, Viewer};
    let roles = [GuestViewer, GuestEditor, Viewer, Editor, Admin, Owner];
    roles.into_iter().find(|role| role_name(*role) == name).ok_or_else(|| {
        Failure::new(Code::Usage, format!("{name} is not a role; there are: guest, viewer, editor, admin, owner"))
    })
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
        | SyncError::NotTheirMember { .. }
        | SyncError::AmbiguousMember { .. }
        | SyncError::LastOwner
        | SyncError::NoHistory { .. }
        | SyncError::NotAllowed { .. }
        | SyncError::NotAMember
        | SyncError::Frozen(_)
        | SyncError::Undecided { .. }
        | SyncError::UpdateNeeded(_)
        | SyncError::NotFrozen
        | SyncError::CompareFirst(_)
        | SyncError::Misbehaviour(_)
        | SyncError::PastGone(_)
        | SyncError::ClockBehind(_)
        | SyncError::Incomparable
        | SyncError::Refused(_)
        | SyncError::NoSuchAccount(_)
        | SyncError::DeviceRevoked { .. }
        | SyncError::DeviceNameTaken(_)
        | SyncError::ThisDevice
        | SyncError::NoDeviceWaits
        | SyncError::CodeUsed
        | SyncError::JoinRefused
        | SyncError::HasRecovery
        | SyncError::WrongPhrase
        | SyncError::BadInvite(_) => Code::Refused,
        SyncError::NoSuchContact(_)
        | SyncError::BadName(_)
        | SyncError::BadLabel(_)
        | SyncError::PastExpiry
        | SyncError::HistoryInFuture
        | SyncError::HistoryBeforeFolder
        | SyncError::HistoryOfRole { .. }
        | SyncError::Yourself { .. }
        | SyncError::NoKeptWork(_) => Code::Usage,
        SyncError::NoSuchFolder(_)
        | SyncError::NoSuchFile(_)
        | SyncError::AmbiguousFolder { .. }
        | SyncError::NoSuchDevice(_)
        | SyncError::AmbiguousDevice { .. }
        | SyncError::Io { .. }
        | SyncError::AwaitingState
        | SyncError::AddedOnly { .. }
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
