//! Attributes, extended attributes, permissions.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::format::limits::XATTR_VALUE_MAX_BYTES;
use crate::format::{NodeKind, OpKind, check_xattr_name};
use crate::keg::{Node, PENDING_SEQ};
use crate::sys::clock;

use super::acl;
use super::flush::Flush;
use super::mode;
use super::mounted::Mounted;
use super::stores::Writing;
use super::{Attr, Caller, Ino, Progress, ReadOnlyReason, SetAttr, SetTime, StatFs, Vfs, VfsError, XattrMode};

/// Attributes that KegFS makes: author, version and progress of a file. Not stored, not listed, not settable.
const OWN_PREFIX: &[u8] = b"user.keg.";
const WRITE: u32 = 2;
const STATFS_BLOCK_BYTES: u32 = 4096;
/// Shown as free where nothing limits it. 1 TiB keeps installers content.
const STATFS_FREE_BYTES: u64 = 1 << 40;
const STATFS_FREE_FILES: u64 = 1 << 32;

impl Vfs {
    /// Attributes and how long the kernel may believe them.
    pub fn getattr(&self, ino: Ino) -> Result<(Attr, Duration), VfsError> {
        if self.core.is_list(ino) {
            return Ok(self.core.list_attr());
        }
        let (folder, local) = self.core.locate(ino)?;
        if Mounted::is_keg(local) {
            return Ok((self.core.keg_attr(&folder, local)?, Duration::ZERO));
        }
        let entry = self.core.entry(&folder, local)?;
        Ok((entry.attr, entry.ttl))
    }

    /// Sets attributes.
    pub fn setattr(&self, ino: Ino, set: &SetAttr, caller: &Caller) -> Result<(Attr, Duration), VfsError> {
        let core = &self.core;
        let (folder, local) = core.locate_writable(ino)?;
        let (pin, node) = match set.size {
            Some(_) => core.enter(&folder, local)?,
            None => core.pin(&folder, local)?,
        };
        let now_ns = clock::unix_nanos();
        let at = |time: SetTime| match time {
            SetTime::Now => now_ns,
            SetTime::At(ns) => ns,
        };
        if let Some(size) = set.size {
            match node.kind {
                NodeKind::File => {}
                NodeKind::Directory => return Err(VfsError::IsDirectory),
                _ => return Err(VfsError::InvalidArgument),
            }
            if let Some(fh) = set.fh {
                core.file(fh)?.check_writable(core)?;
            }
            // What a writer does belongs together, as `O_TRUNC` and what is written then: it goes when he closes, or has
            // been idle for a while.
            let written = pin.gate.is_entered();
            let _writing = Writing::begin(&pin);
            let mut state = pin.state.lock();
            core.resize(&pin, &mut state, size)?;
            if !written {
                core.start_flush(&pin, &mut state, Flush::Settle)?;
            }
        }
        let mut mtime_ns = set.mtime.map(at);
        if let Some(time) = mtime_ns {
            let mut state = pin.state.lock();
            if let Some(layer) = state.top_mut() {
                // Goes with the content, whose time would override it.
                layer.mtime_ns = time;
                layer.changed_ns = now_ns;
                mtime_ns = None;
            }
        }
        let (uid, gid) = if core.options.owners_stored { (set.uid, set.gid) } else { (None, None) };
        let atime_ns = set.atime.map(at);
        let mut mode = set.mode.map(|mode| mode & 0o7777);
        if set.size.is_some() {
            let left = mode.unwrap_or(node.mode) & mode::after_cutting(&node, caller);
            mode = (left != node.mode).then_some(left);
        }
        // A change of nothing (`chown` to -1, or to what cannot be set here) still moves the change time.
        let any = mode.is_some() || uid.is_some() || gid.is_some() || atime_ns.is_some() || mtime_ns.is_some();
        if any || (set.size.is_none() && set.mtime.is_none()) {
            let kind = OpKind::SetAttr { keg: node.keg, mode, uid, gid, atime_ns, mtime_ns };
            folder.change(local, kind, now_ns)?;
        }
        let entry = core.entry(&folder, local)?;
        Ok((entry.attr, entry.ttl))
    }

