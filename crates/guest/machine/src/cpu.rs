//! The processor: instructions that Rust does not have, the services of the ring-0 stub, and the tables and stacks that
//! the processor itself reads and writes.
#![allow(unsafe_code)]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;

/// Selector of ring-0 code.
pub const CODE0: u16 = 0x10;
/// Selector of ring-3 code.
pub const CODE3: u16 = 0x33;
/// Selector of ring-3 data.
pub const DATA3: u16 = 0x2b;
/// Selector of the task state.
pub const TSS_SELECTOR: u16 = 0x38;

/// Descriptors of the interrupt table: the processor's exceptions and sixteen interrupts.
pub const VECTORS: usize = 48;
/// Limit of the interrupt table.
pub const IDT_LIMIT: u16 = (VECTORS * 16 - 1) as u16;
/// Limit of the task state: its fixed part, a bit for each port, all clear, and the byte that ends them.
pub const TSS_LIMIT: u16 = (TSS_FIXED + 8192) as u16;
const TSS_FIXED: usize = 104;

/// Interrupt vectors.
pub mod vector {
    /// The local timer.
    pub const TIMER: u8 = 32;
    /// Any virtio device.
    pub const DEVICE: u8 = 33;
    /// The serial port.
    pub const CONSOLE: u8 = 34;
    /// ACPI.
    pub const POWER: u8 = 35;
    /// What turns out to be none.
    pub const SPURIOUS: u8 = 47;
}

/// Bits of [`Mailbox::noted`].
pub mod noted {
    /// A device has interrupted.
    pub const DEVICE: u32 = 1;
    /// The serial port has.
    pub const CONSOLE: u32 = 2;
    /// ACPI has.
    pub const POWER: u32 = 4;
}

/// `IA32_TSC_DEADLINE`.
pub const TSC_DEADLINE_MSR: u32 = 0x6e0;
/// Where the local interrupt controller is told of the end of an interrupt.
pub const LAPIC_EOI: u64 = crate::reach::at(0xfee0_00b0);

/// Bytes of the stacks below.
pub const STACK_SIZE: usize = 16 * 1024;

/// What only ring 0 and the processor touch once the guest's page tables are in force.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Supervisor {
    /// The stub, copied here; the one page of these that is executable.
    pub stub: [u8; 4096],
    /// The task state and the ports' bits.
    pub tss: [u8; TSS_FIXED + 8192 + 8],
    /// The interrupt table.
    pub idt: [[u64; 2]; VECTORS],
    /// The segment descriptors.
    pub gdt: [u64; 9],
    /// Where system calls go, as `iretq` takes it: address, code, flags, stack, data.
    #[cfg(feature = "program")]
    pub frame: [u64; 5],
    /// The stack of the stub.
    pub stack: [u64; 63],
}

/// How the stub talks to ring 3.
#[derive(Debug)]
#[repr(C)]
pub struct Mailbox {
    /// Which kinds of interrupts have come, see [`noted`].
    pub noted: u32,
    /// 1 while timer interrupts of the guest's code are ticks.
    pub ticking: u8,
    /// 1 if the exception being handled is a tick.
    pub tick: u8,
    /// 1 if a tick has come while the machine part worked, where there are programs. The stub takes it for two behind `ticking`.
    pub missed: u8,
    /// Keeps the record free of padding.
    pub reserved: u8,
    /// The address of the last page fault.
    pub address: u64,
    /// Where the stub goes on in ring 3.
    pub target: u64,
    /// The interrupted state.
    pub error: u64,
    /// The interrupted state.
    pub rip: u64,
    /// The interrupted state.
    pub cs: u64,
    /// The interrupted state.
    pub rflags: u64,
    /// The interrupted state.
    pub rsp: u64,
}

/// A static that is not only Rust's.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: there is one processor; who touches these, and when, is said at each of them.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// With this value at start.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Where it is.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// Filled in by [`install`], afterwards the processor's.
pub static SUPERVISOR: Shared<Supervisor> = Shared::new(Supervisor {
    stub: [0; 4096],
    tss: [0; TSS_FIXED + 8192 + 8],
    idt: [[0; 2]; VECTORS],
    gdt: [0; 9],
    #[cfg(feature = "program")]
    frame: [0; 5],
    stack: [0; 63],
});

/// Written by the stub, read and cleared by ring 3, each a word at a time.
pub static MAILBOX: Shared<Mailbox> = Shared::new(Mailbox {
    noted: 0,
    ticking: 0,
    tick: 0,
    missed: 0,
    reserved: 0,
    address: 0,
    target: 0,
    error: 0,
    rip: 0,
    cs: 0,
    rflags: 0,
    rsp: 0,
});

/// The stack on which exceptions are handled.
pub static TRAP_STACK: Shared<[u8; STACK_SIZE]> = Shared::new([0; STACK_SIZE]);
/// The stack of the start.
pub static START_STACK: Shared<[u8; STACK_SIZE]> = Shared::new([0; STACK_SIZE]);

