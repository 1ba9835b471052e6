//! What a malicious server, member or device tries, and what its victims' real clients do about it: one test for each
//! row of the threat table, named after the row.
//!
//! **The harness.** [`liar::Liar`] is an HTTP server on loopback in front of a real `kegd` which says everything that
//! `kegd` says, except where a [`liar::Lie`] changes it; [`lies`] has those that several rows tell. [`cast::Team`] is
//! Alice and Bob with the folder `acme`, each with a liar of their own, so that one member can be lied to and the other
//! not. [`cheat::Shadow`] is a member's client with changed code: it signs what an honest one would not, and the liar
//! puts it where `kegd` would not. Rows about processes, mounts and crashes use real `kegfs` processes ([`mounted`]).
//!
//! **A row** reads: whom we have, who lies how, what must happen. What must happen is `must_freeze` (FRZ: refused,
//! read-only, the proof kept, the user told), `must_ignore` (REJ of an entry: it does nothing and everybody is told), or
//! a typed error together with "nothing was released or cached". A test fails when its check is disabled:
//! `scripts/adversary-mutants` disables each check in turn and sees it fail; a new row gets its line there.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, dead_code)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../sync_support/mod.rs"]
mod sync_support;

mod cast;
mod cheat;
mod liar;
mod lies;

mod abuse;
mod checkpoints;
mod committing;
mod content;
mod formats;
mod joining;
mod keys;
mod members;
mod mounted;
mod mutations;
mod past;
mod secrets;
