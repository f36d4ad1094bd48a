//! The settings of pseudo-terminals as programs get and set them: `struct termios`, and `struct termios2`, which tells speeds in numbers as well.

use super::{Pty, packet};
use crate::Result;
use crate::dev::line::Termios;
use crate::user::UserAddr;
use crate::wait::Events;

pub(super) const TCGETS2: u32 = 0x802c_542a;
pub(super) const TCSETS2: u32 = 0x402c_542b;
pub(super) const TCSETSW2: u32 = 0x402c_542c;
pub(super) const TCSETSF2: u32 = 0x402c_542d;

/// `IUTF8` in `c_iflag`, which only terminals of machines have at first.
pub(super) const IUTF8: u32 = 0x4000;
/// `NOFLSH` in `c_lflag`.
pub(super) const NOFLSH: u32 = 0x80;
/// `IXON` in `c_iflag`.
pub(super) const IXON: u32 = 0x400;
const CSIZE: u32 = 0x30;
const CS8: u32 = 0x30;
const CREAD: u32 = 0x80;
const PARENB: u32 = 0x100;
/// The bits of a speed in `c_cflag`; those of the input lie higher up.
const CBAUD: u32 = 0x100f;
const CBAUDEX: u32 = 0x1000;
const IBSHIFT: u32 = 16;

/// Input and output speed of a fresh terminal.
pub(super) const FRESH_SPEEDS: [u32; 2] = [38400; 2];

/// Speeds by their number in `c_cflag`.
const SPEEDS: [u32; 31] = [
    0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600,
    115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000,
    2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
];

/// What a speed in `c_cflag` means: `BOTHER`, which is `CBAUDEX` alone, that it is `told` besides.
fn speed(bits: u32, told: u32) -> u32 {
    match bits & CBAUD {
        CBAUDEX => told,
        bits => {
            let extra = if bits & CBAUDEX != 0 { 15 } else { 0 };
            let at = (bits & 0xf) + extra;
            SPEEDS.get(at as usize).copied().unwrap_or(0)
        }
    }
}

/// True if output is stopped and started by the usual characters, which packet mode tells of.
fn flows(termios: &Termios) -> bool {
    let bytes = termios[6].to_ne_bytes();
    // VSTART and VSTOP are the eighth and ninth character, behind the line discipline.
    termios[0] & IXON != 0 && bytes[1] == 0x11 && bytes[2] == 0x13
}

impl Pty {
    /// `TCGETS2`
    pub(super) fn get_termios2(&self, at: UserAddr) -> Result {
        let mut words = [0; 11];
        words[..9].copy_from_slice(&self.line.borrow().termios());
        words[9..].copy_from_slice(&self.speeds.get());
        at.write(words)
    }

    /// `TCSETS2` and its kin.
    pub(super) fn set_termios2(&self, at: UserAddr, flush: bool) -> Result {
        let words: [u32; 11] = at.read()?;
        let mut termios = Termios::default();
        termios.copy_from_slice(&words[..9]);
        self.change(termios, [words[9], words[10]], flush);
        Ok(())
    }

    /// `TCSETS` and its kin.
    pub(super) fn set_termios(&self, at: UserAddr, flush: bool) -> Result {
        self.change(at.read()?, self.speeds.get(), flush);
        Ok(())
    }

    fn change(&self, mut termios: Termios, [input, output]: [u32; 2], flush: bool) {
        let output = speed(termios[2], output);
        let input = match termios[2] >> IBSHIFT & CBAUD {
            0 => output,
            bits => speed(bits, input),
        };
        self.speeds.set([input, output]);
        // There is no line: characters always have eight bits and no parity.
        termios[2] = termios[2] & !(CSIZE | PARENB) | CS8 | CREAD;
        let mut line = self.line.borrow_mut();
        if flush {
            line.flush_input();
            self.forget_typed();
        }
        let (was, is) = (flows(&line.termios()), flows(&termios));
        line.set_termios(termios);
        drop(line);
        if was != is && self.packets.get() {
            let other = packet::DO_STOP | packet::NO_STOP;
            self.status.set(self.status.get() & !other);
            self.tell(if is { packet::DO_STOP } else { packet::NO_STOP });
        }
        self.slave_queue.wake(Events::READABLE | Events::WRITABLE);
        // There may be room now.
        self.listen();
    }
}