    /// Whether the role allows what `mask` asks for (4 read, 2 write, 1 execute; 0 exists). Mode bits are the kernel's
    /// business (`default_permissions`).
    pub fn access(&self, ino: Ino, mask: u32, _caller: &Caller) -> Result<(), VfsError> {
        if self.core.is_list(ino) {
            return if mask & WRITE == 0 { Ok(()) } else { Err(VfsError::ReadOnly(ReadOnlyReason::View)) };
        }
        if mask & WRITE != 0 {
            return self.core.locate_writable(ino).map(drop);
        }
        let (folder, local) = self.core.locate(ino)?;
        if Mounted::is_keg(local) {
            return self.core.keg_attr(&folder, local).map(drop);
        }
        folder.node(local)?.ok_or(VfsError::NotFound).map(drop)
    }

    /// Numbers for `df`, of the folder that `ino` is in.
    pub fn statfs(&self, ino: Ino) -> Result<StatFs, VfsError> {
        let folders = match self.core.is_list(ino) {
            true => self.core.mounted(),
            false => vec![self.core.locate(ino)?.0],
        };
        let (mut total, mut free, mut files) = (0_u64, 0_u64, 0_u64);
        let mut pools = Vec::new();
        for folder in folders {
            let usage = folder.source.usage()?;
            files += usage.1;
            let room = folder.source.room();
            let (folder_total, folder_free) = match room {
                // What folders share is counted once.
                Some(room) if pools.contains(&room.pool) => (0, 0),
                Some(room) => (room.total_bytes, room.free_bytes.min(room.total_bytes)),
                None => (usage.0.saturating_add(STATFS_FREE_BYTES), STATFS_FREE_BYTES),
            };
            pools.extend(room.map(|room| room.pool));
            (total, free) = (total.saturating_add(folder_total), free.saturating_add(folder_free));
        }
        let free = free / u64::from(STATFS_BLOCK_BYTES);
        Ok(StatFs {
            block_bytes: STATFS_BLOCK_BYTES,
            blocks: total.div_ceil(u64::from(STATFS_BLOCK_BYTES)),
            blocks_free: free,
            files: files + STATFS_FREE_FILES,
            files_free: STATFS_FREE_FILES,
            name_max: crate::format::limits::NAME_MAX_BYTES as u32,
        })
    }

