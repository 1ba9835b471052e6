//! People, a server, and what they do with a shared folder, for the stories about synchronisation.
//!
//! The server is a real one in this process; files are written the way the mounted view writes them: chunks sealed into
//! a blob, the blob spooled, the operations queued.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod hoard;
pub mod lived;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kegfs::crypto::chunk::{ChunkKey, Opener, seal_into};
use kegfs::crypto::words::Code;
use kegfs::crypto::{Key, verified};
use kegfs::format::{AccountId, BlobId, Extent, KegId, NodeKind, Op, OpKind};
use kegfs::keg::ROOT_INO;
use kegfs::keyring::{AccountLog, DeviceSecrets, Identity};
use kegfs::remote::{FailingRemote, HttpOptions, Remote};
use kegfs::server::{Config, Limits, Running, Server};
use kegfs::sync::{
    Candidate, Event, FETCH_DEADLINE, Folder, Joined, Joining, Meeting, NewAccount, Session, SessionPaths, SyncError,
    connect,
};
use kegfs::sys::{clock, random};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A `kegd` on a port of its own.
pub struct Kegd {
    data: TempDir,
    running: Option<(Runtime, Running)>,
    pub address: SocketAddr,
    pub invite: String,
    limits: Limits,
}

impl Kegd {
    pub fn start() -> Self {
        Self::start_with(Limits::default())
    }

