//! Requests about what happened, whom to trust, and what to do about a server that was caught.

use std::path::Path;

use super::super::control::{EvidenceInfo, Response};
use super::super::failure::{Code, Failure};
use super::super::unlocked::trust;
use super::{Engine, absolute};

impl Engine {
    /// Lines of a folder's log above `after`; `seen` marks the warnings among all lines as seen.
    pub(super) fn activity(&self, folder: &str, after: u64, seen: bool) -> Result<Response, Failure> {
        self.unlocked.activity(folder, after, seen).map(Response::Activity)
    }

    /// Lists contacts, shows the words of one, or takes the decision about one.
    pub(super) fn verify(&self, contact: Option<&str>, same: Option<bool>) -> Result<Response, Failure> {
        match (contact, same) {
            (None, _) => self.unlocked.contacts().map(Response::Contacts),
            (Some(contact), None) => self.unlocked.compare(contact).map(Response::Compared),
            (Some(contact), Some(same)) => self.unlocked.decide(contact, same).map(Response::Decided),
        }
    }

    /// What is kept of the server's misbehaviour; written below `to` too, for others to check.
    pub(super) fn evidence(&self, folder: &str, to: Option<&Path>) -> Result<Response, Failure> {
        let kept = self.unlocked.evidence(folder)?;
        let mut found = Vec::new();
        for one in kept {
            let exported = match to {
                Some(dir) => {
                    let path = absolute(dir)?.join(format!("evidence-{}.json", one.evidence.seen_ms));
                    let text = trust::evidence_json(&one.evidence, &self.unlocked.accounts_of(&one.evidence));
                    let failed = |error: std::io::Error| {
                        Failure::new(Code::Failure, format!("{} cannot be written: {error}", path.display()))
                    };
                    std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, text)).map_err(failed)?;
                    Some(path)
                }
                None => None,
            };
            found.push(EvidenceInfo {
                path: one.path,
                seen_ms: one.evidence.seen_ms,
                what: one.evidence.what,
                seq: one.evidence.head.seq,
                chain: one.evidence.head.chain.to_string(),
                offered_seq: one.evidence.offered_seq,
                offered: one.evidence.offered.len() as u64,
                exported,
            });
        }
        Ok(Response::Evidence(found))
    }

    /// Has a frozen folder go on.
    pub(super) fn thaw(&self, folder: &str, anew: bool) -> Result<Response, Failure> {
        if anew {
            self.mounts.flush_all()?;
        }
        self.unlocked.thaw(folder, anew).map(Response::Thawed)
    }
}
