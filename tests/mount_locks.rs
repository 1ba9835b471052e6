//! Locks across members, on real mounts against a real `kegd`: flock(2) and fcntl(2) as programs use them.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Server, Team, wait_for};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

const SOON: Duration = Duration::from_secs(20);
/// Where a test waits for it: the server keeps a lock that long for a device that is not heard of.
const LEASE: Duration = Duration::from_secs(3);
/// Who is told that a lock is free has it at once, on cores that do nothing else; who is not told asks after a third of
/// ten seconds. Between the two.
const UNTOLD: Duration = Duration::from_secs(2);

/// A team whose server keeps locks for [`LEASE`] instead of ten seconds.
fn team() -> Team {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--lock-lease", &LEASE.as_secs().to_string()]);
    let url = server.url();
    Team::on(dir, server, &url)
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// A file of both, seen by both.
fn shared_file(alice: &Path, bob: &Path, name: &str, content: &[u8]) -> (PathBuf, PathBuf) {
    fs::write(alice.join(name), content).unwrap();
    wait_for("the file to arrive", SOON, || fs::read(bob.join(name)).is_ok_and(|there| there == content));
    (alice.join(name), bob.join(name))
}

fn range(typ: i32, start: i64, len: i64) -> libc::flock {
    // The type fits: F_RDLCK, F_WRLCK, F_UNLCK.
    libc::flock { l_type: typ as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}

fn set(file: &File, typ: i32, start: i64, len: i64) -> Result<(), Errno> {
    fcntl(file.as_fd(), FcntlArg::F_SETLK(&range(typ, start, len))).map(drop)
}

fn set_wait(file: &File, typ: i32, start: i64, len: i64) -> Result<(), Errno> {
    fcntl(file.as_fd(), FcntlArg::F_SETLKW(&range(typ, start, len))).map(drop)
}

fn set_ofd(file: &File, typ: i32, start: i64, len: i64) -> Result<(), Errno> {
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&range(typ, start, len))).map(drop)
}

/// Who is in the way of an exclusive lock: type, first byte, length.
fn get(file: &File, start: i64, len: i64) -> (i32, i64, i64) {
    let mut found = range(libc::F_WRLCK, start, len);
    fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut found)).unwrap();
    (i32::from(found.l_type), found.l_start, found.l_len)
}

/// A program that holds an exclusive flock until it is killed.
struct Holder(Child);

