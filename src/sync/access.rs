//! Who can read a file, and who could have: from the folder's own log of what happened, the epochs, and the versions.
//!
//! A version was written under an epoch; who has that epoch's key can open it. A membership opens the epochs from the one
//! that it was granted to the last that began while it lasted: keys that somebody was given cannot be taken back, so a
//! former member is reckoned to have kept what those open, fetched or not. Who was added without the history is given the
//! folder as it was then: the version that was current counts too. A revoked device has what its account had until the
//! folder heard of the revocation.
//!
//! Must not ask the server: it is the members' own record that answers.

use std::collections::{BTreeMap, HashMap};

use super::{Folder, SyncError};
use crate::format::{AccountId, DeviceId, Role};
use crate::keyring::{AccountLogs, FolderState};
use crate::replica::{Activity, Happening};

/// One version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Position of the entry that wrote it.
    pub seq: u64,
    /// The epoch that it was written under.
    pub epoch: u32,
    /// When, by the writer's clock, milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// Who wrote it: `alice's laptop`.
    pub by: String,
    /// Length in bytes.
    pub size: u64,
}

/// How a membership, or a device's part in it, came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has not.
    No,
    /// The member was removed.
    Removed,
    /// The member left.
    Left,
    /// The device was revoked.
    Revoked,
}

/// Somebody who can read some version, or could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Who.
    pub account: AccountId,
    /// The name.
    pub name: String,
    /// The device, where it is one alone.
    pub device: Option<String>,
    /// As what, at last.
    pub role: Role,
    /// Since when, milliseconds since 1970 UTC.
    pub since_ms: i64,
    /// How it ended.
    pub end: End,
    /// When, milliseconds since 1970 UTC.
    pub end_ms: Option<i64>,
    /// The devices of the account that are valid now.
    pub devices: Vec<String>,
    /// Positions of the versions that it opens, ascending.
    pub versions: Vec<u64>,
}

/// Who can read a file, and who could have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its versions, oldest first.
    pub versions: Vec<Version>,
    /// Members, and what they can read.
    pub now: Vec<Reader>,
    /// Former members and revoked devices, and what they may have kept. Nobody without anything.
    pub before: Vec<Reader>,
}

/// One membership, as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Membership {
    account: AccountId,
    name: String,
    role: Role,
    joined: u64,
    since_ms: i64,
    /// First epoch that its keys open.
    from_epoch: u32,
    end: End,
    ended: Option<(u64, i64)>,
    /// Devices that were revoked meanwhile: name, position, time.
    revoked: Vec<(DeviceId, String, u64, i64)>,
}

impl Folder {
    /// Who can read the file at `path` (names from the folder's root), and who could have.
    ///
    /// # Errors
    /// [`SyncError::NoSuchFile`]; those of the replica.
    pub fn access(&self, path: &[Vec<u8>]) -> Result<Access, SyncError> {
        let standing = self.replica.standing();
        let state = FolderState::from_bytes(&standing.state, self.replica.mark(), HashMap::new())
            .map_err(|_| SyncError::Damaged("the replica's folder state".to_owned()))?;
        let epochs: Vec<(u64, u32)> = state.epochs().iter().map(|epoch| (epoch.seq, epoch.start.epoch)).collect();
        let lines: Vec<Activity> = self.activity(0, usize::MAX)?.into_iter().map(|(_, line)| line).collect();
        let versions = self.versions_at(path, &epochs)?;
        let mut access = of(&lines, &epochs, versions);
        for reader in access.now.iter_mut().chain(&mut access.before).filter(|reader| reader.device.is_none()) {
            let log = self.accounts.log(&reader.account);
            let valid = log.iter().flat_map(|log| {
                log.devices()
                    .filter(|(_, device)| device.revoked_seq.is_none())
                    .map(|(_, device)| device.keys.name.clone())
            });
            reader.devices = valid.collect();
        }
        Ok(access)
    }

    fn versions_at(&self, path: &[Vec<u8>], epochs: &[(u64, u32)]) -> Result<Vec<Version>, SyncError> {
        let shown = || path.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>().join("/");
        let view = self.replica.view();
        let mut ino = crate::keg::ROOT_INO;
        for name in path {
            ino = view.lookup(ino, name)?.ok_or_else(|| SyncError::NoSuchFile(shown()))?.ino;
        }
        let mut versions = Vec::new();
        for version in view.versions(ino)? {
            let seq = version.stamp.seq;
            let line = view.log_line(seq)?;
            versions.push(Version {
                seq,
                epoch: epoch_at(epochs, seq),
                at_ms: line.as_ref().map_or(0, |line| line.created_ms),
                by: line.map_or_else(String::new, |line| line.label),
                size: version.size,
            });
        }
        Ok(versions)
    }
}

