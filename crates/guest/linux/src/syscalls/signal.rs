//! Calls of signals.

use alloc::rc::Rc;

use super::{Args, Call};
use crate::process::{Process, Registers, Thread};
use crate::signal::{self, Action, Info, Set, bit, frame, info, mask, number, send};
use crate::time::Timespec;
use crate::user::UserAddr;
use crate::{Errno, Result, wait};

/// The calls.
pub const CALLS: &[Call] = &[
    Call::full(13, "rt_sigaction", 4, rt_sigaction),
    Call::full(14, "rt_sigprocmask", 4, rt_sigprocmask),
    Call::full(15, "rt_sigreturn", 0, rt_sigreturn),
    Call::full(34, "pause", 0, pause),
    Call::full(62, "kill", 2, kill),
    Call::full(127, "rt_sigpending", 2, rt_sigpending),
    Call::full(128, "rt_sigtimedwait", 4, rt_sigtimedwait),
    Call::full(129, "rt_sigqueueinfo", 3, rt_sigqueueinfo),
    Call::full(130, "rt_sigsuspend", 2, rt_sigsuspend),
    Call::full(131, "sigaltstack", 2, sigaltstack),
    Call::full(200, "tkill", 2, tkill),
    Call::full(219, "restart_syscall", 0, restart_syscall),
    Call::full(234, "tgkill", 3, tgkill),
    Call::full(297, "rt_tgsigqueueinfo", 4, rt_tgsigqueueinfo),
];

/// Bytes of a set.
const SET_LEN: u64 = 8;

