//! The frame that a handler finds on its stack: `struct rt_sigframe` of x86-64.
//!
//! From low to high addresses: the return address (the restorer), `ucontext_t`, `siginfo_t`, and the FPU state as `XSAVE` writes it,
//! 64-byte aligned. Its software-reserved bytes tell a reader how long it is; a magic number follows its end.

use alloc::rc::Rc;
use alloc::vec;

use super::{Action, AlternateStack, Flags, Info, Set, action};
use crate::platform;
use crate::process::{Registers, Thread};
use crate::user::{Plain, USER_END, UserAddr};
use crate::{Errno, Result};

/// `stack_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct StackRecord {
    /// `ss_sp`
    pub base: u64,
    /// `ss_flags`
    pub flags: u32,
    /// Nothing.
    pub padding: u32,
    /// `ss_size`
    pub size: u64,
}

// SAFETY: `repr(C)`, integers, the padding is a field.
unsafe impl Plain for StackRecord {}

/// `SS_ONSTACK`.
pub const ON_STACK: u32 = 1;
/// `SS_DISABLE`.
pub const DISABLE: u32 = 2;
/// `SS_AUTODISARM`.
pub const AUTO_DISARM: u32 = 1 << 31;

/// `ucontext_t` without the FPU state, in the kernel's form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct UserContext {
    flags: u64,
    link: u64,
    stack: StackRecord,
    /// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags.
    registers: [u64; 18],
    code_segment: u16,
    gs: u16,
    fs: u16,
    stack_segment: u16,
    error: u64,
    trap: u64,
    old_mask: u64,
    cr2: u64,
    fpu: u64,
    reserved: [u64; 8],
    mask: Set,
}

// SAFETY: `repr(C)`, integers, no padding: the four segments fill a word.
unsafe impl Plain for UserContext {}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Frame {
    restorer: u64,
    context: UserContext,
    info: Info,
}

// SAFETY: `repr(C)` of plain records whose sizes are multiples of a word.
unsafe impl Plain for Frame {}

const _: () = assert!(size_of::<UserContext>() == 304);
const _: () = assert!(size_of::<Frame>() == 440);

/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const CONTEXT_FLAGS: u64 = 1 | 2 | 4;
/// Selectors of 64-bit programs.
const CODE_SEGMENT: u16 = 0x33;
const STACK_SEGMENT: u16 = 0x2b;

/// Below its stack pointer a program may have data (the ABI's red zone).
const RED_ZONE: u64 = 128;

/// Where in the legacy area of the FPU state the software-reserved bytes are.
const RESERVED_AT: usize = 464;
const MAGIC_1: u32 = 0x4650_5853;
const MAGIC_2: u32 = 0x4650_5845;
/// Bytes of the state without extensions (`FXSAVE`).
const LEGACY_SIZE: usize = 512;
/// Legacy area and header of an extended state.
const EXTENDED_MIN: usize = LEGACY_SIZE + 64;
/// Room for the largest state that programs are given: up to AVX-512, without AMX.
const FPU_MOST: usize = 4096;

/// Flags that a program may set by returning from a handler: AC, OF, DF, TF, SF, ZF, AF, PF, CF, RF.
const RESTORED_FLAGS: u64 = 0x5_0dd5;
/// DF, TF and RF: off while a handler starts.
const CLEARED_FLAGS: u64 = 1 << 10 | 1 << 8 | 1 << 16;

