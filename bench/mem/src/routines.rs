//! The memory routines, size by size.
//!
//! Both sides are called through pointers the compiler cannot see through, as a guest calls them
//! through symbols. The mixed tables draw sizes from a distribution of small ones, where branch
//! prediction counts; the others repeat one size.

use std::arch::asm;
use std::hint::black_box;

use crate::timing::{duel_with, head, row};

const SIZES: [usize; 28] = [
    1,
    2,
    4,
    7,
    8,
    15,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    160,
    192,
    256,
    384,
    512,
    768,
    1024,
    2048,
    4096,
    8192,
    16384,
    65536,
    131_072,
    262_144,
    1 << 20,
];
const BUFFER: usize = (1 << 20) + 8192;

type Copy = unsafe extern "C" fn(*mut u8, *const u8, usize) -> *mut u8;
type Fill = unsafe extern "C" fn(*mut u8, i32, usize) -> *mut u8;
type Compare = unsafe extern "C" fn(*const u8, *const u8, usize) -> i32;
type Length = unsafe extern "C" fn(*const u8) -> usize;

/// The C library's routine of this name and type.
///
/// The C library picks its routines for the processor when the program starts. In a static program
/// their plain address is a stub that jumps to the choice; the global offset table holds the choice
/// itself, so that it is not charged for the stub.
macro_rules! c_library {
    ($name:ident: $routine:ty) => {{
        unsafe extern "C" {
            fn $name();
        }
        let choice: $routine;
        // SAFETY: reads the program's own table, whose entry is this routine; the C standard says
        // that it has this type.
        unsafe {
            asm!("mov {}, qword ptr [rip + {}@GOTPCREL]", out(reg) choice, sym $name,
                options(pure, readonly, nostack, preserves_flags));
        }
        choice
    }};
}

/// Hides where `n` came from, in a register. `black_box` goes through the stack, which now and then
/// lies so that the processor takes the buffer's stores for stores to the same place and waits.
#[inline]
fn hidden(mut n: usize) -> usize {
    // SAFETY: the assembly is empty.
    unsafe { asm!("/* {0} */", inout(reg) n, options(nomem, nostack, preserves_flags)) };
    n
}

/// Buffers are made of pages, so that offsets below say all about alignment.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

pub fn run() {
    let mut a = vec![Page([1; 4096]); BUFFER / 4096];
    let mut b = a.clone();
    let (a, b) = (a.as_mut_ptr().cast::<u8>(), b.as_mut_ptr().cast::<u8>());
    let c_copy = c_library!(memcpy: Copy);
    let c_move = c_library!(memmove: Copy);
    let c_fill = c_library!(memset: Fill);
    let c_compare = c_library!(memcmp: Compare);
    let c_length = c_library!(strlen: Length);
    // The routines learn what the processor has from the first long range.
    // SAFETY: both buffers are this long.
    unsafe { kiln_mem::copy(a, b, BUFFER) };
    copies("memcpy aligned", a, b, c_copy);
    copies(
        "memcpy unaligned",
        a.wrapping_add(3),
        b.wrapping_add(9),
        c_copy,
    );
    copies("memmove up by 24", a.wrapping_add(24), a, c_move);
    copies("memmove down by 24", a, a.wrapping_add(24), c_move);
    mixed_copies(a, b, c_copy);
    fills("memset aligned", a, c_fill);
    fills("memset unaligned", a.wrapping_add(3), c_fill);
    mixed_fills(a, c_fill);
    // SAFETY: the buffer is ours.
    unsafe { a.write_bytes(1, BUFFER) };
    compares("memcmp equal", a, b, c_compare);
    compares(
        "memcmp unaligned",
        a.wrapping_add(3),
        b.wrapping_add(9),
        c_compare,
    );
    mixed_compares(a, b, c_compare);
    lengths("strlen aligned", a, c_length);
    lengths("strlen unaligned", a.wrapping_add(3), c_length);
}

fn copies(title: &str, dst: *mut u8, src: *const u8, c: Copy) {
    head(title);
    let (kiln, c) = (black_box(kiln_mem::copy as Copy), black_box(c));
    for n in SIZES {
        // SAFETY: both buffers hold `n` bytes behind the small offsets in use.
        let times = unsafe { duel_with(kiln, c, |copy| _ = copy(dst, src, hidden(n))) };
        row(&n.to_string(), times);
    }
}

fn fills(title: &str, dst: *mut u8, c: Fill) {
    head(title);
    let (kiln, c) = (black_box(kiln_mem::fill as Fill), black_box(c));
    for n in SIZES {
        // SAFETY: the buffer holds `n` bytes behind the small offset in use.
        let times = unsafe { duel_with(kiln, c, |fill| _ = fill(dst, 1, hidden(n))) };
        row(&n.to_string(), times);
    }
}

fn compares(title: &str, a: *const u8, b: *const u8, c: Compare) {
    head(title);
    let (kiln, c) = (black_box(kiln_mem::compare as Compare), black_box(c));
    for n in SIZES {
        // SAFETY: both buffers hold `n` bytes behind the small offsets in use.
        let times = unsafe { duel_with(kiln, c, |compare| _ = compare(a, b, hidden(n))) };
        row(&n.to_string(), times);
    }
}

/// Copies of mixed sizes.
fn mixed_copies(dst: *mut u8, src: *const u8, c: Copy) {
    head("memcpy mixed, up to");
    mixed(kiln_mem::copy as Copy, c, |copy, n| {
        // SAFETY: both buffers are longer than the largest size drawn.
        unsafe { copy(dst, src, n) };
    });
}

/// Fills of mixed sizes.
fn mixed_fills(dst: *mut u8, c: Fill) {
    head("memset mixed, up to");
    mixed(kiln_mem::fill as Fill, c, |fill, n| {
        // SAFETY: the buffer is longer than the largest size drawn.
        unsafe { fill(dst, 1, n) };
    });
}

/// Comparisons of mixed sizes that find no difference.
fn mixed_compares(a: *const u8, b: *const u8, c: Compare) {
    head("memcmp mixed, up to");
    mixed(kiln_mem::compare as Compare, c, |compare, n| {
        // SAFETY: both buffers are longer than the largest size drawn.
        unsafe { compare(a, b, n) };
    });
}

/// One row per limit, with sizes drawn from 1 to the limit, smaller ones more often.
fn mixed<R: std::marker::Copy>(kiln: R, c: R, operation: impl Fn(R, usize)) {
    let (kiln, c) = (black_box(kiln), black_box(c));
    for limit in [16, 64, 256, 1024, 4096] {
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize
        };
        let sizes: Vec<usize> = (0..1024)
            .map(|_| 1 + random() % (1 + random() % limit))
            .collect();
        let (kiln, c) = duel_with(kiln, c, |routine| {
            for &n in &sizes {
                operation(routine, n);
            }
        });
        row(&limit.to_string(), (kiln / 1024.0, c / 1024.0));
    }
}

fn lengths(title: &str, text: *mut u8, c: Length) {
    head(title);
    let (kiln, c) = (black_box(kiln_mem::length as Length), black_box(c));
    for n in SIZES {
        // SAFETY: the buffer is longer than `n` and gets its terminator here.
        let times = unsafe {
            text.write_bytes(1, n);
            *text.add(n) = 0;
            duel_with(kiln, c, |length| _ = length(text))
        };
        row(&n.to_string(), times);
    }
}
