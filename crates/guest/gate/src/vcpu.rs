//! The guest in a virtual machine: what the gate does on the `kvm` backend.
//!
//! The process is the same as on the `process` backend, sealed in the same way, with the guest's memory at the same
//! addresses. Only the guest's instructions run elsewhere: on a virtual CPU whose page tables map the guest's memory at
//! the addresses that it has here, all of it in ring 3. What the guest executes instead of a call into this code is one
//! `out` to a port; what stands for a signal is an exception whose handler is another such `out`.
//! [`run`] goes round between the two.
//!
//! Nothing in the shared record of the virtual CPU is the guest's to write, but the registers are: they are checked like
//! everything else.

use core::cell::Cell;

use kiln_abi::op::{OpError, Protection, Segment};
use kiln_abi::perform::Memory;
use kiln_abi::trap::{TrapFrame, is_host_call, signal_of};

use crate::memory::GuestMemory;
use crate::paging::{Access, Tables};
use crate::state::{FIRST_DEVICE_FD, PROGRAM_FDS, Range, State, state};
use crate::sys::{self, errno};
use crate::{enter, trap};

/// The port of the guest's call: `rdi` holds the call's address.
pub const PORT_ENTER: u16 = 0x10;
/// The port of exceptions: `rsp` points to vector, error code and the processor's frame.
pub const PORT_TRAP: u16 = 0x11;
/// The port behind a `syscall` instruction: `rcx` and `r11` hold what `rip` and the flags were.
pub const PORT_SYSCALL: u16 = 0x12;

/// The exit reasons of `<linux/kvm.h>` that are told apart.
mod exit {
    pub const IO: u32 = 2;
    pub const SHUTDOWN: u32 = 8;
    pub const INTR: u32 = 10;
    pub const INTERNAL_ERROR: u32 = 17;
}

/// `KVM_SYNC_X86_REGS`.
pub const SYNC_REGS: u64 = 1;

/// `struct kvm_regs`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the registers'")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8_to_r15: [u64; 8],
    pub rip: u64,
    pub rflags: u64,
}

/// `struct kvm_run`, as far as it is used.
#[derive(Debug)]
#[repr(C)]
pub struct Run {
    request_interrupt_window: u8,
    /// Makes `KVM_RUN` return at once with `EINTR`.
    pub immediate_exit: u8,
    padding: [u8; 6],
    exit_reason: u32,
    /// Not 0 if nothing is under way to the guest: no exception, no interrupt.
    ready: u8,
    state: [u8; 19],
    direction: u8,
    size: u8,
    port: u16,
    rest_of_exit: [u8; 252],
    /// Which registers the kernel leaves here on every exit.
    pub valid_registers: u64,
    /// Which registers the kernel takes from here on the next entry.
    pub dirty_registers: u64,
    /// The general registers.
    pub registers: Registers,
}

/// The virtual machine, as the gate needs to know it. All zero on the `process` backend.
#[derive(Debug)]
#[repr(C)]
pub struct Machine {
    /// The virtual CPU's record, shared with the kernel; null if there is no virtual machine.
    pub run: *mut Run,
    /// Pages for page tables.
    pub tables: *mut u64,
    /// How many.
    pub table_pages: u64,
    /// Their physical address in the guest.
    pub tables_physical: u64,
    /// How many are used.
    pub tables_used: Cell<u64>,
    /// Upper end of the stack on which the processor delivers exceptions, in the guest.
    pub exception_stack: u64,
    /// What lies there after an exception, in this process.
    pub exception_frame: *const u64,
    /// The guest's code for flushing its TLB.
    pub flush: u64,
    /// The machine's own pages in the guest: ring 0, stubs, stacks.
    pub own: Range,
    /// True if the processor walks the guest's page tables itself.
    pub walks: bool,
    /// Page tables were changed: the guest must flush its TLB before it goes on.
    pub stale: Cell<bool>,
    /// Where the code behind a `syscall` instruction finds where to go on, in ring 3 and in ring 0.
    pub calls: [*mut u64; 2],
    /// What the guest has of its program's memory.
    pub chunks: Chunks,
    /// The part of its own memory that it gets when it comes to it.
    pub rest: Rest,
}

/// Memory of the guest that becomes a slot of the machine when it is first touched: KVM takes time and memory for each page of a slot,
/// used or not, and most guests never come that far. Empty for guests without a program.
#[derive(Debug)]
#[repr(C)]
pub struct Rest {
    /// Where it lies, in the guest as in this process.
    pub range: Range,
    /// Its physical address.
    pub physical: u64,
    /// Its memory slot.
    pub slot: u32,
    /// The guest has it.
    pub there: Cell<bool>,
}

