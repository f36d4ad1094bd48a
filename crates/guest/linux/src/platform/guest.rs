//! The ground of a guest: the Kiln ABI and the processor.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use kiln_abi::call::{CONSOLE, Call, RESIZED};
use kiln_abi::metrics::CallsBlock;
use kiln_abi::op::{OpError, Protection, Segment};
use kiln_abi::user::{UserAccess, UserAdvice, UserBacking, UserOp};
use kiln_abi::{Instant, Op, RawOp};
use kiln_rt::{boot, console, memory, monitor, random as generator, reactor, start, time};

use super::{Access, Backing, Stream};
use crate::arch::patch::Change;
use crate::arch::{self, OneCpu, copy, fpu, switch};
use crate::kernel::Kernel;
use crate::process::{Thread, sched};
use crate::{Errno, Result};

static KERNEL: OneCpu<Option<Rc<Kernel>>> = OneCpu::new(None);

/// What this module keeps.
struct State {
    /// Ticks come.
    ticking: Cell<bool>,
    /// The time between two of them, and when the next one comes, in nanoseconds.
    period: Cell<u64>,
    next_tick: Cell<u64>,
    /// The wall clock minus the monotonic one, and when that was asked last.
    wall_offset: Cell<u64>,
    wall_asked: Cell<u64>,
    /// The monitor knows where calls are counted that are not implemented.
    shows_missing: Cell<bool>,
    /// Nothing comes from the console any more.
    console_ended: Cell<bool>,
    /// Input that arrives is news: what was reported last has been looked for.
    console_armed: Cell<bool>,
    /// Folders that replies are to come from, by bit.
    folders_awaited: Cell<u64>,
    /// What the owner has asked for when nobody could be told.
    events_kept: RefCell<Vec<u32>>,
}

static STATE: OneCpu<State> = OneCpu::new(State {
    ticking: Cell::new(false),
    period: Cell::new(0),
    next_tick: Cell::new(0),
    wall_offset: Cell::new(0),
    wall_asked: Cell::new(0),
    shows_missing: Cell::new(false),
    console_ended: Cell::new(false),
    console_armed: Cell::new(true),
    folders_awaited: Cell::new(0),
    events_kept: RefCell::new(Vec::new()),
});

fn state() -> &'static State {
    // SAFETY: one CPU; the fields are cells.
    unsafe { &*STATE.get() }
}

/// How old the offset of the wall clock may be, in nanoseconds.
const WALL_AGE: u64 = 1_000_000_000;

/// Makes the kernel, and takes over traps and the program's system calls.
///
/// # Panics
/// If the monitor cannot run programs.
pub fn begin() {
    // SAFETY: the processor has what every x86-64 processor has. Vector registers beyond that are the program's.
    unsafe { kiln_mem::set_features(strings()) };
    memory::end_plainly_when_exhausted();
    let info = boot::info();
    // SAFETY: one CPU; nothing else runs yet.
    unsafe {
        let cpu = arch::CPU.get();
        (*cpu).image_start = info.image_start;
        (*cpu).image_size = info.image_size;
        *KERNEL.get() = Some(Rc::new(Kernel::new()));
    }
    let calls = UserOp::SystemCalls {
        entry: arch::entry::trapped_address(),
        // SAFETY: the place of a field.
        deferred: unsafe { &raw const (*arch::CPU.get()).deferred } as u64,
    };
    let mut ops = [
        kiln_rt::trap::registration_at(info, arch::trap::address()).encode(),
        calls.encode(),
    ];
    perform(&mut ops);
    assert!(
        ops.iter().all(|op| op.outcome().is_ok()),
        "this monitor cannot run Linux programs on this backend"
    );
}

/// What copies of the library OS may use: string instructions if they are fast (Intel SDM volume 2, CPUID leaf 7).
fn strings() -> kiln_mem::Features {
    const ERMS: u32 = 1 << 9;
    if core::arch::x86_64::__cpuid_count(7, 0).ebx & ERMS != 0 {
        kiln_mem::Features::BASELINE.with(kiln_mem::Features::FAST_STRINGS)
    } else {
        kiln_mem::Features::BASELINE
    }
}

/// Runs the threads, beginning with this one.
pub fn run(first: &Rc<Thread>) -> ! {
    tick(true);
    switch::begin_with(first)
}