/// Writes the frame for a handler and lets the thread's registers point there.
///
/// # Errors
/// `EFAULT` if there is no stack for it.
pub(super) fn push(thread: &Rc<Thread>, info: &Info, action: &Action, mask: Set) -> Result {
    if !action.flags().contains(Flags::RESTORER) {
        return Err(Errno::EFAULT);
    }
    let registers = thread.registers.get();
    let alternate = thread.signals.alternate.get();
    let mut top = registers.rsp.wrapping_sub(RED_ZONE);
    let entering = action.flags().contains(Flags::ON_STACK)
        && alternate.size > 0
        && !alternate.holds(registers.rsp);
    if entering {
        top = alternate.base.saturating_add(alternate.size);
    }

    let mut state = vec![0; FPU_MOST];
    let state_size = platform::fpu_state(thread, &mut state).min(FPU_MOST);
    state.truncate(state_size);
    let fpu = push_fpu(&mut state, top)?;
    // The return address lies where a call would have put it.
    let at = (fpu.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
    let stays_on_alternate = entering || !alternate.holds(registers.rsp);
    if (!stays_on_alternate && !alternate.holds(at)) || (entering && at < alternate.base) {
        return Err(Errno::EFAULT);
    }

    let fault = thread.signals.fault.get();
    let frame = Frame {
        restorer: action.restorer,
        context: UserContext {
            flags: CONTEXT_FLAGS,
            link: 0,
            stack: record(&alternate, registers.rsp),
            registers: saved(&registers),
            code_segment: CODE_SEGMENT,
            gs: 0,
            fs: 0,
            stack_segment: STACK_SEGMENT,
            error: fault.error,
            trap: fault.trap,
            old_mask: mask,
            cr2: fault.address,
            fpu,
            reserved: [0; 8],
            mask,
        },
        info: *info,
    };
    UserAddr(at).write(frame)?;
    // The handler's x87 and vector code expects what a program starts with, whatever the program was doing.
    platform::clear_fpu_state(thread);
    if alternate.auto_disarm {
        thread.signals.alternate.set(AlternateStack::default());
    }

    let base = at + 8;
    thread.registers.set(Registers {
        rdi: u64::from(info.signal()),
        rsi: base + size_of::<UserContext>() as u64,
        rdx: base,
        rax: 0,
        rip: action.handler,
        rsp: at,
        rflags: registers.rflags & !CLEARED_FLAGS,
        orig_rax: Registers::NO_CALL,
        ..registers
    });
    thread.work.set(true);
    Ok(())
}

/// Writes the FPU state below `top`; returns its address.
fn push_fpu(state: &mut [u8], top: u64) -> Result<u64> {
    let size = state.len();
    if size < LEGACY_SIZE {
        return Err(Errno::EFAULT);
    }
    let features = state
        .get(LEGACY_SIZE..LEGACY_SIZE + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(3, u64::from_le_bytes)
        | 3;
    let extended = size >= EXTENDED_MIN;
    let total = size + if extended { 4 } else { 0 };
    let at = top.wrapping_sub(total as u64) & !63;
    if at > USER_END {
        return Err(Errno::EFAULT);
    }
    if extended {
        let mut reserved = [0; 48];
        reserved[..4].copy_from_slice(&MAGIC_1.to_le_bytes());
        reserved[4..8].copy_from_slice(&(total as u32).to_le_bytes());
        reserved[8..16].copy_from_slice(&features.to_le_bytes());
        reserved[16..20].copy_from_slice(&(size as u32).to_le_bytes());
        state[RESERVED_AT..LEGACY_SIZE].copy_from_slice(&reserved);
        UserAddr(at).add(size as u64).write(MAGIC_2)?;
    }
    UserAddr(at).write_bytes(state)?;
    Ok(at)
}

/// `rt_sigreturn(2)`: takes up again what a handler has interrupted. Returns the program's `rax`.
///
/// # Errors
/// `EFAULT` if the frame cannot be read: the program has ruined it, and gets `SIGSEGV`.
pub fn pop(thread: &Rc<Thread>) -> Result<u64> {
    let now = thread.registers.get();
    // The handler's `ret` has taken the restorer's address off.
    let context: UserContext = UserAddr(now.rsp).read()?;
    if context.fpu != 0 {
        pop_fpu(thread, UserAddr(context.fpu))?;
    }
    let mut registers = Registers {
        orig_rax: Registers::NO_CALL,
        ..now
    };
    restore(&mut registers, &context.registers);
    thread.registers.set(registers);
    // Errors of this are nobody's: as if sigaltstack(2) had not been called.
    let _ = set_alternate(thread, context.stack, registers.rsp);
    super::set_blocked(thread, context.mask);
    thread.work.set(true);
    Ok(registers.rax)
}

fn pop_fpu(thread: &Rc<Thread>, at: UserAddr) -> Result {
    let mut legacy = vec![0; LEGACY_SIZE];
    at.read_bytes(&mut legacy)?;
    let word = |offset: usize| -> u32 {
        let bytes = legacy.get(offset..offset + 4);
        bytes
            .and_then(|b| b.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    let size = word(RESERVED_AT + 16) as usize;
    let extended = word(RESERVED_AT) == MAGIC_1
        && (EXTENDED_MIN..=FPU_MOST).contains(&size)
        && word(RESERVED_AT + 4) as usize >= size + 4
        && at.add(size as u64).read::<u32>()? == MAGIC_2;
    let mut state = legacy;
    if extended {
        state.resize(size, 0);
        at.read_bytes(&mut state)?;
    }
    platform::set_fpu_state(thread, &state)
}

fn saved(r: &Registers) -> [u64; 18] {
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
        r.rax, r.rcx, r.rsp, r.rip, r.rflags,
    ]
}

fn restore(r: &mut Registers, from: &[u64; 18]) {
    let flags;
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
        r.rax, r.rcx, r.rsp, r.rip, flags,
    ] = *from;
    r.rflags = r.rflags & !RESTORED_FLAGS | flags & RESTORED_FLAGS;
}

/// The alternate stack as `sigaltstack(2)` tells it to somebody whose stack pointer this is.
pub fn record(alternate: &AlternateStack, stack_pointer: u64) -> StackRecord {
    let state = if alternate.size == 0 {
        DISABLE
    } else if alternate.holds(stack_pointer) {
        ON_STACK
    } else {
        0
    };
    StackRecord {
        base: alternate.base,
        flags: state
            | if alternate.auto_disarm {
                AUTO_DISARM
            } else {
                0
            },
        padding: 0,
        size: alternate.size,
    }
}

/// `MINSIGSTKSZ`.
const MIN_STACK: u64 = 2048;

/// Sets the alternate stack (`sigaltstack(2)`).
///
/// # Errors
/// `EPERM` while the thread runs on it, `EINVAL` for unknown flags, `ENOMEM` if it is too small.
pub fn set_alternate(thread: &Thread, new: StackRecord, stack_pointer: u64) -> Result {
    if thread.signals.alternate.get().holds(stack_pointer) {
        return Err(Errno::EPERM);
    }
    let mode = new.flags & !AUTO_DISARM;
    if !matches!(mode, 0 | ON_STACK | DISABLE) {
        return Err(Errno::EINVAL);
    }
    let alternate = if mode == DISABLE {
        AlternateStack::default()
    } else if new.size < MIN_STACK {
        return Err(Errno::ENOMEM);
    } else {
        AlternateStack {
            base: new.base,
            size: new.size,
            auto_disarm: new.flags & AUTO_DISARM != 0,
        }
    };
    thread.signals.alternate.set(alternate);
    Ok(())
}

/// True if an address can be a handler's: neither of the two that are not addresses.
pub fn is_handler(handler: u64) -> bool {
    handler != action::DEFAULT && handler != action::IGNORE
}
