//! Opening and closing, and what is done with descriptors: `open(2)`, `openat2(2)`, `close(2)`, `dup(2)`, `fcntl(2)`, `ioctl(2)`.

use alloc::rc::Rc;

use super::{Args, Call, lock};
use crate::fs::{self, AT_FDCWD, OpenFile, OpenFlags, Walk, locks};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(2, "open", 3, open).may_wait(),
    Call::full(3, "close", 1, close),
    Call::full(16, "ioctl", 3, ioctl),
    Call::full(32, "dup", 1, dup),
    Call::full(33, "dup2", 2, dup2),
    Call::partly(72, "fcntl", 3, fcntl, "no F_NOTIFY, no leases"),
    Call::full(85, "creat", 2, creat).may_wait(),
    Call::full(257, "openat", 4, openat).may_wait(),
    Call::full(292, "dup3", 3, dup3),
    Call::full(319, "memfd_create", 2, memfd_create),
    Call::full(436, "close_range", 3, close_range),
    Call::full(437, "openat2", 4, openat2).may_wait(),
];

fn open_at(thread: &Rc<Thread>, folder: i32, path: UserAddr, flags: u32, mode: u32) -> Result<u64> {
    let mut flags = OpenFlags::from_bits_truncate(flags);
    if flags.contains(OpenFlags::PATH) {
        // All others are ignored with it (`open(2)`).
        flags &= OpenFlags::PATH | OpenFlags::CLOEXEC | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW;
    }
    if flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    let path = path.read_path()?;
    let open = fs::open(thread, folder, &path, flags, mode)?;
    add(thread, open, flags.contains(OpenFlags::CLOEXEC))
}

fn add(thread: &Rc<Thread>, open: Rc<OpenFile>, close_on_exec: bool) -> Result<u64> {
    let fd = thread.process.files.add(open, close_on_exec, 0)?;
    Ok(fd as u64)
}

fn open(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    open_at(thread, AT_FDCWD, args.addr(0), args.uint(1), args.uint(2))
}

fn creat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    open_at(thread, AT_FDCWD, args.addr(0), flags.bits(), args.uint(1))
}

fn openat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    open_at(
        thread,
        args.int(0),
        args.addr(1),
        args.uint(2),
        args.uint(3),
    )
}

/// `struct open_how`: flags, mode, resolve.
type OpenHow = [u64; 3];

fn openat2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const SIZE: u64 = size_of::<OpenHow>() as u64;
    const NO_XDEV: u64 = 1;
    const NO_MAGICLINKS: u64 = 2;
    const NO_SYMLINKS: u64 = 4;
    const BENEATH: u64 = 8;
    const IN_ROOT: u64 = 0x10;
    const CACHED: u64 = 0x20;
    let size = args.word(3);
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let [flags, mode, resolve] = args.addr(2).read::<OpenHow>()?;
    let rest = args
        .addr(2)
        .add(SIZE)
        .read_array::<u8>((size - SIZE) as usize)?;
    if rest.iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG);
    }
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    if flags & !OpenFlags::all().bits() != 0 || mode & !0o7777 != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = OpenFlags::from_bits_truncate(flags);
    if mode != 0 && !flags.intersects(OpenFlags::CREAT | OpenFlags::TMPFILE)
        || flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY)
        || flags.contains(OpenFlags::PATH)
            && !(flags
                - (OpenFlags::PATH
                    | OpenFlags::CLOEXEC
                    | OpenFlags::DIRECTORY
                    | OpenFlags::NOFOLLOW))
                .is_empty()
    {
        return Err(Errno::EINVAL);
    }
    let known = NO_XDEV | NO_MAGICLINKS | NO_SYMLINKS | BENEATH | IN_ROOT | CACHED;
    if resolve & !known != 0 || resolve & BENEATH != 0 && resolve & IN_ROOT != 0 {
        return Err(Errno::EINVAL);
    }
    if resolve & CACHED != 0
        && flags.intersects(OpenFlags::CREAT | OpenFlags::TRUNC | OpenFlags::TMPFILE)
    {
        return Err(Errno::EAGAIN);
    }
    let mut walk = Walk::empty();
    for (bit, flag) in [
        (NO_XDEV, Walk::NO_XDEV),
        (NO_MAGICLINKS, Walk::NO_MAGIC),
        (NO_SYMLINKS, Walk::NO_LINKS | Walk::NO_MAGIC),
        (BENEATH, Walk::BENEATH),
        (IN_ROOT, Walk::IN_ROOT),
    ] {
        if resolve & bit != 0 {
            walk |= flag;
        }
    }
    let path = args.addr(1).read_path()?;
    let open = fs::open_how(thread, args.int(0), &path, flags, mode as u32, walk)?;
    add(thread, open, flags.contains(OpenFlags::CLOEXEC))
}

