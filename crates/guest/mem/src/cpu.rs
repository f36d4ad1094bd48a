//! Which of the faster paths this processor has.
//!
//! `CPUID` leaves to the hypervisor on a virtual machine and costs microseconds there, so it runs
//! at most once, and only when a range is long enough to earn it back. Routines for short ranges
//! ask [`known`], which never runs it; those for long ones ask [`detected`]. Start code that has
//! the answer already can store it with [`set_features`].
//!
//! The answer is one relaxed atomic: two processors that race to find it store the same value.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU8, Ordering};

/// What the routines may use beyond the x86-64 baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u8);

impl Features {
    /// Nothing: SSE2 only. A guest whose trap handlers do not save extended state sets this.
    pub const BASELINE: Self = Self(1);
    /// AVX2, with its registers enabled by the operating system.
    pub const AVX2: Self = Self(1 << 1);
    /// AVX-512VL, likewise. It brings registers that need no `vzeroupper` after use, which makes
    /// wide vectors pay for shorter ranges too.
    pub const AVX512VL: Self = Self(1 << 3);
    /// Fast `rep movsb` and `rep stosb` (ERMS).
    pub const FAST_STRINGS: Self = Self(1 << 2);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Zero: not asked yet. Any answer has the baseline bit.
static FEATURES: AtomicU8 = AtomicU8::new(0);

/// Tells the routines what to use, in place of what they would find by themselves.
///
/// # Safety
/// The processor and the system below must support every feature in the set.
pub unsafe fn set_features(features: Features) {
    FEATURES.store(features.with(Features::BASELINE).0, Ordering::Relaxed);
}

/// What is known so far: an empty set before the first long range.
#[inline(always)]
pub fn known() -> Features {
    Features(FEATURES.load(Ordering::Relaxed))
}

/// What the processor has, asking it on the first call.
#[inline(always)]
pub fn detected() -> Features {
    let features = known();
    if features.0 == 0 { detect() } else { features }
}

/// Asks the processor: Intel SDM volume 2, CPUID leaves 1 and 7.
#[cold]
#[inline(never)]
fn detect() -> Features {
    const AVX_AND_OSXSAVE: u32 = 1 << 28 | 1 << 27;
    const XMM_AND_YMM: u32 = 0b110;
    const AND_ZMM: u32 = 0b1110_0110;
    const AVX512F_AND_VL: u32 = 1 << 31 | 1 << 16;
    let mut features = Features::BASELINE;
    // Leaf 7 may only be read below the highest leaf. Every processor with AVX has leaf 13, so
    // asking for AVX first saves the third trap.
    if __cpuid(1).ecx & AVX_AND_OSXSAVE == AVX_AND_OSXSAVE {
        let enabled: u32;
        // SAFETY: OSXSAVE says that XGETBV exists and register 0 can always be read.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack));
        }
        let extended = __cpuid_count(7, 0).ebx;
        if enabled & XMM_AND_YMM == XMM_AND_YMM && extended & (1 << 5) != 0 {
            features = features.with(Features::AVX2);
        }
        if enabled & AND_ZMM == AND_ZMM && extended & AVX512F_AND_VL == AVX512F_AND_VL {
            features = features.with(Features::AVX512VL);
        }
        if extended & (1 << 9) != 0 {
            features = features.with(Features::FAST_STRINGS);
        }
    }
    FEATURES.store(features.0, Ordering::Relaxed);
    features
}
