//! The folder's twin in memory, with faults to order: what the tests of this room and of `fuse` run on.
//!
//! Operations are confirmed as soon as they are queued, over the reference store of `keg`. Blobs are "local" or, after
//! [`MemoryFolder::evict`], only "on the server".

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::format::limits::SUITE;
use crate::format::{BlobId, DbId, DeviceId, Extent, KegId, LockSet, LockSpan, Op, OpKind, Role};
use crate::keg::{self, Context, MemStore, Node, Store};

use super::{
    Agreed, Extents, FolderSource, KegDir, LeaseNews, Listed, OnChange, ProbeDone, Progress, Slot, SourceChange,
    VfsError,
};

/// Faults, and the state of the world, as a test orders them.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Spooling fails with [`VfsError::NoSpace`].
    pub disk_full: bool,
    /// Fetching fails with [`VfsError::Offline`].
    pub offline: bool,
    /// Fetching takes this long.
    pub fetch_delay: Duration,
    /// The journal takes nothing more.
    pub journal_broken: bool,
    /// The user's role.
    pub role: Option<Role>,
    /// The folder is frozen.
    pub frozen: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            disk_full: false,
            offline: false,
            fetch_delay: Duration::ZERO,
            journal_broken: false,
            role: Some(Role::Owner),
            frozen: false,
        }
    }
}

/// A folder in memory.
pub struct MemoryFolder {
    name: String,
    tree: RwLock<Tree>,
    blobs: RwLock<Blobs>,
    faults: RwLock<Faults>,
    slots: Mutex<Slots>,
    filled: Condvar,
    callbacks: RwLock<Vec<Arc<OnChange>>>,
    keg_dir: RwLock<Option<Arc<dyn KegDir>>>,
    /// Questions about extents, and extents in the answers.
    asked: Mutex<(usize, usize)>,
    locks: Mutex<Locks>,
    lease_news: RwLock<Option<Box<dyn LeaseNews>>>,
}

/// Locks of other members, as a test orders them: the same on every file.
#[derive(Default)]
struct Locks {
    others: LockSet,
    asked: HashMap<KegId, Vec<(LockSpan, bool)>>,
}

#[derive(Default)]
struct Tree {
    store: MemStore,
    kegs: HashMap<u64, KegId>,
    head: u64,
}

#[derive(Default)]
struct Blobs {
    local: HashMap<BlobId, Arc<Vec<u8>>>,
    remote: HashMap<BlobId, Arc<Vec<u8>>>,
    fetched: Vec<(BlobId, Option<Range<u64>>)>,
}

#[derive(Default)]
struct Slots {
    next: u64,
    open: Vec<u64>,
    log: Vec<OpKind>,
}

/// The value of what cannot fail.
fn sure<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

impl MemoryFolder {
    /// This device, in all twins.
    pub const DEVICE: DeviceId = DeviceId([1; 32]);
    /// The device of [`MemoryFolder::other_does`].
    pub const OTHER: DeviceId = DeviceId([2; 32]);