/// Performs operations whose buffers, if they have any, are the caller's.
fn perform(ops: &mut [RawOp]) {
    let mut call = Call {
        ops: ops.as_mut_ptr() as u64,
        count: ops.len() as u32,
        ..Call::default()
    };
    // SAFETY: the operations are borrowed; their buffers are references of the callers, all in this module, or the program's memory, of
    // which the library OS holds none.
    unsafe { monitor::enter(&mut call) };
}

fn user(op: UserOp) -> core::result::Result<u64, OpError> {
    let mut ops = [op.encode()];
    perform(&mut ops);
    ops[0].outcome()
}

fn no_memory(_: OpError) -> Errno {
    Errno::ENOMEM
}

pub(super) fn kernel() -> Rc<Kernel> {
    // SAFETY: one CPU; set once.
    let kernel = unsafe { (*KERNEL.get()).clone() };
    kernel.expect("`begin` was called first")
}

/// The kernel without counting a reference: it is never dropped.
pub(crate) fn kernel_ref() -> &'static Kernel {
    // SAFETY: one CPU; set once.
    let kernel = unsafe { (*KERNEL.get()).as_deref() };
    kernel.expect("`begin` was called first")
}

pub(super) fn now() -> u64 {
    match clocks() {
        Some((monotonic, _)) => monotonic,
        None => time::now().as_nanos(),
    }
}

pub(super) fn wall() -> u64 {
    match clocks() {
        Some((_, wall)) => wall,
        None => {
            let (monotonic, offset) = host_clocks();
            monotonic.saturating_add(offset)
        }
    }
}

/// Both clocks as programs read them without a call.
fn clocks() -> Option<(u64, u64)> {
    // SAFETY: one CPU; set once.
    let kernel = unsafe { (*KERNEL.get()).as_deref() };
    kernel?.vdso.clocks()
}

pub(super) fn host_clocks() -> (u64, u64) {
    let state = state();
    let mut now = time::now().as_nanos();
    let asked = state.wall_asked.get();
    if state.wall_offset.get() == 0 || now.saturating_sub(asked) > WALL_AGE {
        let wall = time::since_epoch().as_nanos() as u64;
        now = time::cached().as_nanos();
        state.wall_offset.set(wall.saturating_sub(now));
        state.wall_asked.set(now);
        // The counter has gone on since.
        now = time::now().as_nanos();
    }
    (now, state.wall_offset.get())
}

pub(super) fn counter() -> super::Counter {
    super::Counter {
        value: time::ticks(),
        frequency: time::frequency(),
    }
}

pub(super) fn random(to: &mut [u8]) {
    generator::fill(to);
}

pub(super) fn copy_in(from: u64, to: &mut [u8]) -> Result {
    copy::copy_in(from, to)
}

pub(super) fn copy_out(to: u64, from: &[u8]) -> Result {
    copy::copy_out(to, from)
}

pub(super) fn compare_exchange(at: u64, old: u32, new: u32) -> Result<u32> {
    copy::compare_exchange(at, old, new)
}

fn range(addr: u64, len: u64) -> Segment {
    Segment { addr, len }
}

fn access(access: Access) -> UserAccess {
    UserAccess::from_bits(access.bits().into()).unwrap_or_default()
}

pub(super) fn map(at: u64, len: u64, allowed: Access, backing: Backing) -> Result {
    arch::patch::forget(at, len, Change::Gone);
    let backing = match backing {
        Backing::Zero => UserBacking::Zero,
        Backing::Image(offset) => UserBacking::Root(offset),
        Backing::Shared(address) => UserBacking::Shared(address),
        Backing::Private(address) => UserBacking::Private(address),
    };
    let map = UserOp::Map {
        range: range(at, len),
        access: access(allowed),
        backing,
        populate: false,
    };
    user(map).map(drop).map_err(no_memory)
}

pub(super) fn unmap(at: u64, len: u64) -> Result {
    arch::patch::forget(at, len, Change::Gone);
    let range = range(at, len);
    user(UserOp::Unmap { range }).map(drop).map_err(no_memory)
}

pub(super) fn protect(at: u64, len: u64, allowed: Access) -> Result {
    if allowed.contains(Access::WRITE) || !allowed.contains(Access::EXEC) {
        arch::patch::forget(at, len, Change::Seen);
    }
    let protect = UserOp::Protect {
        range: range(at, len),
        access: access(allowed),
    };
    user(protect).map(drop).map_err(no_memory)
}

