//! One account on several devices, on paper, and on a stolen laptop; and people who come by a link.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "device_stories/devices.rs"]
mod devices;
#[path = "device_stories/invites.rs"]
mod invites;
#[path = "device_stories/stolen.rs"]
mod stolen;
mod sync_support;

use std::sync::Mutex;

use kegfs::sync::Event;
use sync_support::Person;

/// Everything that happens at a person, from now on.
fn events(person: &Person) -> impl Fn() -> Vec<Event> + use<> {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = Mutex::new(tell);
    person.session().on_event(move |event| drop(tell.lock().unwrap().send(event.clone())));
    let seen = Mutex::new(Vec::new());
    move || {
        let mut seen = seen.lock().unwrap();
        seen.extend(told.try_iter());
        seen.clone()
    }
}

fn now_ms() -> i64 {
    kegfs::sys::clock::unix_nanos() / 1_000_000
}
