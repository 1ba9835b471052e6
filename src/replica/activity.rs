//! What happened in the folder, as people want to hear it: kept with the state that it is about.
//!
//! Most of it is derived from the verified log, in the transaction of the entry that it comes with, so it is the same
//! after a restart and on every replica that has the same entries. What this machine noticed by itself (that the server
//! was caught) is added by [`Replica::note`]. Nothing is ever changed or removed: what was read once stays as it was.
//!
//! Two things can be seen only here, where operations meet the tree: conflicts, and *mass changes*, see [`Watch`].

use minicbor::{Decode, Encode};
use rusqlite::{Connection, OptionalExtension, params};

use super::base::Base;
use super::db::Db;
use super::layer::Layer;
use super::replica::{Replica, meta};
use super::types::Confirmed;
use super::{ReplicaError, View};
use crate::format::{AccountId, BlobId, DeviceId, NodeKind, Op, OpKind, RetentionRule, Role, decode, encode};
use crate::keg::{Applied, Store};

/// A burst of changes by one device is counted over this time. Ransomware that was measured encrypts from hundreds to
/// tens of thousands of files a minute; one that goes as slowly as five a minute is still seen. People who save what they
/// work on, and build tools outside of `target` directories, stay below the counts in that time.
const BURST_MS: i64 = 10 * 60_000;
/// Fewer files are what a person changes by hand in ten minutes, or a small clean-up.
const BURST_FILES: u64 = 50;
/// And less than this part of the folder is a project that is worked on, not the folder.
const BURST_PART: u64 = 4;
/// So many are told whatever part of the folder they are: switching the branch of a large repository is told too, once.
const BURST_MANY: u64 = 1000;
/// Conflicts of one entry that are told by name.
const CONFLICTS_MAX: usize = 20;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Position of the entry that it came with; for what this machine noticed, that of the newest entry then.
    pub seq: u64,
    /// When, by the clock of whoever did it, milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// Who did it; absent for what this machine noticed.
    pub account: Option<AccountId>,
    /// How people call the device that did it: `alice's laptop`. Empty for what this machine noticed.
    pub actor: String,
    /// What.
    pub what: Happening,
}