/// The epoch that was current when the entry at `seq` was written.
fn epoch_at(epochs: &[(u64, u32)], seq: u64) -> u32 {
    epochs.iter().rev().find(|(began, _)| *began <= seq).map_or(0, |(_, epoch)| *epoch)
}

/// Pure: from the lines, the epochs (position, number; ascending) and the versions (ascending).
fn of(lines: &[Activity], epochs: &[(u64, u32)], versions: Vec<Version>) -> Access {
    let memberships = memberships(lines);
    let (mut now, mut before) = (Vec::new(), Vec::new());
    for membership in &memberships {
        let until = membership.ended.map(|(seq, _)| seq);
        let reader = |until: Option<u64>| readable(membership, until, epochs, &versions);
        let whole = Reader {
            account: membership.account,
            name: membership.name.clone(),
            device: None,
            role: membership.role,
            since_ms: membership.since_ms,
            end: membership.end,
            end_ms: membership.ended.map(|(_, at_ms)| at_ms),
            devices: Vec::new(),
            versions: reader(until),
        };
        for (_, device, seq, at_ms) in &membership.revoked {
            let device = Reader {
                device: Some(device.clone()),
                end: End::Revoked,
                end_ms: Some(*at_ms),
                versions: reader(Some(*seq)),
                ..whole.clone()
            };
            before.extend(Some(device).filter(|device| !device.versions.is_empty()));
        }
        match membership.end {
            End::No => now.push(whole),
            _ if whole.versions.is_empty() => {}
            _ => before.push(whole),
        }
    }
    now.sort_by(|one, other| (&one.name, one.account).cmp(&(&other.name, other.account)));
    Access { versions, now, before }
}

/// Versions that the keys of a membership open which ended at position `until`.
fn readable(membership: &Membership, until: Option<u64>, epochs: &[(u64, u32)], versions: &[Version]) -> Vec<u64> {
    // Who is removed, or revoked, is not given the key that begins with it: the last is the one before.
    let last = until.map_or(u32::MAX, |seq| epoch_at(epochs, seq.saturating_sub(1)));
    let opens = |version: &&Version| {
        // What was written under an open epoch after the end is ciphertext that a server in league may hand out.
        membership.from_epoch <= version.epoch && version.epoch <= last
    };
    // The folder is handed over as it was when the first epoch of the membership began.
    let before = |version: &&Version| version.seq < membership.joined && version.epoch < membership.from_epoch;
    let given = versions.iter().rev().find(before).map(|version| version.seq);
    let mut found: Vec<u64> = versions.iter().filter(opens).map(|version| version.seq).chain(given).collect();
    found.sort_unstable();
    found
}

fn memberships(lines: &[Activity]) -> Vec<Membership> {
    let mut all: Vec<Membership> = Vec::new();
    let mut open: BTreeMap<AccountId, usize> = BTreeMap::new();
    for line in lines {
        let (seq, at_ms) = (line.seq, line.at_ms);
        let mut begin = |account: AccountId, name: String, role: Role, from_epoch: u32| {
            open.insert(account, all.len());
            let revoked = Vec::new();
            all.push(Membership {
                account,
                name,
                role,
                joined: seq,
                since_ms: at_ms,
                from_epoch,
                end: End::No,
                ended: None,
                revoked,
            });
        };
        match (&line.what, line.account) {
            (Happening::Created, Some(author)) => begin(author, owner_of(&line.actor), Role::Owner, 0),
            (Happening::Added { account, name, role, reads_from, .. }, _) => {
                begin(*account, name.clone(), *role, *reads_from);
            }
            (Happening::Removed { account, .. }, _) => {
                if let Some(index) = open.remove(account) {
                    (all[index].end, all[index].ended) = (End::Removed, Some((seq, at_ms)));
                }
            }
            (Happening::Left, Some(author)) => {
                if let Some(index) = open.remove(&author) {
                    (all[index].end, all[index].ended) = (End::Left, Some((seq, at_ms)));
                }
            }
            (Happening::Role { account, role, .. }, _) => {
                if let Some(index) = open.get(account) {
                    all[*index].role = *role;
                }
            }
            (Happening::DeviceRevoked { device, name }, Some(author)) => {
                if let Some(index) = open.get(&author) {
                    all[*index].revoked.push((*device, name.clone(), seq, at_ms));
                }
            }
            _ => {}
        }
    }
    all
}

