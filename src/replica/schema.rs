//! Tables of `state.db`.
//!
//! Rows refer to each other by inode number: 8 bytes instead of a keg's 16, and kegs that were created together lie
//! together, so that listing a tree reads pages in order. Current rows and superseded ones (`*_past`, valid in
//! `[from_seq, to_seq)`) are apart, so that history costs the present nothing.

/// The steps that lead to the layout of `state.db`; its number (`PRAGMA user_version`) is how many were taken. A step
/// that was released is never changed.
pub(super) const STATE: &[&str] = &[
    STATE_1,
    STATE_ACTIVITY,
    STATE_CHECKPOINT,
    STATE_ALLOCATED,
    STATE_PAST,
    STATE_THINNED,
    STATE_BLOBS,
    STATE_FORGOTTEN,
    STATE_TOLD,
    STATE_HANDED_OVER,
    STATE_OF_EPOCHS,
];

/// The tables.
pub(super) const STATE_1: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE device (id INTEGER PRIMARY KEY, device BLOB NOT NULL UNIQUE);
CREATE TABLE node (
  ino INTEGER PRIMARY KEY, keg BLOB NOT NULL, seq INTEGER NOT NULL,
  kind INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, rdev INTEGER NOT NULL,
  nlink INTEGER NOT NULL, size INTEGER NOT NULL,
  atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, btime_ns INTEGER NOT NULL,
  target BLOB, content_seq INTEGER NOT NULL, content_device INTEGER NOT NULL,
  removed_seq INTEGER, removed_device INTEGER, removed_parent BLOB, removed_name BLOB, xattrs INTEGER NOT NULL
);
CREATE UNIQUE INDEX node_keg ON node (keg);
CREATE TABLE node_past (
  ino INTEGER NOT NULL, keg BLOB NOT NULL, from_seq INTEGER NOT NULL,
  kind INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, rdev INTEGER NOT NULL,
  nlink INTEGER NOT NULL, size INTEGER NOT NULL,
  atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, btime_ns INTEGER NOT NULL,
  target BLOB, content_seq INTEGER NOT NULL, content_device INTEGER NOT NULL,
  removed_seq INTEGER, removed_device INTEGER, removed_parent BLOB, removed_name BLOB, xattrs INTEGER NOT NULL,
  to_seq INTEGER NOT NULL, PRIMARY KEY (ino, from_seq)
) WITHOUT ROWID;
CREATE TABLE dentry (
  parent INTEGER NOT NULL, name BLOB NOT NULL, child INTEGER NOT NULL, cookie INTEGER NOT NULL, wanted BLOB,
  placed_seq INTEGER NOT NULL, placed_device INTEGER NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE INDEX dentry_order ON dentry (parent, cookie, child);
CREATE INDEX dentry_child ON dentry (child);
CREATE TABLE dentry_past (
  parent INTEGER NOT NULL, name BLOB NOT NULL, child INTEGER NOT NULL, cookie INTEGER NOT NULL, wanted BLOB,
  placed_seq INTEGER NOT NULL, placed_device INTEGER NOT NULL, from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL,
  PRIMARY KEY (parent, name, from_seq)
) WITHOUT ROWID;
CREATE TABLE extent (
  ino INTEGER NOT NULL, offset INTEGER NOT NULL, len INTEGER NOT NULL, blob BLOB NOT NULL,
  blob_offset INTEGER NOT NULL, chunk_len INTEGER NOT NULL, chunk_skip INTEGER NOT NULL, key BLOB NOT NULL,
  seq INTEGER NOT NULL, PRIMARY KEY (ino, offset)
) WITHOUT ROWID;
CREATE TABLE extent_past (
  ino INTEGER NOT NULL, offset INTEGER NOT NULL, len INTEGER NOT NULL, blob BLOB NOT NULL,
  blob_offset INTEGER NOT NULL, chunk_len INTEGER NOT NULL, chunk_skip INTEGER NOT NULL, key BLOB NOT NULL,
  from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL, PRIMARY KEY (ino, offset, from_seq)
) WITHOUT ROWID;
CREATE TABLE content (
  ino INTEGER NOT NULL, seq INTEGER NOT NULL, device INTEGER NOT NULL, size INTEGER NOT NULL, PRIMARY KEY (ino, seq)
) WITHOUT ROWID;
CREATE TABLE xattr (
  ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (ino, name)
) WITHOUT ROWID;
CREATE TABLE xattr_past (
  ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, from_seq INTEGER NOT NULL, to_seq INTEGER NOT NULL,
  PRIMARY KEY (ino, name, from_seq)
) WITHOUT ROWID;
CREATE TABLE redirect (
  device BLOB NOT NULL, keg BLOB NOT NULL, target BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (device, keg)
) WITHOUT ROWID;
CREATE TABLE log (
  seq INTEGER PRIMARY KEY, chain BLOB NOT NULL, hash BLOB NOT NULL, account BLOB NOT NULL, device INTEGER NOT NULL,
  label TEXT NOT NULL, created_ms INTEGER NOT NULL
);
CREATE TABLE author (device BLOB PRIMARY KEY, counter INTEGER NOT NULL, hash BLOB NOT NULL) WITHOUT ROWID;
";

/// What happened, for people; and what each device has lately overwritten or removed (see `activity.rs`).
const STATE_ACTIVITY: &str = "
CREATE TABLE activity (
  id INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL, warning INTEGER NOT NULL,
  account BLOB, actor TEXT NOT NULL, what BLOB NOT NULL
);
CREATE INDEX activity_warning ON activity (id) WHERE warning;
CREATE TABLE burst (
  device INTEGER PRIMARY KEY, since_ms INTEGER NOT NULL, first_seq INTEGER NOT NULL, overwritten INTEGER NOT NULL,
  removed INTEGER NOT NULL, told INTEGER NOT NULL
);
";

/// The folder's name and the redirections as they were at each moment, for the state that a newcomer begins with; and the
/// checkpoints of the log, with what came of comparing them (0 open, 1 true, 2 false, 3 unknown).
const STATE_CHECKPOINT: &str = "
CREATE TABLE name_log (seq INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE redirect_log (
  device BLOB NOT NULL, keg BLOB NOT NULL, seq INTEGER NOT NULL, target BLOB NOT NULL, unseen INTEGER NOT NULL,
  PRIMARY KEY (device, keg, seq)
) WITHOUT ROWID;
CREATE TABLE checkpoint (
  seq INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, account BLOB NOT NULL, own INTEGER NOT NULL, sealed BLOB NOT NULL,
  verdict INTEGER NOT NULL
);
INSERT INTO name_log SELECT 0, value FROM meta WHERE key = 'folder_name';
INSERT INTO redirect_log SELECT device, keg, 0, target, seq FROM redirect;
";

/// How many bytes of a file are data: what `du` counts, kept so that asking costs the same for files of any length. For
/// superseded rows all of it is taken for data, since nobody asks.
const STATE_ALLOCATED: &str = "
ALTER TABLE node ADD COLUMN allocated INTEGER NOT NULL DEFAULT 0;
UPDATE node SET allocated = coalesce((SELECT sum(len) FROM extent WHERE extent.ino = node.ino), 0) WHERE kind = 0;
ALTER TABLE node_past ADD COLUMN allocated INTEGER NOT NULL DEFAULT 0;
UPDATE node_past SET allocated = size WHERE kind = 0;
";

/// Reading the past at a cost that does not grow with it.
///
/// *Names of a directory at one moment.* Of the superseded names of a directory those that were valid at a moment are
/// found by a relational interval tree (Kriegel, Pötke, Seidl, VLDB 2000): every row is registered at its *fork*, the
/// number in `[from_seq, to_seq - 1]` that the highest power of two divides; a moment asks the forks above it, one for
/// each bit of a number, from the one side by `from_seq` and from the other by `to_seq`. See `past.rs`.
///
/// `clock_ms`: the time of an entry, made non-decreasing: the largest so far.
const STATE_PAST: &str = "
ALTER TABLE dentry_past ADD COLUMN fork INTEGER NOT NULL DEFAULT 0;
WITH RECURSIVE bit(k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM bit WHERE k < 61)
UPDATE dentry_past SET fork = (
  SELECT ((to_seq - 1) >> k) << k FROM bit WHERE ((to_seq - 1) >> k) << k >= max(from_seq, 1) ORDER BY k DESC LIMIT 1);
CREATE INDEX dentry_past_from ON dentry_past (parent, fork, from_seq);
CREATE INDEX dentry_past_to ON dentry_past (parent, fork, to_seq);
CREATE INDEX dentry_past_child ON dentry_past (child, from_seq);
CREATE INDEX dentry_since ON dentry (parent, seq);
CREATE INDEX dentry_conflict ON dentry (parent, name) WHERE wanted IS NOT NULL;
CREATE INDEX node_removed ON node (removed_seq) WHERE removed_seq IS NOT NULL;
ALTER TABLE log ADD COLUMN clock_ms INTEGER NOT NULL DEFAULT 0;
UPDATE log SET clock_ms = clock.latest
  FROM (SELECT seq, max(created_ms) OVER (ORDER BY seq) AS latest FROM log) AS clock WHERE clock.seq = log.seq;
CREATE INDEX log_clock ON log (clock_ms, seq);
";

/// Thinning out the past, see `thin.rs`. `kept`: the moments that are left of those before `meta.thinned`. `thinning`: the
/// entries that thinned it out, with the time that nothing before them is later than. `owed`: between which moments rows are still to be removed that none shows;
/// they are found by the end of their validity, in indexes that grow at their ends.
const STATE_THINNED: &str = "
CREATE TABLE kept (seq INTEGER PRIMARY KEY);
CREATE TABLE thinning (seq INTEGER PRIMARY KEY, said_ms INTEGER NOT NULL);
CREATE TABLE owed (after INTEGER PRIMARY KEY, upto INTEGER NOT NULL);
CREATE INDEX node_past_end ON node_past (to_seq);
CREATE INDEX dentry_past_end ON dentry_past (to_seq);
CREATE INDEX extent_past_end ON extent_past (to_seq);
CREATE INDEX xattr_past_end ON xattr_past (to_seq);
";

/// What the server keeps for the folder, see `release.rs`. `released`: the entry that released it, if none has added it since.
/// `checkpoint`: the epoch whose state it is of. `loose`: to be looked at whether anything refers to it. `missed`: released
/// although something may show it. Blobs that were added before
/// this step (`meta.blobs_since`) are not known, and stay.
const STATE_BLOBS: &str = "
CREATE TABLE blob (id BLOB PRIMARY KEY, size INTEGER NOT NULL, released INTEGER, checkpoint INTEGER) WITHOUT ROWID;
CREATE TABLE loose (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE missed (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE INDEX extent_blob ON extent (blob);
CREATE INDEX extent_past_blob ON extent_past (blob);
INSERT INTO meta SELECT 'blobs_since', value FROM meta WHERE key = 'mark_seq' AND value > 0;
";

/// Changes of content that a revival has forgotten, valid before `to_seq`: a state from before it is still to be handed
/// over and compared with them.
const STATE_FORGOTTEN: &str = "
CREATE TABLE content_past (
  ino INTEGER NOT NULL, seq INTEGER NOT NULL, device INTEGER NOT NULL, size INTEGER NOT NULL, to_seq INTEGER NOT NULL,
  PRIMARY KEY (ino, seq, to_seq)
) WITHOUT ROWID;
";

/// `held`: files removed before `meta.settled` that a program had open, with the position at which they were removed. What time
/// the log tells is taken over at opening, see `told.rs`.
const STATE_TOLD: &str = "
CREATE TABLE held (ino INTEGER PRIMARY KEY, removed_seq INTEGER NOT NULL);
";

/// Which blobs are of states that were handed over: few of all.
const STATE_HANDED_OVER: &str = "
CREATE INDEX blob_checkpoint ON blob (checkpoint) WHERE checkpoint IS NOT NULL;
";

/// In place of `blob.checkpoint`: a blob may be of several states. `seq`: the entry that added it for that, or the one that signs
/// the state that refers to it. What was found true or past saying is compared once more, and what it refers to noted.
const STATE_OF_EPOCHS: &str = "
DROP INDEX blob_checkpoint;
CREATE TABLE handed_over (id BLOB NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (id, epoch, seq)) WITHOUT ROWID;
CREATE INDEX handed_over_seq ON handed_over (seq);
INSERT INTO handed_over SELECT id, checkpoint, 0 FROM blob WHERE checkpoint IS NOT NULL;
ALTER TABLE blob DROP COLUMN checkpoint;
UPDATE checkpoint SET verdict = 0 WHERE verdict IN (1, 3);
";

/// As [`STATE`], of `journal.db`.
pub(super) const JOURNAL: &[&str] = &[JOURNAL_1];

/// Own work that the server has not sequenced. `work.ops` packs the operations `first..=last`, see `journal.rs`.
const JOURNAL_1: &str = "
CREATE TABLE work (last INTEGER PRIMARY KEY, first INTEGER NOT NULL, ops BLOB NOT NULL);
CREATE TABLE staged (counter INTEGER PRIMARY KEY, last_op INTEGER NOT NULL, bytes BLOB NOT NULL, blobs BLOB NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
";

/// As [`STATE`], of `account.db`.
pub(super) const ACCOUNT: &[&str] = &[ACCOUNT_1, ACCOUNT_CONTACTS];

/// What the user has decided about an account: see `contact_store.rs`. `folded`: the name as it is compared; `shown`: which
/// words were shown last; `local`: the user's other devices do not know it yet.
const ACCOUNT_CONTACTS: &str = "
ALTER TABLE pin ADD COLUMN trust INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pin ADD COLUMN since_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pin ADD COLUMN why TEXT NOT NULL DEFAULT '';
ALTER TABLE pin ADD COLUMN keys BLOB;
ALTER TABLE pin ADD COLUMN shown BLOB;
ALTER TABLE pin ADD COLUMN local INTEGER NOT NULL DEFAULT 1;
ALTER TABLE pin ADD COLUMN folded TEXT NOT NULL DEFAULT '';
UPDATE pin SET folded = lower(trim(label)), since_ms = pinned_ms;
CREATE INDEX pin_folded ON pin (folded);
";

/// What one profile knows beside its folders.
const ACCOUNT_1: &str = "
CREATE TABLE folder (db BLOB PRIMARY KEY, name TEXT NOT NULL, dir TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE account_log (
  account BLOB NOT NULL, seq INTEGER NOT NULL, entry BLOB NOT NULL, PRIMARY KEY (account, seq)
) WITHOUT ROWID;
CREATE TABLE pin (account BLOB PRIMARY KEY, label TEXT NOT NULL, pinned_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE setting (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
";
