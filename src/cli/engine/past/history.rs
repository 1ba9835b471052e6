//! What happened to a file or a directory, from the log.
//!
//! A file's history is that of all kegs that ever had its name, since most programs save by putting a new file in the
//! place of the old one, and of all names that these kegs had.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::super::control::{HistoryLine, Listed};
use super::super::super::failure::{Code, Failure};
use super::super::super::output;
use super::super::super::paths::Paths;
use super::super::super::when;
use super::super::Engine;
use crate::format::NodeKind;
use crate::keg::{Node, ROOT_INO};
use crate::replica::{NameSpan, Replica, ReplicaError};
use crate::sync::Folder;

/// What one entry did.
#[derive(Default)]
struct Happened {
    what: Vec<String>,
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

/// What one line says of an entry at most.
const MOST_WHAT: usize = 20;

type Events = BTreeMap<u64, Happened>;

/// The newest `limit` lines, newest first.
pub(super) fn of(
    engine: &Engine,
    folder: &Folder,
    path: &[Vec<u8>],
    limit: usize,
) -> Result<Listed<HistoryLine>, Failure> {
    let replica = &folder.replica;
    let events = events(replica, path).map_err(|error| engine.read_failed(error))?;
    let events = events.ok_or_else(|| {
        let path = String::from_utf8_lossy(&path.join(&b'/')).into_owned();
        Failure::new(Code::Failure, format!("there never was {path} in {}, as far as it is known here", folder.name()))
    })?;
    let mut lines = Vec::new();
    let most = limit.saturating_add(1);
    for (seq, happened) in events.into_iter().rev().filter(|(_, happened)| !happened.what.is_empty()).take(most) {
        let line = replica.view().log_line(seq).map_err(|error| engine.read_failed(error))?;
        lines.push(HistoryLine {
            version: when::version(replica.moment_after(seq).map_err(|error| engine.read_failed(error))?),
            at_ms: line.as_ref().map_or(0, |line| line.created_ms),
            author: line.map_or_else(String::new, |line| line.label),
            path: happened.path.unwrap_or_else(|| path.join(&b'/')).into(),
            size: happened.size,
            what: some(happened.what),
        });
    }
    Ok(Listed::of(lines, limit))
}

/// One entry may have given thousands of names.
fn some(mut what: Vec<String>) -> Vec<String> {
    let more = what.len().saturating_sub(MOST_WHAT);
    if more > 1 {
        what.truncate(MOST_WHAT);
        what.push(format!("and {more} more"));
    }
    what
}

fn events(replica: &Replica, path: &[Vec<u8>]) -> Result<Option<Events>, ReplicaError> {
    let mut paths = Paths::default();
    let mut events = Events::new();
    let Some((name, above)) = path.split_last() else {
        directory(replica, ROOT_INO, &mut paths, &mut events)?;
        return Ok(Some(events));
    };
    let mut parent = ROOT_INO;
    for name in above {
        let Some(ino) = ever(replica, parent, name)? else { return Ok(None) };
        parent = ino;
    }
    let kegs: BTreeSet<u64> = replica.names_in(parent, name)?.into_iter().map(|span| span.child_ino).collect();
    let now = replica.view().lookup(parent, name)?.map(|node| node.ino);
    let kegs: BTreeSet<u64> = kegs.into_iter().chain(now).collect();
    if kegs.is_empty() {
        return Ok(None);
    }
    for ino in kegs {
        keg(replica, ino, &mut paths, &mut events)?;
        if replica.view().node(ino)?.is_some_and(|node| node.is_directory()) {
            directory(replica, ino, &mut paths, &mut events)?;
        }
    }
    Ok(Some(events))
}

/// What a name names, or named last.
fn ever(replica: &Replica, parent: u64, name: &[u8]) -> Result<Option<u64>, ReplicaError> {
    if let Some(node) = replica.view().lookup(parent, name)? {
        return Ok(Some(node.ino));
    }
    Ok(replica.names_in(parent, name)?.pop().map(|span| span.child_ino))
}

fn keg(replica: &Replica, ino: u64, paths: &mut Paths, events: &mut Events) -> Result<(), ReplicaError> {
    let spans = replica.names_of_child(ino)?;
    let named: BTreeSet<u64> = spans.iter().flat_map(|span| [Some(span.from), span.to]).flatten().collect();
    let moments = replica.moments(ino)?;
    let first = moments.first().map(|moment| moment.seq);
    let mut gone_before = HashMap::new();
    let mut before: Option<Node> = None;
    for moment in &moments {
        let happened = events.entry(moment.seq).or_default();
        let node = &moment.node;
        if node.kind == NodeKind::File {
            happened.size = Some(node.size);
        }
        gone_before.insert(moment.seq, before.as_ref().is_some_and(|node| node.nlink == 0));
        if let Some(before) = &before {
            changes(before, node, named.contains(&moment.seq), happened);
        } else if node.content.seq == moment.seq && node.kind == NodeKind::File && node.size > 0 {
            happened.what.push(format!("content, {}", output::bytes(node.size)));
        }
        before = Some(node.clone());
    }
    names(replica, &spans, first, &gone_before, paths, events)?;
    for moment in &moments {
        let at = |span: &&NameSpan| span.from <= moment.seq && span.to.is_none_or(|to| to > moment.seq);
        if let (Some(span), Some(happened)) = (spans.iter().rfind(at), events.get_mut(&moment.seq))
            && happened.path.is_none()
        {
            happened.path = Some(paths.of(replica, span.parent_ino, &span.name)?);
        }
    }
    Ok(())
}

/// Names that came and went.
fn names(
    replica: &Replica,
    spans: &[NameSpan],
    first: Option<u64>,
    gone_before: &HashMap<u64, bool>,
    paths: &mut Paths,
    events: &mut Events,
) -> Result<(), ReplicaError> {
    let mut turns: BTreeMap<u64, (Vec<&NameSpan>, Vec<&NameSpan>)> = BTreeMap::new();
    for span in spans {
        turns.entry(span.from).or_default().0.push(span);
        if let Some(to) = span.to {
            turns.entry(to).or_default().1.push(span);
        }
    }
    for (seq, (added, removed)) in turns {
        let path = |paths: &mut Paths, span: &NameSpan| paths.of(replica, span.parent_ino, &span.name);
        let mut removed = removed.into_iter();
        for span in added {
            let new = path(paths, span)?;
            let what = match removed.next() {
                Some(old) => format!("renamed from {}", shown(&path(paths, old)?)),
                // Or before what is left of it.
                None if first.is_none_or(|first| seq <= first) => "created".to_owned(),
                None if gone_before.get(&seq) == Some(&true) => "brought back".to_owned(),
                None => format!("one more name: {}", shown(&new)),
            };
            let happened = events.entry(seq).or_default();
            happened.what.insert(0, what);
            happened.path = Some(new);
        }
        for span in removed {
            let there_again = replica.names_in(span.parent_ino, &span.name)?.iter().any(|other| other.from == seq);
            let old = path(paths, span)?;
            let happened = events.entry(seq).or_default();
            let what = if there_again { "replaced by a new file".to_owned() } else { "removed".to_owned() };
            happened.what.insert(0, what);
            happened.path.get_or_insert(old);
        }
    }
    Ok(())
}

/// `named`: names came or went, which moves the change time.
fn changes(before: &Node, node: &Node, named: bool, happened: &mut Happened) {
    if node.content.seq != before.content.seq {
        happened.what.push(format!("content, {}", output::bytes(node.size)));
    }
    if node.mode != before.mode {
        happened.what.push(format!("mode {:o}", node.mode));
    }
    if (node.uid, node.gid) != (before.uid, before.gid) {
        happened.what.push(format!("owner {}:{}", node.uid, node.gid));
    }
    let alike = !named && node.content.seq == before.content.seq && node.mode == before.mode;
    if alike && !node.is_directory() {
        if node.mtime_ns != before.mtime_ns {
            happened.what.push("times".to_owned());
        } else if (node.uid, node.gid) == (before.uid, before.gid) && node.ctime_ns != before.ctime_ns {
            happened.what.push("attributes".to_owned());
        }
    }
}

/// Names in a directory that came and went.
fn directory(replica: &Replica, ino: u64, paths: &mut Paths, events: &mut Events) -> Result<(), ReplicaError> {
    let spans = replica.names_of_directory(ino)?;
    let came: BTreeSet<(u64, &[u8])> = spans.iter().map(|span| (span.from, span.name.as_slice())).collect();
    for span in &spans {
        let mut note = |seq: u64, what: &str| -> Result<(), ReplicaError> {
            let own = paths.of(replica, ino, b"")?;
            let happened = events.entry(seq).or_default();
            happened.what.push(format!("{what} {}", shown(&span.name)));
            happened.path.get_or_insert(own.strip_suffix(b"/").unwrap_or(&own).to_vec());
            Ok(())
        };
        let replaces = spans.iter().any(|other| other.to == Some(span.from) && other.name == span.name);
        note(span.from, if replaces { "replaced" } else { "added" })?;
        if let Some(to) = span.to
            && !came.contains(&(to, span.name.as_slice()))
        {
            note(to, "took away")?;
        }
    }
    Ok(())
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
