//! Request and response bodies: CBOR within bounds of size and time, and blocking work off the async threads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::App;
use super::config::Limits;
use super::error::Refused;
use crate::api::{self, ErrorCode};
use crate::format::{decode, encode};
use crate::sys::clock;

/// A response body of CBOR.
pub struct Cbor<T>(pub T);

impl<T: minicbor::Encode<()>> IntoResponse for Cbor<T> {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, api::CBOR)], encode(&self.0)).into_response()
    }
}

/// Runs `work` on a thread that may block.
///
/// # Errors
/// Those of `work`; a panic in it is an internal failure.
pub async fn blocking<T, F>(work: F) -> Result<T, Refused>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Refused> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Refused::internal(&error)),
    }
}

/// Now, for deadlines of async code.
pub fn now() -> Instant {
    Instant::from_std(clock::monotonic())
}

/// A request body as it arrives, within a time for each part and one for the whole.
pub struct Incoming {
    stream: BodyDataStream,
    idle_time: Duration,
    end: Instant,
    room: usize,
    max: usize,
}

impl Incoming {
    /// The body of a request of at most `max` bytes. A larger one that says so is refused before it is read.
    ///
    /// # Errors
    /// [`ErrorCode::TooLarge`].
    pub fn new(headers: &HeaderMap, body: Body, max: usize, limits: &Limits) -> Result<Self, Refused> {
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > max as u64) {
            return Err(Refused::too_large("the body", max as u64));
        }
        let end = now() + limits.body_time;
        Ok(Self { stream: body.into_data_stream(), idle_time: limits.idle_time, end, room: max, max })
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`ErrorCode::TooLarge`], [`ErrorCode::Timeout`], and [`ErrorCode::Malformed`] when the connection ends early.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refused> {
        let limit = self.end.min(now() + self.idle_time);
        let late = |_| Refused::new(ErrorCode::Timeout, "the body did not arrive in time");
        match timeout_at(limit, self.stream.next()).await.map_err(late)? {
            None => Ok(None),
            Some(Err(_)) => Err(Refused::new(ErrorCode::Malformed, "the body ended early")),
            Some(Ok(bytes)) => {
                let too_large = || Refused::too_large("the body", self.max as u64);
                self.room = self.room.checked_sub(bytes.len()).ok_or_else(too_large)?;
                Ok(Some(bytes))
            }
        }
    }

    /// All of it as a value.
    ///
    /// # Errors
    /// As [`next`](Self::next), and [`ErrorCode::Malformed`] for other bytes than those of a `T`.
    pub async fn value<T>(mut self) -> Result<T, Refused>
    where
        T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()>,
    {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(decode(&whole)?)
    }
}

/// Gives what is left of a body back when the handler drops it.
struct Lent {
    stream: Option<BodyDataStream>,
    rest: Arc<Mutex<Option<BodyDataStream>>>,
}

impl Stream for Lent {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.stream.as_mut().map(|stream| stream.poll_next_unpin(context));
        match next {
            Some(Poll::Ready(None)) | None => {
                self.stream = None;
                Poll::Ready(None)
            }
            Some(other) => other,
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.rest.lock() = self.stream.take();
    }
}

/// Reads the rest of a refused request before it is answered, within the size of a blob and a short time. Otherwise
/// the connection is reset while the client is still sending, and the client never sees why.
pub async fn read_rest_of_refused(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let rest = Arc::new(Mutex::new(None));
    let request =
        request.map(|body| Body::from_stream(Lent { stream: Some(body.into_data_stream()), rest: rest.clone() }));
    let response = next.run(request).await;
    let left = rest.lock().take();
    if let (false, Some(mut left)) = (response.status().is_success(), left) {
        let patience = app.limits().idle_time.min(Duration::from_secs(5));
        let drain = async {
            let mut room = 2 * crate::format::limits::BLOB_MAX_BYTES;
            while let Some(Ok(bytes)) = left.next().await {
                let Some(less) = room.checked_sub(bytes.len()) else { break };
                room = less;
            }
        };
        // Whoever sends more, or more slowly, gets the reset.
        let _ = timeout(patience, drain).await;
    }
    response
}