/// What happened. Names are those of the time. Numbers are stored: they are never given twice.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Happening {
    /// The folder was created.
    #[n(0)]
    Created,
    /// Somebody was added.
    #[n(1)]
    Added {
        /// Who.
        #[n(0)]
        account: AccountId,
        /// Their name.
        #[n(1)]
        name: String,
        /// As what.
        #[n(2)]
        role: Role,
        /// Guests: end of membership, milliseconds since 1970 UTC.
        #[n(3)]
        expires_ms: Option<i64>,
        /// The first epoch that they read; 0: with the whole history.
        #[n(4)]
        reads_from: u32,
        /// That epoch is an earlier one than the one that began with them.
        #[n(5)]
        since: bool,
        /// The invite that they came by.
        #[n(6)]
        invite: Option<String>,
    },
    /// Somebody was removed.
    #[n(2)]
    Removed {
        /// Who.
        #[n(0)]
        account: AccountId,
        /// Their name.
        #[n(1)]
        name: String,
    },
    /// The actor left.
    #[n(3)]
    Left,
    /// Somebody has another role, or a guest another end.
    #[n(4)]
    Role {
        /// Who.
        #[n(0)]
        account: AccountId,
        /// Their name.
        #[n(1)]
        name: String,
        /// Before.
        #[n(2)]
        from: Role,
        /// Now.
        #[n(3)]
        role: Role,
        /// Guests: end of membership, milliseconds since 1970 UTC.
        #[n(4)]
        expires_ms: Option<i64>,
    },
    /// The folder's key changed.
    #[n(5)]
    Rotated {
        /// The epoch that began.
        #[n(0)]
        epoch: u32,
    },
    /// The actor's account has another device.
    #[n(6)]
    DeviceAdded {
        /// Which.
        #[n(0)]
        device: DeviceId,
        /// Its name.
        #[n(1)]
        name: String,
    },
    /// The actor's account has revoked a device.
    #[n(7)]
    DeviceRevoked {
        /// Which.
        #[n(0)]
        device: DeviceId,
        /// Its name.
        #[n(1)]
        name: String,
    },
    /// Two changed the same thing: the actor's version has this name.
    #[n(8)]
    Conflict {
        /// The name, in whatever directory.
        #[cbor(n(0), with = "minicbor::bytes")]
        name: Vec<u8>,
        /// More that came with the same entry and are not told one by one.
        #[n(1)]
        more: u64,
    },
    /// One device has overwritten or removed many files in a short time.
    #[n(9)]
    MassChange {
        /// Files overwritten since then.
        #[n(0)]
        overwritten: u64,
        /// Files removed since then.
        #[n(1)]
        removed: u64,
        /// Files there were.
        #[n(2)]
        files: u64,
        /// When it began, milliseconds since 1970 UTC.
        #[n(3)]
        since_ms: i64,
    },
    /// The server was caught; the folder is frozen.
    #[n(10)]
    Misbehaviour {
        /// In plain words.
        #[n(0)]
        what: String,
    },
    /// Something that the actor was not allowed to do was tried, and counts for nothing.
    #[n(11)]
    Ignored {
        /// Why, in plain words.
        #[n(0)]
        reason: String,
    },
    /// An epoch's link to the epochs before is false: members who join later are cut off from what is older.
    #[n(12)]
    FalseLink {
        /// The epoch.
        #[n(0)]
        epoch: u32,
    },
    /// The user has decided that a frozen folder goes on.
    #[n(13)]
    Thawed,
    /// This member was given another key for the epoch than the log commits to: whoever began it shut this member out.
    #[n(16)]
    FalseKey {
        /// The epoch.
        #[n(0)]
        epoch: u32,
    },
    /// The server showed an account that cannot be; nothing of it was taken over.
    #[n(17)]
    FalseAccount {
        /// In plain words.
        #[n(0)]
        what: String,
    },
    /// The server is there and does not give what following the folder needs.
    #[n(18)]
    Stalled {
        /// What is missing, in plain words.
        #[n(0)]
        reason: String,
    },
    /// The server sent something else than the content that was asked for; it was thrown away.
    #[n(15)]
    Altered {
        /// The blob that was asked for.
        #[n(0)]
        blob: BlobId,
    },
    /// A member's account is in doubt on this device: nothing is given to it until the user decides.
    #[n(14)]
    InDoubt {
        /// The account.
        #[n(0)]
        account: AccountId,
        /// Its name.
        #[n(1)]
        name: String,
        /// Why, in plain words.
        #[n(2)]
        why: String,
    },
    /// A member has signed that the folder was something that it was not, for a newcomer who cannot tell.
    #[n(20)]
    FalseCheckpoint {
        /// Who.
        #[n(0)]
        account: AccountId,
        /// Their name.
        #[n(1)]
        name: String,
        /// The entry.
        #[n(2)]
        seq: u64,
        /// What is false about it, in plain words.
        #[n(3)]
        what: String,
    },
    /// An owner has changed for how long the past is kept.
    #[n(40)]
    Retention {
        /// The rule from now on.
        #[n(0)]
        rule: RetentionRule,
    },
    /// The actor wanted to take more of the past away than the folder's rule allows; that part stayed.
    #[n(41)]
    OverThinned {
        /// Moments that stayed.
        #[n(0)]
        moments: u64,
    },
    /// The actor has thinned out the past by a clock that is ahead of this machine's: more of it is gone than the rule says.
    #[n(42)]
    ThinnedAhead {
        /// How far ahead, in seconds.
        #[n(0)]
        ahead_s: u64,
    },
    /// The actor has thinned out the past by a clock that is behind entries that were there already.
    #[n(45)]
    ThinnedBehind {
        /// How far behind, in seconds.
        #[n(0)]
        behind_s: u64,
        /// Behind those of owners and admins: it took nothing away.
        #[n(1)]
        void: bool,
    },
    /// The actor has made an invite.
    #[n(21)]
    Invited {
        /// How people call it: the first characters of its key.
        #[n(0)]
        invite: String,
        /// As what the newcomer joins.
        #[n(1)]
        role: Role,
        /// Until when it can be used, milliseconds since 1970 UTC.
        #[n(2)]
        ends_ms: i64,
        /// Guests: end of membership, milliseconds since 1970 UTC.
        #[n(3)]
        expires_ms: Option<i64>,
    },
    /// The actor has withdrawn an invite.
    #[n(22)]
    InviteCancelled {
        /// See [`Self::Invited`].
        #[n(0)]
        invite: String,
    },
    /// Nobody has used an invite in its time; noticed by this machine's clock.
    #[n(23)]
    InviteEnded {
        /// See [`Self::Invited`].
        #[n(0)]
        invite: String,
        /// When, milliseconds since 1970 UTC.
        #[n(1)]
        ends_ms: i64,
    },
    /// The actor has released content that files or kept versions consist of: the server will remove it.
    #[n(43)]
    ReleasedInUse {
        /// How many blobs.
        #[n(0)]
        blobs: u64,
    },
    /// Content that own unsent work refers to was removed while this machine was away, or does not open with its key.
    #[n(44)]
    ContentLost {
        /// How many blobs.
        #[n(0)]
        blobs: u64,
    },
}

