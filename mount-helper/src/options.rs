//! The command line of a mount(8) helper, parsed into what shall be mounted. Runs nothing and asks the system nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
    /// Mount something.
    Mount(Mount),
}

/// Whose mount it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// `user=NAME`
    Name(String),
    /// `uid=NUMBER`
    Uid(u32),
}

/// One mount, as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The folder's name; none for the directory of all folders (`all`).
    pub folder: Option<OsString>,
    /// Where to mount it.
    pub directory: PathBuf,
    /// Whose it shall be; the caller's where none is given.
    pub owner: Option<Owner>,
    /// `profile=DIR`, absolute.
    pub profile: Option<PathBuf>,
    /// `passphrase-file=FILE`, absolute.
    pub passphrase_file: Option<PathBuf>,
    /// Options for `kegfs mount -o`, in the order given.
    pub options: Vec<OsString>,
    /// `-N`: the mount namespace, as a path or a process id.
    pub namespace: Option<OsString>,
    /// `-f`: check everything, mount nothing.
    pub fake: bool,
    /// `-v`: say what is run.
    pub verbose: bool,
}

/// Why a command line is refused. No message repeats the value of an option: it could be a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// SPEC or DIR is missing.
    #[error("expected SPEC and DIR, as in: mount -t kegfs acme /srv/acme")]
    MissingOperand,
    /// More than SPEC and DIR.
    #[error("unexpected argument after SPEC and DIR")]
    ExtraOperand,
    /// SPEC or DIR is empty.
    #[error("the name of the folder and the directory must not be empty")]
    EmptyOperand,
    /// An unknown flag.
    #[error("unknown flag -{0} (see mount.kegfs --help)")]
    UnknownFlag(String),
    /// A flag without its argument.
    #[error("the flag -{0} needs an argument")]
    MissingArgument(char),
    /// `-t` names another file system.
    #[error("this helper mounts the types kegfs and fuse.kegfs only")]
    WrongType,
    /// A secret in the options would be in the process list and in fstab.
    #[error("a secret must not be a mount option ({0}=…): use passphrase-file=FILE, readable by you alone")]
    Secret(String),
    /// An option has no or an unusable value.
    #[error("the option {0} needs {1}")]
    BadValue(&'static str, &'static str),
    /// `user=` and `uid=` disagree, or one is given twice.
    #[error("the option {0} is given more than once")]
    Repeated(&'static str),
    /// A quote that is never closed, or a backslash at the end.
    #[error("the options end inside a quote")]
    OpenQuote,
}

/// Options for mount(8), systemd or the kernel's defaults that mean nothing here; `rw` and the access time options
/// because the folder's role and KegFS decide, `suid`, `dev` and their opposites because KegFS always mounts nosuid and nodev. What else
/// restricts (`ro`, `noexec`) is not here: `kegfs mount` must honour or refuse it.
const IGNORED: &[&[u8]] = &[
    b"_netdev",
    b"async",
    b"auto",
    b"defaults",
    b"dev",
    b"diratime",
    b"exec",
    b"group",
    b"loud",
    b"noatime",
    b"noauto",
    b"nodev",
    b"nodiratime",
    b"nofail",
    b"nogroup",
    b"noowner",
    b"norelatime",
    b"nostrictatime",
    b"nosuid",
    b"nouser",
    b"nousers",
    b"owner",
    b"relatime",
    b"rw",
    b"silent",
    b"strictatime",
    b"suid",
    b"user",
    b"users",
];

/// Names under which people put secrets into options.
const SECRETS: &[&[u8]] =
    &[b"key", b"pass", b"passphrase", b"passwd", b"password", b"pw", b"recovery", b"secret", b"token"];

