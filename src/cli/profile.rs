//! The profile directory: where an account's local state lies, and who may use it.
//!
//! Must not read what is in the state: names of files, modes and the lock only, and `config.json`,
//! which holds nothing secret.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::{Code, Failure};
use crate::sys::clock;
use crate::sys::files::{self, FileLock};

/// The longest path of a Unix socket, without its closing NUL (unix(7)).
const SOCKET_PATH_BYTES: usize = 107;

/// The paths of one account's local state.
#[derive(Debug, Clone)]
pub struct Profile {
    dir: PathBuf,
}

/// `config.json`: what is needed before the keystore is opened. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Version of this file.
    pub version: u32,
    /// Address of the server.
    pub server: String,
    /// The account's id, in hexadecimal.
    pub account: String,
    /// The account's name.
    pub name: String,
    /// This device's name.
    pub device: String,
    /// A certificate (PEM) to trust for the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_cert: Option<String>,
}

/// The version of `config.json` written here.
pub const CONFIG_VERSION: u32 = 1;

impl Profile {
    /// The profile in `dir`, or in the user's default place.
    ///
    /// # Errors
    /// When there is no default place, or the path is too long for a socket in it.
    pub fn locate(dir: Option<&Path>) -> Result<Self, Failure> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => default_dir()?,
        };
        let dir = std::path::absolute(&dir).map_err(|error| Failure::io("locating the profile", &dir, &error))?;
        let profile = Self { dir };
        if profile.socket().as_os_str().len() > SOCKET_PATH_BYTES {
            let most = SOCKET_PATH_BYTES - "/control.sock".len();
            return Err(Failure::new(
                Code::Usage,
                format!(
                    "the profile path {} is too long; choose one of at most {most} bytes: --profile DIR",
                    profile.dir.display()
                ),
            ));
        }
        Ok(profile)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The wrapped keys.
    pub fn keystore(&self) -> PathBuf {
        self.dir.join("keystore")
    }

    /// `config.json`.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// Where the background process listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The background process's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// Keeps for `kegfs status` that this device was revoked. Nothing depends on the file.
    pub fn note_revoked(&self, what: &str) {
        let path = self.dir.join("revoked");
        if let Err(error) = files::write_atomic(&path, what.as_bytes(), 0o600) {
            tracing::warn!(%error, "that this device was revoked could not be noted");
        }
    }

    /// What [`Self::note_revoked`] has kept.
    pub fn revoked(&self) -> Option<String> {
        fs::read_to_string(self.dir.join("revoked")).ok()
    }

    /// Makes the directory, readable by its owner only.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(&self) -> Result<(), Failure> {
        files::create_private_dir(&self.dir).map_err(|error| Failure::io("creating the profile", &self.dir, &error))
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// When there is no account yet, with the command that makes one; when the file is damaged.
    pub fn config(&self) -> Result<Config, Failure> {
        let path = self.config_path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.no_account()),
            Err(error) => return Err(Failure::io("reading the profile's configuration", &path, &error)),
        };
        let config: Config = serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(
                Code::Corrupt,
                format!(
                    "{} is damaged ({error}); restore it from a backup: it names the server and the account",
                    path.display()
                ),
            )
        })?;
        if config.version != CONFIG_VERSION {
            return Err(Failure::new(
                Code::Failure,
                format!(
                    "{} was written by another version of kegfs (format {}); update kegfs",
                    path.display(),
                    config.version
                ),
            ));
        }
        Ok(config)
    }

    /// Writes `config.json`, durable and all or nothing.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_config(&self, config: &Config) -> Result<(), Failure> {
        let path = self.config_path();
        let bytes = serde_json::to_vec_pretty(config)
            .map_err(|error| Failure::new(Code::Failure, format!("encoding {}: {error}", path.display())))?;
        files::write_atomic(&path, &bytes, 0o600)
            .map_err(|error| Failure::io("writing the profile's configuration", &path, &error))
    }

    /// Takes the profile for this process, waiting at most `patience` for another one to finish.
    ///
    /// # Errors
    /// [`Code::Busy`] naming the holder.
    pub fn lock(&self, patience: Duration) -> Result<FileLock, Failure> {
        let path = self.dir.join("lock");
        let deadline = clock::monotonic() + patience;
        loop {
            match files::lock_exclusive(&path) {
                Ok(lock) => return Ok(lock),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(match error.kind() {
                        io::ErrorKind::NotFound => self.no_account(),
                        _ => Failure::io("locking the profile", &path, &error),
                    });
                }
                Err(error) if clock::monotonic() >= deadline => {
                    return Err(Failure::new(
                        Code::Busy,
                        format!(
                            "the profile {} is in use: {error}; wait for it to finish, or end that process",
                            self.dir.display()
                        ),
                    ));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn no_account(&self) -> Failure {
        Failure::new(
            Code::Failure,
            format!(
                "there is no account in {}; create one: kegfs account create --server URL --name NAME --invite CODE",
                self.dir.display()
            ),
        )
    }
}

fn default_dir() -> Result<PathBuf, Failure> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    from("XDG_DATA_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("kegfs"))
        .ok_or_else(|| {
            Failure::new(Code::Usage, "neither HOME nor XDG_DATA_HOME is set; name the profile: --profile DIR")
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn profile() -> (tempfile::TempDir, Profile) {
        let dir = tempfile::tempdir().unwrap();
        let profile = Profile::locate(Some(&dir.path().join("p"))).unwrap();
        (dir, profile)
    }

    #[test]
    fn the_configuration_comes_back_as_written() {
        let (_dir, profile) = profile();
        assert!(profile.config().unwrap_err().message.contains("account create"));
        profile.create().unwrap();
        let config = Config {
            version: CONFIG_VERSION,
            server: "https://kegs.example.com".to_owned(),
            account: "ab".repeat(32),
            name: "alice".to_owned(),
            device: "laptop".to_owned(),
            server_cert: None,
        };
        profile.write_config(&config).unwrap();
        assert_eq!(profile.config().unwrap(), config);
    }

    #[test]
    fn a_damaged_configuration_is_named() {
        let (_dir, profile) = profile();
        profile.create().unwrap();
        fs::write(profile.config_path(), b"{\"version\":1").unwrap();
        let failure = profile.config().unwrap_err();
        assert_eq!(failure.code, Code::Corrupt);
        assert!(failure.message.contains("config.json"));
    }

    #[test]
    fn a_profile_in_use_is_refused_after_the_patience() {
        let (_dir, profile) = profile();
        profile.create().unwrap();
        let _held = profile.lock(Duration::ZERO).unwrap();
        assert_eq!(profile.lock(Duration::from_millis(60)).unwrap_err().code, Code::Busy);
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_at_once() {
        let failure = Profile::locate(Some(&PathBuf::from("/").join("x".repeat(200)))).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
    }
}
