//! Trust, evidence and what happened, in the words of the command line.

use std::fmt::Write as _;

use super::super::control::{AccessInfo, ActivityInfo, ComparisonInfo, ContactInfo, ReaderInfo, Response, VersionInfo};
use super::super::failure::{Code, Failure};
use super::super::{activity, compare};
use super::{REFRESH, Unlocked, role_name};
use crate::format::{AccountId, Contact, Envelope, SignedAccountEntry, SignedEntry, Trust, encode};
use crate::sync::{End, Evidence, Kept, Reader, Seen, SyncError};

impl Unlocked {
    /// Lines of a folder's log above number `after`, up to date where the server can be reached; with `seen`, its
    /// warnings are then marked as seen.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn activity(&self, folder: &str, after: u64, seen: bool) -> Result<Vec<ActivityInfo>, Failure> {
        let folder = self.folder(folder)?;
        if after == 0 && !folder.online() {
            // What cannot be fetched is not told; what is here is.
            let _ = folder.catch_up_blocking(REFRESH);
        }
        let lines = folder.activity(after, usize::MAX).map_err(|error| self.told(error))?;
        if let (Some((last, _)), true) = (lines.last(), seen) {
            folder.see_warnings(*last).map_err(|error| self.told(error))?;
        }
        Ok(lines.iter().map(|(number, line)| activity::info(*number, line)).collect())
    }

    /// Whom the user knows.
    ///
    /// # Errors
    /// Those of the local database.
    pub fn contacts(&self) -> Result<Vec<ContactInfo>, Failure> {
        self.refresh_if_reachable()?;
        let contacts = self.session.contacts().map_err(|error| self.told(error))?;
        Ok(contacts.iter().map(contact_info).collect())
    }

    /// The words to compare with one of them.
    ///
    /// # Errors
    /// Nobody of that name, several; the server.
    pub fn compare(&self, contact: &str) -> Result<ComparisonInfo, Failure> {
        self.known(contact)?;
        let comparison = self.session.compare(contact).map_err(|error| self.told(error))?;
        Ok(ComparisonInfo {
            contact: contact_info(&comparison.contact),
            words: comparison.words.iter().map(|word| (*word).to_owned()).collect(),
            new_keys: comparison.new_keys,
        })
    }

    /// Somebody whom the user knows; members of folders that others have made become known by looking.
    ///
    /// # Errors
    /// Nobody of that name, several; the server.
    pub fn known(&self, contact: &str) -> Result<AccountId, Failure> {
        let found = match self.session.contact(contact) {
            Err(SyncError::NoSuchContact(_)) => {
                self.refresh_if_reachable()?;
                self.session.contact(contact)
            }
            other => other,
        };
        found.map(|contact| contact.account).map_err(|error| self.told(error))
    }

    /// The words are the same on the other side, or are not.
    ///
    /// # Errors
    /// Nobody of that name, several, or the words were not shown.
    pub fn decide(&self, contact: &str, same: bool) -> Result<ContactInfo, Failure> {
        self.session.decide(contact, same).map(|contact| contact_info(&contact)).map_err(|error| self.told(error))
    }

    /// The words for a folder's newest position, up to date where the server can be reached.
    ///
    /// # Errors
    /// No such folder.
    pub fn folder_words(&self, folder: &str) -> Result<Response, Failure> {
        let folder = self.folder(folder)?;
        // A frozen folder has words, too: they are what to compare then.
        let _ = folder.catch_up_blocking(REFRESH);
        let words = folder.words();
        let spelt = words.words.iter().map(|word| (*word).to_owned()).collect();
        Ok(Response::FolderWords { folder: folder.name(), seq: words.seq, words: spelt })
    }

    /// Compares a folder with what another member has seen of it.
    ///
    /// # Errors
    /// [`Code::Refused`] where the server shows this device less, or something else; no such folder; what cannot be read.
    pub fn compare_folder(&self, folder: &str, seen: &str) -> Result<Response, Failure> {
        let folder = self.folder(folder)?;
        let number: String = seen.trim_start().chars().take_while(char::is_ascii_digit).collect();
        let words = compare::plain(seen);
        let (Ok(seq), 12) = (number.parse::<u64>(), words.split(' ').count()) else {
            let message = "give the number of the entry and the twelve words that the other member sees, in quotes";
            return Err(Failure::new(Code::Usage, message));
        };
        let _ = folder.catch_up_blocking(REFRESH);
        let name = folder.name();
        match folder.compare_with(seq, &words).map_err(|error| self.told(error))? {
            Seen::Same => {
                let words = words.split(' ').map(str::to_owned).collect();
                Ok(Response::FolderWords { folder: name, seq, words })
            }
            Seen::Other => Err(Failure::new(
                Code::Refused,
                format!(
                    "the words for entry {seq} of {name} are others here: if none was misread, the server shows members different folders; write nothing into it, keep this profile, and compare with a third member"
                ),
            )),
            Seen::HeldBack { here } => Err(Failure::new(
                Code::Refused,
                format!(
                    "the other member has entry {seq} of {name}, and the server gives this device {here}: it holds back the rest. Until it comes, the folder counts as out of date (kegfs status); ask whoever runs the server"
                ),
            )),
        }
    }

    /// What is kept of the server's misbehaviour.
    ///
    /// # Errors
    /// No such folder; those of the files.
    pub fn evidence(&self, folder: &str) -> Result<Vec<Kept>, Failure> {
        self.folder(folder)?.evidence().map_err(|error| self.told(error))
    }

    /// The account logs that a proof needs.
    pub fn accounts_of(&self, evidence: &Evidence) -> Vec<(AccountId, Vec<SignedAccountEntry>)> {
        let mut authors: Vec<AccountId> = signed(evidence)
            .filter_map(|entry| Envelope::decode(&entry.envelope).ok())
            .map(|envelope| envelope.author)
            .collect();
        authors.sort_unstable();
        authors.dedup();
        let known = authors.into_iter().map(|account| (account, self.session.account_entries(&account)));
        known.filter_map(|(account, entries)| Some((account, entries.ok()?))).collect()
    }

    /// Has a frozen folder go on; with `anew`, with the server's log from its beginning.
    ///
    /// # Errors
    /// No such folder, not frozen; those of the files.
    pub fn thaw(&self, folder: &str, anew: bool) -> Result<String, Failure> {
        let folder = self.folder(folder)?;
        let name = folder.name();
        if anew { self.session.begin_anew(&folder) } else { folder.thaw() }.map_err(|error| self.told(error))?;
        Ok(name)
    }

    /// Who can read a file, and who could have.
    ///
    /// # Errors
    /// No such folder or file.
    pub fn access(&self, folder: &str, path: &str) -> Result<AccessInfo, Failure> {
        let folder = self.folder(folder)?;
        let names: Vec<Vec<u8>> = path
            .split('/')
            .filter(|name| !name.is_empty() && *name != ".")
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let access = folder.access(&names).map_err(|error| self.told(error))?;
        let version = |version: &crate::sync::Version| VersionInfo {
            seq: version.seq,
            epoch: version.epoch,
            at_ms: version.at_ms,
            by: version.by.clone(),
            size: version.size,
        };
        Ok(AccessInfo {
            folder: folder.name(),
            path: names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>().join("/"),
            versions: access.versions.iter().map(version).collect(),
            now: access.now.iter().map(reader_info).collect(),
            before: access.before.iter().map(reader_info).collect(),
        })
    }
}

