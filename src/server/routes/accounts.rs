//! Registration, login and account logs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;

use super::super::App;
use super::super::body::{Cbor, Incoming, blocking};
use super::super::error::Refused;
use super::{Anonymous, Caller, id, number};
use crate::api::limits::REQUEST_MAX_BYTES;
use crate::api::{
    AccountEntries, AppendAccountEntry, Appended, Challenge, ChallengeRequest, LoginRequest, Register, Registered,
    Token, routes,
};

type Reply<T> = Result<Cbor<T>, Refused>;

/// [`routes::REGISTER`].
pub async fn register(_: Anonymous, State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Reply<Registered> {
    let request: Register = Incoming::new(&headers, body, REQUEST_MAX_BYTES, app.limits())?.value().await?;
    let done = blocking(move || app.accounts.register(&request)).await?;
    tracing::info!(account = %done.account, "registered");
    Ok(Cbor(done))
}

/// [`routes::LOGIN_CHALLENGE`].
pub async fn challenge(_: Anonymous, State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Reply<Challenge> {
    let request: ChallengeRequest = Incoming::new(&headers, body, REQUEST_MAX_BYTES, app.limits())?.value().await?;
    Ok(Cbor(app.auth.challenge(request)))
}

/// [`routes::LOGIN`].
pub async fn login(_: Anonymous, State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Reply<Token> {
    let request: LoginRequest = Incoming::new(&headers, body, REQUEST_MAX_BYTES, app.limits())?.value().await?;
    Ok(Cbor(blocking(move || app.auth.login(&request)).await?))
}

/// `GET` of [`routes::ACCOUNT_LOG`]: for everybody who has logged in, since adding a member begins with reading that
/// member's log. Account ids cannot be guessed.
pub async fn entries(
    _: Caller,
    State(app): State<Arc<App>>,
    Path(account): Path<String>,
    RawQuery(query): RawQuery,
) -> Reply<AccountEntries> {
    let account = id(&account)?;
    let after = number(query.as_deref(), routes::AFTER)?.unwrap_or(0);
    Ok(Cbor(blocking(move || app.accounts.entries(&account, after)).await?))
}

/// `POST` of [`routes::ACCOUNT_LOG`].
pub async fn append(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path(account): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply<Appended> {
    let account = id(&account)?;
    let request: AppendAccountEntry = Incoming::new(&headers, body, REQUEST_MAX_BYTES, app.limits())?.value().await?;
    blocking(move || {
        let (appended, revoked) = app.accounts.append(&caller, &account, &request.entry)?;
        if let Some(device) = revoked {
            app.auth.revoked(&account, &device);
            app.hub.revoked(&account, &device);
            tracing::info!(%account, %device, "device revoked");
        }
        Ok(Cbor(appended))
    })
    .await
}