/// `alice` of `alice's laptop`.
fn owner_of(label: &str) -> String {
    label.rsplit_once("'s ").map_or_else(|| label.to_owned(), |(name, _)| name.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Add(u8, bool),
        Remove(u8),
        Leave(u8),
        Rotate,
        Write,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let who = 1..5u8;
        let step = prop_oneof![
            (who.clone(), any::<bool>()).prop_map(|(who, history)| Step::Add(who, history)),
            who.clone().prop_map(Step::Remove),
            who.prop_map(Step::Leave),
            Just(Step::Rotate),
            Just(Step::Write),
            Just(Step::Write),
        ];
        proptest::collection::vec(step, 0..40)
    }

    /// What everybody holds, by handing out keys one by one.
    #[derive(Default)]
    struct Hands {
        members: BTreeSet<u8>,
        keys: BTreeMap<(u8, u64), BTreeSet<u32>>,
        joined: BTreeMap<u8, u64>,
        given: BTreeMap<(u8, u64), u64>,
    }

    proptest! {
        /// The law: a membership is said to open a version exactly where somebody handed it the epoch's key, or the folder
        /// as it was at the joining.
        #[test]
        fn who_is_said_to_read_is_who_was_given_the_keys(steps in steps()) {
            let account = |who: u8| AccountId([who; 32]);
            let (mut lines, mut epochs, mut versions): (Vec<Activity>, Vec<(u64, u32)>, Vec<Version>) = Default::default();
            let mut hands = Hands::default();
            let mut line = |seq: u64, who: u8, what| {
                lines.push(Activity { seq, at_ms: 0, account: Some(account(who)), actor: "owner's laptop".to_owned(), what });
            };
            line(1, 0, Happening::Created);
            epochs.push((1, 0));
            hands.members.insert(0);
            hands.joined.insert(0, 1);
            hands.keys.insert((0, 1), BTreeSet::from([0]));
            let (mut seq, mut epoch) = (1, 0);
            let name = |who: u8| format!("m{who}");
            for step in steps {
                seq += 1;
                let rotates = match &step {
                    Step::Add(who, _) if hands.members.contains(who) => continue,
                    Step::Remove(who) | Step::Leave(who) if !hands.members.contains(who) => continue,
                    Step::Add(who, history) => {
                        let reads_from = if *history { 0 } else { epoch + 1 };
                        let role = Role::Viewer;
                        line(seq, 0, Happening::Added { account: account(*who), name: name(*who), role, expires_ms: None, reads_from, since: false, invite: None });
                        hands.members.insert(*who);
                        hands.joined.insert(*who, seq);
                        let keys = if *history { (0..=epoch).collect() } else { BTreeSet::new() };
                        hands.keys.insert((*who, seq), keys);
                        if let Some(version) = versions.last() {
                            hands.given.insert((*who, seq), version.seq);
                        }
                        !history
                    }
                    Step::Remove(who) => {
                        line(seq, 0, Happening::Removed { account: account(*who), name: name(*who) });
                        hands.members.remove(who);
                        true
                    }
                    Step::Leave(who) => {
                        line(seq, *who, Happening::Left);
                        hands.members.remove(who);
                        false
                    }
                    Step::Rotate => true,
                    Step::Write => {
                        versions.push(Version { seq, epoch, at_ms: 0, by: String::new(), size: 1 });
                        false
                    }
                };
                if rotates {
                    epoch += 1;
                    epochs.push((seq, epoch));
                    for who in &hands.members {
                        hands.keys.get_mut(&(*who, hands.joined[who])).unwrap().insert(epoch);
                    }
                }
            }
            let memberships = memberships(&lines);
            prop_assert_eq!(memberships.len(), hands.keys.len());
            for membership in &memberships {
                let who = (membership.account.0[0], membership.joined);
                let expected: Vec<u64> = versions
                    .iter()
                    .filter(|version| hands.keys[&who].contains(&version.epoch) || hands.given.get(&who) == Some(&version.seq))
                    .map(|version| version.seq)
                    .collect();
                let until = membership.ended.map(|(seq, _)| seq);
                prop_assert_eq!(readable(membership, until, &epochs, &versions), expected);
            }
            let access = of(&lines, &epochs, versions);
            let now: BTreeSet<u8> = access.now.iter().map(|reader| reader.account.0[0]).collect();
            prop_assert_eq!(now, hands.members);
        }
    }
}
