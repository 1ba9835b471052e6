//! What `.keg` of a folder shows: the same as the commands, for whoever looks at files.
//!
//! One file for each name; a new one gets its line in [`NAMES`] and in [`KegDir::lookup`] of [`Root`]. Must not ask the
//! server: looking at a file never waits for the network.

mod activity;
mod at;

use std::sync::Arc;

use bytes::Bytes;

use self::activity::ActivityFile;
use self::at::At;
use super::{conflicts, describe, output};
use crate::sync::Folder;
use crate::sys::clock;
use crate::vfs::{KegDir, KegFile, KegNode, NodeKind, VfsError};

/// Names in `.keg`, as listed.
const NAMES: &[(&str, NodeKind)] = &[
    ("status", NodeKind::File),
    ("members", NodeKind::File),
    ("activity", NodeKind::File),
    ("conflicts", NodeKind::File),
    ("at", NodeKind::Directory),
];

/// The `.keg` of a folder.
pub fn of(folder: &Arc<Folder>) -> Arc<dyn KegDir> {
    Arc::new(Root { folder: Arc::clone(folder), activity: ActivityFile::new(folder) })
}

struct Root {
    folder: Arc<Folder>,
    activity: Arc<ActivityFile>,
}

impl KegDir for Root {
    fn lookup(&self, name: &[u8]) -> Result<Option<KegNode>, VfsError> {
        let page = |page: fn(&Arc<Folder>) -> String| {
            let folder = Arc::clone(&self.folder);
            Some(KegNode::File(Arc::new(Page { folder, page })))
        };
        Ok(match name {
            b"status" => page(|folder| output::folder_page(&describe::folder_status(folder))),
            b"members" => page(|folder| output::members(&describe::members(folder))),
            b"conflicts" => page(conflicts_page),
            b"at" => Some(KegNode::Directory(Arc::new(At { folder: Arc::clone(&self.folder) }))),
            b"activity" => Some(KegNode::File(self.activity.clone())),
            _ => None,
        })
    }

    fn list(&self) -> Result<Vec<(Vec<u8>, NodeKind)>, VfsError> {
        Ok(NAMES.iter().map(|(name, kind)| (name.as_bytes().to_vec(), *kind)).collect())
    }

    fn modified_ns(&self) -> i64 {
        clock::unix_nanos()
    }
}

/// What conflicts have set aside, as `kegfs conflicts list` shows it.
fn conflicts_page(folder: &Arc<Folder>) -> String {
    match conflicts::of(folder) {
        Ok(found) => output::conflicts(&found.into_iter().map(|(_, line)| line).collect::<Vec<_>>()),
        Err(error) => format!("the conflicts cannot be read: {error}\n"),
    }
}

/// A text that is made anew for everyone who opens it.
struct Page {
    folder: Arc<Folder>,
    page: fn(&Arc<Folder>) -> String,
}

impl KegFile for Page {
    fn content(&self) -> Result<Bytes, VfsError> {
        Ok((self.page)(&self.folder).into())
    }

    fn modified_ns(&self) -> i64 {
        clock::unix_nanos()
    }
}
