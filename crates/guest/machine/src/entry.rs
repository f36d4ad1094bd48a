//! The first instructions of a machine, its ring-0 stub, and the gates of its interrupts.
//!
//! Ring 0 is for what ring 3 cannot do: on hosts whose KVM emulates it, an instruction takes half a microsecond and
//! there is no SSE. Three parts:
//! - the entries (`kiln_machine_pvh`, `kiln_machine_multiboot`): from 32-bit protected mode without paging to ring 3 of
//!   long mode, where the rest of the machine part is unpacked and `kiln_machine::start` goes on;
//! - the stub between `kiln_stub_start` and `kiln_stub_end`, which is copied to a supervisor page: the services behind
//!   `int 4` (`kiln_machine::cpu` describes them) and the handlers of interrupts and page faults. It names
//!   everything outside of itself by absolute address;
//! - the ring-3 side of exceptions, which saves the registers and calls `kiln_machine::trap`.

use core::arch::global_asm;
use core::mem::offset_of;

use kiln_machine::cpu::{
    CODE0, CODE3, DATA3, IDT_LIMIT, LAPIC_EOI, MAILBOX, Mailbox, STACK_SIZE, SUPERVISOR,
    Supervisor, TRAP_STACK, TSC_DEADLINE_MSR, TSS_LIMIT, TSS_SELECTOR, noted,
};
use kiln_machine::{start, trap};

/// The parts of the stub that are for programs only, or different for them.
#[cfg(feature = "program")]
mod parts {
    /// To the local interrupt controller's register.
    macro_rules! eoi {
        () => {
            "mov rax, {eoi}"
        };
    }
    /// A tick that arrives in the machine part, which lies below the second MiB.
    macro_rules! missed {
        () => {
            "mov byte ptr [{mailbox} + {ticking} + 2], 1"
        };
    }
    /// Service 8: the page at rdi is looked up anew.
    macro_rules! flush {
        () => {
            "ja 17f"
        };
    }
    macro_rules! flush_page {
        () => {
            "17:
            invlpg [rdi]
            iretq"
        };
    }
    /// The program's alignment check is not ours.
    macro_rules! flags {
        () => {
            "push 2
            popfq"
        };
    }
    macro_rules! more {
        () => {
            ".quad kiln_call_start, kiln_call_end, kiln_probe"
        };
    }
    pub(super) use {eoi, flags, flush, flush_page, missed, more};
}

#[cfg(not(feature = "program"))]
mod parts {
    macro_rules! eoi {
        () => {
            "mov eax, {eoi}"
        };
    }
    macro_rules! nothing {
        () => {
            ""
        };
    }
    macro_rules! flags {
        () => {
            "cld"
        };
    }
    pub(super) use nothing as missed;
    pub(super) use nothing as flush;
    pub(super) use nothing as flush_page;
    pub(super) use nothing as more;
    pub(super) use {eoi, flags};
}

/// Page tables of the start: the first 2 MiB, identity.
#[repr(C, align(4096))]
struct FirstTables(core::cell::UnsafeCell<[[u64; 512]; 3]>);

// SAFETY: one processor, and only the first instructions touch it.
unsafe impl Sync for FirstTables {}

static TABLES: FirstTables = FirstTables(core::cell::UnsafeCell::new([[0; 512]; 3]));

