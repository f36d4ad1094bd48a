//! Calls of scheduling: affinity, classes, priorities.

use alloc::rc::Rc;

use super::{Args, Call, thread_or_self};
use crate::process::{Policy, Process, Resource, Thread, sched};
use crate::time::Timespec;
use crate::user::Plain;
use crate::{Errno, Result};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(24, "sched_yield", 0, sched_yield),
    Call::full(203, "sched_setaffinity", 3, sched_setaffinity),
    Call::full(204, "sched_getaffinity", 3, sched_getaffinity),
    Call::partly(
        142,
        "sched_setparam",
        2,
        sched_setparam,
        "classes are kept, but all threads share the processor by niceness",
    ),
    Call::full(143, "sched_getparam", 2, sched_getparam),
    Call::partly(144, "sched_setscheduler", 3, sched_setscheduler, CLASSES),
    Call::full(145, "sched_getscheduler", 1, sched_getscheduler),
    Call::full(146, "sched_get_priority_max", 1, sched_get_priority_max),
    Call::full(147, "sched_get_priority_min", 1, sched_get_priority_min),
    Call::full(148, "sched_rr_get_interval", 2, sched_rr_get_interval),
    Call::partly(314, "sched_setattr", 3, sched_setattr, CLASSES),
    Call::full(315, "sched_getattr", 4, sched_getattr),
    Call::full(309, "getcpu", 3, getcpu),
    Call::full(140, "getpriority", 2, getpriority),
    Call::full(141, "setpriority", 3, setpriority),
    Call::answered(
        251,
        "ioprio_set",
        3,
        ioprio_set,
        "kept; devices have no queues",
    ),
    Call::full(252, "ioprio_get", 2, ioprio_get),
];

const CLASSES: &str = "classes are kept, but all threads share the processor by niceness";

const OTHER: u32 = 0;
const FIFO: u32 = 1;
const ROUND_ROBIN: u32 = 2;
const BATCH: u32 = 3;
const IDLE: u32 = 5;
const DEADLINE: u32 = 6;
/// `SCHED_RESET_ON_FORK`.
const RESET_ON_FORK: u32 = 0x4000_0000;

fn sched_yield(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    sched::yield_now(thread);
    Ok(0)
}

/// Bytes of a mask that has room for the processors there are.
const MASK_LEN: u64 = 8;

