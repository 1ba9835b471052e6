//! Devices and invites with real programs: a code read off a terminal, a phrase on paper, a link from a chat.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use crate::common::{Member, Server, Team, recorder, wait_for};

const LONG: Duration = Duration::from_secs(30);

/// Runs `kegfs` with lines for its standard input.
fn told(member: &Member, args: &[&str], lines: &str) -> Output {
    let mut child = start(member, args);
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn start(member: &Member, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kegfs"));
    command.arg("--profile").arg(&member.profile).arg("--passphrase-file").arg(member.passphrase_file()).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(words), "{message}");
}

/// `account join` on a new device called `name`, and its code.
fn join(dir: &Path, server: &Server, name: &str) -> (Member, Child, BufReader<ChildStdout>, String) {
    let new = Member::blank(dir, name);
    let mut joining = start(&new, &["account", "join", "--server", &server.url(), "--device", name]);
    let mut out = BufReader::new(joining.stdout.take().unwrap());
    let code = line(&mut out);
    (new, joining, out, code)
}

fn line(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn say(child: &mut Child, line: &str) {
    child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// A new device called `name` of `member`'s account, by a code and the words that both show; what the old device said.
fn add_device(dir: &Path, server: &Server, member: &Member, name: &str) -> (Member, String) {
    let (mut new, mut joining, mut out, code) = join(dir, server, name);
    let mut adding = start(member, &["device", "add"]);
    say(&mut adding, &code);
    let words = line(&mut out);
    assert_eq!(words.split(' ').count(), 3, "{words}");
    // Each is told what the other shows.
    say(&mut adding, &words);
    let look: Vec<String> = member
        .ok(&[&["device", "add", "--look"], &*code.split('-').collect::<Vec<_>>()].concat())
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(look, [format!("device  {name}"), format!("words   {words}")]);
    say(&mut joining, &words);
    let said = adding.wait_with_output().unwrap();
    let said = format!("{}{}", succeeded(&said), String::from_utf8_lossy(&said.stderr));
    succeeded(&joining.wait_with_output().unwrap());
    let shown: serde_json::Value = serde_json::from_str(&new.ok(&["account", "show", "--json"])).unwrap();
    new.account = shown["id"].as_str().unwrap().to_owned();
    (new, said)
}

#[test]
fn a_device_whose_words_were_not_seen_on_both_sides_does_not_come_in() {
    let team = Team::new();
    let (dir, server, alice) = (team.dir.path(), &team.server, &team.alice);
    let nothing = |new: &Member| {
        assert!(!new.profile.join("config.json").exists() && !new.profile.join("keystore").exists());
        assert!(!alice.ok(&["device", "list"]).contains("phone"));
    };
    // A program that says yes without naming the words, here and there.
    let (new, mut joining, mut out, code) = join(dir, server, "phone");
    let said = told(alice, &["device", "add"], &format!("{code}\ny\n"));
    refused(&said, 5, "nothing was changed");
    say(&mut joining, &line(&mut out));
    refused(&joining.wait_with_output().unwrap(), 5, "nothing was changed");
    nothing(&new);
    let (new, mut joining, mut out, code) = join(dir, server, "phone");
    let adding = start(alice, &[&["device", "add"], &*code.split('-').collect::<Vec<_>>()].concat());
    let words = line(&mut out);
    say(&mut joining, "yes");
    refused(&joining.wait_with_output().unwrap(), 5, "different words");
    let mut adding = adding;
    say(&mut adding, &words);
    refused(&adding.wait_with_output().unwrap(), 5, "nothing was changed");
    nothing(&new);
    // Words of another exchange, as an argument.
    let (new, joining, _out, code) = join(dir, server, "phone");
    let with = ["device", "add", "--words", &words];
    refused(&alice.kegfs(&[&with[..], &code.split('-').collect::<Vec<_>>()].concat()), 5, "different words");
    refused(&joining.wait_with_output().unwrap(), 2, "nobody to ask");
    nothing(&new);
}

fn link(output: &str) -> String {
    output.lines().find(|line| line.starts_with("kegfs://")).unwrap().to_owned()
}

#[test]
fn a_second_device_by_a_code_shows_the_same_folder_until_it_is_revoked() {
    let mut team = Team::new();
    let (ours, theirs) = team.mount();
    fs::write(ours.join("plan.txt"), "plan").unwrap();
    let (mut phone, said) = add_device(team.dir.path(), &team.server, &team.alice, "phone");
    assert!(said.contains("'phone'"), "{said}");
    assert_eq!(phone.account, team.alice.account);
    let pocket = phone.mount("acme");
    wait_for("the file on the phone", LONG, || {
        fs::read_to_string(pocket.join("plan.txt")).is_ok_and(|it| it == "plan")
    });
    fs::write(pocket.join("photo"), "from the phone").unwrap();
    wait_for("the photo at bob's", LONG, || fs::read_to_string(theirs.join("photo")).is_ok());
    assert!(team.alice.ok(&["device", "list"]).contains("phone"));
    team.alice.ok(&["device", "rename", "phone", "old phone"]);

    refused(&team.alice.kegfs(&["device", "revoke", "laptop"]), 5, "from another one");
    refused(&team.alice.kegfs(&["device", "revoke", "tablet"]), 1, "no device 'tablet'");
    let said = team.alice.ok(&["device", "revoke", "old phone"]);
    assert!(said.contains("acme: has a new key"), "{said}");
    // The phone notices, locks itself and says so.
    wait_for("the phone to lock itself", LONG, || phone.daemon_pid().is_none());
    assert!(fs::read_dir(&pocket).unwrap().next().is_none(), "nothing is mounted there");
    let status = phone.ok(&["status"]);
    assert!(status.contains("REVOKED") && status.contains("old phone"), "{status}");
    refused(&phone.kegfs(&["folder", "list"]), 5, "was revoked");
    // The others go on.
    fs::write(ours.join("later"), "not for the phone").unwrap();
    wait_for("bob to read on", LONG, || fs::read_to_string(theirs.join("later")).is_ok());
}

#[test]
fn the_recovery_phrase_on_real_programs() {
    let team = Team::new();
    refused(&told(&team.alice, &["account", "recovery"], "no\nno\nno\n"), 1, "nothing was changed");
    assert!(!team.alice.ok(&["device", "list"]).contains("on paper"));
    let made: serde_json::Value =
        serde_json::from_str(&team.alice.ok(&["account", "recovery", "--no-confirm", "--json"])).unwrap();
    let words: Vec<&str> = made["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(words.len(), 24);
    assert!(team.alice.ok(&["device", "list"]).contains("on paper"));
    refused(&team.alice.kegfs(&["account", "recovery", "--no-confirm"]), 5, "recovery phrase already");

    let mut back = Member::blank(team.dir.path(), "back");
    let phrase = team.dir.path().join("phrase");
    let recover = |back: &Member, text: &str| {
        fs::write(&phrase, text).unwrap();
        fs::set_permissions(&phrase, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let url = team.server.url();
        let args = ["account", "recover", "--server", &url, "--account", &team.alice.account, "--device", "new"];
        back.kegfs(&[&args[..], &["--phrase-file", phrase.to_str().unwrap()]].concat())
    };
    refused(&recover(&back, &words[1..].join(" ")), 2, "24 words");
    let strange = "abandon ".repeat(23) + "art";
    refused(&recover(&back, &strange), 5, "compare the words");
    assert!(!back.profile.join("config.json").exists());
    succeeded(&recover(&back, &words.join(" ")));
    let there = back.mount("acme");
    fs::write(there.join("back"), "again").unwrap();
    assert!(back.ok(&["device", "revoke", "laptop"]).contains("acme: has a new key"));
    assert!(back.ok(&["member", "list", "acme"]).contains("bob"));
}

/// Row 12 on real programs: nothing that passed the wire and nothing that the server keeps has the link's secret.
#[test]
fn somebody_with_the_program_and_a_link_is_in_the_folder_and_the_secret_never_reaches_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let proxy = recorder::Recorder::start(&dir.path().join("wire"), server.port);
    let url = proxy.url.clone();
    let mut team = Team::on(dir, server, &url);
    let (ours, _) = team.mount();
    fs::write(ours.join("welcome"), "hello carol").unwrap();
    team.alice.sync();
    let made = team.alice.ok(&["invite", "acme", "--role", "editor", "--expires", "2d", "--json"]);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let link = made["link"].as_str().unwrap().to_owned();
    assert!(team.alice.ok(&["invite", "acme", "--list"]).contains(made["id"].as_str().unwrap()));

    let mut carol = Member::blank(team.dir.path(), "carol");
    refused(&carol.kegfs(&["accept", &link[..link.len() - 3], "--name", "carol"]), 2, "cut off");
    refused(&carol.kegfs(&["accept", "https://example.com", "--name", "carol"]), 2, "not an invite link");
    refused(&carol.kegfs(&["accept", &link]), 2, "--name");
    assert!(!carol.profile.join("config.json").exists(), "nothing was changed");
    let said = succeeded(&told(&carol, &["accept", "--name", "carol"], &format!("{link}\n")));
    assert!(said.contains("you are in acme as editor"), "{said}");
    let hers = carol.mount("acme");
    wait_for("the file", LONG, || fs::read_to_string(hers.join("welcome")).is_ok_and(|it| it == "hello carol"));
    // One use.
    let dave = Member::blank(team.dir.path(), "dave");
    refused(&dave.kegfs(&["accept", &link, "--name", "dave"]), 5, "used up");
    assert!(!dave.profile.join("config.json").exists() && !dave.profile.join("keystore").exists());
    refused(&team.bob.kegfs(&["invite", "acme"]), 5, "Editor");
    refused(&team.alice.kegfs(&["invite", "acme", "--expires", "2020-01-01"]), 2, "past");
    refused(&team.alice.kegfs(&["invite", "acme", "--cancel", "00000000"]), 5, "no open invite");
    // Cancelled: for who has an account, and for who has none.
    let second = link_of(&team, "viewer");
    let id = team.alice.ok(&["invite", "acme", "--list", "--json"]);
    let id: serde_json::Value = serde_json::from_str(&id).unwrap();
    team.alice.ok(&["invite", "acme", "--cancel", id[0]["id"].as_str().unwrap()]);
    refused(&dave.kegfs(&["accept", &second, "--name", "dave"]), 5, "used up");
    let erin = Member::create(team.dir.path(), "erin", &url, &team.server.invite());
    refused(&erin.kegfs(&["accept", &second]), 5, "cancelled");
    assert!(!team.alice.ok(&["member", "list", "acme"]).contains("erin"));

    let payload = link.split_once("/#").unwrap().1;
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload).unwrap();
    // The 32 bytes after their CBOR head; the layout is frozen in src/cli/link.rs.
    let at = bytes.windows(2).enumerate().filter(|(_, pair)| *pair == [0x58, 0x20]).nth(1).unwrap().0 + 2;
    let secret = bytes[at..at + 32].to_vec();
    let needles = [
        ("secret".to_owned(), secret.clone()),
        ("hex".to_owned(), hex::encode(&secret).into_bytes()),
        ("link".to_owned(), payload.as_bytes()[..60].to_vec()),
    ];
    assert_eq!(recorder::search(&proxy.dir, &needles), Vec::<String>::new(), "the wire");
    assert_eq!(recorder::search(&team.server.data, &needles), Vec::<String>::new(), "the server");
    let present = [("redemptions".to_owned(), b"/redemptions".to_vec())];
    assert!(!recorder::search(&proxy.dir, &present).is_empty(), "the recorder has seen the exchange");
}

fn link_of(team: &Team, role: &str) -> String {
    link(&team.alice.ok(&["invite", "acme", "--role", role]))
}
