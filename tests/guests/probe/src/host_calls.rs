//! System calls of the host, made by the program itself.
//!
//! Code outside the monitor's gate has none at all. Code that jumps into the gate, behind all of the gate's own checks,
//! has those on the list with the arguments on the list, and no other.

use core::arch::asm;

use kiln::println;
use kiln_rt::boot;

pub fn run(case: &str, args: &[&'static str]) -> Option<u8> {
    match case {
        "syscall" => {
            let result = syscall(crate::number(args, 0));
            println!("SURVIVED with {result}");
        }
        "int80" => {
            let result: u64;
            // SAFETY: 20 is getpid for 32-bit programs; nothing is touched.
            unsafe { asm!("int 0x80", inout("rax") 20u64 => result) };
            println!("SURVIVED with {result}");
        }
        "sysenter" => {
            // SAFETY: a system call of 32-bit programs; whatever happens does not come back here.
            unsafe { asm!("sysenter", in("rax") 20u64, options(noreturn)) };
        }
        "gate-syscall" => {
            let mut words = [0u64; 6];
            for (index, word) in words.iter_mut().enumerate().take(args.len()) {
                *word = match args[index] {
                    "text" | "heap" | "boot" | "gate" => {
                        crate::places::address(args[index]) & !4095
                    }
                    _ => crate::number(args, index),
                };
            }
            let result = through_gate(words);
            println!("SURVIVED with {result}");
        }
        _ => return None,
    }
    Some(1)
}

fn syscall(number: u64) -> i64 {
    let result: i64;
    // SAFETY: with null arguments no call that exists touches memory.
    unsafe {
        asm!("syscall", inout("rax") number.cast_signed() => result, in("rdi") 0, in("rsi") 0, in("rdx") 0,
             out("rcx") _, out("r11") _);
    }
    result
}

/// Makes a system call with an instruction of the gate's own, found by looking for it.
fn through_gate([number, first, second, third, fourth, fifth]: [u64; 6]) -> i64 {
    let start = boot::info().enter & !4095;
    let code = start as *const [u8; 2];
    // SAFETY: the gate's code is readable from the start of its page on for at least a page, and has such an
    // instruction; should it not be found, the walk ends in a fault.
    let found = (0..).map(|n| unsafe { code.cast::<u8>().add(n) });
    let instruction = found
        .map(|at| at as u64)
        // SAFETY: as above.
        .find(|&at| unsafe { (at as *const [u8; 2]).read_unaligned() } == [0x0f, 0x05])
        .expect("a walk without end");
    println!("gate instruction found");
    let result: i64;
    // SAFETY: jumps to a `syscall` of the gate. What follows it there is the end of a small function, which returns to
    // the address pushed here as long as it only pops what it saved; the tests expect not to come back at all.
    unsafe {
        asm!("call {0}", in(reg) instruction, inout("rax") number.cast_signed() => result, in("rdi") first, in("rsi") second,
             in("rdx") third, in("r10") fourth, in("r8") fifth, clobber_abi("C"));
    }
    result
}
