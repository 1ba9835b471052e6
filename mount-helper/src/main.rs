//! `mount.kegfs`: lets mount(8) and fstab mount KegFS folders.
//!
//! It translates the arguments that mount(8) gives to a helper into one `kegfs mount`, run as the user who shall own the
//! mount, and that command's outcome into mount(8)'s exit codes. It knows nothing of keys, folders or FUSE, and runs
//! as root no longer than it takes to become somebody else. It is never installed setuid.

mod exit;
mod options;
mod run;

use std::process::ExitCode;

use exit::Exit;
use options::Request;

const HELP: &str = "\
Mounts a KegFS folder. Called by mount(8):

    mount -t kegfs acme /srv/acme -o user=alice,passphrase-file=/etc/kegfs/alice
    mount.kegfs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]

SPEC is the name of a folder, or `all` for a directory with one entry per folder.

Options: user=NAME or uid=NUMBER (whose mount it is), profile=DIR, passphrase-file=FILE;
others are handed to `kegfs mount -o`. A passphrase itself is never an option.

In fstab: acme /srv/acme kegfs noauto,_netdev,user=alice,passphrase-file=/etc/kegfs/alice 0 0
";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let exit = match Request::parse(arguments) {
        Ok(Request::Help) => {
            print!("{HELP}");
            Exit::Mounted
        }
        Ok(Request::Version) => {
            println!("mount.kegfs {}", env!("CARGO_PKG_VERSION"));
            Exit::Mounted
        }
        Ok(Request::Mount(mount)) => match run::mount(&mount) {
            Ok(exit) => exit,
            Err(error) => {
                eprintln!("mount.kegfs: {error}");
                error.exit()
            }
        },
        Err(error) => {
            eprintln!("mount.kegfs: {error}");
            Exit::Usage
        }
    };
    exit.into()
}
