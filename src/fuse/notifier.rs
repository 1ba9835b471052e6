//! Tells the kernel to forget what others have changed.
//!
//! Must not hold a lock while it talks to the kernel, and never runs on a thread that answers
//! requests: the kernel holds locks of its own until a pending read or create is answered, and an
//! invalidation waits for those locks (FUSE.md: seen as deadlocks in production file systems).

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use fuser::INodeNo;

use crate::sys::threads;
use crate::vfs::{Ino, Notifier, Store};

/// One thing for the kernel to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Notice {
    Data { ino: Ino, offset: i64, len: i64 },
    Attr { ino: Ino },
    Entry { parent: Ino, name: Vec<u8> },
}

/// What waits in the queue.
enum Item {
    Notice(Notice),
    /// To be called when everything before has been sent.
    Then(Box<dyn FnOnce() + Send>),
}

/// The sending half of the queue, for the vfs.
///
/// The queue is unbounded: whoever reports a change must not be made to wait for the kernel. What
/// waits is small (an inode number, at most a name) and is coalesced before it is sent, so that a
/// burst of changes to one file is one invalidation.
pub(super) struct Notifications {
    queue: Sender<Item>,
    stores: Sender<Store>,
}

/// Stores that may wait for the kernel, of at most 1 MiB each; what comes when so many wait is dropped.
const STORES_MAX: usize = 16;

impl Notifications {
    /// Starts the threads that drain the queues into `kernel`; they end with the last owner of the
    /// returned value, or when the connection to the kernel is gone.
    ///
    /// Stores have a thread of their own: one waits for reads of the same pages, which may wait for
    /// the network, and invalidations must not wait with it.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub(super) fn start(kernel: fuser::Notifier) -> io::Result<Arc<Self>> {
        let (queue, drain) = unbounded();
        let (stores, stored) = bounded(STORES_MAX);
        let (storing, void) = (kernel.clone(), queue.clone());
        threads::spawn("kegfs-notify", move || run(&drain, &kernel))?;
        threads::spawn("kegfs-store", move || run_stores(&stored, &storing, &void))?;
        Ok(Arc::new(Self { queue, stores }))
    }
}

impl Notifier for Notifications {
    fn inode(&self, ino: Ino, offset: i64, len: i64) {
        // Sending fails only when the draining thread is gone, and then there is no cache left.
        let _ = self.queue.send(Item::Notice(Notice::Data { ino, offset, len }));
    }

    fn attr(&self, ino: Ino) {
        let _ = self.queue.send(Item::Notice(Notice::Attr { ino }));
    }

    fn entry(&self, parent: Ino, name: &[u8]) {
        let _ = self.queue.send(Item::Notice(Notice::Entry { parent, name: name.to_vec() }));
    }

    fn after(&self, then: Box<dyn FnOnce() + Send>) {
        // Without the draining thread there is no kernel, and nobody waits.
        let _ = self.queue.send(Item::Then(then));
    }

    fn store(&self, store: Store) {
        let _ = self.stores.try_send(store);
    }
}

fn run_stores(stored: &Receiver<Store>, kernel: &fuser::Notifier, void: &Sender<Item>) {
    for store in stored {
        // What the kernel does not take, it asks for when it is wanted.
        let changed = store.deliver(|ino, offset, bytes| drop(kernel.store(INodeNo(ino), offset, bytes)));
        if let Some((ino, offset, len)) = changed {
            let _ = void.send(Item::Notice(Notice::Data { ino, offset, len }));
        }
    }
}

