//! What an entry of the log means to people, as far as its verification tells; conflicts and mass changes are seen where
//! operations meet the tree (`replica`).
//!
//! Must depend on nothing but the log, the account logs that it names, and the state before the entry: the lines are the
//! same on every replica.

use std::sync::Arc;

use super::accounts::Accounts;
use crate::format::{AccountId, InviteKey, Membership, MembershipChange};
use crate::keyring::{AccountLogs, Advanced, FolderState, Reason, Verdict};
use crate::replica::{Activity, Happening};

/// The lines of one entry, in order. `before` is the state that it was checked against.
pub(super) fn of_entry(
    advanced: &Advanced,
    before: &FolderState,
    accounts: &Arc<Accounts>,
    label: &str,
) -> Vec<Activity> {
    let mut what = Vec::new();
    account_changes(advanced, before, accounts, &mut what);
    match &advanced.verdict {
        Verdict::Batch | Verdict::Checkpoint(_) | Verdict::Thin(_) => {}
        Verdict::Ignored(reason) if is_an_attempt(*reason) => {
            what.push(Happening::Ignored { reason: reason.to_string() });
        }
        Verdict::Ignored(_) => {}
        Verdict::Membership(body) => {
            let author = &advanced.envelope.author;
            what.extend(membership(author, body, before, accounts));
            // That a folder begins under a key is no change of it.
            what.extend(
                body.new_epoch
                    .as_ref()
                    .filter(|start| start.epoch > 0)
                    .map(|start| Happening::Rotated { epoch: start.epoch }),
            );
        }
    }
    let line = |what| Activity {
        seq: advanced.seq,
        at_ms: advanced.envelope.created_ms,
        account: Some(advanced.envelope.author),
        actor: label.to_owned(),
        what,
    };
    what.into_iter().map(line).collect()
}

/// Devices that came or went between the state of the account that the folder knew and the one that the entry names.
fn account_changes(advanced: &Advanced, before: &FolderState, accounts: &Accounts, what: &mut Vec<Happening>) {
    let author = &advanced.envelope.author;
    let synced = match &advanced.verdict {
        Verdict::Membership(body) => match body.change {
            MembershipChange::AccountSync { head, .. } => head.seq,
            _ => 0,
        },
        _ => 0,
    };
    let upto = advanced.envelope.account_head.seq.max(synced);
    let (Some(known), Some(log)) = (before.account_head(author), accounts.log(author)) else { return };
    let within = |seq: u64| known.seq < seq && seq <= upto;
    let mut found = Vec::new();
    for (id, device) in log.devices() {
        // Not the name of today, which differs from one replica to the next.
        let name = device.name_at(upto);
        if within(device.added_seq) {
            found.push((device.added_seq, Happening::DeviceAdded { device: *id, name: name.to_owned() }));
        }
        if let Some(seq) = device.revoked_seq.filter(|seq| within(*seq)) {
            found.push((seq, Happening::DeviceRevoked { device: *id, name: name.to_owned() }));
        }
    }
    found.sort_by_key(|(seq, _)| *seq);
    what.extend(found.into_iter().map(|(_, happening)| happening));
}

fn membership(author: &AccountId, body: &Membership, before: &FolderState, accounts: &Accounts) -> Option<Happening> {
    let name =
        |account: &AccountId| accounts.log(account).map_or_else(|| account.to_string(), |log| log.name().to_owned());
    Some(match &body.change {
        MembershipChange::Create => Happening::Created,
        MembershipChange::Add { account, role, expires_ms, grant, .. } => Happening::Added {
            account: *account,
            name: name(account),
            role: *role,
            expires_ms: *expires_ms,
            reads_from: match grant {
                Some(_) => 0,
                None => body.new_epoch.as_ref().map_or(0, |start| start.epoch),
            },
            since: false,
            invite: None,
        },
        MembershipChange::AddSince { account, role, first, .. } => Happening::Added {
            account: *account,
            name: name(account),
            role: *role,
            expires_ms: None,
            reads_from: *first,
            since: true,
            invite: None,
        },
        MembershipChange::Remove { account } if account == author => Happening::Left,
        MembershipChange::Remove { account } => Happening::Removed { account: *account, name: name(account) },
        MembershipChange::SetRole { account, role, expires_ms } => Happening::Role {
            account: *account,
            name: name(account),
            from: before.members().get(account).map_or(*role, |member| member.role),
            role: *role,
            expires_ms: *expires_ms,
        },
        // The epoch, or the devices, are the news.
        MembershipChange::Rotate | MembershipChange::AccountSync { .. } => return None,
        MembershipChange::Redeem { key, account, grant, .. } => {
            let invite = before.invites().get(key)?;
            Happening::Added {
                account: *account,
                name: name(account),
                role: invite.role,
                expires_ms: invite.expires_ms,
                reads_from: match grant {
                    Some(_) => 0,
                    None => body.new_epoch.as_ref().map_or(0, |start| start.epoch),
                },
                since: false,
                invite: Some(invite_name(key)),
            }
        }
        MembershipChange::Retention { rule } => Happening::Retention { rule: *rule },
        MembershipChange::Invite { key, role, ends_ms, expires_ms } => {
            Happening::Invited { invite: invite_name(key), role: *role, ends_ms: *ends_ms, expires_ms: *expires_ms }
        }
        MembershipChange::CancelInvite { key } => Happening::InviteCancelled { invite: invite_name(key) },
    })
}

/// By how many characters of its key people call an invite.
const INVITE_CHARS: usize = 12;

/// How people call an invite.
pub(super) fn invite_name(key: &InviteKey) -> String {
    let mut name = key.to_string();
    name.truncate(INVITE_CHARS);
    name
}

/// Not what honest clients do who were overtaken by somebody else's change.
fn is_an_attempt(reason: Reason) -> bool {
    match reason {
        Reason::Role
        | Reason::DeviceRevoked
        | Reason::RecoveryPhrase
        | Reason::Invite
        | Reason::Expired
        | Reason::BadChange
        | Reason::Releases
        | Reason::BadBody
        | Reason::OldSuite => true,
        Reason::NotMember | Reason::AccountOutdated | Reason::StaleEpoch | Reason::NotOnHead | Reason::Thinned => false,
    }
}
