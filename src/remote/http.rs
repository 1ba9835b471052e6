//! The interface over HTTP: addresses, deadlines, login, bodies.
//!
//! Two connection pools: one for small requests, one for blobs. A small request never queues behind 4 MiB of
//! somebody's upload, and because a connection is driven by the runtime that opened it, the caller decides by the
//! runtime on which it moves blobs with which priority that happens. HTTP/1.1 throughout: one response at a time per
//! connection is what keeps large transfers free of flow-control windows.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, HeaderName};
use reqwest::{Client, ClientBuilder, Method, Response, StatusCode, Url};
use zeroize::Zeroizing;

use super::login::{Bearer, TokenSlot};
use super::sse::Parser;
use super::{Answer, Credentials, Events, RangeAnswer, Remote, RemoteError, ServerEvent};
use crate::api::limits::{
    APPEND_BASE_MAX_BYTES, ENTRIES_MAX_BYTES, KEEP_ALIVE_SECS, MAILBOX_ANSWER_MAX_BYTES, REQUEST_MAX_BYTES,
};
use crate::api::{
    AccountEntries, Admit, Admitted, ApiError, AppendAccountEntry, AppendEntry, Appended, BlobIds, CBOR, Challenge,
    CreateDb, CreatedDb, DbHead, DbList, Entries, ErrorCode, Letter, LockAnswer, LockCall, LoginRequest, MemberBox,
    OCTETS, Redeem, Redeeming, Redemptions, Register, Registered, RevocationRequest, Room, Side, Token, routes,
};
use crate::format::limits::BLOB_MAX_BYTES;
use crate::format::{AccountId, BlobId, DbId, KeyBox, MailboxId, SignedAccountEntry, SignedEntry, decode, encode};

/// To connect, TLS included. A server farther away than this is not worth the wait.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a request of at most some 100 KiB and its answer.
const SMALL_TIMEOUT: Duration = Duration::from_secs(15);
/// For a call about locks: half of what the server keeps a lock for, so that a lost call leaves time for another.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// For 8 MiB of entries or a blob at about 1 Mbit/s: less is offline for all that the user can tell.
const LARGE_TIMEOUT: Duration = Duration::from_secs(75);
/// Silence within a response after which the connection is given up.
const SILENCE: Duration = Duration::from_secs(20);
/// Silence of the event stream after which it is given up: two keep-alives and a half.
const EVENT_SILENCE: Duration = Duration::from_millis(KEEP_ALIVE_SECS * 2_500);
/// Bytes of an answer that is neither entries nor a blob.
const ANSWER_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Idle connections kept per pool: as many as blobs move at once.
const IDLE_CONNECTIONS: usize = 8;

/// Where the server is and how it is recognised.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    /// `https://host[:port]`, or `http://` for a loopback host.
    pub url: String,
    /// PEM certificates to trust instead of the system's: for servers with a certificate of their own making.
    pub server_cert_pem: Option<Vec<u8>>,
    /// The name that the server gives itself in login challenges, where it is neither the URL's host nor `host:port`.
    pub server_name: Option<String>,
}

/// A `kegd` over HTTP.
pub struct HttpRemote {
    base: Url,
    /// Names of which the server must call itself one.
    server_names: Vec<String>,
    small: Client,
    large: Client,
    events: Client,
    credentials: Option<Credentials>,
    token: TokenSlot,
}

/// A request that can be made again with a fresh token.
struct Call<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    media: &'static str,
    body: Option<Bytes>,
    timeout: Option<Duration>,
}

impl HttpRemote {
    /// A remote for the server at `options.url`. Does not connect yet. Without `credentials` only
    /// [`Remote::register`] and requests in mailboxes work.
    ///
    /// # Errors
    /// [`RemoteError::BadAddress`] for a URL that is none, unencrypted beyond loopback, or certificates that are none.
    pub fn new(options: &HttpOptions, credentials: Option<Credentials>) -> Result<Arc<Self>, RemoteError> {
        let base = parse_url(&options.url)?;
        let host = base.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let client = |builder: ClientBuilder| build(builder, &host, options);
        Ok(Arc::new(Self {
            small: client(Client::builder().read_timeout(SILENCE))?,
            large: client(Client::builder().read_timeout(SILENCE))?,
            events: client(Client::builder())?,
            server_names: match &options.server_name {
                Some(name) => vec![name.clone()],
                None => {
                    let port = base.port_or_known_default().unwrap_or(443);
                    vec![host.clone(), format!("{}:{port}", base.host_str().unwrap_or_default())]
                }
            },
            base,
            credentials,
            token: TokenSlot::default(),
        }))
    }

