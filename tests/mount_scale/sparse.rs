//! A file of 7,000 GB costs what a small one does.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::common::{Team, wait_for};

const HUGE: u64 = 7_000_000_000_000;
const SMALL: u64 = 1_000_000;
const MIDDLE: u64 = HUGE / 2 - 12_345;
const BLOCK: usize = 65_536;
const SOON: Duration = Duration::from_secs(30);
/// What every single operation on the huge file must take less than.
const BOUND: Duration = Duration::from_secs(1);

fn quick<T>(what: &str, body: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = body();
    let took = start.elapsed();
    println!("{what}: {took:?}");
    assert!(took < BOUND, "{what} took {took:?}");
    result
}

fn block(byte: u8) -> Vec<u8> {
    (0..BLOCK).map(|n| byte.wrapping_add((n / 251) as u8)).collect()
}

fn read(file: &File, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; BLOCK];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn seven_terabytes_are_written_read_punched_cut_and_copied_like_a_small_file() {
    let mut team = Team::new();
    let (alice, bob) = team.mount();
    let path = alice.join("huge");
    let file = quick("create and set the length", || {
        let file = open(&path);
        file.set_len(HUGE).unwrap();
        file
    });
    let places = [(0, 1), (MIDDLE, 2), (HUGE - BLOCK as u64, 3)];
    for (offset, byte) in places {
        quick(&format!("write at {offset}"), || file.write_all_at(&block(byte), offset).unwrap());
    }
    quick("fsync", || file.sync_all().unwrap());
    drop(file);
    assert_eq!(fs::metadata(&path).unwrap().size(), HUGE);

    team.alice.sync();
    let theirs = bob.join("huge");
    wait_for("the length at Bob's", SOON, || fs::metadata(&theirs).is_ok_and(|meta| meta.size() == HUGE));
    let file = File::open(&theirs).unwrap();
    wait_for("the end at Bob's", SOON, || read(&file, HUGE - BLOCK as u64) == block(3));
    for (offset, byte) in places {
        assert!(quick(&format!("read at {offset}"), || read(&file, offset)) == block(byte), "{offset}");
    }
    assert!(quick("read in a hole", || read(&file, HUGE / 3)) == vec![0; BLOCK]);

    let file = open(&path);
    quick("punch a terabyte", || {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, flags, MIDDLE as i64 - 500_000_000_000, 1_000_000_000_000).unwrap();
    });
    assert!(quick("read what was punched", || read(&file, MIDDLE)) == vec![0; BLOCK]);
    assert!(read(&file, HUGE - BLOCK as u64) == block(3));

    let copy = alice.join("copy");
    let status =
        quick("cp --reflink=auto", || Command::new("cp").arg("--reflink=auto").args([&path, &copy]).status().unwrap());
    assert!(status.success());
    let copied = File::open(&copy).unwrap();
    assert_eq!(copied.metadata().unwrap().size(), HUGE);
    for (offset, expected) in [(0, block(1)), (MIDDLE, vec![0; BLOCK]), (HUGE - BLOCK as u64, block(3))] {
        assert!(read(&copied, offset) == expected, "the copy at {offset}");
    }

    quick("truncate to a megabyte", || file.set_len(SMALL).unwrap());
    quick("truncate to 7,000 GB", || file.set_len(HUGE).unwrap());
    assert!(read(&file, 0) == block(1));
    assert!(quick("read what was cut off", || read(&file, HUGE - BLOCK as u64)) == vec![0; BLOCK]);
    quick("close and stat", || drop(file));
    team.alice.sync();
    let file = File::open(&theirs).unwrap();
    wait_for("the cut at Bob's", SOON, || read(&file, HUGE - BLOCK as u64) == vec![0; BLOCK]);
    assert!(read(&file, 0) == block(1));
    let copied = File::open(bob.join("copy")).unwrap();
    assert!(quick("read the copy at Bob's", || read(&copied, HUGE - BLOCK as u64)) == block(3));
}

#[test]
fn a_write_at_the_end_of_seven_terabytes_costs_what_one_into_a_megabyte_costs() {
    let mut team = Team::new();
    let (alice, _) = team.mount();
    let files = [HUGE, SMALL].map(|size| {
        let file = open(&alice.join(size.to_string()));
        file.set_len(size).unwrap();
        file.write_all_at(&block(7), size - BLOCK as u64).unwrap();
        file.sync_all().unwrap();
        (file, size)
    });
    // In turns, so that whatever else the machine does meets both.
    let mut write = [vec![], vec![]];
    let mut durable = [vec![], vec![]];
    let bytes = block(9);
    for round in 0..400u64 {
        for (which, (file, size)) in files.iter().enumerate() {
            let offset = size - BLOCK as u64 + round * 37 % 15 * 4096;
            let start = Instant::now();
            file.write_all_at(&bytes[..4096], offset).unwrap();
            write[which].push(start.elapsed());
            if round % 10 == 0 {
                file.sync_all().unwrap();
                durable[which].push(start.elapsed());
            }
        }
    }
    for (what, [huge, small]) in [("write", write.map(median)), ("write and fsync", durable.map(median))] {
        println!("{what}: {huge:?} at the end of 7,000 GB, {small:?} into 1 MB");
        assert!(huge <= small.mul_f64(1.5), "{what}: {huge:?} at the end of 7,000 GB, {small:?} into 1 MB");
    }
}
