//! Another program in a process (`execve(2)`).

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::{RunState, Thread, exit_group, rseq, sched};
use crate::fs::{self, OpenFlags};
use crate::io::Sink;
use crate::loader;
use crate::signal::{AlternateStack, mask, number};
use crate::{Errno, Result, platform};

/// The FPU state that a program begins with: its control words, in the legacy form of `XSAVE`.
const FIRST_FPU: [(usize, &[u8]); 2] = [(0, &[0x7f, 0x03]), (24, &[0x80, 0x1f])];
/// Bytes of the legacy form.
const FPU_LEN: usize = 512;

/// Puts another program in place of the one that the thread runs. The other threads of the process end.
///
/// # Errors
/// Those of [`loader::execute`]; the old program goes on then.
pub fn execute(
    thread: &Rc<Thread>,
    path: &[u8],
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
) -> Result {
    alone_in_memory(thread)?;
    if thread.process.threads.borrow().len() > 1 {
        // Others must not end for a program that is not there.
        check(thread, path)?;
        end_others(thread)?;
        alone_in_memory(thread)?;
    }
    let back = thread.registers.get().rip;
    if let Err(error) = loader::execute(thread, path, arguments, environment) {
        if thread.process.memory.region(back).is_none() {
            // There is nothing left to go back to.
            exit_group(&thread.process, number::SEGV);
        }
        return Err(error.errno());
    }
    begin(thread);
    Ok(())
}

/// Another process that runs in the same memory would lose it.
fn alone_in_memory(thread: &Thread) -> Result {
    let own = &thread.process;
    let others = crate::kernel().processes.all();
    let shares = others.iter().any(|other| {
        other.pid != own.pid
            && Rc::ptr_eq(&other.memory, &own.memory)
            && !other.threads.borrow().is_empty()
    });
    if shares { Err(Errno::ENOSYS) } else { Ok(()) }
}

fn check(thread: &Rc<Thread>, path: &[u8]) -> Result {
    let open = fs::open(thread, fs::AT_FDCWD, path, OpenFlags::empty(), 0)?;
    if let Some(place) = &open.place {
        fs::permit(thread, &place.inode, 1)?;
    }
    let mut start = [0; 4];
    open.file
        .read_at(thread, 0, &mut Sink::kernel(&mut start))?;
    if &start == b"\x7fELF" || start.starts_with(b"#!") {
        Ok(())
    } else {
        Err(Errno::ENOEXEC)
    }
}

fn end_others(thread: &Rc<Thread>) -> Result {
    let process = &thread.process;
    if thread.signals.ending.get() {
        return Err(Errno::ERESTARTNOINTR);
    }
    for other in process.all_threads() {
        if !Rc::ptr_eq(&other, thread) {
            other.signals.ending.set(true);
            mask::alert(&other);
        }
    }
    while process.threads.borrow().len() > 1 {
        if process.status.get().is_some() {
            return Err(Errno::EINTR);
        }
        sched::park(thread, None);
        if thread.state.get() == RunState::Dead {
            return Err(Errno::EINTR);
        }
    }
    Ok(())
}

/// What a new program does not have of the old one (`execve(2)`, "effect on process attributes").
fn begin(thread: &Rc<Thread>) {
    let process = &thread.process;
    process.signals.actions.reset_handlers();
    process.timers.delete_all(process);
    process.attributes.dumpable.set(1);
    process.credentials.borrow_mut().capabilities.keep = false;
    for fd in process.files.numbers() {
        let closes = process.files.descriptor(fd);
        if closes.is_ok_and(|descriptor| descriptor.close_on_exec) {
            drop(process.files.remove(fd));
        }
    }
    thread.signals.alternate.set(AlternateStack::default());
    thread.signals.restart.take();
    thread.clear_tid.set(0);
    thread.robust_list.set(0);
    thread.rseq.set(rseq::Area::default());
    thread.gs_base.set(0);
    let mut fpu = [0; FPU_LEN];
    for (at, bytes) in FIRST_FPU {
        if let Some(to) = fpu.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    }
    // A state of nothing but control words is one that no processor refuses.
    let _ = platform::set_fpu_state(thread, &fpu);
    thread.work.set(true);
}
