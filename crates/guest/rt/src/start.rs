//! The first instructions of a guest, and the order in which everything starts.
//!
//! 1. `_kiln_start` (assembly): collects the addresses that relocation needs, all relative to the instruction pointer.
//! 2. Relocation: makes the image's pointers fit the address it was loaded at.
//! 3. Order: boot record, monitor, traps, relocated constants made read-only, heap, generator.
//! 4. The program's `main`, as the first task.

use core::sync::atomic::{AtomicU64, Ordering};

use kiln_abi::ExitReason;
use kiln_abi::op::Op;
use kiln_abi::op::Segment;

use crate::{console, monitor};

/// What a program's `main` may return.
pub trait Termination {
    /// The exit code, and what to say about it.
    fn report(self) -> u8;
}

impl Termination for () {
    fn report(self) -> u8 {
        0
    }
}

impl Termination for u8 {
    fn report(self) -> u8 {
        self
    }
}

impl Termination for core::convert::Infallible {
    fn report(self) -> u8 {
        match self {}
    }
}

impl<T: Termination, E: core::fmt::Debug> Termination for Result<T, E> {
    fn report(self) -> u8 {
        match self {
            Ok(value) => value.report(),
            Err(error) => {
                console::print(format_args!("Error: {error:?}\n"));
                1
            }
        }
    }
}

/// How far the guest had come at a reading of the time-stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// The first instruction.
    First,
    /// The image's pointers fit its address.
    Relocated,
    /// The monitor was called for the first time: traps registered, constants sealed.
    Sealed,
    /// The heap has its memory and the generator its seed.
    Ready,
}

const STAGES: usize = 4;

static TIMES: [AtomicU64; STAGES] = [const { AtomicU64::new(0) }; STAGES];

/// When a stage of the start was reached, in ticks of the time-stamp counter. What lies between the last and a reading
/// in `main` is the making of the program's first task.
pub fn reached(stage: Stage) -> u64 {
    TIMES[stage as usize].load(Ordering::Relaxed)
}

#[cfg(kiln_guest)]
fn reach(stage: Stage, ticks: u64) {
    TIMES[stage as usize].store(ticks, Ordering::Relaxed);
}

/// Ends the guest with an exit code, of which a shell sees the low 8 bits. What was printed appears, nothing is dropped.
pub fn exit(code: u8) -> ! {
    end(ExitReason::Exit, code.into(), &[], "")
}

/// Ends the guest.
pub(crate) fn end(reason: ExitReason, code: u32, frames: &[u64], message: &str) -> ! {
    console::flush_at_end();
    let exit = Op::Exit {
        reason: reason as u32,
        code,
        frames: Segment {
            addr: frames.as_ptr() as u64,
            len: size_of_val(frames) as u64,
        },
        message: Segment {
            addr: message.as_ptr() as u64,
            len: message.len() as u64,
        },
    };
    loop {
        monitor::perform(&mut [exit.encode()]);
    }
}

#[cfg(kiln_guest)]
mod entry {
    use core::arch::global_asm;

    use kiln_abi::boot::MAGIC;
    use kiln_abi::op::{Protection, RawOp};
    use kiln_abi::{BootInfo, VERSION};

    use super::{ExitReason, Op, Segment, Stage, end, reach};
    use crate::{boot, memory, monitor, random, time, trap};

    global_asm!(
        ".pushsection .text._kiln_start,\"ax\",@progbits",
        ".globl _kiln_start",
        ".hidden _kiln_start",
        "_kiln_start:",
        "xor ebp, ebp",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "lea rsi, [rip + __kiln_image_start]",
        "lea rdx, [rip + __kiln_rela_start]",
        "lea rcx, [rip + __kiln_rela_end]",
        "lea r8, [rip + __kiln_relr_start]",
        "lea r9, [rip + __kiln_relr_end]",
        // The seventh argument, and the alignment that a call leaves.
        "push rax",
        "push 0",
        "jmp {relocate}",
        ".popsection",
        relocate = sym relocate,
    );

    #[repr(C)]
    struct Rela {
        offset: u64,
        info: u64,
        addend: u64,
    }

    const R_X86_64_RELATIVE: u64 = 8;

