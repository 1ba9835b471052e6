//! The mounted view as a kernel file system: session, translation, the errno table, the notifier.
//!
//! The only room that uses fuser. It knows nothing of folders, keys, journals or the network: the
//! [`vfs`](crate::vfs) answers, this room carries.

mod adapter;
mod convert;
mod errno;
mod error;
mod holders;
mod mountinfo;
mod mountpoint;
mod notifier;
mod session;

pub use errno::errno_of;
pub use error::{MountError, UnmountError};
pub use holders::{Holder, Use};
pub use mountinfo::{FS_TYPE, MountLine, all as mounts, at as mount_at, resolve};
pub use mountpoint::{Prepared, check_helper, is_dead, open_device, prepare, unmount};
pub use session::{DEFAULT_THREADS, End, MountOptions, Mounted, mount};
