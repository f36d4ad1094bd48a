//! Accesses that must fault, and the processor's other exceptions.
//!
//! `touch ACCESS PLACE` reads, writes or executes one place; a place that lets it happen prints `SURVIVED`.

#![allow(
    clippy::missing_transmute_annotations,
    reason = "the function type is spelled out at the binding"
)]

use core::arch::asm;
use core::hint::black_box;

use kiln::println;

use crate::places;

pub fn run(case: &str, args: &[&'static str]) -> Option<u8> {
    match case {
        "touch" => touch(args[0], args[1]),
        "stack-overflow" => println!("{}", recurse(0)),
        "divide" => {
            // SAFETY: faults; nothing is touched.
            unsafe { asm!("div {0:e}", in(reg) 0u32, inout("eax") 1 => _, inout("edx") 0 => _) }
        }
        // SAFETY: faults; nothing is touched.
        "undefined" => unsafe { asm!("ud2") },
        // SAFETY: as above.
        "breakpoint" => unsafe { asm!("int3") },
        // SAFETY: as above.
        "halt" => unsafe { asm!("hlt") },
        // SAFETY: as above.
        "port" => unsafe { asm!("out dx, al", in("dx") 0x80u16, in("al") 0u8) },
        "unmasked-float" => {
            let unmasked = 0u32;
            // SAFETY: unmasks the floating-point exceptions; the division that follows faults.
            unsafe {
                asm!("ldmxcsr [{0}]", "divss xmm0, xmm1", in(reg) &raw const unmasked,
                     in("xmm0") 1.0f32, in("xmm1") 0.0f32);
            }
        }
        // A stack pointer that points nowhere: the trap must not be delivered on it.
        // SAFETY: faults at the push.
        "bad-stack" => unsafe { asm!("mov rsp, 0x1000", "push rax", options(noreturn)) },
        // A frame pointer that points nowhere: the backtrace must not follow it.
        // SAFETY: faults at once; the frame pointer is not used before.
        "bad-frame" => unsafe { asm!("mov rbp, 0x4141414141414141", "ud2", options(noreturn)) },
        // A chain of frames that points at itself.
        // SAFETY: as above; the two words lie on this stack.
        "frame-loop" => unsafe {
            asm!(
                "push rsp",
                "mov rbp, rsp",
                "mov [rsp], rsp",
                "ud2",
                options(noreturn)
            )
        },
        _ => return None,
    }
    println!("SURVIVED");
    Some(1)
}

/// Prints what it read, so that the access cannot be left out.
fn touch(access: &str, place: &str) {
    let address = places::address(place);
    println!("about to {access} {place}");
    match access {
        "read" => {
            // SAFETY: none: the access is what is tested.
            let value = unsafe { (address as *const u8).read_volatile() };
            println!("read {value}");
        }
        "write" => {
            // SAFETY: none: the access is what is tested.
            unsafe { (address as *mut u8).write_volatile(0) };
        }
        "exec" => {
            // SAFETY: none: the access is what is tested.
            let function: extern "C" fn() = unsafe { core::mem::transmute(address) };
            function();
        }
        _ => panic!("no access {access:?}"),
    }
}

/// Every level needs a kilobyte of stack and the result of the next.
#[allow(unconditional_recursion, reason = "that is the point")]
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    recurse(depth + 1) + frame[(depth % 128) as usize]
}
