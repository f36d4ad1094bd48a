//! The machine's own pages in the guest.
//!
//! Two pages of code, both the same at every boot but for the addresses in their tables. In ring 3: the guest's call,
//! a way to the ring-0 stub, and the entry points of exceptions; each ends in an `out` to the gate. In ring 0: the six
//! instructions that flush the TLB, with the descriptor tables (Intel SDM volume 3, chapters 3, 6 and 8) before them.

use kiln_gate::vcpu::{PORT_ENTER, PORT_SYSCALL, PORT_TRAP};

use super::layout::{DESCRIPTORS, EXCEPTION_STACK, STUBS, SUPERVISOR_STACK};
use kiln_abi::PAGE_SIZE;

/// Selectors. Those of ring 3 are Linux's, which some hosts insist on.
pub mod selector {
    /// Code of ring 0.
    pub const SUPERVISOR_CODE: u16 = 0x10;
    /// Data of ring 0.
    pub const SUPERVISOR_DATA: u16 = 0x18;
    /// Data of ring 3.
    pub const USER_DATA: u16 = 0x2b;
    /// Code of ring 3.
    pub const USER_CODE: u16 = 0x33;
    /// The task state segment.
    pub const TASK: u16 = 0x40;
}

/// Offsets in the page of stubs.
pub mod user {
    /// The guest's call.
    pub const ENTER: u64 = 0;
    /// Flushes the TLB, then returns.
    pub const FLUSH: u64 = 8;
    /// Where the `syscall` instruction leads.
    pub const SYSCALL: u64 = 16;
    /// The entry points of exceptions, eight bytes each.
    pub const EXCEPTIONS: u64 = 64;
}

/// Offsets in the page of descriptors.
mod table {
    pub const GDT: usize = 0;
    pub const TSS: usize = 0x80;
    pub const IDT: usize = 0x100;
    pub const CODE: usize = 0x400;
}

/// Vectors that have a gate: those of the processor's own exceptions.
const VECTORS: u64 = 32;
/// The software interrupt that leads to the ring-0 stub: the overflow exception, which 64-bit code cannot raise otherwise.
const FLUSH_VECTOR: u64 = 4;
const BREAKPOINT: u64 = 3;
/// Bytes of a task state segment without its I/O permission map.
const TSS_SIZE: usize = 104;
/// The map covers ports up to 0x17, and ends with a byte of ones.
const IO_MAP: usize = 4;
/// Limit of the task state segment.
pub const TSS_LIMIT: u32 = (TSS_SIZE + IO_MAP - 1) as u32;
/// Limit of the global descriptor table.
pub const GDT_LIMIT: u16 = 0x4f;
/// Limit of the interrupt descriptor table.
pub const IDT_LIMIT: u16 = (VECTORS * 16 - 1) as u16;

std::arch::global_asm!(
    ".pushsection .rodata.kiln_kvm_stub, \"a\", @progbits",
    "kiln_kvm_user:",
    "out {enter}, al",
    "ret",
    ".balign 8, 0xcc",
    "int 4",
    "ret",
    ".balign 8, 0xcc",
    "out {syscall}, al",
    "ud2",
    ".balign 64, 0xcc",
    // Exceptions without an error code (Intel SDM volume 3, table 6-1) get one of 0.
    ".set vector, 0",
    ".rept 32",
    ".if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)",
    "push vector",
    "out {trap}, al",
    ".else",
    "push 0",
    "push vector",
    "out {trap}, al",
    ".endif",
    ".balign 8, 0xcc",
    ".set vector, vector + 1",
    ".endr",
    "kiln_kvm_user_end:",
    "kiln_kvm_supervisor:",
    "push rax",
    "mov rax, cr3",
    "mov cr3, rax",
    // After an exception some processors that are made of software leave no stack segment, without which there is no way
    // back to ring 3.
    "mov dword ptr [rsp + 40], {data}",
    "pop rax",
    "iretq",
    "kiln_kvm_supervisor_end:",
    ".popsection",
    enter = const PORT_ENTER,
    syscall = const PORT_SYSCALL,
    trap = const PORT_TRAP,
    data = const selector::USER_DATA,
);

unsafe extern "C" {
    static kiln_kvm_user: u8;
    static kiln_kvm_user_end: u8;
    static kiln_kvm_supervisor: u8;
    static kiln_kvm_supervisor_end: u8;
}