impl Happening {
    /// Somebody should look at it.
    pub fn is_warning(&self) -> bool {
        match self {
            Self::MassChange { .. }
            | Self::Misbehaviour { .. }
            | Self::Ignored { .. }
            | Self::FalseLink { .. }
            | Self::FalseKey { .. }
            | Self::FalseCheckpoint { .. }
            | Self::InDoubt { .. }
            | Self::FalseAccount { .. }
            | Self::Stalled { .. }
            | Self::OverThinned { .. }
            | Self::ThinnedAhead { .. }
            | Self::ThinnedBehind { .. }
            | Self::ReleasedInUse { .. }
            | Self::ContentLost { .. }
            | Self::Altered { .. } => true,
            Self::Created
            | Self::Invited { .. }
            | Self::InviteCancelled { .. }
            | Self::InviteEnded { .. }
            | Self::Added { .. }
            | Self::Removed { .. }
            | Self::Left
            | Self::Role { .. }
            | Self::Rotated { .. }
            | Self::Retention { .. }
            | Self::DeviceAdded { .. }
            | Self::DeviceRevoked { .. }
            | Self::Conflict { .. }
            | Self::Thawed => false,
        }
    }
}

/// Adds a line, within the transaction of what it is about.
pub(super) fn add(conn: &Connection, activity: &Activity) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(
        "INSERT INTO activity (seq, at_ms, warning, account, actor, what) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let account = activity.account.as_ref().map(AccountId::as_bytes);
    let row = params![
        activity.seq.cast_signed(),
        activity.at_ms,
        activity.what.is_warning(),
        account,
        activity.actor,
        encode(&activity.what)
    ];
    statement.execute(row).map(|_| ())
}

/// Watches what one entry does to the tree.
///
/// A file counts as overwritten where bytes that another device wrote, or this one before the burst, are replaced; so
/// saving one file again and again counts once. It counts as removed with its last name. Counted are files with content.
pub(super) struct Watch<'a> {
    entry: &'a Confirmed,
    /// Position at which the device's burst began.
    first_seq: u64,
    burst: Option<Burst>,
    conflicts: Vec<Vec<u8>>,
    more_conflicts: u64,
    overwritten: u64,
    removed: u64,
    /// What the operation at work will have done if it does what it says.
    pending: Option<Harm>,
}

#[derive(Clone, Copy)]
enum Harm {
    Overwrites,
    Removes,
}

/// The device's changes of the last minutes (table `burst`).
#[derive(Clone, Copy)]
struct Burst {
    since_ms: i64,
    first_seq: u64,
    overwritten: u64,
    removed: u64,
    /// How many there were when it was told last; 0: it was not.
    told: u64,
}

impl<'a> Watch<'a> {
    pub(super) fn begin(writer: &Db, base: &Base<'_>, entry: &'a Confirmed) -> Result<Self, ReplicaError> {
        let device = base.cache.devices.known(&entry.envelope.device).unwrap_or(-1);
        let burst = writer.run(|conn| {
            let mut statement = conn.prepare_cached(
                "SELECT since_ms, first_seq, overwritten, removed, told FROM burst WHERE device = ?1",
            )?;
            let found = statement.query_row([device], |row| {
                Ok(Burst {
                    since_ms: row.get(0)?,
                    first_seq: row.get::<_, i64>(1)?.cast_unsigned(),
                    overwritten: row.get::<_, i64>(2)?.cast_unsigned(),
                    removed: row.get::<_, i64>(3)?.cast_unsigned(),
                    told: row.get::<_, i64>(4)?.cast_unsigned(),
                })
            });
            found.optional()
        })?;
        let burst = burst.filter(|burst| entry.envelope.created_ms.saturating_sub(burst.since_ms) <= BURST_MS);
        let first_seq = burst.map_or(entry.head.seq, |burst| burst.first_seq);
        Ok(Self {
            entry,
            first_seq,
            burst,
            conflicts: Vec::new(),
            more_conflicts: 0,
            overwritten: 0,
            removed: 0,
            pending: None,
        })
    }

