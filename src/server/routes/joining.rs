//! Joining: mailboxes of new devices, admissions of new accounts, redemptions of invites, proofs of revocations.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};

use super::super::App;
use super::super::auth::now_ms;
use super::super::body::{Cbor, Incoming, blocking};
use super::super::commit::CommitError;
use super::super::error::Refused;
use super::super::store::{StoreError, Write};
use super::{Anonymous, Caller, id};
use crate::api::limits::{ADMISSION_MAX_MS, MAILBOX_ANSWER_MAX_BYTES, MAILBOX_REQUEST_MAX_BYTES, REQUEST_MAX_BYTES};
use crate::api::{
    AccountEntries, Admit, Admitted, Detail, ErrorCode, Letter, Redeem, Redeeming, Redemptions, RevocationRequest, Side,
};
use crate::format::MailboxId;

fn side(name: &str) -> Result<Side, Refused> {
    Side::named(name).ok_or_else(|| Refused::new(ErrorCode::NoRoute, "a mailbox has no such side"))
}

/// `GET` of [`crate::api::routes::MAILBOX`].
pub async fn letter(
    _: Anonymous,
    State(app): State<Arc<App>>,
    Path((mailbox, name)): Path<(String, String)>,
) -> Result<Cbor<Letter>, Refused> {
    let (mailbox, side) = (id::<MailboxId>(&mailbox)?, side(&name)?);
    Ok(Cbor(Letter { sealed: app.mailboxes.get(&mailbox, side, now_ms())? }))
}

/// `PUT` of [`crate::api::routes::MAILBOX`]. Half of the letters come from a device without an account.
pub async fn post(
    State(app): State<Arc<App>>,
    Path((mailbox, name)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Refused> {
    let (mailbox, side) = (id::<MailboxId>(&mailbox)?, side(&name)?);
    let (mut parts, body) = request.into_parts();
    let max = if side.is_new_devices() {
        Anonymous::from_request_parts(&mut parts, &app).await?;
        MAILBOX_REQUEST_MAX_BYTES
    } else {
        Caller::from_request_parts(&mut parts, &app).await?;
        MAILBOX_ANSWER_MAX_BYTES
    };
    let letter: Letter = Incoming::new(&parts.headers, body, max, app.limits())?.value().await?;
    app.mailboxes.put(mailbox, side, letter.sealed, now_ms())?;
    Ok(StatusCode::NO_CONTENT)
}

/// [`crate::api::routes::ADMISSIONS`].
pub async fn admit(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Cbor<Admitted>, Refused> {
    let Admit { hash, ends_ms, db, key } =
        Incoming::new(&headers, body, REQUEST_MAX_BYTES, app.limits())?.value().await?;
    blocking(move || {
        if !app.folders.member(&caller, &db)?.role.administers() {
            return Err(Refused::new(ErrorCode::Role, "only who administers a folder admits accounts by its invites"));
        }
        let (now_ms, most) = (now_ms(), app.limits().admissions_per_account);
        let ends_ms = ends_ms.min(now_ms + ADMISSION_MAX_MS);
        let job = vec![Write::AddAdmission { hash, account: caller.account, db, key, ends_ms, most, now_ms }];
        match app.committer.submit(job).durable_blocking() {
            Err(CommitError::Store(StoreError::Outdated(_))) => {
                let message = "too many accounts that you have admitted to the server have not registered yet";
                Err(Refused::new(ErrorCode::Quota, message).with(Detail::Limit(u64::from(most))))
            }
            other => Ok(other.map(|()| Cbor(Admitted { ends_ms }))?),
        }
    })
    .await
}

/// `POST` of [`crate::api::routes::REDEMPTIONS`].
pub async fn redeem(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Cbor<Redeeming>, Refused> {
    let db = id(&db)?;
    let request: Redeem = Incoming::new(&headers, body, REQUEST_MAX_BYTES, app.limits())?.value().await?;
    Ok(Cbor(blocking(move || app.folders.redeem(&caller, db, &request)).await?))
}

/// `GET` of [`crate::api::routes::REDEMPTIONS`].
pub async fn redemptions(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path(db): Path<String>,
) -> Result<Cbor<Redemptions>, Refused> {
    let db = id(&db)?;
    Ok(Cbor(blocking(move || app.folders.redemptions(&caller, &db)).await?))
}

/// [`crate::api::routes::REVOCATION`]. A device that was not revoked is told as little as one whose login fails.
pub async fn revocation(
    _: Anonymous,
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Cbor<AccountEntries>, Refused> {
    let RevocationRequest { login, after } =
        Incoming::new(&headers, body, REQUEST_MAX_BYTES, app.limits())?.value().await?;
    blocking(move || match app.accounts.until_revoked(&login.account, &login.device, after)? {
        Some((sign, entries)) if app.auth.proves(&login, sign) => Ok(Cbor(entries)),
        _ => Err(Refused::new(ErrorCode::LoginFailed, "no device of this account was revoked that proves itself so")),
    })
    .await
}
