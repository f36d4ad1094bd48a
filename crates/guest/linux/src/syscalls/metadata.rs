//! What files are like: `stat(2)`, `statx(2)`, `access(2)`, `chmod(2)`, `chown(2)`, `utimensat(2)`, `truncate(2)`, `statfs(2)`, `fsync(2)`.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::fs::permission::{self, READ, WRITE, permit};
use crate::fs::{
    self, AT_FDCWD, Changes, InodeFile, Kind, Metadata, OpenFile, OpenFlags, Place, Walk,
};
use crate::platform;
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(4, "stat", 2, stat).may_wait(),
    Call::full(5, "fstat", 2, fstat).may_wait(),
    Call::full(6, "lstat", 2, lstat).may_wait(),
    Call::full(21, "access", 2, access).may_wait(),
    Call::full(74, "fsync", 1, fsync),
    Call::full(75, "fdatasync", 1, fdatasync),
    Call::full(76, "truncate", 2, truncate).may_wait(),
    Call::full(77, "ftruncate", 2, ftruncate).may_wait(),
    Call::full(90, "chmod", 2, chmod).may_wait(),
    Call::full(91, "fchmod", 2, fchmod).may_wait(),
    Call::full(92, "chown", 3, chown).may_wait(),
    Call::full(93, "fchown", 3, fchown).may_wait(),
    Call::full(94, "lchown", 3, lchown).may_wait(),
    Call::full(132, "utime", 2, utime).may_wait(),
    Call::full(137, "statfs", 2, statfs).may_wait(),
    Call::full(138, "fstatfs", 2, fstatfs).may_wait(),
    Call::full(162, "sync", 0, sync),
    Call::answered(
        187,
        "readahead",
        3,
        readahead,
        "a hint; nothing is read ahead",
    ),
    Call::answered(
        221,
        "fadvise64",
        4,
        fadvise64,
        "a hint; nothing depends on it",
    ),
    Call::full(235, "utimes", 2, utimes).may_wait(),
    Call::full(260, "fchownat", 5, fchownat).may_wait(),
    Call::full(261, "futimesat", 3, futimesat).may_wait(),
    Call::full(262, "newfstatat", 4, newfstatat).may_wait(),
    Call::full(268, "fchmodat", 3, fchmodat).may_wait(),
    Call::full(269, "faccessat", 3, faccessat).may_wait(),
    Call::full(277, "sync_file_range", 4, sync_file_range),
    Call::full(280, "utimensat", 4, utimensat).may_wait(),
    Call::full(285, "fallocate", 4, fallocate).may_wait(),
    Call::full(306, "syncfs", 1, syncfs),
    Call::full(332, "statx", 5, statx).may_wait(),
    Call::full(439, "faccessat2", 4, faccessat2).may_wait(),
    Call::full(452, "fchmodat2", 4, fchmodat2).may_wait(),
];

const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
const AT_EACCESS: u32 = 0x200;
const AT_NO_AUTOMOUNT: u32 = 0x800;
const AT_EMPTY_PATH: u32 = 0x1000;
const AT_STATX_SYNC_TYPE: u32 = 0x6000;

/// The place that `dirfd`, a path and `AT_` flags mean.
pub(super) fn place(thread: &Rc<Thread>, folder: i32, path: UserAddr, flags: u32) -> Result<Place> {
    let path = if path.is_null() && flags & AT_EMPTY_PATH != 0 {
        alloc::vec::Vec::new()
    } else {
        path.read_path()?
    };
    let mut walk = Walk::empty();
    walk.set(Walk::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
    walk.set(Walk::EMPTY, flags & AT_EMPTY_PATH != 0);
    fs::resolve(thread, folder, &path, walk)
}

const SECOND: u64 = 1_000_000_000;

/// `struct stat`.
fn write_stat(to: UserAddr, of: &Metadata) -> Result<u64> {
    let time = |at: u64| [at / SECOND, at % SECOND];
    let [accessed, modified, changed] = [of.accessed, of.modified, of.changed].map(time);
    to.write([
        of.device,
        of.inode,
        u64::from(of.links),
        u64::from(of.kind as u32 | of.mode) | u64::from(of.uid) << 32,
        u64::from(of.gid),
        of.rdev,
        of.size,
        u64::from(of.block_size),
        of.blocks,
        accessed[0],
        accessed[1],
        modified[0],
        modified[1],
        changed[0],
        changed[1],
        0,
        0,
        0,
    ])?;
    Ok(0)
}

fn stat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let place = place(thread, AT_FDCWD, args.addr(0), 0)?;
    write_stat(args.addr(1), &place.metadata()?)
}