fn close(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let descriptor = thread.process.files.remove(args.int(0))?;
    locks::closed(thread.process.pid, &descriptor.open);
    super::socket::linger(thread, &descriptor.open);
    // A file that was written may take its time.
    thread.at_names(|| drop(descriptor));
    Ok(0)
}

fn close_range(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    let (first, last, flags) = (args.uint(0), args.uint(1), args.uint(2));
    if first > last || flags & !(UNSHARE | CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let files = &thread.process.files;
    for fd in files.numbers() {
        if !(first..=last).contains(&fd.cast_unsigned()) {
            continue;
        }
        if flags & CLOEXEC != 0 {
            files.set_close_on_exec(fd, true)?;
        } else if let Ok(descriptor) = files.remove(fd) {
            locks::closed(thread.process.pid, &descriptor.open);
        }
    }
    Ok(0)
}

fn dup(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    add(thread, open, false)
}

fn dup_to(thread: &Rc<Thread>, old: i32, new: i32, close_on_exec: bool) -> Result<u64> {
    let open = thread.process.files.get(old)?;
    let replaced = thread.process.files.put(new, open, close_on_exec)?;
    if let Some(replaced) = replaced {
        locks::closed(thread.process.pid, &replaced.open);
    }
    Ok(new as u64)
}

fn dup2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (old, new) = (args.int(0), args.int(1));
    if old == new {
        thread.process.files.get(old)?;
        return Ok(new as u64);
    }
    dup_to(thread, old, new, false)
}

fn dup3(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (old, new, flags) = (args.int(0), args.int(1), args.uint(2));
    if old == new || flags & !OpenFlags::CLOEXEC.bits() != 0 {
        return Err(Errno::EINVAL);
    }
    dup_to(thread, old, new, flags != 0)
}

fn memfd_create(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const CLOEXEC: u32 = 1;
    const ALLOW_SEALING: u32 = 2;
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 0x10;
    let flags = args.uint(1);
    if flags & !(CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC) != 0
        || flags & (NOEXEC_SEAL | EXEC) == NOEXEC_SEAL | EXEC
    {
        return Err(Errno::EINVAL);
    }
    let name = args.addr(0).read_string(250).map_err(|error| match error {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        other => other,
    })?;
    let sealable = flags & (ALLOW_SEALING | NOEXEC_SEAL) != 0;
    let open = fs::memory_file(thread, &name, sealable)?;
    add(thread, open, flags & CLOEXEC != 0)
}

/// Flags that `F_SETFL` changes.
const CHANGEABLE: OpenFlags = OpenFlags::APPEND
    .union(OpenFlags::NONBLOCK)
    .union(OpenFlags::ASYNC)
    .union(OpenFlags::DIRECT)
    .union(OpenFlags::NOATIME);

fn set_flags(open: &OpenFile, new: OpenFlags) {
    open.flags
        .set((open.flags.get() - CHANGEABLE) | (new & CHANGEABLE));
    open.file.flags_changed(open.flags.get());
}

