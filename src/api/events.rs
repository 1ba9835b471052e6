//! The text of server-sent events.

use std::fmt;
use std::str::FromStr;

use crate::format::{DbId, FormatError};

/// Name of the first event of every stream; its data is empty. After it no head is missed.
pub const EVENT_READY: &str = "ready";

/// Name of the event that carries a [`HeadEvent`].
pub const EVENT_HEAD: &str = "head";

/// A folder of the caller has grown, or the caller has become a member of it. Heads may be skipped: only the newest
/// one matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadEvent {
    /// The folder.
    pub db: DbId,
    /// Sequence number of its newest entry.
    pub seq: u64,
}

impl fmt::Display for HeadEvent {
    /// The event's data: id and decimal number with one space between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.db, self.seq)
    }
}

impl FromStr for HeadEvent {
    type Err = FormatError;

    fn from_str(data: &str) -> Result<Self, FormatError> {
        let bad = || FormatError::Malformed("head event".to_owned());
        let (db, seq) = data.split_once(' ').ok_or_else(bad)?;
        Ok(Self { db: db.parse()?, seq: seq.parse().map_err(|_| bad())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_events_come_back_from_their_text_and_others_are_refused() {
        let event = HeadEvent { db: DbId([0xfe; 32]), seq: u64::MAX };
        assert_eq!(event.to_string().parse::<HeadEvent>().unwrap(), event);
        let id = event.db.to_string();
        for bad in [String::new(), id.clone(), format!("{id} "), format!("{id} -1"), format!("{id} 1 2"), "x 1".into()]
        {
            assert!(bad.parse::<HeadEvent>().is_err(), "{bad}");
        }
    }
}
