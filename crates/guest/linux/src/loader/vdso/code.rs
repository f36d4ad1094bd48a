//! The functions of the vDSO.
//!
//! They run in the program's place: with its stack and registers, at an address that the linker does not know, so they refer to nothing but
//! the page with the time, which lies at a fixed distance in front of them. They keep to the C calling convention and touch neither the
//! vector registers nor anything below the stack pointer.

use core::arch::global_asm;

use super::data::{SHIFT, offset};
use super::image::{CODE, Function};

// `kiln_vdso_now`: monotonic nanoseconds in rax, the wall clock's offset in r10; jumps to its argument if there is no answer. rcx, rdx, r8, r9
// and the flags are lost.
global_asm!(
    ".pushsection .rodata.kiln_vdso, \"a\", @progbits",
    ".balign 16",
    ".globl kiln_vdso_start",
    ".hidden kiln_vdso_start",
    "kiln_vdso_start:",
    ".macro kiln_vdso_now otherwise",
    "lea r8, [rip + kiln_vdso_start - {distance}]",
    "11:",
    "mov r9, [r8 + {sequence}]",
    "test r9b, 1",
    "jnz 11b",
    "cmp qword ptr [r8 + {valid}], 0",
    "je \\otherwise",
    // The counter is not read before what was asked for earlier is there.
    "lfence",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, [r8 + {counter}]",
    "jae 12f",
    "xor eax, eax",
    "12:",
    "mul qword ptr [r8 + {scale}]",
    "shrd rax, rdx, {shift}",
    "add rax, [r8 + {monotonic}]",
    "mov rcx, [r8 + {floor}]",
    "cmp rax, rcx",
    "cmovb rax, rcx",
    "mov r10, [r8 + {wall}]",
    "cmp r9, [r8 + {sequence}]",
    "jne 11b",
    ".endm",
    // Splits the nanoseconds in rax into seconds in rdx and the rest in rcx: rdx = rax / 512 * (2^75 / 10^9 * 512) / 2^75.
    ".macro kiln_vdso_split",
    "mov rcx, rax",
    "shr rax, 9",
    "movabs rdx, 0x44b82fa09b5a53",
    "mul rdx",
    "shr rdx, 11",
    "imul rax, rdx, 1000000000",
    "sub rcx, rax",
    ".endm",
    // int clock_gettime(clockid_t rdi, struct timespec *rsi)
    ".balign 16",
    ".globl kiln_vdso_clock_gettime",
    ".hidden kiln_vdso_clock_gettime",
    "kiln_vdso_clock_gettime:",
    "cmp edi, 11",
    "ja 29f",
    // REALTIME, MONOTONIC, MONOTONIC_RAW, REALTIME_COARSE, MONOTONIC_COARSE, BOOTTIME, TAI
    "mov ecx, 0x8f3",
    "bt ecx, edi",
    "jnc 29f",
    "kiln_vdso_now 29f",
    // Those that do not tell the wall clock's time.
    "mov ecx, 0xd2",
    "bt ecx, edi",
    "jc 21f",
    "add rax, r10",
    "21:",
    "kiln_vdso_split",
    "mov [rsi], rdx",
    "mov [rsi + 8], rcx",
    "xor eax, eax",
    "ret",
    "29:",
    "mov eax, 228",
    "syscall",
    "ret",
    // int clock_getres(clockid_t rdi, struct timespec *rsi): 1 ns, but of the coarse ones and others the call knows.
    ".balign 16",
    ".globl kiln_vdso_clock_getres",
    ".hidden kiln_vdso_clock_getres",
    "kiln_vdso_clock_getres:",
    "cmp edi, 11",
    "ja 39f",
    "mov ecx, 0x893",
    "bt ecx, edi",
    "jnc 39f",
    "test rsi, rsi",
    "jz 31f",
    "mov qword ptr [rsi], 0",
    "mov qword ptr [rsi + 8], 1",
    "31:",
    "xor eax, eax",
    "ret",
    "39:",
    "mov eax, 229",
    "syscall",
    "ret",
    // int gettimeofday(struct timeval *rdi, struct timezone *rsi)
    ".balign 16",
    ".globl kiln_vdso_gettimeofday",
    ".hidden kiln_vdso_gettimeofday",
    "kiln_vdso_gettimeofday:",
    "test rdi, rdi",
    "jz 41f",
    "kiln_vdso_now 49f",
    "add rax, r10",
    "kiln_vdso_split",
    "mov [rdi], rdx",
    // Microseconds: the rest is below 2^30, and 274877907 / 2^38 is a thousandth.
    "imul rcx, rcx, 274877907",
    "shr rcx, 38",
    "mov [rdi + 8], rcx",
    "41:",
    "test rsi, rsi",
    "jz 42f",
    "mov qword ptr [rsi], 0",
    "42:",
    "xor eax, eax",
    "ret",
    "49:",
    "mov eax, 96",
    "syscall",
    "ret",
    // time_t time(time_t *rdi)
    ".balign 16",
    ".globl kiln_vdso_time",
    ".hidden kiln_vdso_time",
    "kiln_vdso_time:",
    "kiln_vdso_now 59f",
    "add rax, r10",
    "kiln_vdso_split",
    "mov rax, rdx",
    "test rdi, rdi",
    "jz 51f",
    "mov [rdi], rax",
    "51:",
    "ret",
    "59:",
    "mov eax, 201",
    "syscall",
    "ret",
    // int getcpu(unsigned *rdi, unsigned *rsi): there is one.
    ".balign 16",
    ".globl kiln_vdso_getcpu",
    ".hidden kiln_vdso_getcpu",
    "kiln_vdso_getcpu:",
    "test rdi, rdi",
    "jz 61f",
    "mov dword ptr [rdi], 0",
    "61:",
    "test rsi, rsi",
    "jz 62f",
    "mov dword ptr [rsi], 0",
    "62:",
    "xor eax, eax",
    "ret",
    ".balign 16",
    ".globl kiln_vdso_end",
    ".hidden kiln_vdso_end",
    "kiln_vdso_end:",
    ".popsection",
    distance = const CODE + 4096,
    sequence = const offset::SEQUENCE,
    valid = const offset::VALID,
    counter = const offset::COUNTER,
    scale = const offset::SCALE,
    monotonic = const offset::MONOTONIC,
    wall = const offset::WALL,
    floor = const offset::FLOOR,
    shift = const SHIFT,
);

