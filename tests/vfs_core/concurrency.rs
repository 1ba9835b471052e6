//! Many threads at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::desk::*;
use kegfs::vfs::*;

#[test]
fn eight_threads_with_their_own_files_and_one_shared() {
    let desk = Arc::new(desk_with(VfsOptions { dirty_max_bytes: 16 << 20, ..VfsOptions::default() }));
    desk.save("shared", b"");
    std::thread::scope(|scope| {
        for t in 0..8u64 {
            let desk = desk.clone();
            scope.spawn(move || {
                let log = desk.open("shared", WRITE);
                for i in 0..60u64 {
                    let name = format!("{t}-{i}");
                    let data = pattern(t * 1000 + i, ((i * 7919) % 300_000) as usize);
                    desk.save(&name, &data);
                    desk.vfs.append(log, format!("{t:02} {i:03}\n").as_bytes()).unwrap();
                    assert!(desk.content(&name) == data);
                    if i % 3 == 0 {
                        desk.vfs
                            .rename(
                                ROOT,
                                name.as_bytes(),
                                ROOT,
                                format!("{t}-kept-{i}").as_bytes(),
                                RenameMode::Replace,
                            )
                            .unwrap();
                    } else if i % 3 == 1 {
                        desk.vfs.unlink(ROOT, name.as_bytes()).unwrap();
                    }
                    if i % 20 == 0 {
                        desk.fsync(log);
                    }
                }
                desk.close(log);
            });
        }
    });
    desk.settle();
    assert_eq!(desk.list(ROOT).len(), 1 + 8 * 40);
    let log = String::from_utf8(desk.content("shared")).unwrap();
    let mut lines: Vec<_> = log.lines().collect();
    lines.sort_unstable();
    let expected: Vec<_> = (0..8).flat_map(|t| (0..60).map(move |i| format!("{t:02} {i:03}"))).collect();
    assert_eq!(lines, expected, "no appended line is lost, torn or doubled");
    for t in 0..8u64 {
        for i in (0..60u64).step_by(3) {
            let data = pattern(t * 1000 + i, ((i * 7919) % 300_000) as usize);
            assert!(desk.content(&format!("{t}-kept-{i}")) == data);
        }
    }
}

#[test]
fn readers_never_see_a_mixture_of_sealed_and_unsealed() {
    let desk = Arc::new(desk());
    // Each version is one byte value throughout; every 4 KiB page is written at once, so a page is never mixed.
    let (_, fh) = desk.create("f");
    desk.write(fh, 0, &vec![0; 256 << 10]);
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (desk, stop) = (desk.clone(), stop.clone());
            scope.spawn(move || {
                let fh = desk.open("f", READ);
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let page = desk.read(fh, 128 << 10, 4096);
                    assert_eq!(page.len(), 4096);
                    assert!(page.iter().all(|byte| *byte == page[0]), "a torn page");
                    assert!(page[0] >= last, "time went back from {last} to {}", page[0]);
                    last = page[0];
                }
                desk.vfs.release(fh);
            });
        }
        for version in 1..=60u8 {
            desk.write(fh, 0, &vec![version; 256 << 10]);
            if version % 4 == 0 {
                desk.fsync(fh);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn sizes_never_go_back_while_files_are_sealed() {
    let desk = Arc::new(desk());
    let (ino, fh) = desk.create("growing");
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for by_listing in [false, true] {
            let (desk, stop) = (desk.clone(), stop.clone());
            scope.spawn(move || {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let size = if by_listing { size_in_listing(&desk, ino) } else { desk.size(ino) };
                    assert!(size >= last, "from {last} to {size}");
                    last = size;
                }
            });
        }
        for i in 0..300u64 {
            desk.write(fh, i * 1000, &[7; 1000]);
            desk.vfs.flush(fh).unwrap();
            if i % 10 == 0 {
                desk.fsync(fh);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(desk.size(ino), 300_000);
}

fn size_in_listing(desk: &Desk, ino: Ino) -> u64 {
    let fh = desk.vfs.opendir(ROOT).unwrap();
    let mut size = None;
    let mut each = |entry: DirEntry<'_>| {
        if entry.ino == ino {
            size = entry.entry.map(|entry| entry.attr.size);
        }
        false
    };
    desk.vfs.readdir(fh, 0, &mut each, true).unwrap();
    desk.vfs.releasedir(fh);
    size.unwrap()
}