impl Holder {
    fn start(path: &Path) -> Self {
        let mut command = Command::new("flock");
        command.args(["-F", "-x"]).arg(path).args(["sh", "-c", "echo locked; exec sleep 600"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut word = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_exclusive_lock_keeps_the_other_member_out_and_hands_over_what_was_written() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (ours, theirs) = shared_file(&alice, &bob, "shared", b"0");
    let mut waited = Vec::new();
    for round in 1..=10u32 {
        let (mut here, there) =
            if round % 2 == 1 { (open(&ours), open(&theirs)) } else { (open(&theirs), open(&ours)) };
        here.lock().unwrap();
        assert!(there.try_lock().is_err(), "round {round}");
        assert!(there.try_lock_shared().is_err(), "round {round}");
        let waiting = thread::spawn(move || {
            there.lock().unwrap();
            let woken = Instant::now();
            let mut text = String::new();
            (&there).read_to_string(&mut text).unwrap();
            (woken, text)
        });
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        here.set_len(0).unwrap();
        here.write_all(round.to_string().as_bytes()).unwrap();
        let released = Instant::now();
        here.unlock().unwrap();
        let (woken, text) = waiting.join().unwrap();
        assert_eq!(text, round.to_string(), "what was written under the lock is there with it");
        waited.push(woken - released);
    }
    waited.sort();
    println!("handover with a write: median {:?}, longest {:?}", waited[5], waited[9]);
    // The median: a single round may meet a machine that is busy with something else.
    assert!(waited[5] < Duration::from_millis(500), "{waited:?}");
}

#[test]
fn two_members_count_in_one_file_and_lose_nothing() {
    const EACH: u32 = 15;
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (ours, theirs) = shared_file(&alice, &bob, "counter", b"0");
    // Two programs of each member.
    let counting: Vec<_> = [&ours, &theirs, &ours, &theirs]
        .map(|path| {
            let path = path.clone();
            thread::spawn(move || {
                for _ in 0..EACH {
                    let mut file = open(&path);
                    file.lock().unwrap();
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    let next = text.parse::<u32>().unwrap() + 1;
                    file.seek(SeekFrom::Start(0)).unwrap();
                    file.write_all(next.to_string().as_bytes()).unwrap();
                    // Closing unlocks.
                }
            })
        })
        .into_iter()
        .collect();
    counting.into_iter().for_each(|thread| thread.join().unwrap());
    let expected = (4 * EACH).to_string();
    wait_for("the last count", SOON, || {
        fs::read_to_string(&ours).unwrap() == expected && fs::read_to_string(&theirs).unwrap() == expected
    });
    assert_eq!(fs::read_dir(&alice).unwrap().count(), 1, "no conflict");
}

/// What is locked is one file, what is written another, and both stay open all the time.
#[test]
fn what_was_written_to_other_files_under_a_lock_is_there_with_it() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let locks = shared_file(&alice, &bob, "lock", b"");
    let data = shared_file(&alice, &bob, "data", b"0");
    let (ours, theirs) = ((open(&locks.0), open(&data.0)), (open(&locks.1), open(&data.1)));
    for round in 1..=6_u8 {
        let ((lock, file), (their_lock, their_file)) = if round % 2 == 1 { (&ours, &theirs) } else { (&theirs, &ours) };
        lock.lock().unwrap();
        file.write_all_at(&[b'0' + round], 0).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                their_lock.lock().unwrap();
                let mut text = [0];
                their_file.read_exact_at(&mut text, 0).unwrap();
                their_lock.unlock().unwrap();
                text
            });
            thread::sleep(Duration::from_millis(50));
            lock.unlock().unwrap();
            assert_eq!(waiting.join().unwrap(), [b'0' + round], "round {round}");
        });
    }
    for dir in [&alice, &bob] {
        wait_for("the last round", SOON, || fs::read(dir.join("data")).is_ok_and(|there| there == b"6"));
        assert_eq!(fs::read_dir(dir).unwrap().count(), 2, "no conflict");
    }
}

#[test]
fn ranges_of_two_members_are_locked_beside_each_other_and_not_over_each_other() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (ours, theirs) = shared_file(&alice, &bob, "ranges", &[0; 100]);
    let (here, there) = (open(&ours), open(&theirs));
    set(&here, libc::F_WRLCK, 0, 10).unwrap();
    set(&there, libc::F_WRLCK, 10, 10).unwrap();
    assert_eq!(set(&there, libc::F_WRLCK, 5, 10), Err(Errno::EAGAIN));
    assert_eq!(set(&here, libc::F_RDLCK, 19, 1), Err(Errno::EAGAIN));
    // Nothing was lost by the failed attempts; the middle is cut out.
    set(&here, libc::F_UNLCK, 4, 2).unwrap();
    wait_for("the hole", SOON, || set(&there, libc::F_RDLCK, 4, 2).is_ok());
    assert_eq!(set(&there, libc::F_RDLCK, 3, 1), Err(Errno::EAGAIN));
    assert_eq!(set(&there, libc::F_RDLCK, 6, 1), Err(Errno::EAGAIN));
    // Readers together, the writer not.
    set(&here, libc::F_RDLCK, 50, 0).unwrap();
    set(&there, libc::F_RDLCK, 50, 0).unwrap();
    assert_eq!(set(&there, libc::F_WRLCK, 60, 1), Err(Errno::EAGAIN));
    assert_eq!(get(&there, 60, 1), (libc::F_RDLCK, 50, 0), "F_GETLK tells what is in the way");
    set(&here, libc::F_UNLCK, 50, 0).unwrap();
    wait_for("the writer alone", SOON, || set(&there, libc::F_WRLCK, 60, 1).is_ok());
    // A waiting one is woken.
    let waiting = thread::spawn(move || {
        set_wait(&there, libc::F_WRLCK, 0, 3).unwrap();
        (there, Instant::now())
    });
    thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    let released = Instant::now();
    set(&here, libc::F_UNLCK, 0, 0).unwrap();
    let (there, woken) = waiting.join().unwrap();
    assert!(woken - released < UNTOLD, "{:?}", woken - released);
    // Closing any descriptor of the file releases what the process has locked with fcntl, as POSIX has it.
    drop(open(&theirs));
    drop(there);
    wait_for("everything", SOON, || set(&here, libc::F_WRLCK, 0, 0).is_ok());
}

