//! Clocks and sleeping.
//!
//! Every call to the monitor tells the time, and where the processor's time-stamp counter can be relied on the guest
//! reads that in between; else [`now`] makes a call of its own (about half a microsecond on the `process` backend).

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use kiln_abi::boot::Backend;
use kiln_abi::call::Call;
use kiln_abi::{BootInfo, Instant};

use crate::monitor;
use crate::sync::Lock;

struct Clock {
    last: u64,
    last_tsc: u64,
    tsc_hz: u64,
    /// Nanoseconds of a tick, as a fraction of 2^32.
    scale: u64,
    /// The monitor has only measured the frequency: the guest does it better, the longer it runs.
    measured: bool,
    /// The time and the counter at the first call.
    first: (u64, u64),
    /// How long after the first call the frequency is measured again.
    again: u64,
    /// The latest time that was given out between calls.
    told: u64,
}

/// After how many nanoseconds the counter's frequency is measured for the first time, and again after each doubling.
const FIRST_MEASUREMENT: u64 = 8_000_000;

/// A measurement that differs from the one before by more than this part was disturbed.
const MOST_CHANGE: u64 = 1024;

static CLOCK: Lock<Clock> = Lock::new(Clock {
    last: 0,
    last_tsc: 0,
    tsc_hz: 0,
    scale: 0,
    measured: false,
    first: (0, 0),
    again: FIRST_MEASUREMENT,
    told: 0,
});

/// The time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and no backend forbids it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg_attr(not(kiln_guest), allow(dead_code))]
pub(crate) fn start(info: &BootInfo) {
    note(info.now);
    CLOCK.with(|clock| {
        clock.set_frequency(info.tsc_hz);
        clock.last_tsc = ticks();
        clock.measured = info.backend == Backend::Process as u32;
    });
}

impl Clock {
    fn set_frequency(&mut self, hz: u64) {
        self.tsc_hz = hz;
        let scale = (1_000_000_000_u128 << 32).checked_div(hz.into());
        self.scale = scale.unwrap_or(0) as u64;
    }

    /// Measures the frequency by what has passed since the first call.
    fn measure(&mut self) {
        let (time, ticks) = self.first;
        if ticks == 0 {
            self.first = (self.last, self.last_tsc);
            return;
        }
        let passed = self.last.saturating_sub(time);
        if passed < self.again {
            return;
        }
        self.again = passed.saturating_mul(2);
        let ticks = u128::from(self.last_tsc.saturating_sub(ticks));
        let hz = (ticks * 1_000_000_000 / u128::from(passed)) as u64;
        if hz.abs_diff(self.tsc_hz) <= self.tsc_hz / MOST_CHANGE {
            self.set_frequency(hz);
        }
    }
}

/// Ticks of the time-stamp counter in a second, as far as that is known by now; 0 if it cannot be relied on.
pub fn frequency() -> u64 {
    CLOCK.with(|clock| clock.tsc_hz)
}

/// Takes note of the time that the monitor told.
pub(crate) fn note(now: u64) {
    CLOCK.with(|clock| {
        clock.last = clock.last.max(now);
        if clock.tsc_hz != 0 {
            clock.last_tsc = ticks();
            if clock.measured {
                clock.measure();
            }
        }
    });
}

/// The time of the last call to the monitor: good enough for time-outs, and free.
pub fn cached() -> Instant {
    CLOCK.with(|clock| Instant::from_nanos(clock.last))
}

/// The time now. Never earlier than a time seen before.
pub fn now() -> Instant {
    let interpolated = CLOCK.with(|clock| {
        if clock.tsc_hz == 0 {
            return None;
        }
        let ticks = u128::from(ticks().saturating_sub(clock.last_tsc));
        let nanos = (ticks * u128::from(clock.scale)) >> 32;
        // The monitor's clock may be slower than the counter: what was told once is not taken back.
        clock.told = clock.told.max(clock.last.saturating_add(nanos as u64));
        Some(Instant::from_nanos(clock.told))
    });
    interpolated.unwrap_or_else(|| {
        monitor::perform(&mut []);
        cached()
    })
}

