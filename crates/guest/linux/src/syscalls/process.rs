//! Calls of processes: their numbers, limits, attributes, and what is left of their children.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{Args, Call, thread_or_self};
use crate::io::{Sink, Source, vectors};
use crate::process::children::{self, Whom};
use crate::process::credentials::{CAP_LAST, CAP_SETPCAP, CAP_SYS_RESOURCE};
use crate::process::limits::COUNT;
use crate::process::{Process, Resource, Thread, usage};
use crate::time::Timeval;
use crate::user::{Plain, UserAddr};
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(39, "getpid", 0, getpid),
    Call::full(110, "getppid", 0, getppid),
    Call::full(109, "setpgid", 2, setpgid),
    Call::full(111, "getpgrp", 0, getpgrp),
    Call::full(112, "setsid", 0, setsid),
    Call::full(121, "getpgid", 1, getpgid),
    Call::full(124, "getsid", 1, getsid),
    Call::partly(
        61,
        "wait4",
        4,
        wait4,
        "children that have ended and threads that are looked at",
    ),
    Call::partly(247, "waitid", 5, waitid, "finds no children; wait4 does"),
    Call::full(97, "getrlimit", 2, getrlimit),
    Call::partly(
        160,
        "setrlimit",
        2,
        setrlimit,
        "RLIMIT_CPU, RLIMIT_RSS and RLIMIT_RTTIME are kept without effect",
    ),
    Call::partly(
        302,
        "prlimit64",
        4,
        prlimit64,
        "RLIMIT_CPU, RLIMIT_RSS and RLIMIT_RTTIME are kept without effect",
    ),
    Call::full(98, "getrusage", 2, getrusage),
    Call::partly(157, "prctl", 5, prctl, "what containers may set"),
    Call::answered(135, "personality", 1, personality, "kept; there is one"),
    Call::full(310, "process_vm_readv", 6, process_vm_readv),
    Call::full(311, "process_vm_writev", 6, process_vm_writev),
    Call::partly(312, "kcmp", 5, kcmp, "descriptors of one process"),
];

fn getpid(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    Ok(u64::from(thread.process.pid))
}

fn getppid(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    Ok(u64::from(thread.process.parent.get()))
}

fn process_or_self(thread: &Rc<Thread>, pid: i32) -> Result<Rc<Process>> {
    match u32::try_from(pid) {
        Ok(0) => Ok(thread.process.clone()),
        Ok(pid) => crate::kernel().processes.process(pid).ok_or(Errno::ESRCH),
        Err(_) => Err(Errno::ESRCH),
    }
}

fn setpgid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if args.int(1) < 0 {
        return Err(Errno::EINVAL);
    }
    let process = process_or_self(thread, args.int(0))?;
    let own = Rc::ptr_eq(&process, &thread.process);
    if !own && process.parent.get() != thread.process.pid {
        return Err(Errno::ESRCH);
    }
    let leads_session = process.session.get() == process.pid;
    if leads_session || process.session.get() != thread.process.session.get() {
        return Err(Errno::EPERM);
    }
    let group = match args.uint(1) {
        0 => process.pid,
        group => group,
    };
    let is_there = |other: &Rc<Process>| {
        other.group.get() == group && other.session.get() == process.session.get()
    };
    if group != process.pid && !crate::kernel().processes.all().iter().any(is_there) {
        return Err(Errno::EPERM);
    }
    process.group.set(group);
    Ok(0)
}

fn getpgrp(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    Ok(u64::from(thread.process.group.get()))
}

fn getpgid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let process = process_or_self(thread, args.int(0))?;
    Ok(u64::from(process.group.get()))
}

fn getsid(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let process = process_or_self(thread, args.int(0))?;
    Ok(u64::from(process.session.get()))
}

fn setsid(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    let process = &thread.process;
    let leads = |other: &Rc<Process>| other.group.get() == process.pid;
    if crate::kernel().processes.all().iter().any(leads) {
        return Err(Errno::EPERM);
    }
    process.session.set(process.pid);
    process.group.set(process.pid);
    Ok(u64::from(process.pid))
}

