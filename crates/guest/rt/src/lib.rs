//! The bottom of a Kiln guest: from its first instruction to the program's `main`, and what runs beneath it.
//!
//! A guest has one virtual CPU and one thread of control. The program is a set of futures on one executor
//! ([`task`]); when none of them can go on, the guest waits in its one call to the monitor ([`monitor`]) for a device
//! or a timer. It never spins.
//!
//! | module | its part |
//! | --- | --- |
//! | [`start`] | first instructions, self-relocation, order of start-up, the end |
//! | [`boot`] | what the monitor said at boot: arguments, environment, devices |
//! | [`monitor`] | the call, as a trait with one implementation per backend |
//! | [`memory`] | the heap behind `alloc` |
//! | [`random`] | the generator |
//! | [`time`] | clocks, sleeping |
//! | [`task`] | the executor |
//! | [`reactor`] | devices with queues: one batch for all of them |
//! | [`console`] | printing, `log` |
//! | [`block`] | disks |
//! | [`metrics`] | counters that the host reads |
//! | [`net`] | the network stack on the guest's links (feature `net`) |
//! | [`shutdown`] | being asked to stop |
//! | [`trap`], [`panic`](mod@panic), [`backtrace`] | when things go wrong |
//!
//! Application authors use the facade crate `kiln`, which re-exports what they need. `unsafe` lives in `start`,
//! `boot`, `monitor`, `memory`, `trap`, `backtrace`, `sync` and `task`.
//!
//! Compiled without `--cfg kiln_guest` (that is, for an ordinary host) the crate has no start code, no panic handler
//! and no allocator; it can be checked and documented, but not run.
#![no_std]

extern crate alloc;
#[cfg(kiln_guest)]
extern crate kiln_mem;

pub mod backtrace;
pub mod block;
pub mod boot;
pub mod console;
pub mod memory;
pub mod metrics;
pub mod monitor;
#[cfg(feature = "net")]
pub mod net;
pub mod panic;
pub mod random;
pub mod reactor;
pub mod shutdown;
pub mod start;
pub mod sync;
pub mod task;
pub mod time;
pub mod trap;
