//! Folders and names: `getdents64(2)`, `getcwd(2)`, `chdir(2)`, `chroot(2)`, `rename(2)`, `mkdir(2)`, `link(2)`, `unlink(2)`, `symlink(2)`, `readlink(2)`,
//! `mknod(2)`, `mount(2)`.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{Args, Call};
use crate::fs::permission::{EXECUTE, permit};
use crate::fs::{self, AT_FDCWD, InodeFile, Kind, Place, Walk};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(78, "getdents", 3, getdents).may_wait(),
    Call::full(79, "getcwd", 2, getcwd),
    Call::full(80, "chdir", 1, chdir).may_wait(),
    Call::full(81, "fchdir", 1, fchdir).may_wait(),
    Call::full(82, "rename", 2, rename).may_wait(),
    Call::full(83, "mkdir", 2, mkdir).may_wait(),
    Call::full(84, "rmdir", 1, rmdir).may_wait(),
    Call::full(86, "link", 2, link).may_wait(),
    Call::full(87, "unlink", 1, unlink).may_wait(),
    Call::full(88, "symlink", 2, symlink).may_wait(),
    Call::full(89, "readlink", 3, readlink).may_wait(),
    Call::full(95, "umask", 1, umask),
    Call::full(133, "mknod", 3, mknod).may_wait(),
    Call::full(161, "chroot", 1, chroot).may_wait(),
    Call::partly(165, "mount", 5, mount, "only tmpfs, and MS_REMOUNT"),
    Call::partly(166, "umount2", 2, umount2, "MNT_EXPIRE"),
    Call::full(217, "getdents64", 3, getdents64).may_wait(),
    Call::full(258, "mkdirat", 3, mkdirat).may_wait(),
    Call::full(259, "mknodat", 4, mknodat).may_wait(),
    Call::full(263, "unlinkat", 3, unlinkat).may_wait(),
    Call::full(264, "renameat", 4, renameat).may_wait(),
    Call::full(265, "linkat", 5, linkat).may_wait(),
    Call::full(266, "symlinkat", 3, symlinkat).may_wait(),
    Call::full(267, "readlinkat", 4, readlinkat).may_wait(),
    Call::full(316, "renameat2", 5, renameat2).may_wait(),
];

/// `AT_SYMLINK_FOLLOW`
const AT_SYMLINK_FOLLOW: u32 = 0x400;
/// `AT_EMPTY_PATH`
const AT_EMPTY_PATH: u32 = 0x1000;
/// `AT_REMOVEDIR`
const AT_REMOVEDIR: u32 = 0x200;

/// Bytes of entries that one call gives at most.
const MAX_ENTRIES: usize = 1 << 16;

fn getdents64(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    entries(thread, &args, |inode, next, kind, name, to| {
        const HEADER: usize = 19;
        let len = (HEADER + name.len() + 1).next_multiple_of(8);
        let start = to.len();
        to.extend_from_slice(&inode.to_ne_bytes());
        to.extend_from_slice(&next.to_ne_bytes());
        to.extend_from_slice(&(len as u16).to_ne_bytes());
        to.push(kind);
        to.extend_from_slice(name);
        to.resize(start + len, 0);
    })
}

fn getdents(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    entries(thread, &args, |inode, next, kind, name, to| {
        const HEADER: usize = 18;
        let len = (HEADER + name.len() + 2).next_multiple_of(8);
        let start = to.len();
        to.extend_from_slice(&inode.to_ne_bytes());
        to.extend_from_slice(&next.to_ne_bytes());
        to.extend_from_slice(&(len as u16).to_ne_bytes());
        to.extend_from_slice(name);
        to.resize(start + len - 1, 0);
        to.push(kind);
    })
}

