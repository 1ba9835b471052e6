//! `kegfs doctor` on real folders.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use super::Alone;

fn doctor(alone: &Alone, args: &[&str]) -> (Option<i32>, Value) {
    let out = alone.alice.kegfs(&[&["doctor", "--json"], args].concat());
    let shown = String::from_utf8(out.stdout).unwrap();
    (out.status.code(), serde_json::from_str(&shown).unwrap_or_else(|_| panic!("{shown}")))
}

#[test]
fn doctor_lists_names_that_clash_or_are_illegal_elsewhere_and_its_proposals_mend_them() {
    let alone = Alone::set_up();
    let (code, found) = doctor(&alone, &[]);
    assert_eq!(code, Some(0), "{found}");
    let checks: Vec<_> =
        found["checks"].as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
    assert_eq!(checks, ["fuse-device", "fuse-helper", "disk", "account", "server"]);

    let deep = alone.mnt.join("plans/2026");
    fs::create_dir_all(&deep).unwrap();
    for name in ["Readme.md", "README.md", "caf\u{e9}", "cafe\u{301}", "aux.txt", "what?", "end.", "fine.txt"] {
        fs::write(deep.join(name), name).unwrap();
    }
    fs::write(deep.join(OsStr::from_bytes(b"B\xfccher")), b"latin").unwrap();
    fs::create_dir(alone.mnt.join("con")).unwrap();
    fs::write(alone.mnt.join("con/inside"), b"x").unwrap();
    let long = alone.mnt.join("l".repeat(200));
    fs::create_dir(&long).unwrap();
    fs::write(long.join("m".repeat(60)), b"x").unwrap();

    // With the mount alive, the background process answers.
    let (code, found) = doctor(&alone, &["acme"]);
    assert_eq!(code, Some(10));
    let folder = &found["folders"][0];
    assert_eq!(
        (&folder["folder"], folder["names"].as_u64(), folder["total"].as_u64()),
        (&"acme".into(), Some(15), Some(8))
    );
    let troubles = |finding: &Value| -> Vec<String> {
        let of = |one: &Value| format!("{} {}", one["trouble"].as_str().unwrap(), one["systems"]);
        finding["problems"].as_array().unwrap().iter().map(of).collect()
    };
    let findings: Vec<_> =
        folder["findings"].as_array().unwrap().iter().map(|one| (one["path"].clone(), troubles(one))).collect();
    let is = |path: &str, trouble: &str| {
        assert!(
            findings.iter().any(|(found, troubles)| found == path && troubles.as_slice() == [trouble]),
            "{path} {trouble}: {findings:#?}"
        )
    };
    is("con", "reserved [\"Windows\"]");
    is("plans/2026/README.md", "clash [\"Windows\",\"macOS\"]");
    is("plans/2026/cafe\u{301}", "clash [\"macOS\"]");
    is("plans/2026/aux.txt", "reserved [\"Windows\"]");
    is("plans/2026/what?", "character [\"Windows\"]");
    is("plans/2026/end.", "ending [\"Windows\"]");
    is(&format!("{}/{}", "l".repeat(200), "m".repeat(60)), "path_length [\"Windows\"]");

    // All are counted, and as many listed as wanted.
    let (_, some) = doctor(&alone, &["acme", "--limit", "3"]);
    assert_eq!(
        (some["folders"][0]["findings"].as_array().unwrap().len(), some["folders"][0]["total"].as_u64()),
        (3, Some(8))
    );
    let text = alone.alice.kegfs(&["doctor", "acme", "-n", "3"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("8 of 15 names do not work") && text.contains("and 5 more"), "{text}");

    // What it proposes is free, and right.
    for finding in folder["findings"].as_array().unwrap() {
        let Some(name) = finding["rename_to"].as_str() else { continue };
        let path = match &finding["path"] {
            Value::String(path) => alone.mnt.join(path),
            raw => {
                let bytes: Vec<u8> = serde_json::from_value(raw.clone()).unwrap();
                alone.mnt.join(OsStr::from_bytes(&bytes))
            }
        };
        let better = path.with_file_name(name);
        assert!(!better.exists(), "{better:?} is taken");
        fs::rename(&path, &better).unwrap();
    }
    assert_eq!(fs::read(deep.join("Bücher")).unwrap(), b"latin");
    let (code, found) = doctor(&alone, &["acme"]);
    assert_eq!((code, found["folders"][0]["total"].as_u64()), (Some(10), Some(1)));
    fs::remove_file(long.join("m".repeat(60))).unwrap();
    assert_eq!(doctor(&alone, &[]).0, Some(0));
}

#[test]
fn doctor_says_what_is_wrong_with_the_installation() {
    let mut alone = Alone::set_up();
    let mnt = alone.mnt.clone();
    alone.alice.unmount(&mnt);
    alone.server.kill9();
    let (code, found) = doctor(&alone, &[]);
    let server = found["checks"].as_array().unwrap().iter().find(|check| check["check"] == "server").unwrap();
    assert_eq!((code, &server["ok"]), (Some(10), &Value::Bool(false)), "{found}");
    // The names are looked at all the same: they are here.
    assert_eq!(found["folders"][0]["folder"], "acme");
    // Before there is an account.
    let dir = tempfile::tempdir().unwrap();
    let empty = super::common::Member::blank(dir.path(), "nobody");
    let out = empty.kegfs(&["doctor"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.code() == Some(10) && text.contains("kegfs account create"), "{text}");
}
