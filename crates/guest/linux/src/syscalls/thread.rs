//! Calls of threads: their life, their place on the processor.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::process::clone::{self, Flags, Request};
use crate::process::futex::robust;
use crate::process::{self, Thread, rseq};
use crate::user::{Plain, USER_END, UserAddr};
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::partly(56, "clone", 5, clone, NO_PROCESSES),
    Call::partly(435, "clone3", 2, clone3, NO_PROCESSES),
    Call::full(60, "exit", 1, exit),
    Call::full(231, "exit_group", 1, exit_group),
    Call::full(186, "gettid", 0, gettid),
    Call::full(218, "set_tid_address", 1, set_tid_address),
    Call::full(273, "set_robust_list", 2, set_robust_list),
    Call::full(274, "get_robust_list", 3, get_robust_list),
    Call::full(334, "rseq", 4, rseq),
    Call::full(158, "arch_prctl", 2, arch_prctl),
    Call::answered(324, "membarrier", 3, membarrier, "there is one processor"),
];

const NO_PROCESSES: &str =
    "threads, and processes that share memory, descriptors and folders; no others";

fn clone(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    // The lowest byte is the signal that tells of the end.
    const SIGNAL: u64 = 0xff;
    let flags = Flags::from_bits_retain(args.word(0) & 0xffff_ffff & !SIGNAL);
    let request = Request {
        flags,
        parent_tid: args.addr(2),
        child_tid: args.addr(3),
        stack: args.word(1),
        tls: args.word(4),
        exit_signal: (args.word(0) & SIGNAL) as u32,
    };
    clone::clone(thread, &request)
}

/// `struct clone_args`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

// SAFETY: words.
unsafe impl Plain for CloneArgs {}

fn clone3(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const FIRST_VERSION: u64 = 64;
    let size = args.word(1);
    if size < FIRST_VERSION {
        return Err(Errno::EINVAL);
    }
    let given: CloneArgs = super::read_sized(args.addr(0), size)?;
    let known = given.flags >> 34 == 0 && given.flags & Flags::DETACHED.bits() == 0;
    let stack_is_whole = (given.stack == 0) == (given.stack_size == 0);
    if !known || given.exit_signal > 64 || !stack_is_whole {
        return Err(Errno::EINVAL);
    }
    let flags = Flags::from_bits_retain(given.flags);
    if flags.contains(Flags::THREAD) && given.exit_signal != 0 {
        return Err(Errno::EINVAL);
    }
    if given.set_tid_size != 0 {
        return Err(Errno::EPERM);
    }
    let request = Request {
        flags,
        parent_tid: UserAddr(given.parent_tid),
        child_tid: UserAddr(given.child_tid),
        stack: given.stack.wrapping_add(given.stack_size),
        tls: given.tls,
        exit_signal: given.exit_signal as u32,
    };
    clone::clone(thread, &request)
}

fn exit(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    process::exit_thread(thread, args.uint(0) & 0xff);
    Ok(0)
}

fn exit_group(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    process::exit_group(&thread.process, (args.uint(0) & 0xff) << 8);
    Ok(0)
}

fn gettid(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    Ok(u64::from(thread.tid))
}

fn set_tid_address(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    thread.clear_tid.set(args.word(0));
    Ok(u64::from(thread.tid))
}

fn set_robust_list(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if args.word(1) != robust::HEAD_LEN {
        return Err(Errno::EINVAL);
    }
    thread.robust_list.set(args.word(0));
    Ok(0)
}

fn get_robust_list(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let other = super::thread_or_self(thread, args.int(0))?;
    args.addr(2).write(robust::HEAD_LEN)?;
    args.addr(1).write(other.robust_list.get())?;
    Ok(0)
}

fn rseq(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const UNREGISTER: u32 = 1;
    let area = rseq::Area {
        at: args.word(0),
        len: args.uint(1),
        signature: args.uint(3),
    };
    let registered = thread.rseq.get();
    match args.uint(2) {
        UNREGISTER if registered.at == 0 || registered.at != area.at => Err(Errno::EINVAL),
        UNREGISTER if registered.len != area.len => Err(Errno::EINVAL),
        UNREGISTER if registered.signature != area.signature => Err(Errno::EPERM),
        UNREGISTER => rseq::unregister(thread).map(|()| 0),
        0 if registered == area && area.at != 0 => Err(Errno::EBUSY),
        0 if registered.at != 0 => Err(Errno::EINVAL),
        0 => {
            let is_aligned = area.at.is_multiple_of(u64::from(rseq::MIN_LEN));
            if area.at == 0 || !is_aligned || area.len < rseq::MIN_LEN {
                return Err(Errno::EINVAL);
            }
            rseq::register(thread, area).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn arch_prctl(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const SET_GS: i32 = 0x1001;
    const SET_FS: i32 = 0x1002;
    const GET_FS: i32 = 0x1003;
    const GET_GS: i32 = 0x1004;
    match args.int(0) {
        SET_FS | SET_GS if args.word(1) >= USER_END => return Err(Errno::EPERM),
        SET_FS => thread.fs_base.set(args.word(1)),
        SET_GS => thread.gs_base.set(args.word(1)),
        GET_FS => args.addr(1).write(thread.fs_base.get())?,
        GET_GS => args.addr(1).write(thread.gs_base.get())?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// `membarrier(2)`: with one processor every switch of threads is a barrier for all.
fn membarrier(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const QUERY: i32 = 0;
    // Global, global expedited, private expedited, sync core, rseq, each with its registration.
    const ALL: u64 = 0x1ff;
    let known_flags = args.uint(1) & !1;
    if known_flags != 0 {
        return Err(Errno::EINVAL);
    }
    match args.int(0) {
        QUERY => Ok(ALL),
        command if command > 0 && command.count_ones() == 1 && command <= 0x100 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}
