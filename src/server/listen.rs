//! Connections: how many there may be, and how long one may stand still while it is written to.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Accepts connections while there are places, and watches each.
#[derive(Clone)]
pub struct Guard {
    places: Arc<Semaphore>,
    idle_time: Duration,
}

impl Guard {
    /// At most `connections` at once; one to which nothing can be written for `idle_time` is ended.
    pub fn new(connections: usize, idle_time: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(connections)), idle_time }
    }
}

impl<S> Accept<TcpStream, S> for Guard {
    type Stream = Watched<TcpStream>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, "too many connections")));
        };
        // Heads of events are small and must not wait for more.
        ready(stream.set_nodelay(true).map(|()| (Watched::new(stream, self.idle_time, Some(place)), service)))
    }
}

/// A stream that fails when the other side takes nothing for too long.
pub struct Watched<T> {
    stream: T,
    idle_time: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<T> Watched<T> {
    fn new(stream: T, idle_time: Duration, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { stream, idle_time, stuck: None, _place: place }
    }

    /// Starts the clock when nothing was written, and stops it when something was.
    fn watch<R>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let idle_time = self.idle_time;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(idle_time)));
        match stuck.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_left_and_who_takes_slowly_is_served() {
        let (ours, mut theirs) = duplex(10);
        let mut watched = Watched::new(ours, Duration::from_millis(80), None);
        let slow = tokio::spawn(async move {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(40)).await;
                theirs.read_exact(&mut [0; 10]).await.unwrap();
            }
            theirs
        });
        watched.write_all(&[1; 50]).await.unwrap();
        let _held_open = slow.await.unwrap();
        let error = watched.write_all(&[1; 50]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