fn fcntl(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const F_DUPFD: u32 = 0;
    const F_GETFD: u32 = 1;
    const F_SETFD: u32 = 2;
    const F_GETFL: u32 = 3;
    const F_SETFL: u32 = 4;
    const F_SETOWN: u32 = 8;
    const F_GETOWN: u32 = 9;
    const F_SETSIG: u32 = 10;
    const F_GETSIG: u32 = 11;
    const F_SETOWN_EX: u32 = 15;
    const F_GETOWN_EX: u32 = 16;
    const F_SETLEASE: u32 = 1024;
    const F_GETLEASE: u32 = 1025;
    const F_NOTIFY: u32 = 1026;
    const F_DUPFD_QUERY: u32 = 1027;
    const F_DUPFD_CLOEXEC: u32 = 1030;
    const F_SET_RW_HINT: u32 = 1036;
    const F_UNLCK: u64 = 2;
    let (fd, command, argument) = (args.int(0), args.uint(1), args.word(2));
    let files = &thread.process.files;
    let descriptor = files.descriptor(fd)?;
    let open = descriptor.open;
    let only_path = open.flags.get().contains(OpenFlags::PATH);
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let from = usize::try_from(args.int(2)).map_err(|_| Errno::EINVAL)?;
            if from >= files.limit.get() {
                return Err(Errno::EINVAL);
            }
            let new = files.add(open, command == F_DUPFD_CLOEXEC, from)?;
            Ok(new as u64)
        }
        F_GETFD => Ok(u64::from(descriptor.close_on_exec)),
        F_SETFD => files.set_close_on_exec(fd, argument & 1 != 0).map(|()| 0),
        F_GETFL => Ok(u64::from(open.flags.get().bits())),
        F_DUPFD_QUERY => {
            let other = files.get(args.int(2))?;
            Ok(u64::from(Rc::ptr_eq(&open, &other)))
        }
        _ if only_path => Err(Errno::EBADF),
        F_SETFL => {
            set_flags(&open, OpenFlags::from_bits_truncate(argument as u32));
            Ok(0)
        }
        F_SETOWN => {
            open.owner.set(args.int(2));
            Ok(0)
        }
        F_GETOWN => Ok(i64::from(open.owner.get()).cast_unsigned()),
        F_SETOWN_EX => {
            const GROUP: i32 = 2;
            let [kind, number] = UserAddr(argument).read::<[i32; 2]>()?;
            if !(0..=GROUP).contains(&kind) {
                return Err(Errno::EINVAL);
            }
            let owner = if kind == GROUP {
                number.checked_neg().ok_or(Errno::EINVAL)?
            } else {
                number
            };
            open.owner.set(owner);
            Ok(0)
        }
        F_GETOWN_EX => {
            let owner = open.owner.get();
            let (kind, number) = if owner < 0 {
                (2, owner.wrapping_neg())
            } else {
                (1, owner)
            };
            UserAddr(argument).write([kind, number])?;
            Ok(0)
        }
        F_SETSIG => {
            if argument > 64 {
                return Err(Errno::EINVAL);
            }
            open.signal.set(argument as i32);
            Ok(0)
        }
        F_GETSIG => Ok(open.signal.get() as u64),
        5..=7 | 36..=38 => lock::ranges(thread, &open, command, UserAddr(argument)),
        F_GETLEASE => Ok(F_UNLCK),
        F_SETLEASE if argument == F_UNLCK => Err(Errno::EAGAIN),
        F_SETLEASE | F_NOTIFY => Err(Errno::EINVAL),
        F_GETRW_FIRST..=F_SETRW_LAST => {
            // Hints for the life of what is written: none is known, all are taken.
            if (command - F_GETRW_FIRST).is_multiple_of(2) {
                UserAddr(argument).write(0_u64)?;
            } else if UserAddr(argument).read::<u64>()? > 5 {
                return Err(Errno::EINVAL);
            }
            let _ = F_SET_RW_HINT;
            Ok(0)
        }
        F_ADD_SEALS if !open.flags.get().writable() => Err(Errno::EPERM),
        _ => open.file.fcntl(thread, command, argument),
    }
}

/// `F_ADD_SEALS`
const F_ADD_SEALS: u32 = 1033;
/// `F_GET_RW_HINT`
const F_GETRW_FIRST: u32 = 1035;
/// `F_SET_FILE_RW_HINT`
const F_SETRW_LAST: u32 = 1038;

fn ioctl(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const FIONBIO: u32 = 0x5421;
    const FIONCLEX: u32 = 0x5450;
    const FIOCLEX: u32 = 0x5451;
    const FIOASYNC: u32 = 0x5452;
    let (fd, request, argument) = (args.int(0), args.uint(1), args.word(2));
    let open = thread.process.files.get(fd)?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    match request {
        FIOCLEX => thread.process.files.set_close_on_exec(fd, true)?,
        FIONCLEX => thread.process.files.set_close_on_exec(fd, false)?,
        FIONBIO | FIOASYNC => {
            let flag = if request == FIONBIO {
                OpenFlags::NONBLOCK
            } else {
                OpenFlags::ASYNC
            };
            let mut flags = open.flags.get();
            flags.set(flag, UserAddr(argument).read::<i32>()? != 0);
            set_flags(&open, flags);
        }
        _ => return open.file.ioctl(thread, &open, request, argument),
    }
    Ok(0)
}