fn lstat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let place = place(thread, AT_FDCWD, args.addr(0), AT_SYMLINK_NOFOLLOW)?;
    write_stat(args.addr(1), &place.metadata()?)
}

fn fstat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    write_stat(args.addr(1), &described(&open)?)
}

/// What `fstat(2)` tells: of a name that leads to a file of its own (a device) what the name is like.
fn described(open: &OpenFile) -> Result<Metadata> {
    match &open.place {
        Some(place) => place.inode.metadata(),
        None => open.file.metadata(),
    }
}

fn newfstatat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let of = look(thread, args.int(0), args.addr(1), flags)?.0;
    write_stat(args.addr(2), &of)
}

/// What is at a path, or open, with the number of its mount.
fn look(
    thread: &Rc<Thread>,
    folder: i32,
    path: UserAddr,
    flags: u32,
) -> Result<(Metadata, Option<Place>)> {
    if flags & AT_EMPTY_PATH != 0 && folder != AT_FDCWD {
        // The C library's fstat(3) comes here: no path is walked.
        let empty = path.is_null() || path.read::<u8>()? == 0;
        if empty {
            let open = thread.process.files.get(folder)?;
            return Ok((described(&open)?, open.place.clone()));
        }
    }
    let place = place(thread, folder, path, flags)?;
    Ok((place.metadata()?, Some(place)))
}

fn statx(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const RESERVED: u32 = 0x8000_0000;
    const BASIC_AND_BIRTH: u64 = 0xfff;
    const MOUNT_NUMBER: u64 = 0x1000;
    /// `STATX_ATTR_MOUNT_ROOT`
    const MOUNT_ROOT: u64 = 0x2000;
    let (flags, mask) = (args.uint(2), args.uint(3));
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if mask & RESERVED != 0
        || flags & !known != 0
        || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE
    {
        return Err(Errno::EINVAL);
    }
    let (of, place) = look(thread, args.int(0), args.addr(1), flags)?;
    let device = |number: u64| {
        let major = number >> 8 & 0xfff | number >> 32 & 0xffff_f000;
        let minor = number & 0xff | number >> 12 & 0xffff_ff00;
        major | minor << 32
    };
    let mut record = [0_u64; 32];
    record[0] = BASIC_AND_BIRTH | MOUNT_NUMBER | u64::from(of.block_size) << 32;
    record[1] = match &place {
        Some(place) if place.is_mount_root() => MOUNT_ROOT,
        _ => 0,
    };
    record[2] = u64::from(of.links) | u64::from(of.uid) << 32;
    record[3] = u64::from(of.gid) | u64::from(of.kind as u32 | of.mode) << 32;
    record[4] = of.inode;
    record[5] = of.size;
    record[6] = of.blocks;
    record[7] = MOUNT_ROOT;
    for (index, time) in [of.accessed, of.born, of.changed, of.modified]
        .into_iter()
        .enumerate()
    {
        record[8 + 2 * index] = time / SECOND;
        record[9 + 2 * index] = time % SECOND;
    }
    record[16] = device(of.rdev);
    record[17] = device(of.device);
    record[18] = place.map_or(0, |place| u64::from(place.mount().id));
    args.addr(4).write(record)?;
    Ok(0)
}

fn access(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    accessible(thread, AT_FDCWD, args.addr(0), args.uint(1), 0)
}

fn faccessat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    accessible(thread, args.int(0), args.addr(1), args.uint(2), 0)
}

fn faccessat2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(3);
    if flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    accessible(thread, args.int(0), args.addr(1), args.uint(2), flags)
}

fn accessible(
    thread: &Rc<Thread>,
    folder: i32,
    path: UserAddr,
    wanted: u32,
    flags: u32,
) -> Result<u64> {
    if wanted & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let place = place(thread, folder, path, flags)?;
    let of = place.metadata()?;
    {
        let credentials = thread.process.credentials.borrow();
        let who = if flags & AT_EACCESS != 0 {
            (credentials.fsuid, credentials.fsgid)
        } else {
            (credentials.uid, credentials.gid)
        };
        permission::check(&of, who, &credentials, wanted)?;
    }
    let is_content = matches!(of.kind, Kind::Regular | Kind::Directory | Kind::Link);
    if wanted & WRITE != 0 && is_content && place.mount().read_only.get() {
        return Err(Errno::EROFS);
    }
    Ok(0)
}

/// The place behind a descriptor whose inode is to be changed.
fn changeable(thread: &Rc<Thread>, fd: i32) -> Result<Place> {
    let open = thread.process.files.get(fd)?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    fs::place_of(&open)
}

fn chmod(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let place = place(thread, AT_FDCWD, args.addr(0), 0)?;
    fs::change_mode(thread, &place, args.uint(1)).map(|()| 0)
}

