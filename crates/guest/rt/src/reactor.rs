//! Devices with queues, and the one batch that serves all of them.
//!
//! A [`Driver`] connects one such device (a network link) with the protocol above it. Each turn collects the
//! operations of all drivers into one batch, makes one call, and hands the results back. When no task is ready the
//! same call waits.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use kiln_abi::call::Call;
use kiln_abi::{Instant, RawOp};

use crate::sync::Lock;
use crate::{monitor, shutdown, task, time};

/// How long the peers of an ended program may be silent, and how long they may take in all, before what they have not acknowledged is given up.
const SILENCE: Duration = Duration::from_secs(1);
const LAST_WORDS: Duration = Duration::from_secs(8);

/// Between a device's operations and the protocol above it.
pub trait Driver {
    /// Lets the protocol act, and adds what it wants done to `ops`. The buffers must stay valid and untouched until
    /// [`complete`](Self::complete). Tells until when the guest may wait.
    fn submit(&mut self, now: Instant, ops: &mut Vec<RawOp>) -> Wait;

    /// The program has ended: closes what it left open.
    fn close(&mut self) {}

    /// How much peers have not acknowledged of what the program has closed.
    fn unheard(&self) -> usize;

    /// Takes the results of the operations that [`submit`](Self::submit) added, in the same order.
    fn complete(&mut self, now: Instant, ops: &[RawOp]);
}

/// What a driver waits for.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Devices, by bit, with something to receive.
    pub receive: u64,
    /// Devices, by bit, that can take a frame.
    pub send: u64,
    /// When to come back at the latest.
    pub deadline: Instant,
}

struct Reactor {
    drivers: Vec<(Box<dyn Driver>, core::ops::Range<usize>)>,
    ops: Vec<RawOp>,
}

static REACTOR: Lock<Reactor> = Lock::new(Reactor {
    drivers: Vec::new(),
    ops: Vec::new(),
});

/// Adds a driver; it is part of every turn from now on.
pub fn register(driver: Box<dyn Driver>) {
    REACTOR.with(|reactor| reactor.drivers.push((driver, 0..0)));
}

/// One call to the monitor. If no task is ready it waits until there is something to do.
pub(crate) fn turn() {
    let event = REACTOR.with(|reactor| reactor.turn(None));
    time::fire(time::cached());
    if event != 0 {
        shutdown::requested(event);
    }
}

/// What a [`turn_until`] has found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// What the owner asks for ([`Call::event`]), 0 for nothing.
    pub event: u32,
    /// Of those that were waited for, what has something to receive: devices and [`CONSOLE`](kiln_abi::call::CONSOLE).
    pub ready: u64,
}

/// One call to the monitor, for a program that divides its time by itself instead of by tasks. It performs `extra` first, whose results
/// nobody needs, and waits until `until` at the most; without a time it does not even look which devices are ready. What arrives on the
/// devices of `also` (or on [`CONSOLE`](kiln_abi::call::CONSOLE)) ends the wait too.
///
/// # Safety
/// As for [`Hypervisor::enter`](crate::monitor::Hypervisor::enter), for `extra`.
pub unsafe fn turn_until(until: Option<Instant>, extra: &[RawOp], also: u64) -> Found {
    REACTOR.with(|reactor| {
        let mut call = reactor.prepare(extra, until.unwrap_or(Instant::ZERO));
        call.wait_receive |= also;
        call.deadline = match until {
            Some(_) => call.deadline.max(1),
            None => 0,
        };
        reactor.perform(&mut call);
        Found {
            event: call.event,
            ready: call.ready,
        }
    })
}

/// Lets the drivers close what the program has left open, and waits until peers have acknowledged everything, for at most [`LAST_WORDS`] and while they
/// are not silent for longer than [`SILENCE`].
pub fn finish() {
    REACTOR.with(|reactor| {
        if reactor.drivers.is_empty() {
            return;
        }
        for (driver, _) in &mut reactor.drivers {
            driver.close();
        }
        let limit = time::now() + LAST_WORDS;
        // One turn for what is queued, the others only while somebody has unfinished business.
        // A signal that asks for the end, not one of the many others that programs get.
        let ends = |event| matches!(event, 1 | 2 | 3 | 15);
        let mut asked = reactor.turn(Some(time::cached()));
        let mut left = reactor.unheard();
        let mut until = time::cached() + SILENCE;
        while left > 0 && !ends(asked) && time::cached() < until.min(limit) {
            asked = reactor.turn(Some(until.min(limit)));
            let now_left = reactor.unheard();
            if now_left < left {
                until = time::cached() + SILENCE;
            }
            left = now_left;
        }
    });
}

impl Reactor {
    fn unheard(&self) -> usize {
        self.drivers
            .iter()
            .map(|(driver, _)| driver.unheard())
            .sum()
    }

    /// One call. Waits if no task is ready or, when the program has ended, until `last` at the most.
    fn turn(&mut self, last: Option<Instant>) -> u32 {
        // When the program has ended nobody waits for its timers any more.
        let deadline = last.unwrap_or_else(time::next_deadline);
        let mut call = self.prepare(&[], deadline);
        // Only now: the protocols may have woken somebody. A deadline of 1 has passed long ago: look which devices are
        // ready, do not wait.
        if last.is_none() && !task::all_asleep() {
            call.deadline = 0;
        }
        call.deadline = call.deadline.max(1);
        self.perform(&mut call);
        call.event
    }

    /// The operations of all drivers behind `extra`, and a call that performs them and waits until `deadline`, or earlier if a driver
    /// wants to.
    fn prepare(&mut self, extra: &[RawOp], mut deadline: Instant) -> Call {
        self.ops.clear();
        self.ops.extend_from_slice(extra);
        let now = time::cached();
        let mut call = Call {
            flags: Call::RETRY,
            ..Call::default()
        };
        for (driver, range) in &mut self.drivers {
            let from = self.ops.len();
            let wait = driver.submit(now, &mut self.ops);
            *range = from..self.ops.len();
            call.wait_receive |= wait.receive;
            call.wait_send |= wait.send;
            deadline = deadline.min(wait.deadline);
        }
        call.ops = self.ops.as_mut_ptr() as u64;
        call.count = self.ops.len() as u32;
        call.deadline = deadline.as_nanos();
        call
    }

    /// Performs what was prepared, and hands the results back.
    fn perform(&mut self, call: &mut Call) {
        // SAFETY: the drivers keep their buffers until `complete`.
        unsafe { monitor::enter(call) };
        let now = time::cached();
        for (driver, range) in &mut self.drivers {
            driver.complete(now, &self.ops[range.clone()]);
        }
    }
}
