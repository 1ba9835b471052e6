//! The asking side of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{MOST_LINE_BYTES, Pending, Reply, Request, Response};
use crate::cli::failure::{Code, Failure};
use crate::sys::process;

/// How long the background process may be silent. It answers everything within its own deadlines or
/// reports progress once a second; silence this long means that it hangs.
const SILENCE: Duration = Duration::from_secs(90);

/// A connection to the background process.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the socket at `path`; `None` when nobody listens there.
    ///
    /// # Errors
    /// When somebody else's process listens, or the socket cannot be used.
    pub fn connect(path: &Path) -> Result<Option<Self>, Failure> {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(Failure::io("connecting to the background process", path, &error)),
        };
        let peer =
            process::peer_uid(&stream).map_err(|error| Failure::io("checking the background process", path, &error))?;
        if peer != nix::unistd::geteuid().as_raw() {
            return Err(Failure::new(
                Code::Failure,
                format!("the process behind {} belongs to user {peer}, not to you; it was not used", path.display()),
            ));
        }
        stream
            .set_read_timeout(Some(SILENCE))
            .map_err(|error| Failure::io("connecting to the background process", path, &error))?;
        Ok(Some(Self { stream }))
    }

    /// Sends `request` and waits for its result, handing progress to `progress`. `None`: the background
    /// process was just ending and has done nothing; ask again, as if there were none.
    ///
    /// # Errors
    /// The request's own failure, or that the background process went away.
    pub fn ask(mut self, request: &Request, progress: &mut dyn FnMut(Pending)) -> Result<Option<Response>, Failure> {
        let mut line = serde_json::to_vec(request).map_err(|error| {
            Failure::new(Code::Usage, format!("this cannot be passed on: {error}; use names in UTF-8"))
        })?;
        line.push(b'\n');
        match self.stream.write_all(&line) {
            Err(error) if is_gone(&error) => return Ok(None),
            other => other.map_err(|error| lost(&error))?,
        }
        let mut answered = false;
        let mut answers = BufReader::new(self.stream);
        loop {
            let mut line = Vec::new();
            let read = answers.by_ref().take(MOST_LINE_BYTES).read_until(b'\n', &mut line);
            match read {
                // It ended between our connecting and its accepting.
                Ok(0) if !answered => return Ok(None),
                Err(error) if !answered && is_gone(&error) => return Ok(None),
                Ok(0) => return Err(lost(&io::Error::from(io::ErrorKind::UnexpectedEof))),
                Ok(_) => answered = true,
                Err(error) => return Err(lost(&error)),
            }
            let reply = serde_json::from_slice(&line).map_err(|error| {
                Failure::new(
                    Code::Failure,
                    format!("the background process answered something unknown ({error}); it may be of another version: run `kegfs lock`, then try again"),
                )
            })?;
            match reply {
                Reply::Progress(pending) => progress(pending),
                Reply::Closing => return Ok(None),
                Reply::Done(response) => return Ok(Some(response)),
                Reply::Failed(failure) => return Err(failure),
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn lost(error: &io::Error) -> Failure {
    let what = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "does not answer".to_owned(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            "ended before it answered".to_owned()
        }
        _ => format!("cannot be talked to: {error}"),
    };
    Failure::new(
        Code::Failure,
        format!(
            "the background process {what}; its log is daemon.log in the profile directory; what was synced to disk is safe"
        ),
    )
}
