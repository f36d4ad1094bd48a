//! Tests of signals, by their calls and by what handlers find.

use alloc::rc::Rc;

use super::{Action, Info, bit, info, number};
use crate::process::testing::{MEMORY, STACK, call, first};
use crate::process::{Registers, Thread};
use crate::user::UserAddr;
use crate::{Errno, kernel, platform::pretend};

const RT_SIGACTION: u64 = 13;
const RT_SIGPROCMASK: u64 = 14;
const RT_SIGRETURN: u64 = 15;
const READ: u64 = 0;
const NANOSLEEP: u64 = 35;
const KILL: u64 = 62;
const RT_SIGPENDING: u64 = 127;
const RT_SIGTIMEDWAIT: u64 = 128;
const RT_SIGQUEUEINFO: u64 = 129;
const RT_SIGSUSPEND: u64 = 130;
const SIGALTSTACK: u64 = 131;
const TGKILL: u64 = 234;

const HANDLER: u64 = 0x40_1000;
const RESTORER: u64 = 0x40_2000;
const RESTORER_FLAG: u64 = 0x0400_0000;
const INFO: u64 = 4;
const ON_STACK: u64 = 0x0800_0000;
const RESTART: u64 = 0x1000_0000;
const NO_DEFER: u64 = 0x4000_0000;
const RESET: u64 = 0x8000_0000;

fn error(errno: Errno) -> i64 {
    -i64::from(errno.0)
}

/// Sets a handler.
fn handle(thread: &Rc<Thread>, number: u32, flags: u64, mask: u64) {
    let action = Action {
        handler: HANDLER,
        flags: flags | RESTORER_FLAG,
        restorer: RESTORER,
        mask,
    };
    assert_eq!(MEMORY.write(action), Ok(()));
    let set = call(thread, RT_SIGACTION, [number.into(), MEMORY.0, 0, 8]);
    assert_eq!(set, 0);
}

/// Goes back to the program.
fn go_back(thread: &Rc<Thread>) -> Registers {
    assert!(thread.work.get());
    assert!(super::before_return(thread));
    assert!(!thread.work.get());
    thread.registers.get()
}

/// A return to the program without anything having come in between.
fn settle(thread: &Thread) {
    let mut registers = thread.registers.get();
    registers.orig_rax = Registers::NO_CALL;
    thread.registers.set(registers);
}

#[test]
fn a_handler_finds_the_kernels_frame() {
    let thread = first();
    handle(&thread, number::USR1, INFO, bit(number::USR2));
    let before = Registers {
        rbx: 0xb,
        r15: 0x15,
        rflags: 0x246 | 1 << 10,
        ..thread.registers.get()
    };
    thread.registers.set(before);
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    let at = go_back(&thread);
    assert_eq!(at.rip, HANDLER);
    assert_eq!(at.rdi, u64::from(number::USR1));
    // As behind a call: the stack is 8 off a multiple of 16 and holds the way back.
    assert_eq!(at.rsp % 16, 8);
    assert_eq!(UserAddr(at.rsp).read(), Ok(RESTORER));
    assert!(at.rsp < before.rsp - 128);
    assert_eq!(at.rflags & 1 << 10, 0);
    assert_eq!(at.rdx, at.rsp + 8);
    let found: Info = UserAddr(at.rsi).read().expect("there");
    assert_eq!(found, Info::user(number::USR1, info::SI_USER, 1, 0));
    // uc_mcontext: r15 is the eighth, rbx the 12th, rax the 14th, rsp, rip, flags from the 16th.
    let saved: [u64; 18] = UserAddr(at.rdx + 40).read().expect("there");
    assert_eq!((saved[7], saved[11], saved[13]), (0x15, 0xb, 0));
    assert_eq!(saved[15..], [before.rsp, before.rip, before.rflags]);
    // The FPU state is aligned and says how long it is.
    let fpu: u64 = UserAddr(at.rdx + 40 + 184).read().expect("there");
    assert_eq!(fpu % 64, 0);
    let magic: [u32; 2] = UserAddr(fpu + 464).read().expect("there");
    assert_eq!(magic, [0x4650_5853, 576 + 4]);
    assert_eq!(UserAddr(fpu + 576).read(), Ok(0x4650_5845u32));
    let blocked = thread.signals.blocked.get();
    assert_eq!(blocked, bit(number::USR1) | bit(number::USR2));

    // The handler's `ret` takes the restorer's address; that calls rt_sigreturn.
    let returning = Registers {
        rsp: at.rsp + 8,
        rbx: 0,
        ..at
    };
    thread.registers.set(returning);
    assert_eq!(call(&thread, RT_SIGRETURN, []), 0);
    let after = go_back(&thread);
    assert_eq!((after.rsp, after.rip), (before.rsp, before.rip));
    assert_eq!((after.rbx, after.r15), (0xb, 0x15));
    assert_eq!(after.rflags, before.rflags);
    assert_eq!(thread.signals.blocked.get(), 0);
}

