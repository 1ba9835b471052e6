//! The house rules as a test: who may import whom, which crate belongs where, and what only `sys` may do.
//!
//! The rules are the tables below; `docs/ARCHITECTURE.md` explains them. Code inside `#[cfg(test)]` is free to
//! import what it needs, because nothing that is shipped depends on it. Every check is shown, at the end of this
//! file, to fail on a source that breaks its rule.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;

// ---------------------------------------------------------------------------------------------------------------
// The rules
// ---------------------------------------------------------------------------------------------------------------

/// Room → rooms it may import, in order of rank. `server` has neither `keg` nor `replica`, `sync` or `vfs`:
/// end-to-end encryption as one line.
const ROOMS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("format", &[]),
    ("crypto", &["format", "sys"]),
    ("keyring", &["format", "crypto"]),
    ("keg", &["format"]),
    ("api", &["format"]),
    ("blobs", &["sys", "format"]),
    ("replica", &["sys", "format", "crypto", "keyring", "keg"]),
    ("remote", &["format", "crypto", "api"]),
    ("sync", &["sys", "format", "crypto", "keyring", "keg", "api", "blobs", "replica", "remote"]),
    ("vfs", &["sys", "format", "crypto", "keyring", "keg", "blobs", "replica", "sync"]),
    ("fuse", &["vfs", "sys"]),
    ("server", &["sys", "format", "crypto", "api", "blobs", "keyring"]),
    ("cli", ALL_ROOMS),
    // The two binaries: they call `cli` and `server` and nothing else.
    ("bin", &["cli", "server", "sys"]),
];

const ALL_ROOMS: &[&str] = &[
    "sys", "format", "crypto", "keyring", "keg", "api", "blobs", "replica", "remote", "sync", "vfs", "fuse", "server",
];

/// External crate → the only rooms that may use it. A crate that is not here is free for all.
const CRATES: &[(&str, &[&str])] = &[
    ("fuser", &["fuse"]),
    ("axum", &["server", "cli"]), // cli: the control socket
    ("axum_server", &["server"]),
    ("tower_http", &["server"]),
    ("rusqlite", &["replica", "server"]),
    ("reqwest", &["remote"]),
    ("rustls", &["remote", "server", "cli"]),
    ("rcgen", &["server", "cli"]),
    ("clap", &["cli", "bin"]),
    ("anyhow", &["cli", "bin"]),
    ("rpassword", &["cli"]),
    ("tracing_subscriber", &["cli", "bin"]),
    ("tikv_jemallocator", &["sys", "bin"]),
    // Cryptography has one room. BLAKE3 also names blobs and entries, so `blobs` and `format` may hash.
    ("aws_lc_rs", &["crypto"]),
    ("bao_tree", &["crypto"]),
    ("chacha20", &["crypto"]),
    ("chacha20poly1305", &["crypto"]),
    ("hpke", &["crypto"]),
    ("ed25519_dalek", &["crypto"]),
    ("argon2", &["crypto"]),
    ("bip39", &["crypto"]),
    ("qrcode", &["cli"]),
    ("subtle", &["crypto"]),
    ("blake3", &["crypto", "blobs", "format"]),
    ("getrandom", &["sys"]),
    // The kernel has two doors. `cli` detaches processes and checks the peer of its socket.
    ("nix", &["sys", "fuse", "cli"]),
    ("libc", &["sys", "fuse", "cli"]),
    // Async code lives where the network is; `vfs` has the one bridge.
    ("tokio", &["remote", "sync", "vfs", "server", "cli", "bin"]),
];

/// Paths (any consecutive segments) → the only rooms that may name them, and what to use instead.
const DOORS: &[(&[&str], &[&str], &str)] = &[
    (&["SystemTime", "now"], &["sys"], "take the time from sys"),
    (&["UNIX_EPOCH", "elapsed"], &["sys"], "take the time from sys"),
    (&["Instant", "now"], &["sys"], "take the time from sys"),
    (&["Timestamp", "now"], &["sys"], "take the time from sys"),
    (&["Zoned", "now"], &["sys"], "take the time from sys"),
    (&["thread", "spawn"], &["sys"], "start threads through sys, so that they have names"),
    (&["thread", "Builder"], &["sys"], "start threads through sys"),
    (&["OsRng"], &["sys"], "take randomness from sys"),
    (&["SysRng"], &["sys"], "take randomness from sys"),
    (&["thread_rng"], &["sys"], "take randomness from sys"),
    (&["Errno"], &["sys", "fuse", "cli"], "errno numbers belong to the fuse room: use your room's error"),
    (&["nix", "errno"], &["sys", "fuse", "cli"], "errno numbers belong to the fuse room: use your room's error"),
];

