//! Connections: how many there may be, and how long one may stand still while it is written to.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::config::Limits;
use super::routes::group;

/// Accepts connections while there are places, and watches each.
#[derive(Clone)]
pub struct Guard {
    places: Arc<Semaphore>,
    taken: Arc<Taken>,
    idle_time: Duration,
}

impl Guard {
    /// At most [`Limits::connections`] at once, and of one address [`Limits::connections_per_address`]; one to which
    /// nothing can be written for [`Limits::idle_time`] is ended.
    pub fn new(limits: &Limits) -> Self {
        let taken = Taken { per_address: limits.connections_per_address, counts: Mutex::default() };
        Self {
            places: Arc::new(Semaphore::new(limits.connections)),
            taken: Arc::new(taken),
            idle_time: limits.idle_time,
        }
    }

    fn place(&self, stream: &TcpStream) -> io::Result<Place> {
        let full = |what| io::Error::new(io::ErrorKind::ConnectionRefused, what);
        let seat = self.taken.take(group(stream.peer_addr()?.ip())).ok_or_else(|| full("too many of one address"))?;
        let permit = self.places.clone().try_acquire_owned().map_err(|_| full("too many connections"))?;
        Ok(Place { _seat: seat, _permit: permit })
    }
}

/// Connections by address.
struct Taken {
    per_address: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

impl Taken {
    fn take(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let mut counts = self.counts.lock();
        let count = counts.entry(address).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        Some(Seat { address, taken: self.clone() })
    }
}

/// One of the connections of an address, given back when dropped.
struct Seat {
    address: IpAddr,
    taken: Arc<Taken>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.taken.counts.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

struct Place {
    _seat: Seat,
    _permit: OwnedSemaphorePermit,
}

impl<S> Accept<TcpStream, S> for Guard {
    type Stream = Watched<TcpStream>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let place = match self.place(&stream) {
            Ok(place) => place,
            Err(error) => return ready(Err(error)),
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
    _place: Option<Place>,
}

impl<T> Watched<T> {
    fn new(stream: T, idle_time: Duration, place: Option<Place>) -> Self {
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