/// Where the linker has put the parts that only assembly knows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Parts {
    /// First address of the stub.
    pub stub_start: u64,
    /// Address behind it.
    pub stub_end: u64,
    /// The first segment descriptors.
    pub gdt: u64,
    /// First address of code and constants, the entry's left aside.
    pub code_start: u64,
    /// Address behind them.
    pub code_end: u64,
    /// Address behind the machine part's memory.
    pub end: u64,
    /// Where `syscall` would go.
    pub system_call: u64,
    /// The handlers by vector, 0 for none.
    pub handlers: [u32; VECTORS],
    /// First address of the stub's part for system calls.
    #[cfg(feature = "program")]
    pub call_start: u64,
    /// Address behind it.
    #[cfg(feature = "program")]
    pub call_end: u64,
    /// What finds out what `syscall` does.
    #[cfg(feature = "program")]
    pub probe: u64,
}

/// Where in the page of the stub its part for system calls lies.
#[cfg(feature = "program")]
pub const CALL_AT: usize = 2048;

const _: () = assert!(offset_of!(Mailbox, missed) == offset_of!(Mailbox, ticking) + 2);

/// Fills in the tables of interrupts and tasks, and copies the stub and the descriptors to where they stay.
///
/// # Safety
/// Called once, at the start, with the linker's addresses, while all memory is writable.
pub unsafe fn install(parts: &Parts) {
    // SAFETY: nobody else has a reference.
    let to = unsafe { &mut *SUPERVISOR.get() };
    let base = SUPERVISOR.get() as u64;
    let len = parts.stub_end.wrapping_sub(parts.stub_start).min(4096) as usize;
    // SAFETY: the linker's addresses; the stub is shorter than a page.
    unsafe {
        core::ptr::copy_nonoverlapping(parts.stub_start as *const u8, to.stub.as_mut_ptr(), len);
        to.gdt = *(parts.gdt as *const [u64; 9]);
    }
    #[cfg(feature = "program")]
    {
        let len = parts.call_end.wrapping_sub(parts.call_start).min(256) as usize;
        // SAFETY: the linker's addresses, and less than the rest of the page.
        unsafe {
            let place = to.stub.as_mut_ptr().add(CALL_AT);
            core::ptr::copy_nonoverlapping(parts.call_start as *const u8, place, len);
        }
        to.frame = [0, CODE3.into(), 0, 0, DATA3.into()];
    }
    let mut field = |at: usize, value: u64| {
        for (to, from) in to.tss.iter_mut().skip(at).zip(value.to_le_bytes()) {
            *to = from;
        }
    };
    // RSP0, IST1, and where the ports' bits are (SDM volume 3, figure 8-11).
    let stack = offset_of!(Supervisor, stack) + size_of::<[u64; 63]>();
    field(4, base + (stack & !15) as u64);
    field(36, TRAP_STACK.get() as u64 + STACK_SIZE as u64);
    field(102, TSS_FIXED as u64);
    for byte in to.tss.iter_mut().skip(TSS_LIMIT as usize) {
        *byte = 0xff;
    }
    for (vector, (gate, handler)) in to.idt.iter_mut().zip(parts.handlers).enumerate() {
        let handler = u64::from(handler);
        if handler == 0 {
            continue;
        }
        // int3 and `int 4` are for everybody.
        let ring = if vector == 3 || vector == 4 { 3 } else { 0 };
        *gate = if (parts.stub_start..parts.stub_end).contains(&handler) {
            gate_descriptor(
                handler - parts.stub_start + base,
                CODE0,
                0x8e | ring << 5,
                0,
            )
        } else {
            gate_descriptor(handler, CODE3, 0x8f | ring << 5, 1)
        };
    }
}

/// A gate to an address below 4 GiB (SDM volume 3, figure 6-8).
fn gate_descriptor(address: u64, selector: u16, kind: u64, ist: u64) -> [u64; 2] {
    let low = address & 0xffff | u64::from(selector) << 16;
    [
        low | ist << 32 | kind << 40 | (address >> 16 & 0xffff) << 48,
        0,
    ]
}

/// Sends `syscall` in ring 3 somewhere, on hosts that do not take it for undefined.
///
/// # Safety
/// `to` is the linker's address for that.
pub unsafe fn set_system_call(to: u64) {
    const LSTAR: u32 = 0xc000_0082;
    // SAFETY: every processor with long mode has the register; nothing else uses the instruction.
    unsafe { write_msr(LSTAR, to) };
}

