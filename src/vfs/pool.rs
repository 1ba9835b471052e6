//! A few threads with a bounded queue.

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use crate::sys::threads;

use super::VfsError;

/// Tasks that may wait: each is small, and a queue this long already means seconds of work.
const QUEUE: usize = 1024;

type Task = Box<dyn FnOnce() + Send>;

/// Threads that run tasks.
pub(super) struct Pool {
    tasks: Mutex<Option<Sender<Task>>>,
}

impl Pool {
    /// Starts `count` threads.
    pub(super) fn start(name: &str, count: usize) -> Result<Self, VfsError> {
        let (tasks, queue) = bounded::<Task>(QUEUE);
        for _ in 0..count {
            let queue = queue.clone();
            threads::spawn(name, move || queue.iter().for_each(|task| task())).map_err(VfsError::storage)?;
        }
        Ok(Self { tasks: Mutex::new(Some(tasks)) })
    }

    /// Queues a task; gives it back when the queue is full or the pool has stopped.
    pub(super) fn run(&self, task: Task) -> Result<(), Task> {
        match &*self.tasks.lock() {
            Some(tasks) => tasks.try_send(task).map_err(crossbeam_channel::TrySendError::into_inner),
            None => Err(task),
        }
    }

    /// Takes no more tasks; the threads end when the queue is empty.
    pub(super) fn stop(&self) {
        self.tasks.lock().take();
    }
}
