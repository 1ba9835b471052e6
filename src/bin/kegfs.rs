//! `kegfs`: the command line and the background process.

use std::process::ExitCode;

/// Gives freed memory back to the system soon; see `cli::daemon` for how it is tuned.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    kegfs::cli::main()
}