    /// An empty folder.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            tree: RwLock::default(),
            blobs: RwLock::default(),
            faults: RwLock::default(),
            slots: Mutex::default(),
            filled: Condvar::new(),
            callbacks: RwLock::default(),
            keg_dir: RwLock::default(),
            asked: Mutex::default(),
            locks: Mutex::default(),
            lease_news: RwLock::default(),
        })
    }

    /// What `.keg` shows from now on.
    pub fn set_keg_dir(&self, keg_dir: Arc<dyn KegDir>) {
        *self.keg_dir.write() = Some(keg_dir);
    }

    /// Orders faults.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.write());
    }

    /// Other members hold this of every file from now on. Nobody is told before [`MemoryFolder::answer_locks`].
    pub fn others_hold(&self, held: LockSet) {
        self.locks.lock().others = held;
    }

    /// Answers what was asked about locks so far.
    pub fn answer_locks(&self) {
        let (asked, others) = {
            let locks = self.locks.lock();
            (locks.asked.clone(), locks.others.clone())
        };
        for (keg, wants) in asked {
            let taken: Vec<_> =
                wants.into_iter().map(|(span, _)| span).filter(|span| others.conflict(span).is_some()).collect();
            if let Some(news) = &*self.lease_news.read() {
                news.changed(&keg, &taken);
            }
        }
    }

    /// Another member waits for a lock; returns when what was written is in the journal.
    pub fn settle(&self) {
        let (done, settled) = std::sync::mpsc::channel();
        if let Some(news) = &*self.lease_news.read() {
            news.settle(Box::new(move || {
                // Nobody listens after a minute.
                let _ = done.send(());
            }));
        }
        let _ = settled.recv_timeout(Duration::from_secs(60));
    }

    /// Blobs are on the server only from now on.
    pub fn evict(&self) {
        let mut blobs = self.blobs.write();
        let local = std::mem::take(&mut blobs.local);
        blobs.remote.extend(local);
    }

    /// Fetches so far, with their ranges.
    pub fn fetched(&self) -> Vec<(BlobId, Option<Range<u64>>)> {
        self.blobs.read().fetched.clone()
    }

    /// How often extents were asked for since the last call of this, and how many there were in the answers.
    pub fn extents_asked(&self) -> (usize, usize) {
        std::mem::take(&mut *self.asked.lock())
    }

    /// Operations in the order in which they came to the journal.
    pub fn journal(&self) -> Vec<OpKind> {
        self.slots.lock().log.clone()
    }

    /// Number of blobs stored, and their bytes.
    pub fn stored(&self) -> (usize, usize) {
        let blobs = self.blobs.read();
        let all = blobs.local.values().chain(blobs.remote.values());
        all.fold((0, 0), |(count, bytes), blob| (count + 1, bytes + blob.len()))
    }

    /// Flips a bit in every blob stored here.
    pub fn damage(&self) {
        for blob in self.blobs.write().local.values_mut() {
            Arc::make_mut(blob)[0] ^= 1;
        }
    }

    /// Somebody else does something, having seen everything up to `base`; then the vfs is told `changes`.
    pub fn other_does(&self, base: u64, kind: OpKind, changes: &[SourceChange]) {
        self.apply(Self::OTHER, "bob's phone", &Op { base, at_ns: 7_000_000_000, kind });
        for callback in self.callbacks.read().clone() {
            callback(changes);
        }
    }

    fn apply(&self, device: DeviceId, label: &str, op: &Op) {
        let mut tree = self.tree.write();
        tree.head += 1;
        let context = Context { seq: tree.head, device, label: label.to_owned(), horizon: 0, suite: SUITE };
        sure(keg::apply(&mut tree.store, &context, op));
        if let OpKind::Create { keg, .. } = &op.kind
            && let Some(node) = sure(tree.store.node(keg))
        {
            tree.kegs.insert(node.ino, *keg);
        } else if matches!(op.kind, OpKind::Content { .. }) {
            // It may have made a sibling.
            tree.kegs = tree.store.nodes().map(|node| (node.ino, node.keg)).collect();
        }
    }
}

impl Tree {
    fn keg(&self, ino: u64) -> Option<KegId> {
        if ino == keg::ROOT_INO { Some(KegId::ROOT) } else { self.kegs.get(&ino).copied() }
    }

    fn node(&self, ino: u64) -> Option<Node> {
        sure(self.store.node(&self.keg(ino)?))
    }
}

impl FolderSource for MemoryFolder {
    fn node(&self, ino: u64) -> Result<Option<Node>, VfsError> {
        Ok(self.tree.read().node(ino))
    }

    fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Node>, VfsError> {
        let tree = self.tree.read();
        let Some(parent) = tree.keg(parent) else { return Ok(None) };
        let dentry = sure(tree.store.dentry(&parent, name));
        Ok(dentry.and_then(|dentry| sure(tree.store.node(&dentry.keg))))
    }

    fn list(&self, directory: u64, after: u64, limit: usize) -> Result<Vec<Listed>, VfsError> {
        let tree = self.tree.read();
        let Some(directory) = tree.keg(directory) else { return Ok(Vec::new()) };
        let inside = tree.store.dentries().filter(|dentry| dentry.parent == directory && dentry.cookie > after);
        let mut found: Vec<_> = inside.collect();
        found.sort_by_key(|dentry| dentry.cookie);
        let listed = found.into_iter().take(limit).filter_map(|dentry| {
            let node = sure(tree.store.node(&dentry.keg))?;
            Some(Listed { name: dentry.name.clone(), cookie: dentry.cookie, node })
        });
        Ok(listed.collect())
    }

    fn newest_cookie(&self, directory: u64) -> Result<u64, VfsError> {
        let tree = self.tree.read();
        let Some(directory) = tree.keg(directory) else { return Ok(0) };
        let inside = tree.store.dentries().filter(|dentry| dentry.parent == directory);
        Ok(inside.map(|dentry| dentry.cookie).max().unwrap_or_default())
    }