/// Changes what may be done with two ranges of pages, whoever they are of.
pub(crate) fn protect_both(ranges: [(u64, u64); 2], allowed: Access) -> Result {
    let mut ops = ranges.map(|(at, len)| {
        let protect = UserOp::Protect {
            range: range(at, len),
            access: access(allowed),
        };
        protect.encode()
    });
    perform(&mut ops);
    let failed = ops.iter().any(|op| op.outcome().is_err());
    if failed { Err(Errno::ENOMEM) } else { Ok(()) }
}

pub(super) fn discard(at: u64, len: u64) -> Result {
    arch::patch::forget(at, len, Change::Gone);
    let range = range(at, len);
    user(UserOp::Discard { range }).map(drop).map_err(no_memory)
}

pub(super) fn relocate(from: u64, len: u64, to: u64) -> Result {
    arch::patch::forget(from, len, Change::Seen);
    arch::patch::forget(to, len, Change::Gone);
    let range = range(from, len);
    user(UserOp::Move { range, to })
        .map(drop)
        .map_err(no_memory)
}

pub(super) fn populate(at: u64, len: u64) {
    let range = range(at, len);
    let advice = UserAdvice::PopulateWrite;
    // A hint: pages that cannot be written are made present for reading, or when they are touched.
    if user(UserOp::Advise { range, advice }).is_err() {
        let advice = UserAdvice::PopulateRead;
        let _ = user(UserOp::Advise { range, advice });
    }
}

pub(super) fn reach(at: u64, len: u64, allowed: Access) -> bool {
    // Elsewhere all of a mapping is there at once, and a second try would be as bad as the first.
    let in_parts = boot::info().backend == kiln_abi::boot::Backend::Kvm as u32;
    let protect = UserOp::Protect {
        range: range(at, len),
        access: access(allowed),
    };
    in_parts && user(protect).is_ok()
}

/// Takes the access to a page of the library OS's own memory away, or gives it back.
pub(crate) fn guard(at: u64, len: u64, closed: bool) {
    let protection = if closed {
        Protection::None
    } else {
        Protection::ReadWrite
    };
    let protect = Op::MemoryProtect {
        range: range(at, len),
        protection,
    };
    // Without a guard a stack works too.
    perform(&mut [protect.encode()]);
}

pub(super) fn memory() -> (u64, u64) {
    let statistics = memory::statistics();
    (statistics.capacity as u64, statistics.free as u64)
}

pub(super) fn free_memory() -> u64 {
    memory::free() as u64
}

pub(super) fn show_missing(place: usize, name: &str, count: u64) {
    static BLOCK: CallsBlock = CallsBlock::of_calls();
    BLOCK.set_call(place, name, count);
    if !state().shows_missing.replace(true) {
        // Where nobody can read it, it is in the trace.
        let _ = kiln_rt::metrics::register(&BLOCK);
    }
}

pub(super) fn root_image() -> Option<&'static [u8]> {
    let info = boot::info();
    // SAFETY: the monitor's promise: readable for as long as the guest runs.
    (info.root != 0).then(|| unsafe {
        core::slice::from_raw_parts(info.root as *const u8, info.root_size as usize)
    })
}

pub(super) fn console_write(stream: Stream, bytes: &[u8]) -> Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    console::flush();
    let buffer = range(bytes.as_ptr() as u64, bytes.len() as u64);
    let stream = match stream {
        Stream::Out => kiln_abi::op::Stream::Out,
        Stream::Error => kiln_abi::op::Stream::Error,
    };
    let mut op = [Op::ConsoleWrite { stream, buffer }.encode()];
    perform(&mut op);
    match op[0].outcome() {
        Ok(written) if written > 0 => Ok((written as usize).min(bytes.len())),
        _ => Err(Errno::EPIPE),
    }
}

pub(super) fn console_read(to: &mut [u8]) -> Result<usize> {
    if to.is_empty() || state().console_ended.get() {
        return Ok(0);
    }
    state().console_armed.set(true);
    let buffer = range(to.as_mut_ptr() as u64, to.len() as u64);
    match user(UserOp::ConsoleRead { buffer }) {
        Ok(0) => {
            state().console_ended.set(true);
            Ok(0)
        }
        Ok(len) => Ok((len as usize).min(to.len())),
        Err(OpError::Again) => Err(Errno::EAGAIN),
        Err(_) => Ok(0),
    }
}