    /// Before the operation is applied.
    pub(super) fn before(&mut self, layer: &Layer<'_>, op: &Op) -> Result<(), ReplicaError> {
        self.pending = match &op.kind {
            OpKind::Content { keg, truncate, holes, extents, .. } => {
                let node = layer.node(keg)?.filter(|node| node.size > 0 && node.removed.is_none());
                let touches = |size: u64| {
                    truncate.is_some_and(|len| len < size)
                        || extents.iter().any(|extent| extent.offset < size)
                        || holes.iter().any(|hole| hole.offset < size)
                };
                let fresh = |seq: u64, device: DeviceId| device == self.entry.envelope.device && seq >= self.first_seq;
                let overwrites =
                    |node: &crate::keg::Node| touches(node.size) && !fresh(node.content.seq, node.content.device);
                node.filter(overwrites).map(|_| Harm::Overwrites)
            }
            OpKind::Unlink { keg, .. } => {
                let last = |node: &crate::keg::Node| node.kind == NodeKind::File && node.nlink == 1 && node.size > 0;
                layer.node(keg)?.filter(last).map(|_| Harm::Removes)
            }
            OpKind::Rename { target: Some(target), exchange: false, .. } => {
                let file = |node: &crate::keg::Node| node.kind == NodeKind::File && node.size > 0;
                layer.node(target)?.filter(file).map(|_| Harm::Overwrites)
            }
            _ => None,
        };
        Ok(())
    }

    /// After it.
    pub(super) fn after(&mut self, layer: &Layer<'_>, applied: &Applied) -> Result<(), ReplicaError> {
        match applied {
            Applied::Done => match self.pending.take() {
                Some(Harm::Overwrites) => self.overwritten += 1,
                Some(Harm::Removes) => self.removed += 1,
                None => {}
            },
            Applied::Renamed(name) => self.conflict(name.clone()),
            Applied::Sibling(keg) => {
                let names = layer.dentries_of(keg)?;
                self.conflict(names.into_iter().next().map_or_else(Vec::new, |dentry| dentry.name));
            }
            Applied::Restored | Applied::Nothing => {}
        }
        Ok(())
    }

    fn conflict(&mut self, name: Vec<u8>) {
        // Going on with a sibling that was told already is no other conflict.
        if self.conflicts.contains(&name) {
            return;
        }
        if self.conflicts.len() < CONFLICTS_MAX { self.conflicts.push(name) } else { self.more_conflicts += 1 }
    }

    /// Writes what was seen; `files`: how many there are in the folder now.
    pub(super) fn end(self, writer: &Db, base: &Base<'_>, files: u64) -> Result<(), ReplicaError> {
        let entry = self.entry;
        let line = |what| Activity {
            seq: entry.head.seq,
            at_ms: entry.envelope.created_ms,
            account: Some(entry.envelope.author),
            actor: entry.label.clone(),
            what,
        };
        let last = self.conflicts.len();
        for (index, name) in (1..).zip(&self.conflicts) {
            let more = if index == last { self.more_conflicts } else { 0 };
            writer.run(|conn| add(conn, &line(Happening::Conflict { name: name.clone(), more })))?;
        }
        if self.overwritten + self.removed == 0 {
            return Ok(());
        }
        let new = Burst {
            since_ms: entry.envelope.created_ms,
            first_seq: self.first_seq,
            overwritten: 0,
            removed: 0,
            told: 0,
        };
        let mut burst = self.burst.unwrap_or(new);
        burst.overwritten += self.overwritten;
        burst.removed += self.removed;
        let before = files + burst.removed;
        if burst.is_to_be_told(before) {
            burst.told = burst.count();
            let Burst { since_ms, overwritten, removed, .. } = burst;
            let what = Happening::MassChange { overwritten, removed, files: before, since_ms };
            writer.run(|conn| add(conn, &line(what)))?;
        }
        writer.run(|conn| {
            let device = base.cache.devices.number(conn, &entry.envelope.device)?;
            let mut statement = conn.prepare_cached("INSERT OR REPLACE INTO burst VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            let counts = [burst.first_seq, burst.overwritten, burst.removed, burst.told].map(u64::cast_signed);
            statement.execute(params![device, burst.since_ms, counts[0], counts[1], counts[2], counts[3]]).map(|_| ())
        })
    }
}

impl Burst {
    fn count(&self) -> u64 {
        self.overwritten + self.removed
    }

