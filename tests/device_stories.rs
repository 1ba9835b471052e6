//! One account on several devices, on paper, and on a stolen laptop; and people who come by a link.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "device_stories/devices.rs"]
mod devices;
#[path = "device_stories/invites.rs"]
mod invites;
#[path = "device_stories/stolen.rs"]
mod stolen;
mod sync_support;
