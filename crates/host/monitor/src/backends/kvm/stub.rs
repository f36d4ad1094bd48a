//! The machine's own pages in the guest.
//!
//! Two pages of code, both the same at every boot but for the addresses in their tables. In ring 3: the guest's call,
//! a way to the ring-0 stub, and the entry points of exceptions; each ends in an `out` to the gate. In ring 0: the six
//! instructions that flush the TLB, with the descriptor tables (Intel SDM volume 3, chapters 3, 6 and 8) before them.
//!
//! The `syscall` instruction of a Linux program leads to the library OS without the gate: by a jump where a KVM that works by
//! page tables lets it stay in ring 3, else by way of ring 0, whose code does nothing but go back to ring 3.

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
    /// Where the `syscall` instruction leads if it stays in ring 3.
    pub const SYSCALL: u64 = 16;
    /// The address to which it goes on from there.
    pub const SYSCALL_TO: u64 = 24;
    /// Where that is before the guest has said anything.
    pub const UNKNOWN_SYSCALL: u64 = 32;
    /// The entry points of exceptions, eight bytes each.
    pub const EXCEPTIONS: u64 = 64;
}

/// Offsets in the page of ring 0's stack.
pub mod supervisor {
    /// The address to which a `syscall` instruction leads that has come to ring 0.
    pub const SYSCALL_TO: u64 = 0;
    /// Where its code keeps the stack pointer for a moment.
    pub const STACK_POINTER: u64 = 8;
}

/// Offsets in the page of descriptors.
mod table {
    pub const GDT: usize = 0;
    pub const TSS: usize = 0x80;
    pub const IDT: usize = 0x100;
    pub const CODE: usize = 0x400;
    pub const SYSCALL: usize = 0x440;
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
    "jmp qword ptr [rip + 2]",
    ".balign 8, 0xcc",
    ".quad 0",
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
    let stubs = code(&raw const kiln_kvm_user, &raw const kiln_kvm_user_end);
    let supervisor = code(
        &raw const kiln_kvm_supervisor,
        &raw const kiln_kvm_supervisor_end,
    );
    put(pages, STUBS as usize, stubs);
    let unknown = (base + STUBS + user::UNKNOWN_SYSCALL).to_le_bytes();
    for place in system_call_words() {
        put(pages, place as usize, &unknown);
    }
    let page = &mut pages[DESCRIPTORS as usize..][..PAGE_SIZE as usize];
    put(page, table::CODE, supervisor);
    put(page, table::SYSCALL, &system_call());
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

/// Ring 0's part of a `syscall` instruction: back to ring 3 with every register as it is, but for `rip` and the flags. Those that
/// would be in the way are masked by the processor. There is no register to spare, so all is found relative to the code.
fn system_call() -> [u8; 37] {
    let start = DESCRIPTORS + table::SYSCALL as u64;
    let to = |at: u64, end_of_instruction: u64| {
        ((SUPERVISOR_STACK + at).wrapping_sub(start + end_of_instruction) as u32).to_le_bytes()
    };
    let mut code = [0; 37];
    let mut place = 0;
    let mut add = |bytes: &[u8], displacement: Option<u64>| {
        put(&mut code, place, bytes);
        place += bytes.len();
        if let Some(at) = displacement {
            put(&mut code, place, &to(at, place as u64 + 4));
            place += 4;
        }
    };
    // mov [STACK_POINTER], rsp; lea rsp, [top]
    add(&[0x48, 0x89, 0x25], Some(supervisor::STACK_POINTER));
    add(&[0x48, 0x8d, 0x25], Some(PAGE_SIZE));
    // push ss; push [STACK_POINTER]; push flags; push cs; push [SYSCALL_TO]
    add(&[0x6a, selector::USER_DATA as u8], None);
    add(&[0xff, 0x35], Some(supervisor::STACK_POINTER));
    add(&[0x68, 0x02, 0x02, 0, 0], None);
    add(&[0x6a, selector::USER_CODE as u8], None);
    add(&[0xff, 0x35], Some(supervisor::SYSCALL_TO));
    // iretq
    add(&[0x48, 0xcf], None);
    code
}

/// Where the words lie that say to where `syscall` leads: for ring 3 and for ring 0.
pub fn system_call_words() -> [u64; 2] {
    [
        STUBS + user::SYSCALL_TO,
        SUPERVISOR_STACK + supervisor::SYSCALL_TO,
    ]
}

/// Address of the code in ring 0 that a `syscall` instruction leads to.
pub fn system_call_address(base: u64) -> u64 {
    base + DESCRIPTORS + table::SYSCALL as u64
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
        // Through the word behind it, which leads to the port at first.
        assert_eq!(
            stubs[user::SYSCALL as usize..][..6],
            [0xff, 0x25, 2, 0, 0, 0]
        );
        let unknown = (BASE + STUBS + user::UNKNOWN_SYSCALL).to_le_bytes();
        assert_eq!(stubs[user::SYSCALL_TO as usize..][..8], unknown);
        assert_eq!(stubs[user::UNKNOWN_SYSCALL as usize..][..2], [0xe6, 0x12]);
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
    fn a_system_call_passes_ring_0_as_it_came() {
        let code = system_call();
        assert_eq!(code[35..], [0x48, 0xcf]);
        let end = DESCRIPTORS as usize + table::SYSCALL;
        let found = |at: usize| {
            let displacement = u32::from_le_bytes(code[at..at + 4].try_into().unwrap());
            (end + at + 4) as u64 + u64::from(displacement) - SUPERVISOR_STACK
        };
        assert_eq!([3, 10, 18, 31].map(found), [8, PAGE_SIZE, 8, 0]);
        let pages = pages();
        assert_eq!(pages[end..][..37], code);
        let word = &pages[(SUPERVISOR_STACK + supervisor::SYSCALL_TO) as usize..][..8];
        assert_eq!(word, (BASE + STUBS + user::UNKNOWN_SYSCALL).to_le_bytes());
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