impl Request {
    /// Parses the arguments without the program's name.
    pub fn parse(arguments: Vec<OsString>) -> Result<Request, UsageError> {
        let mut mount = Mount::default();
        let mut operands: Vec<OsString> = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.as_bytes() {
                b"--help" => return Ok(Request::Help),
                b"--version" => return Ok(Request::Version),
                b"--" => operands.extend(arguments.by_ref()),
                [b'-', b'-', name @ ..] => return Err(UsageError::UnknownFlag(format!("-{}", printable(name)))),
                [b'-', flags @ ..] if !flags.is_empty() => match mount.flags(flags, &mut arguments)? {
                    Some(other) => return Ok(other),
                    None => continue,
                },
                _ => operands.push(argument),
            }
        }
        let mut operands = operands.into_iter();
        let (Some(spec), Some(directory)) = (operands.next(), operands.next()) else {
            return Err(UsageError::MissingOperand);
        };
        if operands.next().is_some() {
            return Err(UsageError::ExtraOperand);
        }
        if spec.is_empty() || directory.is_empty() {
            return Err(UsageError::EmptyOperand);
        }
        mount.folder = if spec == "all" { None } else { Some(spec) };
        mount.directory = directory.into();
        Ok(Request::Mount(mount))
    }
}

impl Mount {
    /// One argument with flags, such as `-sv` or `-oro`; takes the next argument where a flag needs one.
    fn flags(
        &mut self,
        flags: &[u8],
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<Option<Request>, UsageError> {
        for (at, flag) in flags.iter().enumerate() {
            match flag {
                // Sloppy: which options exist is for `kegfs mount` to say. No mtab: nobody writes one.
                b's' | b'n' => {}
                b'f' => self.fake = true,
                b'v' => self.verbose = true,
                b'h' => return Ok(Some(Request::Help)),
                b'V' => return Ok(Some(Request::Version)),
                b'o' | b't' | b'N' => {
                    let attached = &flags[at + 1..];
                    let value = if attached.is_empty() {
                        rest.next().ok_or(UsageError::MissingArgument(char::from(*flag)))?
                    } else {
                        OsStr::from_bytes(attached).to_owned()
                    };
                    match flag {
                        b'o' => self.option_list(value.as_bytes())?,
                        b't' if value == "kegfs" || value == "fuse.kegfs" => {}
                        b't' => return Err(UsageError::WrongType),
                        _ => self.namespace = Some(value),
                    }
                    return Ok(None);
                }
                other => return Err(UsageError::UnknownFlag(printable(&[*other]))),
            }
        }
        Ok(None)
    }

    fn option_list(&mut self, list: &[u8]) -> Result<(), UsageError> {
        for option in split_options(list)? {
            self.option(option)?;
        }
        Ok(())
    }

    fn option(&mut self, option: Vec<u8>) -> Result<(), UsageError> {
        let at = option.iter().position(|byte| *byte == b'=');
        let (name, value) = match at {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (&option[..], None),
        };
        let lower = name.to_ascii_lowercase();
        if SECRETS.contains(&lower.as_slice()) {
            return Err(UsageError::Secret(printable(name)));
        }
        match (name, value) {
            (b"user", Some(value)) => {
                let name = std::str::from_utf8(value).ok().filter(|name| !name.is_empty());
                let name = name.ok_or(UsageError::BadValue("user", "a user's name"))?;
                self.own(Owner::Name(name.to_owned()))?;
            }
            (b"uid", value) => {
                let number = value.and_then(|value| std::str::from_utf8(value).ok()).and_then(parse_uid);
                self.own(Owner::Uid(number.ok_or(UsageError::BadValue("uid", "a user's number"))?))?;
            }
            (b"profile", value) => set_path(&mut self.profile, "profile", value)?,
            (b"passphrase-file", value) => set_path(&mut self.passphrase_file, "passphrase-file", value)?,
            (b"comment", Some(_)) | ([b'x' | b'X', b'-', ..], _) => {}
            (name, None) if name.is_empty() || IGNORED.contains(&name) => {}
            _ => self.options.push(OsString::from_vec(option)),
        }
        Ok(())
    }

    fn own(&mut self, owner: Owner) -> Result<(), UsageError> {
        if self.owner.is_some() {
            return Err(UsageError::Repeated("user or uid"));
        }
        self.owner = Some(owner);
        Ok(())
    }
}

/// Digits only: `u32::from_str` would also take a plus sign. The largest number is no user ((uid_t)-1).
fn parse_uid(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|uid| digits && *uid != u32::MAX)
}

