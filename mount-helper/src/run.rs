//! Becomes the mount's owner and runs `kegfs mount`. Decides nothing about options: `options` has done that.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};
use nix::unistd::{Uid, User, geteuid, getuid, initgroups, setgid, setuid};

use crate::exit::Exit;
use crate::options::{Mount, Owner};

/// Why nothing was run, or why its success is not believed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The user named does not exist.
    #[error("no such user: {0} (option user= or uid=)")]
    NoSuchUser(String),
    /// Somebody who is not root asks for a mount of somebody else.
    #[error("only root may mount for another user")]
    NotPermitted,
    /// Changing the user did not work.
    #[error("could not become the user {0}: {1}")]
    CannotBecome(String, nix::Error),
    /// Changing the user left a way back to root.
    #[error("could not give up root: refusing to go on")]
    StillRoot,
    /// The namespace of `-N` cannot be entered.
    #[error("could not enter the mount namespace: {0}")]
    Namespace(io::Error),
    /// There is no `kegfs` beside this program or in PATH.
    #[error("the program kegfs was not found beside {0} nor in PATH")]
    NoProgram(String),
    /// `kegfs` could not be started.
    #[error("could not start {0}: {1}")]
    CannotStart(String, io::Error),
    /// `kegfs` claims success but nothing is mounted.
    #[error("kegfs reported success, but nothing is mounted at {0}")]
    NotMounted(String),
}

impl RunError {
    /// The exit code of mount(8) for it.
    pub fn exit(&self) -> Exit {
        match self {
            RunError::NotPermitted => Exit::Usage,
            RunError::NoSuchUser(_) | RunError::CannotBecome(..) | RunError::StillRoot => Exit::System,
            RunError::Namespace(_) | RunError::NoProgram(_) | RunError::CannotStart(..) => Exit::System,
            RunError::NotMounted(_) => Exit::Failed,
        }
    }
}

/// Carries the request out. The process has the owner's identity afterwards.
pub fn mount(mount: &Mount) -> Result<Exit, RunError> {
    let owner = mount.owner.as_ref().map(find_user).transpose()?;
    if let Some(owner) = &owner
        && owner.uid != getuid()
        && !geteuid().is_root()
    {
        return Err(RunError::NotPermitted);
    }
    let program = find_program()?;
    let arguments = arguments(mount);
    if mount.verbose {
        println!("mount.kegfs: {}", shown(&program, &arguments, owner.as_ref()));
    }
    if mount.fake {
        return Ok(Exit::Mounted);
    }
    if let Some(namespace) = &mount.namespace {
        enter(namespace).map_err(RunError::Namespace)?;
    }

    let mut command = Command::new(&program);
    command.args(&arguments);
    if !mount.verbose {
        command.stdout(Stdio::null());
    }
    if let Some(owner) = &owner
        && owner.uid != geteuid()
    {
        become_user(owner)?;
        // Of root's environment nothing but the terminal and the language concerns the owner's process.
        let kept = std::env::vars_os().filter(|(name, _)| keeps(name)).collect::<Vec<_>>();
        command.env_clear().envs(kept);
        command.env("HOME", &owner.dir).env("USER", &owner.name).env("LOGNAME", &owner.name);
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    }
    let status = command.status().map_err(|error| RunError::CannotStart(program.display().to_string(), error))?;
    let exit = Exit::of(status);
    if exit == Exit::Mounted && !is_mountpoint(&mount.directory) {
        return Err(RunError::NotMounted(mount.directory.display().to_string()));
    }
    Ok(exit)
}

fn find_user(owner: &Owner) -> Result<User, RunError> {
    let (found, shown) = match owner {
        Owner::Name(name) => (User::from_name(name), name.clone()),
        Owner::Uid(uid) => (User::from_uid(Uid::from_raw(*uid)), uid.to_string()),
    };
    found.ok().flatten().ok_or(RunError::NoSuchUser(shown))
}

/// Groups first: once the user is changed, groups no longer can be.
fn become_user(user: &User) -> Result<(), RunError> {
    let failed = |error| RunError::CannotBecome(user.name.clone(), error);
    let name = CString::new(user.name.as_str()).map_err(|_| RunError::NoSuchUser(user.name.clone()))?;
    setgid(user.gid).map_err(failed)?;
    initgroups(&name, user.gid).map_err(failed)?;
    setuid(user.uid).map_err(failed)?;
    if !user.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(RunError::StillRoot);
    }
    Ok(())
}

fn keeps(name: &OsStr) -> bool {
    name == "LANG"
        || name == "LANGUAGE"
        || name == "TERM"
        || name == "TZ"
        || name.as_encoded_bytes().starts_with(b"LC_")
}