/// The parts of the user range that are the guest's physical memory. All zero for guests without a program.
#[derive(Debug)]
#[repr(C)]
pub struct Chunks {
    /// For each chunk of the user range its place among those in use, from 1 on; 0 if it is not.
    pub places: *mut Cell<u16>,
    /// Physical address of the first.
    pub physical: u64,
    /// The memory slot of the first.
    pub slot: u32,
    /// How many there may be.
    pub most: u32,
    /// How many there are.
    pub used: Cell<u32>,
}

/// Words that the processor and the guest's stub push for an exception: vector, error, rip, cs, rflags, rsp, ss.
const FRAME_WORDS: usize = 7;
/// Bytes of them.
pub const FRAME_BYTES: u64 = FRAME_WORDS as u64 * 8;

/// Flags that are a program's own: carry, parity, adjust, zero, sign, overflow, identification.
const PROGRAM_FLAGS: u64 = 0x20_08d5;
/// Flags that are set throughout: interrupts, and one that always is.
const ALWAYS_FLAGS: u64 = 0x202;

/// The descriptor of the virtual CPU: behind the devices' and a program's. For guests with a program the machine's own follows.
pub const fn vcpu_fd(devices: u32, program: bool) -> i32 {
    let behind = if program { PROGRAM_FDS } else { 0 };
    FIRST_DEVICE_FD + devices.cast_signed() + behind
}

/// Runs the guest until it ends.
///
/// # Safety
/// The process is sealed, the monitor has made the virtual machine and put its first state into it.
pub unsafe extern "C" fn run() -> ! {
    // SAFETY: the monitor has filled the state in.
    let state = unsafe { state() };
    let fd = vcpu_fd(state.device_count, state.program.runs);
    let run = state.machine.run;
    loop {
        let result = sys::kvm_run(fd);
        // SAFETY: the record is mapped as long as the process lives. The kernel writes to it only inside of the call
        // above, and the signal handler only to a field of which no reference is made here.
        let (reason, port) = unsafe { ((*run).exit_reason, (*run).port) };
        if result == errno::EINTR || (result >= 0 && reason == exit::INTR) {
            // SAFETY: as above; volatile, for a signal handler writes to it.
            let ticked = unsafe {
                let flag = &raw mut (*run).immediate_exit;
                let ticked = flag.read_volatile() != 0;
                flag.write_volatile(0);
                ticked
            };
            if ticked {
                tick(state);
            }
            continue;
        }
        if result == errno::EAGAIN {
            continue;
        }
        if result < 0 {
            let what = if result == errno::EFAULT {
                "the host has no memory for the guest"
            } else {
                "the virtual CPU cannot run"
            };
            stop(state, 11, what);
        }
        match reason {
            exit::IO if state.program.runs && !from_stub(state) => port_of_program(state, fd),
            exit::IO if port == PORT_ENTER => call(state),
            exit::IO if port == PORT_TRAP => exception(state, fd),
            exit::IO if port == PORT_SYSCALL => system_call(state),
            // KVM may have reset the registers by now (it does on AMD's processors): they say nothing.
            exit::SHUTDOWN => {
                trap::end_with_fault(None, "the virtual CPU has shut down (triple fault)")
            }
            exit::INTERNAL_ERROR => stop(state, 4, "the host cannot emulate an instruction"),
            _ => stop(
                state,
                11,
                "the virtual CPU has stopped for a reason unknown here",
            ),
        }
    }
}

/// Forgets a tick that has not arrived yet.
pub fn forget_tick(state: &State) {
    // SAFETY: as in `kick`.
    unsafe { (&raw mut (*state.machine.run).immediate_exit).write_volatile(0) };
}

/// The signal handler's part of a tick: the virtual CPU comes back from, or does not enter, the guest.
pub fn kick(state: &State) {
    // SAFETY: the record is mapped as long as the process lives.
    unsafe { (&raw mut (*state.machine.run).immediate_exit).write_volatile(1) };
}

fn registers(state: &State) -> Registers {
    // SAFETY: as in `run`.
    unsafe { (*state.machine.run).registers }
}

fn set_registers(state: &State, registers: Registers) {
    // SAFETY: as in `run`.
    unsafe {
        (*state.machine.run).registers = registers;
        (*state.machine.run).dirty_registers = SYNC_REGS;
    }
}

/// Whether what has come to a port has come from the machine's own code.
fn from_stub(state: &State) -> bool {
    state.machine.own.contains(registers(state).rip, 1)
}

