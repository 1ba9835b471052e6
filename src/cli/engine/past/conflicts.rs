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
        engine.submit(folder, basis, vec![rename])?.map(|grouped| ended(grouped, line)).transpose()
    })
}

/// The line of the conflict, if what was to end it has.
fn ended(grouped: Grouped, line: ConflictLine) -> Result<ConflictLine, Failure> {
    if grouped == Grouped::default() {
        return Ok(line);
    }
    let (original, list) = (line.original.shown(), format!("kegfs conflicts list {}", line.folder));
    let why = format!(
        "somebody else has changed {original} or the version beside it meanwhile, so both stay; look at them, and end it \
         again: {list}"
    );
    Err(Failure::new(Code::Failure, why))
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
        let grouped = engine.submit(folder, basis, vec![OpKind::Unlink { keg, parent, name }])?;
        grouped.map(|grouped| ended(grouped, line)).transpose()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What did nothing has ended nothing.
    #[test]
    fn a_conflict_that_others_keep_from_being_ended_is_not_told_as_ended() {
        let line = || ConflictLine {
            folder: "acme".to_owned(),
            path: b"plan (conflict)".to_vec().into(),
            original: b"plan".to_vec().into(),
            author: "bob's laptop".to_owned(),
            at_ms: 0,
            kind: "content".to_owned(),
            directory: false,
            size: 0,
        };
        assert!(ended(Grouped::default(), line()).is_ok());
        for grouped in [Grouped { void: 1, ..Grouped::default() }, Grouped { beside: 1, ..Grouped::default() }] {
            let refused = ended(grouped, line()).err().map(|failure| failure.message);
            assert!(refused.is_some_and(|text| text.contains("both stay") && text.contains("conflicts list acme")));
        }
    }
}
