//! What the processor can do, as the auxiliary vector tells it.

use core::arch::x86_64::{__cpuid, __cpuid_count};

/// What the auxiliary vector says that has to be asked for. Each question costs microseconds where `cpuid` traps.
pub struct Processor {
    /// `AT_HWCAP`: the features in EDX of leaf 1.
    pub features: u64,
    /// `AT_HWCAP2`: bit 1 says that `wrfsbase` and its kin may be used. Monitors run no programs on hosts that forbid it, and the library OS
    /// keeps what a program loads by them.
    pub more_features: u64,
    /// `AT_MINSIGSTKSZ`: what a signal frame takes in bytes, with all of the processor's state.
    pub signal_stack: u64,
}

impl Processor {
    /// Asks the processor (Intel SDM volume 2, CPUID leaves 1, 7 and 0xd).
    pub fn ask() -> Self {
        /// The frame without the state, the red zone, and room for alignment.
        const FRAME: u64 = 440 + 128 + 64 + 8;
        /// What `XSAVE` writes at least.
        const LEGACY: u64 = 576;
        /// In HWCAP2.
        const FSGSBASE: u64 = 1 << 1;
        /// In ECX of leaf 1; who has it has leaf 0xd, and so those below.
        const XSAVE: u32 = 1 << 26;
        let one = __cpuid(1);
        let (mut state, mut more_features) = (0, 0);
        if one.ecx & XSAVE != 0 {
            state = __cpuid_count(0xd, 0).ebx.into();
            if __cpuid_count(7, 0).ebx & 1 != 0 {
                more_features = FSGSBASE;
            }
        }
        Self {
            features: one.edx.into(),
            more_features,
            signal_stack: FRAME + LEGACY.max(state).next_multiple_of(64),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_64_bit_processor_has_sse2() {
        let processor = super::Processor::ask();
        assert_ne!(processor.features & 1 << 26, 0);
        assert!(processor.signal_stack > 1024);
    }
}
