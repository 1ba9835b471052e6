//! Versions that conflicts have set beside others: which there are, and ending one.
//!
//! What is a conflict is known from the log: the name that somebody asked for and did not get. Names that merely look
//! like it are none, and giving such a version another name ends it.

use std::sync::Arc;

use super::super::super::conflicts::of;
use super::super::super::control::{ConflictLine, Listed};
use super::super::super::failure::{Code, Failure};
use super::super::Engine;
use super::must_write;
use crate::format::OpKind;
use crate::replica::{ConflictName, Grouped};
use crate::sync::Folder;

/// Those of one folder or of all.
pub(super) fn list(engine: &Engine, folder: Option<&str>) -> Result<Listed<ConflictLine>, Failure> {
    engine.mounts.flush_all()?;
    let folders = match folder {
        Some(which) => vec![engine.unlocked.folder(which)?],
        None => engine.unlocked.all_folders(),
    };
    let mut lines = Vec::new();
    for folder in folders {
        let found = of(&folder).map_err(|error| engine.read_failed(error))?;
        lines.extend(found.into_iter().map(|(_, line)| line));
    }
    Ok(Listed::of(lines, usize::MAX))
}

fn one(engine: &Engine, folder: &Arc<Folder>, path: &[Vec<u8>]) -> Result<(ConflictName, ConflictLine), Failure> {
    must_write(folder)?;
    let path = path.join(&b'/');
    let found = of(folder).map_err(|error| engine.read_failed(error))?;
    found.into_iter().find(|(_, line)| line.path.as_slice() == path).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            format!(
                "{} is no version that a conflict has set aside; list them: kegfs conflicts list {}",
                String::from_utf8_lossy(&path),
                folder.name()
            ),
        )
    })
}

/// The conflict version takes the name and place of the other, which goes to the trash.
pub(super) fn keep(engine: &Engine, folder: &Arc<Folder>, path: &[Vec<u8>]) -> Result<ConflictLine, Failure> {
    engine.on_a_basis(folder, |basis| {
        let (conflict, line) = one(engine, folder, path)?;
        let original = folder
            .replica
            .view()
            .lookup(conflict.parent_ino, &conflict.wanted)
            .map_err(|error| engine.read_failed(error))?;
        if original.as_ref().is_some_and(|original| original.is_directory() || conflict.node.is_directory()) {
            return Err(Failure::new(
                Code::Failure,
                format!(
                    "{} and {} are not both files: move what is to stay from one to the other, and remove the empty one",
                    line.original.shown(),
                    line.path.shown()
                ),
            ));
        }
        let rename = OpKind::Rename {
            keg: conflict.node.keg,
            parent: conflict.parent,
            name: conflict.name,
            new_parent: conflict.parent,
            new_name: conflict.wanted,
            target: original.map(|original| original.keg),
            exchange: false,
        };
        match engine.submit(folder, basis, vec![rename])? {
            Some(Grouped { beside: 0 }) => Ok(Some(line)),
            Some(_) => Err(Failure::new(
                Code::Failure,
                format!(
                    "somebody else has changed {} meanwhile, so both versions stay; look at them, and end it again",
                    line.original.shown()
                ),
            )),
            None => Ok(None),
        }
    })
}

/// The conflict version goes to the trash.
pub(super) fn discard(engine: &Engine, folder: &Arc<Folder>, path: &[Vec<u8>]) -> Result<ConflictLine, Failure> {
    engine.on_a_basis(folder, |basis| {
        let (conflict, line) = one(engine, folder, path)?;
        let full = conflict.node.is_directory()
            && !folder.replica.view().is_empty(conflict.node.ino).map_err(|error| engine.read_failed(error))?;
        if full {
            return Err(Failure::new(
                Code::Failure,
                format!("{} is a directory with something in it; move that, or remove it", line.path.shown()),
            ));
        }
        let (keg, parent, name) = (conflict.node.keg, conflict.parent, conflict.name);
        let ended = engine.submit(folder, basis, vec![OpKind::Unlink { keg, parent, name }])?;
        Ok(ended.map(|_| line))
    })
}
