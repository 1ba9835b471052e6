//! Calls about locks.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;

use super::super::App;
use super::super::body::{Cbor, Incoming, blocking};
use super::super::error::Refused;
use super::{Caller, id};
use crate::api::limits::REQUEST_MAX_BYTES;
use crate::api::{LockAnswer, LockCall};

/// [`crate::api::routes::LOCKS`].
pub async fn call(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Cbor<LockAnswer>, Refused> {
    let db = id(&db)?;
    let call: LockCall = Incoming::new(&headers, body, REQUEST_MAX_BYTES, app.limits())?.value().await?;
    blocking(move || app.locks.call(&caller, db, &app.folders, &call).map(Cbor)).await
}