#[test]
fn flock_and_fcntl_do_not_see_each_other_and_open_file_descriptions_lock_for_themselves() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (ours, theirs) = shared_file(&alice, &bob, "kinds", b"x");
    let (here, there) = (open(&ours), open(&theirs));
    // One program, both kinds, as some mail programs do.
    here.lock().unwrap();
    set(&here, libc::F_WRLCK, 0, 0).unwrap();
    assert!(there.try_lock().is_err());
    assert_eq!(set(&there, libc::F_WRLCK, 0, 0), Err(Errno::EAGAIN));
    here.unlock().unwrap();
    wait_for("the flock alone", SOON, || there.try_lock().is_ok());
    assert_eq!(set(&there, libc::F_WRLCK, 0, 0), Err(Errno::EAGAIN));
    set(&here, libc::F_UNLCK, 0, 0).unwrap();
    there.unlock().unwrap();
    // Two open file descriptions of one process are in each other's way, on one mount and on two.
    let second = open(&ours);
    set_ofd(&here, libc::F_WRLCK, 0, 10).unwrap();
    assert_eq!(set_ofd(&second, libc::F_WRLCK, 5, 1), Err(Errno::EAGAIN));
    wait_for("the answer of the other mount", SOON, || set_ofd(&there, libc::F_WRLCK, 5, 1) == Err(Errno::EAGAIN));
    // Closing another description of the file changes nothing; closing this one releases.
    drop(second);
    assert_eq!(set_ofd(&there, libc::F_WRLCK, 5, 1), Err(Errno::EAGAIN));
    drop(here);
    wait_for("the closed description's range", SOON, || set_ofd(&there, libc::F_WRLCK, 5, 1).is_ok());
    // What `.keg` shows is made anew for everybody who opens it.
    let status = File::open(alice.join(".keg/status")).unwrap();
    assert_eq!(set(&status, libc::F_RDLCK, 0, 0), Err(Errno::ENOLCK));
    assert!(
        matches!(status.try_lock_shared(), Err(fs::TryLockError::Error(error)) if error.raw_os_error() == Some(libc::ENOLCK))
    );
}

#[test]
fn a_waiting_program_can_be_interrupted_and_a_killed_one_lets_go_at_once() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (ours, theirs) = shared_file(&alice, &bob, "held", b"x");
    let holder = Holder::start(&ours);
    for path in [&ours, &theirs] {
        let mut waiting = Command::new("flock").args(["-F", "-x"]).arg(path).arg("true").spawn().unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(waiting.try_wait().unwrap().is_none(), "it waits");
        let signalled = Instant::now();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(waiting.id() as i32), nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        let status = waiting.wait().unwrap();
        assert!(!status.success());
        assert!(signalled.elapsed() < UNTOLD, "{:?}", signalled.elapsed());
    }
    // Who was interrupted is not in the queue any more, and the holder's end is noticed at once.
    let waiting = thread::spawn(move || {
        open(&theirs).lock().unwrap();
        Instant::now()
    });
    thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    let killed = Instant::now();
    drop(holder);
    let woken = waiting.join().unwrap();
    assert!(woken - killed < UNTOLD, "{:?}", woken - killed);
}

#[test]
fn a_dead_members_lock_is_free_after_the_lease_and_is_shown_until_then() {
    let mut team = team();
    let (alice, bob) = team.mount();
    let (ours, theirs) = shared_file(&alice, &bob, "left", b"x");
    let here = open(&ours);
    here.lock().unwrap();
    let there = open(&theirs);
    assert!(there.try_lock().is_err());
    // Of others a status tells what the server tells in a moment.
    wait_for("the status to tell", SOON, || {
        team.bob.ok(&["status"]).contains("acme/left: alice's laptop has flock exclusive")
    });
    for dir in [&alice, &bob] {
        wait_for(".keg/status to tell", SOON, || {
            let page = fs::read_to_string(dir.join(".keg/status")).unwrap();
            page.contains("acme/left: alice's laptop has flock exclusive")
        });
    }
    let own: serde_json::Value = serde_json::from_str(&team.alice.ok(&["status", "--json"])).unwrap();
    let lock = &own["folders"][0]["locks"][0];
    assert_eq!((lock["path"].as_str(), lock["mine"].as_bool()), (Some("left"), Some(true)), "{own}");
    let killed = Instant::now();
    team.alice.kill9();
    drop(here);
    there.lock().unwrap();
    let waited = killed.elapsed();
    println!("free {waited:?} after the holder's process was killed");
    assert!(waited < LEASE + Duration::from_secs(2), "{waited:?}");
    let shown = team.bob.ok(&["status"]);
    assert!(shown.contains("acme/left: bob's laptop has flock exclusive") && !shown.contains("alice"), "{shown}");
}