unsafe extern "C" {
    static kiln_vdso_start: u8;
    static kiln_vdso_clock_gettime: u8;
    static kiln_vdso_clock_getres: u8;
    static kiln_vdso_gettimeofday: u8;
    static kiln_vdso_time: u8;
    static kiln_vdso_getcpu: u8;
    static kiln_vdso_end: u8;
}

/// The code with all its functions, in the order of their addresses.
pub fn functions() -> Functions {
    let places = [
        &raw const kiln_vdso_clock_gettime,
        &raw const kiln_vdso_clock_getres,
        &raw const kiln_vdso_gettimeofday,
        &raw const kiln_vdso_time,
        &raw const kiln_vdso_getcpu,
        &raw const kiln_vdso_end,
    ];
    let start = &raw const kiln_vdso_start;
    let offsets = places.map(|place| place as usize - start as usize);
    // SAFETY: all between the two symbols is initialized read-only data.
    let bytes = unsafe { core::slice::from_raw_parts(start, offsets[5]) };
    let function = |name, index: usize| Function {
        name,
        offset: offsets[index],
        len: offsets[index + 1] - offsets[index],
    };
    Functions {
        bytes,
        all: [
            function("clock_gettime", 0),
            function("clock_getres", 1),
            function("gettimeofday", 2),
            function("time", 3),
            function("getcpu", 4),
        ],
    }
}

/// The code and what is in it.
#[derive(Debug)]
pub struct Functions {
    /// The code.
    pub bytes: &'static [u8],
    /// Its functions.
    pub all: [Function; 5],
}
