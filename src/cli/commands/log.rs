//! `kegfs log …`.

use std::io::Write;
use std::time::Duration;

use super::super::activity;
use super::super::args::LogArgs;
use super::super::backend::Backend;
use super::super::control::{ActivityInfo, Request, Response};
use super::super::failure::Failure;
use super::super::output::Output;
use super::unexpected;

/// How often `-f` looks: what happens elsewhere arrives within a fraction of a second anyway.
const LOOK: Duration = Duration::from_millis(500);

/// `log`
pub fn log(args: LogArgs, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let mut lines = ask(&args.folder, 0, args.seen, backend)?;
    let mut after = lines.last().map_or(0, |line| line.number);
    if let Some(last) = args.last {
        lines.drain(..lines.len().saturating_sub(last));
    }
    if !args.follow {
        let text: String = lines.iter().map(activity::line).collect();
        return output.show(&lines, &text);
    }
    loop {
        for line in &lines {
            output.show_line(line, &activity::line(line))?;
        }
        if std::io::stdout().flush().is_err() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
        lines = ask(&args.folder, after, false, backend)?;
        after = lines.last().map_or(after, |line| line.number);
    }
}

fn ask(folder: &str, after: u64, seen: bool, backend: &mut Backend<'_>) -> Result<Vec<ActivityInfo>, Failure> {
    let request = Request::Activity { folder: folder.to_owned(), after, seen };
    match backend.ask(request, &mut |_| {})? {
        Response::Activity(lines) => Ok(lines),
        other => Err(unexpected(&other)),
    }
}
