//! Preemption ticks: a trap entry of the program's own that counts them and goes back to what was interrupted.

use core::arch::global_asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use kiln::println;
use kiln::time::{Duration, now};
use kiln_abi::boot::MemoryKind;
use kiln_abi::op::{Op, OpError, Segment};
use kiln_abi::trap::TrapFrame;
use kiln_abi::{Call, RawOp};

use crate::places;

static COUNT: AtomicU64 = AtomicU64::new(0);

// The frame is loaded back by hand: what must come last (rax, rdi, flags, instruction pointer) is put below the red zone
// of the interrupted stack and popped from there.
global_asm!(
    "probe_tick:",
    "cmp dword ptr [rdi + {vector}], {tick}",
    "jne 2f",
    "lock inc qword ptr [rip + {count}]",
    "mov rax, [rdi + 56]",
    "sub rax, 128",
    "mov rcx, [rdi + {rip}]",
    "mov [rax - 8], rcx",
    "mov rcx, [rdi + {rflags}]",
    "mov [rax - 16], rcx",
    "mov rcx, [rdi + 40]",
    "mov [rax - 24], rcx",
    "mov rcx, [rdi]",
    "mov [rax - 32], rcx",
    "mov rbx, [rdi + 8]",
    "mov rcx, [rdi + 16]",
    "mov rdx, [rdi + 24]",
    "mov rsi, [rdi + 32]",
    "mov rbp, [rdi + 48]",
    "mov r8, [rdi + 64]",
    "mov r9, [rdi + 72]",
    "mov r10, [rdi + 80]",
    "mov r11, [rdi + 88]",
    "mov r12, [rdi + 96]",
    "mov r13, [rdi + 104]",
    "mov r14, [rdi + 112]",
    "mov r15, [rdi + 120]",
    "lea rsp, [rax - 32]",
    "pop rax",
    "pop rdi",
    "popfq",
    "ret 128",
    "2:",
    "ud2",
    vector = const core::mem::offset_of!(TrapFrame, vector),
    rip = const core::mem::offset_of!(TrapFrame, rip),
    rflags = const core::mem::offset_of!(TrapFrame, rflags),
    tick = const TrapFrame::TICK,
    count = sym COUNT,
);

unsafe extern "C" {
    fn probe_tick();
}

pub fn run(case: &str) -> Option<u8> {
    match case {
        "ticks" => ticks(),
        _ => return None,
    }
    Some(0)
}

fn perform(op: Op) -> Result<u64, OpError> {
    let mut op: RawOp = op.encode();
    let mut call = Call {
        ops: &raw mut op as u64,
        count: 1,
        ..Call::default()
    };
    // SAFETY: the operation outlives the call; the entry and stack it may name are good ones.
    unsafe { kiln_rt::monitor::enter(&mut call) };
    op.outcome()
}

fn ticks() {
    let range = places::range(MemoryKind::TrapStack);
    let stack = Segment {
        addr: range.start,
        len: range.len,
    };
    let entry = probe_tick as *const () as u64;
    assert_eq!(perform(Op::SetTrap { entry, stack }), Ok(0));
    let undisturbed = work();

    assert_eq!(perform(Op::Tick { period: 1_000_000 }), Ok(0));
    let start = now();
    let mut rounds = 0;
    while now() - start < Duration::from_millis(300) {
        assert_eq!(work(), undisturbed, "a tick changed a register");
        rounds += 1;
    }
    assert_eq!(perform(Op::Tick { period: 0 }), Ok(0));
    let counted = COUNT.load(Ordering::Relaxed);
    println!("ticks={counted} rounds={rounds}");
    let stopped = now();
    while now() - stopped < Duration::from_millis(20) {
        black_box(work());
    }
    assert_eq!(
        COUNT.load(Ordering::Relaxed),
        counted,
        "ticks go on after they were stopped"
    );
}

/// Keeps many registers busy, floating-point ones too.
#[inline(never)]
fn work() -> (u64, u64) {
    let mut words = black_box([1u64, 2, 3, 4, 5, 6, 7, 8]);
    let mut floats = black_box([1.0f64, 1.25, 1.5, 1.75]);
    for step in 0..20_000u64 {
        for index in 0..8 {
            words[index] = words[index].rotate_left(7) ^ words[(index + 3) % 8].wrapping_add(step);
        }
        for (index, float) in (0u32..).zip(&mut floats) {
            *float = *float * 0.999 + f64::from(index);
        }
    }
    let words = words.iter().fold(0, |sum: u64, w| sum.wrapping_mul(31) ^ w);
    (words, floats.iter().fold(0, |sum, f| sum ^ f.to_bits()))
}