global_asm!(
    ".pushsection .text.kiln_machine_entry,\"ax\",@progbits",
    ".code32",
    ".globl kiln_machine_pvh, kiln_machine_multiboot",
    "kiln_machine_pvh:",
    "mov eax, {pvh}",
    "kiln_machine_multiboot:",
    "cld",
    "mov esi, eax",
    "mov edi, ebx",
    "mov dword ptr [{tables}], offset {tables} + 0x1007",
    "mov dword ptr [{tables} + 0x1000], offset {tables} + 0x2007",
    "mov dword ptr [{tables} + 0x2000], 0x87",
    "mov eax, offset {tables}",
    "mov cr3, eax",
    // CR4: PAE, OSFXSR, OSXMMEXCPT, and OSXSAVE where there is XSAVE.
    "mov eax, 1",
    "cpuid",
    "and ecx, 1 << 26",
    "mov ebp, ecx",
    "shr ecx, 8",
    "or ecx, 0x620",
    "mov cr4, ecx",
    // EFER: LME, NXE. SCE stays off: `syscall` is undefined.
    "mov ecx, 0xc0000080",
    "xor edx, edx",
    "mov eax, 0x900",
    "wrmsr",
    // CR0: PG, AM, WP, NE, ET, MP, PE.
    "mov eax, 0x80050033",
    "mov cr0, eax",
    // The task state's address in its descriptor.
    "mov eax, offset {supervisor} + {tss}",
    "mov word ptr [kiln_gdt + {tss_selector} + 2], ax",
    "shr eax, 16",
    "mov byte ptr [kiln_gdt + {tss_selector} + 4], al",
    "lgdt [kiln_gdt_register]",
    ".byte 0xea",
    ".long kiln_machine_long",
    ".short {code0}",
    ".code64",
    "kiln_machine_long:",
    "lidt [kiln_idt_register]",
    "mov eax, {tss_selector}",
    "ltr ax",
    "mov esp, offset {trap_stack} + {stack_size}",
    "test ebp, ebp",
    "jz 2f",
    // XCR0: x87, SSE, AVX, AVX-512, as far as the processor has them.
    "mov eax, 13",
    "xor ecx, ecx",
    "cpuid",
    "and eax, 0xe7",
    "xor ecx, ecx",
    "xor edx, edx",
    "xsetbv",
    "2:",
    "push {data3}",
    "push offset {start_stack} + {stack_size}",
    "push 2",
    "push {code3}",
    "push offset kiln_machine_ring3",
    "iretq",
    "kiln_machine_ring3:",
    "push rsi",
    "push rdi",
    // Unpacks the rest (`kiln_blob::pack` describes the format): from rsi, at bit r8d, to rdi; ebp: how far back.
    "mov esi, offset kiln_machine_packed",
    "mov edi, offset kiln_machine_code",
    "xor r8d, r8d",
    "3:",
    "bt dword ptr [rsi], r8d",
    "inc r8d",
    "jc 4f",
    "push 8",
    "pop rcx",
    "call 40f",
    "stosb",
    "jmp 7f",
    "4:",
    "bt dword ptr [rsi], r8d",
    "inc r8d",
    "jc 5f",
    "push 4",
    "pop rcx",
    "call 40f",
    "lea ecx, [rax - 16]",
    "call 40f",
    "xchg ebp, eax",
    "call 42f",
    "inc eax",
    "jmp 6f",
    "5:",
    "call 42f",
    "6:",
    "xchg ecx, eax",
    "push rsi",
    "mov esi, edi",
    "sub esi, ebp",
    "rep movsb",
    "pop rsi",
    "7:",
    "cmp edi, offset kiln_machine_code_end",
    "jb 3b",
    "mov edi, offset kiln_machine_code",
    "8:",
    "cmp byte ptr [rdi], 0xe8",
    "jne 9f",
    "sub [rdi + 1], edi",
    "add edi, 4",
    "9:",
    "inc edi",
    "cmp edi, offset kiln_machine_code_end - 4",
    "jb 8b",
    "pop rdi",
    "pop rsi",
    "xor ebp, ebp",
    "mov edx, offset kiln_parts",
    "call {start}",
    "ud2",
    // eax: ecx bits behind a leading 1.
    "40:",
    "mov edx, ecx",
    "mov ecx, r8d",
    "mov eax, ecx",
    "shr eax, 3",
    "mov eax, [rsi + rax]",
    "and ecx, 7",
    "shr eax, cl",
    "add r8d, edx",
    "xor ebx, ebx",
    "bts ebx, edx",
    "lea edx, [rbx - 1]",
    "and eax, edx",
    "or eax, ebx",
    "ret",
    // eax: a number of unknown width.
    "42:",
    "push 1",
    "pop rax",
    "43:",
    "bt dword ptr [rsi], r8d",
    "inc r8d",
    "jnc 44f",
    "bt dword ptr [rsi], r8d",
    "inc r8d",
    "adc eax, eax",
    "jmp 43b",
    "44:",
    "ret",

    ".balign 8",
    "kiln_gdt:",
    ".quad 0, 0",
    ".quad 0x00af9b000000ffff, 0x00cf93000000ffff", // 0x10, 0x18: ring 0
    ".quad 0, 0x00cff3000000ffff",                  // 0x28: data of ring 3
    ".quad 0x00affb000000ffff",                     // 0x30: code of ring 3
    ".quad 0x0000890000000000 + {tss_limit}, 0",    // 0x38: task state
    "kiln_gdt_end:",
    "kiln_gdt_register:",
    ".short kiln_gdt_end - kiln_gdt - 1",
    ".quad kiln_gdt",
    "kiln_idt_register:",
    ".short {idt_limit}",
    ".quad {supervisor} + {idt}",
    ".popsection",
    pvh = const start::PVH_MAGIC,
    tables = sym TABLES,
    supervisor = sym SUPERVISOR,
    tss = const offset_of!(Supervisor, tss),
    idt = const offset_of!(Supervisor, idt),
    trap_stack = sym TRAP_STACK,
    start_stack = sym kiln_machine::cpu::START_STACK,
    stack_size = const STACK_SIZE,
    idt_limit = const IDT_LIMIT,
    tss_limit = const TSS_LIMIT,
    tss_selector = const TSS_SELECTOR,
    code0 = const CODE0,
    code3 = const CODE3,
    data3 = const DATA3,
    start = sym start::start,
);

