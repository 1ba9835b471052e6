//! Mailboxes: where a new device and one that knows the account leave letters for each other, for a quarter of an hour.
//!
//! In memory only, and bounded: a server that restarts, or is flooded, makes people start over, and nothing else. What
//! the letters say is sealed; a mailbox is found by who knows the code that its id follows from.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;

use super::error::Refused;
use crate::api::limits::MAILBOX_MS;
use crate::api::{ErrorCode, Side};
use crate::format::MailboxId;

/// Bytes of all letters. Beyond it the oldest mailboxes are forgotten.
const BYTES_MAX: usize = 64 << 20;

/// The letters by side.
#[derive(Default)]
struct Mailbox([Option<Vec<u8>>; Side::ALL.len()]);

impl Mailbox {
    fn side(&mut self, side: Side) -> &mut Option<Vec<u8>> {
        &mut self.0[side as usize]
    }

    fn bytes(&self) -> usize {
        self.0.iter().flatten().map(Vec::len).sum()
    }
}

#[derive(Default)]
struct Held {
    boxes: HashMap<MailboxId, Mailbox>,
    by_end: BTreeSet<(i64, MailboxId)>,
    bytes: usize,
}

impl Held {
    /// Forgets what is over at `now_ms`, and the oldest until `room` more bytes fit.
    fn make_room(&mut self, room: usize, now_ms: i64) {
        while let Some((end_ms, id)) = self.by_end.first().copied()
            && (end_ms <= now_ms || self.bytes + room > BYTES_MAX)
        {
            self.by_end.pop_first();
            self.bytes -= self.boxes.remove(&id).map_or(0, |mailbox| mailbox.bytes());
        }
    }
}

/// All mailboxes of one server.
#[derive(Default)]
pub struct Mailboxes(Mutex<Held>);

impl Mailboxes {
    /// Leaves a letter. The same again succeeds. All others need a request.
    ///
    /// # Errors
    /// [`ErrorCode::AccountConflict`] where another letter lies, [`ErrorCode::NotFound`] for one without a request.
    pub fn put(&self, id: MailboxId, side: Side, sealed: Vec<u8>, now_ms: i64) -> Result<(), Refused> {
        let mut held = self.0.lock();
        held.make_room(sealed.len(), now_ms);
        let bytes = sealed.len();
        if side == Side::Request && !held.boxes.contains_key(&id) {
            let end_ms = now_ms + MAILBOX_MS;
            held.boxes.insert(id, Mailbox::default());
            held.by_end.insert((end_ms, id));
        }
        let slot = held.boxes.get_mut(&id).ok_or_else(Refused::not_found)?.side(side);
        match slot {
            None => *slot = Some(sealed),
            Some(there) if *there == sealed => return Ok(()),
            Some(_) => {
                return Err(Refused::new(ErrorCode::AccountConflict, "another letter lies in this mailbox"));
            }
        }
        held.bytes += bytes;
        Ok(())
    }

    /// The letter on this side.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] where none lies (yet, or any more).
    pub fn get(&self, id: &MailboxId, side: Side, now_ms: i64) -> Result<Vec<u8>, Refused> {
        let mut held = self.0.lock();
        held.make_room(0, now_ms);
        let letter = held.boxes.get_mut(id).and_then(|mailbox| mailbox.side(side).clone());
        letter.ok_or_else(Refused::not_found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ID: MailboxId = MailboxId([1; 32]);

    #[test]
    fn each_side_is_written_once_and_read_until_the_time_is_over() {
        let boxes = Mailboxes::default();
        for side in &Side::ALL[1..] {
            assert!(boxes.put(ID, *side, vec![1], 0).is_err(), "an answer to nothing");
        }
        boxes.put(ID, Side::Request, vec![2], 0).unwrap();
        boxes.put(ID, Side::Request, vec![2], 5).unwrap();
        assert!(boxes.put(ID, Side::Request, vec![3], 5).is_err(), "another letter");
        assert!(boxes.get(&ID, Side::Answer, 5).is_err());
        boxes.put(ID, Side::Answer, vec![4], 5).unwrap();
        boxes.put(ID, Side::Offer, vec![5], 5).unwrap();
        assert_eq!(boxes.get(&ID, Side::Answer, MAILBOX_MS - 1).unwrap(), [4]);
        assert_eq!(boxes.get(&ID, Side::Offer, MAILBOX_MS - 1).unwrap(), [5]);
        assert_eq!(boxes.get(&ID, Side::Request, MAILBOX_MS - 1).unwrap(), [2]);
        assert!(boxes.get(&ID, Side::Request, MAILBOX_MS).is_err());
        let held = boxes.0.lock();
        assert_eq!((held.bytes, held.by_end.len(), held.boxes.len()), (0, 0, 0));
    }

    #[test]
    fn mailboxes_take_bounded_memory() {
        let boxes = Mailboxes::default();
        for n in 0..40_u8 {
            boxes.put(MailboxId([n; 32]), Side::Request, vec![0; 4 << 20], i64::from(n)).unwrap();
        }
        assert!(boxes.0.lock().bytes <= BYTES_MAX);
        assert!(boxes.get(&MailboxId([39; 32]), Side::Request, 40).is_ok(), "the newest stays");
        assert!(boxes.get(&MailboxId([0; 32]), Side::Request, 40).is_err(), "the oldest goes");
    }
}
