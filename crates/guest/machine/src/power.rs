//! Switching the machine off.
#![allow(unsafe_code)]

use crate::acpi::Sleep;
use crate::cpu;
use crate::reach;

/// The ways there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Power {
    /// Port that takes the exit code, 0 for none.
    pub exit_port: u16,
    /// ACPI's way.
    pub sleep: Sleep,
    /// Port of ACPI's fixed events, 0 for none.
    pub events: u16,
}

/// The power button's bit in ACPI's event registers.
const BUTTON: u16 = 1 << 8;

impl Power {
    /// Whether the power button was pressed since this was asked last.
    pub fn button(&self) -> bool {
        if self.events == 0 || cpu::in16(self.events) & BUTTON == 0 {
            return false;
        }
        cpu::out16(self.events, BUTTON);
        true
    }

    /// Asks for an interrupt when the power button is pressed. `enable` is the port that hands the hardware over to ACPI,
    /// and what to write there; `control` the port that shows that this was done.
    pub fn listen(&self, enable: (u16, u8), control: u16) {
        if enable.0 != 0 && cpu::in16(control) & 1 == 0 {
            cpu::out8(enable.0, enable.1);
        }
        cpu::out16(self.events, BUTTON);
        cpu::out16(self.events + 2, BUTTON);
    }

    /// Switches off.
    pub fn off(&self, code: u32) -> ! {
        if self.exit_port != 0 {
            cpu::out8(self.exit_port, code as u8);
        }
        match self.sleep {
            Sleep::None => {}
            Sleep::Ports { ports, types } => {
                for (port, kind) in ports.into_iter().zip(types).filter(|(port, _)| *port != 0) {
                    cpu::out16(port, 1 << 13 | u16::from(kind & 7) << 10);
                }
                give_it_time();
            }
            Sleep::Register {
                address,
                port,
                kind,
            } => {
                let value = 1 << 5 | (kind & 7) << 2;
                if port {
                    cpu::out8(address as u16, value);
                } else {
                    // SAFETY: the register's page is mapped for devices.
                    unsafe { (reach::at(address) as *mut u8).write_volatile(value) };
                }
                give_it_time();
            }
        }
        cpu::out8(0x64, 0xfe);
        give_it_time();
        cpu::out8(0xcf9, 6);
        give_it_time();
        cpu::triple_fault()
    }
}

/// The host notices a little later than the processor.
fn give_it_time() {
    let start = cpu::tsc();
    while cpu::tsc().wrapping_sub(start) < 100_000_000 {
        core::hint::spin_loop();
    }
}
