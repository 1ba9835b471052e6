//! Blobs: which are missing, up, down, and verifiable ranges of them.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};

use super::super::App;
use super::super::auth::ms_after;
use super::super::body::{Cbor, Incoming, blocking};
use super::super::error::Refused;
use super::super::store::{Session, Write};
use super::{Caller, id, number};
use crate::api::limits::{MISSING_MAX_IDS, REQUEST_MAX_BYTES};
use crate::api::{self, BlobIds, Detail, ErrorCode, routes};
use crate::blobs::{BlobData, BlobUpload, Stored};
use crate::crypto::verified::{self, ReadAt};
use crate::format::limits::BLOB_MAX_BYTES;
use crate::format::{BlobId, BlobRef, DbId};
use crate::sys::bulk::AlignedBuffer;

/// Bytes that are handed to the blob store at once. A hop to a thread that may block costs about 20 µs, writing 1 MiB
/// about 500 µs.
const PART_BYTES: usize = 1024 * 1024;

/// Bytes that are read from the blob store at once, for the same reason. A slow reader costs two parts of memory.
const READ_BYTES: usize = 1024 * 1024;
/// A rest of at most this many bytes comes with the part before it: the tags of a full chunk make a blob that much longer
/// than four parts.
const REST_BYTES: usize = 64 * 1024;
/// Buffers for parts that are kept for the next one: fresh memory costs as much as reading into it.
const BUFFERS_MAX: usize = 16;

/// How long an upload waits for its turn before the client is told to come back.
const TURN: Duration = Duration::from_secs(10);

