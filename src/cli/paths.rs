//! The path of a name in a folder, also of what is gone.

use std::collections::HashMap;

use crate::keg::ROOT_INO;
use crate::replica::{Replica, ReplicaError};

/// Paths of directories, also of those that are gone, as they were last.
#[derive(Default)]
pub struct Paths {
    known: HashMap<u64, Vec<u8>>,
}

impl Paths {
    /// The path of `name` in the directory with this number.
    ///
    /// # Errors
    /// Those of reading.
    pub fn of(&mut self, replica: &Replica, parent: u64, name: &[u8]) -> Result<Vec<u8>, ReplicaError> {
        let above = self.directory(replica, parent, 0)?;
        Ok(if above.is_empty() { name.to_vec() } else { [&above, b"/".as_slice(), name].concat() })
    }

    fn directory(&mut self, replica: &Replica, ino: u64, depth: usize) -> Result<Vec<u8>, ReplicaError> {
        /// Deeper than any path that a system call takes; the past may hold a cycle of names of different times.
        const DEEPEST: usize = 2048;
        if ino == ROOT_INO {
            return Ok(Vec::new());
        }
        if let Some(known) = self.known.get(&ino) {
            return Ok(known.clone());
        }
        let path = match replica.names_of_child(ino)?.pop() {
            Some(span) if depth < DEEPEST => {
                let above = self.directory(replica, span.parent_ino, depth + 1)?;
                if above.is_empty() { span.name } else { [&above, b"/".as_slice(), &span.name].concat() }
            }
            _ => b"?".to_vec(),
        };
        self.known.insert(ino, path.clone());
        Ok(path)
    }
}