/// A program that tries the stubs' ports itself: to it they are closed like all others.
fn port_of_program(state: &State, fd: i32) {
    const GENERAL_PROTECTION: u32 = 13;
    let registers = registers(state);
    // KVM finishes the instruction first, and then says so in place of running on.
    kick(state);
    sys::kvm_run(fd);
    forget_tick(state);
    let frame = TrapFrame {
        vector: GENERAL_PROTECTION,
        signal: signal_of(GENERAL_PROTECTION),
        ..frame_of(&registers)
    };
    deliver(state, registers, &frame);
}

/// The guest's call.
fn call(state: &State) {
    let mut registers = registers(state);
    // SAFETY: the guest's call, in a sealed process.
    unsafe { enter::enter(registers.rdi) };
    if state.machine.stale.replace(false) {
        // There the guest returns from its call by way of a flush.
        registers.rip = state.machine.flush;
        set_registers(state, registers);
    }
}

/// Changes what the guest may do with pages of its memory, as far as its page tables say it.
///
/// The caller changes this process's mapping of the same pages likewise: that is how a KVM that shadows the guest's page
/// tables learns of it, since it notices only what the guest itself writes to them. Where the processor walks them
/// itself, the flush makes it look again.
///
/// # Errors
/// [`OpError::Invalid`] if a page of the range is not mapped, [`OpError::NoSpace`] if the host has no memory for it.
pub fn protect(state: &State, range: Segment, protection: Protection) -> Result<(), OpError> {
    let machine = &state.machine;
    if machine.rest.is_missing(range) {
        give_rest(state)?;
    }
    let access = match protection {
        Protection::None => Access::None,
        Protection::Read => Access::Read,
        Protection::ReadWrite => Access::ReadWrite,
    };
    machine
        .change(|tables| tables.protect(range.addr, range.len, access))
        .map_err(|_| OpError::Invalid)
}

impl Rest {
    /// Whether it is yet to come, and a part of `range`.
    fn is_missing(&self, range: Segment) -> bool {
        !self.there.get()
            && range.addr < self.range.end
            && range.addr.saturating_add(range.len) > self.range.start
    }
}

/// Gives the guest the rest of its memory.
fn give_rest(state: &State) -> Result<(), OpError> {
    let rest = &state.machine.rest;
    let (start, len) = (rest.range.start, rest.range.end - rest.range.start);
    let machine = vcpu_fd(state.device_count, state.program.runs) + 1;
    if sys::kvm_add_memory(machine, rest.slot, rest.physical, len, start) < 0 {
        return Err(OpError::NoSpace);
    }
    rest.there.set(true);
    state
        .machine
        .change(|tables| tables.protect(start, len, Access::ReadWrite))
        .map_err(|_| OpError::NoSpace)
}

impl Chunks {
    /// Those of a guest without a program.
    pub const fn none() -> Self {
        Self {
            places: core::ptr::null_mut(),
            physical: 0,
            slot: 0,
            most: 0,
            used: Cell::new(0),
        }
    }
}

