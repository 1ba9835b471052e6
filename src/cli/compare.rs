//! Asking whether another device shows the same words.
//!
//! On a terminal a person looks and says yes. A program that answers in a person's place has to name the words that the
//! other device shows: there is no way to say yes to words that nobody has seen.

use std::io::{IsTerminal, stdin};

use super::failure::{Code, Failure};
use super::passphrase;

/// Words as they are compared: in lower case, with single blanks.
pub fn plain(words: &str) -> String {
    let typed = words.to_lowercase();
    let words: Vec<&str> = typed.split(|c: char| !c.is_ascii_lowercase()).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// Whether the user has seen `words` on the other device.
///
/// # Errors
/// Where there is nobody to ask.
pub fn ask(question: &str, words: &str) -> Result<bool, Failure> {
    let how = if stdin().is_terminal() { "[y/N] " } else { "The words that it shows: " };
    let line = passphrase::ask_line(&format!("{question} {how}"))?;
    Ok(says_yes(&line, stdin().is_terminal(), words))
}

fn says_yes(line: &str, is_person: bool, words: &str) -> bool {
    let said = plain(line);
    said == words || is_person && matches!(said.as_str(), "y" | "yes")
}

/// That the words differ.
pub fn differ() -> Failure {
    let message = "the devices show different words, or nobody has said that they are the same: nothing was changed. If they did differ, somebody stands between the devices: begin again with a new code, and tell whoever runs the server";
    Failure::new(Code::Refused, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_names_the_words_and_a_person_may_say_yes() {
        for line in ["tiny parrot glide\n", "Tiny-Parrot-Glide", "  tiny, parrot,glide "] {
            assert!(says_yes(line, false, "tiny parrot glide") && says_yes(line, true, "tiny parrot glide"));
        }
        for line in ["", "n", "no", "tiny parrot", "tiny parrot glider", "parrot tiny glide"] {
            assert!(
                !says_yes(line, false, "tiny parrot glide") && !says_yes(line, true, "tiny parrot glide"),
                "{line}"
            );
        }
        assert!(says_yes(" Yes\n", true, "tiny parrot glide") && !says_yes("yes", false, "tiny parrot glide"));
    }
}