/// Macros → the only rooms that may call them.
const MACROS: &[(&str, &[&str])] = &[
    ("todo", &[]),
    ("unimplemented", &[]),
    ("dbg", &[]),
    ("println", &["cli", "bin", "mount-helper"]),
    ("eprintln", &["cli", "bin", "mount-helper"]),
    ("print", &["cli", "bin", "mount-helper"]),
    ("eprint", &["cli", "bin", "mount-helper"]),
];

/// Rooms that may contain the word `unsafe`.
const UNSAFE: &[&str] = &["sys"];

/// More than this, without test modules, does not fit in a head (150–400 does).
const MAX_LINES: usize = 800;

// ---------------------------------------------------------------------------------------------------------------
// Reading sources
// ---------------------------------------------------------------------------------------------------------------

/// One path as written in the code, made absolute where it starts with `crate`, `self` or `super`.
struct Named {
    line: usize,
    segments: Vec<String>,
    /// The crate's own path (`crate::…`), not an external crate or a local name.
    own: bool,
}

/// What the checks want to know about a source file, without its test code.
#[derive(Default)]
struct Source {
    file: String,
    room: String,
    /// Lines outside test items.
    lines: usize,
    paths: Vec<Named>,
    /// (line, name) of every `name!` call.
    macros: Vec<(usize, String)>,
    unsafe_lines: Vec<usize>,
    /// Module names declared here: they hide crates of the same name.
    modules: BTreeSet<String>,
    /// `#[cfg(test)] mod name;`: the file `name.rs` is test code as a whole.
    test_files: Vec<String>,
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let tokens = attribute.meta.to_token_stream().to_string().replace(' ', "");
        tokens == "test" || tokens == "cfg(test)" || tokens.starts_with("cfg(all(test,")
    })
}

fn item_attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(i) => &i.attrs,
        syn::Item::Enum(i) => &i.attrs,
        syn::Item::Fn(i) => &i.attrs,
        syn::Item::Impl(i) => &i.attrs,
        syn::Item::Macro(i) => &i.attrs,
        syn::Item::Mod(i) => &i.attrs,
        syn::Item::Static(i) => &i.attrs,
        syn::Item::Struct(i) => &i.attrs,
        syn::Item::Trait(i) => &i.attrs,
        syn::Item::Type(i) => &i.attrs,
        syn::Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

impl Source {
    /// `file` is relative to the package, such as `src/vfs/read.rs`; `room` its room.
    fn parse(file: &str, room: &str, text: &str) -> Source {
        let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let lines = text.lines().count();
        let mut source = Source { file: file.to_owned(), room: room.to_owned(), lines, ..Source::default() };
        source.items(&syntax.items, &module_path(file));
        source
    }

    fn items(&mut self, items: &[syn::Item], module: &[String]) {
        for item in items {
            if is_test(item_attributes(item)) {
                let span = item.span();
                self.lines -= span.end().line + 1 - span.start().line;
                if let syn::Item::Mod(declaration) = item
                    && declaration.content.is_none()
                {
                    self.test_files.push(declaration.ident.to_string());
                }
                continue;
            }
            match item {
                syn::Item::Mod(inner) => {
                    self.modules.insert(inner.ident.to_string());
                    if let Some((_, items)) = &inner.content {
                        let mut path = module.to_vec();
                        path.push(inner.ident.to_string());
                        self.items(items, &path);
                    }
                }
                syn::Item::Impl(block) => {
                    // A method can be test code in a block that is not.
                    let mut kept = block.clone();
                    kept.items.retain(|member| match member {
                        syn::ImplItem::Fn(function) => !is_test(&function.attrs),
                        _ => true,
                    });
                    self.tokens(kept.to_token_stream(), module);
                }
                other => self.tokens(other.to_token_stream(), module),
            }
        }
    }

