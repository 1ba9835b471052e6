//! Lists in answers. An answer is one line of bounded length ([`super::MOST_LINE_BYTES`]), so a list in it has an end,
//! and says whether it is that of what was asked for.

use serde::{Deserialize, Serialize};

/// What the lines of a list may take: three quarters of an answer, the rest is for what stands beside it.
const LISTED_BYTES: usize = 768 * 1024;

/// The first lines of a list: thousands, unless they are long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed<T> {
    /// The lines.
    pub lines: Vec<T>,
    /// There are more than these.
    pub more: bool,
}

impl<T: Serialize> Listed<T> {
    /// The first `limit` of `all`, as far as they fit.
    pub fn of(all: impl IntoIterator<Item = T>, limit: usize) -> Self {
        let mut room = LISTED_BYTES;
        let mut listed = Self { lines: Vec::new(), more: false };
        for line in all {
            // What cannot be passed on is not listed.
            let bytes = serde_json::to_vec(&line).map_or(usize::MAX, |line| line.len() + 1);
            if listed.lines.len() == limit || bytes > room {
                listed.more = true;
                break;
            }
            room -= bytes;
            listed.lines.push(line);
        }
        listed
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_at_its_limit_or_where_the_answer_is_full_and_says_so() {
        let all = Listed::of(0..5, 5);
        assert_eq!((all.lines.as_slice(), all.more), (&[0, 1, 2, 3, 4][..], false));
        let some = Listed::of(0..5, 4);
        assert_eq!((some.lines.len(), some.more), (4, true));
        // Bytes that are no text take four times their length.
        let long = Listed::of((0..10_000).map(|_| vec![255_u8; 1000]), usize::MAX);
        assert!(long.more && !long.lines.is_empty());
        assert!(serde_json::to_vec(&long).unwrap().len() as u64 <= super::super::MOST_LINE_BYTES);
        // One that is longer than any answer.
        let none = Listed::of([vec![255_u8; 1 << 20]], 5);
        assert!(none.more && none.lines.is_empty());
    }
}