/// [`routes::BLOBS_MISSING`].
pub async fn missing(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Cbor<BlobIds>, Refused> {
    let db = id(&db)?;
    let BlobIds { mut ids } = Incoming::new(&headers, body, REQUEST_MAX_BYTES, app.limits())?.value().await?;
    if ids.len() > MISSING_MAX_IDS {
        return Err(Refused::too_large("the list of ids", MISSING_MAX_IDS as u64));
    }
    blocking(move || {
        app.folders.writer(&caller, &db)?;
        let mut failed = None;
        ids.retain(|id| match app.blobs.size(&db, id) {
            Ok(size) => size.is_none(),
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(Cbor(BlobIds { ids })),
        }
    })
    .await
}

/// `PUT` of [`routes::BLOB`].
pub async fn put(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path((db, blob)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refused> {
    let db: DbId = id(&db)?;
    let blob = BlobId::from_canonical(&blob)?;
    let mut incoming = Incoming::new(&headers, body, BLOB_MAX_BYTES, app.limits())?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let size = announced.unwrap_or(BLOB_MAX_BYTES as u64);
    let checked = app.clone();
    let reservation = blocking(move || {
        checked.folders.writer(&caller, &db)?;
        let payer = checked.store.payer(&db)?.ok_or_else(Refused::not_found)?;
        checked.quota.reserve(payer, size)
    })
    .await?;
    let _turn = turn(&app, &caller).await?;
    let stored = receive(&app, &db, &blob, &mut incoming).await?;
    let due_ms = ms_after(app.limits().upload_keep);
    // It counts room, and has the blob removed again if no entry comes for it. An entry that does writes it as well.
    let blob = BlobRef { id: blob, size_bytes: stored.size_bytes };
    app.committer.submit_lazily(vec![Write::Upload { db, blob, due_ms }]);
    if stored.new {
        reservation.stored(stored.size_bytes);
        return Ok(StatusCode::CREATED);
    }
    Ok(StatusCode::OK)
}

/// One of the places that all uploads, and all uploads of one account, share.
async fn turn(app: &App, caller: &Session) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Refused> {
    let of_account = {
        let mut all = app.uploads_of.lock();
        let places = || Arc::new(Semaphore::new(app.limits().uploads_per_account));
        all.get_or_insert(caller.account, places).clone()
    };
    // First the account's own place, so that who waits for it does not take one from the others.
    let both = async {
        Ok::<_, tokio::sync::AcquireError>((
            of_account.acquire_owned().await?,
            app.uploads.clone().acquire_owned().await?,
        ))
    };
    match timeout(TURN, both).await {
        Ok(Ok(places)) => Ok(places),
        _ => {
            let message = "too many uploads are under way; try again";
            Err(Refused::new(ErrorCode::Busy, message).with(Detail::RetryAfterMs(1000)))
        }
    }
}

/// Takes a blob in, writing one part while the next arrives.
async fn receive(app: &Arc<App>, db: &DbId, blob: &BlobId, incoming: &mut Incoming) -> Result<Stored, Refused> {
    let (store, db, blob) = (app.blobs.clone(), *db, *blob);
    let begin =
        move || -> Result<Box<dyn BlobUpload>, Refused> { Ok(store.upload(&db, &blob, BLOB_MAX_BYTES as u64)?) };
    let mut begin = Some(begin);
    let mut writing = None;
    let (mut part, mut len) = (Vec::<Bytes>::new(), 0);
    let mut ended = false;
    while !ended {
        match incoming.next().await? {
            Some(bytes) => {
                len += bytes.len();
                part.push(bytes);
            }
            None => ended = true,
        }
        if len >= PART_BYTES && !ended {
            let (part, begin) = (std::mem::take(&mut part), begin.take());
            let before = writing.take();
            len = 0;
            let upload = match before {
                Some(before) => Some(joined(before).await?),
                None => None,
            };
            writing = Some(tokio::task::spawn_blocking(move || write(upload, begin, &part)));
        }
    }
    let upload = match writing {
        Some(before) => Some(joined(before).await?),
        None => None,
    };
    blocking(move || Ok(write(upload, begin, &part)?.finish()?)).await
}

async fn joined(
    task: tokio::task::JoinHandle<Result<Box<dyn BlobUpload>, Refused>>,
) -> Result<Box<dyn BlobUpload>, Refused> {
    task.await.map_err(|error| Refused::internal(&error))?
}

fn write(
    upload: Option<Box<dyn BlobUpload>>,
    begin: Option<impl FnOnce() -> Result<Box<dyn BlobUpload>, Refused>>,
    part: &[Bytes],
) -> Result<Box<dyn BlobUpload>, Refused> {
    let mut upload = match (upload, begin) {
        (Some(upload), _) => upload,
        (None, Some(begin)) => begin()?,
        (None, None) => return Err(Refused::internal(&"an upload was lost")),
    };
    part.iter().try_for_each(|bytes| upload.write(bytes))?;
    Ok(upload)
}

/// `GET` of [`routes::BLOB`].
pub async fn get(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path((db, blob)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let db: DbId = id(&db)?;
    let blob = BlobId::from_canonical(&blob)?;
    let offset = number(query.as_deref(), routes::OFFSET)?;
    let len = number(query.as_deref(), routes::LEN)?;
    match (offset, len) {
        (None, None) => whole(app, caller, db, blob).await,
        (Some(offset), Some(len)) => {
            let (slice, size) = blocking(move || range(&app, &caller, &db, &blob, offset, len)).await?;
            // What the range is of; the body is longer by the tree nodes that verify it.
            let covers = format!("bytes {offset}-{}/{size}", offset + len - 1);
            let headers = [(header::CONTENT_TYPE, api::OCTETS.to_owned()), (header::CONTENT_RANGE, covers)];
            Ok((headers, Bytes::from(slice)).into_response())
        }
        _ => Err(Refused::new(ErrorCode::Malformed, "a range has an offset and a length")),
    }
}

fn open(app: &App, caller: &Session, db: &DbId, blob: &BlobId) -> Result<Box<dyn BlobData>, Refused> {
    app.folders.member(caller, db)?;
    app.blobs.open(db, blob)?.ok_or_else(Refused::not_found)
}

/// The blob from its file, part by part; the next one is read while one is sent.
async fn whole(app: Arc<App>, caller: Session, db: DbId, blob: BlobId) -> Result<Response, Refused> {
    let buffers = app.buffers.clone();
    let (data, first) = blocking(move || {
        let data: Arc<dyn BlobData> = Arc::from(open(&app, &caller, &db, &blob)?);
        let first = read(&app.buffers, &*data, 0).map_err(|error| Refused::internal(&error))?;
        Ok((data, first))
    })
    .await?;
    let size = data.size_bytes();
    let headers = [(header::CONTENT_TYPE, api::OCTETS.to_owned()), (header::CONTENT_LENGTH, size.to_string())];
    if first.len() as u64 == size {
        return Ok((headers, first).into_response());
    }
    let read_behind = move |data: &Arc<dyn BlobData>, offset: u64| {
        let (reading, buffers) = (data.clone(), buffers.clone());
        (offset < data.size_bytes()).then(|| tokio::task::spawn_blocking(move || read(&buffers, &*reading, offset)))
    };
    let after = first.len() as u64;
    let second = read_behind(&data, after);
    let rest = stream::unfold(second.map(|second| (data, second, after)), move |state| {
        let read_behind = read_behind.clone();
        async move {
            let (data, reading, offset) = state?;
            match reading.await.map_err(io::Error::other) {
                Ok(Ok(part)) => {
                    let after = offset + part.len() as u64;
                    let next = read_behind(&data, after);
                    Some((Ok(part), next.map(|next| (data, next, after))))
                }
                // The response ends before its announced length, which the client notices.
                Ok(Err(error)) | Err(error) => {
                    tracing::error!(%error, "reading a blob");
                    Some((Err(error), None))
                }
            }
        }
    });
    let parts = stream::once(async { Ok(first) }).chain(rest);
    Ok((headers, Body::from_stream(parts)).into_response())
}

fn read(buffers: &Arc<Buffers>, data: &dyn BlobData, offset: u64) -> io::Result<Bytes> {
    let left = usize::try_from(data.size_bytes() - offset).unwrap_or(usize::MAX);
    let len = if left <= READ_BYTES + REST_BYTES { left } else { READ_BYTES };
    let mut part = buffers.take(len);
    data.read_part_at(offset, &mut part.memory, len)?;
    Ok(Bytes::from_owner(part))
}

/// Memory of parts that were sent.
#[derive(Default)]
pub struct Buffers(Mutex<Vec<AlignedBuffer>>);

/// A buffer on loan, for the first `len` bytes.
struct Part {
    memory: AlignedBuffer,
    len: usize,
    home: Arc<Buffers>,
}

impl Buffers {
    fn take(self: &Arc<Self>, len: usize) -> Part {
        let memory = self.0.lock().pop().unwrap_or_default();
        Part { memory, len, home: self.clone() }
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.memory.bytes()[..self.len]
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut buffers = self.home.0.lock();
        if buffers.len() < BUFFERS_MAX {
            buffers.push(std::mem::take(&mut self.memory));
        }
    }
}

/// Blob data as the verified encoder reads it.
struct Reader<'a>(&'a dyn BlobData);

impl ReadAt for Reader<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.0.size_bytes().saturating_sub(offset);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.0.read_exact_at(offset, &mut buf[..len])?;
        Ok(len)
    }
}

fn range(
    app: &App,
    caller: &Session,
    db: &DbId,
    blob: &BlobId,
    offset: u64,
    len: u64,
) -> Result<(Vec<u8>, u64), Refused> {
    let data = open(app, caller, db, blob)?;
    let size = data.size_bytes();
    let end = offset.checked_add(len).filter(|end| len > 0 && *end <= size);
    let Some(end) = end else {
        let message = format!("the range does not lie in the blob, which has {size} bytes");
        return Err(Refused::new(ErrorCode::BadRange, message).with(Detail::Limit(size)));
    };
    let kept = app.blobs.tree(db, blob)?;
    if let Some(tree) = &kept
        && let Ok(slice) = verified::encode_range(&blob.0, Reader(&*data), size, tree, offset..end)
    {
        return Ok((slice, size));
    }
    // No tree is kept yet, or what was kept is damaged: it is made from the blob.
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    data.read_exact_at(0, &mut bytes).map_err(|error| Refused::internal(&error))?;
    let tree = verified::outboard(&bytes);
    if !tree.is_empty()
        && let Err(error) = app.blobs.keep_tree(db, blob, &tree)
    {
        tracing::warn!(%error, "a hash tree was not kept");
    }
    match verified::encode_range(&blob.0, &bytes[..], size, &tree, offset..end) {
        Ok(slice) => Ok((slice, size)),
        // The bytes on disk are not those of the blob.
        Err(error) => Err(Refused::internal(&format!("blob {blob} of {db}: {error}"))),
    }
}
