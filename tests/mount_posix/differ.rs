//! Random steps on the mount and on a local directory: the same answers, the same errors, the same trees.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::side::{Side, Step, Time};
use super::{Alone, many};

const CHUNK: u64 = 4 << 20;

/// Few names, so that steps meet; with all that a path can end in.
fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        12 => Just("a"), 12 => Just("b"), 8 => Just("c"), 3 => Just("d"), 1 => Just(".."), 1 => Just("."), 1 => Just(""),
    ];
    let long = prop_oneof![Just("x".repeat(255)), Just("x".repeat(256)), Just("\u{fc}".repeat(127))];
    prop_oneof![
        20 => name.clone().prop_map(str::to_owned),
        20 => (name.clone(), name.clone()).prop_map(|(a, b)| format!("{a}/{b}")),
        8 => (name.clone(), name.clone(), name.clone()).prop_map(|(a, b, c)| format!("{a}/{b}/{c}")),
        2 => (name.clone(), long).prop_map(|(a, b)| format!("{a}/{b}")),
        1 => name.prop_map(|a| format!("{a}/{}", "x/".repeat(2048))),
    ]
}

fn flags() -> impl Strategy<Value = i32> {
    use libc::{
        O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY,
    };
    prop_oneof![
        8 => Just(O_RDWR | O_CREAT),
        3 => Just(O_RDWR | O_CREAT | O_EXCL),
        3 => Just(O_RDWR),
        2 => Just(O_RDONLY),
        2 => Just(O_WRONLY | O_CREAT | O_TRUNC),
        2 => Just(O_RDWR | O_APPEND | O_CREAT),
        1 => Just(O_RDONLY | O_TRUNC),
        1 => Just(O_RDONLY | O_DIRECTORY),
        1 => Just(O_RDWR | O_NOFOLLOW),
        1 => Just(O_WRONLY),
        1 => Just(O_PATH),
        1 => Just(O_RDONLY | O_CREAT | O_NOFOLLOW),
        3 => Just(O_RDWR | O_TMPFILE),
        1 => Just(O_WRONLY | O_TMPFILE | O_EXCL),
        1 => Just(O_RDONLY | O_TMPFILE),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let at = || prop_oneof![4 => 0..9000u64, 1 => 65_000..66_000u64, 1 => CHUNK - 300..CHUNK + 300];
    let len = || prop_oneof![6 => 0..5000usize, 1 => 60_000..70_000usize];
    let mode = prop_oneof![
        Just(0o644u32),
        Just(0o600),
        Just(0o755),
        Just(0o777),
        Just(0o400),
        Just(0o4755),
        Just(0o2775),
        Just(0o1777),
    ];
    let time = || {
        prop_oneof![
            Just(Time::Omit),
            Just(Time::Now),
            (-5_000_000_000..5_000_000_000_000_000_000i64).prop_map(Time::At)
        ]
    };
    let xattr = || {
        prop_oneof![Just("user.a"), Just("user.b"), Just("user."), Just("a"), Just("user.long-name-of-an-attribute")]
            .prop_map(str::to_owned)
    };
    let allocate = prop_oneof![
        Just(0),
        Just(libc::FALLOC_FL_KEEP_SIZE),
        Just(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
        Just(libc::FALLOC_FL_PUNCH_HOLE),
        Just(libc::FALLOC_FL_ZERO_RANGE),
        Just(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE),
    ];
    let renaming = prop_oneof![
        6 => Just(0u32),
        2 => Just(libc::RENAME_NOREPLACE),
        3 => Just(libc::RENAME_EXCHANGE),
        1 => Just(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE),
    ];
    let target = prop_oneof![
        path(),
        Just("../b".to_owned()),
        Just("/no/such/place".to_owned()),
        Just("x".repeat(4095)),
        Just("x".repeat(4096)),
    ];
    let slot = any::<u8>;
    prop_oneof![
        14 => (path(), flags(), mode.clone()).prop_map(|(path, flags, mode)| Step::Open { path, flags, mode }),
        3 => slot().prop_map(Step::Close),
        8 => (slot(), at(), len()).prop_map(|(slot, at, len)| Step::Read { slot, at, len }),
        12 => (slot(), at(), len(), any::<u8>()).prop_map(|(slot, at, len, seed)| Step::Write { slot, at, len, seed }),
        4 => (slot(), at()).prop_map(|(slot, size)| Step::Cut { slot, size }),
        5 => (slot(), allocate, at(), len())
            .prop_map(|(slot, mode, at, len)| Step::Allocate { slot, mode, at, len: len as u64 }),
        6 => (slot(), at(), slot(), at(), len())
            .prop_map(|(from, at, to, to_at, len)| Step::Copy { from, at, to, to_at, len }),
        1 => slot().prop_map(Step::Sync),
        3 => slot().prop_map(Step::Stat),
        2 => (path(), at()).prop_map(|(path, size)| Step::Truncate { path, size }),
        8 => (path(), mode.clone()).prop_map(|(path, mode)| Step::Mkdir { path, mode }),
        1 => (path(), mode.clone()).prop_map(|(path, mode)| Step::Fifo { path, mode }),
        3 => path().prop_map(Step::Rmdir),
        4 => path().prop_map(Step::Unlink),
        10 => (path(), path(), renaming).prop_map(|(from, to, flags)| Step::Rename { from, to, flags }),
        5 => (path(), path()).prop_map(|(from, to)| Step::Link { from, to }),
        4 => (slot(), path()).prop_map(|(slot, to)| Step::LinkSlot { slot, to }),
        4 => (target, path()).prop_map(|(target, path)| Step::Symlink { target, path }),
        1 => path().prop_map(Step::Readlink),
        3 => (path(), mode).prop_map(|(path, mode)| Step::Chmod { path, mode }),
        3 => (path(), time(), time()).prop_map(|(path, atime, mtime)| Step::Utimens { path, atime, mtime }),
        3 => (path(), xattr(), 0..300usize).prop_map(|(path, name, len)| Step::SetXattr { path, name, len }),
        2 => (path(), xattr()).prop_map(|(path, name)| Step::GetXattr { path, name }),
        1 => (path(), xattr()).prop_map(|(path, name)| Step::RemoveXattr { path, name }),
        1 => path().prop_map(Step::ListXattr),
        3 => path().prop_map(Step::List),
        6 => path().prop_map(Step::Look),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..80)
}

fn runner(cases: u32) -> TestRunner {
    // What fails is printed whole; the seed of a failure is kept beside this file.
    TestRunner::new(ProptestConfig { cases, max_shrink_iters: 2000, ..ProptestConfig::with_source_file(file!()) })
}

/// Does the steps in the directory `name` of both and compares after each; then the trees.
fn compare(mnt: &Path, local: &Path, name: &str, steps: &[Step]) -> Result<(), String> {
    let (mut ours, mut theirs) = (Side::new(mnt.join(name)), Side::new(local.join(name)));
    for (index, step) in steps.iter().enumerate() {
        let (our, their) = (ours.run(step), theirs.run(step));
        if our != their {
            let short = |text: String| text.chars().take(400).collect::<String>();
            return Err(format!(
                "step {index}, {step:?}:\n  mount {}\n  local {}",
                short(format!("{our:?}")),
                short(format!("{their:?}"))
            ));
        }
    }
    same_tree(&mut ours, &mut theirs)
}

fn same_tree(ours: &mut Side, theirs: &mut Side) -> Result<(), String> {
    let (our, their) = (ours.tree(), theirs.tree());
    for (our, their) in our.iter().zip(&their) {
        if our != their {
            let same = our.2 == their.2;
            let of =
                |side: &(_, _, Vec<u8>, _)| format!("{:?} {:?} {} bytes {:?}", side.0, side.1, side.2.len(), side.3);
            return Err(format!(
                "at the end:\n  mount {}\n  local {}\n  content is the same: {same}",
                of(our),
                of(their)
            ));
        }
    }
    if our.len() == their.len() { Ok(()) } else { Err(format!("{} paths, not {}", our.len(), their.len())) }
}

fn clean(mnt: &Path, local: &Path, name: &str) {
    fs::remove_dir_all(mnt.join(name)).unwrap();
    fs::remove_dir_all(local.join(name)).unwrap();
}

/// The last cases stay, to be looked at once more through a fresh mount.
const KEPT: u32 = 10;

#[test]
fn a_mount_and_a_local_directory_do_not_differ() {
    let mut alone = Alone::set_up();
    let cases = many("KEGFS_DIFF_CASES", 60);
    let count = AtomicU32::new(0);
    let result = runner(cases).run(&steps(), |steps| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let name = format!("case-{n}");
        compare(&alone.mnt, &alone.local, &name, &steps).map_err(TestCaseError::fail)?;
        if n + KEPT < cases {
            clean(&alone.mnt, &alone.local, &name);
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    alone.remount();
    for n in cases.saturating_sub(KEPT)..cases {
        let name = format!("case-{n}");
        let (mut ours, mut theirs) = (Side::again(alone.mnt.join(&name)), Side::again(alone.local.join(&name)));
        same_tree(&mut ours, &mut theirs).unwrap_or_else(|error| panic!("after the remount, {name}: {error}"));
    }
}

#[test]
fn threads_in_directories_of_their_own_do_not_differ_from_local_ones() {
    const THREADS: usize = 4;
    let alone = Alone::set_up();
    let cases = many("KEGFS_DIFF_CASES", 60).div_ceil(6);
    let count = AtomicU32::new(0);
    let result = runner(cases).run(&prop::collection::vec(steps(), THREADS), |all| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let (mnt, local) = (&alone.mnt, &alone.local);
        let results: Vec<_> = std::thread::scope(|scope| {
            let spawn = |(thread, steps): (usize, Vec<Step>)| {
                scope.spawn(move || compare(mnt, local, &format!("case-{n}-{thread}"), &steps))
            };
            let threads: Vec<_> = all.into_iter().enumerate().map(spawn).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (thread, result) in results.into_iter().enumerate() {
            result.map_err(|error| TestCaseError::fail(format!("thread {thread}: {error}")))?;
            clean(mnt, local, &format!("case-{n}-{thread}"));
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
