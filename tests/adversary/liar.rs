//! A server gone bad: an HTTP server on loopback that passes everything on to a real `kegd`, except where it lies.
//!
//! A lie is one implementation of [`Lie`]: it is handed what the server would have said, as values of the interface,
//! and says something else. Whole logs are handed over, not pages, so that a rollback, a fork or an inserted entry is a
//! function from log to log. Without lies nothing is touched.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use futures_util::{StreamExt, stream};
use kegfs::api::{self, AccountEntries, ApiError, AppendEntry, Entries, ErrorCode, HeadEvent, Letter, MemberBox, Side};
use kegfs::format::{AccountId, BlobId, ChainHash, DbId, Head, SignedAccountEntry, SignedEntry, decode, encode};
use kegfs::keyring::{account_entry_hash, chain};
use parking_lot::{Mutex, RwLock};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::broadcast;

/// Bytes of the largest body that passes.
const BODY_MAX: usize = 256 << 20;

/// What a client asked for.
#[derive(Clone, Debug)]
pub enum Asked {
    Login,
    Account { account: AccountId, after: u64 },
    Dbs,
    Entries { db: DbId, after: u64 },
    Append { db: DbId, sent: Box<AppendEntry> },
    Box { db: DbId, seq: u64 },
    Redemptions { db: DbId },
    Letter { side: Side },
    Leave { side: Side, letter: Letter },
    Put { blob: BlobId, bytes: Bytes },
    Blob { blob: BlobId },
    Range { blob: BlobId, offset: u64, len: u64 },
    Events,
    Other(String),
}

/// What it is told instead of the truth.
pub enum Reply {
    /// An answer of the interface, encoded.
    Says(Vec<u8>),
    /// An error of the interface.
    Refuses(ErrorCode),
    /// These bytes with this status.
    Raw(u16, Vec<u8>),
    /// Nothing, ever.
    Silence,
}

/// How the server lies. Everything that a lie does not speak of is true.
pub trait Lie: Send + Sync + 'static {
    fn instead(&self, _asked: &Asked) -> Option<Reply> {
        None
    }
    fn log(&self, _db: DbId, truth: Vec<SignedEntry>) -> Vec<SignedEntry> {
        truth
    }
    fn account(&self, _account: AccountId, truth: Vec<SignedAccountEntry>) -> Vec<SignedAccountEntry> {
        truth
    }
    fn key_box(&self, _db: DbId, _seq: u64, truth: MemberBox) -> MemberBox {
        truth
    }
    fn letter(&self, _side: Side, truth: Letter) -> Letter {
        truth
    }
    fn blob(&self, _blob: BlobId, truth: Vec<u8>) -> Vec<u8> {
        truth
    }
    fn range(&self, _blob: BlobId, _offset: u64, _len: u64, truth: Vec<u8>) -> Vec<u8> {
        truth
    }
    fn head(&self, truth: HeadEvent) -> Option<HeadEvent> {
        Some(truth)
    }
}

/// A lie in front of one client, or of several.
pub struct Liar {
    pub url: String,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    upstream: String,
    client: reqwest::Client,
    lies: RwLock<Vec<Arc<dyn Lie>>>,
    asked: Mutex<Vec<Asked>>,
    pushed: broadcast::Sender<HeadEvent>,
}

