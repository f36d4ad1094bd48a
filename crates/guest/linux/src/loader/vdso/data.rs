//! The page with the time.
//!
//! The library OS writes it, the functions of [`code`](super::code) read it. They see the sequence number odd or changed when they were interrupted
//! by a change, and read again.

use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

/// Offsets of the fields, for the code that reads them.
pub mod offset {
    /// Odd while the others change.
    pub const SEQUENCE: usize = 0;
    /// 1 if the rest is valid, 0 if the functions have to make system calls.
    pub const VALID: usize = 8;
    /// The time-stamp counter.
    pub const COUNTER: usize = 16;
    /// Nanoseconds in a tick of the counter, times 2^32.
    pub const SCALE: usize = 24;
    /// Monotonic nanoseconds at that value of the counter.
    pub const MONOTONIC: usize = 32;
    /// The wall clock minus the monotonic one.
    pub const WALL: usize = 40;
    /// Monotonic time is never earlier than this.
    pub const FLOOR: usize = 48;
}

/// Fraction bits of the scale.
pub const SHIFT: u32 = 32;

const NANOS: u64 = 1_000_000_000;

/// The page.
#[derive(Debug, Default)]
#[repr(C, align(4096))]
pub struct Data {
    sequence: AtomicU64,
    valid: AtomicU64,
    counter: AtomicU64,
    scale: AtomicU64,
    monotonic: AtomicU64,
    wall: AtomicU64,
    floor: AtomicU64,
}

/// The clocks at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The time-stamp counter.
    pub counter: u64,
    /// Its ticks in a second, not 0.
    pub frequency: u64,
    /// Monotonic nanoseconds.
    pub monotonic: u64,
    /// Nanoseconds since 1970, minus those.
    pub wall_offset: u64,
}

impl Data {
    /// The counter's value at the last update.
    pub fn counter(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// The wall clock minus the monotonic one.
    pub fn wall_offset(&self) -> u64 {
        self.wall.load(Ordering::Relaxed)
    }

    /// The monotonic time that a program reads when the counter has this value.
    pub fn monotonic_at(&self, counter: u64) -> u64 {
        let ticks = counter.saturating_sub(self.counter.load(Ordering::Relaxed));
        let scale = self.scale.load(Ordering::Relaxed);
        let nanos = (u128::from(ticks) * u128::from(scale)) >> SHIFT;
        let time = self
            .monotonic
            .load(Ordering::Relaxed)
            .wrapping_add(nanos as u64);
        time.max(self.floor.load(Ordering::Relaxed))
    }

    /// Makes programs read these clocks from now on. What they may have read before is not taken back: if the counter has been faster than the
    /// clock, time stands still for as long.
    pub fn update(&self, clock: &Clock) {
        let scale = (u128::from(NANOS) << SHIFT) / u128::from(clock.frequency);
        let floor = if self.valid.load(Ordering::Relaxed) == 0 {
            0
        } else {
            self.monotonic_at(clock.counter)
        };
        let sequence = self.sequence.load(Ordering::Relaxed);
        // One processor: what must be kept is the order of the instructions.
        self.sequence.store(sequence | 1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let set = |field: &AtomicU64, value| field.store(value, Ordering::Relaxed);
        set(&self.counter, clock.counter);
        set(&self.scale, scale as u64);
        set(&self.monotonic, clock.monotonic);
        set(&self.wall, clock.wall_offset);
        set(&self.floor, floor);
        set(&self.valid, 1);
        compiler_fence(Ordering::SeqCst);
        let next = (sequence | 1).wrapping_add(1);
        self.sequence.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;

    #[test]
    fn the_code_finds_the_fields() {
        assert_eq!(offset_of!(Data, sequence), offset::SEQUENCE);
        assert_eq!(offset_of!(Data, valid), offset::VALID);
        assert_eq!(offset_of!(Data, counter), offset::COUNTER);
        assert_eq!(offset_of!(Data, scale), offset::SCALE);
        assert_eq!(offset_of!(Data, monotonic), offset::MONOTONIC);
        assert_eq!(offset_of!(Data, wall), offset::WALL);
        assert_eq!(offset_of!(Data, floor), offset::FLOOR);
        assert_eq!(size_of::<Data>(), 4096);
    }

    #[test]
    fn time_is_never_taken_back() {
        let data = Data::default();
        let mut clock = Clock {
            counter: 1000,
            frequency: 2_000_000_000,
            monotonic: 5_000,
            wall_offset: 1_000_000,
        };
        data.update(&clock);
        assert_eq!(data.monotonic_at(3000), 6000);
        // The clock says 900 ns have passed, the counter 1000.
        clock.counter = 3000;
        clock.monotonic = 5_900;
        data.update(&clock);
        assert_eq!(data.monotonic_at(3000), 6000);
        assert_eq!(data.monotonic_at(3100), 6000);
        assert_eq!(data.monotonic_at(3400), 6100);
    }
}
