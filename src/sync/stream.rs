//! The session's one subscription to the server's push.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use futures_util::StreamExt;

use super::SyncError;
use super::backoff::Backoff;
use super::event::Event;
use super::session::Inner;
use crate::api::ErrorCode;
use crate::remote::{RemoteError, ServerEvent};

impl Inner {
    /// Keeps a stream open for as long as the session lives.
    pub async fn run_stream(session: Weak<Self>) {
        let mut backoff = Backoff::default();
        let mut told = None;
        loop {
            let Some(inner) = session.upgrade() else { return };
            let error = inner.follow_stream(&mut backoff, &mut told).await;
            inner.shared.live.store(false, Ordering::Release);
            if error.code() == Some(ErrorCode::LoginFailed)
                && let Err(SyncError::DeviceRevoked { .. }) = inner.why_refused().await
            {
                // Told by an event. Nothing comes after it.
                return;
            }
            for folder in inner.all() {
                folder.link.lost(Some(error.to_string()));
            }
            // Once per loss, not once per attempt to come back.
            if told != Some(false) {
                inner.shared.hub.tell(&Event::Offline { reason: error.to_string() });
                told = Some(false);
            }
            drop(inner);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Follows one stream until it breaks; returns why.
    async fn follow_stream(self: &Arc<Self>, backoff: &mut Backoff, told: &mut Option<bool>) -> RemoteError {
        let mut events = match self.shared.remote.events().await {
            Ok(events) => events,
            Err(error) => return error,
        };
        while let Some(event) = events.next().await {
            match event {
                Ok(ServerEvent::Ready) => {
                    backoff.reset();
                    self.shared.live.store(true, Ordering::Release);
                    if *told != Some(true) {
                        self.shared.hub.tell(&Event::Online);
                        *told = Some(true);
                    }
                    // What happened while nobody listened.
                    for folder in self.all() {
                        folder.follow.notify_one();
                        folder.retry_now();
                        folder.locks.reconnected();
                        folder.ask_room();
                    }
                    if let Err(error) = self.discover().await {
                        tracing::warn!(%error, "the server did not list the folders");
                    }
                    match self.refresh_own().await {
                        Ok(_) => {}
                        Err(SyncError::DeviceRevoked { .. }) => {
                            return RemoteError::Unreachable("this device was revoked".to_owned());
                        }
                        Err(error) => tracing::warn!(%error, "the own account could not be looked after"),
                    }
                }
                Ok(ServerEvent::Head(head)) => self.announce(head.db, head.seq).await,
                Ok(ServerEvent::Lock(lock)) => self.lock_changed(lock),
                Ok(ServerEvent::KeepAlive) => self.all().iter().for_each(|folder| folder.heard()),
                Err(error) => return error,
            }
        }
        RemoteError::Unreachable("the event stream ended".to_owned())
    }
}