fn wait4(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    // WNOHANG, WUNTRACED, WCONTINUED, and Linux's own four.
    const NO_HANG: u32 = 1;
    const OPTIONS: u32 = NO_HANG | 2 | 8 | 0xe000_0000;
    if args.uint(2) & !OPTIONS != 0 {
        return Err(Errno::EINVAL);
    }
    if args.int(0) == i32::MIN {
        return Err(Errno::ESRCH);
    }
    let whom = Whom::of(args.int(0), thread.process.group.get());
    let Some((number, status)) = children::wait(thread, whom, args.uint(2) & NO_HANG == 0)? else {
        return Ok(0);
    };
    args.addr(1).write_if(status)?;
    args.addr(3).write_if(Usage::default())?;
    Ok(u64::from(number))
}

fn waitid(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const KINDS: u32 = 3;
    // WEXITED, WSTOPPED, WCONTINUED: one of them at least.
    const WANTED: u32 = 4 | 2 | 8;
    const OPTIONS: u32 = WANTED | 1 | 0x0100_0000 | 0xe000_0000;
    let options = args.uint(3);
    if options & !OPTIONS != 0 || options & WANTED == 0 || args.uint(0) > KINDS {
        return Err(Errno::EINVAL);
    }
    Err(Errno::ECHILD)
}

fn getrlimit(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let limit = thread.process.limits.borrow().by_number(args.uint(0));
    let (soft, hard) = limit.ok_or(Errno::EINVAL)?;
    args.addr(1).write([soft, hard])?;
    Ok(0)
}

fn set_limit(thread: &Thread, process: &Process, number: u32, soft: u64, hard: u64) -> Result {
    let old = process.limits.borrow().by_number(number);
    let (_, old_hard) = old.ok_or(Errno::EINVAL)?;
    if soft > hard {
        return Err(Errno::EINVAL);
    }
    let privileged = {
        let ids = thread.process.credentials.borrow();
        ids.can(CAP_SYS_RESOURCE)
    };
    let is_files = number == Resource::Files as u32;
    // `fs.nr_open`.
    if hard > old_hard && (!privileged || (is_files && hard > 1 << 20)) {
        return Err(Errno::EPERM);
    }
    process
        .limits
        .borrow_mut()
        .set_by_number(number, soft, hard);
    if is_files {
        let most = usize::try_from(soft.min(1 << 20)).unwrap_or(0);
        process.files.limit.set(most);
    }
    Ok(())
}

fn setrlimit(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let [soft, hard]: [u64; 2] = args.addr(1).read()?;
    set_limit(thread, &thread.process, args.uint(0), soft, hard)?;
    Ok(0)
}

fn prlimit64(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let process = process_or_self(thread, args.int(0))?;
    let number = args.uint(1);
    if number as usize >= COUNT {
        return Err(Errno::EINVAL);
    }
    let new: Option<[u64; 2]> = args.addr(2).read_if()?;
    let old = process.limits.borrow().by_number(number);
    if let Some([soft, hard]) = new {
        set_limit(thread, &process, number, soft, hard)?;
    }
    let (soft, hard) = old.ok_or(Errno::EINVAL)?;
    args.addr(3).write_if([soft, hard])?;
    Ok(0)
}

/// `struct rusage`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Usage {
    user: Timeval,
    system: Timeval,
    max_resident: u64,
    rest: [u64; 13],
}

// SAFETY: words.
unsafe impl Plain for Usage {}

fn getrusage(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const THREAD: i32 = 1;
    const SELF: i32 = 0;
    const CHILDREN: i32 = -1;
    let used = match args.int(0) {
        SELF => usage::of_process(&thread.process),
        THREAD => usage::of_thread(thread),
        CHILDREN => 0,
        _ => return Err(Errno::EINVAL),
    };
    let told = Usage {
        // No difference is made between a program's time and that of its calls.
        user: Timeval::from_nanos(used),
        // In KiB.
        max_resident: match args.int(0) {
            CHILDREN => 0,
            _ => thread.process.memory.resident() / 1024,
        },
        ..Usage::default()
    };
    args.addr(1).write(told)?;
    Ok(0)
}

