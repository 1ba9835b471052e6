//! `kegd`: sequences, stores and hands out what clients sealed, and controls who may.
//!
//! A stateless HTTP service over a log store and a blob store. It verifies signatures and memberships with the same
//! code as the clients, to protect itself and its users from malicious ones; clients do not rely on it. It must not
//! know the rooms that know keys or plaintext: no `keg`, `replica`, `sync`, `vfs`.

mod accounts;
mod auth;
mod body;
mod commit;
mod config;
mod error;
mod folders;
mod garbage;
mod hub;
mod listen;
mod locks;
mod mailboxes;
mod quota;
mod rate;
mod routes;
mod scrub;
mod store;
mod tls;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::blobs::{BlobStore, DiskBlobs};
use crate::format::AccountId;
use crate::sys::files;

pub use config::{Config, Limits, Tls};
pub use error::ServerError;

use accounts::Accounts;
use auth::{Auth, invite_hash, new_invite};
use commit::Committer;
use folders::Folders;
use hub::Hub;
use locks::Locks;
use mailboxes::Mailboxes;
use quota::Quota;
use rate::Buckets;
use routes::Buffers;
use store::{LogStore, SqliteStore, Write};

/// What all handlers share.
struct App {
    config: Config,
    store: Arc<dyn LogStore>,
    blobs: Arc<dyn BlobStore>,
    committer: Committer,
    auth: Auth,
    accounts: Arc<Accounts>,
    folders: Arc<Folders>,
    hub: Hub,
    locks: Arc<Locks>,
    mailboxes: Mailboxes,
    quota: Arc<Quota>,
    by_account: Buckets<AccountId>,
    by_address: Buckets<IpAddr>,
    uploads: Arc<Semaphore>,
    uploads_of: Mutex<LruCache<AccountId, Arc<Semaphore>>>,
    buffers: Arc<Buffers>,
}

impl App {
    fn new(
        config: Config,
        name: String,
        store: Arc<dyn LogStore>,
        blobs: Arc<dyn BlobStore>,
        committer: Committer,
    ) -> Self {
        /// Accounts whose uploads are counted; one that is forgotten has none under way, or counts anew.
        const UPLOADERS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
        let limits = config.limits.clone();
        let hub = Hub::default();
        let accounts = Arc::new(Accounts::new(store.clone(), committer.clone()));
        let locks = Arc::new(Locks::new(limits.lock_lease, hub.clone(), store.clone(), committer.clone()));
        let parts = (accounts.clone(), committer.clone(), hub.clone(), locks.clone());
        let folders = Folders::new(store.clone(), blobs.clone(), parts, limits.release_grace);
        Self {
            auth: Auth::new(name, store.clone(), committer.clone()),
            quota: Arc::new(Quota::new(limits.quota_bytes, store.clone())),
            by_account: Buckets::new(limits.requests_per_sec, limits.request_burst),
            by_address: Buckets::new(limits.anonymous_per_sec, limits.anonymous_burst),
            uploads: Arc::new(Semaphore::new(limits.uploads)),
            uploads_of: Mutex::new(LruCache::new(UPLOADERS)),
            buffers: Arc::default(),
            mailboxes: Mailboxes::default(),
            folders: Arc::new(folders),
            config,
            store,
            blobs,
            committer,
            accounts,
            hub,
            locks,
        }
    }

    fn limits(&self) -> &Limits {
        &self.config.limits
    }
}

/// The server.
pub struct Server;

/// A server that runs.
pub struct Running {
    address: SocketAddr,
    https: bool,
    invite: Option<String>,
    fingerprint: Option<String>,
    handle: Handle<SocketAddr>,
    hub: Hub,
    config: Config,
    task: JoinHandle<std::io::Result<()>>,
    garbage: JoinHandle<()>,
    scrub: JoinHandle<()>,
    /// The data directory's lock, held while the server runs.
    _lock: files::FileLock,
}

impl Server {
    /// Starts a server on the current runtime. It accepts connections when this returns.
    ///
    /// At the first start an admission code is made, and written to `invite-code` in the data directory, readable by
    /// its owner only.
    ///
    /// # Errors
    /// See [`ServerError`]; nothing runs then.
    pub async fn start(config: Config) -> Result<Running, ServerError> {
        if matches!(config.tls, Tls::Off) && !config.listen.ip().to_canonical().is_loopback() {
            return Err(ServerError::PlainHttp(config.listen));
        }
        if config.name.is_none() && config.listen.ip().is_unspecified() {
            return Err(ServerError::Nameless(config.listen));
        }
        let data = config.data.clone();
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::Data { path, source }
        };
        files::create_private_dir(&data).map_err(at(&data))?;
        let lock = files::lock_exclusive(&data.join("lock")).map_err(at(&data))?;
        let store: Arc<dyn LogStore> = Arc::new(SqliteStore::open(&data.join("log.db"))?);
        let blobs: Arc<dyn BlobStore> = Arc::new(DiskBlobs::open(&data.join("blobs"))?);
        let committer = Committer::start(store.clone()).map_err(at(&data))?;
        let invite = first_invite(&config, &*store)?;

