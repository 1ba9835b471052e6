//! `kegfs device …`.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use super::super::args::DeviceCommand;
use super::super::backend::Backend;
use super::super::control::{DeviceInfo, DeviceRequest, DeviceResponse, Private, Request, Response, RevokedInfo};
use super::super::devices::code_of;
use super::super::failure::{Code, Failure};
use super::super::output::{self, Output};
use super::super::passphrase;
use super::unexpected;

/// All of them.
pub fn run(command: DeviceCommand, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add { code, yes } => add(code, yes, backend, output),
        DeviceCommand::List => match ask(backend, DeviceRequest::List)? {
            DeviceResponse::List(devices) => output.show(&devices, &listed(&devices)),
            other => Err(unexpected(&Response::Device(other))),
        },
        DeviceCommand::Revoke { device } => match ask(backend, DeviceRequest::Revoke { device })? {
            DeviceResponse::Revoked(info) => output.show(&info, &revoked(&info)),
            other => Err(unexpected(&Response::Device(other))),
        },
        DeviceCommand::Rename { device, name } => match ask(backend, DeviceRequest::Rename { device, name })? {
            DeviceResponse::Device(device) => {
                output.show(&device, &format!("it is called {} now\n", output::harmless(&device.name)))
            }
            other => Err(unexpected(&Response::Device(other))),
        },
    }
}

/// Has a question about devices answered.
pub fn ask(backend: &mut Backend<'_>, request: DeviceRequest) -> Result<DeviceResponse, Failure> {
    match backend.ask(Request::Device(request), &mut |_| {})? {
        Response::Device(response) => Ok(response),
        other => Err(unexpected(&other)),
    }
}

fn add(words: Vec<String>, yes: bool, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let code = match words.as_slice() {
        [] => passphrase::ask_line("Code that the new device shows: ")?,
        words => Zeroizing::new(words.join(" ")),
    };
    let code = Private(code);
    // A mistyped word is told before anything is asked.
    code_of(&code)?;
    let name = match ask(backend, DeviceRequest::Waiting { code: code.clone() })? {
        DeviceResponse::Waiting(name) => name,
        other => return Err(unexpected(&Response::Device(other))),
    };
    let shown = output::harmless(&name);
    if !yes {
        let question = format!(
            "The new device calls itself '{shown}'. It will read and write everything that you can. Is it yours, and in front of you? [y/N] "
        );
        let answer = passphrase::ask_line(&question)?;
        if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Err(Failure::new(Code::Failure, "nothing was added; end `kegfs account join` on the other device"));
        }
    }
    match ask(backend, DeviceRequest::Add { code })? {
        DeviceResponse::Device(device) => output.show(&device, &format!("added {shown}\n")),
        other => Err(unexpected(&Response::Device(other))),
    }
}

fn listed(devices: &[DeviceInfo]) -> String {
    let rows = devices.iter().map(|device| {
        let what = match (device.me, device.recovery, device.revoked) {
            (_, _, true) => "revoked",
            (true, ..) => "this device",
            (_, true, _) => "on paper",
            _ => "",
        };
        [output::harmless(&device.name), what.to_owned(), device.id.clone()]
    });
    output::table(["NAME", "STATE", "ID"], rows)
}

fn revoked(info: &RevokedInfo) -> String {
    let mut text = format!("{} is revoked: what it writes counts no more\n", output::harmless(&info.device.name));
    let mut line = |folders: &[String], what: &str| {
        if !folders.is_empty() {
            let names: Vec<String> = folders.iter().map(|name| output::harmless(name)).collect();
            let _ = writeln!(text, "{}: {what}", names.join(", "));
        }
    };
    line(&info.rotated, "has a new key");
    line(&info.told, "gets a new key as soon as the client of an admin is online");
    line(&info.waiting, "could not be told yet; your devices go on trying while they are online");
    text.push_str("What the device has read before stays readable to whoever has it.\n");
    text
}