pub(super) fn folder(name: &[u8]) -> Option<u32> {
    let is_it = |device: &kiln_abi::DeviceInfo| {
        device.kind == kiln_abi::DeviceKind::Files as u32
            && device.name().is_some_and(|known| known.as_bytes() == name)
    };
    let place = boot::devices().iter().position(is_it)?;
    u32::try_from(place).ok()
}

pub(super) fn ask_folder(device: u32, request: &[u8], reply: &mut [u8]) -> Result<usize> {
    let op = UserOp::NineP {
        device,
        request: range(request.as_ptr() as u64, request.len() as u64),
        reply: range(reply.as_mut_ptr() as u64, reply.len() as u64),
    };
    match user(op) {
        Ok(len) => Ok((len as usize).min(reply.len())),
        Err(OpError::Again) => Err(Errno::EAGAIN),
        Err(_) => Err(Errno::EIO),
    }
}

pub(super) fn await_folder(device: u32, on: bool) {
    let awaited = &state().folders_awaited;
    let bit = 1u64 << (device & 63);
    let others = awaited.get() & !bit;
    awaited.set(if on { others | bit } else { others });
}

pub(super) fn stand_still_for(device: u32) {
    let mut call = Call {
        wait_receive: 1u64 << (device & 63),
        deadline: u64::MAX,
        ..Call::default()
    };
    // SAFETY: no operations.
    unsafe { monitor::enter(&mut call) };
    if call.event != 0 {
        // Who waits so may have borrowed what a signal needs.
        let mut kept = state().events_kept.borrow_mut();
        let signal = call.event & 0xff;
        // As with pending signals; of sizes the last one counts.
        match kept.iter_mut().find(|event| **event & 0xff == signal) {
            Some(same) => *same = call.event,
            None => kept.push(call.event),
        }
    }
}

pub(super) fn switch(thread: &Rc<Thread>) {
    switch::to_next(thread);
}

pub(super) fn breathe(thread: &Rc<Thread>) {
    if arch::take_deferred() {
        arch::on_tick(thread);
    }
}

pub(super) fn is_current(thread: &Rc<Thread>) -> bool {
    // SAFETY: one CPU.
    unsafe { core::ptr::eq((*arch::CPU.get()).current, Rc::as_ptr(thread)) }
}

pub(super) fn prepare(thread: &Rc<Thread>) -> Result {
    switch::prepare(thread)
}

pub(super) fn fpu_state(thread: &Thread, to: &mut [u8]) -> usize {
    fpu::state(thread, to)
}

pub(super) fn set_fpu_state(thread: &Thread, from: &[u8]) -> Result {
    fpu::set_state(thread, from)
}

pub(super) fn clear_fpu_state(thread: &Thread) {
    fpu::clear_state(thread);
}

pub(super) fn turn() {
    let began = super::moment(0);
    // SAFETY: no operations.
    unsafe { reactor::turn_until(None, &[], 0) };
    let scheduler = &kernel_ref().scheduler;
    scheduler.frames_took(super::moment(0).saturating_sub(began));
    scheduler.frames_left();
}

/// Lets frames leave that a call has queued.
pub(crate) fn frames_leave() {
    if kernel_ref().scheduler.frames_until() != 0 {
        turn();
    }
}

/// Lets them leave if they have waited for long.
pub(crate) fn frames_leave_if_late() {
    let until = kernel_ref().scheduler.frames_until();
    if until != 0 && super::moment(0) > until {
        turn();
    }
}

/// Fires timers that are due, and looks without waiting whether something has arrived.
pub(crate) fn look_around() {
    kernel_ref().timers.fire(now());
    go(Instant::from_nanos(1), &[]);
    kernel_ref().vdso.refresh();
}

/// A tick that comes so much later than a timer is due is soon enough, in nanoseconds.
const LATE: u64 = 50_000;

/// Starts or stops the ticks.
fn tick(on: bool) {
    state().ticking.set(on);
    set_period(if on { sched::SLICE } else { 0 });
}

fn set_period(period: u64) {
    let state = state();
    state.period.set(period);
    state.next_tick.set(now().saturating_add(period));
    perform(&mut [Op::Tick { period }.encode()]);
}

