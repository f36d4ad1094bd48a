//! Watching files (`inotify(7)`), and calls of the kind that are not there.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::fs::permission::{READ, permit};
use crate::fs::watch::{Inotify, Mask};
use crate::fs::{self, AT_FDCWD, Kind, OpenFile, OpenFlags, Walk};
use crate::process::Thread;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::answered(
        155,
        "pivot_root",
        2,
        absent,
        "a program has the root it is started with",
    ),
    Call::answered(179, "quotactl", 4, absent, "there are no quotas"),
    Call::full(253, "inotify_init", 0, inotify_init),
    Call::full(254, "inotify_add_watch", 3, inotify_add_watch),
    Call::full(255, "inotify_rm_watch", 2, inotify_rm_watch),
    Call::full(294, "inotify_init1", 1, inotify_init1),
    Call::answered(301, "fanotify_mark", 5, absent, "inotify is there"),
    Call::answered(
        303,
        "name_to_handle_at",
        5,
        no_handles,
        "files have no handles",
    ),
    Call::answered(
        304,
        "open_by_handle_at",
        3,
        no_handles,
        "files have no handles",
    ),
];

fn absent(_thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    Err(Errno::ENOSYS)
}

fn no_handles(_thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    Err(Errno::EOPNOTSUPP)
}

fn inotify_init(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    create(thread, 0)
}

fn inotify_init1(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    create(thread, args.uint(0))
}

fn create(thread: &Rc<Thread>, flags: u32) -> Result<u64> {
    let flags = OpenFlags::from_bits_retain(flags);
    if !(flags - (OpenFlags::NONBLOCK | OpenFlags::CLOEXEC)).is_empty() {
        return Err(Errno::EINVAL);
    }
    let open = OpenFile::new(Inotify::new(), flags & OpenFlags::NONBLOCK);
    let close_on_exec = flags.contains(OpenFlags::CLOEXEC);
    Ok(thread.process.files.add(open, close_on_exec, 0)? as u64)
}

fn inotify_add_watch(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let mask = Mask::from_bits_retain(args.uint(2));
    let open = thread.process.files.get(args.int(0))?;
    let instance = open.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    let mut walk = Walk::empty();
    walk.set(Walk::FOLLOW, !mask.contains(Mask::DONT_FOLLOW));
    let place = fs::resolve(thread, AT_FDCWD, &args.addr(1).read_path()?, walk)?;
    if mask.contains(Mask::ONLYDIR) && place.inode.metadata()?.kind != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    permit(thread, &place.inode, READ)?;
    Ok(instance.add(&place.inode, mask)? as u64)
}

fn inotify_rm_watch(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    let instance = open.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    instance.remove(args.int(1))?;
    Ok(0)
}
