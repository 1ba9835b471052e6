//! `kegfs account join`, `recovery` and `recover`.

use std::time::Duration;

use serde::Serialize;

use super::super::args::{AccountJoin, AccountRecover, AccountRecovery, Global};
use super::super::backend::Backend;
use super::super::control::{DeviceRequest, DeviceResponse, Response};
use super::super::failure::{Code, Failure};
use super::super::output::{self, Output};
use super::super::profile::{Config, Profile};
use super::super::{compare, keystore, passphrase, unlocked};
use super::account::{Fresh, config, host_name, print};
use super::device::ask;
use super::unexpected;
use crate::crypto::password;
use crate::crypto::words::Phrase;
use crate::keyring::DeviceSecrets;
use crate::sync::{Joined, RECOVERY_NAME};

/// Words that are asked for again.
const CONFIRMED: usize = 3;

#[derive(Serialize)]
struct Shown<'a> {
    code: &'a str,
}

#[derive(Serialize)]
struct Met<'a> {
    words: &'a str,
    account: &'a str,
    device: &'a str,
}

#[derive(Serialize)]
struct Recovery<'a> {
    account: &'a str,
    words: &'a [&'static str],
}

/// `account join`
pub fn join(args: &AccountJoin, profile: &Profile, global: &Global, output: Output) -> Result<(), Failure> {
    let fresh = Fresh::claim(profile)?;
    let name = args.device.clone().unwrap_or_else(host_name);
    let mut config = config(&args.server, String::new(), name.clone())?;
    let chosen = passphrase::new(global)?;
    let joining = unlocked::begin_joining(&config, &name)?;
    let code = joining.code().to_text();
    output.remark(&qr(&code));
    output.show_line(&Shown { code: &code }, &format!("{}\n", &*code))?;
    output.remark("On a device of your account: kegfs device add, and type these words there. Waiting …");
    let within = Duration::from_secs(args.timeout);
    let meeting = unlocked::meet(&config, joining, within)?;
    let words = meeting.words().join(" ");
    let (account, device) = (output::harmless(meeting.account_name()), output::harmless(meeting.device_name()));
    output.remark(&format!(
        "'{device}' of the account '{account}' would let this device in. It must be in front of you and show these words now:\n"
    ));
    output.show_line(&Met { words: &words, account: &account, device: &device }, &format!("    {words}\n"))?;
    if !compare::ask("Does it show exactly these?", &words)? {
        unlocked::refuse_meeting(&config, meeting)?;
        return Err(compare::differ());
    }
    output.remark("Say so on the other device too. Waiting …");
    let joined = unlocked::end_joining(&config, meeting, within)?;
    save(&fresh, &mut config, &joined, &chosen, args.kdf.params())?;
    output.remark("This is a device of the following account.");
    print(&config, output)
}

/// `account recover`
pub fn recover(args: &AccountRecover, profile: &Profile, global: &Global, output: Output) -> Result<(), Failure> {
    let account = args.account.parse().map_err(|_| {
        Failure::new(Code::Usage, format!("{} is no account's id: 64 characters, beside the phrase", args.account))
    })?;
    let fresh = Fresh::claim(profile)?;
    let name = args.device.clone().unwrap_or_else(host_name);
    let mut config = config(&args.server, String::new(), name.clone())?;
    let typed = passphrase::secret(args.phrase_file.clone(), args.phrase_fd, "Recovery phrase (24 words): ")?;
    let wrong = |_| {
        Failure::new(
            Code::Usage,
            "this is not a recovery phrase: 24 words, of which the last ones check the others; compare them with the paper",
        )
    };
    let text = std::str::from_utf8(&typed).unwrap_or_default();
    let phrase = Phrase::parse(text).map_err(wrong)?;
    let chosen = passphrase::new(global)?;
    let joined = unlocked::recover_account(&config, account, &phrase, &name)?;
    save(&fresh, &mut config, &joined, &chosen, args.kdf.params())?;
    output.remark("Now revoke what is lost: kegfs device list, kegfs device revoke NAME.");
    print(&config, output)
}

