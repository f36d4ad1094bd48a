//! What the personality needs of the ground it stands on.
//!
//! In a guest that is the Kiln ABI and the processor; in tests an imitation ([`pretend`]) with memory of its own, a clock that
//! jumps to the next deadline, and no switching: a thread that would sleep finds its deadline passed, or a signal if it has none.
//! Both have the same functions.

use alloc::rc::Rc;

use crate::Result;
use crate::kernel::Kernel;

#[cfg(kiln_guest)]
mod guest;
#[cfg(kiln_guest)]
use guest as ground;
#[cfg(kiln_guest)]
pub use guest::{begin, run};
#[cfg(kiln_guest)]
pub(crate) use guest::{
    frames_leave_if_late, guard, kernel_ref, look_around, plan_tick, plan_tick_if_earlier,
    protect_both, wait_for_next,
};
#[cfg(not(kiln_guest))]
pub mod pretend;
#[cfg(not(kiln_guest))]
use pretend as ground;

bitflags::bitflags! {
    /// What the program may do with a page.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Access: u32 {
        /// `PROT_READ`
        const READ = 1;
        /// `PROT_WRITE`
        const WRITE = 2;
        /// `PROT_EXEC`
        const EXEC = 4;
    }
}

/// What lies behind a mapping of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Zeroes, made when they are touched.
    Zero,
    /// The root image from this offset in bytes on, a multiple of the page size. Written pages become the program's own.
    Image(u64),
    /// Whole pages of the library OS's own memory from this address on: all who map them see the same bytes.
    Shared(u64),
    /// The same pages, but written ones become the program's own.
    Private(u64),
}

/// Which of the console's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error output.
    Error,
}

/// The machine's state.
pub fn kernel() -> Rc<Kernel> {
    ground::kernel()
}

/// Monotonic nanoseconds.
pub fn now() -> u64 {
    ground::now()
}

/// Nanoseconds since 1970-01-01 UTC.
pub fn wall() -> u64 {
    ground::wall()
}

/// The host's monotonic clock, and how far its wall clock is ahead of that. [`now`] and [`wall`] tell what programs see, which follows
/// this in small steps and never goes back.
pub fn host_clocks() -> (u64, u64) {
    ground::host_clocks()
}

/// The processor's time-stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// What it shows.
    pub value: u64,
    /// Its ticks in a second; 0 if it cannot be relied on.
    pub frequency: u64,
}

/// The time-stamp counter now, which programs can read too.
pub fn counter() -> Counter {
    ground::counter()
}

/// A moment for comparisons: what the counter shows in `nanoseconds` (a second at the most), or the monotonic clock if there is no counter.
/// Cheaper than [`now`], for what happens with each call.
pub fn moment(nanoseconds: u64) -> u64 {
    let counter = counter();
    if counter.frequency == 0 {
        return now().saturating_add(nanoseconds);
    }
    counter
        .value
        .saturating_add(nanoseconds * (counter.frequency / 1024) / (1_000_000_000 / 1024))
}

/// Fills `to` with random bytes.
pub fn random(to: &mut [u8]) {
    ground::random(to);
}

/// Makes present what the host does not by itself: pages of files that are mapped, room on a stack. True if another try is worth it.
fn make_present(at: u64, len: usize, access: Access) -> bool {
    let kernel = kernel();
    let work = || kernel.active_memory.make_present(at, len, access);
    match crate::process::sched::running() {
        Some(thread) => thread.at_any_time(work),
        None => work(),
    }
}

/// Copies from the program's memory.
///
/// # Errors
/// `EFAULT` if any byte cannot be read; `to` then holds anything.
pub fn copy_in(from: u64, to: &mut [u8]) -> Result {
    loop {
        let result = ground::copy_in(from, to);
        if result.is_ok() || !make_present(from, to.len(), Access::READ) {
            return result;
        }
    }
}

/// Copies to the program's memory.
///
/// # Errors
/// `EFAULT` if any byte cannot be written; some may have been.
pub fn copy_out(to: u64, from: &[u8]) -> Result {
    loop {
        let result = ground::copy_out(to, from);
        if result.is_ok() || !make_present(to, from.len(), Access::WRITE) {
            return result;
        }
    }
}

/// Compares and exchanges a word of the program's memory, 4-byte aligned, in one step. Returns what was there.
///
/// # Errors
/// `EFAULT`.
pub fn compare_exchange(at: u64, old: u32, new: u32) -> Result<u32> {
    loop {
        let result = ground::compare_exchange(at, old, new);
        if result.is_ok() || !make_present(at, 4, Access::WRITE) {
            return result;
        }
    }
}

/// Maps whole pages at `at`, in place of what may be there.
///
/// # Errors
/// `ENOMEM`.
pub fn map(at: u64, len: u64, access: Access, backing: Backing) -> Result {
    ground::map(at, len, access, backing)
}

/// Takes whole pages away; what is not mapped stays so.
///
/// # Errors
/// `ENOMEM` if the host cannot split a mapping.
pub fn unmap(at: u64, len: u64) -> Result {
    ground::unmap(at, len)
}

/// Changes what may be done with pages that are mapped.
///
/// # Errors
/// `ENOMEM`.
pub fn protect(at: u64, len: u64, access: Access) -> Result {
    ground::protect(at, len, access)
}

