//! How long a folder's past is kept, and the entry that thins it out.
//!
//! A position of the log is a *moment*: the folder as it was after that entry. Thinning takes moments away; what only they
//! showed goes with them. Both are in the clear: the server sees positions and times anyway, and refuses what is not allowed.

use minicbor::{Decode, Encode};

use super::limits::THIN_MAX_KEPT;
use super::{FormatError, decode};

/// For how long which moments are kept: ages in seconds, each not below the one before. All of them until `keep_all_s`; then
/// the newest of each hour until `hourly_s`, of each day until `daily_s`, of each week until `weekly_s`; then none.
/// [`Self::FOREVER`] has no end; an age equal to the one before leaves that step out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RetentionRule {
    /// Every moment.
    #[n(0)]
    pub keep_all_s: u64,
    /// One of each hour.
    #[n(1)]
    pub hourly_s: u64,
    /// One of each day.
    #[n(2)]
    pub daily_s: u64,
    /// One of each week.
    #[n(3)]
    pub weekly_s: u64,
}

const DAY_S: u64 = 86_400;

impl Default for RetentionRule {
    /// Of folders whose owners have said nothing: what was changed by mistake is noticed within a month, and what a text
    /// was like in some week is asked for after years.
    fn default() -> Self {
        Self { keep_all_s: 30 * DAY_S, hourly_s: 30 * DAY_S, daily_s: 365 * DAY_S, weekly_s: Self::FOREVER }
    }
}

impl RetentionRule {
    /// No end.
    pub const FOREVER: u64 = u64::MAX;
    /// Nothing is ever taken away.
    pub const EVERYTHING: Self =
        Self { keep_all_s: Self::FOREVER, hourly_s: Self::FOREVER, daily_s: Self::FOREVER, weekly_s: Self::FOREVER };

    pub(super) fn check(&self) -> Result<(), FormatError> {
        if [self.keep_all_s, self.hourly_s, self.daily_s, self.weekly_s].is_sorted() {
            Ok(())
        } else {
            Err(FormatError::OutOfBounds("retention rule"))
        }
    }
}

/// The body of an entry of kind [`super::EntryKind::Thin`]. An entry of this kind may also release blobs; one that only
/// does has an empty range.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Thinning {
    /// The first position that it is about.
    #[n(0)]
    pub from: u64,
    /// The first position after those.
    #[n(1)]
    pub upto: u64,
    /// Which of them are kept, ascending, at most [`THIN_MAX_KEPT`].
    #[n(2)]
    pub keep: Vec<u64>,
}

impl Thinning {
    /// Decodes canonical bytes within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let body: Self = decode(bytes)?;
        let within = body.keep.iter().all(|seq| (body.from..body.upto).contains(seq));
        let ascending = body.keep.windows(2).all(|pair| pair[0] < pair[1]);
        if body.from <= body.upto && body.keep.len() <= THIN_MAX_KEPT && within && ascending {
            Ok(body)
        } else {
            Err(FormatError::OutOfBounds("thinning"))
        }
    }
}
