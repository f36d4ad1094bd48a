//! Timers of connections: a hierarchical timing wheel (Varghese and Lauck, 1987).
//!
//! Arming and firing cost the same for one timer and for a million. A timer that is moved to a later time stays where it
//! is, fires too early, and is put where it belongs then: a connection that sends all the time moves its retransmission
//! timer all the time, and that must cost nothing. So entries are never taken out, and the owner looks at each that
//! fires.
//!
//! Times are rounded up to milliseconds. Five levels of 64 slots reach twelve days; what is later waits in the last.

use alloc::boxed::Box;
use alloc::vec::Vec;

use kiln_abi::Instant;

const TICK_NANOS: u64 = 1_000_000;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 5;

struct Level<T> {
    /// With the tick at which each fires.
    slots: [Vec<(u64, T)>; SLOTS],
    /// Which slots are not empty, by bit.
    occupied: u64,
}

/// A wheel of timers that carry `T`.
pub(crate) struct Wheel<T> {
    /// Those that were never used take no memory.
    levels: [Option<Box<Level<T>>>; LEVELS],
    /// The tick up to which everything has fired.
    now: u64,
}

impl<T: Copy> Wheel<T> {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            levels: [const { None }; LEVELS],
            now: now.as_nanos() / TICK_NANOS,
        }
    }

    /// Makes `value` fire at `at`, or with the next [`expire`](Self::expire) if that has passed.
    pub(crate) fn insert(&mut self, at: Instant, value: T) {
        let tick = at.as_nanos().div_ceil(TICK_NANOS).max(self.now + 1);
        self.place(tick, value);
    }

    fn place(&mut self, tick: u64, value: T) {
        // The highest bit in which it differs from the present decides the level, the bits of that level the slot.
        let reach = 1u64 << (SLOT_BITS * LEVELS as u32);
        let reachable = tick.min(self.now + reach - 1);
        let differing = 63 - (reachable ^ self.now).leading_zeros().min(63);
        let level = ((differing / SLOT_BITS) as usize).min(LEVELS - 1);
        let slot = (reachable >> (level as u32 * SLOT_BITS)) as usize % SLOTS;
        let level = self.levels[level].get_or_insert_with(|| {
            Box::new(Level {
                slots: [const { Vec::new() }; SLOTS],
                occupied: 0,
            })
        });
        level.slots[slot].push((tick, value));
        level.occupied |= 1 << slot;
    }

    /// When the first timer fires, or a little earlier; [`Instant::FOREVER`] if there is none.
    pub(crate) fn next(&self) -> Instant {
        self.next_tick().map_or(Instant::FOREVER, |tick| {
            Instant::from_nanos(tick * TICK_NANOS)
        })
    }

    /// The first tick at which a slot is to be emptied.
    fn next_tick(&self) -> Option<u64> {
        let mut first: Option<u64> = None;
        for (number, level) in (0u32..).zip(&self.levels) {
            let Some(level) = level else { continue };
            if level.occupied == 0 {
                continue;
            }
            let shift = number * SLOT_BITS;
            let position = (self.now >> shift) as u32 % SLOTS as u32;
            // Slots up to the present one belong to the next turn of this level.
            let ahead = level.occupied.rotate_right(position + 1).trailing_zeros() + 1;
            let tick = ((self.now >> shift) + u64::from(ahead)) << shift;
            first = Some(first.map_or(tick, |known| known.min(tick)));
        }
        first
    }

    /// Gives every timer that is due by `now` to `fire`.
    pub(crate) fn expire(&mut self, now: Instant, fired: &mut Vec<T>) {
        let until = now.as_nanos() / TICK_NANOS;
        while let Some(tick) = self.next_tick().filter(|tick| *tick <= until) {
            self.now = tick;
            // From the top: what falls from a level may belong to the present slot of the one below.
            for number in (0..LEVELS).rev() {
                let shift = number as u32 * SLOT_BITS;
                if tick & ((1 << shift) - 1) != 0 {
                    continue;
                }
                let slot = (tick >> shift) as usize % SLOTS;
                let Some(level) = &mut self.levels[number] else {
                    continue;
                };
                if level.occupied & 1 << slot == 0 {
                    continue;
                }
                level.occupied &= !(1 << slot);
                let mut entries = core::mem::take(&mut level.slots[slot]);
                for (due, value) in entries.drain(..) {
                    if due <= tick {
                        fired.push(value);
                    } else {
                        self.place(due, value);
                    }
                }
                // Keep the memory of a slot that is used again and again, but not of one that once held a flood.
                if entries.capacity() <= 64
                    && let Some(level) = &mut self.levels[number]
                    && level.slots[slot].is_empty()
                {
                    level.slots[slot] = entries;
                }
            }
        }
        self.now = self.now.max(until);
    }
}

