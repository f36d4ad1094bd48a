//! The clocks (`clock_gettime(2)`).

use super::SECOND;
use crate::process::{Thread, usage};
use crate::user::Plain;
use crate::wait::Deadline;
use crate::{Errno, Result, platform};

/// `struct timespec`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Timespec {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanos: i64,
}

// SAFETY: two words.
unsafe impl Plain for Timespec {}

impl Timespec {
    /// From nanoseconds.
    pub fn from_nanos(nanos: u64) -> Self {
        Self {
            seconds: (nanos / SECOND).cast_signed(),
            nanos: (nanos % SECOND).cast_signed(),
        }
    }

    /// In nanoseconds, as many as there can be.
    ///
    /// # Errors
    /// `EINVAL` if it is negative or has more than a second of nanoseconds.
    pub fn to_nanos(self) -> Result<u64> {
        let seconds = u64::try_from(self.seconds).map_err(|_| Errno::EINVAL)?;
        let nanos = u64::try_from(self.nanos).map_err(|_| Errno::EINVAL)?;
        if nanos >= SECOND {
            return Err(Errno::EINVAL);
        }
        Ok(seconds.saturating_mul(SECOND).saturating_add(nanos))
    }

    /// When a time that long from now is: `None` for ever.
    ///
    /// # Errors
    /// As [`to_nanos`](Self::to_nanos).
    pub fn deadline(self) -> Result<Deadline> {
        Ok(platform::now().checked_add(self.to_nanos()?))
    }
}

/// `struct timeval`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Timeval {
    /// Seconds.
    pub seconds: i64,
    /// Microseconds, below 10^6.
    pub micros: i64,
}

// SAFETY: two words.
unsafe impl Plain for Timeval {}

impl Timeval {
    /// From nanoseconds, rounded down.
    pub fn from_nanos(nanos: u64) -> Self {
        Self {
            seconds: (nanos / SECOND).cast_signed(),
            micros: (nanos % SECOND / 1000).cast_signed(),
        }
    }

    /// In nanoseconds, as many as there can be.
    ///
    /// # Errors
    /// `EINVAL` if it is negative or has more than a second of microseconds.
    pub fn to_nanos(self) -> Result<u64> {
        if !(0..1_000_000).contains(&self.micros) {
            return Err(Errno::EINVAL);
        }
        let nanos = self.micros * 1000;
        Timespec {
            seconds: self.seconds,
            nanos,
        }
        .to_nanos()
    }
}

/// A clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Since 1970.
    Wall,
    /// Since some moment before the machine came up.
    Monotonic,
    /// Processor time of the process with this number.
    Process(u32),
    /// Processor time of the thread with this number.
    Thread(u32),
}

/// Numbers of the clocks.
#[allow(missing_docs, reason = "the names are those of clock_gettime(2)")]
pub mod number {
    pub const REALTIME: i32 = 0;
    pub const MONOTONIC: i32 = 1;
    pub const PROCESS_CPUTIME: i32 = 2;
    pub const THREAD_CPUTIME: i32 = 3;
    pub const MONOTONIC_RAW: i32 = 4;
    pub const REALTIME_COARSE: i32 = 5;
    pub const MONOTONIC_COARSE: i32 = 6;
    pub const BOOTTIME: i32 = 7;
    pub const REALTIME_ALARM: i32 = 8;
    pub const BOOTTIME_ALARM: i32 = 9;
    pub const TAI: i32 = 11;
}

impl Clock {
    /// The clock with a number, as `thread` sees it. Negative numbers name the processor time of others
    /// (`pthread_getcpuclockid(3)`).
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub fn by_number(thread: &Thread, clock: i32) -> Result<Self> {
        use number as n;
        Ok(match clock {
            // Nobody sets the clock, and no leap seconds are told: atomic time is the same.
            n::REALTIME | n::REALTIME_COARSE | n::REALTIME_ALARM | n::TAI => Self::Wall,
            // A machine that is suspended does not know of it.
            n::MONOTONIC | n::MONOTONIC_RAW | n::MONOTONIC_COARSE => Self::Monotonic,
            n::BOOTTIME | n::BOOTTIME_ALARM => Self::Monotonic,
            n::PROCESS_CPUTIME => Self::Process(thread.process.pid),
            n::THREAD_CPUTIME => Self::Thread(thread.tid),
            clock if clock < 0 => Self::of_other(thread, clock)?,
            _ => return Err(Errno::EINVAL),
        })
    }

    /// `~pid << 3`, with a bit for threads and two for the kind of time.
    fn of_other(thread: &Thread, clock: i32) -> Result<Self> {
        const THREAD: i32 = 4;
        const KIND: i32 = 3;
        let id = (!(clock >> 3)).cast_unsigned();
        if clock & KIND == KIND {
            return Err(Errno::EINVAL);
        }
        let processes = &crate::kernel().processes;
        if clock & THREAD != 0 {
            let tid = if id == 0 { thread.tid } else { id };
            let found = processes.thread(tid).ok_or(Errno::EINVAL)?;
            return Ok(Self::Thread(found.tid));
        }
        let pid = if id == 0 { thread.process.pid } else { id };
        let found = processes.process(pid).ok_or(Errno::EINVAL)?;
        Ok(Self::Process(found.pid))
    }

    /// What it shows, in nanoseconds; 0 if the thread or process has gone.
    pub fn now(self) -> u64 {
        let processes = &crate::kernel().processes;
        match self {
            Self::Wall => platform::wall(),
            Self::Monotonic => platform::now(),
            Self::Process(pid) => processes.process(pid).map_or(0, |p| usage::of_process(&p)),
            Self::Thread(tid) => processes.thread(tid).map_or(0, |t| usage::of_thread(&t)),
        }
    }

    /// The earliest monotonic time at which it can show `at`; exact for clocks that run all the time.
    pub fn deadline(self, at: u64) -> u64 {
        match self {
            Self::Monotonic => at,
            _ => platform::now().saturating_add(at.saturating_sub(self.now())),
        }
    }

    /// True if it stands still while others run.
    pub fn is_processor_time(self) -> bool {
        matches!(self, Self::Process(_) | Self::Thread(_))
    }
}

/// `clock_getres(2)`, in nanoseconds.
pub fn resolution(clock: i32) -> u64 {
    match clock {
        number::REALTIME_COARSE | number::MONOTONIC_COARSE => 4_000_000,
        _ => 1,
    }
}
