//! What the processor can do, as the auxiliary vector tells it.

/// `AT_HWCAP`: the features in EDX of leaf 1.
pub fn features() -> u64 {
    core::arch::x86_64::__cpuid(1).edx.into()
}

/// `AT_HWCAP2`: bit 1 says that `wrfsbase` and its kin may be used. Monitors run no programs on hosts that forbid it, and the library OS keeps what
/// a program loads by them.
pub fn more_features() -> u64 {
    const FSGSBASE: u64 = 1 << 1;
    let highest = core::arch::x86_64::__cpuid(0).eax;
    let has = highest >= 7 && core::arch::x86_64::__cpuid_count(7, 0).ebx & 1 != 0;
    if has { FSGSBASE } else { 0 }
}

/// `AT_MINSIGSTKSZ`: what a signal frame takes, with all of the processor's state.
pub fn signal_stack() -> u64 {
    /// The frame without the state, the red zone, and room for alignment.
    const FRAME: u64 = 440 + 128 + 64 + 8;
    /// What `XSAVE` writes at least.
    const LEGACY: u64 = 576;
    let highest = core::arch::x86_64::__cpuid(0).eax;
    let state = if highest >= 0xd {
        core::arch::x86_64::__cpuid_count(0xd, 0).ebx.into()
    } else {
        0
    };
    FRAME + LEGACY.max(state).next_multiple_of(64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_64_bit_processor_has_sse2() {
        assert_ne!(super::features() & 1 << 26, 0);
        assert!(super::signal_stack() > 1024);
    }
}
