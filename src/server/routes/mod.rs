//! The HTTP routes: from requests to the rooms that decide, and back.

mod accounts;
mod blobs;
mod dbs;
mod events;
mod joining;
mod locks;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

pub use blobs::Buffers;

use super::App;
use super::body::{blocking, read_rest_of_refused};
use super::error::Refused;
use super::store::Session;
use crate::api::{Detail, ErrorCode, routes};
use crate::format::FormatError;
use crate::sys::clock;

/// All routes over `app`.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(routes::REGISTER, post(accounts::register))
        .route(routes::LOGIN_CHALLENGE, post(accounts::challenge))
        .route(routes::LOGIN, post(accounts::login))
        .route(routes::ACCOUNT_LOG, get(accounts::entries).post(accounts::append))
        .route(routes::DBS, get(dbs::list).post(dbs::create))
        .route(routes::ENTRIES, get(dbs::entries).post(dbs::append))
        .route(routes::BOX, get(dbs::member_box))
        .route(routes::BLOBS_MISSING, post(blobs::missing))
        .route(routes::BLOB, get(blobs::get).put(blobs::put))
        .route(routes::ROOM, get(dbs::room))
        .route(routes::LOCKS, post(locks::call))
        .route(routes::EVENTS, get(events::stream))
        .route(routes::MAILBOX, get(joining::letter).put(joining::post))
        .route(routes::ADMISSIONS, post(joining::admit))
        .route(routes::REDEMPTIONS, get(joining::redemptions).post(joining::redeem))
        .route(routes::REVOCATION, post(joining::revocation))
        .route(routes::HEALTHZ, get(health))
        .fallback(async || Refused::new(ErrorCode::NoRoute, "there is no such route"))
        .method_not_allowed_fallback(async || Refused::new(ErrorCode::NoRoute, "this route has no such method"))
        .layer(middleware::from_fn_with_state(app.clone(), read_rest_of_refused))
        .layer(CatchPanicLayer::custom(|_| Refused::internal(&"a handler panicked").into_response()))
        .layer(middleware::from_fn(log))
        .with_state(app)
}

/// One line for each request: the pattern of the route, never what a client made up, nor headers or bodies.
async fn log(request: Request, next: Next) -> Response {
    let start = clock::monotonic();
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unknown", MatchedPath::as_str).to_owned();
    let response = next.run(request).await;
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let status = response.status().as_u16();
    match response.extensions().get::<ErrorCode>() {
        Some(code) => tracing::info!(%method, route, status, micros, code = code.name(), "request"),
        None => tracing::debug!(%method, route, status, micros, "request"),
    }
    response
}

/// 200 when both stores work. Shows nothing else than the version.
async fn health(State(app): State<Arc<App>>) -> Result<Response, Refused> {
    let checked = app.clone();
    blocking(move || {
        checked.store.check()?;
        checked.blobs.check()?;
        Ok(())
    })
    .await?;
    let body = format!("{{\"status\":\"ok\",\"version\":\"{}\"}}\n", env!("CARGO_PKG_VERSION"));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// The logged-in device that makes the request. Extracting it costs one token of the account's rate.
pub struct Caller(pub Session);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refused> {
        let refused = || Refused::new(ErrorCode::Unauthenticated, "log in (again): there is no valid token");
        let Some(token) = bearer(&parts.headers).map(str::to_owned) else {
            Anonymous::from_request_parts(parts, app).await?;
            return Err(refused());
        };
        let session = match app.auth.session_cached(&token) {
            Some(session) => session,
            None => {
                // Whoever guesses tokens pays before each look-up.
                Anonymous::from_request_parts(parts, app).await?;
                let app = app.clone();
                blocking(move || Ok(app.auth.session(&token)?)).await?.ok_or_else(refused)?
            }
        };
        app.by_account.take(session.account).map_err(too_many)?;
        Ok(Self(session))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn too_many(wait: std::time::Duration) -> Refused {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    Refused::new(ErrorCode::RateLimited, "too many requests").with(Detail::RetryAfterMs(wait_ms))
}

/// A request that nobody answers for. Extracting it costs one token of the address's rate.
pub struct Anonymous;

impl FromRequestParts<Arc<App>> for Anonymous {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refused> {
        let from = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let address = from.map_or(IpAddr::from([0, 0, 0, 0]), |from| group(from.0.ip()));
        app.by_address.take(address).map_err(too_many)?;
        Ok(Self)
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
pub fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes()),
        v4 => v4,
    }
}

/// An id in a path: exactly the characters that it prints as, so that one object has one path.
fn id<T>(text: &str) -> Result<T, Refused>
where
    T: std::str::FromStr<Err = FormatError> + std::fmt::Display,
{
    let bad = || Refused::new(ErrorCode::Malformed, "the path has an id that is none");
    let id: T = text.parse().map_err(|_| bad())?;
    if id.to_string() == text { Ok(id) } else { Err(bad()) }
}

/// A number in a query; `None` when it is not there.
fn number(query: Option<&str>, name: &str) -> Result<Option<u64>, Refused> {
    let pairs = query.unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.bytes().all(|digit| digit.is_ascii_digit()) => {
            let bad = |_| Refused::new(ErrorCode::Malformed, format!("{name} is not a number in range"));
            value.parse().map(Some).map_err(bad)
        }
        _ => Err(Refused::new(ErrorCode::Malformed, format!("{name} is not one number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{BlobId, DbId};

    #[test]
    fn ids_have_one_spelling() {
        let db = DbId([0xab; 32]);
        assert_eq!(id::<DbId>(&db.to_string()).unwrap(), db);
        for bad in ["", "..", "../../etc/passwd", "ab", &"AB".repeat(32), &"ab".repeat(33), "tmp"] {
            assert!(id::<BlobId>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_plain_and_given_once() {
        assert_eq!(number(Some("after=5&max_bytes=7"), "max_bytes").unwrap(), Some(7));
        assert_eq!(number(None, "after").unwrap(), None);
        for bad in ["after=-1", "after=1&after=2", "after=", "after=+1", "after=99999999999999999999"] {
            assert!(number(Some(bad), "after").is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let parse = |text: &str| group(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
        assert_ne!(parse("10.0.0.1"), parse("10.0.0.2"));
    }
}
