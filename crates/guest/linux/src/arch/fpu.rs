//! The program's FPU state: what `XSAVE` knows of (SDM volume 1, chapter 13).
//!
//! While a thread is in a call its `xmm` registers and `mxcsr` lie at the top of its kernel stack, and all else of the state stays in the
//! processor. When another thread is about to return to its program, [`own`] saves the state there and loads the other's.
//! So a thread that sleeps and is the next to run again costs nothing.
#![allow(
    clippy::cast_ptr_alignment,
    reason = "areas and frames are aligned to 16 bytes at least, and their words lie at multiples of their sizes"
)]

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::rc::Rc;
use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::entry::{FRAME, FRAME_MXCSR};
use super::{ThreadState, cpu, current};
use crate::process::Thread;
use crate::{Errno, Result};

/// x87, SSE, AVX, and the three parts of AVX-512.
const WANTED: u64 = 0b1110_0111;
/// Bytes of such a state in the standard form, where both makers' layouts end at the latest.
const SIZE: usize = 2688;
/// The legacy part and the header.
const LEGACY: usize = 512;
const HEADER_END: usize = 576;
/// Places in the legacy part.
const MXCSR: usize = 24;
const XMM: usize = 160;
const XMM_LEN: usize = 256;
/// Components of the header's first word.
const X87_AND_SSE: u64 = 3;
/// All bits of `mxcsr` that processors with SSE2 have.
const MXCSR_MASK: u32 = 0xffff;

/// Where a thread's state is kept; none before it is needed.
#[derive(Debug, Default)]
pub struct Area(Cell<usize>);

const LAYOUT: Layout = match Layout::from_size_align(SIZE, 64) {
    Ok(layout) => layout,
    Err(_) => panic!("a constant"),
};

impl Drop for Area {
    fn drop(&mut self) {
        let at = self.0.get();
        if at != 0 {
            // SAFETY: allocated with this layout, and not used by anyone else.
            unsafe { dealloc(at as *mut u8, LAYOUT) };
        }
    }
}

impl Area {
    /// The area, made if there is none: a state of zeroes, in which everything is as after `FNINIT`.
    fn get(&self) -> *mut u8 {
        if self.0.get() == 0 {
            // SAFETY: not of size zero.
            let at = unsafe { alloc_zeroed(LAYOUT) };
            if at.is_null() {
                alloc::alloc::handle_alloc_error(LAYOUT);
            }
            self.0.set(at as usize);
            // `mxcsr` is loaded whatever the header says, and an x87 control word of 0 would unmask exceptions.
            // SAFETY: inside of the area.
            unsafe { write_control_words(at) };
        }
        self.0.get() as *mut u8
    }
}

/// What the control words are at first.
///
/// # Safety
/// `area` is one of a thread.
unsafe fn write_control_words(area: *mut u8) {
    // SAFETY: inside of the area.
    unsafe {
        area.cast::<u16>().write(0x37f);
        area.add(MXCSR).cast::<u32>().write(super::entry::MXCSR);
    }
}

/// The components that this processor's system has turned on.
fn components() -> u64 {
    static COMPONENTS: AtomicU64 = AtomicU64::new(0);
    let known = COMPONENTS.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let (low, high): (u32, u32);
    // SAFETY: every processor with AVX has the instruction, and Linux has it turned on there.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    let found = (u64::from(high) << 32 | u64::from(low)) & WANTED;
    COMPONENTS.store(found, Ordering::Relaxed);
    found
}

/// # Safety
/// `to` is [`SIZE`] bytes, 64-byte aligned.
unsafe fn save(to: *mut u8) {
    let mask = components() as u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("xsave64 [{}]", in(reg) to, in("eax") mask, in("edx") 0, options(nostack));
    }
}

/// # Safety
/// `from` is a valid state. The vector registers are changed without the compiler's knowledge of their upper halves, which it does not use.
unsafe fn restore(from: *const u8) {
    let mask = components() as u32;
    // SAFETY: the caller's.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) from, in("eax") mask, in("edx") 0,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack));
        asm!("ldmxcsr [{}]", in(reg) &raw const super::entry::MXCSR, options(nostack));
    }
}

/// Makes the processor's state this thread's.
#[inline]
pub(super) fn own(thread: &Rc<Thread>) {
    // SAFETY: invariant 1.
    if unsafe { (*cpu()).fpu_owner } != Rc::as_ptr(thread) {
        take_over(thread);
    }
}

#[inline(never)]
fn take_over(thread: &Rc<Thread>) {
    let wanted = Rc::as_ptr(thread);
    // SAFETY: invariant 1; an owner is forgotten before it is dropped (`forget`).
    unsafe {
        let owner = (*cpu()).fpu_owner;
        if !owner.is_null() {
            save((*owner).arch.fpu.get());
        }
        restore(thread.arch.fpu.get());
        (*cpu()).fpu_owner = wanted;
    }
}

/// The state in the processor is nobody's if it was this thread's.
pub(super) fn forget(thread: *const Thread) {
    // SAFETY: invariant 1.
    unsafe {
        if (*cpu()).fpu_owner == thread {
            (*cpu()).fpu_owner = core::ptr::null();
        }
    }
}

/// The vector registers that a thread's entry has saved.
fn frame(state: &ThreadState) -> Option<*mut u8> {
    let stack = state.stack.get();
    (stack != 0).then(|| (super::switch::top(stack) - FRAME) as *mut u8)
}

