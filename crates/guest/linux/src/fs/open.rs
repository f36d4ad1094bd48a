//! Opening files (`open(2)`).

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use super::content::InodeFile;
use super::permission::{EXECUTE, READ, WRITE, owns, permit, permit_at, permit_change};
use super::walk::{Found, find};
use super::watch::{self, Mask};
use super::{Dentry, File, Kind, Metadata, NewInode, OpenFile, OpenFlags, Place, Walk, anonymous};
use crate::io::Sink;
use crate::process::Thread;
use crate::{Errno, Result, shortage};

/// Flags that mean something only while a file is opened.
const MOMENTARY: OpenFlags = OpenFlags::CREAT
    .union(OpenFlags::EXCL)
    .union(OpenFlags::NOCTTY)
    .union(OpenFlags::TRUNC)
    .union(OpenFlags::CLOEXEC);

/// `openat(2)`, without giving it a descriptor; `mode` is that of a file that is made, before the umask.
///
/// # Errors
/// Those of `openat(2)`.
pub fn open(
    thread: &Rc<Thread>,
    folder: i32,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
) -> Result<Rc<OpenFile>> {
    open_how(thread, folder, path, flags, mode, Walk::empty())
}

/// `openat2(2)`: with restrictions on the walk.
///
/// # Errors
/// Those of `openat2(2)`.
pub fn open_how(
    thread: &Rc<Thread>,
    folder: i32,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    walk: Walk,
) -> Result<Rc<OpenFile>> {
    /// Of a file that others make and remove all the time.
    const TRIES: u32 = 100;
    let exclusive = flags.contains(OpenFlags::CREAT | OpenFlags::EXCL);
    let mut tries = 1;
    loop {
        match open_once(thread, folder, path, flags, mode, walk) {
            // Somebody else has made it since it was looked for, as others may in a folder of the host: it is opened then.
            Err(Errno::EEXIST) if !exclusive && tries < TRIES => tries += 1,
            opened => return opened,
        }
    }
}

fn open_once(
    thread: &Rc<Thread>,
    folder: i32,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    mut walk: Walk,
) -> Result<Rc<OpenFile>> {
    let exclusive = flags.contains(OpenFlags::CREAT | OpenFlags::EXCL);
    if !flags.contains(OpenFlags::NOFOLLOW) && !exclusive {
        walk |= Walk::FOLLOW;
    }
    if flags.contains(OpenFlags::TMPFILE) {
        let at = find(thread, folder, path, walk)?.existing()?;
        return unnamed(thread, &at, flags, mode);
    }
    let creates = flags.contains(OpenFlags::CREAT);
    let slash = creates && path.ends_with(b"/");
    if exclusive || slash {
        walk |= Walk::LAST;
        walk.set(Walk::FOLLOW, false);
    }
    let only_reads = !flags.intersects(OpenFlags::RDWR | OpenFlags::WRONLY | OpenFlags::TRUNC);
    walk.set(Walk::READ, only_reads && !flags.contains(OpenFlags::PATH));
    let found = find(thread, folder, path, walk)?;
    if creates && !exclusive && found.slash {
        return Err(Errno::EISDIR);
    }
    if found.dentry.is_none() && creates {
        if found.slash {
            return Err(Errno::EISDIR);
        }
        return create(thread, &found, flags, mode);
    }
    if exclusive && found.dentry.is_some() {
        return Err(Errno::EEXIST);
    }
    let dentry = found.existing()?;
    if creates && dentry.kind == Kind::Directory {
        return Err(Errno::EISDIR);
    }
    existing(thread, &dentry, flags)
}

/// Opens what is at a place, with all checks.
///
/// # Errors
/// Those of `openat(2)`.
pub fn open_place(thread: &Rc<Thread>, place: &Place, flags: OpenFlags) -> Result<Rc<OpenFile>> {
    existing(thread, &place.dentry, flags)
}