/// Keys first, then what must not be accepted less than, then the configuration, which makes it an account.
fn save(
    fresh: &Fresh<'_>,
    config: &mut Config,
    joined: &Joined,
    chosen: &passphrase::Passphrase,
    cost: password::Params,
) -> Result<(), Failure> {
    config.account = joined.identity.account.to_string();
    config.name.clone_from(&joined.name);
    config.device.clone_from(&joined.device);
    let profile = fresh.profile;
    keystore::write(&profile.keystore(), &joined.identity, chosen, cost)?;
    unlocked::keep_joined(config, joined, profile)?;
    profile.write_config(config)
}

/// `account recovery`
pub fn recovery(
    args: &AccountRecovery,
    profile: &Profile,
    backend: &mut Backend<'_>,
    output: Output,
) -> Result<(), Failure> {
    let config = profile.config()?;
    done(ask(backend, DeviceRequest::RecoveryCheck)?)?;
    let phrase = Phrase::random();
    let words = phrase.words();
    let text = format!("{}\naccount  {}\n", in_columns(&words), config.account);
    output.show(&Recovery { account: &config.account, words: &words }, &text)?;
    output.remark(
        "Write all of it down, also the account's id, and keep it where nobody else finds it: the words open your account. They are shown this once.",
    );
    if !args.no_confirm && !output.is_json() {
        confirm(&words)?;
    }
    let keys = DeviceSecrets::from_phrase(&phrase).public(RECOVERY_NAME);
    let add = DeviceRequest::RecoveryAdd { sign: hex::encode(keys.sign), kem: hex::encode(&keys.kem) };
    done(ask(backend, add)?)?;
    output.remark("The phrase is good from now on. To end it: kegfs device revoke 'recovery phrase'");
    Ok(())
}

fn done(response: DeviceResponse) -> Result<(), Failure> {
    match response {
        DeviceResponse::Done => Ok(()),
        other => Err(unexpected(&Response::Device(other))),
    }
}

/// Asks for some of the words, three times each.
fn confirm(words: &[&str]) -> Result<(), Failure> {
    for round in 0..CONFIRMED {
        // One of each third, by the words themselves, which are random.
        let third = words.len() / CONFIRMED;
        let at = round * third + words[round].len() % third;
        let asked = || passphrase::ask_line(&format!("Word {}: ", at + 1));
        let mut right = false;
        for _ in 0..3 {
            right = asked()?.trim().eq_ignore_ascii_case(words[at]);
            if right {
                break;
            }
        }
        if !right {
            return Err(Failure::new(Code::Failure, "that is another word; nothing was changed, begin again"));
        }
    }
    Ok(())
}

fn in_columns(words: &[&str]) -> String {
    const ROWS: usize = 8;
    let cell = |at: usize| words.get(at).map_or_else(String::new, |word| format!("{:>2}. {word:<12}", at + 1));
    let rows = (0..ROWS).map(|row| (0..3).map(|column| cell(column * ROWS + row)).collect::<String>());
    rows.map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// The code as a picture, for a device with a camera.
fn qr(code: &str) -> String {
    use qrcode::render::unicode::Dense1x2;
    // Six words always fit.
    qrcode::QrCode::new(code.to_ascii_uppercase()).map_or_else(
        |_| String::new(),
        |qr| qr.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_picture_of_some_lines() {
        let picture = qr("abandon-ability-able-about-above-absent");
        let lines: Vec<&str> = picture.lines().collect();
        assert!((10..40).contains(&lines.len()), "{picture}");
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()));
    }

    #[test]
    fn words_are_numbered_down_three_columns() {
        let words: Vec<String> = (1..=24).map(|n| format!("w{n}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let text = in_columns(&words);
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(first.split_whitespace().collect::<Vec<_>>(), ["1.", "w1", "9.", "w9", "17.", "w17"]);
        assert_eq!(text.lines().count(), 8);
    }
}