fn contact_info(contact: &Contact) -> ContactInfo {
    let trust = match contact.trust {
        Trust::Pinned => "pinned",
        Trust::Verified => "verified",
        Trust::Doubted => "doubted",
        Trust::Rejected => "rejected",
    };
    ContactInfo {
        account: contact.account.to_string(),
        name: contact.name.clone(),
        trust: trust.to_owned(),
        since_ms: contact.since_ms,
        met_ms: contact.pinned_ms,
        why: contact.why.clone(),
    }
}

fn reader_info(reader: &Reader) -> ReaderInfo {
    let end = match reader.end {
        End::No => "no",
        End::Removed => "removed",
        End::Left => "left",
        End::Revoked => "revoked",
    };
    ReaderInfo {
        account: reader.account.to_string(),
        name: reader.name.clone(),
        device: reader.device.clone(),
        role: role_name(reader.role).to_owned(),
        since_ms: reader.since_ms,
        end: end.to_owned(),
        end_ms: reader.end_ms,
        devices: reader.devices.clone(),
        versions: reader.versions.clone(),
    }
}

fn signed(evidence: &Evidence) -> impl Iterator<Item = &SignedEntry> {
    evidence.own.iter().chain(&evidence.offered)
}

/// The proof with all that is needed to check it: signed bytes, what they say, and the account logs of their authors.
pub fn evidence_json(evidence: &Evidence, accounts: &[(AccountId, Vec<SignedAccountEntry>)]) -> String {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let entry = |entry: &SignedEntry| {
        let said = Envelope::decode(&entry.envelope).ok().map(|envelope| {
            serde_json::json!({
                "author": envelope.author.to_string(),
                "device": envelope.device.to_string(),
                "counter": envelope.counter,
                "observed_seq": envelope.observed.seq,
                "observed_chain": envelope.observed.chain.to_string(),
                "created_ms": envelope.created_ms,
            })
        });
        serde_json::json!({ "envelope": hex(&entry.envelope), "signature": hex(&entry.signature), "says": said })
    };
    let accounts: serde_json::Map<_, _> = accounts
        .iter()
        .map(|(account, log)| {
            (account.to_string(), log.iter().map(|entry| hex(&encode(entry))).collect::<Vec<_>>().into())
        })
        .collect();
    let value = serde_json::json!({
        "what": evidence.what,
        "folder": evidence.db.to_string(),
        "seen_ms": evidence.seen_ms,
        "verified": {
            "seq": evidence.head.seq,
            "chain": evidence.head.chain.to_string(),
            "newest_signed_entry": evidence.own.as_ref().map(entry),
        },
        "offered": {
            "seq": evidence.offered_seq,
            "entries": evidence.offered.iter().map(entry).collect::<Vec<_>>(),
        },
        "account_logs": accounts,
    });
    format!("{value:#}\n")
}