#[cfg(test)]
impl<T> Wheel<T> {
    /// How many timers are set.
    pub(crate) fn len(&self) -> usize {
        let levels = self.levels.iter().flatten();
        levels.flat_map(|level| &level.slots).map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::from_nanos(milliseconds * TICK_NANOS)
    }

    fn run(wheel: &mut Wheel<u32>, now: Instant) -> Vec<u32> {
        let mut fired = Vec::new();
        wheel.expire(now, &mut fired);
        fired
    }

    #[test]
    fn nothing_fires_early_and_nothing_late() {
        let mut wheel = Wheel::new(at(1000));
        for (number, delay) in [1, 63, 64, 65, 4095, 4096, 300_000, 20_000_000]
            .into_iter()
            .enumerate()
        {
            wheel.insert(at(1000 + delay), number as u32);
        }
        for (number, delay) in [1, 63, 64, 65, 4095, 4096, 300_000, 20_000_000]
            .into_iter()
            .enumerate()
        {
            assert_eq!(run(&mut wheel, at(1000 + delay - 1)), []);
            assert_eq!(run(&mut wheel, at(1000 + delay)), [number as u32]);
        }
        assert_eq!(wheel.next(), Instant::FOREVER);
    }

    #[test]
    fn a_time_beyond_the_reach_is_kept() {
        let mut wheel = Wheel::new(at(7));
        let far = at(7) + Duration::from_hours(24 * 40);
        wheel.insert(far, 1);
        let mut now = at(7);
        while now < far {
            assert_eq!(run(&mut wheel, now), []);
            let next = wheel.next();
            assert!(next > now && next <= far);
            now = next;
        }
        assert_eq!(run(&mut wheel, far), [1]);
    }

    proptest! {
        #[test]
        fn each_fires_at_the_first_look_after_its_time(
            start in 0u64..1 << 40,
            delays in proptest::collection::vec(0u64..1 << 28, 0..60),
            steps in proptest::collection::vec(1u64..1 << 24, 0..60),
        ) {
            let mut wheel = Wheel::new(at(start));
            for (number, delay) in delays.iter().enumerate() {
                wheel.insert(at(start + delay), number as u32);
            }
            let mut waiting: Vec<u32> = (0..delays.len() as u32).collect();
            let mut now = start;
            for step in steps.into_iter().chain([1 << 29]) {
                prop_assert!(waiting.is_empty() == (wheel.next() == Instant::FOREVER));
                let first = waiting.iter().map(|n| start + delays[*n as usize]).min();
                prop_assert!(first.is_none_or(|first| wheel.next() <= at(first.max(now + 1))));
                now += step;
                let mut fired = run(&mut wheel, at(now));
                fired.sort_unstable();
                let due = |n: &u32| start + delays[*n as usize] <= now;
                let expected: Vec<u32> = waiting.iter().copied().filter(due).collect();
                prop_assert_eq!(fired, expected);
                waiting.retain(|n| !due(n));
            }
        }
    }
}
