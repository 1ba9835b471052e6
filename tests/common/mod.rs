//! A team in a box: a real `kegd` on loopback, members with real profiles, background processes and mounts.
//!
//! Everything lives in one temporary directory and is ended on drop: mounts are detached, and only processes that were
//! started here are killed, by pid.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod recorder;
pub mod tree;
pub mod watchdog;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The passphrase of every member: also what the search for secrets looks for.
pub const PASSPHRASE: &str = "correct horse battery staple 8d1f";

/// Fails the test with the reason where mounts are impossible: never a silent skip.
pub fn require_fuse() {
    assert!(
        Path::new("/dev/fuse").exists(),
        "/dev/fuse is missing: mount tests need it (modprobe fuse; in a container, pass the device in)"
    );
}

/// Asks `done` every 5 ms until it is true; fails after `timeout` naming what was waited for.
pub fn wait_for(what: &str, timeout: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < timeout, "waited {timeout:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A `kegd` with a data directory of its own.
pub struct Server {
    pub data: PathBuf,
    pub port: u16,
    more: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// Starts on a free port and waits until it is healthy.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// The same with further arguments.
    pub fn start_with(dir: &Path, more: &[&str]) -> Self {
        let more = more.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { data: dir.join("server"), port: 0, more, child: None };
        fs::create_dir_all(&server.data).unwrap();
        server.run(0);
        server
    }

    fn run(&mut self, port: u16) {
        let addr_file = self.data.join("addr");
        let _ = fs::remove_file(&addr_file);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.data.join("kegd.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_kegd"))
            .args([
                "--data",
                self.data.to_str().unwrap(),
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--addr-file",
                addr_file.to_str().unwrap(),
                "--json",
            ])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_for("kegd to listen", Duration::from_secs(20), || {
            fs::read_to_string(&addr_file).is_ok_and(|addr| addr.contains(':'))
        });
        let addr = fs::read_to_string(&addr_file).unwrap();
        self.port = addr.trim().rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn invite(&self) -> String {
        fs::read_to_string(self.data.join("invite-code")).unwrap().trim().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// `kill -9`, as a crash would.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts again on the same data and port.
    pub fn restart(&mut self) {
        self.run(self.port);
    }

    /// Stops it without ending it: connections hang.
    pub fn pause(&self) {
        signal(self.pid(), "-STOP");
    }

    pub fn resume(&self) {
        signal(self.pid(), "-CONT");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// One account with its profile directory.
pub struct Member {
    pub name: String,
    pub profile: PathBuf,
    pub account: String,
    mounts: Vec<PathBuf>,
}

impl Member {
    /// Creates the account on the server at `url`.
    pub fn create(dir: &Path, name: &str, url: &str, invite: &str) -> Self {
        let mut member =
            Self { name: name.to_owned(), profile: dir.join(name), account: String::new(), mounts: vec![] };
        // The least cost: half of what the processor does would be hashing the passphrases of tests.
        let cheap = ["--kdf-memory", "19", "--kdf-passes", "1"];
        let create = ["account", "create", "--server", url, "--name", name, "--device", "laptop", "--invite", invite];
        member.ok(&[&create[..], &cheap].concat());
        let shown: serde_json::Value = serde_json::from_str(&member.ok(&["account", "show", "--json"])).unwrap();
        member.account = shown["id"].as_str().unwrap().to_owned();
        member
    }

    /// A profile directory and nothing in it.
    pub fn blank(dir: &Path, name: &str) -> Self {
        Self { name: name.to_owned(), profile: dir.join(name), account: String::new(), mounts: vec![] }
    }

    pub fn passphrase_file(&self) -> PathBuf {
        let path = self.profile.with_extension("passphrase");
        if !path.exists() {
            let mut file =
                fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path).unwrap();
            file.write_all(PASSPHRASE.as_bytes()).unwrap();
        }
        path
    }

    /// Runs `kegfs` with this profile and passphrase.
    pub fn kegfs(&self, args: &[&str]) -> Output {
        self.kegfs_with(&self.passphrase_file(), args)
    }

    /// Runs `kegfs` with this profile and another passphrase file.
    pub fn kegfs_with(&self, passphrase: &Path, args: &[&str]) -> Output {
        self.command_with(passphrase, args).output().unwrap()
    }

    /// `kegfs` with this profile and passphrase, to be run.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_with(&self.passphrase_file(), args)
    }

    fn command_with(&self, passphrase: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kegfs"));
        command.arg("--profile").arg(&self.profile).arg("--passphrase-file").arg(passphrase).args(args);
        command.stdin(Stdio::null());
        command
    }

    /// Runs `kegfs`, expects success, returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.kegfs(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{}: kegfs {args:?}: {:?}\n{text}{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Mounts a folder on a fresh directory beside the profile.
    pub fn mount(&mut self, folder: &str) -> PathBuf {
        self.mount_with(folder, &[])
    }

    /// The same with further arguments.
    pub fn mount_with(&mut self, folder: &str, more: &[&str]) -> PathBuf {
        require_fuse();
        let dir = self.profile.with_extension(format!("mnt-{folder}"));
        fs::create_dir_all(&dir).unwrap();
        self.ok(&[&["mount", folder, dir.to_str().unwrap()], more].concat());
        self.mounts.push(dir.clone());
        dir
    }

    /// Mounts all folders on a fresh directory beside the profile.
    pub fn mount_all(&mut self) -> PathBuf {
        require_fuse();
        let dir = self.profile.with_extension("mnt");
        fs::create_dir_all(&dir).unwrap();
        self.ok(&["mount", dir.to_str().unwrap()]);
        self.mounts.push(dir.clone());
        dir
    }

    pub fn unmount(&mut self, dir: &Path) -> String {
        self.mounts.retain(|mounted| mounted != dir);
        self.ok(&["unmount", dir.to_str().unwrap()])
    }

    /// Waits until everything local is on the server.
    pub fn sync(&self) {
        self.ok(&["sync", "--wait"]);
    }

    /// The background process of this profile, if it runs.
    pub fn daemon_pid(&self) -> Option<u32> {
        let profile = self.profile.to_str().unwrap();
        fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let cmdline = fs::read(entry.path().join("cmdline")).ok()?;
            let args: Vec<_> = cmdline.split(|&byte| byte == 0).collect();
            (args.contains(&b"daemon".as_slice()) && args.contains(&profile.as_bytes())).then_some(pid)
        })
    }

    /// Stops the background process without ending it: its mounts hang. No file of them may be open in the caller, which
    /// could then start no other program.
    pub fn pause(&self) {
        signal(self.daemon_pid().expect("a background process"), "-STOP");
    }

    pub fn resume(&self) {
        signal(self.daemon_pid().expect("a background process"), "-CONT");
    }

    /// `kill -9` of the background process; the dead mount is detached, as a user would.
    pub fn kill9(&mut self) {
        let pid = self.daemon_pid().expect("a background process");
        signal(pid, "-9");
        wait_for("the process to die", Duration::from_secs(10), || !alive(pid));
        for dir in self.mounts.drain(..) {
            detach(&dir);
        }
    }

    /// Peak resident memory of the background process in bytes, from /proc.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon_pid().unwrap())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// The process exists and is not a zombie.
pub fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

/// Lazily detaches a mountpoint.
pub fn detach(dir: &Path) {
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !quiet(Command::new("umount").arg("-l").arg(dir)) {
        quiet(Command::new("fusermount3").arg("-uz").arg(dir));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        for dir in &self.mounts {
            detach(dir);
        }
        if let Some(pid) = self.daemon_pid() {
            signal(pid, "-TERM");
            let start = Instant::now();
            while alive(pid) && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(20));
            }
            if alive(pid) {
                signal(pid, "-9");
            }
        }
    }
}

/// Alice owns the folder `acme`, Bob is an editor in it.
pub struct Team {
    pub alice: Member,
    pub bob: Member,
    pub server: Server,
    pub dir: TempDir,
}

impl Team {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let url = server.url();
        Self::on(dir, server, &url)
    }

    /// A team that reaches `server` through `url`.
    pub fn on(dir: TempDir, server: Server, url: &str) -> Self {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let alice = Member::create(dir.path(), "alice", url, &server.invite());
        let bob = Member::create(dir.path(), "bob", url, &server.invite());
        alice.ok(&["folder", "create", "acme"]);
        alice.ok(&["member", "add", "acme", &bob.account, "--role", "editor"]);
        Self { alice, bob, server, dir }
    }

    /// Mounts `acme` for both; their directories.
    pub fn mount(&mut self) -> (PathBuf, PathBuf) {
        (self.alice.mount("acme"), self.bob.mount("acme"))
    }
}
