//! `.keg/activity`: the folder's log, which grows while somebody looks at it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::super::activity;
use crate::sync::Folder;
use crate::sys::clock;
use crate::vfs::{KegFile, VfsError};

/// Lines that are read at once.
const PAGE: usize = 1000;

/// What was read so far is kept: asking for the length again and again, as `tail -f` does, costs what is new.
pub(super) struct ActivityFile {
    folder: Arc<Folder>,
    read: Mutex<Read>,
}

struct Read {
    last: u64,
    text: BytesMut,
    changed_ns: i64,
}

impl ActivityFile {
    pub(super) fn new(folder: &Arc<Folder>) -> Arc<Self> {
        let read = Read { last: 0, text: BytesMut::new(), changed_ns: clock::unix_nanos() };
        Arc::new(Self { folder: Arc::clone(folder), read: Mutex::new(read) })
    }

    fn catch_up(&self, read: &mut Read) -> Result<(), VfsError> {
        loop {
            let lines = self.folder.activity(read.last, PAGE).map_err(VfsError::storage)?;
            for (number, line) in &lines {
                read.last = *number;
                read.text.extend_from_slice(activity::line(&activity::info(*number, line)).as_bytes());
                read.changed_ns = clock::unix_nanos();
            }
            if lines.len() < PAGE {
                return Ok(());
            }
        }
    }
}

impl KegFile for ActivityFile {
    fn content(&self) -> Result<Bytes, VfsError> {
        let mut read = self.read.lock();
        self.catch_up(&mut read)?;
        Ok(Bytes::copy_from_slice(&read.text))
    }

    fn len(&self) -> Result<u64, VfsError> {
        let mut read = self.read.lock();
        self.catch_up(&mut read)?;
        Ok(read.text.len() as u64)
    }

    fn grows(&self) -> bool {
        true
    }

    fn modified_ns(&self) -> i64 {
        self.read.lock().changed_ns
    }
}