fn check_len(len: u64) -> Result {
    if len != SET_LEN {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The mask that a call is given for the time that it takes: nothing for a null pointer.
///
/// # Errors
/// `EINVAL` if its length is not that of a set, `EFAULT`.
pub fn read_mask(at: UserAddr, len: u64) -> Result<Option<Set>> {
    if !at.is_null() {
        check_len(len)?;
    }
    at.read_if()
}

fn rt_sigaction(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    check_len(args.word(3))?;
    let number = args.uint(0);
    let new: Option<Action> = args.addr(1).read_if()?;
    let unchangeable = matches!(number, number::KILL | number::STOP);
    if bit(number) == 0 || (new.is_some() && unchangeable) {
        return Err(Errno::EINVAL);
    }
    let old = thread.process.signals.actions.get(number);
    if let Some(new) = new {
        send::set_action(&thread.process, number, new);
    }
    args.addr(2).write_if(old)?;
    Ok(0)
}

fn rt_sigprocmask(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    const BLOCK: i32 = 0;
    const UNBLOCK: i32 = 1;
    const SET: i32 = 2;
    check_len(args.word(3))?;
    let old = thread.signals.blocked.get();
    if let Some(set) = args.addr(1).read_if::<Set>()? {
        let new = match args.int(0) {
            BLOCK => old | set,
            UNBLOCK => old & !set,
            SET => set,
            _ => return Err(Errno::EINVAL),
        };
        signal::set_blocked(thread, new);
    }
    args.addr(2).write_if(old)?;
    Ok(0)
}

fn rt_sigreturn(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    frame::pop(thread).or_else(|_| {
        send::force(thread, Info::kernel(number::SEGV));
        let mut registers = thread.registers.get();
        registers.orig_rax = Registers::NO_CALL;
        thread.registers.set(registers);
        Ok(0)
    })
}

/// Sleeps until a signal is there to be handled.
fn until_signal(thread: &Rc<Thread>) -> Result<u64> {
    match wait::sleep_until(thread, &[], None, || None::<()>) {
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOHAND),
        Err(error) => Err(error),
        Ok(()) => Ok(0),
    }
}

fn pause(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    until_signal(thread)
}

fn rt_sigsuspend(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    check_len(args.word(1))?;
    let set: Set = args.addr(0).read()?;
    mask::with_mask(thread, Some(set), || until_signal(thread))
}

fn restart_syscall(thread: &Rc<Thread>, _args: Args) -> Result<u64> {
    let restart = thread.signals.restart.borrow_mut().take();
    match restart {
        Some(again) => again(thread),
        None => Err(Errno::EINTR),
    }
}

/// What the sender looks like to the receiver.
fn from(thread: &Thread, number: u32, code: i32) -> Info {
    let uid = thread.process.credentials.borrow().uid;
    Info::user(number, code, thread.process.pid, uid)
}

/// 0 asks whether the receiver is there.
fn check_number(number: u32) -> Result {
    if number != 0 && bit(number) == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// `kill(2)`, "permission": the same user, or privilege. A signal to let go on may go to the whole session.
fn may_signal(thread: &Thread, other: &Process, number: u32) -> Result {
    const CAP_KILL: u32 = 5;
    if core::ptr::eq(Rc::as_ptr(&thread.process), other) {
        return Ok(());
    }
    let mine = thread.process.credentials.borrow();
    let theirs = other.credentials.borrow();
    let same = [mine.uid, mine.euid]
        .iter()
        .any(|id| [theirs.uid, theirs.suid].contains(id));
    let continues = number == number::CONT && thread.process.session.get() == other.session.get();
    if same || continues || mine.can(CAP_KILL) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

fn send_one(thread: &Rc<Thread>, process: &Rc<Process>, signal: Info) -> Result {
    may_signal(thread, process, signal.signal())?;
    if signal.signal() != 0 {
        send::send_to_process(process, signal)?;
    }
    Ok(())
}

fn kill(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let (pid, number) = (args.int(0), args.uint(1));
    check_number(number)?;
    let signal = from(thread, number, info::SI_USER);
    let processes = &crate::kernel().processes;
    if pid > 0 {
        let process = find_process(pid.cast_unsigned())?;
        return send_one(thread, &process, signal).map(|()| 0);
    }
    let group = match pid {
        0 => thread.process.group.get(),
        // It has no positive counterpart, and names no group.
        i32::MIN => return Err(Errno::ESRCH),
        _ => pid.unsigned_abs(),
    };
    let everybody = pid == -1;
    let mut result = Err(Errno::ESRCH);
    for process in processes.all() {
        let meant = if everybody {
            // Not the first one, nor the caller.
            process.pid != 1 && process.pid != thread.process.pid
        } else {
            process.group.get() == group
        };
        if meant {
            let sent = send_one(thread, &process, signal);
            if result.is_err() {
                result = sent;
            }
        }
    }
    result.map(|()| 0)
}

/// A process by the number of any of its threads, as `kill(2)` takes it.
fn find_process(pid: u32) -> Result<Rc<Process>> {
    let processes = &crate::kernel().processes;
    let of_thread = || processes.thread(pid).map(|thread| thread.process.clone());
    processes
        .process(pid)
        .or_else(of_thread)
        .ok_or(Errno::ESRCH)
}

fn to_thread(thread: &Rc<Thread>, group: Option<i32>, tid: i32, signal: Info) -> Result<u64> {
    if tid <= 0 || group.is_some_and(|group| group <= 0) {
        return Err(Errno::EINVAL);
    }
    let processes = &crate::kernel().processes;
    let other = processes.thread(tid.cast_unsigned()).ok_or(Errno::ESRCH)?;
    if group.is_some_and(|group| group.cast_unsigned() != other.process.pid) {
        return Err(Errno::ESRCH);
    }
    may_signal(thread, &other.process, signal.signal())?;
    if signal.signal() != 0 {
        send::send_to_thread(&other, signal)?;
    }
    Ok(0)
}

fn tkill(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    check_number(args.uint(1))?;
    let signal = from(thread, args.uint(1), info::SI_TKILL);
    to_thread(thread, None, args.int(0), signal)
}

fn tgkill(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    check_number(args.uint(2))?;
    let signal = from(thread, args.uint(2), info::SI_TKILL);
    to_thread(thread, Some(args.int(0)), args.int(1), signal)
}

/// What a program says that a signal carries. It must not pretend that the kernel or `kill(2)` sends it to others.
fn read_info(thread: &Thread, receiver: u32, number: u32, at: UserAddr) -> Result<Info> {
    let mut signal: Info = at.read()?;
    check_number(number)?;
    signal.number = number.cast_signed();
    let pretends = signal.code >= 0 || signal.code == info::SI_TKILL;
    if pretends && receiver != thread.process.pid {
        return Err(Errno::EPERM);
    }
    Ok(signal)
}

fn rt_sigqueueinfo(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let process = find_process(args.uint(0))?;
    let signal = read_info(thread, process.pid, args.uint(1), args.addr(2))?;
    send_one(thread, &process, signal).map(|()| 0)
}

fn rt_tgsigqueueinfo(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let signal = read_info(thread, args.uint(0), args.uint(2), args.addr(3))?;
    to_thread(thread, Some(args.int(0)), args.int(1), signal)
}

fn rt_sigpending(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    if args.word(1) > SET_LEN {
        return Err(Errno::EINVAL);
    }
    let set = signal::waiting_for(thread) & thread.signals.blocked.get();
    let bytes = set.to_ne_bytes();
    let wanted = bytes.get(..args.word(1) as usize).unwrap_or(&bytes);
    args.addr(0).write_bytes(wanted)?;
    Ok(0)
}

fn rt_sigtimedwait(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    check_len(args.word(3))?;
    let wanted = args.addr(0).read::<Set>()? & !signal::UNBLOCKABLE;
    let deadline = match args.addr(2).read_if::<Timespec>()? {
        Some(time) => time.deadline()?,
        None => None,
    };
    thread.signals.waiting.set(wanted);
    let result = wait::sleep_until(thread, &[], deadline, || send::take(thread, wanted));
    thread.signals.waiting.set(0);
    let taken = match result {
        Ok(taken) => taken,
        Err(Errno::ETIMEDOUT) => return Err(Errno::EAGAIN),
        // signal(7): never made again once a handler has run.
        Err(Errno::ERESTARTSYS) => return Err(Errno::EINTR),
        Err(error) => return Err(error),
    };
    args.addr(1).write_if(taken)?;
    Ok(u64::from(taken.signal()))
}

fn sigaltstack(thread: &Rc<Thread>, args: Args) -> Result<u64> {
    let stack_pointer = thread.registers.get().rsp;
    let old = frame::record(&thread.signals.alternate.get(), stack_pointer);
    if let Some(new) = args.addr(0).read_if::<frame::StackRecord>()? {
        frame::set_alternate(thread, new, stack_pointer)?;
    }
    args.addr(1).write_if(old)?;
    Ok(0)
}
