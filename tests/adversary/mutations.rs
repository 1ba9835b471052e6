//! Row 37 again: real objects, mutated at random, before every decoder. What `scripts/fuzz` does for hours, for a moment.

#[path = "../../fuzz/decoders.rs"]
mod decoders;

use std::panic::{AssertUnwindSafe, catch_unwind};

use kegfs::api::{AccountEntries, AppendEntry, Entries, MemberBox};
use kegfs::format::{Envelope, encode};

use crate::cast::Team;
use crate::cheat::{Shadow, account_log, wait};
use crate::liar::account_head;
use crate::sync_support::write;

/// A deterministic source of choices: a failure can be run again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    /// One to four changes of the kinds that break parsers.
    fn mutate(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        const NASTY: [u8; 16] =
            [0x00, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x40, 0x5b, 0x5f, 0x7b, 0x80, 0x9b, 0x9f, 0xbb, 0xf6, 0xff];
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(8) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = NASTY[self.below(NASTY.len())],
                2 => bytes.truncate(at),
                3 => bytes.insert(at.min(bytes.len()), NASTY[self.below(NASTY.len())]),
                4 => bytes.extend_from_slice(&other[..self.below(other.len())]),
                5 if bytes.len() > 1 => drop(bytes.drain(at..(at + 1 + self.below(8)).min(bytes.len()))),
                6 => {
                    let from = self.below(other.len());
                    let piece = &other[from..(from + 1 + self.below(64)).min(other.len())];
                    bytes.splice(at.min(bytes.len())..at.min(bytes.len()), piece.iter().copied());
                }
                _ if bytes.len() > 8 => bytes[at.saturating_sub(8)..at].fill(0xff),
                _ => {}
            }
        }
        bytes
    }
}

#[test]
fn row_37_mutations_of_real_objects_before_every_decoder() {
    let team = Team::new();
    team.alice.session().rotate(&team.alice.folder).unwrap();
    write(&team.alice.folder, "a.txt", b"some content");
    team.settle();
    let shadow = Shadow::of(&team.kegd, &team.bob, &team.bob.folder);
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for entry in &shadow.entries {
        let envelope = Envelope::decode(&entry.envelope).unwrap();
        if let Ok(batch) = kegfs::keyring::open_batch(&shadow.db, &envelope, &shadow.ring) {
            seeds.push(encode(&batch));
        }
        seeds.extend([entry.envelope.clone(), envelope.body, encode(entry)]);
    }
    let entries = account_log(&shadow.remote, team.alice.id);
    seeds.extend([entries[0].entry.clone(), encode(&entries[0])]);
    let head = account_head(&entries);
    seeds.push(encode(&AccountEntries { entries, head }));
    let answer: MemberBox = wait(shadow.remote.member_box(shadow.db, shadow.state.epochs()[1].seq)).unwrap();
    seeds.extend([encode(&answer), encode(&answer.key_box)]);
    let sent = AppendEntry { entry: shadow.entries[1].clone(), boxes: vec![answer.key_box] };
    seeds.extend([encode(&sent), encode(&Entries { entries: shadow.entries.clone(), head_seq: 9 })]);
    seeds.push(shadow.identity.to_bytes().to_vec());
    seeds.push(shadow.ring.to_bytes().to_vec());
    seeds.push(shadow.state.to_bytes());
    seeds.push(format!("{} 17", shadow.db).into_bytes());
    let mut dice = Dice(0x2026_1127_1925_0001);
    for round in 0..12_000 {
        let (one, other) = (dice.below(seeds.len()), dice.below(seeds.len()));
        let bytes = dice.mutate(&seeds[one], &seeds[other]);
        let done = catch_unwind(AssertUnwindSafe(|| decoders::decode_everything(&bytes)));
        assert!(done.is_ok(), "round {round}: {}", hex::encode(&bytes));
    }
    for seed in &seeds {
        decoders::decode_everything(seed);
    }
}
