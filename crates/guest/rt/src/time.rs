//! Clocks and sleeping.
//!
//! Every call to the monitor tells the time, and where the processor's time-stamp counter can be relied on the guest
//! reads that in between; else [`now`] makes a call of its own (about half a microsecond on the `process` backend).

use alloc::collections::BTreeMap;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use kiln_abi::call::Call;
use kiln_abi::{BootInfo, Instant};

use crate::monitor;
use crate::sync::Lock;

struct Clock {
    last: u64,
    last_tsc: u64,
    tsc_hz: u64,
}

static CLOCK: Lock<Clock> = Lock::new(Clock {
    last: 0,
    last_tsc: 0,
    tsc_hz: 0,
});

fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and no backend forbids it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg_attr(not(kiln_guest), allow(dead_code))]
pub(crate) fn start(info: &BootInfo) {
    CLOCK.with(|clock| clock.tsc_hz = info.tsc_hz);
    note(info.now);
}

/// Takes note of the time that the monitor told.
pub(crate) fn note(now: u64) {
    CLOCK.with(|clock| {
        clock.last = clock.last.max(now);
        if clock.tsc_hz != 0 {
            clock.last_tsc = tsc();
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
        let ticks = u128::from(tsc().saturating_sub(clock.last_tsc));
        let nanos = ticks * 1_000_000_000 / u128::from(clock.tsc_hz);
        Some(Instant::from_nanos(clock.last.saturating_add(nanos as u64)))
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

#[derive(Debug)]
struct Timers {
    waiting: BTreeMap<(Instant, u64), Waker>,
    next_id: u64,
}

static TIMERS: Lock<Timers> = Lock::new(Timers {
    waiting: BTreeMap::new(),
    next_id: 0,
});

/// When the next timer is due; [`Instant::FOREVER`] if there is none.
pub(crate) fn next_deadline() -> Instant {
    TIMERS.with(|timers| {
        let first = timers.waiting.first_key_value();
        first.map_or(Instant::FOREVER, |((at, _), _)| *at)
    })
}

/// Wakes everyone whose time has come.
pub(crate) fn fire(now: Instant) {
    loop {
        let due = TIMERS.with(|timers| {
            let entry = timers.waiting.first_entry()?;
            (entry.key().0 <= now).then(|| entry.remove())
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
    id: Option<u64>,
}

/// Waits for a duration. Wakes late by up to the time other tasks take, never early.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until an instant.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep { at, id: None }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.at <= cached() {
            return Poll::Ready(());
        }
        let at = self.at;
        let id = self.id;
        let id = TIMERS.with(|timers| {
            let id = id.unwrap_or_else(|| {
                timers.next_id += 1;
                timers.next_id
            });
            timers.waiting.insert((at, id), cx.waker().clone());
            id
        });
        self.id = Some(id);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // The waker is dropped outside of the lock: it may free a task that sleeps too.
            let _waker = TIMERS.with(|timers| timers.waiting.remove(&(self.at, id)));
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