    /// Sets an extended attribute, or an access control list.
    pub fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        caller: &Caller,
    ) -> Result<(), VfsError> {
        let (folder, local) = self.core.locate_writable(ino)?;
        self.core.check_settable(name)?;
        if value.len() > XATTR_VALUE_MAX_BYTES {
            return Err(VfsError::TooLarge);
        }
        let _names = folder.names.lock();
        let node = folder.node(local)?.ok_or(VfsError::NotFound)?;
        if mode != XattrMode::Set {
            match (folder.xattr(local, name)?.is_some(), mode) {
                (true, XattrMode::Create | XattrMode::CreateAndReplace) => return Err(VfsError::Exists),
                (false, XattrMode::Replace | XattrMode::CreateAndReplace) => return Err(VfsError::NoAttribute),
                _ => {}
            }
        }
        if let Some(inode) = self.core.table.get(ino) {
            inode.bare.store(false, Ordering::Release);
        }
        if acl::is_list(name) {
            return acl::set(&folder, &node, name, value, caller);
        }
        let kind = OpKind::SetXattr { keg: node.keg, name: name.to_vec(), value: value.to_vec() };
        folder.change(local, kind, clock::unix_nanos())
    }

    /// An extended attribute. `user.keg.author`, `user.keg.version` and `user.keg.state` (`buffered`, `journaled`,
    /// `on-server`) tell where a file's content comes from and how far it has come.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, VfsError> {
        if self.core.is_list(ino) {
            return Err(VfsError::NoAttribute);
        }
        let (folder, local) = self.core.locate(ino)?;
        if Mounted::is_keg(local) {
            return Err(VfsError::NoAttribute);
        }
        if let Some(own) = name.strip_prefix(OWN_PREFIX) {
            let node = folder.node(local)?.ok_or(VfsError::NotFound)?;
            return self.own_xattr(&folder, &node, own);
        }
        self.core.check_namespace(name)?;
        if self.core.table.get(ino).is_some_and(|inode| inode.bare.load(Ordering::Acquire)) {
            return Err(VfsError::NoAttribute);
        }
        let value = folder.xattr(local, name)?.ok_or(VfsError::NoAttribute)?;
        if !acl::is_list(name) {
            return Ok(value);
        }
        let shown = self.core.entry(&folder, local)?.attr.mode;
        acl::shown(name, &value, shown).ok_or(VfsError::NoAttribute)
    }

    fn own_xattr(&self, folder: &Mounted, node: &Node, name: &[u8]) -> Result<Vec<u8>, VfsError> {
        let text = match name {
            b"author" => folder.source.label(&node.content.device).ok_or(VfsError::NoAttribute)?,
            b"version" if node.content.seq == PENDING_SEQ => "pending".to_owned(),
            b"version" => node.content.seq.to_string(),
            b"state" if self.core.table.shown(folder.ino(node.ino)).is_some() => "buffered".to_owned(),
            b"state" => match folder.source.progress(node.ino)? {
                Progress::Journaled => "journaled".to_owned(),
                Progress::OnServer => "on-server".to_owned(),
            },
            _ => return Err(VfsError::NoAttribute),
        };
        Ok(text.into_bytes())
    }

    /// Names of all extended attributes, each followed by a zero byte.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, VfsError> {
        if self.core.is_list(ino) {
            return Ok(Vec::new());
        }
        let (folder, local) = self.core.locate(ino)?;
        if Mounted::is_keg(local) {
            return Ok(Vec::new());
        }
        let mut list = Vec::new();
        for name in folder.xattrs(local)?.into_iter().filter(|name| self.core.check_namespace(name).is_ok()) {
            list.extend_from_slice(&name);
            list.push(0);
        }
        Ok(list)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), VfsError> {
        let (folder, local) = self.core.locate_writable(ino)?;
        self.core.check_settable(name)?;
        let _names = folder.names.lock();
        let node = folder.node(local)?.ok_or(VfsError::NotFound)?;
        if acl::is_list(name) {
            return acl::remove(&folder, &node, name);
        }
        folder.xattr(local, name)?.ok_or(VfsError::NoAttribute)?;
        let kind = OpKind::RemoveXattr { keg: node.keg, name: name.to_vec() };
        folder.change(local, kind, clock::unix_nanos())
    }
}

/// Namespaces that there are; who may use which is the kernel's business.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];

impl super::core::Core {
    /// Of `system.` there are access control lists, where the kernel enforces them. To store them unenforced would be worse
    /// than to refuse them: who copies with `cp -a` sets the mode through them, and only where they are refused with chmod(2).
    fn check_namespace(&self, name: &[u8]) -> Result<(), VfsError> {
        check_xattr_name(name)?;
        if self.options.owners_stored && acl::is_list(name) {
            return Ok(());
        }
        match NAMESPACES.iter().find_map(|prefix| name.strip_prefix(*prefix)) {
            Some(b"") => Err(VfsError::InvalidArgument),
            Some(_) => Ok(()),
            None => Err(VfsError::Unsupported),
        }
    }

    fn check_settable(&self, name: &[u8]) -> Result<(), VfsError> {
        self.check_namespace(name)?;
        if name.starts_with(OWN_PREFIX) { Err(VfsError::NoPermission) } else { Ok(()) }
    }

    /// Attributes of the list of folders.
    pub(super) fn list_attr(&self) -> (Attr, Duration) {
        let folders = self.mounted();
        let since_ns = self.started_ns;
        let attr = Attr {
            ino: super::ROOT,
            kind: NodeKind::Directory,
            mode: 0o555,
            nlink: 2 + folders.len() as u32,
            uid: self.options.uid,
            gid: self.options.gid,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime_ns: since_ns,
            mtime_ns: since_ns,
            ctime_ns: since_ns,
            btime_ns: since_ns,
        };
        // Folders come and go without a notification of their own.
        (attr, Duration::from_secs(1))
    }
}
