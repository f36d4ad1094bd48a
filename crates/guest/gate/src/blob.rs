//! Root of the blob that the monitor embeds. Its layout is in `gate.ld`.
#![no_std]
#![no_main]

extern crate kiln_gate;

unsafe extern "C" {
    /// Defined nowhere: if any code path of the gate could panic, the blob would not link.
    fn kiln_gate_must_not_panic() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: never linked, see above.
    unsafe { kiln_gate_must_not_panic() }
}

/// memcpy(3), for records of a few dozen bytes.
///
/// # Safety
/// As memcpy(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
    to
}

/// memset(3).
///
/// # Safety
/// As memset(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!(
            "rep stosb",
            inout("rcx") len => _, inout("rdi") to => _, in("al") value as u8,
            options(nostack, preserves_flags),
        );
    }
    to
}
