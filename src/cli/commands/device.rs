//! `kegfs device …`.

use std::fmt::Write as _;
use std::time::Duration;

use zeroize::Zeroizing;

use super::super::args::{DeviceAdd, DeviceCommand};
use super::super::backend::Backend;
use super::super::compare;
use super::super::control::{DeviceInfo, DeviceRequest, DeviceResponse, Private, Request, Response, RevokedInfo};
use super::super::devices::code_of;
use super::super::failure::{Code, Failure};
use super::super::output::{self, Output};
use super::super::passphrase;
use super::unexpected;
use crate::sys::clock;

/// How long the new device's user has to compare: as long as a code is good.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// All of them.
pub fn run(command: DeviceCommand, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    match command {
        DeviceCommand::Add(args) => add(args, backend, output),
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

fn add(args: DeviceAdd, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let code = match args.code.as_slice() {
        [] => passphrase::ask_line("Code that the new device shows: ")?,
        words => Zeroizing::new(words.join(" ")),
    };
    let code = Private(code);
    // A mistyped word is told before anything is asked.
    code_of(&code)?;
    let waiting = match ask(backend, DeviceRequest::Waiting { code: code.clone() })? {
        DeviceResponse::Waiting(waiting) => waiting,
        other => return Err(unexpected(&Response::Device(other))),
    };
    let name = output::harmless(&waiting.device);
    if args.look {
        return output.show(&waiting, &format!("device  {name}\nwords   {}\n", waiting.words));
    }
    let same = match &args.words {
        Some(seen) => compare::plain(seen) == waiting.words,
        None => {
            output.remark(&format!(
                "The new device calls itself '{name}'. It will read and write everything that you can.\nIt must be in front of you and show these words now:\n\n    {}\n",
                waiting.words
            ));
            compare::ask("Does it show exactly these?", &waiting.words)?
        }
    };
    if !same {
        ask(backend, DeviceRequest::Refuse { code })?;
        return Err(compare::differ());
    }
    output.remark("Say so on the new device too. Waiting …");
    let until = clock::monotonic() + PATIENCE;
    loop {
        let add = DeviceRequest::Add { code: code.clone(), words: waiting.words.clone() };
        match ask(backend, add)? {
            DeviceResponse::Device(device) => return output.show(&device, &format!("added {name}\n")),
            DeviceResponse::Undecided if clock::monotonic() < until => {}
            DeviceResponse::Undecided => {
                let message = "nobody has said on the new device that the words are the same; nothing was changed";
                return Err(Failure::new(Code::Failure, message));
            }
            other => return Err(unexpected(&Response::Device(other))),
        }
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