    fn small(&self, method: Method, path: String, body: Option<Vec<u8>>) -> Call<'_> {
        let (body, timeout) = (body.map(Bytes::from), Some(SMALL_TIMEOUT));
        Call { client: &self.small, method, path, media: CBOR, body, timeout }
    }

    fn large(&self, method: Method, path: String, media: &'static str, body: Option<Bytes>) -> Call<'_> {
        Call { client: &self.large, method, path, media, body, timeout: Some(LARGE_TIMEOUT) }
    }

    /// Makes the call with a token; with a fresh one if the server takes the old one no more.
    async fn send(&self, call: Call<'_>) -> Result<Response, RemoteError> {
        let (generation, bearer) = self.token.get(None, || self.login()).await?;
        match self.send_once(&call, Some(&bearer)).await {
            Err(RemoteError::Refused(error)) if error.code == ErrorCode::Unauthenticated => {
                let (_, bearer) = self.token.get(Some(generation), || self.login()).await?;
                self.send_once(&call, Some(&bearer)).await
            }
            answer => answer,
        }
    }

    async fn send_once(&self, call: &Call<'_>, bearer: Option<&Bearer>) -> Result<Response, RemoteError> {
        let url = self.base.join(&call.path).map_err(|error| RemoteError::BadAddress(error.to_string()))?;
        let mut request = call.client.request(call.method.clone(), url).header(ACCEPT, call.media);
        if let Some(bearer) = bearer {
            request = request.bearer_auth(bearer.0.as_str());
        }
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, call.media).body(body.clone());
        }
        if let Some(timeout) = call.timeout {
            request = request.timeout(timeout);
        }
        let response = request.send().await.map_err(translate)?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    async fn login(&self) -> Result<Bearer, RemoteError> {
        let answer = self.answered_challenge().await?;
        let request = self.small(Method::POST, routes::LOGIN.to_owned(), Some(encode(&answer)));
        let token: Token = body(self.send_once(&request, None).await?, REQUEST_MAX_BYTES).await?;
        Ok(Bearer(Zeroizing::new(token.token)))
    }

    /// A fresh challenge of the server, answered.
    async fn answered_challenge(&self) -> Result<LoginRequest, RemoteError> {
        let Some(credentials) = &self.credentials else {
            return Err(ApiError::new(ErrorCode::Unauthenticated, "this call needs an account").into());
        };
        let request =
            self.small(Method::POST, routes::LOGIN_CHALLENGE.to_owned(), Some(encode(&credentials.request())));
        let challenge: Challenge = body(self.send_once(&request, None).await?, REQUEST_MAX_BYTES).await?;
        if !self.server_names.contains(&challenge.server_name) {
            let (expected, claimed) = (self.server_names.join("' or '"), printable(&challenge.server_name));
            return Err(RemoteError::WrongServer { expected, claimed });
        }
        Ok(credentials.answer(challenge.server_name, challenge.challenge))
    }

    async fn get<T: Layout>(&self, path: String) -> Result<T, RemoteError> {
        body(self.send(self.small(Method::GET, path, None)).await?, ANSWER_MAX_BYTES).await
    }

    async fn post<T: Layout>(&self, path: String, request: Vec<u8>) -> Result<T, RemoteError> {
        let call = if request.len() > REQUEST_MAX_BYTES {
            self.large(Method::POST, path, CBOR, Some(request.into()))
        } else {
            self.small(Method::POST, path, Some(request))
        };
        body(self.send(call).await?, ANSWER_MAX_BYTES).await
    }
}

