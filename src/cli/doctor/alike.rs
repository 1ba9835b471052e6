//! Names that other systems take for one.
//!
//! Windows (NTFS): equal in upper case, character by character as the volume's table has it, nothing normalised. macOS
//! (APFS as it is installed): equal after canonical decomposition and full case folding.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use icu_casemap::CaseMapper;
use icu_normalizer::DecomposingNormalizer;

/// The form in which Windows compares a name. `None`: it has no such name.
pub(super) fn on_windows(name: &[u8]) -> Option<String> {
    let text = str::from_utf8(name).ok()?;
    if text.is_ascii() {
        return Some(text.to_ascii_uppercase());
    }
    let mapper = CaseMapper::new();
    Some(text.chars().map(|c| upper(&mapper, c)).collect())
}

/// The table of a volume maps one UTF-16 unit to one, and nothing that is not ASCII to ASCII: dotless i and long s stay.
fn upper(mapper: &icu_casemap::CaseMapperBorrowed<'_>, c: char) -> char {
    let upper = mapper.simple_uppercase(c);
    let one_unit = c.len_utf16() == 1 && upper.len_utf16() == 1;
    if one_unit && c.is_ascii() == upper.is_ascii() { upper } else { c }
}

/// The form in which macOS compares a name. `None`: it has no such name.
pub(super) fn on_macos(name: &[u8]) -> Option<String> {
    let text = str::from_utf8(name).ok()?;
    if text.is_ascii() {
        return Some(text.to_ascii_lowercase());
    }
    let nfd = DecomposingNormalizer::new_nfd();
    let folded = CaseMapper::new().fold_string(&nfd.normalize(text)).into_owned();
    Some(nfd.normalize(&folded).into_owned())
}

/// The names of one directory as numbers: 16 bytes for each, whatever they are. Two different names have the same
/// number once in 2^64; a clash is told only where the names are compared as well.
pub(super) struct Seen {
    hasher: RandomState,
    windows: Vec<u64>,
    macos: Vec<u64>,
    /// Names proposed meanwhile.
    proposed: HashSet<u64>,
}

/// What a name is on both systems.
pub(super) struct Forms {
    pub(super) windows: Option<(u64, String)>,
    pub(super) macos: Option<(u64, String)>,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), windows: Vec::new(), macos: Vec::new(), proposed: HashSet::new() }
    }

    pub(super) fn forms(&self, name: &[u8]) -> Forms {
        let numbered = |form: String| (self.hasher.hash_one(&form), form);
        Forms { windows: on_windows(name).map(numbered), macos: on_macos(name).map(numbered) }
    }

    pub(super) fn note(&mut self, name: &[u8]) {
        let forms = self.forms(name);
        self.windows.extend(forms.windows.map(|(number, _)| number));
        self.macos.extend(forms.macos.map(|(number, _)| number));
    }

    /// All names have been noted. Tells whether any two are alike.
    pub(super) fn complete(&mut self) -> bool {
        self.windows.sort_unstable();
        self.macos.sort_unstable();
        let twice = |numbers: &[u64]| numbers.windows(2).any(|pair| pair[0] == pair[1]);
        twice(&self.windows) || twice(&self.macos)
    }

    /// More than one name has this number on Windows.
    pub(super) fn twice_on_windows(&self, number: u64) -> bool {
        count(&self.windows, number) > 1
    }

    /// More than one name has this number on macOS.
    pub(super) fn twice_on_macos(&self, number: u64) -> bool {
        count(&self.macos, number) > 1
    }

    /// Whether no name is taken for this one anywhere; then it is taken.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let forms = self.forms(name.as_bytes());
        let numbers = [forms.windows.map(|(number, _)| number), forms.macos.map(|(number, _)| number)];
        let [Some(windows), Some(macos)] = numbers else { return false };
        let free = count(&self.windows, windows) == 0
            && count(&self.macos, macos) == 0
            && !self.proposed.contains(&windows)
            && !self.proposed.contains(&macos);
        if free {
            self.proposed.extend([windows, macos]);
        }
        free
    }
}

fn count(sorted: &[u64], number: u64) -> usize {
    let from = sorted.partition_point(|other| *other < number);
    sorted[from..].iter().take_while(|other| **other == number).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alike(one: &str, other: &str) -> (bool, bool) {
        let both = |form: fn(&[u8]) -> Option<String>| form(one.as_bytes()) == form(other.as_bytes());
        (both(on_windows), both(on_macos))
    }

    #[test]
    fn case_counts_on_neither_and_normal_forms_on_one() {
        assert_eq!(alike("Readme.md", "README.MD"), (true, true));
        assert_eq!(alike("Äpfel", "äPFEL"), (true, true));
        assert_eq!(alike("ΣΊΣΥΦΟΣ", "σίσυφος"), (true, true));
        // Composed and decomposed.
        assert_eq!(alike("caf\u{e9}", "cafe\u{301}"), (false, true));
        assert_eq!(alike("CAF\u{c9}", "cafe\u{301}"), (false, true));
        assert_eq!(alike("\u{212b}", "\u{e5}"), (false, true));
    }

    #[test]
    fn full_folding_is_one_systems_and_the_table_of_the_other_keeps_single_units() {
        assert_eq!(alike("straße", "STRASSE"), (false, true));
        assert_eq!(alike("ﬁle", "FILE"), (false, true));
        assert_eq!(alike("\u{131}", "I"), (false, false));
        assert_eq!(alike("\u{17f}", "S"), (false, true));
        // Outside of the first plane.
        assert_eq!(alike("\u{10400}", "\u{10428}"), (false, true));
        assert_eq!(alike("a", "b"), (false, false));
        assert_eq!(on_macos(b"\xff"), None);
    }

    #[test]
    fn a_proposed_name_is_taken_from_then_on() {
        let mut seen = Seen::new();
        seen.note(b"Plan.txt");
        assert!(!seen.complete());
        assert!(!seen.take("plan.TXT"));
        assert!(seen.take("plan (2).txt"));
        assert!(!seen.take("Plan (2).txt"));
    }
}