/// Gives a folder's entries from the description's offset on, each written by `put`.
fn entries(
    thread: &Rc<Thread>,
    args: &Args,
    put: impl Fn(u64, u64, u8, &[u8], &mut Vec<u8>),
) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    if !open.flags.get().readable() {
        return Err(Errno::EBADF);
    }
    let file = open.downcast::<InodeFile>().ok_or(Errno::ENOTDIR)?;
    let place = open.place.as_ref().ok_or(Errno::ENOTDIR)?;
    if place.kind() != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    if place.is_deleted() {
        return Err(Errno::ENOENT);
    }
    let _turn = file.turn(thread, &open);
    let room = (args.uint(2) as usize).min(MAX_ENTRIES);
    let mut to = Vec::new();
    let mut at = open.offset.get();
    let mut full = false;
    // Gives one entry; false if there is no room for it.
    let mut give = |inode: u64, next: u64, kind: Kind, name: &[u8]| {
        let before = to.len();
        put(inode, next, ((kind as u32) >> 12) as u8, name, &mut to);
        if to.len() > room {
            to.truncate(before);
            full = true;
            return false;
        }
        at = next;
        true
    };
    let mut more = true;
    if open.offset.get() == 0 {
        more = give(file.inode.identity()?.1, 1, Kind::Directory, b".");
    }
    if more && open.offset.get() <= 1 {
        more = give(place.above_inode()?, 2, Kind::Directory, b"..");
    }
    if more {
        let from = open.offset.get().saturating_sub(2);
        file.inode.entries(from, &mut |entry| {
            let next = entry.next.saturating_add(2);
            give(entry.inode, next, entry.kind, entry.name)
        })?;
    }
    if to.is_empty() && full {
        return Err(Errno::EINVAL);
    }
    args.addr(1).write_bytes(&to)?;
    open.offset.set(at);
    Ok(to.len() as u64)
}

fn getcwd(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let cwd = fs::working_directory(thread)?;
    if cwd.is_deleted() {
        return Err(Errno::ENOENT);
    }
    let mut path = cwd.seen_by(thread);
    path.push(0);
    if path.len() as u64 > args.word(1) {
        return Err(Errno::ERANGE);
    }
    args.addr(0).write_bytes(&path)?;
    Ok(path.len() as u64)
}

/// Checks that a place can be a working directory or a root.
fn enter(thread: &Rc<Thread>, place: &Place) -> Result {
    if place.kind() != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    permit(thread, &place.inode, EXECUTE)
}

fn chdir(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let path = args.addr(0).read_path()?;
    let place = fs::resolve(thread, AT_FDCWD, &path, Walk::FOLLOW)?;
    enter(thread, &place)?;
    let old = thread.process.fs.cwd.replace(Some(place));
    drop(old);
    Ok(0)
}

fn fchdir(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    let place = open.place.clone().ok_or(Errno::ENOTDIR)?;
    enter(thread, &place)?;
    let old = thread.process.fs.cwd.replace(Some(place));
    drop(old);
    Ok(0)
}

fn chroot(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let path = args.addr(0).read_path()?;
    let place = fs::resolve(thread, AT_FDCWD, &path, Walk::FOLLOW)?;
    enter(thread, &place)?;
    superuser(thread)?;
    let old = thread.process.fs.root.replace(Some(place));
    drop(old);
    Ok(0)
}

fn superuser(thread: &Rc<Thread>) -> Result {
    if thread.process.credentials.borrow().euid != 0 {
        return Err(Errno::EPERM);
    }
    Ok(())
}

fn rename(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    renaming(
        thread,
        (AT_FDCWD, args.addr(0)),
        (AT_FDCWD, args.addr(1)),
        0,
    )
}

fn renameat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let old = (args.int(0), args.addr(1));
    renaming(thread, old, (args.int(2), args.addr(3)), 0)
}

fn renameat2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let old = (args.int(0), args.addr(1));
    renaming(thread, old, (args.int(2), args.addr(3)), args.uint(4))
}

fn renaming(
    thread: &Rc<Thread>,
    old: (i32, UserAddr),
    new: (i32, UserAddr),
    flags: u32,
) -> Result<u64> {
    let (old_path, new_path) = (old.1.read_path()?, new.1.read_path()?);
    fs::exchange_or_rename(thread, (old.0, &old_path), (new.0, &new_path), flags)?;
    Ok(0)
}

fn mkdir(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    make_folder(thread, AT_FDCWD, args.addr(0), args.uint(1))
}

fn mkdirat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    make_folder(thread, args.int(0), args.addr(1), args.uint(2))
}

fn make_folder(thread: &Rc<Thread>, folder: i32, path: UserAddr, mode: u32) -> Result<u64> {
    let path = path.read_path()?;
    // The set-id bits are not taken (`mkdir(2)`).
    fs::make_node(thread, folder, &path, Kind::Directory, mode & 0o1777, 0)?;
    Ok(0)
}

fn mknod(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    make_node(thread, AT_FDCWD, args.addr(0), args.uint(1), args.uint(2))
}

fn mknodat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    make_node(
        thread,
        args.int(0),
        args.addr(1),
        args.uint(2),
        args.uint(3),
    )
}