    /// Scans tokens and not the syntax tree, so that what stands inside macros is seen too.
    fn tokens(&mut self, stream: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => {
                    self.tokens(group.stream(), module);
                    at += 1;
                }
                TokenTree::Ident(ident) => {
                    let line = ident.span().start().line;
                    if ident == "unsafe" {
                        self.unsafe_lines.push(line);
                    }
                    at = self.path(&tokens, at, &[], module);
                    // `path!` followed by a group is a macro call; `a != (b)` is not.
                    let adjacent = matches!(tokens.get(at + 1), Some(TokenTree::Group(_)));
                    if is_punct(tokens.get(at), '!') && adjacent {
                        let name = self.paths.last().and_then(|path| path.segments.last().cloned());
                        self.macros.push((line, name.unwrap_or_default()));
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
            }
        }
    }

    /// Records the path (or the tree of `use` paths) that starts at `at`; returns where it ends.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize, prefix: &[String], module: &[String]) -> usize {
        let line = tokens[at].span().start().line;
        let mut segments = prefix.to_vec();
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(ident)) => segments.push(ident.to_string().trim_start_matches("r#").to_owned()),
                Some(TokenTree::Punct(star)) if star.as_char() == '*' => segments.push("*".to_owned()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for branch in inner.split(|token| is_punct(Some(token), ',')) {
                        if !branch.is_empty() {
                            self.path(branch, 0, &segments, module);
                        }
                    }
                    return at + 1;
                }
                // `path::<T>`: the path ends here, T is looked at next.
                _ => break,
            }
            at += 1;
            if is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':') {
                at += 2;
            } else {
                break;
            }
        }
        let (segments, own) = absolute(segments, module);
        self.paths.push(Named { line, segments, own });
        at
    }
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// `src/vfs/mod.rs` → [vfs]; `src/vfs/read.rs` → [vfs, read]; `src/lib.rs` → [].
fn module_path(file: &str) -> Vec<String> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main")).map(str::to_owned).collect()
}

/// Resolves `crate`, `self`, `super` and the crate's own name (as the binaries use it).
fn absolute(segments: Vec<String>, module: &[String]) -> (Vec<String>, bool) {
    let mut rest = segments.as_slice();
    let mut base: Vec<String> = match rest.first().map(String::as_str) {
        Some("crate" | "kegfs") => {
            rest = &rest[1..];
            Vec::new()
        }
        Some("self" | "super") => module.to_vec(),
        _ => return (segments, false),
    };
    while let Some(first @ ("self" | "super")) = rest.first().map(String::as_str) {
        if first == "super" {
            base.pop();
        }
        rest = &rest[1..];
    }
    // `{self, …}` at the end of a tree names the module itself.
    base.extend(rest.iter().filter(|segment| *segment != "self").cloned());
    (base, true)
}

// ---------------------------------------------------------------------------------------------------------------
// The checks: each returns what it objects to, as `file:line: reason`
// ---------------------------------------------------------------------------------------------------------------

fn may(table: &[(&str, &[&str])], key: &str, room: &str) -> bool {
    table.iter().find(|(name, _)| *name == key).is_none_or(|(_, rooms)| rooms.contains(&room))
}

fn check_imports(source: &Source) -> Vec<String> {
    let (file, room) = (&source.file, &source.room);
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| name == room) else {
        return vec![format!("{file}: the room {room} is not in the table")];
    };
    let mut found = Vec::new();
    for path in source.paths.iter().filter(|path| path.own) {
        let Some(target) = path.segments.first() else { continue };
        let known = target != "bin" && ROOMS.iter().any(|(name, _)| name == target);
        if target == "*" || (known && target != room && !allowed.contains(&target.as_str())) {
            found.push(format!("{file}:{}: {room} may not import {target}", path.line));
        }
    }
    found
}

fn check_crates(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for path in source.paths.iter().filter(|path| !path.own && path.segments.len() > 1) {
        let name = &path.segments[0];
        if !source.modules.contains(name) && !may(CRATES, name, &source.room) {
            found.push(format!("{}:{}: the crate {name} does not belong in {}", source.file, path.line, source.room));
        }
    }
    found
}

fn check_doors(source: &Source) -> Vec<String> {
    let (file, room) = (&source.file, &source.room.as_str());
    let mut found = Vec::new();
    for path in &source.paths {
        for (door, rooms, instead) in DOORS {
            let named = path.segments.windows(door.len()).any(|window| window == *door);
            if named && !rooms.contains(room) {
                found.push(format!("{file}:{}: {} in {room}: {instead}", path.line, door.join("::")));
            }
        }
        // libc::ENOENT and its like.
        let errno = path.segments.windows(2).any(|pair| {
            let capitals = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
            pair[0] == "libc" && pair[1].starts_with('E') && capitals(&pair[1])
        });
        if errno && !["sys", "fuse", "cli"].contains(room) {
            found.push(format!("{file}:{}: an errno number in {room}: use your room's error", path.line));
        }
    }
    found
}

