//! Arguments of the commands about a folder's past and its conflicts.

use std::ffi::OsString;

use clap::{Args, Subcommand};

/// `kegfs history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// A path in a mount, or FOLDER/PATH; may be one that was removed
    pub path: OsString,
    /// Show at most this many lines, the newest
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub limit: usize,
}

/// `kegfs restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A path in a mount, FOLDER/PATH, or FOLDER for all of it
    pub path: OsString,
    /// When: `10m-ago`, `2h-ago`, `3d-ago`, `yesterday`, `2026-11-23` (the end of that day), `2026-11-23T15:00`, an RFC 3339
    /// time, or a version as `kegfs history` shows it (`seq-1234`)
    #[arg(long, value_name = "WHEN")]
    pub at: String,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Remove what came later; without it, that stays
    #[arg(long)]
    pub remove_later: bool,
}

/// `kegfs trash`
#[derive(Debug, Args)]
pub struct TrashArgs {
    /// Name or id of the folder
    pub folder: String,
    /// Bring this one back: its path as the list shows it, or its name alone
    #[arg(long, value_name = "PATH")]
    pub restore: Option<OsString>,
    /// With --restore: under this name
    #[arg(long = "as", value_name = "NAME", requires = "restore")]
    pub new_name: Option<OsString>,
    /// Show at most this many, the latest
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: usize,
}

/// `kegfs retention`
#[derive(Debug, Args)]
pub struct RetentionArgs {
    /// Name or id of the folder
    pub folder: String,
    /// Keep every version until this age: `12h`, `30d`, `8w`, `1y`, `forever`; 1h at least [default: as it is]
    #[arg(long, value_name = "AGE")]
    pub keep_all: Option<String>,
    /// Then the last version of each hour until this age
    #[arg(long, value_name = "AGE")]
    pub then_hourly: Option<String>,
    /// Then the last version of each day until this age
    #[arg(long, value_name = "AGE")]
    pub then_daily: Option<String>,
    /// Then the last version of each week until this age; what is older goes
    #[arg(long, value_name = "AGE")]
    pub then_weekly: Option<String>,
    /// Keep every version for ever
    #[arg(long, conflicts_with_all = ["keep_all", "then_hourly", "then_daily", "then_weekly"])]
    pub keep_everything: bool,
    /// Take away what is old enough now; without it that is done once a day
    #[arg(long)]
    pub now: bool,
}

/// `kegfs conflicts …`
#[derive(Debug, Subcommand)]
pub enum ConflictsCommand {
    /// List the versions that conflicts have set beside others
    List {
        /// Name or id of the folder [default: all folders]
        folder: Option<String>,
    },
    /// Give the conflict version the name and place of the other one, which goes to the trash
    Keep {
        /// The conflict version: a path in a mount, or FOLDER/PATH
        path: OsString,
    },
    /// Remove the conflict version
    Discard {
        /// The conflict version: a path in a mount, or FOLDER/PATH
        path: OsString,
    },
}