/// A path must be absolute: mount(8), systemd and a user's shell have different working directories.
fn set_path(slot: &mut Option<PathBuf>, name: &'static str, value: Option<&[u8]>) -> Result<(), UsageError> {
    let path = value.map(|value| PathBuf::from(OsStr::from_bytes(value))).filter(|path| path.is_absolute());
    let path = path.ok_or(UsageError::BadValue(name, "an absolute path"))?;
    if slot.replace(path).is_some() {
        return Err(UsageError::Repeated(name));
    }
    Ok(())
}

/// Splits at commas. As in libmount, double quotes protect a comma (`profile="/a,b"`); as in libfuse, a backslash does.
fn split_options(list: &[u8]) -> Result<Vec<Vec<u8>>, UsageError> {
    let (mut options, mut current, mut quoted) = (Vec::new(), Vec::new(), false);
    let mut bytes = list.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => current.push(*bytes.next().ok_or(UsageError::OpenQuote)?),
            b',' if !quoted => options.push(std::mem::take(&mut current)),
            other => current.push(*other),
        }
    }
    if quoted {
        return Err(UsageError::OpenQuote);
    }
    options.push(current);
    Ok(options)
}

fn printable(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Request, UsageError> {
        Request::parse(arguments.iter().map(OsString::from).collect())
    }

    fn mount(arguments: &[&str]) -> Mount {
        match parse(arguments).unwrap() {
            Request::Mount(mount) => mount,
            other => panic!("{other:?}"),
        }
    }

    fn with_options(options: &str) -> Result<Mount, UsageError> {
        parse(&["acme", "/srv/acme", "-o", options]).map(|request| match request {
            Request::Mount(mount) => mount,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn takes_the_arguments_that_libmount_gives() {
        let asked = mount(&["acme", "/srv/acme", "-s", "-v", "-o", "rw,noexec,nosuid,nodev,user=alice"]);
        assert_eq!(asked.folder.as_deref(), Some(OsStr::new("acme")));
        assert_eq!(asked.directory, PathBuf::from("/srv/acme"));
        assert_eq!(asked.owner, Some(Owner::Name("alice".into())));
        assert_eq!(asked.options, ["noexec"]);
        assert!(asked.verbose && !asked.fake);
    }

    #[test]
    fn all_means_every_folder() {
        assert_eq!(mount(&["all", "/srv/kegs"]).folder, None);
    }

    #[test]
    fn flags_stand_alone_together_or_with_their_argument() {
        let asked = mount(&["-sfnv", "acme", "-oro", "/srv/acme", "-N", "/proc/7/ns/mnt", "-tfuse.kegfs"]);
        assert!(asked.fake && asked.verbose);
        assert_eq!(asked.options, ["ro"]);
        assert_eq!(asked.namespace, Some("/proc/7/ns/mnt".into()));
        assert_eq!(mount(&["acme", "/d", "-vo", "ro"]).options, ["ro"]);
        assert_eq!(mount(&["acme", "/d", "-o", "a", "-o", "b=1"]).options, ["a", "b=1"]);
        assert_eq!(mount(&["--", "-acme", "/d"]).folder, Some("-acme".into()));
        assert_eq!(parse(&["-h"]), Ok(Request::Help));
        assert_eq!(parse(&["acme", "/d", "-V"]), Ok(Request::Version));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for (arguments, error) in [
            (&[][..], UsageError::MissingOperand),
            (&["acme"], UsageError::MissingOperand),
            (&["acme", "/a", "/b"], UsageError::ExtraOperand),
            (&["", "/a"], UsageError::EmptyOperand),
            (&["acme", ""], UsageError::EmptyOperand),
            (&["acme", "/a", "-x"], UsageError::UnknownFlag("x".into())),
            (&["acme", "/a", "--force"], UsageError::UnknownFlag("-force".into())),
            (&["acme", "/a", "-o"], UsageError::MissingArgument('o')),
            (&["acme", "/a", "-N"], UsageError::MissingArgument('N')),
            (&["acme", "/a", "-t", "ext4"], UsageError::WrongType),
        ] {
            assert_eq!(parse(arguments), Err(error), "{arguments:?}");
        }
        assert!(parse(&["acme", "/a", "-t", "kegfs"]).is_ok());
    }

    #[test]
    fn ignores_what_is_for_others() {
        let asked = with_options(
            "_netdev,nofail,user,users,nouser,rw,defaults,noauto,auto,relatime,x-systemd.automount,\
             x-gvfs-name=Acme,X-mount.mkdir,comment=ours,,",
        )
        .unwrap();
        assert_eq!(asked, mount(&["acme", "/srv/acme"]));
    }

    #[test]
    fn hands_on_what_restricts_and_what_it_does_not_know() {
        let asked = with_options("ro,noexec,owners=stored,fsync=server,rw=1").unwrap();
        assert_eq!(asked.options, ["ro", "noexec", "owners=stored", "fsync=server", "rw=1"]);
    }

    #[test]
    fn reads_its_own_options() {
        let asked = with_options("uid=1000,profile=/home/a/p,passphrase-file=/etc/kegfs/a").unwrap();
        assert_eq!(asked.owner, Some(Owner::Uid(1000)));
        assert_eq!(asked.profile, Some("/home/a/p".into()));
        assert_eq!(asked.passphrase_file, Some("/etc/kegfs/a".into()));
        assert!(asked.options.is_empty());
    }

    #[test]
    fn refuses_unusable_values() {
        for options in ["uid", "uid=", "uid=alice", "uid=-1", "uid=+1", "uid=4294967295", "uid=4294967296", "user="] {
            assert!(matches!(with_options(options), Err(UsageError::BadValue(..))), "{options}");
        }
        for options in ["profile", "profile=", "profile=rel/ative", "passphrase-file=~/x"] {
            assert!(matches!(with_options(options), Err(UsageError::BadValue(..))), "{options}");
        }
        for options in ["user=a,user=b", "user=a,uid=1", "uid=1,uid=1", "profile=/a,profile=/b"] {
            assert!(matches!(with_options(options), Err(UsageError::Repeated(_))), "{options}");
        }
    }

    #[test]
    fn refuses_secrets_and_does_not_repeat_them() {
        for name in ["passphrase", "password", "Passphrase", "pass", "key", "token", "secret"] {
            let error = with_options(&format!("ro,{name}=hunter2")).unwrap_err();
            assert!(matches!(error, UsageError::Secret(_)), "{name}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
            assert!(with_options(name).is_err(), "{name} without a value is a mistake as well");
        }
    }

    #[test]
    fn no_error_repeats_a_value() {
        for options in ["uid=hunter2", "profile=hunter2", "passphrase-file=hunter2", "user=a,user=hunter2", "\"hunter2"]
        {
            let error = with_options(options).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{options}");
        }
    }

    #[test]
    fn quotes_and_backslashes_protect_commas() {
        let asked = with_options(r#"profile="/srv/a,b",passphrase-file=/etc/c\,d"#).unwrap();
        assert_eq!(asked.profile, Some("/srv/a,b".into()));
        assert_eq!(asked.passphrase_file, Some("/etc/c,d".into()));
        assert_eq!(with_options("profile=\"/srv"), Err(UsageError::OpenQuote));
        assert_eq!(with_options("a\\"), Err(UsageError::OpenQuote));
    }

    #[test]
    fn names_need_not_be_utf8() {
        let odd = OsString::from_vec(b"ac\xffme".to_vec());
        let request = Request::parse(vec![odd.clone(), "/d".into()]).unwrap();
        assert!(matches!(request, Request::Mount(Mount { folder: Some(name), .. }) if name == odd));
    }

    #[test]
    fn an_option_list_never_panics() {
        // Every list of up to five of these characters.
        let alphabet = b"a=,\\\"-x\xff";
        let mut lists = vec![Vec::new()];
        for _ in 0..5 {
            let longer: Vec<Vec<u8>> = lists
                .iter()
                .flat_map(|list| alphabet.iter().map(move |byte| [list.as_slice(), &[*byte]].concat()))
                .collect();
            for list in &longer {
                let _ = Mount::default().option_list(list);
            }
            lists = longer;
        }
        assert_eq!(lists.len(), alphabet.len().pow(5));
    }
}