impl Liar {
    /// Listens on a port of its own in front of the `kegd` at `upstream`.
    pub fn before(upstream: SocketAddr) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            upstream: format!("http://{upstream}"),
            client: reqwest::Client::builder().no_proxy().http1_only().build().unwrap(),
            lies: RwLock::default(),
            asked: Mutex::default(),
            pushed: broadcast::channel(64).0,
        });
        let router = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, shared, runtime: Some(runtime) }
    }

    /// Begins to lie (also).
    pub fn tell(&self, lie: impl Lie) {
        self.shared.lies.write().push(Arc::new(lie));
    }

    /// Tells the truth again.
    pub fn repent(&self) {
        self.shared.lies.write().clear();
    }

    /// Announces a head to everybody who listens here.
    pub fn announce(&self, db: DbId, seq: u64) {
        let _ = self.shared.pushed.send(HeadEvent { db, seq });
    }

    /// Has everybody who listens here look at every folder again.
    pub fn nudge(&self) {
        let asked = self.asked().into_iter();
        let dbs: BTreeSet<DbId> = asked
            .filter_map(|asked| match asked {
                Asked::Entries { db, .. } => Some(db),
                _ => None,
            })
            .collect();
        dbs.into_iter().for_each(|db| self.announce(db, 0));
    }

    /// Everything that was asked here, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().clone()
    }

    /// The entries that clients here tried to append to `db`, in order.
    pub fn appended(&self, wanted: DbId) -> Vec<AppendEntry> {
        let asked = self.asked().into_iter();
        asked
            .filter_map(|asked| match asked {
                Asked::Append { db, sent } if db == wanted => Some(*sent),
                _ => None,
            })
            .collect()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

fn understand(method: &Method, path: &str, query: &str, body: &Bytes) -> Asked {
    let number = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse::<u64>().ok())
    };
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let other = || Asked::Other(format!("{method} {path}"));
    let get = method == Method::GET;
    match parts.as_slice() {
        ["v1", "login", ..] => Asked::Login,
        ["v1", "events"] => Asked::Events,
        ["v1", "dbs"] if get => Asked::Dbs,
        ["v1", "mailboxes", _, side] => match (Side::named(side), decode(body)) {
            (Some(side), _) if get => Asked::Letter { side },
            (Some(side), Ok(letter)) => Asked::Leave { side, letter },
            _ => other(),
        },
        ["v1", "accounts", id, "log"] if get => match id.parse() {
            Ok(account) => Asked::Account { account, after: number("after").unwrap_or(0) },
            Err(_) => other(),
        },
        ["v1", "dbs", db, rest @ ..] => {
            let Ok(db) = db.parse::<DbId>() else { return other() };
            match rest {
                ["entries"] if get => Asked::Entries { db, after: number("after").unwrap_or(0) },
                ["entries"] => match decode(body) {
                    Ok(sent) => Asked::Append { db, sent: Box::new(sent) },
                    Err(_) => other(),
                },
                ["redemptions"] if get => Asked::Redemptions { db },
                ["boxes", seq] => Asked::Box { db, seq: seq.parse().unwrap_or(0) },
                ["blobs", blob] if *blob != "missing" => {
                    let Ok(blob) = BlobId::from_canonical(blob) else { return other() };
                    match (number("offset"), number("len")) {
                        _ if !get => Asked::Put { blob, bytes: body.clone() },
                        (Some(offset), Some(len)) => Asked::Range { blob, offset, len },
                        _ => Asked::Blob { blob },
                    }
                }
                _ => other(),
            }
        }
        _ => other(),
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_MAX).await else { return reply(400, Vec::new()) };
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let asked = understand(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or(""), &body);
    shared.asked.lock().push(asked.clone());
    let lies: Vec<Arc<dyn Lie>> = shared.lies.read().clone();
    for lie in &lies {
        match lie.instead(&asked) {
            None => {}
            Some(Reply::Says(bytes)) => return reply(200, bytes),
            Some(Reply::Raw(status, bytes)) => return reply(status, bytes),
            Some(Reply::Refuses(code)) => {
                return reply(code.status(), encode(&ApiError::new(code, "so says the server")));
            }
            Some(Reply::Silence) => return std::future::pending().await,
        }
    }
    let authorization = parts.headers.get(header::AUTHORIZATION).cloned();
    let onward = |method: Method, target: &str, body: Bytes| {
        let mut onward = shared.client.request(method, format!("{}{target}", shared.upstream)).body(body);
        if let Some(value) = &authorization {
            onward = onward.header(header::AUTHORIZATION, value);
        }
        onward
    };
    if !lies.is_empty() {
        match asked {
            Asked::Entries { db, after } => {
                let mut truth: Vec<SignedEntry> = Vec::new();
                loop {
                    let page = onward(
                        Method::GET,
                        &api::routes::entries_after(&db, truth.len() as u64, 8 << 20),
                        Bytes::new(),
                    );
                    let Ok(page) = page.send().await else { return reply(502, Vec::new()) };
                    if !page.status().is_success() {
                        return reply(page.status().as_u16(), page.bytes().await.unwrap_or_default().to_vec());
                    }
                    let page: Entries = decode(&page.bytes().await.unwrap_or_default()).unwrap();
                    truth.extend(page.entries);
                    if truth.len() as u64 >= page.head_seq {
                        break;
                    }
                }
                let told = lies.iter().fold(truth, |log, lie| lie.log(db, log));
                let head_seq = told.len() as u64;
                let entries = told.into_iter().skip(usize::try_from(after).unwrap()).collect();
                return reply(200, encode(&Entries { entries, head_seq }));
            }
            Asked::Account { account, after } => {
                let mut truth: Vec<SignedAccountEntry> = Vec::new();
                loop {
                    let page = onward(
                        Method::GET,
                        &api::routes::account_log_after(&account, truth.len() as u64),
                        Bytes::new(),
                    );
                    let Ok(page) = page.send().await else { return reply(502, Vec::new()) };
                    if !page.status().is_success() {
                        return reply(page.status().as_u16(), page.bytes().await.unwrap_or_default().to_vec());
                    }
                    let page: AccountEntries = decode(&page.bytes().await.unwrap_or_default()).unwrap();
                    truth.extend(page.entries);
                    if truth.len() as u64 >= page.head.seq {
                        break;
                    }
                }
                let told = lies.iter().fold(truth, |log, lie| lie.account(account, log));
                let head = account_head(&told);
                let entries = told.into_iter().skip(usize::try_from(after).unwrap()).collect();
                return reply(200, encode(&AccountEntries { entries, head }));
            }
            _ => {}
        }
    }
    let Ok(answer) = onward(parts.method, &target, body).send().await else { return reply(502, Vec::new()) };
    let status = answer.status();
    let mut response = Response::builder().status(status);
    for name in [header::CONTENT_TYPE, header::CONTENT_RANGE, header::RETRY_AFTER] {
        if let Some(value) = answer.headers().get(&name) {
            response = response.header(name, value);
        }
    }
    if matches!(asked, Asked::Events) && status.is_success() {
        return response.body(events(&shared, answer)).unwrap();
    }
    let Ok(mut bytes) = answer.bytes().await.map(|bytes| bytes.to_vec()) else { return reply(502, Vec::new()) };
    if status.is_success() {
        for lie in &lies {
            bytes = match &asked {
                Asked::Box { db, seq } => encode(&lie.key_box(*db, *seq, decode(&bytes).unwrap())),
                Asked::Letter { side } => encode(&lie.letter(*side, decode(&bytes).unwrap())),
                Asked::Blob { blob } => lie.blob(*blob, bytes),
                Asked::Range { blob, offset, len } => lie.range(*blob, *offset, *len, bytes),
                _ => bytes,
            };
        }
    }
    response.body(Body::from(bytes)).unwrap()
}

