//! Random operations on the vfs and on plain maps, side by side.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::desk::*;
use kegfs::vfs::*;

#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Write { slot: u8, at: u64, len: usize, seed: u64 },
    Append { name: u8, len: usize, seed: u64 },
    Truncate { name: u8, size: u64 },
    Allocate { slot: u8, at: u64, len: u64, how: Allocate },
    Clone { from: u8, to: u8, at: u64, to_at: u64, len: u64 },
    Seek { slot: u8, at: u64 },
    Unlink(u8),
    Rename(u8, u8),
    Link(u8, u8),
    Open(u8),
    Close(u8),
    Fsync(u8),
    Settle,
    Evict,
    Check,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..5u8;
    let at = prop_oneof![0..300u64, 65_400..65_700u64, 4_194_200..4_194_400u64];
    let len = prop_oneof![1..400usize, 65_000..66_000usize, Just(4_194_304usize)];
    let how = prop_oneof![
        Just(Allocate::Extend),
        Just(Allocate::KeepSize),
        Just(Allocate::PunchHole),
        Just(Allocate::ZeroRange { keep_size: true }),
        Just(Allocate::ZeroRange { keep_size: false }),
    ];
    let step = prop_oneof![
        4 => name.clone().prop_map(Step::Create),
        8 => (any::<u8>(), at.clone(), len.clone(), any::<u64>())
            .prop_map(|(slot, at, len, seed)| Step::Write { slot, at, len, seed }),
        3 => (name.clone(), 1..3000usize, any::<u64>()).prop_map(|(name, len, seed)| Step::Append { name, len, seed }),
        2 => (name.clone(), at.clone()).prop_map(|(name, size)| Step::Truncate { name, size }),
        3 => (any::<u8>(), at.clone(), len.clone(), how)
            .prop_map(|(slot, at, len, how)| Step::Allocate { slot, at, len: len as u64, how }),
        4 => (any::<u8>(), any::<u8>(), at.clone(), at.clone(), len.clone())
            .prop_map(|(from, to, at, to_at, len)| Step::Clone { from, to, at, to_at, len: len as u64 }),
        2 => (any::<u8>(), at.clone()).prop_map(|(slot, at)| Step::Seek { slot, at }),
        2 => name.clone().prop_map(Step::Unlink),
        2 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Link(from, to)),
        3 => name.prop_map(Step::Open),
        3 => any::<u8>().prop_map(Step::Close),
        1 => any::<u8>().prop_map(Step::Fsync),
        1 => Just(Step::Settle),
        1 => Just(Step::Evict),
        3 => Just(Step::Check),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What a user knows: names, and the contents behind them.
#[derive(Default)]
struct Model {
    names: BTreeMap<u8, usize>,
    files: Vec<Vec<u8>>,
    /// Open handles and the file behind each.
    open: Vec<(u64, usize)>,
}

fn n(name: u8) -> Vec<u8> {
    format!("file {name}").into_bytes()
}

fn put(file: &mut Vec<u8>, at: usize, data: &[u8]) {
    file.resize(file.len().max(at + data.len()), 0);
    file[at..at + data.len()].copy_from_slice(data);
}

impl Model {
    fn pick(&self, slot: u8) -> Option<(u64, usize)> {
        (!self.open.is_empty()).then(|| self.open[slot as usize % self.open.len()])
    }