impl Machine {
    /// Changes the guest's page tables.
    pub fn change<T>(&self, change: impl FnOnce(&mut Tables<'_>) -> T) -> T {
        // SAFETY: the monitor gave these pages to the page tables alone. The guest does not run meanwhile.
        let words = unsafe {
            core::slice::from_raw_parts_mut(self.tables, self.table_pages as usize * 512)
        };
        let used = self.tables_used.get() as usize;
        let mut tables = Tables::new(words, self.tables_physical, used);
        let result = change(&mut tables);
        self.tables_used.set(tables.used() as u64);
        self.stale.set(self.walks);
        result
    }
}

/// The state of the guest as a trap frame, of an exception yet unknown.
fn frame_of(registers: &Registers) -> TrapFrame {
    let r = registers;
    let mut frame = TrapFrame {
        registers: [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
        rip: r.rip,
        rflags: r.rflags,
        ..TrapFrame::default()
    };
    for (to, from) in frame.registers.iter_mut().skip(8).zip(r.r8_to_r15) {
        *to = from;
    }
    frame
}

/// An exception of the guest's code.
fn exception(state: &State, fd: i32) {
    const PAGE_FAULT: u32 = 14;
    let registers = registers(state);
    let mut frame = frame_of(&registers);
    if registers.rsp != state.machine.exception_stack.wrapping_sub(FRAME_BYTES) {
        // Not the processor's doing: the guest has jumped into the stub or knocked at the port.
        trap::end_with_fault(
            Some(&signalled(frame, 11)),
            "the port of exceptions was written to",
        );
    }
    let mut words = [0u64; FRAME_WORDS];
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: the page of the exception stack is mapped, and the guest does not run.
        *word = unsafe { state.machine.exception_frame.add(index).read_volatile() };
    }
    let [vector, error, rip, _, rflags, rsp, _] = words;
    frame.vector = vector as u32;
    frame.error = error as u32;
    frame.rip = rip;
    frame.rflags = rflags;
    if let Some(slot) = frame.registers.get_mut(TrapFrame::RSP) {
        *slot = rsp;
    }
    if frame.vector == PAGE_FAULT {
        frame.address = sys::kvm_fault_address(fd);
        let touched = Segment {
            addr: frame.address,
            len: 1,
        };
        if state.machine.rest.is_missing(touched) {
            return go_on_with_rest(state, registers, &frame);
        }
    }
    let mut code = [0u8; 2];
    if GuestMemory.read(rip, &mut code).is_ok() && is_host_call(frame.vector, code) {
        frame = host_call(frame, &registers);
    } else {
        frame.signal = signal_of(frame.vector);
    }
    deliver(state, registers, &frame);
}

/// The guest has come to the rest of its memory: it gets it, and tries again.
fn go_on_with_rest(state: &State, mut registers: Registers, frame: &TrapFrame) {
    const DIRECTION: u64 = 1 << 10;
    if give_rest(state).is_err() {
        stop(state, 11, "the host has no memory for the guest");
    }
    registers.rip = frame.rip;
    registers.rsp = frame.registers[TrapFrame::RSP];
    registers.rflags = frame.rflags & (PROGRAM_FLAGS | DIRECTION) | ALWAYS_FLAGS;
    set_registers(state, registers);
}

/// A `syscall` instruction in the guest.
fn system_call(state: &State) {
    let registers = registers(state);
    let mut frame = host_call(frame_of(&registers), &registers);
    frame.rip = registers.rcx;
    frame.rflags = registers.r8_to_r15[3];
    deliver(state, registers, &frame);
}

/// A frame that tells of an attempt to call the host, the number of which is a register's lower half.
fn host_call(frame: TrapFrame, registers: &Registers) -> TrapFrame {
    TrapFrame {
        vector: TrapFrame::HOST_CALL,
        address: registers.rax & u64::from(u32::MAX),
        signal: 31,
        ..frame
    }
}

fn signalled(frame: TrapFrame, signal: u32) -> TrapFrame {
    TrapFrame { signal, ..frame }
}

/// The tick timer has expired.
fn tick(state: &State) {
    let registers = registers(state);
    let mut frame = frame_of(&registers);
    frame.vector = TrapFrame::TICK;
    // Asked for as such (`KVM_GET_VCPU_EVENTS`), KVM is silent about the exceptions of `int3` and `into`: sent to its trap entry,
    // the guest would find one there.
    // SAFETY: as in `run`.
    let pending = unsafe { (*state.machine.run).ready == 0 };
    if state.program.calls.get() != 0 {
        if pending || !trap::in_program(state, registers.rip) {
            trap::defer_tick(state);
        } else {
            deliver(state, registers, &signalled(frame, 14));
        }
        return;
    }
    // In ring 0, on its way there for a flush, or in the entry of an exception the guest must not be sent elsewhere.
    let busy = state.machine.own.contains(registers.rip, 1)
        || trap::in_trap(state, registers.rsp)
        || state.trap_entry.get() == 0
        || pending;
    if !busy {
        deliver(state, registers, &signalled(frame, 14));
    }
}

/// Sends the guest to its trap entry with `frame`.
fn deliver(state: &State, mut registers: Registers, frame: &TrapFrame) {
    let entry = trap::deliver(state, frame);
    registers.rdi = entry.frame;
    registers.rsp = entry.stack;
    registers.rip = entry.code;
    // Whatever the guest has put there: ring 3 keeps interrupts on and ports closed.
    registers.rflags = frame.rflags & PROGRAM_FLAGS | ALWAYS_FLAGS;
    set_registers(state, registers);
}

/// The guest's state as it called, for a fault of the gate itself.
pub fn caller(state: &State) -> TrapFrame {
    signalled(frame_of(&registers(state)), 11)
}

/// Ends the guest because its virtual CPU cannot go on.
fn stop(state: &State, signal: u32, what: &str) -> ! {
    let frame = signalled(frame_of(&registers(state)), signal);
    trap::end_with_fault(Some(&frame), what)
}