fn code(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: the two labels stand before and behind the same constant bytes.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Writes the fixed pages for a machine whose own pages the guest finds at `base`.
pub fn write(pages: &mut [u8], base: u64) {
    let user = code(&raw const kiln_kvm_user, &raw const kiln_kvm_user_end);
    let supervisor = code(
        &raw const kiln_kvm_supervisor,
        &raw const kiln_kvm_supervisor_end,
    );
    put(pages, STUBS as usize, user);
    let page = &mut pages[DESCRIPTORS as usize..][..PAGE_SIZE as usize];
    put(page, table::CODE, supervisor);
    for (index, descriptor) in gdt(base).into_iter().enumerate() {
        put(page, table::GDT + index * 8, &descriptor.to_le_bytes());
    }
    put(page, table::TSS, &task(base));
    for vector in 0..VECTORS {
        put(page, table::IDT + vector as usize * 16, &gate(vector, base));
    }
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Address of the global descriptor table.
pub fn gdt_address(base: u64) -> u64 {
    base + DESCRIPTORS + table::GDT as u64
}

/// Address of the interrupt descriptor table.
pub fn idt_address(base: u64) -> u64 {
    base + DESCRIPTORS + table::IDT as u64
}

/// Address of the task state segment.
pub fn tss_address(base: u64) -> u64 {
    base + DESCRIPTORS + table::TSS as u64
}

/// Upper end of the stack of exceptions.
pub fn exception_stack(base: u64) -> u64 {
    base + EXCEPTION_STACK + PAGE_SIZE
}

/// All descriptors are marked as accessed and the task as busy, so that the processor never writes to this page.
fn gdt(base: u64) -> [u64; 10] {
    let tss = tss_address(base);
    let busy_task =
        u64::from(TSS_LIMIT) | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56;
    [
        0,
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0,
        busy_task,
        tss >> 32,
    ]
}

fn task(base: u64) -> [u8; TSS_SIZE + IO_MAP] {
    let mut tss = [0; TSS_SIZE + IO_MAP];
    let supervisor_stack = base + SUPERVISOR_STACK + PAGE_SIZE;
    // RSP0, IST1, and where the I/O permission map begins.
    put(&mut tss, 4, &supervisor_stack.to_le_bytes());
    put(&mut tss, 36, &exception_stack(base).to_le_bytes());
    put(&mut tss, 102, &(TSS_SIZE as u16).to_le_bytes());
    tss[TSS_SIZE..].fill(0xff);
    for port in [PORT_ENTER, PORT_TRAP, PORT_SYSCALL] {
        tss[TSS_SIZE + usize::from(port) / 8] &= !(1 << (port % 8));
    }
    tss
}

fn gate(vector: u64, base: u64) -> [u8; 16] {
    /// Present, 64-bit trap gate.
    const TRAP_GATE: u64 = 0x8f << 8;
    let from_program = matches!(vector, BREAKPOINT | FLUSH_VECTOR);
    let privilege = if from_program { 3u64 } else { 0 };
    let (selector, stack, address) = if vector == FLUSH_VECTOR {
        let code = base + DESCRIPTORS + table::CODE as u64;
        (selector::SUPERVISOR_CODE, 0u64, code)
    } else {
        let code = base + STUBS + user::EXCEPTIONS + vector * 8;
        (selector::USER_CODE, 1, code)
    };
    let low = (address & 0xffff)
        | u64::from(selector) << 16
        | (stack | TRAP_GATE | privilege << 13) << 32
        | (address >> 16 & 0xffff) << 48;
    let mut bytes = [0; 16];
    put(&mut bytes, 0, &low.to_le_bytes());
    put(&mut bytes, 8, &(address >> 32).to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x5b12_3456_7000;

    fn pages() -> Vec<u8> {
        let mut pages = vec![0; 4 * PAGE_SIZE as usize];
        write(&mut pages, BASE);
        pages
    }

    #[test]
    fn every_entry_point_is_where_the_tables_say() {
        let pages = pages();
        let stubs = &pages[STUBS as usize..];
        assert_eq!(stubs[user::ENTER as usize..][..3], [0xe6, 0x10, 0xc3]);
        assert_eq!(stubs[user::FLUSH as usize..][..3], [0xcd, 4, 0xc3]);
        assert_eq!(stubs[user::SYSCALL as usize..][..2], [0xe6, 0x12]);
        for vector in 0..32u8 {
            let at = &stubs[user::EXCEPTIONS as usize + usize::from(vector) * 8..][..6];
            let has_code = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30].contains(&vector);
            let expected: &[u8] = if has_code {
                &[0x6a, vector, 0xe6, 0x11]
            } else {
                &[0x6a, 0, 0x6a, vector, 0xe6, 0x11]
            };
            assert_eq!(&at[..expected.len()], expected, "vector {vector}");
        }
    }

    #[test]
    fn only_three_ports_are_open() {
        let tss = task(BASE);
        let open: Vec<usize> = (0..IO_MAP * 8)
            .filter(|&port| tss[TSS_SIZE + port / 8] & (1 << (port % 8)) == 0)
            .collect();
        assert_eq!(open, [0x10, 0x11, 0x12]);
        assert_eq!(tss[TSS_SIZE + IO_MAP - 1], 0xff);
    }

    #[test]
    fn gates_lead_to_their_stubs() {
        let field = |gate: [u8; 16]| {
            let word = |at: usize| u64::from_le_bytes(gate[at..at + 8].try_into().unwrap());
            let low = word(0);
            (low & 0xffff) | (low >> 48) << 16 | word(8) << 32
        };
        assert_eq!(field(gate(14, BASE)), BASE + STUBS + 64 + 14 * 8);
        assert_eq!(field(gate(4, BASE)), BASE + 0x400);
        assert_eq!(gate(14, BASE)[5], 0x8f, "not for software");
        assert_eq!(gate(3, BASE)[5], 0xef, "for software too");
    }
}
