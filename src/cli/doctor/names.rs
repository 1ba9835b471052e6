//! One name by itself, and how it could be called instead.
//!
//! Sources: Microsoft, "Naming Files, Paths, and Namespaces" and "Maximum Path Length Limitation"; for macOS the limits of
//! `<sys/syslimits.h>` and APFS, which takes UTF-8 only. A name has at most 255 bytes here and so never more than 255
//! UTF-16 units, which is what NTFS allows: only paths can be too long.

use super::super::control::{NameProblem, Trouble};
use crate::format::limits::NAME_MAX_BYTES;
use crate::keg::split_extension;

pub(super) const WINDOWS: &str = "Windows";
pub(super) const MACOS: &str = "macOS";
const LINUX: &str = "Linux";

/// Characters that Win32 refuses, besides those below U+0020.
const REFUSED: &str = "<>:\"|?*\\";
/// UTF-16 units of a path that Win32 takes without `\\?\`: `MAX_PATH` is 260 with the drive's three and the final NUL.
const WINDOWS_PATH_UNITS: usize = 260 - 3 - 1;
/// Bytes of a path: `PATH_MAX` with the slash before it and the final NUL.
const MACOS_PATH_BYTES: usize = 1024 - 2;
/// As on macOS.
const LINUX_PATH_BYTES: usize = 4096 - 2;

/// Length of a path in both measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Length {
    bytes: usize,
    units: usize,
}

impl Length {
    /// The length with one name more.
    pub(super) fn with(self, name: &[u8]) -> Self {
        let slash = usize::from(self.bytes > 0);
        let units = String::from_utf8_lossy(name).encode_utf16().count();
        Self { bytes: self.bytes + slash + name.len(), units: self.units + slash + units }
    }
}

/// What is wrong with a name wherever it is.
pub(super) fn problems(name: &[u8]) -> Vec<NameProblem> {
    let problem =
        |trouble, systems: &[&str], what: String| NameProblem { trouble, systems: owned(systems), what, with: None };
    let Ok(text) = str::from_utf8(name) else {
        return vec![problem(Trouble::Encoding, &[WINDOWS, MACOS], "the name is not UTF-8".to_owned())];
    };
    let mut found = Vec::new();
    if let Some(refused) = text.chars().find(|c| is_refused(*c)) {
        let what = match refused.is_control() {
            true => format!("a name has no control character ({:#04x})", refused as u32),
            false => format!("a name has no {refused}"),
        };
        found.push(problem(Trouble::Character, &[WINDOWS], what));
    }
    if let Some(device) = reserved(text) {
        found.push(problem(Trouble::Reserved, &[WINDOWS], format!("{device} is a device, whatever follows it")));
    }
    if text.ends_with(['.', ' ']) {
        found.push(problem(Trouble::Ending, &[WINDOWS], "dots and spaces at the end of a name are cut off".to_owned()));
    }
    found
}

/// The path became too long with this name: `before` is the directory's, `after` with the name.
pub(super) fn too_long(before: Length, after: Length) -> Vec<NameProblem> {
    let limits = [
        (WINDOWS, before.units, after.units, WINDOWS_PATH_UNITS, "characters"),
        (MACOS, before.bytes, after.bytes, MACOS_PATH_BYTES, "bytes"),
        (LINUX, before.bytes, after.bytes, LINUX_PATH_BYTES, "bytes"),
    ];
    // What lies below a directory that is too deep already is told with the directory.
    let crossed = limits.into_iter().filter(|(_, before, after, limit, _)| before <= limit && after > limit);
    let problem = |(system, _, after, limit, unit): (&str, usize, usize, usize, &str)| NameProblem {
        trouble: Trouble::PathLength,
        systems: owned(&[system]),
        what: format!("the path in the folder has {after} {unit}, and many programs open {limit} at most"),
        with: None,
    };
    crossed.map(problem).collect()
}

/// A name without what [`problems`] finds; the same name where it finds nothing.
pub(super) fn mended(name: &[u8]) -> String {
    let text = match str::from_utf8(name) {
        Ok(text) => text.to_owned(),
        Err(_) => latin(name),
    };
    let mut new: String = text.chars().map(|c| if is_refused(c) { '_' } else { c }).collect();
    // What is cut to its length may end in what is cut off, and be a device's name then.
    trim(&mut new);
    new = fitting(&new, "");
    trim(&mut new);
    if new.is_empty() {
        new.push('_');
    }
    if let Some(device) = reserved(&new) {
        new.insert(device.len(), '_');
        new = fitting(&new, "");
        trim(&mut new);
    }
    new
}

fn trim(name: &mut String) {
    name.truncate(name.trim_end_matches(['.', ' ']).len());
}

/// The same with a number: `name (2).txt`.
pub(super) fn numbered(name: &str, number: u32) -> String {
    fitting(name, &format!(" ({number})"))
}

/// Puts `mark` before the extension, and cuts what comes before it to what a name may have.
fn fitting(name: &str, mark: &str) -> String {
    let (stem, extension) = split_extension(name.as_bytes());
    // The cut is before a dot, so both parts are text.
    let (stem, extension) = (String::from_utf8_lossy(stem), String::from_utf8_lossy(extension));
    let room = NAME_MAX_BYTES.saturating_sub(mark.len() + extension.len());
    format!("{}{mark}{extension}", &stem[..stem.floor_char_boundary(room)])
}

