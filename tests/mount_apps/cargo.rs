//! cargo: sources and target directory in the mount, with a build script and, in the full size, procedural macros.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{run, sized, soon, step};
use crate::common::tree::digest;
use crate::common::{Team, wait_for};

/// The unpacked source of a crate that this project is built from.
fn source(name: &str) -> PathBuf {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cargo"));
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    // The newest where there are several: they are in ascending order.
    let before = format!("name = \"{name}\"\nversion = \"");
    let version = lock.split(&before).skip(1).last().unwrap().split('"').next().unwrap();
    let registries = fs::read_dir(home.join("registry/src")).unwrap().flatten();
    let mut found = registries.map(|registry| registry.path().join(format!("{name}-{version}")));
    found.find(|path| path.exists()).unwrap_or_else(|| panic!("{name} {version} is not unpacked in cargo's registry"))
}

fn cargo(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    // What this test itself is built with must not decide where and how that crate is built.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO") && name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    run(command.current_dir(dir).args(args).env_remove("RUSTFLAGS"))
}

#[test]
fn cargo_builds_a_crate_in_a_mount() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let project = alice.join("project");
    let vendored: &[&str] = sized(
        &["itoa", "hex"],
        &[
            "itoa",
            "hex",
            "memchr",
            "serde",
            "serde_core",
            "serde_derive",
            "serde_json",
            "syn",
            "quote",
            "proc-macro2",
            "unicode-ident",
            "zmij",
            "libc",
        ],
    );
    let uses = sized(
        (
            "itoa = \"1\"\nhex = \"0.4\"\n",
            "let mut n = itoa::Buffer::new(); println!(\"{} {}\", n.format(42), hex::encode(env!(\"MADE\")));",
        ),
        (
            "itoa = \"1\"\nhex = \"0.4\"\nserde = { version = \"1\", features = [\"derive\"] }\nserde_json = \"1\"\nlibc = \"0.2\"\n",
            "#[derive(serde::Serialize)] struct S { n: u8 } println!(\"{} {}\", serde_json::to_string(&S { n: 42 }).unwrap().trim_matches(|c: char| !c.is_ascii_digit()), hex::encode(env!(\"MADE\")));",
        ),
    );
    fs::create_dir_all(project.join("src")).unwrap();
    fs::create_dir_all(project.join(".cargo")).unwrap();
    for name in vendored {
        let to = project.join("vendor").join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        run(Command::new("cp").arg("-r").arg(source(name)).arg(&to));
        fs::write(to.join(".cargo-checksum.json"), "{\"files\":{}}").unwrap();
    }
    let manifest = "[package]\nname = \"project\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n";
    fs::write(project.join("Cargo.toml"), format!("{manifest}{}", uses.0)).unwrap();
    fs::write(project.join("src/main.rs"), format!("fn main() {{ {} }}\n", uses.1)).unwrap();
    fs::write(project.join("build.rs"), "fn main() { println!(\"cargo::rustc-env=MADE=here\"); }\n").unwrap();
    let config = "[source.crates-io]\nreplace-with = \"vendored\"\n[source.vendored]\ndirectory = \"vendor\"\n";
    fs::write(project.join(".cargo/config.toml"), config).unwrap();

    step("cargo build", || cargo(&project, &["build", "--offline", "--quiet"]));
    let binary = project.join("target/debug/project");
    let expected = format!("42 {}\n", hex::encode("here"));
    assert_eq!(run(&mut Command::new(&binary)), expected);
    let built = fs::metadata(&binary).unwrap().modified().unwrap();
    step("cargo build, nothing changed", || cargo(&project, &["build", "--offline", "--quiet"]));
    assert_eq!(fs::metadata(&binary).unwrap().modified().unwrap(), built, "what is fresh is not built again");
    fs::write(project.join("build.rs"), "fn main() { println!(\"cargo::rustc-env=MADE=anew\"); }\n").unwrap();
    step("cargo build, a change", || cargo(&project, &["build", "--offline", "--quiet"]));
    let expected = format!("42 {}\n", hex::encode("anew"));
    assert_eq!(run(&mut Command::new(&binary)), expected);

    team.alice.ok(&["sync", "--wait", "--timeout", "600"]);
    wait_for("the same tree at Bob's", soon(), || digest(&alice) == digest(&bob));
    assert_eq!(run(&mut Command::new(bob.join("project/target/debug/project"))), expected);
    step("cargo clean at the other member's", || cargo(&bob.join("project"), &["clean", "--offline", "--quiet"]));
    assert!(!bob.join("project/target").exists());
}