#[test]
fn blocked_signals_wait_and_standard_ones_are_one() {
    let thread = first();
    handle(&thread, number::USR1, 0, 0);
    handle(&thread, 40, 0, 0);
    let set = bit(number::USR1) | bit(40);
    assert_eq!(MEMORY.write(set), Ok(()));
    assert_eq!(call(&thread, RT_SIGPROCMASK, [0, MEMORY.0, 0, 8]), 0);
    for _ in 0..3 {
        assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
        assert_eq!(call(&thread, KILL, [1, 40]), 0);
    }
    assert!(!super::is_pending(&thread));
    assert_eq!(call(&thread, RT_SIGPENDING, [MEMORY.0, 8]), 0);
    assert_eq!(MEMORY.read(), Ok(set));
    assert_eq!(thread.process.signals.pending.queued(), 4);
    settle(&thread);
    super::set_blocked(&thread, bit(40));
    assert_eq!(go_back(&thread).rdi, u64::from(number::USR1));
    assert_eq!(super::waiting_for(&thread), bit(40));
    let taken = (0..5).map_while(|_| super::take(&thread, bit(40)));
    assert_eq!(taken.count(), 3);
    assert_eq!(super::waiting_for(&thread), 0);
}

#[test]
fn ignored_signals_leave_no_trace() {
    let thread = first();
    assert_eq!(call(&thread, KILL, [1, number::CHLD.into()]), 0);
    assert_eq!(call(&thread, KILL, [1, 0]), 0);
    assert_eq!(super::waiting_for(&thread), 0);
    // Blocked, it waits; ignored from now on, it is forgotten.
    super::set_blocked(&thread, bit(number::USR1));
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    let ignore = Action {
        handler: 1,
        ..Action::default()
    };
    assert_eq!(MEMORY.write(ignore), Ok(()));
    let set = [number::USR1.into(), MEMORY.0, 0, 8];
    assert_eq!(call(&thread, RT_SIGACTION, set), 0);
    assert_eq!(super::waiting_for(&thread), 0);
}

#[test]
fn what_cannot_be_caught_is_refused() {
    let thread = first();
    for number in [number::KILL, number::STOP, 0, 65] {
        let set = [number.into(), MEMORY.0, 0, 8];
        assert_eq!(call(&thread, RT_SIGACTION, set), error(Errno::EINVAL));
    }
    super::set_blocked(&thread, u64::MAX);
    let blocked = thread.signals.blocked.get();
    assert_eq!(blocked & super::UNBLOCKABLE, 0);
    let sent = call(&thread, KILL, [1, 65]);
    assert_eq!(sent, error(Errno::EINVAL));
    let sent = call(&thread, KILL, [77, 1]);
    assert_eq!(sent, error(Errno::ESRCH));
}

/// A call that would wait is interrupted: what then?
fn interrupted(flags: u64, result: Errno) -> Registers {
    let thread = first();
    handle(&thread, number::USR1, flags, 0);
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    let mut registers = thread.registers.get();
    registers.orig_rax = READ;
    registers.rax = result.to_register();
    thread.registers.set(registers);
    let at = go_back(&thread);
    let saved: [u64; 18] = UserAddr(at.rdx + 40).read().expect("there");
    Registers {
        rax: saved[13],
        rip: saved[16],
        ..at
    }
}

#[test]
fn calls_are_made_again_as_the_handler_says() {
    let back = 0x40_0002;
    let eintr = Errno::EINTR.to_register();
    let outcome = |flags, errno| {
        let r = interrupted(flags, errno);
        (r.rax, r.rip)
    };
    assert_eq!(outcome(0, Errno::ERESTARTSYS), (eintr, back));
    assert_eq!(outcome(RESTART, Errno::ERESTARTSYS), (READ, back - 2));
    assert_eq!(outcome(0, Errno::ERESTARTNOINTR), (READ, back - 2));
    assert_eq!(outcome(RESTART, Errno::ERESTARTNOHAND), (eintr, back));
    assert_eq!(
        outcome(RESTART, Errno::ERESTART_RESTARTBLOCK),
        (eintr, back)
    );
    let ebadf = Errno::EBADF.to_register();
    assert_eq!(outcome(RESTART, Errno::EBADF), (ebadf, back));
}

