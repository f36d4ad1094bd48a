//! The time-stamp counter's frequency.
//!
//! Linux programs read clocks all the time, so their guests are told how fast the counter runs, if the host's kernel itself tells the time by it: then
//! it is the same on all processors and never stops. The kernel does not say the frequency; it is measured while a guest is being prepared, which gives four
//! digits, and the guest measures on.

use std::time::Duration;

use super::os;

/// How long to measure at least.
const SPAN: Duration = Duration::from_micros(100);

/// The counter at a point of time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    ticks: u64,
    nanos: u64,
}

impl Sample {
    /// Of several, the one that was taken with the least disturbance.
    fn take() -> Self {
        let tries = (0..5).map(|_| {
            let before = ticks();
            let nanos = os::monotonic();
            let took = ticks().wrapping_sub(before);
            let ticks = before.wrapping_add(took / 2);
            (took, Self { ticks, nanos })
        });
        let best = tries.min_by_key(|(took, _)| *took);
        best.expect("some tries").1
    }

    /// Begins to measure; `None` if the counter cannot be relied on.
    pub fn begin() -> Option<Self> {
        const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        let source = std::fs::read(SOURCE).ok()?;
        (source.trim_ascii() == b"tsc").then(Self::take)
    }

    /// Ticks in a second.
    pub fn frequency(self) -> u64 {
        let until = self.nanos + SPAN.as_nanos() as u64;
        while os::monotonic() < until {
            std::hint::spin_loop();
        }
        let end = Self::take();
        let ticks = u128::from(end.ticks.wrapping_sub(self.ticks));
        let nanos = u128::from(end.nanos.saturating_sub(self.nanos).max(1));
        (ticks * 1_000_000_000 / nanos) as u64
    }
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::Sample;

    #[test]
    fn two_measurements_agree() {
        let Some(first) = Sample::begin() else { return };
        let second = Sample::begin().unwrap();
        let (a, b) = (first.frequency(), second.frequency());
        assert!(a > 100_000_000 && a.abs_diff(b) < a / 20, "{a} and {b}");
    }
}