/// What is UTF-8 stays, other bytes are read as ISO 8859-1, which most such names were written in.
fn latin(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| if *byte < 0xa0 { '_' } else { char::from(*byte) }));
    }
    text
}

fn is_refused(c: char) -> bool {
    c < ' ' || REFUSED.contains(c)
}

/// The part of a name that Windows takes for a device: up to the first dot, without spaces at its end.
fn reserved(name: &str) -> Option<&str> {
    let base = name.split('.').next().unwrap_or_default().trim_end_matches(' ');
    let upper = base.to_ascii_uppercase();
    let is_device = match upper.as_str() {
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" => true,
        other => {
            let port = other.strip_prefix("COM").or_else(|| other.strip_prefix("LPT"));
            // The superscripts are digits in the code page that the rule was made for.
            port.is_some_and(|port| {
                matches!(port.chars().next(), Some('1'..='9' | '¹' | '²' | '³')) && port.chars().count() == 1
            })
        }
    };
    is_device.then_some(base)
}

fn owned(systems: &[&str]) -> Vec<String> {
    systems.iter().map(|system| (*system).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(name: &str) -> Vec<Trouble> {
        problems(name.as_bytes()).into_iter().map(|problem| problem.trouble).collect()
    }

    #[test]
    fn names_of_devices_are_found_in_every_spelling_and_others_are_not() {
        let devices =
            ["CON", "con", "Nul.txt", "aux.tar.gz", "COM1", "lpt9.log", "COM¹", "prn .txt", "CONIN$", "Conout$"];
        for name in devices {
            assert!(found(name).contains(&Trouble::Reserved), "{name}");
        }
        for name in ["CONSOLE", "COM", "COM10", "COM0", "LPT", "nul-", "my con", ".con", "com1x.txt", "LPTx", "conin"] {
            assert_eq!(found(name), [], "{name}");
        }
    }

    #[test]
    fn each_refused_character_and_ending_is_found() {
        for c in REFUSED.chars().chain(['\u{1}', '\t', '\u{1f}']) {
            assert_eq!(found(&format!("a{c}b")), [Trouble::Character], "{c:?}");
        }
        for name in ["a.", "a ", "...", "a. ", " "] {
            assert_eq!(found(name), [Trouble::Ending], "{name:?}");
        }
        for name in ["a b", ".hidden", "a.b.c", "Ünïcödé ☃", "-", "~", "#1 (2) [3] {4} %5 &6"] {
            assert_eq!(found(name), [], "{name:?}");
        }
        assert_eq!(found("con?. "), [Trouble::Character, Trouble::Ending]);
        assert_eq!(problems(b"B\xfccher").first().map(|one| one.trouble), Some(Trouble::Encoding));
    }

    #[test]
    fn a_mended_name_keeps_what_it_can() {
        for (name, mended_name) in [
            ("a:b?.txt", "a_b_.txt"),
            ("con.txt", "con_.txt"),
            ("report. .", "report"),
            ("...", "_"),
            ("aux.", "aux_"),
            ("plain.txt", "plain.txt"),
        ] {
            assert_eq!(mended(name.as_bytes()), mended_name, "{name}");
        }
        assert_eq!(mended(b"B\xfccher\x85.txt"), "Bücher_.txt");
        assert_eq!(numbered("src.tar.gz", 2), "src (2).tar.gz");
        assert_eq!(numbered(&"ä".repeat(127), 2).len(), 254);
    }

    #[test]
    fn a_path_is_told_where_it_becomes_too_long_and_not_below() {
        let deep = Length { bytes: 250, units: 250 };
        assert_eq!(too_long(deep, deep.with(b"12345")), []);
        let over = deep.with(b"123456");
        assert_eq!(too_long(deep, over)[0].systems, [WINDOWS]);
        assert_eq!(too_long(over, over.with(b"below")), []);
        let wide = Length { bytes: 1_000, units: 100 };
        assert_eq!(too_long(wide, wide.with("ä".repeat(30).as_bytes()))[0].systems, [MACOS]);
        let all = Length::default();
        assert_eq!(too_long(all, Length { bytes: 5_000, units: 5_000 }).len(), 3);
    }

    #[test]
    fn what_is_cut_to_its_length_is_mended_once_more() {
        let long = [vec![0xa0; 127], b" x".to_vec()].concat();
        assert_eq!(mended(&long), "\u{a0}".repeat(127));
        let device = [b"CON".to_vec(), vec![b' '; 251], vec![0xa0]].concat();
        assert_eq!(mended(&device), "CON_");
    }

    proptest! {
        #[test]
        fn a_mended_name_has_no_problem_and_is_a_name(name in proptest::collection::vec(1_u8.., 1..=255)) {
            let name: Vec<u8> = name.into_iter().map(|byte| if byte == b'/' { b'|' } else { byte }).collect();
            let new = mended(&name);
            prop_assert_eq!(problems(new.as_bytes()), []);
            prop_assert!(crate::format::check_name(new.as_bytes()).is_ok());
            if problems(&name).is_empty() {
                prop_assert_eq!(new.as_bytes(), &name[..]);
            }
            prop_assert!(crate::format::check_name(numbered(&new, 17).as_bytes()).is_ok());
            // Why components are not measured in UTF-16 units.
            prop_assert!(new.encode_utf16().count() <= new.len());
        }
    }
}