#[test]
fn open_file_descriptions_that_wait_for_each_other_are_not_refused() {
    let mut team = Team::new();
    let (alice, _) = team.mount();
    let path = alice.join("f");
    fs::write(&path, "x").unwrap();
    let (here, there) = (open(&path), open(&path));
    set_ofd(&here, libc::F_WRLCK, 0, 1).unwrap();
    set_ofd(&there, libc::F_WRLCK, 1, 1).unwrap();
    let wants = |file: &File, start| {
        let file = file.try_clone().unwrap();
        thread::spawn(move || fcntl(file.as_fd(), FcntlArg::F_OFD_SETLKW(&range(libc::F_WRLCK, start, 1))))
    };
    let (one, other) = (wants(&here, 1), wants(&there, 0));
    thread::sleep(Duration::from_millis(300));
    assert!(!one.is_finished() && !other.is_finished());
    set_ofd(&there, libc::F_UNLCK, 1, 1).unwrap();
    assert!(one.join().unwrap().is_ok());
    set_ofd(&here, libc::F_UNLCK, 0, 1).unwrap();
    assert!(other.join().unwrap().is_ok());
}

#[test]
fn a_stopped_members_program_gets_no_lock_that_another_member_has_been_given_meanwhile() {
    let mut team = team();
    let (alice, bob) = team.mount();
    let (ours, theirs) = shared_file(&alice, &bob, "lent", b"x");
    let (here, there) = (open(&ours), open(&theirs));
    // From now on the file is lent to Alice's machine, which locks without asking.
    here.lock().unwrap();
    here.unlock().unwrap();
    let daemon = nix::unistd::Pid::from_raw(team.alice.daemon_pid().unwrap() as i32);
    // Not by a program, which could not be started while a file of the stopped mount is open here.
    let signal = |signal| nix::sys::signal::kill(daemon, signal).unwrap();
    signal(nix::sys::signal::Signal::SIGSTOP);
    // Its other threads go on until the one that the signal was given to has a processor.
    wait_for("all of it to stop", SOON, || {
        let tasks = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
        tasks.into_iter().all(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    });
    let stopped = Instant::now();
    let waiting = thread::spawn(move || {
        here.lock().unwrap();
        (here, Instant::now())
    });
    there.lock().unwrap();
    assert!(stopped.elapsed() < LEASE + Duration::from_secs(2), "{:?}", stopped.elapsed());
    signal(nix::sys::signal::Signal::SIGCONT);
    thread::sleep(Duration::from_secs(1));
    assert!(!waiting.is_finished(), "both have it");
    let shown = team.alice.ok(&["status"]);
    assert!(!shown.contains("BROKEN"), "{shown}");
    let released = Instant::now();
    there.unlock().unwrap();
    let (_here, woken) = waiting.join().unwrap();
    assert!(woken > released && woken - released < UNTOLD, "{:?}", woken - released);
}

#[test]
fn locks_survive_a_restart_of_the_server_and_a_new_key_and_not_a_removal() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (ours, theirs) = shared_file(&alice, &bob, "kept", b"x");
    let (here, there) = (open(&ours), open(&theirs));
    there.lock().unwrap();
    assert!(here.try_lock().is_err());

    team.server.kill9();
    team.server.restart();
    // Whether the holder or the other comes first: the holder keeps it.
    assert!(here.try_lock().is_err());
    wait_for("both to be back", SOON, || {
        [&team.alice, &team.bob].iter().all(|member| member.ok(&["status"]).contains("up to date"))
    });
    assert!(here.try_lock().is_err());

    team.alice.ok(&["rotate", "acme"]);
    assert!(here.try_lock().is_err());
    thread::sleep(Duration::from_millis(500));
    assert!(here.try_lock().is_err());

    let removed = Instant::now();
    let waiting = thread::spawn(move || {
        here.lock().unwrap();
        Instant::now()
    });
    thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    team.alice.ok(&["member", "remove", "acme", "bob"]);
    let told = Instant::now();
    let woken = waiting.join().unwrap();
    println!("free {:?} after the removal was begun", woken - removed);
    assert!(woken < told + UNTOLD, "{:?} late", woken - told);
    drop(there);
}

