//! What there is one of: the state that all processes share.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::fs::Vfs;
use crate::loader::vdso::Vdso;
use crate::mm::ActiveMemory;
use crate::net::Network;
use crate::process::Processes;
use crate::process::futex::Futexes;
use crate::process::sched::Scheduler;
use crate::syscalls::Counters;
use crate::time::Timers;

/// The personality's state. Every part looks after its own inner mutability.
#[derive(Debug)]
pub struct Kernel {
    /// Processes by their number.
    pub processes: Processes,
    /// The address space that the processor has at hand.
    pub active_memory: ActiveMemory,
    /// What tells programs the time without a call.
    pub vdso: Vdso,
    /// Shared memory and semaphores of System V.
    pub ipc: crate::ipc::State,
    /// Where core files go.
    pub core: crate::process::core_file::Store,
    /// The run queue.
    pub scheduler: Scheduler,
    /// Mounted file systems.
    pub vfs: Vfs,
    /// Timers that wait.
    pub timers: Timers,
    /// What descriptors for events share.
    pub event: crate::event::State,
    /// The console and the terminals.
    pub dev: crate::dev::State,
    /// What `/proc` keeps.
    pub proc: crate::proc::State,
    /// Interfaces and what sockets share.
    pub network: Network,
    /// How often each system call was made, and what is not implemented.
    pub counters: Counters,
    /// Monotonic nanoseconds when the machine came up: `/proc/uptime`, `sysinfo(2)`.
    pub booted: u64,
    /// Print every call (`kiln run --strace`).
    pub trace_calls: Cell<bool>,
    /// What is watched of calls, and which are allowed.
    pub watch: crate::report::Watch,
    /// Those who wait for words of memory.
    pub futexes: Futexes,
    /// What the last `sendfile(2)` has copied through, if it was short, for the next.
    pub passage: RefCell<Vec<u8>>,
    /// Bytes of memory that are kept free ([`shortage`](crate::shortage)); 0 until somebody asks.
    pub reserve: Cell<u64>,
    /// `sethostname(2)`.
    pub hostname: RefCell<Vec<u8>>,
    /// `setdomainname(2)`.
    pub domain_name: RefCell<Vec<u8>>,
}

impl Kernel {
    /// A machine without processes and with an empty root.
    pub fn new() -> Self {
        Self {
            processes: Processes::default(),
            active_memory: ActiveMemory::default(),
            vdso: Vdso::default(),
            ipc: crate::ipc::State::default(),
            core: crate::process::core_file::Store::default(),
            scheduler: Scheduler::default(),
            vfs: Vfs::default(),
            timers: Timers::default(),
            event: crate::event::State::default(),
            dev: crate::dev::State::default(),
            proc: crate::proc::State::default(),
            network: Network::default(),
            counters: Counters::default(),
            booted: crate::platform::now(),
            trace_calls: Cell::new(false),
            watch: crate::report::Watch::default(),
            futexes: Futexes::default(),
            passage: RefCell::default(),
            reserve: Cell::new(0),
            hostname: RefCell::new(b"kiln".to_vec()),
            domain_name: RefCell::new(b"(none)".to_vec()),
        }
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

/// The machine that the caller runs on: in a guest there is one, in tests one for each thread of the test program.
pub fn kernel() -> Rc<Kernel> {
    crate::platform::kernel()
}
