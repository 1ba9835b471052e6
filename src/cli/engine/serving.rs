//! An engine that answers requests from outside, and knows when nobody needs it any more.
//!
//! Must not end while a request is being answered, and must not start answering once it has decided
//! to end: who comes then is told to start anew.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::super::control::{Handler, Pending, Reply, Request};
use super::Engine;
use crate::sys::clock;

/// How long a process without a mount waits for the mount it was started for.
const FIRST_MOUNT: Duration = Duration::from_secs(20);
/// How often it looks whether the last mount has gone.
const LOOK: Duration = Duration::from_millis(200);

/// See the head of this file.
pub struct Serving {
    engine: Arc<Engine>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Requests under way.
    requests: usize,
    /// Something was mounted once.
    used: bool,
    /// A request or a signal asked for the end.
    asked_to_end: bool,
    /// No request is taken any more.
    closed: bool,
}

impl Serving {
    /// Serves `engine`.
    pub fn new(engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self { engine, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Asks for the end, as a signal does.
    pub fn ask_to_end(&self) {
        self.state.lock().asked_to_end = true;
        self.changed.notify_all();
    }

    /// Waits until nobody needs the engine; from then on requests are turned away.
    pub fn wait(&self) {
        let begin = clock::monotonic();
        let mut state = self.state.lock();
        loop {
            let mounted = self.engine.is_mounted();
            state.used |= mounted;
            let unused = !mounted && (state.used || clock::monotonic() >= begin + FIRST_MOUNT);
            if state.requests == 0 && (unused || state.asked_to_end) {
                state.closed = true;
                return;
            }
            self.changed.wait_for(&mut state, LOOK);
        }
    }
}

impl Handler for Serving {
    fn handle(&self, request: Request, progress: &mut dyn FnMut(Pending) -> bool) -> Reply {
        {
            let mut state = self.state.lock();
            if state.closed {
                return Reply::Closing;
            }
            state.requests += 1;
        }
        let ends = matches!(request, Request::Lock { .. });
        let result = self.engine.handle(request, progress);
        let mut state = self.state.lock();
        state.used |= self.engine.is_mounted();
        state.asked_to_end |= ends && result.is_ok();
        match result {
            Ok(response) => Reply::Done(response),
            Err(failure) => Reply::Failed(failure),
        }
    }

    fn answered(&self, reply: &Reply) {
        if !matches!(reply, Reply::Closing) {
            self.state.lock().requests -= 1;
            self.changed.notify_all();
        }
    }
}