    fn step(&mut self, desk: &Desk, step: Step) {
        let vfs = &desk.vfs;
        match step {
            Step::Create(name) => {
                let result = vfs.create(ROOT, &n(name), 0o600, WRITE, &CALLER);
                assert_eq!(result.is_err(), self.names.contains_key(&name));
                if let Ok((_, opened)) = result {
                    self.files.push(Vec::new());
                    self.names.insert(name, self.files.len() - 1);
                    self.open.push((opened.fh, self.files.len() - 1));
                }
            }
            Step::Write { slot, at, len, seed } => {
                let Some((fh, file)) = self.pick(slot) else { return };
                let data = pattern(seed, len);
                desk.write(fh, at, &data);
                put(&mut self.files[file], at as usize, &data);
            }
            Step::Append { name, len, seed } => {
                let Some(&file) = self.names.get(&name) else { return };
                let fh = vfs.open(vfs.lookup(ROOT, &n(name)).unwrap().attr.ino, WRITE).unwrap().fh;
                let data = pattern(seed, len);
                assert_eq!(vfs.append(fh, &data).unwrap() as usize, len);
                self.files[file].extend(data);
                self.open.push((fh, file));
            }
            Step::Truncate { name, size } => {
                let Some(&file) = self.names.get(&name) else { return };
                let ino = vfs.lookup(ROOT, &n(name)).unwrap().attr.ino;
                vfs.setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() }, &CALLER).unwrap();
                self.files[file].resize(size as usize, 0);
            }
            Step::Allocate { slot, at, len, how } => {
                let Some((fh, file)) = self.pick(slot) else { return };
                vfs.fallocate(fh, at, len, how).unwrap();
                let file = &mut self.files[file];
                let end = (at + len) as usize;
                if matches!(how, Allocate::Extend | Allocate::ZeroRange { keep_size: false }) {
                    file.resize(file.len().max(end), 0);
                }
                if !matches!(how, Allocate::Extend | Allocate::KeepSize) {
                    let end = end.min(file.len());
                    file[(at as usize).min(end)..end].fill(0);
                }
            }
            Step::Clone { from, to, at, to_at, len } => {
                let (Some((from, source)), Some((to, target))) = (self.pick(from), self.pick(to)) else { return };
                let wanted = len.min((self.files[source].len() as u64).saturating_sub(at));
                // The kernel refuses ranges of one file that overlap.
                if source == target && at.abs_diff(to_at) < wanted {
                    return;
                }
                let mut done = 0;
                while done < wanted {
                    let part = vfs.copy_range(from, at + done, to, to_at + done, len - done).unwrap();
                    assert!(part > 0 && done + u64::from(part) <= wanted, "{part} bytes after {done} of {wanted}");
                    done += u64::from(part);
                }
                let size = self.files[source].len() as u64;
                if source != target && at + done >= size {
                    assert_eq!(vfs.copy_range(from, at + done, to, to_at + done, len).unwrap(), 0, "at the end");
                }
                let data = self.files[source].get(at as usize..(at + wanted) as usize).map(<[u8]>::to_vec);
                if wanted > 0 {
                    put(&mut self.files[target], to_at as usize, &data.unwrap());
                }
            }
            Step::Seek { slot, at } => {
                let Some((fh, file)) = self.pick(slot) else { return };
                let file = &self.files[file];
                let data = vfs.seek_data(fh, at);
                let until = data.clone().unwrap_or(file.len() as u64).min(file.len() as u64);
                let skipped = file.get(at as usize..until as usize).unwrap_or_default();
                assert!(skipped.iter().all(|byte| *byte == 0), "data is never taken for a hole");
                match vfs.seek_hole(fh, at) {
                    Ok(hole) => assert!((at..=file.len() as u64).contains(&hole) && (at as usize) < file.len()),
                    Err(error) => assert!(error == VfsError::PastEnd && at as usize >= file.len()),
                }
                assert!(data.is_ok() || data == Err(VfsError::PastEnd));
            }
            Step::Unlink(name) => {
                assert_eq!(vfs.unlink(ROOT, &n(name)).is_ok(), self.names.remove(&name).is_some());
            }
            Step::Rename(from, to) => {
                let result = vfs.rename(ROOT, &n(from), ROOT, &n(to), RenameMode::Replace);
                assert_eq!(result.is_ok(), self.names.contains_key(&from));
                // Two names of one file: POSIX says that nothing happens.
                if result.is_ok() && self.names.get(&from) != self.names.get(&to) {
                    let file = self.names.remove(&from).unwrap();
                    self.names.insert(to, file);
                }
            }
            Step::Link(from, to) => {
                let Some(&file) = self.names.get(&from) else { return };
                let ino = vfs.lookup(ROOT, &n(from)).unwrap().attr.ino;
                let result = vfs.link(ino, ROOT, &n(to));
                assert_eq!(result.is_err(), self.names.contains_key(&to));
                self.names.entry(to).or_insert(file);
            }
            Step::Open(name) => {
                let found = vfs.lookup(ROOT, &n(name));
                assert_eq!(found.is_ok(), self.names.contains_key(&name));
                if let (Ok(entry), Some(&file)) = (found, self.names.get(&name)) {
                    self.open.push((vfs.open(entry.attr.ino, WRITE).unwrap().fh, file));
                }
            }
            Step::Close(slot) => {
                if let Some((fh, _)) = self.pick(slot) {
                    self.open.retain(|(other, _)| *other != fh);
                    desk.close(fh);
                }
            }
            Step::Fsync(slot) => {
                if let Some((fh, _)) = self.pick(slot) {
                    desk.fsync(fh);
                }
            }
            Step::Settle => desk.settle(),
            Step::Evict => desk.folder.evict(),
            Step::Check => self.check(desk),
        }
    }

    fn check(&self, desk: &Desk) {
        let names: Vec<_> = self.names.keys().map(|name| String::from_utf8(n(*name)).unwrap()).collect();
        assert_eq!(desk.list(ROOT), names);
        for (name, file) in &self.names {
            let name = String::from_utf8(n(*name)).unwrap();
            let attr = desk.vfs.lookup(ROOT, name.as_bytes()).unwrap().attr;
            assert_eq!(attr.size, self.files[*file].len() as u64, "{name}");
            assert_eq!(attr.nlink as usize, self.names.values().filter(|other| *other == file).count());
            assert!(desk.content(&name) == self.files[*file], "{name}");
        }
        for (fh, file) in &self.open {
            assert!(desk.read_all(*fh) == self.files[*file], "handle {fh}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn the_view_is_what_a_simple_file_system_would_show(steps in steps()) {
        let desk = desk_with(VfsOptions { dirty_max_bytes: 8 << 20, cache_max_bytes: 1 << 20, ..VfsOptions::default() });
        let mut model = Model::default();
        for step in steps {
            model.step(&desk, step);
        }
        model.check(&desk);
        for (fh, _) in std::mem::take(&mut model.open) {
            desk.close(fh);
        }
        desk.settle();
        desk.drained();
        let fresh = Desk { vfs: Vfs::single(desk.folder.clone(), VfsOptions::default()).unwrap(), folder: desk.folder };
        model.check(&fresh);
    }
}