fn existing(thread: &Rc<Thread>, dentry: &Rc<Dentry>, flags: OpenFlags) -> Result<Rc<OpenFile>> {
    let kind = dentry.kind;
    if flags.contains(OpenFlags::DIRECTORY) && kind != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    if flags.contains(OpenFlags::PATH) {
        return Ok(describe(dentry, content(dentry), flags));
    }
    if kind == Kind::Link {
        return Err(Errno::ELOOP);
    }
    if kind == Kind::Directory && flags.writable() {
        return Err(Errno::EISDIR);
    }
    let truncates = flags.contains(OpenFlags::TRUNC) && kind == Kind::Regular;
    let mut wanted = 0;
    if flags.readable() {
        wanted |= READ;
    }
    if flags.writable() || truncates {
        wanted |= WRITE;
    }
    permit_at(thread, dentry, wanted)?;
    if wanted & WRITE != 0 && kind == Kind::Regular && dentry.mount.read_only.get() {
        return Err(Errno::EROFS);
    }
    if flags.contains(OpenFlags::NOATIME) && !owns(thread, &dentry.metadata()?) {
        return Err(Errno::EPERM);
    }
    let file = file_of(thread, dentry, flags)?;
    if truncates {
        dentry.inode.resize(0)?;
        watch::tell(&dentry.inode, Some(dentry), Mask::MODIFY);
    }
    watch::tell(&dentry.inode, Some(dentry), Mask::OPEN);
    Ok(describe(dentry, file, flags))
}

/// The file that the VFS makes of an inode.
fn content(dentry: &Rc<Dentry>) -> Rc<dyn File> {
    Rc::new(InodeFile::new(dentry.inode.clone(), dentry.kind))
}

fn file_of(thread: &Rc<Thread>, dentry: &Rc<Dentry>, flags: OpenFlags) -> Result<Rc<dyn File>> {
    if let Some(file) = dentry.inode.open(thread, flags)? {
        return Ok(file);
    }
    match dentry.kind {
        Kind::Regular | Kind::Directory => Ok(content(dentry)),
        Kind::Link => Err(Errno::ELOOP),
        Kind::Socket | Kind::Anonymous => Err(Errno::ENXIO),
        Kind::Fifo => {
            let open = crate::kernel().vfs.open_fifo.get().ok_or(Errno::ENXIO)?;
            open(thread, &dentry.inode, flags)
        }
        kind @ (Kind::Character | Kind::Block) => {
            const ST_NODEV: u64 = 4;
            if dentry.mount.flags.get() & ST_NODEV != 0 {
                return Err(Errno::EACCES);
            }
            let open = crate::kernel().vfs.open_device.get().ok_or(Errno::ENXIO)?;
            open(thread, kind, dentry.metadata()?.rdev, flags)
        }
    }
}

fn describe(dentry: &Rc<Dentry>, file: Rc<dyn File>, flags: OpenFlags) -> Rc<OpenFile> {
    let mut kept = flags - MOMENTARY;
    if !flags.contains(OpenFlags::PATH) {
        kept |= OpenFlags::LARGEFILE;
    }
    dentry.ask_again();
    OpenFile::at(file, Some(Place::of(dentry.clone())), kept)
}

/// What a new inode in a folder belongs to: the thread, or with the folder's set-group bit the folder's group.
pub(super) fn ownership(thread: &Rc<Thread>, folder: &Metadata, kind: Kind) -> (u32, u32, u32) {
    const SET_GROUP: u32 = 0o2000;
    let credentials = thread.process.credentials.borrow();
    let inherits = folder.mode & SET_GROUP != 0;
    let gid = if inherits {
        folder.gid
    } else {
        credentials.fsgid
    };
    let extra = if inherits && kind == Kind::Directory {
        SET_GROUP
    } else {
        0
    };
    (credentials.fsuid, gid, extra)
}

