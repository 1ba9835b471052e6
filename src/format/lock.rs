//! Locks on files as members tell each other of them: ranges, and sets of ranges.
//!
//! [`LockSet`] is arithmetic on intervals and a canonical layout, used alike by who grants locks to programs and by the
//! server, which grants them to devices.

use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::{Encoder, Error as EncodeError, Write};
use minicbor::{Decode, Encode};

use super::limits::LOCK_SPANS_MAX;

/// The last byte that a lock can cover: the largest offset of the system interface. A lock to the end of the file,
/// wherever that is, ends here.
pub const LOCK_END: u64 = i64::MAX as u64;

/// Which locks see each other: on Linux those of fcntl(2) and those of flock(2) do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum LockSpace {
    /// Ranges of bytes: fcntl(2), of processes and of open file descriptions.
    #[n(0)]
    Posix,
    /// Whole files: flock(2).
    #[n(1)]
    Flock,
}

/// A range of bytes that is locked, or is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(array)]
pub struct LockSpan {
    /// Among which locks.
    #[n(0)]
    pub space: LockSpace,
    /// First byte.
    #[n(1)]
    pub start: u64,
    /// Last byte, at most [`LOCK_END`].
    #[n(2)]
    pub end: u64,
    /// For one holder alone; otherwise shared.
    #[n(3)]
    pub exclusive: bool,
}

impl LockSpan {
    /// All of a file.
    pub fn whole(space: LockSpace, exclusive: bool) -> Self {
        Self { space, start: 0, end: LOCK_END, exclusive }
    }

    /// The two have a byte in common.
    pub fn meets(&self, other: &Self) -> bool {
        self.space == other.space && self.start <= other.end && other.start <= self.end
    }

    /// Two holders cannot have both.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.meets(other) && (self.exclusive || other.exclusive)
    }

    fn is_valid(&self) -> bool {
        self.start <= self.end && self.end <= LOCK_END
    }
}

/// What one holder has locked of one file. Each byte is locked once: shared or exclusively.
///
/// Layout: an array of [`LockSpan`], ascending, without overlaps, and without neighbours that could be one span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockSet(Vec<LockSpan>);

impl LockSet {
    /// Everything there is, exclusively.
    pub fn everything() -> Self {
        Self(vec![LockSpan::whole(LockSpace::Posix, true), LockSpan::whole(LockSpace::Flock, true)])
    }

    /// The spans, ascending.
    pub fn spans(&self) -> &[LockSpan] {
        &self.0
    }

    /// Nothing is locked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of spans.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Something is locked exclusively.
    pub fn has_exclusive(&self) -> bool {
        self.0.iter().any(|span| span.exclusive)
    }

    /// Locks `span` in the place of what was locked there, as fcntl(2) does for one owner.
    pub fn put(&mut self, span: LockSpan) {
        self.carve(&span);
        self.0.push(span);
        self.tidy();
    }

    /// Unlocks the range.
    pub fn remove(&mut self, space: LockSpace, start: u64, end: u64) {
        self.carve(&LockSpan { space, start, end, exclusive: false });
        self.tidy();
    }

    /// Locks `span` where it is not locked at least as strongly: what two owners hold together.
    pub fn join(&mut self, span: LockSpan) {
        let stronger: Vec<_> = self.0.iter().filter(|one| one.exclusive && one.meets(&span)).copied().collect();
        self.carve(&span);
        self.0.push(span);
        if !span.exclusive {
            for one in stronger {
                let part = LockSpan { start: one.start.max(span.start), end: one.end.min(span.end), ..one };
                self.carve(&part);
                self.0.push(part);
            }
        }
        self.tidy();
    }

    /// [`Self::join`] for all spans of another set.
    pub fn join_all(&mut self, other: &Self) {
        other.0.iter().for_each(|span| self.join(*span));
    }

    /// Every byte of `span` is locked, at least as strongly.
    pub fn covers(&self, span: &LockSpan) -> bool {
        let mut next = span.start;
        for one in self.0.iter().filter(|one| one.meets(span)) {
            if one.start > next || (span.exclusive && !one.exclusive) {
                return false;
            }
            if one.end >= span.end {
                return true;
            }
            next = one.end + 1;
        }
        false
    }

    /// [`Self::covers`] for all spans of another set.
    pub fn covers_all(&self, other: &Self) -> bool {
        other.0.iter().all(|span| self.covers(span))
    }

    /// The first span that keeps another holder from having `span`.
    pub fn conflict(&self, span: &LockSpan) -> Option<LockSpan> {
        self.0.iter().find(|one| one.conflicts(span)).copied()
    }

    /// Takes the range of `span` out, whoever it overlaps.
    fn carve(&mut self, span: &LockSpan) {
        let mut left = Vec::with_capacity(self.0.len() + 2);
        for one in self.0.drain(..) {
            if !one.meets(span) {
                left.push(one);
                continue;
            }
            if one.start < span.start {
                left.push(LockSpan { end: span.start - 1, ..one });
            }
            if one.end > span.end {
                left.push(LockSpan { start: span.end + 1, ..one });
            }
        }
        self.0 = left;
    }