    /// It is one, of `files` that there were; and has become twice as large since it was told.
    fn is_to_be_told(&self, files: u64) -> bool {
        let count = self.count();
        let large = (count >= BURST_FILES && count.saturating_mul(BURST_PART) >= files) || count >= BURST_MANY;
        large && count >= self.told.saturating_mul(2)
    }
}

impl View<'_> {
    /// What happened, with its numbers, which ascend: those above `after`, at most `limit`.
    pub fn activity(&self, after: u64, limit: usize) -> Result<Vec<(u64, Activity)>, ReplicaError> {
        self.activity_where("id > ?1 ORDER BY id LIMIT ?2", after, limit)
    }

    /// The newest `limit` warnings with numbers above `after`, oldest first.
    pub fn warnings(&self, after: u64, limit: usize) -> Result<Vec<(u64, Activity)>, ReplicaError> {
        let mut found = self.activity_where("id > ?1 AND warning ORDER BY id DESC LIMIT ?2", after, limit)?;
        found.reverse();
        Ok(found)
    }

    /// The newest warning that the user has seen; 0: none.
    pub fn warnings_seen(&self) -> Result<u64, ReplicaError> {
        let seen: Option<i64> = self.sql(|conn| meta(conn, "warnings_seen"))?;
        Ok(seen.unwrap_or(0).cast_unsigned())
    }

    fn activity_where(&self, rule: &str, after: u64, limit: usize) -> Result<Vec<(u64, Activity)>, ReplicaError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.sql(|conn| {
            let query = format!("SELECT id, seq, at_ms, account, actor, what FROM activity WHERE {rule}");
            let mut statement = conn.prepare_cached(&query)?;
            let rows = statement.query_map(params![after.cast_signed(), limit], |row| {
                let what: Vec<u8> = row.get(5)?;
                let activity = Activity {
                    seq: row.get::<_, i64>(1)?.cast_unsigned(),
                    at_ms: row.get(2)?,
                    account: row.get::<_, Option<[u8; 32]>>(3)?.map(AccountId),
                    actor: row.get(4)?,
                    what: Happening::Thawed,
                };
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), activity, what))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let with =
            |(id, activity, what): (u64, Activity, Vec<u8>)| Ok((id, Activity { what: decode(&what)?, ..activity }));
        rows.into_iter().map(with).collect()
    }
}

impl Replica {
    /// Adds something that this machine noticed by itself.
    ///
    /// # Errors
    /// Those of writing.
    pub fn note(&self, activity: &Activity) -> Result<(), ReplicaError> {
        self.write_beside(|conn| add(conn, activity))
    }

    /// The same for a warning, unless the same was noted before.
    ///
    /// # Errors
    /// Those of writing.
    pub fn note_once(&self, activity: &Activity) -> Result<(), ReplicaError> {
        self.write_beside(|conn| {
            let mut known = conn.prepare_cached("SELECT 1 FROM activity WHERE warning AND what = ?1")?;
            if known.exists([encode(&activity.what)])? { Ok(()) } else { add(conn, activity) }
        })
    }

    /// The user has seen the warnings up to this number.
    ///
    /// # Errors
    /// Those of writing.
    pub fn see_warnings(&self, upto: u64) -> Result<(), ReplicaError> {
        self.write_beside(|conn| super::flush::put_meta(conn, "warnings_seen", upto.cast_signed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(count: u64, told: u64) -> Burst {
        Burst { since_ms: 0, first_seq: 1, overwritten: count / 2, removed: count - count / 2, told }
    }

    #[test]
    fn a_burst_is_told_when_it_is_large_and_again_when_it_has_doubled() {
        assert!(!burst(BURST_FILES - 1, 0).is_to_be_told(1));
        assert!(burst(BURST_FILES, 0).is_to_be_told(BURST_FILES * BURST_PART));
        assert!(!burst(BURST_FILES, 0).is_to_be_told(BURST_FILES * BURST_PART + 1));
        assert!(burst(BURST_MANY, 0).is_to_be_told(u64::MAX));
        assert!(!burst(BURST_FILES + 40, BURST_FILES).is_to_be_told(60));
        assert!(burst(2 * BURST_FILES, BURST_FILES).is_to_be_told(60));
    }
}