/// Calls the stub.
///
/// # Safety
/// As the services say.
unsafe fn service(number: u64, arguments: [u64; 4]) -> u64 {
    let result;
    let [rdi, rsi, rdx, rcx] = arguments;
    // SAFETY: the stub changes no other registers and keeps the stack.
    unsafe {
        asm!(
            "int 4",
            inlateout("rax") number => result,
            inlateout("rdi") rdi => _, inlateout("rsi") rsi => _, inlateout("rdx") rdx => _, inlateout("rcx") rcx => _,
        );
    }
    result
}

/// Waits for an interrupt. With a `deadline` other than 0, the timer interrupts when the time-stamp counter gets there.
pub fn wait(deadline: u64) {
    // SAFETY: changes no memory but what interrupt handlers note.
    unsafe { service(0, [deadline, 0, 0, 0]) };
}

/// CR4: ring 0 executes no pages of ring 3.
pub const SMEP: u64 = 1 << 20;
/// CR4: ring 3 does not learn where the tables are.
pub const UMIP: u64 = 1 << 11;
/// CR4: `wrfsbase` and the like.
pub const FSGSBASE: u64 = 1 << 16;

/// Goes over to other page tables, and sets bits in CR4.
///
/// # Safety
/// They map this code, its stack and data, and the supervisor's pages, where they were.
pub unsafe fn switch(tables: u64, cr4: u64) {
    // SAFETY: the caller's.
    unsafe { service(1, [tables, cr4, 0, 0]) };
}

/// Sets `count` page-table entries from physical address `at` on: the first to `value`, each other to 4096 more than the
/// one before. They map `address` and the pages behind.
///
/// # Safety
/// They are entries of the lowest level of page tables that are mapped for ring 0, or `count` is 1, and nobody relies on
/// what they mapped before.
pub unsafe fn set_entries(at: u64, value: u64, address: u64, count: u64) {
    if count != 0 {
        // SAFETY: the caller's.
        unsafe { service(2, [at, value, address, count]) };
    }
}

/// Makes the processor forget what it knows of a page.
#[cfg(feature = "program")]
pub fn flush(address: u64) {
    // SAFETY: it only looks again.
    unsafe { service(8, [address, 0, 0, 0]) };
}

/// The page-table entry at a physical address.
///
/// # Safety
/// It lies in page tables that are mapped for ring 0.
pub unsafe fn entry(at: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { service(3, [at, 0, 0, 0]) }
}

/// Reads a model-specific register.
///
/// # Safety
/// The processor has it.
pub unsafe fn read_msr(register: u32) -> u64 {
    // SAFETY: the caller's.
    unsafe { service(4, [register.into(), 0, 0, 0]) }
}

/// Writes a model-specific register.
///
/// # Safety
/// The processor has it and takes the value, and nothing of what Rust relies on changes by it.
pub unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller's.
    unsafe { service(5, [register.into(), value, 0, 0]) };
}

/// Lets interrupts come at any time, or only in [`wait`].
pub fn set_interrupts(on: bool) {
    // SAFETY: the handlers keep all registers and touch only the mailbox.
    unsafe { service(6, [u64::from(on) << 9, 0, 0, 0]) };
}

/// Makes timer interrupts of the guest's code ticks, or not.
pub fn set_ticking(on: bool) {
    // SAFETY: the field is valid; the stub only reads it.
    unsafe { (&raw mut (*MAILBOX.get()).ticking).write_volatile(on.into()) };
    set_interrupts(on);
}

/// Which interrupts have been noted since the last call.
pub fn take_noted() -> u32 {
    // SAFETY: the field is valid and aligned, and never accessed otherwise.
    unsafe { core::sync::atomic::AtomicU32::from_ptr(&raw mut (*MAILBOX.get()).noted) }
        .swap(0, core::sync::atomic::Ordering::Relaxed)
}

/// Ends the machine by an exception that cannot be delivered.
pub fn triple_fault() -> ! {
    loop {
        // SAFETY: there is nothing left to protect.
        unsafe { service(7, [0; 4]) };
    }
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and CR4.TSD is clear.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A random number of the processor's; `None` if it has none ready.
///
/// # Safety
/// The processor has `rdrand`.
pub unsafe fn hardware_random() -> Option<u64> {
    let value: u64;
    let good: u8;
    // SAFETY: the caller's.
    unsafe {
        asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) good, options(nomem, nostack));
    }
    (good != 0).then_some(value)
}

/// Reads a byte from a port.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: the ports' bits are clear; reading from a device changes no memory.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Reads two bytes from a port.
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as in `in8`.
    unsafe {
        asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Reads four bytes from a port.
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as in `in8`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes a byte to a port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: the ports' bits are clear; no device that is driven by ports is given memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}

/// Writes two bytes to a port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as in `out8`.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags));
    }
}

/// Writes four bytes to a port.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as in `out8`.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags));
    }
}

/// Writes bytes to a port, one after the other: where the host emulates devices, one exit for all of them.
pub fn out_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: as in `out8`; only `bytes` is read.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags),
        );
    }
}
