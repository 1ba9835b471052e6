//! A whole folder, name by name.
//!
//! Directories are read in pieces, and each twice only where there is something to tell. What is kept is 16 bytes for
//! each name of one directory and the way down to it: nothing grows with the number of files in the folder.

use std::collections::HashMap;

use super::alike::Seen;
use super::names::{self, Length};
use crate::cli::control::{NameFinding, NameProblem, Trouble};
use crate::format::NodeKind;
use crate::keg::ROOT_INO;
use crate::replica::{NameEntry, Replica, ReplicaError};

/// Names read at once: the folder's state is held for about a millisecond.
const BATCH: usize = 1024;

/// Where names come from.
pub trait Names {
    /// Names in the directory whose cookies are above `after`, ascending, at most `limit`.
    ///
    /// # Errors
    /// Those of reading.
    fn names_in(&self, dir: u64, after: u64, limit: usize) -> Result<Vec<NameEntry>, ReplicaError>;
}

impl Names for Replica {
    fn names_in(&self, dir: u64, after: u64, limit: usize) -> Result<Vec<NameEntry>, ReplicaError> {
        self.view().names_in(dir, after, limit)
    }
}

/// A part of what was found; all of it is counted.
#[derive(Debug)]
pub struct Page {
    /// Findings left out at the beginning.
    pub skip: u64,
    /// Findings wanted at most.
    pub most: usize,
    /// Bytes of names in them at most, about.
    pub most_bytes: usize,
    /// Names seen.
    pub names: u64,
    /// Names with a problem.
    pub total: u64,
    /// Those of this page.
    pub findings: Vec<NameFinding>,
    bytes: usize,
}

