//! For how long the past is kept.

use super::super::super::control::{RetentionChange, RetentionInfo};
use super::super::super::failure::Failure;
use super::super::super::retention::{Wanted, age, changed, words};
use super::super::super::when;
use super::super::Engine;

/// Shows the rule of a folder after it was changed, where it is to be, and the past thinned out, where it is to be.
pub(super) fn run(
    engine: &Engine,
    folder: &str,
    change: &RetentionChange,
    now: bool,
) -> Result<RetentionInfo, Failure> {
    let folder = engine.unlocked.folder(folder)?;
    let session = &engine.unlocked.session;
    let told = |error| engine.unlocked.told(error);
    let before = session.retention(&folder).map_err(told)?.rule;
    let wanted = Wanted {
        keep_all: change.keep_all.as_deref(),
        hourly: change.then_hourly.as_deref(),
        daily: change.then_daily.as_deref(),
        weekly: change.then_weekly.as_deref(),
    };
    if wanted != Wanted::default() {
        let rule = changed(&before, &wanted)?;
        session.set_retention(&folder, rule).map_err(told)?;
    }
    let removed = if now { Some(session.thin_out(&folder).map_err(told)?) } else { None };
    let found = session.retention(&folder).map_err(told)?;
    Ok(RetentionInfo {
        folder: folder.name(),
        keep_all: age(found.rule.keep_all_s),
        then_hourly: age(found.rule.hourly_s),
        then_daily: age(found.rule.daily_s),
        then_weekly: age(found.rule.weekly_s),
        words: words(&found.rule),
        chosen: found.chosen,
        thinned_before: (found.size.thinned > 0).then(|| when::version(found.size.thinned)),
        kept: found.size.kept,
        removed: removed.map(|done| done.moments),
        stored_bytes: found.stored_bytes,
        released_bytes: removed.map(|done| done.bytes),
    })
}