/// Forgets what pages with [`Backing::Zero`], [`Backing::Image`] or [`Backing::Private`] hold: they are as when they were mapped.
///
/// # Errors
/// `ENOMEM` if there is a hole.
pub fn discard(at: u64, len: u64) -> Result {
    ground::discard(at, len)
}

/// Moves what pages hold, with their access and backing, to another place, which must be free; the old place is free afterwards.
///
/// # Errors
/// `ENOMEM`.
pub fn relocate(from: u64, len: u64, to: u64) -> Result {
    ground::relocate(from, len, to)
}

/// Makes pages present that will be used at once (`MAP_POPULATE`). Only a hint.
pub fn populate(at: u64, len: u64) {
    ground::populate(at, len);
}

/// Brings pages into reach that are mapped with this access and were refused all the same: of long mappings a machine gives only what
/// is asked for. True if another try is worth it.
pub fn reach(at: u64, len: u64, access: Access) -> bool {
    ground::reach(at, len, access)
}

/// Bytes of memory that the machine has, and that are free.
pub fn memory() -> (u64, u64) {
    ground::memory()
}

/// Bytes that are free: the second half of [`memory`], cheaper to ask for.
pub fn free_memory() -> u64 {
    ground::free_memory()
}

/// Shows to who looks from outside (`kiln stats`, `kiln inspect`) how often a system call was made that is not implemented.
pub fn show_missing(place: usize, name: &str, count: u64) {
    ground::show_missing(place, name, count);
}

/// The root image: its bytes, if there is one.
pub fn root_image() -> Option<&'static [u8]> {
    ground::root_image()
}

/// Writes to the console; returns how much was taken, at least one byte if there are any. Blocks the guest while the user's end takes
/// nothing.
///
/// # Errors
/// `EPIPE` if the user's end is closed.
pub fn console_write(stream: Stream, bytes: &[u8]) -> Result<usize> {
    ground::console_write(stream, bytes)
}

/// Writes all of it to the console, or what somebody takes.
pub fn console_write_all(stream: Stream, bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(taken @ 1..) = console_write(stream, rest) {
        rest = &rest[taken..];
    }
}

/// Reads from the console without waiting: the number of bytes, 0 at its end. `EAGAIN` if there are none now; the console's wait queue
/// (`dev::console`) is woken when that changes.
///
/// # Errors
/// `EAGAIN`.
pub fn console_read(to: &mut [u8]) -> Result<usize> {
    ground::console_read(to)
}

/// The number of a folder of the host by its device's name, if there is one.
pub fn folder(name: &[u8]) -> Option<u32> {
    ground::folder(name)
}

/// Exchanges messages with a folder of the host: a request, room for a reply, or both ([`UserOp::NineP`](kiln_abi::user::UserOp::NineP)).
/// Returns the reply's length.
///
/// # Errors
/// `EAGAIN` if there is no room for the request, or no reply yet; `EIO` if nobody answers any more.
pub fn ask_folder(device: u32, request: &[u8], reply: &mut [u8]) -> Result<usize> {
    ground::ask_folder(device, request, reply)
}

/// Says whether replies are to come from a folder: whoever waits for devices calls
/// [`replies_came`](crate::fs::volume::replies_came) when they do.
pub fn await_folder(device: u32, on: bool) {
    ground::await_folder(device, on);
}

/// Waits for a folder's next reply with all the machine.
pub fn stand_still_for(device: u32) {
    ground::stand_still_for(device);
}

/// Gives the processor to another thread; comes back when the scheduler has chosen this one again.
pub fn switch(thread: &Rc<crate::process::Thread>) {
    ground::switch(thread);
    kernel().vdso.refresh();
}

/// Does what a tick is for, if one has come while the library OS ran.
pub fn breathe(thread: &Rc<crate::process::Thread>) {
    ground::breathe(thread);
}

/// True if it is this thread that runs: no other can be put to sleep.
pub fn is_current(thread: &Rc<crate::process::Thread>) -> bool {
    ground::is_current(thread)
}

/// Makes a thread able to run: its first return to the program is with the registers that it has.
///
/// # Errors
/// `ENOMEM`, `EAGAIN`.
pub fn prepare(thread: &Rc<crate::process::Thread>) -> Result {
    ground::prepare(thread)
}

/// The FPU state of a thread that is in a call, as `XSAVE` writes it: for signal frames and `ptrace`.
pub fn fpu_state(thread: &crate::process::Thread, to: &mut [u8]) -> usize {
    ground::fpu_state(thread, to)
}

/// Replaces it.
///
/// # Errors
/// `EINVAL` if the processor would refuse it.
pub fn set_fpu_state(thread: &crate::process::Thread, from: &[u8]) -> Result {
    ground::set_fpu_state(thread, from)
}

/// Gives the thread the FPU state that programs start with.
pub fn clear_fpu_state(thread: &crate::process::Thread) {
    ground::clear_fpu_state(thread);
}

/// Where a call is made again that would come back to `back`: the `syscall` instruction before it.
pub fn call_site(back: u64) -> u64 {
    back.wrapping_sub(2)
}

/// Sends what the network stack has queued and takes what has arrived, without waiting.
pub fn turn() {
    ground::turn();
    kernel().vdso.refresh();
}

/// Ends the machine with an exit code as a shell shows it; `signal` is the one that ended the program, or 0.
pub fn end(code: u8, signal: u32) -> ! {
    crate::syscalls::trace::summary();
    crate::report::finish();
    ground::end(code, signal)
}