    /// Applies the image's relocations (System V gABI: `Elf64_Rela`, and `Elf64_Relr` of its 2022 draft).
    ///
    /// Until it is done, no address may be read from memory: the code sticks to its arguments.
    ///
    /// # Safety
    /// Called once, by the first instructions, with the addresses of the image and its tables.
    unsafe extern "C" fn relocate(
        boot: *const BootInfo,
        image: u64,
        mut table: *const Rela,
        table_end: *const Rela,
        mut packed: *const u64,
        packed_end: *const u64,
        began: u64,
    ) -> ! {
        let fix = |address: u64| {
            let place = address as *mut u64;
            // SAFETY: the linker's tables name words in the image's relro and data segments, which are writable.
            unsafe { place.write_volatile(place.read_volatile().wrapping_add(image)) };
        };
        // SAFETY: both tables lie in the image, between the given addresses.
        unsafe {
            while table < table_end {
                if (*table).info == R_X86_64_RELATIVE {
                    let place = image.wrapping_add((*table).offset) as *mut u64;
                    place.write_volatile(image.wrapping_add((*table).addend));
                }
                table = table.add(1);
            }
            let mut next = 0u64;
            while packed < packed_end {
                let entry = *packed;
                packed = packed.add(1);
                if entry & 1 == 0 {
                    fix(image.wrapping_add(entry));
                    next = image.wrapping_add(entry).wrapping_add(8);
                    continue;
                }
                let mut bits = entry >> 1;
                let mut place = next;
                while bits != 0 {
                    if bits & 1 != 0 {
                        fix(place);
                    }
                    bits >>= 1;
                    place = place.wrapping_add(8);
                }
                next = next.wrapping_add(63 * 8);
            }
            begin(boot, began)
        }
    }

    unsafe extern "C" {
        static __kiln_relro_start: u8;
        static __kiln_relro_end: u8;
    }

    unsafe extern "Rust" {
        /// Defined by `#[kiln::main]`.
        fn __kiln_main() -> u8;
    }

    /// Everything between relocation and the program.
    ///
    /// # Safety
    /// Called once, after relocation, with the address that the monitor gave.
    unsafe fn begin(record: *const BootInfo, began: u64) -> ! {
        reach(Stage::First, began);
        reach(Stage::Relocated, time::ticks());
        // SAFETY: the monitor's promise (`kiln_abi::boot`): a readable record.
        let info: &'static BootInfo = unsafe { &*record };
        if info.magic != MAGIC || info.enter == 0 {
            // There is nobody to complain to.
            loop {
                core::hint::spin_loop();
            }
        }
        // SAFETY: the record is the monitor's.
        unsafe { monitor::install(info) };
        if info.version != VERSION || (info.size as usize) < size_of::<BootInfo>() {
            end(ExitReason::Boot, 125, &[], "another version of the ABI");
        }
        // SAFETY: as above; every address in it lies in ranges that the monitor mapped.
        unsafe { boot::install(info) };
        time::start(info);
        // Only the addresses of the linker's symbols mean something.
        let (relro, relro_end) = (
            &raw const __kiln_relro_start as u64,
            &raw const __kiln_relro_end as u64,
        );
        let seal = Op::MemoryProtect {
            range: Segment {
                addr: relro,
                len: relro_end - relro,
            },
            protection: Protection::Read,
        };
        let mut first: [RawOp; 2] = [trap::registration(info).encode(), seal.encode()];
        let first = if relro == relro_end {
            &mut first[..1]
        } else {
            &mut first[..]
        };
        monitor::perform(first);
        if first.iter().any(|op| op.outcome().is_err()) {
            end(
                ExitReason::Boot,
                125,
                &[],
                "trap handler or sealed pages refused",
            );
        }
        reach(Stage::Sealed, time::ticks());
        // SAFETY: the free range is zeroed, writable, and nobody else's.
        unsafe { memory::install(info) };
        random::install(&info.entropy);
        reach(Stage::Ready, time::ticks());
        // SAFETY: a safe function with a name of its own; the macro that defines it writes this signature.
        let code = unsafe { __kiln_main() };
        super::exit(code)
    }
}
