//! New threads (`clone(2)`, `clone3(2)`).

use alloc::rc::Rc;

use super::{Process, Resource, RunState, Thread, sched};
use crate::signal::AlternateStack;
use crate::user::{USER_END, UserAddr};
use crate::{Errno, Result, platform};

bitflags::bitflags! {
    /// What parent and child share, and what is done for them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// `CLONE_VM`
        const VM = 0x100;
        /// `CLONE_FS`
        const FS = 0x200;
        /// `CLONE_FILES`
        const FILES = 0x400;
        /// `CLONE_SIGHAND`
        const SIGNAL_HANDLERS = 0x800;
        /// `CLONE_PIDFD`
        const PIDFD = 0x1000;
        /// `CLONE_PTRACE`
        const PTRACE = 0x2000;
        /// `CLONE_VFORK`
        const VFORK = 0x4000;
        /// `CLONE_PARENT`
        const PARENT = 0x8000;
        /// `CLONE_THREAD`
        const THREAD = 0x1_0000;
        /// `CLONE_NEWNS`
        const NEW_NAMESPACE = 0x2_0000;
        /// `CLONE_SYSVSEM`
        const SEMAPHORES = 0x4_0000;
        /// `CLONE_SETTLS`
        const SET_TLS = 0x8_0000;
        /// `CLONE_PARENT_SETTID`
        const PARENT_SET_TID = 0x10_0000;
        /// `CLONE_CHILD_CLEARTID`
        const CHILD_CLEAR_TID = 0x20_0000;
        /// `CLONE_DETACHED`
        const DETACHED = 0x40_0000;
        /// `CLONE_UNTRACED`
        const UNTRACED = 0x80_0000;
        /// `CLONE_CHILD_SETTID`
        const CHILD_SET_TID = 0x100_0000;
        /// `CLONE_NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET`
        const NAMESPACES = 0x7e00_0000;
        /// `CLONE_IO`
        const IO = 0x8000_0000;
        /// `CLONE_CLEAR_SIGHAND`
        const CLEAR_HANDLERS = 0x1_0000_0000;
        /// `CLONE_INTO_CGROUP`
        const INTO_CGROUP = 0x2_0000_0000;
        const _ = !0;
    }
}

/// What is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// What is shared.
    pub flags: Flags,
    /// Where the parent wants the number.
    pub parent_tid: UserAddr,
    /// Where the child wants it, or wants it cleared.
    pub child_tid: UserAddr,
    /// The child's stack pointer; 0 for the parent's.
    pub stack: u64,
    /// The child's FS base.
    pub tls: u64,
    /// The signal that tells the parent of the child's end.
    pub exit_signal: u32,
}

/// What threads of one process share.
const OF_A_THREAD: Flags = Flags::VM.union(Flags::SIGNAL_HANDLERS).union(Flags::THREAD);

/// Makes a thread; returns its number.
///
/// # Errors
/// `EINVAL` for flags that do not go together; `ENOSYS` for a new process that does not share everything; `EAGAIN` if there are too many; `ENOMEM`; `EFAULT`.
pub fn clone(parent: &Rc<Thread>, request: &Request) -> Result<u64> {
    let flags = request.flags;
    let has = |flag| flags.contains(flag);
    if has(Flags::THREAD) && !has(Flags::SIGNAL_HANDLERS)
        || has(Flags::SIGNAL_HANDLERS) && !has(Flags::VM)
        || has(Flags::SIGNAL_HANDLERS) && has(Flags::CLEAR_HANDLERS)
        || has(Flags::FS) && has(Flags::NEW_NAMESPACE)
        || has(Flags::THREAD) && flags.intersects(Flags::NAMESPACES)
    {
        return Err(Errno::EINVAL);
    }
    if flags.intersects(Flags::NAMESPACES | Flags::NEW_NAMESPACE) {
        return Err(Errno::EPERM);
    }
    if !has(OF_A_THREAD) || has(Flags::VFORK) || has(Flags::PIDFD) {
        return helper(parent, request);
    }
    let tid = crate::kernel().processes.free_number();
    thread(parent, request, tid, parent.process.clone())
}

