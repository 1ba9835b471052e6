//! Removing what nothing refers to: blobs that an entry has released, after the grace, and uploads that no entry came for.
//!
//! What is waste, and from when on it may go, is in the log store, written with the entry or after the upload; so a restart
//! goes on where it was. Who refers to a blob again before it is removed takes it out of there; who does afterwards is told
//! that it is missing, and uploads it again.
//!
//! Bytes go before their rows: after a crash in between they are removed again, and nobody refers to them meanwhile, since
//! an entry that adds a blob is taken only while its bytes are here. That stays true until the entry has its place, because
//! removing and referring exclude each other ([`Folders::alone`](super::folders::Folders::alone)).

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::App;
use super::auth::{ms_after, now_ms};
use super::error::Refused;
use super::store::{Waste, Write};
use crate::format::DbId;

/// Blobs that are removed while a folder's writers wait: some milliseconds.
const AT_ONCE: usize = 64;
/// How often it is looked although nothing is known to be due.
const LOOK: Duration = Duration::from_secs(60);
/// When what could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(3600);
/// The shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Blobs and bytes.
#[derive(Default)]
struct Removed {
    blobs: usize,
    bytes: u64,
}

/// Collects for as long as the server runs.
pub async fn collect(app: Weak<App>) {
    loop {
        let Some(held) = app.upgrade() else { return };
        let done = tokio::task::spawn_blocking(move || {
            let mut removed = Removed::default();
            let pause = all_due(&held, &mut removed);
            if removed.blobs > 0 {
                tracing::info!(blobs = removed.blobs, bytes = removed.bytes, "removed what nothing refers to");
            }
            pause
        });
        let pause = match done.await {
            Ok(Ok(pause)) => pause,
            Ok(Err(error)) => {
                tracing::warn!(error = %error.0.message, "removing what nothing refers to failed; it is tried again");
                LOOK
            }
            // It panicked, or the server ends.
            Err(_) => LOOK,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Removes what is due; returns how long nothing will be.
fn all_due(app: &Arc<App>, removed: &mut Removed) -> Result<Duration, Refused> {
    loop {
        let due = app.store.waste(now_ms(), AT_ONCE)?;
        for same in due.chunk_by(|one, next| one.db == next.db) {
            if let Some(first) = same.first() {
                remove_or_postpone(app, &first.db, same, removed)?;
            }
        }
        if due.len() < AT_ONCE {
            break;
        }
    }
    let next_ms = app.store.next_waste_ms()?.map(|due_ms| due_ms.saturating_sub(now_ms()).max(0).unsigned_abs());
    // What is released meanwhile is due after the grace at the earliest.
    let grace = app.limits().release_grace.min(LOOK);
    Ok(next_ms.map_or(grace, |next| grace.min(Duration::from_millis(next))).max(PAUSE))
}

/// Removes blobs of one folder; where that does not work, the other folders' go on.
fn remove_or_postpone(app: &Arc<App>, db: &DbId, found: &[Waste], removed: &mut Removed) -> Result<(), Refused> {
    let Err(error) = remove(app, db, found, removed) else { return Ok(()) };
    tracing::warn!(%db, error = %error.0.message, "removing what nothing refers to failed; it is tried again in an hour");
    let until_ms = ms_after(AGAIN);
    let postpone = |waste: &Waste| Write::Postpone { db: *db, blob: waste.blob, due_ms: waste.due_ms, until_ms };
    Ok(app.committer.submit(found.iter().map(postpone).collect()).durable_blocking()?)
}

/// Removes blobs of one folder that were waste a moment ago.
fn remove(app: &Arc<App>, db: &DbId, found: &[Waste], removed: &mut Removed) -> Result<(), Refused> {
    let _alone = app.folders.alone(db);
    // Entries that have their place already are stored after this, and what they refer to is waste no more.
    app.committer.submit(vec![]).durable_blocking()?;
    let (mut job, mut blobs, mut bytes) = (Vec::new(), 0, 0);
    for waste in found {
        if app.store.waste_of(db, &waste.blob)?.as_ref() != Some(waste) {
            continue;
        }
        if let Err(error) = app.blobs.delete(db, &waste.blob) {
            // The others are not to wait for what may never work.
            tracing::warn!(%db, blob = %waste.blob, %error, "a blob cannot be removed; it is tried again in an hour");
            let until_ms = ms_after(AGAIN);
            job.push(Write::Postpone { db: *db, blob: waste.blob, due_ms: waste.due_ms, until_ms });
            continue;
        }
        blobs += 1;
        bytes += waste.size_bytes;
        job.push(Write::Discard { db: *db, blob: waste.blob, due_ms: waste.due_ms });
    }
    if job.is_empty() {
        return Ok(());
    }
    app.committer.submit(job).durable_blocking()?;
    removed.blobs += blobs;
    removed.bytes += bytes;
    if let Some(payer) = app.store.payer(db)? {
        app.quota.give_back(&payer, bytes);
    }
    Ok(())
}
