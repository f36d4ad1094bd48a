//! What the guest's processor says of itself.
//!
//! KVM could be asked what it supports (`KVM_GET_SUPPORTED_CPUID`), but asks the processor some eighty questions for
//! that, each of which traps where the host is a virtual machine itself: a third of a millisecond. Here it is asked ten.
//! What is passed on are the features that programs use, all of them instructions or registers that work in a guest
//! without anybody's doing; nothing that a hypervisor would have to take part in.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Bits by position.
const fn bits(positions: &[u32]) -> u32 {
    let mut set = 0;
    let mut i = 0;
    while i < positions.len() {
        set |= 1 << positions[i];
        i += 1;
    }
    set
}

/// Leaf 1, ECX.
const VMX: u32 = 1 << 5;
/// Leaf 0x80000001, ECX.
const SVM: u32 = 1 << 2;
/// Leaf 1: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
const LEAF_1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// A hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;
/// FPU, page size extension, TSC, MSR, PAE, CMPXCHG8B, global pages, CMOV, PAT, CLFLUSH, MMX, FXSR, SSE, SSE2.
const LEAF_1_EDX: u32 = bits(&[0, 3, 4, 5, 6, 8, 13, 15, 16, 19, 23, 24, 25, 26]);
/// Leaf 7: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, AVX-512 F and DQ, RDSEED, ADX, SMAP, AVX-512 IFMA, CLFLUSHOPT, CLWB,
/// AVX-512 CD, SHA, AVX-512 BW and VL.
const LEAF_7_EBX: u32 = bits(&[
    0, 3, 5, 7, 8, 9, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31,
]);
/// AVX-512 VBMI, UMIP, AVX-512 VBMI2, GFNI, VAES, VPCLMULQDQ, AVX-512 VNNI, BITALG, VPOPCNTDQ.
const LEAF_7_ECX: u32 = bits(&[1, 2, 6, 8, 9, 10, 11, 12, 14]);
/// Fast short REP MOV.
const LEAF_7_EDX: u32 = bits(&[4]);
/// XSAVEOPT, XSAVEC, XGETBV with ECX 1.
const LEAF_D_EAX: u32 = bits(&[0, 1, 2]);
/// Leaf 0x80000001: LAHF in 64-bit code, LZCNT, misaligned SSE, PREFETCHW.
const EXTENDED_ECX: u32 = bits(&[0, 5, 7, 8]);
/// SYSCALL, no-execute, 1 GiB pages, RDTSCP, long mode.
const EXTENDED_EDX: u32 = bits(&[11, 20, 26, 27, 29]);

/// How the host's processor runs virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtualization {
    /// It does not: a KVM that works all the same does so by page tables.
    None,
    /// By Intel's means.
    Vmx,
    /// By AMD's.
    Svm,
}

/// What the virtual CPU's registers may hold because of it.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// Bits of CR4 that programs rely on: FSGSBASE, OSXSAVE.
    pub programs: u64,
    /// Bits of CR4 that protect: SMEP, UMIP.
    pub protections: u64,
    /// The components of the extended state, 0 without XSAVE.
    pub xcr0: u64,
    /// Bits of a physical address.
    pub physical_bits: u32,
    /// The host's own.
    pub virtualization: Virtualization,
}

/// Leaves in the making.
struct Leaves(Vec<kvm_cpuid_entry2>);

impl Leaves {
    fn add(&mut self, function: u32, index: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) {
        self.0.push(kvm_cpuid_entry2 {
            function,
            index: index.unwrap_or(0),
            flags: index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
            eax,
            ebx,
            ecx,
            edx,
            padding: [0; 3],
        });
    }

    /// Leaf 0xd: the extended state.
    fn extended_state(&mut self, xcr0: u64) {
        let sizes = __cpuid_count(0xd, 0);
        self.add(0xd, Some(0), [xcr0 as u32, sizes.ebx, sizes.ecx, 0]);
        let more = __cpuid_count(0xd, 1);
        self.add(0xd, Some(1), [more.eax & LEAF_D_EAX, 0, 0, 0]);
        for component in (2..8).filter(|c| xcr0 & (1 << c) != 0) {
            let part = __cpuid_count(0xd, component);
            self.add(
                0xd,
                Some(component),
                [part.eax, part.ebx, part.ecx, part.edx],
            );
        }
    }
}

