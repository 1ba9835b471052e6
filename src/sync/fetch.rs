//! Getting blobs: verified before a byte is released or cached, each at most once at a time.
//!
//! Whoever wants a blob that is already on its way joins the flight. The transfer runs on the session's runtime; those
//! who wait are plain threads with a deadline each. A flight that nobody waits for any more still lands in the cache.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use super::FetchError;
use super::event::{Event, Hub};
use crate::api::ErrorCode;
use crate::blobs::LocalStore;
use crate::crypto::CryptoError;
use crate::crypto::verified;
use crate::format::{BlobId, DbId};
use crate::remote::{Remote, RemoteError};
use crate::sys::clock;

/// How long a read waits for the server when its caller names no deadline.
pub const FETCH_DEADLINE: Duration = Duration::from_secs(30);

/// A result that threads can wait for.
struct Flight<T> {
    result: Mutex<Option<Result<T, FetchError>>>,
    landed: Condvar,
}

impl<T: Clone> Flight<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self { result: Mutex::new(None), landed: Condvar::new() })
    }

    fn land(&self, result: Result<T, FetchError>) {
        // The first result counts: a flight that lands as lost after it landed well has landed well.
        self.result.lock().get_or_insert(result);
        self.landed.notify_all();
    }

    fn wait(&self, deadline: Instant) -> Result<T, FetchError> {
        let mut result = self.result.lock();
        loop {
            if let Some(result) = &*result {
                return result.clone();
            }
            if self.landed.wait_until(&mut result, deadline).timed_out() && result.is_none() {
                return Err(FetchError::TimedOut);
            }
        }
    }
}

/// Lands a flight as lost when its task ends without a result (a panic, or the end of the runtime).
struct Pilot<T: Clone>(Arc<Flight<T>>);

impl<T: Clone> Drop for Pilot<T> {
    fn drop(&mut self) {
        self.0.land(Err(FetchError::Gone));
    }
}

/// Fetches the blobs of one folder.
pub(super) struct Fetcher {
    db: DbId,
    remote: Arc<dyn Remote>,
    local: Arc<LocalStore>,
    runtime: Handle,
    hub: Arc<Hub>,
    flights: Mutex<HashMap<BlobId, Arc<Flight<Bytes>>>>,
}

impl Fetcher {
    pub fn new(db: DbId, remote: Arc<dyn Remote>, local: Arc<LocalStore>, runtime: Handle, hub: Arc<Hub>) -> Arc<Self> {
        Arc::new(Self { db, remote, local, runtime, hub, flights: Mutex::default() })
    }

    /// The whole blob.
    pub fn fetch(self: &Arc<Self>, blob: BlobId, deadline: Instant) -> Result<Bytes, FetchError> {
        self.start(blob).wait(deadline)
    }

    /// Begins to fetch the blob unless it is here or on its way.
    pub fn prefetch(self: &Arc<Self>, blob: BlobId) {
        if !self.local.contains(&blob) {
            self.start(blob);
        }
    }

    fn start(self: &Arc<Self>, blob: BlobId) -> Arc<Flight<Bytes>> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&blob) {
            return Arc::clone(flight);
        }
        let flight = Flight::new();
        flights.insert(blob, Arc::clone(&flight));
        drop(flights);
        let (this, pilot) = (Arc::clone(self), Pilot(Arc::clone(&flight)));
        self.runtime.spawn(async move {
            let removal = Removal { fetcher: Arc::clone(&this), blob, flight: Arc::clone(&pilot.0) };
            match this.remote.blob(this.db, blob).await {
                Err(error) => {
                    let error = this.explain(blob, error);
                    // Off the board first: who asks after this failure begins anew.
                    drop(removal);
                    pilot.0.land(Err(error));
                    return;
                }
                Ok(bytes) => {
                    // Hashing and writing 4 MiB take milliseconds: not on a thread that drives connections.
                    let landed = tokio::task::spawn_blocking(move || this.land(blob, bytes, &pilot.0)).await;
                    if let Err(error) = landed {
                        tracing::error!(%error, "storing a fetched blob failed");
                    }
                }
            }
            drop(removal);
        });
        flight
    }

    /// Verifies, hands out, then caches. The flight stays joinable until the blob is in the cache.
    fn land(&self, blob: BlobId, bytes: Bytes, flight: &Flight<Bytes>) {
        if verified::blob_id(&bytes) != *blob.as_bytes() {
            self.corrupt(blob);
            self.flights.lock().remove(&blob);
            flight.land(Err(FetchError::Corrupt(blob)));
            return;
        }
        flight.land(Ok(bytes.clone()));
        if let Err(error) = self.local.cache(&blob, &bytes) {
            // The reader has its bytes; the next one fetches again.
            tracing::warn!(%blob, %error, "a fetched blob could not be cached");
        }
    }

    /// A range of a blob, verified against its id, not cached: for small reads at random places of large blobs.
    pub fn fetch_range(
        self: &Arc<Self>,
        blob: BlobId,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<Vec<u8>, FetchError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let underway = self.flights.lock().get(&blob).cloned();
        if let Some(flight) = underway {
            let whole = flight.wait(deadline)?;
            let (from, to) = (range.start as usize, range.end as usize);
            return whole.get(from..to).map(<[u8]>::to_vec).ok_or(FetchError::Corrupt(blob));
        }
        let flight: Arc<Flight<Vec<u8>>> = Flight::new();
        let (this, pilot) = (Arc::clone(self), Pilot(Arc::clone(&flight)));
        self.runtime.spawn(async move {
            let len = range.end - range.start;
            let result = match this.remote.blob_range(this.db, blob, range.start, len).await {
                Err(error) => Err(this.explain(blob, error)),
                Ok(answer) => verified::decode_range(blob.as_bytes(), answer.blob_len, range, &answer.encoded).map_err(
                    |error: CryptoError| {
                        tracing::debug!(%error, "range refused");
                        this.corrupt(blob);
                        FetchError::Corrupt(blob)
                    },
                ),
            };
            pilot.0.land(result);
        });
        flight.wait(deadline)
    }

    fn explain(&self, blob: BlobId, error: RemoteError) -> FetchError {
        if error.code() == Some(ErrorCode::NotFound) { FetchError::Missing(blob) } else { error.into() }
    }

    fn corrupt(&self, blob: BlobId) {
        self.hub.tell(&Event::CorruptBlob { db: self.db, blob });
    }
}

/// Takes a flight off the board when its task is over, however it ended, unless another one has taken its place.
struct Removal {
    fetcher: Arc<Fetcher>,
    blob: BlobId,
    flight: Arc<Flight<Bytes>>,
}

impl Drop for Removal {
    fn drop(&mut self) {
        let mut flights = self.fetcher.flights.lock();
        if flights.get(&self.blob).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.blob);
        }
    }
}

/// The point in time `within` from now.
pub(super) fn deadline(within: Duration) -> Instant {
    let now = clock::monotonic();
    // Beyond what the clock can express is as good as a year.
    now.checked_add(within).unwrap_or(now + Duration::from_secs(365 * 86_400))
}