/// The head of an account's log as the server gives it beside the entries.
pub fn account_head(entries: &[SignedAccountEntry]) -> Head {
    let link = |before, entry| chain(before, account_entry_hash(entry));
    Head { seq: entries.len() as u64, chain: entries.iter().fold(ChainHash::ZERO, link) }
}

fn reply(status: u16, bytes: Vec<u8>) -> Response {
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap())
        .header(header::CONTENT_TYPE, api::CBOR)
        .body(Body::from(bytes))
        .unwrap()
}

/// The server's events, those that the lies let through, and what is announced here.
fn events(shared: &Arc<Shared>, answer: reqwest::Response) -> Body {
    let told = Arc::clone(shared);
    let mut rest = Vec::new();
    let truth = answer.bytes_stream().map(move |bytes| {
        rest.extend_from_slice(&bytes?);
        let mut out = Vec::new();
        while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = rest.drain(..end + 2).collect();
            out.extend(retell(&told, block));
        }
        Ok::<_, reqwest::Error>(Bytes::from(out))
    });
    let announced = stream::unfold(shared.pushed.subscribe(), |mut pushed| async move {
        let head = pushed.recv().await.ok()?;
        let text = format!("event: {}\ndata: {head}\n\n", api::EVENT_HEAD);
        Some((Ok(Bytes::from(text)), pushed))
    });
    Body::from_stream(stream::select(truth, announced))
}

fn retell(shared: &Shared, block: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&block);
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).and_then(|data| data.parse().ok());
    let (true, Some(head)) = (text.contains(api::EVENT_HEAD), data) else { return block };
    let lies = shared.lies.read();
    match lies.iter().try_fold(head, |head, lie| lie.head(head)) {
        Some(head) => format!("event: {}\ndata: {head}\n\n", api::EVENT_HEAD).into_bytes(),
        None => Vec::new(),
    }
}