fn sched_setaffinity(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    thread_or_self(thread, args.int(0))?;
    let len = args.uint(1).min(MASK_LEN as u32) as usize;
    let mut mask = [0; MASK_LEN as usize];
    let given = mask.get_mut(..len).unwrap_or_default();
    args.addr(2).read_bytes(given)?;
    if mask[0] & 1 == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

fn sched_getaffinity(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let len = u64::from(args.uint(1));
    if len < MASK_LEN || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    thread_or_self(thread, args.int(0))?;
    args.addr(2).write(1u64)?;
    Ok(MASK_LEN)
}

fn is_real_time(class: u32) -> bool {
    matches!(class, FIFO | ROUND_ROBIN)
}

fn check_policy(thread: &Thread, policy: Policy) -> Result {
    let range = match policy.class {
        FIFO | ROUND_ROBIN => 1..=99,
        OTHER | BATCH | IDLE => 0..=0,
        _ => return Err(Errno::EINVAL),
    };
    if !range.contains(&policy.priority) {
        return Err(Errno::EINVAL);
    }
    let most = thread.process.limit(Resource::RealTimePriority).0;
    if is_real_time(policy.class) && u64::from(policy.priority) > most {
        return Err(Errno::EPERM);
    }
    Ok(())
}

fn sched_setparam(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let other = thread_or_self(thread, args.int(0))?;
    let policy = Policy {
        priority: args.addr(1).read()?,
        ..other.policy.get()
    };
    check_policy(thread, policy)?;
    other.policy.set(policy);
    Ok(0)
}

fn sched_getparam(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let other = thread_or_self(thread, args.int(0))?;
    args.addr(1).write(other.policy.get().priority)?;
    Ok(0)
}

fn sched_setscheduler(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if args.int(1) < 0 {
        return Err(Errno::EINVAL);
    }
    let other = thread_or_self(thread, args.int(0))?;
    let policy = Policy {
        class: args.uint(1) & !RESET_ON_FORK,
        priority: args.addr(2).read()?,
        reset_on_fork: args.uint(1) & RESET_ON_FORK != 0,
    };
    check_policy(thread, policy)?;
    other.policy.set(policy);
    Ok(0)
}

fn sched_getscheduler(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let policy = thread_or_self(thread, args.int(0))?.policy.get();
    let reset = if policy.reset_on_fork {
        RESET_ON_FORK
    } else {
        0
    };
    Ok(u64::from(policy.class | reset))
}

fn sched_get_priority_max(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    range_of(args.uint(0)).map(|(_, max)| max)
}

fn sched_get_priority_min(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    range_of(args.uint(0)).map(|(min, _)| min)
}

fn range_of(class: u32) -> Result<(u64, u64)> {
    match class {
        FIFO | ROUND_ROBIN => Ok((1, 99)),
        OTHER | BATCH | IDLE | DEADLINE => Ok((0, 0)),
        _ => Err(Errno::EINVAL),
    }
}

fn sched_rr_get_interval(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let policy = thread_or_self(thread, args.int(0))?.policy.get();
    let slice = match policy.class {
        FIFO => 0,
        _ => sched::SLICE,
    };
    args.addr(1).write(Timespec::from_nanos(slice))?;
    Ok(0)
}

/// `struct sched_attr`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Attributes {
    size: u32,
    class: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

// SAFETY: `repr(C)`, integers without padding.
unsafe impl Plain for Attributes {}

const FIRST_VERSION: u32 = 48;

fn sched_setattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if args.uint(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let size: u32 = args.addr(1).read()?;
    let size = if size == 0 { FIRST_VERSION } else { size };
    if size < FIRST_VERSION {
        return Err(Errno::E2BIG);
    }
    let given: Attributes = super::read_sized(args.addr(1), u64::from(size))?;
    let other = thread_or_self(thread, args.int(0))?;
    let policy = Policy {
        class: given.class,
        priority: given.priority,
        reset_on_fork: given.flags & 1 != 0,
    };
    check_policy(thread, policy)?;
    if !is_real_time(policy.class) {
        set_nice(thread, &other, given.nice)?;
    }
    other.policy.set(policy);
    Ok(0)
}

fn sched_getattr(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let room = args.uint(2);
    if room < FIRST_VERSION || args.uint(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let other = thread_or_self(thread, args.int(0))?;
    let policy = other.policy.get();
    let size = room.min(size_of::<Attributes>() as u32);
    let told = Attributes {
        size,
        class: policy.class,
        flags: u64::from(policy.reset_on_fork),
        nice: i32::from(other.nice.get()),
        priority: policy.priority,
        util_max: 1024,
        ..Attributes::default()
    };
    let bytes = crate::user::bytes_of(&told);
    let bytes = bytes.get(..size as usize).unwrap_or(bytes);
    args.addr(1).write_bytes(bytes)?;
    Ok(0)
}

fn getcpu(_thread: &Rc<Thread>, args: Args) -> Result<u64> {
    args.addr(0).write_if(0u32)?;
    args.addr(1).write_if(0u32)?;
    Ok(0)
}

const OF_PROCESS: u32 = 0;
const OF_GROUP: u32 = 1;
const OF_USER: u32 = 2;

/// The threads that `getpriority(2)` and its kin speak of.
fn spoken_of(thread: &Rc<Thread>, which: u32, who: u32) -> Result<alloc::vec::Vec<Rc<Thread>>> {
    let kernel = crate::kernel();
    let of = |matches: &dyn Fn(&Process) -> bool| {
        let all = kernel.processes.all();
        let those = all.iter().filter(|process| matches(process));
        those.flat_map(|process| process.all_threads()).collect()
    };
    let found: alloc::vec::Vec<_> = match which {
        OF_PROCESS => alloc::vec![thread_or_self(thread, who.cast_signed())?],
        OF_GROUP => {
            let group = if who == 0 {
                thread.process.group.get()
            } else {
                who
            };
            of(&|process| process.group.get() == group)
        }
        OF_USER => {
            let user = if who == 0 {
                thread.process.credentials.borrow().uid
            } else {
                who
            };
            of(&|process| process.credentials.borrow().uid == user)
        }
        _ => return Err(Errno::EINVAL),
    };
    if found.is_empty() {
        return Err(Errno::ESRCH);
    }
    Ok(found)
}

fn getpriority(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let threads = spoken_of(thread, args.uint(0), args.uint(1))?;
    let least = threads.iter().map(|t| t.nice.get()).min().unwrap_or(0);
    // So that it is never negative; libc turns it back.
    Ok((20 - i64::from(least)).cast_unsigned())
}

fn setpriority(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    for other in spoken_of(thread, args.uint(0), args.uint(1))? {
        set_nice(thread, &other, args.int(2))?;
    }
    Ok(0)
}

fn set_nice(thread: &Rc<Thread>, other: &Thread, nice: i32) -> Result {
    /// `CAP_SYS_NICE`.
    const CAP_SYS_NICE: u32 = 23;
    let nice = nice.clamp(-20, 19) as i8;
    let privileged = thread.process.credentials.borrow().can(CAP_SYS_NICE);
    let most = thread.process.limit(Resource::Nice).0;
    let wanted = (20 - i64::from(nice)).cast_unsigned();
    if nice < other.nice.get() && !privileged && wanted > most {
        return Err(Errno::EACCES);
    }
    other.nice.set(nice);
    Ok(())
}

fn ioprio_set(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let which = args.uint(0).wrapping_sub(1);
    let class = args.uint(2) >> 13;
    if class > 3 || which > OF_USER {
        return Err(Errno::EINVAL);
    }
    for other in spoken_of(thread, which, args.uint(1))? {
        other.io_priority.set(args.uint(2) & 0xffff);
    }
    Ok(0)
}

fn ioprio_get(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let which = args.uint(0).wrapping_sub(1);
    let threads = spoken_of(thread, which, args.uint(1))?;
    let first = threads.first().map_or(0, |t| t.io_priority.get());
    Ok(u64::from(first))
}