impl Page {
    /// At most `most` findings of about `most_bytes`, after the first `skip`.
    pub fn new(skip: u64, most: usize, most_bytes: usize) -> Self {
        Self { skip, most, most_bytes, names: 0, total: 0, findings: Vec::new(), bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.findings.len() >= self.most || self.bytes >= self.most_bytes
    }

    fn add(&mut self, finding: NameFinding) {
        self.bytes += finding.path.as_slice().len();
        self.bytes += finding.problems.iter().map(|one| one.what.len() + 100).sum::<usize>();
        self.findings.push(finding);
    }
}

/// A directory on the way down.
struct Level {
    ino: u64,
    path: Vec<u8>,
    length: Length,
    /// Everything up to here has been descended into, or waits in `below`.
    at: u64,
    /// Subdirectories, the first one last.
    below: Vec<(u64, Vec<u8>)>,
}

/// Looks at all names of a folder. `tick` is called now and then, and answers false when nobody waits any more.
///
/// # Errors
/// Those of reading.
pub fn walk(names: &impl Names, page: &mut Page, tick: &mut dyn FnMut() -> bool) -> Result<(), ReplicaError> {
    let root = Level { ino: ROOT_INO, path: Vec::new(), length: Length::default(), at: 0, below: Vec::new() };
    look(names, &root, page, tick)?;
    let mut way = vec![root];
    while let Some(level) = way.last_mut() {
        if !tick() {
            return Ok(());
        }
        let Some((ino, name)) = level.next_below(names)? else {
            way.pop();
            continue;
        };
        let next =
            Level { ino, path: joined(&level.path, &name), length: level.length.with(&name), at: 0, below: Vec::new() };
        look(names, &next, page, tick)?;
        way.push(next);
    }
    Ok(())
}

impl Level {
    fn next_below(&mut self, names: &impl Names) -> Result<Option<(u64, Vec<u8>)>, ReplicaError> {
        while self.below.is_empty() {
            let batch = names.names_in(self.ino, self.at, BATCH)?;
            let Some(last) = batch.last() else { return Ok(None) };
            self.at = last.cookie;
            let directories = batch.into_iter().filter(|entry| entry.kind == NodeKind::Directory);
            self.below = directories.map(|entry| (entry.ino, entry.name)).collect();
            self.below.reverse();
        }
        Ok(self.below.pop())
    }
}

/// Calls `each` with the names of a directory; it answers false to stop.
fn each_name(
    names: &impl Names,
    ino: u64,
    tick: &mut dyn FnMut() -> bool,
    mut each: impl FnMut(NameEntry),
) -> Result<(), ReplicaError> {
    let mut at = 0;
    loop {
        let batch = names.names_in(ino, at, BATCH)?;
        let Some(last) = batch.last() else { return Ok(()) };
        at = last.cookie;
        batch.into_iter().for_each(&mut each);
        if !tick() {
            return Ok(());
        }
    }
}

/// Looks at the names of one directory.
fn look(
    names: &impl Names,
    level: &Level,
    page: &mut Page,
    tick: &mut dyn FnMut() -> bool,
) -> Result<(), ReplicaError> {
    let own = |name: &[u8]| {
        let mut problems = names::problems(name);
        problems.extend(names::too_long(level.length, level.length.with(name)));
        problems
    };
    let mut seen = Seen::new();
    let mut suspicious = false;
    each_name(names, level.ino, tick, |entry| {
        page.names += 1;
        seen.note(&entry.name);
        suspicious = suspicious || !own(&entry.name).is_empty();
    })?;
    if !seen.complete() && !suspicious {
        return Ok(());
    }
    let mut first = First::default();
    each_name(names, level.ino, tick, |entry| {
        let mut problems = own(&entry.name);
        problems.extend(first.clash(&seen, &entry.name));
        if problems.is_empty() {
            return;
        }
        page.total += 1;
        if page.is_full() {
            return;
        }
        // Also for those that are left out: their names are proposed already.
        let rename_to = proposal(&mut seen, &entry.name, &problems);
        if page.total > page.skip {
            let path = joined(&level.path, &entry.name).into();
            page.add(NameFinding { path, problems, rename_to });
        }
    })
}

/// Another name, where another name helps.
fn proposal(seen: &mut Seen, name: &[u8], problems: &[NameProblem]) -> Option<String> {
    if problems.iter().all(|problem| problem.trouble == Trouble::PathLength) {
        return None;
    }
    let mended = names::mended(name);
    if seen.take(&mended) {
        return Some(mended);
    }
    (2..).map(|number| names::numbered(&mended, number)).find(|name| seen.take(name))
}

/// The names that came first among those that are taken for one: they keep their name.
#[derive(Default)]
struct First {
    windows: HashMap<String, Vec<u8>>,
    macos: HashMap<String, Vec<u8>>,
}

impl First {
    /// What the name is taken for where that came before it.
    fn clash(&mut self, seen: &Seen, name: &[u8]) -> Vec<NameProblem> {
        let forms = seen.forms(name);
        let before = |twice: bool, firsts: &mut HashMap<String, Vec<u8>>, form: String| {
            let first = firsts.get(&form).cloned();
            if first.is_none() && twice {
                firsts.insert(form, name.to_vec());
            }
            first
        };
        let windows = forms
            .windows
            .and_then(|(number, form)| before(seen.twice_on_windows(number), &mut self.windows, form))
            .map(|first| (names::WINDOWS, first));
        let macos = forms
            .macos
            .and_then(|(number, form)| before(seen.twice_on_macos(number), &mut self.macos, form))
            .map(|first| (names::MACOS, first));
        let mut found: Vec<NameProblem> = Vec::new();
        for (system, first) in windows.into_iter().chain(macos) {
            let with = first.into();
            match found.iter_mut().find(|problem| problem.with.as_ref() == Some(&with)) {
                Some(same) => same.systems.push(system.to_owned()),
                None => found.push(NameProblem {
                    trouble: Trouble::Clash,
                    systems: vec![system.to_owned()],
                    what: "the same name there".to_owned(),
                    with: Some(with),
                }),
            }
        }
        found
    }
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A name; of a directory, with its number.
    type Name = (&'static [u8], Option<u64>);

    /// A folder in memory: directories by number with their names.
    struct Tree(Vec<(u64, Vec<Name>)>);

    impl Names for Tree {
        fn names_in(&self, dir: u64, after: u64, limit: usize) -> Result<Vec<NameEntry>, ReplicaError> {
            let names = self.0.iter().find(|(ino, _)| *ino == dir).map_or(&[][..], |(_, names)| names);
            let entry = |(at, (name, below)): (usize, &(&[u8], Option<u64>))| NameEntry {
                name: name.to_vec(),
                cookie: at as u64 + 1,
                ino: below.unwrap_or(99),
                kind: if below.is_some() { NodeKind::Directory } else { NodeKind::File },
            };
            let after = usize::try_from(after).unwrap();
            Ok(names.iter().enumerate().skip(after).take(limit).map(entry).collect())
        }
    }

    fn all(names: &impl Names) -> Page {
        let mut page = Page::new(0, usize::MAX, usize::MAX);
        walk(names, &mut page, &mut || true).unwrap();
        page
    }

    fn shown(page: &Page) -> Vec<(String, String, Option<String>)> {
        let one = |finding: &NameFinding| {
            let problems: Vec<_> = finding
                .problems
                .iter()
                .map(|one| {
                    format!(
                        "{:?} {}{}",
                        one.trouble,
                        one.systems.join("+"),
                        one.with.as_ref().map_or_else(String::new, |with| format!(" {}", with.shown()))
                    )
                })
                .collect();
            (finding.path.shown(), problems.join(", "), finding.rename_to.clone())
        };
        page.findings.iter().map(one).collect()
    }

    #[test]
    fn clashes_and_refused_names_are_found_in_their_directories_with_free_names() {
        let tree = Tree(vec![
            (
                1,
                vec![(b"Readme", None), (b"sub", Some(2)), (b"README", None), (b"readme", None), (b"README (2)", None)],
            ),
            (
                2,
                vec![
                    (b"con", None),
                    (b"con_", None),
                    ("caf\u{e9}".as_bytes(), None),
                    ("cafe\u{301}".as_bytes(), None),
                    (b"deep", Some(3)),
                ],
            ),
            (3, vec![(b"readme", None), (b"a?", None), (b"a*", None)]),
        ]);
        let page = all(&tree);
        assert_eq!((page.names, page.total), (13, 6));
        let some = |name: &str| Some(name.to_owned());
        let line = |path: &str, problems: &str, name| (path.to_owned(), problems.to_owned(), name);
        assert_eq!(
            shown(&page),
            [
                line("README", "Clash Windows+macOS Readme", some("README (3)")),
                line("readme", "Clash Windows+macOS Readme", some("readme (4)")),
                line("sub/con", "Reserved Windows", some("con_ (2)")),
                line("sub/cafe\u{301}", "Clash macOS caf\u{e9}", some("cafe\u{301} (2)")),
                line("sub/deep/a?", "Character Windows", some("a_")),
                line("sub/deep/a*", "Character Windows", some("a_ (2)")),
            ]
        );
    }

    #[test]
    fn pages_together_are_the_whole() {
        let tree = Tree(vec![
            (1, vec![(b"a?", None), (b"a*", None), (b"d", Some(2)), (b"A?", None)]),
            (2, vec![(b"x:", None), (b"nul", None)]),
        ]);
        let whole = all(&tree);
        let mut pieces = Vec::new();
        while (pieces.len() as u64) < whole.total {
            let mut page = Page::new(pieces.len() as u64, 2, usize::MAX);
            walk(&tree, &mut page, &mut || true).unwrap();
            assert_eq!(page.total, whole.total);
            pieces.extend(page.findings);
        }
        assert_eq!(pieces, whole.findings);
    }

    /// Very many names in one directory, and no one of them twice in memory.
    struct Endless;

    impl Names for Endless {
        fn names_in(&self, dir: u64, after: u64, limit: usize) -> Result<Vec<NameEntry>, ReplicaError> {
            let upto = if dir == ROOT_INO { 100_000 } else { 0 };
            let until = upto.min(after + limit as u64);
            let entry = |at: u64| NameEntry {
                name: if at == 99_999 { b"File 5.txt".to_vec() } else { format!("file {at}.txt").into_bytes() },
                cookie: at,
                ino: at + 10,
                kind: NodeKind::File,
            };
            Ok((after + 1..=until).map(entry).collect())
        }
    }

    #[test]
    fn one_clash_in_a_hundred_thousand_names_is_found() {
        let page = all(&Endless);
        assert_eq!((page.names, page.total), (100_000, 1));
        assert_eq!(shown(&page)[0].1, "Clash Windows+macOS file 5.txt");
        assert_eq!(page.findings[0].rename_to.as_deref(), Some("File 5 (2).txt"));
    }
}