fn fchmod(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let place = changeable(thread, args.int(0))?;
    fs::change_mode(thread, &place, args.uint(1)).map(|()| 0)
}

fn fchmodat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let place = place(thread, args.int(0), args.addr(1), 0)?;
    fs::change_mode(thread, &place, args.uint(2)).map(|()| 0)
}

fn fchmodat2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let place = place(thread, args.int(0), args.addr(1), flags)?;
    fs::change_mode(thread, &place, args.uint(2)).map(|()| 0)
}

fn chown(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let place = place(thread, AT_FDCWD, args.addr(0), 0)?;
    fs::change_owner(thread, &place, args.uint(1), args.uint(2)).map(|()| 0)
}

fn lchown(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let place = place(thread, AT_FDCWD, args.addr(0), AT_SYMLINK_NOFOLLOW)?;
    fs::change_owner(thread, &place, args.uint(1), args.uint(2)).map(|()| 0)
}

fn fchown(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let place = changeable(thread, args.int(0))?;
    fs::change_owner(thread, &place, args.uint(1), args.uint(2)).map(|()| 0)
}

fn fchownat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(4);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let place = place(thread, args.int(0), args.addr(1), flags)?;
    fs::change_owner(thread, &place, args.uint(2), args.uint(3)).map(|()| 0)
}

/// A time to set: `None` leaves it.
fn time(seconds: i64, nanos: i64) -> Result<u64> {
    const BILLION: i64 = 1_000_000_000;
    if !(0..BILLION).contains(&nanos) {
        return Err(Errno::EINVAL);
    }
    // Before 1970 there is nothing here.
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Ok(seconds
        .saturating_mul(SECOND)
        .saturating_add(nanos.cast_unsigned()))
}

/// Sets both times; `now` if the caller left it to us, which needs less permission.
fn set_times(
    thread: &Rc<Thread>,
    place: &Place,
    times: Option<(Option<u64>, Option<u64>)>,
    now: bool,
) -> Result<u64> {
    let wall = platform::wall();
    let (accessed, modified) = times.unwrap_or((Some(wall), Some(wall)));
    if accessed.is_none() && modified.is_none() {
        return Ok(0);
    }
    let of = place.inode.metadata()?;
    if !permission::owns(thread, &of) {
        if !now {
            return Err(Errno::EPERM);
        }
        permit(thread, &place.inode, WRITE)?;
    }
    let changes = Changes {
        accessed,
        modified,
        ..Changes::default()
    };
    fs::change(place, changes).map(|()| 0)
}

fn utime(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let times = args.addr(1).read_if::<[i64; 2]>()?;
    let place = place(thread, AT_FDCWD, args.addr(0), 0)?;
    let times = match times {
        Some([accessed, modified]) => Some((Some(time(accessed, 0)?), Some(time(modified, 0)?))),
        None => None,
    };
    set_times(thread, &place, times, times.is_none())
}

/// `struct timeval[2]`.
fn timevals(at: UserAddr) -> Result<Option<(Option<u64>, Option<u64>)>> {
    let Some([a, a_micros, m, m_micros]) = at.read_if::<[i64; 4]>()? else {
        return Ok(None);
    };
    let nanos = |micros: i64| micros.checked_mul(1000).ok_or(Errno::EINVAL);
    let accessed = time(a, nanos(a_micros)?)?;
    let modified = time(m, nanos(m_micros)?)?;
    Ok(Some((Some(accessed), Some(modified))))
}

fn utimes(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let times = timevals(args.addr(1))?;
    let place = place(thread, AT_FDCWD, args.addr(0), 0)?;
    set_times(thread, &place, times, times.is_none())
}

fn futimesat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let times = timevals(args.addr(2))?;
    let place = if args.addr(1).is_null() {
        changeable(thread, args.int(0))?
    } else {
        place(thread, args.int(0), args.addr(1), 0)?
    };
    set_times(thread, &place, times, times.is_none())
}

