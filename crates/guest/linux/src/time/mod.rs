//! Clocks and timers (`time(7)`).
//!
//! | module | its part |
//! | --- | --- |
//! | [`clock`] | the clocks by their numbers, and the records in which times are told |
//! | [`queue`] | timers that wait, by their time |
//! | [`interval`] | a timer that a program sets: once or again and again, on any clock |
//! | [`posix`] | those of a process: `timer_create(2)`, `setitimer(2)` |

pub mod clock;
pub mod interval;
pub mod posix;
pub mod queue;

#[cfg(test)]
mod tests;

pub use clock::{Clock, Timespec, Timeval};
pub use interval::Interval;
pub use posix::{ProcessTimers, taken};
pub use queue::{Action, Timer, Timers};

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// `CLOCK_TICKS` of `times(2)` and `/proc`: 100 in a second.
pub const TICK: u64 = SECOND / 100;
