//! Trust, evidence and access as text for people.
//!
//! Must not decide anything; it shows what the answer says.

use std::fmt::Write as _;

use super::control::{AccessInfo, ComparisonInfo, ContactInfo, EvidenceInfo, ReaderInfo};
use super::output::{clock_time, harmless, table};

/// Words in a line: four are kept in mind while they are compared.
const WORDS_IN_A_LINE: usize = 4;

/// Whom the user knows, as a table.
pub fn contacts(contacts: &[ContactInfo]) -> String {
    if contacts.is_empty() {
        return "you have met nobody yet; somebody new is named by the id that `kegfs account show` prints there\n"
            .to_owned();
    }
    let rows = contacts.iter().map(|one| {
        let since = clock_time(one.since_ms);
        let trust = match one.trust.as_str() {
            "pinned" => format!("met {}", clock_time(one.met_ms)),
            "doubted" => format!("IN DOUBT since {since}: {}", harmless(&one.why)),
            other => format!("{other} {since}"),
        };
        [harmless(&one.name), one.account.clone(), trust]
    });
    table(["NAME", "ACCOUNT", "TRUST"], rows)
}

/// The words to compare, and what to do with them.
pub fn comparison(comparison: &ComparisonInfo) -> String {
    let contact = &comparison.contact;
    let name = harmless(&contact.name);
    let mut text = format!(
        "compare with {name}, aloud or in person (there: kegfs verify YOUR-NAME):\n\n{}\n",
        spelt(&comparison.words)
    );
    match contact.trust.as_str() {
        "verified" if comparison.new_keys => {
            let _ = writeln!(
                text,
                "{name} was verified {} and has changed devices since, as one of their verified devices has signed",
                clock_time(contact.since_ms)
            );
        }
        "verified" => {
            let _ = writeln!(text, "{name} was verified {}", clock_time(contact.since_ms));
        }
        "doubted" => {
            let _ = writeln!(
                text,
                "{name} is IN DOUBT: {}; nothing is given to this account until you decide",
                harmless(&contact.why)
            );
        }
        "rejected" => {
            let _ = writeln!(text, "you have rejected this account {}", clock_time(contact.since_ms));
        }
        _ => {}
    }
    let which = if contact.trust == "doubted" { contact.account.as_str() } else { &name };
    let _ =
        writeln!(text, "the same words there: kegfs verify {which} --accept; others: kegfs verify {which} --reject");
    text
}

/// What was decided.
pub fn decided(contact: &ContactInfo) -> String {
    let name = harmless(&contact.name);
    match contact.trust.as_str() {
        "verified" => format!("{name} is verified\n"),
        _ => format!(
            "{name} ({}) is rejected: nothing is given to this account; where it is in a folder: kegfs member remove FOLDER {}\n",
            contact.account, contact.account
        ),
    }
}

/// A folder's words.
pub fn folder_words(folder: &str, seq: u64, words: &[String]) -> String {
    let folder = harmless(folder);
    format!(
        "{folder} at entry {seq}:\n\n{}\nwho is at the same entry sees the same words; at another entry: kegfs sync, and look again\n",
        spelt(words)
    )
}

fn spelt(words: &[String]) -> String {
    let lines = words.chunks(WORDS_IN_A_LINE).map(|line| format!("    {}\n", line.join("  ")));
    lines.collect()
}

/// What is kept of the server's misbehaviour.
pub fn evidence(found: &[EvidenceInfo]) -> String {
    if found.is_empty() {
        return "there is no evidence: the server was never caught in this folder\n".to_owned();
    }
    let mut text = String::new();
    for one in found {
        let _ = writeln!(text, "{}  {}", clock_time(one.seen_ms), harmless(&one.what));
        let _ = writeln!(text, "    verified here: entry {} ({})", one.seq, one.chain);
        let _ = writeln!(
            text,
            "    the server claimed {} entries and offered {} signed ones",
            one.offered_seq, one.offered
        );
        let path = one.exported.as_ref().unwrap_or(&one.path);
        let _ = writeln!(text, "    {}", path.display());
    }
    text
}

/// Who can read a file, and who could have.
pub fn access(access: &AccessInfo) -> String {
    let mut text = format!("{}/{}: ", harmless(&access.folder), harmless(&access.path));
    match &access.versions[..] {
        [] => text.push_str("no content yet\n"),
        versions => {
            let _ = writeln!(text, "{} version{}", versions.len(), if versions.len() == 1 { "" } else { "s" });
        }
    }
    for version in &access.versions {
        let _ = writeln!(
            text,
            "    entry {}, epoch {}: {} bytes, {}, {}",
            version.seq,
            version.epoch,
            version.size,
            harmless(&version.by),
            clock_time(version.at_ms)
        );
    }
    let total = access.versions.len();
    text.push_str("can read it:\n");
    for reader in &access.now {
        let _ = writeln!(text, "    {}", line(reader, total));
    }
    if !access.before.is_empty() {
        text.push_str("could read it, and may have kept it:\n");
        for reader in &access.before {
            let _ = writeln!(text, "    {}", line(reader, total));
        }
    }
    text.push_str("the server has ciphertext only; what somebody has read cannot be taken back\n");
    text
}

fn line(reader: &ReaderInfo, total: usize) -> String {
    let name = harmless(&reader.name);
    let who = match &reader.device {
        Some(device) => format!("{name}'s {} (revoked", harmless(device)),
        None => format!("{name} ({}", reader.role),
    };
    let end = match (reader.end.as_str(), reader.end_ms) {
        ("no", _) | (_, None) => String::new(),
        ("revoked", Some(at)) => format!(" {}", clock_time(at)),
        (how, Some(at)) => format!(", {how} {}", clock_time(at)),
    };
    let devices = if reader.devices.is_empty() || reader.end != "no" {
        String::new()
    } else {
        format!(", on {}", reader.devices.iter().map(|device| harmless(device)).collect::<Vec<_>>().join(", "))
    };
    let what = match reader.versions.len() {
        0 => "no version".to_owned(),
        count if count == total => "every version".to_owned(),
        count => {
            let entries: Vec<String> = reader.versions.iter().map(u64::to_string).collect();
            format!("{count} of {total} versions (entry {})", entries.join(", "))
        }
    };
    format!("{who}{end}){devices}: {what}")
}
