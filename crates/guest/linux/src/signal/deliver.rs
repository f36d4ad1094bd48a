//! What happens to pending signals on a thread's way back to its program.

use alloc::rc::Rc;

use super::action::{DEFAULT, IGNORE};
use super::{Action, Flags, Info, bit, frame, mask, number, send};
use crate::Errno;
use crate::platform;
use crate::process::{self, Registers, RunState, Thread, sched};

/// `restart_syscall(2)`.
const RESTART_SYSCALL: u64 = 219;

/// Does what a thread has to do before it goes back to its program, while [`Thread::work`] is set: ends with its process, stops, delivers signals,
/// settles how an interrupted call goes on. The thread's registers may be others afterwards.
///
/// `false` if the thread has ended: it must not return to the program.
pub fn before_return(thread: &Rc<Thread>) -> bool {
    thread.work.set(false);
    loop {
        if thread.state.get() == RunState::Dead {
            return false;
        }
        let process = &thread.process;
        if process.status.get().is_some() || thread.signals.ending.get() {
            process::exit_thread(thread, 0);
            return false;
        }
        if process.signals.stopped.get().is_some() {
            wait_to_continue(thread);
            continue;
        }
        let Some(info) = send::take(thread, !thread.signals.blocked.get()) else {
            break;
        };
        if let Some(info) = process::trace::stop(thread, info) {
            handle(thread, info);
        }
    }
    resume_call(thread, None);
    process::rseq::before_return(thread);
    if let Some(saved) = thread.signals.saved.take() {
        super::set_blocked(thread, saved);
    }
    // What came for others or was undone must not call the thread here again.
    thread.work.set(false);
    mask::look(thread);
    if thread.signals.attention.get() {
        return before_return(thread);
    }
    true
}

/// Does with a signal what the process has asked for.
fn handle(thread: &Rc<Thread>, info: Info) {
    let number = info.signal();
    let actions = &thread.process.signals.actions;
    let action = actions.get(number);
    match action.handler {
        IGNORE => {}
        DEFAULT => by_default(thread, info),
        _ => {
            if action.flags().contains(Flags::RESET_HANDLER) {
                actions.set(
                    number,
                    Action {
                        handler: DEFAULT,
                        ..action
                    },
                );
            }
            call_handler(thread, info, action);
        }
    }
}

fn by_default(thread: &Rc<Thread>, info: Info) {
    let process = &thread.process;
    let number = info.signal();
    match number::default(number) {
        number::Default::Ignore | number::Default::Continue => {}
        number::Default::Stop => {
            // Nobody could let an orphaned process group go on that its terminal has stopped.
            if number == number::STOP || !process.is_orphaned() {
                process.signals.stopped.set(Some(number));
                mask::alert_all(process);
            }
        }
        number::Default::Terminate => process::exit_group(process, number),
        number::Default::Core => {
            tell(thread, &info);
            let dumped = process::core_file::dump(thread, &info);
            let kept = if dumped { process::CORE_DUMPED } else { 0 };
            process::exit_group(process, number | kept);
        }
    }
}

/// Lets the thread go on in a handler.
fn call_handler(thread: &Rc<Thread>, info: Info, action: Action) {
    let number = info.signal();
    resume_call(thread, Some(action.flags()));
    process::rseq::before_return(thread);
    let blocked = thread.signals.blocked.get();
    let goes_back_to = thread.signals.saved.take().unwrap_or(blocked);
    if frame::push(thread, &info, &action, goes_back_to).is_err() {
        // There is no stack to run a handler on. The signal's own handler for that would not have one either.
        if number == number::SEGV {
            let default = Action::default();
            thread.process.signals.actions.set(number::SEGV, default);
        }
        send::force(thread, Info::kernel(number::SEGV));
        return;
    }
    let own = if action.flags().contains(Flags::NO_DEFER) {
        0
    } else {
        bit(number)
    };
    super::set_blocked(thread, blocked | action.mask | own);
}

/// Settles how an interrupted call goes on: again, or with `EINTR` (`signal(7)`). `handler` has the flags of the handler that runs first, if one
/// does.
fn resume_call(thread: &Thread, handler: Option<Flags>) {
    let mut registers = thread.registers.get();
    if registers.orig_rax == Registers::NO_CALL {
        return;
    }
    let result = registers.rax;
    let is = |error: Errno| result == error.to_register();
    let again = if is(Errno::ERESTARTNOINTR) {
        Some(registers.orig_rax)
    } else if is(Errno::ERESTARTSYS) {
        handler
            .is_none_or(|flags| flags.contains(Flags::RESTART))
            .then_some(registers.orig_rax)
    } else if is(Errno::ERESTARTNOHAND) {
        handler.is_none().then_some(registers.orig_rax)
    } else if is(Errno::ERESTART_RESTARTBLOCK) {
        handler.is_none().then_some(RESTART_SYSCALL)
    } else {
        // Whatever else it is, it is settled: a second signal must not look at it again.
        registers.orig_rax = Registers::NO_CALL;
        thread.registers.set(registers);
        return;
    };
    match again {
        Some(call) => {
            registers.rax = call;
            registers.rip = platform::call_site(registers.rip);
        }
        None => registers.rax = Errno::EINTR.to_register(),
    }
    registers.orig_rax = Registers::NO_CALL;
    thread.registers.set(registers);
}

/// Sleeps until the process goes on or ends.
fn wait_to_continue(thread: &Rc<Thread>) {
    let signals = &thread.process.signals;
    let ends = || thread.process.status.get().is_some() || thread.signals.ending.get();
    while signals.stopped.get().is_some() && !ends() {
        sched::park(thread, None);
    }
}

/// Says what has ended the program.
fn tell(thread: &Thread, info: &Info) {
    let at = thread.registers.get();
    // Others than faults carry something else there.
    let is_fault = info.code > 0 && info.code != super::info::SI_KERNEL;
    let address = if is_fault {
        alloc::format!("address {:#x}, ", info.address())
    } else {
        alloc::string::String::new()
    };
    let text = alloc::format!(
        "kiln: {} at {:#x} in thread {} ({}): {address}stack {:#x}\n",
        number::name(info.signal()),
        at.rip,
        thread.tid,
        thread.name_text(),
        at.rsp
    );
    crate::dev::tell_user(&text);
}
