//! The console: a virtio console if there is one, else the first serial port (16550).

use crate::cpu;
#[cfg(feature = "virtio")]
use crate::state::Slot;

const PORT: u16 = 0x3f8;
const INTERRUPTS: u16 = PORT + 1;
const FIFO: u16 = PORT + 2;
const LINE: u16 = PORT + 3;
const MODEM: u16 = PORT + 4;
const STATUS: u16 = PORT + 5;

/// Bytes that the transmitter takes at once.
const DEPTH: usize = 16;

/// Nanoseconds between two looks at a port that nobody has announced anything on.
const LOOK_EVERY: u64 = 20_000_000;

/// The console.
#[derive(Debug)]
pub struct Console {
    /// There is a serial port.
    serial: bool,
    /// The virtio console.
    #[cfg(feature = "virtio")]
    pub virtio: Slot<kiln_virtio::Console>,
    /// When to look for something received although no interrupt came.
    next_look: u64,
    /// What the program reads.
    #[cfg(feature = "program")]
    pub input: crate::input::Input,
}

impl Console {
    /// Looks for the serial port and makes it ready.
    pub fn start(&mut self) {
        // A port that is not there reads as all ones.
        self.serial = cpu::in8(STATUS) != 0xff;
        if self.serial {
            cpu::out8(LINE, 3);
            cpu::out8(FIFO, 7);
            cpu::out8(MODEM, 0xb);
            cpu::out8(INTERRUPTS, 1);
        }
    }

    /// Writes everything to the serial port.
    pub fn write(&mut self, text: &[u8]) {
        if self.serial {
            for piece in text.chunks(DEPTH) {
                while cpu::in8(STATUS) & 0x20 == 0 {
                    core::hint::spin_loop();
                }
                cpu::out_bytes(PORT, piece);
            }
        }
    }

    /// What somebody asks for ([`Call::event`](kiln_abi::Call::event)), 0 for nothing. `noted` says that an interrupt has come.
    pub fn event(&mut self, now: u64, noted: bool) -> u32 {
        if !noted && now < self.next_look {
            return 0;
        }
        self.next_look = now + LOOK_EVERY;
        let mut event = 0;
        #[cfg(feature = "program")]
        while self.input.has_room()
            && let Some(byte) = self.read()
        {
            event = self.input.take(byte);
            if event != 0 {
                // There may be another, which needs a call of its own.
                self.next_look = 0;
                break;
            }
        }
        #[cfg(not(feature = "program"))]
        while let Some(byte) = self.read() {
            match byte {
                3 => event = 2,
                4 => event = 15,
                _ => {}
            }
        }
        event
    }

    /// Hands the program what was typed. `None` if there is nothing yet, 0 at the end.
    #[cfg(feature = "program")]
    pub fn read_input(&mut self, to: &mut [u8]) -> Option<usize> {
        // There is room for what was left on the line.
        self.next_look = 0;
        self.input.read(to)
    }

    fn read(&mut self) -> Option<u8> {
        #[cfg(feature = "virtio")]
        if let Some(console) = self.virtio.get() {
            return console.read();
        }
        (self.serial && cpu::in8(STATUS) & 1 != 0).then(|| cpu::in8(PORT))
    }
}