#[test]
fn without_a_handler_calls_are_made_again() {
    let thread = first();
    let cases = [
        (Errno::ERESTARTSYS, READ),
        (Errno::ERESTARTNOHAND, READ),
        (Errno::ERESTARTNOINTR, READ),
        (Errno::ERESTART_RESTARTBLOCK, 219),
    ];
    for (errno, again) in cases {
        let before = thread.registers.get();
        thread.registers.set(Registers {
            orig_rax: READ,
            rax: errno.to_register(),
            ..before
        });
        thread.work.set(true);
        let at = go_back(&thread);
        assert_eq!((at.rax, at.rip), (again, before.rip - 2));
        thread.registers.set(before);
    }
}

#[test]
fn a_handler_is_reset_or_not_deferred_as_asked() {
    let thread = first();
    handle(&thread, number::USR1, RESET | NO_DEFER, 0);
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    go_back(&thread);
    assert_eq!(thread.signals.blocked.get(), 0);
    let action = thread.process.signals.actions.get(number::USR1);
    assert_eq!(action.handler, 0);
}

#[test]
fn several_signals_stack_their_frames() {
    let thread = first();
    handle(&thread, number::USR1, 0, 0);
    handle(&thread, number::USR2, 0, 0);
    assert_eq!(call(&thread, KILL, [1, number::USR2.into()]), 0);
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    let at = go_back(&thread);
    // The last one to get its frame runs first, and returns to the beginning of the other handler.
    assert_eq!(at.rdi, u64::from(number::USR2));
    let saved: [u64; 18] = UserAddr(at.rdx + 40).read().expect("there");
    assert_eq!(saved[8], u64::from(number::USR1));
    assert_eq!(saved[16], HANDLER);
}

/// `stack_t`.
fn stack(base: u64, flags: u64, size: u64) -> [u64; 3] {
    [base, flags, size]
}

#[test]
fn handlers_run_on_the_alternate_stack() {
    let thread = first();
    let base = MEMORY.0 + 0x4000;
    assert_eq!(MEMORY.write(stack(base, 0, 0x4000)), Ok(()));
    assert_eq!(call(&thread, SIGALTSTACK, [MEMORY.0, 0]), 0);
    handle(&thread, number::USR1, ON_STACK | NO_DEFER, 0);
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    let at = go_back(&thread);
    assert!((base..base + 0x4000).contains(&at.rsp));
    let told: [u64; 3] = UserAddr(at.rdx + 16).read().expect("there");
    assert_eq!(told, stack(base, 0, 0x4000));
    // On it, it cannot be changed, and a second handler goes on below the first.
    let changed = call(&thread, SIGALTSTACK, [MEMORY.0, MEMORY.0 + 64]);
    assert_eq!(changed, error(Errno::EPERM));
    assert_eq!(call(&thread, SIGALTSTACK, [0, MEMORY.0 + 64]), 0);
    assert_eq!(MEMORY.add(64).read(), Ok(stack(base, 1, 0x4000)));
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    let below = go_back(&thread);
    assert!((base..at.rsp).contains(&below.rsp));
    assert_eq!(below.rip, HANDLER);
}

#[test]
fn an_alternate_stack_may_disarm_itself() {
    let thread = first();
    let base = MEMORY.0 + 0x4000;
    let given = stack(base, 1 << 31, 0x4000);
    assert_eq!(MEMORY.write(given), Ok(()));
    assert_eq!(call(&thread, SIGALTSTACK, [MEMORY.0, 0]), 0);
    handle(&thread, number::USR1, ON_STACK, 0);
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    let at = go_back(&thread);
    assert_eq!(thread.signals.alternate.get().size, 0);
    thread.registers.set(Registers {
        rsp: at.rsp + 8,
        ..at
    });
    call(&thread, RT_SIGRETURN, []);
    go_back(&thread);
    assert_eq!(thread.signals.alternate.get().base, base);
    assert!(thread.signals.alternate.get().auto_disarm);
}

#[test]
fn alternate_stacks_have_a_least_size() {
    let thread = first();
    assert_eq!(MEMORY.write(stack(0x20_0000, 0, 2047)), Ok(()));
    let set = call(&thread, SIGALTSTACK, [MEMORY.0, 0]);
    assert_eq!(set, error(Errno::ENOMEM));
    assert_eq!(MEMORY.write(stack(0x20_0000, 8, 4096)), Ok(()));
    let set = call(&thread, SIGALTSTACK, [MEMORY.0, 0]);
    assert_eq!(set, error(Errno::EINVAL));
}

