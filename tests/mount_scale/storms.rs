//! Storms of names, from both members at once: both mounts are equal afterwards, no operation failed in a way that a
//! local file system could not have, and nothing got stuck.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::tree::{digest, digest_by, digest_file};
use crate::common::watchdog::{Watchdog, storm_time};
use crate::common::{Team, wait_for};

/// Longer than the deadline of any operation of the file system.
pub const STUCK: Duration = Duration::from_secs(60);

/// What went wrong in the threads of a storm.
#[derive(Default)]
pub struct Wrong {
    found: Mutex<Vec<String>>,
    /// Another member moves directories. The kernel keeps one place for each; told of another while one of its own
    /// renames is under way, it answers ESTALE, as it does for NFS (fs/dcache.c, `__d_unalias`), and ELOOP where the new
    /// place is below the old one (`d_splice_alias`).
    moving: bool,
}

impl Wrong {
    /// Notes an error that no local file system would have given either. Names come and go meanwhile, so these may be:
    /// ENOENT, EEXIST, ENOTEMPTY, ENOTDIR, EISDIR, EINVAL (a directory into itself).
    pub fn judge<T>(&self, what: impl FnOnce() -> String, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(error) if matches!(error.raw_os_error(), Some(2 | 17 | 39 | 20 | 21 | 22)) => {}
            Err(error) if self.moving && matches!(error.raw_os_error(), Some(116 | 40)) => {}
            Err(error) => self.note(format!("{}: {error}", what())),
        }
        None
    }

    pub fn note(&self, what: String) {
        self.found.lock().unwrap().push(what);
    }

    pub fn check(&self) {
        let wrong = self.found.lock().unwrap();
        assert!(wrong.is_empty(), "{} wrong, the first: {:#?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    }
}

/// Numbers that look random, the same in every run.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `n`.
    pub fn roll(&mut self, n: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

pub fn watch(team: &Team) -> Watchdog {
    let clients = [&team.alice, &team.bob].map(|member| member.daemon_pid().unwrap());
    Watchdog::start(STUCK, clients.to_vec())
}

/// Everything has settled, and both see the same.
pub fn equal(team: &Team, dog: &Watchdog, [one, other]: [&Path; 2]) {
    dog.doing("kegfs sync --wait", || {
        team.alice.sync();
        team.bob.sync();
        team.alice.sync();
    });
    let mut seen = Default::default();
    wait_for("both mounts to be equal", Duration::from_secs(30), || {
        // File by file: a storm leaves hundreds, all of which may have to come from the server.
        let of_file = |path: &Path| dog.doing(format!("reading {}", path.display()), || digest_file(path));
        seen = (digest_by(one, of_file), digest_by(other, of_file));
        seen.0 == seen.1
    });
    dog.check();
}

/// Runs `storm` in `threads` threads on each mount until the time is over; the dice differ.
fn everywhere(threads: u64, roots: [&Path; 2], storm: impl Fn(&Path, &mut Dice, &dyn Fn() -> bool) + Sync) {
    let end = Instant::now() + storm_time();
    std::thread::scope(|scope| {
        for (member, root) in (0..).zip(roots) {
            for thread in 0..threads {
                let storm = &storm;
                scope.spawn(move || {
                    storm(root, &mut Dice::new(1 + member * threads + thread), &|| Instant::now() < end)
                });
            }
        }
    });
}

#[test]
fn renames_from_sixteen_threads_on_both_mounts() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    for n in 0..8 {
        fs::create_dir(alice.join(format!("d{n}"))).unwrap();
        (0..8).for_each(|m| fs::write(alice.join(format!("d{n}/f{m}")), format!("{n} {m}")).unwrap());
    }
    team.alice.sync();
    wait_for("the files", Duration::from_secs(30), || digest(&alice) == digest(&bob));
    let (dog, wrong) = (watch(&team), Wrong { moving: true, ..Wrong::default() });
    everywhere(8, [&alice, &bob], |root, dice, on| {
        while on() {
            // Directories too: d3 into d5, f1 of the root onto d2/f1, and back.
            let place = |dice: &mut Dice| match dice.roll(4) {
                0 => root.join(format!("d{}", dice.roll(8))),
                1 => root.join(format!("d{}/d{}", dice.roll(8), dice.roll(8))),
                _ => root.join(format!("d{}/f{}", dice.roll(8), dice.roll(8))),
            };
            let (from, to) = (place(dice), place(dice));
            let what = || format!("rename {} {}", from.display(), to.display());
            let _ = wrong.judge(what, dog.doing(what(), || fs::rename(&from, &to)));
        }
    });
    println!("{} renames", dog.count());
    wrong.check();
    equal(&team, &dog, [&alice, &bob]);
    let contents = digest(&alice).values().filter(|(kind, ..)| *kind == 'f').count();
    assert!(contents > 0 && contents <= 64, "{contents} files of 64: renames make none");
}

fn plant(root: &Path, dice: &mut Dice, dog: &Watchdog, wrong: &Wrong) {
    for n in 0..5 {
        let dir = root.join(format!("branch-{n}"));
        let _ = wrong.judge(|| format!("mkdir {}", dir.display()), fs::create_dir_all(&dir));
        for m in 0..20 {
            let path = dir.join(format!("leaf-{m}-{}", dice.roll(3)));
            let what = || format!("write {}", path.display());
            let _ = wrong.judge(what, dog.doing(what(), || fs::write(&path, b"leaf")));
        }
    }
}

/// Lists everything below; names that go meanwhile are no error.
fn walk(root: &Path, dog: &Watchdog, wrong: &Wrong) -> usize {
    let mut todo = vec![root.to_owned()];
    let mut count = 0;
    while let Some(dir) = todo.pop() {
        let listed = dog.doing(format!("list {}", dir.display()), || fs::read_dir(&dir));
        let Some(listed) = wrong.judge(|| format!("list {}", dir.display()), listed) else { continue };
        for entry in listed {
            let what = || format!("list on in {}", dir.display());
            let Some(entry) = wrong.judge(what, entry) else { continue };
            count += 1;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            }
        }
    }
    count
}

