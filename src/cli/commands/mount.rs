//! `kegfs mount`, `kegfs unmount`, `kegfs lock`.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::super::args::{LockArgs, MountArgs, UnmountArgs};
use super::super::backend::Backend;
use super::super::control::{MountSettings, Pending, Request, Response};
use super::super::failure::{Code, Failure};
use super::super::output::{self, Output};
use super::unexpected;
use crate::fuse;
use crate::sys::{clock, threads};

/// How long a new mount may take to answer its first question.
const FIRST_ANSWER: Duration = Duration::from_secs(20);

/// How long the background process may take to close its files.
const LAST_STEPS: Duration = Duration::from_secs(10);

/// `mount`
pub fn mount(args: MountArgs, backend: &Backend<'_>, output: Output) -> Result<(), Failure> {
    let settings = settings(&args.options)?;
    let (folder, dir) = match args.second {
        Some(dir) => (Some(name_of(args.first)?), dir),
        None => (None, args.first),
    };
    let dir = std::path::absolute(&dir).map_err(|error| Failure::io("locating the mountpoint", &dir, &error))?;
    // Here too, although the background process checks again: a wrong directory needs no passphrase.
    let checked = fuse::prepare(&dir)?;
    let response = backend.ask_background(&Request::Mount { folder, dir, settings }, &mut |_| {})?;
    let Response::Mounted { dir, recovered } = &response else { return Err(unexpected(&response)) };
    wait_until_it_answers(dir)?;
    if checked.recovered || *recovered {
        output.remark(&format!(
            "removed a dead mount from {} first: its process had ended without unmounting",
            dir.display()
        ));
    }
    output.show(&response, &format!("mounted on {0}\nunmount: kegfs unmount {0}\n", dir.display()))
}

/// `unmount`
pub fn unmount(args: &UnmountArgs, backend: &Backend<'_>, output: Output) -> Result<(), Failure> {
    let dir =
        std::path::absolute(&args.dir).map_err(|error| Failure::io("locating the mountpoint", &args.dir, &error))?;
    let wait = if args.no_wait { Duration::ZERO } else { Duration::from_secs(args.timeout) };
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let request = Request::Unmount { dir: dir.clone(), force: args.force, wait_ms };
    let mut progress = output.progress();
    let answer = backend.ask_running(&request, &mut |pending| progress.show(pending))?;
    drop(progress);
    match answer {
        Some(response @ Response::Unmounted { pending, online, ending, .. }) => {
            wait_for_end(ending);
            output.show(&response, &format!("unmounted {}\n{}", dir.display(), remainder(pending, online)))
        }
        Some(other) => Err(unexpected(&other)),
        None => {
            // No process, but perhaps what one has left behind.
            let resolved = fuse::resolve(&dir).map_err(|error| Failure::io("locating the mountpoint", &dir, &error))?;
            let dead = std::fs::metadata(&resolved).is_err_and(|error| fuse::is_dead(&error));
            fuse::unmount(&resolved, args.force || dead)?;
            let response =
                Response::Unmounted { dirs: vec![resolved], pending: Pending::default(), online: false, ending: None };
            output.show(&response, &format!("unmounted {}, which its process had left behind\n", dir.display()))
        }
    }
}

/// `lock`
pub fn lock(args: &LockArgs, backend: &Backend<'_>, output: Output) -> Result<(), Failure> {
    match backend.ask_running(&Request::Lock { force: args.force }, &mut |_| {})? {
        Some(Response::Unmounted { dirs, pending, online, ending }) => {
            wait_for_end(ending);
            let text = format!("locked; unmounted {}\n{}", count(dirs.len()), remainder(pending, online));
            output.show(&Response::Unmounted { dirs, pending, online, ending }, &text)
        }
        Some(other) => Err(unexpected(&other)),
        None => {
            let response =
                Response::Unmounted { dirs: Vec::new(), pending: Pending::default(), online: false, ending: None };
            output.show(&response, "locked: no process holds a key\n")
        }
    }
}