#[test]
fn a_fault_says_where() {
    let thread = first();
    handle(&thread, number::SEGV, INFO, 0);
    settle(&thread);
    super::fault(&thread, number::SEGV, 1, 0x1234, 14, 6);
    let at = go_back(&thread);
    let found: Info = UserAddr(at.rsi).read().expect("there");
    assert_eq!((found.code, found.address()), (1, 0x1234));
    // err, trapno, oldmask, cr2
    let told: [u64; 4] = UserAddr(at.rdx + 40 + 152).read().expect("there");
    assert_eq!((told[0], told[1], told[3]), (6, 14, 0x1234));
}

#[test]
#[should_panic(expected = "code 139, signal 11")]
fn a_blocked_fault_ends_the_process() {
    let thread = first();
    handle(&thread, number::SEGV, 0, 0);
    super::set_blocked(&thread, bit(number::SEGV));
    super::fault(&thread, number::SEGV, 1, 0, 14, 4);
    super::before_return(&thread);
}

#[test]
#[should_panic(expected = "code 139, signal 11")]
fn a_handler_without_a_stack_ends_the_process() {
    let thread = first();
    handle(&thread, number::SEGV, 0, 0);
    let nowhere = Registers {
        rsp: 0x5000_0000,
        ..thread.registers.get()
    };
    thread.registers.set(nowhere);
    super::fault(&thread, number::SEGV, 1, 0, 14, 4);
    super::before_return(&thread);
}

#[test]
#[should_panic(expected = "code 143, signal 15")]
fn the_monitors_request_ends_a_program_that_does_not_handle_it() {
    let thread = first();
    super::from_monitor(number::TERM);
    super::before_return(&thread);
}

#[test]
fn the_monitors_request_goes_to_a_handler() {
    let thread = first();
    handle(&thread, number::TERM, 0, 0);
    super::from_monitor(number::TERM);
    settle(&thread);
    assert_eq!(go_back(&thread).rip, HANDLER);
}

#[test]
fn a_signal_of_the_process_goes_to_who_does_not_block_it() {
    let thread = first();
    let other = kernel().processes.add_thread(2, thread.process.clone());
    handle(&thread, number::USR1, 0, 0);
    super::set_blocked(&thread, bit(number::USR1));
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    assert!(!super::is_pending(&thread) && super::is_pending(&other));
    // It blocks it too: nobody is left, until one of them changes his mind.
    super::set_blocked(&other, bit(number::USR1));
    assert!(!super::is_pending(&other));
    super::set_blocked(&thread, 0);
    assert!(super::is_pending(&thread));
    // Handed on to whoever is left.
    super::set_blocked(&other, 0);
    super::set_blocked(&thread, bit(number::USR1));
    assert!(!super::is_pending(&thread) && super::is_pending(&other));
}

#[test]
fn a_signal_of_a_thread_is_only_its_own() {
    let thread = first();
    let other = kernel().processes.add_thread(2, thread.process.clone());
    handle(&thread, number::USR1, 0, 0);
    assert_eq!(call(&thread, TGKILL, [1, 2, number::USR1.into()]), 0);
    assert!(!super::is_pending(&thread) && super::is_pending(&other));
    let wrong_group = call(&thread, TGKILL, [2, 2, 10]);
    assert_eq!(wrong_group, error(Errno::ESRCH));
    let nobody = call(&thread, TGKILL, [1, 0, 10]);
    assert_eq!(nobody, error(Errno::EINVAL));
}

#[test]
fn sigtimedwait_takes_what_it_waits_for() {
    let thread = first();
    let wanted = bit(34);
    super::set_blocked(&thread, wanted);
    let same = thread.clone();
    pretend::while_asleep(move || {
        let mut sent = Info::queued(34, info::SI_QUEUE, 1, 0, 99);
        sent.errno = 5;
        let at = MEMORY.add(512);
        assert_eq!(at.write(sent), Ok(()));
        assert_eq!(call(&same, RT_SIGQUEUEINFO, [1, 34, at.0]), 0);
    });
    assert_eq!(MEMORY.write(wanted), Ok(()));
    let info_at = MEMORY.add(1024);
    let waited = call(&thread, RT_SIGTIMEDWAIT, [MEMORY.0, info_at.0, 0, 8]);
    assert_eq!(waited, 34);
    let found: Info = info_at.read().expect("there");
    assert_eq!((found.value(), found.errno, found.code), (99, 5, -1));
    // None comes.
    let time = MEMORY.add(2048);
    assert_eq!(time.write([0u64, 1000]), Ok(()));
    let waited = call(&thread, RT_SIGTIMEDWAIT, [MEMORY.0, 0, time.0, 8]);
    assert_eq!(waited, error(Errno::EAGAIN));
}