// The stub. Services are numbered as in `kiln_machine::cpu::service`.
global_asm!(
    ".pushsection .text.kiln_stub,\"ax\",@progbits",
    "kiln_stub_start:",
    "kiln_service:",
    "cmp eax, 1",
    "jb 10f",
    "je 11f",
    "cmp eax, 3",
    "jb 12f",
    "je 13f",
    "cmp eax, 5",
    "jb 14f",
    "je 15f",
    "cmp eax, 7",
    "jb 16f",
    parts::flush!(),
    // 7: reset, by an exception that nobody takes.
    "push 0",
    "push 0",
    "lidt [rsp]",
    "int3",
    // 0: wait for an interrupt; rdi: a TSC deadline, 0 for none. The interrupt's handler clears the interrupt flag.
    "10:",
    "test rdi, rdi",
    "jz 2f",
    "mov ecx, {deadline}",
    "mov eax, edi",
    "mov rdx, rdi",
    "shr rdx, 32",
    "wrmsr",
    "2:",
    "sti",
    "hlt",
    "iretq",
    // 1: page tables rdi, and bits rsi more in CR4.
    "11:",
    "mov cr3, rdi",
    "lgdt [kiln_gdt_register_copy]",
    "mov rax, cr4",
    "or rax, rsi",
    "mov cr4, rax",
    "iretq",
    // 2: rcx entries from rdi on become rsi, rsi + 4096 and so on, which map rdx and what follows.
    "12:",
    "mov [rdi], rsi",
    "invlpg [rdx]",
    "add rdi, 8",
    "add rsi, 4096",
    "add rdx, 4096",
    "dec rcx",
    "jnz 12b",
    "iretq",
    // 3: the entry at rdi.
    "13:",
    "mov rax, [rdi]",
    "iretq",
    // 4, 5: read and write a model-specific register.
    "14:",
    "mov ecx, edi",
    "rdmsr",
    "shl rdx, 32",
    "or rax, rdx",
    "iretq",
    "15:",
    "mov ecx, edi",
    "mov eax, esi",
    "mov rdx, rsi",
    "shr rdx, 32",
    "wrmsr",
    "iretq",
    // 6: the caller's interrupt flag becomes rdi.
    "16:",
    "and dword ptr [rsp + 16], 0xfffffdff",
    "or [rsp + 16], rdi",
    "iretq",
    parts::flush_page!(),

    "kiln_irq_device:",
    "or dword ptr [{mailbox} + {noted}], {device}",
    "jmp 20f",
    "kiln_irq_console:",
    "or dword ptr [{mailbox} + {noted}], {console}",
    "jmp 20f",
    "kiln_irq_power:",
    "or dword ptr [{mailbox} + {noted}], {power}",
    "20:",
    "push rax",
    parts::eoi!(),
    "mov dword ptr [rax], 0",
    "pop rax",
    "21:",
    "test byte ptr [rsp + 8], 3",
    "jnz 22f",
    "23:",
    "and dword ptr [rsp + 16], 0xfffffdff",
    "iretq",
    // QEMU leaves no stack segment where an exception has changed stacks without changing rings; nobody returns to ring 3 like that.
    "22:",
    "or byte ptr [rsp + 32], {data3}",
    "iretq",
    // The timer: the end of a wait, or a tick, which becomes a trap of the guest's code only.
    "kiln_irq_timer:",
    "push rax",
    parts::eoi!(),
    "mov dword ptr [rax], 0",
    "pop rax",
    "test byte ptr [rsp + 8], 3",
    "jz 23b",
    "cmp byte ptr [{mailbox} + {ticking}], 0",
    "je 22b",
    "cmp qword ptr [rsp], 0x200000",
    "jae 24f",
    parts::missed!(),
    "jmp 22b",
    "24:",
    "push 0",
    "push rax",
    "mov eax, offset kiln_tick3",
    "jmp 30f",
    // Only ring 0 can read the address.
    "kiln_page_fault:",
    "push rax",
    "mov rax, cr2",
    "mov [{mailbox} + {address}], rax",
    "mov eax, offset kiln_page_fault3",
    "30:",
    "mov [{mailbox} + {target}], rax",
    "pop rax",
    "pop qword ptr [{mailbox} + {error}]",
    "pop qword ptr [{mailbox} + {rip}]",
    "pop qword ptr [{mailbox} + {cs}]",
    "pop qword ptr [{mailbox} + {rflags}]",
    "pop qword ptr [{mailbox} + {rsp}]",
    "push offset {trap_stack} + {stack_size}",
    "push qword ptr [{mailbox} + {rflags}]",
    "and dword ptr [rsp], 0x202",
    "push {code3}",
    "push qword ptr [{mailbox} + {target}]",
    "iretq",
    "kiln_stub_end:",

    // Ring 3 from here on.
    "kiln_tick3:",
    "mov byte ptr [{mailbox} + {tick}], 1",
    "kiln_page_fault3:",
    "push {data3}",
    "push qword ptr [{mailbox} + {rsp}]",
    "push qword ptr [{mailbox} + {rflags}]",
    "push {code3}",
    "push qword ptr [{mailbox} + {rip}]",
    "push qword ptr [{mailbox} + {error}]",
    "push 14",
    "jmp kiln_exception",
    ".irp vector, 0, 1, 3, 5, 6, 7, 16, 19",
    "kiln_vector_\\vector:",
    "push 0",
    "push \\vector",
    "jmp kiln_exception",
    ".endr",
    ".irp vector, 8, 10, 11, 12, 13, 17, 21",
    "kiln_vector_\\vector:",
    "push \\vector",
    "jmp kiln_exception",
    ".endr",
    // Where `syscall` ends on hosts that run ring 3 natively and everything else not at all: in ring 3. It looks like the
    // exception that it is elsewhere.
    "kiln_system_call3:",
    "mov [{mailbox} + {rsp}], rsp",
    "mov esp, offset {trap_stack} + {stack_size}",
    "push {data3}",
    "push qword ptr [{mailbox} + {rsp}]",
    "push r11",
    "push {code3}",
    "sub rcx, 2",
    "push rcx",
    "push 0",
    "push 6",
    "kiln_exception:",
    parts::flags!(),
    "push r15",
    "push r14",
    "push r13",
    "push r12",
    "push r11",
    "push r10",
    "push r9",
    "push r8",
    "push rbp",
    "push rdi",
    "push rsi",
    "push rdx",
    "push rcx",
    "push rbx",
    "push rax",
    "mov rdi, rsp",
    "sub rsp, 512",
    // The trap's entry finds the floating-point registers as they were; the upper halves are used by nobody here.
    "fxsave64 [rsp]",
    "call {trap}",
    "fxrstor64 [rsp]",
    "add rsp, 512",
    "pop rax",
    "pop rbx",
    "pop rcx",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "pop rbp",
    "pop r8",
    "pop r9",
    "pop r10",
    "pop r11",
    "pop r12",
    "pop r13",
    "pop r14",
    "pop r15",
    "add rsp, 16",
    "iretq",

    // Not the entry's, which the guest's page tables leave out.
    "kiln_gdt_register_copy:",
    ".short kiln_gdt_end - kiln_gdt - 1",
    ".quad {supervisor} + {gdt}",
    // `kiln_machine::start::Parts`.
    ".balign 8",
    "kiln_parts:",
    ".quad kiln_stub_start, kiln_stub_end, kiln_gdt, kiln_machine_code, kiln_machine_code_end, kiln_machine_end",
    ".quad kiln_system_call3",
    ".long kiln_vector_0, kiln_vector_1, 0, kiln_vector_3, kiln_service, kiln_vector_5, kiln_vector_6, kiln_vector_7",
    ".long kiln_vector_8, 0, kiln_vector_10, kiln_vector_11, kiln_vector_12, kiln_vector_13, kiln_page_fault, 0",
    ".long kiln_vector_16, kiln_vector_17, 0, kiln_vector_19, 0, kiln_vector_21, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    ".long kiln_irq_timer, kiln_irq_device, kiln_irq_console, kiln_irq_power, 0, 0, 0, 21b, 0, 0, 0, 0, 0, 0, 0, 21b",
    parts::more!(),
    ".popsection",
    supervisor = sym SUPERVISOR,
    gdt = const offset_of!(Supervisor, gdt),
    deadline = const TSC_DEADLINE_MSR,
    eoi = const LAPIC_EOI,
    mailbox = sym MAILBOX,
    noted = const offset_of!(Mailbox, noted),
    ticking = const offset_of!(Mailbox, ticking),
    tick = const offset_of!(Mailbox, tick),
    address = const offset_of!(Mailbox, address),
    target = const offset_of!(Mailbox, target),
    error = const offset_of!(Mailbox, error),
    rip = const offset_of!(Mailbox, rip),
    cs = const offset_of!(Mailbox, cs),
    rflags = const offset_of!(Mailbox, rflags),
    rsp = const offset_of!(Mailbox, rsp),
    device = const noted::DEVICE,
    console = const noted::CONSOLE,
    power = const noted::POWER,
    trap_stack = sym TRAP_STACK,
    stack_size = const STACK_SIZE,
    code3 = const CODE3,
    data3 = const DATA3,
    trap = sym trap::trap,
);

// Where a program's `syscall` goes: to the library OS's entry in ring 3, with nothing changed but what the instruction itself
// changes. It lies on the stub's page and names everything by absolute address.
#[cfg(feature = "program")]
global_asm!(
    ".pushsection .text.kiln_call,\"ax\",@progbits",
    "kiln_call_start:",
    "mov [{supervisor} + {frame} + 24], rsp",
    "mov [{supervisor} + {frame} + 16], r11",
    // Trap, direction, nested task, alignment check.
    "and dword ptr [{supervisor} + {frame} + 16], ~0x44500",
    "mov esp, offset {supervisor} + {frame}",
    "iretq",
    "kiln_call_end:",
    // Comes back with the code segment it finds itself in.
    "kiln_probe:",
    "mov eax, cs",
    "test al, 3",
    "jnz 2f",
    "sysretq",
    "2:",
    "jmp rcx",
    ".popsection",
    supervisor = sym SUPERVISOR,
    frame = const offset_of!(Supervisor, frame),
);
