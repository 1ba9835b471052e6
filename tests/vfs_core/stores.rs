//! What the kernel is handed without having asked.

use std::sync::Mutex;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::desk::*;
use kegfs::format::OpKind;
use kegfs::vfs::*;

const MIB: usize = 1 << 20;
const SEGMENT: usize = 64 << 10;

/// A kernel that keeps what it is offered until it is looked at.
#[derive(Default)]
struct Offered(Mutex<Vec<Store>>);

impl Notifier for Offered {
    fn inode(&self, _: Ino, _: i64, _: i64) {}
    fn attr(&self, _: Ino) {}
    fn entry(&self, _: Ino, _: &[u8]) {}
    fn store(&self, store: Store) {
        self.0.lock().unwrap().push(store);
    }
}

impl Offered {
    fn take(&self) -> Vec<Store> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// What is stored when everything offered is delivered now.
    fn delivered(&self) -> Vec<(u64, Vec<u8>)> {
        let mut stored = Vec::new();
        for store in self.take() {
            assert_eq!(store.deliver(|_, offset, bytes| stored.push((offset, bytes.to_vec()))), None);
        }
        stored
    }
}

struct Scene {
    desk: Desk,
    kernel: Arc<Offered>,
    data: Vec<u8>,
    ino: Ino,
}

/// A file of 8 MiB and a bit that is read at random places.
fn scene() -> Scene {
    let (desk, kernel) = (desk(), Arc::new(Offered::default()));
    desk.vfs.set_notifier(kernel.clone());
    let data = pattern(7, 8 * MIB + 5000);
    let ino = desk.save("f", &data);
    desk.settle();
    Scene { desk, kernel, data, ino }
}

impl Scene {
    /// Reads 4 KiB at each place, and sees that they are right.
    fn jump(&self, fh: u64, places: &[usize]) {
        for &place in places {
            let end = (place + 4096).min(self.data.len());
            assert!(self.desk.read(fh, place as u64, 4096) == self.data[place..end], "at {place}");
        }
    }
}

#[test]
fn a_reader_that_jumps_about_gives_the_kernel_whole_segments() {
    let scene = scene();
    let fh = scene.desk.open("f", READ);
    // The first read does not jump; the second does; the third finds its segment open.
    scene.jump(fh, &[0, 5 * MIB + 8192, 5 * MIB, 2 * MIB - 4096, 8 * MIB + 4096]);
    let stored = scene.kernel.delivered();
    let starts: Vec<u64> = stored.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(starts, [5 * MIB as u64, (2 * MIB - SEGMENT) as u64, 8 * MIB as u64]);
    for (offset, bytes) in stored {
        let from = offset as usize;
        assert!(bytes == scene.data[from..(from + SEGMENT).min(scene.data.len())], "at {offset}");
    }
}

#[test]
fn only_the_part_of_a_segment_that_is_in_the_file_is_given() {
    let scene = scene();
    let fh = scene.desk.open("f", WRITE);
    scene.desk.write(fh, 3 * MIB as u64 + 10_000, &[9; 30_000]);
    scene.desk.close(fh);
    scene.desk.settle();
    let fh = scene.desk.open("f", READ);
    scene.jump(fh, &[0]);
    scene.desk.read(fh, 3 * MIB as u64, 4096);
    scene.desk.read(fh, 3 * MIB as u64 + 45_056, 4096);
    let mut expected = scene.data.clone();
    expected[3 * MIB + 10_000..3 * MIB + 40_000].fill(9);
    let stored = scene.kernel.delivered();
    assert!(!stored.is_empty());
    for (offset, bytes) in stored {
        let from = offset as usize;
        assert!(bytes == expected[from..from + bytes.len()], "at {offset}");
    }
}

#[test]
fn nothing_is_given_of_a_file_that_is_open_for_writing() {
    let scene = scene();
    let fh = scene.desk.open("f", READ);
    scene.jump(fh, &[0, 5 * MIB]);
    let before = scene.kernel.take();
    assert_eq!(before.len(), 1);
    let writer = scene.desk.open("f", WRITE);
    for store in before {
        assert_eq!(store.deliver(|_, _, _| panic!("over what the writer writes")), None);
    }
    scene.jump(fh, &[2 * MIB, 6 * MIB, MIB]);
    assert!(scene.kernel.take().is_empty());
    scene.desk.close(writer);
    scene.jump(fh, &[3 * MIB, 7 * MIB]);
    assert_eq!(scene.kernel.delivered().len(), 2);
}

#[test]
fn what_was_opened_before_a_change_of_length_is_not_given_after_it() {
    let scene = scene();
    let fh = scene.desk.open("f", READ);
    scene.jump(fh, &[0, 5 * MIB]);
    let before = scene.kernel.take();
    assert_eq!(before.len(), 1);
    let shorter = SetAttr { size: Some(100), ..SetAttr::default() };
    scene.desk.vfs.setattr(scene.ino, &shorter, &CALLER).unwrap();
    for store in before {
        assert_eq!(store.deliver(|_, _, _| panic!("what was cut off")), None);
    }
}

#[test]
fn what_somebody_else_changes_meanwhile_is_not_given_or_is_void() {
    let scene = scene();
    let fh = scene.desk.open("f", READ);
    scene.jump(fh, &[0, 5 * MIB, 2 * MIB]);
    let mut offered = scene.kernel.take();
    assert_eq!(offered.len(), 2);
    let change = || {
        let head = FolderSource::head(&*scene.desk.folder);
        let keg = FolderSource::node(&*scene.desk.folder, scene.ino).unwrap().unwrap().keg;
        let kind = OpKind::Content { keg, truncate: Some(0), holes: vec![], extents: vec![], size: 0, mtime_ns: 5 };
        scene.desk.folder.other_does(head, kind, &[SourceChange::Content(scene.ino)]);
    };
    let void = offered.remove(0).deliver(|_, _, _| change());
    assert_eq!(void, Some((scene.ino, 5 * MIB as i64, SEGMENT as i64)));
    assert_eq!(offered.remove(0).deliver(|_, _, _| panic!("what is no more")), None);
}

#[test]
fn a_writer_waits_for_a_store_under_way_and_not_for_ever() {
    let scene = scene();
    let fh = scene.desk.open("f", READ);
    scene.jump(fh, &[0, 5 * MIB]);
    let store = scene.kernel.take().remove(0);
    let (began, begun) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let delivering = scope.spawn(move || {
            store.deliver(|_, _, _| {
                began.send(()).unwrap();
                finished.recv().unwrap();
            })
        });
        begun.recv().unwrap();
        let desk = &scene.desk;
        let opening = scope.spawn(|| desk.open("f", WRITE));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!opening.is_finished(), "a writer would see its bytes covered");
        // It gets on although the kernel does not; the store is void then.
        let writer = opening.join().unwrap();
        finish.send(()).unwrap();
        assert!(delivering.join().unwrap().is_some());
        desk.close(writer);
    });
}
