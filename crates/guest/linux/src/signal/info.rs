//! What a signal carries: `siginfo_t`.

use crate::user::Plain;

/// `si_code` of signals that programs send: `kill(2)`.
pub const SI_USER: i32 = 0;
/// From the kernel.
pub const SI_KERNEL: i32 = 0x80;
/// `sigqueue(3)`.
pub const SI_QUEUE: i32 = -1;
/// A timer of `timer_create(2)`.
pub const SI_TIMER: i32 = -2;
/// `tgkill(2)`.
pub const SI_TKILL: i32 = -6;

/// `siginfo_t`: the number, where it comes from, and words whose meaning depends on that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Info {
    /// `si_signo`.
    pub number: i32,
    /// `si_errno`.
    pub errno: i32,
    /// `si_code`.
    pub code: i32,
    padding: i32,
    /// The union behind them.
    pub fields: [u64; 14],
}

// SAFETY: `repr(C)`, 128 bytes of integers, the padding is a field.
unsafe impl Plain for Info {}

impl Info {
    /// A signal with the two words that come first in the union.
    fn new(number: u32, code: i32, first: u64, second: u64) -> Self {
        let mut fields = [0; 14];
        fields[0] = first;
        fields[1] = second;
        Self {
            number: number.cast_signed(),
            errno: 0,
            code,
            padding: 0,
            fields,
        }
    }

    /// From the kernel, with nothing more to say.
    pub fn kernel(number: u32) -> Self {
        Self::new(number, SI_KERNEL, 0, 0)
    }

    /// `kill(2)`, `tgkill(2)` ([`SI_TKILL`]) by a process.
    pub fn user(number: u32, code: i32, pid: u32, uid: u32) -> Self {
        Self::new(number, code, pair(pid, uid), 0)
    }

    /// A fault at an address.
    pub fn fault(number: u32, code: i32, address: u64) -> Self {
        Self::new(number, code, address, 0)
    }

    /// The timer `id` has run down; `value` is the program's.
    pub fn timer(number: u32, id: u32, overrun: u32, value: u64) -> Self {
        Self::new(number, SI_TIMER, pair(id, overrun), value)
    }

    /// A message has come to an empty queue, a read is done: the program's own value, from the kernel's hand.
    pub fn queued(number: u32, code: i32, pid: u32, uid: u32, value: u64) -> Self {
        Self::new(number, code, pair(pid, uid), value)
    }

    /// A descriptor is ready (`F_SETSIG`): `si_band` and `si_fd`.
    pub fn ready(number: u32, code: i32, band: u64, fd: i32) -> Self {
        Self::new(number, code, band, u64::from(fd.cast_unsigned()))
    }

    /// A child has ended, stopped or gone on (`SIGCHLD`).
    pub fn child(code: i32, pid: u32, uid: u32, status: i32) -> Self {
        let status = u64::from(status.cast_unsigned());
        Self::new(super::number::CHLD, code, pair(pid, uid), status)
    }

    /// The number of the signal.
    pub fn signal(&self) -> u32 {
        self.number.cast_unsigned()
    }

    /// `si_pid`, `si_timerid`.
    pub fn pid(&self) -> u32 {
        self.fields[0] as u32
    }

    /// `si_uid`, `si_overrun`.
    pub fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// `si_value`.
    pub fn value(&self) -> u64 {
        self.fields[1]
    }

    /// `si_addr`, `si_band`.
    pub fn address(&self) -> u64 {
        self.fields[0]
    }

    /// The same with another overrun count (timers).
    #[must_use]
    pub fn with_overrun(mut self, overrun: u32) -> Self {
        self.fields[0] = pair(self.pid(), overrun);
        self
    }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}