fn create(thread: &Rc<Thread>, found: &Found, flags: OpenFlags, mode: u32) -> Result<Rc<OpenFile>> {
    let parent = &found.parent;
    permit_change(thread, parent)?;
    if parent.gone.get() {
        return Err(Errno::ENOENT);
    }
    let (uid, gid, _) = ownership(thread, &parent.metadata()?, Kind::Regular);
    let new = NewInode {
        kind: Kind::Regular,
        mode: mode & 0o7777 & !thread.process.fs.umask.get(),
        uid,
        gid,
        rdev: 0,
        target: &[],
    };
    let inode = parent.inode.create(&found.name, &new)?;
    let dentry = parent.adopt(inode, &found.name)?;
    watch::tell_folder(parent, &found.name, Mask::CREATE, 0);
    watch::tell(&dentry.inode, Some(&dentry), Mask::OPEN);
    let file = file_of(thread, &dentry, flags)?;
    Ok(describe(&dentry, file, flags))
}

/// `O_TMPFILE`.
fn unnamed(
    thread: &Rc<Thread>,
    folder: &Rc<Dentry>,
    flags: OpenFlags,
    mode: u32,
) -> Result<Rc<OpenFile>> {
    if folder.kind != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    if !flags.writable() {
        return Err(Errno::EINVAL);
    }
    permit(thread, &folder.inode, WRITE | EXECUTE)?;
    if folder.mount.read_only.get() {
        return Err(Errno::EROFS);
    }
    let (uid, gid, _) = ownership(thread, &folder.inode.metadata()?, Kind::Regular);
    let inode = folder.inode.unnamed(&NewInode {
        kind: Kind::Regular,
        mode: mode & 0o7777 & !thread.process.fs.umask.get(),
        uid,
        gid,
        rdev: 0,
        target: &[],
    })?;
    let mut name = b"#".to_vec();
    name.extend_from_slice(alloc::format!("{}", inode.metadata()?.inode).as_bytes());
    let dentry = Dentry::new(inode, folder.mount.clone(), Some(folder.clone()), &name)?;
    dentry.gone.set(true);
    dentry.nameable.set(!flags.contains(OpenFlags::EXCL));
    let file = content(&dentry);
    Ok(describe(&dentry, file, flags))
}

/// `memfd_create(2)`: a file in no folder.
///
/// # Errors
/// None that are known.
pub fn memory_file(thread: &Rc<Thread>, name: &[u8], sealable: bool) -> Result<Rc<OpenFile>> {
    let seals = if sealable { 0 } else { super::tmpfs::SEAL_SEAL };
    let mut shown = b"/memfd:".to_vec();
    shown.extend_from_slice(name);
    nameless(thread, &shown, seals)
}

/// The content of a segment of shared memory (`shmget(2)`).
///
/// # Errors
/// None that are known.
pub fn segment_file(thread: &Rc<Thread>, key: i32) -> Result<Rc<OpenFile>> {
    let shown = alloc::format!("/SYSV{key:08x}");
    nameless(thread, shown.as_bytes(), super::tmpfs::SEAL_SEAL)
}

fn nameless(thread: &Rc<Thread>, shown: &[u8], seals: u32) -> Result<Rc<OpenFile>> {
    let (uid, gid) = {
        let credentials = thread.process.credentials.borrow();
        (credentials.fsuid, credentials.fsgid)
    };
    let inode = super::memory_files().memory_file(uid, gid, seals);
    let dentry = Dentry::new(inode, anonymous::mount(), None, shown)?;
    dentry.gone.set(true);
    let file = content(&dentry);
    let flags = OpenFlags::RDWR | OpenFlags::LARGEFILE;
    Ok(OpenFile::at(file, Some(Place::of(dentry)), flags))
}

/// The content of a file, up to `limit` bytes.
///
/// # Errors
/// `EFBIG` if it is longer; those of reading.
pub fn read_whole(place: &Place, limit: u64) -> Result<Vec<u8>> {
    let size = place.inode.metadata()?.size;
    if size > limit {
        return Err(Errno::EFBIG);
    }
    shortage::room(size)?;
    let mut bytes = vec![0; size as usize];
    let mut done = 0;
    while done < bytes.len() {
        match place
            .inode
            .read_at(done as u64, &mut Sink::kernel(&mut bytes[done..]))?
        {
            0 => break,
            read => done += read,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}
