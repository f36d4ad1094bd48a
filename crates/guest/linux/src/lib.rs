//! The Linux personality: unmodified x86-64 Linux programs as unikernels.
//!
//! A program's `syscall` instructions arrive in `arch`, which saves its registers on the kernel stack of the thread that
//! made the call and asks [`syscalls`] for the answer. A call is an ordinary function of its thread and six arguments; when
//! it has to wait it sleeps on a [`WaitQueue`](wait::WaitQueue), and another thread has the processor meanwhile. There is one virtual
//! CPU and the library OS is never preempted, so its state lies in [`Rc`](alloc::rc::Rc)s and cells; what must not happen is that a borrow of a
//! cell is held while sleeping.
//!
//! | module | its part |
//! | --- | --- |
//! | [`platform`] | what the rest needs of the ground it stands on: the program's memory, clocks, console, switching |
//! | `arch` | entry and return, traps, thread switches, patching of call sites (in guests only) |
//! | [`user`], [`io`] | checked access to the program's memory |
//! | [`wait`] | sleeping and waking |
//! | [`process`] | processes and threads, the scheduler, futexes, credentials, limits |
//! | [`signal`], [`time`] | signals, clocks and timers |
//! | [`mm`], [`loader`] | address space; ELF files, the first stack, the vDSO |
//! | [`fs`] | files, folders, descriptors: VFS, root image, tmpfs |
//! | [`dev`], [`proc`] | `/dev`, `/proc`, `/sys` |
//! | [`event`] | pipes, eventfd, timerfd, signalfd, epoll, poll |
//! | [`net`] | sockets |
//! | [`ipc`] | shared memory and semaphores of System V |
//! | [`shortage`] | what is refused while memory runs low |
//! | [`report`] | what a program used of all this, and what it may use |
//! | [`syscalls`] | the calls, a family to a file, and the table of them |
//!
//! Everything but `arch` and the guest's half of [`platform`] is free of `unsafe` and of the machine: `cargo test` runs it as an ordinary
//! program on a pretended platform ([`platform`]).
#![no_std]
#![allow(
    clippy::unnecessary_wraps,
    clippy::unused_self,
    reason = "system calls, files and inodes each share one signature, whether or not one of them can fail"
)]
#![allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "registers and records of the system-call interface say nothing of signs: each call reads them its way"
)]
#![allow(
    clippy::match_same_arms,
    clippy::single_match_else,
    clippy::decimal_bitwise_operands,
    clippy::similar_names,
    reason = "tables of numbers are written as the headers and man pages write them"
)]

extern crate alloc;
#[cfg(not(kiln_guest))]
extern crate std;

pub mod abi;
#[cfg(kiln_guest)]
pub mod arch;
pub mod callsite;
pub mod dev;
pub mod errno;
pub mod event;
pub mod fs;
pub mod io;
pub mod ipc;
pub mod kernel;
pub mod loader;
pub mod mm;
pub mod net;
pub mod platform;
pub mod proc;
pub mod process;
pub mod report;
pub mod shortage;
pub mod signal;
pub mod syscalls;
pub mod time;
pub mod user;
pub mod wait;

pub use errno::{Errno, Result};
pub use kernel::kernel;