fn stop_op() -> RawOp {
    Op::Tick { period: 0 }.encode()
}

/// After a tick: the next one comes when the slice is over, or the next timer is due.
pub(crate) fn plan_tick() {
    let state = state();
    if !state.ticking.get() {
        return;
    }
    let now = now();
    let due = kernel_ref().timers.next().unwrap_or(u64::MAX);
    let wanted = due
        .saturating_sub(now)
        .clamp(kiln_abi::op::MIN_TICK, sched::SLICE);
    if wanted.abs_diff(state.period.get()) > LATE {
        set_period(wanted);
    } else {
        state.next_tick.set(now.saturating_add(state.period.get()));
    }
}

/// On the way back to a program: if a timer has been set that is due before the next tick, the tick comes sooner.
pub(crate) fn plan_tick_if_earlier() {
    let timers = &kernel_ref().timers;
    if !timers.take_first_changed() {
        return;
    }
    let due = timers.next().unwrap_or(u64::MAX);
    if due.saturating_add(LATE) < state().next_tick.get() {
        plan_tick();
    }
}

/// The thread that is to run next; waits for devices and timers while there is none.
///
/// Ticks go on for the length of one: who is woken sooner finds them running.
pub(crate) fn wait_for_next() -> Rc<Thread> {
    let kernel = kernel_ref();
    let mut began = 0;
    loop {
        if let Some(process) = kernel.processes.process(1)
            && let Some(status) = process.status.get()
        {
            let signal = status & 0x7f;
            end_with(status, signal);
        }
        kernel.timers.fire(now());
        if let Some(next) = sched::next() {
            if began == 0 {
                // No call has been made that would have taken them along.
                frames_leave();
            }
            if !state().ticking.get() {
                tick(true);
            }
            return next;
        }
        if began == 0 {
            kernel.vfs.volumes.give_back();
            began = now().max(1);
            sched::begin(None);
        }
        let mut until = kernel.timers.next().unwrap_or(u64::MAX);
        let mut stop: &[RawOp] = &[];
        let ticking = state().ticking.get();
        let op = [stop_op()];
        if ticking && now() - began < sched::SLICE {
            until = until.min(began + sched::SLICE);
        } else if ticking {
            state().ticking.set(false);
            stop = &op;
        }
        go(Instant::from_nanos(until), stop);
    }
}

fn end_with(status: u32, signal: u32) -> ! {
    let code = if signal == 0 {
        status >> 8
    } else {
        128 + signal
    };
    end(code as u8, signal)
}

/// One call with all devices, and what follows from it.
fn go(until: Instant, extra: &[RawOp]) {
    let wants_console = !state().console_ended.get() && state().console_armed.get();
    let folders = state().folders_awaited.get();
    let also = folders | if wants_console { CONSOLE } else { 0 };
    // SAFETY: `extra` has no buffers.
    let found = unsafe { reactor::turn_until(Some(until), extra, also) };
    kernel_ref().scheduler.frames_left();
    if found.ready & folders != 0 {
        crate::fs::volume::replies_came();
    }
    if found.ready & CONSOLE != 0 {
        state().console_armed.set(false);
        crate::dev::console_ready();
    }
    let kept = state().events_kept.take();
    for event in kept.into_iter().chain([found.event]) {
        if event != 0 {
            asked(event);
        }
    }
}

/// What the owner wants ([`Call::event`]): his terminal has another size, or the first process gets a signal.
fn asked(event: u32) {
    let (signal, size) = (event & 0xff, event >> 8);
    if signal == RESIZED && size != 0 {
        crate::dev::resize_terminal((size & 0xfff) as u16, (size >> 12) as u16);
    } else {
        crate::signal::from_monitor(signal);
    }
}

pub(super) fn end(code: u8, _signal: u32) -> ! {
    if kernel_ref().trace_calls.get() {
        let [trapped, direct, numbers, followers] = arch::patch::counters();
        console::print(format_args!(
            "{trapped} calls by a trap, {direct} by one of {} stubs ({numbers} for a number, {followers} for a follower)\n",
            numbers + followers
        ));
    }
    // A network that the program never used has nothing to bring to an end.
    if kernel_ref().network.is_used() {
        reactor::finish();
    }
    start::exit(code)
}
