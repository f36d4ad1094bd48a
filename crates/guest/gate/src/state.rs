//! What the gate knows of its instance. The monitor fills it in before the guest runs.

use core::cell::{Cell, UnsafeCell};

use kiln_abi::MAX_DEVICES;

use crate::report::Report;
use crate::traffic::Traffic;
use crate::vcpu::Machine;

/// Descriptor on which the owner's wishes arrive, four bytes each ([`Call::event`](kiln_abi::Call::event)).
pub const CONTROL_FD: i32 = 0;
/// Descriptor of the console.
pub const CONSOLE_FD: i32 = 1;
/// Descriptor of the console's stream for errors; with most guests the same once more.
pub const ERRORS_FD: i32 = 2;
/// Descriptor of device 0; the others follow.
pub const FIRST_DEVICE_FD: i32 = 3;

/// The signal that ticks arrive by.
pub const TICK_SIGNAL: i32 = 14;

/// Bytes of the stack on which signals are handled. The frame of a processor with AVX-512 takes 3.6 KiB.
pub const SIGNAL_STACK: usize = 16 * 1024;

/// Bytes of the gate's own stack: what a call needs, and a page more.
pub const OWN_STACK: usize = kiln_abi::call::STACK_NEEDED + 4096;

/// The most instructions of a seccomp filter that fit.
pub const MAX_FILTER: usize = 4096;

/// Bytes of a [`State`], and so of the writable part of the gate.
pub const STATE_SIZE: usize = size_of::<State>();

/// A range of addresses.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
}

impl Range {
    /// True if `len` bytes from `addr` on lie inside.
    pub fn contains(&self, addr: u64, len: u64) -> bool {
        addr >= self.start && addr.checked_add(len).is_some_and(|end| end <= self.end)
    }
}

/// One attached device.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DeviceState {
    /// A [`DeviceKind`](kiln_abi::DeviceKind).
    pub kind: u32,
    /// As in [`DeviceInfo::flags`](kiln_abi::DeviceInfo::flags).
    pub flags: u32,
    /// Disks: capacity in bytes.
    pub capacity: u64,
    /// Disks: sector size in bytes.
    pub sector_size: u32,
    /// Keeps the record free of padding.
    pub reserved: u32,
}

/// What a guest has that runs a program. All zero if it does not.
#[derive(Debug)]
#[repr(C)]
pub struct Program {
    /// It does.
    pub runs: bool,
    /// Descriptor of the guest's memory.
    pub memory_fd: i32,
    /// Descriptor of the file with the root image.
    pub root_fd: i32,
    /// Descriptor of the console's input.
    pub input_fd: i32,
    /// Where the free memory begins in the file of the guest's memory.
    pub free_offset: u64,
    /// Where the root image begins in its file.
    pub root_offset: u64,
    /// Its length in whole pages; 0 if there is none.
    pub root_size: u64,
    /// Where the program's system calls go; 0 for nowhere.
    pub calls: Cell<u64>,
    /// The word that tells of a tick that was not delivered.
    pub deferred: Cell<u64>,
    /// The program, which is stepped through, is about to go on.
    pub arriving: Cell<bool>,
}

/// How many descriptors a [`Program`] has.
pub const PROGRAM_FDS: i32 = 3;

/// Where the descriptors of a [`Program`] begin: behind the devices'. First the memory's, then the root image's, then the
/// input's.
pub const fn program_fds(devices: u32) -> i32 {
    FIRST_DEVICE_FD + devices.cast_signed()
}

/// Everything the gate knows.
#[derive(Debug)]
#[repr(C)]
pub struct State {
    /// The page shared with the supervisor.
    pub report: *mut Report,
    /// What is shared with the supervisor about links, on the same page.
    pub traffic: *const Traffic,
    /// Where copies of frames go; null if there is no such place.
    pub ring: *mut u8,
    /// The gate's own code.
    pub code: Range,
    /// What stays mapped when the process is sealed, sorted, not overlapping; unused entries are empty.
    pub keep: [Range; 8],
    /// What the guest may read: its whole image, boot record, stacks, free memory.
    pub readable: [Range; 8],
    /// What the guest may write, and release or protect. A part of the above.
    pub writable: [Range; 8],
    /// The image's writable segments, which once made read-only stay so. A part of the above.
    pub image_data: Range,
    /// Memory that releasing really frees.
    pub free: Range,
    /// Executable part of the image, where a trap entry must lie.
    pub text: Range,
    /// Where the guest starts.
    pub entry: u64,
    /// Its first stack pointer.
    pub stack_top: u64,
    /// Address of its boot record.
    pub boot: u64,
    /// Where traps go; 0 for nowhere.
    pub trap_entry: Cell<u64>,
    /// The stack for them.
    pub trap_stack: Cell<Range>,
    /// The timer that makes ticks, by `timer_create`; negative for none.
    pub timer: i32,
    /// Number of devices.
    pub device_count: u32,
    /// The devices.
    pub devices: [DeviceState; MAX_DEVICES],
    /// The virtual machine that the guest runs in, if it does.
    pub machine: Machine,
    /// The program that the guest runs, if it does.
    pub program: Program,
    /// True once the gate has begun to end the process.
    pub ending: Cell<bool>,
    /// Number of filter instructions.
    pub filter_len: u16,
    /// The seccomp filter.
    pub filter: [u64; MAX_FILTER],
    /// The stack on which signals are handled.
    pub signal_stack: [u64; SIGNAL_STACK / 8],
    /// The stack of the gate itself, if the guest's is in a virtual machine.
    pub own_stack: [u64; OWN_STACK / 8],
}

/// A static that only one thread ever touches.
#[repr(transparent)]
struct Single<T>(UnsafeCell<T>);

// SAFETY: the gate's process has one thread; signal handlers on it take turns with the code they interrupt and are
// written for that.
unsafe impl<T> Sync for Single<T> {}

/// The state itself. In the blob it lies on the pages behind the code, and the monitor finds it through the header.
#[unsafe(export_name = "kiln_gate_state")]
static STATE: Single<core::mem::MaybeUninit<State>> =
    Single(UnsafeCell::new(core::mem::MaybeUninit::zeroed()));

/// The instance's state.
///
/// # Safety
/// The monitor has filled the state in.
pub unsafe fn state() -> &'static State {
    // SAFETY: the caller's promise. From here on the state changes only through its cells.
    unsafe { (*STATE.0.get()).assume_init_ref() }
}
