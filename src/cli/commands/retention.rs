//! `kegfs retention`.

use std::fmt::Write as _;

use super::super::args::RetentionArgs;
use super::super::backend::Backend;
use super::super::control::{PastRequest, PastResponse, Request, Response, RetentionChange, RetentionInfo};
use super::super::failure::Failure;
use super::super::output::{Output, bytes, harmless};
use super::unexpected;

/// Shows or changes the rule, and thins out the past.
pub fn run(args: RetentionArgs, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let RetentionArgs { folder, keep_all, then_hourly, then_daily, then_weekly, keep_everything, now } = args;
    let keep_all = if keep_everything { Some("forever".to_owned()) } else { keep_all };
    let change = RetentionChange { keep_all, then_hourly, then_daily, then_weekly };
    match backend.ask(Request::Past(PastRequest::Retention { folder, change, now }), &mut |_| {})? {
        Response::Past(PastResponse::Retention(info)) => output.show(&info, &text(&info)),
        other => Err(unexpected(&other)),
    }
}

fn text(info: &RetentionInfo) -> String {
    let by = if info.chosen { "" } else { " (nobody has chosen otherwise)" };
    let mut text = format!("{}: versions are kept as follows: {}{by}\n", harmless(&info.folder), info.words);
    if let Some(before) = &info.thinned_before {
        let _ = writeln!(text, "before {before}, {} versions are left", info.kept);
    }
    if let Some(stored) = info.stored_bytes {
        let _ = writeln!(text, "the server keeps {} for it", bytes(stored));
    }
    if let Some(removed) = info.removed {
        let _ = match removed {
            0 => writeln!(text, "nothing was old enough to go"),
            _ => writeln!(text, "{removed} versions are gone now"),
        };
        if let Some(freed) = info.released_bytes.filter(|freed| *freed > 0) {
            let _ =
                writeln!(text, "the server will remove {} of content that nothing refers to any more", bytes(freed));
        }
    }
    text
}