fn make_node(
    thread: &Rc<Thread>,
    folder: i32,
    path: UserAddr,
    mode: u32,
    device: u32,
) -> Result<u64> {
    const KIND: u32 = 0o170_000;
    let path = path.read_path()?;
    let kind = match mode & KIND {
        0 | 0o100_000 => Kind::Regular,
        0o010_000 => Kind::Fifo,
        0o020_000 => Kind::Character,
        0o060_000 => Kind::Block,
        0o140_000 => Kind::Socket,
        0o040_000 => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let rdev = match kind {
        Kind::Character | Kind::Block => u64::from(device),
        _ => 0,
    };
    fs::make_node(thread, folder, &path, kind, mode & 0o7777, rdev)?;
    Ok(0)
}

fn rmdir(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let path = args.addr(0).read_path()?;
    fs::remove(thread, AT_FDCWD, &path, true)?;
    Ok(0)
}

fn unlink(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let path = args.addr(0).read_path()?;
    fs::remove(thread, AT_FDCWD, &path, false)?;
    Ok(0)
}

fn unlinkat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(2);
    if flags & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let path = args.addr(1).read_path()?;
    fs::remove(thread, args.int(0), &path, flags & AT_REMOVEDIR != 0)?;
    Ok(0)
}

fn link(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    linking(
        thread,
        (AT_FDCWD, args.addr(0)),
        (AT_FDCWD, args.addr(1)),
        0,
    )
}

fn linkat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let old = (args.int(0), args.addr(1));
    linking(thread, old, (args.int(2), args.addr(3)), args.uint(4))
}

fn linking(
    thread: &Rc<Thread>,
    old: (i32, UserAddr),
    new: (i32, UserAddr),
    flags: u32,
) -> Result<u64> {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let (old_path, new_path) = (old.1.read_path()?, new.1.read_path()?);
    let mut walk = Walk::empty();
    walk.set(Walk::FOLLOW, flags & AT_SYMLINK_FOLLOW != 0);
    walk.set(Walk::EMPTY, flags & AT_EMPTY_PATH != 0);
    let place = fs::resolve(thread, old.0, &old_path, walk)?;
    fs::link(thread, &place, new.0, &new_path)?;
    Ok(0)
}

fn symlink(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (target, path) = (args.addr(0).read_path()?, args.addr(1).read_path()?);
    fs::make_link(thread, &target, AT_FDCWD, &path)?;
    Ok(0)
}

fn symlinkat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (target, path) = (args.addr(0).read_path()?, args.addr(2).read_path()?);
    fs::make_link(thread, &target, args.int(1), &path)?;
    Ok(0)
}

fn readlink(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    read_link(thread, AT_FDCWD, args.addr(0), args.addr(1), args.int(2))
}

fn readlinkat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    read_link(thread, args.int(0), args.addr(1), args.addr(2), args.int(3))
}

fn read_link(
    thread: &Rc<Thread>,
    folder: i32,
    path: UserAddr,
    to: UserAddr,
    len: i32,
) -> Result<u64> {
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let path = path.read_path()?;
    // An empty path means a link that was opened with O_PATH and O_NOFOLLOW.
    let place = fs::resolve(thread, folder, &path, Walk::EMPTY)?;
    if path.is_empty() && (folder == AT_FDCWD || place.kind() != Kind::Link) {
        return Err(Errno::ENOENT);
    }
    if place.kind() != Kind::Link {
        return Err(Errno::EINVAL);
    }
    let target = place.inode.read_link(thread)?;
    let target = &target[..target.len().min(len)];
    to.write_bytes(target)?;
    Ok(target.len() as u64)
}

fn umask(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let old = thread.process.fs.umask.replace(args.uint(0) & 0o777);
    Ok(u64::from(old))
}

fn mount(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    superuser(thread)?;
    let source = args.addr(0).read_if_path()?;
    let target = args.addr(1).read_path()?;
    let kind = args.addr(2).read_if_path()?;
    let options = args.addr(4).read_if_path()?;
    let place = fs::resolve(thread, AT_FDCWD, &target, Walk::FOLLOW)?;
    fs::mount_call(&place, &source, &kind, args.word(3), &options)?;
    Ok(0)
}

fn umount2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const FORCE: u32 = 1;
    const DETACH: u32 = 2;
    const NOFOLLOW: u32 = 8;
    let flags = args.uint(1);
    if flags & !(FORCE | DETACH | NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    superuser(thread)?;
    let path = args.addr(0).read_path()?;
    let walk = if flags & NOFOLLOW == 0 {
        Walk::FOLLOW
    } else {
        Walk::empty()
    };
    fs::unmount(&fs::resolve(thread, AT_FDCWD, &path, walk)?)?;
    Ok(0)
}
