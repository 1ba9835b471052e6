//! SQLite: two processes write to one database in the mount.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{run, sized, soon, step};
use crate::common::{Team, wait_for};

fn sql(database: &Path, text: &str) -> String {
    run(Command::new("sqlite3").arg("-bail").arg(database).arg(text)).trim().to_owned()
}

/// A process that does `count` transactions, each of which reads and changes what the other process changes too.
fn writer(database: &Path, who: &str, count: usize) -> Child {
    let mut child = Command::new("sqlite3")
        .arg("-bail")
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sqlite3; see scripts/setup");
    let mut input = child.stdin.take().unwrap();
    let who = who.to_owned();
    std::thread::spawn(move || {
        let mut script = String::from(".timeout 120000\n");
        for n in 0..count {
            script.push_str(&format!(
                "BEGIN IMMEDIATE; UPDATE total SET n = n + 1; INSERT INTO line (who, n, sum, text) \
                 SELECT '{who}', {n}, n, printf('%.200c', 'x') FROM total; COMMIT;\n"
            ));
        }
        let _ = input.write_all(script.as_bytes());
    });
    child
}

fn two_processes(mode: &str) {
    let each = sized(60, 50_000);
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let database = alice.join("ledger.db");
    sql(&database, &format!("PRAGMA journal_mode={mode}; CREATE TABLE total (n); INSERT INTO total VALUES (0);"));
    sql(
        &database,
        "CREATE TABLE line (id INTEGER PRIMARY KEY, who, n, sum UNIQUE, text); CREATE INDEX i ON line (who, n);",
    );
    step(&format!("2 × {each} transactions, journal_mode={mode}"), || {
        for child in [writer(&database, "one", each), writer(&database, "other", each)] {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
    let check = |database: &Path| {
        assert_eq!(sql(database, "PRAGMA integrity_check"), "ok");
        let facts = sql(database, "SELECT count(*), count(DISTINCT sum), max(sum), (SELECT n FROM total) FROM line");
        let all = 2 * each;
        assert_eq!(facts, format!("{all}|{all}|{all}|{all}"));
        assert_eq!(
            sql(database, "SELECT group_concat(c) FROM (SELECT count(*) c FROM line GROUP BY who)"),
            format!("{each},{each}")
        );
    };
    check(&database);
    team.alice.ok(&["sync", "--wait", "--timeout", "600"]);
    let theirs = bob.join("ledger.db");
    wait_for("the database at Bob's", soon(), || {
        std::fs::read(&theirs).ok() == std::fs::read(&database).ok() && !bob.join("ledger.db-journal").exists()
    });
    check(&theirs);
}

#[test]
fn two_processes_share_a_database_with_a_rollback_journal() {
    two_processes("delete");
}

#[test]
fn two_processes_share_a_database_with_a_write_ahead_log() {
    two_processes("wal");
}