        let fail = |source| ServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let name = config.name.clone().unwrap_or_else(|| address.ip().to_canonical().to_string());
        let tls = match &config.tls {
            Tls::Off => None,
            Tls::Files { cert, key } => Some(tls::load(cert, key)?),
            Tls::SelfSigned => Some(tls::self_signed(&data, &name)?),
        };

        let app = Arc::new(App::new(config.clone(), name, store, blobs, committer));
        let hub = app.hub.clone();
        let garbage = tokio::spawn(garbage::collect(Arc::downgrade(&app)));
        let scrub = tokio::spawn(scrub::run(Arc::downgrade(&app)));
        let service = routes::router(app).into_make_service_with_connect_info::<SocketAddr>();
        let guard = listen::Guard::new(&config.limits);
        let handle = Handle::new();
        let mut server = axum_server::from_tcp(listener).map_err(fail)?.handle(handle.clone());
        let builder = server.http_builder();
        builder.http1().header_read_timeout(config.limits.header_time);
        // Windows of several blobs: the defaults of 64 KiB would make every blob wait for round trips.
        builder
            .http2()
            .max_concurrent_streams(256)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(32 << 20)
            .max_frame_size(1 << 20)
            .max_send_buf_size(4 << 20);
        let server = server.first_request_timeout(config.limits.header_time);
        let (task, https, fingerprint) = match tls {
            None => (tokio::spawn(server.acceptor(guard).serve(service)), false, None),
            Some(ready) => {
                let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(ready.config)).acceptor(guard);
                (tokio::spawn(server.acceptor(acceptor).serve(service)), true, Some(ready.fingerprint))
            }
        };
        handle.listening().await;
        tracing::info!(%address, https, data = %data.display(), "listening");
        Ok(Running { address, https, invite, fingerprint, handle, hub, config, task, garbage, scrub, _lock: lock })
    }

    /// Makes an admission code for `uses` registrations, also beside a running server. Blocks.
    ///
    /// # Errors
    /// When the data directory holds no log store, or it cannot be written.
    pub fn invite(data: &Path, uses: u32) -> Result<String, ServerError> {
        let path = data.join("log.db");
        if !path.exists() {
            let missing = std::io::Error::new(std::io::ErrorKind::NotFound, "no server was started with it yet");
            return Err(ServerError::Data { path: data.to_owned(), source: missing });
        }
        Ok(add_invite(&SqliteStore::open(&path)?, uses)?)
    }
}

fn add_invite(store: &dyn LogStore, uses: u32) -> Result<String, store::StoreError> {
    let code = new_invite();
    let job = vec![Write::AddInvite { hash: invite_hash(&code), uses }];
    store.commit(&[job])?.into_iter().collect::<Result<(), _>>()?;
    Ok(code)
}

fn first_invite(config: &Config, store: &dyn LogStore) -> Result<Option<String>, ServerError> {
    if store.has_invites()? {
        return Ok(None);
    }
    let code = add_invite(store, config.limits.first_invite_uses)?;
    let path = config.data.join("invite-code");
    files::write_atomic(&path, format!("{code}\n").as_bytes(), 0o600)
        .map_err(|source| ServerError::Data { path, source })?;
    Ok(Some(code))
}

impl Running {
    /// Where it listens, with the actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as the beginning of a URL, without a final slash.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.address)
    }

    /// The admission code that this start made; `None` when there was one before.
    pub fn invite(&self) -> Option<&str> {
        self.invite.as_deref()
    }

    /// SHA-256 fingerprint of the certificate.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// Takes no more connections, ends the event streams, lets requests under way finish for
    /// [`Limits::stop_time`], and returns when all is done.
    ///
    /// # Errors
    /// [`ServerError::Serve`] when the listener had failed.
    pub async fn stop(self) -> Result<(), ServerError> {
        self.hub.close();
        self.garbage.abort();
        self.scrub.abort();
        self.handle.graceful_shutdown(Some(self.config.limits.stop_time));
        match self.task.await {
            Ok(served) => served.map_err(ServerError::Serve),
            Err(error) => Err(ServerError::Serve(std::io::Error::other(error))),
        }
    }
}
