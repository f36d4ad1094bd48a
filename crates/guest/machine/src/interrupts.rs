//! Interrupt controllers and the timer (SDM volume 3, chapter 11; Intel 82093AA for the I/O controllers).
//!
//! Every interrupt input is programmed as edge-triggered, also where the line is level-triggered: whoever waits takes
//! back the device's request before he looks, so the next one is an edge again, and a line that stays up does no harm.
#![allow(unsafe_code)]

use crate::acpi::Controller;
use crate::clock::Clock;
use crate::cpu::{self, vector};
use crate::reach;

/// The local controller's registers.
pub const LOCAL: u64 = 0xfee0_0000;
/// The first I/O controller's, where nobody tells otherwise.
pub const DEFAULT_CONTROLLER: Controller = Controller {
    address: 0xfec0_0000,
    first: 0,
};

mod register {
    pub const ID: u64 = 0x20;
    pub const SPURIOUS: u64 = 0xf0;
    pub const TIMER: u64 = 0x320;
    pub const LINE0: u64 = 0x350;
    pub const INITIAL: u64 = 0x380;
    pub const CURRENT: u64 = 0x390;
    pub const DIVIDE: u64 = 0x3e0;
}

const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 1 << 18;
const ENABLED: u32 = 1 << 8;
const UNDIVIDED: u32 = 0xb;

fn read(register: u64) -> u32 {
    // SAFETY: the start's identity map and the guest's page tables both map the local controller there.
    unsafe { (reach::at(LOCAL + register) as *const u32).read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as in `read`; the controller writes to no memory.
    unsafe { (reach::at(LOCAL + register) as *mut u32).write_volatile(value) }
}

/// Enables the local controller, lets no interrupt through that comes by the PC's old ones, and silences its interval timer: left as
/// the reset leaves it, it costs a monitor 36 wakes a second for nothing.
pub fn start() {
    const BASE: u32 = 0x1b;
    const ON: u64 = 1 << 11;
    const X2APIC: u64 = 1 << 10;
    cpu::out8(0x21, 0xff);
    cpu::out8(0xa1, 0xff);
    // Channel 0, both bytes, mode 0: it counts from 1 to the end once (Intel 8254, "Control Word Format").
    cpu::out8(0x43, 0x30);
    cpu::out8(0x40, 1);
    cpu::out8(0x40, 0);
    // SAFETY: every processor with long mode has the register; the values are allowed (SDM volume 3, figure 11-27).
    unsafe {
        let base = cpu::read_msr(BASE);
        if base & X2APIC != 0 {
            cpu::write_msr(BASE, base & !(X2APIC | ON));
        }
        if base & (X2APIC | ON) != ON {
            cpu::write_msr(BASE, base & !X2APIC | ON);
        }
    }
    write(register::SPURIOUS, ENABLED | u32::from(vector::SPURIOUS));
    write(register::LINE0, MASKED);
}

/// Lets the local timer count from now on, without interrupts.
pub fn start_counting() {
    write(register::DIVIDE, UNDIVIDED);
    write(register::TIMER, MASKED);
    write(register::INITIAL, u32::MAX);
}

/// How far it has counted.
pub fn counted() -> u64 {
    (!read(register::CURRENT)).into()
}

/// Address and data of the message that interrupts with a vector.
pub fn message(vector: u8) -> (u64, u32) {
    (
        LOCAL | u64::from(read(register::ID) >> 24) << 12,
        vector.into(),
    )
}

/// Routes the interrupt with a global number to a vector.
pub fn route(controllers: &[Controller], number: u32, vector: u8) {
    let mut chosen = DEFAULT_CONTROLLER;
    for controller in controllers {
        if (chosen.first..=number).contains(&controller.first) {
            chosen = *controller;
        }
    }
    let index = 0x10 + 2 * number.wrapping_sub(chosen.first);
    // The firmware's address is as good as its word, and below 4 GiB for being a 32-bit field.
    let set = |index: u32, value: u32| {
        // SAFETY: called at the start only, where everything below 4 GiB is mapped.
        unsafe {
            (chosen.address as *mut u32).write_volatile(index);
            ((chosen.address + 0x10) as *mut u32).write_volatile(value);
        }
    };
    set(index + 1, read(register::ID) & 0xff00_0000);
    set(index, vector.into());
}

/// The local timer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer {
    /// It waits for values of the time-stamp counter.
    deadline: bool,
    /// Its ticks per nanosecond, times 2^32.
    scale: u64,
    /// Nanoseconds between the guest's ticks, 0 for none.
    period: u64,
}

impl Timer {
    /// A timer of `hz` counts a second.
    pub fn start(hz: u64, deadline: bool) -> Self {
        let timer = Self {
            deadline,
            scale: ((hz.min(1 << 35) << 28) / 1_000_000_000) << 4,
            period: 0,
        };
        write(register::DIVIDE, UNDIVIDED);
        timer.mode();
        timer
    }

    fn count(&self, nanoseconds: u64) -> u32 {
        let counts = (u128::from(nanoseconds) * u128::from(self.scale)) >> 32;
        u32::try_from(counts).unwrap_or(u32::MAX).max(1)
    }

    /// For waiting.
    fn mode(&self) {
        let mode = if self.deadline { DEADLINE } else { 0 };
        write(register::TIMER, mode | u32::from(vector::TIMER));
    }

    /// Waits for an interrupt, or until `deadline`. It may return before both.
    pub fn wait(&self, deadline: u64, clock: &Clock) {
        if self.scale == 0 {
            // Not started yet.
            core::hint::spin_loop();
            return;
        }
        if self.period != 0 {
            self.pause();
            self.mode();
        }
        if self.deadline {
            cpu::wait(if deadline == u64::MAX {
                0
            } else {
                clock.tsc_at(deadline)
            });
        } else {
            let count = if deadline == u64::MAX {
                0
            } else {
                self.count(deadline.saturating_sub(clock.now()))
            };
            write(register::INITIAL, count);
            cpu::wait(0);
        }
        if self.period != 0 {
            self.tick();
        }
    }

    /// Holds back interrupts while there are ticks; without, they only ever come while the processor waits.
    pub fn pause(&self) {
        if self.period != 0 {
            cpu::set_interrupts(false);
        }
    }

    /// Undoes [`pause`](Self::pause); so does [`wait`](Self::wait).
    pub fn resume(&self) {
        if self.period != 0 {
            cpu::set_interrupts(true);
        }
    }

    /// Begins ticks of this period, or ends them.
    pub fn set_period(&mut self, period: u64) {
        cpu::set_ticking(false);
        self.period = period;
        if period == 0 {
            write(register::INITIAL, 0);
            self.mode();
        } else {
            self.tick();
        }
    }

    fn tick(&self) {
        if !self.deadline {
            // The count is still that of a wait, perhaps of no time: as a period, it would keep an emulator of this timer busy for good.
            write(register::INITIAL, 0);
        }
        write(register::TIMER, PERIODIC | u32::from(vector::TIMER));
        write(register::INITIAL, self.count(self.period));
        cpu::set_ticking(true);
    }
}