#[test]
fn without_a_server_programs_lock_among_themselves_and_it_is_said() {
    let mut team = team();
    let (alice, bob) = team.mount();
    let (ours, theirs) = shared_file(&alice, &bob, "alone", b"x");
    let here = open(&ours);
    here.lock().unwrap();
    let there = open(&theirs);
    assert!(there.try_lock().is_err());
    team.server.kill9();
    // For a lease the other's lock may still hold; it ends without the server, too.
    let cut = Instant::now();
    wait_for("the lock of nobody who could be asked", LEASE * 2, || there.try_lock().is_ok());
    assert!(cut.elapsed() > LEASE / 4, "{:?}", cut.elapsed());
    let second = open(&theirs);
    assert!(second.try_lock().is_err(), "among the programs of one mount it counts");
    let shown = team.bob.ok(&["status"]);
    assert!(shown.contains("bob's laptop has flock exclusive") && shown.contains("do not see these locks"), "{shown}");
    // Back again, one of the two finds that the other has it.
    team.server.restart();
    wait_for("the broken lock", SOON, || {
        [&team.alice, &team.bob].iter().any(|member| member.ok(&["status"]).contains("BROKEN"))
    });
    here.unlock().unwrap();
    there.unlock().unwrap();
    drop(second);
    wait_for("calm", SOON, || here.try_lock().is_ok_and(|()| here.unlock().is_ok()));
    assert!(!team.alice.ok(&["status"]).contains("BROKEN") && !team.bob.ok(&["status"]).contains("BROKEN"));
}

#[test]
fn two_members_write_one_sqlite_database() {
    two_members_write_a_database("", &["shop.db"]);
}

/// A transaction ends with cutting the journal to nothing, with no fsync after it: whoever is next must see that,
/// or takes the transaction back.
#[test]
fn two_members_write_one_sqlite_database_that_keeps_its_journal() {
    let kept = "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = NORMAL;";
    two_members_write_a_database(kept, &["shop.db", "shop.db-journal"]);
}

/// Leaves these files.
fn two_members_write_a_database(pragmas: &'static str, files: &[&str]) {
    const EACH: u32 = 25;
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let connect = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(60)).unwrap();
        connection.execute_batch(pragmas).unwrap();
        connection
    };
    let first = connect(&alice.join("shop.db"));
    first.execute_batch("CREATE TABLE sale (who TEXT NOT NULL, n INTEGER NOT NULL);").unwrap();
    drop(first);
    team.alice.sync();
    wait_for("the database", SOON, || {
        fs::metadata(bob.join("shop.db"))
            .is_ok_and(|there| there.len() == fs::metadata(alice.join("shop.db")).unwrap().len())
    });
    let start = Instant::now();
    let selling: Vec<_> = [("alice", &alice), ("bob", &bob)]
        .map(|(who, dir)| {
            let path = dir.join("shop.db");
            thread::spawn(move || {
                let connection = connect(&path);
                for n in 0..EACH {
                    connection.execute("INSERT INTO sale VALUES (?,?)", rusqlite::params![who, n]).unwrap();
                }
            })
        })
        .into_iter()
        .collect();
    selling.into_iter().for_each(|thread| thread.join().unwrap());
    println!("{} transactions of two members in {:?}", 2 * EACH, start.elapsed());
    for dir in [&alice, &bob] {
        wait_for("all sales", SOON, || {
            let count =
                connect(&dir.join("shop.db")).query_row("SELECT count(*) FROM sale", [], |row| row.get::<_, u32>(0));
            count == Ok(2 * EACH)
        });
        let sound: String =
            connect(&dir.join("shop.db")).query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, files, "no conflict, no other journal left");
    }
}