fn run(drain: &Receiver<Item>, kernel: &fuser::Notifier) {
    while let Ok(first) = drain.recv() {
        let (mut notices, mut then) = (Vec::new(), Vec::new());
        for item in std::iter::once(first).chain(drain.try_iter()) {
            match item {
                Item::Notice(notice) => notices.push(notice),
                Item::Then(one) => then.push(one),
            }
        }
        for notice in coalesce(notices.into_iter()) {
            let sent = match &notice {
                Notice::Data { ino, offset, len } => kernel.inval_inode(INodeNo(*ino), *offset, *len),
                // A negative offset: attributes only, the cached pages stay.
                Notice::Attr { ino } => kernel.inval_inode(INodeNo(*ino), -1, 0),
                Notice::Entry { parent, name } => kernel.inval_entry(INodeNo(*parent), OsStr::from_bytes(name)),
            };
            match sent.as_ref().map_err(io::Error::raw_os_error) {
                Ok(()) => {}
                // The connection is gone: unmounted.
                Err(Some(libc::ENODEV | libc::ENOTCONN | libc::ECONNABORTED)) => return,
                // A directory entry that is in use as a mountpoint, for example: it expires by its TTL.
                Err(errno) => tracing::debug!(?errno, "the kernel refused an invalidation"),
            }
        }
        then.into_iter().for_each(|one| one());
    }
}

/// One notice for each inode and each name: entries first, so that nobody finds a new name with old
/// contents behind it for longer than needed.
///
/// Ranges of one inode become the smallest range that covers them; `len` 0 means to the end.
/// Invalidating data drops the attributes too.
fn coalesce(notices: impl Iterator<Item = Notice>) -> Vec<Notice> {
    let mut entries = HashSet::new();
    let mut data: HashMap<Ino, (i64, i64)> = HashMap::new();
    let mut attrs = HashSet::new();
    let mut out = Vec::new();
    for notice in notices {
        match notice {
            Notice::Entry { parent, name } => {
                if entries.insert((parent, name.clone())) {
                    out.push(Notice::Entry { parent, name });
                }
            }
            Notice::Attr { ino } => {
                attrs.insert(ino);
            }
            Notice::Data { ino, offset, len } => {
                let end = if len <= 0 { i64::MAX } else { offset.saturating_add(len) };
                let range = data.entry(ino).or_insert((offset, end));
                *range = (range.0.min(offset), range.1.max(end));
            }
        }
    }
    attrs.retain(|ino| !data.contains_key(ino));
    out.extend(data.into_iter().map(|(ino, (start, end))| {
        let len = if end == i64::MAX { 0 } else { end - start };
        Notice::Data { ino, offset: start, len }
    }));
    out.extend(attrs.into_iter().map(|ino| Notice::Attr { ino }));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(ino: Ino, offset: i64, len: i64) -> Notice {
        Notice::Data { ino, offset, len }
    }

    #[test]
    fn ranges_of_one_inode_become_one_that_covers_all() {
        let merged = coalesce([data(5, 100, 10), data(5, 0, 20), data(5, 60, 5)].into_iter());
        assert_eq!(merged, [data(5, 0, 110)]);
    }

    #[test]
    fn a_range_to_the_end_stays_one() {
        let merged = coalesce([data(5, 100, 0), data(5, 50, 20)].into_iter());
        assert_eq!(merged, [data(5, 50, 0)]);
    }

    #[test]
    fn attributes_go_with_the_data_of_the_same_inode_only() {
        let merged = coalesce([Notice::Attr { ino: 5 }, data(5, 0, 0), Notice::Attr { ino: 6 }].into_iter());
        assert_eq!(merged, [data(5, 0, 0), Notice::Attr { ino: 6 }]);
    }

    #[test]
    fn names_are_told_once_for_each_directory_and_before_the_inodes() {
        let entry = |parent, name: &[u8]| Notice::Entry { parent, name: name.to_vec() };
        let merged =
            coalesce([data(9, 0, 0), entry(1, b"a"), entry(1, b"a"), entry(2, b"a"), entry(1, b"b")].into_iter());
        assert_eq!(merged, [entry(1, b"a"), entry(2, b"a"), entry(1, b"b"), data(9, 0, 0)]);
    }
}