fn utimensat(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    let flags = args.uint(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let given = args.addr(2).read_if::<[i64; 4]>()?;
    let wall = platform::wall();
    let one = |seconds: i64, nanos: i64| match nanos {
        UTIME_NOW => Ok(Some(wall)),
        UTIME_OMIT => Ok(None),
        _ => time(seconds, nanos).map(Some),
    };
    let (times, now) = match given {
        None => (None, true),
        Some([a, a_nanos, m, m_nanos]) => {
            let now = a_nanos == UTIME_NOW && m_nanos == UTIME_NOW;
            (Some((one(a, a_nanos)?, one(m, m_nanos)?)), now)
        }
    };
    let place = if args.addr(1).is_null() {
        changeable(thread, args.int(0))?
    } else {
        place(thread, args.int(0), args.addr(1), flags)?
    };
    set_times(thread, &place, times, now)
}

fn truncate(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let size = u64::try_from(args.long(1)).map_err(|_| Errno::EINVAL)?;
    let place = place(thread, AT_FDCWD, args.addr(0), 0)?;
    match place.metadata()?.kind {
        Kind::Regular => {}
        Kind::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    permit(thread, &place.inode, WRITE)?;
    fs::truncate(thread, &place, size).map(|()| 0)
}

/// A regular file that is open for writing.
fn writable_file(thread: &Rc<Thread>, fd: i32) -> Result<(Rc<OpenFile>, Place)> {
    let open = thread.process.files.get(fd)?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    let place = open.place.clone().ok_or(Errno::EINVAL)?;
    Ok((open, place))
}

fn ftruncate(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let size = u64::try_from(args.long(1)).map_err(|_| Errno::EINVAL)?;
    let (open, place) = writable_file(thread, args.int(0))?;
    if !open.flags.get().writable() || open.file.metadata()?.kind != Kind::Regular {
        return Err(Errno::EINVAL);
    }
    fs::truncate(thread, &place, size).map(|()| 0)
}

fn fallocate(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (mode, offset, len) = (args.uint(1), args.long(2), args.long(3));
    let open = thread.process.files.get(args.int(0))?;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    if !open.flags.get().writable() {
        return Err(Errno::EBADF);
    }
    let file = match open.file.metadata()?.kind {
        Kind::Fifo => return Err(Errno::ESPIPE),
        Kind::Directory => return Err(Errno::EISDIR),
        _ => open.downcast::<InodeFile>().ok_or(Errno::ENODEV)?,
    };
    if offset.checked_add(len).is_none() {
        return Err(Errno::EFBIG);
    }
    let (offset, len) = (offset.cast_unsigned(), len.cast_unsigned());
    fs::allocate(thread, &file.inode, mode, offset, len)?;
    fs::watch::tell_open(&open, fs::watch::Mask::MODIFY);
    Ok(0)
}

fn statfs(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let place = place(thread, AT_FDCWD, args.addr(0), 0)?;
    write_statfs(args.addr(1), &place)
}

fn fstatfs(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    write_statfs(args.addr(1), &fs::place_of(&open)?)
}

/// `struct statfs`.
fn write_statfs(to: UserAddr, place: &Place) -> Result<u64> {
    const ST_RDONLY: u64 = 1;
    const ST_VALID: u64 = 0x20;
    const NAME_MAX: u64 = 255;
    let of = place.inode.statistics()?;
    let device = place.inode.metadata()?.device;
    let mount = place.mount();
    let mut flags = of.flags | mount.flags.get() | ST_VALID;
    if mount.read_only.get() {
        flags |= ST_RDONLY;
    }
    let block = of.block_size.max(512);
    to.write([
        of.magic,
        block,
        of.blocks,
        of.free,
        of.free,
        of.files,
        of.files_free,
        device,
        NAME_MAX,
        block,
        flags,
        0,
        0,
        0,
        0,
    ])?;
    Ok(0)
}

fn fsync(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    thread.at_call(|| thread.at_file(|| open.file.sync(false)))?;
    Ok(0)
}

fn fdatasync(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    thread.at_call(|| thread.at_file(|| open.file.sync(true)))?;
    Ok(0)
}

/// `sync(2)` tells of no errors.
fn sync(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    for root in crate::kernel().vfs.roots() {
        let _ = thread.at_call(|| thread.at_file(|| root.sync_all()));
    }
    Ok(0)
}

fn syncfs(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    if let Some(place) = &open.place {
        thread.at_call(|| thread.at_file(|| place.inode.sync_all()))?;
    }
    Ok(0)
}

fn sync_file_range(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    let (offset, len, flags) = (args.long(1), args.long(2), args.uint(3));
    if offset < 0 || len < 0 || offset.checked_add(len).is_none() || flags & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    open.file.sync(true).map_err(|_| Errno::ESPIPE)?;
    Ok(0)
}

fn readahead(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    if open.flags.get() & (OpenFlags::WRONLY | OpenFlags::PATH) != OpenFlags::empty() {
        return Err(Errno::EBADF);
    }
    if open.file.metadata()?.kind != Kind::Regular {
        return Err(Errno::EINVAL);
    }
    let _ = READ;
    Ok(0)
}

fn fadvise64(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let open = thread.process.files.get(args.int(0))?;
    if open.flags.get().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    if open.file.metadata()?.kind == Kind::Fifo {
        return Err(Errno::ESPIPE);
    }
    if args.long(2) < 0 || args.uint(3) > 5 {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}
