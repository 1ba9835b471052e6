//! Names and ids for what loses a conflict.

use crate::format::limits::NAME_MAX_BYTES;
use crate::format::{DeviceId, KegId};

/// `name (conflict, alice's laptop, 2026-11-23 15.04).ext`: the name under which the later of two writers finds the
/// own version. Time is the operation's, in UTC, so that every replica computes the same name. Extensions stay whole,
/// `.tar.*` included. From `attempt` 2 on, the number is added. Never longer than [`NAME_MAX_BYTES`]: the stem is cut.
pub fn conflict_name(name: &[u8], label: &str, at_ns: i64, attempt: u32) -> Vec<u8> {
    let (stem, extension) = split_extension(name);
    let number = if attempt > 1 { format!(" {attempt}") } else { String::new() };
    let mark = format!(" (conflict, {label}, {}{number})", minute(at_ns));
    let room = NAME_MAX_BYTES.saturating_sub(mark.len() + extension.len());
    let mut new = cut(stem, room).to_vec();
    new.extend_from_slice(mark.as_bytes());
    new.extend_from_slice(extension);
    new.truncate(NAME_MAX_BYTES);
    new
}

/// The id of a conflict sibling. A function of the file and the operation alone, not of its place in the log: the author
/// may go on working with the sibling before the log has decided where it comes. Not secret and not random; a member
/// could create that very id beforehand, so the caller asks again with another `attempt` while it is taken.
pub fn sibling_id(keg: &KegId, device: &DeviceId, at_ns: i64, attempt: u32) -> KegId {
    let mut bytes = *keg.as_bytes();
    let when = (u128::from(at_ns.cast_unsigned()) << 64) | u128::from(attempt);
    // Odd multiplier: a bijection on 128 bits, so different times and attempts give different masks.
    let mask = when.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes();
    let author = device.as_bytes();
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[index] ^ author[index];
    }
    KegId(bytes)
}

/// Splits before the extension: the last dot that is not the first byte, taken together with a `.tar` before it.
/// What follows a dot and is longer than 16 bytes is no extension.
pub fn split_extension(name: &[u8]) -> (&[u8], &[u8]) {
    let Some(dot) = name.iter().rposition(|&byte| byte == b'.') else { return (name, b"") };
    if dot == 0 || name.len() - dot > 17 {
        return (name, b"");
    }
    let stem = &name[..dot];
    let dot = if stem.len() > 4 && stem.ends_with(b".tar") { dot - 4 } else { dot };
    name.split_at(dot)
}

/// At most `room` bytes of `stem`, not splitting a UTF-8 character where it is UTF-8.
fn cut(stem: &[u8], room: usize) -> &[u8] {
    if stem.len() <= room {
        return stem;
    }
    match std::str::from_utf8(stem) {
        Ok(text) => &stem[..text.floor_char_boundary(room)],
        Err(_) => &stem[..room],
    }
}

/// `2026-11-23 15.04` in UTC. A time that no calendar knows counts as 1970.
fn minute(at_ns: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(at_ns)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H.%M").to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const AT: i64 = 1_795_446_240_000_000_000; // 2026-11-23 15:04 UTC

    fn name(name: &str, attempt: u32) -> String {
        String::from_utf8(conflict_name(name.as_bytes(), "alice's laptop", AT, attempt)).unwrap()
    }

    #[test]
    fn extensions_stay_whole() {
        assert_eq!(name("plan.odt", 1), "plan (conflict, alice's laptop, 2026-11-23 15.04).odt");
        assert_eq!(name("src.tar.gz", 1), "src (conflict, alice's laptop, 2026-11-23 15.04).tar.gz");
        assert_eq!(name(".bashrc", 1), ".bashrc (conflict, alice's laptop, 2026-11-23 15.04)");
        assert_eq!(name("Makefile", 2), "Makefile (conflict, alice's laptop, 2026-11-23 15.04 2)");
        assert_eq!(
            name("v1. a sentence, not an extension", 1),
            "v1. a sentence, not an extension (conflict, alice's laptop, 2026-11-23 15.04)"
        );
    }

    #[test]
    fn long_names_are_cut_at_a_character_and_keep_mark_and_extension() {
        let long = format!("{}.txt", "ä".repeat(125));
        let new = conflict_name(long.as_bytes(), "alice's laptop", AT, 1);
        assert!(new.len() <= NAME_MAX_BYTES);
        let text = String::from_utf8(new).unwrap();
        assert!(text.ends_with("ä (conflict, alice's laptop, 2026-11-23 15.04).txt"), "{text}");
        let bytes = [vec![0xff; 251], b".txt".to_vec()].concat();
        assert_eq!(conflict_name(&bytes, "alice's laptop", AT, 1).len(), NAME_MAX_BYTES);
    }

    #[test]
    fn sibling_ids_differ_by_author_time_and_attempt() {
        let (keg, alice, bob) = (KegId([7; 16]), DeviceId([1; 32]), DeviceId([2; 32]));
        let ids = [(alice, 1, 1), (bob, 1, 1), (alice, 2, 1), (alice, 1, 2)]
            .map(|(device, at_ns, attempt)| sibling_id(&keg, &device, at_ns, attempt));
        for (i, a) in ids.iter().enumerate() {
            assert!(ids[..i].iter().all(|b| a != b));
            assert_ne!(*a, keg);
        }
    }
}