    /// Ascending, and what belongs together is one.
    fn tidy(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|next, before| {
            let one = mergeable(before, next);
            if one {
                before.end = next.end;
            }
            one
        });
    }

    fn is_canonical(&self) -> bool {
        let apart = |pair: &[LockSpan]| {
            (pair[0].space < pair[1].space || pair[0].end < pair[1].start) && !mergeable(&pair[0], &pair[1])
        };
        self.0.iter().all(LockSpan::is_valid)
            && self.0.is_sorted_by_key(|one| one.space)
            && self.0.windows(2).all(apart)
    }
}

fn mergeable(before: &LockSpan, next: &LockSpan) -> bool {
    before.space == next.space
        && before.exclusive == next.exclusive
        && before.end < LOCK_END
        && before.end + 1 == next.start
}

impl FromIterator<LockSpan> for LockSet {
    /// All spans [joined](LockSet::join).
    fn from_iter<I: IntoIterator<Item = LockSpan>>(spans: I) -> Self {
        let mut set = Self::default();
        spans.into_iter().for_each(|span| set.join(span));
        set
    }
}

impl<C> Encode<C> for LockSet {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, context: &mut C) -> Result<(), EncodeError<W::Error>> {
        self.0.encode(e, context)
    }
}

impl<'b, C> Decode<'b, C> for LockSet {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, DecodeError> {
        let len = d.array()?.ok_or_else(|| DecodeError::message("locks of unknown number"))?;
        if len > LOCK_SPANS_MAX as u64 {
            return Err(DecodeError::message("too many locks on one file"));
        }
        let spans = (0..len).map(|_| LockSpan::decode(d, context)).collect::<Result<Vec<_>, _>>()?;
        let set = Self(spans);
        if set.is_canonical() { Ok(set) } else { Err(DecodeError::message("locks that overlap or are out of order")) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{decode, encode};
    use super::*;
    use proptest::prelude::*;

    const BYTES: u64 = 24;

    /// What each byte of each space is: not locked, shared, exclusive.
    type Model = [[u8; BYTES as usize]; 2];

    fn flatten(set: &LockSet) -> Model {
        let mut model = Model::default();
        for span in set.spans() {
            for byte in span.start..=span.end.min(BYTES - 1) {
                model[span.space as usize][byte as usize] = 1 + u8::from(span.exclusive);
            }
        }
        model
    }

    fn span() -> impl Strategy<Value = LockSpan> {
        (any::<bool>(), 0..BYTES, 0..BYTES, any::<bool>()).prop_map(|(flock, a, b, exclusive)| {
            let space = if flock { LockSpace::Flock } else { LockSpace::Posix };
            LockSpan { space, start: a.min(b), end: a.max(b), exclusive }
        })
    }

    proptest! {
        #[test]
        fn sets_are_what_they_are_byte_by_byte(steps in prop::collection::vec((0..3u8, span()), 0..24), probe in span()) {
            let (mut set, mut model) = (LockSet::default(), Model::default());
            for (kind, span) in steps {
                let mode = 1 + u8::from(span.exclusive);
                match kind {
                    0 => set.put(span),
                    1 => set.join(span),
                    _ => set.remove(span.space, span.start, span.end),
                }
                for byte in &mut model[span.space as usize][span.start as usize..=span.end as usize] {
                    *byte = match kind { 0 => mode, 1 => mode.max(*byte), _ => 0 };
                }
                prop_assert_eq!(flatten(&set), model);
                prop_assert!(set.is_canonical());
            }
            let range = &model[probe.space as usize][probe.start as usize..=probe.end as usize];
            prop_assert_eq!(set.covers(&probe), range.iter().all(|byte| *byte > u8::from(probe.exclusive)));
            let conflicts = range.iter().any(|byte| *byte == 2 || (*byte == 1 && probe.exclusive));
            prop_assert_eq!(set.conflict(&probe).is_some(), conflicts);
            prop_assert_eq!(decode::<LockSet>(&encode(&set)).unwrap(), set);
        }
    }

    #[test]
    fn a_set_that_is_not_canonical_or_too_long_is_refused() {
        let of = |start, end| LockSpan { space: LockSpace::Posix, start, end, exclusive: true };
        let whole = LockSpan::whole(LockSpace::Flock, true);
        for bad in [
            vec![of(5, 4)],
            vec![of(0, LOCK_END + 1)],
            vec![of(10, 20), of(0, 5)],
            vec![of(0, 10), of(10, 20)],
            vec![of(0, 10), of(11, 20)],
            vec![whole, of(0, 1)],
            (0..=LOCK_SPANS_MAX as u64).map(|n| of(2 * n, 2 * n)).collect(),
        ] {
            assert!(decode::<LockSet>(&encode(&bad)).is_err(), "{} spans", bad.len());
        }
        assert_eq!(decode::<LockSet>(&encode(&vec![of(0, 1), whole])).unwrap().len(), 2);
    }

    #[test]
    fn locks_of_the_two_calls_do_not_see_each_other() {
        let everything = LockSet::everything();
        let flock = LockSpan::whole(LockSpace::Flock, true);
        let only: LockSet = [LockSpan::whole(LockSpace::Posix, true)].into_iter().collect();
        assert!(only.conflict(&flock).is_none());
        assert!(everything.conflict(&flock).is_some() && everything.covers(&flock));
    }
}