    /// With other bounds than the usual ones.
    pub fn start_with(limits: Limits) -> Self {
        // RUST_LOG=debug shows what everybody does.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let data = tempfile::tempdir().unwrap();
        let (runtime, running) = start(data.path(), SocketAddr::from(([127, 0, 0, 1], 0)), &limits);
        let invite = running.invite().unwrap().to_owned();
        Self { address: running.address(), invite, data, running: Some((runtime, running)), limits }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it without letting anything finish.
    pub fn kill(&mut self) {
        if let Some((runtime, running)) = self.running.take() {
            // Long enough for a thread that closes a database not to meet the end of the process at it.
            runtime.shutdown_timeout(Duration::from_secs(5));
            drop(running);
        }
    }

    /// Starts it again on the same port and data.
    pub fn restart(&mut self) {
        self.kill();
        self.running = Some(start(self.data.path(), self.address, &self.limits));
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }
}

impl Drop for Kegd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(data: &Path, listen: SocketAddr, limits: &Limits) -> (Runtime, Running) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let config = Config { listen, limits: limits.clone(), ..Config::new(data.to_owned()) };
        match runtime.block_on(Server::start(config)) {
            Ok(running) => return (runtime, running),
            // The one before is still letting go of its files and its port.
            Err(error) => assert!(Instant::now() < until, "kegd does not start: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A person with one device.
pub struct Person {
    pub profile: TempDir,
    identity: Vec<u8>,
    pub id: AccountId,
    url: String,
    /// The network between this person and the server.
    pub network: Arc<FailingRemote>,
    session: Option<Arc<Session>>,
}

impl Person {
    pub fn join(kegd: &Kegd, name: &str) -> Self {
        Self::join_at(&kegd.url(), &kegd.invite, name)
    }

    /// Joins the server with an admission code.
    pub fn join_with(kegd: &Kegd, name: &str, code: &str) -> Self {
        Self::join_at(&kegd.url(), code, name)
    }

    /// The same with a server that is reached at `url`.
    pub fn join_at(url: &str, invite: &str, name: &str) -> Self {
        let account = NewAccount::create(name, "laptop").unwrap();
        let options = HttpOptions { url: url.to_owned(), ..HttpOptions::default() };
        let remote = connect(&options, &account.identity).unwrap();
        account.register(&remote, invite).unwrap();
        let mut person = Self {
            profile: tempfile::tempdir().unwrap(),
            identity: account.identity.to_bytes().to_vec(),
            id: account.identity.account,
            url: url.to_owned(),
            network: FailingRemote::new(remote),
            session: None,
        };
        person.unlock();
        person
    }

    /// A person's further device, from what it was let in with.
    pub fn from_joined(kegd: &Kegd, joined: &Joined) -> Self {
        Self::from_joined_at(&kegd.url(), joined)
    }

    /// The same with a server that is reached at `url`.
    pub fn from_joined_at(url: &str, joined: &Joined) -> Self {
        let profile = tempfile::tempdir().unwrap();
        joined.keep(profile.path()).unwrap();
        let options = HttpOptions { url: url.to_owned(), ..HttpOptions::default() };
        let mut person = Self {
            profile,
            identity: joined.identity.to_bytes().to_vec(),
            id: joined.identity.account,
            url: url.to_owned(),
            network: FailingRemote::new(connect(&options, &joined.identity).unwrap()),
            session: None,
        };
        person.unlock();
        person
    }

    /// Adds a device called `name` by a code and the words that both show, as somebody would who has both in hand.
    pub fn add_device(&self, kegd: &Kegd, name: &str) -> Joined {
        let options = HttpOptions { url: kegd.url(), ..HttpOptions::default() };
        let (candidate, meeting) = self.meet(Joining::begin(&options, name).unwrap());
        let meeting = meeting.unwrap();
        assert_eq!((candidate.name(), candidate.words()), (name, meeting.words()));
        let accepting = std::thread::spawn(move || meeting.accept(PATIENCE).unwrap());
        self.session().add_device(candidate, PATIENCE).unwrap().unwrap();
        accepting.join().unwrap()
    }

    /// The code of `joining` is typed on this device; what both ends have before anybody has compared anything.
    pub fn meet(&self, joining: Joining) -> (Candidate, Result<Meeting, SyncError>) {
        let typed = Code::parse(&joining.code().to_text()).unwrap();
        let meeting = std::thread::spawn(move || joining.meet(PATIENCE));
        let candidate = self.session().device_waiting(&typed).unwrap();
        (candidate, meeting.join().unwrap())
    }

    /// Opens the session (again).
    pub fn unlock(&mut self) {
        self.try_unlock().unwrap();
    }

    /// The same where it may fail.
    pub fn try_unlock(&mut self) -> Result<(), SyncError> {
        self.lock();
        let identity = self.identity();
        let options = HttpOptions { url: self.url.clone(), ..HttpOptions::default() };
        self.network = FailingRemote::new(connect(&options, &identity).unwrap());
        let paths = SessionPaths {
            profile: self.profile.path().to_owned(),
            folders: self.profile.path().join("folders"),
            cache_bytes: 1 << 30,
        };
        let remote: Arc<dyn Remote> = Arc::clone(&self.network) as Arc<dyn Remote>;
        self.session = Some(Session::open(&paths, identity, remote)?);
        Ok(())
    }

    /// The keys of this device.
    pub fn keys(&self) -> Identity {
        Identity::from_bytes(&self.identity).unwrap()
    }

    /// Another device of this person, which the account's log takes in at once.
    pub fn on_another_device(&self, name: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let own = self.keys();
        let entries = runtime.block_on(self.network.account_log(self.id, 0)).unwrap().entries;
        let mut log = AccountLog::verify(&entries).unwrap();
        let device = DeviceSecrets::random();
        let seed = log.open_seed(&own.device).unwrap();
        let entry = log.add_device(clock::unix_nanos() / 1_000_000, &own.device, device.public(name), &seed).unwrap();
        runtime.block_on(self.network.append_account(self.id, &entry)).unwrap();
        log.extend(&entry).unwrap();
        let user_keys = log.open_seeds(&device).unwrap();
        let identity = Identity { account: self.id, device, user_keys, local: Key::random() };
        let options = HttpOptions { url: self.url.clone(), ..HttpOptions::default() };
        let mut person = Self {
            profile: tempfile::tempdir().unwrap(),
            identity: identity.to_bytes().to_vec(),
            id: self.id,
            url: self.url.clone(),
            network: FailingRemote::new(connect(&options, &identity).unwrap()),
            session: None,
        };
        person.unlock();
        person
    }

    /// Closes it.
    pub fn lock(&mut self) {
        if let Some(session) = self.session.take() {
            session.close().unwrap();
        }
    }

    /// Everything secret of this person's device.
    pub fn identity(&self) -> kegfs::keyring::Identity {
        kegfs::keyring::Identity::from_bytes(&self.identity).unwrap()
    }

    /// Has lost everything but the keys: the profile is a new one.
    pub fn forget(&mut self) {
        self.lock();
        self.profile = tempfile::tempdir().unwrap();
    }

    pub fn session(&self) -> &Arc<Session> {
        self.session.as_ref().unwrap()
    }

    /// The folder of that name, once it is there.
    pub fn folder(&self, name: &str) -> Arc<Folder> {
        let mut found = None;
        eventually("the folder appears", || {
            found = self.session().folder(name).ok();
            found.is_some()
        });
        found.unwrap()
    }
}

/// Everything that happens at a person, from now on.
pub fn events(person: &Person) -> impl Fn() -> Vec<Event> + use<> {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = Mutex::new(tell);
    person.session().on_event(move |event| drop(tell.lock().unwrap().send(event.clone())));
    let seen = Mutex::new(Vec::new());
    move || {
        let mut seen = seen.lock().unwrap();
        seen.extend(told.try_iter());
        seen.clone()
    }
}

pub fn now_ms() -> i64 {
    clock::unix_nanos() / 1_000_000
}

/// Waits until `check` holds.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < until, "in {PATIENCE:?} it did not come true that {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Seals `bytes` into blobs, spools them and returns the extents.
pub fn seal(folder: &Folder, bytes: &[u8]) -> Vec<Extent> {
    let mut extents = Vec::new();
    for (index, plain) in bytes.chunks(4 << 20).enumerate() {
        let key = ChunkKey::random();
        let mut sealed = Vec::new();
        seal_into(&key, plain, &mut sealed).unwrap();
        let blob = BlobId(verified::blob_id(&sealed));
        folder.local.spool(&blob, &sealed).unwrap();
        extents.push(Extent {
            offset: (index * (4 << 20)) as u64,
            len: plain.len() as u32,
            blob,
            blob_offset: 0,
            chunk_len: plain.len() as u32,
            chunk_skip: 0,
            key: *key.as_bytes(),
        });
    }
    extents
}

fn set_content(folder: &Folder, keg: KegId, base: u64, bytes: &[u8]) {
    let at_ns = clock::unix_nanos();
    let kind = OpKind::Content {
        keg,
        truncate: Some(0),
        holes: vec![],
        extents: seal(folder, bytes),
        size: bytes.len() as u64,
        mtime_ns: at_ns,
    };
    folder.replica.submit_based(Op { base, at_ns, kind }).unwrap();
}

/// Makes a file of nobody in the root directory.
pub fn create(keg: KegId, name: &[u8]) -> OpKind {
    OpKind::Create {
        keg,
        parent: KegId::ROOT,
        name: name.to_vec(),
        kind: NodeKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        target: vec![],
    }
}

/// Creates or overwrites a file in the root directory.
pub fn write(folder: &Folder, name: &str, bytes: &[u8]) {
    write_based(folder, name, bytes, folder.replica.head().seq);
}

/// The same, on an earlier version.
pub fn write_based(folder: &Folder, name: &str, bytes: &[u8], base: u64) {
    let existing = folder.replica.view().lookup(ROOT_INO, name.as_bytes()).unwrap();
    let keg = existing.map(|node| node.keg).unwrap_or_else(|| {
        let keg = KegId(random::array());
        let create = OpKind::Create {
            keg,
            parent: KegId::ROOT,
            name: name.as_bytes().to_vec(),
            kind: NodeKind::File,
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            rdev: 0,
            target: vec![],
        };
        folder.replica.submit(create, clock::unix_nanos()).unwrap();
        keg
    });
    set_content(folder, keg, base, bytes);
}

/// The names in the root directory.
pub fn names(folder: &Folder) -> Vec<String> {
    let view = folder.replica.view();
    let (mut names, mut after) = (Vec::new(), 0);
    loop {
        let page = view.readdir(ROOT_INO, after, 500).unwrap();
        let Some(last) = page.last() else { break };
        after = last.cookie;
        names.extend(page.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()));
    }
    names.sort();
    names
}

/// The content of a file, fetched where it is not stored here.
pub fn read(folder: &Folder, name: &str) -> Option<Vec<u8>> {
    let ino = folder.replica.view().lookup(ROOT_INO, name.as_bytes()).unwrap()?.ino;
    Some(read_ino(folder, ino))
}

/// The same by inode number.
pub fn read_ino(folder: &Folder, ino: u64) -> Vec<u8> {
    let (extents, size) = {
        let view = folder.replica.view();
        let size = view.node(ino).unwrap().unwrap().size;
        (view.extents(ino, 0, size.max(1)).unwrap(), size)
    };
    let mut bytes = vec![0; size as usize];
    for extent in extents {
        let blob = match folder.local.read(&extent.blob) {
            Ok(blob) => blob,
            Err(_) => folder.fetch_blocking(&extent.blob, FETCH_DEADLINE).unwrap().to_vec(),
        };
        let opener = Opener::new(&ChunkKey::from_bytes(extent.key), extent.chunk_len as usize).unwrap();
        let sealed = kegfs::crypto::chunk::sealed_len(extent.chunk_len as usize);
        let start = extent.blob_offset as usize;
        let mut plain = vec![0; extent.chunk_len as usize];
        opener.open_all(&blob[start..start + sealed], &mut plain).unwrap();
        let skip = extent.chunk_skip as usize;
        let (from, to) = (extent.offset as usize, extent.end() as usize);
        bytes[from..to].copy_from_slice(&plain[skip..skip + extent.len as usize]);
    }
    bytes
}

/// Every name of the root directory with its content.
pub fn tree(folder: &Folder) -> BTreeMap<String, Vec<u8>> {
    names(folder).into_iter().map(|name| (name.clone(), read(folder, &name).unwrap())).collect()
}

/// Two people who share one folder.
pub struct Pair {
    pub alice: Person,
    pub bob: Person,
    pub ours: Arc<Folder>,
    pub theirs: Arc<Folder>,
    // Dropped last.
    pub kegd: Kegd,
}

impl Pair {
    pub fn new() -> Self {
        Self::on(Kegd::start())
    }

    pub fn on(kegd: Kegd) -> Self {
        let (alice, bob) = (Person::join(&kegd, "alice"), Person::join(&kegd, "bob"));
        let ours = alice.session().create_folder("acme").unwrap();
        alice.session().add_member(&ours, bob.id, kegfs::format::Role::Editor).unwrap();
        let theirs = bob.folder("acme");
        Self { alice, bob, ours, theirs, kegd }
    }

    /// Both have everything that either has.
    pub fn settle(&self) {
        for _ in 0..2 {
            self.ours.wait_uploaded_blocking(PATIENCE).unwrap();
            self.theirs.wait_uploaded_blocking(PATIENCE).unwrap();
            self.ours.catch_up_blocking(PATIENCE).unwrap();
            self.theirs.catch_up_blocking(PATIENCE).unwrap();
        }
        assert_eq!(self.ours.replica.mark(), self.theirs.replica.mark());
    }
}
