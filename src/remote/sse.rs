//! Server-sent events (WHATWG HTML, section 9.2), as much of them as the interface uses.
//!
//! Fed with the bytes of the response as they come; knows no connection.

use crate::api::{EVENT_HEAD, EVENT_LOCK, EVENT_READY};

use super::{RemoteError, ServerEvent};

/// Bytes of one line at most: an event's line has about 90.
const LINE_MAX_BYTES: usize = 1024;

/// Takes a stream apart.
#[derive(Default)]
pub struct Parser {
    line: Vec<u8>,
    event: String,
    data: String,
}

impl Parser {
    /// Takes the next bytes and adds the events that they complete to `out`.
    ///
    /// # Errors
    /// [`RemoteError::Protocol`] for an endless line and for a head or lock event that is none. Unknown events are skipped.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<ServerEvent>) -> Result<(), RemoteError> {
        for &byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    self.line(&String::from_utf8_lossy(&line), out)?;
                }
                b'\r' => {}
                _ if self.line.len() >= LINE_MAX_BYTES => {
                    return Err(RemoteError::Protocol("endless line in the event stream".to_owned()));
                }
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str, out: &mut Vec<ServerEvent>) -> Result<(), RemoteError> {
        if line.is_empty() {
            let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
            match event.as_str() {
                EVENT_READY => out.push(ServerEvent::Ready),
                EVENT_HEAD => {
                    let head = data.parse().map_err(|_| RemoteError::Protocol("malformed head event".to_owned()))?;
                    out.push(ServerEvent::Head(head));
                }
                EVENT_LOCK => {
                    let lock = data.parse().map_err(|_| RemoteError::Protocol("malformed lock event".to_owned()))?;
                    out.push(ServerEvent::Lock(lock));
                }
                _ => {}
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => out.push(ServerEvent::KeepAlive),
            "event" => value.clone_into(&mut self.event),
            "data" => value.clone_into(&mut self.data),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::api::HeadEvent;
    use crate::format::DbId;
    use proptest::prelude::*;

    fn stream(head: &HeadEvent) -> String {
        format!("event: ready\ndata:\n\n: keep-alive\n\nevent: head\r\ndata: {head}\r\n\r\nevent: new\ndata: x\n\n")
    }

    proptest! {
        #[test]
        fn events_come_out_however_the_stream_is_cut(cuts in prop::collection::vec(1usize..40, 1..40)) {
            let head = HeadEvent { db: DbId([7; 32]), seq: 12 };
            let text = stream(&head);
            let mut rest = text.as_bytes();
            let (mut parser, mut out) = (Parser::default(), Vec::new());
            for cut in cuts.into_iter().cycle() {
                let (part, after) = rest.split_at(cut.min(rest.len()));
                parser.feed(part, &mut out).unwrap();
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(out, vec![ServerEvent::Ready, ServerEvent::KeepAlive, ServerEvent::Head(head)]);
        }
    }

    #[test]
    fn a_malformed_head_and_an_endless_line_are_refused() {
        let mut out = Vec::new();
        assert!(Parser::default().feed(b"event: head\ndata: nonsense\n\n", &mut out).is_err());
        assert!(Parser::default().feed(&[b'x'; 4096], &mut out).is_err());
        assert!(out.is_empty());
    }
}