fn check_macros(source: &Source) -> Vec<String> {
    let calls = source.macros.iter().filter(|(_, name)| !may(MACROS, name, &source.room));
    calls.map(|(line, name)| format!("{}:{line}: {name}! in {}", source.file, source.room)).collect()
}

fn check_unsafe(source: &Source) -> Vec<String> {
    if UNSAFE.contains(&source.room.as_str()) {
        return Vec::new();
    }
    source.unsafe_lines.iter().map(|line| format!("{}:{line}: unsafe outside sys", source.file)).collect()
}

fn check_size(source: &Source) -> Vec<String> {
    if source.lines <= MAX_LINES {
        return Vec::new();
    }
    vec![format!("{}: {} lines without tests, at most {MAX_LINES}: split it", source.file, source.lines)]
}

fn check_header(file: &str, text: &str) -> Vec<String> {
    if text.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{file}: does not begin with a //! header that says what it is for and what it must not know")]
}

/// Every dependency has its reason: a comment on its line or directly above it. Section rules (`# ---`) are none.
fn check_reasons(file: &str, manifest: &str) -> Vec<String> {
    let (mut found, mut inside, mut above) = (Vec::new(), false, "");
    for (number, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.contains("dependencies]");
        } else if inside && line.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            let above_is_reason = above.starts_with('#') && !above.starts_with("# ---");
            if !above_is_reason && !line.contains("} #") && !line.contains("\" #") {
                let name = line.split([' ', '=', '.']).next().unwrap_or(line);
                found.push(format!("{file}:{}: no reason given for {name}", number + 1));
            }
        }
        above = line;
    }
    found
}

fn check_map(architecture: &str) -> Vec<String> {
    let rooms = ROOMS.iter().map(|(room, _)| *room).filter(|room| *room != "bin");
    let missing = rooms.filter(|room| !architecture.contains(&format!("`{room}`")));
    missing.map(|room| format!("docs/ARCHITECTURE.md: does not name the room `{room}`")).collect()
}

// ---------------------------------------------------------------------------------------------------------------
// The checks applied to this project
// ---------------------------------------------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// The room of `src/vfs/read.rs` is vfs, of `src/bin/kegd.rs` bin, of `src/lib.rs` none (it only lists the rooms).
fn room_of(file: &str) -> Option<&str> {
    let first = file.strip_prefix("src/")?.split('/').next()?;
    if first == "lib.rs" { None } else { Some(first.trim_end_matches(".rs")) }
}

/// All sources of the package that are not test code as a whole.
fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    assert!(files.len() > 2, "no sources found: the checks would pass on nothing");
    let mut parsed = Vec::new();
    for path in files {
        let file = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        if let Some(room) = room_of(&file) {
            parsed.push(Source::parse(&file, room, &fs::read_to_string(&path).unwrap()));
        }
    }
    let mut test_files = BTreeSet::new();
    for source in &parsed {
        let file = Path::new(&source.file);
        let base = if file.ends_with("mod.rs") { file.parent().unwrap().to_owned() } else { file.with_extension("") };
        for name in &source.test_files {
            test_files.insert(base.join(format!("{name}.rs")));
            test_files.insert(base.join(name).join("mod.rs"));
        }
    }
    parsed.retain(|source| !test_files.contains(Path::new(&source.file)));
    parsed
}

#[track_caller]
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}\n{} violations", found.join("\n"), found.len());
}

#[track_caller]
fn everywhere(check: fn(&Source) -> Vec<String>) {
    none(sources().iter().flat_map(check).collect());
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    everywhere(check_imports);
}

#[test]
fn crates_are_used_only_in_their_rooms() {
    everywhere(check_crates);
}

#[test]
fn time_randomness_threads_and_errno_have_one_door() {
    everywhere(check_doors);
}

#[test]
fn no_unfinished_code_and_no_printing_below_the_command_line() {
    everywhere(check_macros);
}

#[test]
fn unsafe_lives_in_sys() {
    everywhere(check_unsafe);
}

#[test]
fn files_fit_in_a_head() {
    everywhere(check_size);
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut files = Vec::new();
    for directory in ["src", "tests", "benches", "mount-helper/src", "mount-helper/tests"] {
        rust_files(&root().join(directory), &mut files);
    }
    let check = |path: &PathBuf| check_header(&path.display().to_string(), &fs::read_to_string(path).unwrap());
    none(files.iter().flat_map(check).collect());
}

