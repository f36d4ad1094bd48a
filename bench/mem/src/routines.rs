//! The memory routines, size by size.
//!
//! Both sides are called through pointers the compiler cannot see through, as a guest calls them
//! through symbols. The mixed table draws sizes from a distribution of small ones, where branch
//! prediction counts; the others repeat one size.

use std::ffi::c_void;
use std::hint::black_box;

use crate::timing::{duel, head, row};

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

unsafe extern "C" {
    fn memcpy(dst: *mut c_void, src: *const c_void, n: usize) -> *mut c_void;
    fn memmove(dst: *mut c_void, src: *const c_void, n: usize) -> *mut c_void;
    fn memset(dst: *mut c_void, value: i32, n: usize) -> *mut c_void;
    fn memcmp(a: *const c_void, b: *const c_void, n: usize) -> i32;
    fn strlen(text: *const i8) -> usize;
}

/// Buffers are made of pages, so that offsets below say all about alignment.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

pub fn run() {
    let mut a = vec![Page([1; 4096]); BUFFER / 4096];
    let mut b = a.clone();
    let (a, b) = (a.as_mut_ptr().cast::<u8>(), b.as_mut_ptr().cast::<u8>());
    // SAFETY: the C library's routines have these types up to the kind of pointer.
    let (c_copy, c_move, c_fill, c_compare) = unsafe {
        use std::mem::transmute as cast;
        type C3 = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void;
        (
            cast::<C3, Copy>(memcpy),
            cast::<C3, Copy>(memmove),
            cast::<unsafe extern "C" fn(*mut c_void, i32, usize) -> *mut c_void, Fill>(memset),
            cast::<unsafe extern "C" fn(*const c_void, *const c_void, usize) -> i32, Compare>(
                memcmp,
            ),
        )
    };
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
    // SAFETY: the buffer is ours.
    unsafe { a.write_bytes(1, BUFFER) };
    compares("memcmp equal", a, b, c_compare);
    compares(
        "memcmp unaligned",
        a.wrapping_add(3),
        b.wrapping_add(9),
        c_compare,
    );
    lengths(a);
}

fn copies(title: &str, dst: *mut u8, src: *const u8, c: Copy) {
    head(title);
    let (kiln, c) = (black_box(kiln_mem::copy as Copy), black_box(c));
    for n in SIZES {
        // SAFETY: both buffers hold `n` bytes behind the small offsets in use.
        let times = unsafe {
            duel(
                || _ = kiln(dst, src, black_box(n)),
                || _ = c(dst, src, black_box(n)),
            )
        };
        row(&n.to_string(), times);
    }
}

fn fills(title: &str, dst: *mut u8, c: Fill) {
    head(title);
    let (kiln, c) = (black_box(kiln_mem::fill as Fill), black_box(c));
    for n in SIZES {
        // SAFETY: the buffer holds `n` bytes behind the small offset in use.
        let times = unsafe {
            duel(
                || _ = kiln(dst, 1, black_box(n)),
                || _ = c(dst, 1, black_box(n)),
            )
        };
        row(&n.to_string(), times);
    }
}

fn compares(title: &str, a: *const u8, b: *const u8, c: Compare) {
    head(title);
    let (kiln, c) = (black_box(kiln_mem::compare as Compare), black_box(c));
    for n in SIZES {
        // SAFETY: both buffers hold `n` bytes behind the small offsets in use.
        let times = unsafe {
            duel(
                || _ = black_box(kiln(a, b, black_box(n))),
                || _ = black_box(c(a, b, black_box(n))),
            )
        };
        row(&n.to_string(), times);
    }
}

/// Copies whose sizes are drawn from 1 to a limit, smaller ones more often.
fn mixed_copies(dst: *mut u8, src: *const u8, c: Copy) {
    head("memcpy mixed, up to");
    let (kiln, c) = (black_box(kiln_mem::copy as Copy), black_box(c));
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
        let all = |copy: Copy| {
            for &n in &sizes {
                // SAFETY: both buffers are longer than the largest limit.
                unsafe { copy(dst, src, n) };
            }
        };
        let (kiln, c) = duel(|| all(kiln), || all(c));
        row(&limit.to_string(), (kiln / 1024.0, c / 1024.0));
    }
}

fn lengths(text: *mut u8) {
    head("strlen");
    for n in [1, 8, 16, 32, 64, 256, 1024, 4096] {
        // SAFETY: the buffer is longer than `n` and gets its terminator here.
        unsafe {
            text.write_bytes(1, n);
            *text.add(n) = 0;
            let times = duel(
                || _ = black_box(kiln_mem::length(black_box(text))),
                || _ = black_box(strlen(black_box(text).cast())),
            );
            row(&n.to_string(), times);
        }
    }
}