/// Waits until the process that held the keys is gone, so that whoever reads "unmounted" can rely on it. Its journals
/// are durable already; should it take longer than usual, it ends all the same.
fn wait_for_end(process: Option<u32>) {
    let Some(process) = process else { return };
    let stat = format!("/proc/{process}/stat");
    let deadline = clock::monotonic() + LAST_STEPS;
    // The state is the field after the name in parentheses; Z has ended and only waits to be taken note of.
    let alive = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    while alive() && clock::monotonic() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn count(mounts: usize) -> String {
    match mounts {
        0 => "nothing".to_owned(),
        1 => "one mount".to_owned(),
        many => format!("{many} mounts"),
    }
}

/// What is not on the server after unmounting, and what becomes of it.
fn remainder(pending: Pending, online: bool) -> String {
    let left = output::left(pending);
    match (pending.is_empty(), online) {
        (true, _) => String::new(),
        (false, true) => {
            format!("{left} not yet on the server, safe in the journal; they are sent at the next mount\n")
        }
        (false, false) => {
            format!("the server cannot be reached; {left} stay safe in the journal and are sent at the next mount\n")
        }
    }
}

/// `-o`: ours, and those of mount(8) that mean nothing here.
fn settings(options: &[String]) -> Result<MountSettings, Failure> {
    let mut settings = MountSettings::default();
    for option in options {
        match option.as_str() {
            "" | "rw" | "defaults" | "noauto" | "nofail" | "_netdev" | "user" | "users" | "nouser" | "nodev"
            | "nosuid" => {}
            "ro" => settings.read_only = true,
            "allow_other" => settings.allow_other = true,
            "fsync=server" => settings.fsync_server = true,
            "fsync=local" => settings.fsync_server = false,
            "owners=stored" => settings.owners_stored = true,
            "owners=mount" => settings.owners_stored = false,
            comment if comment.starts_with("x-") => {}
            other => {
                return Err(Failure::new(
                    Code::Usage,
                    format!(
                        "unknown mount option `{other}`; there are: ro, allow_other, fsync=server, fsync=local, \
                         owners=stored, owners=mount"
                    ),
                ));
            }
        }
    }
    if settings.owners_stored && !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(
            Code::Usage,
            "`owners=stored` needs root: nobody else may use files of other owners. Without the option all files are \
             yours, whoever made them",
        ));
    }
    Ok(settings)
}

fn name_of(folder: PathBuf) -> Result<String, Failure> {
    folder.into_os_string().into_string().map_err(|name| {
        let shown = name.to_string_lossy().into_owned();
        Failure::new(Code::Usage, format!("{shown} is not a folder's name; `kegfs folder list` shows them"))
    })
}

/// A mount is there when its root can be listed; asked on another thread, because a mount that does not
/// answer holds whoever asks it.
fn wait_until_it_answers(dir: &Path) -> Result<(), Failure> {
    let asked = dir.to_owned();
    let (answer, answered) = mpsc::sync_channel(1);
    let spawned = threads::spawn("kegfs-ask", move || {
        // Nobody listens after the time is up.
        let _ = answer.send(std::fs::read_dir(&asked).map(drop));
    });
    let failed = |reason: &dyn std::fmt::Display| {
        Failure::new(
            Code::Failure,
            format!(
                "{0} is mounted but does not answer ({reason}); detach it: kegfs unmount --force {0}",
                dir.display()
            ),
        )
    };
    spawned.map_err(|error| failed(&error))?;
    match answered.recv_timeout(FIRST_ANSWER) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"no answer in 20 seconds")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<MountSettings, Failure> {
        settings(&options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_of_fstab_are_accepted_and_unknown_ones_named() {
        let all = parse(&["ro", "fsync=server", "_netdev", "nofail", "x-systemd.automount", "allow_other"]).unwrap();
        assert!(all.read_only && all.fsync_server && all.allow_other);
        let failure = parse(&["ro", "fsync=sever"]).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.message.contains("`fsync=sever`"));
    }

    #[test]
    fn what_is_left_is_told_with_what_becomes_of_it() {
        assert_eq!(remainder(Pending::default(), false), "");
        let left = Pending { changes: 3, bytes: 2048 };
        assert!(remainder(left, false).contains("3 changes, 2.0 KiB stay safe in the journal"));
    }
}