fn rm_rf(path: &Path, dog: &Watchdog) -> (bool, String) {
    let output = dog.doing(format!("rm -rf {}", path.display()), || {
        Command::new("rm").env("LC_ALL", "C").arg("-rf").arg(path).output().unwrap()
    });
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn rm_rf_while_others_list_the_tree_leaves_nothing() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (dog, wrong) = (watch(&team), Wrong::default());
    let end = Instant::now() + storm_time();
    let mut dice = Dice::new(1);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for root in [&alice, &bob, &alice] {
            let (done, dog, wrong) = (&done, &dog, &wrong);
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    walk(root, dog, wrong);
                }
            });
        }
        let mut rounds = 0;
        while Instant::now() < end || rounds < 2 {
            let tree = alice.join("tree");
            plant(&tree, &mut dice, &dog, &wrong);
            let (removed, said) = rm_rf(&tree, &dog);
            if !removed || tree.exists() {
                wrong.note(format!("rm -rf left the tree: {said}"));
            }
            rounds += 1;
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    wrong.check();
    equal(&team, &dog, [&alice, &bob]);
    assert!(fs::read_dir(&bob).unwrap().next().is_none(), "nothing is left at Bob's either");
}

#[test]
fn both_plant_list_and_remove_the_same_trees() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (dog, wrong) = (watch(&team), Wrong::default());
    everywhere(3, [&alice, &bob], |root, dice, on| {
        while on() {
            let tree: PathBuf = root.join(format!("tree-{}", dice.roll(2)));
            match dice.roll(4) {
                0 => {
                    let (_, said) = rm_rf(&tree, &dog);
                    // It may find a directory filled again, and what was not there yet when it looked to be a directory when
                    // it unlinks it; nothing else.
                    let raced = |line: &&str| line.ends_with("Directory not empty") || line.ends_with("Is a directory");
                    for line in said.lines().filter(|line| !raced(line)) {
                        wrong.note(line.to_owned());
                    }
                }
                1 => plant(&tree, dice, &dog, &wrong),
                _ => {
                    walk(root, &dog, &wrong);
                }
            }
        }
    });
    println!("{} operations", dog.count());
    wrong.check();
    equal(&team, &dog, [&alice, &bob]);
}

#[test]
fn both_save_truncate_and_append_to_the_same_files() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let (dog, wrong) = (watch(&team), Wrong::default());
    everywhere(4, [&alice, &bob], |root, dice, on| {
        use std::io::Write;
        while on() {
            let path = root.join(format!("file-{}", dice.roll(4)));
            let size = dice.roll(200_000);
            let what = format!("change {}", path.display());
            let changed = dog.doing(what.clone(), || -> io::Result<()> {
                match dice.roll(4) {
                    0 => fs::write(&path, vec![b'w'; size as usize]),
                    1 => fs::OpenOptions::new().append(true).open(&path)?.write_all(&vec![b'a'; size as usize / 10]),
                    2 => fs::OpenOptions::new().write(true).open(&path)?.set_len(size),
                    _ => fs::read(&path).map(drop),
                }
            });
            let _ = wrong.judge(|| what, changed);
        }
    });
    println!("{} operations", dog.count());
    wrong.check();
    equal(&team, &dog, [&alice, &bob]);
}
