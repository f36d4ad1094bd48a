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

/// How long an ended program's connections may take to close.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Between a device's operations and the protocol above it.
pub trait Driver {
    /// Lets the protocol act, and adds what it wants done to `ops`. The buffers must stay valid and untouched until
    /// [`complete`](Self::complete). Tells until when the guest may wait.
    fn submit(&mut self, now: Instant, ops: &mut Vec<RawOp>) -> Wait;

    /// True while the protocol is still bringing to an end what the program has closed.
    fn is_closing(&self) -> bool;

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

/// Lets the drivers send what is queued and bring to an end what the program has closed, for at most [`LAST_WORDS`].
pub(crate) fn finish() {
    REACTOR.with(|reactor| {
        if reactor.drivers.is_empty() {
            return;
        }
        let until = time::now() + LAST_WORDS;
        // One turn for what is queued, the others only while somebody has unfinished business.
        let mut asked = reactor.turn(Some(time::cached()));
        while asked == 0
            && time::cached() < until
            && reactor
                .drivers
                .iter()
                .any(|(driver, _)| driver.is_closing())
        {
            asked = reactor.turn(Some(until));
        }
    });
}

impl Reactor {
    /// One call. Waits if no task is ready or, when the program has ended, until `last` at the most.
    fn turn(&mut self, last: Option<Instant>) -> u32 {
        self.ops.clear();
        let now = time::cached();
        // When the program has ended nobody waits for its timers any more.
        let mut deadline = last.unwrap_or_else(time::next_deadline);
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
        // Only now: the protocols may have woken somebody. A deadline of 1 has passed long ago: look which devices are
        // ready, do not wait.
        let until = match last {
            Some(_) => deadline,
            None if task::all_asleep() => deadline,
            None => Instant::ZERO,
        };
        call.deadline = until.as_nanos().max(1);
        // SAFETY: the drivers keep their buffers until `complete`.
        unsafe { monitor::enter(&mut call) };
        let now = time::cached();
        for (driver, range) in &mut self.drivers {
            driver.complete(now, &self.ops[range.clone()]);
        }
        call.event
    }
}
