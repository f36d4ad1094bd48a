//! Extended attributes (`xattr(7)`).

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{Args, Call};
use crate::fs::permission::{READ, WRITE, permit};
use crate::fs::{self, AT_FDCWD, Kind, OpenFlags, Place, Walk};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(188, "setxattr", 5, setxattr),
    Call::full(189, "lsetxattr", 5, lsetxattr),
    Call::full(190, "fsetxattr", 5, fsetxattr),
    Call::full(191, "getxattr", 4, getxattr),
    Call::full(192, "lgetxattr", 4, lgetxattr),
    Call::full(193, "fgetxattr", 4, fgetxattr),
    Call::full(194, "listxattr", 3, listxattr),
    Call::full(195, "llistxattr", 3, llistxattr),
    Call::full(196, "flistxattr", 3, flistxattr),
    Call::full(197, "removexattr", 2, removexattr),
    Call::full(198, "lremovexattr", 2, lremovexattr),
    Call::full(199, "fremovexattr", 2, fremovexattr),
];

/// `XATTR_NAME_MAX`
const NAME_MAX: usize = 255;
/// `XATTR_SIZE_MAX`, and `XATTR_LIST_MAX`
const SIZE_MAX: u64 = 65536;

fn by_path(thread: &Rc<Thread>, args: &Args, walk: Walk) -> Result<Place> {
    fs::resolve(thread, AT_FDCWD, &args.addr(0).read_path()?, walk)
}

fn by_descriptor(thread: &Rc<Thread>, args: &Args) -> Result<Place> {
    let open = thread.process.files.get(args.int(0))?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    fs::place_of(&open)
}

fn name(at: UserAddr) -> Result<Vec<u8>> {
    let name = at.read_string(NAME_MAX + 1).map_err(|error| match error {
        Errno::ENAMETOOLONG => Errno::ERANGE,
        other => other,
    })?;
    if name.is_empty() {
        return Err(Errno::ERANGE);
    }
    Ok(name)
}

fn is_superuser(thread: &Rc<Thread>) -> bool {
    thread.process.credentials.borrow().fsuid == 0
}

/// Checks that the thread may read or change an attribute (`xattr(7)`).
fn check(thread: &Rc<Thread>, place: &Place, name: &[u8], change: bool) -> Result {
    let refused = if change { Errno::EPERM } else { Errno::ENODATA };
    if name.starts_with(b"user.") {
        let kind = place.inode.metadata()?.kind;
        if !matches!(kind, Kind::Regular | Kind::Directory) {
            return Err(refused);
        }
        permit(thread, &place.inode, if change { WRITE } else { READ })?;
    } else if name.starts_with(b"trusted.") {
        if !is_superuser(thread) {
            return Err(refused);
        }
    } else if name.starts_with(b"security.") {
        if change && !is_superuser(thread) {
            return Err(Errno::EPERM);
        }
    } else {
        return Err(Errno::EOPNOTSUPP);
    }
    if change && place.mount().read_only.get() {
        return Err(Errno::EROFS);
    }
    Ok(())
}

fn set(thread: &Rc<Thread>, place: &Place, args: &Args) -> Result<u64> {
    const CREATE_OR_REPLACE: u32 = 3;
    let (size, flags) = (args.word(3), args.uint(4));
    if flags & !CREATE_OR_REPLACE != 0 || flags == CREATE_OR_REPLACE {
        return Err(Errno::EINVAL);
    }
    let name = name(args.addr(1))?;
    if size > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let mut value = alloc::vec![0; size as usize];
    args.addr(2).read_bytes(&mut value)?;
    check(thread, place, &name, true)?;
    fs::change_xattr(place, &name, Some(&value), flags)?;
    Ok(0)
}

/// Gives bytes to a buffer of a given size; of size 0 it only asks for the length.
fn give(bytes: &[u8], to: UserAddr, size: u64) -> Result<u64> {
    let len = bytes.len() as u64;
    if size == 0 {
        return Ok(len);
    }
    if len > size {
        return Err(Errno::ERANGE);
    }
    to.write_bytes(bytes)?;
    Ok(len)
}

fn get(thread: &Rc<Thread>, place: &Place, args: &Args) -> Result<u64> {
    let name = name(args.addr(1))?;
    check(thread, place, &name, false)?;
    let value = place.inode.xattr(&name)?;
    give(&value, args.addr(2), args.word(3))
}

fn list(thread: &Rc<Thread>, place: &Place, args: &Args) -> Result<u64> {
    let mut names = Vec::new();
    for name in place.inode.xattrs()? {
        if !name.starts_with(b"trusted.") || is_superuser(thread) {
            names.extend_from_slice(&name);
            names.push(0);
        }
    }
    if names.len() as u64 > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    give(&names, args.addr(1), args.word(2))
}

fn remove(thread: &Rc<Thread>, place: &Place, args: &Args) -> Result<u64> {
    let name = name(args.addr(1))?;
    check(thread, place, &name, true)?;
    fs::change_xattr(place, &name, None, 0)?;
    Ok(0)
}

fn setxattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    set(thread, &by_path(thread, &args, Walk::FOLLOW)?, &args)
}

fn lsetxattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    set(thread, &by_path(thread, &args, Walk::empty())?, &args)
}

fn fsetxattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    set(thread, &by_descriptor(thread, &args)?, &args)
}

fn getxattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    get(thread, &by_path(thread, &args, Walk::FOLLOW)?, &args)
}

fn lgetxattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    get(thread, &by_path(thread, &args, Walk::empty())?, &args)
}

fn fgetxattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    get(thread, &by_descriptor(thread, &args)?, &args)
}

fn listxattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    list(thread, &by_path(thread, &args, Walk::FOLLOW)?, &args)
}

fn llistxattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    list(thread, &by_path(thread, &args, Walk::empty())?, &args)
}

fn flistxattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    list(thread, &by_descriptor(thread, &args)?, &args)
}

fn removexattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    remove(thread, &by_path(thread, &args, Walk::FOLLOW)?, &args)
}

fn lremovexattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    remove(thread, &by_path(thread, &args, Walk::empty())?, &args)
}

fn fremovexattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    remove(thread, &by_descriptor(thread, &args)?, &args)
}
