//! Finding what lies in the blob store and no row knows: what a crash or a failing disk has left.
//!
//! An upload's bytes are durable before the row that has them removed if no entry comes; bytes that were removed may be back after a
//! power cut although their row is gone; a hash tree may be kept just after its blob was removed. Nothing else looks at
//! the store as a whole.
//!
//! Such a blob is not removed here. It is noted as if it had been uploaded now, so that what removes waste finds it in its time,
//! under the same locks, and an entry may still refer to it. That does no harm to an upload that is under way, and leaves whoever
//! has put an older log beside newer blobs the time to notice. A hash tree is a cache, and goes at once where its blob is
//! gone.
//!
//! It is slow on purpose: one of 256 parts of a folder, then a pause.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::App;
use super::auth::ms_after;
use super::error::Refused;
use super::store::Write;
use crate::format::{BlobId, BlobRef, DbId};

/// Between two looks at everything.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// After each part of a folder that had something in it.
const PAUSE: Duration = Duration::from_millis(20);
/// Rows of one job.
const AT_ONCE: usize = 256;

/// Looks through the store once at the start, and then again and again for as long as the server runs.
pub async fn run(app: Weak<App>) {
    loop {
        let Some(dbs) = blocking(&app, |app| Ok(app.blobs.dbs()?)).await else { return };
        for db in dbs.unwrap_or_default() {
            let mut found = 0;
            for part in 0..=u8::MAX {
                match blocking(&app, move |app| look(app, &db, part)).await {
                    None => return,
                    Some(Ok(Looked { any: false, .. })) => {}
                    Some(Ok(Looked { orphans, .. })) => {
                        found += orphans;
                        tokio::time::sleep(PAUSE).await;
                    }
                    // Said already. The other parts may be readable.
                    Some(Err(())) => tokio::time::sleep(PAUSE).await,
                }
            }
            if found > 0 {
                tracing::info!(%db, blobs = found, "found blobs that nothing knew of; they are waste");
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// `None`: the server ends.
async fn blocking<T: Send + 'static>(
    app: &Weak<App>,
    work: impl FnOnce(&Arc<App>) -> Result<T, Refused> + Send + 'static,
) -> Option<Result<T, ()>> {
    let app = app.upgrade()?;
    let done = tokio::task::spawn_blocking(move || work(&app)).await.ok()?;
    Some(
        done.map_err(|error| tracing::warn!(error = %error.0.message, "looking through the blob store failed in part")),
    )
}

struct Looked {
    any: bool,
    orphans: usize,
}

fn look(app: &Arc<App>, db: &DbId, part: u8) -> Result<Looked, Refused> {
    let listing = app.blobs.list(db, part)?;
    for id in &listing.lone_trees {
        app.blobs.delete_tree(db, id)?;
    }
    let any = !(listing.blobs.is_empty() && listing.lone_trees.is_empty());
    let mut orphans = 0;
    for some in listing.blobs.chunks(AT_ONCE) {
        let ids: Vec<BlobId> = some.iter().map(|blob| blob.id).collect();
        let unknown = app.store.unknown_blobs(db, &ids)?;
        // As long as what was released is kept, which may be longer.
        let due_ms = ms_after(app.limits().upload_keep.max(app.limits().release_grace));
        let of = |blob: &&BlobRef| unknown.contains(&blob.id);
        let job: Vec<_> = some.iter().filter(of).map(|blob| Write::Upload { db: *db, blob: *blob, due_ms }).collect();
        if !job.is_empty() {
            orphans += job.len();
            app.committer.submit(job).durable_blocking()?;
        }
    }
    Ok(Looked { any, orphans })
}