#[test]
fn every_dependency_has_a_reason() {
    let check = |file: &&str| check_reasons(file, &fs::read_to_string(root().join(file)).unwrap());
    none(["Cargo.toml", "mount-helper/Cargo.toml"].iter().flat_map(check).collect());
}

#[test]
fn the_mount_helper_keeps_the_rules_that_concern_it() {
    let mut files = Vec::new();
    rust_files(&root().join("mount-helper/src"), &mut files);
    assert!(!files.is_empty(), "no sources found: the checks would pass on nothing");
    for path in files {
        let source = Source::parse(path.to_str().unwrap(), "mount-helper", &fs::read_to_string(&path).unwrap());
        none([check_macros(&source), check_unsafe(&source), check_size(&source)].concat());
    }
}

#[test]
fn the_map_names_every_room() {
    none(check_map(&fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap()));
}

#[test]
fn every_room_of_the_table_is_there() {
    let missing = ROOMS.iter().filter(|(room, _)| !root().join("src").join(room).is_dir());
    none(missing.map(|(room, _)| format!("src/{room}/ does not exist")).collect());
}

// ---------------------------------------------------------------------------------------------------------------
// The checks can fail
// ---------------------------------------------------------------------------------------------------------------

fn in_room(room: &str, text: &str) -> Source {
    Source::parse(&format!("src/{room}/sample.rs"), room, text)
}

/// The check objects once to each bad source, in these words, and to none of the good ones.
#[track_caller]
fn catches(check: fn(&Source) -> Vec<String>, bad: &[(&str, &str, &str)], good: &[(&str, &str)]) {
    for (room, text, word) in bad {
        let found = check(&in_room(room, text));
        assert!(found.len() == 1 && found[0].contains(word), "{room}: {text}: {found:?}, not {word}");
    }
    for (room, text) in good {
        let found = check(&in_room(room, text));
        assert!(found.is_empty(), "{room}: {text}: {found:?}");
    }
}

#[test]
fn catches_forbidden_imports() {
    catches(
        check_imports,
        &[
            ("server", "use crate::keg::Tree;", "may not import keg"),
            ("server", "use crate::{format::KegId, replica::Replica};", "may not import replica"),
            ("server", "use crate::{sys, api::{self, v1}, vfs};", "may not import vfs"),
            ("vfs", "fn f() { crate::remote::get() }", "may not import remote"),
            ("format", "use super::super::crypto::Key;", "may not import crypto"),
            ("format", "mod inner { use super::super::super::crypto; }", "may not import crypto"),
            ("keg", "fn f(key: &crate::crypto::Key) {}", "may not import crypto"),
            ("keg", "fn f() { assert!(crate::sys::now() > 0); }", "may not import sys"),
            ("api", "use crate::*;", "may not import *"),
            ("fuse", "fn f() { use crate::sync as s; }", "may not import sync"),
            ("bin", "use kegfs::replica::Replica;", "may not import replica"),
            ("attic", "fn f() {}", "not in the table"),
        ],
        &[
            ("server", "use crate::{api::v1, keyring::Acl};\nuse super::handlers;"),
            ("vfs", "use crate::sync::Engine;\nuse self::inode::Inode;\nmod inode { use super::super::read; }"),
            ("keg", "#[cfg(test)] mod tests { use crate::replica::Replica; }"),
            ("keg", "/// See [crate::replica].\nfn f() {}"),
            ("cli", "fn f() { crate::vfs::mount(); crate::server::run() }"),
        ],
    );
}

#[test]
fn catches_crates_in_the_wrong_room() {
    catches(
        check_crates,
        &[
            ("vfs", "use fuser::FileAttr;", "fuser"),
            ("cli", "fn f() { let _ = rusqlite::Connection::open(p); }", "rusqlite"),
            ("sync", "fn f(x: reqwest::Client) {}", "reqwest"),
            ("replica", "use {std::fs, ed25519_dalek::Signature};", "ed25519_dalek"),
            ("sync", "fn f() -> anyhow::Result<()> { Ok(()) }", "anyhow"),
            ("keg", "fn f() { vec![getrandom::u64()]; }", "getrandom"),
        ],
        &[
            ("fuse", "use fuser::FileAttr;"),
            ("server", "use axum::Router;\nuse rusqlite::Connection;"),
            ("vfs", "mod libc { pub fn f() {} }\nfn g() { libc::f() }"),
            ("vfs", "#[cfg(test)] mod tests { use fuser::X; }"),
        ],
    );
}

