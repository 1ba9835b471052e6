//! `kegfs invite` and `kegfs accept`.

use serde::Serialize;
use zeroize::Zeroizing;

use super::super::args::{AcceptArgs, Global, InviteArgs, MemberRole};
use super::super::backend::Backend;
use super::super::control::{InviteInfo, InviteRequest, InviteResponse, Private, Request, Response};
use super::super::failure::{Code, Failure};
use super::super::link::Link;
use super::super::output::{self, Output};
use super::super::profile::{CONFIG_VERSION, Config, Profile};
use super::super::{expiry, passphrase};
use super::account::{Fresh, host_name, register};
use super::{member, unexpected};
use crate::keyring::InviteSecret;
use crate::sys::clock;

#[derive(Serialize)]
struct Made<'a> {
    link: &'a str,
    id: String,
    role: &'a str,
    ends_ms: i64,
    expires_ms: Option<i64>,
}

/// `invite`
pub fn invite(args: InviteArgs, profile: &Profile, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    let folder = args.folder.clone();
    if args.list {
        return match ask(backend, InviteRequest::List { folder })? {
            InviteResponse::List(invites) => output.show(&invites, &listed(&invites)),
            other => Err(unexpected(&Response::Invite(other))),
        };
    }
    if let Some(id) = args.cancel {
        return match ask(backend, InviteRequest::Cancel { folder, id })? {
            InviteResponse::Cancelled(invite) => {
                output.show(&invite, &format!("the link {} opens nothing any more\n", invite.id))
            }
            other => Err(unexpected(&Response::Invite(other))),
        };
    }
    create(args, profile, backend, output)
}

fn create(mut args: InviteArgs, profile: &Profile, backend: &mut Backend<'_>, output: Output) -> Result<(), Failure> {
    if args.role.role != MemberRole::Guest
        && let Some(when) = args.role.expires.take()
    {
        args.link_expires = when;
    }
    let (role, expires_ms) = member::wanted(&args.role)?;
    let ends_ms = expiry::parse(&args.link_expires)?.min(expires_ms.unwrap_or(i64::MAX));
    let config = profile.config()?;
    let secret = InviteSecret::random();
    let id = secret.key().to_string();
    let request = InviteRequest::Create {
        folder: args.folder,
        key: id.clone(),
        admission_hash: hex::encode(secret.admission_hash()),
        role: role.clone(),
        ends_ms,
        expires_ms,
    };
    let folder = match ask(backend, request)? {
        InviteResponse::Created(folder) => folder,
        other => return Err(unexpected(&Response::Invite(other))),
    };
    let db = folder.id.parse().map_err(|_| Failure::new(Code::Corrupt, "the folder's id is none"))?;
    let link = Link { server: config.server, server_cert: config.server_cert, db, secret, ends_ms };
    let text = link.to_text()?;
    output.show(
        &Made { link: &text, id: id[..12].to_owned(), role: &role, ends_ms, expires_ms },
        &format!("{}\n", &*text),
    )?;
    output.remark(&format!(
        "One person can use this link, until {}: send it so that nobody else reads it. They run: kegfs accept, and paste it. \
         To end it: kegfs invite '{}' --cancel {}",
        output::clock_time(ends_ms),
        output::harmless(&folder.name),
        &id[..12]
    ));
    Ok(())
}

/// `accept`
pub fn accept(args: AcceptArgs, profile: &Profile, global: &Global, output: Output) -> Result<(), Failure> {
    let text = match args.link {
        Some(link) => Zeroizing::new(link),
        None => passphrase::ask_line("Link: ")?,
    };
    let link = Link::parse(&text)?;
    if link.ends_ms < clock::unix_nanos() / 1_000_000 {
        let message = format!("the link has expired ({}); ask for another one", output::clock_time(link.ends_ms));
        return Err(Failure::new(Code::Refused, message));
    }
    let mut backend = Backend::new(profile, global);
    if profile.config_path().exists() {
        let config = profile.config()?;
        if config.server != link.server {
            let message = format!(
                "the link is of the server {}, and this profile's account is on {}; use another profile: --profile DIR",
                link.server, config.server
            );
            return Err(Failure::new(Code::Usage, message));
        }
    } else {
        let Some(name) = args.name else {
            let message = "this profile has no account yet; say what to call you: kegfs accept --name NAME";
            return Err(Failure::new(Code::Usage, message));
        };
        let config = Config {
            version: CONFIG_VERSION,
            server: link.server.clone(),
            account: String::new(),
            name,
            device: args.device.unwrap_or_else(host_name),
            server_cert: link.server_cert.clone(),
        };
        let fresh = Fresh::claim(profile)?;
        let (config, identity) = register(&fresh, config, &link.secret.admission(), args.kdf.params(), global)?;
        drop(fresh);
        backend.unlocked(config, identity)?;
        output.remark("Your account is made; keep a copy of the keystore file and remember your passphrase.");
    }
    let secret = Private(Zeroizing::new(hex::encode(link.secret.as_bytes())));
    let request = InviteRequest::Use { db: link.db.to_string(), secret, wait_ms: args.timeout.saturating_mul(1000) };
    match ask(&mut backend, request)? {
        InviteResponse::Joined(Some(folder)) => {
            let name = output::harmless(&folder.name);
            let text = format!("you are in {name} as {}\nmount it: kegfs mount '{name}' DIR\n", folder.role);
            output.show(&InviteResponse::Joined(Some(folder)), &text)
        }
        InviteResponse::Joined(None) => {
            let text = "the link is good; the folder appears as soon as the client of one of its admins is online (kegfs folder list)\n";
            output.show(&InviteResponse::Joined(None), text)
        }
        other => Err(unexpected(&Response::Invite(other))),
    }
}

fn ask(backend: &mut Backend<'_>, request: InviteRequest) -> Result<InviteResponse, Failure> {
    match backend.ask(Request::Invite(request), &mut |_| {})? {
        Response::Invite(response) => Ok(response),
        other => Err(unexpected(&other)),
    }
}

fn listed(invites: &[InviteInfo]) -> String {
    if invites.is_empty() {
        return "no link is open\n".to_owned();
    }
    let rows = invites.iter().map(|invite| {
        let until = invite.expires_ms.map(|end| format!(" until {}", output::clock_time(end))).unwrap_or_default();
        let role = format!("{}{until}", invite.role);
        [invite.id.clone(), role, output::harmless(&invite.by), output::clock_time(invite.ends_ms)]
    });
    output::table(["ID", "ROLE", "MADE BY", "LINK ENDS"], rows)
}