/// The guest's processor, derived from this host's.
pub fn describe() -> (CpuId, Features) {
    /// The host's kernel has switched XSAVE on.
    const OSXSAVE: u32 = 1 << 27;
    let mut leaves = Leaves(Vec::with_capacity(16));
    let vendor = __cpuid(0);
    leaves.add(
        0,
        None,
        [vendor.eax.min(0xd), vendor.ebx, vendor.ecx, vendor.edx],
    );
    let basic = __cpuid(1);
    // CLFLUSH size; one processor, number 0.
    let identity = basic.ebx & 0xff00 | 1 << 16;
    let xcr0 = if basic.ecx & OSXSAVE != 0 && vendor.eax >= 0xd {
        components(enabled_components())
    } else {
        0
    };
    let without = unusable(xcr0);
    let ecx = basic.ecx & LEAF_1_ECX & !without[0] | HYPERVISOR;
    leaves.add(1, None, [basic.eax, identity, ecx, basic.edx & LEAF_1_EDX]);
    let [_, ebx, ecx, edx] = if vendor.eax >= 7 {
        let leaf = __cpuid_count(7, 0);
        [0, leaf.ebx, leaf.ecx, leaf.edx]
    } else {
        [0; 4]
    };
    let structured = [
        0,
        ebx & LEAF_7_EBX & !without[1],
        ecx & LEAF_7_ECX & !without[2],
        edx & LEAF_7_EDX,
    ];
    leaves.add(7, Some(0), structured);
    if xcr0 != 0 {
        leaves.extended_state(xcr0);
    }
    let extended = __cpuid(0x8000_0001);
    let widths = __cpuid(0x8000_0008);
    for (function, value) in [
        (
            0x8000_0000,
            [0x8000_0008, vendor.ebx, vendor.ecx, vendor.edx],
        ),
        (
            0x8000_0001,
            [
                extended.eax,
                0,
                extended.ecx & EXTENDED_ECX,
                extended.edx & EXTENDED_EDX,
            ],
        ),
        (0x8000_0008, [widths.eax, 0, 0, 0]),
    ] {
        leaves.add(function, None, value);
    }
    let on = |word: u32, bit: u32, value: u64| if word & 1 << bit != 0 { value } else { 0 };
    let features = Features {
        programs: on(ebx, 0, cr4::FSGSBASE) | if xcr0 == 0 { 0 } else { cr4::OSXSAVE },
        protections: on(ebx, 7, cr4::SMEP) | on(ecx, 2, cr4::UMIP),
        xcr0,
        physical_bits: widths.eax & 0xff,
        virtualization: if basic.ecx & VMX != 0 {
            Virtualization::Vmx
        } else if extended.ecx & SVM != 0 {
            Virtualization::Svm
        } else {
            Virtualization::None
        },
    };
    let described = CpuId::from_entries(&leaves.0).expect("fewer entries than KVM takes");
    (described, features)
}

/// Bits of CR4 (Intel SDM volume 3, section 2.5).
mod cr4 {
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
}

/// Whether this host's processor runs virtual machines itself, as far as it says so.
pub fn has_virtualization() -> bool {
    __cpuid(1).ecx & VMX != 0
        || (__cpuid(0x8000_0000).eax > 0x8000_0000 && __cpuid(0x8000_0001).ecx & SVM != 0)
}

/// The components of the extended state that this host's kernel has switched on (XCR0).
fn enabled_components() -> u32 {
    let low: u32;
    // SAFETY: only asked where the kernel has enabled the instruction.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    low
}

/// Features in ECX of leaf 1 and EBX and ECX of leaf 7 that need registers which the guest does not have.
fn unusable(xcr0: u64) -> [u32; 3] {
    let mut without = [0; 3];
    if xcr0 == 0 {
        without[0] |= bits(&[26]);
    }
    if xcr0 & 4 == 0 {
        // AVX, FMA, F16C; AVX2; VAES, VPCLMULQDQ.
        without[0] |= bits(&[12, 28, 29]);
        without[1] |= bits(&[5]);
        without[2] |= bits(&[9, 10]);
    }
    if xcr0 & 0xe0 != 0xe0 {
        without[1] |= bits(&[16, 17, 21, 28, 30, 31]);
        without[2] |= bits(&[1, 6, 11, 12, 14]);
    }
    without
}

/// The components of the extended state that the guest gets, of those in `has`: x87 and SSE, AVX, AVX-512. The last
/// comes as a whole, and with AVX (Intel SDM volume 1, section 13.3).
fn components(has: u32) -> u64 {
    const AVX: u64 = 1 << 2;
    const AVX_512: u64 = 0xe0;
    let has = u64::from(has);
    let mut value = 3 | has & AVX;
    if value & AVX != 0 && has & AVX_512 == AVX_512 {
        value |= AVX_512;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_not_claimed() {
        assert_eq!(unusable(0xe7), [0; 3]);
        assert_eq!(unusable(7)[0], 0);
        assert_ne!(unusable(7)[1] & 1 << 16, 0, "AVX-512");
        assert_ne!(unusable(3)[0] & 1 << 28, 0, "AVX");
        assert_ne!(unusable(0)[0] & 1 << 26, 0, "XSAVE");
    }

    #[test]
    fn components_come_together() {
        assert_eq!(components(0x3), 3);
        assert_eq!(components(0x7), 7);
        assert_eq!(components(0x207), 7, "others are left out");
        assert_eq!(components(0xe7), 0xe7);
        assert_eq!(components(0x67), 7, "half of AVX-512");
        assert_eq!(components(0xe3), 3, "AVX-512 without AVX");
    }

    #[test]
    fn the_description_keeps_to_the_host() {
        let (cpuid, features) = describe();
        let find = |function: u32| {
            let mut all = cpuid.as_slice().iter();
            *all.find(|e| e.function == function && e.index == 0)
                .unwrap()
        };
        assert_eq!(find(1).ecx & !HYPERVISOR & !__cpuid(1).ecx, 0);
        assert_eq!(find(1).ebx >> 16, 1, "processor 0 of one");
        assert_ne!(find(0x8000_0001).edx & (1 << 29), 0, "long mode");
        assert_eq!(features.programs & cr4::FSGSBASE != 0, find(7).ebx & 1 != 0);
        assert_eq!(
            features.xcr0 & 3,
            if find(1).ecx & (1 << 26) != 0 { 3 } else { 0 }
        );
    }
}
