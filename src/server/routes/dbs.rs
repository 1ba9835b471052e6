//! Folders: their list, their logs, and the boxes beside membership entries.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use minicbor::Encoder;
use minicbor::bytes::ByteArray;

use super::super::App;
use super::super::auth::now_ms;
use super::super::body::{Cbor, Incoming, blocking};
use super::super::error::Refused;
use super::super::store::StoreError;
use super::{Caller, id, number};
use crate::api::limits::{APPEND_BASE_MAX_BYTES, APPEND_BOX_MAX_BYTES, ENTRIES_MAX_BYTES};
use crate::api::{self, AppendEntry, Appended, CreateDb, CreatedDb, DbHead, DbList, MemberBox, Room, routes};
use crate::crypto::merkle;

/// `GET` of [`routes::DBS`].
pub async fn list(Caller(caller): Caller, State(app): State<Arc<App>>) -> Result<Cbor<DbList>, Refused> {
    blocking(move || {
        let now_ms = now_ms();
        let mine = app.store.dbs_of(&caller.account)?.into_iter().filter(|(_, _, row)| row.holds(now_ms));
        Ok(Cbor(DbList { dbs: mine.map(|(db, head_seq, _)| DbHead { db, head_seq }).collect() }))
    })
    .await
}

/// `POST` of [`routes::DBS`].
pub async fn create(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Cbor<CreatedDb>, Refused> {
    let max = APPEND_BASE_MAX_BYTES + APPEND_BOX_MAX_BYTES;
    let request: CreateDb = Incoming::new(&headers, body, max, app.limits())?.value().await?;
    Ok(Cbor(blocking(move || app.folders.create(&caller, &request)).await?))
}

/// `POST` of [`routes::ENTRIES`].
pub async fn append(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Cbor<Appended>, Refused> {
    let db = id(&db)?;
    let small = |length: &header::HeaderValue| {
        length.to_str().ok()?.parse::<usize>().ok().filter(|length| *length <= APPEND_BASE_MAX_BYTES)
    };
    let max = if headers.get(header::CONTENT_LENGTH).and_then(small).is_some() {
        APPEND_BASE_MAX_BYTES
    } else {
        // Only who may change the membership may send boxes, and one for each member at most.
        let app = app.clone();
        blocking(move || {
            let boxes = match app.folders.member(&caller, &db)?.role.administers() {
                true => app.store.members(&db)?.len() + 1,
                false => 0,
            };
            Ok(APPEND_BASE_MAX_BYTES + boxes * APPEND_BOX_MAX_BYTES)
        })
        .await?
    };
    let request: AppendEntry = Incoming::new(&headers, body, max, app.limits())?.value().await?;
    Ok(Cbor(app.folders.clone().append(caller, db, request).await?))
}

/// `GET` of [`routes::ENTRIES`].
pub async fn entries(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path(db): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    let db = id(&db)?;
    let after = number(query.as_deref(), routes::AFTER)?.unwrap_or(0);
    let max_bytes = number(query.as_deref(), routes::MAX_BYTES)?.and_then(|max| usize::try_from(max).ok());
    let max_bytes = max_bytes.unwrap_or(ENTRIES_MAX_BYTES).min(ENTRIES_MAX_BYTES);
    let body = blocking(move || {
        let until = app.folders.readable_until(&caller, &db)?;
        // Read before the entries: what is announced is given. What came in between may be given unannounced.
        let head = app.store.head(&db)?.ok_or_else(Refused::not_found)?;
        let mut stored = app.store.entries(&db, after, max_bytes)?;
        stored.truncate(usize::try_from(until.saturating_sub(after)).unwrap_or(usize::MAX));
        let head_seq = head.seq.min(until);
        let head_seq = if stored.is_empty() { head_seq } else { head_seq.max(after + stored.len() as u64) };
        Ok(encode_entries(&stored, head_seq))
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, api::CBOR)], Bytes::from(body)).into_response())
}

/// The canonical bytes of [`api::Entries`] from entries that are encoded already.
fn encode_entries(stored: &[Vec<u8>], head_seq: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(stored.iter().map(Vec::len).sum::<usize>() + 32);
    // Writing to a Vec has no error.
    let _ = Encoder::new(&mut bytes).array(2).and_then(|e| e.array(stored.len() as u64).map(|_| ()));
    stored.iter().for_each(|entry| bytes.extend_from_slice(entry));
    let _ = Encoder::new(&mut bytes).u64(head_seq).map(|_| ());
    bytes
}

/// [`routes::BOX`].
pub async fn member_box(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path((db, seq)): Path<(String, String)>,
) -> Result<Cbor<MemberBox>, Refused> {
    let db = id(&db)?;
    let seq = number(Some(&format!("seq={seq}")), "seq")?.ok_or_else(Refused::not_found)?;
    blocking(move || {
        app.folders.member(&caller, &db)?;
        let row = app.store.member_box(&db, seq, &caller.account)?.ok_or_else(Refused::not_found)?;
        let leaves = app.store.leaves(&db, seq)?;
        let damaged = || StoreError::Damaged(format!("boxes of entry {seq} of {db}"));
        let proof = merkle::proof(&leaves, row.index as usize).ok_or_else(damaged)?;
        let count = u32::try_from(leaves.len()).map_err(|_| damaged())?;
        let proof = proof.into_iter().map(ByteArray::from).collect();
        Ok(Cbor(MemberBox { key_box: row.key_box, index: row.index, count, proof }))
    })
    .await
}

/// [`routes::ROOM`].
pub async fn room(
    Caller(caller): Caller,
    State(app): State<Arc<App>>,
    Path(db): Path<String>,
) -> Result<Cbor<Room>, Refused> {
    let db = id(&db)?;
    blocking(move || {
        app.folders.member(&caller, &db)?;
        let payer = app.store.payer(&db)?.ok_or_else(Refused::not_found)?;
        Ok(Cbor(app.quota.room(payer)?))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{SignedEntry, encode};

    #[test]
    fn spliced_entries_are_the_canonical_bytes() {
        for count in [0, 1, 23, 24, 300] {
            let entry = |n: usize| SignedEntry { envelope: vec![n as u8; n], signature: [n as u8; 64] };
            let entries: Vec<_> = (0..count).map(entry).collect();
            let stored: Vec<_> = entries.iter().map(encode).collect();
            assert_eq!(encode_entries(&stored, 70_000), encode(&api::Entries { entries, head_seq: 70_000 }));
        }
    }
}