#[test]
fn catches_side_doors() {
    catches(
        check_doors,
        &[
            ("sync", "fn f() { let t = std::time::SystemTime::now(); }", "SystemTime::now"),
            ("vfs", "use std::time::Instant; fn f() { Instant::now(); }", "Instant::now"),
            ("vfs", "fn f() { std::thread::spawn(|| ()); }", "thread::spawn"),
            ("vfs", "fn f() -> i32 { libc::ENOENT }", "errno"),
            ("vfs", "use libc::{c_int, EIO};", "errno"),
            ("vfs", "fn f(e: i32) -> bool { e == Errno::EIO as i32 }", "Errno"),
            ("replica", "use nix::errno;", "errno"),
        ],
        &[
            ("sys", "fn f() { std::time::Instant::now(); std::thread::spawn(|| ()); }"),
            ("fuse", "fn f() -> i32 { libc::ENOENT }"),
            ("vfs", "fn f(at: std::time::Instant) {}"),
            ("vfs", "#[cfg(test)] mod tests { fn f() { std::thread::spawn(|| ()); } }"),
        ],
    );
}

#[test]
fn catches_unfinished_code() {
    catches(
        check_macros,
        &[
            ("cli", "fn f() { todo!() }", "todo!"),
            ("sys", "fn f() { std::unimplemented!(\"later\") }", "unimplemented!"),
            ("cli", "fn f() { let x = vec![dbg!(1)]; }", "dbg!"),
            ("vfs", "fn f() { println!(\"here\"); }", "println!"),
        ],
        &[
            ("cli", "fn f() { println!(\"hello\"); let a = print != (b); }"),
            ("vfs", "#[cfg(test)] mod tests { #[test] fn f() { println!(\"x\") } }"),
        ],
    );
}

#[test]
fn catches_unsafe() {
    catches(
        check_unsafe,
        &[
            ("vfs", "fn f() { unsafe { g() } }", "unsafe"),
            ("vfs", "unsafe impl Send for X {}", "unsafe"),
            ("vfs", "macro_rules! m { () => { unsafe { g() } } }", "unsafe"),
        ],
        &[("sys", "fn f() { unsafe { g() } }"), ("vfs", "// unsafe\n/// unsafe\nfn f() { g(\"unsafe\") }")],
    );
}

#[test]
fn catches_long_files_but_not_long_tests() {
    let long = "fn f() {}\n".repeat(MAX_LINES + 1);
    assert_eq!(check_size(&in_room("vfs", &long)).len(), 1);
    let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "// long\n".repeat(MAX_LINES * 2));
    assert!(check_size(&in_room("vfs", &tested)).is_empty());
}

#[test]
fn catches_missing_headers_reasons_and_rooms() {
    assert_eq!(check_header("x.rs", "// no header\nfn f() {}").len(), 1);
    assert!(check_header("x.rs", "//! Header.\nfn f() {}").is_empty());

    let manifest = "[dependencies]\n# --- group ---\nbytes = \"1\"\n# Codec.\nminicbor = \"2\"\nhex = \"1\" # Ids.\n\
                    lru = \"1\"\n[profile.dev]\nopt-level = 1\n";
    let found = check_reasons("Cargo.toml", manifest);
    assert!(found.len() == 2 && found[0].contains("bytes") && found[1].contains("lru"), "{found:?}");

    let map = ROOMS.iter().map(|(room, _)| format!("`{room}` ")).collect::<String>();
    assert!(check_map(&map).is_empty());
    assert_eq!(check_map(&map.replace("`vfs`", "vfs")).len(), 1);
}

#[test]
fn recognises_files_that_are_tests_as_a_whole() {
    let source = in_room("vfs", "#[cfg(test)]\nmod twins;\nmod read;");
    assert_eq!(source.test_files, ["twins"]);
}

#[test]
fn the_table_itself_has_no_cycle() {
    // Rooms are listed in order of rank, so an import may only point to an earlier one.
    for (rank, (room, allowed)) in ROOMS.iter().enumerate() {
        for target in *allowed {
            let at = ROOMS.iter().position(|(name, _)| name == target).expect("a room of the table");
            assert!(at < rank, "{room} imports {target}, which stands above it");
        }
    }
}