    fn parent(&self, directory: u64) -> Result<u64, VfsError> {
        let tree = self.tree.read();
        let keg = tree.keg(directory).ok_or(VfsError::NotFound)?;
        let parent = sure(tree.store.dentries_of(&keg)).first().map_or(KegId::ROOT, |dentry| dentry.parent);
        Ok(sure(tree.store.node(&parent)).map_or(keg::ROOT_INO, |node| node.ino))
    }

    fn extents(&self, ino: u64, span: Range<u64>, limit: usize) -> Result<Extents, VfsError> {
        let tree = self.tree.read();
        let extents = tree.keg(ino).map(|keg| tree.store.extents(&keg)).unwrap_or_default().into_iter();
        let mut met = extents.filter(|extent| extent.end() > span.start && extent.offset < span.end);
        let list: Vec<_> = met.by_ref().take(limit).collect();
        let more = met.next().is_some();
        let upto = list.last().filter(|_| more).map_or(span.end, Extent::end);
        let mut asked = self.asked.lock();
        *asked = (asked.0 + 1, asked.1 + list.len());
        Ok(Extents { list, upto })
    }

    fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>, VfsError> {
        let tree = self.tree.read();
        let all = tree.keg(ino).map(|keg| tree.store.xattrs(&keg)).unwrap_or_default();
        Ok(all.into_iter().find(|(other, _)| other == name).map(|(_, value)| value))
    }

    fn xattrs(&self, ino: u64) -> Result<Vec<Vec<u8>>, VfsError> {
        let tree = self.tree.read();
        let all = tree.keg(ino).map(|keg| tree.store.xattrs(&keg)).unwrap_or_default();
        Ok(all.into_iter().map(|(name, _)| name).collect())
    }

    fn usage(&self) -> Result<(u64, u64), VfsError> {
        let tree = self.tree.read();
        Ok(tree.store.nodes().fold((0, 0), |(bytes, files), node| (bytes + node.size, files + 1)))
    }

    fn head(&self) -> u64 {
        self.tree.read().head
    }

    fn submit(&self, kind: OpKind, at_ns: i64) -> Result<(), VfsError> {
        if self.faults.read().journal_broken {
            return Err(VfsError::storage("the journal is broken"));
        }
        let base = self.head();
        self.slots.lock().log.push(kind.clone());
        self.apply(Self::DEVICE, "alice's laptop", &Op { base, at_ns, kind });
        Ok(())
    }

    fn fresh_number(&self) -> Result<u64, VfsError> {
        Ok(sure(self.tree.write().store.allocate()))
    }

    fn submit_numbered(&self, kind: OpKind, at_ns: i64, number: u64) -> Result<(), VfsError> {
        let made = match &kind {
            OpKind::Create { keg, .. } => *keg,
            _ => return Err(VfsError::InvalidArgument),
        };
        self.submit(kind, at_ns)?;
        let mut tree = self.tree.write();
        if let Some(mut node) = sure(tree.store.node(&made)) {
            node.ino = number;
            sure(tree.store.put_node(node));
            tree.kegs.retain(|_, keg| *keg != made);
            tree.kegs.insert(number, made);
        }
        Ok(())
    }

    fn reserve(&self, _keg: &KegId) -> Result<Slot, VfsError> {
        if self.faults.read().journal_broken {
            return Err(VfsError::storage("the journal is broken"));
        }
        let mut slots = self.slots.lock();
        slots.next += 1;
        let slot = slots.next;
        slots.open.push(slot);
        Ok(Slot(slot))
    }

    fn fill(&self, slot: Slot, op: Option<Op>) -> Result<(), VfsError> {
        if let Some(op) = op {
            op.check().map_err(VfsError::storage)?;
            self.slots.lock().log.push(op.kind.clone());
            self.apply(Self::DEVICE, "alice's laptop", &op);
        }
        let mut slots = self.slots.lock();
        let at = slots.open.iter().position(|open| *open == slot.0).ok_or(VfsError::InvalidArgument)?;
        slots.open.remove(at);
        self.filled.notify_all();
        Ok(())
    }

    fn flush(&self, _durable: bool, deadline: Instant) -> Result<(), VfsError> {
        let mut slots = self.slots.lock();
        let until = slots.next;
        while slots.open.first().is_some_and(|slot| *slot <= until) {
            if self.filled.wait_until(&mut slots, deadline).timed_out() {
                return Err(VfsError::TimedOut);
            }
        }
        Ok(())
    }