/// `-N` is a process id or the path of a namespace file.
fn enter(namespace: &OsStr) -> io::Result<()> {
    let process = namespace.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let path = match process {
        Some(process) => PathBuf::from(format!("/proc/{process}/ns/mnt")),
        None => PathBuf::from(namespace),
    };
    setns(File::open(path)?, CloneFlags::CLONE_NEWNS).map_err(io::Error::from)
}

/// The one beside this program is of the same version; `current_exe` follows the link `/sbin/mount.kegfs`.
fn find_program() -> Result<PathBuf, RunError> {
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.parent().map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let absolute = std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect::<Vec<_>>();
    let mut candidates = beside.into_iter().chain(absolute).map(|directory| directory.join("kegfs"));
    candidates.find(|candidate| candidate.is_file()).ok_or_else(|| RunError::NoProgram(own.display().to_string()))
}

/// The arguments of `kegfs`. Operands stand behind `--`, so that no name is taken for a flag.
fn arguments(mount: &Mount) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    if let Some(profile) = &mount.profile {
        arguments.extend(["--profile".into(), profile.into()]);
    }
    arguments.push("mount".into());
    if let Some(file) = &mount.passphrase_file {
        arguments.extend(["--passphrase-file".into(), file.into()]);
    }
    for option in &mount.options {
        arguments.extend(["-o".into(), option.clone()]);
    }
    arguments.push("--".into());
    arguments.extend(mount.folder.clone());
    arguments.push(mount.directory.clone().into());
    arguments
}

fn shown(program: &Path, arguments: &[OsString], owner: Option<&User>) -> String {
    let mut line = program.display().to_string();
    for argument in arguments {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    match owner {
        Some(owner) => format!("as {}: {line}", owner.name),
        None => line,
    }
}

/// A mountpoint is on another device than the directory it is in. Asked as the owner: others see nothing of a user's mount.
fn is_mountpoint(directory: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
    let absolute = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    match (device(&absolute), absolute.parent().and_then(device)) {
        (Some(inside), Some(outside)) => inside != outside,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn words(mount: &Mount) -> Vec<String> {
        arguments(mount).into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn translates_to_kegfs_mount() {
        let mut asked = Mount { folder: Some("acme".into()), directory: "/srv/acme".into(), ..Mount::default() };
        assert_eq!(words(&asked), ["mount", "--", "acme", "/srv/acme"]);
        asked.profile = Some("/home/a/p".into());
        asked.passphrase_file = Some("/etc/kegfs/a".into());
        asked.options = vec!["ro".into(), "owners=stored".into()];
        assert_eq!(
            words(&asked).join(" "),
            "--profile /home/a/p mount --passphrase-file /etc/kegfs/a -o ro -o owners=stored -- acme /srv/acme"
        );
        asked.folder = None;
        assert!(words(&asked).ends_with(&["--".into(), "/srv/acme".into()]));
    }

    #[test]
    fn a_folder_named_like_a_flag_stays_an_operand() {
        let asked = Mount { folder: Some("--lock".into()), directory: "/d".into(), ..Mount::default() };
        assert_eq!(words(&asked), ["mount", "--", "--lock", "/d"]);
    }

    #[test]
    fn finds_users_by_name_and_number() {
        assert_eq!(find_user(&Owner::Uid(0)).unwrap().name, "root");
        assert!(find_user(&Owner::Name("root".into())).unwrap().uid.is_root());
        let error = find_user(&Owner::Name("no such user".into())).unwrap_err();
        assert_eq!(error.exit(), Exit::System);
    }

    #[test]
    fn knows_a_mountpoint_from_a_directory() {
        assert!(is_mountpoint(Path::new("/proc")));
        assert!(!is_mountpoint(Path::new("/proc/self")));
        assert!(!is_mountpoint(Path::new("/proc/no such directory")));
    }

    #[test]
    fn keeps_language_and_terminal_only() {
        for name in ["LANG", "LC_ALL", "TERM", "TZ"] {
            assert!(keeps(OsStr::new(name)), "{name}");
        }
        for name in ["LD_PRELOAD", "HOME", "PATH", "XDG_RUNTIME_DIR", "SUDO_USER", "LANGX"] {
            assert!(!keeps(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn every_error_has_a_code_that_is_not_success() {
        let errors = [
            RunError::NoSuchUser("a".into()),
            RunError::NotPermitted,
            RunError::CannotBecome("a".into(), nix::Error::EPERM),
            RunError::StillRoot,
            RunError::Namespace(io::Error::other("x")),
            RunError::NoProgram("a".into()),
            RunError::CannotStart("a".into(), io::Error::other("x")),
            RunError::NotMounted("/d".into()),
        ];
        assert!(errors.iter().all(|error| error.exit() != Exit::Mounted));
        assert_eq!(RunError::NotPermitted.exit(), Exit::Usage);
        assert_eq!(RunError::NotMounted("/d".into()).exit(), Exit::Failed);
    }
}
