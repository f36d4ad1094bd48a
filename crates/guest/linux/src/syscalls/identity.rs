//! Calls of users, groups and capabilities (`credentials(7)`, `capabilities(7)`).

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{Args, Call, thread_or_self};
use crate::process::Thread;
use crate::process::credentials::{CAP_LAST, CAP_SETGID, Credentials};
use crate::user::Plain;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(102, "getuid", 0, getuid),
    Call::full(104, "getgid", 0, getgid),
    Call::full(105, "setuid", 1, setuid),
    Call::full(106, "setgid", 1, setgid),
    Call::full(107, "geteuid", 0, geteuid),
    Call::full(108, "getegid", 0, getegid),
    Call::full(113, "setreuid", 2, setreuid),
    Call::full(114, "setregid", 2, setregid),
    Call::full(115, "getgroups", 2, getgroups),
    Call::full(116, "setgroups", 2, setgroups),
    Call::full(117, "setresuid", 3, setresuid),
    Call::full(118, "getresuid", 3, getresuid),
    Call::full(119, "setresgid", 3, setresgid),
    Call::full(120, "getresgid", 3, getresgid),
    Call::full(122, "setfsuid", 1, setfsuid),
    Call::full(123, "setfsgid", 1, setfsgid),
    Call::full(125, "capget", 2, capget),
    Call::full(126, "capset", 2, capset),
];

fn read(thread: &Thread, what: impl Fn(&Credentials) -> u32) -> Result<u64> {
    Ok(u64::from(what(&thread.process.credentials.borrow())))
}

fn change(thread: &Thread, how: impl Fn(&mut Credentials) -> Result) -> Result<u64> {
    how(&mut thread.process.credentials.borrow_mut()).map(|()| 0)
}

fn getuid(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    read(thread, |c| c.uid)
}

fn getgid(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    read(thread, |c| c.gid)
}

fn geteuid(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    read(thread, |c| c.euid)
}

fn getegid(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    read(thread, |c| c.egid)
}

fn setuid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    change(thread, |c| c.set_uid(args.uint(0)))
}

fn setgid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    change(thread, |c| c.set_gid(args.uint(0)))
}

fn setreuid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    change(thread, |c| c.set_reuid(args.uint(0), args.uint(1)))
}

fn setregid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    change(thread, |c| c.set_regid(args.uint(0), args.uint(1)))
}

fn setresuid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    change(thread, |c| {
        c.set_resuid(args.uint(0), args.uint(1), args.uint(2))
    })
}

fn setresgid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    change(thread, |c| {
        c.set_resgid(args.uint(0), args.uint(1), args.uint(2))
    })
}

fn getresuid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let ids = thread.process.credentials.borrow().clone();
    args.addr(0).write(ids.uid)?;
    args.addr(1).write(ids.euid)?;
    args.addr(2).write(ids.suid)?;
    Ok(0)
}

fn getresgid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let ids = thread.process.credentials.borrow().clone();
    args.addr(0).write(ids.gid)?;
    args.addr(1).write(ids.egid)?;
    args.addr(2).write(ids.sgid)?;
    Ok(0)
}

fn setfsuid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let mut ids = thread.process.credentials.borrow_mut();
    Ok(u64::from(ids.set_fsuid(args.uint(0))))
}

fn setfsgid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let mut ids = thread.process.credentials.borrow_mut();
    Ok(u64::from(ids.set_fsgid(args.uint(0))))
}

/// `NGROUPS_MAX`.
const MOST_GROUPS: i32 = 65_536;

fn getgroups(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let groups = thread.process.credentials.borrow().groups.clone();
    let room = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?;
    if room > 0 {
        if room < groups.len() {
            return Err(Errno::EINVAL);
        }
        let bytes: Vec<u8> = groups
            .iter()
            .flat_map(|group| group.to_ne_bytes())
            .collect();
        args.addr(1).write_bytes(&bytes)?;
    }
    Ok(groups.len() as u64)
}

fn setgroups(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if !thread.process.credentials.borrow().can(CAP_SETGID) {
        return Err(Errno::EPERM);
    }
    if !(0..=MOST_GROUPS).contains(&args.int(0)) {
        return Err(Errno::EINVAL);
    }
    let groups: Vec<u32> = args.addr(1).read_array(args.uint(0) as usize)?;
    thread.process.credentials.borrow_mut().groups = groups;
    Ok(0)
}

/// `struct __user_cap_header_struct`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

// SAFETY: two integers.
unsafe impl Plain for Header {}

const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// How many words each set has in a version. Unknown ones are answered with the newest.
fn words(args: &Args) -> Result<(usize, Header)> {
    let header: Header = args.addr(0).read()?;
    let words = match header.version {
        VERSION_1 => 1,
        VERSION_2 | VERSION_3 => 2,
        _ => {
            args.addr(0).write(VERSION_3)?;
            return Err(Errno::EINVAL);
        }
    };
    Ok((words, header))
}

fn capget(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (words, header) = match words(&args) {
        // Asked for nothing but the version.
        Err(Errno::EINVAL) if args.addr(1).is_null() => return Ok(0),
        other => other?,
    };
    let other = thread_or_self(thread, header.pid)?;
    let sets = other.process.credentials.borrow().capabilities;
    if args.addr(1).is_null() {
        return Ok(0);
    }
    let mut told = [0u32; 6];
    for (word, three) in told.chunks_exact_mut(3).enumerate() {
        let part = |set: u64| (set >> (32 * word)) as u32;
        three.copy_from_slice(&[
            part(sets.effective),
            part(sets.permitted),
            part(sets.inheritable),
        ]);
    }
    for (at, word) in told.iter().take(3 * words).enumerate() {
        args.addr(1).add(4 * at as u64).write(*word)?;
    }
    Ok(0)
}

fn capset(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (words, header) = words(&args)?;
    if header.pid != 0 && header.pid.cast_unsigned() != thread.tid {
        return Err(Errno::EPERM);
    }
    let given: Vec<u32> = args.addr(1).read_array(3 * words)?;
    let set = |which: usize| {
        let part = |word: usize| given.get(3 * word + which).copied().unwrap_or(0);
        let known = (1u64 << (CAP_LAST + 1)) - 1;
        (u64::from(part(0)) | u64::from(part(1)) << 32) & known
    };
    let (effective, permitted, inheritable) = (set(0), set(1), set(2));
    let mut ids = thread.process.credentials.borrow_mut();
    let sets = &mut ids.capabilities;
    let allowed = sets.inheritable | sets.permitted;
    if permitted & !sets.permitted != 0
        || effective & !permitted != 0
        || inheritable & !allowed != 0
    {
        return Err(Errno::EPERM);
    }
    sets.permitted = permitted;
    sets.effective = effective;
    sets.inheritable = inheritable;
    sets.ambient &= permitted & inheritable;
    Ok(0)
}
