//! The event stream: new heads of the caller's folders, and what its device must know of locks, as they come.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, StreamExt, stream};
use tokio::time::timeout_at;

use super::super::App;
use super::super::auth::now_ms;
use super::super::body::{blocking, now};
use super::super::error::Refused;
use super::super::hub::HubEvent;
use super::Caller;
use crate::api::limits::KEEP_ALIVE_SECS;
use crate::api::{EVENT_HEAD, EVENT_LOCK, EVENT_READY};

/// [`crate::api::routes::EVENTS`]. Ends with the session, with the device's revocation and with the server.
pub async fn stream(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
) -> Result<Sse<impl Stream<Item = Result<Event, std::convert::Infallible>>>, Refused> {
    let left_ms = u64::try_from(caller.expires_ms - now_ms()).unwrap_or(0);
    let end = now() + Duration::from_millis(left_ms);
    let max = app.limits().streams_per_account;
    let listener = blocking(move || {
        let listener = app.hub.listen(&caller, max, &*app.store)?;
        // The device may have been revoked between the look-up of its session and the opening of the stream.
        match app.store.device_key(&caller.account, &caller.device)? {
            Some(_) => Ok(listener),
            None => Err(Refused::not_found()),
        }
    })
    .await?;
    let events = stream::unfold(listener, move |listener| async move {
        let event = match timeout_at(end, listener.next()).await.ok().flatten()? {
            HubEvent::Head(head) => Event::default().event(EVENT_HEAD).data(head.to_string()),
            HubEvent::Lock(lock) => Event::default().event(EVENT_LOCK).data(lock.to_string()),
        };
        Some((Ok(event), listener))
    });
    let ready = stream::iter([Ok(Event::default().event(EVENT_READY).data(""))]);
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(KEEP_ALIVE_SECS)).text("keep-alive");
    Ok(Sse::new(ready.chain(events)).keep_alive(keep_alive))
}