fn personality(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const QUERY: u32 = u32::MAX;
    let attributes = &thread.process.attributes;
    let old = attributes.personality.get();
    if args.uint(0) != QUERY {
        attributes.personality.set(args.uint(0));
    }
    Ok(u64::from(old))
}

/// Most of the options take no more arguments, which then have to be zero.
fn no_more(args: &Args, from: usize) -> Result {
    if args.0.iter().take(5).skip(from).any(|&word| word != 0) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn prctl(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const NAME_LEN: usize = 16;
    let attributes = &thread.process.attributes;
    let value = args.word(1);
    match args.int(0) {
        // PR_SET_PDEATHSIG, PR_GET_PDEATHSIG
        1 if value > u64::from(crate::signal::number::LAST) => return Err(Errno::EINVAL),
        1 => thread.death_signal.set(value as u32),
        2 => args.addr(1).write(thread.death_signal.get())?,
        // PR_GET_DUMPABLE, PR_SET_DUMPABLE
        3 => return Ok(u64::from(attributes.dumpable.get())),
        4 if value > 1 => return Err(Errno::EINVAL),
        4 => attributes.dumpable.set(value as u32),
        // PR_GET_KEEPCAPS, PR_SET_KEEPCAPS
        7 => {
            let keep = thread.process.credentials.borrow().capabilities.keep;
            return Ok(u64::from(keep));
        }
        8 if value > 1 => return Err(Errno::EINVAL),
        8 => thread.process.credentials.borrow_mut().capabilities.keep = value == 1,
        // PR_GET_TIMING: statistical.
        13 => return Ok(0),
        // PR_SET_NAME, PR_GET_NAME
        15 => {
            let text = read_name(args.addr(1), NAME_LEN - 1)?;
            let mut name = [0; NAME_LEN];
            name.iter_mut().zip(text).for_each(|(to, from)| *to = from);
            *thread.name.borrow_mut() = name;
        }
        16 => {
            let name = *thread.name.borrow();
            args.addr(1).write(name)?;
        }
        // PR_GET_SECCOMP: nothing confines it.
        21 => return Ok(0),
        // PR_CAPBSET_READ, PR_CAPBSET_DROP
        23 | 24 if value > u64::from(CAP_LAST) => return Err(Errno::EINVAL),
        23 => {
            let set = thread.process.credentials.borrow().capabilities.bounding;
            return Ok(set >> value & 1);
        }
        24 => {
            let mut ids = thread.process.credentials.borrow_mut();
            if !ids.can(CAP_SETPCAP) {
                return Err(Errno::EPERM);
            }
            ids.capabilities.bounding &= !(1 << value);
        }
        // PR_GET_TSC, PR_SET_TSC: it can be read.
        25 => args.addr(1).write(1u32)?,
        26 if value == 1 => {}
        // PR_GET_SECUREBITS, PR_SET_SECUREBITS
        27 => {
            let bits = thread.process.credentials.borrow().capabilities.secure_bits;
            return Ok(u64::from(bits));
        }
        28 => {
            let mut ids = thread.process.credentials.borrow_mut();
            if !ids.can(CAP_SETPCAP) {
                return Err(Errno::EPERM);
            }
            ids.capabilities.secure_bits = value as u32 & 0xff;
        }
        // PR_SET_TIMERSLACK, PR_GET_TIMERSLACK
        29 => thread
            .timer_slack
            .set(if value == 0 { 50_000 } else { value }),
        30 => return Ok(thread.timer_slack.get()),
        // PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER
        36 => attributes.child_subreaper.set(value != 0),
        37 => args
            .addr(1)
            .write(u32::from(attributes.child_subreaper.get()))?,
        // PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
        38 => {
            no_more(&args, 2)?;
            if value != 1 {
                return Err(Errno::EINVAL);
            }
            attributes.no_new_privileges.set(true);
        }
        39 => {
            no_more(&args, 1)?;
            return Ok(u64::from(attributes.no_new_privileges.get()));
        }
        // PR_GET_TID_ADDRESS
        40 => args.addr(1).write(thread.clear_tid.get())?,
        // PR_SET_THP_DISABLE, PR_GET_THP_DISABLE
        41 => {
            no_more(&args, 2)?;
            attributes.no_huge_pages.set(value != 0);
        }
        42 => {
            no_more(&args, 1)?;
            return Ok(u64::from(attributes.no_huge_pages.get()));
        }
        // PR_CAP_AMBIENT
        47 => return ambient(thread, &args),
        // PR_SET_VMA: names of mappings, for those who look at /proc/self/maps.
        0x5356_4d41 => {}
        // PR_GET_SPECULATION_CTRL: nothing to be said of it. PR_SET_PTRACER: a helper may look without.
        52 => return Ok(0),
        0x5961_6d61 => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// A thread's name, cut where it is too long.
fn read_name(at: UserAddr, most: usize) -> Result<Vec<u8>> {
    let mut name = Vec::with_capacity(most);
    for index in 0..most {
        match at.add(index as u64).read::<u8>()? {
            0 => break,
            byte => name.push(byte),
        }
    }
    Ok(name)
}

/// `PR_CAP_AMBIENT`.
fn ambient(thread: &Thread, args: &Args) -> Result<u64> {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    no_more(args, 3)?;
    let mut ids = thread.process.credentials.borrow_mut();
    let sets = &mut ids.capabilities;
    let capability = args.word(2);
    match args.word(1) {
        CLEAR_ALL => {
            no_more(args, 2)?;
            sets.ambient = 0;
        }
        _ if capability > u64::from(CAP_LAST) => return Err(Errno::EINVAL),
        IS_SET => return Ok(sets.ambient >> capability & 1),
        RAISE if sets.permitted & sets.inheritable & 1 << capability == 0 => {
            return Err(Errno::EPERM);
        }
        RAISE => sets.ambient |= 1 << capability,
        LOWER => sets.ambient &= !(1 << capability),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Copies within the memory of one process: there are no others to look into.
fn copy_vectors(thread: &Rc<Thread>, args: &Args, read: bool) -> Result<u64> {
    if args.word(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let local = vectors(args.addr(1), args.word(2))?;
    let remote = vectors(args.addr(3), args.word(4))?;
    let process = process_or_self(thread, args.int(0))?;
    if !Rc::ptr_eq(&process.memory, &thread.process.memory) {
        return Err(Errno::EPERM);
    }
    let (from, to) = if read {
        (&remote, &local)
    } else {
        (&local, &remote)
    };
    let mut source = Source::user(from);
    let mut sink = Sink::user(to);
    let mut piece = [0; 1024];
    while source.remaining() > 0 && sink.remaining() > 0 {
        let most = piece.len().min(sink.remaining());
        let room = piece.get_mut(..most).unwrap_or_default();
        let result = source.take(room).and_then(|taken| {
            let bytes = piece.get(..taken).unwrap_or_default();
            sink.put(bytes).map(|put| put == taken && taken > 0)
        });
        match result {
            Ok(true) => {}
            Err(error) if sink.done() == 0 => return Err(error),
            _ => break,
        }
    }
    Ok(sink.done() as u64)
}

fn process_vm_readv(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    copy_vectors(thread, &args, true)
}

fn process_vm_writev(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    copy_vectors(thread, &args, false)
}

fn kcmp(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const FILE: i32 = 0;
    const LAST: i32 = 7;
    let first = thread_or_self(thread, args.int(0))?.process.clone();
    let second = thread_or_self(thread, args.int(1))?.process.clone();
    let order = |a: usize, b: usize| match a.cmp(&b) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    };
    match args.int(2) {
        FILE => {
            let a = first.files.get(args.int(3))?;
            let b = second.files.get(args.int(4))?;
            Ok(order(Rc::as_ptr(&a).addr(), Rc::as_ptr(&b).addr()))
        }
        1..LAST => Ok(order(Rc::as_ptr(&first).addr(), Rc::as_ptr(&second).addr())),
        _ => Err(Errno::EINVAL),
    }
}