/// Gives a new thread the state of the running one (`clone(2)`), or that of a program's start.
pub(super) fn inherit(thread: &Rc<Thread>) {
    let Some(to) = frame(&thread.arch) else {
        return;
    };
    let parent = current().and_then(|parent| Some((frame(&parent.arch)?, parent)));
    // SAFETY: both frames lie at the top of mapped kernel stacks; areas have their size.
    unsafe {
        if let Some((from, parent)) = parent {
            to.copy_from_nonoverlapping(from, FRAME as usize);
            own(&parent);
            save(thread.arch.fpu.get());
        } else {
            to.write_bytes(0, FRAME as usize);
            to.add(FRAME_MXCSR as usize)
                .cast::<u32>()
                .write(super::entry::MXCSR);
        }
    }
}

/// The `si_code` of a floating-point exception: the first that is raised and not masked.
pub(super) fn exception(thread: &Rc<Thread>, vector: u32) -> i32 {
    const SIMD: u32 = 19;
    const FPE_INTDIV: i32 = 3;
    let mut state = [0u8; LEGACY];
    crate::platform::fpu_state(thread, &mut state);
    let word = |at: usize| u32::from(u16::from_le_bytes([state[at], state[at + 1]]));
    let raised = if vector == SIMD {
        let mxcsr = word(MXCSR);
        mxcsr & !(mxcsr >> 7)
    } else {
        word(2) & !word(0)
    };
    // FPE_FLTDIV 3, FPE_FLTOVF 4, FPE_FLTUND 5, FPE_FLTRES 6, FPE_FLTINV 7.
    match raised {
        r if r & 1 != 0 => 7,
        r if r & 4 != 0 => FPE_INTDIV,
        r if r & 8 != 0 => 4,
        r if r & 0x12 != 0 => 5,
        r if r & 0x20 != 0 => 6,
        _ => 0,
    }
}

/// Writes the state of a thread that is in a call, in the standard form; returns its length.
pub(crate) fn state(thread: &Thread, to: &mut [u8]) -> usize {
    let Some(thread) = thread.myself.upgrade() else {
        return 0;
    };
    let Some(frame) = frame(&thread.arch) else {
        return 0;
    };
    let area = thread.arch.fpu.get();
    // SAFETY: invariant 1; the area is this thread's, of its size, and the frame is at the top of its stack.
    unsafe {
        if (*cpu()).fpu_owner == Rc::as_ptr(&thread) {
            save(area);
        }
        area.add(XMM).copy_from_nonoverlapping(frame, XMM_LEN);
        area.add(MXCSR)
            .copy_from_nonoverlapping(frame.add(FRAME_MXCSR as usize), 4);
        let header = area.add(LEGACY).cast::<u64>();
        header.write(header.read() | X87_AND_SSE);
        let len = to.len().min(length());
        to.as_mut_ptr().copy_from_nonoverlapping(area, len);
        len
    }
}

/// Bytes of the state with the components that are turned on.
fn length() -> usize {
    match components() {
        c if c & 0b1110_0000 != 0 => SIZE,
        c if c & 0b100 != 0 => 832,
        _ => HEADER_END,
    }
}

/// Replaces it: with all of a state, or with its legacy part only.
pub(crate) fn set_state(thread: &Thread, from: &[u8]) -> Result {
    let Some(frame) = frame(&thread.arch) else {
        return Err(Errno::EINVAL);
    };
    let Some(legacy) = from.get(..LEGACY) else {
        return Err(Errno::EINVAL);
    };
    let area = thread.arch.fpu.get();
    let whole = from.len() >= HEADER_END;
    let rest = from.get(HEADER_END..).unwrap_or_default();
    let rest = &rest[..rest.len().min(SIZE - HEADER_END)];
    forget(thread);
    // SAFETY: all inside of the area or the frame; the header is made of bits that the processor takes, and `mxcsr` too.
    unsafe {
        area.copy_from_nonoverlapping(legacy.as_ptr(), LEGACY);
        area.add(LEGACY).write_bytes(0, SIZE - LEGACY);
        area.add(HEADER_END)
            .copy_from_nonoverlapping(rest.as_ptr(), rest.len());
        let mut present = X87_AND_SSE;
        if whole {
            let mut word = [0; 8];
            word.copy_from_slice(&from[LEGACY..LEGACY + 8]);
            present = u64::from_le_bytes(word);
            if rest.len() < SIZE - HEADER_END {
                present &= if rest.len() >= 256 { 0b111 } else { 0b11 };
            }
        }
        if present & 2 == 0 {
            area.add(XMM).write_bytes(0, XMM_LEN);
        }
        let mxcsr = area.add(MXCSR).cast::<u32>();
        mxcsr.write(mxcsr.read() & MXCSR_MASK);
        area.add(LEGACY).cast::<u64>().write(present & components());
        frame.copy_from_nonoverlapping(area.add(XMM), XMM_LEN);
        frame
            .add(FRAME_MXCSR as usize)
            .copy_from_nonoverlapping(area.add(MXCSR), 4);
    }
    Ok(())
}

/// Gives a thread that is in a call the state that programs start with.
pub(crate) fn clear_state(thread: &Thread) {
    let Some(frame) = frame(&thread.arch) else {
        return;
    };
    let area = thread.arch.fpu.get();
    forget(thread);
    // SAFETY: all inside of the area or the frame. Components that the header does not name are loaded as they are at first, whatever the
    // area has of them.
    unsafe {
        area.write_bytes(0, XMM);
        write_control_words(area);
        area.add(LEGACY).cast::<u64>().write(0);
        frame.write_bytes(0, XMM_LEN);
        frame
            .add(FRAME_MXCSR as usize)
            .cast::<u32>()
            .write(super::entry::MXCSR);
    }
}
