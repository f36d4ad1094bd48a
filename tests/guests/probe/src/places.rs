//! Addresses that mean something: what the fault cases aim at.

use alloc::boxed::Box;
use core::sync::atomic::AtomicU64;

use kiln_abi::MemoryRange;
use kiln_abi::boot::MemoryKind;
use kiln_rt::boot;

/// `ret` and padding: harmless if somebody really executes it.
const RETURN: u64 = 0xc3c3_c3c3_c3c3_c3c3;

static CONSTANT: [u64; 2] = [RETURN; 2];
static VARIABLE: AtomicU64 = AtomicU64::new(RETURN);
static ZERO: AtomicU64 = AtomicU64::new(0);
/// Holds a pointer, so that it is among the relocated constants.
static RELOCATED: [&AtomicU64; 2] = [&VARIABLE, &ZERO];

/// The address of a named place, or the number itself.
pub fn address(name: &str) -> u64 {
    let marker = RETURN;
    match name {
        "text" => address as *const () as u64,
        "rodata" => CONSTANT.as_ptr() as u64,
        "data" => VARIABLE.as_ptr() as u64,
        "bss" => ZERO.as_ptr() as u64,
        "relro" => RELOCATED.as_ptr() as u64,
        "heap" => core::ptr::from_ref(Box::leak(Box::new(RETURN))) as u64,
        // The frame below is gone when the address is used, but the memory still holds what was there.
        "stack" => &raw const marker as u64,
        "trap-stack" => range(MemoryKind::TrapStack).start,
        "boot" => core::ptr::from_ref(boot::info()) as u64,
        "gate" => boot::info().enter,
        "below-stack" => range(MemoryKind::Stack).start - 8,
        "above-stack" => end(range(MemoryKind::Stack)),
        "below-trap-stack" => range(MemoryKind::TrapStack).start - 8,
        "above-trap-stack" => end(range(MemoryKind::TrapStack)),
        "below-heap" => range(MemoryKind::Free).start - 8,
        "above-heap" => end(range(MemoryKind::Free)),
        "below-image" => boot::info().image_start - 8,
        "above-image" => boot::info().image_start + boot::info().image_size,
        number => crate::number(&[number], 0),
    }
}

/// The memory range of a kind.
pub fn range(kind: MemoryKind) -> MemoryRange {
    let found = ranges().iter().find(|r| r.kind == kind as u32);
    *found.expect("the monitor describes every kind of memory")
}

/// All memory ranges.
pub fn ranges() -> &'static [MemoryRange] {
    let info = boot::info();
    // SAFETY: the monitor's promise: an array of this length, never changed.
    unsafe {
        core::slice::from_raw_parts(
            info.memory as *const MemoryRange,
            info.memory_count as usize,
        )
    }
}

/// The first address behind a range.
pub fn end(range: MemoryRange) -> u64 {
    range.start + range.len
}
