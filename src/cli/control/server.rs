//! The answering side of the control socket.
//!
//! Must not know what the requests mean. Each connection has a thread: there are a handful a day,
//! and one that waits for the server must not hold up the others.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{MOST_LINE_BYTES, Pending, Reply, Request};
use crate::cli::failure::{Code, Failure};
use crate::sys::{process, threads};

/// How long a client may take to send its one line.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time: far above use, far below harm.
const MOST_CONNECTIONS: usize = 64;

/// Answers requests; called on several threads at once.
pub trait Handler: Send + Sync + 'static {
    /// Does what `request` asks. `progress` returns false when the client has gone: then waiting
    /// should end, work already begun should not.
    fn handle(&self, request: Request, progress: &mut dyn FnMut(Pending) -> bool) -> Reply;

    /// Called after `reply`, which [`Handler::handle`] returned, has been sent, or could not be.
    fn answered(&self, reply: &Reply);
}

/// A listening socket; removed from the file system when dropped.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens at `path`. The caller holds the profile's lock, so that a socket file that is there
    /// already belongs to a process that has died.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Its directory is of mode 0700, so nobody else can connect before the mode is set.
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Starts the accepting thread, which lives as long as the process.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub fn serve(&self, handler: Arc<dyn Handler>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        threads::spawn("kegfs-control", move || accept(&listener, &handler)).map(drop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing depends on it: the next process removes it too.
        let _ = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, handler: &Arc<dyn Handler>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket could not accept");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if open.load(Ordering::Acquire) >= MOST_CONNECTIONS {
            continue;
        }
        open.fetch_add(1, Ordering::AcqRel);
        let (handler, counted) = (handler.clone(), Counted(open.clone()));
        let spawned = threads::spawn("kegfs-request", move || {
            let _counted = counted;
            if let Err(error) = answer(stream, &*handler) {
                tracing::debug!(%error, "a control connection ended early");
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a control request");
        }
    }
}

/// One open connection.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(stream: UnixStream, handler: &dyn Handler) -> io::Result<()> {
    let peer = process::peer_uid(&stream)?;
    if peer != nix::unistd::geteuid().as_raw() {
        tracing::warn!(peer, "a control connection of another user was refused");
        return Ok(());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new((&stream).take(MOST_LINE_BYTES)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(());
    }
    let send = |reply: &Reply| -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        if line.len() as u64 >= MOST_LINE_BYTES {
            line = serde_json::to_vec(&Reply::Failed(Failure::new(
                Code::Failure,
                "what was asked for was done, but the answer is too long to be passed on; ask for less of it",
            )))?;
        }
        line.push(b'\n');
        (&stream).write_all(&line)
    };
    match serde_json::from_slice(&line) {
        Ok(request) => {
            let reply = handler.handle(request, &mut |pending| send(&Reply::Progress(pending)).is_ok());
            let sent = send(&reply);
            handler.answered(&reply);
            sent
        }
        Err(error) => send(&Reply::Failed(Failure::new(
            Code::Failure,
            format!(
                "the background process does not understand this request ({error}); it may be of another version: unmount and try again"
            ),
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Client, Response};
    use super::*;

    struct Echo;

    impl Handler for Echo {
        fn handle(&self, request: Request, progress: &mut dyn FnMut(Pending) -> bool) -> Reply {
            assert!(progress(Pending { changes: 2, bytes: 0 }));
            match request {
                Request::CacheClear => Reply::Done(Response::CacheCleared { bytes: 5 }),
                Request::FolderList => Reply::Closing,
                _ => Reply::Failed(Failure::new(Code::Busy, "in use")),
            }
        }

        fn answered(&self, _reply: &Reply) {}
    }

    #[test]
    fn results_failures_and_progress_reach_the_client() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        assert!(Client::connect(&path).unwrap().is_none());
        let server = Server::bind(&path).unwrap();
        server.serve(Arc::new(Echo)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut seen = Vec::new();
        let ask = |request, seen: &mut Vec<Pending>| {
            Client::connect(&path).unwrap().unwrap().ask(&request, &mut |pending| seen.push(pending))
        };
        assert_eq!(ask(Request::CacheClear, &mut seen), Ok(Some(Response::CacheCleared { bytes: 5 })));
        assert_eq!(ask(Request::FolderList, &mut seen), Ok(None));
        assert_eq!(ask(Request::Status, &mut seen), Err(Failure::new(Code::Busy, "in use")));
        assert_eq!(seen, [Pending { changes: 2, bytes: 0 }; 3]);
    }

    #[test]
    fn nonsense_is_answered_and_does_not_end_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let server = Server::bind(&path).unwrap();
        server.serve(Arc::new(Echo)).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"{\"op\":\"explode\"}\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("does not understand"), "{answer}");
        assert!(Client::connect(&path).unwrap().is_some());
    }

    #[test]
    fn the_socket_of_a_dead_process_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert!(Client::connect(&path).unwrap().is_none());
        let server = Server::bind(&path).unwrap();
        drop(server);
        assert!(!path.exists());
    }
}