/// The wall clock: time since 1970-01-01 UTC, leap seconds not counted. It follows the host's, steps included.
pub fn since_epoch() -> Duration {
    let mut call = Call {
        flags: Call::WALL,
        ..Call::default()
    };
    // SAFETY: no operations.
    unsafe { monitor::enter(&mut call) };
    Duration::from_nanos(call.wall)
}

/// Timers that somebody waits for. The heap may hold entries of timers that were forgotten meanwhile; they are
/// recognised by their number and thrown away when they surface, or all together when they are the majority.
#[derive(Debug)]
struct Timers {
    order: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    next_id: u64,
}

#[derive(Debug)]
struct Slot {
    /// 0 while the slot is free.
    id: u64,
    waker: Option<Waker>,
}

/// A timer: its number and its slot.
#[derive(Clone, Copy, Debug)]
struct Timer {
    id: u64,
    slot: usize,
}

static TIMERS: Lock<Timers> = Lock::new(Timers {
    order: BinaryHeap::new(),
    slots: Vec::new(),
    free: Vec::new(),
    next_id: 0,
});

impl Timers {
    fn add(&mut self, at: Instant, waker: Waker) -> Timer {
        self.next_id += 1;
        let id = self.next_id;
        let entry = Slot {
            id,
            waker: Some(waker),
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot] = entry;
            slot
        } else {
            self.slots.push(entry);
            self.slots.len() - 1
        };
        if self.order.len() > 2 * self.slots.len() + 64 {
            let slots = &self.slots;
            self.order
                .retain(|Reverse((_, id, slot))| slots[*slot].id == *id);
        }
        self.order.push(Reverse((at, id, slot)));
        Timer { id, slot }
    }

    /// The waker of a timer that is still set, which is then not set any more.
    fn take(&mut self, timer: Timer) -> Option<Waker> {
        let slot = &mut self.slots[timer.slot];
        if slot.id != timer.id {
            return None;
        }
        slot.id = 0;
        self.free.push(timer.slot);
        slot.waker.take()
    }

    fn first(&mut self) -> Option<(Instant, Timer)> {
        loop {
            let &Reverse((at, id, slot)) = self.order.peek()?;
            if self.slots[slot].id == id {
                return Some((at, Timer { id, slot }));
            }
            self.order.pop();
        }
    }
}

/// When the next timer is due; [`Instant::FOREVER`] if there is none.
pub(crate) fn next_deadline() -> Instant {
    TIMERS.with(|timers| timers.first().map_or(Instant::FOREVER, |(at, _)| at))
}

/// Wakes everyone whose time has come.
pub(crate) fn fire(now: Instant) {
    loop {
        let due = TIMERS.with(|timers| {
            let (at, timer) = timers.first()?;
            if at > now {
                return None;
            }
            timers.order.pop();
            timers.take(timer)
        });
        match due {
            Some(waker) => waker.wake(),
            None => return,
        }
    }
}

/// Completes at an instant. Made by [`sleep`] and [`sleep_until`]; dropping it forgets the timer.
#[derive(Debug)]
#[must_use = "a future does nothing unless awaited"]
pub struct Sleep {
    at: Instant,
    timer: Option<Timer>,
}

/// Waits for a duration. Wakes late by up to the time other tasks take, never early.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until an instant.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep { at, timer: None }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.at <= cached() {
            return Poll::Ready(());
        }
        let (at, old) = (self.at, self.timer);
        let (timer, _old) = TIMERS.with(|timers| {
            // The waker may be another one each time. The old one is dropped outside of the lock.
            let old = old.and_then(|timer| timers.take(timer));
            (timers.add(at, cx.waker().clone()), old)
        });
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            // The waker is dropped outside of the lock: it may free a task that sleeps too.
            let _waker = TIMERS.with(|timers| timers.take(timer));
        }
    }
}

/// The time given to [`timeout`] has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl core::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("timed out")
    }
}

impl core::error::Error for Elapsed {}

/// Waits for `future`, but no longer than `duration`; it is dropped then.
///
/// # Errors
/// [`Elapsed`].
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut sleep = core::pin::pin!(sleep(duration));
    let mut future = core::pin::pin!(future);
    core::future::poll_fn(move |cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
