//! What a server is started with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How connections are protected.
#[derive(Clone, Debug)]
pub enum Tls {
    /// Not at all: only on a loopback address.
    Off,
    /// With a certificate chain and its key, PEM files.
    Files {
        /// The chain, leaf first.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
    /// With a certificate that the server makes for itself once and keeps in the data directory.
    SelfSigned,
}

/// Everything that can be chosen. [`Config::new`] has the values that `kegd` uses when nothing is said.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is kept.
    pub data: PathBuf,
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The name that devices know the server by and bind their logins to: the host in the URL that clients use. The
    /// listening IP address when `None`.
    pub name: Option<String>,
    /// Protection of connections.
    pub tls: Tls,
    /// Bounds of what clients may do.
    pub limits: Limits,
}

/// Bounds of what clients may do. Generous: they stop abuse, not use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Registrations with the code that the first start prints.
    pub first_invite_uses: u32,
    /// Bytes of blobs in the folders that one account owns.
    pub quota_bytes: u64,
    /// Requests a second of one account in the long run. A client that reads a large tree makes a few hundred.
    pub requests_per_sec: u32,
    /// Requests that one account may make at once after a pause.
    pub request_burst: u32,
    /// Requests without a valid token a second from one address (registering, logging in, wrong tokens).
    pub anonymous_per_sec: u32,
    /// The same at once after a pause.
    pub anonymous_burst: u32,
    /// Accounts that one account may have admitted to the server that have not registered yet.
    pub admissions_per_account: u32,
    /// Uploads of all accounts under way at once. Each holds a file and up to 1 MiB.
    pub uploads: usize,
    /// Uploads of one account under way at once.
    pub uploads_per_account: usize,
    /// Event streams of one account at once.
    pub streams_per_account: usize,
    /// How long a lock is kept for a device that is not heard of.
    pub lock_lease: Duration,
    /// How long a blob is kept after an entry has released it: what was released by mistake or malice can be added again.
    pub release_grace: Duration,
    /// How long an uploaded blob is kept that no entry refers to.
    pub upload_keep: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Connections of one address at once, so that none takes all places. An office behind one address has a few for
    /// each client.
    pub connections_per_address: usize,
    /// How long the head of a request may take.
    pub header_time: Duration,
    /// How long a request may stand still, sending or receiving.
    pub idle_time: Duration,
    /// How long the body of a request may take in all.
    pub body_time: Duration,
    /// How long requests under way may take to finish when the server stops.
    pub stop_time: Duration,
}

impl Config {
    /// A server with its data in `data` on a loopback port that the system chooses.
    pub fn new(data: PathBuf) -> Self {
        Self {
            data,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            name: None,
            tls: Tls::Off,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_invite_uses: 100,
            quota_bytes: 1 << 40,
            requests_per_sec: 2000,
            request_burst: 10_000,
            anonymous_per_sec: 100,
            anonymous_burst: 1000,
            admissions_per_account: 100,
            uploads: 256,
            uploads_per_account: 32,
            streams_per_account: 64,
            // Long enough for a network that changes; short enough to wait for after a crash.
            lock_lease: Duration::from_secs(10),
            release_grace: Duration::from_secs(7 * 86_400),
            // A client that was interrupted goes on with what it has uploaded; one that is not heard of for a day sends again.
            upload_keep: Duration::from_secs(86_400),
            connections: 10_000,
            connections_per_address: 2000,
            header_time: Duration::from_secs(15),
            idle_time: Duration::from_secs(30),
            body_time: Duration::from_secs(300),
            stop_time: Duration::from_secs(10),
        }
    }
}
