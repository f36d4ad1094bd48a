//! What the guest's processor says of itself.
//!
//! KVM could be asked what it supports (`KVM_GET_SUPPORTED_CPUID`), but asks the processor some eighty questions for
//! that, each of which traps where the host is a virtual machine itself: a third of a millisecond. Here it is asked ten.
//! What is passed on are the features that programs use, all of them instructions or registers that work in a guest
//! without anybody's doing; nothing that a hypervisor would have to take part in.

use std::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};

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

/// What CR4 and XCR0 may hold because of it.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// `rdfsbase` and its like.
    pub fsgsbase: bool,
    /// Supervisor code may not execute user pages.
    pub smep: bool,
    /// Programs may not read where descriptor tables lie.
    pub umip: bool,
    /// Virtual machines run by Intel's means.
    pub vmx: bool,
    /// Virtual machines run by AMD's means. Where they run by neither, KVM works by page tables.
    pub svm: bool,
    /// The components of the extended state, 0 without XSAVE.
    pub xcr0: u64,
}

/// The guest's processor, derived from this host's.
pub fn describe() -> (CpuId, Features) {
    let mut entries = Vec::with_capacity(16);
    let mut add = |function: u32, index: Option<u32>, value: CpuidResult| {
        entries.push(kvm_cpuid_entry2 {
            function,
            index: index.unwrap_or(0),
            flags: index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
            eax: value.eax,
            ebx: value.ebx,
            ecx: value.ecx,
            edx: value.edx,
            padding: [0; 3],
        });
    };
    let leaf_0 = __cpuid(0);
    add(
        0,
        None,
        CpuidResult {
            eax: leaf_0.eax.min(0xd),
            ..leaf_0
        },
    );
    let leaf_1 = __cpuid(1);
    let xsave = leaf_1.ecx & (1 << 26) != 0 && leaf_0.eax >= 0xd;
    add(
        1,
        None,
        CpuidResult {
            eax: leaf_1.eax,
            // CLFLUSH size; one processor, number 0.
            ebx: leaf_1.ebx & 0xff00 | 1 << 16,
            ecx: leaf_1.ecx & LEAF_1_ECX | HYPERVISOR,
            edx: leaf_1.edx & LEAF_1_EDX,
        },
    );
    let leaf_7 = if leaf_0.eax >= 7 {
        __cpuid_count(7, 0)
    } else {
        CpuidResult {
            eax: 0,
            ebx: 0,
            ecx: 0,
            edx: 0,
        }
    };
    add(
        7,
        Some(0),
        CpuidResult {
            eax: 0,
            ebx: leaf_7.ebx & LEAF_7_EBX,
            ecx: leaf_7.ecx & LEAF_7_ECX,
            edx: leaf_7.edx & LEAF_7_EDX,
        },
    );
    let mut xcr0 = 0;
    if xsave {
        let sizes = __cpuid_count(0xd, 0);
        xcr0 = components(sizes.eax);
        add(
            0xd,
            Some(0),
            CpuidResult {
                eax: xcr0 as u32,
                edx: 0,
                ..sizes
            },
        );
        let more = __cpuid_count(0xd, 1);
        add(
            0xd,
            Some(1),
            CpuidResult {
                eax: more.eax & LEAF_D_EAX,
                ebx: 0,
                ecx: 0,
                edx: 0,
            },
        );
        for component in (2..8).filter(|c| xcr0 & (1 << c) != 0) {
            add(0xd, Some(component), __cpuid_count(0xd, component));
        }
    }
    let extended = __cpuid(0x8000_0001);
    add(
        0x8000_0000,
        None,
        CpuidResult {
            eax: 0x8000_0008,
            ebx: leaf_0.ebx,
            ecx: leaf_0.ecx,
            edx: leaf_0.edx,
        },
    );
    add(
        0x8000_0001,
        None,
        CpuidResult {
            eax: extended.eax,
            ebx: 0,
            ecx: extended.ecx & EXTENDED_ECX,
            edx: extended.edx & EXTENDED_EDX,
        },
    );
    let widths = __cpuid(0x8000_0008);
    add(
        0x8000_0008,
        None,
        CpuidResult {
            eax: widths.eax,
            ebx: 0,
            ecx: 0,
            edx: 0,
        },
    );
    let seven = |bit: u32| leaf_7.ebx & (1 << bit) != 0;
    let features = Features {
        fsgsbase: seven(0),
        smep: seven(7),
        umip: leaf_7.ecx & (1 << 2) != 0,
        vmx: leaf_1.ecx & VMX != 0,
        svm: extended.ecx & SVM != 0,
        xcr0,
    };
    let described = CpuId::from_entries(&entries).expect("fewer entries than KVM takes");
    (described, features)
}

/// Whether this host's processor runs virtual machines itself, as far as it says so.
pub fn has_virtualization() -> bool {
    __cpuid(1).ecx & VMX != 0
        || (__cpuid(0x8000_0000).eax > 0x8000_0000 && __cpuid(0x8000_0001).ecx & SVM != 0)
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
        assert_eq!(features.fsgsbase, find(7).ebx & 1 != 0);
        assert_eq!(
            features.xcr0 & 3,
            if find(1).ecx & (1 << 26) != 0 { 3 } else { 0 }
        );
    }
}
