//! What a path on the command line means: a folder and names from its root.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use super::super::super::control::Place;
use super::super::super::failure::{Code, Failure};
use super::super::Engine;
use crate::sync::Folder;

impl Engine {
    /// The folder, and the names from its root.
    pub(super) fn place(&self, place: &Place) -> Result<(Arc<Folder>, Vec<Vec<u8>>), Failure> {
        let absolute = Path::new(std::ffi::OsStr::from_bytes(place.absolute.as_slice()));
        if let Some((folder, path)) = self.mounts.locate(absolute) {
            return Ok((self.unlocked.folder(&folder)?, names(&path)?));
        }
        let typed = Path::new(std::ffi::OsStr::from_bytes(place.typed.as_slice()));
        let mut parts = typed.components();
        let first = parts.next().and_then(|part| part.as_os_str().to_str().map(str::to_owned));
        let folder = match first {
            Some(name) if !typed.is_absolute() => self.unlocked.folder(&name),
            _ => Err(Failure::new(Code::Usage, String::new())),
        };
        let folder = folder.map_err(|failure| match failure.code {
            Code::Usage | Code::Failure | Code::Refused => Failure::new(
                Code::Usage,
                format!(
                    "{} is neither in a mount of this profile nor FOLDER/PATH; `kegfs status` shows mounts and folders",
                    place.typed.shown()
                ),
            ),
            _ => failure,
        })?;
        Ok((folder, names(parts.as_path())?))
    }
}

fn names(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Ok(name.as_bytes().to_vec()),
        _ => Err(Failure::new(Code::Usage, format!("{}: give a path without `..`", path.display()))),
    };
    path.components().filter(|component| *component != Component::CurDir).map(part).collect()
}