#[test]
fn sigsuspend_runs_the_handler_and_goes_back_to_the_old_mask() {
    let thread = first();
    handle(&thread, number::USR1, 0, 0);
    super::set_blocked(&thread, bit(number::USR1));
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    assert_eq!(MEMORY.write(0u64), Ok(()));
    let suspended = call(&thread, RT_SIGSUSPEND, [MEMORY.0, 8]);
    assert_eq!(suspended, error(Errno::ERESTARTNOHAND));
    let at = go_back(&thread);
    assert_eq!(at.rip, HANDLER);
    let mask: u64 = UserAddr(at.rdx + 40 + 256).read().expect("there");
    assert_eq!(mask, bit(number::USR1));
    let saved: [u64; 18] = UserAddr(at.rdx + 40).read().expect("there");
    assert_eq!(saved[13], Errno::EINTR.to_register());
}

#[test]
fn a_call_with_a_mask_of_its_own_leaves_the_old_one() {
    let thread = first();
    super::set_blocked(&thread, 2);
    let inside = super::with_mask(&thread, Some(4), || Ok(thread.signals.blocked.get()));
    assert_eq!(inside, Ok(4));
    assert_eq!(thread.signals.blocked.get(), 2);
    let failed = super::with_mask::<()>(&thread, Some(4), || Err(Errno::EINTR));
    assert_eq!(failed, Err(Errno::EINTR));
    settle(&thread);
    go_back(&thread);
    assert_eq!(thread.signals.blocked.get(), 2);
}

#[test]
fn a_sleep_goes_on_after_a_stop() {
    let thread = first();
    assert_eq!(MEMORY.write([5u64, 0]), Ok(()));
    let same = thread.clone();
    pretend::while_asleep(move || {
        assert_eq!(call(&same, KILL, [1, number::STOP.into()]), 0);
        same.registers.set(Registers {
            orig_rax: NANOSLEEP,
            ..same.registers.get()
        });
    });
    let slept = call(&thread, NANOSLEEP, [MEMORY.0, MEMORY.0 + 64]);
    assert_eq!(slept, error(Errno::ERESTART_RESTARTBLOCK));
    let same = thread.clone();
    pretend::while_asleep(move || {
        assert_eq!(same.process.signals.stopped.get(), Some(number::STOP));
        let going_on = Info::kernel(number::CONT);
        assert!(super::send_to_process(&same.process, going_on).is_ok());
    });
    let at = go_back(&thread);
    assert_eq!(at.rax, 219);
    assert_eq!(thread.process.signals.stopped.get(), None);
    assert_eq!(call(&thread, 219, []), 0);
}

#[test]
fn the_terminal_cannot_stop_who_nobody_could_continue() {
    let thread = first();
    super::from_monitor(number::TSTP);
    settle(&thread);
    go_back(&thread);
    assert_eq!(thread.process.signals.stopped.get(), None);
}

#[test]
fn a_ruined_frame_is_a_fault() {
    let thread = first();
    handle(&thread, number::SEGV, 0, 0);
    let gone = Registers {
        rsp: STACK,
        ..thread.registers.get()
    };
    thread.registers.set(gone);
    call(&thread, RT_SIGRETURN, []);
    assert!(super::is_pending(&thread));
    let pending = thread.signals.pending.set();
    assert_eq!(pending, bit(number::SEGV));
}

#[test]
fn a_handler_begins_with_the_first_state_of_the_fpu_and_the_program_gets_its_own_back() {
    let thread = first();
    handle(&thread, number::USR1, 0, 0);
    // The eighth word is `mxcsr`, what follows at 32 is the first x87 register.
    let mut programs = [0; 576];
    programs[..2].copy_from_slice(&0x27fu16.to_le_bytes());
    programs[24..28].copy_from_slice(&0x7f80u32.to_le_bytes());
    programs[32] = 0x55;
    assert_eq!(crate::platform::set_fpu_state(&thread, &programs), Ok(()));
    let state = || {
        let mut state = [0; 576];
        crate::platform::fpu_state(&thread, &mut state);
        let mxcsr = u32::from_le_bytes([state[24], state[25], state[26], state[27]]);
        (u16::from_le_bytes([state[0], state[1]]), mxcsr, state[32])
    };
    assert_eq!(call(&thread, KILL, [1, number::USR1.into()]), 0);
    let at = go_back(&thread);
    assert_eq!(state(), (0x37f, 0x1f80, 0));
    thread.registers.set(Registers {
        rsp: at.rsp + 8,
        ..at
    });
    assert_eq!(call(&thread, RT_SIGRETURN, []), 0);
    assert_eq!(state(), (0x27f, 0x7f80, 0x55));
}
