//! `/proc/cpuinfo`, from the processor's own word.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use super::pseudo::{Subject, Text};
use crate::process::Thread;
use crate::{Result, put};

// Names of feature bits from bit 0 on, as Linux writes them; a dash for those it does not tell.
const LEAF_1_EDX: &str = "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe";
const LEAF_1_ECX: &str = "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave - avx f16c rdrand hypervisor";
const LEAF_81_EDX: &str = "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow";
const LEAF_81_ECX: &str = "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx - -";
const LEAF_7_EBX: &str = "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl";
const LEAF_7_ECX: &str = "- avx512vbmi umip pku ospke waitpkg avx512_vbmi2 - gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd - -";
const LEAF_7_EDX: &str = "- - avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect - md_clear - - - serialize - tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 - - flush_l1d arch_capabilities - -";

/// Bytes of registers as text, without what fills them up.
fn text_of(registers: &[u32]) -> String {
    let bytes: Vec<u8> = registers.iter().flat_map(|r| r.to_ne_bytes()).collect();
    let text = String::from_utf8_lossy(&bytes).replace('\0', "");
    String::from(text.trim())
}

fn features() -> Vec<&'static str> {
    let highest = __cpuid(0).eax;
    let extended = __cpuid(0x8000_0000).eax;
    let one = __cpuid(1);
    let mut words = alloc::vec![(one.edx, LEAF_1_EDX), (one.ecx, LEAF_1_ECX)];
    if extended >= 0x8000_0001 {
        let leaf = __cpuid(0x8000_0001);
        words.insert(1, (leaf.edx, LEAF_81_EDX));
        words.push((leaf.ecx, LEAF_81_ECX));
    }
    if highest >= 7 {
        let leaf = __cpuid_count(7, 0);
        words.push((leaf.ebx, LEAF_7_EBX));
        words.push((leaf.ecx, LEAF_7_ECX));
        words.push((leaf.edx, LEAF_7_EDX));
    }
    let mut names = Vec::new();
    for (word, all) in words {
        let bits = all.split(' ').enumerate();
        let told = bits.filter(|&(bit, name)| name != "-" && word & (1 << bit) != 0);
        names.extend(told.map(|(_, name)| name));
    }
    names
}

pub(super) fn cpuinfo(_: &Rc<Thread>, _: Subject, text: &mut Text) -> Result {
    let zero = __cpuid(0);
    let one = __cpuid(1);
    let (mut family, mut model) = ((one.eax >> 8) & 0xf, (one.eax >> 4) & 0xf);
    if family == 6 || family == 15 {
        model |= (one.eax >> 12) & 0xf0;
    }
    if family == 15 {
        family += (one.eax >> 20) & 0xff;
    }
    put!(text, "processor\t: 0\n");
    let vendor = text_of(&[zero.ebx, zero.edx, zero.ecx]);
    put!(
        text,
        "vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
    );
    if __cpuid(0x8000_0000).eax >= 0x8000_0004 {
        let parts = [0x8000_0002, 0x8000_0003, 0x8000_0004].map(__cpuid);
        let words: Vec<u32> = parts
            .iter()
            .flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx])
            .collect();
        put!(text, "model name\t: {}\n", text_of(&words));
    }
    put!(text, "stepping\t: {}\n", one.eax & 0xf);
    // Left out where it is not known: programs divide by it.
    let hz = crate::platform::counter().frequency;
    if hz != 0 {
        let khz = hz / 1_000;
        put!(text, "cpu MHz\t\t: {}.{:03}\n", khz / 1_000, khz % 1_000);
    }
    put!(
        text,
        "cache size\t: 1024 KB\nphysical id\t: 0\nsiblings\t: 1\ncore id\t\t: 0\ncpu cores\t: 1\n"
    );
    put!(
        text,
        "apicid\t\t: 0\ninitial apicid\t: 0\nfpu\t\t: yes\nfpu_exception\t: yes\n"
    );
    put!(text, "cpuid level\t: {}\nwp\t\t: yes\nflags\t\t:", zero.eax);
    for name in features() {
        put!(text, " {name}");
    }
    put!(text, "\nbugs\t\t:\n");
    if hz != 0 {
        // Two rounds of the kernel's delay loop a tick, as Linux counts where it knows the counter's frequency.
        let hundredths = hz / 5_000;
        put!(
            text,
            "bogomips\t: {}.{:02}\n",
            hundredths / 100,
            hundredths % 100
        );
    }
    put!(text, "clflush size\t: 64\ncache_alignment\t: 64\n");
    put!(
        text,
        "address sizes\t: 48 bits physical, 48 bits virtual\npower management:\n\n"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_that_every_such_processor_has_are_told() {
        let names = features();
        for name in ["fpu", "sse2", "syscall", "lm", "cx16"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        for word in [
            LEAF_1_EDX,
            LEAF_1_ECX,
            LEAF_81_EDX,
            LEAF_81_ECX,
            LEAF_7_EBX,
            LEAF_7_ECX,
            LEAF_7_EDX,
        ] {
            assert_eq!(word.split(' ').count(), 32);
        }
    }
}