impl Remote for HttpRemote {
    fn register<'a>(&'a self, invite: &'a str, first: &'a SignedAccountEntry) -> Answer<'a, AccountId> {
        Box::pin(async move {
            let request = encode(&Register { invite: invite.to_owned(), first: first.clone() });
            let call = self.small(Method::POST, routes::REGISTER.to_owned(), Some(request));
            let answer: Registered = body(self.send_once(&call, None).await?, REQUEST_MAX_BYTES).await?;
            Ok(answer.account)
        })
    }

    fn account_log(&self, account: AccountId, after: u64) -> Answer<'_, AccountEntries> {
        Box::pin(self.get(routes::account_log_after(&account, after)))
    }

    fn append_account<'a>(&'a self, account: AccountId, entry: &'a SignedAccountEntry) -> Answer<'a, u64> {
        Box::pin(async move {
            let request = encode(&AppendAccountEntry { entry: entry.clone() });
            let answer: Appended = self.post(routes::account_log(&account), request).await?;
            Ok(answer.seq)
        })
    }

    fn dbs(&self) -> Answer<'_, Vec<DbHead>> {
        Box::pin(async move {
            let list: DbList = self.get(routes::DBS.to_owned()).await?;
            Ok(list.dbs)
        })
    }

    fn create_db<'a>(&'a self, entry: &'a SignedEntry, boxes: &'a [KeyBox]) -> Answer<'a, DbId> {
        Box::pin(async move {
            let request = encode(&CreateDb { entry: entry.clone(), boxes: boxes.to_vec() });
            let answer: CreatedDb = self.post(routes::DBS.to_owned(), request).await?;
            Ok(answer.db)
        })
    }

    fn append<'a>(&'a self, db: DbId, entry: &'a SignedEntry, boxes: &'a [KeyBox]) -> Answer<'a, u64> {
        Box::pin(async move {
            let request = encode(&AppendEntry { entry: entry.clone(), boxes: boxes.to_vec() });
            let answer: Appended = self.post(routes::entries(&db), request).await?;
            Ok(answer.seq)
        })
    }

    fn entries(&self, db: DbId, after: u64, max_bytes: u64) -> Answer<'_, Entries> {
        Box::pin(async move {
            let call = self.large(Method::GET, routes::entries_after(&db, after, max_bytes), CBOR, None);
            body(self.send(call).await?, ENTRIES_MAX_BYTES + APPEND_BASE_MAX_BYTES).await
        })
    }

    fn member_box(&self, db: DbId, seq: u64) -> Answer<'_, MemberBox> {
        Box::pin(self.get(routes::member_box(&db, seq)))
    }

    fn missing_blobs<'a>(&'a self, db: DbId, ids: &'a [BlobId]) -> Answer<'a, Vec<BlobId>> {
        Box::pin(async move {
            let answer: BlobIds = self.post(routes::blobs_missing(&db), encode(&BlobIds { ids: ids.to_vec() })).await?;
            Ok(answer.ids)
        })
    }

    fn put_blob(&self, db: DbId, id: BlobId, bytes: Bytes) -> Answer<'_, ()> {
        Box::pin(async move {
            let call = self.large(Method::PUT, routes::blob(&db, &id), OCTETS, Some(bytes));
            // The rest of the answer is read so that the connection can be used again.
            self.send(call).await?.bytes().await.map_err(translate).map(drop)
        })
    }

    fn blob(&self, db: DbId, id: BlobId) -> Answer<'_, Bytes> {
        Box::pin(async move {
            let call = self.large(Method::GET, routes::blob(&db, &id), OCTETS, None);
            bytes(self.send(call).await?, BLOB_MAX_BYTES).await
        })
    }

    fn blob_range(&self, db: DbId, id: BlobId, offset: u64, len: u64) -> Answer<'_, RangeAnswer> {
        Box::pin(async move {
            let call = self.large(Method::GET, routes::blob_range(&db, &id, offset, len), OCTETS, None);
            let response = self.send(call).await?;
            let blob_len = blob_len(response.headers())?;
            // Tree nodes are 64 bytes for each group of 64 KiB, so a slice is little longer than its range.
            let encoded = bytes(response, 2 * BLOB_MAX_BYTES).await?;
            Ok(RangeAnswer { encoded, blob_len })
        })
    }

    fn locks<'a>(&'a self, db: DbId, call: &'a LockCall) -> Answer<'a, LockAnswer> {
        Box::pin(async move {
            let request = self.small(Method::POST, routes::locks(&db), Some(encode(call)));
            let request = Call { timeout: Some(LOCK_TIMEOUT), ..request };
            body(self.send(request).await?, ANSWER_MAX_BYTES).await
        })
    }

    fn put_letter<'a>(&'a self, mailbox: MailboxId, side: Side, letter: &'a Letter) -> Answer<'a, ()> {
        Box::pin(async move {
            let call = self.small(Method::PUT, routes::mailbox(&mailbox, side), Some(encode(letter)));
            let response =
                if side.is_new_devices() { self.send_once(&call, None).await? } else { self.send(call).await? };
            response.bytes().await.map_err(translate).map(drop)
        })
    }

    fn letter(&self, mailbox: MailboxId, side: Side) -> Answer<'_, Option<Letter>> {
        Box::pin(async move {
            let call = self.small(Method::GET, routes::mailbox(&mailbox, side), None);
            match self.send_once(&call, None).await {
                Ok(response) => Ok(Some(body(response, MAILBOX_ANSWER_MAX_BYTES + REQUEST_MAX_BYTES).await?)),
                Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn admit(&self, admit: Admit) -> Answer<'_, i64> {
        Box::pin(async move {
            let answer: Admitted = self.post(routes::ADMISSIONS.to_owned(), encode(&admit)).await?;
            Ok(answer.ends_ms)
        })
    }

    fn redeem(&self, redeem: Redeem) -> Answer<'_, bool> {
        Box::pin(async move {
            let answer: Redeeming = self.post(routes::redemptions(&redeem.redemption.db), encode(&redeem)).await?;
            Ok(answer.member)
        })
    }

    fn room(&self, db: DbId) -> Answer<'_, Room> {
        Box::pin(self.get(routes::room(&db)))
    }

    fn clock(&self) -> Answer<'_, i64> {
        Box::pin(async move {
            let call = self.small(Method::GET, routes::HEALTHZ.to_owned(), None);
            let response = self.send_once(&call, None).await?;
            let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
            // The format of mail is that of HTTP, whose zone is always GMT.
            let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
            date.map(|date| date.timestamp().as_millisecond())
                .ok_or_else(|| RemoteError::Protocol("an answer without a date".to_owned()))
        })
    }

    fn redemptions(&self, db: DbId) -> Answer<'_, Vec<Redeem>> {
        Box::pin(async move {
            let answer: Redemptions = self.get(routes::redemptions(&db)).await?;
            Ok(answer.waiting)
        })
    }

    fn revocation(&self, after: u64) -> Answer<'_, AccountEntries> {
        Box::pin(async move {
            let request = RevocationRequest { login: self.answered_challenge().await?, after };
            let call = self.small(Method::POST, routes::REVOCATION.to_owned(), Some(encode(&request)));
            body(self.send_once(&call, None).await?, ANSWER_MAX_BYTES).await
        })
    }

    fn events(&self) -> Answer<'_, Events> {
        Box::pin(async move {
            let (method, path) = (Method::GET, routes::EVENTS.to_owned());
            let call =
                Call { client: &self.events, method, path, media: "text/event-stream", body: None, timeout: None };
            let opened = tokio::time::timeout(SMALL_TIMEOUT, self.send(call)).await;
            Ok(follow(opened.map_err(|_| RemoteError::Timeout)??))
        })
    }
}