/// A process of its own: one that shares all of its parent's memory, descriptors and folders, and has a stack of its own there, as the
/// helpers of sanitizers do.
fn helper(parent: &Rc<Thread>, request: &Request) -> Result<u64> {
    let flags = request.flags;
    let shares = Flags::VM.union(Flags::FS).union(Flags::FILES);
    let other = Flags::THREAD | Flags::SIGNAL_HANDLERS | Flags::VFORK | Flags::PIDFD;
    if !flags.contains(shares) || flags.intersects(other | Flags::PARENT) || request.stack == 0 {
        return Err(Errno::ENOSYS);
    }
    let processes = &crate::kernel().processes;
    let process = processes.sharing(&parent.process, request.exit_signal);
    if flags.contains(Flags::CLEAR_HANDLERS) {
        process.signals.actions.reset_handlers();
    }
    processes
        .all
        .borrow_mut()
        .insert(process.pid, process.clone());
    let pid = process.pid;
    thread(parent, request, pid, process).inspect_err(|_| processes.forget(pid))
}

fn thread(parent: &Rc<Thread>, request: &Request, tid: u32, process: Rc<Process>) -> Result<u64> {
    let flags = request.flags;
    let kernel = crate::kernel();
    let most = parent.process.limit(Resource::Processes).0;
    if kernel.processes.thread_count() as u64 >= most.min(MOST_THREADS) {
        return Err(Errno::EAGAIN);
    }
    // What a thread needs later cannot be refused to it then.
    let (total, free) = platform::memory();
    if free < total / SPARED {
        return Err(Errno::EAGAIN);
    }
    let set_tls = flags.contains(Flags::SET_TLS);
    if set_tls && request.tls >= USER_END {
        return Err(Errno::EPERM);
    }
    let child = super::new_thread(tid, process);
    let mut registers = parent.registers.get();
    registers.rax = 0;
    registers.orig_rax = super::Registers::NO_CALL;
    if request.stack != 0 {
        registers.rsp = request.stack;
    }
    child.registers.set(registers);
    let fs_base = parent.fs_base.get();
    child
        .fs_base
        .set(if set_tls { request.tls } else { fs_base });
    child.gs_base.set(parent.gs_base.get());
    *child.name.borrow_mut() = *parent.name.borrow();
    child.signals.blocked.set(parent.signals.blocked.get());
    child.signals.alternate.set(AlternateStack::default());
    child.nice.set(parent.nice.get());
    child.io_priority.set(parent.io_priority.get());
    child.timer_slack.set(parent.timer_slack.get());
    let policy = parent.policy.get();
    child.policy.set(if policy.reset_on_fork {
        super::Policy::default()
    } else {
        policy
    });
    // Not able to run before everything is in place.
    child.state.set(RunState::Asleep);
    platform::prepare(&child)?;
    // Addresses that cannot be written are the program's own affair.
    if flags.contains(Flags::PARENT_SET_TID) {
        let _ = request.parent_tid.write(child.tid);
    }
    if flags.contains(Flags::CHILD_SET_TID) {
        let _ = request.child_tid.write(child.tid);
    }
    if flags.contains(Flags::CHILD_CLEAR_TID) {
        child.clear_tid.set(request.child_tid.0);
    }
    kernel.processes.insert(&child);
    let process = &child.process;
    if process.status.get().is_some() || process.signals.stopped.get().is_some() {
        child.signals.attention.set(true);
        child.work.set(true);
    }
    sched::start(&child);
    Ok(u64::from(child.tid))
}

/// One part of so many of the memory is not used for new threads: more than it seems is taken, by rounding.
const SPARED: u64 = 4;

/// More threads than this are refused whatever the limits say.
const MOST_THREADS: u64 = 100_000;
