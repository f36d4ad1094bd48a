//! `eventfd(2)`, `signalfd(2)`, `timerfd_create(2)`.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::event::eventfd::EventFd;
use crate::event::signalfd::SignalFd;
use crate::event::timerfd::{self, Setting, TimerFd};
use crate::fs::{File, OpenFile, OpenFlags};
use crate::process::Thread;
use crate::user::UserAddr;
use crate::{Errno, Result};

const EFD_SEMAPHORE: u32 = 1;
const TFD_TIMER_ABSTIME: u32 = 1;
const TFD_TIMER_CANCEL_ON_SET: u32 = 2;
const SECOND: u64 = 1_000_000_000;

/// The family.
pub const CALLS: &[Call] = &[
    Call::full(282, "signalfd", 3, sys_signalfd),
    Call::full(283, "timerfd_create", 2, sys_timerfd_create),
    Call::full(284, "eventfd", 1, sys_eventfd),
    Call::full(286, "timerfd_settime", 4, sys_timerfd_settime),
    Call::full(287, "timerfd_gettime", 2, sys_timerfd_gettime),
    Call::full(289, "signalfd4", 4, sys_signalfd4),
    Call::full(290, "eventfd2", 2, sys_eventfd2),
];

/// Gives a new file a descriptor: `flags` are `O_CLOEXEC` and `O_NONBLOCK`, others are refused.
pub(super) fn install(thread: &Rc<Thread>, file: Rc<dyn File>, flags: u32) -> Result<u64> {
    let known = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK;
    let flags = OpenFlags::from_bits(flags).filter(|&flags| known.contains(flags));
    let flags = flags.ok_or(Errno::EINVAL)?;
    let close_on_exec = flags.contains(OpenFlags::CLOEXEC);
    let status = (flags & OpenFlags::NONBLOCK) | OpenFlags::RDWR;
    let open = OpenFile::new(file, status);
    let fd = thread.process.files.add(open, close_on_exec, 0)?;
    Ok(u64::from(fd.cast_unsigned()))
}

fn sys_eventfd(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    install(thread, EventFd::new(args.uint(0).into(), false), 0)
}

fn sys_eventfd2(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(1);
    let file = EventFd::new(args.uint(0).into(), flags & EFD_SEMAPHORE != 0);
    install(thread, file, flags & !EFD_SEMAPHORE)
}

fn signalfd(thread: &Rc<Thread>, args: Args, flags: u32) -> Result<u64> {
    if args.word(2) != 8 {
        return Err(Errno::EINVAL);
    }
    let wanted: u64 = args.addr(1).read()?;
    if args.int(0) == -1 {
        return install(thread, SignalFd::new(thread, wanted), flags);
    }
    let open = thread.process.files.get(args.int(0))?;
    let there = open.downcast::<SignalFd>().ok_or(Errno::EINVAL)?;
    there.set(wanted);
    Ok(u64::from(args.uint(0)))
}

fn sys_signalfd(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    signalfd(thread, args, 0)
}

fn sys_signalfd4(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    signalfd(thread, args, args.uint(3))
}

fn sys_timerfd_create(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let clock = timerfd::clock(args.int(0))?;
    install(thread, TimerFd::new(clock), args.uint(1))
}

/// `struct timespec`, in nanoseconds: cut to what the library OS counts with.
pub(super) fn nanoseconds(seconds: i64, nanos: i64) -> Result<u64> {
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let nanos = u64::try_from(nanos).map_err(|_| Errno::EINVAL)?;
    if nanos >= SECOND {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(SECOND).saturating_add(nanos))
}

/// A time as `struct timespec`.
pub(super) fn timespec(nanos: u64) -> [i64; 2] {
    [
        (nanos / SECOND).cast_signed(),
        (nanos % SECOND).cast_signed(),
    ]
}

fn put_setting(to: UserAddr, setting: Setting) -> Result {
    let [interval, interval_nanos] = timespec(setting.interval);
    let [value, value_nanos] = timespec(setting.value);
    to.write([interval, interval_nanos, value, value_nanos])
}

fn with_timer<T>(thread: &Rc<Thread>, fd: i32, work: impl FnOnce(&TimerFd) -> T) -> Result<T> {
    let open = thread.process.files.get(fd)?;
    let timer = open.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    Ok(work(timer))
}

fn sys_timerfd_settime(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let flags = args.uint(1);
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let new: [i64; 4] = args.addr(2).read()?;
    let setting = Setting {
        interval: nanoseconds(new[0], new[1])?,
        value: nanoseconds(new[2], new[3])?,
    };
    let absolute = flags & TFD_TIMER_ABSTIME != 0;
    let before = with_timer(thread, args.int(0), |timer| timer.set(setting, absolute))?;
    if !args.addr(3).is_null() {
        put_setting(args.addr(3), before)?;
    }
    Ok(0)
}

fn sys_timerfd_gettime(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let now = with_timer(thread, args.int(0), TimerFd::setting)?;
    put_setting(args.addr(1), now)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::testing::{self, PAGE_AT};

    #[test]
    fn options_are_checked() {
        let thread = testing::thread();
        let call = |flags| sys_eventfd2(&thread, Args([7, flags, 0, 0, 0, 0]));
        assert_eq!(call(2), Err(Errno::EINVAL));
        assert_eq!(call(0o2_004_001), Ok(0));
        let open = thread.process.files.get(0).expect("open");
        assert!(open.nonblocking() && open.flags.get().contains(OpenFlags::RDWR));
    }

    #[test]
    fn a_timer_tells_when_it_expires() {
        let thread = testing::thread();
        assert_eq!(sys_timerfd_create(&thread, Args([1, 0, 0, 0, 0, 0])), Ok(0));
        let page = UserAddr(PAGE_AT);
        page.write([0_i64, 500, 3, 20]).expect("memory");
        let set = |fd, old| sys_timerfd_settime(&thread, Args([fd, 0, PAGE_AT, old, 0, 0]));
        assert_eq!(set(0, PAGE_AT + 64), Ok(0));
        assert_eq!(set(5, 0), Err(Errno::EBADF));
        let args = Args([0, PAGE_AT + 64, 0, 0, 0, 0]);
        assert_eq!(sys_timerfd_gettime(&thread, args), Ok(0));
        let now: [i64; 4] = page.add(64).read().expect("memory");
        assert_eq!(now, [0, 500, 3, 20]);
        page.write([0_i64, 0, 0, 1_000_000_000]).expect("memory");
        assert_eq!(set(0, 0), Err(Errno::EINVAL));
    }
}