/// The events of an open stream, until it breaks.
fn follow(response: Response) -> Events {
    struct Open {
        response: Response,
        parser: Parser,
        ready: std::collections::VecDeque<ServerEvent>,
        ended: bool,
    }
    let open = Open { response, parser: Parser::default(), ready: Default::default(), ended: false };
    Box::pin(stream::unfold(open, |mut open| async move {
        loop {
            if let Some(event) = open.ready.pop_front() {
                return Some((Ok(event), open));
            }
            if open.ended {
                return None;
            }
            let failure = match tokio::time::timeout(EVENT_SILENCE, open.response.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    let mut events = Vec::new();
                    let fed = open.parser.feed(&bytes, &mut events);
                    open.ready.extend(events);
                    match fed {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Ok(Ok(None)) => RemoteError::Unreachable("the event stream ended".to_owned()),
                Ok(Err(error)) => translate(error),
                Err(_) => RemoteError::Timeout,
            };
            open.ended = true;
            return Some((Err(failure), open));
        }
    }))
}

/// What [`body`] can decode.
trait Layout: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()> {}
impl<T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>> Layout for T {}

async fn body<T: Layout>(response: Response, limit: usize) -> Result<T, RemoteError> {
    let bytes = bytes(response, limit).await?;
    decode(&bytes).map_err(|error| RemoteError::Protocol(error.to_string()))
}

/// The whole body, at most `limit` bytes; with an announced length it is collected without growing.
async fn bytes(mut response: Response, limit: usize) -> Result<Bytes, RemoteError> {
    let too_long = || RemoteError::Protocol(format!("an answer of more than {limit} bytes"));
    let announced = usize::try_from(response.content_length().unwrap_or(0)).map_err(|_| too_long())?;
    if announced > limit {
        return Err(too_long());
    }
    let Some(first) = response.chunk().await.map_err(translate)? else { return Ok(Bytes::new()) };
    if first.len() == announced {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(announced.max(first.len()));
    all.extend_from_slice(&first);
    drop(first);
    while let Some(chunk) = response.chunk().await.map_err(translate)? {
        if chunk.len() > limit - all.len().min(limit) {
            return Err(too_long());
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

async fn refusal(response: Response) -> RemoteError {
    let status = response.status();
    let bytes = match bytes(response, REQUEST_MAX_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    if let Ok(error) = decode::<ApiError>(&bytes) {
        return RemoteError::Refused(ApiError { message: printable(&error.message), ..error });
    }
    // Not from kegd but from something before it, such as a proxy whose kegd is away.
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            RemoteError::Unreachable(format!("status {status}"))
        }
        _ => RemoteError::Protocol(format!("status {status} without an explanation")),
    }
}

/// Length of the whole blob from `Content-Range: bytes a-b/LENGTH` or the header of the same purpose for slices.
fn blob_len(headers: &HeaderMap) -> Result<u64, RemoteError> {
    let header = HeaderName::from_static("content-range");
    let total = headers.get(header).and_then(|value| value.to_str().ok()).and_then(|text| text.rsplit('/').next());
    total
        .and_then(|text| text.trim().parse().ok())
        .filter(|len| *len <= BLOB_MAX_BYTES as u64)
        .ok_or_else(|| RemoteError::Protocol("a range without the blob's length".to_owned()))
}

fn translate(error: reqwest::Error) -> RemoteError {
    if error.is_timeout() {
        return RemoteError::Timeout;
    }
    let text = reason(&error);
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        RemoteError::Untrusted(text)
    } else {
        RemoteError::Unreachable(text)
    }
}

/// The innermost cause: the layers above it only say that sending failed.
fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Text of the server's for people: without control characters, short.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn parse_url(text: &str) -> Result<Url, RemoteError> {
    let bad = |why: &str| RemoteError::BadAddress(format!("'{}' is no server address: {why}", printable(text)));
    let mut url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(bad("it must be https://HOST[:PORT] and nothing else"));
    }
    let host = url.host_str().ok_or_else(|| bad("it names no host"))?.to_owned();
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&host) => {}
        "http" => return Err(bad("without TLS only this machine itself can be addressed; write https://")),
        _ => return Err(bad("it must begin with https://")),
    }
    url.set_path("/");
    Ok(url)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn build(builder: ClientBuilder, host: &str, options: &HttpOptions) -> Result<Client, RemoteError> {
    let mut builder = builder
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .redirect(reqwest::redirect::Policy::none());
    if is_loopback(host) {
        // A proxy of the environment is never the way to this machine itself.
        builder = builder.no_proxy();
    }
    if let Some(pem) = &options.server_cert_pem {
        let bad = |error: reqwest::Error| RemoteError::BadAddress(format!("server certificate: {}", reason(&error)));
        let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(bad)?;
        if certificates.is_empty() {
            return Err(RemoteError::BadAddress("the server certificate file holds no certificate".to_owned()));
        }
        builder = builder.tls_certs_only(certificates);
    }
    builder.build().map_err(|error| RemoteError::BadAddress(reason(&error)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_addressed_without_tls() {
        for good in [
            "https://kegs.example",
            "https://kegs.example:8443",
            "http://127.0.0.1:80",
            "http://[::1]:9",
            "http://localhost",
        ] {
            assert!(parse_url(good).is_ok(), "{good}");
        }
        for bad in ["http://kegs.example", "http://10.0.0.1", "ftp://x", "kegs.example", "https://u:p@kegs.example", ""]
        {
            assert!(matches!(parse_url(bad), Err(RemoteError::BadAddress(_))), "{bad}");
        }
    }

    #[test]
    fn the_length_of_a_blob_comes_from_content_range_and_is_bounded() {
        let length = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-range", reqwest::header::HeaderValue::from_static(value));
            blob_len(&headers)
        };
        assert_eq!(length("bytes 0-9/4096"), Ok(4096));
        assert!(length("bytes 0-9/99999999999").is_err());
        assert!(length("bytes 0-9/*").is_err());
        assert!(blob_len(&HeaderMap::new()).is_err());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unreachable_at_once() {
        // A port that was just free: bound and given back.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = HttpOptions { url: format!("http://127.0.0.1:{port}"), ..HttpOptions::default() };
        let remote = HttpRemote::new(&options, None).unwrap();
        let first = SignedAccountEntry { entry: vec![], signature: [0; 64] };
        assert!(matches!(remote.register("x", &first).await, Err(RemoteError::Unreachable(_))));
    }
}