    fn spool(&self, blob: &BlobId, bytes: &[u8]) -> Result<(), VfsError> {
        if self.faults.read().disk_full {
            return Err(VfsError::NoSpace);
        }
        self.blobs.write().local.insert(*blob, Arc::new(bytes.to_vec()));
        Ok(())
    }

    fn sync_spool(&self, _blobs: &[BlobId]) -> Result<(), VfsError> {
        if self.faults.read().disk_full { Err(VfsError::NoSpace) } else { Ok(()) }
    }

    fn discard(&self, blob: &BlobId) -> Result<(), VfsError> {
        self.blobs.write().local.remove(blob);
        Ok(())
    }

    fn read_local(&self, blob: &BlobId, offset: u64, out: &mut [u8]) -> Result<bool, VfsError> {
        let Some(bytes) = self.blobs.read().local.get(blob).cloned() else { return Ok(false) };
        let start = offset as usize;
        out.copy_from_slice(bytes.get(start..start + out.len()).ok_or_else(|| VfsError::corrupt("short blob"))?);
        Ok(true)
    }

    fn drop_damaged(&self, blob: &BlobId) -> Result<bool, VfsError> {
        let mut blobs = self.blobs.write();
        let intact = blobs.remote.get(blob) == blobs.local.get(blob);
        Ok(!intact && blobs.remote.contains_key(blob) && blobs.local.remove(blob).is_some())
    }

    fn has_local(&self, blob: &BlobId) -> bool {
        self.blobs.read().local.contains_key(blob)
    }

    fn fetch(&self, blob: &BlobId, range: Option<Range<u64>>, _deadline: Instant) -> Result<Bytes, VfsError> {
        let faults = self.faults.read().clone();
        if faults.offline {
            return Err(VfsError::Offline);
        }
        std::thread::sleep(faults.fetch_delay);
        let mut blobs = self.blobs.write();
        if let (None, Some(bytes)) = (&range, blobs.local.get(blob)) {
            // Somebody else has fetched it meanwhile: the real one asks the server once for all who wait.
            return Ok(Bytes::copy_from_slice(bytes));
        }
        blobs.fetched.push((*blob, range.clone()));
        let bytes = blobs.remote.get(blob).or_else(|| blobs.local.get(blob)).cloned().ok_or(VfsError::NotFound)?;
        match range {
            Some(range) => Ok(Bytes::copy_from_slice(&bytes[range.start as usize..range.end as usize])),
            None => {
                blobs.local.insert(*blob, bytes.clone());
                Ok(Bytes::copy_from_slice(&bytes))
            }
        }
    }

    fn online(&self) -> bool {
        !self.faults.read().offline
    }

    fn role(&self) -> Option<Role> {
        self.faults.read().role
    }

    fn frozen(&self) -> bool {
        self.faults.read().frozen
    }

    fn id(&self) -> DbId {
        let mut id = [0; 32];
        for (byte, name) in id.iter_mut().zip(self.name.bytes()) {
            *byte = name;
        }
        DbId(id)
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn device(&self) -> DeviceId {
        Self::DEVICE
    }

    fn label(&self, device: &DeviceId) -> Option<String> {
        match *device {
            Self::DEVICE => Some("alice's laptop".to_owned()),
            Self::OTHER => Some("bob's phone".to_owned()),
            _ => None,
        }
    }

    fn progress(&self, _ino: u64) -> Result<Progress, VfsError> {
        Ok(Progress::OnServer)
    }

    fn keg_dir(&self) -> Option<Arc<dyn KegDir>> {
        self.keg_dir.read().clone()
    }

    fn on_change(&self, callback: OnChange) {
        self.callbacks.write().push(Arc::new(callback));
    }

    fn claim(&self, _keg: &KegId, held: &LockSet, _newcomer: bool) -> Agreed {
        let others = &self.locks.lock().others;
        let free = held.spans().iter().all(|span| others.conflict(span).is_none());
        if free { Agreed::Yes } else { Agreed::Unknown }
    }

    fn want(&self, keg: &KegId, _held: &LockSet, wants: &[(LockSpan, bool)]) {
        let asked = &mut self.locks.lock().asked;
        match wants {
            [] => asked.remove(keg),
            wants => asked.insert(*keg, wants.to_vec()),
        };
    }

    fn probe(&self, _keg: &KegId, span: &LockSpan, done: ProbeDone) {
        let in_the_way = self.locks.lock().others.conflict(span);
        done(in_the_way);
    }

    fn on_lease(&self, news: Box<dyn LeaseNews>) {
        *self.lease_news.write() = Some(news);
    }
}
